"""Quality of a segmentation in one number, and its uncertainty over images.

The best threshold is searched because a network trained with class weights is not calibrated at
0.5: removing a useless level can raise its F1 at 0.5.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from weightscope.adapters import pytree
from weightscope.errors import InputError

FloatArray = NDArray[np.float64]
BuiltIn = Literal["f1", "average_precision"]
Metric = Callable[[Any, Any], float | Tensor] | str

BINS = 1024
"""Largest number of thresholds at which precision and recall are evaluated."""


class Quality(Protocol):
    """Quality of a set of images, which can be asked again for any multiset of them."""

    images: int

    def of(self, weights: FloatArray) -> FloatArray:
        """Quality of resamples.

        Args:
            weights: (resamples, images): how often each image is counted.

        Returns:
            (resamples,): one number for each row.
        """
        ...


class PixelCounts:
    """Counts of foreground and background pixels between thresholds, image by image.

    Args:
        scores: For each image, the scores of its pixels; larger is more foreground.
        truths: For each image, whether each pixel is foreground.
        kind: Which number to make of them.
    """

    def __init__(
        self, scores: Sequence[FloatArray], truths: Sequence[NDArray[np.bool_]], kind: BuiltIn
    ) -> None:
        self.images = len(scores)
        self.kind = kind
        pooled = thresholds(scores, truths)
        shape = (self.images, len(pooled))
        self.foreground, self.background = np.zeros(shape), np.zeros(shape)
        for i, (score, truth) in enumerate(zip(scores, truths, strict=True)):
            bins = np.searchsorted(pooled, score, side="right") - 1
            self.foreground[i] = np.bincount(bins[truth], minlength=len(pooled))
            self.background[i] = np.bincount(bins[~truth], minlength=len(pooled))

    def of(self, weights: FloatArray) -> FloatArray:
        """Best-threshold F1 ``2TP / (2TP + FP + FN)``, or the step-wise area under recall."""
        hits = np.cumsum((weights @ self.foreground)[:, ::-1], axis=1)
        alarms = np.cumsum((weights @ self.background)[:, ::-1], axis=1)
        total = hits[:, -1:]
        if self.kind == "f1":
            best: FloatArray = np.max(2 * hits / np.maximum(hits + alarms + total, 1e-12), axis=1)
            return best
        precision = hits / np.maximum(hits + alarms, 1e-12)
        steps = np.diff(hits, axis=1, prepend=0.0) / np.maximum(total, 1e-12)
        area: FloatArray = np.sum(precision * steps, axis=1)
        return area


def thresholds(scores: Sequence[FloatArray], truths: Sequence[NDArray[np.bool_]]) -> FloatArray:
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
    ]
    return np.unique(np.concatenate(picked))


class ImageValues:
    """One value for each image; quality is their mean. Images without a value (nan) are left out.

    Args:
        values: (images,).
    """

    def __init__(self, values: FloatArray) -> None:
        self.images = len(values)
        self.known = np.isfinite(values)
        self.values = np.where(self.known, values, 0.0)
        if not self.known.any():
            raise InputError("metric returned no finite number for any image of the batches")

    def of(self, weights: FloatArray) -> FloatArray:
        """Weighted mean over the images that have a value."""
        total = weights @ self.known
        mean: FloatArray = (weights @ self.values) / np.where(total > 0, total, np.nan)
        return mean


def measure_quality(metric: Metric, outputs: Sequence[Any], targets: Sequence[Any]) -> Quality:
    """Evaluate a metric on batches so that it can be resampled over images.

    Args:
        metric: ``"f1"`` (best threshold) or ``"average_precision"``, both for one foreground class,
            or a callable ``metric(outputs, targets)``, larger is better, that is asked for one
            image at a time (with its batch dimension) and averaged.
        outputs: What the model returned, batch by batch.
        targets: The targets, batch by batch.

    Raises:
        InputError: The metric is unknown, or does not fit outputs or targets.
    """
    if not isinstance(metric, str):
        pairs = [
            pair
            for output, target in zip(outputs, targets, strict=True)
            for pair in zip(split_images(output), split_images(target), strict=True)
        ]
        return ImageValues(np.array([float(metric(output, target)) for output, target in pairs]))
    if metric not in ("f1", "average_precision"):
        raise InputError(
            f"unknown metric {metric!r}; choose 'f1' or 'average_precision', or give a callable "
            "metric(outputs, targets) whose larger values are better"
        )
    scores: list[FloatArray] = []
    truths: list[NDArray[np.bool_]] = []
    for output, target in zip(outputs, targets, strict=True):
        score, truth = foreground(output, target, metric)
        scores += list(score)
        truths += list(truth)
    if not any(truth.any() for truth in truths):
        raise InputError(
            f"metric {metric!r} needs foreground, but no target of the batches has any; "
            "give more batches"
        )
    return PixelCounts(scores, truths, "f1" if metric == "f1" else "average_precision")


def foreground(output: Any, target: Any, metric: str) -> tuple[FloatArray, NDArray[np.bool_]]:
    """Read (images, pixels) foreground scores and truths off one batch.

    One channel is taken as the score, of two the difference (second minus first). Logits and
    probabilities give the same quality, since every threshold is tried.

    Raises:
        InputError: Another number of channels, or a target of another size.
    """
    tensor = only_tensor(output)
    advice = f"; metric {metric!r} knows one foreground class, give a callable for anything else"
    if tensor.dim() < 3 or tensor.shape[1] not in (1, 2):
        raise InputError(f"outputs have shape {tuple(tensor.shape)}" + advice)
    tensor = tensor.detach().float()
    score = tensor[:, 0] if tensor.shape[1] == 1 else tensor[:, 1] - tensor[:, 0]
    if not isinstance(target, Tensor) or target.numel() != score.numel():
        shape = tuple(target.shape) if isinstance(target, Tensor) else type(target).__name__
        raise InputError(
            f"targets are {shape}, expected one number for each of {tuple(score.shape)} pixels"
            + advice
        )
    if not bool(torch.isfinite(score).all()):
        raise InputError("the model's outputs hold nan or infinite values; no metric is defined")
    images = len(score)
    return (
        score.cpu().double().reshape(images, -1).numpy(),
        (target.detach().cpu().reshape(images, -1) > 0.5).numpy(),
    )


def only_tensor(output: Any) -> Tensor:
    """The prediction in what a model returned: a tensor, or the first one in a container."""
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Mapping):
        for key in ("logits", "out"):
            if isinstance(output.get(key), Tensor):
                return output[key]  # type: ignore[no-any-return]
    for leaf in pytree.tree_leaves(output):
        if isinstance(leaf, Tensor):
            return leaf
    raise InputError(f"the model returned {type(output).__name__} without any tensor")


def split_images(batch: Any) -> list[Any]:
    """Cut a batch (a tensor or a container of tensors) into batches of one image."""
    leaves, spec = pytree.tree_flatten(batch)
    sizes = {len(leaf) for leaf in leaves if isinstance(leaf, Tensor) and leaf.dim()}
    if not sizes:
        raise InputError(f"a batch of {type(batch).__name__} holds no tensor to split into images")
    return [
        pytree.tree_unflatten(
            [
                leaf[i : i + 1]
                if isinstance(leaf, Tensor) and leaf.dim() and len(leaf) == max(sizes)
                else leaf
                for leaf in leaves
            ],
            spec,
        )
        for i in range(max(sizes))
    ]


def resampled(images: int, resamples: int, seed: int) -> FloatArray:
    """Draw how often each image is counted in bootstrap resamples: (resamples, images)."""
    generator = np.random.default_rng(seed)
    return generator.multinomial(images, np.full(images, 1.0 / images), size=resamples).astype(
        np.float64
    )
