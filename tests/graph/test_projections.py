"""Volumes go in, and a map of two of their sides comes out: the depth of a scan is projected.

So it is with images, of which rows come out: the height of a surface in each column.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.networks import places
from weightscope.errors import InputError
from weightscope.graph import read_structure
from weightscope.truncation.building import build
from weightscope.truncation.checks import verify
from weightscope.truncation.plan import make_plan


class Projection(nn.Module):
    """An encoder of volumes, of which each level is projected for a decoder of maps."""

    def __init__(self, project, *, by_weights: bool = False) -> None:
        super().__init__()
        self.way = project
        self.top, self.middle = nn.Conv3d(1, 4, 3, 1, 1), nn.Conv3d(4, 6, 3, 2, 1)
        self.deep = nn.Conv3d(6, 8, 3, 2, 1)
        self.up1 = nn.ConvTranspose2d(8, 6, 2, 2) if by_weights else nn.Upsample(scale_factor=2)
        self.join1 = nn.Conv2d(12 if by_weights else 14, 6, 3, 1, 1)
        self.join0, self.out = nn.Conv2d(10, 4, 3, 1, 1), nn.Conv2d(4, 2, 1)

    def project(self, x):
        return self.way(x)

    def forward(self, x):
        top = self.top(x).relu()
        middle = self.middle(top).relu()
        deep = self.deep(middle).relu()
        top, middle, deep = map(self.project, (top, middle, deep))
        y = self.join1(torch.cat([self.up1(deep), middle], 1)).relu()
        y = F.interpolate(y, scale_factor=2)
        return self.out(self.join0(torch.cat([y, top], 1)).relu())


class ProjectedByLayers(Projection):
    """Kernels as deep as each level: the depth of the volumes is held."""

    def __init__(self) -> None:
        super().__init__(None)
        steps = ((4, 8), (6, 4), (8, 2))
        self.across = nn.ModuleList(nn.Conv3d(c, c, (d, 1, 1), (d, 1, 1)) for c, d in steps)

    def project(self, x):
        layer = next(layer for layer in self.across if layer.in_channels == x.shape[1])
        return layer(x).squeeze(2)


class Stem(nn.Module):
    """Volumes at full resolution alone; all below are maps, of the bands as channels perhaps."""

    def __init__(self, project, channels: int) -> None:
        super().__init__()
        self.project, self.top = project, nn.Conv3d(1, 4, 3, 1, 1)
        self.middle, self.deep = nn.Conv2d(channels, 6, 3, 2, 1), nn.Conv2d(6, 8, 3, 2, 1)
        self.join1, self.join0 = nn.Conv2d(14, 6, 3, 1, 1), nn.Conv2d(6 + channels, 4, 3, 1, 1)
        self.out = nn.Conv2d(4, 2, 1)

    def forward(self, x):
        top = self.project(self.top(x).relu())
        middle = self.middle(top).relu()
        y = F.interpolate(self.deep(middle).relu(), scale_factor=2)
        y = F.interpolate(self.join1(torch.cat([y, middle], 1)).relu(), scale_factor=2)
        return self.out(self.join0(torch.cat([y, top], 1)).relu())


class Surface(nn.Module):
    """An encoder of images, of which each level is projected for a decoder along one side."""

    def __init__(self, side: int, *, deepest_alone: bool = False) -> None:
        super().__init__()
        self.side, self.alone = side, deepest_alone
        self.top, self.middle = nn.Conv2d(1, 4, 3, 1, 1), nn.Conv2d(4, 6, 3, 2, 1)
        self.deep, self.up1 = nn.Conv2d(6, 8, 3, 2, 1), nn.ConvTranspose1d(8, 6, 2, 2)
        self.join1 = nn.Conv1d(6 if deepest_alone else 12, 6, 3, 1, 1)
        self.join0 = nn.Conv1d(6 if deepest_alone else 10, 4, 3, 1, 1)
        self.out = nn.Conv1d(4, 2, 1)

    def forward(self, x):
        top = self.top(x).relu()
        middle = self.middle(top).relu()
        deep = self.deep(middle).relu()
        top, middle, deep = (maps.mean(self.side) for maps in (top, middle, deep))
        y = self.up1(deep)
        y = self.join1(y if self.alone else torch.cat([y, middle], 1)).relu()
        y = F.interpolate(y, scale_factor=2)
        return self.out(self.join0(y if self.alone else torch.cat([y, top], 1)).relu())


class Cubes(nn.Module):
    """Two slices become one in a first layer, and all below it are maps (forecasts of weather)."""

    def __init__(self) -> None:
        super().__init__()
        self.cubes, self.norm = nn.Conv3d(3, 8, (2, 4, 4), (2, 4, 4)), nn.LayerNorm(8)
        self.down, self.up = nn.Conv2d(8, 8, 3, 2, 1), nn.ConvTranspose2d(8, 8, 2, 2)
        self.out = nn.Linear(16, 3 * 16)

    def forward(self, x):
        cubes = self.cubes(x)
        tokens = self.norm(cubes.flatten(2).transpose(1, 2)).transpose(1, 2)
        top = tokens.reshape(cubes.shape).squeeze(2)
        y = torch.cat([self.up(self.down(top).relu()), top], 1).permute(0, 2, 3, 1)
        return F.pixel_shuffle(self.out(y).permute(0, 3, 1, 2), 4)


class Speech(nn.Module):
    """Layers of spectra, then of their frames, of which some make one and are repeated again.

    Args:
        first: Whether frames lie before the batch, and are padded to be summed.
    """

    def __init__(self, first: bool) -> None:
        super().__init__()
        self.first, self.front = first, nn.Conv2d(1, 4, 3, 2)
        self.flat, self.deep = nn.Linear(4 * 11, 8), nn.Sequential(nn.Linear(8, 8), nn.ReLU())
        self.reduce, self.last = nn.Conv1d(8, 8, 3, 2, 1), nn.Linear(8, 8)
        self.out = nn.Linear(8, 5)

    def fewer(self, x):
        if not self.first:
            return self.reduce(x.transpose(1, 2)).transpose(1, 2)
        x = x.transpose(0, 1)
        frames, batch, channels = x.shape
        made = (frames + 1) // 2
        lacking = x[-1:].expand(made * 2 - frames, batch, channels)
        x = torch.cat([x, lacking]).reshape(made, 2, batch, channels).sum(1)
        return x.transpose(0, 1)

    def more(self, x):
        if not self.first:
            return x.repeat_interleave(2, 1)
        x = x.transpose(0, 1)
        frames, batch, channels = x.shape
        x = x.unsqueeze(1).expand(frames, 2, batch, channels).reshape(2 * frames, batch, channels)
        return x.transpose(0, 1)

    def forward(self, x):
        maps = self.front(x.unsqueeze(1)).relu()
        top = self.flat(maps.transpose(1, 2).flatten(2))
        deep = self.deep(self.fewer(top))
        return self.out(self.last(self.more(deep)[:, : top.shape[1]] + top).relu())


class Squeezed(nn.Module):
    """An encoder of four slices beside one of maps, which goes deeper."""

    def __init__(self) -> None:
        super().__init__()
        self.top3, self.low3 = nn.Conv3d(1, 4, 3, 1, 1), nn.Conv3d(4, 6, 3, 1, 1)
        self.top, self.low, self.deep = (
            nn.Conv2d(a, b, 3, 1, 1) for a, b in ((4, 4), (4, 6), (6, 8))
        )
        self.join0, self.join1, self.out = (
            nn.Conv2d(10, 4, 3, 1, 1),
            nn.Conv2d(14, 6, 1),
            nn.Conv2d(4, 1, 1),
        )

    def forward(self, x):
        top3 = self.top3(x[:, None]).relu()
        low3 = self.low3(F.max_pool3d(top3, 2)).relu()
        top = self.top(x).relu() + top3.mean(2)
        low = self.low(F.max_pool2d(top, 2)).relu() + low3.mean(2)
        y = F.interpolate(self.deep(F.max_pool2d(low, 2)).relu(), scale_factor=2)
        y = F.interpolate(self.join1(torch.cat([y, low], 1)).relu(), scale_factor=2)
        return self.out(self.join0(torch.cat([y, top], 1)).relu())


_WAYS = {
    "largest": lambda x: x.amax(2),
    "mean": lambda x: x.mean(2),
    "pooled": lambda x: F.max_pool3d(x, (x.shape[2], 1, 1)).squeeze(2),
    "a largest value of each": lambda x: F.adaptive_max_pool3d(x, (1, None, None)).squeeze(2),
    "attended": lambda x: (x * x.softmax(2)).sum(2),
}


@pytest.mark.sample(2)
@pytest.mark.parametrize("way", _WAYS)
def test_a_projection_of_volumes_has_the_levels_of_its_maps(way) -> None:
    model = Projection(_WAYS[way]).eval()
    structure = read_structure(model, torch.randn(2, 1, 8, 32, 24))
    assert structure.reductions == ((1.0, 1.0, 1.0), (2.0, 2.0, 2.0), (4.0, 4.0, 4.0))
    stage = places(structure)
    assert [stage[name] for name in ("top", "middle", "deep", "join1", "join0", "out")] == [
        *("encoder 0", "encoder 1", "bottleneck", "decoder 1", "decoder 0", "head")
    ]
    assert [cut.keep_levels for cut in structure.cuts] == [1, 2]
    other = torch.randn(1, 1, 16, 40, 16)
    for cut in structure.cuts:
        variant = build(structure, make_plan(structure, cut, width=4))
        assert variant.module.eval()(other).shape == model(other).shape
        assert verify(variant, sizes=[other], export=False).failures == ()


def test_what_takes_the_place_of_a_projection_sees_the_volumes() -> None:
    model = Projection(_WAYS["mean"], by_weights=True).eval()
    structure = read_structure(model, torch.randn(2, 1, 8, 32, 24))
    variant = build(structure, make_plan(structure, structure.cuts[0], width=4))
    assert isinstance(variant.module.new_bottleneck.trunk[0], nn.Conv3d)
    assert variant.receptive_field == (None, None, None)
    x = torch.randn(2, 1, 8, 32, 24)
    changed = x.clone()
    changed[:, :, 1] += 1  # one slice
    module = variant.module.eval()
    seen = []
    hook = module.new_bottleneck.register_forward_hook(lambda _, args, made: seen.append(made[0]))
    module(x), module(changed)
    hook.remove()
    assert seen[0].shape == (2, 6, 16, 12)
    assert not torch.equal(*seen)
    images = [torch.randn(2, 1, 8, 32, 24) for _ in range(8)]
    assert variant.recover(images=images, steps=2).start == "ridge"


@pytest.mark.parametrize(("side", "alone"), [(2, False), (2, True), (3, False)])
def test_rows_of_images_have_the_levels_of_the_images(side: int, alone: bool) -> None:
    model = Surface(side, deepest_alone=alone).eval()
    structure = read_structure(model, torch.randn(2, 1, 32, 24))
    assert structure.reductions == ((1, 1), (2, 2), (4, 4))
    stage = places(structure)
    assert [stage[name] for name in ("top", "middle", "deep", "join1", "join0", "out")] == [
        *("encoder 0", "encoder 1", "bottleneck", "decoder 1", "decoder 0", "head")
    ]
    assert [cut.keep_levels for cut in structure.cuts] == [1, 2]
    other = torch.randn(1, 1, 16, 40)
    for cut in structure.cuts:
        variant = build(structure, make_plan(structure, cut, width=4))
        assert variant.module.eval()(other).shape == model(other).shape
        assert verify(variant, sizes=[other], export=False).failures == ()


@pytest.mark.parametrize("axis", [3, 4])
def test_any_side_may_be_projected(axis) -> None:
    sizes = [32, 24]
    sizes.insert(axis - 2, 8)
    model = Projection(lambda x: x.amax(axis)).eval()
    structure = read_structure(model, torch.randn(2, 1, *sizes))
    assert structure.reductions == ((1.0, 1.0, 1.0), (2.0, 2.0, 2.0), (4.0, 4.0, 4.0))
    assert [cut.keep_levels for cut in structure.cuts] == [1, 2]
    x = torch.randn(1, 1, *(size + 8 for size in sizes))
    variant = build(structure, make_plan(structure, structure.cuts[0], width=4))
    assert variant.module.eval()(x).shape == model(x).shape


def test_kernels_as_deep_as_a_volume_project_it() -> None:
    model = ProjectedByLayers().eval()  # as deep as the example's volumes
    structure = read_structure(model, torch.randn(2, 1, 8, 32, 24))
    assert structure.reductions == ((1.0, 1.0, 1.0), (2.0, 2.0, 2.0), (4.0, 4.0, 4.0))
    stage = places(structure)
    assert [stage[f"across.{i}"] for i in range(3)] == ["skip 0", "skip 1", "bottleneck"]
    assert stage["join1"] == "decoder 1"
    x = torch.randn(3, 1, 8, 40, 16)
    for cut in structure.cuts:
        variant = build(structure, make_plan(structure, cut, width=4))
        assert variant.module.eval()(x).shape == model(x).shape
    assert [cut.keep_levels for cut in structure.cuts] == [1, 2]


@pytest.mark.parametrize("bands", [False, True])
def test_maps_alone_below_volumes_are_cut_as_maps(bands) -> None:
    model = Stem(lambda x: x.flatten(1, 2) if bands else x.mean(2), 32 if bands else 4).eval()
    structure = read_structure(model, torch.randn(2, 1, 8, 32, 24))
    assert structure.reductions == ((1.0, 1.0, 1.0), (1.0, 2.0, 2.0), (1.0, 4.0, 4.0))
    assert [cut.keep_levels for cut in structure.cuts] == [1, 2]
    x = torch.randn(3, 1, 8, 40, 16)
    for cut in structure.cuts:
        variant = build(structure, make_plan(structure, cut, width=4))
        assert isinstance(variant.module.new_bottleneck.trunk[0], nn.Conv2d)
        assert variant.module.eval()(x).shape == model(x).shape


def test_two_slices_that_become_one_are_held() -> None:
    model = Cubes().eval()
    structure = read_structure(model, torch.randn(2, 3, 2, 32, 24))
    assert structure.reductions == ((1, 1, 1), (2, 4, 4), (2, 8, 8))
    stage = places(structure)
    assert [stage[name] for name in ("cubes", "norm", "down", "up", "out")] == [
        *("encoder 1", "encoder 1", "bottleneck", "decoder 1", "head")
    ]
    (cut,) = structure.cuts
    variant = build(structure, make_plan(structure, cut, width=4))
    other = torch.randn(1, 3, 2, 40, 16)
    assert verify(variant, sizes=[other], export=False).failures == ()
    with pytest.raises(InputError, match="2"):
        variant.module.eval()(torch.randn(1, 3, 4, 40, 16))


@pytest.mark.parametrize("first", [False, True])
def test_spectra_become_tokens_of_their_frames(first) -> None:
    model = Speech(first).eval()
    structure = read_structure(model, torch.randn(2, 41, 24))
    assert structure.reductions == ((1, 1), (2, 2), (4, 2))
    stage = places(structure)
    assert [stage[name] for name in ("front", "flat", "deep.0", "last", "out")] == [
        *("encoder 1", "encoder 1", "bottleneck", "decoder 1", "head")
    ]
    (cut,) = structure.cuts
    assert cut.keep_levels == 2
    variant = build(structure, make_plan(structure, cut, width=4))
    assert verify(variant, sizes=[torch.randn(1, 67, 24)], export=False).failures == ()


def test_maps_keep_the_reduction_along_the_side_that_they_lack() -> None:
    structure = read_structure(Squeezed().eval(), torch.randn(2, 4, 32, 24))
    assert structure.reductions == ((1, 1, 1), (2, 2, 2), (2, 4, 4))
    assert [cut.keep_levels for cut in structure.cuts] == [1, 2]
