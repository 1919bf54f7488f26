"""What was read answers as the forward does, in the first call and in later ones."""

from __future__ import annotations

import copy
import itertools
import random
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weightscope.errors import InputError, StructureError
from weightscope.graph import read_structure, rebuild
from weightscope.graph.answers import differs_elsewhere

IMAGE = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """Two levels; what is done with what it returns, a test says."""

    def __init__(self, around: Callable[[Net, Tensor, Tensor], Tensor], **attributes: Any) -> None:
        super().__init__()
        self.top, self.deep = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 8, 3, padding=1)
        self.out = nn.Conv2d(12, 2, 1)
        self.around = around
        for name, value in attributes.items():
            if type(value) is Tensor:
                self.register_buffer(name, value.clone())
            else:
                setattr(self, name, value)

    def forward(self, x: Tensor) -> Tensor:
        top = F.relu(self.top(x))
        deep = F.interpolate(F.relu(self.deep(F.max_pool2d(top, 2))), scale_factor=2.0)
        return self.around(self, x, self.out(torch.cat([top, deep], 1)))


def multiplies(net: Any, x: Tensor, y: Tensor) -> Tensor:
    net.calls = net.calls + 1
    return y * net.calls


def branches(net: Any, x: Tensor, y: Tensor) -> Tensor:
    net.calls += 1
    return y * 2 if net.calls > 3 else y


def warms_up(net: Any, x: Tensor, y: Tensor) -> Tensor:
    net.calls += 1
    return y * 2 if net.calls > 2000 else y


def toggles(net: Any, x: Tensor, y: Tensor) -> Tensor:
    net.mode = not net.mode
    return -y if net.mode else y


def grows(net: Any, x: Tensor, y: Tensor) -> Tensor:
    net.seen.append(x.shape[-1])
    return y * len(net.seen)


def deeper(net: Any, x: Tensor, y: Tensor) -> Tensor:
    net.state.steps += 1
    return y * net.state.steps


def at_first(net: Any, x: Tensor, y: Tensor) -> Tensor:
    if net.scale is None:
        net.scale = 1 / y.std()
    return y * net.scale


def counts(net: Any, x: Tensor, y: Tensor) -> Tensor:
    net.calls += 1
    net.seen.append(net.calls)
    net.size = tuple(x.shape)
    return y


def by_buffer(net: Any, x: Tensor, y: Tensor) -> Tensor:
    net.number += 1
    return y * net.number


def table(net: Any, x: Tensor, y: Tensor) -> Tensor:
    if y.shape[-1] > net.known:
        net.known, net.table = y.shape[-1], torch.arange(y.shape[-1]).float()
    return y + net.table[: y.shape[-1]]


REMEMBER = [
    (multiplies, {"calls": 0}, "calls"),
    (branches, {"calls": 0}, "calls"),
    (warms_up, {"calls": 0}, "calls"),
    (warms_up, {"calls": 0.0}, "calls"),
    (toggles, {"mode": False}, "mode"),
    (grows, {"seen": []}, "seen"),
    (deeper, {"state": SimpleNamespace(steps=0)}, "state"),
    (at_first, {"scale": None}, "scale"),
]
FORGET = [
    (counts, {"calls": 0, "seen": []}),
    (table, {"known": 0, "table": None}),
    (by_buffer, {"number": torch.zeros(1)}),  # a variant has the buffer, and counts in it
]


@pytest.mark.sample(2)
@pytest.mark.parametrize(("around", "kept", "name"), REMEMBER)
def test_what_counts_and_decides_is_told(
    around: Callable[..., Tensor], kept: dict[str, Any], name: str
) -> None:
    net = Net(around, **kept).eval()
    before = str(vars(net))
    notes = read_structure(net, IMAGE).notes
    assert [f"depends on what earlier calls left in {name};" in note for note in notes] == [True]
    assert str(vars(net)) == before


