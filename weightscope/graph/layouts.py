"""What the axes of an image input are: batch, channels, sizes, or another order."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from weightscope.adapters import pytree
from weightscope.adapters.symbols import hint, is_symbolic
from weightscope.errors import InputError, keyword
from weightscope.graph.structure import SPATIAL, ExampleInputs, Structure

_LETTERS = {1: "L", 2: "HW", 3: "DHW"}
_CONVOLUTIONS = (torch.conv1d, torch.conv2d, torch.conv3d)
_OF_VOLUMES = (torch.conv3d, F.max_pool3d, F.avg_pool3d)
# a convolution's input and the image differ by padding and cropping at most
_SAME_SIZE = (0.8, 1.5)
_COMPLEX = 2  # numbers of a complex one, real and imaginary part
_LARGEST_MATRIX = 3  # 4 x 4 may be the deepest map of an image of 64 x 64 that is given beside it


def letters_of(layout: str) -> str:
    """All letters of a layout that the user gives, checked.

    Raises:
        InputError: It does not name a batch and one to three spatial axes, each once.
    """
    letters = layout.upper().replace("B", "N").replace("S", "L")
    spatial = [letter for letter in letters if letter in SPATIAL]
    known = all(letter in f"NCT{SPATIAL}" for letter in letters)
    if not known or len(set(letters)) < len(letters) or "N" not in letters or len(spatial) > 3:
        raise InputError(
            f"{keyword('layout', repr(layout))} is not understood; give one letter for each axis "
            "of the image: N batch, C channels, T frames, D depth, H height, W width, L length, "
            "as in 'NHWC'"
        )
    if not spatial:
        raise InputError(f"{keyword('layout', repr(layout))} names no spatial axis (D, H, W or L)")
    if letters[0] != "N":
        raise InputError(
            f"{keyword('layout', repr(layout))}: images are counted along the first axis here, so N"
            " comes first; pass a module that is given batches so and turns their axes"
        )
    return letters


def parse_layout(layout: str) -> str:
    """A layout that the user gives; empty where it is the usual one.

    Raises:
        InputError: As for `letters_of`.
    """
    letters = letters_of(layout)
    return "" if letters == usual("", dimensions_of(letters)) else letters


def arranged(image: Tensor, layout: str, frames: int = 2) -> Tensor:
    """Bring (batch, channels, *sizes) to a layout; every frame shows the same."""
    if not layout:
        return image
    axes = dict(zip(f"NC{_LETTERS[image.dim() - 2]}", range(image.dim()), strict=True))
    if "T" in layout:
        image, axes["T"] = image[..., None].expand(*image.shape, frames), image.dim()
    if "C" not in layout:
        image = image.narrow(1, 0, 1).squeeze(1)
        axes = {letter: axis - (axis > 1) for letter, axis in axes.items() if letter != "C"}
    return image.permute([axes[letter] for letter in layout]).contiguous()


def frames_of(shape: Sequence[int], layout: str) -> int:
    """Number of frames of a clip; 1 of a single image."""
    return shape[layout.index("T")] if "T" in layout else 1


class FirstLayer(TorchFunctionMode):
    """Notes what the first convolution of a forward, or linear layer over positions, is given.

    Attributes:
        given: Shape of its input, and number of its spatial dimensions, 0 of a linear layer; None
            before it ran.
        convolved: The same of the first convolution alone.
        ids: Shape of what the first table of vectors is asked for; None where it was not.
        halved: How deep the first volume is that gets half as deep or less: what a first layer
            sees as slices of it is then a dimension as the others, and no row of frames.
    """

    given: tuple[tuple[int, ...], int] | None = None
    convolved: tuple[tuple[int, ...], int] | None = None
    ids: tuple[int, ...] | None = None
    halved: int | None = None

    def of_slices(self, shapes: Iterable[Sequence[int]]) -> bool:
        """Whether it is given the slices of volumes one by one.

        A volume that is made of images, one beside the other for each of some depths that are
        looked for, is as deep as these are many, not as the images are.

        Args:
            shapes: Of the inputs.
        """
        if self.halved is None or self.given is None or self.given[1] != 2:
            return False
        read = [(shape, infer_layout(shape, self.given)) for shape in shapes]
        frames = [frames_of(shape, layout) for shape, layout in read if "T" in layout]
        return not frames or any(alike(size, self.halved) for size in frames)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Look, and call."""
        convolves = func in _CONVOLUTIONS and args and isinstance(args[0], Tensor)
        if self.convolved is None and convolves:
            shape = tuple(int(size) for size in args[0].shape)
            self.convolved = shape, _CONVOLUTIONS.index(func) + 1
            self.given = self.given or self.convolved
        if self.ids is None and func is F.embedding and args and isinstance(args[0], Tensor):
            self.ids = tuple(int(size) for size in args[0].shape)
        if self.given is None and func is F.linear and args and isinstance(args[0], Tensor):
            shape = tuple(int(size) for size in args[0].shape)
            # a table is what conditions the image, and is no image
            self.given = (shape, 0) if len(shape) > 2 else None
        made = func(*args, **(kwargs or {}))
        if func in _OF_VOLUMES and args and isinstance(made, Tensor) and made.dim() == 5:
            depth = int(args[0].shape[2])
            if self.halved is None and 1 < made.shape[2] <= depth / 2:
                self.halved = depth
        return made


