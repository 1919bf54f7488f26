"""Answers that need no network: what they must look like, and the images they are judged on."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from weightscope.adapters import pytree
from weightscope.batches import Batch, split_images
from weightscope.errors import InputError
from weightscope.graph.running import Tail
from weightscope.probing.inputs import as_large_as, without_gaps
from weightscope.probing.nearest import Nearest, varies
from weightscope.utilization.metrics import FloatArray
from weightscope.utilization.targets import (
    are_numbers_elsewhere,
    by_channel,
    channel_shape,
    is_prediction,
    matching,
)
from weightscope.utilization.values import ValueMetric, image_values, on_device

FITTED = 64
"""Images that the constant is fitted on: it has a number per channel, and each image has many
thousands of pixels to tell it."""

TINY = 1e-6
"""Probability of what never happens, in a constant that must not claim so."""

Constant = dict[int, Tensor]

Answer = Callable[[int, Constant], Any]

Arrange = Callable[[Any, Tensor], tuple[list[Tensor], Tensor]]

INPUT, COMPUTED = "the input", "what it computes without weights"

BASE = "what it answers without its levels"

FILLED = "what it makes of a constant"


@dataclass(frozen=True)
class Filled:
    """What a network makes of constants in the place of its levels, for one batch.

    Attributes:
        tail: Of all outputs.
        own: Takes of these what is judged.
    """

    tail: Tail
    own: Callable[[Any], Any]

    @property
    def numbers(self) -> int:
        """How many constants there are."""
        return self.tail.numbers

    @property
    def runs(self) -> bool:
        """Whether it can be run for constants that differ, too."""
        return self.tail.runs(self.tail.differing)

    def of(self, numbers: Tensor) -> Any:
        """What is judged, for some constants, (numbers,)."""
        return self.own(self.tail(numbers))

    def alike(self, number: float) -> Any:
        """The same for one constant everywhere."""
        return self.of(torch.full((self.numbers,), number, device="cpu"))


@dataclass(frozen=True)
class Beside:
    """What a network answers or computes of a batch without its levels.

    Attributes:
        base: What its outputs are added to, see `CutRuns.without_weights`; None if to nothing.
        computed: Images that it computes without weights, see `CutRuns.computed`.
        filled: What it makes of constants; None where it cannot be run so.
    """

    base: Any = None
    computed: Sequence[Tensor] = ()
    filled: Filled | None = None


NOTHING = Beside()


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
        computed: For each batch, the images that the network computes without weights, see
            `CutRuns.computed`; held there too.
        filled: For each batch, what the network makes of constants; None where it cannot be run so.
    """

    specs: list[Any] = field(default_factory=list)
    leaves: list[list[Any]] = field(default_factory=list)
    ranges: dict[int, ChannelRange] = field(default_factory=dict)
    nearest: dict[tuple[int, str], Nearest] = field(default_factory=dict)
    bases: list[list[Any] | None] = field(default_factory=list)
    computed: list[list[Tensor]] = field(default_factory=list)
    filled: list[Filled | None] = field(default_factory=list)

    def add(self, output: Any, beside: Beside = NOTHING) -> None:
        """Note the outputs for one batch, and what the network makes of it without its levels."""
        leaves, spec = pytree.tree_flatten(output)
        self.specs.append(spec)
        self.leaves.append(
            [v.new_empty(()).expand(v.shape) if is_prediction(v) else v for v in leaves]
        )
        held = pytree.tree_map(lambda v: v.cpu() if isinstance(v, Tensor) else v, beside.base)
        self.bases.append(None if beside.base is None else pytree.tree_leaves(held))
        self.filled.append(beside.filled)
        self.computed.append([image.cpu() for image in beside.computed])
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
        """What an output of a batch may follow: its inputs, `BASE`, and `COMPUTED` as large.

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
        found = {INPUT: images}
        if (bases := self.bases[batch]) is not None:
            found[BASE] = [arrange(inputs, bases[position].to(leaf.device))[1]]
        if large := as_large_as([ordered, *images], self.computed[batch]):
            found[COMPUTED] = [without_gaps(x.to(leaf.device).double()) for x in large]
        return found, ordered

    def constant(self, batch: int, values: dict[int, Tensor]) -> Any:
        """Outputs for a batch that are the same at all its positions."""
        made = list(self.leaves[batch])
        for position, free in values.items():
            leaf = made[position]
            value = self.ranges[position].link(free).to(leaf.device, leaf.dtype)
            made[position] = value.reshape(channel_shape(leaf)).expand(leaf.shape)
        return pytree.tree_unflatten(made, self.specs[batch])

    @cached_property
    def fills(self) -> int:
        """How many constants in the place of the levels make no constant output; 0 if they do.

        Asked when all batches were added.
        """
        given = [one for one in self.filled if one is not None and one.runs]
        if len(given) < len(self.filled):
            return 0
        varied = moves = False
        for one in given:
            ends = (pytree.tree_leaves(one.of(x)) for x in (one.tail.zeros, one.tail.differing))
            for zero, other in zip(*ends, strict=True):
                if is_prediction(zero) and zero.shape == other.shape:
                    moved = (other - zero).nan_to_num(0.0, 0.0, 0.0)
                    moves |= bool((moved != 0.0).any())
                    varied |= varies(zero.nan_to_num(0.0, 0.0, 0.0)) or varies(moved)
        return given[0].numbers if given and moves and varied else 0

    def made_of(self, batch: int, values: Constant) -> Any:
        """What the network makes of constants in the place of its levels, for a batch."""
        one = self.filled[batch]
        assert one is not None, "nothing can be filled in"
        return one.of(values[0])


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


@dataclass(frozen=True)
class Fitted:
    """An answer that was fitted to the targets.

    Attributes:
        values: Of the metric, (images,).
        numbers: That it is made of.
    """

    values: FloatArray
    numbers: Constant


def as_given(inputs: Any, target: Tensor) -> tuple[list[Tensor], Tensor]:
    """The image inputs of a batch and its target, each as (images, channels, *sizes).

    Without knowing the network: as they are.
    """
    same = matching(inputs, target.shape)
    leaves = [x for x in pytree.tree_tensors(inputs) if x.dim() > 1 and not x.is_complex()]
    images = leaves if same is None else [same]
    return [without_gaps(x.double()) for x in images], target.double()


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
        for batch, chosen in self.chosen():
            made = split_images((answer or self.outputs.constant)(batch, numbers))
            true = split_images(self.targets(batch))
            losses += [as_number(self.metric(made[i], true[i])).double().mean() for i in chosen]
        return -self.sign * torch.stack(losses).nanmean()

    def chosen(self) -> Iterator[tuple[int, list[int]]]:
        """The picked images of each batch."""
        for batch in dict.fromkeys(batch for batch, _ in self.picked):
            yield batch, [image for b, image in self.picked if b == batch]


def as_number(value: Any) -> Tensor:
    """What a metric returned, as a tensor; one that it returned stays where it is."""
    return value if isinstance(value, Tensor) else torch.as_tensor(value, device="cpu")
