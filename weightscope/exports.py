"""The analysis in formats that other programs read: JSON and Markdown; two checkpoints compared."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from weightscope.adapters.modes import outside_modes
from weightscope.frames import layers_frame, proposals_frame, stages_frame
from weightscope.printing import aligned_columns
from weightscope.showing import counted, frame_table, share

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from weightscope.findings import Findings

FORMAT = 1
"""Version of the JSON: it grows when a key changes its meaning or goes, not when one joins."""


def as_json(analysis: Findings) -> str:
    """The analysis as JSON text.

    Keys: ``format`` (1), ``weightscope`` (version), ``model`` (name of its class), ``state``,
    ``conclusion``, ``notes``, and the rows of the frames ``stages``, ``layers``, ``scores`` and
    ``proposals`` as lists of objects. What is not a number (nan) is null.
    """
    content = {
        "format": FORMAT,
        "weightscope": version("weightscope"),
        "model": type(analysis.structure.model).__name__,
        "state": analysis.assessment.state,
        "conclusion": analysis.assessment.conclusion,
        "notes": [*analysis.structure.notes, *analysis.assessment.notes],
        **{name: _rows(frame) for name, frame in _frames(analysis).items()},
    }
    return json.dumps(content, indent=1, ensure_ascii=True, allow_nan=False) + "\n"


def _frames(analysis: Findings) -> dict[str, pd.DataFrame]:
    """The tables by their names in the JSON."""
    return {
        "stages": stages_frame(
            analysis.structure, analysis.costs, analysis.receptive_fields, analysis.assessment
        ),
        "layers": layers_frame(analysis.structure, analysis.statistics, analysis.costs),
        "scores": analysis.scores,
        "proposals": proposals_frame(analysis.proposals, analysis.costs),
    }


def _rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows of a frame as objects of plain values."""
    return [{str(k): _plain(v) for k, v in row.items()} for row in frame.to_dict("records")]


def _plain(value: Any) -> Any:
    """A value that JSON has."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def as_markdown(analysis: Findings) -> str:
    """The verdict, the stages and the smaller networks as Markdown tables."""
    frames = _frames(analysis)
    stages = ["stage", "parameters", "macs", "utilization", "verdict", "evidence", "why"]
    proposals = ["keep_levels", "parameters_share", "macs_share", "evidence", "refusal"]
    return "\n\n".join(
        (
            f"# {_cell(type(analysis.structure.model).__name__)}",
            _cell(analysis.conclusion),
            _table(frames["stages"][stages]),
            _table(frames["proposals"].reindex(columns=proposals)),
            "",
        )
    )


def as_notebook(analysis: Findings) -> str:
    """The verdict, the stages and the smaller networks as HTML; all text is escaped."""
    stages = ["stage", "parameters", "macs", "utilization", "verdict", "evidence", "why"]
    proposals = ["keep_levels", "parameters_share", "macs_share", "evidence", "refusal"]
    frames = _frames(analysis)
    tables = (
        frame_table(frame.reindex(columns=columns))
        for frame, columns in ((frames["stages"], stages), (frames["proposals"], proposals))
    )
    name = html.escape(type(analysis.structure.model).__name__)
    return f"<div><h3>{name}</h3><p>{html.escape(analysis.conclusion)}</p>{''.join(tables)}</div>"


def _table(frame: pd.DataFrame) -> str:
    """A frame as a Markdown table."""
    head = [_cell(str(column)) for column in frame.columns]
    rows = [[_cell(_short(value)) for value in row] for row in frame.itertuples(index=False)]
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _short(value: Any) -> str:
    if isinstance(value, float):
        return "-" if math.isnan(value) else f"{value:.3g}"
    return str(value)


def _cell(text: str) -> str:
    """Text that Markdown shows as it is: names in models are untrusted."""
    for mark in "\\`*_{}[]<>#|!":
        text = text.replace(mark, f"\\{mark}")
    return " ".join(text.split())


@outside_modes()
def comparison(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> str:
    """What moved between two checkpoints of one network, tensor by tensor, most first.

    Movement is ``rms(second - first) / rms(first)``; spread is ``std(second) / std(first)``.

    Args:
        first: Tensors of the earlier checkpoint by name.
        second: Those of the later one.
    """
    common = [name for name in first if name in second and first[name].shape == second[name].shape]
    rows = sorted((_moved(first[n], second[n]), n) for n in common)
    shown = [row for row in reversed(rows) if not math.isnan(row[0][0])]
    table = aligned_columns(
        {
            "tensor": [name for _, name in shown],
            "moved": [f"{moved:.3g}" for (moved, _, _), _ in shown],
            "spread": [f"{spread:.3g}" for (_, spread, _), _ in shown],
            "same": [share(same) for (_, _, same), _ in shown],
        }
    )
    only = [_missing(first, second, "first"), _missing(second, first, "second")]
    still = sum(same == 1.0 for (_, _, same), _ in shown)
    lines = [f"{counted(len(common), 'tensor')} in both, {still} of them equal to the last bit"]
    return "\n\n".join([*lines, table, *filter(None, only)])


def _moved(first: Tensor, second: Tensor) -> tuple[float, float, float]:
    """Relative movement, ratio of the spreads and share of equal values."""
    a, b = first.double(), second.double()
    size, spread = a.square().mean().sqrt(), a.std(correction=0)
    moved = float((b - a).square().mean().sqrt() / size) if size > 0 else math.nan
    ratio = float(b.std(correction=0) / spread) if spread > 0 else math.nan
    return moved, ratio, float((a == b).double().mean()) if a.numel() else math.nan


def _missing(these: Mapping[str, Tensor], those: Mapping[str, Tensor], where: str) -> str:
    """Tensors that one file has alone or in another shape."""
    names: Sequence[str] = [n for n in these if n not in those or these[n].shape != those[n].shape]
    if not names:
        return ""
    more = ", ..." if len(names) > 3 else ""
    return f"{len(names)} alone or of another shape in the {where}: {', '.join(names[:3])}{more}"
