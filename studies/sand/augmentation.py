"""Random shift, rotation and flips during training (sec. 4.1)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Augmentation:
    """How far a tile may be moved.

    Attributes:
        shift: Largest shift along each axis, as a share of the side.
        degrees: Largest rotation to either side.
        flips: Mirror each axis every second time.
    """

    shift: float = 0.20
    degrees: float = 45.0
    flips: bool = True


def augment(
    images: Tensor,
    masks: Tensor,
    fill: Tensor,
    generator: torch.Generator,
    augmentation: Augmentation,
) -> tuple[Tensor, Tensor]:
    """Move every tile of a batch by its own random shift, rotation and flips.

    Pixels that come from outside the tile get the data set's mean colour and are no plastic.

    Args:
        images: (B, 3, S, S) in 0..1.
        masks: (B, 1, S, S) of 0 and 1.
        fill: (3,) mean colour of the data set.
        generator: Where randomness comes from.
        augmentation: How far tiles may be moved.

    Returns:
        Images and masks of the same shapes; masks are still 0 and 1.
    """
    batch = len(images)

    def uniform(limit: float) -> Tensor:
        return (torch.rand(batch, generator=generator) * 2 - 1) * limit

    angle = uniform(math.radians(augmentation.degrees))
    flip = torch.ones(batch, 2)
    if augmentation.flips:
        flip = torch.randint(0, 2, (batch, 2), generator=generator) * 2.0 - 1
    # affine_grid maps output to input positions in -1..1, so a whole side has length 2
    theta = torch.zeros(batch, 2, 3)
    theta[:, 0, 0] = torch.cos(angle) * flip[:, 0]
    theta[:, 0, 1] = -torch.sin(angle) * flip[:, 0]
    theta[:, 1, 0] = torch.sin(angle) * flip[:, 1]
    theta[:, 1, 1] = torch.cos(angle) * flip[:, 1]
    theta[:, 0, 2] = 2 * uniform(augmentation.shift)
    theta[:, 1, 2] = 2 * uniform(augmentation.shift)
    # drawn on the processor, so that every machine draws the same; moved where the images are
    grid = F.affine_grid(theta.to(images.device), list(images.shape), align_corners=False)
    mean = fill.to(images.device).view(1, 3, 1, 1)
    moved = F.grid_sample(images - mean, grid, mode="bilinear", align_corners=False) + mean
    truth = F.grid_sample(masks, grid, mode="nearest", align_corners=False)
    return moved, truth
