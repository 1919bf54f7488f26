"""Which networks are trained, and the training of one of them."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import weightscope.watching
from studies.evidence_protocol.networks import Architecture, build
from studies.evidence_protocol.tasks import TASKS, Pool, Task, load_pool, normalise
from studies.sand.losses import weighted_cross_entropy

Rule = Literal["adam", "adamw", "sgd"]
DECAY = 1.0
"""AdamW's weight decay: with the learning rates used, what is not used shrinks to about half."""


@dataclass(frozen=True)
class Run:
    """One network to train.

    Attributes:
        architecture: Which design.
        task: Which task.
        rule: Optimiser; ``adamw`` decays the weights.
        labels: ``true``, ``shuffled`` (every image gets another one's mask, drawn anew at every
            step) or ``none`` (not trained at all).
        seed: Of initial weights, data and batches.
    """

    architecture: Architecture
    task: Task
    rule: Rule
    labels: Literal["true", "shuffled", "none"]
    seed: int

    @property
    def name(self) -> str:
        """Name of the run's folder."""
        return f"{self.architecture}-{self.task}-{self.rule}-{self.labels}-{self.seed}"


@dataclass(frozen=True)
class Preset:
    """How large the study is.

    Attributes:
        size: Side of the images in pixels.
        width: Channels of the first level.
        steps: Optimiser steps.
        batch: Images per step.
        train: Training images.
        validation: Images that the data grade may see.
        test: Images that define the truth.
        seeds: Number of seeds.
        architectures: Designs trained with Adam on every task.
        variations: Further (architecture, rule) pairs trained on every task.
        shuffled: (architecture, rule) pairs trained on shuffled labels, tiny and large only.
        truncated: (architecture, rule) pairs whose networks are also cut at every depth and
            fine-tuned; the first seed only.
        tuning_steps: Steps of the fine-tuning.
        from_scratch: Whether the cut networks are trained from scratch as well.
    """

    size: int
    width: int
    steps: int
    batch: int
    train: int
    validation: int
    test: int
    seeds: int
    architectures: tuple[Architecture, ...]
    variations: tuple[tuple[Architecture, Rule], ...]
    shuffled: tuple[tuple[Architecture, Rule], ...]
    truncated: tuple[tuple[Architecture, Rule], ...]
    tuning_steps: int
    from_scratch: bool

    def runs(self) -> list[Run]:
        """All runs, the ones that carry most of the judgement first: seed by seed."""
        pairs: list[tuple[Architecture, Rule]] = [(a, "adam") for a in self.architectures]
        pairs += self.variations
        runs = []
        for seed in range(self.seeds):
            runs += [Run(a, task, rule, "true", seed) for task in TASKS for a, rule in pairs]
            for a, rule in self.shuffled:
                runs += [Run(a, task, rule, "shuffled", seed) for task in ("tiny", "large")]
            untrained = dict.fromkeys(a for a, _ in pairs)
            runs += [Run(a, "tiny", "adam", "none", seed) for a in untrained]
        return runs

    def truncated_runs(self) -> list[Run]:
        """The runs whose networks are also cut and trained on."""
        return [Run(a, task, rule, "true", 0) for a, rule in self.truncated for task in TASKS]


def make_optimizer(rule: Rule, model: nn.Module) -> torch.optim.Optimizer:
    """The optimiser of a rule."""
    if rule == "sgd":
        return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    if rule == "adamw":
        return torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=DECAY)
    return torch.optim.Adam(model.parameters(), lr=2e-3)


def loss_function(outputs: Tensor, targets: Tensor) -> Tensor:
    """Class-weighted cross-entropy per pixel."""
    pixels = targets.shape[-1] * targets.shape[-2]
    return weighted_cross_entropy(outputs, targets) / pixels


def draw_batch(pool: Pool, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A random batch, flipped and turned at random."""
    picked = torch.randint(len(pool.images), (size,), generator=generator)
    turns, flip = torch.randint(4, (2,), generator=generator).tolist()
    images, masks = normalise(pool.images[picked]), pool.masks[picked].float()
    images, masks = (torch.rot90(x, turns, (2, 3)) for x in (images, masks))
    return (images.flip(3), masks.flip(3)) if flip % 2 else (images, masks)


def train(
    model: nn.Module, pool: Pool, rule: Rule, steps: int, batch: int, seed: int, *, shuffled: bool
) -> tuple[float, weightscope.watching.History]:
    """Train a model in place.

    Returns:
        Mean loss of the last tenth of the steps, and the watched history.
    """
    generator = torch.Generator().manual_seed(seed)
    optimizer = make_optimizer(rule, model)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(steps, 1))
    losses = []
    model.train()
    with weightscope.watching.watch(model, optimizer, every=max(steps // 28, 1)) as history:
        for _ in range(steps):
            images, masks = draw_batch(pool, batch, generator)
            if shuffled:
                masks = pool.masks[
                    torch.randint(len(pool.masks), (batch,), generator=generator)
                ].float()
            optimizer.zero_grad()
            loss = loss_function(model(images), masks)
            loss.backward()
            if rule == "sgd":
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
    model.eval()
    last = losses[-max(steps // 10, 1) :]
    return (sum(last) / len(last) if last else float("nan")), history


def carry_out(run: Run, preset: Preset, folder: Path) -> Path:
    """Train one network and store it, unless that was done before.

    The run's folder appears complete or not at all: ``initial.safetensors``,
    ``final.safetensors``, ``run.json``.
    """
    target = folder / "runs" / run.name
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    pool = load_run_pool(run, preset, folder)
    model = build(run.architecture, preset.width, run.seed)
    initial = {n: t.detach().clone() for n, t in model.state_dict().items()}
    record: dict[str, Any] = {"run": asdict(run), "preset": asdict(preset)}
    steps = 0 if run.labels == "none" else preset.steps
    loss, history = train(
        model,
        pool.part(0, preset.train),
        run.rule,
        steps,
        preset.batch,
        run.seed,
        shuffled=run.labels == "shuffled",
    )
    record["loss"] = loss
    record["displacements"] = [asdict(d) for d in history.displacements()]
    record["seconds"] = time.monotonic() - begun
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".writing-") as writing:
        work = Path(writing) / run.name
        work.mkdir()
        save_file(initial, work / "initial.safetensors")
        save_file(
            {n: t.contiguous() for n, t in model.state_dict().items()}, work / "final.safetensors"
        )
        (work / "run.json").write_text(json.dumps(record))
        try:
            os.rename(work, target)
        except OSError:
            if not target.exists():
                raise
            shutil.rmtree(work)  # another process was faster
    return target


def load_run_pool(run: Run, preset: Preset, folder: Path) -> Pool:
    """The pool of a run: training, validation and test images in this order."""
    count = preset.train + preset.validation + preset.test
    return load_pool(run.task, preset.size, count, run.seed, folder / "pools")


def load_network(run: Run, preset: Preset, folder: Path) -> nn.Module:
    """The stored network of a run."""
    model = build(run.architecture, preset.width, run.seed)
    model.load_state_dict(load_file(folder / "runs" / run.name / "final.safetensors"))
    return model.eval()
