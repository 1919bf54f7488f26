"""Which pixels of a user's masks are plastic: understood from their values, or named."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mpseg_models.photos import read_photo, read_pixels

FAR = 96
"""Distance of two colours, channels in 0..255, from which nobody takes one for the other's edge."""

NEAR = FAR / 3
"""Distance up to which a pixel has the colour that was named; compression moves colours so far."""

SAME = 16
"""Distance up to which two values are one: what compression leaves in plain areas."""

FEW = 4
"""Up to so many values are classes, not soft edges: those have many values."""

FAINT = 0.1
"""Share of the painted area in spots that nowhere reach the paint's colour, beyond which these are
taken for another class; so are they when they are the most spots."""

MANY_COLOURS, MANY_VALUES = 1000, 32
"""A mask with more colours, or values of grey, may be a photograph or has soft edges; with fewer it
has classes."""

LOSSY = (".jpg", ".jpeg", ".webp")
"""Formats that change values a little."""

WORDS = {"alpha": "on a transparent layer", "value": "in grey", "colour": "in colours"}

Value = tuple[float, ...]
Pair = tuple[Path, Path]
Layer = NDArray[Any]  # (H, W) or (H, W, 3)


@dataclass(frozen=True)
class Named:
    """What the user said of the masks; all None where nothing.

    Attributes:
        value: Value of plastic in masks of one channel, or its index in a palette.
        colour: Colour of plastic, as ``#rrggbb``.
        above: Everything with a larger value is plastic; of colours, the brightest channel.
    """

    value: float | None = None
    colour: str | None = None
    above: float | None = None


@dataclass(frozen=True)
class MaskRule:
    """Which pixels of a mask are plastic.

    Attributes:
        kind: ``value``: of one channel; ``index``: of a palette, or of one channel; ``colour``: of
            three; ``alpha``: of the opacity.
        plastic: The value, or the colour, of plastic.
        other: What it is told apart from: a pixel is plastic if it is nearer to ``plastic``. None:
            only ``plastic`` counts.
        reach: How far from ``plastic`` a pixel may be where there is no ``other``.
        above: Pixels with a value above ``plastic`` count instead.
    """

    kind: str
    plastic: Value
    other: Value | None = None
    reach: float = 0.0
    above: bool = False

    def __str__(self) -> str:
        word = {"alpha": "opacity", "index": "value"}.get(self.kind, self.kind)
        if self.above:
            return f"every {word} above {_name(self.plastic)}"
        text = f"{word} {_name(self.plastic)}"
        if self.other is not None:
            return f"{text}, told apart from {_name(self.other)} at the middle"
        return f"{text}, give or take {self.reach:g}" if self.reach else text


@dataclass(frozen=True)
class Edges:
    """What lies between the two values of masks, in pixels of all of them.

    Attributes:
        painted: Pixels that are not the ground.
        between: Pixels that are neither.
        flat: Those of them amid a patch of one value, which no soft edge is.
        spots: Connected patches of painted pixels.
        faint: Spots of which no pixel reaches the paint's value.
        faint_area: Their pixels.
    """

    painted: int = 0
    between: int = 0
    flat: int = 0
    spots: int = 0
    faint: int = 0
    faint_area: int = 0

    def __add__(self, more: Edges) -> Edges:
        mine, others = vars(self).values(), vars(more).values()
        return Edges(*(a + b for a, b in zip(mine, others, strict=True)))

    @property
    def soft(self) -> bool:
        """Whether what is between can be the edges of what is painted."""
        return (
            self.flat <= 0.002 * self.painted
            and self.faint_area <= FAINT * self.painted
            and 2 * self.faint <= self.spots
        )


@dataclass(frozen=True)
class Census:
    """What masks hold.

    Attributes:
        kind: As in `MaskRule`.
        counts: How often each value or colour occurs in all masks.
    """

    kind: str
    counts: Counter[Value]

    def __str__(self) -> str:
        total = sum(self.counts.values())
        parts = [f"{_name(v)} ({n / total:.2%})" for v, n in self.counts.most_common(6)]
        if len(self.counts) > 6:
            parts.append(f"{len(self.counts) - 6} more")
        return ", ".join(parts)


