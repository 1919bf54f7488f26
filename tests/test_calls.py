"""Whatever a forward draws, counts or breaks, the model and the process are as they were."""

import collections
import itertools
import logging
import random
import threading
from array import array
from collections import deque
from dataclasses import dataclass
from io import BytesIO, StringIO
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from weightscope.calls import (
    call_arguments,
    evaluation_mode,
    finished,
    forward_errors,
    random_state,
    random_states,
    say,
    seed_all,
    undisturbed,
)
from weightscope.copies import deep_copy
from weightscope.errors import ForwardError


class Meter:
    """A plain helper of a network."""

    def __init__(self):
        self.count, self.seen = 0, ["start"]


@dataclass(slots=True)
class Narrow:
    """A helper whose attributes are in slots."""

    count: int = 0


class Counter(nn.Module):
    """Counts its calls in objects of every kind that is no container of Python's own."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)
        self.conv.weight.tag = "start"
        self.array, self.wide = np.zeros(2), np.zeros(1)
        self.bytes, self.numbers = bytearray(2), array("l", [0])
        self.text, self.raw = StringIO(), BytesIO(b"ab")
        self.turns = itertools.count()
        self.meter, self.narrow = Meter(), Narrow()
        self.bound = Meter().__init__
        self.tally = collections.Counter(start=1)
        self.held = ({"meter": Meter()},)
        self.drawn = random.Random(0)
        self.old, self.new = np.random.RandomState(0), np.random.default_rng(0)
        self.generator = torch.Generator().manual_seed(0)
        self.space = SimpleNamespace(total=torch.zeros(1))

    def forward(self, x):
        self.conv.weight.tag, self.conv.bias.tag = "seen", "seen"
        self.array += 1
        self.wide.resize(3, refcheck=False)
        self.bytes.append(1)
        self.numbers.append(1)
        self.text.write("x")
        self.raw.write(b"xyz")
        next(self.turns)
        for meter in (self.meter, self.narrow, self.held[0]["meter"], self.bound.__self__):
            meter.count += 1
        self.meter.seen.append(x)
        self.meter.last = x
        self.tally["start"] += 1
        self.drawn.random(), self.old.rand(), self.new.random()
        self.space.total.add_(torch.rand(1, generator=self.generator))
        return self.conv(x)

    def state(self):
        """All that a call changes, as values."""
        return (
            *(getattr(p, "tag", None) for p in (self.conv.weight, self.conv.bias)),
            *(self.array.tolist(), self.wide.tolist(), bytes(self.bytes), list(self.numbers)),
            *(self.text.getvalue(), self.text.tell(), self.raw.getvalue(), self.raw.tell()),
            *(repr(self.turns), self.meter.count, list(self.meter.seen), sorted(vars(self.meter))),
            *(self.narrow.count, self.held[0]["meter"].count, self.bound.__self__.count),
            *(dict(self.tally), self.space.total.item()),
            *(self.drawn.getstate(), str(self.old.get_state()), str(self.new.bit_generator.state)),
            self.generator.get_state().tolist(),
        )


class Restless(nn.Module):
    """Draws from every generator and leaves something of every kind behind."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)
        self.norm = nn.BatchNorm2d(2)
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))
        self.register_buffer("last", torch.zeros(2))
        self.register_buffer("wide", torch.zeros(1).expand(5))
        self.plain = torch.zeros(3)
        self.count = 0
        self.seen = ["start"]
        self.sizes = {"first": 1}
        self.kinds = {"start"}
        self.frames = deque(["start"], maxlen=2)
        self.nested = {"maps": [["start"]]}

    def forward(self, x):
        self.calls += 1
        self.last = torch.rand(2)
        self.plain.add_(1)
        self.count += 1
        self.seen.append(x)
        self.sizes["second"] = len(x)
        self.sizes["first"] = 7
        self.kinds.discard("start")
        self.cache = x
        self.frames.extend([x, x])
        self.nested["maps"][0].append(x)
        self.norm.train()
        return self.norm(self.conv(x)) * random.random() * np.random.rand()


def everything(model):
    """All that must not differ, in a form that can be compared."""
    tensors = {**model.state_dict(), "plain": model.plain, "wide": model.wide}
    return (
        {name: value.tolist() for name, value in tensors.items()},
        [m.training for m in model.modules()],
        (model.count, list(model.seen), dict(model.sizes), set(model.kinds), sorted(vars(model))),
        (list(model.frames), [list(maps) for maps in model.nested["maps"]]),
        torch.get_rng_state().tolist(),
        random.getstate(),
        [part.tolist() if isinstance(part, np.ndarray) else part for part in np.random.get_state()],
    )


