"""From measurements to utilization: one formula for every grade, and the thresholds of verdicts.

``docs/decisions/utilization.md`` says why the formula is this one; ``docs/evidence.md`` where the
thresholds come from and how often they are right.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from weightscope.errors import keyword
from weightscope.graph.structure import Stage
from weightscope.movement import StageMovement
from weightscope.probing.response import CutResponse, Response
from weightscope.showing import counted, outputs_at
from weightscope.statistics import ModelStatistics, ParameterStatistics
from weightscope.thresholds import (
    MARGIN,
    MINIMUM_IMAGES,
    PRECISE,
    RESPONSE_BORDER,
    SALIENT_BORDER,
    UNTOUCHED,
    WALK_BORDER,
)
from weightscope.traces import energy_dispersion
from weightscope.utilization.records import NO_CUT, Score, Verdict


def utilization(measured: float, unused: float) -> float:
    """Turn a measurement into utilization: ``m^2 / (m^2 + n^2)``.

    Args:
        measured: What the grade measured (``m >= 0``): movement, or quality lost.
        unused: What a stage that does nothing shows by the same measurement (``n > 0``).

    Returns:
        0 for ``m = 0``, 0.5 where the stage looks like an unused one, towards 1 the more
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
        doubt: How far ``excess`` may be off because the initial spreads are inferred or assumed.
        distinguishable: Whether any kernel differs from its null.
        dispersion: Variance of the filters' energies (mean squares), relative to that of
            independent weights drawn from the null: 1 at initialisation, more where filters took
            different parts; nan where no kernel has filters.
        shrinkage: Projection of the weights on their start; nan unless all starts are known.
        sources: Where the nulls come from: ``given``, ``matched``, ``inferred`` or ``assumed``.
    """

    stage: str
    count: int
    spread: float
    initial: float
    excess: float
    error: float
    distinguishable: bool
    dispersion: float
    shrinkage: float
    sources: tuple[str, ...] = ()
    doubt: float = 0.0

    @property
    def ratio(self) -> float:
        """Spread / initial spread; nan without a null."""
        return self.spread / self.initial if self.initial > 0.0 else float("nan")

    @property
    def known(self) -> bool:
        """Whether the start of every kernel is known."""
        return math.isfinite(self.shrinkage)

    @property
    def has_moved(self) -> bool:
        """Whether the stage surely left a start that is known."""
        return self.known and self.movement() > UNTOUCHED * self.initial

    def movement(self, sigmas: float = 0.0, doubts: float = 0.0) -> float:
        """Estimated rms movement, so many standard errors and doubts above the estimate."""
        return math.sqrt(max(self.excess + sigmas * self.error + doubts * self.doubt, 0.0))


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
    compared = [
        (kernel, kernel.comparison)
        for kernel in kernels
        if kernel.comparison is not None and math.isfinite(kernel.summary.std)
    ]
    count = sum(kernel.summary.count for kernel, _ in compared)
    if count == 0:
        nan = float("nan")
        return StageSpread(stage, 0, nan, nan, nan, nan, False, nan, nan)
    spread, initial, excess, variance, kept = 0.0, 0.0, 0.0, 0.0, 0.0
    for kernel, comparison in compared:
        n, start, moved = kernel.summary.count, comparison.std_initial**2, comparison.movement
        spread += n * (kernel.summary.std**2 + kernel.summary.mean**2)
        initial += n * start
        excess += n * comparison.excess
        variance += (n * comparison.error) ** 2
        kept += n * start * (math.nan if moved is None else moved.shrinkage)
    dispersions = [d for kernel, _ in compared for d in filter_dispersion(kernel)]
    filters = sum(filters for filters, _ in dispersions)
    return StageSpread(
        stage=stage,
        count=count,
        spread=math.sqrt(spread / count),
        initial=math.sqrt(initial / count),
        excess=excess / count,
        error=math.sqrt(variance) / count,
        distinguishable=any(comparison.distinguishable for _, comparison in compared),
        dispersion=sum(f * d for f, d in dispersions) / filters if filters else float("nan"),
        shrinkage=kept / initial if initial > 0.0 else float("nan"),
        sources=tuple(sorted({k.null.source for k, _ in compared if k.null is not None})),
        doubt=sum(kernel.summary.count * c.doubt for kernel, c in compared) / count,
    )


def filter_dispersion(kernel: ParameterStatistics) -> list[tuple[int, float]]:
    """See `energy_dispersion`, by the kurtosis of the null."""
    null = kernel.null
    if null is None or null.std == 0.0:
        return []
    return energy_dispersion(kernel.summary, null.kurtosis)


def network_dispersion(spreads: Sequence[StageSpread]) -> float:
    """Geometric mean of the stages' filter dispersions; 1, as by chance, where none is known."""
    logs = [math.log(s.dispersion) for s in spreads if s.count and s.dispersion > 0.0]
    return math.exp(sum(logs) / len(logs)) if logs else 1.0


