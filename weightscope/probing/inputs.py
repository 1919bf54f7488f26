"""What a network is called with to see how it responds: synthetic images, or the user's own."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor, nn

from weightscope.adapters import pytree
from weightscope.batches import read_inputs
from weightscope.calls import is_complex, own_arguments, shapes, undisturbed
from weightscope.errors import InputError, keyword
from weightscope.graph.fixed import fixed_in
from weightscope.graph.layouts import arranged, frames_of, is_image, sides_of, steps_of
from weightscope.graph.structure import ExampleInputs, Structure

Painter = Callable[..., Tensor]
"""Makes (images, channels, *sizes) from these three and a seed."""

PER_REDUCTION = 8
"""Positions along one side that the deepest level should have: with fewer, most of them see the
padding at the border."""

LEAST_PER_REDUCTION = 4
"""The same of images at half the size: with two, levels that carry 19 and 82 % of the skill of two
networks for images of 64 pixels were silent on these, and not at the full size."""

SMALLEST = 64
"""Size in pixels that an image should have at least, where the network takes it."""

LARGEST = {1: 4096, 2: 256, 3: 64}
"""Size in pixels that an image should not exceed, by the number of dimensions: for the time."""


def synthetic_inputs(
    structure: Structure, paint: Painter, images: int, seed: int, scale: float | None = 1.0
) -> Any:
    """What to call the network with: painted images, all else by the rows of the example in turn.

    Args:
        structure: The network and its example inputs.
        paint: Makes the images.
        images: How many; the example's number where the network takes no other.
        seed: Of the painter; every image input has one of its own.
        scale: Factor on their sizes, in addition to what `scaling` finds right; None for the
            example's own sizes.

    Returns:
        Positional arguments as a tuple, or keyword arguments as a dict.

    Raises:
        InputError: No input of the network is an image of floating-point numbers, or one is of
            complex ones.
    """
    inputs = structure.inputs
    free_batch, free_sizes = _freedom(structure)
    leaves, spec = pytree.tree_flatten((inputs.args, dict(inputs.kwargs)))
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    pictures = [is_picture(leaf, inputs) for leaf in leaves]
    # beside an image of complex numbers, real ones are masks and maps of it
    if any(leaf.is_complex() and leaf.dim() == inputs.rank for leaf in tensors):
        raise InputError("no synthetic images are made of complex numbers")
    if not any(pictures):
        raise InputError("no input of the network is an image of floating-point numbers")
    first = leaves[pictures.index(True)]
    count = images if free_batch else len(first)
    space = [first.shape[axis] for axis in inputs.space]
    factor = scaling(structure, space, scale) if free_sizes and scale is not None else 1.0
    made = []
    for index, (leaf, picture) in enumerate(zip(leaves, pictures, strict=True)):
        if picture:
            sizes = [max(1, round(leaf.shape[axis] * factor)) for axis in inputs.space]
            channels = 1 if inputs.channels is None else leaf.shape[inputs.channels]
            image = paint(count, channels, sizes, seed=seed + 1000 * index).to(leaf)
            made.append(arranged(image, inputs.layout, frames_of(leaf.shape, inputs.layout)))
        elif isinstance(leaf, Tensor) and leaf.dim():
            of_images = len(leaf) == len(first)
            rows = leaf[torch.arange(count, device=leaf.device) % len(leaf)] if of_images else leaf
            made.append(_stretched(rows, sides_of(leaf, inputs), factor))
        else:
            made.append(leaf)
    args, kwargs = pytree.tree_unflatten(made, spec)
    if args and kwargs:
        raise InputError("the network mixes positional and keyword inputs")
    return kwargs or tuple(args)


def _stretched(value: Tensor, sides: Sequence[int], factor: float) -> Tensor:
    """What has an image's positions along some sides, as of an image so many times as large."""
    for axis in sides:
        size = max(1, round(value.shape[axis] * factor))
        places = torch.arange(size, device=value.device) * value.shape[axis] // size
        value = value.index_select(axis, places)
    return value


def read_images(structure: Structure, images: Iterable[Any]) -> list[Any]:
    """Read unlabelled batches once: what the forward takes, without targets.

    Args:
        structure: The network and how it is called.
        images: Batches: a tensor (images, channels, *sizes) or an array; a tuple of positional or a
            mapping of keyword arguments. Of what a labelled loader yields the inputs are taken: of
            a tuple as many parts as the network was read with.

    Raises:
        InputError: There is no batch, or one holds nothing that the forward takes.
    """
    inputs = structure.inputs
    fixed = fixed_in(structure.graph)
    leading = takewhile(lambda name: name in inputs.kwargs, fixed.signature.parameters)
    count = len(inputs.args) or max(1, len(list(leading)))
    only = inputs.args[0] if len(inputs.args) == 1 and not inputs.kwargs else None
    container = only if isinstance(only, list | tuple | Mapping) else None
    batches = read_inputs(images, structure.model, count, fixed.names, container)
    for index, batch in enumerate(batches):
        if not any(is_picture(x, inputs) for x in pytree.tree_leaves(batch)):
            if is_complex(batch):
                raise InputError(
                    f"batch {index} of {keyword('images')} holds complex numbers, for which no "
                    f"response is measured; give {keyword('batches')} with a metric, or a model "
                    "that takes real ones, such as torch.view_as_real(image)"
                )
            raise InputError(
                f"batch {index} of {keyword('images')} ({shapes(batch) or type(batch).__name__}) "
                f"holds no image of {inputs.rank} dimensions (images, channels, sizes...); yield "
                "what the model's forward takes, a single image as image[None]"
            )
        if not _is_answered(structure.model, batch):
            raise InputError(
                f"batch {index} of {keyword('images')} holds nan or infinite values, and so do the "
                "outputs for it; leave these images out"
            )
    return batches


