"""The class-weighted cross-entropy of sec. 4.2 (eq. 25-29), and one with a fixed weight."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def class_weights(truth: Tensor) -> tuple[Tensor, Tensor]:
    """Weigh the two classes of each image by their rarity (eq. 25, 26).

    ``w_T = HW / sum(Y)`` and ``w_F = HW / (HW - sum(Y))``. The first divides by zero on an image
    without plastic, the second on one of plastic only; there the empty class gets the finite
    weight HW. No pixel carries it, so such an image counts with plain cross-entropy.

    Args:
        truth: (B, 1, H, W) of 0 and 1.

    Returns:
        Weights of plastic and of sand, both (B, 1, 1, 1).
    """
    pixels = truth.shape[-1] * truth.shape[-2]
    plastic = truth.sum(dim=(1, 2, 3), keepdim=True)
    return pixels / plastic.clamp(min=1), pixels / (pixels - plastic).clamp(min=1)


def weighted_cross_entropy(
    logits: Tensor, truth: Tensor, class_weight: float | None = None
) -> Tensor:
    """Return the loss of a batch: summed over pixels, averaged over images (eq. 27-29).

    Computed from logits, where the paper's formula takes the logarithm of a sigmoid.

    Args:
        logits: (B, 1, H, W).
        truth: (B, 1, H, W) of 0 and 1.
        class_weight: Weight of a pixel of plastic, beside 1 for one of sand; None for the weights
            of `class_weights`, which differ from image to image.

    Returns:
        A scalar, at least 0. With the weights of eq. 25, 26 it is ``2 HW log 2`` at logits
        0, for images with plastic.
    """
    plastic, sand = class_weights(truth) if class_weight is None else (class_weight, 1.0)
    weights = truth * plastic + (1 - truth) * sand
    entropy = F.binary_cross_entropy_with_logits(logits, truth, weight=weights, reduction="none")
    return entropy.sum(dim=(1, 2, 3)).mean()
