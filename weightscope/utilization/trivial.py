"""The best answer that needs no network: a constant, or in a regression the input itself.

The zero of a skill. A quality that has no natural zero (a loss, an error) would otherwise make
every share of it arbitrary: a network that is wrong for other images' targets with confidence
looks the more skilled, the more confident it is.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from weightscope.adapters import pytree
from weightscope.batches import Batch, split_images
from weightscope.calls import tensors_by_place
from weightscope.errors import InputError, keyword
from weightscope.probing.nearest import Nearest, like_outputs
from weightscope.utilization.metrics import FloatArray, ImageValues
from weightscope.utilization.values import ValueMetric, image_values, on_device

FITTED = 64
"""Images that the constant is fitted on: it has a number per channel, and each image has many
thousands of pixels to tell it."""

SATURATED = (8.0, 30.0)
"""Logits of constants that are as good as certain; the second for losses over all pixels, such as
Dice's, that a thousand small shares still disturb."""

CLASSES = 16
"""Channels up to which each alone is tried as the certain class."""

TINY = 1e-6
"""Probability of what never happens, in a constant that must not claim so."""

MARKS = (255, -1, -100)
"""Numbers by which masks mark what does not count: of common data sets, and of torch."""


@dataclass
class OutputShapes:
    """Collects what constant outputs must look like: their sizes, range and means.

    Attributes:
        specs: How the outputs of each batch fold back.
        leaves: For each batch, the sizes and types of its tensors; anything else as it is.
        ranges: For each tensor, what all its values have in common.
        nearest: How each tensor follows `INPUT` and `BASE`, where `lay_beside` was asked.
        bases: For each batch, what each tensor adds to, see `CutRuns.without_weights`; held in the
            computer's memory, as inputs are. None where it adds to nothing.
    """

    specs: list[Any] = field(default_factory=list)
    leaves: list[list[Any]] = field(default_factory=list)
    ranges: dict[int, ChannelRange] = field(default_factory=dict)
    nearest: dict[tuple[int, str], Nearest] = field(default_factory=dict)
    bases: list[list[Any] | None] = field(default_factory=list)

    def add(self, output: Any, base: Any = None) -> None:
        """Note the outputs for one batch, and what they are added to."""
        leaves, spec = pytree.tree_flatten(output)
        self.specs.append(spec)
        self.leaves.append(
            [v.new_empty(()).expand(v.shape) if is_prediction(v) else v for v in leaves]
        )
        held = pytree.tree_map(lambda v: v.cpu() if isinstance(v, Tensor) else v, base)
        self.bases.append(None if base is None else pytree.tree_leaves(held))
        for position, leaf in enumerate(leaves):
            if is_prediction(leaf):
                self.ranges.setdefault(position, ChannelRange()).add(leaf)

    def lay_beside(self, inputs: Any, targets: Any, output: Any, arrange: Arrange) -> None:
        """Note how the outputs for one batch follow its inputs, if its targets are laid otherwise.

        Args:
            inputs: Of the batch.
            targets: Of it; only numbers that have no output's shape ask for this.
            output: For it.
            arrange: See `as_given`.
        """
        batch = len(self.bases) - 1
        for position, leaf in enumerate(pytree.tree_leaves(output)):
            if is_prediction(leaf) and are_numbers_elsewhere(targets, leaf.shape):
                with suppress(InputError):  # no image, or tokens
                    sources, ordered = self.arranged(batch, position, inputs, leaf, arrange)
                    for what, images in sources.items():
                        nearest = self.nearest.get((position, what), Nearest())
                        self.nearest[position, what] = nearest.with_batch(ordered, images)

    def arranged(
        self, batch: int, position: int, inputs: Any, leaf: Tensor, arrange: Arrange
    ) -> tuple[dict[str, list[Tensor]], Tensor]:
        """What an output of a batch may follow: its inputs (`INPUT`), what it is added to (`BASE`).

        Args:
            batch: Its number.
            position: Of the output.
            inputs: Of the batch.
            leaf: The output, or what is laid as it is.
            arrange: See `as_given`.

        Returns:
            These, and the output, each as (images, channels, *sizes).
        """
        images, ordered = arrange(inputs, leaf)
        bases = self.bases[batch]
        if bases is None:
            return {INPUT: images}, ordered
        _, base = arrange(inputs, bases[position].to(leaf.device))
        return {INPUT: images, BASE: [base]}, ordered

    def constant(self, batch: int, values: dict[int, Tensor]) -> Any:
        """Outputs for a batch that are the same at all its positions."""
        made = list(self.leaves[batch])
        for position, free in values.items():
            leaf = made[position]
            value = self.ranges[position].link(free).to(leaf.device, leaf.dtype)
            made[position] = value.reshape(channel_shape(leaf)).expand(leaf.shape)
        return pytree.tree_unflatten(made, self.specs[batch])


def is_prediction(leaf: Any) -> bool:
    """Whether a part of the outputs is a prediction for each image."""
    return isinstance(leaf, Tensor) and leaf.is_floating_point() and leaf.dim() >= 1


