"""Complex numbers have no order: what returns them is refused by name, never judged by half."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from weightscope import InputError, ablate, analyze
from weightscope.graph import read_structure
from weightscope.probing import respond_to_images
from weightscope.utilization.data import gather_data


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


@pytest.mark.sample(2)
@pytest.mark.parametrize("metric", ["f1", "average_precision", "mae", "psnr", distance])
def test_complex_outputs_are_refused(metric):
    with pytest.raises(InputError, match="Complex returned complex numbers for batch 0"):
        ablate(Complex(), batches(), metric, progress=False)


@pytest.mark.sample(2)
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


def test_images_of_complex_numbers_are_refused_by_name():
    images = torch.rand(12, 1, 16, 16)
    structure = read_structure(Magnitude().eval(), torch.complex(images, images))
    with pytest.raises(InputError, match=r"batch 0 of images= holds complex numbers.*view_as_real"):
        respond_to_images(structure, [torch.complex(images, images)])
    with pytest.raises(InputError, match=r"floating-point numbers; let it return real ones"):
        respond_to_images(read_structure(Complex().eval(), images), [images])


class Parts(nn.Module):
    """Adds what lies below to a complex image, and returns the parts of all numbers last."""

    def __init__(self, *, last):
        super().__init__()
        self.last = last
        self.deep, self.head = nn.Conv2d(2, 2, 1), nn.Conv2d(4, 2, 1)
        # better than no network at all: which way a metric points is read off that
        with torch.no_grad():
            self.head.weight[:, :2] += torch.eye(2)[:, :, None, None]
            self.head.weight *= torch.tensor([1.0, 1.0, 0.1, 0.1])[:, None, None]

    def forward(self, x):
        below = F.interpolate(self.deep(F.avg_pool2d(x, 2)), scale_factor=2.0)
        made = self.head(torch.cat([x, below], 1))
        return made.movedim(1, -1)[:, None] if self.last else made


@pytest.mark.sample(1)
@pytest.mark.parametrize("given", ["metric", "loss"])
def test_real_and_imaginary_parts_behind_the_sizes_follow_the_channels_of_the_input(given):
    generator = torch.Generator().manual_seed(0)
    clean = torch.randn(24, 2, 16, 16, generator=generator)
    images = clean + 0.3 * torch.randn(clean.shape, generator=generator)
    found = []
    for last in (False, True):
        torch.manual_seed(0)
        structure = read_structure(Parts(last=last).eval(), images[:1])
        targets = clean.movedim(1, -1)[:, None] if last else clean
        result = gather_data(structure, [(images, targets)], **{given: F.mse_loss}).ablation
        own = respond_to_images(structure, [images]).cuts[0].value
        found.append((result.chance, result.trivial, result.quality, own))
    for first, second in zip(*found, strict=True):
        assert second == (first if isinstance(first, str) else pytest.approx(first, rel=1e-3))
