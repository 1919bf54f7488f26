"""Four segmentation tasks on the same sand, which differ in how much context they need.

``tiny``: plastic particles of 3-10 px, as in the paper. ``middle`` and ``large``: the inside of
closed rings; an open arc of the same size is none, and rings of other sizes are none either, so
that a pixel in the middle is told only by looking as far as the ring. ``mix``: all three at once.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from studies.sand.scenes import make_scene
from weightscope.files import written_atomically

Task = Literal["tiny", "middle", "large", "mix"]
TASKS: tuple[Task, ...] = ("tiny", "middle", "large", "mix")

MIDDLE_RADII = (0.08, 0.14)
"""Radii of the middle rings, as shares of the image's side."""

LARGE_RADII = (0.25, 0.40)
"""Radii of the large rings, as shares of the image's side."""

INK = np.array([0.20, 0.15, 0.12], np.float32)


@dataclass(frozen=True, eq=False)
class Pool:
    """Images and masks of one task.

    Attributes:
        images: (N, 3, H, W) uint8.
        masks: (N, 1, H, W) uint8, 1 for foreground.
    """

    images: Tensor
    masks: Tensor

    def part(self, start: int, stop: int) -> Pool:
        """A contiguous part of the pool."""
        return Pool(self.images[start:stop], self.masks[start:stop])

    def batches(self, size: int) -> list[tuple[Tensor, Tensor]]:
        """Pairs of normalised float images and float masks."""
        return [
            (normalise(self.images[i : i + size]), self.masks[i : i + size].float())
            for i in range(0, len(self.images), size)
        ]


def normalise(images: Tensor) -> Tensor:
    """Bring uint8 images to about zero mean and unit spread."""
    return (images.float() / 255.0 - 0.5) * 4.0


def draw(
    task: Task, size: int, seed: tuple[int, int]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Draw one scene: (H, W, 3) image and (H, W) mask."""
    scene = make_scene(size, size, list(seed))
    if task == "tiny":
        return scene.image, scene.mask
    rng = np.random.default_rng([*seed, TASKS.index(task)])
    image = scene.image.astype(np.float32) / 255.0
    mask = scene.mask.astype(bool) if task == "mix" else np.zeros((size, size), bool)
    rings = _Rings(image, size, rng)
    for _ in range(rng.poisson(1.5)):
        rings.add(MIDDLE_RADII, closed=task == "large")
        rings.add(MIDDLE_RADII, closed=False)
    if rng.random() < 0.5:
        rings.add(LARGE_RADII, closed=False)
    if task in ("middle", "mix"):
        for _ in range(1 + rng.poisson(1.0)):
            mask |= rings.add(MIDDLE_RADII, closed=True)
    if task == "large" or (task == "mix" and rng.random() < 0.5):
        mask |= rings.add(LARGE_RADII, closed=True)
    noisy = rings.image + 0.015 * rng.standard_normal((size, size, 1))
    return (np.clip(noisy, 0, 1) * 255).astype(np.uint8), mask.astype(np.uint8)


class _Rings:
    """Draws faint rings on an image."""

    def __init__(self, image: NDArray[np.float32], size: int, rng: np.random.Generator) -> None:
        self.image, self.size, self.rng = image, size, rng
        self.y, self.x = np.mgrid[0:size, 0:size].astype(np.float32)

    def add(self, radii: tuple[float, float], *, closed: bool) -> NDArray[np.bool_]:
        """Draw one ring, or an arc of a third to four fifths of it; return what lies inside."""
        rng, size = self.rng, self.size
        radius = rng.uniform(*radii) * size
        margin = min(0.45 * size, 0.8 * radius)
        cy, cx = rng.uniform(margin, size - margin, 2)
        angle = np.arctan2(self.y - cy, self.x - cx)
        distance = np.hypot(self.y - cy, self.x - cx)
        waves = 0.08 * np.cos(2 * angle + rng.uniform(0, 6.28))
        waves += 0.04 * np.cos(3 * angle + rng.uniform(0, 6.28))
        outline = radius * (1 + waves)
        cover = 0.8 * np.clip(2.0 - np.abs(distance - outline), 0, 1)
        if not closed:
            start, share = rng.uniform(0, 2 * np.pi), rng.uniform(0.33, 0.8)
            cover = cover * (((angle - start) % (2 * np.pi)) < 2 * np.pi * share)
        self.image = self.image * (1 - cover[..., None]) + INK * cover[..., None]
        return np.asarray(distance < outline)


def load_pool(task: Task, size: int, count: int, seed: int, folder: Path) -> Pool:
    """Draw a pool, or read it if it was drawn before."""
    path = folder / f"{task}_{size}_{count}_{seed}.npz"
    if not path.exists():
        scenes = [draw(task, size, (seed, i)) for i in range(count)]
        folder.mkdir(parents=True, exist_ok=True)
        with written_atomically(path) as temporary, temporary.open("wb") as stream:
            np.savez_compressed(
                stream,
                images=np.stack([image for image, _ in scenes]),
                masks=np.stack([mask for _, mask in scenes]),
            )
    with np.load(os.fspath(path)) as stored:
        images = torch.from_numpy(stored["images"]).permute(0, 3, 1, 2).contiguous()
        return Pool(images, torch.from_numpy(stored["masks"])[:, None])
