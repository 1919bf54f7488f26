"""Importance and activations on a network small enough to work out by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from torch import nn

from weightscope import analyze
from weightscope.errors import ForwardError, InputError
from weightscope.graph import read_structure
from weightscope.probing import CutResponse, Response
from weightscope.probing.stimuli import dead_leaves
from weightscope.utilization import (
    AblationResult,
    DataEvidence,
    LevelAblation,
    ablate,
    gather_data,
)
from weightscope.utilization.data import (
    Importance,
    _loss_of,
    measure_importance,
    refuse_no_loss,
)
from weightscope.utilization.ranking import join_grades
from weightscope.utilization.records import Score
from weightscope.utilization.segmentation import ClassesApart
from weightscope.utilization.targets import numbers_for


class Small(nn.Module):
    """Encoder, bottleneck and head of one 1x1 convolution each; the head ignores the deep half."""

    def __init__(self):
        super().__init__()
        self.top = nn.Conv2d(1, 2, 1)
        self.deep = nn.Conv2d(2, 2, 1)
        self.head = nn.Conv2d(4, 1, 1)
        with torch.no_grad():
            self.head.weight[:, 2:] = 0.0

    def forward(self, x):
        top = self.top(x)
        deep = F.interpolate(self.deep(F.max_pool2d(top, 2)), scale_factor=2.0)
        return self.head(torch.cat([top, deep], 1))


def pairs(count=5):
    torch.manual_seed(0)
    images = [torch.randn(2, 1, 4, 4) for _ in range(count)]
    return [(x, (x > 0).float()) for x in images]


def loss(outputs, targets):
    return F.binary_cross_entropy_with_logits(outputs, targets)


@pytest.fixture(scope="module")
def structure():
    torch.manual_seed(0)
    return read_structure(Small().eval(), pairs(1)[0][0])


def stage_of(structure, layer):
    return structure.stage_of[layer].name


def test_importance_equals_the_sum_by_hand(structure):
    batches = pairs(3)
    importances = measure_importance(structure, batches, loss)
    model = structure.model
    for layer in ("top", "deep", "head"):
        expected = []
        for x, y in batches:
            model.zero_grad()
            loss(model(x), y).backward()
            module = model.get_submodule(layer)
            expected.append(
                sum(
                    float((p.detach() * p.grad).abs().sum())
                    for p in module.parameters()
                    if p.grad is not None
                )
            )
        model.zero_grad()
        found = importances[stage_of(structure, layer)].value
        assert found == pytest.approx(sum(expected) / 3, rel=1e-5)


def test_what_the_head_ignores_has_no_importance(structure):
    evidence = gather_data(structure, pairs(), loss=loss)
    assert evidence.importances[stage_of(structure, "deep")].value == 0.0
    assert evidence.score(stage_of(structure, "head")).verdict == "used"


def test_gradients_and_frozen_flags_are_left_alone(structure):
    model = structure.model
    model.zero_grad()
    model.top.weight.requires_grad_(False)
    model.head.bias.grad = torch.ones(1)
    try:
        importances = measure_importance(structure, pairs(2), loss)
        assert importances[stage_of(structure, "top")].value > 0.0
        assert not model.top.weight.requires_grad
        assert model.top.weight.grad is None
        assert torch.equal(model.head.bias.grad, torch.ones(1))
    finally:
        model.top.weight.requires_grad_(True)
        model.head.bias.grad = None


def test_skill_by_loss_needs_the_right_targets(structure):
    model = structure.model
    state = {k: v.clone() for k, v in model.state_dict().items()}
    with torch.no_grad():
        model.top.weight[:] = 1.0
        model.head.weight[:, :2] = 3.0
        model.top.bias[:], model.head.bias[:] = 0.0, 0.0
    try:
        skilled = gather_data(structure, pairs(8), loss=loss).skilled
        noise = [(x, torch.rand_like(y)) for x, y in pairs(8)]
        unskilled = gather_data(structure, noise, loss=loss).skilled
    finally:
        model.load_state_dict(state)
    assert (skilled, unskilled) == (True, False)


def test_a_loss_alone_is_ablated_and_a_metric_comes_first(structure):
    by_loss = gather_data(structure, pairs(), loss=loss).ablation
    by_metric = gather_data(structure, pairs(), loss=loss, metric="f1").ablation
    assert (by_loss.metric, by_metric.metric) == ("loss, recalibrated", "f1")
    regression = [(x, 3 * x) for x, _ in pairs()]
    by_loss = gather_data(structure, regression, loss=F.mse_loss).ablation
    expected = np.mean([F.mse_loss(structure.model(x), y).item() for x, y in regression])
    assert by_loss.metric == "mse_loss"
    assert by_loss.quality == pytest.approx(expected, rel=1e-5)


def writing(outputs, targets):
    """A loss of probabilities that makes them, and clears what it is given, in place."""
    targets[targets == 255] = 0
    cost = F.binary_cross_entropy(outputs.sigmoid_(), targets.clone())
    targets.zero_()
    return cost


@pytest.mark.parametrize("metric", [None, writing])
def test_a_loss_may_write_into_what_it_is_given(structure, metric):
    given = [(x, torch.where(x > 1.5, 255.0, y)) for x, y in pairs()]
    before = [y.clone() for _, y in given]

    def careful(outputs, targets):
        return writing(outputs.clone(), targets.clone())

    def gathered(function):
        quality = {} if metric is None else {"metric": function}
        return gather_data(structure, given, loss=function, **quality)

    found, wanted = gathered(writing), gathered(careful)
    assert found.importances == wanted.importances
    assert found.ablation.quality == wanted.ablation.quality
    assert found.ablation.chance == wanted.ablation.chance
    assert found.ablation.levels == wanted.ablation.levels
    assert all(torch.equal(y, was) for (_, y), was in zip(given, before, strict=True))


def test_ablation_decides_where_there_is_a_cut(structure):
    model = structure.model
    state = {k: v.clone() for k, v in model.state_dict().items()}
    with torch.no_grad():
        model.top.weight[:] = 1.0
        model.head.weight[:, :2] = 3.0
    try:
        evidence = gather_data(structure, pairs(), loss=loss, metric="f1")
    finally:
        model.load_state_dict(state)
    deep = evidence.score(stage_of(structure, "deep"))
    assert deep.why.startswith("without levels 1 and deeper 0.0% of the skill is lost (f1 1 to 1)")
    assert deep.verdict == "unused"
    assert "Taylor" in evidence.score(stage_of(structure, "top")).why
    assert evidence.skilled


def test_without_a_loss_a_stage_that_no_cut_removes_has_no_score(structure):
    evidence = gather_data(structure, pairs(), metric="f1")
    assert evidence.score(stage_of(structure, "top")).why == "no cut removes it"


def made(drops, images=50, skill=1.0):
    """Evidence of a network with an encoder of four levels that loses some shares of its skill."""
    levels = tuple(
        LevelAblation(keep, 1.0, 1.0 - drop, drop, drop - 0.01, drop + 0.01)
        for keep, drop in drops.items()
    )
    result = AblationResult(levels, 1.0, 1.0 - skill, skill / 2, images, "f1")
    return DataEvidence({}, result, result.skilled, {str(i): i for i in range(4)})


def test_a_stage_is_scored_by_the_cut_that_removes_least_else():
    evidence = made({1: 0.5, 2: 0.3, 3: 0.0})
    assert [evidence.score(str(i)).verdict for i in range(4)] == [
        "undecided", "used", "used", "unused",
    ]  # fmt: skip
    without = made({1: 0.5, 3: 0.0})
    assert without.score("2").why.startswith("without levels 1 and deeper")
    assert without.score("2").why.endswith("the cut also removes shallower levels")
    assert without.score("2").verdict == "undecided"


def test_few_images_decide_nothing():
    evidence = made({1: 0.5, 2: 0.0}, images=9)
    for name in ("1", "2"):
        score = evidence.score(name)
        assert (score.verdict, score.low, score.high) == ("undecided", 0.0, 1.0)
        assert score.why == "9 images decide nothing, 10 or more are needed"
    assert made({1: 0.5, 2: 0.0}, images=10).score("2").verdict == "unused"


def test_a_skill_that_is_not_sure_decides_nothing_and_denies_nothing():
    evidence = made({1: 0.5, 2: 0.0})
    unsure = replace(evidence.ablation, skill_low=-0.01)
    assert (unsure.undecided, unsure.skilled) == (True, False)
    importances = {str(i): Importance(1.0, 0.0) for i in range(4)}
    evidence = replace(evidence, ablation=unsure, skilled=None, importances=importances)
    for name in "012":
        score = evidence.score(name)
        assert score.verdict == "undecided"
        assert score.why == (
            "the network is better than the best trivial answer (f1 1 against 0), but 50 images "
            "are too few to be sure of it"
        )


@pytest.mark.parametrize(("skill", "how"), [(0.03, "hardly better"), (-0.1, "no better")])
def test_a_skill_that_is_not_there_is_compared_with_the_best_trivial_answer(skill, how):
    ablation = made({1: 0.0}, skill=skill).ablation
    assert (ablation.undecided, ablation.skilled, ablation.doubt) == (False, False, "")
    assert ablation.comparison == (
        f"{how} than the best trivial answer (f1 1 against {1 - skill:.3g})"
    )


def test_a_recalibrated_loss_calls_used_what_a_metric_would_not_forgive():
    def verdict(drop, recalibrated):
        evidence = made({1: 0.5, 2: drop})
        ablation = replace(evidence.ablation, recalibrated=recalibrated)
        return replace(evidence, ablation=ablation).score("2").verdict

    assert [verdict(0.08, r) for r in (False, True)] == ["used", "undecided"]
    assert [verdict(0.12, r) for r in (False, True)] == ["used", "used"]
    assert [verdict(0.01, r) for r in (False, True)] == ["unused", "unused"]


def test_one_batch_leaves_importance_undecided(structure):
    found = measure_importance(structure, pairs(1), loss)
    assert all(i.margin == float("inf") for i in found.values())
    evidence = DataEvidence(found, None, None, {s.name: s.level for s in structure.stages})
    scores = [evidence.score(stage.name) for stage in structure.stages]
    assert {(s.verdict, s.low, s.high) for s in scores} == {("undecided", 0.0, 1.0)}


def test_importance_of_a_network_without_a_gradient_is_refused():
    class WritesOver(Small):
        def forward(self, x):
            top = self.top(x).sigmoid()
            deep = F.interpolate(self.deep(F.max_pool2d(top, 2)), scale_factor=2)
            return self.head(torch.cat([top.mul_(2), deep], 1))

    found = read_structure(WritesOver().eval(), pairs(1)[0][0])
    with pytest.raises(ForwardError, match=r"WritesOver runs, but no gradient .*leave loss= out"):
        measure_importance(found, pairs(1), loss)


def test_copies_of_a_batch_are_computed_once(structure):
    seen, batches = [], pairs(3)

    def counting(outputs, targets):
        seen.append(len(outputs))
        return loss(outputs, targets)

    once = measure_importance(structure, batches, loss)
    assert measure_importance(structure, [*batches, *batches[:2]], counting) == once
    assert len(seen) == len(batches)


def test_the_margin_of_importance_is_students(structure):
    values = [
        measure_importance(structure, [pair], loss)[stage_of(structure, "top")].value
        for pair in pairs(4)
    ]
    found = measure_importance(structure, pairs(4), loss)[stage_of(structure, "top")]
    expected = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    assert (found.value - found.margin, found.value + found.margin) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("bad", "text"),
    [
        (lambda o, t: (o - t).square(), r"expected a scalar tensor.* give its mean: .*\.mean\(\)"),
        (lambda o, t: 3.0, "returned a float"),
        (lambda o, t: o.detach().sum(), "expected a scalar tensor"),
        (
            lambda o, t: o.sum() * float("nan"),
            "loss of batch 0 is nan: outputs and targets are finite",
        ),
    ],
)
def test_a_bad_loss_is_named(structure, bad, text):
    with pytest.raises(InputError, match=text):
        gather_data(structure, pairs(1), loss=bad)


def test_a_threshold_that_is_chosen_anew_is_said_with_the_figure_at_the_old_one():
    evidence = made({1: 0.02, 2: 0.0})
    first, *others = evidence.ablation.levels
    levels = (replace(first, unadjusted=0.38), *others)
    evidence = replace(evidence, ablation=replace(evidence.ablation, levels=levels))
    score = evidence.score("1")
    assert score.caveat == "each at its best threshold; at that of the whole network f1 is 0.38"
    assert score.why.endswith(f"(f1 1 to 0.98, {score.caveat})")
    assert evidence.score("2").caveat == ""
    for value in (0.98, 0.99):  # the old threshold need not be among those that are tried
        same = replace(evidence.ablation, levels=(replace(first, unadjusted=value), *others))
        assert replace(evidence, ablation=same).score("1").caveat == ""


@pytest.mark.parametrize(("as_it_is", "said"), [(1.5, True), (0.9, False), (0.98, False)])
def test_a_loss_after_a_new_scale_is_said_with_that_of_the_outputs_as_they_are(as_it_is, said):
    evidence = made({1: 0.02, 2: 0.0})
    first, *others = evidence.ablation.levels
    levels = (replace(first, unadjusted=as_it_is), *others)
    ablation = replace(evidence.ablation, levels=levels, recalibrated=True)
    score = replace(evidence, ablation=ablation).score("1")
    assert score.caveat == ("without a new scale and offset it is 1.5" if said else "")


def test_no_more_than_all_of_the_skill_is_lost():
    score = made({1: 2.4, 2: 0.4}, skill=0.5).score("1")
    assert "without levels 1 and deeper all of the skill is lost (f1 1 to -1.4, " in score.why
    assert score.why.endswith("worse than the trivial 0.5)")
    as_good = made({1: 0.5 + 1e-5, 2: 0.4}, skill=0.5).score("1")
    assert "all of the skill is lost" in as_good.why
    assert "worse" not in as_good.why  # than the same figure
    assert score.loss == pytest.approx(4.8)  # what ranks is not cut off
    assert "80.0% of the skill is lost" in made({2: 0.4}, skill=0.5).score("2").why


@pytest.mark.parametrize(
    ("value", "worst", "verdict"),
    [(0.02, 0.9, "undecided"), (0.02, 0.02, "unused"), (0.9, 0.9, "unused")],
)
def test_a_mean_over_pixels_does_not_condemn_what_a_rare_class_hangs_on(value, worst, verdict):
    cut = LevelAblation(1, 0.01, 0.02, 0.01, 0.009, 0.011)
    result = AblationResult((cut,), 0.01, 0.8, 0.7, 24, "loss", larger_is_better=False)
    same = CutResponse(1, value, value, value, value, value, math.nan, worst, worst, 2)
    seen = Response("images", (same,), 24)
    score = DataEvidence({}, result, True, {"bottleneck": 1}, seen).score("bottleneck")
    assert score.verdict == verdict
    assert ("decision 2 of the output responds with 0.9" in score.why) is (verdict == "undecided")
    assert ("few pixels alone cannot" in score.why) is (verdict == "unused")
    classes = replace(result, recalibrated=True)
    score = DataEvidence({}, classes, True, {"bottleneck": 1}, seen).score("bottleneck")
    assert ("few pixels of one class cannot" in score.why) is (verdict == "unused")


@pytest.mark.parametrize(
    ("loss", "said"),
    [
        (nn.BCEWithLogitsLoss, r"give an object of it, BCEWithLogitsLoss\(\)"),
        ("f1", "names are for metric="),
        (3, "is a int; give a function"),
    ],
)
def test_what_is_no_loss_is_refused_with_a_remedy(loss, said):
    with pytest.raises(InputError, match=said):
        refuse_no_loss(loss)


def test_a_loss_that_cannot_take_the_outputs_is_told_how_to_pick():
    outputs = {"out": torch.zeros(1, 1, 4, 4, requires_grad=True)}
    with pytest.raises(InputError, match=r"loss\(outputs\['out'\], targets\)"):
        _loss_of(nn.BCEWithLogitsLoss(), outputs, torch.zeros(1, 1, 4, 4), 0)


class TwoHeads(Small):
    """Of the first output the deep half is no part, the second is nothing else."""

    def forward(self, x):
        top = self.top(x)
        deep = F.interpolate(self.deep(F.max_pool2d(top, 2)), scale_factor=2.0)
        answers = {"fine": top[:, :1] + 0.0 * self.head(torch.cat([top, deep], 1)), "deep": deep}
        return answers if self.by_name else tuple(answers.values())


@pytest.mark.parametrize("by_name", [True, False])
def test_a_metric_of_one_output_condemns_nothing_that_another_one_hangs_on(by_name):
    torch.manual_seed(0)
    model = TwoHeads().eval()
    model.by_name = by_name
    with torch.no_grad():
        model.top.weight.copy_(torch.tensor([4.0, -4.0]).view(2, 1, 1, 1))
        model.top.bias.zero_()
    given = pairs(8)
    if by_name:
        given = [(x, {"fine": y, "deep": y.repeat(1, 2, 1, 1)}) for x, y in given]
    found = gather_data(read_structure(model, given[0][0]), given, metric="f1")
    place = "['fine']" if by_name else "[0]"
    assert found.ablation.judged == (place,)
    assert found.ablation.metric == f"f1 of outputs{place}"
    assert found.ablation.levels[0].drop == 0.0
    score = found.score("bottleneck")
    assert score.verdict == "undecided"
    assert f"outputs{place.replace('fine', 'deep').replace('0', '1')} of the network" in score.why
    assert f"by outputs{place} alone" in score.caveat
    if by_name:
        swapped = [(x, {"deep": y["deep"], "fine": y["fine"]}) for x, y in given]
        with pytest.raises(InputError, match=r"would be judged by targets\['deep'\]"):
            gather_data(read_structure(model, given[0][0]), swapped, metric="f1")


def fine_alone(outputs, targets):
    return loss(outputs["fine"], targets)


def both_of_them(outputs, targets):
    return loss(outputs["fine"], targets) + loss(outputs["deep"].mean(1, keepdim=True), targets)


def a_number_of_each_image(outputs, targets):
    """The mean of the other output is the same in any order of its positions."""
    return loss(outputs["fine"], targets) + outputs["deep"].mean().square()


def in_the_first_decisions(outputs, targets):
    return ((outputs["fine"] > 0) == targets.bool()).float().mean()


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    ("given", "judged"),
    [
        ({"loss": fine_alone}, ("['fine']",)),
        ({"metric": in_the_first_decisions}, ("['fine']",)),
        ({"loss": both_of_them}, ()),
        ({"loss": a_number_of_each_image}, ()),
        ({"loss": both_of_them, "metric": in_the_first_decisions}, ("['fine']",)),
    ],
)
def test_a_callable_condemns_nothing_that_an_output_hangs_on_which_it_does_not_read(given, judged):
    torch.manual_seed(0)
    model = TwoHeads().eval()
    model.by_name = True
    with torch.no_grad():
        model.top.weight.copy_(torch.tensor([4.0, -4.0]).view(2, 1, 1, 1))
        model.top.bias.zero_()
    structure = read_structure(model, pairs(1)[0][0])
    found = gather_data(structure, pairs(8), **given)
    assert found.ablation.judged == judged
    assert found.ablation.unjudged == (("['deep']",) if judged else ())
    score = found.score("bottleneck")
    if judged:
        assert score.verdict == "undecided"
        assert "but outputs['deep'] of the network responds with up to" in score.why
        assert "by outputs['fine'] alone" in score.caveat


@pytest.mark.sample(1)
@pytest.mark.parametrize("by_name", [True, False])
def test_each_of_several_outputs_is_judged_by_a_metric_of_its_own(by_name):
    torch.manual_seed(0)
    model = TwoHeads().eval()
    model.by_name = by_name
    with torch.no_grad():
        model.top.weight.copy_(torch.tensor([4.0, -4.0]).view(2, 1, 1, 1))
        model.top.bias.zero_()
        deep = [model(x)["deep" if by_name else 1] for x, _ in pairs(8)]
    fine, other = ("fine", "deep") if by_name else (0, 1)
    together = dict if by_name else lambda named: (named[0], named[1])
    given = [(x, together({fine: y, other: d})) for (x, y), d in zip(pairs(8), deep, strict=True)]
    structure = read_structure(model, given[0][0])

    def found(**metrics):
        return gather_data(structure, given, metric={fine: metrics["fine"], other: metrics["deep"]})

    both = found(fine="f1", deep="mse").score("bottleneck")
    assert both.verdict == "used"
    assert f"mse of outputs[{other!r}]" in both.why
    assert found(fine="f1", deep=None).score("bottleneck").verdict == "unused"
    evidence = found(fine="f1", deep="mse")
    assert [one.ablation.levels[0].drop == 0.0 for one in (evidence, *evidence.beside)] == [
        True, False,
    ]  # fmt: skip
    table = ablate(model, given, {fine: "f1", other: "mse"}, progress=False)
    assert list(table.metric) == [f"f1 of outputs[{fine!r}]", f"mse of outputs[{other!r}]"]
    for metrics, said in (
        ({fine: "f1"}, r"holds none for outputs\[.*\], which the network returns"),
        ({fine: None, other: None}, "None for all outputs"),
        ({fine: "f1", other: "mse", "third": "f1"}, r"for outputs\['third'\], and there are out"),
    ):
        with pytest.raises(InputError, match=said):
            gather_data(structure, given, metric=metrics)
    with pytest.raises(InputError, match="and the targets are one tensor without a name"):
        gather_data(structure, pairs(8), metric={fine: "f1", other: "mse"})


@pytest.mark.parametrize(
    ("verdicts", "decided"),
    [("unused unused", "unused"), ("unused undecided", "undecided"), ("used unused", "used")],
)
def test_a_level_is_unused_only_if_no_output_uses_it(verdicts, decided):
    drops = {"unused": 0.001, "undecided": 0.05, "used": 0.3}
    first, second = (
        DataEvidence({}, result, True, {"bottleneck": 1})
        for result in (
            AblationResult(
                (LevelAblation(1, 1.0, 1 - drops[v], drops[v], 0.9 * drops[v], 1.1 * drops[v]),),
                1.0, 0.0, 0.9, 24, "f1",
            )
            for v in verdicts.split()
        )
    )  # fmt: skip
    assert replace(first, beside=(second,)).score("bottleneck").verdict == decided
    assert replace(second, beside=(first,)).score("bottleneck").verdict == decided
    without = replace(second, ablation=replace(second.ablation, quality=0.02, skill_low=-0.1))
    score = replace(first, beside=(without,)).score("bottleneck")
    assert score.verdict == verdicts.split()[0].replace("unused", "undecided")
    assert ("better than the best trivial" in score.why) == (verdicts.startswith("unused"))


@pytest.mark.parametrize(("recalibrated", "verdict"), [(True, "undecided"), (False, "unused")])
def test_labels_that_are_read_as_numbers_are_guarded_and_true_numbers_are_not(
    recalibrated, verdict
):
    cut = LevelAblation(1, 0.01, 0.02, 0.01, 0.009, 0.011)
    result = AblationResult(
        (cut,), 0.01, 0.8, 0.7, 24, "loss", larger_is_better=False, recalibrated=recalibrated
    )
    nan = math.nan
    same = CutResponse(1, 0.1, 0.1, 0.1, nan, 0.1, nan, 0.5, 0.5, 23)
    seen = Response("images", (same,), 24)
    score = DataEvidence({}, result, True, {"bottleneck": 1}, seen).score("bottleneck")
    assert score.verdict == verdict
    assert ("channel 23 of the output responds" in score.why) is recalibrated


def test_the_class_that_loses_most_of_its_own_skill_is_named():
    cut = LevelAblation(1, 0.97, 0.96, 0.01, 0.009, 0.011, worst=0.4, worst_class=23)
    result = AblationResult((cut,), 0.97, 0.1, 0.7, 24, "f1")
    score = DataEvidence({}, result, True, {"bottleneck": 1}).score("bottleneck")
    assert "class 23 alone loses 40.0% of its own skill" in score.why
    assert "class 23 alone loses 40.0% of its own skill" in score.caveat
    assert (score.verdict, "surely" in score.why) == ("unused", False)
    worse = replace(result, levels=(replace(cut, worst=1.12),))
    score = DataEvidence({}, worse, True, {"bottleneck": 1}).score("bottleneck")
    assert "class 23 alone loses all of its own skill" in score.why


@pytest.mark.parametrize(("low", "verdict"), [(0.2, "undecided"), (0.05, "unused")])
def test_a_mean_over_classes_does_not_condemn_what_one_of_them_hangs_on(low, verdict):
    cut = LevelAblation(1, 0.97, 0.96, 0.01, 0.009, 0.011, worst=0.4, worst_low=low, worst_class=2)
    result = AblationResult((cut,), 0.97, 0.1, 0.7, 24, "f1")
    score = DataEvidence({}, result, True, {"bottleneck": 1}).score("bottleneck")
    assert score.verdict == verdict
    assert ("class 2 alone loses 40.0% of its own skill, surely more" in score.why) == (low > 0.1)


@pytest.mark.parametrize(
    ("given", "guarded"),
    [
        ({}, False),
        ({"worst_low": 0.2, "worst_class": 2}, True),
        ({"lost": ("['deep']",)}, True),
        ({"silenced": 1}, True),
        ({"images": 3}, True),
        ({"worst": 0.5}, True),  # of the response: one class of it
    ],
)
def test_what_speaks_against_a_level_does_so_where_its_figure_decides_nothing(given, guarded):
    part = given.pop("worst", 0.01)
    cut = LevelAblation(1, 0.97, 0.96, 0.01, -0.2, 0.2, **given)
    result = AblationResult((cut,), 0.97, 0.1, 0.7, 24, "f1")
    same = CutResponse(1, 0.1, 0.1, 0.1, 0.1, 0.1, math.nan, part, part, 2)
    seen = Response("images", (same,), 24)
    evidence = DataEvidence({}, result, True, {"bottleneck": 1}, seen)
    score = evidence.score("bottleneck")
    assert (score.verdict, score.utilization < 0.25, score.guarded) == ("undecided", True, guarded)
    more = replace(result, levels=(LevelAblation(1, 0.97, 0.95, 0.02, -0.2, 0.2),))
    plain = DataEvidence({}, more, True, {"bottleneck": 1})
    assert replace(evidence, beside=(plain,)).score("bottleneck").guarded is guarded


@pytest.mark.parametrize(
    ("skill_low", "drop", "said"),
    [
        (0.7, 0.01, "but its response was not measured: the network has died"),
        (0.7, 0.03, "3.4% of the skill"),  # undecided
        (-0.1, 0.01, "no better than"),
    ],
)
def test_without_a_response_nothing_is_unused(skill_low, drop, said):
    cut = LevelAblation(1, 0.97, 0.96, drop, drop - 0.04, drop + 0.03)
    cut = replace(cut, low=0.009, high=0.011) if drop == 0.01 else cut
    quality = 0.97 if skill_low > 0 else 0.1
    result = AblationResult((cut,), quality, 0.1 if skill_low > 0 else 0.2, skill_low, 24, "f1")
    failed = Response("images", (), 24, failure="the network has died")
    score = DataEvidence({}, result, True, {"bottleneck": 1}, failed).score("bottleneck")
    assert score.verdict == "undecided"
    assert said in score.why


class TwoHalves(nn.Module):
    """A fine half and a deep one, which hand on what they are given, and a head of both."""

    def __init__(self, outputs):
        super().__init__()
        self.top, self.deep = nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 1)
        self.head = nn.Conv2d(2, outputs, 1)
        with torch.no_grad():
            for one in (self.top, self.deep):
                one.weight.fill_(1.0)
                one.bias.zero_()
            self.head.weight.zero_()
            self.head.bias.zero_()


class SmallBesideLarge(TwoHalves):
    """Numbers of two channels: a large one by the fine half, a small one by the deep half."""

    def __init__(self, last=False):
        super().__init__(2)
        self.last = last
        with torch.no_grad():
            self.head.weight.copy_(torch.tensor([[100.0, 0.0], [0.0, 1.0]])[..., None, None])

    def forward(self, x):
        if self.last:
            x = x.movedim(-1, 1)
        top = self.top(x)
        deep = F.interpolate(self.deep(F.avg_pool2d(top, 2)), scale_factor=2.0)
        y = self.head(torch.cat([top.square(), deep], 1))  # no straight line of the input
        return y.movedim(1, -1) if self.last else y


def of_small_beside_large(last=False, share=1.0):
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(12, 1, 8, 8, generator=generator)
    deep = F.interpolate(F.avg_pool2d(images, 2), scale_factor=2.0)
    rest = torch.randn(deep.shape, generator=generator) * (1 - share)
    targets = torch.cat([100 * images.square(), share * deep + rest], 1)
    if last:
        images, targets = images.movedim(1, -1), targets.movedim(1, -1)
    return images, targets


def psnr(outputs, targets):
    return -10 * torch.log10(F.mse_loss(outputs, targets))


def r_squared(outputs, targets):
    return 1 - F.mse_loss(outputs, targets) / targets.var()


def in_single(outputs, targets):
    if outputs.dtype == torch.float64:
        raise TypeError("expected single precision")
    return F.mse_loss(outputs, targets)


psnr.higher_is_better = r_squared.higher_is_better = True


class InUnits(SmallBesideLarge):
    """The large channel in any unit; both as outputs of their own where they are named."""

    def __init__(self, unit, named=False):
        super().__init__()
        self.named, self.unit = named, unit

    def forward(self, x):
        made = super().forward(x) * torch.tensor([self.unit, 1.0]).view(1, 2, 1, 1)
        return {"large": made[:, :1], "small": made[:, 1:]} if self.named else made


def in_units(unit, named=False):
    """Images, and targets of which one is in any unit."""
    images, targets = of_small_beside_large()
    noise = 15 * torch.randn(len(images), 8, 8, generator=torch.Generator().manual_seed(1))
    targets[:, 0] = unit * (targets[:, 0] + noise)
    return images, {"large": targets[:, :1], "small": targets[:, 1:]} if named else targets


def of_the_large(outputs, targets):
    return F.mse_loss(outputs[:, :1], targets[:, :1])


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    ("metric", "unit", "resolved"),
    [
        ("mse", 100.0, True),
        (psnr, 100.0, True),
        (r_squared, 100.0, True),
        (in_single, 0.1, True),
        (in_single, 100.0, False),
        ("mse", 1e7, False),
        ("mae", 1e7, True),
    ],
)
def test_a_channel_in_a_small_unit_does_not_hide_what_it_needs(metric, unit, resolved):
    images, targets = in_units(unit)
    structure = read_structure(InUnits(unit).eval(), images[:1])
    found = gather_data(structure, [(images, targets)], metric=metric)
    score, (cut,) = found.score("bottleneck"), found.ablation.levels
    assert score.verdict == "undecided"
    assert (cut.worst > 0.9) == resolved
    assert cut.hidden == (() if resolved else ("channel 1",))
    named = "channel 1 alone loses" if resolved else "channel 1 changes, and"
    assert named in score.why
    assert named in score.caveat


def test_what_is_hidden_must_be_read_and_change():
    unit = 1e7
    images, targets = in_units(unit)
    structure = read_structure(InUnits(unit).eval(), images[:1])
    unread = gather_data(structure, [(images, targets)], metric=of_the_large)
    assert unread.score("bottleneck").verdict == "unused"
    assert unread.ablation.levels[0].hidden == ()

    class Still(InUnits):
        def forward(self, x):
            made = super().forward(x)
            return torch.cat([made[:, :1], 1e-3 * x[:, :1] + 1e-7 * made[:, 1:]], 1)

    structure = read_structure(Still(unit).eval(), images[:1])
    still = gather_data(structure, [(images, targets)], metric="mse")
    assert still.score("bottleneck").verdict == "unused"


def test_an_output_in_a_small_unit_is_read_and_keeps_what_it_needs():
    unit = 1e8
    images, named = in_units(unit, named=True)
    structure = read_structure(InUnits(unit, named=True).eval(), images[:1])

    def both(outputs, targets):
        return sum(F.mse_loss(outputs[name], targets[name]) for name in targets)

    found = gather_data(structure, [(images, named)], loss=both)
    assert found.ablation.judged == ()
    assert found.ablation.levels[0].hidden == ("outputs['small']",)
    assert found.score("bottleneck").verdict == "undecided"


@pytest.mark.sample(1)
@pytest.mark.parametrize("unit", [0.1, 100.0])
def test_a_sum_over_outputs_does_not_condemn_what_a_small_one_hangs_on(unit):
    images, targets = of_small_beside_large()
    noise = 15 * torch.randn(len(images), 1, 8, 8, generator=torch.Generator().manual_seed(1))
    named = {"large": unit * (targets[:, :1] + noise), "small": targets[:, 1:]}
    structure = read_structure(InUnits(unit, named=True).eval(), images[:1])

    def both(outputs, targets):
        return sum(F.mse_loss(outputs[name], targets[name]) for name in targets)

    found = gather_data(structure, [(images, named)], loss=both)
    (cut,) = found.ablation.levels
    assert (cut.worst_kind, cut.worst_class, cut.worst_output) == ("output", -1, "['small']")
    score = found.score("bottleneck")
    assert score.verdict == "undecided"
    assert "outputs['small'] alone loses" in score.why

    def one(outputs, targets):
        return F.mse_loss(outputs["large"], targets["large"])

    assert gather_data(structure, [(images, named)], loss=one).ablation.levels[0].worst_class == -1

    class Beside(InUnits):
        def forward(self, x):
            made = super().forward(x)
            return {"other": made["large"], "both": torch.cat([*made.values()], 1)}

    beside = read_structure(Beside(unit, named=True).eval(), images[:1])
    pair = torch.cat([*named.values()], 1)
    found = gather_data(
        beside, [(images, pair)], loss=lambda outputs, targets: F.mse_loss(outputs["both"], targets)
    )
    assert "; channel 1 alone loses" in found.score("bottleneck").why
    wide = {"large": named["large"], "small": named["small"].expand(-1, 2, -1, -1)}

    class Wide(InUnits):
        def forward(self, x):
            made = super().forward(x)
            return made | {"small": made["small"].expand(-1, 2, -1, -1) * torch.ones(2, 1, 1)}

    found = gather_data(
        read_structure(Wide(unit, named=True).eval(), images[:1]), [(images, wide)], loss=both
    )
    assert "channel 1 of outputs['small'] alone loses" in found.score("bottleneck").why


class Dehazed(nn.Module):
    """Takes a haze off its image, by the deep half, and squares it beside that."""

    def __init__(self, haze: float, gain: float = 1.0, channels: bool = False) -> None:
        super().__init__()
        self.top, self.deep, self.head = (nn.Conv2d(1, 1, 1, bias=False) for _ in range(3))
        with torch.no_grad():
            for layer in (self.top, self.deep, self.head):
                layer.weight.fill_(1.0)
        self.haze, self.gain, self.channels = haze, gain, channels

    def forward(self, x):
        x = self.top(x)
        haze = F.interpolate(self.deep(F.avg_pool2d(x, 16)), scale_factor=16)
        made = self.head(self.gain * x - self.haze * haze)
        if self.channels:
            return torch.cat([made, x.square()], 1)
        return {"image": made, "square": x.square()}


def hazy(haze: float):
    x = dead_leaves(16, 1, (64, 64), seed=3)
    noise = 0.02 * torch.randn(2, *x.shape, generator=torch.Generator().manual_seed(0))
    low = F.interpolate(F.avg_pool2d(x, 16), scale_factor=16)
    return x, {"image": x - haze * low + noise[0], "square": x.square() + noise[1]}


def image_and_square(outputs, targets):
    error = {name: F.mse_loss(outputs[name], targets[name]) for name in targets}
    return error["image"] + 20 * error["square"]


def image_and_square_of_channels(outputs, targets):
    return F.mse_loss(outputs[:, :1], targets[:, :1]) + 20 * F.mse_loss(
        outputs[:, 1:], targets[:, 1:]
    )


@pytest.mark.sample(1)
@pytest.mark.parametrize("channels", [False, True])
@pytest.mark.parametrize(("haze", "verdict"), [(0.1, "undecided"), (0.0, "unused")])
def test_a_joint_loss_does_not_condemn_what_a_restoration_adds_to_its_input(
    haze, verdict, channels
):
    x, targets = hazy(haze)
    loss = image_and_square_of_channels if channels else image_and_square
    targets = torch.cat([*targets.values()], 1) if channels else targets
    structure = read_structure(Dehazed(haze, channels=channels).eval(), x[:2])
    score = gather_data(structure, [(x, targets)], loss=loss).score("bottleneck")
    assert score.verdict == verdict
    part = "channel 0" if channels else "outputs['image']"
    assert (f"{part} alone loses all of its own skill" in score.why) == (haze > 0)


def test_a_mask_beside_a_restoration_does_not_hide_what_that_adds_to_its_input():
    x, targets = hazy(0.1)
    targets = {"square": (x > 0).to(x), "image": targets["image"]}

    def loss(outputs, targets):
        mask = F.binary_cross_entropy_with_logits(outputs["square"] - 0.3, targets["square"])
        return F.mse_loss(outputs["image"], targets["image"]) + 20 * mask

    structure = read_structure(Dehazed(0.1).eval(), x[:2])
    (cut,) = gather_data(structure, [(x, targets)], loss=loss).ablation.levels
    assert (cut.worst_kind, cut.worst_output) == ("output", "['image']")
    assert cut.worst_low > 0.9


@pytest.mark.sample(1)
@pytest.mark.parametrize("gain", [1.0, 0.9])
def test_a_joint_loss_has_to_beat_the_line_of_the_input_of_each_output(gain):
    x, targets = hazy(0.1)
    targets["square"] = (x > 0).to(x)  # a mask, of which the line of the input is no answer

    def loss(outputs, targets):
        mask = F.binary_cross_entropy_with_logits(outputs["square"], targets["square"])
        return 20 * F.mse_loss(outputs["image"], targets["image"]) + 0.01 * mask

    structure = read_structure(Dehazed(0.1, gain).eval(), x[:2])
    found = gather_data(structure, [(x, targets)], loss=loss)
    assert found.skilled == (gain == 1.0)
    assert found.ablation.trivial == "a straight line of the input"


class FindsLess(TwoHalves):
    """Faint points are found by the deep half alone."""

    def __init__(self):
        super().__init__(1)
        with torch.no_grad():
            self.head.weight.copy_(torch.tensor([[[[9.0]], [[9.0]]]]))
            self.head.bias.fill_(-4.0)

    def forward(self, x):
        top = self.top(x)
        deep = F.interpolate(self.deep(F.max_pool2d(top, 2)), scale_factor=2.0)
        return self.head(torch.cat([(top - 1).relu(), (deep - 0.5).clamp(0, 0.5) * (top > 0)], 1))


def precision(outputs, targets):
    called = outputs > 0
    return (called & (targets > 0.5)).sum() / called.sum()  # nan where nothing is called


precision.higher_is_better = True


def test_images_that_lose_their_value_are_no_proof_that_nothing_is_lost():
    images = torch.zeros(40, 1, 8, 8)
    for number, image in enumerate(images):
        image[0, number % 8, number % 5] = 2.0  # found without the deep half, too
    images[:10] /= 2
    masks = (images > 0).float()
    structure = read_structure(FindsLess().eval(), images[:1])
    found = gather_data(structure, [(images, masks)], metric=precision)
    (cut,) = found.ablation.levels
    assert (cut.images, cut.silenced, cut.drop) == (30, 10, 0.0)
    score = found.score("bottleneck")
    assert score.verdict == "undecided"
    assert "10 more images have no value without them, which this leaves out" in score.why
    rest = images.amax((1, 2, 3)) > 1
    found = gather_data(structure, [(images[rest], masks[rest])], metric=precision)
    assert found.score("bottleneck").verdict == "unused"


def found_by_the_deep_half_alone(count=12):
    images = torch.zeros(count, 1, 8, 8)
    for number, image in enumerate(images):
        image[0, number % 8, number % 5] = 1.0
    return images, (images > 0).float()


def distance(outputs, targets):
    """Smaller is better; infinite for an empty answer."""
    called = outputs > 0
    return torch.inf if not called.any() else 1.0 - precision(outputs, targets)


@pytest.mark.sample(1)
@pytest.mark.parametrize("metric", [precision, distance])
def test_a_level_without_which_no_image_has_a_value_is_undecided_by_data(metric, tmp_path):
    images, masks = found_by_the_deep_half_alone()
    model = FindsLess().eval()
    structure = read_structure(model, images[:1])
    found = gather_data(structure, [(images, masks)], metric=metric)
    (cut,) = found.ablation.levels
    assert (cut.images, cut.silenced, cut.quality) == (0, 12, found.ablation.quality)
    assert math.isnan(cut.drop)
    score = found.score("bottleneck")
    assert (score.grade, score.verdict, score.guarded) == ("data", "undecided", True)
    said = "without levels 1 and deeper no image has a value"
    assert said in score.why
    frame = ablate(model, [(images, masks)], metric, progress=False)
    assert frame["ablated"].isna().all()
    assert frame["quality"][0] == found.ablation.quality
    # no weaker grade calls unused what labels say that all is lost without
    for kind in ("response", "images"):
        silent = Score(kind, 0.0, 0.0, 0.1, "unused", "the output hardly responds", 0.0)
        verdict = join_grades("bottleneck", [score, silent])
        assert (verdict.verdict, verdict.evidence) == ("undecided", "data")
    analysis = analyze(model, batches=[(images, masks)], metric=metric, trained=True)
    row = analysis.stages.set_index("stage").loc["bottleneck"]
    assert (row.verdict, row.evidence) == ("undecided", "data")
    assert said in row.why
    analysis.to_html(tmp_path / "page.html")
    assert '"quality left">no image has a value' in (tmp_path / "page.html").read_text()
    (proposal,) = analysis.proposals
    assert "of the skill is lost" not in proposal.evidence


def test_a_metric_that_has_no_value_with_the_whole_network_is_refused():
    images, masks = found_by_the_deep_half_alone()
    structure = read_structure(FindsLess().eval(), images[:1])
    with pytest.raises(InputError, match="precision returned no finite number for any image"):
        gather_data(structure, [(images * 0, masks)], metric=precision)


def of_each_class(outputs, targets):
    one_hot = F.one_hot(outputs.argmax(1), 41).movedim(-1, 1)
    true = F.one_hot(targets, 41).movedim(-1, 1)
    both, either = (one_hot * true).sum((0, 2, 3)), (one_hot + true).sum((0, 2, 3))
    return 2 * both / either  # nan of a class that is neither there nor called


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_one_of_the_numbers_of_a_callable_speaks_for_itself(scale):
    generator = torch.Generator().manual_seed(0)
    numbers = torch.randint(20, (20, 8, 8), generator=generator)
    numbers[:, :2, :2] = 40
    images = numbers[:, None].float().clone()
    images[:, :, :2, :2] = 46.0
    structure = read_structure(ForOneClass().eval(), images[:1])
    found = gather_data(
        structure, [(images, numbers)], metric=lambda o, t: scale * of_each_class(o, t)
    )
    (cut,) = found.ablation.levels
    if scale > 1.0:  # what is no share has no known zero
        assert (cut.worst_kind, cut.worst_class, cut.worst_metric) == ("class", 40, "f1")
        return
    assert (cut.worst_kind, cut.worst_class, cut.worst) == ("number", 40, 1.0)
    score = found.score("bottleneck")
    assert score.verdict != "unused"
    assert "number 40 of the metric alone loses 100.0% of its own skill" in score.why


def masked(outputs, targets):
    numbers, counts = targets
    return (((outputs - numbers) ** 2) * counts).sum() / counts.sum()


@pytest.mark.parametrize("given", [{"metric": masked}, {"loss": masked}])
def test_what_a_metric_leaves_out_of_a_channel_speaks_for_nothing(given):
    images, targets = of_small_beside_large()
    structure = read_structure(SmallBesideLarge().eval(), images[:1])
    for counts, verdict in (([1.0, 1.0], "undecided"), ([1.0, 0.0], "unused")):
        weights = torch.tensor(counts)[:, None, None].expand_as(targets).contiguous()
        found = gather_data(structure, [(images, (targets, weights))], **given)
        assert found.score("bottleneck").verdict == verdict


@pytest.mark.sample(1)
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("given", [{"metric": "mse"}, {"metric": F.l1_loss}, {"loss": F.mse_loss}])
def test_a_mean_over_channels_does_not_condemn_what_a_small_one_hangs_on(given, last):
    images, targets = of_small_beside_large(last)
    model = SmallBesideLarge(last).eval()
    structure = read_structure(model, images[:1], layout="NHWC" if last else None)
    found = gather_data(structure, [(images, targets)], **given)
    (cut,) = found.ablation.levels
    assert cut.high < 0.05 * found.ablation.skill
    assert (cut.worst_kind, cut.worst_class) == ("channel", 1)
    assert cut.worst > 0.95  # and more than all of what is beyond a line of the input
    score = found.score("bottleneck")
    assert score.verdict == "undecided"
    assert "channel 1 alone loses" in score.why


def test_a_channel_that_was_never_learned_speaks_for_nothing():
    images, targets = of_small_beside_large(share=0.0)
    structure = read_structure(SmallBesideLarge().eval(), images[:1])
    found = gather_data(structure, [(images, targets)], metric="mse")
    (cut,) = found.ablation.levels
    assert (cut.worst_class, cut.worst == 0.0) == (0, True)
    assert found.score("bottleneck").verdict == "unused"


class ForOneClass(TwoHalves):
    """Forty classes by the fine half, the last one by the deep half alone."""

    def __init__(self):
        super().__init__(41)
        with torch.no_grad():
            k = torch.arange(40.0)
            self.head.weight[:40, 0, 0, 0], self.head.bias[:40] = 2 * k, -(k**2)
            self.head.weight[40, 1], self.head.bias[40] = 1e4, -3e4

    def forward(self, x):
        top = self.top(x)
        deep = F.interpolate(self.deep(F.max_pool2d(top, 2)), scale_factor=2.0)
        return self.head(torch.cat([top, (deep - 40).clamp_min(0)], 1))


def test_one_class_of_many_is_found_on_images():
    generator = torch.Generator().manual_seed(0)
    numbers = torch.randint(40, (20, 8, 8), generator=generator)
    numbers[:, :2, :2] = 40
    images = numbers[:, None].float().clone()
    images[:, :, :2, :2] = 46.0
    model = ForOneClass().eval()
    found = gather_data(read_structure(model, images[:1]), [(images, numbers)], metric="f1")
    (cut,) = found.ablation.levels
    assert cut.high < 0.05 * found.ablation.skill
    assert (cut.worst_class, cut.worst_low > 0.9) == (40, True)
    assert found.ablation.unlearned == ()
    assert found.score("bottleneck").verdict == "undecided"
    numbers[numbers == 12] = 13
    numbers[:, 7, 6:] = 12  # never where it is called so
    found = gather_data(read_structure(model, images[:1]), [(images, numbers)], metric="f1")
    assert found.ablation.unlearned == (12,)


def hits(outputs, targets):
    return (outputs.argmax(1) == targets).float().mean()


class RareFromBelow(nn.Module):
    """Two classes by the fine half; a third one, of few pixels, by the deep half alone."""

    def __init__(self):
        super().__init__()
        self.top, self.deep, self.head = nn.Conv2d(2, 2, 1), nn.Conv2d(1, 1, 1), nn.Conv2d(2, 3, 1)
        with torch.no_grad():
            nn.init.dirac_(self.top.weight)
            self.deep.weight.fill_(1.0)
            self.head.weight.copy_(
                torch.tensor([[-4.0, 0.0], [4.0, 0.0], [0.0, 14.0]])[:, :, None, None]
            )
            for layer in (self.top, self.deep, self.head):
                layer.bias.zero_()
            self.head.bias[2] = -7.0

    def forward(self, x):
        top = self.top(x)
        deep = F.interpolate(self.deep(F.max_pool2d(top[:, 1:], 2)), scale_factor=2.0)
        return self.head(torch.cat([top[:, :1], deep], 1))


@pytest.mark.sample(1)
@pytest.mark.parametrize("apart", [True, False])
@pytest.mark.parametrize("metric", ["accuracy", hits])
def test_a_rare_class_drowns_in_no_mean_over_pixels(metric, apart, monkeypatch):
    if not apart:  # as where F1 is not defined for outputs and targets
        monkeypatch.setattr(ClassesApart, "by_cut", lambda self, weights: [{}, {}])
    generator = torch.Generator().manual_seed(0)
    numbers = torch.randint(2, (20, 16, 16), generator=generator)
    images = torch.stack([2.0 * numbers - 1.0, torch.zeros(20, 16, 16)], 1)
    images[:, 1, :2, :2], numbers[:, :2, :2] = 1.0, 2
    structure = read_structure(RareFromBelow().eval(), images[:1])
    found = gather_data(structure, [(images, numbers)], metric=metric)
    assert found.ablation.levels[0].high < 0.05 * found.ablation.skill
    score = found.score("bottleneck")
    assert score.verdict == "undecided"
    said = "class 2 alone loses all" if apart else "decision 2 of the output responds with"
    assert said in score.why


def of_labels(outputs, targets):
    return F.binary_cross_entropy_with_logits(outputs, targets)


def focal(outputs, targets):
    each = F.binary_cross_entropy_with_logits(outputs, targets, reduction="none")
    return ((1.0 - (-each).exp()) ** 2 * each).mean()


class LabelsFromBelow(nn.Module):
    """Two labels of the image itself, and a rare one that is seen at half resolution."""

    def __init__(self):
        super().__init__()
        self.top, self.deep = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 1, 1)
        self.head = nn.Conv2d(3, 3, 1)
        with torch.no_grad():
            self.deep.weight.copy_(torch.tensor([0.0, 0.0, 1.0]).view(1, 3, 1, 1))
            self.top.weight.copy_(torch.eye(3)[:, :, None, None])
            self.head.weight.copy_(10.0 * torch.eye(3)[:, :, None, None])
            for layer in (self.top, self.deep, self.head):
                layer.bias.zero_()
            self.head.bias.fill_(-5.0)

    def forward(self, x):
        top = self.top(x)
        deep = F.interpolate(self.deep(F.max_pool2d(top, 2)), scale_factor=2.0)
        return self.head(torch.cat([top[:, :2], deep], 1))


@pytest.mark.sample(1)
@pytest.mark.parametrize("kind", ["metric", "loss"])
@pytest.mark.parametrize("judge", [of_labels, focal])
def test_a_mean_over_labels_does_not_hide_what_one_of_them_hangs_on(kind, judge):
    generator = torch.Generator().manual_seed(0)
    labels = torch.rand(20, 3, 16, 16, generator=generator) < torch.tensor([0.5, 0.4, 0.0]).view(
        3, 1, 1
    )
    rare = torch.rand(20, 1, 8, 8, generator=generator) < 0.004
    targets = torch.cat([labels[:, :2].float(), F.interpolate(rare.float(), scale_factor=2.0)], 1)
    images = targets + 0.15 * torch.randn(targets.shape, generator=generator)
    structure = read_structure(LabelsFromBelow().eval(), images[:1])
    found = gather_data(structure, [(images, targets)], **{kind: judge})
    (cut,) = found.ablation.levels
    assert cut.drop < 0.05 * found.ablation.skill
    assert (cut.worst_kind, cut.worst_class, cut.worst_metric) == ("class", 2, "f1")
    assert cut.worst_low > 0.5
    score = found.score("bottleneck")
    assert score.verdict == "undecided"
    assert "class 2 alone loses" in score.why
    assert "of its own skill by f1, surely more than a tenth" in score.why


def ranking(outputs, targets):
    """Area under the ROC curve of all pixels."""
    order = outputs.flatten().argsort()
    ranks = torch.empty_like(order)
    ranks[order] = torch.arange(len(order))
    found = targets.flatten() > 0
    positive, negative = found.sum(), (~found).sum()
    above = ranks[found].sum() - positive * (positive - 1) / 2
    return above / (positive * negative)


class ErrorOfBelow(nn.Module):
    """How far the image is from what lies at half the resolution."""

    def __init__(self):
        super().__init__()
        self.deep, self.up = nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 1)
        self.first, self.second = nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 1)  # no trivial answer
        with torch.no_grad():
            for layer in (self.deep, self.up, self.first, self.second):
                layer.weight.fill_(1.0)
                layer.bias.zero_()

    def forward(self, x):
        made = self.up(F.interpolate(self.deep(F.avg_pool2d(x, 2)), scale_factor=2.0))
        return (self.second(self.first(x)) - made) ** 2


def test_a_figure_of_ranks_does_not_hide_what_rare_foreground_hangs_on():
    generator = torch.Generator().manual_seed(0)
    normal = 0.6 * torch.randn(20, 1, 16, 16, generator=generator)
    normal = F.interpolate(normal, scale_factor=2.0)
    masks = (torch.rand(20, 1, 32, 32, generator=generator) < 0.01).float()
    images = normal + 2.3 * masks
    structure = read_structure(ErrorOfBelow().eval(), images[:1])
    found = gather_data(structure, [(images, masks)], metric=ranking)
    (cut,) = found.ablation.levels
    assert cut.high < 0.05 * found.ablation.skill
    assert (cut.worst_class, cut.worst_metric) == (-1, "f1")
    score = found.score("bottleneck")
    assert score.verdict == "undecided"
    assert "of the skill by f1 is lost, surely more than a tenth" in score.why


QUANTILES = torch.tensor([0.1, 0.5, 0.9]).view(1, 3, 1, 1)


def pinball(outputs, targets):
    e = targets - outputs
    return torch.maximum(QUANTILES * e, (QUANTILES - 1) * e).mean()


def gaussian(outputs, targets):
    return F.gaussian_nll_loss(outputs[:, :1], targets, outputs[:, 1:].exp())


class Spread(nn.Module):
    """The image itself, and from half resolution how far the truth is from it."""

    def __init__(self, quantiles):
        super().__init__()
        self.deep = nn.Conv2d(1, 1, 1)
        self.head = nn.Conv2d(2, 3 if quantiles else 2, 1)
        rows = [[1.0, -1.28], [1.0, 0.0], [1.0, 1.28]] if quantiles else [[1.0, 0.0], [0.0, 1.0]]
        with torch.no_grad():
            self.deep.weight.fill_(1.0)
            self.head.weight.copy_(torch.tensor(rows)[:, :, None, None])
            for layer in (self.deep, self.head):
                layer.bias.zero_()

    def forward(self, x):
        deep = F.interpolate(self.deep(F.avg_pool2d(x[:, 1:2], 2)), scale_factor=2.0)
        return self.head(torch.cat([x[:, :1], deep], 1))


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    ("quantiles", "given"),
    [(True, "loss"), (False, "metric")]
    + [pytest.param(*case, marks=pytest.mark.slow) for case in ((True, "metric"), (False, "loss"))],
)
def test_outputs_of_more_channels_than_their_targets_have_to_beat_the_input(quantiles, given):
    generator = torch.Generator().manual_seed(0)
    spread = 0.05 + 0.6 * (torch.rand(24, 1, 4, 4, generator=generator) > 0.5).float()
    spread = F.interpolate(spread, scale_factor=4.0)
    x = 8.0 * torch.randn(24, 1, 16, 16, generator=generator)
    targets = x + spread * torch.randn(x.shape, generator=generator)
    # a third channel, or the images would have the shape of the answer and be tried as such
    images = torch.cat([x, spread if quantiles else 2.0 * spread.log(), torch.zeros_like(x)], 1)
    structure = read_structure(Spread(quantiles).eval(), images[:1])
    judge = pinball if quantiles else gaussian
    found = gather_data(structure, [(images, targets)], **{given: judge})
    result = found.ablation
    levels = torch.quantile(targets - x, QUANTILES.flatten()).view(1, 3, 1, 1)
    away = (targets - x).var().log().expand_as(x)
    known = x + levels if quantiles else torch.cat([x, away], 1)
    assert result.chance == pytest.approx(float(judge(known, targets)), rel=0.01)
    assert result.levels[0].drop > 0.5 * result.skill
    assert found.score("bottleneck").verdict == "used"
    repeated = targets.expand(-1, 3, -1, -1) if quantiles else targets
    again = gather_data(structure, [(images, repeated)], **{given: judge})
    assert again.ablation.chance == pytest.approx(result.chance, rel=1e-3)


def test_whole_numbers_are_no_numbers_of_several_channels():
    shape = torch.Size((2, 3, 4, 4))
    assert numbers_for(torch.randint(3, (2, 4, 4)).float(), shape) == []
    assert numbers_for(torch.randint(3, (2, 4, 4)), shape) == []
    half = torch.rand(2, 4, 4)
    (found,) = numbers_for(half, shape)
    assert torch.equal(found, half[:, None].expand(shape))
    pair = torch.rand(2, 2, 4, 4)
    in_blocks, in_turn = numbers_for(pair, torch.Size((2, 4, 4, 4)))
    assert torch.equal(in_blocks, torch.cat([pair, pair], 1))
    assert torch.equal(in_turn[:, :2], pair[:, :1].expand(-1, 2, -1, -1))
    assert numbers_for(torch.rand(2, 5, 4, 4), torch.Size((2, 4, 5, 5))) == []
