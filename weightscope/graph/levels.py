"""Resolution level of every operation, from the sizes in the exported graph.

See ``docs/decisions/levels.md`` for what a level is.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from torch import fx

from weightscope.adapters.symbols import (
    Probe,
    free_symbols,
    grows,
    hint,
    holds_at,
    is_symbolic,
    key,
    multiple,
)
from weightscope.errors import StructureError, keyword
from weightscope.graph.borders import Borders
from weightscope.graph.capture import Call, Capture
from weightscope.graph.layouts import images_of
from weightscope.graph.nodes import argument, first_tensor, is_size, operator_of, root, tensor_of
from weightscope.graph.operators import Operator, facts
from weightscope.graph.pieces import joined_pieces, windows
from weightscope.graph.structure import ExampleInputs
from weightscope.thresholds import LEVEL_RATIO

# sizes are read off where padding and cropping by a few pixels no longer count
_PROBE_SCALES = (16, 32)
_ATTENDS = ("product", "whole")  # queries to keys and values
_SAMPLES = ("aten::grid_sampler", "aten::grid_sampler_2d", "aten::grid_sampler_3d")
_INVERSE_TRANSFORMS = tuple(
    f"aten::fft_{name}" for name in ("ifft", "ifft2", "ifftn", "irfft", "irfft2", "irfftn")
)


class Global(Enum):
    """Marks what does not grow with the input."""

    GLOBAL = "global"


GLOBAL = Global.GLOBAL


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
        inside: The size that the forward brings its images to before anything else, from which
            levels are counted; empty where they are counted from the input's own.
    """

    level: Mapping[fx.Node, int]
    reductions: tuple[tuple[float, ...], ...]
    sizes: tuple[tuple[int, ...], ...]
    maps: frozenset[tuple[int, ...]]
    empty: bool
    parts: Mapping[str, Levels]
    inside: tuple[int, ...] = ()


def image_inputs(capture: Capture) -> list[fx.Node]:
    """Placeholders of the inputs that have the image's axes, largest first."""
    images = [n for n in capture.nodes if n.op == "placeholder" and n.meta.get("space")]
    return sorted(images, key=lambda n: -math.prod(map(hint, _space(n))))


def _space(image: fx.Node) -> tuple[Any, ...]:
    """Sizes of an image along its spatial axes; what an operator made has the channels first."""
    shape = image.meta["val"].shape
    return tuple(shape[axis] for axis in image.meta.get("space") or range(2, len(shape)))


def image_sizes(capture: Capture) -> tuple[Any, ...]:
    """Sizes of the largest image, free ones and numbers, along its spatial axes."""
    images = image_inputs(capture)
    return _space(images[0]) if images else ()


def follows_the_input(capture: Capture) -> bool:
    """Whether the captured graph holds at other image sizes."""
    return any(is_symbolic(size) for image in image_inputs(capture) for size in _space(image))


def sizes_held(capture: Capture) -> int:
    """How many sizes of the images the captured graph holds to one number."""
    sizes = (size for image in image_inputs(capture) for size in _space(image))
    return sum(not is_symbolic(size) for size in sizes)