def channel_shape(leaf: Tensor) -> tuple[int, ...]:
    """Shape of one number for each channel."""
    return (1, leaf.shape[1], *[1] * (leaf.dim() - 2)) if leaf.dim() > 1 else (1,)


def by_channel(leaf: Tensor) -> Tensor:
    """A tensor as (channels, images and positions)."""
    return leaf.movedim(1, 0).flatten(1) if leaf.dim() > 1 else leaf[None]


class ChannelRange:
    """Whether a tensor holds logits, probabilities or their logarithms, and its channels' means.

    Or directions, as the normals of a surface, or the sine and cosine of an angle: of several
    channels vectors of one length.
    """

    def __init__(self) -> None:
        self.total: Tensor | float = 0.0
        self.count = 0
        self.within = self.shares = self.logarithms = self._directions = True
        self._length = math.nan

    def add(self, leaf: Tensor) -> None:
        """Add one batch of it."""
        rows = by_channel(leaf.detach().cpu().double())
        self.total = self.total + rows.sum(1)
        self.count += rows.shape[1]
        several = len(rows) > 1
        self.within &= bool(((rows >= 0) & (rows <= 1)).all())
        self.shares &= several and bool(((rows.sum(0) - 1).abs() < 1e-3).all())
        self.logarithms &= several and bool((rows.logsumexp(0).abs() < 1e-3).all())
        self._directions &= several
        if self._directions:
            lengths = rows.norm(dim=0)
            if math.isnan(self._length):
                self._length = float(lengths[:1].sum())
            self._directions = bool(((lengths - self._length).abs() < 1e-3 * self._length).all())

    @property
    def mean(self) -> Tensor:
        """Mean of each channel."""
        assert isinstance(self.total, Tensor)
        return self.total / self.count

    @property
    def bounded(self) -> bool:
        """Whether these are probabilities or their logarithms, not logits or plain numbers."""
        return self.within or self.logarithms

    @property
    def directions(self) -> bool:
        """Whether these are vectors of one length, and no probabilities."""
        return self._directions and not self.bounded

    def no_longer(self, vectors: Tensor, axis: int) -> Tensor:
        """Vectors along an axis, none of which is longer than the outputs' directions are."""
        if not self.directions:
            return vectors
        lengths: Tensor = vectors.norm(dim=axis, keepdim=True).clamp_min(self._length)
        return vectors * (self._length / lengths)

    def link(self, free: Tensor) -> Tensor:
        """From unbounded numbers to what the outputs may be."""
        if self.directions:
            return self.no_longer(free, 0)
        if self.logarithms:
            return free.log_softmax(0)
        if self.within and self.shares:
            return free.softmax(0)
        return free.sigmoid() if self.within else free

    def unlink(self, value: Tensor) -> Tensor:
        """Unbounded numbers that `link` takes to a value."""
        if self.logarithms:
            return value
        if self.within and self.shares:
            return value.clamp_min(TINY).log()
        return value.clamp(TINY, 1 - TINY).logit() if self.within else value


Constant = dict[int, Tensor]
Answer = Callable[[int, Constant], Any]
Arrange = Callable[[Any, Tensor], tuple[list[Tensor], Tensor]]

CONSTANT = "a constant"
INPUT, BASE = "the input", "what it adds to"
ITSELF = {INPUT: "the input itself", BASE: BASE}
ANSWER_FOR_OTHERS = "its answer for another image"


@dataclass(frozen=True)
class Fitted:
    """An answer that was fitted to the targets.

    Attributes:
        values: Of the metric, (images,).
        numbers: That it is made of.
    """

    values: FloatArray
    numbers: Constant


class TrivialValues(ImageValues):
    """The values of an answer that needs no network.

    Args:
        values: (images,).
        what: The answer, in words.
    """

    def __init__(self, values: FloatArray, what: str) -> None:
        super().__init__(values)
        self.what = what


def best_trivial(
    metric: ValueMetric,
    batches: Sequence[Batch],
    outputs: OutputShapes,
    others: FloatArray,
    device: torch.device,
    *,
    larger_is_better: bool,
    arrange: Arrange,
) -> TrivialValues:
    """The values of the best answer that needs no network.

    Candidates are: constants for each channel, fitted to the targets by gradient where the metric
    has one and by a simplex search elsewhere, from several starts; the input itself and a straight
    line of it, where the targets of an output are a regression; and where neither gives a value on
    the images, the network's outputs for other images.

    Args:
        metric: What is asked.
        batches: All inputs and targets.
        outputs: Of the network on these batches.
        others: (images,): values of the network's outputs against other images' targets.
        device: Where the outputs are.
        larger_is_better: For this metric.
        arrange: See `as_given`.

    Raises:
        InputError: A loss falls without end on these targets.
    """
    sign = 1.0 if larger_is_better else -1.0
    images = Images(metric, batches, outputs, device, sign, arrange)
    if not larger_is_better:
        require_least(images)
    constant = fitted_constant(images)
    known = from_input(images, constant)
    known |= {} if constant is None else {CONSTANT: constant.values}
    known = known or {ANSWER_FOR_OTHERS: others}
    # of what differs by rounding alone the first, which is simplest
    best = max(known, key=lambda what: float(f"{sign * np.nanmean(known[what]):.6g}"))
    return TrivialValues(known[best], best)


