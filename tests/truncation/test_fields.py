"""The receptive field of variants against what a pulse in one place reaches."""

import copy
import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from weightscope.graph import read_structure
from weightscope.receptive_field import network_receptive_field
from weightscope.truncation.building import build
from weightscope.truncation.plan import make_plan

CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
POOL = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}


class Pooled(nn.Module):
    """A U-net without norms; the kernel of its poolings, can be chosen."""

    def __init__(self, dimensions=1, levels=4, kernel=3, dilation=1, factor=2, window=2):
        super().__init__()
        self.dimensions, self.pooling = dimensions, (window, factor)
        pads = (kernel - 1) * dilation // 2
        widths = [2 * 2**level for level in range(levels)]

        def layer(entering, leaving):
            return CONV[dimensions](
                entering, leaving, kernel, padding=pads, dilation=dilation, bias=False
            )

        self.down = nn.ModuleList(map(layer, [1, *widths], widths))
        self.up = nn.ModuleList(layer(a + b, a) for a, b in itertools.pairwise(widths))
        self.head = CONV[dimensions](widths[0], 1, 1, bias=False)

    def forward(self, x):
        skips = []
        for level, layer in enumerate(self.down):
            x = layer(POOL[self.dimensions](x, *self.pooling) if level else x).relu()
            skips.append(x)
        skips.pop()
        for layer in reversed(self.up):
            skip = skips.pop()
            x = F.interpolate(x, size=skip.shape[2:], mode=LINEAR[self.dimensions])
            x = layer(torch.cat([skip, x], 1)).relu()
        return self.head(x)


class Uneven(nn.Module):
    """Strided kernels that are padded along one axis only: one size rounds up, one down by more."""

    def __init__(self):
        super().__init__()

        def layer(entering, stride=1, pad=(1, 1)):
            return nn.Conv2d(entering, 2, 3, stride, pad, bias=False)

        self.down = nn.ModuleList([layer(1), layer(2, 2, (1, 0)), layer(2, 2, (1, 0))])
        self.same = nn.ModuleList([layer(2), layer(2)])
        self.up = nn.ModuleList([layer(4), layer(4)])
        self.head = nn.Conv2d(2, 1, 1, bias=False)

    def forward(self, x):
        a = self.down[0](x).relu()
        b = self.same[0](self.down[1](a)).relu()
        c = self.same[1](self.down[2](b)).relu()
        for layer, skip in zip(self.up, (b, a), strict=True):
            c = F.interpolate(c, size=skip.shape[2:], mode="bilinear")
            c = layer(torch.cat([skip, c], 1)).relu()
        return self.head(c)


class Lateral(nn.Module):
    """Every level is resized to the image at once."""

    def __init__(self, levels):
        super().__init__()
        self.down = nn.ModuleList(
            nn.Conv1d(1 if i == 0 else 4, 4, 3, padding=1, bias=False) for i in range(levels)
        )
        self.mix = nn.Conv1d(4 * levels, 1, 3, padding=1, bias=False)

    def forward(self, x):
        size, found = x.shape[2:], []
        for level, layer in enumerate(self.down):
            x = layer(F.max_pool1d(x, 2) if level else x).relu()
            found.append(F.interpolate(x, size=size, mode="linear"))
        return self.mix(torch.cat(found, 1))


