"""Questions about order: how many values lie below x, which value has rank r.

Float32 values are ordered by an integer *key*: the bit pattern of a positive number, minus that of
its absolute value for a negative one, 0 for both zeros. Neighbouring numbers have neighbouring
keys, and the high 16 bits of a key are its cell. Numbers of 16 and 8 bits are few enough to list.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from weightscope.statistics.records import Counts, EmpiricalCDF, Floats

PROBABILITIES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
CDF_POINTS = 1024
_LOW = 0xFFFF


class Order(Protocol):
    """Answers to questions about the order of a tensor's finite values."""

    def below(self, edges: Floats) -> Counts:
        """Number of values < each edge."""

    def through(self, edges: Floats) -> Counts:
        """Number of values <= each edge."""

    def at(self, ranks: Counts) -> Floats:
        """The values that have these ranks, counted from 0."""

    def cdf(self) -> EmpiricalCDF:
        """The distribution at no more than about CDF_POINTS points."""


class ListedValues:
    """Distinct values in ascending order and how often each occurs."""

    def __init__(self, values: Floats, counts: Counts, borders: Floats | None = None) -> None:
        """Keep the list.

        Args:
            values: Ascending.
            counts: How often each occurs.
            borders: The border between each value and the next one its format can hold, for numbers
                so coarse that a continuous null must be compared between them; None otherwise.
        """
        self.values = values
        self.ends = np.cumsum(counts)
        self.borders = borders

    @classmethod
    def of(cls, finite: NDArray[np.floating]) -> ListedValues:
        """List finite values by sorting them."""
        values: Floats = np.sort(finite).astype(np.float64)
        return cls(values, np.ones(values.shape, dtype=np.int64))

    def below(self, edges: Floats) -> Counts:
        """Number of values < each edge."""
        return self._before(np.searchsorted(self.values, edges, side="left"))

    def through(self, edges: Floats) -> Counts:
        """Number of values <= each edge."""
        return self._before(np.searchsorted(self.values, edges, side="right"))

    def _before(self, places: NDArray[np.int64]) -> Counts:
        counts: Counts = np.concatenate([[0], self.ends])[places]
        return counts

    def at(self, ranks: Counts) -> Floats:
        """The values that have these ranks, counted from 0."""
        return self.values[np.searchsorted(self.ends, ranks, side="right")]

    def cdf(self) -> EmpiricalCDF:
        """The distribution at up to CDF_POINTS of the values, or of the borders between them."""
        n = int(self.ends[-1]) if self.ends.size else 0
        if not n:
            empty = np.empty(0)
            return EmpiricalCDF(empty, empty, empty, 0)
        ranks = np.unique(np.linspace(0, n - 1, min(n, CDF_POINTS)).round().astype(np.int64))
        places = np.unique(np.searchsorted(self.ends, ranks, side="right"))
        if self.borders is not None:
            shares = self.ends[places] / n
            return EmpiricalCDF(self.borders[places], shares, shares, n)
        points = np.unique(self.values[places])
        return EmpiricalCDF(points, self.below(points) / n, self.through(points) / n, n)


@dataclass(frozen=True, eq=False)
class Inside:
    """The keys inside one cell, ascending, and the number of values through each."""

    keys: NDArray[np.int64]
    ends: Counts


