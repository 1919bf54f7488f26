"""Write the ratios of a benchmark run into docs/benchmarks.md.

python benchmarks/table.py build/benchmarks.json docs/benchmarks.md

Several runs can be given before the page; of a benchmark that is in more than one the last counts.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

BEGIN = "<!-- table: written by benchmarks/table.py -->"
END = "<!-- end of table -->"


def main(sources: list[Path], target: Path) -> None:
    runs = [json.loads(source.read_text()) for source in sources]
    run = runs[-1]
    found = {b["name"]: b["extra_info"] for each in runs for b in each["benchmarks"]}
    rows = [info[key] for info in found.values() for key in ("row", "memory") if key in info]
    machine = run["machine_info"]
    loads = sorted(row["load"] for row in rows)
    lines = [
        BEGIN,
        "",
        f"{run['datetime'][:16].replace('T', ' ')} UTC, {machine['cpu'].get('brand_raw', '')}, "
        f"{os.cpu_count()} cores, no GPU, Python {machine['python_version']}. Load average while "
        f"measuring: {loads[0]:.1f} to {loads[-1]:.1f} (above {os.cpu_count()} others were using "
        "the machine).",
        "",
        "| measured | against | threads | ours | theirs | ratio | goal | met |",
        "|---|---|--:|--:|--:|--:|--:|---|",
        *(_line(row) for row in rows),
        "",
        END,
    ]
    text = target.read_text()
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    temporary = target.with_suffix(".tmp")
    temporary.write_text(before + "\n".join(lines) + after)
    os.replace(temporary, target)


def _line(row: dict) -> str:
    if "value" in row:
        times, ratio = ("", ""), f"{row['value']:.1f} {row['unit']}"
    else:
        times = (_seconds(row["seconds"]), _seconds(row["baseline_seconds"]))
        ratio = f"{row['ratio']:.2f}"
    sign = ">=" if row["at_least"] else "<="
    goal = "" if row["goal"] is None else f"{sign} {row['goal']:g}"
    met = "" if row["goal"] is None else "yes" if row["met"] else "**no**"
    if "ratio" in row and row["threads"] > 1 and row["load"] > 1.5 * row["threads"]:
        # threads that wait for each other on a busy machine measure the neighbours
        met = "not judged: busy"
    cells = (row["what"], row["versus"], str(row["threads"]), *times, ratio, goal, met)
    return "| " + " | ".join(cells) + " |"


def _seconds(value: float) -> str:
    return f"{value:.2f} s" if value >= 1 else f"{value * 1e3:.1f} ms"


if __name__ == "__main__":
    main([Path(source) for source in sys.argv[1:-1]], Path(sys.argv[-1]))
