"""Compiled answers to questions about order, for tensors of which whole operators cost most.

The loops say what ``ordering`` says in numpy; tests hold the two to the same bits.
"""

from __future__ import annotations

import numpy as np

from weightscope.statistics.kernels import STRETCH, any_count, compiled
from weightscope.statistics.ordering import BEYOND

_LOW = 0xFFFF
_DIGIT = 10  # bits of a key that the first round of sorting looks at


@compiled
def _first_not_below(ascending, value):  # type: ignore[no-untyped-def]
    low, high = 0, ascending.size
    while low < high:
        middle = (low + high) // 2
        if ascending[middle] < value:
            low = middle + 1
        else:
            high = middle
    return low


@compiled
def _first_above(ascending, value):  # type: ignore[no-untyped-def]
    low, high = 0, ascending.size
    while low < high:
        middle = (low + high) // 2
        if ascending[middle] <= value:
            low = middle + 1
        else:
            high = middle
    return low


@compiled
def _count_sorted(values, edges, closed):  # type: ignore[no-untyped-def]
    """Number of the ascending values < each edge, or <= where ``closed``."""
    counts = np.empty(edges.size, np.int64)
    for i in range(edges.size):
        edge = edges[i]
        counts[i] = _first_above(values, edge) if closed[i] else _first_not_below(values, edge)
    return counts


@compiled
def _describe_sorted(values, shares):  # type: ignore[no-untyped-def]
    """Distinct points among ascending values, the share below and the share through each."""
    n = values.size
    size = min(n, shares.size)
    points = np.empty(size)
    below = np.empty(size)
    through = np.empty(size)
    m = 0
    end = np.int64(0)
    for i in range(size):
        place = np.int64(i if n <= shares.size else shares[i] * (n - 1))
        if place < end:
            continue  # as large as the point before
        point = values[place]
        # equal values lie close by, if there are any
        start = place
        while start > end and values[start - 1] == point:
            start -= 1
        end = place + 1
        while end < n and values[end] == point:
            end += 1
        points[m] = point
        below[m] = start / n
        through[m] = end / n
        m += 1
    return points[:m], below[:m], through[:m]


@compiled
def answer_sorted(values, ranks, edges, closed, shares):  # type: ignore[no-untyped-def]
    """Answers from ascending values.

    Args:
        values: Ascending, float64.
        ranks: Which of the values to give, counted from 0.
        edges: Where to count the values below.
        closed: Whether each edge counts values equal to it.
        shares: Where to describe the distribution, in [0, 1], ascending; fewer values are all
            points.

    Returns:
        The values asked for, the counts, and of the distribution the points, the share below and
        the share through each.
    """
    found = np.empty(ranks.size)
    for i in range(ranks.size):
        found[i] = values[ranks[i]]
    points, below, through = _describe_sorted(values, shares)
    return found, _count_sorted(values, edges, closed), points, below, through


@compiled
def drain_table(totals, low, high):  # type: ignore[no-untyped-def]
    """The filled cells low..high of a table of all cells, ascending, and their counts; empties it.

    Args:
        totals: The table, cell -32768 first.
        low: The first cell to read.
        high: The last one.
    """
    size = max(high - low + 1, 0)
    cells = np.empty(size, np.int32)
    counts = np.empty(size, np.int64)
    m = 0
    for start in range(low, high + 1, STRETCH):
        stop = min(start + STRETCH, high + 1)
        if any_count(totals[start + 0x8000 : stop + 0x8000]):
            for cell in range(start, stop):
                cells[m] = cell
                counts[m] = totals[cell + 0x8000]
                totals[cell + 0x8000] = 0
                m += counts[m] != 0
    return cells[:m].copy(), counts[:m].copy()


@compiled
def _values_of(keys):  # type: ignore[no-untyped-def]
    patterns = np.empty(keys.size, np.int32)
    for i in range(keys.size):
        patterns[i] = keys[i] if keys[i] >= 0 else -keys[i] | -0x80000000
    return patterns.view(np.float32).astype(np.float64)


@compiled
def _border_keys(edges, closed):  # type: ignore[no-untyped-def]
    near = np.empty(edges.size, np.float32)
    for i in range(edges.size):
        near[i] = edges[i]
    keys = near.view(np.int32).copy()
    for i in range(edges.size):
        if keys[i] < 0:
            keys[i] = -(keys[i] & np.int32(0x7FFFFFFF))
        wide = np.float64(near[i])
        if wide < edges[i] or (closed[i] and wide == edges[i]):
            keys[i] += 1
    return keys


@compiled
def _is_known(keys, cell):  # type: ignore[no-untyped-def]
    start = _first_not_below(keys, cell << 16)
    return start < keys.size and keys[start] >> 16 == cell


@compiled
def _through(key_ends, place):  # type: ignore[no-untyped-def]
    return key_ends[place] if key_ends.size else place


@compiled
def find_unanswered(cells, ends, keys, only_zeros, ranks, edges, closed):  # type: ignore[no-untyped-def]
    """Places of the filled cells that must be looked into before the questions have answers."""
    wanted = np.zeros(cells.size, np.bool_)
    for rank in ranks:
        wanted[_first_above(ends, rank) - 1] = True
    for key in _border_keys(edges, closed):
        if key & _LOW:
            place = _first_not_below(cells, key >> 16)
            if place < cells.size and cells[place] == key >> 16:
                wanted[place] = True
    places = np.flatnonzero(wanted)
    for i in range(places.size):
        cell = cells[places[i]]
        wanted[places[i]] = not (_is_known(keys, cell) or (only_zeros and cell == 0))
    return np.flatnonzero(wanted)


