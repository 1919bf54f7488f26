"""Networks that are in no list: what they are was written down before they were read."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from networks import places
from torch import Tensor, nn

from weightscope.errors import ForwardError, InputError, StructureError, TruncationError
from weightscope.graph import Structure, read_structure, rebuild
from weightscope.graph.vectors import comes_back_as_vectors
from weightscope.truncation import verify
from weightscope.truncation.building import build
from weightscope.truncation.plan import make_plan


def block(in_channels: int, channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(in_channels, channels, 3, padding=1), nn.ReLU())


def legal(structure: Structure) -> list[int]:
    return [cut.keep_levels for cut in structure.cuts]


def check_same(model: nn.Module, structure: Structure, *calls: tuple[Tensor, ...]) -> None:
    graph = rebuild(structure)
    for call in calls:
        expected, got = model(*call), graph(*call)
        assert type(got) is type(expected)
        torch.testing.assert_close(got, expected, rtol=0, atol=0)


class SeveralInputs(nn.Module):
    """An image, a second image of half the size that joins at level 1, and a vector that scales."""

    def __init__(self) -> None:
        super().__init__()
        self.top = block(3, 4)
        self.middle = block(4, 6)
        self.side = block(1, 6)
        self.bottom = block(12, 8)
        self.scale = nn.Linear(5, 8)
        self.up1 = block(8 + 12, 6)
        self.up0 = block(6 + 4, 4)
        self.out = nn.Conv2d(4, 2, 1)

    def forward(self, image: Tensor, thumbnail: Tensor, metadata: Tensor) -> Tensor:
        top = self.top(image)
        middle = torch.cat([self.middle(F.max_pool2d(top, 2)), self.side(thumbnail)], dim=1)
        x = self.bottom(F.max_pool2d(middle, 2))
        x = x * self.scale(metadata)[:, :, None, None]
        x = self.up1(torch.cat([F.interpolate(x, scale_factor=2.0), middle], dim=1))
        x = self.up0(torch.cat([F.interpolate(x, scale_factor=2.0), top], dim=1))
        return self.out(x)


def test_several_inputs() -> None:
    model = SeveralInputs().eval()
    example = (torch.randn(2, 3, 32, 32), torch.randn(2, 1, 16, 16), torch.randn(2, 5))
    structure = read_structure(model, example)
    assert structure.reductions == ((1.0, 1.0), (2.0, 2.0), (4.0, 4.0))
    found = places(structure)
    # the vector's layer works on no resolution; it acts on the deepest level only
    assert found.pop("scale") in ("bottleneck", "encoder 0")
    assert found == {
        "top.0": "encoder 0",
        "middle.0": "encoder 1",
        "side.0": "encoder 1",
        "bottom.0": "bottleneck",
        "up1.0": "decoder 1",
        "up0.0": "decoder 0",
        "out": "head",
    }
    assert legal(structure) == [1, 2]
    other = (torch.randn(3, 3, 48, 64), torch.randn(3, 1, 24, 32), torch.randn(3, 5))
    check_same(model, structure, example, other)


class OfSizesThatMatch(SeveralInputs):
    """Says at once that its images do not belong together, so that a search soon ends."""

    def forward(self, image: Tensor, thumbnail: Tensor, metadata: Tensor) -> Tensor:
        assert image.shape[2] == 2 * thumbnail.shape[2]
        return super().forward(image, thumbnail, metadata)


@pytest.mark.slow
def test_several_inputs_are_named_when_they_cannot_be_guessed() -> None:
    with pytest.raises(ForwardError, match=r"thumbnail.*metadata"):
        read_structure(OfSizesThatMatch())


class DictOutput(nn.Module):
    """Returns a mask at full resolution, one at half of it, and what the first layer made."""

    def __init__(self) -> None:
        super().__init__()
        self.top = block(1, 4)
        self.middle = block(4, 6)
        self.bottom = block(6, 8)
        self.up1 = nn.ConvTranspose2d(8, 6, 2, stride=2)
        self.join1 = block(12, 6)
        self.up0 = nn.ConvTranspose2d(6, 4, 2, stride=2)
        self.join0 = block(8, 4)
        self.mask = nn.Conv2d(4, 2, 1)
        self.coarse = nn.Conv2d(6, 2, 1)

    def forward(self, image: Tensor) -> dict[str, Tensor | list[Tensor]]:
        top = self.top(image)
        middle = self.middle(F.max_pool2d(top, 2))
        x = self.bottom(F.max_pool2d(middle, 2))
        half = self.join1(torch.cat([self.up1(x), middle], dim=1))
        full = self.join0(torch.cat([self.up0(half), top], dim=1))
        return {"mask": self.mask(full), "auxiliary": [self.coarse(half), top]}


def test_dict_output() -> None:
    model = DictOutput().eval()
    structure = read_structure(model)
    assert places(structure) == {
        "top.0": "encoder 0",
        "middle.0": "encoder 1",
        "bottom.0": "bottleneck",
        "up1": "decoder 1",
        "join1.0": "decoder 1",
        "up0": "decoder 0",
        "join0.0": "decoder 0",
        "mask": "head",
        "coarse": "head",
    }
    assert legal(structure) == [1, 2]
    check_same(model, structure, (torch.randn(2, 1, 32, 32),), (torch.randn(3, 1, 48, 64),))


class TwoDecoders(nn.Module):
    """One encoder; one decoder comes back to full resolution, the other stops at a half."""

    def __init__(self) -> None:
        super().__init__()
        self.enc0 = block(3, 4)
        self.enc1 = block(4, 6)
        self.enc2 = block(6, 8)
        self.enc3 = block(8, 10)
        self.segment2 = block(18, 8)
        self.segment1 = block(14, 6)
        self.segment0 = block(10, 4)
        self.segment_out = nn.Conv2d(4, 2, 1)
        self.depth2 = block(18, 8)
        self.depth1 = block(14, 6)
        self.depth_out = nn.Conv2d(6, 1, 3, padding=1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        skips = []
        for stage in (self.enc0, self.enc1, self.enc2):
            x = stage(x)
            skips.append(x)
            x = F.avg_pool2d(x, 2)
        x = self.enc3(x)

        def up(y: Tensor, skip: Tensor) -> Tensor:
            return torch.cat([F.interpolate(y, skip.shape[-2:]), skip], dim=1)

        segment = depth = x
        for level, stage in ((2, self.segment2), (1, self.segment1), (0, self.segment0)):
            segment = stage(up(segment, skips[level]))
        for level, stage in ((2, self.depth2), (1, self.depth1)):
            depth = stage(up(depth, skips[level]))
        return self.segment_out(segment), self.depth_out(depth)


def test_two_decoders() -> None:
    model = TwoDecoders().eval()
    structure = read_structure(model)
    assert places(structure) == {
        "enc0.0": "encoder 0",
        "enc1.0": "encoder 1",
        "enc2.0": "encoder 2",
        "enc3.0": "bottleneck",
        "segment2.0": "decoder 2",
        "segment1.0": "decoder 1",
        "segment0.0": "decoder 0",
        "depth2.0": "decoder 2",
        "depth1.0": "decoder 1",
        "segment_out": "head",
        "depth_out": "head",
    }
    # with one level kept the second decoder goes, its output with it; the first still predicts
    assert legal(structure) == [1, 2, 3]
    check_same(model, structure, (torch.randn(2, 3, 32, 32),), (torch.randn(1, 3, 40, 56),))


class SharedEncoder(nn.Module):
    """Two dates through one encoder; the decoder sees the differences (change detection)."""

    def __init__(self) -> None:
        super().__init__()
        self.enc0 = block(3, 4)
        self.enc1 = block(4, 6)
        self.enc2 = block(6, 8)
        self.dec1 = block(14, 6)
        self.dec0 = block(10, 4)
        self.out = nn.Conv2d(4, 1, 1)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        zero = self.enc0(x)
        one = self.enc1(F.max_pool2d(zero, 2))
        return zero, one, self.enc2(F.max_pool2d(one, 2))

    def forward(self, before: Tensor, after: Tensor) -> Tensor:
        zero, one, two = (
            (a - b).abs() for a, b in zip(self.encode(before), self.encode(after), strict=True)
        )
        x = self.dec1(torch.cat([F.interpolate(two, scale_factor=2.0), one], dim=1))
        x = self.dec0(torch.cat([F.interpolate(x, scale_factor=2.0), zero], dim=1))
        return self.out(x)


class Recurrent(nn.Module):
    """One block for all levels, one layer for all of the decoder, and a condition for all."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.deep, self.up = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(8, 4, 3, padding=1)
        self.head, self.time = nn.Conv2d(4, 1, 1), nn.Linear(1, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        bias = self.time(x.new_ones(1))[:, None, None]
        a = (self.block(self.stem(x)) + bias).relu()
        b = (self.block(F.max_pool2d(a, 2)) + bias).relu()
        y = self.deep(self.block(F.max_pool2d(b, 2))).relu() + bias
        for skip in (b, a):
            y = self.up(torch.cat([F.interpolate(y, size=skip.shape[2:]), skip], 1)).relu()
        return self.head(y)


def test_modules_of_several_levels_are_named() -> None:
    structure = read_structure(Recurrent(), torch.randn(1, 1, 32, 32))
    (note,) = structure.notes
    assert note.startswith("block, up are used at several levels")
    assert not any("several levels" in n for n in read_structure(SharedEncoder().eval()).notes)


def test_shared_encoder() -> None:
    model = SharedEncoder().eval()
    structure = read_structure(model)  # a second required image is guessed to be like the first
    assert places(structure) == {
        "enc0.0": "encoder 0",
        "enc1.0": "encoder 1",
        "enc2.0": "bottleneck",
        "dec1.0": "decoder 1",
        "dec0.0": "decoder 0",
        "out": "head",
    }
    assert legal(structure) == [1, 2]
    deepest = structure.cuts[-1]
    assert len(deepest.entries) == 2  # the pooled level 1 of either date, or level 1 itself
    small, large = torch.randn(2, 2, 3, 32, 32), torch.randn(2, 3, 3, 24, 40)
    check_same(model, structure, tuple(small), tuple(large))


class RecurrentBottleneck(nn.Module):
    """Reads the deepest map row by row with a bidirectional GRU."""

    def __init__(self) -> None:
        super().__init__()
        self.enc0 = block(1, 4)
        self.enc1 = block(4, 6)
        self.enc2 = block(6, 8)
        self.gru = nn.GRU(8, 4, batch_first=True, bidirectional=True)
        self.dec1 = block(14, 6)
        self.dec0 = block(10, 4)
        self.out = nn.Conv2d(4, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        zero = self.enc0(x)
        one = self.enc1(F.max_pool2d(zero, 2))
        two = self.enc2(F.max_pool2d(one, 2))
        batch, channels, height, width = two.shape
        read, _ = self.gru(two.flatten(2).transpose(1, 2))
        two = read.transpose(1, 2).reshape(batch, channels, height, width)
        x = self.dec1(torch.cat([F.interpolate(two, scale_factor=2.0), one], dim=1))
        x = self.dec0(torch.cat([F.interpolate(x, scale_factor=2.0), zero], dim=1))
        return self.out(x)


def test_recurrent_bottleneck() -> None:
    model = RecurrentBottleneck().eval()
    structure = read_structure(model, torch.randn(2, 1, 8, 8))  # the GRU is traced step by step
    assert places(structure) == {
        "enc0.0": "encoder 0",
        "enc1.0": "encoder 1",
        "enc2.0": "bottleneck",
        "gru": "bottleneck",
        "dec1.0": "decoder 1",
        "dec0.0": "decoder 0",
        "out": "head",
    }
    assert legal(structure) == [1, 2]
    check_same(model, structure, (torch.randn(2, 1, 8, 8),))


class Halving(nn.Module):
    """A classifier: it goes down and does not come back."""

    def __init__(self) -> None:
        super().__init__()
        self.first = block(3, 4)
        self.second = block(4, 8)
        self.classify = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(F.max_pool2d(self.first(x), 2))
        return self.classify(x.mean(dim=(2, 3)))


def test_what_does_not_come_back_up_is_refused() -> None:
    with pytest.raises(StructureError, match="only goes down"):
        read_structure(Halving())


class Codes(nn.Module):
    """Takes the next of a few vectors for every deepest position, and may return which."""

    def __init__(self, returned: str) -> None:
        super().__init__()
        self.returned = returned
        self.enc0 = nn.Conv1d(1, 8, 3, padding=1)
        self.enc1 = nn.Conv1d(8, 16, 4, 2, 1)
        self.enc2 = nn.Conv1d(16, 32, 4, 2, 1)
        self.book = nn.Parameter(torch.randn(16, 32))
        self.up1 = nn.ConvTranspose1d(32, 16, 4, 2, 1)
        self.up0 = nn.ConvTranspose1d(16, 8, 4, 2, 1)
        self.out = nn.Conv1d(8, 1, 3, padding=1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        deep = self.enc2(self.enc1(self.enc0(x).relu()).relu())
        rows = deep.transpose(1, 2)
        codes = (self.book.pow(2).sum(-1) - 2 * rows @ self.book.t()).argmin(-1)
        taken = F.embedding(codes, self.book).transpose(1, 2)
        found = {"codes": codes, "loss": (taken - deep.detach()).pow(2).mean(), "deep": deep}
        x = self.up1(deep + (taken - deep).detach()).relu()
        return {"y": self.out(self.up0(x).relu()), **{key: found[key] for key in self.returned}}


@pytest.mark.sample(1)
@pytest.mark.parametrize("returned", [(), ("codes",), ("codes", "loss"), ("loss", "deep")])
def test_what_is_returned_from_below_keeps_nothing_of_it(returned: tuple[str, ...]) -> None:
    structure = read_structure(Codes(returned).eval())
    lean = read_structure(Codes(()).eval())
    for cut, expected in zip(structure.cuts, lean.cuts, strict=True):
        assert expected.removed <= cut.removed
        assert [entry.node for entry in cut.entries] == [entry.node for entry in expected.entries]
        assert len(cut.exits) == 1
    assert legal(structure) == [1, 2]


class RowsBelow(nn.Module):
    """A signal of which the deepest positions are read one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.enc0 = nn.Conv1d(1, 8, 7, padding=3)
        self.enc1 = nn.Conv1d(8, 16, 4, 2, 1)
        self.enc2 = nn.Conv1d(16, 32, 16, 8, 4)
        self.cell = nn.RNNCell(32, 32)
        self.up1 = nn.ConvTranspose1d(32, 16, 16, 8, 4)
        self.up0 = nn.ConvTranspose1d(16, 8, 4, 2, 1)
        self.out = nn.Conv1d(8, 1, 7, padding=3)

    def forward(self, x: Tensor) -> Tensor:
        deep = self.enc2(self.enc1(self.enc0(x).relu()).relu())
        states = [self.cell(deep[:, :, 0])]
        for step in deep.unbind(2):
            states.append((states[-1] + step) / 2)
        deep = deep + torch.stack(states[1:], dim=2)
        return self.out(self.up0(self.up1(deep).relu()).relu())


@pytest.mark.slow
def test_a_size_is_read_alike_whether_it_was_guessed_or_given() -> None:
    guessed = read_structure(RowsBelow())
    (image,) = guessed.inputs.args
    assert image.shape[-1] != 32  # channels of the cell
    given = read_structure(RowsBelow(), torch.rand(image.shape))
    assert given.sizes == guessed.sizes == "batch"


class Declared(RowsBelow):
    """The same, which says a size at which its graph seems to follow the image."""

    def __init__(self) -> None:
        super().__init__()
        self.input_size = 32


@pytest.mark.slow
def test_a_declared_size_is_held_against_the_model_as_a_given_one_is() -> None:
    guessed, given = read_structure(Declared()), read_structure(Declared(), torch.rand(1, 1, 32))
    (image,) = guessed.inputs.args
    assert image.shape[-1] == 32
    assert given.sizes == guessed.sizes == "batch"
    with pytest.raises(InputError, match="read at 32 and computes with that size"):
        rebuild(given)(torch.rand(1, 1, 64))


class Scaled(nn.Module):
    """What ``vector`` makes of the deepest map scales and shifts the image's own."""

    def __init__(self) -> None:
        super().__init__()
        self.enc0, self.enc1, self.enc2 = block(3, 8), block(8, 16), block(16, 16)
        self.dec, self.out = block(8, 8), nn.Conv2d(8, 2, 1)
        self.mixed, self.again = nn.Linear(16, 16), nn.Linear(16, 16)
        self.means = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())

    def vector(self, deep: Tensor, top: Tensor) -> Tensor:
        return deep.mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        top = self.enc0(x)
        deep = self.enc2(F.max_pool2d(self.enc1(F.max_pool2d(top, 2)), 2))
        scale, shift = self.vector(deep, top)[:, :, None, None].chunk(2, 1)
        return self.out(self.dec(top * scale + shift))


class ScaledByMeans(Scaled):
    """A module takes the means."""

    def vector(self, deep: Tensor, top: Tensor) -> Tensor:
        return self.means(deep)


class ScaledByWeights(Scaled):
    """Means are mixed before they come back up."""

    def vector(self, deep: Tensor, top: Tensor) -> Tensor:
        return self.again(self.mixed(deep.mean((2, 3))).relu())


class ScaledAtTwoLevels(ScaledByWeights):
    """The same vector scales a level between, too, so that it leaves what is below that one."""

    def forward(self, x: Tensor) -> Tensor:
        top = self.enc0(x)
        middle = self.enc1(F.max_pool2d(top, 2))
        told = self.vector(self.enc2(F.max_pool2d(middle, 2)), top)[:, :, None, None]
        x = F.interpolate(middle * told, scale_factor=2.0)[:, :8]
        return self.out(self.dec(top * told[:, :8] + x))


class ScaledByOnePixel(ScaledAtTwoLevels):
    """The same, made by convolutions of one pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.mixed = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(16, 16, 1), nn.ReLU())

    def vector(self, deep: Tensor, top: Tensor) -> Tensor:
        return self.mixed(deep).flatten(1)


class ScaledByACorner(Scaled):
    """A vector alone comes back up, of one position."""

    def vector(self, deep: Tensor, top: Tensor) -> Tensor:
        return self.mixed(deep[:, :, 0, 0])


class SignalsScaled(nn.Module):
    """Of signals; the vector has an axis of length 1, and its channels are the last."""

    def __init__(self) -> None:
        super().__init__()
        self.enc0, self.enc1 = nn.Conv1d(1, 4, 3, padding=1), nn.Conv1d(4, 8, 3, padding=1)
        self.enc2, self.mixed = nn.Conv1d(8, 8, 3, padding=1), nn.Linear(8, 8)
        self.dec, self.out = nn.Conv1d(12, 4, 3, padding=1), nn.Conv1d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        top = self.enc0(x).relu()
        middle = self.enc1(F.max_pool1d(top, 2)).relu()
        deep = self.enc2(F.max_pool1d(middle, 2)).relu()
        told = self.mixed(deep.amax(2)[:, None]).relu()
        middle = F.interpolate(middle * told.mT + F.interpolate(deep, scale_factor=2), None, 2)
        return self.out(self.dec(torch.cat([top * told[..., :4].mT, middle], 1)))


@cache
def read(kind: type[nn.Module]) -> Structure:
    """The structure of a network at the size that is guessed."""
    torch.manual_seed(0)
    return read_structure(kind().eval())


@pytest.mark.sample(1)
@pytest.mark.parametrize("kind", [Scaled, ScaledByMeans, ScaledByWeights])
def test_means_are_taken_of_what_the_bottleneck_makes(kind: type[Scaled]) -> None:
    structure = read(kind)
    assert legal(structure) == [1, 2]
    variant = build(structure, make_plan(structure, structure.cuts[0], width=4))
    assert verify(variant, export=False).failures == ()


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    ("kind", "channels"),
    [(ScaledAtTwoLevels, 16), (ScaledByOnePixel, 16), (ScaledByACorner, 16), (SignalsScaled, 8)],
)
def test_a_vector_from_below_is_the_mean_of_what_a_bottleneck_makes(
    kind: type[nn.Module], channels: int
) -> None:
    structure = read(kind)
    assert legal(structure) == [1, 2]
    for cut in structure.cuts:
        variant = build(structure, make_plan(structure, cut, width=4))
        assert verify(variant, export=False).failures == ()
    leaving = structure.cuts[0].exits
    assert [site.channels for site in leaving if site.layout == "vector"] == [channels]


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    ("kind", "vectors"),
    [
        (Scaled, [True, True]),
        (ScaledByMeans, [True, True]),
        (ScaledByWeights, [True, True]),
        (ScaledByACorner, [True, True]),
        (ScaledAtTwoLevels, [False, True]),  # of the level between a map comes back, too
        (ScaledByOnePixel, [False, True]),
        (SignalsScaled, [False, False]),
    ],
)
def test_whether_one_vector_comes_back_for_a_whole_image(
    kind: type[nn.Module], vectors: list[bool]
) -> None:
    structure = read(kind)
    assert [comes_back_as_vectors(structure, cut) for cut in structure.cuts] == vectors


def test_a_vector_is_taught_and_thinned_as_maps_are() -> None:
    structure = read(ScaledAtTwoLevels)
    images = [torch.rand(2, 3, 32, 32) for _ in range(3)]
    variant = build(structure, make_plan(structure, structure.cuts[0], width=4))
    assert variant.receptive_field == (None, None)
    recovery = variant.recover(images, steps=20, progress=False)
    assert recovery.after.explained > recovery.before.explained
    assert variant.thin(0.5).module.eval()(images[0]).shape == (2, 2, 32, 32)


class Downscales(nn.Module):
    """A coarse field is enlarged and laid beside a fine map."""

    def __init__(self) -> None:
        super().__init__()
        self.enc0, self.enc1, self.enc2 = block(2, 8), block(8, 8), block(8, 8)
        self.dec1, self.dec0, self.out = block(16, 8), block(16, 8), nn.Conv2d(8, 1, 1)

    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:
        coarse = F.interpolate(coarse.log1p() - 0.5, size=fine.shape[-2:], mode="bilinear")
        top = self.enc0(torch.cat([coarse, fine], 1))
        middle = self.enc1(F.max_pool2d(top, 2))
        deep = F.interpolate(self.enc2(F.max_pool2d(middle, 2)), scale_factor=2.0)
        middle = self.dec1(torch.cat([deep, middle], 1))
        return self.out(self.dec0(torch.cat([F.interpolate(middle, scale_factor=2.0), top], 1)))


@pytest.mark.sample(2)
@pytest.mark.parametrize("size", [6, 8, 16, 24])
def test_an_image_that_is_only_resized_makes_no_level(size: int) -> None:
    structure = read_structure(
        Downscales(), (torch.rand(1, 1, size, size), torch.rand(1, 1, 48, 48))
    )
    reductions = [(1.0, 1.0), (2.0, 2.0), (4.0, 4.0)]
    assert {(s.level, s.reduction) for s in structure.stages} == set(enumerate(reductions))
    assert places(structure)["enc2.0"] == "bottleneck"
    assert legal(structure) == [1, 2]


class Each(nn.Module):
    """Runs a layer on every frame, and keeps the frames apart."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layer = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.layer(frame) for frame in x.unbind(1)], 1)


class Clips(nn.Module):
    """Clips cross every cut as clips: each layer takes them whole."""

    def __init__(self) -> None:
        super().__init__()
        self.enc0, self.enc1, self.deep = Each(block(1, 2)), Each(block(8, 8)), Each(block(32, 32))
        self.dec1, self.dec0 = Each(block(8, 8)), Each(block(2, 4), nn.Conv2d(4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        first = self.enc1(F.pixel_unshuffle(self.enc0(x), 2))
        deep = F.pixel_shuffle(self.deep(F.pixel_unshuffle(first, 2)), 2)
        return self.dec0(F.pixel_shuffle(self.dec1(deep + first), 2))


def test_clips_cross_a_cut_with_their_frames_side_by_side() -> None:
    model = Clips().eval()
    structure = read_structure(model, torch.rand(2, 3, 1, 32, 32))
    assert legal(structure) == [1, 2]
    for cut in structure.cuts:
        (clip,) = cut.exits
        assert clip.parts == (3, clip.channels // 3)
        variant = build(structure, make_plan(structure, cut, width=4))
        assert verify(variant, export=False).failures == ()
        assert variant.module.eval()(torch.rand(1, 3, 1, 48, 32)).shape == (1, 3, 1, 48, 32)
        with pytest.raises(TruncationError, match="cannot change their number of channels"):
            build(structure, make_plan(structure, cut, width=4, exit_channels=[5]))


class TurnedBack(nn.Module):
    """A deep map is enlarged and goes down again, before it comes up for good."""

    def __init__(self) -> None:
        super().__init__()
        self.enc0, self.enc1, self.enc2 = block(3, 4), block(4, 8), block(8, 8)
        self.dec, self.out = block(12, 8), nn.Conv2d(8, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        top = self.enc0(x)
        deep = self.enc1(F.max_pool2d(top, 2))
        large = F.interpolate(deep, scale_factor=2.0).relu()
        deep = self.enc2(F.avg_pool2d(large, 2))
        return self.out(self.dec(torch.cat([top, F.interpolate(deep, size=top.shape[2:])], 1)))


def test_what_goes_down_again_leaves_nothing() -> None:
    structure = read_structure(TurnedBack())
    assert [len(cut.exits) for cut in structure.cuts] == [1]
    variant = build(structure, make_plan(structure, structure.cuts[0], width=4))
    assert verify(variant, export=False).failures == ()


class Cropped(nn.Module):
    """Crops what it joins by sizes that it holds in a tensor; its images are clips of one frame."""

    def __init__(self) -> None:
        super().__init__()
        self.channels = 4
        self.enc0, self.enc1 = nn.Conv2d(5, 4, 3, padding=1), nn.Conv2d(4, 8, 3, padding=1)
        self.dec0, self.out = nn.Conv2d(12, 4, 3, padding=1), nn.Conv2d(4, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] != self.channels:
            raise ValueError("channels")
        top = self.enc0(F.pad(x, (0, 0, 0, 0, 1, 0), value=1.0))
        deep = F.interpolate(self.enc1(F.max_pool2d(top, 2)), scale_factor=2.0)
        spare = torch.tensor(top.shape)[2:] - torch.tensor(deep.shape)[2:]
        half = (spare / 2).int()
        top = F.pad(top, (-torch.stack((half, half)).t().flatten()).tolist())
        return self.out(self.dec0(torch.cat([top, deep], 1)))


def test_sizes_in_a_tensor_stay_sizes() -> None:
    model = Cropped().eval()
    structure = read_structure(model)  # its number of channels is declared
    assert structure.reductions == ((1.0, 1.0), (2.0, 2.0))
    assert structure.notes == ()
    graph = rebuild(structure)
    for size in ((32, 32), (48, 64)):
        image = torch.randn(2, 4, *size)
        torch.testing.assert_close(graph(image), model(image), rtol=0, atol=0)


class Flow(nn.Module):
    """Looks again and again, at one resolution, into maps of how alike two images are."""

    def __init__(self) -> None:
        super().__init__()
        self.see = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1))
        self.begin = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1))
        self.alike = nn.Conv2d(2, 8, 1)
        self.update = nn.Conv2d(18, 8, 3, padding=1)
        self.flow = nn.Conv2d(8, 2, 3, padding=1)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        f, g = self.see(torch.cat([first, second])).chunk(2)
        n, _, h, w = f.shape
        alike = torch.einsum("nchw,ncij->nhwij", f, g).reshape(n * h * w, 1, h, w)
        state, flow = self.begin(first), torch.zeros(n, 2, h, w)
        for _ in range(2):
            at = flow.permute(0, 2, 3, 1).reshape(n * h * w, 1, 1, 2)
            found = [
                F.grid_sample(maps, at, align_corners=False).reshape(n, 1, h, w)
                for maps in (alike, F.avg_pool2d(alike, 2))
            ]
            seen = self.alike(torch.cat(found, 1))
            state = self.update(torch.cat([state, seen, flow], 1)).tanh()
            flow = flow + self.flow(state)
        return F.interpolate(flow, scale_factor=4.0)


def test_resolutions_in_no_order_are_refused() -> None:
    pair = torch.rand(2, 3, 32, 32), torch.rand(2, 3, 32, 32)
    with pytest.raises(StructureError, match="in no order"):
        read_structure(Flow(), pair)


class Modulated(nn.Module):
    """Two levels; a vector scales, which the signature lets out and the forward needs."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.top, self.deep = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 8, 3, padding=1)
        self.scale = nn.Linear(5 if name == "vector" else 1, 8)
        self.out = nn.Conv2d(12, 2, 1)

    def run(self, x: Tensor, scale: Tensor) -> Tensor:
        top = self.top(x).relu()
        scale = scale.float().reshape(len(x), -1)
        deep = self.deep(F.max_pool2d(top, 2)) * self.scale(scale)[..., None, None]
        return self.out(torch.cat([top, F.interpolate(deep, scale_factor=2.0)], 1))


class WithVector(Modulated):
    def forward(
        self, x: Tensor, mask: Tensor | None = None, vector: Tensor | None = None
    ) -> Tensor:
        return self.run(x if mask is None else x * mask, vector)


class WithTime(Modulated):
    def forward(self, x: Tensor, timestep: Tensor | None = None, cond: Any = None) -> Tensor:
        assert timestep is not None
        return self.run(x if cond is None else x + cond, timestep)


class TimeAndLabel(Modulated):
    def forward(self, t: Tensor, x: Tensor, label: Tensor | None = None) -> Tensor:
        assert label is not None
        return self.run(x, t + label)


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    ("kind", "name"), [(WithVector, "vector"), (WithTime, "time"), (TimeAndLabel, "time")]
)
def test_what_the_signature_lets_out_is_given_where_it_is_needed(
    kind: type[Modulated], name: str
) -> None:
    structure = read_structure(kind(name).eval())
    assert legal(structure) == [1]
    assert places(structure)["deep"] == "bottleneck"


class SliceBySlice(nn.Module):
    """Volumes; the two topmost levels see one slice at a time, and the deepest is half as deep."""

    def __init__(self) -> None:
        super().__init__()
        self.top, self.upper = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 6, 3, padding=1)
        self.lower, self.deep = nn.Conv3d(6, 8, 3, padding=1), nn.Conv3d(8, 8, 3, padding=1)
        self.out = nn.Conv3d(26, 2, 1)

    def slices(self, layer: nn.Module, x: Tensor) -> Tensor:
        batch, channels, depth, *sizes = x.shape
        made = layer(x.transpose(1, 2).reshape(batch * depth, channels, *sizes))
        return made.reshape(batch, depth, *made.shape[1:]).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        pool = nn.MaxPool2d(2)
        top = self.slices(self.top, x)
        upper = self.slices(self.upper, self.slices(pool, top))
        lower = self.lower(self.slices(pool, upper))
        deep = self.deep(F.max_pool3d(lower, 2))
        sizes = top.shape[2:]
        return self.out(
            torch.cat([top, *(F.interpolate(y, sizes) for y in (upper, lower, deep))], 1)
        )


@pytest.mark.parametrize("given", [None, torch.rand(2, 1, 8, 32, 32)], ids=["guessed", "given"])
def test_volumes_that_are_taken_slice_by_slice(given: Tensor | None) -> None:
    structure = read_structure(SliceBySlice().eval(), given)
    assert structure.inputs.layout == ""
    assert structure.reductions == ((1, 1, 1), (1, 2, 2), (1, 4, 4), (2, 8, 8))
    assert 3 in legal(structure)
    layers = places(structure)
    assert (layers["upper"], layers["lower"], layers["deep"]) == (
        "encoder 1",
        "encoder 2",
        "bottleneck",
    )


class SpaceAndTime(nn.Module):
    """A kernel over the image and, where there are frames, one over these."""

    def __init__(self, given: int, made: int) -> None:
        super().__init__()
        self.space = nn.Conv2d(given, made, 3, padding=1)
        self.time = nn.Conv1d(made, made, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() == 4:
            return self.space(x)
        batch, channels, frames, *sizes = x.shape
        x = self.space(x.transpose(1, 2).reshape(batch * frames, channels, *sizes))
        x = x.reshape(batch, frames, -1, *sizes).permute(0, 3, 4, 2, 1)
        x = self.time(x.reshape(-1, *x.shape[3:]))
        return x.reshape(batch, *sizes, -1, frames).permute(0, 3, 4, 1, 2)


class ImagesOrClips(nn.Module):
    """Two levels, of images and of clips alike."""

    def __init__(self) -> None:
        super().__init__()
        self.top, self.deep = SpaceAndTime(3, 4), SpaceAndTime(4, 8)
        self.out = SpaceAndTime(12, 2)

    def forward(self, x: Tensor) -> Tensor:
        step = [1, 2, 2][5 - x.dim() :]
        pool = F.max_pool2d if x.dim() == 4 else F.max_pool3d
        top = self.top(x).relu()
        deep = F.interpolate(self.deep(pool(top, step)), top.shape[2:])
        return self.out(torch.cat([top, deep], 1))


def test_a_forward_that_does_more_with_clips_is_read_on_clips() -> None:
    structure = read_structure(ImagesOrClips().eval())
    assert structure.inputs.layout == "NCTHW"
    assert structure.reductions == ((1, 1), (2, 2))
    assert structure.dead_parameters == ()
    assert places(structure)["deep.time"] == "bottleneck"
    image = read_structure(ImagesOrClips().eval(), torch.rand(1, 3, 32, 32))
    assert "deep.time.weight" in image.dead_parameters


class TokensOfOneSide(nn.Module):
    """Tokens of the deepest map are laid out anew as maps of a fixed height, or as squares."""

    def __init__(self, square: bool) -> None:
        super().__init__()
        self.square = square
        self.top, self.deep, self.back = block(3, 4), nn.Conv2d(4, 8, 2, 2), block(8, 8)
        self.up0, self.out = block(8 + 4, 4), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        top = self.top(x)
        tokens = self.deep(top).flatten(2)
        side = int(tokens.shape[2] ** 0.5) if self.square else 32
        deep = tokens.reshape(len(x), 8, side, -1)
        deep = F.interpolate(self.back(deep), scale_factor=2.0)
        return self.out(self.up0(torch.cat([deep, top], dim=1)))


@pytest.mark.sample(1)
@pytest.mark.parametrize("square", [False, True])
def test_tokens_of_one_side_are_no_turned_images(square: bool) -> None:
    structure = read_structure(TokensOfOneSide(square), torch.rand(1, 3, 64, 64))
    assert legal(structure) == [1]


class Slices(nn.Conv2d):
    """A kernel of images that works on volumes, slice by slice."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv3d(x, self.weight[:, :, None], self.bias, padding=(0, 1, 1))


class OfSlices(nn.Module):
    """Volumes, as only a pooling tells."""

    def __init__(self) -> None:
        super().__init__()
        self.top, self.pool, self.deep = Slices(1, 4, 3), nn.MaxPool3d(2), Slices(4, 8, 3)
        self.up0 = Slices(8 + 4, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        top = self.top(x)
        deep = F.interpolate(self.deep(self.pool(top)), scale_factor=2.0)
        return self.up0(torch.cat([deep, top], dim=1))


def test_volumes_are_guessed_where_kernels_are_of_images() -> None:
    structure = read_structure(OfSlices())
    assert structure.inputs.args[0].dim() == 5
    assert structure.reductions == ((1.0, 1.0, 1.0), (2.0, 2.0, 2.0))


class Starting(nn.Module):
    """Counts what it sees at its first call, and scales by that from then on."""

    def __init__(self) -> None:
        super().__init__()
        self.top, self.deep, self.out = block(1, 4), block(4, 8), nn.Conv2d(8, 1, 1)
        self.register_buffer("inited", torch.zeros(1))
        self.register_buffer("counts", torch.ones(8))

    def forward(self, x: Tensor) -> Tensor:
        deep = self.deep(F.max_pool2d(self.top(x), 2))
        if not self.inited:
            kinds = deep.detach().argmax(dim=1).flatten()
            self.counts.copy_(1 + torch.bincount(kinds, minlength=8)[:8])
            self.inited.fill_(1)
        return self.out(F.interpolate(deep / self.counts[:, None, None], scale_factor=2.0))


def test_what_starts_at_its_first_call_is_read_after_it() -> None:
    net = Starting()
    with pytest.raises(StructureError, match=r"inited .* call the model once"):
        read_structure(net)
    net(torch.rand(1, 1, 32, 32))
    assert legal(read_structure(net)) == [1]


class OfRemainders(nn.Module):
    """Takes only sizes that leave some remainder, as networks do that pad nothing."""

    def __init__(self, divisor: int, remainder: int, dimensions: int) -> None:
        super().__init__()
        conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dimensions - 1]
        self.divisor, self.remainder = divisor, remainder
        self.top, self.deep = conv(1, 2, 3, padding=1), conv(2, 4, 3, padding=1)
        self.up, self.out = conv(6, 2, 3, padding=1), conv(2, 1, 1)
        self.pool = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[dimensions - 1]

    def forward(self, x: Tensor) -> Tensor:
        if any(size % self.divisor != self.remainder for size in x.shape[-2:]):
            raise ValueError(f"{tuple(x.shape)} cannot be joined again")
        top = F.relu(self.top(x))
        halves = (1, 2, 2) if x.dim() == 5 else 2
        deep = F.interpolate(F.relu(self.deep(self.pool(top, halves))), size=top.shape[2:])
        return self.out(F.relu(self.up(torch.cat([top, deep], 1))))


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    ("divisor", "remainder", "dimensions", "size"),
    [(16, 4, 2, (196, 196)), (32, 1, 2, (193, 193)), (8, 4, 3, (32, 92, 92))],
)
def test_sizes_of_every_remainder_are_guessed_where_no_usual_one_runs(
    divisor: int, remainder: int, dimensions: int, size: tuple[int, ...]
) -> None:
    structure = read_structure(OfRemainders(divisor, remainder, dimensions).eval())
    assert structure.inputs.args[0].shape[2:] == size
    assert len(structure.reductions) == 2
    assert [cut.keep_levels for cut in structure.cuts] == [1]


class OfFlatVolumes(OfRemainders):
    """Takes volumes of one size, of fewer slices than rows, as tables of tokens make it."""

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2:] != (16, 64, 64):
            raise ValueError(f"{tuple(x.shape)} has another number of tokens")
        return super().forward(x)


