"""What targets hold: marks, masks, classes, numbers; and how they lie beside an output."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from weightscope.adapters import pytree

CLASSES = 16
"""Channels up to which each alone is tried as the certain class."""

MARKS = (255, -1, -100)
"""Numbers by which masks mark what does not count: of common data sets, and of torch."""


def is_prediction(leaf: Any) -> bool:
    """Whether a part of the outputs is a prediction for each image."""
    return isinstance(leaf, Tensor) and leaf.is_floating_point() and leaf.dim() >= 1


def channel_shape(leaf: Tensor) -> tuple[int, ...]:
    """Shape of one number for each channel."""
    return (1, leaf.shape[1], *[1] * (leaf.dim() - 2)) if leaf.dim() > 1 else (1,)


def by_channel(leaf: Tensor) -> Tensor:
    """A tensor as (channels, images and positions)."""
    return leaf.movedim(1, 0).flatten(1) if leaf.dim() > 1 else leaf[None]


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
