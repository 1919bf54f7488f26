"""Disks without room and places that are closed: every writer says so and leaves nothing behind."""

import os
import resource
from contextlib import contextmanager

import pytest
import torch

import weightscope as ws
from fuzz.states import Small
from weightscope.files import make_folder, write_csv, write_pickle, write_text


@contextmanager
def no_room(bytes_=64):
    """Let no file of this process grow beyond so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture(scope="module")
def made():
    """An analysis, a variant and a history: what can be written."""
    torch.manual_seed(0)
    model = Small()
    analysis = ws.analyze(model, example_inputs=torch.zeros(1, 1, 16, 16), response=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with ws.watch(model, optimizer, every=1) as history:
        optimizer.step()
    return analysis, analysis.proposals[0].build(), history


def _start(made, path):
    model = torch.nn.Linear(30, 30)
    with ws.watch(model, torch.optim.SGD(model.parameters(), lr=0.1), store=path):
        pass


IMAGES = torch.rand(6, 1, 16, 16, generator=torch.Generator().manual_seed(0))
WRITERS = {
    "table": lambda made, path: write_csv(made[0].layers, path),
    "text": lambda made, path: write_text(path, "x" * 99),
    "page": lambda made, path: made[0].to_html(path),
    "variant": lambda made, path: ws.save(made[1], path),
    "start": _start,
    "history": lambda made, path: ws.save_history(made[2], path),
    "histograms": lambda made, path: made[2].to_csv(path),
    "arrays": lambda made, path: made[2].to_npz(path),
    "state": lambda made, path: write_pickle(made[2].state_dict(), path),
    "recovery": lambda made, path: made[1].recover(IMAGES, steps=2, progress=False, resume=path),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_disk_without_room(name, made, tmp_path):
    weights = {n: v.clone() for n, v in made[1].module.state_dict().items()}
    with no_room(), pytest.raises(ws.InputError, match=r"cannot write .*out'.*free some space"):
        WRITERS[name](made, tmp_path / "out")
    assert os.listdir(tmp_path) == []
    assert all(torch.equal(v, weights[n]) for n, v in made[1].module.state_dict().items())


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("x")
    for place in (tmp_path / "file", tmp_path / "file" / "in", "a\0b"):
        with pytest.raises(ws.InputError, match="cannot make the folder"):
            make_folder(place)
    with pytest.raises(ws.InputError, match="expected the path of a folder"):
        make_folder(3)
    with pytest.raises(ws.InputError, match="cannot make the folder"):
        ws.shrink(Small(), images=IMAGES, resume=tmp_path / "file", progress=False)


def test_an_older_file_stays_where_there_is_no_room(made, tmp_path):
    ws.save(made[1], tmp_path / "out")
    before = (tmp_path / "out").read_bytes()
    with no_room(), pytest.raises(ws.InputError, match="cannot write"):
        ws.save(made[1], tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == before
    assert os.listdir(tmp_path) == ["out"]
