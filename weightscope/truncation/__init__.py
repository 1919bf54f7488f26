"""What to cut: ranking -> proposals -> smaller module."""

from weightscope.truncation.bottleneck import Bottleneck, BottleneckFactory, Light
from weightscope.truncation.building import whole
from weightscope.truncation.candidates import Candidate, Limits, Search
from weightscope.truncation.checks import Verification, verify
from weightscope.truncation.likeness import Agreement
from weightscope.truncation.plan import Plan
from weightscope.truncation.proposals import Proposal, propose
from weightscope.truncation.recovery import Recovery
from weightscope.truncation.saving import load, save
from weightscope.truncation.search import shrink
from weightscope.truncation.variant import Measurement, Variant

__all__ = [
    "Agreement",
    "Bottleneck",
    "BottleneckFactory",
    "Candidate",
    "Light",
    "Limits",
    "Measurement",
    "Plan",
    "Proposal",
    "Recovery",
    "Search",
    "Variant",
    "Verification",
    "load",
    "propose",
    "save",
    "shrink",
    "verify",
    "whole",
]
