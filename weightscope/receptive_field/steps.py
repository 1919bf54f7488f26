"""What the result of one operator sees, by the kind of view that the table of operators names."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from torch import Tensor, fx

from weightscope.adapters.symbols import hint, is_symbolic
from weightscope.graph.nodes import arguments, first_tensor, operator_of, tensor_of
from weightscope.graph.operators import View, facts
from weightscope.receptive_field import arrangements, places, sliding
from weightscope.receptive_field.seen import Call, Seen, listed
from weightscope.receptive_field.spans import UNKNOWN, WHOLE


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
    call = Call(node, arguments(node), arrangements.ready(kind, given))
    made = _STEPS[kind](call) if kind is not None else call.together.all(UNKNOWN)
    return None if made is None else arrangements.checked(made, node)


def is_unknown(node: fx.Node) -> bool:
    """Whether an operator is in no row of the table, or in one that does not know its view."""
    return (
        node.op == "call_function"
        and node.target is not operator.getitem
        and first_tensor(node) is not None
        and facts(operator_of(node)).view is None
    )


def _same(call: Call) -> Seen:
    seen = call.together
    main = first_tensor(call.main)
    assert main is not None
    return seen if main.dim() == call.value.dim() else places.reshape(call)


def _none(call: Call) -> None:
    return None


def _whole(call: Call) -> Seen:
    return call.together.all(WHOLE)


def _along(call: Call) -> Seen:
    """A mean, a softmax, a sum so far: the whole where it runs over positions of the image."""
    seen = call.together
    if isinstance(call.args.get("other"), fx.Node):
        return _same(call)  # the larger of two tensors, element by element
    dims = call.args.get("dim")
    if dims in (None, []):
        return seen.all(WHOLE)
    value = first_tensor(call.main)
    assert value is not None
    gone = [call.number(d) % value.dim() for d in listed(dims)]
    if seen.arrangement is not None:
        return _along_factors(call, seen, gone)
    if None in seen.axes and any(_is_position(value, seen, axis, len(gone)) for axis in gone):
        seen = seen.all(WHOLE)
    pairs = zip(seen.views, seen.axes, strict=True)
    seen = replace(seen, views=tuple(WHOLE if axis in gone else view for view, axis in pairs))
    if call.value.dim() == value.dim():
        return seen
    axes = (None if a in gone or a is None else a - sum(d < a for d in gone) for a in seen.axes)
    return replace(seen, axes=tuple(axes))


def _along_factors(call: Call, seen: Seen, gone: Sequence[int]) -> Seen:
    assert seen.arrangement is not None
    for axis in gone:
        seen = arrangements.mixed(seen, axis, 1)
    keeps = call.value.dim() == len(seen.arrangement or ())
    return seen if keeps else arrangements.without(seen, gone)


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


def _linear(call: Call) -> Seen:
    seen = call.together
    value = tensor_of(call.main)
    assert value is not None
    if seen.arrangement is not None:
        return arrangements.mixed(seen, value.dim() - 1, hint(call.value.shape[-1]))
    return seen.all(WHOLE) if _is_position(value, seen, value.dim() - 1) else seen


def _product(call: Call) -> Seen:
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


def _summed(call: Call) -> list[int]:
    """Axes of the image's tensor that an einsum sums over."""
    equation = str(call.args["equation"]).replace(" ", "")
    left, _, right = equation.partition("->")
    letters = left.split(",")[list(call.args["tensors"]).index(call.main)]
    return [axis for axis, letter in enumerate(letters) if letter not in right]


_STEPS: Mapping[View, Callable[[Call], Seen | None]] = {
    "same": _same,
    "none": _none,
    "window": sliding.window,
    "convolution": sliding.convolution,
    "spread": sliding.spread,
    "unpool": sliding.unpool,
    "adaptive": sliding.adaptive,
    "resize": sliding.resize,
    "shuffle": sliding.shuffle,
    "unshuffle": sliding.unshuffle,
    "slice": places.slice_,
    "pad": places.pad,
    "roll": places.roll,
    "cat": places.cat,
    "permute": places.permute,
    "unfold": places.unfold,
    "reshape": places.reshape,
    "scatter": places.scatter,
    "after": places.after,
    "along": _along,
    "linear": _linear,
    "product": _product,
    "whole": _whole,
}
