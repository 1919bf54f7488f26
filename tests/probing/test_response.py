"""The response of networks whose use of their levels is known by construction."""

import math
from dataclasses import replace
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import weightscope as ws
from weightscope.graph import read_structure
from weightscope.probing import Response, respond_to_images, respond_to_synthetic, response
from weightscope.probing.change import change_by_cut, compare
from weightscope.probing.inputs import read_images, scaling, synthetic_inputs
from weightscope.probing.outputs import Reading, certainty, predictions
from weightscope.probing.resolution import pair_sums, resolution
from weightscope.probing.response import (
    HANDED_ON,
    CutResponse,
    _joined,
    measure_response,
    other_contrasts,
)
from weightscope.probing.stimuli import between_zero_and_one, dead_leaves
from weightscope.thresholds import RESPONDS, SILENT
from weightscope.utilization.records import Score
from weightscope.utilization.scores import score_response


class Mixed(nn.Module):
    """Adds to the input ``share`` times what comes back from half resolution.

    With a negative ``gain`` its outputs are logits of what is dark, not the input restored.
    """

    def __init__(self, share: float, channels: int = 1, gain: float = -4.0) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 1, bias=False)
        self.below = nn.Conv2d(channels, channels, 1, bias=False)
        self.last = nn.Conv2d(channels, channels, 1, bias=False)
        with torch.no_grad():
            for layer in (self.first, self.below, self.last):
                layer.weight.copy_(torch.eye(channels)[..., None, None])
            self.last.weight.mul_(gain)
        self.share = share

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        back = F.interpolate(self.below(F.avg_pool2d(x, 2)), scale_factor=2.0)
        return self.last((1 - self.share) * x + self.share * back)


def structure_of(model: nn.Module, channels: int = 1, size: int = 32):
    return read_structure(model, torch.zeros(1, channels, size, size))


class Noisy(Mixed):
    """Adds noise to what it returns, in evaluation mode, too."""

    noise = 0.5

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        returned = super().forward(x)
        return F.dropout(returned + self.noise * torch.randn_like(returned), 0.2)


def test_what_a_forward_draws_at_random_is_no_response_of_a_level():
    found = {}
    for seed in (1, 2):
        torch.manual_seed(seed)
        structure = structure_of(Noisy(0.0))
        before = torch.get_rng_state()
        found[seed] = respond_to_synthetic(structure).cuts[0]
        assert torch.equal(torch.get_rng_state(), before)
    assert found[1].value == pytest.approx(0.0, abs=1e-9)
    assert found[1] == found[2]
    assert respond_to_synthetic(structure_of(Noisy(1.0))).cuts[0].value > 0.35
    assert structure.draws
    assert "draws at random in evaluation mode" in structure.notes[-1]


class Switched(Mixed):
    """Draws once for all images whether the level below counts."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        back = F.interpolate(self.below(F.avg_pool2d(x, 2)), scale_factor=2.0)
        return self.last(x + 0.5 * (torch.rand(()) < 0.0) * back)


@pytest.mark.parametrize(("kind", "verdict"), [(Mixed, "unused"), (Switched, "undecided")])
def test_what_is_silent_in_some_draws_is_not_called_unused(kind, verdict):
    x = dead_leaves(16, 1, (32, 32), seed=0)
    found = ws.analyze(
        kind(0.0, gain=4.0), batches=[(x, x > 0)], metric="f1", response=False, progress=False
    )
    (bottleneck,) = (v for v in found.assessment.verdicts if v.stage == "bottleneck")
    assert bottleneck.verdict == verdict
    assert ("but the forward answers otherwise" in bottleneck.why) == (kind is Switched)


class Scaled(Mixed):
    """What lies below scales the image as a whole."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        vector = self.below(F.avg_pool2d(x, 2)).mean((2, 3), keepdim=True)
        return self.last(x * (1.0 + self.share * vector))


@pytest.mark.parametrize(("kind", "verdict"), [(Mixed, "unused"), (Scaled, "undecided")])
def test_synthetic_images_are_too_much_alike_for_a_vector_of_each(kind, verdict):
    model, images = kind(0.0, gain=4.0), dead_leaves(16, 1, (32, 32), seed=0)
    found = ws.analyze(model, images=[images], trained=True, progress=False).assessment
    (bottleneck,) = (v for v in found.verdicts if v.stage == "bottleneck")
    scores = {score.grade: score for score in bottleneck.scores}
    assert (scores["response"].verdict, scores["images"].verdict) == (verdict, "unused")
    assert ("one vector for a whole image" in scores["response"].why) == scores["response"].guarded


def test_dropout_of_training_draws_nothing_in_evaluation():
    structure = structure_of(nn.Sequential(Mixed(0.5), nn.Dropout(0.5)))
    assert not structure.draws
    assert not any("random" in note for note in structure.notes)


def test_ablation_takes_the_same_draws_with_and_without_a_level():
    x = dead_leaves(6, 1, (32, 32), seed=0)
    batches = [(x[:3], x[:3] > 0), (x[3:], x[3:] > 0)]
    results = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        results.append(ws.ablate(Noisy(0.0, gain=4.0), batches, metric="f1"))
    assert results[0]["drop"].abs().max() == 0.0
    assert results[0].equals(results[1])


def test_the_response_is_none_without_the_level_and_whole_with_nothing_else():
    found = {
        share: respond_to_synthetic(structure_of(Mixed(share))).cuts[0] for share in (0.0, 0.3, 1.0)
    }
    assert found[0.0].value == pytest.approx(0.0, abs=1e-9)
    assert found[0.0].value < found[0.3].low <= found[0.3].value <= found[0.3].high
    assert found[0.3].high < found[1.0].value
    assert found[1.0].change == pytest.approx(1.0)
    assert found[1.0].value == pytest.approx(1.0)


def test_figures_are_those_computed_by_hand():
    torch.manual_seed(0)
    model, images = Mixed(0.5), torch.randn(5, 1, 16, 16)
    structure = structure_of(model)
    (record,) = measure_response(structure, [[images[:2], images[2:]]], "images").cuts
    whole = model(images).detach()
    cut = -4 * (0.5 * images + 0.5 * F.avg_pool2d(images, 2).mean())
    assert record.flips == pytest.approx(float(((whole > 0) != (cut > 0)).float().mean()))
    assert record.change == pytest.approx(by_hand(whole, cut, images), rel=1e-5)
    assert record.value == pytest.approx(apart(whole.sigmoid(), cut.sigmoid()), rel=1e-5)