@pytest.mark.parametrize(("around", "kept"), FORGET)
def test_what_only_counts_or_is_kept_for_a_size_is_not(
    around: Callable[..., Tensor], kept: dict[str, Any]
) -> None:
    net = Net(around, **kept).eval()
    before = {name: str(value) for name, value in vars(net).items()}
    assert not any("earlier calls" in note for note in read_structure(net, IMAGE).notes)
    assert {name: str(value) for name, value in vars(net).items()} == before


class Leaf(nn.Module):
    """A module that is called as it is: a variant has it, and with it what it remembers."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.calls = nn.Parameter(torch.ones(1)), 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x * self.weight * self.calls


def test_a_count_in_what_a_variant_takes_over_is_no_matter() -> None:
    structure = read_structure(Net(lambda net, x, y: net.leaf(y), leaf=Leaf()).eval(), IMAGE)
    assert "leaf" in {node.target for node in structure.graph.nodes}
    assert not structure.notes


def of_a_class(net: Net, x: Tensor, y: Tensor) -> Tensor:
    return y * 2 if type(x) is torch.Tensor else y


def of_another_class(net: Net, x: Tensor, y: Tensor) -> Tensor:
    return y * 2 if y.__class__ == torch.Tensor else y


def of_a_size(net: Net, x: Tensor, y: Tensor) -> Tensor:
    return y * 2 if type(x.shape[-1]) is int else y


def of_functions(net: Net, x: Tensor, y: Tensor) -> Tensor:
    return y if torch.overrides.has_torch_function((y,)) else y * 2


def of_gradients(net: Net, x: Tensor, y: Tensor) -> Tensor:
    return y if torch.is_grad_enabled() else y * 2


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    "around",
    [of_a_class, of_another_class, of_functions],
)
def test_a_forward_that_does_something_else_while_it_is_traced_is_refused(
    around: Callable[..., Tensor],
) -> None:
    with pytest.raises(StructureError, match="what is read is not what it does"):
        read_structure(Net(around).eval(), IMAGE)


def test_a_forward_that_asks_for_the_class_of_a_size_is_read_at_one_size() -> None:
    net = Net(of_a_size).eval()
    graph = rebuild(read_structure(net, IMAGE))
    assert torch.equal(graph(IMAGE), net(IMAGE))
    with pytest.raises(InputError, match="computes with that size"):
        graph(torch.cat([IMAGE, IMAGE], 2))


def more_for_gradients(net: Net, x: Tensor, y: Tensor) -> Any:
    return [y, net.beside(x)] if torch.is_grad_enabled() else y


@pytest.mark.sample(1)
@pytest.mark.parametrize("around", [of_gradients, more_for_gradients])
def test_a_forward_that_asks_for_gradients_is_read_without(around: Callable[..., Any]) -> None:
    net = Net(around, beside=nn.Conv2d(3, 1, 1)).eval()
    structure = read_structure(net, IMAGE)
    (note,) = structure.notes
    assert note.startswith("the forward returns something else where gradients are on")
    assert ("beside.weight" in structure.dead_parameters) is (around is of_gradients)
    with torch.no_grad():
        expected = net(IMAGE)
    found = rebuild(structure)(IMAGE)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert [cut.keep_levels for cut in structure.cuts] == [1]


def test_a_part_without_gradients_and_a_question_for_them_are_refused() -> None:
    class Frozen(Net):
        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                x = self.first(x)
            return super().forward(x)

    net = Frozen(of_gradients, first=nn.Conv2d(3, 3, 1)).eval()
    with pytest.raises(StructureError, match="what is read is not what it does"):
        read_structure(net, IMAGE)


def of_scripts(net: Net, x: Tensor, y: Tensor) -> Tensor:
    scripted = torch.jit.is_tracing() or torch.jit.is_scripting()
    return y * 2 if scripted or isinstance(x, torch.fx.Proxy) else y


def of_kinds(net: Net, x: Tensor, y: Tensor) -> Tensor:
    return y * 2 if isinstance(x, Tensor) else y


@pytest.mark.parametrize("around", [of_scripts, of_kinds])
def test_what_is_asked_and_answered_as_ever_is_read(around: Callable[..., Tensor]) -> None:
    assert not read_structure(Net(around).eval(), IMAGE).notes


def test_a_forward_that_answers_otherwise_each_time_is_told_of() -> None:
    numbers = itertools.count(1)
    notes = read_structure(Net(lambda net, x, y: y * next(numbers)).eval(), IMAGE).notes
    assert ["answers the same call differently" in note for note in notes] == [True]


@pytest.mark.parametrize(("draw", "name"), [(random, "random"), (np.random, "numpy.random")])
def test_what_draws_outside_of_torch_is_told(draw: Any, name: str) -> None:
    net = Net(lambda net, x, y: y if draw.random() < 0.5 else y * 2).eval()
    notes = read_structure(net, IMAGE).notes
    assert f"draws at random outside of torch ({name})" in notes[0]
    assert "calls no level unused" in notes[1]


def test_what_draws_in_vain_is_no_matter() -> None:
    net = Net(lambda net, x, y: y * 2 if random.random() < 0.5 and net.training else y).eval()
    assert not any("earlier calls" in note for note in read_structure(net, IMAGE).notes)


def test_what_writes_into_its_own_weights_is_refused_and_the_weights_stay() -> None:
    def decays(net: Any, x: Tensor, y: Tensor) -> Tensor:
        with torch.no_grad():
            net.out.weight.mul_(0.9)
        return y

    def sets(net: Any, x: Tensor, y: Tensor) -> Tensor:
        net.scale.data = 1 / y.std().reshape(1)
        return y * net.scale

    for around in (decays, sets):
        net = Net(around, scale=nn.Parameter(torch.ones(1))).eval()
        before = {name: value.clone() for name, value in net.state_dict().items()}
        with pytest.raises(StructureError, match="writes into its own weights"):
            read_structure(net, IMAGE)
        assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


@pytest.mark.parametrize("bound", ["clamped", "of a largest norm"])
def test_weights_that_are_kept_in_bounds_are_read_where_they_are_in_bounds(bound: str) -> None:
    def bounded(net: Any, x: Tensor, y: Tensor) -> Tensor:
        with torch.no_grad():
            if bound == "clamped":
                net.out.weight.data.clamp_(-0.1, 0.1)
            else:
                net.out.weight.copy_(torch.renorm(net.out.weight, 2, 0, 0.5))
        return net.out(y.repeat(1, net.out.in_channels, 1, 1)[:, : net.out.in_channels])

    net = Net(bounded).eval()
    with torch.no_grad():
        net.out.weight.copy_(torch.full_like(net.out.weight, 0.7))
    structure = read_structure(net, IMAGE)
    assert net.out.weight.detach().min().item() == pytest.approx(0.7)
    graph = rebuild(replace(structure, model=copy.deepcopy(net))).eval()
    torch.testing.assert_close([graph(IMAGE), graph(IMAGE)], [net(IMAGE), net(IMAGE)])


def test_weights_that_are_written_in_train_mode_alone_are_read() -> None:
    def normalised(net: Any, x: Tensor, y: Tensor) -> Tensor:
        if net.training:
            with torch.no_grad():
                net.out.weight.div_(net.out.weight.norm())
        return y

    assert read_structure(Net(normalised).eval(), IMAGE).cuts


def test_a_level_that_is_finer_than_the_image_is_no_division_by_nothing() -> None:
    structure = read_structure(Net(lambda net, x, y: y), IMAGE)
    finer = replace(structure, reductions=((1.0, 0.25), (2.0, 0.5)))
    assert not differs_elsewhere(finer, lambda inputs: True)


def test_a_graph_that_raises_is_told_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    def raises(*args: object, **kwargs: object) -> None:
        raise IndexError("list index out of range")

    monkeypatch.setattr("weightscope.graph.read.compare", raises)
    model = nn.Sequential(nn.Conv2d(1, 4, 3, 2, 1), nn.ConvTranspose2d(4, 1, 2, 2))
    with pytest.raises(StructureError, match=r"does not run .*IndexError.* with two images"):
        read_structure(model, torch.zeros(1, 1, 16, 16))
