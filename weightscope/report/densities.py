"""Histograms as densities that can be drawn: how wide a bin must be, and how far they reach."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray


def with_null(
    histograms: pd.DataFrame, layers: pd.DataFrame, unit: str = "std_initial"
) -> list[str]:
    """Layers whose weights were drawn at random; all of them where none is known to be.

    With another column as the unit: those of which it is positive.
    """
    random = set(layers.loc[layers[unit] > 0, "layer"])
    names = [str(name) for name in histograms["layer"].unique()]
    return [name for name in names if name in random] or names


def densities(
    rows: pd.DataFrame,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Edges of bins wide enough to be seen, and the densities of the weights and of the null."""
    edges = np.append(rows["bin_left"].to_numpy(), rows["bin_right"].to_numpy()[-1:])
    counts, null = rows["count"].to_numpy(dtype=float), rows["null_count"].to_numpy(dtype=float)
    if len(counts):
        starts = _merged(counts)
        edges = _even_ends(np.append(edges[starts], edges[-1]))
        counts, null = np.add.reduceat(counts, starts), np.add.reduceat(null, starts)
    widths, total = np.diff(edges), counts.sum() or 1.0
    with np.errstate(divide="ignore", invalid="ignore"):
        return edges, _finite(counts / widths / total), _finite(null / widths / total)


def _merged(counts: NDArray[np.float64]) -> NDArray[np.intp]:
    """First bin of each group, so that the bulk spans at most 2 n^(1/3) groups (Rice) and 64."""
    shares = np.cumsum(counts) / max(counts.sum(), 1.0)
    first, last = np.searchsorted(shares, [0.005, 0.995])
    groups = min(2 * counts.sum() ** (1 / 3), 64.0)
    size = max(1, int((last - first + 1) / max(groups, 1.0)))
    # Groups meet in the middle, which is 0 for the symmetric bins of a summary.
    starts = np.arange(len(counts) // 2 % size, len(counts), size)
    return starts if starts[0] == 0 else np.append(0, starts)


def _even_ends(edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """Make the first and last group as wide as their neighbours: half a group looks like a peak."""
    if len(edges) < 4:
        return edges
    first = min(edges[0], 2 * edges[1] - edges[2])
    last = max(edges[-1], 2 * edges[-2] - edges[-3])
    return np.concatenate([[first], edges[1:-1], [last]])


def _finite(density: NDArray[np.float64]) -> NDArray[np.float64]:
    """A bin without width has no density to draw."""
    return np.where(np.isposinf(density), np.nan, density)


def extent(edges: NDArray[np.float64], density: NDArray[np.float64]) -> float:
    """Half-width that holds all but half a percent of the mass on either side."""
    mass = np.nan_to_num(density) * np.diff(edges)
    if not mass.sum() > 0:
        return 0.0
    shares = np.cumsum(mass) / mass.sum()
    first, last = np.searchsorted(shares, [0.005, 0.995])
    return float(1.12 * max(abs(edges[first]), abs(edges[min(last + 1, len(edges) - 1)])))
