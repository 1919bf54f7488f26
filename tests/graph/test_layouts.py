"""Images whose axes are not batch, channels, sizes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import weightscope as ws
from weightscope.errors import ForwardError, InputError, StructureError
from weightscope.graph import read_structure, rebuild
from weightscope.graph.layouts import arranged, infer_layout, of_views, parse_layout
from weightscope.receptive_field import receptive_fields
from weightscope.truncation import verify
from weightscope.truncation.building import build
from weightscope.truncation.plan import make_plan


class Net(nn.Module):
    """A U-Net of two levels behind a change of axes and back."""

    def __init__(self, layout: str) -> None:
        super().__init__()
        self.layout = layout
        self.top = nn.Conv2d(1 if layout == "NHW" else 3, 8, 3, padding=1)
        self.deep = nn.Conv2d(8, 32, 3, padding=1)
        self.middle = nn.Conv2d(32, 32, 3, padding=1)
        self.join = nn.Conv2d(40, 8, 3, padding=1)
        self.out = nn.Conv2d(8, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        if self.layout == "NHWC":
            return self.images(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        if self.layout == "NHW":
            return self.images(x.unsqueeze(1)).squeeze(1)
        if self.layout == "NHCW":
            return self.images(x.transpose(1, 2)).transpose(1, 2)
        if self.layout == "NCWH":
            return self.images(x.transpose(2, 3)).transpose(2, 3)
        if self.layout == "NHWTC":
            return self.images(x.squeeze(3).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).unsqueeze(3)
        if self.layout == "HWCN":
            return self.images(x.permute(3, 2, 0, 1)).permute(2, 3, 1, 0)
        if self.layout == "NTCHW":
            y = self.images(x.flatten(0, 1))
            return y.view(*x.shape[:2], *y.shape[1:])
        return self.images(x)

    def images(self, x: Tensor) -> Tensor:
        top = F.relu(self.top(x))
        deep = F.relu(self.middle(F.relu(self.deep(F.max_pool2d(top, 2)))))
        y = torch.cat([F.interpolate(deep, scale_factor=2.0), top], 1)
        return self.out(F.relu(self.join(y)))


SHAPES = {
    "NHWC": ((2, 24, 32, 3), (3, 16, 48, 3)),
    "NHW": ((2, 24, 32), (3, 16, 48)),
    "NTCHW": ((2, 4, 3, 24, 32), (1, 3, 3, 16, 48)),
    "NCHW": ((2, 3, 24, 32), (3, 3, 16, 48)),
    "NHCW": ((2, 24, 3, 32), (3, 16, 3, 48)),
    "NCWH": ((2, 3, 48, 24), (3, 3, 64, 16)),
    "NHWTC": ((2, 24, 32, 1, 3), (3, 16, 48, 1, 3)),
}


@pytest.mark.sample(2)
@pytest.mark.parametrize("layout", SHAPES)
@pytest.mark.parametrize("told", [False, True], ids=["inferred", "told"])
def test_the_axes_of_an_example_are_read(layout: str, told: bool) -> None:
    model = Net(layout).eval()
    shape, other = SHAPES[layout]
    structure = read_structure(model, torch.randn(shape), layout=layout if told else None)
    assert structure.reductions == ((1.0, 1.0), (2.0, 2.0))
    assert {layer: stage.name for layer, stage in structure.stage_of.items()} == {
        "top": "encoder 0",
        "deep": "bottleneck",
        "middle": "bottleneck",
        "join": "decoder 0",
        "out": "head",
    }
    assert [cut.keep_levels for cut in structure.cuts] == [1]
    # 3x3, a pool of 2, two 3x3 at jump 2; then three neighbours lie in two cells of 2
    assert receptive_fields(structure)["bottleneck"] == (12, 12)
    assert receptive_fields(structure)["head"] == (14, 14)
    graph = rebuild(structure)
    x = torch.randn(other)
    torch.testing.assert_close(graph(x), model(x), rtol=0, atol=0)


class Enlarging(nn.Module):
    """Prepares its images without weights, enlarges them, and works on what is larger."""

    def __init__(self, prepare: str) -> None:
        super().__init__()
        self.prepare = prepare
        self.top = nn.Conv2d(3, 8, 3, padding=1)
        self.middle = nn.Conv2d(8, 8, 3, padding=1)
        self.deep = nn.Conv2d(8, 8, 3, padding=1)
        self.back = nn.Conv2d(16, 8, 3, padding=1)
        self.out = nn.Conv2d(16, 1, 1)
        self.norm = nn.InstanceNorm2d(3)
        self.register_buffer("mean", torch.tensor([0.5, 0.4, 0.3]).view(1, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        if self.prepare == "NHWC":
            x = x.permute(0, 3, 1, 2)
        if self.prepare == "mean":
            x = (x - self.mean) / 0.2
        if self.prepare == "norm":
            x = self.norm(x)
        if self.prepare == "range":
            low, high = (end(x, (1, 2, 3), keepdim=True) for end in (torch.amin, torch.amax))
            x = (x - low) / (high - low + 1e-6)
        top = F.relu(self.top(F.interpolate(x, scale_factor=2.0, mode="bilinear")))
        middle = F.relu(self.middle(F.max_pool2d(top, 2)))
        deep = F.relu(self.deep(F.max_pool2d(middle, 2)))
        back = self.back(torch.cat([F.interpolate(deep, scale_factor=2.0), middle], 1))
        y = self.out(torch.cat([F.interpolate(back, scale_factor=2.0), top], 1))
        return y.permute(0, 2, 3, 1) if self.prepare == "NHWC" else y


@pytest.mark.sample(1)
@pytest.mark.parametrize("prepare", ["NHWC", "mean", "norm", "range"])
def test_images_that_are_prepared_before_they_are_enlarged_are_no_level(prepare: str) -> None:
    shape = (2, 16, 16, 3) if prepare == "NHWC" else (2, 3, 16, 16)
    found = read_structure(Enlarging(prepare).eval(), torch.randn(shape))
    plain = read_structure(Enlarging("").eval(), torch.randn(2, 3, 16, 16))
    crossing = [
        [[site.node for site in sites] for cut in read.cuts for sites in cut.runs[0]]
        for read in (plain, found)
    ]
    assert crossing[0] == crossing[1]
    assert len(plain.cuts) == 2


@pytest.mark.sample(1)
@pytest.mark.parametrize("layout", ["NHWC", "NHW"])
def test_images_in_other_layouts_are_guessed(layout: str) -> None:
    structure = read_structure(Net(layout))
    assert structure.inputs.layout == layout
    assert structure.reductions == ((1.0, 1.0), (2.0, 2.0))


@pytest.mark.sample(1)
@pytest.mark.parametrize("layout", ["NTCHW", None])
def test_clips_are_guessed_whether_or_not_the_layout_is_told(layout: str | None) -> None:
    structure = read_structure(Net("NTCHW"), layout=layout)
    assert structure.inputs.layout == "NTCHW"
    assert structure.inputs.args[0].shape[:3] == (1, 2, 3)
    assert structure.reductions == ((1.0, 1.0), (2.0, 2.0))


class Dates(Net):
    """Images of several dates, as change is found in them: side by side, or one by one."""

    def __init__(self, dates: int, how: str) -> None:
        super().__init__("NCHW")
        self.dates, self.how = dates, how
        if how == "side by side":
            self.top = nn.Conv2d(3 * dates, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        n, a, b, high, wide = x.shape
        if self.how != "side by side":
            axis = 1 if self.how == "one by one" else 2
            seen = torch.stack([self.images(x.select(axis, i)) for i in range(self.dates)])
            return (seen[1:] - seen[0]).abs().amax(0)
        return self.images(x.reshape(n, a * b, high, wide))


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    ("how", "dates", "layout"),
    [
        ("side by side", 2, "NTCHW"),
        pytest.param("side by side", 4, "NTCHW", marks=pytest.mark.slow),
        *(("one by one", 2, "NTCHW"), ("channels first", 2, "NCTHW")),
    ],
)
def test_images_of_several_dates_are_guessed(how: str, dates: int, layout: str) -> None:
    structure = read_structure(Dates(dates, how).eval())
    assert structure.inputs.layout == layout
    assert structure.inputs.args[0].shape[layout.index("T")] == dates
    assert structure.reductions == ((1.0, 1.0), (2.0, 2.0))
    assert [cut.keep_levels for cut in structure.cuts] == [1]


@pytest.mark.sample(1)
@pytest.mark.parametrize("layout", ["NHWC", "NTCHW"])
def test_a_variant_takes_what_the_original_takes(layout: str, tmp_path) -> None:
    model = Net(layout).eval()
    shape, other = SHAPES[layout]
    analysis = ws.analyze(model, example_inputs=torch.randn(shape), response=False)
    (proposal,) = [p for p in analysis.proposals if p.refusal is None]
    variant = proposal.build()
    ws.save(variant, tmp_path / "small.safetensors")
    again = ws.load(tmp_path / "small.safetensors", lambda: Net(layout)).module.eval()
    for size in (shape, other):
        x = torch.randn(size)
        made = variant.module.eval()(x)
        assert made.shape == model(x).shape
        torch.testing.assert_close(again(x), made, rtol=0, atol=0)


def test_a_layout_that_cannot_be() -> None:
    with pytest.raises(InputError, match="'NHWQ' is not understood"):
        read_structure(Net("NHWC"), layout="NHWQ")
    with pytest.raises(InputError, match="names no spatial axis"):
        parse_layout("NC")
    with pytest.raises(InputError, match="names 3 axes"):
        read_structure(Net("NHWC"), torch.randn(2, 16, 16, 3), layout="NHW")
    with pytest.raises(InputError, match="names 5 axes"):  # the usual one is none that goes unseen
        read_structure(Net("NCHW"), torch.randn(2, 3, 16, 16), layout="NCDHW")
    with pytest.raises(InputError, match="so N comes first"):
        read_structure(Net("HWCN"), torch.randn(24, 32, 3, 2), layout="HWCN")
    assert parse_layout("BCHW") == ""
    assert parse_layout("nhwc") == "NHWC"


@pytest.mark.parametrize(
    ("own", "told"),
    [
        ("NHWC", "NCHW"), ("NHWC", "NHCW"), ("NHWC", "NWHC"),
        ("NCHW", "NHWC"), ("NCHW", "NHCW"), ("NTCHW", "NCTHW"),
    ],
)  # fmt: skip
def test_a_layout_by_which_the_first_convolution_would_be_given_something_else(own, told) -> None:
    said = (
        f"by layout='{told}' the axes of example_inputs= are N=2, .* is given 3 channels of 24x32"
    )
    with pytest.raises(InputError, match=f"{said} of it: give layout='{own}'"):
        read_structure(Net(own), torch.randn(SHAPES[own][0]), layout=told)


@pytest.mark.parametrize(
    ("own", "told"),
    [("NHWC", "NCHW"), ("NCHW", "NCDHW")]
    + [pytest.param(*n, marks=pytest.mark.slow) for n in (("NCHW", "NHWC"), ("NHWC", "NHCW"))],
)
def test_a_layout_of_which_no_image_runs(own, told) -> None:
    with pytest.raises(InputError, match=f"no image of layout='{told}' .* of layout='{own}' does"):
        read_structure(Net(own), layout=told)


def test_an_example_that_does_not_run_as_the_layout_says() -> None:
    with pytest.raises(ForwardError, match="or give layout='NHWC', of which images run"):
        read_structure(Net("NHWC"), torch.randn(2, 3, 24, 32), layout="NCHW")


def test_sides_that_are_nearly_as_long_are_not_mixed_up() -> None:
    assert infer_layout((2, 3, 56, 64), ((2, 3, 64, 56), 2)) == "NCWH"
    with pytest.raises(InputError, match="give layout='NHWC'"):
        read_structure(Net("NHWC"), torch.randn(2, 56, 64, 3), layout="NWHC")


class Turned(nn.Module):
    """Takes batches first, as the error asks for it."""

    def __init__(self) -> None:
        super().__init__()
        self.own = Net("HWCN")

    def forward(self, x: Tensor) -> Tensor:
        return self.own(x.permute(2, 3, 1, 0)).permute(3, 2, 0, 1)


def test_the_batch_is_the_first_axis() -> None:
    with pytest.raises(InputError, match="takes another axis"):
        read_structure(Net("HWCN"), torch.randn(24, 32, 3, 2))
    assert read_structure(Turned(), torch.randn(2, 3, 24, 32)).reductions[1:] == ((2.0, 2.0),)


class Frames(nn.Module):
    """Clips of frames before channels, of which only the images get smaller."""

    def __init__(self) -> None:
        super().__init__()
        self.top, self.deep = nn.Conv3d(3, 4, 3, padding=1), nn.Conv3d(4, 8, 3, padding=1)
        self.join = nn.Conv3d(12, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        top = F.relu(self.top(x.transpose(1, 2)))
        deep = F.relu(self.deep(F.max_pool3d(top, (1, 2, 2))))
        up = F.interpolate(deep, scale_factor=(1.0, 2.0, 2.0))
        return self.join(torch.cat([up, top], 1)).transpose(1, 2)


@pytest.mark.sample(1)
@pytest.mark.parametrize("given", [None, (1, 8, 3, 24, 24)])
def test_clips_with_frames_before_channels(given: tuple[int, ...] | None) -> None:
    structure = read_structure(Frames(), None if given is None else torch.randn(given))
    assert structure.inputs.layout == "NDCHW"
    assert structure.reductions == ((1.0, 1.0, 1.0), (1.0, 2.0, 2.0))
    assert [cut.keep_levels for cut in structure.cuts] == [1]


class Folded(Net):
    """Takes four neighbours side by side, and so the first convolution another size."""

    def __init__(self) -> None:
        super().__init__("NCHW")

    def forward(self, x: Tensor) -> Tensor:
        return self.images(x.permute(0, 4, 1, 2, 3).flatten(3))


def test_an_implausible_reading_names_the_remedy() -> None:
    """Told wrongly, the width counts as channels: nothing is as fine as the image."""
    net = nn.Sequential(nn.Unflatten(3, (4, 3)), Folded())
    with pytest.raises(StructureError, match="layout="):
        read_structure(net, torch.randn(2, 64, 64, 12), layout="NCHW")


def test_layouts_by_hand() -> None:
    image = torch.randn(1, 3, 4, 5)
    assert arranged(image, "NHWC").shape == (1, 4, 5, 3)
    assert arranged(image, "NHW").shape == (1, 4, 5)
    assert arranged(image, "NTCHW").shape == (1, 2, 3, 4, 5)
    assert infer_layout((2, 64, 64, 3), ((2, 3, 64, 64), 2)) == "NHWC"
    assert infer_layout((2, 3, 64, 64), ((2, 3, 70, 70), 2)) == ""
    assert infer_layout((2, 64, 64), ((2, 1, 64, 64), 2)) == "NHW"
    # a linear layer over positions, of what was padded on all sides, or laid beside something
    assert infer_layout((2, 32, 24, 4), ((2, 32, 24, 6), 0)) == "NHWC"
    assert infer_layout((2, 16, 16, 8, 4), ((2, 24, 24, 16, 4), 0)) == "NDHWC"
    assert infer_layout((2, 1, 65, 40), ((2, 3, 65, 40), 0)) == ""
    assert infer_layout((2, 32, 24, 4), ((2, 24, 16, 4), 0)) == ""
    assert infer_layout((2, 1, 4096), ((2, 1, 65, 33), 2)) == ""  # a spectrogram of a signal
    assert infer_layout((2, 3, 4, 64, 64), ((8, 3, 64, 64), 2)) == "NCTHW"
    assert infer_layout((2, 4, 64, 64, 3), ((8, 3, 64, 64), 2)) == "NTHWC"
    assert infer_layout((2, 4, 64, 64), ((2, 16, 32, 32), 2)) == ""  # folded before it
    assert infer_layout((2, 4, 64, 64), None) == ""
    assert infer_layout((2, 3, 64, 48, 5), ((10, 3, 64, 48), 2)) == "NCHWT"
    assert of_views((2, 3, 4, 64, 48), ((24, 1, 64, 48), 2)) == "NTDHW"  # views
    assert infer_layout((2, 1, 4, 64, 48), ((8, 1, 64, 48), 2)) == "NCTHW"  # slices
    assert of_views((2, 1, 4, 64, 48), ((8, 1, 64, 48), 2)) == ""
    assert of_views((2, 5, 4, 3, 64, 48), ((40, 3, 64, 48), 2)) == "NTDCHW"
    assert of_views((2, 3, 5, 4, 64, 48), ((40, 3, 64, 48), 2)) == "NCTDHW"


class LightField(nn.Module):
    """Views along two axes, with their channels between or none: each alone, then all of them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels, self.view = channels, nn.Conv2d(channels or 1, 6, 3, 1, 1)
        self.angles, self.deep = nn.Conv2d(6, 6, 3, 1, 1), nn.Conv2d(6, 8, 3, 2, 1)
        self.bottom, self.up = nn.Conv2d(8, 8, 3, 2, 1), nn.Conv2d(16, 8, 3, 1, 1)
        self.last, self.out = nn.Conv2d(14, 6, 3, 1, 1), nn.Conv2d(6, channels or 1, 1)

    def forward(self, x):
        images, rows, columns, height, width = (*x.shape[:3], *x.shape[-2:])
        top = self.view(x.reshape(-1, self.channels or 1, height, width)).relu()
        y = top.view(images, rows * columns, -1, height * width).permute(0, 3, 2, 1)
        y = self.angles(y.reshape(images * height * width, -1, rows, columns)).relu()
        y = y.view(images, height * width, -1, rows * columns).permute(0, 3, 2, 1)
        top = y.reshape(images * rows * columns, -1, height, width)
        deep = self.deep(top).relu()
        y = F.interpolate(self.bottom(deep).relu(), scale_factor=2)
        y = F.interpolate(self.up(torch.cat([y, deep], 1)).relu(), scale_factor=2)
        return self.out(self.last(torch.cat([y, top], 1)).relu()).view(x.shape) + x


