"""Ablation on networks whose answer is known by hand."""

import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from torch import nn

import weightscope as ws
import weightscope.utilization.ablation as ablation
from weightscope.errors import ForwardError, InputError
from weightscope.graph import read_structure
from weightscope.thresholds import MINIMUM_IMAGES, SURE
from weightscope.utilization import ablate, ablate_levels
from weightscope.utilization.ablated import AblationResult
from weightscope.utilization.data import DataEvidence
from weightscope.utilization.intervals import interval, surely_above, widening
from weightscope.utilization.metrics import ImageValues, resampled
from weightscope.utilization.worst import of_the_worst


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


@pytest.mark.sample(1)
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

    metric.higher_is_better = True
    ablate_levels(structure, batches(images, mask), metric)
    expected = torch.full((1, 1, 8, 8), float(mean[0]))
    constant = [output for output in seen if torch.allclose(output, expected, atol=1e-6)]
    assert len(constant) >= len(images)


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

    with pytest.raises(InputError, match="fail raised on an image of batch 0") as caught:
        ablate_levels(structure, batches(*scenes()), fail)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
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
    frame = ablate(TwoPaths(1.0, 1.0), iter(batches(*scenes(size=16))), "f1", progress=False)
    assert list(frame.columns) == [
        "keep_levels", "quality", "ablated", "drop", "low", "high",
        "unadjusted",
        "share_lost", "chance", "images", "metric", "fill",
    ]  # fmt: skip
    skill = frame["quality"] - frame["chance"]
    assert frame["share_lost"].tolist() == pytest.approx((frame["drop"] / skill).tolist())
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


def test_the_old_threshold_stands_beside_the_new_one():
    images, mask = scenes()
    structure = read_structure(TwoPaths(1.0, 4.0), images)
    (record,) = ablate_levels(structure, batches(images, mask), "f1").levels
    assert record.ablated > 0.99  # what goes is a shift, for which a new threshold makes up
    assert record.unadjusted == 0.0
    (record,) = ablate_levels(structure, batches(images, mask), "average_precision").levels
    assert record.unadjusted is None


def test_zero_is_the_best_constant(structures):
    result = ablate_levels(structures["shallow"], batches(*scenes(images=40), size=20), "f1")
    share = float(scenes(images=40)[1].mean())
    assert result.chance == pytest.approx(2 * share / (1 + share))
    assert result.skill == pytest.approx(result.quality - result.chance)


def test_a_loss_is_ablated_in_its_own_unit_and_its_growth_is_the_drop(structures):
    images, mask = scenes(images=24)
    loss = F.binary_cross_entropy_with_logits
    result = ablate_levels(structures["deep"], batches(images, mask), loss, larger_is_better=False)
    share = mask.mean()
    entropy = -float(share * share.log() + (1 - share) * (1 - share).log())
    assert result.chance == pytest.approx(entropy, rel=0.02)
    assert not result.larger_is_better
    (level,) = result.levels
    assert level.drop == pytest.approx(level.ablated - level.quality)
    assert level.low <= level.drop <= level.high


def ignoring(image, mask, kept):
    """Masks of which all but some images are marked as what does not count."""
    marked = mask.long()
    marked[kept:] = 255
    return [(image, marked)]


def mean_where_known(outputs, targets):
    known = targets != 255
    return F.mse_loss(outputs[known], targets[known].float())  # nan of none


def sum_where_known(outputs, targets):
    known = targets != 255
    return F.mse_loss(outputs[known], targets[known].float(), reduction="sum")  # 0 of none


@pytest.mark.sample(2)
@pytest.mark.parametrize("kept", [1, 9, 10])
@pytest.mark.parametrize(
    ("metric", "options"),
    [
        ("f1", {"ignore_index": 255}),
        ("accuracy", {"ignore_index": 255}),
        ("average_precision", {"ignore_index": 255}),
        (mean_where_known, {"larger_is_better": False}),
        (sum_where_known, {"larger_is_better": False}),
    ],
)
def test_images_without_anything_to_judge_do_not_count(structures, metric, options, kept):
    pairs = ignoring(*scenes(40, size=16), kept)
    result = ablate_levels(structures["deep"], pairs, metric, resamples=100, **options)
    assert (result.images, result.given) == (kept, 40)
    assert result.counted == f"{kept} of 40 images"
    assert result.enough == (kept >= 10)
    if kept == 1:
        assert result.levels[0].low == -np.inf
    if kept < 10:
        assert result.doubt.startswith(f"{kept} of 40 images weigh")


