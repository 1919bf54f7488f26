"""How far the probabilities of a network tell its classes apart, each from each other."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from weightscope.probing.outputs import Reading, probabilities
from weightscope.thresholds import BARE, FREQUENT

Floats = NDArray[np.floating]

NUMBERS = 500_000
"""Of an image that are looked at, over all pairs: of 150 classes these are 11,175."""

LEAST = 1e-9
"""Of classes that are not told apart at all; 0 is an output that does not vary."""


def pair_sums(outputs: Tensor, reading: Reading) -> Tensor:
    """Sum over the positions what `resolution` asks for.

    Args:
        outputs: (images, channels, positions).
        reading: What they are read as. A channel that decides for itself is a pair of its own.

    Returns:
        Of each pair of classes, with p and q as their probabilities, the sums of 1, p, q and
        p^2 / (p + q), (images, pairs, 4).
    """
    if outputs.shape[1] == 1:
        first = probabilities(outputs, reading)
        second = 1 - first
    elif reading.bare > BARE:
        first = outputs.sigmoid()
        second = 1 - first
    else:
        pairs = torch.triu_indices(outputs.shape[1], outputs.shape[1], 1, device=outputs.device)
        # an odd step does not stay in one column of an image of even width
        step = math.ceil(pairs.shape[1] * outputs.shape[2] / NUMBERS) | 1
        p = probabilities(outputs[..., ::step] if pairs.shape[1] > 1 else outputs, reading)
        first, second = (p[:, which] for which in pairs)
    either = (first + second).clamp_min(torch.finfo(first.dtype).tiny)
    terms = (torch.ones_like(first), first, second, first * first / either)
    return torch.stack([term.sum(-1) for term in terms], -1)


def resolution(sums: Floats) -> float:
    """The least share of what sure decisions between two classes would tell, over all pairs.

    Of positions that are one of two classes, each counted as probable as that is, it is the
    variance of the probability of the first as a share of ``mean (1 - mean)``, which decisions as
    frequent would have. For calibrated probabilities that is what they save of the Brier score of
    the frequencies alone (the resolution of A. H. Murphy, J. Appl. Meteorol. 12, 1973, relative to
    the uncertainty there).

    Args:
        sums: `pair_sums` over all images, (pairs, 4).

    Returns:
        `LEAST` where two classes are not told apart at all. Of classes that are hardly probable the
        two that are most so are asked.

    Example:
        >>> told_apart, alike = [20.0, 5.0, 5.0, 5.0], [20.0, 5.0, 5.0, 2.5]
        >>> resolution(np.array([told_apart])), resolution(np.array([told_apart, alike]))
        (1.0, 1e-09)
    """
    positions, first, second, square = sums.T
    both = first + second
    mean = np.divide(first, both, out=np.zeros_like(first), where=both > 0)
    rarer = np.minimum(first, second)
    asked = rarer >= min(FREQUENT * positions.max(), rarer.max())
    possible = mean * (1 - mean)
    varied = np.divide(square, both, out=np.zeros_like(first), where=both > 0) - mean * mean
    shares = np.divide(varied, possible, out=np.zeros_like(varied), where=possible > 0)
    return max(float(shares[asked].min()), LEAST)