def apart(p, q):
    """The root of 1 - Lin's concordance of probabilities, all channels together."""
    p, q = (t.double().movedim(1, 0).flatten(1).numpy() for t in (p, q))
    common = sum(2 * np.cov(a, b, bias=True)[0, 1] for a, b in zip(p, q, strict=True))
    least = p.var(1) + q.var(1) + (p.mean(1) - q.mean(1)) ** 2
    return (1 - common / least.sum()) ** 0.5


def by_hand(whole, cut, images):
    """The root of 1 - Lin's concordance of what both add to the line of the input."""
    w, c, x = (t.double().flatten().numpy() for t in (whole, cut, images))
    slope, offset = np.polyfit(x, w, 1)
    w, c = w - slope * x - offset, c - slope * x - offset
    concordance = (
        2 * np.cov(w, c, bias=True)[0, 1] / (w.var() + c.var() + (w.mean() - c.mean()) ** 2)
    )
    return (1 - concordance) ** 0.5


@pytest.mark.parametrize("gain", [1.0, 200.0])
def test_what_restores_its_input_is_measured_by_its_numbers(gain):
    torch.manual_seed(0)
    model, images = Mixed(0.2, gain=gain), torch.randn(5, 1, 16, 16) + 1.0
    (record,) = measure_response(structure_of(model), [[images]], "images").cuts
    cut = gain * (0.8 * images + 0.2 * F.avg_pool2d(images, 2).mean())
    assert math.isnan(record.flips)
    assert record.value == record.change
    assert record.value == pytest.approx(by_hand(model(images).detach(), cut, images), rel=1e-4)


def test_what_follows_its_input_is_read_as_numbers_and_its_signs_guard_what_is_unused():
    torch.manual_seed(0)
    model, images = Mixed(0.2, gain=9.0), torch.randn(12, 1, 16, 16)
    found = respond_to_images(structure_of(model), [images])
    (record,) = found.cuts
    whole = model(images).detach()
    cut = 9.0 * (0.8 * images + 0.2 * F.avg_pool2d(images, 2).mean())
    signs = apart(whole.sigmoid(), cut.sigmoid())
    numbers = by_hand(whole, cut, images)
    assert signs < 0.3 < 0.9 < numbers
    assert record.by_sign == pytest.approx(signs, rel=1e-5)
    assert record.value == record.change == pytest.approx(numbers, rel=1e-4)
    score = score_response(found, 1)
    assert score.verdict == "used"
    assert f"must be so for both: {flips_of(whole, cut):.1%} of the decisions change" in score.why
    assert f"(response {signs:.2g})" in score.why
    probable = nn.Sequential(model, nn.Sigmoid())
    (record,) = respond_to_images(structure_of(probable), [images]).cuts
    assert record.by_sign == pytest.approx(signs, rel=1e-5)


def flips_of(whole, cut):
    return float(((whole > 0) != (cut > 0)).float().mean())


class Far(Mixed):
    """Adds a constant in the end."""

    far = 0.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) + self.far