def at_even_odds(
    metric: ValueMetric, batches: Sequence[Batch], outputs: OutputShapes, device: torch.device
) -> float:
    """Size of the loss of outputs that leave everything open; 0 where it has none for them."""
    images = Images(metric, batches, outputs, device, -1.0, as_given)
    neutral = {i: torch.zeros_like(own.mean) for i, own in outputs.ranges.items()}
    loss = abs(_loss(images, neutral))
    return loss if math.isfinite(loss) else 0.0


def as_given(inputs: Any, target: Tensor) -> tuple[list[Tensor], Tensor]:
    """The image inputs of a batch and its target, each as (images, channels, *sizes).

    Without knowing the network: as they are.
    """
    same = matching(inputs, target.shape)
    leaves = [x for x in pytree.tree_tensors(inputs) if x.dim() > 1 and not x.is_complex()]
    return [x.double() for x in (leaves if same is None else [same])], target.double()


class Images:
    """The images that candidates are judged on."""

    def __init__(
        self,
        metric: ValueMetric,
        batches: Sequence[Batch],
        outputs: OutputShapes,
        device: torch.device,
        sign: float,
        arrange: Arrange,
    ) -> None:
        self.metric, self.batches, self.outputs = metric, batches, outputs
        self.device, self.sign, self.arrange = device, sign, arrange
        places = [
            (batch, image)
            for batch, leaves in enumerate(outputs.leaves)
            for image in range(max(len(v) for v in leaves if is_prediction(v)))
        ]
        step = math.ceil(len(places) / FITTED)
        self.picked = places[::step]

    def targets(self, batch: int) -> Any:
        """The targets of a batch, on the device of the outputs."""
        return on_device(self.batches[batch][1], self.device)

    def arranged(
        self, batch: int, place: int, leaf: Tensor
    ) -> tuple[dict[str, list[Tensor]], Tensor]:
        """See `OutputShapes.arranged`."""
        inputs = on_device(self.batches[batch][0], self.device)
        return self.outputs.arranged(batch, place, inputs, leaf, self.arrange)

    def values(self, make: Callable[[int], Any]) -> FloatArray | None:
        """Values of some outputs for all images; None if any has none."""
        found: list[float] = []
        for batch in range(len(self.batches)):
            try:
                found += image_values(
                    self.metric, make(batch), self.targets(batch), f"batch {batch}"
                )
            except InputError:
                return None
        values = np.array(found)
        return values if np.isfinite(values).any() else None

    def loss(self, numbers: Constant, answer: Answer | None = None) -> Tensor:
        """Mean of minus the quality over the picked images, with its gradient.

        Args:
            numbers: Of the answer.
            answer: What it makes of them; by default they are a constant.
        """
        losses = []
        for batch, chosen in self._chosen():
            made = split_images((answer or self.outputs.constant)(batch, numbers))
            true = split_images(self.targets(batch))
            losses += [as_number(self.metric(made[i], true[i])).double().mean() for i in chosen]
        return -self.sign * torch.stack(losses).nanmean()

    def _chosen(self) -> Iterator[tuple[int, list[int]]]:
        """The picked images of each batch."""
        for batch in dict.fromkeys(batch for batch, _ in self.picked):
            yield batch, [image for b, image in self.picked if b == batch]


def as_number(value: Any) -> Tensor:
    """What a metric returned, as a tensor; one that it returned stays where it is."""
    return value if isinstance(value, Tensor) else torch.as_tensor(value, device="cpu")


def require_least(images: Images) -> None:
    """Refuse targets on which a loss falls without end, as a cross entropy of a label beyond 1.

    Asked of the loss itself: outputs are made large where the targets lie outside 0 and 1.

    Raises:
        InputError: It does; no answer is the best one then.
    """
    for batch, chosen in images._chosen():
        ranges, leaves = images.outputs.ranges, images.outputs.leaves[batch]
        middle = {i: torch.zeros_like(own.mean) for i, own in ranges.items()}
        answers = split_images(images.outputs.constant(batch, middle))
        targets = split_images(images.targets(batch))
        known = [ranges.get(i) for i in range(len(leaves))]
        bounded = [None if own is None or own.directions else own.bounded for own in known]
        for image in chosen:
            number = falls_for(images.metric, answers[image], targets[image], bounded)
            if number is not None:
                raise InputError(
                    f"the targets hold {number:g}, which {images.metric.name} takes for a number: "
                    "it falls below zero where the outputs there are large, so that no answer is "
                    f"the best. Give masks as 0 and 1 (divide those of 0 and 255 by 255). If "
                    f"{number:g} marks what does not count, give a loss that leaves it out, or "
                    f"{keyword('metric')} with {keyword('ignore_index', f'{number:g}')}"
                )


