"""The evidence study: its list of jobs, its own truth, its judgement, and its protocol in small."""

import json
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from studies import restorers, shapes
from studies.evidence_protocol import classes
from studies.evidence_protocol.classes import CutOfClasses
from studies.evidence_protocol.compare import auc, auc_within_depth, truth_table
from studies.evidence_protocol.designs import DESIGNS
from studies.evidence_protocol.given import dependence
from studies.evidence_protocol.jobs import BEGIN, HELD_OUT, Job, jobs
from studies.evidence_protocol.judge import (
    CAUSES,
    cause,
    first_by,
    given_table,
    grade_row,
    judge_cut,
    refutations,
    skilled,
    together,
    undecided_cause,
)
from studies.evidence_protocol.page import allowed_text
from studies.evidence_protocol.responses import figures, leaves, matched
from studies.evidence_protocol.sentences import sentences
from studies.evidence_protocol.tasks import TASKS, Pool, make_pool
from studies.evidence_protocol.truth import Skill, measure_truth, without_levels
from studies.guards import too_early
from studies.labels import counts, f1, failures
from studies.tiny import tally
from weightscope.movement import Displacement, Movement
from weightscope.utilization import AblationResult, DataEvidence
from weightscope.utilization.answers import BASE, COMPUTED, INPUT
from weightscope.utilization.lines import CHANNELS
from weightscope.utilization.ranking import conclude, foreign_start
from weightscope.utilization.records import Score, StageVerdict

TINY = Job(
    index=0, design="plain", task="discs", optimizer="adam", rate=1e-2, schedule="cosine",
    start="scratch", earlier="", labels="true", width=6, levels=3, steps=3, size=32, standard=True,
    ema=True, early=False,
)  # fmt: skip


def test_auc_counts_pairs_and_halves_ties():
    used = np.array([True, True, False, False])
    assert auc(np.array([3.0, 2.0, 1.0, 0.0]), used) == 1.0
    assert auc(np.array([3.0, 1.0, 2.0, 0.0]), used) == 0.75
    assert auc(np.zeros(4), used) == 0.5
    assert np.isnan(auc(np.zeros(2), np.array([True, True])))


def test_depth_itself_scores_one_half_within_depth():
    level = np.array([1, 1, 2, 2, 3, 3])
    used = np.array([True, True, True, False, False, False])
    assert auc(-level.astype(float), used) > 0.8
    assert auc_within_depth(-level.astype(float), used, level) == 0.5


def test_a_prefix_of_the_list_is_the_list_of_fewer():
    assert jobs(40)[:15] == jobs(15)
    assert len({job.name for job in jobs(120)}) == 120


def test_choosing_networks_know_no_held_out_circumstance():
    listed = jobs(546)
    choosing = [job for job in listed if job.half == "choose"]
    assert len(choosing) == 32
    assert {job.half for job in listed[BEGIN["new"] :]} == set(BEGIN)
    assert [job.half for job in listed[103:105]] == ["new", "again"]
    assert [job.half for job in listed[223:225]] == ["again", "third"]
    assert [job.half for job in listed[287:289]] == ["third", "fourth"]
    assert [job.half for job in listed[351:353]] == ["fourth", "fifth"]
    assert [job.half for job in listed[415:417]] == ["fifth", "last"]
    assert [job.half for job in listed[543:545]] == ["last", "newest"]
    for circumstance, values in HELD_OUT.items():
        assert not {getattr(job, circumstance) for job in choosing} & set(values)
        assert set(values) <= {getattr(job, circumstance) for job in listed}


def test_every_prefix_holds_all_tasks_about_equally_often():
    seen = Counter(job.task for job in jobs(56) if job.half == "choose")
    assert set(seen) == set(TASKS) - set(HELD_OUT["task"])
    assert max(seen.values()) - min(seen.values()) <= 1


def test_a_changed_setting_is_another_folder():
    assert replace(TINY, rate=2e-2).name != TINY.name


class Halves(nn.Module):
    """Answers with what a full-resolution and a coarse branch say, added."""

    def __init__(self, share):
        super().__init__()
        self.share, self.fine, self.coarse = share, nn.Identity(), nn.Identity()

    def forward(self, x):
        low = nn.functional.avg_pool2d(x, 8)
        back = self.coarse(nn.functional.interpolate(low, scale_factor=8.0))
        return self.fine(x) * (1 - self.share) + back * self.share


