"""Where a network can be cut: what is deeper than a level, what feeds it and what it feeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import fx, nn

from weightscope.adapters.symbols import hint, is_symbolic
from weightscope.graph.coarsen import Coarse
from weightscope.graph.structure import Cut, Layout, Place, Refusal, Site


def read_cuts(
    coarse: Coarse, model: nn.Module, sizes: Sequence[tuple[int, ...]], dimensions: int
) -> tuple[tuple[Cut, ...], tuple[Refusal, ...]]:
    """Find the legal cuts at every depth, and the reason where there is none.

    Args:
        coarse: The coarse graph.
        model: Whose modules it calls.
        sizes: Spatial size at each level, at the example input.
        dimensions: Number of spatial dimensions.
    """
    cuts: list[Cut] = []
    refusals: list[Refusal] = []
    for keep in range(1, len(sizes)):
        found = _cut(coarse, model, keep, dimensions, sizes)
        if isinstance(found, Cut):
            cuts.append(found)
        else:
            refusals.append(Refusal(keep, found))
    return tuple(cuts), tuple(refusals)


def _cut(
    coarse: Coarse,
    model: nn.Module,
    keep: int,
    dimensions: int,
    sizes: Sequence[tuple[int, ...]],
) -> Cut | str:
    """One cut, or why it cannot be."""
    nodes = list(coarse.graph.nodes)
    output = nodes[-1]
    removed = _removed(coarse, keep)
    if not removed:
        return "nothing lies deeper"
    below: set[fx.Node] = set()
    for node in nodes:
        if any(n in removed or n in below for n in node.all_input_nodes):
            below.add(node)
    makes = {n for n in removed if n.name in coarse.places}
    exits = [
        n
        for n in nodes
        if n in makes and any(u not in removed and u is not output for u in n.users)
    ]
    kept_outputs = [n for n in output.all_input_nodes if n not in removed]
    if not exits or not any(n in below for n in kept_outputs):
        return "no path leads back up: every output is computed below this level"
    kept_below = [n for n in nodes if n in below and n not in removed and n is not output]
    if not any(_has_weights(n, model) for n in kept_below):
        return "the network's head lies below this level; nothing with weights remains after it"
    feeding = [
        n
        for n in nodes
        if n not in removed
        and n not in below
        and n.name in coarse.reached
        and n.name in coarse.places
        and any(u in removed for u in n.users)
    ]
    entries = [(n, s) for n in feeding if (s := site(n, coarse.places, dimensions, sizes))]
    if not entries:
        return "no tensor with a readable layout enters what lies below this level"
    deepest = max(s.level for _, s in entries)
    exit_sites = []
    for node in exits:
        read = site(node, coarse.places, dimensions, sizes)
        if read is None:
            shape = tuple(str(s) for s in node.meta["val"].shape)
            return f"{node.name} leaves what lies below in an unreadable layout, {shape}"
        exit_sites.append(read)
    return Cut(
        keep_levels=keep,
        removed=frozenset(n.name for n in removed),
        entries=tuple(s for _, s in entries if s.level == deepest),
        exits=tuple(exit_sites),
    )


def _removed(coarse: Coarse, keep: int) -> set[fx.Node]:
    """Nodes deeper than the cut, with the helpers (list unpacking) that belong to them."""
    removed: set[fx.Node] = set()
    for node in reversed(coarse.graph.nodes):
        if node.op in ("placeholder", "output"):
            continue
        place = coarse.places.get(node.name)
        if place is not None:
            if place.level >= keep:
                removed.add(node)
        elif (
            node.users
            and not isinstance(node.meta.get("val"), torch.SymInt | torch.SymFloat)
            and all(user in removed for user in node.users)
        ):
            removed.add(node)
    return removed


def _has_weights(node: fx.Node, model: nn.Module) -> bool:
    if node.op == "call_module":
        return next(model.get_submodule(str(node.target)).parameters(), None) is not None
    return any(n.op == "get_attr" for n in node.all_input_nodes)


def site(
    node: fx.Node,
    places: Mapping[str, Place],
    dimensions: int,
    sizes: Sequence[tuple[int, ...]],
) -> Site | None:
    """A crossing tensor with its layout, or None where the layout cannot be read."""
    value: torch.Tensor = node.meta["val"]
    level = places[node.name].level
    read = _layout(value, dimensions, sizes)
    if read is None:
        return None
    layout, channels = read
    return Site(node.name, channels, layout, level)


def _layout(
    value: torch.Tensor, dimensions: int, sizes: Sequence[tuple[int, ...]]
) -> tuple[Layout, int] | None:
    shape = value.shape
    free = [is_symbolic(s) for s in shape]
    numbers = [hint(s) for s in shape]
    if value.dim() == dimensions + 2:
        first, last = slice(2, None), slice(1, -1)
        # a free size is read by its symbol, a fixed one by its number
        if not free[1] and all(free[first]):
            return "channels_first", numbers[1]
        if not free[-1] and all(free[last]):
            return "channels_last", numbers[-1]
        if tuple(numbers[first]) in sizes:
            return "channels_first", numbers[1]
        if tuple(numbers[last]) in sizes:
            return "channels_last", numbers[-1]
    if value.dim() == 3:
        positions = [math.prod(size) for size in sizes]
        if not free[2] and (free[1] or numbers[1] in positions):
            return "tokens_last", numbers[2]
        if not free[1] and (free[2] or numbers[2] in positions):
            return "tokens_first", numbers[1]
    return None
