"""Features laid out otherwise to cross a cut: a batch that lies second, slices that lie in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx

from weightscope.adapters.symbols import is_symbolic, key
from weightscope.graph.coarsen import Coarse
from weightscope.graph.nodes import is_size, operator_of, tensor_of
from weightscope.graph.operators import REARRANGES, RESHAPES
from weightscope.graph.pieces import JOINS
from weightscope.graph.structure import Place

CROSSES = "crosses"
"""Note on what was turned, so that it can leave or enter a cut."""
BATCH_SECOND = "batch second"
"""Note on what was not, whose second axis is the batch or no channels: it is no map or signal."""
_MOVED = (*REARRANGES, *JOINS, "aten::stack", "aten::slice")  # a cut may keep these above
_OPERATORS = torch.ops.aten

Turn = Callable[[fx.Node], fx.Node]
"""Lays a node out otherwise, right behind it."""


def with_batch_first(coarse: Coarse) -> Coarse:
    """Turn each (N, B, C) that other levels use to (B, N, C) and back, so that a cut lies between.

    Both turns are views and change nothing.

    Args:
        coarse: The coarse graph; turns are written into it.

    Returns:
        The same with the places of what was turned.
    """
    batch = _batch(coarse)
    if not is_symbolic(batch):
        return coarse

    for node in coarse.graph.nodes:
        if node.op != "placeholder" and _lies_behind(node, key(batch)):
            node.meta[BATCH_SECOND] = True

    def turns(node: fx.Node) -> tuple[Turn, Turn] | None:
        if not _is_batch_second(node, key(batch)):
            return None
        swap = partial(_moved, order=(1, 0, 2))
        return partial(swap, crosses=True), partial(swap, crosses=False)

    return _turned(coarse, turns)


def with_volumes(coarse: Coarse, fine: Sequence[fx.Node]) -> Coarse:
    """Stack slices (B D, C, H, W) that other levels use to volumes (B, C, D, H, W), and back.

    A cut lies between then where layers work on slices on one side of it alone.

    Args:
        coarse: The coarse graph of a network of volumes; what stacks is written into it.
        fine: The nodes that it was made from: slices may be laid into the batch inside a module.

    Returns:
        The same with the places of what was stacked.
    """
    batch = _batch(coarse)
    ends = {node.name: node for node in fine}

    def turns(node: fx.Node) -> tuple[Turn, Turn] | None:
        first = _slices_and_batch(ends[node.meta["fine"]], key(batch))
        if not first:
            return None
        by_volume, images = key(first[0]) == key(batch), _as_argument(batch, node)
        stacks = partial(
            _stacked,
            first=first,
            sizes=[images, -1] if by_volume else [-1, images],
            order=(0, 2, 1, 3, 4) if by_volume else (1, 2, 0, 3, 4),
        )
        return stacks, partial(_unstacked, order=(0, 2, 1, 3, 4) if by_volume else (2, 0, 1, 3, 4))

    return _turned(coarse, turns)


def _batch(coarse: Coarse) -> Any:
    """How many images the network is given, a number or a symbol."""
    counted = [n for n in coarse.graph.nodes if n.meta.get("counts")]
    return next((v.shape[0] for n in counted if (v := tensor_of(n)) is not None), 1)


def _turned(coarse: Coarse, turns: Callable[[fx.Node], tuple[Turn, Turn] | None]) -> Coarse:
    """Lay out otherwise what other levels use, and back as it was.

    Args:
        coarse: The coarse graph, which is written into.
        turns: How a node is laid out otherwise, and back; None of what stays.
    """
    places, reached = dict(coarse.places), set(coarse.reached)
    for node in list(coarse.graph.nodes):
        if node.name not in reached or node.op == "placeholder":
            continue
        users = _elsewhere(node, places)
        way = turns(node) if users else None
        if way is None:
            continue
        turned = way[0](node)
        for those in users.values():
            back = way[1](turned)
            for user in those:
                user.replace_input_with(node, back)
    for node in coarse.graph.nodes:
        if _NEW in node.meta:
            places[node.name] = places[node.meta.pop(_NEW)]
            reached.add(node.name)
    return replace(coarse, places=places, reached=frozenset(reached))


_NEW = "laid out otherwise"


def _lies_behind(node: fx.Node, batch: str) -> bool:
    """Whether the batch is an axis of a result, and not the first."""
    value = tensor_of(node)
    sizes = [] if value is None else [*map(key, value.shape)]
    return len(sizes) > 2 and sizes.count(batch) == 1 and sizes[0] != batch


def _is_batch_second(node: fx.Node, batch: str) -> bool:
    value = tensor_of(node)
    if value is None or value.dim() != 3:
        return False
    return [key(size) == batch for size in value.shape] == [False, True, False]


def _slices_and_batch(node: fx.Node, batch: str) -> tuple[Any, ...]:
    """The two axes, in their order, that were laid into the batch that a node has: B and D.

    Nothing where none were, or nothing shows which.
    """
    own, seen, waiting = tensor_of(node), {node}, [node]
    while own is not None and own.dim() == _OF_SLICES and waiting:
        for given in (current := waiting.pop()).all_input_nodes:
            value, made = tensor_of(given), tensor_of(current)
            if value is None or made is None or given in seen:
                continue
            seen.add(given)
            if _lays_slices(current) and value.dim() == _OF_SLICES + 1:
                same = [*map(key, value.shape[2:])] == [*map(key, made.shape[1:])]
                first = tuple(value.shape[:2])
                return first if same and [*map(key, first)].count(batch) == 1 else ()
            if value.dim() and key(value.shape[0]) == key(own.shape[0]):
                waiting.append(given)
    return ()


_OF_SLICES = 4


def _lays_slices(node: fx.Node) -> bool:
    return operator_of(node) in (*RESHAPES, "aten::flatten")


def _as_argument(images: Any, node: fx.Node) -> Any:
    """The number of images as an argument of what follows a node: a number, or what computes it."""
    if not is_symbolic(images):
        return int(images)
    inputs = node.graph.find_nodes(op="placeholder")
    for given in node.graph.nodes:
        if given is node:
            break
        if is_size(given) and key(given.meta["val"]) == key(images):
            return given
    counted = next(n for n in inputs if n.meta.get("counts"))
    with node.graph.inserting_after(inputs[-1]):
        made = node.graph.call_function(_OPERATORS.sym_size.int, (counted, 0))
    made.meta["val"] = images
    return made


def _elsewhere(node: fx.Node, places: dict[str, Place]) -> dict[int, list[fx.Node]]:
    """Who uses a node, by level; empty where nobody does at another level, or above a cut."""
    own = places[node.name].level if node.name in places else 0
    users: dict[int, list[fx.Node]] = {}
    for user in node.users:
        level = places[user.name].level if user.name in places else own
        users.setdefault(level, []).append(user)
    crosses = users.keys() - {own} or any(operator_of(u) in _MOVED for u in users.get(own, ()))
    return users if crosses else {}


def _moved(node: fx.Node, *, order: Sequence[int], crosses: bool) -> fx.Node:
    """A node that gives another's axes another order."""
    value = tensor_of(node)
    assert value is not None
    moved = _new(node, _OPERATORS.permute.default, (list(order),), value.permute(*order))
    moved.meta[CROSSES if crosses else BATCH_SECOND] = True
    return moved


