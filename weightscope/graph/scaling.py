"""The same call with images of another size, or with more of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from weightscope.adapters import pytree
from weightscope.graph.layouts import images_of, is_image, sides_of
from weightscope.graph.structure import ExampleInputs
from weightscope.graph.trial import Trial

OTHER_SIZES = (2, 0.5)
"""Factors at which it is tried whether a model takes other sizes than the example's."""
SOME_MORE = 1.5
"""The factor for clips, which may be worked on in pieces where they are twice as long."""


def at_another_size(
    inputs: ExampleInputs, factor: float = 2, more: int = 0, along: Sequence[int] | None = None
) -> ExampleInputs:
    """The same call with every image larger by a factor, and by some pixels, along some axes."""

    def scaled(value: Any) -> Any:
        sides = sides_of(value, inputs)
        if not sides:
            return value
        short = set(inputs.space) - set(sides)
        space = sides if along is None else set(along) - short
        made = (max(1, int(n * factor) + more) for n in value.shape)
        sizes = [
            m if d in space else n for d, (n, m) in enumerate(zip(value.shape, made, strict=True))
        ]
        # nobody reads its numbers, and memory that nobody touches costs nothing
        return value.new_empty(sizes)

    args, kwargs = pytree.tree_map(scaled, (inputs.args, dict(inputs.kwargs)))
    return replace(inputs, args=args, kwargs=kwargs)


def cropped(inputs: ExampleInputs, times: int) -> ExampleInputs:
    """The same call with every side of each image so many times shorter."""

    def corner(value: Any) -> Any:
        sides = sides_of(value, inputs)
        for axis in sides:
            value = value.narrow(axis, 0, value.shape[axis] // times)
        return value.clone() if sides else value

    args, kwargs = pytree.tree_map(corner, (inputs.args, dict(inputs.kwargs)))
    return replace(inputs, args=args, kwargs=kwargs)


def two_images(trial: Trial, inputs: ExampleInputs) -> ExampleInputs:
    """The same inputs with a batch of two, where the model takes it.

    A batch of one is a special case to the tracer, and would stay the only one.
    """
    image = images_of(inputs)[0]
    if image.shape[0] != 1:
        return inputs

    pair = with_each_twice(inputs, twofold)
    return inputs if trial.error(pair.args, pair.kwargs) is not None else pair


def with_each_twice(
    inputs: ExampleInputs, twice: Callable[[Tensor], Tensor] = lambda value: torch.cat([value] * 2)
) -> ExampleInputs:
    """The same call with each of its images twice.

    Args:
        inputs: How the model is called.
        twice: Makes a tensor of a batch twice as large of that of a batch.
    """
    images = len(images_of(inputs)[0])

    def double(value: Any) -> Any:
        of_batch = isinstance(value, Tensor) and value.dim() and len(value) == images
        return twice(value) if of_batch else value

    args, kwargs = pytree.tree_map(double, (inputs.args, dict(inputs.kwargs)))
    return replace(inputs, args=args, kwargs=kwargs)


def with_more_frames(inputs: ExampleInputs) -> ExampleInputs:
    """The same call with each clip's frames twice."""

    def longer(value: Any) -> Any:
        return torch.cat([value, value], inputs.frames or 0) if is_image(value, inputs) else value

    args, kwargs = pytree.tree_map(longer, (inputs.args, dict(inputs.kwargs)))
    return replace(inputs, args=args, kwargs=kwargs)


def twofold(value: Tensor) -> Tensor:
    """A tensor of the size and the strides of ``cat([value, value])``, whose numbers are nobody's.

    It is read on tensors without numbers only, and its memory is never touched.
    """
    twice = torch.cat([value.to("meta")] * 2)
    return torch.empty_strided(twice.shape, twice.stride(), dtype=value.dtype, device=value.device)
