"""What is a level and what is none, on networks whose levels are known by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from networks import places
from torch import Tensor, nn

import weightscope as ws
from weightscope.errors import StructureError
from weightscope.graph import growing, read_structure, rebuild
from weightscope.receptive_field import receptive_fields


class Small(nn.Module):
    """Two levels; a subclass puts something between the bottleneck and the way back."""

    def __init__(self) -> None:
        super().__init__()
        self.top = nn.Conv2d(1, 4, 3, padding=1)
        self.deep = nn.Conv2d(4, 16, 3, padding=1)
        self.join = nn.Conv2d(20, 4, 3, padding=1)
        self.out = nn.Conv2d(4, 1, 1)

    def context(self, x: Tensor) -> Tensor:
        return x

    def forward(self, x: Tensor) -> Tensor:
        top = F.relu(self.top(x))
        deep = self.context(F.relu(self.deep(F.max_pool2d(top, 2))))
        return self.out(self.join(torch.cat([F.interpolate(deep, scale_factor=2.0), top], 1)))


class PyramidPooling(nn.Module):
    """Pools by fixed windows; ``again`` pools what is pooled already."""

    def __init__(self, again: bool = False) -> None:
        super().__init__()
        self.again = again
        self.parts = nn.ModuleList(nn.Conv2d(16, 4, 1) for _ in range(3))
        self.merge = nn.Conv2d(28, 16, 1)

    def forward(self, x: Tensor) -> Tensor:
        pooled, parts = x, [x]
        for part, window in zip(self.parts, (2, 4, 8), strict=True):
            pooled = F.avg_pool2d(pooled, 2) if self.again else F.avg_pool2d(x, window)
            parts.append(F.interpolate(part(pooled), size=x.shape[2:], mode="bilinear"))
        return self.merge(torch.cat(parts, 1))


class WithPyramid(Small):
    def __init__(self, again: bool, own_module: bool) -> None:
        super().__init__()
        self.pyramid = PyramidPooling(again)
        self.own_module = own_module

    def context(self, x: Tensor) -> Tensor:
        return self.pyramid(x) if self.own_module else self.pyramid.forward(x)


@pytest.mark.parametrize(
    ("again", "own_module"),
    [(False, True), (True, False)]
    + [pytest.param(*case, marks=pytest.mark.slow) for case in ((False, False), (True, True))],
)
def test_a_pyramid_of_fixed_windows_is_no_level(again: bool, own_module: bool) -> None:
    structure = read_structure(WithPyramid(again, own_module))
    assert structure.reductions == ((1.0, 1.0), (2.0, 2.0))
    found = places(structure)
    assert {found[f"pyramid.parts.{i}"] for i in range(3)} == {"bottleneck"}
    assert found["pyramid.merge"] == "bottleneck"
    assert [cut.keep_levels for cut in structure.cuts] == [1]


class Deeper(Small):
    """The same way of pooling, but with kernels that look around: levels of a U-Net."""

    def __init__(self) -> None:
        super().__init__()
        self.middle = nn.Conv2d(16, 16, 3, padding=1)
        self.deepest = nn.Conv2d(16, 16, 3, padding=1)

    def context(self, x: Tensor) -> Tensor:
        middle = self.middle(F.avg_pool2d(x, 2))
        deepest = self.deepest(F.avg_pool2d(middle, 2))
        middle = middle + F.interpolate(deepest, scale_factor=2.0)
        return x + F.interpolate(middle, scale_factor=2.0)


def test_kernels_that_look_around_make_levels() -> None:
    structure = read_structure(Deeper())
    assert [reduction[0] for reduction in structure.reductions] == [1.0, 2.0, 4.0, 8.0]
    assert places(structure)["deepest"] == "bottleneck"


class Squeezed(Small):
    """Scales the channels by the mean of the whole image, written in one of several ways."""

    def __init__(self, spelling: str) -> None:
        super().__init__()
        self.spelling = spelling
        self.scale = nn.Conv2d(16, 16, 1)

    def context(self, x: Tensor) -> Tensor:
        whole = {
            "adaptive": lambda: F.adaptive_avg_pool2d(x, 1),
            "adaptive max": lambda: F.adaptive_max_pool2d(x, 1),
            "mean": lambda: x.mean((2, 3), keepdim=True),
            "slice of the shape": lambda: F.avg_pool2d(x, x.shape[-2:]),
            "one side": lambda: F.avg_pool2d(x, x.size(3)),
            "keyword": lambda: F.avg_pool2d(x, kernel_size=(x.shape[2], x.shape[3])),
            "max": lambda: F.max_pool2d(x, x.size()[2:]),
            "max, one side": lambda: F.max_pool2d(x, kernel_size=x.shape[-1]),
        }
        return x * self.scale(whole[self.spelling]()).sigmoid()


SPELLINGS = (
    "adaptive",
    "adaptive max",
    "mean",
    "slice of the shape",
    "one side",
    "keyword",
    "max",
    "max, one side",
)


@pytest.mark.sample(2)
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_whole_image_pool_is_no_level_however_it_is_written(spelling: str) -> None:
    model = Squeezed(spelling).eval()
    structure = read_structure(model)
    assert structure.reductions == ((1.0, 1.0), (2.0, 2.0))
    assert places(structure)["scale"] == "bottleneck"
    assert receptive_fields(structure)["head"] == (None, None)
    graph = rebuild(structure)
    for size in (16, 40):
        x = torch.randn(3, 1, size, size)
        torch.testing.assert_close(graph(x), model(x), rtol=0, atol=0)


def test_windows_of_a_share_of_the_image_stay_a_share() -> None:
    class Quarters(Small):
        def context(self, x: Tensor) -> Tensor:
            return x + F.interpolate(F.avg_pool2d(x, x.shape[-1] // 4), size=x.shape[2:])

    model = Quarters().eval()
    graph = rebuild(read_structure(model))
    for size in (16, 48):
        x = torch.randn(2, 1, size, size)
        torch.testing.assert_close(graph(x), model(x), rtol=0, atol=0)


class Masked(nn.Module):
    """A mask of the deepest level is enlarged, and shows a part of what layers above made."""

    def __init__(self, joined: bool) -> None:
        super().__init__()
        self.top, self.deep = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.mask, self.image = nn.Conv2d(4, 1, 1), nn.Conv2d(4, 1, 3, padding=1)
        self.joined = joined

    def forward(self, x: Tensor) -> Tensor:
        x = self.top(x).relu()
        mask = self.mask(self.deep(F.max_pool2d(x, 2)).relu()).sigmoid()
        mask = F.interpolate(mask, scale_factor=2.0)
        return mask * self.image(x) if self.joined else mask


@pytest.mark.parametrize("joined", [False, True])
def test_what_is_only_resized_and_at_most_joined_to_others_has_no_decoder(joined: bool) -> None:
    with pytest.raises(StructureError, match=r"only resized after it .* at most joined to what"):
        read_structure(Masked(joined))
    cured = nn.Sequential(Masked(joined), nn.Conv2d(1, 1, 3, padding=1))
    assert [cut.keep_levels for cut in read_structure(cured).cuts] == [1]


class Enlarging(nn.Module):
    """Works at one resolution and enlarges at the end."""

    def __init__(self, tail: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1)
        )
        self.tail = tail
        self.out = nn.LazyConv2d(3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.out(self.tail(self.body(x)))
        return y


@pytest.mark.parametrize(
    "tail",
    [nn.PixelShuffle(2), nn.ConvTranspose2d(8, 8, 2, 2), nn.Upsample(scale_factor=2)],
    ids=["shuffle", "transposed", "nearest"],
)
def test_one_resolution_with_a_tail_that_enlarges_is_refused(tail: nn.Module) -> None:
    model = Enlarging(tail)
    model(torch.randn(1, 3, 8, 8))
    with pytest.raises(StructureError, match="nothing lies below the input's own resolution"):
        read_structure(model)


class Vector(nn.Module):
    """An autoencoder with a vector in the middle, for images of 16x16."""

    def __init__(self, pooled: bool) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 4, 2, 1), nn.Conv2d(4, 8, 4, 2, 1)
        self.squeeze = nn.Linear(8 if pooled else 8 * 4 * 4, 6)
        self.spread = nn.Linear(6, 8 * 4 * 4)
        self.c, self.d = nn.ConvTranspose2d(8, 4, 4, 2, 1), nn.ConvTranspose2d(4, 3, 4, 2, 1)
        self.pooled = pooled

    def forward(self, x: Tensor) -> Tensor:
        y = self.b(self.a(x).relu()).relu()
        y = F.adaptive_avg_pool2d(y, 1) if self.pooled else y
        y = self.spread(self.squeeze(y.flatten(1))).view(-1, 8, 4, 4)
        return self.d(self.c(y).relu())


@pytest.mark.sample(1)
@pytest.mark.parametrize("pooled", [False, True], ids=["flattened", "pooled"])
def test_a_decoder_may_start_from_a_vector(pooled: bool) -> None:
    model = Vector(pooled).eval()
    structure = read_structure(model, torch.randn(2, 3, 16, 16))
    assert structure.reductions == ((1.0, 1.0), (2.0, 2.0), (4.0, 4.0))
    assert places(structure) == {
        "a": "encoder 1",
        "b": "bottleneck",
        "squeeze": "bottleneck",
        "spread": "bottleneck",
        "c": "decoder 1",
        "d": "decoder 0",
    }
    x = torch.randn(3, 3, 16, 16)
    torch.testing.assert_close(rebuild(structure)(x), model(x), rtol=0, atol=0)


class Woven(nn.Module):
    """An inverse wavelet step: writes quarters into a fresh tensor, or stacks them."""

    def __init__(self, stacked: bool) -> None:
        super().__init__()
        self.stacked = stacked
        self.a, self.b = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 8, 3, padding=1)
        self.c, self.out = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.a(x).relu()
        p = self.b(F.avg_pool2d(a, 2)).relu().chunk(4, 1)
        n, c, h, w = p[0].shape
        if self.stacked:
            rows = [torch.stack(p[:2], -1), torch.stack(p[2:], -1)]
            y = torch.stack(rows, -3).reshape(n, c, 2 * h, 2 * w)
        else:
            y = torch.zeros_like(a[:, :2])
            y[:, :, ::2, ::2], y[:, :, ::2, 1::2] = p[0], p[1]
            y[:, :, 1::2, ::2], y[:, :, 1::2, 1::2] = p[2], p[3]
        return self.out(self.c(y).relu() + x)


@pytest.mark.parametrize("stacked", [False, True], ids=["written", "stacked"])
def test_a_decoder_may_write_into_a_fresh_tensor(stacked: bool) -> None:
    structure = read_structure(Woven(stacked))
    assert places(structure) == {
        "a": "encoder 0",
        "b": "bottleneck",
        "c": "decoder 0",
        "out": "head",
    }
    assert structure.dead_parameters == ()
    # 3x3, a pool of 2 and 3x3 at jump 2 see 8; three neighbours lie in two cells of 2
    assert receptive_fields(structure)["decoder 0"] == (10, 10)


class Reshaped(nn.Module):
    """Four pixels become channels by a reshape, and the other way round; residual blocks between.

    Its head is a transposed convolution that does not stride.
    """

    class Block(nn.Module):
        def __init__(self, channels: int) -> None:
            super().__init__()
            self.norm = nn.InstanceNorm2d(channels, affine=True)
            self.conv = nn.Conv2d(channels, channels, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.conv(self.norm(x))

    def __init__(self) -> None:
        super().__init__()
        self.top = nn.Conv2d(3, 4, 3, padding=1)
        self.deep, self.up = self.Block(16), self.Block(8)
        self.out = nn.ConvTranspose2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        top = self.top(x)
        batch, channels, height, width = top.shape
        rows, columns = height // 2, width // 2
        pixels = top.view(batch, channels, rows, 2, columns, 2).permute(0, 1, 3, 5, 2, 4)
        deep = self.deep(pixels.reshape(batch, 4 * channels, rows, columns))
        pixels = deep.view(batch, channels, 2, 2, rows, columns).permute(0, 1, 4, 2, 5, 3)
        back = pixels.reshape(batch, channels, 2 * rows, 2 * columns)
        return self.out(self.up(torch.cat([back, top], 1)))


def test_pixels_that_a_reshape_makes_channels_of_change_the_level() -> None:
    structure = read_structure(Reshaped(), torch.randn(2, 3, 32, 32))
    assert structure.reductions == ((1.0, 1.0), (2.0, 2.0))
    where = {layer.split(".")[0]: stage.name for layer, stage in structure.stage_of.items()}
    assert where == {"top": "encoder 0", "deep": "bottleneck", "up": "decoder 0", "out": "head"}
    (cut,) = structure.cuts
    assert [site.channels for site in (*cut.entries, *cut.exits)] == [4, 16]


class Loose(nn.Module):
    """Its kernels lie in a dictionary and a list, and are read where they are needed."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ParameterDict(
            {
                "top": nn.Parameter(torch.randn(4, 3, 3, 3)),
                "deep": nn.Parameter(torch.randn(8, 4, 3, 3)),
            }
        )
        self.up = nn.ParameterList(
            [nn.Parameter(torch.randn(4, 12, 3, 3)), nn.Parameter(torch.randn(1, 4, 1, 1))]
        )

    def forward(self, x: Tensor) -> Tensor:
        top = F.conv2d(x, self.down["top"], padding=1).relu()
        deep = F.conv2d(F.max_pool2d(top, 2), self.down["deep"], padding=1).relu()
        deep = F.interpolate(deep, scale_factor=2.0)
        up = F.conv2d(torch.cat([deep, top], 1), self.up[0], padding=1).relu()
        return F.conv2d(up, self.up[1])


