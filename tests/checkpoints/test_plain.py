"""What the library wrote with torch.save is read back whole, and nothing else is."""

import os
import zipfile

import numpy as np
import pytest
import torch

from weightscope.checkpoints import load_plain
from weightscope.errors import CheckpointError
from weightscope.files import write_pickle

TIED = torch.arange(6.0).reshape(2, 3)
NINE_THOUSAND = torch.ones(9000)
CONTENT = {
    "text": "a\u20ac", "numbers": [1, -(2**40), 1.5, float("inf"), True, False, None],
    "nested": ({"state": {0: {"step": torch.tensor(3.0)}, 1: {}}}, [], ()),
    "half": torch.ones(3).half(), "whole": torch.arange(4), "turned": TIED.t(), "tied": TIED,
    "empty": torch.ones(0, 3), "bool": torch.tensor([True]),
}  # fmt: skip


def same(one, two):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, two) and one.dtype == two.dtype
    if isinstance(one, dict):
        return list(one) == list(two) and all(same(v, two[k]) for k, v in one.items())
    if isinstance(one, list | tuple):
        return type(one) is type(two) and len(one) == len(two) and all(map(same, one, two))
    return type(one) is type(two) and one == two


def test_what_was_written_is_read(tmp_path):
    write_pickle(CONTENT, tmp_path / "a")
    assert same(CONTENT, load_plain(tmp_path / "a"))


def test_the_state_of_an_optimizer_comes_back(tmp_path):
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    write_pickle(optimizer.state_dict(), tmp_path / "a")
    assert same(optimizer.state_dict(), load_plain(tmp_path / "a"))


def nested():
    value = [torch.ones(2)]
    for _ in range(60):
        value = [value, value]
    return value


def test_shared_parts_are_made_once(tmp_path):
    write_pickle(nested(), tmp_path / "a")
    found = load_plain(tmp_path / "a")
    assert found[0] is found[1]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"a": np.float64(1)}, "more than plain values"),
        ({"a": "x" * 5000}, "more than plain values"),
        ({"a": torch.Size([1])}, "more than plain values"),
        ({1.5: 1}, "is no name"),
        ({(1, 2): 1}, "is no name"),
        ({"a": torch.eye(3).to_sparse()}, "cannot be read"),
        ({"a": torch.ones(1).expand(10**12)}, "cannot be read"),
        ({"a": [NINE_THOUSAND[i:] for i in range(40)]}, "are the same numbers"),
    ],
)
def test_anything_else_is_refused(tmp_path, content, words):
    write_pickle(content, tmp_path / "a")
    with pytest.raises(CheckpointError, match=words):
        load_plain(tmp_path / "a")


def test_what_holds_itself_or_is_deep_is_refused(tmp_path):
    write_pickle(CONTENT, tmp_path / "good")
    with zipfile.ZipFile(tmp_path / "good") as good:
        version = good.read("archive/version" if "archive/version" in good.namelist() else
                            next(n for n in good.namelist() if n.endswith("version")))  # fmt: skip
    for program in (b"\x80\x02]q\x00h\x00a.", b"\x80\x02" + b"]" * 50_000 + b"a" * 49_999 + b"."):
        with zipfile.ZipFile(tmp_path / "a", "w") as archive:
            archive.writestr("a/data.pkl", program)
            archive.writestr("a/version", version)
        with pytest.raises(CheckpointError, match=r"too deeply"):
            load_plain(tmp_path / "a")


def test_other_files_are_named(tmp_path):
    (tmp_path / "text").write_text("no archive")
    os.mkfifo(tmp_path / "pipe")
    for name, words in {
        "text": "no archive", "pipe": "is a pipe", ".": "is a folder", "gone": "No such file",
    }.items():  # fmt: skip
        with pytest.raises(CheckpointError, match=words):
            load_plain(tmp_path / name)
