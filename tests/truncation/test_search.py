"""Every depth cut, recovered, measured; the smallest within tolerance or budget is chosen."""

import math
import re
import sys
from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from toys import Small, Tokens, image

import weightscope as ws
from mpseg_models import create_model
from weightscope.cli import main
from weightscope.cost import Latency, count_costs, measure_latency
from weightscope.errors import InputError, MissingExtraError
from weightscope.graph import read_structure
from weightscope.truncation import Candidate, Limits, Search, course, qualities, teaching, whole
from weightscope.utilization import ablate_levels

IMAGES = torch.randn(12, 1, 16, 16, generator=torch.Generator().manual_seed(1))


def candidate(
    keep, macs, lost, refusal="", variant=None, seconds=1.0, thinned=False, error=math.nan
):
    latency = Latency(seconds, seconds, seconds, 2, "cpu", 1)
    return Candidate(
        keep, thinned, macs // 10, macs, macs, latency, 0.1, 0.9 - lost, (), math.nan, lost,
        error, refusal, variant, 0.7 - lost, "",
    )  # fmt: skip


def search(**limits):
    given = (
        dict.fromkeys(("tolerance", "max_macs", "max_parameters", "max_latency", "max_bytes"))
        | limits
    )
    found = (
        candidate(3, 900, 0.001),
        candidate(2, 500, 0.015, seconds=0.5),
        candidate(1, 200, 0.4, seconds=0.2),
        candidate(0, 1000, math.nan, "no path leads back up"),
    )
    return Search("f1", "f1", Limits(**given), "", 0.2, 0.7, candidate(4, 1000, 0.0), found)


@pytest.mark.parametrize(
    ("limits", "chosen"),
    [
        ({"tolerance": 0.02}, 2),
        ({"tolerance": 0.005}, 3),
        ({"tolerance": 0.0005}, None),
        ({"tolerance": 0.5}, 1),
        ({"max_macs": 600}, 2),
        ({"max_parameters": 30}, 1),
        ({"max_bytes": 950}, 3),
        ({"max_latency": 0.3}, 1),
        ({"max_latency": 0.1}, None),
        ({"max_macs": 300, "tolerance": 0.02}, None),
    ],
)
def test_the_choice_follows_the_limits(limits, chosen):
    found = search(**limits)
    assert (None if found.chosen is None else found.chosen.keep_levels) == chosen
    assert list(found.frame[found.frame.chosen].keep_levels) == ([] if chosen is None else [chosen])


def test_the_frame_shows_every_depth_and_why_not():
    frame = search(tolerance=0.02).frame
    assert list(frame.keep_levels) == [4, 3, 2, 1, 0]
    assert list(frame.why) == ["", "", "", "tolerance: 0.4 > 0.02", "no path leads back up"]
    assert list(frame.pareto) == [True, True, True, True, False]
    worse = replace(search(tolerance=0.02), candidates=(candidate(3, 900, 0.5), candidate(2, 5, 0)))
    assert list(worse.frame.pareto) == [False, False, True]  # as good as the whole, and cheaper
    assert "chosen: 2 of 4 levels" in str(worse)


def test_a_limit_that_is_hardly_broken_is_told_from_what_breaks_it():
    limits = search(max_macs=16_110_592, max_latency=0.3, max_parameters=1e3, tolerance=0.1).limits
    one = replace(candidate(2, 16_110_593, 0.1000001, seconds=0.30000001), parameters=1001)
    assert limits.broken(one) == (
        "tolerance: 0.1000001 > 0.1",
        "max_macs: 16,110,593 > 16,110,592",
        "max_parameters: 1,001 > 1,000",
        "max_latency: 0.30000001 > 0.3",
    )
    (why,) = search(max_macs=899.5).limits.broken(candidate(3, 900, 0.0))
    assert why == "max_macs: 900 > 899.5"
    (why,) = search(max_macs=0.8 * 1001).limits.broken(candidate(3, 900, 0.0))
    assert why == "max_macs: 900 > 800.8"
    (why,) = search(max_latency=0.3).limits.broken(
        candidate(3, 900, 0.0, seconds=math.nextafter(0.3, 1))
    )
    assert why == "max_latency: 0.30000000000000004 > 0.29999999999999999"


