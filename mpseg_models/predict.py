"""Whole photographs of any size: tiled, stitched without seams, and their particles counted."""

from __future__ import annotations

import csv
import os
import secrets
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TextIO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from mpseg_models.blocks import pad_to_multiple
from mpseg_models.multiresunet import MultiResUNet
from mpseg_models.unet import UNet

TILE = 512
"""Side of a tile in pixels, margins included: some 600 MB for U-net at full width."""

Zoo = UNet | MultiResUNet


@dataclass(frozen=True)
class Particle:
    """A connected patch of plastic, corners included.

    Attributes:
        photo: Name of the photograph.
        particle: Number in it, from 1, from top to bottom.
        area: Pixels.
        row: Middle, in pixels from the top.
        column: Middle, in pixels from the left.
        top: First row of the box around it.
        left: First column of the box.
        height: Of the box.
        width: Of the box.
        probability: Mean over its pixels.
    """

    photo: str
    particle: int
    area: int
    row: float
    column: float
    top: int
    left: int
    height: int
    width: int
    probability: float


def reach(model: Zoo) -> int:
    """Return how far, in pixels, an output can look to any side.

    On every path through the network, a 3x3 convolution at level l looks ``2**l`` further, and
    going down to level l and up again shifts by at most ``2**l - 1``; the longest path counts.
    """
    config = model.config
    depth = len(config.encoder)
    if isinstance(model, MultiResUNet):
        stem, per_stage = 1, 3
        skips = [repeats * 2**level for level, repeats in enumerate(model.config.respath)]
    else:
        stem, per_stage = 0, 2
        skips = [0] * depth
    down = [stem]  # up to the entry of each level
    for level in range(depth):
        down.append(down[-1] + per_stage * 2**level)
    longest = 0
    for level in range(depth + 1):
        across = per_stage * 2**depth if level == depth else per_stage * 2**level + skips[level]
        back = sum(per_stage * 2**above for above in range(min(level + 1, depth)))
        longest = max(longest, down[level] + across + back + 2**level - 1)
    return longest


