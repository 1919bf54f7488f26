"""Networks whose padding is computed from the input's size, by divisions that are rounded."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._dynamo.source import ConstantSource
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv

from weightscope.adapters import integers, tracing
from weightscope.adapters.quotients import nearest, never_below, rounded
from weightscope.adapters.symbols import Probe, SizeWriter, free_symbols
from weightscope.cost import count_costs
from weightscope.errors import InputError
from weightscope.graph import read_structure, rebuild
from weightscope.truncation.building import build, draft
from weightscope.truncation.checks import verify
from weightscope.truncation.plan import make_plan

SIZES = ((64, 64), (96, 32), (50, 38), (33, 61))
Padding = Callable[[Any, int, int], Any]


def with_ceil(size: Any, kernel: int, stride: int) -> Any:
    return max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)


def with_integers(size: Any, kernel: int, stride: int) -> Any:
    return max(kernel - stride if size % stride == 0 else kernel - size % stride, 0)


def by_hand(size: Any, kernel: int, stride: int) -> Any:
    frames = (size - kernel + kernel) / stride + 1.0
    return max(stride * (math.ceil(frames) - 1) + kernel - size - stride % 2, 0)


def of_negatives(size: Any, kernel: int, stride: int) -> Any:
    return max(-size % stride + kernel - stride, 0)


class Same(nn.Conv2d):
    """A convolution that pads as much as its stride needs, and more behind than before."""

    padded: Padding = staticmethod(with_ceil)

    def forward(self, x: Tensor) -> Tensor:
        along = zip(x.shape[2:], self.kernel_size, self.stride, strict=True)
        high, wide = (self.padded(*given) for given in along)
        x = F.pad(x, (wide // 2, wide - wide // 2, high // 2, high - high // 2))
        return F.conv2d(x, self.weight, self.bias, self.stride)


class Padded(nn.Module):
    """Four levels; decoders that resize to the size of the skip connection."""

    def __init__(self, padded: Padding = with_ceil, kernel: int = 3) -> None:
        super().__init__()
        kind = type("Same", (Same,), {"padded": staticmethod(padded)})
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.downs = nn.ModuleList([kind(4, 4, kernel, 2), kind(4, 4, 5, 2), kind(4, 4, 2, 2)])
        self.ups = nn.ModuleList([nn.Conv2d(8, 4, 3, padding=1) for _ in range(3)])
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        maps = [F.relu(self.stem(x))]
        for down in self.downs:
            maps.append(F.relu(down(maps[-1])))
        x = maps.pop()
        for up in self.ups:
            skip = maps.pop()
            x = F.relu(up(torch.cat([F.interpolate(x, skip.shape[2:]), skip], 1)))
        return self.head(x)


class PaddedHere(Padded):
    """The same, with its arithmetic in a forward that a cut takes apart."""

    def forward(self, x: Tensor) -> Tensor:
        high, wide = (with_ceil(n, 5, 4) for n in x.shape[2:])
        out = super().forward(F.pad(x, (wide // 2, wide - wide // 2, 0, high)))
        return out[:, :, : x.shape[2], : x.shape[3]]


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "ceil": Padded,
    "a kernel below its stride": lambda: Padded(kernel=1),
    "frames": lambda: Padded(by_hand),
    "negatives": lambda: Padded(of_negatives),
    "around": PaddedHere,
}


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow if n == "frames" else ()) for n in NETWORKS],
)
def test_padding_that_is_rounded_follows_every_size(name: str) -> None:
    torch.manual_seed(0)
    model = NETWORKS[name]().eval()
    structure = read_structure(model)
    assert (structure.sizes, structure.notes) == ("symbolic", ())
    assert structure.reductions == ((1, 1), (2, 2), (4, 4), (8, 8))
    assert [cut.keep_levels for cut in structure.cuts] == [1, 2, 3]
    graph = rebuild(structure)
    images = [torch.randn(2, 3, *size) for size in SIZES]
    for image in images:
        torch.testing.assert_close(graph(image), model(image), rtol=0, atol=0)
    costs = count_costs(model, structure.inputs)
    for cut in structure.cuts if name == "ceil" else structure.cuts[1:2]:
        plan = draft(structure, make_plan(structure, cut, "pool"), costs).plan
        variant = build(structure, plan)
        assert verify(variant, sizes=images, export=False).failures == ()


@pytest.mark.slow
def test_padding_with_branches_is_refused_where_another_one_is_taken() -> None:
    model = Padded(with_integers).eval()
    graph = rebuild(read_structure(model))
    for size in ((64, 64), (96, 32)):
        image = torch.randn(1, 3, *size)
        torch.testing.assert_close(graph(image), model(image), rtol=0, atol=0)
    with pytest.raises(InputError, match=r"x is 50x38, where the forward takes another way"):
        graph(torch.randn(1, 3, 50, 38))


class Signal(nn.Module):
    """A signal padded in front as its frames need, as codecs of sound do."""

    def __init__(self) -> None:
        super().__init__()
        self.top, self.deep = nn.Conv1d(1, 4, 3, padding=1), nn.Conv1d(4, 8, 5, 4)
        self.up, self.out = nn.ConvTranspose1d(8, 4, 5, 4), nn.Conv1d(8, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        top = F.relu(self.top(x))
        length = top.shape[-1]
        frames = (length - 5 + 1) / 4 + 1
        ideal = (math.ceil(frames) - 1) * 4 + (5 - 1)
        deep = F.relu(self.deep(F.pad(top, (1, ideal - length))))
        up = F.relu(self.up(deep))[..., :length]
        return self.out(torch.cat([top, up], 1))


def test_a_signal_that_is_padded_by_its_frames_keeps_its_length_free() -> None:
    torch.manual_seed(0)
    model = Signal().eval()
    structure = read_structure(model)
    assert (structure.sizes, structure.notes) == ("symbolic", ())
    graph = rebuild(structure)
    for length in (512, 64, 63, 62, 61):
        x = torch.randn(2, 1, length)
        torch.testing.assert_close(graph(x), model(x), rtol=0, atol=0)


class Even(Padded):
    """Adds a row and a column where there is an odd number of them."""

    def forward(self, x: Tensor) -> Tensor:
        high, wide = (math.ceil(n / 2) * 2 - n for n in x.shape[2:])
        out: Tensor = super().forward(F.pad(x, (0, wide, 0, high)))
        return out[:, :, : x.shape[2], : x.shape[3]]


def test_what_does_not_hold_at_another_size_is_read_at_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def down(value: Any, up: bool, sizes: Any) -> Any:
        return rounded(value, False, sizes)  # as many at even sizes

    model = Even().eval()
    assert read_structure(model).notes == ()
    monkeypatch.setattr(integers, "rounded", down)
    structure = read_structure(model)
    assert any("read at 256x256 only" in note for note in structure.notes)
    with pytest.raises(InputError, match=r"x is 33x61.*read at 256x256"):
        rebuild(structure)(torch.randn(1, 3, 33, 61))


class Windows(Padded):
    """Attends in windows of four, padded as shifted windows are."""

    def forward(self, x: Tensor) -> Tensor:
        high, wide = ((4 - n % 4) % 4 for n in x.shape[2:])
        y = F.pad(x, (0, wide, 0, high))
        batch, channels, rows, columns = y.shape
        y = y.view(batch, channels, rows // 4, 4, columns // 4, 4).permute(0, 2, 4, 3, 5, 1)
        tokens = y.reshape(-1, 16, channels)
        tokens = tokens + tokens.mean(1, keepdim=True)
        y = tokens.view(batch, rows // 4, columns // 4, 4, 4, channels).permute(0, 5, 1, 3, 2, 4)
        y = y.reshape(batch, channels, rows, columns)
        out: Tensor = super().forward(y[:, :, : x.shape[2], : x.shape[3]])
        return out


def test_what_computes_too_much_with_its_sizes_is_read_at_multiples(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    model = Windows(with_integers).eval()
    monkeypatch.setattr(tracing, "LARGEST_QUESTION", 10)
    structure = read_structure(model)
    assert any("read at multiples of 32x32 only" in note for note in structure.notes)
    costs = count_costs(model, structure.inputs)
    plan = draft(structure, make_plan(structure, structure.cuts[1], "pool"), costs).plan
    variant = build(structure, plan)
    images = [torch.randn(3, 3, *size) for size in ((64, 64), (96, 32))]
    assert verify(variant, sizes=images, export=False).failures == ()
    graph = rebuild(structure)
    for image in images:
        torch.testing.assert_close(graph(image), model(image), rtol=0, atol=0)
    with pytest.raises(InputError, match=r"x is 33x61.*read at multiples of 32x32"):
        graph(torch.randn(1, 3, 33, 61))


class Halved(Padded):
    """Looks at small images as they are, and at large ones from afar."""

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = super().forward(F.avg_pool2d(x, 3, 1, 1) if x.shape[2] > 300 else x)
        return out


@pytest.mark.slow
def test_a_graph_is_compared_where_the_forward_takes_the_way_that_was_read() -> None:
    model = Halved(with_integers).eval()
    graph = rebuild(read_structure(model))
    for size in ((64, 64), (288, 32)):
        image = torch.randn(1, 3, *size)
        torch.testing.assert_close(graph(image), model(image), rtol=0, atol=0)
    with pytest.raises(InputError, match=r"x is 320x32, where the forward takes another way"):
        graph(torch.randn(1, 3, 320, 32))


class Joined(nn.Module):
    """Joins what comes up with a skip that is larger where a size is odd."""

    def __init__(self, fit: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.fit = fit
        self.a, self.b = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.c, self.d = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(8, 4, 3, padding=1)
        self.e = nn.Conv2d(8, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        a = F.relu(self.a(x))
        b = F.relu(self.b(F.max_pool2d(a, 2)))
        c = F.relu(self.c(F.max_pool2d(b, 2)))
        d = self.d(torch.cat([self.fit(F.interpolate(c, scale_factor=2.0), b), b], 1))
        return self.e(torch.cat([self.fit(F.interpolate(d, scale_factor=2.0), a), a], 1))


def padded_to(x: Tensor, like: Tensor) -> Tensor:
    high, wide = (b - a for a, b in zip(x.shape[2:], like.shape[2:], strict=True))
    if high != 0 or wide != 0:
        x = F.pad(x, [wide // 2, wide - wide // 2, high // 2, high - high // 2])
    return x


def resized_to(x: Tensor, like: Tensor) -> Tensor:
    return x if x.shape == like.shape else F.interpolate(x, like.shape[2:], mode="bilinear")


def padded_by_one(x: Tensor, like: Tensor) -> Tensor:
    if x.shape[2] != like.shape[2]:
        x = F.pad(x, [0, 0, 0, 1])
    return F.pad(x, [0, 1]) if x.shape[3] != like.shape[3] else x


@pytest.mark.sample(1)
@pytest.mark.parametrize("fit", [padded_to, resized_to])
def test_what_fits_maps_where_they_differ_follows_every_size(
    fit: Callable[[Tensor, Tensor], Tensor],
) -> None:
    torch.manual_seed(0)
    model = Joined(fit).eval()
    structure = read_structure(model)
    assert (structure.sizes, structure.notes) == ("symbolic", ())
    assert structure.reductions == ((1, 1), (2, 2), (4, 4))
    assert [cut.keep_levels for cut in structure.cuts] == [1, 2]
    assert structure.inputs.args[0].shape[2:] == (256, 256)
    graph = rebuild(structure)
    images = [torch.randn(2, 1, *size) for size in ((64, 32), (37, 64), (64, 38), (61, 59))]
    for image in images:
        torch.testing.assert_close(graph(image), model(image), rtol=0, atol=0)
    costs = count_costs(model, structure.inputs)
    plan = draft(structure, make_plan(structure, structure.cuts[1]), costs).plan
    variant = build(structure, plan).module
    assert [variant(image).shape for image in images] == [image.shape for image in images]


def test_a_way_that_does_not_hold_at_the_example_is_refused() -> None:
    model = Joined(padded_by_one).eval()
    graph = rebuild(read_structure(model))
    image = torch.randn(1, 1, 64, 32)
    torch.testing.assert_close(graph(image), model(image), rtol=0, atol=0)
    with pytest.raises(InputError, match=r"x is 37x64, where the forward takes another way"):
        graph(torch.randn(1, 1, 37, 64))


def test_a_variant_is_verified_at_the_sizes_that_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(integers, "rounded", lambda value, up, sizes: rounded(value, False, sizes))
    monkeypatch.setattr("weightscope.graph.read.differs_elsewhere", lambda *args, **kwargs: False)
    structure = read_structure(Even().eval())
    costs = count_costs(structure.model, structure.inputs)
    plan = draft(structure, make_plan(structure, structure.cuts[1], "pool"), costs).plan
    sizes = [torch.randn(1, 3, 64, 64), torch.randn(1, 3, 33, 61)]
    failed = {c.name: c.detail for c in verify(build(structure, plan), sizes=sizes).failures}
    assert failed["read"].startswith("inputs [(1, 3, 33, 61)]: tensor 0 of the outputs differs")


class Asked(nn.Module):
    """Returns as many columns as a function of the image's size says."""

    def __init__(self, asks: Callable[[Any], Any]) -> None:
        super().__init__()
        self.asks = asks

    def forward(self, x: Tensor) -> Tensor:
        return x.new_zeros(1, self.asks(x.shape[-1]))


