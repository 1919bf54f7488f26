"""From measurements to utilization: one formula for every grade, and the thresholds of verdicts.

``docs/decisions/utilization.md`` says why the formula is this one; ``docs/evidence.md`` where the
thresholds come from and how often they are right.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from weightscope.graph.structure import Stage
from weightscope.statistics import ModelStatistics, ParameterStatistics
from weightscope.utilization.displacement import Displacement, pool
from weightscope.utilization.records import Score, Verdict

COLLAPSED_RATIO = 0.1
"""A stage has collapsed when its spread is at most this share of the initial one."""

MARGIN = 2.0
"""Half-width of an interval, in standard errors."""

UNMOVED = 0.2
"""Weights alone call a stage unused when its utilization is surely below this."""

MOVED = 0.4
"""Weights alone call a stage used when its utilization is surely above this."""

DRIFT_BELOW = 0.8
"""History calls a stage unused when every kernel moved less than this times the noise walk."""

DRIFT_ABOVE = 2.0
"""History calls a stage used when it moved more than this times the noise walk."""


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
        excess: ``spread^2 - initial^2``: an estimate of the mean squared movement, since movement
            that is uncorrelated with the start adds to the variance.
        error: Standard error of ``excess`` for the number of weights there are.
        distinguishable: Whether any kernel differs from its null.
        ks: Largest Kolmogorov-Smirnov distance of a kernel to its null.
    """

    stage: str
    count: int
    spread: float
    initial: float
    excess: float
    error: float
    distinguishable: bool
    ks: float

    @property
    def ratio(self) -> float:
        """Spread / initial spread; nan without a null."""
        return self.spread / self.initial if self.initial > 0.0 else float("nan")

    @property
    def collapsed(self) -> bool:
        """Whether next to nothing is left of the stage's weights."""
        return self.ratio <= COLLAPSED_RATIO

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
    """Pool the kernels of one stage that have a null.

    The mean square of ``n`` weights with excess kurtosis ``k`` has the standard error
    ``std^2 * sqrt((k + 2) / n)``.
    """
    count, spread, initial, variance = 0, 0.0, 0.0, 0.0
    distinguishable, ks = False, 0.0
    for kernel in kernels:
        comparison, summary = kernel.comparison, kernel.summary
        if comparison is None or not math.isfinite(summary.std):
            continue
        n, square = summary.count, summary.std**2 + summary.mean**2
        kurtosis = summary.kurtosis if math.isfinite(summary.kurtosis) else 0.0
        count += n
        spread += n * square
        initial += n * comparison.std_initial**2
        variance += n * max(kurtosis + 2.0, 0.1) * square**2
        distinguishable |= comparison.distinguishable
        ks = max(ks, comparison.ks_initial)
    if count == 0:
        nan = float("nan")
        return StageSpread(stage, 0, nan, nan, nan, nan, False, nan)
    return StageSpread(
        stage=stage,
        count=count,
        spread=math.sqrt(spread / count),
        initial=math.sqrt(initial / count),
        excess=(spread - initial) / count,
        error=math.sqrt(variance) / count,
        distinguishable=distinguishable,
        ks=ks,
    )


def reference_movement(spreads: Sequence[StageSpread]) -> float:
    """The most that any stage of the network surely moved; 0 if none did, nan if none has a null.

    The lower end of each stage's interval is taken, so that small stages, whose movement is
    uncertain, do not set the scale.
    """
    known = [s for s in spreads if s.count]
    moved = [s.movement(-MARGIN) for s in known if s.distinguishable]
    return max(moved, default=0.0) if known else float("nan")


def score_weights(spread: StageSpread, reference: float) -> Score:
    """Score one stage by its final weights alone.

    ``m`` is the stage's estimated movement, ``n`` the most that any stage of the network moved:
    adaptive optimisers carry every weight that has a steady gradient about equally far, so a stage
    far below it was hardly trained.

    Args:
        spread: The stage.
        reference: From `reference_movement`.
    """
    if spread.count == 0:
        nan = float("nan")
        return Score("weights", nan, nan, nan, "undecided", "no kernel with a known initialisation")
    ratio = f"spread {spread.ratio:.3g} of the initial one"
    if spread.collapsed:
        return Score("weights", 0.0, 0.0, 0.0, "unused", f"collapsed: {ratio}")
    if not reference > 0.0:
        return Score("weights", 0.0, 0.0, 1.0, "undecided", f"{ratio}; no stage surely moved")
    value, low, high = (
        utilization(spread.movement(sigmas), reference) for sigmas in (0.0, -MARGIN, MARGIN)
    )
    share = f"{ratio}, moved about {spread.movement() / reference:.2f} of the most moved stage"
    verdict: Verdict
    if spread.movement(MARGIN) == 0.0:
        verdict, why = "undecided", f"{ratio}: weight decay or no use, the weights cannot tell"
    elif high < UNMOVED:
        verdict = "unused"
        why = share if spread.distinguishable else f"as at initialisation: {ratio}"
    elif low > MOVED:
        verdict, why = "used", share
    else:
        verdict, why = "undecided", share
    return Score("weights", value, low, high, verdict, why)


def score_history(displacements: Mapping[str, Displacement], kernels: Sequence[str]) -> Score:
    """Score one stage by how far it moved, against the walk of its optimiser on pure noise.

    ``m`` is the rms movement orthogonal to the start, ``n`` the noise walk.

    Args:
        displacements: Movement of each parameter, by name.
        kernels: Names of the stage's kernels.
    """
    movement = pool(displacements, tuple(kernels))
    value = utilization(movement.moved, movement.walk)
    if not math.isfinite(value):
        why = "; ".join(movement.notes) or "no recorded kernel"
        nan = float("nan")
        return Score("history", nan, nan, nan, "undecided", why)
    ratio = movement.moved / movement.walk
    low, high = utilization(movement.low, 1.0), utilization(movement.high, 1.0)
    why = f"moved {ratio:.2f} times as far as on pure noise"
    verdict: Verdict = "undecided"
    if movement.high < DRIFT_BELOW:
        verdict = "unused"
    elif ratio > DRIFT_ABOVE:
        verdict = "used"
    return Score("history", value, low, high, verdict, "; ".join((why, *movement.notes)))
