"""What each level is worth: replace everything below a cut by a constant, measure the loss."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from weightscope.adapters import pytree
from weightscope.adapters.modes import alone
from weightscope.arguments import attribute_of, checked
from weightscope.batches import Batch, Keys, first_image, read_batches, which_image
from weightscope.calls import (
    call_arguments,
    device_of,
    forward_errors,
    is_complex,
    tensors_by_place,
    to_device,
    undisturbed,
)
from weightscope.errors import InputError, keyword
from weightscope.graph.running import (
    CutRuns,
    GraphRun,
    MeanActivation,
    needed_for,
    same_draws,
)
from weightscope.graph.structure import Cut, Site, Structure
from weightscope.probing.inputs import in_channels
from weightscope.probing.outputs import CoarserOutputs, images_and_target, predictions
from weightscope.progress import bar
from weightscope.statistics.tensors import not_finite
from weightscope.thresholds import MINIMUM_SKILL, RESOLUTION
from weightscope.utilization.ablated import AblationResult, LevelAblation
from weightscope.utilization.answers import Beside, Filled
from weightscope.utilization.channels import ChannelMeter
from weightscope.utilization.intervals import interval, surely_above
from weightscope.utilization.judging import (
    Judge,
    JudgedOutputs,
    Metric,
    Metrics,
    judge_by,
    one_of_several,
    refuse_unnamed_outputs,
)
from weightscope.utilization.metrics import (
    BoolArray,
    FloatArray,
    ImageValues,
    Quality,
    best_thresholds,
    by_class,
    quality_at,
    resampled,
)
from weightscope.utilization.readings import are_classes, are_constant, first_answer, logits_note
from weightscope.utilization.recalibration import RecalibratedValues
from weightscope.utilization.segmentation import SEGMENTATION, ClassesApart, Segmentation
from weightscope.utilization.targets import marks_in
from weightscope.utilization.worst import (
    APART,
    by_number,
    of_the_worst,
    of_the_worst_apart,
    of_the_worst_part,
)
from weightscope.wrappers import unwrap

if TYPE_CHECKING:
    import pandas as pd

Fill = Literal["mean", "zero", "shuffle"]


def shuffled_images(value: Tensor, generator: torch.Generator) -> Tensor:
    """Give every image of a batch the activation of another one."""
    images = len(value)
    if images < 2:
        raise InputError(f"{keyword('fill', repr('shuffle'))} needs batches of two images or more")
    order = torch.randperm(images, generator=generator, device="cpu")
    return value[order[(torch.argsort(order) + 1) % images]]


def ablate_levels(
    structure: Structure,
    batches: Sequence[Batch],
    metric: Metric,
    *,
    larger_is_better: bool | None = None,
    ignore_index: int | None = None,
    recalibrate: bool = False,
    output: Any = None,
    fill: Fill = "mean",
    resamples: int = 1000,
    seed: int = 0,
    progress: bool = False,
) -> AblationResult:
    """Replace the exits of each legal cut and measure the quality that is lost.

    Args:
        structure: The network and its cuts.
        batches: ``(inputs, targets)`` pairs, see `read_batches`.
        metric: A built-in name, or a callable, see `judge_by`.
        larger_is_better: Of a callable; None where its values show it.
        ignore_index: Value of targets that does not count, for the built-in metrics.
        recalibrate: See `judge_by`.
        output: Name or number of the one of several outputs that is judged, by the target of the
            same name.
        fill: Put each exit's mean over images and positions (one number per channel) in its place,
            zeros, or the activation of another image of the batch.
        resamples: Bootstrap resamples over images.
        seed: Of the bootstrap and the shuffling.
        progress: Show a bar.

    Raises:
        InputError: The batches or the metric do not fit, or ``fill`` is unknown.
        ForwardError: The model's forward raises on a batch.
    """
    if fill not in ("mean", "zero", "shuffle"):
        raise InputError(f"unknown fill {fill!r}; choose 'mean', 'zero' or 'shuffle'")
    model = structure.model
    refuse_broken_weights(model)
    if output is not None:
        batches = [(x, one_of_several(target, output, "targets")) for x, target in batches]
    ignored = {ignore_index, attribute_of(metric, "ignore_index")} - {None}
    targets = [target for _, target in batches]
    constant = are_constant(targets, structure.inputs.dimensions, ignored)
    judge = judge_by(
        metric,
        batches,
        dimensions=structure.inputs.dimensions,
        device=device_of(model),
        arrange=partial(images_and_target, structure),
        larger_is_better=larger_is_better,
        ignore_index=ignore_index,
        recalibrate=recalibrate and not constant,  # a fit to one answer would go on for ever
    )
    versions = coarser_outputs(structure, batches) if output is None else frozenset()
    coarser = versions and versions - _read_of_first_batch(structure, batches, metric)
    counted = [place for place in places_of(structure, output) if place not in coarser]
    runs = CutRuns(structure, counted)
    means = {node: MeanActivation(site.channel_axes) for node, site in runs.sites.items()}

    def own(outputs: Any) -> Any:
        return outputs if output is None else one_of_several(outputs, output, "outputs")

    told = JudgedOutputs(metric, device_of(model), coarser)
    left = [judge.meter() for _ in structure.cuts]
    alone = _channel_meter(structure, judge, targets, own)
    apart = _classes_apart(structure, metric, targets, own, ignore_index)
    passed = bar(2 * len(batches), "ablation", shown=progress, unit="batch")
    with undisturbed(model), judge.kept(), torch.no_grad(), passed as advance:
        for inputs, outputs in _averaged(structure, batches, means, alone, own):
            alone.look(inputs, outputs)
            advance(1)
        fills = [_filler(fill, means, seed) for _ in structure.cuts]
        for index, (inputs, target) in enumerate(batches):
            with forward_errors(model, inputs, f"batch {index}"):
                outputs, values = runs.whole(inputs)
            _check_outputs(outputs, index, model)
            if output is None:
                told.add(outputs, target)
            judge.add(own(outputs), without_levels(runs, values, own))
            alone.add(inputs, own(outputs), told.read)
            apart.add(own(outputs))
            for place, (cut, filler, meter) in enumerate(
                zip(structure.cuts, fills, left, strict=True)
            ):
                without = own(runs.without(cut, values, filler))
                meter.add(without)
                alone.add_cut(place, without)
                apart.add(without, 1 + place)
            advance(1)
        whole, chance, larger = judge.whole(), judge.trivial(), judge.larger_is_better()
        ablated = [meter.quality() for meter in left]
        floor = floor_of(judge, chance)
    named = told.by_name if output is None else named_output(structure, output)
    judged = (named,) if named else told.judged
    read = told.read if output is None else frozenset(counted)
    weighing = images_that_weigh(whole, chance, ablated)
    which = np.array(which_image([inputs for inputs, _ in batches]))
    weight = len(np.unique(which[weighing]))
    drawn = resampled(which.tolist(), resamples, seed)
    weights = np.concatenate([np.ones((1, whole.images)), drawn])
    sign = 1.0 if larger else -1.0
    classes = by_class(whole, weights)
    several = by_number(whole, weights) if larger else {}
    channels, *channels_left = alone.by_cut(whole.images, weights, sign)
    one_by_one, *one_by_one_left = apart.by_cut(weights)
    full, trivial, best = whole.of(weights), chance.of(weights), best_thresholds(whole)

    def level(place: int, cut: Cut, quality: Quality) -> LevelAblation:
        lost = tuple(p for p in structure.lost_outputs(cut.keep_levels) if p in read)
        if lost and len(lost) == len(read):
            return replace(_record(cut, whole, chance, weights, sign, weight, None), lost=lost)
        at_best = _unadjusted(quality, best)
        record = _record(cut, whole, quality, weights, sign, weight, at_best)
        worst = (
            of_the_worst(classes, by_class(quality, weights), weight)
            or of_the_worst(several, by_number(quality, weights), weight, kind="number")
            or of_the_worst_part(channels, channels_left[place], weight, alone)
            or of_the_worst_apart(one_by_one, one_by_one_left[place], weight)
        )
        return replace(record, lost=lost, hidden=alone.hidden(place), **worst)

    return AblationResult(
        levels=tuple(map(level, itertools.count(), structure.cuts, ablated)),
        quality=float(full[0]),
        chance=float(trivial[0]),
        skill_low=surely_above(sign * (full - trivial), weight),
        images=weight,
        metric=f"{judge.name} of outputs{named}" if named else judge.name,
        floor=floor,
        larger_is_better=larger,
        recalibrated=judge.recalibrated,
        judged=judged,
        unjudged=told.unjudged,
        versions=tuple(sorted(versions - coarser)),
        unlearned=tuple(
            number
            for number, (own, constant) in (classes or one_by_one).items()
            # of what there is to gain: hardly any is of a background that is nearly everything
            if number >= 0 and own[0] - constant[0] <= MINIMUM_SKILL * (1.0 - constant[0])
        ),
        given=len(np.unique(which)),
        constant_targets=constant,
        trivial=chance.what,
    )


def without_levels(runs: CutRuns, values: Mapping[str, Any], own: Callable[[Any], Any]) -> Beside:
    """What a network answers or computes without its levels, as `Judge.add` takes it.

    Args:
        runs: Of the network.
        values: From the last call of `CutRuns.whole`.
        own: Takes of all outputs what is judged.
    """
    tail = runs.tail(values)
    base = runs.without_weights(tail)
    return Beside(
        None if base is None else own(base),
        [in_channels(x, runs.structure.inputs) for x in runs.computed(values)],
        None if tail is None else Filled(tail, own),
    )


def _channel_meter(
    structure: Structure,
    judge: Judge,
    targets: Sequence[Any],
    own: Callable[[Any], Any],
) -> ChannelMeter:
    """What asks each channel of a regression and each output; of classes it asks nothing."""
    answer, dimensions = own(structure.returned), structure.inputs.dimensions
    numbers = not judge.recalibrated and not are_classes(targets, dimensions, answer)
    metric = judge.metric if numbers else None
    return ChannelMeter(structure, metric, targets, device_of(structure.model))


def _classes_apart(
    structure: Structure,
    metric: Metric,
    targets: Sequence[Any],
    own: Callable[[Any], Any],
    ignore_index: int | None,
) -> ClassesApart:
    """What judges each class of a single output, where the metric takes all of them together."""
    answer, dimensions = own(structure.returned), structure.inputs.dimensions
    single = len(tensors_by_place(answer)) == 1
    by_class = isinstance(metric, str) and SEGMENTATION.get(metric, "accuracy") != "accuracy"
    reader = None
    if single and not by_class and are_classes(targets, dimensions, answer):
        given = (ignore_index, attribute_of(metric, "ignore_index"), *marks_in(targets))
        left_out = next((number for number in given if isinstance(number, int)), None)
        with suppress(InputError):
            reader = Segmentation(APART, targets, dimensions, left_out)
    return ClassesApart(reader, len(structure.cuts))


def _averaged(
    structure: Structure,
    batches: Sequence[Batch],
    means: Mapping[str, MeanActivation],
    alone: ChannelMeter,
    own: Callable[[Any], Any],
) -> Iterator[tuple[Any, Any]]:
    """Run the network for the means of activations, up to its outputs if these are looked at."""
    needed = None if alone.asks else needed_for(structure.graph, means)
    averaging = GraphRun(structure, {node: mean.add for node, mean in means.items()}, needed)
    for index, (inputs, _) in enumerate(batches):
        check_images(inputs, index, structure)
        forward = forward_errors(structure.model, inputs, f"batch {index}")
        with forward, same_draws(structure, index):
            outputs = averaging.predict(inputs)
        yield inputs, own(outputs) if alone.asks else None


def images_that_weigh(whole: Quality, chance: Quality, ablated: Sequence[Quality]) -> BoolArray:
    """Which images the skill and its loss hang on, (images,).

    Those that hold something to judge. Of one value for each image, those that have one, and of
    these not those whose value is the same for all these answers, such as a sum over no pixel.

    Args:
        whole: Of the whole network.
        chance: Of the best trivial answer.
        ablated: Of the network without each cut's levels.
    """
    weighing = whole.weighing & chance.weighing
    values = [q.values for q in (whole, chance, *ablated) if isinstance(q, ImageValues)]
    differ = np.ptp(values, 0) > 0.0 if values else weighing
    return weighing & differ if bool((weighing & differ).any()) else weighing


def ablate_outputs(
    structure: Structure,
    batches: Sequence[Batch],
    metrics: Metrics,
    *,
    ignore_index: int | None = None,
    **options: Any,
) -> list[AblationResult]:
    """The same by a metric of its own for each of several outputs, the skilled ones first.

    Args:
        structure: The network and its cuts.
        batches: Inputs, and targets by the names of the outputs.
        metrics: By the same names; None for an output that does not count.
        ignore_index: For those that are built-in metrics of classes.
        options: See `ablate_levels`.

    Raises:
        InputError: An output has no metric, or as of `ablate_levels`.
    """
    outputs = first_answer(structure, batches)
    coarser = coarser_outputs(structure, batches)
    refuse_unnamed_outputs(
        metrics, outputs, [place for place in predictions(outputs) if place not in coarser]
    )
    found = [
        ablate_levels(
            structure,
            batches,
            metric,
            ignore_index=ignore_index if metric in list(SEGMENTATION) else None,
            output=output,
            **options,
        )
        for output, metric in metrics.items()
        if metric is not None
    ]
    return sorted(found, key=lambda result: not result.skilled)


def coarser_outputs(structure: Structure, batches: Sequence[Batch]) -> frozenset[str]:
    """Which outputs no level is of use for on these images, see `CoarserOutputs`.

    Raises:
        InputError: Images have no batch dimension.
        ForwardError: The model's forward raises on a batch.
    """
    found = CoarserOutputs(structure)
    with undisturbed(structure.model):
        for index, (inputs, _) in enumerate(batches):
            check_images(inputs, index, structure)
            with forward_errors(structure.model, inputs, f"batch {index}"):
                found.add(inputs)
    return found.places


def _read_of_first_batch(
    structure: Structure, batches: Sequence[Batch], metric: Metric
) -> frozenset[str]:
    """Which outputs the metric reads, coarser versions of the first among them."""
    told = JudgedOutputs(metric, device_of(structure.model))
    inputs, targets = batches[0]
    with undisturbed(structure.model), torch.no_grad(), same_draws(structure):
        told.add(GraphRun(structure, {}).predict(inputs), targets)
    return told.read


def places_of(structure: Structure, output: Any) -> list[str]:
    """The places of all tensors in one of several outputs, by its name or number; None: in all."""
    returned = structure.returned
    one = returned if output is None else one_of_several(returned, output, "outputs")
    held = [id(leaf) for leaf in pytree.tree_tensors(one)]
    return [place for place, leaf in tensors_by_place(returned).items() if id(leaf) in held]


def named_output(structure: Structure, output: Any) -> str:
    """One of several outputs by what gets at it, which may be given in its stead."""
    places = places_of(structure, output)
    return places[0] if len(places) == 1 else f"[{output!r}]"


def floor_of(judge: Judge, chance: Quality) -> float:
    """Skill that does not count yet, given the quality of the best trivial answer."""
    if judge.metric is None:
        return MINIMUM_SKILL
    trivial = abs(float(chance.of(np.ones((1, chance.images)))[0]))
    share = MINIMUM_SKILL if judge.recalibrated else RESOLUTION
    return share * trivial + judge.resolution()


def refuse_broken_weights(model: nn.Module) -> None:
    """Refuse to evaluate a model whose weights are no numbers: its outputs would be none either.

    Raises:
        InputError: Parameters or running statistics hold nan or infinite values; they are named.
    """
    if broken := not_finite(model):
        raise InputError(
            f"{broken} of {type(model).__name__} hold nan or infinite "
            "values, so that no batch says anything; repair the weights, or analyse them without "
            f"{keyword('batches')}"
        )


def check_images(inputs: Any, index: int, structure: Structure) -> None:
    """Refuse images without a batch dimension, which many operators take for something else."""
    leaves = pytree.tree_tensors(call_arguments(inputs))
    expected = structure.inputs.rank
    if max(leaf.dim() for leaf in leaves) == expected - 1:
        raise InputError(
            f"the images of batch {index} have {expected - 1} dimensions, expected {expected} "
            "(images, channels, sizes); give single images a batch dimension, image[None]"
        )


def _check_outputs(output: Any, index: int, model: nn.Module) -> None:
    """Refuse outputs that have no order: the cost of a cut could not be measured by them."""
    if is_complex(output):
        raise InputError(
            f"{type(model).__name__} returned complex numbers for batch {index}, which cannot be "
            "judged; let the model return real ones, such as output.abs() or "
            "torch.view_as_real(output)"
        )


def _filler(
    fill: Fill, means: Mapping[str, MeanActivation], seed: int
) -> Callable[[Site, Tensor], Tensor]:
    """What to put in an exit's place. The same seed gives all exits of a cut the same shuffle."""
    if fill == "mean":
        return lambda site, value: means[site.node].replace(value)
    if fill == "zero":
        return lambda site, value: torch.zeros_like(value)
    generators = {node: torch.Generator().manual_seed(seed) for node in means}
    return lambda site, value: shuffled_images(value, generators[site.node])


