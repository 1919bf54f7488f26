"""The records of what one tensor's numbers look like."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Histogram:
    """Counts between edges: bin i holds ``edges[i] <= w < edges[i + 1]``, the last one closed.

    Attributes:
        edges: Bin edges in units of the weights, shape (bins + 1,), ascending.
        counts: Finite values in each bin, shape (bins,).
    """

    edges: Floats = field(repr=False)
    counts: Counts = field(repr=False)


@dataclass(frozen=True, eq=False)
class EmpiricalCDF:
    """The distribution of one tensor's finite values at no more than about a thousand points.

    Attributes:
        points: Ascending values, in units of the weights, shape (m,).
        below: Share of values < each point, in [0, 1], shape (m,).
        through: Share of values <= each point, shape (m,); equal to ``below`` where the points are
            borders between values.
        count: Number of values behind the shares.
    """

    points: Floats = field(repr=False)
    below: Floats = field(repr=False)
    through: Floats = field(repr=False)
    count: int

    def __call__(self, values: Floats) -> Floats:
        """Share of the tensor's values below each of ``values``, interpolated between points."""
        if self.points.size == 0:
            return np.full(np.shape(values), np.nan)
        found: Floats = np.interp(values, *self._steps, left=0.0, right=1.0)
        return found

    def quantile(self, shares: Floats) -> Floats:
        """The values below which these shares lie, interpolated between points."""
        points, through = self._steps
        found: Floats = np.interp(shares, through, points)
        return found

    @cached_property
    def _steps(self) -> tuple[Floats, Floats]:
        """Corners of the distribution function: it rises at the points and between them."""
        points = np.repeat(self.points, 2)
        return points, np.stack([self.below, self.through], axis=1).ravel()


@dataclass(frozen=True, eq=False)
class TensorSummary:
    """What one tensor's numbers look like; shares and moments are over its finite values.

    Statistics that no value supports (an empty tensor, or one without a finite value) are NaN;
    skewness and kurtosis are NaN for a constant too.

    Attributes:
        count: Number of elements.
        finite: Number of finite elements.
        nan: Number of NaN.
        inf: Number of infinities of either sign.
        zero: Number of exact zeros.
        minimum: Smallest finite value.
        maximum: Largest finite value.
        mean: Arithmetic mean.
        std: Population standard deviation (ddof 0).
        mean_abs: Mean of the absolute values.
        skewness: Third standardized moment, population form.
        kurtosis: Excess kurtosis, population form; a normal distribution has 0.
        quantiles: Value of each probability, by linear interpolation (numpy's default).
        near_zero: Share of ``|w| <= threshold`` for each threshold, in [0, 1].
        histogram: Counts over symmetric bins, or over the edges asked for.
        filter_norms: L2 norm of each output filter, shape (filters,); None without a filter axis.
        filter_means: Mean of each output filter, shape (filters,); None without a filter axis.
        dead_filters: Share of output filters whose norm is exactly 0; NaN without a filter axis.
        cdf: The distribution at about a thousand points, for distances to a null.
    """

    count: int
    finite: int
    nan: int
    inf: int
    zero: int
    minimum: float
    maximum: float
    mean: float
    std: float
    mean_abs: float
    skewness: float
    kurtosis: float
    quantiles: Mapping[float, float]
    near_zero: Mapping[float, float]
    histogram: Histogram = field(repr=False)
    filter_norms: Floats | None = field(repr=False)
    filter_means: Floats | None = field(repr=False)
    dead_filters: float
    cdf: EmpiricalCDF = field(repr=False)
