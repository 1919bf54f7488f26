"""From measurements to utilization: one formula for every grade, and the thresholds of verdicts.

``docs/decisions/utilization.md`` says why the formula is this one; ``docs/evidence.md`` where the
thresholds come from and how often they are right.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from weightscope.graph.structure import Stage
from weightscope.statistics import ModelStatistics, ParameterStatistics
from weightscope.statistics.initialization import hidden_beyond, hidden_within
from weightscope.utilization.displacement import StageMovement
from weightscope.utilization.records import Score, Verdict

COLLAPSED_RATIO = 0.1
"""A stage has collapsed when its spread is at most this share of the initial one."""

MARGIN = 2.0
"""Half-width of an interval, in standard errors."""

SURELY = 4.0
"""Standard errors by which a stage must be narrower than its null before decay is considered."""

UNMOVED = 0.2
"""Weights alone call a stage unused only when the movement that they can hide, beside the typical
one, is worth less utilization than this,"""

STILL = 0.18
"""and is below this share of the stage's initial spread."""

SHARP = 300.0
"""Weights that a stage must have for its edges to be told to 3 %, if its rule is uniform; of other
bounded rules, in proportion to how few they draw near the edge."""

UNTOUCHED = 1e-4
"""A stage whose movement since a known start is below this share of its initial spread has not
moved: rounding alone moves weights that decay so far."""

TRACE = 4.0
"""A stage was drawn anew where the projection on its known start is within so many standard errors
of zero."""

WALK_BORDER = 0.7
"""Border of use by history without saliency: live movement as a share of the noise walk."""

SALIENT_BORDER = 0.4
"""Border of use by history with saliency: live movement times the root of its share."""

IDLE = 0.12
"""History calls a stage unused when its utilization is below this."""

BUSY = 0.65
"""History calls a stage used when its utilization is above this."""


def utilization(measured: float, unused: float) -> float:
    """Turn a measurement into utilization: ``m^2 / (m^2 + n^2)``.

    Args:
        measured: What the grade measured (``m >= 0``): movement, or quality lost.
        unused: What a stage that does nothing shows by the same measurement (``n > 0``).

    Returns:
        0 for ``m = 0``, 0.5 where the stage cannot be told from an unused one, towards 1 the more
        it stands out; nan if either is not a number or ``n`` is 0.

    Example:
        >>> utilization(0.0, 1.0), utilization(1.0, 1.0), utilization(3.0, 1.0)
        (0.0, 0.5, 0.9)
    """
    if not (math.isfinite(measured) and math.isfinite(unused)) or unused <= 0.0:
        return float("nan")
    m2, n2 = max(measured, 0.0) ** 2, unused**2
    return m2 / (m2 + n2)


@dataclass(frozen=True)
class StageSpread:
    """Spread of a stage's kernels against their initialisation nulls, pooled over the weights.

    Attributes:
        stage: Name of the stage.
        count: Number of weights that have a null.
        spread: Rms of the weights.
        initial: Rms expected at initialisation.
        excess: An estimate of the mean squared movement: ``spread^2 - initial^2``, since movement
            that is uncorrelated with the start adds to the variance; of kernels whose start is
            known, the mean squared movement itself.
        error: Standard error of ``excess`` for the number of weights there are.
        distinguishable: Whether any kernel differs from its null.
        ks: Largest Kolmogorov-Smirnov distance of a kernel to its null.
        dispersion: Variance of the filters' energies (mean squares), relative to that of
            independent weights drawn from the null: 1 at initialisation, more where filters took
            different parts; nan where no kernel has filters.
        hidden: Largest rms movement since a draw by their rules that the weights can hide; inf
            where a kernel does not follow its rule.
        bounded: Whether the rule of every kernel is bounded, so that decay cannot hide movement.
        shrinkage: Projection of the weights on their start; nan unless all starts are known.
        fresh_start: Whether every start is known and fresh from a rule, not trained already.
        decayed: Whether ``excess`` is corrected for the network's weight decay.
    """

    stage: str
    count: int
    spread: float
    initial: float
    excess: float
    error: float
    distinguishable: bool
    ks: float
    dispersion: float
    hidden: float
    bounded: bool
    shrinkage: float
    fresh_start: bool
    decayed: bool = False

    @property
    def ratio(self) -> float:
        """Spread / initial spread; nan without a null."""
        return self.spread / self.initial if self.initial > 0.0 else float("nan")

    @property
    def collapsed(self) -> bool:
        """Whether next to nothing is left of the stage's weights."""
        return self.ratio <= COLLAPSED_RATIO

    @property
    def known(self) -> bool:
        """Whether the start of every kernel is known."""
        return math.isfinite(self.shrinkage)

    @property
    def traceless(self) -> bool:
        """Whether nothing is left of the known start."""
        return self.known and abs(self.shrinkage) * math.sqrt(self.count) < TRACE

    def movement(self, sigmas: float = 0.0) -> float:
        """Estimated rms movement, at ``sigmas`` standard errors above the estimate."""
        return math.sqrt(max(self.excess + sigmas * self.error, 0.0))


