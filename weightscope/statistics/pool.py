"""A pool of threads over many tensors."""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from math import ceil
from typing import Any, Generic, TypeVar

import torch

from weightscope.errors import InputError
from weightscope.statistics import steps
from weightscope.statistics.steps import Result, Steps

Item = TypeVar("Item")
# the next job is begun when there are fewer tasks than this for each thread
_FEW = 3
# seconds that a thread has the interpreter for itself while others wait
_TURN = 0.0002
# of a group; its numbers should still be in the outer cache when they are read a second time
_MOST_ELEMENTS = 2 * steps.RANGE
_MOST_MEMBERS = 128
# the number that torch gives to new threads is one for the whole process
_LOCK = threading.Lock()


@dataclass(frozen=True)
class Job(Generic[Result]):
    """Work on a tensor, or on several.

    Attributes:
        elements: Their number, for the progress bar and the number of threads.
        begin: Begins the work; its result does not depend on the number of threads.
    """

    elements: int
    begin: Callable[[], Steps[Result]]


def number_of_threads(threads: int | None) -> int:
    """The number asked for, or torch's own (``torch.set_num_threads``)."""
    if threads is None:
        return torch.get_num_threads()
    if threads < 1:
        raise InputError(f"threads={threads}: at least 1 is needed")
    return threads


def run_jobs(jobs: Sequence[Job[Result]], threads: int, progress: bool = False) -> list[Result]:
    """Run all jobs with so many threads and return their results in order.

    Torch's operators have one thread each meanwhile. Runs that threads of the caller's begin at the
    same time wait for each other; a job must not begin one.
    """
    from tqdm.auto import tqdm

    total = sum(job.elements for job in jobs)
    threads = min(threads, max(len(jobs), ceil(total / steps.RANGE)))
    bar = tqdm(total=total, unit="weights", unit_scale=True, disable=not progress)
    with bar, _one_torch_thread(), _short_turns(threads):
        work = _Work(jobs, threads, bar.update)
        if threads <= 1:
            work.share()
        else:
            with ThreadPoolExecutor(threads - 1) as pool:
                try:
                    others = [pool.submit(work.share) for _ in range(threads - 1)]
                    work.share()
                except BaseException:
                    work.stop()
                    raise
            for other in others:
                other.result()
    return [work.results[i] for i in range(len(jobs))]


def run_in_groups(
    items: Sequence[Item],
    size: Callable[[Item], int],
    begin: Callable[[list[Item]], Steps[list[Result]]],
    threads: int,
    progress: bool = False,
) -> list[Result]:
    """Run jobs on groups of items of like size and return the results of the items in order.

    Args:
        items: What to work on.
        size: Number of elements of one.
        begin: Begins the work on a group; gives a result for each of its items.
        threads: See ``run_jobs``.
        progress: See ``run_jobs``.
    """
    groups = _groups([size(item) for item in items])
    jobs = [
        Job(sum(size(items[i]) for i in group), partial(begin, [items[i] for i in group]))
        for group in groups
    ]
    results = run_jobs(jobs, threads, progress)
    found = {
        i: result
        for group, members in zip(groups, results, strict=True)
        for i, result in zip(group, members, strict=True)
    }
    return [found[i] for i in range(len(items))]


def _groups(sizes: Sequence[int]) -> list[list[int]]:
    """Places of the items of each group, the smallest items first.

    They are mostly Python, which two threads cannot run at once, and so runs beside the passes over
    larger ones; these come last, because all threads can share the ranges of one.
    """
    largest_first = sorted(range(len(sizes)), key=lambda i: -sizes[i])
    return [group[::-1] for group in pack(largest_first, sizes, _MOST_ELEMENTS)][::-1]


def pack(places: Sequence[int], sizes: Sequence[int], most: int) -> list[list[int]]:
    """The same places in groups of at most ``most`` elements (or one place) and _MOST_MEMBERS."""
    groups: list[list[int]] = []
    held = 0
    for i in places:
        if not groups or held + sizes[i] > most or len(groups[-1]) == _MOST_MEMBERS:
            groups.append([])
            held = 0
        groups[-1].append(i)
        held += sizes[i]
    return groups


@contextmanager
def _one_torch_thread() -> Iterator[None]:
    """Keep torch's operators to one thread, here and in threads that are begun meanwhile."""
    with _LOCK:
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(before)


@contextmanager
def _short_turns(threads: int) -> Iterator[None]:
    """Let threads that come back from a pass wait less long for the interpreter.

    A pass over a range takes about a millisecond, the interpreter's usual turn is five.
    """
    before = sys.getswitchinterval()
    if threads > 1:
        sys.setswitchinterval(_TURN)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


class _Work(Generic[Result]):
    """The jobs not begun yet and the tasks that begun ones wait for.

    Jobs are begun in their order, each before the tasks of the one before it run out.
    """

    def __init__(
        self, jobs: Sequence[Job[Result]], threads: int, report: Callable[[int], object]
    ) -> None:
        self.results: dict[int, Result] = {}
        self._jobs = jobs
        self._threads = threads
        self._report = report
        self._waiting = deque(range(len(jobs)))
        self._ready: deque[Callable[[], None]] = deque()
        self._changed = threading.Condition()
        self._failed = False

    def share(self) -> None:
        """Work until all is done, or until a thread fails."""
        try:
            while (task := self._next()) is not None:
                task()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Let every thread end when it is done with its task."""
        with self._changed:
            self._failed = True
            self._changed.notify_all()

    def _next(self) -> Callable[[], None] | None:
        with self._changed:
            while not self._failed and len(self.results) < len(self._jobs):
                if len(self._ready) >= (_FEW * self._threads if self._waiting else 1):
                    return self._ready.popleft()
                if self._waiting:
                    i = self._waiting.popleft()
                    return lambda: self._go_on(i, self._jobs[i].begin(), None)
                self._changed.wait()
        return None

    def _go_on(self, i: int, work: Steps[Result], results: list[Any] | None) -> None:
        """Run a job up to the next tasks that others can share, or to its end."""
        try:
            tasks = next(work) if results is None else work.send(results)
            while len(tasks) <= 1:
                tasks = work.send([task() for task in tasks])
        except StopIteration as end:
            with self._changed:
                self.results[i] = end.value
                self._report(self._jobs[i].elements)
                self._changed.notify_all()
            return
        found = [None] * len(tasks)
        left = set(range(len(tasks)))

        def run(place: int, task: Callable[[], Any]) -> None:
            found[place] = task()
            with self._changed:
                left.discard(place)
                if left:
                    return
            self._go_on(i, work, found)

        with self._changed:
            self._ready.extend(partial(run, place, task) for place, task in enumerate(tasks))
            self._changed.notify_all()
