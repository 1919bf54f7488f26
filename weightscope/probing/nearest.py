"""The channel of the inputs that is most like a channel of the outputs or of the targets.

What a restoration has to beat: of an image beside a map of its noise the image, of several frames
the one that is restored, of a small image for a large one the image at the larger size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

SMOOTH = {1: "linear", 2: "bilinear", 3: "trilinear"}
"""How an image is enlarged along as many axes."""


ALIKE = 1e-6
"""Difference of two shares of a variance that single precision leaves of one image twice."""


@dataclass(frozen=True)
class Nearest:
    """How each channel of some outputs follows each channel of the inputs, over all batches.

    Attributes:
        sums: Of 1, w, x, w^2, x^2 and w x over all positions at which w is finite, (6, channels of
            w, channels of x); w is the output, x the input. None of no batch.
    """

    sums: Tensor | None = None

    def with_batch(self, outputs: Tensor, inputs: Sequence[Tensor]) -> Nearest:
        """With one more batch.

        Args:
            outputs: Outputs or targets, (images, channels, *sizes).
            inputs: The image inputs of the same call, each (images, channels, *sizes).
        """
        if not (beside := _beside(outputs, inputs)):
            return self
        w, x = _rows(outputs), torch.cat([_rows(image) for image in beside])
        known = w.isfinite().to(w)
        w = w.nan_to_num(0.0, 0.0, 0.0)
        ones = torch.ones_like(x)
        sums = torch.stack(
            [known @ ones.T, w @ ones.T, known @ x.T, w**2 @ ones.T, known @ (x * x).T, w @ x.T]
        )
        if self.sums is None:
            return Nearest(sums)
        return Nearest(self.sums + sums) if self.sums.shape == sums.shape else self

    @property
    def channels(self) -> list[int]:
        """For each channel of the outputs the channel of the inputs whose straight line suits it.

        Inputs count one after the other. Of those that are lines of each other (an image, and 1
        minus it) it is the first: whether an output follows what was given or its negative matters.
        """
        found = self.explained
        return [int(k) for k in (found >= found.amax(1, keepdim=True) - ALIKE).int().argmax(1)]

    @property
    def explained(self) -> Tensor:
        """Share of the variance of each output that each input explains, both by channel."""
        assert self.sums is not None, "no batch was read"
        n, w, x, ww, xx, wx = self.sums
        shared = (n * wx - w * x) ** 2
        varied = (n * ww - w * w) * (n * xx - x * x)
        return torch.where(varied > 0, shared / varied, 0.0).nan_to_num(0.0)

    @property
    def line(self) -> tuple[Tensor, Tensor]:
        """Slope and offset of the least squares line of each channel by its channel of the inputs.

        Of an input that does not vary the slope is 0.
        """
        assert self.sums is not None, "no batch was read"
        picked = torch.tensor(self.channels, device=self.sums.device)[:, None]
        n, w, x, _, xx, wx = (sums.gather(1, picked)[:, 0] for sums in self.sums)
        spread = n * xx - x * x
        varies = spread > 1e-12 * n * xx  # beyond rounding
        slope = torch.where(varies, (n * wx - w * x) / spread, 0.0)
        return slope, (w - slope * x) / n

    def of(self, inputs: Sequence[Tensor], outputs: Tensor) -> Tensor | None:
        """These channels of a batch at the size of its outputs, in their shape."""
        beside = _beside(outputs, inputs)
        if self.sums is None or not beside:
            return None
        return torch.cat(beside, 1)[:, self.channels].to(outputs)


@dataclass(frozen=True)
class Filling:
    """What a network makes of the constants that suit its outputs best, by least squares.

    Attributes:
        sums: Of the products of how each constant moves the outputs, (constants, constants), of
            these with what the outputs are beyond the answer to zeros, (constants,), and of 1, w,
            w^2 and the square of that, (4,). None of no batch.
    """

    sums: tuple[Tensor, Tensor, Tensor] | None = None

    def with_batch(self, outputs: Tensor, zero: Tensor, moved: Sequence[Tensor]) -> Filling:
        """With one more batch.

        Args:
            outputs: (images, channels, *sizes).
            zero: What the network makes of zeros, in that shape.
            moved: How each constant moves that.
        """
        w, r = (x.detach().double().flatten() for x in (outputs, outputs - zero))
        m = torch.stack([x.detach().double().flatten() for x in moved])
        moments = torch.stack([torch.ones_like(w), w, w * w, r * r]).sum(1)
        found = m @ m.T, m @ r, moments
        if self.sums is not None:
            found = tuple(a + b for a, b in zip(found, self.sums, strict=True))  # type: ignore[assignment]
        return Filling(found)

    @property
    def constants(self) -> Tensor:
        """(constants,)."""
        assert self.sums is not None, "no batch was read"
        products, towards, _ = self.sums
        found: Tensor = torch.linalg.pinv(products, hermitian=True) @ towards
        return found

    @property
    def explained(self) -> float:
        """Share of the variance of the outputs that this explains."""
        assert self.sums is not None, "no batch was read"
        _, towards, (n, w, ww, rr) = self.sums
        varied = float(ww - w * w / n)
        left = float(rr - towards @ self.constants)
        return 1.0 - left / varied if varied > 0.0 else 0.0

    def of(self, zero: Tensor, moved: Sequence[Tensor]) -> Tensor:
        """That for a batch."""
        pairs = zip(self.constants.tolist(), moved, strict=True)
        return zero + sum((constant * move for constant, move in pairs), torch.zeros_like(zero))


def varies(output: Tensor) -> bool:
    """Whether an output, (images, channels, *sizes), is no constant of its channels."""
    rows = _rows(output)
    low, high = rows.amin(1), rows.amax(1)
    # 1e-4: what single precision leaves of a difference from an image in other units
    return bool((high - low > 1e-4 * torch.maximum(low.abs(), high.abs())).any())


def like_outputs(
    outputs: Sequence[Tensor], inputs: Sequence[Sequence[Tensor]], *, by_channel: bool = False
) -> list[Tensor | None]:
    """What of the inputs of each batch its outputs may be a restored form of, in their shape.

    An input of that shape, if every batch has one, else each channel's nearest; None where none
    can be laid beside.

    Args:
        outputs: Outputs or targets of each batch, (images, channels, *sizes).
        inputs: The image inputs of each batch.
        by_channel: Each channel's nearest in any case.
    """
    pairs = list(zip(outputs, inputs, strict=True))
    same = [next((x for x in own if x.shape == out.shape), None) for out, own in pairs]
    if all(x is not None for x in same) and not by_channel:
        return list(same)
    nearest = Nearest()
    for out, own in pairs:
        nearest = nearest.with_batch(out, own)
    return [nearest.of(own, out) for out, own in pairs]


def resized(image: Tensor, sizes: Sequence[int], mode: str = "") -> Tensor:
    """An image at other sizes: means over areas where it is larger, smooth between where smaller.

    Args:
        image: (images, channels, *sizes).
        sizes: Wanted.
        mode: How to enlarge; by default linearly.

    Example:
        >>> resized(torch.tensor([[[1.0, 3.0, 5.0, 7.0]]]), [2]).tolist()
        [[[2.0, 6.0]]]
        >>> resized(torch.tensor([[[2.0, 6.0]]]), [4]).tolist()
        [[[2.0, 3.0, 5.0, 6.0]]]
    """
    if list(image.shape[2:]) == list(sizes):
        return image
    smaller = all(a <= b for a, b in zip(sizes, image.shape[2:], strict=True))
    mode = "area" if smaller else mode or SMOOTH[image.dim() - 2]
    return functional.interpolate(image, size=list(sizes), mode=mode)


def _beside(outputs: Tensor, inputs: Sequence[Tensor]) -> list[Tensor]:
    """The inputs that can be laid beside outputs: at their size, and cropped where they are larger.

    Cropped as a network crops whose borders are cut away: centrally, or at one end.
    """
    found = []
    for x in inputs:
        if len(x) != len(outputs) or x.dim() - 2 not in SMOOTH:
            continue
        sizes = list(outputs.shape[2:])
        if outputs.dim() == 3 and x.dim() > 3:  # positions in a row, as of tokens
            sizes = _grid(sizes[0], x.shape[2:])
        if len(sizes) != x.dim() - 2:
            continue
        shape = (*x.shape[:2], *outputs.shape[2:])
        image = x.to(outputs.device)
        larger = len(sizes) == 2 and any(a > b for a, b in zip(sizes, x.shape[2:], strict=True))
        # what makes images larger is compared with either
        modes = ("bilinear", "bicubic") if larger else ("",)
        laid = [resized(image, sizes, mode) for mode in modes] + _cropped(image, sizes)
        found += [own.reshape(shape) for own in laid]
    return found


def _cropped(image: Tensor, sizes: Sequence[int]) -> list[Tensor]:
    """An image without its borders, or with one end of each axis; none where it is not larger.

    Example:
        >>> [x.tolist() for x in _cropped(torch.tensor([[[1, 2, 3, 4]]]), [2])]
        [[[[1, 2]]], [[[2, 3]]], [[[3, 4]]]]
    """
    more = [own - size for own, size in zip(image.shape[2:], sizes, strict=True)]
    if min(more) < 0 or max(more) == 0:
        return []
    starts = ([0 for _ in more], [m // 2 for m in more], [-(-m // 2) for m in more], more)
    found = []
    for start in sorted({tuple(start) for start in starts}):
        laid = image
        for axis, (first, size) in enumerate(zip(start, sizes, strict=True), start=2):
            laid = laid.narrow(axis, first, size)
        found.append(laid)
    return found


def _grid(positions: int, sizes: Sequence[int]) -> list[int]:
    """The sizes of the same proportions that have so many positions; empty if none have.

    Example:
        >>> _grid(8, [8, 16]), _grid(9, [8, 16])
        ([2, 4], [])
    """
    step = (math.prod(sizes) / positions) ** (1 / len(sizes))
    found = [round(size / step) for size in sizes]
    return found if math.prod(found) == positions else []


def _rows(images: Tensor) -> Tensor:
    """(channels, images and positions)."""
    return images.detach().double().transpose(0, 1).flatten(1)
