"""The passes over one tensor's float32 numbers without numba: whole operators of numpy and torch.

Each operator goes over a long block, because it costs a call, and because it hands the
interpreter's lock to the other threads and waits to have it back. Torch's are used where they are
quicker; ``pool`` keeps them to one thread each.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import inf, isfinite

import numpy as np
import torch
from numpy.typing import NDArray

from weightscope.statistics.moments import Moments, merge, moments_from_powers, moments_in_place
from weightscope.statistics.passes import (
    CELLS,
    MINUS_ZERO,
    NO_FILTERS,
    NOTHING,
    FilterLayout,
    FilterSums,
    Part,
    Patterns,
    Tally,
    Wanted,
    add_filter_sums,
    filled_cells,
    sum_of,
)
from weightscope.statistics.records import Counts, Floats

_BLOCK = 1 << 18


class PlainPasses:
    """Passes in blocked numpy and torch, on a float32 array."""

    def __init__(self, array: NDArray[np.float32], layout: FilterLayout) -> None:
        self._x = array
        self._layout = layout

    @property
    def size(self) -> int:
        """Number of elements."""
        return self._x.size

    def first(self, low: int, high: int) -> Part:
        """Measure elements low..high."""
        first, slots = self._layout.span(low, high)
        filters = FilterSums(first, np.zeros(slots), np.zeros(slots))
        count = nans = infs = zeros = 0
        minimum, maximum = inf, -inf
        powers = np.zeros(5)
        longest = min(_BLOCK, high - low)
        buffers = np.empty((2, longest))
        cells = np.empty(longest, np.uint32)
        counts = np.zeros(CELLS, np.int64)
        for start, stop in self._blocks(low, high):
            block = self._x[start:stop]
            lowest, highest = _extremes(block)
            if isfinite(lowest) and isfinite(highest):
                powers += _power_sums(block, start, self._layout, filters, buffers)
            else:
                with np.errstate(invalid="ignore", over="ignore"):
                    _power_sums(block, start, self._layout, filters, buffers)
                nans += int(np.isnan(block).sum())
                infs += int(np.isinf(block).sum())
                block = block[np.isfinite(block)]
                if not block.size:
                    continue
                lowest, highest = _extremes(block)
                powers += _power_sums(block, 0, NO_FILTERS, NOTHING, buffers)
            count += block.size
            minimum, maximum = min(minimum, lowest), max(maximum, highest)
            found = _count(_cells_of(block.view(np.uint32), cells[: block.size]))
            if found[0] or (found.size > MINUS_ZERO and found[MINUS_ZERO]):
                zeros += block.size - int(np.count_nonzero(block))
            counts[: found.size] += found
        moments = moments_from_powers(count, *powers.tolist()) if count else Moments()
        if moments is None:
            moments = merge(self._centered(low, high, buffers))
        return Part(
            moments, nans, infs, zeros, minimum + 0.0, maximum + 0.0, filters, filled_cells(counts)
        )

    def _blocks(self, low: int, high: int) -> Iterator[tuple[int, int]]:
        """Borders of blocks, which hold whole filters (or rows of them) where these are short."""
        length = self._layout.length
        while low < high:
            end = low + _BLOCK
            end -= end % length if length < _BLOCK else 0
            yield low, min(end, high)
            low = end

    def _centered(self, low: int, high: int, buffers: Floats) -> Iterator[Moments]:
        """Moments of each block about its own mean, for numbers far from 0 for their spread."""
        for start, stop in self._blocks(low, high):
            finite = self._x[start:stop]
            finite = finite[np.isfinite(finite)]
            if finite.size:
                wide, squares = buffers[:, : finite.size]
                wide[...] = finite
                yield moments_in_place(wide, squares)

    def second(self, low: int, high: int, wanted: Wanted, lows: Tally) -> Patterns:
        """Look into the wanted cells."""
        flags = torch.from_numpy(_high_halves(wanted.classes != 0))
        longest = min(_BLOCK, high - low)
        halves, marks = np.empty(longest, np.uint32), np.empty(longest, np.bool_)
        collected = []
        for start in range(low, high, _BLOCK):
            patterns = self._x[start : min(start + _BLOCK, high)].view(np.uint32)
            half, marked = halves[: patterns.size], marks[: patterns.size]
            np.right_shift(patterns, 16, out=half)
            places = torch.from_numpy(half.view(np.int32))
            torch.index_select(flags, 0, places, out=torch.from_numpy(marked))
            patterns = np.compress(marked, patterns)  # quicker than patterns[marked]
            kind = wanted.classes.take(_cells_of(patterns, half[: patterns.size]))
            collected.append(np.compress(kind == 1, patterns))
            for table, counts in enumerate(lows.counts):
                tabled = np.compress(kind == 2 + table, patterns)
                found = np.bincount((tabled - (tabled >> 31)) & 0xFFFF, minlength=CELLS)
                with lows.lock:
                    counts += found
        return np.concatenate(collected)


def _extremes(block: NDArray[np.float32]) -> tuple[float, float]:
    """Smallest and largest number; both NaN where there is one."""
    low, high = torch.aminmax(torch.from_numpy(block))
    return float(low), float(high)


def _power_sums(
    block: NDArray[np.float32],
    start: int,
    layout: FilterLayout,
    filters: FilterSums,
    buffers: Floats,
) -> Floats:
    """Sums of w, w^2, w^3, w^4 and |w| of a block, which is added to the sums of its filters."""
    wide, squares = buffers[:, : block.size]
    wide[...] = block
    np.multiply(wide, wide, out=squares)
    s1, s2 = add_filter_sums(wide, squares, start, layout, filters)
    # numpy's dot would start threads
    first, second = torch.from_numpy(wide), torch.from_numpy(squares)
    s3, s4 = float(torch.dot(first, second)), float(torch.dot(second, second))
    return np.array([s1, s2, s3, s4, float(sum_of(np.abs(wide, out=wide)))])


def _cells_of(patterns: Patterns, out: Patterns) -> Patterns:
    """Cells of the patterns."""
    np.right_shift(patterns, 31, out=out)
    np.subtract(patterns, out, out=out)
    return np.right_shift(out, 16, out=out)


def _count(cells: Patterns) -> Counts:
    """How often each cell occurs."""
    counts: Counts = torch.bincount(torch.from_numpy(cells.view(np.int32))).numpy()
    return counts


def _high_halves(wanted: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which high halves of patterns occur in the wanted cells.

    The high half is the cell, but a negative number on the border belongs to the cell below.
    """
    halves = wanted.copy()
    halves[0x8000:] |= wanted[0x7FFF:-1]
    return halves