def typical_movement(spreads: Sequence[StageSpread]) -> float:
    """Rms movement over the stages of a network, each counting once; 0 if none surely moved.

    Small stages, such as a head of a few weights, whose mean square is known to worse than
    `PRECISE`, are left out if there are others; nan if no stage has a null.
    """
    known = [s for s in spreads if s.count]
    if not any((s.distinguishable or s.known) and s.movement(-MARGIN) > 0.0 for s in known):
        return 0.0 if known else float("nan")
    measured = [s for s in known if s.error < PRECISE * s.initial**2] or known
    return math.sqrt(sum(s.movement() ** 2 for s in measured) / len(measured))


def score_weights(spread: StageSpread, typical: float, dispersion: float) -> Score:
    """Score one stage by its final weights alone.

    ``m`` is the stage's estimated movement, ``n`` the typical movement of the network's stages:
    adaptive optimisers carry every weight that has a steady gradient about equally far, so a stage
    far below the others was hardly trained. They carry weights as far on noise, where all filters
    move alike; so ``m`` is multiplied by ``D / (D + 1)`` with the network's filter dispersion
    ``D``, one half where filters differ no more than by chance.

    Weights alone rank stages and decide nothing: having moved is no proof of use, a rotation of the
    kernels at constant spread does not show, and a stage that was never trained may well be of use.

    Args:
        spread: The stage.
        typical: From `typical_movement`.
        dispersion: From `network_dispersion`.
    """
    if spread.count == 0:
        nan = float("nan")
        return Score("weights", nan, nan, nan, "undecided", "no kernel with a known initialisation")
    ratio = f"spread {spread.ratio:.3g} of the initial one ({', '.join(spread.sources)} start)"
    if spread.known and not spread.has_moved:
        shrunk = f", only shrunk to {spread.shrinkage:.2g} of it" if spread.shrinkage < 0.99 else ""
        why = f"has not moved since its start{shrunk}, which does not say that it is of no use"
        return Score("weights", 0.0, 0.0, 0.0, "undecided", why)
    if not typical > 0.0:
        return Score("weights", 0.0, 0.0, 1.0, "undecided", f"{ratio}; no stage surely moved")
    learned = utilization(math.sqrt(dispersion), 1.0)
    value, low, high = (
        utilization(learned * spread.movement(sign * MARGIN, sign), typical) for sign in (0, -1, 1)
    )
    if spread.movement(MARGIN) == 0.0:
        # decay would do that, and so would another start than the one it is compared with
        why = f"{ratio}: narrower than that start, so that movement does not show"
        return Score("weights", 0.0, 0.0, 1.0, "undecided", why)
    if spread.movement() == 0.0:
        why = f"{ratio}, so that movement does not show"
        return Score("weights", value, low, high, "undecided", why)
    why = f"{ratio}, moved about {spread.movement() / typical:.2f} of what is typical here"
    return Score("weights", value, low, high, "undecided", why)


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
    return Score("history", value, low, high, "undecided", "; ".join((why, *movement.notes)))


