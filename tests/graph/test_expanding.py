"""Patches that a reshape lays out as a finer map or sequence, channels last."""

import pytest
import torch
import torch.nn.functional as F
from networks import places
from torch import Tensor, nn

from weightscope.adapters.symbols import hint
from weightscope.graph import read_structure
from weightscope.truncation.building import build
from weightscope.truncation.cutting import read_crossing
from weightscope.truncation.plan import find_cut, make_plan


class Mixer(nn.Module):
    """A residual block on (batch, height, width, channels)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.look = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.mix = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.look(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return x + self.mix(x)


class Attention(nn.Module):
    """A residual block on (batch, tokens, channels)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.look = nn.MultiheadAttention(width, 2, batch_first=True)
        self.mix = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.look(x, x, x)[0]
        return x + self.mix(x)


def merged(x: Tensor, height: int, width: int) -> Tensor:
    blocks = x.reshape(len(x), height // 2, 2, width // 2, 2, -1).permute(0, 1, 3, 2, 4, 5)
    return blocks.flatten(3)


def expanded(x: Tensor, height: int, width: int) -> Tensor:
    blocks = x.reshape(len(x), height, width, 2, 2, -1).permute(0, 1, 3, 2, 4, 5)
    return blocks.reshape(len(x), 2 * height, 2 * width, -1)


class Expanding(nn.Module):
    """Nothing behind an expansion says where its positions lie, but a skip that is added."""

    def __init__(self, tokens: bool, joined: bool, held: bool) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.rand(4, 16, 24)) if held else 0
        block = Attention if tokens else Mixer
        self.tokens, self.joined = tokens, joined
        self.stem = nn.Conv2d(3, 4, 2, 2)
        self.down0, self.merge1, self.down1 = block(4), nn.Linear(16, 8), block(8)
        self.merge2, self.deep = nn.Linear(32, 16), block(16)
        wide = 2 if joined else 1
        self.expand1, self.up1 = nn.Linear(16, 32), block(8 * wide)
        self.expand0, self.up0 = nn.Linear(8 * wide, 16), block(4 * wide)
        self.head = nn.ConvTranspose2d(4 * wide, 2, 2, 2)

    def laid(self, x: Tensor) -> Tensor:
        return x.flatten(1, 2) if self.tokens else x

    def join(self, x: Tensor, skip: Tensor) -> Tensor:
        x = self.laid(x)
        return torch.cat([x, skip], -1) if self.joined else x + skip

    def forward(self, image: Tensor) -> Tensor:
        x = (self.stem(image) + self.table).permute(0, 2, 3, 1)
        height, width = x.shape[1:3]
        first = self.down0(self.laid(x))
        second = self.down1(self.laid(self.merge1(merged(first, height, width))))
        x = self.deep(self.laid(self.merge2(merged(second, height // 2, width // 2))))
        x = self.up1(self.join(expanded(self.expand1(x), height // 4, width // 4), second))
        x = self.up0(self.join(expanded(self.expand0(x), height // 2, width // 2), first))
        return self.head(x.reshape(len(x), height, width, -1).permute(0, 3, 1, 2))


@pytest.mark.parametrize("held", [False, True], ids=["free", "held"])
@pytest.mark.parametrize("joined", [False, True], ids=["added", "joined"])
@pytest.mark.parametrize("tokens", [False, True], ids=["maps", "tokens"])
def test_what_follows_an_expansion_lies_where_it_lays_positions(
    tokens: bool, joined: bool, held: bool
) -> None:
    torch.manual_seed(0)
    model = Expanding(tokens, joined, held).eval()
    structure = read_structure(model, torch.rand(2, 3, 32, 48))
    assert structure.reductions == ((1, 1), (2, 2), (4, 4), (8, 8))
    stages = {
        layer.partition(".")[0]: stage.name for stage in structure.stages for layer in stage.layers
    }
    assert {name: stages[name] for name in ("deep", "up1", "up0", "down1", "down0")} == {
        "deep": "bottleneck",
        "up1": "decoder 2",
        "up0": "decoder 1",
        "down1": "encoder 2",
        "down0": "encoder 1",
    }
    assert [cut.keep_levels for cut in structure.cuts] == [1, 2, 3]


class Sliced(nn.Module):
    """Tokens whose every other row and column is merged; ``height = 4 * channels`` at 64x48."""

    def __init__(self, held: bool) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.rand(192, 4)) if held else 0
        self.stem, self.merge = nn.Conv2d(3, 4, 4, 4), nn.Linear(16, 8)
        self.deep, self.expand = Attention(8), nn.Linear(8, 16)
        self.up, self.head = Attention(4), nn.ConvTranspose2d(4, 2, 4, 4)

    def forward(self, image: Tensor) -> Tensor:
        x = self.stem(image)
        height, width = x.shape[2:]
        top = x.flatten(2).transpose(1, 2) + self.table
        maps = top.view(len(x), height, width, 4)
        corners = [maps[:, row::2, column::2] for row in (0, 1) for column in (0, 1)]
        x = self.merge(torch.cat(corners, -1).view(len(x), -1, 16))
        x = expanded(self.expand(self.deep(x)), height // 2, width // 2)
        x = self.up(x.flatten(1, 2) + top)
        return self.head(x.transpose(1, 2).unflatten(2, (height, width)))


@pytest.mark.parametrize("held", [False, True], ids=["free", "held"])
def test_channels_that_are_what_a_side_happens_to_be_are_no_side(held: bool) -> None:
    torch.manual_seed(0)
    structure = read_structure(Sliced(held).eval(), torch.rand(2, 3, 64, 48))
    cut = find_cut(structure, 2)
    crossing = read_crossing(structure, cut)
    assert [tuple(map(hint, sizes)) for sizes in crossing.runs[0].entries] == [(8, 6)]
    small = build(structure, make_plan(structure, cut, width=4)).module
    for height, width in ((64, 48), *(((48, 64), (128, 128)) if not held else ())):
        assert small(torch.rand(3, 3, height, width)).shape == (3, 2, height, width)


class Wavelets(nn.Module):
    """Haar wavelets down, and up by writing into new memory; a residual block follows each."""

    class Block(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.look, self.mix = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 1)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.mix(self.look(x).relu())

    def __init__(self, like: bool) -> None:
        super().__init__()
        self.like = like
        self.top, self.down = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(16, 8, 3, padding=1)
        self.deep = nn.Conv2d(32, 32, 3, padding=1)
        self.up1, self.wide, self.up0 = self.Block(8), nn.Conv2d(8, 16, 1), self.Block(4)
        self.head = nn.Conv2d(4, 2, 1)

    def apart(self, x: Tensor) -> Tensor:
        return torch.cat([x[:, :, row::2, column::2] for row in (0, 1) for column in (0, 1)], 1)

    def together(self, x: Tensor) -> Tensor:
        parts = x.chunk(4, 1)
        batch, channels, height, width = parts[0].shape
        if self.like:
            made = torch.zeros_like(parts[0].repeat(1, 1, 2, 2))
        else:
            made = torch.zeros(batch, channels, 2 * height, 2 * width)
        made[:, :, 0::2, 0::2] = parts[0] - parts[1]
        made[:, :, 1::2, 0::2] = parts[0] + parts[1]
        made[:, :, 0::2, 1::2] = parts[2] - parts[3]
        made[:, :, 1::2, 1::2] = parts[2] + parts[3]
        return made

    def forward(self, image: Tensor) -> Tensor:
        top = self.top(image)
        middle = self.down(self.apart(top))
        x = self.deep(self.apart(middle)).relu()
        x = self.up1(self.together(x) + middle)
        return self.head(self.up0(self.together(self.wide(x)) + top))


@pytest.mark.parametrize("like", [False, True])
def test_what_follows_a_map_that_is_written_pixel_by_pixel_lies_there(like: bool) -> None:
    torch.manual_seed(0)
    structure = read_structure(Wavelets(like).eval(), torch.rand(2, 3, 32, 48))
    assert structure.reductions == ((1, 1), (2, 2), (4, 4))
    stages = places(structure)
    assert stages["up1.look"] == "decoder 1"
    assert stages["up0.look"] == stages["up0.mix"] == "decoder 0"


class InChunks(nn.Module):
    """A signal of one length, which is scaled in chunks."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.scales = nn.Parameter(torch.rand(4, 64)), nn.Parameter(torch.rand(8))
        self.top, self.deep = nn.Conv1d(1, 4, 3, padding=1), nn.Conv1d(4, 8, 3, 2, 1)
        self.up = nn.Conv1d(12, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        top = self.top(x) + self.table
        top = (top.unflatten(2, (-1, 8)) * self.scales).flatten(2)
        deep = F.interpolate(self.deep(top).relu(), scale_factor=2.0)
        return self.up(torch.cat([deep, top], 1))


def test_chunks_of_a_signal_of_one_length_are_laid_back_as_it_was() -> None:
    structure = read_structure(InChunks().eval(), torch.rand(2, 1, 64))
    assert structure.reductions == ((1,), (2,))
