"""Where a network can be cut: what is deeper than a level, what feeds it and what it feeds."""

from __future__ import annotations

import math
import operator
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx, nn

from weightscope.adapters import pytree
from weightscope.adapters.symbols import grows, hint, key, sides_counted
from weightscope.graph.batch_first import BATCH_SECOND, CROSSES, with_volumes
from weightscope.graph.beside import side_by_side, times
from weightscope.graph.coarsen import Coarse
from weightscope.graph.layouts import alike
from weightscope.graph.levels import Levels
from weightscope.graph.nodes import argument, has_effect, in_words, is_size, operator_of, tensor_of
from weightscope.graph.operators import REARRANGES, facts
from weightscope.graph.pieces import JOINS, SPLITS
from weightscope.graph.structure import Cut, Layout, Place, Refusal, Site
from weightscope.graph.turns import in_runs, turned
from weightscope.thresholds import LEVEL_RATIO


def read_cuts(
    coarse: Coarse,
    fine: Sequence[fx.Node],
    model: nn.Module,
    levels: Levels,
    dimensions: int,
) -> tuple[Coarse, tuple[Cut, ...], tuple[Refusal, ...]]:
    """Find the legal cuts at every depth, and the reason where there is none.

    Args:
        coarse: The coarse graph.
        fine: The nodes that it was made from.
        model: Whose modules it calls.
        levels: The levels, with the sizes that maps have at the example input.
        dimensions: Number of spatial dimensions.

    Returns:
        The coarse graph, with slices as volumes where that helps; the cuts; the refusals.
    """
    cuts, refusals = _cuts(coarse, fine, model, levels, dimensions)
    if refusals and dimensions == 3:
        coarse = with_volumes(coarse, fine)
        cuts, refusals = _cuts(coarse, fine, model, levels, dimensions)
    return coarse, cuts, refusals


def _cuts(
    coarse: Coarse,
    fine: Sequence[fx.Node],
    model: nn.Module,
    levels: Levels,
    dimensions: int,
) -> tuple[tuple[Cut, ...], tuple[Refusal, ...]]:
    """The cuts and the refusals of one graph."""
    cuts: list[Cut] = []
    refusals: list[Refusal] = []
    for keep in range(1, len(levels.sizes)):
        found = _cut(coarse, fine, model, keep, dimensions, levels)
        flat = dimensions == 3 or levels.projected is not None
        if flat and (isinstance(found, str) or _is_of_volumes_laid_out(found, coarse)):
            found = _cut_of_slices(coarse, fine, model, keep, levels) or found
        if isinstance(found, Cut):
            cuts.append(found)
        else:
            refusals.append(Refusal(keep, found))
    return tuple(cuts), tuple(refusals)


def _is_of_volumes_laid_out(cut: Cut, coarse: Coarse) -> bool:
    """Whether slices were stacked to volumes to cross a cut."""
    crossing = {site.node for site in (*cut.entries, *cut.exits)}
    return any(CROSSES in node.meta for node in coarse.graph.nodes if node.name in crossing)


@dataclass(frozen=True)
class _Depth:
    """The coarse graph, split at one depth.

    Attributes:
        nodes: All nodes, in order.
        output: The last of them.
        removed: What lies deeper, without what can stay.
        below: What depends on something removed.
    """

    nodes: Sequence[fx.Node]
    output: fx.Node
    removed: frozenset[fx.Node]
    below: frozenset[fx.Node]

    @property
    def exits(self) -> list[fx.Node]:
        """Removed tensors that something else needs."""
        return [
            node
            for node in self.nodes
            if node in self.removed
            and makes_tensor(node)
            and any(u not in self.removed and u is not self.output for u in node.users)
        ]


