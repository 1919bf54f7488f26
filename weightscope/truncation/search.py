"""The smallest network that keeps what the whole one can: cut or thinned, recovered, measured."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from itertools import chain
from typing import Any

from torch import nn

from weightscope.adapters.modes import alone, outside_modes
from weightscope.arguments import checked
from weightscope.batches import (
    Batch,
    Keys,
    each_batch,
    example_in,
    first_image,
    read_batches,
    split_images,
)
from weightscope.calls import forward_errors, to_device, undisturbed
from weightscope.cost import Costs, count_costs
from weightscope.errors import InputError, keyword, stood_for
from weightscope.files import make_folder
from weightscope.graph import read_structure
from weightscope.graph.structure import Structure
from weightscope.probing.inputs import read_images
from weightscope.probing.outputs import CoarserOutputs
from weightscope.progress import steps as steps_shown
from weightscope.showing import counted, outputs_at
from weightscope.statistics import measure_model
from weightscope.truncation.building import whole
from weightscope.truncation.candidates import Candidate, Limits, Search
from weightscope.truncation.couplings import library
from weightscope.truncation.course import AnotherRecoveryError
from weightscope.truncation.images import BATCH, enough, make_pool, together
from weightscope.truncation.proposals import Proposal, propose
from weightscope.truncation.qualities import ByAgreement, ByMetric
from weightscope.truncation.recovery import Recovery, forwards, refuse_broken
from weightscope.truncation.trials import Trials, size_in_bytes, timed
from weightscope.truncation.variant import Variant
from weightscope.utilization import assess
from weightscope.utilization.ablation import places_of
from weightscope.utilization.judging import Metric, Metrics, check_metric, one_metric
from weightscope.wrappers import unwrap

TOLERANCE = 0.02
"""Quality that may be lost where neither a tolerance nor a budget is given."""


@checked()
@outside_modes()
def shrink(
    model: nn.Module,
    *,
    images: Iterable[Any] | None = None,
    batches: Iterable[Any] | None = None,
    metric: Metric | Metrics | None = None,
    tolerance: float | None = None,
    max_macs: float | None = None,
    max_parameters: float | None = None,
    max_latency: float | None = None,
    max_bytes: float | None = None,
    ignore_index: int | None = None,
    keys: Keys | None = None,
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

    Of a single channel, f1, iou, accuracy and dice are taken at the threshold that is best for each
    network, found on ``batches`` and shown as ``threshold``; it need be neither 0 of logits nor 0.5
    of probabilities. ``unadjusted`` is the quality at the threshold that is best for the whole
    network.

    A depth at which one of several outputs is lost, because it is computed in what is removed, is
    refused; coarser versions of the first output, as for deep supervision, may go.

    Args:
        model: A trained encoder-decoder.
        images: Unlabelled images for recovery, as for ``Variant.recover``; by default the inputs of
            ``batches``, which then serve for recovery and for the measurement: the qualities come
            out a little too high.
        batches: ``(inputs, targets)`` pairs to measure quality on, as for ``ablate``.
        metric: As for ``ablate``; of several outputs for one by its name, with None for those that
            may be lost, ``{"seg": "f1", "cls": None}``. Without it, quality is the agreement with
            the whole network on the images that recovery held back.
        tolerance: Quality that may be lost: in the unit of ``metric`` where that lies between 0
            and 1 (f1, iou, accuracy, dice; metric objects of torchmetrics whose
            ``plot_lower_bound`` and ``plot_upper_bound`` are 0 and 1, the more the better, MONAI's
            of overlap, and SSIM; the agreement), else as a share of the skill over the best trivial
            answer. A function is of the second kind; it is of the first where you set these two
            attributes and ``higher_is_better = True``. ``Search.unit`` says which. The standard
            error of the loss over the images of ``batches`` is added, so that what is chosen keeps
            its promise on other images. 0.02 where no limit is given.
        max_macs: Largest number of multiply-accumulates of a forward on the example input.
        max_parameters: Largest number of parameters.
        max_latency: Longest median time of a forward on the example input, in seconds.
        max_bytes: Largest size of parameters and buffers.
        ignore_index: Value of targets that does not count, or number of a class that does not, for
            the built-in metrics.
        keys: Where inputs and targets are in what ``batches`` yields, as for ``ablate``.
        example_inputs: What to read the network with; by default the first image.
        layout: What the axes of the images are, as for ``analyze``.
        part: The part that is cut, as for ``analyze``.
        steps: Training steps of each recovery.
        repeats: Timed forwards of each network, at least 2.
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
            f"{keyword('batches')} and {keyword('metric')} belong together: give labelled images "
            "and what to judge them by"
        )
    if metric is None and ignore_index is not None:
        raise InputError(f"{keyword('ignore_index', ignore_index)} needs {keyword('metric')}")
    judged, judge = one_metric(metric)
    check_metric(judge)
    folder = None if resume is None else make_folder(resume)
    pairs = None if batches is None else read_batches(batches, model, keys)
    given = _images(images, pairs)
    first = next(given)
    source = ""
    if example_inputs is None:
        source = "images" if pairs is None else "batches"
        example_inputs = _example(first, pairs, model)
    with alone(), stood_for("example_inputs", source):
        structure = read_structure(model, example_inputs, layout=layout, part=part)
        refuse_broken(model, "the original", "load its weights again")
        costs = count_costs(model, structure.inputs)
        proposals = propose(structure, assess(structure, measure_model(model)), costs)
    kept = list(enough(structure, chain([first], given), steps))
    counted = _counted(structure, kept, metric, seed)
    proposals = tuple(
        _without_loss(p, counted) for p in sorted(proposals, key=lambda p: -p.keep_levels)
    )
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
    measure = (
        ByAgreement() if pairs is None else ByMetric(structure, pairs, judge, judged, ignore_index)
    )

    def recover(variant: Variant, name: str) -> Recovery:
        file = None if folder is None else folder / f"{name}.pt"
        try:
            return variant.recover(kept, steps=steps, seed=seed, progress=progress, resume=file)
        except AnotherRecoveryError as reason:
            raise InputError(
                f"the folder {str(folder)!r} holds recoveries of another search: other images, "
                f"{keyword('steps')}, {keyword('seed')}, another network or other weights; remove "
                f"the folder, or give another one as {keyword('resume')}"
            ) from reason

    with steps_shown(len(proposals) + len(goals), "shrink", shown=progress) as begin:
        trials = Trials(structure, goals, measure, recover, begin, random, seed)
        found = trials.thinned(whole(structure)) if structure.depth in goals else []
        for proposal in proposals:
            found += trials.of_depth(proposal)
    itself = Candidate(
        keep_levels=structure.depth,
        thinned=False,
        parameters=costs.parameters,
        macs=costs.macs,
        bytes=size_in_bytes(model),
        latency=None,
        cut=measure.whole.quality,
        quality=measure.whole.quality,
        thresholds=measure.whole.thresholds,
        unadjusted=measure.whole.unadjusted,
        lost=0.0,
        error=math.nan if pairs is None else 0.0,
        refusal="",
        variant=None,
        random=measure.whole.quality,
        random_refusal="",
    )
    ready = timed(structure, [itself, *found], repeats)
    return Search(
        metric=measure.name,
        unit=measure.unit,
        limits=limits,
        budget=budget,
        trivial=measure.trivial,
        skill=measure.lost(measure.trivial) if measure.skilled else 0.0,
        whole=ready[0],
        candidates=tuple(ready[1:]),
    )


def _counted(structure: Structure, kept: Sequence[Any], metric: Any, seed: int) -> tuple[str, ...]:
    """Outputs that may not be lost: coarser versions of the first, and those without a metric, may.

    Raises:
        ForwardError: The model's forward raises on the images.
    """
    losing = any(structure.lost_outputs(cut.keep_levels) for cut in structure.cuts)
    if not losing:
        return ()
    found = CoarserOutputs(structure)
    pool = make_pool(read_images(structure, kept), seed, together(structure))
    with alone(), undisturbed(structure.model):
        for part in pool.held_back:
            inputs = to_device(pool.inputs(part), structure.model)
            with forward_errors(structure.model, inputs, keyword("images")):
                found.add(inputs)
    named = metric.items() if isinstance(metric, Mapping) else ()
    spared = [p for name, one in named if one is None for p in places_of(structure, name)]
    return tuple(place for place in found.counted if place not in spared)


def _without_loss(proposal: Proposal, counted: Sequence[str]) -> Proposal:
    """The same, refused where an output that counts is lost."""
    if proposal.refusal is not None:
        return proposal
    lost = [p for p in proposal.structure.lost_outputs(proposal.keep_levels) if p in counted]
    if not lost:
        return proposal
    are = "are" if len(lost) > 1 else "is"
    return replace(
        proposal,
        refusal=f"{outputs_at(lost)} {are} computed in what would be removed; let the forward "
        "leave out what serves the training alone (nnU-Net: deep_supervision=False), or say in "
        "Python that it may be lost: a metric for each output by its name, with None for it",
    )


def _limits(tolerance: float | None, *budgets: float | None) -> Limits:
    """The limits asked for; where none is, the default tolerance."""
    for limit, value in zip(fields(Limits), (tolerance, *budgets), strict=True):
        if value is not None and not value >= 0:
            raise InputError(f"{keyword(limit.name, value)} must not be negative")
        if value == 0 and limit.name != "tolerance":
            raise InputError(f"{keyword(limit.name, value)} leaves no network; give more than 0")
    if tolerance is None and all(limit is None for limit in budgets):
        tolerance = TOLERANCE
    return Limits(tolerance, *budgets)


def _images(images: Iterable[Any] | None, pairs: Sequence[Batch] | None) -> Iterator[Any]:
    """What teaches in the recoveries, in batches: the images, or the inputs of the labelled."""
    if images is None and pairs is None:
        raise InputError(
            f"give {keyword('images')} for the recovery, or {keyword('batches')} with "
            f"{keyword('metric')}"
        )
    given = [inputs for inputs, _ in pairs or ()] if images is None else images
    batches = each_batch(given)
    first = next(batches, None)
    if first is None:
        raise InputError(f"{keyword('images')} is empty; give at least one batch of images")
    return chain([first], batches)


def _example(first: Any, pairs: Sequence[Batch] | None, model: nn.Module) -> Any:
    """The first image that there is, as arguments of the forward."""
    found = example_in(first, model) if pairs is None else first_image(pairs)
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
