"""Synthetic images, which a network is shown when there is no data."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

SMALLEST = 1.5
"""Radius of the smallest disc in pixels: smaller ones fall between the positions of the grid."""

COVERAGE = 3.0
"""Area of all discs as a multiple of the image's: e^-3, one position in twenty, stays bare."""

GRAIN = 0.1
"""Standard deviation of the noise on top, relative to the image's own: sensors add some."""

SHARED = 0.8
"""Share of a disc's variance that all its channels have in common, as in photographs, whose colour
channels are strongly correlated."""


MATCHING_STEPS = 12
"""Adam steps of matching: most of what 40 steps reach, at a cost that suits every analysis."""

MATCHING_RATE = 0.1
"""Learning rate of matching, in standard deviations of the image."""

LOWER_CONTRASTS = (0.1, 0.01)
"""Contrasts to try where batch norms saw far weaker images than dead leaves of deviation 1."""

LEAST = 0.25
"""Least range of an image of its own exposure, as a share of that of all: fog leaves about that."""

BETTER = 0.002
"""A lower contrast is taken where its mismatch is below this share of that at contrast 1. Of the
networks of the evidence study none is, of those whose inputs are multiplied by 100 nearly all."""

NEAR = 100.0
"""Mismatch below which no lower contrast can be so much nearer: that of the best is about 0.1."""

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def dead_leaves(
    images: int, channels: int, sizes: Sequence[int], *, seed: int, colour: bool = True
) -> Tensor:
    """Overlapping discs (balls, intervals) of random size, place and brightness.

    The dead-leaves model (Matheron 1968; Lee, Mumford and Huang 2001): radii with the density
    ``r^-3`` give edges, occlusion and scale invariance, the statistics that natural images share.

    Args:
        images: Number of images.
        channels: Number of channels.
        sizes: Spatial sizes in pixels: one, two or three.
        seed: Of all random numbers; the global random state is not touched.
        colour: Whether channels differ; else all are the same grey.

    Returns:
        A float32 tensor (images, channels, *sizes) of mean 0 and standard deviation 1 per image.
    """
    generator = torch.Generator().manual_seed(seed)
    batch = torch.stack([_leaves(channels, sizes, generator, colour) for _ in range(images)])
    noise = torch.randn(batch.shape, generator=generator, device="cpu", dtype=torch.float32)
    return standardised(standardised(batch) + GRAIN * noise)


def between_zero_and_one(images: int, channels: int, sizes: Sequence[int], *, seed: int) -> Tensor:
    """Dead leaves between a hundredth and 1, for what takes no image of both signs."""
    leaves = dead_leaves(images, channels, sizes, seed=seed)
    low, high = leaves.amin(), leaves.amax()
    return 0.01 + 0.99 * (leaves - low) / (high - low)


def of_own_exposure(images: int, channels: int, sizes: Sequence[int], *, seed: int) -> Tensor:
    """Dead leaves between a hundredth and 1, each of a brightness and contrast of its own.

    Photographs differ in both, and what a network says of fog, light or exposure hangs on them;
    images of one mean and deviation are much alike as wholes.

    Args:
        images: Number of images; from the second one on they differ.
        channels: Number of channels.
        sizes: Spatial sizes in pixels: one, two or three.
        seed: Of all random numbers.

    Returns:
        A float32 tensor (images, channels, *sizes). Image i of n, counted from 0, spans a share
        ``LEAST^(i / (n - 1))`` of the range; what is left lies below it and above it, in shares
        that are evenly spread, in an order of their own.
    """
    leaves = dead_leaves(images, channels, sizes, seed=seed).flatten(1)
    low, high = leaves.amin(1, keepdim=True), leaves.amax(1, keepdim=True)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(images, generator=generator, device="cpu")
    even = torch.arange(images, device="cpu", dtype=torch.float32)[:, None] / max(1, images - 1)
    contrast = LEAST**even
    exposed = contrast * (leaves - low) / (high - low) + (1.0 - contrast) * even[order]
    return (0.01 + 0.99 * exposed).view(images, channels, *sizes)


