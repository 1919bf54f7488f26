"""Wrong kinds of arguments in every public call: an error that names the argument.

``CALLS`` holds every public call with arguments that it takes, and a test keeps it whole. One
argument after the other is replaced by each value of ``ODD`` that it does not take.
"""

import inspect
import re
import tempfile
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import nn

import weightscope as ws
from fuzz.states import Small
from weightscope.arguments import _RULES


def refuse(*_):
    raise RuntimeError("mute")


class Mute:
    """Of nothing but errors."""

    __repr__ = __str__ = __len__ = __iter__ = __bool__ = __call__ = __eq__ = __getitem__ = refuse
    __hash__ = object.__hash__

    def __getattr__(self, name):
        refuse()


class MuteText(Mute):
    """A path that cannot be told, from what is easily mistaken for one."""

    __fspath__ = refuse


class MuteNumber(int):
    __repr__ = __str__ = __format__ = refuse


class MuteError(ZeroDivisionError):
    __repr__ = __str__ = refuse


ODD = {
    "None": None, "number": 3, "negative": -1, "nan": float("nan"), "text": "a", "bytes": b"a",
    "list": [], "dict": {}, "object": object(), "function": lambda *a, **k: None, "type": int,
    "list of None": [None], "tensor": torch.ones(2), "huge": 10**30, "text with nul": "a\0b",
    "mute": Mute(), "mute path": MuteText(), "mute number": MuteNumber(-7), "mute list": [Mute()],
    "mute dict": {Mute(): Mute()}, "mute pair": (Mute(), Mute()),
}  # fmt: skip
X = torch.rand(4, 1, 16, 16)
PAIRS = [(X, (X > 0.5).float())]


@cache
def model():
    torch.manual_seed(0)
    return Small().eval()


@cache
def analysis():
    return ws.analyze(model(), example_inputs=X[:1], response=False)


@cache
def variant():
    return analysis().proposals[0].build()


@cache
def folder():
    return Path(tempfile.mkdtemp())


@cache
def saved():
    return ws.save(variant(), folder() / "v.safetensors")


def history():
    network = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    with ws.watch(network, optimizer) as watched:
        network(torch.ones(1, 2)).sum().backward()
        optimizer.step()
    return watched


@cache
def kept_history():
    ws.save_history(history(), folder() / "h.safetensors")
    return folder() / "h.safetensors"


def watch(*arguments, **named):
    with ws.watch(*arguments, **named) as watched:
        return watched


def new(name):
    return folder() / name


CALLS = {
    "analyze": (ws.analyze, lambda: {
        "model": model(), "example_inputs": X[:1], "initial": None, "history": None,
        "response": False, "images": None, "batches": None, "loss": None, "metric": None,
        "ignore_index": None, "keys": None, "stages": None, "layout": None, "part": None,
        "trained": False, "spectra": False, "progress": False,
    }),
    "analyze, batches": (ws.analyze, lambda: {
        "model": model(), "example_inputs": X[:1], "batches": PAIRS, "metric": "f1", "loss": None,
        "ignore_index": None, "keys": None, "response": False,
    }),
    "ablate": (ws.ablate, lambda: {
        "model": model(), "batches": PAIRS, "metric": "f1", "ignore_index": None, "keys": None,
        "fill": "mean", "example_inputs": X[:1], "layout": None, "part": None, "resamples": 10,
        "seed": 0, "progress": False,
    }),
    "shrink": (ws.shrink, lambda: {
        "model": model(), "images": X, "batches": None, "metric": None, "tolerance": 0.5,
        "max_macs": None, "max_parameters": None, "max_latency": None, "max_bytes": None,
        "ignore_index": None, "keys": None, "example_inputs": X[:1], "layout": None, "part": None,
        "steps": 1, "repeats": 2, "thin": None, "random": False, "seed": 0, "progress": False,
        "resume": None,
    }),
    "fit_weights": (ws.fit_weights, lambda: {
        "model": model(), "weights": ws.read_weights(saved()), "prefix": None,
    }),
    "load": (ws.load, lambda: {"path": saved(), "model_factory": Small, "bottleneck": None}),
    "save": (ws.save, lambda: {"variant": variant(), "path": new("s")}),
    "read_history": (ws.read_history, lambda: {"path": kept_history()}),
    "save_history": (ws.save_history, lambda: {"history": history(), "path": new("sh")}),
    "read_weights": (ws.read_weights, lambda: {"path": saved(), "prefix": None}),
    "scan": (ws.scan, lambda: {"path": saved(), "threads": 1, "progress": False}),
    "watch": (watch, lambda: {
        "model": (network := nn.Linear(2, 1)),
        "optimizer": torch.optim.SGD(network.parameters(), lr=0.1), "every": 100, "store": None,
    }),
    "Analysis.to_html": (lambda **k: analysis().to_html(**k), lambda: {"path": new("r.html")}),
    "Weights.shape": (lambda **k: ws.read_weights(saved()).shape(**k), lambda: {
        "name": "a.weight",
    }),
    "Proposal.build": (lambda **k: analysis().proposals[0].build(**k), lambda: {
        "bottleneck": "light", "width": None, "exit_channels": None, "reach": None,
        "seed": None,
    }),
    "Variant.thin": (lambda **k: variant().thin(**k), lambda: {
        "keep": 0.5, "max_macs": None, "by": "magnitude", "seed": 0,
    }),
    "Variant.measure": (lambda **k: variant().measure(**k), lambda: {"repeats": 2}),
    "Variant.recover": (lambda **k: analysis().proposals[0].build().recover(**k), lambda: {
        "images": X, "steps": 1, "batches": None, "loss": None, "keys": None, "progress": False,
        "seed": 0, "resume": None,
    }),
    "History.to_csv": (lambda **k: history().to_csv(**k), lambda: {"path": new("h.csv")}),
    "History.to_npz": (lambda **k: history().to_npz(**k), lambda: {"path": new("h.npz")}),
    "History.to_tensorboard": (lambda **k: history().to_tensorboard(**k), lambda: {
        "folder": new("tb"),
    }),
    "History.load_state_dict": (lambda **k: history().load_state_dict(**k), lambda: {
        "state": history().state_dict(),
    }),
}  # fmt: skip