def layout_of_ids(image: Tensor, ids: tuple[int, ...] | None) -> str:
    """The layout of a map of ids, for each of which a vector is looked up; empty if it is none.

    Args:
        image: The image input.
        ids: Shape of what the first table of vectors is asked for.
    """
    dimensions = image.dim() - 1
    whole = holds_ids(image) and tuple(image.shape) == ids
    return f"N{_LETTERS[dimensions]}" if whole and dimensions in _LETTERS else ""


def infer_layout(image: Sequence[int], given: tuple[tuple[int, ...], int] | None) -> str:
    """Read the layout of an image from what the first layer is given; empty: the usual one.

    Args:
        image: Shape of the image input.
        given: Shape of the layer's input, and number of its spatial dimensions, 0 of a linear one,
            whose channels are last.
    """
    if given is not None and given[1] == 0:
        *axes, channels = given[0]  # its own, and perhaps those of another input
        whole = _padded_evenly(image[:-1], axes) and channels >= image[-1]
        return f"N{_LETTERS[len(image) - 2]}C" if whole and len(image) - 2 in _LETTERS else ""
    if given is None or len(given[0]) != given[1] + 2:
        return ""
    (batch, channels, *_), dimensions = given
    space = _LETTERS[dimensions]
    if (fitting := _fitting(image, given)) is not None:
        return "" if fitting == "NC" + space else fitting
    if len(image) == dimensions + 1 and image[0] == channels != batch:
        # one image, or each of a list of them: its channels are counted as images are
        return "N" + space if all(map(alike, image[1:], given[0][2:])) else ""
    turned = len(image) == dimensions + 2 and image[1] != channels
    images = [f"N{axes}" for axes in _of_images(space)] if turned else []
    # complex numbers become two channels, and other inputs may lie beside
    images += ["N" + space, "N" + space[::-1]] if len(image) == dimensions + 1 else []
    same = partial(_alike_in_all, alike)
    if fitting := _first_by(same, images, image, given, joined=True):
        return "" if fitting == "NC" + space else fitting
    if turned and image[0] == batch and (banded := _of_bands(image, given[0])):
        return banded
    # brought to another size first: the number of channels alone tells where they are
    last = len(image) == dimensions + 2 and image[-1] == channels != image[1]
    if last and image[0] == batch:
        return f"N{space}C"
    clips = [f"N{axes}" for axes in _of_clips(space)] if len(image) == dimensions + 3 else []
    return _first_by(_in_proportion, clips, image, given) or ""


def _padded_evenly(image: Sequence[int], axes: Sequence[int]) -> bool:
    """Whether axes are those of an image, of which several grew by as much (before a transform).

    One alone may be channels that something was laid beside.
    """
    if len(axes) != len(image) or axes[:1] != [*image[:1]]:
        return False
    more = [given - own for own, given in zip(image, axes, strict=True) if given != own]
    return not more or (len(more) > 1 and len({*more}) == 1 and more[0] > 0)


def _of_bands(image: Sequence[int], given: Sequence[int]) -> str:
    """The layout of complex spectra whose bins are laid together as bands, which are fewer."""
    if len(image) != 4 or len(given) != 4 or image[-1] != _COMPLEX:
        return ""
    for same in (int.__eq__, alike):
        for layout in ("NHWC", "NWHC"):
            of = dict(zip(layout, image, strict=True))
            (height, width), sides = given[2:], (of["H"], of["W"])
            one_stays = same(sides[0], height) or same(sides[1], width)
            if one_stays and height <= sides[0] and width <= sides[1]:
                return layout
    return ""


