"""Synthetic photographs of beach sand with a little microplastic in it.

The paper's photographs are not public, so these stand in for them: shaded grains of many colours
with shadows between them, coarse grains, shells, plant debris, vivid and white grains that look
like plastic, and irregular plastic particles of 3-10 px, partly buried. A scene depends on its
seed and size alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Field = NDArray[np.float32]  # (H, W) or (H, W, 3), values around 0..1
Rng = np.random.Generator


def _palette(*rows: tuple[float, float, float]) -> Field:
    return np.array(rows, dtype=np.float32)


SAND = _palette(
    (0.79, 0.70, 0.55),
    (0.70, 0.58, 0.42),
    (0.86, 0.80, 0.68),
    (0.61, 0.49, 0.36),
    (0.53, 0.46, 0.40),
    (0.91, 0.87, 0.79),
    (0.69, 0.65, 0.59),
    (0.77, 0.60, 0.48),
)
SAND_SHARE = np.array([0.24, 0.20, 0.16, 0.10, 0.08, 0.08, 0.08, 0.06])
MINERALS = _palette(
    (0.96, 0.95, 0.91),  # quartz
    (0.56, 0.22, 0.17),  # garnet
    (0.40, 0.49, 0.29),  # olivine
    (0.15, 0.14, 0.13),  # basalt
    (0.84, 0.55, 0.26),
    (0.36, 0.35, 0.37),
    (0.80, 0.53, 0.47),
    (0.51, 0.58, 0.63),
)
SHELLS = _palette((0.95, 0.92, 0.86), (0.92, 0.78, 0.70), (0.87, 0.70, 0.53), (0.80, 0.76, 0.81))
DEBRIS = _palette((0.22, 0.16, 0.10), (0.25, 0.27, 0.13), (0.35, 0.25, 0.15))
PLASTICS = _palette(
    (0.17, 0.38, 0.79),
    (0.12, 0.60, 0.63),
    (0.20, 0.63, 0.30),
    (0.85, 0.20, 0.19),
    (0.95, 0.55, 0.16),
    (0.93, 0.86, 0.26),
    (0.95, 0.95, 0.96),
    (0.90, 0.50, 0.66),
    (0.45, 0.69, 0.91),
    (0.10, 0.10, 0.12),
    (0.72, 0.81, 0.83),
    (0.50, 0.30, 0.63),
)


@dataclass(frozen=True)
class SceneSettings:
    """How many things lie in the sand, each as a number per pixel of area.

    Attributes:
        coarse: Larger grains on top of the bed.
        distractors: Vivid or white grains that resemble plastic but are none.
        shells: Shell fragments.
        debris: Bits of plants.
        plastic: Plastic particles; about 30 px each, so 1.9e-4 covers about half a per cent.
        contrast: How far the colour of a particle stands out from the ground around it, at least;
            others are drawn again. A distance of colours without their grey, channels in 0..1. At
            0, about half of the particles look like sand: nobody would paint them into a mask.
    """

    coarse: float = 1.6e-3
    distractors: float = 2.2e-4
    shells: float = 6e-5
    debris: float = 3e-5
    plastic: float = 1.9e-4
    contrast: float = 0.0


@dataclass(frozen=True, eq=False)
class Scene:
    """A photograph and its truth.

    Attributes:
        image: (H, W, 3) uint8, RGB.
        mask: (H, W) uint8, 1 where there is plastic.
    """

    image: NDArray[np.uint8]
    mask: NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class _Thing:
    """One object, drawn in a square patch around its middle."""

    cover: Field  # (2R+1, 2R+1), 0..1
    shadow: Field  # the same, how dark it makes the ground
    colour: Field  # (2R+1, 2R+1, 3)


def make_scene(
    height: int, width: int, seed: int | list[int], settings: SceneSettings | None = None
) -> Scene:
    """Draw one scene.

    Args:
        height: Pixels, at least 32.
        width: Pixels, at least 32.
        seed: Anything that ``numpy.random.default_rng`` takes; the same seed and size give the
            same scene.
        settings: How many things lie in the sand.

    Raises:
        ValueError: The scene would be smaller than 32 px.

    Example:
        >>> scene = make_scene(64, 64, seed=0)
        >>> scene.image.shape, scene.mask.dtype, bool(scene.mask.any())
        ((64, 64, 3), dtype('uint8'), True)
    """
    if min(height, width) < 32:
        raise ValueError(f"a scene is at least 32 x 32 px, received {height} x {width}")
    settings = settings or SceneSettings()
    rng = np.random.default_rng(seed)
    light = _light(rng)
    image, grain = _bed(height, width, light, rng)
    area = height * width

    def spot() -> tuple[int, int]:
        return int(rng.integers(height)), int(rng.integers(width))

    def strew(density: float, make: Callable[[Field, Rng], _Thing]) -> None:
        for _ in range(rng.poisson(area * density)):
            thing = make(light, rng)
            at = spot()
            _cast_shadow(image, thing, at, light)
            _lay(image, thing.cover, thing.colour, at)

    strew(settings.coarse, _coarse_grain)
    strew(settings.distractors, _distractor)
    strew(settings.shells, _shell)
    strew(settings.debris, _debris)
    mask = np.zeros((height, width), np.float32)
    for _ in range(max(1, rng.poisson(area * settings.plastic))):
        while True:
            thing = _plastic(light, rng)
            at = spot()
            visible = thing.cover
            if rng.random() < 0.4:
                visible = visible * _unburied(grain, at, visible.shape[0] // 2, rng)
            if _contrast(image, visible, thing.colour, at) >= settings.contrast:
                break
        _cast_shadow(image, thing, at, light)
        _lay(image, visible, thing.colour, at)
        _mark(mask, visible, at)
    return Scene(_photograph(image, rng), (mask > 0.5).astype(np.uint8))


def _light(rng: Rng) -> Field:
    """Unit vector to the sun, (down, right, up)."""
    azimuth, elevation = rng.uniform(0, 2 * np.pi), rng.uniform(0.45, 0.85)
    return np.array(
        [
            np.sin(azimuth) * np.cos(elevation),
            np.cos(azimuth) * np.cos(elevation),
            np.sin(elevation),
        ],
        np.float32,
    )


def _noise(height: int, width: int, scale: float, rng: Rng) -> Field:
    """Smooth noise of unit spread; ``scale`` is its correlation length in pixels."""
    step = max(1, int(scale / 2))
    rows, columns = height // step + 3, width // step + 3
    coarse = rng.standard_normal((rows, columns), dtype=np.float32)
    coarse = ndimage.gaussian_filter(coarse, scale / step, mode="reflect")
    coarse /= coarse.std() + 1e-6
    fine = ndimage.zoom(coarse, step, order=1) if step > 1 else coarse
    return np.asarray(fine[:height, :width], np.float32)


@dataclass(frozen=True, eq=False)
class _Grains:
    """The grains of the bed, per pixel."""

    index: NDArray[np.int32]  # which grain
    down: Field  # offset from the grain's middle, px
    right: Field
    rim: Field  # distance to the neighbouring grain, in grain radii
    count: int


def _pack(height: int, width: int, size: float, rng: Rng) -> _Grains:
    """Fill the plane with irregular grains of about ``size`` px.

    A Voronoi diagram of jittered grid points, in which each point measures distance with its own
    stretch and turn, looked up in the 3x3 grid cells around each pixel, over warped coordinates.
    """
    rows, columns = int(height / size) + 5, int(width / size) + 5
    count = rows * columns
    grid_y, grid_x = np.mgrid[0:rows, 0:columns].astype(np.float32)
    jitter = rng.random((2, rows, columns), dtype=np.float32) * 0.95
    middle_y = ((grid_y - 2 + jitter[0]) * size).ravel()
    middle_x = ((grid_x - 2 + jitter[1]) * size).ravel()
    turn = rng.random(count, dtype=np.float32) * np.float32(np.pi)
    stretch = np.exp(rng.normal(0, 0.22, count)).astype(np.float32)
    radius = np.exp(rng.normal(0, 0.30, count)).astype(np.float32)
    metric = np.stack(
        [
            np.cos(turn) * stretch / radius,
            np.sin(turn) * stretch / radius,
            -np.sin(turn) / stretch / radius,
            np.cos(turn) / stretch / radius,
        ]
    )
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    y += 0.7 * _noise(height, width, 2.2, rng)
    x += 0.7 * _noise(height, width, 2.2, rng)
    cell = np.clip((y / size + 2).astype(np.int32), 1, rows - 2) * columns
    cell += np.clip((x / size + 2).astype(np.int32), 1, columns - 2)
    nearest = np.full((height, width), np.inf, np.float32)
    second = nearest.copy()
    index = np.zeros((height, width), np.int32)
    for offset in (i * columns + j for i in (-1, 0, 1) for j in (-1, 0, 1)):
        candidate = cell + offset
        dy, dx = y - middle_y[candidate], x - middle_x[candidate]
        a, b, c, d = metric[:, candidate]
        distance = (a * dy + b * dx) ** 2 + (c * dy + d * dx) ** 2
        closer = distance < nearest
        second = np.where(closer, nearest, np.minimum(second, distance))
        nearest = np.where(closer, distance, nearest)
        index = np.where(closer, candidate, index)
    rim = ((np.sqrt(second) - np.sqrt(nearest)) / size).astype(np.float32)
    return _Grains(index, y - middle_y[index], x - middle_x[index], rim, count)


def _bed(height: int, width: int, light: Field, rng: Rng) -> tuple[Field, NDArray[np.int32]]:
    """The sand itself: (H, W, 3) colours and the (H, W) index of the grain at each pixel."""
    size = rng.uniform(3.6, 5.6)
    grains = _pack(height, width, size, rng)
    share = SAND_SHARE * np.exp(rng.normal(0, 0.35, len(SAND_SHARE)))
    colour = SAND[rng.choice(len(SAND), grains.count, p=share / share.sum())]
    colour = colour + rng.normal(0, 0.02, (grains.count, 3)).astype(np.float32)
    colour += rng.normal(0, 0.07, (grains.count, 1)).astype(np.float32)
    rare = rng.random(grains.count) < rng.uniform(0.01, 0.03)
    colour[rare] = MINERALS[rng.choice(len(MINERALS), int(rare.sum()))]

    reach = np.float32(0.72 * size)
    tilt = rng.normal(0, 0.18, (2, grains.count)).astype(np.float32)
    down, right = grains.down / reach, grains.right / reach
    up = np.sqrt(1 - np.minimum(down**2 + right**2, 0.95))
    lit = np.clip(
        (down + tilt[0][grains.index]) * light[0]
        + (right + tilt[1][grains.index]) * light[1]
        + up * light[2],
        0,
        1.2,
    )
    crevice = 0.42 + 0.58 * np.clip(grains.rim / 0.20, 0, 1)
    texture = 1 + 0.035 * _noise(height, width, 0.8, rng) + 0.03 * _noise(height, width, 3, rng)
    image = colour[grains.index] * ((0.50 + 0.62 * lit) * crevice * texture)[..., None]
    glassy = (rng.random(grains.count) < 0.12).astype(np.float32)[grains.index]
    image += (4 * np.clip(lit - 0.93, 0, 1) * glassy)[..., None]
    return image.astype(np.float32), grains.index


def _thing(
    colour: Field,
    light: Field,
    rng: Rng,
    *,
    radius: float,
    stretch: float,
    rough: float,
    flat: float,
    gloss: float,
    ribs: float = 0.0,
    opacity: float = 1.0,
) -> _Thing:
    """Shade one object with a random outline.

    Args:
        colour: (3,) base colour.
        light: Unit vector to the sun.
        rng: Where randomness comes from.
        radius: Mean radius in pixels.
        stretch: Length over breadth, at least 1.
        rough: How far the outline strays from an ellipse, as a share of the radius.
        flat: 0 shades it like a ball, 1 like a disc.
        gloss: Chance of a highlight.
        ribs: Ribs per pixel across it (shells); 0 for none.
        opacity: 1 hides the sand below.
    """
    reach = int(np.ceil(radius * stretch**0.5 * (1 + 3 * rough))) + 4
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1].astype(np.float32)
    y -= np.float32(rng.uniform(-0.5, 0.5))
    x -= np.float32(rng.uniform(-0.5, 0.5))
    turn = rng.uniform(0, np.pi)
    along = (x * np.cos(turn) + y * np.sin(turn)) / stretch**0.5
    across = (y * np.cos(turn) - x * np.sin(turn)) * stretch**0.5
    angle, distance = np.arctan2(across, along), np.hypot(along, across)
    outline = np.full_like(distance, radius)
    for wave in (2, 3, 4, 5, 7):
        phase = rng.uniform(0, 2 * np.pi)
        outline += radius * rough * rng.normal() / wave**0.5 * np.cos(wave * angle + phase)
    cover = np.clip(outline - distance + 0.5, 0, 1)
    inside = np.clip(distance / np.maximum(outline, 0.5), 0, 1)
    up = np.sqrt(np.clip(1 - inside**2, 0.05, 1))
    lit = (y * light[0] + x * light[1]) / max(radius, 1.0) * (1 - flat)
    lit = np.clip(lit + up * light[2] + 0.35 * flat, 0, 1.3)
    shade = 0.55 + 0.6 * lit
    if ribs:
        shade = shade * (1 + 0.16 * np.sin(ribs * (y + 0.4 * x)))
    grain = 1 + 0.03 * rng.standard_normal(cover.shape)
    body = colour * (shade * grain)[..., None]
    if rng.random() < gloss:
        highlight = (y - 0.4 * radius * light[0]) ** 2 + (x - 0.4 * radius * light[1]) ** 2
        body = body + (0.5 * np.exp(-highlight / (0.18 * radius**2 + 0.3)))[..., None]
    shadow = 0.45 * ndimage.gaussian_filter(cover, 0.9)
    return _Thing(
        (cover * opacity).astype(np.float32), shadow.astype(np.float32), body.astype(np.float32)
    )


def _vivid(colour: Field, factor: float) -> Field:
    """Move a colour away from (> 1) or towards (< 1) grey."""
    grey = colour.mean()
    return np.asarray(np.clip(grey + (colour - grey) * factor, 0, 1), np.float32)


def _longish(rng: Rng, spread: float) -> float:
    return float(np.exp(abs(rng.normal(0, spread))))


def _coarse_grain(light: Field, rng: Rng) -> _Thing:
    common = rng.random() < 0.86
    colour = SAND[rng.choice(len(SAND), p=SAND_SHARE)] if common else rng.choice(MINERALS)
    return _thing(
        (colour + rng.normal(0, 0.03, 3)).astype(np.float32),
        light,
        rng,
        radius=rng.uniform(2.0, 5.2),
        stretch=_longish(rng, 0.3),
        rough=0.07,
        flat=0.0,
        gloss=0.25,
    )


def _distractor(light: Field, rng: Rng) -> _Thing:
    colour = MINERALS[rng.choice([0, 0, 1, 2, 4, 6, 7])]
    return _thing(
        _vivid(colour, rng.uniform(0.9, 1.6)),
        light,
        rng,
        radius=rng.uniform(1.6, 4.6),
        stretch=_longish(rng, 0.3),
        rough=0.09,
        flat=rng.uniform(0, 0.45),
        gloss=0.4,
    )


def _shell(light: Field, rng: Rng) -> _Thing:
    return _thing(
        rng.choice(SHELLS),
        light,
        rng,
        radius=rng.uniform(2.5, 7.0),
        stretch=rng.uniform(1.2, 3.2),
        rough=0.10,
        flat=0.55,
        gloss=0.3,
        ribs=float(rng.choice([0.0, 1.6, 2.4])),
    )


def _debris(light: Field, rng: Rng) -> _Thing:
    return _thing(
        rng.choice(DEBRIS),
        light,
        rng,
        radius=rng.uniform(1.6, 3.2),
        stretch=rng.uniform(3, 9),
        rough=0.08,
        flat=0.3,
        gloss=0.0,
    )


def _plastic(light: Field, rng: Rng) -> _Thing:
    fibre = rng.random() < 0.10
    colour = rng.choice(PLASTICS) + rng.normal(0, 0.05, 3).astype(np.float32)
    return _thing(
        _vivid(colour, rng.uniform(0.45, 1.05)),
        light,
        rng,
        radius=rng.uniform(1.6, 2.4) if fibre else rng.uniform(1.5, 4.6),
        stretch=rng.uniform(2.5, 5.0) if fibre else _longish(rng, 0.4),
        rough=0.13,
        flat=rng.uniform(0.5, 0.95),
        gloss=0.35,
        opacity=rng.uniform(0.72, 1.0),
    )


def _contrast(image: Field, visible: Field, colour: Field, at: tuple[int, int]) -> float:
    """How far an object's visible colour is from the mean of its surroundings, grey apart."""
    reach = visible.shape[0] // 2
    window = tuple(slice(max(0, middle - reach), middle + reach + 1) for middle in at)
    own = (colour * visible[..., None]).sum((0, 1)) / max(float(visible.sum()), 1.0)
    difference = own - image[window].mean((0, 1))
    return float(np.linalg.norm(difference - difference.mean()))


