"""Sizes stay sizes where a graph is recorded by ``torch.jit.trace``.

A recorded size is a tensor, which torch's own functions and methods note as one. The operators that
a graph calls make a number of it and say nothing: what was recorded would have the size of its
example whatever it is given. While a call is recorded, what takes sizes is therefore called by its
function or method. ``torch.onnx.export(..., dynamo=False)`` records in the same way.
"""

from __future__ import annotations

import functools
import math
import operator
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from weightscope.adapters import pytree


def is_recorded() -> bool:
    """Whether ``torch.jit.trace``, or what is made of it, records what is called now."""
    return torch.jit.is_tracing()  # type: ignore[attr-defined, no-any-return, no-untyped-call]


def size_of(x: Tensor, axis: int) -> int:
    """A size as a number, where it is looked at only; ``shape`` records that it is looked at."""
    if is_recorded():
        return torch.ops.aten.sym_size.int(x, axis)  # type: ignore[no-any-return]
    return x.shape[axis]


def is_written_to_onnx() -> bool:
    """Whether ``torch.onnx.export`` traces or records what is called now."""
    return torch.onnx.is_in_onnx_export()


def warn_of_recording(what: str) -> None:
    """Warn that what is recorded will not follow the sizes that it is given.

    Args:
        what: What the network does that is not recorded.
    """
    warnings.warn(
        f"the network {what}, which torch.jit.trace does not record: what it makes is right at the"
        " sizes of this example alone, and does not say so at others. torch.export and"
        " torch.onnx.export(..., dynamo=True) keep sizes",
        torch.jit.TracerWarning,  # type: ignore[attr-defined]
        stacklevel=3,
    )


def warn_of_no_refusal() -> None:
    """Warn that what is recorded, or written to ONNX, will not refuse what the network refuses."""
    what = "a file of ONNX" if is_written_to_onnx() else "what torch.jit.trace makes"
    warnings.warn(
        f"the network refuses other sizes of its inputs than it was read for, and {what} does not:"
        " at those it is wrong and does not say so. Keep it to sizes that the network takes;"
        " torch.export keeps the refusal",
        torch.jit.TracerWarning,  # type: ignore[attr-defined]
        stacklevel=3,
    )


def run_recorded(module: nn.Module, graph: fx.Graph, arguments: list[Any]) -> Any:
    """Run a graph while it is recorded, so that what is recorded follows its sizes.

    Args:
        module: What holds the modules and tensors that the graph names.
        graph: What to run.
        arguments: One for each placeholder.
    """
    recorder = _Recorder(module, garbage_collect_values=True, graph=graph)
    recorder.extra_traceback = False
    return recorder.run(*arguments)


class _Recorder(fx.Interpreter):
    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a function so that the sizes among its arguments are recorded."""
        if isinstance(target, torch._ops.OpOverload):
            return _call_operator(target, args, kwargs)
        if any(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves(args)):
            if target in _NUMBERS:
                return _NUMBERS[target](*args)
            if _is_of_numbers(target):
                warn_of_recording(f"gives sizes to {target.__name__}")
        return target(*args, **kwargs)


def _is_of_numbers(function: Any) -> bool:
    """Whether a function makes Python's numbers of what it is given."""
    module, name = getattr(function, "__module__", ""), getattr(function, "__name__", "")
    return module == "math" or name in ("int", "float") or name.lstrip("_").startswith("sym_")


def _call_operator(op: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    if not (_gives_number(op) or _takes_sizes(op, args, kwargs)):
        return op(*args, **kwargs)
    call = _with_binding(op)
    if call is not None:
        try:
            return call(*args, **kwargs)
        except TypeError:  # the function takes no size there
            pass
    warn_of_recording(f"gives sizes to {op}")
    return op(*args, **kwargs)


def _gives_number(op: Any) -> bool:
    return any(
        str(result.type) in ("int", "SymInt", "float", "number") for result in op._schema.returns
    )


def _takes_sizes(op: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Whether a number among the arguments of an operator is a recorded size."""
    declared = op._schema.arguments
    given = [*zip(declared, args, strict=False), *((a, kwargs.get(a.name)) for a in declared)]
    return any(
        isinstance(leaf, Tensor)
        for argument, value in given
        if "Tensor" not in str(argument.type)
        for leaf in pytree.tree_leaves(value)
    )


@functools.cache
def _with_binding(op: Any) -> Callable[..., Any] | None:
    """The function or method of Python that is an operator."""
    name = op._schema.name.partition("::")[2]
    if op.namespace != "aten":
        return None
    if name in _OTHERWISE:
        return _OTHERWISE[name]
    for place in _PLACES:
        if (found := getattr(place, name, None)) is not None:
            return found  # type: ignore[no-any-return]
    return None


_PLACES = [
    place
    for name in ("_nn", "_VariableFunctions", "TensorBase", "_fft", "_linalg", "_special")
    if (place := getattr(torch._C, name, None)) is not None
]


def _slice(x: Tensor, dim: int = 0, start: Any = None, end: Any = None, step: Any = 1) -> Tensor:
    whole = (slice(None),) * (dim % x.dim())
    return x[(*whole, slice(start, end, step))]


_OTHERWISE: dict[str, Callable[..., Any]] = {
    "slice": _slice,
    "_unsafe_view": Tensor.reshape,
    "_local_scalar_dense": Tensor.item,  # torch itself warns of these
    "sym_numel": Tensor.numel,
}
"""Operators of which no function or method has the name."""


def _held(x: Any) -> Tensor:
    if isinstance(x, Tensor):
        return x
    return torch.scalar_tensor(
        x, dtype=torch.int64 if isinstance(x, int) else torch.float64, device="cpu"
    )


def _share(one: Any, other: Any) -> Tensor:
    shared: Tensor = _held(one).double() / other
    return shared


def _power(base: Any, exponent: Any) -> Tensor:
    whole = isinstance(exponent, int) and exponent >= 0
    return torch.pow(base if whole else _held(base).double(), exponent)


def _both(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Any, Any], Tensor]:
    return lambda one, other: function(_held(one), _held(other))


_NUMBERS: dict[Any, Callable[..., Any]] = {
    operator.truediv: _share,
    operator.pow: _power,
    math.floor: lambda x: torch.floor(x).long(),
    math.ceil: lambda x: torch.ceil(x).long(),
    math.trunc: lambda x: torch.trunc(x).long(),
    math.sqrt: lambda x: x.double().sqrt(),
    round: lambda x, digits=None: x.round().long() if digits is None else x.round(decimals=digits),
    torch.sym_float: Tensor.double,
    torch.sym_int: Tensor.long,
    torch.sym_max: _both(torch.maximum),
    torch.sym_min: _both(torch.minimum),
    torch.sym_ite: torch.where,
    torch.sym_not: torch.logical_not,
    torch.sym_sum: sum,
}
"""What functions of numbers are for recorded sizes, exact as Python's are."""
