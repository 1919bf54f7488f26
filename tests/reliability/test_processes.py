"""Loaders with workers, several threads, and processes that are started or forked."""

import multiprocessing
import subprocess
import sys
import threading
import warnings

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from fuzz.states import (
    KINDS,
    _analyze,
    _batches,
    _images,
    _loss,
    _told,
    differences,
    picture_of_model,
    picture_of_process,
)
from weightscope import ablate
from weightscope.adapters import modes


@pytest.fixture(scope="module", autouse=True)
def _libraries():
    """The first call imports libraries, which add filters of warnings of their own."""
    network = model()
    ablate(network, _batches(network), "f1", progress=False)
    _verdicts()


class Pairs(Dataset):
    """The four images of the batches, one by one."""

    def __init__(self, model):
        self.pairs = [pair for x, y in _batches(model) for pair in zip(x, y, strict=True)]

    def __len__(self):
        return len(self.pairs)

    def __getitem__(self, index):
        np.random.random()
        return self.pairs[index]


def model():
    torch.manual_seed(0)
    return KINDS["plain"]()


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
@pytest.mark.parametrize("start", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_loaders_with_workers(start):
    network = model()
    loader = DataLoader(Pairs(network), batch_size=2, num_workers=2, multiprocessing_context=start)
    before = picture_of_process()
    found = ablate(network, loader, "f1", progress=False)
    responses = _analyze(network, images=loader, response=False).images
    assert differences(before, picture_of_process()) == []
    assert found.equals(ablate(network, _batches(network), "f1", progress=False))
    assert responses == _analyze(network, images=_images(network), response=False).images
    assert not multiprocessing.active_children()


def _verdicts(_=0):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _analyze(model(), images=_images(model())).scores.to_csv()


@pytest.mark.slow
def test_a_process_that_was_started():
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.map(_verdicts, [0]) == [_verdicts()]


def test_four_threads_at_once():
    """They take turns: a trace changes what a module's call is, for the whole process."""
    kinds = "plain", "hooks", "draws and counts", "mixed modes"
    torch.manual_seed(0)
    networks = [KINDS[kind]() for kind in kinds]

    def analyze(network):
        return _told(_analyze(network, batches=_batches(network), loss=_loss))

    expected = [analyze(network) for network in networks]
    before = picture_of_process(), [picture_of_model(network) for network in networks]
    found = [None] * len(networks)

    def work(index):
        found[index] = analyze(networks[index])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(networks))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert differences(before[0], picture_of_process()) == []
    for network, own in zip(networks, before[1], strict=True):
        assert differences(own, picture_of_model(network)) == []
    assert found == expected


HELD = """
import os, threading
import torch
from torch import nn
from torch.utils.data import DataLoader
from weightscope.adapters.modes import alone
held, done, call = threading.Event(), threading.Event(), nn.Module.__call__
def hold():
    with alone():
        nn.Module.__call__ = lambda *_: None  # as a trace does
        held.set()
        done.wait()
        nn.Module.__call__ = call
class Images:
    def __len__(self):
        return 4
    def __getitem__(self, index):
        with alone():
            return nn.Linear(1, 1)(torch.ones(1)).detach() * 0 + index
threading.Thread(target=hold, daemon=True).start()
held.wait()
"""
CHILD = """
child = os.fork()
if not child:
    with alone():
        os._exit(7 if nn.Module.__call__ is call else 8)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
WORKERS = """
print([int(x) for x in DataLoader(Images(), batch_size=None, num_workers=2)])
"""
AFTER = """
with alone():
    pass
"""


@pytest.mark.sample(2)
@pytest.mark.parametrize(("script", "said"), [
    (CHILD, "7"), (WORKERS, "[0, 1, 2, 3]"), ("done.set()" + AFTER + WORKERS, "[0, 1, 2, 3]"),
])  # fmt: skip
def test_a_forked_child_does_not_wait_for_threads_of_its_parent(script, said):
    """Nor does it keep what they had changed for the time of a trace."""
    run = [sys.executable, "-W", "ignore", "-c", HELD + script + "done.set()"]
    assert subprocess.run(run, capture_output=True, text=True, timeout=300).stdout == f"{said}\n"


def test_a_recovery_gives_way_to_other_threads():
    """Between two steps, not at its end."""
    network = model()
    variant = _analyze(network, response=False).proposals[0].build()
    turns, threads = [], []

    def other():
        with modes.alone():
            turns.append("other")

    def loss(output, target):
        if not threads:
            threads.append(threading.Thread(target=other))
            threads[0].start()
            while not modes._turns.queue.locked():  # until it waits for its turn
                pass
        turns.append("step")
        return _loss(output, target)

    variant.recover(batches=_batches(network), loss=loss, steps=4, progress=False)
    threads[0].join()
    assert "other" in turns[:-1]
    assert turns.count("other") == 1


def test_threads_take_turns_in_their_order():
    turns, threads = [], []

    def take(number):
        with modes.alone():
            turns.append(number)

    with modes.alone(), modes.alone():  # one's own turn is not waited for
        for number in range(2):
            threads.append(threading.Thread(target=take, args=(number,)))
            threads[-1].start()
            while not modes._turns.queue.locked():
                pass
    with modes.alone():  # the first has waited longer
        assert turns[0] == 0
    for thread in threads:
        thread.join()
