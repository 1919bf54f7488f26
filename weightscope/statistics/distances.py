"""How far weights are from their null, and how much movement they can hide."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import copysign, inf, isfinite, nan, pi, sqrt

import numpy as np

from weightscope.movement import Movement
from weightscope.statistics.rules import Null
from weightscope.summaries.tensor_summary import EmpiricalCDF, TensorSummary
from weightscope.thresholds import CRITICAL_KS, EDGE_SURELY, SPILL, SPREAD_SURELY, UNRELATED

COARSEST = 2.0**-7
"""Relative precision of bfloat16, the coarsest format that weights are stored in."""


@dataclass(frozen=True)
class NullComparison:
    """How far one parameter is from its null.

    Attributes:
        std_initial: Standard deviation of the null.
        spread_ratio: std / std_initial; NaN for a constant null.
        ks_initial: Kolmogorov-Smirnov distance to the null, in [0, 1].
        wasserstein_initial: Wasserstein-1 distance to the null, in units of the weights.
        excess_spread: ``sign * sqrt(|std^2 - std_initial^2|)``, in units of the weights.
        near_zero_initial: Near-zero mass of the null by threshold.
        distinguishable: Whether the KS distance is larger than chance allows at this size
            (p < 0.0001), or a weight lies beyond the edge of a bounded rule.
        spilled: Whether the kernel fills a bounded rule and a few weights lie beyond its edge,
            fewer and fewer of them outwards, as movement leaves them and another scale does not.
        excess: Estimated mean squared movement since the start, in squared units of the weights, by
            the sharpest means there is: the given start, weights beyond the edge of a bounded rule,
            or ``std^2 - std_initial^2``, since independent movement adds to the variance.
        error: Its standard error.
        doubt: How far ``excess`` may be off, in the same units, because the rule is inferred or
            assumed: the larger distance to what another plausible rule gives. It is shared by all
            kernels of a network, and not smaller for many.
        movement: The movement since the given initial weights; None where they were not given.
    """

    std_initial: float
    spread_ratio: float
    ks_initial: float
    wasserstein_initial: float
    excess_spread: float
    near_zero_initial: Mapping[float, float]
    distinguishable: bool
    spilled: bool
    excess: float
    error: float
    doubt: float
    movement: Movement | None


def compare(
    summary: TensorSummary,
    null: Null,
    *,
    movement: Movement | None = None,
    beyond: int = 0,
) -> NullComparison:
    """Distance of a parameter's weights from their null.

    Args:
        summary: Statistics of the weights.
        null: Their null.
        movement: Since the given initial weights, if there are any.
        beyond: Number of weights beyond the null's edge; 0 where the null is not matched.
    """
    std, n = summary.std, summary.finite
    ks = ks_distance(summary.cdf, null)
    gap = std**2 - null.std**2
    other = null.sample.count if null.sample is not None else None
    if movement is not None:
        excess, error = movement.moved**2, 0.0
    elif beyond:
        excess, error = movement_beyond(beyond, n * null.edge_density)
    else:
        kurtosis = summary.kurtosis if isfinite(summary.kurtosis) else 0.0
        square = std**2 + summary.mean**2
        excess = square - null.std**2
        error = square * sqrt(max(kurtosis + 2.0, 0.1) / max(n, 1))
        if other:  # the spread of another draw is no better known
            error = sqrt(error**2 + null.std**4 * max(null.kurtosis + 2.0, 0.1) / other)
    low, high = null.plausible
    doubt = 0.0
    if movement is None and null.source in ("inferred", "assumed") and isfinite(high):
        doubt = max(high**2 - null.std**2, null.std**2 - low**2)
    return NullComparison(
        std_initial=null.std,
        spread_ratio=std / null.std if null.std else nan,
        ks_initial=ks,
        wasserstein_initial=wasserstein_distance(summary.cdf, null),
        excess_spread=copysign(sqrt(abs(gap)), gap) if isfinite(gap) else nan,
        near_zero_initial={t: null.near_zero_mass(t) for t in summary.near_zero},
        distinguishable=bool(ks > critical_ks(n, other)) or beyond > 0,
        spilled=thins_out(beyond, summary, null),
        excess=excess,
        error=error,
        doubt=doubt,
        movement=movement,
    )


def thins_out(beyond: int, summary: TensorSummary, null: Null) -> bool:
    """Whether the weights beyond an edge thin out, where a wider rule goes on evenly to its own.

    Of a uniform rule that reaches as far as the largest weight, the share ``1 - edge / largest``
    lies beyond the edge; where weights moved, about a seventh of that does.
    """
    largest = max(-summary.minimum, summary.maximum)
    # weights that were stored as bfloat16 for a while were rounded over the edge
    if not beyond or not largest > null.edge * (1.0 + COARSEST):
        return False
    return beyond < SPILL * summary.finite * (1.0 - null.edge / largest)


def descends(movement: Movement, final: TensorSummary, initial: TensorSummary) -> bool:
    """Whether weights surely began at a start: whether they correlate with it.

    Draws that are independent of each other do not. The correlation ``r`` about the means of ``n``
    weights is tested by Student's ``t = r sqrt((n - 2) / (1 - r^2))``. A constant start is taken
    for the start: every draw of it is the same.

    Args:
        movement: Of these weights since that start.
        final: Their summary.
        initial: The start's.

    Returns:
        False where independent draws correlate as much more than once in a million times: this is
        another draw, another training, or the training left nothing of it.
    """
    from scipy.special import stdtr

    n = movement.count
    if initial.std == 0.0 or (movement.moved == 0.0 and movement.shrinkage == 1.0):
        return True
    if n < 3 or not final.std > 0.0:
        return False
    product = movement.shrinkage * (initial.std**2 + initial.mean**2) - initial.mean * final.mean
    r = product / (initial.std * final.std)
    if abs(r) >= 1.0:
        return r > 0.0
    return bool(stdtr(n - 2, -r * sqrt((n - 2) / (1.0 - r**2))) < UNRELATED)


def movement_beyond(beyond: int, crowd: float) -> tuple[float, float]:
    """Mean squared movement and its standard error, from the weights beyond an edge.

    Args:
        beyond: How many there are, a Poisson number.
        crowd: Number of weights times the rule's density inside an edge, in units of 1 / weights.
    """
    unit = pi / 2.0 / crowd**2
    return unit * beyond**2, unit * ((beyond + sqrt(beyond)) ** 2 - beyond**2)


def as_drawn(summary: TensorSummary, rule: Null, rounding: float = 2.0**-23) -> bool:
    """Whether weights lie as a rule with a formula draws them.

    A bounded rule is sharp: movement carries weights beyond its edges, and decay leaves the edges
    bare. An unbounded rule shows movement only by its mean square, whose standard error is
    ``std^2 sqrt((kurtosis + 2) / n)``.

    Args:
        summary: Statistics of the weights.
        rule: The rule; of a sample or a constant the answer is no.
        rounding: Relative precision of the weights' number format.
    """
    n = summary.finite
    if rule.sample is not None or rule.std == 0.0 or not n or not isfinite(summary.std):
        return False
    error = rule.std**2 * sqrt((rule.kurtosis + 2.0) / n)
    follows = abs(summary.std**2 + summary.mean**2 - rule.std**2) <= SPREAD_SURELY * error
    if isfinite(rule.edge):
        peak = max(-summary.minimum, summary.maximum)
        bare = EDGE_SURELY / (2.0 * n * rule.edge_density) + 2.0 * rounding * rule.edge
        follows &= rule.edge - bare <= peak <= edge_of(rule, rounding)
    return bool(follows) and ks_distance(summary.cdf, rule) <= critical_ks(n)


def edge_of(rule: Null, rounding: float) -> float:
    """The edge of a bounded rule, with room for rounding to the weights' number format."""
    return rule.edge * (1.0 + 2.0 * rounding)


