"""The cut itself: what crosses it, and a copy of the coarse graph without its deep part."""

from __future__ import annotations

import heapq
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from math import log, prod
from typing import Any, cast

import torch
from torch import Tensor, fx, nn

from weightscope.adapters.regions import autocast_of
from weightscope.adapters.schemas import is_mutable
from weightscope.adapters.symbols import (
    Probe,
    SizeWriter,
    free_symbols,
    hint,
    is_symbolic,
    multiple,
    read_size,
)
from weightscope.errors import TruncationError
from weightscope.graph.nodes import argument, has_effect, in_words, operator_of
from weightscope.graph.structure import Cut, Place, Site, Structure
from weightscope.truncation.bottleneck import Entry, Exit, format_of


@dataclass(frozen=True)
class RunSizes:
    """Spatial sizes in one run of a bottleneck, symbolic where they follow the input.

    Attributes:
        entries: Those of each entry.
        trunk: Those at which the bottleneck works: those of its finest exit, and where vectors
            alone leave those of the level below its coarsest entry.
        exits: Those of each exit.
    """

    entries: tuple[tuple[Any, ...], ...]
    trunk: tuple[Any, ...]
    exits: tuple[tuple[Any, ...], ...]


@dataclass(frozen=True)
class Crossing:
    """What crosses a cut, and at which sizes.

    Attributes:
        entries: What enters the bottleneck.
        exits: What leaves it.
        runs: The sizes of each run of it.
    """

    entries: tuple[Entry, ...]
    exits: tuple[Exit, ...]
    runs: tuple[RunSizes, ...]

    @property
    def finest(self) -> int:
        """Which exit has the size at which the bottleneck works; the first of vectors alone."""
        run = self.runs[0]
        for index, (exit_, sizes) in enumerate(zip(self.exits, run.exits, strict=True)):
            sides = enumerate(zip(sizes, run.trunk, strict=True))
            if all(own == whole for axis, (own, whole) in sides if axis != exit_.lacks):
                return index
        return 0


def read_crossing(structure: Structure, cut: Cut) -> Crossing:
    """Read the sizes at which tensors cross a cut, and plan how entries are brought to them."""
    both = [[[_sizes(structure, s) for s in sites] for sites in run] for run in cut.runs]
    probes = _probes([s for run in both for sites in run for sizes in sites for s in sizes])
    runs = tuple(
        RunSizes(
            entries=tuple(entering),
            trunk=_trunk(structure, cut, (entering, leaving), probes[-1]),
            exits=tuple(leaving),
        )
        for entering, leaving in both
    )
    entries, exits = cut.runs[0]
    return Crossing(
        entries=tuple(
            _entry(site, [(run.entries[i], run.trunk) for run in runs], probes)
            for i, site in enumerate(entries)
        ),
        exits=tuple(
            _exit(site, [(run.exits[i], run.trunk) for run in runs], probes)
            for i, site in enumerate(exits)
        ),
        runs=runs,
    )


