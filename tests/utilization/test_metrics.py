"""Best-threshold F1 and average precision against their definitions, and their resampling."""

import numpy as np
import pytest
import torch
from judged import measure_quality

from weightscope.errors import InputError
from weightscope.utilization.metrics import (
    BINS,
    best_thresholds,
    by_class,
    quality_at,
    resampled,
)


def every_pixel_once(quality):
    return float(quality.of(np.ones((1, quality.images)))[0])


def brute_force(scores, truth):
    """F1 and precision at every threshold, one by one."""
    best, area, last = 0.0, 0.0, 0.0
    for threshold in sorted(set(scores.tolist()), reverse=True):
        called = scores >= threshold
        hits = (called & truth).sum()
        precision, recall = hits / called.sum(), hits / truth.sum()
        best = max(best, 2 * hits / (called.sum() + truth.sum()))
        area += (recall - last) * precision
        last = recall
    return {"f1": best, "average_precision": area}


@pytest.mark.parametrize("metric", ["f1", "average_precision"])
@pytest.mark.parametrize("seed", range(4))
def test_few_scores_give_the_exact_value(metric, seed):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 20, (3, 1, 6, 6)).astype(np.float32)
    truth = rng.random((3, 1, 6, 6)) < 0.2
    quality = measure_quality(metric, [torch.tensor(scores)], [torch.tensor(truth)])
    assert every_pixel_once(quality) == pytest.approx(
        brute_force(scores.ravel(), truth.ravel())[metric]
    )


@pytest.mark.parametrize("metric", ["f1", "average_precision"])
def test_many_scores_are_binned_without_harm(metric):
    rng = np.random.default_rng(0)
    truth = rng.random((2, 1, 60, 60)) < 0.01
    scores = rng.normal(size=truth.shape).astype(np.float32) + 3 * truth
    assert np.unique(scores).size > BINS
    quality = measure_quality(metric, [torch.tensor(scores)], [torch.tensor(truth)])
    expected = brute_force(scores.ravel(), truth.ravel())[metric]
    assert every_pixel_once(quality) == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("metric", ["f1", "average_precision"])
def test_monotone_outputs_and_batching_do_not_matter(metric):
    torch.manual_seed(0)
    logits, truth = torch.randn(4, 1, 5, 5), torch.rand(4, 1, 5, 5) > 0.7
    one = measure_quality(metric, [logits], [truth])
    two = measure_quality(metric, list(logits.sigmoid().split(1)), list(truth.split(1)))
    both = torch.cat([-logits / 2, logits / 2], 1)
    three = measure_quality(metric, [both], [truth[:, 0].long()])
    values = [every_pixel_once(q) for q in (one, two, three)]
    assert values == pytest.approx([values[0]] * 3)


def test_weights_count_images_as_often_as_they_say():
    torch.manual_seed(0)
    logits, truth = torch.randn(3, 1, 5, 5), torch.rand(3, 1, 5, 5) > 0.7
    quality = measure_quality("f1", [logits], [truth])
    picked = [0, 0, 2]
    repeated = measure_quality("f1", [logits[picked]], [truth[picked]])
    assert quality.of(np.array([[2.0, 0.0, 1.0]]))[0] == pytest.approx(every_pixel_once(repeated))


def test_a_callable_is_asked_image_by_image():
    shapes = []

    def metric(outputs, targets):
        shapes.append((tuple(outputs["a"].shape), tuple(targets.shape)))
        return (outputs["a"] - targets).sum()

    outputs = {"a": torch.arange(6.0).reshape(3, 2), "note": "kept"}
    quality = measure_quality(metric, [outputs], [torch.zeros(3, 2)])
    assert shapes == [((1, 2), (1, 2))] * 5  # the first two times more: does it draw, and change?
    assert every_pixel_once(quality) == pytest.approx((1 + 5 + 9) / 3)


def test_images_without_a_value_are_left_out():
    outputs = torch.tensor([[1.0], [float("nan")], [3.0]])
    quality = measure_quality(lambda o, t: o.sum(), [outputs], [torch.zeros(3, 1)])
    assert every_pixel_once(quality) == 2.0


def test_resamples_draw_every_image_about_equally_often():
    counts = resampled(range(10), 2000, seed=0)
    assert (counts.sum(1) == 10).all()
    assert counts.mean(0) == pytest.approx(np.ones(10), abs=0.1)


def test_copies_of_an_image_are_drawn_together():
    counts = resampled([0, 1, 2, 0, 1, 2], 200, seed=0)
    assert (counts[:, :3] == counts[:, 3:]).all()
    assert (counts[:, :3] == resampled(range(3), 200, seed=0)).all()