def falls_for(
    metric: ValueMetric, answer: Any, target: Any, bounded: Sequence[bool | None]
) -> float | None:
    """The number in the targets of an image for which a loss falls without end; None for none.

    Args:
        metric: The loss.
        answer: Outputs that leave everything open.
        target: The targets.
        bounded: Whether each tensor of the answer holds probabilities. Their logarithms end
            somewhere, so that for these a mark that brings the loss below zero is enough. None of
            what cannot be large.
    """
    leaves, spec = pytree.tree_flatten(answer)
    for place, leaf in enumerate(leaves):
        given = matching(target, leaf.shape) if is_prediction(leaf) else None
        if given is None or bounded[place] is None:
            continue
        beyond = marked(given) if bounded[place] else (given < 0) | (given > 1)
        if not bool(beyond.any()):
            continue
        levels = (0.5, 0.999, 0.001) if bounded[place] else (0.0, 1e2, 1e3, -1e2, -1e3)
        made = [leaf.clone().masked_fill(beyond, level) for level in levels]
        try:
            with torch.no_grad():
                middle, *ends = [
                    float(
                        as_number(metric(_with(leaves, place, one, spec), target)).double().mean()
                    )
                    for one in made
                ]
        except Exception:  # noqa: BLE001 - a foreign loss may refuse what is no answer of the network
            continue
        if bounded[place]:
            fallen = min(ends) < min(0.0, middle)
        else:
            pairs = zip(ends[::2], ends[1::2], strict=True)
            fallen = any(
                far < 0.0 and _is_linear(near - middle, far - middle) for near, far in pairs
            )
        if fallen:
            return float(given[beyond][given[beyond].abs().argmax()])
    return None


def _is_linear(near: float, far: float) -> bool:
    """Whether what outputs ten times as large change is a fall, and ten times as large.

    What only comes nearer to its best value there, such as a negative PSNR, falls by less, and a
    negative squared error, a quality that was taken for a loss, by more.
    """
    return near < 0.0 and 5.0 < far / near < 20.0


def _with(leaves: Sequence[Any], place: int, one: Tensor, spec: Any) -> Any:
    """The answer with one tensor in place of another."""
    return pytree.tree_unflatten([*leaves[:place], one, *leaves[place + 1 :]], spec)


def marked(target: Tensor) -> Tensor:
    """Where a target holds one of `MARKS`."""
    found = torch.zeros_like(target, dtype=torch.bool)
    for mark in MARKS:
        found |= target == mark
    return found


def marks_in(targets: Any) -> list[int]:
    """Which of `MARKS` targets hold."""
    real = [leaf for leaf in pytree.tree_tensors(targets) if not leaf.is_complex()]
    return [mark for mark in MARKS if any(bool((leaf == mark).any()) for leaf in real)]


def fitted_constant(images: Images) -> Fitted | None:
    """The best constant; None where the metric gives no values for constants."""
    found = [
        (loss, constant)
        for constant in starts(images)
        if math.isfinite(loss := _loss(images, constant))
    ]
    found.sort(key=lambda pair: pair[0])
    for _, constant in found[:2]:
        better = refined(images, constant)
        if math.isfinite(loss := _loss(images, better)):
            found.append((loss, better))
    found.sort(key=lambda pair: pair[0])
    for _, constant in found:
        values = images.values(lambda batch, c=constant: images.outputs.constant(batch, c))  # type: ignore[misc]
        if values is not None:
            return Fitted(values, constant)
    return None


def _loss(images: Images, numbers: Constant, answer: Answer | None = None) -> float:
    """The loss as a number; nan where the metric raises."""
    try:
        with torch.no_grad():
            return float(images.loss(numbers, answer))
    except Exception:  # noqa: BLE001 - a foreign metric may refuse a constant in any way
        return math.nan


def starts(images: Images) -> Iterator[Constant]:
    """Constants to start from, in the unbounded numbers of `ChannelRange.link`."""
    ranges = images.outputs.ranges
    means = {i: r.unlink(r.mean) for i, r in ranges.items()}
    yield means
    yield {i: torch.zeros_like(mean) for i, mean in means.items()}
    if len(ranges) != 1:
        return
    ((position, own),) = ranges.items()
    for middle in _target_middles(images, position):
        yield {position: own.unlink(middle)}
        if not own.bounded and bool(((middle >= 0) & (middle <= 1)).all()):
            yield {position: middle.clamp(TINY, 1 - TINY).logit()}
    channels = len(own.mean)
    shares = _class_shares(images, position, channels)
    if shares is not None:
        yield {position: own.unlink(shares) if own.bounded and not own.logarithms else shares.log()}
    for logit in SATURATED:
        certain = torch.full_like(own.mean, -logit)
        if channels == 1:
            yield {position: certain}
            yield {position: -certain}
        elif channels <= CLASSES:
            for channel in range(channels):
                one = torch.eye(channels, device="cpu").to(certain)[channel]
                yield {position: certain + 2 * logit * one}


