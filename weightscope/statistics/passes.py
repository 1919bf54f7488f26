"""The passes over one tensor's float32 numbers: compiled, plain numpy, or torch on a device.

All three count the same cells (see ``kernels``), so that everything about order is equal between
them to the last bit, and the moments to rounding.
"""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from math import ceil, inf, isfinite, prod
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from weightscope.statistics.moments import (
    Moments,
    merge,
    moments_from_powers,
    moments_in_place,
)
from weightscope.statistics.ordering import CountedCells, Keys, keys_of
from weightscope.statistics.records import Counts, Floats

CELLS = 0x10000
# one range is one thread's share at a time; fixed, so that sums do not depend on the threads
RANGE = 1 << 21
# ranges end at multiples of so many elements, blocks of every kind
_EVEN = 1 << 12
# memory for looking into cells in one pass
_LOOKING = 6 << 20
_TABLE = 4 * CELLS
_INFINITY = 0x7F800000
_MINUS_ZERO = 0x7FFF
_EVERY_LOW = np.arange(CELLS, dtype=np.int32)

Way = Literal["compiled", "plain"]
Result = TypeVar("Result")
Patterns = NDArray[np.uint32]
# work that asks for lists of tasks, which any threads may do, and goes on with their results
Steps = Generator[Sequence[Callable[[], Any]], list[Any], Result]


@dataclass(frozen=True)
class FilterLayout:
    """How the output filters lie in memory: (outer, filters, inner), C order.

    Attributes:
        outer: Product of the axes before the filters.
        filters: Number of filters; 0 where there are none to tell apart.
        inner: Product of the axes after the filters.
    """

    outer: int
    filters: int
    inner: int

    @classmethod
    def of(cls, shape: Sequence[int], axis: int | None) -> FilterLayout:
        """Read a shape whose ``axis`` counts the filters."""
        if axis is None:
            return cls(1, 0, prod(shape))
        return cls(prod(shape[:axis]), shape[axis], prod(shape[axis + 1 :]))

    @property
    def kind(self) -> int:
        """0 without filters, 1 where each is consecutive, 2 where they interleave."""
        return 0 if not self.filters else 1 if self.outer == 1 else 2

    @property
    def length(self) -> int:
        """Elements of one filter (kind 1), of one row of all filters (kind 2), or 1."""
        if self.kind == 2:
            return self.filters * self.inner
        return max(self.inner, 1)

    def span(self, low: int, high: int) -> tuple[int, int]:
        """First slot and number of slots that the sums of elements low..high need."""
        if self.kind == 1:
            first = low // self.length
            return first, (high - 1) // self.length + 1 - first
        return 0, self.length if self.kind == 2 else 0

    def norms_and_means(self, parts: Sequence[FilterSums]) -> tuple[Floats, Floats] | None:
        """L2 norm and mean of each filter from the sums of the parts, added in their order."""
        if not self.filters:
            return None
        slots = self.filters if self.kind == 1 else self.length
        sums, squares = np.zeros(slots), np.zeros(slots)
        with np.errstate(invalid="ignore", over="ignore"):
            for part in parts:
                end = part.first + part.sums.size
                sums[part.first : end] += part.sums
                squares[part.first : end] += part.squares
            if self.kind == 2:
                sums = sums.reshape(self.filters, self.inner).sum(1)
                squares = squares.reshape(self.filters, self.inner).sum(1)
            each = max(self.outer * self.inner, 1)
            return np.sqrt(squares), sums / each


@dataclass(frozen=True, eq=False)
class FilterSums:
    """Sums and sums of squares of the filters (or columns) from ``first`` on."""

    first: int
    sums: Floats
    squares: Floats


NO_FILTERS = FilterLayout(1, 0, 0)
NOTHING = FilterSums(0, np.zeros(0), np.zeros(0))


@dataclass(frozen=True, eq=False)
class Part:
    """What the first pass says about one range of elements."""

    moments: Moments
    nan: int
    inf: int
    zero: int
    minimum: float
    maximum: float
    filters: FilterSums


@dataclass(frozen=True, eq=False)
class Wanted:
    """Cells to look into.

    Attributes:
        classes: By cell of the pattern: 0 not wanted, 1 collect, 2 + t count in table t.
        tables: Number of tables.
        room: Patterns that collecting can yield at most.
    """

    classes: NDArray[np.uint8]
    tables: int
    room: int