def critical_ks(count: int, other: int | None = None) -> float:
    """KS distance that chance exceeds once in ten thousand, for samples of these sizes.

    Kolmogorov's limit ``2.2253 / sqrt(n)``, with Stephens' (1970) correction for small samples;
    for two samples n is ``n m / (n + m)``.
    """
    if not count:
        return inf
    n = float(count) if other is None else count * other / (count + other)
    root = sqrt(n)
    return CRITICAL_KS / (root + 0.12 + 0.11 / root)


def ks_distance(cdf: EmpiricalCDF, null: Null) -> float:
    """Largest gap between the weights' distribution and the null's, at the weights' points."""
    if cdf.points.size == 0:
        return nan
    if null.sample is not None:
        points = np.union1d(cdf.points, null.sample.points)
        return float(np.abs(cdf(points) - null.sample(points)).max())
    before = after = null.cdf(cdf.points)
    if null.std == 0.0:
        after = (cdf.points >= null.mean).astype(np.float64)
    gaps = np.abs(cdf.below - before), np.abs(cdf.through - after)
    return float(max(gaps[0].max(), gaps[1].max()))


def wasserstein_distance(cdf: EmpiricalCDF, null: Null) -> float:
    """Wasserstein-1 distance, the area between the two distribution functions."""
    if cdf.points.size == 0:
        return nan
    shares = (np.arange(4096) + 0.5) / 4096
    return float(np.abs(cdf.quantile(shares) - null.quantile(shares)).mean())
