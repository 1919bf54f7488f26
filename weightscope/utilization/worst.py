"""The one class, channel or output that loses most: a mean over all of them hides what one does."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from weightscope.thresholds import MINIMUM_SKILL, RESOLUTION
from weightscope.utilization.channels import ChannelMeter
from weightscope.utilization.intervals import interval, surely_above
from weightscope.utilization.metrics import Compared, FloatArray, ImageValues, Quality

APART = "f1"
"""What classes are judged by one by one, as what they lose by a callable cannot be asked of it."""


def by_number(quality: Quality, weights: FloatArray) -> Compared:
    """See `ImageValues.by_number`; empty for any other quality."""
    return quality.by_number(weights) if isinstance(quality, ImageValues) else {}


def of_the_worst(
    whole: Compared,
    ablated: Compared,
    images: int,
    *,
    kind: Literal["class", "number", "channel"] = "class",
    resolution: float = RESOLUTION,
) -> dict[str, Any]:
    """The one of several classes or channels that surely loses the largest share of its own skill.

    Args:
        whole: Of the whole network, from `by_class`.
        ablated: The same without the levels.
        images: Number of those that weigh.
        kind: What they are.
        resolution: Share of a value below which a difference is rounding.
    """
    found = []
    for number, (quality, trivial) in whole.items():
        left, _ = ablated.get(number, (np.full_like(quality, np.nan), None))
        skill = quality - trivial
        if kind == "class":  # the accuracy of a rare label is near 1 without any skill
            able = skill[0] > MINIMUM_SKILL * (1.0 - trivial[0])
        elif kind == "number":
            able = skill[0] > MINIMUM_SKILL
        else:  # in the metric's own unit, in which the others are the larger part
            able = surely_above(skill, images) > resolution * abs(quality[0])
        if able and np.isfinite(left[0]):
            lost = (quality - left) / np.where(skill > 0.0, skill, np.nan)
            low, _ = interval(lost[1:], images)
            found.append((low, float(lost[0]), number))
    if not found:
        return {}
    surely, share, number = max(found)
    return {"worst": share, "worst_low": surely, "worst_class": number, "worst_kind": kind}


def of_the_worst_part(
    whole: Compared, ablated: Compared, images: int, meter: ChannelMeter
) -> dict[str, Any]:
    """The same of the parts of the outputs that were asked one by one."""
    found = of_the_worst(whole, ablated, images, kind="channel", resolution=meter.resolution)
    if not found:
        return {}
    output, channel = meter.parts[found["worst_class"] % len(meter.parts)]
    kind = "channel" if channel >= 0 else "output"
    return found | {"worst_class": channel, "worst_kind": kind, "worst_output": output}


def of_the_worst_apart(whole: Compared, ablated: Compared, images: int) -> dict[str, Any]:
    """The same of classes that a callable takes together."""
    found = of_the_worst(whole, ablated, images)
    return found and found | {"worst_metric": APART}
