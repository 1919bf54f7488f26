"""Shapes of what torch takes apart into ten and more operations to know them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from weightscope.adapters.switches import module_named

try:
    from torch._prims_common import infer_size, is_contiguous_or_false, suggest_memory_format

    KNOWN = True
except ImportError:  # another version of torch, which computes what it needs
    KNOWN = False


def norm_shapes(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
    functional: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:
    """What a batch norm returns, without its arithmetic."""
    channels = input.shape[1]
    for given in (weight, bias, running_mean, running_var):
        if given is not None and given.shape[0] != channels:
            raise RuntimeError(f"batch norm of {given.shape[0]} channels is given {channels}")
    on_cpu = input.device.type == "cpu"
    coarse = not on_cpu and input.dtype in (torch.float16, torch.bfloat16)
    dtype = torch.float32 if coarse else input.dtype
    saved = [
        input.new_empty((channels if training or not on_cpu else 0,), dtype=dtype) for _ in range(2)
    ]
    running = [
        given if given is None or not functional else torch.empty_like(given)
        for given in (running_mean, running_var)
    ]
    return torch.empty_like(input), saved[0], saved[1], running[0], running[1]


def _linear_shapes(input: Tensor, output_size: Any, align_corners: bool, scales: Any) -> Tensor:
    return resized(input, output_size)


def _nearest_shapes(input: Tensor, output_size: Any, scales: Any, exact: bool = False) -> Tensor:
    return resized(input, output_size)


def _cubic_shapes(
    input: Tensor, output_size: Any, align_corners: bool, scale_h: Any = None, scale_w: Any = None
) -> Tensor:
    return resized(input, output_size)


def resized(input: Tensor, output_size: Any) -> Tensor:
    """What a resizing returns, without its arithmetic."""
    return torch.empty(
        (*input.shape[:2], *output_size),
        dtype=input.dtype,
        device=input.device,
        memory_format=suggest_memory_format(input),
    )


def normalized_shapes(input: Tensor, dims: Any, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """What normalising along some dimensions returns: the result, a mean and a deviation."""
    along = {d % input.dim() for d in ([dims] if isinstance(dims, int) else dims)}
    sizes = [1 if d in along else size for d, size in enumerate(input.shape)]
    coarse = input.dtype in (torch.float16, torch.bfloat16)
    dtype = torch.float32 if coarse else input.dtype
    mean, deviation = (input.new_empty(sizes, dtype=dtype) for _ in range(2))
    return torch.empty_like(input, dtype=dtype), mean, deviation


def _batch_norm_shapes(
    input: Tensor, weight: Any, bias: Any, mean: Any, var: Any, training: bool, m: float, eps: float
) -> tuple[Any, ...]:
    return norm_shapes(input, weight, bias, mean, var, training, m, eps, functional=False)[:3]


def group_norm_shapes(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    images: Any,
    channels: int,
    positions: Any,
    groups: int,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """What a group norm returns, without its arithmetic."""
    for given in (weight, bias):
        if given is not None and given.shape[0] != channels:
            raise RuntimeError(f"group norm of {given.shape[0]} channels is given {channels}")
    if channels % groups:
        raise RuntimeError(f"{channels} channels are not divided by {groups} groups")
    layout = suggest_memory_format(input) if input.device.type == "cpu" else torch.contiguous_format
    saved = [input.new_empty((images, groups)) for _ in range(2)]
    return torch.empty_like(input, memory_format=layout), saved[0], saved[1]


def _vector_norm_shapes(
    input: Tensor, ord: Any = 2, dim: Any = None, keepdim: bool = False, *, dtype: Any = None
) -> Any:
    if input.is_complex():  # its norm is real
        return NotImplemented
    return torch.sum(input, dim, keepdim, dtype=dtype)


def _grid_shape(theta: Tensor, size: Any, align_corners: bool) -> Tensor:
    """A grid of places, for whose coordinates torch holds the sides to numbers."""
    return theta.new_empty((size[0], *size[2:], len(size) - 2))


def _view(input: Tensor, *shape: Any, allow_copy: bool) -> Any:
    """A view in the sizes that it is asked for.

    torch splits one axis after the other and takes what is left: ``n // (n // 8)`` in the place of
    eight, which all that is computed afterwards holds.
    """
    asked: Any = shape[0] if len(shape) == 1 and isinstance(shape[0], Sequence) else shape
    if not (input.dim() and asked):
        return NotImplemented
    sizes = infer_size(asked, input.numel())
    strides: Any = [math.prod(sizes[axis + 1 :]) for axis in range(len(sizes))]
    if not is_contiguous_or_false(input):
        kept: Any = getattr(module_named("torch._subclasses.fake_impls"), "_compute_stride", None)
        strides = None if kept is None else kept(input.shape, input.stride(), sizes)
    if strides is None:
        return NotImplemented
    return input.as_strided(sizes, strides, input.storage_offset())


def _transformed(out: Tensor, given: Tensor, sizes: Any, dims: Any, *, forward: bool) -> Tensor:
    """What a Fourier transform fills, one axis after the other in the order of the given strides.

    torch divides the number of all elements by the sizes of a signal to know how many there are.
    """
    strides, steps = given.stride(), [0] * given.dim()
    others = [axis for axis in range(given.dim()) if axis not in {d % given.dim() for d in dims}]
    order = [*sorted(others, key=strides.__getitem__, reverse=True), *dims]
    out.resize_([sizes[axis] for axis in order])
    for place, axis in enumerate(order):
        steps[axis] = math.prod(sizes[later] for later in order[place + 1 :])
    return out.as_strided_(sizes, steps, out.storage_offset())


def _outer_first(given: Tensor, dims: Any, exclude_last: bool = False) -> list[int]:
    """The axes of a Fourier transform from the largest stride on, as torch's own kernels go.

    What torch 2.9 does without numbers goes the other way round.
    """
    end, strides = len(dims) - exclude_last, given.stride()
    return [*sorted(dims[:end], key=strides.__getitem__, reverse=True), *dims[end:]]


def _whole(size: Any, by: Any) -> Any:
    """A size that is pooled; torch 2.9 would hold it to be even for good, or odd."""
    return size // by


def _sampled_shape(input: Tensor, grid: Tensor, *settings: Any) -> Tensor:
    """What is sampled at the places of a grid, without the arithmetic on their coordinates."""
    images = grid.shape[0]
    if input.shape[0] != images:
        raise RuntimeError(f"{input.shape[0]} images are sampled by {images} grids")
    return input.new_empty((images, input.shape[1], *grid.shape[1:-1]))


def _alike(input: Tensor, *settings: Any, **others: Any) -> Tensor:
    """What an activation makes of each number on its own."""
    return torch.empty_like(input)


def _itself(input: Tensor, *settings: Any, **others: Any) -> Tensor:
    """What an activation overwrites."""
    return input


_ACTIVATIONS = (
    *("relu", "relu6", "leaky_relu", "elu", "selu", "celu", "gelu", "silu", "mish"),
    *("hardtanh", "hardswish", "hardsigmoid", "softplus", "softshrink", "hardshrink"),
)
_DECOMPOSITIONS = "torch._decomp.decompositions"


def _of_activations() -> dict[tuple[str, Any], Any]:
    """Shapes of activations, each with the one that overwrites what it is given."""
    found: dict[tuple[str, Any], Any] = {}
    for name in _ACTIVATIONS:
        for spelling, shapes in ((name, _alike), (f"{name}_", _itself)):
            operator = getattr(getattr(torch.ops.aten, spelling, None), "default", None)
            if operator is not None:
                found["torch._decomp", operator] = shapes
    return found


_SHAPES: dict[tuple[str, Any], Any] = {
    (_DECOMPOSITIONS, "native_batch_norm_helper"): norm_shapes,
    (_DECOMPOSITIONS, "_upsample_linear"): _linear_shapes,
    (_DECOMPOSITIONS, "_upsample_nearest"): _nearest_shapes,
    (_DECOMPOSITIONS, "upsample_bicubic2d_default"): _cubic_shapes,
    ("torch._refs", "_normalize"): normalized_shapes,
    ("torch._meta_registrations", "div_rtn"): _whole,
    ("torch._meta_registrations", "_exec_fft"): _transformed,
    ("torch._meta_registrations", "_sort_dims"): _outer_first,
    ("torch._refs", "_reshape_view_helper"): _view,
    ("torch._decomp", torch.ops.aten.native_batch_norm.default): _batch_norm_shapes,
    ("torch._decomp", torch.ops.aten.native_group_norm.default): group_norm_shapes,
    ("torch._decomp", torch.ops.aten.linalg_vector_norm.default): _vector_norm_shapes,
    ("torch._decomp", torch.ops.aten.upsample_bicubic2d.default): _cubic_shapes,
    ("torch._decomp", torch.ops.aten.affine_grid_generator.default): _grid_shape,
    ("torch._decomp", torch.ops.aten.grid_sampler_2d.default): _sampled_shape,
    **_of_activations(),
}


def places_of_shapes() -> Iterator[tuple[dict[Any, Any], Any, Any]]:
    """Where torch looks up what it takes apart (a function's name, an operator), and its shapes."""
    for (room, name), shapes in _SHAPES.items() if KNOWN else ():
        functions: dict[Any, Any] = getattr(module_named(room), "__dict__", {})
        table = functions if isinstance(name, str) else functions.get("decomposition_table", {})
        if name in table:
            yield table, name, shapes