def _unadjusted(quality: Quality, best: Sequence[float]) -> float | None:
    """See `LevelAblation`; `best` are the whole network's thresholds."""
    if isinstance(quality, RecalibratedValues):
        return float(quality.as_given.of(np.ones((1, quality.images)))[0])
    return quality_at(quality, best)


def _record(
    cut: Cut,
    whole: Quality,
    ablated: Quality,
    weights: FloatArray,
    sign: float,
    images: int,
    unadjusted: float | None,
) -> LevelAblation:
    """Compare whole and ablated quality on the images and on their resamples."""
    common, silenced, quality = -1, 0, float(whole.of(weights[:1])[0])
    if isinstance(whole, ImageValues) and isinstance(ablated, ImageValues):
        both = whole.known & ablated.known
        if not np.array_equal(both, whole.known):
            common = int(both.sum())
            silenced = int(whole.known.sum()) - common
            images = min(images, common)
        whole, ablated = whole.among(both), ablated.among(both)
        quality = float(whole.of(weights[:1])[0]) if both.any() else quality
    full, left = whole.of(weights), ablated.of(weights)
    drops = sign * (full - left)
    low, high = interval(drops[1:], images)
    return LevelAblation(
        images=common,
        silenced=silenced,
        keep_levels=cut.keep_levels,
        quality=quality,
        ablated=float(left[0]),
        drop=float(drops[0]),
        low=low,
        high=high,
        unadjusted=unadjusted,
    )


