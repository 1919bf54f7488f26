"""Scores of every stage of one stored network, and the truth about it."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn
from tqdm import tqdm

from studies.evidence_protocol.runs import (
    Preset,
    Run,
    load_network,
    load_run_pool,
    loss_function,
)
from weightscope.files import written_atomically
from weightscope.graph import Structure, read_structure
from weightscope.statistics import ParameterStatistics, measure_model
from weightscope.utilization import (
    AblationResult,
    DataEvidence,
    Displacement,
    Importance,
    LevelAblation,
    ablate_levels,
    assess,
)
from weightscope.utilization.data import measure_importance
from weightscope.utilization.displacement import pool
from weightscope.utilization.scores import measure_spread, stage_kernels

BATCH = 32
METRICS = ("f1", "average_precision")


@dataclass(frozen=True)
class StoredHistory:
    """The displacements that a run stored, for `assess`."""

    records: tuple[Displacement, ...]

    def displacements(self) -> tuple[Displacement, ...]:
        """One record for each parameter."""
        return self.records


def measure_run(run: Run, preset: Preset, folder: Path, structure: Structure) -> dict[str, Any]:
    """Measure what takes long and depends on no formula of ours, unless that was done before.

    Args:
        run: Which network.
        preset: How large the study is.
        folder: Where runs are stored.
        structure: Of the run's network, with its weights.

    Returns:
        The record stored in ``measured.json``: the truth on test images for each metric; ablation
        and importance on validation images; saturation and power-law exponent of each stage.
    """
    path = folder / "runs" / run.name / "measured.json"
    if path.exists():
        stored: dict[str, Any] = json.loads(path.read_text())
        return stored
    pool = load_run_pool(run, preset, folder)
    start = preset.train + preset.validation
    validation = pool.part(preset.train, start).batches(BATCH)
    test = pool.part(start, start + preset.test).batches(BATCH)
    importances, _ = measure_importance(structure, validation, loss_function)
    kernels = stage_kernels(structure.stages, measure_model(structure.model, fast=True))
    alphas = {name: mean_alpha(structure.model, own) for name, own in kernels.items()}
    measured = {
        "truth": {m: asdict(ablate_levels(structure, test, m)) for m in METRICS},
        "ablation": asdict(ablate_levels(structure, validation, "f1")),
        "importance": {name: asdict(value) for name, value in importances.items()},
        "saturation": saturation(structure, [images for images, _ in validation]),
        "alpha": {name: value for name, value in alphas.items() if math.isfinite(value)},
    }
    with written_atomically(path) as temporary:
        temporary.write_text(json.dumps(measured))
    return measured


def read_ablation(stored: dict[str, Any]) -> AblationResult:
    """An ablation from its stored record."""
    levels = tuple(LevelAblation(**level) for level in stored["levels"])
    return AblationResult(**{**stored, "levels": levels})


def score_run(run: Run, preset: Preset, folder: Path, structure: Structure) -> dict[str, Any]:
    """Compute all scores of one run and its truth.

    Args:
        run: Which network.
        preset: How large the study is.
        folder: Where runs are stored.
        structure: Of a network of the same architecture; its model gets the run's weights.

    Returns:
        The run, its quality, the states that each grade saw, and one row per stage; a larger score
        always means more used.
    """
    stored = folder / "runs" / run.name
    structure.model.load_state_dict(load_file(stored / "final.safetensors"))
    measured = measure_run(run, preset, folder, structure)
    record = json.loads((stored / "run.json").read_text())
    history = StoredHistory(tuple(Displacement(**d) for d in record["displacements"]))
    statistics = measure_model(structure.model)
    levels = {stage.name: stage.level for stage in structure.stages}
    importances = {name: Importance(**v) for name, v in measured["importance"].items()}
    ablation = read_ablation(measured["ablation"])
    assessments = {
        "weights": assess(structure, statistics),
        "history": assess(structure, statistics, history=history),
        "data_taylor": assess(
            structure, statistics, data=DataEvidence(importances, {}, None, None, levels)
        ),
        "data_ablation": assess(
            structure, statistics, data=DataEvidence({}, {}, ablation, ablation.skilled, levels)
        ),
    }
    truth = {m: read_ablation(measured["truth"][m]) for m in METRICS}
    kernels = stage_kernels(structure.stages, statistics)
    moved = {d.parameter: d for d in history.records}
    chance = np.random.default_rng([run.seed, *run.name.encode()])
    rows = []
    for stage in structure.stages:
        row: dict[str, Any] = {"stage": stage.name, "role": stage.role, "level": stage.level}
        for name, assessment in assessments.items():
            verdict = next(v for v in assessment.verdicts if v.stage == stage.name)
            score = next(s for s in verdict.scores if s.grade == name.partition("_")[0])
            row[name] = _finite(score.utilization)
            row[f"{name}_verdict"] = score.verdict if assessment.state == "trained" else "undecided"
        row |= raw_scores(kernels[stage.name])
        row["movement"] = pooled_movement(kernels[stage.name], moved)
        pooled = pool(moved, tuple(kernel.parameter for kernel in kernels[stage.name]))
        row["walk_ratio"] = _finite(pooled.ratio)
        row["gradient_fade"] = _finite(pooled.live / pooled.ratio) if pooled.ratio > 0 else None
        row["importance"] = measured["importance"][stage.name]["value"]
        row["alpha"] = _negative(measured["alpha"].get(stage.name))
        row["saturation"] = measured["saturation"].get(stage.name)
        row["deepest_first"] = -stage.level
        row["random"] = float(chance.random())
        for metric, result in truth.items():
            cut = next((c for c in result.levels if c.keep_levels == stage.level), None)
            for part in ("drop", "low", "high"):
                row[f"{metric}_{part}"] = None if cut is None else getattr(cut, part)
        rows.append(row)
    cut = stored / "truncated.json"
    return {
        "run": asdict(run),
        "truncated": json.loads(cut.read_text()) if cut.exists() else None,
        "quality": {m: r.quality for m, r in truth.items()},
        "chance": {m: r.chance for m, r in truth.items()},
        "states": {name: a.state for name, a in assessments.items() if name != "data_taylor"},
        "rows": rows,
    }


def raw_scores(kernels: Sequence[ParameterStatistics]) -> dict[str, float | None]:
    """Plain statistics of a stage's kernels, pooled over its weights; signs as "more used"."""
    spread = measure_spread("", kernels)
    total = sum(k.count for k in kernels)

    def pooled(values: Sequence[float]) -> float | None:
        weighted = sum(k.count * v for k, v in zip(kernels, values, strict=True))
        return _finite(weighted / total) if total else None

    return {
        "near_zero_1e-3": _negative(pooled([k.summary.near_zero[1e-3] for k in kernels])),
        "near_zero_1e-2": _negative(pooled([k.summary.near_zero[1e-2] for k in kernels])),
        "near_zero_relative": _negative(pooled([k.near_zero_relative for k in kernels])),
        "std": pooled([k.summary.std for k in kernels]),
        "kurtosis": pooled([k.summary.kurtosis for k in kernels]),
        "spread_ratio": _finite(spread.ratio),
        "excess_spread": _finite(math.copysign(math.sqrt(abs(spread.excess)), spread.excess)),
        "ks": pooled([k.comparison.ks_initial if k.comparison else math.nan for k in kernels]),
        "wasserstein": pooled(
            [k.comparison.wasserstein_initial if k.comparison else math.nan for k in kernels]
        ),
    }