@pytest.mark.parametrize(
    ("limits", "changes", "said"),
    [
        ({"tolerance": 1e-4}, {},
         "the whole one stays. Give a larger tolerance=, more steps= or thin="),
        ({"tolerance": 1e-4}, {"lost": 0.0, "error": 0.1},
         "larger tolerance=, more steps=, more images as batches= or thin="),
        ({"max_latency": 0.01}, {},
         "and nor is the whole one (max_latency: 1 > 0.01). Give a larger max_latency= or thin="),
        ({"max_latency": 0.01}, {"thinned": True}, "a larger max_latency= or a smaller thin="),
        ({"tolerance": 1e-4}, {"thinned": True}, "Give a larger tolerance= or more steps="),
        ({"tolerance": 1e-4, "max_macs": 600}, {},
         "whole one (max_macs: 1,000 > 600). Give a larger tolerance=, a larger max_macs=, more"),
        ({"max_macs": 1}, {"refusal": "cannot", "thinned": True},
         "nor is the whole one (max_macs: 1,000 > 1)"),
    ],
)  # fmt: skip
def test_where_nothing_is_chosen_what_can_help_is_named(limits, changes, said):
    found = search(**limits)
    candidates = tuple(replace(c, **changes) for c in found.candidates[:3])
    found = replace(found, candidates=candidates)
    assert found.chosen is None
    text = " ".join(str(found).split())
    assert said in text
    assert f"{found.nothing_chosen()}{found.remedy()}" in text
    if changes.get("refusal"):
        assert text.endswith(said)


def test_a_share_is_not_rounded_to_nothing():
    found = search(tolerance=0.02)
    tiny = replace(candidate(2, 1, 0.0), parameters=4)
    huge = replace(found.whole, macs=10**6, parameters=10**6)
    text = str(replace(found, candidates=(tiny,), whole=huge))
    assert "chosen: 2 of 4 levels, <1 % of the MACs, <1 % of the parameters" in text


@pytest.mark.slow
def test_another_search_is_told_to_leave_the_folder_alone(tmp_path):
    asked = {"images": IMAGES, "progress": False, "repeats": 2, "random": False}
    torch.manual_seed(0)
    model = Small().eval()
    ws.shrink(model, **asked, steps=1, resume=tmp_path / "kept")
    with pytest.raises(InputError, match=r"kept' holds .*; remove the folder, or give another one"):
        ws.shrink(model, **asked, steps=2, resume=tmp_path / "kept")
    for other in ({"seed": 1}, {"images": IMAGES + 0.1}):
        with pytest.raises(InputError, match=r"kept' holds .*; remove the folder"):
            ws.shrink(model, **asked | other, steps=1, resume=tmp_path / "kept")
    ws.shrink(model, **asked, steps=1, tolerance=0.5, resume=tmp_path / "kept")
    ws.shrink(model, **asked, steps=2, resume=tmp_path / "other")


def test_what_is_printed_fits_a_terminal_and_says_a_reason_once():
    found = search(max_macs=600)
    refused = [candidate(k, 0, math.nan, "no path " * 40) for k in (1, 0)]
    text = str(replace(found, candidates=(found.candidates[1], *refused)))
    assert max(map(len, text.splitlines())) <= 100
    assert "levels kept 1 and 0: no path no path" in text
    assert text.count("levels kept") == 1
    assert "thinned" not in text
    assert text.splitlines()[2].endswith("chosen")


def test_a_threshold_of_small_outputs_is_shown_in_full():
    found = search(tolerance=0.02)
    one = replace(found.candidates[0], thresholds=(-0.000123456,))
    assert "-0.000123" in str(replace(found, candidates=(one,)))


def test_a_thinner_network_is_a_row_of_its_own_and_can_be_chosen():
    found = search(max_macs=100)
    thinner = (candidate(4, 90, 0.2, thinned=True), candidate(2, 80, 0.1, thinned=True))
    found = replace(found, candidates=(thinner[0], *found.candidates, thinner[1]))
    assert found.chosen is thinner[1]
    assert "chosen: 2 of 4 levels, thinner, 8 % of the MACs" in str(found)
    assert list(found.frame.thinned) == [False] * 4 + [True] * 2 + [False]
    nothing = replace(found, limits=replace(found.limits, max_macs=10))
    assert "Give a\nlarger max_macs= or a smaller thin=" in str(nothing)


def test_a_loss_that_is_not_known_well_is_not_within_the_tolerance():
    found = search(tolerance=0.02)
    sure, unsure = (replace(found.candidates[1], error=e) for e in (0.004, 0.006))
    for second, chosen in ((sure, 2), (unsure, 3)):
        candidates = (found.candidates[0], second, *found.candidates[2:])
        assert replace(found, candidates=candidates).chosen.keep_levels == chosen
    (why,) = found.limits.broken(unsure)
    assert why == "tolerance (0.015 and a standard error): 0.021 > 0.02"
    assert replace(found, limits=search(max_macs=600).limits).chosen.keep_levels == 2


