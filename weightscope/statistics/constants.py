"""Tensors that start constant, and those of them that are constant no longer.

A network's kernels are drawn at random, so that a trained kernel may look like a fresh one. The
scales and shifts of its norm layers start at one value each, under nearly every initialiser. Some
draw the scales, and few of these the shifts as well, with all kernels from N(0, 0.02^2). Where both
have several values and were not drawn so, something trained them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from statistics import median
from typing import TYPE_CHECKING

from weightscope.thresholds import DRAWN_AROUND_ZERO, DRAWN_SCALES, DRAWN_WITH_KERNELS, NEVER_DRAWN

if TYPE_CHECKING:
    from weightscope.statistics.records import ParameterStatistics


def starts_constant(parameter: ParameterStatistics) -> bool:
    """Whether a parameter starts at one value: known from ``initial=``, or a norm layer's."""
    return _is_given(parameter) or (parameter.kind.split()[0] == "norm" and parameter.count > 1)


def has_moved(parameter: ParameterStatistics, *, drawn: bool = True) -> bool:
    """Whether a parameter that starts constant surely is so no longer.

    A start that was given is compared with. Else more than one value is needed, and for the scales
    of a norm layer that may have been drawn a sum of squares that N(1, 0.02^2) does not yield
    (chi-squared, p < 1e-7 on either side). The converse does not hold: a constant says nothing
    about the training.

    Args:
        parameter: A norm's scale or shift, or what is known to start at one value.
        drawn: Whether norms may have been drawn here, shifts and all.
    """
    summary, null = parameter.summary, parameter.null
    if null is not None and _is_given(parameter):
        return summary.finite > 0 and not summary.minimum == summary.maximum == null.mean
    if summary.finite < 2 or summary.minimum == summary.maximum:
        return False
    if not drawn or parameter.parameter.rpartition(".")[2] == "bias":
        return True
    from scipy.special import chdtr, chdtrc

    n = summary.finite
    squares = n * (summary.std**2 + (summary.mean - 1.0) ** 2) / DRAWN_SCALES**2
    return bool(min(chdtr(n, squares), chdtrc(n, squares)) < NEVER_DRAWN)


def find_constants(
    parameters: Sequence[ParameterStatistics],
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the parameters that start constant, and of those among them that surely moved.

    Where the start was not given, the scales and the shifts of a norm layer prove each other: one
    of them alone may have been drawn, and so may both where scales lie around 0 or shifts do not.
    """
    constant = [parameter for parameter in parameters if starts_constant(parameter)]
    drawn = _may_have_drawn_norms(parameters)
    moved = [parameter for parameter in constant if has_moved(parameter, drawn=drawn)]
    together = Counter(p.layer for p in moved if not _is_given(p) and not _is_far_off(p))
    proved = [p for p in moved if _is_given(p) or together[p.layer] > 1]
    return tuple(p.parameter for p in constant), tuple(p.parameter for p in proved)


def _may_have_drawn_norms(parameters: Sequence[ParameterStatistics]) -> bool:
    """Whether the kernels have about the spread of those initialisers that draw norms as well."""
    spreads = [p.summary.std for p in parameters if p.is_kernel and p.summary.count > 1]
    if not spreads:
        return True
    ratio = median(spreads) / DRAWN_SCALES
    return 1 / DRAWN_WITH_KERNELS < ratio < DRAWN_WITH_KERNELS


def _is_given(parameter: ParameterStatistics) -> bool:
    null = parameter.null
    return null is not None and null.source == "given" and null.family == "constant"


def _is_far_off(parameter: ParameterStatistics) -> bool:
    """Whether scales lie around 0, or shifts do not, as when vectors are drawn all alike."""
    mean, off = parameter.summary.mean, max(DRAWN_AROUND_ZERO, parameter.summary.std)
    if parameter.parameter.rpartition(".")[2] == "bias":
        return abs(mean) > off
    return mean < off
