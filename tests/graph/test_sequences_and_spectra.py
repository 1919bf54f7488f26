"""Complex images, sequences whose features join others first, states in buffers."""

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from networks import Small
from torch import Tensor, nn

import weightscope as ws
from weightscope.errors import InputError, StructureError
from weightscope.graph import read_structure, rebuild
from weightscope.graph.levels import Levels
from weightscope.graph.notes import finer_note
from weightscope.truncation import verify
from weightscope.truncation.building import build
from weightscope.truncation.plan import find_cut, make_plan


class Reconstruction(nn.Module):
    """Samples of a Fourier transform (batch, height, width), and where they are taken."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Small(2)

    def forward(self, samples: Tensor, mask: Tensor) -> Tensor:
        image = torch.view_as_real(torch.fft.ifft2(samples)).permute(0, 3, 1, 2)
        image = (image + self.net(image)).permute(0, 2, 3, 1).contiguous()
        found = torch.fft.fft2(torch.view_as_complex(image))
        return torch.fft.ifft2(torch.where(mask > 0, samples, found)).abs()


def sampled(images: int, *sizes: int) -> tuple[Tensor, Tensor]:
    return torch.randn(images, *sizes, dtype=torch.complex64), torch.rand(images, *sizes) - 0.5


def test_complex_images_without_a_channel_axis_are_images() -> None:
    torch.manual_seed(0)
    model = Reconstruction().eval()
    structure = read_structure(model, sampled(1, 32, 32))
    assert structure.inputs.layout == "NHW"
    assert structure.reductions == ((1, 1), (2, 2))
    assert [cut.keep_levels for cut in structure.cuts] == [1]
    call = sampled(3, 48, 64)
    torch.testing.assert_close(rebuild(structure)(*call), model(*call))


def test_of_complex_images_no_response_is_claimed() -> None:
    text = str(ws.analyze(Reconstruction(), example_inputs=sampled(1, 32, 32)))
    assert "not measured: no synthetic images are made of complex numbers" in " ".join(text.split())
    assert "died" not in text


class OneImage(Small):
    """Takes one image (channels, height, width), or a list of them."""

    def forward(self, x: Tensor | list[Tensor]) -> Tensor:
        return super().forward(torch.stack(x) if isinstance(x, list) else x[None])


@pytest.mark.parametrize("listed", [False, True])
def test_an_image_without_a_batch_is_an_image(listed: bool) -> None:
    def given(*sizes: int) -> Any:
        return [torch.rand(3, *sizes), torch.rand(3, *sizes)] if listed else torch.rand(3, *sizes)

    model = OneImage(3).eval()
    structure = read_structure(model, (given(16, 16),))
    assert structure.reductions == ((1, 1), (2, 2))
    assert {"top", "out"}.isdisjoint(*(s.layers for s in structure.stages if s.level == 1))
    call = given(24, 32)
    torch.testing.assert_close(rebuild(structure)(call), model(call))


class Series(nn.Module):
    """A sequence (batch, length, features), whose mask joins its features first."""

    def __init__(self) -> None:
        super().__init__()
        self.top, self.merge, self.deep = nn.Linear(10, 8), nn.Linear(16, 16), nn.Linear(16, 16)
        self.up, self.out = nn.Linear(8, 8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        images, length, _ = x.shape
        top = self.top(torch.cat([x, torch.ones_like(x)], -1)).relu()
        deep = self.deep(self.merge(top.reshape(images, length // 2, 16)).relu())
        return self.out(self.up(deep.reshape(images, length, 8)).relu() + top)


def test_a_sequence_whose_features_join_others_first_has_them_last() -> None:
    model = Series().eval()
    structure = read_structure(model, torch.randn(1, 32, 5))
    assert structure.inputs.layout == "NLC"
    assert structure.reductions == ((1,), (2,))
    call = torch.randn(2, 64, 5)
    torch.testing.assert_close(rebuild(structure)(call), model(call))


def test_a_layout_by_which_a_layer_mixes_the_positions_is_refused_with_the_remedy() -> None:
    with pytest.raises(StructureError, match="say them with layout="):
        read_structure(Series().eval(), torch.randn(1, 32, 5), layout="NCL")


def test_a_level_finer_than_the_image_that_nothing_enlarges_to_is_told() -> None:
    levels = Levels({}, ((0.5,), (1.0,)), ((64,), (32,)), frozenset(), False, {})
    assert "finer than the image (reduction 0.5)" in finer_note(levels)
    assert finer_note(replace(levels, reductions=((1.0,), (2.0,)))) == ""


@pytest.mark.sample(1)
@pytest.mark.parametrize("how", ["shuffled", "repeated", "expanded"])
def test_a_level_finer_than_the_image_that_is_enlarged_to_is_not_told(how: str) -> None:
    class Enlarging(Small):
        def forward(self, x: Tensor) -> Tensor:
            made = super().forward(x)
            if how == "shuffled":
                return F.pixel_shuffle(made, 2)
            if how == "repeated":
                return made.repeat_interleave(2, 2).repeat_interleave(2, 3)
            wide = made[:, :, :, None, :, None].expand(-1, -1, -1, 2, -1, 2)
            return wide.flatten(2, 3).flatten(3, 4)

    structure = read_structure(Enlarging(4).eval(), torch.randn(1, 4, 16, 16))
    assert structure.notes == ()


class OfAnyChannels(nn.Module):
    """Reads the mean of as many channels as there are."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Small()

    def forward(self, x: Tensor) -> Tensor:
        return x * self.net(x.mean(1, keepdim=True)) / x.shape[1]


