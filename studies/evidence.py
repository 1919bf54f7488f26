"""Does the verdict predict the truth? Trains networks, scores their levels, judges the scores.

    python studies/evidence.py train [--count 544] [--workers 2] [--cluster ADDRESS] [--dry-run]
    python studies/evidence.py respond
    python studies/evidence.py score [--half choose|judge|new|again|third|fourth|last]
    python studies/evidence.py page [--page docs/studies/evidence]
    python studies/evidence.py train|score|page --begin 544 --count 640  (the newest networks)
    python studies/evidence.py classes
    python studies/evidence.py borders

Every training is a job of `studies.runner`, so that the same command goes on where it was
interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch  # noqa: E402
from tqdm import tqdm  # noqa: E402

from studies.evidence_protocol.borders import measure_forms, write_borders  # noqa: E402
from studies.evidence_protocol.classes import study_classes  # noqa: E402
from studies.evidence_protocol.jobs import HALVES, Job, jobs  # noqa: E402
from studies.evidence_protocol.page import write_page, write_responses  # noqa: E402
from studies.evidence_protocol.responses import measure_responses  # noqa: E402
from studies.evidence_protocol.scoring import WAYS, code_version, score  # noqa: E402
from studies.evidence_protocol.training import stored, training  # noqa: E402
from studies.runner import Store, estimate, run  # noqa: E402
from weightscope.files import written_atomically  # noqa: E402


def respond(listed: list[Job], folder: Path) -> None:
    """Measure the raw candidates for a response of every stored network."""
    measures = {"responses": measure_responses, "forms": measure_forms}
    for job in tqdm(listed, desc="responses", unit="network"):
        for name, measure in measures.items():
            path = folder / training(job).address / f"{name}.json"
            if stored(job, folder) is not None and not path.exists():
                rows = measure(job, folder)
                with written_atomically(path) as temporary:
                    temporary.write_text(json.dumps(rows))


def main(arguments: list[str] | None = None) -> None:
    """Run one part of the study."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("part", choices=("train", "respond", "score", "page", "classes", "borders"))
    parser.add_argument("--count", type=int, default=544, help="networks of the list")
    parser.add_argument("--begin", type=int, default=0, help="leave out the networks before")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "evidence")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "studies" / "evidence")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS, help="to score")
    parser.add_argument("--half", choices=tuple(HALVES), help="score only these networks")
    parser.add_argument("--version", help="of the scores to judge; default: the present code's")
    parser.add_argument("--workers", type=int, default=1, help="trainings at a time")
    parser.add_argument("--cluster", metavar="ADDRESS", help="a Dask scheduler, or its file")
    parser.add_argument("--dry-run", action="store_true", help="say what training would cost")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    listed, store = jobs(options.count)[options.begin :], Store(options.out)
    if options.part == "train":
        trainings = [training(job) for job in listed]
        print(estimate(trainings, store, options.workers))
        if not options.dry_run:
            run(trainings, store, workers=options.workers, cluster=options.cluster)
    elif options.part == "respond":
        respond(listed, options.out)
    elif options.part == "score":
        wanted = [job for job in listed if options.half in (None, job.half)]
        trained = [job for job in wanted if stored(job, options.out) is not None]
        for job in tqdm(trained, desc="scoring", unit="network"):
            score(job, options.out, tuple(options.ways))
    elif options.part == "classes":
        study_classes(listed, options.out, options.page)
    elif options.part == "borders":
        write_borders(listed, options.out, options.page)
        print(options.page / "borders.md")
    else:
        write_page(listed, options.out, options.version or code_version(), options.page)
        if not options.begin:  # candidates and borders are of the networks that chose
            write_responses(listed, options.out, options.page)
            write_borders(listed, options.out, options.page)
        print(options.page / "index.md")


if __name__ == "__main__":
    main()