def standardised(batch: Tensor) -> Tensor:
    """Give every image mean 0 and standard deviation 1 over channels and positions."""
    axes = tuple(range(1, batch.dim()))
    centred = batch - batch.mean(axes, keepdim=True)
    return centred / centred.square().mean(axes, keepdim=True).sqrt().clamp_min(1e-6)


def _leaves(
    channels: int, sizes: Sequence[int], generator: torch.Generator, colour: bool
) -> Tensor:
    """One image, painted from the back to the front."""
    # in numpy, whose calls are several times faster on so few positions
    image = np.zeros((channels, *sizes), np.float32)
    largest = max(min(sizes) / 2, 2 * SMALLEST)
    dims = len(sizes)
    radii = _radii(_count(sizes, largest), dims, largest, generator)
    draw = partial(torch.randn, generator=generator, device="cpu", dtype=torch.float32)
    centres = torch.rand(len(radii), dims, generator=generator, device="cpu", dtype=torch.float32)
    centres *= torch.tensor(sizes, device="cpu", dtype=torch.float32)
    grey = draw(len(radii), 1).expand(-1, channels)
    own = draw(len(radii), channels)
    values = SHARED**0.5 * grey + (1 - SHARED) ** 0.5 * own if colour else grey
    for radius, centre, value in zip(radii.tolist(), centres.tolist(), values.numpy(), strict=True):
        box, inside = _ball(radius, centre, sizes)
        image[(slice(None), *box)][:, inside] = value[:, None]
    return torch.from_numpy(image)


def _count(sizes: Sequence[int], largest: float) -> int:
    """How many balls cover the image `COVERAGE` times on average."""
    dims = len(sizes)
    ratio = SMALLEST / largest
    # mean of r^dims under the density r^-(dims + 1) between the smallest and the largest
    mean = dims * SMALLEST**dims * -math.log(ratio) / (1 - ratio**dims)
    unit = math.pi ** (dims / 2) / math.gamma(dims / 2 + 1)
    return max(1, round(float(COVERAGE * math.prod(sizes) / (unit * mean))))


def _radii(count: int, dims: int, largest: float, generator: torch.Generator) -> Tensor:
    """Radii with the density ``r^-(dims + 1)`` by inversion of its distribution function."""
    low = (SMALLEST / largest) ** dims
    uniform = torch.rand(count, generator=generator, device="cpu", dtype=torch.float32)
    return SMALLEST / (uniform * (1 - low) + low) ** (1 / dims)


def _ball(
    radius: float, centre: Sequence[float], sizes: Sequence[int]
) -> tuple[tuple[slice, ...], NDArray[np.bool_]]:
    """The box around a ball within the image, and which of its positions lie inside the ball."""
    box, square = [], np.zeros((), np.float32)
    for axis, (middle, size) in enumerate(zip(centre, sizes, strict=True)):
        start, stop = max(0, math.floor(middle - radius)), min(size, math.ceil(middle + radius) + 1)
        box.append(slice(start, stop))
        offset = np.arange(start, stop, dtype=np.float32) - np.float32(middle)
        square = square + (offset * offset).reshape(-1, *[1] * (len(sizes) - axis - 1))
    return tuple(box), square < np.float32(radius**2)