def test_other_channels_are_refused_by_name() -> None:
    structure = read_structure(OfAnyChannels(), torch.randn(1, 3, 16, 16))
    assert "read with 3 channels only, though the forward takes others" in structure.notes[0]
    graph = rebuild(structure)
    with pytest.raises(InputError, match="x has 5 channels, and this network was read with 3"):
        graph(torch.randn(1, 5, 16, 16))


class EachAlone(nn.Module):
    """Works on each channel as on an image of its own, after a fixed kernel on each, perhaps."""

    def __init__(self, last: bool = False, together: bool = False) -> None:
        super().__init__()
        self.net, self.last, self.together = Small(3 if together else 1), last, together
        self.register_buffer("kernel", torch.tensor([[[[0.0, -1, 0], [-1, 5, -1], [0, -1, 0]]]]))

    def forward(self, x: Tensor) -> Tensor:
        images = x.movedim(-1, 1) if self.last else x
        alone = F.conv2d(images.flatten(0, 1).unsqueeze(1), self.kernel, padding=1)
        if self.together:
            return self.net(alone.reshape(images.shape))
        made = self.net(alone).reshape(images.shape)
        return made.movedim(1, -1) if self.last else made


@pytest.mark.parametrize(("last", "layout"), [(False, "NTHW"), (True, "NHWT")])
def test_channels_that_are_images_of_their_own_are_free(last: bool, layout: str) -> None:
    model = EachAlone(last).eval()
    structure = read_structure(
        model, torch.randn(2, 16, 32, 3) if last else torch.randn(2, 3, 16, 32)
    )
    assert structure.inputs.layout == layout
    assert structure.notes == ()
    x = torch.randn(1, 32, 16, 5) if last else torch.randn(1, 5, 32, 16)
    torch.testing.assert_close(rebuild(structure)(x), model(x))


def test_channels_that_a_fixed_kernel_filters_one_by_one_stay_channels() -> None:
    structure = read_structure(EachAlone(together=True), torch.randn(2, 3, 16, 32))
    assert structure.inputs.layout == ""
    assert [cut.keep_levels for cut in structure.cuts] == [1]


