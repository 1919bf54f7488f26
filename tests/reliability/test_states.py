"""The user's model and process are as they were, after success, failure and interrupt."""

import itertools

import pytest
from states import CALLS, KINDS, count_calls, try_call

FEW = [("draws and counts", "analyze with batches"), ("mixed modes", "ablate"), ("tied", "watch")]


def check(kind, call, outcome, folder, interrupt_at=None):
    changed, ended = try_call(kind, call, outcome, folder, interrupt_at)
    assert changed == [], f"{kind}, {call}, {outcome} at {interrupt_at} ({ended})"
    assert not ended.startswith("leaked"), f"{kind}, {call}, {outcome}: {ended}"


@pytest.mark.parametrize(("kind", "call"), FEW)
@pytest.mark.parametrize("outcome", ["success", "failure"])
def test_some_models_and_calls(kind, call, outcome, tmp_path):
    check(kind, call, outcome, tmp_path)


def test_some_interrupts(tmp_path):
    calls = count_calls("draws and counts", "analyze with batches", tmp_path)
    assert calls > 100
    for part in (0.3, 0.9):
        check("draws and counts", "analyze with batches", "success", tmp_path, int(part * calls))


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "call"), list(itertools.product(KINDS, CALLS)))
@pytest.mark.parametrize("outcome", ["success", "failure", "interrupt"])
def test_every_model_and_call(kind, call, outcome, tmp_path):
    if outcome != "interrupt":
        check(kind, call, outcome, tmp_path)
        return
    calls = count_calls(kind, call, tmp_path)
    for part in (0.01, 0.5, 0.97):
        check(kind, call, "success", tmp_path, max(int(part * calls), 1))
