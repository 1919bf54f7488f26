"""The training of one network under its circumstances, and how it is stored."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import weightscope as ws
from studies import runner
from studies.evidence_protocol.designs import DESIGNS
from studies.evidence_protocol.jobs import Job
from studies.evidence_protocol.sources import ARCHIVES
from studies.evidence_protocol.tasks import REAL, TASKS, Part, Pool, Task, make_pool
from studies.evidence_protocol.truth import measure_truth
from studies.runner import Place, Store

COUNTS: dict[Part, int] = {"train": 160, "validation": 40, "test": 80}
BATCH = 8
CODE = tuple(
    f"studies.evidence_protocol.{name}"
    for name in ("designs", "jobs", "sources", "tasks", "training", "truth")
)
"""Modules that decide what a training comes to."""

VERSION = 1
"""Of what these modules compute; results of another version are not taken for these."""
DEAD = -10.0
"""Shift of the deepest stage of a ``dead`` start: far below what any input lifts above 0."""


class Lion(torch.optim.Optimizer):
    """Lion (Chen et al. 2023): the sign of an interpolated momentum, with decoupled decay."""

    def __init__(self, params: Any, lr: float, weight_decay: float) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "betas": (0.9, 0.99)})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step."""
        for group in self.param_groups:
            first, second = group["betas"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                average = self.state[p].setdefault("exp_avg", torch.zeros_like(p))
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.sub_(group["lr"] * (first * average + (1 - first) * p.grad).sign())
                average.mul_(second).add_(p.grad, alpha=1 - second)


def make_optimizer(job: Job, model: nn.Module) -> torch.optim.Optimizer:
    """The optimiser of a job, over the parameters that are trained."""
    trained = [p for p in model.parameters() if p.requires_grad]
    makers: dict[str, Callable[[], torch.optim.Optimizer]] = {
        "adam": lambda: torch.optim.Adam(trained, job.rate),
        "adamw": lambda: torch.optim.AdamW(trained, job.rate, weight_decay=0.01),
        "adamw_strong": lambda: torch.optim.AdamW(trained, job.rate, weight_decay=0.1),
        "sgd": lambda: torch.optim.SGD(
            trained, job.rate, momentum=0.9, nesterov=True, weight_decay=3e-5
        ),
        "rmsprop": lambda: torch.optim.RMSprop(trained, job.rate, weight_decay=1e-5, momentum=0.9),
        "lion": lambda: Lion(trained, job.rate, weight_decay=0.1),
    }
    return makers[job.optimizer]()


def make_schedule(
    job: Job, optimizer: torch.optim.Optimizer
) -> torch.optim.lr_scheduler.LRScheduler:
    """The schedule of a job."""
    if job.schedule == "cosine":
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, job.steps)
    if job.schedule == "polynomial":
        return torch.optim.lr_scheduler.PolynomialLR(optimizer, job.steps, power=0.9)
    return torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)


def make_loss(task: Task, pool: Pool) -> Callable[[Tensor, Tensor], Tensor]:
    """Weighted cross-entropy, cross-entropy or mean square error."""
    if task.kind == "classes":
        return F.cross_entropy
    if task.kind == "regression":
        return F.mse_loss
    share = float(pool.targets.mean())
    weight = torch.tensor(min((1 - share) / max(share, 1e-3), 10.0))
    return lambda outputs, targets: F.binary_cross_entropy_with_logits(
        outputs, targets, pos_weight=weight
    )


def load_pool(job: Job, part: Part, archives: Path, task: str = "") -> Pool:
    """The images of one part of a job's task, or of another task."""
    return make_pool(
        TASKS[task or job.task], part, job.size, COUNTS[part], job.index, archives,
        standard=job.standard,
    )  # fmt: skip


def build(job: Job, outputs: int | None = None) -> nn.Module:
    """The network of a job with random weights."""
    task = TASKS[job.task]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(job.index)
        return DESIGNS[job.design].build(
            task.channels, outputs or task.outputs, job.width, job.levels
        )


