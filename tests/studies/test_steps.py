"""Steps that are orthogonal matrices, in the place of Adam's."""

import pandas as pd
import pytest
import torch

from studies import regained, runner, small, steps


@pytest.mark.parametrize("shape", [(8, 4, 3, 3), (40, 5), (1, 12)])
def test_a_step_of_a_weight_has_singular_values_near_one(shape):
    torch.manual_seed(1)
    weight = torch.nn.Parameter(torch.zeros(shape))
    optimizer = steps.Orthogonal([weight], lr=0.5)
    weight.grad = torch.randn(shape)
    optimizer.step()
    matrix = weight.detach().flatten(1)
    lengths = torch.linalg.svdvals(matrix) / (0.5 * steps.SCALE * max(matrix.shape) ** 0.5)
    assert 0.6 < float(lengths.min()) <= float(lengths.max()) < 1.3


def test_vectors_take_the_steps_of_adam():
    gradient = torch.randn(5, generator=torch.Generator().manual_seed(1))
    ends = []
    for kind in (torch.optim.Adam, steps.Orthogonal):
        bias, weight = torch.nn.Parameter(torch.ones(5)), torch.nn.Parameter(torch.ones(2, 2))
        optimizer = kind([weight, bias], lr=0.1)
        for _ in range(3):
            bias.grad, weight.grad = gradient.clone(), torch.ones(2, 2)
            optimizer.step()
        ends.append(bias.detach())
    assert torch.equal(*ends)


def test_only_recoveries_inside_take_them():
    with steps.orthogonal():
        assert torch.optim.Adam is steps.Orthogonal
    assert torch.optim.Adam is not steps.Orthogonal


def test_the_summary_keeps_cuts_of_one_level_apart():
    rows = [
        {"task": "discs", "keep": 3, "adam": 0.9, "orthogonal": 0.8},
        {"task": "discs", "keep": 1, "adam": 0.7, "orthogonal": 0.9},
        {"task": "discs", "keep": 2, "adam": 0.8, "orthogonal": 0.75},
    ]
    more, one = steps.summary(pd.DataFrame(rows)).query("cuts > 0").to_dict("records")
    assert (one["removed"], one["cuts"], one["more"]) == ("one level", 1, 0)
    assert (more["removed"], more["cuts"], more["more"]) == ("more levels", 2, 1)
    assert more["largest fall"] == pytest.approx(0.05)


def test_committed_results_are_found():
    done = runner.finished(steps.study(regained.SEEDS), runner.Store(small.RESULTS))
    assert len(done) == len(list(small.RESULTS.glob("steps-*")))
