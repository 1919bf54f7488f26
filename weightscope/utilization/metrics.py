"""Quality in one number, and its uncertainty over images: counts and values that can be resampled.

One foreground class is judged at its best threshold, because a network trained with class weights
is not calibrated at 0.5: removing a useless level can raise its F1 at 0.5.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
Compared = dict[int, tuple[FloatArray, FloatArray]]
"""By number of a class or channel: its quality, and that of its best constant, on resamples."""

Counted = Literal["f1", "iou", "accuracy", "average_precision"]

BINS = 1024
"""Largest number of thresholds at which precision and recall are evaluated."""


class Quality(Protocol):
    """Quality of a set of images, which can be asked again for any multiset of them."""

    images: int

    @property
    def weighing(self) -> BoolArray:
        """Which images weigh in it, (images,): those that hold something to find or to judge."""
        ...

    def of(self, weights: FloatArray) -> FloatArray:
        """Quality of resamples.

        Args:
            weights: (resamples, images): how often each image is counted.

        Returns:
            (resamples,): one number for each row; nan where it is not defined.
        """
        ...


class CountedQuality(Quality, Protocol):
    """Quality that follows from counts, so that the best constant prediction is known too."""

    def constant(self, weights: FloatArray) -> FloatArray:
        """Quality of the best prediction that is the same everywhere: (resamples,)."""
        ...


def called(counts: FloatArray) -> FloatArray:
    """Counts at or above each threshold, from counts between ascending thresholds (..., bins)."""
    return np.flip(np.cumsum(np.flip(counts, -1), -1), -1)


def f1_curve(foreground: FloatArray, background: FloatArray) -> FloatArray:
    """F1 at each threshold, ``2TP / (2TP + FP + FN)``; nan without foreground.

    Args:
        foreground: (..., bins): foreground pixels between ascending thresholds.
        background: (..., bins): background pixels.
    """
    hits, total = called(foreground), foreground.sum(-1, keepdims=True)
    return 2 * hits / _positive(hits + called(background) + total, total)


def average_precision(foreground: FloatArray, background: FloatArray) -> FloatArray:
    """Area under precision over recall, a step per threshold; nan without foreground.

    Args:
        foreground: (..., bins): foreground pixels between ascending thresholds.
        background: (..., bins): background pixels.
    """
    hits, total = called(foreground), foreground.sum(-1)
    precision = hits / np.maximum(hits + called(background), 1e-12)
    area: FloatArray = (precision * foreground).sum(-1) / _positive(total, total)
    return area


def _positive(divisor: FloatArray, needed: FloatArray) -> FloatArray:
    """A divisor, nan where what is needed is not there."""
    return np.where(needed > 0, divisor, np.nan)


class PixelCounts:
    """Counts of foreground and background pixels between thresholds, image by image.

    Args:
        scores: For each image, the scores of its pixels; larger is more foreground.
        truths: For each image, whether each pixel is foreground.
        kind: Which number to make of them.
        at: Ascending thresholds, the first no more than any score; by default those of
            `thresholds`.
    """

    def __init__(
        self,
        scores: Sequence[NDArray[np.float32]],
        truths: Sequence[NDArray[np.bool_]],
        kind: Counted,
        at: NDArray[np.float32] | None = None,
    ) -> None:
        self.images = len(scores)
        self.scores, self.truths, self.kind = scores, truths, kind
        self.thresholds = pooled = thresholds(scores, truths) if at is None else at
        shape = (self.images, len(pooled))
        self.foreground, self.background = np.zeros(shape), np.zeros(shape)
        for i, (score, truth) in enumerate(zip(scores, truths, strict=True)):
            bins = np.searchsorted(pooled, score, side="right") - 1
            self.foreground[i] = np.bincount(bins[truth], minlength=len(pooled))
            self.background[i] = np.bincount(bins[~truth], minlength=len(pooled))

    @property
    def weighing(self) -> BoolArray:
        """Images with foreground; for accuracy, with any pixel that counts."""
        rest = self.background.sum(1) if self.kind == "accuracy" else 0.0
        held: BoolArray = self.foreground.sum(1) + rest > 0
        return held

    def of(self, weights: FloatArray) -> FloatArray:
        """F1, IoU or accuracy at the best threshold, or average precision."""
        if self.kind == "average_precision":
            return average_precision(weights @ self.foreground, weights @ self.background)
        best: FloatArray = self.curve(weights).max(-1)
        return best

    def curve(self, weights: FloatArray) -> FloatArray:
        """F1, IoU or accuracy at each threshold, and where nothing is called: (..., bins + 1)."""
        none = np.zeros((*weights.shape[:-1], 1))
        foreground = np.concatenate([weights @ self.foreground, none], -1)
        background = np.concatenate([weights @ self.background, none], -1)
        if self.kind == "accuracy":
            total = background.sum(-1, keepdims=True)
            right = called(foreground) + total - called(background)
            accuracy: FloatArray = right / _some(foreground.sum(-1, keepdims=True) + total)
            return accuracy
        f1 = f1_curve(foreground, background)
        return f1 if self.kind == "f1" else f1 / (2.0 - f1)

    def constant(self, weights: FloatArray) -> FloatArray:
        """Everything called foreground; for accuracy, what there is more of."""
        total, rest = (weights @ counts.sum(-1) for counts in (self.foreground, self.background))
        if self.kind == "accuracy":
            most: FloatArray = np.maximum(total, rest) / _some(total + rest)
            return most
        share = np.where(total > 0, total / _some(total + rest), np.nan)
        return 2 * share / (1.0 + share) if self.kind == "f1" else share


def best_thresholds(quality: Quality) -> tuple[float, ...]:
    """The thresholds that all images choose, one for each channel; none where none is chosen."""
    if isinstance(quality, MeanOverClasses):
        return tuple(t for one in quality.classes for t in best_thresholds(one))
    if not isinstance(quality, PixelCounts) or quality.kind == "average_precision":
        return ()
    best = int(np.argmax(quality.curve(np.ones(quality.images))))
    return (float(np.append(quality.thresholds, np.inf)[best]),)


def quality_at(quality: Quality, chosen: Sequence[float]) -> float | None:
    """The quality of all images at given thresholds; None where it has none."""
    if not chosen:
        return None
    if isinstance(quality, MeanOverClasses):
        one_each = zip(quality.classes, chosen, strict=True)
        return float(np.mean([_at_threshold(one, threshold) for one, threshold in one_each]))
    return _at_threshold(quality, chosen[0])


def _at_threshold(quality: Quality, threshold: float) -> float:
    assert isinstance(quality, PixelCounts)
    # its own thresholds need not hold that one
    exact = np.array([-np.inf, threshold], np.float32)
    counts = PixelCounts(quality.scores, quality.truths, quality.kind, exact)
    return float(counts.curve(np.ones(quality.images))[1])


def _some(total: FloatArray) -> FloatArray:
    """A total, nan where it is zero."""
    return _positive(total, total)


def thresholds(
    scores: Sequence[NDArray[np.float32]], truths: Sequence[NDArray[np.bool_]]
) -> NDArray[np.float32]:
    """Sorted thresholds: every score if there are few, else as dense as scores and foreground are.

    Foreground is often under 1 % of the pixels, so half of the thresholds follow its scores.
    """
    everything = np.unique(np.concatenate(scores))
    if len(everything) <= BINS:
        return everything
    objects = np.unique(np.concatenate([s[t] for s, t in zip(scores, truths, strict=True)]))
    picked = [
        values[np.linspace(0, len(values) - 1, BINS // 2).astype(np.intp)]
        for values in (everything, objects)
        if len(values)
    ]
    return np.unique(np.concatenate(picked))


class MeanOverClasses:
    """Macro average: the mean over classes of a quality of each, absent classes left out.

    Args:
        classes: The quality of each class on the same images.
        numbers: Of the classes.
        exclusive: Whether every pixel has one of them, so that the commonest is a background.
    """

    def __init__(
        self,
        classes: Sequence[CountedQuality],
        numbers: Sequence[int] | None = None,
        *,
        exclusive: bool = False,
    ) -> None:
        self.images = classes[0].images
        self.exclusive = exclusive
        self.classes = classes
        self.numbers = range(len(classes)) if numbers is None else numbers

    @property
    def weighing(self) -> BoolArray:
        """Images with any of the classes, but for a background."""
        held = np.stack([one.weighing for one in self.classes], 1)
        return _beyond_commonest(held) if self.exclusive else np.asarray(held.any(1))

    def by_class(self, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Quality of each class, and of its best constant: (classes, resamples) each."""
        return (
            np.stack([one.of(weights) for one in self.classes]),
            np.stack([one.constant(weights) for one in self.classes]),
        )

    def of(self, weights: FloatArray) -> FloatArray:
        """Mean over the classes that have a value."""
        return _mean_of_known(np.stack([one.of(weights) for one in self.classes]))

    def constant(self, weights: FloatArray) -> FloatArray:
        """The best constant of each class."""
        return _mean_of_known(np.stack([one.constant(weights) for one in self.classes]))


