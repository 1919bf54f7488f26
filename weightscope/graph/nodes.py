"""What one node of a graph is: its operator, its arguments, the tensor that it makes."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import fx

from weightscope.adapters import schemas
from weightscope.adapters.boundary import BOUNDARY
from weightscope.adapters.symbols import hint
from weightscope.graph.operators import facts


def operator_of(node: fx.Node) -> str:
    """Namespace and name of a node's operator, in place or not: ``"aten::add"``; else empty."""
    if node.op != "call_function":
        return ""
    name = schemas.schema_name(node.target)
    return name.removesuffix("_") if schemas.is_mutable(node.target) else name


def arguments(node: fx.Node) -> dict[str, Any]:
    """Arguments of a node's operator by the names of its schema, defaults included."""
    named = dict(schemas.parameters(node.target))
    named.update(zip(named, node.args, strict=False))
    named.update(node.kwargs)
    return named


def argument(node: fx.Node, name: str) -> Any:
    """One argument of a node's operator by its name in the schema, or its default."""
    return arguments(node).get(name)


def tensor_of(node: fx.Node) -> torch.Tensor | None:
    """The (fake) tensor that a node makes, if it makes one."""
    value = node.meta.get("val")
    return value if isinstance(value, torch.Tensor) else None


def first_tensor(node: fx.Node) -> torch.Tensor | None:
    """The (fake) tensor that a node makes, or the first of several."""
    value = node.meta.get("val")
    while isinstance(value, tuple | list) and value:
        value = value[0]
    return value if isinstance(value, torch.Tensor) else None


def numbers_in(node: fx.Node) -> int:
    """How many numbers the tensor that a node makes holds at the example's size; 0 without one."""
    value = tensor_of(node)
    return 0 if value is None else math.prod(map(hint, value.shape))


def is_size(node: fx.Node) -> bool:
    """Whether a node makes a size (or a truth about sizes), not a tensor."""
    return isinstance(node.meta.get("val"), torch.SymInt | torch.SymFloat | torch.SymBool)


def is_check(node: fx.Node) -> bool:
    """Whether a node only makes sure of something about sizes or values."""
    return "assert" in str(node.target) or "sym_constrain" in str(node.target)


def root(node: fx.Node) -> fx.Node:
    """The node behind a chain of boundaries."""
    while node.target is BOUNDARY:
        node = node.args[0]  # type: ignore[assignment]
    return node


def has_effect(node: fx.Node) -> bool:
    """Whether a node must stay though nothing reads its result."""
    return node.op in ("placeholder", "output") or schemas.is_mutable(node.target)


def in_words(node: fx.Node) -> str:
    """A result of a coarse graph by names that a user knows: of the modules that it is made by."""
    if node.op in ("call_module", "placeholder"):
        return str(node.target)
    found: dict[str, None] = {}
    waiting, seen = [*node.all_input_nodes], {node}
    while waiting and len(found) < _SHOWN:
        given = waiting.pop(0)
        if given.op in ("call_module", "placeholder"):
            found[str(given.target)] = None
        elif given not in seen:
            waiting += given.all_input_nodes
        seen.add(given)
    return f"{node.name} (from {' and '.join(found)})" if found else node.name


_SHOWN = 2  # of the modules nearest to a result


def owner_of(node: fx.Node) -> str:
    """Qualified name of the module in whose forward a node was traced; empty for the model's."""
    stack = node.meta.get("nn_module_stack") or {}
    return str(next(reversed(stack.values()))[0]) if stack else ""


def raises(node: fx.Node) -> bool:
    """Whether an operation comes back up; a transposed convolution does where it strides."""
    row = facts(operator_of(node))
    if not row.raises or row.view != "convolution":
        return row.raises
    strides = argument(node, "stride")
    return any(s != 1 for s in (strides if isinstance(strides, list | tuple) else (strides,)))
