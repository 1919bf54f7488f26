"""Clips: how their number of frames is followed, where it decides or is taken apart."""

import pytest
import torch
import torch.nn.functional as F
from networks import Small
from torch import Tensor, nn

from weightscope.errors import InputError
from weightscope.graph import read_structure
from weightscope.graph.rebuild import rebuild
from weightscope.truncation.building import build
from weightscope.truncation.plan import make_plan


class Causal(nn.Conv3d):
    """Sees no later frame: the first one is repeated before the clip."""

    def __init__(self, given: int, made: int, stride: int = 1) -> None:
        super().__init__(given, made, 3, stride, (0, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(torch.cat([x[:, :, :1].expand(-1, -1, 2, -1, -1), x], 2))


class InPieces(nn.Module):
    """Keeps the first of 4 k + 1 frames by itself; long clips are worked on in pieces."""

    def __init__(self) -> None:
        super().__init__()
        self.e0, self.e1, self.e2 = Causal(3, 8), Causal(8, 8, 2), Causal(8, 16, 2)
        self.d1, self.d0, self.last = Causal(16, 8), Causal(8, 8), Causal(8, 3)

    def up(self, x: Tensor) -> Tensor:
        first, rest = x[:, :, :1], x[:, :, 1:]
        first = F.interpolate(first, scale_factor=(1.0, 2.0, 2.0))
        return torch.cat([first, F.interpolate(rest.contiguous(), scale_factor=2.0)], 2)

    def whole(self, x: Tensor) -> Tensor:
        x = self.e2(self.e1(self.e0(x).relu()).relu()).relu()
        return self.last(self.d0(self.up(self.d1(self.up(x)).relu())).relu())

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2] > 16:
            return torch.cat([self.whole(x[:, :, :9]), self.whole(x[:, :, 8:])[:, :, 1:]], 2)
        return self.whole(x)


def test_clips_that_are_worked_on_in_pieces_beyond_some_number_follow_shorter_ones() -> None:
    model = InPieces().eval()
    structure = read_structure(model, torch.randn(1, 3, 9, 32, 32))
    assert structure.reductions == ((1, 1, 1), (2, 2, 2), (4, 4, 4))
    assert any("another way" in note for note in structure.notes)
    graph = rebuild(structure)
    cut = next(cut for cut in structure.cuts if cut.keep_levels == 2)
    variant = build(structure, make_plan(structure, cut, width=4)).module.eval()
    for frames in (9, 13):
        x = torch.randn(2, 3, frames, 16, 24)
        torch.testing.assert_close(graph(x), model(x))
        assert variant(x).shape == x.shape
    with pytest.raises(InputError, match="another way"):
        variant(torch.randn(2, 3, 17, 32, 32))


class Halving(nn.Module):
    """Halves frames: what is made of the first ones and of the others is written into a new clip.

    A branch beside it makes channels of the pixels of each frame.
    """

    def __init__(self) -> None:
        super().__init__()
        self.sides = nn.Conv3d(8, 8, (1, 3, 3), (1, 2, 2), (0, 1, 1))
        self.frames = nn.Conv3d(8, 8, (3, 1, 1), (2, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, number, high, wide = x.shape
        each = F.pixel_unshuffle(x.transpose(1, 2).reshape(-1, channels, high, wide), 2)
        each = each.view(batch, number, channels, 4, high // 2, wide // 2).mean(3).transpose(1, 2)
        x = self.sides(x) + each
        made = x.new_empty(batch, channels, (number + 1) // 2, high // 2, wide // 2)
        before = x[:, :, :1].expand(-1, -1, 2, -1, -1)
        made[:, :, :1] = self.frames(torch.cat([before, x[:, :, :1]], 2))
        made[:, :, 1:] = self.frames(x)
        return made


class WritesParts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.halve, self.quarter = Causal(3, 8), Halving(), Halving()
        self.deep, self.last = Causal(8, 8), Causal(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        top = self.first(x).relu()
        half = self.halve(top).relu()
        deep = self.deep(self.quarter(half).relu()).relu()
        maps = [F.interpolate(y, size=x.shape[2:]) for y in (deep, half)]
        return self.last(torch.cat([*maps, top], 1))


def test_a_clip_that_is_written_in_parts_has_its_own_number_of_frames() -> None:
    model = WritesParts().eval()
    structure = read_structure(model, torch.randn(1, 3, 9, 32, 32))
    assert structure.reductions == ((1, 1, 1), (1, 2, 2), (2, 2, 2), (2, 4, 4), (4, 4, 4))
    places = {layer: stage.name for stage in structure.stages for layer in stage.layers}
    assert places["halve.sides"] == "encoder 1"
    assert places["quarter.sides"] == "encoder 3"
    assert places["halve.frames"] == "encoder 2"
    assert places["quarter.frames"] == places["deep"] == "bottleneck"
    x = torch.randn(2, 3, 13, 16, 24)
    torch.testing.assert_close(rebuild(structure)(x), model(x))


class ResizesFlat(nn.Module):
    """Enlarges the images of a clip with its frames among the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.down = Causal(3, 8), nn.Conv3d(8, 8, 3, (1, 2, 2), 1)
        self.deep, self.last = nn.Conv3d(8, 8, 3, (1, 2, 2), 1), Causal(8, 3)
        self.d1, self.d0 = (nn.Conv3d(8, 8, (1, 3, 3), 1, (0, 1, 1)) for _ in range(2))

    def up(self, x: Tensor) -> Tensor:
        flat = F.interpolate(x.flatten(1, 2), scale_factor=2)
        return flat.reshape(*x.shape[:3], *flat.shape[2:])

    def forward(self, x: Tensor) -> Tensor:
        top = self.first(x).relu()
        half = self.down(top).relu()
        half = half + self.d1(self.up(self.deep(half).relu()))
        return self.last(top + self.d0(self.up(half)))


def test_frames_among_the_channels_are_resized_at_their_level() -> None:
    model = ResizesFlat().eval()
    structure = read_structure(model, torch.randn(1, 3, 5, 32, 32))
    assert structure.reductions == ((1, 1, 1), (1, 2, 2), (1, 4, 4))
    places = {layer: stage.name for stage in structure.stages for layer in stage.layers}
    assert places["d0"] == "decoder 0"
    assert places["d1"] == "decoder 1"
    nodes = structure.program.graph.nodes
    resized = [n.meta["place"] for n in nodes if "upsample_nearest2d" in str(n.target)]
    assert [place.level for place in resized] == [1, 0]
    x = torch.randn(2, 3, 7, 24, 40)
    for cut in structure.cuts:
        variant = build(structure, make_plan(structure, cut, width=4)).module.eval()
        assert variant(x).shape == x.shape


class DepthsOfViews(nn.Module):
    """Costs of some depths of a scene that several cameras see: volumes of one map for each."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 4, 3, 2, 1))
        self.top, self.down = nn.Conv3d(4, 4, 3, padding=1), nn.Conv3d(4, 8, 3, 2, 1)
        self.up = nn.ConvTranspose3d(8, 4, 3, 2, 1, output_padding=1)
        self.costs = nn.Conv3d(4, 1, 3, padding=1)

    def forward(self, views: Tensor, depths: Tensor | None = None) -> Tensor:
        if depths is None:
            depths = torch.linspace(1, 2, 8).expand(len(views), 8)
        maps = [self.features(view) for view in torch.unbind(views, 1)]
        squared = total = torch.zeros_like(maps[0]).unsqueeze(2)
        for one in maps:
            seen = self.at_depths(one, depths)
            total, squared = total + seen, squared + seen**2
        top = self.top(squared / len(maps) - (total / len(maps)) ** 2).relu()
        costs = self.costs(top + self.up(self.down(top).relu())).squeeze(1)
        return (costs.softmax(1) * depths[..., None, None]).sum(1)

    def at_depths(self, one: Tensor, depths: Tensor) -> Tensor:
        batch, channels, height, width = one.shape
        y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        at = torch.stack([x / (width - 1), y / (height - 1)], -1).to(one).flatten(0, 1) * 2 - 1
        at = at[None, None] * depths[..., None, None]
        at = at.view(batch, depths.shape[1] * height, width, 2)
        seen = nn.functional.grid_sample(one, at, align_corners=True)
        return seen.view(batch, channels, depths.shape[1], height, width)


@pytest.mark.parametrize("views", [3, 5])
@pytest.mark.parametrize("given", [True, False])
def test_depths_that_are_looked_for_in_views_are_no_frames(given: bool, views: int) -> None:
    torch.manual_seed(0)
    model = DepthsOfViews().eval()

    def call(height: int, width: int, depths: int = 8) -> tuple[Tensor, ...]:
        scene = torch.randn(1, views, 3, height, width)
        return (scene, torch.linspace(1, 2, depths)[None]) if given else (scene,)

    structure = read_structure(model, call(32, 64))
    assert structure.inputs.layout == "NTCHW"
    assert structure.reductions == ((1, 1), (2, 2), (4, 4), (8, 8))
    places = {layer: stage.name for stage in structure.stages for layer in stage.layers}
    assert (places["top"], places["down"], places["up"]) == ("encoder 2", "bottleneck", "decoder 2")
    (cut,) = structure.cuts
    assert cut.keep_levels == 3
    small = build(structure, make_plan(structure, cut, width=4)).module.eval()
    assert small(*call(64, 32)).shape == (1, 16, 8)
    if given:
        with pytest.raises(InputError, match=r"depths is 16 long along axis 1, and .* read at 8"):
            small(*call(64, 32, depths=16))


class FramesFirst(nn.Module):
    """Takes (batch, frames, channels, height, width), and has fewer frames below."""

    def __init__(self, *, one_by_one: bool) -> None:
        super().__init__()
        self.one_by_one = one_by_one
        self.stem = nn.Conv2d(3, 4, 3, padding=1) if one_by_one else nn.Conv3d(3, 4, 3, padding=1)
        self.down, self.up = nn.Conv3d(4, 8, 3, 2, 1), nn.Conv3d(12, 4, 3, padding=1)

    def forward(self, clip: Tensor) -> Tensor:
        if self.one_by_one:
            top = self.stem(clip.flatten(0, 1)).unflatten(0, clip.shape[:2]).transpose(1, 2)
        else:
            top = self.stem(clip.transpose(1, 2))
        deep = F.interpolate(self.down(top.relu()).relu(), scale_factor=2.0)
        return self.up(torch.cat([deep, top], 1)).transpose(1, 2)


@pytest.mark.parametrize("one_by_one", [False, True])
def test_frames_that_get_fewer_are_a_side(one_by_one: bool) -> None:
    torch.manual_seed(0)
    model, clip = FramesFirst(one_by_one=one_by_one).eval(), torch.randn(2, 8, 3, 16, 32)
    structure = read_structure(model, clip)
    assert structure.inputs.layout == "NDCHW"
    assert structure.reductions == ((1, 1, 1), (2, 2, 2))
    small = build(structure, make_plan(structure, structure.cuts[0], width=4)).module
    assert small(torch.randn(1, 12, 3, 32, 16)).shape == (1, 12, 4, 32, 16)
    with pytest.raises(InputError, match="strides over them as over a side: give layout='NDCHW'"):
        read_structure(model, clip, layout="NTCHW")


class Burst(nn.Module):
    """Each frame goes through the network with the first one beside it."""

    def __init__(self, others: bool) -> None:
        super().__init__()
        self.others = others
        self.net = Small(6, 3)

    def forward(self, clip: Tensor) -> Tensor:
        frames = clip[:, 1:] if self.others else clip
        pairs = torch.cat([frames, clip[:, :1].expand_as(frames)], 2)
        return self.net(pairs.flatten(0, 1)).unflatten(0, frames.shape[:2])


@pytest.mark.parametrize("others", [False, True])
def test_frames_that_lie_in_pairs_are_frames(others: bool) -> None:
    structure = read_structure(Burst(others).eval(), torch.randn(2, 4, 3, 16, 32))
    assert structure.inputs.layout == "NTCHW"
    assert structure.reductions == ((1, 1), (2, 2))
    assert [cut.keep_levels for cut in structure.cuts] == [1]


class Dates(nn.Module):
    """Weights of frames, found at the deepest level by several heads, fuse those of each skip."""

    heads = 2

    def __init__(self) -> None:
        super().__init__()
        self.top, self.deep = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 8, 3, 2, 1)
        self.ask, self.up = nn.Linear(8, self.heads), nn.Conv2d(12, 4, 3, padding=1)
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, clip: Tensor) -> Tensor:
        batch, frames = clip.shape[:2]
        top = self.top(clip.flatten(0, 1)).relu()
        deep = self.deep(top).relu()
        maps = deep.unflatten(0, (batch, frames))
        asked = self.ask(maps.permute(0, 3, 4, 1, 2)).softmax(3)  # (B, H, W, T, heads)
        weights = asked.permute(4, 0, 3, 1, 2)
        below = (weights.mean(0).unsqueeze(2) * maps).sum(1)
        laid = weights.reshape(self.heads * batch, frames, *deep.shape[2:])
        wide = F.interpolate(laid, top.shape[2:]).view(self.heads, batch, frames, 1, *top.shape[2:])
        skips = torch.stack(top.unflatten(0, (batch, frames)).chunk(self.heads, 2))
        skip = torch.cat([*(wide * skips).sum(2)], 1)
        x = torch.cat([skip, F.interpolate(below, scale_factor=2.0)], 1)
        return F.interpolate(self.head(self.up(x).relu()), scale_factor=2.0)


def test_weights_of_several_heads_in_the_batch_lie_at_the_level_they_are_resized_to() -> None:
    structure = read_structure(Dates().eval(), torch.randn(2, 3, 3, 32, 48))
    assert structure.inputs.layout == "NTCHW"
    assert structure.reductions == ((1, 1), (2, 2), (4, 4))


class Pairs(nn.Module):
    """Compares neighbouring frames at half their size, beside a field of zeros, then goes on."""

    def __init__(self) -> None:
        super().__init__()
        self.coarse, self.fine = nn.Conv2d(8, 2, 3, 1, 1), nn.Conv2d(8, 2, 3, 1, 1)
        self.merge, self.out = nn.Conv2d(5, 8, 3, 1, 1), nn.Conv2d(8, 3, 1)

    def compared(self, one: Tensor, other: Tensor) -> Tensor:
        count, _, height, width = one.shape
        field = one.new_zeros(count, 2, height // 2, width // 2)
        half = [F.avg_pool2d(image, 2) for image in (one, other)]
        field = field + self.coarse(torch.cat([*half, field], 1))
        field = F.interpolate(field, scale_factor=2)
        return field + self.fine(torch.cat([one, other, field], 1))

    def forward(self, x: Tensor) -> Tensor:
        batch, frames, _, height, width = x.shape
        before, behind = (part.reshape(-1, 3, height, width) for part in (x[:, :-1], x[:, 1:]))
        fields = self.compared(before, behind).view(batch, frames - 1, 2, height, width)
        made = [
            self.out(self.merge(torch.cat([x[:, i], fields[:, i]], 1)).relu())
            for i in range(frames - 1)
        ]
        return torch.stack(made, 1)


@pytest.mark.parametrize("frames", [3, 4])
def test_clips_of_which_pairs_are_compared_first_have_frames(frames: int) -> None:
    structure = read_structure(Pairs().eval(), torch.randn(2, frames, 3, 16, 24))
    assert structure.inputs.layout == "NTCHW"
    assert structure.reductions == ((1, 1), (2, 2))
    assert structure.stage_of["coarse"].name == "bottleneck"
    (cut,) = structure.cuts
    assert not any("zeros" in site.node for site in cut.entries)
    x = torch.randn(1, frames, 3, 32, 16)
    variant = build(structure, make_plan(structure, cut, width=4))
    assert variant.module.eval()(x).shape == (1, frames - 1, 3, 32, 16)


class Forecaster(nn.Module):
    """Mixes cuboids of four frames, goes down, and makes two frames of them by a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix = nn.Conv2d(1, 4, 1), nn.Linear(4, 4)
        self.merge, self.norm, self.deep = nn.Linear(16, 8), nn.LayerNorm(8), nn.Linear(8, 8)
        self.time, self.time_of_skip = nn.Linear(4, 2), nn.Linear(4, 2)
        self.up, self.last, self.out = nn.Linear(8, 4), nn.LayerNorm(4), nn.Linear(4, 1)

    def cuboids(self, x: Tensor, layer: nn.Module) -> Tensor:
        batch, frames, height, width, channels = x.shape
        blocks = x.reshape(batch, frames, height // 2, 2, width // 2, 2, channels)
        blocks = blocks.permute(0, 2, 4, 1, 3, 5, 6)
        tokens = layer(blocks.reshape(batch, -1, frames * 4, channels))
        return tokens.reshape(blocks.shape).permute(0, 3, 1, 4, 2, 5, 6).reshape(x.shape)

    def forward(self, x: Tensor) -> Tensor:
        frames = self.embed(x.flatten(0, 1).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        top = x + self.cuboids(frames.unflatten(0, x.shape[:2]), self.mix)
        batch, frames, height, width, channels = top.shape
        pixels = top.reshape(batch, frames, height // 2, 2, width // 2, 2, channels)
        low = self.merge(pixels.permute(0, 1, 2, 4, 3, 5, 6).flatten(4))
        low = self.time(low.permute(0, 2, 3, 4, 1)).permute(0, 4, 1, 2, 3)
        low = low + self.cuboids(self.norm(low), self.deep)
        skip = self.time_of_skip(top.permute(0, 2, 3, 4, 1)).permute(0, 4, 1, 2, 3)
        maps = low.flatten(0, 1).permute(0, 3, 1, 2)
        fine = F.interpolate(maps, scale_factor=2).permute(0, 2, 3, 1).unflatten(0, (batch, 2))
        return self.out(self.last(self.up(fine) + skip))


def test_a_forecast_of_fewer_frames_makes_no_level() -> None:
    structure = read_structure(Forecaster().eval(), torch.randn(2, 4, 16, 24, 1))
    assert structure.inputs.layout == "NTHWC"
    assert structure.sizes == "symbolic"
    assert structure.reductions == ((1, 1), (2, 2))
    names = "embed", "mix", "merge", "time", "deep", "time_of_skip", "up", "last", "out"
    assert [structure.stage_of[name].name for name in names] == [
        *("encoder 0", "encoder 0", "bottleneck", "bottleneck", "bottleneck"),
        *("skip 0", "decoder 0", "decoder 0", "head"),
    ]