def score_response(response: Response, level: int) -> Score:
    """Score a stage by the change of the output when its level and all below are replaced.

    ``m`` is the response of the deepest cut that removes the stage, ``n`` is `RESPONSE_BORDER`.
    The stage is used where the whole interval lies above `RESPONDS` (of numbers
    `RESPONDS_IN_NUMBERS`), at every contrast that was tried, unused where it lies below `SILENT`.
    Fewer than `MINIMUM_IMAGES` of the user's images decide nothing. The interval of a stage that is
    undecided below the middle reaches up to what it does at another contrast or exposure, to the
    part of the output that responds most, or to another output that does.

    Args:
        response: Of every cut, on synthetic images or on the user's own.
        level: Of the stage.
    """
    grade, nan = response.source, float("nan")
    if response.failure:
        return Score(grade, nan, nan, nan, "undecided", f"not measured: {response.failure}")
    removing = [cut for cut in response.cuts if cut.keep_levels <= level]
    if not removing:
        return Score(grade, nan, nan, nan, "undecided", NO_CUT)
    cut = removing[-1]
    value, low, high = (utilization(m, RESPONSE_BORDER) for m in (cut.value, cut.low, cut.high))
    silent, responds = cut.borders
    seen = "synthetic images" if grade == "response" else counted(response.images, "image")
    of, beside = _one_of_several(cut)
    why = f"response {cut.value:.2g}{of}: {_what_changes(cut)} on {seen}"
    why += f" without levels {cut.keep_levels} and deeper"
    verdict: Verdict = "undecided"
    few = grade == "images" and response.images < MINIMUM_IMAGES
    if few:
        why += f"; fewer than {MINIMUM_IMAGES} images decide nothing"
    elif cut.high < silent and _speaks_elsewhere(cut):
        why += f"; but {_speaks_elsewhere(cut)}"
    elif cut.high < silent:
        verdict = "unused"
        either = math.isfinite(cut.by_sign)
        decides = math.isfinite(cut.flips) and not either
        why += f"; {unseen(classes=None if math.isfinite(cut.by_number) else decides)}"
        why += ", nor what psnr or mae would add (it is of squares)" * math.isnan(cut.flips)
        if grade == "response":
            why += ", nor what only your own images would excite"
    elif cut.low > responds:
        but = _not_surely_used(cut, level)
        verdict, why = ("undecided", f"{why}, but {but}") if but else ("used", why)
    else:
        why += f"; {cut.low:.2g} to {cut.high:.2g} is not below {silent} nor above {responds}"
    why += "" if beside in why else f"; {beside}"
    if verdict == "undecided" and cut.high < RESPONSE_BORDER:
        others = (
            m
            for m in (cut.elsewhere, cut.exposed, cut.worst_high, cut.by_number_high, cut.other[1])
            if math.isfinite(m)
        )
        high = max([high, *(utilization(m, RESPONSE_BORDER) for m in others)])
    caveat = _left_out(cut, of, beside)
    figures = (cut.elsewhere, cut.exposed, cut.worst, cut.by_number, cut.other[1])
    guarded = few or cut.as_vectors or cut.alike or any(m > RESPONSE_BORDER for m in figures)
    return Score(grade, value, low, high, verdict, why, cut.value, caveat, cut.borders, guarded)


def _left_out(cut: CutResponse, of: str, beside: str) -> str:
    """What the response leaves out, in words, for a proposal; empty where that is nothing."""
    said = f"that is{of}" if beside else ""
    said += f"; {beside}" if beside and not cut.lost else ""  # a proposal says what is lost
    parts = [said]
    if math.isnan(cut.flips) and cut.value < RESPONSE_BORDER:
        parts.append("of squares, psnr or mae may lose more")
    if cut.worst > max(RESPONSE_BORDER, 1.01 * cut.value):  # of two decisions both respond alike
        parts.append(describe_part(cut))
    return "; ".join(filter(None, parts))


def _one_of_several(cut: CutResponse) -> tuple[str, str]:
    """Which of several outputs a response is of, and what another does; empty where there is one.

    Each in words.
    """
    if not cut.outputs:
        return "", ""
    return f" of outputs{cut.first_output}", describe_other(cut)


_AT_ANOTHER = "at another contrast, and such images hardly reach this network, or saturate it"


