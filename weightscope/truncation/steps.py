"""The steps of a recovery: Adam's, or orthogonal ones for weights that are matrices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

MOMENTUM = 0.95

SCALE = 0.2
"""Of the root of a matrix's longer side: the root mean square of a step is then that of Adam's."""

BETAS, EPSILON = (0.9, 0.999), 1e-8
"""Of Adam, for vectors."""

ROUNDS, FACTORS = 5, (3.4445, -4.7750, 2.0315)
"""Rounds of Newton and Schulz, and the factors of the first, third and fifth power. They bring
singular values near 1, not to it, in few rounds."""


def optimizer_of(removed: int, thinned: bool) -> Callable[[Any], torch.optim.Optimizer]:
    """What teaches a smaller network: Adam where one level and no more was removed.

    Args:
        removed: Number of levels.
        thinned: Whether channels were removed too.
    """
    return torch.optim.Adam if removed == 1 and not thinned else Orthogonal


class Orthogonal(torch.optim.Optimizer):
    """Orthogonal steps for weights, each read as a matrix of its filters; Adam's for vectors.

    A step of a matrix is the polar factor of its momentum, with Nesterov's look ahead (Muon, Jordan
    et al. 2024). ``docs/decisions/truncation.md`` says where it regains more.

    Args:
        params: As for any optimiser.
        lr: Learning rate, of the size that Adam takes.
    """

    def __init__(self, params: Any, lr: float = 1e-3) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Take one step along the gradients that are there.

        Args:
            closure: Not called: the gradients must be there.
        """
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if weight.dim() < 2:
                    weight.sub_(group["lr"] * _adam(weight.grad, state))
                    continue
                held = state.setdefault("momentum", torch.zeros_like(weight))
                held.mul_(MOMENTUM).add_(weight.grad)
                ahead = (weight.grad + MOMENTUM * held).flatten(1)
                length = group["lr"] * SCALE * max(ahead.shape) ** 0.5
                weight.sub_(length * polar(ahead).view_as(weight))


def _adam(gradient: Tensor, state: dict[str, Any]) -> Tensor:
    """The step of Adam (Kingma & Ba 2015) for a rate of 1."""
    first = state.setdefault("first", torch.zeros_like(gradient))
    second = state.setdefault("second", torch.zeros_like(gradient))
    state["step"] = state.get("step", 0) + 1
    first.lerp_(gradient, 1 - BETAS[0])
    second.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
    a, b = (1 - beta ** state["step"] for beta in BETAS)
    step: Tensor = first / a / ((second / b).sqrt() + EPSILON)
    return step


def polar(matrix: Tensor) -> Tensor:
    """The nearest matrix with orthogonal rows or columns, roughly (`FACTORS`)."""
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    x: Tensor = wide / wide.norm().clamp_min(1e-12)
    first, third, fifth = FACTORS
    for _ in range(ROUNDS):
        square = x @ x.T
        x = first * x + (third * square + fifth * square @ square) @ x
    return x if wide is matrix else x.T
