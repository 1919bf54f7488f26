"""A loss after a scale and an offset of each output channel."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from weightscope.graph import read_structure
from weightscope.utilization import gather_data
from weightscope.utilization.answers import OutputShapes
from weightscope.utilization.recalibration import FOLDS, RecalibratedMeter
from weightscope.utilization.values import ValueMetric


def losses(outputs, targets, loss, whole=None):
    """Losses of each image of some batches of outputs."""
    shapes = OutputShapes()
    for output in whole or outputs:
        shapes.add(output)
    return judged(outputs, targets, loss, shapes).values


def judged(outputs, targets, loss, shapes):
    meter = RecalibratedMeter(ValueMetric(loss, False), targets, torch.device("cpu"), shapes)
    for output in outputs:
        meter.add(output)
    return meter.quality()


def logits(images=12, channels=1, seed=0):
    """Logits that are as sure as they should be, and labels drawn from them."""
    generator = torch.Generator().manual_seed(seed)
    shape = (images, channels, 16, 16)
    scores = 2 * torch.randn(shape, generator=generator)
    if channels == 1:
        return scores, torch.bernoulli(scores.sigmoid(), generator=generator)
    flat = scores.softmax(1).movedim(1, -1).reshape(-1, channels)
    return scores, torch.multinomial(flat, 1, generator=generator).view(images, 16, 16)


@pytest.mark.parametrize(
    ("channels", "loss"), [(1, F.binary_cross_entropy_with_logits), (3, F.cross_entropy)]
)
def test_what_a_scale_and_an_offset_mend_costs_nothing(channels, loss):
    scores, labels = logits(channels=channels)
    right = np.array(
        [float(loss(s, y)) for s, y in zip(scores.split(1), labels.split(1), strict=True)]
    )
    off = torch.linspace(-2, 3, channels)[:, None, None]
    for broken in (5 * scores, 0.1 * scores + off):
        found = losses(list(broken.split(4)), list(labels.split(4)), loss)
        assert found.mean() == pytest.approx(right.mean(), rel=0.01)
    assert loss(5 * scores, labels) > 1.5 * right.mean()  # what is mended matters


def test_the_loss_as_it_is_is_known_beside():
    scores, labels = logits()
    loss = F.binary_cross_entropy_with_logits
    shapes = OutputShapes()
    shapes.add(scores)
    found = judged(list((5 * scores).split(4)), list(labels.split(4)), loss, shapes)
    assert found.as_given.values.mean() == pytest.approx(float(loss(5 * scores, labels)), rel=1e-4)
    some = found.among(np.arange(12) < 3)
    assert some.images == 12
    assert some.as_given.of(np.ones((1, 12)))[0] == pytest.approx(
        float(loss(5 * scores[:3], labels[:3])), rel=1e-4
    )


def test_what_is_lost_stays_lost():
    scores, labels = logits()
    generator = torch.Generator().manual_seed(1)
    noise = 2 * torch.randn(scores.shape, generator=generator)
    found = losses([scores + noise], [labels], F.binary_cross_entropy_with_logits)
    right = F.binary_cross_entropy_with_logits(scores, labels)
    share = labels.mean()
    constant = -(share * share.log() + (1 - share) * (1 - share).log())
    assert 1.1 * right < found.mean() < constant
    nothing = losses([0 * scores + 3], [labels], F.binary_cross_entropy_with_logits)
    assert nothing.mean() == pytest.approx(float(constant), rel=0.01)


def test_probabilities_are_calibrated_in_their_logits():
    scores, labels = logits()
    as_logits = losses([3 * scores + 1], [labels], F.binary_cross_entropy_with_logits)
    as_shares = losses([(3 * scores + 1).sigmoid()], [labels], F.binary_cross_entropy)
    assert as_shares.mean() == pytest.approx(as_logits.mean(), rel=0.01)


def test_an_image_is_not_judged_by_a_fit_that_saw_it():
    scores, labels = logits(images=8)
    lie = labels.clone()
    lie[0] = 1 - lie[0]
    true, lied = (
        losses([4 * scores], [y], F.binary_cross_entropy_with_logits) for y in (labels, lie)
    )
    changed = np.abs(lied / true - 1) > 1e-4
    assert changed.sum() == 1 + 8 // FOLDS  # the image itself, and those of the other fold


def test_images_that_come_in_turns_do_not_fool_the_fit():
    """Even images hold everything, odd ones nothing: folds by turns would see one kind each."""
    labels = (torch.arange(24) % 2 == 0).float()[:, None, None, None].expand(-1, 1, 8, 8)
    scores = 6 * (2 * labels - 1) + torch.randn(labels.shape, generator=torch.manual_seed(0))
    raw = F.binary_cross_entropy_with_logits(scores, labels)
    found = losses([scores], [labels], F.binary_cross_entropy_with_logits)
    assert found.mean() <= float(raw) * 1.001


def test_a_fit_that_does_not_carry_over_is_not_taken():
    scores, labels = logits(images=4)
    scores, labels = scores[..., :2, :2], labels[..., :2, :2]
    raw = F.binary_cross_entropy_with_logits(scores, labels)
    found = losses([scores], [labels], F.binary_cross_entropy_with_logits)
    assert found.mean() <= float(raw) * 1.001


def test_later_images_are_judged_as_they_come(monkeypatch):
    scores, labels = logits(images=24)
    whole = losses(list(scores.split(3)), list(labels.split(3)), F.binary_cross_entropy_with_logits)
    monkeypatch.setattr("weightscope.utilization.recalibration.FITTED", 12)
    streamed = losses(
        list(scores.split(3)), list(labels.split(3)), F.binary_cross_entropy_with_logits
    )
    assert len(streamed) == 24
    assert streamed == pytest.approx(whole, rel=0.05)
    monkeypatch.setattr("weightscope.utilization.recalibration.HELD", 1)
    again = losses(list(scores.split(3)), list(labels.split(3)), F.binary_cross_entropy_with_logits)
    assert again == pytest.approx(streamed)  # 10 images or more come before the numbers' limit


def test_outputs_in_containers_are_calibrated_each():
    scores, labels = logits()
    half = F.avg_pool2d(scores, 2)

    def deep(outputs, targets):
        small = F.interpolate(outputs["aux"], scale_factor=2.0)
        both = (outputs["main"], small)
        return sum(F.binary_cross_entropy_with_logits(o, targets) for o in both)

    right = losses([{"main": scores, "aux": half}], [labels], deep)
    broken = losses([{"main": 4 * scores, "aux": half - 5}], [labels], deep)
    assert broken.mean() == pytest.approx(right.mean(), rel=0.01)


def test_a_loss_that_cannot_be_fitted_is_taken_as_it_is():
    def stepped(outputs, targets):
        return ((outputs > 0).float() != targets).float().mean()

    scores, labels = logits()
    assert losses([scores], [labels], stepped).mean() == pytest.approx(
        float(stepped(scores, labels)), rel=1e-5
    )


class Shifting(nn.Module):
    """Decides at full resolution; its deep level adds a constant to every logit."""

    def __init__(self):
        super().__init__()
        self.top, self.deep = nn.Conv2d(1, 2, 1), nn.Conv2d(2, 2, 1)
        self.head = nn.Conv2d(4, 1, 1)
        with torch.no_grad():
            self.top.weight.fill_(1.0)
            self.top.bias.fill_(0.0)
            self.deep.weight.fill_(0.3)
            self.deep.bias.copy_(torch.tensor([4.0, 4.0]))
            self.head.weight.copy_(torch.tensor([4.0, 4.0, 1.0, 1.0]).view(1, 4, 1, 1))
            self.head.bias.fill_(-1.0)

    def forward(self, x):
        top = self.top(x)
        deep = F.interpolate(self.deep(F.avg_pool2d(top, 2)), scale_factor=2.0)
        deep = deep.mean((2, 3), keepdim=True).expand(-1, -1, *top.shape[2:])
        return self.head(torch.cat([top, deep], 1))


def masked(logits, targets):
    """Cross-entropy where a pixel is 0 or 1."""
    counts = (targets == 0) | (targets == 1)
    return F.binary_cross_entropy_with_logits(logits[counts], targets[counts])


@pytest.mark.sample(1)
@pytest.mark.parametrize("mark", [None, -1.0, math.nan])
def test_a_level_that_only_shifts_the_logits_is_not_called_used(mark):
    torch.manual_seed(0)
    images = [torch.randn(6, 1, 8, 8) for _ in range(4)]
    pairs = [(x, (x > 0).float()) for x in images]
    if mark is not None:  # pixels that do not count
        pairs = [(x, y.where(x < 1, torch.tensor(mark))) for x, y in pairs]
    structure = read_structure(Shifting().eval(), images[0])
    evidence = gather_data(structure, pairs, loss=masked)
    (cut,) = evidence.ablation.levels
    assert evidence.ablation.recalibrated
    assert evidence.skilled
    assert cut.drop / evidence.ablation.skill < 0.02