def _cut(
    coarse: Coarse,
    fine: Sequence[fx.Node],
    model: nn.Module,
    keep: int,
    dimensions: int,
    levels: Levels,
) -> Cut | str:
    """One cut, or why it cannot be."""
    weights = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    depth = _split(coarse, model, weights, keep, dimensions, levels)
    refused = _no_way_back(depth) or _no_head(depth, model) or _no_gradient(depth)
    if refused:
        return _MAPS_OF_SIGNALS if dimensions == 1 and _works_on_maps(depth) else refused
    entries = _entries(depth, coarse, dimensions, levels)
    if not entries:
        if dimensions == 1 and any(n.meta["val"].dim() == 4 for n in _feeding(depth, coarse)):
            return _MAPS_OF_SIGNALS
        return (
            "no tensor with a readable layout enters what lies below this level; " + _LAYOUT_REMEDY
        )
    exits: list[Site] = []
    for node in depth.exits:
        read = (
            site(node, coarse.places, dimensions, levels)
            or _vector(node, coarse.places, levels)
            or _of_parts(node, coarse.places, dimensions, levels)
            or _vectors(node, coarse.places, levels)
            or _projected(node, coarse.places, dimensions, levels)
        )
        if read is None:
            return _unreadable(node, dimensions)
        exits.append(read)
    vectors = {read.node for read in exits if read.layout == "vector"}
    depth = replace(depth, removed=depth.removed - _heads_of(vectors, depth))
    crossing = _in_runs(depth, fine, entries, exits)
    if isinstance(crossing, str):
        return crossing
    cut = Cut(keep, frozenset(n.name for n in depth.removed), *crossing)
    return _TURNED if _is_turned(cut, depth) else cut


def _in_runs(
    depth: _Depth, fine: Sequence[fx.Node], entries: Sequence[Site], exits: Sequence[Site]
) -> tuple[tuple[Site, ...], tuple[Site, ...], int] | str:
    """What crosses, in runs of what is removed, and their number; or why it cannot cross.

    Each run may be given a batch of another size (windows of an image, some at a time).
    """
    entering, leaving, number = in_runs(depth.nodes, depth.removed, entries, exits)
    if number > 1:
        runs = Cut(0, frozenset(), entering, leaving, number).runs
        beside = [side_by_side(depth.nodes, fine, *run) for run in runs]
        read = [run for run in beside if not isinstance(run, str)]
        if len(read) == len(runs):
            entries, exits = (tuple(s for run in read for s in run[i]) for i in (0, 1))
            return in_runs(depth.nodes, depth.removed, entries, exits)
    whole = side_by_side(depth.nodes, fine, entries, exits)
    return whole if isinstance(whole, str) else in_runs(depth.nodes, depth.removed, *whole)


def _works_on_maps(depth: _Depth) -> bool:
    """Whether layers below a cut of signals take maps of them."""
    return any(
        node.meta["val"].dim() == 4
        for node in depth.removed
        if makes_tensor(node) and (node.op == "call_module" or facts(operator_of(node)).kernel)
    )


def _heads_of(vectors: Collection[str], depth: _Depth) -> set[fx.Node]:
    """What makes outputs of vectors that leave anyway, and of nothing else that goes.

    Classes of the queries whose masks are computed above, for instance.
    """
    given: set[fx.Node] = set()
    found: set[fx.Node] = set()
    for node in depth.nodes:
        below = [n for n in node.all_input_nodes if n in depth.below or n in depth.removed]
        of_vectors = bool(below) and all(n in given or n in found for n in below)
        if node.name in vectors or (of_vectors and node not in depth.removed and _moves(node)):
            given.add(node)
        elif node in depth.removed and of_vectors:
            found.add(node)
    for node in reversed(depth.nodes):
        if any(user not in found and user is not depth.output for user in node.users):
            found.discard(node)
    return found


def _moves(node: fx.Node) -> bool:
    """Whether an operation only takes some of a tensor's numbers, or lays them out otherwise."""
    taken = ("aten::slice", "aten::select", "aten::stack", "aten::unfold")
    return operator_of(node) in (*REARRANGES, *JOINS, *taken)


