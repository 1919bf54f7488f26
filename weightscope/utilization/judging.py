"""One way to judge outputs by any metric: built in, a loss, or somebody else's."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import is_dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from weightscope.adapters import pytree
from weightscope.arguments import attribute_of
from weightscope.batches import Batch
from weightscope.calls import is_complex, leaves_by_place, only_tensor, tensors_by_place
from weightscope.errors import InputError, keyword, shown
from weightscope.probing.nearest import varies
from weightscope.probing.outputs import predictions
from weightscope.thresholds import RESOLUTION
from weightscope.utilization.answers import FILLED, NOTHING, Arrange, Beside, OutputShapes, as_given
from weightscope.utilization.metrics import CountedQuality, FloatArray, ImageValues, Quality
from weightscope.utilization.readings import right_answer
from weightscope.utilization.recalibration import RecalibratedMeter
from weightscope.utilization.segmentation import (
    SEGMENTATION,
    Pixels,
    Segmentation,
    SegmentationMeter,
)
from weightscope.utilization.targets import CLASSES, is_mask, is_prediction
from weightscope.utilization.trivial import CONSTANT, at_even_odds, best_trivial
from weightscope.utilization.values import (
    Evaluate,
    ValueMeter,
    ValueMetric,
    image_values,
    mean_absolute_error,
    mean_of_known,
    mean_squared_error,
    on_device,
    peak_signal_to_noise,
    takes_decisions,
    why_no_number,
)

Metric = str | Evaluate
Metrics = Mapping[Any, Metric | None]
"""A metric for each of several outputs by its name or number; None for one that does not count."""

REGRESSION = ("mae", "mse", "psnr")
"""Built-in metrics of numbers; PSNR is taken over the range of the targets."""


class Meter(Protocol):
    """Collects what a metric needs of the outputs, batch by batch."""

    def add(self, output: Any) -> None:
        """Add the outputs for the next batch."""
        ...

    def quality(self) -> Quality:
        """The quality of all batches, which can be resampled over images."""
        ...


class TrivialQuality(Quality, Protocol):
    """Quality of an answer that needs no network.

    Attributes:
        what: The answer, in words.
    """

    what: str


class Judge(Protocol):
    """Judges a network's outputs, those of its ablations, and the best trivial answer.

    Attributes:
        recalibrated: Whether it is a loss after a scale and an offset of each output channel.
    """

    recalibrated: bool

    @property
    def bounded(self) -> bool:
        """Whether quality lies between 0 and 1, the more the better; once outputs were added."""
        ...

    @property
    def metric(self) -> ValueMetric | None:
        """What is asked of each image; None where counts are all there is."""
        ...

    @property
    def name(self) -> str:
        """Of the metric; with what was averaged, once outputs were added."""
        ...

    def kept(self) -> AbstractContextManager[None]:
        """While anything is judged: the metric is left as it was."""
        ...

    def meter(self) -> Meter:
        """For one way to run the network over all batches."""
        ...

    def add(self, output: Any, beside: Beside = NOTHING) -> None:
        """Add what the whole network returned for the next batch, and what else may answer so.

        Args:
            output: What it returned.
            beside: What it answers or computes of it without its levels.
        """
        ...

    def whole(self) -> Quality:
        """Quality of the whole network."""
        ...

    def trivial(self) -> TrivialQuality:
        """Quality of the best answer that needs no network."""
        ...

    def larger_is_better(self) -> bool:
        """Whether a larger number is better; False for a loss or an error."""
        ...

    def resolution(self) -> float:
        """Differences of the quality below this are rounding, however good the trivial answer."""
        ...


def judge_by(
    metric: Metric,
    batches: Sequence[Batch],
    *,
    dimensions: int,
    device: torch.device,
    larger_is_better: bool | None = None,
    ignore_index: int | None = None,
    recalibrate: bool = False,
    arrange: Arrange = as_given,
) -> Judge:
    """Make ready to judge outputs for some batches.

    Args:
        metric: A built-in name (`SEGMENTATION`, `REGRESSION`), or a callable
            ``metric(outputs, targets)``, asked for one image at a time with its batch dimension.
        batches: All inputs and targets, in the order in which outputs will come.
        dimensions: Number of spatial dimensions of the images.
        device: Where the outputs will be.
        larger_is_better: Of a callable; None where its values show it.
        ignore_index: Value of targets that does not count.
        recalibrate: Whether a callable, a loss of classes, is taken after a scale and an offset of
            each output channel, see `RecalibratedMeter`.
        arrange: See `as_given`.

    Raises:
        InputError: The name is unknown, or ``ignore_index`` does not apply.
    """
    targets = [target for _, target in batches]
    if isinstance(metric, str) and any(map(is_complex, targets)):
        raise InputError(
            f"the targets are complex and metric {metric!r} is of real numbers; give real targets, "
            "such as target.abs(), or in Python a callable metric(outputs, targets)"
        )
    if isinstance(metric, str) and metric in SEGMENTATION:
        return _ClassJudge(Segmentation(metric, targets, dimensions, ignore_index))
    own = attribute_of(metric, "ignore_index")
    if ignore_index is not None and ignore_index != own:
        names = ", ".join(map(repr, SEGMENTATION))
        text = (
            f"{keyword('ignore_index', ignore_index)} is for the metrics {names}; a loss or "
            "another callable leaves values out by itself"
        )
        if isinstance(own, int):
            text += (
                f", and this {type(metric).__name__} leaves out {own}: build it with "
                f"ignore_index={ignore_index}, and leave the argument out or give "
                f"{keyword('metric')} too"
            )
        raise InputError(text)
    if not isinstance(metric, str):
        check_metric(metric)
        value = ValueMetric(metric, larger_is_better)
        if recalibrate:
            return _RecalibratingJudge(
                value, batches, device, arrange, f"{value.name}, recalibrated"
            )
        return _ValueJudge(value, batches, device, arrange)
    check_metric(metric)
    function: Evaluate = mean_absolute_error if metric == "mae" else mean_squared_error
    if metric == "psnr":
        function = peak_signal_to_noise(_range_of(targets))
    value = ValueMetric(function, metric == "psnr", metric)
    return _ValueJudge(value, batches, device, arrange)


def check_metric(metric: Metric | Metrics | None) -> None:
    """Refuse what is neither the name of a metric nor a function of outputs and targets.

    Raises:
        InputError: It is neither.
    """
    if isinstance(metric, Mapping):
        for one in metric.values():
            check_metric(one)
    elif isinstance(metric, str) and metric not in (*SEGMENTATION, *REGRESSION):
        known = ", ".join(map(repr, (*SEGMENTATION, *REGRESSION)))
        raise InputError(
            f"unknown metric {metric!r}; choose one of {known}, or in Python give a callable "
            "metric(outputs, targets)"
        )
    elif isinstance(metric, type):
        raise InputError(
            f"{keyword('metric', metric.__name__)} is a class; give an object of it, "
            f"{metric.__name__}(), with the arguments that it needs"
        )
    elif metric is not None and not isinstance(metric, str) and not callable(metric):
        raise InputError(
            f"{keyword('metric')} is {type(metric).__name__}, expected a name or a callable"
        )


def judged_output(metric: Metric, output: Any, targets: Any) -> str:
    """Which of several outputs a metric of one judges, by what gets at it: ``[0]``, ``['seg']``.

    Args:
        metric: As for `judge_by`.
        output: What the network returned.
        targets: Of the same batch.

    Returns:
        Empty where there is one output, or the metric is given them all.

    Raises:
        InputError: By their names, the output would be judged by the target of another one.
    """
    places = tensors_by_place(output)
    if len(places) < 2 or not (isinstance(metric, str) or takes_decisions(metric)):
        return ""
    first = only_tensor(output)
    judged = next(place for place, leaf in places.items() if leaf is first)
    named = tensors_by_place(targets)
    own = {name_at(place): place for place in named}.get(name_at(judged))
    if (
        own is not None
        and (isinstance(targets, Mapping) or isinstance(name_at(judged), str))
        and named[own] is not only_tensor(targets)
    ):
        wrong = next(place for place, leaf in named.items() if leaf is only_tensor(targets))
        raise InputError(
            f"outputs{judged} would be judged by targets{wrong}; give the target of one output, "
            f"targets{own}, or a callable metric(outputs, targets) that judges all"
        )
    return judged


class JudgedOutputs:
    """Which of several outputs a metric judges.

    A metric by name judges one. A callable is given all of them and judges those that it reads:
    its values change with them.

    Args:
        metric: As for `judge_by`.
        device: Where the outputs are.
        coarser: Outputs that no level is of use for, see `CoarserOutputs`.
    """

    def __init__(self, metric: Metric, device: torch.device, coarser: Collection[str] = ()) -> None:
        self._metric, self._device, self._coarser = metric, device, coarser
        self._callable = None
        if not isinstance(metric, str) and not takes_decisions(metric):
            self._callable = ValueMetric(metric)
        self._places: tuple[str, ...] = ()
        self._read: set[str] = set()
        self.by_name = ""

    @property
    def judged(self) -> tuple[str, ...]:
        """Those that are judged; empty where there is one, or all are."""
        return tuple(place for place in self._places if place in self._read and self.unjudged)

    @property
    def read(self) -> frozenset[str]:
        """Those that are judged, also where all are; empty where there is one."""
        return frozenset(self._read)

    @property
    def unjudged(self) -> tuple[str, ...]:
        """Those that are not, coarser versions of the first left out."""
        return tuple(place for place in self._places if place not in self._read)

    def add(self, outputs: Any, targets: Any) -> None:
        """Look at what the whole network returned for the next batch.

        Raises:
            InputError: By their names, the output would be judged by the target of another one.
        """
        if len(tensors_by_place(outputs)) < 2:
            return
        with suppress(InputError):  # none that a level could be used for
            self._places = tuple(p for p in predictions(outputs) if p not in self._coarser)
        if self._callable is None:
            self.by_name = judged_output(self._metric, outputs, targets)
            self._read = {self.by_name}
        elif len(self._places) > 1 and self.unjudged:
            targets = on_device(targets, self._device)
            self._read |= {
                place for place in self.unjudged if _reads(self._callable, outputs, targets, place)
            }


def _reads(metric: ValueMetric, outputs: Any, targets: Any, place: str) -> bool:
    """Whether the values of a batch change with one of the outputs, or it cannot do without it."""
    paths, spec = pytree.tree_flatten_with_path(outputs)
    index = list(leaves_by_place(outputs)).index(place)
    leaves = [leaf for _, leaf in paths]

    def values(leaf: Tensor) -> FloatArray:
        changed = pytree.tree_unflatten([*leaves[:index], leaf, *leaves[index + 1 :]], spec)
        return np.array(image_values(metric, changed, targets, "a batch"))

    leaf = leaves[index]
    loudest = max(float(one.abs().max()) for one in leaves if is_prediction(one) and one.numel())
    try:
        known = values(leaf)
        return any(
            not np.array_equal(values(other), known, equal_nan=True)
            for other in _altered(leaf, loudest)
        )
    except InputError:
        return True


def _altered(leaf: Tensor, loudest: float) -> Iterator[Tensor]:
    """Other numbers: in the opposite order, none but their mean, and as large as any output's."""
    yield leaf.amin() + leaf.amax() - leaf
    yield leaf.mean().expand_as(leaf)
    yield louder(leaf, loudest)