def _trunk(
    structure: Structure, cut: Cut, run: Sequence[Sequence[tuple[Any, ...]]], probe: Probe
) -> tuple[Any, ...]:
    """Sizes at which the bottleneck of one run works."""
    entering, leaving = run
    made = zip(leaving, cut.runs[0][1], strict=True)
    maps = [(sizes, site.lacks) for sizes, site in made if site.layout != "vector"]
    finest, lacks = max(maps, key=lambda one: prod(map(probe.size, one[0])), default=((), None))
    if finest and lacks is None:
        return finest
    index = min(range(len(entering)), key=lambda i: prod(map(probe.size, entering[i])))
    above = structure.reductions[cut.entries[index].level]
    steps = [b / a for a, b in zip(above, structure.reductions[cut.keep_levels], strict=True)]
    below = (size // max(1, round(step)) for size, step in zip(entering[index], steps, strict=True))
    # volumes that become maps of two sides keep their third one up to where they leave
    return tuple(
        finest[axis] if finest and axis != lacks else size for axis, size in enumerate(below)
    )


def _sizes(structure: Structure, site: Site) -> tuple[Any, ...]:
    """Spatial sizes of a crossing tensor; those of tokens are read off an image of as many.

    A vector is a map of one position.

    One that holds as many at every size comes first, then one of the proportions of its level: a
    number of channels may be what a side happens to be. Then one at their level: what makes several
    tokens of one leaves its level that way.
    """
    nodes = {node.name: node for node in structure.graph.nodes}
    given = nodes[site.node].meta["val"].shape
    if site.layout == "vector":
        return (1,) * len(structure.whole)
    if shown := site.sizes(given):
        # of the side that a map lacks, one position stands for all
        return shown if site.lacks is None else (*shown[: site.lacks], 1, *shown[site.lacks :])
    shape = [size for axis, size in enumerate(given) if axis not in site.single]
    tokens = shape[1] if site.layout == "tokens_last" else shape[2]
    coarse = [(node, structure.places.get(node.name)) for node in structure.graph.nodes]
    grids = map(_grid_of, structure.graph.nodes)
    windows = [(True, grid) for grid in grids if len(grid) == len(structure.whole)]
    fine = [(node, node.meta.get("place")) for node in structure.program.graph.nodes]
    # what is inside of called modules may show it where nothing between them does
    outside = _arranged(structure, site, tokens, [*_maps(structure, coarse, site), *windows])
    inside = [] if outside else _maps(structure, fine, site)
    if found := outside or _arranged(structure, site, tokens, inside, closely=True):
        return found
    raise TruncationError(
        f"the positions of {in_words(nodes[site.node])}, a sequence of {hint(tokens)} tokens,"
        " cannot be arranged as an image: no operation shows the height and width. Arrange them"
        " as an image in the forward before they leave"
    )


_APART = log(2)  # rounding makes three of two of a side; tokens and features are further apart
_Maps = list[tuple[bool, tuple[Any, ...]]]
"""Sizes of maps, and whether they lie at the level of what crosses."""


def _maps(structure: Structure, nodes: Sequence[tuple[fx.Node, Place | None]], site: Site) -> _Maps:
    """Sizes of what may be maps, channels first or last, among the results of some nodes."""
    images: _Maps = []
    for node, place in nodes:
        value = node.meta.get("val")
        if place is None or not isinstance(value, Tensor):
            continue
        if value.dim() == len(structure.whole) + 2:
            at_level = place.level == site.level
            images += [(at_level, value.shape[2:]), (at_level, value.shape[1:-1])]
    return images


def _arranged(
    structure: Structure, site: Site, tokens: Any, images: _Maps, *, closely: bool = False
) -> tuple[Any, ...] | None:
    """Sizes of the map that a sequence of tokens is, the likeliest of some; None of none.

    Args:
        structure: The network.
        site: What crosses.
        tokens: How many there are.
        images: What may show their arrangement.
        closely: Whether that has to hold as many at every size, in about the level's proportions:
            of one head of attention, tokens and their features are no map.
    """
    probes = _probes([tokens, *(size for _, sizes in images for size in sizes)])
    level = _at_the_example(structure, site.level)
    found = []
    for at_level, sizes in images:
        follows = all(prod(map(p.size, sizes)) == p.size(tokens) for p in probes)
        if prod(map(hint, sizes)) == hint(tokens) and (follows or (at_level and not closely)):
            ratios = [log(hint(a) / b) for a, b in zip(sizes, level, strict=True)]
            apart = round(max(ratios) - min(ratios), 3)
            if not closely or apart < _APART:
                found.append(((not follows, apart, not at_level), tuple(sizes)))
    return min(found, key=lambda one: one[0])[1] if found else None


def _at_the_example(structure: Structure, level: int) -> tuple[float, ...]:
    """Sizes of a map of a level, as the reductions say for the example's image."""
    sides = zip(structure.whole, structure.reductions[level], strict=True)
    return tuple(size / part for size, part in sides)


def _grid_of(node: fx.Node) -> tuple[Any, ...]:
    """How many windows ``F.unfold`` or ``F.fold`` has along each side; empty of any other call.

    See ``torch.nn.Unfold`` for the formula.
    """
    name = operator_of(node)
    map_of = {"aten::im2col": node.args[:1], "aten::col2im": (node,)}.get(name, ())
    if not map_of:
        return ()
    names = ("kernel_size", "dilation", "padding", "stride")
    windows = zip(*(argument(node, name) for name in names), strict=True)
    sizes = map_of[0].meta["val"].shape[2:]  # type: ignore[union-attr]
    return tuple(
        (size + 2 * pad - spread * (kernel - 1) - 1) // step + 1
        for size, (kernel, spread, pad, step) in zip(sizes, windows, strict=True)
    )


def _probes(sizes: Sequence[Any]) -> tuple[Probe, ...]:
    """Sizes of the input at which sizes are compared: multiples, odd ones, and a large one last.

    Multiples of what all sizes grow by: a position of a spectrogram is thousands of samples.
    """
    symbols = free_symbols(sizes)
    unit = max(map(_grows_by, sizes), default=_UNIT)
    shifts = ((1, 0), (2, 0), (3, 0), (2, 1), (3, -1), (5, 7), (4, 18), (3, 12), (64, 0))
    return tuple(Probe(dict.fromkeys(symbols, unit * scale + shift)) for scale, shift in shifts)


_UNIT, _DOUBLINGS = 64, 14  # a million samples: what stays the same so far does not grow


def _grows_by(size: Any) -> int:
    """The first of some sizes of the input, each twice the one before, at which a size grows."""
    units = [_UNIT << doubling for doubling in range(_DOUBLINGS + 1)]
    at = [Probe(dict.fromkeys(free_symbols([size]), unit)).size(size) for unit in units]
    pairs = zip(units, at, at[1:], strict=False)
    return next((unit for unit, now, then in pairs if then > now), _UNIT)


def _ratio(a: Any, b: Any, probes: Sequence[Probe]) -> float:
    """How much larger one size is than another, at a size where padding no longer counts.

    The example's own size must not decide: a variant is built and loaded on different ones.
    """
    if _of_two_inputs(a, b):
        return hint(a) / hint(b)
    return probes[-1].size(a) / probes[-1].size(b)


def _of_two_inputs(a: Any, b: Any) -> bool:
    """Whether two sizes follow different inputs: an image, a map at its bottom, another image.

    Nothing but the example tells how these belong together, and they may be alike in it alone.
    """
    of_a, of_b = free_symbols([a]), free_symbols([b])
    return bool(of_a and of_b) and not of_a & of_b


def _same(a: Any, b: Any, probes: Sequence[Probe]) -> bool:
    if _of_two_inputs(a, b):
        return False
    if not is_symbolic(a) and not is_symbolic(b):
        return hint(a) == hint(b)
    return all(probe.size(a) == probe.size(b) for probe in probes)


_Pairs = Sequence[tuple[tuple[Any, ...], tuple[Any, ...]]]
"""Sizes of one tensor that crosses, and those of the trunk, in each run."""


def _exit(site: Site, runs: _Pairs, probes: Sequence[Probe]) -> Exit:
    sizes, trunk = runs[0]
    return Exit(
        channels=site.real_channels // site.images,
        layout=site.layout,
        is_complex=site.is_complex,
        images=site.images,
        in_turn=site.in_turn,
        single=site.single,
        parts=site.parts,
        lacks=site.lacks,
        exact=all(_same(a, b, probes) for pair in runs for a, b in zip(*pair, strict=True)),
        scale=tuple(_ratio(a, b, probes) for a, b in zip(sizes, trunk, strict=True)),
    )


def _entry(site: Site, runs: _Pairs, probes: Sequence[Probe]) -> Entry:
    kernel = tuple(max(1, round(_ratio(a, b, probes))) for a, b in zip(*runs[0], strict=True))
    apart = any(_of_two_inputs(a, b) for pair in runs for a, b in zip(*pair, strict=True))
    for ceil in (False, True):
        if not apart and all(
            (probe.size(a) + (k - 1 if ceil else 0)) // k == probe.size(b)
            for probe in probes
            for pair in runs
            for a, b, k in zip(*pair, kernel, strict=True)
        ):
            return _entry_of(site, kernel, ceil=ceil, exact=True)
    return _entry_of(site, kernel, ceil=True, exact=False)


def _entry_of(site: Site, kernel: tuple[int, ...], *, ceil: bool, exact: bool) -> Entry:
    return Entry(
        channels=site.real_channels,
        layout=site.layout,
        kernel=kernel,
        ceil=ceil,
        exact=exact,
        images=site.images,
        in_turn=site.in_turn,
        single=site.single,
        parts=site.parts,
    )


# --- the graph --------------------------------------------------------------------------------


def cut_graph(
    structure: Structure, cut: Cut, crossing: Crossing, name: str
) -> tuple[fx.Graph, tuple[int, ...]]:
    """Copy the coarse graph and put one call in the place of each run of what is below the cut.

    Args:
        structure: The network.
        cut: Where.
        crossing: What crosses the cut.
        name: Name of the module to call.

    Returns:
        The graph, and the positions of the flat outputs that are None now.
    """
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    results = graph.graph_copy(structure.graph, copies)
    new = {old.name: node for old, node in copies.items()}
    removed = {new[old] for old in cut.removed}
    dropped = tuple(
        i for i, r in enumerate(cast(Any, results)) if isinstance(r, fx.Node) and r in removed
    )
    graph.output(tuple(None if i in dropped else r for i, r in enumerate(cast(Any, results))))
    known = _input_sizes(graph)
    for (entering, leaving), sizes in zip(cut.runs, crossing.runs, strict=True):
        entries = [new[site.node] for site in entering]
        exits = [new[site.node] for site in leaving]
        order = {node: i for i, node in enumerate(graph.nodes)}
        anchor = max([*entries, *known.values()], key=order.__getitem__)
        graph.inserting_before(anchor.next)
        writer = SizeWriter(graph, known)
        given, (trunk,), made = (
            [[writer.write(s) for s in part] for part in parts]
            for parts in (sizes.entries, [sizes.trunk], sizes.exits)
        )
        call = graph.call_module(name, (entries, given, trunk, made))
        if region := autocast_of(exits[0]):
            call.meta["region"] = region
        items = [graph.call_function(operator.getitem, (call, i)) for i in range(len(exits))]
        own = format_of(structure.model)
        for exit_, item in zip(exits, items, strict=True):
            dtype = cast(Tensor, exit_.meta["val"]).dtype
            if dtype.to_real() != own and not dtype.is_complex:  # of several formats in one network
                item = graph.call_function(torch.ops.aten.to.dtype, (item, dtype))
            item.meta.update(exit_.meta)
            exit_.replace_all_uses_with(item, delete_user_cb=lambda user: user not in removed)
    for node in reversed(list(graph.nodes)):
        if node in removed:
            graph.erase_node(node)
    _sort(graph, structure.model)
    graph.eliminate_dead_code(is_impure_node=has_effect)
    graph.lint()
    return graph, dropped


def _input_sizes(graph: fx.Graph) -> dict[str, fx.Node]:
    """A node for every symbol, read off the first tensor that shows it: an input."""
    known: dict[str, fx.Node] = {}
    for node in list(graph.nodes):
        value = node.meta.get("val")
        if not isinstance(value, Tensor):
            continue
        for dimension, size in enumerate(value.shape):
            symbol = multiple(size)[0] if is_symbolic(size) else ""
            if symbol.isidentifier() and symbol not in known:
                with graph.inserting_before(node.next):
                    known |= read_size(graph, node, dimension, size)
    return known


def _sort(graph: fx.Graph, model: nn.Module) -> None:
    """Put every node behind all that it reads, and otherwise leave the order as it is.

    Parallel resolutions read what the cut returns long before the last of its entries. Who reads a
    tensor that something may write into stays on its side of the write.

    Raises:
        TruncationError: There is no such order.
    """
    nodes = [node for node in graph.nodes if node.op != "output"]
    index = {node: i for i, node in enumerate(nodes)}
    before = _what_stands_before(nodes, {node for node in nodes if _may_write(node, model)})
    waiting = {node: len(sources) for node, sources in before.items()}
    users: dict[fx.Node, list[fx.Node]] = {}
    for node, sources in before.items():
        for source in sources:
            users.setdefault(source, []).append(node)
    ready = [index[node] for node, count in waiting.items() if count == 0]
    heapq.heapify(ready)
    last: fx.Node | None = None
    placed = 0
    while ready:
        node = nodes[heapq.heappop(ready)]
        if last is not None:
            last.append(node)
        last, placed = node, placed + 1
        for user in users.get(node, ()):
            waiting[user] -= 1
            if waiting[user] == 0:
                heapq.heappush(ready, index[user])
    if placed < len(nodes):
        raise TruncationError(
            "what stays writes into tensors that what goes reads; write into a copy (clone()) in"
            " the forward, and this depth can be cut"
        )


def _what_stands_before(nodes: list[fx.Node], writing: set[fx.Node]) -> dict[fx.Node, set[fx.Node]]:
    """What each node reads, and the readers of the same on whose side of a write it must stay."""
    before = {node: set(node.all_input_nodes) for node in nodes}
    readers: dict[fx.Node, list[fx.Node]] = {}
    for node in nodes:
        for source in node.all_input_nodes:
            for reader in readers.setdefault(source, []):
                if node in writing or reader in writing:
                    before[node].add(reader)
            readers[source].append(node)
    return before


def _may_write(node: fx.Node, model: nn.Module) -> bool:
    """Whether a node may write into what it reads; the new bottleneck does not."""
    if node.op != "call_module":
        return is_mutable(node.target)
    called = dict(model.named_modules(remove_duplicate=False)).get(str(node.target))
    return called is not None and any(getattr(m, "inplace", False) for m in called.modules())
