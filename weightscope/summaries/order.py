"""What is asked of the order of a tensor's values, and who answers.

Quantiles, near-zero masses, counts of zeros and histograms are all questions of two kinds: which
value has rank r, and how many values lie below x. One record answers them, made of sorted values,
of a list of distinct values with counts, or of counted cells of float32 numbers (``kernels`` says
what a key and a cell are).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import ceil, frexp, isfinite, ldexp, log2
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weightscope.summaries.tensor_summary import Counts, EmpiricalCDF, Floats

Flags = NDArray[np.bool_]
Keys = NDArray[np.int32]

PROBABILITIES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
BINS = 128
CDF_POINTS = 1024
_SHARES = np.linspace(0.0, 1.0, CDF_POINTS)
_PROBABILITIES = np.array(PROBABILITIES)
_NOTHING = EmpiricalCDF(np.empty(0), np.empty(0), np.empty(0), 0)
_BEYOND = 2.0**128  # where the next float32 would be


@dataclass(frozen=True, eq=False)
class Questions:
    """What is asked of the order of a tensor whose extremes are known.

    Attributes:
        ranks: The values that have these ranks, for the quantiles: the two neighbours of each.
        edges: Edges of the histogram.
        borders: Values are counted below each: minus each limit, the next number after each limit,
            the edges. The limits are 0 and the thresholds of the near-zero mass.
    """

    ranks: Counts
    edges: Floats
    borders: Floats


def ask(count: int, minimum: float, maximum: float, thresholds: Sequence[float]) -> Questions:
    """The questions about so many finite values between these extremes, which are NaN without any.

    ``thresholds`` are those of the near-zero mass.
    """
    edges = symmetric_edges(minimum, maximum)
    borders = np.concatenate([_around(tuple(thresholds)), edges])
    if not count:
        return Questions(np.zeros(0, np.int64), edges, borders)
    lower = ((count - 1) * _PROBABILITIES).astype(np.int64)
    ranks = np.stack([lower, np.minimum(lower + 1, count - 1)], axis=1).ravel()
    return Questions(ranks, edges, borders)


@lru_cache
def _around(thresholds: tuple[float, ...]) -> Floats:
    """Minus each limit, then the next number after each limit."""
    limits = np.array([0.0, *thresholds])
    with np.errstate(under="ignore"):
        return np.concatenate([-limits, np.nextafter(limits, np.inf)])


def symmetric_edges(minimum: float, maximum: float) -> Floats:
    """Edges of at most ``BINS`` bins, symmetric about 0, whose width is a power of two.

    Such edges are multiples of one power of two with at most 8 significant bits: they lie between
    cells, and the histograms of two layers nest. All values lie below the last one.
    """
    half = BINS // 2
    peak = max(-minimum, maximum)
    if not isfinite(peak) or peak == 0.0:
        return _edges(half, 1.0 / half)
    # frexp: peak < 2^exponent; a width below 2^-133 would fall inside a cell
    width = ldexp(1.0, max(frexp(peak)[1] - ceil(log2(half)) - 1, -133))
    while peak >= half * width:
        width *= 2.0
    return _edges(int(peak // width) + 1, width)


@lru_cache(maxsize=4096)
def _edges(bins: int, width: float) -> Floats:
    """Edges of so many bins on either side of 0.

    Those of 10,000 tensors are some hundred arrays, which therefore are shared and read-only.
    """
    edges: Floats = np.arange(-bins, bins + 1) * np.float64(width)
    edges.flags.writeable = False
    return edges


def quantiles_of(values: Floats, count: int) -> list[float]:
    """The quantiles of ``count`` values from those of the asked ranks, rounded as numpy does it."""
    if not count:
        return [float("nan")] * len(PROBABILITIES)
    low, high = values[::2], values[1::2]
    share = (count - 1) * _PROBABILITIES % 1.0
    step = high - low
    quantiles: list[float] = np.where(
        share >= 0.5, high - step * (1.0 - share), low + step * share
    ).tolist()
    return quantiles


@dataclass(frozen=True, eq=False)
class Order:
    """A tensor's finite values in ascending order, each once for all that equal it or nearly do.

    Attributes:
        values: Ascending, in any format.
        ends: 0, then the number of elements through each of them; None where each stands for one.
        cdf: The distribution at no more than about CDF_POINTS points.
    """

    values: NDArray[np.floating]
    ends: Counts | None
    cdf: EmpiricalCDF

    def at(self, ranks: Counts) -> Floats:
        """The values that have these ranks, counted from 0."""
        places = ranks if self.ends is None else self.ends[1:].searchsorted(ranks, "right")
        return self.values[places].astype(np.float64)

    def before(self, borders: Floats) -> Counts:
        """Number of elements < each border."""
        # in the format of the values, which would all be converted to another one
        places = self.values.searchsorted(_rounded_up(borders, self.values.dtype))
        counts: Counts = places if self.ends is None else self.ends[places]
        return counts


def order_of_sorted(values: NDArray[np.floating]) -> Order:
    """The order of values that are sorted already."""
    n = values.size
    if not n:
        return Order(values, None, _NOTHING)
    points = values if n <= CDF_POINTS else values[(_SHARES * (n - 1)).astype(np.int64)]
    points = points[_new(points)]
    below, through = values.searchsorted(points), values.searchsorted(points, "right")
    return Order(values, None, EmpiricalCDF(points.astype(np.float64), below / n, through / n, n))


def order_of_listed(values: Floats, counts: Counts, borders: Floats) -> Order:
    """The order of the distinct values of a coarse number format.

    Args:
        values: Ascending.
        counts: How often each occurs.
        borders: Half way between each value and the next one the format can hold. A continuous null
            must be compared between such coarse numbers, not at them.
    """
    ends = ends_of(counts)
    if not values.size:
        return Order(values, ends, _NOTHING)
    n = int(ends[-1])
    places = ends[1:].searchsorted((_SHARES * (n - 1)).astype(np.int64), "right")
    places = places[_new(places)]
    shares = ends[1:][places] / n
    return Order(values, ends, EmpiricalCDF(borders[places], shares, shares, n))


def order_of_counted(
    cells: Counts, counts: Counts, looked: Flags, keys: Keys, occurs: Counts
) -> Order:
    """The order of float32 numbers counted in cells, into some of which one has looked.

    The values of any other cell stand at its lower end: what lies below a border between cells is
    exact all the same.

    Args:
        cells: The cells that hold values, see ``counting.CellCounts``.
        counts: Number of values in each.
        looked: Which of them were looked into.
        keys: The keys inside those, ascending.
        occurs: How often each occurs.
    """
    if not cells.size:
        return Order(np.zeros(0), np.zeros(1, np.int64), _NOTHING)
    lower_ends = (cells[~looked] << 16).astype(np.int32)
    places = keys.searchsorted(lower_ends)
    keys = np.insert(keys, places, lower_ends)
    occurs = np.insert(occurs, places, counts[~looked])
    ends = ends_of(counts)[1:]
    n = int(ends[-1])
    points = ends.searchsorted((_SHARES * n).astype(np.int64))
    points = points[_new(points)]
    borders = np.concatenate([cells[:1], cells[points] + 1]) << 16
    shares = np.concatenate([[0], ends[points]]) / n
    between = np.clip(values_of(borders).astype(np.float64), -_BEYOND, _BEYOND)
    cdf = EmpiricalCDF(between, shares, shares, n)
    return Order(values_of(keys), ends_of(occurs), cdf)


def unanswered(cells: Counts, counts: Counts, asked: Questions) -> Flags:
    """Which filled cells to look into before the questions have exact answers."""
    wanted = np.zeros(cells.size, np.bool_)
    wanted[ends_of(counts).searchsorted(asked.ranks, "right") - 1] = True
    keys = _keys_of(_rounded_up(asked.borders, np.dtype(np.float32))).astype(np.int64)
    wanted |= np.isin(cells, keys[(keys & 0xFFFF) != 0] >> 16)
    return wanted


def _keys_of(values: NDArray[Any]) -> Keys:
    """The keys of float32 values."""
    patterns = values.view(np.int32)
    signs = patterns >> 31
    keys: Keys = ((patterns & 0x7FFFFFFF) ^ signs) - signs
    return keys


def _rounded_up(borders: Floats, dtype: np.dtype[np.floating]) -> NDArray[np.floating]:
    """The smallest number of a format that is >= each border."""
    with np.errstate(over="ignore", under="ignore"):
        near = borders.astype(dtype)
        return np.where(near < borders, np.nextafter(near, dtype.type(np.inf)), near)


def values_of(keys: NDArray[np.integer]) -> NDArray[np.float32]:
    """The float32 values that have these keys."""
    narrow = keys.astype(np.int32)
    signs = narrow >> 31
    patterns = ((narrow ^ signs) - signs) | (signs << 31)
    values: NDArray[np.float32] = patterns.view(np.float32)
    return values


def _new(ascending: NDArray[np.generic]) -> Flags:
    """Which members of an array in order are not equal to the one before."""
    new = np.ones(ascending.shape, np.bool_)
    np.not_equal(ascending[1:], ascending[:-1], out=new[1:])
    return new


def ends_of(counts: Counts) -> Counts:
    """0, then the sums of the counts so far."""
    ends = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=ends[1:])
    return ends