class Sharp(Mixed):
    """Follows its input, but for a square curve of its size; the level moves what is near zero."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        back = F.interpolate(self.below(F.avg_pool2d(x, 2)), scale_factor=2.0)
        return self.last(x + 0.5 * x * x.abs() + self.share * back.tanh())


def test_no_level_is_unused_that_changes_decisions_alone():
    torch.manual_seed(0)
    model = Sharp(0.03, gain=9.0)
    images = torch.randn(12, 1, 16, 16)
    images[:, :, ::2] = 0.01 * images[:, :, ::2]
    found = respond_to_images(structure_of(model), [images])
    (record,) = found.cuts
    assert max(record.change, record.by_sign) < 0.1 < 0.15 < record.high
    assert score_response(found, 1).verdict == "undecided"


def test_numbers_near_zero_are_no_decisions():
    torch.manual_seed(0)
    images = torch.randn(5, 1, 16, 16)
    values = [
        measure_response(structure_of(Mixed(0.5, gain=gain)), [[images]], "images").cuts[0]
        for gain in (-0.1, -0.2, -4.0)
    ]
    assert [math.isnan(v.flips) for v in values] == [True, True, False]
    assert values[0].value == pytest.approx(values[1].value, rel=1e-4)


def test_probabilities_respond_as_their_logits_do():
    class Probable(Mixed):
        def forward(self, x):
            return super().forward(x).sigmoid()

    torch.manual_seed(0)
    images = torch.randn(5, 1, 16, 16)
    found = [
        measure_response(structure_of(kind(0.5)), [[images]], "images").cuts[0]
        for kind in (Mixed, Probable)
    ]
    assert found[0].flips == found[1].flips > 0.0
    assert found[0].value == pytest.approx(found[1].value)


def test_probabilities_of_several_classes_respond_as_their_logits_do():
    class Probable(Mixed):
        def __init__(self, share):
            super().__init__(share, channels=3)

        def forward(self, x):
            return super().forward(x).softmax(1)

    torch.manual_seed(0)
    images = torch.randn(5, 3, 16, 16)
    models = Mixed(0.5, channels=3), Probable(0.5)
    found = [measure_response(structure_of(m, 3), [[images]], "images").cuts[0] for m in models]
    assert found[0].flips == found[1].flips > 0.0


def test_certainty_is_none_at_equal_odds_and_whole_where_nothing_else_is_possible():
    logits = torch.tensor([[[-50.0, 50.0]], [[-1e-6, 1e-6]]])
    assert certainty(logits).tolist() == pytest.approx([1.0, 0.0], abs=1e-5)
    several = torch.zeros(1, 4, 8)
    several[:, 0] = -1e-9
    assert certainty(several).tolist() == pytest.approx([0.0], abs=1e-5)
    several[:, 2] = 60.0
    assert certainty(several).tolist() == pytest.approx([1.0])
    odds = torch.tensor([[[0.9], [0.1]]])
    assert certainty(odds).tolist() == pytest.approx([0.8])
    assert certainty(odds.log()).tolist() == pytest.approx([0.8])
    assert certainty(torch.full((2, 3, 5), 70.0)).tolist() == [0.0, 0.0]  # an image in 0..255


def test_several_channels_flip_where_the_largest_one_changes():
    torch.manual_seed(0)
    model, images = Mixed(0.5, channels=3), torch.randn(4, 3, 16, 16)
    (record,) = measure_response(structure_of(model, 3), [[images]], "images").cuts
    back = F.avg_pool2d(images, 2).mean((0, 2, 3), keepdim=True)
    cut = -4 * (0.5 * images + 0.5 * back)
    flips = (model(images).argmax(1) != cut.argmax(1)).float().mean()
    assert record.flips == pytest.approx(float(flips))
    assert record.value == pytest.approx(
        apart(model(images).detach().softmax(1), cut.softmax(1)), rel=1e-5
    )


def test_batches_do_not_matter():
    torch.manual_seed(0)
    structure, images = structure_of(Mixed(0.5)), torch.randn(6, 1, 16, 16)
    with torch.no_grad():
        one = change_by_cut(structure, [images])[""][1]
        many = change_by_cut(structure, list(images.split(2)))[""][1]
    assert np.allclose(one.sums, many.sums)
    assert np.array_equal(one.flips, many.flips)


def test_a_network_that_takes_no_synthetic_image_says_why():
    structure = structure_of(Mixed(0.5))

    def refuse(*_):
        raise RuntimeError("negative brightness")

    handle = structure.model.first.register_forward_pre_hook(refuse)
    try:
        found = respond_to_synthetic(structure)
        with pytest.raises(ws.ForwardError, match="negative brightness"):
            respond_to_images(structure, [torch.zeros(2, 1, 8, 8)])
    finally:
        handle.remove()
    assert found.cuts == ()
    assert "negative brightness" in found.failure


def test_what_takes_no_image_of_both_signs_is_shown_others():
    class Logarithmic(Mixed):
        def forward(self, x):
            return super().forward(x.log())

    found = respond_to_synthetic(structure_of(Logarithmic(0.5)))
    assert found.failure == ""
    assert found.cuts[0].low > RESPONDS


class Composed(Mixed):
    """Fills in what its second channel leaves out; what comes back from below varies a little."""

    def __init__(self, kind: str) -> None:
        super().__init__(1.0, channels=2)
        self.kind = kind

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.first(x)
        y = F.interpolate(self.below(F.avg_pool2d(y, 2)), scale_factor=2.0)
        made = (1.0 + 0.05 * self.last(y))[:, :1]
        return torch.where(x[:, 1:] > 0, x[:, :1], made) if self.kind == "hole" else WINDOW * made


WINDOW = torch.linspace(0.0, 1.0, 32).outer(torch.linspace(0.0, 1.0, 32))


@pytest.mark.parametrize("kind", ["hole", "window"])
def test_what_a_constant_would_do_is_no_work_of_a_level(kind):
    images = dead_leaves(16, 2, (32, 32), seed=0)
    (cut,) = measure_response(structure_of(Composed(kind), 2), [[images]], "images").cuts
    assert cut.moved < 0.3 * cut.spread
    assert cut.value > 0.9


TWO_IMAGES = torch.linspace(0, 1, 512).reshape(2, 1, 16, 16)


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    "batch",
    [
        TWO_IMAGES,
        TWO_IMAGES.double().numpy(),
        TWO_IMAGES.double(),
        (TWO_IMAGES, torch.zeros(2)),
        [TWO_IMAGES, TWO_IMAGES, ["name", "name"]],
        {"image": TWO_IMAGES, "mask": TWO_IMAGES},
        {"pixel_values": TWO_IMAGES, "labels": torch.zeros(2, 16, 16)},
    ],
)
def test_images_are_read_as_loaders_yield_them(batch):
    structure = structure_of(Mixed(0.5))
    (read,) = read_images(structure, [batch])
    found = read[0] if isinstance(read, tuple) else read
    assert found.shape == (2, 1, 16, 16)
    assert found.dtype == torch.float32
    assert respond_to_images(structure, [batch]).images == 2


def test_no_numbers_for_matched_images_leave_dead_leaves(monkeypatch):
    structure = structure_of(Mixed(0.5))
    alone = respond_to_synthetic(structure)
    monkeypatch.setattr(response, "matched_images", lambda _, images, __: [images[0] * math.nan])
    assert respond_to_synthetic(structure).cuts == alone.cuts


def test_outputs_that_are_not_finite_tell_nothing():
    broken = Far(0.5)
    broken.far = math.nan
    found = respond_to_synthetic(structure_of(broken))
    assert found.cuts == ()
    assert "nan or infinite" in found.failure
    analysis = ws.analyze(broken, example_inputs=torch.zeros(1, 1, 32, 32))
    assert {v.verdict for v in analysis.assessment.verdicts} == {"undecided"}
    told = "The response to synthetic images was not measured: the outputs hold nan"
    assert told in analysis.conclusion
    images = torch.randn(12, 1, 16, 16)
    images[3, 0, 0, 0] = math.nan
    with pytest.raises(ws.InputError, match="nan or infinite"):
        respond_to_images(structure_of(Mixed(0.5)), [images])


@pytest.mark.parametrize("images", [[], [torch.zeros(3)], [{"label": torch.zeros(2)}], ["a.png"]])
def test_what_holds_no_image_is_refused_by_name(images):
    with pytest.raises(ws.InputError, match="images="):
        read_images(structure_of(Mixed(0.5)), images)


def test_synthetic_inputs_are_large_enough_for_the_deepest_level():
    structure = structure_of(Mixed(0.5), size=256)
    (images,) = synthetic_inputs(structure, dead_leaves, 3, seed=0)
    assert images.shape == (3, 1, 64, 64)


def test_other_inputs_stay_as_in_the_example():
    class Timed(Mixed):
        def forward(self, t, x):
            return super().forward(x) + t[:, None, None, None]

    model = Timed(0.5)
    structure = read_structure(model, (torch.tensor([0.25]), torch.zeros(1, 1, 32, 32)))
    time, images = synthetic_inputs(structure, dead_leaves, 4, seed=0)
    assert torch.equal(time, torch.full((4,), 0.25))
    assert images.shape[:2] == (4, 1)
    assert math.isfinite(respond_to_synthetic(structure).cuts[0].value)


def test_analyze_takes_images_and_can_leave_the_response_out():
    model = Mixed(0.5)
    with torch.no_grad():
        model.below.weight.fill_(1.5)
    example = torch.zeros(1, 1, 32, 32)
    assert ws.analyze(model, example_inputs=example, response=False).response is None
    found = ws.analyze(model, example_inputs=example, images=[torch.randn(4, 1, 32, 32)])
    assert found.response is not None
    assert found.images is not None
    assert (found.images.source, found.images.images) == ("images", 4)
    assert {"response", "images"} <= set(found.scores["grade"])


def test_where_decisions_are_all_alike_the_numbers_speak():
    images = 10 + torch.rand(4, 1, 16, 16)
    (record,) = measure_response(structure_of(Mixed(0.5)), [[images]], "images").cuts
    assert math.isnan(record.flips)
    assert record.value == pytest.approx(record.change)
    assert record.value > 0.01


class SureLogits(Mixed):
    """Logits far from zero, moved a little by the level below."""

    def __init__(self, middle: float, moves: float) -> None:
        super().__init__(1.0, gain=4.0)
        self.middle, self.moves = middle, moves

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        back = F.interpolate(self.below(F.avg_pool2d(x, 2)), scale_factor=2.0)
        return self.last(10.0 * torch.sin(9.0 * x) + self.moves * back + self.middle)


@pytest.mark.parametrize(
    ("middle", "moves", "verdict"),
    [
        (-30.0, 0.75, "undecided"),
        (-30.0, 0.0, "undecided"),
        (30.0, 0.75, "unused"),  # numbers that are never negative, no logits
    ],
)
def test_logits_that_decide_nothing_here_may_decide_on_other_images(middle, moves, verdict):
    images = dead_leaves(16, 1, (32, 32), seed=0)
    found = measure_response(structure_of(SureLogits(middle, moves)), [[images]], "images")
    score = score_response(found, 1)
    assert found.cuts[0].high < SILENT
    assert (score.verdict, score.guarded) == (verdict, verdict == "undecided")
    assert ("all decisions are alike" in score.why) == score.guarded


def test_the_kind_of_image_that_responds_least_decides():
    torch.manual_seed(0)
    structure = structure_of(Mixed(0.5))
    fine = torch.randn(4, 1, 32, 32)
    coarse = F.interpolate(torch.randn(4, 1, 8, 8), scale_factor=4.0)
    alone = [measure_response(structure, [[x]], "images").cuts[0] for x in (fine, coarse)]
    both = measure_response(structure, [[fine], [coarse]], "images").cuts[0]
    assert both.value == min(a.value for a in alone)
    assert alone[1].high < alone[0].low
    assert both.low == pytest.approx(alone[1].low, rel=0.2)
    assert both.high == pytest.approx(alone[1].high, rel=0.2)


def test_a_kind_on_which_nothing_is_decided_is_left_out():
    torch.manual_seed(0)
    structure = structure_of(Mixed(0.5))
    images, bright = torch.randn(4, 1, 32, 32), 10 + torch.rand(4, 1, 32, 32)
    alone = measure_response(structure, [[images]], "images").cuts[0]
    both = measure_response(structure, [[images], [bright]], "images").cuts[0]
    assert both.value == alone.value


def test_a_draw_of_images_that_decide_nothing_leaves_the_interval_alone():
    torch.manual_seed(0)
    structure = structure_of(Mixed(1.0))
    dark = torch.full((4, 1, 32, 32), 1.0) + 0.01 * torch.rand(4, 1, 32, 32)
    dark[0] = torch.randn(1, 32, 32)  # one image of four decides anything
    record = measure_response(structure, [[dark]], "images").cuts[0]
    assert record.value > 0.9
    assert record.low > 0.9


class Rescaled(Mixed):
    """Multiplies its images; half resolution speaks only where they are bright, up to a limit."""

    def __init__(self, factor: float, share: float = 1.0) -> None:
        super().__init__(share)
        self.factor = factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(self.factor * x)
        back = (self.below(F.avg_pool2d(x, 2)) - 0.3).clamp(0.0, 2.0)
        return self.last(0.3 * x + self.share * F.interpolate(back, scale_factor=2.0) - 0.4)


def spoken(model: nn.Module) -> Score:
    return score_response(respond_to_synthetic(structure_of(model)), 1)


@pytest.mark.parametrize("factor", [0.01, 150.0])
def test_images_that_do_not_reach_a_network_or_saturate_it_do_not_accuse(factor):
    own = [dead_leaves(12, 1, (32, 32), seed=9) / factor]
    structure = structure_of(Rescaled(factor, share=0.5))
    assert respond_to_images(structure, own).cuts[0].low > 0.25
    found = spoken(Rescaled(factor, share=0.5))
    assert found.verdict == "undecided"
    assert "at another contrast" in found.why
    assert found.low < 0.2 < 0.5 < found.high
    assert "give images=" in found.why


@pytest.mark.sample(2)
@pytest.mark.parametrize("factor", [0.01, 1.0, 100.0])
def test_what_is_silent_at_every_contrast_is_unused(factor):
    assert spoken(Rescaled(factor, share=0.0)).verdict == "unused"


def test_a_second_look_is_taken_where_answers_hardly_follow_the_images_or_are_saturated():
    torch.manual_seed(0)
    varied = 4 * torch.randn(6, 1, 16, 16)
    assert other_contrasts(varied) == ()
    assert other_contrasts(varied[:1].expand(6, -1, -1, -1) - 3) == (100.0,)
    assert other_contrasts(varied / 100 - 3) == (100.0,)
    assert other_contrasts(torch.zeros(6, 1, 16, 16)) == (100.0, 0.3, 0.1, 0.01)
    assert other_contrasts(40 * varied) == (0.3, 0.1, 0.01)
    assert other_contrasts(4000 * varied) == (0.3, 0.1, 0.01)
    # an exponential at the end: a few positions outweigh the rest
    heavy = torch.randn(6, 2, 32, 32, generator=torch.Generator().manual_seed(0)).mul(2).exp()
    assert other_contrasts(heavy, numbers=True) == (0.3, 0.1, 0.01)
    assert other_contrasts(heavy) == ()
    assert other_contrasts(heavy.log(), numbers=True) == ()
    assert other_contrasts(heavy.clamp(max=5), numbers=True) == ()


@pytest.mark.parametrize(("spread", "numbers"), [(150.0, False), (1500.0, True)])
def test_numbers_in_large_units_are_no_decisions(spread, numbers):
    class Depth(Mixed):
        """In millimetres around a mean, so of both signs."""

        def forward(self, x):
            return spread * super().forward(x)

    torch.manual_seed(0)
    images = [torch.randn(5, 1, 16, 16)]
    (record,) = measure_response(structure_of(Depth(0.5, gain=-1.5)), [images], "images").cuts
    assert math.isnan(record.flips) == numbers
    assert (record.value == record.change) == numbers


def test_few_decisions_that_change_are_not_rounded_to_none():
    cut = CutResponse(1, 0.2, 0.1, 0.3, 0.0004, 0.5)
    response = Response("images", (cut,), 20)
    assert "less than 0.1% of the decisions change" in score_response(response, 1).why


def test_nothing_that_changes_is_said_so():
    assert "response 0: no decision changes on synthetic images" in spoken(Rescaled(1.0, 0.0)).why
    structure = structure_of(Mixed(0.0, gain=2.0))
    image = dead_leaves(1, 1, (32, 32), seed=0)
    why = score_response(respond_to_images(structure, [image]), 1).why
    assert "response 0: no number changes on 1 image without levels 1 and deeper" in why


def test_how_far_numbers_change_is_said_in_their_own_unit():
    model = Mixed(0.3, gain=10.0)
    images = dead_leaves(3, 1, (32, 32), seed=0) + 2.0
    found = respond_to_images(structure_of(model), [images])
    whole = 10 * (0.7 * images + 0.3 * F.interpolate(F.avg_pool2d(images, 2), scale_factor=2.0))
    moved = (whole - 10 * (0.7 * images + 0.3 * images.mean())).square().mean().sqrt()
    (record,) = found.cuts
    assert record.moved == pytest.approx(float(moved), rel=1e-4)
    assert record.spread == pytest.approx(float(whole.std(correction=0)), rel=1e-4)
    why = score_response(found, 1).why
    assert f"the numbers change by {moved:.2g} (rms; their spread is {record.spread:.2g}) on" in why


def found_without(whole, cut):
    """The response of outputs (images, channels, height, width) to a cut."""
    change = compare(whole, cut, None)
    draws = np.random.default_rng(0).multinomial(len(whole), [1 / len(whole)] * len(whole), 200)
    return _joined(1, [change.figures(np.vstack([np.ones(len(whole)), draws]))])


@pytest.mark.parametrize("rare", [2, 0])
def test_a_rare_decision_responds_by_itself(rare):
    decisions = torch.randint(2, (12, 30, 30), generator=torch.Generator().manual_seed(0))
    decisions[decisions == rare] = 2 if rare == 0 else rare
    decisions[:, :2, :1] = rare  # 0.2 % of the positions
    whole = 9.0 * F.one_hot(decisions, 3).movedim(-1, 1).float() - 4.0
    gone = decisions.clone()
    gone[:, :2, :1] = 1
    cut = 9.0 * F.one_hot(gone, 3).movedim(-1, 1).float() - 4.0
    found = found_without(whole, cut)
    assert found.value == pytest.approx(0.0044**0.5, abs=0.01)
    assert (found.worst_part, found.worst) == (rare, pytest.approx(1.0))
    score = score_response(Response("images", (found,), 12), 1)
    assert score.verdict == "undecided"
    assert f"decision {rare} of the output responds with 1" in score.why
    assert score.low < 0.3 < 0.9 < score.high
    same = found_without(whole, whole)
    assert (same.value, same.worst) == (0.0, 0.0)
    score = score_response(Response("images", (same,), 12), 1)
    assert score.verdict == "unused"
    assert "few of one class, cannot be seen" in score.why
    numbers = replace(
        same, flips=math.nan, by_number=math.nan
    )  # of a restored image there are no classes
    score = score_response(Response("images", (numbers,), 12), 1)
    assert "few pixels alone cannot be seen" in score.why


def test_a_decision_that_is_hardly_ever_taken_tells_nothing_by_itself():
    whole = torch.randn(12, 3, 30, 30, generator=torch.Generator().manual_seed(0))
    whole[:, 2] -= 9.0
    whole[0, 2, 0, 0] = 9.0  # one position in ten thousand
    cut = whole.clone()
    cut[0, 2, 0, 0] = -9.0
    found = found_without(whole, cut)
    assert found.flips == pytest.approx(1 / 10800)
    assert found.worst < 0.2


def test_another_mean_of_the_numbers_is_a_change_by_which_less_would_be_left_by_chance():
    whole = torch.randn(12, 1, 30, 30, generator=torch.Generator().manual_seed(0))
    moved = found_without(whole, whole + 2.0)
    expected = 2.0 / (2 * float(whole.var(correction=0)) + 4.0) ** 0.5
    assert moved.change == pytest.approx(expected, rel=1e-4)


def test_rounding_is_no_change():
    draw = torch.Generator().manual_seed(0)
    whole = torch.randn(12, 1, 30, 30, generator=draw)
    cut = whole * (1 + 3e-7 * torch.randn(whole.shape, generator=draw))
    assert found_without(whole, cut).change == 0.0
    assert found_without(whole.double(), cut.double()).change > 0.0  # what rounds finer has moved


@pytest.mark.sample(1)
@pytest.mark.parametrize("far", [1e5, -1e7, 1e9])
def test_numbers_far_from_zero_respond_as_those_near_it(far):
    torch.manual_seed(0)
    images = torch.randn(12, 1, 16, 16, dtype=torch.float64)
    structure = structure_of(Far(0.2, gain=-3.0).double())
    near = respond_to_images(structure, [images[:5], images[5:]]).cuts[0]
    structure.model.far = far
    structure = structure_of(structure.model)
    (record,) = respond_to_images(structure, [images[:5], images[5:]]).cuts
    assert record.change == pytest.approx(near.change, rel=1e-3)
    assert (record.moved, record.spread) == pytest.approx((near.moved, near.spread), rel=1e-3)
    assert record.value == record.change > 0.35
    assert score_response(respond_to_images(structure, [images]), 1).verdict == "used"


def test_a_constant_channel_far_from_zero_does_not_hide_what_the_others_do():
    whole = 400 * torch.randn(12, 2, 30, 30, generator=torch.Generator().manual_seed(0))
    cut = whole.clone()
    cut[:, 1] *= 0.5
    expected = found_without(whole[:, 1:], cut[:, 1:]).change
    whole[:, 0] = cut[:, 0] = 3e9
    found = found_without(whole, cut)
    assert found.value == found.change == pytest.approx(expected, rel=1e-6)
    assert found.value > 0.25


def test_numbers_that_vary_less_than_their_format_resolves_tell_nothing():
    torch.manual_seed(0)
    images = torch.randn(12, 1, 16, 16)
    model = Far(0.2)
    model.far = 3e7
    found = respond_to_images(structure_of(model), [images])
    assert not found.cuts
    assert "less than their number format resolves" in found.failure
    found = respond_to_images(structure_of(model.double()), [images.double()])
    assert found.cuts[0].value > 0.35


@pytest.mark.parametrize(
    ("least", "verdict"), [(0.3, "undecided"), (0.4, "used"), (math.nan, "used")]
)
def test_what_responds_must_do_so_at_every_contrast_that_was_tried(least, verdict):
    cut = CutResponse(1, 0.9, 0.8, 1.0, 0.5, 0.9, elsewhere=0.9, elsewhere_low=least)
    score = score_response(Response("response", (cut,), 9), 1)
    assert score.verdict == verdict
    assert ("down to 0.3 at another contrast" in score.why) == (verdict == "undecided")


class Formula(Mixed):
    """Returns its image by a formula of what the levels answer."""

    def __init__(self, formula, share=1.0, gain=1.0):
        super().__init__(share, gain=gain)
        self.formula = formula

    def forward(self, x):
        return self.formula(super().forward(x), x)


def curve(answer, x):
    """Brightness, for images between 0 and 1; of others the powers are all that is left."""
    for _ in range(4):
        x = x + torch.tanh(answer) * x * (1 - x)
    return x


def test_a_formula_is_asked_with_images_of_its_range_too():
    dark = structure_of(Formula(curve, gain=0.1))  # what comes back brightens a little
    found = respond_to_synthetic(dark).cuts[0]
    images = between_zero_and_one(12, 1, (32, 32), seed=5)
    own = respond_to_images(dark, [images]).cuts[0]
    assert min(found.exposed, own.value) > RESPONDS


class Clearing(Mixed):
    """Takes away a veil; how thick it is, the darkest point around shows."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        darkest = self.below(-F.max_pool2d(-x, 16))
        veil = F.interpolate(F.relu(darkest), scale_factor=16.0)
        return self.last(torch.sin(3.0 * x) - self.share * veil)


