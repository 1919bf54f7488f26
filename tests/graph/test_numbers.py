"""Forwards that read numbers out of tensors that follow no input, or that they write into."""

from __future__ import annotations

import operator
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weightscope.errors import StructureError
from weightscope.graph import read_structure
from weightscope.graph.running import GraphRun

IMAGE = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
TABLE = torch.tensor([1.0, 0.0, 2.0])


class Net(nn.Module):
    """Two levels; what its skip connection does, a test says."""

    def __init__(self, skip: Callable[[Net, Tensor], Tensor]) -> None:
        super().__init__()
        self.top, self.deep = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 8, 3, padding=1)
        self.out, self.skip = nn.Conv2d(12, 2, 3, padding=1), skip
        self.table = torch.tensor([2, 0, 3])
        self.tables = {"a": [torch.tensor([0.5, 4.0])]}
        self.probability = torch.tensor(0.5)
        self.register_buffer("held", torch.tensor([2.0, 0.0, 3.0]))

    def forward(self, x: Tensor) -> Tensor:
        top = F.relu(self.top(x))
        deep = F.interpolate(F.relu(self.deep(F.max_pool2d(top, 2))), scale_factor=2.0)
        return self.out(torch.cat([deep, self.skip(self, top)], 1))


def in_a_loop(net: Net, x: Tensor) -> Tensor:
    for row in net.table.view(3, 1):
        if row.any() and torch.equal(row, row.abs()) and row[0] in (2, 3):
            x = x * int(row)
    return x


def made_and_written(value: float | Tensor) -> float:
    table = torch.zeros(2, 2)
    table.view(-1)[1:2].add_(value)
    return float(table.max())


def masked(net: Net, x: Tensor) -> Tensor:
    """By masks that the forward makes itself, one element for each image or position."""
    mask = torch.zeros((len(x),), dtype=torch.bool)
    ahead = torch.ones(x.shape[2:], dtype=torch.bool)
    if mask.all() or not (~mask).all() or not torch.any(ahead[None]):
        return x * 2
    return torch.where(mask[:, None, None, None], x * 3, x)


def masked_otherwise(net: Net, x: Tensor) -> Tensor:
    mask = torch.zeros((len(x),), dtype=torch.bool)
    mask[:1].fill_(x.flatten(1).sum() * 0 == 0)
    return x * 2 if mask.any() else x


READ: dict[str, Callable[[Net, Tensor], Tensor]] = {
    "if": lambda net, x: x if net.table[1] else x * 2,
    "int": lambda net, x: x * int(net.table[2]),
    "list": lambda net, x: x * net.tables["a"][0].tolist()[1],
    "arithmetic": lambda net, x: x * float(torch.softmax(net.tables["a"][0], 0).max()),
    "global": lambda net, x: x * TABLE[2].item() if TABLE[0] > 0 else x,
    "loop": in_a_loop,
    "mixed": lambda net, x: x * net.table[0] + net.tables["a"][0].mean(),
    "list of steps": lambda net, x: x - x.mean(torch.arange(1, x.dim()).tolist(), keepdim=True),
    "made": lambda net, x: x * float(torch.linspace(0, 2, 3)[2]) if torch.ones(3).sum() > 2 else x,
    "made and written": lambda net, x: x * made_and_written(3.0),
    "map": lambda net, x: x * max(float((torch.ones(40, 1) * torch.arange(40.0)).max()), 1e-3),
    "mask": masked,
    "data": lambda net, x: x.data * net.held.data[2] if net.held.data[0] else x,
}


@pytest.mark.sample(2)
@pytest.mark.parametrize("name", READ)
def test_numbers_that_follow_no_input_are_read(name: str) -> None:
    torch.manual_seed(0)
    model = Net(READ[name]).eval()
    structure = read_structure(model, IMAGE)
    assert [cut.keep_levels for cut in structure.cuts] == [1]
    torch.testing.assert_close(GraphRun(structure, {}).predict(IMAGE), model(IMAGE))


def written(net: Net, x: Tensor) -> Tensor:
    net.tables["a"][0][0] = x.mean()
    return x * float(net.tables["a"][0][0])


def counted(net: Net, x: Tensor) -> Tensor:
    net.table += 1
    return x * int(net.table[0])


def counted_through_a_view(net: Net, x: Tensor) -> Tensor:
    net.table[1:].add_(1)
    return x * int(net.table[1])


def counted_by_a_function(net: Net, x: Tensor) -> Tensor:
    F.threshold(net.table, 5, 6, inplace=True)
    return x * int(net.table[0])


def made_of_the_image(net: Net, x: Tensor) -> Tensor:
    return x * made_and_written(x.mean())


def drawn(net: Net, x: Tensor) -> Tensor:
    return x * float(torch.bernoulli(net.probability))


@pytest.mark.parametrize(
    "skip",
    [
        *(written, counted, counted_through_a_view, counted_by_a_function),
        *(made_of_the_image, masked_otherwise, drawn),
    ],
)
def test_numbers_that_change_are_no_constants(skip: Callable[[Net, Tensor], Tensor]) -> None:
    model = Net(skip).eval()
    before = model.table.clone(), model.tables["a"][0].clone()
    with pytest.raises(StructureError, match=r"reads values of tensors.*test_numbers\.py"):
        read_structure(model, IMAGE)
    assert torch.equal(model.table, before[0])
    assert torch.equal(model.tables["a"][0], before[1])


class Steered(nn.Module):
    """Scales by a flag of its own that the forward writes before it is read."""

    def __init__(self, write: Callable[[Tensor, Tensor], object]) -> None:
        super().__init__()
        self.write = write
        self.top, self.deep = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 8, 3, padding=1)
        self.out = nn.Conv2d(8 + 4, 1, 1)
        self.register_buffer("flag", torch.zeros(2))

    def forward(self, x: Tensor) -> Tensor:
        top = self.top(x)
        deep = self.deep(F.max_pool2d(top, 2))
        self.write(self.flag, deep.detach().mean() * 0 - 1)
        if float(self.flag[0]) > 0:
            deep = deep * 2
        return self.out(torch.cat([F.interpolate(deep, scale_factor=2.0), top], dim=1))


@pytest.mark.parametrize(
    "write",
    [
        lambda flag, value: flag.fill_(value),
        lambda flag, value: flag.mul_(value),
        lambda flag, value: flag[0].copy_(value),
        lambda flag, value: operator.setitem(flag, 0, value),
        lambda flag, value: flag.view(2, 1).select(0, 0).add_(value),
    ],
)
def test_what_the_forward_writes_is_no_constant(write: Callable[[Tensor, Tensor], object]) -> None:
    with pytest.raises(StructureError, match="reads values"):
        read_structure(Steered(write).eval(), torch.rand(1, 1, 32, 32))


def test_what_nothing_writes_is_one() -> None:
    structure = read_structure(Steered(lambda flag, value: None).eval(), torch.rand(1, 1, 32, 32))
    assert [cut.keep_levels for cut in structure.cuts] == [1]