def test_a_level_without_which_nothing_changes_loses_nothing():
    x = torch.randn(6, 1, 16, 16)
    found = without_levels(Halves(0.0), {}, x)
    assert list(found) == [0]
    model = Halves(0.0)
    found = without_levels(model, {8: [model.coarse]}, x)
    assert torch.equal(found[0], found[8])


@pytest.mark.parametrize("share", [0.3, 1.0])
def test_the_truth_is_the_variance_that_a_level_explains(share):
    torch.manual_seed(0)
    x = torch.randn(8, 1, 32, 32)
    model = Halves(share)
    y = model(x)
    truth = measure_truth(
        model, {8: [model.coarse]}, "regression", Pool(x, y), nn.functional.mse_loss
    )
    coarse = nn.functional.avg_pool2d(x, 8)
    gone = share**2 * coarse.var(unbiased=False)
    error = (y - y.mean() - _line(x, y) * (x - x.mean())).square().mean()
    assert truth["quality"] == pytest.approx(0.0, abs=1e-9)
    assert truth["skill"] == pytest.approx(1.0, abs=1e-6)
    assert truth["levels"]["8"]["lost"] == pytest.approx(float(gone / error), rel=1e-3)
    assert not model.coarse._forward_hooks


def _line(x, y):
    return ((x - x.mean()) * (y - y.mean())).mean() / x.var(unbiased=False)


def test_skill_starts_at_the_best_constant_answer():
    y = torch.zeros(5, 1, 8, 8)
    y[:, :, :2] = 1.0
    skill, once = Skill("binary", Pool(y, y)), np.ones((1, 5))
    assert skill.quality(skill.sums(y), once)[0] == 1.0
    assert skill.trivial(once)[0] == pytest.approx(0.4)  # all foreground: 2 p / (1 + p)
    assert skill.quality(skill.sums(torch.zeros_like(y)), once)[0] == pytest.approx(0.4)
    classes = Skill("classes", Pool(y, (2 * y[:, 0]).long()))
    assert classes.trivial(once)[0] == 0.75


@pytest.mark.parametrize("design", [d for d in DESIGNS if not d.startswith("smp")])
def test_taps_reach_every_level_below_the_first(design):
    model = DESIGNS[design].build(1, 2, 8, 4).eval()
    taps = DESIGNS[design].taps(model)
    assert sorted(taps) == [2, 4, 8]
    found = without_levels(model, taps, torch.randn(2, 1, 32, 32))
    assert found[0].shape == (2, 2, 32, 32)
    if design != "gated":  # whose gates are shut before training
        assert all(not torch.equal(found[0], found[r]) for r in taps)


@pytest.mark.parametrize("task", ["particles", "rings_middle", "rings_large", "discs", "radius"])
def test_scenes_depend_on_the_seed_and_the_part_alone(task, tmp_path):
    def pool(part, seed):
        return make_pool(TASKS[task], part, 32, 2, seed, tmp_path, standard=False)

    first, again = pool("train", 1), pool("train", 1)
    assert first.images.shape == (2, TASKS[task].channels, 32, 32)
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.targets, again.targets)
    assert not torch.equal(first.images, pool("test", 1).images)
    assert not torch.equal(first.images, pool("train", 2).images)


def test_equal_answers_have_no_response():
    whole = torch.randn(4, 3, 16, 16)
    same = figures(whole, whole.clone())
    assert all(
        same[k] == pytest.approx(0.0, abs=1e-6) for k in same if k not in ("spread", "level")
    )
    other = figures(whole, torch.zeros_like(whole) + whole.mean((0, 2, 3), keepdim=True))
    assert other["change"] == pytest.approx(1.0)
    assert other["corr"] == pytest.approx(1.0)


