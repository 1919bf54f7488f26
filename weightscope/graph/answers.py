"""Whether a graph that was read answers as the model does, on numbers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from weightscope.adapters import pytree
from weightscope.adapters.dispatch import TorchDispatchMode
from weightscope.calls import called, fresh, undisturbed
from weightscope.graph.running import GraphRun
from weightscope.graph.structure import Structure

_ROUNDINGS = 100  # in a deep network few are as large; a wrong setting is orders above


class SameDraws(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Lets every operator that draws at random do so from one seed.

    What dropout takes out, in a network that goes on with it in evaluation mode, then follows from
    the shape alone, and not from how often was drawn before.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if torch.Tag.nondeterministic_seeded in func.tags:
            torch.manual_seed(0)
        return func(*args, **(kwargs or {}))


def differs(structure: Structure) -> str:
    """Which output of the graph is not what the model's own forward returns; empty if none is.

    Nothing is said of a forward that answers the same call differently.
    """
    model, inputs = structure.model, structure.inputs

    def answers() -> list[Tensor]:
        with undisturbed(model), SameDraws():
            return pytree.tree_tensors(pytree.opened(called(model, inputs.args, inputs.kwargs)))

    with torch.no_grad():
        expected, again = answers(), answers()
        if not all(map(_equal, expected, again)):
            return ""  # it draws from generators of its own, or remembers
        with undisturbed(model), SameDraws():
            found = pytree.tree_tensors(
                list(GraphRun(structure, {}).run(*fresh(*in_order(structure))))
            )
    for position, (a, b) in enumerate(zip(expected, found, strict=True)):
        if not _close(a, b):
            return f"tensor {position} of the outputs differs from what the original returns"
    return ""


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a, b, rtol=0, atol=0, equal_nan=True)


def _close(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape or not (a.is_floating_point() or a.is_complex()):
        return _equal(a, b)
    size = float(a.abs().nan_to_num(0, 0, 0).max()) if a.numel() else 0.0
    rounding = _ROUNDINGS * torch.finfo(a.dtype).eps
    return torch.allclose(a, b, rtol=rounding, atol=rounding * size, equal_nan=True)


def in_order(structure: Structure) -> list[Any]:
    """The arguments in the order of the graph's placeholders."""
    names = [node.target for node in structure.graph.nodes if node.op == "placeholder"]
    given = list(structure.inputs.args)
    rest = names[len(given) :]
    return [*given, *(structure.inputs.kwargs[str(name)] for name in rest)]
