"""A short run of ``make fuzz``, and its judge."""

import gc
import mmap

import pytest
import torch

from fuzz import bombs, inputs, judge, returned
from fuzz.__main__ import fuzz
from weightscope import CheckpointError


@pytest.mark.filterwarnings("ignore")  # of the reference, about what is in the files
def test_a_short_run():
    counts = fuzz(0, lambda rounds: rounds < 60, tuple(inputs.KINDS))
    assert set(counts) == set(inputs.KINDS)
    for kind, outcomes in counts.items():
        assert outcomes.total() == 60
        assert not any(outcomes[wrong] for wrong in judge.WRONG), kind
        assert outcomes["refused"] > 0
    assert sum(outcomes["read"] for outcomes in counts.values()) > 30
    for kinds in (tuple(inputs.KINDS), ("histories",)):
        assert fuzz(0, lambda n: n < 3, kinds) == fuzz(0, lambda n: n < 3, kinds)


def test_bombs():
    counts = fuzz(0, lambda rounds: rounds < 6, tuple(bombs.KINDS))
    for kind, outcomes in counts.items():
        assert outcomes.total() == 6
        assert not any(outcomes[wrong] for wrong in judge.WRONG), kind
        assert outcomes["refused"] > 0


@pytest.mark.filterwarnings("ignore")
def test_what_the_library_wrote_itself():
    counts = fuzz(0, lambda rounds: rounds < 8, tuple(returned.KINDS))
    for kind, outcomes in counts.items():
        assert outcomes.total() == 8
        assert outcomes["refused"] > 0
        assert not any(outcomes[wrong] for wrong in judge.WRONG), kind


def test_the_judge_finds_what_is_wrong(tmp_path, monkeypatch):
    whole = {"x.safetensors": inputs._safetensors_seeds()[0]}
    assert judge.judge("safetensors", whole, tmp_path) == ("read", "2 tensors")
    assert judge.judge("safetensors", {"x": b""}, tmp_path)[0] == "refused"
    with monkeypatch.context() as patch:
        patch.setattr(judge, "_reference", lambda kind, path: [torch.ones(3)])
        assert judge.judge("safetensors", whole, tmp_path)[0] == "wrong figures"
    with monkeypatch.context() as patch:
        patch.setattr(judge, "scan", lambda path, threads: {}["no such thing"])
        assert judge.judge("safetensors", whole, tmp_path) == (
            "leaked",
            "KeyError: 'no such thing'",
        )
    with monkeypatch.context() as patch:
        patch.setattr(judge, "LONGEST", 0.01)
        patch.setattr(judge, "scan", lambda path, threads: max(iter(lambda: 0, 1)))
        assert judge.judge("safetensors", whole, tmp_path)[0] == "slow"
    gc.collect()  # what other tests left must not make room for what this one takes
    with monkeypatch.context() as patch:
        patch.setattr(judge, "MOST_MEMORY", 32 << 20)
        patch.setattr(judge, "scan", refuse_with_much)
        for _ in range(2):  # a peak hides no later one
            assert judge.judge("safetensors", whole, tmp_path)[0] == "too much memory"


def refuse_with_much(path, threads):
    with mmap.mmap(-1, 64 << 20) as fresh:  # the heap may have room that earlier tests gave back
        fresh.write(bytes(64 << 20))
    raise CheckpointError("too much")