def stage_kernels(
    stages: Sequence[Stage], statistics: ModelStatistics
) -> Mapping[str, tuple[ParameterStatistics, ...]]:
    """The kernels of each stage, by stage name; a shared kernel belongs to its first stage."""
    by_layer: dict[str, list[ParameterStatistics]] = {}
    for parameter in statistics.parameters:
        if parameter.is_kernel:
            by_layer.setdefault(parameter.layer, []).append(parameter)
    return {
        stage.name: tuple(p for layer in stage.layers for p in by_layer.get(layer, ()))
        for stage in stages
    }


def measure_spread(stage: str, kernels: Sequence[ParameterStatistics]) -> StageSpread:
    """Pool the kernels of one stage that have a null, each weight counting once."""
    count, spread, initial, excess, variance, kept = 0, 0.0, 0.0, 0.0, 0.0, 0.0
    crowd, edges, bounded, drawn, fresh = 0.0, 0.0, 0, True, True
    wider, doubt = 0.0, 0.0
    distinguishable, ks = False, 0.0
    dispersions: list[tuple[int, float]] = []
    for kernel in kernels:
        comparison, summary = kernel.comparison, kernel.summary
        if comparison is None or not math.isfinite(summary.std):
            continue
        n, start = summary.count, comparison.std_initial**2
        count += n
        spread += n * (summary.std**2 + summary.mean**2)
        initial += n * start
        excess += n * comparison.excess
        variance += (n * comparison.error) ** 2
        moved, draw = comparison.movement, comparison.draw
        kept += n * start * (math.nan if moved is None else moved.shrinkage)
        if draw is None:
            drawn = False
        elif draw.crowd:
            bounded += n
            crowd += draw.crowd
            edges += 2.0 * draw.crowd * draw.edge
        else:
            wider += n * draw.excess
            doubt += (n * draw.error) ** 2
        fresh &= comparison.fresh_start
        distinguishable |= comparison.distinguishable
        ks = max(ks, comparison.ks_initial)
        dispersions += filter_dispersion(kernel)
    if count == 0:
        nan = float("nan")
        return StageSpread(
            stage, 0, nan, nan, nan, nan, False, nan, nan, math.inf, False, nan, False
        )
    filters = sum(filters for filters, _ in dispersions)
    hidden = hidden_within(wider, math.sqrt(doubt))
    if bounded:
        hidden += bounded * hidden_beyond(crowd)
    return StageSpread(
        stage=stage,
        count=count,
        spread=math.sqrt(spread / count),
        initial=math.sqrt(initial / count),
        excess=excess / count,
        error=math.sqrt(variance) / count,
        distinguishable=distinguishable,
        ks=ks,
        dispersion=sum(f * d for f, d in dispersions) / filters if filters else float("nan"),
        hidden=math.sqrt(hidden / count) if drawn and not 0.0 < edges < SHARP else math.inf,
        bounded=bounded == count,
        shrinkage=kept / initial if initial > 0.0 else float("nan"),
        fresh_start=fresh,
    )


