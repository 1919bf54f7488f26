"""Receptive fields against published figures, hand arithmetic and the support of gradients."""

from fractions import Fraction

import pytest
import torch
from torch import nn
from torch.export import Dim

import mpseg_models
from tests.networks import SharedWeights
from weightscope.errors import InputError
from weightscope.graph import read_structure
from weightscope.receptive_field import (
    box,
    effective_receptive_field,
    network_receptive_field,
    propagate,
    receptive_fields,
    spans,
)


def export(net, *shape):
    dynamic = {0: Dim.AUTO} | dict.fromkeys(range(2, len(shape)), Dim.AUTO)
    x = torch.randn(shape)
    return torch.export.export(net.eval(), (x,), strict=False, dynamic_shapes=(dynamic,))


def support(net, size, dims=2):
    """Extent of the pixels that the centre of the output truly depends on, over all phases."""
    net = net.double().eval()
    for p in net.parameters():
        p.data.fill_(1.0)
    x = torch.ones(1, 1, *[size] * dims, dtype=torch.float64, requires_grad=True)
    y = net(x)
    extents = []
    for offset in range(4):
        centre = tuple(s // 2 + offset for s in y.shape[2:])
        (gradient,) = torch.autograd.grad(y[(0, 0, *centre)], x, retain_graph=True)
        hit = gradient[0, 0].nonzero()
        extents.append(tuple((hit.max(0).values - hit.min(0).values + 1).tolist()))
    return tuple(max(e) for e in zip(*extents, strict=True))


@pytest.mark.parametrize(
    ("name", "pixels"),
    [
        ("unet", 204),
        ("half_unet", 44),
        pytest.param("multiresunet", 300, marks=pytest.mark.slow),
        ("half_multiresunet", 68),
        ("quarter_multiresunet", 28),
    ],
)
def test_zoo(name, pixels):
    net = mpseg_models.create_model(name, width=8)
    assert network_receptive_field(export(net, 2, 3, 64, 64)) == (pixels, pixels)


CHAINS = {
    "dilated": (nn.Sequential(nn.Conv2d(1, 2, 3, dilation=2), nn.Conv2d(2, 1, (1, 5))), (5, 9)),
    "strided": (
        nn.Sequential(nn.Conv2d(1, 2, 3, 2), nn.Conv2d(2, 1, 3, 2), nn.Conv2d(1, 1, 3)),
        15,
    ),
    "average": (nn.Sequential(nn.AvgPool2d(3, 2), nn.Conv2d(1, 1, 3)), 7),
    "transposed": (nn.Sequential(nn.Conv2d(1, 1, 4, 4), nn.ConvTranspose2d(1, 1, 4, 2)), 8),
    "transposed_even": (nn.Sequential(nn.Conv2d(1, 1, 2, 2), nn.ConvTranspose2d(1, 1, 2, 2)), 2),
    "bilinear": (
        nn.Sequential(nn.Conv2d(1, 1, 2, 2), nn.Upsample(scale_factor=2, mode="bilinear")),
        4,
    ),
    "nearest": (nn.Sequential(nn.Conv2d(1, 1, 2, 2), nn.Upsample(scale_factor=2)), 2),
    "grouped": (
        nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 1, 1)),
        5,
    ),
    "shuffle": (nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(4, 4, 3), nn.PixelShuffle(2)), 6),
    "padded": (nn.Sequential(nn.ReflectionPad2d(1), nn.Conv2d(1, 1, 3)), 3),
}


@pytest.mark.parametrize("name", CHAINS)
def test_arithmetic_is_the_support_of_the_gradient(name):
    net, expected = CHAINS[name]
    expected = expected if isinstance(expected, tuple) else (expected, expected)
    assert network_receptive_field(export(net, 2, 1, 64, 64)) == expected
    assert support(net, 64) == expected