@dataclass(frozen=True, eq=False)
class Tally:
    """Counts of one tensor, to which a thread adds while it holds the lock."""

    counts: Counts
    lock: threading.Lock = field(default_factory=threading.Lock)


class Passes(Protocol):
    """Two passes over a flat float32 tensor."""

    @property
    def size(self) -> int:
        """Number of elements."""

    def first(self, low: int, high: int, totals: Tally) -> Part:
        """Measure elements low..high; add the finite ones to ``totals`` by ascending cell."""

    def second(self, low: int, high: int, wanted: Wanted, lows: Tally) -> Patterns:
        """Collect from the wanted cells; add counts of low halves to ``lows``, table by table."""


@cache
def default_way() -> Way:
    """``compiled`` where numba is installed, else ``plain``."""
    return "compiled" if importlib.util.find_spec("numba") else "plain"


class CompiledPasses:
    """The fused kernels, on a float32 array."""

    _local = threading.local()

    def __init__(self, array: NDArray[np.float32], layout: FilterLayout) -> None:
        self._x = array
        self._u: Patterns = array.view(np.uint32)
        self._layout = layout

    @property
    def size(self) -> int:
        """Number of elements."""
        return self._x.size

    @classmethod
    def _tables(cls) -> NDArray[np.uint32]:
        tables: NDArray[np.uint32] | None = getattr(cls._local, "tables", None)
        if tables is None:
            tables = cls._local.tables = np.zeros((2, CELLS), np.uint32)
        return tables

    def first(self, low: int, high: int, totals: Tally) -> Part:
        """Measure elements low..high."""
        from weightscope.statistics import kernels

        first, slots = self._layout.span(low, high)
        sums, squares = np.zeros(slots), np.zeros(slots)
        numbers = np.zeros(9)
        limits = np.array([inf, -inf])
        tables = self._tables()
        kernels.first_pass(
            self._x, self._u, low, high, self._layout.kind, self._layout.length,
            first, sums, squares, tables, numbers, limits,
        )  # fmt: skip
        minimum, maximum = (limits + 0.0).tolist()  # no negative zero
        if numbers[0]:
            largest = np.float32(max(abs(minimum), abs(maximum))).view(np.int32) >> 16
            with totals.lock:
                kernels.drain(tables, largest, totals.counts)
        count, mean, m2, m3, m4, absolute, nans, infs, zeros = numbers.tolist()
        return Part(
            Moments(int(count), mean, m2, m3, m4, absolute),
            int(nans),
            int(infs),
            int(zeros),
            minimum,
            maximum,
            FilterSums(first, sums, squares),
        )

    def second(self, low: int, high: int, wanted: Wanted, lows: Tally) -> Patterns:
        """Look into the wanted cells."""
        from weightscope.statistics import kernels

        collected = np.empty(min(wanted.room, high - low) + 1, np.uint32)
        tables = np.zeros((max(wanted.tables, 1), CELLS if wanted.tables else 1), np.uint32)
        n = kernels.second_pass(self._u, low, high, wanted.classes, tables, collected)
        if wanted.tables:
            with lows.lock:
                lows.counts[...] += tables
        return collected[:n].copy()


class PlainPasses:
    """The same in blocked numpy; buffers are reused, since a fresh one costs more than its use."""

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
            if found[0] or (found.size > _MINUS_ZERO and found[_MINUS_ZERO]):
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


def add_to_totals(counts: Counts, totals: Counts) -> None:
    """Add counts by cell of the pattern to ``totals`` in ascending order of value."""
    totals[0x8000] += counts[_MINUS_ZERO]
    totals[0x8000:0xFFFF] += counts[:0x7FFF]
    totals[:0x8000] += counts[:0x7FFF:-1]


