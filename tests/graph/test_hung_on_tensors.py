"""Forwards that make images objects of a class of their own, or set attributes of them."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weightscope.graph import read_structure, rebuild
from weightscope.truncation.building import build
from weightscope.truncation.plan import make_plan


class Picture(torch.Tensor):
    """A tensor of somebody's own."""


class Through(nn.Module):
    """Makes its input a picture, in one of the ways there are."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way

    def forward(self, x: Tensor) -> Tensor:
        if self.way == "made":
            return torch.Tensor._make_subclass(Picture, x)
        return x.as_subclass(Picture)


class Beside(nn.Module):
    """Adds what is set on the tensor that it is given."""

    def forward(self, x: Any) -> Tensor:
        return x + x.beside


class Hooked(nn.Module):
    """A step up that finds its skip where a hook on a step down left it."""

    def __init__(self, down: nn.Module) -> None:
        super().__init__()
        self.kept: list[Tensor] = []
        self.handle = down.register_forward_hook(self.keep, always_call=True)
        self.up = nn.Conv2d(12, 4, 3, padding=1)

    def keep(self, module: nn.Module, args: Any, made: Tensor) -> None:
        self.kept[:] = [made]

    def forward(self, x: Tensor) -> Tensor:
        top = self.kept[0]
        return F.relu(self.up(torch.cat([top, F.interpolate(x, size=top.shape[2:])], 1)))


class Net(nn.Module):
    """Two levels; what goes up is made a picture, or gets the input of the network beside it."""

    def __init__(self, between: nn.Module) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU())
        self.deep = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(4, 8, 3, padding=1), nn.ReLU())
        self.up = nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(8, 4, 3, padding=1))
        self.between, self.out = between, nn.Conv2d(4, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        top: Any = self.first(x)
        up: Any = self.up(self.deep(top))
        up.beside = top
        joined: Any = self.between(up)
        up.beside = None
        made: Tensor = self.out(joined + top)
        return made


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    "between",
    [
        Through("cast"),
        Through("made"),
        Beside(),
        nn.Sequential(Beside(), Through("cast")),
        nn.Sequential(nn.Sequential(Through("cast"), nn.ReLU())),
    ],
)
@pytest.mark.parametrize("train", [False, True])
def test_pictures_and_what_is_set_on_them_are_read_through(between: nn.Module, train: bool) -> None:
    model = Net(copy.deepcopy(between)).train(train)
    structure = read_structure(model)
    assert structure.reductions == ((1.0, 1.0), (2.0, 2.0))
    assert [cut.keep_levels for cut in structure.cuts] == [1]
    x = torch.rand(2, 3, 24, 40)
    torch.testing.assert_close(
        rebuild(structure)(x).as_subclass(Tensor), model(x).as_subclass(Tensor), rtol=0, atol=0
    )
    variant = build(structure, make_plan(structure, structure.cuts[0], "light", 4))
    assert variant.module(x).shape == (2, 1, 24, 40)
    torch.export.export(variant.module, (x,))


def test_torch_s_own_kinds_stay_what_they_are_and_so_does_what_is_called_later() -> None:
    before = vars(Tensor).get("as_subclass")
    read_structure(Net(Through("cast")))
    assert vars(Tensor).get("as_subclass") is before
    assert type(torch.rand(2).as_subclass(Picture)) is Picture  # type: ignore[arg-type]
    assert isinstance(torch.Tensor._make_subclass(Picture, torch.rand(2)), Picture)
    assert isinstance(nn.Parameter(torch.rand(2)), nn.Parameter)


class Unet(nn.Module):
    """Three levels whose steps up hold the handles of hooks on the steps down."""

    def __init__(self) -> None:
        super().__init__()
        self.tops = nn.ModuleList([nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 8, 3, padding=1)])
        self.deep, self.pool = nn.Conv2d(8, 8, 3, padding=1), nn.MaxPool2d(2)
        self.ups = nn.ModuleList([Hooked(self.tops[0]), Hooked(self.tops[1])])
        self.ups[1].up = nn.Conv2d(16, 8, 3, padding=1)
        self.out = nn.Conv2d(4, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.tops[1](self.pool(F.relu(self.tops[0](x)))))
        x = self.ups[1](F.relu(self.deep(self.pool(x))))
        made: Tensor = self.out(self.ups[0](x))
        return made


def test_a_variant_whose_parts_hold_handles_of_hooks_on_what_is_gone_can_be_copied() -> None:
    structure = read_structure(Unet())
    assert [cut.keep_levels for cut in structure.cuts] == [1, 2]
    for cut in structure.cuts:
        variant = build(structure, make_plan(structure, cut, "light", 4))
        x = torch.rand(2, 3, 32, 32)
        module = variant.module.eval()
        torch.testing.assert_close(copy.deepcopy(module)(x), module(x), rtol=0, atol=0)