def test_matched_images_bring_batch_norms_to_their_statistics():
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm2d(1), nn.Conv2d(1, 2, 3)).eval()
    model[0].running_mean.fill_(2.0)
    model[0].running_var.fill_(4.0)
    x = leaves(1, 16, 0)
    found = matched(model, x)
    assert abs(float(found.mean()) - 2.0) < abs(float(x.mean()) - 2.0)
    assert all(p.grad is None for p in model.parameters())
    assert matched(nn.Sequential(nn.Conv2d(1, 2, 3)), x) is None


def test_a_cut_is_unused_only_if_all_that_it_removes_is():
    assert together(["unused", "unused"]) == "unused"
    assert together(["unused", "undecided"]) == "undecided"
    assert together(["unused", "used"]) == "used"
    assert together([]) == "undecided"


def test_the_score_of_a_cut_is_the_largest_that_it_removes():
    def stage(reduction, score, verdict):
        said = {"data": {"score": score, "verdict": verdict}}
        return {"reduction": reduction, "verdict": verdict, "scores": said}

    found = {"metric": {"stages": [stage(1, 0.9, "used"), stage(2, 0.3, "unused"),
                                   stage(4, 0.1, "unused")]}}  # fmt: skip
    assert judge_cut(found, 2, TINY)["metric"] == 0.3
    assert judge_cut(found, 4, TINY)["metric"] == 0.1
    assert judge_cut(found, 2, TINY)["metric_final"] == "unused"


def test_wrong_verdicts_are_shares_of_all_cuts():
    table = pd.DataFrame({
        "labels": "true", "skilled": [True] * 4 + [False], "reduction": 2,
        "used": [True, True, False, False, True], "metric": [0.9, 0.1, 0.2, 0.0, 0.0],
        "metric_verdict": ["used", "unused", "undecided", "unused", "unused"],
    })  # fmt: skip
    row = grade_row(skilled(table), "metric")
    assert row["auc"] == 0.75
    assert row["decided"] == 0.75
    assert row["right"] == pytest.approx(2 / 3)
    assert row["wrong_unused"] == 0.25


def test_what_the_images_given_allow_is_told_beside_the_truth_on_others():
    table = pd.DataFrame({
        "labels": "true", "skilled": [True] * 4 + [False], "name": ["a", "a", "b", "b", "c"],
        "reduction": [2, 4, 2, 4, 2], "used": [True, False, False, False, True],
        "lost": [0.5, 0.01, 0.04, 0.0, 0.9],
    })  # fmt: skip
    seen = {  # of b the images given say that the first cut costs too much
        "a": {"2": (0.4, 0.3, 0.5), "4": (0.02, 0.0, 0.03)},
        "b": {"2": (0.07, 0.06, 0.09), "4": (0.0, -0.01, 0.06)},
    }
    allowed = given_table(table, lambda name: {
        "data": {cut: dict(zip(("lost", "low", "high"), found, strict=True))
                 for cut, found in seen[name].items()}})  # fmt: skip
    assert allowed["name"].tolist() == ["a", "a", "b", "b"]
    assert allowed["given_verdict"].tolist() == ["used", "unused", "used", "undecided"]
    for low, high in ((0.04, 0.08), (0.04, 0.0501)):  # on both sides of 5 %
        around = {"data": {"2": {"lost": 0.06, "low": low, "high": high}}}
        assert given_table(table[:1], lambda name, own=around: own)["given_verdict"].item() == (
            "undecided"
        )
    assert first_by(allowed, "lost").to_dict() == {"a": 4, "b": 2}
    assert first_by(allowed, "given").to_dict() == {"a": 4, "b": 4}
    assert first_by(allowed[:1], "lost").to_dict() == {"a": 0}
    text = " ".join(allowed_text(allowed))
    assert "75% have an interval" in text
    assert "66.7% of these right, 25.0% of all wrong" in text
    assert "in 50% of 2 networks; in 0 it costs more there" in text
    assert allowed_text(allowed[:0]) == []


