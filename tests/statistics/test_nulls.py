from dataclasses import replace

import numpy as np
import pytest
import torch
from float64_reference import finite_values
from scipy import stats
from torch import nn

from weightscope.statistics import compare, measure_model
from weightscope.statistics.choosing import Evidence, choose_nulls, followed_rules, sharpest_rule
from weightscope.statistics.distances import as_drawn, critical_ks
from weightscope.statistics.rules import KernelShape, Null
from weightscope.summaries import summarize

SHAPE = (96, 64, 3, 3)
INITIALIZERS = {
    "PyTorch default (uniform)": lambda w: nn.init.kaiming_uniform_(w, a=5**0.5),
    "Glorot uniform": nn.init.xavier_uniform_,
    "Glorot normal": nn.init.xavier_normal_,
    "He normal (fan in)": lambda w: nn.init.kaiming_normal_(w, nonlinearity="relu"),
    "He normal (fan out)": lambda w: nn.init.kaiming_normal_(
        w, mode="fan_out", nonlinearity="relu"
    ),
    "He uniform (fan in)": lambda w: nn.init.kaiming_uniform_(w, nonlinearity="relu"),
    "He uniform (fan out)": lambda w: nn.init.kaiming_uniform_(
        w, mode="fan_out", nonlinearity="relu"
    ),
    "LeCun normal": lambda w: nn.init.kaiming_normal_(w, nonlinearity="linear"),
    "normal, std 0.02": lambda w: nn.init.normal_(w, std=0.02),
    "normal, std 0.01": lambda w: nn.init.normal_(w, std=0.01),
    "normal, std 0.02, cut at 2 std": lambda w: nn.init.trunc_normal_(w, std=0.02, a=-0.04, b=0.04),
    "orthogonal": nn.init.orthogonal_,
}


@pytest.mark.parametrize("label", INITIALIZERS)
def test_every_initializer_is_recognized(label):
    torch.manual_seed(1)
    weights = torch.empty(SHAPE)
    INITIALIZERS[label](weights)
    rules = KernelShape.of(SHAPE).rules
    [null] = choose_nulls([Evidence("", "conv2d", True, summarize(weights), rules, 2.0**-23)])
    expected = rules[label]
    assert (null.source, null.family, null.std) == ("matched", expected.family, expected.std)
    assert null.std == pytest.approx(float(weights.std()), rel=0.01)
    assert null.plausible == (null.std, null.std)


@pytest.mark.parametrize("module", [
    nn.Conv2d(64, 48, 3), nn.Conv2d(64, 96, 3, groups=8), nn.ConvTranspose2d(64, 48, 2),
    nn.ConvTranspose3d(32, 48, 2, groups=4), nn.Linear(200, 300), nn.Bilinear(20, 30, 40),
])  # fmt: skip
def test_torch_defaults_are_recognized_in_place(module):
    torch.manual_seed(2)
    module.reset_parameters()
    for record in measure_model(module).parameters:
        assert (record.null.label, record.null.source) == ("PyTorch default (uniform)", "matched")
        assert record.comparison.spread_ratio == pytest.approx(1, abs=0.2)
        assert not record.comparison.distinguishable


def test_norms_embeddings_attention_and_recurrent_defaults():
    torch.manual_seed(3)
    model = nn.ModuleList([
        nn.BatchNorm2d(8), nn.Embedding(50, 20), nn.MultiheadAttention(32, 2), nn.LSTM(16, 24),
    ])  # fmt: skip
    nulls = {p.parameter: p.null for p in measure_model(model).parameters}
    assert {n.source for n in nulls.values()} == {"matched"}
    assert (nulls["0.weight"].label, nulls["0.bias"].label) == ("ones", "zeros")
    assert nulls["1.weight"].std == 1.0
    assert nulls["2.in_proj_weight"].label == "Glorot uniform"
    assert nulls["3.weight_ih_l0"].std == pytest.approx((3 * 24) ** -0.5)


def test_a_trained_kernel_follows_the_rule_of_the_others():
    torch.manual_seed(4)
    model = nn.Sequential(*[nn.Conv2d(32, 32, 3) for _ in range(3)])
    for layer in model:
        nn.init.xavier_normal_(layer.weight)
    with torch.no_grad():
        model[1].weight.mul_(1.7).add_(0.01)
    records = {p.parameter: p for p in measure_model(model).parameters}
    assert records["0.weight"].null.source == "matched"
    changed = records["1.weight"]
    assert (changed.null.label, changed.null.source) == ("Glorot normal", "inferred")
    assert changed.comparison.distinguishable
    assert changed.comparison.spread_ratio == pytest.approx(1.7, rel=0.02)


