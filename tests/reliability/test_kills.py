"""Writers that are killed at any moment leave the old file, the new one, or none; never half."""

import os
import random
import signal
import time

import numpy as np
import pytest
import torch
from safetensors import safe_open

import weightscope as ws
from fuzz.states import Small
from weightscope.files import write_csv
from weightscope.truncation import saving

ROUNDS = 60_000


def _tables(folder):
    """Two different tables, written in turns; each says how long it is."""
    import pandas as pd

    frames = [pd.DataFrame({"x": range(n), "all": n}) for n in (20, 3_000)]

    def write(i):
        write_csv(frames[i % 2], folder / "out")

    def whole():
        lines = (folder / "out").read_text().splitlines()
        return len(lines) == 1 + int(lines[1].split(",")[1])

    return write, whole


def _variants(folder):
    """The same variant with other numbers; its digest says whether they belong together."""
    proposal = ws.analyze(Small(), example_inputs=torch.zeros(1, 1, 16, 16)).proposals[0]
    variant = proposal.build()

    def write(i):
        with torch.no_grad():
            for parameter in variant.module.parameters():
                parameter.fill_(float(i % 7))
        ws.save(variant, folder / "out")

    def whole():
        recipe, tensors = saving._read(folder / "out")  # refuses what its digest does not fit
        return bool(recipe and tensors)

    return write, whole


def _starts(folder):
    """The weights at the start of a training."""
    model = torch.nn.Linear(300, 300)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def write(i):
        with torch.no_grad():
            model.weight.fill_(float(i))
            model.bias.fill_(float(i))
        with ws.watch(model, optimizer, store=folder / "out"):
            pass

    def whole():
        with safe_open(folder / "out", "pt") as file:
            return bool((file.get_tensor("weight") == file.get_tensor("bias")[0]).all())

    return write, whole


def _pages(folder):
    """The HTML page."""
    analysis = ws.analyze(Small(), example_inputs=torch.zeros(1, 1, 16, 16))

    def write(_):
        analysis.to_html(folder / "out")

    def whole():
        return (folder / "out").read_text().rstrip().endswith("</html>")

    return write, whole


def _trained():
    """A model, its optimiser, and a history of one step."""
    model = torch.nn.Linear(100, 100)
    optimizer = torch.optim.Adam(model.parameters())
    with ws.watch(model, optimizer, every=1) as history:
        model(torch.ones(1, 100)).sum().backward()
        optimizer.step()
    return history


def _histories(folder):
    """What an analysis needs of a training."""
    history = _trained()

    def whole():
        return ws.read_history(folder / "out").steps == 1

    return lambda _: ws.save_history(history, folder / "out"), whole


def _arrays(folder):
    """Histograms as arrays."""
    history = _trained()

    def whole():
        with np.load(folder / "out") as arrays:
            return all(arrays[name] is not None for name in arrays.files)

    return lambda _: history.to_npz(folder / "out"), whole


def _events(folder):
    """An event file of TensorBoard, which gets a name of its own each time."""
    history = _trained()

    def write(_):
        (folder / "out").mkdir(exist_ok=True)
        history.to_tensorboard(folder / "out")

    def whole():
        files = [file for file in (folder / "out").iterdir() if file.is_file()]
        for data in (file.read_bytes() for file in files):
            at = 0
            while at < len(data):  # length, check sum, content, check sum
                at += 16 + int.from_bytes(data[at : at + 8], "little")
            if at != len(data):
                return False
        return bool(files)

    return write, whole


def _recoveries(folder):
    """The course of a recovery that can be broken off."""
    proposal = ws.analyze(Small(), example_inputs=torch.zeros(1, 1, 16, 16)).proposals[0]
    variant, images = proposal.build(), torch.rand(6, 1, 16, 16)

    def write(_):
        (folder / "out").unlink(missing_ok=True)
        variant.recover(images, steps=4, progress=False, resume=folder / "out")

    def whole():  # as long as it was not begun anew there is none
        if not (folder / "out").exists():
            return True
        return torch.load(folder / "out", weights_only=True)["step"] > 0

    return write, whole


WRITERS = {
    "table": _tables,
    "variant": _variants,
    "start": _starts,
    "page": _pages,
    "history": _histories,
    "arrays": _arrays,
    "events": _events,
    "recovery": _recoveries,
}
SLOWER = {"page": 0.1, "events": 0.1, "recovery": 0.5}
"""Longest time before a kill, in seconds; a writer should come to write now and then."""


def kill_once(write, delay):
    """Kill a process that writes again and again, after so many seconds."""
    child = os.fork()
    if not child:
        try:
            for i in range(ROUNDS):
                write(i)
        finally:
            os._exit(1)
    time.sleep(delay)
    os.kill(child, signal.SIGKILL)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL


def check(name, kills, folder):
    torch.set_num_threads(1)  # a process with other threads must not be forked
    write, whole = WRITERS[name](folder)
    write(0)
    rng = random.Random(name)
    for _ in range(kills):
        kill_once(write, rng.uniform(0.0, SLOWER.get(name, 0.03)))
        assert whole()
        left = [entry for entry in os.listdir(folder) if entry != "out"]
        assert all(entry.startswith(".") and "tmp" in entry for entry in left)
        for entry in left:
            os.unlink(folder / entry)


@pytest.mark.parametrize("name", ["table", "start"])
def test_some_kills(name, tmp_path):
    check(name, 5, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", WRITERS)
def test_many_kills(name, tmp_path):
    check(name, 75, tmp_path)


def test_an_interrupted_training_is_resumed_bit_by_bit(tmp_path):
    """A history that is saved, killed and loaded says what an uninterrupted one says."""

    def train(model, optimizer, steps):
        for i in range(steps):
            torch.manual_seed(optimizer.state_dict()["state"].get(0, {}).get("step", i))
            optimizer.zero_grad()
            (model(torch.full((2, 3), 0.1)) ** 2).sum().backward()
            optimizer.step()

    def new():
        torch.manual_seed(0)
        model = torch.nn.Linear(3, 2)
        return model, torch.optim.Adam(model.parameters(), lr=0.01)

    model, optimizer = new()
    with ws.watch(model, optimizer, every=2) as history:
        train(model, optimizer, 6)
    whole = history.displacements()
    model, optimizer = new()
    with pytest.raises(KeyboardInterrupt), ws.watch(model, optimizer, every=2) as history:  # noqa: PT012
        train(model, optimizer, 3)
        torch.save(
            {"model": model.state_dict(), "optimizer": optimizer.state_dict(),
             "history": history.state_dict()}, tmp_path / "last",
        )  # fmt: skip
        raise KeyboardInterrupt
    model, optimizer = new()
    last = torch.load(tmp_path / "last", weights_only=True)
    model.load_state_dict(last["model"])
    optimizer.load_state_dict(last["optimizer"])
    with ws.watch(model, optimizer, every=2) as history:
        history.load_state_dict(last["history"])
        train(model, optimizer, 3)
    assert repr(history.displacements()) == repr(whole)
