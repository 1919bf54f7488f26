"""Questions about order: how many values lie below x, which value has rank r."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from weightscope.statistics.records import Counts, EmpiricalCDF, Floats

PROBABILITIES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
CDF_POINTS = 1024


class SortedValues:
    """Finite values in ascending order: every question has an exact answer."""

    def __init__(self, finite: NDArray[np.floating]) -> None:
        self.values: Floats = np.sort(finite).astype(np.float64)

    def below(self, edges: Floats) -> Counts:
        """Number of values < each edge."""
        return np.searchsorted(self.values, edges, side="left")

    def through(self, edges: Floats) -> Counts:
        """Number of values <= each edge."""
        return np.searchsorted(self.values, edges, side="right")

    def at(self, ranks: NDArray[np.int64]) -> Floats:
        """The values that have these ranks, counted from 0."""
        return self.values[ranks]

    def cdf(self) -> EmpiricalCDF:
        """The distribution at up to CDF_POINTS of its values."""
        n = self.values.size
        if not n:
            empty = np.empty(0)
            return EmpiricalCDF(empty, empty, empty, 0)
        ranks = np.unique(np.linspace(0, n - 1, min(n, CDF_POINTS)).round().astype(np.int64))
        points = np.unique(self.values[ranks])
        return EmpiricalCDF(points, self.below(points) / n, self.through(points) / n, n)


def quantile_ranks(n: int, probabilities: Sequence[float]) -> tuple[Counts, Counts, Floats]:
    """The two neighbours of each quantile by rank, and how far between them it lies."""
    virtual = (n - 1) * np.asarray(probabilities, dtype=np.float64)
    low = np.floor(virtual).astype(np.int64)
    return low, np.minimum(low + 1, n - 1), virtual - low


def between(low: Floats, high: Floats, share: Floats) -> Floats:
    """Linear interpolation as numpy's quantile rounds it."""
    step = high - low
    return np.where(share >= 0.5, high - step * (1.0 - share), low + step * share)
