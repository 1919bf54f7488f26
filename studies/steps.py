"""Does recovery regain more where a step is an orthogonal matrix, in place of Adam's?

``python studies/steps.py --workers 4`` recovers every cut of `studies.regained` twice, on the same
network, with the same images, draws, rates and number of steps: with Adam, and with steps whose
momentum is replaced by its polar factor (Muon, Jordan et al. 2024). ``--seeds 3001`` takes one
network of each design and task. ``--thinned`` asks it of networks whose channels were taken out, by
Torch-Pruning or by ``thin``, in place of cuts: of eight networks that judge nothing.
``--one-level`` asks it of the same networks without one level and some channels.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from studies import pareto, regained, runner, small  # noqa: E402
from studies.small import Network  # noqa: E402
from weightscope.truncation import Variant  # noqa: E402
from weightscope.truncation.steps import Orthogonal  # noqa: E402

VERSION = 1
"""See `small.on_trained`."""

CHOSE = ("patch", "rings_large")
"""Tasks of the networks, of another seed, on which the length of these steps was chosen."""

COMPARED = ["network", "task", "seed", "role", "keep", "steps"]


KINDS = {"adam": torch.optim.Adam, "orthogonal": Orthogonal}

OTHERS = tuple(
    Network(*key, 3002)
    for key in (
        ("unet", "patch"),
        ("nnunet", "patch"),
        ("instance", "patch"),
        ("batch", "rings_middle"),
        ("nnunet", "rings_middle"),
        ("group", "rings_large"),
        ("unet", "mosaic"),
        ("batch", "discs"),
    )
)
"""Of seeds that the comparison with pruners does not hold."""


def compare(network: Network, place: runner.Place) -> dict[str, Any]:
    """Recover every cut of one network that loses enough, in both ways."""
    settings, found = regained.Settings(network, "given"), {}
    for way, kind in KINDS.items():
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


THINNED: dict[str, Callable[[pareto.Case], tuple[nn.Module | Variant, int]]] = {
    "magnitude": lambda case: (pareto.by_magnitude(case), case.settings.steps),
    "Taylor": lambda case: (pareto.by_taylor(case), case.settings.steps),
    "random": lambda case: (pareto.at_random(case), case.settings.steps),
    "cut and thinned": lambda case: case.begun(case.deeper),
}
"""What is recovered, and for how many steps. What is cut before it is thinned was recovered for
half of the steps, as the library does it."""


ONE_LEVEL: dict[str, Callable[[pareto.Case], tuple[nn.Module | Variant, int]]] = {
    "one level cut and thinned": lambda case: case.begun(case.structure.depth - 1),
}
"""Of one removed level and some channels, as in ``THINNED``; what is recovered before it is thinned
takes Adam's steps, as the library does it."""


def compare_thinned(network: Network, place: runner.Place) -> dict[str, Any]:
    """Recover one network in both ways after each way of taking channels out of it."""
    return _compare(network, place, THINNED)


def compare_one_level(network: Network, place: runner.Place) -> dict[str, Any]:
    """The same without one level and some channels."""
    return _compare(network, place, ONE_LEVEL)


def _compare(
    network: Network,
    place: runner.Place,
    ways: Mapping[str, Callable[[pareto.Case], tuple[nn.Module | Variant, int]]],
) -> dict[str, Any]:
    case, rows = pareto.prepare(pareto.Settings(network), place), []
    test = network.pool("test", small.images(place))
    full = regained.skill(network, case.model, test)
    for way, make in ways.items():
        torch.manual_seed(network.seed)
        made, steps = make(case)
        row = {"network": network.design, "task": network.task, "seed": network.seed, "way": way}
        for name, kind in KINDS.items():
            one = copy.deepcopy(made)
            with small.taking(kind):
                if isinstance(one, Variant):
                    case.course(one, steps)
                else:
                    pareto.taught(case, one)
            module = one.module if isinstance(one, Variant) else one
            row[name] = regained.skill(network, module, test) / full
        place.tell(f"{way}: {row['adam']:.3f} {row['orthogonal']:.3f}")
        rows.append(row)
    return {"rows": rows}


def study(seeds: Iterable[int]) -> list[runner.Job]:
    """Two jobs for each network: its training and the comparison."""
    networks = [Network(*key, seed) for seed in seeds for key in regained.NETWORKS]
    return [small.on_trained("steps", n, compare, n, VERSION) for n in networks]


def study_thinned() -> list[runner.Job]:
    """Two jobs for each network: its training and the comparison."""
    return [small.on_trained("steps-thinned", n, compare_thinned, n, VERSION) for n in OTHERS]


def study_one_level() -> list[runner.Job]:
    """Two jobs for each network: its training and the comparison."""
    return [small.on_trained("steps-one-level", n, compare_one_level, n, VERSION) for n in OTHERS]


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


def summary_thinned(table: pd.DataFrame) -> pd.DataFrame:
    """For each way: the share of the skill that is kept with both, and how often more."""
    kept = {name: (name, "mean") for name in KINDS}
    least = {f"{name}, least": (name, "min") for name in KINDS}
    table = table.assign(more=table["orthogonal"] > table["adam"])
    return table.groupby("way", sort=False).agg(
        networks=("way", "size"), more=("more", "sum"), **kept, **least
    ).reset_index()  # fmt: skip


def main() -> None:
    """Compare; what is finished is found again, also after an interruption."""
    parser = small.parser(__doc__)
    parser.add_argument("--tables", type=Path, default=ROOT / "docs/studies/pareto")
    parser.add_argument("--thinned", action="store_true", help="networks without some channels")
    parser.add_argument("--one-level", action="store_true", help="and without one level")
    parser.add_argument("--seeds", type=int, nargs="+", default=regained.SEEDS)
    options = parser.parse_args()

    name, judge, jobs = "steps", summary, study(options.seeds)
    if options.thinned:
        name, judge, jobs = "steps-thinned", summary_thinned, study_thinned()
    if options.one_level:
        name, judge, jobs = "steps-one-level", summary_thinned, study_one_level()

    def write(found: list[Mapping[str, Any]]) -> None:
        rows = [row for result in found for row in result["rows"]]
        small.write_table(rows, options.tables / f"{name}.csv")
        print(judge(pd.DataFrame(rows)).round(3).to_string(index=False))

    small.carry_out(jobs, options, write)


if __name__ == "__main__":
    from studies import steps  # a job's address holds the name of its module

    steps.main()