class Remembering(Small):
    """Adds what it saw before, in a buffer that each call sets anew."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("before", torch.zeros(1, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.before
        self.before = 0.9 * self.before + 0.1 * x.mean((0, 2, 3), keepdim=True).detach()
        return super().forward(x)


def test_a_state_in_a_buffer_is_no_fault_of_the_surgery() -> None:
    model = Remembering().eval()
    variant = ws.analyze(model, example_inputs=torch.rand(1, 1, 32, 32)).proposals[0].build()
    assert verify(variant, export=False).failures == ()
    assert float(model.before) == 0


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.wide, self.narrow = nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.narrow(self.wide(x).relu())


class Filling(nn.Module):
    """Comes back up by learned tokens for the places that are missing, which it then works on."""

    def __init__(self, deep: int) -> None:
        super().__init__()
        self.top, self.merge = nn.Linear(5, 8), nn.Linear(32, 16)
        self.deep = nn.Sequential(*(Residual() for _ in range(deep)))
        self.missing, self.fill = nn.Parameter(torch.zeros(1, 1, 3, 16)), Residual()

    def forward(self, x: Tensor) -> Tensor:
        images, length, _ = x.shape
        deep = self.deep(self.merge(self.top(x).relu().reshape(images, length // 4, 32)))
        missing = self.missing.expand(images, length // 4, -1, -1)
        return self.fill(torch.cat([deep[:, :, None], missing], 2).flatten(1, 2))[..., :5]


@pytest.mark.sample(1)
@pytest.mark.parametrize("deep", [0, 1])
def test_learned_tokens_bring_positions_back(deep: int) -> None:
    model = Filling(deep).eval()
    structure = read_structure(model, torch.randn(1, 32, 5))
    assert structure.reductions == ((1,), (4,))
    above = {layer for stage in structure.stages if stage.level == 0 for layer in stage.layers}
    assert {"top", "fill.wide", "fill.narrow"} <= above
    assert "merge" not in above
    call = torch.randn(2, 48, 5)
    torch.testing.assert_close(rebuild(structure)(call), model(call))


class BesideASignal(nn.Module):
    """A signal (B, C, L), and vectors (B, N, F) of which layers say what is asked of it."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.top, self.deep = nn.Conv1d(2, 8, 3, 1, 1), nn.Conv1d(8, 8, 3, 2, 1)
        self.up, self.of_vectors = nn.Conv1d(16, 8, 3, 1, 1), nn.Linear(5, 8)
        self.weight = nn.Parameter(torch.randn(5, 8))
        self.attention = nn.MultiheadAttention(8, 2, kdim=5, vdim=5, batch_first=True)

    def forward(self, signal: Tensor, vectors: Tensor) -> Tensor:
        top = self.top(signal).relu()
        deep = self.deep(top).relu()
        if self.how == "attention":
            asked = deep.transpose(1, 2)
            deep = (asked + self.attention(asked, vectors, vectors)[0]).transpose(1, 2)
        made = self.up(torch.cat([F.interpolate(deep, size=top.shape[2:]), top], 1))
        if self.how == "attention":
            return made
        told = vectors @ self.weight if self.how == "weight" else self.of_vectors(vectors)
        return told @ made


@pytest.mark.sample(1)
@pytest.mark.parametrize("how", ["linear", "weight", "attention"])
def test_vectors_beside_a_signal_are_no_signal(how: str) -> None:
    model = BesideASignal(how).eval()
    structure = read_structure(model, (torch.randn(1, 2, 64), torch.randn(1, 4, 5)))
    assert structure.reductions == ((1.0,), (2.0,))
    assert structure.stage_of["deep"].name == "bottleneck"
    variant = build(structure, make_plan(structure, find_cut(structure, 1), width=4))
    given = torch.randn(2, 2, 96), torch.randn(2, 7, 5)
    assert variant.module.eval()(*given).shape == model(*given).shape
    assert verify(variant, sizes=[given], export=False).failures == ()


