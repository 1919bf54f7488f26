"""Traces of training in the energies of filters, whatever the weights were drawn from."""

import pytest
import torch
from torch import nn

from weightscope.statistics import measure_model
from weightscope.traces import are_coherent, are_dispersed, shows_training

DRAWS = {
    "uniform": lambda p: p.uniform_(-1.0, 1.0),
    "off zero": lambda p: p.uniform_(-0.2, 1.0),
    "positive": lambda p: p.uniform_(0.0, 0.1),
    "normal": lambda p: p.normal_(),
    "truncated": lambda p: nn.init.trunc_normal_(p, std=0.02, a=-0.04, b=0.04),
    "Laplace": lambda p: p.copy_(torch.distributions.Laplace(0.0, 1.0).sample(p.shape)),
    "half zeros": lambda p: p.normal_().mul_(torch.rand_like(p) < 0.5),
    "few not zero": lambda p: p.normal_().mul_(torch.rand_like(p) < 0.01),
    "heavy tails": lambda p: p.copy_(torch.distributions.StudentT(2.5).sample(p.shape)),
    "orthogonal": nn.init.orthogonal_,
    "dirac": nn.init.dirac_,
    "constant": lambda p: p.fill_(0.1),
}
SHAPES = [(32, 8, 3, 3), (8, 64, 3, 3), (256, 2, 3, 3), (96, 1, 5, 5), (64, 64, 1, 1)]


def kernels(draw, seed=0):
    """Kernels of many shapes, drawn alike, but for a scale of each."""
    torch.manual_seed(seed)
    model = nn.Sequential(*(nn.Conv2d(s[1], s[0], s[2], bias=False) for s in SHAPES))
    with torch.no_grad():
        for index, layer in enumerate(model):
            draw(layer.weight)
            layer.weight *= 2.0**index
    return model


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_no_draw_of_independent_weights_has_energies_that_lie_apart(draw):
    assert not any(are_dispersed(measure_model(kernels(draw, s)).parameters) for s in range(5))


@pytest.mark.parametrize("name", ["uniform", "off zero", "normal"])
def test_filters_that_grew_unlike_prove_training(name):
    model = kernels(DRAWS[name])
    with torch.no_grad():
        for layer in model:
            layer.weight *= torch.exp(0.3 * torch.randn(len(layer.weight), 1, 1, 1))
    statistics = measure_model(model)
    assert are_dispersed(statistics.parameters)
    assert shows_training(statistics)
    if name != "off zero":
        assert not are_coherent(statistics.parameters)  # their means say nothing
