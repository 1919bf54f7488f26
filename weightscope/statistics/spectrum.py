"""Singular values of kernels, by the Gram matrix of the smaller side."""

from __future__ import annotations

from math import nan, sqrt

import torch

from weightscope.statistics.records import Spectrum


def measure_spectrum(
    weight: torch.Tensor, *, groups: int = 1, transposed: bool = False
) -> Spectrum | None:
    """Spectral figures of a kernel read as filters x inputs; None if it has non-finite values.

    A grouped kernel is a block-diagonal matrix: its singular values are those of its blocks.

    Args:
        weight: Kernel of at least two axes.
        groups: Number of blocks along the axis of the inputs (transposed) or filters.
        transposed: Whether axis 0 counts inputs.

    Returns:
        The figures, over all blocks together.
    """
    with torch.no_grad():
        blocks = _blocks(weight.detach().float(), groups, transposed)
        if not blocks.numel() or not bool(torch.isfinite(blocks).all()):
            return None
        rows, columns = blocks.shape[1:]
        small = blocks if rows <= columns else blocks.transpose(1, 2)
        gram = small @ small.transpose(1, 2)
        squares = torch.linalg.eigvalsh(gram.double()).clamp_min(0.0)
        method = "gram"
        values = squares.sqrt().flatten()
        std = float(blocks.double().std(correction=0))
    largest = float(values.max())
    total = float(values.sum())
    if largest == 0.0:
        return Spectrum((rows, columns), 0.0, nan, nan, 0.0, 0, method)
    shares = values / total
    entropy = -float((shares * shares.clamp_min(1e-300).log()).sum())
    edge = std * (sqrt(rows) + sqrt(columns))
    return Spectrum(
        shape=(rows, columns),
        largest=largest,
        stable_rank=float((values / largest).square().sum()),
        effective_rank=float(torch.tensor(entropy).exp()),
        random_edge=edge,
        above_edge=int((values > edge).sum()),
        method=method,
    )


def _blocks(weight: torch.Tensor, groups: int, transposed: bool) -> torch.Tensor:
    """The kernel as (groups, filters of a group, inputs of a filter)."""
    parts = weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:])
    if transposed:  # (groups, in / groups, out / groups, *k): filters first
        parts = parts.transpose(1, 2)
    return parts.flatten(2)
