"""The study's tables: ours beside the paper's, as data frames and as Markdown."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from studies.sand.costs import PAPER, NetworkCost
from studies.sand.metrics import Metrics

if TYPE_CHECKING:
    from weightscope.analysis import Analysis

NAMES: Mapping[str, str] = {
    "unet": "U-net",
    "half_unet": "Half U-net",
    "multiresunet": "MultiResUNet",
    "half_multiresunet": "Half MultiResUNet",
    "quarter_multiresunet": "Quarter MultiResUNet",
}

PAPER_AVERAGES: Mapping[str, Metrics] = {
    name: Metrics(*values, *[float("nan")] * 3)
    for name, values in {
        "U-net": (0.0174, 0.3556, 0.0328, 0.0173, 0.0306, 0.0162),
        "Half U-net": (0.0272, 0.5478, 0.0517, 0.0270, 0.0475, 0.0249),
        "MultiResUNet": (0.0466, 0.9235, 0.0834, 0.0462, 0.0781, 0.0433),
        "Half MultiResUNet": (0.2778, 0.9437, 0.4279, 0.2728, 0.4032, 0.2570),
        "Quarter MultiResUNet": (0.1575, 0.9637, 0.2685, 0.1563, 0.2584, 0.1505),
    }.items()
}
"""The averages over five folds that the paper prints in tables 1-3."""


@dataclass(frozen=True)
class Result:
    """How well one network did on the test tiles of one fold.

    Attributes:
        label: Name of the network as the tables print it.
        fold: Which fold was for test.
        metrics: On its test tiles.
        parameters: Number of parameters at the preset's width.
        macs: Multiply-accumulates for one tile.
        epochs: Epochs of training, fine-tuning only for a truncated network.
        device: ``cpu``, or the graphics card on which it was trained.
        processor_seconds: Processor time of that training.
        outcomes: Hits, false alarms and misses in each test photograph, in pixels, at the
            threshold that was best on the validation tiles.
    """

    label: str
    fold: int
    metrics: Metrics
    parameters: int
    macs: int
    epochs: int
    device: str
    processor_seconds: float
    outcomes: Mapping[int, tuple[int, int, int]]


def results_frame(results: Iterable[Result]) -> pd.DataFrame:
    """One row per network and fold, with every figure."""
    rows = [
        {
            "network": result.label,
            "fold": result.fold,
            **vars(result.metrics),
            "useful": result.metrics.useful,
            "parameters": result.parameters,
            "macs": result.macs,
            "epochs": result.epochs,
            "device": result.device,
            "processor_seconds": result.processor_seconds,
        }
        for result in results
    ]
    return pd.DataFrame(rows)


def quality_table(results: pd.DataFrame, columns: Mapping[str, str]) -> pd.DataFrame:
    """Tables 1-3: some figures of every network, in every case and on average, beside the paper's.

    Args:
        results: What ``results_frame`` returned.
        columns: Fields of ``Metrics`` to show, with their headings.
    """
    cases = sorted(set(results["fold"]))
    rows = []
    for label, group in results.groupby("network", sort=False):
        row: dict[str, str] = {"network": str(label)}
        by_case = group.set_index("fold")
        for field, heading in columns.items():
            for case in cases if len(cases) > 1 else ():
                value = by_case[field].get(case)
                row[f"{heading}, case {case + 1}"] = "" if value is None else f"{value:.4f}"
            spread = f" ({group[field].std():.4f})" if len(group) > 1 else ""
            row[heading] = f"{group[field].mean():.4f}{spread}"
        paper = PAPER_AVERAGES.get(str(label))
        for field, heading in columns.items():
            row[f"{heading}, paper"] = "" if paper is None else f"{getattr(paper, field):.4f}"
        rows.append(row)
    return pd.DataFrame(rows).fillna("")


def cost_table(costs: Iterable[NetworkCost]) -> pd.DataFrame:
    """Table 4: parameters and FLOPs at full width beside the paper's, and plain MACs."""
    rows = []
    for cost in costs:
        paper = PAPER[cost.name]
        rows.append(
            {
                "network": NAMES[cost.name],
                "parameters": f"{cost.parameters:,}",
                "paper": f"{paper.parameters:.4f} M",
                "off by": _off(cost.parameters / 1e6, paper.parameters, 1e-4),
                "FLOPs, paper's convention": f"{cost.paper_flops / 1e9:.1f} B",
                "paper ": f"{paper.flops} B",
                "off by ": _off(cost.paper_flops / 1e9, paper.flops, 0.1),
                "MACs": f"{cost.macs:,}",
                "MACs by fvcore": f"{cost.fvcore_macs:,}",
            }
        )
    return pd.DataFrame(rows)


def _off(ours: float, printed: float, digit: float) -> str:
    """How far a figure is from a printed one; the print may be rounded or cut."""
    if abs(ours - printed) < digit:
        return "exact"
    return f"{ours / printed - 1:+.1%}"


def evidence_table(analysis: Analysis) -> pd.DataFrame:
    """Each stage's verdict by each grade of evidence, from input to output."""
    verdicts = {verdict.stage: verdict for verdict in analysis.assessment.verdicts}
    rows = []
    for stage in analysis.structure.stages:
        row = {"stage": stage.name, "level": str(stage.level)}
        scores = {score.grade: score for score in verdicts[stage.name].scores}
        for grade in ("weights", "history", "data"):
            if grade in scores:
                score = scores[grade]
                figure = (
                    "" if score.utilization != score.utilization else f"{score.utilization:.2f} "
                )
                row[grade] = f"{figure}{score.verdict}"
        row["verdict"] = verdicts[stage.name].verdict
        rows.append(row)
    return pd.DataFrame(rows).fillna("")


def proposal_table(analysis: Analysis) -> pd.DataFrame:
    """Every depth at which the network can be cut: costs, and F1 lost before any training.

    ``F1 lost`` is what ablation measured on the validation tiles (everything below the cut
    replaced by its mean), with its bootstrap interval.
    """
    ablation = None if analysis.data is None else analysis.data.ablation
    lost = {} if ablation is None else {level.keep_levels: level for level in ablation.levels}
    rows = []
    for proposal in sorted(analysis.proposals, key=lambda p: p.keep_levels):
        row = {"levels kept": str(proposal.keep_levels)}
        if proposal.keep_levels in lost:
            level = lost[proposal.keep_levels]
            row["F1 lost"] = f"{level.drop:+.3f} ({level.low:+.3f} to {level.high:+.3f})"
        if proposal.refusal is None:
            row["parameters"] = f"{proposal.parameters / analysis.costs.parameters:.1%}"
            row["MACs"] = f"{proposal.macs / analysis.costs.macs:.1%}"
            sides = ["all" if side is None else str(side) for side in proposal.receptive_field]
            row["receptive field"] = " x ".join(sides)
        row["evidence"] = proposal.refusal or proposal.evidence
        rows.append(row)
    columns = ["levels kept", "parameters", "MACs", "receptive field", "F1 lost", "evidence"]
    return pd.DataFrame(rows, columns=columns).fillna("")


def markdown(frame: pd.DataFrame, texts: Collection[str] = ()) -> str:
    """Write a frame as a Markdown table; the first column and ``texts`` are aligned left."""
    columns = [str(column) for column in frame.columns]
    sides = [":--" if column in (columns[0], *texts) else "--:" for column in columns]
    lines = [
        "| " + " | ".join(column.strip() for column in columns) + " |",
        "| " + " | ".join(sides) + " |",
    ]
    for row in frame.itertuples(index=False):
        cells = [str(cell).replace("|", "\\|").replace("\n", " ") for cell in row]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