def pooled_movement(
    kernels: Sequence[ParameterStatistics], moved: dict[str, Displacement]
) -> float | None:
    """Rms movement of a stage's kernels since the start, in units of the weights."""
    found = [moved[k.parameter] for k in kernels if k.parameter in moved]
    count = sum(d.count for d in found)
    return math.sqrt(sum(d.count * d.moved**2 for d in found) / count) if count else None


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _negative(value: float | None) -> float | None:
    return None if value is None else -value


def mean_alpha(model: nn.Module, kernels: Sequence[ParameterStatistics]) -> float:
    """Mean power-law exponent over a stage's kernels; nan if none is large enough.

    Our own computation of the quantity that WeightWatcher reports (Martin & Mahoney 2021): the
    eigenvalues of ``W^T W``, for a convolution of each kernel position's channel matrix, all
    positions together; the exponent by maximum likelihood above the lower end that minimises the
    Kolmogorov-Smirnov distance (Clauset, Shalizi & Newman 2009).
    """
    parameters = dict(model.named_parameters())
    alphas = []
    for kernel in kernels:
        weight = parameters[kernel.parameter].detach().double()
        if weight.dim() < 2:
            continue
        slices = weight.flatten(2).permute(2, 0, 1) if weight.dim() > 2 else weight[None]
        values = torch.linalg.svdvals(slices).square().flatten().sort().values.numpy()
        if min(slices.shape[1:]) >= 4 and len(values) >= 16:
            alphas.append(power_law_exponent(values[values > 0]))
    return float(np.mean(alphas)) if alphas else math.nan