def _fitting(image: Sequence[int], given: tuple[tuple[int, ...], int]) -> str | None:
    """The first layout by which an image is just what the first convolution is given, if any."""
    space = _LETTERS[given[1]]
    choices = {
        len(space) + 2: [f"N{axes}" for axes in _of_images(space)],
        len(space) + 1: ["N" + space, "N" + space[::-1]],
        len(space) + 3: [f"N{axes}" for axes in _of_clips(space)],
    }
    return _of_same_sizes(choices.get(len(image), ()), image, given)


def _of_same_sizes(
    layouts: Sequence[str], image: Sequence[int], given: tuple[tuple[int, ...], int]
) -> str | None:
    """The first of some layouts by which all is the same, or by padding and cropping alone."""
    for same in (int.__eq__, alike):
        found = _first_by(partial(_alike_in_all, same), layouts, image, given)
        if found is not None:
            return found
    return None


def _first_by(
    same: Callable[[Sequence[int], Sequence[int]], bool],
    layouts: Sequence[str],
    image: Sequence[int],
    given: tuple[tuple[int, ...], int],
    *,
    joined: bool = False,
) -> str | None:
    """The first of some layouts by which the sides are the same, as told, and all else is.

    Args:
        same: Whether the sides are the same.
        layouts: What to choose from.
        image: Shape of the image input.
        given: Shape of the first convolution's input, and number of its spatial dimensions.
        joined: Whether the convolution is given more channels: those of another input, too.
    """
    for layout in layouts:
        of = dict(zip(layout, image, strict=True))
        batch, channels, *sizes = given[0]
        own, frames = of.get("C", 1), of.get("T", 1)
        calls = (
            (own, of["N"] * frames),  # all frames at once
            (own, of["N"]),  # one by one
            (own * frames, of["N"]),  # side by side as channels
            # in pairs, each beside one of them
            *((2 * own, of["N"] * pairs) for pairs in (frames - 1, frames) if "T" in layout),
        )
        told = [of[letter] for letter in _LETTERS[given[1]] if letter in of]
        all_else = batch == of["N"] and channels > own if joined else (channels, batch) in calls
        if all_else and len(told) == len(sizes) and same(told, sizes):
            return layout
    return None


def _alike_in_all(
    same: Callable[[int, int], bool], sizes: Sequence[int], others: Sequence[int]
) -> bool:
    return all(map(same, sizes, others))


def _in_proportion(sizes: Sequence[int], others: Sequence[int]) -> bool:
    """Whether all sides were made larger or smaller by one factor, but for padding."""
    return all(
        alike(size * others[0], other * sizes[0]) for size, other in zip(sizes, others, strict=True)
    )


def beside_a_memory(image: Sequence[int], given: tuple[tuple[int, ...], int] | None) -> list[str]:
    """The layouts by which a clip's frames are given one by one, with a memory's channels beside.

    Args:
        image: Shape of the clip.
        given: Shape of the first convolution's input, and number of its spatial dimensions.
    """
    if given is None or not given[1] or len(image) != given[1] + 3 or len(given[0]) != given[1] + 2:
        return []
    (batch, channels, *sizes), dimensions = given
    found = []
    for layout in (f"N{axes}" for axes in _of_clips(_LETTERS[dimensions])):
        of = dict(zip(layout, image, strict=True))
        told = [of[letter] for letter in _LETTERS[dimensions]]
        if of["N"] == batch and of["C"] < channels and all(map(alike, told, sizes)):
            found.append(layout)
    return found


def of_flow(image: Sequence[int], given: tuple[tuple[int, ...], int] | None) -> str:
    """The layout of clips of which pairs of frames are compared first; empty where none fits.

    A network of optical flow sees them smaller, in each direction, and with others beside each.

    Args:
        image: Shape of the clip.
        given: Shape of the first convolution's input, and number of its spatial dimensions.
    """
    if given is None or not given[1] or len(image) != given[1] + 3 or len(given[0]) != given[1] + 2:
        return ""
    (batch, channels, *sizes), dimensions = given
    for layout in (f"N{axes}" for axes in _of_clips(_LETTERS[dimensions])):
        of = dict(zip(layout, image, strict=True))
        told = [of[letter] for letter in _LETTERS[dimensions]]
        pairs = [of["N"] * (of["T"] - 1) * ways for ways in (1, 2)]
        beside = channels >= 2 * of["C"] and of["T"] > 1
        if beside and batch in pairs and _in_proportion(told, sizes):
            return layout
    return ""


