"""A user's own photographs and masks, understood by their real values."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from mpseg_models.photos import SUFFIXES, find_range, image_size, read_photo, read_pixels
from studies.runner import Place
from studies.sand.tiles import Photo, store_tiles
from weightscope.errors import InputError
from weightscope.files import written_atomically

FAR = 96
"""Distance of two colours, channels in 0..255, from which nobody takes one for the other's edge."""

SOFT = 0.98
"""Share of pixels that must lie between the two colours of a mask with soft edges; a compressed
JPEG strays a little from the line."""

CODE = ("mpseg_models.photos", "studies.sand.photos", "studies.sand.tiles")
"""Modules that decide what is read."""

Pair = tuple[Path, Path]
Colour = tuple[int, int, int]


@dataclass(frozen=True)
class MaskRule:
    """Which pixels of a mask are plastic.

    Attributes:
        kind: ``value``: of one channel; ``colour``: of three; ``alpha``: of the opacity.
        plastic: The value, or the colour, of plastic.
        other: What it is told apart from where edges are soft: a pixel is plastic if it is nearer
            to ``plastic``. None: only exactly ``plastic`` counts.
        chosen: Whether the user named it.
    """

    kind: str
    plastic: tuple[float, ...]
    other: tuple[float, ...] | None
    chosen: bool = False

    def __str__(self) -> str:
        name = _hex(self.plastic) if self.kind == "colour" else f"{self.plastic[0]:g}"
        return f"{'opacity' if self.kind == 'alpha' else self.kind} {name}"


@dataclass(frozen=True)
class Survey:
    """What was understood of a folder of photographs.

    Attributes:
        pairs: Photographs and their masks.
        shapes: Height and width of each, upright.
        white: The value that is white in photographs of more than 8 bits.
        rule: Which pixels of a mask are plastic.
        plastic: Pixels of plastic in each mask.
    """

    pairs: tuple[Pair, ...]
    shapes: tuple[tuple[int, int], ...]
    white: float
    rule: MaskRule
    plastic: tuple[int, ...]

    def __str__(self) -> str:
        pixels = sum(height * width for height, width in self.shapes)
        share = sum(self.plastic) / pixels
        text = (
            f"{len(self.pairs)} photographs; plastic is {self.rule}: {share:.2%} of the pixels, in "
            f"{sum(count > 0 for count in self.plastic)} of the masks"
        )
        if share > 0.5:
            text += "\nMore than half is plastic: if the masks are the other way round, say so "
            text += "with --mask-value or --mask-color"
        return text


@dataclass(frozen=True)
class Reading:
    """Settings of the job that cuts a user's photographs.

    Attributes:
        found: What was understood of them.
        tile: Side of a tile.
        overlap: Pixels that neighbouring tiles share.
        stamp: Digest of all files.
    """

    found: Survey
    tile: int
    overlap: int
    stamp: str


def read(settings: Reading, place: Place) -> dict[str, Any]:
    """Cut the user's photographs into tiles."""
    found = settings.found
    tiles = store_tiles(
        place.folder,
        read_photos(found),
        found.shapes,
        settings.tile,
        settings.overlap,
        settings.stamp,
    )
    return {"tiles": len(tiles.photos), "plastic": float(tiles.masks.mean())}


