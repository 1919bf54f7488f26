"""Photographs and masks, cut into overlapping tiles and kept in one file each.

A photograph of 1440 x 1440 px gives 16 tiles of 512 px: origins 0, 412, 824 and, so that the
border is covered, 928. Sixteen times 386 photographs are the paper's 6,176 tiles.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from studies.sand.scenes import SceneSettings, make_scene
from weightscope.errors import InputError
from weightscope.files import written_atomically

Photo = tuple[NDArray[np.uint8], NDArray[np.uint8]]  # (H, W, 3) image, (H, W) mask of 0 and 1
Indices = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Tiles:
    """Tiles of a set of photographs; the arrays may lie on disk.

    Attributes:
        images: (N, S, S, 3) uint8.
        masks: (N, S, S) uint8, 1 where there is plastic.
        photos: (N,) which photograph each tile was cut from.
    """

    images: NDArray[np.uint8]
    masks: NDArray[np.uint8]
    photos: Indices

    def batch(self, indices: Indices) -> tuple[Tensor, Tensor]:
        """Return images (B, 3, S, S) in 0..1 and masks (B, 1, S, S) of 0 and 1, both float32."""
        images = torch.from_numpy(np.ascontiguousarray(self.images[indices]))
        masks = torch.from_numpy(np.ascontiguousarray(self.masks[indices]))
        return images.permute(0, 3, 1, 2).float() / 255, masks[:, None].float()

    def batches(self, indices: Indices, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield ``batch`` after batch of at most ``size`` tiles, in the order of ``indices``."""
        for start in range(0, len(indices), size):
            yield self.batch(indices[start : start + size])

    def mean_pixel(self, indices: Indices) -> Tensor:
        """Return the mean colour (3,) in 0..1 of some tiles."""
        sums = [self.images[i].reshape(-1, 3).mean(0) for i in indices]
        return torch.from_numpy(np.mean(sums, axis=0) / 255).float()


@dataclass(frozen=True, eq=False)
class Split:
    """Which tiles are for training, validation and test; no photograph is in two of them."""

    train: Indices
    validation: Indices
    test: Indices


def tile_origins(length: int, size: int, overlap: int) -> tuple[int, ...]:
    """Return where tiles begin along one side.

    Tiles overlap by ``overlap`` pixels; the last one is moved back to end at the border, where it
    overlaps by more.

    Args:
        length: Pixels of the photograph along this side.
        size: Pixels of a tile.
        overlap: Pixels that neighbours share, below ``size``.

    Raises:
        InputError: The photograph is smaller than a tile, or the overlap is not below the size.

    Example:
        >>> tile_origins(1440, 512, 100)
        (0, 412, 824, 928)
    """
    if not 0 <= overlap < size:
        raise InputError(f"tiles of {size} px cannot overlap by {overlap} px")
    if length < size:
        raise InputError(f"a side of {length} px is shorter than a tile of {size} px")
    regular = range(0, length - size, size - overlap)
    return (*regular, length - size)


def cut_tiles(photo: Photo, size: int, overlap: int) -> Iterator[Photo]:
    """Yield the tiles of a photograph and its mask, row by row."""
    image, mask = photo
    for top in tile_origins(image.shape[0], size, overlap):
        for left in tile_origins(image.shape[1], size, overlap):
            window = slice(top, top + size), slice(left, left + size)
            yield image[window], mask[window]


def count_tiles(shape: tuple[int, int], size: int, overlap: int) -> int:
    """Return how many tiles a photograph of this height and width gives."""
    height, width = shape
    return len(tile_origins(height, size, overlap)) * len(tile_origins(width, size, overlap))


