"""A user's own photographs and masks, understood by their real values."""

from __future__ import annotations

import hashlib
import re
import textwrap
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from mpseg_models.photos import (
    SUFFIXES,
    Look,
    find_whites,
    image_size,
    look,
    names,
    read_photo,
    unusual,
)
from studies.runner import Place
from studies.sand.masks import LOSSY, MaskRule, Named, Pair, find_rule, read_mask, take_census
from studies.sand.tiles import Photo, store_tiles
from weightscope.errors import InputError
from weightscope.files import written_atomically

CODE = ("mpseg_models.photos", "studies.sand.masks", "studies.sand.photos", "studies.sand.tiles")
"""Modules that decide what is read."""

IMAGES = ("images", "photos", "photographs")
MASKS = ("masks", "labels")
"""Names of the two folders, in capitals or not."""

WORD = "(masks?|labels?|seg(mentation)?)"
AFFIXES = (
    re.compile(rf"[ _.-]+{WORD}$|[ _.-]*(\({WORD}\)|\[{WORD}\])$"),
    re.compile(rf"^{WORD}[ _.-]+|^(\({WORD}\)|\[{WORD}\])[ _.-]*"),
)
"""What programs add to the name of a photograph for its mask, behind and before."""

NEARLY = 0.2
"""Share of the pixels taken from which as many, up to twice as far from the named colour, are lost
paint: soft edges and JPEG of full colours leave up to 0.16, JPEG of halved colours 0.27 or more."""

LITTER = ("thumbs.db", "desktop.ini", "__macosx", "@eadir")


@dataclass(frozen=True)
class Survey:
    """What was understood of a folder of photographs.

    Attributes:
        pairs: Photographs and their masks.
        shapes: Height and width of each, upright.
        whites: The value that is white in each photograph.
        rule: Which pixels of a mask are plastic.
        plastic: Pixels of plastic in each mask.
        notes: What the user should look at.
    """

    pairs: tuple[Pair, ...]
    shapes: tuple[tuple[int, int], ...]
    whites: tuple[float, ...]
    rule: MaskRule
    plastic: tuple[int, ...]
    notes: tuple[str, ...]

    def __str__(self) -> str:
        pixels = sum(height * width for height, width in self.shapes)
        share = sum(self.plastic) / pixels
        text = (
            f"{len(self.pairs)} photographs; plastic is {self.rule}: {share:.2%} of the pixels, in "
            f"{sum(count > 0 for count in self.plastic)} of the masks"
        )
        return "\n".join((text, *(f"Note: {note}." for note in self.notes)))


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


def survey(folder: Path, tile: int, named: Named | None = None) -> Survey:
    """Look at all photographs and masks before any work begins.

    Args:
        folder: Has the folders ``images`` and ``masks``; a mask is named like its photograph,
            whatever its suffix, with or without a word such as ``_mask``.
        tile: Pixels of a tile; no photograph may be smaller.
        named: What the user said of the masks.

    Raises:
        InputError: A folder is missing or empty, a file is no readable image, a mask is missing
            or has another size than its photograph, a photograph is smaller than a tile, or it
            cannot be told what is plastic; the text says what was found instead.
    """
    pairs, notes = find_photos(folder, tile)
    try:
        rule, said = find_rule(pairs, named or Named())
        looks = [look(photo) for photo, _ in pairs]
        whites = find_whites(looks)
        shapes = tuple(image_size(photo) for photo, _ in pairs)
        plastic = tuple(
            int(read_mask(mask, rule, shape).sum())
            for (_, mask), shape in zip(pairs, shapes, strict=True)
        )
        if not any(plastic):
            raise ValueError(
                f"no mask has any plastic ({rule}): they hold {_held(pairs)}; say which of it is "
                "plastic with --mask-value or --mask-color"
            )
    except (ValueError, ImportError) as error:
        raise InputError(f"--data: {error}") from error
    compressed = [mask for _, mask in pairs if mask.suffix.lower() in LOSSY]
    if compressed:
        said += (
            f"masks that were compressed, which moves edges; PNG keeps them: {names(compressed)}",
        )
    turned = [
        mask
        for (_, mask), count, (height, width) in zip(pairs, plastic, shapes, strict=True)
        if count > 0.5 * height * width
    ]
    if turned:
        said = (
            f"more than half is plastic in {len(turned)} of {len(pairs)} masks, {names(turned)}: "
            "if all are the other way round, say so with --mask-value or --mask-color; if some "
            "are, save those anew",
            *said,
        )
    notes = (*_nearly(pairs, shapes, rule, sum(plastic)), *said, *notes)
    notes += (*unusual(looks, whites), *_copies(looks))
    return Survey(pairs, shapes, tuple(whites), rule, plastic, notes)


