"""Folders of images, labelled or not, as a network takes them."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from weightscope.errors import ForwardError, InputError, extra
from weightscope.graph.layouts import arranged, parse_layout

if TYPE_CHECKING:
    from torch import Tensor, nn

PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")
IMAGES, MASKS = "images", "masks"
"""Folders inside a labelled one."""

_WHITE = 255
_HELP = (
    "pictures are read into 0..1 with the channels of the model's first convolution (grey is "
    "repeated, colours become grey), .npy arrays (channels, rows, columns) as they are"
)
IMAGES_HELP = f"folder of unlabelled images: {_HELP}"
DATA_HELP = (
    f"folder of labelled images: DIR/{IMAGES} and DIR/{MASKS} with files of the same names. A mask "
    f"of 0 and 255 means no and yes, other values are numbers of classes; {_HELP}"
)


def add_crop(parser: argparse.ArgumentParser) -> None:
    """What is taken of large pictures."""
    parser.add_argument(
        "--crop",
        metavar="N",
        type=int,
        help="take the middle N x N pixels of every image: for photographs that are too large for "
        "one pass, or whose sizes the network does not take",
    )


def crop_notes(crop: int | None) -> tuple[str, ...]:
    """What must be said of figures that were measured on cropped pictures."""
    if crop is None:
        return ()
    return (
        f"--crop took the middle {crop} x {crop} pixels of every image: what is said is of such "
        "crops, whose edges are nearer than those of whole images.",
    )


@contextmanager
def cropping(options: argparse.Namespace, model: nn.Module) -> Iterator[None]:
    """Name ``--crop`` where the forward of a model of pictures does not take those of a folder.

    Raises:
        InputError: ``--crop`` has nothing to crop.
        ForwardError: The forward raised.
    """
    named = [n for n in (options.images, options.data) if n]
    folders = [n for n in named if Path(n).is_dir() or ":" not in n]
    if options.crop is not None and not folders:
        raise InputError(
            f"--crop {options.crop} is for pictures in folders, and none is given; crop in the "
            "loader, or give the size by --input"
        )
    try:
        yield
    except ForwardError as error:
        first = _first_convolution(model)
        flat = first is None or len(first.kernel_size) == 2
        if options.input is not None or not folders or not flat:
            raise
        size = "" if options.crop is None else f"; these have the sizes of --crop {options.crop}"
        raise ForwardError(
            f"{error} --crop N takes the middle N x N pixels of every image{size}."
        ) from error


def images_in(
    folder: str, model: nn.Module, crop: int | None = None, layout: str | None = None
) -> Iterator[Tensor]:
    """The images of a folder as batches of one.

    Args:
        folder: Where they lie.
        model: For its number of channels.
        crop: Side in pixels of the middle part that is taken.
        layout: Of the model's input, to which the images are brought.

    Raises:
        InputError: There is no image, or one cannot be read.
        MissingExtraError: There are pictures, and Pillow is not installed.
    """
    channels, axes = _channels(model), _axes(layout)
    for path in _files(Path(folder)):
        yield arranged(_tensor(_middle(_image(path, channels), crop, path)), axes)


def labelled_in(
    folder: str, model: nn.Module, crop: int | None = None, layout: str | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Images and masks of a folder as batches of one.

    Masks of yes and no are (1, 1, rows, columns) of 0 and 1; of classes (1, rows, columns).

    Args:
        folder: Where the two folders lie.
        model: For its number of channels.
        crop: Side in pixels of the middle part that is taken.
        layout: Of the model's input, to which the images are brought.

    Raises:
        InputError: An image has no mask or another size than its mask, or one cannot be read.
        MissingExtraError: There are pictures, and Pillow is not installed.
    """
    channels, axes = _channels(model), _axes(layout)
    images, masks = _files(Path(folder) / IMAGES), _by_stem(Path(folder) / MASKS)
    alone = [path.name for path in images if path.stem not in masks]
    if alone:
        raise InputError(
            f"{len(alone)} of {len(images)} images in {folder}/{IMAGES} have no mask of the same "
            f"name in {folder}/{MASKS}, the first is {alone[0]!r}; rename the masks, or take these "
            "images away"
        )
    read = [_mask(masks[path.stem]) for path in images]
    yes_and_no = all(np.isin(mask, (0, _WHITE)).all() for mask in read)
    for path, mask in zip(images, read, strict=True):
        image = _image(path, channels)
        labels = mask.ndim == image.ndim and mask.shape[1:] == image.shape[1:]
        if not labels and image.shape[-mask.ndim :] != mask.shape:
            raise InputError(
                f"{path} has the size {_size(image.shape[-2:])}, its mask {_size(mask.shape)}; "
                "give masks of the size of their images, or of several labels as .npy files "
                "(labels, rows, columns)"
            )
        found = arranged(_tensor(_middle(image, crop, path)), axes)
        if labels or yes_and_no:
            target = _labels(masks[path.stem], mask if labels else mask[None])
            yield found, arranged(_tensor(_middle(target, crop, path)), axes)
        else:
            yield found, _tensor(_middle(mask.astype(np.int64), crop, path))


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}; give one that holds images")
    paths = sorted(p for p in folder.glob("*") if p.suffix.lower() in (*PICTURES, ".npy"))
    if not paths:
        raise InputError(
            f"{folder} holds no image; expected a folder of {', '.join(PICTURES)} or .npy files"
        )
    return paths