def find_rule(pairs: Sequence[Pair], named: Named) -> tuple[MaskRule, tuple[str, ...]]:
    """Tell plastic from the rest; say also what the user should know about it.

    In black and white, and in classes 0 and 1, plastic is the higher value; in colours, it is what
    is not black, or what is rarer; on a transparent layer, what is painted. Edges may be soft: from
    the middle on they are plastic.

    Raises:
        ValueError: It cannot be told, or not as the user said it; the text says what masks hold.
    """
    _check(named)
    if named.above is not None:
        return MaskRule("index", (float(named.above),), above=True), ()
    colour = None if named.colour is None else _parse(named.colour)
    if named.value is not None and any(_is_palette(mask) for _, mask in pairs):
        return MaskRule("index", (float(named.value),)), ()
    chosen = named.value is not None or colour is not None
    census = take_census(pairs, photographs=chosen)
    if census is None:  # a painted photograph, or masks of several kinds: what was named decides
        return _exactly(named, colour), ()
    ends, edges = _ends(census), Edges()
    if ends is not None and len(census.counts) > 2:
        edges = _all_edges(pairs, census, ends)
        if not _two_classes(pairs, census, ends, edges):
            ends = None
    if chosen:
        return _say(named, colour, census, ends, edges)
    if ends is None:
        raise ValueError(_several(census))
    if census.kind == "alpha":
        _refuse_several_paints(pairs)
    plastic, other = _order(census, ends)
    return MaskRule(census.kind, plastic, other), _describe(edges, plastic)


def read_mask(path: Path, rule: MaskRule, shape: tuple[int, int]) -> NDArray[np.uint8]:
    """Read a mask by the rule: (H, W) of 0 and 1.

    Raises:
        ValueError: It has another shape, or is in colours where one value was named.
    """
    opaque = None
    if rule.kind == "index":
        layer = _indices(path, brightest=rule.above)
    else:
        kind, layer = _layers(path)
        if rule.kind == "colour" and kind == "value":
            layer = np.repeat(layer[..., None], 3, -1)
        elif rule.kind == "colour" and kind == "alpha":
            opaque = 2.0 * layer >= layer.max(initial=1)
            layer = _paint(path)
    if layer.shape[:2] != shape:
        raise ValueError(f"{str(path)!r} is no mask of {shape[1]} x {shape[0]} px")
    if rule.above:
        found = layer > rule.plastic[0]
    elif rule.other is None:
        found = _distance(layer, rule.plastic) <= rule.reach
    else:
        found = _distance(layer, rule.plastic) < _distance(layer, rule.other)
    if opaque is not None:
        found &= opaque
    return found.astype(np.uint8)


def take_census(pairs: Sequence[Pair], photographs: bool = False) -> Census | None:
    """Count the values of all masks.

    Args:
        pairs: Photographs and their masks.
        photographs: Return None where a mask is a painted photograph, instead of refusing it.

    Raises:
        ValueError: Masks are of several kinds, or one is a photograph that was painted over.
    """
    counts: dict[str, Counter[Value]] = {}
    for photo, mask in pairs:
        kind, layer = _layers(mask)
        values, times = _unique(layer)
        if kind != "alpha" and _is_photograph(layer, len(values)):
            if photographs:
                return None
            raise ValueError(_painted_over(photo, mask, layer, len(values)))
        own = counts.setdefault(kind, Counter())
        for value, count in zip(values.tolist(), times.tolist(), strict=True):
            own[tuple(value)] += count
    if "colour" in counts and "value" in counts:  # an empty mask has no colour to be told by
        for (value,), count in counts.pop("value").items():
            counts["colour"][(value, value, value)] += count
    if len(counts) > 1:
        if photographs:  # a colour counts in masks of every kind
            return None
        raise ValueError(
            f"some masks are painted {', others '.join(WORDS[kind] for kind in sorted(counts))}; "
            "save all of them in the same way"
        )
    ((kind, found),) = counts.items()
    return Census(kind, found)


# --- reading ----------------------------------------------------------------------------------


def _layers(path: Path) -> tuple[str, Layer]:
    """A mask as values (H, W), as colours (H, W, 3) of 8 bits, or as its opacity (H, W)."""
    pixels = read_pixels(path)
    if pixels.ndim == 3 and pixels.shape[2] in (2, 4):
        alpha = pixels[..., -1]
        if np.ptp(alpha) > 0 or not alpha.any():  # a layer, painted or not
            return "alpha", alpha
        pixels = pixels[..., :-1]
    if pixels.ndim == 3 and pixels.shape[2] == 3:
        if (pixels == pixels[..., :1]).all():
            return "value", pixels[..., 0]
        return "colour", _eight_bits(pixels)
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    if pixels.ndim != 2:
        raise ValueError(f"{str(path)!r} has the shape {pixels.shape}; expected one mask")
    return "value", pixels


def _paint(path: Path) -> Layer:
    """The colours of a layer, also where it is transparent."""
    pixels = _eight_bits(read_pixels(path)[..., :-1])
    return np.repeat(pixels, 3, -1) if pixels.shape[2] == 1 else pixels


