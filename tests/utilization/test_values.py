"""Callables of all kinds as metrics, and the best answer that needs no network."""

import copy
import math
import random
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchmetrics
import torchmetrics.image
import torchmetrics.segmentation
from judged import measure_quality
from torch import nn

from weightscope.errors import InputError
from weightscope.utilization.judging import judge_by
from weightscope.utilization.values import ValueMetric


def value(metric, outputs, targets):
    quality = measure_quality(metric, [outputs], [targets])
    return float(quality.of(np.ones((1, quality.images)))[0])


def judged(metric, outputs, targets, inputs=None, parts=4, **options):
    """Quality, best trivial quality and direction, from batches of some images."""
    size = -(-len(targets) // parts)
    inputs = targets if inputs is None else inputs
    batches = list(zip(inputs.split(size), targets.split(size), strict=True))
    judge = judge_by(metric, batches, dimensions=2, device=torch.device("cpu"), **options)
    with judge.kept(), torch.no_grad():
        for output in outputs.split(size):
            judge.add(output)
        once = np.ones((1, len(targets)))
        return (
            float(judge.whole().of(once)[0]),
            float(judge.trivial().of(once)[0]),
            judge.larger_is_better(),
        )


def classes(count=3, images=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    share = torch.arange(1.0, count + 1)
    numbers = torch.multinomial(share, images * 64, replacement=True, generator=generator)
    numbers = numbers.reshape(images, 8, 8)
    logits = torch.randn(images, count, 8, 8, generator=generator)
    return logits + 2 * F.one_hot(numbers, count).movedim(-1, 1), numbers


def regression(images=8, channels=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    targets = torch.rand(images, channels, 8, 8, generator=generator) ** 2
    return targets + 0.1 * torch.randn(targets.shape, generator=generator), targets


def soft_dice(outputs, targets):
    p = outputs.sigmoid()
    return 1 - (2 * (p * targets).sum() + 1) / (p.sum() + targets.sum() + 1)


def test_the_zero_of_cross_entropy_is_the_entropy_of_the_classes():
    logits, numbers = classes()
    p = torch.bincount(numbers.flatten()) / numbers.numel()
    _, trivial, larger = judged(F.cross_entropy, logits, numbers)
    assert trivial == pytest.approx(-float((p * p.log()).sum()), rel=1e-4)
    assert not larger


def test_class_weights_ignored_labels_and_smoothing_are_the_losss_own():
    logits, numbers = classes()
    numbers[:, :4] = 255
    weight = torch.tensor([3.0, 1.0, 0.2])
    loss = nn.CrossEntropyLoss(weight, ignore_index=255, label_smoothing=0.1)
    _, trivial, larger = judged(loss, logits, numbers)
    free = torch.zeros(3, requires_grad=True)
    optimizer = torch.optim.LBFGS([free], max_iter=100, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        per_image = [loss(free.reshape(1, 3, 1, 1).expand(1, 3, 8, 8), n[None]) for n in numbers]
        torch.stack(per_image).mean().backward()
        return torch.stack(per_image).mean()

    best = float(optimizer.step(closure).detach())
    assert trivial <= best
    assert trivial == pytest.approx(float(closure().detach()), rel=1e-4)
    assert not larger


@pytest.mark.parametrize("kind", ["logits", "probabilities"])
@pytest.mark.parametrize("weight", [1.0, 10.0])
def test_the_zero_of_binary_cross_entropy(kind, weight):
    logits, numbers = classes(2)
    outputs, targets = logits[:, 1:] - logits[:, :1], numbers[:, None].float()
    share = float(targets.mean())
    p = weight * share / (weight * share + 1 - share)
    expected = -weight * share * math.log(p) - (1 - share) * math.log(1 - p)
    if kind == "logits":
        loss = nn.BCEWithLogitsLoss(pos_weight=torch.tensor(weight))
    else:
        outputs = outputs.sigmoid()

        def loss(o, t):
            return F.binary_cross_entropy(o, t, weight=1 + (weight - 1) * t)

    found, trivial, larger = judged(loss, outputs, targets, larger_is_better=False)
    assert trivial == pytest.approx(expected, rel=1e-4)
    assert (found < trivial) == (weight == 1.0)  # the outputs are calibrated without a weight
    assert not larger


@pytest.mark.parametrize("logarithms", [True, False])
def test_probabilities_of_classes_stay_probabilities(logarithms):
    logits, numbers = classes()
    p = torch.bincount(numbers.flatten()) / numbers.numel()
    outputs = logits.log_softmax(1) if logarithms else logits.softmax(1)
    loss = F.nll_loss if logarithms else (lambda o, t: F.nll_loss(o.log(), t))
    _, trivial, _ = judged(loss, outputs, numbers)
    assert trivial == pytest.approx(-float((p * p.log()).sum()), rel=1e-3)


def test_the_zero_of_a_dice_loss_calls_everything_foreground():
    logits, numbers = classes(2)
    outputs, targets = logits[:, 1:] - logits[:, :1], (numbers == 0)[:, None].float()
    _, trivial, _ = judged(soft_dice, outputs, targets, larger_is_better=False)
    expected = np.mean([1 - (2 * t.sum() + 1) / (64 + t.sum() + 1) for t in targets])
    assert trivial == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize(
    ("metric", "best"),
    [
        ("mse", lambda t: (t - t.mean((0, 2, 3), keepdim=True)).square().mean()),
        ("mae", lambda t: (t - middle(t)).abs().mean()),
        (nn.MSELoss(), lambda t: (t - t.mean((0, 2, 3), keepdim=True)).square().mean()),
        (nn.L1Loss(), lambda t: (t - middle(t)).abs().mean()),
        (
            lambda o, t: float((o - t).square().mean()),
            lambda t: t.var((0, 2, 3), correction=0).mean(),
        ),
    ],
)
def test_the_zero_of_a_regression_is_the_mean_or_the_median(metric, best):
    outputs, targets = regression()
    found, trivial, larger = judged(metric, outputs, targets, inputs=torch.rand(len(targets), 3))
    assert trivial == pytest.approx(float(best(targets)), rel=2e-3)
    assert found < trivial
    assert not larger


def middle(targets):
    return targets.movedim(1, 0).flatten(1).median(1).values.reshape(1, -1, 1, 1)


def test_psnr_is_that_of_the_errors_over_the_range_of_the_targets():
    outputs, targets = regression()
    found, trivial, larger = judged("psnr", outputs, targets, inputs=targets[:, :1])
    span = float(targets.max() - targets.min())
    errors = (outputs - targets).square().mean((1, 2, 3))
    assert found == pytest.approx(float((10 * torch.log10(span**2 / errors)).mean()), rel=1e-4)
    assert larger
    assert trivial < found


def test_a_denoiser_must_beat_its_input():
    clean = regression(seed=1)[1]
    noisy = clean + 0.1 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    found, trivial, _ = judged("mse", clean + 0.2, clean, inputs=noisy)
    assert trivial == pytest.approx(0.01, rel=0.1)
    assert found > trivial
    standardised = judged("mse", clean, clean, inputs=(noisy - 0.3) / 0.2)[1]
    assert standardised == pytest.approx(trivial, rel=1e-4)


def test_the_brightness_of_a_mask_is_no_trivial_answer():
    targets = (torch.rand(8, 1, 8, 8) > 0.5).float()
    _, trivial, _ = judged(nn.MSELoss(), targets, targets, inputs=targets.clone())
    assert trivial == pytest.approx(0.25, abs=0.01)


def test_a_piecewise_constant_metric_has_a_best_constant_too():
    logits, numbers = classes()

    def accuracy(outputs, targets):
        return float((outputs.argmax(1) == targets).float().mean())

    found, trivial, larger = judged(accuracy, logits, numbers)
    most = float(torch.bincount(numbers.flatten()).max() / numbers.numel())
    assert trivial == pytest.approx(most)
    assert found > trivial
    assert larger


def test_where_constants_have_no_value_other_images_stand_in():
    outputs, targets = regression(channels=1)

    def correlation(o, t):
        o, t = o.flatten() - o.mean(), t.flatten() - t.mean()
        if o.abs().max() < 1e-6:
            raise ValueError("constant")
        return float((o @ t) / (o.norm() * t.norm()))

    found, trivial, larger = judged(
        correlation, outputs, targets, inputs=torch.rand(len(targets), 3)
    )
    assert found > 0.9
    assert abs(trivial) < 0.1
    assert larger


def test_outputs_in_containers_have_constants_too():
    logits, numbers = classes()
    p = torch.bincount(numbers.flatten()) / numbers.numel()
    judge = judge_by(
        lambda o, t: F.cross_entropy(o["out"], t) + F.cross_entropy(o["aux"], t),
        [(None, numbers)],
        dimensions=2,
        device=torch.device("cpu"),
        larger_is_better=False,
    )
    with torch.no_grad():
        judge.add({"out": logits, "aux": 0.1 * logits, "note": "kept"})
    trivial = float(judge.trivial().of(np.ones((1, 8)))[0])
    assert trivial == pytest.approx(-2 * float((p * p.log()).sum()), rel=1e-3)


@pytest.mark.parametrize("declared", [None, True])
def test_a_direction_is_told_from_the_values_where_nobody_declares_it(declared):
    logits, numbers = classes()
    assert not judged(F.cross_entropy, logits, numbers)[2]
    assert judged(lambda o, t: -F.cross_entropy(o, t), logits, numbers)[2]
    assert not judged(F.cross_entropy, -logits, numbers, larger_is_better=False)[2]


def state(metric):
    return copy.deepcopy({k: v for k, v in vars(metric).items() if not callable(v)})


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        (
            torchmetrics.classification.MulticlassJaccardIndex(3),
            lambda o, t: torchmetrics.functional.jaccard_index(o, t, "multiclass", num_classes=3),
        ),
        (
            torchmetrics.classification.MulticlassAccuracy(3, average="micro"),
            lambda o, t: (o.argmax(1) == t).float().mean(),
        ),
    ],
)
def test_torchmetrics_objects_are_accepted_and_left_as_they_were(metric, expected):
    logits, numbers = classes()
    metric.update(logits[:2], numbers[:2])
    before = metric.compute()
    found, trivial, larger = judged(metric, logits, numbers)
    one_by_one = [expected(logits[i : i + 1], numbers[i : i + 1]) for i in range(8)]
    assert found == pytest.approx(float(torch.stack(one_by_one).mean()))
    assert larger
    assert trivial < found
    assert torch.equal(metric.compute(), before)
    assert metric.update_count == 1


def test_torchmetrics_take_masks_of_floats():
    logits, numbers = classes(2)
    outputs, targets = logits[:, 1:] - logits[:, :1], numbers[:, None].float()
    metric = torchmetrics.classification.BinaryF1Score()
    assert value(metric, outputs, targets) == pytest.approx(
        np.mean(
            [float(metric(o[None], t[None].long())) for o, t in zip(outputs, targets, strict=True)]
        )
    )
    error = torchmetrics.MeanSquaredError()
    assert judged(error, *regression())[2] is False


@pytest.mark.sample(1)
@pytest.mark.parametrize("count", [2, 3])
def test_monai_metrics_get_decisions_and_are_left_as_they_were(count):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        metrics = pytest.importorskip("monai.metrics")
    logits, numbers = classes(count)
    metric = metrics.DiceMetric(include_background=True)
    metric(y_pred=torch.ones(2, count, 4, 4), y=torch.ones(2, count, 4, 4))
    before = metric.aggregate()
    hot = [F.one_hot(n, count).movedim(-1, 1).float() for n in (logits.argmax(1), numbers)]
    expected = 2 * (hot[0] * hot[1]).sum((2, 3)) / (hot[0] + hot[1]).sum((2, 3))
    for targets in (numbers, numbers[:, None], hot[1]):
        found, trivial, larger = judged(metric, logits, targets)
        assert found == pytest.approx(float(expected.mean()), rel=1e-5)
        assert larger
        assert trivial < found
    assert torch.equal(metric.aggregate(), before)
    assert judged(metrics.MSEMetric(), *regression())[2] is False


def test_monai_metrics_of_one_channel():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        metrics = pytest.importorskip("monai.metrics")
    logits, numbers = classes(2)
    difference = logits[:, 1:] - logits[:, :1]
    for outputs in (difference, difference.sigmoid()):
        found = value(metrics.DiceMetric(), outputs, numbers)
        called = difference > 0
        truth = numbers[:, None] == 1
        dice = 2 * (called & truth).sum((1, 2, 3)) / (called.sum((1, 2, 3)) + truth.sum((1, 2, 3)))
        assert found == pytest.approx(float(dice.mean()), rel=1e-5)


def test_torchmetrics_of_classes_get_targets_with_the_axes_that_they_want():
    logits, numbers = classes(3)
    metric = torchmetrics.classification.MulticlassF1Score(3)
    found = value(metric, logits, numbers)
    one_hot = F.one_hot(numbers, 3).movedim(-1, 1)
    for targets in (numbers[:, None], one_hot, one_hot.float()):
        assert value(metric, logits, targets) == found
    several = torchmetrics.classification.MultilabelF1Score(3)
    by_hand = [float(several(o[None], t[None])) for o, t in zip(logits, one_hot, strict=True)]
    assert value(several, logits, one_hot.float()) == pytest.approx(np.mean(by_hand))
    one = torchmetrics.classification.BinaryJaccardIndex()
    assert value(one, logits[:, :1], one_hot[:, 0]) == value(one, logits[:, :1], one_hot[:, :1])


@pytest.mark.sample(2)
@pytest.mark.parametrize("form", ["one-hot", "index", "mixed"])
@pytest.mark.parametrize("one_hot", [True, False])
@pytest.mark.parametrize("name", ["MeanIoU", "DiceScore", "GeneralizedDiceScore"])
def test_torchmetrics_of_masks_get_decisions_in_the_form_that_they_take(name, form, one_hot):
    logits, numbers = classes(3)
    make = getattr(torchmetrics.segmentation, name)
    hot = [F.one_hot(n, 3).movedim(-1, 1) for n in (logits.argmax(1), numbers)]
    by_hand = [float(make(3)(o[None], t[None])) for o, t in zip(*hot, strict=True)]
    targets = hot[1].float() if one_hot else numbers
    found, trivial, larger = judged(make(3, input_format=form), logits, targets)
    assert found == pytest.approx(np.mean(by_hand))
    assert trivial < found
    assert larger


@pytest.mark.parametrize(("count", "form"), [(1, "one-hot"), (2, "one-hot"), (2, "index")])
def test_torchmetrics_of_masks_get_decisions_of_one_channel(count, form):
    logits, numbers = classes(2)
    outputs, targets = logits[:, 1:] - logits[:, :1], numbers[:, None].float()
    metric = torchmetrics.segmentation.DiceScore(
        count, include_background=count == 1, input_format=form
    )
    called, true = outputs > 0, targets > 0
    both, all_ = ((x.sum((1, 2, 3))) for x in (called & true, called.int() + true.int()))
    assert value(metric, outputs, targets) == pytest.approx(float((2 * both / all_).mean()))


def test_a_metric_that_raises_where_a_class_is_nowhere_has_no_value_there():
    logits, numbers = classes(3)
    metric = torchmetrics.segmentation.HausdorffDistance(3)
    numbers[0] = 0  # and nothing else is called in it
    logits[0] = 9.0 * F.one_hot(numbers[0], 3).movedim(-1, 0)
    with pytest.raises(InputError, match=r"answered by the whole network .*given as masks"):
        judged(metric, logits, numbers)
    found, trivial, larger = judged(metric, logits[1:], numbers[1:])
    assert found < trivial
    assert not larger
    numbers[1:4] = 0
    judge = judge_by(metric, [(None, numbers[1:])], dimensions=2, device=torch.device("cpu"))
    meter = judge.meter()  # of other answers than the network's own
    with judge.kept(), torch.no_grad():
        meter.add(torch.tensor([1.0, 0.0, 0.0]).reshape(1, 3, 1, 1).expand_as(logits[1:]))
    assert not meter.quality().known.any()


class Counts:
    """As MONAI's: a call returns counts of each class, `aggregate` makes numbers of all calls."""

    __module__ = "monai.metrics.stand_in"

    def __init__(self, total, names=("f1",)):
        self.total, self.names, self.seen = total, names, []

    def reset(self):
        self.seen = []

    def __call__(self, outputs, targets):
        assert outputs.unique().tolist() in ([0.0], [1.0], [0.0, 1.0])
        hits, called, true = ((x.sum((2, 3))) for x in (outputs * targets, outputs, targets))
        self.seen.append(torch.stack([hits, called, true], 2))
        return self.seen[-1]

    def aggregate(self):
        return self.total(torch.cat(self.seen))


def f1(counts):
    hits, called, true = counts.sum(0).unbind(-1)
    return (2 * hits / (called + true)).nanmean()


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    "total",
    [f1, lambda c: [f1(c)], lambda c: (f1(c), torch.ones(1)), lambda c: [(f1(c), torch.ones(1))]],
)
@pytest.mark.parametrize("declared", [True, None])
def test_counts_of_monai_are_judged_by_what_it_makes_of_them(total, declared):
    logits, numbers = classes(3)
    metric = Counts(total)
    if declared:
        metric.higher_is_better = True
    metric(torch.ones(1, 3, 4, 4), torch.ones(1, 3, 4, 4))
    before = list(metric.seen)
    found, trivial, larger = judged(metric, logits, numbers)
    hot = [F.one_hot(n, 3).movedim(-1, 1).float() for n in (logits.argmax(1), numbers)]
    by_hand = 2 * (hot[0] * hot[1]).sum((2, 3)) / (hot[0] + hot[1]).sum((2, 3))
    assert found == pytest.approx(float(by_hand.mean()), rel=1e-5)
    assert trivial < found
    assert larger
    assert metric.seen == before


@pytest.mark.parametrize(
    ("total", "several"),
    [
        (lambda c: c.nanmean(), True),
        (lambda c: c.nan_to_num(7.0)[0], True),  # each; of a class without a value anything
        (lambda c: c.nansum(), False),
    ],
)
def test_numbers_of_each_class_stay_where_monai_takes_their_mean(total, several):
    class Shares(Counts):
        __module__ = "monai.metrics.stand_in"

        def __call__(self, outputs, targets):
            hits, called, true = super().__call__(outputs, targets).unbind(-1)
            self.seen[-1] = torch.where(true > 0, 2 * hits / (called + true), torch.nan)
            return self.seen[-1]

    logits, numbers = classes(3)
    numbers[1] = numbers[1].clamp(max=1)
    targets = F.one_hot(numbers, 3).movedim(-1, 1).float()
    quality = measure_quality(Shares(total), [logits], [targets])
    if several:
        assert quality.numbers.shape == (8, 3)
        assert np.isnan(quality.numbers[1, 2])
        assert quality.values == pytest.approx(np.nanmean(quality.numbers, 1))
    else:
        assert quality.numbers is None
        assert quality.values.max() > 1.0


def test_what_is_no_number_of_monai_says_what_to_give():
    with pytest.raises(InputError, match=r"gives 2 numbers by different names; .*one name"):
        judged(Counts(lambda c: [f1(c), f1(c)]), *classes())

    class PanopticQualityMetric(Counts):
        __module__ = "monai.metrics.stand_in"

    with pytest.raises(InputError, match=r"maps of instances.*give a callable"):
        judged(PanopticQualityMetric(f1), *classes())


def test_a_module_with_counters_is_left_as_it_was():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.calls = 0
            self.register_buffer("seen", torch.zeros(()))

        def forward(self, outputs, targets):
            self.calls += 1
            self.seen += 1
            return F.cross_entropy(outputs, targets)

    loss = Counting().eval()
    judged(loss, *classes())
    assert (loss.calls, float(loss.seen), loss.training) == (0, 0.0, False)


def each_error(outputs, targets):
    return (outputs.argmax(1) - targets).abs()


@pytest.mark.parametrize(("metric", "name"), [
    (torchmetrics.JaccardIndex("multiclass", num_classes=3, average=None),
     "MulticlassJaccardIndex, mean of 3 numbers"),
    (torchmetrics.JaccardIndex("multiclass", num_classes=3), "MulticlassJaccardIndex"),
    (nn.CrossEntropyLoss(reduction="none"), "CrossEntropyLoss, mean of 64 numbers"),
    (lambda o, t: each_error(o, t)[0, : 1 + int(t.max())], "<lambda>, mean of its numbers"),
    (lambda o, t: each_error(o, t).float().mean()[None], "<lambda>"),
])  # fmt: skip
def test_what_is_averaged_is_said(metric, name):
    """Numbers for each class, or each pixel, have a mean; nobody asked for it."""
    outputs, targets = classes()
    targets[0] = targets[0].clamp(max=1)
    judge = judge_by(metric, [(targets, targets)], dimensions=2, device=torch.device("cpu"))
    with judge.kept(), torch.no_grad():
        judge.add(outputs)
        expected = [float(metric(o[None], t[None]).float().mean())
                    for o, t in zip(outputs, targets, strict=True)]  # fmt: skip
    assert judge.name == name
    assert float(judge.whole().of(np.ones((1, 8)))[0]) == pytest.approx(np.mean(expected))


@pytest.mark.parametrize(
    ("metric", "text"),
    [
        (lambda o, t: {"f1": 1.0}, r"mapping with 'f1'; .*metric\(outputs, targets\)\['f1'\]"),
        (
            lambda o, t: o @ "x",
            r"<lambda> raised on an image of batch 0, answered by the whole network \(outputs",
        ),
        (lambda o, t: float("nan"), "no finite number.*: outputs and targets are finite, so it is"),
        (nn.BCELoss(), "BCELoss raised on an image of batch 0"),
    ],
)
def test_callables_that_do_not_fit_are_named(metric, text):
    with pytest.raises(InputError, match=text):
        judged(metric, *classes())


@pytest.mark.parametrize("metric", ["mse", "mae", "psnr"])
@pytest.mark.parametrize(("broken", "text"), [(0, "the model's outputs hold nan"), (1, "targets")])
def test_what_is_no_number_is_blamed_by_the_name_that_was_given(metric, broken, text):
    pair = [torch.rand(2, 1, 4, 4), torch.rand(2, 1, 4, 4)]
    pair[broken][:] = torch.nan
    with pytest.raises(InputError, match=f"^{metric} returned no finite number.*{text}"):
        value(metric, *pair)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_input_is_taken_to_the_targets_channel_by_channel(dtype):
    torch.manual_seed(0)
    images = torch.randn(8, 2, 6, 6, dtype=dtype)  # standardised, each channel in its own way
    targets = images * torch.tensor([1.0, 100.0])[:, None, None] + 5
    rest = 0.1 * torch.randn_like(targets)
    outputs = targets + rest
    for batches in ([slice(0, 8)], [slice(0, 3), slice(3, 8)]):
        pairs = [(images[s], targets[s] + rest[s]) for s in batches]
        judge = judge_by("mse", pairs, dimensions=2, device=torch.device("cpu"))
        for s in batches:
            judge.add(outputs[s])
        assert float(judge.trivial().of(np.ones((1, 8)))[0]) == pytest.approx(0.01, rel=0.2)


def test_a_regression_needs_a_target_for_each_output():
    with pytest.raises(InputError, match="one target for each output"):
        value("mse", torch.zeros(2, 3, 4, 4), torch.zeros(2, 1, 4, 4))


@pytest.mark.parametrize("metric", ["mse", "mae", "psnr"])
@pytest.mark.parametrize("shape", [(2, 4, 4, 3), (2, 3, 16), (2, 4, 3, 4)])
def test_axes_of_targets_in_another_order_are_refused(metric, shape):
    torch.manual_seed(0)
    with pytest.raises(InputError, match="its axes in the same order"):
        value(metric, torch.rand(2, 3, 4, 4), torch.rand(shape))


def test_targets_may_lack_an_axis_of_one():
    outputs = torch.rand(2, 1, 4, 5)
    assert value("mse", outputs, outputs[:, 0] + 0.5) == pytest.approx(0.25, rel=1e-5)


def test_metrics_of_torchmetrics_that_give_no_number_are_told_what_helps():
    logits, numbers = classes()
    kind = torchmetrics.classification.MulticlassF1Score
    with pytest.raises(InputError, match=r"metric=MulticlassF1Score is a class; .*F1Score\(\)"):
        judged(kind, logits, numbers)
    collection = torchmetrics.MetricCollection([kind(3)])
    with pytest.raises(InputError, match=r"one metric of a collection, .*\['MulticlassF1Score'\]"):
        judged(collection, logits, numbers)
    assert judged(collection["MulticlassF1Score"], logits, numbers)[0] == pytest.approx(
        judged(kind(3), logits, numbers)[0]
    )
    matrix = torchmetrics.classification.MulticlassConfusionMatrix(3)
    with pytest.raises(InputError, match=r"mean of 9 numbers is the same .* callable that returns"):
        judged(matrix, logits, numbers)


def test_many_classes_without_a_gradient_start_from_how_often_each_is():
    torch.manual_seed(0)
    numbers = torch.randint(0, 12, (12, 8, 8)).clamp(max=9)
    shares = numbers.flatten().bincount(minlength=12) / numbers.numel()
    entropy = -float((shares * shares.clamp_min(1e-9).log()).sum())
    logits = torch.randn(12, 12, 8, 8)

    def loss(output, target):
        return F.cross_entropy(output, target).item()

    _, trivial, _ = judged(loss, logits, numbers, larger_is_better=False)
    assert trivial == pytest.approx(entropy, rel=1e-3)


def test_a_mean_of_counts_that_is_the_same_for_every_answer_is_refused():
    from torchmetrics.classification import BinaryConfusionMatrix, BinaryStatScores

    logits, targets = torch.randn(12, 1, 8, 8), torch.randint(2, (12, 1, 8, 8))
    for metric in (BinaryStatScores(), BinaryConfusionMatrix()):
        with pytest.raises(InputError, match="give a callable that returns the one number"):
            judged(metric, logits + 4 * targets, targets)
    found, trivial, _ = judged(lambda o, t: metric_of(o, t)[0], logits + 4 * targets, targets)
    assert found > trivial


def metric_of(outputs, targets):
    both = (outputs > 0) & (targets == 1)
    return both.sum() / ((outputs > 0) | (targets == 1)).sum(), both.sum()


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        (torchmetrics.R2Score(), torchmetrics.functional.r2_score),
        (torchmetrics.PearsonCorrCoef(), torchmetrics.functional.pearson_corrcoef),
        (torchmetrics.ExplainedVariance(), torchmetrics.functional.explained_variance),
        (torchmetrics.MeanSquaredError(), torchmetrics.functional.mean_squared_error),
    ],
)
@pytest.mark.parametrize("channel", [True, False])
def test_regressions_of_torchmetrics_take_each_pixel_for_an_answer(metric, expected, channel):
    outputs, targets = torch.randn(1, 1, 8, 8), torch.randn(1, 1, 8, 8)
    found = ValueMetric(metric).value(outputs, targets if channel else targets[:, 0])
    assert found == pytest.approx(float(expected(outputs.flatten(), targets.flatten())))