def _unreadable(node: fx.Node, dimensions: int) -> str:
    """Why no bottleneck can make a tensor that leaves what lies below."""
    value: torch.Tensor = node.meta["val"]
    if dimensions == 1 and value.dim() == 4:
        return _MAPS_OF_SIGNALS
    if _is_number(node):
        return (
            f"{in_words(node)}, one number for the whole batch, is computed below this level and"
            " used above it, and what takes the place of a level makes features of each image; let"
            " the forward return that number, and use it outside, or keep more levels"
        )
    slices = dimensions == 3 and value.dim() == dimensions + 1
    return (
        f"{in_words(node)} leaves what lies below in an unreadable layout,"
        f" {_in_words(value.shape)}; " + (_SLICES_REMEDY if slices else _LAYOUT_REMEDY)
    )


def _cut_of_slices(
    coarse: Coarse, fine: Sequence[fx.Node], model: nn.Module, keep: int, levels: Levels
) -> Cut | None:
    """One cut where the slices or frames of volumes lie in the batch, of maps of each alone."""
    across = levels.projected or 0
    sides = len(levels.sizes[0]) - 1
    found = _cut(coarse, fine, model, keep, sides, _without_side(levels, across))
    if isinstance(found, str):
        return None
    if levels.projected is not None:
        return found  # maps of two sides on both sides of the cut, and none of slices
    values = {n.name: n.meta["val"] for n in coarse.graph.nodes if makes_tensor(n)}
    crossing = (*found.entries, *found.exits)
    of_slices = [
        len(site.sizes(value := values[site.node].shape)) == 2
        and hint(value[0]) % levels.sizes[site.level][0] == 0
        for site in crossing
    ]
    return found if all(of_slices) else None


def _without_side(levels: Levels, side: int) -> Levels:
    """The levels of maps that lack one side of the image."""
    sizes, maps = (
        [(*size[:side], *size[side + 1 :]) for size in of] for of in (levels.sizes, levels.maps)
    )
    return replace(levels, sizes=tuple(sizes), maps=frozenset(maps))


_TURNED = (
    "images are turned between what enters and what leaves this level, so that the height of one is"
    " the width of another; turn them before or after the network, outside of its forward"
)


def _is_turned(cut: Cut, depth: _Depth) -> bool:
    values = {node.name: node.meta["val"] for node in depth.nodes if makes_tensor(node)}
    crossing = (*cut.runs[0][0], *cut.runs[0][1])
    return turned([sizes for s in crossing if (sizes := s.sizes(values[s.node].shape))])


def _in_words(shape: Sequence[object]) -> str:
    """A shape whose free sizes are no symbols of the tracer."""
    sizes = [str(size) if isinstance(size, int) else "size" for size in shape[1:]]
    return f"({', '.join(['batch', *sizes])})"


_SLICES_REMEDY = (
    "where these are slices of volumes in the batch, let the forward itself lay them out as volumes"
    " (batch, channels, depth, height, width) before other levels take them"
)


_LAYOUT_REMEDY = "let it leave and enter as (batch, channels, *sizes) or (batch, *sizes, channels)"


_MAPS_OF_SIGNALS = (
    "what crosses are maps made of signals (a spectrogram, frames), or of an image without a batch"
    " axis, and bottlenecks for signals take none; pass the part of the network that works on maps,"
    " with a batch of maps as example"
)


