"""The command of `make matrix`: measure every network, each in its own process, and write the page.

    python -m matrix.run                  all networks that are not measured yet
    python -m matrix.run smp FPN          only those whose name contains all the words
    python -m matrix.run --page           write the page from the rows that are kept

The rows are kept in `matrix/measured/`, with the commit that they were measured on. A network that
was measured with the same code of weightscope is not measured again; delete its row where its own
factory has changed. The page names the networks that are not measured yet.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import itertools
import json
import multiprocessing
import os
import platform
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from matrix.held_back_again import HELD_BACK_AGAIN
from matrix.held_back_eighteenth import HELD_BACK_EIGHTEENTH
from matrix.held_back_eighth import HELD_BACK_EIGHTH
from matrix.held_back_eleventh import HELD_BACK_ELEVENTH
from matrix.held_back_fifteenth import HELD_BACK_FIFTEENTH
from matrix.held_back_fifth import HELD_BACK_FIFTH
from matrix.held_back_fourteenth import HELD_BACK_FOURTEENTH
from matrix.held_back_fourth import HELD_BACK_FOURTH
from matrix.held_back_nineteenth import HELD_BACK_NINETEENTH
from matrix.held_back_ninth import HELD_BACK_NINTH
from matrix.held_back_seventeenth import HELD_BACK_SEVENTEENTH
from matrix.held_back_seventh import HELD_BACK_SEVENTH
from matrix.held_back_sixteenth import HELD_BACK_SIXTEENTH
from matrix.held_back_sixth import HELD_BACK_SIXTH
from matrix.held_back_tenth import HELD_BACK_TENTH
from matrix.held_back_third import HELD_BACK_THIRD
from matrix.held_back_thirteenth import HELD_BACK_THIRTEENTH
from matrix.held_back_twelfth import HELD_BACK_TWELFTH
from matrix.held_back_twentieth import HELD_BACK_TWENTIETH
from matrix.held_back_twentyfirst import HELD_BACK_TWENTYFIRST
from matrix.networks import NETWORKS, TRUTHS
from matrix.page import page
from matrix.reading import COMMIT
from matrix.records import Row
from matrix.recovering import recoveries
from weightscope.files import written_atomically

ROOT = Path(__file__).resolve().parent.parent
ROWS = ROOT / "matrix" / "measured"
PAGE = ROOT / "docs" / "matrix.md"
LIBRARIES = (
    "torch",
    "torchvision",
    "segmentation-models-pytorch",
    "timm",
    "monai",
    "dynamic-network-architectures",
    "transformers",
    "diffusers",
    "fvcore",
)
CODE = (
    "weightscope/graph",
    "weightscope/adapters",
    "weightscope/truncation",
    "weightscope/cost",
    "matrix/measure.py",
    "matrix/exercise.py",
    "matrix/compare.py",
)
"""What a row depends on, beside the network's own code and truth."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 0 where every network has a row."""
    parser = argparse.ArgumentParser(prog="python -m matrix.run", description=__doc__)
    parser.add_argument("words", nargs="*", help="parts of a network's name")
    parser.add_argument("--limit", type=float, default=600.0, help="seconds for one network")
    parser.add_argument("--page", action="store_true", help="only write the page")
    options = parser.parse_args(arguments)
    ROWS.mkdir(parents=True, exist_ok=True)
    last = (
        *HELD_BACK_AGAIN,
        *HELD_BACK_THIRD,
        *HELD_BACK_FOURTH,
        *HELD_BACK_FIFTH,
        *HELD_BACK_SIXTH,
        *HELD_BACK_SEVENTH,
        *HELD_BACK_EIGHTH,
        *HELD_BACK_NINTH,
        *HELD_BACK_TENTH,
        *HELD_BACK_ELEVENTH,
        *HELD_BACK_TWELFTH,
        *HELD_BACK_THIRTEENTH,
        *HELD_BACK_FOURTEENTH,
        *HELD_BACK_FIFTEENTH,
        *HELD_BACK_SIXTEENTH,
        *HELD_BACK_SEVENTEENTH,
        *HELD_BACK_EIGHTEENTH,
        *HELD_BACK_NINETEENTH,
        *HELD_BACK_TWENTIETH,
        *HELD_BACK_TWENTYFIRST,
    )
    known = in_turn(name for name in NETWORKS if name not in last)
    names = [n for n in (*known, *last) if all(word in n for word in options.words)]
    if not options.page:
        for number, name in enumerate(names, start=1):
            row = _row(name) or _supervise(name, options.limit)
            print(f"[{number}/{len(names)}] {name}: {_short(row)}", flush=True)
    rows = {name: _row(name, of_any_code=True) for name in NETWORKS}
    missing = [name for name, row in rows.items() if row is None]
    _write([row for row in rows.values() if row is not None], missing)
    print(f"wrote {PAGE.relative_to(ROOT)}; {len(missing)} networks are not measured yet")
    return 1 if missing else 0