def test_refutations_count_clear_cuts_only():
    table = pd.DataFrame({
        "labels": "true", "skilled": True, "reduction": 4, "task": "radius", "name": "a",
        "lost_low": [0.1, 0.1, 0.0, 0.0, 0.0], "lost_high": [0.3, 0.3, 0.01, 0.01, 0.2],
        "used": [True, True, False, False, True], "response": [0.9, 0.6, 0.1, 0.2, 0.0],
        "signs": [0.9, 0.1, 0.1, 0.2, 0.0],
        "response_verdict": ["used", "undecided", "unused", "unused", "unused"],
        "images_verdict": ["used", "unused", "used", "unused", "unused"],
    })  # fmt: skip
    found = refutations(table).set_index("claim")
    assert found["failed"].to_dict() == {
        "unused, response": False, "used, response": False, "unused, images": True,
        "used, images": True, "the middle": False, "the form of numbers": True,
    }  # fmt: skip
    assert found.loc["unused, images", "found"] == "1 of 2 are used"
    clear = refutations(table[:4]).set_index("claim")
    assert not clear.loc["the form of numbers", "failed"]


@pytest.mark.slow
def test_a_network_is_trained_stored_and_scored_once(tmp_path):
    from studies.evidence_protocol.page import write_page, write_responses
    from studies.evidence_protocol.scoring import code_version, score
    from studies.evidence_protocol.training import stored, training
    from studies.runner import Store, run

    listed = [TINY, replace(TINY, index=1, optimizer="lion", labels="none", ema=False)]
    trainings = [training(job) for job in listed]
    run(trainings, Store(tmp_path), show=lambda text: None)
    for job in listed:
        folder = stored(job, tmp_path)
        said = score(job, tmp_path)
        assert not [way for way, found in said.items() if "error" in found]
        rows = [{"stimulus": "leaves", "reduction": r, "flip": 0.1} for r in (2, 4)]
        (folder / "responses.json").write_text(json.dumps(rows))
    frame = truth_table(listed, tmp_path)
    assert frame["reduction"].tolist() == [2, 4, 2, 4]
    assert not frame[frame["labels"] == "none"]["used"].any()
    write_responses(listed, tmp_path, tmp_path / "page")
    write_page(listed, tmp_path, code_version(), tmp_path / "page")
    assert "## Wrong verdicts" in (tmp_path / "page" / "index.md").read_text()


def said_of(conclusion, evidence="data", **verdicts):
    stages = [
        {"stage": name, "reduction": reduction, "verdict": verdict, "evidence": evidence}
        for name, (reduction, verdict) in verdicts.items()
    ]
    return {"conclusion": conclusion, "stages": stages}


def true_cuts(*lost, skill=0.5):
    return pd.DataFrame([
        {"reduction": 2 * 2**i, "lost": x, "lost_low": x - 0.02, "lost_high": x + 0.02,
         "used": x > 0.05, "skill": skill}
        for i, x in enumerate(lost)
    ])  # fmt: skip


NOTHING = "nothing can be concluded about which stages are used"