def _nearly(
    pairs: Sequence[Pair], shapes: Sequence[tuple[int, int]], rule: MaskRule, taken: int
) -> list[str]:
    """Say where much paint hardly has the colour that was named, as JPEG leaves thin paint."""
    if not rule.reach:
        return []
    wide = replace(rule, reach=2 * rule.reach)
    within = sum(
        int(read_mask(mask, wide, shape).sum())
        for (_, mask), shape in zip(pairs, shapes, strict=True)
    )
    if within - taken <= NEARLY * taken:
        return []
    return [
        f"{within - taken} px nearly have the colour that was named ({wide}) and are left out, "
        f"beside {taken} px that are taken: if they are paint, save the painted layer alone as PNG"
    ]


def _held(pairs: Sequence[Pair]) -> str:
    census = take_census(pairs, photographs=True)
    return "photographs, or masks of several kinds" if census is None else str(census)


def _copies(looks: Sequence[Look]) -> list[str]:
    """Say which photographs are there twice."""
    files: dict[str, list[Path]] = {}
    for seen in looks:
        files.setdefault(seen.digest, []).append(seen.path)
    return [
        f"one picture under several names, {names(paths)}: where one is trained on and another "
        "tested on, figures come out too good; leave one of them"
        for paths in files.values()
        if len(paths) > 1
    ]


def read_photos(found: Survey) -> Iterator[Photo]:
    """Yield photographs with their masks of 0 and 1."""
    for (photo, mask), shape, white in zip(found.pairs, found.shapes, found.whites, strict=True):
        try:
            yield read_photo(photo, white), read_mask(mask, found.rule, shape)
        except ValueError as error:
            raise InputError(f"--data: {error}") from error


def find_photos(folder: Path, tile: int) -> tuple[tuple[Pair, ...], tuple[str, ...]]:
    """Pair the photographs in ``folder/images`` with the masks of their names in ``masks``.

    Returns:
        The pairs, and what was left out.

    Raises:
        InputError: As `survey` does, for all that names and sizes tell.
    """
    beside = _subfolders(folder, IMAGES), _subfolders(folder, MASKS)
    images, masks = (folders[0] for folders in beside)
    for needed in (folder, images, masks):
        if not needed.is_dir():
            raise InputError(
                f"--data: there is no folder {str(needed)!r}; expected photographs in "
                f"{str(images)!r} and their masks, of the same name, in {str(masks)!r}"
            )
    photos, strange = _images_in(images)
    if not photos:
        raise InputError(
            f"--data: no photographs in {str(images)!r}{_there(strange, beside[:1])}; "
            f"expected files ending in {', '.join(SUFFIXES)}"
        )
    found, other = _images_in(masks)
    matches, spare = _match(photos, found)
    missing = [photo.name for photo, own in matches if not own]
    if missing:
        raise InputError(
            f"--data: {len(missing)} photographs have no mask in {str(masks)!r}: "
            f"{', '.join(missing[:5])}; a mask is named like its photograph, "
            f"for example {Path(missing[0]).stem}.png{_there(other, beside[1:])}"
        )
    stems = Counter(_normal(photo.stem) for photo in photos)
    twice = [p.stem for p, own in matches if len(own) > 1 or stems[_normal(p.stem)] > 1]
    if twice:
        raise InputError(
            f"--data: several files are called {twice[0]!r} in {str(images)!r} or {str(masks)!r}; "
            "leave one photograph and one mask of each name"
        )
    pairs = tuple((photo, mask) for photo, (mask,) in matches)
    for photo, mask in pairs:
        _check_sizes(photo, mask, tile)
    return pairs, _left_out([*strange, *other], beside, spare)