def louder(leaf: Tensor, loudest: float, axis: int | None = None) -> Tensor:
    """The numbers of an output multiplied, so that no small unit hides them beside the others.

    Args:
        leaf: The output.
        loudest: The largest number of any output.
        axis: Of channels that are multiplied each by its own factor; None: all by one.
    """
    own = leaf.abs().amax([a for a in range(leaf.dim()) if a != axis], keepdim=True)
    factor = 2.0 * max(loudest, 1.0) / own.double()
    return leaf * torch.where(own > 0.0, factor, 1.0).to(leaf)


def one_of_several(value: Any, name: Any, what: str) -> Any:
    """One of several outputs or targets by its name or number, or by its place deeper within.

    Args:
        value: What the network returned, or the targets of a batch.
        name: What a metric was given for, such as ``0``, ``"edges"`` or ``"[1]['edges']"``; a place
            may be that in another container, as ``".edges"`` or ``"outputs['edges']"``.
        what: ``"outputs"`` or ``"targets"``.

    Raises:
        InputError: There is none of that name.
    """
    place = name.removeprefix("outputs") if isinstance(name, str) else name
    for one in dict.fromkeys((name, place, name_at(place))):
        with suppress(KeyError, IndexError, TypeError):
            if not isinstance(value, Tensor):
                return value[one]
        for held in (_parts(value), leaves_by_place(value)):
            if one in held:
                return held[one]
    places = list(tensors_by_place(value))
    there = "there are " + ", ".join(what + place for place in places)
    if isinstance(value, Tensor):
        there = f"the {what} are one tensor without a name"
    such = f' or place, such as "{places[-1]}"' if places and places[-1] else ""
    remedy = f"give a metric for each output by its name{such}, and batches of (inputs, targets)"
    if what == "targets":
        remedy = "give batches of (inputs, targets)"
    own = name_at(place)
    example = f", such as {{{own!r}: ...}}" if what == "targets" else ""
    raise InputError(
        f"{keyword('metric')} holds one for {what}[{shown(own)}], and {there}; {remedy} "
        f"with targets of the same names{example}"
    )


