"""Images in strips, tiles and pairs, merged tokens, enlarging that is spelled by reshapes."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weightscope.errors import InputError
from weightscope.graph import read_structure, rebuild
from weightscope.truncation import verify
from weightscope.truncation.building import build
from weightscope.truncation.plan import find_cut, make_plan

IMAGE = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
SIDES = [(1.0, 1.0), (2.0, 2.0), (4.0, 4.0)]


def conv(in_channels: int, channels: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, channels, 3, padding=1)


class UNet(nn.Module):
    """Three levels; what happens at each, and how it comes back up, is up to others."""

    def __init__(self) -> None:
        super().__init__()
        self.e0, self.e1, self.e2 = conv(3, 8), conv(8, 16), conv(16, 32)
        self.d1, self.d0, self.head = conv(48, 16), conv(24, 8), nn.Conv2d(8, 2, 1)

    def up(self, x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=2.0)

    def top(self, x: Tensor) -> Tensor:
        return x

    def middle(self, x: Tensor) -> Tensor:
        return x

    def deepest(self, x: Tensor) -> Tensor:
        return x

    def forward(self, x: Tensor) -> Tensor:
        a = self.top(self.e0(x).relu())
        b = self.middle(self.e1(F.max_pool2d(a, 2)).relu())
        c = self.deepest(self.e2(F.max_pool2d(b, 2)).relu())
        b = self.d1(torch.cat([b, self.up(c)], 1)).relu()
        return self.head(self.d0(torch.cat([a, self.up(b)], 1)).relu())


class StripsOnTop(UNet):
    def __init__(self) -> None:
        super().__init__()
        self.own = conv(8, 8)

    def top(self, x: Tensor) -> Tensor:
        return torch.cat([self.own(strip) for strip in x.chunk(4, dim=2)], 2)


class StripsWithMargins(UNet):
    """Overlapping strips, whose margins are cut off again."""

    def __init__(self) -> None:
        super().__init__()
        self.own = conv(16, 16)

    def middle(self, x: Tensor) -> Tensor:
        half = x.shape[3] // 2
        left = self.own(x[:, :, :, : half + 1])[:, :, :, :half]
        return torch.cat([left, self.own(x[:, :, :, half - 1 :])[:, :, :, 1:]], 3)


class Halves(UNet):
    """Halves of halves along three sides in turn; each is worked on before and after it is cut."""

    def __init__(self) -> None:
        super().__init__()
        self.own = conv(8, 8)

    def top(self, x: Tensor, sides: tuple[int, ...] = (3, 2, 3)) -> Tensor:
        if not sides:
            return self.own(x)
        size = x.shape[sides[0]] // 2
        parts = [x.narrow(sides[0], start, size) for start in (0, size)]
        return self.own(torch.cat([self.top(part, sides[1:]) for part in parts], sides[0]))


class Tiles(UNet):
    def __init__(self) -> None:
        super().__init__()
        self.own = conv(16, 16)

    def middle(self, x: Tensor) -> Tensor:
        h, w = x.shape[2] // 2, x.shape[3] // 2
        rows = [
            torch.cat([self.own(row[..., :w]), self.own(row[..., w:])], 3)
            for row in (x[:, :, :h], x[:, :, h:])
        ]
        return torch.cat(rows, 2)


class MergedTokens(UNet):
    """Two tokens become one of twice the channels, and each is told what it was part of."""

    def __init__(self) -> None:
        super().__init__()
        self.merged, self.mixed = nn.Linear(64, 32), nn.Linear(32, 32)

    def deepest(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        batch, count, channels = tokens.shape
        pairs = tokens.reshape(batch, count // 2, 2 * channels)
        mixed = self.mixed(F.gelu(self.merged(pairs)))
        tokens = tokens + mixed.repeat_interleave(2, dim=1)
        return tokens.transpose(1, 2).reshape(x.shape)


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    ("kind", "stage", "layers"),
    [
        (StripsOnTop, "encoder 0", {"e0", "own"}),
        (Halves, "encoder 0", {"e0", "own"}),
        (StripsWithMargins, "encoder 1", {"e1", "own"}),
        (Tiles, "encoder 1", {"e1", "own"}),
        (MergedTokens, "bottleneck", {"e2", "merged", "mixed"}),
    ],
)
def test_pieces_and_merged_tokens_lie_where_the_whole_lies(
    kind: type[UNet], stage: str, layers: set[str]
) -> None:
    structure = read_structure(kind(), IMAGE)
    assert list(structure.reductions) == SIDES
    assert next(set(s.layers) for s in structure.stages if s.name == stage) == layers
    assert not any("several levels" in note for note in structure.notes)
    assert [cut.keep_levels for cut in structure.cuts] == [1, 2]


class InStrips(nn.Module):
    """The whole network in each of two strips."""

    def __init__(self) -> None:
        super().__init__()
        self.net = UNet()

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.net(strip) for strip in x.chunk(2, dim=2)], 2)


class InTilesOfTheBatch(InStrips):
    """The whole network on four tiles at once, which lie in the batch."""

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2] // 2, x.shape[3] // 2
        starts = [(i * height, j * width) for i in (0, 1) for j in (0, 1)]
        tiles = torch.cat([x[:, :, i : i + height, j : j + width] for i, j in starts])
        a, b, c, d = self.net(tiles).chunk(4)
        return torch.cat([torch.cat([a, b], 3), torch.cat([c, d], 3)], 2)


class InHalvesOfTheBatch(InStrips):
    """The same of two strips, of which each is taken up one by one again."""

    def forward(self, x: Tensor) -> Tensor:
        upper, lower = self.net(torch.cat(x.chunk(2, dim=2))).split(len(x))
        return torch.cat([upper, lower], 2)


class Cropped(UNet):
    """Half of the spectrum's sides, of which nothing is joined again: a level indeed."""

    def middle(self, x: Tensor) -> Tensor:
        return x

    def forward(self, x: Tensor) -> Tensor:
        a = self.e0(x).relu()
        h, w = x.shape[2] // 4, x.shape[3] // 4
        spectrum = torch.fft.fftshift(torch.fft.fft2(a), dim=(-2, -1))
        middle = spectrum[..., h : 3 * h, w : 3 * w]
        small = torch.fft.ifft2(torch.fft.ifftshift(middle, dim=(-2, -1))).real
        b = self.e1(small).relu()
        return self.head(self.d0(torch.cat([a, self.up(b)], 1)).relu())