def test_without_labels_quality_is_the_agreement(tmp_path):
    torch.manual_seed(0)
    model = Small().train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    random = torch.get_rng_state()
    found = ws.shrink(model, images=IMAGES, steps=3, progress=False, repeats=2, resume=tmp_path)
    assert found.metric == "agreement"
    assert found.limits.tolerance == 0.02
    assert [c.keep_levels for c in found.candidates] == [1]
    assert all(c.quality >= c.cut and c.lost == 1 - c.quality for c in found.candidates)
    assert all(c.latency.median > 0 for c in found.candidates)
    assert found.whole.quality == 1.0
    assert model.training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    again = ws.shrink(model, images=IMAGES, steps=3, progress=False, repeats=2, resume=tmp_path)
    assert [c.quality for c in again.candidates] == [c.quality for c in found.candidates]
    assert {p.name for p in tmp_path.iterdir()} == {
        "keep_1.pt", "random_1.pt"
    }  # fmt: skip
    assert "1 depth, 3 steps of 2 images" in found.budget
    assert not any(c.random_refusal for c in found.candidates)
    rival = whole(found.candidates[0].variant.structure).thin(
        max_macs=found.candidates[0].macs, by="random"
    )
    recovered = rival.recover(IMAGES, steps=3, progress=False)
    assert found.candidates[0].random == recovered.after.explained
    saved = ws.save(found.candidates[0].variant, tmp_path / "small.safetensors")
    loaded = ws.load(saved, Small).module.eval()
    assert torch.equal(loaded(IMAGES), found.candidates[0].variant.module.eval()(IMAGES))


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    "images",
    [
        [{"image": IMAGES[:4], "mask": IMAGES[:4]}],
        [(IMAGES[:4], torch.zeros(4))],
        [{"x": IMAGES[:4].double()}],
    ],
)
def test_images_are_what_a_labelled_loader_yields(images):
    plain = {"steps": 1, "random": False, "repeats": 2, "progress": False}
    found = ws.shrink(Small().eval(), images=images, **plain)
    inputs = found.candidates[0].variant.structure.inputs
    (example,) = (*inputs.args, *inputs.kwargs.values())
    assert example.shape == (1, 1, 16, 16)
    assert "as much as" in found.budget


def hit_rate(outputs, targets):
    return (outputs.argmax(1) == targets).float().mean()


def test_the_budget_is_what_a_search_takes_and_is_shown_first(monkeypatch, capsys):
    """In forwards of the whole network on one image, each counted by the MACs of who runs."""
    taken = []

    def counts(owner, name, module_of, inputs_at):
        own = getattr(owner, name)

        def counting(self, *given):
            passes = 3 if name == "predict" and torch.is_grad_enabled() else 1
            taken.append(passes * len(given[inputs_at]) * costs[module_of(self, given)])
            return own(self, *given)

        monkeypatch.setattr(owner, name, counting)

    class Costs(dict):
        def __missing__(self, module):
            self[module] = count_costs(module, IMAGES[:1]).macs
            return self[module]

    costs, model = Costs(), Small().eval()
    counts(teaching.Teacher, "answers", lambda own, _: own.model, 0)
    counts(teaching.Student, "predict", lambda own, _: own.module, 0)
    counts(qualities.ByMetric, "_run", lambda _, given: given[0], 1)
    monkeypatch.setattr(course, "PATIENCE", 100)  # go through all steps
    pairs = [(IMAGES, torch.randn(12, 2, 16, 16))]
    asked = {"batches": pairs, "metric": "mse", "steps": 4, "repeats": 2}
    for random in (True, False):
        taken.clear()
        found = ws.shrink(model, **asked, random=random)
        output, errors = capsys.readouterr()
        assert errors.index(found.budget) < errors.index("recover: ")
        assert output == ""
        total = int(re.search(r"as much as ([\d,]+) forwards", found.budget)[1].replace(",", ""))
        spent = sum(taken) / costs[model]
        assert total == pytest.approx(spent, rel=0.25 if random else 0.02)
        assert total >= 0.99 * spent  # random channels have no new bottleneck to start


@pytest.mark.parametrize("metric", [hit_rate, "mse"])
def test_with_labels_quality_is_the_metric(metric):
    torch.manual_seed(0)
    model = Small().eval()
    with torch.no_grad():
        answers = model(IMAGES)
    targets = (IMAGES[:, 0] > 0).long() if metric is hit_rate else answers
    value = hit_rate if metric is hit_rate else torch.nn.functional.mse_loss
    batches = list(zip(IMAGES.split(6), targets.split(6), strict=True))
    found = ws.shrink(
        model, batches=batches, metric=metric, steps=2, progress=False, repeats=2, random=False
    )
    assert found.whole.quality == pytest.approx(float(value(answers, targets)))
    for small in found.candidates:
        with torch.no_grad():
            quality = float(value(small.variant.module.eval()(IMAGES), targets))
        assert small.quality == pytest.approx(quality, rel=1e-3)
        worse = quality > 0 if metric == "mse" else quality < found.whole.quality
        assert (small.lost > 0) == worse  # more of an error is worse


BOUNDS = {"plot_lower_bound": 0.0, "plot_upper_bound": 1.0}


