"""What verdicts were seen on: the labelled images given, and images without labels.

A sentence says no more than what was measured on these; here the same is measured by hooks of our
own, so that the sentence can be checked by what it says.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from studies.evidence_protocol.designs import DESIGNS
from studies.evidence_protocol.jobs import Job
from studies.evidence_protocol.responses import leaves
from studies.evidence_protocol.tasks import TASKS, Kind
from studies.evidence_protocol.training import (
    archives,
    load_network,
    load_pool,
    make_loss,
    training,
)
from studies.evidence_protocol.truth import measure_truth, without_levels
from weightscope.files import written_atomically

SIZE = 64
"""Side of the dead leaves, in pixels."""


def given(job: Job, folder: Path) -> dict[str, dict[str, Any]]:
    """By grade and reduction, of a stored network; measured once and kept beside it.

    Returns:
        ``data``: share of the skill lost on the labelled images that `analyze` is given, with its
        interval, as `measure_truth` has it. ``images``, ``response``: `dependence` of the output on
        the same images without labels, and on dead leaves.
    """
    path = folder / training(job).address / "given.json"
    if not path.exists():
        with written_atomically(path) as temporary:
            temporary.write_text(json.dumps(_measure(job, folder)))
    found: dict[str, dict[str, Any]] = json.loads(path.read_text())
    return found


@torch.no_grad()
def _measure(job: Job, folder: Path) -> dict[str, Any]:
    model, task = load_network(job, folder), TASKS[job.task]
    taps = DESIGNS[job.design].taps(model)
    pool = load_pool(job, "validation", archives(folder))
    measured = measure_truth(model, taps, task.kind, pool, make_loss(task, pool))
    found: dict[str, Any] = {"data": measured["levels"], "skill": measured["skill"]}
    for grade, images in (("images", pool.images), ("response", leaves(task.channels, SIZE, 0))):
        answers = without_levels(model, taps, images)
        found[grade] = {str(r): dependence(answers[0], answers[r], images, task.kind) for r in taps}
    return found


def dependence(whole: Tensor, cut: Tensor, images: Tensor, kind: Kind) -> float:
    """Disagreement of two answers as a share of that of unrelated ones; nan where there is none.

    The root of one minus Lin's concordance: of the probabilities of all classes, of numbers of what
    they add to the best line through images of their shape.
    """
    if kind == "regression":
        pairs = [tuple(_beyond(t, images).double() for t in (whole, cut))]
    else:
        answers = (t.double() for t in (whole, cut))
        classes = (t.sigmoid() if t.shape[1] == 1 else t.softmax(1) for t in answers)
        pairs = list(zip(*(t.unbind(1) for t in classes), strict=True))
    apart = sum(float((a - b).square().mean()) for a, b in pairs)
    unrelated = sum(
        float(a.var(correction=0) + b.var(correction=0) + (a.mean() - b.mean()) ** 2)
        for a, b in pairs
    )
    return (apart / unrelated) ** 0.5 if unrelated > 0 else float("nan")


def _beyond(answer: Tensor, images: Tensor) -> Tensor:
    """An answer less the best line through the images, where they have its shape."""
    if answer.shape != images.shape:
        return answer
    x, y = images - images.mean(), answer - answer.mean()
    return answer - (x * y).mean() / x.square().mean() * x
