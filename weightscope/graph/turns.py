"""What is run several times below a cut, and images that are turned on their way.

A network that is called on an image and on a turned copy of it (an average over flips), or on two
images (before and after), runs the same layers several times: below a cut each run is replaced on
its own, by the same new layers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from torch import fx

from weightscope.adapters.symbols import Probe, free_symbols
from weightscope.graph.structure import Site

# heights and widths at which a turned image shows
_AT = ((512, 320), (320, 512))
_TURNED = 1.3


def in_runs(
    nodes: Sequence[fx.Node],
    removed: frozenset[fx.Node],
    entries: Sequence[Site],
    exits: Sequence[Site],
) -> tuple[tuple[Site, ...], tuple[Site, ...], int]:
    """Order what crosses a cut by the runs of what is removed.

    Args:
        nodes: All nodes of the coarse graph, in order.
        removed: Those that lie below the cut.
        entries: What enters.
        exits: What leaves.

    Returns:
        Entries and exits, one run after the other, and how many runs there are; 1 where they are
        not alike, or hang together.
    """
    order = {node.name: index for index, node in enumerate(nodes)}
    runs = [
        run
        for inside in _apart(nodes, removed)
        if (run := _Run(inside, entries, exits, order)).exits
    ]
    runs.sort(key=lambda run: run.ready)
    first = runs[0]
    own = {site.node for run in runs for site in run.entries}
    alike = all(run.works_like(first) for run in runs)
    if len(runs) == 1 or not alike or not first.entries or not first.weights:
        return tuple(entries), tuple(exits), 1
    if len(own) < sum(len(run.entries) for run in runs) or len(own) < len(entries):
        return tuple(entries), tuple(exits), 1
    return (
        tuple(site for run in runs for site in run.entries),
        tuple(site for run in runs for site in run.exits),
        len(runs),
    )


class _Run:
    """Nodes below a cut that hang together, and what enters and leaves them."""

    def __init__(
        self,
        nodes: Sequence[fx.Node],
        entries: Sequence[Site],
        exits: Sequence[Site],
        order: dict[str, int],
    ) -> None:
        own = {node.name for node in nodes}
        given = {n.name for node in nodes for n in node.all_input_nodes}
        self.entries = [site for site in entries if site.node in given]
        self.exits = [site for site in exits if site.node in own]
        self.calls = [str(node.target) for node in nodes if node.op == "call_module"]
        self.weights = {
            str(n.target) for node in nodes for n in (node, *node.all_input_nodes) if _is_held(n)
        }
        self.ready = max((order[site.node] for site in self.entries), default=0)

    def works_like(self, other: _Run) -> bool:
        """Whether it runs the same layers on tensors of the same kind."""
        return (
            (self.calls, self.weights) == (other.calls, other.weights)
            and _kinds(self.entries) == _kinds(other.entries)
            and _kinds(self.exits) == _kinds(other.exits)
        )


def _is_held(node: fx.Node) -> bool:
    return node.op in ("call_module", "get_attr")


def _kinds(sites: Iterable[Site]) -> list[Site]:
    return [replace(site, node="") for site in sites]


def _apart(nodes: Sequence[fx.Node], removed: frozenset[fx.Node]) -> list[list[fx.Node]]:
    """The removed nodes by what hangs together through tensors that are computed there."""
    group: dict[fx.Node, list[fx.Node]] = {}
    for node in nodes:
        if node not in removed or node.op == "get_attr" or not _is_computed(node):
            continue
        own = [node]
        for given in node.all_input_nodes:
            if given in group and group[given] is not own:
                own = [*group[given], *own]
                for member in own:
                    group[member] = own
        group[node] = own
    found = {id(own): own for own in group.values()}
    return list(found.values())


def _is_computed(node: fx.Node) -> bool:
    return not isinstance(node.meta.get("val"), torch.SymInt | torch.SymFloat | torch.SymBool)


def turned(sizes: Sequence[Sequence[Any]]) -> bool:
    """Whether the height of one tensor follows the width of another.

    Args:
        sizes: Spatial sizes of each tensor, symbolic where they follow the input.
    """
    symbols = sorted(free_symbols(size for of_one in sizes for size in of_one))
    if not symbols:
        return any(
            sorted(one) == sorted(other) and list(one) != list(other)
            for one, other in pairwise(sizes)
        )
    if len(symbols) == 3 and all(len(of_one) == 3 for of_one in sizes):
        follows = {tuple(tuple(free_symbols([size])) for size in of_one) for of_one in sizes}
        return len(follows) > 1 and all(len(by) == 1 for of_one in follows for by in of_one)
    # what is laid out anew as maps of one height, or of the root of their number (tokens), does not
    sizes = [of_one for of_one in sizes if all(len(free_symbols([size])) == 1 for size in of_one)]
    # several images have sizes of their own, and nothing tells heights from widths by their names
    if len(symbols) != 2 or any(len(of_one) < 2 for of_one in sizes):
        return False
    shapes = []
    for pair in _AT:
        probe = Probe({name: pair[i % 2] for i, name in enumerate(symbols)})
        shapes.append([[probe.size(size) for size in of_one] for of_one in sizes])
    ways = {
        tuple(_grows_by(before, after) for before, after in zip(one, other, strict=True))
        for one, other in zip(*shapes, strict=True)
    }
    return len(ways) > 1


def _grows_by(before: int, after: int) -> int:
    """1 where a size is larger than before, -1 where it is smaller."""
    return (after > before * _TURNED) - (before > after * _TURNED)
