"""How many of the image's positions one position of an operation's result stands for."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from enum import Enum
from typing import Any, TypeVar

import torch
from torch import fx

from weightscope.adapters.symbols import Probe, free_symbols, grows, hint, is_symbolic, key
from weightscope.graph.borders import Borders
from weightscope.graph.growing import space_of
from weightscope.graph.nodes import argument, first_tensor, is_size, operator_of, raises, tensor_of
from weightscope.graph.operators import BACK_TO_SAMPLES, SAMPLES, facts
from weightscope.graph.writes import writes_into_new
from weightscope.thresholds import LEVEL_RATIO

_Of = TypeVar("_Of")
_STRETCHED = 1.1  # of two sides, beyond what padding to a window adds to one
_INVERSE_TRANSFORMS = tuple(
    f"aten::fft_{name}" for name in ("ifft", "ifft2", "ifftn", "irfft", "irfft2", "irfftn")
)


class Global(Enum):
    """Marks what does not grow with the input."""

    GLOBAL = "global"


GLOBAL = Global.GLOBAL


def elements(node: fx.Node, probe: Probe) -> int:
    """How many numbers the first result of a node has there."""
    value = first_tensor(node)
    return probe.numel(value) if value is not None else 0


class Positions:
    """Counts the spatial positions of an operation's result.

    Args:
        image: The input.
        channel: The axis of its channels.
        small: The sizes of a small input.
        large: Those of a large one.
        across: The side across which slices of a volume lie, where those of one slice are counted:
            a network that is called with some slices at a time has any number of them, and maps
            behind volumes may have two sides alone. None where those of volumes are.
        whole: What images of several sizes are padded to, if they are.
        before: Where the image is the maps that a forward makes of signals: what no layer made.
    """

    def __init__(
        self,
        image: fx.Node,
        channel: int | None,
        small: Probe,
        large: Probe,
        *,
        across: int | None = None,
        volumes: bool = False,
        whole: fx.Node | None = None,
        before: Collection[fx.Node] = (),
    ) -> None:
        shape, whole = image.meta["val"].shape, whole or image
        self.before = before
        self.resized = image.op != "placeholder" and not before
        self.together = whole is not image
        self.rank, self.shape = len(shape), shape
        self.small, self.large = small, large
        self._symbols = [free_symbols([size]) for size in space_of(whole)]
        self.sizes = tuple(map(large.size, space_of(whole)))
        self.small_sizes = tuple(map(small.size, space_of(whole)))
        self.dimensions = len(self.sizes)
        # of one image, or of several views
        self.volumes = across is None and (volumes or self.rank == self.dimensions + 2)
        self.positions = math.prod(self.sizes)
        self.growth = self.positions / math.prod(self.small_sizes)
        self.across, slices = across or 0, across is not None
        self.slices = slices
        held = [a == b for a, b in zip(self.small_sizes, self.sizes, strict=True)]
        # where slices are counted, their number lies outside of what is counted
        self.borders = Borders([fixed and not slices for fixed in held])
        self._depths = Borders([fixed and slices for fixed in held])
        self._begin(image)
        self.images = hint(shape[0])
        channels = 1 if channel is None else large.size(shape[channel])
        # images and, in a clip, their frames
        own = math.prod(map(large.size, space_of(image)))
        self.batch = large.numel(image.meta["val"]) // (own * channels)
        # numbers of images that lie beside each other: frames, or several images of one example
        self._small: set[fx.Node] = set()  # maps of one position
        self.stacks = {large.size(shape[0])}
        self.clips = not slices and self.batch > large.size(shape[0])
        self._images: dict[fx.Node, int] = {}  # of clips, which may have other frames further on
        self.maps = {self.sizes}

    def _begin(self, image: fx.Node) -> None:
        first = not image.meta.get("space") or min(image.meta["space"]) == 2
        for borders in (self.borders, self._depths):
            borders.begin(image, channels_first=first)

    def begin_beside(self, images: Iterable[fx.Node]) -> None:
        """Take others of the image's size as they are, too: one may be laid below another one."""
        for image in images:
            if tuple(map(self.large.size, space_of(image))) == self.sizes:
                self._begin(image)

    def note_borders(
        self, node: fx.Node, feeds: Sequence[fx.Node], largest: fx.Node, *, is_piece: bool
    ) -> None:
        """Learn what an operation does to the sizes of what it is given (``Borders.note``)."""
        for borders in (self.borders, self._depths):
            borders.note(node, feeds, largest, is_piece=is_piece)

    def of_image(self, image: fx.Node) -> float:
        """P_input / P of an image, one of several inputs perhaps."""
        if self.resized or self.together or self.before:
            return 1.0
        return self.positions / math.prod(map(self.large.size, space_of(image)))

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

    def of_other_sides(self, node: fx.Node, given: fx.Node, before: float) -> float | None:
        """P_input / P of a result with more or fewer axes than the image's, from what it is given.

        A pooling over more axes, as of a sequence's vectors, leaves what its windows do not span,
        channels or not. Maps (B, C T, H, W) that are resized have their frames among the channels,
        those of several heads have them in the batch. None of any other operation.

        Args:
            node: The operation.
            given: What it pools or resizes.
            before: P_input / P there.
        """
        value, maps = first_tensor(node), first_tensor(given)
        view = facts(operator_of(node)).view
        if value is None or maps is None:
            return None
        more = view == "window" and value.dim() > self.dimensions + 2
        flat = view == "resize" and value.dim() < self.dimensions + 2
        flat = flat and grows(value.shape[1]) and key(value.shape[1]) == key(maps.shape[1])
        beside = view == "resize" and value.dim() == self.dimensions + 2
        beside = beside and self._stack(value) not in (*self.stacks, self.batch)
        if not (more or flat or beside):
            return None
        return before * elements(given, self.large) / max(1, elements(node, self.large))

    def of_samples(self, node: fx.Node, factor: Mapping[fx.Node, float]) -> float | None:
        """P_input / P where each position of a map looks at places of it: that of the map.

        All look at one place, with the map repeated in the batch for more, or maps of places lie
        one below the other (one for each depth); or positions lie along one axis, and their places
        along the other; or positions lie in the batch, each with a map of its own and a window of
        one size that it looks at. None where that is not so.
        """
        value, sampled = first_tensor(node), node.all_input_nodes[0]
        given = first_tensor(sampled)
        if operator_of(node) not in SAMPLES or value is None or given is None:
            return None
        own, sides = self.large.shape(given)[2:], self.large.shape(value)[2:]
        around = math.prod(own) in sides and min(sides) > 1
        of_each = grows(value.shape[0]) and not any(map(is_symbolic, value.shape[1:]))
        of_each &= self._stack(value) % math.prod(own) == 0
        below = own[1:] == sides[1:] and sides[0] % max(1, own[0]) == 0
        return factor.get(sampled) if own == sides or below or around or of_each else None

    def of_samples_again(self, node: fx.Node) -> float | None:
        """P_input / P of a signal that is made of its spectra again; None of all else."""
        value = first_tensor(node)
        if self.dimensions != 1 or operator_of(node) not in BACK_TO_SAMPLES or value is None:
            return None
        made = self.large.size(value.shape[-1])
        return self.positions / made if grows(value.shape[-1]) and made else None

    def of_sequences_first(self, node: fx.Node) -> float | None:
        """P_input / P of a sequence that lies before its batch, (L, B, C), where it is made anew.

        By a sum over some positions each, or by a reshape of what is repeated; None of all else.
        """
        value, view = first_tensor(node), facts(operator_of(node)).view
        if value is None or value.dim() != 3 or view not in ("along", "reshape"):
            return None
        if any(self.borders.fixed):  # a side may lie among the channels
            return None
        batch, length = (free_symbols([size]) for size in (self.shape[0], value.shape[0]))
        second = bool(batch) and key(value.shape[1]) == key(self.shape[0])
        before, made = (of.size(value.shape[0]) for of in (self.small, self.large))
        grows_along = before > 0 and made >= 0.9 * self.growth * before  # what only pads does not
        if not (second and length and grows_along) or length & batch:
            return None
        sides = _without(self.across, self.sizes) if self.slices else self.sizes
        return math.prod(sides) / made

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
        if self._lies_outside(value, layout):
            return unknown
        if layout == "channels_last" and (
            self._folds_a_side(node, value) or self.borders.mixes_a_side(node)
        ):
            return unknown
        if layout == "channels_first" and self._is_volume_of_maps(value):
            if not row.kernel:
                return unknown  # a norm of chunks of a signal, which lie along two axes
            beside = self._stack(value) if self._stack(value) in self.stacks else self.batch
            sides = math.prod(self.large.shape(value)[3:])
            return self.positions * beside / (self._stack(value) * sides)
        channel = 1 if layout == "channels_first" else value.dim() - 1
        if any(self.borders.fixed) and (
            (row.view == "adaptive" and (self.growth == 1 or self._has_one_row(value, channel)))
            or (self.growth == 1 and self._is_one_vector(node, value, channel))
            or (pooled and row.view != "resize" and not raises(node))
        ):
            return GLOBAL  # at fixed sizes only its operators show that a branch is global
        before, after = (
            p.numel(value) / p.size(value.shape[channel]) for p in (self.small, self.large)
        )
        if before == 0:
            return unknown
        if layout == "channels_last" and self._keeps_channels(node, value):
            before, after = (n / hint(value.shape[1]) for n in (before, after))
        grown = after / before
        if grown < 0.9 * self.growth or (grown > self.growth**1.5 and self._lies_along(value)):
            # where each position looks at each, both sides count all of them
            return GLOBAL if grown < self.growth else unknown
        own = self._of_input(after, value, self._images_of(node, value, channel))
        return unknown if own is None else own * self.borders.share(node)

    def _lies_along(self, value: torch.Tensor) -> bool:
        """Whether positions lie along axes alone, none of them in the batch."""
        return self.small.size(value.shape[0]) == self._stack(value)

    def _lies_outside(self, value: torch.Tensor, layout: str) -> bool:
        """Whether positions are others than those that are counted.

        Of images before they are brought to one size, or back at their own; of signals of which
        maps are made.
        """
        if self.resized:
            return any(map(is_symbolic, value.shape[1:]))
        return bool(self.before) and layout == "channels_first" and value.dim() == 3

    def _keeps_channels(self, node: fx.Node, value: torch.Tensor) -> bool:
        """Whether each number of a map has features of its own along a last axis: (B, C, *S, F)."""
        small, large = (p.shape(value) for p in (self.small, self.large))
        fixed = small[:2] == large[:2] and large[0] == self.batch and 0 not in small
        map_of_features = value.dim() == self.dimensions + 3 and fixed
        sides = map_of_features and self._grows_as_the_image(node, small[2:-1], large[2:-1])
        return sides and _has_a_new_last_axis(node)

    def _is_volume_of_maps(self, value: torch.Tensor) -> bool:
        """Whether maps lie one behind the other, as the costs of so many disparities."""
        if not self.volumes or value.dim() != self.dimensions + 3:
            return False
        own = free_symbols([value.shape[2]]) & free_symbols(self.shape)
        return not own and 0 not in self.large.shape(value)

    def _of_input(self, after: float, value: torch.Tensor, batch: int) -> float | None:
        """The input's positions over those of a result; None of all places of so many slices.

        Args:
            after: The result's positions, those of all images together.
            value: The result.
            batch: How many images that is.
        """
        if not self.slices:
            return self.positions * batch / after
        side = math.prod(_without(self.across, self.sizes))
        stack = self._stack(value)
        if value.dim() == self.dimensions and stack > self.small.size(value.shape[0]):
            return side * self.images / stack  # a signal along the slices for each place
        if value.dim() == self.dimensions and stack == self.images:
            return None
        return side * self._slices(value) / after

    def _is_one_vector(self, node: fx.Node, value: torch.Tensor, channel: int) -> bool:
        """Whether a result of an image of one size has one position, and is no map that got small.

        A convolution with a stride and a border makes a map of one position, as do those behind it.
        """
        if value.numel() != value.shape[0] * value.shape[channel]:
            return False
        row, given = facts(operator_of(node)), node.all_input_nodes[0]
        if row.layout != "channels_first":
            return True
        while given not in self._small and _only_one(given) is not None:
            if elements(given, self.large) != elements(given.all_input_nodes[0], self.large):
                break
            given = given.all_input_nodes[0]
        strides = row.view == "convolution" and not row.raises
        strides = strides and 0 not in _numbers(argument(node, "padding"))
        strides = strides and 1 not in _numbers(argument(node, "stride"))
        if strides or (given in self._small and row.view != "adaptive"):
            self._small.add(node)
            return False
        return True

    def _images_of(self, node: fx.Node, value: torch.Tensor, channel: int) -> int:
        """How many images a result holds, whose channels are the axis given."""
        if self.clips and node in self._images and not grows(value.shape[channel]):
            return self._images[node]
        window = facts(operator_of(node)).view == "window"  # it pools patches of a map, perhaps
        is_map = value.dim() == self.dimensions + 2 or window
        return self._images_in(value, channel) if is_map else self.batch

    def _images_in(self, value: torch.Tensor, channel: int) -> int:
        """How many images lie beside each other in a map, whose channels are the axis given."""
        if grows(value.shape[channel]) and not grows(value.shape[0]):
            return 1  # the images lie among the channels, where each has kernels of its own
        if self._stack(value) in self.stacks or self._holds_channels(value):
            return self._stack(value)  # the frames of a clip are taken one by one
        return self.batch

    def _slices(self, value: torch.Tensor) -> int:
        """How many slices of volumes a result holds: a map of two sides has them in the batch."""
        lie = value.shape[2 + self.across] if value.dim() == self.dimensions + 2 else 1
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
        if (
            self.large.shape(value)[2:] == self.sizes
            and self.small.shape(value)[2:] == self.small_sizes
            and self._stack(value) == self.small.size(value.shape[0])
        ):
            self.stacks.add(self._stack(value))
        first = facts(operator_of(node)).layout == "channels_first"
        if first and self._filters_channels(node):
            self.stacks.add(self._stack(value))
        if self._stack(value) in self.stacks and self.large.numel(value):
            self.maps.add(self.large.shape(value)[2:])

    def note_frames(self, node: fx.Node, given: fx.Node) -> None:
        """Learn how many frames of all clips a result holds.

        Those of what it is made from, or others where its sides show them: a forecast of more.

        Args:
            node: The operation.
            given: What it has its level from.
        """
        if not self.clips:
            return
        layout = facts(operator_of(node)).layout
        value = first_tensor(node)
        found = None
        if layout is not None and value is not None and value.dim() >= self.dimensions + 2:
            found = self._frames_beside(node, value, 1 if layout == "channels_first" else -1)
        if (number := found or self._images.get(given)) is not None:
            self._images[node] = number

    def _frames_beside(self, node: fx.Node, value: torch.Tensor, channel: int) -> int | None:
        """How many maps lie along the batch and further axes, where the others grow as sides."""
        small, large = ([*p.shape(value)] for p in (self.small, self.large))
        del small[channel], large[channel]
        sides = [axis for axis, size in enumerate(small) if axis and size != large[axis]]
        if (
            any(self.borders.fixed)
            or small[0] != large[0]
            or not self._grows_as_the_image(
                node, [small[axis] for axis in sides], [large[axis] for axis in sides]
            )
        ):
            return None
        return math.prod(large) // math.prod(large[axis] for axis in sides)

    def note_pieces(self, node: fx.Node) -> None:
        """Learn how many pieces of images lie beside each other in a batch of them."""
        if (value := first_tensor(node)) is not None:
            self.stacks.add(self._stack(value))

    def counts_images(self, node: fx.Node) -> bool:
        """Whether what lies in a batch is known to be images, or pieces of them."""
        value = first_tensor(node)
        return value is not None and value.dim() > 0 and self._stack(value) in self.stacks

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
        """Where channels lie, where all that a node is given comes out with the axes of an image.

        Pixels that a reshape makes channels of, or the other way round, change the level so, as do
        those that are repeated beside each other, and new memory into which a map is written part
        by part.
        """
        if value is None or value.dim() not in (3, self.dimensions + 2):
            return None
        if self.growth == 1:
            if value.dim() == self.dimensions + 2 and self.borders.is_resampled(node):
                return "channels_first"
            return self._of_blocks(node, [*map(hint, value.shape)])
        small, large = (p.shape(value) for p in (self.small, self.large))
        if not (writes_into_new(node) or self._lays_out(node, small, large)):
            return None
        if large[0] != self.batch:
            return None
        if len(large) < self.dimensions + 2:
            given = _only_one(node)
            tokens = small[2] == large[2] and given is not None and self.is_in_blocks(given)
            return "channels_last" if tokens else None
        for layout, channel in (("channels_first", 1), ("channels_last", len(large) - 1)):
            sides = [axis for axis in range(1, len(large)) if axis != channel]
            grown = ([of[axis] for axis in sides] for of in (small, large))
            if small[channel] == large[channel] and self._grows_as_the_image(node, *grown):
                return layout
        return None

    def _of_blocks(self, node: fx.Node, made: Sequence[int]) -> str | None:
        """The layout of what blocks of positions are laid out as, where the image has one size.

        Sides of the image's proportions show which axes they are; None where two ways fit.
        """
        given = _only_one(node)
        blocked = None if given is None else first_tensor(given)
        if blocked is None or blocked.dim() != 2 * self.dimensions + 2:
            return None
        batch, *blocks = map(hint, blocked.shape)
        if batch != made[0] or math.prod(blocks) != math.prod(made[1:]):
            return None
        if len(made) < self.dimensions + 2:  # tokens
            numbers = blocks[: self.dimensions]  # of blocks along each side, what is in each behind
            pairs = list(zip(blocks[::2], blocks[1::2], strict=False))  # each behind its number
            ways_of_tokens = numbers, [*map(math.prod, pairs[: self.dimensions])]
            sides = [s for s in ways_of_tokens if math.prod(s) == made[1]]
            is_last = any(self._stretched(s) < _STRETCHED for s in sides)
            return "channels_last" if is_last else None
        ways = {"channels_first": made[2:], "channels_last": made[1:-1]}
        found = [way for way, sides in ways.items() if self._stretched(sides) < _STRETCHED]
        return found[0] if len(found) == 1 else None

    def _stretched(self, sides: Sequence[int]) -> float:
        """How much more of the image's size one side has than another; 1 where all have as much."""
        shares = [side / size for size, side in zip(self.sizes, sides, strict=True)]
        return max(shares) / min(shares) if min(shares) else math.inf

    def _lays_out(self, node: fx.Node, small: Sequence[int], large: Sequence[int]) -> bool:
        """Whether all of a result is from one that had other axes, or fewer of its positions."""
        given = _only_one(node)
        before = None if given is None else tensor_of(given)
        if before is None:
            return False
        if before.dim() == len(large):
            last = _repeats(node) and not any(map(_repeats, node.users))  # one side after another
            return last and self.large.shape(before)[:2] == large[:2]
        return self.large.numel(before) == math.prod(large) and 0 not in small

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

    def has_all_sides(self, node: fx.Node) -> bool:
        """Whether a map has the image's own size, channels first."""
        value = first_tensor(node)
        return value is not None and self.large.shape(value)[2:] == self.sizes

    def is_in_blocks(self, node: fx.Node) -> bool:
        """Whether a result holds an image in blocks: axes of their own for what is in each."""
        value = first_tensor(node)
        if value is None or value.dim() <= self.dimensions + 2:
            return False
        small, large = (p.shape(value)[1:] for p in (self.small, self.large))
        sides = [pair for pair in zip(small, large, strict=True) if pair[0] != pair[1]]
        return len(sides) == self.dimensions and self._grows_as_the_image(
            node, *zip(*sides, strict=True)
        )

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
        # a map of two sides is one slice of a volume
        lost = int(value is not None and self._is_slice(node, value))
        if value is None or value.dim() + lost != self.dimensions + 2:
            return None
        large, small = (p.shape(value) for p in (self.large, self.small))
        sizes, before = large[2:], small[2:]
        if lost and facts(operator_of(node)).layout == "channels_last":
            sizes, before = large[1:-1], small[1:-1]
        if not lost and factor is not None:
            pairs = ((large[2:], small[2:]), (large[1:-1], small[1:-1]))
            fit = [pair for pair in pairs if self._has_all(node, factor, [math.prod(pair[0])])]
            if not fit:
                return None
            # channels may be as many as a side has positions
            sizes, before = min(fit, key=lambda pair: self._stretched(pair[0]))
        if 0 in sizes:
            return None
        sides = value.shape[2:] if sizes == large[2:] else value.shape[1:-1]
        sizes, before = (tuple(self._in_order(node, sides, of)) for of in (sizes, before))
        borders = self._depths if self.slices else self.borders
        shares = borders.shares(node)[:: -1 if borders.is_turned(node) else 1]
        given = self.sizes, self.small_sizes, shares
        grown = tuple(
            (whole - small) / (part - less)
            if part > less and whole > small
            else whole / part * share
            for (whole, small, share), part, less in zip(
                _without(self.across if lost else None, list(zip(*given, strict=True))),
                sizes,
                before,
                strict=True,
            )
        )
        if not lost:
            return grown
        along = 1.0 if self.slices else (factor or math.prod(grown)) / math.prod(grown)
        return (*grown[: self.across], along, *grown[self.across :])

    def _in_order(self, node: fx.Node, sides: Sequence[Any], sizes: Sequence[int]) -> Sequence[int]:
        """Sizes of a map in the order of the image's sides that they follow, if that is known.

        A forward may turn a spectrogram, whose first side is then the image's second. Where the
        image has one size along a side, that is the one which no symbol tells; where it has along
        all, what turned its maps tells.
        """
        follows = [free_symbols([side]) for side in sides]
        free = [own for own in self._symbols if own]
        held = [size for size, own in zip(sizes, follows, strict=True) if not own]
        alone = len({*map(frozenset, free)}) == len(free) and all(own in follows for own in free)
        if free and alone and len(sides) == len(self._symbols) == len(free) + len(held):
            rest = iter(held)
            return [sizes[follows.index(own)] if own else next(rest) for own in self._symbols]
        turned = self.borders.is_turned(node) and not any(follows)
        return sizes[:: -1 if turned else 1]

    def _is_slice(self, node: fx.Node, value: torch.Tensor) -> bool:
        """Whether a result is maps of slices of volumes, which lie in the batch, or rows of images.

        Of images other results have as many axes: tokens.
        """
        if value.dim() != self.dimensions + 1:
            return False
        layout = facts(operator_of(node)).layout
        if self.dimensions == 3:
            return layout == "channels_first" or self.slices
        return layout is not None and self.slices


