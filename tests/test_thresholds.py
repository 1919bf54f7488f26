"""Every threshold of a verdict from both sides, and the page that says where it comes from.

The numbers stand here as such: a threshold that is moved must be moved here too, and on its page.
"""

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import special, stats

from weightscope import thresholds
from weightscope.graph.levels import _cluster
from weightscope.movement import Displacement, StageMovement, measure_movement
from weightscope.probing.change import Change, Figures, _sums
from weightscope.probing.response import _joined
from weightscope.statistics.choosing import (
    Evidence,
    _misfit,
    _surely_narrower,
    choose_nulls,
    explain,
    infer_rules,
    sharpest_rule,
)
from weightscope.statistics.constants import has_moved
from weightscope.statistics.distances import as_drawn, critical_ks, descends, thins_out
from weightscope.statistics.fresh import is_draw
from weightscope.statistics.model import measure_model
from weightscope.statistics.rules import KernelShape, Null
from weightscope.summaries import summarize
from weightscope.traces import Marks, have_spilled
from weightscope.truncation.proposals import saves_too_little
from weightscope.utilization.ablated import AblationResult, LevelAblation
from weightscope.utilization.data import DataEvidence, Importance
from weightscope.utilization.intervals import interval, surely_above
from weightscope.utilization.ranking import is_as_recorded
from weightscope.utilization.scores import (
    NetworkMovement,
    StageSpread,
    score_history,
    typical_movement,
)

PAGE = Path(__file__).parents[1] / "docs" / "decisions" / "thresholds.md"
NAMES = [name for name in vars(thresholds) if name.isupper()]
NAN = math.nan