def _by_stem(folder: Path) -> dict[str, Path]:
    """Files by their names without the suffix, which must differ."""
    files = _files(folder)
    twice = [stem for stem, count in Counter(p.stem for p in files).items() if count > 1]
    if twice:
        raise InputError(f"{folder} holds several files called {twice[0]!r}; keep one of them")
    return {path.stem: path for path in files}


def _axes(layout: str | None) -> str:
    return parse_layout(layout) if layout else ""


def _channels(model: nn.Module) -> int | None:
    """Channels that the first convolution takes; the first in the model is nearly always that."""
    first = _first_convolution(model)
    return None if first is None else first.in_channels


def _first_convolution(model: nn.Module) -> nn.Conv1d | nn.Conv2d | nn.Conv3d | None:
    from torch import nn

    kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    return next((m for m in model.modules() if isinstance(m, kinds)), None)


def _image(path: Path, channels: int | None) -> Any:
    """Channels, rows and columns."""
    if path.suffix.lower() == ".npy":
        return _array(path)
    pixels = _pixels(path, channels)
    values = pixels.astype(np.float32)
    if pixels.dtype.kind in "biu":  # 16 bits come as integers of 16 or 32
        values /= {1: _WHITE}.get(pixels.dtype.itemsize, 65535) if pixels.dtype != bool else 1
    planes = values[None] if values.ndim == 2 else values.transpose(2, 0, 1)
    return np.repeat(planes, 3, axis=0) if channels == 3 and len(planes) == 1 else planes


def _labels(path: Path, mask: Any) -> Any:
    """Whether each label holds, 0 or 1, of masks of 0 and 1 or of 0 and 255."""
    if not np.isin(mask, (0, mask.max())).all() or mask.max() not in (0, 1, _WHITE):
        raise InputError(
            f"{path} holds several labels, and other values than 0 and 1 or 0 and 255; save "
            "whether each holds"
        )
    return (mask > 0).astype(np.float32)


def _mask(path: Path) -> Any:
    """Rows and columns of the numbers in the file: of a palette, its indices."""
    if path.suffix.lower() == ".npy":
        mask = _array(path)
        mask = mask[0] if mask.ndim > 2 and len(mask) == 1 else mask
    else:
        mask = _pixels(path, None, indices=True)
        if mask.ndim == 3 and (mask == mask[..., :1]).all():
            mask = mask[..., 0]  # grey, written as colours
        if mask.ndim == 3:
            raise InputError(
                f"{path} is a mask in colours; save the numbers of the classes as grey values"
            )
        mask = mask * np.uint8(_WHITE) if mask.dtype == bool else mask
    if mask.dtype.kind not in "biu" and (mask != np.round(mask)).any():
        raise InputError(f"{path} holds values between the numbers of classes; save whole numbers")
    return mask


def _array(path: Path) -> Any:
    try:
        return np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise InputError(f"{path} cannot be read as an array: {error}") from error


def _pixels(path: Path, channels: int | None, *, indices: bool = False) -> Any:
    """A picture as it was held: (rows, columns) or (rows, columns, 3), of the file's own type."""
    with extra("PIL", "pictures need Pillow", "pip install pillow, or give .npy files"):
        from PIL import Image, ImageOps
    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file)
            if image.mode == "1" or (indices and image.mode == "P"):
                return np.asarray(image)
            if image.mode in ("L", "F") or image.mode.startswith("I"):
                return np.asarray(image)
            grey = image.mode == "LA" or (channels == 1 and not indices)
            return np.asarray(image.convert("L" if grey else "RGB"))
    except Exception as error:  # whatever a damaged picture makes its reader raise
        raise InputError(f"{path} cannot be read as an image: {error}") from error


def _middle(array: Any, crop: int | None, path: Path) -> Any:
    """The middle part of the last two axes."""
    if crop is None:
        return array
    sizes = array.shape[-2:]
    if not 0 < crop <= min(sizes):
        raise InputError(
            f"--crop {crop} does not fit into {path} of {_size(sizes)} pixels; give 1 to "
            f"{min(sizes)}"
        )
    top, left = ((size - crop) // 2 for size in sizes)
    return array[..., top : top + crop, left : left + crop]


def _tensor(array: Any) -> Tensor:
    import torch

    return torch.from_numpy(np.ascontiguousarray(array))[None]


def _size(sizes: Sequence[int]) -> str:
    return " x ".join(map(str, sizes))
