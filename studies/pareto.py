"""Cut, recovered without labels, measured: how much of the lost skill comes back, at what cost.

``python studies/pareto.py --out runs/pareto --archives runs/evidence/archives`` trains the networks
of ``JOBS`` with the tasks of the evidence study, cuts them at every depth and recovers each by
matching 600 images, a twentieth of the images of the training. One row per cut in ``cuts.csv``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file
from torch import nn

import weightscope as ws
from studies.evidence_protocol import training
from studies.evidence_protocol.jobs import Job
from studies.evidence_protocol.tasks import TASKS, Pool
from studies.evidence_protocol.truth import Skill, answers

STEPS, RECOVERY = 1500, 150
DESIGNS = (
    ("batch", "discs"),
    ("unet", "patch"),
    ("residual", "mosaic"),
    ("batch", "rings_middle"),
    ("unet", "nuclei"),
    ("group", "rings_large"),
    ("unet", "particles"),
    ("plain", "distance"),
    ("smp_unet", "mosaic"),
)
JOBS = tuple(
    Job(
        index=1000 + index, design=design, task=task, optimizer="adam", rate=2e-3,
        schedule="cosine", start="scratch", earlier="", labels="true", width=8, levels=4,
        steps=STEPS, standard=True, ema=False, early=False, size=48,
    )
    for index, (design, task) in enumerate(DESIGNS)
)  # fmt: skip


def trained(job: Job, folder: Path, archives: Path) -> nn.Module:
    """The network of a job: read from the folder, or trained and put there."""
    path, model = folder / f"{job.index}.safetensors", training.build(job)
    if path.exists():
        model.load_state_dict(load_file(path))
        return model.eval()
    torch.manual_seed(job.index)
    pool = training.load_pool(job, "train", archives)
    optimizer = training.make_optimizer(job, model)
    schedule = training.make_schedule(job, optimizer)
    loss = training.make_loss(TASKS[job.task], pool)
    training.fit(model, optimizer, schedule, loss, pool, job.steps, job.index, "true")
    training.save_weights(model, path)
    return model.eval()


def skill(model: nn.Module, task: str, test: Pool) -> float:
    """Quality above the best trivial answer."""
    judge, every = Skill(TASKS[task].kind, test), np.ones((1, len(test.images)))
    found = judge.quality(judge.sums(answers(model.eval(), test.images)), every)
    return float(found[0] - judge.trivial(every)[0])


def main() -> None:
    """Train, cut, recover, measure; rows that are there already stay."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/pareto"))
    parser.add_argument("--archives", type=Path, default=Path("runs/evidence/archives"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    rows = []
    for job in JOBS:
        model = trained(job, options.out, options.archives)
        images = training.load_pool(job, "train", options.archives).images
        test = training.load_pool(job, "test", options.archives)
        whole = skill(model, job.task, test)
        for proposal in ws.analyze(model, example_inputs=images[:2]).proposals:
            if proposal.refusal is not None:
                continue
            torch.manual_seed(0)
            small = proposal.build()
            cut = skill(small.module, job.task, test)
            course = small.recover(images, steps=RECOVERY, progress=False)
            recovered = skill(small.module, job.task, test)
            rows.append(
                {
                    "design": job.design,
                    "task": job.task,
                    "keep_levels": proposal.keep_levels,
                    "whole": whole,
                    "cut": cut,
                    "recovered": recovered,
                    "regained": (recovered - cut) / (whole - cut) if whole != cut else np.nan,
                    "macs": proposal.macs / proposal.costs.macs,
                    "parameters": proposal.parameters / proposal.costs.parameters,
                    "start": course.start,
                    "steps": course.steps,
                }
            )
            pd.DataFrame(rows).to_csv(options.out / "cuts.csv", index=False)


if __name__ == "__main__":
    main()