def _unburied(grain: NDArray[np.int32], at: tuple[int, int], reach: int, rng: Rng) -> Field:
    """How much of a patch no sand grain covers: about a quarter of the grains lie on top."""
    height, width = grain.shape
    rows = np.clip(np.arange(at[0] - reach, at[0] + reach + 1), 0, height - 1)
    columns = np.clip(np.arange(at[1] - reach, at[1] + reach + 1), 0, width - 1)
    grains, where = np.unique(grain[np.ix_(rows, columns)], return_inverse=True)
    free = (rng.random(len(grains)) >= 0.25).astype(np.float32)[where]
    return np.asarray(ndimage.gaussian_filter(free.reshape(len(rows), -1), 0.4), np.float32)


def _windows(
    shape: tuple[int, ...], at: tuple[int, int], reach: int
) -> tuple[tuple[slice, slice], tuple[slice, slice]] | None:
    """Where a patch meets the picture, and which part of the patch that is."""
    on_picture, of_patch = [], []
    for middle, length in zip(at, shape[:2], strict=True):
        low, high = max(0, middle - reach), min(length, middle + reach + 1)
        if low >= high:
            return None
        on_picture.append(slice(low, high))
        of_patch.append(slice(low - middle + reach, high - middle + reach))
    return (on_picture[0], on_picture[1]), (of_patch[0], of_patch[1])


