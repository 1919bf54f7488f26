"""Compiled answers to questions about order, for tensors of which whole operators cost most.

The loops say what ``ordering`` says in numpy; tests hold the two to the same bits.
"""

from __future__ import annotations

import numpy as np

from weightscope.statistics import moments, questions
from weightscope.statistics.kernels import ROWS, compiled
from weightscope.statistics.ordering import BEYOND

_symmetric_edges = compiled(questions.symmetric_edges)
_borders_of = compiled(questions.borders_of)
_quantile_ranks = compiled(questions.quantile_ranks)
_quantiles_of = compiled(questions.quantiles_of)
_standardize = compiled(moments.standardize)
_LOW = 0xFFFF
_INFINITY = 0x7F800000
# a cell that is looked into has so many bins of 2^_IN_BIN patterns
_BINS = 256
_IN_BIN = 8


@compiled
def ask(count, minimum, maximum, probabilities, limits, bins, given):  # type: ignore[no-untyped-def]
    """``Questions.about`` in one call."""
    edges = _symmetric_edges(bins, minimum, maximum) if bins else given
    borders, closed = _borders_of(limits, edges)
    return _quantile_ranks(count, probabilities), edges, borders, closed


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
def _place(cells, cell):  # type: ignore[no-untyped-def]
    """Where a cell is among ascending cells; -1 where it is not."""
    place = _first_not_below(cells, cell)
    return place if place < cells.size and cells[place] == cell else -1


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
def _count_sorted(values, edges, closed, counts):  # type: ignore[no-untyped-def]
    """Number of the ascending values < each edge, or <= where ``closed``."""
    for i in range(edges.size):
        edge = edges[i]
        counts[i] = _first_above(values, edge) if closed[i] else _first_not_below(values, edge)


@compiled
def _describe_sorted(values, shares, points, below, through):  # type: ignore[no-untyped-def]
    """Distinct points among ascending values, the share below and the share through each."""
    n = values.size
    m = 0
    end = np.int64(0)
    for i in range(min(n, shares.size)):
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
    return m


