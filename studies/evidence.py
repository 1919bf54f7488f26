"""Does the verdict predict the truth? Trains networks, scores their levels, judges the scores.

    python studies/evidence.py train [--count 80] [--stop-after MINUTES]
    python studies/evidence.py respond
    python studies/evidence.py score [--half choose|judge]
    python studies/evidence.py page [--page docs/studies/evidence]

Every network has a folder of its own, named by a digest of its settings, so that the same command
goes on where it was interrupted; several ``train`` at once share the list.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch  # noqa: E402
from tqdm import tqdm  # noqa: E402

from studies.evidence_protocol.jobs import Job, jobs  # noqa: E402
from studies.evidence_protocol.page import write_page, write_responses  # noqa: E402
from studies.evidence_protocol.responses import measure_responses  # noqa: E402
from studies.evidence_protocol.scoring import WAYS, code_version, score  # noqa: E402
from studies.evidence_protocol.training import carry_out  # noqa: E402
from weightscope.files import written_atomically  # noqa: E402


def train(listed: list[Job], folder: Path, deadline: float) -> None:
    """Train all jobs that no other process is busy with."""
    locks = folder / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    for job in tqdm(listed, desc="training", unit="network"):
        if time.time() > deadline:
            break
        with (locks / job.name).open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            carry_out(job, folder)


def respond(listed: list[Job], folder: Path) -> None:
    """Measure the raw candidates for a response of every stored network."""
    for job in tqdm(listed, desc="responses", unit="network"):
        path = folder / "runs" / job.name / "responses.json"
        if path.parent.exists() and not path.exists():
            rows = measure_responses(job, folder)
            with written_atomically(path) as temporary:
                temporary.write_text(json.dumps(rows))


def main(arguments: list[str] | None = None) -> None:
    """Run one part of the study."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("part", choices=("train", "respond", "score", "page"))
    parser.add_argument("--count", type=int, default=80, help="networks of the list")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "evidence")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "studies" / "evidence")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS, help="to score")
    parser.add_argument("--half", choices=("choose", "judge"), help="score only these networks")
    parser.add_argument("--version", help="of the scores to judge; default: the present code's")
    parser.add_argument("--stop-after", type=float, default=float("inf"), metavar="MINUTES")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    listed, deadline = jobs(options.count), time.time() + 60.0 * options.stop_after
    if options.part == "train":
        train(listed, options.out, deadline)
    elif options.part == "respond":
        respond(listed, options.out)
    elif options.part == "score":
        wanted = [job for job in listed if options.half in (None, job.half)]
        stored = [job for job in wanted if (options.out / "runs" / job.name).exists()]
        for job in tqdm(stored, desc="scoring", unit="network"):
            if time.time() < deadline:
                score(job, options.out, tuple(options.ways))
    else:
        write_page(listed, options.out, options.version or code_version(), options.page)
        write_responses(listed, options.out, options.page)
        print(options.page / "index.md")


if __name__ == "__main__":
    main()
