"""The study's own pictures; histograms and verdicts are drawn by weightscope itself."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import seaborn as sns
import torch
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from scipy import ndimage
from torch import nn

from studies.sand.tiles import Photo, Tiles
from studies.sand.training import Epoch
from weightscope.files import written_atomically
from weightscope.report import plot_layer_histograms, plot_stage_histograms, plot_utilization

if TYPE_CHECKING:
    import pandas as pd

    from weightscope.analysis import Analysis

HIT, FALSE_ALARM, MISS, SAND = "#ffffff", "#e69f00", "#56b4e9", "#202020"


def save(figure: Figure, path: Path, dpi: int = 100) -> Path:
    """Write a figure as PNG, completely or not at all."""
    with written_atomically(path) as temporary:
        figure.savefig(temporary, format="png", dpi=dpi)
    return path


def scene_figure(photo: Photo, zoom: int = 96) -> Figure:
    """A photograph, and its part with the most plastic enlarged, with and without outlines."""
    image, mask = photo
    side = min(zoom, *mask.shape)
    density = ndimage.uniform_filter(mask.astype(np.float32), side, mode="constant")
    half = side // 2
    inner = density[half : mask.shape[0] - half, half : mask.shape[1] - half]
    top, left = np.unravel_index(int(inner.argmax()), inner.shape) if inner.size else (0, 0)
    window = slice(top, top + side), slice(left, left + side)
    figure = Figure(figsize=(12, 4.2), layout="constrained")
    whole, plain, marked = figure.subplots(1, 3)
    whole.imshow(image)
    whole.set_title(f"{mask.shape[1]} x {mask.shape[0]} px, {mask.mean():.1%} plastic")
    plain.imshow(image[window])
    plain.set_title(f"{side} x {side} px of it")
    marked.imshow(image[window])
    marked.contour(mask[window], levels=[0.5], colors="magenta", linewidths=1.2)
    marked.set_title("plastic outlined")
    for axes in (whole, plain, marked):
        axes.set_axis_off()
    return figure


def fullest(tiles: Tiles, indices: NDArray[np.int64], count: int) -> list[int]:
    """Return the tiles with the most separate particles, the most first."""
    particles = [ndimage.label(tiles.masks[index], np.ones((3, 3)))[1] for index in indices]
    order = np.argsort(particles, kind="stable")[::-1]
    return [int(index) for index in indices[order[:count]]]


def predictions_figure(
    models: Mapping[str, tuple[nn.Module, float]], tiles: Tiles, indices: Sequence[int]
) -> Figure:
    """Photo, truth and predictions side by side, in the manner of fig. 10.

    Args:
        models: Networks that return logits, with the threshold of each (a probability).
        tiles: Where images come from.
        indices: Which tiles to show, one in a row.
    """
    columns = len(models) + 2
    figure = Figure(figsize=(1.75 * columns, 1.85 * len(indices) + 0.7), layout="constrained")
    grid = figure.subplots(len(indices), columns, squeeze=False)
    images, masks = tiles.batch(np.asarray(indices))
    for row in range(len(indices)):
        truth = masks[row, 0].numpy() > 0.5
        grid[row, 0].imshow(images[row].permute(1, 2, 0).numpy())
        grid[row, 1].imshow(_coloured(truth, truth))
    for column, (model, threshold) in enumerate(models.values(), start=2):
        with torch.no_grad():
            found = torch.sigmoid(model(images))[:, 0].numpy() > threshold
        for row in range(len(indices)):
            grid[row, column].imshow(_coloured(found[row], masks[row, 0].numpy() > 0.5))
    for axes, title in zip(grid[0], ["photo", "truth", *models], strict=True):
        axes.set_title(textwrap.fill(title, 16), fontsize=8)
    for axes in grid.flat:
        axes.set_xticks([])
        axes.set_yticks([])
    handles = [
        Patch(facecolor=color, edgecolor="0.5", label=label)
        for color, label in (
            (HIT, "found"),
            (FALSE_ALARM, "sand taken for plastic"),
            (MISS, "missed"),
        )
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure


def _coloured(found: NDArray[np.bool_], truth: NDArray[np.bool_]) -> NDArray[np.uint8]:
    palette = [tuple(bytes.fromhex(color[1:])) for color in (SAND, FALSE_ALARM, MISS, HIT)]
    colours: NDArray[np.uint8] = np.array(palette, np.uint8)
    return np.asarray(colours[found.astype(int) + 2 * truth.astype(int)])


def learning_figure(runs: Mapping[str, Sequence[Epoch]]) -> Figure:
    """Validation F1 at its best threshold, over the epochs of every training."""
    figure = Figure(figsize=(8.5, 4.2), layout="constrained")
    axes = figure.subplots()
    colors = sns.color_palette("colorblind", len(runs))
    styles = ["-", "--", ":", "-."]
    for index, (label, run) in enumerate(runs.items()):
        axes.plot(
            [epoch.epoch for epoch in run],
            [epoch.validation_best_f1 for epoch in run],
            color=colors[index],
            linestyle=styles[index % len(styles)],
            label=label,
        )
    axes.set(xlabel="epoch", ylabel="validation F1 at the best threshold", ylim=(0, None))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=8)
    sns.despine(ax=axes)
    return figure


def tradeoff_figure(results: pd.DataFrame, quality: str = "best_f1") -> Figure:
    """Quality over MACs, one mark per network (the mean over folds)."""
    means = results.groupby("network", sort=False)[["macs", "parameters", quality]].mean()
    figure = Figure(figsize=(8.5, 4.6), layout="constrained")
    axes = figure.subplots()
    colors = sns.color_palette("colorblind", len(means))
    markers = "osD^vP*X<>hdp8"  # more than colors: a color that comes again has another mark
    handles = []
    for index, (label, row) in enumerate(means.iterrows()):
        style: dict[str, Any] = {
            "marker": markers[index % len(markers)],
            "color": colors[index],
            "linestyle": "none",
            "markersize": 9,
        }
        axes.plot(float(row["macs"]) / 1e6, float(row[quality]), **style)
        handles.append(Line2D([], [], label=f"{label} ({row['parameters']:,.0f})", **style))
    axes.set_xscale("log")
    axes.set(xlabel="million MACs per tile", ylabel="test F1 at the best threshold")
    low, high = float(means[quality].min()), float(means[quality].max())
    axes.set_ylim(max(0.0, low - 0.5 * (high - low) - 0.02), high + 0.2 * (high - low) + 0.02)
    axes.legend(
        handles=handles,
        title="network (parameters)",
        loc="center left",
        bbox_to_anchor=(1.01, 0.5),
        frameon=False,
        fontsize=8,
    )
    axes.grid(which="both", linewidth=0.4, color="0.9")
    sns.despine(ax=axes)
    return figure


def stacked_figure(analysis: Analysis, roles: Sequence[str]) -> Figure:
    """Histograms of the layers in some roles, one above the other (fig. 11a, 12a, 13, 14)."""
    histograms, layers = _of_roles(analysis, roles)
    count = histograms["layer"].nunique()
    figure = Figure(figsize=(7.5, 1.3 + 0.26 * count), layout="constrained")
    plot_layer_histograms(histograms, layers, ax=figure.subplots())
    return figure


def overlaid_figure(analysis: Analysis, roles: Sequence[str], columns: int = 3) -> Figure:
    """Histograms of the layers of each stage over each other (fig. 11b, 12b)."""
    histograms, layers = _of_roles(analysis, roles)
    stages = list(dict.fromkeys(layers["stage"]))
    rows = -(-len(stages) // columns)
    figure = Figure(figsize=(3.4 * columns, 2.7 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for index, axes in enumerate(grid.flat):
        if index < len(stages):
            plot_stage_histograms(histograms, layers, stages[index], ax=axes)
        else:
            axes.remove()
    handles = [
        Line2D([], [], color="0.3", linewidth=1.3, label="after training"),
        Line2D([], [], color="0.3", linewidth=0.9, linestyle=(0, (3, 2)), label="before training"),
    ]
    figure.legend(handles=handles, loc="outside upper right", ncols=2, frameon=False, fontsize=8)
    return figure


def verdict_figure(analysis: Analysis) -> Figure:
    """Utilization of every stage with its interval and verdict."""
    figure = Figure(figsize=(7.5, 1.2 + 0.32 * len(analysis.stages)), layout="constrained")
    plot_utilization(analysis.stages, ax=figure.subplots())
    return figure


def _of_roles(analysis: Analysis, roles: Sequence[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    wanted = {stage.name for stage in analysis.structure.stages if stage.role in roles}
    layers = analysis.layers[analysis.layers["stage"].isin(wanted)]
    return analysis.histograms[analysis.histograms["layer"].isin(layers["layer"])], layers