def test_what_hangs_on_the_brightness_of_an_image_is_not_called_unused():
    found = respond_to_synthetic(structure_of(Clearing(1.0, gain=1.0)))
    score = score_response(found, 1)
    assert score.verdict == "undecided"
    assert "on images that differ in brightness and contrast" in score.why
    assert score.guarded
    found = respond_to_synthetic(structure_of(Clearing(0.0, gain=1.0)))
    assert found.cuts[0].exposed < SILENT
    assert score_response(found, 1).verdict == "unused"


def test_a_contrast_at_which_the_outputs_overflow_tells_nothing():
    structure = structure_of(Mixed(0.5, gain=-3e38))
    assert response._cuts_at(structure, torch.randn(3, 1, 16, 16)) == ()
    assert response._cuts_at(structure, 1e-38 * torch.randn(3, 1, 16, 16))


def test_images_without_a_decision_tell_nothing_of_it():
    draw = torch.Generator().manual_seed(0)
    whole = -4.0 + 0.01 * torch.randn(12, 1, 30, 30, generator=draw)
    whole[0] = 4.0 * torch.randn(1, 30, 30, generator=draw).sign()
    cut = whole.clone()
    cut[0] = -4.0
    found = found_without(whole, cut)  # a third of the draws is without the first image
    assert found.low > 0.5


