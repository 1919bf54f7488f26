"""Lengths of arguments that are no images (of tokens, points, classes), held where need be."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from weightscope.adapters import pytree
from weightscope.adapters.symbols import is_symbolic
from weightscope.errors import keyword
from weightscope.graph.answers import holds_at
from weightscope.graph.fixed import fixed_in, noted_tensors
from weightscope.graph.structure import ExampleInputs, Structure
from weightscope.graph.trial import Trial


def with_lengths(structure: Structure, trial: Trial, *, copies: bool = False) -> Structure:
    """Note which lengths a variant refuses: the model takes others, and the graph answers wrongly.

    A trace holds the second axis of what is no image, and others that it turns into numbers.

    Args:
        structure: The network; its placeholders are noted on.
        trial: Runs the model.
        copies: Whether the forward leaves something in weights.

    Returns:
        The same, with notes on these lengths.
    """
    inputs = structure.inputs
    given = fixed_in(structure.graph).by_place(inputs.args, inputs.kwargs)
    leaves = pytree.tree_leaves((inputs.args, dict(inputs.kwargs)))
    notes: list[str] = []
    for place, meta in noted_tensors(structure.graph).items():
        at = next((i for i, leaf in enumerate(leaves) if leaf is given.get(place)), None)
        if at is None or meta.get("space") or not isinstance(meta.get("val"), Tensor):
            continue
        for axis in _held(meta["val"]):
            size = int(meta["val"].shape[axis])
            if (longer := _taken(trial, inputs, at, axis, size)) is None:
                continue
            if not holds_at(structure, longer, copies=copies):
                held = meta.setdefault("lengths", {})
                held[axis] = size
                notes.append(
                    f"read with {place} {held[axis]} long along axis {axis} only: the forward"
                    " computes with that length. A variant refuses others; pass"
                    f" {keyword('example_inputs')} as long as you use"
                )
    return replace(structure, notes=(*structure.notes, *notes))


def _held(value: Tensor) -> Iterator[int]:
    dense = value.layout == torch.strided
    sizes = enumerate(value.shape if dense else ())
    return (axis for axis, size in sizes if not is_symbolic(size) and size)


def _taken(
    trial: Trial, inputs: ExampleInputs, at: int, axis: int, size: int
) -> Callable[[ExampleInputs], ExampleInputs] | None:
    """How the forward takes one of its tensors longer: by one, or twice as long; None if neither.

    Depths that are halved and doubled again are even in number.
    """
    for more in sorted({1, size}):
        longer = partial(_longer, at=at, axis=axis, more=more)
        call = longer(inputs)
        if trial.error(call.args, call.kwargs) is None:
            return longer
    return None


def _longer(inputs: ExampleInputs, at: int, axis: int, more: int) -> ExampleInputs:
    """A call with the first entries of one of its tensors once more along an axis."""
    leaves, spec = pytree.tree_flatten((inputs.args, dict(inputs.kwargs)))
    value: Any = leaves[at]
    leaves[at] = torch.cat([value, value.narrow(axis, 0, more)], axis)
    args, kwargs = pytree.tree_unflatten(leaves, spec)
    return replace(inputs, args=args, kwargs=kwargs)
