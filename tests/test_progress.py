import re
import sys
import threading

import pytest
import torch
from tqdm import tqdm

import weightscope as ws
from mpseg_models import create_model
from weightscope.progress import bar, steps


def shown(capsys):
    """What was drawn, one entry for each time."""
    return re.split("[\r\n]+", capsys.readouterr().err)


def test_a_bar_names_what_it_counts_and_shows_the_whole(capsys):
    with bar(4, "ablation", shown=True, unit="batch", initial=1) as advance:
        for _ in range(3):
            advance(1)
    last = shown(capsys)[-2]
    assert last.startswith("ablation: 100%")
    assert "4/4" in last
    assert "batch" in last


def test_nothing_is_drawn_or_imported_unless_asked_for(capsys, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tqdm.auto", None)
    with bar(4, "ablation", shown=False) as advance, steps(2, "analyze", shown=False) as begin:
        advance(1)
        begin("costs")
    assert capsys.readouterr().err == ""
    with pytest.raises(ImportError), bar(4, "ablation", shown=True):
        pass


def test_a_step_counts_when_it_is_over(capsys):
    drawing = steps(2, "analyze", shown=True)
    begin = drawing.__enter__()
    begin("costs")
    begin("data")
    assert not drawing.__exit__(ZeroDivisionError, ZeroDivisionError(), None)
    drawn = shown(capsys)
    assert any(line.startswith("analyze: costs:   0%") for line in drawn)
    assert drawn[-2].startswith("analyze: data:  50%")


def test_an_analysis_shows_the_whole_and_ends_complete(capsys):
    network = create_model("half_unet", width=4, seed=0)
    images = torch.rand(2, 3, 16, 16)
    targets = torch.ones(2, 1, 16, 16)
    ws.analyze(network, batches=[(images, targets)], metric="f1", progress=True)
    drawn = shown(capsys)
    assert any("ablation:" in line and "/2" in line for line in drawn)
    last = [line for line in drawn if "analyze" in line][-1]
    assert last.startswith("analyze: 100%")
    assert "6/6" in last  # no images= beside the batches


class Gone:
    """A stream behind which nobody is any more, from some call on."""

    encoding = "utf-8"

    def __init__(self, error, at):
        self.error, self.left = error, at

    def write(self, text):
        self.left -= 1
        if self.left < 0:
            raise self.error
        return len(text)

    flush = isatty = fileno = lambda self: 0


@pytest.mark.parametrize("at", [0, 1, 3, 6])
@pytest.mark.parametrize("error", [
    BrokenPipeError(32, "Broken pipe"), OSError(5, "Input/output error"), OSError(28, "No space"),
    ValueError("I/O operation on closed file"), None,
])  # fmt: skip
def test_work_goes_on_where_its_bar_cannot_be_drawn(monkeypatch, error, at):
    """After hours in a terminal that is closed, or in a program that has no console."""
    monkeypatch.setattr(sys, "stderr", Gone(error, at) if error else None)
    done = []
    with bar(4, "ablation", shown=True) as advance, steps(3, "analyze", shown=True) as begin:
        for number in range(4):
            begin(f"step {number}")
            advance(1)
            done.append(number)
    assert done == [0, 1, 2, 3]
    assert not tqdm._instances


def test_an_interrupt_while_a_bar_is_drawn_is_one(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Gone(KeyboardInterrupt(), 0))
    with pytest.raises(KeyboardInterrupt), bar(4, "ablation", shown=True):
        pass
    assert not tqdm._instances
    free = []
    # a lock that is kept belongs to this thread, and stops the bars of every other one for good

    def ask():
        for lock in tqdm.get_lock().locks:
            free.append(lock.acquire(False))
            if free[-1]:
                lock.release()

    asks = threading.Thread(target=ask)
    asks.start()
    asks.join()
    assert free
    assert all(free)
