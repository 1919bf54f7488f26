"""Does the verdict predict the truth? Trains networks, scores their levels, judges the scores.

    python studies/evidence.py train [--count 80] [--stop-after MINUTES]
    python studies/evidence.py score
    python studies/evidence.py page [--page docs/studies/evidence]

Every network has a folder of its own, named by a digest of its settings, so that the same command
goes on where it was interrupted; several ``train`` at once share the list.
"""

from __future__ import annotations

import argparse
import fcntl
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
from studies.evidence_protocol.training import carry_out  # noqa: E402


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


def main(arguments: list[str] | None = None) -> None:
    """Run one part of the study."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("part", choices=("train", "score", "page"))
    parser.add_argument("--count", type=int, default=80, help="networks of the list")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "evidence")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "studies" / "evidence")
    parser.add_argument("--stop-after", type=float, default=float("inf"), metavar="MINUTES")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if options.part == "train":
        train(jobs(options.count), options.out, time.time() + 60.0 * options.stop_after)


if __name__ == "__main__":
    main()
