"""Forwards that fit maps to each other: by numbers, tables, and sizes put into tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weightscope.adapters.symbols import key
from weightscope.cost import count_costs
from weightscope.errors import InputError
from weightscope.graph import read_structure, rebuild
from weightscope.truncation.building import build, draft
from weightscope.truncation.checks import verify
from weightscope.truncation.plan import make_plan

SIZES = ((64, 64), (63, 61), (75, 97), (66, 95), (128, 63))


class UNet(nn.Module):
    """Three levels; how maps of two levels meet is what the networks below vary."""

    def __init__(self) -> None:
        super().__init__()
        self.top, self.middle = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 8, 3, padding=1)
        self.deep = nn.Conv2d(8, 8, 3, padding=1)
        self.raise1, self.raise0 = (nn.ConvTranspose2d(8, 8, 2, 2) for _ in range(2))
        self.up1, self.up0 = nn.Conv2d(16, 8, 3, padding=1), nn.Conv2d(12, 4, 3, padding=1)
        self.out = nn.Conv2d(4, 1, 1)

    def meet(self, x: Tensor, skip: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        top = F.relu(self.top(x))
        middle = F.relu(self.middle(F.max_pool2d(top, 2)))
        deep = F.relu(self.deep(F.max_pool2d(middle, 2)))
        up = F.relu(self.up1(self.meet(self.raise1(deep), middle)))
        return self.out(F.relu(self.up0(self.meet(self.raise0(up), top))))


class PadsByOne(UNet):
    def meet(self, x: Tensor, skip: Tensor) -> Tensor:
        pads = [0, 0, 0, 0]
        if x.shape[-1] != skip.shape[-1]:
            pads[1] = 1
        if x.shape[-2] != skip.shape[-2]:
            pads[3] = 1
        if sum(pads) != 0:
            x = F.pad(x, pads, "reflect")
        return torch.cat([x, skip], dim=1)


class PadsEachAxis(UNet):
    """As MONAI does: pads whatever it is, by nothing where that fits."""

    def meet(self, x: Tensor, skip: Tensor) -> Tensor:
        pads = [0] * 4
        for axis in range(2):
            if skip.shape[-axis - 1] != x.shape[-axis - 1]:
                pads[axis * 2 + 1] = 1
        return torch.cat([skip, F.pad(x, pads, "replicate")], dim=1)


class PadsAndAdds(UNet):
    def meet(self, x: Tensor, skip: Tensor) -> Tensor:
        if x.shape != skip.shape[:1] + x.shape[1:2] + skip.shape[2:]:
            x = nn.functional.pad(x, (0, 1, 0, 1))[..., : skip.shape[-2], : skip.shape[-1]]
        return torch.cat([x, skip], 1)


class CropsByATensor(UNet):
    """Computes what it crops in a tensor of sizes, and goes on with a list."""

    def meet(self, x: Tensor, skip: Tensor) -> Tensor:
        crop = torch.tensor(skip.shape)[2:] - torch.tensor(x.shape)[2:]
        half = (crop / 2).int()
        before = -torch.stack((half, crop - half)).t().flatten()
        pads = before.tolist()
        return torch.cat([x, F.pad(skip, [*pads[2:], *pads[:2]])], dim=1)


class Crops(nn.Module):
    """Computes in a module of its own, which is called as a whole."""

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        return CropsByATensor.meet(self, x, skip)  # type: ignore[arg-type]


class CropsInAModule(UNet):
    def __init__(self) -> None:
        super().__init__()
        self.crops = Crops()

    def meet(self, x: Tensor, skip: Tensor) -> Tensor:
        out: Tensor = self.crops(x, skip)
        return out


class RoundsATensor(UNet):
    """Asks for the kind of a number, and rounds up in a tensor."""

    halving: Any = 2

    def lacking(self, size: int, by: int) -> int:
        return int(max(torch.ceil(torch.tensor(size / by)).item() * by - size, 0))

    def forward(self, x: Tensor) -> Tensor:
        high, wide = x.shape[-2:]
        by = self.halving if type(self.halving) is int else self.halving[0]
        assert isinstance(self.halving, int)
        assert type(by) is int
        assert isinstance(type(x), type)
        x = F.pad(x, (0, self.lacking(wide, 2 * by), 0, self.lacking(high, 2 * by)))
        return super().forward(x)[..., :high, :wide]

    def meet(self, x: Tensor, skip: Tensor) -> Tensor:
        return torch.cat([x, skip], 1)


class CropsByAQuotient(UNet):
    """Divides sizes by torch, and cuts by what that gives."""

    def meet(self, x: Tensor, skip: Tensor) -> Tensor:
        before = [
            torch.div(large - small, 2, rounding_mode="trunc")
            for large, small in zip(skip.shape[2:], x.shape[2:], strict=True)
        ]
        down, right = before
        skip = skip[:, :, down : down + x.shape[2], right : right + x.shape[3]]
        return torch.cat([x, skip], 1)


class PadsByAQuotient(UNet):
    """As many U-nets do: what pads is a tensor of one number each."""

    def meet(self, x: Tensor, skip: Tensor) -> Tensor:
        wide, high = skip.shape[3] - x.shape[3], skip.shape[2] - x.shape[2]
        left, top = torch.floor_divide(wide, 2), torch.div(high, 2, rounding_mode="floor")
        return torch.cat([skip, F.pad(x, [left, wide - left, top, high - top])], 1)


class ResizesToATensor(UNet):
    def meet(self, x: Tensor, skip: Tensor) -> Tensor:
        size = torch.true_divide(torch.tensor(skip.shape[2:]), 1).long()
        return torch.cat([skip, F.interpolate(x, size=(size[0], size[1]))], 1)


class CountsPositions(UNet):
    """As networks with state spaces do: the sizes of a tensor count its elements."""

    def meet(self, x: Tensor, skip: Tensor) -> Tensor:
        number, size = x.shape[2:].numel(), x.size()[2:]
        x = x * torch.ones(x.size()) * torch.ones(*x.shape)
        assert (x.shape[:1] + x.shape[1:]).numel() == x.numel()
        tokens = x.reshape(*x.shape[:2], number).transpose(1, 2)
        x = tokens.transpose(1, 2).reshape(*x.shape[:2], *size)
        wanted = torch.tensor(skip.shape[2:])
        return torch.cat([skip, F.interpolate(x, size=(int(wanted[0]), int(wanted[1])))], 1)


class ScalesByATensor(RoundsATensor):
    """What is computed of sizes meets a tensor that has numbers of its own."""

    def meet(self, x: Tensor, skip: Tensor) -> Tensor:
        return torch.cat([x, skip], 1) / torch.tensor(x.shape[-2:]).prod().sqrt()


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    "network",
    [
        *(PadsByOne, PadsEachAxis, PadsAndAdds, CropsByATensor, RoundsATensor),
        *(CropsByAQuotient, ResizesToATensor, CountsPositions),
        pytest.param(CropsInAModule, marks=pytest.mark.slow),
        pytest.param(PadsByAQuotient, marks=pytest.mark.slow),
    ],
)
def test_what_is_fitted_follows_every_size(network: type[UNet]) -> None:
    torch.manual_seed(0)
    model = network().eval()
    structure = read_structure(model)
    assert structure.reductions == ((1, 1), (2, 2), (4, 4))
    assert structure.notes == ()
    graph = rebuild(structure)
    for size in SIZES:
        image = torch.randn(2, 1, *size)
        torch.testing.assert_close(graph(image), model(image), rtol=0, atol=0)
    assert [cut.keep_levels for cut in structure.cuts] == [1, 2]
    costs = count_costs(model, structure.inputs)
    for cut in structure.cuts:
        plan = draft(structure, make_plan(structure, cut, "pool"), costs).plan
        variant = build(structure, plan)
        images = [torch.randn(1, 1, *size) for size in SIZES[:3]]
        assert verify(variant, sizes=images, export=False).failures == ()


def test_a_tensor_of_sizes_is_one_to_all_that_is_no_arithmetic() -> None:
    torch.manual_seed(0)
    model = ScalesByATensor().eval()
    structure = read_structure(model)
    graph = rebuild(structure)
    image = torch.randn(2, 1, *structure.inputs.args[0].shape[2:])
    torch.testing.assert_close(graph(image), model(image), rtol=0, atol=0)


class Tables(UNet):
    """Tokens with positions that were made for one size, resized for others."""

    def __init__(self, resizes: bool = True) -> None:
        super().__init__()
        self.resizes = resizes
        self.table = nn.Parameter(torch.randn(1, 8, 8, 8))

    def meet(self, x: Tensor, skip: Tensor) -> Tensor:
        if x.shape[1:] == skip.shape[1:]:
            high, wide = x.shape[2] // 2, x.shape[3] // 2
            table: Tensor = self.table
            if high != table.shape[2] or wide != table.shape[3]:
                table = F.interpolate(table, (high, wide), mode="bicubic", align_corners=False)
                table = table if self.resizes else table + 1
            x = x + F.interpolate(table, x.shape[2:])
        return torch.cat([x, skip], 1)


class TablesOfAnyShape(Tables):
    def meet(self, x: Tensor, skip: Tensor) -> Tensor:
        high, wide = x.shape[2:]
        table: Tensor = self.table
        if high * wide != table.shape[2] * table.shape[3] or high != wide:
            table = F.interpolate(table, (high, wide), mode="bilinear")
        return torch.cat([x + table, skip], 1)


@pytest.mark.parametrize("network", [Tables, TablesOfAnyShape])
def test_a_table_that_is_resized_fits_its_own_size(network: type[Tables]) -> None:
    torch.manual_seed(0)
    model = network().eval()
    graph = rebuild(read_structure(model))
    for size in ((32, 32), (64, 64), (32, 64), (128, 96), (256, 256)):
        image = torch.randn(2, 1, *size)
        torch.testing.assert_close(graph(image), model(image), rtol=0, atol=1e-6)


def test_a_table_that_is_something_else_at_its_own_size_is_refused_there() -> None:
    torch.manual_seed(0)
    model = Tables(resizes=False).eval()
    graph = rebuild(read_structure(model))
    image = torch.randn(2, 1, 128, 96)
    torch.testing.assert_close(graph(image), model(image), rtol=0, atol=0)
    with pytest.raises(InputError, match="takes another way"):
        graph(torch.randn(2, 1, 32, 32))


class TablesByFactors(Tables):
    """As DINOv2 does: by a little more than the factors, so that none is rounded down."""

    def __init__(self, made_for: int = 8, *, one: bool = False, **how: Any) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(1, 8, made_for, made_for))
        self.one, self.how = one, how

    def meet(self, x: Tensor, skip: Tensor) -> Tensor:
        if x.shape[1] == skip.shape[1]:
            made_for = self.table.shape[-1]
            high, wide = x.shape[2], x.shape[3]
            table: Tensor = self.table
            if high * wide != made_for**2 or high != wide:
                factors = float(high + 0.1) / made_for, float(wide + 0.1) / made_for
                by: Any = factors[0] if self.one else factors
                table = F.interpolate(table, scale_factor=by, **self.how)
                assert int(high + 0.1) == table.shape[-2]
            x = x + table
        return torch.cat([x, skip], 1)


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    "how",
    [
        pytest.param({"mode": "bicubic"}, marks=pytest.mark.slow),
        {"mode": "bicubic", "antialias": True},
        pytest.param({"mode": "bilinear", "align_corners": True}, marks=pytest.mark.slow),
        {"mode": "nearest", "one": True},
    ],
    ids=str,
)
def test_a_table_that_is_resized_by_factors_follows_every_size(how: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = TablesByFactors(**how).eval()
    structure = read_structure(model)
    assert structure.notes == ()
    assert structure.sizes == "symbolic"
    graph = rebuild(structure)
    oblong = [] if how.get("one") else [(32, 64), (128, 96)]
    for size in ((64, 64), (128, 128), *oblong):
        image = torch.randn(2, 1, *size)
        torch.testing.assert_close(graph(image), model(image), rtol=0, atol=0)
    image = torch.randn(2, 1, 16, 16)  # the table as it is: what only some factors do, too
    if how.get("antialias") or how.get("align_corners"):
        torch.testing.assert_close(graph(image), model(image), rtol=0, atol=0)
    else:
        with pytest.raises(InputError, match="takes another way"):
            graph(image)
    for cut in structure.cuts:
        plan = draft(
            structure, make_plan(structure, cut, "pool"), count_costs(model, structure.inputs)
        ).plan
        images = [torch.randn(1, 1, 64, 64), torch.randn(1, 1, 96, 96)]
        variant = build(structure, plan)
        assert verify(variant, sizes=images, export=True).failures == ()


def test_a_table_is_read_at_another_size_than_its_own() -> None:
    torch.manual_seed(0)
    model = TablesByFactors(made_for=128, mode="bicubic").eval()
    structure = read_structure(model)  # the size guessed first brings maps of 128
    assert structure.sizes == "symbolic"
    graph = rebuild(structure)
    for size in ((64, 64), (96, 128)):
        image = torch.randn(2, 1, *size)
        torch.testing.assert_close(graph(image), model(image), rtol=0, atol=0)


class Resampled(nn.Module):
    """Resamples by factors and rounds to the nearest size; a skip by the factor that two maps have.

    As neural operators do. What is rounded twice and comes up again is as large as it was at even
    sizes only, where the skip and the way up meet in the sizes of the image.
    """

    def __init__(self, factor: float = 0.5, mode: str = "bicubic") -> None:
        super().__init__()
        self.factor, self.mode = factor, mode
        self.top, self.deep = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 8, 3, padding=1)
        self.deepest, self.up = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(16, 4, 3, padding=1)
        self.head = nn.Conv2d(8, 1, 3, padding=1)

    def resampled(self, x: Tensor, factors: Sequence[float], sizes: Any = None) -> Tensor:
        sizes = sizes or [round(n * f) for n, f in zip(x.shape[2:], factors, strict=True)]
        return F.interpolate(x, size=sizes, mode=self.mode, align_corners=True)

    def beside(self, x: Tensor, skip: Tensor) -> Tensor:
        factors = [m / n for m, n in zip(x.shape[2:], skip.shape[2:], strict=True)]
        return torch.cat([x, self.resampled(skip, factors)], 1)

    def forward(self, x: Tensor) -> Tensor:
        whole = [round(n * 1.0) for n in x.shape[2:]]
        top = F.gelu(self.top(x))
        deep = F.gelu(self.deep(self.resampled(top, [self.factor] * 2)))
        x = F.gelu(self.deepest(self.resampled(deep, [self.factor] * 2)))
        x = F.gelu(self.up(self.beside(self.resampled(x, [1 / self.factor] * 2), deep)))
        return self.head(self.beside(self.resampled(x, (), whole), top))


@pytest.mark.parametrize(
    ("factor", "sizes"),
    [(0.5, [(64, 64), (96, 32), (50, 38), (33, 61)]), (1 / 3, [(54, 54), (90, 27), (50, 38)])],
)
def test_sizes_that_are_rounded_to_the_nearest_follow_every_size(
    factor: float, sizes: list[tuple[int, int]]
) -> None:
    torch.manual_seed(0)
    model = Resampled(factor).eval()
    structure = read_structure(model)
    assert (structure.sizes, structure.notes) == ("symbolic", ())
    assert structure.depth == 3
    nodes = structure.program.graph.nodes
    made = {key(n) for node in nodes for n in getattr(node.meta.get("val"), "shape", ())}
    assert not any("Div" in size for size in made)  # every layer would divide once more
    graph = rebuild(structure)
    for size in sizes:
        image = torch.randn(2, 1, *size)
        torch.testing.assert_close(graph(image), model(image), rtol=0, atol=0)


class RoundedUp(nn.Module):
    """Strided kernels round half of a size up; what came up is resized where it differs."""

    def __init__(self) -> None:
        super().__init__()
        self.top, self.down = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, 2, 1)
        self.deep, self.up1 = nn.Conv2d(4, 4, 3, 2, 1), nn.Conv2d(8, 4, 3, padding=1)
        self.up0 = nn.Conv2d(8, 2, 3, padding=1)

    def join(self, x: Tensor, skip: Tensor) -> Tensor:
        x = F.interpolate(x, scale_factor=2.0)
        if x.shape[-2:] != skip.shape[-2:]:
            x = F.interpolate(x, skip.shape[-2:])
        return torch.cat([x, skip], 1)

    def forward(self, x: Tensor) -> Tensor:
        top = self.top(x).relu()
        down = self.down(top).relu()
        x = self.up1(self.join(self.deep(down).relu(), down)).relu()
        return self.up0(self.join(x, top))


def test_every_size_is_taken_where_halves_are_rounded_up() -> None:
    torch.manual_seed(0)
    model = RoundedUp().eval()
    structure = read_structure(model, torch.rand(2, 3, 32, 24))
    graph = rebuild(structure)
    for size in ((32, 24), (31, 18), (30, 21), (29, 17), (27, 30)):
        x = torch.rand(1, 3, *size)
        torch.testing.assert_close(graph(x), model(x))


class Trimmed(nn.Module):
    """Pads a signal to a length that strides reach, and trims what is too long, as Demucs does."""

    def __init__(self, *, louder: bool = False) -> None:
        super().__init__()
        self.louder = louder
        self.top, self.deep = nn.Conv1d(1, 8, 8, 4), nn.Conv1d(8, 32, 8, 4)
        self.up1, self.up0 = nn.ConvTranspose1d(32, 8, 8, 4), nn.ConvTranspose1d(8, 1, 8, 4)

    def forward(self, x: Tensor) -> Tensor:
        length = whole = x.shape[-1]
        for _ in range(2):
            whole = max(1, math.ceil((whole - 8) / 4) + 1)
        for _ in range(2):
            whole = (whole - 1) * 4 + 8
        more = int(whole) - length
        top = self.top(F.pad(x, (more // 2, more - more // 2))).relu()
        made = self.up0(self.up1(self.deep(top).relu()).relu() + top)
        if more := made.shape[-1] - length:
            made = made[..., more // 2 : -(more - more // 2)]
        elif self.louder:
            made = 2 * made
        return made


def test_a_signal_of_which_nothing_is_trimmed_shows_all_lengths() -> None:
    torch.manual_seed(0)
    model = Trimmed().eval()
    structure = read_structure(model, torch.rand(1, 1, 420))
    assert structure.notes == ()
    costs = count_costs(model, structure.inputs)
    plans = [draft(structure, make_plan(structure, c, "pool"), costs).plan for c in structure.cuts]
    variants = [build(structure, plan).module for plan in plans]
    graph = rebuild(structure)
    for length in (420, 421, 450, 500, 100, 99):
        signal = torch.rand(2, 1, length)
        torch.testing.assert_close(graph(signal), model(signal))
        assert [variant(signal).shape for variant in variants] == [signal.shape] * 2


@pytest.mark.parametrize("louder", [False, True])
def test_a_signal_that_is_trimmed_is_taken_where_nothing_is_unless_more_is_done(
    louder: bool,
) -> None:
    torch.manual_seed(0)
    model = Trimmed(louder=louder).eval()
    structure = read_structure(model, torch.rand(1, 1, 450))
    graph = rebuild(structure)
    for length in (421, 450, 501):
        signal = torch.rand(2, 1, length)
        torch.testing.assert_close(graph(signal), model(signal))
    signal = torch.rand(2, 1, 420)
    if louder:
        with pytest.raises(InputError, match="takes another way"):
            graph(signal)
    else:
        torch.testing.assert_close(graph(signal), model(signal))
        assert structure.notes == ()


def test_a_length_at_which_something_else_is_done_is_read_as_it_is() -> None:
    torch.manual_seed(0)
    model = Trimmed(louder=True).eval()
    signal = torch.rand(1, 1, 420)  # halves of it, which are tried first, are trimmed
    graph = rebuild(read_structure(model, signal))
    torch.testing.assert_close(graph(signal), model(signal))
    with pytest.raises(InputError, match="example_inputs= of the size that you use"):
        graph(signal[..., :-1])


class AnswersInOneSize(UNet):
    """Resizes what it says to a size of its own; or sums over all places, as key points do."""

    def __init__(self, *, sums: bool) -> None:
        super().__init__()
        self.sums = sums

    def meet(self, x: Tensor, skip: Tensor) -> Tensor:
        return torch.cat([x, skip], 1)

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        if not self.sums:
            return F.interpolate(y, size=(48, 40), mode="bilinear")
        weights = y.flatten(2).softmax(-1).unflatten(-1, y.shape[2:])
        of_each = [(weights * x.roll(shift, 2)).sum((2, 3)) for shift in range(4)]
        return torch.stack(of_each, -1).view(len(x), 1, 2, 2)


@pytest.mark.parametrize("sums", [False, True])
def test_answers_of_one_size_hold_no_size_of_what_goes_in(sums: bool) -> None:
    torch.manual_seed(0)
    structure = read_structure(AnswersInOneSize(sums=sums).eval())
    assert structure.sizes == "symbolic"
    assert structure.reductions == ((1, 1), (2, 2), (4, 4))
    own = (2, 2) if sums else (48, 40)
    for cut in structure.cuts:
        small = build(structure, make_plan(structure, cut, width=4)).module.eval()
        assert small(torch.randn(2, 1, 64, 96)).shape == (2, 1, *own)


class TurnsByMatrices(UNet):
    """Joins what it sees turned by matrices, of which each image has some."""

    def meet(self, x: Tensor, skip: Tensor) -> Tensor:
        return torch.cat([x, skip], 1)

    def forward(self, x: Tensor, turns: Tensor) -> Tensor:
        rows, columns = (torch.linspace(-1, 1, side).to(x) for side in x.shape[2:])
        grid = torch.stack([columns.expand(len(rows), -1), rows[:, None].expand(-1, len(columns))])
        places = torch.einsum("bkij,jhw->bkhwi", torch.inverse(turns), grid).mean(1)
        return super().forward(x + F.grid_sample(x, places, align_corners=True))


def test_matrices_beside_an_image_are_no_image() -> None:
    torch.manual_seed(0)
    turns = torch.eye(2) + 0.1 * torch.randn(1, 3, 2, 2)
    structure = read_structure(TurnsByMatrices().eval(), (torch.randn(1, 1, 64, 64), turns))
    assert structure.sizes == "symbolic"
    assert structure.reductions == ((1, 1), (2, 2), (4, 4))
    for cut in structure.cuts:
        small = build(structure, make_plan(structure, cut, width=4)).module.eval()
        assert small(torch.randn(1, 1, 64, 96), turns).shape == (1, 1, 64, 96)


class OnNumpysGrid(UNet):
    """Lays numpy's places of rows and columns beside the image, as neural operators do."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.places = how, nn.Conv2d(3, 1, 1)

    def meet(self, x: Tensor, skip: Tensor) -> Tensor:
        return torch.cat([x, skip], 1)

    def along(self, size: int) -> Tensor:
        if self.how == "a new tensor":
            return torch.tensor(np.linspace(0, 1, size), dtype=torch.float)
        if self.how == "the same memory":
            return torch.from_numpy(np.linspace(-1, 1, size)).float()
        return torch.tensor(np.linspace(0, 1, size, endpoint=False), dtype=torch.float)

    def forward(self, x: Tensor) -> Tensor:
        images, _, high, wide = x.shape
        rows = self.along(high).reshape(1, 1, high, 1).repeat([images, 1, 1, wide])
        columns = self.along(wide).reshape(1, 1, 1, wide).repeat([images, 1, high, 1])
        return super().forward(self.places(torch.cat((x, rows, columns), 1).to(x.device)))


