"""Several threads over the tensors of a model, and over the ranges of a large one.

Nothing that belongs to the whole process is touched. Threads gain where the work leaves the
interpreter: in compiled loops and in numpy.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from math import ceil
from typing import Protocol, TypeVar

import torch

from weightscope.errors import InputError, keyword
from weightscope.progress import bar

Item = TypeVar("Item")
Part = TypeVar("Part")
Result = TypeVar("Result")

RANGE = 1 << 21
"""Elements of one range. Fixed, so that sums do not depend on the number of threads; of a tensor
in a file every thread holds one range in memory."""

# another thread is worth its start for so many elements
_WORTH = 4 * RANGE
# from here on all threads share the ranges of one tensor; below, each has tensors of its own
_HUGE = 16 * RANGE


# equal to 0 where such numbers are taken for 0; made of its bits, as arithmetic might make it 0
(_SMALLEST,) = struct.unpack("<d", b"\x01" + bytes(7))


class Run(Protocol):
    """Calls a function with every part, on one thread or several, like ``map``."""

    def __call__(
        self, work: Callable[[Part], Result], parts: Iterable[Part], /
    ) -> Iterator[Result]:
        """The results, in the order of the parts."""
        ...


def number_of_threads(threads: int | None) -> int:
    """The number asked for, or torch's own (``torch.get_num_threads()``)."""
    if threads is None:
        return torch.get_num_threads()
    if threads < 1:
        raise InputError(f"{keyword('threads', threads)}: at least 1 is needed")
    return threads


def ranges(size: int) -> list[tuple[int, int]]:
    """Ranges of a tensor of this size: first element, and the one after the last."""
    return [(low, min(low + RANGE, size)) for low in range(0, size, RANGE)]


def run_all(
    items: Sequence[Item],
    size: Callable[[Item], int],
    work: Callable[[Item, Run], Result],
    threads: int | None,
    progress: bool = False,
) -> list[Result]:
    """The result of each item, in their order; it does not depend on the number of threads.

    Args:
        items: What to work on.
        size: Number of elements of one.
        work: Works on one item; runs its parts by the second argument.
        threads: How many; None for ``torch.get_num_threads()``.
        progress: Whether to show a bar.
    """
    threads = number_of_threads(threads)
    sizes = [size(item) for item in items]
    threads = min(threads, max(ceil(sum(sizes) / _WORTH), 1))
    largest_first = sorted(range(len(items)), key=lambda i: -sizes[i])
    huge = [i for i in largest_first if sizes[i] >= _HUGE and threads > 1]
    found: dict[int, Result] = {}
    counted = bar(sum(sizes), "weights", shown=progress, unit="weights", scale=True)
    with _subnormals(), _workers(threads) as run, counted as advance:
        for i in huge:
            found[i] = work(items[i], run)
            advance(sizes[i])
        rest = largest_first[len(huge) :]
        for i, result in zip(rest, run(lambda i: work(items[i], map), rest), strict=True):
            found[i] = result
            advance(sizes[i])
    return [found[i] for i in range(len(items))]


@contextmanager
def _subnormals() -> Iterator[None]:
    """Numbers below the normal ones are what they are, and not 0, in this thread and its children.

    Else nothing lies between 0 and the next number, by which zeros are counted
    (``torch.set_flush_denormal``).
    """
    flushed = _SMALLEST == 0.0
    if flushed:
        torch.set_flush_denormal(False)
    try:
        yield
    finally:
        if flushed:
            torch.set_flush_denormal(True)


@contextmanager
def _workers(threads: int) -> Iterator[Run]:
    """A ``map`` over so many threads, which end with the block; on a failure without delay."""
    if threads == 1:
        yield map
        return
    executor = ThreadPoolExecutor(threads)
    try:
        yield executor.map
    finally:
        executor.shutdown(cancel_futures=True)
