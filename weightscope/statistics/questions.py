"""What is asked of every tensor's order: quantiles, near-zero mass and a histogram.

Small functions of numbers and arrays, in terms that numba can compile: the compiled answers and
those in numpy ask by the same source. Numba does not see changes here (``make forget``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, frexp, isfinite, ldexp, log2

import numpy as np
from numpy.typing import NDArray

from weightscope.errors import InputError
from weightscope.statistics.records import Counts, Floats

Flags = NDArray[np.bool_]

PROBABILITIES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
BINS = 128
MOST_BINS = 512
PROBABILITIES_AS_ARRAY = np.array(PROBABILITIES)


@dataclass(frozen=True, eq=False)
class Questions:
    """What is asked of the order of a tensor whose extremes are known.

    Attributes:
        ranks: The values that have these ranks, for the quantiles.
        edges: Edges of the histogram.
        borders: Values are counted below each: thresholds of both signs, zero twice, edges.
        closed: Whether values equal to a border are counted with it.
    """

    ranks: Counts
    edges: Floats
    borders: Floats
    closed: Flags

    @classmethod
    def about(
        cls, count: int, minimum: float, maximum: float, limits: Floats, bins: int, given: Floats
    ) -> Questions:
        """The questions that a summary answers.

        Args:
            count: Number of finite values.
            minimum: The smallest of them; NaN without any.
            maximum: The largest one.
            limits: Thresholds of the near-zero mass.
            bins: Number of symmetric bins; 0 for the edges given.
            given: Edges that the caller asked for.
        """
        edges = symmetric_edges(bins, minimum, maximum) if bins else given
        return cls(quantile_ranks(count, PROBABILITIES_AS_ARRAY), edges, *borders_of(limits, edges))


def read_bins(bins: int | Sequence[float]) -> tuple[int, Floats]:
    """The number of symmetric bins (0 for none), and the edges asked for.

    Raises:
        InputError: If ``bins`` is no even number from 2 to MOST_BINS and no ascending edges.
    """
    if isinstance(bins, int):
        if bins % 2 or not 2 <= bins <= MOST_BINS:
            raise InputError(f"bins={bins}: an even number from 2 to {MOST_BINS} is needed")
        return bins, np.zeros(0)
    edges = np.array(bins, dtype=np.float64)
    if edges.ndim != 1 or edges.size < 2 or not (np.diff(edges) > 0).all():
        raise InputError("bins must be at least two ascending edges, or an even number")
    return 0, edges


def symmetric_edges(bins: int, minimum: float, maximum: float) -> Floats:
    """Edges of at most ``bins`` bins, symmetric about 0, whose width is a power of two.

    Such edges are multiples of one power of two with at most 8 significant bits: they lie between
    cells, and the histograms of two layers nest.
    """
    half = bins // 2
    peak = max(-minimum, maximum)
    if not isfinite(peak) or peak == 0.0:
        return np.arange(-half, half + 1) / np.float64(half)
    # frexp: peak < 2^exponent; a width below 2^-133 would fall inside a cell
    width = ldexp(1.0, max(frexp(peak)[1] - ceil(log2(half)) - 1, -133))
    while peak >= half * width:
        width *= 2.0
    needed = int(peak // width) + 1
    symmetric: Floats = np.arange(-needed, needed + 1).astype(np.float64) * width
    return symmetric


def borders_of(limits: Floats, edges: Floats) -> tuple[Floats, Flags]:
    """Where to count what lies below, and whether with what equals it.

    The thresholds' negatives, the thresholds (closed), zero, zero closed, the edges, of which the
    last is closed.
    """
    k = limits.size
    borders = np.zeros(2 * k + 2 + edges.size)
    borders[:k] = -limits
    borders[k : 2 * k] = limits
    borders[2 * k + 2 :] = edges
    closed = np.zeros(borders.size, np.bool_)
    closed[k : 2 * k] = True
    closed[2 * k + 1] = True
    closed[-1] = True
    return borders, closed


def quantile_ranks(n: int, probabilities: Floats) -> Counts:
    """The two neighbours of each quantile of ``n`` values by rank, one after the other."""
    if not n:
        return np.zeros(0, np.int64)
    ranks = np.empty(2 * probabilities.size, np.int64)
    for i in range(probabilities.size):
        lower = int((n - 1) * probabilities[i])
        ranks[2 * i] = lower
        ranks[2 * i + 1] = min(lower + 1, n - 1)
    return ranks


def quantiles_of(
    values: Floats | Sequence[float], n: int, probabilities: Floats | Sequence[float]
) -> Floats:
    """Quantiles by linear interpolation between two ranks, rounded as numpy rounds them.

    Args:
        values: Those of ``quantile_ranks``.
        n: Number of all values; without any the quantiles are NaN.
        probabilities: Of which values to give the quantiles.
    """
    quantiles = np.full(len(probabilities), np.nan)
    if n:
        for i in range(len(probabilities)):
            low = values[2 * i]
            high = values[2 * i + 1]
            share = (n - 1) * probabilities[i] % 1.0
            step = high - low
            quantiles[i] = high - step * (1.0 - share) if share >= 0.5 else low + step * share
    return quantiles
