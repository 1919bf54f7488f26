"""Networks made of several: each part is named, and is read and cut on its own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import weightscope as ws
from matrix.held_back import CoarseToFine
from matrix.kinds import RSU, U2Net, UNet, WNet, conv
from tests.networks import places
from weightscope.errors import UnknownLayerError
from weightscope.graph import Structure, read_structure, rebuild
from weightscope.truncation import verify

OWN = {
    "encoder 0": ("top",),
    "encoder 1": ("middle",),
    "bottleneck": ("deep",),
    "decoder 1": ("up1",),
    "decoder 0": ("up0", "out"),
}


def modules(structure: Structure) -> dict[str, tuple[str, ...]]:
    """The children of the part that lie in each stage."""
    part = structure.part
    return {
        stage.name: tuple(
            dict.fromkeys(layer.removeprefix(f"{part}.").split(".")[0] for layer in stage.layers)
        )
        for stage in structure.stages
    }


class Hourglasses(nn.Module):
    """Two in a row; nothing with weights follows the return of either inside it."""

    class One(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.skip, self.low = conv(4, 4), conv(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            low = self.low(F.max_pool2d(x, 2))
            return self.skip(x) + F.interpolate(low, scale_factor=2.0)

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.out = conv(3, 4, 2), nn.Conv2d(4, 2, 1)
        self.first, self.second = self.One(), self.One()

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.second(self.first(self.stem(x))))


class ByForward(Hourglasses):
    """Its networks are called as ``first.forward(x)``, which runs no hooks."""

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.second.forward(self.first.forward(self.stem.forward(x))))


def test_a_module_is_called_by_its_forward_too() -> None:
    called, plain = read_structure(ByForward()), read_structure(Hourglasses())
    assert called.stages == plain.stages
    assert called.parts == plain.parts == ("first", "second")


def test_hooks_that_a_forward_passes_by_do_not_run() -> None:
    model, image = ByForward().eval(), torch.rand(1, 3, 16, 16)
    expected = model(image)
    model.first.register_forward_hook(lambda module, given, made: made * 2)
    torch.testing.assert_close(rebuild(read_structure(model))(image), expected)


def test_a_cascade_names_its_parts() -> None:
    structure = read_structure(WNet())
    assert structure.parts == ("first", "second")
    assert structure.part == ""
    assert any("part='first' reads and cuts that one alone" in n for n in structure.notes)


@pytest.mark.sample(1)
@pytest.mark.parametrize("part", ["first", "second"])
def test_each_network_of_a_cascade_has_levels_of_its_own(part: str) -> None:
    structure = read_structure(WNet(), part=part)
    last = {"decoder 0": ("up0",), "head": ("out",)} if part == "second" else {}
    assert modules(structure) == OWN | last
    assert [cut.keep_levels for cut in structure.cuts] == [1, 2]
    assert structure.dead_parameters == ()


def test_the_levels_of_a_part_are_counted_from_its_ends() -> None:
    structure = read_structure(Hourglasses(), part="second")
    assert structure.reductions == ((2.0, 2.0), (4.0, 4.0))
    assert modules(structure) == {"skip 0": ("skip",), "bottleneck": ("low",)}
    # what follows it in the whole network is head enough
    assert [cut.keep_levels for cut in structure.cuts] == [1]


@pytest.mark.slow
def test_blocks_that_are_u_nets_are_parts() -> None:
    structure = read_structure(U2Net())
    assert structure.parts == ("top", "middle", "up1", "up0")
    assert modules(read_structure(U2Net(), part="middle")) == {
        "encoder 0": ("enter", "inner"),
        "bottleneck": ("low",),
        "decoder 0": ("join",),
    }


@pytest.mark.sample(1)
@pytest.mark.parametrize("model", [UNet(), nn.Sequential(RSU(3, 4), nn.Conv2d(4, 1, 1))])
def test_one_network_has_no_parts(model: nn.Module) -> None:
    assert read_structure(model).parts == ()


def test_a_wrong_part_is_told_the_right_ones() -> None:
    with pytest.raises(UnknownLayerError, match="of this UNet: no module does"):
        read_structure(UNet(), part="deep")
    with pytest.raises(UnknownLayerError, match="'first', 'second'"):
        read_structure(WNet(), part="first.top")


def test_a_part_is_analysed_cut_saved_and_loaded(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = WNet()
    analysis = ws.analyze(model, example_inputs=torch.rand(1, 3, 32, 32), part="second")
    assert set(analysis.stages.stage) == {*OWN, "head"}
    assert {cut.keep_levels for cut in analysis.response.cuts} == {1, 2}
    assert "part='second'" not in str(analysis)
    proposal = next(p for p in analysis.proposals if p.keep_levels == 1)
    variant = proposal.build()
    assert all(name.startswith("second.") for name in variant.dropped)
    assert verify(variant).failures == ()
    image = torch.rand(2, 3, 48, 32)
    whole, cut = model.eval()(image), variant.module.eval()(image)
    assert torch.equal(whole[0], cut[0])  # the first network is as it was
    assert whole[1].shape == cut[1].shape
    loaded = ws.load(ws.save(variant, tmp_path / "w.safetensors"), WNet)
    assert torch.equal(loaded.module.eval()(image)[1], cut[1])
    assert loaded.structure.part == "second"


def test_u_nets_in_a_row_keep_their_levels_where_one_is_deeper() -> None:
    structure = read_structure(CoarseToFine(), torch.zeros(2, 3, 32, 32))
    got = {layer: stage.name for layer, stage in structure.stage_of.items()}
    assert got["coarse.deep.0"] == "bottleneck"
    assert (got["fine.top.0"], got["fine.middle.0"]) == ("decoder 0", "decoder 1")
    assert (got["fine.deep.0"], got["fine.up0.0"]) == ("decoder 2", "decoder 0")


class BesideAPrior(nn.Module):
    """A U-Net, and an encoder that may be deeper, whose code is joined to what that returns."""

    def __init__(self, levels: int) -> None:
        super().__init__()
        self.unet = Hourglasses.One()
        self.stem, self.join = conv(3, 4), conv(8, 4)
        self.prior = nn.Sequential(*(nn.Conv2d(4, 4, 3, 2, 1) for _ in range(levels - 1)))
        self.code, self.out = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        code = self.code(self.prior(x).mean((2, 3), keepdim=True))
        made = self.unet(x)
        return self.out(self.join(torch.cat([made, code.expand(-1, -1, *made.shape[2:])], 1)))


@pytest.mark.parametrize("levels", [2, 3, 4])
def test_a_u_net_beside_something_deeper_has_a_bottleneck_of_its_own(levels: int) -> None:
    structure = read_structure(BesideAPrior(levels).eval(), torch.randn(2, 3, 32, 32))
    assert structure.depth == levels
    stage = places(structure)
    assert stage["unet.low.0"] == ("bottleneck" if levels == 2 else "bottleneck 1")
    assert stage[f"prior.{levels - 2}"] == "bottleneck"
    assert stage["unet.skip.0"] in ("skip 0", "encoder 0")
    by_name = {stage.name: stage for stage in structure.stages}
    assert by_name[stage["unet.low.0"]].level == 1
    assert by_name["bottleneck"].level == levels - 1
    order = [*by_name]
    assert order.index("bottleneck") <= order.index(stage["unet.low.0"]) < order.index("head")


def test_a_bottleneck_of_a_part_can_be_said() -> None:
    said = {"bottleneck 1": ["unet.low"]}
    structure = read_structure(BesideAPrior(3).eval(), torch.randn(2, 3, 32, 32), stages=said)
    assert places(structure)["unet.low.0"] == "bottleneck 1"


class AtScales(nn.Module):
    """One network on the image at several scales, whose answers are averaged."""

    def __init__(self, *scales: float) -> None:
        super().__init__()
        self.net, self.scales = UNet(), scales

    def forward(self, x: Tensor) -> Tensor:
        made = []
        for scale in self.scales:
            size = [int(side * scale) for side in x.shape[2:]]
            made.append(F.interpolate(self.net(F.interpolate(x, size=size)), size=x.shape[2:]))
        return torch.stack(made).mean(0)


@pytest.mark.sample(1)
@pytest.mark.parametrize("scales", [(0.5, 1.0, 1.5), (1.0, 0.5)])
def test_levels_of_a_part_at_several_scales_are_counted_from_its_ends(scales: tuple[float]) -> None:
    model = AtScales(*scales).eval()
    analysis = ws.analyze(
        model, example_inputs=torch.rand(1, 3, 64, 64), part="net", response=False
    )
    alone = read_structure(model.net, torch.rand(1, 3, 64, 64))
    assert analysis.structure.reductions == alone.reductions
    assert not any("several levels" in note for note in analysis.structure.notes)
    assert [cut.times for cut in analysis.structure.cuts] == [len(scales)] * len(alone.cuts)
    x = torch.rand(2, 3, 64, 96)
    for proposal in analysis.proposals:
        assert proposal.refusal is None  # what all runs save is counted, each at its own size
        variant = proposal.build()
        spent = [c.macs for n, c in variant.costs.layers.items() if "new_bottleneck" in n]
        assert 2 * sum(spent) <= proposal.costs.macs - variant.costs.macs + sum(spent)
        assert variant.module.eval()(x).shape == model(x).shape
        assert verify(variant, sizes=[x], export=False).failures == ()
