"""The loops over float32 numbers, compiled by numba. Imported only where numba works.

Float32 numbers are ordered by an integer *key*: the bit pattern of a positive number, minus that of
its absolute value for a negative one, 0 for both zeros. The *cell* of a number is the high half of
its key: a bin of relative width 2^-7, closed on the left. To count cells costs one increment for
each number and answers most questions about order; a second pass looks only into the cells that
hold the rest of the answers.

All that is compiled is in this file, because numba notices changes of no other.
"""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np

CELLS = 1 << 16
ZERO_CELL = 1 << 15  # cells are numbered in the order of their numbers, that of 0 in the middle
ROWS, COLUMNS = 1, 2
_BLOCK = 4096  # its numbers and cells stay in the innermost cache
_MINUS_INFINITY = -0x7F800000  # its key
# a block is far from 0 where its mean is more than 4 standard deviations: raw powers would cancel
_FAR = 16.0

_REORDER = {"reassoc", "contract", "nsz", "arcp"}


def _can_keep_code() -> bool:
    """Whether numba finds a folder to keep compiled code in; without one it refuses to decorate."""
    try:
        numba.njit(cache=True)(_can_keep_code)
    except RuntimeError:
        return False
    return True


_KEEP = _can_keep_code()
_compiled: Any = numba.njit(nogil=True, cache=_KEEP)
_reordered: Any = numba.njit(nogil=True, cache=_KEEP, fastmath=_REORDER)


@_reordered
def _power_sums(x, base):  # type: ignore[no-untyped-def]
    s1 = 0.0
    s2 = 0.0
    s3 = 0.0
    s4 = 0.0
    absolute = 0.0
    for i in range(x.size):
        wide = np.float64(x[i])
        v = wide - base
        q = v * v
        s1 += v
        s2 += q
        s3 += q * v
        s4 += q * q
        absolute += abs(wide)
    return s1, s2, s3, s4, absolute


@_reordered
def _add_to_columns(x, sums, squares):  # type: ignore[no-untyped-def]
    for i in range(x.size):
        v = np.float64(x[i])
        sums[i] += v
        squares[i] += v * v


@_compiled
def _sum_rows(x, start, length, first, sums, squares):  # type: ignore[no-untyped-def]
    """Power sums of numbers whose filters are rows, and the sums of each filter."""
    s1 = 0.0
    s2 = 0.0
    s3 = 0.0
    s4 = 0.0
    absolute = 0.0
    at = 0
    while at < x.size:
        row = (start + at) // length
        end = min(x.size, (row + 1) * length - start)
        r1, r2, r3, r4, size = _power_sums(x[at:end], 0.0)
        sums[row - first] += r1
        squares[row - first] += r2
        s1 += r1
        s2 += r2
        s3 += r3
        s4 += r4
        absolute += size
        at = end
    return s1, s2, s3, s4, absolute


@_compiled
def _sum_columns(x, start, length, sums, squares):  # type: ignore[no-untyped-def]
    at = 0
    while at < x.size:
        column = (start + at) % length
        end = min(x.size, at + length - column)
        width = end - at
        _add_to_columns(x[at:end], sums[column : column + width], squares[column : column + width])
        at = end


@_compiled
def _keep_finite(x, kept):  # type: ignore[no-untyped-def]
    n = 0
    nans = 0
    for i in range(x.size):
        if math.isfinite(x[i]):
            kept[n] = x[i]
            n += 1
        elif math.isnan(x[i]):
            nans += 1
    return n, nans


@_compiled
def _key(pattern):  # type: ignore[no-untyped-def]
    sign = pattern >> np.int32(31)
    return np.int32(((pattern & np.int32(0x7FFFFFFF)) ^ sign) - sign)


@_compiled
def _cell(key):  # type: ignore[no-untyped-def]
    return np.uint16((np.uint32(key) >> np.uint32(16)) ^ np.uint32(ZERO_CELL))


@_compiled
def _find_cells(patterns, cells):  # type: ignore[no-untyped-def]
    """Cell of each number; the smallest and the largest key, and the number of zeros."""
    low = np.int32(0x7FFFFFFF)
    high = np.int32(-0x7FFFFFFF)
    zeros = np.int32(0)
    for i in range(patterns.size):
        key = _key(patterns[i])
        low = min(low, key)
        high = max(high, key)
        zeros += np.int32(key == 0)
        cells[i] = _cell(key)
    return low, high, zeros


@_compiled
def _count(cells, n, table):  # type: ignore[no-untyped-def]
    for i in range(n):
        table[cells[i]] += np.uint32(1)


