"""Photographs as they come: any depth of pixels, turned as the camera says."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")

Pixels = NDArray[Any]  # (H, W) or (H, W, channels), of the file's own type

DEPTHS = (255, 1023, 4095, 16383, 65535)
"""Largest values of 8 to 16 bits; cameras write 10, 12 and 14 bits into files of 16."""

EIGHT, DEEP, FLOATS = "8 bits", "more than 8 bits", "floating-point values"
"""Kinds of photographs."""

TURN = 0x0112
"""The EXIF entry for how the camera was held."""


def read_pixels(path: Path) -> Pixels:
    """Read an image with its own values, upright.

    A palette becomes its colours, CMYK becomes RGB; nothing else is converted.

    Args:
        path: A PNG, JPEG, TIFF, BMP or WebP file.

    Returns:
        (H, W) or (H, W, channels) in the file's own type: booleans become 0 and 1.

    Raises:
        ValueError: It is no readable image, or has several pages.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            deep = ";16" in str(image.tile)  # Pillow keeps the upper half of colours of 16 bits
            if deep and image.format == "TIFF" and image.mode in ("RGB", "RGBA"):
                return _turned(_read_tiff(path), image.getexif().get(TURN, 1))
            turned = ImageOps.exif_transpose(image)
            if turned.mode == "P":
                mode = "RGBA" if "transparency" in turned.info else "RGB"
            elif turned.mode in ("CMYK", "YCbCr", "LAB", "HSV"):
                mode = "RGB"
            else:
                mode = turned.mode
            pixels = np.asarray(turned.convert(mode) if mode != turned.mode else turned)
        if deep and pixels.dtype == np.uint8:
            return pixels.astype(np.uint16) * 257
        return pixels.astype(np.uint8) if pixels.dtype == bool else pixels
    except UnidentifiedImageError as error:
        if path.suffix.lower() not in (".tif", ".tiff"):
            raise _unreadable(path, error) from error
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise _unreadable(path, error) from error
    return _read_tiff(path)