def split_photos(photos: Indices, fold: int, folds: int, seed: int) -> Split:
    """Split tiles by photograph: 1/folds for test, a tenth of the rest to validate.

    With five folds this is the paper's 20 % test, 72 % training, 8 % validation (sec. 4.3).
    Tiles of one photograph overlap, so they stay together: otherwise pixels of test tiles would
    be trained on.

    Args:
        photos: (N,) photograph of each tile.
        fold: Which fold is for test, 0 .. folds - 1.
        folds: Number of folds.
        seed: Seed of the shuffle.

    Raises:
        InputError: Too few photographs for these folds.
    """
    unique = np.random.default_rng(seed).permutation(np.unique(photos))
    if len(unique) < max(folds, 3):
        raise InputError(
            f"{len(unique)} photographs cannot be split into {folds} folds with training, "
            f"validation and test parts; give at least {max(folds, 3)}"
        )
    test = unique[fold::folds]
    rest = unique[~np.isin(unique, test)]
    validation = rest[: max(1, round(0.1 * len(rest)))]
    where = [np.flatnonzero(np.isin(photos, part)) for part in (validation, test)]
    train = np.setdiff1d(np.arange(len(photos)), np.concatenate(where))
    return Split(train=train, validation=where[0], test=where[1])


def thin(split: Split, most: int, seed: int) -> Split:
    """Leave tiles out at random, so that at most ``most`` are trained on.

    Validation and test lose the same share.
    """
    share = min(1.0, most / len(split.train))
    rng = np.random.default_rng(seed)

    def some(indices: Indices) -> Indices:
        count = max(1, round(share * len(indices)))
        return np.sort(rng.permutation(indices)[:count])

    return Split(some(split.train), some(split.validation), some(split.test))


def draw_photos(
    count: int, size: int, seed: int, settings: SceneSettings | None = None
) -> Iterator[Photo]:
    """Yield synthetic photographs of ``size`` x ``size`` px."""
    for index in range(count):
        scene = make_scene(size, size, [seed, index], settings)
        yield scene.image, scene.mask


# --- the tiles on disk ------------------------------------------------------------------------


def store_tiles(
    folder: Path,
    photos: Iterable[Photo],
    shapes: Sequence[tuple[int, int]],
    size: int,
    overlap: int,
    description: object,
) -> Tiles:
    """Cut photographs into tiles, write them to ``folder``, and open them from there.

    If the folder holds tiles with the same description already, they are opened and ``photos`` is
    not read.

    Args:
        folder: Where ``images.npy``, ``masks.npy`` and ``tiles.json`` go.
        photos: Photographs with masks, read one by one.
        shapes: Height and width of each.
        size: Pixels of a tile.
        overlap: Pixels that neighbours share.
        description: What the tiles were made from, anything that JSON can hold.

    Raises:
        InputError: The disk is full or not writable.
    """
    manifest = folder / "tiles.json"
    counts = [count_tiles(shape, size, overlap) for shape in shapes]
    record = json.dumps({"made from": description, "tiles": counts}, sort_keys=True)
    if not (manifest.exists() and manifest.read_text() == record):
        shape = (sum(counts), size, size)
        with (
            written_atomically(folder / "images.npy") as images,
            written_atomically(folder / "masks.npy") as masks,
            images.open("wb") as image_file,
            masks.open("wb") as mask_file,
        ):
            _write_header(image_file, (*shape, 3))
            _write_header(mask_file, shape)
            for photo in photos:
                for image, mask in cut_tiles(photo, size, overlap):
                    image_file.write(np.ascontiguousarray(image).tobytes())
                    mask_file.write(np.ascontiguousarray(mask).tobytes())
        with written_atomically(manifest) as temporary:
            temporary.write_text(record)
    return open_tiles(folder)


def open_tiles(folder: Path) -> Tiles:
    """Open what `store_tiles` wrote; the arrays stay on disk."""
    counts = json.loads((folder / "tiles.json").read_text())["tiles"]
    return Tiles(
        images=np.load(folder / "images.npy", mmap_mode="r"),
        masks=np.load(folder / "masks.npy", mmap_mode="r"),
        photos=np.repeat(np.arange(len(counts)), counts),
    )


def _write_header(file: BinaryIO, shape: tuple[int, ...]) -> None:
    """Write the header of an npy file, so that tiles can follow one by one."""
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
