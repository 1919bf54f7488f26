"""Questions about order: how many values lie below x, which value has rank r.

Float32 values are ordered by an integer *key*: the bit pattern of a positive number, minus that of
its absolute value for a negative one, 0 for both zeros. Neighbouring numbers have neighbouring
keys, and the high 16 bits of a key are its cell. Numbers of 16 and 8 bits are few enough to list.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from weightscope.statistics.questions import Flags, Questions
from weightscope.statistics.records import Counts, EmpiricalCDF, Floats

Keys = NDArray[np.int32]
# cells that hold something, ascending, and how much
FilledCells = tuple[Keys, Counts]
Ascending = TypeVar("Ascending", Floats, Counts)

CDF_POINTS = 1024
BEYOND = 2.0**128  # where the next float32 would be
_LOW = 0xFFFF
SHARES = np.linspace(0.0, 1.0, CDF_POINTS)
_NO_KEYS = np.zeros(0, np.int32)
_NO_ENDS = np.zeros(0, np.int64)
_NOTHING = EmpiricalCDF(np.empty(0), np.empty(0), np.empty(0), 0)


@cache
def compiled_answers() -> Any:
    """The compiled loops, whose compiler is loaded when it is first needed."""
    from weightscope.statistics import answers

    return answers


@dataclass(frozen=True, eq=False)
class Answers:
    """What was asked of a tensor's order.

    Attributes:
        values: The values of the ranks asked for.
        before: Number of values < each edge, or <= where it is closed.
        cdf: The distribution at no more than about CDF_POINTS points.
    """

    values: Floats
    before: Counts
    cdf: EmpiricalCDF


class Order(ABC):
    """Answers to questions about the order of a tensor's finite values."""

    def answer(self, ranks: Counts, edges: Floats, closed: Flags) -> Answers:
        """The values of these ranks, the numbers of values before these edges, the distribution."""
        return Answers(self.at(ranks), self.before(edges, closed), self.cdf())

    @abstractmethod
    def before(self, edges: Floats, closed: Flags) -> Counts:
        """Number of values < each edge, or <= where ``closed``."""

    @abstractmethod
    def at(self, ranks: Counts) -> Floats:
        """The values that have these ranks, counted from 0."""

    @abstractmethod
    def cdf(self) -> EmpiricalCDF:
        """The distribution at no more than about CDF_POINTS points."""


class SortedValues(Order):
    """Finite values in ascending order."""

    def __init__(self, finite: NDArray[np.floating]) -> None:
        self.values: Floats = np.sort(finite).astype(np.float64)

    def before(self, edges: Floats, closed: Flags) -> Counts:
        """Number of values < each edge, or <= where ``closed``."""
        return _insert(self.values, edges, closed)

    def at(self, ranks: Counts) -> Floats:
        """The values that have these ranks, counted from 0."""
        return self.values[ranks]

    def cdf(self) -> EmpiricalCDF:
        """The distribution at up to CDF_POINTS of the values."""
        values, n = self.values, self.values.size
        if not n:
            return _NOTHING
        points = values if n <= CDF_POINTS else values[(SHARES * (n - 1)).astype(np.int64)]
        points = _distinct(points)
        below, through = values.searchsorted(points), values.searchsorted(points, "right")
        return EmpiricalCDF(points, below / n, through / n, n)


class ListedValues(Order):
    """The distinct values of a coarse number format and how often each occurs."""

    def __init__(self, values: Floats, counts: Counts, borders: Floats) -> None:
        """Keep the list.

        Args:
            values: Ascending.
            counts: How often each occurs.
            borders: Half way between each value and the next one the format can hold. A continuous
                null must be compared between such coarse numbers, not at them.
        """
        self.values = values
        self.ends = ends_of(counts)
        self.borders = borders

    def before(self, edges: Floats, closed: Flags) -> Counts:
        """Number of values < each edge, or <= where ``closed``."""
        counts: Counts = self.ends[_insert(self.values, edges, closed)]
        return counts

    def at(self, ranks: Counts) -> Floats:
        """The values that have these ranks, counted from 0."""
        return self.values[self.ends[1:].searchsorted(ranks, "right")]

    def cdf(self) -> EmpiricalCDF:
        """The distribution at up to CDF_POINTS borders between the values."""
        if not self.values.size:
            return _NOTHING
        n = int(self.ends[-1])
        ends = self.ends[1:]
        places = _distinct(ends.searchsorted((SHARES * (n - 1)).astype(np.int64), "right"))
        shares = ends[places] / n
        return EmpiricalCDF(self.borders[places], shares, shares, n)


def _insert(values: Floats, edges: Floats, closed: Flags) -> Counts:
    return np.where(closed, values.searchsorted(edges, "right"), values.searchsorted(edges))