def _class_shares(images: Images, position: int, channels: int) -> Tensor | None:
    """How often each of several classes is the target, where they are numbered or one-hot."""
    if channels < 2:
        return None
    counts = torch.zeros(channels, dtype=torch.float64, device="cpu")
    for batch, leaves in enumerate(images.outputs.leaves):
        shape, targets = leaves[position].shape, images.targets(batch)
        one_hot = matching(targets, shape)
        numbers = matching(targets, torch.Size((shape[0], 1, *shape[2:])))
        if one_hot is not None and bool((one_hot >= 0).all()):
            counts += by_channel(one_hot.cpu().double()).nansum(1)
        elif numbers is not None and not numbers.is_floating_point():
            known = numbers[(numbers >= 0) & (numbers < channels)].cpu().long()
            counts += known.bincount(minlength=channels)
        else:
            return None
    return (counts / counts.sum()).clamp_min(TINY) if float(counts.sum()) > 0.0 else None


def _target_middles(images: Images, position: int) -> Iterator[Tensor]:
    """Mean and median over the targets of each channel, where they are a regression."""
    rows = []
    for batch, leaves in enumerate(images.outputs.leaves):
        target = matching(images.targets(batch), leaves[position].shape)
        if target is None:
            return
        rows.append(by_channel(target.cpu().double()))
    every = torch.cat(rows, 1)
    yield every.nanmean(1)
    yield every.nanmedian(1).values


def is_mask(target: Tensor) -> bool:
    """Whether numbers are 0 and 1 alone, but for `MARKS` and nan of what does not count.

    -1 and 1 alone are numbers if they are floats, as a margin loss takes them.
    """
    known = target == 0
    without = target.is_floating_point() and not bool(known.any())
    for number in (1, *MARKS):
        if number != -1 or not without:
            known |= target == number
    return bool((known | target.isnan()).all())


def matching(tree: Any, shape: torch.Size) -> Tensor | None:
    """The tensor of numbers that has a shape, but perhaps for axes of one; floats first."""
    leaves = pytree.tree_tensors(tree)
    for leaf in sorted(leaves, key=lambda leaf: not leaf.is_floating_point()):
        if leaf.is_complex() or leaf.dtype == torch.bool:
            continue
        if leaf.shape[:1] == shape[:1] and _beyond_one(leaf.shape) == _beyond_one(shape):
            return leaf.reshape(shape)
    return None


def _beyond_one(shape: torch.Size) -> list[int]:
    """The axes of each image that are longer than one."""
    return [size for size in shape[1:] if size != 1]


def refined(images: Images, start: Constant, answer: Answer | None = None) -> Constant:
    """The best constant near a start: by its gradient if it has one, else by a simplex.

    Or the best numbers of another answer, as of `Images.loss`.
    """
    names = list(start)
    free = [start[name].clone().requires_grad_() for name in names]
    with torch.enable_grad():
        try:
            loss = images.loss(dict(zip(names, free, strict=True)), answer)
            differentiable = loss.requires_grad
        except Exception:  # noqa: BLE001 - as of `.numpy()` on what has a gradient; see _loss
            differentiable = False
        if not differentiable:
            return _by_simplex(images, start, answer)
        optimizer = torch.optim.LBFGS(free, max_iter=50, line_search_fn="strong_wolfe")

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = images.loss(dict(zip(names, free, strict=True)), answer)
            torch.autograd.backward(loss, inputs=free)
            return loss

        try:
            optimizer.step(closure)  # type: ignore[no-untyped-call]
        except Exception:  # noqa: BLE001 - see _loss
            return _by_simplex(images, start, answer)
    return {name: value.detach() for name, value in zip(names, free, strict=True)}


def _by_simplex(images: Images, start: Constant, answer: Answer | None) -> Constant:
    """Nelder and Mead's search, for a few channels; of many the start is all there is."""
    from scipy import optimize

    sizes = [value.numel() for value in start.values()]
    if sum(sizes) > 8 or not math.isfinite(_loss(images, start, answer)):
        return start

    def unpacked(numbers: FloatArray) -> Constant:
        parts = torch.split(torch.as_tensor(numbers, device="cpu"), sizes)
        return {i: part.to(v) for (i, v), part in zip(start.items(), parts, strict=True)}

    def loss(numbers: FloatArray) -> float:
        return _finite(_loss(images, unpacked(numbers), answer))

    packed = torch.cat([value.flatten() for value in start.values()]).double().cpu().numpy()
    found = optimize.minimize(
        loss, packed, method="Nelder-Mead", options={"maxfev": 40 * sum(sizes)}
    )
    return unpacked(found.x)


def from_input(images: Images, constant: Fitted | None) -> dict[str, FloatArray]:
    """Values of the inputs as outputs: as they are, and by the line that suits each channel best.

    A line, because inputs are often standardised, each channel in its own way, and targets not; the
    best by the metric itself, which may leave values out, from those of the least squares and of
    the least absolute differences on. Where no input has the targets' shape, each of their channels
    is compared with the channel of the inputs that suits it best, at its size. Where the targets
    hold numbers laid otherwise than the outputs (a spectrum, a flat vector, a few points), the
    input stands for the output itself. Empty unless the targets are a regression.

    Of several outputs one after the other gets a line where it helps; the others are constants.

    Args:
        images: What is judged.
        constant: The best one, from which several outputs start; None where there is none.
    """
    first, *others = [
        [place for place, leaf in enumerate(leaves) if is_prediction(leaf)]
        for leaves in images.outputs.leaves
    ]
    several = len(first) > 1
    if any(places != first for places in others) or (several and constant is None):
        return {}
    best = constant if several else None
    known: dict[str, FloatArray] = {}
    lines: _Lines = {}
    for place in first:
        chosen = lines
        regressions = _regressions(images, place)
        for like in _followed(images, place, regressions):
            laid = lines | {place: like}
            answers = _of_line(images, place, laid, best, constant)
            if _are_exact(images, answers, constant, elsewhere=not regressions):
                continue  # of a reconstruction the input is the goal
            for what, tried in answers:
                if what not in known or _is_better(images, tried.values, known[what]):
                    known[what] = tried.values
                if best is None or _is_better(images, tried.values, best.values):
                    best, chosen = tried, laid
        lines = chosen
    return known