def test_where_nothing_tells_the_default_is_assumed_and_says_so():
    torch.manual_seed(5)
    model = nn.Sequential(nn.Conv2d(32, 32, 3), nn.Conv2d(32, 32, 3))
    with torch.no_grad():
        for layer in model:
            layer.weight.copy_(torch.randn(layer.weight.shape) ** 3)
    for record in measure_model(model).parameters:
        if record.is_kernel:
            assert record.null.source == "assumed"
            assert record.null.label == "PyTorch default (uniform)"
            assert record.null.plausible[1] > 2 * record.null.plausible[0]
            assert record.comparison.doubt > 0


def test_a_rule_with_more_weights_against_it_than_for_it_is_nobodys():
    torch.manual_seed(11)
    model = nn.Sequential(nn.Conv2d(16, 16, 3), nn.Conv2d(64, 64, 3), nn.Conv2d(64, 32, 3))
    nn.init.kaiming_normal_(model[0].weight)  # follows He's rule by its own weights
    with torch.no_grad():  # the others, larger by far, are too narrow for it
        for layer in model[1:]:
            layer.weight.copy_(torch.randn(layer.weight.shape) ** 3 * 1e-3)
    nulls = {p.parameter: p.null for p in measure_model(model).parameters}
    assert nulls["0.weight"].source == "matched"
    for name in ("1.weight", "2.weight"):
        assert (nulls[name].source, nulls[name].label) == ("assumed", "PyTorch default (uniform)")


def test_a_tiny_kernel_takes_the_rule_of_the_others():
    torch.manual_seed(6)
    model = nn.Sequential(nn.Conv2d(64, 64, 3), nn.Conv2d(64, 1, 1))
    for layer in model:
        nn.init.xavier_uniform_(layer.weight)
    labels = {p.null.label for p in measure_model(model).parameters if p.is_kernel}
    assert labels == {"Glorot uniform"}


@pytest.mark.parametrize("give", [
    lambda start: {n: v.clone() for n, v in start.state_dict().items()},
    lambda start: lambda: start, lambda start: start.state_dict,
])  # fmt: skip
def test_given_initial_weights_are_exact(give):
    torch.manual_seed(7)
    start, model = nn.Conv2d(40, 50, 3), nn.Conv2d(40, 50, 3)
    record = measure_model(model, initial=give(start)).parameters[0]
    before = finite_values(start.weight)
    after = finite_values(model.weight)
    assert record.null.source == "drawn"  # two draws, neither of which is the other's start
    assert record.null.std == pytest.approx(before.std(), rel=1e-9)
    assert record.comparison.near_zero_initial == {
        t: (abs(before) <= t).mean() for t in (1e-3, 1e-2)
    }
    assert record.near_zero_relative == (abs(after) <= 0.1 * record.null.std).mean()
    exact = stats.ks_2samp(after, before).statistic
    assert record.comparison.ks_initial == pytest.approx(exact, abs=1.5e-3)


def test_unchanged_weights_have_no_distance_to_themselves():
    model = nn.Sequential(nn.Conv2d(40, 50, 3), nn.BatchNorm2d(50))
    for record in measure_model(model, initial=model.state_dict()).parameters:
        assert record.comparison.ks_initial == 0
        assert record.comparison.excess_spread == 0
        assert record.comparison.wasserstein_initial == pytest.approx(0, abs=1e-6)
        assert not record.comparison.distinguishable


NULLS = [
    (Null("normal", "", 0.3, mean=0.1), stats.norm(0.1, 0.3)),
    (Null("uniform", "", 0.3), stats.uniform(-0.3 * 3**0.5, 0.6 * 3**0.5)),
    (Null("truncated normal", "", 0.3 * 0.8796256610342398), stats.truncnorm(-2, 2, 0, 0.3)),
]


@pytest.mark.parametrize(("null", "law"), NULLS)
def test_nulls_are_the_distributions_they_name(null, law):
    x, p = np.linspace(-1, 1, 101), np.linspace(0.001, 0.999, 101)
    assert null.std == pytest.approx(law.std(), rel=1e-6)
    np.testing.assert_allclose(null.cdf(x), law.cdf(x), atol=1e-12)
    np.testing.assert_allclose(null.quantile(p), law.ppf(p), atol=1e-9)
    assert null.near_zero_mass(0.2) == pytest.approx(law.cdf(0.2) - law.cdf(-0.2))
    edges = np.linspace(-2, 2, 9)
    np.testing.assert_allclose(null.bin_counts(edges, 1000), 1000 * np.diff(law.cdf(edges)))


