"""What the guard against hardly trained networks withdraws from scores made before it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from studies.evidence_protocol import judge
from studies.evidence_protocol.compare import truth_table
from studies.evidence_protocol.jobs import HALVES, Job
from studies.evidence_protocol.training import load_network
from weightscope.files import written_atomically
from weightscope.statistics import measure_model
from weightscope.statistics.traces import marks_of_training, shows_training
from weightscope.thresholds import RESPONDS, RESPONSE_BORDER


def responds(said: dict[str, Any], grade: str) -> bool:
    """Whether any level responds, by the lower end of its interval."""
    lows = [s["scores"].get(grade, {}).get("low") for s in said.get("stages", ())]
    shares = [u for u in lows if u is not None and math.isfinite(u)]
    return any(u >= 1.0 or RESPONSE_BORDER * math.sqrt(u / (1 - u)) > RESPONDS for u in shares)


def guarded_table(listed: Sequence[Job], folder: Path, version: str) -> pd.DataFrame:
    """Decided, right and wrong verdicts of both grades, as scored and with the guard.

    The per-decision rule is not in it: scores of before hold no response of single decisions.
    """
    truth = truth_table(listed, folder)
    table = judge.skilled(judge.score_table(listed, folder, version, truth)).copy()
    named = {job.name: job for job in listed}
    for name in table["name"].unique():
        job = named[name]
        statistics = measure_model(load_network(job, folder))
        marks, found = marks_of_training(statistics), judge.read_scores(job, folder, version)
        alive = {"response": responds(found["model"], "response")}
        alive["images"] = responds(found["images"], "images") or responds(
            found["images"], "response"
        )
        own = table["name"] == name
        for grade, some in alive.items():
            doubt = not marks.clear and (marks.faint or not some)
            before = table.loc[own, f"{grade}_verdict"]
            after = np.where((before == "unused") & doubt, "undecided", before)
            table.loc[own, f"{grade}_guarded_verdict"] = (
                after if shows_training(statistics) else "undecided"
            )
            table.loc[own, f"{grade}_guarded"] = table.loc[own, grade]
    rows = []
    for half in HALVES:
        part = table[table["half"] == half]
        keys = ("response", "response_guarded", "images", "images_guarded") if len(part) else ()
        rows += [
            {"half": half, "grade": key.partition("_")[0], "guarded": "_" in key}
            | judge.grade_row(part, key)
            for key in keys
        ]
    return pd.DataFrame(rows)


def write_guarded(listed: Sequence[Job], folder: Path, version: str, target: Path) -> None:
    """Write the table as ``guarded.csv``."""
    with written_atomically(target / "guarded.csv") as temporary:
        guarded_table(listed, folder, version).to_csv(temporary, index=False, float_format="%.4g")