def digest_files(found: Survey) -> str:
    """Digest of all photographs and masks."""
    digest = hashlib.sha256()
    for pair in found.pairs:
        for path in pair:
            digest.update(path.name.encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


def survey(
    folder: Path, tile: int, mask_value: int | None = None, mask_colour: str | None = None
) -> Survey:
    """Look at all photographs and masks before any work begins.

    Args:
        folder: Has the folders ``images`` and ``masks``; a mask is named like its photograph,
            whatever its suffix.
        tile: Pixels of a tile; no photograph may be smaller.
        mask_value: Value of plastic in masks of one channel, or its index in a palette.
        mask_colour: Colour of plastic, as ``#rrggbb``.

    Raises:
        InputError: A folder is missing or empty, a file is no readable image, a mask is missing
            or has another size than its photograph, a photograph is smaller than a tile, or it
            cannot be told what is plastic; the text says what was found instead.
    """
    if mask_value is not None and mask_colour is not None:
        raise InputError("give --mask-value or --mask-color, not both")
    pairs = find_photos(folder, tile)
    try:
        white = find_range([photo for photo, _ in pairs])
        masks = [mask for _, mask in pairs]
        rule = _named(masks, mask_value, mask_colour) or _guess(masks)
        plastic = []
        for photo, mask in pairs:
            height, width = image_size(photo)
            plastic.append(int(_read_mask(mask, rule, (height, width)).sum()))
    except (ValueError, ImportError) as error:
        raise InputError(f"--data: {error}") from error
    if not any(plastic):
        raise InputError(
            f"--data: no mask has any plastic ({rule}): they hold {_describe(_census(masks))}; say "
            "which of it is plastic with --mask-value or --mask-color"
        )
    return Survey(
        pairs=pairs,
        shapes=tuple(image_size(photo) for photo, _ in pairs),
        white=white,
        rule=rule,
        plastic=tuple(plastic),
    )


def read_photos(found: Survey) -> Iterator[Photo]:
    """Yield photographs with their masks of 0 and 1."""
    for (photo, mask), shape in zip(found.pairs, found.shapes, strict=True):
        try:
            yield read_photo(photo, found.white), _read_mask(mask, found.rule, shape)
        except ValueError as error:
            raise InputError(f"--data: {error}") from error


def find_photos(folder: Path, tile: int) -> tuple[Pair, ...]:
    """Pair the photographs in ``folder/images`` with the masks of the same name in ``masks``.

    Raises:
        InputError: As `survey` does, for all that names and sizes tell.
    """
    images, masks = folder / "images", folder / "masks"
    for needed in (folder, images, masks):
        if not needed.is_dir():
            raise InputError(
                f"--data: there is no folder {str(needed)!r}; expected photographs in "
                f"{str(images)!r} and their masks, of the same name, in {str(masks)!r}"
            )
    photos = _images_in(images)
    if not photos:
        raise InputError(
            f"--data: no photographs in {str(images)!r}; expected files ending in "
            f"{', '.join(SUFFIXES)}"
        )
    by_stem: dict[str, list[Path]] = {}
    for mask in _images_in(masks):
        by_stem.setdefault(mask.stem, []).append(mask)
    missing = [photo.name for photo in photos if photo.stem not in by_stem]
    if missing:
        raise InputError(
            f"--data: {len(missing)} photographs have no mask in {str(masks)!r}: "
            f"{', '.join(missing[:5])}; a mask is named like its photograph, "
            f"for example {Path(missing[0]).stem}.png"
        )
    stems = Counter(photo.stem for photo in photos)
    twice = [stem for stem, count in stems.items() if count > 1 or len(by_stem[stem]) > 1]
    if twice:
        raise InputError(
            f"--data: several files are called {twice[0]!r} in {str(images)!r} or {str(masks)!r}; "
            "leave one photograph and one mask of each name"
        )
    pairs = tuple((photo, by_stem[photo.stem][0]) for photo in photos)
    for photo, mask in pairs:
        _check_sizes(photo, mask, tile)
    return pairs


def contact_sheet(found: Survey, path: Path, most: int = 24, side: int = 240) -> Path:
    """Write a picture of what was understood: photographs as read, plastic outlined and marked.

    Args:
        found: The survey.
        path: Where the PNG goes.
        most: Photographs shown: those with the most plastic, then the rest.
        side: Pixels of a photograph on the sheet.
    """
    from mpseg_models.predict import overlay

    order = np.argsort(found.plastic, kind="stable")[::-1][:most]
    chosen = Survey(
        pairs=tuple(found.pairs[i] for i in order),
        shapes=tuple(found.shapes[i] for i in order),
        white=found.white,
        rule=found.rule,
        plastic=tuple(found.plastic[i] for i in order),
    )
    columns = min(4, len(order))
    rows = -(-len(order) // columns)
    line = 16
    sheet = Image.new("RGB", (columns * (side + 8), rows * (side + line + 8)), "white")
    draw = ImageDraw.Draw(sheet)
    for place, (photo, mask) in enumerate(read_photos(chosen)):
        left, top = place % columns * (side + 8), place // columns * (side + line + 8)
        scale = max(1, -(-max(mask.shape) // side))
        marked = _coarse(overlay(photo, mask > 0), _coarse_mask(mask, scale), scale)
        small = Image.fromarray(marked)
        small.thumbnail((side, side), Image.Resampling.NEAREST)
        sheet.paste(small, (left + 4, top + line + 2))
        name = "".join(
            c if c.isprintable() and ord(c) < 256 else "?" for c in chosen.pairs[place][0].name
        )
        draw.text((left + 4, top + 2), f"{name[:24]}: {chosen.plastic[place]} px", fill="black")
    with written_atomically(path) as temporary:
        sheet.save(temporary, format="png")
    return path


def _coarse_mask(mask: NDArray[np.uint8], scale: int) -> NDArray[np.bool_]:
    """Which squares of ``scale`` pixels hold any plastic."""
    height, width = (length // scale * scale for length in mask.shape)
    squares = mask[:height, :width].reshape(height // scale, scale, width // scale, scale)
    return np.asarray(squares.any((1, 3)))


def _coarse(photo: NDArray[np.uint8], squares: NDArray[np.bool_], scale: int) -> NDArray[np.uint8]:
    """Shrink a photograph so that particles of a few pixels stay visible."""
    height, width = (length // scale * scale for length in photo.shape[:2])
    parts = photo[:height, :width].reshape(height // scale, scale, width // scale, scale, 3)
    small = parts.mean((1, 3)).astype(np.uint8)
    if scale > 1:
        small[squares] = (255, 0, 255)
    return small


# --- names and sizes --------------------------------------------------------------------------


def _images_in(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES)


def _check_sizes(photo: Path, mask: Path, tile: int) -> None:
    try:
        size, mask_size = image_size(photo), image_size(mask)
    except (ValueError, ImportError) as error:
        raise InputError(f"--data: {error}") from error
    if size != mask_size:
        raise InputError(
            f"--data: the mask {mask.name!r} is {mask_size[1]} x {mask_size[0]} px, but its "
            f"photograph {photo.name!r} is {size[1]} x {size[0]} px (upright); paint masks over "
            "the photograph as it is shown"
        )
    if min(size) < tile:
        raise InputError(
            f"--data: {photo.name!r} is {size[1]} x {size[0]} px, smaller than a "
            f"tile of {tile} px; give larger photographs or a preset with smaller tiles"
        )


# --- what is plastic --------------------------------------------------------------------------


def _layers(path: Path) -> tuple[str, NDArray[np.float64]]:
    """A mask as values (H, W), as colours (H, W, 3), or as its opacity (H, W)."""
    pixels = read_pixels(path)
    if pixels.ndim == 3 and pixels.shape[2] in (2, 4):
        alpha = pixels[..., -1].astype(np.float64)
        if np.ptp(alpha) > 0 or not alpha.any():  # a layer, painted or not
            return "alpha", alpha
        pixels = pixels[..., :-1]
    if pixels.ndim == 3 and pixels.shape[2] == 3:
        if (pixels == pixels[..., :1]).all():
            return "value", pixels[..., 0].astype(np.float64)
        return "colour", pixels.astype(np.float64)
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    if pixels.ndim != 2:
        raise ValueError(f"{str(path)!r} has the shape {pixels.shape}; expected one mask")
    return "value", pixels.astype(np.float64)


def _census(masks: Sequence[Path]) -> dict[str, Counter[tuple[float, ...]]]:
    """How often each value or colour occurs in all masks, by the kind of mask."""
    counts: dict[str, Counter[tuple[float, ...]]] = {}
    for path in masks:
        kind, layer = _layers(path)
        flat = layer.reshape(-1, 3 if layer.ndim == 3 else 1)
        values, times = np.unique(flat, axis=0, return_counts=True)
        own = counts.setdefault(kind, Counter())
        for value, count in zip(values.tolist(), times.tolist(), strict=True):
            own[tuple(value)] += count
    if "colour" in counts and "value" in counts:  # an empty mask has no colour to be told by
        grey = counts.pop("value")
        for (value,), count in grey.items():
            counts["colour"][(value, value, value)] += count
    return counts


def _named(masks: Sequence[Path], value: int | None, colour: str | None) -> MaskRule | None:
    """The rule that the user gave."""
    if colour is not None:
        digits = colour.removeprefix("#")
        if len(digits) != 6 or any(digit not in "0123456789abcdefABCDEF" for digit in digits):
            raise ValueError(f"--mask-color {colour!r} is no colour such as #ff0000")
        return MaskRule("colour", tuple(float(byte) for byte in bytes.fromhex(digits)), None, True)
    if value is not None:
        return MaskRule("value", (float(value),), None, True)
    return None


def _guess(masks: Sequence[Path]) -> MaskRule:
    """Tell plastic from the rest where masks have two values, with hard or soft edges.

    In black and white, and in classes 0 and 1, plastic is the higher value; in colours, it is what
    is not black, or what is rarer; on a transparent layer, what is painted.
    """
    census = _census(masks)
    if len(census) > 1:
        kinds = {"alpha": "on a transparent layer", "value": "in grey", "colour": "in colours"}
        raise ValueError(
            f"some masks are painted {', others '.join(kinds[kind] for kind in sorted(census))}; "
            "save all of them in the same way"
        )
    ((kind, counts),) = census.items()
    two = _two(kind, counts)
    if two is None:
        option = "--mask-color" if kind == "colour" else "--mask-value"
        raise ValueError(
            f"masks hold more than two classes ({_describe(census)}); say which is plastic with "
            f"{option}"
        )
    plastic, other = two
    return MaskRule(kind, plastic, other)


def _two(
    kind: str, counts: Counter[tuple[float, ...]]
) -> tuple[tuple[float, ...], tuple[float, ...] | None] | None:
    """Plastic and the rest, in that order; None where there are more classes."""
    values = [value for value, _ in counts.most_common()]
    if len(values) == 1:  # nothing was painted, or everything
        return ((255.0,), None) if values[0] == (0.0,) * len(values[0]) else (values[0], None)
    if len(values) == 2:
        ends = values
    else:
        ground = values[0]
        far = [value for value in values if _distance(value, ground) >= FAR * _unit(values)]
        if not far:
            return None
        ends = [ground, far[0]]
        total = sum(counts.values())
        between = sum(n for value, n in counts.items() if _near_line(value, *ends, _unit(values)))
        if between < SOFT * total:
            return None
        # a third class is one value, far from both ends; soft edges are many, each of them rare
        apart = FAR / 3 * _unit(values)
        third = [v for v in values if all(_distance(v, end) > apart for end in ends)]
        if any(counts[value] > 0.2 * counts[ends[1]] for value in third):
            return None
    black = (0.0,) * len(ends[0])
    if kind in ("value", "alpha"):
        plastic, other = max(ends), min(ends)
    elif black in ends:
        plastic, other = next(value for value in ends if value != black), black
    else:
        other, plastic = ends  # the most common first
    return plastic, other


def _unit(values: Iterable[tuple[float, ...]]) -> float:
    """1 for masks of 8 bits, more for deeper ones, less for 0..1."""
    highest = max(max(value) for value in values)
    return 1 / 255 if highest <= 1 else max(1.0, highest / 255)


def _distance(a: Sequence[float], b: Sequence[float]) -> float:
    return float(np.linalg.norm(np.subtract(a, b)))


def _near_line(
    value: Sequence[float], start: Sequence[float], end: Sequence[float], unit: float
) -> bool:
    """Whether a colour lies within a third of `FAR` of the line between two others."""
    along = np.subtract(end, start)
    share = np.clip(np.dot(np.subtract(value, start), along) / np.dot(along, along), 0, 1)
    return _distance(value, np.asarray(start) + share * along) <= FAR / 3 * unit


def _read_mask(path: Path, rule: MaskRule, shape: tuple[int, int]) -> NDArray[np.uint8]:
    """Read a mask by the rule: (H, W) of 0 and 1."""
    if rule.kind == "value" and rule.chosen:
        layer = _indices(path)
    else:
        kind, layer = _layers(path)
        if rule.kind == "colour" and kind == "value":
            layer = np.repeat(layer[..., None], 3, -1)
        elif rule.kind == "colour" and kind == "alpha":
            layer = read_pixels(path)[..., :3].astype(np.float64)
    values = layer if layer.ndim == 3 else layer[..., None]
    if values.shape[:2] != shape:
        raise ValueError(f"{str(path)!r} is no mask of {shape[1]} x {shape[0]} px")
    if rule.other is None:
        reach = FAR / 3 if rule.kind == "colour" and rule.chosen else 0.0
        found = np.linalg.norm(values - np.asarray(rule.plastic), axis=-1) <= reach
    else:
        near, far = (
            np.linalg.norm(values - np.asarray(end), axis=-1) for end in (rule.plastic, rule.other)
        )
        found = near < far
    return found.astype(np.uint8)


def _indices(path: Path) -> NDArray[np.float64]:
    """The values of one channel, of a palette its indices."""
    with Image.open(path) as image:
        if image.mode == "P":
            return np.asarray(image, np.float64)
    kind, layer = _layers(path)
    if kind == "colour":
        raise ValueError(
            f"{str(path)!r} is a mask in colours, which have no single value; give --mask-color"
        )
    return layer


def _describe(census: dict[str, Counter[tuple[float, ...]]]) -> str:
    """The most common values, with how often they occur."""
    parts = []
    for kind, counts in census.items():
        total = sum(counts.values())
        for value, count in counts.most_common(6):
            name = _hex(value) if kind == "colour" else f"{value[0]:g}"
            parts.append(f"{name} ({count / total:.2%})")
        if len(counts) > 6:
            parts.append(f"{len(counts) - 6} more")
    return ", ".join(parts)


def _hex(colour: Sequence[float]) -> str:
    return "#" + "".join(f"{round(channel):02x}" for channel in colour)