def _split(
    coarse: Coarse,
    model: nn.Module,
    weights: Collection[str],
    keep: int,
    dimensions: int,
    levels: Levels,
) -> _Depth:
    nodes = list(coarse.graph.nodes)
    removed = _removed(coarse, keep)
    removed -= _behind_the_last_layer(nodes, removed, model, weights)
    removed -= _kept_with_indices(nodes, removed)
    filtered = {_images(node) for node in nodes if _puts_channels_apart(node)}
    unreadable = [
        node
        for node in reversed(nodes)
        if makes_tensor(node)
        and not (_crosses(node, dimensions) or _takes_added_tokens(node, coarse.places, levels))
        and (_images(node) in filtered or site(node, coarse.places, dimensions, levels) is None)
    ]
    laid_out = (*REARRANGES, "aten::unfold")
    reshapes = [node for node in unreadable if operator_of(node) in laid_out]
    complexes = [n for n in reversed(nodes) if makes_tensor(n) and n.meta["val"].is_complex()]
    taken = [node for node in unreadable if operator_of(node) in _TAKEN]
    half = [n for n in reversed(nodes) if _is_half_way(n, coarse.places, dimensions, levels)]
    # before pixels become channels, numbers become complex, one side after the other is taken
    for node in (*reshapes, *complexes, *taken, *half):
        if node.users and all(user in removed for user in node.users):
            removed.add(node)
    ways = {*unreadable, *half}
    # what leaves before channels become pixels, or pixels are repeated
    for node in [n for n in reversed(nodes) if n in ways]:
        stays = [user for user in node.users if user not in removed]
        moves = _moves_one_tensor(node, model, coarse.reached, weights)
        moves |= operator_of(node) in ("aten::stack", *JOINS)
        # what is only returned (a loss, codes) is no way up
        if stays and nodes[-1:] != stays and (node in reshapes or node in taken or moves):
            removed -= {node, _taken_from(node)}
    removed |= _losses(nodes, removed)
    removed -= _kernels_of_vectors(nodes, removed, model, coarse, levels)
    prepared = _without_weights(nodes, model, weights)
    for node in reversed(nodes):  # a number or a grid that what stays computes with, or the image
        free = node.name not in coarse.reached or node in prepared
        if free and any(u not in removed for u in node.users):
            removed.discard(node)
    below: set[fx.Node] = set()
    for node in nodes:
        if any(n in removed or n in below for n in node.all_input_nodes):
            below.add(node)
    removed |= below - _needed(nodes, removed)  # what comes up and goes down again
    return _Depth(nodes, nodes[-1], frozenset(removed), frozenset(below))


def _is_half_way(
    node: fx.Node, places: Mapping[str, Place], dimensions: int, levels: Levels
) -> bool:
    """Whether a map is only taken or repeated, along some of its sides and not yet the others."""
    place, value = places.get(node.name), tensor_of(node)
    if place is None or value is None or value.dim() != dimensions + 2:
        return False
    if operator_of(node) not in _HALF_WAYS:
        return False
    sides = zip(value.shape[2:], levels.sizes[place.level], strict=True)
    steps = [max(hint(size), own) / max(1, min(hint(size), own)) for size, own in sides]
    return min(steps) < LEVEL_RATIO <= max(steps)


_HALF_WAYS = ("aten::repeat_interleave", "aten::flatten", "aten::slice")


def _crosses(node: fx.Node, dimensions: int) -> bool:
    """Whether a node was laid out otherwise to cross a cut; volumes do not cross one of slices."""
    return CROSSES in node.meta and node.meta["val"].dim() != dimensions + 3


def _kernels_of_vectors(
    nodes: Sequence[fx.Node],
    removed: Collection[fx.Node],
    model: nn.Module,
    coarse: Coarse,
    levels: Levels,
) -> set[fx.Node]:
    """What makes the weights of a convolution above of vectors below, up to these vectors.

    No bottleneck can make weights; the styles that scale them leave as vectors.
    """
    found: set[fx.Node] = set()
    for node in nodes:
        called = node not in removed and node.op == "call_function"
        weight = argument(node, "weight") if called and _convolves(node) else None
        waiting, made = [weight] if isinstance(weight, fx.Node) else [], set[fx.Node]()
        while waiting:
            one = waiting.pop()
            works = _has_weights(one, model) if one.op == "call_module" else _is_kernel(one)
            if not works:
                made.add(one)
                waiting += [n for n in one.all_input_nodes if n not in made]
            elif one in removed and not _is_vector(one, coarse, levels):
                made.clear()  # what a network makes of maps
                break
        found |= made
    return found


def _convolves(node: fx.Node) -> bool:
    return facts(operator_of(node)).view == "convolution"


def _is_vector(node: fx.Node, coarse: Coarse, levels: Levels) -> bool:
    """Whether a vector for each image leaves here, if a cut takes what makes it."""
    return makes_tensor(node) and _vector(node, coarse.places, levels) is not None


