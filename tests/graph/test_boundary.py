"""A mark that is written into the graph directly is the mark that the tracer would have written."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import fx
from torch.utils import _pytree as pytree

from tests.networks import UNet
from weightscope.graph import boundary
from weightscope.graph.capture import capture
from weightscope.graph.structure import ExampleInputs


class Join(torch.nn.Module):
    """A module call with two tensors in and two out."""

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return y * 2.0, x + y


class Joined(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = UNet()
        self.join = Join()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first, second = self.join(self.net(x), x.mean(1, keepdim=True))
        return first - second


def traced(model: torch.nn.Module) -> fx.Graph:
    inputs = ExampleInputs((torch.randn(2, 3, 32, 48),), {}, 2, guessed=False)
    return capture(model, inputs).program.graph


def described(graph: fx.Graph) -> list[tuple[str, str, str]]:
    """Operator, inputs and result of each node, in words that two traces of one model share."""
    position = {node: index for index, node in enumerate(graph.nodes)}
    words = []
    for node in graph.nodes:
        value = node.meta.get("val")
        if isinstance(value, torch.Tensor):
            value = (value.shape, value.stride(), value.dtype)
        inputs = [position.get(leaf, leaf) for leaf in pytree.tree_leaves((node.args, node.kwargs))]
        words.append((str(node.target), str(inputs), str(value)))
    return words


def test_the_graph_is_the_same_either_way(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Joined()
    direct = traced(model)
    monkeypatch.setattr(boundary, "_DIRECT", False)
    assert described(direct) == described(traced(model))


def test_this_torch_takes_every_mark_directly(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[bool] = []
    real = boundary._recorded

    def spy(x: torch.Tensor, arguments: tuple[Any, ...]) -> torch.Tensor | None:
        result = real(x, arguments)
        written.append(result is not None)
        return result

    monkeypatch.setattr(boundary, "_recorded", spy)
    traced(UNet())
    assert len(written) > 10
    assert all(written)
