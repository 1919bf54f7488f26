"""Answers for some positions together, and for others than the input has."""

import pytest
import torch
import torch.nn.functional as F
from networks import places
from torch import Tensor, nn

from weightscope.graph import read_structure
from weightscope.truncation.building import build
from weightscope.truncation.plan import find_cut, make_plan


class Recording(nn.Module):
    """A U-Net of a signal, then something that is done with its last features."""

    def __init__(self, channels: int = 2) -> None:
        super().__init__()
        self.top, self.down = nn.Conv1d(channels, 4, 5, padding=2), nn.Conv1d(4, 8, 3, 2, 1)
        self.deep, self.up1 = nn.Conv1d(8, 8, 3, 2, 1), nn.Conv1d(16, 8, 3, padding=1)
        self.up0, self.last = nn.Conv1d(12, 8, 3, padding=1), nn.Conv1d(8, 5, 1)

    def features(self, x: Tensor) -> Tensor:
        top = self.top(x).relu()
        down = self.down(top).relu()
        deep = F.interpolate(self.deep(down).relu(), scale_factor=2.0)
        middle = self.up1(torch.cat([deep, down], 1)).relu()
        return self.up0(torch.cat([F.interpolate(middle, scale_factor=2.0), top], 1)).relu()


class Epochs(Recording):
    """Names each epoch of so many samples."""

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.avg_pool1d(self.features(x), 16)).relu()


class Forecast(Recording):
    """Goes from the samples that were seen to those of a horizon."""

    def __init__(self, horizon: int) -> None:
        super().__init__()
        self.time, self.out = nn.Linear(96, horizon), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.time(self.features(x)).transpose(1, 2))


@pytest.mark.parametrize(
    ("model", "head"),
    [(Epochs(), {"last"}), (Forecast(48), {"out"}), (Forecast(12), {"out"})],
    ids=["epochs", "half", "an eighth"],
)
def test_an_answer_of_other_positions_makes_no_level(model: nn.Module, head: set[str]) -> None:
    structure = read_structure(model.eval(), torch.rand(2, 2, 96))
    assert structure.reductions == ((1,), (2,), (4,))
    found = {stage.name: {*stage.layers} for stage in structure.stages}
    assert found["bottleneck"] == {"deep"}
    assert found["head"] == head
    for keep in (1, 2):
        small = build(structure, make_plan(structure, find_cut(structure, keep), width=4)).module
        x = torch.rand(3, 2, 96)
        assert small(x).shape == model(x).shape


class Permutator(nn.Module):
    """Layers of one level mix all rows, and all columns."""

    def __init__(self) -> None:
        super().__init__()
        self.top, self.down = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 3, 2, 1)
        self.rows, self.columns = nn.Linear(16, 16), nn.Linear(24, 24)
        self.deep, self.up1 = nn.Conv2d(4, 8, 3, 2, 1), nn.Conv2d(12, 4, 3, padding=1)
        self.up0 = nn.Conv2d(8, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        top = self.top(x).relu()
        down = self.down(top).relu()
        down = down + self.columns(down) + self.rows(down.transpose(2, 3)).transpose(2, 3)
        x = F.interpolate(self.deep(down).relu(), scale_factor=2.0)
        x = F.interpolate(self.up1(torch.cat([x, down], 1)).relu(), scale_factor=2.0)
        return self.up0(torch.cat([x, top], 1))


def test_layers_that_mix_the_positions_of_a_side_lie_at_their_level() -> None:
    structure = read_structure(Permutator().eval(), torch.rand(2, 2, 32, 48))
    assert structure.reductions == ((1, 1), (2, 2), (4, 4))
    stages = places(structure)
    assert stages["rows"] == stages["columns"] == "encoder 1"
    assert [cut.keep_levels for cut in structure.cuts] == [1, 2]


class DualPath(nn.Module):
    """Takes the deepest features in chunks, along which one layer goes, and another one across."""

    def __init__(self) -> None:
        super().__init__()
        self.top, self.deep = nn.Conv1d(1, 4, 8, 4, 2), nn.Conv1d(4, 8, 8, 4, 2)
        self.along, self.across = nn.GRU(8, 8, batch_first=True), nn.GRU(8, 8, batch_first=True)
        self.norm = nn.GroupNorm(1, 8)
        self.up1, self.up0 = nn.ConvTranspose1d(8, 4, 4, 4), nn.ConvTranspose1d(4, 1, 4, 4)

    def forward(self, x: Tensor) -> Tensor:
        top = self.top(x).relu()
        chunks = self.deep(top).relu().unflatten(2, (-1, 4)).transpose(2, 3)  # (B, C, K, S)
        batch, channels, size, number = chunks.shape
        along = self.along(chunks.permute(0, 3, 2, 1).reshape(-1, size, channels))[0]
        along = along.reshape(batch, number, size, channels).permute(0, 3, 2, 1)
        chunks = chunks + self.norm(along)
        across = self.across(chunks.permute(0, 2, 3, 1).reshape(-1, number, channels))[0]
        across = across.reshape(batch, size, number, channels).permute(0, 3, 1, 2)
        deep = (chunks + self.norm(across)).transpose(2, 3).flatten(2)
        return self.up0(self.up1(deep).relu() + top)


def test_norms_of_chunks_of_a_signal_make_no_level() -> None:
    structure = read_structure(DualPath().eval(), torch.rand(2, 1, 256))
    assert structure.reductions == ((1,), (4,), (16,))
    stages = places(structure)
    assert {stages[name] for name in ("deep", "along", "norm", "across")} == {"bottleneck"}