@compiled
def _count_before(cells, ends, keys, key_ends, only_zeros, edges, closed):  # type: ignore[no-untyped-def]
    counts = np.empty(edges.size, np.int64)
    borders = _border_keys(edges, closed)
    for i in range(edges.size):
        key = np.int64(borders[i])
        cell = key >> 16
        place = _first_not_below(cells, cell)
        counts[i] = ends[place]
        if key & _LOW and place < cells.size and cells[place] == cell:
            held = ends[place + 1] - ends[place]
            if only_zeros and cell == 0:
                counts[i] += held
            elif _is_known(keys, cell):
                first = _first_not_below(keys, cell << 16)
                last = _first_not_below(keys, key)
                counts[i] += _through(key_ends, last) - _through(key_ends, first)
            else:
                counts[i] += held * (key & _LOW) >> 16
    return counts


@compiled
def _find_ranks(cells, ends, keys, key_ends, only_zeros, ranks):  # type: ignore[no-untyped-def]
    found = np.empty(ranks.size, np.int32)
    for i in range(ranks.size):
        place = _first_above(ends, ranks[i]) - 1
        cell = np.int64(cells[place])
        offset = ranks[i] - ends[place]
        if only_zeros and cell == 0:
            found[i] = 0
        elif _is_known(keys, cell):
            first = _first_not_below(keys, cell << 16)
            within = _through(key_ends, first) + offset
            if key_ends.size:
                within = _first_above(key_ends, within) - 1
            found[i] = keys[within]
        else:
            held = ends[place + 1] - ends[place]
            found[i] = (cell << 16) + (2 * offset + 1) * 0x8000 // held
    return _values_of(found)


@compiled
def _describe_cells(cells, ends, shares):  # type: ignore[no-untyped-def]
    """Borders of cells at which the distribution passes these shares, and its value there."""
    if not cells.size:
        return np.empty(0), np.empty(0)
    n = ends[-1]
    borders = np.empty(shares.size + 1, np.int32)
    reached = np.empty(shares.size + 1)
    borders[0] = cells[0] << 16
    reached[0] = 0.0
    m = 1
    place = -1
    for share in shares:
        before = place
        place = max(place, 0)
        while ends[place + 1] < np.int64(share * n):
            place += 1
        if place > before:
            borders[m] = (cells[place] + 1) << 16
            reached[m] = ends[place + 1] / n
            m += 1
    points = _values_of(borders[:m])
    for i in range(m):
        points[i] = min(max(points[i], -BEYOND), BEYOND)
    return points, reached[:m].copy()


@compiled
def answer_cells(cells, ends, keys, key_ends, only_zeros, ranks, edges, closed, shares):  # type: ignore[no-untyped-def]
    """Answers from counted cells.

    Args:
        cells: The filled cells, ascending.
        ends: 0, then the number of values through each.
        keys: The keys inside the cells that were looked into, ascending.
        key_ends: 0, then the number of values through each key; empty for 0, 1, 2 and so on.
        only_zeros: Whether cell 0 holds nothing else.
        ranks: Of which ranks to give the values, counted from 0.
        edges: Where to count the values below.
        closed: Whether each edge counts values equal to it.
        shares: Where to describe the distribution, in [0, 1], ascending.

    Returns:
        The values asked for, the counts, and of the distribution the points and the share below
        each.
    """
    values = _find_ranks(cells, ends, keys, key_ends, only_zeros, ranks)
    counts = _count_before(cells, ends, keys, key_ends, only_zeros, edges, closed)
    points, reached = _describe_cells(cells, ends, shares)
    return values, counts, points, reached


@compiled
def _low_digit(key):  # type: ignore[no-untyped-def]
    return np.uint32(key & ((1 << _DIGIT) - 1))


@compiled
def _high_digit(key, places):  # type: ignore[no-untyped-def]
    upper = 16 - _DIGIT
    place = np.uint32(places[np.uint32(key >> 16) & np.uint32(_LOW)])
    return np.uint32((place << np.uint32(upper)) | (np.uint32(key & _LOW) >> np.uint32(_DIGIT)))


@compiled
def sort_patterns(patterns, cells):  # type: ignore[no-untyped-def]
    """Keys of patterns, ascending, by two rounds of distribution.

    Args:
        patterns: Bit patterns.
        cells: The cells that they lie in, ascending.
    """
    places = np.empty(_LOW + 1, np.uint16)
    for i in range(cells.size):
        places[cells[i] & _LOW] = i
    one = np.uint32(1)
    upper = 16 - _DIGIT
    first = np.zeros((1 << _DIGIT) + 1, np.uint32)
    second = np.zeros((cells.size << upper) + 1, np.uint32)
    keys = np.empty(patterns.size, np.int32)
    sorting = np.empty(patterns.size, np.int32)
    for i in range(patterns.size):
        key = np.int32(patterns[i] & np.uint32(0x7FFFFFFF))
        if patterns[i] >> np.uint32(31):
            key = -key
        keys[i] = key
        first[_low_digit(key) + np.uint32(1)] += one
        second[_high_digit(key, places) + np.uint32(1)] += one
    for ends in (first, second):
        for i in range(1, ends.size):
            ends[i] += ends[i - 1]
    for key in keys:
        digit = _low_digit(key)
        sorting[first[digit]] = key
        first[digit] += one
    for key in sorting:
        digit = _high_digit(key, places)
        keys[second[digit]] = key
        second[digit] += one
    return keys
