"""The image's sizes: which are free, which grow, and what they are at a larger input."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from weightscope.adapters.symbols import (
    Probe,
    free_symbols,
    hint,
    holds_at,
    is_symbolic,
    key,
    multiple,
)
from weightscope.graph.capture import Capture
from weightscope.graph.layouts import alike
from weightscope.graph.nodes import (
    argument,
    first_tensor,
    is_size,
    numbers_in,
    operator_of,
    root,
    tensor_of,
)
from weightscope.graph.operators import Operator, facts
from weightscope.graph.pieces import windows
from weightscope.graph.structure import ExampleInputs


def image_inputs(capture: Capture) -> list[fx.Node]:
    """Placeholders of the inputs that have the image's axes, largest first."""
    images = [n for n in capture.nodes if n.op == "placeholder" and n.meta.get("space")]
    return sorted(images, key=lambda n: -math.prod(map(hint, space_of(n))))


def space_of(image: fx.Node) -> tuple[Any, ...]:
    """Sizes of an image along its spatial axes; what an operator made has the channels first."""
    shape = image.meta["val"].shape
    return tuple(shape[axis] for axis in image.meta.get("space") or range(2, len(shape)))


def image_sizes(capture: Capture) -> tuple[Any, ...]:
    """Sizes of the largest image, free ones and numbers, along its spatial axes."""
    images = image_inputs(capture)
    return space_of(images[0]) if images else ()


def follows_the_input(capture: Capture) -> bool:
    """Whether the captured graph holds at other image sizes."""
    return any(is_symbolic(size) for image in image_inputs(capture) for size in space_of(image))


def sizes_held(capture: Capture) -> int:
    """How many sizes of the images the captured graph holds to one number."""
    sizes = (size for image in image_inputs(capture) for size in space_of(image))
    return sum(not is_symbolic(size) for size in sizes)


def resized_first(capture: Capture, images: Sequence[fx.Node]) -> fx.Node | None:
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


@dataclass(frozen=True)
class FirstMaps:
    """Maps that a forward makes of signals before any layer: a spectrogram, frames.

    Attributes:
        maps: The largest that a first layer sees.
        before: All that the signals reach and no layer has made: the maps, what leads there, and
            what is made of them beside the layers.
    """

    maps: fx.Node
    before: frozenset[fx.Node]


def maps_of_signals(capture: Capture, images: Sequence[fx.Node]) -> FirstMaps | None:
    """What the first layers see of signals, where that is maps in all of them; else None."""
    if len(space_of(images[0])) != 1:
        return None
    parameters = capture.program.graph_signature.inputs_to_parameters
    learned = {node for node in capture.nodes if node.name in parameters}
    reached, made = set(images), set[fx.Node]()
    seen: list[fx.Node] = []
    for node in capture.nodes:
        given = [n for n in node.all_input_nodes if not is_size(n)]
        if reached.isdisjoint(given):
            if not learned.isdisjoint(given):
                learned.add(node)
            continue
        reached.add(node)
        if not made.isdisjoint(given):
            made.add(node)
        elif facts(operator_of(node)).kernel and not learned.isdisjoint(given):
            made.add(node)
            seen.append(root(given[0]))
            if operator_of(node) != "aten::conv2d":
                return None
    maps = [n for n in seen if (value := tensor_of(n)) is not None and value.dim() == 4]
    return FirstMaps(max(maps, key=numbers_in), frozenset(reached - made)) if maps else None


def padded_together(capture: Capture, images: Sequence[fx.Node], dimensions: int) -> fx.Node | None:
    """Where images of sizes of their own are padded to one batch, before any kernel.

    As large as the largest along each side, which none of them need be. None where nothing is.
    """
    of_each = [[free_symbols([size]) for size in space_of(image)] for image in images]
    if any(len(set(sides)) < 2 for sides in zip(*of_each, strict=True)):
        return None  # sizes that follow each other, or one side in common
    reaching: dict[fx.Node, set[fx.Node]] = {image: {image} for image in images}
    for node in capture.nodes:
        value = first_tensor(node)
        given = [reaching[n] for n in node.all_input_nodes if n in reaching]
        if value is None or not given:
            continue
        reaching[node] = set().union(*given)
        if facts(operator_of(node)).kernel:
            return None
        if len(reaching[node]) < len(images) or value.dim() != dimensions + 2:
            continue
        sides = [free_symbols([size]) for size in value.shape[2:]]
        if all(
            all(side & sides[axis] for axis, side in enumerate(image) if side) for image in of_each
        ):
            return node
    return None


def growing_sides(capture: Capture, images: Sequence[fx.Node], dimensions: int) -> dict[str, int]:
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
    example = sizes_at(capture, images, 1, {}).symbols

    def holds(changed: Collection[str], times: float, rest: int = 0) -> bool:
        """Whether the trace does, where some sides are so many times as large.

        What it takes to be equal; long clips may be worked on in pieces, and have the same levels.
        """
        grown = {side: int((example[side] - rest) * times) + rest for side in changed}
        return holds_at(tensors, Probe({**example, **grown}), only_equal=True)

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
    sizes = (size for image in images for size in space_of(image))
    return {key(size): multiple(size)[0] for size in sizes if is_symbolic(size)}


def works_on_pieces(capture: Capture, dimensions: int) -> bool:
    """Whether no kernel sees a free side of the image grow, which is taken apart in pieces."""
    sides = _free_sides(image_inputs(capture))
    maps = _maps_of_kernels(capture, dimensions)
    seen = free_symbols(size for value in maps for size in value.shape)
    unseen = (side for side, symbol in sides.items() if symbol not in seen)
    return bool(maps) and any(len(windows(capture.nodes, side)) > 1 for side in unseen)


