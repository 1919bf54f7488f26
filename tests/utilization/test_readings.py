"""What outputs and targets are: classes or numbers, logits or probabilities."""

import functools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import weightscope as ws
from weightscope.graph import read_structure
from weightscope.utilization import gather_data
from weightscope.utilization.readings import (
    are_classes,
    ends_in_shares,
    is_mean_over_pixels,
    note_on_logits,
    reads_marks,
    right_answer,
)
from weightscope.utilization.values import ValueMetric

ONE, THREE = torch.zeros(1, 1, 2, 2), torch.zeros(1, 3, 2, 2)


@pytest.mark.parametrize(
    ("targets", "answer", "classes"),
    [
        (torch.tensor([[[0, 3], [255, 1]]]), THREE, True),
        (torch.tensor([[[0, 3], [255, 1]]]), ONE, False),  # counts, ranks, grey values
        (torch.tensor([[[0, 3], [255, 1]]]), ONE[:, 0], False),
        (torch.tensor([[[0, 3], [2, 1]]]), (ONE, THREE), True),
        (torch.tensor([[[0, 3], [2, 1]]]), THREE.movedim(1, -1), True),
        (torch.tensor([[[0, 1], [255, 1]]]), ONE, True),  # a mask with a mark
        (torch.tensor([[[0, 1], [2, 1]]]), ONE, False),
        (torch.tensor([[[0.0, 1.0], [255.0, 1.0]]]), ONE, True),  # the same as floats
        (torch.tensor([[[0.0, 1.0], [float("nan"), 1.0]]]), ONE, True),
        (torch.tensor([[[0.0, 1.0], [-1.0, 1.0]]]), ONE, True),
        (torch.tensor([[[-1.0, 1.0], [-1.0, 1.0]]]), ONE, False),  # numbers of a margin loss
        (torch.tensor([[[0.0, 1.0], [7.0, 1.0]]]), ONE, False),
        (torch.arange(16).view(1, 4, 4), ONE, False),  # at a coarser level
        (torch.tensor([[[[0.0, 1.0]]]]), ONE, True),
        (torch.tensor([[[[True]]]]), ONE, True),
        (F.one_hot(torch.tensor([[[0, 2]]])).movedim(-1, 1).float(), THREE, True),
        (torch.tensor([[[[0.0, 0.5]]]]), ONE, False),
        (torch.tensor([[[[0, 7]]]]), ONE, False),
        (torch.tensor([[[[0, 2], [255, 1]]]]), THREE, True),  # in one channel
        (torch.tensor([[[[0.0, 2.0], [255.0, 1.0]]]]), THREE, True),
        (torch.tensor([[[[0.0, 3.0], [2.0, 1.0]]]]), THREE, False),  # of three classes no 3
        (torch.tensor([[[[0.0, 1.5], [2.0, 1.0]]]]), THREE, False),
        (torch.tensor([[[0.0, 2.0], [2.0, 1.0]]]), THREE, False),
        ((torch.ones(1, 1, 2, 2), torch.full((1, 1, 2, 2), 0.3)), (ONE, ONE), False),
        ([], ONE, False),
    ],
)
def test_targets_of_classes_are_told_from_numbers(targets, answer, classes):
    assert are_classes([targets], 2, answer) == classes


def shares(channels):
    """Probabilities of one label, or of several classes."""
    made = torch.randn(1, channels, 8, 8, generator=torch.manual_seed(0))
    return made.sigmoid() if channels == 1 else made.softmax(1)


def truth(channels):
    if channels == 1:
        return (shares(1) > 0.6).float()
    return shares(channels).argmax(1)


def dice(outputs, targets):
    return 1 - 2 * (outputs * targets).sum() / (outputs.sum() + targets.sum() + 1e-6)


def smoothed(outputs, targets):
    return F.binary_cross_entropy(outputs, 0.9 * targets + 0.05)


def with_mark(loss):
    """Half of the pixels do not count."""
    return lambda outputs, targets: loss(outputs[..., :4], targets[..., :4])


LOGITS = [
    (1, nn.BCEWithLogitsLoss()),
    (1, nn.BCEWithLogitsLoss(pos_weight=torch.tensor([20.0]))),
    (1, lambda o, t: F.binary_cross_entropy_with_logits(o[:, 0], t[:, 0]) * 1e-3),
    (1, lambda o, t: dice(o.sigmoid(), t)),
    (1, lambda o, t: F.softplus(-o * (2 * t - 1)).square().mean()),
    (3, nn.CrossEntropyLoss()),
    (3, functools.partial(F.cross_entropy, label_smoothing=0.1)),
    (3, with_mark(F.cross_entropy)),
]
SHARES = [
    (1, nn.BCELoss()),
    (1, nn.MSELoss()),
    (1, nn.L1Loss()),
    (1, dice),
    (1, smoothed),
    (1, lambda o, t: F.binary_cross_entropy_with_logits(o.logit(1e-6), t)),
    (3, lambda o, t: F.nll_loss(o.clamp_min(1e-7).log(), t)),
    (3, lambda o, t: F.mse_loss(o, F.one_hot(t, 3).movedim(-1, 1).float())),
]