def _eight_bits(colours: Layer) -> NDArray[np.uint8]:
    """Colours as they are named: 0 to 255."""
    if colours.dtype == np.uint8:
        return colours
    white = 65535
    if colours.dtype.kind == "f":
        white = 1 if colours.max(initial=0) <= 1 else 255
    return np.round(colours.astype(np.float64) * (255 / white)).astype(np.uint8)


def _is_palette(path: Path) -> bool:
    try:
        with Image.open(path) as image:
            return image.mode == "P"
    except OSError:  # a TIFF that Pillow does not know has no palette
        return False


def _indices(path: Path, brightest: bool = False) -> Layer:
    """The values of one channel, of a palette its indices; of colours the brightest channel."""
    if _is_palette(path):
        with Image.open(path) as image:
            return np.asarray(image)
    kind, layer = _layers(path)
    if kind == "colour" and brightest:
        return np.asarray(layer.max(-1))
    if kind == "colour":
        raise ValueError(
            f"{str(path)!r} is a mask in colours, which have no single value; give --mask-color"
        )
    return layer


def _unique(layer: Layer) -> tuple[NDArray[Any], NDArray[Any]]:
    """Values (N, 1) or colours (N, 3), and how often each occurs."""
    if layer.ndim == 2:
        values, times = np.unique(layer, return_counts=True)
        return values[:, None].astype(np.float64), times
    red, green, blue = (layer[..., channel].astype(np.uint32) for channel in range(3))
    packed, times = np.unique(red << 16 | green << 8 | blue, return_counts=True)
    values = np.stack([packed >> 16, packed >> 8 & 255, packed & 255], axis=-1)
    return values.astype(np.float64), times


def _distance(layer: Layer, value: Value) -> NDArray[np.float32]:
    """Distance of every pixel from a value or a colour."""
    if layer.ndim == 2:
        return np.abs(layer.astype(np.float32) - np.float32(value[0]))
    square = np.zeros(layer.shape[:2], np.float32)
    for channel, part in enumerate(value):
        square += (layer[..., channel].astype(np.float32) - np.float32(part)) ** 2
    return np.sqrt(square)


def _flat(layer: Layer, tolerance: float) -> NDArray[np.bool_]:
    """Which pixels have eight neighbours of their own value."""
    from scipy import ndimage

    channels = layer[..., None] if layer.ndim == 2 else layer
    flat = np.ones(layer.shape[:2], bool)
    for channel in range(channels.shape[2]):
        part = channels[..., channel].astype(np.float32)
        flat &= ndimage.maximum_filter(part, 3) - ndimage.minimum_filter(part, 3) <= tolerance
    return flat


# --- two values, with hard or soft edges ---------------------------------------------------------


def _ends(census: Census) -> tuple[Value, Value] | None:
    """The ground and what is painted on it; None where nothing stands out enough from the ground.

    The ground is the most common value. The paint is the most common one far from it, or, where
    that is the edge of something stronger, the strongest.
    """
    values = [value for value, _ in census.counts.most_common()]
    ground = values[0]
    if len(values) == 1:  # nothing was painted, or everything
        return ground, ground
    if len(values) == 2:
        return ground, values[1]
    unit = _unit(values)
    table = np.asarray(values)
    away = np.linalg.norm(table - table[0], axis=1)
    far = np.flatnonzero(away >= FAR * unit)
    if not len(far):
        return None
    along = (table[far[0]] - table[0]) / away[far[0]]
    along_it = (table[far] - table[0]) @ along
    off = np.sqrt(np.maximum(away[far] ** 2 - along_it**2, 0))
    strength = np.where((off <= NEAR * unit) & (along_it > 0), along_it, 0)
    return ground, values[far[int(strength.argmax())]]


def _order(census: Census, ends: tuple[Value, Value]) -> tuple[Value, Value | None]:
    """Plastic, and what it is told apart from."""
    ground, paint = ends
    black = (0.0,) * len(ground)
    if ground == paint:
        return (tuple(255.0 for _ in ground), None) if ground == black else (ground, None)
    if census.kind in ("value", "alpha"):
        return max(ends), min(ends)
    return (ground, paint) if paint == black else (paint, ground)


