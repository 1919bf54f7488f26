"""Does a mean over classes hide what one of them loses? The networks of several classes.

What counts as a failure stands in ``docs/decisions/utilization.md``.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from studies.evidence_protocol.designs import DESIGNS
from studies.evidence_protocol.jobs import Job
from studies.evidence_protocol.scoring import BATCH
from studies.evidence_protocol.tasks import TASKS
from studies.evidence_protocol.training import archives, load_network, load_pool, stored
from studies.evidence_protocol.truth import NEGLIGIBLE, SKILLED, without_levels
from studies.runner import read_result
from weightscope.files import written_atomically
from weightscope.graph import read_structure
from weightscope.thresholds import LOSS_THAT_COUNTS
from weightscope.utilization import DataEvidence, gather_data

METRICS = ("f1", "iou")


@dataclass(frozen=True)
class CutOfClasses:
    """What is said of one cut by one metric, and what each class of it loses on the test images.

    Attributes:
        name: Of the network.
        chooses: Whether it has three classes.
        metric: The mean over classes.
        reduction: Of the cut.
        before: Verdict without the guard.
        after: With it.
        lost: Share of the mean's skill that is lost, on the test images.
        worst: Share of its own skill that the class loses which surely loses most.
        low: Lower end of its interval.
    """

    name: str
    chooses: bool
    metric: str
    reduction: int
    before: str
    after: str
    lost: float
    worst: float
    low: float

    @property
    def harmless(self) -> bool:
        """Whether *unused* is right: neither the mean nor, clearly, any class loses."""
        return self.lost <= NEGLIGIBLE and self.low <= NEGLIGIBLE


def losses(answers: dict[int, Tensor], targets: Tensor) -> dict[int, tuple[float, float, float]]:
    """By reduction: what the mean F1 loses of its skill, and the class that surely loses most.

    Args:
        answers: From `without_levels`; key 0 is the whole network.
        targets: (images, *sizes), class numbers.
    """
    count, classes = len(targets), answers[0].shape[1]
    rng = np.random.default_rng(0)
    drawn = rng.multinomial(count, np.full(count, 1 / count), 300).astype(float)
    weights = np.concatenate([np.ones((1, count)), drawn])
    true = F.one_hot(targets, classes).flatten(1, -2).double().sum(1).numpy()

    def f1(called: Tensor) -> NDArray[np.float64]:
        hot = F.one_hot(called, classes)
        hits = (hot * F.one_hot(targets, classes)).flatten(1, -2).double().sum(1).numpy()
        total = weights @ (hot.flatten(1, -2).double().sum(1).numpy() + true)
        return np.asarray(2 * (weights @ hits) / np.maximum(total, 1.0))

    share = (weights @ true) / (weights.sum(1, keepdims=True) * targets[0].numel())
    constant = 2 * share / (1 + share)
    whole = f1(answers[0].argmax(1))
    skill = whole - constant
    found = {}
    for reduction, answer in answers.items():
        if reduction:
            gone = whole - f1(answer.argmax(1))
            own = gone / np.maximum(skill, 1e-9)
            lows = np.quantile(own[1:], 0.025, axis=0)
            lows[skill[0] <= NEGLIGIBLE] = -np.inf
            most = int(lows.argmax())
            mean = float(gone[0].mean() / (whole - _alike(constant, share))[0].mean())
            found[reduction] = (mean, float(own[0, most]), float(lows[most]))
    return found


def _alike(constant: NDArray[np.float64], share: NDArray[np.float64]) -> NDArray[np.float64]:
    """F1 of the classes where everything is called the commonest one."""
    return np.asarray(constant * np.eye(share.shape[1])[share.argmax(1)])


def unguarded(data: DataEvidence) -> DataEvidence:
    """The same without what is known of single classes."""
    assert data.ablation is not None
    levels = tuple(replace(cut, worst_low=float("nan")) for cut in data.ablation.levels)
    return replace(data, ablation=replace(data.ablation, levels=levels))


def measure_classes(listed: Sequence[Job], folder: Path) -> list[CutOfClasses]:
    """Every cut of every skilled network of three classes or more, by each metric."""
    found = []
    for job in listed:
        task, path = TASKS[job.task], stored(job, folder)
        if task.kind != "classes" or job.labels != "true" or path is None:
            continue
        if read_result(path)["result"]["truth"]["skill"] <= SKILLED:
            continue
        model = load_network(job, folder)
        test = load_pool(job, "test", archives(folder))
        answers = without_levels(model, DESIGNS[job.design].taps(model), test.images)
        truth = losses(answers, test.targets)
        batches = load_pool(job, "validation", archives(folder)).batches(BATCH)
        structure = read_structure(model, batches[0][0][:1])
        for metric in METRICS:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                data = gather_data(structure, batches, metric=metric)
            for cut in structure.cuts:
                reduction = round(structure.reductions[cut.keep_levels][0])
                stage = next(s.name for s in structure.stages if s.level == cut.keep_levels)
                before, after = (d.score(stage).verdict for d in (unguarded(data), data))
                found.append(
                    CutOfClasses(
                        job.name, answers[0].shape[1] == 3, metric, reduction, before, after,
                        *truth[reduction],
                    )
                )  # fmt: skip
    return found


def failures(cuts: Sequence[CutOfClasses]) -> list[str]:
    """What was written down as a failure, in words."""
    found = [
        f"{c.name} at {c.reduction}, by {c.metric}: called unused, and a class surely loses "
        f"{c.low:.0%} of its own skill or more"
        for c in cuts
        if c.after == "unused" and c.low > LOSS_THAT_COUNTS
    ]
    right = [c for c in cuts if c.before == "unused" and c.harmless]
    withdrawn = [c for c in right if c.after != "unused"]
    if len(withdrawn) > 0.1 * len(right):
        found.append(f"{len(withdrawn)} of {len(right)} right verdicts *unused* are withdrawn")
    return found


def write_classes(cuts: Sequence[CutOfClasses], path: Path) -> None:
    """The page, failures first."""
    text = ["# Does a mean over classes hide what one of them loses?", ""]
    for chooses, title in ((True, "three classes, which may choose"), (False, "four, which judge")):
        own = [c for c in cuts if c.chooses == chooses]
        failed = failures(own)
        changed = [c for c in own if c.before != c.after]
        unused = [c for c in own if c.before == "unused"]
        text += [
            f"**{len(failed)} failures** on {len({c.name for c in own})} networks of {title}. The "
            f"guard changes {len(changed)} of {len(own)} verdicts; {len(unused)} were *unused* "
            f"without it, {sum(c.harmless for c in unused)} of these rightly.",
            "",
            *[f"- {one}" for one in failed],
            *[""] * bool(failed),
        ]
    rows = [c for c in cuts if "unused" in (c.before, c.after) or c.before != c.after]
    text += [
        "`python studies/evidence.py classes`; what counts as a failure was "
        "[written down](../../decisions/utilization.md) before. All cuts that are called unused "
        "with the guard or without it; the skill lost is that of the mean F1 on the test images, "
        "by hooks, and that of the class that surely loses most there.",
        "",
        "| network | classes | by | cut at | mean loses | one class loses | at least | without the "
        "guard | with it |",
        "|" + " --- |" * 9,
        *[
            f"| {c.name} | {3 if c.chooses else 4} | {c.metric} | {c.reduction} | {c.lost:.1%} | "
            f"{c.worst:.1%} | {c.low:.1%} | {c.before} | {c.after} |"
            for c in rows
        ],
        "",
    ]
    with written_atomically(path) as temporary:
        temporary.write_text("\n".join(text))


def study_classes(listed: Sequence[Job], folder: Path, target: Path) -> list[dict[str, Any]]:
    """Measure, write ``classes.md``, and return all rows."""
    torch.set_num_threads(1)
    cuts = measure_classes(listed, folder)
    write_classes(cuts, target / "classes.md")
    return [vars(cut) for cut in cuts]