def _parts(value: Any) -> dict[Any, Any]:
    """What lies in a container, by its names, and by numbers if it has an order of its own."""
    if isinstance(value, Tensor):
        return {}
    named = dict(value) if isinstance(value, Mapping) else pytree.held_in(value)
    ordered = value if isinstance(value, list | tuple) else named.values()
    mapping = isinstance(value, Mapping) and not is_dataclass(value)
    return {**({} if mapping else dict(enumerate(ordered))), **named}


def name_at(place: Any) -> Any:
    """The name or the number in a place, ``"seg"`` of ``"['seg']"`` and ``".seg"``; else itself."""
    found = _ONE.fullmatch(place) if isinstance(place, str) else None
    if found is None:
        return place
    return found["name"] or found["field"] or int(found["number"])


_ONE = re.compile(r"""\['(?P<name>[^']+)'\]|\.(?P<field>\w+)|\[(?P<number>\d+)\]""")


def one_metric(metric: Metric | Metrics | None) -> tuple[Any, Metric | None]:
    """The name of the one output that has a metric, and that metric; None where it has no name.

    Raises:
        InputError: Several outputs have one, or none has.
    """
    if not isinstance(metric, Mapping):
        return None, metric
    found = [(name, one) for name, one in metric.items() if one is not None]
    if len(found) != 1:
        raise InputError(
            f"{keyword('metric')} holds one for {len(found)} outputs, and a search goes by one: "
            "give one for a single output, and None for those that may be lost"
        )
    return found[0]


