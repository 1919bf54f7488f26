"""Does recovery regain more where a step is an orthogonal matrix, in place of Adam's?

``python studies/steps.py --workers 4`` recovers every cut of `studies.regained` twice, on the same
network, with the same images, draws, rates and number of steps: with Adam, and with steps whose
momentum is replaced by its polar factor (Muon, Jordan et al. 2024). ``--seeds 3001`` takes one
network of each design and task.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from studies import regained, runner, small  # noqa: E402
from studies.small import Network  # noqa: E402
from weightscope.truncation.steps import Orthogonal  # noqa: E402

VERSION = 1
"""See `small.on_trained`."""

CHOSE = ("patch", "rings_large")
"""Tasks of the networks, of another seed, on which the length of these steps was chosen."""

COMPARED = ["network", "task", "seed", "role", "keep", "steps"]


def compare(network: Network, place: runner.Place) -> dict[str, Any]:
    """Recover every cut of one network that loses enough, in both ways."""
    settings, found = regained.Settings(network, "given"), {}
    for way, kind in (("adam", torch.optim.Adam), ("orthogonal", Orthogonal)):
        place.tell(way)
        with small.taking(kind):
            found[way] = regained.regain(settings, place)["rows"]
    return {
        "rows": [
            {k: one[k] for k in COMPARED}
            | {"lost": 1 - one["cut"] / one["whole"]}
            | {way: row["regained"] for way, row in (("adam", one), ("orthogonal", other))}
            for one, other in zip(found["adam"], found["orthogonal"], strict=True)
        ]
    }


def study(seeds: Iterable[int]) -> list[runner.Job]:
    """Two jobs for each network: its training and the comparison."""
    networks = [Network(*key, seed) for seed in seeds for key in regained.NETWORKS]
    return [small.on_trained("steps", n, compare, n, VERSION) for n in networks]


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """For one removed level and for more: what is regained with both, and how often more."""
    several = table["keep"] < small.LEVELS - 1
    judges = ~table["task"].isin(CHOSE)
    rows = []
    for tasks, of_task in (("judge", judges), ("chose", ~judges)):
        for removed, of_cut in (("more levels", several), ("one level", ~several)):
            own = table[of_task & of_cut]
            gain = own["orthogonal"] - own["adam"]
            row = {"tasks": tasks, "removed": removed, "cuts": len(own), "more": (gain > 0).sum()}
            for way in ("adam", "orthogonal"):
                row |= {f"{way}, median": own[way].median(), f"{way}, least": own[way].min()}
            rows.append(row | {"largest fall": -gain.min(), "largest rise": gain.max()})
    return pd.DataFrame(rows)


def main() -> None:
    """Compare; what is finished is found again, also after an interruption."""
    parser = small.parser(__doc__)
    parser.add_argument("--table", type=Path, default=ROOT / "docs/studies/pareto/steps.csv")
    parser.add_argument("--seeds", type=int, nargs="+", default=regained.SEEDS)
    options = parser.parse_args()

    def write(found: list[Mapping[str, Any]]) -> None:
        rows = [row for result in found for row in result["rows"]]
        small.write_table(rows, options.table)
        print(summary(pd.DataFrame(rows)).round(3).to_string(index=False))

    small.carry_out(study(options.seeds), options, write)


if __name__ == "__main__":
    from studies import steps  # a job's address holds the name of its module

    steps.main()