@pytest.mark.parametrize("channels", [0, 3])
def test_the_views_of_a_light_field_are_images_of_their_own(channels) -> None:
    model = LightField(channels).eval()
    between = (channels,) if channels else ()
    structure = read_structure(model, torch.randn(2, 3, 4, *between, 32, 24))
    assert structure.inputs.layout == ("NTDCHW" if channels else "NTDHW")
    assert structure.reductions == ((1.0, 1.0, 1.0), (1.0, 2.0, 2.0), (1.0, 4.0, 4.0))
    assert [cut.keep_levels for cut in structure.cuts] == [1, 2]
    x = torch.randn(1, 5, 3, *between, 16, 40)
    for cut in structure.cuts:
        variant = build(structure, make_plan(structure, cut, width=4))
        assert variant.module.eval()(x).shape == x.shape


class LastFrames(nn.Module):
    """Images or volumes whose frames lie along the last axis, each on its own."""

    def __init__(self, dimensions: int) -> None:
        super().__init__()
        layer = {2: nn.Conv2d, 3: nn.Conv3d}[dimensions]
        self.top, self.deep = layer(1, 4, 3, 1, 1), layer(4, 6, 3, 2, 1)
        self.last, self.out = layer(10, 4, 3, 1, 1), layer(4, 1, 1)

    def forward(self, x):
        top = self.top(x.movedim(-1, 1).flatten(0, 1)).relu()
        y = torch.cat([F.interpolate(self.deep(top).relu(), scale_factor=2), top], 1)
        return self.out(self.last(y).relu()).unflatten(0, (x.shape[0], -1)).movedim(1, -1)


