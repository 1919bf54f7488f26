"""The analysis as one page: a single file that needs no network and runs no foreign code."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import pandas as pd
from jinja2 import Environment, StrictUndefined
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from weightscope.files import written_atomically
from weightscope.frames import proposals_frame
from weightscope.printing import human, input_size, interval, per_dimension, share
from weightscope.receptive_field import unknown_operators
from weightscope.report import plots

if TYPE_CHECKING:
    from weightscope.analysis import Analysis
    from weightscope.utilization import Assessment

_LAYER_COLUMNS = {
    "layer": "layer",
    "kind": "kind",
    "stage": "stage",
    "shape": "shape",
    "parameters": "parameters",
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
_HEAVY = 150_000
_MOST_PIXELS = 65_000
_WORDS = {"layer", "kind", "stage", "shape", "warning"}
_SHARES = {"near_zero_1e-2", "near_zero_relative", "dead_filters"}


@dataclass(frozen=True)
class Cell:
    """One cell of a sortable table: what it shows and what it sorts by."""

    text: str
    key: float | str


@dataclass(frozen=True)
class Picture:
    """An image as a data URI, with the words for those who cannot see it."""

    source: str
    words: str


def write_html(analysis: Analysis, path: str | os.PathLike[str]) -> Path:
    """Write the analysis as one self-contained page.

    Args:
        analysis: What `weightscope.analyze` returned.
        path: The file; replaced atomically.

    Returns:
        The path of the page.

    Raises:
        InputError: The file cannot be written (missing folder, no permission, full disk).
    """
    page = render_html(analysis)
    with written_atomically(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return Path(path)


def render_html(analysis: Analysis) -> str:
    """The page as text.

    Every name that comes from the model is escaped, pictures are embedded as images (which run no
    scripts), and the page's own policy forbids any script but its one, by its hash, and any
    connection.

    Args:
        analysis: What `weightscope.analyze` returned.

    Returns:
        A complete HTML document.
    """
    here = files("weightscope.report")
    script = (here / "table.js").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters.update(
        human=human, share=share, per_dimension=per_dimension, percent=_percent
    )
    structure, costs, stages = analysis.structure, analysis.costs, analysis.stages
    proposals = proposals_frame(analysis.proposals, costs)
    met = {score.grade for verdict in analysis.assessment.verdicts for score in verdict.scores}
    grades = [grade for grade in ("data", "history", "weights") if grade in met]
    ablation = analysis.data.ablation if analysis.data else None
    return environment.from_string((here / "template.html").read_text(encoding="utf-8")).render(
        name=type(structure.model).__name__,
        size=input_size(structure),
        guessed=structure.inputs.guessed,
        depth=structure.depth,
        costs=costs,
        state=analysis.assessment.state,
        conclusion=analysis.conclusion,
        stages=[
            row
            | {
                "interval": interval(
                    row["utilization"], row["utilization_low"], row["utilization_high"]
                )
            }
            for row in stages.to_dict("records")
        ],
        outside=(
            costs.parameters - int(stages["parameters"].sum()),
            costs.macs - int(stages["macs"].sum()),
        ),
        proposals=proposals.to_dict("records"),
        grades=grades,
        scores=_scores_by_stage(analysis.assessment, grades),
        ablation=ablation,
        pictures=_pictures(analysis, proposals),
        columns=_LAYER_COLUMNS,
        words=_WORDS,
        layers=_layer_rows(analysis.layers),
        skipped=analysis.skipped,
        coverage=analysis.statistics.coverage,
        dead=structure.dead_parameters,
        unknown=unknown_operators(structure),
        versions=_versions(),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def _pictures(analysis: Analysis, proposals: pd.DataFrame) -> dict[str, Picture]:
    histograms, layers = analysis.histograms, analysis.layers
    drawn: dict[str, tuple[Axes | Figure, str]] = {
        "stacked": (
            plots.plot_layer_histograms(histograms, layers),
            "Histogram of each layer's weights in forward order, with the distribution it had "
            "before training. The figures are in the table of layers.",
        ),
        "relative": (
            plots.plot_layer_histograms(histograms, layers, relative=True),
            "The same histograms in units of each layer's initial standard deviation.",
        ),
        "overlaid": (
            plots.plot_overlaid_histograms(histograms, layers),
            "Histograms of the layers of each stage over each other.",
        ),
        "spread": (
            plots.plot_spread_ratio(layers),
            "Standard deviation of each kernel over its initial one, in forward order.",
        ),
    }
    if (proposals["refusal"] == "").any():
        drawn["proposals"] = (
            plots.plot_proposals(proposals),
            "Share of parameters and MACs that each smaller network keeps.",
        )
    if analysis.data and analysis.data.ablation:
        drops = pd.DataFrame([vars(level) for level in analysis.data.ablation.levels])
        drawn["ablation"] = (
            plots.plot_ablation(drops),
            "Quality lost when everything below a level is replaced by its mean.",
        )
    return {name: Picture(_data_uri(figure), words) for name, (figure, words) in drawn.items()}


def _data_uri(drawn: Axes | Figure) -> str:
    """The figure as SVG, or as PNG where many layers would make the SVG heavy.

    The same figure gives the same bytes.
    """
    figure = drawn if isinstance(drawn, Figure) else drawn.get_figure(root=True)
    assert figure is not None  # the axes were just drawn on it
    buffer = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "weightscope", "svg.fonttype": "path"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    kind = "svg+xml"
    if buffer.tell() > _HEAVY:
        dpi = min(120.0, _MOST_PIXELS / max(figure.get_size_inches()))
        buffer, kind = io.BytesIO(), "png"
        figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _layer_rows(layers: pd.DataFrame) -> list[list[Cell]]:
    return [
        [_cell(column, value) for column, value in row.items()]
        for row in layers[list(_LAYER_COLUMNS)].to_dict("records")
    ]


def _cell(column: Any, value: Any) -> Cell:
    if isinstance(value, tuple):
        text = " x ".join(map(str, value))
        return Cell(text, text)
    if isinstance(value, str):
        return Cell(value, value)
    number = float(value)
    if column in ("parameters", "macs"):
        return Cell(human(number), number)
    if number != number:
        return Cell("-", float("-inf"))
    return Cell(_percent(number) if column in _SHARES else f"{number:.3g}", number)


def _percent(part: float) -> str:
    return "-" if part != part else f"{100 * part:.3g} %"


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


def _versions() -> dict[str, str]:
    names = ("weightscope", "torch", "numpy", "pandas", "matplotlib")
    return {
        **{name: version(name) for name in names},
        "Python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
    }