def test_copies_of_the_images_make_nothing_surer(structures):
    image, mask = scenes(12, size=16)
    mask = (mask + (torch.rand(mask.shape, generator=torch.manual_seed(0)) < 0.1)).clamp(max=1)
    once, often = (ablate_levels(structures["deep"], [(image, mask)] * n, "f1") for n in (1, 5))
    assert once.images == often.images == once.given == often.given
    assert (often.levels[0].low, often.levels[0].high) == pytest.approx(
        (once.levels[0].low, once.levels[0].high)
    )
    assert once.levels[0].low < once.levels[0].high


def test_images_without_foreground_do_not_count_for_f1(structures):
    image, mask = scenes(40, size=16)
    mask[6:] = 0.0
    assert ablate_levels(structures["deep"], [(image, mask)], "f1", resamples=50).images == 6
    accuracy = ablate_levels(structures["deep"], [(image, mask)], "accuracy", resamples=50)
    assert accuracy.images == 40


@pytest.mark.parametrize("known", [3, 12])
def test_a_loss_is_of_the_images_that_have_a_value_with_and_without_a_level(known):
    values = np.arange(40.0)
    whole, left = ImageValues(values), ImageValues(values - 1.0).among(np.arange(40) < known)
    weights = np.concatenate([np.ones((1, 40)), resampled(range(40), 100, 0)])
    found = ablation._record(SimpleNamespace(keep_levels=1), whole, left, weights, 1.0, 40, None)
    assert found.drop == pytest.approx(1.0)  # not the mean of 40 images less that of a few
    assert found.images == known
    result = AblationResult((found,), 19.5, 0.0, 15.0, 40, "m", floor=0.0)
    score = DataEvidence({}, result, True, {"below": 1}).score("below")
    assert score.verdict == ("used" if known == 12 else "undecided")
    assert ("3 images have a value both" in score.why) == (known == 3)


def flat(mask):
    return torch.zeros_like(mask)


CONSTANTS = {
    "zeros": (flat, nn.BCEWithLogitsLoss()),
    "ones": (lambda mask: flat(mask) + 1, nn.BCEWithLogitsLoss()),
    "of a sum": (flat, nn.BCEWithLogitsLoss(reduction="sum")),
    "of a function": (flat, lambda o, y: F.binary_cross_entropy_with_logits(o, y)),
    "soft": (lambda mask: flat(mask) + 0.3, nn.BCEWithLogitsLoss()),
    "numbers": (lambda mask: flat(mask) + 0.3, nn.MSELoss()),
}


@pytest.mark.parametrize("case", list(CONSTANTS))
def test_nothing_is_learned_from_constant_targets(structures, case):
    targets, loss = CONSTANTS[case]
    image, mask = scenes(10, size=4)
    found = ablate_levels(
        structures["deep"],
        [(image, targets(mask))],
        loss,
        larger_is_better=False,
        recalibrate=True,
        resamples=50,
    )
    assert found.constant_targets
    assert not found.skilled
    assert found.undecided
    assert "the targets are the same everywhere" in found.doubt
    assert found.remedy == "give targets that differ"


class Certain(nn.Module):
    """Logits that are far below zero, and a little further by the level below."""

    def __init__(self, bias):
        super().__init__()
        self.paths, self.bias = TwoPaths(1.0, 1.0), bias

    def forward(self, x):
        return self.paths(x) - self.bias


@pytest.mark.sample(1)
@pytest.mark.parametrize(("bias", "recalibrate"), [(14.0, True), (100.0, False)])
def test_rounding_is_no_skill(bias, recalibrate):
    image, mask = scenes(10, size=4)
    structure = read_structure(Certain(bias), image)
    loss = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 0.0]))

    def of_background(outputs, targets):  # constant but for what does not count
        return loss(torch.cat([-outputs, outputs], 1), targets[:, 0].long())

    found = ablate_levels(
        structure,
        [(image, mask)],
        of_background,
        larger_is_better=False,
        recalibrate=recalibrate,
        resamples=50,
    )
    assert not found.constant_targets
    assert found.chance < 1e-5
    assert not found.skilled


@pytest.mark.parametrize("images", [1, 2, MINIMUM_IMAGES - 1, MINIMUM_IMAGES])
def test_few_images_are_not_enough(structures, images):
    result = ablate_levels(structures["deep"], [scenes(images, size=16)], "f1")
    assert result.enough == (images >= 10)
    assert result.images == images
    if images == 1:
        assert result.levels[0].low == -np.inf
        assert result.skill_low == -np.inf


