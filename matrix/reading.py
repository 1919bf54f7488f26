"""The command of `make reading`: read every network of the matrix, and build it without numbers.

    python -m matrix.reading              those that have no row yet
    python -m matrix.reading hand ENet    those whose name contains one of the words, anew
    python -m matrix.reading --again      those that were held back, once more
    python -m matrix.reading --page       write the page from the rows that are kept

Each is read, its graph is run beside it, and every legal depth is built without numbers. The rows
are kept in `matrix/rows/`, with the commit that they were read on, so that the page can be written
without reading anything again. Those held back stay there as they were first read; what they are
read as later is kept in `matrix/again.csv`.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from matrix.held_back import HELD_BACK
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
from matrix.page import is_right, outcome, reading_page, refused_rightly
from matrix.records import Row
from weightscope.files import written_atomically

ROOT = Path(__file__).resolve().parent.parent
ROWS = ROOT / "matrix" / "rows"
AGAIN = ROOT / "matrix" / "again.csv"
PAGE = ROOT / "docs" / "matrix_reading.md"

HELD = {
    "Held back, twenty-first": HELD_BACK_TWENTYFIRST,
    "Held back, twentieth": HELD_BACK_TWENTIETH,
    "Held back, nineteenth": HELD_BACK_NINETEENTH,
    "Held back, eighteenth": HELD_BACK_EIGHTEENTH,
    "Held back, seventeenth": HELD_BACK_SEVENTEENTH,
    "Held back, sixteenth": HELD_BACK_SIXTEENTH,
    "Held back, fifteenth": HELD_BACK_FIFTEENTH,
    "Held back, fourteenth": HELD_BACK_FOURTEENTH,
    "Held back, thirteenth": HELD_BACK_THIRTEENTH,
    "Held back, twelfth": HELD_BACK_TWELFTH,
    "Held back, eleventh": HELD_BACK_ELEVENTH,
    "Held back, tenth": HELD_BACK_TENTH,
    "Held back, ninth": HELD_BACK_NINTH,
    "Held back, eighth": HELD_BACK_EIGHTH,
    "Held back, seventh": HELD_BACK_SEVENTH,
    "Held back, sixth": HELD_BACK_SIXTH,
    "Held back, fifth": HELD_BACK_FIFTH,
    "Held back, fourth": HELD_BACK_FOURTH,
    "Held back, third": HELD_BACK_THIRD,
    "Held back, second": HELD_BACK_AGAIN,
    "Held back, first": HELD_BACK,
}
"""The lists by their label; by name, what is held back."""


def _commit() -> str:
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True
    )
    return done.stdout.strip()


COMMIT = _commit()
"""Of the code that this process runs, whatever is committed meanwhile."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m matrix.reading", description=__doc__)
    parser.add_argument("words", nargs="*", help="parts of a network's name")
    parser.add_argument("--page", action="store_true", help="only write the page")
    parser.add_argument("--again", action="store_true", help="read what was held back once more")
    options = parser.parse_args(arguments)
    ROWS.mkdir(exist_ok=True)
    names = list(NETWORKS)
    if options.again:
        held = {name for listed in HELD.values() for name in listed}
        for name in names:
            if name in held and any(word in name for word in options.words or [""]):
                _read_again(name)
    elif not options.page:
        for name in names:
            named = any(word in name for word in options.words)
            if named or not (options.words or _row(name).exists()):
                _read(name)
    kept = [json.loads(path.read_text()) for path in sorted(ROWS.glob("*.json"))]
    rows = {values["name"]: Row.from_json(values) for values in kept}
    with written_atomically(PAGE) as temporary:
        temporary.write_text(
            reading_page(
                [rows[n] for n in names if n in rows],
                [n for n in names if n not in rows],
                TRUTHS,
                HELD,
                kept_again(),
            )
        )
    print(f"wrote {PAGE.relative_to(ROOT)}")
    return 0


def _read(name: str) -> None:
    if not NETWORKS[name].installed:
        return
    row = _row_of(name)
    with written_atomically(_row(name)) as temporary:
        temporary.write_text(json.dumps(row.to_json(), indent=1) + "\n")


def _read_again(name: str) -> None:
    if NETWORKS[name].installed:
        keep_again([_row_of(name)])


def kept_again() -> dict[str, dict[str, str]]:
    """What is kept of later readings, by the network's name."""
    if not AGAIN.exists():
        return {}
    with AGAIN.open(newline="") as file:
        return {kept["network"]: kept for kept in csv.DictReader(file)}


def keep_again(rows: Sequence[Row]) -> None:
    """Keep what some networks were read as, beside what is kept of others."""
    kept = kept_again()
    for row in rows:
        wrong = [row.reason, *row.disagreements, *row.graph_failures]
        wrong += [failure for depth in row.depths for failure in depth.failures]
        kept[row.name] = {
            "network": row.name,
            "outcome": outcome(row, TRUTHS[row.name]),
            "seconds": f"{row.seconds:.1f}",
            "commit": row.commit,
            "first difference": " ".join(next(filter(None, wrong), "").split())[:200],
        }
    with written_atomically(AGAIN) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(next(iter(kept.values()))), lineterminator="\n")
        writer.writeheader()
        writer.writerows(kept[name] for name in sorted(kept))


def _row_of(name: str) -> Row:
    from matrix.measure import read_only  # needs torch's whole export machinery

    try:
        row = read_only(NETWORKS[name], TRUTHS[name])
    except Exception as error:  # noqa: BLE001 - what should not happen is a result
        row = Row(name, "failed", f"{type(error).__name__}: {' '.join(str(error).split())[:500]}")
    row = replace(row, commit=COMMIT)
    right = is_right(row) or refused_rightly(row, TRUTHS[name])
    wrong = [*row.disagreements, *row.graph_failures, *(f for d in row.depths for f in d.failures)]
    print(
        f"{name}: {'right' if right else row.reason or 'wrong'} {row.seconds:.1f} s",
        *wrong,
        sep="\n   ",
        flush=True,
    )
    return row


def _row(name: str) -> Path:
    plain = "".join(letter if letter.isalnum() else "-" for letter in name)
    return ROWS / f"{plain}.json"


if __name__ == "__main__":
    sys.exit(main())
