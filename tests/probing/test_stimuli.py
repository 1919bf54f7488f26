"""Synthetic images: what they are made of, and that they leave no trace."""

import copy
import math

import pytest
import torch
from torch import nn

from weightscope.probing.stimuli import (
    _ball,
    _count,
    _radii,
    dead_leaves,
    matched_images,
    of_own_exposure,
    suited_contrast,
)


@pytest.mark.parametrize("sizes", [(256,), (48, 64), (16, 12, 20)])
@pytest.mark.parametrize("channels", [1, 4])
def test_images_are_standardised_and_repeatable(sizes, channels):
    state = torch.get_rng_state()
    made = dead_leaves(3, channels, sizes, seed=5)
    assert torch.equal(torch.get_rng_state(), state)
    assert made.shape == (3, channels, *sizes)
    assert made.dtype == torch.float32
    flat = made.flatten(1)
    assert torch.allclose(flat.mean(1), torch.zeros(3), atol=1e-5)
    assert torch.allclose(flat.square().mean(1), torch.ones(3), atol=1e-4)
    assert torch.equal(made, dead_leaves(3, channels, sizes, seed=5))
    assert not torch.equal(made, dead_leaves(3, channels, sizes, seed=6))
    assert not torch.equal(made[0], made[1])


@pytest.mark.parametrize("sizes", [(256,), (48, 64), (16, 12, 20)])
def test_exposures_differ_in_brightness_and_contrast_within_the_range(sizes):
    state = torch.get_rng_state()
    made = of_own_exposure(6, 3, sizes, seed=5)
    assert torch.equal(torch.get_rng_state(), state)
    assert made.shape == (6, 3, *sizes)
    flat = made.flatten(1)
    assert float(flat.min()) >= 0.01 - 1e-6
    assert float(flat.max()) <= 1.0 + 1e-6
    spans = (flat.amax(1) - flat.amin(1)) / 0.99
    assert torch.allclose(spans, 0.25 ** (torch.arange(6) / 5), atol=1e-5)
    # what is left of the range lies below in six shares
    below = (flat.amin(1)[1:] - 0.01) / (0.99 * (1 - spans[1:]))
    assert len({round(float(share), 3) for share in below}) == 5
    assert torch.equal(made, of_own_exposure(6, 3, sizes, seed=5))
    assert of_own_exposure(1, 1, sizes, seed=0).isfinite().all()


def test_grey_images_have_equal_channels_but_for_the_grain():
    grey = dead_leaves(2, 3, (64, 64), seed=0, colour=False)
    colour = dead_leaves(2, 3, (64, 64), seed=0)

    def correlation(images):
        return float(torch.corrcoef(images.transpose(0, 1).flatten(1))[0, 1])

    assert correlation(grey) > 0.98
    assert 0.4 < correlation(colour) < 0.95


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_radii_are_scale_invariant(dims):
    radii = _radii(200_000, dims, 64.0, torch.Generator().manual_seed(0))
    assert radii.min() >= 1.5
    assert radii.max() <= 64.0
    # of the density r^-(dims + 1) the share above r falls as r^-dims
    share = float((radii > 6.0).float().mean())
    expected = (4.0**-dims - (64 / 1.5) ** -dims) / (1 - (64 / 1.5) ** -dims)
    assert share == pytest.approx(expected, rel=0.05)


def test_balls_cover_the_image_as_often_as_asked():
    sizes = (256, 256)
    radii = _radii(_count(sizes, 128.0), 2, 128.0, torch.Generator().manual_seed(0))
    covered = math.pi * float(radii.square().sum()) / math.prod(sizes)
    assert covered == pytest.approx(3.0, rel=0.5)


def test_a_ball_is_what_lies_within_its_radius():
    box, inside = _ball(2.0, (1.0, 5.0), (8, 8))
    image = torch.zeros(8, 8, dtype=torch.bool)
    image[box] = torch.from_numpy(inside)
    rows, columns = torch.meshgrid(torch.arange(8), torch.arange(8), indexing="ij")
    assert torch.equal(image, (rows - 1) ** 2 + (columns - 5) ** 2 < 4)


class Normed(nn.Module):
    """Two batch norms that saw images of mean 0.5 and spread 2."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(
            nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(),
            nn.Conv2d(6, 4, 3, padding=1), nn.BatchNorm2d(4),
        )  # fmt: skip
        self.train()
        with torch.no_grad():
            for seed in range(60):
                self.net(0.5 + 2 * dead_leaves(4, 2, (24, 24), seed=seed))
        self.eval()

    def forward(self, x):
        return self.net(x)


def mismatch(model, images):
    seen = []
    hook = model.net[1].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        model(images)
    hook.remove()
    values, norm = seen[0].transpose(0, 1).flatten(1), model.net[1]
    off = (values.mean(1) - norm.running_mean).square() / norm.running_var
    return float((off + (values.var(1) / norm.running_var).log().square()).mean())


def test_matched_images_come_nearer_to_what_the_norms_saw():
    model = Normed()
    before = copy.deepcopy(model.state_dict())
    images = dead_leaves(4, 2, (24, 24), seed=99)
    (found,) = matched_images(model, [images], lambda free: model(*free))
    assert mismatch(model, found) < 0.6 * mismatch(model, images)
    assert found.shape == images.shape
    assert not found.requires_grad
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert not any(m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_images_of_any_number_type_are_matched(dtype):
    model, images = Normed(), dead_leaves(4, 2, (24, 24), seed=99)
    (exact,) = matched_images(model, [images], lambda free: model(*free))
    model.to(dtype)
    (found,) = matched_images(model, [images.to(dtype)], lambda free: model(*free))
    assert found.dtype == dtype
    assert bool(found.isfinite().all())
    assert (found.float() - exact).square().mean().sqrt() < 0.15


def test_sums_of_squares_do_not_overflow():
    model = Normed().half()
    images = [400.0 * dead_leaves(3, 2, (24, 24), seed=99).half()]
    (found,) = matched_images(model, images, lambda free: model(*free))
    assert bool(found.isfinite().all())
    assert suited_contrast(model, images, lambda free: model(*free)) == 0.01


def test_norms_that_saw_far_weaker_images_lower_the_contrast():
    model, images = Normed(), [dead_leaves(3, 2, (24, 24), seed=99)]
    for factor, contrast in ((0.01, 1.0), (1.0, 1.0), (10.0, 1.0), (300.0, 0.01)):

        def forward(free, factor=factor):
            return model(factor * free[0])

        assert suited_contrast(model, images, forward) == contrast
    assert suited_contrast(nn.Conv2d(1, 1, 1), images, lambda free: free) == 1.0
    assert suited_contrast(model, images, lambda free: free) == 1.0  # no norm is reached


def test_without_batch_norms_nothing_is_matched():
    model = nn.Conv2d(1, 1, 1)
    assert matched_images(model, [torch.zeros(1, 1, 8, 8)], lambda free: model(*free)) is None
    fresh = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2)).eval()
    assert matched_images(fresh, [torch.zeros(1, 1, 8, 8)], lambda free: fresh(*free)) is None


def test_hooks_come_off_when_the_forward_raises():
    model = Normed()

    def broken(_):
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        matched_images(model, [torch.zeros(1, 2, 24, 24)], broken)
    assert not any(m._forward_pre_hooks for m in model.modules())
