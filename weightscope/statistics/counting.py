"""Float32 numbers are counted in cells, and looked at again where that decides.

``kernels`` holds the compiled loops and says what a key and a cell are. Whether they can be used is
found out by using them once: numba that is missing or broken costs time and nothing else, since
numpy counts the same cells, block by block.
"""

from __future__ import annotations

import importlib.util
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from math import nan
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from weightscope.statistics.filters import FilterLayout, measure_filters
from weightscope.statistics.moments import COLUMNS, Measured, merge, moments_of
from weightscope.statistics.order import (
    CountedCells,
    Flags,
    Keys,
    Questions,
    ends_of,
    keys_of,
    unanswered,
    values_of,
)
from weightscope.statistics.tensor_summary import Counts, Floats
from weightscope.statistics.threads import Run, ranges

_CELLS = 1 << 16
_ZERO_CELL = 1 << 15
# a cell with more values than it has keys is counted key by key: that takes less memory
_CROWDED = 1 << 16
# tables of such cells, 256 KiB each; where more are needed, the tensor is sorted instead
_MOST_TABLES = 64
# elements of a block, see ``kernels``
_BLOCK = 1 << 12
# elements of a block where numpy counts: its copies stay in the outer cache
_PLAIN_BLOCK = 1 << 15
_INFINITY = 0x7F800000  # its key

# A fork waits until the loops are loaded: the child of a process whose compiler works in another
# thread would wait for that thread for ever.
_loading = threading.RLock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_loading.acquire,
        after_in_parent=_loading.release,
        after_in_child=_loading.release,
    )
_kernels: Any = None
_kept = threading.local()


def _load() -> Any:
    """The compiled loops; False where numba is missing or does not work."""
    global _kernels
    if _kernels is None:
        with _loading:
            if _kernels is None:
                _kernels = _try_kernels()
    return _kernels


def _try_kernels() -> Any:
    if not importlib.util.find_spec("numba"):
        return False
    try:
        from weightscope.statistics import kernels

        _try(kernels)
    except Exception as error:  # noqa: BLE001 - whatever a broken installation raises
        warnings.warn(
            f"numba is installed but does not work ({type(error).__name__}: {error}); weights are "
            "measured without it, which takes several times as long",
            RuntimeWarning,
            stacklevel=2,
        )
        return False
    return kernels


def _try(kernels: Any) -> None:
    """Call every loop once, which compiles it or loads its code."""
    numbers = np.array([1.0, -1.0], np.float32)
    table = np.zeros(_CELLS, np.uint32)
    rows = np.zeros((1, len(COLUMNS)))
    sums = np.zeros((2, 2))
    *_, low, high = kernels.measure_range(numbers, 0, 0, 1, 0, *sums, table, rows)
    kernels.drain(table, low, high)
    none = np.zeros(0, np.int64)
    tables = np.zeros((0, _CELLS), np.uint32)
    kernels.look_into(
        numbers.view(np.int32), none, np.zeros(1, np.int64), none, np.zeros(0, np.uint16), tables
    )
    for dtype in (np.uint8, np.uint16):
        kernels.count_patterns(numbers.view(dtype), np.zeros(_CELLS, np.int64))


@dataclass(frozen=True, eq=False)
class Numbers:
    """A tensor's numbers in a line, which are read range by range: it may lie in a file.

    Attributes:
        dtype: Their format.
        size: How many there are.
        read: Those from one place to before another, shape (stop - start,), on the CPU.
    """

    dtype: torch.dtype
    size: int
    read: Callable[[int, int], torch.Tensor]

    @classmethod
    def of(cls, flat: torch.Tensor) -> Numbers:
        """Those of a tensor in memory, shape (n,)."""
        return cls(flat.dtype, flat.numel(), lambda start, stop: flat[start:stop])

    def whole(self) -> torch.Tensor:
        """All of them."""
        return self.read(0, self.size)


def count_patterns(numbers: Numbers, run: Run) -> Counts:
    """How often each pattern of 8 or 16 bits occurs, shape (256,) or (65536,)."""
    kernels = _load() if numbers.size > _BLOCK else None
    bytes_ = numbers.dtype.itemsize
    carrier = {1: torch.uint8, 2: torch.int16}[bytes_]

    def count(span: tuple[int, int]) -> Counts:
        patterns = numbers.read(*span).view(carrier).numpy().view(f"u{bytes_}")
        counts = np.zeros(1 << 8 * bytes_, np.int64)
        if kernels:
            kernels.count_patterns(patterns, counts)
        else:
            counts += np.bincount(patterns, minlength=counts.size)
        return counts

    return sum(run(count, ranges(numbers.size)), np.zeros(1 << 8 * bytes_, np.int64))