QUOTIENTS: dict[str, Callable[[Any], Any]] = {
    "ceil": lambda n: math.ceil(n / 3),
    "floor": lambda n: math.floor(n / 3),
    "added": lambda n: math.ceil((n - 5) / 4 + 2),
    "share": lambda n: math.floor(n * 0.75),
    "twice": lambda n: math.ceil(math.ceil(n / 2) / 2),
    "no share": lambda n: math.floor(n * 0.3),
    "two": lambda n: math.ceil(n / 3 + n / 5),
    "times": lambda n: math.floor(n / 49 * 49),
    "largest": lambda n: max(n - n // 3 * 3 - 2, 0) + 1,
    "smallest": lambda n: min(n // 2 - n // 4 * 2, 1) + 1,
    "undecided": lambda n: max(n - n // 3 * 3 - 1, 0) + 1,
    "of the input": lambda n: max(n - 20, 10),
}


@pytest.mark.parametrize("name", QUOTIENTS)
def test_what_is_written_in_whole_numbers_is_the_same_number(name: str) -> None:
    model = Asked(QUOTIENTS[name])
    made = _traced(model).meta["val"]
    for n in range(24, 130):
        assert Probe(dict.fromkeys(free_symbols(made.shape), n)).shape(made) == (
            1,
            model.asks(n),
        ), n


def _traced(model: nn.Module) -> Any:
    def within(module: nn.Module, args: Any) -> None:
        stack.enter_context(integers.whole_quotients(args))

    with ExitStack() as stack:
        model.register_forward_pre_hook(within)
        shapes = {"x": {1: torch.export.Dim.AUTO}}
        program = torch.export.export(model, (torch.zeros(1, 128),), dynamic_shapes=shapes)
    return next(n for n in reversed(program.graph.nodes) if n.op == "call_function")


def test_what_is_never_below_is_known_from_what_divisions_leave_over() -> None:
    size = _free_size()
    for divisor, more in itertools.product(range(1, 6), range(-6, 7)):
        left = size - size // divisor * divisor
        values = [n % divisor + more for n in range(60)]
        assert never_below(left + more, 0) == (min(values) >= 0)
        assert never_below(0, left + more) == (max(values) <= 0)
    assert not never_below(size, 0)  # a size may be any
    assert never_below(size + 1, size)


def _free_size() -> torch.SymInt:
    env = ShapeEnv()
    made = env.create_symbol(64, ConstantSource("n"), DimDynamic.DYNAMIC)
    found = env.create_symintnode(made, hint=64)
    assert isinstance(found, torch.SymInt)
    return found


def test_only_what_is_whole_at_every_size_is_rounded_to_the_nearest() -> None:
    size = _free_size()
    sizes = {size.node.expr: size}
    for whole, share in (
        (12 * size * 0.25, 3 * size),
        (30 * size * (1 / 3), 10 * size),
        (6 * size * (8 * size / (12 * size)), 4 * size),
    ):
        assert str(nearest(whole, sizes)) == str(share)
    for other in (size * 0.5, 10 * size * (1 / 3), size * 2 + 0.5, 8 * size * 0.3000001):
        assert nearest(other, sizes) is None


def test_what_is_one_number_at_every_size_is_written_as_that() -> None:
    size, graph = _free_size(), torch.fx.Graph()
    known = {str(size.node.expr): graph.placeholder("n")}
    lacks = -((1 - (size - 1) // 2) // 2) - (size - 1) // 4
    assert SizeWriter(graph, known).write(lacks) == 0


@pytest.mark.slow
@pytest.mark.parametrize("encoder", ["timm-mobilenetv3_small_minimal_100", "tu-tf_efficientnet_b0"])
@pytest.mark.parametrize("architecture", ["Unet", "FPN"])
def test_encoders_that_pad_as_tensorflow_follow_every_size(architecture: str, encoder: str) -> None:
    smp = pytest.importorskip("segmentation_models_pytorch")
    torch.manual_seed(0)
    model = getattr(smp, architecture)(encoder, encoder_weights=None, classes=3).eval()
    structure = read_structure(model)
    assert (structure.sizes, structure.notes) == ("symbolic", ())
    graph = rebuild(structure)
    for size in ((96, 160), (224, 128), (250, 190)):
        image = torch.randn(1, 3, *size)
        try:
            expected = model(image)
        except RuntimeError:
            assert size == (250, 190)  # all but Unet want what 32 divides
            continue
        torch.testing.assert_close(graph(image), expected)


class Listed(nn.Module):
    """Images of sizes of their own, which the forward lays into one batch."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.top, self.deep = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 8, 3, 2, 1)
        self.out = nn.Conv2d(12, 2, 3, padding=1)

    def batch(self, images: list[Tensor]) -> Tensor:
        high, wide = (-(-max(i.shape[side] for i in images) // 8) * 8 for side in (-2, -1))
        if self.how == "written":
            made = images[0].new_full([len(images), 3, high, wide], 0.0)
            for number, image in enumerate(images):
                made[number, :, : image.shape[-2], : image.shape[-1]].copy_(image)
            return made
        padded = [F.pad(i, (0, wide - i.shape[-1], 0, high - i.shape[-2])) for i in images]
        return torch.cat(padded) if self.how == "joined" else torch.stack(padded)

    def forward(self, images: list[Tensor]) -> Tensor:
        top = self.top(self.batch([(image - 0.5) / 0.2 for image in images])).relu()
        deep = F.interpolate(self.deep(top).relu(), scale_factor=2.0)
        return self.out(torch.cat([top, deep], 1))


@pytest.mark.parametrize("how", ["stacked", "written", "joined"])
def test_images_that_are_padded_to_one_batch_have_its_levels(how: str) -> None:
    ahead = (1,) if how == "joined" else ()
    sides = [(40, 32), (32, 48), (24, 24)]
    images = [torch.rand(*ahead, 3, *side) for side in sides]
    structure = read_structure(Listed(how), (images,))
    assert structure.reductions == ((1.0, 1.0), (2.0, 2.0))
    variant = build(structure, make_plan(structure, structure.cuts[0], width=4))
    assert len(set(variant.receptive_field)) == 1
    others = [torch.rand(*ahead, 3, *side) for side in ((61, 47), (64, 64), (80, 33))]
    assert variant.module(others).shape == (3, 2, 80, 64)