class CountedCells(Order):
    """Float32 values counted in cells, some of which have been looked into.

    A cell that nobody looked into is read as if its values were spread evenly.
    """

    def __init__(
        self,
        cells: Keys,
        counts: Counts,
        keys: Keys = _NO_KEYS,
        key_ends: Counts | None = None,
        *,
        only_zeros: bool = False,
    ) -> None:
        """Keep the counts.

        Args:
            cells: The cells that hold values, ascending.
            counts: Number of values in each.
            keys: The keys inside the cells that were looked into, ascending.
            key_ends: 0, then the number of values through each of these keys; None for 0, 1, 2 and
                so on, which are better not written down.
            only_zeros: Whether cell 0 holds nothing else, and is known without looking into it.
        """
        self.cells = cells
        self.counts = counts
        self.ends = ends_of(counts)
        self._keys = keys
        self._key_ends = key_ends
        self._only_zeros = only_zeros

    @classmethod
    def of(cls, parts: Sequence[FilledCells], zeros: int) -> Self:
        """The cells of several parts together, which hold so many zeros."""
        cells, counts = cls._merge(parts) if len(parts) > 1 else parts[0]
        place = int(cells.searchsorted(0))
        only_zeros = zeros > 0 and bool(counts[place] == zeros)
        return cls(cells, counts, only_zeros=only_zeros)

    @staticmethod
    def _merge(parts: Sequence[FilledCells]) -> FilledCells:
        cells, places = np.unique(np.concatenate([part[0] for part in parts]), return_inverse=True)
        counts = np.zeros(cells.size, np.int64)
        np.add.at(counts, places, np.concatenate([part[1] for part in parts]))
        return cells, counts

    def read(
        self, patterns: NDArray[np.uint32], cells: Keys, asked: Questions
    ) -> tuple[Keys, Counts | None]:
        """Keys of patterns that lie in these cells, ascending, as far as they are asked for.

        Args:
            patterns: Bit patterns, among them zeros and minus infinity.
            cells: The cells, ascending.
            asked: The questions; a stretch of patterns that none of them needs may have one key.

        Returns:
            The keys, and how often each occurs; None for once each.
        """
        keys = keys_of(patterns.view(np.float32))
        keys.sort()
        return keys, None

    def unanswered(self, ranks: Counts, edges: Floats, closed: Flags) -> tuple[Keys, Counts]:
        """Cells to look into before these questions have exact answers, and what they hold."""
        if not self.cells.size:
            return self.cells, self.counts
        holders = self.ends.searchsorted(ranks, "right") - 1
        keys = _border_keys(edges, closed)
        keys = keys[(keys & _LOW) != 0]
        places = self.cells.searchsorted(keys >> 16)
        places[places == self.cells.size] = 0
        places = places[self.cells[places] == keys >> 16]
        wanted = np.array(sorted({*holders.tolist(), *places.tolist()}))
        wanted = wanted[~self._is_known(self.cells[wanted])]
        return self.cells[wanted], self.counts[wanted]

    def _is_known(self, cells: Keys) -> Flags:
        """Whether these filled cells were looked into, or need not be."""
        looked = self._keys.searchsorted(cells << 16) < self._keys.searchsorted((cells + 1) << 16)
        return looked | (cells == 0) if self._only_zeros else looked

    def looked_into(self, keys: Keys, occurs: Counts | None) -> Self:
        """The same values with the keys inside more cells, ascending (None: once each)."""
        known = partial(type(self), self.cells, self.counts, only_zeros=self._only_zeros)
        if not self._keys.size:
            return known(keys, None if occurs is None else ends_of(occurs))
        occurs = np.ones(keys.shape, np.int64) if occurs is None else occurs
        ours = self._through(np.arange(self._keys.size + 1))
        places = keys.searchsorted(self._keys)  # both ascend, and no cell is looked into twice
        ends = ends_of(np.insert(occurs, places, np.diff(ours)))
        return known(np.insert(keys, places, self._keys), ends)

    def _through(self, places: NDArray[np.intp]) -> Counts:
        """Number of values through so many of the keys."""
        return places if self._key_ends is None else self._key_ends[places]

    def before(self, edges: Floats, closed: Flags) -> Counts:
        """Number of values < each edge, or <= where ``closed``."""
        keys = _border_keys(edges, closed)
        cells = keys >> 16
        places = self.cells.searchsorted(cells)
        counts: Counts = self.ends[places]
        inner = np.flatnonzero(keys & _LOW)
        inner = inner[places[inner] < self.cells.size]
        inner = inner[self.cells[places[inner]] == cells[inner]]
        if not inner.size:
            return counts
        keys, cells, held = keys[inner], cells[inner], self.counts[places[inner]]
        spread = held * (keys & _LOW) >> 16
        zeros = (cells == 0) & self._only_zeros
        first = self._keys.searchsorted(cells << 16)
        found = self._through(self._keys.searchsorted(keys)) - self._through(first)
        counts[inner] += np.where(zeros, held, np.where(self._is_known(cells), found, spread))
        return counts

    def at(self, ranks: Counts) -> Floats:
        """The values that have these ranks, counted from 0."""
        places = self.ends.searchsorted(ranks, "right") - 1
        cells = self.cells[places]
        offsets = ranks - self.ends[places]
        spread = (cells << 16) + ((2 * offsets + 1) * 0x8000 // self.counts[places]).astype(
            np.int32
        )
        if self._only_zeros:
            spread[cells == 0] = 0
        if not self._keys.size:
            return values_of(spread)
        first = self._keys.searchsorted(cells << 16)
        within = self._through(first) + offsets
        if self._key_ends is not None:
            within = self._key_ends[1:].searchsorted(within, "right")
        within = np.minimum(within, self._keys.size - 1)
        known = self._is_known(cells) & ~((cells == 0) & self._only_zeros)
        return values_of(np.where(known, self._keys[within], spread))

    def cdf(self) -> EmpiricalCDF:
        """The distribution at up to CDF_POINTS borders between cells."""
        if not self.cells.size:
            return _NOTHING
        n = int(self.ends[-1])
        ends = self.ends[1:]
        places = _distinct(ends.searchsorted((SHARES * n).astype(np.int64)))
        borders = np.concatenate([self.cells[:1], self.cells[places] + 1]) << 16
        shares = np.concatenate([[0], ends[places]]) / n
        points = np.minimum(np.maximum(values_of(borders), -BEYOND), BEYOND)
        return EmpiricalCDF(points, shares, shares, n)


