"""The other truth: what a network without its deep levels reaches after training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from studies.evidence_protocol.networks import build
from studies.evidence_protocol.runs import Preset, Run, load_network, load_run_pool, train
from studies.evidence_protocol.tasks import Pool
from weightscope.cost import count_costs
from weightscope.files import written_atomically
from weightscope.graph import read_structure
from weightscope.statistics import measure_model
from weightscope.truncation import Variant, propose
from weightscope.utilization import assess
from weightscope.utilization.metrics import measure_quality

BATCH = 32


def truncate_and_train(run: Run, preset: Preset, folder: Path) -> dict[str, Any]:
    """Cut a trained network at every depth, fine-tune it, and compare with the whole one.

    The whole network is fine-tuned for as many steps. Where the preset asks for it, each cut
    network is also trained from scratch for as many steps as the whole one was.

    Returns:
        ``{"tuned": {keep_levels: f1}, "scratch": {keep_levels: f1}}``, where ``"whole"`` stands for
        the uncut network. Stored in ``truncated.json``; read from there if it exists.
    """
    path = folder / "runs" / run.name / "truncated.json"
    if path.exists():
        stored: dict[str, Any] = json.loads(path.read_text())
        return stored
    torch.set_num_threads(1)
    pool = load_run_pool(run, preset, folder)
    tuned: dict[str, float] = {}
    for name, variant in variants(load_network(run, preset, folder), preset, run.seed).items():
        tuned[name] = train_and_test(variant, pool, run, preset, preset.tuning_steps)
    tuned["whole"] = train_and_test(
        load_network(run, preset, folder), pool, run, preset, preset.tuning_steps
    )
    scratch: dict[str, float] = {}
    if preset.from_scratch:
        fresh = build(run.architecture, preset.width, run.seed)
        for name, variant in variants(fresh, preset, run.seed).items():
            scratch[name] = train_and_test(variant, pool, run, preset, preset.steps)
    result = {"tuned": tuned, "scratch": scratch}
    with written_atomically(path) as temporary:
        temporary.write_text(json.dumps(result))
    return result


def variants(model: nn.Module, preset: Preset, seed: int) -> dict[str, nn.Module]:
    """The network cut at every legal depth, with the light bottleneck, by levels kept."""
    inputs = torch.zeros(2, 3, preset.size, preset.size)
    structure = read_structure(model, inputs)
    assessment = assess(structure, measure_model(model))
    made: dict[str, Variant] = {}
    for proposal in propose(structure, assessment, count_costs(model, inputs)):
        if proposal.refusal is None:
            torch.manual_seed(seed)
            made[str(proposal.keep_levels)] = proposal.build()
    return {name: made[name].module for name in sorted(made)}


def train_and_test(model: nn.Module, pool: Pool, run: Run, preset: Preset, steps: int) -> float:
    """Train a network in place and return its best-threshold F1 on the test images."""
    train(
        model,
        pool.part(0, preset.train),
        run.rule,
        steps,
        preset.batch,
        run.seed + 7,
        shuffled=False,
    )
    start = preset.train + preset.validation
    batches = pool.part(start, start + preset.test).batches(BATCH)
    model.eval()
    with torch.no_grad():
        outputs = [model(images) for images, _ in batches]
    quality = measure_quality("f1", outputs, [masks for _, masks in batches])
    return float(quality.of(np.ones((1, quality.images)))[0])
