"""Which of two networks is better, and how sure that is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from studies.sand.tables import Result

DRAWS = 2000
LEAST_FOLDS = 3
"""Folds from which a paired t-test is worth printing; with two it has one degree of freedom."""

UNDECIDED = "cannot be told apart"

Outcomes = NDArray[np.int64]


@dataclass(frozen=True)
class Comparison:
    """The difference of F1 between two networks on the same photographs.

    F1 is pooled over the pixels of all test photographs, each network at the threshold that was
    best on its validation tiles.

    Attributes:
        first: Label of the first network.
        second: Label of the second.
        folds: Folds that both were trained in.
        photos: Test photographs in those.
        difference: F1 of the first less that of the second.
        low: Lower end of the 95 % interval, by a bootstrap over photographs.
        high: Upper end.
        p_folds: Two-sided p of a paired t-test over folds; None below `LEAST_FOLDS`.
    """

    first: str
    second: str
    folds: int
    photos: int
    difference: float
    low: float
    high: float
    p_folds: float | None

    @property
    def verdict(self) -> str:
        """Which one is better, or that it cannot be told."""
        sure = self.low > 0 or self.high < 0
        if not sure or (self.p_folds is not None and self.p_folds >= 0.05):
            return UNDECIDED
        where = " in these folds" if self.p_folds is None else ""
        return f"{self.first if self.difference > 0 else self.second} is better{where}"


def compare(first: Sequence[Result], second: Sequence[Result], seed: int = 0) -> Comparison:
    """Compare two networks over the folds that both were trained in.

    The bootstrap draws photographs with replacement and keeps the two networks' outcomes on one
    photograph together. It says how far the difference depends on the photographs; how far it
    depends on the training only several folds can say.

    Args:
        first: Results of one network, one for each fold.
        second: Results of the other.
        seed: Seed of the bootstrap.

    Raises:
        ValueError: They share no fold.
    """
    pairs = _pairs(first, second)
    if not pairs:
        raise ValueError("two networks can be compared only in folds that both were trained in")
    both = np.concatenate([_paired_outcomes(a, b) for a, b in pairs])  # (photos, 2, 3)
    rng = np.random.default_rng(seed)
    draws = [_difference(both[rng.integers(len(both), size=len(both))]) for _ in range(DRAWS)]
    low, high = np.quantile(draws, [0.025, 0.975])
    p = None
    if len(pairs) >= LEAST_FOLDS:
        from scipy.stats import ttest_rel

        by_fold = [[f1(list(r.outcomes.values())) for r in pair] for pair in pairs]
        p = float(ttest_rel(*zip(*by_fold, strict=True)).pvalue)
    return Comparison(
        first=first[0].label,
        second=second[0].label,
        folds=len(pairs),
        photos=len(both),
        difference=_difference(both),
        low=float(low),
        high=float(high),
        p_folds=p,
    )


def f1(outcomes: Sequence[Sequence[int]] | Outcomes) -> float:
    """F1 of pooled hits, false alarms and misses; nan where there is nothing to find or to mark."""
    hits, alarms, misses = np.asarray(outcomes).sum(0)
    total = 2 * hits + alarms + misses
    return float(2 * hits / total) if total else float("nan")


def holm(ps: Sequence[float]) -> list[float]:
    """Correct p-values for their number, after Holm: the smallest times n, the next times n - 1.

    Example:
        >>> holm([0.04, 0.01, 0.03])
        [0.06, 0.03, 0.06]
    """
    order = np.argsort(ps, kind="stable")
    scaled = np.asarray(ps)[order] * np.arange(len(ps), 0, -1)
    corrected = np.empty(len(ps))
    corrected[order] = np.minimum(np.maximum.accumulate(scaled), 1)
    return [float(p) for p in corrected]


def as_p(p: float) -> str:
    """A p-value as tables print it."""
    return f"{p:.3f}" if p >= 0.001 else "< 0.001"


def comparison_table(comparisons: Sequence[Comparison]) -> pd.DataFrame:
    """One row per pair of networks."""
    rows = [
        {
            "networks": f"{c.first} - {c.second}",
            "folds": str(c.folds),
            "photographs": str(c.photos),
            "difference of F1": f"{c.difference:+.3f} ({c.low:+.3f} to {c.high:+.3f})",
            "p over folds": "" if c.p_folds is None else as_p(c.p_folds),
            "verdict": c.verdict,
        }
        for c in comparisons
    ]
    return pd.DataFrame(rows)


def by_network(results: Sequence[Result]) -> Mapping[str, list[Result]]:
    """Group results by their label."""
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(result.label, []).append(result)
    return groups


def _pairs(first: Sequence[Result], second: Sequence[Result]) -> list[tuple[Result, Result]]:
    others = {result.fold: result for result in second}
    return [(result, others[result.fold]) for result in first if result.fold in others]


def _paired_outcomes(first: Result, second: Result) -> Outcomes:
    return np.array([[first.outcomes[photo], second.outcomes[photo]] for photo in first.outcomes])


def _difference(both: Outcomes) -> float:
    return f1(both[:, 0]) - f1(both[:, 1])
