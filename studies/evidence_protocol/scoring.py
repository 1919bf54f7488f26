"""Scores of every stage of one stored network, and the truth about it."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import math
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
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
from weightscope.graph import Stage, Structure, read_structure
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
from weightscope.utilization.data import measure_importance, minus
from weightscope.utilization.ranking import pool_stages
from weightscope.utilization.scores import NetworkMovement, measure_spread, stage_kernels

BATCH = 32
METRICS = ("f1", "average_precision")


@dataclass(frozen=True)
class StoredHistory:
    """The displacements that a run stored, for `assess`."""

    records: tuple[Displacement, ...]

    def displacements(self) -> tuple[Displacement, ...]:
        """One record for each parameter."""
        return self.records


def load_history(stored: Path) -> StoredHistory:
    """The history of the run that is stored in a folder."""
    record = json.loads((stored / "run.json").read_text())
    return StoredHistory(tuple(Displacement(**d) for d in record["displacements"]))


def measure_run(run: Run, preset: Preset, folder: Path, structure: Structure) -> dict[str, Any]:
    """Measure what takes long and depends on no formula of ours, unless that was done before.

    Args:
        run: Which network.
        preset: How large the study is.
        folder: Where runs are stored.
        structure: Of the run's network, with its weights.

    Returns:
        The record stored in ``measured.json``: the truth on test images for each metric; ablation
        by F1 and by the loss, and importance, on validation images; saturation and WeightWatcher's
        exponent of each stage.
    """
    path = folder / "runs" / run.name / "measured.json"
    if path.exists():
        stored: dict[str, Any] = json.loads(path.read_text())
        return stored
    pool = load_run_pool(run, preset, folder)
    start = preset.train + preset.validation
    validation = pool.part(preset.train, start).batches(BATCH)
    test = pool.part(start, start + preset.test).batches(BATCH)
    importances = measure_importance(structure, validation, loss_function)
    measured = {
        "truth": {m: asdict(ablate_levels(structure, test, m)) for m in METRICS},
        "ablation": asdict(ablate_levels(structure, validation, "f1")),
        "ablation_by_loss": asdict(ablate_levels(structure, validation, minus(loss_function))),
        "importance": {name: asdict(value) for name, value in importances.items()},
        "saturation": saturation(structure, [images for images, _ in validation]),
        "weightwatcher": weightwatcher_alpha(structure.model, structure.stages),
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
    history = load_history(stored)
    statistics = measure_model(structure.model)
    started = measure_model(structure.model, initial=load_file(stored / "initial.safetensors"))
    levels = {stage.name: stage.level for stage in structure.stages}
    importances = {name: Importance(**v) for name, v in measured["importance"].items()}
    ablations = {
        "data_metric": read_ablation(measured["ablation"]),
        "data_loss": read_ablation(measured["ablation_by_loss"]),
    }
    assessments = {
        "weights": assess(structure, statistics),
        "weights_start": assess(structure, started),
        "history": assess(structure, started, history=history),
    } | {
        name: assess(
            structure, statistics, data=DataEvidence({}, {}, result, result.skilled, levels)
        )
        for name, result in ablations.items()
    }
    largest = max(i.value for i in importances.values())
    truth = {m: read_ablation(measured["truth"][m]) for m in METRICS}
    kernels = stage_kernels(structure.stages, statistics)
    movements = pool_stages(kernels, history)
    network = NetworkMovement.of(movements.values())
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
        movement = movements[stage.name]
        row["movement"] = rms_movement([k.parameter for k in kernels[stage.name]], history)
        row["walk_ratio"] = _finite(movement.ratio)
        row["gradient_fade"] = _finite(movement.strength)
        row["saliency"] = _finite(movement.saliency / network.saliency)
        row["importance"] = importances[stage.name].value
        row["taylor"] = importances[stage.name].value / largest
        row["alpha"] = _negative(measured["weightwatcher"].get(stage.name))
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
        "states": {name: a.state for name, a in assessments.items()},
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
        "dispersion": _finite(spread.dispersion),
        "excess_spread": _finite(math.copysign(math.sqrt(abs(spread.excess)), spread.excess)),
        "ks": pooled([k.comparison.ks_initial if k.comparison else math.nan for k in kernels]),
        "wasserstein": pooled(
            [k.comparison.wasserstein_initial if k.comparison else math.nan for k in kernels]
        ),
    }


def rms_movement(parameters: Sequence[str], history: StoredHistory) -> float | None:
    """Rms movement of some parameters since the start, in units of the weights."""
    found = [d for d in history.records if d.parameter in parameters]
    count = sum(d.count for d in found)
    return math.sqrt(sum(d.count * d.moved**2 for d in found) / count) if count else None


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _negative(value: float | None) -> float | None:
    return None if value is None else -value


def weightwatcher_alpha(model: nn.Module, stages: Sequence[Stage]) -> dict[str, float]:
    """Mean over a stage's layers of WeightWatcher's power-law exponent, by stage name.

    Stages of which WeightWatcher measures no layer, such as lone transposed convolutions, have
    none.
    """
    import weightwatcher

    logging.getLogger("weightwatcher").setLevel(logging.ERROR)
    with contextlib.redirect_stdout(io.StringIO()):
        details = weightwatcher.WeightWatcher(model=model).analyze(min_evals=8)
    alphas = dict(zip(details["longname"], details["alpha"], strict=True))
    found = {s.name: [alphas[x] for x in s.layers if x in alphas] for s in stages}
    means = {name: float(np.nanmean(own)) for name, own in found.items() if np.isfinite(own).any()}
    return means


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
