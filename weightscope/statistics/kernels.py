"""The fused passes over float32 numbers, compiled by numba.

A float32 is read twice: as a number, and as its bit pattern ``u``. The *cell* of a number is
``(u - (u >> 31)) >> 16``, the high half of its pattern. The subtraction moves every negative number
by one pattern, so that a cell is closed on the left and open on the right on both sides of 0.
Counting cells costs little and answers most questions about order; a second pass looks only into
the cells that hold the rest of the answers.

The first pass reads each number once: it sums, finds the extremes and counts in one loop, because
sums keep the vector units busy and counts the memory ports, and the two together take hardly longer
than the counts alone. A block is measured without looking; only where its extremes turn out to be
infinite or NaN is it taken back, cleaned and measured again. The second pass makes bits of
comparisons and goes from one to the next.
"""

from __future__ import annotations

import math
from functools import partial, reduce
from typing import Any

import numba
import numpy as np
from llvmlite import ir  # type: ignore[import-untyped,unused-ignore]
from numba.core import cgutils, types
from numba.extending import intrinsic

BLOCK = 4096
CELLS = 65536
NO_FILTERS, ROWS, COLUMNS = 0, 1, 2
_STRETCH = 64  # so many cells are skipped together where they are empty
_NEGATIVE_ZERO = 0x7FFF  # its cell, in which nothing else lies
_INFINITY = 0x7F800000
_GROUP = 16  # elements that fill one line of the cache
_AHEAD = 2048  # so many elements before its use is a line fetched
_LANES = 4  # numbers that the loop of the first pass takes at once
_COMPARED = 12  # wanted cells that one sweep over a block looks for
_UNASKED = 4  # so many patterns are collected of 64 before asking whether there are as many
SPARE = _UNASKED

_REORDER = {"reassoc", "contract", "nsz", "arcp"}
_intrinsic: Any = intrinsic
_tools: Any = cgutils
_types: Any = types


def _can_keep_code() -> bool:
    """Whether numba finds a folder to keep compiled code in; without one it refuses to decorate."""
    try:
        numba.njit(cache=True)(_can_keep_code)
    except RuntimeError:
        return False
    return True


_KEEP = _can_keep_code()
compiled: Any = numba.njit(nogil=True, cache=_KEEP)
_reordered: Any = numba.njit(nogil=True, cache=_KEEP, fastmath=_REORDER)


def _emit_fetch(builder: Any, address: Any) -> None:
    byte, word = ir.IntType(8).as_pointer(), ir.IntType(32)
    kind = ir.FunctionType(ir.VoidType(), [byte, word, word, word])
    prefetch = _tools.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    builder.call(prefetch, [builder.bitcast(address, byte), word(0), word(3), word(1)])


