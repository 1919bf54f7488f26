"""What `print(analysis)` shows: plain text of at most 100 columns."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from weightscope.frames import proposals_frame, stages_frame
from weightscope.receptive_field import unknown_operators
from weightscope.showing import counted, share
from weightscope.utilization.records import RANKING

if TYPE_CHECKING:
    import pandas as pd

    from weightscope.cost import Costs
    from weightscope.graph import Structure
    from weightscope.statistics import ModelStatistics
    from weightscope.truncation import Proposal
    from weightscope.utilization import Assessment

WIDTH = 100
_UNITS = ((10**12, "T"), (10**9, "G"), (10**6, "M"), (10**3, "k"))


def analysis_table(
    structure: Structure,
    statistics: ModelStatistics,
    costs: Costs,
    receptive_fields: Mapping[str, tuple[int | float | None, ...]],
    assessment: Assessment,
    proposals: Sequence[Proposal],
) -> str:
    """The whole analysis as text: size, verdict in words, ranked stages, smaller networks.

    Args:
        structure: The stages.
        statistics: What was analysed and what was skipped.
        costs: Parameters and MACs.
        receptive_fields: Receptive field of each stage in input pixels.
        assessment: Utilization, verdicts and conclusion.
        proposals: The depths, the one to try first on top.

    Returns:
        Lines of at most 100 characters, without a newline at the end.
    """
    stages = stages_frame(structure, costs, receptive_fields, assessment)
    blocks = [
        _headline(structure, costs),
        "\n".join(wrapped(f"Note: {note}.") for note in structure.notes),
        wrapped(" ".join((assessment.conclusion, *assessment.notes))),
        _stage_table(stages, costs),
        # Of a network without decided verdicts the conclusion has said why.
        _reasons(zip(stages["stage"], stages["why"], strict=True))
        if assessment.state == "trained"
        else "",
        _proposal_table(proposals_frame(proposals, costs)),
        _omissions(structure, statistics, costs),
    ]
    return printable("\n\n".join(block for block in blocks if block))


def checkpoint_table(name: str, statistics: ModelStatistics) -> str:
    """The tensors of a file of weights as text, in the order of the file.

    Args:
        name: What to call the file.
        statistics: What `weightscope.scan` returned.

    Returns:
        A headline, one line for each tensor, and what was skipped with the reason.
    """
    tensors = statistics.parameters
    total = sum(tensor.count for tensor in tensors)
    columns = {
        "tensor": [tensor.parameter for tensor in tensors],
        "shape": [" x ".join(map(str, tensor.shape)) or "scalar" for tensor in tensors],
        "numbers": [human(tensor.count) for tensor in tensors],
        "mean": [f"{tensor.summary.mean:.3g}" for tensor in tensors],
        "std": [f"{tensor.summary.std:.3g}" for tensor in tensors],
        "max |w|": [
            f"{max(abs(tensor.summary.minimum), abs(tensor.summary.maximum)):.3g}"
            for tensor in tensors
        ],
        "kurtosis": [f"{tensor.summary.kurtosis:.3g}" for tensor in tensors],
        "zeros": [share(tensor.summary.zero / max(tensor.count, 1)) for tensor in tensors],
    }
    notes = [(tensor.parameter, tensor.warning) for tensor in tensors]
    notes += [(skipped.name, f"skipped: {skipped.reason}") for skipped in statistics.skipped]
    blocks = [
        f"{in_one_line(name)}: {human(total)} numbers in {counted(len(tensors), 'tensor')}",
        aligned_columns(columns) if tensors else "",
        _reasons(notes),
    ]
    return printable("\n\n".join(block for block in blocks if block))


def printable(text: str) -> str:
    r"""Text in which control characters are spelled out, line breaks aside.

    Names in files and models are untrusted, and a terminal obeys escape sequences.

    Example:
        >>> printable("conv\x1b[2J")
        'conv\\x1b[2J'
    """
    return "\n".join(map(_spelled_out, text.split("\n")))


def _spelled_out(line: str) -> str:
    if line.isprintable():
        return line
    return "".join(
        char
        if char.isprintable()
        else char.encode("unicode_escape", "surrogatepass").decode("ascii")
        for char in line
    )


def in_one_line(text: str) -> str:
    r"""The same for a cell of a table: what breaks lines would make rows of its own.

    Example:
        >>> in_one_line("a\nb")
        'a\\nb'
    """
    return printable(text).replace("\n", "\\n")


def human(number: float | None, unit: str = "") -> str:
    """A number with four significant digits and a decimal prefix.

    Example:
        >>> human(21_977_665), human(329_656_303_616), human(512), human(None)
        ('21.98 M', '329.7 G', '512', '-')
    """
    if number is None or number != number:
        return "-"
    for size, prefix in _UNITS:
        if abs(number) >= 0.99995 * size:
            return f"{number / size:#.4g}".rstrip(".") + f" {prefix}{unit}"
    return f"{number:.4g}" + (f" {unit}" if unit else "")


def aligned_columns(columns: Mapping[str, Sequence[str]]) -> str:
    """Columns of text under their names, with a rule between.

    Args:
        columns: The cells of each column by its name, as many in each; names of blanks only are
            headers that show nothing. Words are aligned to the left, figures to the right.

    Returns:
        The table; trailing blanks removed.

    Example:
        >>> print(aligned_columns({"stage": ["encoder 0"], "MACs": ["12"]}))
        stage      MACs
        ---------------
        encoder 0    12
    """
    padded = []
    for name, given in columns.items():
        header, cells = name.strip(), [in_one_line(cell) for cell in given]
        width = max(len(header), *map(len, cells))
        words = all(cell[:1].isalpha() for cell in cells if cell)
        padded.append(
            [cell.ljust(width) if words else cell.rjust(width) for cell in [header, *cells]]
        )
    lines = ["  ".join(cells).rstrip() for cells in zip(*padded, strict=True)]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def wrapped(text: str, indent: str = "") -> str:
    """Text broken at 100 columns, its own paragraphs kept."""
    return "\n".join(
        textwrap.fill(paragraph, WIDTH, initial_indent=indent, subsequent_indent=indent)
        for paragraph in text.splitlines()
    )


def per_dimension(figure: Any, unit: str = "") -> str:
    """One figure, or one for each dimension; infinity is the whole, nan is not known.

    Example:
        >>> per_dimension(16.0), per_dimension((44, 60), "px"), per_dimension(math.inf, "px")
        ('16', '44 x 60 px', 'all')
    """
    if isinstance(figure, tuple):
        text = " x ".join(per_dimension(part) for part in figure)
    else:
        text = {math.inf: "all"}.get(figure, "?" if math.isnan(figure) else f"{figure:.4g}")
    return text if text in ("all", "?") or not unit else f"{text} {unit}"


def input_size(structure: Structure) -> str:
    """Sizes of the tensors that the network was called with, as text."""
    values = [*structure.inputs.args, *structure.inputs.kwargs.values()]
    shapes = [value.shape for value in values if hasattr(value, "shape") and value.shape]
    return ", ".join(" x ".join(str(n) for n in shape) for shape in shapes)


def _headline(structure: Structure, costs: Costs) -> str:
    layers = sum(len(stage.layers) for stage in structure.stages)
    guessed = " (size guessed)" if structure.inputs.guessed else ""
    return wrapped(
        f"{type(structure.model).__name__}: {human(costs.parameters)} parameters in"
        f" {counted(layers, 'layer')}, {counted(structure.depth, 'level')},"
        f" {human(costs.macs)} MACs at {input_size(structure)}{guessed}"
    )


def _stage_table(stages: pd.DataFrame, costs: Costs) -> str:
    rest = (
        costs.parameters - int(stages["parameters"].sum()),
        costs.macs - int(stages["macs"].sum()),
    )
    sums = [("elsewhere", *rest)] if any(rest) else []
    sums.append(("total", costs.parameters, costs.macs))
    blank = [""] * len(sums)
    parameters = [*stages["parameters"], *(row[1] for row in sums)]
    macs = [*stages["macs"], *(row[2] for row in sums)]
    bounds = stages[["utilization", "utilization_low", "utilization_high"]].itertuples(index=False)
    columns = {
        "stage": [*stages["stage"], *(row[0] for row in sums)],
        "reduction": [*map(per_dimension, stages["reduction"]), *blank],
        "parameters": [human(n) for n in parameters],
        "": [share(n / max(costs.parameters, 1)) for n in parameters],
        "MACs": [human(n) for n in macs],
        " ": [share(n / max(costs.macs, 1)) for n in macs],
        "sees": [*(per_dimension(n, "px") for n in stages["receptive_field"]), *blank],
        "utilization": [*(interval(*bound) for bound in bounds), *blank],
        "verdict": [*stages["verdict"], *blank],
    }
    grades = list(dict.fromkeys(stages["evidence"]))
    if len(grades) > 1:
        columns["evidence"] = [*stages["evidence"], *blank]
    title = "Stages, from the least to the most used"
    ranking = [grade for grade in RANKING if grade in grades]
    if ranking and len(grades) > len(ranking):
        ranks = {"history": "history ranks", "weights": "weights rank"}
        title += "".join(f", then those that only {ranks[grade]}" for grade in ranking)
    if stages["utilization"].isna().any():
        title += ", those not measured last"
    if len(grades) == 1:
        title += f" (evidence: {grades[0]})"
    # In three dimensions the figures grow long; the frame keeps what the terminal cannot hold.
    for surplus in ("reduction", " ", "sees"):
        table = aligned_columns(columns)
        if max(map(len, table.splitlines())) <= WIDTH:
            break
        del columns[surplus]
    return f"{wrapped(title)}\n\n{aligned_columns(columns)}"


def interval(value: float, low: float, high: float) -> str:
    """A utilization with its interval.

    Example:
        >>> interval(0.034, 0.0, 0.121), interval(float("nan"), 0.0, 1.0)
        ('0.03 (0.00-0.12)', '-')
    """
    if value != value:
        return "-"
    return f"{value:.2f}" if low != low or high != high else f"{value:.2f} ({low:.2f}-{high:.2f})"


def _reasons(pairs: Iterable[tuple[str, str]], verb: str = "") -> str:
    """Who: why, once for all that share a reason."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in pairs:
        if reason:
            by_reason.setdefault(reason, []).append(in_one_line(name))
    return "\n".join(
        textwrap.fill(f"{verb}{', '.join(names)}: {reason}", WIDTH, subsequent_indent="  ")
        for reason, names in by_reason.items()
    )


