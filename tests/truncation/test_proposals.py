"""Which depth comes first, and what its evidence says."""

import math

import pytest
import torch
from torch import nn
from toys import Plain, assessment

from weightscope.cost import count_costs
from weightscope.errors import TruncationError
from weightscope.graph import read_structure
from weightscope.truncation import propose, verify
from weightscope.truncation.proposals import Proposal
from weightscope.utilization.records import Score


def ranked(structures, given):
    structure, costs = structures("pyramid")  # levels 0-3; keep 1, 2, 3
    found = propose(structure, given, costs)
    return {p.keep_levels: p for p in found}


UNUSED_BELOW_2 = {
    "encoder_0": ("used", 0.9),
    "encoder_1": ("used", 0.8),
    "encoder_2": ("unused", 0.1),
    "bottleneck": ("unused", 0.05),
}


LACKING = "; it does not return outputs['deep'], computed in what is removed"


def test_the_largest_set_of_unused_levels_comes_first(structures):
    found = ranked(structures, assessment("trained", **UNUSED_BELOW_2))
    assert list(found) == [2, 3, 1]
    assert found[2].evidence == (
        "supported: all 2 removed stages are judged unused (evidence: response)"
        "; with means in place of what is removed the output responds on synthetic images with 0.1 "
        f"(1: nothing of it is left){LACKING}"
    )
    assert found[1].evidence.startswith("spoken against:")
    assert "encoder 1 used" in found[1].evidence


@pytest.mark.parametrize("alone", ["used", "undecided"])
def test_the_measurement_of_a_cut_outweighs_those_of_deeper_ones(structures, alone):
    given = assessment("trained", **UNUSED_BELOW_2 | {"bottleneck": (alone, 0.7)})
    found = ranked(structures, given)
    assert next(iter(found)) == 2
    assert found[2].evidence == (
        f"supported: unused together, though alone bottleneck {alone} (evidence: response); with"
        " means in place of what is removed the output responds on synthetic images with 0.1 (1: "
        "nothing of it is left)" + LACKING
    )
    assert not found[3].evidence.startswith("supported")
    next(v for v in given.verdicts if v.stage == "bottleneck").evidence = "data"
    assert not ranked(structures, given)[2].evidence.startswith("supported")


def test_the_deepest_cut_that_more_speaks_for_than_against_comes_next(structures):
    found = ranked(
        structures,
        assessment(
            "trained",
            encoder_1=("undecided", 0.7),
            encoder_2=("undecided", 0.4),
            bottleneck=("undecided", 0.3),
        ),
    )
    assert list(found)[:2] == [2, 3]
    assert found[3].evidence.startswith("not decided: bottleneck undecided; with means in")


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    ("grade", "verdict", "high", "first"),
    [
        ("response", "undecided", 0.49, 1),
        ("response", "undecided", 0.51, 2),
        ("response", "used", 0.49, 2),
        ("images", "undecided", 0.49, 2),
        ("data", "undecided", 0.49, 2),
    ],
)
def test_what_surely_costs_little_by_the_model_alone_may_go_first(
    structures, grade, verdict, high, first
):
    given = assessment("trained", **UNUSED_BELOW_2 | {"encoder_1": (verdict, 0.3)})
    middle = next(v for v in given.verdicts if v.stage == "encoder 1")
    middle.evidence = grade
    middle.scores = (Score(grade, 0.3, 0.2, high, verdict, ""),)
    found = ranked(structures, given)
    assert next(iter(found)) == first
    assert ("surely by less than 0.158" in found[1].evidence) == (first == 1)
    assert "surely" not in found[2].evidence


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    ("grade", "verdict", "value", "guarded", "first"),
    [
        ("images", "undecided", 0.249, False, 1),
        ("data", "undecided", 0.249, False, 1),
        ("images", "undecided", 0.251, False, 2),
        ("data", "undecided", 0.251, False, 2),
        ("images", "undecided", 0.249, True, 2),
        ("data", "used", 0.249, False, 2),
        ("data", "undecided", math.nan, False, 2),
        ("response", "undecided", 0.249, False, 2),
        ("history", "undecided", 0.249, False, 2),
    ],
)
def test_what_probably_costs_little_on_what_the_user_gave_may_go_first(
    structures, grade, verdict, value, guarded, first
):
    given = assessment("trained", **UNUSED_BELOW_2 | {"encoder_1": (verdict, value)})
    for one in given.verdicts:
        one.evidence, mine = grade, one.stage == "encoder 1"
        one.scores = (
            Score(grade, value if mine else 0.05, 0.0, 0.9, one.verdict, "", 0.02,
                  guarded=guarded and mine),
        )  # fmt: skip
    found = ranked(structures, given)
    assert next(iter(found)) == first
    probable = "not decided: encoder 2, bottleneck unused; encoder 1 undecided"
    shown = "; probably unused together: utilization below 0.25"
    if first == 1:
        assert found[1].evidence.startswith(probable)
    assert (shown in found[1].evidence) == (first == 1)


@pytest.mark.parametrize(("guarded", "order"), [(False, [1, 2, 3]), (True, [3, 2, 1])])
def test_a_cut_that_takes_a_part_away_comes_after_those_that_take_less(structures, guarded, order):
    stages = {"encoder_1": 0.45, "encoder_2": 0.35, "bottleneck": 0.3}
    given = assessment("trained", **{k: ("undecided", v) for k, v in stages.items()})
    for one in given.verdicts:
        one.evidence = "data"
        one.scores = (
            Score("data", one.utilization, 0.0, 0.9, "undecided", "", one.utilization,
                  guarded=guarded),
        )  # fmt: skip
    assert list(ranked(structures, given)) == order


