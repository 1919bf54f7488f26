"""Pictures of the frames. Each function draws on an Axes and returns it; none shows or saves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator

from weightscope.arguments import Rule, checked, whole
from weightscope.errors import UnknownLayerError, keyword
from weightscope.report.densities import densities, extent, with_null
from weightscope.showing import counted

if TYPE_CHECKING:
    from numpy.typing import NDArray

T = TypeVar("T")
_COLORS = sns.color_palette("colorblind")
ROLE_COLORS = {
    "encoder": _COLORS[0],
    "bottleneck": _COLORS[3],
    "decoder": _COLORS[2],
    "skip": _COLORS[1],
    "head": _COLORS[4],
    "": _COLORS[7],
}
# Verdicts differ in shape as well as in colour, so that they survive a grey print.
VERDICT_STYLES = {
    "used": (_COLORS[0], "o"),
    "undecided": (_COLORS[7], "s"),
    "unused": (_COLORS[3], "X"),
}
NULL_COLOR = "0.15"
_DASHED = (0, (3, 2))
_LONGEST_NAME = 44
_MOST_LISTED = 4


def _frame(takes: str, columns: str, rows: int = 0) -> Rule:
    """Frames with some columns, and not None."""

    def fits(value: Any) -> bool:
        known = isinstance(value, pd.DataFrame) and set(columns.split()) <= set(value.columns)
        return known and len(value) >= rows

    return Rule(fits, takes, optional=False)


_AX = Rule(lambda value: isinstance(value, Axes), "one Axes of matplotlib")
_HISTOGRAMS = _frame("Analysis.histograms", "layer bin_left bin_right count null_count")
_LAYERS = _frame("Analysis.layers", "layer stage std_initial spread_ratio")
_STAGES = _frame("Analysis.stages", "stage verdict utilization utilization_low utilization_high")
_PROPOSALS = _frame(
    "weightscope.frames.proposals_frame(analysis.proposals, analysis.costs)",
    "keep_levels refusal parameters_share macs_share",
)
_SEARCH = _frame(
    "Search.frame, a row for each network",
    "keep_levels thinned macs cut quality unit random pareto chosen",
    rows=1,
)
_DROPS = _frame("what weightscope.ablate returned", "keep_levels drop low high")


@checked(histograms=_HISTOGRAMS, layers=_LAYERS, ax=_AX)
def plot_layer_histograms(
    histograms: pd.DataFrame,
    layers: pd.DataFrame,
    *,
    relative: bool = False,
    ax: Axes | None = None,
) -> Axes:
    """Weight histograms of all layers, one above the other in forward order, with their nulls.

    The filled shape is the layer, the dark line its distribution before training. Each row has its
    own height (the higher of the two fills the row); the horizontal axis is shared, and ends at
    three times the median row's width. Layers
    that start as constants (norm scales) are left out where others do not.

    Args:
        histograms: `Analysis.histograms`.
        layers: `Analysis.layers`, for the stage (colour) and the initial std.
        relative: Measure weights in units of the layer's initial standard deviation, so that every
            null has the same width and a departure from it shows at any depth.
        ax: Where to draw; a new figure by default.

    Returns:
        The axes.

    Raises:
        InputError: An argument is of a wrong kind.
    """
    names = with_null(histograms, layers)
    ax = _axes(ax, 8.0, 1.4 + 0.24 * len(names))
    stages = _column(layers, "stage", str)
    units = _column(layers, "std_initial", float) if relative else dict.fromkeys(names, 1.0)
    extents = []
    for row, name in enumerate(names):
        edges, density, null = densities(histograms[histograms["layer"] == name])
        edges = edges / units[name]
        peak = max(density.max(initial=0.0), np.nan_to_num(null).max(initial=0.0)) or 1.0
        base = len(names) - 1 - row
        color = ROLE_COLORS[_role(stages[name])]
        ax.stairs(
            base + 0.92 * density / peak, edges, baseline=base, fill=True, color=color, alpha=0.75
        )
        outline = base + 0.92 * _without_tails(null) / peak
        ax.stairs(outline, edges, baseline=base, color=NULL_COLOR, linewidth=0.9)
        extents.append(max(extent(edges, density), extent(edges, null)))
    # A wide head of a few weights must not squeeze all other rows.
    limit = min(max(extents), 3 * float(np.median(extents))) if any(extents) else 1.0
    ax.set(xlim=(-limit, limit), ylim=(-0.1, len(names)))
    ax.set_yticks(
        np.arange(len(names))[::-1],
        [_label(name, stages[name]) for name in names],
        fontsize=8,
        va="bottom",
        parse_math=False,
    )
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="y", linewidth=0.4, color="0.85")
    ax.set_axisbelow(True)
    ax.set_xlabel("weight / initial standard deviation" if relative else "weight")
    roles = dict.fromkeys(_role(stages[name]) for name in names)
    handles: list[Artist] = [
        Patch(color=ROLE_COLORS[role], alpha=0.75, label=role or "no stage") for role in roles
    ]
    handles.append(Line2D([], [], color=NULL_COLOR, linewidth=0.9, label="before training"))
    _legend_above(ax, handles)
    sns.despine(ax=ax, left=True)
    return ax


@checked(histograms=_HISTOGRAMS, layers=_LAYERS, ax=_AX)
def plot_stage_histograms(
    histograms: pd.DataFrame,
    layers: pd.DataFrame,
    stage: str,
    *,
    ax: Axes | None = None,
) -> Axes:
    """Weight histograms of one stage's layers over each other, each with its null dashed.

    Args:
        histograms: `Analysis.histograms`.
        layers: `Analysis.layers`.
        stage: Name of the stage.
        ax: Where to draw; a new figure by default.

    Returns:
        The axes; the vertical axis is the density of weights.

    Raises:
        InputError: An argument is of a wrong kind.
        UnknownLayerError: No layer of a stage of this name has a histogram.
    """
    here = histograms[histograms["layer"].isin(layers.loc[layers["stage"] == stage, "layer"])]
    if here.empty:
        drawn = layers.loc[layers["layer"].isin(histograms["layer"]), "stage"]
        raise UnknownLayerError(
            f"{keyword('stage', repr(stage))} has no layer with a histogram; there are those of "
            f"{', '.join(s for s in dict.fromkeys(drawn) if s)}"
        )
    ax = _axes(ax, 4.5, 3.2)
    names = with_null(here, layers)
    colors = sns.color_palette("viridis", n_colors=max(len(names), 2))
    extents, highest = [], 0.0
    for name, color in zip(names, colors, strict=False):
        edges, density, null = densities(here[here["layer"] == name])
        ax.stairs(density, edges, color=color, linewidth=1.3)
        outline = _without_tails(null)
        ax.stairs(outline, edges, color=color, linewidth=0.9, linestyle=_DASHED)
        extents.append(max(extent(edges, density), extent(edges, null)))
        highest = max(highest, np.nanmax(density), np.nan_to_num(null).max())
    limit = max(extents, default=0.0) or 1.0
    ax.set(xlim=(-limit, limit), xlabel="weight", ylabel="density")
    ax.set_title(stage, parse_math=False)
    listed = names if len(names) <= _MOST_LISTED else []
    # Room above the curves for what tells the layers apart.
    ax.set_ylim(0, (highest or 1.0) * (1.18 + 0.1 * max(len(listed) - 1, 0)))
    if listed:
        _legend_of_names(ax, listed, colors)
    elif names:
        note = f"{counted(len(names), 'layer')}, first dark, last light"
        ax.text(0.99, 0.99, note, transform=ax.transAxes, ha="right", va="top", fontsize=7)
    ax.xaxis.set_major_locator(MaxNLocator(5, symmetric=True))
    sns.despine(ax=ax)
    return ax


@checked(histograms=_HISTOGRAMS, layers=_LAYERS, columns=whole(1))
def plot_overlaid_histograms(
    histograms: pd.DataFrame, layers: pd.DataFrame, *, columns: int = 3
) -> Figure:
    """`plot_stage_histograms` of every stage, in forward order, on one figure.

    Args:
        histograms: `Analysis.histograms`.
        layers: `Analysis.layers`.
        columns: Panels in a row.

    Returns:
        A figure with one panel for each stage that has a kernel.

    Raises:
        InputError: An argument is of a wrong kind.
    """
    drawn = set(with_null(histograms, layers))
    stages = [s for s in dict.fromkeys(layers.loc[layers["layer"].isin(drawn), "stage"]) if s]
    rows = max(1, -(-len(stages) // columns))
    figure = Figure(figsize=(3.2 * columns, 2.5 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for index, panel in enumerate(grid.flat):
        if index < len(stages):
            plot_stage_histograms(histograms, layers, stages[index], ax=panel)
            panel.set_ylabel("density" if index % columns == 0 else "")
            panel.set_xlabel("weight" if index + columns >= len(stages) else "")
        else:
            panel.remove()
    handles = [
        Line2D([], [], color="0.3", linewidth=1.3, label="weights"),
        Line2D([], [], color="0.3", linewidth=0.9, linestyle=_DASHED, label="before training"),
    ]
    figure.legend(handles=handles, loc="outside upper right", ncols=2, frameon=False, fontsize=8)
    return figure


@checked(stages=_STAGES, ax=_AX)
def plot_utilization(stages: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Utilization of each stage with its interval, the least used on top.

    Args:
        stages: `Analysis.stages`.
        ax: Where to draw; a new figure by default.

    Returns:
        The axes; a mark's shape and colour tell the verdict.

    Raises:
        InputError: An argument is of a wrong kind.
    """
    ax = _axes(ax, 7.0, 1.2 + 0.32 * len(stages))
    for place, row in enumerate(stages.to_dict("records")):
        color, marker = VERDICT_STYLES[row["verdict"]]
        ax.plot(
            [row["utilization_low"], row["utilization_high"]],
            [place, place],
            color=color,
            linewidth=2.5,
            alpha=0.5,
            solid_capstyle="butt",
        )
        ax.plot(row["utilization"], place, marker=marker, color=color, markersize=8)
        if row["utilization"] != row["utilization"]:
            ax.text(0.01, place, "not measurable", va="center", fontsize=8, color="0.4")
    ax.set_yticks(range(len(stages)), list(stages["stage"]), parse_math=False)
    ax.set(xlim=(-0.03, 1.03), ylim=(len(stages) - 0.4, -0.6), xlabel="utilization")
    ax.grid(axis="x", linewidth=0.4, color="0.85")
    handles = [
        Line2D([], [], color=color, marker=marker, linewidth=2.5, label=verdict)
        for verdict, (color, marker) in VERDICT_STYLES.items()
    ]
    _legend_above(ax, handles)
    sns.despine(ax=ax, left=True)
    ax.tick_params(axis="y", length=0)
    return ax