class CountedCells:
    """Float32 values counted in cells, some of which have been looked into.

    A cell that nobody looked into is read as if its values were spread evenly.
    """

    def __init__(
        self, cells: NDArray[np.int64], counts: Counts, inside: Mapping[int, Inside]
    ) -> None:
        """Keep the counts.

        Args:
            cells: The cells that hold values, ascending.
            counts: Number of values in each.
            inside: What is inside some of them, by cell.
        """
        self.cells = cells
        self.counts = counts
        self.ends: Counts = np.cumsum(counts)
        self.inside = inside

    @classmethod
    def of(cls, totals: Counts, zeros: int) -> CountedCells:
        """Read a table of all 65,536 cells, cell -32768 first, and the number of zeros in it."""
        filled = np.flatnonzero(totals)
        only_zeros = zeros > 0 and totals[0x8000] == zeros
        inside = {0: Inside(np.zeros(1, np.int64), np.array([zeros]))} if only_zeros else {}
        return cls(filled - 0x8000, totals[filled], inside)

    def count_of(self, cell: int) -> int:
        """Number of values in one cell."""
        at = int(np.searchsorted(self.cells, cell))
        found = at < self.cells.size and self.cells[at] == cell
        return int(self.counts[at]) if found else 0

    def unanswered(self, ranks: Counts, borders: NDArray[np.int64]) -> tuple[int, ...]:
        """Cells that must be looked into before these questions have exact answers."""
        holders = self.cells[np.searchsorted(self.ends, ranks, side="right")]
        split = borders[(borders & _LOW) != 0] >> 16
        wanted = np.union1d(holders, split[np.isin(split, self.cells)])
        return tuple(cell for cell in wanted.tolist() if cell not in self.inside)

    def looked_into(self, inside: Mapping[int, Inside]) -> CountedCells:
        """The same values with more cells looked into."""
        return CountedCells(self.cells, self.counts, {**self.inside, **inside})

    def below(self, edges: Floats) -> Counts:
        """Number of values < each edge."""
        return self._below_keys(keys_from(edges))

    def through(self, edges: Floats) -> Counts:
        """Number of values <= each edge."""
        return self._below_keys(keys_after(edges))

    def _below_keys(self, keys: NDArray[np.int64]) -> Counts:
        cells = keys >> 16
        places = np.searchsorted(self.cells, cells)
        counts: Counts = np.concatenate([[0], self.ends])[places]
        for i in np.flatnonzero(keys & _LOW):
            at, cell = int(places[i]), int(cells[i])
            if at == self.cells.size or self.cells[at] != cell:
                continue
            known = self.inside.get(cell)
            if known is None:
                counts[i] += round(int(self.counts[at]) * int(keys[i] & _LOW) / 0x10000)
            else:
                before = int(np.searchsorted(known.keys, keys[i]))
                counts[i] += known.ends[before - 1] if before else 0
        return counts

    def at(self, ranks: Counts) -> Floats:
        """The values that have these ranks, counted from 0."""
        places = np.searchsorted(self.ends, ranks, side="right")
        keys = np.empty(ranks.shape, np.int64)
        for i, (rank, at) in enumerate(zip(ranks.tolist(), places.tolist(), strict=True)):
            cell = int(self.cells[at])
            offset = rank - int(self.ends[at] - self.counts[at])
            known = self.inside.get(cell)
            if known is None:
                keys[i] = (cell << 16) + (2 * offset + 1) * 0x8000 // int(self.counts[at])
            else:
                keys[i] = known.keys[np.searchsorted(known.ends, offset, side="right")]
        return values_of(keys)

    def cdf(self) -> EmpiricalCDF:
        """The distribution at up to CDF_POINTS borders between cells."""
        if not self.cells.size:
            empty = np.empty(0)
            return EmpiricalCDF(empty, empty, empty, 0)
        n = int(self.ends[-1])
        steps = np.linspace(0, n, CDF_POINTS)
        places = np.unique(np.searchsorted(self.ends, steps[1:-1]))
        places = np.append(places[places < self.cells.size - 1], self.cells.size - 1)
        borders = np.concatenate([self.cells[:1], self.cells[places] + 1]) << 16
        shares = np.concatenate([[0], self.ends[places]]) / n
        points = np.clip(values_of(borders), -(2.0**128), 2.0**128)
        return EmpiricalCDF(points, shares, shares, n)


def keys_from(edges: Floats) -> NDArray[np.int64]:
    """Key of the smallest float32 that is >= each edge; beyond float32, the key past infinity."""
    near = _rounded(edges)
    return keys_of(near) + (near.astype(np.float64) < edges)


def keys_after(edges: Floats) -> NDArray[np.int64]:
    """Key of the smallest float32 that is > each edge."""
    near = _rounded(edges)
    return keys_of(near) + (near.astype(np.float64) <= edges)


def _rounded(edges: Floats) -> NDArray[np.float32]:
    with np.errstate(over="ignore", under="ignore"):
        return np.asarray(edges, dtype=np.float64).astype(np.float32)


def keys_of(values: NDArray[np.float32]) -> NDArray[np.int64]:
    """Keys of float32 values."""
    patterns = values.view(np.uint32).astype(np.int64)
    return np.where(patterns < 0x80000000, patterns, 0x80000000 - patterns)


def values_of(keys: NDArray[np.int64]) -> Floats:
    """The float32 values that have these keys."""
    patterns = np.where(keys >= 0, keys, 0x80000000 - keys).astype(np.uint32)
    values: Floats = patterns.view(np.float32).astype(np.float64)
    return values


def quantile_ranks(n: int, probabilities: Sequence[float]) -> tuple[Counts, Counts, Floats]:
    """The two neighbours of each quantile by rank, and how far between them it lies."""
    virtual = (n - 1) * np.asarray(probabilities, dtype=np.float64)
    low = np.floor(virtual).astype(np.int64)
    return low, np.minimum(low + 1, n - 1), virtual - low


def between(low: Floats, high: Floats, share: Floats) -> Floats:
    """Linear interpolation as numpy's quantile rounds it."""
    step = high - low
    return np.where(share >= 0.5, high - step * (1.0 - share), low + step * share)