@pytest.mark.parametrize(("layout", "sizes"), [("NCHWT", (32, 24)), ("NCDHWT", (8, 8, 8))])
def test_frames_along_the_last_axis_are_frames(layout, sizes) -> None:
    model = LastFrames(len(sizes)).eval()
    structure = read_structure(model, torch.randn(2, 1, *sizes, 3))
    assert structure.inputs.layout == layout
    assert structure.reductions == ((1.0,) * len(sizes), (2.0,) * len(sizes))
    x = torch.randn(1, 1, *(size + 8 for size in sizes), 5)
    variant = build(structure, make_plan(structure, structure.cuts[0], width=4))
    assert variant.module.eval()(x).shape == x.shape


class FrameByFrame(Net):
    """A clip whose frames are taken one by one, as a recurrent network takes them."""

    def __init__(self) -> None:
        super().__init__("NCHW")

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.images(frame) for frame in x.unbind(1)], 1)


def test_frames_one_by_one() -> None:
    structure = read_structure(FrameByFrame(), torch.randn(2, 3, 3, 32, 32))
    assert structure.inputs.layout == "NTCHW"
    assert structure.reductions == ((1.0, 1.0), (2.0, 2.0))
    assert [cut.keep_levels for cut in structure.cuts] == [1]


class Wave(nn.Module):
    """Raw signals, one row of numbers each."""

    def __init__(self) -> None:
        super().__init__()
        self.top, self.deep = nn.Conv1d(1, 4, 5, padding=2), nn.Conv1d(4, 16, 5, 4, 2)
        self.join, self.out = nn.Conv1d(20, 4, 5, padding=2), nn.Conv1d(4, 1, 1)

    def forward(self, wave: Tensor) -> Tensor:
        top = F.relu(self.top(wave[:, None]))
        deep = F.interpolate(F.relu(self.deep(top)), size=top.shape[-1])
        return self.out(F.relu(self.join(torch.cat([deep, top], 1))))[:, 0]


