"""Forwards that read the values of tensors, which a trace without numbers does not have."""

from __future__ import annotations

import linecache
import traceback
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn
from torch.export import ExportedProgram

from weightscope.adapters.constants import is_of_a_library
from weightscope.adapters.dispatch import READS_VALUES
from weightscope.errors import StructureError, shown

_NESTED = Path(torch.__file__).parent / "nested"
# what torch says where Python or numpy asks a tensor without numbers for them
_SAYINGS = (
    ".numpy() is not supported",
    "trying to get value out of a tracing tensor",
    "data-dependent",  # what the tracer says; its class lies beside sympy, which is slow to import
    "Cannot access data pointer",
    "is not supported for tensor subclasses",
)


def cannot_follow(error: BaseException, model: nn.Module) -> StructureError | None:
    """What to say where a forward does what no trace follows; None where it failed otherwise.

    Args:
        error: What the forward raised on tensors without numbers.
        model: Whose forward it is.
    """
    if any(_is_nested(cause) for cause in _causes(error)):
        return StructureError(
            f"the forward of {type(model).__name__} makes nested tensors{where_raised(error)},"
            " which have no sizes that can be followed. Let it pad to one size"
            " (torch.nn.utils.rnn.pad_sequence) and hand over a mask, or pass the part of the"
            " network without them"
        )
    if any(_OF_GENERATORS in shown(cause, str) for cause in _causes(error)):
        return _draws(type(model).__name__)
    return _reads_values(error, model)


_OF_GENERATORS = "argument of type: <class 'torch._C.Generator'>"
"""In what torch 2.9 says of a generator; torch of later versions hands it on as an input."""


def _draws(name: str) -> StructureError:
    return StructureError(
        f"the forward of {name} draws from a torch.Generator of its own, whose state a graph"
        " does not hold. Let it draw without generator=, and call torch.manual_seed before it"
    )


def require_followed(program: ExportedProgram, name: str) -> None:
    """Refuse what was traced where it cannot be taken apart.

    Raises:
        StructureError: It holds generators, or maps over an axis that it hides.
    """
    kinds = [getattr(s.arg, "class_fqn", "") for s in program.graph_signature.input_specs]
    if any(kind.endswith("Generator") for kind in kinds):
        raise _draws(name)
    if any("_vmap_increment_nesting" in str(node.target) for node in program.graph.nodes):
        raise StructureError(
            f"the forward of {name} uses torch.vmap, which hides the axis that it maps over. Write"
            " what it maps for a whole batch (with that axis in broadcasting, torch.einsum or a"
            " grouped convolution), stack the results of a loop, or pass the part of the network"
            " that ends before it"
        )


def _reads_values(error: BaseException, model: nn.Module) -> StructureError | None:
    """What to say where a forward failed because it reads values; None where it did not.

    Args:
        error: What the forward raised on tensors without numbers.
        model: Whose forward it is.
    """
    if not any(_reads(cause) for cause in _causes(error)):
        return None
    remedy = (
        "Take that line out of the forward: compute in __init__ what follows no input, and do what"
        " only checks or reports only `if not torch.compiler.is_compiling():`"
    )
    where, starting = where_raised(error), _starting(model)
    if starting:
        remedy = (
            f"{starting} says that its first call is still to come, which starts what later calls"
            " use (codes, by k-means): load trained weights, or call the model once on your data in"
            " train mode, before it is read"
        )
    return StructureError(
        f"the forward of {type(model).__name__} reads values of tensors{where}. weightscope"
        " runs it on tensors that have sizes but no values, so what is done with them cannot follow"
        f" the input. {remedy}."
    )


def where_read(error: BaseException) -> str:
    """Where a forward failed because it reads values, as " in FILE, line N: `CODE`".

    Empty where it did not; " in some line" where the traceback does not tell which.
    """
    if not any(_reads(cause) for cause in _causes(error)):
        return ""
    return where_raised(error) or " in some line"


def observer_in(model: nn.Module) -> str:
    """Name of a module that observes values for a quantization; empty where there is none."""
    return next(
        (
            name
            for name, module in model.named_modules()
            if any(kind.__name__ in _OBSERVERS for kind in type(module).__mro__)
        ),
        "",
    )


_OBSERVERS = ("ObserverBase", "FakeQuantizeBase")


def _starting(model: nn.Module) -> str:
    """Name of a buffer that says that a first call has not been yet; empty where there is none."""
    return next(
        (
            name
            for name, buffer in model.named_buffers()
            if name.rpartition(".")[2] in _STARTED
            and (buffer.numel(), buffer.is_meta) == (1, False)
            and not bool(buffer)
        ),
        "",
    )


_STARTED = ("inited", "initted", "initialized", "is_initialized")


def _reads(error: BaseException) -> bool:
    return isinstance(error, READS_VALUES) or any(said in shown(error, str) for said in _SAYINGS)


def _is_nested(error: BaseException) -> bool:
    frames = traceback.extract_tb(error.__traceback__)
    inside = any(Path(frame.filename).is_relative_to(_NESTED) for frame in frames)
    return inside or "nested_tensor" in shown(error, str)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def where_raised(error: BaseException) -> str:
    """The innermost line of the traceback that may be the user's own, as " in FILE, ..."."""
    for cause in _causes(error):
        for frame in reversed(traceback.extract_tb(cause.__traceback__)):
            if frame.filename.startswith("<") or is_of_a_library(frame.filename):
                continue
            return f" in {line_of(frame.filename, frame.lineno or 0)}"
    return ""


def line_of(filename: str, number: int) -> str:
    """A line of code, and where it is."""
    code = linecache.getline(filename, number).strip()
    return f"{Path(filename).name}, line {number}" + (f": `{code}`" if code else "")
