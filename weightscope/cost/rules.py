"""What each operator costs: a dictionary that a user extends by adding an entry."""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping
from math import prod
from typing import Any, TypeAlias

import torch
from torch import nn

from weightscope.adapters import pytree
from weightscope.adapters.schemas import is_mutable, returns_views_only, schema_name
from weightscope.graph.operators import OPERATORS, Macs, facts

Rule: TypeAlias = Callable[[tuple[Any, ...], Mapping[str, Any], Any], int]


def _convolution(args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any) -> int:
    """Positions x kernel weights that each touches.

    A convolution applies its whole kernel at every output position; a transposed one at every
    input position. Grouping is in the weight's shape already.
    """
    given, weight, transposed = args[0], args[1], args[6]
    places = given if transposed else out
    return int(places.shape[0] * prod(places.shape[2:]) * weight.numel())


def _mm(args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any) -> int:
    return int(out.numel() * args[0].shape[-1])


def _addmm(args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any) -> int:
    return int(out.numel() * args[1].shape[-1])


def _attention(args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any) -> int:
    """Scores (B H Nq Nk D) and their product with the values (B H Nq Nk Dv); softmax is free."""
    query, key, value = args[:3]
    pairs = prod(query.shape[:-1]) * key.shape[-2]
    return int(pairs * (query.shape[-1] + value.shape[-1]))


def _multi_head_attention(args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any) -> int:
    query, key, value, width = args[:4]
    batch, length = query.shape[0], query.shape[1]
    projections = batch * width * width * (2 * length + key.shape[1] + value.shape[1])
    return int(projections + 2 * batch * length * key.shape[1] * width)


def _encoder_layer(args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any) -> int:
    source, width = args[0], args[1]
    batch, length = source.shape[0], source.shape[1]
    weights = sum(t.numel() for t in args if isinstance(t, nn.Parameter) and t.dim() == 2)
    return int(batch * length * weights + 2 * batch * length * length * width)


def _recurrent(args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any) -> int:
    """Every weight matrix once per step and sample."""
    steps = args[0].shape[0] * args[0].shape[1]
    weights = pytree.tree_leaves(args[1:])
    matrices = [t for t in weights if isinstance(t, nn.Parameter) and t.dim() == 2]
    return int(steps * sum(t.numel() for t in matrices))


def _first(args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any) -> int:
    return int(args[0].numel())


def _second(args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any) -> int:
    return int(args[1].numel())


FORMULAS: Mapping[Macs, Rule] = {
    "convolution": _convolution,
    "matrix product": _mm,
    "matrix product of the second": _addmm,
    "first elements": _first,
    "second elements": _second,
    "attention": _attention,
    "multi-head attention": _multi_head_attention,
    "encoder layer": _encoder_layer,
    "recurrent": _recurrent,
}


def _packet(name: str) -> Any:
    """An operator by its name, with all its overloads; None where this torch lacks it."""
    namespace, _, plain = name.partition("::")
    return getattr(getattr(torch.ops, namespace), plain, None)


MAC_RULES: Mapping[Any, Rule] = types.MappingProxyType(
    {
        found: FORMULAS[row.macs]
        for name, row in OPERATORS.items()
        if row.macs is not None and row.macs in FORMULAS and (found := _packet(name)) is not None
    }
)
"""Multiply-accumulates by operator: ``rule(args, kwargs, out) -> int`` sees the operator's
arguments and result (tensors without numbers) as the dispatcher does. Keys are operators
(``torch.ops.aten.convolution``) or their overloads (``torch.ops.aten.add.Tensor``)."""


def is_free(operator: Any) -> bool:
    """Whether an operator without a rule costs nothing by convention.

    Free is what the table of operators calls so, what torch tags as pointwise, and what only makes
    a view.
    """
    name = schema_name(operator)
    if name.partition("::")[0] in ("prim", "prims"):
        return True
    if not name.startswith("aten::"):
        return False
    if returns_views_only(operator):
        return True
    return facts(name.removesuffix("_") if is_mutable(operator) else name).macs == "free"
