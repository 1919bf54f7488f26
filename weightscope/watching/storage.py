"""What a history keeps between two runs of a training, checked when it is read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from weightscope.errors import InputError, shown
from weightscope.watching.rules import Strengths, Walk
from weightscope.watching.snapshots import Snapshot

VERSION = 3
"""Version of `History.state_dict`."""


@dataclass(frozen=True, eq=False)
class HistoryState:
    """What a `History.state_dict` holds, checked."""

    steps: int
    initial: dict[str, Tensor]
    strengths: Strengths
    pending: list[Walk]
    snapshots: list[Snapshot]

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> HistoryState:
        """Read what `written` gave, by this version or an earlier one.

        Raises:
            InputError: It was written by something else, or was damaged.
        """
        version = state.get("version") if isinstance(state, Mapping) else None
        if not isinstance(version, int) or not 1 <= version <= VERSION:
            raise InputError(
                f"history state has version {shown(version)}, expected 1 to {VERSION}; give what "
                "History.state_dict() made, by this version of weightscope or an earlier one"
            )
        try:
            return cls.read(_upgraded(state, version))
        except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise InputError(
                f"history state is damaged ({type(error).__name__}: {shown(error, str)}); give one "
                "that History.state_dict() made"
            ) from error

    def written(self) -> dict[str, Any]:
        """The same as plain containers and tensors, for `torch.save`."""
        return {
            "version": VERSION,
            "steps": self.steps,
            "initial": self.initial,
            "variance": dict(self.strengths.variance),
            "faded": dict(self.strengths.faded),
            "gradient": dict(self.strengths.gradient),
            "pending": [[walk.keep, walk.variance] for walk in self.pending],
            "snapshots": [
                {
                    **{k: v for k, v in vars(s).items() if k not in ("edges", "counts")},
                    "edges": torch.from_numpy(s.edges.copy()),
                    "counts": torch.from_numpy(s.counts),
                }
                for s in self.snapshots
            ],
        }

    @classmethod
    def read(cls, state: Mapping[str, Any]) -> HistoryState:
        """Check everything, and share nothing with ``state``.

        Raises:
            ValueError: A value that no training gives; others are of another kind than expected.
        """
        initial = {}
        for name, value in state["initial"].items():
            if not isinstance(value, Tensor) or not value.is_floating_point():
                raise ValueError(f"the start of {name!r} is no tensor of floats")
            initial[name] = value.detach().cpu().clone()
        steps = _whole(state["steps"], "steps")
        return cls(
            steps,
            initial,
            Strengths(
                _by_parameter(state, "variance", initial),
                _by_parameter(state, "faded", initial),
                _by_parameter(state, "gradient", initial, or_nan=True),
            ),
            [_read_walk(*pair) for pair in state["pending"]],
            [_read_snapshot(entry, steps, initial) for entry in state["snapshots"]],
        )


_WHOLE, _FLOAT = ("step", "count"), ("mean", "std", "minimum", "maximum", "saliency")


def packed(state: Mapping[str, Any]) -> dict[str, Any]:
    """A written state with its snapshots in a few long tensors.

    A long training has more snapshots than a file has room for small tensors.
    """
    snapshots = state["snapshots"]
    names = list(state["initial"])
    places = {name: i for i, name in enumerate(names)}
    kept: dict[str, Any] = {
        "names": names,
        "parameter": torch.tensor(
            [places[s["parameter"]] for s in snapshots], dtype=torch.int64, device="cpu"
        ),
        "sizes": torch.tensor(
            [len(s["edges"]) for s in snapshots], dtype=torch.int64, device="cpu"
        ),
    }
    for key in (*_WHOLE, *_FLOAT):
        dtype = torch.int64 if key in _WHOLE else torch.float64
        kept[key] = torch.tensor([s[key] for s in snapshots], dtype=dtype, device="cpu")
    for key in ("edges", "counts"):
        kept[key] = (
            torch.cat([s[key] for s in snapshots]) if snapshots else torch.empty(0, device="cpu")
        )
    return {**state, "snapshots": kept}


def unpacked(state: Any) -> Any:
    """What `packed` was given.

    Raises:
        InputError: It does not fit together.
    """
    kept = state.get("snapshots") if isinstance(state, Mapping) else None
    if not isinstance(kept, Mapping):
        return state  # of an earlier version, or nothing that is known
    try:
        sizes = kept["sizes"].tolist()
        edges = torch.split(kept["edges"], sizes)
        counts = torch.split(kept["counts"], [max(size - 1, 0) for size in sizes])
        columns = {key: kept[key].tolist() for key in (*_WHOLE, *_FLOAT)}
        names = [kept["names"][place] for place in kept["parameter"].tolist()]
        snapshots = [
            dict(zip(("parameter", "edges", "counts", *columns), row, strict=True))
            for row in zip(names, edges, counts, *columns.values(), strict=True)
        ]
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"history state is damaged ({type(error).__name__}: {shown(error, str)[:200]}); "
            "give one that History.state_dict() made"
        ) from error
    return {**state, "snapshots": snapshots}


def _upgraded(state: Mapping[str, Any], version: int) -> dict[str, Any]:
    """A state as this version writes it.

    Version 1 knew no saliency. Up to version 2 the walk since the last tick was folded into the
    variances before a state was written, so that nothing is pending.
    """
    upgraded = dict(state)
    if version < 2:
        upgraded["snapshots"] = [{"saliency": math.nan, **entry} for entry in state["snapshots"]]
    if version < 3:
        upgraded["pending"] = []
    return upgraded


def _whole(value: Any, what: str, most: float = math.inf) -> int:
    if type(value) is not int or not 0 <= value <= most:
        raise ValueError(f"{what} is {shown(value)}")
    return value


def _by_parameter(
    state: Mapping[str, Any], key: str, names: Mapping[str, Any], *, or_nan: bool = False
) -> dict[str, float]:
    """Mean squares by parameter; none is negative or infinite."""
    found = {name: float(state[key][name]) for name in names}
    for name, value in found.items():
        if not (0.0 <= value < math.inf or (or_nan and math.isnan(value))):
            raise ValueError(f"{key} of {name!r} is {value}")
    return found


def _read_walk(keep: Any, variance: Any) -> Walk:
    walk = Walk(float(keep), float(variance))
    if not math.isfinite(walk.keep) or not 0.0 <= walk.variance < math.inf:
        raise ValueError(f"a walk is {walk}")
    return walk


def _read_snapshot(entry: Mapping[str, Any], steps: int, names: Mapping[str, Any]) -> Snapshot:
    edges = entry["edges"].detach().cpu().numpy().astype(np.float64)
    counts = entry["counts"].detach().cpu().numpy().astype(np.int64)
    if entry["parameter"] not in names:
        raise ValueError(f"a snapshot is of {shown(entry['parameter'])}")
    if edges.ndim != 1 or counts.shape != (max(edges.size - 1, 0),) or (counts < 0).any():
        raise ValueError("a histogram has no count for each bin")
    if not (np.isfinite(edges).all() and (np.diff(edges) > 0).all()):
        raise ValueError("the edges of a histogram do not ascend")
    return Snapshot(
        step=_whole(entry["step"], "the step of a snapshot", steps),
        parameter=entry["parameter"],
        count=_whole(entry["count"], "the count of a snapshot"),
        mean=float(entry["mean"]),
        std=float(entry["std"]),
        minimum=float(entry["minimum"]),
        maximum=float(entry["maximum"]),
        edges=edges,
        counts=counts,
        saliency=float(entry["saliency"]),
    )