@pytest.mark.sample(1)
@pytest.mark.parametrize("example", [None, torch.randn(2, 128)])
def test_signals_without_channels(example: Tensor | None) -> None:
    structure = read_structure(Wave(), example)
    assert structure.inputs.layout == "NL"
    assert structure.reductions == ((1.0,), (4.0,))
    assert [stage.name for stage in structure.stages] == [
        "encoder 0", "bottleneck", "decoder 0", "head"
    ]  # fmt: skip
    assert receptive_fields(structure)["encoder 0"] == (5,)
    images = torch.randn(4, 128)
    found = ws.analyze(Wave(), example_inputs=example, images=images, response=False)
    assert found.proposals[0].build("pool").module(torch.randn(3, 64)).shape == (3, 64)
    with pytest.raises(InputError, match=r"layout='NL'"):
        read_structure(nn.Sequential(nn.Linear(8, 8)), torch.randn(2, 8))


class OfSpectra(nn.Module):
    """Makes spectra of samples without channels, and returns spectra."""

    def __init__(self, kernels: int) -> None:
        super().__init__()
        convolution = (nn.Conv1d, nn.Conv2d)[kernels - 1]
        self.kernels, channels = kernels, 17 if kernels == 1 else 1
        self.top, self.deep = convolution(channels, 8, 3, 1, 1), convolution(8, 8, 3, 2, 1)
        self.out = convolution(16, channels, 3, 1, 1)

    def forward(self, samples: Tensor) -> Tensor:
        spectra = torch.stft(samples, 32, 16, window=torch.ones(32), return_complex=True).abs()
        top = self.top(spectra if self.kernels == 1 else spectra[:, None]).relu()
        deep = F.interpolate(self.deep(top).relu(), size=top.shape[2:])
        return self.out(torch.cat([top, deep], 1))


@pytest.mark.parametrize("kernels", [1, 2])
def test_samples_without_channels_that_become_spectra(kernels: int) -> None:
    structure = read_structure(OfSpectra(kernels).eval(), torch.randn(2, 512))
    assert structure.inputs.layout == "NL"
    assert [stage.role for stage in structure.stages] == ["encoder", "bottleneck", "head"]


