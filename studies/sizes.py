"""Is the response right for networks of small images, whose deepest level has few positions?

    python studies/sizes.py [--begin 672] [--count 720] [--out runs/evidence]

Networks of the evidence study, each asked with an example of the size that it was trained for. What
counts as a failure is written in ``docs/decisions/response.md``.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch  # noqa: E402
from tqdm import tqdm  # noqa: E402

import weightscope as ws  # noqa: E402
from studies.evidence_protocol.compare import truth_table  # noqa: E402
from studies.evidence_protocol.jobs import Job, jobs  # noqa: E402
from studies.evidence_protocol.training import (  # noqa: E402
    archives,
    load_network,
    load_pool,
    training,
)
from studies.shapes import failures  # noqa: E402
from studies.tiny import cuts, write_page  # noqa: E402
from weightscope.files import written_atomically  # noqa: E402
from weightscope.probing import inputs  # noqa: E402


def half_the_size() -> AbstractContextManager[object]:
    """However few positions the deepest level has."""
    return mock.patch.object(inputs, "LEAST_PER_REDUCTION", 0)


RULES = {"without the rule": half_the_size, "with the rule": nullcontext}


def verdicts(job: Job, folder: Path) -> dict[str, dict[str, str]]:
    """What is said of every cut by the model alone, by its reduction, under each rule."""
    path = folder / training(job).address / "sizes.json"
    if not path.exists():
        model = load_network(job, folder)
        image = load_pool(job, "validation", archives(folder)).images[:1]
        said = {}
        for rule, held in RULES.items():
            with held():
                stages = ws.analyze(model, example_inputs=image, progress=False).stages
            below = stages[stages["reduction"] > 1].drop_duplicates("level")
            said[rule] = {
                str(round(r)): v if e == "response" else "undecided"
                for r, v, e in zip(
                    below["reduction"], below["verdict"], below["evidence"], strict=True
                )
            }
        with written_atomically(path) as temporary:
            temporary.write_text(json.dumps(said))
    found: dict[str, dict[str, str]] = json.loads(path.read_text())
    return found


def measure(job: Job, truth: Any, folder: Path) -> dict[str, Any]:
    """One row: a network's truth, as the study measured it, and what is said of it."""
    said = verdicts(job, folder)
    levels = {
        str(cut.reduction): {"lost": cut.lost, "low": cut.lost_low, "high": cut.lost_high}
        for cut in truth.itertuples()
        if all(str(cut.reduction) in one for one in said.values())
    }
    judged: dict[str, Mapping[str, Mapping[str, str]]] = {
        rule: {k: {"response": one[k]} for k in levels} for rule, one in said.items()
    }
    return {"name": job.name, "kind": f"{job.size} pixels", "skill": float(truth["skill"].iloc[0]),
            "levels": levels, "said": judged}  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    """Ask every trained network with skill, and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--begin", type=int, default=672, help="leave out the networks before")
    parser.add_argument("--count", type=int, default=720, help="networks of the list")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "evidence")
    parser.add_argument(
        "--page", type=Path, default=ROOT / "docs" / "studies" / "evidence" / "sizes.md"
    )
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    listed = jobs(options.count)[options.begin :]
    truth = truth_table(listed, options.out)
    truth = truth[truth["skilled"] & (truth["labels"] == "true")]
    judged = [job for job in listed if job.name in set(truth["name"])]
    rows = [
        measure(job, truth[truth["name"] == job.name], options.out)
        for job in tqdm(judged, desc="networks", unit="network")
    ]
    found = list(cuts(rows, ("response",)))
    about = (
        "`python studies/sizes.py`. The networks of the "
        "[evidence study](unseen/index.md) from index 672 on that have skill, each asked with an "
        "example of the 48 or 64 pixels that it was trained for (the study itself gives none, and "
        "larger images are taken then). What counts as a failure was [written down]"
        "(../../decisions/response.md) before any was asked so. The rule: the smaller synthetic "
        "images keep four positions a side at the deepest level, as far as the example's size "
        "allows. Verdicts by the model alone, with the rule; in brackets what was said without it."
        " Levels are named by their reduction."
    )
    kinds = sorted({str(row["kind"]) for row in rows})
    title = "Images that are small for the deepest level"
    write_page(options.page, title, rows, found, failures(found, "response"), about, kinds,
               grades=("response",))  # fmt: skip
    print(options.page)


if __name__ == "__main__":
    main()
