"""The passes over several tensors at a time, in steps between which threads share the work.

A step is Python for every tensor of a group in turn, then the passes over all of them: passes drive
the interpreter out of the processor's inner caches, and the interpreter is slow until it is back.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from math import ceil
from typing import Any, TypeVar

import numpy as np

from weightscope.statistics.ordering import CountedCells, FilledCells, Keys
from weightscope.statistics.passes import CELLS, Part, Passes, Patterns, Tally, Wanted
from weightscope.statistics.questions import Questions
from weightscope.statistics.records import Counts

# one range is one thread's share at a time; fixed, so that sums do not depend on the threads
RANGE = 1 << 21
# ranges end at multiples of so many elements, blocks of every kind
_EVEN = 1 << 12
# memory for looking into cells in one pass
_LOOKING = 6 << 20
_TABLE = 4 * CELLS
_INFINITY = 0x7F800000
_EVERY_LOW = np.arange(CELLS, dtype=np.int32)

Result = TypeVar("Result")
Cells = TypeVar("Cells", bound=CountedCells)
# work that asks for lists of tasks, which any threads may do, and goes on with their results
Steps = Generator[Sequence[Callable[[], Any]], list[Any], Result]


def ranges(size: int) -> list[tuple[int, int]]:
    """Ranges of a tensor of this size, as even as blocks allow."""
    number = max(ceil(size / RANGE), 1)
    step = max(ceil(size / number / _EVEN) * _EVEN, 1)
    return [(low, min(low + step, size)) for low in range(0, size, step)]


def together(lists: Sequence[Sequence[Callable[[], Result]]]) -> Steps[list[list[Result]]]:
    """The results of several lists of tasks, all asked for at once."""
    found = iter((yield [task for tasks in lists for task in tasks]))
    return [list(islice(found, len(tasks))) for tasks in lists]


def first_passes(passes: Sequence[Passes]) -> Steps[list[list[Part]]]:
    """The parts of each tensor, in the order of their ranges."""
    return together([[partial(p.first, *each) for each in ranges(p.size)] for p in passes])


def look_into(
    passes: Sequence[Passes],
    orders: Sequence[Cells],
    asked: Sequence[Questions],
    parts: Sequence[Sequence[Part]],
) -> Steps[list[Cells]]:
    """The same orders with what is asked looked into, as many cells at a time as memory allows."""
    wanted = [
        order.unanswered(each.ranks, each.borders, each.closed)
        for order, each in zip(orders, asked, strict=True)
    ]
    known = list(orders)
    for batch in _batches(wanted):
        looks = [_Look.into(cells, counts, parts[i]) for i, cells, counts in batch]
        found = yield from together(
            [look.tasks(passes[i]) for (i, _, _), look in zip(batch, looks, strict=True)]
        )
        for (i, _, _), look, patterns in zip(batch, looks, found, strict=True):
            known[i] = known[i].looked_into(*look.read(patterns, known[i], asked[i]))
    return known


def _batches(wanted: Sequence[FilledCells]) -> Iterator[list[tuple[int, Keys, Counts]]]:
    """Places of tensors, and cells of theirs, to look into together."""
    batch: list[tuple[int, Keys, Counts]] = []
    used = 0
    for i, (cells, counts) in enumerate(wanted):
        start = 0
        for end, needed in enumerate(np.minimum(4 * counts, _TABLE).tolist()):
            if used and used + needed > _LOOKING:
                if end > start:
                    batch.append((i, cells[start:end], counts[start:end]))
                yield batch
                batch, used, start = [], 0, end
            used += needed
        if cells.size > start:
            batch.append((i, cells[start:], counts[start:]))
    if batch:
        yield batch


@dataclass(frozen=True, eq=False)
class _Look:
    """A look into some cells of one tensor.

    The patterns of a cell are collected, unless there are more than a table has entries.

    Attributes:
        wanted: The cells.
        lows: Counts of low halves, for the cells with a table.
        infinities: Number of infinities in the tensor.
        zeros: Number of zeros in the tensor; None where their cell is not wanted.
    """

    wanted: Wanted
    lows: Tally
    infinities: int
    zeros: int | None

    @classmethod
    def into(cls, cells: Keys, counts: Counts, parts: Sequence[Part]) -> _Look:
        """Prepare a look."""
        crowded = 4 * counts > _TABLE
        tabled = cells[crowded]
        infinities = sum([part.inf for part in parts])
        # the lowest finite cell of all takes in the pattern of minus infinity
        room = int(counts[~crowded].sum()) + infinities
        return cls(
            Wanted(cells[~crowded], tabled, room),
            Tally(np.zeros((tabled.size, CELLS), np.int64)),
            infinities,
            sum([part.zero for part in parts]) if (cells == 0).any() else None,
        )

    def tasks(self, passes: Passes) -> list[Callable[[], Patterns]]:
        """The second pass, range by range."""
        return [
            partial(passes.second, *each, self.wanted, self.lows) for each in ranges(passes.size)
        ]

    def read(
        self, found: Sequence[Patterns], order: CountedCells, asked: Questions
    ) -> tuple[Keys, Counts | None]:
        """Keys inside the cells, ascending, and how often each occurs (None: once each)."""
        patterns = np.concatenate(found) if len(found) > 1 else found[0]
        collected, occurs = order.read(patterns, self.wanted.listed, asked)
        if self.zeros is None and not (self.wanted.tables or self.infinities):
            return collected, occurs
        if occurs is None:
            occurs = np.ones(collected.shape, np.int64)
        lists: list[tuple[Keys, Counts]] = [(collected, occurs)]
        for table, cell in enumerate(self.wanted.tabled.tolist()):
            low_halves = self.lows.counts[table]
            lists.append(((cell << 16) + _EVERY_LOW, low_halves if cell >= 0 else low_halves[::-1]))
        kept = [(keys != 0) & (keys > -_INFINITY) & (occurs > 0) for keys, occurs in lists]
        lists = [(keys[k], occurs[k]) for (keys, occurs), k in zip(lists, kept, strict=True)]
        if self.zeros:
            # zeros have two patterns, one of them in another cell, but their number is known
            lists.append((np.zeros(1, np.int32), np.full(1, self.zeros)))
        keys, occurs = (np.concatenate(column) for column in zip(*lists, strict=True))
        places = np.argsort(keys)
        return keys[places], occurs[places]
