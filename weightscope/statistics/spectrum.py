"""Singular values of kernels, by the Gram matrix of the smaller side."""

from __future__ import annotations

from math import exp, nan

import torch

from weightscope.statistics.records import Spectrum

# sides up to here cost nothing in float64
_SMALL = 256
# a float32 Gram matrix blurs singular values below about 3e-4 of the largest: squares below this
_BLURRED = 1e-5


def measure_spectrum(
    weight: torch.Tensor, *, groups: int = 1, transposed: bool = False
) -> Spectrum | None:
    """Spectral figures of a kernel read as filters x inputs; None if it has non-finite values.

    The Gram matrix is multiplied in float32 and its eigenvalues taken in float64; where some of
    them are too small for that, it is multiplied in float64; where the solver fails, the singular
    values are computed directly. A grouped kernel is a block-diagonal matrix: its singular values
    are those of its blocks.

    Args:
        weight: Kernel of at least two axes.
        groups: Number of blocks along axis 0.
        transposed: Whether axis 0 counts inputs.

    Returns:
        The figures, over all blocks together.
    """
    with torch.no_grad():
        weight = weight.detach()
        if weight.is_quantized:
            weight = weight.dequantize()
        blocks = _blocks(
            weight if weight.dtype is torch.float64 else weight.float(), groups, transposed
        )
        if not blocks.numel() or not bool(torch.isfinite(blocks).all()):
            return None
        rows, columns = blocks.shape[1:]
        scale = float(blocks.abs().max())
        if scale == 0.0:
            return Spectrum((rows, columns), 0.0, nan, nan, "gram")
        blocks = blocks / scale
        values, method = _singular_values(blocks)
    largest = float(values.max())
    shares = values / values.sum()
    entropy = -float(torch.special.xlogy(shares, shares).sum())
    return Spectrum(
        shape=(rows, columns),
        largest=largest * scale,
        stable_rank=float((values / largest).square().sum()),
        effective_rank=exp(entropy),
        method=method,
    )


def _singular_values(blocks: torch.Tensor) -> tuple[torch.Tensor, str]:
    wide = blocks.shape[1] <= blocks.shape[2]
    sides = blocks if wide else blocks.transpose(1, 2)
    try:
        squares = torch.zeros(1, device="cpu", dtype=torch.float32)
        if sides.shape[1] > _SMALL and sides.dtype is torch.float32:
            squares = torch.linalg.eigvalsh((sides @ sides.transpose(1, 2)).double())
        if float(squares.min()) <= _BLURRED * float(squares.max()):
            sides = sides.double()
            squares = torch.linalg.eigvalsh(sides @ sides.transpose(1, 2))
        return squares.clamp_min(0.0).sqrt().flatten(), "gram"
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
        return torch.linalg.svdvals(blocks.double()).flatten(), "svd"


def _blocks(weight: torch.Tensor, groups: int, transposed: bool) -> torch.Tensor:
    """The kernel as (groups, filters of a group, inputs of a filter)."""
    parts = weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:])
    if transposed:  # (groups, in / groups, out / groups, *k): filters first
        parts = parts.transpose(1, 2)
    return parts.flatten(2)
