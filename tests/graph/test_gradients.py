"""Functions with a backward of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weightscope import analyze, load, save
from weightscope.graph import read_structure, rebuild


class Rounded(torch.autograd.Function):
    """Rounds, and hands the gradient on as it is."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        with torch.no_grad():
            return torch.round(x * 8) / 8

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return gradients[0]


class Reversed(torch.autograd.Function):
    """Hands its argument on, and turns the gradient around."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, strength: float) -> Tensor:
        ctx.strength = strength
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return -ctx.strength * gradients[0], None


class Swish(torch.autograd.Function):
    """Keeps its argument alone for the backward."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x * torch.sigmoid(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (x,) = ctx.saved_tensors
        s = torch.sigmoid(x)
        return gradients[0] * s * (1 + x * (1 - s))


class Doubled(torch.autograd.Function):
    """Writes into its argument; the gradient is not the operation's own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.mark_dirty(x)
        return x.mul_(2)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return 5 * gradients[0]


class DoubledAnew(Doubled):
    """The same in the newer spelling."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:  # type: ignore[override]
        return x.mul_(2)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.mark_dirty(*inputs)


class Mixed(torch.autograd.Function):
    """Several arguments, a parameter among them, and several results; applies another."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(a)
        return Swish.apply(a) * weight + b, a - b

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (a,) = ctx.saved_tensors
        return 2 * gradients[0], gradients[1], 3 * (gradients[0] * a).sum((0, 2, 3), keepdim=True)


class Tried(torch.autograd.Function):
    """Is given a function."""

    @staticmethod
    def forward(ctx: Any, function: Any, x: Tensor) -> Any:
        return function(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return None, 2 * gradients[0]


class Trying(nn.Module):
    def forward(self, x: Tensor) -> Any:
        return Tried.apply(torch.tanh, x)


class Hooking(nn.Module):
    def forward(self, x: Tensor) -> Any:
        return hooked(None, x)


class Hourglass(nn.Module):
    """Does something at the top, in the forward itself or in a module."""

    def __init__(self, at_the_top: Any) -> None:
        super().__init__()
        self.at_the_top, self.scale = at_the_top, nn.Parameter(torch.rand(1, 4, 1, 1))
        self.top, self.deep = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.top(x)
        given = (y,) if isinstance(self.at_the_top, nn.Module) else (self, y)
        y = self.at_the_top(*given)
        deep = F.interpolate(self.deep(F.max_pool2d(y, 2)), scale_factor=2)
        out: Tensor = self.head(torch.cat([y, deep], 1))
        return out


def gradients(module: nn.Module, x: Tensor) -> dict[str, Tensor | None]:
    module.zero_grad()
    module(x).pow(2).mean().backward()
    return {n: None if p.grad is None else p.grad.clone() for n, p in module.named_parameters()}


def same_gradients(a: nn.Module, b: nn.Module, x: Tensor) -> bool:
    own, found = gradients(a, x), gradients(b, x)
    return own.keys() == found.keys() and all(
        (g is None and found[n] is None) or torch.equal(g, found[n])  # type: ignore[arg-type]
        for n, g in own.items()
    )


taken_long_ago = Rounded.apply
KEPT = {
    "straight through": lambda _, y: Rounded.apply(y),
    "straight through, taken from the class before": lambda _, y: taken_long_ago(y),
    "reversed": lambda _, y: Reversed.apply(y, 0.3),
    "swish": lambda _, y: Swish.apply(y),
    "in place": lambda _, y: Doubled.apply(y),
    "in place, newer spelling": lambda _, y: DoubledAnew.apply(y),
    "several results": lambda net, y: sum(Mixed.apply(y, y * 2, net.scale)),
}


@pytest.mark.sample(1)
@pytest.mark.parametrize("name", KEPT)
def test_a_backward_of_its_own_is_kept(name: str) -> None:
    model, x = Hourglass(KEPT[name]), torch.rand(2, 3, 16, 16)
    structure = read_structure(model, x)
    assert not structure.notes
    rebuilt = rebuild(structure)
    assert torch.equal(rebuilt(x), model(x))
    assert same_gradients(model, rebuilt, x)


def test_a_forward_that_is_called_without_apply_is_differentiated_as_it_is() -> None:
    model = Hourglass(lambda _, y: DoubledAnew.forward(y.clone()))
    x = torch.rand(2, 3, 16, 16)
    assert same_gradients(model, rebuild(read_structure(model, x)), x)


def test_a_variant_trains_with_a_backward_of_its_own(tmp_path: Path) -> None:
    x = torch.rand(4, 3, 16, 16)

    def build() -> Hourglass:
        torch.manual_seed(0)
        return Hourglass(KEPT["straight through"]).eval()

    (proposal,) = analyze(build(), example_inputs=x).proposals
    variant = proposal.build()
    top = gradients(variant.module, x)["top.weight"]
    assert top is not None
    assert bool(top.any())  # rounding itself has no gradient
    variant.recover(x, steps=2, progress=False)
    loaded = load(save(variant, tmp_path / "small.safetensors"), build).module
    assert torch.equal(loaded(x), variant.module(x))
    assert same_gradients(variant.module, loaded, x)


def test_a_backward_that_a_graph_loses_is_named() -> None:
    model, x = Hourglass(lambda _, y: Tried.apply(torch.tanh, y)), torch.rand(2, 3, 16, 16)
    structure = read_structure(model, x)
    assert any("Tried" in note and "module of its own" in note for note in structure.notes)
    assert torch.equal(rebuild(structure)(x), model(x))
    assert not same_gradients(model, rebuild(structure), x)
    assert "__getattribute__" not in vars(type(torch.autograd.Function))


def hooked(_: Any, y: Tensor) -> Tensor:
    if y.requires_grad:
        y.register_hook(lambda gradient: 3 * gradient)
    return y


def hooked_unasked(_: Any, y: Tensor) -> Tensor:
    y.register_hook(lambda gradient: 3 * gradient).remove()
    return y


def retained(_: Any, y: Tensor) -> Tensor:
    y.retain_grad()
    return y


def hooked_parameter(net: Hourglass, y: Tensor) -> Tensor:
    net.scale.register_post_accumulate_grad_hook(lambda parameter: None)
    return y


class Asking(Hourglass):
    """Sets a hook in a method, only where there are gradients."""

    def __init__(self) -> None:
        super().__init__(lambda net, y: net.ask(y))

    def ask(self, y: Tensor) -> Tensor:
        if y.requires_grad:
            y.register_hook(lambda gradient: 3 * gradient)
        return y


SETTERS = {
    "register_hook": hooked_unasked,
    "retain_grad": retained,
    "register_post_accumulate_grad_hook": hooked_parameter,
}


@pytest.mark.sample(1)
@pytest.mark.parametrize("name", SETTERS)
def test_hooks_on_gradients_that_a_graph_loses_are_named(name: str) -> None:
    structure = read_structure(model := Hourglass(SETTERS[name]), torch.rand(2, 3, 16, 16))
    assert any(f"Tensor.{name} " in note and "own" in note for note in structure.notes)
    assert not any(p._post_accumulate_grad_hooks for p in model.parameters())


def test_hooks_that_are_set_where_there_are_gradients_are_named() -> None:
    model, x = Asking(), torch.rand(2, 3, 16, 16)
    structure = read_structure(model, x)
    assert any("Tensor.register_hook " in note for note in structure.notes)
    assert not same_gradients(model, rebuild(structure), x)


class Encoder(nn.Module):
    """Two levels, which are taken apart."""

    def __init__(self) -> None:
        super().__init__()
        self.top, self.deep = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.top(x)
        return y, self.deep(F.max_pool2d(y, 2))


class Backbone(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.head = Encoder(), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Any:
        y, deep = self.encoder(x)
        return self.head(torch.cat([y, F.interpolate(deep, scale_factor=2)], 1))


def test_hooks_on_the_backward_of_a_module_that_is_taken_apart_are_named() -> None:
    model, x = Backbone(), torch.rand(2, 3, 16, 16)
    model.head.register_full_backward_hook(lambda *_: None)  # called as it is: kept
    assert not read_structure(model, x).notes
    model.encoder.register_full_backward_hook(lambda *_: None)
    (note,) = read_structure(model, x).notes
    assert "a backward hook of encoder " in note


@pytest.mark.parametrize("module", [Trying(), Hooking()], ids=["function", "hook"])
def test_the_remedy_keeps_gradients(module: nn.Module) -> None:
    model, x = Hourglass(module), torch.rand(2, 3, 16, 16)
    structure = read_structure(model, x)
    assert not structure.notes
    assert same_gradients(model, rebuild(structure), x)
