"""A tensor in a file: where its numbers lie, known before any is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from math import prod
from operator import mul
from typing import Any

import torch

from weightscope.checkpoints.source import Source

# of one axis, and of a whole tensor; torch counts elements in 64 bits
LIMIT = 1 << 63
MOST_AXES = 64


@dataclass(frozen=True, eq=False, slots=True)
class Stored:
    """A tensor whose claims fit the file, or one that cannot be read, with the reason.

    Attributes:
        shape: Its shape.
        dtype: Its number format; None where torch has none for it.
        strides: Elements from one index of an axis to the next.
        begin: Byte of the file at which the first element lies.
        source: The file; None where there are no numbers to read.
        reason: Why it cannot be read, with the remedy; ``""`` if it can.
        negative: Whether each element is minus the number that lies there.
        conjugate: Whether each element is the conjugate of the number that lies there.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype | None
    strides: tuple[int, ...]
    begin: int
    source: Source | None
    reason: str = ""
    negative: bool = False
    conjugate: bool = False

    @property
    def elements(self) -> int:
        """Number of elements."""
        return elements_of(self.shape)

    @property
    def identity(self) -> tuple[Any, ...]:
        """Equal where two tensors are the same numbers in the same file."""
        if not self.elements or self.source is None:
            return (id(self),)
        signs = self.negative, self.conjugate
        return (id(self.source), self.begin, self.dtype, self.shape, self.strides, signs)

    @property
    def distinct(self) -> Stored:
        """The same numbers without the axes along which one number stands for many."""
        if 0 not in self.strides or not self.elements:
            return self
        kept = [i for i, stride in enumerate(self.strides) if stride or self.shape[i] <= 1]
        shape, strides = (tuple(x[i] for i in kept) for x in (self.shape, self.strides))
        return replace(self, shape=shape, strides=strides)

    @property
    def span(self) -> int:
        """Elements from the first to the last, both included."""
        return span_of(self.shape, self.strides)

    @property
    def overlaps(self) -> bool:
        """Whether one number stands for several elements."""
        return self.elements > self.span

    def tensor(self) -> torch.Tensor:
        """The tensor, read from the file.

        Raises:
            CheckpointError: The file does not have it any more.
        """
        if not self.elements or self.source is None:
            return torch.empty(self.shape, device="cpu", dtype=self.dtype)
        return self.numbers(0, self.span).as_strided(self.shape, self.strides)

    def numbers(self, start: int, stop: int) -> torch.Tensor:
        """The numbers from one place in its part of the file to before another.

        Raises:
            CheckpointError: The file does not have them any more.
        """
        assert self.dtype is not None
        assert self.source is not None
        size = self.dtype.itemsize
        bytes_ = self.source.read(self.begin + start * size, (stop - start) * size)
        found = torch.from_numpy(bytes_).view(self.dtype)
        if self.negative:
            found = found.neg()
        return found.conj_physical() if self.conjugate else found


def elements_of(shape: Sequence[int]) -> int:
    """Number of elements; the product of sizes of which none is absurd (see ``absurd``)."""
    return prod(shape)


def absurd(shape: Sequence[Any]) -> bool:
    """Whether no tensor can have this shape: too many axes or elements, or no sizes at all."""
    if len(shape) > MOST_AXES or not {int}.issuperset(map(type, shape)):
        return True
    sizes = [size for size in shape if size]
    return bool(sizes) and (min(sizes) < 0 or max(sizes) >= LIMIT or prod(sizes) >= LIMIT)


def contiguous(shape: Sequence[int]) -> tuple[int, ...]:
    """Strides of a tensor that lies in C order."""
    sizes = [size or 1 for size in shape[:0:-1]]
    return tuple(accumulate(sizes, mul, initial=1))[: len(shape)][::-1]


def span_of(shape: Sequence[int], strides: Sequence[int]) -> int:
    """Elements from the first to the last of a view, both included; 0 where there is none."""
    if 0 in shape:
        return 0
    reach: int = 1 + sum(map(mul, shape, strides)) - sum(strides)
    return reach