def filter_dispersion(kernel: ParameterStatistics) -> list[tuple[int, float]]:
    """Number of filters of a kernel and the dispersion of their energies; empty if not known.

    The mean square of ``n`` independent weights with excess kurtosis ``k`` has the relative
    variance ``(k + 2) / n``, by which the observed one is divided.
    """
    lengths, null = kernel.summary.filter_norms, kernel.null
    if lengths is None or lengths.size < 4 or null is None or null.std == 0.0:
        return []
    energies = lengths**2
    mean = float(energies.mean())
    each = kernel.summary.count / lengths.size
    if not (math.isfinite(mean) and mean > 0.0):
        return []
    observed = float(energies.var(ddof=1)) / mean**2
    return [(lengths.size, observed * each / (null.kurtosis + 2.0))]


def network_dispersion(spreads: Sequence[StageSpread]) -> float:
    """Geometric mean of the stages' filter dispersions; 1, as by chance, where none is known."""
    logs = [math.log(s.dispersion) for s in spreads if s.count and s.dispersion > 0.0]
    return math.exp(sum(logs) / len(logs)) if logs else 1.0


def decay(spreads: Sequence[StageSpread]) -> float:
    """Estimate how much weight decay shrank the initial weights of a network: in (0, 1].

    Decay shrinks all kernels alike and movement only adds, so the narrowest stage bounds the
    shrinkage from above. One narrow stage may have other reasons; two are needed.
    """
    narrow = [
        s.ratio for s in spreads if s.count and not s.collapsed and s.excess < -SURELY * s.error
    ]
    return min(narrow) if len(narrow) > 1 else 1.0


def without_decay(spread: StageSpread, shrinkage: float) -> StageSpread:
    """Compare a stage with its null after the network's decay instead of with the null itself."""
    excess = spread.excess + (1.0 - shrinkage**2) * spread.initial**2
    return replace(spread, excess=excess, decayed=shrinkage < 1.0)


def typical_movement(spreads: Sequence[StageSpread]) -> float:
    """Rms movement over the stages of a network, each counting once; 0 if none surely moved.

    Small stages, such as a head of a few weights, whose mean square is known to worse than a
    twentieth, are left out if there are others; nan if no stage has a null.
    """
    known = [s for s in spreads if s.count]
    if not any((s.distinguishable or s.known) and s.movement(-MARGIN) > 0.0 for s in known):
        return 0.0 if known else float("nan")
    measured = [s for s in known if s.error < 0.05 * s.initial**2] or known
    return math.sqrt(sum(s.movement() ** 2 for s in measured) / len(measured))


def score_weights(
    spread: StageSpread, typical: float, dispersion: float, *, decayed: bool = False
) -> Score:
    """Score one stage by its final weights alone.

    ``m`` is the stage's estimated movement, ``n`` the typical movement of the network's stages:
    adaptive optimisers carry every weight that has a steady gradient about equally far, so a stage
    far below the others was hardly trained. They carry weights as far on noise, where all filters
    move alike; so ``m`` is multiplied by ``D / (D + 1)`` with the network's filter dispersion
    ``D``, one half where filters differ no more than by chance.

    Weights alone never call a stage used: having moved is no proof of it.

    Args:
        spread: The stage.
        typical: From `typical_movement`.
        dispersion: From `network_dispersion`.
        decayed: Whether weight decay shrank the network.
    """
    if spread.count == 0:
        nan = float("nan")
        return Score("weights", nan, nan, nan, "undecided", "no kernel with a known initialisation")
    ratio = f"spread {spread.ratio:.3g} of the initial one"
    if spread.collapsed:
        return Score("weights", 0.0, 0.0, 0.0, "unused", f"collapsed: {ratio}")
    if not typical > 0.0:
        return Score("weights", 0.0, 0.0, 1.0, "undecided", f"{ratio}; no stage surely moved")
    learned = utilization(math.sqrt(dispersion), 1.0)

    def share_of(movement: float) -> float:
        return utilization(learned * movement, typical)

    if spread.known and spread.movement() < UNTOUCHED * spread.initial:
        verdict, why = _unmoved(spread)
        return Score("weights", 0.0, 0.0, 0.0, verdict, why)
    if as_drawn(spread, decayed) and utilization(spread.hidden, typical) < UNMOVED:
        anew = "drawn anew: no trace of its start" if spread.known else "as at initialisation"
        why = f"{anew}; {ratio}, at most {spread.hidden / typical:.2f} of the typical movement"
        return Score("weights", 0.0, 0.0, share_of(spread.hidden), "unused", why)
    value, low, high = (share_of(spread.movement(sigmas)) for sigmas in (0.0, -MARGIN, MARGIN))
    share = f"{ratio}, moved about {spread.movement() / typical:.2f} of what is typical here"
    why = share
    if spread.decayed:
        why = f"{share} after weight decay, which the weights cannot tell from no use"
    elif spread.movement(SURELY) == 0.0:
        why = f"{ratio}: weight decay or no use, the weights cannot tell"
    return Score("weights", value, low, high, "undecided", why)


