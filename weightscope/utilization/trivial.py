"""The best answer that needs no network: a constant, or in a regression the input itself.

The zero of a skill. A quality that has no natural zero (a loss, an error) would otherwise make
every share of it arbitrary: a network that is wrong for other images' targets with confidence
looks the more skilled, the more confident it is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from weightscope.batches import Batch
from weightscope.utilization.answers import FILLED, Arrange, Images, OutputShapes, as_given
from weightscope.utilization.constants import filled_in, fitted_constant, loss_of, require_least
from weightscope.utilization.lines import from_input
from weightscope.utilization.metrics import FloatArray, ImageValues
from weightscope.utilization.values import ValueMetric

CONSTANT = "a constant"

ANSWER_FOR_OTHERS = "its answer for another image"


class TrivialValues(ImageValues):
    """The values of an answer that needs no network.

    Args:
        values: (images,).
        what: The answer, in words.
    """

    def __init__(self, values: FloatArray, what: str) -> None:
        super().__init__(values)
        self.what = what


def best_trivial(
    metric: ValueMetric,
    batches: Sequence[Batch],
    outputs: OutputShapes,
    others: FloatArray,
    device: torch.device,
    *,
    larger_is_better: bool,
    arrange: Arrange,
) -> TrivialValues:
    """The values of the best answer that needs no network.

    Candidates are: constants for each channel, fitted to the targets by gradient where the metric
    has one and by a simplex search elsewhere, from several starts, and what the network makes of
    constants in the place of its levels; the input itself and a straight
    line of it, where the targets of an output are a regression; and where neither gives a value on
    the images, the network's outputs for other images.

    Args:
        metric: What is asked.
        batches: All inputs and targets.
        outputs: Of the network on these batches.
        others: (images,): values of the network's outputs against other images' targets.
        device: Where the outputs are.
        larger_is_better: For this metric.
        arrange: See `as_given`.

    Raises:
        InputError: A loss falls without end on these targets.
    """
    sign = 1.0 if larger_is_better else -1.0
    images = Images(metric, batches, outputs, device, sign, arrange)
    if not larger_is_better:
        require_least(images)
    constant = fitted_constant(images)
    known = from_input(images, constant)
    known |= {} if constant is None else {CONSTANT: constant.values}
    if (filled := filled_in(images)) is not None:
        known[FILLED] = filled.values
    known = known or {ANSWER_FOR_OTHERS: others}
    # of what differs by rounding alone the first, which is simplest
    best = max(known, key=lambda what: float(f"{sign * np.nanmean(known[what]):.6g}"))
    return TrivialValues(known[best], best)


def at_even_odds(
    metric: ValueMetric, batches: Sequence[Batch], outputs: OutputShapes, device: torch.device
) -> float:
    """Size of the loss of outputs that leave everything open; 0 where it has none for them."""
    images = Images(metric, batches, outputs, device, -1.0, as_given)
    neutral = {i: torch.zeros_like(own.mean) for i, own in outputs.ranges.items()}
    loss = abs(loss_of(images, neutral))
    return loss if math.isfinite(loss) else 0.0
