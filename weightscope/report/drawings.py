"""The pictures of the page as numbers: vector graphics that print, shrink and follow the style."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from weightscope.report.densities import densities, extent, with_null

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

HEIGHT = 100
"""Units from the base of a histogram to its top."""

_ROLES = ("encoder", "bottleneck", "decoder", "skip", "head")


@dataclass(frozen=True)
class Bar:
    """A value with its interval on a scale.

    Attributes:
        low: Where the interval begins, in percent of the scale.
        width: How far it reaches, in percent of the scale.
        value: Where the value lies, in percent of the scale.
        fill: Where the filled bar begins and how far it reaches, in percent; None without one.
        lines: Where the scale is marked, in percent.
    """

    low: float
    width: float
    value: float
    fill: tuple[float, float] | None
    lines: tuple[float, ...]


def bar(
    value: float,
    low: float,
    high: float,
    *,
    start: float = 0.0,
    end: float = 1.0,
    origin: float | None = None,
    lines: Iterable[float] = (),
) -> Bar | None:
    """Place a value and its interval on a scale; None for what is no number.

    An end of the interval that is not known is the end of the scale. With an origin the bar is
    filled from there to the value.

    Example:
        >>> bar(0.5, 0.25, 1.0, origin=0.0)
        Bar(low=25.0, width=75.0, value=50.0, fill=(0.0, 50.0), lines=())
    """
    if not (math.isfinite(value) and end > start):
        return None

    def place(number: float) -> float:
        return round(100 * min(max((number - start) / (end - start), 0.0), 1.0), 1)

    first, last = place(start if low != low else low), place(end if high != high else high)
    fill = None
    if origin is not None:
        near, far = sorted((place(origin), place(value)))
        fill = near, round(far - near, 1)
    return Bar(first, round(last - first, 1), place(value), fill, tuple(map(place, lines)))


@dataclass(frozen=True)
class DrawnHistogram:
    """One layer's weights and their null as paths; the unit is a thousandth of the initial std.

    Attributes:
        layer: Name of the layer.
        stage: Its stage; "" where it has none.
        role: Role of the stage, for the colour.
        weights: Filled outline of the weights.
        null: Outline before training; "" where it is not known.
        relative: Half-width of the view in which all nulls are alike.
        plain: Half-width of the view in which all weights have one scale.
        spread: std / initial std, on a logarithmic scale; None where it is not known.
        ratio: The same as a number.
    """

    layer: str
    stage: str
    role: str
    weights: str
    null: str
    relative: int
    plain: int
    spread: Bar | None
    ratio: float


@dataclass(frozen=True)
class DrawnHistograms:
    """All of them, in forward order.

    Attributes:
        rows: One for each layer that was drawn at random.
        relative: Where the relative view ends, in initial standard deviations.
        plain: Where the other ends, in units of the weights.
    """

    rows: tuple[DrawnHistogram, ...]
    relative: float
    plain: float


def draw_histograms(
    histograms: pd.DataFrame, layers: pd.DataFrame, unit: str = "std_initial"
) -> DrawnHistograms:
    """Draw each layer's weights once; two views show them in a unit of their own, and as they are.

    Args:
        histograms: `Analysis.histograms`.
        layers: `Analysis.layers`, for stage, spread ratio and the unit.
        unit: The column with the unit of each layer; where it is not positive, nothing is drawn.
    """
    if histograms.empty:
        return DrawnHistograms((), 1.0, 1.0)
    tables = {str(name): rows for name, rows in histograms.groupby("layer", sort=False)}
    facts = {
        str(row["layer"]): row
        for row in layers[["layer", "stage", unit, "spread_ratio"]].to_dict("records")
    }
    names = [name for name in with_null(histograms, layers, unit) if name in tables]
    drawn = {name: densities(tables[name]) for name in names}
    units = {name: _positive(facts[name][unit]) for name in names}
    reaches = {
        name: max(extent(edges, density), extent(edges, null))
        for name, (edges, density, null) in drawn.items()
    }
    relative = _limit([reaches[name] / units[name] for name in names])
    plain = _limit(list(reaches.values()))
    ratios = {name: float(facts[name]["spread_ratio"]) for name in names}
    logs = [abs(math.log(r)) for r in ratios.values() if r > 0 and math.isfinite(r)]
    widest = max([math.log(2), *logs])
    rows = []
    for name in names:
        edges, density, null = drawn[name]
        peak = max(np.nan_to_num(density).max(initial=0), np.nan_to_num(null).max(initial=0)) or 1
        places = np.rint(1000 * edges / units[name]).astype(np.int64)
        stage = str(facts[name]["stage"])
        role, ratio = stage.split(" ")[0], ratios[name]
        log = math.log(ratio) if ratio > 0 and math.isfinite(ratio) else math.nan
        rows.append(
            DrawnHistogram(
                layer=name,
                stage=stage,
                role=role if role in _ROLES else "elsewhere",
                weights=_filled(places, _heights(density / peak)),
                null=_outline(places, _heights(null / peak)),
                relative=round(1000 * relative),
                plain=max(1, round(1000 * plain / units[name])),
                spread=bar(log, log, log, start=-widest, end=widest, origin=0.0, lines=(0.0,)),
                ratio=ratio,
            )
        )
    return DrawnHistograms(tuple(rows), relative, plain)


def _positive(number: Any) -> float:
    """A unit to measure in; 1 where there is no initial spread."""
    return float(number) if number > 0 and math.isfinite(number) else 1.0


def _limit(reaches: list[float]) -> float:
    """Half-width of a common scale: a wide head of a few weights must not squeeze all others."""
    found = [reach for reach in reaches if reach > 0]
    return min(max(found), 3 * float(np.median(found))) if found else 1.0


def _heights(shares: NDArray[np.float64]) -> list[int]:
    """Vertical places: the top of a picture is 0; -1 where there is nothing to draw."""
    return [HEIGHT - max(1, round(0.96 * HEIGHT * s)) if s > 0 else -1 for s in shares.tolist()]


def _filled(places: NDArray[np.int64], heights: list[int]) -> str:
    """Steps above the base, closed."""
    steps = [
        f"V{HEIGHT if height < 0 else height}H{right}"
        for height, right in zip(heights, places[1:].tolist(), strict=True)
    ]
    return f"M{places[0]} {HEIGHT}{''.join(steps)}V{HEIGHT}Z" if steps else ""


def _outline(places: NDArray[np.int64], heights: list[int]) -> str:
    """Steps as a line, interrupted where nothing is expected, so that none runs along the base."""
    parts, lifted = [], True
    for left, height, right in zip(places[:-1].tolist(), heights, places[1:].tolist(), strict=True):
        if height >= 0:
            parts.append(f"M{left} {height}H{right}" if lifted else f"V{height}H{right}")
        lifted = height < 0
    return "".join(parts)
