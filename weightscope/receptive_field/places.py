"""Operators that move, cut out, join and write values, without computing with them."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any, cast

import torch
from torch import Tensor, fx

from weightscope.adapters.symbols import hint, is_symbolic
from weightscope.graph.nodes import arguments, first_tensor, operator_of, tensor_of
from weightscope.receptive_field import arrangements
from weightscope.receptive_field.seen import Call, Seen, default_axes, listed
from weightscope.receptive_field.spans import WHOLE, Span, join, read, shifted


def slice_(call: Call) -> Seen:
    """A strided slice of an image is one phase of a patch: its siblings are joined later."""
    start, stride = call.args.get("start"), call.args.get("step", 1)
    return _along_axis(call, lambda view, size: _sliced(view, _start(call, start, size), stride))


def _sliced(view: Span, start: int, stride: int) -> Span:
    return read(view, Fraction(stride), lambda i: (start + i * stride,))


def _start(call: Call, start: Any, size: int) -> int:
    first = 0 if start is None else call.number(start)
    return max(0, first + size) if first < 0 else first


def _along_axis(call: Call, change: Callable[[Span, int], Span]) -> Seen:
    """Change the span of the dimension that an operator's ``dim`` names, if it names one."""
    seen = call.together
    value = call.value
    axis = call.number(call.args["dim"]) % value.dim()
    size = hint(cast(Tensor, tensor_of(call.main)).shape[axis])
    return replace(
        seen,
        views=tuple(
            change(view, size) if where == axis else view
            for view, where in zip(seen.views, seen.axes, strict=True)
        ),
    )