@checked(layers=_LAYERS, ax=_AX)
def plot_spread_ratio(layers: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Spread of each kernel over its initial spread, along the forward pass.

    Args:
        layers: `Analysis.layers`.
        ax: Where to draw; a new figure by default.

    Returns:
        The axes; the line at 1 is a layer as wide as before training. Logarithmic.

    Raises:
        InputError: An argument is of a wrong kind.
    """
    kernels = layers[layers["spread_ratio"] > 0].reset_index(drop=True)
    ax = _axes(ax, 8.0, 3.6)
    ax.axhline(1.0, color=NULL_COLOR, linewidth=0.9)
    stages = list(kernels["stage"])
    starts = [i for i, stage in enumerate(stages) if i == 0 or stage != stages[i - 1]]
    for index, start in enumerate(starts):
        end = starts[index + 1] if index + 1 < len(starts) else len(stages)
        if index % 2:
            ax.axvspan(start - 0.5, end - 0.5, color="0.95", zorder=0)
    for role, group in kernels.groupby(kernels["stage"].map(_role), sort=False):
        ax.plot(
            group.index,
            group["spread_ratio"],
            linestyle="none",
            marker="o",
            markersize=5,
            color=ROLE_COLORS[str(role)],
        )
    middles = [
        (start + (starts[i + 1] if i + 1 < len(starts) else len(stages)) - 1) / 2
        for i, start in enumerate(starts)
    ]
    ax.set_yscale("log")
    _decimal_log_axis(ax, kernels["spread_ratio"].to_numpy())
    slanted = len(starts) > 5
    ax.set_xticks(
        _spaced(middles, (0.027 if slanted else 0.12) * len(stages), len(stages) - 1),
        [stages[start] or "no stage" for start in starts],
        rotation=60 if slanted else 0,
        ha="right" if slanted else "center",
        rotation_mode="anchor",
        fontsize=8,
        parse_math=False,
    )
    ax.set(xlim=(-0.5, max(len(stages), 1) - 0.5), ylabel="std / initial std")
    ax.tick_params(axis="x", length=0)
    sns.despine(ax=ax)
    return ax


@checked(proposals=_PROPOSALS, ax=_AX)
def plot_proposals(proposals: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """What each smaller network keeps of the parameters and of the MACs.

    Args:
        proposals: ``weightscope.frames.proposals_frame(analysis.proposals, analysis.costs)``;
            refused depths are left out.
        ax: Where to draw; a new figure by default.

    Returns:
        The axes, shallowest network on top; shares of the whole network's figures.

    Raises:
        InputError: An argument is of a wrong kind.
    """
    legal = proposals[proposals["refusal"] == ""].sort_values("keep_levels")
    ax = _axes(ax, 7.0, 1.3 + 0.55 * len(legal))
    places = np.arange(len(legal))
    for shift, column, color in (
        (-0.19, "parameters_share", _COLORS[0]),
        (0.19, "macs_share", _COLORS[1]),
    ):
        bars = ax.barh(places + shift, legal[column], height=0.34, color=color)
        texts = [f"{100 * value:.3g} %" for value in legal[column]]
        ax.bar_label(bars, labels=texts, padding=3, fontsize=8)
    ax.set_yticks(places, [_kept(levels) for levels in legal["keep_levels"]])
    highest = float(legal[["parameters_share", "macs_share"]].to_numpy().max(initial=1.0))
    ax.set(xlim=(0, 1.12 * highest), ylim=(len(legal) - 0.4, -0.6))
    ax.set_xlabel("share of the whole network")
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f} %"))
    handles = [Patch(color=_COLORS[0], label="parameters"), Patch(color=_COLORS[1], label="MACs")]
    _legend_above(ax, handles)
    sns.despine(ax=ax, left=True)
    ax.tick_params(axis="y", length=0)
    return ax


@checked(frame=_SEARCH, ax=_AX)
def plot_search(frame: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Quality over cost of every network that a search measured.

    Args:
        frame: `Search.frame`.
        ax: Where to draw; a new figure by default.

    Returns:
        The axes: MACs as a share of the whole network's, quality after recovery (filled) and just
        cut or thinned (hollow), each with the number of levels that it keeps; squares: thinner;
        crosses: random channels removed instead, at the same MACs; a line joins what no other
        network beats. What was refused is named below.

    Raises:
        InputError: An argument is of a wrong kind.
    """
    whole, built = frame.iloc[0], frame[frame["quality"].notna()]
    ax = _axes(ax, 6.0, 4.0)
    share = built["macs"] / max(1, whole["macs"])
    front = built[built["pareto"]].sort_values("macs")
    ax.plot(front["macs"] / max(1, whole["macs"]), front["quality"], color="0.6", linewidth=1)
    for number, (at, row) in enumerate(zip(share, built.to_dict("records"), strict=True)):
        itself, marker = number == 0, "s" if row["thinned"] else "o"
        color = _COLORS[2] if row["chosen"] else _COLORS[0]
        if row["cut"] < row["quality"]:
            ax.plot([at, at], [row["cut"], row["quality"]], color=color, linewidth=1, alpha=0.4)
        ax.plot(at, row["cut"], marker, markersize=7, color=color, markerfacecolor="white")
        if not itself:
            ax.plot(at, row["random"], "x", markersize=7, color=NULL_COLOR)
        ax.plot(at, row["quality"], marker, markersize=7, color=color)
        ax.annotate(
            str(row["keep_levels"]),
            (at, row["quality"] if itself else min(row["cut"], row["quality"])),
            # the cut that removes least lies close by the whole network, whose label goes above
            xytext=(0, 7 if itself else -15),
            textcoords="offset points",
            ha="center",
            fontsize=8,
        )
    ax.axhline(whole["quality"], color=NULL_COLOR, linewidth=0.8, linestyle=_DASHED)
    ax.margins(0.1, 0.15)
    ax.set(xlabel="share of the whole network's MACs; numbers: levels kept")
    unit = whole["unit"]
    skill = unit.startswith("share")  # the quality itself is in its own unit
    ax.set_ylabel(f"quality; lost: {unit}" if skill else f"quality ({unit})")
    ax.set_xlim(left=0)
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f} %"))
    refused = frame[frame["quality"].isna()].to_dict("records")
    if refused:
        names = [f"{r['keep_levels']}{', thinner' if r['thinned'] else ''}" for r in refused]
        ax.text(
            0.02, 0.02, "\n".join(["refused:", *names]), transform=ax.transAxes, fontsize=8,
            color="0.4",
        )  # fmt: skip
    blue, green = _COLORS[0], _COLORS[2]
    rows = built.iloc[1:]
    styles = [
        ("o", "recovered", blue, blue, True),
        ("s", "thinner", blue, blue, rows["thinned"].any()),
        ("o", "before recovery", blue, "white", True),
        ("o", "chosen", green, green, rows["chosen"].any()),
        ("x", "random channels", NULL_COLOR, NULL_COLOR, rows["random"].notna().any()),
    ]
    _legend_above(
        ax,
        [
            Line2D(
                [], [], marker=marker, linestyle="", color=color, label=label, markerfacecolor=face
            )
            for marker, label, color, face, there in styles
            if there
        ],
    )
    sns.despine(ax=ax)
    return ax


