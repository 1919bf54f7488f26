"""The fused passes over float32 numbers, compiled by numba.

A float32 is read twice: as a number, and as its bit pattern ``u``. The *cell* of a number is
``(u - (u >> 31)) >> 16``, the high half of its pattern. The subtraction moves every negative number
by one pattern, so that a cell is closed on the left and open on the right on both sides of 0.
Counting cells costs little and answers most questions about order; a second pass looks only into
the cells that hold the rest of the answers.

Loops over one block are functions of their own: the compiler vectorizes each, and the block stays
in the first-level cache. A block's sums are made without looking; only where a sum comes out
infinite or NaN is the block cleaned and summed again.
"""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np
from llvmlite import ir  # type: ignore[import-untyped,unused-ignore]
from numba.core import cgutils, types
from numba.extending import intrinsic

BLOCK = 2048
CELLS = 65536
NO_FILTERS, ROWS, COLUMNS = 0, 1, 2
_STRETCH = 64  # so many cells are skipped together where they are empty
_NEGATIVE_ZERO = 0x7FFF  # its cell, in which nothing else lies

# everything that lets sums be reordered; not nnan and ninf, because the check needs them to show
_REORDER = {"reassoc", "contract", "nsz", "arcp"}
_intrinsic: Any = intrinsic


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


@_intrinsic
def _fetch(context, array, index):  # type: ignore[no-untyped-def]
    """Have the memory around ``array[index]`` fetched into the cache; nothing waits for it."""

    def emit(target, builder, signature, arguments):  # type: ignore[no-untyped-def]
        data = target.make_array(signature.args[0])(target, builder, arguments[0]).data
        byte, word = ir.IntType(8).as_pointer(), ir.IntType(32)
        address = builder.bitcast(builder.gep(data, [arguments[1]]), byte)
        kind = ir.FunctionType(ir.VoidType(), [byte, word, word, word])
        declare: Any = cgutils.get_or_insert_function
        prefetch = declare(builder.module, kind, "llvm.prefetch.p0")
        builder.call(prefetch, [address, word(0), word(3), word(1)])
        return target.get_dummy_value()

    return types.void(array, types.intp), emit


@_reordered
def _power_sums(x):  # type: ignore[no-untyped-def]
    s1 = 0.0
    s2 = 0.0
    s3 = 0.0
    s4 = 0.0
    sa = 0.0
    for i in range(x.size):
        v = np.float64(x[i])
        q = v * v
        s1 += v
        s2 += q
        s3 += q * v
        s4 += q * q
        sa += abs(v)
    return s1, s2, s3, s4, sa


@_reordered
def _shifted_power_sums(x, shift):  # type: ignore[no-untyped-def]
    s1 = 0.0
    s2 = 0.0
    s3 = 0.0
    s4 = 0.0
    for i in range(x.size):
        v = np.float64(x[i]) - shift
        q = v * v
        s1 += v
        s2 += q
        s3 += q * v
        s4 += q * q
    return s1, s2, s3, s4


@_reordered
def _add_columns(x, sums, squares):  # type: ignore[no-untyped-def]
    for i in range(x.size):
        v = np.float64(x[i])
        sums[i] += v
        squares[i] += v * v


@_compiled
def _peaks(u):  # type: ignore[no-untyped-def]
    """Largest pattern as a signed and as an unsigned number: the extremes, if signs are mixed."""
    signed = u.view(np.int32)
    high = np.int32(-0x7FFFFFFF)
    low = np.uint32(0)
    for i in range(u.size):
        high = max(high, signed[i])
        low = max(low, u[i])
    return low, high


@_compiled
def _extremes(s):  # type: ignore[no-untyped-def]
    """Smallest and largest pattern in the order of the numbers."""
    low = np.int32(0x7FFFFFFF)
    high = np.int32(-0x7FFFFFFF)
    for i in range(s.size):
        ordered = s[i] ^ ((s[i] >> np.int32(31)) & np.int32(0x7FFFFFFF))
        low = min(low, ordered)
        high = max(high, ordered)
    return low, high


@_compiled
def _count_zeros(x):  # type: ignore[no-untyped-def]
    zeros = 0
    for i in range(x.size):
        zeros += x[i] == 0.0
    return zeros


@_compiled
def _find_cells(u, cells):  # type: ignore[no-untyped-def]
    for i in range(u.size):
        cells[i] = np.uint16((u[i] - (u[i] >> np.uint32(31))) >> np.uint32(16))


@_compiled
def _count_cells(cells, t0, t1, u, following):  # type: ignore[no-untyped-def]
    # two tables, because one increment must not wait for the one before it; more would crowd
    # the cache
    one = np.uint32(1)
    even = cells.size // 16 * 16
    for i in range(0, even, 16):
        _fetch(u, following + i)
        for j in range(i, i + 16, 2):
            t0[cells[j]] += one
            t1[cells[j + 1]] += one
    for i in range(even, cells.size):
        t0[cells[i]] += one


