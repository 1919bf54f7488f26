"""A pool of threads over many tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch

from weightscope.errors import InputError
from weightscope.statistics.passes import RANGE

Result = TypeVar("Result")


@dataclass(frozen=True)
class Job(Generic[Result]):
    """Work on one tensor.

    Attributes:
        elements: Its size, which decides how it is shared out.
        run: Does the work with so many threads; its result does not depend on their number.
    """

    elements: int
    run: Callable[[int], Result]


def number_of_threads(threads: int | None) -> int:
    """The number asked for, or torch's own (``torch.set_num_threads``)."""
    if threads is None:
        return torch.get_num_threads()
    if threads < 1:
        raise InputError(f"threads={threads}: at least 1 is needed")
    return threads


def run_jobs(jobs: Sequence[Job[Result]], threads: int, progress: bool) -> list[Result]:
    """Run all jobs and return their results in order.

    A tensor of several ranges is shared by all threads, one after the other; smaller ones take one
    thread each, the largest first.
    """
    from tqdm.auto import tqdm

    results: dict[int, Result] = {}
    large = [i for i, job in enumerate(jobs) if job.elements > RANGE]
    small = [i for i, job in enumerate(jobs) if job.elements <= RANGE]
    small.sort(key=lambda i: -jobs[i].elements)
    total = sum(job.elements for job in jobs)
    with tqdm(total=total, unit="weights", unit_scale=True, disable=not progress) as bar:

        def run(i: int, share: int) -> None:
            results[i] = jobs[i].run(share)
            bar.update(jobs[i].elements)

        for i in large:
            run(i, threads)
        if threads == 1 or len(small) < 2:
            for i in small:
                run(i, 1)
        else:
            with ThreadPoolExecutor(threads) as pool:
                for done in [pool.submit(run, i, 1) for i in small]:
                    done.result()
    return [results[i] for i in range(len(jobs))]
