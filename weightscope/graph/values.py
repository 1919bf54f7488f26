"""Forwards that read the values of tensors, which a trace without numbers does not have."""

from __future__ import annotations

import linecache
import traceback
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from weightscope.adapters.dispatch import READS_VALUES
from weightscope.errors import StructureError, keyword, shown

_NOT_THE_USERS = tuple(str(Path(f).parent) for f in (torch.__file__, Path(__file__).parent))
# what torch says where Python or numpy asks a tensor without numbers for them
_SAYINGS = (
    ".numpy() is not supported",
    "trying to get value out of a tracing tensor",
    "data-dependent",  # what the tracer says; its class lies beside sympy, which is slow to import
    "Cannot access data pointer",
    "is not supported for tensor subclasses",
)


def reads_values(error: BaseException, model: nn.Module) -> StructureError | None:
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
    part, where = _largest_part(model), _where(error)
    if part and "istft(" in where:
        remedy = (
            "torch.istft checks the sum of windows; analyse the part that works on spectrograms,"
            f" such as analyze(model.{part}, {keyword('example_inputs', 'spectrogram')})"
        )
    return StructureError(
        f"the forward of {type(model).__name__} reads values of tensors{where}. weightscope"
        " runs it on tensors that have sizes but no values, so what is done with them cannot follow"
        f" the input. {remedy}."
    )


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


def _largest_part(model: nn.Module) -> str:
    """Name of the child with the most parameters; empty where none has any."""
    sizes = {
        name: sum(parameter.numel() for parameter in child.parameters())
        for name, child in model.named_children()
    }
    largest = max(sizes, key=lambda name: sizes[name], default="")
    return largest if largest and sizes[largest] else ""


def _reads(error: BaseException) -> bool:
    return isinstance(error, READS_VALUES) or any(said in shown(error, str) for said in _SAYINGS)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _where(error: BaseException) -> str:
    """The innermost line of the traceback that is neither torch's nor ours."""
    for cause in _causes(error):
        for frame in reversed(traceback.extract_tb(cause.__traceback__)):
            if frame.filename.startswith(("<", *_NOT_THE_USERS)):
                continue
            return f" in {line_of(frame.filename, frame.lineno or 0)}"
    return ""


def line_of(filename: str, number: int) -> str:
    """A line of code, and where it is."""
    code = linecache.getline(filename, number).strip()
    return f"{Path(filename).name}, line {number}" + (f": `{code}`" if code else "")
