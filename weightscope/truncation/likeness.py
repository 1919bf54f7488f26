"""How alike two networks answer, and the loss that says so."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from weightscope.adapters import pytree
from weightscope.errors import InputError, keyword
from weightscope.probing.change import decides
from weightscope.probing.nearest import like_outputs
from weightscope.probing.outputs import Reading
from weightscope.showing import outputs_at
from weightscope.thresholds import BARE
from weightscope.truncation.teaching import Goals, is_answer

LEAST_SHARE = 1e-6
"""Is added to the unexplained share of an image before its root is taken, whose slope is endless at
0: a thousandth of the spread counts as matched."""


ROUNDING = 1e-12
"""Share of its mean square below which an output varies by rounding alone."""


@dataclass(frozen=True)
class Agreement:
    """How alike two networks answer on the held-back images.

    Attributes:
        explained: 1 - mean squared difference / variance of the original's outputs, averaged over
            the outputs; 1: equal, 0: no better than a constant. Of an output that is the same on
            all of these images its mean square stands for the variance.
        decisions: Share of positions with the same decision: the same largest channel, or the same
            side of the threshold (0 for logits, 0.5 for probabilities) where there is one channel.
            NaN where the outputs do not decide: numbers of a regression, or classes that are left
            nearly open, as by a network that is hardly trained (a certainty below 0.3).
    """

    explained: float
    decisions: float


@dataclass(frozen=True, eq=False)
class Likeness:
    """Compares answers, on the scale of the original's own variation on the held-back images."""

    positions: tuple[int, ...]
    variances: tuple[float, ...]
    deciding: tuple[bool, ...]  # False: numbers (a regression), in which no channel is a class
    chances: tuple[float, ...]  # variance of the probabilities of logits, else 0
    labels: frozenset[int]  # positions of answers in which each channel seems to decide for itself

    def loss(self, found: Sequence[Any], goal: Sequence[Any]) -> Tensor:
        """Share of the variance that is not matched; of logits that of the probabilities too.

        Of numbers (a regression) the root of this share in each image.
        """
        total = []
        for position, variance, deciding, chance in zip(
            self.positions, self.variances, self.deciding, self.chances, strict=True
        ):
            a, b = found[position].float(), goal[position]
            if not deciding:
                images = len(b) if b.dim() else 1
                shares = (a - b).square().reshape(images, -1).mean(1) / variance
                total.append((shares + LEAST_SHARE).sqrt().mean())
                continue
            total.append((a - b).square().mean() / variance)
            if chance:
                each = position in self.labels
                total.append((_chances(a, each) - _chances(b, each)).square().mean() / chance)
        return torch.stack(total).sum() / len(self.positions)

    def unexplained(self, found: Sequence[Any], goal: Sequence[Any]) -> float:
        """Mean squared difference / variance, averaged over the outputs."""
        parts = [
            float((found[i].float() - goal[i]).square().mean()) / v
            for i, v in zip(self.positions, self.variances, strict=True)
        ]
        return sum(parts) / len(parts)

    def decided_alike(self, found: Sequence[Any], goal: Sequence[Any]) -> float:
        """Share of positions with the same decision, averaged over the outputs that decide."""
        parts = []
        for i, deciding, chance in zip(self.positions, self.deciding, self.chances, strict=True):
            if not deciding:
                continue
            a, b = found[i].float(), goal[i]
            if a.dim() > 1 and a.shape[1] > 1:
                same = a.argmax(1) == b.argmax(1)
                if i in self.labels:
                    same = (a > 0.0) == (b > 0.0)
            else:
                border = 0.0 if chance else 0.5
                same = (a > border) == (b > border)
            parts.append(float(same.float().mean()))
        return sum(parts) / len(parts) if parts else math.nan


def _chances(logits: Tensor, each: bool = False) -> Tensor:
    """Probabilities of the classes, or of the one class; ``each``: of every channel by itself."""
    if logits.dim() > 1 and logits.shape[1] > 1 and not each:
        return logits.softmax(1)
    return logits.sigmoid()


def read_likeness(goals: Goals, gone: Sequence[int]) -> Likeness:
    """Read off the held-back images on what scale the original's outputs vary.

    Raises:
        InputError: No output of the smaller network is a tensor of floating-point numbers.
    """
    answers = [goals.of(part) for part in goals.pool.held_back]
    positions = tuple(i for i, x in enumerate(answers[0]) if is_answer(x) and i not in gone)
    if not positions:
        raise InputError(
            "no output that the smaller network still computes is a tensor of floating-point "
            "numbers; there is nothing to match"
        )
    leaves = [pytree.tree_leaves(goals.pool.inputs(part)) for part in goals.pool.held_back]
    inputs = [[x for x in own if is_answer(x) and x.dim() > 2] for own in leaves]
    variances, deciding, chances, labels = [], [], [], set[int]()
    for i in positions:
        values = [answer[i] for answer in answers]
        variances.append(_variance(values))
        if not math.isfinite(variances[-1]):
            where = outputs_at([goals.teacher.places[i]])
            raise InputError(
                f"the original answers with nan or infinite values ({where}) on these "
                f"{keyword('images')}, which no network can be taught; leave out the images "
                "on which it does, scale them as it was trained with, or analyse it in float32 "
                "(model.float()) where it overflows in fewer bits"
            )
        low, high = min(float(v.min()) for v in values), max(float(v.max()) for v in values)
        known = low >= 0.0 and high <= 1.0
        columns = [v if v.dim() > 1 else v[:, None] for v in values]
        deciding.append(decides(columns, like_outputs(columns, inputs)))
        logits = deciding[-1] and not known
        if logits and all(v.dim() > 1 for v in values) and Reading.of(values).bare > BARE:
            labels |= {i}
        each = i in labels
        chances.append(_variance([_chances(v, each) for v in values]) if logits else 0.0)
    likeness = tuple(variances), tuple(deciding), tuple(chances)
    return Likeness(positions, *likeness, frozenset(labels))


def _variance(parts: Sequence[Tensor]) -> float:
    """Variance around the mean of each channel: a constant answer explains nothing of it.

    Of an output that does not vary, as that of a class where one image is held back, the mean
    square: divided by nothing, what it lacks would outweigh all other outputs.
    """
    rows = torch.cat(
        [p.double().movedim(1, -1).flatten(0, -2) if p.dim() > 1 else p.double() for p in parts]
    )
    spread, size = float(rows.var(0, unbiased=False).mean()), float(rows.square().mean())
    return max(spread if spread > ROUNDING * size else size, 1e-12)