def _two_classes(
    pairs: Sequence[Pair], census: Census, ends: tuple[Value, Value], edges: Edges
) -> bool:
    """Whether all other values are soft edges of the two, or what compression made of them."""
    if any(mask.suffix.lower() in LOSSY for _, mask in pairs):
        near = SAME * _unit(census.counts)
        pure = all(min(_apart(value, end) for end in ends) <= near for value in census.counts)
        return pure or (len(census.counts) > FEW and edges.soft)
    if len(census.counts) <= FEW or not edges.soft:
        return False
    # nothing halfway: faint edges, or classes such as 0, 1, 2 and 255
    return edges.between > 0 or _all_edges(pairs, census, ends, strict=True).soft


def _all_edges(
    pairs: Sequence[Pair], census: Census, ends: tuple[Value, Value], strict: bool = False
) -> Edges:
    total, unit = Edges(), _unit(census.counts)
    for _, mask in pairs:
        _, layer = _layers(mask)
        if census.kind == "colour" and layer.ndim == 2:
            layer = np.repeat(layer[..., None], 3, -1)
        total += _edges(layer, ends, unit, strict)
    return total


def _edges(layer: Layer, ends: tuple[Value, Value], unit: float, strict: bool) -> Edges:
    """Look at what is between the two values, where it lies.

    A quarter of the way from either still counts as it, and what is within `SAME` is not asked
    whether it is flat; strictly, whatever is not exactly ground is painted.
    """
    from scipy import ndimage

    ground, paint = (_distance(layer, end) for end in ends)
    quarter = _apart(*ends) / 4
    reached = paint <= quarter
    painted = ground > (0 if strict else quarter)
    same = min(SAME * unit, quarter / 2)
    neither = (ground > (0 if strict else same)) & (paint > same)
    flat = neither & _flat(layer, 0.0 if strict else unit) if neither.any() else neither
    labels, spots = ndimage.label(painted, np.ones((3, 3)))
    sizes = np.bincount(labels.ravel(), minlength=spots + 1)
    faint = np.ones(spots + 1, bool)
    faint[0] = False
    faint[labels[reached]] = False
    return Edges(
        painted=int(painted.sum()),
        between=int((painted & ~reached).sum()),
        flat=int(flat.sum()),
        spots=spots,
        faint=int(faint.sum()),
        faint_area=int(sizes[faint].sum()),
    )


def _describe(edges: Edges, plastic: Value) -> tuple[str, ...]:
    """What the user should know about soft edges."""
    said = []
    if edges.between:
        said.append(
            f"The masks have soft edges: {edges.between / edges.painted:.0%} of what is painted is "
            "neither ground nor full paint, and counts as plastic from the middle on"
        )
    if edges.faint:
        said.append(
            f"{edges.faint} of {edges.spots} painted spots are nowhere near the full "
            f"{_name(plastic)}: look whether they are meant"
        )
    return tuple(said)


def _unit(values: Iterable[Value]) -> float:
    """1 for masks of 8 bits, more for deeper ones, less for 0..1."""
    highest = max(max(value) for value in values)
    return 1 / 255 if highest <= 1 else max(1.0, highest / 255)


def _apart(a: Value, b: Value) -> float:
    return float(np.linalg.norm(np.subtract(a, b)))


# --- what the user said --------------------------------------------------------------------------


def _check(named: Named) -> None:
    """Refuse two rules at once, and what is no number."""
    if sum(part is not None for part in vars(named).values()) > 1:
        raise ValueError("give one of --mask-value, --mask-color and --mask-above, not several")
    for option, number in (("--mask-value", named.value), ("--mask-above", named.above)):
        if number is not None and not math.isfinite(number):
            raise ValueError(f"{option} {number} is no value of a pixel; give a number such as 0.5")


def _say(
    named: Named,
    colour: Value | None,
    census: Census,
    ends: tuple[Value, Value] | None,
    edges: Edges,
) -> tuple[MaskRule, tuple[str, ...]]:
    """The rule for a value or a colour that was named."""
    rule = _exactly(named, colour)
    wanted = rule.plastic
    if ends is not None and len(wanted) == len(ends[0]):
        near = [end for end in ends if _apart(end, wanted) <= NEAR * _unit(census.counts)]
        if len(near) == 1 and len(census.counts) > 2:  # two values with soft edges
            other = ends[0] if near[0] == ends[1] else ends[1]
            return MaskRule(rule.kind, near[0], other), _describe(edges, near[0])
    if colour is None and census.kind != "colour":
        exact = census.counts[wanted]
        beside = sum(n for v, n in census.counts.items() if 0 < _apart(v, wanted) <= NEAR)
        if len(census.counts) > MANY_VALUES and beside > exact > 0:
            raise ValueError(
                f"{exact} px of the masks are {wanted[0]:g} and {beside} px lie close to it, in "
                "masks of several classes that were compressed or have soft edges; save them as "
                "PNG with hard edges (no anti-aliasing), or give --mask-above"
            )
    return rule, ()


