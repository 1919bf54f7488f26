"""The user's model and process are as they were, after success, failure and interrupt."""

import itertools
import warnings
from contextlib import suppress

import pytest

from fuzz.states import CALLS, KINDS, count_calls, try_call
from weightscope import WeightscopeError


@pytest.fixture(scope="module", autouse=True)
def _libraries(tmp_path_factory):
    """The first call imports libraries, which add filters of warnings of their own."""
    for call in (CALLS["ablate"], CALLS["watch"]):
        with suppress(WeightscopeError), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            call(KINDS["plain"](), tmp_path_factory.mktemp("first"))


FEW = [("draws and counts", "ablate"), ("writes weights", "ablate"), ("mixed modes", "watch")]


def check(kind, call, outcome, folder, interrupt_at=None):
    changed, ended = try_call(kind, call, outcome, folder, interrupt_at)
    assert changed == [], f"{kind}, {call}, {outcome} at {interrupt_at} ({ended})"
    assert not ended.startswith("leaked"), f"{kind}, {call}, {outcome}: {ended}"


@pytest.mark.sample(2)
@pytest.mark.parametrize(("kind", "call"), FEW)
@pytest.mark.parametrize("outcome", ["success", "failure"])
def test_some_models_and_calls(kind, call, outcome, tmp_path):
    check(kind, call, outcome, tmp_path)


def test_some_interrupts(tmp_path):
    count_calls("tied", "watch", tmp_path)  # the first in a process imports more
    calls = count_calls("tied", "watch", tmp_path)
    assert calls > 20
    for at in (1, calls // 2, calls):
        changed, ended = try_call("tied", "watch", "success", tmp_path, at)
        assert (changed, ended) == ([], "interrupted")


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