@torch.no_grad()
def field(module, size):
    """Largest extent, along each dimension, of the places from which a pulse reaches an output.

    All weights are positive, so that nothing cancels out; the outputs are those of the middle.
    """
    module = copy.deepcopy(module).double().eval()
    for name, parameter in module.named_parameters():
        parameter.fill_(0 if name.endswith("bias") else 1 / max(1, parameter[0].numel()))
    found = []
    for dimension, length in enumerate(size):
        pulses = torch.eye(length, dtype=torch.float64)
        x = pulses.view(length, 1, *(length if d == dimension else 1 for d in range(len(size))))
        y = module(x.expand(length, 1, *size)).movedim(2 + dimension, 1).flatten(2).amax(2)
        middle = y[:, length * 3 // 8 : length * 5 // 8] > 0
        assert not middle[[0, -1]].any(), "the images are too small to tell"
        seen = [column.nonzero() for column in middle.T]
        found.append(max(int(column.max() - column.min()) + 1 for column in seen))
    return tuple(found)


CASES = {
    "1-D": (Pooled, {}, (256,)),
    "2-D": (Pooled, {"dimensions": 2, "levels": 3}, (80, 64)),
    "3-D": (Pooled, {"dimensions": 3, "levels": 2}, (24, 24, 24)),
    "dilated kernel of five": (Pooled, {"kernel": 5, "dilation": 2, "levels": 3}, (256,)),
    "thirds": (Pooled, {"factor": 3, "window": 3, "levels": 3}, (324,)),
    "unpadded": (Pooled, {"window": 3}, (256,)),
    "uneven": (Uneven, {}, (80, 80)),
    "five levels at once": (Lateral, {"levels": 5}, (384,)),
}


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name == "3-D" else ()) for name in CASES]
)
def test_field_at_every_depth(name):
    factory, settings, size = CASES[name]
    model = factory(**settings)
    structure = read_structure(model, torch.randn(1, 1, *size))
    assert network_receptive_field(structure.program) == field(model, size)
    assert len(structure.cuts) == structure.depth - 1
    for cut in structure.cuts:
        for reach in {1, None}:
            plan = make_plan(structure, cut, "light", 2, None, reach)
            variant = build(structure, plan)
            assert variant.receptive_field == field(variant.module, size), (plan, cut.keep_levels)


def test_seven_levels_at_once_are_cut_to_one():
    """What leaves lies at sixteen sizes below the cut."""
    structure = read_structure(Lateral(7), torch.randn(1, 1, 1024))
    variant = build(structure, make_plan(structure, structure.cuts[0], "light", 2))
    assert structure.cuts[0].keep_levels == 1
    assert variant.receptive_field == (154,)


def test_field_does_not_hang_on_the_size_that_was_read():
    """Sizes that poolings round are of the same levels as sizes that divide evenly."""
    fields = set()
    for size in (64, 50, 100, 127, 256):
        structure = read_structure(Lateral(5), torch.randn(1, 1, size))
        fields.add(network_receptive_field(structure.program))
    assert fields == {(110,)}


def _slices(x):
    return x[:, :, ::2][..., ::2].repeat(1, 2, 1, 1)


def _repeated(x):
    return x.repeat_interleave(2, 2).repeat_interleave(2, 3)


def _interleaved(x):
    a, b, c, d = x.repeat(1, 4, 1, 1).chunk(4, 1)
    rows = [torch.stack(pair, -1).flatten(-2) for pair in ((a, b), (c, d))]
    return torch.stack(rows, -2).flatten(-3, -2)


class SideAfterSide(nn.Module):
    """Two levels, resampled along one side after the other."""

    def __init__(self, up):
        super().__init__()
        self.up = up
        self.enter, self.deep = nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.deeper = nn.Conv2d(8, 4, 3, padding=1)
        self.back, self.out = nn.Conv2d(8, 2, 3, padding=1), nn.Conv2d(4, 1, 3, padding=1)

    def forward(self, x):
        top = self.enter(x)
        middle = self.deep(_slices(top)).relu()
        deep = self.up(self.deeper(_slices(middle)).relu())
        back = self.back(torch.cat([middle, deep], 1)).relu()
        return self.out(torch.cat([top, self.up(back)], 1))


@pytest.mark.parametrize("up", [_repeated, _interleaved])
def test_a_cut_leaves_both_sides_of_an_image_alike(up):
    structure = read_structure(SideAfterSide(up), torch.randn(2, 1, 64, 64))
    assert [cut.keep_levels for cut in structure.cuts] == [1, 2]
    for cut in structure.cuts:
        variant = build(structure, make_plan(structure, cut, width=2))
        high, wide = variant.receptive_field
        assert high == wide
        assert variant.module(torch.randn(1, 1, 32, 96)).shape == (1, 1, 32, 96)
