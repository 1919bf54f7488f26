"""The smallest network that keeps what the whole one can: cut or thinned, recovered, measured."""

from __future__ import annotations

import html
import math
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import nn

from weightscope.adapters.modes import alone, outside_modes
from weightscope.arguments import checked
from weightscope.batches import (
    Batch,
    each_batch,
    example_in,
    first_image,
    read_batches,
    split_images,
)
from weightscope.calls import device_of, own_arguments, random_state, to_device, undisturbed
from weightscope.cost import Costs, Latency, count_costs, measure_latency
from weightscope.errors import InputError, MissingExtraError, TruncationError, keyword, stood_for
from weightscope.files import make_folder
from weightscope.graph import read_structure
from weightscope.graph.structure import Structure
from weightscope.progress import steps as steps_shown
from weightscope.showing import OnOneScreen, counted, frame_table
from weightscope.statistics import measure_model
from weightscope.truncation.building import whole
from weightscope.truncation.couplings import library
from weightscope.truncation.proposals import Proposal, propose
from weightscope.truncation.recovery import BATCH, Recovery, forwards, together
from weightscope.truncation.variant import Variant
from weightscope.utilization import assess
from weightscope.utilization.judging import Judge, judge_by
from weightscope.utilization.metrics import resampled
from weightscope.wrappers import unwrap

if TYPE_CHECKING:
    import pandas as pd

_Recover = Callable[[Variant, str], Recovery]

TOLERANCE = 0.02
"""Quality that may be lost where neither a tolerance nor a budget is given."""