@_compiled
def measure_range(x, low, kind, length, first, sums, squares, table, rows):  # type: ignore[no-untyped-def]
    """Moments, extremes, filter sums and cells of one range of a tensor.

    Args:
        x: The numbers, float32.
        low: Place of the first one in the tensor.
        kind: ROWS: a filter is ``length`` consecutive elements; COLUMNS: rows of ``length`` are
            added elementwise; else there are no filters.
        length: See ``kind``.
        first: The filter that the first of ``sums`` belongs to.
        sums: Receives the sums of the filters or columns.
        squares: Receives the sums of their squares.
        table: Counts of the cells, uint32, counted up; CELLS of them.
        rows: Receives the moments of each block, see ``moments.COLUMNS``, shape (blocks, 7).

    Returns:
        Number of blocks with finite numbers, of NaN, Inf and zeros, smallest and largest key.
    """
    cells = np.empty(_BLOCK, np.uint16)
    kept = np.empty(_BLOCK, np.float32)
    blocks = nans = lost = zeros = 0
    smallest = np.int32(0x7FFFFFFF)
    largest = np.int32(-0x7FFFFFFF)
    for at in range(0, x.size, _BLOCK):
        start = low + at
        block = x[at : at + _BLOCK]
        n = block.size
        if kind == ROWS:
            s1, s2, s3, s4, absolute = _sum_rows(block, start, length, first, sums, squares)
        else:
            s1, s2, s3, s4, absolute = _power_sums(block, 0.0)
            if kind == COLUMNS:
                _sum_columns(block, start, length, sums, squares)
        if not math.isfinite(absolute):
            n, bad = _keep_finite(block, kept)
            nans += bad
            lost += block.size - n - bad
            if n == 0:
                continue
            block = kept[:n]
            s1, s2, s3, s4, absolute = _power_sums(block, 0.0)
        base = 0.0
        offset = s1 / n
        m2 = s2 - n * offset * offset
        if m2 * _FAR < n * offset * offset:
            base = offset
            s1, s2, s3, s4, _ = _power_sums(block, base)
            offset = s1 / n
            m2 = max(s2 - n * offset * offset, 0.0)
        row = rows[blocks]
        row[0] = n
        row[1] = base
        row[2] = offset
        row[3] = m2
        row[4] = s3 - 3.0 * offset * s2 + 2.0 * n * offset**3
        row[5] = s4 - 4.0 * offset * s3 + 6.0 * offset**2 * s2 - 3.0 * n * offset**4
        row[6] = absolute
        blocks += 1
        low_key, high_key, zero = _find_cells(block.view(np.int32), cells)
        smallest = min(smallest, low_key)
        largest = max(largest, high_key)
        zeros += zero
        _count(cells, n, table)
    return blocks, nans, lost, zeros, smallest, largest


@_compiled
def _collect(patterns, cells, wanted, found):  # type: ignore[no-untyped-def]
    """The patterns in wanted cells, four at a time: hardly any four have one among them."""
    mask = np.uint64(0xFFFF)
    fours = cells.view(np.uint64)
    whole = patterns.size // 4
    n = np.uint64(0)
    for i in range(whole):
        four = fours[i]
        a = wanted[four & mask]
        b = wanted[(four >> np.uint64(16)) & mask]
        c = wanted[(four >> np.uint64(32)) & mask]
        d = wanted[four >> np.uint64(48)]
        if a | b | c | d:
            at = 4 * i
            found[n] = patterns[at]
            n += np.uint64(a)
            found[n] = patterns[at + 1]
            n += np.uint64(b)
            found[n] = patterns[at + 2]
            n += np.uint64(c)
            found[n] = patterns[at + 3]
            n += np.uint64(d)
    for i in range(4 * whole, patterns.size):
        found[n] = patterns[i]
        n += np.uint64(wanted[cells[i]])
    return np.int64(n)


@_compiled
def look_into(patterns, listed, ends, crowded, lows, tables):  # type: ignore[no-untyped-def]
    """Look into some cells.

    Args:
        patterns: Bit patterns of float32 numbers, int32.
        listed: Cells of whose keys to collect the low halves.
        ends: 0, then the number of values through each of these cells.
        crowded: Cells of whose keys to count the low halves.
        lows: Receives the low halves of each listed cell from its end before on, uint16.
        tables: Receives the counts, a row of CELLS for each of the crowded cells.

    Returns:
        Where the low halves of each listed cell end.
    """
    wanted = np.zeros(CELLS, np.uint8)
    slots = np.empty(CELLS, np.int16)
    for slot in range(listed.size):
        wanted[listed[slot]] = 1
        slots[listed[slot]] = slot
    for table in range(crowded.size):
        wanted[crowded[table]] = 1
        slots[crowded[table]] = -1 - table
    filled = ends[: listed.size].copy()
    cells = np.empty(_BLOCK, np.uint16)
    found = np.empty(_BLOCK + 1, np.int32)
    for start in range(0, patterns.size, _BLOCK):
        block = patterns[start : start + _BLOCK]
        for i in range(block.size):
            cells[i] = _cell(_key(block[i]))
        for i in range(_collect(block, cells, wanted, found)):
            key = _key(found[i])
            if key == _MINUS_INFINITY:  # it shares the cell of the lowest finite numbers
                continue
            slot = slots[_cell(key)]
            low = np.uint16(key & np.int32(0xFFFF))
            if slot < 0:
                tables[-1 - slot, low] += np.uint32(1)
            else:
                lows[filled[slot]] = low
                filled[slot] += 1
    return filled


@_compiled
def count_patterns(patterns, table):  # type: ignore[no-untyped-def]
    """Count patterns of 8 or 16 bits up."""
    for i in range(patterns.size):
        table[patterns[i]] += 1