def _lay(image: Field, cover: Field, colour: Field, at: tuple[int, int]) -> None:
    """Paint a patch over the picture, in place."""
    windows = _windows(image.shape, at, cover.shape[0] // 2)
    if windows:
        target, source = windows
        alpha = cover[source][..., None]
        image[target] = image[target] * (1 - alpha) + colour[source] * alpha


def _cast_shadow(image: Field, thing: _Thing, at: tuple[int, int], light: Field) -> None:
    """Darken the ground on the side that the sun does not reach, in place."""
    reach = thing.shadow.shape[0] // 2
    length = 0.8 + 0.25 * max(reach - 4, 0)
    away = round(at[0] - float(light[0]) * length), round(at[1] - float(light[1]) * length)
    windows = _windows(image.shape, away, reach)
    if windows:
        target, source = windows
        image[target] *= 1 - 0.85 * thing.shadow[source][..., None]


def _mark(mask: Field, visible: Field, at: tuple[int, int]) -> None:
    """Add a particle to the truth, in place: what is visible of it, whatever its opacity."""
    windows = _windows(mask.shape, at, visible.shape[0] // 2)
    if windows:
        target, source = windows
        seen = visible[source] / max(float(visible.max()), 1e-6)
        mask[target] = np.maximum(mask[target], seen)


def _photograph(image: Field, rng: Rng) -> NDArray[np.uint8]:
    """Uneven light, white balance, the lens's blur and the sensor's noise; then eight bits."""
    height, width = image.shape[:2]
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    slope = (y / height - 0.5) * rng.normal() + (x / width - 0.5) * rng.normal()
    damp = _noise(height, width, max(24.0, height / 8), rng)
    exposure = (1 + 0.06 * damp + 0.10 * slope) * rng.uniform(1.0, 1.2)
    image = image * exposure[..., None] * (1 + rng.normal(0, 0.03, 3))
    blur = rng.uniform(0.45, 0.6)
    image = ndimage.gaussian_filter(image.astype(np.float32), (blur, blur, 0))
    image += 0.018 * rng.standard_normal((height, width, 1), dtype=np.float32)
    image += 0.012 * rng.standard_normal((height, width, 3), dtype=np.float32)
    return np.asarray(np.clip(image, 0, 1) * 255, np.uint8)
