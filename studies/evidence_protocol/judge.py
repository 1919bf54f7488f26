"""Does a score tell used from unused stages? AUC, rank correlation, thresholds judged held out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from studies.evidence_protocol.runs import Run

NEGLIGIBLE = 0.05
"""Share of the network's skill whose loss makes a stage used; as in `weightscope.utilization`."""

OURS = {
    "data_metric": "weightscope, data (ablation by F1 on other images)",
    "data_loss": "weightscope, data (ablation by the loss)",
    "history": "weightscope, history",
    "weights_start": "weightscope, weights and their start",
    "weights": "weightscope, weights",
}
OTHERS = {
    "taylor": "Taylor importance, share of the largest stage's",
    "importance": "Taylor importance, raw",
    "walk_ratio": "movement / noise walk",
    "gradient_fade": "faded / steady noise walk",
    "movement": "rms movement",
    "saliency": "saliency late in the training, share of the largest stage's",
    "excess_spread": "excess spread",
    "spread_ratio": "std / initial std",
    "dispersion": "dispersion of the filters' energies",
    "ks": "KS to the null",
    "wasserstein": "Wasserstein to the null",
    "std": "raw std",
    "near_zero_1e-3": "near-zero mass 1e-3 (the paper's reading)",
    "near_zero_1e-2": "near-zero mass 1e-2 (the paper's reading)",
    "near_zero_relative": "near-zero mass, 0.1 initial std",
    "kurtosis": "kurtosis",
    "alpha": "WeightWatcher's alpha",
    "saturation": "activation saturation (delve's definition)",
    "deepest_first": "deepest first",
    "random": "random",
}
SCORES = OURS | OTHERS


