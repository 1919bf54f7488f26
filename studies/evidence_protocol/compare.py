"""Raw candidates for a response against the truth: one table of cuts, one of forms."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from studies.evidence_protocol.jobs import Job
from studies.evidence_protocol.training import stored, training
from studies.evidence_protocol.truth import NEGLIGIBLE, SKILLED
from studies.runner import read_result


def auc(score: NDArray[np.float64], used: NDArray[np.bool_]) -> float:
    """Chance that a used level scores higher than an unused one; ties count half."""
    from scipy.stats import rankdata

    positives, negatives = int(used.sum()), int((~used).sum())
    if not positives or not negatives:
        return float("nan")
    ranks = rankdata(score)
    return float((ranks[used].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def auc_within_depth(
    score: NDArray[np.float64], used: NDArray[np.bool_], level: NDArray[np.int64]
) -> float:
    """AUC over pairs of cuts at the same level only: depth itself scores exactly one half."""
    wins, pairs = 0.0, 0
    for depth in np.unique(level):
        here = level == depth
        count = int((used & here).sum()) * int((~used & here).sum())
        if count:
            wins += count * auc(score[here], used[here])
            pairs += count
    return wins / pairs if pairs else float("nan")


def truth_table(listed: Sequence[Job], folder: Path) -> pd.DataFrame:
    """One row for each finished network and cut.

    ``labels`` other than ``true`` use nothing. ``skilled`` is False for trained networks that
    learned too little to lose anything; no score is judged on them.
    """
    rows = []
    for job in listed:
        path = stored(job, folder)
        if path is None:
            continue
        truth = read_result(path)["result"]["truth"]
        for reduction, level in truth["levels"].items():
            learned = job.labels == "true"
            rows.append({
                "name": job.name, "half": job.half, "held_out": "+".join(job.held_out),
                **asdict(job), "reduction": int(reduction), "skill": truth["skill"],
                "skilled": not learned or truth["skill"] > SKILLED,
                "lost": level["lost"] if learned else 0.0,
                "lost_low": level["low"] if learned else 0.0,
                "lost_high": level["high"] if learned else 0.0,
                "used": learned and level["lost"] > NEGLIGIBLE,
            })  # fmt: skip
    return pd.DataFrame(rows)


def response_table(listed: Sequence[Job], folder: Path) -> pd.DataFrame:
    """One row for each cut: every figure on every kind of images, as ``stimulus:figure``."""
    parts = []
    for job in listed:
        path = folder / training(job).address / "responses.json"
        if path.exists():
            frame = pd.DataFrame(json.loads(path.read_text())).set_index(["reduction", "stimulus"])
            wide = frame.unstack("stimulus")
            wide.columns = [f"{stimulus}:{figure}" for figure, stimulus in wide.columns]
            parts.append(wide.reset_index().assign(name=job.name))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
