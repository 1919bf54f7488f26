"""Threads, forks and broken compilers: what belongs to the process stays as it was."""

import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from weightscope.summaries import summarize, threads

ROOT = Path(__file__).parents[2]


def monitors():
    """The threads that watch over progress bars."""
    return {t for t in threading.enumerate() if "monitor" in type(t).__name__.lower()}


@pytest.mark.parametrize("number", [1, 2, 5])
@pytest.mark.parametrize("progress", [False, True])
def test_results_keep_their_order(number, progress, monkeypatch, capsys):
    monkeypatch.setattr(threads, "RANGE", 10)
    monkeypatch.setattr(threads, "_HUGE", 40)
    sizes = [3, 50, 1, 0, 10, 7, 45]

    def work(size, run):
        time.sleep(0.001 * (size % 3))
        return [high - low for low, high in run(lambda part: part, threads.ranges(size))]

    before = monitors()  # of bars that other tests drew
    found = threads.run_all(sizes, lambda size: size, work, number, progress)
    assert [sum(parts) for parts in found] == sizes
    assert ("116/116" in capsys.readouterr().err) is progress
    assert monitors() <= before


@pytest.mark.parametrize("number", [1, 3])
@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_a_failure_ends_the_work_of_all_threads(number, error, monkeypatch):
    monkeypatch.setattr(threads, "RANGE", 1)
    before, done = threading.active_count(), []

    def work(item, run):
        if item == 1:
            raise error
        time.sleep(0.001)
        done.append(item)

    with pytest.raises(error):
        threads.run_all(range(1000), lambda _: 1, work, number)
    assert threading.active_count() == before
    assert len(done) < 900


def test_nothing_to_do():
    assert threads.run_all([], lambda _: 1, lambda item, run: item, 2) == []


def test_settings_of_the_process_are_not_touched(monkeypatch):
    """Other threads see the same number of torch's threads and the same switch interval."""
    monkeypatch.setattr(threads, "RANGE", 1 << 18)
    torch_threads = torch.get_num_threads()
    torch.set_num_threads(3)
    seen = set()
    stop = threading.Event()

    def watch():
        while not stop.is_set():
            new = threading.Thread(
                target=lambda: seen.add((torch.get_num_threads(), sys.getswitchinterval()))
            )
            new.start()
            new.join()

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        for way in (torch.float32, torch.bfloat16, torch.float64):
            summarize(torch.randn(2_000_000).to(way), threads=2)
    finally:
        stop.set()
        watcher.join()
        torch.set_num_threads(torch_threads)
    assert seen == {(3, sys.getswitchinterval())}


def run_python(code, **environment):
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env={**os.environ, **environment},
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.split(), done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_the_child_of_a_fork_can_measure_while_its_parent_does():
    code = """
import os, threading, torch, warnings
from weightscope.summaries import summarize
warnings.simplefilter("ignore", DeprecationWarning)  # a fork of a process with threads
torch.set_num_threads(1)
weights = torch.arange(200_000.0)
summarize(weights, threads=1)  # torch sets up each operator once, under a lock of its own
stop = threading.Event()
def measure():
    while not stop.is_set():
        summarize(weights, threads=2)
worker = threading.Thread(target=measure); worker.start()
failed = 0
for _ in range(20):
    child = os.fork()
    if not child:
        os._exit(int(summarize(weights, threads=1).mean != 99_999.5))
    failed += os.waitpid(child, 0)[1] != 0
stop.set(); worker.join()
print(failed)
"""
    assert run_python(code)[0] == ["0"]


@pytest.mark.parametrize("count", [6, 1 << 16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_zeros_are_counted_where_subnormal_numbers_are_taken_for_zero(count, dtype):
    """No number lay between 0 and the next one there, so that no zero was found."""
    values = torch.zeros(count, dtype=dtype)
    values[::2] = 1.0
    values[1] = 1e-40
    expected = summarize(values)
    assert torch.set_flush_denormal(True)
    try:
        found = summarize(values)
        with ThreadPoolExecutor(1) as worker:
            beside = threads.run_all([1], int, lambda *_: worker.submit(is_zero).result(), 1)
        assert is_zero()
    finally:
        torch.set_flush_denormal(False)
    assert repr(found) == repr(expected)
    assert found.zero == count // 2 - 1
    assert beside == [False]
    summarize(values)
    assert not is_zero()


def is_zero():
    return threads._SMALLEST == 0.0


@pytest.mark.parametrize("broken", [
    "raise ImportError('no numba')", "raise OSError('libLLVM.so: cannot open')",
    "def njit(*a, **k): raise RuntimeError('broken')",
    pytest.param("njit = None", marks=pytest.mark.slow),
    "def njit(*a, **k): return lambda f: (lambda *x: 1 / 0)",
])  # fmt: skip
def test_numba_that_is_installed_but_broken(broken, tmp_path):
    (tmp_path / "numba.py").write_text(broken)
    code = (
        "import torch; from weightscope.summaries import summarize; "
        "print(summarize(torch.arange(100_000.0)).quantiles[0.5])"
    )
    out, err = run_python(code, PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOT}")
    assert out == ["49999.5"]
    assert f"numba does not work ({tmp_path / 'numba.py'}; " in err