@_intrinsic
def _measure_groups(context, x, tables, low, high):  # type: ignore[no-untyped-def]
    """Sums and peaks of ``x[low:high]``, whose cells are counted up in the two tables.

    Written in the compiler's own terms, because it cannot by itself mix loops over vectors (the
    sums) and over single numbers (the counts). ``high - low`` is a multiple of ``_GROUP``.

    Returns:
        Sums of x, x^2, x^3, x^4 and |x|, and the largest pattern as an unsigned and as a signed
        number.
    """
    returned = _types.Tuple((*(_types.float64,) * 5, _types.uint32, _types.int32))

    def emit(target, builder, signature, arguments):  # type: ignore[no-untyped-def]
        data, counts = (
            target.make_array(kind)(target, builder, array).data
            for kind, array in zip(signature.args[:2], arguments[:2], strict=True)
        )
        index, word, half = ir.IntType(64), ir.IntType(32), ir.IntType(16)
        doubles = ir.VectorType(ir.DoubleType(), _LANES)
        floats, words, halves = (
            ir.VectorType(kind, _LANES) for kind in (ir.FloatType(), word, half)
        )
        declare = partial(_tools.get_or_insert_function, builder.module)
        size = declare(ir.FunctionType(doubles, [doubles]), f"llvm.fabs.v{_LANES}f64")
        unsigned, signed = (
            declare(ir.FunctionType(words, [words, words]), f"llvm.{name}.v{_LANES}i32")
            for name in ("umax", "smax")
        )
        # variables that the compiler turns into registers
        sums = [_tools.alloca_once_value(builder, doubles([0.0] * _LANES)) for _ in range(5)]
        low_peak = _tools.alloca_once_value(builder, words([0] * _LANES))
        high_peak = _tools.alloca_once_value(builder, words([-_INFINITY] * _LANES))
        # two tables, because one increment must not wait for the one before it
        first, second = counts, builder.gep(counts, [index(CELLS)])

        def measure(at: Any) -> None:
            place = builder.bitcast(builder.gep(data, [at]), words.as_pointer())
            u = builder.load(place, align=4)
            builder.store(builder.call(unsigned, [builder.load(low_peak), u]), low_peak)
            builder.store(builder.call(signed, [builder.load(high_peak), u]), high_peak)
            v = builder.fpext(builder.bitcast(u, floats), doubles)
            q = builder.fmul(v, v, flags=("contract",))
            cube, fourth = (builder.fmul(q, f, flags=("contract",)) for f in (v, q))
            for total, power in zip(
                sums, (v, q, cube, fourth, builder.call(size, [v])), strict=True
            ):
                added = builder.fadd(builder.load(total), power, flags=("contract",))
                builder.store(added, total)
            moved = builder.sub(u, builder.lshr(u, words([31] * _LANES)))
            cells = builder.trunc(builder.lshr(moved, words([16] * _LANES)), halves)
            packed = builder.bitcast(cells, index)
            for lane in range(_LANES):
                cell = builder.and_(builder.lshr(packed, index(16 * lane)), index(CELLS - 1))
                count = builder.gep(second if lane % 2 else first, [cell])
                builder.store(builder.add(builder.load(count), word(1)), count)

        with _tools.for_range_slice(builder, *arguments[2:], index(_GROUP), index) as (at, _):
            _emit_fetch(builder, builder.gep(data, [builder.add(at, index(_AHEAD))]))
            for offset in range(0, _GROUP, _LANES):
                measure(builder.add(at, index(offset)))

        def lanes(vector: Any) -> list[Any]:
            return [builder.extract_element(builder.load(vector), word(i)) for i in range(_LANES)]

        def larger(compare: Any) -> Any:
            return lambda a, b: builder.select(compare(">", a, b), a, b)

        results = [reduce(builder.fadd, lanes(total)) for total in sums]
        results.append(reduce(larger(builder.icmp_unsigned), lanes(low_peak)))
        results.append(reduce(larger(builder.icmp_signed), lanes(high_peak)))
        return target.make_tuple(builder, returned, results)

    return returned(x, tables, _types.intp, _types.intp), emit


@_intrinsic
def _mark(context, u, start, wanted, masks):  # type: ignore[no-untyped-def]
    """Set a bit of ``masks``, 64 numbers a mask, where ``u[start:]`` lies in one of the cells.

    Comparing with each of _COMPARED cells is quicker than looking into a table of all cells. This
    too is written in the compiler's own terms, which have a way to make bits of comparisons.
    """

    def emit(target, builder, signature, arguments):  # type: ignore[no-untyped-def]
        data, cells, bits = (
            target.make_array(signature.args[i])(target, builder, arguments[i]).data
            for i in (0, 2, 3)
        )
        number = builder.extract_value(
            target.make_array(signature.args[3])(target, builder, arguments[3]).shape, 0
        )
        index, word, half = ir.IntType(64), ir.IntType(32), ir.IntType(16)
        words, halves = ir.VectorType(word, _GROUP), ir.VectorType(half, _GROUP)
        nothing = ir.Constant(halves, ir.Undefined)
        everywhere = ir.Constant(ir.VectorType(word, _GROUP), [0] * _GROUP)
        compared = []
        for i in range(_COMPARED):
            cell = builder.load(builder.gep(cells, [index(i)]))
            one = builder.insert_element(nothing, cell, word(0))
            compared.append(builder.shuffle_vector(one, nothing, everywhere))
        with _tools.for_range(builder, number) as loop:
            base = builder.add(arguments[1], builder.mul(loop.index, index(64)))
            place = builder.gep(bits, [loop.index])
            mask = builder.load(place)
            for offset in range(0, 64, _GROUP):
                at = builder.gep(data, [builder.add(base, index(offset))])
                _emit_fetch(builder, builder.gep(at, [index(_AHEAD)]))
                u = builder.load(builder.bitcast(at, words.as_pointer()), align=4)
                moved = builder.sub(u, builder.lshr(u, words([31] * _GROUP)))
                found = builder.trunc(builder.lshr(moved, words([16] * _GROUP)), halves)
                equal = [builder.icmp_unsigned("==", found, cell) for cell in compared]
                some = builder.zext(builder.bitcast(reduce(builder.or_, equal), half), index)
                mask = builder.or_(mask, builder.shl(some, index(offset)))
            builder.store(mask, place)
        return target.get_dummy_value()

    return _types.void(u, _types.intp, wanted, masks), emit


