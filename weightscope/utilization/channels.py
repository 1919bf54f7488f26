"""What each channel of a regression or each output is worth: a sum hides small ones."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from weightscope.adapters import pytree
from weightscope.calls import leaves_by_place, tensors_by_place
from weightscope.errors import InputError
from weightscope.graph.structure import Structure
from weightscope.probing.inputs import all_channels, image_of
from weightscope.probing.nearest import Nearest
from weightscope.probing.outputs import in_order, predictions
from weightscope.thresholds import LOSS_THAT_COUNTS, RESOLUTION
from weightscope.utilization.judging import louder, name_at
from weightscope.utilization.metrics import Compared, FloatArray, ImageValues
from weightscope.utilization.targets import (
    are_numbers_elsewhere,
    by_channel,
    channel_shape,
    is_mask,
    numbers_for,
    shaped_as,
)
from weightscope.utilization.values import ValueMetric, image_values, on_device

EXACTLY = 1e-12
"""Share of a value below which a difference is rounding where it is computed in double precision,
which resolves 2e-16: depth in millimetres hides a share of its millionth."""

HARDLY_RESOLVED = 10.0
"""A part worth fewer of such differences than this is not surely seen: its worth varies over the
images, and what surely is there may be none."""


@dataclass(frozen=True)
class _Place:
    """An output that is asked: by its channels, or as a whole.

    Attributes:
        name: What gets at it among several; empty of a single one.
        where: What gets at it.
        index: Which leaf of the outputs it is.
        axis: Of its channels; None where it is asked as a whole.
    """

    name: str
    where: str
    index: int
    axis: int | None


class ChannelMeter:
    """Asks a metric of one part of the outputs at a time, the others being the whole network's.

    A part is a channel, or one of several outputs that has none. The metric alone knows which
    positions count, and for how much. What a part is worth is what its mean over all images and
    positions would lose in its place, and what the straight line of the input that is nearest to it
    would, where its targets are a regression: a restoration that hardly does more than hand its
    input on is worth little beyond that. What it loses without a level is what the cut network's
    does there. All is computed in double precision, where the metric takes it. A part of so small a
    unit that its worth drowns in the rest's rounding is told by `hidden`.

    Args:
        structure: The network, with its cuts.
        metric: Of one value for each image; None where there is nothing to ask.
        targets: All targets, batch by batch.
        device: Where the outputs are.

    Attributes:
        parts: The output, by what gets at it among several, and the channel, -1 of a whole output.
        resolution: Share of a value below which a difference is rounding.
    """

    def __init__(
        self,
        structure: Structure,
        metric: ValueMetric | None,
        targets: Sequence[Any],
        device: torch.device,
    ) -> None:
        self._structure, self._metric = structure, metric
        self._targets, self._device = targets, device
        self._read: Collection[str] = ()
        self.parts: list[tuple[str, int]] = []
        self.resolution = EXACTLY
        self._means: dict[int, tuple[Tensor, int]] = {}  # sums and counts, by leaf
        self._added = 0
        self._now: tuple[list[_Place], Any, Any] | None = None
        self._whole: list[float] = []
        # of each part: values with its mean in its place, then as each cut leaves it, then with
        # the line in its place
        self._others: list[list[list[float]]] = []
        # of each part: squares by which its mean, then each cut, then the line changes it
        self._squares: list[FloatArray] = []
        self._unread: set[int] = set()  # parts that the metric does not look at
        self._looked = 0
        self._nearest: dict[int, Nearest] = {}  # by leaf; none of what follows no input

    @property
    def asks(self) -> bool:
        """Whether there is anything to ask, for which `look` wants to see the outputs."""
        return self._metric is not None

    def look(self, inputs: Any, outputs: Any) -> None:
        """Take note of what the whole network returned for a batch."""
        places = self._places(inputs, outputs)
        target = self._targets[self._looked] if places else None
        self._looked += 1
        for place in places:
            self._look_beside(place, inputs, outputs, target)
            rows = _rows(pytree.tree_leaves(outputs)[place.index], place.axis)
            total, count = self._means.get(place.index, (torch.zeros_like(rows[:, 0]), 0))
            self._means[place.index] = (total + rows.sum(1), count + rows.shape[1])

    def _look_beside(self, place: _Place, inputs: Any, outputs: Any, target: Any) -> None:
        """How an output of numbers follows the inputs."""
        if self._looked > 1 and place.index not in self._nearest:
            return
        leaf = pytree.tree_leaves(outputs)[place.index]
        nearest = Nearest()
        if _of_numbers(place.where, leaf, target):
            with suppress(InputError):  # no image, or tokens
                nearest = self._nearest.get(place.index, nearest).with_batch(
                    self._ordered(place, inputs, leaf), all_channels(inputs, self._structure)
                )
        if nearest.sums is None:
            self._nearest.pop(place.index, None)
        else:
            self._nearest[place.index] = nearest

    def _ordered(self, place: _Place, inputs: Any, leaf: Tensor) -> Tensor:
        return in_order(leaf, self._structure, place.where, image_of(inputs, self._structure))

    def _line(self, place: _Place, inputs: Any, leaf: Tensor) -> Tensor | None:
        """The line of the nearest input in place of an output; None where it follows none."""
        if place.index not in self._nearest:
            return None
        nearest = self._nearest[place.index]
        x = nearest.of(all_channels(inputs, self._structure), self._ordered(place, inputs, leaf))
        if x is None:
            return None
        slope, offset = (n.to(x).view(channel_shape(x)) for n in nearest.line)
        return shaped_as(slope * x + offset, leaf)

    def add(self, inputs: Any, outputs: Any, read: Collection[str] = ()) -> None:
        """Add what the whole network returned for the next batch.

        Args:
            inputs: Of the batch.
            outputs: Of the whole network.
            read: Of several outputs those that the metric reads, by what gets at them. Those that
                it reads of the first batch are asked.
        """
        if not self._added:
            self._read = read
        places = self._places(inputs, outputs)
        target = on_device(self._targets[self._added], self._device)
        self._added += 1
        self._now = None
        if not places or not self._means:
            return
        outputs, target = self._as_asked((outputs, target))
        self._now = places, outputs, target
        self._whole += self._values(outputs, target, f"batch {self._added - 1}")
        leaves = pytree.tree_leaves(outputs)
        self._ask(0, [_filled(leaves[p.index], p.axis, self._means[p.index]) for p in places])
        self._ask(-1, [self._line(p, inputs, leaves[p.index]) for p in places])
        if self._added == 1:
            self._unread = set(self._find_unread(places, leaves))

    def _find_unread(self, places: Sequence[_Place], leaves: Sequence[Any]) -> Iterator[int]:
        """Parts that the metric does not look at, of those of no worth in the first batch."""
        assert self._now is not None
        own = [leaves[place.index] for place in places]
        loudest = max(float(leaf.abs().max()) for leaf in own)
        others = [louder(x, loudest, p.axis) for x, p in zip(own, places, strict=True)]
        for number, (_, _, made) in enumerate(self._exchanged(others)):
            if self._is_faint(number):
                values = self._values(made, self._now[2])
                if np.array_equal(values, self._whole, equal_nan=True):
                    yield number

    def _is_faint(self, number: int) -> bool:
        """Whether what a part is worth, if anything, is hardly more than rounding."""
        whole = np.array(self._whole)
        change = np.abs(np.array(self._others[number][0]) - whole)
        known = np.isfinite(change)
        if not known.any():
            return False
        border = HARDLY_RESOLVED * self.resolution
        return bool(change[known].mean() <= border * np.abs(whole[known]).mean())

    def hidden(self, cut: int) -> tuple[str, ...]:
        """Parts that change without a cut's levels, and are worth too little beside the rest.

        Of a network that errs as little as it can, the share of its variance that changes is the
        share of its own skill that a part loses.

        Args:
            cut: Counted from 0.

        Returns:
            Their names, such as ``channel 1``. None is a part that the metric does not look at.
        """
        return tuple(
            part_named(*part)
            for number, part in enumerate(self.parts)
            if self._squares[number][1 + cut] > LOSS_THAT_COUNTS * self._squares[number][0]
            and self._is_faint(number)
            and number not in self._unread
        )

    def add_cut(self, cut: int, outputs: Any) -> None:
        """Add what a cut network returned for the same batch; cuts are counted from 0."""
        if self._now is not None:
            leaves = pytree.tree_leaves(outputs)
            self._ask(1 + cut, [leaves[place.index] for place in self._now[0]])

    def _ask(self, row: int, others: Sequence[Tensor | None]) -> None:
        """Take each part from elsewhere, and ask the metric; nan where there is nothing else."""
        assert self._now is not None
        target = self._now[2]
        for number, (part, change, made) in enumerate(self._exchanged(others)):
            if number == len(self.parts):
                self.parts.append(part)
                rows = (0, *self._structure.cuts, -1)
                self._others.append([[] for _ in rows])
                self._squares.append(np.zeros(len(rows)))
            values = [math.nan] * len(change) if made is None else self._values(made, target)
            self._squares[number][row] += float(change.square().sum())
            self._others[number][row] += values

    def _exchanged(
        self, others: Sequence[Tensor | None]
    ) -> Iterator[tuple[tuple[str, int], Tensor, Any]]:
        """For each part its name, how it changes if taken from elsewhere, and all outputs then.

        These are None where there is nothing else.
        """
        assert self._now is not None
        places, outputs, _ = self._now
        leaves, spec = pytree.tree_flatten(outputs)
        for place, other in zip(places, others, strict=True):
            own = leaves[place.index]
            for channel, mixed in _mixed(own, own if other is None else other, place.axis):
                changed = [*leaves[: place.index], mixed, *leaves[place.index + 1 :]]
                made = None if other is None else pytree.tree_unflatten(changed, spec)
                yield (place.name, channel), mixed.double() - own.double(), made

    def _as_asked(self, given: tuple[Any, Any]) -> tuple[Any, Any]:
        """Outputs and targets in double precision, if the metric took the first ones so."""
        if self.resolution == RESOLUTION:
            return given
        try:
            outputs, target = pytree.tree_map(_exact, given)
            if not self._whole:
                self._values(outputs, target, f"batch {self._added - 1}")
        except (InputError, TypeError):  # TypeError of a device without it
            if self._whole:
                raise
            self.resolution = RESOLUTION
            return given
        return outputs, target

    def _values(self, outputs: Any, target: Any, where: str = "") -> list[float]:
        """The metric for the present batch, image by image."""
        assert self._metric is not None
        return image_values(self._metric, outputs, target, where)

    def by_cut(self, images: int, weights: FloatArray, sign: float) -> list[Compared]:
        """Of the whole network, then without the levels of each cut; empty where nothing is known.

        Parts are counted twice: against their means, then against the lines.

        Args:
            images: How many there are.
            weights: (resamples, images): how often each image is counted.
            sign: 1 where more is better, else -1.
        """
        cuts = range(1, 1 + len(self._structure.cuts))
        if len(self._whole) != images or any(len(rows[0]) != images for rows in self._others):
            return [{} for _ in (0, *cuts)]

        def quality(values: Sequence[float]) -> FloatArray:
            return sign * ImageValues(np.array(values)).of(weights)

        full = quality(self._whole)
        instead = [rows[row] for row in (0, -1) for rows in self._others]
        known = [part for part, values in enumerate(instead) if np.isfinite(values).any()]
        trivial = list(map(quality, instead))
        left = [[quality(rows[cut]) for rows in self._others] * 2 for cut in cuts]
        wholes = [full] * len(trivial)
        return [{part: (own[part], trivial[part]) for part in known} for own in (wholes, *left)]

    def _places(self, inputs: Any, outputs: Any) -> list[_Place]:
        """What is asked of some outputs: nothing of a single one of one channel."""
        if not self.asks:
            return []
        leaves = leaves_by_place(outputs)
        names = list(leaves)
        try:
            found = [n for n in predictions(outputs) if not self._read or n in self._read]
        except InputError:  # no output that is known
            return []
        several = len(found) > 1
        places = [
            _Place(
                name if several else "", name, names.index(name), self._axis(inputs, leaves, name)
            )
            for name in found
        ]
        return [place for place in places if several or place.axis is not None]

    def _axis(self, inputs: Any, leaves: dict[str, Any], name: str) -> int | None:
        """The axis of several channels of an output; None of one, or where it is not known."""
        leaf = leaves[name]
        with suppress(InputError):
            ordered = in_order(leaf, self._structure, name, image_of(inputs, self._structure))
            if ordered.dim() == leaf.dim() > 2 and ordered.shape[1] > 1:
                return 1 if ordered is leaf else leaf.dim() - 1
        return None


def part_named(output: str, channel: int) -> str:
    """A part of the outputs in words: ``channel 1``, ``channel 1 of outputs['flow']``.

    Args:
        output: What gets at it; empty of a single one.
        channel: -1 of a whole output.
    """
    if channel < 0:
        return f"outputs{output}"
    return f"channel {channel}" + (f" of outputs{output}" if output else "")


def _of_numbers(where: str, leaf: Tensor, targets: Any) -> bool:
    """Whether the target of an output is a regression: that of its name, else any."""
    named = {name_at(place): target for place, target in tensors_by_place(targets).items()}
    own = named.get(name_at(where))
    own_or_any = named.values() if own is None else [own]
    found = [true for target in own_or_any for true in numbers_for(target, leaf.shape)]
    elsewhere = are_numbers_elsewhere(list(own_or_any), leaf.shape)
    return elsewhere or any(not is_mask(true) for true in found)


def _exact(value: Any) -> Any:
    real = isinstance(value, Tensor) and value.is_floating_point()
    return value.double() if real else value


def _rows(leaf: Tensor, axis: int | None) -> Tensor:
    """Numbers of each channel, (channels, positions); of a whole output in one row."""
    double = leaf.double()
    return double.reshape(1, -1) if axis is None else by_channel(double.movedim(axis, 1))


def _filled(leaf: Tensor, axis: int | None, mean: tuple[Tensor, int]) -> Tensor:
    """The mean of each channel at all positions."""
    total, count = mean
    shape = [-1 if a == axis else 1 for a in range(leaf.dim())]
    return (total / count).to(leaf).reshape(shape).expand_as(leaf)


def _mixed(own: Tensor, other: Tensor, axis: int | None) -> Iterator[tuple[int, Tensor]]:
    """An output with one channel at a time from elsewhere; as a whole where it is asked so."""
    if axis is None:
        yield -1, other.to(own, copy=True)
        return
    for channel in range(own.shape[axis]):
        mixed = own.clone()
        mixed.select(axis, channel).copy_(other.select(axis, channel))
        yield channel, mixed
