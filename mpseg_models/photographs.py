"""A few labelled photographs that come along, to try things on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

FOLDER = Path(__file__).parent / "samples"
"""``NAME/images/*.png`` and ``NAME/masks/*.png``, in pairs of one name."""


def load_samples(name: str = "sand") -> tuple[Tensor, Tensor]:
    """Load labelled photographs that come along: twelve of drawn sand with a few bits of plastic.

    No network of the zoo was trained on them. They are for trying things, not for judging.

    Args:
        name: ``"sand"`` is all there is.

    Returns:
        Photographs (12, 3, 128, 128) in 0..1, and masks (12, 1, 128, 128) of 0 and 1, as float32.

    Raises:
        ValueError: There are no samples of this name.
        ImportError: Pillow is not installed.

    Example:
        >>> photos, masks = load_samples("sand")
        >>> photos.shape, sorted(masks.unique().tolist())
        (torch.Size([12, 3, 128, 128]), [0.0, 1.0])
    """
    import torch

    known = sorted(folder.name for folder in FOLDER.iterdir() if folder.is_dir())
    if name not in known:
        raise ValueError(f"there are no samples {name!r}; known: {', '.join(map(repr, known))}")
    photos = np.stack([_pixels(path) for path in sorted((FOLDER / name / "images").glob("*.png"))])
    masks = np.stack([_pixels(path) for path in sorted((FOLDER / name / "masks").glob("*.png"))])
    return (
        torch.from_numpy(photos).permute(0, 3, 1, 2).float().div(255).contiguous(),
        torch.from_numpy(masks)[:, None].float().div(255),
    )


def _pixels(path: Path) -> np.ndarray:
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError("the samples are pictures: pip install pillow") from error
    with Image.open(path) as image:
        return np.asarray(image)