@pytest.mark.parametrize(("null", "law"), NULLS)
@pytest.mark.parametrize("count", [200, 50_000])
def test_distances_equal_scipy(null, law, count):
    weights = torch.from_numpy(law.rvs(count, random_state=0) * 1.2 + 0.02).float()
    comparison = compare(summarize(weights), null)
    values = finite_values(weights)
    assert comparison.ks_initial == pytest.approx(stats.kstest(values, law.cdf).statistic, abs=2e-3)
    shares = (np.arange(200_000) + 0.5) / 200_000
    exact = stats.wasserstein_distance(values, law.ppf(shares))
    assert comparison.wasserstein_initial == pytest.approx(exact, rel=0.02)
    gap = values.std() ** 2 - null.std**2
    assert comparison.excess_spread == pytest.approx(np.sign(gap) * abs(gap) ** 0.5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_coarse_numbers_still_match_their_null(dtype):
    torch.manual_seed(8)
    layer = nn.Conv2d(128, 128, 3).to(dtype)
    record = measure_model(layer).parameters[0]
    assert record.null.source == "matched"
    assert not record.comparison.distinguishable


def test_constant_nulls():
    norm = nn.BatchNorm2d(16)
    with torch.no_grad():
        norm.weight[:4] = 2.0
    record = measure_model(norm).parameters[0]
    assert (record.null.family, record.null.mean, record.null.std) == ("constant", 1.0, 0.0)
    assert record.comparison.ks_initial == 0.25
    assert record.comparison.wasserstein_initial == pytest.approx(0.25, rel=0.01)
    assert np.isnan(record.comparison.spread_ratio)
    assert record.null.near_zero_mass(0.5) == 0
    assert record.null.near_zero_mass(1.0) == 1


def test_chance_is_seldom_taken_for_a_change():
    noise = torch.Generator().manual_seed(9)
    null = Null("uniform", "", 3**-0.5)
    gaps = [
        compare(summarize(torch.rand(n, generator=noise) * 2 - 1), null).ks_initial / critical_ks(n)
        for n in (50, 500, 2000)
        for _ in range(100)
    ]
    # Kolmogorov: sqrt(n) KS > 1.3581 in one of twenty
    assert 0.02 < np.mean(np.array(gaps) > 1.3581 / 2.2253) < 0.09
    assert max(gaps) < 1


def test_an_empty_tensor_has_no_distance():
    comparison = compare(summarize(torch.zeros(0)), Null("normal", "", 1.0))
    assert np.isnan([comparison.ks_initial, comparison.wasserstein_initial]).all()
    assert not comparison.distinguishable


BOUNDED = [NULLS[1], NULLS[2]]


@pytest.mark.parametrize(("null", "law"), BOUNDED)
def test_edges_are_those_of_the_distribution(null, law):
    assert null.edge == pytest.approx(law.support()[1])
    assert null.edge_density == pytest.approx(law.pdf(null.edge * (1 - 1e-9)))
    assert np.isinf(NULLS[0][0].edge)
    assert NULLS[0][0].edge_density == 0


@pytest.mark.parametrize(("null", "law"), NULLS)
@pytest.mark.parametrize("count", [30, 1000, 30_000])
def test_fresh_draws_are_as_drawn(null, law, count):
    null = replace(null, mean=0.0)
    draws = [law.rvs(count, random_state=seed) - law.mean() for seed in range(30)]
    assert all(as_drawn(summarize(torch.from_numpy(w).float()), null) for w in draws)


@pytest.mark.parametrize(("null", "law"), BOUNDED)
@pytest.mark.parametrize(
    "change",
    [
        lambda w, noise: w + 0.02 * w.std() * noise,
        lambda w, noise: 0.99 * w,
        lambda w, noise: 0.98 * w + 0.2 * w.std() * noise,  # the same spread
    ],
    ids=["moved", "decayed", "both"],
)
def test_edges_show_what_the_spread_hides(null, law, change):
    noise = np.random.default_rng(0).normal(size=30_000)
    weights = change(law.rvs(30_000, random_state=1), noise)
    assert abs(weights.std() / null.std - 1) < 0.012
    assert not as_drawn(summarize(torch.from_numpy(weights).float()), null)


@pytest.mark.parametrize("share", [0.003, 0.01, 0.05])
def test_weights_beyond_the_edge_measure_a_movement_far_below_the_spread(share):
    torch.manual_seed(11)
    layer = nn.Conv2d(128, 128, 3, bias=False)
    spread = float(layer.weight.detach().std())
    with torch.no_grad():
        layer.weight.add_(share * spread * torch.randn_like(layer.weight))
    comparison = measure_model(layer).parameters[0].comparison
    assert comparison.distinguishable
    assert comparison.excess**0.5 == pytest.approx(share * spread, rel=0.12)
    assert comparison.error < 0.5 * comparison.excess


def test_a_kernel_that_fills_its_edges_tells_its_rule_against_the_others():
    torch.manual_seed(12)
    model = nn.Sequential(*(nn.Conv2d(32, 32, 3, bias=False) for _ in range(6)))
    with torch.no_grad():
        for layer in model[1:]:
            nn.init.kaiming_normal_(layer.weight)
    nulls = [p.null for p in measure_model(model).parameters]
    assert (nulls[0].label, nulls[0].source) == ("PyTorch default (uniform)", "matched")
    assert {null.label for null in nulls[1:]} == {"He normal (fan in)"}


def test_the_tightest_filled_edge_decides_between_rules_of_one_spread():
    torch.manual_seed(16)
    weight = torch.empty(12, 8, 1, 1)
    rules = KernelShape.of(tuple(weight.shape)).rules
    for draw, label in (
        (nn.init.xavier_uniform_, "Glorot uniform"),
        (lambda w: nn.init.trunc_normal_(w, std=0.1, a=-0.2, b=0.2), "Glorot normal, cut at 2 std"),
    ):
        draw(weight)
        scaled = weight / weight.std() * rules[label].std * 0.99
        summary = summarize(weight if label == "Glorot uniform" else scaled)
        followed = followed_rules(summary, rules.values())
        chosen = sharpest_rule(summary, rules, followed, "Glorot normal, cut at 2 std", 2**-23)
        assert chosen == label


def test_a_given_start_gives_movement_and_shrinkage():
    torch.manual_seed(13)
    start, model = nn.Conv2d(30, 40, 3), nn.Conv2d(30, 40, 3)
    with torch.no_grad():
        model.weight.copy_(0.5 * start.weight + 0.01 * torch.randn_like(start.weight))
    comparison = measure_model(model, initial=start.state_dict()).parameters[0].comparison
    assert comparison.movement.shrinkage == pytest.approx(0.5, abs=0.01)
    assert comparison.movement.moved == pytest.approx(0.01, rel=0.05)
    assert (comparison.excess, comparison.error) == (comparison.movement.moved**2, 0.0)
    redrawn = measure_model(nn.Conv2d(30, 40, 3), initial=start.state_dict()).parameters[0]
    assert (redrawn.comparison.movement, redrawn.null.source) == (None, "drawn")


def test_a_kernel_too_small_to_tell_began_where_the_others_did():
    torch.manual_seed(13)
    model = nn.Sequential(nn.Conv2d(4, 40, 3), nn.Conv2d(4, 1, 1))
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        model[0].weight.add_(0.01 * torch.randn_like(model[0].weight))
        model[1].weight.copy_(torch.tensor([1.0, -1.0, 0.5, 2.0]).view(1, 4, 1, 1))
    head = measure_model(model, initial=start).parameters[2]
    assert (head.count, head.null.source) == (4, "given")
    assert head.comparison.movement == head.since_given
    nn.init.normal_(model[0].weight)
    assert measure_model(model, initial=start).parameters[2].comparison.movement is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rounding_does_not_pass_for_movement(dtype):
    torch.manual_seed(14)
    comparison = measure_model(nn.Conv2d(128, 128, 3).to(dtype)).parameters[0].comparison
    assert not comparison.distinguishable


@pytest.mark.parametrize("count", [20, 100, 10_000])
def test_critical_distances_of_small_samples(count):
    """Kolmogorov's limit with Stephens' correction is within a percent of the exact one."""
    exact = stats.kstwo.isf(1e-4, count)
    assert critical_ks(count) == pytest.approx(exact, rel=0.01)
    assert critical_ks(count, count) == pytest.approx(critical_ks(count // 2), rel=0.02)


def test_the_mean_square_shows_what_the_distribution_function_hides():
    null, law = NULLS[0]
    null = replace(null, mean=0.0)
    weights = (law.rvs(100_000, random_state=4) - law.mean()) * 1.02
    summary = summarize(torch.from_numpy(weights).float())
    assert compare(summary, null).ks_initial < critical_ks(100_000)
    assert not as_drawn(summary, null)
