"""What is lost at the borders of an image, where a network is read at one size only.

How the size of a map grows with the image tells how coarse it is, but a network that holds at one
size shows no growth. There the strides on the way to the map tell the same: a convolution without
padding, a crop or a pad changes a size, and not what one position stands for.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator, Sequence
from typing import Any

from torch import fx

from weightscope.adapters.symbols import hint
from weightscope.graph.growing import space_of
from weightscope.graph.nodes import argument, first_tensor, operator_of, root
from weightscope.graph.operators import facts
from weightscope.graph.pieces import SPLITS

Shares = tuple[float, ...]

_TAKES = ("aten::index", "aten::index_select")
_BLENDS = ("aten::lerp", "aten::mul", "aten::slice")
_STAYS = ("same", "slice", "pad", "scatter", "after")

# a map that is brought to the size of an earlier one is about as coarse as it
_AS_COARSE = 4.0


class Borders:
    """Follows the size of each map beside that which the strides alone would give it.

    Args:
        fixed: For each spatial dimension, whether the image has one size along it.
    """

    def __init__(self, fixed: Sequence[bool]) -> None:
        self.fixed = tuple(fixed)
        self._image: tuple[int, ...] = ()
        self._shares: dict[fx.Node, Shares] = {}
        self._maps: dict[fx.Node, tuple[int, ...]] = {}
        self._turned: dict[fx.Node, bool] = {}
        self._last: dict[fx.Node, fx.Node] = {}  # the nearest map that each result was made from

    def begin(self, image: fx.Node, *, channels_first: bool) -> None:
        """Take an image as it is."""
        self._image = tuple(map(hint, space_of(image)))
        if channels_first:
            self._maps[image] = self._sizes(image)
            self._last[image] = image

    def is_turned(self, node: fx.Node) -> bool:
        """Whether a map's first side is the image's second one."""
        return self._turned.get(node, False)

    def shares(self, node: fx.Node) -> Shares:
        """A map's size over that which the strides alone would give it, along each of its sides."""
        return self._shares.get(node, (1.0,) * len(self.fixed))

    def share(self, node: fx.Node) -> float:
        """Its positions over those which the strides alone would give it."""
        return math.prod(self.shares(node))

    def is_resampled(self, node: fx.Node) -> bool:
        """Whether a map is made of another one by taking so many of its rows and columns."""
        return operator_of(node) in _TAKES and node in self._maps and not _taken_from_again(node)

    def mixes_a_side(self, node: fx.Node) -> bool:
        """Whether a linear layer works along a side of a map: all rows, a signal up to a horizon.

        Where that is not the last side, the map is turned before.
        """
        given = node.all_input_nodes[0] if node.all_input_nodes else node
        source = root(given)
        turned = _turns_sides(source) and source.all_input_nodes[0] in self._maps
        is_linear = facts(operator_of(node)).view == "linear"
        return is_linear and (turned or given in self._maps)

    def _mixes_the_last(self, node: fx.Node) -> bool:
        """Whether it is the last one: what is made is the whole again, of another size."""
        return self.mixes_a_side(node) and node.all_input_nodes[0] in self._maps

    def size_before(self, node: fx.Node) -> tuple[int, ...]:
        """The example's size of the nearest map that a result was made from; empty if unknown."""
        return self._maps.get(self._last.get(node, node), ())

    def note(
        self, node: fx.Node, feeds: Sequence[fx.Node], largest: fx.Node, *, is_piece: bool
    ) -> None:
        """Learn what an operation does to the sizes of what it is given.

        Args:
            node: The operation.
            feeds: What it is given of the image.
            largest: That of them from which it has its level.
            is_piece: Whether it is one of several pieces that are joined again.
        """
        if not any(self.fixed):
            return
        turns = len(self.fixed) == 2 and largest in self._maps and _turns_sides(node)
        turned = self.is_turned(largest) != turns
        begins = largest not in self._last and _lays_channels(node)
        if begins and self._sizes(node) != self._image:
            turned = self._sizes(node) == self._image[::-1]
        self._turned[node] = turned
        value, row = first_tensor(node), facts(operator_of(node))
        is_map = value is not None and value.dim() == len(self.fixed) + 2
        if row.view == "convolution":  # its weights may be made of the image, and are no map
            largest = node.all_input_nodes[0]
            feeds = [n for n in feeds if n is largest]
        before = self._last.get(largest)
        if is_map and (
            row.layout == "channels_first"
            or self._mixes_the_last(node)
            or turns
            or begins
            or (before is None and _brings_channels_first(node))
            or self._stays_a_map(node, feeds)
            or self._takes_positions(node, feeds)
            or (before is not None and self._is_a_map_again(node, feeds, before))
        ):
            self._maps[node] = self._sizes(node)
            self._last[node] = node
        elif before is not None:
            self._last[node] = before
        if row.view == "cat" and largest not in self._maps:
            # what is repeated at a border need not show its axes
            maps = [n for n in feeds if n in self._maps]
            largest = max(maps, key=lambda n: math.prod(self._maps[n]), default=largest)
        source = min((largest, *self._joined(node, feeds)), key=self.share)
        while source not in self._maps and facts(operator_of(root(source))).view == "pad":
            # put on before it was known which axes are sides, as behind a change of the layout
            source = root(source).all_input_nodes[0]
        shares = self.shares(source)[:: -1 if turns else 1]
        given = first_tensor(source)
        has_axes = given is not None and given.dim() == len(self.fixed) + 2
        if node in self._maps and has_axes and not is_piece:
            steps = self._steps(node, source)
            shares = tuple(
                share * step if fixed else 1.0
                for share, step, fixed in zip(
                    shares, steps, self.fixed[:: -1 if turned else 1], strict=True
                )
            )
        self._shares[node] = shares

    def _sizes(self, node: fx.Node) -> tuple[int, ...]:
        value = first_tensor(node)
        return () if value is None else tuple(map(hint, value.shape[2:]))

    def _stays_a_map(self, node: fx.Node, feeds: Sequence[fx.Node]) -> bool:
        view, known = facts(operator_of(node)).view, [n in self._maps for n in feeds]
        if view == "cat":
            return any(known)
        stays = view in _STAYS or node.target is operator.getitem
        # a reshape to the same shape too
        return (
            all(known)
            and view != "permute"
            and (stays or self._sizes(node) == self._maps[feeds[0]])
        )

    def _takes_positions(self, node: fx.Node, feeds: Sequence[fx.Node]) -> bool:
        """Whether rows or columns of a map are taken by their numbers, as another grid has them."""
        taken = operator_of(node) in _TAKES and feeds[0] in self._maps
        return taken and _shape(node)[:2] == _shape(feeds[0])[:2]

    def _is_a_map_again(self, node: fx.Node, feeds: Sequence[fx.Node], before: fx.Node) -> bool:
        """Whether a result has the shape of the last map, and was laid out otherwise between them.

        Where there are as many channels as positions a side, the shape does not tell whether they
        lie last: a reshape that keeps the last axis leaves them there. Behind a linear layer there
        may be other channels, which are brought before the same sides.
        """
        if not _as_large(node, before):
            sides = [*self._maps[before]]
            again = _brings_channels_first(node) and feeds[0] not in self._maps
            return again and _shape(feeds[0])[1:-1] == sides != _shape(feeds[0])[2:]
        shape, given = _shape(node), _shape(feeds[0])
        if shape[1] != shape[-1]:
            return True
        view = facts(operator_of(node)).view
        if view == "reshape":
            return given[-1] != shape[-1]
        return (feeds[0] in self._maps) != (view == "permute")

    def _joined(self, node: fx.Node, feeds: Sequence[fx.Node]) -> list[fx.Node]:
        """What of the given has the result's size: a crop is joined with what lost more."""
        if node not in self._maps or len(feeds) == 1:
            return []
        return [n for n in feeds if self._maps.get(n) == self._maps[node]]

    def _steps(self, node: fx.Node, source: fx.Node) -> Iterator[float]:
        """How a map's size differs from what its operation's stride makes of the one before."""
        row = facts(operator_of(node))
        made, given = self._maps[node], self._sizes(source)
        count = len(made)
        if row.raises and {*given} == {1}:  # all of a map is made of one position, as of a code
            yield from (1 / share for share in self.shares(source))
        elif row.view in ("convolution", "window"):
            strides = _each(argument(node, "stride") or argument(node, "kernel_size"), count)
            for new, old, stride in zip(made, given, strides, strict=True):
                yield new / (old * stride) if row.raises else new * stride / old
        elif _keeps_positions(node) or self._mixes_the_last(node):
            yield from (new / old for new, old in zip(made, given, strict=True))
        elif operator_of(node) in _TAKES:  # another grid is one of the whole
            yield from (1 / share for share in self.shares(source))
        elif row.view in ("resize", "adaptive", "unpool"):
            yield from self._resized(node, source)
        else:
            yield from (1.0,) * count

    def _resized(self, node: fx.Node, source: fx.Node) -> Iterator[float]:
        """A map that is brought to the size of an earlier one lost as much as that one."""
        scaled = argument(node, "scale_factors") is not None
        own = self.shares(source)
        # both divided by the size that is made
        found = [
            steps
            for other, size in self._maps.items()
            if not scaled and other is not node and size == self._maps[node]
            if (steps := [a / b for a, b in zip(self.shares(other), own, strict=True)])
            and all(1 / _AS_COARSE < step < _AS_COARSE for step in steps)
        ]
        nearest = min(found, key=lambda steps: abs(math.log(math.prod(steps))), default=None)
        yield from nearest or (1.0,) * len(own)


