"""Resolution level of every operation, from the sizes in the exported graph.

See ``docs/decisions/levels.md`` for what a level is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import Literal

from torch import fx

from weightscope.adapters.symbols import Probe, free_symbols, hint, is_symbolic
from weightscope.errors import StructureError, keyword
from weightscope.graph.capture import Capture
from weightscope.graph.corrections import corrected
from weightscope.graph.excursions import (
    parts_of,
    without_coarse_answers,
    without_excursions,
    without_fewer_keys,
    without_pyramids,
    without_sequences,
)
from weightscope.graph.growing import (
    follows_the_input,
    growing_sides,
    has_maps_of_slices,
    has_volumes_of_maps,
    image_inputs,
    maps_of_signals,
    padded_together,
    projected_side,
    resized_first,
    sizes_at,
    space_of,
    takes_slices_apart,
)
from weightscope.graph.nodes import first_tensor, is_size, operator_of, raises, tensor_of
from weightscope.graph.operators import facts
from weightscope.graph.pieces import (
    batch_of,
    joined_pieces,
    joins_batches,
    lays_channels,
    lays_copies,
    parts_batches,
    parts_of_batches,
)
from weightscope.graph.positions import GLOBAL, Global, Positions, elements
from weightscope.graph.queries import Queries
from weightscope.graph.structure import ExampleInputs
from weightscope.thresholds import LEVEL_RATIO

# sizes are read off where padding and cropping by a few pixels no longer count, for an image that
# has so many along its longest side; a smaller one is enlarged to as many before
_PROBE_SCALES = (16, 32)
_PROBE_SIDE = 256


Source = Literal["input", "resized", "maps"]


@dataclass(frozen=True)
class Levels:
    """Level of every operation that the image reaches.

    Attributes:
        level: Level of each fine node, 0 is full resolution.
        reductions: Reduction of each level, one figure for each spatial dimension.
        sizes: Spatial size at each level, at the example input.
        maps: The same, and where a side of the image has one size every size that a map has.
        empty: Whether some result has no elements at a large input, though it has at the example's.
        parts: The levels of each module that goes down and comes back up on its own, counted from
            its ends, by the module's name.
        free: Whether the positions of levels follow the input's size, at least along one side.
        whole: The size, at the example, that levels are counted from.
        counted_from: What has that size: the ``"input"``, ``"resized"`` images, which the forward
            brings to one size before anything else, or ``"maps"`` that it makes of signals.
        projected: The side of volumes that the maps behind them lack; None where none do.
    """

    level: Mapping[fx.Node, int]
    reductions: tuple[tuple[float, ...], ...]
    sizes: tuple[tuple[int, ...], ...]
    maps: frozenset[tuple[int, ...]]
    empty: bool
    parts: Mapping[str, Levels]
    free: bool = False
    whole: tuple[int, ...] = ()
    counted_from: Source = "input"
    projected: int | None = None


def plausible(
    capture: Capture, levels: Levels, inputs: ExampleInputs, answers_in_one_size: Callable[[], bool]
) -> bool:
    """Whether the graph follows the image's size as it claims.

    Where a forward turns a size into a number (``int(tokens**0.5)``, a vector of fixed length), the
    graph claims to follow the input and does not: read at a large input, results are empty, a level
    holds less than one position at the example's size, or an output has one size for every input.

    Args:
        capture: The graph.
        levels: Its levels.
        inputs: How the model is called.
        answers_in_one_size: Whether the model itself returns one size for every input, as one does
            whose last step resizes to a size of its own, or takes sums over all positions.
    """
    one_size = levels.counted_from != "resized" and _output_is_fixed(capture, inputs)
    fixed = (one_size or len(levels.reductions) < 2) and _maps_of_fixed_size(capture, inputs)
    return (
        not (levels.empty or fixed)
        and (not one_size or answers_in_one_size())
        and all(
            part <= 2 * whole
            for step in levels.reductions
            for part, whole in zip(step, levels.whole, strict=True)
        )
    )


def _output_is_fixed(capture: Capture, inputs: ExampleInputs) -> bool:
    """Whether every image that comes out has a fixed size, though those that go in do not."""
    outputs = [
        value.shape[1:]
        for node in capture.nodes[-1].all_input_nodes
        if (value := tensor_of(node)) is not None
        and value.dim() == inputs.rank
        and math.prod(hint(value.shape[axis]) for axis in inputs.space) > 1
    ]
    fixed = [not any(is_symbolic(s) for s in sizes) for sizes in outputs]
    return follows_the_input(capture) and bool(fixed) and all(fixed)


def _maps_of_fixed_size(capture: Capture, inputs: ExampleInputs) -> bool:
    """Whether kernels work on maps of one size for every input."""
    maps = [
        value
        for node in capture.nodes
        if facts(operator_of(node)).kernel
        and (value := tensor_of(node)) is not None
        and value.dim() == inputs.dimensions + 2
    ]
    return follows_the_input(capture) and any(
        not any(map(is_symbolic, value.shape[1:])) and math.prod(value.shape[2:]) > 1
        for value in maps
    )


def read_levels(capture: Capture, inputs: ExampleInputs) -> Levels:
    """Give every operation its resolution level.

    Where the layout of an operation is known (convolution, normalisation, pooling, resizing,
    linear) its number of positions P is read at a large input, and ``P_input / P`` sorted: a new
    level starts where the ratio to the last is at least 1.5. Other operations inherit from their
    largest input. What does not grow with the input is global: it has no level of its own, and
    lies where it is used. Windows of several sizes beside each other, and those that overlap more
    than twice, lie at the level that they pool where nothing but 1x1 kernels is behind them.

    Args:
        capture: The exported program with its module calls.
        inputs: How the model is called.

    Raises:
        StructureError: No input looks like an image.
    """
    images = image_inputs(capture)
    if not images:
        raise StructureError(
            f"no input of the forward is a tensor (batch, channels, *{inputs.dimensions} sizes);"
            f" pass {keyword('example_inputs')} with one"
        )
    counted = _what_is_counted(capture, images, inputs)
    reader = _positions(capture, images, inputs, counted)
    image, dimensions = counted.image, reader.dimensions
    reader.begin_beside(images[1:])
    queries = Queries([*images, image])
    factor, pooled, told = _factors(capture, [*images, image], reader, queries)
    weights = set(capture.program.graph_signature.inputs_to_parameters)
    factor |= corrected(factor, told, images, reader, queries.answered, weights)
    counts = live_nodes(capture.nodes) | set(images)  # what no output depends on makes no level
    factor = {node: value for node, value in factor.items() if node in counts}
    # what is to come of a signal may have any length; images of other sizes have their own levels
    others = [factor[i] for i in images if i in factor] if dimensions == 1 else []
    clusters = _cluster(factor.values(), others)
    level = {node: clusters[value] for node, value in factor.items()}
    level = without_sequences(level, factor, reader)
    for flattened in (without_pyramids, without_fewer_keys, without_coarse_answers):
        level = flattened(capture, level)

    def found(level: Mapping[fx.Node, int], parts: Mapping[str, Levels]) -> Levels:
        order = {old: new for new, old in enumerate(sorted(set(level.values())))}
        level = {node: order[old] for node, old in level.items()}
        level = _where_it_is_used(capture, level, pooled)
        level = _where_it_asks(capture, level, queries.answered)
        reductions = _reductions(level, factor, reader, len(order), dimensions)
        if counted.projected is not None:
            reductions = _kept_along(reductions, counted.projected)
        sizes = _sizes_at_the_example(counted.whole, reductions)
        return Levels(
            level=level,
            reductions=reductions,
            sizes=sizes,
            maps=frozenset(sizes) | _sizes_of_maps(level.keys() - pooled, reader),
            empty=_some_empty(level, reader.large),
            parts=parts,
            free=reader.growth != 1,
            whole=tuple(map(hint, space_of(counted.whole))),
            counted_from=counted.source,
            projected=counted.projected,
        )

    parts = {name: found(inside, {}) for name, inside in parts_of(capture, level).items()}
    shallow = without_excursions(capture, level)
    # where all that goes down does so inside of blocks, these blocks are the network
    return found(shallow if len({*shallow.values()}) > 1 else level, parts)


@dataclass(frozen=True)
class _Counted:
    """What positions are counted of.

    Attributes:
        image: The input, or what a forward makes of it before any layer.
        channels: The axis of its channels.
        whole: What images of several sizes are padded to; else the image.
        source: Which of these the image is.
        before: Of maps that are made of signals, what no layer made.
        projected: The side of volumes that the maps behind them lack; None where none do.
    """

    image: fx.Node
    channels: int | None
    whole: fx.Node
    source: Source
    before: Collection[fx.Node]
    projected: int | None


def _what_is_counted(
    capture: Capture, images: Sequence[fx.Node], inputs: ExampleInputs
) -> _Counted:
    projected = projected_side(capture, images)
    if (first := maps_of_signals(capture, images)) is not None:
        return _Counted(first.maps, 1, first.maps, "maps", first.before, projected)
    resized = resized_first(capture, images) if follows_the_input(capture) else None
    if resized is not None:
        return _Counted(resized, 1, resized, "resized", (), projected)
    whole = padded_together(capture, images, inputs.dimensions) or images[0]
    return _Counted(images[0], inputs.channels, whole, "input", (), projected)


def _positions(
    capture: Capture, images: Sequence[fx.Node], inputs: ExampleInputs, counted: _Counted
) -> Positions:
    """What counts positions, at two sizes of the images."""
    dimensions = len(space_of(counted.image))
    rests = growing_sides(capture, images, dimensions)
    if counted.projected is not None:  # one side behind has nothing of it, which tells no level
        held = free_symbols([space_of(images[0])[counted.projected]])
        rests = {symbol: rest for symbol, rest in rests.items() if symbol not in held}
    times = math.ceil(_PROBE_SIDE / max(map(hint, space_of(images[0]))))
    small, large = (sizes_at(capture, images, scale * times, rests) for scale in _PROBE_SCALES)
    apart = dimensions == 3 and (
        takes_slices_apart(capture, counted.image)
        or (inputs.held is not None and has_maps_of_slices(capture))
    )
    slices = apart or counted.projected is not None
    return Positions(
        counted.image,
        counted.channels,
        small,
        large,
        across=(counted.projected or 0) if slices else None,
        volumes=has_volumes_of_maps(capture, inputs),
        whole=counted.whole,
        before=counted.before,
    )


def live_nodes(nodes: Sequence[fx.Node]) -> frozenset[fx.Node]:
    """The operations of a graph, in order, that an output depends on."""
    live: set[fx.Node] = set()
    for node in reversed(nodes):
        if node.op == "output" or any(user in live for user in node.users):
            live.add(node)
    return frozenset(live)


def _factors(
    capture: Capture, images: Sequence[fx.Node], reader: Positions, queries: Queries
) -> tuple[dict[fx.Node, float], set[fx.Node], set[fx.Node]]:
    """P_input / P of every node that an image reaches, which are global, and which tell their own.

    Positions of a spectrum count as those that it was made from, those of one of several pieces
    that are joined again as those of the whole.
    """
    factor: dict[fx.Node, float] = {image: reader.of_image(image) for image in images}
    whole_of, joined = joined_pieces(capture.nodes, reader.dimensions)
    parts, whole_batches = parts_of_batches(capture.nodes, reader.dimensions)
    halved: dict[fx.Node, float] = {}
    pooled: set[fx.Node] = set()
    told: set[fx.Node] = set()
    size_told: dict[fx.Node, int] = {}  # of the last operation that told
    size = partial(elements, probe=reader.large)
    for node in capture.nodes:
        feeds = [n for n in node.all_input_nodes if n in factor]
        if node in factor or not feeds or node.op == "output" or is_size(node):
            continue
        if node in reader.before:
            factor[node] = 1.0
            continue
        reader.note(node)
        # of as large ones, what a slice or a repetition made has positions that nothing tells of
        largest = max(feeds, key=lambda n: (size(n), size(n) == size_told.get(n, size(n))))
        halved[node] = _halved(node, halved.get(largest, 1.0), reader.large)
        of_images = reader.counts_images(batch_of(node) or largest)
        if (whole := joined.get(node, whole_batches.get(node))) is not None:
            halved[node] = halved.get(whole, 1.0)
        apart = None if of_images else parts.get(node)
        if (whole := apart or whole_of.get(node)) is not None:
            halved[node] *= elements(whole, reader.large) / max(1, elements(node, reader.large))
        reader.note_borders(node, feeds, joined.get(node, largest), is_piece=node in whole_of)
        reader.note_frames(node, largest)
        is_piece = halved[node] != 1 or reader.borders.share(node) != 1
        shares = is_piece and (joins_batches(node) or parts_batches(node))
        shares &= node not in whole_batches
        # of images, a quarter of the channels may be every other pixel
        apart_too = reader.dimensions == 1 and lays_channels(node)
        if lays_copies(node) or apart_too or (of_images and (shares or node in parts)):
            reader.note_pieces(node)
        own: float | Global | None = reader.of_shuffled_frames(node)
        own = own or reader.of_resized_spectrum(node, factor[largest])
        own = own or reader.of_other_sides(node, largest, factor[largest] * halved[node])
        own = own or reader.of_samples(node, factor) or reader.of_samples_again(node)
        own = own or reader.of_sequences_first(node)
        own = own or reader.factor(node, pooled=all(n in pooled for n in feeds))
        if queries.note(node, feeds, pooled):
            own = None if own is None else GLOBAL  # layers that know of positions see vectors
        if own is None or own is GLOBAL:
            factor[node] = queries.place(node, factor) or factor[largest]
            if own is GLOBAL:
                pooled.add(node)
                halved[node] = 1.0
        else:
            factor[node] = own / halved[node]
            told.add(node)
        size_told[node] = size(node) if node in told else size_told.get(largest, size(largest))
    return factor, pooled, told


def _halved(node: fx.Node, before: float, probe: Probe) -> float:
    """How many positions stand for one of a spectrum: some two in that of real numbers."""
    spectrum = facts(operator_of(node)).spectrum
    if spectrum == "half":
        given = next(n for n in node.all_input_nodes if tensor_of(n) is not None)
        return before * elements(given, probe) / max(1, elements(node, probe))
    return 1.0 if spectrum == "back" else before


def _where_it_is_used(
    capture: Capture, level: Mapping[fx.Node, int], pooled: set[fx.Node]
) -> dict[fx.Node, int]:
    """Move what is global up to its users, where these are all shallower.

    A vector from which positions are made again (by a transposed convolution) stays.
    """
    moved = dict(level)
    for node in reversed(capture.nodes):
        if node in pooled:
            users = [user for user in node.users if user in moved]
            if users and not any(_makes_positions(user) for user in users):
                moved[node] = min(moved[node], max(moved[user] for user in users))
    return moved


def _where_it_asks(
    capture: Capture, level: Mapping[fx.Node, int], vectors: Collection[fx.Node]
) -> dict[fx.Node, int]:
    """Move what is made of queries down to where it asks next, where it does nothing else.

    So all of one attention lies at one level.
    """
    moved = dict(level)
    for node in reversed(capture.nodes):
        users = [moved.get(user, -1) for user in node.users if not is_size(user)]
        if node in vectors and node in moved and users:
            moved[node] = max(moved[node], min(users))
    return moved


def _makes_positions(node: fx.Node) -> bool:
    return raises(node) and facts(operator_of(node)).view != "resize"


def _sizes_at_the_example(
    image: fx.Node, reductions: Sequence[tuple[float, ...]]
) -> tuple[tuple[int, ...], ...]:
    whole = [hint(size) for size in space_of(image)]
    return tuple(
        tuple(max(1, round(size / part)) for size, part in zip(whole, step, strict=True))
        for step in reductions
    )


def _sizes_of_maps(nodes: Iterable[fx.Node], reader: Positions) -> set[tuple[int, ...]]:
    """Every size of a map that follows no input's.

    Where a side is fixed all of them: convolutions without padding make odd ones. Else those of
    tiles of one size, of which a larger image has more.
    """
    found: set[tuple[int, ...]] = set()
    held = any(reader.borders.fixed) or reader.slices
    for node in nodes:
        value, layout = first_tensor(node), facts(operator_of(node)).layout
        if layout is None or value is None or value.dim() != reader.dimensions + 2:
            continue
        sides = value.shape[2:] if layout == "channels_first" else value.shape[1:-1]
        if held or not any(map(is_symbolic, sides)):
            found.add(tuple(map(hint, sides)))
    return found


def _some_empty(nodes: Iterable[fx.Node], large: Probe) -> bool:
    """Whether a result has no elements at a large input, though it has at the example's.

    What is only joined to others (what a side lacks to a multiple of a window) may have none.
    """
    empty = {
        node
        for node in nodes
        if (value := tensor_of(node)) is not None
        and large.numel(value) == 0
        and all(hint(size) for size in value.shape)
    }
    joins = {
        user for node in empty for user in node.users if facts(operator_of(user)).view == "cat"
    }
    return any(user not in empty and user not in joins for node in empty for user in node.users)


def _cluster(factors: Iterable[float], inputs: Iterable[float] = ()) -> dict[float, int]:
    """The level of each factor: a new one where positions are some fewer than just before.

    Args:
        factors: P_input / P of all that is counted.
        inputs: Those of the inputs. What has as many positions as one of them that is no half as
            long as the image (what is to come of a signal) lies with it, and leads to no level.
    """
    index: dict[float, int] = {}
    beside = [own for own in inputs if 1 < own < _HALF_AS_LONG]
    last, level = None, -1
    for factor in sorted(set(factors)):
        if any(math.isclose(factor, own, rel_tol=_NOISE) for own in beside):
            index[factor] = 0
            continue
        if last is None or factor / last >= LEVEL_RATIO:
            level += 1
        index[factor] = level
        last = factor
    return index


_HALF_AS_LONG, _NOISE = 2, 1e-6


def _reductions(
    level: Mapping[fx.Node, int],
    factor: Mapping[fx.Node, float],
    reader: Positions,
    depth: int,
    dimensions: int,
) -> tuple[tuple[float, ...], ...]:
    read: dict[int, tuple[float, ...]] = {}
    total: dict[int, float] = {}
    tiles: list[tuple[float, ...]] = []
    for node, where in level.items():
        total.setdefault(where, factor[node])
        reduction = reader.reduction(node)
        if reduction is not None:
            whole = (1.0,) * dimensions if where == 0 else read.get(where)
            reduction = _as_of_the_whole(reduction, factor[node], whole, tiles)
        if (
            where not in read
            and reduction is not None
            and reader.factor(node, pooled=False) == factor[node]
            and math.prod(reduction) > factor[node] / _TWO_TILES  # no frames in the batch
        ):
            read[where] = tuple(_tidy(value) for value in reduction)
    for node, where in level.items():  # slices of volumes: their kernels know of the sides alone
        if where not in read and (growth := reader.growth_of_map(node, factor[node])) is not None:
            read[where] = tuple(_tidy(value) for value in growth)
    return tuple(
        (1.0,) * dimensions
        if where == 0 and total[0] == 1
        else read.get(where, (_tidy(total[where] ** (1 / dimensions)),) * dimensions)
        for where in range(depth)
    )


def _kept_along(
    reductions: Sequence[tuple[float, ...]], side: int
) -> tuple[tuple[float, ...], ...]:
    """Reductions with that along a side as large as before, where maps lack the side."""
    along = accumulate((step[side] for step in reductions), max)
    return tuple((*s[:side], n, *s[side + 1 :]) for s, n in zip(reductions, along, strict=True))


def _as_of_the_whole(
    reduction: tuple[float, ...],
    factor: float,
    whole: tuple[float, ...] | None,
    tiles: list[tuple[float, ...]],
) -> tuple[float, ...]:
    """A reduction as of the image where its tiles lie in the batch.

    Args:
        reduction: The image's size over that of a map.
        factor: Its number of positions over those of all tiles.
        whole: The reduction of the map's level, where known.
        tiles: How many tiles lie along each side, of every way to cut an image that was met.
    """
    number = math.prod(reduction) / factor
    if number < _TWO_TILES:
        return reduction
    sides = next((t for t in tiles if abs(math.prod(t) / number - 1) < _ROUNDING), None)
    if sides is None and whole is not None:
        sides = tuple(a / b for a, b in zip(reduction, whole, strict=True))
        tiles.append(sides)
    return tuple(a / b for a, b in zip(reduction, sides, strict=True)) if sides else reduction


_TWO_TILES, _ROUNDING = 1.9, 0.02


def _tidy(value: float) -> float:
    """The nearest whole number where only padding keeps a reduction from it."""
    return float(round(value)) if abs(value - round(value)) < 0.02 * value else value
