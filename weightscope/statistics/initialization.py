"""The null: the distribution a layer had before training, and the distance from it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import copysign, exp, inf, isclose, isfinite, log, nan, pi, prod, sqrt
from typing import Literal

import numpy as np

from weightscope.statistics.movement import Movement
from weightscope.statistics.records import EmpiricalCDF, Floats, TensorSummary

Family = Literal["normal", "uniform", "truncated normal", "constant", "empirical"]
Source = Literal["given", "matched", "inferred", "assumed"]

# P(sqrt(n) KS > 2.2253) = 0.0001 under the null (Kolmogorov's limit distribution); a network has a
# hundred kernels, and none of them shall be called changed by chance
CRITICAL_KS = 2.2253
# standard deviation of a standard normal cut at 2 standard deviations
_CUT = 2.0
_CUT_STD = 0.8796256610342398
_BEYOND_CUT = 0.022750131948179195
_KURTOSIS = {"normal": 0.0, "uniform": -1.2, "truncated normal": -0.6344632}

EDGE_SURELY = log(10_000.0)
"""Expected weights near an edge that are never all missing (one time in ten thousand)."""

SPREAD_SURELY = 4.0
"""Standard errors that the variance of weights is never away from that of their rule."""

TELLING = {"uniform": 2_000, "truncated normal": 12_000}
"""Weights from which on the KS distance tells a normal sample from a bounded one of its spread."""

FILLING = 500
"""Weights from which on a sample that fills the edges of a rule exactly was drawn by it."""


@dataclass(frozen=True, eq=False)
class Null:
    """The distribution of one parameter before training.

    Attributes:
        family: Shape of the distribution.
        label: The rule in words, ``"PyTorch default (uniform)"``.
        std: Its standard deviation, in units of the weights.
        source: ``given``: taken from ``initial=``, exact. ``matched``: these very weights still
            follow it. ``inferred``: other kernels of the model still follow this rule, or
            it explains the spreads of all kernels together best.
            ``assumed``: nothing tells; the rule of the layer's own type.
        fit: Kolmogorov-Smirnov distance between the weights at unit spread and the family at unit
            spread, in [0, 1]: whether the shape has survived; NaN where it says nothing.
        mean: Its mean.
        sample: The distribution of the given initial weights, for the empirical family.
        masses: Near-zero mass of the given initial weights by threshold, exact.
    """

    family: Family
    label: str
    std: float
    source: Source = "assumed"
    fit: float = nan
    mean: float = 0.0
    sample: EmpiricalCDF | None = None
    masses: Mapping[float, float] | None = None

    def cdf(self, values: Floats | float) -> Floats:
        """Share of the null below each of ``values``, in [0, 1]."""
        x = np.asarray(values, dtype=np.float64)
        if self.sample is not None:
            return self.sample(x)
        if self.std == 0.0:
            return (x > self.mean).astype(np.float64)
        z = (x - self.mean) / self.std
        if self.family == "uniform":
            return np.clip(0.5 + z / sqrt(12.0), 0.0, 1.0)
        from scipy.special import ndtr

        if self.family == "normal":
            return np.asarray(ndtr(z))
        within = 1.0 - 2.0 * _BEYOND_CUT
        return np.clip((ndtr(z * _CUT_STD) - _BEYOND_CUT) / within, 0.0, 1.0)

    def quantile(self, probabilities: Floats | float) -> Floats:
        """The values below which these shares of the null lie."""
        p = np.asarray(probabilities, dtype=np.float64)
        if self.sample is not None:
            return self.sample.quantile(p)
        if self.std == 0.0:
            return np.full(p.shape, self.mean)
        if self.family == "uniform":
            return self.mean + self.std * sqrt(12.0) * (p - 0.5)
        from scipy.special import ndtri

        if self.family == "normal":
            return np.asarray(self.mean + self.std * ndtri(p))
        z = ndtri(_BEYOND_CUT + p * (1.0 - 2.0 * _BEYOND_CUT)) / _CUT_STD
        return np.asarray(self.mean + self.std * z)

    @property
    def kurtosis(self) -> float:
        """Excess kurtosis; nan for a constant. Of given weights, to about a percent."""
        if self.std == 0.0:
            return nan
        if self.family in _KURTOSIS:
            return _KURTOSIS[self.family]
        z = (self.quantile((np.arange(4096) + 0.5) / 4096) - self.mean) / self.std
        return float((z**4).mean() / (z**2).mean() ** 2) - 3.0

    @property
    def edge(self) -> float:
        """Largest ``|w|`` that can be drawn, in units of the weights; inf where there is none."""
        if self.family == "uniform":
            return sqrt(3.0) * self.std
        return _CUT / _CUT_STD * self.std if self.family == "truncated normal" else inf

    @property
    def edge_density(self) -> float:
        """Density right inside each edge, in units of 1 / weights; 0 where there is none."""
        if self.family == "uniform":
            return 0.5 / self.edge
        if self.family == "truncated normal":
            within = 1.0 - 2.0 * _BEYOND_CUT
            return exp(-(_CUT**2) / 2.0) / sqrt(2.0 * pi) / within * _CUT / self.edge
        return 0.0

    def near_zero_mass(self, threshold: float) -> float:
        """Share of the null with ``|w| <= threshold``, in [0, 1]."""
        if self.masses is not None and threshold in self.masses:
            return self.masses[threshold]
        if self.std == 0.0:
            return float(abs(self.mean) <= threshold)
        return float(self.cdf(threshold) - self.cdf(-threshold))

    def bin_counts(self, edges: Floats, n: int) -> Floats:
        """Expected counts of ``n`` draws between ``edges``, shape (edges - 1,)."""
        return n * np.diff(self.cdf(edges))


@dataclass(frozen=True)
class Draw:
    """Weights that lie as their rule draws them, as far as they can tell.

    Attributes:
        crowd: Number of weights times the rule's density inside an edge, in units of 1 / weights; 0
            for an unbounded rule.
        edge: The rule's edge; inf for an unbounded rule.
        excess: Mean square less that of the rule.
        error: Standard error of a mean square of so many weights of the rule.
    """

    crowd: float
    edge: float
    excess: float
    error: float


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
        excess: Estimated mean squared movement since the start, in squared units of the weights, by
            the sharpest means there is: the given start, weights beyond the edge of a bounded rule,
            or ``std^2 - std_initial^2``, since independent movement adds to the variance.
        error: Its standard error.
        draw: How closely the weights lie as their rule draws them; None where they do not.
        movement: The movement since the given initial weights; None where they were not given.
        fresh_start: Whether those were fresh from a rule, and not trained already.
    """

    std_initial: float
    spread_ratio: float
    ks_initial: float
    wasserstein_initial: float
    excess_spread: float
    near_zero_initial: Mapping[float, float]
    distinguishable: bool
    excess: float
    error: float
    draw: Draw | None
    movement: Movement | None
    fresh_start: bool


