"""The formula, the spread of a stage, and the scores that follow from it."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from weightscope.movement import Displacement, stage_movement
from weightscope.probing import CutResponse, Response
from weightscope.statistics import measure_model
from weightscope.thresholds import RESPONDS, RESPONDS_IN_NUMBERS, RESPONSE_BORDER, SILENT
from weightscope.utilization import utilization
from weightscope.utilization.scores import (
    NetworkMovement,
    StageSpread,
    measure_spread,
    network_dispersion,
    score_history,
    score_response,
    score_weights,
    stage_kernels,
    typical_movement,
)

positive = st.floats(1e-6, 1e6)
LEARNED = 1e12  # a dispersion of the filters that leaves no doubt


@given(positive, positive)
def test_utilization_lies_between_0_and_1_and_grows(measured, unused):
    value = utilization(measured, unused)
    assert 0.0 <= value <= 1.0
    assert utilization(2 * measured, unused) >= value
    assert utilization(unused, unused) == 0.5


@given(positive, positive, st.floats(1e-3, 1e3))
def test_utilization_has_no_unit(measured, unused, scale):
    assert utilization(scale * measured, scale * unused) == pytest.approx(
        utilization(measured, unused), abs=1e-9
    )


@pytest.mark.parametrize(
    ("m", "n"), [(math.nan, 1.0), (1.0, math.nan), (1.0, 0.0), (math.inf, 1.0)]
)
def test_what_cannot_be_compared_has_no_utilization(m, n):
    assert math.isnan(utilization(m, n))


def spreads_of(structure, statistics):
    kernels = stage_kernels(structure.stages, statistics)
    return {name: measure_spread(name, kernels[name]) for name in kernels}


def test_excess_spread_estimates_the_movement(layers):
    spreads = spreads_of(*layers("rule", still=0.0, little=0.01, much=0.05)[:2])
    assert spreads["much"].movement() == pytest.approx(0.05, rel=0.05)
    assert spreads["little"].movement(-2) <= 0.011
    assert spreads["little"].movement(2) >= 0.009
    assert spreads["still"].movement(-2) == 0.0


def test_the_standard_error_is_that_of_repeated_draws(layers):
    found = [spreads_of(*layers("rule", seed=s, a=0.02)[:2])["a"] for s in range(40)]
    observed = torch.tensor([s.excess for s in found]).std()
    assert float(observed) == pytest.approx(found[0].error, rel=0.35)


def test_movement_is_compared_with_what_is_typical_of_the_network(layers):
    spreads = spreads_of(*layers(a=0.05, b=0.02)[:2])
    typical = typical_movement(list(spreads.values()))
    assert typical == pytest.approx(math.sqrt((0.05**2 + 0.02**2) / 2), rel=0.05)
    for name, moved in {"a": 0.05, "b": 0.02}.items():
        value = score_weights(spreads[name], typical, LEARNED).utilization
        assert value == pytest.approx(moved**2 / (moved**2 + typical**2), rel=0.2)


def test_filters_that_differ_no_more_than_by_chance_halve_the_movement(layers):
    spreads = spreads_of(*layers(a=0.05, b=0.02)[:2])
    typical = typical_movement(list(spreads.values()))
    found = score_weights(spreads["b"], typical, 1.0).utilization
    expected = utilization(0.5 * spreads["b"].movement(), typical)
    assert found == pytest.approx(expected)


@pytest.mark.parametrize(
    "draw", [torch.nn.init.uniform_, torch.nn.init.normal_, torch.nn.init.trunc_normal_]
)
def test_dispersion_is_one_for_independent_weights_and_grows_with_selective_filters(draw):
    torch.manual_seed(0)
    layer = torch.nn.Conv2d(64, 512, 3)
    torch.nn.init.constant_(layer.bias, 0.0)
    draw(layer.weight)
    start = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    found = []
    for filters in (0, 16):
        with torch.no_grad():
            layer.weight[:filters] *= 2.0
        kernels = [p for p in measure_model(layer, initial=start).parameters if p.is_kernel]
        found.append(measure_spread("layer", kernels).dispersion)
    assert found[0] == pytest.approx(1.0, abs=0.2)
    assert found[1] > 20.0
    assert network_dispersion([measure_spread("layer", kernels)]) == pytest.approx(found[1])
    assert network_dispersion([measure_spread("none", [])]) == 1.0


def test_a_known_start_gives_the_movement_itself(layers):
    spreads = spreads_of(*layers(still=0.0, little=0.001, much=0.05)[:2])
    assert spreads["still"].movement() == spreads["still"].movement(2) == 0.0
    assert spreads["little"].movement() == pytest.approx(0.001, rel=0.01)
    assert spreads["much"].movement(-2) == pytest.approx(0.05, rel=0.01)
    assert spreads["much"].shrinkage == pytest.approx(1.0, abs=0.01)


def test_known_movement_is_not_confused_by_decay(layers):
    structure, _, model = layers(a=0.0, b=0.0, c=0.0)
    with torch.no_grad():
        for layer in (model.a, model.b, model.c):
            layer.weight.mul_(0.6)
        model.c.weight.add_(0.03 * torch.randn_like(model.c.weight))
    spreads = spreads_of(structure, measure_model(model, initial=model.start))
    assert spreads["c"].movement() == pytest.approx(0.03, rel=0.01)
    assert spreads["a"].shrinkage == pytest.approx(0.6)
    assert spreads["a"].movement() < 1e-6


@pytest.mark.parametrize("start", ["rule", "given"])
def test_weights_alone_rank_and_never_decide(layers, start):
    spreads = spreads_of(*layers(start, a=0.05, b=0.02, still=0.0)[:2])
    typical = typical_movement(list(spreads.values()))
    scores = {name: score_weights(s, typical, LEARNED) for name, s in spreads.items()}
    ranked = sorted(scores, key=lambda name: scores[name].utilization)
    assert ranked == ["still", "b", "a"]
    assert {score.verdict for score in scores.values()} == {"undecided"}


@pytest.mark.parametrize(
    ("shrunk", "why"), [(1.0, "since its start,"), (0.5, "shrunk to 0.5 of it")]
)
def test_a_stage_that_did_not_leave_its_start_is_said_to_be_still(layers, shrunk, why):
    structure, _, model = layers(a=0.05, b=0.05, still=0.0)
    with torch.no_grad():
        model.still.weight.mul_(shrunk)
    spreads = spreads_of(structure, measure_model(model, initial=model.start))
    score = score_weights(spreads["still"], typical_movement(list(spreads.values())), 1.0)
    assert (score.verdict, score.utilization) == ("undecided", 0.0)
    assert score.why.startswith("has not moved")
    assert why in score.why


def test_a_stage_narrower_than_its_start_may_have_moved(layers, measure_by_rule):
    structure, _, model = layers(a=0.05, b=0.0)
    with torch.no_grad():
        model.b.weight.mul_(0.5)
    spreads = spreads_of(structure, measure_by_rule(model))
    score = score_weights(spreads["b"], typical_movement(list(spreads.values())), LEARNED)
    assert (score.utilization, score.low, score.high) == (0.0, 0.0, 1.0)
    assert "movement does not show" in score.why
    assert "decay" not in score.why  # another start than the matched one would look the same


def test_a_score_names_where_its_null_comes_from(layers):
    for start, source in (("rule", "matched"), ("given", "given")):
        spreads = spreads_of(*layers(start, a=0.05, b=0.02)[:2])
        assert f"({source} start)" in score_weights(spreads["a"], 0.05, LEARNED).why


def test_a_stage_without_kernels_has_no_score():
    score = score_weights(measure_spread("pool", []), 1.0, LEARNED)
    assert math.isnan(score.utilization)
    assert score.verdict == "undecided"


def moved(ratio, walk=1.0, **more):
    return stage_movement(
        {"w": Displacement("w", 100, ratio * walk, 1.0, walk, walk, **more)}, ("w",)
    )


def score_alone(movement):
    return score_history(movement, NetworkMovement.of([movement]))


def test_history_compares_with_the_noise_walk():
    low, high = (score_alone(moved(ratio)) for ratio in (0.2, 4.0))
    assert low.utilization < high.utilization
    assert (low.verdict, high.verdict) == ("undecided", "undecided")
    assert low.utilization == pytest.approx(0.2**2 / (0.2**2 + 0.7**2))


def test_history_counts_movement_less_where_gradients_faded():
    faded = stage_movement({"w": Displacement("w", 100, 0.9, 1.0, 1.0, 0.4)}, ("w",))
    score = score_alone(faded)
    assert score.utilization == pytest.approx(0.36**2 / (0.36**2 + 0.7**2))
    assert "gradients faded to 0.40" in score.why


def test_history_counts_movement_less_where_it_hardly_mattered():
    stages = [moved(1.0, saliency=4.0), moved(1.0, saliency=0.01)]
    network = NetworkMovement.of(stages)
    salient, idle = (score_history(stage, network) for stage in stages)
    assert salient.utilization > 0.8
    assert idle.utilization == pytest.approx(0.05**2 / (0.05**2 + 0.4**2))
    assert "saliency 0.2% of the largest" in idle.why


def test_without_normalised_gradients_the_length_of_the_walk_counts():
    stages = [moved(1.0, walk=walk, normalised=False) for walk in (1.0, 0.01)]
    network = NetworkMovement.of(stages)
    strong, weak = (score_history(stage, network) for stage in stages)
    assert strong.utilization > 0.6
    assert weak.utilization < 0.001
    assert "gradients 0.014 times as strong as is typical here" in weak.why
    normalised = [moved(1.0, walk=walk) for walk in (1.0, 0.01)]
    scores = {score_history(s, NetworkMovement.of(normalised)).utilization for s in normalised}
    assert len(scores) == 1


def test_history_of_a_frozen_stage_says_nothing():
    score = score_alone(moved(0.0, walk=0.0))
    assert math.isnan(score.utilization)
    assert score.verdict == "undecided"
    assert "not trained" in score.why


def test_history_without_a_null_says_why():
    score = score_alone(moved(1.0, walk=math.nan, note="no noise walk is derived for Lion"))
    assert "Lion" in score.why


def response(*cuts, source="response", failure=""):
    records = tuple(CutResponse(keep, v, low, high, v, v) for keep, v, low, high in cuts)
    return Response(source, records, 10, failure)


@pytest.mark.parametrize(
    ("value", "low", "high", "verdict"),
    [
        (SILENT / 2, SILENT / 4, SILENT * 0.99, "unused"),
        (SILENT / 2, SILENT / 4, SILENT * 1.01, "undecided"),
        (RESPONDS * 2, RESPONDS * 1.01, 1.0, "used"),
        (RESPONDS * 2, RESPONDS * 0.99, 1.0, "undecided"),
    ],
)
def test_response_decides_where_its_interval_clears_the_borders(value, low, high, verdict):
    score = score_response(response((1, value, low, high)), 1)
    assert score.verdict == verdict
    assert score.utilization == pytest.approx(utilization(value, RESPONSE_BORDER))


def test_numbers_have_a_border_of_their_own_above():
    between = (RESPONDS + RESPONDS_IN_NUMBERS) / 2
    decisions = CutResponse(1, 0.5, between, 1.0, flips=0.2, change=0.5)
    numbers = CutResponse(1, 0.5, between, 1.0, flips=math.nan, change=0.5)
    either = CutResponse(1, 0.5, between, 1.0, flips=0.2, change=0.5, by_sign=0.5)
    verdicts = [
        score_response(Response("response", (cut,), 10), 1).verdict
        for cut in (decisions, numbers, either)
    ]
    assert verdicts == ["undecided", "used", "used"]


@pytest.mark.parametrize(("exposed", "verdict"), [(0.15, "unused"), (0.17, "undecided")])
def test_a_silent_level_must_be_so_at_every_exposure(exposed, verdict):
    cut = CutResponse(1, 0.02, 0.01, 0.03, math.nan, 0.02, exposed=exposed)
    score = score_response(Response("response", (cut,), 9), 1)
    assert score.verdict == verdict
    said = "0.17 on images that differ in brightness and contrast"
    assert (said in score.why) == (verdict == "undecided")
    # the interval reaches up to what is not settled
    assert (score.high > 0.4) == (verdict == "undecided")
    assert score.guarded == (verdict == "undecided")
    assert score.caveat == "of squares, psnr or mae may lose more"


def test_response_judges_a_stage_by_the_deepest_cut_that_removes_it():
    found = response((1, 0.9, 0.8, 1.0), (3, 0.001, 0.0, 0.002))
    assert math.isnan(score_response(found, 0).utilization)
    assert score_response(found, 1).verdict == "used"
    assert score_response(found, 2).verdict == "undecided"  # the cut removes level 1 too
    assert "shallower" in score_response(found, 2).why
    assert score_response(found, 3).verdict == score_response(found, 4).verdict == "unused"


def test_a_response_that_could_not_be_measured_says_why():
    score = score_response(response(failure="RuntimeError: no"), 1)
    assert math.isnan(score.utilization)
    assert score.verdict == "undecided"
    assert "RuntimeError: no" in score.why


def test_synthetic_images_do_not_speak_for_the_users_own():
    assert "your own images" in score_response(response((1, 0.0, 0.0, 0.0)), 1).why
    own = score_response(response((1, 0.0, 0.0, 0.0), source="images"), 1)
    assert own.verdict == "unused"
    assert "your own images" not in own.why
    assert own.grade == "images"


def test_doubt_about_the_start_widens_the_interval():
    spread = StageSpread("s", 10_000, 1.2, 1.0, 0.44, 0.01, True, 3.0, math.nan)
    sure = score_weights(spread, 0.6, 3.0)
    doubted = score_weights(replace(spread, doubt=0.3), 0.6, 3.0)
    assert doubted.utilization == sure.utilization
    assert doubted.low < sure.low < sure.high < doubted.high


@pytest.mark.parametrize("value", [0.0, 0.9])
def test_fewer_than_ten_images_decide_nothing(value):
    """An interval of so few is narrow, or has no width, whatever other images would show."""
    few = replace(response((1, value, value, value), source="images"), images=9)
    assert score_response(few, 1).verdict == "undecided"
    assert "fewer than 10 images" in score_response(few, 1).why
    assert score_response(few, 1).guarded
    assert not score_response(replace(few, images=10), 1).guarded
    assert score_response(replace(few, source="response"), 1).verdict != "undecided"


@pytest.mark.parametrize(("flips", "of"), [(0.1, "decision 2 of"), (math.nan, "channel 2 of")])
@pytest.mark.parametrize("worst", [0.15, 0.17])
def test_a_part_that_responds_is_named_beside_the_figure(flips, of, worst):
    cut = CutResponse(1, 0.1, 0.05, 0.2, flips, 0.1, worst=worst, worst_high=0.3, worst_part=2)
    score = score_response(Response("images", (cut,), 24), 1)
    assert (score.guarded, of in score.caveat) == (worst > 0.158,) * 2
    assert ("rare" in score.caveat, "small" in score.caveat) == (
        (of[0] == "d" and worst > 0.158), (of[0] == "c" and worst > 0.158)
    )  # fmt: skip
