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
