"""What the lists share that are drawn from the large libraries: levels, examples, refusals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from matrix.truth import HALVES

FIVE = HALVES[:5]
SIXTY_FOURTH = (*HALVES, 64)
SLICES = ((1, 1, 1), (1, 2, 2), (1, 4, 4), (1, 8, 8))
TIME = "encoder 0 | none"
"""One vector for all levels."""
NO_DECODER = ("head", "decoder", "deepest level")
"""Words of the refusals of a network in which nothing comes back up."""


def pair(image: Tensor) -> tuple[Mapping[str, Tensor]]:
    """Two images one behind the other, by name: (B, 2, 3, H, W)."""
    return ({"images": image.unflatten(1, (2, 3))},)


FRAMES: Mapping[str, Any] = {
    "channels": 6,
    "size": (128, 128),
    "other": (128, 192),
    "given": True,
    "arrange": pair,
}
"""The settings of a network of optical flow."""