def stage_table(records: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """One row per stage that a cut removes: all scores, the share of skill lost, and the label.

    Networks that learned nothing (untrained, shuffled labels) use no stage: their share is 0.
    """
    rows = []
    for record in records:
        run = record["run"]
        for row in record["rows"]:
            if row["f1_drop"] is None:
                continue
            learned = run["labels"] == "true"
            share = {
                metric: row[f"{metric}_drop"]
                / max(record["quality"][metric] - record["chance"][metric], 1e-9)
                if learned
                else 0.0
                for metric in ("f1", "average_precision")
            }
            rows.append(
                {
                    **run,
                    "name": Run(**run).name,
                    **row,
                    "lost": share["f1"],
                    "lost_ap": share["average_precision"],
                }
            )
    frame = pd.DataFrame(rows)
    frame["used"] = frame["lost"] > NEGLIGIBLE
    return frame


def auc(score: NDArray[np.float64], used: NDArray[np.bool_]) -> float:
    """Chance that a used stage scores higher than an unused one; ties count half."""
    from scipy.stats import rankdata

    positives, negatives = int(used.sum()), int((~used).sum())
    if not positives or not negatives:
        return float("nan")
    ranks = rankdata(score)
    return float((ranks[used].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def auc_within_depth(
    score: NDArray[np.float64], used: NDArray[np.bool_], level: NDArray[np.int64]
) -> float:
    """AUC over pairs of stages of the same level only: depth itself scores exactly one half."""
    wins, pairs = 0.0, 0
    for depth in np.unique(level):
        here = level == depth
        count = int((used & here).sum()) * int((~used & here).sum())
        if count:
            wins += count * auc(score[here], used[here])
            pairs += count
    return wins / pairs if pairs else float("nan")


def rank_correlation(score: NDArray[np.float64], lost: NDArray[np.float64]) -> float:
    """Spearman's correlation of a score with the share of skill lost."""
    from scipy.stats import spearmanr

    if len(score) < 3 or np.ptp(score) == 0 or np.ptp(lost) == 0:
        return float("nan")
    return float(spearmanr(score, lost).statistic)


def halves(frame: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Split by run: the earlier seeds, on which forms and thresholds were chosen, and the last.

    A study of one seed has no held-out runs; it is judged on itself, which its page says.
    """
    last = frame["seed"] == frame["seed"].max()
    if last.all():
        return frame, frame
    return frame[~last], frame[last]


def judge(frame: pd.DataFrame, *, resamples: int = 500, seed: int = 0) -> pd.DataFrame:
    """Judge every score, with intervals from resampling whole runs.

    Args:
        frame: From `stage_table`.
        resamples: Bootstrap resamples of the runs.
        seed: Of the bootstrap.

    Returns:
        One row per score, best pooled AUC first: stages scored, AUC pooled, within depth, and on
        trained networks only; Spearman's correlation with the share of skill lost; AUC on the
        last seed, with an interval, and balanced accuracy there with the threshold of the others.
    """
    first, second = halves(frame)
    rows = []
    for key, label in SCORES.items():
        known = frame[frame[key].notna()]
        trained = known[known["labels"] == "true"]
        row: dict[str, Any] = {"score": key, "label": label, "stages": len(known)}
        for name, (part, measure) in {
            "auc": (known, lambda a: auc(a.score, a.used)),
            "auc_within": (known, lambda a: auc_within_depth(a.score, a.used, a.level)),
            "auc_trained": (trained, lambda a: auc(a.score, a.used)),
            "auc_trained_within": (trained, lambda a: auc_within_depth(a.score, a.used, a.level)),
            "spearman": (known, lambda a: rank_correlation(a.score, a.lost)),
        }.items():
            columns = Columns.of(part, key)
            row[name] = measure(columns)
            row[f"{name}_low"], row[f"{name}_high"] = interval(
                columns, part["name"].to_numpy(), measure, resamples, seed
            )
        fitted, held = (Columns.of(f[f[key].notna()], key) for f in (first, second))
        row["auc_held_out"] = auc(held.score, held.used)
        row["auc_held_out_low"], row["auc_held_out_high"] = interval(
            held,
            second.loc[second[key].notna(), "name"].to_numpy(),
            lambda a: auc(a.score, a.used),
            resamples,
            seed,
        )
        row["threshold"] = best_threshold(fitted.score, fitted.used)
        row["accuracy_held_out"] = balanced_accuracy(held.score > row["threshold"], held.used)
        rows.append(row)
    return pd.DataFrame(rows).sort_values("auc", ascending=False, ignore_index=True)


@dataclass(frozen=True)
class Columns:
    """What is judged, one entry per stage: a score, the label, the share lost, the level."""

    score: NDArray[np.float64]
    used: NDArray[np.bool_]
    lost: NDArray[np.float64]
    level: NDArray[np.int64]

    @classmethod
    def of(cls, frame: pd.DataFrame, key: str) -> Columns:
        """Read the columns of one score off a table."""
        return cls(
            frame[key].to_numpy(float),
            frame["used"].to_numpy(bool),
            frame["lost"].to_numpy(float),
            frame["level"].to_numpy(np.int64),
        )

    def take(self, rows: NDArray[np.intp]) -> Columns:
        """Some rows, with repeats."""
        return Columns(self.score[rows], self.used[rows], self.lost[rows], self.level[rows])


def interval(
    columns: Columns,
    names: NDArray[Any],
    measure: Callable[[Columns], float],
    resamples: int,
    seed: int,
) -> tuple[float, float]:
    """Central 95 % of a measure over resampled runs."""
    groups = [np.flatnonzero(names == name) for name in np.unique(names)]
    if not groups:
        return float("nan"), float("nan")
    generator = np.random.default_rng(seed)
    values = []
    for _ in range(resamples):
        picked = generator.integers(len(groups), size=len(groups))
        values.append(measure(columns.take(np.concatenate([groups[i] for i in picked]))))
    if not np.isfinite(values).any():
        return float("nan"), float("nan")
    low, high = np.nanquantile(values, [0.025, 0.975])
    return float(low), float(high)


def best_threshold(score: NDArray[np.float64], used: NDArray[np.bool_]) -> float:
    """Threshold of the largest balanced accuracy; midway between neighbouring scores."""
    values = np.unique(score)
    middles = (values[1:] + values[:-1]) / 2 if len(values) > 1 else values
    accuracies = [balanced_accuracy(score > t, used) for t in middles]
    if not np.isfinite(accuracies).any():
        return float("nan")
    return float(middles[int(np.nanargmax(accuracies))])


def balanced_accuracy(called: NDArray[np.bool_], used: NDArray[np.bool_]) -> float:
    """Mean of the shares of used and of unused stages that are called so."""
    if used.all() or not used.any():
        return float("nan")
    return float((called[used].mean() + (~called[~used]).mean()) / 2)


def cut_table(records: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """One row per network that was cut at a depth and trained: what was lost, and all scores.

    Columns ``tuned`` and ``scratch`` are the share of the whole network's skill that is missing
    after fine-tuning and after training from scratch; the score of a cut is the largest among the
    stages that it takes away.
    """
    rows = []
    for record in records:
        for keep in (record["truncated"] or {"tuned": {}})["tuned"]:
            if keep == "whole":
                continue
            removed = pd.DataFrame([r for r in record["rows"] if r["level"] >= int(keep)])
            row: dict[str, Any] = {"name": Run(**record["run"]).name, "keep": keep}
            for way, reached in record["truncated"].items():
                if reached:  # the network itself is the whole one trained from scratch
                    whole = reached.get("whole", record["quality"]["f1"])
                    skill = whole - record["chance"]["f1"]
                    row[way] = (whole - reached[keep]) / max(skill, 1e-9)
            rows.append(row | {k: pd.to_numeric(removed[k]).max() for k in SCORES})
    return pd.DataFrame(rows)


def judge_cuts(frame: pd.DataFrame) -> pd.DataFrame:
    """Spearman's correlation of every score with what the cut networks lost after training."""
    rows = []
    for key, label in SCORES.items():
        row: dict[str, Any] = {"score": key, "label": label}
        for way in ("tuned", "scratch"):
            known = frame[frame[key].notna() & frame[way].notna()] if way in frame else frame[:0]
            row[way] = (
                rank_correlation(known[key].to_numpy(float), known[way].to_numpy(float))
                if len(known)
                else float("nan")
            )
        rows.append(row)
    return pd.DataFrame(rows)


def verdict_table(frame: pd.DataFrame) -> pd.DataFrame:
    """How often each grade's verdict is right: one row per grade and verdict."""
    rows = []
    for key, label in OURS.items():
        for verdict in ("used", "unused", "undecided"):
            part = frame[frame[f"{key}_verdict"] == verdict]
            right = part["used"] if verdict == "used" else ~part["used"]
            rows.append(
                {
                    "grade": label,
                    "verdict": verdict,
                    "stages": len(part),
                    "share": len(part) / len(frame),
                    "right": float(right.mean())
                    if verdict != "undecided" and len(part)
                    else float("nan"),
                }
            )
    return pd.DataFrame(rows)