FEW = {"None", "number", "text", "list", "object", "mute", "mute path", "mute list", "mute dict"}
"""For arguments that are looked at late, after much was done."""

FLAG = {"None", "number", "negative", "nan", "huge", "mute number"}
PATHS = {"text", "bytes"}
TAKEN = {
    "example_inputs": {"None"}, "initial": {"None", "dict"}, "history": {"None"},
    "response": FLAG, "trained": FLAG, "spectra": FLAG, "progress": FLAG, "random": FLAG,
    "images": {"None", "tensor"}, "batches": {"None"}, "loss": {"None", "function", "type"},
    "metric": {"None", "function", "type"},
    "ignore_index": {"None", "number", "negative", "mute number"},
    "keys": {"None", "mute pair"}, "stages": {"None", "dict"}, "layout": {"None"},
    "part": {"None"}, "resamples": {"number"}, "seed": {"number", "huge"},
    "tolerance": {"None", "number", "huge"}, "max_macs": {"None", "number", "huge"},
    "max_parameters": {"None", "number", "huge"}, "max_latency": {"None", "number", "huge"},
    "max_bytes": {"None", "number", "huge"}, "thin": {"None"}, "steps": {"number"},
    "repeats": {"number"},
    "resume": {"None", *PATHS}, "prefix": {"None", "text", "text with nul"},
    "bottleneck": {"None", "function", "type", "mute", "mute path"}, "path": PATHS,
    "threads": {"None", "number"}, "every": {"number"}, "store": {"None", *PATHS},
    "reach": {"None", "number"}, "width": {"None", "number"},
    "exit_channels": {"None", "number"}, "keep": {"None", "dict"}, "by": set(), "fill": set(),
    "folder": PATHS, "state": set(),
}  # fmt: skip
"""What each argument takes of ``ODD``, or says in words of its own in the call."""

ALSO = {
    "model": "torch.nn.Module|network", "model_factory": "torch.nn.Module", "batches": "batch 0",
    "images": "batch 0", "path": "file|folder|checkpoint", "resume": "cannot|file|folder",
    "max_macs": "max_macs|keep", "keep": "max_macs",
    "keys": "batch 0", "variant": "Variant", "store": "cannot write", "prefix": "taken off",
}  # fmt: skip
"""Words that may stand for the name of an argument."""


def test_every_call_is_tried():
    functions = {n for n in ws.__all__ if inspect.isfunction(getattr(ws, n))}
    assert functions <= {name.partition(",")[0] for name in CALLS}
    for name in functions:
        own = set(inspect.signature(getattr(ws, name)).parameters)
        assert own == set(CALLS[name][1]()), name


