"""What the weights say: tensor -> numbers."""

from weightscope.statistics.checkpoints import scan
from weightscope.statistics.distances import NullComparison, compare
from weightscope.statistics.model import measure_model
from weightscope.statistics.records import (
    ModelStatistics,
    ParameterStatistics,
    SkippedParameter,
    Spectrum,
)
from weightscope.statistics.rules import Null

__all__ = [
    "ModelStatistics",
    "Null",
    "NullComparison",
    "ParameterStatistics",
    "SkippedParameter",
    "Spectrum",
    "compare",
    "measure_model",
    "scan",
]
