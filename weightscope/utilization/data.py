"""What batches of data say: importance of every weight, activations, and ablation."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from weightscope.calls import call_arguments, to_device, undisturbed
from weightscope.errors import InputError
from weightscope.graph.structure import Structure
from weightscope.utilization.ablation import (
    AblationResult,
    Batch,
    LevelAblation,
    ablate_levels,
    read_batches,
)
from weightscope.utilization.metrics import Metric, only_tensor
from weightscope.utilization.records import Score, Verdict
from weightscope.utilization.scores import MARGIN, utilization

NEGLIGIBLE_LOSS = 0.05
"""Share of the network's skill whose loss is the border between used and unused."""

NEGLIGIBLE_IMPORTANCE = 0.15
"""Share of the largest stage's Taylor importance that is the border between used and unused."""


@dataclass(frozen=True)
class Importance:
    """First-order importance of a stage: the sum over its weights of ``|w * dL/dw|``.

    The loss would change by about that much, at most, if the weights were taken away one by one
    (Molchanov et al. 2019, eq. 8 without the square).

    Attributes:
        value: Mean over batches.
        error: Standard error over batches; 0 for a single batch.
    """

    value: float
    error: float


@dataclass(frozen=True)
class ActivationStatistics:
    """Outputs of a stage's last layer over the batches.

    Attributes:
        mean: Mean over images, channels and positions.
        std: Standard deviation over images, channels and positions.
        varying: Mean over channels of the standard deviation over images and positions: 0 when
            the stage hands on constants, whatever the image.
        dead_channels: Share of channels that are constant over all images and positions.
    """

    mean: float
    std: float
    varying: float
    dead_channels: float


@dataclass(frozen=True)
class DataEvidence:
    """What the batches said of a network.

    Attributes:
        importances: Taylor importance of each stage, by stage name; empty without a loss.
        activations: Statistics of what each stage hands on, by stage name.
        ablation: Quality lost at each cut, by the metric or else by the loss; None without either.
        skilled: Whether the network is surely better than chance; None if that was not measured.
        levels: Level of each stage, by stage name.
    """

    importances: Mapping[str, Importance]
    activations: Mapping[str, ActivationStatistics]
    ablation: AblationResult | None
    skilled: bool | None
    levels: Mapping[str, int]

    def score(self, stage: str) -> Score:
        """Score one stage: by ablation where a cut removes it, else by its Taylor importance.

        For ablation ``m`` is the share of the skill lost with everything at the stage's level and
        below, ``n`` a negligible share. For importance ``m`` is the stage's share of the largest
        importance in the network.
        """
        level = self.levels[stage]
        cuts = [] if self.ablation is None else self.ablation.levels
        removing = [cut for cut in cuts if cut.keep_levels <= level]
        if self.ablation is not None and removing:
            return _score_ablation(self.ablation, removing[-1], level)
        largest = max((i.value for i in self.importances.values()), default=0.0)
        if stage in self.importances and largest > 0.0:
            return _score_importance(self.importances[stage], largest)
        nan = float("nan")
        why = "no cut removes it" if self.ablation is not None else "no gradient reaches it"
        return Score("data", nan, nan, nan, "undecided", why)


def _verdict(low: float, high: float) -> Verdict:
    """Used above one half, unused below, undecided where the interval holds it."""
    if high < 0.5:
        return "unused"
    return "used" if low > 0.5 else "undecided"


def _score_ablation(result: AblationResult, cut: LevelAblation, level: int) -> Score:
    """Score a stage by the shallowest cut at or above its level."""
    if not result.skilled:
        nan = float("nan")
        return Score("data", nan, nan, nan, "undecided", "the network has no skill to lose")
    value, low, high = (
        utilization(loss / result.skill, NEGLIGIBLE_LOSS) for loss in (cut.drop, cut.low, cut.high)
    )
    exact = cut.keep_levels == level
    share = max(cut.drop, 0.0) / result.skill
    change = f"{result.metric} {cut.quality:.3g} to {cut.ablated:.3g}"
    why = f"without levels {cut.keep_levels} and deeper {share:.1%} of the skill is lost ({change})"
    verdict = _verdict(low, high)
    if not exact and verdict == "used":
        verdict, why = "undecided", f"{why}, but the cut also removes shallower levels"
    return Score("data", value, low, high, verdict, why, share)


def _score_importance(importance: Importance, largest: float) -> Score:
    """Score a stage by its importance relative to the most important stage."""
    value, low, high = (
        utilization(
            max(importance.value + sigmas * importance.error, 0.0) / largest, NEGLIGIBLE_IMPORTANCE
        )
        for sigmas in (0.0, -MARGIN, MARGIN)
    )
    share = importance.value / largest
    why = f"Taylor importance {share:.1%} of the most important stage's"
    return Score("data", value, low, high, _verdict(low, high), why)


def gather_data(
    structure: Structure,
    batches: Iterable[Any],
    loss: Callable[[Any, Any], Tensor] | None = None,
    metric: Metric | None = None,
    *,
    resamples: int = 1000,
    seed: int = 0,
    progress: bool = False,
) -> DataEvidence:
    """Collect evidence from batches of data; the model is left as it was.

    Args:
        structure: The network.
        batches: ``(inputs, targets)`` pairs, read once and kept in memory.
        loss: ``loss(outputs, targets)``, a scalar tensor, for Taylor importance; also for the
            ablation where no metric is given, then asked for one image at a time.
        metric: For ablation, see `ablate`.
        resamples: Bootstrap resamples over images.
        seed: Of the bootstrap.
        progress: Show bars.

    Raises:
        InputError: The batches, the loss or the metric cannot be used.
    """
    pairs = read_batches(batches)
    activations = measure_activations(structure, pairs)
    importances: Mapping[str, Importance] = {}
    if loss is not None:
        importances = measure_importance(structure, pairs, loss, progress=progress)
        metric = minus(loss) if metric is None else metric
    result = None
    if metric is not None:
        result = ablate_levels(
            structure, pairs, metric, resamples=resamples, seed=seed, progress=progress
        )
    levels = {stage.name: stage.level for stage in structure.stages}
    skilled = None if result is None else result.skilled
    return DataEvidence(importances, activations, result, skilled, levels)


