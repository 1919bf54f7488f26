"""Traces that training leaves in kernels and that no draw of independent numbers makes.

An initialiser draws the weights of a kernel independently of each other, whatever its distribution
and its scale; so nothing is asked here about either. Training moves all weights of a filter
together: behind an activation the inputs have one sign, and a filter's gradient with them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import isfinite, sqrt
from typing import TYPE_CHECKING

from weightscope.thresholds import (
    CLEAR_DISPERSION,
    FAINT_DISPERSION,
    FAINT_NORMS,
    FAINT_SHIFT,
    NEVER_DRAWN,
    SPILLED_KERNELS,
)

if TYPE_CHECKING:
    from weightscope.statistics.records import ModelStatistics, ParameterStatistics
    from weightscope.summaries.tensor_summary import TensorSummary

HEAVY_TAILS = 3.0
"""Excess kurtosis from which on few weights make a filter's energy, and no variance tells."""

FILTER_WEIGHTS = 16
"""Weights from which on the energy of a filter is about normal."""

LEAST_KURTOSIS = -1.7
"""That of numbers hardly more than two values wide, whose energies all are alike."""


def shows_training(statistics: ModelStatistics) -> bool:
    """Whether the weights prove that something trained them, whatever they were drawn from.

    Norm scales and shifts that left the constants they start at; filters whose means, or whose
    energies, lie further apart than independent weights let them; kernels that fill a bounded rule
    with a few weights beyond its edge. That none is found proves nothing.
    """
    kernels = [p for p in statistics.parameters if p.is_kernel]
    return bool(statistics.moved_constants) or show_training(kernels)


def show_training(kernels: Sequence[ParameterStatistics]) -> bool:
    """Whether some kernels prove by themselves that something trained them."""
    return are_coherent(kernels) or are_dispersed(kernels) or have_spilled(kernels)


@dataclass(frozen=True)
class Marks:
    """How much training a network's weights show without their start.

    Attributes:
        shift: Rms shift of the filters beyond chance, as a share of the kernels' spread: the part
            of the movement that filters made as a whole.
        dispersion: Variance of the filters' energies (mean squares) relative to that of independent
            weights; 1 by chance, mean over filters.
        norms: Rms distance of norm scales from 1 and of shifts from 0, where they surely moved.
    """

    shift: float
    dispersion: float
    norms: float

    @property
    def faint(self) -> bool:
        """Whether they are no more than a few steps leave."""
        return (
            self.shift < FAINT_SHIFT
            and self.dispersion < FAINT_DISPERSION
            and self.norms < FAINT_NORMS
        )

    @property
    def clear(self) -> bool:
        """Whether they are more than some tens of steps leave."""
        return self.dispersion > CLEAR_DISPERSION


def marks_of_training(statistics: ModelStatistics) -> Marks:
    """Measure how much training shows in the weights."""
    kernels = [p for p in statistics.parameters if p.is_kernel]
    moved = set(statistics.moved_constants)
    norms = [
        (p.count, p.summary.std**2 + (p.summary.mean - _start(p)) ** 2)
        for p in statistics.parameters
        if p.parameter in moved
    ]
    dispersions = [
        d
        for kernel in kernels
        for d in energy_dispersion(kernel.summary, max(kernel.summary.kurtosis, LEAST_KURTOSIS))
    ]
    return Marks(
        shift=coherent_movement(kernels),
        dispersion=_mean(dispersions) if dispersions else 1.0,
        norms=sqrt(_mean(norms)) if norms else 0.0,
    )


def _start(parameter: ParameterStatistics) -> float:
    """Where a norm's scale or shift starts."""
    null = parameter.null
    if null is not None and null.source == "given":
        return null.mean
    return 0.0 if parameter.parameter.rpartition(".")[2] == "bias" else 1.0


def _mean(counted: Sequence[tuple[int, float]]) -> float:
    return sum(n * value for n, value in counted) / sum(n for n, _ in counted)


