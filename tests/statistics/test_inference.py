"""The rule of a trained network, told by the spreads of its kernels together."""

from dataclasses import replace

import pytest
import torch

from weightscope.statistics import measure_model
from weightscope.statistics.inference import KernelSpread, best_rule, infer_rules
from weightscope.statistics.initialization import KernelShape

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
        z = (weights - weights.mean()) / weights.std()
        kernels.append(
            KernelSpread(part, size, float(weights.std()), float((z**4).mean()) - 3.0, rules)
        )
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
    assert best_rule(trained(label, moved=moved))[0] == label


def test_a_decayed_network_keeps_the_spread_of_its_rule():
    kernels = trained("Glorot uniform", kept=0.55, moved=0.015)
    found, _ = best_rule(kernels)
    for kernel in kernels:
        assert kernel.rules[found].std == pytest.approx(kernel.rules["Glorot uniform"].std)


def test_parts_by_different_hands_have_rules_of_their_own():
    encoder = trained("He normal (fan out)", part="encoder", seed=1)
    decoder = trained("He uniform (fan in)", part="decoder", seed=2)
    assert infer_rules(encoder + decoder) == {
        "encoder": "He normal (fan out)",
        "decoder": "He uniform (fan in)",
    }
    same = trained("Glorot uniform", part="decoder", seed=2)
    whole = infer_rules(trained("Glorot uniform", part="encoder", seed=1) + same)
    assert whole == {"encoder": "Glorot uniform", "decoder": "Glorot uniform"}


def test_a_part_of_few_kernels_follows_the_rule_of_all():
    head = replace(trained("Glorot uniform", seed=3)[1], part="head")
    found = infer_rules([*trained("Glorot uniform", part="encoder", seed=1), head])
    assert found == {"encoder": "Glorot uniform", "head": "Glorot uniform"}


def test_too_few_or_too_small_kernels_tell_nothing():
    kernels = trained("Glorot uniform")
    assert best_rule(kernels[:3]) is None
    assert infer_rules(kernels[:3]) == {}
    assert infer_rules([]) == {}
    assert infer_rules([replace(kernel, count=499) for kernel in kernels]) == {}


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
