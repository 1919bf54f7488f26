"""Moments of a tensor from moments of its parts.

Parts are merged by the update formulas of Pebay (2008), "Formulas for robust, one-pass parallel
computation of covariances and arbitrary-order statistical moments", Sandia report SAND2008-6212.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from math import nan, sqrt

import numpy as np
from numpy.typing import NDArray

from weightscope.statistics.records import Floats


@dataclass(frozen=True)
class Moments:
    """Central moments of the finite values seen so far.

    Attributes:
        count: Number of finite values.
        mean: Their mean.
        m2: Sum of (w - mean)^2; ``m3`` and ``m4`` likewise with the third and fourth power.
        absolute: Sum of |w|.
        scale: What the values were multiplied with before they were summed (a power of two), so
            that neither fourth powers nor sums leave the range of float64.
    """

    count: int = 0
    mean: float = 0.0
    m2: float = 0.0
    m3: float = 0.0
    m4: float = 0.0
    absolute: float = 0.0
    scale: float = 1.0


_NOTHING = Moments()


def standardize(
    count: float,
    mean: float,
    m2: float,
    m3: float,
    m4: float,
    absolute: float,
    scale: float,
    minimum: float,
    maximum: float,
) -> tuple[float, float, float, float, float]:
    """Mean, standard deviation, mean absolute value, skewness and excess kurtosis.

    NaN where no value supports them: all without values, the last two for a constant. In terms that
    numba can compile, for small tensors.

    Args:
        count: See ``Moments``, also for ``mean``, ``m2``, ``m3``, ``m4``, ``absolute``, ``scale``.
        mean: See ``Moments``.
        m2: See ``Moments``.
        m3: See ``Moments``.
        m4: See ``Moments``.
        absolute: See ``Moments``.
        scale: See ``Moments``.
        minimum: The smallest value.
        maximum: The largest one.
    """
    if count == 0:
        return nan, nan, nan, nan, nan
    mean_abs = absolute / count / scale
    if minimum == maximum:
        return minimum, 0.0, mean_abs, nan, nan
    variance = m2 / count
    std = sqrt(variance)
    if variance == 0.0:  # too close to each other for float64
        return mean / scale, 0.0, mean_abs, nan, nan
    skewness = m3 / count / (variance * std)
    kurtosis = m4 / count / (variance * variance) - 3.0
    return mean / scale, std / scale, mean_abs, skewness, kurtosis


def merge(parts: Iterable[Moments]) -> Moments:
    """The moments of all parts together, merged in the order given; all have the same scale."""
    return reduce(_add, parts, _NOTHING)


def _add(a: Moments, b: Moments) -> Moments:
    if not a.count:
        return b
    if not b.count:
        return a
    n = a.count + b.count
    delta = b.mean - a.mean
    step = delta / n
    cross = delta * step * a.count * b.count
    m2 = a.m2 + b.m2 + cross
    m3 = (
        a.m3
        + b.m3
        + cross * step * (a.count - b.count)
        + 3.0 * step * (a.count * b.m2 - b.count * a.m2)
    )
    m4 = (
        a.m4
        + b.m4
        + cross * step * step * (a.count * a.count - a.count * b.count + b.count * b.count)
        + 6.0 * step * step * (a.count * a.count * b.m2 + b.count * b.count * a.m2)
        + 4.0 * step * (a.count * b.m3 - b.count * a.m3)
    )
    return Moments(n, a.mean + step * b.count, m2, m3, m4, a.absolute + b.absolute, a.scale)


def moments_of(
    finite: Floats, counts: NDArray[np.int64] | None = None, scale: float | None = None
) -> Moments:
    """Moments of finite values.

    Args:
        finite: The values.
        counts: How many elements each stands for; None for one each.
        scale: What to multiply the values with first; None for what their size asks for.

    Returns:
        The moments. Sums go through einsum, which neither makes temporaries nor starts threads.
    """
    count = finite.size if counts is None else int(counts.sum())
    if not count:
        return Moments()
    if scale is None:
        scale = scale_for(float(max(-finite.min(), finite.max())))
    x = finite * scale if scale != 1.0 else finite
    weights = () if counts is None else (counts.astype(np.float64),)
    mean = _sum(x, *weights) / count
    d = x - mean
    # the second look takes up what rounding left over
    rest = _sum(d, *weights) / count
    d -= rest
    square = d * d
    return Moments(
        count,
        mean + rest,
        _sum(square, *weights),
        _sum(square, d, *weights),
        _sum(square, square, *weights),
        _sum(np.abs(x, out=d), *weights),
        scale,
    )


def moments_in_place(finite: Floats, buffer: Floats) -> Moments:
    """Moments of finite values that need no scale; overwrites them and a buffer of their size."""
    count = finite.size
    absolute = float(np.abs(finite, out=buffer).sum())
    mean = float(finite.sum()) / count
    finite -= mean
    rest = float(finite.sum()) / count
    finite -= rest
    square = np.multiply(finite, finite, out=buffer)
    m2, m3, m4 = float(square.sum()), _sum(square, finite), _sum(square, square)
    return Moments(count, mean + rest, m2, m3, m4, absolute)


def moments_from_powers(
    count: int, s1: float, s2: float, s3: float, s4: float, absolute: float
) -> Moments | None:
    """Moments from sums of powers; None where the values are too far from 0 for their spread."""
    mean = s1 / count
    m2 = s2 - s1 * mean
    if not m2 * 16.0 >= s1 * mean:
        return None
    m3 = s3 - 3.0 * mean * s2 + 2.0 * s1 * mean * mean
    m4 = s4 - 4.0 * mean * s3 + 6.0 * mean * mean * s2 - 3.0 * s1 * mean**3
    return Moments(count, mean, m2, m3, m4, absolute)


def _sum(*factors: Floats) -> float:
    if len(factors) == 1:
        return float(factors[0].sum())
    return float(np.einsum(",".join("i" * len(factors)) + "->", *factors))


def scale_for(peak: float) -> float:
    """Power of two that brings ``peak`` near 1 where its fourth power would leave float64."""
    if peak == 0.0 or 2.0**-200 < peak < 2.0**200:
        return 1.0
    _, exponent = np.frexp(peak)
    return float(np.ldexp(1.0, int(np.clip(-int(exponent), -1022, 1022))))