def energy_dispersion(summary: TensorSummary, kurtosis: float) -> list[tuple[int, float]]:
    """Number of filters of a kernel and the dispersion of their energies; empty if not known.

    The mean square of ``n`` independent weights with excess kurtosis ``k`` has the relative
    variance ``(k + 2) / n``, by which the observed one is divided.
    """
    lengths = summary.filter_norms
    if lengths is None or lengths.size < 4 or not kurtosis > -2.0:
        return []
    energies, each = lengths**2, summary.count / lengths.size
    mean = float(energies.mean())
    if not (isfinite(mean) and mean > 0.0):
        return []
    observed = float(energies.var(ddof=1)) / mean**2
    return [(lengths.size, observed * each / (kurtosis + 2.0))]


def filter_shifts(kernel: ParameterStatistics) -> tuple[int, float, int]:
    """How far the means of a kernel's filters lie apart.

    Returns:
        Degrees of freedom ``k``, the sum of squares that follows chi-squared(k) if the weights are
        independent, and the number of weights of a filter; 0 where the kernel has no two filters
        or does not vary.
    """
    means, std = kernel.summary.filter_means, kernel.summary.std
    if means is None or means.size < 2 or not (isfinite(std) and std > 0.0):
        return 0, 0.0, 0
    each = kernel.summary.count // means.size
    if each < 2:
        return 0, 0.0, 0
    return means.size - 1, float(each * ((means - means.mean()) ** 2).sum() / std**2), each


def are_coherent(kernels: Iterable[ParameterStatistics]) -> bool:
    """Whether the filters' means lie further apart than independent weights let them."""
    from scipy.special import chdtrc

    shifts = [filter_shifts(kernel) for kernel in kernels]
    freedom = sum(k for k, _, _ in shifts)
    squares = sum(square for _, square, _ in shifts)
    return freedom > 0 and bool(chdtrc(freedom, squares) < NEVER_DRAWN)


def are_dispersed(kernels: Iterable[ParameterStatistics]) -> bool:
    """Whether the filters' energies lie further apart than independent weights let them.

    However the weights were drawn, a kernel's own weights dealt to its filters at random give mean
    squares (about the kernel's mean) of the relative variance ``(k + 2) / n``, where ``n`` is the
    number of weights of a filter and ``k`` their excess kurtosis.
    """
    from scipy.special import chdtrc

    freedom, squares = 0, 0.0
    for kernel in kernels:
        summary = kernel.summary
        norms, means = summary.filter_norms, summary.filter_means
        if norms is None or means is None or norms.size < 2:
            continue
        each = summary.count / norms.size
        if each < FILTER_WEIGHTS or not LEAST_KURTOSIS < summary.kurtosis < HEAVY_TAILS:
            continue
        energies = norms**2 / each - 2.0 * summary.mean * means + summary.mean**2
        variance = (summary.kurtosis + 2.0) / each * float(energies.mean()) ** 2
        # the squares of few weights are skewed, and the variance of their means less sure
        variance *= 1.0 + 6.0 / each
        freedom += norms.size - 1
        squares += float(((energies - energies.mean()) ** 2).sum()) / variance
    return freedom > 0 and bool(chdtrc(freedom, squares) < NEVER_DRAWN)


def coherent_movement(kernels: Iterable[ParameterStatistics]) -> float:
    """Rms shift of the filters beyond chance, as a share of the kernels' spread."""
    total = count = 0.0
    for kernel in kernels:
        freedom, square, each = filter_shifts(kernel)
        if freedom:
            count += kernel.summary.count
            total += kernel.summary.count * (square / freedom - 1.0) / each
    return sqrt(max(total / count, 0.0)) if count else 0.0


def have_spilled(kernels: Sequence[ParameterStatistics]) -> bool:
    """Whether kernels that fill a bounded rule have a few weights beyond its edge."""
    spilled = [k for k in kernels if k.comparison is not None and k.comparison.spilled]
    return len(spilled) >= SPILLED_KERNELS