@torch.no_grad()
def predict_photo(model: Zoo, photo: NDArray[np.uint8], tile: int = TILE) -> NDArray[np.float32]:
    """Return the probability of plastic at every pixel.

    Tiles overlap by twice `reach`, rounded up to what the network's poolings divide, and only their
    inner part is kept: the result is that of one pass over the whole photograph.

    Args:
        model: A network of the zoo that returns logits; its mode is not changed.
        photo: (H, W, 3).
        tile: Side of a tile. A larger one is used where the margins would leave nothing of it.

    Returns:
        (H, W).
    """
    device = next(model.parameters()).device
    height, width = photo.shape[:2]
    image = torch.from_numpy(photo.astype(np.float32) / 255).permute(2, 0, 1)[None]
    image = pad_to_multiple(image, model.multiple)
    margin = -(-reach(model) // model.multiple) * model.multiple
    core = max(model.multiple, (tile - 2 * margin) // model.multiple * model.multiple)
    logits = torch.empty(image.shape[-2:], device="cpu", dtype=torch.float32)
    for top in range(0, image.shape[-2], core):
        for left in range(0, image.shape[-1], core):
            y, x = max(0, top - margin), max(0, left - margin)
            part = image[..., y : top + core + margin, x : left + core + margin]
            found = model(part.to(device))[0, 0].cpu()
            kept = found[top - y : top - y + core, left - x : left - x + core]
            logits[top : top + core, left : left + core] = kept
    return torch.sigmoid(logits)[:height, :width].numpy()


def find_particles(
    photo: str, probability: NDArray[np.float32], threshold: float
) -> list[Particle]:
    """List the connected patches above a threshold, from top to bottom."""
    from scipy import ndimage

    labels, count = ndimage.label(probability > threshold, np.ones((3, 3)))
    boxes = ndimage.find_objects(labels)
    found = []
    for number in range(1, count + 1):
        box = boxes[number - 1]
        own = labels[box] == number
        rows, columns = np.nonzero(own)
        found.append(
            Particle(
                photo=photo,
                particle=number,
                area=int(own.sum()),
                row=float(rows.mean() + box[0].start),
                column=float(columns.mean() + box[1].start),
                top=box[0].start,
                left=box[1].start,
                height=own.shape[0],
                width=own.shape[1],
                probability=float(probability[box][own].mean()),
            )
        )
    return found


def overlay(photo: NDArray[np.uint8], mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return the photograph with a magenta line around the plastic, one pixel outside it."""
    from scipy import ndimage

    outside = ndimage.binary_dilation(mask, np.ones((3, 3), bool)) & ~mask
    marked = photo.copy()
    marked[outside] = (255, 0, 255)
    return marked


@dataclass(frozen=True)
class Outcome:
    """What became of a set of photographs.

    Attributes:
        particles: Of all photographs that were segmented.
        failed: Why, for each of the others.
        unusual: What is unusual about some of them, by name.
    """

    particles: tuple[Particle, ...]
    failed: Mapping[Path, str]
    unusual: tuple[str, ...]


def predict_files(
    model: nn.Module,
    photos: Sequence[Path],
    threshold: float,
    out: Path,
    tile: int = TILE,
    show: Callable[[str], None] = lambda text: None,
) -> Outcome:
    """Segment photographs and write masks, overlays and tables.

    Writes ``NAME-mask.png`` (255 where there is plastic) and ``NAME-overlay.png`` of every
    photograph as it is done; at the end, also of an interrupted run, ``particles.csv`` with one row
    per particle and ``photographs.csv`` with one per photograph. A photograph that cannot be read
    does not end the run.

    Args:
        model: A network of the zoo that returns logits.
        photos: Files of photographs; no two of the same name, whatever their folders.
        threshold: Probability above which a pixel is plastic.
        out: Folder, made where it is missing.
        tile: Side of a tile in pixels.
        show: Called with a line after every photograph.

    Raises:
        ValueError: Two photographs have the same name, the folder cannot be written to, or
            floating-point photographs have no scale in common.
    """
    from mpseg_models.photos import find_whites, look, read_photo, unusual

    stems = [photo.stem for photo in photos]
    twice = sorted({stem for stem in stems if stems.count(stem) > 1})
    if twice:
        raise ValueError(
            f"several photographs are called {', '.join(map(repr, twice))}; their masks would "
            "overwrite each other: rename them, or give them in separate calls"
        )
    _make_folder(out)
    looks, failed = [], {}
    for path in photos:
        try:
            looks.append(look(path))
        except ValueError as error:
            failed[path] = str(error)
    whites = find_whites(looks)
    particles: list[Particle] = []
    summary = []
    try:
        for number, (seen, white) in enumerate(zip(looks, whites, strict=True), 1):
            path = seen.path
            try:
                photo = read_photo(path, white)
            except ValueError as error:  # changed or removed meanwhile
                failed[path] = str(error)
                continue
            probability = predict_photo(model, photo, tile)  # type: ignore[arg-type]
            mask = probability > threshold
            _write_image(out / f"{path.stem}-mask.png", mask.astype(np.uint8) * 255)
            _write_image(out / f"{path.stem}-overlay.png", overlay(photo, mask))
            own = find_particles(path.name, probability, threshold)
            particles += own
            summary.append((path.name, *photo.shape[:2], len(own), int(mask.sum())))
            show(f"{number} of {len(looks)}: {path.name!r}, {len(own)} particles")
    finally:
        columns = [field.name for field in fields(Particle)]
        rows = [[getattr(particle, name) for name in columns] for particle in particles]
        _write_csv(out / "particles.csv", columns, rows)
        columns = ["photo", "height", "width", "particles", "plastic_pixels"]
        _write_csv(out / "photographs.csv", columns, summary)
    return Outcome(tuple(particles), failed, tuple(unusual(looks, whites)))


def _make_folder(out: Path) -> None:
    """Make the folder of results, and see that files can be written there."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        why = "it is, or lies below, a file" if _has_file(out) else error.strerror or error
        raise ValueError(
            f"cannot write to the folder {str(out)!r}: {why}; give another folder"
        ) from error


def _has_file(path: Path) -> bool:
    return any(part.is_file() for part in (path, *path.parents))


@contextmanager
def _replaced(path: Path) -> Iterator[Path]:
    """A path beside ``path`` to write to; it takes its place when it is complete."""
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise ValueError(
            f"cannot write {str(path)!r}: {error.strerror or error}; free some space or give "
            "another folder"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def _write_image(path: Path, pixels: NDArray[np.uint8]) -> None:
    from PIL import Image

    with _replaced(path) as temporary:
        Image.fromarray(pixels).save(temporary, format="png")


def _write_csv(path: Path, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    with _replaced(path) as temporary, _text(temporary) as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for row in rows:
            writer.writerow([_cell(value) for value in row])


def _text(path: Path) -> TextIO:
    return path.open("w", newline="", encoding="utf-8", errors="backslashreplace")


def _cell(value: object) -> object:
    """A cell that no spreadsheet takes for a formula: names of files are not ours."""
    if isinstance(value, float):
        return f"{value:.2f}"
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r"):
        return f"'{value}"
    return value
