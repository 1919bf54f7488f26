"""What a network really uses: skill lost without a level, by hooks of our own.

Every module whose output comes back from a level is made to return its mean over all images and
positions, one number per channel. Skill is what the answers are better than the best constant
answer (the best trivial one for a regression: a constant, or the image itself). Lost is the share
of that skill which goes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from studies.evidence_protocol.designs import Taps
from studies.evidence_protocol.tasks import Kind, Pool

NEGLIGIBLE = 0.05
"""A level is used if more than this share of the skill goes with it."""

SKILLED = 0.1
"""A network with less skill than this has learned nothing that a cut could lose."""

BATCH = 32


@contextmanager
def hooked(modules: Sequence[nn.Module], hook: Callable[..., Any]) -> Iterator[None]:
    """Forward hooks on some modules."""
    handles = [module.register_forward_hook(hook) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def answers(model: nn.Module, images: Tensor) -> Tensor:
    """What the network says of all images."""
    return torch.cat([model(part) for part in images.split(BATCH)])


def without_levels(model: nn.Module, taps: Taps, images: Tensor) -> dict[int, Tensor]:
    """The whole network's answers (key 0), and those without each level, by reduction."""
    sums: dict[nn.Module, list[Any]] = {}

    def note(module: nn.Module, _inputs: Any, output: Tensor) -> None:
        entry = sums.setdefault(module, [0.0, 0])
        flat = output.transpose(0, 1).flatten(1).double()
        entry[0], entry[1] = entry[0] + flat.sum(1), entry[1] + flat.shape[1]

    def fill(module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        total, count = sums[module]
        mean = (total / count).to(output.dtype)
        return mean.view(1, -1, *[1] * (output.dim() - 2)).expand_as(output).clone()

    with hooked(list({m: None for modules in taps.values() for m in modules}), note):
        found = {0: answers(model, images)}
    for reduction, modules in taps.items():
        with hooked(modules, fill):
            found[reduction] = answers(model, images)
    return found


class Skill:
    """Skill of answers on labelled images, and on resamples of these images.

    Args:
        kind: Of the targets.
        pool: Images and targets.
    """

    def __init__(self, kind: Kind, pool: Pool) -> None:
        self.kind, self.pool = kind, pool

    def sums(self, outputs: Tensor) -> NDArray[np.float64]:
        """What the quality needs of every image: (images, thresholds, 3) or (images, 2)."""
        y = self.pool.targets
        if self.kind == "binary":
            edges = torch.quantile(outputs.flatten()[:: max(outputs.numel() // 10**6, 1)],
                                   torch.linspace(0.0, 0.999, 100))  # fmt: skip
            flat, truth = outputs.flatten(1), y.flatten(1) > 0.5
            called = [flat >= t for t in edges]
            return np.stack(
                [
                    np.stack(
                        [(c & truth).sum(1).numpy(), c.sum(1).numpy(), truth.sum(1).numpy()], -1
                    )
                    for c in called
                ],
                1,
            ).astype(float)
        if self.kind == "classes":
            right = (outputs.argmax(1) == y).flatten(1).double().sum(1)
        else:
            right = -(outputs - y).square().flatten(1).double().sum(1)
        return np.stack([right.numpy(), np.full(len(y), y[0].numel())], -1)

    def quality(
        self, sums: NDArray[np.float64], weights: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """F1 at the best threshold, accuracy, or minus the mean square error, by weighting."""
        total = np.tensordot(weights, sums, (1, 0))
        if self.kind == "binary":
            return np.asarray(
                (2 * total[..., 0] / np.maximum(total[..., 1] + total[..., 2], 1)).max(1)
            )
        return np.asarray(total[:, 0] / total[:, 1])

    def trivial(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """Quality of the best trivial answer, for each weighting of the images."""
        y, x = self.pool.targets, self.pool.images
        if self.kind == "binary":
            share = weights @ y.flatten(1).mean(1).double().numpy() / weights.sum(1)
            return np.asarray(2 * share / (1 + share))
        if self.kind == "classes":
            counts = F.one_hot(y).flatten(1, 2).double().mean(1).numpy()
            return np.asarray((weights @ counts).max(1) / weights.sum(1))
        per_image = y.double().transpose(1, -1).flatten(1, 2)
        first, second = per_image.mean(1).numpy(), per_image.square().mean(1).numpy()
        count = weights.sum(1, keepdims=True)
        best = -((weights @ second) / count - ((weights @ first) / count) ** 2).mean(1)
        if x.shape == y.shape:
            # images may be standardised; the best line through them stands for "the image itself"
            a, b = x.flatten().double(), y.flatten().double()
            slope = ((a - a.mean()) * (b - b.mean())).mean() / a.var(unbiased=False)
            best = np.maximum(best, -float((b - b.mean() - slope * (a - a.mean())).square().mean()))
        return np.asarray(best)

    def scale(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """What turns a difference of qualities into a share of what perfection would gain."""
        return 1.0 - self.trivial(weights) if self.kind != "regression" else -self.trivial(weights)


def measure_truth(
    model: nn.Module,
    taps: Taps,
    kind: Kind,
    pool: Pool,
    loss: Callable[[Tensor, Tensor], Tensor],
    reference: Tensor | None = None,
) -> dict[str, Any]:
    """Share of the skill that goes with each level.

    Args:
        model: In evaluation mode.
        taps: Of the model.
        kind: Of the targets.
        pool: Labelled images that no training and no grade sees.
        loss: What the network was trained with.
        reference: What a restoration has to beat, where that is not the image as it is given.

    Returns:
        ``quality``, ``trivial`` and ``skill`` (share of what perfection would gain) of the whole
        network, and for each reduction ``lost`` with the ends ``low`` and ``high`` of a 95 %
        bootstrap interval over images, and ``loss`` without it; ``loss`` of the whole.
    """
    found = without_levels(model, taps, pool.images)
    skill = Skill(kind, pool if reference is None else replace(pool, images=reference))
    count = len(pool.images)
    rng = np.random.default_rng(0)
    weights = np.concatenate(
        [np.ones((1, count)), rng.multinomial(count, np.full(count, 1 / count), 300).astype(float)]
    )
    trivial = skill.trivial(weights)
    whole = skill.quality(skill.sums(found[0]), weights)
    levels = {}
    for reduction in taps:
        left = skill.quality(skill.sums(found[reduction]), weights)
        lost = (whole - left) / np.maximum(whole - trivial, 1e-9)
        low, high = np.quantile(lost[1:], [0.025, 0.975])
        levels[str(reduction)] = {
            "lost": float(lost[0]),
            "low": float(low),
            "high": float(high),
            "loss": float(loss(found[reduction], pool.targets)),
        }
    return {
        "quality": float(whole[0]),
        "trivial": float(trivial[0]),
        "skill": float(((whole - trivial) / np.maximum(skill.scale(weights), 1e-9))[0]),
        "loss": float(loss(found[0], pool.targets)),
        "levels": levels,
    }