def of_single_channels(image: Sequence[int], given: tuple[tuple[int, ...], int] | None) -> str:
    """The layout by which each channel is given as an image of its own; empty where none fits.

    Args:
        image: Shape of the image input.
        given: Shape of the first layer's input, and number of its spatial dimensions, 0 of a linear
            one, which is given one number of each position.
    """
    if given is not None and given[1] == 0 and given[0][-1] == 1:
        batch, *sizes, channels = given[0]
        given = (batch, channels, *sizes), len(sizes)
    if given is None or given[1] not in _LETTERS or len(image) != given[1] + 2:
        return ""
    if given[0][0] <= image[0] or image[1] == given[0][1]:
        return ""
    space = _LETTERS[given[1]]
    return _of_same_sizes([f"NT{space}", f"N{space}T"], image, given) or ""


def of_segments(image: Sequence[int], given: tuple[tuple[int, ...], int] | None) -> str:
    """The layout of series of which each variable is cut into segments; empty where none are.

    The first linear layer is given the samples of each segment, of all variables beside each other.

    Args:
        image: Shape of the image input.
        given: Shape of the first layer's input, and number of its spatial dimensions, 0 of a linear
            one.
    """
    if given is None or given[1] or len(image) != 3 or len(given[0]) < 3:
        return ""
    *beside, number, samples = given[0]
    batch, second, last = image
    ways = {"NLT": (second, last), "NTL": (last, second)}  # length and number of variables
    cut = {
        layout
        for layout, (length, variables) in ways.items()
        if number * samples == length and math.prod(beside) == batch * variables
    }
    return cut.pop() if len(cut) == 1 and number > 1 < samples else ""


def of_views(image: Sequence[int], given: tuple[tuple[int, ...], int] | None) -> str:
    """The layout of images that lie along two axes (a light field's views); empty where none do.

    The first convolution is given each as an image of its own. They may have no channels.

    Args:
        image: Shape of the image input.
        given: Shape of the first convolution's input, and number of its spatial dimensions.
    """
    if given is None or given[1] != 2 or len(given[0]) != 4:
        return ""
    batch, channels, *sizes = given[0]
    for layout in ("NTDHW", "NTDCHW", "NCTDHW", "NTDHWC"):
        if len(layout) != len(image):
            continue
        of = dict(zip(layout, image, strict=True))
        several = of["T"] > 1 and of["D"] > 1  # one is the channel of a volume, or its only slice
        all_else = (batch, channels) == (of["N"] * of["T"] * of["D"], of.get("C", 1))
        if several and all_else and _alike_in_all(alike, (of["H"], of["W"]), sizes):
            return layout
    return ""


def better_layout(
    layout: str, image: Sequence[int], given: tuple[tuple[int, ...], int] | None
) -> str:
    """The layout by which the first convolution is given an image, where it is not that of a user.

    Args:
        layout: That of the user.
        image: Shape of the image input, which has as many axes.
        given: Shape of the convolution's input, and number of its spatial dimensions.

    Returns:
        All its letters; empty where that of the user may be right.
    """
    if given is None or given[1] != dimensions_of(layout) or len(given[0]) != given[1] + 2:
        return ""
    found = _fitting(image, given)
    better = None if found is None else _of_same_sizes([layout, found], image, given)
    return "" if better in (None, layout) else str(better)


def usual(layout: str, dimensions: int) -> str:
    """All letters of a layout, those of the usual one too."""
    return layout or f"NC{_LETTERS[dimensions]}"


def _of_images(space: str) -> tuple[str, ...]:
    """Where channels may lie beside the sizes, and how these may be turned."""
    turned = space[::-1]
    return f"C{space}", f"{space}C", f"{space[0]}C{space[1:]}", f"C{turned}", f"{turned}C"


def has_batch_elsewhere(image: Sequence[int], given: tuple[tuple[int, ...], int] | None) -> bool:
    """Whether the first convolution is given the image's axes with another one as the batch.

    Args:
        image: Shape of the image input.
        given: Shape of the layer's input, and number of its spatial dimensions.
    """
    if given is None or len(image) != given[1] + 2:
        return False
    return image[0] != given[0][0] and sorted(image) == sorted(given[0])


def is_one_image(image: Sequence[int], given: tuple[tuple[int, ...], int] | None) -> bool:
    """Whether the first convolution is given all of an example as one image, its channels last.

    Args:
        image: Shape of the image input.
        given: Shape of the layer's input, and number of its spatial dimensions.
    """
    if given is None or not given[1] or len(image) != given[1] + 1:
        return False
    (batch, channels, *sizes), (*sides, last) = given[0], image
    return (batch, channels) == (1, last) and _alike_in_all(alike, sides, sizes)


def _of_clips(space: str) -> tuple[str, ...]:
    """Where frames and channels may lie beside the sizes."""
    return f"TC{space}", f"CT{space}", f"T{space}C", f"{space}TC", f"{space}CT", f"C{space}T"