def _exactly(named: Named, colour: Value | None) -> MaskRule:
    """The rule by which what was named counts, and nothing else."""
    if colour is not None:
        return MaskRule("colour", colour, reach=NEAR)
    return MaskRule("index", (float(named.value or 0),))


def _parse(colour: str) -> Value:
    digits = colour.removeprefix("#")
    if len(digits) != 6 or any(digit not in "0123456789abcdefABCDEF" for digit in digits):
        raise ValueError(f"--mask-color {colour!r} is no colour such as #ff0000")
    return tuple(float(byte) for byte in bytes.fromhex(digits))


# --- what is refused -----------------------------------------------------------------------------


def _several(census: Census) -> str:
    if census.kind == "colour":
        remedy = "--mask-color (that colour alone) or --mask-above 0 (all that is not black)"
    else:
        remedy = "--mask-value (that value alone) or --mask-above (every larger one)"
    return (
        f"masks hold more than two classes, or paint that is not of one strength ({census}); say "
        f"which is plastic with {remedy}"
    )


def _refuse_several_paints(pairs: Sequence[Pair]) -> None:
    """Refuse layers painted in several plain colours, of which perhaps one is plastic."""
    counts: Counter[Value] = Counter()
    for _, mask in pairs:
        kind, alpha = _layers(mask)
        if kind == "alpha":
            paint = _paint(mask)[2.0 * alpha >= alpha.max(initial=1)]
            values, times = _unique(paint[:, None])
            if len(values) > MANY_COLOURS:  # cut out of the photograph, not painted
                return
            for value, count in zip(values.tolist(), times.tolist(), strict=True):
                counts[tuple(value)] += count
    total = sum(counts.values())
    plain = [value for value, n in counts.most_common(20) if n >= 0.05 * total]
    unit = _unit(counts) if counts else 1.0
    if any(_apart(a, b) >= FAR * unit for a in plain for b in plain):
        raise ValueError(
            f"the layers are painted in several colours ({Census('colour', counts)}); say which is "
            "plastic with --mask-color, or give --mask-above 0 if all are"
        )


def _is_photograph(layer: Layer, values: int) -> bool:
    """Whether a mask is a photograph: many values, and hardly two neighbours that are equal."""
    if values < (MANY_COLOURS if layer.ndim == 3 else MANY_VALUES):
        return False
    deep = layer.astype(np.float32 if layer.dtype.kind == "f" else np.int32)
    step = 1 / 255 if layer.dtype.kind == "f" and layer.max() <= 1 else 1
    plain = np.ones((layer.shape[0] - 1, layer.shape[1] - 1), bool)
    for neighbour in (deep[1:, :-1], deep[:-1, 1:]):
        equal = np.abs(neighbour - deep[:-1, :-1]) <= step
        plain &= equal.all(-1) if equal.ndim == 3 else equal
    return bool(plain.mean() < 0.5)


def _painted_over(photo: Path, mask: Path, layer: Layer, values: int) -> str:
    """Say that a mask is a photograph, and what to do; name the paint where it is one colour."""
    text = (
        f"{str(mask)!r} looks like a photograph, painted over or not ({values:,} values, hardly a "
        "plain area); hide the photograph in the painting program and save the painted layer alone"
    )
    if layer.ndim == 2:
        return f"{text}, or give --mask-above {_half(layer):g} if it is a map of probabilities"
    original = read_photo(photo)
    if original.shape != layer.shape:
        return text
    changed = np.abs(layer.astype(np.int16) - original).max(-1) > FAR / 2
    colours, times = _unique(layer[changed][:, None])
    if not len(times) or changed.mean() > 0.5:
        return text
    paint = tuple(colours[times.argmax()].tolist())
    alike = times[np.linalg.norm(colours - paint, axis=1) <= SAME].sum()
    of_its_own = (_distance(original, paint) <= NEAR)[~changed].sum()
    if alike >= 0.5 * times.sum() and of_its_own <= 0.1 * alike:
        text += (
            f", or give --mask-color '{_name(paint)}', the colour in which it differs "
            "from its photograph"
        )
    return text


def _half(layer: Layer) -> float:
    """Half of what is certain in a map of probabilities, by its type."""
    if layer.dtype.kind == "f":
        return 0.5 if layer.max() <= 1 else 127
    return int(np.iinfo(layer.dtype).max) // 2


def _name(value: Sequence[float]) -> str:
    if len(value) == 1:
        return f"{value[0]:g}"
    return "#" + "".join(f"{round(min(channel, 255)):02x}" for channel in value)
