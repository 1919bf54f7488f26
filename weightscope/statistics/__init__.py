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
from weightscope.summaries import EmpiricalCDF, Histogram, TensorSummary, summarize

__all__ = [
    "EmpiricalCDF",
    "Histogram",
    "ModelStatistics",
    "Null",
    "NullComparison",
    "ParameterStatistics",
    "SkippedParameter",
    "Spectrum",
    "TensorSummary",
    "compare",
    "measure_model",
    "scan",
    "summarize",
]
