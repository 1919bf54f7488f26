"""The study's page: what was found first, then tables, figures, command and limits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from studies.evidence_protocol.figures import draw_aucs, draw_drops, draw_scatter, save
from studies.evidence_protocol.judge import (
    NEGLIGIBLE,
    OURS,
    cut_table,
    halves,
    judge,
    judge_cuts,
    stage_table,
    verdict_table,
)
from studies.evidence_protocol.runs import Preset
from weightscope.files import written_atomically

TARGETS = {"weights": 0.80, "history": 0.92, "data_loss": 0.97, "data_metric": 0.97}
BASELINES = ("deepest_first", "random")
SAME_INFORMATION = {
    "weights": (
        "excess_spread",
        "spread_ratio",
        "dispersion",
        "ks",
        "wasserstein",
        "std",
        "near_zero_1e-3",
        "near_zero_1e-2",
        "near_zero_relative",
        "kurtosis",
        "alpha",
    ),
    "weights_start": ("movement",),
    "history": ("movement", "walk_ratio", "gradient_fade", "saliency"),
}
"""Other scores that need no more than a grade of ours."""


def write_page(
    records: Sequence[dict[str, Any]], preset: Preset, name: str, planned: int, folder: Path
) -> None:
    """Write ``index.md``, ``stages.csv``, ``scores.csv`` and the figures into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    frame = stage_table(records)
    verdicts = verdict_table(halves(frame)[1])
    scores = judge(frame)
    write_csv(frame, folder / "stages.csv")
    write_csv(scores, folder / "scores.csv")
    save(draw_aucs(scores), folder / "auc.png")
    save(draw_drops(frame), folder / "drops.png")
    save(draw_scatter(frame), folder / "scatter.png")
    text = "\n".join(
        [
            "# Does the verdict predict the truth?",
            "",
            *findings(scores, frame),
            "",
            "![AUC of every score](auc.png)",
            "",
            "## What was done",
            "",
            *protocol(preset, name, planned, frame, records),
            "",
            "## Every score",
            "",
            "AUC of used against unused stages, with 95 % intervals over runs. *Within depth* "
            "compares stages of the same level only, so that depth itself scores one half. "
            "*Trained* leaves out untrained and shuffled-label networks. *Held out* are the runs "
            "of the last seed. The accuracy there is the mean of the shares of used and unused "
            "stages called right, with the threshold of the earlier seeds.",
            "",
            score_table(scores),
            "",
            "## Our verdicts on the held-out runs",
            "",
            markdown(
                verdicts,
                {
                    "grade": ("evidence", "{}"),
                    "verdict": ("verdict", "{}"),
                    "stages": ("stages", "{}"),
                    "share": ("share", "{:.0%}"),
                    "right": ("right", "{:.0%}"),
                },
            ),
            "",
            "## Networks recognised as a whole",
            "",
            state_table(records),
            "",
            "## The truth",
            "",
            "Share of each network's skill (F1 at the best threshold, less its value on other "
            "images' masks) that is lost when every level from the given one down is replaced by "
            "its mean activation.",
            "",
            "![Skill lost by level and task](drops.png)",
            "",
            "![Utilization against skill lost](scatter.png)",
            "",
            *truncation_section(records, preset),
        ]
    )
    with written_atomically(folder / "index.md") as temporary:
        temporary.write_text(text)