@pytest.mark.parametrize(
    ("text", "labels", "false"),
    [
        ("By data: 1 unused (a); 1 used (b).", "true", []),
        ("By data: 1 used (a); 1 unused (b).", "true", ["without a 0.0% of the skill go; "
                                                        "without b 50.0% of the skill go"]),
        ("By data: 1 unused (head).", "true", ["no cut removes head"]),
        ("By data: 1 used (a).", "none", ["it was never trained"]),
        ("1 undecided (a).", "none", []),
        (f"Every layer looks as it was initialised: an untrained network, {NOTHING}.", "true",
         ["it was trained"]),
        (f"Every layer looks as it was initialised, 7 tensors to the last bit: an untrained "
         f"network, {NOTHING}. Its random features are better than the best trivial answer "
         "(f1 0.46 against 0.32).", "none", []),
        (f"On the batches given the network is no better than the best trivial answer (mse 2 "
         f"against 1.5): {NOTHING}.", "shuffled", []),
        (f"On the batches given the network is no better than the best trivial answer (f1 0.5 "
         f"against 0.4): {NOTHING}.", "shuffled", ["the figures say that it is better"]),
        (f"On the batches given the network is hardly better than the best trivial answer "
         f"(f1 0.5 against 0.49): {NOTHING}.", "true", ["other images show its skill"]),
        ("1 undecided (a). The network is better than the best trivial answer (<lambda>, "
         "recalibrated 0.25 against 0.341), but 40 images are too few to be sure of it: give more. "
         "Nothing here can be removed on this evidence.", "true", ["some stage is called unused"]),
        (f"On the batches given the network is no better than the best trivial answer (mse 2 "
         f"against 1.5), but 40 images are too few to be sure of it: {NOTHING}; give more.", "true",
         []),
        ("The output is the same for every synthetic image: the network has died, or nothing "
         "reaches it. 1 undecided (a).", "true", ["its answers vary"]),
        ("9 images decide nothing, 10 or more are needed: give more.", "true", []),
        ("19 images decide nothing, 10 or more are needed: give more.", "true", ["that is enough"]),
        ("9 of 40 images weigh in f1 (the others hold no label or value that counts in it, or have "
         "one value with and without every level), and 10 "
         "or more are needed: give more.", "true", []),
        ("The targets are the same everywhere, so that nothing is learned from them: give targets "
         "that differ.", "true", ["the targets differ"]),
        ("By data on 15 of 40 images: 1 used (b).", "true", []),
        (f"On the batches given the network is hardly better than the best trivial answer "
         f"(accuracy 0.5 against 0.49): {NOTHING}. By accuracy a constant is right wherever the "
         "commonest class is; metric='f1' weighs what is rare as much.", "shuffled", []),
        *((f"On the batches given the network is no better than the best trivial answer, a "
           f"straight line of {what}, (mse 0.5 against 0.49): {NOTHING}.", "shuffled", [])
          for what in (INPUT, BASE, COMPUTED, CHANNELS)),
        ("history= says nothing of any kernel: no noise walk is derived for RMSprop.", "true", []),
        ("history= says nothing of some kernels: no noise walk is derived for RMSprop. No kernel "
         "is as history= recorded it: the weights are changed.", "true",
         ["the history is its own, and no start is given"]),
        ("The network is wonderful.", "true", ["no rule knows this sentence"]),
    ],
)  # fmt: skip
def test_every_sentence_of_a_conclusion_is_checked(text, labels, false):
    said = said_of(text, a=(4, "unused"), b=(2, "used"), head=(1, "used"))
    found = sentences(said, labels, true_cuts(0.5, 0.0))
    assert [s.false for s in found if s.false] == false
    assert " ".join(s.text for s in found) == text


def test_averaged_weights_are_named_where_they_are_the_cause():
    (text,) = foreign_start(
        SimpleNamespace(parameters=[kernel_of(moved=0.8)]), {"w": Displacement("w", 9, 1, 1, 1, 1)}
    )
    own = true_cuts(0.5)
    for averaged, false in ((False, ["the history is its own, and no start is given"]), (True, [])):
        found = sentences(said_of(text), "true", own.assign(ema=averaged))
        assert [s.false for s in found if s.false] == false
        assert [s.kind for s in found] == ["foreign"]
    told = "No kernel that history= holds is as it recorded it, which is of another training."
    assert sentences(said_of(told), "true", own.assign(ema=True))[0].false


def kernel_of(moved):
    return SimpleNamespace(
        parameter="w", is_kernel=True, null=SimpleNamespace(source="given", std=1.0),
        since_given=Movement(9, moved, 1.0),
    )  # fmt: skip


def test_what_is_said_of_kernels_trained_alone_is_read_where_it_is_said():
    ablation = AblationResult((), 0.9, 0.3, 0.5, 40, "f1")
    assert ablation.skilled
    statistics = SimpleNamespace(nonfinite={}, still=("a.bias",))
    text = conclude([], "untrained", statistics, DataEvidence({}, ablation, None, {}))
    found = sentences(said_of(text), "none", true_cuts(0.5))
    assert [s.kind for s in found] == ["untrained", "random", "kernels alone"]
    assert not [s.false for s in found if s.false]
    (found,) = sentences(said_of(found[-1].text), "none", true_cuts(0.5))
    assert found.false


