"""Which rule a model was initialised by: the evidence of its own weights.

Three steps. Kernels that still follow a rule *vote* for it. Where most weights left every rule, the
spreads of all kernels together *explain* it. Then the rule of each tensor is *chosen*, and says how
it was found (``Null.source``) and which others would do (``Null.plausible``).

Movement that is uncorrelated with the start adds to the variance, and an optimiser that divides
gradients by their size moves all weights about equally far; weight decay shrinks all alike. So
under the right rule, whose spread ``s`` changes with a kernel's shape, the spreads after training
follow ``w^2 = a^2 s^2 + d`` with one ``a`` and one ``d`` for the whole network, and what is left of
the rule's shape shows in the kurtosis. The spreads alone cannot tell decay from another rule: most
rules are multiples of each other. So ``a < 1`` is accepted only where the shape of a bounded rule
is still seen in the shrunk weights.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isclose, isfinite, sqrt

import numpy as np

from weightscope.statistics.distances import as_drawn, critical_ks, ks_distance
from weightscope.statistics.rules import Null, Source
from weightscope.summaries.tensor_summary import Floats, TensorSummary
from weightscope.thresholds import (
    ALIKE,
    DECAY_COST,
    FEWEST_KERNELS,
    FILLING,
    LEFT,
    SHAPE_COST,
    SHAPE_SEEN,
    SMALLEST_KERNEL,
    SPLIT,
    SURELY_NARROWER,
)

# a spread agrees with a rule's within so many standard errors of a normal sample's; a glance that
# saves the exact comparison of shapes
_GLANCE = 28.0
_SHRINKAGES = np.linspace(1.0, 0.1, 19)
_MOVEMENTS = np.concatenate([[0.0], np.geomspace(1e-3, 10.0, 33)])


@dataclass(frozen=True, eq=False)
class Evidence:
    """What is known of one tensor without its start.

    Attributes:
        part: Name of the top-level module it belongs to.
        kind: Of its layer, in one word.
        is_kernel: Whether it multiplies features.
        summary: Its statistics.
        rules: Candidates at its shape by label, the default of the layer's type first.
        rounding: Relative precision of its number format.
    """

    part: str
    kind: str
    is_kernel: bool
    summary: TensorSummary
    rules: Mapping[str, Null]
    rounding: float


def choose_nulls(tensors: Sequence[Evidence]) -> list[Null]:
    """The null of each tensor.

    Kernels that left their rule have the one of those that did not, or the one that explains all of
    them together.
    """
    followed = [followed_rules(t.summary, t.rules.values()) for t in tensors]
    kernels = [(t, f) for t, f in zip(tensors, followed, strict=True) if t.is_kernel]
    votes = _vote(kernels)
    moved = any(not labels for _, labels in kernels)
    explained: Mapping[str, tuple[str, ...]] = {}
    size = sum(t.summary.count for t, _ in kernels)
    if sum(t.summary.count for t, labels in kernels if not labels) > LEFT * max(size, 1):
        explained = infer_rules([t for t, _ in kernels])
    nulls: list[Null] = []
    for t, labels in zip(tensors, followed, strict=True):
        if not t.is_kernel:
            nulls.append(_choose(t.rules, labels, None))
        else:
            alike = tuple(label for label in explained.get(t.part, ()) if label in t.rules)
            favourite = alike[0] if alike else _favourite(votes, t.kind)
            chosen = sharpest_rule(t.summary, t.rules, labels, favourite, t.rounding)
            if alike:  # where most left every rule, few follow one but by chance
                labels = tuple(label for label in labels if label == chosen)
            null = _choose(t.rules, labels, chosen, alike)
            alone = null.source == "matched" and votes["", null.label] <= t.summary.count
            others = t.rules.get(chosen or "")
            if moved and alone and others is not None and others.label != null.label:
                null = _likelier(t, null, others)
            nulls.append(null)
    return nulls


def _choose(
    rules: Mapping[str, Null],
    followed: Sequence[str],
    preferred: str | None,
    alike: Sequence[str] = (),
) -> Null:
    """A rule, how it was found, and the spreads that it may have had instead."""
    source: Source = "matched"
    if preferred is not None and preferred in followed:
        chosen = rules[preferred]
    elif followed:
        chosen = rules[followed[0]]
    elif preferred is not None and preferred in rules:
        chosen, source = rules[preferred], "inferred"
    else:
        chosen, source = next(iter(rules.values())), "assumed"
    spreads = [chosen.std]
    if source == "inferred":
        spreads += [rules[label].std for label in alike]
    elif source == "assumed":
        spreads += [rule.std for rule in rules.values()]
    return replace(chosen, source=source, plausible=(min(spreads), max(spreads)))


def _likelier(kernel: Evidence, own: Null, others: Null) -> Null:
    """The null of a kernel that follows a rule alone in a network whose kernels moved.

    That may be its rule, or chance after a training, which widens: the uncertainty is kept.
    """
    ends = sorted((own.std, others.std))
    likelier = others if kernel.summary.std >= others.std else own
    return replace(likelier, source="inferred", plausible=(ends[0], ends[1]))


def followed_rules(summary: TensorSummary, candidates: Iterable[Null]) -> tuple[str, ...]:
    """Labels of the candidates that the weights still follow by their KS distance, nearest first.

    The spread must agree within ``28 std / sqrt(2 n)`` before the distance is looked at.
    """
    limit = critical_ks(summary.finite)
    near = _GLANCE / sqrt(2.0 * max(summary.finite, 1))
    distances = {
        null.label: ks_distance(summary.cdf, null)
        for null in candidates
        if abs(summary.std - null.std) <= near * null.std or null.std == 0.0
    }
    followed = [label for label, distance in distances.items() if distance <= limit]
    return tuple(sorted(followed, key=distances.__getitem__))


def sharpest_rule(
    summary: TensorSummary,
    rules: Mapping[str, Null],
    followed: Sequence[str],
    preferred: str | None,
    rounding: float,
) -> str | None:
    """The preferred rule, unless the weights fill the edges of another one exactly.

    That decides where there are enough weights to tell (`FILLING`), and between rules of one
    spread.

    Args:
        summary: Statistics of the weights.
        rules: Candidates by label.
        followed: Labels of those that the weights follow.
        preferred: Label of the rule that other kernels speak for.
        rounding: Relative precision of the weights' number format.
    """
    filled = [
        label
        for label in followed
        if isfinite(rules[label].edge) and as_drawn(summary, rules[label], rounding)
    ]
    if preferred is not None and preferred in rules:
        spread = rules[preferred].std
        alike = [x for x in filled if isclose(rules[x].std, spread, rel_tol=1e-3)]
        if alike:  # the tighter an edge that nothing passes, the more it says
            return min(alike, key=lambda label: rules[label].edge)
    if filled and summary.finite >= FILLING:
        return filled[0]
    return preferred


def _vote(kernels: Sequence[tuple[Evidence, tuple[str, ...]]]) -> Counter[tuple[str, str]]:
    """Number of weights for each rule, by kind of layer and (kind ``""``) in all.

    A kernel votes for the rules that it follows, and against those than which it is surely
    narrower, since training without decay only widens.
    """
    votes: Counter[tuple[str, str]] = Counter()
    for kernel, labels in kernels:
        for label in labels:
            votes[kernel.kind, label] += kernel.summary.count
            votes["", label] += kernel.summary.count
    for kernel, _ in kernels:
        for kind, label in votes:
            ours = kind in ("", kernel.kind) and label in kernel.rules
            if ours and _surely_narrower(kernel.summary, kernel.rules[label].std):
                votes[kind, label] -= kernel.summary.count
    return votes


def _surely_narrower(summary: TensorSummary, std: float) -> bool:
    if not summary.finite or not summary.kurtosis > -2.0:
        return False
    error = sqrt((summary.kurtosis + 2.0) / (4.0 * summary.finite))  # of a standard deviation
    return summary.std < std * (1.0 - SURELY_NARROWER * error)


def _favourite(votes: Counter[tuple[str, str]], kind: str) -> str | None:
    """The rule with most weights behind it, among layers of this kind if any has more for it.

    A rule with as many weights against it as for it is not taken.
    """
    ours = {rule: count for (k, rule), count in votes.items() if k == kind and count > 0}
    everyones = {rule: count for (k, rule), count in votes.items() if k == "" and count > 0}
    candidates = ours or everyones
    return max(candidates, key=candidates.__getitem__, default=None)


def infer_rules(kernels: Sequence[Evidence]) -> Mapping[str, tuple[str, ...]]:
    """The rules that explain the spreads of a network's kernels, for each part of it.

    One rule for all, unless parts with rules of their own (such as a ResNet encoder under a decoder
    from another library) are explained `SPLIT` times better.

    Args:
        kernels: All kernels of the network.

    Returns:
        Labels by part, the best first, then those that would do as well; parts that are too small
        to tell are left out.
    """
    known = [
        k
        for k in kernels
        if k.summary.finite >= SMALLEST_KERNEL
        and k.summary.std > 0.0
        and isfinite(k.summary.std)
        and isfinite(k.summary.kurtosis)
    ]
    whole = explain(known)
    if whole is None:
        return {}
    parts: dict[str, list[Evidence]] = {}
    for kernel in known:
        parts.setdefault(kernel.part, []).append(kernel)
    fitted = {part: explain(own) for part, own in parts.items()}
    explained = {part: best for part, best in fitted.items() if best is not None}
    if explained:
        count = sum(len(parts[part]) for part in explained)
        apart = sum(len(parts[part]) * cost for part, (_, cost) in explained.items()) / count
        if SPLIT * apart < whole[1]:
            return {part: labels for part, (labels, _) in explained.items()}
    return dict.fromkeys((k.part for k in kernels), whole[0])


def explain(kernels: Sequence[Evidence]) -> tuple[tuple[str, ...], float] | None:
    """The rules that explain these kernels, and the misfit of the best; None if they are too few.

    The misfit is the mean of ``|log(w^2 / (a^2 s^2 + d))| / 2`` plus a tenth of the gap in
    kurtosis (at most 2), plus a tenth of ``1 - a``.
    """
    if len(kernels) < FEWEST_KERNELS:
        return None
    labels = [label for label in kernels[0].rules if all(label in k.rules for k in kernels)]
    squares = np.array([k.summary.std**2 for k in kernels])
    kurtosis = np.array([k.summary.kurtosis for k in kernels])
    misfits, unproved = {}, {}
    for label in labels:
        rules = [k.rules[label] for k in kernels]
        if all(rule.std > 0.0 for rule in rules):
            start = np.array([rule.std**2 for rule in rules])
            proved, free = _misfit(squares, kurtosis, start, rules[0].kurtosis)
            misfits[label], unproved[label] = proved, free
    if not misfits:
        return None
    best = min(misfits, key=misfits.__getitem__)
    alike = [x for x in unproved if x != best and unproved[x] <= misfits[best] + ALIKE]
    return (best, *alike), misfits[best]


def _misfit(squares: Floats, kurtosis: Floats, start: Floats, shape: float) -> tuple[float, float]:
    """Smallest misfit over all movements and shrinkages that show, and over any shrinkage.

    Args:
        squares: Mean squares of the kernels.
        kurtosis: Their excess kurtosis.
        start: Mean squares by the rule.
        shape: Excess kurtosis of the rule.
    """
    kept = _SHRINKAGES[:, None, None] ** 2 * start
    expected = kept + _MOVEMENTS[:, None] * float(np.median(squares))
    spread = np.abs(np.log(squares / expected)).mean(2) / 2.0
    left = shape * (kept / expected) ** 2
    gap = np.minimum(np.abs(kurtosis - left), 2.0).mean(2)
    decay = 1.0 - _SHRINKAGES[:, None]
    misfit = spread + SHAPE_COST * gap + DECAY_COST * decay
    seen = np.median(kurtosis) <= SHAPE_SEEN * np.median(left, axis=2)
    shows = (decay == 0.0) | (seen & (np.median(left, axis=2) < SHAPE_SEEN * shape))
    return float(misfit[np.broadcast_to(shows, misfit.shape)].min()), float(misfit.min())