def pad(call: Call) -> Seen:
    """Padding moves every value along."""
    seen = call.together
    rank = call.value.dim()
    amounts = call.args["pad"] if "pad" in call.args else call.args["padding"]
    before = {rank - 1 - i // 2: call.number(amounts[i]) for i in range(0, len(amounts), 2)}
    return _moved_on(seen, before)


def roll(call: Call) -> Seen:
    """Values that leave at one end come back at the other, beyond what is read."""
    seen = call.together
    dims = [d % call.value.dim() for d in call.args["dims"]]
    if not dims:
        return seen.all(WHOLE)  # rolls the flattened tensor
    by = zip(dims, (call.number(s) for s in listed(call.args["shifts"])), strict=True)
    return _moved_on(seen, dict(by))


def _moved_on(seen: Seen, by: Mapping[int, int]) -> Seen:
    """What is seen once every element lies so many places further along each axis."""
    views = tuple(
        shifted(view, -by.get(axis, 0)) if axis is not None else view
        for view, axis in zip(seen.views, seen.axes, strict=True)
    )
    return replace(seen, views=views)


def cat(call: Call) -> Seen:
    """Beside each other along an axis of the image: the whole; along any other axis: together."""
    seen = call.together
    axis = call.number(call.args["dim"]) % call.value.dim()
    if axis not in seen.axes:
        return seen
    if len(call.given) > 1:
        return seen.all(WHOLE)  # images side by side
    ahead = 0
    for part in call.args["tensors"]:
        if part in call.given:
            break
        ahead += hint(cast(Tensor, tensor_of(part)).shape[axis])
    views = tuple(
        shifted(view, -ahead) if where == axis else view
        for view, where in zip(seen.views, seen.axes, strict=True)
    )
    return replace(seen, views=views)


def permute(call: Call) -> Seen:
    """Run the operator on sizes that name their axis."""
    seen = call.together
    value = tensor_of(call.main)
    assert value is not None
    marked = torch.empty(tuple(range(2, value.dim() + 2)), device="meta")
    moved = cast(Any, call.node.target)(marked, *call.node.args[1:], **call.node.kwargs)
    place = {size - 2: axis for axis, size in enumerate(moved.shape)}
    axes = tuple(None if a is None else place[a] for a in seen.axes)
    return arrangements.permuted(replace(seen, axes=axes), [size - 2 for size in moved.shape])


def unfold(call: Call) -> Seen:
    """Windows along one axis, laid out along a new last axis."""
    seen = call.together
    return arrangements.patches(call, seen) or seen.all(WHOLE)


def reshape(call: Call) -> Seen:
    """Follow an axis to where as many elements lie before and behind it; the others are folded."""
    seen = call.together
    value = first_tensor(call.main)
    assert value is not None
    before, after = ([hint(s) for s in v.shape] for v in (value, call.value))
    name = operator_of(call.node)
    followed = arrangements.reshaped(call, seen, name)
    if followed is not None:
        return followed
    seen = arrangements.lost(seen)
    if name in ("aten::select", "aten::unbind", "aten::squeeze", "aten::unsqueeze"):
        return _with_axes(call, seen, before, after, name)
    if math.prod(before) != math.prod(after):  # repeated, expanded or stacked: from the right
        gone = len(before) - len(after)
        axes = tuple(None if a is None else a - gone for a in seen.axes)
        if call.node.target is not operator.getitem and name != "aten::stack":
            return replace(seen, axes=tuple(a if a is not None and a >= 0 else None for a in axes))
        return replace(seen, axes=(None,) * len(axes), folded=True)
    moved = [_same_place(before, after, axis) for axis in seen.axes]
    reshaped = replace(seen, axes=tuple(moved), folded=seen.folded or None in moved)
    return _unfolded(call, reshaped) if reshaped.folded else reshaped


def _with_axes(
    call: Call, seen: Seen, before: Sequence[int], after: Sequence[int], name: str
) -> Seen:
    """One axis comes or goes."""
    dims = call.args.get("dim")
    if name == "aten::squeeze" and "dim" not in call.args:
        gone = [i for i, size in enumerate(before) if size == 1]
    else:
        rank = len(after) if name == "aten::unsqueeze" else len(before)
        gone = [call.number(d) % rank for d in listed(0 if dims is None else dims)]
        if name == "aten::squeeze":
            gone = [d for d in gone if before[d] == 1]

    def moved(axis: int | None) -> int | None:
        if axis is None:
            return None
        if name == "aten::unsqueeze":
            return axis + (axis >= gone[0])
        return None if axis in gone else axis - sum(d < axis for d in gone)

    return replace(seen, axes=tuple(moved(axis) for axis in seen.axes))


def _same_place(before: Sequence[int], after: Sequence[int], axis: int | None) -> int | None:
    if axis is None or axis >= len(before):
        return None
    ahead = math.prod(before[:axis])
    for place, size in enumerate(after):
        if size == before[axis] and math.prod(after[:place]) == ahead:
            return place
    return None


def _unfolded(call: Call, seen: Seen) -> Seen:
    """Axes of an image that a reshape gives back, read by its shape."""
    n = len(seen.views)
    value = call.value
    if value.dim() != n + 2 or any(axis is not None for axis in seen.axes):
        return seen
    free = [is_symbolic(size) for size in value.shape]
    if all(free[1:-1]) and not free[-1]:
        return replace(seen, axes=tuple(range(1, n + 1)))
    if all(free[2:]) and not free[1]:
        return replace(seen, axes=tuple(range(2, n + 2)))
    return seen


def scatter(call: Call) -> Seen:
    """A slice of a tensor with other values in it."""
    base, source = call.args["self"], call.args["src"]
    if source not in call.given or "slice" not in operator_of(call.node):
        return call.together
    over = _scattered(call.node, call.given[source])
    return _over(call.given[base], over) if base in call.given else over


def after(call: Call) -> Seen:
    """What was written shows where it was written, and what was there before everywhere else."""
    base, write = call.args["x"], call.args["write"]
    if write not in call.given:
        return call.together
    over = call.given[write]
    target = write.all_input_nodes[0]
    while operator_of(target) in ("aten::slice", "aten::select", "weightscope::boundary"):
        if operator_of(target) == "aten::slice":
            over = _scattered(target, over)
        target = target.all_input_nodes[0]
    over = replace(over, axes=default_axes(call.value, len(over.axes)))
    return _over(call.given[base], over) if base in call.given else over


def _over(under: Seen, over: Seen) -> Seen:
    if len(under.views) != len(over.views):
        return under.all(WHOLE)
    pairs = zip(under.views, over.views, strict=True)
    return replace(under, views=tuple(join(pair) for pair in pairs))


def _scattered(node: fx.Node, source: Seen) -> Seen:
    """What a tensor shows that was written into the places that a slice names."""
    args = arguments(node)
    value = tensor_of(args["self"])
    assert value is not None
    axis = int(args["dim"]) % value.dim()
    stride, size = int(args["step"]), hint(value.shape[axis])
    first = args["start"]
    start = hint(first.meta["val"]) if isinstance(first, fx.Node) else int(first or 0)
    start = max(0, start + size) if start < 0 else start

    def written(view: Span) -> Span:
        def reads(i: int) -> Iterable[int]:
            place, rest = divmod(i - start, stride)
            return () if rest else (place,)

        return read(view, Fraction(1, stride), reads)

    axes = source.axes if None not in source.axes else default_axes(value, len(source.axes))
    views = tuple(
        written(view) if where == axis else view
        for view, where in zip(source.views, axes, strict=True)
    )
    return replace(source, views=views, axes=axes)