@pytest.mark.sample(2)
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.filterwarnings("ignore")
def test_wrong_kinds(call):
    function, arguments = CALLS[call]
    given = arguments()
    wrong = []
    for argument in given:
        taken = TAKEN.get(argument, set()) | ({"None"} if given[argument] is None else set())
        for what in sorted((set(ODD) if argument in _RULES else FEW) - taken):
            try:
                function(**given | {argument: ODD[what]})
            except ws.WeightscopeError as error:
                if not re.search(f"{argument}|{ALSO.get(argument, argument)}", str(error)):
                    wrong.append((argument, what, str(error)))
            except Exception as error:
                wrong.append((argument, what, repr(error)))
            else:
                wrong.append((argument, what, "taken"))
    assert not wrong


# --- what the user's own functions and loaders raise --------------------------------------------


def fails(*_):
    raise ZeroDivisionError("boo")


def loader():
    yield PAIRS[0]
    raise ZeroDivisionError("boo")


class Gone(torch.utils.data.Dataset):
    def __len__(self):
        return 3

    def __getitem__(self, index):
        fails()


@pytest.mark.parametrize(("call", "words"), [
    (lambda: ws.load(saved(), fails), "model_factory.* raised"),
    (lambda: ws.analyze(model(), example_inputs=X[:1], response=False, initial=fails),
     "initial= raised"),
    (lambda: ws.analyze(model(), batches=loader(), metric="f1"), "batch 1 .*the loader raised"),
    (lambda: ws.analyze(model(), images=loader()), "batch 1 .*the loader raised"),
    (lambda: ws.ablate(model(), Gone(), "f1", progress=False), "batch 0 .*the loader raised"),
    (lambda: ws.ablate(model(), torch.utils.data.DataLoader(Gone()), "f1"), "the loader raised"),
    (lambda: ws.shrink(model(), images=Gone(), progress=False), "batch 0 .*the loader raised"),
    (lambda: ws.ablate(model(), PAIRS, fails, progress=False), "fails raised on"),
    (lambda: ws.analyze(model(), batches=PAIRS, loss=fails), "the loss raised on"),
    (lambda: analysis().proposals[0].build().recover(Gone(), progress=False), "the loader raised"),
    (lambda: analysis().proposals[0].build().recover(
        X, batches=PAIRS, loss=fails, progress=False), "loss= raised"),
    (lambda: analysis().proposals[0].build(fails), "bottleneck factory.* raised"),
])  # fmt: skip
def test_what_the_users_code_raises_is_named(call, words):
    with pytest.raises(ws.WeightscopeError, match=f"(?s){words}.*ZeroDivisionError: boo") as caught:
        call()
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


@pytest.mark.parametrize("call", [
    lambda fails: ws.load(saved(), fails),
    lambda fails: ws.analyze(model(), example_inputs=X[:1], response=False, initial=fails),
    lambda fails: ws.ablate(model(), PAIRS, fails, progress=False),
    lambda fails: ws.analyze(model(), batches=PAIRS, loss=fails),
    lambda fails: ws.ablate(model(), map(fails, PAIRS), "f1", progress=False),
    lambda fails: ws.analyze(model(), images=map(fails, PAIRS)),
    lambda fails: ws.analyze(nn.Sequential(Small(), Fails(fails)), example_inputs=X[:1]),
    lambda fails: ws.scan(PathThat(fails)),
    lambda fails: ws.save(variant(), PathThat(fails)),
])  # fmt: skip
def test_an_error_that_cannot_be_told_is_named_by_its_kind(call):
    def mute(*_, **__):
        raise MuteError

    with pytest.raises(ws.WeightscopeError, match="MuteError"):
        call(mute)


class Fails(nn.Module):
    def __init__(self, fails):
        super().__init__()
        self.fails = fails

    def forward(self, x):
        return self.fails(x)


class PathThat:
    def __init__(self, fails):
        self.fails = fails

    def __fspath__(self):
        return self.fails()


@pytest.mark.parametrize("value", [None, "a", float("nan"), torch.ones(2), torch.tensor(torch.inf)])
def test_a_loss_of_a_recovery_that_is_no_number(value):
    with pytest.raises(ws.InputError, match="no finite scalar tensor"):
        analysis().proposals[0].build().recover(
            X, batches=PAIRS, loss=lambda *_: value, steps=1, progress=False
        )