def test_parameters_in_containers_lie_where_they_are_used() -> None:
    analysis = ws.analyze(Loose(), example_inputs=torch.zeros(1, 3, 16, 16), response=False)
    places = {stage.name: stage.layers for stage in analysis.structure.stages}
    assert places == {
        "encoder 0": ("down.top",),
        "bottleneck": ("down.deep",),
        "decoder 0": ("up.0",),
        "head": ("up.1",),
    }
    by_layer = analysis.layers.set_index("layer")
    assert by_layer["stage"]["down.deep"] == "bottleneck"
    assert by_layer["parameters"]["down.deep"] == 8 * 4 * 9
    by_stage = analysis.stages.set_index("stage")
    assert by_stage["parameters"].sum() == sum(
        p.numel() for p in analysis.structure.model.parameters()
    )


class Filtered(nn.Module):
    """Halves by one fixed filter that runs on each channel alone, as an image of its own."""

    def __init__(self, channels_last: bool) -> None:
        super().__init__()
        self.channels_last = channels_last
        self.a, self.b = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 6, 3, padding=1)
        self.c, self.d = nn.Conv2d(6, 8, 3, padding=1), nn.Conv2d(14, 6, 3, padding=1)
        self.e, self.out = nn.Conv2d(10, 4, 3, padding=1), nn.Conv2d(4, 1, 1)
        self.register_buffer("kernel", torch.full((1, 1, 4, 4), 1 / 16))

    def filtered(self, x: Tensor, pads: tuple[int, ...]) -> Tensor:
        batch, channels, height, width = x.shape
        if self.channels_last:
            x = x.reshape(-1, height, width, 1).permute(0, 3, 1, 2)
        else:
            x = x.reshape(batch * channels, 1, height, width)
        return F.conv2d(F.pad(x, pads), self.kernel)

    def half(self, x: Tensor) -> Tensor:
        y = self.filtered(x, (1, 2, 1, 2))[:, :, ::2, ::2]
        return y.reshape(-1, x.shape[1], x.shape[2] // 2, x.shape[3] // 2)

    def twice(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        apart = x.reshape(-1, height, 1, width, 1)  # zeros between the values
        wide = F.pad(apart, (0, 1, 0, 0, 0, 1)).reshape(-1, 1, 2 * height, 2 * width)
        y = F.conv2d(F.pad(wide, (1, 2, 1, 2)), self.kernel)
        return y.reshape(batch, channels, 2 * height, 2 * width)

    def forward(self, x: Tensor) -> Tensor:
        a = F.relu(self.a(x))
        b = F.relu(self.b(self.half(a)))
        c = F.relu(self.c(self.half(b)))
        d = F.relu(self.d(torch.cat([self.twice(c), b], 1)))
        return self.out(F.relu(self.e(torch.cat([self.twice(d), a], 1))))


@pytest.mark.parametrize("channels_last", [pytest.param(True, marks=pytest.mark.slow), False])
def test_channels_may_lie_in_the_batch_to_be_filtered(channels_last: bool) -> None:
    structure = read_structure(Filtered(channels_last).eval(), torch.randn(1, 3, 32, 32))

    assert structure.reductions == ((1.0, 1.0), (2.0, 2.0), (4.0, 4.0))
    assert places(structure) == {
        "a": "encoder 0",
        "b": "encoder 1",
        "c": "bottleneck",
        "d": "decoder 1",
        "e": "decoder 0",
        "out": "head",
    }
    assert [cut.keep_levels for cut in structure.cuts] == [1, 2]


class Unused(Small):
    """Goes down once more, and nothing uses what it finds there."""

    def __init__(self, below: nn.Module, for_shape: bool) -> None:
        super().__init__()
        self.below, self.for_shape = below, for_shape

    def context(self, x: Tensor) -> Tensor:
        below = self.below(F.avg_pool2d(x, 2))
        return x.reshape(len(below), 16, *x.shape[2:]) if self.for_shape else x


@pytest.mark.sample(2)
@pytest.mark.parametrize("below", [nn.Identity(), nn.Conv2d(16, 4, 3, padding=1)])
@pytest.mark.parametrize("for_shape", [False, True])
def test_what_no_output_depends_on_makes_no_level(below: nn.Module, for_shape: bool) -> None:
    structure = read_structure(Unused(below, for_shape).eval())
    assert structure.reductions == ((1.0, 1.0), (2.0, 2.0))
    assert places(structure)["deep"] == "bottleneck"
    assert [cut.keep_levels for cut in structure.cuts] == [1]
    dead = tuple(f"below.{name}" for name, _ in below.named_parameters())
    assert structure.dead_parameters == dead


class Encoder(nn.Module):
    """Three levels; returns the deepest, and hands all of them over in another way."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(1, 4, 3, padding=1)
        self.b = nn.Conv2d(4, 4, 3, stride=2, padding=1)
        self.c = nn.Conv2d(4, 4, 3, stride=2, padding=1)

    def forward(self, x: Tensor, maps: list[Tensor]) -> Tensor:
        for layer in self.children():
            x = layer(x)
            maps.append(x)
        return x


class HandsOver(nn.Module):
    """Takes the maps of its encoder by hooks, or of a list, and not what the encoder returns."""

    def __init__(self, hooks: bool) -> None:
        super().__init__()
        self.hooks, self.encoder = hooks, Encoder()
        self.d = nn.Conv2d(8, 4, 3, padding=1)
        self.e = nn.Conv2d(8, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        maps: list[Tensor] = []
        handles = [
            layer.register_forward_hook(lambda _, __, result: maps.append(result))
            for layer in (self.encoder.children() if self.hooks else ())
        ]
        self.encoder(x, [] if self.hooks else maps)
        for handle in handles:
            handle.remove()
        a, b, c = maps
        b = self.d(torch.cat([b, F.interpolate(c, scale_factor=2.0)], 1))
        return self.e(torch.cat([a, F.interpolate(b, scale_factor=2.0)], 1))


@pytest.mark.parametrize("hooks", [True, False])
def test_maps_leave_a_module_by_hooks_or_lists_as_by_its_result(hooks: bool) -> None:
    structure = read_structure(HandsOver(hooks))
    assert structure.reductions == ((1.0, 1.0), (2.0, 2.0), (4.0, 4.0))
    assert places(structure) == {
        "encoder.a": "encoder 0",
        "encoder.b": "encoder 1",
        "encoder.c": "bottleneck",
        "d": "decoder 1",
        "e": "head",
    }
    assert [cut.keep_levels for cut in structure.cuts] == [1, 2]


class OneCorner(Small):
    """Puts all that comes up into one place, and takes only a shape of it for that."""

    def forward(self, x: Tensor) -> Tensor:
        top = F.relu(self.top(x))
        deep = F.relu(self.deep(F.max_pool2d(top, 2)))
        places = torch.ones_like(deep, dtype=torch.int64)
        return self.out(self.join(torch.cat([F.max_unpool2d(deep, places, 2), top], 1)))


def test_a_cut_may_leave_what_takes_only_a_shape_from_below() -> None:
    analysis = ws.analyze(OneCorner().eval(), example_inputs=torch.randn(1, 1, 32, 32))
    assert [cut.keep_levels for cut in analysis.structure.cuts] == [1]
    variant = analysis.proposals[0].build()
    assert variant.module(torch.randn(1, 1, 64, 32)).shape == (1, 1, 64, 32)


class Taps(nn.Module):
    """A norm for several maps of one resolution, of which one goes deeper and others go up."""

    def __init__(self, first_down: bool, bottom: bool) -> None:
        super().__init__()
        self.first_down = first_down
        self.embed, self.norm = nn.Conv2d(3, 16, 4, 4), nn.GroupNorm(4, 16)
        self.blocks = nn.ModuleList(nn.Conv2d(16, 16, 3, padding=1) for _ in range(3))
        self.down = nn.Conv2d(16, 16, 3, 2 if bottom else 1, 1)
        self.rise = nn.ConvTranspose2d(16, 16, 2, 2)
        self.side, self.fuse = nn.Conv2d(16, 16, 1), nn.Conv2d(16, 16, 3, padding=1)
        self.last, self.head = nn.Conv2d(32, 16, 3, padding=1), nn.Conv2d(16, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        maps, x = [], self.embed(x)
        for block in self.blocks:
            x = block(x).relu()
            maps.append(x)
        low, middle, deep = maps
        if self.first_down:
            deep = self.down(self.norm(deep))
        low, middle = self.rise(self.norm(low)), self.side(self.norm(middle))
        if not self.first_down:
            deep = self.down(self.norm(deep))
        middle = self.fuse(middle + F.interpolate(deep, size=middle.shape[2:]))
        low = torch.cat([low, F.interpolate(middle, size=low.shape[2:])], 1)
        return self.head(F.interpolate(self.last(low), scale_factor=2))


@pytest.mark.sample(2)
@pytest.mark.parametrize("first_down", [False, True])
@pytest.mark.parametrize(
    ("bottom", "stage", "side"),
    [(True, "encoder 2", "skip 2"), (False, "bottleneck", "bottleneck")],
)
def test_a_norm_of_several_maps_lies_on_the_way_down(
    first_down: bool, bottom: bool, stage: str, side: str
) -> None:
    structure = read_structure(Taps(first_down, bottom), torch.rand(2, 3, 64, 64))
    stages = {layer: found.name for found in structure.stages for layer in found.layers}
    assert (stages["norm"], stages["side"]) == (stage, side)


class Fitted(Small):
    """Brings the skip to the size of what comes from below, and convolves it there."""

    def __init__(self) -> None:
        super().__init__()
        self.side = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        top = F.relu(self.top(x))
        tokens = F.relu(self.deep(F.max_pool2d(top, 2))).flatten(2)
        side = int(tokens.shape[2] ** 0.5)
        deep = F.interpolate(tokens.reshape(len(x), 16, side, side), scale_factor=2.0)
        top = self.side(F.interpolate(top, size=deep.shape[2:]))
        return self.out(self.join(torch.cat([deep, top], 1)))


def test_a_skip_brought_to_the_size_of_what_comes_from_below_is_a_skip() -> None:
    structure = read_structure(Fitted(), torch.rand(1, 1, 32, 32))
    assert places(structure)["side"] == "skip 0"
    assert [cut.keep_levels for cut in structure.cuts] == [1]


class TokensOfOneSize(nn.Module):
    """Adds a place to each token, of which there are as many as the image has at one size."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList(nn.Conv2d(c, 8, 3, 2, 1) for c in (3, 8, 8, 8))
        self.where = nn.Parameter(torch.zeros(16, 8))
        self.mix, self.conv = nn.Linear(8, 8), nn.Conv2d(8, 8, 3, padding=1)
        self.up = nn.ModuleList(nn.Conv2d(c, 8, 3, padding=1) for c in (16, 16, 16, 8))
        self.head = nn.Conv2d(8, 1, 1)

    def forward(self, x):
        made = []
        for layer in self.down:
            x = F.relu(layer(x))
            made.append(x)
        tokens = x.flatten(2).transpose(1, 2)
        tokens = self.mix(tokens + self.where[: tokens.shape[1]])
        y = self.conv(tokens.reshape(len(x), 4, 4, 8).movedim(-1, 1))
        for layer, skip in zip(self.up, (*made[2::-1], None), strict=True):
            y = F.interpolate(y, scale_factor=2, mode="bilinear")
            y = F.relu(layer(y if skip is None else torch.cat([y, skip], 1)))
        return self.head(y)


def test_both_sides_are_bound_by_as_many_tokens_as_one_size_has(monkeypatch):
    found, real = [], growing._rests

    def recorded(*given):
        found.append(real(*given))
        return found[-1]

    monkeypatch.setattr(growing, "_rests", recorded)
    structure = read_structure(TokensOfOneSize().eval(), torch.zeros(1, 3, 64, 64))
    assert list(found[0].values()) == [None, None]
    stages = {name: stage.name for stage in structure.stages for name in stage.layers}
    assert (stages["mix"], stages["conv"], stages["up.0"]) == (
        "bottleneck", "bottleneck", "decoder 3",
    )  # fmt: skip


class PairsOfFrames(nn.Module):
    """Pairs of frames become channels, the first frame beside a copy of itself."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.top = nn.Conv3d(1, 4, 3, padding=1)
        self.down = nn.ModuleList(nn.Conv3d(8, 4, 3, padding=1) for _ in range(times))
        self.up = nn.ModuleList(nn.Conv3d(4, 8, 3, padding=1) for _ in range(times))
        self.head = nn.Conv3d(4, 1, 1)

    def forward(self, x):
        x = top = self.top(x)
        for layer in self.down:
            x = torch.cat([x[:, :, :1], x], 2).unflatten(2, (-1, 2)).movedim(3, 2).flatten(1, 2)
            x = F.relu(layer(x))
        for layer in self.up:
            x = layer(x).unflatten(1, (4, 2)).movedim(2, 3).flatten(2, 3)[:, :, 1:]
        return self.head(x + top)


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    ("times", "frames"), [(1, 9), (2, 5), pytest.param(3, 9, marks=pytest.mark.slow)]
)
def test_frames_that_are_a_multiple_and_one_are_counted_at_such_numbers(times, frames):
    structure = read_structure(PairsOfFrames(times), torch.zeros(1, 1, frames, 8, 8))
    assert structure.sizes == "symbolic"
    reductions = tuple((2.0**i, 1.0, 1.0) for i in range(times + 1))
    assert structure.reductions == reductions
    found = places(structure)
    assert [found[f"down.{i}"] for i in range(times)] == [
        *(f"encoder {i + 1}" for i in range(times - 1)), "bottleneck",
    ]  # fmt: skip
    assert [cut.keep_levels for cut in structure.cuts] == [*range(1, times + 1)]


class FourByFour(nn.Module):
    """Goes down by four, so that of the smallest image one position is left."""

    def __init__(self) -> None:
        super().__init__()
        self.top, self.below = nn.Conv2d(1, 2, 1), nn.Conv2d(2, 2, 1)
        self.norm, self.head = nn.BatchNorm2d(2), nn.Conv2d(4, 1, 1)

    def forward(self, x):
        top = self.top(x)
        deep = self.norm(self.below(F.avg_pool2d(top, 4)))
        return self.head(torch.cat([top, F.interpolate(deep, scale_factor=4.0)], 1))


def test_a_side_is_not_bound_by_a_map_of_one_position():
    structure = read_structure(FourByFour().eval(), torch.zeros(10, 1, 4, 4))
    assert structure.reductions == ((1.0, 1.0), (4.0, 4.0))


class Repeated(nn.Module):
    """Comes up by repeating each position along one side after the other, and looks there."""

    def __init__(self, dimensions: int) -> None:
        super().__init__()
        conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dimensions - 1]
        self.top, self.down = conv(3, 4, 3, padding=1), conv(4, 8, 2, 2)
        self.deep, self.up = conv(8, 16, 2, 2), conv(16, 8, 3, padding=1)
        self.join, self.out = conv(16, 4, 3, padding=1), conv(9, 2, 1)

    def twice(self, x: Tensor) -> Tensor:
        for axis in range(2, x.dim()):
            x = x.repeat_interleave(2, axis)
        return x

    def forward(self, x):
        top = self.top(x)
        middle = self.down(top)
        up = self.up(self.twice(self.deep(middle)))
        # what is computed there has no axis of channels, and is seen at a coarser level, too
        fine = self.twice(up)
        far = (fine[:, 0] / (1 + fine[:, 1].abs())).unsqueeze(1)
        near = F.interpolate(far, scale_factor=0.5)
        joined = self.twice(self.join(torch.cat([up * near, middle], 1)))
        return self.out(torch.cat([joined, top, far], 1))


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    ("dimensions", "size"),
    [
        (1, (64,)),
        pytest.param(2, (32, 32), marks=pytest.mark.slow),
        (2, (32, 48)),
        pytest.param(3, (16, 16, 16), marks=pytest.mark.slow),
    ],
)
def test_positions_that_are_repeated_lie_where_they_come_up_to(
    dimensions: int, size: tuple[int, ...]
) -> None:
    example = torch.randn(2, 3, *size)
    found = ws.analyze(Repeated(dimensions), example_inputs=example, response=False)
    structure = found.structure
    assert structure.reductions == tuple((n,) * dimensions for n in (1.0, 2.0, 4.0))
    assert [cut.keep_levels for cut in structure.cuts] == [1, 2]
    assert structure.stage_of["up"].name == structure.stage_of["join"].name == "decoder 1"
    variant = next(p for p in found.proposals if p.keep_levels == 1).build("pool")
    assert variant.module(torch.randn(2, 3, *size)).shape == (2, 2, *size)


class Styled(nn.Module):
    """What the deepest map is on average is told to the layers above, through one of their own."""

    def __init__(self, keepdim: bool) -> None:
        super().__init__()
        self.keepdim = keepdim
        self.top, self.middle = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, 2, 1)
        self.deep, self.style = nn.Conv2d(8, 16, 3, 2, 1), nn.Conv2d(16, 8, 1)
        self.rise, self.up = nn.ConvTranspose2d(16, 8, 2, 2), nn.Conv2d(16, 8, 3, padding=1)
        self.dense, self.out = nn.Linear(16, 8), nn.Conv2d(16, 2, 3, padding=1)

    def average(self, x):
        return x.mean((2, 3), keepdim=self.keepdim)

    def forward(self, x):
        top = self.top(x)
        middle = self.middle(top)
        deep = self.deep(middle)
        if self.keepdim:
            told = self.style(self.average(deep).sqrt())
        else:
            told = self.dense(F.normalize(self.average(deep)))[:, :, None, None]
        x = F.interpolate(self.up(torch.cat([self.rise(deep), middle], 1)), scale_factor=2)
        return self.out(torch.cat([x + told, top], 1))


@pytest.mark.parametrize(("keepdim", "layer"), [(False, "dense"), (True, "style")])
def test_what_a_mean_tells_the_layers_above_lies_there(keepdim: bool, layer: str) -> None:
    structure = read_structure(Styled(keepdim), torch.randn(2, 3, 32, 32))
    assert structure.reductions == ((1.0, 1.0), (2.0, 2.0), (4.0, 4.0))
    assert structure.stage_of[layer].level == 0
    assert [cut.keep_levels for cut in structure.cuts] == [1, 2]


class Voxels(nn.Module):
    """An image becomes a vector, and the vector a volume with more positions than the image."""

    def __init__(self, depth: bool) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(1, 8, 4, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 4, 2, 1))
        self.vector = nn.Linear(8 * 8 * 8, 64)
        self.up = nn.Sequential(
            nn.ConvTranspose3d(8, 8, 4, 2, 1), nn.ReLU(), nn.ConvTranspose3d(8, 1, 4, 2, 1)
        )
        self.raised = depth

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        vector = self.vector(self.down(x).flatten(1))
        volume = self.up(vector.relu().view(-1, 8, 2, 2, 2))
        return volume.mean(2) if self.raised else volume


@pytest.mark.parametrize("depth", [True, False])
def test_a_volume_of_a_vector_of_an_image_is_refused(depth: bool) -> None:
    with pytest.raises(StructureError, match="makes a vector of it and of the vector maps of 3"):
        read_structure(Voxels(depth), torch.rand(2, 1, 32, 32))


class CostVolume(nn.Module):
    """Maps of two images shifted against each other make a volume, with kernels of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.deep = nn.Conv2d(1, 4, 3, 2, 1), nn.Conv3d(8, 4, 3, padding=1)
        self.flat, self.up = nn.Conv2d(16, 4, 3, padding=1), nn.Conv2d(5, 4, 3, padding=1)
        self.out = nn.Conv2d(4, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        deep = self.down(x).relu()
        shifted = [torch.cat([deep, deep.roll(i, 3)], 1) for i in range(4)]
        deep = self.flat(self.deep(torch.stack(shifted, 2)).relu().flatten(1, 2)).relu()
        deep = nn.functional.interpolate(deep, scale_factor=2)
        return self.out(self.up(torch.cat([deep, x], 1)).relu())


def test_a_volume_of_maps_is_read() -> None:
    assert read_structure(CostVolume(), torch.rand(2, 1, 32, 32)).depth == 2


class Resampled(nn.Module):
    """Doubles the rate of each channel by two kernels, works on that, and halves it again."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("kernels", torch.randn(2, 1, 5))
        self.top, self.deep = nn.Conv1d(channels, 4, 8, 4), nn.Conv1d(4, 8, 8, 4)
        self.up1, self.up0 = nn.ConvTranspose1d(8, 4, 8, 4), nn.ConvTranspose1d(4, channels, 8, 4)

    def forward(self, x):
        n, channels, length = x.shape
        alone = F.pad(x.reshape(-1, length)[:, None], (2, 3))
        made = F.conv1d(alone, self.kernels).transpose(1, 2).reshape(n, channels, -1)
        top = F.relu(self.top(made[..., : 2 * length]))
        up = F.relu(self.up1(F.relu(self.deep(top))))
        made = self.up0(up + top[..., : up.shape[-1]])
        return F.avg_pool1d(F.pad(made, (0, 2 * length - made.shape[-1])), 2)


@pytest.mark.parametrize("channels", [1, pytest.param(2, marks=pytest.mark.slow), 3])
def test_channels_that_are_filtered_one_by_one_are_no_images(channels):
    structure = read_structure(Resampled(channels).eval())
    assert structure.reductions == ((0.5,), (1.0,), (2.0,), (8.0,))
    assert structure.stage_of["top"].level == 2


@pytest.mark.parametrize("pool", [F.avg_pool2d, F.max_pool2d])
def test_a_pool_at_every_position_mixes_those_of_a_level_and_leaves_it_one(pool) -> None:
    class Mixer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.below, self.last = (nn.Conv2d(1, 1, 1) for _ in range(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.first(x)
            mixed = pool(self.below(F.avg_pool2d(x, 2)), 5, 1, 2)
            return self.last(x + F.interpolate(mixed, scale_factor=2.0))

    structure = read_structure(Mixer(), torch.zeros(1, 1, 32, 32))
    assert {s.name: s.level for s in structure.stages}["bottleneck"] == 1


class Unflattened(nn.Module):
    """Pixels become channels axis by axis."""

    def __init__(self) -> None:
        super().__init__()
        self.top, self.deep = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.head = nn.Conv2d(8, 1, 1)

    def forward(self, x):
        top = self.top(x)
        apart = top.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).permute(0, 1, 3, 5, 2, 4)
        deep = F.relu(self.deep(apart.flatten(1, 3)))
        return self.head(torch.cat([top, F.pixel_shuffle(deep, 2)], 1))


def test_axes_are_taken_apart_below_a_cut():
    structure = read_structure(Unflattened(), torch.zeros(1, 3, 16, 16))
    assert structure.reductions == ((1.0, 1.0), (2.0, 2.0))
    (cut,) = structure.cuts
    assert [site.layout for site in cut.entries] == ["channels_first"]


class SmoothedPair(nn.Module):
    """Two frames; at each level patches of what differs are weighed by the network itself."""

    def __init__(self) -> None:
        super().__init__()
        strides = ((3, 1), (8, 2), (8, 2))
        self.e0, self.e1, self.e2 = (nn.Conv2d(c, 8, 3, stride, 1) for c, stride in strides)
        self.d1, self.d0 = (nn.Conv2d(16, 8, 3, 1, 1) for _ in range(2))
        self.weigh = nn.ModuleList(nn.Conv2d(8, 9, 3, padding=1) for _ in range(2))
        self.last = nn.Conv2d(8, 2, 1)

    @staticmethod
    def smooth(x: Tensor, weigh: nn.Module) -> Tensor:
        shares = F.unfold(weigh(x).softmax(1), 1)
        patches = (F.unfold(one, 3, padding=1) for one in x.split(1, 1))
        return torch.cat([(p * shares).sum(1).view_as(x[:, :1]) for p in patches], 1)

    def forward(self, pair: Tensor) -> Tensor:
        top, half = [], []
        for frame in (pair[:, 0], pair[:, 1]):
            top.append(self.e0(frame))
            half.append(self.e1(top[-1]))
        deep = F.interpolate(self.e2(half[0]) - self.e2(half[1]), half[0].shape[2:])
        deep = self.smooth(self.d1(torch.cat([deep, half[0] - half[1]], 1)), self.weigh[1])
        deep = torch.cat([F.interpolate(deep, top[0].shape[2:]), top[0] - top[1]], 1)
        return self.last(self.smooth(self.d0(deep), self.weigh[0]))


def test_patches_of_one_of_several_frames_lie_at_its_level() -> None:
    structure = read_structure(SmoothedPair(), torch.zeros(2, 2, 3, 32, 32), layout="NTCHW")
    assert structure.reductions == ((1.0, 1.0), (2.0, 2.0), (4.0, 4.0))
    assert {stage.name: stage.layers for stage in structure.stages} == {
        "encoder 0": ("e0",),
        "encoder 1": ("e1",),
        "bottleneck": ("e2",),
        "decoder 1": ("d1", "weigh.1"),
        "decoder 0": ("d0", "weigh.0"),
        "head": ("last",),
    }


class Correlated(nn.Module):
    """Two frames, one behind the other; each position looks at 36 places of the other frame."""

    def __init__(self, how: str) -> None:
        super().__init__()
        strides = ((3, 1), (8, 2), (8, 2))
        self.e0, self.e1, self.e2 = (nn.Conv2d(c, 8, 3, stride, 1) for c, stride in strides)
        self.d1, self.d0 = nn.Conv2d(44, 8, 3, 1, 1), nn.Conv2d(16, 8, 3, 1, 1)
        self.last = nn.Conv2d(8, 2, 1)
        self.how = how

    def looks(self, one: Tensor, other: Tensor) -> Tensor:
        batch, width, high, wide = one.shape
        y, x = torch.meshgrid(
            torch.linspace(-1, 1, high), torch.linspace(-1, 1, wide), indexing="ij"
        )
        around = 0.1 * (torch.arange(72).view(1, 1, 36, 2) - 36) / 36
        places = torch.stack([x, y], -1).view(1, high * wide, 1, 2) + around
        if self.how == "a map of costs each":
            costs = torch.einsum("bcp,bchw->bphw", one.flatten(2), other).flatten(0, 1)[:, None]
            places = places.view(high * wide, 6, 6, 2).repeat(batch, 1, 1, 1)
            seen = F.grid_sample(costs, places, align_corners=True)
            return seen.view(batch, high, wide, 36).permute(0, 3, 1, 2).contiguous()
        if self.how == "in the batch":
            places = places.view(high, wide, 36, 2).permute(2, 0, 1, 3).repeat(batch, 1, 1, 1)
            seen = F.grid_sample(other.repeat_interleave(36, 0), places, align_corners=True)
            return (seen.view(batch, 36, width, high, wide) * one[:, None]).sum(2)
        seen = F.grid_sample(other, places.expand(batch, -1, -1, -1), align_corners=True)
        return (seen * one.flatten(2)[..., None]).sum(1).mT.reshape(batch, 36, high, wide)

    def forward(self, pair: Tensor) -> Tensor:
        top = [self.e0(frame) for frame in pair.unbind(1)]
        half = [self.e1(x) for x in top]
        deep = F.interpolate(self.e2(half[0]) - self.e2(half[1]), half[0].shape[2:])
        deep = self.d1(torch.cat([deep, self.looks(*half)], 1))
        deep = torch.cat([F.interpolate(deep, top[0].shape[2:]), top[0] - top[1]], 1)
        return self.last(self.d0(deep))


@pytest.mark.sample(1)
@pytest.mark.parametrize("how", ["together", "in the batch", "a map of costs each"])
def test_positions_that_look_at_several_places_stay_at_their_level(how: str) -> None:
    structure = read_structure(Correlated(how), torch.zeros(2, 2, 3, 32, 32), layout="NTCHW")
    assert structure.reductions == ((1.0, 1.0), (2.0, 2.0), (4.0, 4.0))
    places = {layer: stage.name for stage in structure.stages for layer in stage.layers}
    assert places == {
        **{"e0": "encoder 0", "e1": "encoder 1", "e2": "bottleneck"},
        **{"d1": "decoder 1", "d0": "decoder 0", "last": "head"},
    }
    assert structure.notes == ()


class SliceBySlice(nn.Module):
    """Volumes that keep their depth; the deepest level is worked on slice by slice, with a past."""

    def __init__(self) -> None:
        super().__init__()
        self.e0 = nn.Conv3d(3, 8, (1, 3, 3), 1, (0, 1, 1))
        self.e1, self.e2 = (nn.Conv3d(8, 8, (1, 3, 3), (1, 2, 2), (0, 1, 1)) for _ in range(2))
        self.step = nn.Conv2d(16, 8, 3, padding=1)
        self.d1, self.d0 = nn.Conv3d(16, 8, 1), nn.Conv3d(16, 8, 1)
        self.last = nn.Conv3d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        top = self.e0(x)
        half = self.e1(top)
        deep, past = self.e2(half), []
        for index in range(deep.shape[2]):
            before = past[-1] if past else torch.zeros_like(deep[:, :, 0])
            past.append(self.step(torch.cat([deep[:, :, index], before], 1)))
        deep = F.interpolate(torch.stack(past, 2), half.shape[2:])
        deep = F.interpolate(self.d1(torch.cat([deep, half], 1)), top.shape[2:])
        return self.last(self.d0(torch.cat([deep, top], 1)))


def test_slices_that_are_worked_on_one_by_one_lie_at_the_level_of_their_volume() -> None:
    structure = read_structure(SliceBySlice(), torch.zeros(1, 3, 5, 32, 32))
    assert structure.reductions == ((1.0, 1.0, 1.0), (1.0, 2.0, 2.0), (1.0, 4.0, 4.0))
    places = {layer: stage.name for stage in structure.stages for layer in stage.layers}
    assert places == {
        **{"e0": "encoder 0", "e1": "encoder 1", "e2": "bottleneck", "step": "bottleneck"},
        **{"d1": "decoder 1", "d0": "decoder 0", "last": "head"},
    }


class Judged(nn.Module):
    """A mask, and something that is told of it or of the features before it."""

    def __init__(self, told: str) -> None:
        super().__init__()
        self.told = told
        self.top, self.deep = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 8, 3, 2, 1)
        self.join, self.mask = nn.Conv2d(12, 4, 3, padding=1), nn.Conv2d(4, 2, 1)
        self.score, self.refine = nn.Linear(2, 1), nn.Conv2d(2, 2, 3, padding=1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        top = self.top(x).relu()
        deep = F.interpolate(self.deep(top).relu(), scale_factor=2.0)
        mask = self.mask(self.join(torch.cat([top, deep], 1)).relu())
        if self.told == "score":
            return mask, self.score(mask.mean((2, 3)))
        if self.told == "gated":
            return mask.sigmoid() * self.score(mask.mean((2, 3)))[..., None, None], mask.mean()
        return mask, self.refine(mask)  # a finer mask, of which the first is a draft


@pytest.mark.parametrize(
    ("told", "heads"),
    [("score", {"mask", "score"}), ("gated", {"score"}), ("finer", {"refine"})],
)
def test_what_makes_a_mask_is_head_though_a_score_of_it_is_returned(
    told: str, heads: set[str]
) -> None:
    structure = read_structure(Judged(told), torch.zeros(2, 3, 32, 32))
    found = {layer for layer, stage in structure.stage_of.items() if stage.name == "head"}
    assert found == heads
    assert structure.stage_of["join"].name == "decoder 0"


@pytest.mark.parametrize("size", [63, 64, 65])
def test_a_small_image_of_odd_size_has_the_reductions_of_a_large_one(size: int) -> None:
    def down(channels: int) -> nn.Conv2d:
        return nn.Conv2d(channels, channels, 3, 2, 1)

    class Deep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.out = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 1, 1)
            self.down, self.mid = nn.Sequential(*(down(4) for _ in range(6))), nn.Conv2d(4, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            top = self.first(x)
            deep = F.interpolate(self.mid(self.down(top)), size=top.shape[2:])
            return self.out(deep + top)

    structure = read_structure(Deep(), torch.randn(1, 1, size, size))
    assert structure.reductions == tuple((2.0**level,) * 2 for level in range(7))


class Haar(nn.Module):
    """Goes to a half and back by a Haar transform, which writes into every other row and column."""

    def __init__(self) -> None:
        super().__init__()
        self.top, self.deep = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.out = nn.Conv2d(4, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.top(x).relu()
        a, b, c, d = (y[:, :, i::2, j::2] / 2 for i in range(2) for j in range(2))
        bands = torch.cat([a + b + c + d, b - a + d - c, c + d - a - b, a + d - b - c], 1)
        low, across, along, both = self.deep(bands).relu().chunk(4, 1)
        made = torch.zeros_like(y)
        made[:, :, 0::2, 0::2] = low - across - along + both
        made[:, :, 0::2, 1::2] = low + across - along - both
        made[:, :, 1::2, 0::2] = low - across + along - both
        made[:, :, 1::2, 1::2] = low + across + along + both
        return self.out(y + made)


class InTurn(nn.Module):
    """Corrects an image twice, each time by a network that goes down and comes back up."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = Haar(), Haar()

    def forward(self, x: Tensor) -> Tensor:
        y = x + self.first(torch.cat([x, x.flip(-1)], 1))
        return y + self.second(torch.cat([y, x], 1))


def test_a_network_of_blocks_that_go_down_has_their_levels() -> None:
    torch.manual_seed(0)
    structure = read_structure(InTurn().eval())
    assert structure.reductions == ((1, 1), (2, 2))
    (bottleneck,) = (stage for stage in structure.stages if stage.name == "bottleneck")
    assert bottleneck.layers == ("first.deep", "second.deep")


class LooksAtPatches(nn.Module):
    """Blends what each position found at each, as one image of both, before it looks (DeepFill)."""

    def __init__(self) -> None:
        super().__init__()
        self.top, self.deep = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 8, 3, 2, 1)
        self.mix, self.out = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(12, 1, 3, padding=1)
        self.register_buffer("along", torch.eye(3).view(1, 1, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        top = self.top(x).relu()
        deep = self.deep(top).relu()
        flat = deep.flatten(2)
        seen = (flat.transpose(1, 2) @ flat).unsqueeze(1)
        seen = F.conv2d(seen, self.get_buffer("along"), padding=1).squeeze(1)
        found = (flat @ seen.softmax(1)).view_as(deep)
        below = F.interpolate(self.mix(found), scale_factor=2.0)
        return self.out(torch.cat([top, below], 1))


def test_what_each_position_finds_at_each_is_no_map() -> None:
    torch.manual_seed(0)
    structure = read_structure(LooksAtPatches().eval(), torch.randn(1, 1, 32, 32))
    assert structure.reductions == ((1, 1), (2, 2))
    assert [cut.keep_levels for cut in structure.cuts] == [1]


class Tiled(nn.Module):
    """Its deepest block moves tiles to the channels, weighs what each differs by, and back."""

    def __init__(self, mix: nn.Module | None = None) -> None:
        super().__init__()
        self.top, self.down = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, 2, 1)
        self.block, self.out = Tiles(mix), nn.Conv2d(8, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        top = self.top(x).relu()
        deep = F.interpolate(self.block(self.down(top)), scale_factor=2)
        return self.out(torch.cat([top, deep], 1))


class Tiles(nn.Module):
    def __init__(self, mix: nn.Module | None) -> None:
        super().__init__()
        self.conv, self.mix = nn.Conv2d(4, 4, 3, padding=1), mix
        self.low, self.high = (nn.Parameter(torch.rand(1, 16, 1, 1)) for _ in "ab")

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        number, channels, high, wide = x.shape
        tiles = x.view(number, channels, 2, high // 2, 2, wide // 2).permute(0, 1, 2, 4, 3, 5)
        tiles = tiles.reshape(number, -1, high // 2, wide // 2)
        if self.mix is not None:
            tiles = self.mix(tiles)
        low = F.adaptive_avg_pool2d(tiles, 1)
        tiles = self.low * low + self.high * (tiles - low)
        tiles = tiles.view(number, channels, 2, 2, high // 2, wide // 2).permute(0, 1, 2, 4, 3, 5)
        return x + tiles.reshape(x.shape)


@pytest.mark.parametrize("kernels", [False, True])
def test_tiles_that_no_kernel_sees_make_no_level(kernels: bool) -> None:
    model = Tiled(nn.Conv2d(16, 16, 3, padding=1) if kernels else None).eval()
    structure = read_structure(model)
    assert len(structure.reductions) == (3 if kernels else 2)
    assert kernels or structure.stage_of["block.conv"].name == "bottleneck"


class FineActivations(nn.Module):
    """Enlarges each map for its activation, and reduces it again, to half of it where it goes down.

    Args:
        kernel: Whether a kernel sees what is enlarged.
    """

    def __init__(self, *, kernel: bool = False) -> None:
        super().__init__()
        self.top, self.down = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.deep, self.up = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(8, 4, 3, padding=1)
        self.fine = nn.Conv2d(4, 4, 3, padding=1) if kernel else nn.Identity()
        self.out = nn.Conv2d(4, 1, 1)

    def activated(self, x: Tensor, high: int, wide: int) -> Tensor:
        fine = F.interpolate(x, scale_factor=2, mode="bicubic", antialias=True)
        fine = F.leaky_relu(self.fine(fine))
        return F.interpolate(fine, size=(high, wide), mode="bicubic", antialias=True)

    def forward(self, x: Tensor) -> Tensor:
        high, wide = x.shape[2:]
        top = self.activated(self.top(x), high, wide)
        down = self.activated(self.down(top), high // 2, wide // 2)
        deep = self.activated(self.deep(down), high, wide)
        return self.out(self.activated(self.up(torch.cat([top, deep], 1)), high, wide))


@pytest.mark.parametrize("kernel", [False, True])
def test_finer_maps_for_activations_alone_make_no_level(kernel: bool) -> None:
    structure = read_structure(FineActivations(kernel=kernel).eval())
    if kernel:
        assert structure.reductions[0] == (0.5, 0.5)
        return
    assert structure.reductions == ((1, 1), (2, 2))
    assert structure.stage_of["deep"].name == "bottleneck"
    assert structure.stage_of["down"].name == structure.stage_of["top"].name == "encoder 0"
    assert [cut.keep_levels for cut in structure.cuts] == [1]
