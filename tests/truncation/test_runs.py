"""What is run several times below a cut is replaced in each run, by the same new layers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from toys import Plain, assessment, double

import weightscope as ws
from weightscope.cost import count_costs
from weightscope.graph import read_structure
from weightscope.statistics import measure_model
from weightscope.truncation import propose, verify
from weightscope.truncation.building import build
from weightscope.utilization import assess

IMAGES = torch.randn(6, 1, 16, 24)


def _flipped(x: Tensor) -> Tensor:
    return x.flip(-1)


def _transposed(x: Tensor) -> Tensor:
    return x.transpose(2, 3)


class Averaged(nn.Module):
    """The mean over an image and what ``turn`` makes of it, which it undoes itself."""

    def __init__(self, turn: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.net, self.turn = Plain(), turn

    def forward(self, x: Tensor) -> Tensor:
        return (self.net(x) + self.turn(self.net(self.turn(x)))) / 2


class Rotated(Plain):
    """The mean over all quarter turns, in the network's own forward."""

    def forward(self, x: Tensor) -> Tensor:
        forward = super().forward
        turns = [torch.rot90(forward(torch.rot90(x, k, (2, 3))), -k, (2, 3)) for k in range(4)]
        return torch.stack(turns).mean(0)


class Pair(nn.Module):
    """Two images, before and after, by one network."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Plain()

    def forward(self, before: Tensor, after: Tensor) -> Tensor:
        return self.net(after) - self.net(before)


class TwoNets(nn.Module):
    """Two networks, one of which sees the image transposed, with a deep layer for both."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.deep = double(1, 4), double(1, 4), double(8, 4)
        self.up, self.head = double(8, 4), nn.Conv2d(4, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.a(x), self.b(x.transpose(2, 3))
        pool = nn.functional.max_pool2d
        deep = self.deep(torch.cat([pool(a, 2), pool(b, 2).transpose(2, 3)], 1))
        return self.head(self.up(torch.cat([nn.functional.interpolate(deep, a.shape[2:]), a], 1)))


def _proposals(model, *inputs):
    structure = read_structure(model, inputs or None)
    verdicts = {"bottleneck": "unused", "encoder_1": "used", "decoder_1": "used"}
    costs = count_costs(model, structure.inputs)
    return propose(structure, assessment(**verdicts), costs)


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    "factory",
    [lambda: Averaged(_flipped), lambda: Averaged(_transposed), Rotated],
    ids=["flip", "transpose", "quarter turns"],
)
def test_each_run_goes_its_own_way(factory):
    model = factory().eval()
    proposals = _proposals(model, IMAGES[:1])

    assert [p.refusal for p in proposals] == [None, None]
    turn = getattr(model, "turn", lambda x: torch.rot90(x, 2, (2, 3)))
    for proposal, entering in zip(proposals, (8, 4), strict=True):
        variant = proposal.build()
        module = variant.module.eval()
        with torch.no_grad():
            assert torch.allclose(module(turn(IMAGES)), turn(module(IMAGES)), atol=1e-5)
        # no wider than that of the network which is called
        assert module.new_bottleneck.trunk[0].in_channels == entering
    assert verify(variant, sizes=[IMAGES[:2, :, :, :16]], export=False).failures == ()


def test_what_is_read_with_a_square_image_takes_others():
    variant = _proposals(Averaged(_transposed).eval(), IMAGES[:1, :, :, :16])[0].build()

    assert variant.module.eval()(IMAGES).shape == (6, 2, 16, 24)


def test_what_is_run_twice_is_recovered_saved_and_loaded(tmp_path):
    torch.manual_seed(0)
    model = Averaged(_transposed).eval()
    weights = {name: value.clone() for name, value in model.state_dict().items()}

    def factory():
        made = Averaged(_transposed)
        made.load_state_dict(weights)
        return made

    variant = _proposals(model, IMAGES[:1])[0].build()
    before = variant.module.new_bottleneck.heads[0].weight.clone()
    variant.recover([IMAGES], steps=6, progress=False)
    assert not torch.equal(before, variant.module.new_bottleneck.heads[0].weight)
    path = ws.save(variant, tmp_path / "small.safetensors")
    loaded = ws.load(path, factory).module.eval()
    assert torch.equal(loaded(IMAGES), variant.module.eval()(IMAGES))


def test_two_images_by_one_network():
    a, b = IMAGES[:2], IMAGES[2:4]
    variant = _proposals(Pair().eval(), a, b)[0].build()

    assert verify(variant, export=False).failures == ()
    module = variant.module.eval()
    assert torch.allclose(module(a, b), -module(b, a), atol=1e-6)


def test_a_plan_of_earlier_versions_has_one_bottleneck_for_all_runs():
    variant = _proposals(Averaged(_flipped).eval(), IMAGES[:1])[0].build()
    plan = replace(variant.plan, exit_channels=variant.plan.exit_channels * 2)

    earlier = build(variant.structure, plan)

    assert earlier.module.new_bottleneck.trunk[0].in_channels == 16
    assert verify(earlier, export=False).failures == ()


@pytest.mark.sample(1)
@pytest.mark.parametrize("width", [16, 24])
def test_turned_images_in_one_run_are_refused_in_words(width):
    (proposal,) = _proposals(TwoNets().eval(), IMAGES[:1, :, :, :width])

    assert "turn them before or after the network" in str(proposal.refusal)


class OfOneSize(TwoNets):
    """Takes images of one size only: its table of positions has it."""

    def __init__(self) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.zeros(16, 24))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + self.positions)


class Volumes(nn.Module):
    """As above, of volumes whose height and width are turned."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.deep = (nn.Conv3d(i, 4, 3, padding=1) for i in (1, 1, 8))
        self.head = nn.Conv3d(8, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.a(x).relu(), self.b(x.transpose(3, 4)).relu()
        pool = nn.functional.max_pool3d
        deep = self.deep(torch.cat([pool(a, 2), pool(b, 2).transpose(3, 4)], 1)).relu()
        return self.head(torch.cat([nn.functional.interpolate(deep, a.shape[2:]), a], 1))


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    ("model", "image"),
    [(OfOneSize, IMAGES[:1]), (Volumes, torch.randn(1, 1, 16, 16, 24))],
)
def test_turned_images_are_refused_at_one_size_and_in_volumes(model, image):
    (proposal,) = _proposals(model().eval(), image)

    assert "turn them before or after the network" in str(proposal.refusal)


class Logarithm(nn.Module):
    """Its output is no number where features are negative."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Plain()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x).log()


def _variant_of(model: nn.Module) -> ws.truncation.Variant:
    structure = read_structure(model.eval(), IMAGES)
    costs = count_costs(structure.model, structure.inputs)
    proposals = propose(structure, assess(structure, measure_model(structure.model)), costs)
    return next(p for p in proposals if p.refusal is None).build()


def test_what_is_no_number_in_the_original_need_be_none_in_a_variant():
    assert verify(_variant_of(Logarithm()), export=False).passed


@pytest.mark.parametrize("original", [False, True])
def test_an_export_that_fails_for_the_original_too_is_no_fault(monkeypatch, original):
    variant = _variant_of(Plain())

    def exported(network, inputs):
        if network is variant.module or original:
            raise RuntimeError("view size is not compatible")
        return network

    monkeypatch.setattr("weightscope.truncation.checks._exported", exported)
    failed = {check.name for check in verify(variant).failures}
    assert failed == (set() if original else {"exports"})