@pytest.mark.parametrize(
    ("metric", "outputs", "targets", "text"),
    [
        ("auc", torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2), "unknown metric 'auc'"),
        (3, torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2), "metric= is int"),
        ("f1", torch.zeros(1, 5, 2, 2), torch.ones(1, 3, 2, 2), r"\(1, 5, 2, 2\) and targets"),
        ("f1", torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 3, 3), "one class number for each pixel"),
        (
            "f1",
            torch.zeros(1, 1, 2, 2),
            torch.zeros(1, 1, 2, 2),
            "no target of the batches has any",
        ),
        ("f1", torch.full((1, 1, 2, 2), torch.nan), torch.ones(1, 1, 2, 2), "nan or infinite"),
        ("f1", None, torch.ones(1, 1, 2, 2), "expected a tensor"),
        (lambda o, t: float("nan"), torch.zeros(1, 1), torch.zeros(1, 1), "no finite number"),
    ],
)
def test_what_does_not_fit_is_refused(metric, outputs, targets, text):
    with pytest.raises(InputError, match=text):
        measure_quality(metric, [outputs], [targets])


@pytest.mark.parametrize(("metric", "expected"), [("f1", 2 / 3), ("iou", 0.5), ("accuracy", 0.75)])
def test_quality_at_the_threshold_of_other_outputs(metric, expected):
    truth = [torch.tensor([0.0, 0.0, 1.0, 1.0]).reshape(1, 1, 2, 2)]
    whole = measure_quality(metric, [torch.tensor([0.1, 0.2, 4.0, 5.0]).reshape(1, 1, 2, 2)], truth)
    cut = measure_quality(metric, [torch.tensor([0.1, 0.2, 3.0, 4.5]).reshape(1, 1, 2, 2)], truth)
    chosen = best_thresholds(whole)
    assert chosen == (4.0,)
    assert quality_at(whole, chosen) == 1.0
    assert cut.of(np.ones((1, 1)))[0] == 1.0
    assert quality_at(cut, chosen) == pytest.approx(expected)
    assert quality_at(cut, ()) is None


@pytest.mark.parametrize("metric", ["f1", "iou", "accuracy"])
def test_that_threshold_is_taken_exactly_where_there_are_many_scores(metric):
    """Not at the next of the thresholds that the other outputs are judged at."""
    torch.manual_seed(1)
    truth = [(torch.rand(4, 1, 64, 64) < 0.2).float()]
    outputs = [torch.randn(4, 1, 64, 64).sinh() + 2 * truth[0]]  # sparse where it is decided
    whole = measure_quality(metric, [torch.randn(4, 1, 64, 64) + 2 * truth[0]], truth)
    cut = measure_quality(metric, outputs, truth)
    (chosen,) = best_thresholds(whole)
    assert chosen not in cut.thresholds
    called, real = outputs[0] >= chosen, truth[0] > 0.5
    hits, either = int((called & real).sum()), int((called | real).sum())
    expected = {
        "f1": 2 * hits / int(called.sum() + real.sum()),
        "iou": hits / either,
        "accuracy": float((called == real).float().mean()),
    }
    assert quality_at(cut, (chosen,)) == pytest.approx(expected[metric], abs=1e-7)
    for nothing_or_all in (np.inf, -np.inf):
        assert quality_at(cut, (nothing_or_all,)) <= cut.of(np.ones((1, 4)))[0]


def test_labels_have_a_threshold_each_and_other_metrics_none():
    torch.manual_seed(0)
    outputs, truth = torch.randn(3, 2, 8, 8), torch.zeros(3, 2, 8, 8)
    truth[:, :, :2] = 1.0
    labels = measure_quality("f1", [outputs], [truth])
    chosen = best_thresholds(labels)
    assert len(chosen) == 2
    assert quality_at(labels, chosen) == pytest.approx(float(labels.of(np.ones((1, 3)))[0]))
    for metric, channels in (("average_precision", 1), ("mse", 1), ("f1", 3)):
        target = truth[:, 0].long() if channels == 3 else truth[:, :1]
        found = measure_quality(metric, [torch.randn(3, channels, 8, 8)], [target])
        assert best_thresholds(found) == ()


@pytest.mark.parametrize("labels", [True, False])
def test_the_quality_of_each_class_is_that_of_the_class_alone(labels):
    """Of labels that are found together, and of classes that exclude each other; 1 is absent."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(4, 4, 6, 6, generator=generator)
    numbers = torch.tensor([0, 2, 3])[torch.randint(3, (4, 6, 6), generator=generator)]
    truth = torch.stack([numbers == k for k in range(4)], 1).float()
    targets = torch.maximum(truth, truth.roll(1, 3)) if labels else numbers
    if labels:
        targets[:, 1] = 0.0
    quality = measure_quality("f1", [scores], [targets])
    weights = np.array([[1.0, 1, 1, 1], [2, 0, 1, 1]])
    found = by_class(quality, weights)
    own = {number: pair[0][0] for number, pair in found.items() if np.isfinite(pair[0][0])}
    constant = {number: found[number][1][0] for number in own}
    assert list(own) == [0, 2, 3]
    for row, whole in enumerate(quality.of(weights)):
        assert np.mean([found[number][0][row] for number in own]) == pytest.approx(whole)
    for number in own:
        if labels:
            alone = measure_quality("f1", [scores[:, [number]]], [targets[:, [number]]])
            assert own[number] == pytest.approx(alone.of(np.ones((1, 4)))[0])
        share = float((targets[:, number] if labels else targets == number).float().mean())
        assert constant[number] == pytest.approx(2 * share / (1 + share))
    assert by_class(measure_quality("accuracy", [scores], [numbers]), weights) == {}