def _is_kernel(node: fx.Node) -> bool:
    return bool(facts(operator_of(node)).kernel)


def _losses(nodes: Sequence[fx.Node], removed: Collection[fx.Node]) -> set[fx.Node]:
    """Numbers of the whole batch that are made of one below: a loss that counts what goes."""
    found: set[fx.Node] = set()
    for node in nodes:
        given = [n for n in node.all_input_nodes if n in removed or n in found]
        if node not in removed and _is_number(node) and any(map(_is_number, given)):
            found.add(node)
    return found


def _needed(nodes: Sequence[fx.Node], removed: Collection[fx.Node]) -> set[fx.Node]:
    """What an output is made of above a cut, and what has an effect."""
    needed: set[fx.Node] = set()
    for node in reversed(nodes):
        if node.op == "output" or (
            node not in removed and (has_effect(node) or any(u in needed for u in node.users))
        ):
            needed.add(node)
    return needed


def _without_weights(
    nodes: Sequence[fx.Node], model: nn.Module, weights: Collection[str]
) -> set[fx.Node]:
    """The inputs, and what is made of them without weights: no level's work, as the image itself.

    Images that were put in another order or standardised before they are enlarged, for instance.
    """
    found: set[fx.Node] = set()
    for node in nodes:
        own = _is_a_layer(node, model, weights)
        if not own and all(n in found for n in node.all_input_nodes):
            found.add(node)
    return found


def _behind_the_last_layer(
    nodes: Sequence[fx.Node], removed: set[fx.Node], model: nn.Module, weights: Collection[str]
) -> set[fx.Node]:
    """What is only computed with what stays, by no layer, and no layer takes it: no level's work.

    A flow that is integrated at half its size and resized back, or an output that is pooled.
    """
    before: set[fx.Node] = set()
    for node in reversed(nodes):
        if _is_a_layer(node, model, weights) or any(user in before for user in node.users):
            before.add(node)
    found: set[fx.Node] = set()
    for node in nodes:
        tensors = [n for n in node.all_input_nodes if makes_tensor(n)]
        stays = all(n in found or n not in removed for n in tensors)
        if tensors and stays and node in removed - before:
            found.add(node)
    return found


def _is_a_layer(node: fx.Node, model: nn.Module, weights: Collection[str]) -> bool:
    own = node.op == "get_attr" and str(node.target) in weights
    return own or (node.op == "call_module" and _has_weights(node, model))


def _kept_with_indices(nodes: Sequence[fx.Node], removed: set[fx.Node]) -> set[fx.Node]:
    """What makes indices or masks that the kept part needs: a bottleneck cannot make such tensors.

    A pooling whose indices go to an unpooling above the cut stays, with all that it needs; what it
    pools then enters the bottleneck as it is.
    """
    stays: set[fx.Node] = set()
    waiting = [
        node
        for node in nodes
        if node in removed
        and makes_tensor(node)
        and not _holds_features(node)
        # what is only returned becomes None, as other outputs from below do
        and any(user not in removed and user.op != "output" for user in node.users)
    ]
    while waiting:
        node = waiting.pop()
        if node in removed and node not in stays:
            stays.add(node)
            # of a tensor that only its shape is taken of, the bottleneck makes one as well
            waiting.extend([] if operator_of(node) in _OF_A_SHAPE else node.all_input_nodes)
            # the items of what returns several tensors
            waiting.extend(u for u in node.users if u.target in _ITEMS and u in removed)
    return stays


def _moves_one_tensor(
    node: fx.Node, model: nn.Module, reached: Collection[str], weights: Collection[str]
) -> bool:
    """Whether what has no weights makes a tensor, or equal parts, of one that the image reaches."""
    node = _taken_from(node)
    given = [n for n in node.all_input_nodes if n.name in reached]
    own = any(n.op == "get_attr" and str(n.target) in weights for n in node.all_input_nodes)
    return (
        (node.op == "call_function" or (node.op == "call_module" and not _has_weights(node, model)))
        and [makes_tensor(n) for n in given] == [True]  # of several results no item
        and not own
    )