def matched_images(
    model: nn.Module, images: Sequence[Tensor], forward: Callable[[Sequence[Tensor]], object]
) -> list[Tensor] | None:
    """Images on which every batch norm sees its own running statistics, as on the training data.

    The images are changed by gradient steps that lower, over all batch norms, the mean over
    channels of ``(m - mean)^2 / var + log(v / var)^2``, where m and v are the mean and the variance
    of a batch norm's input and mean and var its running statistics (the batch-norm term of
    DeepInversion, Yin et al., CVPR 2020, in units of the running variance).

    Args:
        model: In evaluation mode; its parameters and buffers are not changed.
        images: What to start from, each (images, channels, *sizes).
        forward: Calls the model with images of these shapes.

    Returns:
        The changed images; None where the model has no batch norm with running statistics that
        moved, or none that the images reach, or where the gradients overflow.
    """
    norms = _used_norms(model)
    if not norms:
        return None
    # Adam's steps are no numbers in half precision, whose smallest is larger than its epsilon
    free = [image.to(_exact(image)).clone().requires_grad_() for image in images]
    spread = max(float(own.detach().std()) for own in free)
    optimizer = torch.optim.Adam(free, lr=MATCHING_RATE * spread)
    with _mismatches(norms) as terms, torch.enable_grad():
        for _ in range(MATCHING_STEPS):
            terms.clear()
            forward([own.to(image.dtype) for own, image in zip(free, images, strict=True)])
            if not terms or not terms[0].requires_grad:
                return None
            gradients = torch.autograd.grad(torch.stack(terms).mean(), free, allow_unused=True)
            for image, gradient in zip(free, gradients, strict=True):
                image.grad = gradient
            optimizer.step()
    matched = [own.detach().to(image.dtype) for own, image in zip(free, images, strict=True)]
    return matched if all(bool(image.isfinite().all()) for image in matched) else None


def _exact(values: Tensor) -> torch.dtype:
    """The number type in which to sum and to step: float32 or finer."""
    return torch.promote_types(values.dtype, torch.float32)


def suited_contrast(
    model: nn.Module, images: Sequence[Tensor], forward: Callable[[Sequence[Tensor]], object]
) -> float:
    """By what to multiply images of standard deviation 1, judged by the batch norms.

    Args:
        model: As for `matched_images`.
        images: Images of standard deviation 1.
        forward: Calls the model with images of these shapes.

    Returns:
        1, unless at one of `LOWER_CONTRASTS` the batch norms are by far nearer to their running
        statistics: a network that multiplies its inputs is saturated by images of contrast 1. That
        images are too weak, the norms do not show so clearly.
    """
    norms = _used_norms(model)
    found: dict[float, float] = {}
    with _mismatches(norms) as terms, torch.no_grad():
        for contrast in (1.0, *LOWER_CONTRASTS) if norms else ():
            terms.clear()
            forward([contrast * image for image in images])
            found[contrast] = float(torch.stack(terms).mean()) if terms else 0.0
            if found[1.0] < NEAR:
                return 1.0
    best = min(found, key=lambda contrast: found[contrast], default=1.0)
    return best if norms and found[best] < BETTER * found[1.0] else 1.0


def _used_norms(model: nn.Module) -> list[nn.Module]:
    """The batch norms whose running statistics moved."""
    return [
        module
        for module in model.modules()
        if isinstance(module, _NORMS)
        and isinstance(module.running_mean, Tensor)
        and bool(module.running_mean.any())
    ]


@contextmanager
def _mismatches(norms: Sequence[nn.Module]) -> Iterator[list[Tensor]]:
    """While forwards run: how far the input of each norm is from its running statistics."""
    terms: list[Tensor] = []
    handles = [norm.register_forward_pre_hook(_mismatch_into(terms)) for norm in norms]
    try:
        yield terms
    finally:
        for handle in handles:
            handle.remove()


def _mismatch_into(terms: list[Tensor]) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    """A hook that adds how far a batch norm's input is from the running statistics."""

    def hook(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0].to(_exact(inputs[0]))  # a sum of squares overflows in half precision
        mean = norm.get_buffer("running_mean").to(x.dtype)
        variance = norm.get_buffer("running_var").to(x.dtype)
        axes = [axis for axis in range(x.dim()) if axis != 1]
        middle = x.mean(axes, keepdim=True)
        # torch.var takes several times as long, a tenth of the whole matching
        spread = (x - middle).square().sum(axes) / (x.numel() / x.shape[1] - 1)
        # a channel that was always dead has no variance at all
        scale = variance + max(getattr(norm, "eps", 0.0), torch.finfo(x.dtype).tiny)
        off = (middle.flatten() - mean).square() / scale
        # a dead channel has no variance: the floor keeps its logarithm finite
        wide = (spread / scale + 1e-3).log().square()
        terms.append((off + wide).mean())

    return hook