def _without(side: int | None, sizes: Sequence[_Of]) -> list[_Of]:
    """What belongs to the sides of an image, without one of them."""
    return [size for axis, size in enumerate(sizes) if axis != side]


def _only_one(node: fx.Node) -> fx.Node | None:
    """What a result is made from, where that is one tensor and sizes."""
    given = [n for n in node.all_input_nodes if not is_size(n)]
    return given[0] if len(given) == 1 else None


def _numbers(setting: Any) -> set[int]:
    """The numbers of an operator's setting, one for all sides or one for each."""
    each = setting if isinstance(setting, list | tuple) else [setting]
    return {int(number) for number in each if isinstance(number, int)}


def _repeats(node: fx.Node) -> bool:
    return operator_of(node) == "aten::repeat_interleave"


def _has_a_new_last_axis(node: fx.Node) -> bool:
    """Whether a result's last axis was put behind all others of what it is made from."""
    value = first_tensor(node)
    axes = [] if value is None else [hint(size) for size in value.shape[:-1]]
    waiting, seen = [node], {node}
    while waiting:
        for given in waiting.pop().all_input_nodes:
            before = tensor_of(given)
            if before is None or given in seen:
                continue
            seen.add(given)
            if [hint(size) for size in before.shape] == axes:
                return True
            if before.dim() == len(axes) + 1:
                waiting.append(given)
    return False
