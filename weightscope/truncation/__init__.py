"""What to cut: ranking -> proposals -> smaller module."""

from weightscope.truncation.bottleneck import Bottleneck, BottleneckFactory, Light
from weightscope.truncation.checks import Verification, verify
from weightscope.truncation.plan import Plan
from weightscope.truncation.proposals import Proposal, propose
from weightscope.truncation.saving import load, save
from weightscope.truncation.variant import Measurement, Variant

__all__ = [
    "Bottleneck",
    "BottleneckFactory",
    "Light",
    "Measurement",
    "Plan",
    "Proposal",
    "Variant",
    "Verification",
    "load",
    "propose",
    "save",
    "verify",
]