def _followed(images: Images, place: int, regressions: Sequence[Sequence[Tensor]]) -> list[_Like]:
    """What of the inputs an output may follow, by its targets; by itself if these are elsewhere."""
    if regressions:
        return [own for true in regressions for own in _likes(images, place, true)]
    found = []
    for (position, what), nearest in images.outputs.nearest.items():
        if position != place:
            continue
        like = []
        for batch, leaves in enumerate(images.outputs.leaves):
            sources, output = images.arranged(batch, place, leaves[place])
            like.append(nearest.of(sources.get(what, []), output))
        known = [x for x in like if x is not None]
        if len(known) == len(like):
            shape, (slope, offset) = channel_shape(known[0]), nearest.line
            own = [slope.to(x).view(shape) * x + offset.to(x).view(shape) for x in known]
            found.append(_in_units(what, known, own, varied=True))
    return found


def _are_exact(
    images: Images,
    answers: Sequence[tuple[str, Fitted]],
    constant: Fitted | None,
    *,
    elsewhere: bool,
) -> bool:
    """Whether the input has no error, but for rounding; or its line has, of targets elsewhere."""
    if constant is None or images.sign > 0.0:
        return False
    asked = [own for what, own in answers if elsewhere or what in ITSELF.values()]
    least = min([abs(float(np.nanmean(own.values))) for own in asked], default=math.inf)
    # beyond what single precision leaves of absolute differences
    return least <= 3e-7 * abs(float(np.nanmean(constant.values)))


def _is_better(images: Images, values: FloatArray, others: FloatArray) -> bool:
    return images.sign * float(np.nanmean(values)) > images.sign * float(np.nanmean(others))


def _regressions(images: Images, place: int) -> list[list[Tensor]]:
    """What of the targets an output may be a regression of, each batch by batch, in its shape.

    Every tensor of its shape, and as many channels of one that holds more (of a depth beside its
    weights, say), first or last. Masks are left out: brightness is no answer to them.
    """
    found: dict[tuple[str, int], list[Tensor]] = {}
    for batch, leaves in enumerate(images.outputs.leaves):
        for name, leaf in tensors_by_place(images.targets(batch)).items():
            for side, part in enumerate(numbers_for(leaf, leaves[place].shape)):
                found.setdefault((name, side), []).append(part)
    whole = [own for own in found.values() if len(own) == len(images.outputs.leaves)]
    return [own for own in whole if not all(map(is_mask, own))]


def numbers_for(target: Tensor, shape: torch.Size) -> list[Tensor]:
    """What of a tensor of the targets may be what an output of some shape is of, in that shape.

    The whole of it; the first and the last so many channels of more (of a depth beside its
    weights); or fewer again and again, where these are no whole numbers: several quantiles are of
    one, and a mean and its variance.
    """
    same = matching(target, shape)
    if same is not None:
        return [same]
    for axis in {1: 0, target.dim() - 1: 0} if target.dim() > 2 else ():
        count = shape[axis] if target.dim() == len(shape) else 1
        more = target.shape[axis] - count
        if more > 0:
            parts = [matching(target.narrow(axis, first, count), shape) for first in (0, more)]
            if parts[0] is not None:
                return [part for part in parts if part is not None]
    return [] if _are_whole(target) else _repeated(target, shape)


def _repeated(target: Tensor, shape: torch.Size) -> list[Tensor]:
    """Fewer channels again and again: all one after the other, or each in turn."""
    if target.dim() == len(shape) - 1:
        target = target.unsqueeze(1)
    if target.dim() < 3:
        return []
    for axis in (1, len(shape) - 1):
        count = target.shape[axis]
        times, rest = divmod(shape[axis], max(count, 1))
        others = [size for a, size in enumerate(target.shape) if a != axis]
        if rest or times > CLASSES or others != [n for a, n in enumerate(shape) if a != axis]:
            continue
        repeats = [times if a == axis else 1 for a in range(target.dim())]
        in_turn = [target.repeat_interleave(times, axis)] if count > 1 else []
        return [target.repeat(repeats), *in_turn]
    return []


def are_numbers_elsewhere(targets: Any, shape: torch.Size) -> bool:
    """Whether targets hold numbers of a regression, none of which is laid as an output is.

    Args:
        targets: Of a batch.
        shape: Of the output.
    """
    held = pytree.tree_tensors(targets)
    if any(not is_mask(true) for leaf in held for true in numbers_for(leaf, shape)):
        return False
    return any(map(_are_numbers, held))


