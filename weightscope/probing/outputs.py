"""What a network returned: its outputs, whether they are decisions, and coarser versions of one."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from weightscope.adapters.symbols import grows, hint
from weightscope.calls import is_complex, only_tensor, tensors_by_place
from weightscope.errors import InputError
from weightscope.graph.running import GraphRun, same_draws
from weightscope.graph.structure import ExampleInputs, Structure
from weightscope.probing.inputs import all_channels, image_of
from weightscope.thresholds import AGREES, CERTAIN, LARGEST_LOGIT

FEWEST_POSITIONS = 16
"""Positions below which nobody would return an image as a row of them."""


def predictions(outputs: Any) -> dict[str, Tensor]:
    """The tensors of floating-point numbers that a model returned for each image.

    By their places among what it returned, that of the first image-like one (or of that named
    ``logits`` or ``out``) first. Tables are signals of one position; where there are only tables,
    signals without channels.
    """
    floats = {
        place: leaf
        for place, leaf in tensors_by_place(outputs).items()
        if leaf.is_floating_point() and leaf.dim()
    }
    if not any(leaf.dim() >= 2 for leaf in floats.values()):
        real = ""
        if is_complex(outputs):
            real = "; let it return real ones, such as torch.view_as_real(output)"
        raise InputError(
            f"the network returns no image-like tensor of floating-point numbers{real}"
        )
    images = any(leaf.dim() >= 3 for leaf in floats.values())
    likely = [place for place, leaf in floats.items() if leaf.dim() >= (3 if images else 2)]
    named = [place for place in likely if floats[place] is only_tensor(outputs)]
    first = (named or likely)[0]
    judged = floats[first] if images else floats[first][:, None]
    return {first: judged} | {
        place: leaf if leaf.dim() > 2 else leaf.reshape(len(leaf), -1, 1)
        for place, leaf in floats.items()
        if place != first and len(leaf) == len(judged) and leaf.numel()
    }


def channels_second(
    value: Tensor, inputs: ExampleInputs, image: Tensor, growing: Sequence[int] = ()
) -> Tensor:
    """What a network returned or was given, as (images, channels, *sizes).

    The channels may be last, or there may be none (a mask, one depth for each position); tokens may
    come before their channels. Which axes are sizes says the network where they follow the image's
    size; else they are those that have its proportions.

    Args:
        value: For each image.
        inputs: What the axes of the image are.
        image: The image input of the same call.
        growing: Axes that follow the image's size, if the network was read at free sizes.

    Raises:
        InputError: Tokens of which either axis may be the positions.
    """
    axes = tuple(range(1, value.dim()))
    if growing and tuple(growing) == axes[1:]:
        return value
    if growing and tuple(growing) == axes[:-1]:
        return value.movedim(-1, 1)
    if len(growing) == len(inputs.space) < len(axes) and growing[-1] < axes[-1]:
        # such as the real and the imaginary part behind the sizes
        return value.movedim(tuple(growing), tuple(range(-len(growing), 0))).flatten(
            1, len(axes) - len(growing)
        )
    sizes = [image.shape[axis] for axis in inputs.space]
    last = inputs.layout.endswith("C")

    def large(shape: Sequence[int]) -> bool:
        if len(sizes) == 1:  # any length has the proportions of any other
            return list(shape) == sizes
        return all(a * sizes[0] == b * shape[0] for a, b in zip(shape, sizes, strict=True))

    if value.dim() == len(sizes) + 1 and large(value.shape[1:]):
        return value[:, None]
    if value.dim() == len(sizes) + 2:
        second, at_end = large(value.shape[2:]), large(value.shape[1:-1])
        return value.movedim(-1, 1) if at_end and (last or not second) else value
    if value.dim() == 3 and len(sizes) > 1:
        first, second = (_is_grid(count, sizes) for count in value.shape[1:])
        if first and second:
            raise InputError(
                f"an output of {value.shape[1]} x {value.shape[2]} numbers for each image may hold "
                "its positions first or last; return it as (images, channels, height, width)"
            )
        return value.movedim(-1, 1) if first else value
    return value


def _is_grid(count: int, sizes: Sequence[int]) -> bool:
    """Whether as many positions as these are an image's at some stride, and no mere handful."""
    return count >= FEWEST_POSITIONS and any(
        all(size % stride == 0 for size in sizes)
        and math.prod(size // stride for size in sizes) == count
        for stride in range(1, min(sizes) + 1)
    )


def image_predictions(outputs: Any, structure: Structure, image: Tensor) -> dict[str, Tensor]:
    """`predictions`, each as (images, channels, *sizes)."""
    found = predictions(outputs)
    return {place: in_order(t, structure, place, image) for place, t in found.items()}


def in_order(value: Tensor, structure: Structure, place: str, image: Tensor) -> Tensor:
    """`channels_second` of what has the axes of the output at a place."""
    shape = structure.outputs[place].meta["val"].shape if place in structure.outputs else ()
    if len(shape) != value.dim():  # a table
        shape = ()
    # axes that follow the image's size; none where the network was read at one size
    growing = [axis for axis, size in enumerate(shape) if axis and grows(size)]
    return channels_second(value, structure.inputs, image, growing)


def images_and_target(
    structure: Structure, inputs: Any, target: Tensor
) -> tuple[list[Tensor], Tensor]:
    """The images of a batch, and its target for a single output, as (images, channels, *sizes).

    Raises:
        InputError: There is no image, or tokens of which either axis may be the positions.
    """
    place = next(iter(structure.outputs)) if len(structure.outputs) == 1 else ""
    own = in_order(target, structure, place, image_of(inputs, structure))
    axes = structure.inputs.dimensions + 2
    if own.dim() > axes:  # clips: frames count as channels, as in their images
        own = own.reshape(len(own), -1, *own.shape[own.dim() - axes + 2 :])
    return [image.double() for image in all_channels(inputs, structure)], own.double()


@dataclass(frozen=True)
class Reading:
    """What all outputs together can be read as, in whatever batches they came.

    Attributes:
        share: Whether they are probabilities.
        negative: Whether any number is below zero.
        square: Sum of the squares of all numbers.
        numbers: How many these are.
        sums: Of the numbers of each channel; None of no outputs.
        below: Number of positions at which every one of several channels is below zero.
    """

    share: bool = True
    negative: bool = False
    square: float = 0.0
    numbers: int = 0
    sums: Tensor | None = None
    below: float = 0.0

    @classmethod
    def of(cls, batches: Iterable[Tensor]) -> Reading:
        """That of outputs (images, channels, *sizes)."""
        found = cls()
        for outputs in batches:
            found = found.with_batch(outputs)
        return found

    def with_batch(self, outputs: Tensor) -> Reading:
        """With one more batch."""
        sums = outputs.double().transpose(0, 1).flatten(1).sum(1)
        return Reading(
            self.share and is_share(outputs),
            self.negative or bool((outputs < 0).any()),
            self.square + float(outputs.double().square().sum()),
            self.numbers + outputs.numel(),
            sums if self.sums is None else self.sums + sums,
            self.below + positions_below(outputs),
        )

    @property
    def middle(self) -> Tensor:
        """Mean of each channel, (channels,)."""
        assert self.sums is not None, "no outputs were read"
        return self.sums * len(self.sums) / self.numbers

    @property
    def bare(self) -> float:
        """Share of the positions at which every one of several channels is below zero.

        Channels that exclude each other compete, and one of them is above zero nearly everywhere;
        where each decides for itself, as before a sigmoid, the background is below zero in all.
        """
        return 0.0 if self.sums is None else self.below * len(self.sums) / self.numbers

    @property
    def logits(self) -> bool:
        """Whether they may be logits: numbers of both signs, and not too large."""
        return self.negative and self.square <= LARGEST_LOGIT**2 * self.numbers


def is_share(outputs: Tensor) -> bool:
    """Whether outputs (images, channels, positions) are probabilities already.

    A single channel within 0..1, or several of which each position's sum is 1.
    """
    within = bool(((outputs >= 0) & (outputs <= 1)).all())
    rounding = max(1e-3, torch.finfo(outputs.dtype).eps)
    sums = outputs.double().sum(1)
    return within and (outputs.shape[1] == 1 or bool(((sums - 1).abs() < rounding).all()))


def certainty(outputs: Tensor, reading: Reading | None = None) -> Tensor:
    """How sure outputs are if read as logits or probabilities: 0 at equal odds, 1 at none.

    Args:
        outputs: (images, channels, positions).
        reading: Of all outputs, where these are a part; by default they are all.

    Returns:
        (images,): the mean probability of the decision, less what it is at equal odds, as a share
        of what is left above it. 0 for numbers that are never negative and no probabilities, and
        for numbers too large to be logits.
    """
    images, channels, _ = outputs.shape
    kinds = max(channels, 2)
    reading = reading or Reading.of([outputs])
    if reading.share:
        shares = outputs if channels > 1 else torch.maximum(outputs, 1 - outputs)
    elif not reading.logits:
        return outputs.new_zeros(images)
    else:
        shares = outputs.softmax(1) if channels > 1 else outputs.abs().sigmoid()
    return (shares.amax(1).mean(-1) - 1 / kinds) * kinds / (kinds - 1)


def positions_below(outputs: Tensor) -> float:
    """How many positions of outputs (images, channels, *sizes) are below zero in all of several."""
    return float((outputs < 0).all(1).sum()) if outputs.shape[1] > 1 else 0.0


class CoarserOutputs:
    """Which outputs are coarser versions of the first one, as for deep supervision.

    Outputs of as many channels at fewer positions that say on the images what the first one says
    there; no level is of use for them alone. In doubt, as where the network is hardly trained, an
    output is none.

    Args:
        structure: The network.
    """

    def __init__(self, structure: Structure) -> None:
        self._structure = structure
        values = [node.meta["val"] for node in structure.outputs.values()]
        kinds = [(v.dim(), hint(v.shape[1])) for v in values if v.dim() > 2]
        self._alike = len(set(kinds)) < len(kinds)
        self._concordances: dict[str, Concordance] = {}

    def add(self, inputs: Any) -> None:
        """Look at what the network returns for the next batch."""
        if not self._alike:
            return
        with torch.no_grad(), same_draws(self._structure):
            outputs = GraphRun(self._structure, {}).predict(inputs)
        with suppress(InputError):  # nothing that could have a coarser version
            found = image_predictions(outputs, self._structure, image_of(inputs, self._structure))
            first, *others = found
            for place in others:
                if _is_coarser(found[place], found[first]):
                    concordance = self._concordances.setdefault(place, Concordance())
                    concordance.add(found[place], found[first])

    @property
    def places(self) -> frozenset[str]:
        """By what gets at them in what the network returns."""
        return frozenset(p for p, found in self._concordances.items() if found.value > AGREES)

    @property
    def counted(self) -> tuple[str, ...]:
        """All other outputs that hold a real number or more for each image."""
        return tuple(
            place
            for place, node in self._structure.outputs.items()
            if place not in self.places
            and node.meta["val"].is_floating_point()
            and node.meta["val"].dim()
        )


def _is_coarser(leaf: Tensor, finest: Tensor) -> bool:
    """Whether an output has the shape of another one at fewer positions."""
    sizes = list(zip(leaf.shape[1:], finest.shape[1:], strict=False))
    return (
        leaf.dim() == finest.dim() <= 5
        and leaf.shape[1] == finest.shape[1]
        and leaf.shape != finest.shape
        and all(size <= whole for size, whole in sizes)
    )


class Concordance:
    """How far a coarser output agrees with the first one, averaged to as few positions.

    Of decisions the probabilities are compared, which a logit's size changes little, of others the
    numbers: another quantity has other ones, though it lies where the decisions do.
    """

    def __init__(self) -> None:
        self._sums: Tensor | float = 0.0
        self._middle: Tensor | None = None
        self._certainty: list[float] = []

    def add(self, coarser: Tensor, first: Tensor) -> None:
        """Add what the whole network returned for the next batch."""
        pool = (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d)[
            coarser.dim() - 3
        ]
        pooled = pool(first.double(), coarser.shape[2:])  # type: ignore[arg-type]
        pair = [t.double().flatten(2) for t in (coarser, pooled)]
        if self._middle is None:  # sums of squares of numbers far from zero lose what they vary by
            self._middle = pair[1].mean((0, 2))[:, None]
        sums = []
        for a, b in ([probabilities(t) for t in pair], [t - self._middle for t in pair]):
            moments = (torch.ones_like(a), a, b, a * a, b * b, a * b)
            sums.append(torch.stack([moment.sum((0, 2)) for moment in moments]))
        self._sums = self._sums + torch.stack(sums)
        self._certainty.append(float(certainty(first.double().flatten(2)).mean()))

    @property
    def value(self) -> float:
        """Lin's concordance; nan where nothing varies."""
        decides = float(np.mean(self._certainty)) > CERTAIN
        n, *moments = self._sums[0 if decides else 1]  # type: ignore[index]
        a, b, aa, bb, ab = (moment / n for moment in moments)
        apart = (aa - a * a) + (bb - b * b) + (a - b) ** 2
        return float(2 * (ab - a * b).sum() / apart.sum())


def probabilities(outputs: Tensor, reading: Reading | None = None) -> Tensor:
    """What outputs (images, channels, positions) are as probabilities; `reading` as above."""
    if is_share(outputs) if reading is None else reading.share:
        return outputs
    return outputs.softmax(1) if outputs.shape[1] > 1 else outputs.sigmoid()