class SideBySide(nn.Module):
    """Pairs of frames in a dictionary, which the first layer is given as channels."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Net("NCHW")
        self.net.top = nn.Conv2d(6, 8, 3, padding=1)

    def forward(self, given: dict[str, Tensor]) -> Tensor:
        return self.net(given["frames"].flatten(1, 2))


@pytest.mark.parametrize("axes", [(2, 3), (3, 2)], ids=["frames first", "channels first"])
def test_frames_side_by_side_as_channels(axes: tuple[int, int]) -> None:
    model = SideBySide().eval()
    structure = read_structure(model, ({"frames": torch.randn(2, *axes, 24, 32)},))
    assert structure.reductions == ((1.0, 1.0), (2.0, 2.0))
    assert structure.stage_of["net.join"].name == "decoder 0"
    assert [cut.keep_levels for cut in structure.cuts] == [1]
    given = {"frames": torch.randn(3, *axes, 16, 48)}
    torch.testing.assert_close(rebuild(structure)(given), model(given), rtol=0, atol=0)


class Painter(nn.Module):
    """Ids of (batch, height, width) become vectors; below, they look at a text."""

    def __init__(self, along: int = 2) -> None:
        super().__init__()
        conv = nn.Conv2d if along == 2 else nn.Conv3d
        self.text, self.table = nn.Linear(5, 8), nn.Embedding(20, 8)
        self.down, self.up = conv(8, 8, 2, 2), getattr(nn, f"ConvTranspose{along}d")(8, 8, 2, 2)
        self.look, self.out = nn.MultiheadAttention(8, 2, batch_first=True), conv(16, 20, 1)

    def forward(self, ids: Tensor, text: Tensor) -> Tensor:
        text = self.text(text)
        top = self.table(ids).movedim(-1, 1)
        deep = self.down(top)
        tokens = deep.flatten(2).transpose(1, 2)
        tokens = tokens + self.look(tokens, text, text, need_weights=False)[0]
        deep = self.up(tokens.transpose(1, 2).reshape(deep.shape))
        out: Tensor = self.out(torch.cat([top, deep], 1))
        return out


@pytest.mark.sample(1)
@pytest.mark.parametrize("size", [(16, 16), (16, 16, 16)])
def test_ids_are_images_without_channels_and_a_text_beside_them_is_none(
    size: tuple[int, ...],
) -> None:
    text = torch.randn(1, 7, 5)
    structure = read_structure(Painter(len(size)).eval(), (torch.randint(0, 20, (1, *size)), text))
    assert structure.inputs.layout == ("NHW" if len(size) == 2 else "NDHW")
    assert structure.reductions == ((1.0,) * len(size), (2.0,) * len(size))
    assert [cut.keep_levels for cut in structure.cuts] == [1]


class FramesInTheBatch(nn.Module):
    """Convolutions of frames, and one along them; of clips alone."""

    def __init__(self) -> None:
        super().__init__()
        self.top, self.deep = nn.Conv2d(4, 8, 3, padding=1), nn.Conv2d(8, 8, 3, 2, 1)
        self.along = nn.Conv3d(8, 8, (3, 1, 1), padding=(1, 0, 0))
        self.up, self.head = nn.Conv2d(16, 8, 3, padding=1), nn.Conv2d(8, 4, 1)

    def forward(self, clip):
        n, _, frames, height, width = clip.shape
        x = clip.transpose(1, 2).flatten(0, 1)
        top = F.relu(self.top(x))
        deep = F.relu(self.deep(top)).unflatten(0, (n, frames)).transpose(1, 2)
        deep = self.along(deep).transpose(1, 2).flatten(0, 1)
        deep = F.interpolate(deep, size=(height, width))
        made = self.head(F.relu(self.up(torch.cat([top, deep], 1))))
        return made.unflatten(0, (n, frames)).transpose(1, 2)


def test_of_clips_a_few_frames_are_guessed_first():
    structure = read_structure(FramesInTheBatch().eval())
    assert tuple(structure.inputs.args[0].shape[1:]) == (4, 8, 64, 64)
    assert structure.reductions == ((1.0, 1.0, 1.0), (1.0, 2.0, 2.0))


class FramesFirstInTheBatch(FramesInTheBatch):
    """All clips' first frames come first in the batch."""

    def forward(self, clip):
        n, _, frames, height, width = clip.shape
        top = F.relu(self.top(clip.permute(2, 0, 1, 3, 4).flatten(0, 1)))
        deep = F.relu(self.deep(top)).unflatten(0, (frames, n)).permute(1, 2, 0, 3, 4)
        deep = self.along(deep).permute(2, 0, 1, 3, 4).flatten(0, 1)
        deep = F.interpolate(deep, size=(height, width))
        made = self.head(F.relu(self.up(torch.cat([top, deep], 1))))
        return made.unflatten(0, (frames, n)).permute(1, 2, 0, 3, 4)


class SlicesAboveVolumes(nn.Module):
    """Two levels of slices, and one of volumes below them."""

    def __init__(self) -> None:
        super().__init__()
        self.top, self.middle = nn.Conv2d(4, 6, 3, padding=1), nn.Conv2d(6, 8, 3, 2, 1)
        self.deep, self.up1 = nn.Conv3d(8, 8, 3, 2, 1), nn.Conv2d(16, 8, 1)
        self.up0, self.head = nn.Conv2d(14, 4, 1), nn.Conv2d(4, 4, 1)

    def forward(self, volume):
        n, channels, depth, height, width = volume.shape
        top = self.top(volume.transpose(1, 2).reshape(n * depth, channels, height, width)).relu()
        middle = self.middle(top).relu()
        below = middle.reshape(n, depth, *middle.shape[1:]).transpose(1, 2)
        deep = F.interpolate(self.deep(below), size=below.shape[2:])
        deep = deep.transpose(1, 2).reshape(middle.shape)
        middle = F.interpolate(self.up1(torch.cat([middle, deep], 1)), size=(height, width))
        made = self.head(self.up0(torch.cat([top, middle], 1)).relu())
        return made.reshape(n, depth, *made.shape[1:]).transpose(1, 2)


