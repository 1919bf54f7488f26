"""Modules that a forward sets before it calls them, and modules that it only seems to set."""

from __future__ import annotations

import copy
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weightscope.errors import StructureError
from weightscope.graph import Structure, coarsen, read_structure, rebuild
from weightscope.graph import read as reading
from weightscope.graph.answers import Comparison
from weightscope.truncation import verify
from weightscope.truncation.building import build
from weightscope.truncation.plan import make_plan

Part = Callable[[nn.Module, Tensor], Tensor]


def block(in_channels: int, channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(in_channels, channels, 3, padding=1), nn.ReLU())


class Hourglass(nn.Module):
    """Two levels; what is tried runs at the first."""

    def __init__(self, part: nn.Module, run: Part) -> None:
        super().__init__()
        self.top, self.part, self.deep = block(3, 4), part, block(4, 4)
        self.up, self.head = block(8, 4), nn.Conv2d(4, 2, 1)
        self.run = run

    def forward(self, x: Tensor) -> Tensor:
        y = self.run(self.part, self.top(x))
        deep = F.interpolate(self.deep(F.max_pool2d(y, 2)), scale_factor=2)
        out: Tensor = self.head(self.up(torch.cat([y, deep], 1)))
        return out


class Switched(nn.Module):
    """Runs the one of its layers that is chosen from outside."""

    def __init__(self, holder: Any = None) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 3, padding=1)])
        self.options, self.holder = {"at": [0]}, holder

    def forward(self, x: Tensor) -> Tensor:
        at = self.options["at"][0] if self.holder is None else self.holder.at
        out: Tensor = self.layers[at](x)
        return out


class Elsewhere(nn.Module):
    """A module beside a second set of its parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.base = block(4, 4)
        own = self.base[0].named_parameters()
        self.other = nn.ParameterDict({name: torch.randn(p.shape) for name, p in own})


def dilated(part: nn.Module, x: Tensor) -> Tensor:
    total = torch.zeros_like(x)
    for step in (1, 2, 3):
        part.dilation = part.padding = (step, step)  # type: ignore[assignment]
        total = total + part(x)
    return total  # left at the last


def switched(part: Any, x: Tensor) -> Tensor:
    part.options["at"][0] = 1
    y: Tensor = part(x)
    part.options["at"][0] = 0
    return y


def switched_elsewhere(part: Any, x: Tensor) -> Tensor:
    part.holder.at = 0
    first = part(x)
    part.holder.at = 1
    second: Tensor = part(x)
    return first + second


def with_other_parameters(part: Any, x: Tensor) -> Tensor:
    other = {f"0.{name}": p for name, p in part.other.items()}
    y: Tensor = torch.func.functional_call(part.base, other, (x,))
    return y + part.base(x)


def with_other_parameters_alone(part: Any, x: Tensor) -> Tensor:
    return with_other_parameters(part, x) - part.base(x)


def plainly(part: nn.Module, x: Tensor) -> Tensor:
    y: Tensor = part(part(x))
    return y


def hooked(before: Any = None, after: Any = None) -> nn.Module:
    part = block(4, 4)
    if before is not None:
        part.register_forward_pre_hook(before)
    if after is not None:
        part.register_forward_hook(after)
    return part


def read(part: nn.Module, run: Part) -> tuple[nn.Module, Structure]:
    torch.manual_seed(0)
    model = Hourglass(part, run).eval()
    return model, read_structure(model, torch.rand(2, 3, 16, 16))


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    ("part", "run"),
    [
        (lambda: nn.Conv2d(4, 4, 3, padding=1), dilated),
        (Switched, switched),
        (lambda: Switched(SimpleNamespace(at=0)), switched_elsewhere),
        (Elsewhere, with_other_parameters),
        (Elsewhere, with_other_parameters_alone),
        (lambda: hooked(lambda m, args: (args[0] * 2 - 1,)), plainly),
        (lambda: hooked(after=lambda m, args, out: out * 2), plainly),
    ],
)
def test_a_graph_does_what_the_forward_set(part: Callable[[], nn.Module], run: Part) -> None:
    model, structure = read(part(), run)
    graph, x = rebuild(structure), torch.rand(1, 3, 24, 16)
    expected = model(x)
    torch.testing.assert_close(graph(x), expected, rtol=0, atol=0)
    torch.testing.assert_close(graph(x), expected, rtol=0, atol=0)


def test_a_graph_that_does_something_else_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coarsen, "follow_settings", lambda capture: frozenset())
    with pytest.raises(StructureError, match="what is read is not what it does"):
        read(nn.Conv2d(4, 4, 3, padding=1), dilated)
    monkeypatch.setattr(reading, "compare", lambda *_, **__: Comparison())
    _, structure = read(nn.Conv2d(4, 4, 3, padding=1), dilated)
    variant = build(structure, make_plan(structure, structure.cuts[0], width=2))
    failed = [check.name for check in verify(variant, export=False).failures]
    assert failed == ["read"]


class Counted(nn.Module):
    """Counts its calls and remembers the last, neither of which changes what it returns."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.calls, self.last = nn.Conv2d(4, 4, 3, padding=1), 0, None

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.last = y = self.conv(x) + torch.tensor([0.5])
        return y


@pytest.mark.parametrize("part", [lambda: block(4, 4), Counted])
def test_what_returns_the_same_stays_one_call(part: Callable[[], nn.Module]) -> None:
    _, structure = read(part(), plainly)
    called = [str(node.target) for node in structure.graph.find_nodes(op="call_module")]
    assert called.count("part") == 2


