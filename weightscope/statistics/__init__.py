"""What the weights say: tensor -> numbers."""

from weightscope.statistics.checkpoints import scan
from weightscope.statistics.initialization import (
    Null,
    NullComparison,
    compare,
    fit_null,
)
from weightscope.statistics.model import measure_model
from weightscope.statistics.records import (
    EmpiricalCDF,
    Histogram,
    ModelStatistics,
    ParameterStatistics,
    SkippedParameter,
    Spectrum,
    TensorSummary,
)
from weightscope.statistics.summary import summarize

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
    "fit_null",
    "measure_model",
    "scan",
    "summarize",
]
