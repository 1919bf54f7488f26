"""How often is a network that learned nothing accused?

    python studies/calibration.py [--seeds 3] [--workers 2] [--cluster ADDRESS]

Builds untrained networks of many designs with three initialisers, hands each to `analyze` and
counts the stages that are called used or unused: none should be.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pandas as pd  # noqa: E402

from studies.evidence_protocol.page import markdown, write_csv  # noqa: E402
from studies.evidence_protocol.untrained import calibrations  # noqa: E402
from studies.runner import Store, run  # noqa: E402
from weightscope.files import written_atomically  # noqa: E402


def page(idle: pd.DataFrame, seeds: int) -> str:
    """The results as Markdown."""
    accused = idle["verdict"] != "undecided"
    networks = idle.groupby(["design", "initializer", "seed"]).ngroups
    by_rule = (
        idle.assign(accused=accused)
        .groupby(["design", "initializer"], sort=False)
        .agg(stages=("stage", "size"), accused=("accused", "sum"), state=("state", "first"))
        .reset_index()
    )
    states = idle.groupby("state").size() / len(idle)
    columns = ("design", "initializer", "stages", "accused", "state")
    return "\n".join(
        [
            "# Calibration",
            "",
            f"`python studies/calibration.py --seeds {seeds}`",
            "",
            f"- {networks} untrained networks, {len(idle)} stages: {int(accused.sum())} called "
            "used or unused (target: none).",
            "- What is said of the network as a whole, by share of the stages: "
            + ", ".join(f"{state} {share:.0%}" for state, share in states.items())
            + ". *Unknown* is said where no constant that an initialiser sets tells.",
            "",
            markdown(by_rule, {key: (key, "{}") for key in columns}),
            "",
        ]
    )


def main(arguments: list[str] | None = None) -> None:
    """Calibrate and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3, help="of each untrained design")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/studies/evidence/calibration")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "calibration")
    parser.add_argument("--workers", type=int, default=1, help="jobs at a time")
    parser.add_argument("--cluster", metavar="ADDRESS", help="a Dask scheduler, or its file")
    options = parser.parse_args(arguments)
    jobs = calibrations(options.seeds)
    done = run(jobs, Store(options.runs), workers=options.workers, cluster=options.cluster)
    idle = pd.DataFrame([row for job in jobs for row in done[job.name].result["rows"]])
    options.out.mkdir(parents=True, exist_ok=True)
    write_csv(idle, options.out / "untrained.csv")
    with written_atomically(options.out / "index.md") as temporary:
        temporary.write_text(page(idle, options.seeds))
    print(options.out / "index.md")


if __name__ == "__main__":
    main()