def refuse_unnamed_outputs(metrics: Metrics, outputs: Any, places: Collection[str]) -> None:
    """Refuse metrics that leave it open whether an output counts.

    Args:
        metrics: One for each output.
        outputs: What the network returned.
        places: Of those in it that a level may be used for.

    Raises:
        InputError: An output has none, or no output has any.
    """
    named = [one_of_several(outputs, name, "outputs") for name in metrics]
    held = {id(leaf) for one in named for leaf in pytree.tree_leaves(one)}
    for place, leaf in tensors_by_place(outputs).items():
        if place in places and id(leaf) not in held:
            raise InputError(
                f"{keyword('metric')} holds none for outputs{place}, which the network returns, "
                f'too; add one, as "{place}" if nothing shorter names it, or None where that '
                "output does not count"
            )
    if all(metric is None for metric in metrics.values()):
        raise InputError(f"{keyword('metric')} is None for all outputs; give one for some of them")


def _range_of(targets: Sequence[Any]) -> float:
    """Largest less smallest value of all targets."""
    ends = [only_tensor(target).float().aminmax() for target in targets]
    return max(float(e.max) for e in ends) - min(float(e.min) for e in ends)


class _ClassJudge:
    """Judges by a built-in metric of classes, whose best constant follows from the counts."""

    bounded, recalibrated, metric = True, False, None

    def __init__(self, reader: Segmentation) -> None:
        self._name = reader.metric
        self.reader = reader
        self._meter = self.meter()
        self._quality: CountedQuality | None = None
        self._filled: list[SegmentationMeter] = []

    @property
    def name(self) -> str:
        return self._name

    def kept(self) -> AbstractContextManager[None]:
        return nullcontext()

    def meter(self) -> SegmentationMeter:
        return SegmentationMeter(self.reader)

    def add(self, output: Any, beside: Beside = NOTHING) -> None:
        index, filled = self._meter.batches, beside.filled
        self._meter.add(output)
        if filled is None or (index and not self._filled):
            return
        try:
            zero, one = (self.reader.read(filled.alike(x), index) for x in (0.0, 1.0))
        except (InputError, RuntimeError):  # such as infinite numbers, and what is no inverse
            self._filled = []
            return
        signs, moved = _signs(zero), one.scores - zero.scores
        moves = bool((moved != 0.0).any())  # else the output is no work of a level
        if index == 0 and moves and (varies(zero.scores) or varies(moved)):
            self._filled = [self.meter() for _ in signs]
        for sign, meter in zip(signs, self._filled, strict=False):
            scores = zero.scores + SURE_LOGIT * sign[:, None] * moved
            meter.add_pixels(replace(zero, scores=scores))

    def whole(self) -> CountedQuality:
        if self._quality is None:
            self._quality = self._meter.quality()
        return self._quality

    def trivial(self) -> TrivialQuality:
        constant = _Constant(self.whole())
        once = np.ones((1, constant.images))
        filled = (_OfFilled(meter.quality()) for meter in self._filled)
        found: list[TrivialQuality] = [constant, *filled]
        return max(found, key=lambda one: np.nan_to_num(float(one.of(once)[0])))

    def larger_is_better(self) -> bool:
        return True

    def resolution(self) -> float:
        return 0.0