RESAMPLES = 500
"""Of the images, for the standard error of a loss of quality: it is then known to 3 %."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """One network of a search: the whole one, a smaller one, or one that cannot be built.

    Attributes:
        keep_levels: Levels that stay; all of them in the whole network.
        thinned: Whether it lost channels too.
        parameters: Number of parameters.
        macs: Multiply-accumulates of one forward on the example input.
        bytes: Size of parameters and buffers.
        latency: Measured in turns with the others; None where nothing was built.
        cut: Quality just cut or thinned, before recovery; nan where nothing was built.
        quality: Quality after recovery.
        lost: Quality lost against the whole network: in the unit of a metric between 0 and 1, else
            as a share of the skill over the best trivial answer.
        error: Standard error of ``lost``, by resampling the images of ``batches``; nan without
            them.
        refusal: Why there is nothing to measure, else empty.
        variant: The recovered network; None for the whole one and for what was refused.
        random: Quality, after the same recovery, of the whole network without as many channels,
            drawn at random, as bring it to the same MACs; nan where it was not measured.
        random_refusal: Why it was not measured, else empty.
    """

    keep_levels: int
    thinned: bool
    parameters: int
    macs: int
    bytes: int
    latency: Latency | None
    cut: float
    quality: float
    lost: float
    error: float
    refusal: str
    variant: Variant | None
    random: float
    random_refusal: str


@dataclass(frozen=True)
class Limits:
    """What the chosen network must satisfy; None: no limit.

    Attributes:
        tolerance: Largest ``lost``, its standard error added where that is known.
        max_macs: Multiply-accumulates on the example input.
        max_parameters: Number of parameters.
        max_latency: Median seconds of a forward on the example input, on this machine.
        max_bytes: Size of parameters and buffers.
    """

    tolerance: float | None
    max_macs: float | None
    max_parameters: float | None
    max_latency: float | None
    max_bytes: float | None

    def broken(self, candidate: Candidate) -> tuple[str, ...]:
        """Which limits a measured candidate breaks, in words."""
        latency = candidate.latency.median if candidate.latency else float("nan")
        known = not math.isnan(candidate.error)
        most = candidate.lost + (candidate.error if known else 0.0)
        with_error = f" ({candidate.lost:.4g} and a standard error)" if known else ""
        pairs = {
            f"tolerance{with_error}": (most, self.tolerance),
            "max_macs": (candidate.macs, self.max_macs),
            "max_parameters": (candidate.parameters, self.max_parameters),
            "max_latency": (latency, self.max_latency),
            "max_bytes": (candidate.bytes, self.max_bytes),
        }
        return tuple(
            f"{name}: {value:.4g} > {limit:.4g}"
            for name, (value, limit) in pairs.items()
            if limit is not None and not value <= limit
        )


@dataclass(frozen=True, eq=False, repr=False)
class Search(OnOneScreen):
    """Quality over cost of smaller networks made from one.

    Attributes:
        metric: What ``quality`` is; ``agreement`` where no metric was given: the share of the
            variance of the whole network's outputs that is matched on images held back.
        limits: What was asked for.
        budget: What the search was going to cost, in words.
        whole: The network itself.
        candidates: One for each depth, the deepest first, each before the thinner one that was made
            from it; first of all the whole network made thinner.
    """

    metric: str
    limits: Limits
    budget: str
    whole: Candidate
    candidates: tuple[Candidate, ...]

    @property
    def chosen(self) -> Candidate | None:
        """The network with fewest MACs within all limits; None where only the whole one is.

        With a budget alone, the one of best quality within it.
        """
        fit = [c for c in self.candidates if not c.refusal and not self.limits.broken(c)]
        if self.limits.tolerance is None:
            return min(fit, key=lambda c: (c.lost, c.macs), default=None)
        return min(fit, key=lambda c: (c.macs, c.lost), default=None)

    @property
    def frame(self) -> pd.DataFrame:
        """One row for each network, the whole one first, then by MACs; refused ones last.

        Columns: keep_levels, thinned, parameters, macs, bytes, latency (median seconds), cut,
        quality, lost, error (standard error of lost), random (quality of random channel removal at
        the same MACs, recovered alike), pareto (no other network is as cheap in MACs and as good),
        chosen, why (the limits that it breaks, or why it was refused).
        """
        import pandas as pd

        built = [c for c in self.candidates if not c.refusal]
        ordered = [
            self.whole,
            *sorted(built, key=lambda c: -c.macs),
            *(c for c in self.candidates if c.refusal),
        ]
        chosen = self.chosen
        return pd.DataFrame(
            [
                {
                    "keep_levels": c.keep_levels,
                    "thinned": c.thinned,
                    "parameters": c.parameters,
                    "macs": c.macs,
                    "bytes": c.bytes,
                    "latency": c.latency.median if c.latency else float("nan"),
                    "cut": c.cut,
                    "quality": c.quality,
                    "lost": c.lost,
                    "error": c.error,
                    "random": c.random,
                    "pareto": not c.refusal and not any(_beats(d, c) for d in [self.whole, *built]),
                    "chosen": c is chosen,
                    "why": c.refusal or "; ".join(self.limits.broken(c)),
                }
                for c in ordered
            ]
        )

    def _facts(self) -> dict[str, object]:
        chosen = self.chosen
        return {
            "of": counted(len(self.candidates), "network"),
            "metric": self.metric,
            "chosen": "none" if chosen is None else _named(chosen),
            "quality": f"{(chosen or self.whole).quality:.3f} of {self.whole.quality:.3f}",
            "see": ".frame and print()",
        }

    def _repr_html_(self) -> str:
        words = "".join(f"<p>{html.escape(text)}</p>" for text in self._words())
        return f"<div><strong>Search</strong>{words}{frame_table(self._shown())}</div>"

    def __str__(self) -> str:
        return "\n".join([self._shown().to_string(index=False), *self._words()])

    def _shown(self) -> pd.DataFrame:
        """The frame without what is the same twice or unknown throughout."""
        qualities = ("cut", "quality", "lost", "error", "random")
        return (
            self.frame.drop(columns=["bytes"])
            .dropna(axis=1, how="all")
            .round(dict.fromkeys(qualities, 3))
        )

    def _words(self) -> list[str]:
        """What was chosen, and what is unknown."""
        chosen = self.chosen
        thinner = any(c.thinned for c in self.candidates)
        words = (
            "no smaller network is within the limits; the whole one stays"
            + ("" if thinner else f" ({keyword('thin', 0.5)} tries thinner ones too)")
            if chosen is None
            else f"chosen: {_named(chosen, self.whole.keep_levels)}, "
            f"{chosen.macs / max(1, self.whole.macs):.0%} of the MACs, "
            f"{chosen.parameters / max(1, self.whole.parameters):.0%} of the parameters, "
            f"{self.metric} {chosen.quality:.3f} of {self.whole.quality:.3f}"
        )
        reasons = {c.random_refusal for c in self.candidates if c.random_refusal}
        unknown = [f"random channels were not tried: {reason}" for reason in sorted(reasons)]
        return [words, *unknown]


def _named(candidate: Candidate, of: int | None = None) -> str:
    levels = counted(candidate.keep_levels, "level")
    if of is not None:
        levels = f"{candidate.keep_levels} of {counted(of, 'level')}"
    return f"{levels}, thinner" if candidate.thinned else levels


def _beats(one: Candidate, other: Candidate) -> bool:
    return (one.macs, one.lost) != (other.macs, other.lost) and (
        one.macs <= other.macs and one.lost <= other.lost
    )


@checked()
@outside_modes()
def shrink(
    model: nn.Module,
    *,
    images: Iterable[Any] | None = None,
    batches: Iterable[Any] | None = None,
    metric: str | Callable[[Any, Any], Any] | None = None,
    tolerance: float | None = None,
    max_macs: float | None = None,
    max_parameters: float | None = None,
    max_latency: float | None = None,
    max_bytes: float | None = None,
    example_inputs: Any = None,
    layout: str | None = None,
    part: str | None = None,
    steps: int = 400,
    repeats: int = 10,
    thin: float | None = None,
    random: bool = True,
    seed: int = 0,
    progress: bool = True,
    resume: str | os.PathLike[str] | None = None,
) -> Search:
    """Find the smallest network within a tolerance or a budget.

    Every depth is cut, recovered by matching the whole network's outputs on unlabelled images, and
    measured: quality, parameters, MACs, and latency, timed alternately with the whole network. For
    comparison, channels drawn at random are removed from the whole network until it has as many
    MACs as the depth: a depth that does not keep more quality is no finding. What costs more than
    ``max_macs`` is made thinner too, down to it, and recovered once more. The model is not changed.

    Args:
        model: A trained encoder-decoder.
        images: Unlabelled images for recovery, as for ``Variant.recover``; by default the inputs of
            ``batches``, which then serve for recovery and for the measurement: the qualities come
            out a little too high.
        batches: ``(inputs, targets)`` pairs to measure quality on, as for ``ablate``.
        metric: As for ``ablate``. Without it, quality is the agreement with the whole network on
            the images that recovery held back.
        tolerance: Quality that may be lost: in the unit of a metric between 0 and 1, else as a
            share of the skill. The standard error of the loss over the images of ``batches`` is
            added, so that what is chosen keeps its promise on other images. 0.02 where no limit is
            given.
        max_macs: Largest number of multiply-accumulates of a forward on the example input.
        max_parameters: Largest number of parameters.
        max_latency: Longest median time of a forward on the example input, in seconds.
        max_bytes: Largest size of parameters and buffers.
        example_inputs: What to read the network with; by default the first image.
        layout: What the axes of the images are, as for ``analyze``.
        part: The part that is cut, as for ``analyze``.
        steps: Training steps of each recovery.
        repeats: Timed forwards of each network.
        thin: Share of its MACs to which the whole network and every depth is made thinner too, by
            ``Variant.thin`` (the extra ``prune``); 1: none is. By default what costs more than
            ``max_macs``, where that is given.
        random: Whether to measure random channel removal too, which doubles the work; it needs the
            extra ``prune`` and is left out, with a word, where that is not installed.
        seed: Of everything that is drawn at random.
        progress: Show the budget and a bar for each recovery.
        resume: Folder to keep the recoveries in. A search that was broken off goes on from there.

    Returns:
        Every network with its quality and costs, refused ones with the reason, and the chosen one.

    Raises:
        InputError: Arguments that cannot be used.
        ForwardError: The model's forward raises.
        StructureError: The network has no readable encoder-decoder shape.
        MissingExtraError: ``thin`` is given and Torch-Pruning is not installed.

    Example:
        >>> import torch, weightscope as ws, mpseg_models
        >>> model = mpseg_models.create_model("unet", width=4, seed=0)
        >>> found = ws.shrink(model, images=torch.rand(8, 3, 32, 32), steps=2, progress=False)
        >>> list(found.frame.columns[:4])
        ['keep_levels', 'thinned', 'parameters', 'macs']
    """
    model = unwrap(model).model
    budgets = (max_macs, max_parameters, max_latency, max_bytes)
    limits = _limits(tolerance, *budgets)
    if thin is not None:
        if not 0 < thin <= 1:
            raise InputError(f"{keyword('thin', thin)} must be a share above 0 and at most 1")
        library()
    if (batches is None) != (metric is None):
        raise InputError(
            f"{keyword('batches')} of (inputs, targets) and {keyword('metric')} belong together; "
            "give both"
        )
    pairs = None if batches is None else read_batches(batches, model)
    kept = _images(images, pairs)
    source = ""
    if example_inputs is None:
        source = "images" if pairs is None else "batches"
        example_inputs = _example(kept, pairs, model)
    with alone(), stood_for("example_inputs", source):
        structure = read_structure(model, example_inputs, layout=layout, part=part)
        costs = count_costs(model, structure.inputs)
        proposals = propose(structure, assess(structure, measure_model(model)), costs)
    proposals = tuple(sorted(proposals, key=lambda p: -p.keep_levels))
    legal = [p for p in proposals if p.refusal is None]
    goals = {
        keep: goal
        for keep, macs in [(structure.depth, costs.macs), *((p.keep_levels, p.macs) for p in legal)]
        if (goal := max_macs if thin is None else thin * macs) is not None and goal < macs
    }
    recovered = [*(p.macs for p in legal), *goals.values()]
    labelled = 0 if pairs is None else sum(len(split_images(inputs)) for inputs, _ in pairs)
    budget = _budget(structure, len(legal), recovered, costs, kept, labelled, steps, random)
    if progress:
        from tqdm.auto import tqdm

        tqdm.write(budget, file=sys.stderr)  # as the bars; a command prints its result to stdout
    folder = None if resume is None else make_folder(resume)
    measure = _Agreement() if pairs is None else _Metric(structure, pairs, metric)

    def recover(variant: Variant, name: str) -> Recovery:
        file = None if folder is None else folder / f"{name}.pt"
        return variant.recover(kept, steps=steps, seed=seed, progress=progress, resume=file)

    with steps_shown(len(proposals) + len(goals), "shrink", shown=progress) as begin:
        trials = _Trials(structure, goals, measure, recover, begin, random, seed)
        found = trials.thinned(whole(structure)) if structure.depth in goals else []
        for proposal in proposals:
            found += trials.of_depth(proposal)
    itself = Candidate(
        keep_levels=structure.depth,
        thinned=False,
        parameters=costs.parameters,
        macs=costs.macs,
        bytes=_bytes(model),
        latency=None,
        cut=measure.whole,
        quality=measure.whole,
        lost=0.0,
        error=math.nan if pairs is None else 0.0,
        refusal="",
        variant=None,
        random=measure.whole,
        random_refusal="",
    )
    timed = _timed(structure, [itself, *found], repeats)
    return Search(
        metric=measure.name,
        limits=limits,
        budget=budget,
        whole=timed[0],
        candidates=tuple(timed[1:]),
    )


def _limits(tolerance: float | None, *budgets: float | None) -> Limits:
    """The limits asked for; where none is, the default tolerance."""
    for limit, value in zip(fields(Limits), (tolerance, *budgets), strict=True):
        if value is not None and not value >= 0:
            raise InputError(f"{keyword(limit.name, value)} must not be negative")
    if tolerance is None and all(limit is None for limit in budgets):
        tolerance = TOLERANCE
    return Limits(tolerance, *budgets)


def _images(images: Iterable[Any] | None, pairs: Sequence[Batch] | None) -> list[Any]:
    """What teaches in the recoveries: the images, or the inputs of the batches."""
    if images is None and pairs is None:
        raise InputError(
            f"give {keyword('images')} for the recovery, or {keyword('batches')} with "
            f"{keyword('metric')}"
        )
    given = [inputs for inputs, _ in pairs or ()] if images is None else images
    kept = list(each_batch(given))
    if not kept:
        raise InputError(f"{keyword('images')} is empty; give at least one batch of images")
    return kept


@dataclass(frozen=True, eq=False)
class _Trials:
    """Makes one network smaller in several ways, recovers and measures each.

    Attributes:
        structure: The whole network.
        goals: MACs that a network which keeps so many levels is thinned to.
        measure: What is a quality.
        recover: Recovers a variant in place; the name is that of its file.
        begin: Told what comes next.
        random: Whether to remove random channels of the whole network beside each.
        seed: Of the new weights and of the random channels.
    """

    structure: Structure
    goals: Mapping[int, float]
    measure: _Agreement | _Metric
    recover: _Recover
    begin: Callable[[str], object]
    random: bool
    seed: int

    def of_depth(self, proposal: Proposal) -> list[Candidate]:
        """One depth, and the thinner network made from it."""
        keep = proposal.keep_levels
        self.begin(f"levels kept {keep}")
        if proposal.refusal is not None:
            return [_refused(keep, False, proposal.parameters, proposal.macs, proposal.refusal)]
        with alone(), random_state():
            torch.manual_seed(self.seed)  # of the new weights
            variant = proposal.build()
        return [self._tried(variant, f"{keep}"), *self.thinned(variant)]

    def thinned(self, variant: Variant) -> list[Candidate]:
        """The same network with fewer channels, where there is a goal; it learns on from there."""
        keep = variant.plan.keep_levels
        goal = self.goals.get(keep)
        if goal is None:
            return []
        self.begin(f"levels kept {keep}, thinner")
        try:
            thinner = variant.thin(max_macs=goal)
        except (TruncationError, MissingExtraError) as reason:
            return [_refused(keep, True, 0, round(goal), str(reason))]
        return [self._tried(thinner, f"{keep}_to_{goal:.0f}")]

    def _tried(self, variant: Variant, name: str) -> Candidate:
        before, _ = self.measure.quality(variant)
        recovery = self.recover(variant, f"keep_{name}")
        if isinstance(self.measure, _Agreement):
            before = recovery.before.explained
        after, error = self._after(variant, recovery)
        rival, reason = self._random(variant.costs.macs, name) if self.random else (math.nan, "")
        return Candidate(
            keep_levels=variant.plan.keep_levels,
            thinned=bool(variant.plan.thinned),
            parameters=variant.costs.parameters,
            macs=variant.costs.macs,
            bytes=_bytes(variant.module),
            latency=None,
            cut=before,
            quality=after,
            lost=self.measure.lost(after),
            error=error,
            refusal="",
            variant=variant,
            random=rival,
            random_refusal=reason,
        )

    def _after(self, variant: Variant, recovery: Recovery) -> tuple[float, float]:
        """Quality of a recovered network, and the standard error of what it lost."""
        if isinstance(self.measure, _Agreement):
            return recovery.after.explained, math.nan
        return self.measure.quality(variant)

    def _random(self, macs: int, name: str) -> tuple[float, str]:
        """What the whole network keeps without random channels; or why that is not known."""
        try:
            rival = whole(self.structure).thin(max_macs=macs, by="random", seed=self.seed)
        except (TruncationError, MissingExtraError) as reason:
            return math.nan, str(reason)
        quality, _ = self._after(rival, self.recover(rival, f"random_{name}"))
        return quality, ""


def _example(images: Sequence[Any], pairs: Sequence[Batch] | None, model: nn.Module) -> Any:
    """The first image that there is, as arguments of the forward."""
    found = example_in(images[0], model) if pairs is None else first_image(pairs)
    return to_device(found, model)


def _budget(
    structure: Structure,
    depths: int,
    macs: Sequence[float],
    costs: Costs,
    images: Sequence[Any],
    labelled: int,
    steps: int,
    random: bool,
) -> str:
    """What it costs at most to recover and judge networks of so many MACs; see ``forwards``.

    Each is judged on all labelled images before and after, its rival of random channels after.
    """
    original, smaller = forwards(structure, images, steps)
    judged = (3 if random else 2) * labelled
    shares = [m / max(1, costs.macs) for m in macs]
    courses = (1 + random) * sum(original + smaller * share for share in shares)
    total = labelled + courses + judged * sum(shares)
    thinner = counted(len(macs) - depths, "thinner network")
    also = f" and {thinner}" if len(macs) > depths else ""
    twice = ", each beside random channels at the same MACs" if random else ""
    return (
        f"{counted(depths, 'depth')}{also}, {int(steps)} steps of "
        f"{counted(together(structure) or BATCH, 'image')} each{twice}: "
        f"about as much as {total:,.0f} forwards of the whole network on one image"
    )


def _refused(keep: int, thinned: bool, parameters: int, macs: int, reason: str) -> Candidate:
    nan = math.nan
    return Candidate(
        keep_levels=keep,
        thinned=thinned,
        parameters=parameters,
        macs=macs,
        bytes=0,
        latency=None,
        cut=nan,
        quality=nan,
        lost=nan,
        error=nan,
        refusal=str(reason),
        variant=None,
        random=nan,
        random_refusal="",
    )


def _bytes(module: nn.Module) -> int:
    return sum(t.numel() * t.element_size() for t in [*module.parameters(), *module.buffers()])


def _timed(structure: Structure, candidates: Sequence[Candidate], repeats: int) -> list[Candidate]:
    """The same candidates with latencies, measured in turns."""
    modules = {
        i: c.variant.module if c.variant else structure.model
        for i, c in enumerate(candidates)
        if not c.refusal
    }
    times = measure_latency(list(modules.values()), structure.inputs, repeats=max(2, repeats))
    known = dict(zip(modules, times, strict=True))
    return [replace(c, latency=known.get(i)) for i, c in enumerate(candidates)]


class _Agreement:
    """Quality without labels: how well the outputs are matched on images held back."""

    name, whole = "agreement", 1.0

    def quality(self, variant: Variant) -> tuple[float, float]:
        """Known from the recovery alone."""
        return math.nan, math.nan

    def lost(self, quality: float) -> float:
        """What is not matched."""
        return self.whole - quality


class _Metric:
    """Quality by a metric on labelled batches."""

    def __init__(self, structure: Structure, pairs: Sequence[Batch], metric: Any) -> None:
        self.pairs, self.model = pairs, structure.model
        self.judge: Judge = judge_by(
            metric,
            pairs,
            dimensions=structure.inputs.dimensions,
            device=device_of(structure.model),
        )
        self.name = self.judge.name
        with alone(), undisturbed(structure.model), torch.no_grad(), self.judge.kept():
            for inputs, _ in pairs:
                self.judge.add(self._run(structure.model, inputs))
            whole = self.judge.whole()
            trivial = _value(self.judge.trivial())
        self.drawn = resampled(whole.images, RESAMPLES, seed=0)
        self.whole, self.wholes = _value(whole), whole.of(self.drawn)
        self.sign = 1.0 if self.judge.larger_is_better() else -1.0
        self.unit = 1.0 if self.judge.bounded else max(abs(self.whole - trivial), 1e-12)

    def quality(self, variant: Variant) -> tuple[float, float]:
        """Quality of a network on all batches, and the standard error of what it lost."""
        meter = self.judge.meter()
        with alone(), undisturbed(variant.module), torch.no_grad(), self.judge.kept():
            for inputs, _ in self.pairs:
                meter.add(self._run(variant.module, inputs))
            found = meter.quality()
        lost = self._lost(self.wholes, found.of(self.drawn))
        return _value(found), float(np.nanstd(lost)) if found.images > 1 else math.nan

    def _run(self, module: nn.Module, inputs: Any) -> Any:
        args, kwargs = own_arguments(inputs, self.model)
        return module(*args, **kwargs)

    def lost(self, quality: float) -> float:
        """Quality lost; negative where the smaller network is better."""
        return float(self._lost(self.whole, quality))

    def _lost(self, whole: Any, quality: Any) -> Any:
        return self.sign * (whole - quality) / self.unit


def _value(quality: Any) -> float:
    return float(cast(Any, quality.of(np.ones((1, quality.images))))[0])
