"""What the result of one operator sees, by the kind of view that the table of operators names."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor, fx

from weightscope.adapters.symbols import hint, is_symbolic
from weightscope.graph.nodes import arguments, first_tensor, operator_of, tensor_of
from weightscope.graph.operators import View, facts
from weightscope.receptive_field.spans import (
    UNKNOWN,
    WHOLE,
    Span,
    join,
    read,
    repeated,
    shifted,
    spread,
    window,
)

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
    """

    views: Views
    axes: tuple[int | None, ...]
    image: tuple[int, ...]
    folded: bool = False
    patches: tuple[tuple[int, ...], ...] = ()

    def all(self, span: Span) -> Seen:
        """The same tensor, with one span along every dimension."""
        return replace(self, views=(span,) * len(self.views), patches=())

    def mixed(self) -> Seen:
        """The same tensor, where every value may come from any value of its window."""
        if not self.patches:
            return self
        views = zip(self.views, *self.patches, strict=True)
        return replace(self, views=tuple(window(*setting) for setting in views), patches=())


@dataclass(frozen=True)
class _Call:
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
        views = tuple(join(along) for along in zip(*many, strict=True))
        folded = all(seen.folded for seen in self.given.values())
        return replace(main, views=views, folded=folded)

    def number(self, value: Any) -> int:
        """A setting at the example input."""
        return hint(value.meta["val"]) if isinstance(value, fx.Node) else hint(value)

    def each(self, name: str, count: int) -> tuple[int, ...]:
        """A setting for each dimension, from one number or one per dimension."""
        value = self.args[name]
        values = tuple(value) if isinstance(value, list | tuple) else (value,)
        numbers = tuple(self.number(v) for v in values)
        return numbers if len(numbers) == count else numbers * count


def step(node: fx.Node, given: Mapping[fx.Node, Seen]) -> Seen | None:
    """What the result of a node sees; None where it sees nothing.

    Args:
        node: A call of a function.
        given: What each of its inputs sees, without those that see nothing.
    """
    if first_tensor(node) is None or not given:
        return None
    kind = "same" if node.target is operator.getitem else facts(operator_of(node)).view
    if kind not in ("same", "spread") or len({seen.patches for seen in given.values()}) > 1:
        given = {source: seen.mixed() for source, seen in given.items()}
    call = _Call(node, arguments(node), given)
    return _STEPS[kind](call) if kind is not None else call.together.all(UNKNOWN)


def is_unknown(node: fx.Node) -> bool:
    """Whether an operator is in no row of the table, or in one that does not know its view."""
    return (
        node.op == "call_function"
        and node.target is not operator.getitem
        and first_tensor(node) is not None
        and facts(operator_of(node)).view is None
    )


# --- kinds of views ----------------------------------------------------------------------------


def _same(call: _Call) -> Seen:
    seen = call.together
    main = first_tensor(call.main)
    assert main is not None
    return seen if main.dim() == call.value.dim() else _reshape(call)


def _none(call: _Call) -> None:
    return None


def _whole(call: _Call) -> Seen:
    return call.together.all(WHOLE)


def _window(call: _Call) -> Seen:
    seen = _counted(call)
    n = len(seen.views)
    if _rank(call) != n:
        return seen.all(WHOLE)  # it slides over folded dimensions: frames of a film, channels
    if any(_grows(call, kernel) for kernel in _listed(call.args["kernel_size"])):
        return _first(call, seen.all(WHOLE))
    kernel = call.each("kernel_size", n)
    stride = call.each("stride", n) if call.args.get("stride") else kernel
    dilation = call.each("dilation", n) if "dilation" in call.args else (1,) * n
    padding = call.each("padding", n) if "padding" in call.args else (0,) * n
    settings = (kernel, stride, dilation, padding)
    patches = replace(seen, patches=tuple(_in_order(seen, setting) for setting in settings))
    is_layout = operator_of(call.node) == "aten::im2col"
    return _first(call, patches if is_layout else patches.mixed())


def _grows(call: _Call, kernel: Any) -> bool:
    """Whether a window is as large as the image, or follows its size."""
    value = kernel.meta["val"] if isinstance(kernel, fx.Node) else kernel
    if is_symbolic(value):
        return True
    sizes = [hint(s) for s in cast(Tensor, tensor_of(call.main)).shape[2:]]
    whole = call.args["kernel_size"]
    numbers = [call.number(v) for v in _listed(whole)]
    return call.number(kernel) > 1 and numbers in (sizes, sizes[:1] if len(set(sizes)) == 1 else [])