def findings(scores: pd.DataFrame, frame: pd.DataFrame) -> list[str]:
    """The first lines of the page: who won, which targets were reached."""
    by_key = scores.set_index("score")
    lines = []
    best_raw = by_key.loc[[k for k in by_key.index if k not in OURS]]["auc_held_out"]
    for key in BASELINES:
        beaten = [
            OURS[k] for k in OURS if by_key.loc[k, "auc_held_out"] < by_key.loc[key, "auc_held_out"]
        ]
        if beaten:
            lines.append(
                f"- **{by_key.loc[key, 'label'].capitalize()} is better** than "
                f"{', '.join(beaten)} on the held-out runs."
            )
    for key, others in SAME_INFORMATION.items():
        ours = by_key.loc[key, "auc_held_out"]
        better = [k for k in others if by_key.loc[k, "auc_held_out"] > ours]
        if better:
            named = ", ".join(
                f"{by_key.loc[k, 'label']} ({by_key.loc[k, 'auc_held_out']:.2f})" for k in better
            )
            lines.append(
                f"- **Simpler scores beat {OURS[key]}** ({ours:.2f}) on held-out runs: {named}. "
                "Those in units of the weights compare across networks only because all runs here "
                "share their learning rates."
            )
    for key, target in TARGETS.items():
        reached = by_key.loc[key, "auc_held_out"]
        word = "reached" if reached >= target else "**missed**"
        lines.append(
            f"- {OURS[key]}: AUC {reached:.2f} on held-out runs, target {target:.2f} {word}; "
            f"within depth, trained networks only {by_key.loc[key, 'auc_trained_within']:.2f}."
        )
    lines.append(
        f"- Best of the other scores: {by_key.loc[best_raw.idxmax(), 'label']}, "
        f"{best_raw.max():.2f}. Deepest first: {by_key.loc['deepest_first', 'auc_held_out']:.2f}. "
        f"Random: {by_key.loc['random', 'auc_held_out']:.2f}."
    )
    lines.append(
        f"- {len(frame)} stages of {frame['name'].nunique()} networks; "
        f"{frame['used'].mean():.0%} of them are used."
    )
    return lines


def protocol(
    preset: Preset,
    name: str,
    planned: int,
    frame: pd.DataFrame,
    records: Sequence[dict[str, Any]],
) -> list[str]:
    """What was trained, the truth, the command."""
    settings = ", ".join(f"{k} {v}" for k, v in asdict(preset).items() if isinstance(v, int))
    designs = frame.groupby(["architecture", "rule", "labels"])["name"].nunique()
    listed = "; ".join(f"{a} {r} {label} {n}" for (a, r, label), n in designs.items())
    return [
        f"`python studies/evidence.py --preset {name}`; {len(records)} of {planned} planned "
        f"networks ({settings}).",
        "",
        f"Networks by design, optimiser and labels: {listed}.",
        "",
        "Designs: `unet` and `multiresunet` are the zoo's (no norm), `unet_bn` a U-Net with batch "
        "norm and transposed convolutions, `monai` MONAI's BasicUNet (instance norm), `smp` the "
        "U-Net of segmentation-models-pytorch over a ResNet-18 from random weights (batch norm). "
        "`adamw` has a weight decay of 1, which shrinks what is not used; `sgd` is plain SGD with "
        "momentum 0.9 and clipped gradients.",
        "",
        f"A stage counts as used if removing its level and all deeper ones costs more than "
        f"{NEGLIGIBLE:.0%} of the skill on test images; untrained and shuffled-label networks use "
        "nothing. Only stages that some cut removes have a truth: those below full resolution. The "
        "data grade sees validation images, the truth is measured on test images. The data are "
        "synthetic.",
        "",
        "The forms of our scores and the thresholds of all verdicts were chosen on networks of "
        "seeds 0 and 1 of the preset `cpu`. An earlier training of seed 2 had been judged and its "
        "figures seen; since then changed, on seed 0: what weights say of stages that lie as "
        "drawn, how they measure movements far below the spread, and that a history alone shows "
        "training. "
        "Quality and truth of untrained and shuffled-label networks stay in the pooled figures; a "
        "grade that finds no skill there gives no score, which the number of stages in "
        "`scores.csv` shows. WeightWatcher's alpha is that of its own release; delve's saturation "
        "is our own computation of its published definition.",
    ]


