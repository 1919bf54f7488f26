"""What a tensor sees whose axes were divided or joined by reshapes.

Between the reshapes by which an image is taken to patches or patches to an image, a dimension lies
along several axes, or beside others along one. `Seen.arrangement` says so, and counts no value
before one has to: operators that move values only move it, and what mixes the values along an axis
takes together what lies there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from math import prod

from torch import Tensor, fx

from weightscope.adapters.symbols import hint
from weightscope.graph.nodes import first_tensor
from weightscope.receptive_field import factors
from weightscope.receptive_field.factors import Arrangement, Factor, plain, tidy
from weightscope.receptive_field.seen import Call, Seen, listed
from weightscope.receptive_field.spans import WHOLE, Span, read

# what asks for no places along the axes of the image
_KEEPS = ("same", "reshape", "permute", "linear", "along")


def begun(seen: Seen, value: Tensor) -> Arrangement | None:
    """How the dimensions of the image lie along the axes of a tensor; None: not known."""
    if seen.arrangement is not None:
        return seen.arrangement
    sizes = [hint(size) for size in value.shape]
    if any(axis is None or axis >= len(sizes) or sizes[axis] == 1 for axis in seen.axes):
        return None  # one that is not there lies in what the tensor was a part of
    counted = {axis: dimension for dimension, axis in enumerate(seen.axes)}
    return tuple(tidy([Factor(size, counted.get(axis))]) for axis, size in enumerate(sizes))


def ready(kind: str | None, given: Mapping[fx.Node, Seen]) -> Mapping[fx.Node, Seen]:
    """What the inputs of an operator see, once their places are counted where it asks for them."""
    many = {seen.arrangement for seen in given.values()}
    if many == {None} or (kind in _KEEPS and len(many) == 1):
        return given
    given = {node: settled(seen) for node, seen in given.items()}
    if kind in _KEEPS and len({seen.arrangement for seen in given.values()} - {None}) <= 1:
        return given
    return {node: lost(seen) for node, seen in given.items()}


def checked(seen: Seen, node: fx.Node) -> Seen:
    """The result of an operator that keeps the axes, where it changed the sizes of some of them."""
    value = first_tensor(node)
    axes = seen.arrangement
    if axes is None or value is None:
        return seen
    sizes = [hint(size) for size in value.shape]
    if len(sizes) != len(axes):
        return lost(seen)
    for place, (axis, size) in enumerate(zip(axes, sizes, strict=True)):
        if axis == tidy([Factor(size)]) or _size(axis) == size:
            continue
        if any(factors.home(axes, d) == place for d in factors.dimensions(axis)):
            return lost(seen)
        seen = mixed(seen, place, size)
    return seen


def _size(axis: factors.Axis) -> int:
    return prod(factor.size for factor in axis)


def lost(seen: Seen) -> Seen:
    """The same, where it is no longer followed how the dimensions lie."""
    if seen.arrangement is None:
        return seen
    followed = [d for axis in seen.arrangement for d in factors.dimensions(axis)]
    folded = any(seen.axes[dimension] is None for dimension in followed)
    return replace(seen, arrangement=None, folded=folded)


def settled(seen: Seen) -> Seen:
    """Count the values along the axes of a tensor whose places an operator asks for.

    What lies along other axes than a dimension does, as the pixels of a patch along the channels,
    is taken together.
    """
    axes = seen.arrangement
    if axes is None:
        return seen
    if factors.dimensions(axes[0]):
        return lost(seen)  # the images of a batch are apart
    for place, axis in enumerate(axes):
        for dimension in factors.dimensions(axis):
            if factors.home(axes, dimension) != place:
                seen = _together(seen, place, dimension)
    assert seen.arrangement is not None
    for place, axis in enumerate(seen.arrangement):
        found = factors.dimensions(axis)
        if len(found) == 1 and axis[0].dimension is None:
            seen = _whole(seen, found)  # several images side by side
        elif len(found) > 1:
            seen = _in_turn(seen, place)
    return resolved(seen)


def _whole(seen: Seen, gone: Iterable[int]) -> Seen:
    views = tuple(WHOLE if d in gone else view for d, view in enumerate(seen.views))
    return replace(seen, views=views)


def _in_turn(seen: Seen, place: int) -> Seen:
    """Count dimensions that lie together along one axis: tokens."""
    assert seen.arrangement is not None
    made: list[Factor] = []
    axis = seen.arrangement[place]
    for factor in axis:
        d = factor.dimension
        if d is None:
            made.append(factor)
            continue
        steps = [other.stride for other in axis if other.dimension == d]
        if factor.stride < max(steps):
            seen = _joined(seen, d, range(0, factor.size * factor.stride, factor.stride))
            made.append(Factor(factor.size))
            continue
        alone = (factor,)
        seen = _read(seen, d, factors.rate(alone), _reader(alone, d))
        made.append(Factor(factor.size, d))
    return _with_axis(seen, place, tidy(made))


def resolved(seen: Seen) -> Seen:
    """Count every dimension that lies along an axis of its own."""
    axes = seen.arrangement
    assert axes is not None
    places: list[int | None] = [None] * len(seen.views)
    for d in range(len(places)):
        where = [place for place, axis in enumerate(axes) if d in factors.dimensions(axis)]
        axis = axes[where[0]] if where else ()
        if len(where) != 1 or factors.dimensions(axis) != {d} or axis[0].dimension is None:
            continue
        if axis != tidy([Factor(_size(axis), d)]):
            seen = _read(seen, d, factors.rate(axis), _reader(axis, d))
            seen = _with_axis(seen, where[0], tidy([Factor(_size(axis), d)]))
        places[d] = where[0]
    done = all(place is not None or factors.home(axes, d) is None for d, place in enumerate(places))
    kept = None if done else seen.arrangement
    return replace(seen, axes=tuple(places), arrangement=kept, folded=False)


def _reader(axis: factors.Axis, dimension: int) -> Callable[[int], int]:
    return lambda place: factors.value_at(axis, dimension, place)


def _read(seen: Seen, dimension: int, step: Fraction, value: Callable[[int], int]) -> Seen:
    return _changed(seen, dimension, lambda view: read(view, step, lambda i: (value(i),)))


def _joined(seen: Seen, dimension: int, offsets: Sequence[int]) -> Seen:
    """Take together what lies so far from every value."""
    return _changed(
        seen, dimension, lambda view: read(view, Fraction(1), lambda i: (i + o for o in offsets))
    )


def _changed(seen: Seen, dimension: int, change: Callable[[Span], Span]) -> Seen:
    views = (change(v) if d == dimension else v for d, v in enumerate(seen.views))
    return replace(seen, views=tuple(views))


def _together(seen: Seen, place: int, dimension: int) -> Seen:
    """Take together what of a dimension lies along an axis."""
    assert seen.arrangement is not None
    axis = seen.arrangement[place]
    seen = _joined(seen, dimension, factors.offsets(axis, dimension))
    kept = (Factor(f.size) if f.dimension == dimension else f for f in axis)
    return _with_axis(seen, place, tidy(kept))


def _with_axis(seen: Seen, place: int, axis: factors.Axis) -> Seen:
    assert seen.arrangement is not None
    axes = seen.arrangement
    return replace(seen, arrangement=(*axes[:place], axis, *axes[place + 1 :]))


def mixed(seen: Seen, place: int, size: int) -> Seen:
    """The same tensor, once the values along an axis are mixed; its size is another then."""
    axes = seen.arrangement
    assert axes is not None
    found = factors.dimensions(axes[place])
    homes = {d for d in found if factors.home(axes, d) == place}
    for dimension in found - homes:
        seen = _together(seen, place, dimension)
    return _with_axis(_whole(seen, homes), place, plain(size))


def without(seen: Seen, gone: Sequence[int]) -> Seen:
    """The same tensor without some of its axes."""
    assert seen.arrangement is not None
    kept = [axis for place, axis in enumerate(seen.arrangement) if place not in gone]
    return resolved(replace(seen, arrangement=tuple(kept)))


def permuted(seen: Seen, order: Sequence[int]) -> Seen:
    """The same tensor with its axes in another order."""
    if seen.arrangement is None:
        return seen
    return replace(seen, arrangement=tuple(seen.arrangement[place] for place in order))


# --- reshapes ---------------------------------------------------------------------------------


def reshaped(call: Call, seen: Seen, name: str) -> Seen | None:
    """What the result of a reshape sees; None where it is not followed how the dimensions lie."""
    value = first_tensor(call.main)
    assert value is not None
    axes = begun(seen, value)
    if axes is None:
        return None
    seen = replace(seen, arrangement=axes)
    if name in _RESHAPES:
        return _RESHAPES[name](call, seen, axes)
    sizes = [hint(size) for size in call.value.shape]
    if prod(map(_size, axes)) == prod(sizes):
        made = factors.regrouped(axes, sizes)
    else:
        made = _expanded(axes, sizes)
    return None if made is None else resolved(replace(seen, arrangement=made))


def _expanded(axes: Arrangement, sizes: Sequence[int]) -> Arrangement | None:
    """New axes in front, and axes of size 1 made larger."""
    new = len(sizes) - len(axes)
    if new < 0:
        return None
    made = [plain(size) for size in sizes[:new]]
    for axis, size in zip(axes, sizes[new:], strict=True):
        if axis and _size(axis) != size:
            return None
        made.append(axis or plain(size))
    return tuple(made)


def _selected(call: Call, seen: Seen, axes: Arrangement) -> Seen:
    place = call.number(call.args["dim"]) % len(axes)
    axis, index = axes[place], call.number(call.args["index"])
    index %= max(_size(axis), 1)
    for dimension in factors.dimensions(axis):
        seen = _joined(seen, dimension, (factors.value_at(axis, dimension, index),))
    return without(seen, (place,))


def _unbound(call: Call, seen: Seen, axes: Arrangement) -> Seen:
    place = call.number(call.args.get("dim", 0)) % len(axes)
    for dimension in factors.dimensions(axes[place]):
        seen = _together(seen, place, dimension)
    return without(seen, (place,))


def _squeezed(call: Call, seen: Seen, axes: Arrangement) -> Seen:
    dims = call.args.get("dim")
    asked = range(len(axes)) if dims is None else [call.number(d) % len(axes) for d in listed(dims)]
    return without(seen, [place for place in asked if not axes[place]])


def _inserted(call: Call, seen: Seen, axes: Arrangement) -> Seen:
    place = call.number(call.args.get("dim", 0)) % call.value.dim()
    new = plain(hint(call.value.shape[place]))
    return resolved(replace(seen, arrangement=(*axes[:place], new, *axes[place:])))


def _interleaved(call: Call, seen: Seen, axes: Arrangement) -> Seen | None:
    dim, times = call.args.get("dim"), call.args.get("repeats")
    if dim is None or not isinstance(times, int):
        return None
    place = call.number(dim) % len(axes)
    return resolved(_with_axis(seen, place, tidy([*axes[place], Factor(times)])))


def _repeated(call: Call, seen: Seen, axes: Arrangement) -> Seen | None:
    sizes = [hint(size) for size in call.value.shape]
    made = [plain(size) for size in sizes[: len(sizes) - len(axes)]]
    for axis, size in zip(axes, sizes[len(made) :], strict=True):
        times = size // _size(axis)
        if times > 1 and factors.dimensions(axis):
            return None  # images side by side
        made.append(tidy([Factor(times), *axis]))
    return resolved(replace(seen, arrangement=tuple(made)))


def patches(call: Call, seen: Seen) -> Seen | None:
    """Windows along one axis, laid out along a new last axis: ``Tensor.unfold``."""
    value = first_tensor(call.main)
    assert value is not None
    axes = begun(seen, value)
    if axes is None:
        return None
    place = call.number(call.args["dimension"]) % len(axes)
    size, step = call.number(call.args["size"]), call.number(call.args["step"])
    axis, count = axes[place], hint(call.value.shape[place])
    if len(axis) > 1:
        return None
    d = axis[0].dimension if axis else None
    stride = axis[0].stride if d is not None else 1
    slid = tidy([Factor(count, d, stride * (step if d is not None else 1))])
    inside = tidy([Factor(size, d, stride)])
    made = (*axes[:place], slid, *axes[place + 1 :], inside)
    return resolved(replace(seen, arrangement=made))


_RESHAPES: Mapping[str, Callable[[Call, Seen, Arrangement], Seen | None]] = {
    "aten::select": _selected,
    "aten::unbind": _unbound,
    "aten::squeeze": _squeezed,
    "aten::unsqueeze": _inserted,
    "aten::stack": _inserted,
    "aten::repeat_interleave": _interleaved,
    "aten::repeat": _repeated,
    "aten::tile": _repeated,
}