@pytest.mark.parametrize(("grade", "first"), [("data", 1), ("images", 3)])
def test_the_figure_of_a_cut_outweighs_those_of_deeper_ones(structures, grade, first):
    stages = {"encoder_1": ("undecided", 0.2), "encoder_2": ("used", 0.7),
              "bottleneck": ("undecided", 0.6)}  # fmt: skip
    given = assessment("trained", **stages)
    for one in given.verdicts:
        one.evidence = "data" if one.stage != "bottleneck" else grade
        one.scores = (
            Score(one.evidence, one.utilization, 0.0, 0.9, one.verdict, "", one.utilization),
        )
    found = ranked(structures, given)
    assert next(iter(found)) == first
    started = "not decided: encoder 2 used; encoder 1, bottleneck undecided"
    assert found[1].evidence.startswith(started) == (first == 1)
    assert found[2].evidence.startswith("spoken against")


@pytest.mark.parametrize("verdict", ["undecided", "used"])
def test_other_depths_are_ordered_by_expected_loss(structures, verdict):
    levels = {"encoder_1": 0.99, "encoder_2": 0.8, "bottleneck": 0.75}
    given = assessment("trained", **{k: (verdict, v) for k, v in levels.items()})
    found = ranked(structures, given)
    if verdict == "used":  # what is spoken against is not excused by what it would save
        assert list(found) == [3, 2, 1]
        return
    saved = {keep: found[keep].saved for keep in found}
    loss = {3: 0.75, 2: 0.8, 1: 0.99}
    assert 0 < saved[3] < saved[2] < saved[1]
    assert list(found) == sorted(found, key=lambda keep: loss[keep] / saved[keep])
    assert list(found) != [3, 2, 1]


@pytest.mark.parametrize("state", ["untrained", "broken", "unskilled", "unknown"])
def test_nothing_supports_a_cut_of_a_network_without_verdicts(structures, state):
    nan = math.nan
    given = assessment(state, encoder_1=("undecided", nan), bottleneck=("undecided", nan))
    found = ranked(structures, given)
    assert list(found) == [3, 2, 1]  # the shallowest cut first where nothing is known
    assert all(p.evidence.startswith("nothing supports it") for p in found.values())
    # which few images do not deny
    shown = "on the given batches the network shows no skill that counts beyond the best trivial"
    assert all((shown in p.evidence) is (state == "unskilled") for p in found.values())


def test_refused_depths_come_last_with_their_reason(structures):
    structure, costs = structures("tokens")
    found = propose(structure, assessment(), costs)
    assert [p.keep_levels for p in found] == [2, 1]
    assert found[0].refusal is None
    assert "the network's last layers lie below this level" in found[1].refusal
    assert found[1].parameters == costs.parameters
    with pytest.raises(TruncationError, match="keeping 1 levels is refused"):
        found[1].build()


def test_a_depth_that_saves_nothing_is_refused(structures, monkeypatch):
    structure, costs = structures("plain")
    monkeypatch.setattr("weightscope.truncation.proposals.SAVES_TOO_LITTLE", 0.9)
    (*_, last) = propose(structure, assessment(), costs)
    assert isinstance(last, Proposal)
    assert last.refusal.startswith("saves too little")
    assert last.build().costs.parameters == last.parameters  # still there for who wants it


def test_measure_compares_with_the_original(proposals):
    torch.set_num_threads(1)
    measured = proposals("plain")[1].build().measure(repeats=3)
    assert measured.latency_before.repeats == measured.latency_after.repeats == 3
    assert 0 < measured.peak_memory_after <= measured.peak_memory_before


def test_a_depth_that_breaks_is_refused_and_the_others_stay(structures, monkeypatch):
    from weightscope.truncation import proposals as room

    whole = room.draft

    def brittle(structure, plan, costs):
        if plan.keep_levels == 2:
            raise RuntimeError("an operator from nowhere")
        return whole(structure, plan, costs)

    monkeypatch.setattr(room, "draft", brittle)
    structure, costs = structures("plain")
    found = {p.keep_levels: p.refusal for p in propose(structure, assessment(), costs)}
    assert found[1] is None
    assert "could not be tried out: RuntimeError: an operator from nowhere" in found[2]


def test_frames_of_a_film():
    """Time is a dimension of the input that no image of it has."""

    class Film(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = Plain()

        def forward(self, x):
            frames = self.net(x.flatten(0, 1))
            return frames.unflatten(0, x.shape[:2])

    structure = read_structure(Film(), torch.randn(2, 3, 1, 32, 32))
    costs = count_costs(structure.model, structure.inputs)
    for proposal in propose(structure, assessment(), costs):
        if proposal.refusal is None:
            assert verify(proposal.build(), export=False).failures == ()


def test_a_loss_that_leaves_something_out_says_what(structures):
    given = assessment("trained", **UNUSED_BELOW_2)
    for verdict in given.verdicts:
        verdict.evidence, verdict.caveat = "data", "at the old one"
    found = ranked(structures, given)
    assert found[2].evidence.endswith(f"of the skill is lost (at the old one){LACKING}")
    for verdict in given.verdicts:
        verdict.loss = 2.4  # worse than the best trivial answer
    found = ranked(structures, given)
    assert found[2].evidence.endswith(
        "; with means in place of what is removed all of the skill is lost (at the old one)"
        + LACKING
    )


def test_a_cut_shows_its_own_figure_and_not_that_of_a_deeper_one(structures):
    levels = {"encoder_1": 0.1, "encoder_2": 0.3, "bottleneck": 0.2}
    given = assessment("trained", **{k: ("undecided", v) for k, v in levels.items()})
    found = ranked(structures, given)
    for keep, figure in ((1, "0.1"), (2, "0.3"), (3, "0.2")):
        assert f"the output responds on synthetic images with {figure} (1" in found[keep].evidence
