"""What to cut: ranking -> proposals -> smaller module."""

from weightscope.truncation.bottlenecks import Bottleneck, BottleneckFactory, Light
from weightscope.truncation.proposals import Proposal, propose
from weightscope.truncation.recipes import load, save
from weightscope.truncation.variants import Measurement, Variant
from weightscope.truncation.verification import Verification, verify

__all__ = [
    "Bottleneck",
    "BottleneckFactory",
    "Light",
    "Measurement",
    "Proposal",
    "Variant",
    "Verification",
    "load",
    "propose",
    "save",
    "verify",
]
