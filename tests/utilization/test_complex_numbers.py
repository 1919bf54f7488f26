"""Complex numbers have no order: what returns them is refused by name, never judged by half."""

import pytest
import torch
from torch import nn

from weightscope import InputError, ablate, analyze


class Complex(nn.Module):
    """Real and imaginary part by a network of two levels."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, x):
        x = self.a(x.real if x.is_complex() else x)
        deep = nn.functional.interpolate(self.b(nn.functional.max_pool2d(x, 2)), scale_factor=2.0)
        both = self.head(torch.cat([x, deep], 1))
        return torch.complex(both[:, :1], both[:, 1:])


class Magnitude(Complex):
    def forward(self, x):
        return super().forward(x).abs()


def batches(*, complex_targets=False, complex_inputs=False):
    images = torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    masks = (images > 0.5).float()
    targets = torch.complex(masks, masks) if complex_targets else masks
    return [(torch.complex(images, images) if complex_inputs else images, targets)]


def distance(outputs, targets):
    return (outputs - targets).abs().mean()


@pytest.mark.parametrize("metric", ["f1", "average_precision", "mae", "psnr", distance])
def test_complex_outputs_are_refused(metric):
    with pytest.raises(InputError, match="Complex returned complex numbers for batch 0"):
        ablate(Complex(), batches(), metric, progress=False)


@pytest.mark.parametrize("metric", ["f1", "accuracy", "mae", "mse", "psnr"])
def test_complex_targets_are_refused_by_built_in_metrics(metric):
    with pytest.raises(InputError, match="the targets are complex"):
        ablate(Magnitude(), batches(complex_targets=True), metric, progress=False)


def test_a_callable_may_take_complex_targets_and_the_model_complex_inputs():
    def metric(outputs, targets):
        assert targets.is_complex()
        return (outputs - targets.abs()).abs().mean()

    data = batches(complex_targets=True, complex_inputs=True)
    frame = ablate(Magnitude(), data, metric, progress=False)
    assert frame.ablated.notna().all()


def test_the_analysis_says_why_there_is_no_response():
    response = analyze(Complex(), example_inputs=torch.ones(1, 1, 16, 16)).response
    assert "no image-like tensor of floating-point numbers" in response.failure
    with pytest.raises(InputError, match="returned complex numbers"):
        analyze(Complex(), batches=batches(), loss=distance)
