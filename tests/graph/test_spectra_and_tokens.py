"""Networks that think in spectra, in merged tokens, in thirds, or that take names only."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import weightscope as ws
from weightscope.errors import StructureError
from weightscope.graph import read_structure
from weightscope.truncation.building import build
from weightscope.truncation.checks import verify
from weightscope.truncation.plan import make_plan


def conv(in_channels: int, channels: int, size: int = 3) -> nn.Conv2d:
    return nn.Conv2d(in_channels, channels, size, padding=size // 2)


class UNet(nn.Module):
    """Three levels; what happens at the deepest is up to others."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.e0, self.e1, self.e2 = conv(channels, 8), conv(8, 16), conv(16, 32)
        self.d1, self.d0, self.head = conv(48, 16), conv(24, 8), conv(8, 2, 1)

    def deepest(self, x: Tensor) -> Tensor:
        return x

    def run(self, x: Tensor) -> Tensor:
        a = self.e0(x).relu()
        b = self.e1(F.max_pool2d(a, 2)).relu()
        c = self.deepest(self.e2(F.max_pool2d(b, 2)).relu())
        b = self.d1(torch.cat([b, F.interpolate(c, size=b.shape[-2:])], 1)).relu()
        return self.head(self.d0(torch.cat([a, F.interpolate(b, size=a.shape[-2:])], 1)).relu())

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x)


class Spectrum(UNet):
    """Mixes the spectrum of the deepest features; it has half of their columns."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = conv(64, 64, 1)

    def deepest(self, x: Tensor) -> Tensor:
        f = torch.fft.rfft2(x, norm="ortho")
        real, imaginary = self.mix(torch.cat([f.real, f.imag], 1)).chunk(2, 1)
        return x + torch.fft.irfft2(torch.complex(real, imaginary), s=x.shape[-2:], norm="ortho")


class Amplitude(UNet):
    """A gate made of a spectrum that never comes back."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = conv(32, 32, 1)

    def deepest(self, x: Tensor) -> Tensor:
        spectrum = torch.fft.rfftn(x, dim=(-2, -1), norm="ortho").abs()
        return x * self.gate(spectrum).mean((2, 3), keepdim=True).sigmoid()


