"""What a tensor sees of the image, and what one operator is given to see."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from torch import Tensor, fx

from weightscope.adapters.symbols import hint
from weightscope.graph.nodes import first_tensor, operator_of, tensor_of
from weightscope.receptive_field import spans
from weightscope.receptive_field.factors import Arrangement
from weightscope.receptive_field.spans import WHOLE, Span

Views: TypeAlias = tuple[Span, ...]
"""One span for each spatial dimension of the image."""


@dataclass(frozen=True)
class Seen:
    """What a tensor sees, and where in it the image's dimensions lie.

    Attributes:
        views: One span for each spatial dimension of the image.
        axes: The tensor's axis of each of them; None where several are folded into one, or where
            it is not known.
        image: Sizes of the image along them, at the example input.
        folded: Whether positions were folded since they were last counted.
        patches: Kernel, stride, dilation and padding of windows whose values were laid out as
            channels and are not mixed yet: each still sees what one value of its window sees.
        arrangement: Where some of the image's dimensions lie along several axes, or beside others
            along one: the factors of every axis; the views count as its strides say. Else None.
    """

    views: Views
    axes: tuple[int | None, ...]
    image: tuple[int, ...]
    folded: bool = False
    patches: tuple[tuple[int, ...], ...] = ()
    arrangement: Arrangement | None = None

    def all(self, span: Span) -> Seen:
        """The same tensor, with one span along every dimension."""
        return replace(self, views=(span,) * len(self.views), patches=(), arrangement=None)

    def mixed(self) -> Seen:
        """The same tensor, where every value may come from any value of its window."""
        if not self.patches:
            return self
        views = zip(self.views, *self.patches, strict=True)
        return replace(self, views=tuple(spans.window(*setting) for setting in views), patches=())


@dataclass(frozen=True)
class Call:
    """One operator and what its inputs see.

    Attributes:
        node: The operator.
        args: Its arguments by name, defaults included.
        given: What each input sees that sees anything.
    """

    node: fx.Node
    args: Mapping[str, Any]
    given: Mapping[fx.Node, Seen]

    @property
    def value(self) -> Tensor:
        """The result, without numbers."""
        value = first_tensor(self.node)
        assert value is not None
        return value

    @property
    def main(self) -> fx.Node:
        """The input that the result is most like: of its rank, the largest of these."""
        rank = self.value.dim()

        def likeness(node: fx.Node) -> tuple[bool, int]:
            value = first_tensor(node)
            assert value is not None
            return value.dim() == rank, math.prod(hint(s) for s in value.shape)

        return max(self.given, key=likeness)

    @property
    def together(self) -> Seen:
        """What the inputs see together, with the axes of the main one."""
        main = self.given[self.main]
        many = [seen.views for seen in self.given.values()]
        if len({len(views) for views in many}) > 1:
            return main.all(WHOLE)
        views = tuple(spans.join(along) for along in zip(*many, strict=True))
        folded = all(seen.folded for seen in self.given.values())
        return replace(main, views=views, folded=folded)

    def number(self, value: Any) -> int:
        """A setting at the example input."""
        return hint(value.meta["val"]) if isinstance(value, fx.Node) else hint(value)

    def each(self, name: str, count: int) -> tuple[int, ...]:
        """A setting for each dimension, from one number or one per dimension."""
        numbers = tuple(self.number(v) for v in listed(self.args[name]))
        return numbers if len(numbers) == count else numbers * count


def listed(value: Any) -> tuple[Any, ...]:
    """A setting as a tuple, whether it is one number or several."""
    return tuple(value) if isinstance(value, list | tuple) else (value,)


def rank_of(call: Call) -> int:
    """Number of spatial dimensions of an operator that works on images, by its name or input."""
    name = operator_of(call.node)
    if name == "aten::im2col":
        return 2
    digit = re.search(r"([123])d", name)
    value = tensor_of(call.main)
    assert value is not None
    return int(digit[1]) if digit else value.dim() - 2


def default_axes(value: Tensor, dimensions: int) -> tuple[int | None, ...]:
    """The last axes of a tensor as the image's dimensions."""
    first = value.dim() - dimensions
    return tuple(range(first, value.dim())) if first >= 0 else (None,) * dimensions


def placed(call: Call, seen: Seen) -> Seen:
    """The result of an operator whose positions come last."""
    n = len(seen.views)
    if call.value.dim() != n + 2:
        return replace(seen, axes=(None,) * n, folded=False)
    return replace(seen, axes=_positions(seen), folded=False)


def _positions(seen: Seen) -> tuple[int, ...]:
    """The axis of each dimension of an image whose positions come last, also where it is turned."""
    usual = range(2, len(seen.views) + 2)
    known = [axis for axis in seen.axes if axis is not None]
    return tuple(known) if sorted(known) == [*usual] else tuple(usual)


def in_order(seen: Seen, values: Sequence[Any]) -> tuple[Any, ...]:
    """Settings or sizes of the last axes, in the order of the image's dimensions."""
    return tuple(values[axis - 2] for axis in _positions(seen))


def sizes(call: Call, seen: Seen) -> Iterable[tuple[Span, Any, Any]]:
    """The span and the sizes before and after of each dimension."""
    n = len(seen.views)
    value = tensor_of(call.main)
    assert value is not None
    before, after = (in_order(seen, v.shape[-n:]) for v in (value, call.value))
    return zip(seen.views, before, after, strict=True)


def counted(call: Call) -> Seen:
    """What the inputs see, once a fold of positions into channels or back has been counted.

    Where an image was reshaped by hand, the number of its positions tells what happened: fewer than
    the span expects are patches, more are shuffled channels.
    """
    seen = call.together
    n = len(seen.views)
    value = tensor_of(call.main)
    assert value is not None
    if not seen.folded or value.dim() != n + 2:
        return seen
    views = []
    for view, image, here in zip(
        seen.views, seen.image, in_order(seen, value.shape[2:]), strict=True
    ):
        if not view.is_finite:
            views.append(view)
            continue
        ratio = image / (hint(here) * view.jump)
        if ratio >= 1.5:
            views.append(spans.window(view, round(ratio), round(ratio)))
        elif ratio <= 1 / 1.5:
            views.append(spans.repeated(view, round(1 / ratio)))
        else:
            views.append(view)
    return replace(seen, views=tuple(views), folded=False)
