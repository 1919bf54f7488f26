"""How much of what a cut lost does recovery without labels regain, for a twentieth of the compute?

``python studies/regained.py`` trains small networks (1500 steps of 8 images; those that are there
are taken), cuts each at every depth, and recovers every cut that lost more than a twentieth of the
skill. The steps are as many as fit into ``SHARE`` of the MACs of the training: the original's
forwards, the steps and the looks at held-back images are all counted, a backward pass as two
forwards. ``--images synthetic`` recovers on dead leaves, as many as there are images, instead.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file
from torch import nn

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from studies.evidence_protocol import training  # noqa: E402
from studies.evidence_protocol.jobs import Job  # noqa: E402
from studies.evidence_protocol.tasks import TASKS, Pool  # noqa: E402
from studies.evidence_protocol.truth import Skill, answers  # noqa: E402
from weightscope import analyze  # noqa: E402
from weightscope.analysis import Analysis  # noqa: E402
from weightscope.probing.inputs import synthetic_inputs  # noqa: E402
from weightscope.probing.stimuli import dead_leaves  # noqa: E402
from weightscope.truncation import recovery  # noqa: E402

SHARE, STEPS = 0.048, 1500
"""Of the training's MACs; and steps of each training."""

LOST = 0.05
"""Cuts that lose a smaller share of the skill are left out: there is nothing to regain."""

NETWORKS = {
    (1000, "batch", "discs"): "chose",
    (1001, "unet", "patch"): "chose",
    (1002, "residual", "mosaic"): "chose",
    (1003, "batch", "rings_middle"): "judges",
    (1010, "group", "rings_large"): "chose",
    (1011, "plain", "distance"): "judges",
    (1012, "instance", "patch"): "judges",
    (1013, "batch", "denoise"): "judges",
    (1014, "unet", "mosaic"): "judges",
    (1015, "gated", "discs"): "judges",
    (1016, "layer", "rings_middle"): "judges",
    (1017, "tokens", "radius"): "judges",
}
"""Seed, design, task; and whether the network chose anything in the recovery."""


def network(key: tuple[int, str, str], folder: Path, archives: Path) -> tuple[Job, nn.Module]:
    """A trained network, from its folder if it is there."""
    index, design, task = key
    job = Job(
        index=index, design=design, task=task, optimizer="adam", rate=2e-3, schedule="cosine",
        start="scratch", earlier="", labels="true", width=8, levels=4, steps=STEPS, standard=True,
        ema=False, early=False, size=48,
    )  # fmt: skip
    place, model = folder / f"{index}-{design}-{task}", training.build(job)
    if not (place / "job.json").exists():
        torch.manual_seed(index)
        pool = training.load_pool(job, "train", archives)
        optimizer = training.make_optimizer(job, model)
        schedule, loss = (
            training.make_schedule(job, optimizer),
            training.make_loss(TASKS[task], pool),
        )
        training.fit(model, optimizer, schedule, loss, pool, STEPS, index, "true")
        place.mkdir(parents=True, exist_ok=True)
        training.save_weights(model, place / "final.safetensors")
        (place / "job.json").write_text(json.dumps({"job": asdict(job)}))
    model.load_state_dict(load_file(place / "final.safetensors"))
    return job, model.eval()


def steps_within(share: float, macs: float, images: int) -> int:
    """Steps of a recovery within a share of the training's MACs.

    Args:
        share: Of the training.
        macs: Of the smaller network, as a share of the whole one's.
        images: How many there are.
    """
    budget = share * 3 * STEPS * training.BATCH  # in forwards of the whole network on one image
    held = min(recovery.MOST_HELD_BACK, round(recovery.HELD_BACK * images))
    looks = (recovery.CHECKS + 5) * held * macs
    begun = images + recovery.START_IMAGES * (1 + 2 * macs)
    return int((budget - looks - begun) / (recovery.BATCH * 3 * macs))


def rows(key: tuple[int, str, str], folder: Path, archives: Path, images: str) -> list[Any]:
    """Every cut of one network that loses enough."""
    job, model = network(key, folder, archives)
    learn, test = (training.load_pool(job, part, archives) for part in ("train", "test"))
    whole, found = _skill(job, model, test), []
    analysis = analyze(model, example_inputs=learn.images[:4], response=False)
    for proposal in sorted(analysis.proposals, key=lambda p: -p.keep_levels):
        if proposal.refusal is not None:
            continue
        torch.manual_seed(0)
        variant = proposal.build()
        cut, macs = _skill(job, variant.module, test), proposal.macs / analysis.costs.macs
        if whole - cut <= LOST * whole:
            continue
        given = learn.images if images == "given" else synthetic(analysis, len(learn.images))
        course = variant.recover(
            given, steps=steps_within(SHARE, macs, len(learn.images)), progress=False
        )
        recovered = _skill(job, variant.module, test)
        found.append({
            "network": job.design, "task": job.task, "role": NETWORKS[key],
            "keep": proposal.keep_levels, "macs": macs, "reach": variant.plan.reach,
            "parameters": proposal.parameters / analysis.costs.parameters, "steps": course.steps,
            "whole": whole, "cut": cut, "recovered": recovered,
            "regained": (recovered - cut) / (whole - cut), "explained": course.after.explained,
        })  # fmt: skip
    return found


def synthetic(analysis: Analysis, count: int) -> torch.Tensor:
    """Draw dead leaves, as the response is measured on; shape (count, ...) of one input."""
    drawn = synthetic_inputs(analysis.structure, dead_leaves, count, seed=0)
    (images,) = (value for value in drawn if isinstance(value, torch.Tensor))
    return images


def _skill(job: Job, module: nn.Module, test: Pool) -> float:
    judge, one = Skill(TASKS[job.task].kind, test), np.ones((1, len(test.images)))
    quality = judge.quality(judge.sums(answers(module.eval(), test.images)), one)
    return float((quality - judge.trivial(one))[0])


def main() -> None:
    """Recover every cut; the table is written after each network, finished ones are taken."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--archives", type=Path, default=ROOT / "runs" / "evidence" / "archives")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "pareto")
    parser.add_argument("--table", type=Path, default=ROOT / "docs/studies/pareto/regained.csv")
    parser.add_argument("--images", choices=("given", "synthetic"), default="given")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found: list[Any] = []
    for key in NETWORKS:
        kept = options.out / f"regained-{options.images}-{key[0]}.json"
        if not kept.exists():
            made = rows(key, options.out, options.archives, options.images)
            kept.write_text(json.dumps(made))
        found += json.loads(kept.read_text())
        pd.DataFrame(found).to_csv(options.table, index=False, float_format="%.4g")


if __name__ == "__main__":
    main()