@dataclass(frozen=True)
class KernelShape:
    """What an initializer knows of a kernel.

    ``torch.nn.init`` reads fans off the first two axes; for transposed and grouped convolutions
    that is not what one output reads, but it is what the initial spread follows.

    Attributes:
        fan_in: ``shape[1]`` times the kernel's positions.
        fan_out: ``shape[0]`` times the kernel's positions.
        longest: The longer side of the matrix ``shape[0] x rest``, which sets the spread of an
            orthogonal matrix.
        groups: Groups of the convolution; 1 elsewhere.
    """

    fan_in: int
    fan_out: int
    longest: int
    groups: int = 1

    @classmethod
    def of(cls, shape: tuple[int, ...], groups: int = 1) -> KernelShape:
        """Read a weight's shape as ``torch.nn.init`` does."""
        rest = prod(shape[2:])
        return cls(shape[1] * rest, shape[0] * rest, max(shape[0], shape[1] * rest), groups)

    @cached_property
    def rules(self) -> Mapping[str, Null]:
        """Every rule in common use at this shape, by label; the first is PyTorch's default."""
        fin, fout = max(self.fan_in, 1), max(self.fan_out, 1)
        rules = [
            _rule("uniform", "PyTorch default (uniform)", sqrt(1 / (3 * fin))),
            _rule("uniform", "Glorot uniform", sqrt(2 / (fin + fout))),
            _rule("normal", "Glorot normal", sqrt(2 / (fin + fout))),
            _rule("normal", "He normal (fan in)", sqrt(2 / fin)),
            _rule("normal", "He normal (fan out)", sqrt(2 / fout)),
            _rule("uniform", "He uniform (fan in)", sqrt(2 / fin)),
            _rule("uniform", "He uniform (fan out)", sqrt(2 / fout)),
            _rule("truncated normal", "He normal, cut at 2 std (fan in)", sqrt(2 / fin)),
            _rule("truncated normal", "Glorot normal, cut at 2 std", sqrt(2 / (fin + fout))),
            _rule("normal", "LeCun normal", sqrt(1 / fin)),
            _rule("truncated normal", "LeCun normal, cut at 2 std", sqrt(1 / fin)),
            _rule("normal", "orthogonal", sqrt(1 / max(self.longest, 1))),
            _rule("normal", "normal, std 0.02", 0.02),
            _rule("normal", "normal, std 0.01", 0.01),
            _rule("truncated normal", "normal, std 0.02, cut at 2 std", 0.02 * _CUT_STD),
        ]
        if self.groups > 1:
            spread = sqrt(2 * self.groups / fout)
            rules.append(_rule("normal", "He normal (fan out of a group)", spread))
        return {rule.label: rule for rule in rules}


