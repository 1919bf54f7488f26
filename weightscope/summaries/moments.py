"""Moments of a tensor from the moments of its blocks.

The moments of a block are a row of numbers. They are taken about a *base* near its mean, because
sums of powers about a far point cancel; the mean is ``base + offset``, two numbers, because their
sum would round off what skewness and kurtosis need of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import nan, sqrt

import numpy as np

from weightscope.summaries.tensor_summary import Counts, Floats

COLUMNS = ("count", "base", "offset", "m2", "m3", "m4", "absolute")
"""``m2`` is the sum of (w - mean)^2, ``m3`` and ``m4`` of higher powers, ``absolute`` of |w|."""


@dataclass(frozen=True, eq=False)
class Measured:
    """What is known of a tensor apart from the order of its values.

    Attributes:
        row: The moments of the finite values times ``scale``.
        scale: A power of two, so that fourth powers stay in the range of float64.
        nan: Number of NaN.
        inf: Number of infinities.
        minimum: Smallest finite value; NaN without any.
        maximum: Largest finite value.
        filters: Norms and means of the filters; None without filters.
    """

    row: Floats
    scale: float
    nan: int
    inf: int
    minimum: float
    maximum: float
    filters: tuple[Floats, Floats] | None

    @property
    def finite(self) -> int:
        """Number of finite values."""
        return int(self.row[0])

    def standardized(self) -> dict[str, float]:
        """The moments that a summary has; NaN where no value supports them."""
        count, base, offset, m2, m3, m4, absolute = self.row.tolist()
        known = dict.fromkeys(("mean", "std", "mean_abs", "skewness", "kurtosis"), nan)
        if not count:
            return known
        constant = self.minimum == self.maximum
        known["mean"] = self.minimum if constant else (base + offset) / self.scale
        known["mean_abs"] = absolute / count / self.scale
        variance = 0.0 if constant else m2 / count
        known["std"] = sqrt(variance) / self.scale
        if variance > 0.0:  # and values are not too close to each other for float64
            known["skewness"] = m3 / count / (variance * sqrt(variance))
            known["kurtosis"] = m4 / count / (variance * variance) - 3.0
        return known


def merge(blocks: Floats) -> Floats:
    """The moments of all blocks together.

    With ``d`` the mean of a block less the mean of all, ``m3 = sum(m3_i + 3 d m2_i + n d^3)``, and
    the others likewise: powers of ``(w - mean_i) + d``.

    Args:
        blocks: A column for each block, shape (7, blocks).

    Returns:
        The row of all of them, shape (7,).
    """
    if blocks.shape[1] == 1:
        return blocks[:, 0].copy()
    count, bases, offsets, m2, m3, m4, absolute = blocks
    n = count.sum()
    if not n:
        return np.zeros(len(COLUMNS))
    base = bases[bases.size // 2]
    means = (bases - base) + offsets
    offset = (count * means).sum() / n
    d = means - offset
    square = d * d
    return np.array(
        [
            n,
            base,
            offset,
            (m2 + count * square).sum(),
            (m3 + 3.0 * d * m2 + count * square * d).sum(),
            (m4 + 4.0 * d * m3 + 6.0 * square * m2 + count * square * square).sum(),
            absolute.sum(),
        ]
    )


def moments_of(values: Floats, counts: Counts | float = 1.0) -> Floats:
    """The moments of finite values, each of which stands for so many equal elements.

    Their fourth powers stay in the range of float64.
    """
    blocks = np.zeros((len(COLUMNS), values.size))
    blocks[0], blocks[1], blocks[6] = counts, values, counts * np.abs(values)
    return merge(blocks)


def scale_for(peak: float) -> float:
    """Power of two that brings ``peak`` near 1 where its fourth power would leave float64."""
    if peak == 0.0 or 2.0**-200 < peak < 2.0**200:
        return 1.0
    _, exponent = np.frexp(peak)
    return float(np.ldexp(1.0, int(np.clip(-int(exponent), -1022, 1022))))
