"""What each level is worth: replace everything below a cut by a constant, measure the loss."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from weightscope.adapters import pytree
from weightscope.calls import to_device, undisturbed
from weightscope.errors import InputError
from weightscope.graph.running import (
    CutRuns,
    GraphRun,
    MeanActivation,
    channel_axis,
    needed_for,
)
from weightscope.graph.structure import Cut, Site, Structure
from weightscope.utilization.metrics import Metric, Quality, measure_quality, resampled

if TYPE_CHECKING:
    import pandas as pd

Fill = Literal["mean", "zero", "shuffle"]
Batch = tuple[Any, Any]

MINIMUM_SKILL = 0.05
"""F1 or average precision must exceed chance by this much before a network counts as skilled:
random features of an untrained one have a little skill too. Other metrics have no such floor."""

CONFIDENCE = 0.95
"""Coverage of every bootstrap interval of a drop."""

SURE = 0.999
"""Share of the bootstrap resamples in which a network must beat chance to count as skilled: all
verdicts hang on that one decision."""


@dataclass(frozen=True)
class LevelAblation:
    """Quality lost when everything below one cut is replaced.

    Attributes:
        keep_levels: Levels ``0 .. keep_levels - 1`` were left as they are.
        quality: Quality of the whole network.
        ablated: Quality without the levels below the cut.
        drop: ``quality - ablated``.
        low: Lower end of the bootstrap interval of ``drop`` over images.
        high: Upper end of it.
    """

    keep_levels: int
    quality: float
    ablated: float
    drop: float
    low: float
    high: float


@dataclass(frozen=True)
class AblationResult:
    """The ablation of every level, and whether there was anything to lose.

    Attributes:
        levels: One record for each legal cut, from the shallowest.
        quality: Quality of the whole network.
        chance: Quality when the outputs are judged by the targets of other images.
        skill_low: What ``quality - chance`` exceeds in `SURE` of the bootstrap resamples.
        images: Number of images.
        metric: Name of the quality: ``f1``, ``average_precision`` or that of the callable.
        floor: Skill that does not count yet.
    """

    levels: tuple[LevelAblation, ...]
    quality: float
    chance: float
    skill_low: float
    images: int
    metric: str
    floor: float = MINIMUM_SKILL

    @property
    def skill(self) -> float:
        """What the network is better than chance by."""
        return self.quality - self.chance

    @property
    def skilled(self) -> bool:
        """Whether it surely has any skill."""
        return self.skill_low > 0.0 and self.skill > self.floor


def read_batches(batches: Iterable[Any]) -> list[Batch]:
    """Read ``(inputs, targets)`` pairs once and keep them.

    Raises:
        InputError: There is none, or one is no pair.
    """
    pairs: list[Batch] = []
    for index, batch in enumerate(batches):
        if not isinstance(batch, list | tuple) or len(batch) != 2:
            raise InputError(
                f"batch {index} is a {type(batch).__name__}, expected a pair (inputs, targets); "
                "wrap the loader in a generator that yields such pairs"
            )
        pairs.append((batch[0], batch[1]))
    if not pairs:
        raise InputError("batches is empty; give at least one pair (inputs, targets)")
    return pairs


def shuffled_images(value: Tensor, generator: torch.Generator) -> Tensor:
    """Give every image of a batch the activation of another one."""
    images = len(value)
    if images < 2:
        raise InputError("fill='shuffle' needs batches of two images or more")
    order = torch.randperm(images, generator=generator)
    return value[order[(torch.argsort(order) + 1) % images]]


def ablate_levels(
    structure: Structure,
    batches: Sequence[Batch],
    metric: Metric,
    *,
    fill: Fill = "mean",
    resamples: int = 1000,
    seed: int = 0,
    progress: bool = False,
) -> AblationResult:
    """Replace the exits of each legal cut and measure the quality that is lost.

    Args:
        structure: The network and its cuts.
        batches: ``(inputs, targets)`` pairs.
        metric: See `measure_quality`.
        fill: Put each exit's mean over images and positions (one number per channel) in its place,
            zeros, or the activation of another image of the batch.
        resamples: Bootstrap resamples over images.
        seed: Of the bootstrap and the shuffling.
        progress: Show a bar.

    Raises:
        InputError: The batches or the metric do not fit, or ``fill`` is unknown.
    """
    if fill not in ("mean", "zero", "shuffle"):
        raise InputError(f"unknown fill {fill!r}; choose 'mean', 'zero' or 'shuffle'")
    sites = {site.node: site for cut in structure.cuts for site in cut.exits}
    means = {node: MeanActivation(channel_axis(site)) for node, site in sites.items()}
    targets = [target for _, target in batches]
    runs, outputs = CutRuns(structure), []
    left: list[list[Any]] = [[] for _ in structure.cuts]
    bar = tqdm(total=2 * len(batches), desc="ablation", disable=not progress)
    with undisturbed(structure.model), torch.no_grad(), bar:
        needed = needed_for(structure.graph, sites)
        averaging = GraphRun(structure, {node: mean.add for node, mean in means.items()}, needed)
        for inputs, _ in batches:
            averaging.predict(inputs)
            bar.update()
        fills = [_filler(fill, means, seed) for _ in structure.cuts]
        for inputs, _ in batches:
            output, values = runs.whole(inputs)
            outputs.append(output)
            for cut, filler, ablated in zip(structure.cuts, fills, left, strict=True):
                ablated.append(runs.without(cut, values, filler))
            bar.update()
        quality = measure_quality(metric, outputs, targets)
        weights = np.concatenate(
            [np.ones((1, quality.images)), resampled(quality.images, resamples, seed)]
        )
        full = quality.of(weights)
        chance = chance_quality(metric, outputs, targets).of(weights)
        levels = [
            _record(cut, full, measure_quality(metric, ablated, targets), weights)
            for cut, ablated in zip(structure.cuts, left, strict=True)
        ]
    return AblationResult(
        levels=tuple(levels),
        quality=float(full[0]),
        chance=float(chance[0]),
        skill_low=float(np.nanquantile(full[1:] - chance[1:], 1.0 - SURE)),
        images=quality.images,
        metric=metric if isinstance(metric, str) else getattr(metric, "__name__", "metric"),
        floor=MINIMUM_SKILL if isinstance(metric, str) else 0.0,
    )


def _filler(
    fill: Fill, means: Mapping[str, MeanActivation], seed: int
) -> Callable[[Site, Tensor], Tensor]:
    """What to put in an exit's place. The same seed gives all exits of a cut the same shuffle."""
    if fill == "mean":
        return lambda site, value: means[site.node].replace(value)
    if fill == "zero":
        return lambda site, value: torch.zeros_like(value)
    generators = {node: torch.Generator().manual_seed(seed) for node in means}
    return lambda site, value: shuffled_images(value, generators[site.node])