def _rule(family: Family, label: str, std: float) -> Null:
    return Null(family, label, std)


def constant_null(value: float, label: str) -> Null:
    """A parameter that starts at one value everywhere."""
    return Null("constant", label, 0.0, mean=value)


def given_null(initial: TensorSummary) -> Null:
    """The null of a parameter whose initial values are known."""
    if initial.std == 0.0:
        return Null(
            "constant", "given initial weights", 0.0, "given", mean=initial.mean,
            masses=initial.near_zero,
        )  # fmt: skip
    return Null(
        "empirical", "given initial weights", initial.std, "given",
        mean=initial.mean, sample=initial.cdf, masses=initial.near_zero,
    )  # fmt: skip


def fit_null(
    summary: TensorSummary, candidates: Iterable[Null], *, preferred: str | None = None
) -> Null:
    """Choose the null of one parameter by the evidence of its own weights.

    A candidate that the weights still follow (see ``followed_rules``) is taken, the rule that other
    kernels follow before the nearest one; where none is followed, the rule of the other kernels;
    else the first candidate, the rule of the layer's type. A trained tensor alone cannot tell how
    it began, and ``Null.source`` says which of these it was.

    Args:
        summary: Statistics of the weights.
        candidates: Nulls at the layer's shape, the default first.
        preferred: Label of the rule that other kernels of the model follow.

    Returns:
        The null, with its source and the fit of its shape.
    """
    named = {null.label: null for null in candidates}
    return choose_null(summary, named, followed_rules(summary, named.values()), preferred)


def choose_null(
    summary: TensorSummary,
    named: Mapping[str, Null],
    followed: Sequence[str],
    preferred: str | None,
) -> Null:
    """``fit_null`` for candidates by label of which it is known which are followed."""
    source: Source = "matched"
    if preferred is not None and preferred in followed:
        chosen = named[preferred]
    elif followed:
        chosen = named[followed[0]]
    elif preferred is not None and preferred in named:
        chosen, source = named[preferred], "inferred"
    else:
        chosen, source = next(iter(named.values())), "assumed"
    return replace(chosen, source=source, fit=shape_distance(summary, chosen))


def followed_rules(summary: TensorSummary, candidates: Iterable[Null]) -> tuple[str, ...]:
    """Labels of the candidates that the weights still follow, the nearest first.

    The spread must agree within ``20 / sqrt(n)`` relative (28 standard errors of a normal sample)
    before the KS distance is looked at.
    """
    limit = critical_ks(summary.finite)
    near = 20.0 / sqrt(max(summary.finite, 1))
    distances = {
        null.label: ks_distance(summary.cdf, null)
        for null in candidates
        if abs(summary.std - null.std) <= near * null.std or null.std == 0.0
    }
    followed = [label for label, distance in distances.items() if distance <= limit]
    return tuple(sorted(followed, key=distances.__getitem__))