def add_filter_sums(
    wide: Floats, squares: Floats, start: int, layout: FilterLayout, filters: FilterSums
) -> tuple[float, float]:
    """Add the elements from ``start`` on to the sums of their filters.

    Args:
        wide: The elements.
        squares: Their squares.
        start: Place of the first one in the tensor.
        layout: How filters lie in the tensor.
        filters: What to add to.

    Returns:
        The sums of the elements and of their squares.
    """
    if not layout.filters:
        return float(wide.sum()), float(squares.sum())
    s1 = s2 = 0.0
    at, stop = start, start + wide.size
    while at < stop:
        # whole filters (or rows of them) at once, and what is cut off at either end
        place = at % layout.length
        rows = (stop - at) // layout.length if place == 0 else 0
        end = at + rows * layout.length if rows else min(stop, at - place + layout.length)
        part = slice(at - start, end - start)
        if layout.kind == 1:
            first = at // layout.length - filters.first
            slots, axis = slice(first, first + max(rows, 1)), 1
        else:
            slots, axis = slice(0, None) if rows else slice(place, place + end - at), 0
        sums = wide[part].reshape(max(rows, 1), -1).sum(axis)
        sums_of_squares = squares[part].reshape(max(rows, 1), -1).sum(axis)
        filters.sums[slots] += sums
        filters.squares[slots] += sums_of_squares
        s1 += float(sums.sum())
        s2 += float(sums_of_squares.sum())
        at = end
    return s1, s2


class TorchPasses:
    """The same in blocked torch, on the tensor's own device: only counts and sums travel."""

    _BLOCK = 1 << 20

    def __init__(self, flat: torch.Tensor, layout: FilterLayout) -> None:
        self._x = flat
        self._layout = layout

    @property
    def size(self) -> int:
        """Number of elements."""
        return self._x.numel()

    def first(self, low: int, high: int, totals: Tally) -> Part:
        """Measure elements low..high."""
        first, slots = self._layout.span(low, high)
        filters = FilterSums(first, np.zeros(slots), np.zeros(slots))
        moments = []
        nans = infs = zeros = 0
        minimum, maximum = inf, -inf
        counts = torch.zeros(CELLS, dtype=torch.int64, device=self._x.device)
        for start in range(low, high, self._BLOCK):
            block = self._x[start : min(start + self._BLOCK, high)]
            wide = block.double()
            self._add_filter_sums(wide, start, filters)
            finite = wide.isfinite()
            if not bool(finite.all()):
                nans += int(wide.isnan().sum())
                infs += int(wide.isinf().sum())
                block, wide = block[finite], wide[finite]
                if not block.numel():
                    continue
            minimum, maximum = min(minimum, float(wide.min())), max(maximum, float(wide.max()))
            zeros += int((wide == 0).sum())
            moments.append(_torch_moments(wide))
            counts += torch.bincount(_torch_patterns(block)[0], minlength=CELLS)
        with totals.lock:
            add_to_totals(counts.cpu().numpy(), totals.counts)
        return Part(merge(moments), nans, infs, zeros, minimum + 0.0, maximum + 0.0, filters)

    def second(self, low: int, high: int, wanted: Wanted, lows: Tally) -> Patterns:
        """Look into the wanted cells."""
        device = self._x.device
        classes = torch.from_numpy(wanted.classes).to(device)
        tables = torch.zeros(lows.counts.size, dtype=torch.int64, device=device)
        collected = []
        for start in range(low, high, self._BLOCK):
            block = self._x[start : min(start + self._BLOCK, high)]
            cells, low_halves = _torch_patterns(block)
            kinds = classes[cells]
            collected.append(block[kinds == 1].cpu().numpy().view(np.uint32))
            if wanted.tables:
                counted = kinds > 1
                slots = ((kinds[counted].long() - 2) << 16) | low_halves[counted]
                tables += torch.bincount(slots, minlength=tables.numel())
        if wanted.tables:
            with lows.lock:
                lows.counts.ravel()[...] += tables.cpu().numpy()
        return np.concatenate(collected)

    def _add_filter_sums(self, wide: torch.Tensor, start: int, filters: FilterSums) -> None:
        if not self._layout.filters:
            return
        # elements of one filter (or column) are added on the device, by their slot
        places = torch.arange(start, start + wide.numel(), device=wide.device)
        length = self._layout.length
        slots = places // length - filters.first if self._layout.kind == 1 else places % length
        for powers, sums in ((wide, filters.sums), (wide * wide, filters.squares)):
            added = torch.zeros(sums.size, dtype=torch.float64, device=wide.device)
            added.index_add_(0, slots, powers)
            sums += added.cpu().numpy()


