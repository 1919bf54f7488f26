"""How sure a figure is that is a mean over images: intervals of its bootstrap samples."""

from __future__ import annotations

import math

import numpy as np

from weightscope.thresholds import CONFIDENCE, SURE
from weightscope.utilization.metrics import FloatArray


def widening(confidence: float, images: int) -> float:
    """By how many standard errors of a bootstrap the mean of few images may be off, on one side.

    Student's quantile for so few images, and ``sqrt(n / (n - 1))`` for the spread that a bootstrap
    sees too small (Hesterberg 2015, section 4.3).

    Args:
        confidence: One-sided.
        images: Their number n; inf below two.
    """
    from scipy import special

    if images < 2:
        return math.inf
    return float(special.stdtrit(images - 1, confidence)) * math.sqrt(images / (images - 1))


def surely_above(samples: FloatArray, images: int) -> float:
    """What a figure exceeds with the confidence `SURE`; the first sample is of all images."""
    spread = float(np.nanstd(samples[1:]))
    return float(samples[0]) - (widening(SURE, images) * spread if images > 1 else math.inf)


def interval(samples: FloatArray, images: int) -> tuple[float, float]:
    """Central interval of bootstrap samples at the stated confidence, widened for few images."""
    from scipy import special

    if images < 2:
        return -math.inf, math.inf
    tail = float(special.ndtr(-widening(0.5 + CONFIDENCE / 2.0, images)))
    low, high = np.nanquantile(samples, [tail, 1.0 - tail])
    return float(low), float(high)
