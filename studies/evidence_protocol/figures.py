"""The study's pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from studies.evidence_protocol.jobs import HALVES, Half
from studies.evidence_protocol.judge import GRADES, skilled
from studies.evidence_protocol.truth import NEGLIGIBLE
from weightscope.files import written_atomically

COLOURS: dict[Half, str] = {
    "newest": "#1f2937", "last": "#2b6cb0", "fifth": "#4d7c0f", "fourth": "#b83280",
    "third": "#c2410c",
    "again": "#0f9d8a", "new": "#7c5cbf", "judge": "#d97706", "choose": "#8a8f98",
}  # fmt: skip
BLUE = COLOURS["last"]
COLUMNS = 3  # panels side by side: still read on a phone


def save(figure: Figure, path: Path) -> None:
    """Write a figure atomically."""
    with written_atomically(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110, bbox_inches="tight")


def draw_aucs(halves: dict[Half, pd.DataFrame]) -> Figure:
    """AUC of every grade with its interval, pooled and within depth, on every set of networks."""
    judged = next(iter(halves.values()))
    order = judged.sort_values("within")["grade"].tolist()
    titles = judged.set_index("grade")["title"]
    figure = Figure(figsize=(9, (0.11 * len(halves) + 0.15) * len(order) + 1.2))
    axes = figure.subplots(1, 2, sharey=True)
    for axis, (key, title) in zip(axes, {"auc": "pooled", "within": "within depth"}.items(),
                                  strict=True):  # fmt: skip
        for place, (name, grades) in enumerate(halves.items()):
            rows, colour = grades.set_index("grade"), COLOURS[name]
            shift = 0.75 * ((len(halves) - 1) / 2 - place) / len(halves)  # a gap between grades
            for i, grade in enumerate(order):
                if grade in rows.index:
                    row = rows.loc[grade]
                    ends = [row[f"{key}_low"], row[f"{key}_high"]]
                    axis.plot(ends, [i + shift] * 2, color=colour, lw=2, alpha=0.6)
                    axis.plot(row[key], i + shift, "o", color=colour, ms=5,
                              label=HALVES[name] if i == 0 else None)  # fmt: skip
        axis.axvline(0.5, color="black", lw=0.8, ls=":")
        axis.set_xlim(0.2, 1.02)
        axis.set_title(f"AUC, {title}", fontsize=10)
        axis.grid(axis="x", alpha=0.3)
    axes[0].set_yticks(range(len(order)), [titles[g].replace("`", "") for g in order], fontsize=8)
    if len(halves) > 1:
        figure.legend(*axes[0].get_legend_handles_labels(), loc="upper center", ncols=3,
                      fontsize=8, bbox_to_anchor=(0.5, 0.04))  # fmt: skip
    return figure


def draw_scatter(table: pd.DataFrame) -> Figure:
    """The score of every grade against the share of skill lost."""
    part = skilled(table)
    keys = [k for k in GRADES if k in part and part[k].notna().any()] or ["response"]
    part = part if len(part) else part.assign(response=0.0)
    rows = -(-len(keys) // COLUMNS)
    figure = Figure(figsize=(2.6 * COLUMNS, 2.6 * rows))
    axes = figure.subplots(rows, COLUMNS, sharey=True, squeeze=False).ravel()
    for axis in axes[len(keys) :]:
        axis.set_axis_off()
    for axis, key in zip(axes, keys, strict=False):
        for half in reversed(HALVES):
            if not (part["half"] == half).any():
                continue
            own = part[(part["half"] == half) & part[key].notna()]
            axis.scatter(own[key], own["lost"].clip(-0.2, 1.3), s=14, color=COLOURS[half],
                         alpha=0.5, label=HALVES[half])  # fmt: skip
        axis.axhline(NEGLIGIBLE, color="black", lw=0.8, ls=":")
        axis.set_title(key, fontsize=9)
        axis.set_xlabel("score")
        axis.set_xlim(-0.03, 1.03)
    for axis in axes[::COLUMNS]:
        axis.set_ylabel("share of skill lost")
    figure.tight_layout()
    if part["half"].nunique() > 1:
        figure.legend(*axes[0].get_legend_handles_labels(), fontsize=8, ncols=3,
                      loc="upper center", bbox_to_anchor=(0.5, 0.0))  # fmt: skip
    return figure


def draw_losses(table: pd.DataFrame) -> Figure:
    """Share of skill lost by reduction for each task; a thin line for each network."""
    part = skilled(table)
    tasks = sorted(part["task"].unique())
    columns = max(min(len(tasks), COLUMNS), 1)
    rows = max(-(-len(tasks) // columns), 1)
    figure = Figure(figsize=(2.4 * columns, 2.4 * rows))
    axes = np.atleast_1d(figure.subplots(rows, columns, sharey=True, squeeze=False)).ravel()
    for axis in axes[len(tasks) :]:
        axis.set_axis_off()
    for axis, task in zip(axes, tasks, strict=False):
        own = part[part["task"] == task]
        for _, network in own.groupby("name"):
            ordered = network.sort_values("reduction")
            axis.plot(np.log2(ordered["reduction"]), ordered["lost"].clip(-0.2, 1.3), color=BLUE,
                      alpha=0.5, lw=1)  # fmt: skip
        axis.axhline(NEGLIGIBLE, color="black", lw=0.8, ls=":")
        axis.set_title(f"{task} ({own['name'].nunique()})", fontsize=9)
        axis.set_xticks(range(1, 6), [str(2**i) for i in range(1, 6)])
    for axis in axes[::columns]:
        axis.set_ylabel("share of skill lost", fontsize=8)
    for axis in axes[max(len(tasks) - columns, 0) : len(tasks)]:
        axis.set_xlabel("removed from reduction", fontsize=8)
    figure.tight_layout()
    return figure
