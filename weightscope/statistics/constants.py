"""Tensors that start constant, and those of them that are constant no longer.

A network's kernels are drawn at random, so that a trained kernel may look like a fresh one. The
scales and shifts of its norm layers start at one value each. Where one of them has several values,
something trained it: this is proof, and no estimate.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from weightscope.thresholds import DRAWN_SCALES, NEVER_DRAWN

if TYPE_CHECKING:
    from weightscope.statistics.records import ParameterStatistics


def starts_constant(parameter: ParameterStatistics) -> bool:
    """Whether a parameter starts at one value: known from ``initial=``, or a norm layer's."""
    null = parameter.null
    given = null is not None and null.source == "given" and null.family == "constant"
    return given or (parameter.kind.split()[0] == "norm" and parameter.count > 1)


def has_moved(parameter: ParameterStatistics) -> bool:
    """Whether a parameter that starts constant surely is so no longer.

    A start that was given is compared with. Else more than one value is needed, and for the scales
    of a norm layer a sum of squares that N(1, 0.02^2) does not yield (chi-squared, p < 1e-7 on
    either side). The converse does not hold: a constant says nothing about the training.
    """
    summary, null = parameter.summary, parameter.null
    if null is not None and null.source == "given" and null.family == "constant":
        return summary.finite > 0 and not summary.minimum == summary.maximum == null.mean
    if summary.finite < 2 or summary.minimum == summary.maximum:
        return False
    if parameter.parameter.rpartition(".")[2] == "bias":
        return True
    from scipy.special import chdtr, chdtrc

    n = summary.finite
    squares = n * (summary.std**2 + (summary.mean - 1.0) ** 2) / DRAWN_SCALES**2
    return bool(min(chdtr(n, squares), chdtrc(n, squares)) < NEVER_DRAWN)


def find_constants(
    parameters: Sequence[ParameterStatistics],
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the parameters that start constant, and of those among them that have moved."""
    constant = [parameter for parameter in parameters if starts_constant(parameter)]
    moved = [parameter for parameter in constant if has_moved(parameter)]
    return tuple(p.parameter for p in constant), tuple(p.parameter for p in moved)
