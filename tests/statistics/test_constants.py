"""Tensors that start constant prove training once they are constant no longer."""

import pytest
import torch
from torch import nn

from weightscope.statistics import measure_model


class Normed(nn.Module):
    def __init__(self, norm=nn.BatchNorm2d):
        super().__init__()
        self.conv = nn.Conv2d(3, 64, 3)
        self.norm = norm(64)

    def forward(self, x):
        return self.norm(self.conv(x))


def draw_scales(model, shifts):
    """As DCGAN and pix2pix do, who leave the shifts at zero; some generators draw these, too."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, 0.0, 0.02)
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, 0.02)
            nn.init.normal_(module.bias, 0.0, shifts)


@pytest.mark.parametrize("value", [0.0, 1.0, 1e-6])
@pytest.mark.parametrize("norm", [nn.BatchNorm2d, lambda c: nn.GroupNorm(8, c), nn.LayerNorm])
def test_constants_of_any_value_prove_nothing(norm, value):
    model = Normed(norm)
    nn.init.constant_(model.norm.weight, value)
    statistics = measure_model(model)
    assert statistics.constants == ("norm.weight", "norm.bias")
    assert statistics.moved_constants == ()


@pytest.mark.parametrize("shifts", [0.0, 0.02])
def test_drawn_scales_prove_nothing(shifts):
    for seed in range(50):
        torch.manual_seed(seed)
        model = Normed()
        draw_scales(model, shifts)
        assert measure_model(model).moved_constants == ()


@pytest.mark.parametrize(("kernels", "moved"), [(0.02, ()), (0.1, ("norm.weight", "norm.bias"))])
def test_scales_and_shifts_that_moved_as_far_as_a_draw(kernels, moved):
    torch.manual_seed(0)
    model = Normed()
    draw_scales(model, 0.02)
    nn.init.normal_(model.conv.weight, 0.0, kernels)
    assert measure_model(model).moved_constants == moved


def test_one_step_of_training_is_proved():
    torch.manual_seed(0)
    model = Normed()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    (model(torch.randn(4, 3, 8, 8)) * torch.randn(4, 64, 6, 6)).mean().backward()
    optimizer.step()
    assert measure_model(model).moved_constants == ("norm.weight", "norm.bias")


@pytest.mark.parametrize("norm", [nn.BatchNorm2d, nn.RMSNorm])
def test_scales_alone_may_have_been_drawn(norm):
    model = Normed(norm)
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    nn.init.uniform_(model.norm.weight, 0.9, 1.1)
    assert measure_model(model).moved_constants == ()
    assert measure_model(model, initial=start).moved_constants == ("norm.weight",)


@pytest.mark.parametrize("draw", [
    lambda p: nn.init.normal_(p, 0.0, 0.02), lambda p: nn.init.uniform_(p, -0.1, 0.1),
    lambda p: nn.init.uniform_(p, 0.8, 1.2),
])  # fmt: skip
def test_one_draw_of_all_parameters_proves_nothing(draw):
    model = Normed()
    for parameter in model.parameters():
        draw(parameter)
    assert measure_model(model).moved_constants == ()


def test_kernels_and_their_biases_prove_nothing():
    model = nn.Sequential(nn.Conv2d(3, 64, 3), nn.Linear(64, 64))
    statistics = measure_model(model)
    assert statistics.constants == statistics.moved_constants == ()


def test_a_single_value_is_no_proof_unless_its_start_is_given():
    model = nn.Sequential(nn.BatchNorm2d(1))
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    nn.init.constant_(model[0].weight, 0.9)
    assert measure_model(model).moved_constants == ()
    assert measure_model(model, initial=start).moved_constants == ("0.weight",)


def test_given_starts_show_which_biases_were_constant():
    model = nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 2))
    nn.init.zeros_(model[0].bias)
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        model[0].bias += 1.0
        model[1].bias += 1.0
    statistics = measure_model(model, initial=start)
    assert statistics.constants == statistics.moved_constants == ("0.bias",)


def test_nonfinite_values_are_counted_by_name():
    model = nn.Linear(4, 4)
    with torch.no_grad():
        model.weight[0, 0] = torch.nan
        model.weight[0, 1] = -torch.inf
    assert measure_model(model).nonfinite == {"weight": 2}
    assert measure_model(nn.Linear(2, 2)).nonfinite == {}
