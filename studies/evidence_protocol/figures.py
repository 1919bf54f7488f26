"""The study's pictures."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from studies.evidence_protocol.judge import NEGLIGIBLE, OURS
from studies.evidence_protocol.tasks import TASKS
from weightscope.files import written_atomically

matplotlib.use("Agg")

BLUE, GREY, ORANGE = "#2b6cb0", "#8a8f98", "#d97706"


def save(figure: Figure, path: Path) -> None:
    """Write a figure atomically."""
    with written_atomically(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110, bbox_inches="tight")


def draw_aucs(scores: pd.DataFrame) -> Figure:
    """AUC of every score with its interval, pooled and within depth."""
    figure = Figure(figsize=(9, 0.36 * len(scores) + 1.2))
    axes = figure.subplots(1, 2, sharey=True)
    ordered = scores.iloc[::-1].reset_index(drop=True)
    titles = {"auc": "all networks, pooled", "auc_trained_within": "trained networks, within depth"}
    for axis, (key, title) in zip(axes, titles.items(), strict=True):
        for i, row in ordered.iterrows():
            colour = BLUE if row["score"] in OURS else GREY
            axis.plot(
                [row[f"{key}_low"], row[f"{key}_high"]], [i, i], color=colour, lw=2, alpha=0.6
            )
            axis.plot(row[key], i, "o", color=colour, ms=6)
        axis.axvline(0.5, color="black", lw=0.8, ls=":")
        axis.set_xlim(0.2, 1.02)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("AUC, used against unused stages")
        axis.grid(axis="x", alpha=0.3)
    axes[0].set_yticks(range(len(ordered)), ordered["label"], fontsize=8)
    return figure


def draw_drops(frame: pd.DataFrame) -> Figure:
    """Share of the skill lost by level for each task; a thin line for each network."""
    trained = frame[frame["labels"] == "true"]
    figure = Figure(figsize=(11, 3))
    axes = figure.subplots(1, len(TASKS), sharey=True)
    for axis, task in zip(axes, TASKS, strict=True):
        part = trained[trained["task"] == task].drop_duplicates(["name", "level"])
        for _, network in part.groupby("name"):
            ordered = network.sort_values("level")
            axis.plot(ordered["level"], ordered["lost"], color=BLUE, alpha=0.35, lw=1)
        mean = part.groupby("level")["lost"].mean()
        axis.plot(mean.index, mean.to_numpy(), "o-", color=ORANGE, lw=2)
        axis.axhline(NEGLIGIBLE, color="black", lw=0.8, ls=":")
        axis.set_title(f"{task} (n = {part['name'].nunique()})", fontsize=10)
        axis.set_xlabel("levels removed from")
        axis.set_xticks(sorted(part["level"].unique()))
        axis.set_ylim(-0.1, 1.4)
    axes[0].set_ylabel("share of skill lost")
    return figure


def draw_scatter(frame: pd.DataFrame) -> Figure:
    """Utilization by each grade against the share of skill lost."""
    figure = Figure(figsize=(11, 3.2))
    axes = figure.subplots(1, len(OURS), sharey=True)
    titles = [label.removeprefix("weightscope, ").replace(" (", "\n(") for label in OURS.values()]
    markers = {"true": ("o", BLUE), "shuffled": ("x", ORANGE), "none": ("+", "black")}
    for axis, key, title in zip(axes, OURS, titles, strict=True):
        for labels, (marker, colour) in markers.items():
            part = frame[(frame["labels"] == labels) & frame[key].notna()]
            jitter = np.random.default_rng(0).normal(0, 0.006, len(part))
            axis.scatter(
                part[key], part["lost"] + jitter, s=14, marker=marker, color=colour, alpha=0.5,
                label={"true": "trained", "none": "untrained"}.get(labels, "shuffled labels"),
            )  # fmt: skip
        axis.axhline(NEGLIGIBLE, color="black", lw=0.8, ls=":")
        axis.set_title(title, fontsize=8)
        axis.set_xlabel("utilization")
        axis.set_xlim(-0.03, 1.03)
    axes[0].set_ylabel("share of skill lost")
    handles, labels = axes[-1].get_legend_handles_labels()
    figure.legend(
        handles, labels, fontsize=8, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.03)
    )
    return figure