def _are_numbers(target: Tensor) -> bool:
    """Whether these are no classes: complex, not whole, or many different floats."""
    if target.is_complex() or not target.is_floating_point():
        return target.is_complex()
    return not _are_whole(target) or len(torch.unique(target[target.isfinite()])) > CLASSES


def _are_whole(target: Tensor) -> bool:
    """Whether numbers are whole, as those of classes are; nan is left out."""
    if not target.is_floating_point():
        return True
    known = target[target.isfinite()]
    return bool((known == known.round()).all())


@dataclass(frozen=True)
class _Like:
    """What of the input an output may follow, in units of mean 0 and spread 1.

    So a search finds its way.

    Attributes:
        what: `INPUT` or `BASE`.
        batches: Of each batch, (images, channels, *sizes).
        targets: What follows it, in the same shape.
        spread: Of each channel.
        mean: Of each channel.
        varied: Whether the line of the targets may be no start for all channels, as for a variance
            beside a mean.
    """

    what: str
    batches: list[Tensor]
    targets: list[Tensor]
    spread: Tensor
    mean: Tensor
    varied: bool


_Lines = dict[int, _Like]
"""By the place of the output among all leaves."""


def _likes(images: Images, place: int, targets: Sequence[Tensor]) -> list[_Like]:
    """What follows some targets: of the inputs, and what the output is added to."""
    try:
        pairs = [images.arranged(batch, place, target) for batch, target in enumerate(targets)]
    except InputError:  # tokens of which either axis may be the positions
        return []
    true = [target for _, target in pairs]
    found: list[list[Tensor]] = []
    likes = []
    # several channels may be of one of the image's, whatever shape that has
    sources = [what for what in (INPUT, BASE) if all(what in x for x, _ in pairs)]
    for what, each in itertools.product(sources, (False, True)):
        nearest = like_outputs(true, [x[what] for x, _ in pairs], by_channel=each)
        like = [x for x in nearest if x is not None]
        if len(like) == len(true) and not any(all(map(torch.equal, like, own)) for own in found):
            found.append(like)
            likes.append(_in_units(what, like, true, varied=_repeats(true)))
    # of a reconstruction the input is the goal, not an answer without a network
    return [] if any(map(_is_exact, likes)) else likes


def _is_exact(like: _Like) -> bool:
    """Whether each channel of the targets is a straight line of the input, but for rounding."""
    for channel in range(len(like.mean)):
        pairs = [
            (by_channel(x)[channel], by_channel(y)[channel])
            for x, y in zip(like.batches, like.targets, strict=True)
        ]
        slope, offset = line(pairs)
        away = sum(float((y - slope * x - offset).square().nansum()) for x, y in pairs)
        spread, middle = _spread([y for _, y in pairs])
        numbers = sum(y.numel() for _, y in pairs)
        # 1e-6: beyond the rounding of single precision, that of a mean far from zero too
        if not slope or away > (1e-6 * (spread + abs(middle))) ** 2 * numbers:
            return False
    return True


def _in_units(what: str, like: list[Tensor], true: list[Tensor], *, varied: bool) -> _Like:
    """See `_Like`."""
    shape = channel_shape(like[0])
    channels = range(math.prod(shape))
    spread, mean = _columns([_spread([by_channel(x)[c] for x in like]) for c in channels])
    units = [[n.to(x.device, x.dtype).view(shape) for n in (mean, spread)] for x in like]
    scaled = [(x - own[0]) / own[1] for x, own in zip(like, units, strict=True)]
    return _Like(what, scaled, true, spread, mean, varied)


def _of_line(
    images: Images, place: int, lines: _Lines, beside: Fitted | None, constant: Fitted | None
) -> list[tuple[str, Fitted]]:
    """The inputs that follow some targets in an output's place, and the best lines of these.

    Args:
        images: What is judged.
        place: Of the output.
        lines: What of the input this output may follow, and what others do already.
        beside: What the others are, so far.
        constant: The best one, where a line is looked for too.
    """

    def answer(batch: int, numbers: Constant) -> Any:
        flat = {i: n for i, n in numbers.items() if i >= 0 and i not in lines}
        made, spec = pytree.tree_flatten(images.outputs.constant(batch, flat))
        for i, like in lines.items():
            x = like.batches[batch]
            slope, offset = (
                numbers[key].to(x.device, x.dtype).view(channel_shape(x)) for key in (~i, i)
            )
            laid = shaped_as(slope * x + offset, made[i])
            made[i] = images.outputs.ranges[i].no_longer(laid, 1)
        return pytree.tree_unflatten(made, spec)

    def fitted(numbers: Constant) -> Fitted | None:
        values = images.values(lambda batch: answer(batch, numbers))
        return None if values is None else Fitted(values, numbers)

    def with_line(slope: Tensor, offset: Tensor) -> Constant:
        return ({} if beside is None else beside.numbers) | {~place: slope, place: offset}

    like = lines[place]
    found = [(ITSELF[like.what], fitted(with_line(like.spread, like.mean)))]
    pairs = list(zip(like.batches, like.targets, strict=True))
    tried = []
    for fit in (line, line_between):
        rows = [
            [(by_channel(x)[c], by_channel(y)[c]) for x, y in pairs] for c in range(len(like.mean))
        ]
        tried.append(with_line(*_columns([fit(row) for row in rows])))
    start = min(tried, key=lambda numbers: _finite(_loss(images, numbers, answer)))
    tried.append(refined(images, start, answer))
    level = None if constant is None else constant.numbers.get(place)
    apart = level is not None and level.numel() == like.mean.numel()  # not where channels are last
    if level is not None and apart and like.varied:
        offset = images.outputs.ranges[place].link(level).to(like.mean).reshape(like.mean.shape)
        tried.append(refined(images, with_line(torch.zeros_like(like.mean), offset), answer))
    found += [(f"a straight line of {like.what}", fitted(numbers)) for numbers in tried]
    return [(what, own) for what, own in found if own is not None]


