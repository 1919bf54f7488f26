"""Fresh draws are recognised bit by bit, and nothing else is."""

import math

import pytest
import torch
from torch import nn

from weightscope.statistics import measure_model
from weightscope.statistics.fresh import is_draw


def layer(kind, seed=0):
    torch.manual_seed(seed)
    return {
        "linear": lambda: nn.Linear(1000, 40),
        "conv": lambda: nn.Conv2d(8, 32, 3),
        "transposed": lambda: nn.ConvTranspose2d(8, 32, 2, 2),
        "grouped": lambda: nn.Conv2d(64, 64, 3, groups=32),
        "3-D": lambda: nn.Conv3d(3, 24, 3),
    }[kind]()


def find_fresh(model):
    return measure_model(model).fresh


@pytest.mark.parametrize("kind", ["linear", "conv", "transposed", "grouped", "3-D"])
@pytest.mark.parametrize("seed", range(3))
def test_what_torch_drew_by_default_is_recognised(kind, seed):
    assert find_fresh(layer(kind, seed)) == ("weight", "bias")


@pytest.mark.parametrize(("init", "options"), [
    ("xavier_uniform_", {}), ("kaiming_uniform_", {}), ("kaiming_uniform_", {"mode": "fan_out"}),
    ("kaiming_uniform_", {"nonlinearity": "linear"}),
])  # fmt: skip
def test_other_uniform_rules_are_recognised(init, options):
    model = layer("conv")
    getattr(nn.init, init)(model.weight, **options)
    assert "weight" in find_fresh(model)


@pytest.mark.parametrize(
    "change",
    [
        lambda w: w.sub_(1e-4 * torch.randn_like(w)),
        lambda w: w.mul_(1 - 1e-5),  # one step of weight decay
        lambda w: w.mul_(0.5),
        lambda w: nn.init.kaiming_normal_(w) if w.dim() > 1 else w.normal_(0, 0.01),
        lambda w: nn.init.trunc_normal_(w, std=0.02),
        lambda w: w.zero_(),
    ],
)
def test_any_change_or_another_draw_is_not_taken_for_one(change):
    model = layer("conv")
    with torch.no_grad():
        for parameter in model.parameters():
            change(parameter)
    assert find_fresh(model) == ()


def test_little_is_never_told_and_other_formats_neither():
    values = torch.empty(23).uniform_(-0.5, 0.5)
    assert not is_draw(values, 0.5)
    assert is_draw(torch.empty(24).uniform_(-0.5, 0.5), 0.5)
    assert not is_draw(torch.empty(100).uniform_(-0.5, 0.5).half(), 0.5)
    assert not is_draw(torch.empty(100).uniform_(-0.5, 0.5).double(), 0.5)
    assert not is_draw(torch.full((100,), math.nan), 0.5)


def test_a_model_is_fresh_only_as_a_whole():
    model = nn.Sequential(layer("conv"), nn.BatchNorm2d(32), layer("conv", 1))
    assert measure_model(model).is_fresh
    with torch.no_grad():
        model[2].bias.add_(1e-3)
    found = measure_model(model)
    assert not found.is_fresh
    assert "2.bias" not in found.still
    assert "1.weight" in found.still