def truncation_section(records: Sequence[dict[str, Any]], preset: Preset) -> list[str]:
    """Best-threshold F1 of networks cut at every depth and trained on; empty if none was cut."""
    rows = []
    for record in records:
        for way, values in (record.get("truncated") or {}).items():
            if not values:
                continue
            run = record["run"]
            row = {"network": f"{run['architecture']}, {run['task']}, {run['rule']}", "way": way}
            rows.append(row | {f"keep_{k}": v for k, v in values.items()})
    if not rows:
        return []
    frame = pd.DataFrame(rows)
    cuts = cut_table(records)
    kept = sorted(c for c in frame.columns if c.startswith("keep_"))
    columns = {"network": ("network", "{}"), "way": ("training", "{}")}
    titles = {c: f"{c.removeprefix('keep_')} levels kept" for c in kept}
    titles["keep_whole"] = "whole"
    columns |= {c: (titles[c], "{:.3f}") for c in kept}
    return [
        "## Cut and trained on",
        "",
        f"Best-threshold F1 on test images of networks of the first seed, cut with the light "
        "bottleneck: what the task needs, where ablation tells what the network at hand uses. "
        f"Training: *tuned*: {preset.tuning_steps} more steps, the whole network as many; "
        "*scratch*: trained from initial weights like the whole one.",
        "",
        markdown(frame, columns),
        "",
        "Rank correlation of each score with the share of skill that the cut networks lack; the "
        "score of a cut is the largest among the stages it takes away. So few cuts of so few "
        f"networks ({len(cuts)} of {cuts['name'].nunique()}) tell only large differences apart.",
        "",
        markdown(
            judge_cuts(cuts).sort_values("tuned", ascending=False),
            {
                "label": ("score", "{}"),
                "tuned": ("tuned", "{:.2f}"),
                "scratch": ("scratch", "{:.2f}"),
            },
        ),
        "",
    ]


def score_table(scores: pd.DataFrame) -> str:
    """The table of all scores as Markdown."""
    shown = scores.copy()
    for key in (
        "auc_held_out",
        "auc",
        "auc_within",
        "auc_trained",
        "auc_trained_within",
        "spearman",
    ):
        shown[key] = [
            f"{row[key]:.2f} ({row[f'{key}_low']:.2f}-{row[f'{key}_high']:.2f})"
            for _, row in scores.iterrows()
        ]
    columns = {
        "label": ("score", "{}"),
        "auc": ("AUC", "{}"),
        "auc_within": ("within depth", "{}"),
        "auc_trained": ("trained", "{}"),
        "auc_trained_within": ("trained, within depth", "{}"),
        "spearman": ("rank correlation", "{}"),
        "auc_held_out": ("AUC held out", "{}"),
        "accuracy_held_out": ("accuracy held out", "{:.2f}"),
    }
    return markdown(shown, columns)


def state_table(records: Sequence[dict[str, Any]]) -> str:
    """How each kind of network was recognised by each grade."""
    rows = [
        {"labels": r["run"]["labels"], "rule": r["run"]["rule"], "grade": grade, "state": state}
        for r in records
        for grade, state in r["states"].items()
    ]
    frame = pd.DataFrame(rows)
    counts = frame.groupby(["labels", "rule", "grade", "state"]).size().reset_index(name="networks")
    names = ("labels", "rule", "grade", "state", "networks")
    return markdown(counts, {key: (key, "{}") for key in names})


def markdown(frame: pd.DataFrame, columns: dict[str, tuple[str, str]]) -> str:
    """A Markdown table of some columns, each with its title and format."""
    lines = ["| " + " | ".join(title for title, _ in columns.values()) + " |"]
    lines.append("|" + " --- |" * len(columns))
    for _, row in frame.iterrows():
        cells = ["" if pd.isna(row[k]) else form.format(row[k]) for k, (_, form) in columns.items()]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def write_csv(frame: pd.DataFrame, path: Path) -> None:
    """Write a table atomically, with four significant digits."""
    with written_atomically(path) as temporary:
        frame.to_csv(temporary, index=False, float_format="%.4g")
