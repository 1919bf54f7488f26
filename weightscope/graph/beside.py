"""Images that lie in one batch above a cut and are put side by side below it: pairs, frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import fx

from weightscope.adapters.symbols import Probe, free_symbols, hint, is_symbolic
from weightscope.graph.nodes import argument, operator_of, tensor_of
from weightscope.graph.operators import RESHAPES
from weightscope.graph.pieces import SPLITS
from weightscope.graph.structure import Site

_RESHAPES = (*RESHAPES, "aten::unflatten")
OTHER_IMAGES = "another number of images in a batch"
"""In every refusal of what many images become below, and nothing says how many."""
_AT = (60, 420)  # numbers of images at which batches are compared


def side_by_side(
    nodes: Sequence[fx.Node],
    fine: Sequence[fx.Node],
    entries: Sequence[Site],
    exits: Sequence[Site],
) -> tuple[Site, ...] | str:
    """Say of what enters a cut how many of its images become one, and in which order they lie.

    Args:
        nodes: The coarse graph.
        fine: The nodes that it was made from.
        entries: What enters.
        exits: What leaves.

    Returns:
        The entries, or why the cut cannot be made.
    """
    crossing = {site.node for site in (*entries, *exits)}
    batches = {n.name: n.meta["val"].shape[0] for n in nodes if n.name in crossing}
    goal = batches[exits[0].node]
    if any(times(batches[site.node], goal) != 1 for site in exits):
        return (
            f"{exits[0].node} and others leave what lies below with different numbers of images in"
            " a batch; put pairs or frames side by side at one place, before or after all that"
            " leaves"
        )
    found: list[Site] = []
    for site in entries:
        images = times(batches[site.node], goal)
        if images == 1:
            found.append(site)
            continue
        start = next(n for n in nodes if n.name == site.node).meta["fine"]
        in_turn = _in_turn(next(n for n in fine if n.name == start), images, goal)
        if images < 2 or in_turn is None:
            return (
                f"{site.node} enters what lies below with {OTHER_IMAGES} than"
                f" {exits[0].node} leaves it with, and how they become one another cannot be read;"
                " take a batch of pairs apart with chunk(2), or clips with view(batch, frames, ...)"
            )
        found.append(replace(site, images=images, in_turn=in_turn))
    return tuple(found)


def times(images: Any, goal: Any) -> int:
    """How many times as many images one batch holds; 0 where it is no whole number."""
    symbols = free_symbols([images, goal])
    probes = [Probe(dict.fromkeys(symbols, number)) for number in _AT]
    sizes = [(probe.size(images), probe.size(goal)) for probe in probes]
    ratios = {a // b if b and a % b == 0 else 0 for a, b in sizes}
    return ratios.pop() if len(ratios) == 1 else 0


def _in_turn(start: fx.Node, images: int, goal: Any) -> bool | None:
    """Whether images that become one follow each other; None where nothing shows it."""
    shown: set[bool] = set()
    seen = {start}
    waiting = [start]
    while waiting:
        node = waiting.pop()
        for user in node.users:
            if user in seen:
                continue
            seen.add(user)
            order = _order(user, images, goal)
            if order is not None:
                shown.add(order)
                continue
            value = tensor_of(user)
            if value is not None and value.dim() and times(value.shape[0], goal) == images:
                waiting.append(user)
    return shown.pop() if len(shown) == 1 else None


def _order(node: fx.Node, images: int, goal: Any) -> bool | None:
    """What one operation shows: it takes blocks of a batch, or every second image, or folds it."""
    name = operator_of(node)
    if name in (*SPLITS, "aten::slice", "aten::narrow") and argument(node, "dim") == 0:
        step = argument(node, "step")
        return False if step in (None, 1) else (True if step == images else None)
    value = tensor_of(node)
    if name not in _RESHAPES or value is None or value.dim() < 2:
        return None
    first, second = value.shape[:2]
    if not is_symbolic(first) and hint(first) == images and times(second, goal) == 1:
        return False
    return True if times(first, goal) == 1 else None