def alike(size: int, other: int) -> bool:
    """Whether padding and cropping alone may have made one size of the other."""
    low, high = _SAME_SIZE
    return low <= other / max(size, 1) <= high


def dimensions_of(layout: str) -> int:
    """Number of spatial dimensions that a layout names."""
    return sum(letter in SPATIAL for letter in layout)


def check_rank(layout: str, ranks: Sequence[int]) -> None:
    """Refuse a layout that no tensor of the example has the axes for.

    Raises:
        InputError: No tensor has as many axes as the layout has letters.
    """
    if len(layout) not in ranks:
        shown = ", ".join(str(rank) for rank in ranks)
        raise InputError(
            f"{keyword('layout', repr(layout))} names {len(layout)} axes, but the tensors of "
            f"{keyword('example_inputs')} have {shown or 'none'}"
        )


__all__ = [
    "FirstLayer",
    "alike",
    "arranged",
    "beside_a_memory",
    "better_layout",
    "check_rank",
    "dimensions_of",
    "frames_of",
    "has_batch_elsewhere",
    "holds_ids",
    "images_of",
    "infer_layout",
    "is_image",
    "layout_of_ids",
    "letters_of",
    "of_flow",
    "of_segments",
    "of_single_channels",
    "of_views",
    "parse_layout",
    "sides_of",
    "steps_of",
    "usual",
]


def images_of(inputs: ExampleInputs) -> list[torch.Tensor]:
    """The images among what a model is called with: tensors of as many axes as an image has.

    Those of one position along a side beside larger ones are none: a noise level or a style that
    has an image's axes, a mask of rows. Where the first of the others holds ids, no other numbers
    are an image: texts, features.
    """
    tensors = pytree.tree_tensors((inputs.args, dict(inputs.kwargs)))
    ranked = [tensor for tensor in tensors if tensor.dim() == inputs.rank]
    longest = [max((t.shape[axis] for t in ranked), default=1) for axis in inputs.space]
    whole = [
        tensor
        for tensor in ranked
        if not any(
            tensor.shape[axis] == 1 < n for axis, n in zip(inputs.space, longest, strict=True)
        )
        and not (_is_matrix(tensor, inputs) and min(longest) > _LARGEST_MATRIX)
    ]
    ranked = whole or ranked
    if not ranked or not holds_ids(ranked[0]):
        return ranked
    return [tensor for tensor in ranked if holds_ids(tensor)]


def _is_matrix(tensor: torch.Tensor, inputs: ExampleInputs) -> bool:
    """Whether a tensor has two sides of two or three: the derivatives of a place, a rotation."""
    sides = [hint(tensor.shape[axis]) for axis in inputs.space]
    return len(sides) == 2 and all(1 < side <= _LARGEST_MATRIX for side in sides)


def steps_of(structure: Structure) -> tuple[float, ...]:
    """The largest reduction along each side of the input.

    Of a signal that maps are made of: its samples for each position along the longer side of the
    smallest of these.
    """
    inputs = structure.inputs
    if len(structure.whole) == inputs.dimensions:
        return tuple(map(max, zip(*structure.reductions, strict=True)))
    sides = zip(structure.whole, structure.reductions[-1], strict=True)
    longer, signal = max(size / part for size, part in sides), images_of(inputs)[0]
    return tuple(max(1.0, signal.shape[axis] / longer) for axis in inputs.space)


def sides_of(value: Any, inputs: ExampleInputs) -> tuple[int, ...]:
    """Along which axes an argument, or what stands for it in a trace, has the image's positions.

    All sides of an image, some of a mask of rows, none of what has other axes.
    """
    if not isinstance(value, torch.Tensor) or value.dim() != inputs.rank:
        return ()
    images = images_of(inputs)
    if images and holds_ids(images[0]) and not holds_ids(value):
        return ()
    if _is_matrix(value, inputs) and not any(_is_matrix(image, inputs) for image in images):
        return ()
    return tuple(
        axis
        for axis in inputs.space
        if is_symbolic(size := value.shape[axis])
        or size != 1
        or any(image.shape[axis] == 1 for image in images)
    )


def is_image(value: Any, inputs: ExampleInputs) -> bool:
    """Whether an argument, or what stands for it in a trace, is one of the images."""
    return bool(inputs.space) and sides_of(value, inputs) == inputs.space


def holds_ids(tensor: torch.Tensor) -> bool:
    """Whether a tensor holds whole numbers: ids, classes, or pixels as a file has them."""
    return not (tensor.is_floating_point() or tensor.is_complex())