class InFourier(nn.Module):
    """Works on images whose complex numbers are two channels, and returns their spectrum."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Small(2)

    def forward(self, spectrum: Tensor) -> Tensor:
        x = torch.view_as_real(torch.fft.ifft2(torch.view_as_complex(spectrum.contiguous())))
        batch, coils, height, width, _ = x.shape
        made = self.net(x.permute(0, 4, 1, 2, 3).reshape(batch, 2 * coils, height, width))
        made = made.view(batch, 2, coils, height, width).permute(0, 2, 3, 4, 1).contiguous()
        return torch.view_as_real(torch.fft.fft2(torch.view_as_complex(made.contiguous())))


def test_one_image_alone_is_laid_in_order_as_several_are() -> None:
    torch.manual_seed(0)
    model = InFourier().eval()
    structure = read_structure(model, torch.rand(2, 1, 32, 48, 2))
    alone = torch.rand(1, 1, 64, 32, 2)
    torch.testing.assert_close(rebuild(structure)(alone), model(alone))


class Forecast(nn.Module):
    """Halves what is known twice; what is to come, of another length, asks the deepest of it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.later = nn.Conv1d(2, 8, 3, padding=1), nn.Conv1d(2, 8, 3, padding=1)
        self.down, self.deep = (nn.Conv1d(8, 8, 3, padding=1) for _ in "ab")
        self.keys, self.out = nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, known: Tensor, later: Tensor) -> Tensor:
        x = F.max_pool1d(self.first(known.transpose(1, 2)).relu(), 3, 2, 1)
        x = F.max_pool1d(self.down(x).relu(), 3, 2, 1)
        keys = self.keys(self.deep(x).relu().transpose(1, 2))
        asked = self.later(later.transpose(1, 2)).relu().transpose(1, 2)
        seen = (asked @ keys.transpose(1, 2)).softmax(-1) @ keys
        return self.out(asked + seen)


@pytest.mark.parametrize("length", [72, 60, 96])
def test_what_is_to_come_is_no_level_whatever_its_length(length: int) -> None:
    example = torch.rand(2, 96, 2), torch.rand(2, length, 2)
    structure = read_structure(Forecast().eval(), example)
    assert structure.reductions == ((1,), (2,), (4,))
    assert structure.stage_of["later"].name == "skip 0"
    assert [cut.keep_levels for cut in structure.cuts] == [1, 2]


class Hybrid(nn.Module):
    """A signal on two ways: strided convolutions, and the frames of its spectra."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.deep = nn.Conv1d(1, 4, 8, 4, 2), nn.Conv1d(4, 8, 8, 4, 2)
        self.bins, self.back = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.up, self.out = nn.ConvTranspose1d(8, 4, 8, 4, 2), nn.ConvTranspose1d(4, 2, 8, 4, 2)

    def forward(self, x: Tensor) -> Tensor:
        window = torch.hann_window(32).to(x)
        spectra = torch.stft(x[:, 0], 32, 16, window=window, return_complex=True)
        maps = torch.view_as_real(spectra).permute(0, 3, 1, 2)
        maps = self.back(self.bins(maps).relu())
        parts = maps.view(-1, 2, *maps.shape[-2:]).permute(0, 2, 3, 1).contiguous()
        heard = torch.istft(torch.view_as_complex(parts), 32, 16, window=window, length=x.shape[-1])
        top = self.down(x).relu()
        made = self.out(top + self.up(self.deep(top).relu()).relu())
        sources = len(x), 2, 1, x.shape[-1]
        return heard.view(sources) + made.view(sources)


def test_a_signal_that_is_made_of_spectra_again_is_one() -> None:
    example = torch.randn(2, 1, 512)
    model = Hybrid().eval()
    structure = read_structure(model, example)
    assert structure.reductions == ((1,), (4,), (16,))
    assert structure.stage_of["out"].name in ("decoder 0", "head")
    assert structure.stage_of["bins"].name == "bottleneck"
    assert [cut.keep_levels for cut in structure.cuts] == [1, 2]
    variant = build(structure, make_plan(structure, find_cut(structure, 2), width=4))
    assert variant.module(torch.randn(1, 1, 768)).shape == (1, 2, 1, 768)
    assert not {"bins.weight", "deep.weight"} & {*variant.module.state_dict()}