def _taken_from(node: fx.Node) -> fx.Node:
    """The split that a tensor is one part of; any other node itself."""
    source = node.args[0] if node.target is operator.getitem else node
    return source if isinstance(source, fx.Node) and operator_of(source) in SPLITS else node


def _takes_added_tokens(node: fx.Node, places: Mapping[str, Place], levels: Levels) -> bool:
    """Whether a part is vectors that lie beside the positions of a level: queries."""
    part = _taken_from(node)
    given = part.args[0] if operator_of(part) in ("aten::slice", *SPLITS) else None
    if not isinstance(given, fx.Node) or not makes_tensor(given) or given.name not in places:
        return False
    axis = argument(part, "dim")
    tokens, taken = (n.meta["val"].shape[axis] for n in (given, node))
    positions = {math.prod(levels.sizes[places[given.name].level])}
    positions |= set() if levels.free else {math.prod(size) for size in levels.maps}
    vectors = _vectors(node, places, levels) or _vector(node, places, levels)
    beside = [hint(tokens) - number for number in positions]
    return vectors is not None and axis in (1, 2) and any(hint(taken) <= n for n in beside)


def _images(node: fx.Node) -> str:
    """The number of images in a tensor's batch, as a text that is equal for equal numbers."""
    shape = node.meta["val"].shape
    return key(shape[0]) if shape else ""


def _puts_channels_apart(node: fx.Node) -> bool:
    """Whether a reshape puts all channels into the batch, where one filter runs on each alone."""
    given = [n for n in node.all_input_nodes if makes_tensor(n)]
    reshaped = operator_of(node) in ("aten::reshape", "aten::view")  # no transposition
    if not reshaped or not makes_tensor(node) or len(given) != 1:
        return False
    before, after = given[0].meta["val"].shape, node.meta["val"].shape
    images = times(after[0], before[0]) if before and after else 0
    return images > 1 and 1 in after[1:] and images in before[1:]


_TAKEN = tuple(f"aten::{name}" for name in ("index", "index_select", "lerp", "slice"))
_OF_A_SHAPE = tuple(f"aten::{name}_like" for name in ("ones", "zeros", "full", "empty"))
_ITEMS = (operator.getitem, pytree.tree_leaves)


def _no_way_back(depth: _Depth) -> str:
    if not depth.removed:
        return "nothing lies deeper"
    kept_outputs = [n for n in depth.output.all_input_nodes if n not in depth.removed]
    if not depth.exits or not any(n in depth.below for n in kept_outputs):
        return (
            "no path leads back up: every output is computed below this level; keep more levels, or"
            " let the forward also return a prediction from a level that stays"
        )
    return ""


def _no_head(depth: _Depth, model: nn.Module) -> str:
    stays = depth.below - depth.removed - {depth.output}
    if not any(_has_weights(n, model) for n in stays):
        return (
            "the network's last layers lie below this level; nothing with weights remains after"
            " them; keep more levels, or let layers with weights follow at a level that stays"
        )
    return ""


def _no_gradient(depth: _Depth) -> str:
    outputs = [n for n in depth.output.all_input_nodes if makes_tensor(n)]
    if not any(_holds_features(n) for n in outputs):
        return (
            "the forward returns classes or truths alone in evaluation mode, so that the smaller"
            " network could be neither trained nor fitted; let it return the scores, and take"
            " argmax or a threshold outside of it"
        )
    return ""


def _entries(depth: _Depth, coarse: Coarse, dimensions: int, levels: Levels) -> list[Site]:
    """The deepest tensors that feed what goes and need nothing of it, and inputs that begin there.

    An input of the size of a level that goes (a state, a code) lies deeper than what comes down.
    """
    feeding = _feeding(depth, coarse)
    # a clip among images is one that their forward takes apart above
    for reading in (site, _of_parts):
        found = [(n, s) for n in feeding if (s := reading(n, coarse.places, dimensions, levels))]
        if found:
            break
    from_above = [s.level for n, s in found if n.op != "placeholder"]
    deepest = max(from_above or [s.level for _, s in found], default=0)
    return [s for n, s in found if s.level == deepest or (from_above and s.level > deepest)]