def has_maps_of_slices(capture: Capture) -> bool:
    """Whether kernels work on maps of two sides: slices of volumes, frames of clips."""
    return bool(_maps_of_kernels(capture, 2))


def strides_over_frames(capture: Capture, inputs: ExampleInputs) -> bool:
    """Whether kernels take fewer of a clip's frames, as along a side of an image.

    Several are left: of one, what comes before was joined to an image. What else lies along the
    first side of a volume (depths that are looked for in images) is none of the frames.
    """
    rank = inputs.dimensions + 3
    if inputs.frames is None or has_volumes_of_maps(capture, inputs):
        return False
    for node in capture.nodes:
        value, stride = tensor_of(node), argument(node, "stride")
        if value is None or value.dim() != rank or not facts(operator_of(node)).kernel:
            continue
        first = stride[0] if isinstance(stride, list | tuple) and stride else 1
        if first != 1 and hint(value.shape[2]) > 1:
            return True
    return False


def has_volumes_of_maps(capture: Capture, inputs: ExampleInputs) -> bool:
    """Whether a clip's volumes are maps one behind the other, of so many depths, and not frames.

    The first that kernels work on tells it, where its first side is not the frames.
    """
    if inputs.frames is None:
        return False
    images = [n.meta["val"].shape for n in image_inputs(capture)]
    rank = inputs.dimensions + 3
    frames = [shape[inputs.frames] for shape in images if len(shape) == rank]
    kernels = (n for n in capture.nodes if facts(operator_of(n)).kernel and n.all_input_nodes)
    given = (tensor_of(node.all_input_nodes[0]) for node in kernels)
    first = next((value for value in given if value is not None and value.dim() == rank), None)
    return first is not None and not any(_is_made_of(first.shape[2], t) for t in frames)


def has_volumes_along_others(nodes: Iterable[fx.Node], dimensions: int) -> bool:
    """Whether kernels work on volumes as deep as an input beside the images is long.

    Args:
        nodes: Of a graph, its placeholders among them.
        dimensions: How many of a volume's sides are sides of an image.
    """
    images: set[str] = set()
    for node in nodes:
        value = tensor_of(node)
        if node.op == "placeholder" and node.meta.get("space") and value is not None:
            images |= free_symbols(value.shape)
        if value is None or value.dim() != dimensions + 3 or not facts(operator_of(node)).kernel:
            continue
        depth = free_symbols([value.shape[2]])
        if depth and not depth & images:
            return True
    return False


def _is_made_of(side: Any, frames: Any) -> bool:
    """Whether a side of a volume may be a clip's frames, of which some may have been taken."""
    if is_symbolic(frames):
        return bool(free_symbols([side]) & free_symbols([frames]))
    return not is_symbolic(side) and (side <= frames or alike(frames, side))


def takes_slices_apart(capture: Capture, image: fx.Node) -> bool:
    """Whether kernels of two dimensions work on volumes of one depth slice by slice.

    Where that depth stays at every level, what a slice has of positions tells its level.
    """
    depth, *sides = space_of(image)
    if is_symbolic(depth) or depth == 1 or not all(map(is_symbolic, sides)):
        return False
    images = key(image.meta["val"].shape[0])
    flat, deep = (
        [v for v, row in _made_by_kernels(capture, n) if row.layout == "channels_first"]
        for n in (2, 3)
    )
    one_by_one = any(key(value.shape[0]) == images for value in flat)
    return one_by_one and bool(deep) and all(key(v.shape[2]) == key(depth) for v in deep)


def projected_side(capture: Capture, images: Sequence[fx.Node]) -> int | None:
    """Which side of volumes all maps that are returned lack, and kernels behind work without.

    0, 1 or 2 where volumes go in and a map of two of their sides comes out, one for each volume (a
    projection along the depth of a scan), or images and a row of one of theirs (the height of a
    layer in each column); None otherwise.
    """
    image = images[0]
    own = [free_symbols([size]) for size in space_of(image)]
    if len(own) < 2 or not any(True for _ in _made_by_kernels(capture, len(own))):
        return None
    returned = [v for n in capture.nodes[-1].all_input_nodes if (v := tensor_of(n)) is not None]
    if not returned or any(value.dim() > len(own) + 1 for value in returned):
        return None
    batch = key(image.meta["val"].shape[0])
    flat: dict[str | None, list[Sequence[Any]]] = {"channels_first": [], "channels_last": []}
    for value, row in _made_by_kernels(capture, len(own) - 1):
        if key(value.shape[0]) == batch:
            sides = value.shape[2:] if row.layout == "channels_first" else value.shape[1:-1]
            flat.setdefault(row.layout, []).append(sides)
    maps = flat["channels_first"] or flat["channels_last"]  # tokens alone
    lacking = {_side_lacking(own, [free_symbols([size]) for size in sides]) for sides in maps}
    return lacking.pop() if len(lacking) == 1 else None


def _side_lacking(own: Sequence[Collection[str]], flat: Sequence[Collection[str]]) -> int | None:
    """Which side those of a map do not follow, though they follow the others."""
    if not all(flat):
        return None
    for side in range(len(own)):
        others = [by for axis, by in enumerate(own) if axis != side]
        if others == list(flat) and own[side] not in others:
            return side
    return None


def _maps_of_kernels(capture: Capture, dimensions: int) -> list[torch.Tensor]:
    return [value for value, _ in _made_by_kernels(capture, dimensions)]


def _made_by_kernels(capture: Capture, dimensions: int) -> Iterator[tuple[torch.Tensor, Operator]]:
    """Results with the axes of an image that operators with kernels make, and those operators."""
    for node in capture.nodes:
        value, row = tensor_of(node), facts(operator_of(node))
        if row.kernel and value is not None and value.dim() == dimensions + 2:
            yield value, row


def sizes_at(
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