def _is_answered(model: nn.Module, batch: Any) -> bool:
    """Whether a network answers with numbers where images hold none, as one that fills pixels."""
    if _are_finite(batch):
        return True
    args, kwargs = own_arguments(batch, model)
    try:
        with undisturbed(model), torch.no_grad():
            return _are_finite(model(*args, **kwargs))
    except Exception:  # noqa: BLE001 - it is run again, where its error is told
        return True


def _are_finite(values: Any) -> bool:
    numbers = (x for x in pytree.tree_tensors(values) if x.is_floating_point())
    return all(bool(x.isfinite().all()) for x in numbers)


def is_picture(value: Any, inputs: ExampleInputs) -> bool:
    """Whether what a network is called with is a batch of images with floating-point numbers."""
    return is_image(value, inputs) and value.is_floating_point()


def image_of(inputs: Any, structure: Structure) -> Tensor:
    """The image among what a network is called with.

    Raises:
        InputError: There is none of floating-point numbers.
    """
    if found := images_of(inputs, structure):
        return found[0]
    raise InputError("no input of the network is an image of floating-point numbers")


def images_of(inputs: Any, structure: Structure) -> list[Tensor]:
    """All images among what a network is called with."""
    leaves = pytree.tree_tensors(inputs)
    return [leaf for leaf in leaves if is_picture(leaf, structure.inputs)]


def all_channels(inputs: Any, structure: Structure) -> list[Tensor]:
    """All images among what a network is called with, each as (images, channels, *sizes).

    To compare outputs with: what is missing in them (nan) is taken for the mean of its channel.
    """
    return [
        without_gaps(in_channels(image, structure.inputs)) for image in images_of(inputs, structure)
    ]


def as_large_as(others: Sequence[Tensor], images: Sequence[Tensor]) -> list[Tensor]:
    """Those images (images, channels, *sizes) that have the sizes of one of some others."""
    sizes = {x.shape[2:] for x in others}
    return [x for x in images if x.shape[2:] in sizes]


def without_gaps(image: Tensor) -> Tensor:
    """An image (images, channels, *sizes) with each channel's mean where it is not finite.

    Example:
        >>> without_gaps(torch.tensor([[[1.0, torch.nan, 3.0]]])).tolist()
        [[[1.0, 2.0, 3.0]]]
    """
    known = image.isfinite()
    if bool(known.all()):
        return image
    axes = [axis for axis in range(image.dim()) if axis != 1]
    held = image.where(known, 0.0)
    mean = held.sum(axes, keepdim=True) / known.sum(axes, keepdim=True).clamp_min(1)
    return image.where(known, mean.to(image.dtype))


def in_channels(image: Tensor, inputs: ExampleInputs) -> Tensor:
    """An image input as (images, channels, *sizes); frames and all else that is no size count too.

    Args:
        image: One of `images_of`.
        inputs: What its axes are.
    """
    space = inputs.space
    others = [axis for axis in range(1, image.dim()) if axis not in space]
    turned = image.permute(0, *others, *space)
    return turned.reshape(len(image), -1, *turned.shape[1 + len(others) :])


def scaling(structure: Structure, sizes: Sequence[int], scale: float = 1.0) -> float:
    """By what to scale the example's sizes: small enough to be quick, large enough for all levels.

    The scaled sizes stay multiples of the deepest reduction where the example's are.
    """
    deepest, largest = max(steps_of(structure)), LARGEST[structure.inputs.dimensions]
    full = min(max(SMALLEST, PER_REDUCTION * deepest), largest, min(sizes))
    least = min(LEAST_PER_REDUCTION * deepest, scale * largest)
    wanted = min(full, max(scale * full, least))
    step = 2 ** math.ceil(math.log2(deepest)) if deepest > 1 else 1
    wanted = max(step, round(wanted / step) * step)
    return wanted / min(sizes)


def _freedom(structure: Structure) -> tuple[bool, bool]:
    """Whether the graph holds for any number of images, and for any spatial sizes."""
    values = [n.meta.get("val") for n in structure.graph.nodes if n.op == "placeholder"]
    rank, space = structure.inputs.rank, structure.inputs.space
    shapes = [v.shape for v in values if isinstance(v, Tensor) and v.dim() == rank]
    free_batch = all(not isinstance(shape[0], int) for shape in shapes)
    free_sizes = all(
        not isinstance(size, int) for shape in shapes for size in (shape[axis] for axis in space)
    )
    return free_batch, free_sizes