@compiled
def _mean_about(values, base):  # type: ignore[no-untyped-def]
    """Mean of ascending values less ``base``; from both ends, so that partial sums stay small."""
    n = values.size
    total = values[n // 2] - base if n % 2 else 0.0
    for i in range(n // 2):
        total += (values[i] - base) + (values[n - 1 - i] - base)
    return total / n


@compiled
def _describe_values(values, figures):  # type: ignore[no-untyped-def]
    """Figures from moments in two looks: no fourth power of a float32 is too large."""
    mean = _mean_about(values, 0.0)
    mean += _mean_about(values, mean)
    absolute = m2 = m3 = m4 = 0.0
    for v in values:
        absolute += abs(v)
        d = v - mean
        q = d * d
        m2 += q
        m3 += q * d
        m4 += q * q
    low = values[0] + 0.0  # no negative zero
    high = values[values.size - 1] + 0.0
    figures[3] = low
    figures[4] = high
    described = _standardize(values.size, mean, m2, m3, m4, absolute, 1.0, low, high)
    for i in range(5):
        figures[5 + i] = described[i]


@compiled
def _finite(ascending, figures):  # type: ignore[no-untyped-def]
    """The finite ones of numbers in ascending order, NaN last, in double precision."""
    low, high = 0, ascending.size
    while high > 0 and np.isnan(ascending[high - 1]):
        high -= 1
    nans = ascending.size - high
    while low < high and np.isinf(ascending[low]):
        low += 1
    while high > low and np.isinf(ascending[high - 1]):
        high -= 1
    figures[0] = high - low
    figures[1] = nans
    figures[2] = ascending.size - nans - (high - low)
    return ascending[low:high].astype(np.float64)


@compiled
def sum_filters(x, kind, length, sums, squares):  # type: ignore[no-untyped-def]
    """Add numbers to the sums of their filters or columns (see ``kernels.first_pass``)."""
    for i in range(x.size):
        slot = i // length if kind == ROWS else i % length
        v = np.float64(x[i])
        sums[slot] += v
        squares[slot] += v * v


@compiled
def summarize_small(ascending, ends, limits, limit_ends, probabilities, bins, given, shares):  # type: ignore[no-untyped-def]
    """All that is asked of small tensors, several in a call.

    Args:
        ascending: The float32 numbers of all tensors, each in order, NaN last.
        ends: 0, then where each tensor ends.
        limits: Thresholds of their near-zero masses, one tensor after the other.
        limit_ends: 0, then where those of each tensor end.
        probabilities: Of which quantiles to give.
        bins: Number of symmetric bins; 0 for the edges given.
        given: Edges asked for.
        shares: Where to describe the distribution, in [0, 1], ascending; fewer values are all
            points.

    Returns:
        A row for each tensor: finite numbers, NaN, Inf, and of the finite ones minimum, maximum and
        what ``moments.standardize`` says. A row of its quantiles. Then its edges, how many values
        lie before each border, and of its distribution the points, the share below and the share
        through each; of these lists, which follow one another without gaps, the ends (edges,
        borders, points).
    """
    tensors = ends.size - 1
    edges_each = max(bins + 1, given.size)
    described = 0
    for t in range(tensors):
        described += min(ends[t + 1] - ends[t], shares.size)
    figures = np.full((tensors, 10), np.nan)
    quantiles = np.empty((tensors, probabilities.size))
    edges = np.empty(tensors * edges_each)
    before = np.empty(tensors * (edges_each + 2) + 2 * limits.size, np.int64)
    points = np.empty(described)
    below = np.empty(described)
    through = np.empty(described)
    list_ends = np.zeros((tensors + 1, 3), np.int64)
    for t in range(tensors):
        values = _finite(ascending[ends[t] : ends[t + 1]], figures[t])
        if values.size:
            _describe_values(values, figures[t])
        ranks, its_edges, borders, closed = ask(
            values.size, figures[t, 3], figures[t, 4], probabilities,
            limits[limit_ends[t] : limit_ends[t + 1]], bins, given,
        )  # fmt: skip
        quantiles[t] = _quantiles_of(values[ranks], values.size, probabilities)
        e, b, p = list_ends[t]
        edges[e : e + its_edges.size] = its_edges
        _count_sorted(values, borders, closed, before[b:])
        list_ends[t + 1, 0] = e + its_edges.size
        list_ends[t + 1, 1] = b + borders.size
        list_ends[t + 1, 2] = p + _describe_sorted(
            values, shares, points[p:], below[p:], through[p:]
        )
    return figures, quantiles, edges, before, points, below, through, list_ends


@compiled
def merge(cells, counts, more_cells, more_counts):  # type: ignore[no-untyped-def]
    """Two ascending lists of cells with their counts as one."""
    size = cells.size + more_cells.size
    merged = np.empty(size, np.int32)
    totals = np.empty(size, np.int64)
    i, j, m = 0, 0, 0
    while i < cells.size or j < more_cells.size:
        first = j == more_cells.size or (i < cells.size and cells[i] <= more_cells[j])
        second = i == cells.size or (j < more_cells.size and more_cells[j] <= cells[i])
        merged[m] = cells[i] if first else more_cells[j]
        totals[m] = 0
        if first:
            totals[m] += counts[i]
            i += 1
        if second:
            totals[m] += more_counts[j]
            j += 1
        m += 1
    return merged[:m].copy(), totals[:m].copy()


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
            place = _place(cells, key >> 16)
            if place >= 0:
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
def _key_of(pattern):  # type: ignore[no-untyped-def]
    size = np.int32(pattern & np.uint32(0x7FFFFFFF))
    return -size if pattern >> np.uint32(31) else size


@compiled
def _without_zeros_and_infinity(patterns):  # type: ignore[no-untyped-def]
    kept = np.empty(patterns.size + 1, np.uint32)
    n = 0
    for pattern in patterns:
        kept[n] = pattern
        n += pattern != np.uint32(0) and pattern != np.uint32(_INFINITY + 0x80000000)
    return kept[:n]


@compiled
def _bin(pattern, bases):  # type: ignore[no-untyped-def]
    # a negative number's bins lie the other way round, which its base turns over
    moved = pattern - (pattern >> np.uint32(31))
    return bases[moved >> np.uint32(16)] ^ ((moved & np.uint32(_LOW)) >> np.uint32(_IN_BIN))


@compiled
def _find_bins(counts, listed, cells, ends, ranks, edges, closed):  # type: ignore[no-untyped-def]
    """Which bins hold answers."""
    wanted = np.zeros(counts.size, np.bool_)
    for key in _border_keys(edges, closed):
        j = _place(listed, key >> 16)
        if key & _LOW and j >= 0:
            wanted[j * _BINS + ((key & _LOW) >> _IN_BIN)] = True
    for rank in ranks:
        place = _first_above(ends, rank) - 1
        j = _place(listed, cells[place])
        if j >= 0:
            passed = np.int64(counts[j * _BINS])
            at = j * _BINS
            while passed <= rank - ends[place] and at < (j + 1) * _BINS - 1:
                at += 1
                passed += counts[at]
            wanted[at] = True
    j = _place(listed, 0)
    if j >= 0:  # ranks count its zeros, bins do not
        wanted[j * _BINS : (j + 1) * _BINS] = True
    return wanted


@compiled
def read_patterns(patterns, listed, cells, ends, ranks, edges, closed):  # type: ignore[no-untyped-def]
    """Order patterns as far as questions ask for it.

    The patterns of each cell are counted in bins, and only the bins that hold answers are sorted;
    each stretch of others gives one key with their number.

    Args:
        patterns: Bit patterns. Zeros and minus infinity are left out.
        listed: The cells that they lie in, ascending.
        cells: See ``answer_cells``.
        ends: See ``answer_cells``.
        ranks: See ``answer_cells``.
        edges: See ``answer_cells``.
        closed: See ``answer_cells``.

    Returns:
        Keys, ascending, and how often each occurs.
    """
    if _place(listed, 0) >= 0 or _place(listed, -_INFINITY >> 16) >= 0:
        patterns = _without_zeros_and_infinity(patterns)
    bases = np.empty(_LOW + 1, np.uint32)
    for j in range(listed.size):
        cell = listed[j]
        if cell >= 0:
            bases[cell] = j * _BINS
        else:
            bases[0x7FFF - cell] = j * _BINS + _BINS - 1
    counts = np.zeros(listed.size * _BINS, np.uint32)
    for pattern in patterns:
        counts[_bin(pattern, bases)] += np.uint32(1)
    wanted = _find_bins(counts, listed, cells, ends, ranks, edges, closed)
    room = 1
    for at in range(counts.size):
        room += counts[at] if wanted[at] else 0
    inside = np.empty(room, np.int32)
    n = 0
    for pattern in patterns:
        inside[n] = _key_of(pattern)
        n += wanted[_bin(pattern, bases)]
    inside = np.sort(inside[:n])
    keys = np.empty(n + counts.size, np.int32)
    occurs = np.ones(keys.size, np.int64)
    m = read = np.int64(0)
    stretch = -1
    for at in range(counts.size):
        held = np.int64(counts[at])
        j = at // _BINS
        if wanted[at]:
            keys[m : m + held] = inside[read : read + held]
            m += held
            read += held
            stretch = -1
        elif held and stretch == j:
            occurs[m - 1] += held
        elif held:
            # any key inside the bin, but neither that of zero nor that of minus infinity
            keys[m] = (listed[j] << 16) + (at % _BINS << _IN_BIN) + 1
            occurs[m] = held
            m += 1
            stretch = j
    return keys[:m].copy(), occurs[:m].copy()