@pytest.mark.parametrize(("channels", "loss"), LOGITS)
def test_probabilities_that_a_loss_takes_for_logits_are_said(channels, loss):
    note = note_on_logits(loss, shares(channels), truth(channels))
    assert "takes them for logits" in note
    assert "BCELoss" in note
    assert not note_on_logits(loss, shares(channels).log(), truth(channels))


@pytest.mark.parametrize(("channels", "loss"), SHARES)
def test_nothing_is_said_of_a_loss_of_probabilities(channels, loss):
    assert not note_on_logits(loss, shares(channels), truth(channels))


@pytest.mark.parametrize(("channels", "loss"), [*LOGITS, *SHARES])
def test_nothing_is_said_of_a_score_of_which_more_is_better(channels, loss):
    assert not note_on_logits(lambda o, t: -loss(o, t), shares(channels), truth(channels))
    assert not note_on_logits(lambda o, t: 10 - loss(o, t), shares(channels), truth(channels))


def test_nothing_is_said_of_numbers_between_0_and_1():
    assert not note_on_logits(F.mse_loss, shares(1), 0.5 * shares(1))
    assert not note_on_logits(F.binary_cross_entropy_with_logits, shares(1), 0.5 * shares(1))


def test_the_right_answer_in_the_shape_of_the_outputs():
    classes = torch.tensor([[[0, 2], [255, 1]]])
    right = right_answer(THREE, classes)
    assert right.sum(1).tolist() == [[[1.0, 1.0], [0.0, 1.0]]]  # a mark is no class
    assert right[0, 2, 0, 1] == 1.0
    assert right_answer(ONE, classes) is None
    assert torch.equal(right_answer(ONE, torch.ones(1, 2, 2)), torch.ones(1, 1, 2, 2))


class Ended(nn.Module):
    """Two levels and whatever ends the network."""

    def __init__(self, end):
        super().__init__()
        torch.manual_seed(0)
        self.top, self.deep = nn.Conv2d(1, 4, 1), nn.Conv2d(4, 4, 1)
        self.head, self.end = nn.Conv2d(8, 1, 1), end
        with torch.no_grad():
            self.top.weight.fill_(1.0)
            self.head.weight.fill_(1.0)

    def forward(self, x):
        top = self.top(x)
        deep = F.interpolate(self.deep(F.avg_pool2d(top, 2)), scale_factor=2.0)
        return self.end(self.head(torch.cat([top, deep], 1)))


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    ("end", "shares"),
    [
        (nn.Sigmoid(), True),
        (nn.Hardsigmoid(), True),
        (nn.Softmax(1), True),
        (nn.Sequential(nn.Sigmoid(), nn.Upsample(scale_factor=2.0)), True),
        (nn.Identity(), False),
        (nn.Sequential(nn.Sigmoid(), nn.Conv2d(1, 1, 1)), False),
        (nn.Tanh(), False),
    ],
)
def test_a_network_that_ends_in_probabilities(end, shares):
    structure = read_structure(Ended(end).eval(), torch.randn(1, 1, 8, 8))
    assert ends_in_shares(structure) is shares


def test_the_note_reaches_the_reader():
    images = torch.randn(12, 1, 8, 8, generator=torch.manual_seed(1))
    batches = [(images, (images > 0).float())]
    loss = nn.BCEWithLogitsLoss()
    small = nn.Conv2d(1, 1, 1)  # logits of an untrained network may all lie between 0 and 1
    with torch.no_grad():
        small.weight.fill_(1e-3)
        small.bias.fill_(0.5)
    ended, plain, low = (
        ws.analyze(Ended(end), batches=batches, loss=loss, response=False)
        for end in (nn.Sigmoid(), nn.Identity(), small)
    )
    assert "takes them for logits" not in low.conclusion
    assert "loss= takes them for logits" in ended.conclusion
    assert "takes them for logits" not in plain.conclusion
    both = ws.analyze(
        Ended(nn.Sigmoid()), batches=batches, loss=nn.BCELoss(), metric=loss, response=False
    )
    assert "metric= takes them for logits" in both.conclusion
    assert "loss= takes them" not in both.conclusion
    with pytest.warns(UserWarning, match="metric= takes them for logits") as caught:
        ws.ablate(Ended(nn.Sigmoid()), batches, loss, progress=False)
    assert [w.filename for w in caught] == [__file__]
    for metric in ("f1", nn.BCELoss()):  # warnings are errors here
        ws.ablate(Ended(nn.Sigmoid()), batches, metric, progress=False)


