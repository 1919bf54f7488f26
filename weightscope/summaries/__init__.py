"""What one tensor's numbers look like: tensor -> ``TensorSummary``."""

from weightscope.summaries.summary import summarize
from weightscope.summaries.tensor_summary import EmpiricalCDF, Histogram, TensorSummary

__all__ = ["EmpiricalCDF", "Histogram", "TensorSummary", "summarize"]
