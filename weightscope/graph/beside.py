"""Images of one batch that become one below a cut (pairs, frames), or are laid in it again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, fx

from weightscope.adapters.symbols import Probe, free_symbols, hint, is_symbolic
from weightscope.graph.nodes import argument, operator_of, tensor_of
from weightscope.graph.operators import RESHAPES
from weightscope.graph.pieces import SPLITS, lays_copies
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
) -> tuple[tuple[Site, ...], tuple[Site, ...]] | str:
    """Say how many images of what crosses a cut are one below it, and in which order they lie.

    Pairs and frames that enter may become one, and what leaves may be laid into the batch, for
    each frame or each query. Below, there are as many images as where the fewest cross.

    Args:
        nodes: The coarse graph.
        fine: The nodes that it was made from.
        entries: What enters.
        exits: What leaves.

    Returns:
        The entries and the exits, or why the cut cannot be made.
    """
    crossing = {site.node for site in (*entries, *exits)}
    batches = {n.name: n.meta["val"].shape[0] for n in nodes if n.name in crossing}
    named = {node.name: node for node in fine}
    ends = {n.name: named[n.meta["fine"]] for n in nodes if n.name in crossing}
    leaving = _fewest([batches[site.node] for site in exits])
    if leaving is None:
        return _mixed(exits)
    goal = _fewest([leaving, *(batches[site.node] for site in entries)])
    if goal is None:
        return _other_images(next(s for s in entries if not times(batches[s.node], leaving)), exits)
    found: list[Site] = []
    for site in entries:
        images = times(batches[site.node], goal)
        order = _in_turn(ends[site.node], images, goal) if images > 1 else False
        if order is None:
            return _other_images(site, exits)
        found.append(replace(site, images=images, in_turn=order))
    made = _made(exits, ends, batches, goal)
    if made is None:
        return _mixed(exits) if goal is leaving else _other_images(entries[0], exits)
    return tuple(found), made


def _other_images(site: Site, exits: Sequence[Site]) -> str:
    return (
        f"{site.node} enters what lies below with {OTHER_IMAGES} than {exits[0].node} leaves it"
        " with, and how they become one another cannot be read; take a batch of pairs apart with"
        " chunk(2), or clips with view(batch, frames, ...)"
    )


def _mixed(exits: Sequence[Site]) -> str:
    return (
        f"{exits[0].node} and others leave what lies below with different numbers of images in a"
        " batch; put pairs or frames side by side at one place, before or after all that leaves"
    )


def _fewest(batches: Sequence[Any]) -> Any:
    """The batch of which each holds a whole multiple; None where there is none."""
    return next((one for one in batches if all(times(batch, one) for batch in batches)), None)


def _made(
    exits: Sequence[Site], ends: Mapping[str, fx.Node], batches: Mapping[str, Any], goal: Any
) -> tuple[Site, ...] | None:
    """What leaves, with how many images of one lie in its batch; None where their order is unknown.

    What laid them there shows the order, as of queries, or else what takes them apart above.
    """
    many = {site.node: times(batches[site.node], goal) for site in exits}
    orders: dict[str, bool | None] = {}
    for images in {*many.values()} - {1}:
        names = [name for name, number in many.items() if number == images]
        laid = _laid([ends[name] for name in names], images, goal)
        apart = [_in_turn(ends[name], images, goal) for name in names] if laid is None else []
        orders |= dict(zip(names, apart, strict=True)) if apart else dict.fromkeys(names, laid)
    if None in orders.values():
        return None
    return tuple(replace(s, images=many[s.node], in_turn=bool(orders.get(s.node))) for s in exits)


def _laid(ends: Sequence[fx.Node], images: int, base: Any) -> bool | None:
    """Whether what is made of one image follows each other in the batch; None: nothing shows it."""
    shown: set[bool | None] = set()
    seen, waiting = {*ends}, [*ends]
    while waiting:
        node = waiting.pop()
        value = tensor_of(node)
        made = times(value.shape[0], base) == images if value is not None and value.dim() else False
        for given in node.all_input_nodes if made else ():
            before = tensor_of(given)
            if before is None or not before.dim() or given in seen:
                continue
            seen.add(given)
            if times(before.shape[0], base) == images:
                waiting.append(given)
            else:
                shown.add(_spread(node, before, base))
    shown.discard(None)
    return shown.pop() if len(shown) == 1 else None


def _spread(node: fx.Node, given: Tensor, base: Any) -> bool | None:
    """What an operation shows that lays images into a batch: each several times, or all of them."""
    if not lays_copies(node):
        return None
    name = operator_of(node)
    if name in (*_RESHAPES, "aten::flatten"):
        return times(given.shape[0], base) == 1
    return name == "aten::repeat_interleave"


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
