"""The table of the comparison at equal MACs."""

import math

from studies.pareto import table


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