@pytest.mark.sample(1)
@pytest.mark.parametrize("kind", [InStrips, InTilesOfTheBatch, InHalvesOfTheBatch])
def test_a_network_in_pieces_has_the_levels_of_the_network(kind: type[nn.Module]) -> None:
    model = kind().eval()
    structure = read_structure(model, IMAGE)
    assert list(structure.reductions) == SIDES
    assert [cut.keep_levels for cut in structure.cuts] == [1, 2]
    other = torch.randn(2, 3, 64, 48)
    torch.testing.assert_close(rebuild(structure)(other), model(other))


def test_a_crop_of_a_spectrum_is_a_level() -> None:
    structure = read_structure(Cropped(), IMAGE)
    assert list(structure.reductions) == SIDES[:2]
    assert structure.notes == ()


class Expanded(UNet):
    def up(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        return x[:, :, :, None, :, None].expand(n, c, h, 2, w, 2).reshape(n, c, 2 * h, 2 * w)


class Einsum(UNet):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("ones", torch.ones(2, 2))

    def up(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        pixels = torch.einsum("nchw,ij->nchiwj", x, self.ones)
        return pixels.reshape(n, c, 2 * h, 2 * w)


class Multiplied(UNet):
    def up(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        return (x.view(n, c, h, 1, w, 1) * torch.ones(1, 1, 1, 2, 1, 2)).view(n, c, 2 * h, 2 * w)


@pytest.mark.sample(1)
@pytest.mark.parametrize(("kind", "keep"), [(Expanded, 1), (Einsum, 2), (Multiplied, 1)])
def test_enlarging_by_repeated_pixels_can_be_cut(kind: type[UNet], keep: int) -> None:
    structure = read_structure(kind(), IMAGE)
    assert list(structure.reductions) == SIDES
    assert [cut.keep_levels for cut in structure.cuts] == [1, 2]
    variant = build(structure, make_plan(structure, find_cut(structure, keep), width=4))
    assert verify(variant).failures == ()


class Pairs(UNet):
    """Two images in one batch above, their features side by side below and on the way up."""

    def __init__(self) -> None:
        super().__init__()
        self.d1, self.d0 = conv(96, 16), conv(32, 8)

    def stacked(self, before: Tensor, after: Tensor) -> Tensor:
        return torch.cat([before, after])

    def apart(self, x: Tensor) -> Tensor:
        return torch.cat(x.chunk(2), 1)

    def forward(self, before: Tensor, after: Tensor) -> Tensor:
        a = self.e0(self.stacked(before, after)).relu()
        b = self.e1(F.max_pool2d(a, 2)).relu()
        c = self.e2(F.max_pool2d(b, 2)).relu()
        a, b, c = map(self.apart, (a, b, c))
        b = self.d1(torch.cat([b, self.up(c)], 1)).relu()
        return self.head(self.d0(torch.cat([a, self.up(b)], 1)).relu())


class Sliced(Pairs):
    def apart(self, x: Tensor) -> Tensor:
        half = x.shape[0] // 2
        return torch.cat([x[:half], x[half:]], 1)


class InTurn(Pairs):
    """The images of a pair follow each other."""

    def stacked(self, before: Tensor, after: Tensor) -> Tensor:
        return torch.stack([before, after], 1).flatten(0, 1)

    def apart(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0] // 2, 2 * x.shape[1], *x.shape[2:])


class EverySecond(InTurn):
    def apart(self, x: Tensor) -> Tensor:
        return torch.cat([x[::2], x[1::2]], 1)


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    ("kind", "in_turn"), [(Pairs, False), (Sliced, False), (InTurn, True), (EverySecond, True)]
)
def test_pairs_in_one_batch_are_put_side_by_side(kind: type[Pairs], in_turn: bool) -> None:
    structure = read_structure(kind(), (IMAGE, IMAGE.flip(3)))
    assert [cut.keep_levels for cut in structure.cuts] == [1, 2]
    (entry,) = structure.cuts[0].entries
    assert (entry.images, entry.in_turn) == (2, in_turn)
    module = build(structure, make_plan(structure, structure.cuts[0], width=4)).module.eval()
    for name, value in module.named_buffers():
        if "running_mean" in name:
            torch.nn.init.normal_(value, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    three = [torch.randn(3, 3, 32, 32, generator=generator) for _ in range(2)]
    whole = module(*three)
    each = torch.cat([module(*(images[i : i + 1] for images in three)) for i in range(3)])
    torch.testing.assert_close(whole, each)


class Resizing(nn.Module):
    """Brings its images to 32x32 before anything else, and the prediction back."""

    def __init__(self) -> None:
        super().__init__()
        self.net = UNet()

    def forward(self, x: Tensor) -> Tensor:
        inside = self.net(F.interpolate(x / 2, size=(32, 32), mode="bilinear"))
        return F.interpolate(inside, size=x.shape[-2:], mode="bilinear")


class OneSizeOut(Resizing):
    def forward(self, x: Tensor) -> Tensor:
        return self.net(F.adaptive_avg_pool2d(x, 32))


class AfterAStem(Resizing):
    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.stem(x))


@pytest.mark.parametrize("kind", [Resizing, OneSizeOut])
def test_a_size_inside_is_what_levels_are_counted_from(kind: type[nn.Module]) -> None:
    model = kind().eval()
    structure = read_structure(model, torch.zeros(1, 3, 40, 56))
    assert list(structure.reductions) == SIDES
    (note,) = structure.notes
    assert "resizes its images to 32x32 before anything else" in note
    variant = build(structure, make_plan(structure, structure.cuts[0], width=4))
    assert variant.receptive_field == (None, None)
    other = torch.randn(2, 3, 24, 48, generator=torch.Generator().manual_seed(0))
    assert variant.module(other).shape == model(other).shape


class ResizingLast(Resizing):
    """The same of images whose channels are last."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def test_channels_that_are_last_are_seen_where_images_are_resized_first() -> None:
    model = ResizingLast().eval()
    structure = read_structure(model, torch.zeros(1, 48, 56, 3))
    assert structure.inputs.layout == "NHWC"
    assert list(structure.reductions) == SIDES
    assert rebuild(structure)(torch.zeros(2, 40, 72, 3)).shape == (2, 40, 72, 2)


def test_a_size_inside_behind_a_kernel_is_read_at_the_example() -> None:
    structure = read_structure(AfterAStem(), torch.zeros(1, 3, 48, 48))
    assert [sizes[0] for sizes in structure.reductions] == [1, 1.5, 3, 6]
    (note,) = structure.notes
    assert "read at 48x48 only" in note
    assert "works at sizes of its own" in note


class Picked(Pairs):
    """The pairs are told apart by numbers, which could be any."""

    def apart(self, x: Tensor) -> Tensor:
        half = x.shape[0] // 2
        first = x.index_select(0, torch.arange(half))
        return torch.cat([first, x.index_select(0, torch.arange(half) + half)], 1)


class Twice(Pairs):
    """The deeper features of each image are used by themselves too."""

    def __init__(self) -> None:
        super().__init__()
        self.single = conv(24, 8)

    def forward(self, before: Tensor, after: Tensor) -> Tensor:
        a = self.e0(self.stacked(before, after)).relu()
        b = self.e1(F.max_pool2d(a, 2)).relu()
        c = self.e2(F.max_pool2d(b, 2)).relu()
        a = self.single(torch.cat([a, self.up(b)], 1)).relu()
        a, b, c = map(self.apart, (a, b, c))
        b = self.d1(torch.cat([b, self.up(c)], 1)).relu()
        return self.head(self.d0(torch.cat([a, self.up(b)], 1)).relu())


class TwiceInTurn(Twice, InTurn):
    pass


class TwicePicked(Twice, Picked):
    pass


@pytest.mark.parametrize(("kind", "in_turn"), [(Twice, False), (TwiceInTurn, True)])
def test_what_leaves_for_each_image_and_for_each_pair_is_cut(
    kind: type[Pairs], in_turn: bool
) -> None:
    structure = read_structure(kind(), (IMAGE, IMAGE.flip(3)))
    assert [cut.keep_levels for cut in structure.cuts] == [1, 2]
    cut = structure.cuts[0]
    assert [(s.images, s.in_turn) for s in cut.entries] == [(2, in_turn)]
    assert sorted((s.images, s.in_turn) for s in cut.exits) == [(1, False), (2, in_turn)]
    module = build(structure, make_plan(structure, cut, width=4)).module.eval()
    generator = torch.Generator().manual_seed(1)
    three = [torch.randn(3, 3, 48, 32, generator=generator) for _ in range(2)]
    whole = module(*three)
    each = torch.cat([module(*(images[i : i + 1] for images in three)) for i in range(3)])
    torch.testing.assert_close(whole, each)
    assert whole.shape == (3, 2, 48, 32)


@pytest.mark.sample(1)
@pytest.mark.parametrize("kind", [Picked, TwicePicked])
def test_pairs_that_cannot_be_followed_are_refused(kind: type[Pairs]) -> None:
    structure = read_structure(kind(), (IMAGE, IMAGE.flip(3)))
    assert [refusal.keep_levels for refusal in structure.refusals] == [1, 2]
    assert all(re.search(r"apart with chunk\(2\)", r.reason) for r in structure.refusals)


def in_tiles(x: Tensor, rows: int, columns: int) -> Tensor:
    n, c, h, w = x.shape
    tiles = x.view(n, c, rows, h // rows, columns, w // columns).permute(0, 2, 4, 1, 3, 5)
    return tiles.reshape(n * rows * columns, c, h // rows, w // columns)


def of_tiles(tiles: Tensor, rows: int, columns: int) -> Tensor:
    n, c, h, w = tiles.shape
    split = tiles.view(n // (rows * columns), rows, columns, c, h, w).permute(0, 3, 1, 4, 2, 5)
    return split.reshape(n // (rows * columns), c, rows * h, columns * w)


class Tiled(UNet):
    """Lays the tiles of its image beside each other in the batch."""

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__()
        self.tiles = rows, columns

    def forward(self, x: Tensor) -> Tensor:
        return of_tiles(super().forward(in_tiles(x, *self.tiles)), *self.tiles)


class TiledBelow(UNet):
    """Does so from the second level on."""

    def forward(self, x: Tensor) -> Tensor:
        a = self.e0(x).relu()
        b = self.e1(in_tiles(F.max_pool2d(a, 2), 2, 2)).relu()
        c = self.e2(F.max_pool2d(b, 2)).relu()
        d = self.d1(torch.cat([b, self.up(c)], 1)).relu()
        return self.head(self.d0(torch.cat([a, self.up(of_tiles(d, 2, 2))], 1)).relu())


@pytest.mark.sample(1)
@pytest.mark.parametrize("model", [Tiled(2, 2), Tiled(4, 1), Tiled(2, 4), TiledBelow()])
def test_tiles_in_the_batch_have_the_reductions_of_the_image(model: nn.Module) -> None:
    structure = read_structure(model.eval(), torch.randn(1, 3, 64, 64))
    assert list(structure.reductions) == SIDES
    assert [cut.keep_levels for cut in structure.cuts] == [1, 2]
    x = torch.randn(2, 3, 96, 64)
    torch.testing.assert_close(rebuild(structure)(x), model(x), rtol=0, atol=1e-6)


class OverlappingWindows(UNet):
    """Goes over an image of one size in windows, two at a time and the last one alone."""

    def __init__(self) -> None:
        super().__init__()
        self.places = nn.Parameter(torch.randn(3, 32, 32))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.places
        made, times = x.new_zeros(len(x), 2, 32, 32), x.new_zeros(1, 1, 32, 32)
        starts = [(row, column) for row in (0, 8, 16) for column in (0, 8, 16)]
        for first in range(0, 9, 2):
            some = starts[first : first + 2]
            windows = torch.cat([x[..., r : r + 16, c : c + 16] for r, c in some])
            for (r, c), window in zip(some, super().forward(windows).chunk(len(some)), strict=True):
                made[..., r : r + 16, c : c + 16] += window
                times[..., r : r + 16, c : c + 16] += 1
        return made / times


def test_windows_whose_last_batch_is_smaller_are_cut_in_each() -> None:
    model = OverlappingWindows().eval()
    structure = read_structure(model, torch.rand(1, 3, 32, 32))
    assert list(structure.reductions) == SIDES
    assert [(cut.keep_levels, cut.times) for cut in structure.cuts] == [(1, 5), (2, 5)]
    x = torch.rand(1, 3, 32, 32)
    for cut in structure.cuts:
        variant = build(
            structure, make_plan(structure, find_cut(structure, cut.keep_levels), width=4)
        )
        assert variant.module(x).shape == model(x).shape


class FramesInALoop(nn.Module):
    """Sees the first frame of a clip alone, then two at a time, each with the last one before."""

    def __init__(self) -> None:
        super().__init__()
        self.top = nn.Conv3d(3, 4, 3, padding=(0, 1, 1))
        self.down, self.deep = nn.Conv2d(4, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, padding=1)
        self.up, self.out = nn.Conv2d(12, 4, 3, padding=1), nn.Conv2d(4, 2, 1)

    def piece(self, x: Tensor, before: Tensor) -> Tensor:
        images, frames = len(x), x.shape[2]
        top = F.relu(self.top(torch.cat([before, x], 2)))
        top = top.transpose(1, 2).reshape(images * frames, 4, *top.shape[3:])
        deep = F.relu(self.deep(F.relu(self.down(top))))
        back = F.interpolate(deep, scale_factor=2.0)
        made = self.out(F.relu(self.up(torch.cat([top, back], 1))))
        return made.reshape(images, frames, 2, *made.shape[2:]).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        first = x[:, :, :1]
        made = [self.piece(first, first.repeat(1, 1, 2, 1, 1))]
        for start in range(1, x.shape[2] - 1, 2):
            before = x[:, :, max(start - 2, 0) : start]
            before = torch.cat([before[:, :, :1], before], 2)[:, :, -2:]
            made.append(self.piece(x[:, :, start : start + 2], before))
        return torch.cat(made, 2)


@pytest.mark.sample(1)
@pytest.mark.parametrize("frames", [3, 5, pytest.param(7, marks=pytest.mark.slow)])
def test_frames_that_are_seen_in_a_loop_have_the_levels_of_their_sides(frames: int) -> None:
    model = FramesInALoop().eval()
    structure = read_structure(model, torch.randn(2, 3, frames, 32, 32))
    assert structure.reductions == ((1.0, 1.0, 1.0), (1.0, 2.0, 2.0))
    assert {stage.name: stage.layers for stage in structure.stages} == {
        "encoder 0": ("top",),
        "bottleneck": ("down", "deep"),
        "decoder 0": ("up",),
        "head": ("out",),
    }
    image = torch.randn(2, 3, frames, 24, 40)
    torch.testing.assert_close(rebuild(structure)(image), model(image))
    with pytest.raises(InputError, match=r"read at|another way"):
        rebuild(structure)(torch.randn(2, 3, frames + 2, 32, 32))


class Causal(nn.Module):
    """Frames go down one by one; two of zeros lie before the first, at every kernel over frames."""

    def __init__(self) -> None:
        super().__init__()
        self.top, self.out = nn.Conv3d(3, 4, 3), nn.Conv3d(4, 2, 3)
        self.down, self.deep = nn.Conv2d(4, 8, 3, 2, 1), nn.Conv3d(8, 8, 3)
        self.deeper, self.up = nn.Conv3d(8, 8, 3), nn.Conv2d(8, 4, 3, padding=1)

    def one_by_one(self, x: Tensor, layer: nn.Module, scale: float = 1.0) -> Tensor:
        images, frames = x.shape[0], x.shape[2]
        x = x.permute(0, 2, 1, 3, 4).reshape(images * frames, *x.shape[1:2], *x.shape[3:])
        x = F.relu(layer(F.interpolate(x, scale_factor=scale) if scale > 1 else x))
        return x.view(images, frames, *x.shape[1:]).permute(0, 2, 1, 3, 4)

    def forward(self, x: Tensor) -> Tensor:
        before = (1, 1, 1, 1, 2, 0)
        x = self.one_by_one(F.relu(self.top(F.pad(x, before))), self.down)
        x = F.relu(self.deeper(F.pad(F.relu(self.deep(F.pad(x, before))), before)))
        return self.out(F.pad(self.one_by_one(x, self.up, 2.0), before))


@pytest.mark.parametrize("frames", [1, 4])
def test_frames_of_zeros_are_a_border_behind_another_layout(frames: int) -> None:
    structure = read_structure(Causal().eval(), torch.randn(2, 3, frames, 32, 32))
    assert structure.reductions == ((1.0, 1.0, 1.0), (1.0, 2.0, 2.0))
    assert {stage.name: stage.layers for stage in structure.stages} == {
        "encoder 0": ("top",),
        "bottleneck": ("down", "deep", "deeper"),
        "decoder 0": ("up",),
        "head": ("out",),
    }


class NormOfFrames(nn.Module):
    """Normalises the frames of volumes some at a time, so that less memory is needed."""

    def __init__(self, channels: int, frames: int) -> None:
        super().__init__()
        self.norm, self.frames = nn.GroupNorm(2, channels), frames

    def forward(self, x: Tensor) -> Tensor:
        frames = x.permute(0, 2, 1, 3, 4).flatten(0, 1)
        normed = torch.cat([self.norm(part) for part in frames.split(self.frames, dim=0)], 0)
        return normed.unflatten(0, (len(x), -1)).permute(0, 2, 1, 3, 4)


class SomeFramesAtATime(nn.Module):
    """Two levels of a volume of one size, whose norms see some of its frames at a time."""

    def __init__(self, frames: int) -> None:
        super().__init__()
        self.top, self.deep = nn.Conv3d(1, 4, 3, padding=1), nn.Conv3d(4, 4, 3, padding=1)
        self.up, self.out = nn.Conv3d(8, 4, 3, padding=1), nn.Conv3d(4, 1, 1)
        self.norms = nn.ModuleList(NormOfFrames(4, frames) for _ in range(3))
        self.table = nn.Parameter(torch.zeros(1, 4, 6, 16, 16))

    def forward(self, x: Tensor) -> Tensor:
        top = self.norms[0](self.top(x) + self.table).relu()
        deep = self.norms[1](self.deep(F.max_pool3d(top, 2))).relu()
        joined = torch.cat([top, F.interpolate(deep, top.shape[2:])], 1)
        return self.out(self.norms[2](self.up(joined)).relu())


@pytest.mark.sample(1)
@pytest.mark.parametrize("frames", [3, 4])
def test_norms_of_some_frames_at_a_time_make_no_level(frames: int) -> None:
    structure = read_structure(SomeFramesAtATime(frames), torch.randn(1, 1, 6, 16, 16))
    assert structure.reductions == ((1, 1, 1), (2, 2, 2))


class CausalInParts(nn.Module):
    """Kernels over three frames, of which the first ones go to a part of the result alone."""

    def __init__(self, given: int, made: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(given, made, 3)

    def forward(self, clip: Tensor) -> Tensor:
        made = torch.empty(len(clip), self.conv.out_channels, *clip.shape[2:])
        padded = F.pad(clip, (1, 1, 1, 1))
        before = padded[:, :, :1].expand(-1, -1, 2, -1, -1)
        made[:, :, :2] = self.conv(torch.cat([before, padded[:, :, :2]], 2))
        made[:, :, 2:] = self.conv(padded)
        return made


class OfOneSize(nn.Module):
    """Works on clips of one size; every place has a signal along the frames."""

    def __init__(self, size: tuple[int, ...]) -> None:
        super().__init__()
        self.size = size
        self.top, self.low, self.deep, self.out = (
            CausalInParts(*channels) for channels in ((1, 4), (4, 4), (8, 8), (12, 1))
        )
        self.down = nn.Conv3d(4, 8, (1, 3, 3), (1, 2, 2), (0, 1, 1))
        self.along = nn.Conv1d(8, 8, 3, padding=1)

    def forward(self, clip: Tensor) -> Tensor:
        if any(size != own for size, own in zip(clip.shape[2:], self.size, strict=True) if own):
            raise ValueError("clips have one size")
        top = self.low(self.top(clip).relu())
        deep = self.down(top).permute(0, 3, 4, 1, 2)
        deep = self.along(deep.flatten(0, 2)).view(deep.shape).permute(0, 3, 4, 1, 2)
        deep = F.interpolate(self.deep(deep.relu()), scale_factor=(1, 2, 2))
        return self.out(torch.cat([top, deep], 1))


@pytest.mark.sample(1)
@pytest.mark.parametrize("size", [(9, 16, 16), (9, 0, 0)])
def test_what_is_written_in_parts_is_no_crop(size: tuple[int, ...]) -> None:
    structure = read_structure(OfOneSize(size).eval(), torch.rand(2, 1, 9, 16, 16))
    assert structure.reductions == ((1, 1, 1), (1, 2, 2))
    assert [cut.keep_levels for cut in structure.cuts] == [1]


class PieceByPiece(nn.Module):
    """Works on four frames at a time; at the deepest level along the frames, or on all tokens."""

    def __init__(self, along: bool) -> None:
        super().__init__()
        self.top, self.out = nn.Conv3d(1, 4, 3, padding=1), nn.Conv3d(12, 1, 3, padding=1)
        self.down, self.deep = nn.Conv3d(4, 8, (1, 3, 3), (1, 2, 2), (0, 1, 1)), nn.Conv3d(8, 8, 1)
        kinds = nn.Conv1d(8, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.Linear(8, 8)
        self.between, self.between_each = kinds[not along], kinds[2]
        self.along = along

    def forward(self, clip: Tensor) -> Tensor:
        return torch.cat([self.of_piece(piece) for piece in clip.split(4, 2)], 2)

    def of_piece(self, piece: Tensor) -> Tensor:
        top = self.top(piece).relu()
        deep = self.down(top)
        if self.along:
            places = deep.permute(0, 3, 4, 1, 2)
            places = self.between(places.flatten(0, 2)).view(places.shape)
            each = self.between_each(places.flatten(0, 2).transpose(1, 2)).transpose(1, 2)
            deep = each.reshape(places.shape).permute(0, 3, 4, 1, 2)
        else:
            tokens = self.between(deep.flatten(2)).transpose(1, 2)
            deep = self.between_each(tokens).transpose(1, 2).view(deep.shape)
        deep = F.interpolate(self.deep(deep.relu()), scale_factor=(1, 2, 2))
        return self.out(torch.cat([top, deep], 1))


@pytest.mark.sample(1)
@pytest.mark.parametrize("along", [False, True])
def test_signals_along_the_frames_of_pieces_lie_where_their_places_do(along: bool) -> None:
    structure = read_structure(PieceByPiece(along).eval(), torch.rand(2, 1, 10, 16, 16))
    assert structure.reductions == ((1, 1, 1), (1, 2, 2))
    deepest = next(stage for stage in structure.stages if stage.role == "bottleneck")
    assert {"between", "between_each", "deep"} <= set(deepest.layers)


def holds_at_every_depth(model: nn.Module, x: Tensor, example: Tensor | None = None) -> None:
    """It has the levels of a ``UNet``, and a variant of each depth takes other images, too."""
    structure = read_structure(model, torch.randn(1, 3, 64, 64) if example is None else example)
    assert list(structure.reductions) == SIDES
    assert [cut.keep_levels for cut in structure.cuts] == [1, 2]
    for cut in structure.cuts:
        variant = build(structure, make_plan(structure, cut, width=4))
        assert verify(variant, sizes=[x], export=False).failures == ()
        assert variant.module(x).shape == model(x).shape


class InTurnUp(UNet):
    """Comes up by an inverse wavelet transform, one side after the other."""

    def __init__(self, rows_first: bool, joins: bool) -> None:
        super().__init__()
        self.rows_first, self.joins = rows_first, joins
        self.widen2, self.widen1 = conv(32, 64), conv(16, 32)
        self.d1, self.d0 = conv(32, 16), conv(16, 8)

    def up(self, x: Tensor) -> Tensor:
        low, a, b, c = (self.widen2 if x.shape[1] == 32 else self.widen1)(x).chunk(4, 1)
        first, second = (3, 4) if self.rows_first else (4, 3)
        left = self.between([low + a, low - a], first)
        right = self.between([b + c, b - c], first)
        return self.between([left + right, left - right], second)

    def between(self, parts: list[Tensor], axis: int) -> Tensor:
        if self.joins:
            parts = [part.unsqueeze(axis) for part in parts]
        return (torch.cat if self.joins else torch.stack)(parts, axis).flatten(axis - 1, axis)


@pytest.mark.sample(1)
@pytest.mark.parametrize("joins", [True, False])
@pytest.mark.parametrize("rows_first", [True, False])
def test_sides_that_are_interleaved_in_turn_make_no_level(rows_first: bool, joins: bool) -> None:
    model = InTurnUp(rows_first, joins).eval()
    holds_at_every_depth(model, torch.randn(2, 3, 32, 48))


class InTurnBy(InTurnUp):
    """The same, in two steps of different kinds."""

    def __init__(self, way: str) -> None:
        super().__init__(rows_first=False, joins=False)
        self.way = way

    def up(self, x: Tensor) -> Tensor:
        low, a, b, c = (self.widen2 if x.shape[1] == 32 else self.widen1)(x).chunk(4, 1)
        if self.way == "filtered":
            twice = torch.ones(1, 1, 1, 2).expand(2 * low.shape[1], 1, 1, 2)
            pair = torch.cat([low + a, b + c], 1)
            pair = F.conv_transpose2d(pair, twice, stride=(1, 2), groups=len(twice))
            return self.between([*pair.chunk(2, 1)], 3)
        if self.way == "resized":
            wide = F.interpolate(low + a, scale_factor=(1.0, 2.0))
            return F.interpolate(wide + wide.flip(3), scale_factor=(2.0, 1.0))
        left, right = self.between([low + a, low - a], 4), self.between([b + c, b - c], 4)
        n, channels, h, w = left.shape
        if self.way == "viewed":
            return torch.cat([left, right], 3).view(n, channels, 2 * h, w)
        made = left.new_empty(n, channels, 2 * h, w)
        made[:, :, ::2], made[:, :, 1::2] = left + right, left - right
        return made


@pytest.mark.sample(1)
@pytest.mark.parametrize("way", ["written", "viewed", "filtered", "resized"])
def test_sides_that_grow_in_turn_in_several_ways_make_no_level(way: str) -> None:
    holds_at_every_depth(InTurnBy(way).eval(), torch.randn(2, 3, 32, 48))


class TilesInColumns(UNet):
    """Takes tiles of one size by ``F.unfold``, each through the network, and lays them back."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        n, c, *sizes = x.shape
        columns = F.unfold(x, 16, stride=self.stride).transpose(1, 2)
        tiles = super().forward(columns.reshape(-1, c, 16, 16))
        columns = tiles.reshape(n, columns.shape[1], -1).transpose(1, 2)
        times = F.fold(torch.ones_like(columns), sizes, 16, stride=self.stride)
        return F.fold(columns, sizes, 16, stride=self.stride) / times


@pytest.mark.sample(1)
@pytest.mark.parametrize("stride", [8, 16])
def test_tiles_that_are_unfolded_have_the_levels_of_the_image(stride: int) -> None:
    model = TilesInColumns(stride).eval()
    holds_at_every_depth(model, torch.randn(2, 3, 48, 80))


class SlidingWindows(UNet):
    """Takes windows by ``Tensor.unfold``, some at a time, and lays them back one over the other."""

    def __init__(self, step: int, some: int) -> None:
        super().__init__()
        self.step, self.some = step, some
        self.smooth = nn.Conv2d(2, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        n, c, *sizes = x.shape
        windows = x.unfold(2, 16, self.step).unfold(3, 16, self.step)
        windows = windows.permute(0, 2, 3, 1, 4, 5).reshape(-1, c, 16, 16)
        made = torch.cat([super(SlidingWindows, self).forward(w) for w in windows.split(self.some)])
        columns = made.reshape(n, -1, made[0].numel()).transpose(1, 2)
        times = F.fold(torch.ones_like(columns), sizes, 16, stride=self.step)
        return self.smooth(F.fold(columns, sizes, 16, stride=self.step) / times)


@pytest.mark.sample(1)
@pytest.mark.parametrize(("step", "some"), [(8, 100), (8, 4), (4, 7)])
def test_windows_that_slide_have_the_levels_of_the_image(step: int, some: int) -> None:
    model = SlidingWindows(step, some).eval()
    x = torch.randn(1, 3, 32, 32)
    holds_at_every_depth(model, x, x)


class SignalInWindows(nn.Module):
    """Windows of a signal, three at a time, are added where they lie."""

    def __init__(self) -> None:
        super().__init__()
        self.top, self.deep = nn.Conv1d(1, 8, 3, 1, 1), nn.Conv1d(8, 16, 3, 2, 1)
        self.up = nn.Conv1d(24, 2, 3, 1, 1)

    def of_window(self, x: Tensor) -> Tensor:
        top = self.top(x).relu()
        deep = F.interpolate(self.deep(top).relu(), size=top.shape[2:])
        return self.up(torch.cat([deep, top], 1))

    def forward(self, x: Tensor) -> Tensor:
        n, c, length = x.shape
        windows = x.unfold(2, 32, 16)
        count = windows.shape[2]
        some = windows.transpose(1, 2).reshape(n * count, c, 32).split(3)
        windows = torch.cat([self.of_window(w) for w in some]).view(n, count, 2, 32)
        made, times = x.new_zeros(n, 2, length), x.new_zeros(length)
        for i in range(count):
            made[:, :, 16 * i : 16 * i + 32] += windows[:, i]
            times[16 * i : 16 * i + 32] += 1
        return made / times


@pytest.mark.slow
def test_windows_of_a_signal_whose_last_batch_is_smaller_are_cut_in_each() -> None:
    model = SignalInWindows().eval()
    structure = read_structure(model, x := torch.randn(1, 1, 96))
    assert structure.reductions == ((1.0,), (2.0,))
    assert [(cut.keep_levels, cut.times) for cut in structure.cuts] == [(1, 2)]
    variant = build(structure, make_plan(structure, structure.cuts[0], width=4))
    assert variant.module.eval()(x).shape == model(x).shape


class SomeWindowsBelow(UNet):
    """Windows of the bottleneck are filtered some at a time, in one of several ways."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way, self.own = way, conv(32, 32)

    def some(self, x: Tensor) -> Tensor:
        if self.way == "split":
            return torch.cat([self.own(part) for part in x.split(5)])
        if self.way == "one by one":
            return torch.stack([self.own(one[None])[0] for one in x])
        made = torch.zeros_like(x)
        for i in range(0, 9, 5):
            made[i : i + 5] = self.own(x[i : i + 5])
        return made

    def deepest(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        windows = x.view(n, c, h // 4, 4, w // 4, 4).permute(0, 2, 4, 1, 3, 5)
        windows = self.some(windows.reshape(-1, c, 4, 4)).view(n, h // 4, w // 4, c, 4, 4)
        return windows.permute(0, 3, 1, 4, 2, 5).reshape(n, c, h, w)


class SomeImagesBelow(SomeWindowsBelow):
    """The same, of images."""

    def deepest(self, x: Tensor) -> Tensor:
        return self.some(x)


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    ("model", "images"),
    [
        (SomeWindowsBelow("split"), 1),
        (SomeWindowsBelow("one by one"), 1),
        (SomeWindowsBelow("written"), 1),
        (SomeImagesBelow("one by one"), 2),
    ],
)
def test_what_is_filtered_some_at_a_time_makes_no_level(model: UNet, images: int) -> None:
    x = torch.randn(images, 3, 48, 48)
    holds_at_every_depth(model.eval(), x, x)


class OfVolumes(nn.Module):
    """Comes up one side after the other; or in depth, and by shuffled pixels of each slice."""

    def __init__(self, by_slices: bool) -> None:
        super().__init__()
        self.by_slices = by_slices
        self.top, self.deep = nn.Conv3d(1, 4, 3, 1, 1), nn.Conv3d(4, 16, 3, 2, 1)
        self.wide, self.out = nn.Conv3d(16, 32, 1), nn.Conv3d(8, 1, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        top = self.top(x).relu()
        y = self.wide(self.deep(top).relu())
        for axis in (3,) if self.by_slices else (3, 4, 5):
            y = torch.stack(y.chunk(2, 1), axis).flatten(axis - 1, axis)
        if self.by_slices:
            n, c, d, h, w = y.shape
            slices = F.pixel_shuffle(y.transpose(1, 2).reshape(n * d, c, h, w), 2)
            y = slices.view(n, d, c // 4, 2 * h, 2 * w).transpose(1, 2)
        return self.out(torch.cat([top, y], 1))


@pytest.mark.sample(1)
@pytest.mark.parametrize("by_slices", [True, False])
def test_sides_of_a_volume_come_up_at_every_depth(by_slices: bool) -> None:
    model = OfVolumes(by_slices).eval()
    # as many slices as channels
    structure = read_structure(model, torch.randn(1, 1, 16, 16, 16))
    assert structure.reductions[-1] == (2.0, 2.0, 2.0)
    assert by_slices or len(structure.reductions) == 2
    x = torch.randn(2, 1, 24, 16, 32)
    for cut in structure.cuts:
        variant = build(structure, make_plan(structure, cut, width=4))
        assert variant.module(x).shape == model(x).shape


class ChunksBelow(nn.Module):
    """Layers along chunks of the deepest features, which overlap by half, and across them."""

    def __init__(self, dimensions: int) -> None:
        super().__init__()
        kernel = nn.Conv1d if dimensions == 1 else nn.Conv2d
        self.e0, self.e1 = kernel(1, 8, 5, 1, 2), kernel(8, 16, 4, 4)
        self.along, self.across = nn.Linear(16, 16), nn.GRU(16, 16, batch_first=True)
        self.d0, self.head = kernel(24, 8, 5, 1, 2), kernel(8, 1, 1)
        self.window = (8, 1) if dimensions == 1 else (4, 4)

    def forward(self, x: Tensor) -> Tensor:
        e0 = F.relu(self.e0(x))
        e1 = F.relu(self.e1(e0))
        b, c, *sides = e1.shape
        sizes, step = [*sides, 1][:2], [max(1, size // 2) for size in self.window]
        columns = F.unfold(e1.reshape(b, c, *sizes), self.window, stride=step)
        inside = columns.shape[1] // c
        chunks = columns.reshape(b, c, inside, -1).permute(0, 3, 2, 1)
        chunks = chunks + self.along(chunks.flatten(0, 1)).reshape(chunks.shape)
        lines = chunks.transpose(1, 2).flatten(0, 1)
        chunks = self.across(lines)[0].reshape(b, inside, -1, c).permute(0, 3, 1, 2)
        back = F.fold(chunks.reshape(b, c * inside, -1), sizes, self.window, stride=step)
        up = F.interpolate(back.reshape(b, c, *sides), scale_factor=4.0)
        return self.head(F.relu(self.d0(torch.cat([up, e0], 1))))


@pytest.mark.parametrize("dimensions", [1, 2])
def test_what_works_along_chunks_and_across_them_lies_where_they_are_taken(dimensions: int) -> None:
    image = torch.randn(2, 1, *(128, 64)[-dimensions:])
    structure = read_structure(ChunksBelow(dimensions), image)
    assert structure.reductions == ((1.0,) * dimensions, (4.0,) * dimensions)
    deepest = next(stage for stage in structure.stages if stage.role == "bottleneck")
    assert deepest.layers == ("e1", "along", "across")
    assert [cut.keep_levels for cut in structure.cuts] == [1]


class InDepth(nn.Module):
    """A network of volumes on windows of their depth; each slice may be filtered in the end."""

    def __init__(self, *, overlaps: bool, slices: bool, joins: bool = False) -> None:
        super().__init__()
        self.step, self.joins = 4 if overlaps else 8, joins
        self.top, self.deep = nn.Conv3d(1, 4, 3, 1, 1), nn.Conv3d(4, 8, 3, 2, 1)
        self.up = nn.Conv3d(12, 2, 3, 1, 1)
        self.last = nn.Conv2d(2, 2, 3, 1, 1) if slices else None

    def on_window(self, x: Tensor) -> Tensor:
        top = self.top(x).relu()
        deep = F.interpolate(self.deep(top).relu(), size=top.shape[2:])
        y = self.up(torch.cat([deep, top], 1))
        return y if self.last is None else torch.stack([*map(self.last, y.unbind(2))], 2)

    def forward(self, x: Tensor) -> Tensor:
        starts = range(0, x.shape[2] - 7, self.step)
        if self.joins:
            return torch.cat([self.on_window(x[:, :, i : i + 8]) for i in starts], 2)
        made, times = x.new_zeros(x.shape[0], 2, *x.shape[2:]), x.new_zeros(x.shape[2], 1, 1)
        for i in starts:
            made[:, :, i : i + 8] += self.on_window(x[:, :, i : i + 8])
            times[i : i + 8] += 1
        return made / times


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    "model",
    [
        InDepth(overlaps=True, slices=False),
        InDepth(overlaps=False, slices=False, joins=True),
        InDepth(overlaps=True, slices=True),
    ],
)
def test_windows_of_the_depth_alone_have_the_reductions_of_the_volume(model: InDepth) -> None:
    structure = read_structure(model.eval(), torch.randn(1, 1, 16, 16, 16))
    assert structure.reductions == ((1.0,) * 3, (2.0,) * 3)
    variant = build(structure, make_plan(structure, find_cut(structure, 1), width=4))
    x = torch.randn(2, 1, 16, 24, 32)
    assert variant.module.eval()(x).shape == model(x).shape
    assert verify(variant, sizes=[x], export=False).failures == ()


def _as_channels(x: Tensor) -> Tensor:
    return x.unfold(2, 2, 2).unfold(3, 2, 2).permute(0, 1, 4, 5, 2, 3).flatten(1, 3)


def _as_channels_in_two_steps(x: Tensor) -> Tensor:
    (b, _, h, w), windows = x.shape, x.unfold(2, 2, 2).unfold(3, 2, 2).contiguous()
    return windows.view(b, -1, h // 2, w // 2, 4).movedim(4, 2).flatten(1, 2)


def _means(x: Tensor) -> Tensor:
    return x.unfold(2, 2, 2).unfold(3, 2, 2).mean((-1, -2)).repeat(1, 4, 1, 1)


def _of_a_signal(x: Tensor) -> Tensor:
    return x.unfold(2, 4, 4).transpose(2, 3).flatten(1, 2)


class Unfolded(nn.Module):
    """Two levels down by windows that ``Tensor.unfold`` lays out, and up by interpolation."""

    def __init__(self, down: Callable[[Tensor], Tensor], dimensions: int = 2) -> None:
        super().__init__()
        kind = nn.Conv2d if dimensions == 2 else nn.Conv1d
        self.down = down
        self.enter, self.leave = kind(1, 4, 3, padding=1), kind(8, 1, 3, padding=1)
        self.first, self.second = kind(16, 8, 3, padding=1), kind(32, 8, 3, padding=1)
        self.back = kind(16, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        top = self.enter(x)
        middle = self.first(self.down(top)).relu()
        deep = self.second(self.down(middle)).relu()
        deep = F.interpolate(deep, size=middle.shape[2:])
        up = F.interpolate(self.back(torch.cat([deep, middle], 1)).relu(), size=top.shape[2:])
        return self.leave(torch.cat([up, top], 1))


@pytest.mark.parametrize("down", [_as_channels, _as_channels_in_two_steps, _means, _of_a_signal])
def test_patches_by_unfold_are_cut_before_they_are_laid_out(
    down: Callable[[Tensor], Tensor],
) -> None:
    dimensions = 1 if down is _of_a_signal else 2
    sizes = [(64, 48), (32, 96)] if dimensions == 2 else [(128,), (64,)]
    net = Unfolded(down, dimensions)
    structure = read_structure(net, torch.randn(2, 1, *sizes[0]))
    assert not structure.refusals
    assert [cut.keep_levels for cut in structure.cuts] == [1, 2]
    assert structure.stage_of["first"].name == "encoder 1"
    assert structure.stage_of["second"].name == "bottleneck"
    for cut in structure.cuts:
        variant = build(structure, make_plan(structure, cut, width=4))
        for size in sizes:
            assert variant.module(torch.randn(3, 1, *size)).shape == (3, 1, *size)