def power_law_exponent(values: NDArray[np.float64]) -> float:
    """Exponent of a power-law tail, with the lower end of least KS distance.

    Args:
        values: Ascending positive values.
    """
    best, exponent = math.inf, math.nan
    for start in range(len(values) - 8):
        tail = values[start:]
        logs = np.log(tail / tail[0])
        total = float(logs.sum())
        if total <= 0.0:
            continue
        alpha = 1.0 + len(tail) / total
        expected = 1.0 - np.exp(-(alpha - 1.0) * logs)
        steps = np.arange(len(tail)) / len(tail)
        distance = float(np.abs(expected - steps).max())
        if distance < best:
            best, exponent = distance, alpha
    return exponent


def saturation(
    structure: Structure, inputs: Sequence[Tensor], share: float = 0.99
) -> dict[str, float]:
    """Share of directions that hold 99 % of the variance of a layer's outputs, mean over a stage.

    Delve's definition (Richter et al. 2021), every position of a convolution's output a sample.
    """
    modules = dict(structure.model.named_modules())
    layers = {
        layer: stage.name
        for stage in structure.stages
        for layer in stage.layers
        if isinstance(modules.get(layer), nn.Conv2d | nn.ConvTranspose2d | nn.Linear)
    }
    sums: dict[str, list[Any]] = {}

    def hook_for(layer: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            rows = output.detach().movedim(1, -1).flatten(0, -2).double()
            entry = sums.setdefault(layer, [0, 0.0, 0.0])
            entry[0] += len(rows)
            entry[1] = entry[1] + rows.sum(0)
            entry[2] = entry[2] + rows.T @ rows

        return hook

    handles = [modules[layer].register_forward_hook(hook_for(layer)) for layer in layers]
    try:
        with torch.no_grad():
            for images in inputs:
                structure.model(images)
    finally:
        for handle in handles:
            handle.remove()
    found: dict[str, list[float]] = {}
    for layer, (count, total, products) in sums.items():
        mean = total / count
        covariance = products / count - torch.outer(mean, mean)
        variances = torch.linalg.eigvalsh(covariance).clamp_min(0).flip(0)
        if float(variances.sum()) > 0.0:
            reached = torch.cumsum(variances, 0) / variances.sum()
            needed = int((reached < share).sum()) + 1
            found.setdefault(layers[layer], []).append(needed / len(variances))
    return {stage: float(np.mean(values)) for stage, values in found.items()}


def score_architecture(runs: Sequence[Run], preset: Preset, folder: Path) -> list[dict[str, Any]]:
    """Score runs of one architecture, which share one reading of the network."""
    torch.set_num_threads(1)
    model = load_network(runs[0], preset, folder)
    structure = read_structure(model, torch.zeros(2, 3, preset.size, preset.size))
    return [score_run(run, preset, folder, structure) for run in runs]


def score_runs(
    runs: Sequence[Run], preset: Preset, folder: Path, *, jobs: int
) -> list[dict[str, Any]]:
    """Score all stored runs, a process for each architecture."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.architecture, []).append(run)
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as workers:
        tasks = [
            workers.submit(score_architecture, group, preset, folder) for group in groups.values()
        ]
        return [
            record
            for task in tqdm(tasks, desc="scoring", unit="design")
            for record in task.result()
        ]
