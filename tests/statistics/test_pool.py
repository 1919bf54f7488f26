import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from weightscope.statistics.pool import Job, run_in_groups, run_jobs
from weightscope.statistics.steps import RANGE


def work(name, tasks=3, rounds=2, task=lambda name, n: (name, n)):
    """A job that asks for tasks again and again and returns all that they returned."""
    seen = []
    for _ in range(rounds):
        seen += yield [lambda n=n: task(name, n) for n in range(tasks)]
    return seen


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_results_keep_their_order(threads):
    sizes = [3, 5 * RANGE, 1, 0, RANGE, 7, 2 * RANGE]

    def unsteady(name, n):
        time.sleep(0.001 * ((name + n) % 3))
        return name, n

    jobs = [Job(size, lambda i=i: work(i, task=unsteady)) for i, size in enumerate(sizes)]
    expected = [[(i, n) for _ in range(2) for n in range(3)] for i in range(len(sizes))]
    assert run_jobs(jobs, threads) == expected


@pytest.mark.parametrize("threads", [1, 3])
def test_a_failure_ends_the_work_of_all_threads(threads):
    def broken(name, n):
        if name == 1:
            raise ZeroDivisionError
        return n

    before = threading.active_count()
    jobs = [Job(RANGE, lambda i=i: work(i, task=broken)) for i in range(3)]
    with pytest.raises(ZeroDivisionError):
        run_jobs(jobs, threads)
    assert threading.active_count() == before


def test_threads_share_the_tasks_of_one_tensor():
    meeting = threading.Barrier(2, timeout=30)
    job = Job(2 * RANGE, lambda: work("large", 2, task=lambda name, n: meeting.wait()))
    assert sorted(run_jobs([job], 2)[0]) == [0, 0, 1, 1]


@pytest.fixture
def three_torch_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("threads", [1, 2])
def test_torch_has_one_thread_inside_and_as_many_as_before_outside(threads, three_torch_threads):
    met = threading.Barrier(threads, timeout=30)

    def ask(name, n):
        met.wait()
        return torch.get_num_threads()

    def break_down(name, n):
        raise ZeroDivisionError

    assert run_jobs([Job(2 * RANGE, lambda: work("a", 2, 1, ask))], threads) == [[1, 1]]
    assert torch.get_num_threads() == 3
    with pytest.raises(ZeroDivisionError):
        run_jobs([Job(2 * RANGE, lambda: work("a", 2, 1, break_down))], threads)
    assert torch.get_num_threads() == 3
    found = []
    new = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    new.start()
    new.join()
    assert found == [3]


@pytest.mark.parametrize("threads", [1, 2])
def test_the_interpreter_switches_threads_as_before_outside(threads):
    before = sys.getswitchinterval()
    seen = []

    def ask(name, n):
        seen.append(sys.getswitchinterval())
        if n:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_jobs([Job(2 * RANGE, lambda: work("a", 2, 1, ask))], threads)
    assert sys.getswitchinterval() == before
    assert min(seen) < before if threads > 1 else min(seen) == before


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("sizes", [
    [], [0], [0, 0, 5], [3, 9 * RANGE, 1, 0, 7, RANGE, 5 * RANGE, 4 * RANGE], [1] * 300,
])  # fmt: skip
def test_groups_give_a_result_for_each_item_in_order(sizes, threads):
    groups = []

    def begin(items):
        groups.append(items)
        found = yield [lambda item=item: item[0] for item in items if item[1]]
        assert len(found) == sum(item[1] > 0 for item in items)
        return [item[0] for item in items]

    items = list(enumerate(sizes))
    assert run_in_groups(items, lambda item: item[1], begin, threads) == list(range(len(sizes)))
    for group in groups:
        assert len(group) <= 128
        assert len(group) == 1 or sum(size for _, size in group) <= 2 * RANGE


def test_nothing_to_do():
    assert run_jobs([], 2) == []
    assert run_jobs([Job(0, lambda: work("empty", rounds=0))], 2) == [[]]


def test_an_interrupt_while_threads_start_ends_the_work(monkeypatch):
    submit = ThreadPoolExecutor.submit
    done = []

    def interrupted(pool, task):
        if done:
            raise KeyboardInterrupt
        future = submit(pool, task)
        while not done:
            time.sleep(0.001)
        return future

    def slow(name, n):
        done.append(n)
        time.sleep(0.01)

    monkeypatch.setattr(ThreadPoolExecutor, "submit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_jobs([Job(2 * RANGE, lambda: work("a", 100, 1, slow))] * 3, 3)
    assert len(done) < 50
