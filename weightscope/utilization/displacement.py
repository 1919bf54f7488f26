"""How far the weights went, and how far an optimiser would have carried them on pure noise.

The final weights of one parameter are split as ``w = shrinkage * w0 + delta`` with ``delta``
orthogonal to the initial weights ``w0``, so that weight decay (which only scales ``w0``) does not
count as movement. ``walk`` is the rms of ``delta`` expected if every gradient had been independent
noise; ``docs/evidence.md`` derives it for Adam, AdamW and SGD with momentum.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from weightscope.errors import InputError


@dataclass(frozen=True)
class Displacement:
    """The movement of one parameter since the start of the training.

    Attributes:
        parameter: Qualified name.
        count: Number of weights.
        moved: Rms of the movement orthogonal to the initial weights, in units of the weights.
        shrinkage: Projection of the final on the initial weights; nan if those are all zero.
        walk: Rms movement that this optimiser makes on steady pure noise with the learning rates it
            had; nan where it is not known, 0 if the parameter was not trained.
        faded_walk: The same on noise whose strength over time is that of the gradients sampled
            while watching: smaller than ``walk`` where gradients faded during the training. Nan
            where it is not known.
        note: Why ``walk`` is nan, else empty.
    """

    parameter: str
    count: int
    moved: float
    shrinkage: float
    walk: float
    faded_walk: float
    note: str = ""
    saliency: float = float("nan")


class MovementRecord(Protocol):
    """Anything that knows the displacement of a model's parameters, such as a watched history."""

    def displacements(self) -> tuple[Displacement, ...]:
        """One record for each parameter."""
        ...


def measure_displacement(
    parameter: str,
    final: Tensor,
    initial: Tensor,
    walk: float,
    faded_walk: float = float("nan"),
    note: str = "",
    *,
    saliency: float = float("nan"),
) -> Displacement:
    """Split the movement of one parameter into shrinkage and what is orthogonal to its start.

    Args:
        parameter: Qualified name, for the record and for messages.
        final: Weights now.
        initial: Weights at the start, of the same shape.
        walk: Rms movement expected on steady pure noise.
        faded_walk: Rms movement expected on noise that fades as the gradients did.
        note: Why ``walk`` is nan, if it is.
        saliency: First-order importance late in the training, where gradients were sampled.

    Raises:
        InputError: The shapes differ.
    """
    if final.shape != initial.shape:
        raise InputError(
            f"{parameter}: the initial weights have shape {tuple(initial.shape)}, the final ones "
            f"{tuple(final.shape)}; give the state dict of the same network before training"
        )
    w = final.detach().to("cpu", torch.float64).flatten()
    w0 = initial.detach().to("cpu", torch.float64).flatten()
    energy = float(w0 @ w0)
    if w.numel() > 1 and energy > 0.0:
        shrinkage = float(w @ w0) / energy
        delta = w - shrinkage * w0
        moved = math.sqrt(float(delta @ delta) / (w.numel() - 1))
    else:
        shrinkage = float("nan")
        moved = float((w - w0).square().mean().sqrt()) if w.numel() else 0.0
    return Displacement(parameter, w.numel(), moved, shrinkage, walk, faded_walk, note, saliency)


@dataclass(frozen=True)
class StageMovement:
    """Movement of a stage's kernels, pooled over their weights, in units of their noise walk.

    Attributes:
        ratio: Rms movement / noise walk; nan if the walk is unknown for every kernel.
        live: ``ratio`` times the share of the walk that the gradients had strength for,
            ``ratio * faded_walk / walk``: movement counts less where the gradients faded. Equal to
            ``ratio`` where no gradients were sampled.
        low: Smallest ``live`` among the kernels.
        high: Largest ``live`` among the kernels.
        notes: Why kernels were left out.
    """

    ratio: float
    live: float
    low: float
    high: float
    notes: tuple[str, ...]


def pool(displacements: Mapping[str, Displacement], kernels: tuple[str, ...]) -> StageMovement:
    """Pool the kernels of one stage; those whose walk is unknown or zero are left out."""
    found = [displacements[name] for name in kernels if name in displacements]
    usable = [d for d in found if d.walk > 0.0 and math.isfinite(d.moved)]
    notes = tuple(sorted({d.note for d in found if d.note}))
    if any(d.walk == 0.0 for d in found):
        notes += ("not trained: no optimiser held it",)
    if not usable:
        nan = float("nan")
        return StageMovement(nan, nan, nan, nan, notes)
    count = sum(d.count for d in usable)
    walk = math.sqrt(sum(d.count * d.walk**2 for d in usable) / count)
    faded = math.sqrt(sum(d.count * _faded(d) ** 2 for d in usable) / count)
    ratio = math.sqrt(sum(d.count * d.moved**2 for d in usable) / count) / walk
    live = [d.moved * _faded(d) / d.walk**2 for d in usable]
    return StageMovement(
        ratio=ratio, live=ratio * faded / walk, low=min(live), high=max(live), notes=notes
    )


def _faded(displacement: Displacement) -> float:
    """The faded walk, or the steady one where no gradients were sampled."""
    known = math.isfinite(displacement.faded_walk)
    return displacement.faded_walk if known else displacement.walk
