"""What the matrix keeps about each network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Depth:
    """What came of one depth.

    Attributes:
        keep_levels: How many of the network's own levels stay.
        refusal: Why there is no variant; empty where one was built.
        failures: The checks that the variant did not pass.
        parameters: Of the variant / of the original; nan without a variant.
        macs: The same for multiply-accumulates.
        seconds: Processor time of building.
    """

    keep_levels: int
    refusal: str
    failures: tuple[str, ...]
    parameters: float
    macs: float
    seconds: float


@dataclass(frozen=True)
class Row:
    """What came of one network.

    Attributes:
        name: The network.
        outcome: ``captured``, ``refused`` (an error that weightscope raises on purpose) or
            ``failed`` (any other, or out of time).
        reason: The error's text where it was not captured.
        levels: Number of levels.
        disagreements: Differences from the truth.
        graph_failures: Where the rebuilt graph does not give the original's outputs.
        untouched: Whether the original is as it was.
        depths: One for each depth.
        seconds: Processor time of reading the structure and counting the costs, on one thread.
        wall_seconds: The same on the clock.
        parameters: Of the original, and of them dead.
        macs: Multiply-accumulates by weightscope, by FlopCounterMode and by fvcore for the same
            input; 0 where a counter does not run.
        commit: Of weightscope, where the row is kept beyond it.
    """

    name: str
    outcome: str
    reason: str = ""
    levels: int = 0
    disagreements: tuple[str, ...] = ()
    graph_failures: tuple[str, ...] = ()
    untouched: bool = True
    depths: tuple[Depth, ...] = ()
    seconds: float = float("nan")
    wall_seconds: float = float("nan")
    parameters: tuple[int, int] = (0, 0)
    macs: tuple[int, int, int] = (0, 0, 0)
    commit: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Row:
        """Make a row of plain values."""
        plain = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
        depths = (Depth(**{**d, "failures": tuple(d["failures"])}) for d in values["depths"])
        return cls(**{**plain, "depths": tuple(depths)})