def _feeding(depth: _Depth, coarse: Coarse) -> list[fx.Node]:
    blank = _blank(depth.nodes)
    return [
        n
        for n in depth.nodes
        if n not in depth.removed
        and n not in blank
        and n not in depth.below
        and n.name in coarse.reached
        and n.name in coarse.places
        and any(u in depth.removed for u in n.users)
        and makes_tensor(n)
        and _holds_features(n)
    ]


def _blank(nodes: Iterable[fx.Node]) -> set[fx.Node]:
    """What has the size of an image and nothing else of it: a state that begins with zeros."""
    found: set[fx.Node] = set()
    for node in nodes:
        given = [n for n in node.all_input_nodes if not is_size(n)]
        made_anew = node.op == "call_function" and facts(operator_of(node)).view == "none"
        if made_anew or (given and found.issuperset(given)):
            found.add(node)
    return found


def makes_tensor(node: fx.Node) -> bool:
    """Whether a node makes one tensor."""
    return isinstance(node.meta.get("val"), torch.Tensor)


def _is_number(node: fx.Node) -> bool:
    """Whether a node makes a tensor of one number for the whole batch."""
    return makes_tensor(node) and all(isinstance(n, int) and n == 1 for n in node.meta["val"].shape)


def _holds_features(node: fx.Node) -> bool:
    """Whether a tensor holds real or complex numbers, and no indices or truths."""
    value: torch.Tensor = node.meta["val"]
    return value.is_floating_point() or value.is_complex()


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
            not isinstance(node.meta.get("val"), torch.SymInt | torch.SymFloat)
            and any(user in removed for user in node.users)
            and all(user in removed or user.op == "output" for user in node.users)
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
    levels: Levels,
) -> Site | None:
    """A crossing tensor with its layout, or None where the layout cannot be read."""
    value: torch.Tensor = node.meta["val"]
    level = places[node.name].level
    single = _single(value, dimensions)
    shape = [size for axis, size in enumerate(value.shape) if axis not in single]
    read = _layout(shape, dimensions, levels, levels.sizes[level])
    if read is None or BATCH_SECOND in node.meta or _holds_images_as_channels(shape, levels):
        return None
    layout, channels = read
    return Site(node.name, channels, layout, level, value.is_complex(), single=single)


def _holds_images_as_channels(shape: Sequence[Any], levels: Levels) -> bool:
    """Whether all images are channels of one, at one size of theirs: each has kernels of its own.

    Then what grows is the number of images.
    """
    one = isinstance(shape[0], int) and shape[0] == 1
    return one and not levels.free and any(map(grows, shape[1:]))


def _vector(node: fx.Node, places: Mapping[str, Place], levels: Levels) -> Site | None:
    """A tensor of one axis of channels beside those of length 1, as large for every image."""
    value: torch.Tensor = node.meta["val"]
    longer = [axis for axis in range(1, value.dim()) if value.shape[axis] != 1]
    if value.dim() < 2 or len(longer) > 1:
        return None
    axis = longer[0] if longer else 1
    channels, single = value.shape[axis], tuple(a for a in range(1, value.dim()) if a != axis)
    if grows(channels) or (not levels.free and (hint(channels),) in levels.maps):
        return None
    level, is_complex = places[node.name].level, value.is_complex()
    return Site(node.name, hint(channels), "vector", level, is_complex, single=single)


def _vectors(node: fx.Node, places: Mapping[str, Place], levels: Levels) -> Site | None:
    """Several vectors for each image, as many for every one: the queries of a decoder.

    Of a network of one size an axis about as long as a level has positions counts these.
    """
    value: torch.Tensor = node.meta["val"]
    of_each = tuple(map(hint, value.shape[1:]))
    if len(of_each) != 2 or any(map(grows, value.shape[1:])):
        return None
    positions = [] if levels.free else [math.prod(size) for size in levels.maps]
    if any(alike(number, own) for number in positions for own in of_each):
        return None
    level, is_complex = places[node.name].level, value.is_complex()
    return Site(node.name, math.prod(of_each), "vector", level, is_complex, parts=of_each)