@pytest.mark.parametrize("state", ["trained", "untrained", "unskilled", "broken", "unknown"])
@pytest.mark.parametrize("skill", [None, -0.1, 0.02, 0.3])
@pytest.mark.parametrize("grade", ["data", "images", "response"])
def test_the_rules_know_every_sentence_of_the_library(state, skill, grade):
    statistics = SimpleNamespace(nonfinite={"a.weight": 3}, overflown={}, still=("a.bias",))
    ablation = AblationResult((), 0.9, 0.9 - (skill or 0), -1.0, 40, "f1")
    data = None if skill is None else DataEvidence({}, ablation, None, {})
    verdicts = [StageVerdict("a", 0.1, verdict, grade, "", ()) for verdict in ("used", "undecided")]
    if state == "unskilled" and skill not in (-0.1, 0.02):
        return  # so called only where data show that there is no skill
    for cuttable in (True, False):
        text = conclude(verdicts, state, statistics, data, images=12, cuttable=cuttable)
        found = sentences(said_of(text, a=(2, "used")), "shuffled", true_cuts(0.5))
        assert all(s.kind for s in found), found
        assert cuttable or "say more" not in text


@pytest.mark.parametrize(
    "doubt",
    [
        "its weights show no more training than a few steps leave",
        "no level surely responds, and its weights show no more training than "
        "some tens of steps leave, or many small ones",
        "no level surely responds, and its output hardly varies",
        "no level surely responds on synthetic images, and its output hardly varies",
        "no level surely responds, and its output, read as decisions, hardly varies (4.1% of what "
        "sure ones would)",
        "its probabilities hardly tell apart two of its classes (4.1% of what sure decisions "
        "would)",
    ],
)
def test_the_rules_know_what_is_said_of_networks_that_are_hardly_trained(doubt):
    score = Score("response", 0.1, 0.1, 0.1, "undecided", doubt)
    verdicts = [StageVerdict("a", 0.1, "undecided", "response", "", (score,))]
    statistics = SimpleNamespace(nonfinite={}, still=())
    said = said_of(conclude(verdicts, "trained", statistics, None, doubt), a=(2, "undecided"))
    assert [s.kind for s in sentences(said, "true", true_cuts(0.5))][1] == "hardly"


def test_a_verdict_is_checked_on_what_it_was_seen_on():
    lost = {"2": {"lost": 0.3, "low": 0.2, "high": 0.4}, "4": {"lost": 0.06, "low": 0, "high": 0.1}}
    seen = {"data": lost, "images": {"2": 0.4, "4": 0.01}, "response": {"2": 0.1, "4": 0.2}}
    wrong = {
        ("data", "used", "unused"): [],  # the second may lie on either side
        ("data", "unused", "unused"): ["without a 30.0% of the skill go on these images"],
        ("images", "used", "unused"): [],
        ("images", "used", "used"): ["without b the output changes by 0.01 of what it can"],
        ("response", "used", "unused"): [
            "without a the output changes by 0.1 of what it can; "
            "without b the output changes by 0.2 of what it can"
        ],
        ("response", "unused", "used"): [],
    }
    for (grade, a, b), false in wrong.items():
        said = said_of(f"By {grade}: 1 {a} (a); 1 {b} (b).", grade, a=(2, a), b=(4, b))
        found = sentences(said, "true", true_cuts(0.5, 0.0), seen)
        assert [s.false for s in found if s.false] == false
    said = said_of("By data on 40 images: 1 unused (a).", a=(2, "unused"))
    (found,) = sentences(said, "true", true_cuts(0.5), {"data": {"2": lost["4"]}})
    assert (found.false, found.elsewhere) == ("", "without a 50.0% of the skill go")


@pytest.mark.parametrize(("on_these", "said"), [
    (0.013, "other images than those given: on these 1.3% of the skill go"), (0.3, ""),
])  # fmt: skip
def test_a_wrong_verdict_may_be_one_of_other_images(on_these, said):
    cut = {"name": "a", "lost": 0.14, "lost_low": 0.1, "lost_high": 0.2, "reduction": 8.0,
           "task": "denoise"}  # fmt: skip
    seen = {"data": {"8": {"lost": on_these}}}
    assert cause(pd.Series(cut), "metric", "unused", seen) == said
    shown = cause(pd.Series(cut), "response", "unused", {"images": {"8": on_these}})
    assert ("on these the output changes by 0.013" in shown) == bool(said)


