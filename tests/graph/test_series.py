"""Series of variables that are forecast, sequences by time first, and answers for each epoch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.networks import places
from weightscope.errors import InputError
from weightscope.graph import read_structure
from weightscope.truncation.building import build
from weightscope.truncation.checks import verify
from weightscope.truncation.plan import make_plan


class Scales(nn.Module):
    """Pools each variable, works on it alone, and mixes scales by linear layers along time."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.out = nn.Linear(1, 4), nn.Linear(4, 1)
        self.down, self.up = nn.Linear(16, 8), nn.Linear(8, 16)
        self.deep = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        batch, _, variables = x.shape
        pooled = F.avg_pool1d(x.transpose(1, 2), 2).transpose(1, 2)
        top, low = (
            self.embed(v.transpose(1, 2).reshape(batch * variables, -1, 1)) for v in (x, pooled)
        )
        low = self.deep(low + self.down(top.transpose(1, 2)).transpose(1, 2)).relu()
        made = self.out(top + self.up(low.transpose(1, 2)).transpose(1, 2))
        return made.reshape(batch, variables, -1).transpose(1, 2)


def test_variables_that_a_linear_layer_is_given_one_by_one_are_signals() -> None:
    structure = read_structure(Scales().eval(), torch.randn(2, 16, 5))
    assert structure.inputs.layout == "NLT"
    assert structure.reductions == ((1,), (2,))
    stage = places(structure)
    assert [stage[name] for name in ("embed", "down", "deep", "up", "out")] == [
        *("encoder 0", "encoder 0", "bottleneck", "bottleneck", "head")
    ]


class Interleaved(nn.Module):
    """Works on even and odd samples apart, each from the other, and lays them in turn again."""

    def __init__(self, deeper: nn.Module | None = None) -> None:
        super().__init__()
        self.even, self.odd = nn.Conv1d(4, 4, 3, 1, 1), nn.Conv1d(4, 4, 3, 1, 1)
        self.deeper = deeper

    def forward(self, x: Tensor) -> Tensor:
        even, odd = x[:, ::2].transpose(1, 2), x[:, 1::2].transpose(1, 2)
        even, odd = even * self.odd(odd).exp(), odd * self.even(even).exp()
        even, odd = even.transpose(1, 2), odd.transpose(1, 2)
        if self.deeper is not None:
            even, odd = self.deeper(even), self.deeper(odd)
        in_turn = [part[:, [i]] for i in range(even.shape[1]) for part in (even, odd)]
        return torch.cat(in_turn, 1)


class Tree(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.halves, self.out = Interleaved(Interleaved()), nn.Conv1d(16, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(x + self.halves(x))


def test_every_second_sample_is_a_level_that_layers_tell() -> None:
    structure = read_structure(Tree().eval(), torch.randn(2, 16, 4))
    assert structure.reductions == ((1,), (2,), (4,))
    stage = places(structure)
    assert [stage[f"halves.{name}"] for name in ("even", "odd", "deeper.even", "deeper.odd")] == [
        *("encoder 1", "encoder 1", "bottleneck", "bottleneck")
    ]
    assert [cut.keep_levels for cut in structure.cuts] == [1, 2]
    for cut in structure.cuts:
        variant = build(structure, make_plan(structure, cut, width=4))
        assert verify(variant, export=False).failures == ()


class Epochs(nn.Module):
    """Comes back up, and says the chance of each class for each epoch of 16 samples."""

    def __init__(self) -> None:
        super().__init__()
        self.top, self.deep = nn.Conv1d(1, 4, 3, 1, 1), nn.Conv1d(4, 6, 3, 1, 1)
        self.join, self.classes = nn.Conv1d(10, 4, 3, 1, 1), nn.Conv1d(4, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        top = self.top(x).relu()
        deep = F.interpolate(self.deep(F.max_pool1d(top, 4)).relu(), scale_factor=4)
        made = self.join(torch.cat([top, deep], 1)).relu()
        return self.classes(F.avg_pool1d(made, 16)).softmax(1)


def test_chances_of_classes_for_each_epoch_make_no_level() -> None:
    structure = read_structure(Epochs().eval(), torch.randn(2, 1, 64))
    assert structure.reductions == ((1,), (4,))
    assert places(structure)["classes"] == "head"
    assert [cut.keep_levels for cut in structure.cuts] == [1]


class TimeFirst(nn.Module):
    """Takes (frames, batch, channels, height, width), of so many frames, and returns fewer."""

    def __init__(self, returned: int) -> None:
        super().__init__()
        self.down, self.hidden = nn.Conv2d(1, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, 1, 1)
        self.deep, self.up = nn.Conv2d(4, 6, 3, 2, 1), nn.ConvTranspose2d(6, 4, 4, 2, 1)
        self.last, self.out = nn.ConvTranspose2d(4, 4, 4, 2, 1), nn.Conv2d(4, 1, 1)
        self.returned = returned

    def forward(self, x: Tensor) -> Tensor:
        frames = self.down(x.flatten(0, 1)).relu().unflatten(0, x.shape[:2])
        state = torch.zeros_like(frames[0])
        for step in range(4):
            state = (frames[step] + self.hidden(state)).tanh()
        made = []
        for _ in range(self.returned):
            state = self.hidden(state).tanh()
            made.append(self.up(self.deep(state).relu()).relu() + state)
        frames = torch.stack(made)
        made_of_all = self.out(self.last(frames.flatten(0, 1)).relu())
        return made_of_all.unflatten(0, frames.shape[:2])


class BatchFirst(nn.Module):
    """Follows the remedy."""

    def __init__(self, own: nn.Module) -> None:
        super().__init__()
        self.own = own

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.own(x.transpose(0, 1))
        return made.transpose(0, 1)


@pytest.mark.parametrize("returned", [3, 4])
def test_clips_by_time_first_are_refused_with_the_remedy(returned: int) -> None:
    model = TimeFirst(returned).eval()
    with pytest.raises(InputError, match=r"x\.transpose\(0, 1\)"):
        read_structure(model, torch.randn(4, 2, 1, 16, 16))
    structure = read_structure(BatchFirst(model), torch.randn(2, 4, 1, 16, 16))
    assert structure.reductions == ((1, 1), (2, 2), (4, 4))
    assert places(structure)["own.deep"] == "bottleneck"


class Segments(nn.Module):
    """Cuts each variable into segments, merges two of them, and looks both up."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.merge = nn.Linear(4, 8), nn.Linear(16, 8)
        self.table = nn.Parameter(torch.randn(1, 5, 8, 8))
        self.top, self.deep, self.out = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, variables = x.shape
        segments = x.transpose(1, 2).reshape(batch, variables, length // 4, 4)
        top = self.top(self.embed(segments) + self.table).relu()
        deep = self.merge(torch.cat([top[:, :, ::2], top[:, :, 1::2]], -1))
        made = top + self.deep(deep).relu().repeat_interleave(2, 2)
        return self.out(made).reshape(batch, variables, length).transpose(1, 2)


def test_segments_of_each_variable_are_positions() -> None:
    structure = read_structure(Segments().eval(), torch.randn(2, 32, 5))
    assert structure.inputs.layout == "NLT"
    assert structure.reductions == ((1,), (4,), (8,))
    stage = places(structure)
    assert [stage[name] for name in ("embed", "top", "merge", "deep", "out")] == [
        *("encoder 1", "encoder 1", "bottleneck", "bottleneck", "head")
    ]
