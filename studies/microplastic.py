"""Which levels does a network need to find microplastic in sand? The paper's study, run again.

    python studies/microplastic.py [--preset quick|cpu|paper] [--out DIR] [--seed N] [--data DIR]

Draw (or read) photographs of sand, cut them into tiles, train U-net and MultiResUNet, let
weightscope say which levels do any work, build the networks without the rest, and compare them
with the reduced networks of the paper, trained from scratch. The result is a page with tables,
figures and one HTML report per network.

The study is a list of jobs (`studies.runner`): an interrupted run goes on where it stopped, and
with ``--cluster`` the same jobs run on a Dask cluster. ``--dry-run`` says what it will cost.

Lee & Jhang, "Neural Network Analysis for Microplastic Segmentation", Sensors 2021, 21, 7030.
"""

from __future__ import annotations

import argparse
import signal
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parent.parent


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the study from the command line; return the exit code."""
    options = parse_arguments(arguments)
    if str(ROOT) not in sys.path:  # of a script, Python puts only its own folder there
        sys.path.insert(0, str(ROOT))
    try:
        from studies.sand.study import study
        from weightscope.errors import WeightscopeError
    except ImportError as error:
        print(
            f"error: {error.name} is not installed; pip install -e '{ROOT}[study]' brings all that "
            "the study needs",
            file=sys.stderr,
        )
        return 2
    for path, name in ((options.out, "--out"), (options.runs, "--runs")):
        if path is not None and path.exists() and not path.is_dir():
            print(f"error: {name} {str(path)!r} is a file; give a folder", file=sys.stderr)
            return 2
    signal.signal(signal.SIGTERM, _stop)
    # loky says so when it replaces a worker that grew, which is no concern of the user
    warnings.filterwarnings("ignore", "A worker stopped while some jobs", UserWarning)
    try:
        study(options)
    except WeightscopeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        more = "" if options.dry_run else "; the same command goes on after the last finished epoch"
        print(f"\ninterrupted{more}", file=sys.stderr)
        return 130
    return 0


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description="Train, analyse and truncate the networks of the microplastic study."
    )
    parser.add_argument(
        "--preset",
        choices=("quick", "cpu", "paper"),
        default="quick",
        help="quick: a demonstration of minutes; cpu: hours, the committed page; paper: the "
        "paper's sizes, for GPUs (default: %(default)s)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        help="folder for the page, its tables, figures and reports (default: "
        "build/microplastic-quick, or docs/studies/microplastic for preset cpu)",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of everything random")
    parser.add_argument("--folds", type=int, help="run only the first folds of the preset")
    parser.add_argument(
        "--workers",
        type=int,
        help="jobs at a time, one thread each (default: as many as processors are free)",
    )
    parser.add_argument(
        "--cluster",
        metavar="ADDRESS",
        help="a Dask scheduler, or its scheduler file; its workers must see --runs",
    )
    parser.add_argument(
        "--runs",
        type=Path,
        default=ROOT / "runs" / "microplastic",
        help="folder of the jobs: tiles, checkpoints, results (default: %(default)s)",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="say what would run and what it costs, no more"
    )
    parser.add_argument(
        "--write-only",
        action="store_true",
        help="write the page from the jobs that have finished, run no others",
    )
    photographs = parser.add_argument_group("your own photographs")
    photographs.add_argument(
        "--data",
        type=Path,
        help="folder with photographs in images/ and masks of the same names in masks/",
    )
    photographs.add_argument(
        "--mask-value",
        type=float,
        metavar="N",
        help="value (or palette index) of plastic in the masks",
    )
    photographs.add_argument(
        "--mask-color", metavar="#RRGGBB", help="colour of plastic in the masks"
    )
    photographs.add_argument(
        "--mask-above",
        type=float,
        metavar="N",
        help="all larger values in the masks are plastic, such as 0.5 for probabilities",
    )
    return parser.parse_args(arguments)


def _stop(number: int, frame: Any) -> NoReturn:
    """End like an interruption, so that no worker is left behind."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