def _of_parts(
    node: fx.Node, places: Mapping[str, Place], dimensions: int, levels: Levels
) -> Site | None:
    """A tensor of several axes of a fixed length before its sizes: frames of a clip, shifts."""
    value: torch.Tensor = node.meta["val"]
    parts, sizes = value.shape[1:-dimensions], value.shape[-dimensions:]
    if len(parts) < 2 or any(map(grows, parts)):
        return None
    level, channels = places[node.name].level, math.prod(map(hint, parts))
    shape = (value.shape[0], channels, *sizes)
    read = _map_layout(shape, levels.maps, levels.sizes[level])
    if read is None or read[0] != "channels_first":
        return None
    of_each = tuple(map(hint, parts))
    return Site(node.name, channels, "channels_first", level, value.is_complex(), parts=of_each)


def _projected(
    node: fx.Node, places: Mapping[str, Place], dimensions: int, levels: Levels
) -> Site | None:
    """A map of two sides of volumes, or a row of one of images, where that becomes of them."""
    side = levels.projected
    if side is None or dimensions != len(levels.sizes[0]):
        return None
    flat = site(node, places, dimensions - 1, _without_side(levels, side))
    return replace(flat, lacks=side) if flat and flat.layout == "channels_first" else None


def _single(value: torch.Tensor, dimensions: int) -> tuple[int, ...]:
    """Axes of length 1 that a tensor has beyond batch, channels and sizes."""
    more = value.dim() - dimensions - 2
    ones = [a for a in range(1, value.dim()) if isinstance(value.shape[a], int)]
    ones = [a for a in ones if value.shape[a] == 1]
    return tuple(ones[:more]) if 0 < more <= len(ones) else ()


def _layout(
    shape: Sequence[Any],
    dimensions: int,
    levels: Levels,
    about: tuple[int, ...],
) -> tuple[Layout, int] | None:
    maps = levels.maps
    if len(shape) == dimensions + 2 and (read := _map_layout(shape, maps, about)) is not None:
        return read
    if len(shape) != 3:
        return None
    (_, first, last), positions = shape, [math.prod(size) for size in maps]
    own = math.prod(about)

    def are_positions(size: Any) -> bool:
        """Whether it counts all of a map: its rows alone are no tokens, nor are as many queries."""
        if not grows(size):
            return not levels.free and hint(size) in positions
        return hint(size) == own or sides_counted(size) >= dimensions

    if not grows(last) and are_positions(first):
        return "tokens_last", hint(last)
    if not grows(first) and are_positions(last):
        return "tokens_first", hint(first)
    return None


def _map_layout(
    shape: Sequence[Any], maps: Collection[tuple[int, ...]], about: tuple[int, ...]
) -> tuple[Layout, int] | None:
    free = [grows(s) for s in shape]
    numbers = [hint(s) for s in shape]
    first, last = slice(2, None), slice(1, -1)
    # a free size is read by its symbol, a fixed one by its number
    near = [all(map(alike, about, numbers[where])) for where in (first, last)]
    # where as many channels are near too: a pad or a crop changes all sides by as much
    evenly = [
        fits and len({n - a for a, n in zip(about, numbers[where], strict=True)}) == 1
        for fits, where in zip(near, (first, last), strict=True)
    ]
    for reads in (
        [not free[1] and all(free[first]), not free[-1] and all(free[last])],
        [tuple(numbers[where]) in maps for where in (first, last)],
        # cropped, or made smaller by convolutions without padding
        *([fits == [True, False], fits == [False, True]] for fits in (near, evenly)),
    ):
        # what follows the input are no channels, though there be as many at the example
        reads = [fits and not free[axis] for fits, axis in zip(reads, (1, -1), strict=True)]
        if any(reads):
            return ("channels_first", numbers[1]) if reads[0] else ("channels_last", numbers[-1])
    return None