@pytest.mark.parametrize("how", ["a new tensor", "the same memory", "without the end"])
def test_numpys_grids_follow_the_image(how: str) -> None:
    torch.manual_seed(0)
    before, model = (np.linspace, torch.from_numpy), OnNumpysGrid(how).eval()
    structure = read_structure(model, torch.randn(2, 1, 64, 64))
    assert (np.linspace, torch.from_numpy) == before
    assert structure.sizes == "symbolic"
    assert structure.notes == ()
    other = torch.randn(3, 1, 48, 80)
    assert torch.equal(rebuild(structure).eval()(other), model(other))
    for cut in structure.cuts:
        variant = build(structure, make_plan(structure, cut, width=4))
        assert variant.module.eval()(other).shape == (3, 1, 48, 80)
        assert verify(variant, sizes=[other]).failures == ()


class RepeatsByAProduct(UNet):
    """Repeats pixels by a product with ones, and crops what it kept to valid convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("ones", torch.ones(2, 2))
        self.raise1 = self.raise0 = nn.Identity()
        self.up1, self.up0 = nn.Conv2d(8, 4, 5), nn.Conv2d(4, 4, 5)

    def twice(self, x: Tensor) -> Tensor:
        sh = list(x.shape)
        made = torch.tensordot(x.unsqueeze(-1), self.ones.unsqueeze(0), dims=1)
        made = made.view(-1, sh[1], sh[2], sh[3], 2, 2).permute(0, 1, 2, 4, 3, 5).contiguous()
        return made.view(-1, sh[1], sh[2] * 2, sh[3] * 2)

    def forward(self, x: Tensor) -> Tensor:
        top = F.relu(self.top(x))
        middle = F.relu(self.middle(F.max_pool2d(top, 2)))
        deep = F.relu(self.deep(F.max_pool2d(middle, 2)))
        up = F.relu(self.up1(self.twice(deep) + middle))
        return self.out(F.relu(self.up0(self.twice(up) + top[:, :, 4:-4, 4:-4])))


def test_pixels_that_a_product_repeats_are_read(caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    structure = read_structure(RepeatsByAProduct().eval(), torch.randn(1, 1, 48, 48))
    assert structure.sizes == "symbolic"
    assert structure.reductions == ((1, 1), (2, 2), (4, 4))
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    for cut in structure.cuts:
        small = build(structure, make_plan(structure, cut, width=4)).module.eval()
        assert small(torch.randn(2, 1, 64, 48)).shape == (2, 1, 52, 36)