def _match(
    photos: Sequence[Path], masks: Sequence[Path]
) -> tuple[list[tuple[Path, list[Path]]], list[Path]]:
    """The masks of each photograph, and masks of none.

    A mask has the photograph's name, or one that a program made of it: ``IMG_1_mask``,
    ``mask-IMG_1``, ``IMG_1 (mask)``, ``IMG_1.jpg`` before its own suffix, other capitals. The less
    that was added, the better.
    """
    of: dict[str, list[Path]] = {_normal(photo.stem): [] for photo in photos}
    known = {stem.lower(): stem for stem in of}
    known |= {_normal(photo.name).lower(): _normal(photo.stem) for photo in photos}
    spare = []
    for mask in masks:
        stem = _normal(mask.stem)
        if stem not in of:
            name = stem.lower()
            behind, before = (affix.sub("", name) for affix in AFFIXES)
            tried = (name, behind, before, AFFIXES[1].sub("", behind))
            stem = next((known[t] for t in tried if t in known), "")
        of.get(stem, spare).append(mask)
    return [(photo, of[_normal(photo.stem)]) for photo in photos], spare


def _normal(name: str) -> str:
    """A name in which an accent is part of its letter; some systems write it as one of its own."""
    return unicodedata.normalize("NFC", name)


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
    chosen = replace(
        found,
        pairs=tuple(found.pairs[i] for i in order),
        shapes=tuple(found.shapes[i] for i in order),
        whites=tuple(found.whites[i] for i in order),
        plastic=tuple(found.plastic[i] for i in order),
    )
    columns = min(4, len(order))
    rows = -(-len(order) // columns)
    line = 16
    head = textwrap.wrap(f"Plastic is {found.rule}.", columns * (side + 8) // 7)
    above = line * len(head) + 4
    sheet = Image.new("RGB", (columns * (side + 8), above + rows * (side + line + 8)), "white")
    draw = ImageDraw.Draw(sheet)
    draw.multiline_text((4, 2), "\n".join(head), fill="black")
    for place, (photo, mask) in enumerate(read_photos(chosen)):
        left, top = place % columns * (side + 8), above + place // columns * (side + line + 8)
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


def _subfolders(folder: Path, known: Sequence[str]) -> list[Path]:
    """The folders of these names, in capitals or not; the first name where there is none."""
    there = [
        path
        for path in (folder.iterdir() if folder.is_dir() else ())
        if path.is_dir() and path.name.lower() in known
    ]
    there.sort(key=lambda path: (known.index(path.name.lower()), path.name.swapcase()))
    return there or [folder / known[0]]


def _images_in(folder: Path) -> tuple[list[Path], list[Path]]:
    """The images in a folder, and all else in it that is not what systems leave behind."""
    there = [
        path
        for path in sorted(folder.iterdir())
        if not path.name.startswith(".") and path.name.lower() not in LITTER
    ]
    images = [path for path in there if path.is_file() and path.suffix.lower() in SUFFIXES]
    return images, [path for path in there if path not in images]


def _left_out(
    strange: Sequence[Path], beside: Sequence[Sequence[Path]], spare: Sequence[Path]
) -> tuple[str, ...]:
    """Say what was not read: such as projects of painting programs, and folders."""
    files = [path for path in strange if not path.is_dir()]
    notes = [f"left out, of no kind that is read here: {names(files)}"] if files else []
    for path in strange:
        if path.is_dir():
            own = path.parent.name
            notes.append(f"{f'{own}/{path.name}'!r} is a folder; only {own!r} itself is read")
    for chosen, *more in beside:
        if more:
            notes.append(f"only {chosen.name!r} is read, not {names(more)} beside it")
    if spare:
        notes.append(f"masks without a photograph: {names(spare)}")
    return tuple(notes)


def _there(strange: Sequence[Path], beside: Sequence[Sequence[Path]]) -> str:
    """What else there is."""
    return "".join(f" ({note})" for note in _left_out(strange, beside, ()))


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