@pytest.mark.parametrize("name", NAMES)
def test_the_page_names_every_threshold_with_its_value(name):
    rows = [line.split("|") for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    values = {row[1].strip(" `"): row[2].strip() for row in rows}
    value = getattr(thresholds, name)
    told = values[name]
    if isinstance(value, dict):
        assert told == "; ".join(f"{key} {number:,}" for key, number in value.items())
    else:
        assert float(told.replace(",", "")) == pytest.approx(value, rel=1e-3)


def test_the_page_names_nothing_else():
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    assert sorted(row.split("`")[1] for row in rows) == sorted(NAMES)


# data ---------------------------------------------------------------------------------------------
def ablated(low, high, *, images=30, recalibrated=False, quality=1.0, skill_low=0.5):
    cut = LevelAblation(1, quality, 0.0, (low + high) / 2, low, high)
    return AblationResult((cut,), quality, 0.0, skill_low, images, "f1", recalibrated=recalibrated)


def verdict_of(result):
    return DataEvidence({}, result, result.skilled, {"s": 1}).score("s").verdict


@pytest.mark.parametrize(("quality", "skilled"), [(0.049, False), (0.051, True)])
def test_minimum_skill(quality, skilled):
    assert ablated(0.0, 0.0, quality=quality, skill_low=0.01).skilled is skilled


@pytest.mark.parametrize(("images", "enough"), [(9, False), (10, True)])
def test_minimum_images(images, enough):
    assert ablated(0.0, 0.0, images=images).enough is enough


def test_confidence_and_surety():
    samples = np.concatenate([[0.0], stats.norm.ppf((np.arange(100_000) + 0.5) / 100_000)])
    assert interval(samples, 10**9) == pytest.approx((-1.95996, 1.95996), abs=1e-3)
    assert surely_above(samples, 10**9) == pytest.approx(-3.09023, abs=1e-3)


@pytest.mark.parametrize(("low", "high", "recalibrated", "verdict"), [
    (0.01, 0.049, False, "unused"), (0.01, 0.051, False, "undecided"),
    (0.049, 0.3, False, "undecided"), (0.051, 0.3, False, "used"),
    (0.01, 0.049, True, "unused"), (0.051, 0.3, True, "undecided"),
    (0.099, 0.3, True, "undecided"), (0.101, 0.3, True, "used"),
])  # fmt: skip
def test_negligible_loss_and_the_loss_that_counts(low, high, recalibrated, verdict):
    assert verdict_of(ablated(low, high, recalibrated=recalibrated)) == verdict


@pytest.mark.parametrize(("share", "verdict"), [(0.149, "unused"), (0.151, "used")])
def test_negligible_importance(share, verdict):
    importances = {"s": Importance(share, 0.0), "largest": Importance(1.0, 0.0)}
    assert DataEvidence(importances, None, None, {"s": 0}).score("s").verdict == verdict


# response (SILENT, RESPONDS and their middle: tests/utilization/test_scores.py) -------------------
def test_borders_of_the_response():
    assert (
        0.08, 0.35, 0.25, pytest.approx(math.sqrt(0.05 / 2), abs=5e-4)
    ) == (thresholds.SILENT, thresholds.RESPONDS, thresholds.RESPONDS_IN_NUMBERS,
          thresholds.RESPONSE_BORDER)  # fmt: skip


def shown(certainty, follows, below=0.0):
    values = np.array([0.3, 0.2, 0.4])
    return _joined(
        1,
        [
            Figures(
                values,
                values,
                np.ones(3),
                values + 0.1,
                certainty,
                0.5,
                follows,
                values[:, None],
                values[:, None],
                np.full((3, 2), np.nan),
                0.1,
                1.0,
                below,
                0.0,
            )
        ],
    )


@pytest.mark.parametrize(("certainty", "follows", "value"), [
    (0.29, 0.0, 0.4), (0.31, 0.0, 0.3), (0.9, 0.79, 0.3), (0.9, 0.81, 0.4),
])  # fmt: skip
def test_what_counts_as_a_decision(certainty, follows, value):
    assert shown(certainty, follows).value == pytest.approx(value)


@pytest.mark.parametrize(("certainty", "follows", "below", "either"), [
    (0.9, 0.81, 0.24, False), (0.9, 0.81, 0.26, True), (0.9, 0.79, 0.26, False),
    (0.29, 0.81, 0.26, False),
])  # fmt: skip
def test_what_may_be_a_decision_or_its_input_restored(certainty, follows, below, either):
    found = shown(certainty, follows, below)
    assert np.isfinite(found.by_sign) == either
    if either:
        assert (found.low, found.high) == (
            pytest.approx(0.3, abs=0.01),
            pytest.approx(0.5, abs=0.01),
        )


@pytest.mark.parametrize(("rare", "decided"), [(9, False), (11, True)])
def test_the_rarest_decision_that_tells_anything(rare, decided):
    counts = np.array([[10_000.0 - rare, rare]])
    one, zero, flips = np.array([1.0]), np.array([0.0]), np.array([5.0])
    w, c = torch.rand(2, 1, 2, 99, generator=torch.Generator().manual_seed(0))
    shares = _sums(w, c, torch.zeros(())).numpy()
    none = (
        np.ones((1, 1, 10)),
        np.zeros((1, 1)),
        shares,
        np.zeros((1, 1, 10)),
        np.zeros((1, 1, 2)),
        np.array([[[99.0, 50.0, 49.0, 30.0]]]),
        zero,
        zero,
        zero,
    )
    change = Change(flips, counts, counts, one, *none)
    assert np.isfinite(change.figures(np.ones((1, 1))).decisions).all() == decided


# history ------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("saliency", "border"), [(NAN, 0.7), (1.0, 0.4)])
def test_borders_of_live_movement(saliency, border):
    for factor, above in ((0.99, False), (1.01, True)):
        stage = StageMovement(100, border * factor, 1.0, 1.0, True, 1.0, 1.0, saliency, ())
        score = score_history(stage, NetworkMovement(1.0, saliency))
        assert (score.utilization > 0.5) is above


@pytest.mark.parametrize(("moved", "shrinkage", "same"), [
    (1.09, 0.5, True), (1.12, 0.5, False), (1.0, 0.59, True), (1.0, 0.61, False),
])  # fmt: skip
def test_as_recorded(moved, shrinkage, same):
    movement = SimpleNamespace(moved=moved, shrinkage=shrinkage)
    kernel = SimpleNamespace(since_given=movement)
    assert is_as_recorded(kernel, Displacement("w", 9, 1.0, 0.5, 1.0, 1.0)) is same


# weights ------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("sigmas", "moved"), [(1.9, False), (2.1, True)])
def test_margin(sigmas, moved):
    spread = StageSpread("s", 100, 1.1, 1.0, sigmas * 0.01, 0.01, True, 1.0, NAN)
    assert (typical_movement([spread]) > 0.0) is moved


@pytest.mark.parametrize(("sigmas", "has"), [(4.6, False), (4.9, True), (-9.0, False)])
def test_a_start_is_one_beyond_chance_in_a_million(sigmas, has):
    n = 10_000
    start, other = np.random.default_rng(0).standard_normal((2, n))
    other -= start * (start @ other) / (start @ start)
    weights = torch.from_numpy(other + sigmas / math.sqrt(n) * start)
    start = torch.from_numpy(start)
    found = descends(measure_movement(weights, start), summarize(weights), summarize(start))
    assert found is has


@pytest.mark.parametrize(("share", "few"), [(0.45, True), (0.55, False)])
def test_weights_beyond_an_edge_are_few(share, few):
    rule = Null("uniform", "rule", 1.0)
    weights = torch.linspace(-1.1 * rule.edge, 1.1 * rule.edge, 1000)
    assert thins_out(round(share * 1000 * (1 - 1 / 1.1)), summarize(weights), rule) is few


@pytest.mark.parametrize(("kernels", "proof"), [(1, False), (2, True)])
def test_kernels_that_spilled(kernels, proof):
    spilled = SimpleNamespace(comparison=SimpleNamespace(spilled=True))
    assert have_spilled([spilled] * kernels + [SimpleNamespace(comparison=None)]) is proof


@pytest.mark.parametrize(("marks", "faint", "clear"), [
    (Marks(0.09, 1.4, 0.019), True, False), (Marks(0.11, 1.4, 0.019), False, False),
    (Marks(0.09, 1.6, 0.019), False, False), (Marks(0.09, 1.4, 0.021), False, False),
    (Marks(0.9, 2.9, 0.019), False, False), (Marks(0.09, 3.1, 0.019), False, True),
])  # fmt: skip
def test_marks_of_training(marks, faint, clear):
    assert (marks.faint, marks.clear) == (faint, clear)


@pytest.mark.parametrize(("mean", "proof"), [(0.24, ()), (0.26, ("weight", "bias"))])
def test_scales_around_zero(mean, proof):
    norm = torch.nn.BatchNorm2d(64)
    torch.nn.init.normal_(norm.bias, 0.0, 0.1)
    with torch.no_grad():
        norm.weight.copy_(mean + torch.linspace(-0.1, 0.1, 64))
    assert measure_model(norm).moved_constants == proof


@pytest.mark.parametrize(("moved", "has"), [(0.9e-4, False), (1.1e-4, True)])
def test_untouched(moved, has):
    assert StageSpread("s", 100, 2.0, 2.0, (2 * moved) ** 2, 0.0, False, 1.0, 1.0).has_moved is has


@pytest.mark.parametrize(("error", "counted"), [(0.049, True), (0.051, False)])
def test_stages_that_are_known_well_enough_to_be_typical(error, counted):
    sure = StageSpread("a", 100, 2.0, 1.0, 1.0, 0.001, True, 1.0, NAN)
    vague = StageSpread("b", 100, 3.0, 1.0, 9.0, error, True, 1.0, NAN)
    assert (typical_movement([sure, vague]) > 1.0) is counted


def test_critical_distance():
    assert special.kolmogorov(critical_ks(10**12) * 1e6) == pytest.approx(1e-4, rel=1e-3)


def weights_like(rule, *, std=None, peak=None, n=10_000):
    """Quantiles of a rule, of another spread or with another peak."""
    values = rule.quantile((np.arange(n) + 0.5) / n)
    if std is not None:
        values = values * std / values.std()
    if peak is not None:
        values[[0, -1]] = -peak, peak
    return summarize(torch.from_numpy(values))


@pytest.mark.parametrize(("errors", "follows"), [(3.9, True), (4.1, False)])
def test_spread_surely(errors, follows):
    rule, n = Null("normal", "", 1.0), 10_000
    std = math.sqrt(1.0 + errors * math.sqrt(2.0 / n))
    assert as_drawn(weights_like(rule, std=std, n=n), rule) is follows


@pytest.mark.parametrize(("expected", "follows"), [(9.1, True), (9.3, False)])
def test_edge_surely(expected, follows):
    rule, n = Null("uniform", "", 1.0), 10_000
    values = rule.quantile((np.arange(n) + 0.5) / n)
    # so many of n weights are expected between the largest one and the edges
    peak = rule.edge - expected / (2 * n * rule.edge_density)
    assert as_drawn(summarize(torch.from_numpy(np.clip(values, -peak, peak))), rule) is follows


@pytest.mark.parametrize(("outputs", "told"), [(199, False), (200, True)])
def test_weights_from_which_a_bounded_rule_is_told(outputs, told):
    layer = torch.nn.Linear(10, outputs, bias=False)
    with torch.no_grad():
        values = torch.from_numpy(Null("uniform", "", 30**-0.5).quantile(
            (np.arange(10 * outputs) + 0.5) / (10 * outputs)))  # fmt: skip
        layer.weight.copy_(values[torch.randperm(10 * outputs)].view(outputs, 10))
        layer.weight[0, 0] = 0.32  # beyond 1 / sqrt(10)
    parameter = measure_model(layer).parameters[0]
    assert parameter.null.source == "matched"
    assert parameter.comparison.distinguishable is told
    assert thresholds.TELLING["truncated normal"] == 12_000


@pytest.mark.parametrize(("chance", "moved"), [(1.05e-7, False), (0.95e-7, True)])
def test_scales_that_were_drawn(chance, moved):
    n = 64
    std = 0.02 * math.sqrt(special.chdtri(n, chance) / n)
    scales = torch.tensor([1.0 + std, 1.0 - std], dtype=torch.float64).repeat(n // 2)
    parameter = SimpleNamespace(summary=summarize(scales), null=None, parameter="norm.weight")
    assert has_moved(parameter) is moved


@pytest.mark.parametrize(("count", "fresh"), [(23, False), (24, True)])
def test_values_that_make_a_draw(count, fresh):
    assert is_draw(torch.empty(count).uniform_(-0.5, 0.5), 0.5) is fresh


# the rule that a network began with ---------------------------------------------------------------
SHAPES = [(16, 3, 3, 3), (32, 16, 3, 3), (64, 32, 3, 3), (64, 64, 3, 3), (96, 64, 3, 3)]


def evidence(shape, std, *, part="net", family="normal", moved=0.0):
    n = math.prod(shape)
    values = Null(family, "", 1.0).quantile((np.arange(n) + 0.5) / n) * math.hypot(std, moved)
    rules = KernelShape.of(shape).rules
    summary = summarize(torch.from_numpy(values).float())
    return Evidence(part, "conv2d", True, summary, rules, 2.0**-23)


def he(shape):
    return math.sqrt(2 / math.prod(shape[1:]))


def test_fewest_kernels():
    kernels = [evidence(shape, he(shape)) for shape in SHAPES[1:]]
    assert explain(kernels[:3]) is None
    assert explain(kernels) is not None


@pytest.mark.parametrize(("inputs", "found"), [(499, False), (500, True)])
def test_smallest_kernel(inputs, found):
    kernels = [evidence((1, inputs), 0.1 * i) for i in range(1, 5)]
    assert bool(infer_rules(kernels)) is found


@pytest.mark.parametrize(("n", "label"), [(499, "preferred"), (500, "filled")])
def test_filling(n, label):
    filled, preferred = Null("uniform", "filled", 1.0), Null("normal", "preferred", 1.5)
    summary = weights_like(filled, n=n)
    rules = {"filled": filled, "preferred": preferred}
    assert sharpest_rule(summary, rules, ("filled",), "preferred", 2.0**-23) == label


@pytest.mark.parametrize(("errors", "narrower"), [(3.9, False), (4.1, True)])
def test_surely_narrower(errors, narrower):
    n = 10_000
    summary = weights_like(Null("normal", "", 1.0), std=1.0, n=n)
    error = math.sqrt((summary.kurtosis + 2.0) / (4.0 * n))
    assert _surely_narrower(summary, 1.0 / (1.0 - errors * error)) is narrower


@pytest.mark.parametrize(("left", "together"), [(0.49, False), (0.51, True)])
def test_share_of_weights_that_left_their_rule(left, together, monkeypatch):
    stays = evidence((1, 1000), 0.1)
    gone = evidence((1, round(1000 * left / (1 - left))), 0.1)
    asked = []
    monkeypatch.setattr(
        "weightscope.statistics.choosing.followed_rules",
        lambda summary, _: (next(iter(stays.rules)),) if summary is stays.summary else (),
    )
    monkeypatch.setattr(
        "weightscope.statistics.choosing.infer_rules", lambda own: asked.append(own) or {}
    )
    choose_nulls([stays, gone])
    assert bool(asked) is together


def misfit(squares, kurtosis, shape):
    return _misfit(np.full(4, squares), np.full(4, kurtosis), np.ones(4), shape)


def test_costs_of_a_misfit():
    # a spread that fits, and a kurtosis that is off by 1
    assert misfit(1.0, 1.0, 0.0)[1] == pytest.approx(0.1)
    # decay to a half; its misfit is found if nothing need show
    assert misfit(0.25, -1.2, -1.2)[1] == pytest.approx(0.1 * 0.5, abs=1e-6)


@pytest.mark.parametrize(("kurtosis", "seen"), [(-0.25, False), (-0.4, True)])
def test_share_of_the_shape_that_must_be_seen(kurtosis, seen):
    # half of the shape may be lost to movement, and half of what is then expected must be seen
    proved, _ = misfit(0.25, kurtosis, -1.2)
    assert (proved < math.log(2.0) - 0.01) is seen


@pytest.mark.parametrize(("factor", "parts"), [(1.95, 1), (2.05, 2)])
def test_parts_with_rules_of_their_own(factor, parts, monkeypatch):
    kernels = [evidence(s, he(s), part=p) for p in ("a", "b") for s in SHAPES[1:]]
    costs = {8: factor, 4: 1.0}
    monkeypatch.setattr(
        "weightscope.statistics.choosing.explain",
        lambda own: ((f"rule of {len(own)} kernels",), costs[len(own)]),
    )
    found = set(infer_rules(kernels).values())
    assert found == ({("rule of 8 kernels",)} if parts == 1 else {("rule of 4 kernels",)})


@pytest.mark.parametrize(("above", "alike"), [(0.09, True), (0.11, False)])
def test_rules_that_would_do_as_well(above, alike, monkeypatch):
    kernels = [evidence(shape, he(shape)) for shape in SHAPES[1:]]
    costs = iter([(0.5, 0.5), (0.5 + above, 0.5 + above)])
    monkeypatch.setattr(
        "weightscope.statistics.choosing._misfit", lambda *_: next(costs, (9.0, 9.0))
    )
    labels, cost = explain(kernels)
    assert (len(labels), cost) == (2 if alike else 1, 0.5)


# structure and proposals --------------------------------------------------------------------------
@pytest.mark.parametrize(("ratio", "levels"), [(1.49, 1), (1.51, 2)])
def test_ratio_of_two_levels(ratio, levels):
    assert len(set(_cluster([1.0, ratio]).values())) == levels


@pytest.mark.parametrize(("parameters", "macs", "refused"), [
    (0.991, 0.991, True), (0.989, 1.0, False), (1.0, 0.989, False),
])  # fmt: skip
def test_a_depth_that_saves_too_little(parameters, macs, refused):
    whole = SimpleNamespace(parameters=100_000, macs=100_000)
    small = SimpleNamespace(parameters=100_000 * parameters, macs=100_000 * macs)
    assert ("saves too little" in (saves_too_little(small, whole) or "")) is refused
