"""The judgement of the evidence study: its measures by hand, and its protocol in small."""

import numpy as np
import pandas as pd
import pytest

from studies.evidence_protocol.judge import (
    auc,
    auc_within_depth,
    balanced_accuracy,
    best_threshold,
    halves,
)
from studies.evidence_protocol.tasks import TASKS, draw


def test_auc_counts_pairs_and_halves_ties():
    used = np.array([True, True, False, False])
    assert auc(np.array([3.0, 2.0, 1.0, 0.0]), used) == 1.0
    assert auc(np.array([3.0, 1.0, 2.0, 0.0]), used) == 0.75
    assert auc(np.zeros(4), used) == 0.5
    assert np.isnan(auc(np.zeros(2), np.array([True, True])))


def test_depth_itself_scores_one_half_within_depth():
    level = np.array([1, 1, 2, 2, 3, 3])
    used = np.array([True, True, True, False, False, False])
    assert auc(-level.astype(float), used) > 0.8
    assert auc_within_depth(-level.astype(float), used, level) == 0.5


def test_the_best_threshold_separates():
    score, used = np.array([0.1, 0.2, 0.8, 0.9]), np.array([False, False, True, True])
    threshold = best_threshold(score, used)
    assert 0.2 < threshold < 0.8
    assert balanced_accuracy(score > threshold, used) == 1.0


def test_held_out_runs_are_those_of_the_last_seed():
    frame = pd.DataFrame({"seed": [0, 0, 1, 2], "x": range(4)})
    first, second = halves(frame)
    assert first["x"].tolist() == [0, 1, 2]
    assert second["x"].tolist() == [3]


@pytest.mark.parametrize("task", TASKS)
def test_scenes_depend_on_the_seed_alone(task):
    image, mask = draw(task, 48, (3, 0))
    again, other = draw(task, 48, (3, 0)), draw(task, 48, (3, 1))
    assert image.shape == (48, 48, 3)
    assert set(np.unique(mask)) <= {0, 1}
    assert mask.any()
    assert np.array_equal(image, again[0])
    assert np.array_equal(mask, again[1])
    assert not np.array_equal(image, other[0])


@pytest.mark.slow
def test_the_quick_preset_runs_and_resumes(tmp_path, monkeypatch, capsys):
    from studies import evidence

    arguments = ["--preset", "quick", "--out", str(tmp_path), "--jobs", "1"]
    evidence.main(arguments)
    page = tmp_path / "quick" / "page"
    assert sorted(p.name for p in page.iterdir()) == [
        "auc.png", "drops.png", "index.md", "scatter.png", "scores.csv", "stages.csv",
    ]  # fmt: skip
    run = next((tmp_path / "quick" / "runs").iterdir())
    written = (run / "run.json").stat().st_mtime
    evidence.main(arguments)
    assert (run / "run.json").stat().st_mtime == written