def in_turn(names: Iterable[str]) -> list[str]:
    """Networks of every library in turn, and all those written by hand in the first round.

    So an early end leaves no library and no kind out.
    """
    groups: dict[str, list[str]] = {}
    for name in names:
        by_hand = name.startswith("by hand")
        groups.setdefault(name if by_hand else name.split()[0], []).append(name)
    turns = itertools.zip_longest(*groups.values())
    return [name for turn in turns for name in turn if name is not None]


def _supervise(name: str, limit: float) -> Row:
    """Measure one network in a process of its own; its end, however it comes, leaves a row.

    The process is a copy of this one, so that the libraries are loaded once.
    """
    import torch

    import matrix.measure  # noqa: F401 - torch's whole export machinery, for all copies

    torch.set_num_threads(1)
    child = multiprocessing.get_context("fork").Process(target=_measure, args=(name,))
    child.start()
    child.join(limit)
    if child.is_alive():
        child.kill()
        child.join()
        return _keep(Row(name, "failed", f"not done after {limit:.0f} s", commit=COMMIT))
    row = _row(name)
    return row or _keep(Row(name, "failed", f"exit status {child.exitcode}", commit=COMMIT))


def _measure(name: str) -> None:
    from matrix.measure import measure

    try:
        row = measure(NETWORKS[name], TRUTHS[name])
    except Exception as error:  # noqa: BLE001 - what should not happen is a result
        row = Row(name, "failed", f"{type(error).__name__}: {' '.join(str(error).split())[:500]}")
    _keep(replace(row, commit=COMMIT))


def _keep(row: Row) -> Row:
    with written_atomically(_path(row.name)) as temporary:
        temporary.write_text(
            json.dumps({"of": _digest(row.name), "row": row.to_json()}, indent=1) + "\n"
        )
    return row


def _row(name: str, of_any_code: bool = False) -> Row | None:
    """Return a network's row if it was measured with the present code, versions and truth."""
    if not _path(name).exists():
        return None
    kept = json.loads(_path(name).read_text())
    return Row.from_json(kept["row"]) if of_any_code or kept["of"] == _digest(name) else None


def _path(name: str) -> Path:
    plain = "".join(letter if letter.isalnum() else "-" for letter in name)
    return ROWS / f"{plain}.json"


def _digest(name: str) -> str:
    """Return a digest of what a network's row depends on."""
    digest = hashlib.sha256(f"{TRUTHS[name]}{_versions()}".encode())
    for place in CODE:
        path = ROOT / place
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            digest.update(file.read_bytes())
    return digest.hexdigest()


def _versions() -> dict[str, str]:
    found = {}
    for library in LIBRARIES:
        try:
            found[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            found[library] = "not installed"
    return found


def _short(row: Row) -> str:
    if row.outcome != "captured":
        return f"{row.outcome}: {row.reason}"
    working = sum(not depth.refusal and not depth.failures for depth in row.depths)
    wrong = [*row.disagreements, *row.graph_failures]
    wrong += [text for depth in row.depths for text in depth.failures]
    lines = [f"{working} of {len(row.depths)} depths, {row.seconds:.1f} s", *wrong]
    return "\n      ".join(lines)


def _write(rows: Sequence[Row], missing: Sequence[str]) -> None:
    machine = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, no GPU; one thread a network, "
        "other work on the same cores, so that the clock runs slower than the processor",
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "versions": ", ".join(f"{name} {version}" for name, version in _versions().items()),
    }
    with written_atomically(PAGE) as temporary:
        temporary.write_text(page(rows, missing, TRUTHS, machine, recoveries()))


if __name__ == "__main__":
    sys.exit(main())
