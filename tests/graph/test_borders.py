"""Networks that lose borders: their levels follow the strides, at whatever size they are read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.networks import places
from weightscope.cost import count_costs
from weightscope.errors import InputError, StructureError
from weightscope.graph import Structure, read_structure
from weightscope.statistics import measure_model
from weightscope.truncation import propose, verify
from weightscope.truncation.building import build
from weightscope.truncation.plan import make_plan
from weightscope.utilization import assess

_CONVOLUTIONS: Mapping[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_TRANSPOSED: Mapping[int, Any] = {
    1: nn.ConvTranspose1d,
    2: nn.ConvTranspose2d,
    3: nn.ConvTranspose3d,
}
_POOLS: Mapping[int, Any] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}


def _cropped(x: Tensor, like: Tensor) -> Tensor:
    for axis in range(2, x.dim()):
        lost = x.shape[axis] - like.shape[axis]
        x = x.narrow(axis, lost // 2, like.shape[axis])
    return x


def _padded_by_less(x: Tensor, like: Tensor) -> Tensor:
    lost = [(x.shape[axis] - like.shape[axis]) for axis in reversed(range(2, x.dim()))]
    return F.pad(x, [-part for n in lost for part in (n // 2, n - n // 2)])


class Valid(nn.Module):
    """Three levels of unpadded convolutions; ``size`` makes the forward take that size alone.

    Args:
        size: Size of the image along each dimension; None: any.
        dimensions: Number of spatial dimensions.
        stride: Of the poolings and of what undoes them.
        padded: Whether the decoder's convolutions are padded.
        join: How a skip and what comes from below are brought to one size.
    """

    def __init__(
        self,
        size: int | None,
        dimensions: int = 2,
        stride: int = 2,
        padded: bool = False,
        join: str = "crop",
    ) -> None:
        super().__init__()
        convolution, up = _CONVOLUTIONS[dimensions], _TRANSPOSED[dimensions]
        self.size, self.stride, self.join = size, stride, join
        self.pool = _POOLS[dimensions]
        self.encoders = nn.ModuleList(convolution(a, b, 3) for a, b in ((1, 4), (4, 6), (6, 8)))
        self.ups = nn.ModuleList(up(a, b, stride, stride) for a, b in ((8, 6), (6, 4)))
        self.decoders = nn.ModuleList(
            convolution(a, b, 3, padding=int(padded)) for a, b in ((12, 6), (8, 4))
        )
        self.head = convolution(4, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        if self.size is not None:
            x = x.reshape(-1, 1, *[self.size] * (x.dim() - 2))
        skips = [self.encoders[0](x)]
        for encoder in self.encoders[1:]:
            skips.append(encoder(self.pool(skips[-1], self.stride)))
        y = skips.pop()
        for up, decoder in zip(self.ups, self.decoders, strict=True):
            y, skip = up(y), skips.pop()
            if self.join == "crop":
                skip = _cropped(skip, y)
            elif self.join == "negative padding":
                skip = _padded_by_less(skip, y)
            elif self.join == "padding":
                y = -_padded_by_less(-y, skip)
            else:
                y = F.interpolate(y, size=skip.shape[2:])
            y = decoder(torch.cat([skip, y], 1))
        return self.head(y)


def _read(model: nn.Module, size: int, dimensions: int = 2) -> Structure:
    return read_structure(model.eval(), torch.randn(1, 1, *[size] * dimensions))


_STAGES = {
    "encoder 0": ("encoders.0",),
    "encoder 1": ("encoders.1",),
    "bottleneck": ("encoders.2",),
    "decoder 1": ("ups.0", "decoders.0"),
    "decoder 0": ("ups.1", "decoders.1"),
    "head": ("head",),
}


def _assert_right(structure: Structure, reductions: tuple[float, ...]) -> None:
    assert [set(step) for step in structure.reductions] == [{step} for step in reductions]
    assert {stage.name: stage.layers for stage in structure.stages} == _STAGES
    assert [cut.keep_levels for cut in structure.cuts] == [1, 2]
    assert structure.refusals == ()


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    ("dimensions", "size", "join", "padded", "fixed"),
    [
        (2, 30, "crop", False, True),
        (2, 31, "crop", True, False),
        (2, 34, "negative padding", False, False),
        (2, 33, "padding", False, False),
        (2, 30, "resizing", False, False),
        (2, 30, "resizing", True, True),
        (1, 30, "crop", False, True),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in (
            (2, 30, "crop", False, False), (2, 31, "crop", True, True),
            (2, 34, "negative padding", False, True), (2, 33, "padding", False, True),
            (2, 30, "resizing", False, True), (2, 30, "resizing", True, False),
            (1, 30, "crop", False, False), (3, 30, "crop", False, True),
            (3, 30, "crop", False, False),
        )),
    ],
)  # fmt: skip
def test_levels_follow_the_strides(
    dimensions: int, size: int, join: str, padded: bool, fixed: bool
) -> None:
    model = Valid(size if fixed else None, dimensions, padded=padded, join=join)

    _assert_right(_read(model, size, dimensions), (1.0, 2.0, 4.0))


def test_strides_of_three() -> None:
    _assert_right(_read(Valid(66, stride=3), 66), (1.0, 3.0, 9.0))


def test_a_crop_into_strips_is_no_loss_of_borders() -> None:
    class Strips(Valid):
        def forward(self, x: Tensor) -> Tensor:
            x = x.reshape(-1, 1, 48, 48)
            # a roll by half, written as slices
            x = torch.cat([x[:, :, 24:], x[:, :, :24]], 2)
            return super().forward(x)

    _assert_right(_read(Strips(48), 48), (1.0, 2.0, 4.0))


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    ("axis", "chunked"),
    [(2, True), (3, False)]
    + [pytest.param(*case, marks=pytest.mark.slow) for case in ((2, False), (3, True))],
)
def test_strips_that_change_places_lose_nothing(axis: int, chunked: bool) -> None:
    class Strips(Valid):
        def forward(self, x: Tensor) -> Tensor:
            x = x.reshape(-1, 1, 48, 48)
            for _ in range(4):
                halves = x.chunk(2, axis) if chunked else (x.narrow(axis, 0, 24),)
                x = torch.cat([x.narrow(axis, 24, 24), halves[0]], axis)
            return super().forward(x)

    _assert_right(_read(Strips(48), 48), (1.0, 2.0, 4.0))


def test_frames_that_are_repeated_before_a_convolution_are_its_padding() -> None:
    class Causal(nn.Module):
        def __init__(self, before: int, after: int) -> None:
            super().__init__()
            self.convolution = nn.Conv3d(before, after, 3, padding=(0, 1, 1))

        def forward(self, x: Tensor) -> Tensor:
            return self.convolution(torch.cat([x[:, :, :1].repeat(1, 1, 2, 1, 1), x], 2))

    class Frame(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.top, self.deep = Causal(1, 4), nn.Sequential(*(Causal(4, 4) for _ in range(4)))
            self.back, self.head = Causal(8, 4), nn.Conv3d(4, 1, 1)

        def forward(self, x: Tensor) -> Tensor:
            top = self.top(x.reshape(-1, 1, 1, 16, 16))
            deep = self.deep(F.max_pool3d(top, (1, 2, 2)))
            up = F.interpolate(deep, scale_factor=(1.0, 2.0, 2.0))
            return self.head(self.back(torch.cat([up, top], 1)))

    structure = read_structure(Frame().eval(), torch.randn(1, 1, 1, 16, 16))

    assert structure.reductions == ((1.0, 1.0, 1.0), (1.0, 2.0, 2.0))


def test_what_is_read_at_one_size_is_built_and_recovered() -> None:
    images = torch.randn(6, 1, 30, 30)
    structure = read_structure(Valid(30).eval(), images[:2])
    assessment = assess(structure, measure_model(structure.model))
    costs = count_costs(structure.model, structure.inputs)

    for proposal in propose(structure, assessment, costs):
        variant = proposal.build()
        variant.recover([images], steps=2, progress=False)
        assert variant.module(images).shape == structure.model(images).shape


class Bands(nn.Module):
    """Crops a spectrogram to 32 rows; two bands are worked on apart, and joined again.

    Args:
        context: Whether the means over all rows are looked at below.
    """

    def __init__(self, context: bool = False) -> None:
        super().__init__()
        self.low, self.high = (nn.Conv2d(1, 4, 3, padding=1) for _ in range(2))
        self.down = nn.Conv2d(4, 8, 3, stride=2, padding=1)
        self.deep = nn.Conv2d(8, 8, 3, padding=1)
        self.means = nn.Conv2d(8, 8, 1) if context else None
        self.back, self.head = nn.Conv2d(12, 4, 3, padding=1), nn.Conv2d(4, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, :, :32]
        half = x.shape[2] // 2
        top = torch.cat([self.low(x[:, :, :half]), self.high(x[:, :, half:])], 2).relu()
        deep = self.deep(self.down(top).relu()).relu()
        if self.means is not None:
            rows = self.means(F.adaptive_avg_pool2d(deep, (1, None)))
            deep = deep + F.interpolate(rows, size=deep.shape[2:])
        up = F.interpolate(deep, scale_factor=2)
        return self.head(self.back(torch.cat([up, top], 1)).relu())


@pytest.mark.parametrize("context", [False, True])
def test_a_side_that_is_cropped_to_one_size_is_read_by_its_strides(context: bool) -> None:
    structure = read_structure(Bands(context).eval(), torch.randn(1, 1, 33, 48))

    assert structure.reductions == ((1.0, 1.0), (2.0, 2.0))
    names = {stage.name: set(stage.layers) for stage in structure.stages}
    assert names["encoder 0"] == {"low", "high"}
    assert names["bottleneck"] == {"down", "deep"} | ({"means"} if context else set())
    assert [cut.keep_levels for cut in structure.cuts] == [1]


def test_a_variant_of_cropped_spectrograms_takes_any_width_and_no_fewer_rows() -> None:
    images = torch.randn(2, 1, 33, 48)
    structure = read_structure(Bands().eval(), images)
    assessment = assess(structure, measure_model(structure.model))
    costs = count_costs(structure.model, structure.inputs)

    (proposal,) = propose(structure, assessment, costs)
    module = proposal.build().module

    for rows, columns in ((33, 48), (40, 64)):
        image = torch.randn(2, 1, rows, columns)
        assert module(image).shape == structure.model(image).shape
    with pytest.raises(InputError, match="takes another way"):
        module(torch.randn(2, 1, 28, 48))  # the bands are 14 rows high there


class _Steps(nn.Module):
    """Frames are repeated before each convolution in time; norms see one frame at a time."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(1, before)
        self.convolution = nn.Conv3d(before, after, 3, padding=(0, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        batch = x.shape[0]
        x = self.norm(x.permute(0, 2, 1, 3, 4).flatten(0, 1))
        x = x.unflatten(0, (batch, -1)).permute(0, 2, 1, 3, 4)
        return self.convolution(F.pad(x, (0, 0, 0, 0, 2, 0), mode="replicate"))


class Clip(nn.Module):
    """A network of clips.

    Args:
        chunk: Frames that are worked on at a time.
    """

    def __init__(self, chunk: int) -> None:
        super().__init__()
        self.chunk = chunk
        self.top, self.deep = _Steps(1, 4), nn.Sequential(*(_Steps(4, 4) for _ in range(4)))
        self.back, self.head = _Steps(8, 4), nn.Conv3d(4, 1, 1)

    def part(self, x: Tensor) -> Tensor:
        top = self.top(x)
        deep = self.deep(F.max_pool3d(top, (1, 2, 2)))
        up = F.interpolate(deep, scale_factor=(1.0, 2.0, 2.0))
        return self.head(self.back(torch.cat([up, top], 1)))

    def forward(self, x: Tensor) -> Tensor:
        chunks = [x[:, :, i : i + self.chunk] for i in range(0, 4, self.chunk)]
        return torch.cat([self.part(chunk) for chunk in chunks], 2)


def test_frames_that_went_into_the_batch_and_came_back_are_padded_as_before() -> None:
    structure = read_structure(Clip(4).eval(), torch.randn(1, 1, 5, 16, 16))

    assert structure.reductions == ((1.0, 1.0, 1.0), (1.0, 2.0, 2.0))


def test_a_clip_that_is_taken_apart_is_refused_as_that_and_the_remedy_works() -> None:
    class Piece(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.clip = Clip(2)

        def forward(self, x: Tensor) -> Tensor:
            return self.clip.part(x)

    with pytest.raises(StructureError, match="apart in pieces of a fixed size"):
        read_structure(Clip(2).eval(), torch.randn(1, 1, 5, 16, 16))

    structure = read_structure(Piece().eval(), torch.randn(1, 1, 2, 16, 16))
    assert structure.reductions == ((1.0, 1.0, 1.0), (1.0, 2.0, 2.0))


class Mixing(nn.Module):
    """A kernel of one position, as a sum over products."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out, channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(torch.einsum("bchw,oc->bohw", x, self.weight))


class OtherGrids(nn.Module):
    """A network of one size that goes to coarser grids by the numbers of their rows and columns."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.table = nn.Parameter(torch.randn(1, 4, 32, 48))
        self.top, self.middle, self.deep = nn.Conv2d(3, 4, 1), Mixing(4, 6), Mixing(6, 8)
        self.up, self.out = Mixing(14, 6), nn.Conv2d(10, 3, 1)

    def taken(self, x: Tensor, high: int, wide: int) -> Tensor:
        rows = torch.linspace(0, x.shape[2] - 1, high).long()
        columns = torch.linspace(0, x.shape[3] - 1, wide).long()
        if self.how == "select":
            return x.index_select(2, rows).index_select(3, columns)
        if self.how == "blend":
            x = F.pad(x, (0, 0, 1, 1), mode="replicate")
            return torch.lerp(x[:, :, rows], x[:, :, rows + 1], 0.5)[:, :, :, columns]
        return x[:, :, rows][:, :, :, columns]

    def forward(self, x: Tensor) -> Tensor:
        top = F.relu(self.top(x) + self.table)
        middle = self.middle(self.taken(top, 16, 24))
        deep = self.deep(self.taken(middle, 8, 12))
        up = self.up(torch.cat([self.taken(deep, 16, 24), middle], 1))
        return self.out(torch.cat([self.taken(up, 32, 48), top], 1))


@pytest.mark.sample(1)
@pytest.mark.parametrize("how", ["index", "select", "blend"])
def test_other_grids_are_levels_where_a_network_holds_at_one_size(how: str) -> None:
    structure = read_structure(OtherGrids(how).eval(), torch.randn(1, 3, 32, 48))
    assert structure.reductions == ((1, 1), (2, 2), (4, 4))
    names = {layer: stage.name for layer, stage in structure.stage_of.items()}
    assert names["middle"] == "encoder 1"
    assert names["deep"] == "bottleneck"
    assert names["up"] == "decoder 1"
    assert [cut.keep_levels for cut in structure.cuts] == [1, 2]


class Modulated(nn.Module):
    """A convolution whose weights a style scales for each image; it doubles the size and blurs."""

    def __init__(self, channels: int, grows: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1, channels, channels, 3, 3))
        self.style, self.grows = nn.Linear(8, channels), grows
        self.register_buffer("blur", torch.ones(1, 1, 4, 4) / 4)

    def forward(self, x, style):
        images, channels, height, width = x.shape
        weight = self.weight * self.style(style).view(images, 1, channels, 1, 1)
        size = weight.pow(2).sum([2, 3, 4]) + 1e-8
        weight = weight * size.rsqrt().view(images, channels, 1, 1, 1)
        x = x.reshape(1, images * channels, height, width)
        if not self.grows:
            weight = weight.reshape(images * channels, channels, 3, 3)
            return F.conv2d(x, weight, padding=1, groups=images).view(images, -1, height, width)
        weight = weight.transpose(1, 2).reshape(images * channels, channels, 3, 3)
        x = F.conv_transpose2d(x, weight, stride=2, groups=images)  # one pixel too many
        x = x.view(images * channels, 1, *x.shape[-2:])
        x = F.conv2d(F.pad(x, (1, 1, 1, 1)), self.blur)
        return x.view(images, channels, *x.shape[-2:])


class Inverted(nn.Module):
    """An encoder makes styles, of which a generator draws an image from a learned map."""

    def __init__(self) -> None:
        super().__init__()
        steps = [nn.Conv2d(3, 6, 3, 1, 1), *(nn.Conv2d(6, 6, 3, 2, 1) for _ in range(3))]
        self.down = nn.ModuleList(steps)
        self.to_style, self.start = nn.Linear(6, 8), nn.Parameter(torch.randn(1, 6, 4, 4))
        self.drawn = nn.ModuleList(Modulated(6, grows) for grows in (False, True, True, True))
        self.out = nn.Conv2d(6, 3, 1)

    def forward(self, x):
        for layer in self.down:
            x = layer(x).relu()
        style = self.to_style(x.mean((2, 3)))
        x = self.start.expand(x.shape[0], -1, -1, -1)
        for layer in self.drawn:
            x = F.leaky_relu(layer(x, style), 0.2)
        return self.out(x)


def test_weights_that_are_made_of_the_image_are_no_maps() -> None:
    structure = read_structure(Inverted().eval(), torch.randn(2, 3, 32, 32))
    assert structure.reductions == ((1.0, 1.0), (2.0, 2.0), (4.0, 4.0), (8.0, 8.0))
    stage = places(structure)
    assert [stage[f"down.{level}"] for level in range(3)] == [f"encoder {i}" for i in range(3)]
    assert stage["down.3"] == stage["drawn.0"] == "bottleneck"


def test_vectors_that_make_weights_above_leave_a_cut() -> None:
    model = Inverted().eval()
    structure = read_structure(model, torch.randn(2, 3, 32, 32))
    assert [cut.keep_levels for cut in structure.cuts] == [1, 2, 3]
    x = torch.randn(3, 3, 32, 32)
    for cut in structure.cuts:
        assert {"vector", "channels_first"} == {site.layout for site in cut.exits}
        variant = build(structure, make_plan(structure, cut, width=4))
        assert variant.module.eval()(x).shape == x.shape
        assert verify(variant, sizes=[x], export=False).failures == ()
    kept = dict(variant.module.named_parameters())  # the scaled weights, and not what scales them
    assert "drawn.3.weight" in kept


@pytest.mark.parametrize("spectral", [False, True])
def test_a_pad_behind_channels_that_were_last_is_counted_back(spectral: bool) -> None:
    class Operator(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lift, self.out = nn.Linear(2, 4), nn.Linear(4, 1)
            self.down, self.up = nn.Conv2d(4, 8, 3, 2, 1), nn.ConvTranspose2d(8, 4, 2, 2)

        def forward(self, x: Tensor) -> Tensor:
            grid = torch.zeros(x.shape[0], int(x.shape[1]), int(x.shape[2]), 1)
            y = self.lift(torch.cat([x, grid], -1)).permute(0, 3, 1, 2)
            y = F.pad(y, [0, 8, 0, 8])
            if spectral:
                y = torch.fft.irfft2(torch.fft.rfft2(y), s=y.shape[-2:])
            y = y + self.up(self.down(y).relu())
            return self.out(y[..., :-8, :-8].permute(0, 2, 3, 1))

    structure = read_structure(Operator().eval(), torch.randn(2, 32, 32, 1), layout="NHWC")
    assert structure.reductions == ((1.0, 1.0), (2.0, 2.0))
    assert [cut.keep_levels for cut in structure.cuts] == [1]


class OfACode(nn.Module):
    """Makes a code of an image of one size, and all of a map of the code (DCGAN, 3D-GAN)."""

    def __init__(self, dimensions: int) -> None:
        super().__init__()
        down, up = (getattr(nn, f"{kind}{dimensions}d") for kind in ("Conv", "ConvTranspose"))
        self.ones = (1,) * dimensions
        self.down1, self.down2 = down(1, 4, 4, 2, 1), down(4, 8, 4, 2, 1)
        self.code = nn.Linear(8 * 4**dimensions, 12)
        self.whole, self.up1, self.up0 = up(12, 8, 4), up(8, 4, 4, 2, 1), up(4, 4, 4, 2, 1)
        self.out = down(4, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        deep = self.down2(self.down1(x).relu()).relu()
        code = self.code(deep.flatten(1)).unflatten(1, (12, *self.ones))
        return self.out(self.up0(self.up1(self.whole(code).relu()).relu()).relu())


@pytest.mark.parametrize("dimensions", [2, 3])
def test_a_map_that_is_made_of_one_position_has_its_own_level(dimensions: int) -> None:
    torch.manual_seed(0)
    structure = read_structure(OfACode(dimensions).eval(), torch.randn(1, 1, *(16,) * dimensions))
    assert structure.reductions == tuple((n,) * dimensions for n in (1, 2, 4))
    places = {layer: stage.name for stage in structure.stages for layer in stage.layers}
    assert (places["whole"], places["up1"], places["up0"]) == (
        "bottleneck",
        "decoder 1",
        "decoder 0",
    )


class DownToOne(nn.Module):
    """A table holds its size; strides go down to one position, where a vector weighs channels."""

    def __init__(self, levels: int = 3) -> None:
        super().__init__()
        ways = range(levels)
        self.down = nn.ModuleList(nn.Conv2d(4 if i else 3, 4, 4, 2, 1) for i in ways)
        self.norms = nn.ModuleList(nn.GroupNorm(1, 4) for _ in ways)
        self.deep, self.weigh = nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4, 4)
        self.up = nn.ModuleList(nn.ConvTranspose2d(8 if i else 4, 4, 4, 2, 1) for i in ways)
        self.table, self.out = nn.Parameter(torch.zeros(3, 8, 8)), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x, skips = x + self.table, []
        for down, norm in zip(self.down, self.norms, strict=True):
            x = norm(down(x)).relu()
            skips.append(x)
        x = self.deep(x).relu()
        x = x * self.weigh(x.mean((2, 3))).sigmoid()[:, :, None, None]
        for i, up in enumerate(self.up):
            x = up(torch.cat([x, skips[-1 - i]], 1) if i else x).relu()
        return self.out(x)


def test_a_map_of_one_position_that_strides_lead_to_is_a_level() -> None:
    structure = read_structure(DownToOne().eval(), torch.randn(2, 3, 8, 8))
    assert structure.reductions == ((1, 1), (2, 2), (4, 4), (8, 8))
    names = "down.1", "norms.1", "down.2", "deep", "weigh", "up.0", "up.2", "out"
    assert [structure.stage_of[name].name for name in names] == [
        *("encoder 2", "encoder 2", "bottleneck", "bottleneck", "bottleneck"),
        *("decoder 2", "decoder 0", "head"),
    ]
    assert [cut.keep_levels for cut in structure.cuts] == [1, 2, 3]