@pytest.mark.sample(2)
@pytest.mark.parametrize("kind", [FramesInTheBatch, FramesFirstInTheBatch, SlicesAboveVolumes])
def test_where_frames_or_slices_lie_in_the_batch_each_is_cut_alone(kind):
    structure = read_structure(kind().eval())
    assert structure.inputs.dimensions == 3
    assert [cut.keep_levels for cut in structure.cuts] == [*range(1, structure.depth)]
    variant = build(structure, make_plan(structure, structure.cuts[0], width=4))
    assert isinstance(variant.module.new_bottleneck.trunk[0], nn.Conv2d)
    assert variant.receptive_field == (None, None, None)
    given = torch.randn(2, 4, 5, 32, 48)
    assert variant.module.eval()(given).shape == given.shape
    assert verify(variant, sizes=[given], export=False).failures == ()


class SlicesBelow(nn.Module):
    """Volumes whose deepest layer, and perhaps the decoder, works on slices in the batch."""

    def __init__(self, *, by_volume: bool, also_above: bool) -> None:
        super().__init__()
        self.order, self.also_above = (0, 2, 1, 3, 4) if by_volume else (2, 0, 1, 3, 4), also_above
        self.top, self.middle = nn.Conv3d(1, 8, 3, 1, 1), nn.Conv3d(8, 8, 3, (1, 2, 2), 1)
        self.below = nn.Conv3d(8, 16, 3, (1, 2, 2), 1)
        self.deep = nn.Conv2d(16, 16, 3, padding=1)
        convolution = nn.Conv2d if also_above else nn.Conv3d
        self.up1, self.up0 = convolution(24, 8, 3, 1, 1), convolution(16, 8, 3, 1, 1)
        self.head = convolution(8, 2, 1)

    def laid(self, x):
        return x.permute(self.order).flatten(0, 1)

    def stacked(self, x, images):
        if self.order[0] == 0:
            return x.unflatten(0, (images, -1)).transpose(1, 2)
        return x.unflatten(0, (-1, images)).permute(1, 2, 0, 3, 4)

    def up(self, layer, x, skip):
        return layer(torch.cat([F.interpolate(x, size=skip.shape[2:]), skip], 1)).relu()

    def forward(self, x):
        top = self.top(x).relu()
        middle = self.middle(top).relu()
        y = self.deep(self.laid(self.below(middle).relu())).relu()
        if self.also_above:
            top, middle = self.laid(top), self.laid(middle)
        else:
            y = self.stacked(F.interpolate(y, size=middle.shape[3:]), x.shape[0])
        y = self.head(self.up(self.up0, self.up(self.up1, y, middle), top))
        return self.stacked(y, x.shape[0]) if self.also_above else y


class Deep(nn.Conv2d):
    """Lays the slices into the batch itself."""

    def forward(self, x):
        return super().forward(x.transpose(1, 2).flatten(0, 1))


class LaidInside(SlicesBelow):
    def __init__(self) -> None:
        super().__init__(by_volume=True, also_above=True)
        self.inside = Deep(16, 16, 3, padding=1)

    def laid(self, x):
        return self.inside(x) if x.shape[1] == 16 else super().laid(x)


def test_slices_that_a_module_lays_into_the_batch_are_stacked():
    model = LaidInside().eval()
    structure = read_structure(model, torch.randn(1, 1, 8, 16, 16))
    assert [cut.keep_levels for cut in structure.cuts] == [1, 2]
    x = torch.randn(2, 1, 5, 24, 32)
    variant = build(structure, make_plan(structure, structure.cuts[1], width=4))
    assert variant.module.eval()(x).shape == model(x).shape


@pytest.mark.sample(1)
@pytest.mark.parametrize(("by_volume", "also_above"), [(True, True), (False, False), (True, False)])
def test_slices_on_one_side_of_a_cut_are_stacked(by_volume, also_above):
    model = SlicesBelow(by_volume=by_volume, also_above=also_above).eval()
    structure = read_structure(model, torch.randn(1, 1, 8, 16, 16))
    assert structure.reductions == ((1.0, 1.0, 1.0), (1.0, 2.0, 2.0), (1.0, 4.0, 4.0))
    assert [cut.keep_levels for cut in structure.cuts] == [1, 2]
    x = torch.randn(2, 1, 5, 24, 32)
    torch.testing.assert_close(rebuild(structure)(x), model(x), rtol=0, atol=1e-6)
    for cut in structure.cuts:
        variant = build(structure, make_plan(structure, cut, width=4))
        assert isinstance(variant.module.new_bottleneck.trunk[0], nn.Conv3d)
        assert variant.module.eval()(x).shape == model(x).shape
        assert verify(variant, sizes=[x], export=False).failures == ()


class FlatBottleneck(nn.Module):
    """The deepest level is of slices alone, which a layer takes there from the level above."""

    def __init__(self) -> None:
        super().__init__()
        self.top, self.deep = nn.Conv3d(1, 8, 3, 1, 1), nn.Conv2d(8, 16, 3, 2, 1)
        self.out = nn.Conv3d(24, 2, 3, 1, 1)

    def forward(self, x):
        top = self.top(x).relu()
        deep = self.deep(top.transpose(1, 2).flatten(0, 1)).relu()
        deep = F.interpolate(deep, size=x.shape[3:]).unflatten(0, (x.shape[0], -1)).transpose(1, 2)
        return self.out(torch.cat([top, deep], 1))


def test_a_level_of_slices_alone_keeps_their_number():
    structure = read_structure(FlatBottleneck().eval(), torch.randn(1, 1, 8, 16, 16))
    assert structure.reductions == ((1.0, 1.0, 1.0), (1.0, 2.0, 2.0))


