"""The command of `make matrix`: measure every network, each in its own process, and write the page.

    python -m matrix.run                  all networks that are not measured yet
    python -m matrix.run smp FPN          only those whose name contains all the words

A network that was measured with the same code is not measured again; delete `runs/matrix/` for a
fresh start. The page names the networks that are not measured yet.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from matrix.networks import NETWORKS, TRUTHS
from matrix.page import page
from matrix.records import Row
from weightscope.files import written_atomically

ROOT = Path(__file__).resolve().parent.parent
ROWS = ROOT / "runs" / "matrix"
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
CODE = ("weightscope/graph", "weightscope/truncation", "weightscope/cost", "matrix")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 0 where every network has a row."""
    parser = argparse.ArgumentParser(prog="python -m matrix.run", description=__doc__)
    parser.add_argument("words", nargs="*", help="parts of a network's name")
    parser.add_argument("--limit", type=float, default=600.0, help="seconds for one network")
    parser.add_argument("--one", metavar="NAME", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    ROWS.mkdir(parents=True, exist_ok=True)
    if options.one:
        from matrix.measure import measure  # needs torch's whole export machinery

        _keep(measure(NETWORKS[options.one], TRUTHS[options.one]))
        return 0
    names = [name for name in NETWORKS if all(word in name for word in options.words)]
    for number, name in enumerate(names, start=1):
        row = _row(name) or _supervise(name, options.limit)
        print(f"[{number}/{len(names)}] {name}: {_short(row)}", flush=True)
    rows = {name: _row(name) for name in NETWORKS}
    missing = [name for name, row in rows.items() if row is None]
    _write([row for row in rows.values() if row is not None], missing)
    print(f"wrote {PAGE.relative_to(ROOT)}; {len(missing)} networks are not measured yet")
    return 1 if missing else 0


def _supervise(name: str, limit: float) -> Row:
    """Measure one network in a process of its own; its end, however it comes, leaves a row."""
    command = [sys.executable, "-m", "matrix.run", "--one", name]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, timeout=limit, capture_output=True, text=True
        )
        said = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        problem = said[-1] if done.returncode else ""
    except subprocess.TimeoutExpired:
        problem = f"not done after {limit:.0f} s"
    row = None if problem else _row(name)
    return row or _keep(Row(name, "failed", problem or "the code changed meanwhile"))


def _keep(row: Row) -> Row:
    with written_atomically(_path(row.name)) as temporary:
        temporary.write_text(json.dumps({"of": _digest(row.name), "row": row.to_json()}, indent=1))
    return row


def _row(name: str) -> Row | None:
    """Return a network's row if it was measured with the present code, versions and truth."""
    if not _path(name).exists():
        return None
    kept = json.loads(_path(name).read_text())
    return Row.from_json(kept["row"]) if kept["of"] == _digest(name) else None


def _path(name: str) -> Path:
    plain = "".join(letter if letter.isalnum() else "-" for letter in name)
    return ROWS / f"{plain}.json"


def _digest(name: str) -> str:
    """Return a digest of what a network's row depends on."""
    digest = hashlib.sha256(f"{TRUTHS[name]}{_versions()}".encode())
    for place in CODE:
        folder = ROOT / place
        for file in sorted(folder.rglob("*.py")):
            if file.name not in ("page.py", "run.py", "truth.py"):
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
        temporary.write_text(page(rows, missing, TRUTHS, machine))


if __name__ == "__main__":
    sys.exit(main())
