"""The verdict on stages and networks: what is recognised, what stays undecided, who disagrees."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from weightscope.movement import Displacement
from weightscope.probing import CutResponse, Response
from weightscope.probing.response import COLLAPSED
from weightscope.statistics import measure_model
from weightscope.statistics.records import ModelStatistics
from weightscope.traces import shows_training
from weightscope.utilization import (
    AblationResult,
    DataEvidence,
    Importance,
    Score,
    assess,
)
from weightscope.utilization.ranking import join_grades


def history(**ratios):
    records = [Displacement(f"{n}.weight", 300 * 300, r, 1.0, 1.0, 1.0) for n, r in ratios.items()]
    return SimpleNamespace(displacements=lambda: tuple(records))


def data(skilled=True, **importances):
    names = list(importances)
    return DataEvidence(
        importances={n: Importance(v, 0.0) for n, v in importances.items()},
        ablation=None,
        skilled=skilled,
        levels={n: i for i, n in enumerate(names)},
    )


def response(*values, source="response"):
    cuts = tuple(CutResponse(keep, v, v, v, v, v) for keep, v in enumerate(values))
    return Response(source, cuts, 10)


def test_stages_come_from_the_least_to_the_most_used(layers):
    structure, statistics, _ = layers(a=0.05, b=0.0, c=0.032)
    assessment = assess(structure, statistics)
    assert assessment.state == "trained"
    assert [v.stage for v in assessment.verdicts] == ["b", "c", "a"]
    assert {v.verdict for v in assessment.verdicts} == {"undecided"}
    assert all(v.evidence == "weights" for v in assessment.verdicts)


def test_a_stage_whose_movement_does_not_show_is_not_the_least_used(layers, measure_by_rule):
    structure, _, model = layers(a=0.05, b=0.0, c=0.032)
    with torch.no_grad():
        model.b.weight.mul_(0.5)
    assessment = assess(structure, measure_by_rule(model))
    assert [v.stage for v in assessment.verdicts] == ["c", "a", "b"]
    assert math.isnan(assessment.verdicts[-1].utilization)
    assert "movement does not show" in assessment.verdicts[-1].why


class Normed(nn.Module):
    """Layers with a norm behind each, as initialised."""

    def __init__(self, norm=True):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(nn.Linear(90, 90) for _ in range(6))
        self.norms = nn.ModuleList(nn.LayerNorm(90) for _ in range(6 if norm else 0))


def stages_of(model):
    return SimpleNamespace(
        stages=tuple(
            SimpleNamespace(name=str(i), layers=(f"layers.{i}",), role="encoder", level=i)
            for i in range(len(model.layers))
        ),
        cuts=(SimpleNamespace(keep_levels=1),),
        draws=False,
    )


@pytest.mark.parametrize("exact", [True, False])
def test_an_untrained_network_is_recognised(exact):
    model = Normed(norm=not exact)
    initial = {k: v.clone() for k, v in model.state_dict().items()} if exact else None
    found = assess(
        stages_of(model), measure_model(model, initial=initial), response=response(0.0, 0.5)
    )
    assert found.state == "untrained"
    assert {v.verdict for v in found.verdicts} == {"undecided"}
    assert {s.verdict for v in found.verdicts for s in v.scores} == {"undecided"}
    assert "nothing can be concluded" in found.conclusion
    assert "tensors to the last bit" in found.conclusion


def test_default_draws_are_recognised_without_norms_and_without_the_start():
    model = Normed(norm=False)
    assert assess(stages_of(model), measure_model(model)).state == "untrained"


def test_what_shows_no_training_is_not_called_untrained():
    model = Normed(norm=False)
    with torch.no_grad():
        for layer in model.layers:  # kernels as by a rule, biases that something changed
            torch.nn.init.kaiming_normal_(layer.weight)
            layer.bias.mul_(0.9)
    found = assess(stages_of(model), measure_model(model), response=response(0.0, 0.5))
    assert found.state == "unknown"
    assert {v.verdict for v in found.verdicts} == {"undecided"}
    assert "untrained" not in found.conclusion
    assert "initial=" in found.conclusion


def judged(quality, chance, low, images=40, **importances):
    """Data of a network with a metric, beside the skill that is sure."""
    ablation = AblationResult((), quality, chance, low, images, "f1")
    skilled = None if ablation.undecided else ablation.skilled
    return replace(data(skilled=skilled, **importances), ablation=ablation)


def test_random_features_with_some_skill_are_untrained_all_the_same():
    model = Normed()
    evidence = judged(0.46, 0.32, 0.1, **{str(i): 1.0 for i in range(6)})
    assert evidence.skilled
    found = assess(stages_of(model), measure_model(model), data=evidence)
    assert found.state == "untrained"
    assert {v.verdict for v in found.verdicts} == {"undecided"}
    assert found.conclusion.endswith(
        "Its random features are better than the best trivial answer (f1 0.46 against 0.32). If its"
        " kernels alone were trained, say trained=True."
    )
    # kernels alone may be trained, and the user must say so: random features may do as well
    mastered = judged(0.97, 0.39, 0.5, **{str(i): 1.0 for i in range(6)})
    found = assess(stages_of(model), measure_model(model), data=mastered)
    assert found.state == "unknown"
    assert {v.verdict for v in found.verdicts} == {"undecided"}
    assert found.conclusion == (
        "The network is better than the best trivial answer (f1 0.97 against 0.39), more than"
        " random features mostly are; but every layer looks as it was initialised: nothing can be"
        " concluded about which stages are used. If its kernels alone were trained, say"
        " trained=True."
    )
    said = assess(stages_of(model), measure_model(model), data=mastered, trained=True)
    assert said.state == "trained"
    found = assess(stages_of(model), measure_model(model), data=evidence, trained=True)
    assert found.state == "trained"
    assert assess(stages_of(model), measure_model(model), trained=True).state == "untrained"
    with torch.no_grad():  # any stage that something changed lets the data speak
        model.layers[2].weight.mul_(1.01)
        model.layers[2].bias.mul_(1.01)
    assert assess(stages_of(model), measure_model(model), data=evidence).state == "trained"


class Narrow(nn.Module):
    """Stages with norms and biases of a few channels; a head of its own size, drawn normally."""

    def __init__(self, head):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(nn.Conv2d(8, 8, 3) for _ in range(5))
        self.norms = nn.ModuleList(nn.BatchNorm2d(8) for _ in range(5))
        self.layers.append(nn.Conv2d(8, head, 1))
        for layer in self.layers:
            nn.init.kaiming_normal_(layer.weight)


def stages_with_norms(model):
    stages = [
        SimpleNamespace(name=str(i), layers=(f"layers.{i}", f"norms.{i}"), role="encoder", level=i)
        for i in range(len(model.layers))
    ]
    cuts = (SimpleNamespace(keep_levels=1),)
    return SimpleNamespace(stages=tuple(stages), cuts=cuts, draws=False)


@pytest.mark.parametrize(("head", "state"), [(1, "untrained"), (8, "trained")])
def test_biases_too_few_to_tell_do_not_hide_that_nothing_moved(head, state):
    model = Narrow(head)
    evidence = judged(0.46, 0.32, 0.1, **{str(i): 1.0 for i in range(6)})
    statistics = measure_model(model)
    assert not statistics.is_fresh  # nothing tells of eight numbers that are not constant
    assert assess(stages_with_norms(model), statistics, data=evidence).state == state
    with torch.no_grad():
        model.norms[2].weight[0] = 1.1
    assert assess(stages_with_norms(model), measure_model(model), data=evidence).state == "trained"


def test_a_stage_without_a_trace_of_its_start_lets_the_data_speak():
    class Plain(Normed):
        def __init__(self):
            super().__init__()
            self.layers[3] = nn.Linear(90, 90, bias=False)
            nn.init.normal_(self.layers[3].weight, std=90**-0.5)

    model = Plain()
    del model.norms
    evidence = judged(0.9, 0.3, 0.5, **{str(i): 1.0 for i in range(6)})
    assert assess(stages_of(model), measure_model(model), data=evidence).state == "trained"


def test_a_skill_that_few_images_do_not_surely_show_is_not_denied(layers):
    structure, statistics, _ = layers(a=0.05, b=0.0)
    found = assess(structure, statistics, data=judged(0.46, 0.32, -0.1, a=1.0, b=0.001))
    assert found.state == "trained"
    assert {v.verdict for v in found.verdicts} == {"undecided"}
    assert (
        "The network is better than the best trivial answer (f1 0.46 against 0.32), but 40 images "
        "are too few to be sure of it: give more."
    ) in found.conclusion
    few = assess(structure, statistics, data=judged(0.46, 0.32, -0.1, images=9, a=1.0, b=0.001))
    assert "9 images decide nothing, 10 or more are needed: give more." in few.conclusion


def test_a_network_without_skill_is_compared_with_the_best_trivial_answer(layers):
    structure, statistics, _ = layers(a=0.05, b=0.0)
    compared = (
        "On the batches given the network is no better than the best trivial answer (f1 0.3 "
        "against 0.32)"
    )
    nothing = "nothing can be concluded about which stages are used"
    sure = assess(structure, statistics, data=judged(0.3, 0.32, -0.08, a=1.0, b=0.001))
    chance = assess(structure, statistics, data=judged(0.3, 0.32, -0.1, a=1.0, b=0.001))
    assert sure.state == chance.state == "unskilled"
    assert sure.conclusion == f"{compared}: {nothing}."
    assert chance.conclusion == (
        f"{compared}, but 40 images are too few to be sure of it: {nothing}; give more."
    )


def test_a_class_that_was_not_learned_is_named(layers):
    structure, statistics, _ = layers(a=0.05, b=0.0)
    evidence = judged(0.9, 0.3, 0.5, a=1.0, b=0.001)
    for classes, said in (((2,), "Of class 2 the network shows"), ((0, 3), "Of classes 0, 3 the")):
        ablation = replace(evidence.ablation, unlearned=classes)
        found = assess(structure, statistics, data=replace(evidence, ablation=ablation))
        assert said in found.conclusion
    assert "shows no skill" not in assess(structure, statistics, data=evidence).conclusion


def test_constants_that_moved_prove_training():
    model = Normed()
    with torch.no_grad():
        model.norms[3].bias.normal_(0.0, 0.1)
    alone = assess(stages_of(model), measure_model(model), response=response(0.5, 0.5, 0.0))
    assert alone.state == "unknown"
    with torch.no_grad():
        model.norms[3].weight.normal_(1.0, 0.1)
    found = assess(stages_of(model), measure_model(model), response=response(0.5, 0.5, 0.0))
    assert found.state == "trained"
    verdicts = {v.stage: v.verdict for v in found.verdicts}
    assert verdicts["5"] == "unused"


def test_weights_that_are_no_numbers_are_said_first():
    model = Normed()
    with torch.no_grad():
        model.layers[2].weight[0] = float("nan")
        model.norms[0].bias[:2] = float("inf")
    found = assess(stages_of(model), measure_model(model), response=response(0.0, 0.5))
    assert found.state == "broken"
    assert found.conclusion.startswith("92 weights are NaN or infinite (")
    assert "layers.2.weight" in found.conclusion
    assert {v.verdict for v in found.verdicts} == {"undecided"}
    assert {v.why for v in found.verdicts} == {"weights or running statistics are NaN or infinite"}
    assert all(np.isnan(v.utilization) for v in found.verdicts)


def test_one_broken_weight_is_one():
    model = Normed()
    with torch.no_grad():
        model.norms[0].bias[0] = float("inf")
    found = assess(stages_of(model), measure_model(model))
    assert found.conclusion.startswith("1 weight is NaN or infinite (")


def test_a_network_without_skill_decides_nothing(layers):
    structure, statistics, _ = layers(a=0.05, b=0.0)
    assessment = assess(structure, statistics, data=data(skilled=False, a=1.0, b=0.001))
    assert assessment.state == "unskilled"
    assert {v.verdict for v in assessment.verdicts} == {"undecided"}


def test_skill_outranks_weights_that_look_untrained(layers):
    structure, statistics, _ = layers(a=0.0, b=0.0)
    assessment = assess(structure, statistics, data=data(a=1.0, b=0.001))
    assert assessment.state == "trained"
    assert {v.stage: v.verdict for v in assessment.verdicts} == {"a": "used", "b": "unused"}


def test_the_strongest_grade_decides_and_the_others_are_kept(layers):
    structure, statistics, _ = layers("rule", a=0.05, b=0.0)
    assessment = assess(
        structure,
        statistics,
        history=history(a=5.0, b=5.0),
        response=response(0.5, 0.0),
        images=response(0.0, 0.5, source="images"),
        data=data(a=0.001, b=1.0),
    )
    verdicts = {v.stage: v for v in assessment.verdicts}
    grades = ["data", "images", "response", "history", "weights"]
    assert [s.grade for s in verdicts["a"].scores] == grades
    assert (verdicts["a"].verdict, verdicts["a"].evidence) == ("unused", "data")
    assert "disagreement: by response used" in verdicts["a"].why
    assert verdicts["b"].verdict == "used"
    assert "by response unused" in verdicts["b"].why


def test_data_does_not_condemn_what_no_cut_removes(layers):
    structure, statistics, _ = layers(head=0.05, b=0.05)
    structure.cuts = structure.cuts[1:]
    found = assess(structure, statistics, data=data(head=0.001, b=1.0)).verdicts
    verdicts = {v.stage: v for v in found}
    assert verdicts["head"].verdict == "undecided"
    assert "no cut removes it" in verdicts["head"].why
    assert verdicts["b"].verdict == "used"


def test_no_grade_condemns_what_no_cut_removes():
    for grade in ("data", "images", "response", "history", "weights"):
        verdict = join_grades("head", [score(grade, 0.0, "unused")], removable=False)
        assert verdict.verdict == "undecided"
        assert verdict.why.endswith("no cut removes it, so this cannot be checked")


def test_a_grade_that_cannot_measure_gives_way(layers):
    structure, statistics, _ = layers("rule", a=0.05, b=0.0)
    failed = Response("images", (), 0, "no image")
    found = assess(structure, statistics, images=failed, response=response(0.5))
    assert {v.evidence for v in found.verdicts} == {"response"}
    assessment = assess(structure, statistics, history=history(a=3.0))
    verdicts = {v.stage: v for v in assessment.verdicts}
    assert verdicts["a"].evidence == "history"
    assert verdicts["b"].evidence == "weights"
    assert {v.verdict for v in assessment.verdicts} == {"undecided"}


def recorded(statistics):
    """A history that ends with these weights, all of which moved four times the walk."""
    records = []
    for p in statistics.parameters:
        m = p.comparison.movement
        walk = m.moved / 4
        records.append(Displacement(p.parameter, m.count, m.moved, m.shrinkage, walk, walk))
    return SimpleNamespace(displacements=lambda: tuple(records))


@pytest.mark.parametrize(
    ("change", "fits"),
    [
        (lambda weight, start: weight.copy_(start), False),
        (lambda weight, start: weight.mul_(1e-3), False),
        (lambda weight, start: weight.add_(0.03 * start), True),
        (lambda weight, start: weight.normal_(0.0, float(start.std())), False),
        (lambda weight, start: weight.zero_(), False),
    ],
)
def test_history_says_nothing_of_weights_that_were_changed_after_it(layers, change, fits):
    structure, statistics, model = layers(a=0.05, b=0.04, c=0.05)
    history = recorded(statistics)
    with torch.no_grad():
        change(model.b.weight, model.start["b.weight"])
    statistics = measure_model(model, initial=model.start)
    found = assess(structure, statistics, history=history)
    verdicts = {v.stage: v for v in found.verdicts}
    assert verdicts["b"].evidence == ("history" if fits else "weights")
    some = "history= says nothing of some kernels: 1 of the 3 that moved is not as the recorded"
    assert any(note.startswith(some) for note in found.notes) == (not fits)
    by_history = next(s for s in verdicts["b"].scores if s.grade == "history")
    assert ("left it (averaged, trained on or changed since)" in by_history.why) == (not fits)
    assert verdicts["a"].evidence == "history"


def test_frozen_kernels_do_not_make_an_averaged_history_fit(layers):
    structure, statistics, model = layers(a=0.05, b=0.0, c=0.05)
    history = recorded(statistics)
    with torch.no_grad():
        for name, weight in (("a", model.a.weight), ("c", model.c.weight)):
            weight.lerp_(model.start[f"{name}.weight"], 0.5)
    statistics = measure_model(model, initial=model.start)
    (note,) = assess(structure, statistics, history=history).notes
    assert note.startswith("No kernel that history= holds is as it recorded it")


def test_stages_that_different_grades_rank_are_not_compared(layers):
    structure, statistics, model = layers(a=0.05, b=0.001, c=0.04)
    history = recorded(statistics)
    with torch.no_grad():
        model.b.weight.add_(0.03 * torch.randn_like(model.b.weight))
    statistics = measure_model(model, initial=model.start)
    verdicts = assess(structure, statistics, history=history).verdicts
    assert verdicts[-1].utilization < max(v.utilization for v in verdicts)
    assert [v.evidence for v in verdicts] == ["history", "history", "weights"]


def test_a_history_of_another_training_is_not_told_as_this_ones(layers):
    structure, statistics, model = layers(a=0.05, b=0.04, c=0.05)
    history = recorded(statistics)
    _, _, other = layers(seed=9, a=0.05, b=0.04, c=0.05)
    found = assess(structure, measure_model(other, initial=model.start), history=history)
    assert {v.evidence for v in found.verdicts} == {"weights"}
    (note,) = found.notes
    assert note.startswith(
        "No kernel that history= holds is as it recorded it: the weights are an average of the"
    )
    assert "or are of another training" in note
    (note,) = assess(structure, measure_model(other, initial=model.start)).notes
    assert note.startswith("No kernel descends from initial=")


def test_a_network_that_answers_all_images_alike_is_said_first(layers):
    structure, statistics, _ = layers(a=0.05, b=0.04, c=0.05)
    dead = {s: Response(s, (), 9, failure=COLLAPSED) for s in ("response", "images")}
    for given, seen in (
        ({"response": dead["response"]}, "every synthetic image"),
        ({"images": dead["images"], "response": response(0.5, 0.5, 0.5)}, "every one of 9 images"),
    ):
        conclusion = assess(structure, statistics, **given).conclusion
        assert conclusion.startswith(f"The output is the same for {seen}: the network has died, or")
    alive = response(0.5, 0.5, 0.5, source="images")
    found = assess(structure, statistics, images=alive, response=dead["response"])
    assert "has died" not in found.conclusion
    found = assess(structure, statistics, response=dead["response"], data=data(a=0.1, b=0.1, c=0.1))
    assert "has died" not in found.conclusion


def test_history_outranks_weights_that_look_untrained(layers):
    structure, statistics, _ = layers("rule", a=0.0, b=0.0, c=0.0, d=0.0)
    assert assess(structure, statistics).state == "unknown"
    assert assess(structure, statistics, history=history(a=3.0, b=3.0)).state == "trained"


def other_sizes(**counts):
    records = [Displacement(f"{n}.weight", c, 3.0, 1.0, 1.0, 1.0) for n, c in counts.items()]
    return SimpleNamespace(displacements=lambda: tuple(records))


def test_a_history_of_another_network_of_the_same_names_says_nothing(layers):
    structure, statistics, _ = layers("rule", a=0.05, b=0.02)
    found = assess(structure, statistics, history=other_sizes(a=100, b=100))
    assert {v.evidence for v in found.verdicts} == {"weights"}
    (note,) = found.notes
    assert "recorded of another network (a.weight: 100 numbers there, 90,000 here)" in note


def test_a_history_says_nothing_of_a_layer_that_was_replaced_by_another_size(layers):
    structure, statistics, _ = layers("rule", a=0.05, b=0.02)
    found = assess(structure, statistics, history=other_sizes(a=90_000, b=30))
    assert {v.stage: v.evidence for v in found.verdicts} == {"a": "history", "b": "weights"}
    assert "says nothing of some kernels: it was recorded at another size" in found.notes[0]


@pytest.mark.parametrize("prefix", ["model.", "module.", "net.model."])
def test_a_history_of_a_wrapper_fits_the_network_inside(layers, prefix):
    structure, statistics, _ = layers("rule", a=0.05, b=0.02)
    wrapped = history(**{f"{prefix}{n}": r for n, r in {"a": 3.0, "b": 1.0}.items()})
    found = assess(structure, statistics, history=wrapped)
    assert {v.evidence for v in found.verdicts} == {"history"}
    assert found.notes == ()


@pytest.mark.parametrize(
    ("recorded", "said"),
    [
        ({"other": 3.0}, "under other names (other.weight, where this model has a.weight)"),
        ({}, "holds no parameter"),
    ],
)
def test_a_history_that_does_not_fit_is_said(layers, recorded, said):
    structure, statistics, _ = layers("rule", a=0.05, b=0.02)
    found = assess(structure, statistics, history=history(**recorded))
    assert {v.evidence for v in found.verdicts} == {"weights"}
    assert said in found.notes[0]


def score(grade, value, verdict):
    return Score(grade, value, value, value, verdict, f"{grade} says so")


def test_an_undecided_strong_grade_is_not_overruled():
    joined = join_grades("a", [score("data", 0.5, "undecided"), score("weights", 0.0, "unused")])
    assert joined.verdict == "undecided"
    assert "weights alone: unused" in joined.why


def test_a_network_without_nulls_is_unknown():
    structure = SimpleNamespace(
        cuts=(), draws=False, stages=(SimpleNamespace(name="a", layers=(), role="x", level=0),)
    )
    assessment = assess(structure, ModelStatistics((), (), 1.0))
    assert assessment.state == "unknown"
    assert math.isnan(assessment.verdicts[0].utilization)


def turn_filters(model):
    """Shift every filter as a whole, by three tenths of the spread, as training does."""
    with torch.no_grad():
        for layer in model.children():
            layer.weight += 0.3 * layer.weight.std() * torch.randn(len(layer.weight), 1)


def test_conclusion_names_every_stage_and_what_synthetic_images_cannot_say(layers):
    structure, _, model = layers(a=0.05, b=0.0, c=0.032)
    turn_filters(model)
    statistics = measure_model(model, initial=model.start)
    conclusion = assess(structure, statistics, response=response(0.5, 0.09, 0.0)).conclusion
    assert conclusion.startswith(
        "By response on synthetic images: 1 unused (c); 1 used (a); 1 undecided (b)."
    )
    assert "not whether the output is right; images= or batches= say more" in conclusion
    own = response(0.5, 0.09, 0.0, source="images")
    conclusion = assess(structure, statistics, images=own).conclusion
    assert conclusion.startswith(f"By images on {own.images} images: 1 unused (c); 1 used (a)")
    assert conclusion.endswith("not whether the output is right; batches= say more.")
    assert "synthetic" not in conclusion


@pytest.mark.parametrize(
    ("values", "shift", "verdict"),
    [
        ((0.5, 0.0), 0.0, "undecided"),  # a few steps
        ((0.2, 0.0), 0.15, "undecided"),  # some tens, and nothing responds
        ((0.5, 0.0), 0.15, "unused"),
        ((0.2, 0.0), 0.3, "undecided"),  # at a high rate
        ((0.2, 0.0), 2.0, "unused"),  # however little responds
    ],
)
def test_silent_levels_of_a_network_that_is_hardly_trained_are_not_condemned(
    layers, values, shift, verdict
):
    structure, _, model = layers(a=0.01, b=0.01)
    with torch.no_grad():
        for layer in model.children():
            layer.weight += shift * layer.weight.std() * torch.randn(len(layer.weight), 1)
    statistics = measure_model(model, initial=model.start)
    for source in ("response", "images"):
        found = assess(structure, statistics, **{source: response(*values, source=source)})
        assert found.state == "trained"
        assert {v.stage: v.verdict for v in found.verdicts}["b"] == verdict
        (own,) = (
            s for v in found.verdicts if v.stage == "b" for s in v.scores if s.grade == source
        )
        assert own.guarded is (verdict == "undecided")
        assert ("hardly trained" in found.conclusion) is (verdict == "undecided")
        assert "no level responds" not in found.conclusion  # one does, by 0.2
        assert ("no level surely responds" in found.conclusion) is (
            verdict == "undecided" and values[0] == 0.2
        )
    evidence = data(a=1.0, b=0.001)  # what the batches show is of the network as it is
    found = assess(structure, statistics, response=response(*values), data=evidence)
    assert {v.stage: v.verdict for v in found.verdicts}["b"] == "unused"
    assert "hardly" not in found.conclusion


@pytest.mark.parametrize(
    ("images", "synthetic", "most", "verdict"),
    [
        (0.19, 0.5, 0.2, "undecided"),  # the user's images are asked first
        (0.21, 0.01, 0.2, "unused"),
        (None, 0.19, 0.2, "undecided"),
        (None, 0.21, 0.2, "unused"),
        (0.19, 0.19, 0.5, "undecided"),  # whether some level responds or none does
        (0.21, 0.21, 0.5, "unused"),
        (math.nan, 0.01, 0.2, "unused"),  # numbers have no such scale
        (0.0, 0.5, 0.2, "undecided"),
    ],
)
def test_silence_tells_nothing_where_decisions_hardly_vary(
    layers, images, synthetic, most, verdict
):
    structure, _, model = layers(a=0.01, b=0.01)
    with torch.no_grad():
        for layer in model.children():
            layer.weight += 2.0 * layer.weight.std() * torch.randn(len(layer.weight), 1)
    seen = {}
    for source, resolved in (("images", images), ("response", synthetic)):
        if resolved is not None:
            found = response(most, 0.0, source=source)
            cuts = tuple(replace(cut, resolved=resolved) for cut in found.cuts)
            seen[source] = replace(found, cuts=cuts)
    statistics = measure_model(model)
    found = assess(structure, statistics, **seen)
    assert {v.stage: v.verdict for v in found.verdicts}["b"] == verdict
    said = "output hardly varies" if images == 0 else "two of its classes (19.0% of"
    assert (said in found.conclusion) is (verdict == "undecided")
    told = assess(structure, statistics, trained=True, **seen)
    assert {v.stage: v.verdict for v in told.verdicts}["b"] == "unused"


@pytest.mark.parametrize(
    ("resolved", "by_sign", "synthetic", "verdict"),
    [
        (0.9, math.nan, 0.1, "unused"),  # decisions on synthetic images, sure on the user's
        (0.9, 0.0, 0.9, "undecided"),  # nothing says that these are decisions: ask the weights
        (0.9, math.nan, math.nan, "undecided"),  # numbers on synthetic images
        (0.1, math.nan, 0.9, "undecided"),  # not sure on the user's
        (math.nan, math.nan, 0.9, "undecided"),  # numbers on the user's
    ],
)
def test_more_images_do_not_ask_the_weights_where_synthetic_ones_show_decisions(
    layers, resolved, by_sign, synthetic, verdict
):
    structure, _, model = layers(a=0.01, b=0.01)
    statistics = measure_model(model, initial=model.start)  # no more than a few steps
    own = response(0.5, 0.0, source="images")
    own = replace(own, cuts=tuple(replace(c, resolved=resolved, by_sign=0.0) for c in own.cuts))
    made = response(0.5, 0.0)
    made = replace(
        made, cuts=tuple(replace(c, resolved=synthetic, by_sign=by_sign) for c in made.cuts)
    )
    found = assess(structure, statistics, images=own, response=made)
    assert {v.stage: v.verdict for v in found.verdicts}["b"] == verdict
    assert ("no more training than a few steps" in found.conclusion) is (verdict == "undecided")


@pytest.mark.parametrize(
    ("synthetic", "said", "verdict"),
    [(0.19, False, "undecided"), (0.21, False, "unused"), (0.19, True, "unused")],
)
def test_silence_on_images_that_call_for_no_decision_is_no_second_opinion(
    layers, synthetic, said, verdict
):
    structure, _, model = layers(a=0.01, b=0.01)
    with torch.no_grad():
        for layer in model.children():
            layer.weight += 2.0 * layer.weight.std() * torch.randn(len(layer.weight), 1)
    seen = {}
    for source, value, resolved in (("images", 0.5, 0.9), ("response", 0.0, synthetic)):
        found = response(0.5, value, source=source)
        cuts = tuple(replace(cut, resolved=resolved) for cut in found.cuts)
        seen[source] = replace(found, cuts=cuts)
    found = assess(structure, measure_model(model), trained=said, **seen)
    (level,) = (v for v in found.verdicts if v.stage == "b")
    assert level.verdict == "used"
    (score,) = (s for s in level.scores if s.grade == "response")
    assert score.verdict == verdict
    assert ("there (19.0% of what sure decisions would)" in score.why) is score.guarded
    assert ("disagreement: by response unused" in level.why) is (verdict == "unused")
    assert "hardly trained" not in found.conclusion


def test_who_knows_that_a_network_was_trained_may_say_so(layers):
    structure, _, model = layers(a=0.01, b=0.01)
    measured = response(0.5, 0.0)
    silent = assess(structure, measure_model(model), response=measured)
    assert silent.state == "unknown"
    assert (
        "If you know that its training is over, say trained=True; else give initial="
        in silent.conclusion
    )
    told = assess(structure, measure_model(model), response=measured, trained=True)
    assert told.state == "trained"
    assert {v.stage: v.verdict for v in told.verdicts} == {"a": "used", "b": "unused"}
    assert told.notes == ("That it was trained says trained=True, not its weights.",)
    known = measure_model(model, initial=model.start)  # hardly trained, as far as this tells
    for said, verdict, notes in ((False, "undecided", 0), (True, "unused", 0)):
        found = assess(structure, known, response=measured, trained=said)
        assert (found.verdicts[0].verdict, len(found.notes)) == (verdict, notes)


def test_what_the_weights_prove_is_not_talked_away():
    model = Normed()
    found = assess(
        stages_of(model), measure_model(model), response=response(0.0, 0.5), trained=True
    )
    assert found.state == "untrained"
    assert {v.verdict for v in found.verdicts} == {"undecided"}
    assert found.notes == ("trained=True says otherwise: were its weights loaded?",)
    evidence = data(False, **{str(i): 1.0 for i in range(6)})
    with torch.no_grad():
        model.norms[3].bias.normal_(0.0, 0.1)
    found = assess(stages_of(model), measure_model(model), data=evidence, trained=True)
    assert found.state == "unskilled"


def test_what_only_weights_rank_comes_after_what_was_measured(layers):
    structure, statistics, _ = layers(a=0.02, b=0.05, c=0.05)
    measured = response(0.0, 0.9, 0.8)
    measured = replace(measured, cuts=measured.cuts[1:])  # none removes a
    structure.cuts = structure.cuts[1:]
    found = assess(structure, statistics, response=measured)
    assert [v.evidence for v in found.verdicts] == ["response", "response", "weights"]
    least = found.verdicts[-1].utilization
    assert least < min(v.utilization for v in found.verdicts[:-1])


def test_a_trained_encoder_under_a_fresh_decoder_decides_nothing():
    model = Normed()
    with torch.no_grad():
        for index in (0, 1):
            model.norms[index].weight.normal_(1.0, 0.1)
            model.norms[index].bias.normal_(0.0, 0.1)
    structure = stages_with_norms(model)
    late = [2, 3, 4, 5]
    for index in late:
        structure.stages[index].role = "decoder"
    found = assess(structure, measure_model(model), response=response(0.5, 0.5, 0.0))
    assert found.state == "unfinished"
    assert {v.verdict for v in found.verdicts} == {"undecided"}
    assert "Only the encoder shows training" in found.conclusion
    assert found.conclusion.endswith("If the kernels there were trained, say trained=True.")
    said = assess(structure, measure_model(model), response=response(0.5, 0.5, 0.0), trained=True)
    assert said.state == "trained"
    with torch.no_grad():  # kernels alone, beside frozen norms
        model.layers[4].weight.add_(0.3 * torch.randn(90, 1))
    found = assess(structure, measure_model(model), response=response(0.5, 0.5, 0.0))
    assert found.state == "trained"
    with torch.no_grad():
        model.norms[3].bias.normal_(0.0, 0.1)
    found = assess(structure, measure_model(model), response=response(0.5, 0.5, 0.0))
    assert found.state == "trained"


@pytest.mark.parametrize(
    ("give", "known"),
    [
        (lambda start: drawn_anew().state_dict(), False),  # another seed
        (lambda start: drawn_anew, False),
        (lambda start: start, True),
        (lambda start: lambda: start, True),
    ],
)
def test_a_start_that_no_kernel_descends_from_is_a_null_only(give, known):
    model = drawn_anew()
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = assess(stages_of(model), measure_model(model, initial=give(start)))
    assert found.state == "untrained"
    assert bool(found.notes) is not known
    with torch.no_grad():
        for layer in model.layers:
            layer.weight.add_(0.3 * layer.weight.std() * torch.randn(90, 1))
    statistics = measure_model(model, initial=give(start))
    sources = {p.null.source for p in statistics.parameters if p.is_kernel}
    assert sources == {"given" if known else "drawn"}
    found = assess(stages_of(model), statistics)
    assert found.state == "trained"
    assert ("No kernel descends from initial=" in "".join(found.notes)) is not known


def drawn_anew():
    """Normed seeds its draw; this does not."""
    torch.seed()
    state = torch.get_rng_state()
    model = Normed(norm=False)
    torch.set_rng_state(state)
    for layer in model.layers:
        layer.reset_parameters()
    return model


INITIALISERS = {
    "times 0.7": lambda p: p.mul_(0.7),
    "times 1.05": lambda p: p.mul_(1.05),
    "dirac": lambda p: nn.init.eye_(p) if p.dim() == 2 else p,
    "orthogonal": lambda p: nn.init.orthogonal_(p) if p.dim() == 2 else p,
    "normal": lambda p: nn.init.normal_(p, 0.0, 0.02),
    "positive": lambda p: nn.init.uniform_(p, 0.0, 0.1),
    "heavy tails": lambda p: p.copy_(torch.distributions.StudentT(2.0).sample(p.shape)),
}


@pytest.mark.parametrize("draw", INITIALISERS.values(), ids=INITIALISERS)
@pytest.mark.parametrize("norm", [False, True])
def test_no_initialiser_counts_as_training(draw, norm):
    model = Normed(norm=norm)
    with torch.no_grad():
        for parameter in model.parameters():
            draw(parameter)
    for initial in (None, Normed(norm=norm).state_dict()):
        statistics = measure_model(model, initial=initial)
        found = assess(stages_of(model), statistics, response=response(0.0, 0.5))
        if initial is None:
            assert found.state in ("untrained", "unknown")
        assert "unused" not in {v.verdict for v in found.verdicts}


def test_rounding_to_a_coarse_format_is_no_training():
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Conv2d(16, 16, 3) for _ in range(8))).bfloat16().float()
    assert not shows_training(measure_model(model))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * parameter.std() * torch.randn_like(parameter)
    assert shows_training(measure_model(model))