def _not_surely_used(cut: CutResponse, level: int) -> str:
    """Why a level that responds is not called used, in words; empty where it is."""
    if cut.keep_levels < level:
        return "the cut also removes shallower levels"
    if cut.elsewhere_low <= cut.borders[1]:
        return f"down to {cut.elsewhere_low:.2g} {_AT_ANOTHER}; give {keyword('images')}"
    return ""


def _speaks_elsewhere(cut: CutResponse) -> str:
    """Where a level that is silent responds or may respond, in words; empty if nowhere."""
    if cut.as_vectors:
        images = keyword("images")
        return (
            "what comes back is one vector for a whole image, and synthetic images are much alike"
            f" as wholes; give {images}"
        )
    if cut.alike:
        return "all decisions are alike on these images: on others the level may change some"
    if cut.elsewhere > RESPONSE_BORDER:
        return f"{cut.elsewhere:.2g} {_AT_ANOTHER}; give {keyword('images')}"
    if cut.exposed > RESPONSE_BORDER:
        return (
            f"{cut.exposed:.2g} on images that differ in brightness and contrast; give "
            f"{keyword('images')}"
        )
    if cut.worst_high > RESPONSE_BORDER:
        return describe_part(cut)
    if cut.by_number_high > RESPONSE_BORDER:
        return (
            f"the outputs may be numbers, too, and these respond with up to "
            f"{cut.by_number_high:.2g}, whatever they decide"
        )
    return describe_other(cut) if cut.other[1] > RESPONSE_BORDER else ""


def skill_lost(share: float) -> str:
    """A share of the skill that is lost, in words.

    Example:
        >>> skill_lost(0.031), skill_lost(2.4), skill_lost(-0.0)
        ('3.1% of the skill is lost', 'all of the skill is lost', '0.0% of the skill is lost')
    """
    lost = "all" if share > 1.0 else f"{max(share, 0.0) + 0.0:.1%}"  # -0.0 is written with a sign
    return f"{lost} of the skill is lost"


def unseen(*, classes: bool | None) -> str:
    """The limit of every measure that is a mean over positions, in words.

    Args:
        classes: Whether the outputs are classes or labels, not numbers; None where they may be.
    """
    of = {True: " of one class", False: " alone", None: ", or in few of one class,"}[classes]
    return f"what matters in few pixels{of} cannot be seen by this"


def describe_part(cut: CutResponse) -> str:
    """What happens to the part of the output that responds most, in words."""
    of, what = ("decision", "rare") if math.isfinite(cut.flips) else ("channel", "small")
    responds = f"of the output responds with {cut.worst:.2g}"
    return f"{of} {cut.worst_part} {responds}, however {what} it is"


def describe_other(cut: CutResponse, among: Iterable[str] | None = None) -> str:
    """What happens to another output of the network, in words.

    Args:
        cut: What the network responds with.
        among: The outputs in question; by default all but the first, unless that is lost.
    """
    if lost := [place for place in cut.lost if among is None or place in among]:
        return describe_lost(lost)
    place, most = cut.other if among is None else cut.loudest(among)
    return f"outputs{place} of the network responds with up to {most:.2g}"


def describe_lost(places: Sequence[str]) -> str:
    """That outputs are lost with what a cut removes, in words.

    Example:
        >>> describe_lost(["['cls']"])
        "outputs['cls'] of the network is computed there and lost"
    """
    are = "are" if len(places) > 1 else "is"
    return f"{outputs_at(places)} of the network {are} computed there and lost"


def _what_changes(cut: CutResponse) -> str:
    """What changes without a level, in words."""
    moved = f"change by {cut.moved:.2g} (rms; their spread is {cut.spread:.2g})"
    either = math.isfinite(cut.by_sign)
    if either and not cut.high > 0.0:
        return "no number changes"
    if not math.isfinite(cut.flips):
        return f"the numbers {moved}" if cut.value > 0.0 else "no number changes"
    some = f"{cut.flips:.1%}" if cut.flips >= 0.0005 else "less than 0.1%"
    flips = f"{some} of the decisions change" if cut.flips > 0.0 else "no decision changes"
    if either:
        return (
            f"the numbers {moved}; the output may be a decision by its sign, too, and what is "
            f"unused must be so for both: {flips} (response {cut.by_sign:.2g})"
        )
    return flips