@pytest.mark.parametrize("error", [None, RuntimeError, KeyboardInterrupt])
def test_nothing_of_a_forward_stays(error):
    model = Restless()
    model.norm.eval()
    before, buffers = everything(model), dict(model.named_buffers())
    containers = model.seen, model.sizes
    try:
        with undisturbed(model):
            assert not any(m.training for m in model.modules())
            model(torch.rand(2, 1, 5, 5))
            assert everything(model)[:4] != before[:4]
            if error is not None:
                raise error
    except (RuntimeError, KeyboardInterrupt):
        assert error is not None
    assert everything(model) == before
    assert all(buffers[name] is value for name, value in model.named_buffers())
    assert model.seen is containers[0]
    assert model.sizes is containers[1]


@pytest.mark.parametrize(
    ("owner", "name"),
    [(random, "setstate"), (np.random, "set_state"), (torch, "set_rng_state"), (torch, "equal")],
)
@pytest.mark.parametrize("late", [False, True])
def test_an_interrupt_while_things_are_put_back_leaves_nothing_behind(
    monkeypatch, owner, name, late
):
    model, own, calls = Restless(), getattr(owner, name), []

    def interrupted(*args):
        calls.append(args)
        if late:
            own(*args)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return own(*args)

    def called():
        with undisturbed(model):
            model(torch.rand(2, 1, 5, 5))
            monkeypatch.setattr(owner, name, interrupted)

    before = everything(model)
    with pytest.raises(KeyboardInterrupt):
        called()
    monkeypatch.undo()
    assert len(calls) > 1
    assert everything(model) == before


def test_objects_that_a_model_holds_are_put_back():
    model = Counter()
    before, held = model.state(), dict(vars(model))
    for _ in range(2):
        with undisturbed(model):
            model(torch.rand(1, 1, 5, 5))
            during = model.state()
        assert all(a != b for a, b in zip(before, during, strict=True) if a not in (0, 2))
        assert model.state() == before
        assert all(vars(model)[name] is value for name, value in held.items())


def test_whatever_a_model_holds_it_can_be_run():
    model = Counter()

    class Mute:
        def __getattribute__(self, name):
            raise RuntimeError(name)

    model.odd = [Mute(), random.SystemRandom(), io_closed(), threading.Lock(), (n for n in "ab")]
    model.itself, model.logger = [model], logging.getLogger("of a model")
    model.fixed = np.zeros(1)
    model.fixed.flags.writeable = False
    before = model.state()
    with undisturbed(model):
        model(torch.rand(1, 1, 5, 5))
    assert model.state() == before
    assert next(model.odd[-1]) == "a"


def io_closed():
    text = StringIO()
    text.close()
    return text


def test_an_interrupt_while_modes_are_put_back_leaves_none_behind():
    class Slow(nn.Linear):
        sets = 0

        def __setattr__(self, name, value):
            if name == "training":
                Slow.sets += 1
                if Slow.sets == 2:  # put in evaluation mode, put back
                    raise KeyboardInterrupt
            super().__setattr__(name, value)

    model = nn.Sequential(Slow(2, 2), nn.Linear(2, 2))
    with pytest.raises(KeyboardInterrupt), evaluation_mode(model):
        pass
    assert [m.training for m in model.modules()] == [True] * 3


def test_every_step_is_run_and_the_first_error_raised():
    ran = []

    def step(number, error=None):
        ran.append(number)
        if error is not None:
            raise error

    with pytest.raises(ValueError, match="one"):
        finished(
            lambda: step(0),
            lambda: step(1, ValueError("one")),
            lambda: step(2, KeyboardInterrupt()),
            lambda: step(3),
        )
    assert ran[:2] == [0, 1]
    assert set(ran[2:-1]) == {2}
    assert ran[-1] == 3


def test_a_buffer_that_changed_its_size_comes_back():
    model = Restless()
    with undisturbed(model):
        model.last.resize_(9).fill_(3.0)
    assert model.last.tolist() == [0.0, 0.0]


def writes(weight):
    weight.mul_(2)


def takes_other_memory(weight):
    weight.data = torch.ones(7)