def plausible(capture: Capture, levels: Levels, inputs: ExampleInputs) -> bool:
    """Whether the graph follows the image's size as it claims.

    Where a forward turns a size into a number (``int(tokens**0.5)``, a vector of fixed length), the
    graph claims to follow the input and does not: read at a large input, results are empty, a level
    holds less than one position at the example's size, or an output has one size for every input.
    """
    sizes = [tuple(image.shape[axis] for axis in inputs.space) for image in images_of(inputs)]
    size = levels.inside or max(sizes, key=math.prod)
    return (
        not levels.empty
        and (bool(levels.inside) or not _output_is_fixed(capture, inputs))
        and (len(levels.reductions) > 1 or not _maps_of_fixed_size(capture, inputs))
        and all(
            part <= 2 * whole
            for step in levels.reductions
            for part, whole in zip(step, size, strict=True)
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


def _resized_first(capture: Capture, images: Sequence[fx.Node]) -> fx.Node | None:
    """Where images of any size are brought to one, before any kernel, and all kernels work there.

    None where nothing does.
    """
    reached = set(images)
    found: fx.Node | None = None
    for node in capture.nodes:
        value = first_tensor(node)
        if value is None or reached.isdisjoint(node.all_input_nodes):
            continue
        reached.add(node)
        row = facts(operator_of(node))
        follows = any(map(is_symbolic, value.shape[1:]))
        if row.kernel and (follows or found is None):
            return None
        resizes = row.view in ("resize", "adaptive") and math.prod(value.shape[2:]) > 1
        if found is None and resizes and not follows:
            found = node
    return found


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
    rests = _growing_sides(capture, images, inputs.dimensions)
    small, large = (_probe(capture, images, scale, rests) for scale in _PROBE_SCALES)
    image, channels = images[0], inputs.channels
    resized = _resized_first(capture, images) if follows_the_input(capture) else None
    if resized is not None:
        image, channels = resized, 1
    slices = inputs.dimensions == 3 and (
        inputs.held is not None or _takes_slices_apart(capture, image)
    )
    reader = _Positions(image, channels, small, large, slices=slices)
    factor, pooled, told = _factors(capture, [*images, image], reader)
    factor |= _where_resized_to(images[1:], factor) | _where_queries_lie(factor, told)
    counts = live_nodes(capture) | set(images)  # what no output depends on makes no level
    factor = {node: value for node, value in factor.items() if node in counts}
    clusters = _cluster(factor.values())
    level = {node: clusters[value] for node, value in factor.items()}
    level = _without_sequences(level, factor, reader)
    level = _without_pyramids(capture, level)

    def counted(level: Mapping[fx.Node, int], parts: Mapping[str, Levels]) -> Levels:
        order = {old: new for new, old in enumerate(sorted(set(level.values())))}
        level = {node: order[old] for node, old in level.items()}
        level = _where_it_is_used(capture, level, pooled)
        reductions = _reductions(level, factor, reader, len(order), inputs.dimensions)
        sizes = _sizes_at_the_example(image, reductions)
        inside = tuple(map(hint, _space(image))) if image is resized else ()
        maps = frozenset(sizes) | _sizes_of_maps(level.keys() - pooled, reader)
        return Levels(level, reductions, sizes, maps, _some_empty(level, large), parts, inside)

    parts = {name: counted(inside, {}) for name, inside in _parts(capture, level).items()}
    return counted(_without_excursions(capture, level), parts)


def live_nodes(capture: Capture) -> frozenset[fx.Node]:
    """The operations that an output depends on."""
    live: set[fx.Node] = set()
    for node in reversed(capture.nodes):
        if node.op == "output" or any(user in live for user in node.users):
            live.add(node)
    return frozenset(live)


def _parts(capture: Capture, level: Mapping[fx.Node, int]) -> dict[str, dict[fx.Node, int]]:
    """Levels inside each module that is a network of its own, with what its calls are given.

    Such a module enters and leaves at one level, goes deeper inside, comes back by an operation
    that raises, and is not alone in going that deep. Of modules within each other the outermost
    counts.
    """
    found: dict[str, dict[fx.Node, int]] = {}
    for call in sorted(capture.calls, key=lambda call: call.first - call.last):
        stray = _stray(call, capture, level)
        if stray is None or any(call.module.startswith(f"{name}.") for name in found):
            continue
        inside, own = stray
        if any(level[n] > own and facts(operator_of(n)).kernel for n in inside) and any(
            raises(n) for n in inside
        ):
            given = [root(n) for n in call.entries.values() if root(n) in level]
            nodes = found.setdefault(call.module, {})
            nodes.update((n, level[n]) for n in (*inside, *given))
    return found


def _factors(
    capture: Capture, images: Sequence[fx.Node], reader: _Positions
) -> tuple[dict[fx.Node, float], set[fx.Node], set[fx.Node]]:
    """P_input / P of every node that an image reaches, which are global, and which tell their own.

    Positions of a spectrum count as those that it was made from, those of one of several pieces
    that are joined again as those of the whole.
    """
    factor: dict[fx.Node, float] = {image: reader.of_image(image) for image in images}
    whole_of, joined = joined_pieces(capture.nodes)
    halved: dict[fx.Node, float] = {}
    pooled: set[fx.Node] = set()
    told: set[fx.Node] = set()
    for node in capture.nodes:
        feeds = [n for n in node.all_input_nodes if n in factor]
        if node in factor or not feeds or node.op == "output" or is_size(node):
            continue
        reader.note(node)
        largest = max(feeds, key=lambda n: _elements(n, reader.large))
        halved[node] = _halved(node, halved.get(largest, 1.0), reader.large)
        if node in joined:
            halved[node] = halved.get(joined[node], 1.0)
        if node in whole_of:
            halved[node] *= _elements(whole_of[node], reader.large) / max(
                1, _elements(node, reader.large)
            )
        reader.borders.note(node, feeds, joined.get(node, largest), is_piece=node in whole_of)
        own: float | Global | None = reader.of_shuffled_frames(node)
        own = own or reader.of_resized_spectrum(node, factor[largest])
        own = own or reader.of_more_sides(node, largest, factor[largest] * halved[node])
        own = own or reader.of_samples(node, factor)
        own = own or reader.factor(node, pooled=all(n in pooled for n in feeds))
        if own is None or own is GLOBAL:
            factor[node] = factor[largest]
            if own is GLOBAL:
                pooled.add(node)
                halved[node] = 1.0
        else:
            factor[node] = own / halved[node]
            told.add(node)
    return factor, pooled, told


def _where_resized_to(
    images: Sequence[fx.Node], factor: Mapping[fx.Node, float]
) -> dict[fx.Node, float]:
    """P_input / P of what a forward does to an image before it only resizes it: that behind.

    A coarse field that is laid beside a fine map makes no level of its own.
    """
    found: dict[fx.Node, float] = {}
    for image in images:
        before, behind, waiting = {image}, set(), [image]
        while waiting:
            for user in waiting.pop().users:
                if user not in factor or user in before:
                    continue
                row = facts(operator_of(user))
                if row.view in ("resize", "adaptive"):
                    behind.add(factor[user])
                elif row.kernel or row.layout or factor[user] != factor[image]:
                    behind.add(math.nan)
                else:
                    before.add(user)
                    waiting.append(user)
        if len(behind) == 1 and not math.isnan(own := behind.pop()):
            found |= dict.fromkeys(before, own)
    return found


def _halved(node: fx.Node, before: float, probe: Probe) -> float:
    """How many positions stand for one of a spectrum: some two in that of real numbers."""
    spectrum = facts(operator_of(node)).spectrum
    if spectrum == "half":
        given = next(n for n in node.all_input_nodes if tensor_of(n) is not None)
        return before * _elements(given, probe) / max(1, _elements(node, probe))
    return 1.0 if spectrum == "back" else before


def _where_queries_lie(
    factor: Mapping[fx.Node, float], told: Collection[fx.Node]
) -> dict[fx.Node, float]:
    """P_input / P of attention between two levels: that of its queries, though its keys be larger.

    The layers behind tell which that is.

    Args:
        factor: P_input / P of each node.
        told: Those whose operation tells it.
    """
    found: dict[fx.Node, float] = {}
    for node in factor:
        given = [factor[n] for n in node.all_input_nodes if n in factor]
        attends = node not in told and facts(operator_of(node)).view in _ATTENDS
        if not attends or not given or _alike(given):
            continue
        between, waiting, behind = {node}, [node], list[float]()
        while waiting:
            for user in waiting.pop().users:
                if user in told:
                    behind.append(factor[user])
                elif user in factor and user not in between:
                    between.add(user)
                    waiting.append(user)
        if behind and _alike(behind) and any(_alike([own, *behind]) for own in given):
            found |= dict.fromkeys(between, behind[0])
    return found


def _alike(factors: Collection[float]) -> bool:
    """Whether positions are of one level."""
    return max(factors) / min(factors) < LEVEL_RATIO


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


def _makes_positions(node: fx.Node) -> bool:
    return raises(node) and facts(operator_of(node)).view != "resize"


def raises(node: fx.Node) -> bool:
    """Whether an operation comes back up; a transposed convolution does where it strides."""
    row = facts(operator_of(node))
    if not row.raises or row.view != "convolution":
        return row.raises
    strides = argument(node, "stride")
    return any(s != 1 for s in (strides if isinstance(strides, list | tuple) else (strides,)))


def _sizes_at_the_example(
    image: fx.Node, reductions: Sequence[tuple[float, ...]]
) -> tuple[tuple[int, ...], ...]:
    whole = [hint(size) for size in _space(image)]
    return tuple(
        tuple(max(1, round(size / part)) for size, part in zip(whole, step, strict=True))
        for step in reductions
    )


def _sizes_of_maps(nodes: Iterable[fx.Node], reader: _Positions) -> set[tuple[int, ...]]:
    """Every size of a map, where a side is fixed: convolutions without padding make odd ones."""
    if not any(reader.borders.fixed):
        return set()
    found: set[tuple[int, ...]] = set()
    for node in nodes:
        value, layout = first_tensor(node), facts(operator_of(node)).layout
        if layout is not None and value is not None and value.dim() == reader.dimensions + 2:
            shape = tuple(map(hint, value.shape))
            found.add(shape[2:] if layout == "channels_first" else shape[1:-1])
    return found


def _some_empty(nodes: Iterable[fx.Node], large: Probe) -> bool:
    """Whether a result has no elements at a large input, though it has at the example's."""
    made = [value for node in nodes if (value := tensor_of(node)) is not None]
    return any(large.numel(v) == 0 and all(hint(s) for s in v.shape) for v in made)


def _growing_sides(capture: Capture, images: Sequence[fx.Node], dimensions: int) -> dict[str, int]:
    """Free sides of the images that kernels see grow, and what stays of each while it does.

    Not those that are cropped to one size first: the strides tell what is coarse along such a side,
    as they do along one of fixed size. A side that is taken apart in several pieces (a clip in
    chunks of frames) is none.
    """
    sides = _free_sides(images)
    held = {symbol for side, symbol in sides.items() if len(windows(capture.nodes, side)) == 1}
    maps = _maps_of_kernels(capture, dimensions)
    seen = free_symbols(size for value in maps for size in value.shape)
    # where nothing grows, the whole is read at the example's size
    unseen = held - seen if seen.intersection(sides.values()) else set()
    rests = _rests(capture, images)
    return {s: rest for s, rest in rests.items() if rest is not None and s not in unseen}


def _rests(capture: Capture, images: Sequence[fx.Node]) -> dict[str, int | None]:
    """What stays of each free side of the images while the rest of it grows: 1 of ``8 * k + 1``.

    None where the trace takes a side to be about as large as in the example: where positions are
    made channels, of which a layer takes so many, few sizes make as many.
    """
    tensors, sides = list(map(tensor_of, capture.nodes)), set(_free_sides(images).values())
    example = _probe(capture, images, 1, {}).symbols

    def holds(changed: Collection[str], times: float, rest: int = 0) -> bool:
        """Whether the trace does, where some sides are so many times as large."""
        grown = {side: int((example[side] - rest) * times) + rest for side in changed}
        return holds_at(tensors, Probe({**example, **grown}))

    def follows(changed: Collection[str]) -> bool:
        return any(holds(changed, times) for times in (0.5, 2))

    def rest_of(side: str) -> int | None:
        """One, as of a first frame and groups of more: a larger rest would change ratios."""
        return 1 if all(holds({side}, times, rest=1) for times in (2, 4)) else None

    # a size of one is taken for a number, which binds a side that nothing else does
    sizes = (size for value in tensors if value is not None for size in value.shape)
    loose = free_symbols(size for size in sizes if hint(size) == 1)
    # of sides that go together none is bound
    together = follows(sides - loose)
    return {s: 0 if s in loose or together or follows({s}) else rest_of(s) for s in sides}


def _free_sides(images: Iterable[fx.Node]) -> dict[str, str]:
    """The sides of images that are not held to a number, as texts, and the symbol of each."""
    sizes = (size for image in images for size in _space(image))
    return {key(size): multiple(size)[0] for size in sizes if is_symbolic(size)}


def works_on_pieces(capture: Capture, dimensions: int) -> bool:
    """Whether no kernel sees a free side of the image grow, which is taken apart in pieces."""
    sides = _free_sides(image_inputs(capture))
    maps = _maps_of_kernels(capture, dimensions)
    seen = free_symbols(size for value in maps for size in value.shape)
    unseen = (side for side, symbol in sides.items() if symbol not in seen)
    return bool(maps) and any(len(windows(capture.nodes, side)) > 1 for side in unseen)


def _takes_slices_apart(capture: Capture, image: fx.Node) -> bool:
    """Whether kernels of two dimensions work on volumes of one depth slice by slice.

    Where that depth stays at every level, what a slice has of positions tells its level.
    """
    depth, *sides = _space(image)
    if is_symbolic(depth) or depth == 1 or not all(map(is_symbolic, sides)):
        return False
    images = key(image.meta["val"].shape[0])
    flat, deep = (
        [v for v, row in _made_by_kernels(capture, n) if row.layout == "channels_first"]
        for n in (2, 3)
    )
    one_by_one = any(key(value.shape[0]) == images for value in flat)
    return one_by_one and bool(deep) and all(key(v.shape[2]) == key(depth) for v in deep)


def _maps_of_kernels(capture: Capture, dimensions: int) -> list[torch.Tensor]:
    return [value for value, _ in _made_by_kernels(capture, dimensions)]


def _made_by_kernels(capture: Capture, dimensions: int) -> Iterator[tuple[torch.Tensor, Operator]]:
    """Results with the axes of an image that operators with kernels make, and those operators."""
    for node in capture.nodes:
        value, row = tensor_of(node), facts(operator_of(node))
        if row.kernel and value is not None and value.dim() == dimensions + 2:
            yield value, row


def _probe(
    capture: Capture, images: Sequence[fx.Node], scale: int, rests: Mapping[str, int]
) -> Probe:
    """All free sizes at the example's, those of the images' space ``scale`` times as large.

    Args:
        capture: The exported program.
        images: The inputs that have the image's axes.
        scale: How much larger.
        rests: The sides of the images that grow, and what stays of each.
    """
    symbols: dict[str, int] = {}
    for node in capture.nodes:
        value = tensor_of(node)
        if node.op != "placeholder" or value is None:
            continue
        for size in value.shape:
            if is_symbolic(size):
                name, times = multiple(size)
                rest = rests.get(name)
                own = hint(size) // times
                symbols[name] = own if rest is None else (own - rest) * scale + rest
    return Probe(symbols)


def _elements(node: fx.Node, probe: Probe) -> int:
    value = first_tensor(node)
    return probe.numel(value) if value is not None else 0


class _Positions:
    """Counts the spatial positions of an operation's result.

    Args:
        image: The input.
        channel: The axis of its channels.
        small: The sizes of a small input.
        large: Those of a large one.
        slices: Whether those of one slice of a volume are counted: a network that is called with
            some slices at a time has any number of them.
    """

    def __init__(
        self,
        image: fx.Node,
        channel: int | None,
        small: Probe,
        large: Probe,
        *,
        slices: bool = False,
    ) -> None:
        shape = image.meta["val"].shape
        self.resized = image.op != "placeholder"
        self.small, self.large = small, large
        self.sizes = tuple(map(large.size, _space(image)))
        self.small_sizes = tuple(map(small.size, _space(image)))
        self.dimensions = len(self.sizes)
        self.positions = math.prod(self.sizes)
        self.growth = self.positions / math.prod(self.small_sizes)
        self.slices = slices
        sides = zip(self.small_sizes, self.sizes, strict=True)
        # where slices are counted, their number lies outside of what is counted
        self.borders = Borders([before == after and not slices for before, after in sides])
        first = not image.meta.get("space") or image.meta["space"][0] == 2
        self.borders.begin(image, channels_first=first)
        self.images = hint(shape[0])
        channels = 1 if channel is None else large.size(shape[channel])
        # images and, in a clip, their frames
        self.batch = large.numel(image.meta["val"]) // (self.positions * channels)
        # numbers of images that lie beside each other: frames, or several images of one example
        self.stacks = {large.size(shape[0])}
        self.maps = {self.sizes}

    def of_image(self, image: fx.Node) -> float:
        if self.resized:
            return 1.0
        return self.positions / math.prod(map(self.large.size, _space(image)))

    def of_shuffled_frames(self, node: fx.Node) -> float | None:
        """P_input / P where pixels become channels or the other way round in each frame of a clip.

        The last axes are a map's, whatever lies before them, and there may be more frames than in
        the input; None where that is not so.
        """
        value = first_tensor(node)
        shuffles = facts(operator_of(node)).view in ("shuffle", "unshuffle")
        if not shuffles or value is None or value.dim() <= self.dimensions + 2:
            return None
        return self.positions / max(1, math.prod(self.large.shape(value)[-self.dimensions :]))

    def of_resized_spectrum(self, node: fx.Node, before: float) -> float | None:
        """P_input / P of the map of a spectrum, where it is asked for at a size of another level.

        Args:
            node: The operation.
            before: P_input / P of what the spectrum was made from.
        """
        value = tensor_of(node)
        if value is None or operator_of(node) not in _INVERSE_TRANSFORMS:
            return None
        # of patches, which lie along further axes or in the batch, each has a spectrum of its own
        if value.dim() != self.dimensions + 2 or self._stack(value) not in self.stacks:
            return None
        size = argument(node, "s") or [argument(node, "n")]
        axes = argument(node, "dim")
        if None in size or len(size) != self.dimensions:
            return None
        axes = [axes] if isinstance(axes, int) else axes or range(-len(size), 0)
        own = self.positions / max(1, math.prod(self.large.shape(value)[axis] for axis in axes))
        own *= self.borders.share(node)
        return own if max(own / before, before / own) >= LEVEL_RATIO else None

    def of_more_sides(self, node: fx.Node, given: fx.Node, before: float) -> float | None:
        """P_input / P of a pooling over more axes than the image has, as of a sequence's vectors.

        It leaves what its windows do not span, channels or not; None of any other operation.

        Args:
            node: The operation.
            given: What it pools.
            before: P_input / P there.
        """
        value = first_tensor(node)
        pools = facts(operator_of(node)).view == "window"
        if not pools or value is None or value.dim() <= self.dimensions + 2:
            return None
        return before * _elements(given, self.large) / max(1, _elements(node, self.large))

    def of_samples(self, node: fx.Node, factor: Mapping[fx.Node, float]) -> float | None:
        """P_input / P where each position of a map looks at places of it: that of the map.

        All look at one place, with the map repeated in the batch for more; or positions lie along
        one axis, and their places along the other. None where that is not so.
        """
        value, sampled = first_tensor(node), node.all_input_nodes[0]
        given = first_tensor(sampled)
        if operator_of(node) not in _SAMPLES or value is None or given is None:
            return None
        own, sides = self.large.shape(given)[2:], self.large.shape(value)[2:]
        around = math.prod(own) in sides and min(sides) > 1
        return factor.get(sampled) if own == sides or around else None

    def factor(self, node: fx.Node, *, pooled: bool) -> float | Global | None:
        """P_input / P; GLOBAL where the result is; None where the layout is unknown.

        Args:
            node: The operation.
            pooled: Whether all that it is made from is global.
        """
        value = first_tensor(node)
        row = facts(operator_of(node))
        unknown = GLOBAL if pooled or self._is_reduced(node, value) else None
        layout = row.layout or self._layout(node, value)
        if value is None or layout is None or value.dim() < 3:
            return unknown
        if self.resized and any(map(is_symbolic, value.shape[1:])):
            return unknown  # before the images are brought to one size, or back at their own
        if layout == "channels_last" and self._folds_a_side(node, value):
            return unknown
        channel = 1 if layout == "channels_first" else value.dim() - 1
        if any(self.borders.fixed) and (
            (row.view == "adaptive" and (self.growth == 1 or self._has_one_row(value, channel)))
            or (self.growth == 1 and value.numel() == value.shape[0] * value.shape[channel])
            or (pooled and row.view != "resize" and not raises(node))
        ):
            return GLOBAL  # at fixed sizes only its operators show that a branch is global
        before, after = (
            p.numel(value) / p.size(value.shape[channel]) for p in (self.small, self.large)
        )
        if before == 0:
            return unknown
        if after / before < 0.9 * self.growth:
            return GLOBAL
        is_map = value.dim() == self.dimensions + 2 or row.view == "window"  # patches of a map
        batch = self._images_in(value, channel) if is_map else self.batch
        return self._of_input(after, value, batch) * self.borders.share(node)

    def _of_input(self, after: float, value: torch.Tensor, batch: int) -> float:
        """The input's positions over those of a result.

        Args:
            after: The result's positions, those of all images together.
            value: The result.
            batch: How many images that is.
        """
        if self.slices:
            return math.prod(self.sizes[1:]) * self._slices(value) / after
        return self.positions * batch / after

    def _images_in(self, value: torch.Tensor, channel: int) -> int:
        """How many images lie beside each other in a map, whose channels are the axis given."""
        if grows(value.shape[channel]) and not grows(value.shape[0]):
            return 1  # the images lie among the channels, where each has kernels of its own
        if self._stack(value) in self.stacks or self._holds_channels(value):
            return self._stack(value)  # the frames of a clip are taken one by one
        return self.batch

    def _slices(self, value: torch.Tensor) -> int:
        """How many slices of volumes a result holds: a map of two sides has them in the batch."""
        lie = value.shape[2] if value.dim() == self.dimensions + 2 else 1
        return self.large.size(value.shape[0]) * self.large.size(lie)

    def _is_reduced(self, node: fx.Node, value: torch.Tensor | None) -> bool:
        """Whether a mean or the like leaves one size for every input, whatever axes it keeps."""
        if self.growth == 1 or value is None or facts(operator_of(node)).view != "along":
            return False
        return 0 < self.small.numel(value) == self.large.numel(value)

    def _folds_a_side(self, node: fx.Node, value: torch.Tensor) -> bool:
        """Whether the positions along a side of fixed size lie among the channels."""
        sizes = self.borders.size_before(node)
        free = [size for size, fixed in zip(sizes, self.borders.fixed, strict=False) if not fixed]
        positions = math.prod(map(hint, value.shape[:-1])) // self.images
        return bool(free) and positions == math.prod(free) != math.prod(sizes)

    def _has_one_row(self, value: torch.Tensor, channel: int) -> bool:
        """Whether a map has one position along a side of fixed size."""
        sides = [size for axis, size in enumerate(value.shape) if axis not in (0, channel)]
        return len(sides) == self.dimensions and any(
            fixed and hint(size) == 1 for fixed, size in zip(self.borders.fixed, sides, strict=True)
        )

    def note(self, node: fx.Node) -> None:
        """Learn how many images lie beside each other, where they have the input's own size.

        And at which sizes maps lie beside each other as images do.
        """
        value = first_tensor(node)
        if value is None or value.dim() != self.dimensions + 2:
            return
        if facts(operator_of(node)).layout == "channels_first" and (
            self.large.shape(value)[2:] == self.sizes
            and self._stack(value) == self.small.size(value.shape[0])
        ):
            self.stacks.add(self._stack(value))
        if facts(operator_of(node)).layout == "channels_first" and self._filters_channels(node):
            self.stacks.add(self._stack(value))
        if self._stack(value) in self.stacks and self.large.numel(value):
            self.maps.add(self.large.shape(value)[2:])

    def _filters_channels(self, node: fx.Node) -> bool:
        """Whether channels that lie in the batch are filtered, by as many kernels as there are."""
        given = next((tensor_of(n) for n in node.all_input_nodes), None)
        if given is None or given.dim() != self.dimensions + 2:
            return False
        return self._holds_channels(given)

    def _holds_channels(self, value: torch.Tensor) -> bool:
        """Whether the channels of a map seen before lie in the batch, each filtered on its own."""
        if value.dim() != self.dimensions + 2:
            return False
        stack, channels, *sizes = self.large.shape(value)
        return (
            channels == 1
            and stack % self.batch == 0
            and stack == self.small.size(value.shape[0])
            and any(
                all(abs(made / size - 1) < 0.1 for made, size in zip(sizes, known, strict=True))
                for known in self.maps
            )
        )

    def _stack(self, value: torch.Tensor) -> int:
        return self.large.size(value.shape[0])

    def _layout(self, node: fx.Node, value: torch.Tensor | None) -> str | None:
        """Channels first, where all that a node is given comes out with the axes of an image.

        Pixels that a reshape makes channels of, or the other way round, change the level so, as do
        those that are repeated beside each other.
        """
        if value is None or value.dim() != self.dimensions + 2:
            return None
        if self.growth == 1:
            return "channels_first" if self.borders.is_resampled(node) else None
        given = [tensor_of(n) for n in node.all_input_nodes if not is_size(n)]
        if len(given) != 1 or given[0] is None:
            return None
        small, large, before = *(p.shape(value) for p in (self.small, self.large)), given[0]
        if before.dim() == value.dim():
            last = _repeats(node) and not any(map(_repeats, node.users))  # one side after another
            if not last or self.large.shape(before)[:2] != large[:2]:
                return None
        elif self.large.numel(before) != math.prod(large) or 0 in small:
            return None
        fixed = small[:2] == large[:2] and large[0] == self.batch
        like_an_image = fixed and self._grows_as_the_image(node, small[2:], large[2:])
        return "channels_first" if like_an_image else None

    def _grows_as_the_image(
        self, node: fx.Node, small: Sequence[int], large: Sequence[int]
    ) -> bool:
        """Whether every side grows as that of the image; one of a fixed size stays as it was."""
        held = self.borders.size_before(node) if any(self.borders.fixed) else small
        if len(held) != self.dimensions:
            return False
        return all(
            first == kept if fixed else abs(last / first * before / after - 1) < 0.1
            for fixed, kept, first, last, before, after in zip(
                self.borders.fixed, held, small, large, self.small_sizes, self.sizes, strict=True
            )
        )

    def is_image(self, node: fx.Node, factor: float) -> bool:
        """Whether a result has the axes of an image, with all positions of its level or in pieces.

        Args:
            node: What makes it.
            factor: P_input / P there.
        """
        value = first_tensor(node)
        if value is None or value.dim() != self.dimensions + 2:
            return False
        if facts(operator_of(node)).layout == "channels_first":
            return True
        sizes = self.large.shape(value)
        return self._has_all(node, factor, (math.prod(sizes[2:]), math.prod(sizes[1:-1])))

    def is_sequence(self, node: fx.Node, factor: float) -> bool:
        """Whether a result is a sequence of all positions of its level.

        Args:
            node: What makes it.
            factor: P_input / P there.
        """
        value = first_tensor(node)
        if value is None or value.dim() != 3:
            return False
        return self._has_all(node, factor, self.large.shape(value)[1:])

    def _has_all(self, node: fx.Node, factor: float, laid_out: Iterable[int]) -> bool:
        """Whether one of several numbers is that of all positions of a level."""
        whole = self.positions * self.borders.share(node)
        return any(abs(made * factor / whole - 1) < 0.1 for made in laid_out)

    def reduction(self, node: fx.Node) -> tuple[float, ...] | None:
        """Growth of the input's size over that of the feature's, where it can be read.

        Along a dimension of one size: the input's over that which strides make of it.
        """
        if facts(operator_of(node)).layout != "channels_first":
            return None
        return self.growth_of_map(node)

    def growth_of_map(self, node: fx.Node, factor: float | None = None) -> tuple[float, ...] | None:
        """The same of any result; ``factor`` is P_input / P where the layout is not known."""
        value = first_tensor(node)
        # a map of two sides is one slice of a volume, where slices are counted
        lost = int(self.slices and value is not None and value.dim() == self.dimensions + 1)
        if value is None or value.dim() + lost != self.dimensions + 2:
            return None
        sizes, before = (p.shape(value)[2:] for p in (self.large, self.small))
        if not lost and factor is not None and not self._has_all(node, factor, [math.prod(sizes)]):
            return None
        if 0 in sizes:
            return None
        given = self.sizes, self.small_sizes, self.borders.shares(node)
        grown = tuple(
            (whole - small) / (part - less)
            if part > less and whole > small
            else whole / part * share
            for (whole, small, share), part, less in zip(
                list(zip(*given, strict=True))[lost:], sizes, before, strict=True
            )
        )
        return (1.0,) * lost + grown


def _repeats(node: fx.Node) -> bool:
    return operator_of(node) == "aten::repeat_interleave"


def _cluster(factors: Any) -> dict[float, int]:
    index: dict[float, int] = {}
    last, level = None, -1
    for factor in sorted(set(factors)):
        if last is None or factor / last >= LEVEL_RATIO:
            level += 1
        index[factor] = level
        last = factor
    return index


def _without_sequences(
    level: Mapping[fx.Node, int], factor: Mapping[fx.Node, float], reader: _Positions
) -> dict[fx.Node, int]:
    """Give merged tokens, which never lie as an image, the next finer level.

    They are made of a sequence of all tokens of that level; patches of an image, or of tokens that
    lie as one, are made of that, and their level is one even where no operation shows it so.
    """
    if reader.dimensions == 1:
        return dict(level)
    finer = {where: where for where in set(level.values())}
    for where in sorted(finer)[1:]:
        nodes = [node for node, own in level.items() if own == where]
        if not any(reader.is_image(node, factor[node]) for node in nodes):
            given = [
                n for node in nodes for n in node.all_input_nodes if level.get(n, where) < where
            ]
            if _from_a_sequence(given, factor, reader):
                finer[where] = finer[where - 1]
    return {node: finer[where] for node, where in level.items()}


def _from_a_sequence(
    given: Sequence[fx.Node], factor: Mapping[fx.Node, float], reader: _Positions
) -> bool:
    """Whether what is given was a sequence of all positions last, since the last kernel."""
    seen: set[fx.Node] = set()
    waiting = list(given)
    while waiting:
        node = waiting.pop()
        if node in seen or node not in factor:
            continue
        seen.add(node)
        if reader.is_sequence(node, factor[node]):
            return True
        if not facts(operator_of(node)).kernel and not reader.is_image(node, factor[node]):
            waiting.extend(node.all_input_nodes)
    return False


def _without_pyramids(capture: Capture, level: Mapping[fx.Node, int]) -> dict[fx.Node, int]:
    """Give windows of several sizes beside each other, and large ones, the level that they pool.

    A pyramid pooling looks at its level's surroundings: nothing there convolves or attends at a
    coarser resolution, each branch pools, mixes channels and is resized back. A U-Net's own levels
    hold kernels that look around.
    """
    flat = dict(level)
    for own in sorted(set(level.values())):
        branches: dict[fx.Node, list[set[fx.Node]]] = {}
        for branch in _branches(capture, flat, own):
            sources = {
                root(n) for node in branch for n in node.all_input_nodes if n in flat
            } - branch
            if len(sources) == 1 and not any(_looks_around(n, branch, flat) for n in branch):
                branches.setdefault(sources.pop(), []).append(branch)
        for source, beside in branches.items():
            nodes = {node for branch in beside for node in branch}
            several = len({flat[node] for node in nodes}) > 1
            if flat[source] == own and (several or any(map(_overlaps, nodes))):
                flat.update(dict.fromkeys(nodes, own))
    return flat


def _overlaps(node: fx.Node) -> bool:
    """Whether a pooling gives each position to more than two windows along every side.

    What goes on at fewer positions is pooled by windows of at most two steps: 2/2, 3/2, 4/2. What
    pools at every position mixes those of one level.
    """
    if facts(operator_of(node)).view != "window":
        return False
    sizes = [argument(node, name) for name in ("kernel_size", "stride")]
    windows, steps = ([n] if isinstance(n, int) else [*(n or ())] for n in sizes)
    each = zip(windows * len(steps), steps * len(windows), strict=True)
    return bool(steps) and all(window > 2 * step > 2 for window, step in each)


def _branches(capture: Capture, level: Mapping[fx.Node, int], own: int) -> list[set[fx.Node]]:
    """What hangs together below a level."""
    found: list[set[fx.Node]] = []
    seen: set[fx.Node] = set()
    for node in capture.nodes:
        if level.get(node, -1) <= own or node in seen:
            continue
        front, branch = [node], set()
        while front:
            current = front.pop()
            if current not in branch and level.get(current, -1) > own:
                branch.add(current)
                front += [*current.all_input_nodes, *current.users]
        seen |= branch
        found.append(branch)
    return found


def _looks_around(node: fx.Node, branch: set[fx.Node], level: Mapping[fx.Node, int]) -> bool:
    """Whether one result of an operator sees several positions of its branch."""
    row = facts(operator_of(node))
    view = row.view
    if row.layout == "channels_last":  # of positions that a reshape made channels of
        return any(level.get(n, level[node]) < level[node] for n in node.all_input_nodes)
    if view == "convolution":
        weight = first_tensor(argument(node, "weight"))
        return weight is None or any(size > 1 for size in weight.shape[2:])
    if view in ("window", "adaptive"):
        return False  # pools, perhaps what is pooled already
    if view == "product":
        return sum(n in branch for n in node.all_input_nodes) > 1
    return view in ("whole", "spread", "unpool", "along", "roll")


def _without_excursions(capture: Capture, level: Mapping[fx.Node, int]) -> dict[fx.Node, int]:
    """Give a call that enters and leaves at one level that level, where its inside strays.

    Reduced attention, window padding and the small U-Nets of a U-2-Net leave their block's level
    for a moment; a nested U-Net, which alone reaches its depth, does not. Where U-Nets in a row
    would all count as excursions and nothing remained at the deepest level, those that reach it do
    not; nor do the shallower ones beside them, where all that goes down is in such U-Nets.
    """
    strays = [stray for call in capture.calls if (stray := _stray(call, capture, level))]
    strays.sort(key=lambda stray: len(stray[0]))  # the outermost call has the last word
    flat = _flattened(level, strays)
    deepest = max(level.values())
    if deepest in flat.values():
        return flat
    nets = [stray for stray in strays if any(raises(n) for n in stray[0])]
    inside = {node for nodes, _ in nets for node in nodes}
    if any(level[n] and n not in inside and facts(operator_of(n)).kernel for n in level):
        nets = [net for net in nets if any(level[n] == deepest for n in net[0])]
    return _flattened(level, [stray for stray in strays if stray not in nets])


def _stray(
    call: Call, capture: Capture, level: Mapping[fx.Node, int]
) -> tuple[list[fx.Node], int] | None:
    """The nodes of a call that strays from the one level of its ends, and that level.

    What a hook or an attribute takes out of it leaves as well as what it returns.
    """
    span = set(capture.nodes[call.first : call.last + 1])
    inside = [n for n in capture.nodes[call.first : call.last + 1] if n in level]
    ends = {level[root(n)] for n in call.entries.values() if root(n) in level}
    ends |= {
        level[n]
        for n in inside
        if any(u not in span and (u in level or u.op == "output") for u in n.users)
    }
    if len(ends) != 1 or all(level[n] in ends for n in inside):
        return None
    own = ends.pop()
    members = set(inside)
    # an input of low resolution, only resized outside, does not make the call one of several
    if any(level[n] > own for n in inside) and not any(
        level[n] > own and facts(operator_of(n)).kernel for n in level if n not in members
    ):
        return None
    return inside, own


def _flattened(
    level: Mapping[fx.Node, int], strays: Sequence[tuple[list[fx.Node], int]]
) -> dict[fx.Node, int]:
    flat = dict(level)
    for inside, own in strays:
        flat.update(dict.fromkeys(inside, own))
    return flat


def _reductions(
    level: Mapping[fx.Node, int],
    factor: Mapping[fx.Node, float],
    reader: _Positions,
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