def _torch_moments(wide: torch.Tensor) -> Moments:
    mean = wide.mean()
    d = wide - mean
    square = d * d
    sums = torch.stack(
        [mean, square.sum(), (square * d).sum(), (square * square).sum(), wide.abs().sum()]
    )
    return Moments(wide.numel(), *sums.tolist())


def _torch_patterns(block: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Cell and low half of each pattern, as 64-bit integers."""
    signed = block.view(torch.int32).long()
    shifted = (signed & 0xFFFFFFFF) - (signed < 0).long()
    return shifted >> 16, shifted & 0xFFFF


def ranges(size: int) -> list[tuple[int, int]]:
    """Ranges of a tensor of this size, as even as blocks allow."""
    number = max(ceil(size / RANGE), 1)
    step = max(ceil(size / number / _EVEN) * _EVEN, 1)
    return [(low, min(low + step, size)) for low in range(0, size, step)]


def first_pass(passes: Passes) -> Steps[tuple[list[Part], CountedCells]]:
    """All parts in the order of their ranges, and the cells of the whole tensor."""
    totals = Tally(np.zeros(CELLS, np.int64))
    parts = yield [partial(passes.first, low, high, totals) for low, high in ranges(passes.size)]
    return parts, CountedCells.of(
        totals.counts,
        sum(part.zero for part in parts),
        min(part.minimum for part in parts),
        max(part.maximum for part in parts),
    )


def look_into(
    passes: Passes, order: CountedCells, wanted: tuple[Keys, Counts], parts: Sequence[Part]
) -> Steps[CountedCells]:
    """The same order with these cells looked into, in as few passes as the memory allows."""
    cells, counts = wanted
    prices = np.minimum(4 * counts, _TABLE)
    batches = np.cumsum(prices) // _LOOKING
    for batch in range(int(batches[-1]) + 1 if cells.size else 0):
        ours = batches == batch
        order = order.looked_into(*(yield from _look(passes, cells[ours], counts[ours], parts)))
    return order


def _look(
    passes: Passes, cells: Keys, counts: Counts, parts: Sequence[Part]
) -> Steps[tuple[Keys, Counts | None]]:
    """Keys inside cells, ascending, and how often each occurs (None: once each).

    The patterns of a cell are collected, unless there are more than a table has entries.
    """
    crowded = 4 * counts > _TABLE
    tabled = cells[crowded].tolist()
    kinds = np.ones(cells.shape, np.uint8)
    kinds[crowded] = 2 + np.arange(len(tabled))
    classes = np.zeros(CELLS, np.uint8)
    classes[np.where(cells >= 0, cells, 0x7FFF - cells)] = kinds
    # the lowest finite cell of all takes in the pattern of minus infinity
    infinities = sum(part.inf for part in parts)
    room = int(counts[~crowded].sum()) + infinities
    wanted = Wanted(classes, len(tabled), room)
    lows = Tally(np.zeros((len(tabled), CELLS), np.int64))
    patterns = np.concatenate(
        (
            yield [
                partial(passes.second, low, high, wanted, lows) for low, high in ranges(passes.size)
            ]
        )
    )
    collected = keys_of(patterns.view(np.float32))
    collected.sort()
    has_zeros = bool((cells == 0).any())
    if not (has_zeros or tabled or infinities):
        return collected, None
    # zeros have two patterns, one of them in another cell, but their number is known
    zeros = sum(part.zero for part in parts) if has_zeros else 0
    lists: list[tuple[Keys, Counts]] = [(collected, np.ones(collected.shape, np.int64))]
    for table, cell in enumerate(tabled):
        occurrences = lows.counts[table] if cell >= 0 else lows.counts[table, ::-1]
        lists.append(((cell << 16) + _EVERY_LOW, occurrences))
    kept = [(keys != 0) & (keys > -_INFINITY) & (occurs > 0) for keys, occurs in lists]
    lists = [(keys[k], occurs[k]) for (keys, occurs), k in zip(lists, kept, strict=True)]
    lists.append((np.zeros(int(zeros > 0), np.int32), np.full(int(zeros > 0), zeros)))
    keys, occurs = (np.concatenate(column) for column in zip(*lists, strict=True))
    order = np.argsort(keys)
    return keys[order], occurs[order]