def _signs(pixels: Pixels) -> Tensor:
    """Whether each class is left open, called or denied: no class, and each (or all labels)."""
    channels = pixels.scores.shape[1]
    each = torch.ones(1, channels, device="cpu")
    if pixels.truths.dim() == 2:  # one of several classes
        each = 2.0 * torch.eye(channels, device="cpu")[:CLASSES] - 1.0
    return torch.cat([torch.zeros_like(each[:1]), each])


class _Constant:
    """The best constant prediction as a quality of its own."""

    what = CONSTANT

    def __init__(self, quality: CountedQuality) -> None:
        self.images, self.weighing = quality.images, quality.weighing
        self.of = quality.constant


class _OfFilled:
    """What the network makes of a constant, as a quality of its own."""

    what = FILLED

    def __init__(self, quality: CountedQuality) -> None:
        self.images, self.weighing, self.of = quality.images, quality.weighing, quality.of


class _ValueJudge:
    """Judges by one value for each image, whose best trivial answer has to be looked for."""

    recalibrated = False

    def __init__(
        self,
        metric: ValueMetric,
        batches: Sequence[Batch],
        device: torch.device,
        arrange: Arrange,
        name: str | None = None,
    ) -> None:
        self._name, self._arrange = name or metric.name, arrange
        self.metric: ValueMetric = metric
        self.batches, self.device = batches, device
        self.targets = [target for _, target in batches]
        self._outputs = OutputShapes()
        self._meter = self.meter(whole=True)
        self._others: list[float] = []
        self._first: tuple[Any, Any, Any] = (None, None, None)

    @property
    def name(self) -> str:
        return self._name + self.metric.averaged

    @property
    def bounded(self) -> bool:
        """As declared, if the values bear it out: a sum over pixels is beyond its bounds."""
        if not self.metric.bounded or not self.larger_is_better():
            return False
        values: FloatArray = np.array(self._meter.values)
        known = values[np.isfinite(values)]
        return bool(((known >= -ROUNDING) & (known <= 1.0 + ROUNDING)).all())

    def kept(self) -> AbstractContextManager[None]:
        return self.metric.kept()

    def meter(self, *, whole: bool = False) -> ValueMeter | RecalibratedMeter:
        return ValueMeter(self.metric, self.targets, self.device, whole=whole)

    def add(self, output: Any, beside: Beside = NOTHING) -> None:
        index = self._meter.batches
        self._outputs.add(output, beside)
        self._outputs.lay_beside(*self.batches[index], output, self._arrange)
        self._meter.add(output)
        others = pytree.tree_map(_of_another_image, self.targets[index])
        others = on_device(others, self.device)
        self._others += image_values(self.metric, output, others)
        if index == 0:
            self._first = output, on_device(self.targets[0], self.device), others

    def whole(self) -> ImageValues:
        """Quality of the whole network; without it nothing can be compared.

        Raises:
            InputError: No image has a value.
        """
        quality = self._meter.quality()
        if not quality.known.any():
            output, targets, _ = self._first
            raise InputError(
                f"{self.metric.name} returned no finite number for any image of the batches"
                f"{why_no_number(output, targets)}"
            )
        return quality

    def trivial(self) -> TrivialQuality:
        if self.metric.averaged and self._ignores_answers():
            raise InputError(
                f"{self.name} is the same whatever the network answers, as a mean of counts is;"
                " give a callable that returns the one number of these that is meant"
            )
        return best_trivial(
            self.metric,
            self.batches,
            self._outputs,
            np.array(self._others),
            self.device,
            larger_is_better=self.larger_is_better(),
            arrange=self._arrange,
        )

    def _ignores_answers(self) -> bool:
        """Whether the opposite of what the network answers for the first batch is as good."""
        output, targets, _ = self._first
        opposite = pytree.tree_map(lambda x: -x if is_prediction(x) else x, output)
        own, other = (np.array(image_values(self.metric, x, targets)) for x in (output, opposite))
        return own.shape == other.shape and bool(np.allclose(own, other, rtol=1e-9, atol=0.0))

    def resolution(self) -> float:
        """A share of the loss at even odds, which a loss of classes is rounded by."""
        if not all(_names_classes(leaf) for leaf in pytree.tree_tensors(self.targets)):
            return 0.0
        return RESOLUTION * at_even_odds(self.metric, self.batches, self._outputs, self.device)

    def larger_is_better(self) -> bool:
        """As declared; else a loss is what is larger for other images' targets."""
        if self.metric.larger_is_better is not None:
            return self.metric.larger_is_better
        values: FloatArray = np.array([self._meter.values, self._others])
        both = values[:, np.isfinite(values).all(0)]
        right, others = both.mean(1) if both.size else (0.0, 0.0)
        if _are_alike(right, others):  # what answers all images alike tells nothing
            right, others = self._of_the_right_answer()
        if _are_alike(right, others):
            remedy = "say it: metric.higher_is_better = True or False"
            if self.metric.averaged:  # such as a matrix of counts, whose mean is the same for all
                remedy = "give a callable that returns the one number of these that is meant"
            raise InputError(
                f"whether more or less of {self.name} is better cannot be seen: it is as large for"
                f" the targets of other images, if there are others; {remedy}"
            )
        return bool(right > others)

    def _of_the_right_answer(self) -> tuple[float, float]:
        """Mean values of the targets of the first batch, as logits: for them, and for others."""
        output, targets, others = self._first
        leaves, spec = pytree.tree_flatten(output)
        found = [right_answer(x, targets) if is_prediction(x) else None for x in leaves]
        if all(answer is None for answer in found):
            return 0.0, 0.0
        pairs = zip(leaves, found, strict=True)
        answer = [x if right is None else SURE_LOGIT * (2.0 * right - 1.0) for x, right in pairs]
        best = pytree.tree_unflatten(answer, spec)
        values = [image_values(self.metric, best, t) for t in (targets, others)]
        own, other = (mean_of_known(torch.tensor(value, device="cpu")) for value in values)
        return (own, other) if np.isfinite([own, other]).all() else (0.0, 0.0)


ROUNDING = 1e-6
"""By how much a value between 0 and 1 in single precision may be beyond."""

SURE_LOGIT = 8.0
"""Of an answer that leaves no doubt."""


def _names_classes(target: Tensor) -> bool:
    """Whether targets may be classes: their numbers, or masks."""
    return not (target.is_floating_point() or target.is_complex()) or is_mask(target)


def _are_alike(one: float, other: float) -> bool:
    return bool(abs(one - other) <= 1e-9 * max(abs(one), abs(other)))


class _RecalibratingJudge(_ValueJudge):
    """Judges by a loss of classes after a scale and an offset of each output channel."""

    recalibrated = True

    def meter(self, *, whole: bool = False) -> RecalibratedMeter:
        return RecalibratedMeter(self.metric, self.targets, self.device, self._outputs)


def _of_another_image(leaf: Any) -> Any:
    """Shift the images of a batch by one; a single image is turned upside down instead."""
    if not isinstance(leaf, Tensor) or leaf.dim() == 0:
        return leaf
    return leaf.roll(1, 0) if len(leaf) > 1 else leaf.flip(tuple(range(1, leaf.dim())))