def minus(loss: Callable[[Any, Any], Tensor]) -> Callable[[Any, Any], float]:
    """A loss as a metric: larger is better."""

    def minus_loss(outputs: Any, targets: Any) -> float:
        return -float(loss(outputs, targets))

    return minus_loss


def measure_importance(
    structure: Structure,
    batches: Sequence[Batch],
    loss: Callable[[Any, Any], Tensor],
    *,
    progress: bool = False,
) -> Mapping[str, Importance]:
    """Measure Taylor importance of every stage, by stage name.

    Gradients are taken of copies that share the parameters' storage, so that the model's own
    ``.grad`` and ``requires_grad`` are not touched.

    Raises:
        InputError: The loss is no finite scalar tensor that depends on the weights.
    """
    model = structure.model
    watched = {n: p.detach().requires_grad_() for n, p in model.named_parameters() if _trains(p)}
    owner = {name: name.rpartition(".")[0] for name in watched}
    stage_of = {name: structure.stage_of.get(layer) for name, layer in owner.items()}
    rows: list[dict[str, float]] = []
    with undisturbed(model), torch.enable_grad():
        for inputs, targets in tqdm(batches, desc="importance", disable=not progress):
            args, kwargs = call_arguments(to_device(inputs, model))
            outputs = torch.func.functional_call(model, watched, args, kwargs)
            value = loss(outputs, to_device(targets, model))
            _check_loss(value)
            gradients = torch.autograd.grad(
                value, list(watched.values()), allow_unused=True, retain_graph=False
            )
            row = dict.fromkeys((stage.name for stage in structure.stages), 0.0)
            for (name, weight), gradient in zip(watched.items(), gradients, strict=True):
                stage = stage_of[name]
                if stage is not None and gradient is not None:
                    row[stage.name] += float((weight.detach() * gradient).abs().sum())
            rows.append(row)
    return {
        stage.name: Importance(*_mean_and_error([row[stage.name] for row in rows]))
        for stage in structure.stages
    }


def _trains(parameter: Tensor) -> bool:
    """Whether a gradient of this parameter can exist."""
    return parameter.is_floating_point()


def _check_loss(value: Any) -> None:
    """Refuse what is no differentiable finite scalar."""
    if not isinstance(value, Tensor) or value.numel() != 1 or not value.requires_grad:
        what = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise InputError(
            f"loss(outputs, targets) returned {what}; expected a scalar tensor that depends on the "
            "outputs"
        )
    if not bool(torch.isfinite(value)):
        raise InputError(
            f"the loss of a batch is {float(value.detach())}; check its targets and the loss"
        )


def _mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """Mean and its standard error; the error of a single value is 0."""
    mean = sum(values) / len(values)
    if len(values) < 2:
        return mean, 0.0
    variance = sum((v - mean) ** 2 for v in values) / (len(values) - 1)
    return mean, math.sqrt(variance / len(values))


def measure_activations(
    structure: Structure, batches: Sequence[Batch]
) -> Mapping[str, ActivationStatistics]:
    """Measure what the last layer of each stage hands on, over all batches."""
    model = structure.model
    modules = dict(model.named_modules())
    last = {
        stage.name: next((layer for layer in reversed(stage.layers) if layer in modules), None)
        for stage in structure.stages
    }
    sums: dict[str, _ChannelSums] = {}

    def hook_for(stage: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_module: nn.Module, _args: Any, output: Any) -> None:
            sums.setdefault(stage, _ChannelSums()).add(only_tensor(output))

        return hook

    handles = []
    try:
        for stage, layer in last.items():
            if layer is not None:
                handles.append(modules[layer].register_forward_hook(hook_for(stage)))
        with undisturbed(model), torch.no_grad():
            for inputs, _ in batches:
                args, kwargs = call_arguments(to_device(inputs, model))
                model(*args, **kwargs)
    finally:
        for handle in handles:
            handle.remove()
    return {stage: total.statistics() for stage, total in sums.items()}


class _ChannelSums:
    """Sums over images and positions of a (B, C, ...) tensor, channel by channel."""

    def __init__(self) -> None:
        self.count = 0
        self.total: Tensor | float = 0.0
        self.squares: Tensor | float = 0.0

    def add(self, value: Tensor) -> None:
        rows = value.detach().double()
        rows = rows.movedim(1, -1).flatten(0, -2) if rows.dim() > 2 else rows.flatten(0, -2)
        self.count += len(rows)
        self.total = self.total + rows.sum(0)
        self.squares = self.squares + rows.square().sum(0)

    def statistics(self) -> ActivationStatistics:
        mean = torch.as_tensor(self.total) / self.count
        square = torch.as_tensor(self.squares) / self.count
        deviation = (square - mean.square()).clamp_min(0.0).sqrt()
        everything = float(mean.mean())
        return ActivationStatistics(
            mean=everything,
            std=math.sqrt(max(float(square.mean()) - everything**2, 0.0)),
            varying=float(deviation.mean()),
            dead_channels=float((deviation <= 1e-7 * (1.0 + mean.abs())).double().mean()),
        )
