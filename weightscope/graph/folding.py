"""Places that a forward looks up among its own constants, as constants of the graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx

from weightscope.graph.nodes import has_effect, operator_of, tensor_of

_PICKS = ("aten::nonzero", "aten::nonzero_numpy", "aten::argwhere", "aten::masked_select")
"""Operators whose results are as large as the values of what they are given say."""


def fold_picked(graph: fx.Graph, constants: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Write what is made of a look-up among constants into a graph as a constant of its own.

    ``scales[(steps == step).nonzero()]`` is the same for every input, and tensors without numbers,
    on which a cut network is counted and exported, do not say how large it is.

    Args:
        graph: What the forward does; changed.
        constants: Tensors that it reads by name and the model does not own.

    Returns:
        The constants that are new, by name.
    """
    fixed = {n: str(n.target) for n in graph.nodes if n.op == "get_attr" and n.target in constants}
    made: list[fx.Node] = []
    picked: set[fx.Node] = set()
    for node in graph.nodes:
        given = node.all_input_nodes
        if given and _repeats(node) and all(n in fixed or n in made for n in given):
            made.append(node)
            if _picks(node) or any(n in picked for n in given):
                picked.add(node)
    if not picked:
        return {}
    values: dict[fx.Node, Any] = {node: constants[name] for node, name in fixed.items()}
    found: dict[str, Tensor] = {}
    for node in made:
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), values.__getitem__)
        with torch.no_grad():
            values[node] = node.target(*args, **kwargs)  # type: ignore[operator]
        users = [user for user in node.users if user not in picked] if node in picked else []
        if users and isinstance(values[node], Tensor):
            name = f"_constant_{len(constants) + len(found)}"
            with graph.inserting_after(node):
                new = graph.get_attr(name)
            new.meta["val"], found[name] = tensor_of(node), values[node]
            for user in users:
                user.replace_input_with(node, new)
    graph.eliminate_dead_code(is_impure_node=has_effect)
    return found


def _repeats(node: fx.Node) -> bool:
    """Whether an operation makes the same of the same."""
    random = torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())
    writes = has_effect(node) and operator_of(node) != "aten::detach"
    return node.op == "call_function" and not writes and not random


def _picks(node: fx.Node) -> bool:
    if operator_of(node) == "aten::where":
        return len(node.args) == 1
    return operator_of(node) in _PICKS