@checked(drops=_DROPS, ax=_AX)
def plot_ablation(drops: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Quality lost when everything below a level is replaced by its mean, with its interval.

    Args:
        drops: What `weightscope.ablate` returned: keep_levels, drop, low, high.
        ax: Where to draw; a new figure by default.

    Returns:
        The axes; an interval that holds 0 is drawn hollow: nothing was measurably lost.

    Raises:
        InputError: An argument is of a wrong kind.
    """
    ax = _axes(ax, 7.0, 1.2 + 0.4 * len(drops))
    ax.axvline(0.0, color=NULL_COLOR, linewidth=0.9)
    color = _COLORS[0]
    for place, row in enumerate(drops.to_dict("records")):
        ax.plot([row["low"], row["high"]], [place, place], color=color, linewidth=2.5, alpha=0.5)
        fill = "white" if row["low"] <= 0 <= row["high"] else color
        ax.plot(row["drop"], place, "o", markersize=8, color=color, markerfacecolor=fill)
    ax.set_yticks(range(len(drops)), [_kept(levels) for levels in drops["keep_levels"]])
    ax.set(ylim=(len(drops) - 0.4, -0.6), xlabel="quality lost")
    ax.grid(axis="x", linewidth=0.4, color="0.85")
    sns.despine(ax=ax, left=True)
    ax.tick_params(axis="y", length=0)
    return ax


def _kept(levels: int) -> str:
    return f"{levels} level{'s' if levels != 1 else ''} kept"


def _axes(ax: Axes | None, width: float, height: float) -> Axes:
    """The given axes, or those of a new figure that no global state knows of."""
    if ax is not None:
        return ax
    return Figure(figsize=(width, height), layout="constrained").subplots()


def _column(layers: pd.DataFrame, name: str, convert: Callable[[Any], T]) -> dict[str, T]:
    """One column of the layers by layer name."""
    return {
        str(layer): convert(value)
        for layer, value in zip(layers["layer"], layers[name], strict=True)
    }


def _spaced(places: Sequence[float], gap: float, end: float) -> list[float]:
    """Ascending places moved as little as needed to lie at least a gap apart and before the end."""
    spaced: list[float] = []
    for place in places:
        spaced.append(max(place, spaced[-1] + gap) if spaced else place)
    for index in range(len(spaced) - 1, -1, -1):
        limit = spaced[index + 1] - gap if index + 1 < len(spaced) else end
        spaced[index] = min(spaced[index], limit)
    return spaced


def _without_tails(density: NDArray[np.float64]) -> NDArray[np.float64]:
    """The density without its empty stretches, so that no line runs along the axis."""
    return np.where(density > 0, density, np.nan)


def _role(stage: str) -> str:
    role = stage.split(" ")[0]
    return role if role in ROLE_COLORS else ""


def _short(name: str, longest: int = _LONGEST_NAME) -> str:
    """A long name keeps its start, which tells the place, and its end, which tells the layer."""
    if len(name) <= longest:
        return name
    tail = longest // 2
    return name[: longest - tail - 1] + "…" + name[-tail:]


def _label(name: str, stage: str) -> str:
    return f"{_short(name)}  ({stage})" if stage else _short(name)


def _legend_above(ax: Axes, handles: Sequence[Artist]) -> None:
    ax.legend(
        handles=list(handles),
        loc="lower right",
        bbox_to_anchor=(1.0, 1.0),
        ncols=len(handles),
        frameon=False,
        fontsize=8,
        handlelength=1.4,
        columnspacing=1.2,
    )


def _legend_of_names(ax: Axes, names: Sequence[str], colors: Sequence[Any]) -> None:
    """A legend that shows any name as it is: matplotlib hides ``_name`` and typesets ``$name$``."""
    handles = [
        Line2D([], [], color=color, linewidth=1.3) for _, color in zip(names, colors, strict=False)
    ]
    legend = ax.legend(handles, ["name"] * len(names), fontsize=7, frameon=False, loc="upper right")
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set_parse_math(False)
        text.set_text(_short(name, 30))


def _decimal_log_axis(ax: Axes, values: NDArray[np.float64]) -> None:
    """Ticks in plain figures, finer where the values span little."""
    low, high = min(values.min(initial=1.0), 0.8), max(values.max(initial=1.0), 1.25)
    ax.set_ylim(low / 1.1, high * 1.1)
    decades = range(int(np.floor(np.log10(low))) - 1, int(np.ceil(np.log10(high))) + 1)
    steps: tuple[float, ...] = (1, 2, 5) if high / low < 100 else (1,)
    if high / low < 5:
        steps = (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 9)
    ax.yaxis.set_major_locator(FixedLocator([m * 10.0**d for d in decades for m in steps]))
    ax.yaxis.set_minor_locator(FixedLocator([]))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


__all__ = [
    "plot_ablation",
    "plot_layer_histograms",
    "plot_overlaid_histograms",
    "plot_proposals",
    "plot_search",
    "plot_spread_ratio",
    "plot_stage_histograms",
    "plot_utilization",
]