def compare(
    summary: TensorSummary,
    null: Null,
    *,
    rule: Null | None = None,
    movement: Movement | None = None,
    beyond: int = 0,
    rounding: float = 2.0**-23,
) -> NullComparison:
    """Distance of a parameter's weights from their null.

    Args:
        summary: Statistics of the weights.
        null: The null.
        rule: The rule that given initial weights follow; None for the null itself.
        movement: Since the given initial weights, if there are any.
        beyond: Number of weights beyond the null's edge; 0 where the null is not matched.
        rounding: Relative precision of the weights' number format.
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
    return NullComparison(
        std_initial=null.std,
        spread_ratio=std / null.std if null.std else nan,
        ks_initial=ks,
        wasserstein_initial=wasserstein_distance(summary.cdf, null),
        excess_spread=copysign(sqrt(abs(gap)), gap) if isfinite(gap) else nan,
        near_zero_initial={t: null.near_zero_mass(t) for t in summary.near_zero},
        distinguishable=bool(ks > critical_ks(n, other)) or beyond > 0,
        excess=excess,
        error=error,
        draw=as_drawn(summary, rule or null, rounding),
        movement=movement,
        fresh_start=movement is not None and rule is not None,
    )


def hidden_beyond(crowd: float) -> float:
    """Largest mean squared movement that leaves no weight beyond an edge in 5 of 100 cases.

    Of ``n`` weights of a bounded rule that move by independent ``d``, ``n f E|d|`` end beyond an
    edge, with ``f`` the density inside it; none does with probability ``exp(-n f E|d|)``. The mean
    square of normal movement is ``pi / 2 (E|d|)^2``.

    Args:
        crowd: ``n f``, in units of 1 / weights; of several kernels that move alike, their sum.
    """
    return pi / 2.0 * (3.0 / crowd) ** 2


def hidden_within(excess: float, error: float) -> float:
    """Largest mean squared movement that a mean square can hide: two standard errors.

    Args:
        excess: Mean square of the weights less that of their rule.
        error: Its standard error.
    """
    return max(excess, 0.0) + 2.0 * error


def movement_beyond(beyond: int, crowd: float) -> tuple[float, float]:
    """Mean squared movement and its standard error, from the weights beyond an edge.

    Args:
        beyond: How many there are, a Poisson number.
        crowd: See `hidden_beyond`.
    """
    unit = pi / 2.0 / crowd**2
    return unit * beyond**2, unit * ((beyond + sqrt(beyond)) ** 2 - beyond**2)


def as_drawn(summary: TensorSummary, rule: Null, rounding: float = 2.0**-23) -> Draw | None:
    """Tell whether weights lie as a rule draws them.

    A bounded rule is sharp: movement carries weights beyond its edges, and decay leaves the edges
    bare. An unbounded rule shows movement only by its mean square, whose standard error is
    ``std^2 sqrt((kurtosis + 2) / n)``. How much movement they can hide, see `hidden_beyond` and
    `hidden_within`.

    Args:
        summary: Statistics of the weights.
        rule: A rule with a formula.
        rounding: Relative precision of the weights' number format.

    Returns:
        None where the weights do not follow the rule, or where it has no formula (a sample, a
        constant).
    """
    n = summary.finite
    if rule.sample is not None or rule.std == 0.0 or not n or not isfinite(summary.std):
        return None
    crowd = n * rule.edge_density
    error = rule.std**2 * sqrt((rule.kurtosis + 2.0) / n)
    draw = Draw(crowd, rule.edge, summary.std**2 + summary.mean**2 - rule.std**2, error)
    follows = abs(draw.excess) <= SPREAD_SURELY * error
    if crowd:
        peak = max(-summary.minimum, summary.maximum)
        bare = EDGE_SURELY / (2.0 * crowd) + 2.0 * rounding * rule.edge
        follows &= rule.edge - bare <= peak <= edge_of(rule, rounding)
    return draw if follows and ks_distance(summary.cdf, rule) <= critical_ks(n) else None


def edge_of(rule: Null, rounding: float) -> float:
    """The edge of a bounded rule, with room for rounding to the weights' number format."""
    return rule.edge * (1.0 + 2.0 * rounding)


def sharpest_rule(
    summary: TensorSummary,
    named: Mapping[str, Null],
    followed: Sequence[str],
    preferred: str | None,
    rounding: float,
) -> str | None:
    """The preferred rule, unless the weights fill the edges of another one exactly.

    That decides where there are enough weights to tell (`FILLING`), and between rules of one
    spread.

    Args:
        summary: Statistics of the weights.
        named: Candidates by label.
        followed: Labels of those that the weights follow.
        preferred: Label of the rule that other kernels speak for.
        rounding: Relative precision of the weights' number format.
    """
    filled = [
        label
        for label in followed
        if isfinite(named[label].edge) and as_drawn(summary, named[label], rounding)
    ]
    if preferred is not None and preferred in named:
        spread = named[preferred].std
        alike = [x for x in filled if isclose(named[x].std, spread, rel_tol=1e-3)]
        if alike:  # the tighter an edge that nothing passes, the more it says
            return min(alike, key=lambda label: named[label].edge)
    if filled and summary.finite >= FILLING:
        return filled[0]
    return preferred


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
        return _two_sample_ks(cdf, null.sample)
    before = after = null.cdf(cdf.points)
    if null.std == 0.0:
        after = (cdf.points >= null.mean).astype(np.float64)
    gaps = np.abs(cdf.below - before), np.abs(cdf.through - after)
    return float(max(gaps[0].max(), gaps[1].max()))


def _two_sample_ks(a: EmpiricalCDF, b: EmpiricalCDF) -> float:
    points = np.union1d(a.points, b.points)
    return float(np.abs(a(points) - b(points)).max())


def shape_distance(summary: TensorSummary, null: Null) -> float:
    """KS distance to the null's family stretched to the weights' own spread."""
    if not summary.std or not null.std or not isfinite(summary.std) or null.sample is not None:
        return nan
    return ks_distance(summary.cdf, replace(null, std=summary.std))


def wasserstein_distance(cdf: EmpiricalCDF, null: Null) -> float:
    """Wasserstein-1 distance, the area between the two distribution functions."""
    if cdf.points.size == 0:
        return nan
    shares = (np.arange(4096) + 0.5) / 4096
    return float(np.abs(cdf.quantile(shares) - null.quantile(shares)).mean())