class Remembering(nn.Module):
    """Frames join a memory one by one; pixels become channels in all of them at once."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.channels = channels
        self.top = nn.Conv2d(2 * channels, channels, 3, padding=1)
        self.deep = nn.Conv2d(8 * channels, 4 * channels, 3, padding=1)
        self.out = nn.Conv2d(2 * channels, 2, 3, padding=1)

    def remember(self, layer: nn.Module, clip: Tensor) -> Tensor:
        """Of every frame what the layer makes of it and of what it made before."""
        memory, found = torch.zeros_like(clip[:, 0]), []
        for i in range(clip.size(1)):
            memory = torch.tanh(layer(torch.cat([clip[:, i], memory], 1)))
            found.append(memory)
        return torch.stack(found, 1)

    def forward(self, clip):
        top = self.remember(self.top, clip)
        deep = self.remember(self.deep, F.pixel_unshuffle(top, 2))
        # more frames leave than were given
        last = F.pixel_shuffle(deep[:, -1:].repeat(1, 6, 1, 1, 1), 2)
        return torch.stack([self.out(torch.cat([x, top[:, -1]], 1)) for x in last.unbind(1)], 1)


class RememberingLast(Remembering):
    """The same of clips with the channels first."""

    def forward(self, clip):
        return super().forward(clip.transpose(1, 2))


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    ("model", "shape", "layout"),
    [
        (Remembering(1), (2, 4, 1, 32, 32), "NTCHW"),
        (Remembering(3), (2, 5, 3, 32, 32), "NTCHW"),
        (RememberingLast(3), (2, 3, 5, 32, 32), "NCTHW"),
        (RememberingLast(1), (2, 1, 4, 32, 48), "NCTHW"),
    ],
)
def test_frames_that_join_a_memory_one_by_one(
    model: nn.Module, shape: tuple[int, ...], layout: str
) -> None:
    structure = read_structure(model, torch.randn(shape))
    assert structure.inputs.layout == layout
    assert structure.reductions == ((1.0, 1.0), (2.0, 2.0))
    names = {layer: stage.name for layer, stage in structure.stage_of.items()}
    assert names == {"top": "encoder 0", "deep": "bottleneck", "out": "head"}


class Season(nn.Module):
    """Dates become one below, by weights that weigh the dates above as well."""

    def __init__(self) -> None:
        super().__init__()
        self.top, self.deep = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 16, 3, 2, 1)
        self.ask, self.rise = nn.Conv2d(16, 1, 1), nn.ConvTranspose2d(16, 8, 2, 2)
        self.out = nn.Conv2d(16, 2, 1)

    def weights(self, deep: Tensor) -> Tensor:
        return self.ask(deep.flatten(0, 1)).view(*deep.shape[:2], *deep.shape[3:]).softmax(1)

    def forward(self, clip):
        images, dates = clip.shape[:2]
        top = F.relu(self.top(clip.flatten(0, 1)))
        deep = F.relu(self.deep(top)).unflatten(0, (images, dates))
        weights = self.weights(deep)
        below = (deep * weights[:, :, None]).sum(1)
        above = F.interpolate(weights, scale_factor=2, mode="bilinear")
        skip = (top.unflatten(0, (images, dates)) * above[:, :, None]).sum(1)
        return self.out(torch.cat([self.rise(below), skip], 1))


class MeanOfSeason(Season):
    """Clips with the channels first, and all dates count alike."""

    def forward(self, clip):
        images, dates = clip.shape[0], clip.shape[2]
        top = F.relu(self.top(clip.transpose(1, 2).reshape(-1, 3, *clip.shape[3:])))
        deep = F.relu(self.deep(top)).view(images, dates, 16, *[n // 2 for n in clip.shape[3:]])
        skip = top.unflatten(0, (images, dates)).amax(1)
        return self.out(torch.cat([self.rise(deep.mean(1)), skip], 1))


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    ("model", "shape"), [(Season(), (2, 4, 3, 32, 32)), (MeanOfSeason(), (2, 3, 4, 32, 48))]
)
def test_frames_that_become_one_are_held_to_their_number(
    model: nn.Module, shape: tuple[int, ...]
) -> None:
    clip = torch.randn(shape)
    found = ws.analyze(model, example_inputs=clip)
    structure = found.structure
    assert structure.sizes == "symbolic"
    assert structure.reductions == ((1.0, 1.0), (2.0, 2.0))
    assert [cut.keep_levels for cut in structure.cuts] == [1]
    assert any("4 frames a clip only" in note for note in structure.notes)
    small = found.proposals[0].build().module
    larger = torch.randn(*shape[:3], 64, 64)
    assert small(larger).shape == model(larger).shape
    frames = structure.inputs.layout.index("T")
    with pytest.raises(InputError, match="8 frames, and this network was read at 4 frames a clip"):
        small(torch.cat([clip, clip], frames))


def test_frames_that_are_taken_one_by_one_are_counted() -> None:
    structure = read_structure(FrameByFrame(), torch.randn(2, 4, 3, 32, 32))
    assert not structure.inputs.holds_frames
    graph = rebuild(structure)
    assert graph(torch.randn(2, 4, 3, 64, 32)).shape == (2, 4, 1, 64, 32)
    with pytest.raises(InputError, match="6 frames, and this network was read at 4 frames a clip"):
        graph(torch.randn(2, 6, 3, 32, 32))  # the last two had been left out without a word


class Halved(nn.Module):
    """Two frames, or more, that are made smaller before the first convolution sees them."""

    def __init__(self) -> None:
        super().__init__()
        self.top, self.deep = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 8, 3, padding=1)
        self.up, self.out = nn.Conv2d(12, 4, 3, padding=1), nn.Conv2d(4, 1, 1)

    def forward(self, clip: Tensor) -> Tensor:
        top = F.relu(self.top(F.avg_pool2d(clip.flatten(0, 1), 2)))
        deep = F.interpolate(F.relu(self.deep(F.max_pool2d(top, 2))), scale_factor=2.0)
        return self.out(F.relu(self.up(torch.cat([deep, top], 1)))).unflatten(0, clip.shape[:2])


def test_the_axes_of_a_clip_that_is_resized_first_are_inferred() -> None:
    structure = read_structure(Halved(), torch.zeros(2, 4, 3, 32, 32))
    assert structure.inputs.layout == "NTCHW"
    assert structure.reductions == ((1.0, 1.0), (2.0, 2.0), (4.0, 4.0))


class Framewise(Halved):
    """A clip (images, channels, frames, height, width), whose frames are worked on one by one."""

    def forward(self, clip: Tensor) -> Tensor:
        return super().forward(clip.movedim(2, 1)).movedim(1, 2)


def test_as_many_frames_as_channels_are_told_apart() -> None:
    clip = torch.randn(2, 3, 3, 32, 32)
    assert read_structure(Halved(), clip).inputs.layout == "NTCHW"
    structure = read_structure(Framewise(), clip)
    assert structure.inputs.layout == "NCTHW"
    longer = torch.randn(1, 3, 5, 32, 32)
    made = rebuild(structure).eval()(longer)
    torch.testing.assert_close(made, structure.model.eval()(longer), rtol=0, atol=0)


class Completed(nn.Module):
    """Volumes with their slices before their channels, which are joined with a mask's."""

    def __init__(self) -> None:
        super().__init__()
        self.top, self.deep = nn.Conv3d(3, 4, 3, padding=1), nn.Conv3d(4, 8, 3, 2, 1)
        self.up, self.out = nn.Conv3d(12, 4, 3, padding=1), nn.Conv3d(4, 2, 1)

    def forward(self, field: Tensor, mask: Tensor) -> Tensor:
        top = F.relu(self.top(torch.cat([field, mask], 2).transpose(1, 2)))
        deep = F.interpolate(F.relu(self.deep(top)), top.shape[2:])
        return self.out(F.relu(self.up(torch.cat([deep, top], 1)))).transpose(1, 2)