def chance_quality(metric: Metric, outputs: Sequence[Any], targets: Sequence[Any]) -> Quality:
    """Quality when each batch of outputs is judged by targets that belong to other images."""
    return measure_quality(
        metric, outputs, [pytree.tree_map(_roll_images, target) for target in targets]
    )


def _roll_images(leaf: Any) -> Any:
    """Shift the images of a batch by one; a single image is turned upside down instead."""
    if not isinstance(leaf, Tensor) or leaf.dim() == 0:
        return leaf
    return leaf.roll(1, 0) if len(leaf) > 1 else leaf.flip(tuple(range(1, leaf.dim())))


def interval(samples: np.ndarray[Any, np.dtype[np.float64]]) -> tuple[float, float]:
    """Central interval of bootstrap samples at the stated confidence."""
    tail = (1.0 - CONFIDENCE) / 2.0
    low, high = np.nanquantile(samples, [tail, 1.0 - tail])
    return float(low), float(high)


def _record(
    cut: Cut,
    full: np.ndarray[Any, np.dtype[np.float64]],
    ablated: Quality,
    weights: np.ndarray[Any, np.dtype[np.float64]],
) -> LevelAblation:
    """Compare whole and ablated quality on the images and on their resamples."""
    values = ablated.of(weights)
    low, high = interval(full[1:] - values[1:])
    return LevelAblation(
        keep_levels=cut.keep_levels,
        quality=float(full[0]),
        ablated=float(values[0]),
        drop=float(full[0] - values[0]),
        low=low,
        high=high,
    )


def ablate(
    model: nn.Module,
    batches: Iterable[Any],
    metric: Metric | Callable[[Any, Any], float],
    *,
    fill: Fill = "mean",
    example_inputs: Any = None,
    resamples: int = 1000,
    seed: int = 0,
    progress: bool = True,
) -> pd.DataFrame:
    """Measure what each level of a network is worth, by inference alone.

    For every depth at which the network can be cut, all tensors that come back from below the cut
    are replaced, and the quality lost is reported with a 95 % bootstrap interval over images. The
    model and its modes are left as they were.

    Args:
        model: The trained network.
        batches: ``(inputs, targets)`` pairs, read once and kept in memory; inputs are a tensor, a
            tuple of positional or a mapping of keyword arguments.
        metric: ``"f1"`` (at the best threshold), ``"average_precision"``, or a callable
            ``metric(outputs, targets)``, larger is better, asked for one image at a time.
        fill: ``"mean"``, ``"zero"`` or ``"shuffle"``.
        example_inputs: What to read the network with; by default the first batch's inputs.
        resamples: Bootstrap resamples.
        seed: Of bootstrap and shuffling.
        progress: Show a bar.

    Returns:
        One row per legal depth: keep_levels, quality, ablated, drop, low, high, images; columns
        ``chance`` (quality against other images' targets) and ``fill`` are the same in all rows.

    Raises:
        InputError: Batches, metric or fill cannot be used.
        StructureError: The network has no readable encoder-decoder shape.

    Example:
        >>> import torch, weightscope as ws, mpseg_models
        >>> model = mpseg_models.create_model("half_unet", width=4)
        >>> images = torch.rand(4, 3, 32, 32)
        >>> batches = [(images, (images.mean(1, keepdim=True) > 0.5).float())]
        >>> list(ws.ablate(model, batches, "f1", progress=False).keep_levels)
        [1, 2]
    """
    import pandas as pd

    from weightscope.graph import read_structure

    pairs = read_batches(batches)
    if example_inputs is None:
        example_inputs = to_device(pairs[0][0], model)
    structure = read_structure(model, example_inputs)
    result = ablate_levels(
        structure, pairs, metric, fill=fill, resamples=resamples, seed=seed, progress=progress
    )
    columns = ["keep_levels", "quality", "ablated", "drop", "low", "high"]
    frame = pd.DataFrame([vars(level) for level in result.levels], columns=columns)
    return frame.assign(chance=result.chance, images=result.images, fill=fill)
