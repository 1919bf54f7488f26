"""Float32 numbers are counted in cells, and looked at again where that decides.

``kernels`` holds the compiled loops and says what a key and a cell are. Whether they can be used is
found out by using them once. Numba that is missing or broken costs time and memory and nothing
else: the numbers are sorted then (``summary``).
"""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import nan
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from weightscope.errors import place_of
from weightscope.summaries.filters import FilterLayout
from weightscope.summaries.moments import COLUMNS, Measured, merge
from weightscope.summaries.order import (
    Flags,
    Keys,
    Order,
    Questions,
    ends_of,
    order_of_counted,
    unanswered,
    values_of,
)
from weightscope.summaries.tensor_summary import Counts, Floats
from weightscope.summaries.threads import Run, ranges

_CELLS = 1 << 16
_ZERO_CELL = 1 << 15
# a cell with more values than it has keys is counted key by key in a table of 256 KiB, which takes
# less memory; a few dozen cells are wanted at most
_CROWDED = 1 << 16
# elements of a block, see ``kernels``
_BLOCK = 1 << 12

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


def load() -> Any:
    """The compiled loops; False where numba is missing or does not work."""
    global _kernels
    with _loading:
        if _kernels is None:
            _kernels = _try_kernels()
        return _kernels


def _try_kernels() -> Any:
    place = place_of("numba")
    if not place:
        return False
    try:
        from weightscope.summaries import kernels

        _try(kernels)
    except Exception as error:  # noqa: BLE001 - whatever a broken installation raises
        warnings.warn(
            f"numba does not work ({place}; {type(error).__name__}: {error}); weights are measured "
            "without it, which takes several times as long",
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
    kernels.measure_range(numbers, 0, 0, 1, 0, *sums, table, rows)
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

    ``read(start, stop)`` gives those from one place to before another, on the CPU.
    """

    dtype: torch.dtype
    size: int
    read: Callable[[int, int], torch.Tensor]

    def whole(self) -> torch.Tensor:
        """All of them."""
        return self.read(0, self.size)


def count_patterns(numbers: Numbers, run: Run) -> Counts:
    """How often each pattern of 8 or 16 bits occurs, shape (256,) or (65536,)."""
    kernels = load() if numbers.size > _BLOCK else None
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


def _measure(
    numbers: Numbers, layout: FilterLayout, span: tuple[int, int]
) -> tuple[Floats, list[int], tuple[int, Floats, Floats], NDArray[np.uint32]]:
    """The first pass over one range: moments, what it counts, sums of filters, filled cells."""
    low, high = span
    first, slots = layout.span(low, high)
    sums, squares = np.zeros((2, slots))
    rows = np.empty((-(-(high - low) // _BLOCK), len(COLUMNS)))
    table = np.zeros(_CELLS, np.uint32)
    blocks, *counts = load().measure_range(
        numbers.read(low, high).numpy(), low, layout.kind, layout.length, first, sums, squares,
        table, rows,
    )  # fmt: skip
    return merge(rows[:blocks].T), counts, (first, sums, squares), table


def count_cells(numbers: Numbers, layout: FilterLayout, run: Run) -> tuple[Measured, CellCounts]:
    """Measure a float32 tensor, range by range, and count its cells."""
    totals = np.zeros(_CELLS, np.int64)
    parts = []
    for *part, table in run(partial(_measure, numbers, layout), ranges(numbers.size)):
        parts.append(part)
        totals += table
    rows, counts, filters = zip(*parts, strict=True)
    nans, infs, zeros, smallest, largest = zip(*counts, strict=True)
    filled = np.flatnonzero(totals)
    keys = np.array([min(smallest), max(largest)])
    minimum, maximum = values_of(keys).tolist() if filled.size else (nan, nan)
    measured = Measured(
        row=merge(np.array(rows).T),
        scale=1.0,
        nan=sum(nans),
        inf=sum(infs),
        minimum=minimum,
        maximum=maximum,
        filters=layout.norms_and_means(filters),
    )
    return measured, CellCounts(sum(zeros), filled - _ZERO_CELL, totals[filled])


@dataclass(frozen=True, eq=False)
class CellCounts:
    """The cells of a float32 tensor, counted.

    Attributes:
        zeros: Number of zeros.
        cells: The cells that hold values, ascending: the high halves of their keys.
        counts: Number of values in each.
    """

    zeros: int
    cells: NDArray[np.int64]
    counts: Counts

    def look(self, numbers: Numbers, asked: Questions, run: Run) -> Order:
        """The order of the values, exact where that is asked, after a second look at them."""
        zeros = np.where(self.cells == 0, self.zeros, 0)
        # a cell of nothing but zeros needs no second look: they stand at its lower end
        wanted = unanswered(self.cells, self.counts, asked) & (self.counts > zeros)
        keys, occurs = self._look_into(wanted, numbers, run)
        return order_of_counted(self.cells, self.counts, wanted, keys, occurs)

    def _look_into(self, wanted: Flags, numbers: Numbers, run: Run) -> tuple[Keys, Counts]:
        """The keys inside these cells, ascending, and how often each occurs."""
        crowded = wanted & (self.counts > _CROWDED)
        listed = wanted & ~crowded
        cells, ends = self.cells[listed], ends_of(self.counts[listed])
        tabled = self.cells[crowded]
        if not cells.size and not tabled.size:
            return np.zeros(0, np.int32), np.zeros(0, np.int64)
        look_into = load().look_into

        def look(span: tuple[int, int]) -> tuple[list[NDArray[np.uint16]], NDArray[np.uint32]]:
            patterns = numbers.read(*span).numpy().view(np.int32)
            lows = np.empty(ends[-1], np.uint16)
            tables = np.zeros((tabled.size, _CELLS), np.uint32)
            filled = look_into(
                patterns, cells + _ZERO_CELL, ends, tabled + _ZERO_CELL, lows, tables
            )
            return [lows[i:j].copy() for i, j in zip(ends, filled, strict=False)], tables

        counts = np.zeros((tabled.size, _CELLS), np.int64)
        found: list[list[NDArray[np.uint16]]] = []
        for lows, tables in run(look, ranges(numbers.size)):
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