def _taken_from_again(node: fx.Node) -> bool:
    """Whether positions are taken of what was taken, as of one side after the other.

    Between them, what was taken of neighbours may be blended.
    """
    waiting, seen = [node], {node}
    while waiting:
        for user in waiting.pop().users:
            if operator_of(user) in _TAKES:
                return True
            if operator_of(user) in _BLENDS and user not in seen and _as_large(user, node):
                seen.add(user)
                waiting.append(user)
    return False


def _turns_sides(node: fx.Node) -> bool:
    """Whether a map's sides are exchanged, and its channels stay where they are."""
    value = first_tensor(node)
    if value is None or operator_of(node) not in ("aten::transpose", "aten::permute"):
        return False
    if value.dim() > 4:  # windows, whose places are turned inside of their sides
        return False
    if operator_of(node) == "aten::transpose":
        axes = [int(argument(node, name)) % value.dim() for name in ("dim0", "dim1")]
        return min(axes) > 1
    return [axis % value.dim() for axis in argument(node, "dims")][:2] == [0, 1]


def _brings_channels_first(node: fx.Node) -> bool:
    """Whether an image's last axis is brought before its sides, which stay in order."""
    value = first_tensor(node)
    if value is None or operator_of(node) not in ("aten::transpose", "aten::permute"):
        return False
    if operator_of(node) == "aten::transpose":  # the only side with the last axis
        exchanged = {int(argument(node, name)) % value.dim() for name in ("dim0", "dim1")}
        return value.dim() == 3 and exchanged == {1, 2}
    first, *axes = [axis % value.dim() for axis in argument(node, "dims")]
    return first == 0 and axes == [value.dim() - 1, *range(1, value.dim() - 1)]