def hits(factor=1.0, **declared):
    """The share of pixels on the right side, and what it says of itself."""

    def shared(outputs, targets):
        return factor * ((outputs > 0) == (targets > 0)).double().mean()

    shared.__dict__ |= declared
    return shared


def _of_torchmetrics():
    classification = pytest.importorskip("torchmetrics.classification")
    return classification.BinaryAccuracy(), classification.BinaryHammingDistance()


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    ("make", "own"),
    [
        (lambda: "accuracy", True),
        (lambda: _of_torchmetrics()[0], True),
        (lambda: _of_torchmetrics()[1], False),  # the less the better
        (lambda: pytest.importorskip("monai.metrics").DiceMetric(), True),
        (lambda: hits(higher_is_better=True), False),
        (lambda: hits(higher_is_better=True, **BOUNDS), True),
        (lambda: hits(**BOUNDS), True),  # that more is better is seen
        (lambda: hits(1024, higher_is_better=True, **BOUNDS), False),  # what it says is not so
        (lambda: "mse", False),
    ],
)
def test_what_is_lost_is_in_the_unit_of_a_metric_that_says_it_is_between_0_and_1(make, own):
    from weightscope.report import plot_search

    torch.manual_seed(0)
    model = Small(1).eval()
    with torch.no_grad():
        model.head.bias -= model(IMAGES).median()
        targets = (model(IMAGES) + 0.3 * torch.randn(12, 1, 16, 16) > 0).float()
    found = ws.shrink(
        model, batches=[(IMAGES, targets)], metric=make(), steps=0, progress=False, repeats=2,
        random=False,
    )  # fmt: skip
    small = next(c for c in found.candidates if not c.refusal)
    difference = abs(found.whole.quality - small.quality)
    skill = abs(found.whole.quality - found.trivial)
    assert abs(small.lost) == pytest.approx(difference if own else difference / skill)
    assert found.unit == (found.metric if own else "share of the skill")
    assert set(found.frame.unit) == {found.unit}
    said = f"lost is in the unit of {found.metric}" if own else "lost is a share of the skill: 1 is"
    for text in (str(found), found._repr_html_()):
        assert said in text
    assert found.unit in plot_search(found.frame).get_ylabel()


def test_the_error_of_a_loss_is_that_of_the_mean_over_images():
    torch.manual_seed(0)
    model = Small().eval()
    with torch.no_grad():
        answers = model(IMAGES)
    batches = [(IMAGES, answers)]
    found = ws.shrink(
        model, batches=batches, metric="mse", steps=1, progress=False, repeats=2, random=False
    )
    assert found.whole.error == 0
    for small in found.candidates:
        with torch.no_grad():
            errors = (small.variant.module.eval()(IMAGES) - answers).square().mean((1, 2, 3))
        expected = float(errors.std(correction=0)) / len(IMAGES) ** 0.5
        assert small.error / small.lost == pytest.approx(expected / small.quality, rel=0.1)


@pytest.mark.sample(1)
@pytest.mark.parametrize("budget", [{"tolerance": 0.5}, {"max_macs": 1e12}])
@pytest.mark.parametrize("silent", [12, 5])
def test_a_network_without_a_value_for_an_image_is_not_chosen(budget, silent):
    torch.manual_seed(0)
    model = Small().eval()
    with torch.no_grad():
        answers = model(IMAGES)

    def distance(outputs, targets):
        number = int((targets - answers).abs().mean((1, 2, 3)).argmin())
        error = (outputs - targets).abs().max()
        constant = outputs.std() == 0  # the trivial answer has a value everywhere
        return math.inf if number < silent and error > 1e-6 and not constant else error

    distance.higher_is_better = False
    found = ws.shrink(
        model, batches=[(IMAGES, answers)], metric=distance, steps=1, progress=False, repeats=2,
        random=False, **budget,
    )  # fmt: skip
    frame = found.frame.iloc[1:]
    assert len(frame) == len(found.candidates) > 0
    assert found.chosen is None
    assert not frame["pareto"].any()
    assert frame["why"].str.contains(f"{silent} of 12 images that have a value").all()
    assert all(one.variant is not None for one in found.candidates)
    assert math.isnan(found.candidates[0].quality) == (silent == 12)
    assert "no smaller network is within the limits" in str(found)


def test_random_channels_are_left_out_where_the_extra_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    found = ws.shrink(Small(), images=IMAGES, steps=1, progress=False, repeats=2)
    assert all(math.isnan(c.random) for c in found.candidates)
    assert "random channels were not tried: thinner networks need Torch-Pruning" in str(found)


def macs_of(found):
    return {(c.keep_levels, c.thinned): c.macs for c in found.candidates}