class Frozen(nn.Module):
    """Keeps its normalisation in evaluation mode, and drops features in both."""

    def __init__(self) -> None:
        super().__init__()
        self.top, self.norm, self.drop = block(3, 4), nn.BatchNorm2d(4), nn.Dropout(0.5)
        self.deep = Below()
        self.up, self.head = block(8, 4), nn.Conv2d(4, 2, 1)

    def train(self, mode: bool = True) -> Frozen:
        super().train(mode)
        self.norm.eval()
        self.drop.train()
        return self

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.top(x))
        deep = F.interpolate(self.deep(F.max_pool2d(y, 2)), scale_factor=2)
        out: Tensor = self.head(self.drop(self.up(torch.cat([y, deep], 1))))
        return out


class Below(nn.Module):
    """Two levels, of which the lower is always in evaluation mode."""

    def __init__(self) -> None:
        super().__init__()
        self.side, self.low, self.join = block(4, 4), nn.BatchNorm2d(4), block(8, 4)

    def train(self, mode: bool = True) -> Below:
        super().train(mode)
        self.low.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        side = self.side(x)
        low = F.interpolate(self.low(F.max_pool2d(side, 2)), scale_factor=2)
        out: Tensor = self.join(torch.cat([side, low], 1))
        return out


def test_what_train_leaves_in_evaluation_mode_stays_there() -> None:
    model, x = Frozen(), torch.rand(2, 3, 16, 16)
    structure = read_structure(model, x)
    small = copy.deepcopy(
        build(structure, make_plan(structure, structure.cuts[-1], width=2)).module
    )
    for module in (rebuild(structure, copy.deepcopy(model)), small):
        for mode in (True, False):
            module.train(mode)
            model.train(mode)
            expected = {name: part.training for name, part in model.named_modules() if name}
            found = {n: p.training for n, p in module.named_modules() if n in expected}
            assert found == {name: expected[name] for name in found}
            assert {"norm", "drop", "deep.side"} <= found.keys()
    small(x)


class Standardised(nn.Conv2d):
    """Standardises its own weight whenever its mode is set, and returns nothing then."""

    def train(self, mode: bool = True) -> None:  # type: ignore[override]
        super().train(mode)
        self.weight.data = self.made()

    def made(self) -> Tensor:
        weight = self.weight.detach().flatten(1)
        return F.layer_norm(weight, weight.shape[1:]).reshape_as(self.weight)


class StandardisedInPlace(Standardised):
    """The same, in the memory of the weight."""

    def train(self, mode: bool = True) -> None:  # type: ignore[override]
        nn.Conv2d.train(self, mode)
        self.weight.data.copy_(self.made())


class Merging(nn.Conv2d):
    """Adds a small matrix to its weight for evaluation, and takes it off again."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.more, self.merged = nn.Parameter(torch.rand_like(self.weight)), False

    def train(self, mode: bool = True) -> Merging:
        super().train(mode)
        if self.merged is mode:
            self.weight.data += -self.more.data if mode else self.more.data
            self.merged = not mode
        return self

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight if self.merged else self.weight + self.more
        return F.conv2d(x, weight, self.bias, padding=1)


class Holding(nn.Module):
    """Writes the weights of another module whenever its mode is set."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()
        self.inner = nn.Conv2d(*args, **kwargs)
        self.register_buffer("scale", torch.ones(1))

    def train(self, mode: bool = True) -> Holding:
        super().train(mode)
        self.inner.weight.data *= 0.5
        self.scale *= 2
        return self

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.inner(x) * self.scale
        return out


class OfLayer(nn.Module):
    """A network with a layer of some kind."""

    def __init__(self, kind: Callable[..., nn.Module]) -> None:
        super().__init__()
        self.top, self.deep = nn.Conv2d(3, 4, 3, padding=1), kind(4, 8, 3, padding=1)
        self.up = nn.Conv2d(12, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        top = F.relu(self.top(x))
        deep = F.relu(self.deep(F.max_pool2d(top, 2)))
        out: Tensor = self.up(torch.cat([F.interpolate(deep, scale_factor=2.0), top], 1))
        return out


@pytest.mark.sample(2)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", [Standardised, StandardisedInPlace, Merging, Holding])
def test_weights_that_are_written_where_a_mode_is_set_stay_as_they_are(
    kind: type[nn.Module], training: bool
) -> None:
    model = OfLayer(kind)
    model.train(training)
    before = {
        name: (t, t.data_ptr(), t.clone(), t._version)
        for name, t in model.state_dict(keep_vars=True).items()
    }
    structure = read_structure(model)
    assert [cut.keep_levels for cut in structure.cuts] == [1]
    build(structure, make_plan(structure, structure.cuts[0], width=2))
    rebuild(structure)
    for name, tensor in model.state_dict(keep_vars=True).items():
        same, place, values, version = before[name]
        assert tensor is same
        assert (tensor.data_ptr(), tensor._version) == (place, version)
        assert torch.equal(tensor, values)


class NothingReturned(OfLayer):
    """Its own ``train`` returns nothing."""

    def train(self, mode: bool = True) -> None:  # type: ignore[override]
        super().train(mode)


def test_a_mode_may_be_set_by_what_returns_nothing() -> None:
    structure = read_structure(NothingReturned(nn.Conv2d))
    assert [cut.keep_levels for cut in structure.cuts] == [1]
    rebuild(structure)


class Remembering(nn.Module):
    """Codes whose mean is no tensor before the first call in training."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", None)
        self.register_buffer("scale", torch.tensor(2.0))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.mean = x.mean((0, 2, 3)).detach()
        return x * self.scale


def test_a_buffer_that_training_fills_is_no_reason_to_refuse() -> None:
    structure = read_structure(Hourglass(Remembering(), lambda part, x: part(x)))
    assert structure.reductions == ((1, 1), (2, 2))
    assert structure.model.part.mean is None
