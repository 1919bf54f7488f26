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


def test_a_forked_child_does_not_wait_for_threads_of_its_parent():
    script = """
import os, threading
from weightscope.adapters.modes import alone
held, done = threading.Event(), threading.Event()
def hold():
    with alone():
        held.set()
        done.wait()
threading.Thread(target=hold).start()
held.wait()
child = os.fork()
if not child:
    with alone():
        os._exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
done.set()
"""
    run = [sys.executable, "-W", "ignore", "-c", script]
    assert subprocess.run(run, capture_output=True, text=True, timeout=300).stdout == "7\n"
