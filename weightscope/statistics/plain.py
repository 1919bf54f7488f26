"""The passes over one tensor's float32 numbers in plain numpy, where numba is missing."""

from __future__ import annotations

from math import inf, isfinite

import numpy as np
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
    add_to_totals,
)
from weightscope.statistics.records import Floats


class PlainPasses:
    """Passes in blocked numpy; buffers are reused, since a fresh one costs more than its use."""

    # long, because each operation hands the interpreter's lock to the other threads
    _BLOCK = 1 << 18
    _SUMMED = 1 << 16

    def __init__(self, array: NDArray[np.float32], layout: FilterLayout) -> None:
        self._x = array
        self._layout = layout

    @property
    def size(self) -> int:
        """Number of elements."""
        return self._x.size

    def first(self, low: int, high: int, totals: Tally) -> Part:
        """Measure elements low..high."""
        first, slots = self._layout.span(low, high)
        filters = FilterSums(first, np.zeros(slots), np.zeros(slots))
        moments = []
        nans = infs = zeros = 0
        minimum, maximum = inf, -inf
        buffers = np.empty((2, self._SUMMED))
        cells = _Cells(self._BLOCK)
        counts = np.zeros(CELLS, np.int64)
        for start in range(low, high, self._BLOCK):
            block = self._x[start : min(start + self._BLOCK, high)]
            lowest, highest = float(block.min()), float(block.max())
            if isfinite(lowest) and isfinite(highest):
                moments += _sums(block, start, self._layout, filters, buffers)
            else:
                with np.errstate(invalid="ignore", over="ignore"):
                    _sums(block, start, self._layout, filters, buffers)
                nans += int(np.isnan(block).sum())
                infs += int(np.isinf(block).sum())
                block = block[np.isfinite(block)]
                if not block.size:
                    continue
                lowest, highest = float(block.min()), float(block.max())
                moments += _sums(block, 0, NO_FILTERS, NOTHING, buffers)
            minimum, maximum = min(minimum, lowest), max(maximum, highest)
            found = np.bincount(cells.of(block.view(np.uint32)))
            if found[0] or (found.size > MINUS_ZERO and found[MINUS_ZERO]):
                zeros += block.size - int(np.count_nonzero(block))
            counts[: found.size] += found
        with totals.lock:
            add_to_totals(counts, totals.counts)
        return Part(merge(moments), nans, infs, zeros, minimum + 0.0, maximum + 0.0, filters)

    def second(self, low: int, high: int, wanted: Wanted, lows: Tally) -> Patterns:
        """Look into the wanted cells."""
        cells = _Cells(self._BLOCK)
        flags = wanted.classes != 0
        buffer = np.empty(self._BLOCK, np.bool_)
        collected = []
        for start in range(low, high, self._BLOCK):
            patterns = self._x[start : min(start + self._BLOCK, high)].view(np.uint32)
            held = cells.of(patterns)
            some = np.take(flags, held, out=buffer[: patterns.size], mode="clip")
            places = np.flatnonzero(some)
            patterns, kind = patterns[places], wanted.classes[held[places]]
            collected.append(patterns[kind == 1])
            if wanted.tables:
                counted = kind > 1
                slots = (kind[counted].astype(np.int64) - 2) << 16
                slots |= (patterns[counted] - (patterns[counted] >> np.uint32(31))) & 0xFFFF
                found = np.bincount(slots, minlength=lows.counts.size)
                with lows.lock:
                    lows.counts.ravel()[...] += found
        return np.concatenate(collected)


def _sums(
    block: NDArray[np.float32],
    start: int,
    layout: FilterLayout,
    filters: FilterSums,
    buffers: Floats,
) -> list[Moments]:
    """Moments of a block piece by piece, adding each to the sums of its filters."""
    moments = []
    for at in range(0, block.size, buffers.shape[1]):
        piece = block[at : at + buffers.shape[1]]
        wide, squares = buffers[:, : piece.size]
        wide[...] = piece
        np.multiply(wide, wide, out=squares)
        s1, s2 = add_filter_sums(wide, squares, start + at, layout, filters)
        s3 = float(np.einsum("i,i->", wide, squares))
        s4 = float(np.einsum("i,i->", squares, squares))
        absolute = float(np.abs(wide, out=squares).sum())
        powers = moments_from_powers(piece.size, s1, s2, s3, s4, absolute)
        moments.append(powers or moments_in_place(wide, squares))
    return moments


class _Cells:
    """The cells of a block's patterns, in buffers that are used again."""

    def __init__(self, size: int) -> None:
        self._shifted = np.empty(size, np.uint32)
        self._cells = np.empty(size, np.intp)

    def of(self, patterns: Patterns) -> NDArray[np.intp]:
        """Cells of the patterns, valid until the next call."""
        shifted, cells = self._shifted[: patterns.size], self._cells[: patterns.size]
        np.right_shift(patterns, 31, out=shifted)
        np.subtract(patterns, shifted, out=shifted)
        np.right_shift(shifted, 16, out=cells, casting="unsafe")
        return cells
