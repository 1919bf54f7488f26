"""The analysis as one page: a single file that needs no network and runs no foreign code."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weightscope.arguments import checked, having
from weightscope.frames import proposals_frame
from weightscope.printing import human, input_size, interval
from weightscope.receptive_field import unknown_operators
from weightscope.report.drawings import Bar, bar, draw_histograms
from weightscope.report.pages import Cell, figure, part, render, words, write_page
from weightscope.report.reasons import reason_undecided, reason_unjudged
from weightscope.showing import outputs_at

if TYPE_CHECKING:
    import pandas as pd

    from weightscope.findings import Findings
    from weightscope.probing import Response
    from weightscope.probing.response import CutResponse
    from weightscope.utilization import Assessment, Importance
    from weightscope.utilization.ablated import AblationResult

_LAYER_COLUMNS = {
    "layer": "layer",
    "kind": "kind",
    "stage": "stage",
    "shape": "shape",
    "parameters": "parameters",
    "requires_grad": "trainable",
    "macs": "MACs",
    "std": "std",
    "spread_ratio": "std / initial",
    "near_zero_1e-2": "|w| ≤ 0.01",
    "near_zero_relative": "|w| ≤ 0.1 initial std",
    "kurtosis": "kurtosis",
    "dead_filters": "dead filters",
    "ks_initial": "KS to initial",
    "warning": "note",
}
_WORDS = {"layer", "kind", "stage", "shape", "requires_grad", "warning"}
_SHARES = {"near_zero_1e-2", "near_zero_relative", "dead_filters"}
_GRADES = ("data", "images", "response", "history", "weights")

_ANALYSIS = having("assessment", "what weightscope.analyze returned")


@checked(analysis=_ANALYSIS)
def write_html(analysis: Findings, path: str | os.PathLike[str]) -> Path:
    """Write the analysis as one self-contained page.

    Args:
        analysis: What `weightscope.analyze` returned.
        path: The file; replaced atomically.

    Returns:
        The path of the page.

    Raises:
        InputError: The file cannot be written (missing folder, no permission, full disk).
    """
    return write_page(render_html(analysis), path)


@checked(analysis=_ANALYSIS)
def render_html(analysis: Findings) -> str:
    """The page as text.

    Every name that comes from the model is escaped, and pictures are drawn from numbers alone.

    Args:
        analysis: What `weightscope.analyze` returned.

    Returns:
        A complete HTML document.
    """
    structure, costs, stages = analysis.structure, analysis.costs, analysis.stages
    assessment, data = analysis.assessment, analysis.data
    met = {score.grade for verdict in assessment.verdicts for score in verdict.scores}
    grades = [grade for grade in _GRADES if grade in met]
    return render(
        "analysis.html",
        name=type(structure.model).__name__,
        size=input_size(structure),
        guessed=structure.inputs.guessed,
        depth=structure.depth,
        costs=costs,
        state=assessment.state,
        conclusion=assessment.conclusion,
        notes=(*structure.notes, *assessment.notes),
        broken=analysis.statistics.nonfinite,
        stages=_stage_rows(stages, assessment),
        unjudged=reason_unjudged(assessment.state),
        outside=(
            costs.parameters - int(stages["parameters"].sum()),
            costs.macs - int(stages["macs"].sum()),
        ),
        proposals=_proposal_rows(proposals_frame(analysis.proposals, costs)),
        grades=grades,
        scores=_scores_by_stage(assessment, grades),
        responses=[
            _response_rows(response)
            for response in (analysis.images, analysis.response)
            if response is not None and response.cuts
        ],
        ablations=[
            _ablation_rows(one.ablation)
            for one in ((data, *data.beside) if data else ())
            if one.ablation
        ],
        importances=_importance_rows(data.importances) if data else [],
        histograms=draw_histograms(analysis.histograms, analysis.layers),
        columns=_LAYER_COLUMNS,
        words=_WORDS,
        layers=_layer_rows(analysis.layers),
        skipped=analysis.skipped,
        coverage=analysis.statistics.coverage,
        dead=structure.dead_parameters,
        unknown=unknown_operators(structure),
    )


_filled = partial(bar, origin=0.0)


def _stage_rows(stages: pd.DataFrame, assessment: Assessment) -> list[dict[str, Any]]:
    """Stages with their bar, and why what is undecided is so."""
    verdicts = {verdict.stage: verdict for verdict in assessment.verdicts}
    unjudged = reason_unjudged(assessment.state)
    return [
        {
            **{str(key): value for key, value in row.items()},
            "interval": interval(*_bounds(row)),
            "bar": bar(*_bounds(row)),
            "undecided": "" if unjudged else reason_undecided(verdicts[row["stage"]]),
        }
        for row in stages.to_dict("records")
    ]


def _bounds(row: Mapping[Any, Any]) -> tuple[float, float, float]:
    return row["utilization"], row["utilization_low"], row["utilization_high"]


def _proposal_rows(proposals: pd.DataFrame) -> list[dict[str, Any]]:
    """Proposals with bars of what they keep; some keep more than there was."""
    if proposals.empty:
        return []
    shares = proposals.reindex(columns=["parameters_share", "macs_share"]).to_numpy(dtype=float)
    end = max([1.0, *(number for number in shares.flat if math.isfinite(number))])
    kept = partial(_filled, end=end, lines=() if end == 1.0 else (1.0,))
    return [
        {
            **{str(key): value for key, value in row.items()},
            "parameters_bar": kept(*[row["parameters_share"]] * 3),
            "macs_bar": kept(*[row["macs_share"]] * 3),
        }
        for row in proposals.to_dict("records")
    ]


def _response_rows(response: Response) -> dict[str, Any]:
    """Response of every cut, on one scale with the borders of the verdict."""
    end = max([1.0, *(cut.high for cut in response.cuts)])
    first, besides = response.cuts[0].first_output, [_beside(cut) for cut in response.cuts]
    return {
        "source": response.source,
        "images": response.images,
        "first": outputs_at([first]) if first else "",
        "cuts": [
            (cut, _filled(cut.value, cut.low, cut.high, end=end, lines=cut.borders), beside)
            for cut, beside in zip(response.cuts, besides, strict=True)
        ],
        "beside": any(besides),
        "borders": response.cuts[0].borders,
    }


def _beside(cut: CutResponse) -> str:
    """What responds beside the whole of the first output: another output, or a part of it."""
    others = list(cut.outputs)[1:]
    place, most = cut.loudest([place for place in others if place not in cut.lost])
    told = [f"{outputs_at([place])} up to {most:.2g}"] if place else []
    told += [f"{outputs_at(cut.lost)} lost"] if cut.lost else []
    if cut.worst > 1.01 * cut.value:  # of two decisions both respond as the whole does
        of = "decision" if math.isfinite(cut.flips) else "channel"
        told.append(f"{of} {cut.worst_part} {cut.worst:.2g}")
    return "; ".join(told)


def _ablation_rows(ablation: AblationResult) -> dict[str, Any]:
    """Quality lost at every cut by one metric."""
    lost = [outputs_at(level.lost) for level in ablation.levels]
    return {
        "result": ablation,
        "unjudged": outputs_at(ablation.unjudged),
        "levels": list(zip(ablation.levels, _drop_bars(ablation.levels), lost, strict=True)),
    }


def _drop_bars(levels: Sequence[Any]) -> list[Bar | None]:
    """Quality lost at each cut, on one scale that holds 0."""
    ends = [0.0, *(n for level in levels for n in (level.low, level.high) if math.isfinite(n))]
    start, end = min(ends), max(ends)
    return [
        _filled(level.drop, level.low, level.high, start=start, end=end, lines=(0.0,))
        for level in levels
    ]


def _importance_rows(importances: Mapping[str, Importance]) -> list[dict[str, Any]]:
    """Taylor importance of every stage as a share of the largest, which is decided by its border.

    The largest stage's own interval may reach beyond the scale.
    """
    largest = max((importance.value for importance in importances.values()), default=0.0)
    if not largest > 0:
        return []
    return [
        {
            "stage": stage,
            "share": importance.value / largest,
            "bar": _filled(
                importance.value / largest,
                (importance.value - importance.margin) / largest,
                (importance.value + importance.margin) / largest,
            ),
        }
        for stage, importance in importances.items()
    ]


def _layer_rows(layers: pd.DataFrame) -> list[list[Cell]]:
    return [
        [_cell(column, value) for column, value in row.items()]
        for row in layers[list(_LAYER_COLUMNS)].to_dict("records")
    ]


def _cell(column: Any, value: Any) -> Cell:
    if column == "requires_grad":
        return words("yes" if value else "frozen")
    if isinstance(value, tuple):
        return words(" x ".join(map(str, value)))
    if isinstance(value, str):
        return words(value)
    number = float(value)
    if column in ("parameters", "macs"):
        return Cell(human(number), number)
    return part(number) if column in _SHARES else figure(number)


def _scores_by_stage(
    assessment: Assessment, grades: Sequence[str]
) -> dict[str, dict[str, dict[str, str]]]:
    """Score of each stage by grade; empty where there is but one grade and nothing to compare."""
    if len(grades) < 2:
        return {}
    return {
        verdict.stage: {
            score.grade: {
                "verdict": score.verdict,
                "interval": interval(score.utilization, score.low, score.high),
                "why": score.why,
            }
            for score in verdict.scores
        }
        for verdict in assessment.verdicts
    }
