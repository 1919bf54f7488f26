"""The small networks of the studies of recovery: what stands for the library in their results."""

import runpy
import sys
from contextlib import nullcontext

import pytest
import torch

from studies import pareto, regained, runner, shrunk, small
from weightscope import analyze


@pytest.mark.parametrize(
    ("steps", "missing"),
    [
        (
            nullcontext(),
            [0.0761, 0.0678, 0.0732, 0.0645, 0.0675, 0.0594, 0.0591, 0.057, 0.0553, 0.0538, 0.0525],
        ),
        (
            small.taking(torch.optim.Adam),
            [0.0761, 0.331, 2.10, 0.0921, 0.0896, 0.0725, 0.0714, 0.0684, 0.0676, 0.0659, 0.0662],
        ),
    ],
)
def test_the_versions_of_the_studies_follow_what_recovery_gives(steps, missing):
    """Raise VERSION of regained, shrunk, pareto and steps where one of them changes."""
    network = small.Network("unet", "rings_middle", 1)
    model = network.build().eval()
    images = torch.rand(24, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    analysis = analyze(model, example_inputs=images[:2], response=False)
    (proposal,) = (p for p in analysis.proposals if p.keep_levels == 1)
    torch.manual_seed(0)
    variant = proposal.build()
    with steps:
        course = variant.recover(images, steps=30, seed=1, progress=False)
    found = [1 - check.explained for check in course.course]
    assert (course.start, variant.costs.macs) == ("ridge", 8_126_464)
    assert found == pytest.approx(missing, rel=0.02)


def test_committed_results_are_found():
    jobs = regained.study("given")
    done = runner.finished(jobs, runner.Store(small.RESULTS))
    assert len(done) == len(list(small.RESULTS.glob("regained-given-*"))) >= 29
    ours, peers = (
        ("cut", "cut and thinned", "chosen", "fewest levels"),
        ("magnitude", "Taylor", "random"),
    )
    studies = {
        "pareto": [
            pareto.study(pareto.NETWORKS, pareto.STEPS, pareto.SHARE, (*own, *peers))
            for own in (("cut",), ours)
        ],
        "shrunk": [shrunk.study()],
    }
    for name, asked in studies.items():
        done = sum(len(runner.finished(jobs, runner.Store(small.RESULTS))) for jobs in asked)
        assert done == len(list(small.RESULTS.glob(f"{name}-*"))) >= 16


@pytest.mark.parametrize("study", ["pareto", "regained", "shrunk"])
def test_a_study_run_as_a_script_asks_for_the_same_jobs(study, monkeypatch):
    """Else none of the committed results would be found by the documented command."""
    asked = []
    monkeypatch.setattr(small, "carry_out", lambda jobs, *_: asked.extend(jobs))
    monkeypatch.setattr(sys, "argv", [f"{study}.py"])
    runpy.run_path(str(small.ROOT / "studies" / f"{study}.py"), run_name="__main__")
    assert {job.work.__module__ for job in asked} == {f"studies.{study}"}