def begin(job: Job, archives: Path) -> nn.Module:
    """The network as its training finds it: drawn, pretrained, frozen, or with a dead stage."""
    model = build(job)
    design = DESIGNS[job.design]
    if job.earlier:
        task, pool = TASKS[job.earlier], load_pool(job, "train", archives, job.earlier)
        earlier = build(job, task.outputs)
        optimizer = torch.optim.Adam(earlier.parameters(), 2e-3)
        fit(earlier, optimizer, None, make_loss(task, pool), pool, 200, job.index + 1, "true")
        own = model.state_dict()
        model.load_state_dict(
            {k: v if v.shape == own[k].shape else own[k] for k, v in earlier.state_dict().items()}
        )
    if job.start.startswith("frozen"):
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(not name.startswith(design.encoder))
    if job.start == "dead":
        deepest = nn.ModuleList(max(design.taps(model).items())[1])
        last = [m.bias for m in deepest.modules() if getattr(m, "bias", None) is not None][-1]
        with torch.no_grad():
            last.fill_(DEAD)
    return model


def fit(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler | None,
    loss: Callable[[Tensor, Tensor], Tensor],
    pool: Pool,
    steps: int,
    seed: int,
    labels: str,
    average: AveragedModel | None = None,
) -> float:
    """Train in place; return the mean loss of the last fifth of the steps."""
    generator = torch.Generator().manual_seed(seed)
    losses = []
    model.train()
    for _ in range(steps):
        picked = torch.randint(len(pool.images), (BATCH,), generator=generator)
        others = torch.randint(len(pool.images), (BATCH,), generator=generator)
        x, y = pool.images[picked], pool.targets[picked if labels == "true" else others]
        turns = int(torch.randint(4, (1,), generator=generator))
        x, y = (torch.rot90(t, turns, (-2, -1)) for t in (x, y))
        optimizer.zero_grad()
        value = loss(model(x), y)
        value.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if schedule is not None:
            schedule.step()
        if average is not None:
            average.update_parameters(model)
        losses.append(value.item())
    model.eval()
    last = losses[-max(steps // 5, 1) :]
    return sum(last) / max(len(last), 1)


def carry_out(job: Job, place: Place) -> dict[str, Any]:
    """Train one network and measure its truth.

    Leaves ``final.safetensors``, ``last.safetensors`` where the final weights are an average, and
    ``history.pt`` in the folder.
    """
    archives = place.needs.get(ARCHIVES.name, place.folder)  # of drawn images there are none
    begun = time.process_time()
    torch.manual_seed(job.index)  # dropout
    task, pool = TASKS[job.task], load_pool(job, "train", archives)
    model, loss = begin(job, archives), make_loss(task, pool)
    optimizer = make_optimizer(job, model)
    steps = 0 if job.labels == "none" else round(0.3 * job.steps) if job.early else job.steps
    average = (
        AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.98), use_buffers=True)
        if job.ema and steps
        else None
    )
    with ws.watch(model, optimizer, every=max(steps // 28, 1)) as history:
        last_loss = fit(
            model, optimizer, make_schedule(job, optimizer), loss, pool, steps, job.index,
            job.labels, average,
        )  # fmt: skip
    final = model if average is None else copy.deepcopy(average.module).eval()
    final.eval()
    test = load_pool(job, "test", archives)
    truth = measure_truth(final, DESIGNS[job.design].taps(final), task.kind, test, loss)
    save_weights(final, place.folder / "final.safetensors")
    if average is not None:
        save_weights(model, place.folder / "last.safetensors")
    torch.save(history.state_dict(), place.folder / "history.pt")
    return {
        "half": job.half, "held_out": job.held_out, "loss": last_loss, "truth": truth,
        "processor_seconds": time.process_time() - begun,
    }  # fmt: skip


def training(job: Job) -> runner.Job:
    """The job of the runner that trains a network."""
    return runner.Job(
        job.name,
        carry_out,
        job,
        needs=(ARCHIVES,) if {job.task, job.earlier} & set(REAL) else (),
        files=("final.safetensors", "history.pt"),
        code=CODE,
        version=VERSION,
        bytes=2e6,
    )


def stored(job: Job, folder: Path) -> Path | None:
    """Where a finished training lies; None if it is not finished."""
    return Store(folder).find(training(job))


def archives(folder: Path) -> Path:
    """Where the archives of real images lie."""
    return folder / ARCHIVES.address


def save_weights(model: nn.Module, path: Path) -> None:
    """Write all tensors of a model."""
    save_file({n: t.contiguous() for n, t in model.state_dict().items()}, path)


def load_network(job: Job, folder: Path, which: str = "final") -> nn.Module:
    """The stored network of a job."""
    model = build(job)
    model.load_state_dict(load_file(folder / training(job).address / f"{which}.safetensors"))
    return model.eval()
