"""Recall, precision, F1, IoU and their recall-weighted forms (eq. 30-35), and two more.

The loss of eq. 25-29 pushes probabilities of plastic up, so that the paper's threshold of 0.5 is
not where F1 is best. Best-threshold F1 and average precision tell a network that cannot rank
pixels from one that is only miscalibrated.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from weightscope.calls import to_device, undisturbed
from weightscope.utilization.metrics import average_precision, called, f1_curve

EDGES = np.linspace(-24.0, 24.0, 4097)
"""Bins of logits; 0, the threshold of the paper, is an edge."""


@dataclass(frozen=True, eq=False)
class Tally:
    """How many pixels of each class have a logit in each bin; tallies of batches add up.

    Attributes:
        plastic: (bins,) pixels of plastic; the first and last bin hold all beyond.
        sand: (bins,) pixels of sand.
    """

    plastic: NDArray[np.int64]
    sand: NDArray[np.int64]

    def __add__(self, other: Tally) -> Tally:
        return Tally(self.plastic + other.plastic, self.sand + other.sand)


@dataclass(frozen=True)
class Metrics:
    """Quality of a segmentation, pooled over all pixels.

    Attributes:
        precision: Eq. 31; 0 where nothing is predicted, as in the paper's table 1.
        recall: Eq. 30; nan where there is no plastic.
        f1: Eq. 32.
        iou: Eq. 33, the intersection over union of the class plastic ("mIoU" in the paper).
        rw_f1: Eq. 34, F1 times recall.
        rw_iou: Eq. 35, IoU times recall.
        best_f1: F1 at the threshold where it is highest.
        best_threshold: That threshold, as a probability.
        average_precision: Area under precision over recall, a step per bin of logits.
    """

    precision: float
    recall: float
    f1: float
    iou: float
    rw_f1: float
    rw_iou: float
    best_f1: float
    best_threshold: float
    average_precision: float

    @property
    def useful(self) -> bool:
        """Whether the paper would call it practical: r.w. F1 >= 0.40 and r.w. IoU >= 0.25."""
        return self.rw_f1 >= 0.40 and self.rw_iou >= 0.25


def tally(logits: Tensor, truth: Tensor) -> Tally:
    """Count the pixels of a batch.

    Args:
        logits: Any shape.
        truth: The same shape, 0 and 1.
    """
    values = logits.detach().cpu().double().flatten().numpy()
    # bin i holds EDGES[i] < logit <= EDGES[i + 1]: sigmoid > 0.5 is then exactly the upper half
    bins = np.clip(np.searchsorted(EDGES, values, side="left") - 1, 0, len(EDGES) - 2)
    plastic = truth.cpu().flatten().numpy() > 0.5
    count = len(EDGES) - 1
    return Tally(
        plastic=np.bincount(bins[plastic], minlength=count),
        sand=np.bincount(bins[~plastic], minlength=count),
    )


def measure(counts: Tally) -> Metrics:
    """Compute all figures from a tally.

    Example:
        >>> perfect = tally(torch.tensor([3.0, -3.0]), torch.tensor([1.0, 0.0]))
        >>> measure(perfect).rw_f1
        1.0
    """
    # counts of what is predicted plastic when the threshold is the lower edge of each bin
    hits, false_alarms = called(counts.plastic), called(counts.sand)
    total = int(counts.plastic.sum())
    middle = len(EDGES) // 2
    tp, fp = int(hits[middle]), int(false_alarms[middle])
    fn = total - tp
    precision = tp / (tp + fp) if tp + fp else 0.0
    recall = tp / total if total else float("nan")
    f1 = _f1(tp, fp, fn)
    iou = tp / (tp + fp + fn) if tp + fp + fn else float("nan")
    f1_by_threshold = f1_curve(counts.plastic, counts.sand)
    best = int(f1_by_threshold.argmax())
    return Metrics(
        precision=precision,
        recall=recall,
        f1=f1,
        iou=iou,
        rw_f1=f1 * recall,
        rw_iou=iou * recall,
        best_f1=float(f1_by_threshold[best]),
        best_threshold=float(1 / (1 + np.exp(-EDGES[best]))),
        average_precision=float(average_precision(counts.plastic, counts.sand)),
    )


def _f1(tp: int, fp: int, fn: int) -> float:
    return 2 * tp / (2 * tp + fp + fn) if tp + fp + fn else float("nan")


def evaluate(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> Metrics:
    """Measure a network on images with their masks, pooled over all pixels.

    Args:
        model: Maps (B, 3, H, W) to logits (B, 1, H, W). Its mode is restored.
        batches: Images and masks; at least one.
    """
    counts = Tally(np.zeros(len(EDGES) - 1, np.int64), np.zeros(len(EDGES) - 1, np.int64))
    with undisturbed(model), torch.no_grad():
        for images, masks in batches:
            counts = counts + tally(model(to_device(images, model)), masks)
    return measure(counts)