def test_the_axes_of_an_image_that_is_joined_with_another_are_inferred() -> None:
    example = torch.randn(1, 6, 2, 16, 16), torch.rand(1, 6, 1, 16, 16)
    structure = read_structure(Completed(), example)
    assert structure.inputs.layout == "NDCHW"
    assert structure.reductions == ((1.0, 1.0, 1.0), (2.0, 2.0, 2.0))


class TurnedInside(nn.Module):
    """Takes spectra (batch, bins, frames), and works on them turned; strides along the bins."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.top = nn.Conv2d({"alone": 1}.get(how, 2), 4, 3, padding=1)
        self.deep, self.up = nn.Conv2d(4, 8, 3, (1, 2), 1), nn.Conv2d(12, 2, 3, padding=1)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        if self.how == "last":
            maps = x.permute(0, 3, 2, 1)
        elif y is None:
            maps = x.transpose(1, 2).unsqueeze(1)
        else:
            maps = torch.stack([x, y], 1).transpose(2, 3)
        top = self.top(maps).relu()
        deep = F.interpolate(self.deep(top).relu(), top.shape[2:])
        return self.up(torch.cat([deep, top], 1)).transpose(2, 3)


@pytest.mark.parametrize(
    ("how", "given", "layout"),
    [
        ("alone", [(2, 32, 24)], "NWH"),
        ("two", [(2, 32, 24)] * 2, "NWH"),
        ("last", [(2, 32, 24, 2)], "NWHC"),
    ],
)
def test_spectra_that_are_turned_inside_have_their_sides(
    how: str, given: list[tuple[int, ...]], layout: str
) -> None:
    structure = read_structure(TurnedInside(how).eval(), tuple(map(torch.rand, given)))
    assert structure.inputs.layout == layout
    assert structure.reductions == ((1, 1), (1, 2))  # of W, the bins
    assert [cut.keep_levels for cut in structure.cuts] == [1]


class Bands(nn.Module):
    """Takes complex spectra (batch, bins, frames, 2), and works on bands of them, turned."""

    def __init__(self, how: str = "turned") -> None:
        super().__init__()
        self.order = (0, 2, 1) if how == "turned" else (0, 1, 2)
        self.stride = (1, 2) if how == "turned" else (2, 1)
        self.down, self.back = nn.Linear(32, 8, bias=False), nn.Linear(8, 32, bias=False)
        self.top, self.deep = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 8, 3, self.stride, 1)
        self.up = nn.Conv2d(12, 2, 3, padding=1)

    def _banded(self, maps: Tensor, layer: nn.Linear) -> Tensor:
        if self.stride == (2, 1):
            maps = maps.transpose(2, 3)
        made = torch.cat([maps[..., :24], layer(maps[..., 24:])], 3)
        return made.transpose(2, 3) if self.stride == (2, 1) else made

    def forward(self, x: Tensor) -> Tensor:
        real, imag = (x[..., part].permute(self.order) for part in (0, 1))
        maps = torch.stack([(real**2 + imag**2 + 1e-9).sqrt(), real, imag], 1)
        top = self.top(self._banded(maps, self.down)).relu()
        deep = F.interpolate(self.deep(top).relu(), top.shape[2:])
        made = self._banded(self.up(torch.cat([deep, top], 1)), self.back)
        return made.permute(0, 3, 2, 1) if self.stride == (1, 2) else made.permute(0, 2, 3, 1)


@pytest.mark.parametrize(
    ("how", "layout", "inferred", "reductions"),
    [
        ("turned", None, "NWHC", ((1, 1), (1, 2))),
        ("turned", "NHWC", "NHWC", ((1, 1), (2, 1))),
        ("as they are", None, "NHWC", ((1, 1), (2, 1))),
    ],
)
def test_bands_of_complex_spectra_make_no_level(
    how: str, layout: str | None, inferred: str, reductions: tuple[tuple[int, int], ...]
) -> None:
    structure = read_structure(Bands(how).eval(), torch.rand(2, 56, 40, 2), layout=layout)
    assert structure.inputs.layout == inferred
    assert structure.reductions == reductions
    assert structure.stages[0].layers == ("top",) or "down" in structure.stages[0].layers


class TurnedBetween(nn.Module):
    """Turns what the first layer made."""

    def __init__(self) -> None:
        super().__init__()
        self.top = nn.Conv2d(2, 4, 3, padding=1)
        self.deep, self.up = nn.Conv2d(4, 8, 3, (1, 2), 1), nn.Conv2d(12, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        top = self.top(x).relu().transpose(2, 3)
        deep = F.interpolate(self.deep(top).relu(), top.shape[2:])
        return self.up(torch.cat([deep, top], 1)).transpose(2, 3)


def test_a_map_that_is_turned_between_has_the_sides_that_it_follows() -> None:
    structure = read_structure(TurnedBetween().eval(), torch.rand(2, 2, 32, 24))
    assert structure.inputs.layout == ""
    assert structure.reductions == ((1, 1), (2, 1))
