"""The verdict on stages and networks: what is recognised, what stays undecided, who disagrees."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from weightscope.statistics import measure_model
from weightscope.utilization import DataEvidence, Displacement, Importance, Score, assess
from weightscope.utilization.ranking import join_grades


def history(**ratios):
    records = [Displacement(f"{n}.weight", 100, r, 1.0, 1.0, 1.0) for n, r in ratios.items()]
    return SimpleNamespace(displacements=lambda: tuple(records))


def data(skilled=True, **importances):
    names = list(importances)
    return DataEvidence(
        importances={n: Importance(v, 0.0) for n, v in importances.items()},
        activations={},
        ablation=None,
        skilled=skilled,
        levels={n: i for i, n in enumerate(names)},
    )


def test_stages_come_from_the_least_to_the_most_used(layers):
    structure, statistics, _ = layers(a=0.05, b=0.0, c=0.032)
    assessment = assess(structure, statistics)
    assert assessment.state == "trained"
    assert [v.stage for v in assessment.verdicts] == ["b", "c", "a"]
    assert [v.verdict for v in assessment.verdicts] == ["unused", "undecided", "undecided"]
    assert all(v.evidence == "weights" for v in assessment.verdicts)


@pytest.mark.parametrize("exact", [True, False])
def test_an_untrained_network_is_recognised(exact):
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(90, 90) for _ in range(6)))
    structure = SimpleNamespace(
        stages=tuple(
            SimpleNamespace(name=str(i), layers=(str(i),), role="encoder", level=i)
            for i in range(6)
        ),
        cuts=(),
    )
    initial = {k: v.clone() for k, v in model.state_dict().items()} if exact else None
    assessment = assess(structure, measure_model(model, initial=initial))
    assert assessment.state == "untrained"
    assert {v.verdict for v in assessment.verdicts} == {"undecided"}
    assert "nothing can be concluded" in assessment.conclusion


def test_a_collapsed_network_is_recognised(layers):
    structure, _, model = layers(a=0.05, b=0.05)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1e-4)
    assessment = assess(structure, measure_model(model, initial=model.start))
    assert assessment.state == "collapsed"
    assert {v.verdict for v in assessment.verdicts} == {"undecided"}


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
        structure, statistics, history=history(a=5.0, b=5.0), data=data(a=0.001, b=1.0)
    )
    verdicts = {v.stage: v for v in assessment.verdicts}
    assert [s.grade for s in verdicts["a"].scores] == ["data", "history", "weights"]
    assert (verdicts["a"].verdict, verdicts["a"].evidence) == ("unused", "data")
    assert "disagreement: by history used" in verdicts["a"].why
    assert verdicts["b"].verdict == "used"
    assert "by weights unused" in verdicts["b"].why


def test_data_does_not_condemn_what_no_cut_removes(layers):
    structure, statistics, _ = layers(head=0.05, b=0.05)
    structure.cuts = structure.cuts[1:]
    found = assess(structure, statistics, data=data(head=0.001, b=1.0)).verdicts
    verdicts = {v.stage: v for v in found}
    assert verdicts["head"].verdict == "undecided"
    assert "no cut removes it" in verdicts["head"].why
    assert verdicts["b"].verdict == "used"


def test_no_grade_condemns_what_no_cut_removes(layers):
    structure, statistics, _ = layers("rule", head=0.0, b=0.05)
    structure.cuts = structure.cuts[1:]
    for evidence in ({}, {"history": history(head=0.0, b=5.0)}):
        assessment = assess(structure, statistics, **evidence)
        verdict = next(v for v in assessment.verdicts if v.stage == "head")
        assert verdict.scores[0].verdict == "unused"
        assert verdict.verdict == "undecided"
        assert verdict.why.endswith("no cut removes it, so this cannot be checked")


def test_a_grade_that_cannot_measure_gives_way(layers):
    structure, statistics, _ = layers("rule", a=0.05, b=0.0)
    assessment = assess(structure, statistics, history=history(a=3.0))
    verdicts = {v.stage: v for v in assessment.verdicts}
    assert verdicts["a"].evidence == "history"
    assert (verdicts["b"].evidence, verdicts["b"].verdict) == ("weights", "unused")


def recorded(statistics):
    """A history that ends with these weights, all of which moved four times the walk."""
    records = []
    for p in statistics.parameters:
        m = p.comparison.movement
        walk = m.moved / 4
        records.append(Displacement(p.parameter, m.count, m.moved, m.shrinkage, walk, walk))
    return SimpleNamespace(displacements=lambda: tuple(records))


@pytest.mark.parametrize(
    ("change", "verdict", "why"),
    [
        (lambda weight, start: weight.copy_(start), "unused", "not moved since its start"),
        (lambda weight, start: weight.mul_(1e-3), "unused", "collapsed"),
        (lambda weight, start: weight.add_(0.03 * start), "used", "times as far"),
    ],
)
def test_history_says_nothing_of_weights_that_were_changed_after_it(layers, change, verdict, why):
    structure, statistics, model = layers(a=0.05, b=0.04, c=0.05)
    history = recorded(statistics)
    with torch.no_grad():
        change(model.b.weight, model.start["b.weight"])
    statistics = measure_model(model, initial=model.start)
    verdicts = {v.stage: v for v in assess(structure, statistics, history=history).verdicts}
    assert verdicts["b"].verdict == verdict
    assert why in verdicts["b"].why
    assert verdicts["b"].evidence == ("history" if verdict == "used" else "weights")
    by_history = next(s for s in verdicts["b"].scores if s.grade == "history")
    assert ("changed after" in by_history.why) == (verdict != "used")
    assert (verdicts["a"].verdict, verdicts["a"].evidence) == ("used", "history")


def test_history_outranks_weights_that_look_untrained(layers):
    structure, statistics, _ = layers("rule", a=0.0, b=0.0, c=0.0, d=0.0)
    assert assess(structure, statistics).state == "untrained"
    assert assess(structure, statistics, history=history(a=3.0, b=3.0)).state == "trained"


def score(grade, value, verdict):
    return Score(grade, value, value, value, verdict, f"{grade} says so")


def test_an_undecided_strong_grade_is_not_overruled():
    joined = join_grades(
        "a", [score("data", 0.5, "undecided"), score("weights", 0.0, "unused")], trusted=True
    )
    assert joined.verdict == "undecided"
    assert "weights alone: unused" in joined.why


def test_a_network_without_nulls_is_unknown():
    structure = SimpleNamespace(
        cuts=(), stages=(SimpleNamespace(name="a", layers=(), role="x", level=0),)
    )
    statistics = SimpleNamespace(parameters=())
    assessment = assess(structure, statistics)
    assert assessment.state == "unknown"
    assert math.isnan(assessment.verdicts[0].utilization)


def test_conclusion_names_every_stage(layers):
    structure, statistics, _ = layers(a=0.05, b=0.0, c=0.032)
    conclusion = assess(structure, statistics).conclusion
    assert "1 unused (b)" in conclusion
    assert "2 undecided (c, a)" in conclusion
