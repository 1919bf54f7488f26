"""Training as in sec. 4.3, in epochs that survive an interruption."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from studies.sand.augmentation import Augmentation, augment
from studies.sand.losses import weighted_cross_entropy
from studies.sand.metrics import evaluate
from studies.sand.tiles import Split, Tiles
from weightscope.errors import CheckpointError
from weightscope.files import written_atomically
from weightscope.watching import History, watch


@dataclass(frozen=True)
class TrainingSettings:
    """How a network is trained; the defaults are the paper's.

    Attributes:
        epochs: Passes over the training tiles.
        batch_size: Tiles in a step.
        learning_rate: At the start.
        decay: The learning rate is multiplied by this ...
        decay_steps: ... every so many steps.
        seed: Seed of the order of tiles and of the augmentation.
        augmentation: How tiles are moved; None for not at all.
        class_weight: Weight of plastic in the loss, sand having 1; None for eq. 25 and 26.
        bf16: Compute the network in bfloat16 (weights and loss stay float32).
        watch_every: Steps between the weight histograms that are recorded.
    """

    epochs: int = 150
    batch_size: int = 8
    learning_rate: float = 1e-3
    decay: float = 0.96
    decay_steps: int = 800
    seed: int = 0
    augmentation: Augmentation | None = field(default_factory=Augmentation)
    class_weight: float | None = None
    bf16: bool = False
    watch_every: int = 200


@dataclass(frozen=True)
class Epoch:
    """What one epoch came to.

    Attributes:
        epoch: 1 for the first.
        loss: Mean training loss per pixel.
        learning_rate: At its end.
        validation_best_f1: Best-threshold F1 on the validation tiles.
        seconds: How long it took, validation included.
        processor_seconds: How much processor time, over all threads.
    """

    epoch: int
    loss: float
    learning_rate: float
    validation_best_f1: float
    seconds: float
    processor_seconds: float


@dataclass(frozen=True, eq=False)
class TrainingRun:
    """All epochs of one training.

    Attributes:
        epochs: One record each.
        resumed_from: Number of epochs that an earlier, interrupted run had finished.
        history: How the weights moved, for ``weightscope.analyze``.
    """

    epochs: tuple[Epoch, ...]
    resumed_from: int
    history: History

    @property
    def processor_seconds(self) -> float:
        """How much processor time the training took in all."""
        return sum(epoch.processor_seconds for epoch in self.epochs)


def train(
    model: nn.Module,
    tiles: Tiles,
    split: Split,
    settings: TrainingSettings,
    checkpoint: Path,
    tell: Callable[[str], None] = lambda text: None,
) -> TrainingRun:
    """Train a network in place, with the state saved after every epoch.

    If ``checkpoint`` exists, the training goes on after its last epoch and ends with the same
    weights as a training without interruption: the order of tiles and the augmentation of an
    epoch depend on the seed and the epoch's number alone.

    Args:
        model: Maps (B, 3, S, S) to logits (B, 1, S, S).
        tiles: Where images and masks come from.
        split: Which tiles to train on and to validate with.
        settings: How to train.
        checkpoint: File of the state.
        tell: Called with a line of progress after every epoch.

    Returns:
        What every epoch came to.

    Raises:
        CheckpointError: ``checkpoint`` is damaged or belongs to another network or training.
        InputError: The checkpoint cannot be written, for example because the disk is full.
    """
    optimizer = torch.optim.Adam(
        model.parameters(), lr=settings.learning_rate, betas=(0.9, 0.999), eps=1e-7
    )
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, settings.decay_steps, settings.decay)
    state = _read(checkpoint, settings)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    fill = tiles.mean_pixel(split.train)
    with watch(model, optimizer, settings.watch_every) as history:
        parts: dict[str, _HasState] = {
            "model": model,
            "optimizer": optimizer,
            "schedule": schedule,
            "history": history,
        }
        records = _restore(state, parts, checkpoint)
        done = len(records)
        for number in range(done + 1, settings.epochs + 1):
            clocks = time.perf_counter(), time.process_time()
            losses = _epoch(model, optimizer, schedule, tiles, split, settings, number, fill)
            validation = evaluate(model, tiles.batches(split.validation, settings.batch_size))
            records.append(
                Epoch(
                    epoch=number,
                    loss=float(np.mean(losses)),
                    learning_rate=float(schedule.get_last_lr()[0]),
                    validation_best_f1=validation.best_f1,
                    seconds=time.perf_counter() - clocks[0],
                    processor_seconds=time.process_time() - clocks[1],
                )
            )
            _save(checkpoint, parts, settings, records)
            tell(
                f"epoch {number} of {settings.epochs}: loss {records[-1].loss:.3f}, "
                f"validation F1 {validation.best_f1:.3f}"
            )
    return TrainingRun(epochs=tuple(records), resumed_from=done, history=history)


def _epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    tiles: Tiles,
    split: Split,
    settings: TrainingSettings,
    number: int,
    fill: torch.Tensor,
) -> list[float]:
    """Pass once over the training tiles; return the loss per pixel of every step."""
    order = np.random.default_rng([settings.seed, number]).permutation(split.train)
    generator = torch.Generator().manual_seed(settings.seed * 100_003 + number)
    losses = []
    model.train()
    for images, masks in tiles.batches(order, settings.batch_size):
        losses.append(training_step(model, optimizer, images, masks, settings, fill, generator))
        schedule.step()
    return losses


def training_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: torch.Tensor,
    masks: torch.Tensor,
    settings: TrainingSettings,
    fill: torch.Tensor,
    generator: torch.Generator,
) -> float:
    """Train on one batch, on the model's device; return the loss per pixel.

    Args:
        model: Maps (B, 3, S, S) to logits (B, 1, S, S), in training mode.
        optimizer: Of its parameters.
        images: (B, 3, S, S) in 0..1.
        masks: (B, 1, S, S) of 0 and 1.
        settings: How to train.
        fill: (3,) mean colour of the data set.
        generator: Where the augmentation's randomness comes from.
    """
    device = next(model.parameters()).device
    images, masks = images.to(device), masks.to(device)
    if settings.augmentation is not None:
        images, masks = augment(images, masks, fill, generator, settings.augmentation)
    images = images.contiguous(memory_format=torch.channels_last)  # a sixth faster on CPUs
    with torch.autocast(device.type, torch.bfloat16, enabled=settings.bf16):
        logits = model(images)
    loss = weighted_cross_entropy(logits.float(), masks, settings.class_weight)
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return loss.item() / masks[0].numel()


class _HasState(Protocol):
    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Any) -> Any: ...


def _save(
    checkpoint: Path,
    parts: Mapping[str, _HasState],
    settings: TrainingSettings,
    records: list[Epoch],
) -> None:
    state = {name: part.state_dict() for name, part in parts.items()}
    state["settings"] = {"settings": repr(settings)}
    state["epochs"] = {"epochs": [vars(record) for record in records]}
    # in memory first: torch reports a full disk as an internal error without the file's name
    buffer = io.BytesIO()
    torch.save(state, buffer)
    with written_atomically(checkpoint) as temporary:
        temporary.write_bytes(buffer.getvalue())


def _read(checkpoint: Path, settings: TrainingSettings) -> dict[str, Any] | None:
    """Read what an interrupted training left behind, if anything."""
    if not checkpoint.exists():
        return None
    remedy = f"delete {str(checkpoint)!r} to train anew"
    try:
        state: dict[str, Any] = torch.load(checkpoint, map_location="cpu", weights_only=True)
        trained_with = state["settings"]["settings"]
    except Exception as error:  # torch raises half a dozen kinds for a damaged file
        raise CheckpointError(f"{str(checkpoint)!r} is damaged ({error}); {remedy}") from error
    if trained_with != repr(settings):
        raise CheckpointError(
            f"{str(checkpoint)!r} was trained with other settings; {remedy}, or give another --out"
        )
    return state


def _restore(
    state: dict[str, Any] | None, parts: Mapping[str, _HasState], checkpoint: Path
) -> list[Epoch]:
    """Put network, optimiser, schedule and history back to where they were."""
    if state is None:
        return []
    try:
        for name, part in parts.items():
            part.load_state_dict(state[name])
    except (RuntimeError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{str(checkpoint)!r} holds another network ({error}); delete it to train anew"
        ) from error
    return [Epoch(**record) for record in state["epochs"]["epochs"]]