def divided(x):
    """Every second pixel along each side to the channels, by views."""
    b, c, h, w = x.shape
    x = x.view(b, c, h // 2, 2, w // 2, 2).permute(0, 1, 3, 5, 2, 4)
    return x.reshape(b, 4 * c, h // 2, w // 2)


def in_patches(x):
    """The same by ``Tensor.unfold``."""
    return x.unfold(2, 2, 2).unfold(3, 2, 2).permute(0, 1, 4, 5, 2, 3).flatten(1, 3)


def brought_back(x):
    b, c, h, w = x.shape
    x = x.view(b, c // 4, 2, 2, h, w).permute(0, 1, 4, 2, 5, 3)
    return x.reshape(b, c // 4, 2 * h, 2 * w)


def in_turn(x):
    return x.repeat_interleave(2, 2).repeat_interleave(2, 3)[:, : x.shape[1] // 4]


def spread_out(x):
    b, c, h, w = x.shape
    x = x[:, : c // 4, :, None, :, None].expand(-1, -1, -1, 2, -1, 2)
    return x.reshape(b, c // 4, 2 * h, 2 * w)


def stacked(x):
    a, b, c, d = x.chunk(4, 1)
    rows = [torch.stack(pair, -1).flatten(-2) for pair in ((a, b), (c, d))]
    return torch.stack(rows, -2).flatten(-3, -2)


def means_of_patches(x):
    b, c, h, w = x.shape
    return x.view(b, c, h // 2, 2, w // 2, 2).mean((3, 5)).repeat(1, 4, 1, 1)


class Resampled(nn.Module):
    """Two levels down and up, each between two convolutions."""

    def __init__(self, down, up):
        super().__init__()
        self.down, self.up = down, up
        self.enter = nn.Conv2d(1, 4, 3, padding=1)
        self.mid = nn.ModuleList(nn.Conv2d(16, 4, 3, padding=1) for _ in range(2))
        self.back = nn.ModuleList(nn.Conv2d(4, 16, 3, padding=1) for _ in range(2))
        self.leave = nn.Conv2d(4, 1, 3, padding=1)

    def forward(self, x):
        x = self.enter(x)
        for layer in self.mid:
            x = layer(self.down(x))
        for layer in self.back:
            x = self.up(layer(x))
        return self.leave(x)


@pytest.mark.parametrize(
    ("down", "up"),
    [
        (divided, in_turn),
        (divided, stacked),
        (in_patches, brought_back),
        (means_of_patches, spread_out),
        (lambda x: x[:, :, ::2, ::2].repeat(1, 4, 1, 1), in_turn),
        (nn.PixelUnshuffle(2), nn.PixelShuffle(2)),
    ],
    ids=["views", "stack", "unfold", "mean and expand", "slices", "shuffle"],
)
def test_resampling_by_reshapes_is_counted_as_gradients_see_it(down, up):
    net = Resampled(down, up)
    found = network_receptive_field(export(net, 2, 1, 64, 64))
    assert found == support(net, 64)
    assert found[0] == found[1]


class Tokens(nn.Module):
    """Four neighbours of a sequence become one token, and each one four again, channels last."""

    def __init__(self):
        super().__init__()
        self.enter, self.leave = (nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 1, 3, padding=1))
        self.first, self.merge, self.expand = nn.Linear(4, 4), nn.Linear(16, 8), nn.Linear(8, 16)

    def forward(self, x):
        x = self.enter(x)
        b, c, h, w = x.shape
        x = self.first(x.flatten(2).transpose(1, 2)).relu()
        x = x.view(b, h // 2, 2, w // 2, 2, c).permute(0, 1, 3, 2, 4, 5).reshape(b, -1, 4 * c)
        x = self.expand(self.merge(x).relu())
        x = x.view(b, h // 2, w // 2, 2, 2, c).permute(0, 1, 3, 2, 4, 5).reshape(b, h * w, c)
        return self.leave(x.transpose(1, 2).reshape(b, c, h, w))


class Windows(nn.Module):
    """Windows of 4x4 in the batch, a layer on each of their pixels, and back; then every window."""

    def __init__(self, within=False):
        super().__init__()
        self.enter, self.leave = (nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(2, 1, 3, padding=1))
        self.layer = nn.Linear(16 if within else 2, 16 if within else 2)
        self.within = within

    def forward(self, x):
        x = self.enter(x)
        b, c, h, w = x.shape
        x = x.view(b, c, h // 4, 4, w // 4, 4).permute(0, 2, 4, 3, 5, 1).reshape(-1, 16, c)
        x = self.layer(x.transpose(1, 2)).transpose(1, 2) if self.within else self.layer(x)
        x = x.view(b, h // 4, w // 4, 4, 4, c).permute(0, 5, 1, 3, 2, 4).reshape(b, c, h, w)
        return self.leave(x)


class OneSide(nn.Module):
    """Overlapping windows along the width, laid out as channels; the height stays."""

    def __init__(self):
        super().__init__()
        self.enter, self.leave = nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(6, 1, 3, padding=1)

    def forward(self, x):
        return self.leave(self.enter(x).unfold(3, 3, 2).movedim(4, 2).flatten(1, 2))


class Picked(nn.Module):
    """One pixel of each patch, and the patch's first row as channels."""

    def __init__(self):
        super().__init__()
        self.leave = nn.Conv2d(3, 1, 3, padding=1)

    def forward(self, x):
        b, c, h, w = x.shape
        x = x.view(b, c, h // 2, 2, w // 2, 2)
        one, row = x[:, :, :, 1, :, 0], x.unbind(3)[0].permute(0, 1, 4, 2, 3).flatten(1, 2)
        return self.leave(torch.cat([one, row], 1))


@pytest.mark.parametrize(
    "net",
    [Tokens(), Windows(), Windows(within=True), OneSide(), Picked()],
    ids=["tokens", "windows", "within windows", "one side", "picked"],
)
def test_what_lies_along_several_axes_is_counted_as_gradients_see_it(net):
    assert network_receptive_field(export(net, 2, 1, 64, 64)) == support(net, 64)


def test_a_signal_and_a_volume_in_patches():
    class Patched(nn.Module):
        def __init__(self, dims):
            super().__init__()
            kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
            self.dims, width = dims, 2**dims
            self.enter = kind(1, 1, 3, padding=1)
            self.mid, self.leave = kind(width, width, 3, padding=1), kind(1, 1, 3, padding=1)

        def forward(self, x):
            n, x = self.dims, self.enter(x)
            sizes = [part for size in x.shape[2:] for part in (size // 2, 2)]
            inner, outer = range(3, 2 * n + 2, 2), range(2, 2 * n + 2, 2)
            y = x.view(*x.shape[:2], *sizes).permute(0, *inner, *outer, 1).squeeze(-1)
            y = self.mid(y.flatten(1, n)).unflatten(1, (2,) * n).unsqueeze(1)
            inward = range(n + 2, 2 * n + 2)
            order = [axis for pair in zip(inward, range(2, n + 2), strict=True) for axis in pair]
            return self.leave(y.permute(0, 1, *order).reshape(x.shape))

    for dims, size in ((1, 64), (3, 16)):
        net = Patched(dims)
        found = network_receptive_field(export(net, 2, 1, *[size] * dims))
        assert found == support(net, size, dims)
        assert len(set(found)) == 1


def test_one_and_three_dimensions():
    net = nn.Sequential(nn.Conv1d(1, 1, 5), nn.MaxPool1d(2), nn.Conv1d(1, 1, 3))
    assert network_receptive_field(export(net, 2, 1, 64)) == (10,)
    net = nn.Sequential(nn.Conv3d(1, 1, 3), nn.MaxPool3d((1, 2, 2)), nn.Conv3d(1, 1, 3))
    assert network_receptive_field(export(net, 2, 1, 16, 32, 32)) == (5, 8, 8)


def test_branches_take_the_largest():
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Conv2d(1, 2, 3, padding=1)
            self.b = nn.Conv2d(1, 2, (7, 1), padding=(3, 0))

        def forward(self, x):
            return torch.cat([self.a(x), self.b(x)], 1)

    assert network_receptive_field(export(Branches(), 2, 1, 16, 16)) == (7, 3)


class Gate(nn.Module):
    def __init__(self, pool):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3, padding=1)
        self.pool = pool

    def forward(self, x):
        y = self.conv(x)
        return y * self.pool(y).sigmoid()


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.embed = nn.Conv2d(1, 4, 4, 4)

    def forward(self, x):
        y = self.embed(x)
        tokens = y.flatten(2).transpose(1, 2)
        return self.attention(tokens, tokens, tokens)[0].transpose(1, 2).reshape(y.shape)


class Mean(nn.Module):
    def forward(self, x):
        return x.mean((2, 3), keepdim=True)


class ChannelMean(nn.Module):
    def forward(self, x):
        return x.mean(1, keepdim=True)


@pytest.mark.parametrize(
    ("net", "pixels"),
    [
        (Gate(nn.AdaptiveAvgPool2d(1)), (None, None)),
        (Gate(Mean()), (None, None)),
        (Gate(ChannelMean()), (3, 3)),
        (Attention(), (None, None)),
        (nn.Sequential(nn.Conv2d(1, 1, 3), nn.GroupNorm(1, 1)), (3, 3)),
    ],
    ids=["squeeze", "mean", "channel mean", "attention", "norm"],
)
def test_operators_that_see_the_whole_input(net, pixels):
    assert network_receptive_field(export(net, 2, 1, 16, 16)) == pixels


def test_a_global_mean_is_seen_at_fixed_sizes_too():
    x = torch.randn(2, 1, 16, 16)
    for net, pixels in ((Gate(Mean()), (None, None)), (Gate(ChannelMean()), (3, 3))):
        program = torch.export.export(net.eval(), (x,), strict=False)
        assert network_receptive_field(program) == pixels


def test_every_stage_has_its_field():
    """Hand arithmetic: stem 3, three 3x3 convolutions 9, pooled 10, three at jump 2: 22."""
    net = mpseg_models.create_model("quarter_multiresunet", width=8)
    found = receptive_fields(read_structure(net, torch.randn(2, 3, 32, 32)))
    assert {name: size[0] for name, size in found.items()} == {
        "encoder 0": 9,
        "bottleneck": 22,
        "skip 0": 15,
        "decoder 0": 28,
        "head": 28,
    }


def test_a_layer_under_two_names_has_its_field():
    structure = read_structure(SharedWeights(), torch.randn(2, 3, 32, 32))
    assert receptive_fields(structure).keys() == {stage.name for stage in structure.stages}

    class Registered(SharedWeights):
        def __init__(self):
            super().__init__()
            self.first = nn.ModuleList([self.bottom, self.merge])  # comes after their own names
            self.bottom, self.merge = self.first[0], self.first[1]

    structure = read_structure(Registered(), torch.randn(2, 3, 32, 32))
    assert receptive_fields(structure).keys() == {stage.name for stage in structure.stages}


def test_known_views_replace_the_arithmetic():
    net = nn.Sequential(nn.Conv2d(1, 1, 3), nn.Conv2d(1, 1, 3))
    program = export(net, 2, 1, 16, 16)
    first = next(n for n in propagate(program) if n.op == "call_function")
    known = {first.name: (box(10, 2), box(20, 1))}
    assert network_receptive_field(program, known) == (14, 22)


def test_effective_field_is_inside_the_theoretical_one():
    torch.manual_seed(0)
    net = nn.Sequential(*[nn.Conv2d(1, 1, 3, padding=1, bias=False) for _ in range(6)])
    for p in net.parameters():
        p.data.fill_(1 / 9)
    net.train()
    x = torch.ones(1, 1, 33, 33)
    field = effective_receptive_field(net, x)
    assert field.gradient.shape == (33, 33)
    assert tuple(field.gradient.nonzero().min(0).values) == (10, 10)
    assert tuple(field.gradient.nonzero().max(0).values) == (22, 22)
    assert field.extent == (9, 9)  # a sum of six uniform steps, sd 2: 95 % within +-4
    assert net.training
    assert all(p.grad is None and p.requires_grad for p in net.parameters())
    assert not x.requires_grad


def test_effective_field_of_a_lazy_model():
    with pytest.raises(InputError, match="not initialised yet"):
        effective_receptive_field(nn.LazyConv2d(4, 3), torch.zeros(1, 1, 8, 8))


def test_effective_field_errors():
    with pytest.raises(InputError, match="image-like input"):
        effective_receptive_field(nn.Linear(2, 2), torch.ones(1, 2))
    with pytest.raises(InputError, match="image-like output"):
        effective_receptive_field(nn.Flatten(), torch.ones(1, 1, 2, 2))

    class Detached(nn.Module):
        def forward(self, x):
            return x.detach() + 0

    with pytest.raises(InputError, match="no gradient"):
        effective_receptive_field(Detached(), torch.ones(1, 1, 2, 2))


def test_places_that_windows_and_interpolation_read():
    assert spans.window(spans.PIXEL, 3, padding=1).at(0) == (-1, 1)
    assert spans.window(spans.PIXEL, 3, stride=2, padding=0, dilation=2).at(1) == (2, 6)
    assert spans.interpolated(spans.PIXEL, 8, 16).at(0) == (-1, 0)
    assert spans.interpolated(spans.PIXEL, 8, 16).at(1) == (0, 1)
    assert spans.interpolated(spans.PIXEL, 8, 7).at(0) == (0, 1)  # between any two of the eight
    assert spans.interpolated(spans.PIXEL, 7, 8).at(0) == (-1, 0)


@pytest.mark.parametrize(
    ("jump", "before", "after", "ratio"),
    [
        (2, 15, 31, Fraction(1, 2)),
        (16, 30, 500, Fraction(1, 16)),  # four unpadded strides
        (32, 2, 3, Fraction(1, 2)),
        (32, 1, 3, Fraction(1, 2)),
        (32, 1, 32, Fraction(1, 32)),
        (1, 125, 62, Fraction(2)),
        (1, 37, 64, Fraction(37, 64)),
    ],
)
def test_a_ratio_of_sizes_is_that_of_their_levels(jump, before, after, ratio):
    assert spans.Resizing.of(spans.box(1, jump), before, after).ratio == ratio