@_intrinsic
def _lowest_bit(context, mask):  # type: ignore[no-untyped-def]
    """Place of the lowest bit of a uint64; 0 without any."""

    def emit(target, builder, signature, arguments):  # type: ignore[no-untyped-def]
        place = builder.cttz(arguments[0], ir.IntType(1)(0))
        return builder.and_(place, ir.IntType(64)(63))

    return _types.uint64(_types.uint64), emit


@_intrinsic
def _number_of_bits(context, mask):  # type: ignore[no-untyped-def]
    def emit(target, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return builder.ctpop(arguments[0])

    return _types.uint64(_types.uint64), emit


@compiled
def _cell(pattern):  # type: ignore[no-untyped-def]
    return np.uint16((pattern - (pattern >> np.uint32(31))) >> np.uint32(16))


@compiled
def _measure(x, low, high, tables):  # type: ignore[no-untyped-def]
    """``_measure_groups`` of any number of elements."""
    even = low + (high - low) // _GROUP * _GROUP
    s1, s2, s3, s4, sa, negative, positive = _measure_groups(x, tables, low, even)
    u = x.view(np.uint32)
    signed = x.view(np.int32)
    for i in range(even, high):
        v = np.float64(x[i])
        q = v * v
        s1 += v
        s2 += q
        s3 += q * v
        s4 += q * q
        sa += abs(v)
        negative = max(negative, u[i])
        positive = max(positive, signed[i])
        tables[0, _cell(u[i])] += np.uint32(1)
    return s1, s2, s3, s4, sa, negative, positive


@compiled
def _take_back(u, counts):  # type: ignore[no-untyped-def]
    # from one of the two tables alone: only their sum, modulo 2^32, is ever read
    for i in range(u.size):
        counts[_cell(u[i])] -= np.uint32(1)


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


@compiled
def _extremes(s):  # type: ignore[no-untyped-def]
    """Smallest and largest pattern in the order of the numbers."""
    low = np.int32(0x7FFFFFFF)
    high = np.int32(-0x7FFFFFFF)
    for i in range(s.size):
        ordered = s[i] ^ ((s[i] >> np.int32(31)) & np.int32(0x7FFFFFFF))
        low = min(low, ordered)
        high = max(high, ordered)
    return low, high


@compiled
def _count_zeros(x):  # type: ignore[no-untyped-def]
    zeros = 0
    for i in range(x.size):
        zeros += x[i] == 0.0
    return zeros


@compiled
def _in_zero_cells(tables):  # type: ignore[no-untyped-def]
    return np.uint32(
        tables[0, 0] + tables[1, 0] + tables[0, _NEGATIVE_ZERO] + tables[1, _NEGATIVE_ZERO]
    )


@compiled
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


@compiled
def _end_of_block(start, length):  # type: ignore[no-untyped-def]
    """Where a block ends that holds whole filters, or an even part of one."""
    row = start // length
    left = (row + 1) * length - start
    if left <= BLOCK:
        return (row + BLOCK // length if length <= BLOCK else row + 1) * length
    parts = (left + BLOCK - 1) // BLOCK
    return start + (left // parts + 31) // 32 * 32


@compiled
def first_pass(x, low, high, layout, length, first, sums, squares, tables, numbers):  # type: ignore[no-untyped-def]
    """Moments, counts, extremes, filter sums and cells of ``x[low:high]``.

    Args:
        x: The numbers, float32.
        low: First element.
        high: The one after the last.
        layout: NO_FILTERS; ROWS: a filter is ``length`` consecutive elements, the first one of
            ``sums`` is filter ``first``; COLUMNS: rows of ``length`` are added elementwise.
        length: See ``layout``.
        first: See ``layout``.
        sums: Receives the sums of the filters or columns; ``squares`` those of the squares.
        squares: See ``sums``.
        tables: Two tables of CELLS uint32, counted up for finite numbers; what counts is their sum
            modulo 2^32.
        numbers: Receives count, mean, m2, m3, m4 (central sums), sum of |x|, NaN, Inf, zeros, and
            the smallest and the largest number; infinity and its negative without any.
    """
    kept = np.empty(BLOCK, np.float32)
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
        n = stop - start
        zeros_before = _in_zero_cells(tables)
        if layout == ROWS:
            s1 = 0.0
            s2 = 0.0
            s3 = 0.0
            s4 = 0.0
            sa = 0.0
            negative = np.uint32(0)
            positive = np.int32(-_INFINITY)
            at = start
            while at < stop:
                row = at // length
                end = min(stop, (row + 1) * length)
                r1, r2, r3, r4, ra, row_negative, row_positive = _measure(x, at, end, tables)
                sums[row - first] += r1
                squares[row - first] += r2
                s1 += r1
                s2 += r2
                s3 += r3
                s4 += r4
                sa += ra
                negative = max(negative, row_negative)
                positive = max(positive, row_positive)
                at = end
        else:
            s1, s2, s3, s4, sa, negative, positive = _measure(x, start, stop, tables)
            if layout == COLUMNS:
                at = start
                while at < stop:
                    column = at % length
                    end = min(stop, at - column + length)
                    width = end - at
                    _add_columns(
                        x[at:end], sums[column : column + width], squares[column : column + width]
                    )
                    at = end
        start = stop
        if positive >= _INFINITY or negative >= np.uint32(_INFINITY + 0x80000000):
            _take_back(xb.view(np.uint32), tables[0])
            lost += n
            n, bad = _keep_finite(xb, kept)
            nans += bad
            lost -= n
            if n == 0:
                continue
            xb = kept[:n]
            s1, s2, s3, s4, sa, negative, positive = _measure(xb, 0, n, tables)
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
        if negative > np.uint32(0x80000000) and positive >= 0:
            smallest = min(smallest, np.int32(negative) ^ np.int32(0x7FFFFFFF))
            largest = max(largest, positive)
        else:  # of one sign: peaks show one end only
            low_end, high_end = _extremes(xb.view(np.int32))
            smallest = min(smallest, low_end)
            largest = max(largest, high_end)
        if _in_zero_cells(tables) != zeros_before:
            zeros += _count_zeros(xb)
    numbers[0] = count
    numbers[1] = mean
    numbers[2] = m2
    numbers[3] = m3
    numbers[4] = m4
    numbers[5] = absolute
    numbers[6] = nans
    numbers[7] = lost - nans
    numbers[8] = zeros
    numbers[9] = math.inf
    numbers[10] = -math.inf
    if smallest <= largest:
        ends = np.empty(2, np.int32)
        ends[0] = smallest
        ends[1] = largest
        ends ^= (ends >> np.int32(31)) & np.int32(0x7FFFFFFF)
        for i in range(2):
            numbers[9 + i] = np.float64(ends.view(np.float32)[i]) + 0.0  # no negative zero


@compiled
def _any_count(tables, start):  # type: ignore[no-untyped-def]
    """Whether any of a stretch of counts is not 0; the compiler makes it quick."""
    found = np.uint32(0)
    for i in range(np.uint64(start), np.uint64(start + _STRETCH)):
        found |= tables[0, i] | tables[1, i]
    return found != 0


@compiled
def _start_of(stretch):  # type: ignore[no-untyped-def]
    """The first cell, by pattern, of a stretch of positive or (below 0) of negative numbers."""
    return stretch * _STRETCH if stretch >= 0 else 0x8000 + (-1 - stretch) * _STRETCH


@compiled
def drain(tables, peak):  # type: ignore[no-untyped-def]
    """Empty the two tables.

    Args:
        tables: Two tables of CELLS uint32, by cell of the pattern.
        peak: The largest absolute value that they count; negative without any.

    Returns:
        The cells that hold something, by key, ascending, and how much.
    """
    peaks = np.full(1, abs(peak), np.float32)
    stretches = (peaks.view(np.int32)[0] >> 16) // _STRETCH + 1 if peak >= 0.0 else 0
    if stretches:  # both zeros are of one cell
        tables[0, 0] += tables[0, _NEGATIVE_ZERO] + tables[1, _NEGATIVE_ZERO]
        tables[:, _NEGATIVE_ZERO] = 0
    filled = np.empty(2 * stretches, np.int64)
    size = 0
    for stretch in range(-stretches, stretches):
        # from the largest negative number to the smallest, then up
        filled[size] = stretch
        size += _any_count(tables, _start_of(stretch))
    cells = np.empty(size * _STRETCH, np.int32)
    counts = np.empty(size * _STRETCH, np.int64)
    m = 0
    for stretch in filled[:size]:
        start = _start_of(stretch)
        for i in range(_STRETCH):
            cell = start + i if stretch >= 0 else start + _STRETCH - 1 - i
            n = np.uint32(tables[0, cell] + tables[1, cell])
            tables[0, cell] = 0
            tables[1, cell] = 0
            if n:
                cells[m] = cell if stretch >= 0 else 0x7FFF - cell
                counts[m] = n
                m += 1
    return cells[:m].copy(), counts[:m].copy()


@compiled
def _collect(u, start, masks, collected, n):  # type: ignore[no-untyped-def]
    one = np.uint64(1)
    for i in range(masks.size):
        mask = masks[i]
        base = np.uint64(start + 64 * i)
        found = _number_of_bits(mask)
        # few are usual: written without asking, which is quicker than asking how many there are
        for j in range(np.uint64(_UNASKED)):
            collected[n + j] = u[base + _lowest_bit(mask)]
            mask &= mask - one
        for j in range(np.uint64(_UNASKED), found):
            collected[n + j] = u[base + _lowest_bit(mask)]
            mask &= mask - one
        n += found
    return n


@compiled
def _count_low_halves(u, start, masks, tabled, tables):  # type: ignore[no-untyped-def]
    for i in range(masks.size):
        mask = masks[i]
        while mask:
            pattern = u[np.uint64(start + 64 * i) + _lowest_bit(mask)]
            mask &= mask - np.uint64(1)
            low = (pattern - (pattern >> np.uint32(31))) & np.uint32(0xFFFF)
            cell = _cell(pattern)
            for table in range(tables.shape[0]):
                tables[table, low] += np.uint32(tabled[table] == cell)


@compiled
def _by_pattern(cells):  # type: ignore[no-untyped-def]
    """The cells by pattern, the last one repeated until they are a multiple of _COMPARED."""
    full = np.empty((cells.size + _COMPARED - 1) // _COMPARED * _COMPARED, np.uint16)
    for i in range(full.size):
        cell = cells[min(i, cells.size - 1)]
        full[i] = cell if cell >= 0 else 0x7FFF - cell
    return full


@compiled
def _find(u, start, size, wanted, masks):  # type: ignore[no-untyped-def]
    masks[:] = np.uint64(0)
    for i in range(0, wanted.size, _COMPARED):
        _mark(u, start, wanted[i : i + _COMPARED], masks)
    if size < BLOCK:  # what fills up the block is not wanted
        masks[size // 64] &= (np.uint64(1) << np.uint64(size % 64)) - np.uint64(1)
        masks[size // 64 + 1 :] = np.uint64(0)


@compiled
def second_pass(u, low, high, listed, tabled, tables, collected):  # type: ignore[no-untyped-def]
    """Look into the wanted cells of ``u[low:high]``.

    Args:
        u: Bit patterns.
        low: First element.
        high: The one after the last.
        listed: Cells whose patterns to collect, by key.
        tabled: Cells of whose patterns to count the low halves, by key.
        tables: A table of CELLS uint32 for each of these cells.
        collected: Receives the patterns; longer by SPARE than what it can receive.

    Returns:
        Number of patterns collected.
    """
    listed_cells = _by_pattern(listed)
    tabled_cells = _by_pattern(tabled)
    masks = np.empty(BLOCK // 64, np.uint64)
    padded = np.zeros(BLOCK, np.uint32)
    n = np.uint64(0)
    for begin in range(low, high, BLOCK):
        size = min(BLOCK, high - begin)
        block, start = u, begin
        if size < BLOCK:
            padded[:size] = u[begin:high]
            block, start = padded, 0
        _find(block, start, size, listed_cells, masks)
        n = _collect(block, start, masks, collected, n)
        if tabled.size:
            _find(block, start, size, tabled_cells, masks)
            _count_low_halves(block, start, masks, tabled_cells, tables)
    return np.int64(n)
