"""Photographs as they come: any depth of pixels, turned as the camera says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")

Pixels = NDArray[Any]  # (H, W) or (H, W, channels), of the file's own type

DEPTHS = (255, 1023, 4095, 16383, 65535)
"""Largest values of 8 to 16 bits; cameras write 10, 12 and 14 bits into files of 16."""

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
            turned = ImageOps.exif_transpose(image)
            if turned.mode == "P":
                mode = "RGBA" if "transparency" in turned.info else "RGB"
            elif turned.mode in ("CMYK", "YCbCr", "LAB", "HSV"):
                mode = "RGB"
            else:
                mode = turned.mode
            pixels = np.asarray(turned.convert(mode) if mode != turned.mode else turned)
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


def find_range(paths: Sequence[Path]) -> float:
    """Return the value that is white in a set of photographs.

    It is that of the smallest depth that holds the brightest pixel of all: 1 for floating-point
    images up to 1, else 255, 1023, 4095, 16383 or 65535. One dark photograph among others is not
    brightened.

    Raises:
        ValueError: A photograph has negative, infinite or missing values, or values beyond 65535.
    """
    highest, floats = 0.0, False
    for path in paths:
        pixels = read_pixels(path)
        if pixels.dtype == np.uint8:
            highest = max(highest, 255.0)
            continue
        values = pixels.astype(np.float64)
        if not np.isfinite(values).all() or values.min(initial=0) < 0:
            raise ValueError(
                f"{str(path)!r} has negative, infinite or missing values; save it with values from "
                "0 to 1, or as 8 or 16 bits"
            )
        floats |= pixels.dtype.kind == "f"
        highest = max(highest, float(values.max(initial=0)))
    if floats and highest <= 1:
        return 1.0
    for depth in DEPTHS:
        if highest <= depth:
            return float(depth)
    raise ValueError(
        f"the photographs have values up to {highest:g}; save them as 8 or 16 bits, or with values "
        "from 0 to 1"
    )


def read_photo(path: Path, white: float = 255.0) -> NDArray[np.uint8]:
    """Read a photograph as 8-bit RGB.

    Args:
        path: The file.
        white: The value that becomes 255 (`find_range`); files of 8 bits are left as they are.

    Returns:
        (H, W, 3); grey becomes RGB, and transparency is left out.

    Raises:
        ValueError: It is no readable image, or has neither one nor three colours.
    """
    pixels = read_pixels(path)
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 2, 3, 4):
        raise ValueError(
            f"{str(path)!r} has the shape {pixels.shape}; expected one image, grey or RGB"
        )
    colours = pixels[:, :, : 1 if pixels.shape[2] < 3 else 3]
    if colours.dtype != np.uint8:
        scaled = np.clip(colours.astype(np.float64) * (255 / white), 0, 255)
        colours = np.round(scaled).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(colours, (*colours.shape[:2], 3)))


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


def _unreadable(path: Path, error: Exception) -> ValueError:
    return ValueError(f"{str(path)!r} is not a readable image ({error}); repair or remove it")
