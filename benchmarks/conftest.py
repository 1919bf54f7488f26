"""Ratios against a baseline that is measured in the same run, one round each in turn."""

from __future__ import annotations

import os
import statistics
import threading
import time

import pytest
import torch

# seconds; threads of torch's spin for a while before they sleep
_PAUSE = 0.02


@pytest.fixture
def against(benchmark):
    """Measure a subject and a baseline in turn; the medians' ratio goes to ``extra_info``."""

    def measure(subject, baseline, *, what, versus, goal, rounds=9, inverse=False, clock=None):
        """Compare.

        Args:
            subject: What is measured.
            baseline: What it is compared with.
            what: Name of the subject in the table.
            versus: Name of the baseline.
            goal: Largest ratio subject / baseline that meets the goal; with ``inverse`` the
                smallest ratio baseline / subject; None for no goal.
            rounds: Rounds of each, after one round of warming up.
            inverse: Whether the table shows how much slower the baseline is.
            clock: What tells the seconds; by default processor time of one thread, which other
                people's work disturbs least, and wall time of several.
        """
        ours, theirs = [], []
        alone = torch.get_num_threads() == 1
        clock = clock or (time.process_time if alone else time.perf_counter)

        def before_each_round():
            if not alone:
                torch.ones(1 << 20).sum()  # wakes the threads that the subject sent away
            start = clock()
            baseline()
            theirs.append(clock() - start)
            if not alone:
                time.sleep(_PAUSE)

        def timed():
            start = clock()
            subject()
            ours.append(clock() - start)

        benchmark.pedantic(timed, setup=before_each_round, rounds=rounds, warmup_rounds=1)
        ours, theirs = ours[1:], theirs[1:]
        median, base = statistics.median(ours), statistics.median(theirs)
        ratio = base / median if inverse else median / base
        record(
            what=what, versus=versus, seconds=median, baseline_seconds=base, ratio=ratio,
            goal=goal, met=goal is None or (ratio >= goal if inverse else ratio <= goal),
            at_least=inverse, threads=torch.get_num_threads(),
        )  # fmt: skip
        return ratio

    def record(**row):
        benchmark.extra_info["row"] = {"load": os.getloadavg()[0], **row}

    measure.record, measure.benchmark = record, benchmark
    return measure


@pytest.fixture
def threads(request):
    """Set torch's number of threads for one benchmark."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


class PeakMemory:
    """Growth of the process's anonymous memory inside the block, sampled every few ms, in bytes."""

    def __enter__(self):
        self._done = threading.Event()
        self._start = self.growth = _anonymous()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self):
        while not self._done.wait(0.005):
            self.growth = max(self.growth, _anonymous())

    def __exit__(self, *_):
        self._done.set()
        self._thread.join()
        self.growth = max(self.growth, _anonymous()) - self._start


def _anonymous():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("RssAnon")) << 10


@pytest.fixture
def peak_memory():
    return PeakMemory