def _stacked(
    node: fx.Node, *, first: Sequence[Any], sizes: Sequence[Any], order: Sequence[int]
) -> fx.Node:
    """A node that stacks slices to volumes."""
    value = tensor_of(node)
    assert value is not None
    made = value.reshape(*first, *value.shape[1:])
    apart = _new(node, _OPERATORS.unflatten.int, (0, [*sizes]), made)
    apart.meta[BATCH_SECOND] = True
    return _moved(apart, order=order, crosses=True)


def _unstacked(node: fx.Node, *, order: Sequence[int]) -> fx.Node:
    """A node that lays the slices of volumes into the batch."""
    slices = _moved(node, order=order, crosses=False)
    made = slices.meta["val"].flatten(0, 1)
    return _new(slices, _OPERATORS.flatten.using_ints, (0, 1), made)


def _new(node: fx.Node, operator: Any, more: tuple[Any, ...], made: Tensor) -> fx.Node:
    """A node right behind another, of which it makes something at the same place."""
    with node.graph.inserting_after(node):
        new = node.graph.call_function(operator, (node, *more))
    new.meta |= {"val": made, "fine": node.meta["fine"], _NEW: node.meta.get(_NEW, node.name)}
    new.meta |= {"region": node.meta["region"]} if "region" in node.meta else {}
    return new