def test_how_far_an_answer_depends_on_a_level():
    torch.manual_seed(0)
    whole, images = torch.randn(8, 1, 16, 16), torch.randn(8, 1, 16, 16)
    assert dependence(whole, whole, images, "binary") == 0.0
    assert dependence(whole, torch.randn(8, 1, 16, 16), images, "binary") == pytest.approx(1, 0.1)
    assert dependence(whole, -whole, images, "binary") == pytest.approx(2**0.5, 0.1)
    assert dependence(images + 0.1 * whole, images + 0.1 * torch.randn(8, 1, 16, 16), images,
                      "regression") == pytest.approx(1, 0.1)  # fmt: skip
    classes = torch.randn(8, 3, 16, 16)
    assert dependence(classes, classes.roll(1, 0), images, "classes") == pytest.approx(1, 0.1)


def test_a_sentence_is_open_where_the_truth_is():
    said = said_of("By data: 1 unused (a).", a=(2, "unused"))
    assert [s.open for s in sentences(said, "true", true_cuts(0.06))] == [True]
    assert [s.open for s in sentences(said, "true", true_cuts(0.2))] == [False]


def test_a_stage_that_is_used_at_the_end_was_condemned_too_early():
    def row(trained, *verdicts, network="a"):
        return {"network": network, "trained": trained, "verdicts": (list(verdicts), ["used"])}

    rows = [
        row("1 step", "unused", "unused", "unused"),
        row("20 steps", "unused", "unused", "undecided"),
        row("60 steps", "undecided", "unused", "used"),
        row("120 steps", "used", "unused", "used"),
        row("60 steps", "unused", network="b"),
        row("120 steps", "undecided", network="b"),
    ]
    assert too_early(rows) == (4, {"a, 20 steps": 1})


def test_the_failures_of_the_labels_are_those_that_were_written_down():
    def cut(kind, used, before, after, clear=True):
        return {"name": "a", "kind": kind, "level": 1, "grade": "images", "used": used, "lost": 0.3,
                "clear": clear, "before": before, "after": after}  # fmt: skip

    assert not failures([cut("labels", True, "unused", "undecided")])
    assert not failures([cut("labels", True, "unused", "unused", clear=False)])
    assert not failures([cut("labels", False, "unused", "unused")])
    (failed,) = failures([cut("labels", True, "unused", "unused")])
    assert "called unused" in failed
    right = [cut("classes", True, "used", "used") for _ in range(9)]
    assert not failures([*right, cut("classes", True, "used", "used")])
    assert not failures([*right, cut("classes", True, "used", "undecided")])
    (failed,) = failures([*right[1:], cut("classes", True, "used", "undecided")])
    assert "1 of 9 right verdicts" in failed
    found = [cut("labels", True, "used", "undecided"), cut("labels", True, "unused", "used")]
    assert (tally(found, "before"), tally(found, "after")) == ((1, 1, 0, 0), (1, 0, 0, 1))


@pytest.mark.parametrize(
    ("figures", "why", "cause"),
    [
        ((0.03, 0.02, 0.04), "x; but its weights show no more training than a few", "hardly"),
        (
            (0.03, 0.02, 0.04),
            "decision 2 of the output responds with 0.3, however rare it is",
            "part",
        ),
        ((0.04, 0.03, 0.1), "", "lower"),
        ((0.3, 0.2, 0.4), "9% of the decisions change", "upper"),
        ((0.3, 0.27, 0.34), "9% of the decisions change", "between"),
        ((0.3, 0.2, 0.4), "the numbers change by 0.1", "upper"),
        ((0.22, 0.2, 0.24), "the numbers change by 0.1", "between"),
        ((0.1, 0.09, 0.2), "", "between"),
        ((0.1, 0.01, 0.6), "", "wide"),
        ((0.1, 0.01, 0.6), "what is unused must be so for both", "readings"),
        ((0.1, 0.09, 0.2), "what is unused must be so for both", "between"),
        ((0.5, 0.4, 0.6), "x, but the cut also removes shallower levels", "shallower"),
        ((float("nan"),) * 3, "not measured: the network has died", "unmeasured"),
    ],
)
def test_each_undecided_cut_has_one_cause(figures, why, cause):
    assert undecided_cause("trained", why, *figures) == cause
    assert undecided_cause("unknown", why, *figures) == "untold"
    assert cause in CAUSES