def test_flat_volumes_are_guessed_where_no_usual_one_runs() -> None:
    structure = read_structure(OfFlatVolumes(8, 0, 3).eval())
    assert structure.inputs.args[0].shape[2:] == (16, 64, 64)
    assert structure.reductions == ((1, 1, 1), (1, 2, 2))


class Flattened(nn.Module):
    """Mixes channels by kernels of one position over flattened images, as Fourier networks do."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv1d(3, 4, 1), nn.Conv1d(8, 1, 1)
        self.deep, self.up = nn.Conv2d(4, 8, 3, padding=1), nn.Conv2d(8, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        top = self.first(x.flatten(2)).unflatten(2, x.shape[2:])
        deep = F.relu(self.deep(F.max_pool2d(top, 2)))
        up = F.relu(self.up(F.interpolate(deep, size=top.shape[2:])))
        return self.last(torch.cat([top, up], 1).flatten(2)).unflatten(2, x.shape[2:])


def test_images_are_guessed_where_the_first_kernel_works_on_flattened_ones() -> None:
    structure = read_structure(Flattened().eval())
    assert structure.inputs.args[0].shape[1] == 3
    assert structure.reductions == ((1.0, 1.0), (2.0, 2.0))
    assert [cut.keep_levels for cut in structure.cuts] == [1]


class MayBeLeftOut(nn.Module):
    """Needs the time that its signature lets out; attends to itself without a context."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(8, 1, 1)
        self.deep, self.mix = nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4, 4)
        self.of_time = nn.Linear(1, 4)

    def forward(
        self, x: Tensor, context: Tensor | None = None, timesteps: Tensor | None = None
    ) -> Tensor:
        assert timesteps is not None
        top = F.relu(self.first(x)) + self.of_time(timesteps[:, None].float())[:, :, None, None]
        deep = F.relu(self.deep(F.max_pool2d(top, 2))).flatten(2).mT
        keys = deep if context is None else self.mix(context)
        deep = deep + F.scaled_dot_product_attention(deep, keys, keys)
        deep = deep.mT.unflatten(2, (top.shape[2] // 2, top.shape[3] // 2))
        return self.last(torch.cat([top, F.interpolate(deep, size=top.shape[2:])], 1))


def test_an_argument_that_may_be_left_out_is_left_out_where_the_forward_runs_without() -> None:
    model = MayBeLeftOut().eval()
    model.context_dim = 4  # type: ignore[assignment]
    structure = read_structure(model)
    given = structure.inputs
    assert len(given.args) + len(given.kwargs) in (2, 3)
    assert not any(
        isinstance(v, Tensor) and v.dim() == 3 for v in (*given.args, *given.kwargs.values())
    )
    x, steps = torch.rand(2, 3, 32, 48), torch.arange(2)
    torch.testing.assert_close(
        rebuild(structure)(x, timesteps=steps), model(x, timesteps=steps), rtol=0, atol=0
    )


class AsManyChannels(nn.Module):
    """Works at one size, and pads on one side what it goes down with: 17x17 with 16 channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.down = nn.Conv2d(3, channels, 3, padding=1), nn.Conv2d(channels, 8, 3, 2)
        self.mix, self.up = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 4, 3, padding=1)
        self.out = nn.Conv2d(channels + 4, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[2] == x.shape[3] == 16
        top = F.relu(self.first(x))
        deep = F.relu(self.mix(F.relu(self.down(F.pad(top, (0, 1, 0, 1))))))
        return self.out(torch.cat([top, self.up(F.interpolate(deep, scale_factor=2))], 1))


@pytest.mark.parametrize("channels", [8, 16, 18])
def test_a_padded_map_of_one_size_is_told_from_its_channels(channels: int) -> None:
    structure = read_structure(AsManyChannels(channels).eval(), torch.rand(2, 3, 16, 16))
    assert structure.reductions == ((1.0, 1.0), (2.0, 2.0))
    assert legal(structure) == [1]
    assert structure.cuts[0].runs[0][0][0].channels == channels


class Gated(nn.Module):
    """Two levels; the deep one is multiplied with what one window of a fixed size pools of it."""

    def __init__(self, pool: nn.Module) -> None:
        super().__init__()
        self.first, self.deep = block(3, 4), block(4, 8)
        self.gate = nn.Sequential(pool, nn.Conv2d(8, 8, 1), nn.Sigmoid())
        self.up, self.out = block(12, 4), nn.Conv2d(4, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        top = self.first(x)
        deep = self.deep(F.max_pool2d(top, 4))
        deep = deep * F.interpolate(self.gate(deep), size=deep.shape[2:])
        return self.out(self.up(torch.cat([top, F.interpolate(deep, size=top.shape[2:])], 1)))


@pytest.mark.parametrize(
    "pool", [nn.AvgPool2d(17, (4, 5)), nn.MaxPool2d(9, 2, 4), nn.AvgPool2d((7, 9), 3)]
)
def test_one_large_window_makes_no_level(pool: nn.Module) -> None:
    model = Gated(pool).eval()
    structure = read_structure(model, torch.rand(2, 3, 160, 160))
    assert structure.reductions == ((1.0, 1.0), (4.0, 4.0))
    assert legal(structure) == [1]
    assert places(structure)["gate.1"] == "bottleneck"
    check_same(model, structure, (torch.rand(1, 3, 160, 192),))


@pytest.mark.parametrize("pool", [nn.MaxPool2d(2), nn.AvgPool2d(3, 2, 1), nn.AvgPool2d(4, 2)])
def test_a_usual_window_makes_a_level_with_kernels_of_one_position(pool: nn.Module) -> None:
    structure = read_structure(Gated(pool).eval(), torch.rand(2, 3, 160, 160))
    assert len(structure.reductions) == 3
