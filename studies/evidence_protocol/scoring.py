"""What the library says of a stored network, through its public functions alone."""

from __future__ import annotations

import hashlib
import json
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import nn

import weightscope as ws
from studies.evidence_protocol.jobs import Job
from studies.evidence_protocol.tasks import TASKS
from studies.evidence_protocol.training import (
    archives,
    load_network,
    load_pool,
    make_loss,
    make_optimizer,
    training,
)
from weightscope import probing
from weightscope.files import written_atomically
from weightscope.graph import read_structure

BATCH = 20
METRICS = {"binary": "f1", "classes": "accuracy", "regression": "mse"}
WAYS = ("model", "images", "history", "metric", "loss", "signs")
"""What the library is given: nothing, unlabelled images, the watched training, labelled images
judged by a metric, labelled images judged by the loss of the training. ``signs``: nothing, and the
outputs of regressions are taken for decisions too, as was done before the form of numbers."""

AS_DECISIONS = {"CERTAIN": -1.0, "FOLLOWS": 1.01}
"""Borders of the response that no output is below, and none above."""


@lru_cache(maxsize=1)
def code_version() -> str:
    """Digest of the library's code: scores of another version are not mixed with these."""
    digest = hashlib.sha256()
    for path in sorted(Path(ws.__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:8]


@contextmanager
def patched(borders: Mapping[str, float]) -> Iterator[None]:
    """Other borders of the response for a while, wherever they are looked up."""
    with ExitStack() as stack:
        for room in (probing.change, probing.outputs, probing.response):
            own = {name: value for name, value in borders.items() if hasattr(room, name)}
            if own:
                stack.enter_context(mock.patch.multiple(room, **own))
        yield


def restore_history(job: Job, folder: Path) -> ws.watching.History:
    """The recorded history, with the weights that the training ended with."""
    stored = folder / training(job).address
    model = load_network(job, folder, "last" if (stored / "last.safetensors").exists() else "final")
    if job.start.startswith("frozen"):
        from studies.evidence_protocol.designs import DESIGNS

        for name, parameter in model.named_parameters():
            parameter.requires_grad_(not name.startswith(DESIGNS[job.design].encoder))
    with ws.watch(model, make_optimizer(job, model)) as history:
        history.load_state_dict(torch.load(stored / "history.pt", weights_only=True))
    return history


def arguments(job: Job, folder: Path) -> dict[str, Callable[[], dict[str, Any]]]:
    """What each way gives to `analyze`."""
    pool = load_pool(job, "validation", archives(folder))
    batches, kind = pool.batches(BATCH), TASKS[job.task].kind
    return {
        "model": dict,
        "images": lambda: {"images": [x for x, _ in batches]},
        "history": lambda: {"history": restore_history(job, folder)},
        "metric": lambda: {"batches": batches, "metric": METRICS[kind]},
        "loss": lambda: {"batches": batches, "loss": make_loss(TASKS[job.task], pool)},
        "signs": dict,
    }


def record(analysis: ws.Analysis) -> dict[str, Any]:
    """What an analysis said: state, conclusion, stages by grade, proposals in order."""
    structure, assessment = analysis.structure, analysis.assessment
    layers = analysis.layers.assign(mass=lambda f: f["near_zero_1e-2"] * f["parameters"])
    sums = layers.dropna(subset="mass").groupby("stage")[["mass", "parameters"]].sum()
    near_zero = (sums["mass"] / sums["parameters"]).to_dict()
    stages = []
    for stage in structure.stages:
        verdict = next(v for v in assessment.verdicts if v.stage == stage.name)
        stages.append({
            "stage": stage.name, "role": stage.role, "level": stage.level,
            "reduction": round(structure.reductions[stage.level][0]),
            "verdict": verdict.verdict, "evidence": verdict.evidence,
            "utilization": verdict.utilization, "why": verdict.why,
            "near_zero": near_zero.get(stage.name),
            "scores": {
                s.grade: {
                    "score": s.utilization, "low": s.low, "high": s.high, "verdict": s.verdict
                }
                for s in verdict.scores
            },
        })  # fmt: skip
    return {
        "state": assessment.state,
        "conclusion": analysis.conclusion,
        "stages": stages,
        "cuts": {
            str(round(structure.reductions[c.keep_levels][0])): c.keep_levels
            for c in structure.cuts
        },
        "proposals": [
            {
                "keep_levels": p.keep_levels,
                "reduction": round(structure.reductions[p.keep_levels][0]),
                "refusal": p.refusal,
                "evidence": p.evidence,
            }
            for p in analysis.proposals
        ],
    }


def score(job: Job, folder: Path, ways: tuple[str, ...] = WAYS) -> dict[str, Any]:
    """Everything the library says of one stored network, by way; what raised is kept as text.

    Stored beside the network, one file for each version of the library's code; ways that the file
    holds already are not asked again.
    """
    if TASKS[job.task].kind != "regression":
        ways = tuple(way for way in ways if way != "signs")
    path = folder / training(job).address / f"scores-{code_version()}.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    if all(way in found for way in ways):
        return found
    given = arguments(job, folder)
    for way in ways:
        if way in found:
            continue
        borders = AS_DECISIONS if way == "signs" else {}
        model: nn.Module = load_network(job, folder)
        begun = time.process_time()
        with warnings.catch_warnings(), patched(borders):
            warnings.simplefilter("ignore")
            try:
                told = given[way]()
                if way == "images":  # read at a size found by trying, as was published
                    told["example_inputs"] = read_structure(model).inputs.args
                found[way] = record(ws.analyze(model, **told))
            except (ws.WeightscopeError, TypeError) as error:
                found[way] = {"error": f"{type(error).__name__}: {error}"}
        found[way]["seconds"] = time.process_time() - begun
    with written_atomically(path) as temporary:
        temporary.write_text(json.dumps(found))
    return found