def test_the_failures_of_the_reading_of_restorers_are_those_that_were_written_down():
    def cut(kind, used, before, after, clear=True, follows=0.9):
        return {"name": "a", "kind": kind, "level": 1, "grade": "images", "used": used, "lost": 0.3,
                "clear": clear, "before": before, "after": after, "follows": follows}  # fmt: skip

    idle = cut("bright", False, "used", "used")
    assert not restorers.failures([idle, idle | {"follows": 0.5}, idle | {"clear": False}])
    (failed,) = restorers.failures([idle, idle])
    assert "2 idle cuts" in failed
    assert not restorers.failures([cut("bright", True, "unused", "undecided")])
    (failed,) = restorers.failures([cut("bright", True, "unused", "unused")])
    assert "called unused" in failed
    right = [cut("restorer", True, "used", "used") for _ in range(9)]
    assert not restorers.failures([*right, cut("depth", True, "used", "undecided")])
    (failed,) = restorers.failures([*right[1:], cut("depth", True, "used", "undecided")])
    assert "1 of 9 right verdicts" in failed


def test_the_failures_of_the_guard_of_classes_are_those_that_were_written_down():
    def cut(before, after, lost=0.0, low=0.0):
        return CutOfClasses("a", True, "f1", 4, before, after, lost, low, low)

    assert not classes.failures([cut("unused", "undecided", low=0.2), cut("used", "used", 0.9, 1)])
    (failed,) = classes.failures([cut("unused", "unused", low=0.2)])
    assert "a class surely loses 20%" in failed
    right = [cut("unused", "unused") for _ in range(9)]
    assert not classes.failures([*right, cut("unused", "undecided")])
    assert not classes.failures([*right[1:], cut("unused", "undecided", lost=0.1)])
    (failed,) = classes.failures([*right[1:], cut("unused", "undecided")])
    assert "1 of 9 right verdicts" in failed


def test_the_class_that_surely_loses_most_is_found_on_test_images():
    targets = torch.arange(3).repeat_interleave(8).reshape(1, 24).repeat(20, 1)[:, None]
    whole = torch.nn.functional.one_hot(targets, 3).movedim(-1, 1).float()
    cut = whole.clone()
    cut[:, 0][targets == 2] = 2.0
    mean, worst, low = classes.losses({0: whole, 4: cut}, targets)[4]
    assert (worst, low) == (pytest.approx(2.0), pytest.approx(2.0))  # F1 0 where a constant has 0.5
    assert mean == pytest.approx((1.0 + 1 / 3) / 3 / (1.0 - 0.5 / 3))


def test_labels_are_judged_at_their_best_threshold_and_classes_by_the_largest():
    masks = torch.zeros(2, 2, 8, 8)
    masks[:, 0, :4], masks[:, 1, :, :2] = 1, 1
    noise = torch.rand(2, 8, 8, generator=torch.manual_seed(0))
    outputs = torch.stack([masks[:, 0] - 9, masks[:, 1] * (noise > 0.5)], 1)
    both = np.ones((1, 2))
    hits = float((outputs[:, 1] > 0).sum())
    right = [1.0, 2 * hits / (hits + float(masks[:, 1].sum()))]
    assert f1(counts("labels", outputs, masks), both)[0] == pytest.approx(right)
    # the first class wins where both are equal
    found = f1(counts("classes", outputs * 0, masks[:, 1].long()), both)[0]
    assert found == pytest.approx([2 * 0.75 / 1.75, 0.0])


def test_the_failures_of_restorations_of_another_shape_are_those_that_were_written_down():
    def cut(used, before, after, clear=True):
        return {"name": "a", "level": 1, "grade": "data", "used": used, "lost": 0.3,
                "clear": clear, "before": before, "after": after}  # fmt: skip

    assert not shapes.failures([cut(True, "unused", "undecided"), cut(True, "x", "unused", False)])
    (failed,) = shapes.failures([cut(True, "unused", "unused")])
    assert "called unused" in failed
    right = [cut(False, "unused", "unused") for _ in range(9)]
    assert not shapes.failures([*right, cut(True, "used", "undecided")])
    (failed,) = shapes.failures([*right[1:], cut(True, "used", "undecided")])
    assert "1 of 9 right verdicts" in failed
