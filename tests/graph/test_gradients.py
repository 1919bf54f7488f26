"""Functions with a backward of their own."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weightscope.graph import read_structure, rebuild

PLAIN_APPLY = vars(torch.autograd.Function)["apply"]


class Rounded(torch.autograd.Function):
    """Rounds, and hands the gradient on as it is."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        with torch.no_grad():
            return torch.round(x * 8) / 8

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return gradients[0]


class Rounding(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = Rounded.apply(x)
        return y


class Hourglass(nn.Module):
    """Rounds at the top, in the forward itself or in a module."""

    def __init__(self, rounding: nn.Module | None) -> None:
        super().__init__()
        self.top, self.rounding = nn.Conv2d(3, 4, 3, padding=1), rounding
        self.deep, self.head = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.top(x)
        y = Rounded.apply(y) if self.rounding is None else self.rounding(y)
        deep = F.interpolate(self.deep(F.max_pool2d(y, 2)), scale_factor=2)
        out: Tensor = self.head(torch.cat([y, deep], 1))
        return out


def gradients(module: nn.Module, x: Tensor) -> dict[str, Tensor | None]:
    module.zero_grad()
    module(x).pow(2).mean().backward()
    return {n: None if p.grad is None else p.grad.clone() for n, p in module.named_parameters()}


def test_a_backward_that_a_graph_loses_is_named() -> None:
    model, x = Hourglass(None), torch.rand(2, 3, 16, 16)
    structure = read_structure(model, x)
    assert any("Rounded" in note and "module of its own" in note for note in structure.notes)
    own, found = gradients(model, x), gradients(rebuild(structure), x)
    top = found["top.weight"]
    assert top is not None
    assert not top.any()  # the gradient of rounding itself
    for name in ("deep.weight", "head.weight"):  # what follows is trained
        torch.testing.assert_close(found[name], own[name], rtol=0, atol=0)
    assert vars(torch.autograd.Function)["apply"] is PLAIN_APPLY


def test_the_remedy_keeps_a_backward() -> None:
    model, x = Hourglass(Rounding()), torch.rand(2, 3, 16, 16)
    structure = read_structure(model, x)
    assert not structure.notes
    own, found = gradients(model, x), gradients(rebuild(structure), x)
    for name, gradient in own.items():
        torch.testing.assert_close(found[name], gradient, rtol=0, atol=0)