def test_of_two_decisions_both_respond_as_the_whole_does():
    whole = torch.randn(12, 1, 30, 30, generator=torch.Generator().manual_seed(0)) * 5
    found = found_without(whole, whole + torch.randn(whole.shape))
    assert found.worst == pytest.approx(found.value)


def test_a_small_channel_of_numbers_responds_by_itself():
    whole = torch.rand(12, 2, 30, 30, generator=torch.Generator().manual_seed(0))
    whole[:, 1] *= 0.01
    cut = whole.clone()
    cut[:, 1] = cut[:, 1].mean()
    found = found_without(whole, cut)
    assert found.value < 0.05 < 0.9 < found.worst
    assert found.worst_part == 1
    assert "channel 1" in score_response(Response("images", (found,), 12), 1).why


def test_images_for_which_the_outputs_are_no_numbers_are_refused_by_name():
    structure = read_structure(Mixed(0.5).eval(), torch.zeros(1, 1, 16, 16))
    broken = torch.zeros(12, 1, 16, 16)
    broken[3, 0, 2, 2] = math.nan
    with pytest.raises(ws.InputError, match=r"batch 1 of images= holds nan or inf.*leave"):
        respond_to_images(structure, [torch.zeros(12, 1, 16, 16), broken])


class Filling(nn.Module):
    """Puts numbers where its input has none, by what lies around them."""

    def __init__(self):
        super().__init__()
        self.net = Mixed(0.5)

    def forward(self, x):
        missing = torch.isnan(x)
        known = torch.where(missing, torch.zeros_like(x), x)
        return known + missing * self.net(known)