def _repeats(targets: Sequence[Tensor]) -> bool:
    """Whether the first of several channels, (images, channels, *sizes), comes again."""
    others = range(1, targets[0].shape[1])
    return any(all(torch.equal(y[:, 0], y[:, other]) for y in targets) for other in others)


def _spread(parts: Sequence[Tensor]) -> tuple[float, float]:
    """Standard deviation and mean of all finite values; 1 for what does not vary."""
    x = torch.cat([part.detach().cpu().double().flatten() for part in parts])
    x = x[torch.isfinite(x)]
    spread = float(x.std(unbiased=False)) if len(x) else 0.0
    return spread if spread > 0.0 else 1.0, float(x.mean()) if len(x) else 0.0


def _columns(rows: Sequence[tuple[float, float]]) -> Tensor:
    """Rows of two numbers as two columns, (2, rows)."""
    return torch.tensor(rows, dtype=torch.float64, device="cpu").T


def _finite(loss: float) -> float:
    """A loss by which what has none comes last."""
    return loss if math.isfinite(loss) else math.inf


def shaped_as(answer: Tensor, output: Tensor) -> Tensor:
    """An answer (images, channels, *sizes) with the axes of the output that it stands for."""
    if output.dim() > answer.dim():  # frames were channels, or what is behind the sizes
        count, sizes = answer.dim() - 2, answer.shape[2:]
        last = output.dim() - count
        first = next((a for a in range(last, 0, -1) if output.shape[a : a + count] == sizes), last)
        others = (*output.shape[1:first], *output.shape[first + count :])
        laid = answer.reshape(len(answer), *others, *sizes)
        ends, own = range(-count, 0), range(first, first + count)
        return laid.movedim(tuple(ends), tuple(own)).to(output.dtype)
    if answer.shape != output.shape:
        flat = answer.dim() > output.dim()
        answer = answer.squeeze(1) if flat else answer.movedim(1, -1)
    return answer.to(output.dtype)


def line_between(pairs: Sequence[tuple[Tensor, Tensor]]) -> tuple[float, float]:
    """Slope and offset of the line of least absolute differences, by least squares weighted anew.

    Of every so many values, where there are more than `ENOUGH`.
    """
    x, y = (
        torch.cat([part.detach().cpu().double().flatten() for part in parts])
        for parts in zip(*pairs, strict=True)
    )
    known = torch.isfinite(x) & torch.isfinite(y)
    x, y = x[known], y[known]
    x, y = (part[:: len(part) // ENOUGH + 1] for part in (x, y))
    weight = torch.ones_like(x)
    slope, offset = 0.0, 0.0
    for _ in range(ROUNDS):
        share = weight / weight.sum()
        mean_x, mean_y = share @ x, share @ y
        spread = float(share @ (x - mean_x) ** 2)
        varies = spread > 1e-12 * float(mean_x) ** 2  # beyond rounding
        slope = float(share @ ((x - mean_x) * (y - mean_y))) / spread if varies else 0.0
        offset = float(mean_y) - slope * float(mean_x)
        away = (y - slope * x - offset).abs()
        weight = 1.0 / away.clamp_min(max(1e-6 * float(away.max()), 1e-300))
    return slope, offset


ENOUGH = 100_000
"""Values that a line of two numbers is fitted to."""

ROUNDS = 30
"""Of weighting anew: the line hardly moves any more."""


def line(pairs: Sequence[tuple[Tensor, Tensor]]) -> tuple[float, float]:
    """Slope and offset of the least squares line over all values of some pairs (x, y)."""
    sums = torch.zeros(5, device="cpu", dtype=torch.float64)
    for pair in pairs:
        x, y = (part.detach().cpu().double().flatten() for part in pair)
        known = torch.isfinite(x) & torch.isfinite(y)
        x, y = x[known], y[known]
        sums += torch.stack([torch.ones_like(x).sum(), x.sum(), y.sum(), x @ x, x @ y])
    count, sx, sy, xx, xy = sums.tolist()
    spread = xx - sx * sx / count
    slope = (xy - sx * sy / count) / spread if spread > 0 else 0.0
    return slope, (sy - slope * sx) / count