def image_size(path: Path) -> tuple[int, int]:
    """Return height and width of an image, upright, without reading its pixels.

    Raises:
        ValueError: It is no readable image.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            width, height = image.size
            sideways = image.getexif().get(TURN, 1) in (5, 6, 7, 8)
            return (width, height) if sideways else (height, width)
    except UnidentifiedImageError as error:
        if path.suffix.lower() not in (".tif", ".tiff"):
            raise _unreadable(path, error) from error
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise _unreadable(path, error) from error
    pixels = _read_tiff(path)
    return pixels.shape[0], pixels.shape[1]


@dataclass(frozen=True)
class Look:
    """What a photograph is before it becomes 8-bit RGB.

    Attributes:
        path: Its file.
        kind: ``8 bits``, ``more than 8 bits`` or ``floating-point values``.
        highest: Its brightest value.
        grey: Whether its three colours are equal everywhere, or it has but one.
        digest: SHA-256 of its size and pixels: equal for two files of one picture.
    """

    path: Path
    kind: str
    highest: float
    grey: bool
    digest: str


def look(path: Path) -> Look:
    """Read a photograph and say what it is.

    Raises:
        ValueError: It is no readable image, or has negative, infinite or missing values, or values
            beyond 65535.
    """
    pixels = _colours(path)
    highest = float(pixels.max(initial=0))
    lowest = float(pixels.min(initial=0))
    if not np.isfinite([lowest, highest]).all() or lowest < 0:  # max and min hand NaN on
        raise ValueError(
            f"{str(path)!r} has negative, infinite or missing values; save it with values from "
            "0 to 1, or as 8 or 16 bits"
        )
    if highest > DEPTHS[-1]:
        raise ValueError(
            f"{str(path)!r} has values up to {highest:g}; save it as 8 or 16 bits, or with values "
            "from 0 to 1"
        )
    grey = bool((pixels == pixels[:, :, :1]).all())
    shown = np.ascontiguousarray(pixels[:, :, :1] if grey else pixels)
    digest = hashlib.sha256(f"{shown.shape} {shown.dtype}".encode())
    digest.update(shown.data)
    deep = FLOATS if pixels.dtype.kind == "f" else DEEP
    kind = EIGHT if pixels.dtype == np.uint8 else deep
    return Look(path, kind, highest, grey, digest.hexdigest())


def find_whites(looks: Sequence[Look]) -> list[float]:
    """Return the value that is white in each of a set of photographs.

    It is 255 in files of 8 bits and 1 in floating-point images up to 1. In all others it is that of
    the smallest depth (255, 1023, 4095, 16383 or 65535) that holds the brightest pixel of all files
    of the kind, so that one dark photograph among others is not brightened.

    Raises:
        ValueError: Some floating-point images end at 1 and others go beyond: they have no scale in
            common.
    """
    highest = {
        kind: max((seen.highest for seen in looks if seen.kind == kind), default=0.0)
        for kind in (DEEP, FLOATS)
    }
    floats = [seen for seen in looks if seen.kind == FLOATS]
    faint = [seen for seen in floats if seen.highest <= 1]
    if faint and len(faint) < len(floats):
        bright = next(seen for seen in floats if seen.highest > 1)
        raise ValueError(
            f"{str(faint[0].path)!r} has floating-point values up to {faint[0].highest:g}, "
            f"{str(bright.path)!r} up to {bright.highest:g}: what is white cannot be told; save "
            "them on one scale, such as 0 to 1"
        )
    whites = {EIGHT: 255.0}
    for kind, value in highest.items():
        whites[kind] = float(next(depth for depth in DEPTHS if value <= depth))
    if faint:
        whites[FLOATS] = 1.0
    return [whites[seen.kind] for seen in looks]


def unusual(looks: Sequence[Look], whites: Sequence[float]) -> list[str]:
    """Say by name which photographs are not what cameras write: 8 bits in three colours."""
    said = []
    grey = [seen.path for seen in looks if seen.grey]
    if grey:
        said.append(f"photographs without colours: {names(grey)}")
    black = [seen.path for seen in looks if seen.kind == EIGHT and seen.highest <= 1]
    if black:
        said.append(f"photographs that are black, with no value above 1 of 255: {names(black)}")
    for kind in (DEEP, FLOATS):
        own = [(s.path, w) for s, w in zip(looks, whites, strict=True) if s.kind == kind]
        if own:
            said.append(
                f"photographs with {kind}, brought to 8 bits with white at {own[0][1]:g}: "
                f"{names([path for path, _ in own])}"
            )
    return said


def names(paths: Sequence[Path], most: int = 8) -> str:
    """The names of files for a message, the first of many."""
    shown = ", ".join(repr(path.name) for path in paths[:most])
    return shown if len(paths) <= most else f"{shown} and {len(paths) - most} more"


def read_photo(path: Path, white: float = 255.0) -> NDArray[np.uint8]:
    """Read a photograph as 8-bit RGB.

    Args:
        path: The file.
        white: The value that becomes 255 (`find_whites`); files of 8 bits are left as they are.

    Returns:
        (H, W, 3); grey becomes RGB, and transparency is left out.

    Raises:
        ValueError: It is no readable image, or has neither one nor three colours.
    """
    colours = _colours(path)
    if colours.dtype != np.uint8:
        scaled = np.clip(colours.astype(np.float64) * (255 / white), 0, 255)
        colours = np.round(scaled).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(colours, (*colours.shape[:2], 3)))


def _colours(path: Path) -> Pixels:
    """The colours of a photograph, (H, W, 1 or 3), without transparency, in the file's own type."""
    pixels = read_pixels(path)
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 2, 3, 4):
        raise ValueError(
            f"{str(path)!r} has the shape {pixels.shape}; expected one image, grey or RGB"
        )
    return pixels[:, :, : 1 if pixels.shape[2] < 3 else 3]


def _read_tiff(path: Path) -> Pixels:
    """TIFFs that Pillow does not know: 16-bit and floating-point colour, for example."""
    try:
        import tifffile
    except ImportError as error:
        raise ImportError(
            f"{str(path)!r} is a TIFF that Pillow cannot read; pip install tifffile"
        ) from error
    try:
        with tifffile.TiffFile(path) as file:
            if len(file.pages) != 1:
                raise ValueError(
                    f"{str(path)!r} has {len(file.pages)} pages; save one image per file"
                )
            pixels = file.asarray()
    except (tifffile.TiffFileError, OSError, KeyError, RuntimeError) as error:
        raise _unreadable(path, error) from error
    if pixels.ndim == 3 and pixels.shape[0] in (3, 4) and pixels.shape[2] > 4:
        pixels = np.moveaxis(pixels, 0, -1)  # planes one after the other
    return np.asarray(pixels)


def _turned(pixels: Pixels, how: int) -> Pixels:
    """Turn pixels upright as the EXIF entry says."""
    if how >= 5:
        pixels = np.swapaxes(pixels, 0, 1)
    rows = -1 if how in (3, 4, 7, 8) else 1
    columns = -1 if how in (2, 3, 6, 7) else 1
    return pixels[::rows, ::columns]


def _unreadable(path: Path, error: Exception) -> ValueError:
    if not path.exists():
        return ValueError(f"there is no file {str(path)!r}")
    return ValueError(f"{str(path)!r} is not a readable image ({error}); repair or remove it")