class Told(nn.Module):
    """The same, told where."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        known, missing = x[:, :1], x[:, 1:]
        return known + missing * self.net(known)


def test_missing_pixels_are_what_the_network_fills():
    torch.manual_seed(0)
    filling = Filling().eval()
    images = torch.randn(12, 1, 16, 16)
    missing = torch.rand(images.shape) < 0.3
    own = respond_to_images(
        read_structure(filling, images[:2]), [torch.where(missing, torch.nan, images)]
    )
    both = torch.cat([torch.where(missing, 0.0, images), missing.to(images)], 1)
    told = respond_to_images(read_structure(Told(filling.net).eval(), both[:2]), [both])
    assert own.cuts[0].moved == pytest.approx(told.cuts[0].moved, rel=1e-4)
    assert own.cuts[0].value > 0.1
    # without a missing pixel it hands its input on
    silent = respond_to_images(read_structure(filling, images[:2]), [images])
    assert (silent.failure, silent.cuts) == (HANDED_ON, ())
    analysis = ws.analyze(filling, example_inputs=images[:2], images=[images], trained=True)
    assert "unused" not in set(analysis.stages.verdict)
    assert "on these images the output is the input itself" in analysis.conclusion


@pytest.mark.parametrize(
    ("low", "high", "resolved"),
    [
        (0.1, 0.7, 0.375),  # 0.3^2 / (0.4 * 0.6)
        (0.01, 0.5, 0.316),  # 0.245^2 / (0.255 * 0.745)
        (0.02, 0.021, 0.0),
        (0.45, 0.5, math.nan),  # numbers: neither is a decision
    ],
)
def test_how_far_decisions_vary(low, high, resolved):
    shares = torch.tensor([low, high]).repeat(4, 1, 8, 4)
    found = found_without(shares.logit(), shares.logit() + 0.1)
    assert found.resolved == pytest.approx(resolved, abs=1e-3, nan_ok=True)
    assert (found.resolved == 0.0) is (resolved == 0.0)
    two = torch.cat([torch.zeros_like(shares), shares.logit()], 1)
    assert found_without(two, two + 0.1).resolved == pytest.approx(found.resolved, nan_ok=True)


def test_two_classes_that_are_not_told_apart_are_not_hidden_by_a_third():
    background = torch.zeros(4, 1, 16, 16)
    background[..., :8] = 16.0
    sure = torch.zeros_like(background)
    sure[:, :, :8] = 6.0
    both = torch.cat([background, torch.full_like(sure, 4.0), torch.full_like(sure, 4.0)], 1) - 5.0
    told = torch.cat([background, 1.0 + sure, 7.0 - sure], 1) - 4.0
    assert found_without(both, both + 0.1).resolved == pytest.approx(0.0, abs=1e-6)
    assert found_without(told, told + 0.1).resolved > 0.9
    # a class that the images hardly contain is not asked
    absent = torch.cat([told, torch.full_like(sure, -8.0)], 1)
    assert found_without(absent, absent + 0.1).resolved > 0.9


def test_labels_are_told_apart_from_what_they_are_not():
    labels = torch.full((4, 2, 16, 16), -6.0)
    labels[:, 0, 10:] = 6.0
    labels[:, 1, :, 10:] = 6.0  # both at once: classes would exclude each other
    assert found_without(labels, labels + 0.1).resolved > 0.9
    labels[:, 1] = -1.0 + 0.1 * torch.randn(labels[:, 1].shape)
    assert found_without(labels, labels + 0.1).resolved < 0.1


def test_of_many_classes_some_positions_are_enough():
    torch.manual_seed(0)
    numbers = 4.0 * torch.randn(2, 60, 4096)
    every = resolution(pair_sums(numbers[:, :, :280], Reading.of([numbers])).sum(0).numpy())
    some = resolution(pair_sums(numbers, Reading.of([numbers])).sum(0).numpy())
    assert some == pytest.approx(every, abs=0.1)


@pytest.mark.parametrize(("spread", "constant"), [(0.9, True), (1.1, False)])
def test_numbers_that_hardly_vary(spread, constant):
    numbers = 100.0 - 0.5 * torch.tensor([spread, -spread]).repeat(4, 1, 8, 4) * 2
    assert (found_without(-numbers * 3, numbers).resolved == 0.0) is constant
    assert math.isnan(found_without(-numbers * 3, numbers).resolved) is not constant


def test_labels_of_their_own_and_classes_that_exclude_each_other_must_agree():
    torch.manual_seed(0)
    whole = torch.empty(12, 2, 16, 16)
    whole[:, 1] = torch.where(torch.rand(12, 16, 16) < 0.05, 4.0, -14.0)
    whole[:, 0] = torch.where(torch.rand(12, 16, 16) < 0.2, 3.0, -8.0)
    cut = whole.clone()
    cut[:, 0] = -8.0  # the first label is gone; it still is the larger of two
    change = compare(whole, cut, None)
    assert float(change.bare.mean()) > 0.25
    rows = np.vstack([np.ones(12), np.random.default_rng(0).multinomial(12, [1 / 12] * 12, 50)])
    found = _joined(1, [change.figures(rows)])
    assert found.value < 0.1
    assert found.high > 0.25
    assert found.worst_part == 0
    other = whole.clone()
    other[:, 1] = torch.where((whole < 0).all(1), -7.0, whole[:, 1])  # no label changes
    found = _joined(1, [compare(whole, other, None).figures(rows)])
    assert found.low <= found.value < 0.01 < 0.35 < found.high
    assert score_response(Response("images", (found,), 12), 1).verdict == "undecided"
    one_of_two = torch.stack([whole[:, 0], -whole[:, 0]], 1)
    assert float(compare(one_of_two, one_of_two, None).bare.mean()) == 0.0


def test_a_network_that_answers_all_images_alike_is_not_measured():
    model = Mixed(0.5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    structure = structure_of(model)
    assert "same for every image" in respond_to_synthetic(structure).failure
    found = respond_to_images(structure, [torch.rand(12, 1, 16, 16)])
    assert "same for every image" in found.failure
    copies = respond_to_images(structure_of(Mixed(0.5)), [torch.rand(1, 1, 16, 16)] * 12)
    assert not copies.failure  # one image alone cannot show that


def test_copies_of_an_image_count_once():
    image = torch.rand(1, 1, 16, 16)
    structure = structure_of(Mixed(0.5))
    assert respond_to_images(structure, [image] * 12).images == 1
    assert respond_to_images(structure, [torch.cat([image, image + 1])] * 6).images == 2


class TwoHeads(Mixed):
    """Two outputs: of the first one half resolution is no part, the second is nothing else."""

    def forward(self, x):
        x = self.first(x)
        back = F.interpolate(self.below(F.avg_pool2d(x, 2)), scale_factor=2.0)
        return {"fine": self.last(x), "coarse": self.last(back), "small": back.mean((1, 2, 3))}


def test_no_level_is_called_unused_that_another_output_hangs_on():
    structure = structure_of(TwoHeads(0.0))
    for found in (
        respond_to_synthetic(structure),
        respond_to_images(structure, [dead_leaves(12, 1, (32, 32), seed=9)]),
    ):
        (cut,) = found.cuts
        place, most = cut.other
        assert (cut.value, most > 0.9) == (0.0, True)
        score = score_response(found, 1)
        assert score.verdict == "undecided"
        assert score.why.count(f"outputs{place} of the network responds with up to") == 1
        assert score.why.startswith("response 0 of outputs['fine']: ")
        assert score.high > 0.9
        assert score.caveat == (
            f"that is of outputs['fine']; outputs{place} of the network responds with up to "
            f"{most:.2g}"
        )


def test_an_output_that_tells_nothing_apart_yet_is_not_hidden_by_one_that_does():
    class Sure(Mixed):
        def forward(self, x):
            logits = super().forward(x)
            left = torch.linspace(-0.3, 1, x.shape[-1]).expand_as(x)
            open_ = torch.cat([9.0 * left, -9.0 * left, -9.0 * left], 1) + 0.01 * logits
            return (10.0 * logits, open_) if self.both else 10.0 * logits

    torch.manual_seed(0)
    images = 2.0 * torch.randn(12, 1, 16, 16).sign()
    for both, least, most in ((False, 0.5, 1.0), (True, 0.0, 0.01)):
        model = Sure(0.1).eval()
        model.both = both
        (cut,) = respond_to_images(read_structure(model, images[:2]), [images]).cuts
        assert least <= cut.resolved <= most


def test_a_number_for_each_image_is_an_output():
    images = torch.zeros(4, 1, 8, 8)
    returned = [images, images[:, :, ::2, ::2], torch.zeros(4), torch.zeros(()), torch.ones(4, 3)]
    assert {k: v.shape for k, v in predictions(returned).items()} == {
        "[0]": (4, 1, 8, 8),
        "[1]": (4, 1, 4, 4),
        "[2]": (4, 1, 1),
        "[4]": (4, 3, 1),
    }
    assert list(predictions({"aux": images, "out": images + 1})) == ["['out']", "['aux']"]


class Timed(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, picture, timesteps):
        return self.inner(picture + timesteps[:, None, None, None])


class Named(Timed):
    def forward(self, picture, *, timesteps):
        return super().forward(picture, timesteps)


class Optional(Timed):
    def forward(self, picture, mask=None, *, timesteps):
        return super().forward(picture, timesteps)


@pytest.mark.sample(2)
@pytest.mark.parametrize("wrapper", [Timed, Named, Optional])
def test_a_guessed_second_argument_does_not_hinder_the_response(wrapper):
    torch.manual_seed(0)
    structure = read_structure(wrapper(Mixed(0.3)))
    assert structure.inputs.guessed
    response = respond_to_synthetic(structure)
    assert not response.failure
    assert [cut.keep_levels for cut in response.cuts] == [c.keep_levels for c in structure.cuts]


def test_copies_of_the_images_make_nothing_surer():
    structure = structure_of(Mixed(0.3), size=16)
    own = torch.randn(12, 1, 16, 16, generator=torch.Generator().manual_seed(5))
    once, often = (respond_to_images(structure, [own] * copies) for copies in (1, 6))
    assert (once.images, often.images) == (12, 12)
    for a, b in zip(once.cuts, often.cuts, strict=True):
        assert (b.value, b.low, b.high) == pytest.approx((a.value, a.low, a.high), abs=1e-6)
    assert once.cuts[0].low < once.cuts[0].value < once.cuts[0].high


class OfClasses(nn.Module):
    """A U-net whose deep level is driven by a number for each image alone."""

    def __init__(self):
        super().__init__()
        self.top, self.below = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.classes = nn.Embedding(3, 4)
        self.last = nn.Conv2d(8, 1, 1)
        self.seen = []

    def forward(self, x, number):
        x = self.top(x)
        below = self.below(F.avg_pool2d(x, 2)) * 0.0 + self.classes(number)[:, :, None, None]
        return self.last(torch.cat([x, F.interpolate(below, scale_factor=2.0)], 1))


def test_other_inputs_are_the_rows_of_the_example_in_turn():
    torch.manual_seed(0)
    model, images = OfClasses().eval(), torch.randn(3, 1, 16, 16)
    with torch.no_grad():
        model.last.weight[:, 4:] = 5.0
    found = []
    for numbers in ([1, 1, 1], [0, 1, 2]):
        structure = read_structure(model, (images, torch.tensor(numbers)))
        found.append(respond_to_synthetic(structure).cuts[0].change)
    assert found[0] < 0.01
    assert found[1] > 0.5


def test_a_network_of_one_size_that_its_graph_does_not_show_is_asked_at_that():
    class Filters(Mixed):
        def forward(self, x):
            spectrum = torch.fft.rfft2(x) * self.window
            return super().forward(torch.fft.irfft2(spectrum, s=x.shape[2:]))

    model = Filters(0.5).eval()
    model.register_buffer("window", torch.rand(24, 13))
    found = respond_to_synthetic(read_structure(model, torch.zeros(2, 1, 24, 24)))
    assert not found.failure
    assert found.cuts[0].value > 0.0


@pytest.mark.parametrize(
    ("side", "deepest", "dimensions", "scale", "pixels"),
    [
        (256, 16, 2, 1.0, 128),
        (256, 16, 2, 0.5, 64),
        (64, 16, 2, 0.5, 64),  # half of it would leave two positions a side
        (128, 32, 2, 0.5, 128),
        (64, 32, 2, 0.5, 64),  # no larger than the example
        (48, 8, 2, 0.5, 32),
        (64, 16, 3, 0.5, 32),  # for the time
    ],
)
def test_smaller_images_keep_four_positions_a_side_at_the_deepest_level(
    side, deepest, dimensions, scale, pixels
):
    structure = SimpleNamespace(
        reductions=((1.0,) * dimensions, (float(deepest),) * dimensions),
        inputs=SimpleNamespace(dimensions=dimensions),
        whole=(side,) * dimensions,
    )
    assert side * scaling(structure, [side] * dimensions, scale) == pixels


def test_the_model_is_kept_once_for_all_synthetic_images():
    structure = structure_of(Mixed(0.5))
    with mock.patch.object(response, "undisturbed", wraps=response.undisturbed) as kept:
        assert not respond_to_synthetic(structure).failure
    assert kept.call_count == 1