@contextmanager
def _table() -> Iterator[NDArray[np.uint32]]:
    """A thread's empty table, to be left empty; what is interrupted leaves it to nobody."""
    table = _kept.__dict__.pop("table", None)
    if table is None:
        table = np.zeros(_CELLS, np.uint32)
    yield table
    _kept.table = table


@dataclass(frozen=True, eq=False)
class _Part:
    """What the first pass says about one range of elements."""

    row: Floats
    nan: int
    inf: int
    zero: int
    smallest: int
    largest: int
    filters: tuple[int, Floats, Floats]
    cells: NDArray[np.int64]
    counts: Counts


def _measure(numbers: Numbers, layout: FilterLayout, span: tuple[int, int]) -> _Part:
    """The first pass over one range."""
    low, high = span
    array = numbers.read(low, high).numpy()
    first, slots = layout.span(low, high)
    sums, squares = np.zeros((2, slots))
    rows = np.empty((-(-(high - low) // _BLOCK), len(COLUMNS)))
    cells = counts = np.zeros(0, np.int64)
    kernels = _load()
    with _table() as table:
        blocks, nans, infs, zeros, smallest, largest = kernels.measure_range(
            array, low, layout.kind, layout.length, first, sums, squares, table, rows
        )
        if blocks:
            cells, counts = kernels.drain(table, smallest, largest)
    return _Part(
        merge(rows[:blocks]), nans, infs, zeros, smallest, largest, (first, sums, squares),
        cells, counts,
    )  # fmt: skip


def _measure_by_numpy(numbers: Numbers, span: tuple[int, int]) -> _Part:
    """The first pass over one range, without the filters."""
    array = numbers.read(*span).numpy()
    rows = []
    smallest, largest = _INFINITY, -_INFINITY
    nans = infs = zeros = 0
    totals = np.zeros(_CELLS, np.int64)
    for start in range(0, array.size, _PLAIN_BLOCK):
        block = array[start : start + _PLAIN_BLOCK]
        keys = keys_of(block)
        low, high = int(keys.min()), int(keys.max())
        if max(-low, high) >= _INFINITY:
            nans += int(np.isnan(block).sum())
            infs += int(np.isinf(block).sum())
            finite = np.abs(keys) < _INFINITY
            block, keys = block[finite], keys[finite]
            if not block.size:
                continue
            low, high = int(keys.min()), int(keys.max())
        rows.append(moments_of(block.astype(np.float64)))
        smallest, largest = min(smallest, low), max(largest, high)
        zeros += block.size - int(np.count_nonzero(block))
        keys >>= 16
        keys += _ZERO_CELL
        totals += np.bincount(keys, minlength=_CELLS)
    filled = np.flatnonzero(totals)
    return _Part(
        merge(np.array(rows)), nans, infs, zeros, smallest, largest, (0, *np.zeros((2, 0))),
        filled - _ZERO_CELL, totals[filled],
    )  # fmt: skip


def _look_by_numpy(
    patterns: Keys,
    listed: Counts,
    ends: Counts,
    crowded: Counts,
    lows: NDArray[np.uint16],
    tables: NDArray[np.uint32],
) -> Counts:
    """``kernels.look_into``, block by block."""
    wanted = np.zeros(_CELLS, np.bool_)
    wanted[listed] = wanted[crowded] = True
    filled = ends[:-1].copy()
    for start in range(0, patterns.size, _PLAIN_BLOCK):
        keys = keys_of(patterns[start : start + _PLAIN_BLOCK])
        keys = keys[wanted[(keys >> 16) + _ZERO_CELL]]
        keys = keys[keys != -_INFINITY]
        cells, halves = (keys >> 16) + _ZERO_CELL, keys & 0xFFFF
        for slot, cell in enumerate(listed.tolist()):
            inside = halves[cells == cell]
            lows[filled[slot] : filled[slot] + inside.size] = inside
            filled[slot] += inside.size
        for table, cell in zip(tables, crowded.tolist(), strict=True):
            table += np.bincount(halves[cells == cell], minlength=_CELLS).astype(np.uint32)
    return filled


@dataclass(frozen=True, eq=False)
class CellCounts:
    """A float32 tensor of which the cells were counted.

    Attributes:
        numbers: The tensor.
        measured: What is known of it apart from order.
        zeros: Number of zeros.
        cells: The cells that hold values, ascending: the high halves of their keys.
        counts: Number of values in each.
    """

    numbers: Numbers
    measured: Measured
    zeros: int
    cells: NDArray[np.int64]
    counts: Counts

    def order(self, asked: Questions, run: Run, *, fast: bool) -> CountedCells | None:
        """The order of the values, exact where that is asked and not ``fast``.

        None where too many crowded cells would have to be looked into.
        """
        keys: Keys = np.zeros(0, np.int32)
        occurs = np.zeros(0, np.int64)
        zero = self.cells == 0
        only_zeros = zero & (self.counts == self.zeros)  # their key is known
        if not fast:
            wanted = unanswered(self.cells, self.counts, asked) & ~only_zeros
            crowded = wanted & (self.counts > _CROWDED)
            if crowded.sum() > _MOST_TABLES:
                return None
            keys, occurs = self._look_into(wanted & ~crowded, crowded, run)
        if only_zeros.any():
            place = keys.searchsorted(0)
            keys, occurs = np.insert(keys, place, 0), np.insert(occurs, place, self.zeros)
        return CountedCells(self.cells, self.counts, keys, occurs)

    def _look_into(self, listed: Flags, crowded: Flags, run: Run) -> tuple[Keys, Counts]:
        """The keys inside these cells, ascending, and how often each occurs."""
        cells, ends = self.cells[listed], ends_of(self.counts[listed])
        tabled = self.cells[crowded]
        if not cells.size and not tabled.size:
            return np.zeros(0, np.int32), np.zeros(0, np.int64)
        kernels = _load()
        look_into = kernels.look_into if kernels else _look_by_numpy

        def look(span: tuple[int, int]) -> tuple[list[NDArray[np.uint16]], NDArray[np.uint32]]:
            patterns = self.numbers.read(*span).numpy().view(np.int32)
            lows = np.empty(ends[-1], np.uint16)
            tables = np.zeros((tabled.size, _CELLS), np.uint32)
            filled = look_into(
                patterns, cells + _ZERO_CELL, ends, tabled + _ZERO_CELL, lows, tables
            )
            return [lows[i:j].copy() for i, j in zip(ends, filled, strict=False)], tables

        counts = np.zeros((tabled.size, _CELLS), np.int64)
        found: list[list[NDArray[np.uint16]]] = []
        for lows, tables in run(look, ranges(self.numbers.size)):
            found.append(lows)
            counts += tables
        keys = np.repeat((cells << 16).astype(np.int32), self.counts[listed])
        for start, end, parts in zip(ends[:-1], ends[1:], zip(*found, strict=True), strict=True):
            inside = np.concatenate(parts)
            inside.sort(kind="stable")  # a radix sort, for 16 bits
            keys[start:end] += inside
        occurs = np.ones(keys.size, np.int64)
        if tabled.size:
            places, halves = np.nonzero(counts)
            keys = np.concatenate([keys, ((tabled[places] << 16) + halves).astype(np.int32)])
            occurs = np.concatenate([occurs, counts[places, halves]])
            order = keys.argsort()
            keys, occurs = keys[order], occurs[order]
        return keys, occurs


def count_cells(numbers: Numbers, layout: FilterLayout, run: Run) -> CellCounts:
    """Measure a float32 tensor, range by range, and count its cells."""
    if _load():
        parts = list(run(partial(_measure, numbers, layout), ranges(numbers.size)))
        filters = layout.norms_and_means([part.filters for part in parts])
    else:
        parts = list(run(partial(_measure_by_numpy, numbers), ranges(numbers.size)))
        filters = measure_filters(numbers.whole(), layout) if layout.filters else None
    cells, counts = parts[0].cells, parts[0].counts
    if len(parts) > 1:
        totals = np.zeros(_CELLS, np.int64)
        for part in parts:
            totals[part.cells + _ZERO_CELL] += part.counts
        filled = np.flatnonzero(totals)
        cells, counts = filled - _ZERO_CELL, totals[filled]
    some = [part for part in parts if part.cells.size]
    ends = np.array(
        [min([p.smallest for p in some]), max([p.largest for p in some])] if some else []
    )
    minimum, maximum = values_of(ends).tolist() if some else (nan, nan)
    measured = Measured(
        row=merge(np.array([part.row for part in some])),
        scale=1.0,
        nan=sum(part.nan for part in parts),
        inf=sum(part.inf for part in parts),
        minimum=minimum,
        maximum=maximum,
        filters=filters,
    )
    zeros = sum(part.zero for part in parts)
    return CellCounts(numbers, measured, zeros, cells, counts)