@pytest.mark.slow
def test_what_costs_more_than_the_budget_is_made_thinner(tmp_path):
    torch.manual_seed(0)
    model = Small().eval()
    asked = {"images": IMAGES, "steps": 2, "progress": False, "repeats": 2, "random": False}
    depths = macs_of(ws.shrink(model, **asked))
    budget = 0.6 * depths[1, False]  # no depth is within it
    found = ws.shrink(model, **asked, max_macs=budget, resume=tmp_path)
    macs = macs_of(found)
    assert list(macs) == [(2, True), (1, False), (1, True)]
    assert all(0.3 * budget < value <= budget for (_, thin), value in macs.items() if thin)
    assert {(c.keep_levels, c.thinned) for c in found.candidates if found.limits.broken(c)} == {
        (1, False)
    }  # fmt: skip
    assert found.chosen.thinned
    assert found.chosen.quality == max(c.quality for c in found.candidates if c.thinned)
    assert "1 depth and 2 thinner networks, 2 steps" in found.budget
    assert len(list(tmp_path.iterdir())) == 3
    deep, thinner = (c.variant for c in found.candidates[1:])
    assert deep.thin(max_macs=budget).plan == thinner.plan  # made from the recovered depth
    ws.save(thinner, tmp_path / "small.safetensors")
    loaded = ws.load(tmp_path / "small.safetensors", Small).module.eval()
    assert torch.equal(loaded(IMAGES), thinner.module.eval()(IMAGES))
    between = (depths[1, False] + found.whole.macs) / 2
    assert list(macs_of(ws.shrink(model, **asked, max_macs=between))) == [(2, True), (1, False)]
    assert macs_of(ws.shrink(model, **asked, max_macs=budget, thin=1)) == depths


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.3, 0.05])
def test_a_multiresunet_is_brought_within_a_budget(share, tmp_path):
    factory = partial(create_model, "half_multiresunet", width=8, seed=0)
    images = torch.rand(8, 3, 64, 64)
    model = factory().eval()
    whole = ws.analyze(model, example_inputs=images[:1], response=False).costs.macs
    budget = share * whole
    found = ws.shrink(
        model, images=images, max_macs=budget, steps=2, progress=False, repeats=2, random=False
    )
    assert {c.keep_levels for c in found.candidates if c.macs <= budget} == {1, 2, 3}
    assert found.chosen.macs <= budget
    ws.save(found.chosen.variant, tmp_path / "small.safetensors")
    loaded = ws.load(tmp_path / "small.safetensors", factory).module.eval()
    assert torch.equal(loaded(images), found.chosen.variant.module.eval()(images))


def test_every_network_is_made_thinner_by_a_share():
    found = ws.shrink(
        Small(), images=IMAGES, steps=1, progress=False, repeats=2, random=False, thin=0.5
    )
    macs = macs_of(found) | {(2, False): found.whole.macs}
    for keep in (2, 1):
        assert 0.2 * macs[keep, False] < macs[keep, True] <= 0.5 * macs[keep, False]


def test_without_the_extra_nothing_is_thinned_and_it_is_said_why(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    asked = {"images": IMAGES, "steps": 1, "progress": False, "repeats": 2, "random": False}
    found = ws.shrink(Small(), **asked, max_macs=1)
    assert found.chosen is None
    assert [c.refusal for c in found.candidates if c.thinned] == [
        "thinner networks need Torch-Pruning; install weightscope[prune]"
    ] * 2
    with pytest.raises(MissingExtraError, match="install weightscope"):
        ws.shrink(Small(), **asked, thin=0.5)


@pytest.mark.slow
def test_refused_depths_are_listed(tmp_path):
    torch.manual_seed(0)
    found = ws.shrink(
        Tokens(),
        images=image(4, 1, 16, 16),
        steps=1,
        progress=False,
        repeats=2,
        tolerance=1e9,
        random=False,
    )
    assert found.candidates[-1].refusal
    assert found.candidates[-1].macs == 0
    assert found.frame["parameters"].isna().iloc[-1]
    assert found.chosen.keep_levels == 2


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({}, "give images="),
        ({"images": IMAGES, "tolerance": -0.1}, "tolerance=-0.1 must not be negative"),
        ({"images": IMAGES, "max_macs": math.nan}, "max_macs=nan; give a number, or None"),
        ({"images": IMAGES, "metric": "f1"}, "belong together"),
        ({"images": IMAGES, "thin": 1.5}, "thin=1.5 must be a share above 0 and at most 1"),
        ({"images": []}, "images= is empty"),
        ({"images": IMAGES, "max_parameters": 0}, "max_parameters=0 leaves no network"),
    ],
)
def test_errors_name_the_argument(given, text):
    with pytest.raises(InputError, match=text):
        ws.shrink(Small(), **given, progress=False)


PAIRS = [(IMAGES, IMAGES)]