def _proposal_table(proposals: pd.DataFrame) -> str:
    if proposals.empty:
        return "No smaller network: there is no level below the first."
    depths = [str(levels) for levels in proposals["keep_levels"]]
    legal = proposals[proposals["refusal"] == ""]
    columns = {
        "levels kept": [str(levels) for levels in legal["keep_levels"]],
        "parameters": [human(n) for n in legal["parameters"]],
        "": [share(n) for n in legal["parameters_share"]],
        "MACs": [human(n) for n in legal["macs"]],
        " ": [share(n) for n in legal["macs_share"]],
        "activations": [human(n, "B") for n in legal["activation_bytes"]],
        "sees": [per_dimension(n, "px") for n in legal["receptive_field"]],
    }
    table = aligned_columns(columns) if len(legal) else ""
    shown = proposals["evidence"].where(proposals["refusal"] == "", "")
    evidence = _reasons(zip(depths, shown, strict=True), "levels kept ")
    refusals = _reasons(zip(depths, proposals["refusal"], strict=True), "levels kept ")
    return "\n\n".join(
        block
        for block in [
            _heading(legal["evidence"]) if table else "",
            table,
            evidence,
            "Refused\n" + refusals if refusals else "",
        ]
        if block
    )


def _heading(evidence: Iterable[str]) -> str:
    """Above the table of smaller networks."""
    if any(text.startswith("supported") for text in evidence):
        return "Smaller networks, the one to try first on top"
    return "Smaller networks, none of them supported"


def _omissions(structure: Structure, statistics: ModelStatistics, costs: Costs) -> str:
    lines = []
    if statistics.skipped:
        lines.append(
            f"Not analysed: {counted(len(statistics.skipped), 'parameter tensor')}"
            f" (coverage {100 * statistics.coverage:.2f} %); see analysis.skipped."
        )
    if structure.dead_parameters:
        dead = structure.dead_parameters
        lines.append(
            f"Never reached by a forward: {counted(len(dead), 'parameter tensor')}"
            f" ({dead[0]}{', ...' * (len(dead) > 1)})."
        )
    if costs.unsupported:
        names = ", ".join(f"{name} ({count})" for name, count in costs.unsupported.items())
        lines.append(f"Operators without a MAC rule, counted as 0: {names}.")
    unknown = unknown_operators(structure)
    if unknown:
        names = ", ".join(f"{name} ({count})" for name, count in unknown.items())
        lines.append(f"Operators whose receptive field is not known: {names}.")
    return "\n".join(wrapped(line) for line in lines)
