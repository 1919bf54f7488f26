"""The table of the comparison at equal MACs."""

import itertools
import math
from pathlib import Path

import pandas as pd

from studies.pareto import against, table

PARETO = Path(__file__).resolve().parents[2] / "docs/studies/pareto"


def row(way, skill, macs):
    shown = {"skill": skill, "low": skill - 0.1, "high": skill + 0.1}
    return {
        "way": way,
        **shown,
        "macs": macs,
        "parameters": 10.0,
        "latency": macs,
        "peak_memory": 5.0,
    }


def test_costs_are_shares_of_the_whole_network_and_failures_are_rows():
    result = {
        "network": "a", "task": "rings", "seed": 1, "levels": 4, "keep": 2,
        "rows": [row("whole", 0.8, 200.0), row("cut", 0.7, 50.0)],
        "failures": {"random": "TruncationError: no"},
    }  # fmt: skip
    found = table([result, result | {"network": "b", "failures": {}}])
    assert list(found.way) == ["whole", "cut", "random", "whole", "cut"]
    assert list(found.macs.dropna()) == [1.0, 0.25, 1.0, 0.25]
    assert list(found.skill.dropna()) == [0.8, 0.7, 0.8, 0.7]
    assert found.failure[2] == "TruncationError: no"
    assert math.isnan(found.skill[2])


def test_only_an_interval_above_the_cut_is_worse():
    about = {"network": "a", "task": "rings", "skill": 0.5}
    rows = [
        about
        | {"seed": seed, "way": way, "latency": late, "over_cut_low": low, "over_cut_high": high}
        for seed, way, late, low, high in (
            (1, "cut", 0.5, 0.0, 0.0),
            (2, "cut", 0.5, 0.0, 0.0),
            (1, "random", 0.6, -0.1, 0.1),
            (2, "random", 0.4, 0.1, 0.2),
            (1, "Taylor", 0.6, -0.2, -0.1),
        )
    ]
    found = against(pd.DataFrame(rows)).set_index("way")
    assert list(found.loc["random"]) == ["cut", 2, 0, 1, 1, 1]
    assert list(found.loc["Taylor"]) == ["cut", 1, 1, 1, 1, 1]


def test_the_page_counts_the_pairs_whose_latencies_follow_their_macs() -> None:
    """Two ways of one network, whose MACs differ by a tenth or more."""
    alike = []
    for path in PARETO.glob("methods*.csv"):
        frame = pd.read_csv(path).dropna(subset=["latency", "macs"])
        for _, own in frame.groupby(["network", "task", "seed"]):
            ways = own.drop_duplicates(["macs", "latency"])  # what is chosen is one of the others
            for pair in itertools.combinations(ways[["macs", "latency"]].to_numpy(), 2):
                (macs, latency), (more, longer) = sorted(map(tuple, pair))
                if more >= 1.1 * macs:
                    alike.append(longer > latency)
    text = " ".join((PARETO / "index.md").read_text().split())
    assert f"in {sum(alike)} of {len(alike)} ({100 * sum(alike) / len(alike):.0f} %)" in text
