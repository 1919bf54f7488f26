"""How far one step of each optimiser carries a weight, and the walk that follows from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch.optim import SGD, Adam, Optimizer


@dataclass(frozen=True)
class StepRule:
    """How far one step of an optimiser carries a weight, and what it decays.

    On pure noise a step is ``gain * g`` in the long run, with ``g`` the gradient divided by its own
    rms for adaptive optimisers; every step also multiplies the weight by ``keep``.

    Attributes:
        gain: Learning rate after momentum.
        keep: ``1 - gain * decay``.
        normalised: Whether the optimiser divides the gradient by its rms.
        note: Why no noise walk is known, else empty.
    """

    gain: float
    keep: float
    normalised: bool
    note: str = ""


def step_rule(optimizer: Optimizer, group: Mapping[str, Any]) -> StepRule:
    """Read the rule of one parameter group off its present settings.

    Adam's first moment has unit gain for a constant, so noise of unit rms walks
    ``lr * sqrt(steps)`` whatever beta1. SGD's buffer has the gain ``(1 - dampening) / (1 -
    momentum)``. AdamW and SGD shrink the weight towards 0; Adam's own ``weight_decay`` goes through
    the normalisation, where its effect is not known beforehand: the measured shrinkage covers it.
    """
    rate, decay = float(group["lr"]), float(group.get("weight_decay", 0.0))
    if isinstance(optimizer, Adam):
        if group.get("amsgrad"):
            return StepRule(rate, 1.0, True, "no noise walk is derived for amsgrad")
        decoupled = bool(group.get("decoupled_weight_decay"))
        return StepRule(rate, 1.0 - rate * decay if decoupled else 1.0, True)
    if isinstance(optimizer, SGD):
        momentum, dampening = float(group["momentum"]), float(group["dampening"])
        gain = rate * (1.0 - dampening) / (1.0 - momentum) if momentum else rate
        return StepRule(gain, 1.0 - gain * decay, False)
    name = type(optimizer).__name__
    return StepRule(rate, 1.0, True, f"no noise walk is derived for {name}")


@dataclass
class Walk:
    """Running noise walk of one parameter group since the last tick."""

    keep: float = 1.0
    variance: float = 0.0

    def step(self, rule: StepRule) -> None:
        """Go on by one step."""
        self.keep *= rule.keep
        self.variance = rule.keep**2 * self.variance + rule.gain**2


@dataclass(frozen=True, eq=False)
class Strengths:
    """By parameter: variances of the noise walk, and the mean square of the last gradient."""

    variance: dict[str, float]
    faded: dict[str, float]
    gradient: dict[str, float]