@pytest.mark.parametrize(
    ("call", "given", "text"),
    [
        (ws.shrink, {"images": IMAGES, "steps": -1}, "steps=-1; give a whole number from 0"),
        (ws.shrink, {"images": IMAGES, "resume": __file__}, "cannot make the folder"),
        (ws.shrink, {"batches": PAIRS, "metric": "f2"}, "unknown metric 'f2'"),
        (ws.shrink, {"batches": PAIRS, "metric": {"seg": "f1", "cls": "f1"}}, "one for 2 outputs"),
        (ws.analyze, {"batches": PAIRS, "metric": {"seg": "f2", "cls": None}}, "metric 'f2'"),
        (ws.analyze, {"batches": PAIRS, "metric": 3}, "metric= is int, expected a name"),
        (ws.analyze, {"batches": PAIRS, "metric": nn.L1Loss}, r"give an object of it, L1Loss\(\)"),
    ],
)
def test_what_cannot_be_used_is_refused_before_the_network_is_read(call, given, text):
    model, called = Small(), []
    model.register_forward_pre_hook(lambda *_: called.append(1))
    with pytest.raises(InputError, match=text):
        call(model, **given, progress=False)
    assert not called


def test_the_plot_shows_what_was_measured():
    from weightscope.report import plot_search

    found = search(tolerance=0.02)
    thinner = candidate(2, 80, 0.1, thinned=True)
    frame = replace(found, candidates=(*found.candidates, thinner)).frame
    axes = plot_search(frame)
    assert [text.get_text() for text in axes.texts] == ["4", "3", "2", "1", "2", "refused:\n0"]
    names = ["recovered", "thinner", "before recovery", "chosen", "random channels"]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == names
    less = frame[~frame.thinned & frame.quality.notna() & ~frame.chosen].assign(random=math.nan)
    axes = plot_search(less)
    names = ["recovered", "before recovery"]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == names
    assert [text.get_text() for text in axes.texts] == ["4", "3", "1"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "small_nets.py").write_text(
        "import torch\nfrom mpseg_models import create_model\n"
        "def net():\n    return create_model('half_unet', width=4, seed=0)\n"
        "def images():\n    return torch.rand(6, 3, 32, 32, generator=torch.Generator())\n"
        "def broken():\n    raise OSError('the disk is gone')\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop("small_nets", None)


def test_the_command_writes_the_chosen_network(folder, capsys):
    asked = [
        "shrink",
        "small_nets:net",
        "--images",
        "small_nets:images",
        "--steps",
        "1",
        "--no-random",
    ]
    assert main([*asked, "--tolerance", "9", "--out", "small.safetensors", "--csv", "t.csv"]) == 0
    printed, said = capsys.readouterr()
    assert len(said.splitlines()) == 1  # into a file goes the budget, and no bars
    assert "steps of 2 images each" in said
    assert "chosen: 1 of 3 levels" in printed
    assert len((folder / "t.csv").read_text().splitlines()) == 4
    loaded = ws.load("small.safetensors", lambda: create_model("half_unet", width=4))
    assert loaded.plan.keep_levels == 1
    assert main([*asked, "--max-parameters", "1", "--out", "none.safetensors"]) == 2
    said = capsys.readouterr().err
    assert "no smaller network is within the limits, and nor is the whole one (max_par" in said
    assert said.endswith("a larger --max-parameters or --thin 0.5, which tries thinner ones too\n")
    assert not (folder / "none.safetensors").exists()


@pytest.mark.parametrize(
    ("loader", "text"),
    [("images", "names no loader"), ("small_nets:broken", "OSError: the disk is gone")],
)
def test_the_command_names_a_loader_that_fails(loader, text, folder, capsys):
    assert main(["shrink", "small_nets:net", "--batches", loader, "--metric", "f1"]) == 2
    assert text in capsys.readouterr().err


def test_a_generator_that_does_not_end_is_read_as_far_as_a_recovery_reads():
    model = Small().eval()

    def images():
        while True:
            yield IMAGES[:4]

    found = ws.shrink(model, images=images(), steps=0, progress=False, random=False)
    assert found.candidates


class Blob(nn.Module):
    """Three levels; bright where the image is, on a scale of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.top, self.mid = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 8, 3, padding=1)
        self.deep, self.up = nn.Conv2d(8, 16, 3, padding=1), nn.Conv2d(24, 4, 3, padding=1)
        self.out = nn.Conv2d(8, 1, 1)

    def forward(self, x):
        top = self.top(x).relu()
        mid = self.mid(F.max_pool2d(top, 2)).relu()
        deep = F.interpolate(self.deep(F.max_pool2d(mid, 2)).relu(), scale_factor=2.0)
        up = F.interpolate(self.up(torch.cat([deep, mid], 1)).relu(), scale_factor=2.0)
        return 0.01 * self.out(torch.cat([up, top], 1)) + x - 3.0


def masks():
    return [(IMAGES[i : i + 2], (IMAGES[i : i + 2] > 1).float()) for i in range(0, 12, 2)]


def test_the_threshold_of_each_quality_is_shown_and_the_quality_at_the_whole_networks():
    torch.manual_seed(0)
    asked = {"steps": 2, "progress": False, "repeats": 2, "random": False}
    found = ws.shrink(Blob().eval(), batches=masks(), metric="f1", **asked)
    assert found.whole.quality == found.whole.unadjusted == found.frame["unadjusted"][0]
    threshold = found.frame["threshold"][0]
    assert -2.5 < threshold < -1.5  # of a logit, and far from 0
    for one in found.candidates:
        (own,) = one.thresholds
        outputs = torch.cat([one.variant.module.eval()(x).detach() for x, _ in masks()])
        truth = torch.cat([target for _, target in masks()]) > 0

        def f1(called, truth=truth):
            hits = (called & truth).sum()
            return float(2 * hits / (called.sum() + truth.sum()))

        assert one.quality == pytest.approx(f1(outputs >= own), abs=1e-6)
        assert one.unadjusted == pytest.approx(f1(outputs >= threshold), abs=0.01)
        assert one.unadjusted <= one.quality + 1e-9
    assert "f1 is taken at the threshold that is best for each network" in str(found)
    assert {"threshold", "unadjusted"} <= set(str(found).splitlines()[0].split())
    assert "threshold" in found._repr_html_()
    assert "threshold" not in str(ws.shrink(Blob(), images=IMAGES, **asked))


def test_a_chosen_network_that_is_no_better_than_a_constant_is_warned_of():
    text = str(search(max_macs=600))
    assert "warning" not in text
    found = search(max_macs=600)
    of_no_use = replace(found, candidates=(candidate(1, 200, 0.75),))
    assert of_no_use.chosen is not None
    for shown in (str(of_no_use), of_no_use._repr_html_()):
        assert "the input itself), whose f1 is 0.200" in shown
    assert "nor is the whole" not in str(of_no_use)
    useless = replace(of_no_use, whole=candidate(4, 1000, 0.8))
    assert "the whole network shows no skill that counts" in str(useless)
    assert "of no use" in repr(of_no_use)


def test_a_chosen_network_within_an_error_of_a_constant_is_warned_of():
    found = search(max_macs=600)
    near = replace(found, candidates=(candidate(1, 200, 0.69, error=0.013),))
    assert "within a standard error of the best trivial answer" in str(near)
    assert "of no use" in repr(near)
    apart = replace(found, candidates=(candidate(1, 200, 0.68, error=0.013),))
    assert "trivial answer" not in str(apart)


@pytest.mark.parametrize("less_is_better", [False, True])
def test_a_chosen_network_that_is_worse_than_random_removal_is_warned_of(less_is_better):
    found = search(max_macs=600)
    sign = -1 if less_is_better else 1

    def shown(random, quality=0.8):
        one = replace(candidate(1, 200, 0.1), quality=sign * quality, random=sign * random)
        whole = replace(found.whole, quality=sign * 0.9)
        made = replace(found, candidates=(one,), whole=whole, trivial=sign * 0.2)
        return str(made), repr(made), made._repr_html_()

    for text in (*shown(0.7), *shown(0.8), *shown(math.nan)):
        assert "better" not in text
    for text in shown(0.87):
        assert "better" in text
    text = shown(0.87)[0]
    assert f"has f1 {sign * 0.87:.3f}, the chosen one {sign * 0.8:.3f}" in text
    assert "thin Analysis.whole by 'random' to 200 MACs" in text


def test_a_budget_below_what_works_says_so():
    torch.manual_seed(0)
    asked = {"steps": 0, "progress": False, "repeats": 2, "random": False}
    found = ws.shrink(
        nn.Sequential(Blob()).eval()[0], images=IMAGES, max_macs=1e12, thin=1, **asked
    )
    assert found.trivial == 0
    assert found.skill == 1
    worst = max(found.candidates, key=lambda c: c.lost)
    assert ("warning" in str(replace(found, candidates=(worst,)))) == (worst.quality <= 0)


def test_nothing_is_shown_of_a_network_that_cannot_be_built():
    refused = replace(candidate(1, 0, math.nan, "cannot"), parameters=0, bytes=0, thinned=True)
    found = replace(search(max_macs=600), candidates=(candidate(2, 500, 0.1), refused))
    row = found.frame.iloc[-1]
    assert row[["parameters", "macs", "bytes"]].isna().all()
    assert found.frame["macs"][1] == 500
    lines = str(found).splitlines()
    assert lines[3].split() == ["1", "True", "1.0", "0.1"]
    assert "levels kept 1, thinner: cannot" in lines
    from weightscope.report import plot_search

    ax = plot_search(found.frame)
    assert "refused" in " ".join(t.get_text() for t in ax.texts)


@pytest.fixture(scope="module")
def cut_plain():
    found = ws.analyze(Small(), example_inputs=IMAGES[:1], response=False)
    return found.proposals[0].build()


@pytest.mark.parametrize("repeats", [-1, 0, 1, 1.5, "2"])
def test_latencies_need_two_forwards_everywhere(cut_plain, repeats):
    model, small = Small(), cut_plain
    for call in (
        lambda: ws.shrink(model, images=IMAGES, steps=0, progress=False, repeats=repeats),
        lambda: small.measure(repeats=repeats),
        lambda: measure_latency([model], IMAGES, repeats=repeats),
    ):
        with pytest.raises(InputError, match=r"^repeats=.*whole number from 2"):
            call()


def test_images_without_numbers_are_refused():
    with pytest.raises(InputError, match="meta and hold no numbers"):
        ws.shrink(Small(), images=IMAGES.to("meta"), steps=1, progress=False, random=False)


class Pair(nn.Module):
    """A plain network that returns numbers beside a decision."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Small()

    def forward(self, x):
        made = self.net(x)
        return {"depth": made.mean(1, keepdim=True), "mask": made.amax(1, keepdim=True) - 0.1}


SHORT = {"steps": 0, "progress": False, "repeats": 2, "random": False}


def test_an_output_is_judged_by_its_own_target_or_refused():
    torch.manual_seed(0)
    model = Pair().eval()
    with torch.no_grad():
        made = model(IMAGES)
    noise = 0.1 * torch.randn(12, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    own = {"depth": made["depth"] + noise, "mask": (made["mask"] > 0).float()}
    turned = {name: own[name] for name in ("mask", "depth")}
    with pytest.raises(
        InputError, match=r"outputs\['depth'\] would be judged by targets\['mask'\]"
    ):
        ws.shrink(model, batches=[(IMAGES, turned)], metric="mse", **SHORT)
    found = ws.shrink(model, batches=[(IMAGES, own)], metric="mse", **SHORT)
    assert found.metric == "mse of outputs['depth']"
    assert found.whole.quality == pytest.approx(0.01, rel=0.1)
    named = ws.shrink(
        model, batches=[(IMAGES, turned)], metric={"depth": None, "mask": "f1"}, **SHORT
    )
    assert (named.metric, named.unit) == ("f1 of outputs['mask']", "f1")
    assert named.whole.quality == 1.0
    assert "lost is in the unit of f1\n" in f"{named}\n"


def test_what_does_not_count_is_left_out_of_the_quality():
    torch.manual_seed(0)
    model = Small(1).eval()
    with torch.no_grad():
        made = model(IMAGES)[:, 0]
    marked = (made > made.median()).long()
    marked[:, :8] = 255
    with pytest.raises(InputError, match=r"declare it by ignore_index=255"):
        ws.shrink(model, batches=[(IMAGES, marked)], metric="f1", **SHORT)
    found = ws.shrink(model, batches=[(IMAGES, marked)], metric="f1", ignore_index=255, **SHORT)
    assert found.whole.quality == 1.0


@pytest.mark.sample(1)
@pytest.mark.parametrize("metric", ["f1", "iou", "mse"])
def test_a_network_without_skill_is_told_whatever_is_chosen(metric):
    torch.manual_seed(0)
    model = Small(1).eval()
    targets = (torch.rand(12, 1, 16, 16, generator=torch.Generator().manual_seed(1)) > 0.7).float()
    found = ws.shrink(model, batches=[(IMAGES, targets)], metric=metric, tolerance=0.5, **SHORT)
    assert found.skill == 0
    assert "warning: the whole network shows no skill that counts" in str(found)


class FillsIn(nn.Module):
    """Fills in what a mask leaves out, from two levels."""

    def __init__(self):
        super().__init__()
        self.down, self.up = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(6, 1, 3, padding=1)

    def forward(self, x):
        below = F.interpolate(self.down(F.avg_pool2d(x, 2)), scale_factor=2.0)
        made = self.up(torch.cat([x, below], 1))
        return torch.where(x[:, 1:] > 0, x[:, :1], made)


def test_quality_is_lost_of_the_same_skill_that_the_levels_are_judged_by():
    generator = torch.Generator().manual_seed(0)
    targets = 0.7 + 0.1 * torch.randn(12, 1, 16, 16, generator=generator)
    known = (torch.rand(targets.shape, generator=generator) < 0.7).float()
    pairs = [(torch.cat([targets * known, known], 1), targets)]
    structure = read_structure(FillsIn().eval(), pairs[0][0][:1])
    result = ablate_levels(structure, pairs, "mse")
    assert result.trivial == "what it makes of a constant"
    assert qualities.ByMetric(structure, pairs, "mse").trivial == pytest.approx(result.chance)
