"""Targets in every layout, and the built-in metrics against scikit-learn's."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from judged import measure_quality
from sklearn import metrics as oracle
from torch import nn

from weightscope.errors import InputError
from weightscope.utilization.judging import judge_by
from weightscope.utilization.segmentation import Segmentation


def value(metric, outputs, targets, **options):
    quality = measure_quality(metric, [outputs], [targets], **options)
    return float(quality.of(np.ones((1, quality.images)))[0])


def constant(metric, outputs, targets, dimensions=2):
    judge = judge_by(metric, [(None, targets)], dimensions=dimensions, device=torch.device("cpu"))
    judge.add(outputs)
    trivial = judge.trivial()
    return float(trivial.of(np.ones((1, trivial.images)))[0])


def made(classes, images=3, size=6, seed=0):
    """Logits that say something of class numbers of unequal frequency."""
    generator = torch.Generator().manual_seed(seed)
    share = torch.arange(1.0, classes + 1)
    numbers = torch.multinomial(share, images * size * size, replacement=True, generator=generator)
    numbers = numbers.reshape(images, size, size)
    noise = torch.randn(images, classes, size, size, generator=generator)
    return noise + F.one_hot(numbers, classes).movedim(-1, 1), numbers


def one_hot(numbers, classes):
    return F.one_hot(numbers, classes).movedim(-1, 1)


SCORES = {
    "f1": lambda true, called: oracle.f1_score(true, called, average="macro"),
    "dice": lambda true, called: oracle.f1_score(true, called, average="macro"),
    "iou": lambda true, called: oracle.jaccard_score(true, called, average="macro"),
    "accuracy": oracle.accuracy_score,
}


@pytest.mark.parametrize("metric", SCORES)
def test_classes_are_as_scikit_learn_has_them(metric):
    logits, numbers = made(4)
    expected = SCORES[metric](numbers.flatten(), logits.argmax(1).flatten())
    assert value(metric, logits, numbers) == pytest.approx(expected)


def test_average_precision_of_classes_is_one_against_the_rest():
    logits, numbers = made(4)
    expected = oracle.average_precision_score(
        one_hot(numbers, 4).movedim(1, -1).reshape(-1, 4),
        logits.softmax(1).movedim(1, -1).reshape(-1, 4),
    )
    assert value("average_precision", logits, numbers) == pytest.approx(expected)
    assert value("average_precision", logits.softmax(1), numbers) == pytest.approx(expected)


@pytest.mark.parametrize("metric", ["f1", "iou", "accuracy", "average_precision"])
@pytest.mark.parametrize("classes", [2, 4])
def test_every_layout_of_the_same_targets_gives_the_same(metric, classes):
    logits, numbers = made(classes)
    expected = value(metric, logits, numbers)
    for outputs, targets in [
        (logits, numbers[:, None]),
        (logits, numbers.float()),
        (logits, one_hot(numbers, classes)),
        (logits, one_hot(numbers, classes).bool()),
        (logits, 0.9 * one_hot(numbers, classes) + 0.1 / classes),
        (logits.movedim(1, -1), numbers),
        ({"out": logits, "aux": 0 * logits}, numbers),
    ]:
        assert value(metric, outputs, targets) == pytest.approx(expected)


@pytest.mark.parametrize("metric", ["f1", "iou", "accuracy", "average_precision"])
def test_one_channel_is_two_channels(metric):
    logits, numbers = made(2)
    difference = logits[:, 1:] - logits[:, :1]
    expected = value(metric, logits, numbers)
    assert value(metric, difference, numbers) == pytest.approx(expected)
    assert value(metric, difference, numbers[:, None].bool()) == pytest.approx(expected)


def test_outputs_without_a_channel_are_read_by_their_dimensions():
    logits, numbers = made(2)
    judge = judge_by("f1", [(None, numbers)], dimensions=2, device=torch.device("cpu"))
    judge.add(logits[:, 1] - logits[:, 0])
    assert float(judge.whole().of(np.ones((1, 3)))[0]) == pytest.approx(
        value("f1", logits, numbers)
    )


@pytest.mark.parametrize("metric", ["iou", "accuracy"])
def test_one_foreground_class_is_judged_at_its_best_threshold(metric):
    logits, numbers = made(2)
    scores, truth = (logits[:, 1] - logits[:, 0]).flatten(), numbers.flatten()
    function = {"iou": oracle.jaccard_score, "accuracy": oracle.accuracy_score}[metric]
    best = max(function(truth, scores >= t) for t in [*scores, np.inf])
    assert value(metric, logits, numbers) == pytest.approx(best)


@pytest.mark.parametrize("metric", ["f1", "average_precision"])
def test_labels_that_do_not_exclude_each_other_are_averaged(metric):
    torch.manual_seed(0)
    truth = (torch.rand(3, 3, 6, 6) < torch.tensor([0.2, 0.5, 0.7]).reshape(1, 3, 1, 1)).float()
    logits = torch.randn(3, 3, 6, 6) + truth
    each = [value(metric, logits[:, i : i + 1], truth[:, i : i + 1]) for i in range(3)]
    assert value(metric, logits, truth) == pytest.approx(np.mean(each))
    truth[:, 1] = 0.0
    assert value(metric, logits, truth) == pytest.approx((each[0] + each[2]) / 2)


@pytest.mark.parametrize("metric", ["f1", "iou"])
def test_absent_classes_are_left_out(metric):
    logits, numbers = made(4)
    numbers[numbers == 2] = 3
    kept = [0, 1, 3]
    called = logits.argmax(1).flatten()
    function = {"f1": oracle.f1_score, "iou": oracle.jaccard_score}[metric]
    each = function(numbers.flatten(), called, average=None, labels=kept)
    assert value(metric, logits, numbers) == pytest.approx(np.mean(each))


@pytest.mark.parametrize("metric", ["f1", "iou", "accuracy", "average_precision"])
@pytest.mark.parametrize("classes", [1, 2, 4])
@pytest.mark.parametrize("ignored", [255, -1])
def test_what_is_ignored_does_not_count(metric, classes, ignored):
    logits, numbers = made(max(classes, 2))
    if classes == 1:
        logits = logits[:, 1:] - logits[:, :1]
    expected = value(metric, logits[..., :4], numbers[..., :4])
    numbers[..., 4:] = ignored
    assert value(metric, logits, numbers, ignore_index=ignored) == pytest.approx(expected)
    channels = one_hot(numbers.clamp(0, max(classes, 2) - 1), max(classes, 2))
    if classes > 1:
        channels[..., 4:] = ignored
        assert value(metric, logits, channels, ignore_index=ignored) == pytest.approx(expected)


def test_a_class_can_be_ignored_in_every_layout():
    logits, numbers = made(4)
    expected = value("iou", logits, torch.where(numbers == 0, 9, numbers), ignore_index=9)
    assert value("iou", logits, numbers, ignore_index=0) == pytest.approx(expected)
    assert value("iou", logits, one_hot(numbers, 4), ignore_index=0) == pytest.approx(expected)


def test_coarser_outputs_are_judged_at_full_size():
    logits, numbers = made(4, size=4)
    fine = numbers.repeat_interleave(2, 1).repeat_interleave(2, 2)
    full = F.interpolate(logits, scale_factor=2, mode="bilinear")
    assert value("iou", logits, fine) == pytest.approx(value("iou", full, fine))


@pytest.mark.parametrize("metric", ["f1", "dice", "iou", "accuracy", "average_precision"])
@pytest.mark.parametrize("classes", [2, 4])
def test_the_best_constant_is_found(metric, classes):
    _, numbers = made(classes)
    found = []
    for chosen in range(classes):
        same = one_hot(torch.full_like(numbers, chosen), classes).float()
        found.append(value(metric, same, numbers))
    assert constant(metric, made(classes, seed=1)[0], numbers) == pytest.approx(max(found))


SEVERAL = (torch.arange(96).reshape(2, 3, 4, 4) % 5 < 2).float()  # labels for one pixel


@pytest.mark.parametrize(
    ("outputs", "targets", "options", "text"),
    [
        (
            torch.zeros(2, 1, 4, 4),
            torch.full((2, 4, 4), 255.0),
            {},
            "hold 255, .*divide masks of 0",
        ),
        (torch.zeros(2, 1, 4, 4), 255 * torch.eye(4)[None].expand(2, 4, 4), {}, "batch 0 hold 255"),
        (torch.zeros(2, 3, 4, 4), torch.full((2, 4, 4), 3), {}, "hold 3, .* 3 .*ignore_index=3"),
        (torch.zeros(2, 3, 4, 4), torch.full((2, 4, 4), -1), {}, "ignore_index=-1"),
        (torch.zeros(2, 3, 4, 4), torch.full((2, 4, 4), 0.5), {}, "hold 0.5"),
        (torch.zeros(2, 3, 4, 4), torch.full((2, 3, 4, 4), 2), {}, "0 to 1"),
        (torch.zeros(2, 3, 4, 4), SEVERAL, {"ignore_index": 1}, "such as 255"),
        (torch.zeros(2, 1, 4, 4), torch.ones(2, 5, 4), {}, r"targets \(2, 5, 4\)"),
        (torch.zeros(2, 1, 4, 4), torch.ones(2), {}, r"targets \(2,\)"),
        (torch.zeros(2, 1, 4, 4), torch.full((2, 4, 4), torch.nan), {}, "hold nan, .*nan_to_num"),
        (torch.zeros(2, 1, 4, 4), 2 * torch.eye(4).expand(2, 4, 4) - 1, {}, r"\(target == 1\)"),
        (torch.zeros(2, 1, 4, 4), 1 + torch.eye(4).expand(2, 4, 4), {}, r"\(target == 2\)"),
        (torch.zeros(2, 2, 4, 4), 1 + torch.eye(4).expand(2, 4, 4), {}, r"\(target == 2\)"),
        (torch.zeros(2, 3, 4, 4), torch.arange(1, 4).repeat(2, 4, 2)[..., :4], {}, "target - 1"),
        (torch.zeros(2, 1, 4, 4), 0.6 * torch.eye(4).expand(2, 4, 4), {}, r"\(target > 0.5\)"),
        (torch.zeros(2, 3, 4, 4), 0.6 * SEVERAL, {}, r"hold 0.6, .*\(target > 0.5\)"),
        (torch.zeros(2, 3, 4, 4), 0.4 * SEVERAL, {}, r"hold 0.4, .*\(target > 0.5\)"),
    ],
)
def test_values_without_meaning_are_refused_by_name(outputs, targets, options, text):
    with pytest.raises(InputError, match=text):
        value("iou", outputs, targets, **options)


def test_the_remedies_of_values_without_meaning_work():
    scores = torch.linspace(-1.0, 1.0, 32).reshape(2, 1, 4, 4)
    mask = (scores > 0.2).float()
    for targets in (2 * mask - 1, 1 + mask):
        assert value("f1", scores, (targets == targets.max()).float()) == value("f1", scores, mask)
    unknown = torch.where(scores > 0.9, torch.nan, mask)
    cured = torch.nan_to_num(unknown, nan=255.0)
    assert 0.0 < value("f1", scores - 0.1, cured, ignore_index=255) <= 1.0


def test_ignoring_is_for_classes():
    with pytest.raises(InputError, match="ignore_index=255 is for the metrics 'f1'"):
        value("mse", torch.zeros(2, 1, 4, 4), torch.ones(2, 1, 4, 4), ignore_index=255)


def test_three_dimensions_and_one():
    for sizes in ((5,), (3, 4, 5)):
        torch.manual_seed(0)
        truth = torch.rand(2, *sizes) > 0.5
        scores = truth[:, None] + 0.1 * torch.rand(2, 1, *sizes)
        assert value("f1", scores, truth) == 1.0


def test_a_loss_that_ignores_by_itself_takes_no_other_word_for_it():
    outputs, target = torch.zeros(2, 3, 4, 4), torch.zeros(2, 4, 4, dtype=torch.long)
    loss = nn.CrossEntropyLoss(ignore_index=255)
    assert value(loss, outputs, target, ignore_index=255) == pytest.approx(math.log(3))
    with pytest.raises(InputError, match="leaves out 255: build it with ignore_index=1"):
        value(loss, outputs, target, ignore_index=1)


def test_targets_that_are_all_ignored_are_refused():
    targets = torch.full((4, 8, 8), 255)
    with pytest.raises(InputError, match="every value of the targets is ignore_index=255"):
        judge_by(
            "f1", [(None, targets)], dimensions=2, device=torch.device("cpu"), ignore_index=255
        )


@pytest.mark.parametrize("sizes", [(16,), (12, 16), (6, 8, 10)])
@pytest.mark.parametrize("one_hot", [True, False])
def test_channels_that_seem_to_be_last_are_refused(sizes, one_hot):
    torch.manual_seed(0)
    scores = torch.randn(4, 3, *sizes)
    targets = (scores > 0).long()
    if one_hot:
        targets = torch.nn.functional.one_hot(scores.argmax(1), 3).movedim(-1, 1)
    reader = Segmentation("f1", [targets], len(sizes), None)
    assert reader.read(scores, 0) is not None
    last = targets.movedim(1, -1)
    reader = Segmentation("f1", [last], len(sizes), None)
    with pytest.raises(InputError, match="whose channels seem to be last"):
        reader.read(scores.movedim(1, -1), 0)


def test_more_classes_than_rows_are_read_where_each_pixel_has_one():
    scores = torch.randn(4, 20, 16, 8)
    targets = torch.nn.functional.one_hot(scores.argmax(1), 20).movedim(-1, 1)
    assert Segmentation("f1", [targets], 2, None).read(scores, 0) is not None


def test_what_says_which_class_already_is_no_score():
    numbers = torch.tensor([[[0, 1], [2, 1]]])
    for outputs in (numbers, numbers[:, None].to(torch.uint8)):
        with pytest.raises(InputError, match=r"whole numbers up to 2 .* take argmax outside of it"):
            measure_quality("f1", [outputs], [numbers])
    grades = torch.tensor([[[0, 1], [2, 3]]])
    with pytest.raises(InputError, match=r"torch.stack\(\[target > k for k in range\(3\)\], 1\)"):
        measure_quality("f1", [torch.randn(1, 3, 2, 2)], [grades])
    cumulative = torch.stack([grades > k for k in range(3)], 1).float()
    measure_quality("f1", [torch.randn(1, 3, 2, 2)], [cumulative])