@_compiled
def _in_zero_cells(t0, t1):  # type: ignore[no-untyped-def]
    return t0[0] + t1[0] + t0[_NEGATIVE_ZERO] + t1[_NEGATIVE_ZERO]


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
def _end_of_block(start, length):  # type: ignore[no-untyped-def]
    """Where a block ends that holds whole filters, or an even part of one."""
    row = start // length
    left = (row + 1) * length - start
    if left <= BLOCK:
        return (row + BLOCK // length if length <= BLOCK else row + 1) * length
    parts = (left + BLOCK - 1) // BLOCK
    return start + (left // parts + 31) // 32 * 32


@_compiled
def first_pass(x, u, low, high, layout, length, first, sums, squares, tables, numbers, limits):  # type: ignore[no-untyped-def]
    """Moments, counts, extremes, filter sums and cells of ``x[low:high]``.

    Args:
        x: The numbers, float32.
        u: The same memory as uint32.
        low: First element.
        high: The one after the last.
        layout: NO_FILTERS; ROWS: a filter is ``length`` consecutive elements, the first one of
            ``sums`` is filter ``first``; COLUMNS: rows of ``length`` are added elementwise.
        length: See ``layout``.
        first: See ``layout``.
        sums: Receives the sums of the filters or columns; ``squares`` those of the squares.
        squares: See ``sums``.
        tables: Two tables of CELLS uint32, counted up for finite numbers.
        numbers: Receives count, mean, m2, m3, m4 (central sums), sum of |x|, NaN, Inf, zeros.
        limits: Receives the smallest and the largest number; stays as it is without any.
    """
    kept = np.empty(BLOCK, np.float32)
    cells = np.empty(BLOCK, np.uint16)
    count = 0.0
    mean = 0.0
    m2 = 0.0
    m3 = 0.0
    m4 = 0.0
    absolute = 0.0
    nans = 0
    lost = 0
    zeros = 0
    smallest = np.int32(0x7FFFFFFF)
    largest = np.int32(-0x7FFFFFFF)
    start = low
    while start < high:
        stop = min(_end_of_block(start, length) if layout == ROWS else start + BLOCK, high)
        xb = x[start:stop]
        ub = u[start:stop]
        n = stop - start
        first_element = start
        start = stop
        if layout == ROWS:
            s1 = 0.0
            s2 = 0.0
            s3 = 0.0
            s4 = 0.0
            sa = 0.0
            at = first_element
            while at < stop:
                row = at // length
                end = min(stop, (row + 1) * length)
                r1, r2, r3, r4, ra = _power_sums(x[at:end])
                sums[row - first] += r1
                squares[row - first] += r2
                s1 += r1
                s2 += r2
                s3 += r3
                s4 += r4
                sa += ra
                at = end
        else:
            s1, s2, s3, s4, sa = _power_sums(xb)
            if layout == COLUMNS:
                at = first_element
                while at < stop:
                    column = at % length
                    end = min(stop, at - column + length)
                    width = end - at
                    _add_columns(
                        x[at:end], sums[column : column + width], squares[column : column + width]
                    )
                    at = end
        if not math.isfinite(s4):
            lost += n
            n, bad = _keep_finite(xb, kept)
            nans += bad
            lost -= n
            if n == 0:
                continue
            xb = kept[:n]
            ub = kept.view(np.uint32)[:n]
            s1, s2, s3, s4, sa = _power_sums(xb)
        center = s1 / n
        b2 = s2 - n * center * center
        if b2 * 16.0 < n * center * center:
            # far from 0 in units of their spread: raw powers would cancel
            base = center
            s1, s2, s3, s4 = _shifted_power_sums(xb, base)
            offset = s1 / n
            center = base + offset
        else:
            offset = center
        b2 = max(s2 - n * offset * offset, 0.0)
        b3 = s3 - 3.0 * offset * s2 + 2.0 * n * offset * offset * offset
        b4 = (
            s4
            - 4.0 * offset * s3
            + 6.0 * offset * offset * s2
            - 3.0 * n * offset * offset * offset * offset
        )
        total = count + n
        delta = center - mean
        step = delta / total
        cross = delta * step * count * n
        m4 += (
            b4
            + cross * step * step * (count * count - count * n + n * n)
            + 6.0 * step * step * (count * count * b2 + n * n * m2)
            + 4.0 * step * (count * b3 - n * m3)
        )
        m3 += b3 + cross * step * (count - n) + 3.0 * step * (count * b2 - n * m2)
        m2 += b2 + cross
        mean += step * n
        count = total
        absolute += sa
        negative, positive = _peaks(ub)
        if negative > np.uint32(0x80000000) and positive >= 0:
            smallest = min(smallest, np.int32(negative) ^ np.int32(0x7FFFFFFF))
            largest = max(largest, positive)
        else:
            low_end, high_end = _extremes(ub.view(np.int32))
            smallest = min(smallest, low_end)
            largest = max(largest, high_end)
        _find_cells(ub, cells[:n])
        before = _in_zero_cells(tables[0], tables[1])
        _count_cells(cells[:n], tables[0], tables[1], u, stop)
        if _in_zero_cells(tables[0], tables[1]) != before:
            zeros += _count_zeros(xb)
    if smallest <= largest:
        ends = np.empty(2, np.int32)
        ends[0] = smallest
        ends[1] = largest
        ends ^= (ends >> np.int32(31)) & np.int32(0x7FFFFFFF)
        limits[:] = ends.view(np.float32)
    numbers[0] = count
    numbers[1] = mean
    numbers[2] = m2
    numbers[3] = m3
    numbers[4] = m4
    numbers[5] = absolute
    numbers[6] = nans
    numbers[7] = lost - nans
    numbers[8] = zeros


@_compiled
def drain(tables, largest, totals):  # type: ignore[no-untyped-def]
    """Add the two tables to ``totals``, in ascending order of value, and empty them.

    Args:
        tables: Two tables of CELLS uint32.
        largest: The largest cell of a positive number, or of a negative one's absolute value.
        totals: Receives the counts.
    """
    zero = np.uint32(0)
    for sign in range(2):
        for start in range(sign * 0x8000, sign * 0x8000 + largest + 1, _STRETCH):
            stop = start + _STRETCH
            if not _any(tables[0, start:stop]) and not _any(tables[1, start:stop]):
                continue
            for cell in range(start, stop):
                n = np.int64(tables[0, cell]) + tables[1, cell]
                tables[0, cell] = zero
                tables[1, cell] = zero
                totals[0xFFFF - cell if sign else 0x8000 + cell] += n
    # negative zero, one pattern below the first negative number
    totals[0x8000] += np.int64(tables[0, _NEGATIVE_ZERO]) + tables[1, _NEGATIVE_ZERO]
    tables[0, _NEGATIVE_ZERO] = zero
    tables[1, _NEGATIVE_ZERO] = zero


@_compiled
def _any(counts):  # type: ignore[no-untyped-def]
    found = np.uint32(0)
    for i in range(counts.size):
        found |= counts[i]
    return found != 0


@_compiled
def _find_groups(cells, classes, groups, u, following):  # type: ignore[no-untyped-def]
    some = np.int64(0)
    for i in range(0, BLOCK, 8):
        if i % 16 == 0:
            _fetch(u, following + i)
        groups[some] = i
        some += np.int64(
            (
                classes[cells[i]]
                | classes[cells[i + 1]]
                | classes[cells[i + 2]]
                | classes[cells[i + 3]]
                | classes[cells[i + 4]]
                | classes[cells[i + 5]]
                | classes[cells[i + 6]]
                | classes[cells[i + 7]]
            )
            != 0
        )
    return some


@_compiled
def _collect(u, cells, classes, groups, collected, n):  # type: ignore[no-untyped-def]
    for k in range(groups.size):
        first = np.int64(groups[k])
        for j in range(8):
            # without a branch: it moves on only behind a pattern that is wanted
            collected[n] = u[first + j]
            n += np.int64(classes[cells[first + j]] == 1)
    return n


@_compiled
def _count_low_halves(u, cells, classes, groups, tables):  # type: ignore[no-untyped-def]
    for k in range(groups.size):
        for i in range(groups[k], groups[k] + 8):
            kind = classes[cells[i]]
            if kind > 1:
                low = (u[i] - (u[i] >> np.uint32(31))) & np.uint32(0xFFFF)
                tables[kind - 2, low] += np.uint32(1)


@_compiled
def second_pass(u, low, high, classes, tables, collected):  # type: ignore[no-untyped-def]
    """Look into the wanted cells of ``u[low:high]``.

    Args:
        u: Bit patterns.
        low: First element.
        high: The one after the last.
        classes: For each cell 0 (not wanted), 1 (collect its patterns) or 2 + t (count the low
            halves of its patterns in table t), uint8.
        tables: Tables of CELLS uint32.
        collected: Receives the patterns; one longer than what it can receive.

    Returns:
        Number of patterns collected.
    """
    cells = np.empty(BLOCK, np.uint16)
    groups = np.empty(BLOCK // 8, np.int32)
    padded = np.zeros(BLOCK, np.uint32)
    n = np.int64(0)
    for start in range(low, high, BLOCK):
        ub = u[start : min(start + BLOCK, high)]
        _find_cells(ub, cells[: ub.size])
        if ub.size < BLOCK:
            padded[: ub.size] = ub
            cells[ub.size :] = _NEGATIVE_ZERO  # which is never wanted
            ub = padded
        # first, without a branch, which groups of eight hold anything that is wanted
        some = _find_groups(cells, classes, groups, u, start + BLOCK)
        n = _collect(ub, cells, classes, groups[:some], collected, n)
        if tables.shape[1] == CELLS:
            _count_low_halves(ub, cells, classes, groups[:some], tables)
    return n
