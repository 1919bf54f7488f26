"""Features whose batch lies second, as attention takes them by default, turned to cross a cut."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import fx

from weightscope.adapters.symbols import is_symbolic, key
from weightscope.graph.coarsen import Coarse
from weightscope.graph.nodes import operator_of, tensor_of
from weightscope.graph.operators import REARRANGES
from weightscope.graph.pieces import JOINS
from weightscope.graph.structure import Place

CROSSES = "crosses"
"""Note on what was turned, so that it can leave or enter a cut."""
BATCH_SECOND = "batch second"
"""Note on what was not, whose batch is no size of a signal."""
_MOVED = (*REARRANGES, *JOINS, "aten::stack", "aten::slice")  # a cut may keep these above
_TURNS: Any = torch.ops.aten.transpose.int


def with_batch_first(coarse: Coarse) -> Coarse:
    """Turn each (N, B, C) that other levels use to (B, N, C) and back, so that a cut lies between.

    Both turns are views and change nothing.

    Args:
        coarse: The coarse graph; turns are written into it.

    Returns:
        The same with the places of what was turned.
    """
    counted = [n for n in coarse.graph.nodes if n.meta.get("counts")]
    batch = next((v.shape[0] for n in counted if (v := tensor_of(n)) is not None), 1)
    if not is_symbolic(batch):
        return coarse
    places, reached = dict(coarse.places), set(coarse.reached)
    for node in list(coarse.graph.nodes):
        users = _elsewhere(node, places) if _is_batch_second(node, key(batch)) else {}
        if not users or node.name not in reached:
            continue
        node.meta[BATCH_SECOND] = True
        turned = _turned(node, node)
        for those in users.values():
            back = _turned(turned, node)
            back.meta[BATCH_SECOND] = True
            for user in those:
                user.replace_input_with(node, back)
            places[back.name] = places[node.name]
            reached.add(back.name)
        turned.meta[CROSSES] = True
        places[turned.name] = places[node.name]
        reached.add(turned.name)
    return replace(coarse, places=places, reached=frozenset(reached))


def _is_batch_second(node: fx.Node, batch: str) -> bool:
    value = tensor_of(node)
    if value is None or value.dim() != 3 or node.op == "placeholder":
        return False
    return [key(size) == batch for size in value.shape] == [False, True, False]


def _elsewhere(node: fx.Node, places: dict[str, Place]) -> dict[int, list[fx.Node]]:
    """Who uses a node, by level; empty where nobody does at another level, or above a cut."""
    own = places[node.name].level if node.name in places else 0
    users: dict[int, list[fx.Node]] = {}
    for user in node.users:
        level = places[user.name].level if user.name in places else own
        users.setdefault(level, []).append(user)
    crosses = users.keys() - {own} or any(operator_of(u) in _MOVED for u in users.get(own, ()))
    return users if crosses else {}


def _turned(node: fx.Node, fine: fx.Node) -> fx.Node:
    """A node that swaps the first two axes of another, right behind it."""
    value = tensor_of(node)
    assert value is not None
    with node.graph.inserting_after(node):
        turned = node.graph.call_function(_TURNS, (node, 0, 1))
    turned.meta.update(val=value.transpose(0, 1), fine=fine.meta["fine"])
    if "region" in fine.meta:
        turned.meta["region"] = fine.meta["region"]
    return turned
