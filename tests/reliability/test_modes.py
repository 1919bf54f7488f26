"""What surrounds a call does not matter: modes of the caller's thread, defaults of the process."""

import itertools
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from fuzz.states import CALLS, KINDS, _batches, _loss, call, comparable
from weightscope import InputError, analyze


class Seeing(TorchFunctionMode):
    """A mode of the user's own that sees every function of torch."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        return function(*args, **(kwargs or {}))


@contextmanager
def default_dtype():
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextmanager
def default_device():
    torch.set_default_device("meta")
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextmanager
def deterministic():
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@contextmanager
def subnormals_are_zero():
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


MODES = {
    "device": lambda: torch.device("meta"),
    "default device": default_device,
    "default dtype": default_dtype,
    "fake tensors": FakeTensorMode,
    "functions": Seeing,
    "inference": torch.inference_mode,
    "no gradients": torch.no_grad,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "deterministic": deterministic,
    "anomaly": lambda: torch.autograd.set_detect_anomaly(True),
    "counting": lambda: FlopCounterMode(display=False),
    "subnormals": subnormals_are_zero,
    "numpy raises": lambda: np.errstate(all="raise"),
}
QUICK = {"scan", "watch", "history", "fit weights", "receptive field", "command"}


def check(name, mode, tmp_path):
    torch.manual_seed(0)
    model = KINDS["plain"]()
    expected = call(name, model, tmp_path)
    with MODES[mode]():
        found = call(name, model, tmp_path)
    assert comparable(found) == comparable(expected)


@pytest.mark.sample(2)
@pytest.mark.parametrize("mode", MODES)
def test_quick_calls_in_every_mode(mode, tmp_path):
    for name in QUICK:
        check(name, mode, tmp_path)


@pytest.mark.parametrize("mode", ["default device", "inference"])
def test_ablate_in_some_modes(mode, tmp_path):
    check("ablate", mode, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "mode"), list(itertools.product(CALLS, MODES)))
def test_every_call_in_every_mode(name, mode, tmp_path):
    check(name, mode, tmp_path)


def test_inputs_that_were_made_in_inference_mode(tmp_path):
    """Nothing can be differentiated through them; copies can."""
    torch.manual_seed(0)
    model = KINDS["plain"]()
    with torch.inference_mode():
        data = [(x.clone(), y.clone()) for x, y in _batches(model)]
        assert data[0][0].is_inference()
    analysis = analyze(model, batches=data, loss=_loss, images=[x for x, _ in data])
    assert analysis.data.importances
    with torch.inference_mode():
        other = analyze(model, example_inputs=data[0][0], response=False)
    assert other.structure.depth == 2


def test_models_that_were_made_in_inference_mode():
    with torch.inference_mode():
        model = KINDS["plain"]()
        with pytest.raises(InputError, match=r"a\.weight of Small was made in inference mode"):
            analyze(model)