def _unmoved(spread: StageSpread) -> tuple[Verdict, str]:
    """The verdict on a stage that did not leave its start: a trained start may well be of use."""
    shrunk = f", only shrunk to {spread.shrinkage:.2g} of it" if spread.shrinkage < 0.99 else ""
    why = f"has not moved since its start{shrunk}"
    if spread.fresh_start:
        return "unused", why
    return "undecided", f"{why}, which follows no known initialisation: trained before, perhaps"


def as_drawn(spread: StageSpread, decayed: bool) -> bool:
    """Whether a stage is as its rule draws it, closely enough to say that nothing was learned.

    Where its start is known, only a stage without a trace of it was drawn anew, and that alone says
    much. Elsewhere, in a network with weight decay, movement and decay may make up for each other
    unless the rule is bounded.

    Args:
        spread: The stage.
        decayed: Whether weight decay shrank the network.
    """
    if spread.known:
        return spread.traceless and spread.hidden < 2.0 * STILL * spread.initial
    return (spread.bounded or not decayed) and spread.hidden < STILL * spread.initial


@dataclass(frozen=True)
class NetworkMovement:
    """What the movement of one stage is compared with.

    Attributes:
        walk: Length of the noise walk of a stage: rms over the stages.
        saliency: Largest saliency of a stage; nan where no gradients were sampled.
    """

    walk: float
    saliency: float

    @classmethod
    def of(cls, movements: Iterable[StageMovement]) -> NetworkMovement:
        """Read it off the movements of all stages."""
        known = [m for m in movements if m.walk > 0.0]
        squares = [m.length**2 for m in known]
        saliencies = [m.saliency for m in known if math.isfinite(m.saliency)]
        return cls(
            walk=math.sqrt(sum(squares) / len(squares)) if squares else float("nan"),
            saliency=max(saliencies, default=float("nan")),
        )


def score_history(movement: StageMovement, network: NetworkMovement) -> Score:
    """Score one stage by how far it moved, while it mattered, against a walk on pure noise.

    ``m = ratio * strength * sqrt(share)``: the movement as a share of the noise walk; the share of
    that walk for which the gradients had strength; the stage's share of the largest saliency.
    ``n`` is `SALIENT_BORDER`, or `WALK_BORDER` where no saliency was recorded and ``share`` is left
    out. An optimiser that does not normalise its gradients, such as SGD, walks on noise as far as
    the noise is strong: there the strength is the length of the stage's walk (in the space of all
    its weights) as a share of what is typical in the network.

    Args:
        movement: Of the stage.
        network: Of all stages.
    """
    strength = movement.strength if movement.normalised else movement.length / network.walk
    share = movement.saliency / network.saliency if network.saliency > 0.0 else float("nan")
    salient = math.isfinite(share)
    live = movement.ratio * strength * (math.sqrt(share) if salient else 1.0)
    border = SALIENT_BORDER if salient else WALK_BORDER
    value, low, high = (
        utilization(live * factor, border) for factor in (1.0, movement.slowest, movement.fastest)
    )
    if not math.isfinite(value):
        why = "; ".join(movement.notes) or "no recorded kernel"
        nan = float("nan")
        return Score("history", nan, nan, nan, "undecided", why)
    why = f"moved {movement.ratio:.2f} times as far as on pure noise"
    if not movement.normalised:
        why += f", with gradients {strength:.2g} times as strong as is typical here"
    elif strength < 0.9:
        why += f" while gradients faded to {strength:.2f}"
    if salient:
        why += f"; saliency {share:.1%} of the largest"
    verdict: Verdict = "undecided"
    if value < IDLE:
        verdict = "unused"
    elif value > BUSY:
        verdict = "used"
    return Score("history", value, low, high, verdict, "; ".join((why, *movement.notes)))
