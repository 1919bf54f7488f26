"""Steps that are orthogonal matrices, in the place of Adam's."""

import pandas as pd
import pytest
import torch

from studies import regained, runner, small, steps
from weightscope.truncation import steps as library
from weightscope.truncation.steps import Orthogonal


def test_only_recoveries_inside_take_them():
    with small.taking(Orthogonal):
        assert torch.optim.Adam is library.Orthogonal is Orthogonal
    with small.taking(torch.optim.SGD):
        assert torch.optim.Adam is library.Orthogonal is torch.optim.SGD
    assert library.Orthogonal is Orthogonal is not torch.optim.Adam


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
    jobs = [*steps.study(regained.SEEDS), *steps.study_thinned(), *steps.study_one_level()]
    done = runner.finished(jobs, runner.Store(small.RESULTS))
    assert len(done) == len(list(small.RESULTS.glob("steps-*")))


def test_the_summary_of_thinned_networks_tells_each_way():
    rows = [
        {"way": "random", "adam": 0.9, "orthogonal": 0.8},
        {"way": "random", "adam": 0.5, "orthogonal": 0.9},
        {"way": "Taylor", "adam": 0.8, "orthogonal": 0.75},
    ]
    random, taylor = steps.summary_thinned(pd.DataFrame(rows)).to_dict("records")
    assert (random["networks"], random["more"], taylor["more"]) == (2, 1, 0)
    assert (random["adam"], random["adam, least"]) == (pytest.approx(0.7), 0.5)