def test_images_of_torchmetrics_take_targets_without_a_channel():
    metric = ValueMetric(torchmetrics.image.PeakSignalNoiseRatio(data_range=1.0))
    outputs, targets = torch.rand(1, 1, 16, 16), torch.rand(1, 1, 16, 16)
    assert metric.value(outputs, targets[:, 0]) == metric.value(outputs, targets)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its old place
        old = torchmetrics.PeakSignalNoiseRatio(data_range=1.0)
    assert ValueMetric(old).name == metric.name == "PeakSignalNoiseRatio"


def test_a_metric_that_raises_for_an_axis_of_one_is_told_so():
    def strict(outputs, targets):
        assert outputs.shape == targets.shape
        return (outputs - targets).abs().mean()

    outputs, targets = torch.randn(1, 1, 8, 8), torch.randn(1, 8, 8)
    with pytest.raises(InputError, match="give targets the axes of the outputs, of one too"):
        ValueMetric(strict).numbers(outputs, targets, "batch 0")
    assert ValueMetric(strict).value(outputs, targets[:, None]) > 0


def by_torch(outputs, targets):
    kept = torch.rand(outputs.shape) > 0.5
    return (outputs - targets)[kept].square().mean()


def by_numpy(outputs, targets):
    row = np.random.randint(len(outputs[0, 0]))
    return (outputs - targets)[:, :, row].square().mean()


