"""The passes over one tensor's float32 numbers: compiled, or torch on a device.

They and the plain ones (``plain``) count the same cells (see ``kernels``), so that everything about
order is equal between them to the last bit, and the moments to rounding.
"""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from math import inf, prod
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from weightscope.statistics.moments import Moments, merge
from weightscope.statistics.ordering import FilledCells, Keys
from weightscope.statistics.records import Counts, Floats

CELLS = 0x10000
# below so many elements a call of torch takes longer than it saves
_SHORT = 1 << 14
MINUS_ZERO = 0x7FFF

Way = Literal["compiled", "plain"]
Patterns = NDArray[np.uint32]


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
    cells: FilledCells


def _in_patterns(cells: Keys) -> Keys:
    """The same cells by pattern."""
    return np.where(cells < 0, 0x7FFF - cells, cells)


@dataclass(frozen=True, eq=False)
class Wanted:
    """Cells to look into, by key.

    Attributes:
        listed: Cells whose patterns to collect.
        tabled: Cells of whose patterns to count the low halves, each in a table.
        room: Patterns that collecting can yield at most.
    """

    listed: Keys
    tabled: Keys
    room: int

    @property
    def tables(self) -> int:
        """Number of tables."""
        return self.tabled.size

    @cached_property
    def classes(self) -> NDArray[np.uint8]:
        """By cell of the pattern: 0 not wanted, 1 collect, 2 + t count in table t."""
        classes = np.zeros(CELLS, np.uint8)
        classes[_in_patterns(self.listed)] = 1
        classes[_in_patterns(self.tabled)] = 2 + np.arange(self.tables)
        return classes


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

    def first(self, low: int, high: int) -> Part:
        """Measure elements low..high."""

    def second(self, low: int, high: int, wanted: Wanted, lows: Tally) -> Patterns:
        """Collect from the wanted cells; add counts of low halves to ``lows``, table by table."""


@cache
def default_way() -> Way:
    """``compiled`` where numba is installed, else ``plain``."""
    return "compiled" if importlib.util.find_spec("numba") else "plain"


@cache
def _kernels() -> Any:
    """The compiled loops, whose compiler is loaded when it is first needed."""
    from weightscope.statistics import kernels

    return kernels


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

    def first(self, low: int, high: int) -> Part:
        """Measure elements low..high."""
        # a pass that is interrupted leaves its tables to nobody
        tables = self._local.__dict__.pop("tables", None)
        if tables is None:
            tables = np.zeros((2, CELLS), np.uint32)
        layout = self._layout
        first, slots = layout.span(low, high)
        sums, squares = np.zeros((2, slots))
        numbers = np.empty(11)
        _kernels().first_pass(
            self._x, low, high, layout.kind, layout.length, first, sums, squares, tables, numbers
        )
        count, mean, m2, m3, m4, absolute, nans, infs, zeros, minimum, maximum = numbers.tolist()
        cells = _kernels().drain(tables, max(-minimum, maximum))
        self._local.tables = tables
        return Part(
            Moments(int(count), mean, m2, m3, m4, absolute),
            int(nans),
            int(infs),
            int(zeros),
            minimum,
            maximum,
            FilterSums(first, sums, squares),
            cells,
        )

    def second(self, low: int, high: int, wanted: Wanted, lows: Tally) -> Patterns:
        """Look into the wanted cells."""
        collected = np.empty(min(wanted.room, high - low) + _kernels().SPARE, np.uint32)
        tables = np.zeros((wanted.tables, CELLS), np.uint32)
        n = _kernels().second_pass(
            self._u, low, high, wanted.listed, wanted.tabled, tables, collected
        )
        if wanted.tables:
            with lows.lock:
                lows.counts[...] += tables
        return collected[:n].copy()


def filled_cells(counts: Counts) -> FilledCells:
    """The cells that hold something, ascending, from counts by cell of the pattern."""
    ascending = np.concatenate([counts[:0x7FFF:-1], counts[:0x7FFF]])
    ascending[0x8000] += counts[MINUS_ZERO]
    filled = np.flatnonzero(ascending)
    return (filled - 0x8000).astype(np.int32), ascending[filled]


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
        return float(sum_of(wide)), float(sum_of(squares))
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
        sums = sum_of(wide[part].reshape(max(rows, 1), -1), axis)
        sums_of_squares = sum_of(squares[part].reshape(max(rows, 1), -1), axis)
        filters.sums[slots] += sums
        filters.squares[slots] += sums_of_squares
        s1 += float(sums.sum())
        s2 += float(sums_of_squares.sum())
        at = end
    return s1, s2


def sum_of(array: Floats, axis: int | None = None) -> Floats:
    """The array's sum, of everything or along an axis of two."""
    if axis == 0 or array.size < _SHORT:
        by_numpy: Floats = array.sum(axis)
        return by_numpy
    # along the memory torch is quicker than numpy, down the columns it is slower
    by_torch: Floats = torch.from_numpy(array).sum(axis).numpy()
    return by_torch


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

    def first(self, low: int, high: int) -> Part:
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
        return Part(
            merge(moments), nans, infs, zeros, minimum + 0.0, maximum + 0.0, filters,
            filled_cells(counts.cpu().numpy()),
        )  # fmt: skip

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
            with np.errstate(invalid="ignore", over="ignore"):
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