class CompiledCells(CountedCells):
    """The same, answered by compiled loops: an operator of numpy costs a call."""

    @staticmethod
    def _merge(parts: Sequence[FilledCells]) -> FilledCells:
        merged = parts[0]
        for part in parts[1:]:
            merged = compiled_answers().merge(*merged, *part)
        return merged

    def read(
        self, patterns: NDArray[np.uint32], cells: Keys, asked: Questions
    ) -> tuple[Keys, Counts | None]:
        """Keys of patterns that lie in these cells, ascending, as far as they are asked for."""
        keys: tuple[Keys, Counts] = compiled_answers().read_patterns(
            patterns, cells, self.cells, self.ends, asked.ranks, asked.borders, asked.closed
        )
        return keys

    def unanswered(self, ranks: Counts, edges: Floats, closed: Flags) -> tuple[Keys, Counts]:
        """Cells to look into before these questions have exact answers, and what they hold."""
        places = compiled_answers().find_unanswered(
            self.cells, self.ends, self._keys, self._only_zeros, ranks, edges, closed
        )
        return self.cells[places], self.counts[places]

    def answer(self, ranks: Counts, edges: Floats, closed: Flags) -> Answers:
        """The values of these ranks, the numbers of values before these edges, the distribution."""
        ends = _NO_ENDS if self._key_ends is None else self._key_ends
        values, before, points, shares = compiled_answers().answer_cells(
            self.cells, self.ends, self._keys, ends, self._only_zeros,
            ranks, edges, closed, SHARES,
        )  # fmt: skip
        return Answers(values, before, EmpiricalCDF(points, shares, shares, int(self.ends[-1])))


def _distinct(ascending: Ascending) -> Ascending:
    """The distinct members of an array that is in order."""
    new = np.ones(ascending.shape, np.bool_)
    np.not_equal(ascending[1:], ascending[:-1], out=new[1:])
    return ascending[new]


def ends_of(counts: Counts | Sequence[int]) -> Counts:
    """0, then the sums of the counts so far."""
    ends = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=ends[1:])
    return ends


def _border_keys(edges: Floats, closed: Flags) -> Keys:
    """Key of the smallest float32 that is >= each edge, or > it where ``closed``."""
    with np.errstate(over="ignore", under="ignore"):
        near = edges.astype(np.float32)
    wide = near.astype(np.float64)
    keys: Keys = keys_of(near) + ((wide < edges) | (closed & (wide == edges)))
    return keys


def keys_of(values: NDArray[np.float32]) -> Keys:
    """Keys of float32 values."""
    signed = values.view(np.int32)
    signs = signed >> 31
    keys: Keys = signed & 0x7FFFFFFF
    keys ^= signs
    keys -= signs
    return keys


def values_of(keys: Keys) -> Floats:
    """The float32 values that have these keys."""
    signs = keys >> 31
    patterns = ((keys ^ signs) - signs) | (signs << 31)
    values: Floats = patterns.view(np.float32).astype(np.float64)
    return values