def _convolution(call: _Call) -> Seen:
    weight = first_tensor(call.args["weight"])
    assert weight is not None
    seen = _counted(call)
    kernel = tuple(int(s) for s in weight.shape[2:])
    n = len(seen.views)
    if len(kernel) != n:  # a convolution over tokens or over folded dimensions
        return _first(call, seen.all(WHOLE) if any(k > 1 for k in kernel) else seen)
    name = operator_of(call.node)
    transposed = "transpose" in name or call.args.get("transposed", False)
    dilation = call.each("dilation", n)
    same = tuple((k - 1) * d // 2 for k, d in zip(kernel, dilation, strict=True))
    named = {"same": same, "valid": (0,) * n}
    padding = call.args["padding"]
    pads = named[padding] if isinstance(padding, str) else call.each("padding", n)
    slide = spread if transposed else window
    settings = [_in_order(seen, s) for s in (kernel, call.each("stride", n), dilation, pads)]
    views = tuple(slide(*setting) for setting in zip(seen.views, *settings, strict=True))
    return _first(call, replace(seen, views=views))


def _spread(call: _Call) -> Seen:
    seen = call.together
    n = len(seen.views)
    if n != 2:
        return seen.all(WHOLE)
    names = ("kernel_size", "stride", "dilation", "padding")
    settings = tuple(call.each(name, n) for name in names)
    if settings == seen.patches:  # every value goes back to where it was
        return _first(call, replace(seen, patches=()))
    views = tuple(spread(*setting) for setting in zip(seen.mixed().views, *settings, strict=True))
    return _first(call, replace(seen, views=views, patches=()))


def _unpool(call: _Call) -> Seen:
    """Values come back to where the pooling found them, anywhere in its window."""
    pool = call.args["indices"]
    while isinstance(pool, fx.Node) and pool.all_input_nodes and not _is_pool(pool):
        pool = pool.all_input_nodes[0]
    seen = _counted(call)
    if not _is_pool(pool):
        return _first(call, seen.all(UNKNOWN))
    n = len(seen.views)
    settings = _Call(pool, arguments(pool), call.given)
    kernel = settings.each("kernel_size", n)
    stride = settings.each("stride", n) if settings.args["stride"] else kernel
    rest = (stride, settings.each("dilation", n), settings.each("padding", n))
    every = zip(seen.views, kernel, *rest, strict=True)
    return _first(call, replace(seen, views=tuple(spread(*setting) for setting in every)))


def _is_pool(node: Any) -> bool:
    return isinstance(node, fx.Node) and "max_pool" in operator_of(node)


def _adaptive(call: _Call) -> Seen:
    """Pooling to a fixed size sees the whole; to a share of the input's size, a window."""
    seen = _counted(call)
    views = []
    for view, before, after in _sizes(call, seen):
        if hint(before) == hint(after):
            views.append(view)
        elif not is_symbolic(after):
            views.append(WHOLE)
        else:
            ratio = _ratio(before, after)
            views.append(read(view, ratio, _share(ratio)))
    return _first(call, replace(seen, views=tuple(views)))


def _share(ratio: Fraction) -> Callable[[int], Iterable[int]]:
    return lambda i: range(math.floor(i * ratio), math.ceil((i + 1) * ratio))


def _resize(call: _Call) -> Seen:
    seen = _counted(call)
    if _rank(call) != len(seen.views):
        return seen.all(WHOLE)
    name = operator_of(call.node)
    views = []
    for view, before, after in _sizes(call, seen):
        if not is_symbolic(after) and is_symbolic(before):
            views.append(WHOLE)  # to a fixed size, from any
            continue
        ratio = _ratio(before, after)
        views.append(view if ratio == 1 else read(view, ratio, _neighbours(name, ratio)))
    return _first(call, replace(seen, views=tuple(views)))


def _neighbours(name: str, ratio: Fraction) -> Callable[[int], Iterable[int]]:
    """The values that an interpolation reads, with the pixels' centres at half a pixel.

    Where corners are aligned instead, the same holds at the image's centre, and nothing larger
    elsewhere.
    """
    half = Fraction(1, 2)
    if "exact" in name:
        return lambda i: (math.floor((i + half) * ratio),)
    if "nearest" in name:
        return lambda i: (math.floor(i * ratio),)
    reach = 2 if "cubic" in name else 1
    if name.endswith("_aa") and ratio > 1:
        support = reach * ratio

        def antialiased(i: int) -> Iterable[int]:
            centre = (i + half) * ratio
            return range(math.floor(centre - support + half), math.floor(centre + support + half))

        return antialiased

    def reads(i: int) -> Iterable[int]:
        place = (i + half) * ratio - half
        first = math.floor(place)
        return (first,) if place == first else range(first + 1 - reach, first + 1 + reach)

    return reads


def _ratio(before: Any, after: Any) -> Fraction:
    """Input size / output size; a simple ratio where one pixel more or less would give it."""
    given, made = hint(before), hint(after)
    exact = Fraction(given, made)
    simple = exact.limit_denominator(16)
    return simple if abs(given - simple * made) <= 1 else exact


def _shuffle(call: _Call) -> Seen:
    factor = call.number(call.args["upscale_factor"])
    seen = _counted(call)
    views = tuple(repeated(v, factor) for v in seen.views)
    return _first(call, replace(seen, views=views) if len(views) == 2 else seen.all(WHOLE))


def _unshuffle(call: _Call) -> Seen:
    factor = call.number(call.args["downscale_factor"])
    seen = _counted(call)
    views = tuple(window(v, factor, factor) for v in seen.views)
    return _first(call, replace(seen, views=views) if len(views) == 2 else seen.all(WHOLE))


def _slice(call: _Call) -> Seen:
    """A strided slice of an image is one phase of a patch: its siblings are joined later."""
    start, stride = call.args.get("start"), call.args.get("step", 1)
    return _along_axis(call, lambda view, size: _sliced(view, _start(call, start, size), stride))


def _sliced(view: Span, start: int, stride: int) -> Span:
    return read(view, Fraction(stride), lambda i: (start + i * stride,))


def _start(call: _Call, start: Any, size: int) -> int:
    first = 0 if start is None else call.number(start)
    return max(0, first + size) if first < 0 else first


def _along_axis(call: _Call, change: Callable[[Span, int], Span]) -> Seen:
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


def _pad(call: _Call) -> Seen:
    seen = call.together
    rank = call.value.dim()
    amounts = call.args["pad"] if "pad" in call.args else call.args["padding"]
    before = {rank - 1 - i // 2: call.number(amounts[i]) for i in range(0, len(amounts), 2)}
    return _moved_on(seen, before)


def _roll(call: _Call) -> Seen:
    seen = call.together
    dims = [d % call.value.dim() for d in call.args["dims"]]
    if not dims:
        return seen.all(WHOLE)  # rolls the flattened tensor
    by = zip(dims, (call.number(s) for s in _listed(call.args["shifts"])), strict=True)
    return _moved_on(seen, dict(by))


def _moved_on(seen: Seen, by: Mapping[int, int]) -> Seen:
    """What is seen once every element lies so many places further along each axis."""
    views = tuple(
        shifted(view, -by.get(axis, 0)) if axis is not None else view
        for view, axis in zip(seen.views, seen.axes, strict=True)
    )
    return replace(seen, views=views)


def _cat(call: _Call) -> Seen:
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


def _permute(call: _Call) -> Seen:
    """Run the operator on sizes that name their axis."""
    seen = call.together
    value = tensor_of(call.main)
    assert value is not None
    marked = torch.empty(tuple(range(2, value.dim() + 2)), device="meta")
    moved = cast(Any, call.node.target)(marked, *call.node.args[1:], **call.node.kwargs)
    place = {size - 2: axis for axis, size in enumerate(moved.shape)}
    return replace(seen, axes=tuple(None if a is None else place[a] for a in seen.axes))


def _reshape(call: _Call) -> Seen:
    """Follow an axis to where as many elements lie before and behind it; the others are folded."""
    seen = call.together
    value = first_tensor(call.main)
    assert value is not None
    before, after = ([hint(s) for s in v.shape] for v in (value, call.value))
    name = operator_of(call.node)
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
    call: _Call, seen: Seen, before: Sequence[int], after: Sequence[int], name: str
) -> Seen:
    """One axis comes or goes."""
    dims = call.args.get("dim")
    if name == "aten::squeeze" and "dim" not in call.args:
        gone = [i for i, size in enumerate(before) if size == 1]
    else:
        rank = len(after) if name == "aten::unsqueeze" else len(before)
        gone = [call.number(d) % rank for d in _listed(0 if dims is None else dims)]
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


def _unfolded(call: _Call, seen: Seen) -> Seen:
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


def _scatter(call: _Call) -> Seen:
    base, source = call.args["self"], call.args["src"]
    if source not in call.given or "slice" not in operator_of(call.node):
        return call.together
    over = _scattered(call.node, call.given[source])
    return _over(call.given[base], over) if base in call.given else over


def _after(call: _Call) -> Seen:
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
    over = replace(over, axes=_default_axes(call.value, len(over.axes)))
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

    axes = source.axes if None not in source.axes else _default_axes(value, len(source.axes))
    views = tuple(
        written(view) if where == axis else view
        for view, where in zip(source.views, axes, strict=True)
    )
    return replace(source, views=views, axes=axes)


def _along(call: _Call) -> Seen:
    """A mean, a softmax, a sum so far: the whole where it runs over positions of the image."""
    seen = call.together
    if isinstance(call.args.get("other"), fx.Node):
        return _same(call)  # the larger of two tensors, element by element
    dims = call.args.get("dim")
    if dims in (None, []):
        return seen.all(WHOLE)
    value = first_tensor(call.main)
    assert value is not None
    gone = [call.number(d) % value.dim() for d in _listed(dims)]
    if any(_is_position(value, seen, axis, len(gone)) for axis in gone):
        return seen.all(WHOLE)
    if call.value.dim() == value.dim():
        return seen
    axes = tuple(None if a is None else a - sum(d < a for d in gone) for a in seen.axes)
    return replace(seen, axes=axes)


def _is_position(value: Tensor, seen: Seen, axis: int, together: int = 1) -> bool:
    """Whether the positions of the image, or some of them, lie along an axis of a tensor.

    Where they were folded together, by the sizes that follow the image's; in a graph of fixed sizes
    as many dimensions at once as the image has must be positions.
    """
    if None not in seen.axes:
        return axis in seen.axes
    if any(is_symbolic(size) for size in value.shape[1:]):
        return axis > 0 and is_symbolic(value.shape[axis])
    return together >= len(seen.views)


def _linear(call: _Call) -> Seen:
    seen = call.together
    value = tensor_of(call.main)
    assert value is not None
    return seen.all(WHOLE) if _is_position(value, seen, value.dim() - 1) else seen


def _product(call: _Call) -> Seen:
    seen = call.together
    if len(call.given) > 1:
        return seen.all(WHOLE)  # two activations along a common dimension: attention
    value = tensor_of(call.main)
    assert value is not None
    if operator_of(call.node) == "aten::einsum":
        summed = _summed(call)
    else:
        tensors = [n for n in call.node.all_input_nodes if tensor_of(n) is not None]
        first = tensors.index(call.main) < len(tensors) - 1
        summed = [value.dim() - 1 if first or value.dim() == 1 else value.dim() - 2]
    if any(_is_position(value, seen, axis) for axis in summed):
        return seen.all(WHOLE)
    axes = seen.axes if value.dim() == call.value.dim() else (None,) * len(seen.axes)
    return replace(seen, axes=axes)


def _summed(call: _Call) -> list[int]:
    """Axes of the image's tensor that an einsum sums over."""
    equation = str(call.args["equation"]).replace(" ", "")
    left, _, right = equation.partition("->")
    letters = left.split(",")[list(call.args["tensors"]).index(call.main)]
    return [axis for axis, letter in enumerate(letters) if letter not in right]


_STEPS: Mapping[View, Callable[[_Call], Seen | None]] = {
    "same": _same,
    "none": _none,
    "window": _window,
    "convolution": _convolution,
    "spread": _spread,
    "unpool": _unpool,
    "adaptive": _adaptive,
    "resize": _resize,
    "shuffle": _shuffle,
    "unshuffle": _unshuffle,
    "slice": _slice,
    "pad": _pad,
    "roll": _roll,
    "cat": _cat,
    "permute": _permute,
    "reshape": _reshape,
    "scatter": _scatter,
    "after": _after,
    "along": _along,
    "linear": _linear,
    "product": _product,
    "whole": _whole,
}


# --- what they share -----------------------------------------------------------------------------


def _listed(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, list | tuple) else (value,)


def _rank(call: _Call) -> int:
    """Number of spatial dimensions of an operator that works on images, by its name or input."""
    name = operator_of(call.node)
    if name == "aten::im2col":
        return 2
    digit = re.search(r"([123])d", name)
    value = tensor_of(call.main)
    assert value is not None
    return int(digit[1]) if digit else value.dim() - 2


def _default_axes(value: Tensor, dimensions: int) -> tuple[int | None, ...]:
    first = value.dim() - dimensions
    return tuple(range(first, value.dim())) if first >= 0 else (None,) * dimensions


def _first(call: _Call, seen: Seen) -> Seen:
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


def _in_order(seen: Seen, values: Sequence[Any]) -> tuple[Any, ...]:
    """Settings or sizes of the last axes, in the order of the image's dimensions."""
    return tuple(values[axis - 2] for axis in _positions(seen))


def _sizes(call: _Call, seen: Seen) -> Iterable[tuple[Span, Any, Any]]:
    """The span and the sizes before and after of each dimension."""
    n = len(seen.views)
    value = tensor_of(call.main)
    assert value is not None
    before, after = (_in_order(seen, v.shape[-n:]) for v in (value, call.value))
    return zip(seen.views, before, after, strict=True)


def _counted(call: _Call) -> Seen:
    """What the inputs see, after a fold of positions into channels or back has been made good.

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
        seen.views, seen.image, _in_order(seen, value.shape[2:]), strict=True
    ):
        if not view.is_finite:
            views.append(view)
            continue
        ratio = image / (hint(here) * view.jump)
        if ratio >= 1.5:
            views.append(window(view, round(ratio), round(ratio)))
        elif ratio <= 1 / 1.5:
            views.append(repeated(view, round(1 / ratio)))
        else:
            views.append(view)
    return replace(seen, views=tuple(views), folded=False)
