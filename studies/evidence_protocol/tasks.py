"""Ten tasks that need different amounts of context: drawn scenes and real images of packages.

Every task gives images with values about in 0..1 and one of three kinds of target: ``binary``
(N, 1, H, W) of 0 and 1, ``classes`` (N, H, W) of class numbers, ``regression`` (N, 1 or 3, H, W).
Training, validation and test images come from different seeds and, where they are crops of real
images, from different parts of these.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from studies.evidence_protocol import sources
from studies.sand.scenes import make_scene

Kind = Literal["binary", "classes", "regression"]
Part = Literal["train", "validation", "test"]
Array = NDArray[np.float32]
PARTS: tuple[Part, ...] = ("train", "validation", "test")
INK = np.array([0.20, 0.15, 0.12], np.float32)
TEXTURES = ("brick.png", "ihc.png", "gravel.png", "hubble_deep_field.jpg")
COLOUR_PHOTOS = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg")


@dataclass(frozen=True)
class Task:
    """What the networks of one task see and answer.

    Attributes:
        name: Of the task.
        kind: Of its targets.
        channels: Of its images.
        outputs: Channels of the answer.
        draw: ``(size, part, rng, archives) -> image (H, W, C), target``.
    """

    name: str
    kind: Kind
    channels: int
    outputs: int
    draw: Callable[[int, Part, np.random.Generator, Path], tuple[Array, Array]]


@dataclass(frozen=True, eq=False)
class Pool:
    """Images (N, C, H, W) and targets of one part of a task."""

    images: Tensor
    targets: Tensor

    def batches(self, size: int) -> list[tuple[Tensor, Tensor]]:
        """Pairs of images and targets."""
        return list(zip(self.images.split(size), self.targets.split(size), strict=True))


def particles(size: int, _part: Part, rng: np.random.Generator, _: Path) -> tuple[Array, Array]:
    """Plastic particles of 3-10 px on sand."""
    scene = make_scene(size, size, [int(rng.integers(2**31))])
    return scene.image.astype(np.float32) / 255.0, scene.mask.astype(np.float32)


def rings(
    radii: tuple[float, float],
) -> Callable[[int, Part, np.random.Generator, Path], tuple[Array, Array]]:
    """The inside of closed rings of some radii; open arcs and rings of other sizes are none."""

    def draw(size: int, _part: Part, rng: np.random.Generator, _: Path) -> tuple[Array, Array]:
        scene = make_scene(size, size, [int(rng.integers(2**31))])
        image, mask = scene.image.astype(np.float32) / 255.0, np.zeros((size, size), bool)
        other = (0.25, 0.40) if radii[1] < 0.2 else (0.08, 0.14)
        for _turn in range(1 + rng.poisson(1.0)):
            mask |= _add_ring(image, radii, rng, closed=True)
            _add_ring(image, radii, rng, closed=False)
        for _turn in range(rng.poisson(1.0)):
            _add_ring(image, other, rng, closed=bool(rng.random() < 0.5) and radii[1] > 0.2)
        noisy = image + 0.015 * rng.standard_normal((size, size, 1)).astype(np.float32)
        return noisy, mask.astype(np.float32)

    return draw


def _add_ring(
    image: Array, radii: tuple[float, float], rng: np.random.Generator, *, closed: bool
) -> NDArray[np.bool_]:
    """Draw one wavy ring, or an arc of a third to four fifths of it; return what lies inside."""
    size = len(image)
    y, x = np.mgrid[0:size, 0:size].astype(np.float32)
    radius = rng.uniform(*radii) * size
    margin = min(0.45 * size, 0.8 * radius)
    cy, cx = rng.uniform(margin, size - margin, 2)
    angle, distance = np.arctan2(y - cy, x - cx), np.hypot(y - cy, x - cx)
    outline = radius * (1 + 0.08 * np.cos(2 * angle + rng.uniform(0, 6.28)))
    cover = 0.8 * np.clip(2.0 - np.abs(distance - outline), 0, 1)
    if not closed:
        start, share = rng.uniform(0, 2 * np.pi), rng.uniform(0.33, 0.8)
        cover = cover * (((angle - start) % (2 * np.pi)) < 2 * np.pi * share)
    image += cover[..., None].astype(np.float32) * (INK - image)
    return np.asarray(distance < outline)


def _discs(size: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """Noisy grey discs, the large ones first: image and the radius at every pixel, 0 outside."""
    y, x = np.mgrid[0:size, 0:size].astype(np.float32)
    image = 0.3 + 0.1 * rng.standard_normal((size, size)).astype(np.float32)
    found = np.zeros((size, size), np.float32)
    large, small = rng.uniform(8, 13, 1 + rng.poisson(0.7)), rng.uniform(2, 5, 2 + rng.poisson(3))
    for radius in (*large, *small):
        cy, cx = rng.uniform(0, size, 2)
        inside = np.hypot(y - cy, x - cx) < radius
        image[inside] = 0.65 + 0.1 * rng.standard_normal(int(inside.sum())).astype(np.float32)
        found[inside] = radius
    return image[..., None], found


def discs(size: int, _part: Part, rng: np.random.Generator, _: Path) -> tuple[Array, Array]:
    """Three classes: background, discs under 5 px of radius, discs of 8 px and more; one grey."""
    image, found = _discs(size, rng)
    return image, (found > 0).astype(np.float32) + (found >= 8)


def radius(size: int, _part: Part, rng: np.random.Generator, _: Path) -> tuple[Array, Array]:
    """The radius of the disc that a pixel lies in, in units of 10 px; 0 outside."""
    image, found = _discs(size, rng)
    return image, found / 10.0


def _nuclei_crop(
    size: int, part: Part, rng: np.random.Generator, archives: Path
) -> tuple[Array, NDArray[np.uint8], tuple[int, int, int, int]]:
    """A crop of the nuclei: image, mask and where it lies."""
    image, mask = sources.nuclei(archives)
    top, bottom, left, right = {
        "train": (0, 512, 0, 320),
        "validation": (0, 256, 320, 512),
        "test": (256, 512, 320, 512),
    }[part]
    y, x = rng.integers(top, bottom - size + 1), rng.integers(left, right - size + 1)
    place = (int(y), int(y) + size, int(x), int(x) + size)
    return image[place[0] : place[1], place[2] : place[3]], mask, place


def nuclei(size: int, part: Part, rng: np.random.Generator, archives: Path) -> tuple[Array, Array]:
    """Real nuclei against background."""
    image, mask, (top, bottom, left, right) = _nuclei_crop(size, part, rng, archives)
    return image[..., None], mask[top:bottom, left:right].astype(np.float32)


def distance(
    size: int, part: Part, rng: np.random.Generator, archives: Path
) -> tuple[Array, Array]:
    """Distance of every pixel from the edge of its nucleus, in units of 10 px; 0 outside."""
    image, _, (top, bottom, left, right) = _nuclei_crop(size, part, rng, archives)
    return image[..., None], sources.nuclei_depth(archives)[top:bottom, left:right] / 10.0


def _crop(image: Array, size: int, part: Part, rng: np.random.Generator) -> Array:
    """A crop of a real image: from its left three fifths for training, else from the right."""
    height, width = image.shape[:2]
    border = width * 3 // 5
    left, right = (0, border) if part == "train" else (border, width)
    top, bottom = {"train": (0, height), "validation": (0, height // 2)}.get(
        part, (height // 2, height)
    )
    y = int(rng.integers(top, max(bottom - size, top) + 1))
    x = int(rng.integers(left, max(right - size, left) + 1))
    return image[y : y + size, x : x + size]


def _texture(name: str, size: int, part: Part, rng: np.random.Generator, archives: Path) -> Array:
    """A crop of a texture at equal mean and spread, so that grey level tells nothing."""
    crop = _crop(sources.grey_photo(name, archives), size, part, rng)
    return np.asarray(0.5 + 0.18 * (crop - crop.mean()) / max(float(crop.std()), 1e-3), np.float32)


def mosaic(size: int, part: Part, rng: np.random.Generator, archives: Path) -> tuple[Array, Array]:
    """Four real textures in one image, each in the cells of some points."""
    y, x = np.mgrid[0:size, 0:size].astype(np.float32)
    points = rng.uniform(0, size, (6, 2))
    nearest = np.argmin([np.hypot(y - py, x - px) for py, px in points], 0)
    target = rng.permutation([0, 1, 2, 3, *rng.integers(0, 4, 2)])[nearest].astype(np.float32)
    image = np.zeros((size, size), np.float32)
    for label, name in enumerate(TEXTURES):
        image += (target == label) * _texture(name, size, part, rng, archives)
    return image[..., None], target


def patch(size: int, part: Part, rng: np.random.Generator, archives: Path) -> tuple[Array, Array]:
    """A round patch of coins in grass; equal mean and spread."""
    y, x = np.mgrid[0:size, 0:size].astype(np.float32)
    cy, cx = rng.uniform(0.2, 0.8, 2) * size
    target = (np.hypot(y - cy, x - cx) < rng.uniform(0.15, 0.4) * size).astype(np.float32)
    inside = _texture("coins.png", size, part, rng, archives)
    return (
        np.where(target > 0, inside, _texture("grass.png", size, part, rng, archives))[..., None],
        target,
    )


def denoise(size: int, part: Part, rng: np.random.Generator, archives: Path) -> tuple[Array, Array]:
    """Colour photos under Gaussian noise of 0.3; the answer is the clean photo."""
    clean = _crop(sources.photo(str(rng.choice(COLOUR_PHOTOS)), archives), size, part, rng)
    noise = 0.3 * rng.standard_normal(clean.shape)
    return (clean + noise).astype(np.float32), clean.astype(np.float32)


TASKS = {
    task.name: task
    for task in (
        Task("particles", "binary", 3, 1, particles),
        Task("rings_middle", "binary", 3, 1, rings((0.08, 0.14))),
        Task("rings_large", "binary", 3, 1, rings((0.25, 0.40))),
        Task("denoise", "regression", 3, 3, denoise),
        Task("discs", "classes", 1, 3, discs),
        Task("patch", "binary", 1, 1, patch),
        Task("radius", "regression", 1, 1, radius),
        Task("nuclei", "binary", 1, 1, nuclei),
        Task("distance", "regression", 1, 1, distance),
        Task("mosaic", "classes", 1, 4, mosaic),
    )
}

REAL = ("denoise", "patch", "nuclei", "distance", "mosaic")
"""Tasks with images from the archives; the others are drawn."""


def make_pool(
    task: Task, part: Part, size: int, count: int, seed: int, archives: Path, *, standard: bool
) -> Pool:
    """Draw a pool.

    Args:
        task: Which task.
        part: Training, validation or test.
        size: Side of the images in pixels.
        count: Number of images.
        seed: Of the images.
        archives: Folder of the fetched archives.
        standard: Bring images to about zero mean and unit spread, else leave them in 0..1.
    """
    images, targets = [], []
    for index in range(count):
        rng = np.random.default_rng([seed, PARTS.index(part), index])
        image, target = task.draw(size, part, rng, archives)
        images.append(np.moveaxis(image, -1, 0))
        targets.append(np.moveaxis(target, -1, 0) if target.ndim == 3 else target)
    x, y = torch.from_numpy(np.stack(images)).float(), torch.from_numpy(np.stack(targets))
    y = y.long() if task.kind == "classes" else y.float().view(count, -1, size, size)
    return Pool((x - 0.5) * 4.0 if standard else x, y)