def test_no_fewer_images_could_be_sure():
    """All n images agreeing has a chance of 2^-n: the first n that is surer than SURE decides."""
    assert 0.5**MINIMUM_IMAGES <= 1 - SURE < 0.5 ** (MINIMUM_IMAGES - 1)


def test_few_images_widen_the_interval():
    """Student's quantile and the spread that a bootstrap sees too small, against scipy's."""
    assert widening(0.975, 10) == pytest.approx(stats.t.ppf(0.975, 9) * (10 / 9) ** 0.5)
    assert widening(0.975, 1) == np.inf
    samples = np.random.default_rng(0).normal(size=200_000)
    low, high = interval(samples, 10)
    assert high == pytest.approx(widening(0.975, 10), rel=0.05)
    assert low == pytest.approx(-high, rel=0.05)


def test_the_interval_of_few_images_covers_as_often_as_it_says():
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(400):
        values = rng.normal(size=MINIMUM_IMAGES)
        drawn = values[rng.integers(0, len(values), (1000, len(values)))].mean(1)
        low, high = interval(drawn, len(values))
        inside += low <= 0.0 <= high
    assert 0.93 <= inside / 400 <= 0.98


@pytest.mark.parametrize(("errors", "skilled"), [(3.2, False), (3.6, True)])
def test_skill_is_sure_in_999_of_1000_cases(errors, skilled):
    """Of 30 images the mean must exceed zero by Student's .999 quantile, 3.40 standard errors."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=30)
    values = (values - values.mean()) / values.std(ddof=1) * 30**0.5 + errors
    drawn = values[rng.integers(0, 30, (20_000, 30))].mean(1)
    low = surely_above(np.concatenate([[values.mean()], drawn]), 30)
    result = AblationResult((), 1.0, 0.0, low, 30, "m", floor=0.0)
    assert result.skilled == skilled


class Drawing(TwoPaths):
    """Draws from every generator, counts in buffers and attributes, in evaluation mode too."""

    def __init__(self):
        super().__init__(0.5, 1.0)
        self.register_buffer("calls", torch.zeros(()))
        self.count = 0

    def forward(self, x):
        self.calls += 1
        self.count += 1
        return super().forward(x + 0 * torch.rand(1) * random.random() * np.random.rand())


@pytest.mark.sample(1)
@pytest.mark.parametrize("way", ["metric", "loss", "metric raises", "interrupt", "forward raises"])
def test_every_way_leaves_state_and_randomness_as_they_were(way):
    model, pairs = Drawing(), batches(*scenes())

    def fail(outputs, targets):
        raise KeyboardInterrupt if way == "interrupt" else ZeroDivisionError

    options = {"metric": "f1"}
    if way == "loss":
        options = {"loss": F.binary_cross_entropy_with_logits}
    if way in ("metric raises", "interrupt"):
        options = {"metric": fail}
    loader = torch.utils.data.DataLoader(list(zip(*scenes(), strict=True)), batch_size=4)
    if way == "forward raises":
        loader = [*pairs, (torch.zeros(2, 3, 8, 8), torch.zeros(2, 1, 8, 8))]
    model.train()
    state = {k: v.clone() for k, v in model.state_dict().items()}
    torch_state, numpy_state, python_state = (
        torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate(),
    )  # fmt: skip
    try:
        ws.analyze(model, batches=loader, **options)
        assert way in ("metric", "loss")
    except (KeyboardInterrupt, InputError):
        assert way not in ("metric", "loss")
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert model.count == 0
    assert all(m.training for m in model.modules())
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert (np.random.get_state()[1] == numpy_state).all()
    assert random.getstate() == python_state


def test_a_forward_that_raises_is_a_forward_error_with_its_batch():
    pairs = [*batches(*scenes()), (torch.zeros(2, 3, 8, 8), torch.zeros(2, 1, 8, 8))]
    for options in ({"metric": "f1"}, {"loss": F.binary_cross_entropy_with_logits}):
        with pytest.raises(ForwardError, match=r"batch 3 \(2x3x8x8\)"):
            ws.analyze(TwoPaths(1.0, 1.0), batches=pairs, **options)


def test_images_without_a_batch_dimension_are_named(structures):
    images, mask = scenes()
    with pytest.raises(InputError, match="images of batch 1 have 3 dimensions, expected 4"):
        ablate_levels(structures["deep"], [(images, mask), (images[0], mask[0])], "f1")


def test_broken_weights_are_blamed_and_not_the_targets():
    model = TwoPaths(1.0, 1.0)
    with torch.no_grad():
        model.below.weight[0] = float("nan")
    for options in ({"metric": "f1"}, {"loss": F.binary_cross_entropy_with_logits}):
        found = ws.analyze(model, batches=batches(*scenes()), **options, response=False)
        assert found.conclusion.startswith("2 weights are NaN or infinite (below.weight)")
    with pytest.raises(InputError, match=r"below\.weight of TwoPaths hold nan"):
        ablate(model, batches(*scenes()), "f1", progress=False)


def test_a_wrapped_model_is_evaluated_too():
    model = nn.DataParallel(TwoPaths(0.5, 1.0))
    pairs = batches(*scenes(images=24))
    given = {"batches": pairs, "loss": F.binary_cross_entropy_with_logits, "response": False}
    by_loss, plain = ws.analyze(model, **given), ws.analyze(model.module, **given)
    assert by_loss.data.ablation == plain.data.ablation
    assert by_loss.data.importances == plain.data.importances
    assert max(i.value for i in by_loss.data.importances.values()) > 0.0


def test_a_metric_whose_direction_cannot_be_seen_must_say_it(structures):
    def count(outputs, targets):  # as large for the targets of another image
        return float((outputs > 0).sum())

    with pytest.raises(InputError, match=r"count is better cannot be seen.*higher_is_better"):
        ablate_levels(structures["deep"], batches(*scenes()), count)

    def missed(outputs, targets):  # nor is it here, but the right answer shows it
        return float(((outputs > 0) != (targets > 0)).float().mean().round())

    structure, (images, mask) = structures["deep"], scenes()
    assert not ablate_levels(structure, batches(images, mask), missed).larger_is_better
    count.higher_is_better = True
    assert ablate_levels(structures["deep"], batches(*scenes()), count).larger_is_better


def test_copies_of_an_image_are_no_images_of_their_own(structures):
    images, mask = scenes()
    copied = [(images[:2], mask[:2])] * 8
    found = ablate_levels(structures["deep"], copied, "f1")
    assert found.images == 2
    assert not found.enough


@pytest.mark.parametrize("detached", [False, True])
def test_a_metric_on_arrays_has_its_best_constant(structures, detached):
    """`.numpy()` raises on what has a gradient; the search goes on without one."""

    def log_loss(output, target):
        p = 1 / (1 + np.exp(-(output.detach() if detached else output).numpy()))
        p = np.clip(p, 1e-7, 1 - 1e-7)
        t = target.numpy()
        return float(-(t * np.log(p) + (1 - t) * np.log(1 - p)).mean())

    image, mask = scenes(12, size=16)
    share = float(mask.mean())
    best = -(share * np.log(share) + (1 - share) * np.log(1 - share))
    found = ablate_levels(structures["deep"], [(image, mask)], log_loss, resamples=20)
    assert found.chance == pytest.approx(best, rel=0.02)


@pytest.mark.parametrize(("quality", "found"), [(0.98, 0.5), (0.9615, None)])
def test_the_skill_of_a_rare_label_is_a_share_of_what_there_is_to_have(quality, found):
    whole, trivial = np.full(51, quality), np.full(51, 0.96)
    half = np.full(51, (quality + 0.96) / 2)
    lost = of_the_worst({2: (whole, trivial)}, {2: (half, trivial)}, 40)
    assert lost.get("worst") == (None if found is None else pytest.approx(found))
    assert of_the_worst({2: (whole, trivial)}, {2: (half, trivial)}, 40, kind="number") == {}


class ScaledFromBelow(nn.Module):
    """What leaves the deeper level are matrices for every image, so that no cut is legal."""

    def __init__(self) -> None:
        super().__init__()
        self.top, self.deep = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.scale, self.head = nn.Linear(4, 4), nn.Conv2d(8, 1, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        top = self.top(x)
        deep = self.deep(F.max_pool2d(top, 2))
        matrices = deep[:, :, :2, :4] @ deep[:, :, :4, :3]
        scaled = top * self.scale(matrices.sum((2, 3)))[..., None, None]
        return self.head(torch.cat([scaled, F.interpolate(deep, scale_factor=2)], 1))


def test_a_network_of_which_nothing_can_be_cut_gives_an_empty_table_and_says_why():
    images = torch.rand(2, 1, 16, 16)
    with pytest.warns(
        UserWarning, match="no level of ScaledFromBelow can be cut.*let it leave and enter as"
    ):
        found = ablate(ScaledFromBelow(), [(images, images > 0.5)], "f1", progress=False)
    assert found.empty
    assert "drop" in found