def _beyond_commonest(held: BoolArray) -> BoolArray:
    """Which images hold another class than the one that most hold: (images, classes) -> (images,).

    A background that is everywhere makes no image count.
    """
    return np.asarray(np.delete(held, int(held.sum(0).argmax()), 1).any(1))


def _mean_of_known(values: FloatArray) -> FloatArray:
    """Mean over the first axis of what is a number; nan where nothing is."""
    known = np.isfinite(values)
    mean: FloatArray = np.where(known, values, 0.0).sum(0) / _some(known.sum(0).astype(np.float64))
    return mean


class Confusion:
    """Pixels of each class by what was decided, image by image, of three classes or more.

    Args:
        hits: (images, classes): pixels of the class that were called so.
        decided: (images, classes): pixels that were called so.
        true: (images, classes): pixels of the class.
        kind: Which number to make of them.
    """

    def __init__(
        self, hits: FloatArray, decided: FloatArray, true: FloatArray, kind: Counted
    ) -> None:
        self.images = len(hits)
        self.numbers = range(hits.shape[1])
        self.hits, self.decided, self.true, self.kind = hits, decided, true, kind

    @property
    def weighing(self) -> BoolArray:
        """Images with more than a background; for accuracy, with any pixel that counts."""
        held: BoolArray = self.true > 0
        return np.asarray(held.any(1)) if self.kind == "accuracy" else _beyond_commonest(held)

    def of(self, weights: FloatArray) -> FloatArray:
        """F1 or IoU, mean over the classes that there are; or accuracy, pooled over all pixels."""
        hits, decided, true = (weights @ part for part in (self.hits, self.decided, self.true))
        if self.kind == "accuracy":
            accuracy: FloatArray = hits.sum(-1) / _some(true.sum(-1))
            return accuracy
        return _mean_of_known(self._one(hits, decided, true).T)

    def constant(self, weights: FloatArray) -> FloatArray:
        """The best class to call everything."""
        true = weights @ self.true
        every = true.sum(-1, keepdims=True)
        if self.kind == "accuracy":
            most: FloatArray = true.max(-1) / _some(every[:, 0])
            return most
        best: FloatArray = self._one(true, every, true).max(-1, initial=0.0, where=true > 0)
        return best / _some((true > 0).sum(-1).astype(np.float64))

    def by_class(self, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
        """F1 or IoU of each class, and if all were called so: (classes, resamples) each."""
        hits, decided, true = (weights @ part for part in (self.hits, self.decided, self.true))
        every = np.broadcast_to(true.sum(-1, keepdims=True), true.shape)
        return self._one(hits, decided, true).T, self._one(true, every, true).T

    def _one(self, hits: FloatArray, decided: FloatArray, true: FloatArray) -> FloatArray:
        """F1 or IoU of each class; nan where it is absent."""
        if self.kind == "f1":
            return 2 * hits / _positive(decided + true, true)
        return hits / _positive(decided + true - hits, true)


def by_class(quality: Quality, weights: FloatArray) -> Compared:
    """Of a mean over classes: quality of each class, and of its best constant, on resamples.

    Empty for any other quality, accuracy too.

    Args:
        quality: Of all images.
        weights: (resamples, images): how often each image is counted.
    """
    if not isinstance(quality, MeanOverClasses | Confusion) or (
        isinstance(quality, Confusion) and quality.kind == "accuracy"
    ):
        return {}
    own, constant = quality.by_class(weights)
    return dict(zip(quality.numbers, zip(own, constant, strict=True), strict=True))


class ImageValues:
    """One value for each image; quality is their mean. Images without a value (nan) are left out.

    Args:
        values: (images,).
        numbers: Where each value is the mean of several, such as one for each class, these:
            (images, numbers); nan where there is none.
    """

    def __init__(self, values: FloatArray, numbers: FloatArray | None = None) -> None:
        self.images = len(values)
        self.numbers = numbers
        self.known: BoolArray = np.isfinite(values)
        self.values = np.where(self.known, values, 0.0)

    @property
    def weighing(self) -> BoolArray:
        """Images that have a value."""
        return self.known

    def among(self, which: BoolArray) -> ImageValues:
        """The same of some images alone."""
        return ImageValues(np.where(self.known & which, self.values, np.nan))

    def by_number(self, weights: FloatArray) -> Compared:
        """Mean of each of several numbers that are shares, and 0, the least that they may be."""
        found = self.numbers
        if found is None or not bool(((found >= 0) & (found <= 1) | np.isnan(found)).all()):
            return {}
        known = np.isfinite(found)
        means = (weights @ np.where(known, found, 0.0)) / _some(weights @ known)
        return {k: (mean, np.zeros_like(mean)) for k, mean in enumerate(means.T)}

    def of(self, weights: FloatArray) -> FloatArray:
        """Weighted mean over the images that have a value."""
        mean: FloatArray = (weights @ self.values) / _some(weights @ self.known)
        return mean


def resampled(which: Sequence[int], resamples: int, seed: int) -> FloatArray:
    """Draw how often each image is counted in bootstrap resamples: (resamples, images).

    Args:
        which: A number for every image from 0 on. Copies of one bear the same, and are drawn
            together: they are no images of their own, and make nothing surer.
        resamples: How many.
        seed: Of the draws.
    """
    generator, images = np.random.default_rng(seed), max(which, default=-1) + 1
    drawn = generator.multinomial(images, np.full(images, 1.0 / images), size=resamples)
    return drawn[:, list(which)].astype(np.float64)
