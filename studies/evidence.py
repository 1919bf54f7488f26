"""Does the verdict predict the truth? Trains networks, scores their stages, judges the scores.

    python studies/evidence.py --preset quick|cpu|full [--out runs/evidence] [--jobs 2]

Interrupted at any time, the same command goes on where it stopped: each finished network has its
own folder. ``--stop-after MINUTES`` begins no training after that time and judges what there is.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault("OMP_NUM_THREADS", "1")

from tqdm import tqdm  # noqa: E402

from studies.evidence_protocol.page import write_page  # noqa: E402
from studies.evidence_protocol.presets import PRESETS  # noqa: E402
from studies.evidence_protocol.runs import Preset, Run, carry_out  # noqa: E402
from studies.evidence_protocol.scoring import score_runs  # noqa: E402
from studies.evidence_protocol.truncated import truncate_and_train  # noqa: E402


def train_one(run: Run, preset: Preset, folder: Path, deadline: float) -> bool:
    """Train one network in a worker process, unless it is too late to begin."""
    import torch

    torch.set_num_threads(1)
    if time.time() > deadline and not (folder / "runs" / run.name).exists():
        return False
    carry_out(run, preset, folder)
    return True


def cut_one(run: Run, preset: Preset, folder: Path, deadline: float) -> bool:
    """Cut and fine-tune one stored network in a worker process, unless it is too late to begin."""
    stored = folder / "runs" / run.name
    known = (stored / "truncated.json").exists()
    if not known and (time.time() > deadline or not (stored / "run.json").exists()):
        return False
    truncate_and_train(run, preset, folder)
    return True


def main(arguments: list[str] | None = None) -> None:
    """Run the whole protocol."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--preset", choices=sorted(PRESETS), default="quick")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "evidence")
    parser.add_argument("--page", type=Path, help="folder of the page; default: OUT/page")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--stop-after", type=float, default=float("inf"), metavar="MINUTES")
    options = parser.parse_args(arguments)
    preset, folder = PRESETS[options.preset], options.out / options.preset
    folder.mkdir(parents=True, exist_ok=True)
    deadline = time.time() + 60.0 * options.stop_after
    runs = preset.runs()
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as workers:
        tasks = [workers.submit(train_one, run, preset, folder, deadline) for run in runs]
        done = [task.result() for task in tqdm(tasks, desc="training", unit="network")]
        cuts = [
            workers.submit(cut_one, r, preset, folder, deadline) for r in preset.truncated_runs()
        ]
        for task in tqdm(cuts, desc="cutting", unit="network"):
            task.result()
    finished = [run for run, ok in zip(runs, done, strict=True) if ok]
    records = score_runs(finished, preset, folder, jobs=options.jobs)
    page = options.page or folder / "page"
    write_page(records, preset, options.preset, len(runs), page)
    print(page / "index.md")


if __name__ == "__main__":
    main()