def grows(weight):
    weight.resize_(30).fill_(3.0)


def is_trained(weight):
    weight.requires_grad_(True)
    weight.grad = torch.ones_like(weight)


def loses_its_gradient(weight):
    weight.grad.add_(1)
    weight.grad = None


@pytest.mark.parametrize(
    "change", [writes, takes_other_memory, grows, is_trained, loses_its_gradient]
)
@pytest.mark.parametrize("error", [None, RuntimeError, KeyboardInterrupt])
def test_weights_that_a_forward_changes_are_put_back(change, error):
    def memory():
        return weight.untyped_storage()._cdata

    def told():
        gradient = weight.grad
        values = weight.tolist(), None if gradient is None else gradient.tolist()
        return (*values, id(gradient), weight.requires_grad, weight.stride(), memory())

    model = nn.Conv2d(2, 3, 1)
    weight = model.weight
    weight.requires_grad_(change not in (is_trained, grows))
    if change is loses_its_gradient:
        weight.grad = torch.rand_like(weight)
    before = told()
    try:
        with undisturbed(model):
            with torch.no_grad():
                change(weight)
            assert told() != before
            if error is not None:
                raise error
    except (RuntimeError, KeyboardInterrupt):
        assert error is not None
    assert model.weight is weight
    assert told() == before


def made_in_inference_mode():
    with torch.inference_mode():
        return torch.ones(2)


@pytest.mark.parametrize(
    "made",
    [
        lambda: torch.eye(2).to_sparse(),
        lambda: torch.eye(2).to_mkldnn(),
        lambda: torch.nested.as_nested_tensor(list(torch.ones(2, 3)), layout=torch.jagged),
        made_in_inference_mode,
    ],
    ids=["sparse", "mkldnn", "nested", "inference"],
)
def test_tensors_of_every_kind_are_put_back(made):
    model = nn.Conv2d(2, 3, 1)
    model.held = made()
    before = str(model.held.to_dense() if not model.held.is_nested else model.held.values())
    with undisturbed(model), torch.inference_mode():
        model.held.mul_(2)
    after = str(model.held.to_dense() if not model.held.is_nested else model.held.values())
    assert after == before


def test_evaluation_runs_no_code_of_the_model():
    class Merging(nn.Linear):
        def train(self, mode=True):
            raise AssertionError("would merge weights")

    model = Merging(2, 2)
    with undisturbed(model):
        assert not model.training
    assert model.training


def test_a_forward_that_raises_is_named_with_its_inputs():
    model, image = nn.Conv2d(3, 2, 1), torch.rand(2, 1, 4, 4)
    with (
        pytest.raises(ForwardError, match=r"forward of Conv2d raised on batch 4 \(2x1x4x4\)"),
        forward_errors(model, image, "batch 4"),
    ):
        model(image)


def test_foreign_texts_are_kept_short():
    assert say(ValueError("no.")) == "ValueError: no"
    assert say(ValueError()) == "ValueError"
    assert len(say(ValueError("x" * 10_000))) < 600


def test_inputs_become_arguments():
    x = torch.rand(1)
    assert call_arguments(x) == ((x,), {})
    assert call_arguments([x, 3]) == ((x, 3), {})
    assert call_arguments({"x": x}) == ((), {"x": x})


def test_a_copy_shares_no_memory_with_what_a_forward_left():
    model = nn.Conv2d(1, 2, 3)
    left = model(torch.rand(1, 1, 5, 5))
    model.last, model.maps, model.found = left, [left * 2], {"deep": (left * 3,)}
    twin = deep_copy(model)
    for tensor in (twin.last, twin.maps[0], twin.found["deep"][0]):
        assert not tensor.requires_grad
        tensor.zero_()
    assert all(t.abs().sum() > 0 for t in (left, model.maps[0], model.found["deep"][0]))


@pytest.mark.parametrize(
    ("name", "draw"),
    [
        ("torch", lambda: torch.rand(1)),
        ("numpy.random", np.random.random),
        ("numpy.random", np.random.randn),  # the second normal number is only taken from the first
        ("random", random.random),
    ],
)
def test_every_draw_shows_in_the_states_of_the_generators(name, draw):
    with random_state():
        seed_all(3)
        first = draw()
        before = random_states()
        draw()
        after = random_states()
        assert [key for key in before if before[key] != after[key]] == [name]
        seed_all(3)
        assert draw() == first
