"""Axes as products: which values of the image's dimensions lie along an axis, after reshapes.

A reshape divides an axis into several, or makes one of several. Every axis is therefore kept as the
factors of its size, outermost first; a factor counts values of one dimension of the image, so many
apart, or none.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import prod
from typing import TypeAlias


@dataclass(frozen=True)
class Factor:
    """One factor of the size of an axis.

    Attributes:
        size: How many places it counts.
        dimension: The image's dimension whose values it counts; None: of none.
        stride: Values of that dimension from one place to the next.
    """

    size: int
    dimension: int | None = None
    stride: int = 1


Axis: TypeAlias = tuple[Factor, ...]
"""The factors of an axis, outermost first; none where its size is 1."""

Arrangement: TypeAlias = tuple[Axis, ...]
"""The axes of a tensor."""


def plain(size: int) -> Axis:
    """An axis along which nothing of the image lies."""
    return tidy([Factor(size)])


def tidy(factors: Iterable[Factor]) -> Axis:
    """The same axis with as few factors as possible."""
    kept: list[Factor] = []
    for factor in factors:
        if factor.size == 1:
            continue
        if kept and _continues(kept[-1], factor):
            outer = kept.pop()
            factor = Factor(outer.size * factor.size, factor.dimension, factor.stride)
        kept.append(factor)
    return tuple(kept)


def _continues(outer: Factor, inner: Factor) -> bool:
    if outer.dimension != inner.dimension:
        return False
    return inner.dimension is None or outer.stride == inner.stride * inner.size


def regrouped(axes: Arrangement, sizes: Sequence[int]) -> Arrangement | None:
    """The axes after a reshape to other sizes; None where it cuts through a factor."""
    rest = [factor for axis in axes for factor in axis][::-1]
    made = []
    for size in sizes:
        taken: list[Factor] = []
        while size > 1 and rest:
            factor = rest.pop()
            if factor.size % size == 0:
                inner = factor.size // size
                stride = 1 if factor.dimension is None else factor.stride * inner
                taken.append(Factor(size, factor.dimension, stride))
                rest.append(Factor(inner, factor.dimension, factor.stride))
                size = 1
            elif size % factor.size == 0:
                taken.append(factor)
                size //= factor.size
            else:
                return None
        made.append(tidy(taken))
    return tuple(made)


def home(axes: Arrangement, dimension: int) -> int | None:
    """The axis along which a dimension lies: that of its largest steps."""
    steps = [
        (factor.stride, -place)
        for place, axis in enumerate(axes)
        for factor in axis
        if factor.dimension == dimension
    ]
    return -max(steps)[1] if steps else None


def dimensions(axis: Axis) -> set[int]:
    """The image's dimensions of which something lies along an axis."""
    return {factor.dimension for factor in axis if factor.dimension is not None}


def offsets(axis: Axis, dimension: int) -> list[int]:
    """How far the values of a dimension that lie along an axis are from the first of them."""
    steps = [
        range(0, factor.size * factor.stride, factor.stride)
        for factor in axis
        if factor.dimension == dimension
    ]
    return [sum(chosen) for chosen in itertools.product(*steps)]


def rate(axis: Axis) -> Fraction:
    """Values of the dimension of an axis's outermost factor for each of its places."""
    return Fraction(axis[0].stride, prod(factor.size for factor in axis[1:]))


def value_at(axis: Axis, dimension: int, place: int) -> int:
    """The value of a dimension that lies at a place; the outermost factor has no end."""
    found = 0
    for factor in reversed(axis[1:]):
        place, rest = divmod(place, factor.size)
        if factor.dimension == dimension:
            found += rest * factor.stride
    return found + (place * axis[0].stride if axis[0].dimension == dimension else 0)
