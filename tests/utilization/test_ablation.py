"""Ablation on networks whose answer is known by hand."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import weightscope.utilization.ablation as ablation
from weightscope.errors import InputError
from weightscope.graph import read_structure
from weightscope.utilization import ablate, ablate_levels


class TwoPaths(nn.Module):
    """Prediction = shallow * (own pixel) + deep * (mean of its 4x4 neighbourhood, by pooling)."""

    def __init__(self, shallow, deep):
        super().__init__()
        self.top = nn.Conv2d(1, 2, 1, bias=False)
        self.below = nn.Conv2d(2, 2, 1, bias=False)
        self.norm = nn.BatchNorm2d(2)
        self.head = nn.Conv2d(4, 1, 1, bias=False)
        self.frozen = nn.Dropout(0.5)
        with torch.no_grad():
            self.top.weight.fill_(1.0)
            self.below.weight.copy_(torch.eye(2)[..., None, None])
            self.head.weight.copy_(torch.tensor([shallow, 0.0, deep, 0.0]).reshape(1, 4, 1, 1))

    def forward(self, x):
        top = self.top(x)
        deep = self.frozen(self.norm(self.below(F.avg_pool2d(top, 4))))
        return self.head(torch.cat([top, F.interpolate(deep, scale_factor=4.0)], 1))


def scenes(images=12, size=8, seed=0):
    """Images whose mask can be told by the pixel itself, and by its neighbourhood."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(images, 1, size // 4, size // 4, generator=generator) > 0.6
    mask = F.interpolate(coarse.float(), scale_factor=4.0)
    return mask + 0.1 * torch.randn(mask.shape, generator=generator), mask


def batches(images, mask, size=4):
    return list(zip(images.split(size), mask.split(size), strict=True))


@pytest.fixture(scope="module")
def structures():
    """One reading per kind of network: what the answer depends on are the weights."""
    made = {}
    for kind, (shallow, deep) in {"shallow": (1.0, 0.0), "deep": (0.0, 1.0)}.items():
        made[kind] = read_structure(TwoPaths(shallow, deep), scenes()[0])
    return made


@pytest.mark.parametrize("metric", ["f1", "average_precision"])
def test_a_level_that_nothing_reads_costs_nothing(structures, metric):
    result = ablate_levels(structures["shallow"], batches(*scenes()), metric)
    (level,) = result.levels
    assert level.keep_levels == 1
    assert (level.drop, level.low, level.high) == (0.0, 0.0, 0.0)
    assert result.skilled


@pytest.mark.parametrize("fill", ["mean", "zero", "shuffle"])
def test_a_level_that_does_everything_costs_all_the_skill(structures, fill):
    result = ablate_levels(structures["deep"], batches(*scenes(images=24)), "f1", fill=fill)
    (level,) = result.levels
    assert level.quality == pytest.approx(1.0, abs=0.01)
    mask = scenes(images=24)[1]
    constant = 2 * mask.mean() / (1 + mask.mean())
    assert level.ablated == pytest.approx(float(constant), abs=0.12)
    assert 0.0 < level.low <= level.drop <= level.high


def test_mean_replacement_equals_the_same_by_hand(structures):
    images, mask = scenes()
    structure = structures["deep"]
    model = structure.model.eval()
    with torch.no_grad():
        deep = model.norm(model.below(F.avg_pool2d(model.top(images), 4)))
    mean = deep.mean((0, 2, 3))
    seen = []

    def metric(outputs, targets):
        seen.append(outputs)
        return 1.0

    ablate_levels(structure, batches(images, mask), metric)
    by_level = torch.cat(seen[24:])
    assert by_level.shape == mask.shape
    assert torch.allclose(by_level, torch.full_like(by_level, float(mean[0])), atol=1e-6)


def test_the_model_is_left_as_it_was():
    model = TwoPaths(0.0, 1.0)
    model.norm.eval()
    model.train()
    model.frozen.eval()
    modes = [m.training for m in model.modules()]
    state = {k: v.clone() for k, v in model.state_dict().items()}
    random = torch.get_rng_state()
    ablate(model, batches(*scenes()), "f1", progress=False)
    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert all(p.grad is None for p in model.parameters())


def test_modes_come_back_when_the_metric_fails(structures):
    structure = structures["deep"]
    structure.model.train()

    def fail(outputs, targets):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        ablate_levels(structure, batches(*scenes()), fail)
    assert all(m.training for m in structure.model.modules())
    structure.model.eval()


def test_the_same_seed_gives_the_same_numbers(structures):
    def run(seed):
        return ablate_levels(
            structures["deep"], batches(*scenes()), "f1", fill="shuffle", seed=seed, resamples=50
        )

    assert run(1) == run(1)
    assert run(1) != run(2)


def test_the_interval_covers_new_images(structures):
    """The drop on fresh images lies in a 95 % interval nearly always."""
    truth = ablate_levels(structures["deep"], batches(*scenes(images=400, seed=99), 100), "f1")
    inside = 0
    for seed in range(20):
        result = ablate_levels(
            structures["deep"], batches(*scenes(images=16, seed=seed)), "f1", resamples=200
        )
        inside += result.levels[0].low <= truth.levels[0].drop <= result.levels[0].high
    assert inside >= 15


def test_public_ablate_returns_one_row_per_depth():
    frame = ablate(TwoPaths(1.0, 1.0), iter(batches(*scenes())), "f1", progress=False)
    assert list(frame.columns) == [
        "keep_levels", "quality", "ablated", "drop", "low", "high", "chance", "images", "fill",
    ]  # fmt: skip
    assert frame["keep_levels"].tolist() == [1]
    assert frame["images"].tolist() == [12]


@pytest.mark.parametrize(
    ("pairs", "options", "text"),
    [
        ([], {}, "empty"),
        ([torch.zeros(1, 1, 8, 8)], {}, "expected a pair"),
        (batches(*scenes()), {"fill": "median"}, "unknown fill 'median'"),
        (batches(*scenes(), size=1), {"fill": "shuffle"}, "two images or more"),
    ],
)
def test_bad_input_is_named(pairs, options, text):
    with pytest.raises(InputError, match=text):
        ablate(TwoPaths(1.0, 1.0), pairs, "f1", progress=False, **options)


def test_shuffling_never_leaves_an_image_its_own():
    for seed in range(20):
        value = torch.arange(5.0)[:, None]
        shuffled = ablation.shuffled_images(value, torch.Generator().manual_seed(seed))
        assert sorted(shuffled.flatten().tolist()) == value.flatten().tolist()
        assert not (shuffled == value).any()


def test_chance_judges_by_other_images(structures):
    result = ablate_levels(structures["shallow"], batches(*scenes(images=40), size=20), "f1")
    mask = scenes(images=40)[1]
    constant = 2 * float(mask.mean()) / (1 + float(mask.mean()))
    assert result.chance == pytest.approx(constant, abs=0.15)
    assert np.isfinite(result.skill_low)
