import math

import numpy as np
import pytest
import torch

from studies.sand.losses import class_weights, weighted_cross_entropy
from studies.sand.metrics import evaluate, measure, tally


def logits_of(probabilities):
    return torch.logit(torch.tensor(probabilities, dtype=torch.float64))


def test_loss_by_hand():
    truth = torch.tensor([[[[1.0, 0.0], [0.0, 0.0]]]])
    probabilities = [[[[0.9, 0.2], [0.5, 0.1]]]]
    # eq. 25, 26: w_T = 4 / 1, w_F = 4 / 3
    expected = -4 * math.log(0.9) - 4 / 3 * (math.log(0.8) + math.log(0.5) + math.log(0.9))
    loss = weighted_cross_entropy(logits_of(probabilities), truth)
    assert loss.item() == pytest.approx(expected, rel=1e-6)


def test_loss_is_averaged_over_images_with_their_own_weights():
    truth = torch.zeros(2, 1, 4, 4)
    truth[0, 0, 0, 0] = 1
    truth[1, 0, :2] = 1
    logits = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    separate = [weighted_cross_entropy(logits[i : i + 1], truth[i : i + 1]) for i in range(2)]
    both = weighted_cross_entropy(logits, truth)
    assert both.item() == pytest.approx(sum(s.item() for s in separate) / 2, rel=1e-6)
    assert class_weights(truth)[0].flatten().tolist() == [16, 2]


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_tile_of_one_class_counts_with_plain_cross_entropy(value):
    truth = torch.full((1, 1, 4, 4), value)
    logits = torch.randn(1, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    plain = torch.nn.functional.binary_cross_entropy_with_logits(logits, truth, reduction="sum")
    assert weighted_cross_entropy(logits, truth).item() == pytest.approx(plain.item(), rel=1e-6)


def test_metrics_by_hand():
    probabilities = [0.9, 0.8, 0.4, 0.6, 0.55, 0.1]
    truth = torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0, 0.0])
    found = measure(tally(logits_of(probabilities), truth))  # TP 2, FN 1, FP 2
    assert found.precision == pytest.approx(1 / 2)
    assert found.recall == pytest.approx(2 / 3)
    assert found.f1 == pytest.approx(4 / 7)
    assert found.iou == pytest.approx(2 / 5)
    assert found.rw_f1 == pytest.approx(4 / 7 * 2 / 3)
    assert found.rw_iou == pytest.approx(2 / 5 * 2 / 3)
    assert found.best_f1 == pytest.approx(4 / 5)  # above 0.6: TP 2, FN 1, FP 0
    assert 0.6 <= found.best_threshold < 0.8
    # ranks of the plastic pixels: 1, 2 and 5
    assert found.average_precision == pytest.approx((1 / 1 + 2 / 2 + 3 / 5) / 3)


def test_papers_examples_of_recall_weighting():
    # sec. 4.4: recall 100 %, precision 25 % gives 0.40; recall 40 %, precision 40 % gives 0.16
    truth = torch.tensor([1.0] + [0.0] * 3)
    assert measure(tally(torch.ones(4), truth)).rw_f1 == pytest.approx(0.40)
    assert measure(tally(torch.ones(4), truth)).useful
    truth = torch.tensor([1.0] * 5 + [0.0] * 3)
    logits = torch.tensor([1.0] * 2 + [-1.0] * 3 + [1.0] * 3)
    assert measure(tally(logits, truth)).rw_f1 == pytest.approx(0.16)
    assert not measure(tally(logits, truth)).useful


def test_probability_of_exactly_one_half_is_not_plastic():
    truth = torch.tensor([1.0, 0.0])
    assert measure(tally(torch.zeros(2), truth)).recall == 0.0


def test_nothing_predicted_gives_zero_as_in_table_1():
    found = measure(tally(torch.full((4,), -5.0), torch.tensor([1.0, 0, 0, 0])))
    assert (found.precision, found.recall, found.f1, found.rw_f1) == (0, 0, 0, 0)


def test_without_plastic_recall_is_not_a_number():
    found = measure(tally(torch.zeros(3), torch.zeros(3)))
    assert math.isnan(found.recall)
    assert math.isnan(found.best_f1)
    assert math.isnan(found.average_precision)


def test_average_precision_agrees_with_ranking_every_pixel():
    generator = torch.Generator().manual_seed(0)
    truth = (torch.rand(5000, generator=generator) < 0.02).float()
    logits = torch.randn(5000, generator=generator) + 2 * truth
    order = logits.argsort(descending=True)
    hits = truth[order].cumsum(0)
    precision = hits / torch.arange(1, 5001)
    exact = (precision * truth[order]).sum() / truth.sum()
    counted = measure(tally(logits, truth))
    assert counted.average_precision == pytest.approx(exact.item(), abs=0.01)
    best = (2 * hits / (torch.arange(1, 5001) + truth.sum())).max()
    assert counted.best_f1 == pytest.approx(best.item(), abs=0.01)


def test_tallies_of_batches_add_up_and_the_mode_is_restored():
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 1, 1), torch.nn.Dropout(0.5))
    model[1].eval()
    images = torch.rand(6, 3, 8, 8)
    masks = (torch.rand(6, 1, 8, 8) < 0.2).float()
    whole = evaluate(model, [(images, masks)])
    parts = evaluate(model, zip(images.split(2), masks.split(2), strict=True))
    assert parts == whole
    assert model.training
    assert not model[1].training
    assert np.isfinite(whole.average_precision)