class SpectrumOfSignals(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.e0, self.e1 = nn.Conv1d(1, 8, 3, padding=1), nn.Conv1d(8, 16, 3, padding=1)
        self.mix, self.d0 = nn.Conv1d(32, 32, 1), nn.Conv1d(24, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.e0(x).relu()
        b = self.e1(F.max_pool1d(a, 2)).relu()
        f = torch.fft.rfft(b)
        f = torch.complex(*self.mix(torch.cat([f.real, f.imag], 1)).chunk(2, 1))
        b = torch.fft.irfft(f, n=b.shape[-1])
        return self.d0(torch.cat([a, F.interpolate(b, size=a.shape[-1])], 1))


class Tokens(nn.Module):
    """(batch, tokens, channels); two tokens become one of twice the channels, and back."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.e1, self.e2 = nn.Linear(48, 16), nn.Linear(32, 32), nn.Linear(64, 64)
        self.u1, self.d1 = nn.Linear(64, 64), nn.Linear(64, 32)
        self.u0, self.d0, self.head = nn.Linear(32, 32), nn.Linear(32, 16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        def merge(x: Tensor) -> Tensor:
            return x.reshape(x.shape[0], x.shape[1] // 2, 2 * x.shape[2])

        def split(x: Tensor) -> Tensor:
            return x.reshape(x.shape[0], x.shape[1] * 2, x.shape[2] // 2)

        a = F.gelu(self.first(x))
        b = F.gelu(self.e1(merge(a)))
        c = F.gelu(self.e2(merge(b)))
        b = F.gelu(self.d1(torch.cat([b, split(self.u1(c))], -1)))
        return self.head(F.gelu(self.d0(torch.cat([a, split(self.u0(b))], -1))))


class Thirds(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.e0, self.e1, self.e2 = conv(3, 8), nn.Conv2d(8, 16, 3, 3), nn.Conv2d(16, 32, 3, 3)
        self.u1, self.d1 = nn.ConvTranspose2d(32, 16, 3, 3), conv(32, 16)
        self.u0, self.d0 = nn.ConvTranspose2d(16, 8, 3, 3), conv(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        a = self.e0(x).relu()
        b = self.e1(a).relu()
        c = self.e2(b).relu()
        b = self.d1(torch.cat([b, self.u1(c)], 1)).relu()
        return self.d0(torch.cat([a, self.u0(b)], 1))


class NamesOnly(UNet):
    def forward(self, *, image: Tensor, verbose: bool = False) -> Tensor:
        return self.run(image)


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    ("kind", "example", "reductions"),
    [
        (Spectrum, torch.rand(2, 3, 32, 32), (1, 2, 4)),
        (Amplitude, torch.rand(2, 3, 32, 32), (1, 2, 4)),
        (SpectrumOfSignals, torch.rand(2, 1, 64), (1, 2)),
        (Tokens, torch.rand(2, 64, 48), (1, 2, 4)),
        (Thirds, None, (1, 3, 9)),
        (NamesOnly, None, (1, 2, 4)),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_levels_and_every_cut(kind, example, reductions):
    torch.manual_seed(0)
    structure = read_structure(kind(), example)
    assert [step[0] for step in structure.reductions] == list(reductions)
    assert [cut.keep_levels for cut in structure.cuts] == list(range(1, len(reductions)))


@pytest.mark.slow
def test_a_cut_of_merged_tokens_keeps_their_channels_apart_from_their_number():
    # 32 channels at a level of 32 tokens
    torch.manual_seed(0)
    analysis = ws.analyze(Tokens(), example_inputs=torch.rand(2, 64, 48), response=False)
    assert analysis.structure.inputs.layout == "NLC"
    for proposal in analysis.proposals:
        variant = proposal.build()
        assert verify(variant, export=False, factory=Tokens).passed
        assert variant.module(torch.rand(1, 32, 48)).shape == (1, 32, 5)


class Frames(UNet):
    """A signal becomes a map, perhaps after a layer; only the map has levels."""

    def __init__(self, layer: bool) -> None:
        super().__init__(1)
        self.first = nn.Conv1d(1, 1, 9, padding=4) if layer else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self.first(x).unfold(-1, 64, 64))


def test_levels_of_maps_that_are_made_of_signals_are_those_of_the_maps():
    structure = read_structure(Frames(layer=False), torch.rand(2, 1, 4096))
    part = read_structure(UNet(1), torch.rand(2, 1, 64, 64))
    assert structure.reductions == part.reductions
    assert [stage.layers for stage in structure.stages] == [stage.layers for stage in part.stages]
    assert [cut.keep_levels for cut in structure.cuts] == [1, 2]


def test_maps_that_a_layer_makes_of_signals_are_cut_behind_that_step():
    structure = read_structure(Frames(layer=True), torch.rand(2, 1, 4096))
    assert not structure.cuts
    assert all("pass the part" in refusal.reason for refusal in structure.refusals)


class Classes(UNet):
    """Scores while it trains, classes afterwards."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.run(x)
        return y if self.training else y.argmax(1)


class Scores(Classes):
    def forward(self, x: Tensor) -> Tensor:
        return self.run(x)


def test_a_network_that_returns_classes_alone_has_nothing_to_train():
    structure = read_structure(Classes(), torch.rand(2, 3, 32, 32))
    assert structure.depth == 3
    assert not structure.cuts
    assert all("return the scores" in refusal.reason for refusal in structure.refusals)
    assert len(read_structure(Scores(), torch.rand(2, 3, 32, 32)).cuts) == 2


class Flattened(nn.Module):
    """A film becomes one image, which alone has levels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.unet = nn.Conv3d(3, 3, 3, padding=1), UNet()

    def forward(self, x: Tensor) -> Tensor:
        return self.unet(self.stem(x).mean(2))


def test_an_image_made_of_a_film_is_read():
    film = torch.rand(1, 3, 8, 32, 32)
    structure = read_structure(Flattened(), film)
    assert structure.reductions[1:] == ((1.0, 2.0, 2.0), (1.0, 4.0, 4.0))
    assert len(structure.cuts) == 2
    assert len(read_structure(Flattened(), film, layout="NCTHW").cuts) == 2
    assert len(read_structure(UNet(), film[:, :, 0]).cuts) == 2


class Profile(nn.Module):
    """The mean of an image's columns, or all of its pixels, go through a network of signals."""

    def __init__(self, *, pixels: bool = False) -> None:
        super().__init__()
        self.stem, self.down = nn.Conv2d(3, 3, 3, padding=1), nn.Conv1d(3, 4, 3, 2, 1)
        self.up, self.pixels = nn.ConvTranspose1d(4, 3, 2, 2), pixels

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        return self.up(self.down(y.flatten(2) if self.pixels else y.mean(2)).relu())


def test_a_signal_made_of_all_pixels_is_refused():
    with pytest.raises(StructureError, match="layout= which axis holds frames"):
        read_structure(Profile(pixels=True), torch.rand(1, 3, 8, 32))


def test_a_signal_made_of_columns_has_their_levels():
    structure = read_structure(Profile(), torch.rand(1, 3, 8, 32))
    assert structure.reductions == ((1, 1), (1, 2))
    assert [cut.keep_levels for cut in structure.cuts] == [1]


class FramesAsChannels(UNet):
    """(batch, frames, height, width): every frame alone goes through the network."""

    def __init__(self) -> None:
        super().__init__(1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.run(x.flatten(0, 1)[:, None])
        return y.view(x.shape[0], x.shape[1], 2, *x.shape[2:])


class Mirrored(UNet):
    """The image and its mirror image, side by side in the batch."""

    def forward(self, x: Tensor) -> Tensor:
        y, mirrored = self.run(torch.cat([x, x.flip(-1)])).chunk(2)
        return y + mirrored.flip(-1)


@pytest.mark.sample(1)
@pytest.mark.parametrize("kind", [FramesAsChannels, Mirrored])
def test_images_beside_each_other_are_one_level(kind):
    analysis = ws.analyze(kind(), example_inputs=torch.rand(2, 3, 32, 32), response=False)
    assert analysis.structure.places["x"].level == 0
    assert [p.keep_levels for p in analysis.proposals if p.refusal is None] == [2, 1]


class DepthLast(nn.Module):
    """(batch, depth, height, width, channels)."""

    def __init__(self) -> None:
        super().__init__()
        self.e0, self.e1 = nn.Conv3d(1, 8, 3, padding=1), nn.Conv3d(8, 16, 3, padding=1)
        self.d0 = nn.Conv3d(24, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.e0(x.permute(0, 4, 1, 2, 3)).relu()
        b = self.e1(F.max_pool3d(a, 2)).relu()
        y = self.d0(torch.cat([a, F.interpolate(b, scale_factor=2)], 1))
        return y.permute(0, 2, 3, 4, 1)


def test_volumes_with_their_channels_last_are_guessed():
    structure = read_structure(DepthLast())
    assert structure.inputs.layout == "NDHWC"
    assert structure.depth == 2


class Patches(nn.Module):
    """Merges patches and expands them, as (batch, tokens, channels), for one size as Swin-Unet.

    Args:
        width: Of the patches, of which there are 16 x 16.
        as_maps: Whether they lie as (batch, height, width, channels) between their blocks.
    """

    def __init__(self, width: int, as_maps: bool) -> None:
        super().__init__()
        self.as_maps = as_maps
        self.embed, self.norm = nn.Conv2d(3, width, 4, 4), nn.LayerNorm(width)
        self.block0, self.reduce0 = conv(width, width), nn.Linear(4 * width, 2 * width)
        self.block1, self.reduce1 = conv(2 * width, 2 * width), nn.Linear(8 * width, 4 * width)
        self.deep, self.expand1 = nn.Linear(4 * width, 4 * width), nn.Linear(4 * width, 8 * width)
        self.fuse1, self.expand0 = nn.Linear(4 * width, 2 * width), nn.Linear(2 * width, 4 * width)
        self.fuse0, self.last = nn.Linear(2 * width, width), nn.Linear(width, 16 * width)
        self.out = nn.Conv2d(width, 2, 1)

    def laid_out(self, x: Tensor, side: int) -> Tensor:
        return x if self.as_maps else x.reshape(x.shape[0], side * side, -1)

    def mixed(self, x: Tensor, side: int, block: nn.Module) -> Tensor:
        image = torch.roll(x.view(x.shape[0], side, side, -1), 1, 1).permute(0, 3, 1, 2)
        return x + self.laid_out(block(image).permute(0, 2, 3, 1), side)

    def merged(self, x: Tensor, side: int, reduce: nn.Module) -> Tensor:
        x = x.view(x.shape[0], side, side, -1)
        corners = [x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)]
        return reduce(self.laid_out(torch.cat(corners, -1), side // 2))

    def expanded(self, x: Tensor, side: int, times: int, widen: nn.Module) -> Tensor:
        x = widen(x).view(x.shape[0], side, side, times, times, -1).permute(0, 1, 3, 2, 4, 5)
        x = x.reshape(x.shape[0], times * side, times * side, -1)
        return self.laid_out(x, times * side)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)
        if x.shape[1] != 256:
            raise ValueError("another size")
        a = self.mixed(
            self.laid_out(self.norm(x).view(-1, 16, 16, x.shape[2]), 16), 16, self.block0
        )
        b = self.mixed(self.merged(a, 16, self.reduce0), 8, self.block1)
        c = self.deep(self.merged(b, 8, self.reduce1))
        b = self.fuse1(torch.cat([b, self.expanded(c, 4, 2, self.expand1)], -1))
        a = self.fuse0(torch.cat([a, self.expanded(b, 8, 2, self.expand0)], -1))
        x = self.expanded(a, 16, 4, self.last).view(x.shape[0], 64, 64, -1)
        return self.out(x.permute(0, 3, 1, 2))


@pytest.mark.sample(1)
@pytest.mark.parametrize("width", [pytest.param(12, marks=pytest.mark.slow), 16])
@pytest.mark.parametrize("as_maps", [False, True])
def test_patches_are_merged_whatever_their_width(width: int, as_maps: bool) -> None:
    # as wide as the maps at one level are high, no shape tells where the channels lie
    torch.manual_seed(0)
    example = torch.rand(2, 3, 64, 64)
    analysis = ws.analyze(Patches(width, as_maps), example_inputs=example, response=False)
    assert [step[0] for step in analysis.structure.reductions] == [1, 4, 8, 16]
    stages = {layer: stage.name for stage in analysis.structure.stages for layer in stage.layers}
    assert [stages[layer] for layer in ("block0", "reduce0", "block1", "fuse1", "fuse0")] == [
        "encoder 1",
        "encoder 2",
        "encoder 2",
        "decoder 2",
        "decoder 1",
    ]
    for proposal in analysis.proposals:
        assert proposal.build().module(torch.rand(2, 3, 64, 64)).shape == (2, 2, 64, 64)
    assert len(analysis.proposals) == 3


class ReadsARow(nn.Module):
    """Steers the finest map by a part of a map of half the size on its way up."""

    def __init__(self, part: Callable[[Tensor], Tensor], kernels: bool = False) -> None:
        super().__init__()
        self.part, self.kernels = part, kernels
        self.top, self.middle = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 8, 3, padding=1)
        self.deep, self.up1 = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(16, 8, 3, padding=1)
        self.up0, self.steer = nn.Conv2d(12, 4, 3, padding=1), nn.Conv1d(8, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        top = F.relu(self.top(x))
        middle = F.relu(self.middle(F.max_pool2d(top, 2)))
        deep = F.relu(self.deep(F.max_pool2d(middle, 2)))
        half = F.relu(self.up1(torch.cat([F.interpolate(deep, scale_factor=2.0), middle], 1)))
        row = self.part(half)
        steered = (self.steer(row) if self.kernels else row[:, :4]).mean(-1)[..., None, None]
        return self.up0(torch.cat([F.interpolate(half, scale_factor=2.0), top], 1)) + steered


PARTS = (
    lambda half: half[:, :, 0],
    lambda half: half[..., -1],
    lambda half: half.mean(2),
    lambda half: half.amax(3),
    lambda half: half[:, :, 1].mT.softmax(2).mT,
)


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    ("part", "size"),
    [
        *((part, (32, 48)) for part in PARTS),
        (PARTS[0], (32, 32)),
        (PARTS[0], (64, 96)),
        *(
            pytest.param(part, size, marks=pytest.mark.slow)
            for part in PARTS[1:]
            for size in ((32, 32), (64, 96))
        ),
    ],
)
def test_a_row_of_a_map_is_read_above_the_cut(part: Callable, size: tuple[int, int]) -> None:
    structure = read_structure(ReadsARow(part).eval(), torch.rand(2, 3, *size))
    assert [cut.keep_levels for cut in structure.cuts] == [1, 2]
    for cut in structure.cuts:
        module = build(structure, make_plan(structure, cut, "light", 2)).module
        assert module(torch.rand(1, 3, *size)).shape == (1, 4, *size)


def test_a_row_that_kernels_work_on_at_a_level_that_goes_is_named() -> None:
    structure = read_structure(ReadsARow(lambda half: half[:, :, 0], kernels=True).eval())
    legal = {cut.keep_levels: cut for cut in structure.cuts}
    assert {*legal, *(refusal.keep_levels for refusal in structure.refusals)} == {1, 2}
    for cut in legal.values():
        build(structure, make_plan(structure, cut, "light", 2))


class Modes(nn.Module):
    """Weighs the lowest frequencies, and comes back at another size, as neural operators do."""

    def __init__(self, given: int, made: int, scale: float, *, whole: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(given, made, 4, 3, dtype=torch.cfloat))
        self.bias, self.beside = nn.Parameter(torch.zeros(made, 1, 1)), conv(given, made, 1)
        self.scale, self.whole = scale, whole

    def forward(self, x: Tensor) -> Tensor:
        size = [int(n * self.scale) for n in x.shape[2:]]
        spectrum = torch.fft.fft2(x) if self.whole else torch.fft.rfft2(x)
        low = torch.einsum("bihw,iohw->bohw", spectrum[:, :, :4, :3], self.weight)
        mixed = torch.zeros_like(spectrum)
        mixed[:, :, :4, :3] = low
        back = torch.fft.ifft2(mixed, s=size).real if self.whole else torch.fft.irfft2(mixed, size)
        made = back + self.bias
        return made + F.interpolate(self.beside(x), size, mode="bilinear")


class Operators(nn.Module):
    """Nothing but spectra goes down and comes back up."""

    def __init__(self, *, whole: bool) -> None:
        super().__init__()
        self.lift, self.down = conv(1, 4, 1), Modes(4, 4, 0.5, whole=whole)
        self.deep, self.up = conv(4, 4, 1), Modes(4, 4, 2, whole=whole)
        self.out = conv(8, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        top = F.gelu(self.lift(x))
        deep = F.gelu(self.deep(self.down(top)))
        return self.out(torch.cat([top, self.up(deep)], 1))


@pytest.mark.sample(1)
@pytest.mark.parametrize("whole", [False, True])
def test_a_spectrum_comes_back_at_the_level_of_its_size(whole: bool) -> None:
    structure = read_structure(Operators(whole=whole).eval(), torch.randn(2, 1, 32, 32))
    assert structure.reductions == ((1, 1), (2, 2))
    places = structure.places
    back = [n for n in structure.graph.nodes if n.name.startswith(("fft_ifft2", "fft_irfft2"))]
    assert [places[node.name].level for node in back] == [1, 0]
    assert [cut.keep_levels for cut in structure.cuts] == [1]


class OfPatches(nn.Module):
    """Filters the spectra of patches, which lie along axes of their own or in the batch."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        self.top, self.mixed = conv(1, 4, 3), conv(4, 4, 3)
        self.down, self.deep = nn.MaxPool2d(2), conv(4, 4, 3)
        self.up, self.out = nn.ConvTranspose2d(4, 4, 2, 2), conv(8, 1, 1)
        self.weight = nn.Parameter(torch.ones(4, 1, 1, 8, 5))

    def forward(self, x: Tensor) -> Tensor:
        top = self.mixed(self.filtered(self.top(x)))
        return self.out(torch.cat([top, self.up(self.deep(self.down(top)))], 1))

    def filtered(self, x: Tensor) -> Tensor:
        images, channels, height, width = x.shape
        patches = x.unflatten(3, (width // 8, 8)).unflatten(2, (height // 8, 8))
        patches = patches.transpose(3, 4)  # images, channels, rows, columns, 8, 8
        if self.way == "along axes":
            back = torch.fft.irfft2(torch.fft.rfft2(patches) * self.weight, s=(8, 8))
            return back.transpose(3, 4).reshape(x.shape)
        patches = patches.permute(0, 2, 3, 1, 4, 5).reshape(-1, channels, 8, 8)
        back = torch.fft.irfft2(torch.fft.rfft2(patches) * self.weight[:, 0, 0], s=(8, 8))
        back = back.reshape(images, height // 8, width // 8, channels, 8, 8)
        return back.permute(0, 3, 1, 4, 2, 5).reshape(x.shape)


@pytest.mark.sample(1)
@pytest.mark.parametrize("way", ["along axes", "in the batch"])
def test_spectra_of_patches_are_no_level(way: str) -> None:
    structure = read_structure(OfPatches(way).eval())
    assert structure.reductions == ((1, 1), (2, 2))
    assert structure.sizes == "symbolic"
    assert [cut.keep_levels for cut in structure.cuts] == [1]


class Attention(nn.Module):
    """From the positions of a coarser level to those of a finer one, spelled in three ways."""

    def __init__(self, width: int, spelling: str) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)
        self.spelling = spelling

    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:
        q, k, v = self.q(coarse), self.k(fine), self.v(fine)
        if self.spelling == "one function":
            made = F.scaled_dot_product_attention(q, k, v)
        elif self.spelling == "einsum":
            scores = torch.einsum("bqc,bkc->bqk", q, k).softmax(-1)
            made = torch.einsum("bqk,bkc->bqc", scores, v)
        else:
            made = (q @ k.mT).softmax(-1) @ v
        return self.out(made) + coarse


class PooledQueries(nn.Module):
    """A sequence of vectors that is pooled before each block, whose keys stay as they were."""

    def __init__(self, spelling: str, length: int | None = None) -> None:
        super().__init__()
        self.first, self.up, self.last = nn.Linear(3, 8), nn.Linear(8, 8), nn.Linear(8, 2)
        self.one, self.two = Attention(8, spelling), Attention(8, spelling)
        self.length = length

    @staticmethod
    def pooled(x: Tensor) -> Tensor:
        return F.avg_pool2d(x[:, None], (2, 1))[:, 0]

    def forward(self, x: Tensor) -> Tensor:
        whole = self.first(x.mT)
        if self.length is not None:  # holds the network to one size
            whole = whole + torch.arange(self.length, device=x.device)[:, None] / self.length
        half = self.one(self.pooled(whole), whole)
        quarter = self.two(self.pooled(half), half)
        return self.last(self.up(quarter.repeat_interleave(4, 1)) + whole).mT


@pytest.mark.sample(1)
@pytest.mark.parametrize("length", [None, 64])
@pytest.mark.parametrize("spelling", ["products", "einsum", "one function"])
def test_attention_lies_where_its_queries_do(spelling: str, length: int | None) -> None:
    structure = read_structure(PooledQueries(spelling, length), torch.zeros(1, 3, 64))
    assert structure.reductions == ((1.0,), (2.0,), (4.0,))
    assert [cut.keep_levels for cut in structure.cuts] == [1, 2]
    assert {stage.name: stage.layers for stage in structure.stages} == {
        "encoder 0": ("first", "one.k", "one.v"),
        "encoder 1": ("one.q", "one.out", "two.k", "two.v"),
        "bottleneck": ("two.q", "two.out"),
        "decoder 0": ("up",),
        "head": ("last",),
    }


class Denoiser(nn.Module):
    """Masks the spectrogram of a signal; strides go along its frequencies alone.

    Args:
        own: Whether its transform is a convolution of fixed kernels, and a layer takes samples at
            the end.
        turned: Whether time comes first.
        recurrent: Whether the deepest features go through a recurrence over time, all frequencies
            together; else through a convolution of signals.
    """

    def __init__(self, own: bool, turned: bool, recurrent: bool) -> None:
        super().__init__()
        self.own, self.turned, self.recurrent = own, turned, recurrent
        angles = torch.arange(33)[:, None] * torch.arange(64) * 2 * torch.pi / 64
        waves = torch.cat([angles.cos(), -angles.sin()]) * torch.hann_window(64)
        self.window, self.waves = nn.Buffer(torch.hann_window(64)), nn.Buffer(waves[:, None])
        steps = {"stride": (1, 2) if turned else (2, 1), "padding": 1}
        steps["kernel_size"] = (3, 4) if turned else (4, 3)
        self.norm = nn.BatchNorm2d(2)
        self.e1, self.e2 = nn.Conv2d(2, 8, **steps), nn.Conv2d(8, 8, **steps)
        self.mid = nn.GRU(64, 64, batch_first=True) if recurrent else nn.Conv1d(64, 64, 3, 1, 1)
        self.d1, self.d0 = (
            nn.ConvTranspose2d(16, 8, **steps),
            nn.ConvTranspose2d(16, 2, **steps),
        )
        self.last = nn.Conv1d(1, 1, 5, padding=2) if own else nn.Identity()

    def deepest(self, x: Tensor) -> Tensor:
        signals = x.flatten(1, 2)
        if self.recurrent:
            return self.mid(signals.transpose(1, 2))[0].transpose(1, 2).reshape(x.shape)
        return self.mid(signals).reshape(x.shape)

    def forward(self, x: Tensor) -> Tensor:
        if self.own:
            spectra = F.conv1d(F.pad(x[:, None], (32, 32)), self.waves, stride=16)
            parts = torch.stack(spectra.chunk(2, 1), 1)
        else:
            spectra = torch.stft(x, 64, 16, window=self.window, return_complex=True)
            parts = torch.stack([spectra.real, spectra.imag], 1)
        turn = (lambda maps: maps.transpose(2, 3)) if self.turned else (lambda maps: maps)
        e1 = F.elu(self.e1(self.norm(turn(parts[:, :, 1:]))))
        e2 = F.elu(self.e2(e1))
        d1 = F.elu(self.d1(torch.cat([turn(self.deepest(turn(e2))), e2], 1)))
        mask = turn(self.d0(torch.cat([d1, e1], 1))).tanh()
        parts = parts * F.pad(mask, (0, 0, 1, 0))
        if self.own:
            made = F.conv_transpose1d(parts.flatten(1, 2), self.waves, stride=16)[:, :, 32:]
            return self.last(made[:, :, : x.shape[-1]] / 32)[:, 0]
        made = torch.complex(*parts.unbind(1))
        return torch.istft(made, 64, 16, window=self.window, length=x.shape[-1])


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("turned", [False, True])
def test_levels_of_a_spectrogram_are_counted_along_its_frequencies(own: bool, turned: bool) -> None:
    torch.manual_seed(0)
    model = Denoiser(own, turned, recurrent=own == turned).eval()
    structure = read_structure(model, torch.randn(2, 1024))
    steps = [(1.0, 1.0), (2.0, 1.0), (4.0, 1.0)]
    assert list(structure.reductions) == [step[::-1] if turned else step for step in steps]
    stages = {stage.name: stage.layers for stage in structure.stages}
    assert stages.pop("head", ("last",)) == ("last",)
    assert stages == {
        "encoder 0": ("norm",),
        "encoder 1": ("e1",),
        "bottleneck": ("e2", "mid"),
        "decoder 1": ("d1",),
        "decoder 0": ("d0",),
    }
    assert [cut.keep_levels for cut in structure.cuts] == [1, 2]
    for cut in structure.cuts:
        module = build(structure, make_plan(structure, cut, "light", 2)).module.eval()
        for samples in (torch.randn(1, 2048), torch.randn(3, 1600)):
            assert module(samples).shape == samples.shape


class Turned(nn.Module):
    """Works on a spectrogram with its times first, and on its bins by linear layers.

    Args:
        bands: In how many parts the bins are taken apart, which become channels.
    """

    def __init__(self, bands: int) -> None:
        super().__init__()
        self.bands, bins = bands, 32 // bands
        self.top = nn.Conv2d(bands, 4, 3, padding=1)
        self.norm = nn.InstanceNorm2d(4, affine=True)
        self.less, self.more = nn.Linear(bins, bins // 4), nn.Linear(bins // 4, bins)
        self.down, self.mid = nn.Conv2d(4, 8, 2, 2), nn.Conv2d(8, 8, 3, padding=1)
        self.up, self.last = nn.ConvTranspose2d(8, 4, 2, 2), nn.Conv2d(8, bands, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        b, c, f, t = x.shape
        parts = x.reshape(b, c, self.bands, f // self.bands, t).reshape(b, -1, f // self.bands, t)
        top = self.top(parts).relu().transpose(-1, -2)
        top = top + self.more(self.norm(self.less(top)).relu())
        deep = self.mid(self.down(top).relu()).relu()
        made = self.last(torch.cat([self.up(deep), top], 1)).transpose(-1, -2)
        return made.reshape(b, c, f, t)


@pytest.mark.parametrize("bands", [1, 2])
def test_a_turned_spectrogram_has_the_sides_of_the_image_and_free_times(bands: int) -> None:
    torch.manual_seed(0)
    model = Turned(bands).eval()
    structure = read_structure(model, torch.randn(2, 1, 32, 48))
    steps = [(1.0, 1.0), (2.0, 2.0)] if bands == 1 else [(1.0, 1.0), (2.0, 1.0), (4.0, 2.0)]
    assert list(structure.reductions) == steps
    assert structure.notes == ()
    deepest = next(stage for stage in structure.stages if stage.role == "bottleneck")
    assert deepest.layers == ("down", "mid")
    cut = structure.cuts[-1]
    module = build(structure, make_plan(structure, cut, "light", 2)).module.eval()
    assert module(torch.randn(1, 1, 32, 80)).shape == (1, 1, 32, 80)


def test_a_turned_spectrogram_of_one_size_has_the_sides_of_the_image() -> None:
    class OfOneSize(Turned):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x + torch.zeros(int(x.shape[-1])))

    structure = read_structure(OfOneSize(1).eval(), torch.randn(2, 1, 32, 48))
    assert structure.reductions == ((1.0, 1.0), (2.0, 2.0))


class OverlappingChunks(nn.Module):
    """Chunks of features, half over each other, along which and across which layers work."""

    def __init__(self) -> None:
        super().__init__()
        self.enc, self.dec = nn.Conv1d(1, 8, 16, 8), nn.ConvTranspose1d(8, 1, 16, 8)
        self.along, self.across = nn.Linear(8, 8), nn.Linear(8, 8)
        self.apart, self.end = nn.Conv2d(8, 16, 1), nn.Conv1d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        wide = self.enc(x.unsqueeze(1)).relu()
        b, n, length = wide.shape
        gap = 8 - (4 + length % 8) % 8
        padded = F.pad(wide, (4, gap + 4))
        halves = [padded[:, :, :-4], padded[:, :, 4:]]
        chunks = torch.cat([h.contiguous().view(b, n, -1, 8) for h in halves], 3).view(b, n, -1, 8)
        count = chunks.shape[2]
        lines = self.along(chunks.permute(0, 2, 3, 1).reshape(b * count, 8, n))
        lines = lines.reshape(b, count, 8, n).transpose(1, 2).reshape(b * 8, count, n)
        made = self.across(lines).reshape(b, 8, count, n).permute(0, 3, 1, 2)
        made = (
            self.apart(made).reshape(b * 2, n, 8, count).transpose(2, 3).reshape(b * 2, n, -1, 16)
        )
        first = made[:, :, :, :8].reshape(b * 2, n, -1)[:, :, 4:]
        second = made[:, :, :, 8:].reshape(b * 2, n, -1)[:, :, :-4]
        masks = self.end((first + second)[:, :, :-gap]).relu().view(b, 2, n, -1)
        heard = [self.dec(masks[:, i] * wide) for i in range(2)]
        return torch.cat(heard, 1)


def test_chunks_that_lie_over_each_other_by_half_make_no_level() -> None:
    structure = read_structure(OverlappingChunks().eval(), torch.randn(2, 808), layout="NL")
    assert structure.reductions == ((1.0,), (8.0,))
    stages = {stage.name: stage.layers for stage in structure.stages}
    assert stages["bottleneck"] == ("enc", "along", "across", "apart", "end")
    assert [cut.keep_levels for cut in structure.cuts] == [1]


class LongFrames(nn.Module):
    """Four levels along frames of 1024 samples each, with some more before and behind."""

    def __init__(self) -> None:
        super().__init__()
        steps = {"kernel_size": (1, 2), "stride": (1, 2)}
        self.top, self.out = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 1, 1)
        self.down = nn.ModuleList(nn.Conv2d(8, 8, **steps) for _ in range(3))
        self.up = nn.ModuleList(nn.ConvTranspose2d(8, 8, **steps) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        frames = x.unfold(-1, 1024, 1024)[..., :16].transpose(1, 2).unsqueeze(1)
        y, skips = self.top(F.pad(frames, (4, 4))).relu(), []
        for down in self.down:
            skips.append(y)
            y = down(y).relu()
        for up in self.up:
            y = up(y) * skips.pop()
        return self.out(y)[..., 4:-4]


def test_a_spectrogram_of_few_long_frames_is_pooled_by_its_own_steps() -> None:
    torch.manual_seed(0)
    model = LongFrames().eval()
    structure = read_structure(model, torch.randn(2, 16 * 1024), layout="NL")
    assert structure.reductions == ((1.0, 1.0), (1.0, 2.0), (1.0, 4.0), (1.0, 8.0))
    for cut in structure.cuts:
        module = build(structure, make_plan(structure, cut, "light", 2)).module.eval()
        for frames in (8, 16, 32):
            assert module(torch.randn(1, 1024 * frames)).shape == (1, 1, 16, frames)