def by_python(outputs, targets):
    return F.mse_loss(random.choice((0.5, 2.0, 3.0)) * outputs, targets)


class Dropping(nn.Module):
    """Draws because it is in training mode, as some perceptual losses are by default."""

    def forward(self, outputs, targets):
        return F.mse_loss(F.dropout(outputs, 0.5, self.training), targets)


@pytest.mark.sample(1)
@pytest.mark.parametrize("metric", [by_torch, by_numpy, by_python, Dropping()])
def test_a_metric_that_draws_gives_one_value_for_one_answer(metric):
    outputs, targets = regression()
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    whole = judged(metric, outputs, targets, larger_is_better=False)
    torch.rand(3), random.random(), np.random.rand(3)
    asked = ValueMetric(metric)
    one = [asked.value(outputs[:1], targets[:1]) for _ in range(5)]
    assert len(set(one)) == 1
    assert judged(metric, outputs, targets, larger_is_better=False) == whole
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    asked.value(outputs[:1], targets[:1])
    after = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]


def test_a_metric_that_counts_its_calls_is_refused():
    calls = []

    def annealed(outputs, targets):
        calls.append(1)
        return F.mse_loss(outputs, targets) / (1 + 0.01 * len(calls))

    own = np.random.default_rng(0)

    def of_its_own(outputs, targets):
        return F.mse_loss(outputs, targets) * own.random()

    outputs, targets = regression()
    for metric in (annealed, of_its_own):
        with pytest.raises(InputError, match="another value each time for one answer"):
            judged(metric, outputs, targets)