def _lays_channels(node: fx.Node) -> bool:
    """Whether images without channels are laid beside each other as those of one image."""
    value = first_tensor(node)
    stacks = operator_of(node) == "aten::stack" and argument(node, "dim") == 1
    return stacks and value is not None and value.dim() == 4


def _as_large(node: fx.Node, other: fx.Node) -> bool:
    """Whether two results have the same shape."""
    return bool(_shape(node)) and _shape(node) == _shape(other)


def _shape(node: fx.Node) -> list[int]:
    """The example's shape of a result."""
    value = first_tensor(node)
    return [] if value is None else [hint(size) for size in value.shape]


def _each(value: Any, count: int) -> Sequence[int]:
    values = value if isinstance(value, list | tuple) else [value]
    numbers = [hint(v.meta["val"]) if isinstance(v, fx.Node) else int(v) for v in values]
    return numbers * (count if len(values) == 1 else 1)


def _keeps_positions(node: fx.Node) -> bool:
    """Whether an operation leaves borders or strips out, or puts some on: none is resampled.

    What is written into a part of a larger tensor is a strip of it.
    """
    name, view = operator_of(node), facts(operator_of(node)).view
    if name in ("aten::slice", "aten::narrow"):
        return argument(node, "step") in (None, 1)
    if view in ("pad", "cat", "after", "scatter"):
        return True
    return name in SPLITS or node.target is operator.getitem
