"""The rule of a trained network, told by the spreads of its kernels together."""

from dataclasses import replace

import pytest
import torch
from scipy import stats
from torch import nn

from weightscope.statistics import measure_model
from weightscope.statistics.choosing import Evidence, explain, infer_rules
from weightscope.statistics.rules import KernelShape
from weightscope.summaries import summarize

SHAPES = [
    (16, 3, 7, 7), (16, 16, 3, 3), (32, 16, 3, 3), (32, 32, 3, 3), (64, 32, 3, 3), (64, 32, 1, 1),
    (64, 128, 3, 3), (32, 96, 3, 3), (16, 48, 3, 3),
]  # fmt: skip


def trained(label, *, kept=1.0, moved=0.03, part="net", seed=0):
    """Kernels drawn by a rule, shrunk, and moved."""
    generator = torch.Generator().manual_seed(seed)
    kernels = []
    for shape in SHAPES:
        rules = KernelShape.of(shape).rules
        rule = rules[label]
        size = torch.Size(shape).numel()
        start = torch.from_numpy(
            rule.quantile(torch.rand(size, generator=generator, dtype=torch.float64).numpy())
        )
        weights = kept * start + moved * torch.randn(size, generator=generator)
        kernels.append(Evidence(part, "conv2d", True, summarize(weights), rules, 2.0**-23))
    return kernels


@pytest.mark.parametrize(
    "label",
    [
        "PyTorch default (uniform)", "Glorot uniform", "Glorot normal", "He normal (fan in)",
        "He normal (fan out)", "He uniform (fan in)",
    ],
)  # fmt: skip
@pytest.mark.parametrize("moved", [0.01, 0.03])
def test_the_rule_is_told_although_every_kernel_moved(label, moved):
    assert explain(trained(label, moved=moved))[0][0] == label


def test_a_decayed_network_keeps_the_spread_of_its_rule():
    kernels = trained("Glorot uniform", kept=0.55, moved=0.015)
    (found, *_), _ = explain(kernels)
    for kernel in kernels:
        assert kernel.rules[found].std == pytest.approx(kernel.rules["Glorot uniform"].std)


def test_parts_by_different_hands_have_rules_of_their_own():
    encoder = trained("He normal (fan out)", part="encoder", seed=1)
    decoder = trained("He uniform (fan in)", part="decoder", seed=2)
    found = infer_rules(encoder + decoder)
    assert {part: labels[0] for part, labels in found.items()} == {
        "encoder": "He normal (fan out)",
        "decoder": "He uniform (fan in)",
    }
    same = trained("Glorot uniform", part="decoder", seed=2)
    whole = infer_rules(trained("Glorot uniform", part="encoder", seed=1) + same)
    assert {part: labels[0] for part, labels in whole.items()} == {
        "encoder": "Glorot uniform",
        "decoder": "Glorot uniform",
    }


def test_a_part_of_few_kernels_follows_the_rule_of_all():
    head = replace(trained("Glorot uniform", seed=3)[1], part="head")
    found = infer_rules([*trained("Glorot uniform", part="encoder", seed=1), head])
    assert {part: labels[0] for part, labels in found.items()} == {
        "encoder": "Glorot uniform",
        "head": "Glorot uniform",
    }


def test_too_few_or_too_small_kernels_tell_nothing():
    kernels = trained("Glorot uniform")
    assert explain(kernels[:3]) is None
    assert infer_rules(kernels[:3]) == {}
    assert infer_rules([]) == {}
    small = [replace(k, summary=replace(k.summary, finite=499)) for k in kernels]
    assert infer_rules(small) == {}


def test_a_trained_model_of_two_hands_gets_both_nulls():
    torch.manual_seed(0)
    model = torch.nn.ModuleDict(
        {
            part: torch.nn.ModuleList(torch.nn.Conv2d(s[1], s[0], s[2], bias=False) for s in SHAPES)
            for part in ("encoder", "decoder")
        }
    )
    for layer in model["encoder"]:
        torch.nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    for layer in model["decoder"]:
        torch.nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.03 * torch.randn_like(parameter))
    found = {p.parameter: p.null for p in measure_model(model).parameters}
    assert {n.label for name, n in found.items() if name.startswith("enc")} == {
        "He normal (fan out)"
    }
    assert {n.label for name, n in found.items() if name.startswith("dec")} == {
        "He uniform (fan in)"
    }
    assert {n.source for n in found.values()} <= {"inferred", "matched"}


def test_decay_that_nothing_shows_is_not_believed():
    """PyTorch's default is 0.41 times He's rule: the spreads fit both, one of them with decay."""
    kernels = []
    for kernel in trained("PyTorch default (uniform)", moved=0.0):
        start = kernel.rules["PyTorch default (uniform)"].std
        # somewhat heavy tails, as trained kernels have them, at 0.97 of the spread of the start
        weights = stats.t.rvs(12, size=kernel.summary.count, random_state=3)
        weights = torch.from_numpy(weights * 0.97 * start / weights.std())
        kernels.append(replace(kernel, summary=summarize(weights)))
    (best, *alike), _ = explain(kernels)
    assert best == "PyTorch default (uniform)"
    assert "He normal (fan in)" in alike  # which cannot be excluded


def test_how_well_a_null_is_known_goes_with_it():
    torch.manual_seed(0)
    model = torch.nn.ModuleList(torch.nn.Conv2d(s[1], s[0], s[2], bias=False) for s in SHAPES)
    with torch.no_grad():
        for layer in model:
            layer.weight.copy_(torch.randn_like(layer.weight) ** 3 * layer.weight.std())
    for record in measure_model(model).parameters:
        null = record.null
        assert null.source == "inferred"
        low, high = null.plausible
        assert low <= null.std <= high
        assert low < high
        expected = max(high**2 - null.std**2, null.std**2 - low**2)
        assert record.comparison.doubt == pytest.approx(expected)
    fresh = measure_model(torch.nn.Conv2d(64, 64, 3)).parameters[0]
    assert fresh.null.plausible == (fresh.null.std, fresh.null.std)
    assert fresh.comparison.doubt == 0


def test_rules_of_the_same_misfit_are_alike_and_others_are_not():
    (best, *alike), _ = explain(trained("Glorot uniform", moved=0.01))
    assert best == "Glorot uniform"
    assert "normal, std 0.02" not in alike


def test_of_two_bounded_rules_the_one_without_decay_is_taken():
    """0.98 of PyTorch's default is 0.4 of He's uniform rule, to the last digit of both shapes."""
    labels, _ = explain(trained("PyTorch default (uniform)", kept=0.98, moved=0.0))
    assert labels[0] == "PyTorch default (uniform)"
    assert "He uniform (fan in)" in labels


@pytest.mark.parametrize(("moved", "source"), [(True, "inferred"), (False, "matched")])
def test_a_rule_that_one_kernel_follows_alone_is_chance_where_the_others_moved(moved, source):
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Conv2d(16, 16, 3) for _ in range(6)), nn.Conv2d(16, 1, 1))
    with torch.no_grad():
        nn.init.kaiming_uniform_(model[6].weight, mode="fan_out", nonlinearity="relu")
        for layer in model[:2] if moved else ():
            layer.weight += 0.05 * torch.randn_like(layer.weight)
    null = next(p.null for p in measure_model(model).parameters if p.parameter == "6.weight")
    assert null.source == source
    assert (null.label == "PyTorch default (uniform)") is moved
    if moved:  # either may be true
        assert null.plausible == pytest.approx((1 / (3 * 16) ** 0.5, 2**0.5))