def test_whole_numbers_are_a_regression_where_the_network_gives_one_number_each():
    model = Ended(nn.Identity()).eval()
    images = torch.randint(0, 256, (12, 1, 8, 8), generator=torch.manual_seed(1)).float()
    structure = read_structure(model, images[:1])
    away = torch.randint(-1, 2, images.shape, generator=torch.manual_seed(2)).float()
    negative = 255 - images + away
    for targets in (negative.long(), negative[:, 0].long(), negative):
        evidence = gather_data(
            structure,
            [(images, targets)],
            loss=lambda o, t: F.mse_loss(o, t.reshape(o.shape).float()),
        )
        assert not evidence.ablation.recalibrated
        line = pytest.approx(float(away.square().mean()), rel=0.01)
        assert evidence.ablation.chance == line  # of the input


MARKED = torch.tensor([[[[0.0, 1.0], [255.0, 1.0]]]])


def leaving_out(outputs, targets):
    counts = targets != 255
    return F.binary_cross_entropy_with_logits(outputs[counts], targets[counts])


@pytest.mark.parametrize(
    ("loss", "answer", "target", "reads"),
    [
        (leaving_out, ONE, MARKED, False),
        (F.mse_loss, ONE, MARKED, True),  # a number as every other
        (F.cross_entropy, THREE, torch.tensor([[[0, 2], [-100, 1]]]), False),  # its own mark
        (nn.BCEWithLogitsLoss(), ONE, MARKED.clamp(max=1.0), False),  # nothing is marked
        (nn.BCEWithLogitsLoss(), ONE, MARKED, True),
        (nn.BCEWithLogitsLoss(), {"a": ONE}, MARKED, False),  # not called so
        (lambda o, t: F.binary_cross_entropy_with_logits(o["a"], t), {"a": ONE}, MARKED, True),
    ],
)  # fmt: skip
def test_marks_that_a_loss_takes_for_numbers(loss, answer, target, reads):
    assert reads_marks(loss, answer, [target]) is reads


def hits(outputs, targets):
    return (outputs.argmax(1) == targets).float().mean()


def recall(outputs, targets):
    found = [(outputs.argmax(1) == targets)[targets == k].float().mean() for k in range(3)]
    return torch.stack(found).nanmean()


def test_a_share_of_counts_is_none_where_halves_are_much_alike():
    """Both halves hold about as much, and the network errs little: Dice is nearly their mean."""
    targets = torch.zeros(1, 16, 16)
    targets[:, 2:12, 2:6], targets[:, 2:12, 10:14] = 1, 1
    outputs = 4.0 * (2 * targets[:, None] - 1)
    outputs[0, 0, 2:5, 2] *= -1  # three of 40 are missed left, one more is found right
    outputs[0, 0, 12, 10] *= -1

    def dice(answers, true):
        found = (answers[:, 0] > 0).float()
        return (2 * (found * true).sum() + 1) / (found.sum() + true.sum() + 1)

    whole, halves = dice(outputs, targets), [dice(outputs[..., s], targets[..., s]) for s in
                                             (slice(8), slice(8, 16))]  # fmt: skip
    assert math.isclose(float(whole), float(sum(halves)) / 2, rel_tol=1e-3)
    assert not is_mean_over_pixels(ValueMetric(dice), outputs, targets)
    assert is_mean_over_pixels(
        ValueMetric(lambda a, t: ((a[:, 0] > 0).float() == t).float().mean()),
        torch.where(torch.arange(16) < 3, -outputs, outputs), targets,
    )  # fmt: skip


def of_whole_images(outputs, targets):
    assert outputs.shape[-1] == 16
    return hits(outputs, targets)


@pytest.mark.parametrize(
    ("metric", "mean"),
    [
        (hits, True),
        (F.cross_entropy, True),
        (nn.CrossEntropyLoss(ignore_index=7), True),
        (recall, False),
        (nn.CrossEntropyLoss(weight=torch.tensor([1.0, 1.0, 30.0])), False),
        (of_whole_images, True),  # which cannot be asked of halves
        (lambda o, t: 1.0, True),  # alike everywhere
    ],
)
def test_a_mean_over_pixels_is_known_by_halves(metric, mean):
    generator = torch.Generator().manual_seed(0)
    outputs = torch.randn(4, 3, 16, 16, generator=generator)
    targets = torch.randint(3, (4, 16, 16), generator=generator)
    targets[:, :, 8:] = targets[:, :, 8:].clamp_max(1)
    assert is_mean_over_pixels(ValueMetric(metric), outputs, targets) == mean
