"""The distribution of a parameter at one step of a training."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from weightscope.summaries import summarize

LATE = 0.75
"""Saliency counts from this share of the steps on: what a stage was worth early matters little."""


@dataclass(frozen=True, eq=False)
class Snapshot:
    """The distribution of one parameter at one step.

    Attributes:
        step: Optimiser steps done, counted from the first start of the training.
        parameter: Qualified name.
        count: Number of weights.
        mean: Mean.
        std: Population standard deviation.
        minimum: Smallest value.
        maximum: Largest value.
        edges: Histogram edges (bins + 1), in units of the weights.
        counts: Weights in each bin (bins).
        saliency: ``sum |w * dL/dw|`` over the weights with the gradient of that step, in units of
            the loss; nan before the first step and where no gradient arrived.
    """

    step: int
    parameter: str
    count: int
    mean: float
    std: float
    minimum: float
    maximum: float
    edges: np.ndarray[Any, np.dtype[np.float64]]
    counts: np.ndarray[Any, np.dtype[np.int64]]
    saliency: float


def take(parameter: str, weights: Tensor, step: int) -> Snapshot:
    """The distribution of a parameter as it is.

    Args:
        parameter: Qualified name.
        weights: The parameter, with its gradient.
        step: Optimiser steps done.
    """
    summary = summarize(weights.detach())
    return Snapshot(
        step=step,
        parameter=parameter,
        count=summary.count,
        mean=summary.mean,
        std=summary.std,
        minimum=summary.minimum,
        maximum=summary.maximum,
        edges=summary.histogram.edges,
        counts=summary.histogram.counts,
        saliency=saliency_of(weights) if step else math.nan,
    )


def saliency_of(parameter: Tensor) -> float:
    """First-order importance of a parameter's weights by the gradient that it holds."""
    if parameter.grad is None:
        return math.nan
    # in half precision most of the products would vanish
    return float((parameter.detach().float() * parameter.grad.detach().float()).abs().sum())


def late_saliencies(snapshots: Iterable[Snapshot], steps: int) -> dict[str, float]:
    """Mean saliency of each parameter over the snapshots of the last quarter of the steps.

    Args:
        snapshots: Recorded distributions.
        steps: Optimiser steps done.
    """
    late: dict[str, list[float]] = {}
    for s in snapshots:
        if s.step >= LATE * steps and math.isfinite(s.saliency):
            late.setdefault(s.parameter, []).append(s.saliency)
    return {name: sum(values) / len(values) for name, values in late.items()}
