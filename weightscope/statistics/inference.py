"""Which rule a trained network was initialised by, when no kernel follows any rule any more.

Movement that is uncorrelated with the start adds to the variance, and an adaptive optimiser moves
all weights about equally far; weight decay shrinks all of them alike. So under the right rule,
whose spread ``s`` changes with a kernel's shape, the spreads after training follow
``w^2 = a^2 s^2 + d`` with one ``a`` and one ``d`` for the whole network, and what is left of the
rule's shape shows in the kurtosis.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite

import numpy as np

from weightscope.statistics.initialization import Null
from weightscope.statistics.records import Floats

FEWEST = 4
"""Kernels needed before a rule can be told by their spreads."""

SPLIT = 2.0
"""Parts of a network have rules of their own where that explains them this much better."""

SMALLEST = 500
"""Kernels with fewer weights know their own spread too badly."""

_SHRINKAGES = np.linspace(1.0, 0.1, 19)
_MOVEMENTS = np.concatenate([[0.0], np.geomspace(1e-3, 10.0, 33)])
_SHAPE = 0.1
_DECAY = 0.1


@dataclass(frozen=True)
class KernelSpread:
    """What is known of one trained kernel.

    Attributes:
        part: Name of the top-level module it belongs to.
        count: Number of weights.
        std: Their standard deviation.
        kurtosis: Their excess kurtosis.
        rules: Candidate nulls at its shape, by label.
    """

    part: str
    count: int
    std: float
    kurtosis: float
    rules: Mapping[str, Null]


def infer_rules(kernels: Sequence[KernelSpread]) -> Mapping[str, str]:
    """The rule that explains the spreads of a network's kernels best, for each part of it.

    One rule for all, unless parts of their own rules (such as a ResNet encoder under a decoder by
    other hands) are explained `SPLIT` times better.

    Args:
        kernels: All kernels of the network.

    Returns:
        Label of the rule by part; parts that are too small to tell are left out.
    """
    known = [
        k
        for k in kernels
        if k.count >= SMALLEST and k.std > 0.0 and isfinite(k.std) and isfinite(k.kurtosis)
    ]
    whole = best_rule(known)
    if whole is None:
        return {}
    parts: dict[str, list[KernelSpread]] = {}
    for kernel in known:
        parts.setdefault(kernel.part, []).append(kernel)
    fitted = {part: best_rule(own) for part, own in parts.items()}
    told = {part: best for part, best in fitted.items() if best is not None}
    if told:
        count = sum(len(parts[part]) for part in told)
        apart = sum(len(parts[part]) * cost for part, (_, cost) in told.items()) / count
        if SPLIT * apart < whole[1]:
            return {part: label for part, (label, _) in told.items()}
    return dict.fromkeys((k.part for k in kernels), whole[0])


def best_rule(kernels: Sequence[KernelSpread]) -> tuple[str, float] | None:
    """Label and misfit of the rule that explains these kernels best; None if they are too few.

    The misfit is the mean of ``|log(w^2 / (a^2 s^2 + d))| / 2`` plus a tenth of the gap in
    kurtosis (at most 2), plus a tenth of ``1 - a``, since decay explains much and is rare.
    """
    if len(kernels) < FEWEST:
        return None
    labels = [label for label in kernels[0].rules if all(label in k.rules for k in kernels)]
    squares = np.array([k.std**2 for k in kernels])
    kurtosis = np.array([k.kurtosis for k in kernels])
    misfits = {}
    for label in labels:
        rules = [k.rules[label] for k in kernels]
        if all(rule.std > 0.0 for rule in rules):
            start = np.array([rule.std**2 for rule in rules])
            misfits[label] = _misfit(squares, kurtosis, start, rules[0].kurtosis)
    if not misfits:
        return None
    label = min(misfits, key=misfits.__getitem__)
    return label, misfits[label]


def _misfit(squares: Floats, kurtosis: Floats, start: Floats, shape: float) -> float:
    """Smallest misfit over all shrinkages and movements; arrays are (kernels,)."""
    kept = _SHRINKAGES[:, None, None] ** 2 * start
    expected = kept + _MOVEMENTS[:, None] * float(np.median(squares))
    spread = np.abs(np.log(squares / expected)).mean(2) / 2.0
    gap = np.minimum(np.abs(kurtosis - shape * (kept / expected) ** 2), 2.0).mean(2)
    decay = 1.0 - _SHRINKAGES[:, None]
    return float((spread + _SHAPE * gap + _DECAY * decay).min())
