"""A file of weights as one page: every tensor with its figures and its distribution."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from weightscope.arguments import checked, having
from weightscope.frames import histograms_frame, parameters_frame
from weightscope.printing import human
from weightscope.report.drawings import draw_histograms
from weightscope.report.pages import Cell, figure, part, render, words

if TYPE_CHECKING:
    from weightscope.statistics import ModelStatistics, ParameterStatistics

_COLUMNS = {
    "tensor": "tensor",
    "shape": "shape",
    "format": "format",
    "numbers": "numbers",
    "mean": "mean",
    "std": "std",
    "largest": "largest |w|",
    "kurtosis": "kurtosis",
    "zeros": "zeros",
    "near_zero": "|w| ≤ 0.01",
    "note": "note",
}
_WORDS = {"tensor", "shape", "format", "note"}


@checked(statistics=having("coverage", "what weightscope.scan returned"))
def render_checkpoint(name: str, statistics: ModelStatistics) -> str:
    """The tensors of a file of weights as one self-contained page.

    Every name that comes from the file is escaped, and pictures are drawn from numbers alone.

    Args:
        name: What to call the file.
        statistics: What `weightscope.scan` returned.

    Returns:
        A complete HTML document.
    """
    tensors = statistics.parameters
    # A file does not say which tensors make a layer, so that each is drawn by its own name.
    drawn = replace(
        statistics,
        parameters=tuple(replace(t, layer=t.parameter) for t in tensors if len(t.shape) > 1),
    )
    return render(
        "checkpoint.html",
        name=name,
        numbers=sum(tensor.count for tensor in tensors),
        formats=sorted({tensor.dtype for tensor in tensors}),
        broken=statistics.nonfinite,
        histograms=draw_histograms(
            histograms_frame(None, drawn), parameters_frame(None, drawn), unit="std"
        ),
        spreads={tensor.parameter: tensor.summary.std for tensor in tensors},
        columns=_COLUMNS,
        words=_WORDS,
        tensors=[_row(tensor) for tensor in tensors],
        skipped=statistics.skipped,
    )


def _row(tensor: ParameterStatistics) -> list[Cell]:
    summary = tensor.summary
    alike = f"also {', '.join(tensor.shared_with)}" if tensor.shared_with else ""
    return [
        words(tensor.parameter),
        words(" x ".join(map(str, tensor.shape)) or "scalar"),
        words(tensor.dtype),
        Cell(human(tensor.count), tensor.count),
        figure(summary.mean),
        figure(summary.std),
        figure(max(abs(summary.minimum), abs(summary.maximum))),
        figure(summary.kurtosis),
        part(summary.zero / tensor.count if tensor.count else float("nan")),
        part(summary.near_zero[1e-2]),
        words("; ".join(filter(None, (tensor.warning, alike)))),
    ]