@checked()
@alone()
def ablate(
    model: nn.Module,
    batches: Iterable[Any],
    metric: Metric | Metrics,
    *,
    ignore_index: int | None = None,
    keys: Keys | None = None,
    fill: Fill = "mean",
    example_inputs: Any = None,
    layout: str | None = None,
    part: str | None = None,
    resamples: int = 1000,
    seed: int = 0,
    progress: bool = True,
) -> pd.DataFrame:
    """Measure what each level of a network is worth, by inference alone.

    For every depth at which the network can be cut, all tensors that come back from below the cut
    are replaced, and the quality lost is reported with a 95 % bootstrap interval over images. Where
    a metric is taken at its best threshold, that threshold is found again for each network. Of an
    output that is computed below the cut all skill is lost. The model, its modes, buffers and the
    random state are left as they were.

    Args:
        model: The trained network.
        batches: What a loader yields, read once and kept in memory: pairs ``(inputs, targets)``,
            longer tuples, mappings, or a `Dataset`. Inputs are a tensor, a tuple of positional or a
            mapping of keyword arguments; arrays will do.
        metric: ``"f1"`` (or ``"dice"``), ``"iou"``, ``"accuracy"``, ``"average_precision"``; for
            regression ``"mae"``, ``"mse"``, ``"psnr"``; or a callable ``metric(outputs, targets)``,
            asked for one image at a time: a function, a loss, a metric of torchmetrics or MONAI. Of
            several outputs a name judges the first (``logits`` or ``out`` of a mapping); a callable
            is given them all. Or a metric for each output by its name or number, such as
            ``{"seg": "f1", "depth": "mae"}``, or by its place (``"[1]['edges']"``) where it lies
            deeper, with targets of the same names, and None for an output that does not count;
            then there are rows for each.
        ignore_index: Value of targets that does not count, or number of a class that does not, for
            the built-in metrics.
        keys: Where inputs and targets are in a batch, as keys or positions, such as
            ``("image", "mask")``.
        fill: ``"mean"``, ``"zero"`` or ``"shuffle"``.
        example_inputs: What to read the network with; by default the first image of the batches.
        layout: What the axes of the images are, as for ``analyze``.
        part: The part that levels are removed of, as for ``analyze``.
        resamples: Bootstrap resamples.
        seed: Of bootstrap and shuffling.
        progress: Show a bar.

    Returns:
        One row per legal depth: keep_levels; quality, ablated (in the metric's own unit); drop (the
        quality lost), low, high; unadjusted (ablated at the whole network's threshold, nan where
        none is searched); share_lost (drop as a share of the skill, nan without skill);
        chance (quality of the best constant, or of the input itself), images, metric, fill.

    Warns:
        UserWarning: The model returns probabilities, and the metric takes them for logits; or no
            level can be cut, with the reasons, and the table is empty.

    Raises:
        InputError: Batches, metric or fill cannot be used.
        ForwardError: The model's forward raises on a batch.
        StructureError: The network has no readable encoder-decoder shape.

    Example:
        >>> import torch, weightscope as ws, mpseg_models
        >>> model = mpseg_models.create_model("half_unet", width=4)
        >>> images = torch.rand(4, 3, 32, 32)
        >>> batches = [(images, (images.mean(1, keepdim=True) > 0.5).float())]
        >>> list(ws.ablate(model, batches, "f1", progress=False).keep_levels)
        [1, 2]
    """
    from weightscope.graph import read_structure

    model = unwrap(model).model
    pairs = read_batches(batches, model, keys)
    if example_inputs is None:
        example_inputs = to_device(first_image(pairs), model)
    structure = read_structure(model, example_inputs, layout=layout, part=part)
    if not structure.cuts:
        reasons = dict.fromkeys(refusal.reason for refusal in structure.refusals)
        warnings.warn(
            f"no level of {type(model).__name__} can be cut, and the table is empty: "
            + "; ".join(reasons),
            stacklevel=4,  # two frames are of the decorators
        )
    options: dict[str, Any] = {
        "ignore_index": ignore_index,
        "fill": fill,
        "resamples": resamples,
        "seed": seed,
        "progress": progress,
    }
    if isinstance(metric, Mapping):
        import pandas as pd

        found = ablate_outputs(structure, pairs, metric, **options)
        return pd.concat([r.frame() for r in found], ignore_index=True).assign(fill=fill)
    result = ablate_levels(structure, pairs, metric, **options)
    note = logits_note(structure, pairs, metric, "metric")
    if note:
        warnings.warn(note, stacklevel=4)
    return result.frame().assign(fill=fill)
