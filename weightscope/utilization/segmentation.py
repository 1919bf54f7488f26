"""Outputs and targets of a segmentation, whatever their layout, and the built-in metrics."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from weightscope.calls import only_tensor
from weightscope.errors import InputError, keyword
from weightscope.utilization.metrics import (
    Compared,
    Confusion,
    Counted,
    CountedQuality,
    FloatArray,
    MeanOverClasses,
    PixelCounts,
    by_class,
)

SEGMENTATION: dict[str, Counted] = {
    "f1": "f1",
    "dice": "f1",
    "iou": "iou",
    "accuracy": "accuracy",
    "average_precision": "average_precision",
}
"""Built-in metrics of classes by name. Dice's coefficient and F1 are the same number."""

_INTERPOLATION = {1: "linear", 2: "bilinear", 3: "trilinear"}


@dataclass(frozen=True)
class Pixels:
    """One batch of a segmentation.

    Attributes:
        scores: (images, channels, pixels), float32; of two classes one channel, the difference.
        truths: (images, pixels) class numbers where each pixel has one of several classes; else
            (images, channels, pixels), whether the pixel is foreground of the channel.
        valid: Of the shape of ``truths``: what counts.
    """

    scores: Tensor
    truths: Tensor
    valid: Tensor


class Segmentation:
    """Reads the outputs of a network and its targets.

    One channel of outputs is the score of foreground. Two or more are the scores of classes, where
    the targets name one for each pixel (as its number, or one-hot), or scores of labels that do not
    exclude each other.

    Args:
        metric: Its name, for errors.
        targets: All targets, batch by batch.
        dimensions: Number of spatial dimensions of the images.
        ignore_index: Value of targets that do not count; or the number of a class.
    """

    def __init__(
        self, metric: str, targets: Sequence[Any], dimensions: int, ignore_index: int | None
    ) -> None:
        self.metric = metric
        self.kind = SEGMENTATION[metric]
        self.targets = targets
        self.dimensions = dimensions
        self.ignore_index = ignore_index
        if ignore_index is not None and all(
            bool((only_tensor(target) == ignore_index).all()) for target in targets
        ):
            raise InputError(
                f"every value of the targets is {keyword('ignore_index', ignore_index)}: nothing "
                "is left to judge; give targets that hold classes, or another value to leave out"
            )

    @cached_property
    def one_hot(self) -> bool:
        """Whether every pixel of channel-wise targets belongs to exactly one channel."""
        for target in map(only_tensor, self.targets):
            sums = target.float().sum(1)[self._counting_channels(target).all(1)]
            if not bool(((sums - 1.0).abs() <= 1e-3).all()):
                return False
        return True

    def read(self, output: Any, index: int) -> Pixels:
        """Read one batch.

        Args:
            output: What the model returned.
            index: Number of the batch.

        Raises:
            InputError: Outputs and targets do not fit each other, or hold values without meaning.
        """
        target = only_tensor(self.targets[index]).detach().cpu()
        given = only_tensor(output).detach().cpu()
        if not given.is_floating_point() and bool((given > 1).any()):
            raise InputError(
                f"the model returns whole numbers up to {int(given.max())} for batch {index}, "
                f"as of classes that were chosen already; metric {self.metric!r} takes the scores "
                "of each class: let the forward return them, and take argmax outside of it, or "
                "give a callable"
            )
        scores = self._channels_first(given.float(), target, index)
        if not bool(torch.isfinite(scores).all()):
            raise InputError(
                f"the model's outputs for batch {index} hold nan or infinite values; no metric is "
                "defined"
            )
        images, channels = scores.shape[:2]
        sizes = scores.shape[2:]
        if target.shape == scores.shape and channels > 1:
            if sizes[-1] < min((channels, *sizes[:-1])) and not self.one_hot:
                raise InputError(
                    f"outputs of batch {index} have shape {tuple(only_tensor(output).shape)} and "
                    f"targets {tuple(target.shape)}, whose channels seem to be last; metric "
                    f"{self.metric!r} takes them second, as (images, channels, sizes). Give "
                    "targets, and a network, that have them there (movedim(-1, 1)), or targets of "
                    "one class number for each pixel; where they are second, give a callable"
                )
            return self._of_channels(scores, target, index)
        if target.shape in ((images, *sizes), (images, 1, *sizes)):
            return self._of_numbers(scores, target.reshape(images, *sizes), index)
        raise InputError(
            f"outputs for batch {index} have shape {tuple(scores.shape)} and targets "
            f"{tuple(target.shape)}; metric {self.metric!r} takes one class number for each pixel, "
            "or a channel of 0 and 1 for each channel of outputs; give a callable for anything else"
        )

    def _channels_first(self, scores: Tensor, target: Tensor, index: int) -> Tensor:
        """Scores as (images, channels, *sizes), of the size of the targets."""
        if scores.dim() == self.dimensions + 1:
            scores = scores[:, None]
        if scores.dim() != self.dimensions + 2:
            raise InputError(
                f"outputs for batch {index} have shape {tuple(scores.shape)}; metric "
                f"{self.metric!r} takes (images, channels) and {self.dimensions} sizes; give a "
                "callable for anything else"
            )
        sizes = target.shape[-self.dimensions :]
        if len(sizes) < self.dimensions:
            return scores
        if scores.shape[2:] != sizes and scores.shape[1:-1] == sizes:
            scores = scores.movedim(-1, 1)
        ratios = {wanted / size for wanted, size in zip(sizes, scores.shape[2:], strict=True)}
        if len(ratios) == 1 and (ratio := ratios.pop()) > 1 and ratio == round(ratio):
            # networks that end at a coarser level are judged at full size, as their authors do
            mode = _INTERPOLATION[self.dimensions]
            scores = F.interpolate(scores, size=sizes, mode=mode, align_corners=False)
        return scores

    def _counting(self, target: Tensor) -> Tensor:
        """What is not to be ignored by its value."""
        if self.ignore_index is None:
            return torch.ones_like(target, dtype=torch.bool)
        return target != self.ignore_index

    def _names_a_class(self, target: Tensor) -> bool:
        """Whether what to ignore is the number of a channel rather than a value in channels."""
        return self.ignore_index is not None and 0 <= self.ignore_index < target.shape[1]

    def _counting_channels(self, target: Tensor) -> Tensor:
        """What is not to be ignored by its value in channel-wise targets."""
        if self._names_a_class(target):
            return torch.ones_like(target, dtype=torch.bool)
        return self._counting(target)

    def _of_channels(self, scores: Tensor, target: Tensor, index: int) -> Pixels:
        """Targets with a channel for each channel of outputs."""
        valid = self._counting_channels(target)
        # smoothed labels name the class of the largest share
        self._check(target, valid, 1, index, shares=self.one_hot)
        if self.one_hot:
            numbers = target.float().argmax(1)
            counts = valid.all(1)
            if self._names_a_class(target):
                counts = numbers.ne(self.ignore_index or 0)
            return self._of_classes(scores, numbers, counts)
        if self._names_a_class(target):
            raise InputError(
                f"{keyword('ignore_index', self.ignore_index)} is a value of labels that do not "
                "exclude each other; mark what does not count by another value, such as 255"
            )
        return Pixels(scores.flatten(2), (target > 0.5).flatten(2), valid.flatten(2))

    def _of_numbers(self, scores: Tensor, target: Tensor, index: int) -> Pixels:
        """Targets with one number for each pixel."""
        valid = self._counting(target)
        if scores.shape[1] > 1:
            self._check(target, valid, scores.shape[1] - 1, index)
            return self._of_classes(scores, target.long(), valid)
        self._check(target, valid, 1, index)
        return Pixels(
            scores.flatten(2), (target > 0.5).flatten(1)[:, None], valid.flatten(1)[:, None]
        )

    def _of_classes(self, scores: Tensor, numbers: Tensor, valid: Tensor) -> Pixels:
        """Each pixel has one class; of two, the second is foreground."""
        numbers, valid = numbers.flatten(1), valid.flatten(1)
        if scores.shape[1] > 2:
            return Pixels(scores.flatten(2), torch.where(valid, numbers, 0), valid)
        difference = (scores[:, 1:] - scores[:, :1]).flatten(2)
        return Pixels(difference, (numbers == 1)[:, None], valid[:, None])

    def _check(
        self, target: Tensor, valid: Tensor, largest: int, index: int, *, shares: bool = False
    ) -> None:
        """Refuse values that name no class: a label value 255 is no foreground, nor is 0.4."""
        values = target[valid].float()
        strange = ~((values >= 0) & (values <= largest))
        if not shares:
            strange |= (values - values.round()).abs() > 1e-3
        if not bool(strange.any()):
            return
        found = sorted({float(v) for v in torch.unique(values[strange])[:5] if not v.isnan()})
        named = ", ".join(f"{value:g}" for value in found) or "nan"
        raise InputError(
            f"targets of batch {index} hold {named}, which is no class of the {largest + 1} that "
            f"outputs and targets allow (0 to {largest}); {_cure(values, found, largest)}"
        )


def _cure(values: Tensor, found: Sequence[float], largest: int) -> str:
    """What to do about targets that hold values which name no class.

    Args:
        values: All that count.
        found: Some of those that name none, in order; empty where they are nan.
        largest: Number of the last class.
    """
    if bool(values.isnan().any()):
        return (
            "replace nan by a number that does not count, torch.nan_to_num(target, nan=255.0) with "
            f"{keyword('ignore_index', 255)}, or leave those images out"
        )
    if any(value != round(value) for value in found):
        if largest > 1:
            return "give whole numbers, such as target.argmax(1) of shares of classes"
        return (
            "threshold soft masks, (target > 0.5).float(), or in Python give a callable metric "
            "that takes shares"
        )
    if len(found) > 1:
        return "map them"
    declare = f"declare it by {keyword('ignore_index', f'{found[0]:g}')}"
    least, most = float(values.min()), float(values.max())
    if largest == 1 and found == [255.0]:
        return f"{declare} if it does not count, or divide masks of 0 and 255 by 255"
    if least < most and not bool((values == 0).any()):  # masks of 1 and 2, or of -1 and 1
        mapped = f"(target == {most:g}).float()" if largest == 1 else f"target - {least:g}"
        return f"map them to 0 to {largest}, {mapped}, or {declare} if it does not count"
    if found == [largest + 1.0] and largest > 1:
        # as of grades, one more than there are borders between them
        return (
            f"{declare} if it does not count; if it is a class, the network has no output for it, "
            "and of outputs that each say whether a grade is passed give targets of as many "
            f"channels, torch.stack([target > k for k in range({largest + 1})], 1).float()"
        )
    return declare


class SegmentationMeter:
    """Collects what a built-in metric needs of every batch, in their order.

    Args:
        reader: Reads outputs and targets.
    """

    def __init__(self, reader: Segmentation) -> None:
        self.reader = reader
        self.batches = 0
        self._scores: list[list[NDArray[np.float32]]] = []
        self._truths: list[list[NDArray[np.bool_]]] = []
        self._counts: list[Tensor] = []
        self._exclusive = False

    def add(self, output: Any) -> None:
        """Add the outputs for the next batch."""
        self.add_pixels(self.reader.read(output, self.batches))

    def add_pixels(self, pixels: Pixels) -> None:
        """The same of what was read already."""
        self.batches += 1
        if pixels.truths.dim() == 3:
            for score, truth, valid in zip(pixels.scores, pixels.truths, pixels.valid, strict=True):
                self._add_image(score, truth, valid)
        elif self.reader.kind == "average_precision":
            self._exclusive = True
            for score, truth, valid in zip(
                _probabilities(pixels.scores), pixels.truths, pixels.valid, strict=True
            ):
                classes = torch.arange(len(score), device="cpu")[:, None]
                self._add_image(score, truth == classes, valid.expand_as(score))
        else:
            self._counts.append(_confusion(pixels))

    def _add_image(self, scores: Tensor, truths: Tensor, valid: Tensor) -> None:
        """Add one image of (channels, pixels)."""
        pairs = zip(scores, truths, valid, strict=True)
        self._scores.append([score[counts].numpy() for score, _, counts in pairs])
        pairs = zip(scores, truths, valid, strict=True)
        self._truths.append([truth[counts].numpy() for _, truth, counts in pairs])

    def quality(self) -> CountedQuality:
        """The quality of all batches.

        Raises:
            InputError: No target has any foreground.
        """
        if self._counts:
            hits, decided, true = torch.cat(self._counts).double().unbind(1)
            return Confusion(hits.numpy(), decided.numpy(), true.numpy(), self.reader.kind)
        channels = zip(
            zip(*self._scores, strict=True), zip(*self._truths, strict=True), strict=True
        )
        by_channel = {
            number: PixelCounts(scores, truths, self.reader.kind)
            for number, (scores, truths) in enumerate(channels)
            if any(truth.any() for truth in truths)
        }
        if not by_channel:
            raise InputError(
                f"metric {self.reader.metric!r} needs foreground, but no target of the batches has "
                "any; give more batches"
            )
        found = list(by_channel.values())
        return (
            found[0]
            if len(found) == 1
            else MeanOverClasses(found, list(by_channel), exclusive=self._exclusive)
        )


class ClassesApart:
    """F1 of each class or label, beside a figure that may hide what is rare.

    Empty where outputs and targets are none that F1 is defined for.

    Args:
        reader: Reads outputs and targets; None where the targets are no classes.
        cuts: How many cuts there are.
    """

    def __init__(self, reader: Segmentation | None, cuts: int) -> None:
        self._rows = 1 + cuts
        self._meters = (
            [] if reader is None else [SegmentationMeter(reader) for _ in range(self._rows)]
        )

    def add(self, output: Any, row: int = 0) -> None:
        """Add the outputs for the next batch.

        Args:
            output: What was returned.
            row: 0: by the whole network; else without the levels of a cut, counted from 1.
        """
        with suppress(InputError):
            if self._meters:
                self._meters[row].add(output)
                return
        self._meters = []

    def by_cut(self, weights: FloatArray) -> list[Compared]:
        """Of the whole network, then without the levels of each cut; see `_compared`."""
        nothing: list[Compared] = [{} for _ in range(self._rows)]
        try:
            found = [meter.quality() for meter in self._meters]
        except InputError:  # no pixel that counts
            return nothing
        if any(quality.images != weights.shape[1] for quality in found):
            return nothing
        return [_compared(quality, weights) for quality in found] or nothing


def _compared(quality: CountedQuality, weights: FloatArray) -> Compared:
    """See `by_class`; of foreground alone under the number -1."""
    alone = {-1: (quality.of(weights), quality.constant(weights))}
    return by_class(quality, weights) or alone


def _confusion(pixels: Pixels) -> Tensor:
    """Pixels of each class that were hit, called so, and are so: (images, 3, classes)."""
    images, classes = pixels.scores.shape[:2]
    decided = pixels.scores.argmax(1)
    first = torch.arange(images, device="cpu")[:, None] * classes

    def count(numbers: Tensor, which: Tensor) -> Tensor:
        return torch.bincount(
            (first + numbers)[which & pixels.valid], minlength=images * classes
        ).reshape(images, classes)

    every = torch.ones_like(pixels.valid)
    return torch.stack(
        [
            count(decided, decided == pixels.truths),
            count(decided, every),
            count(pixels.truths, every),
        ],
        1,
    )


def _probabilities(scores: Tensor) -> Tensor:
    """Scores of classes that can be compared between pixels: their softmax, or as they are."""
    sums = scores.sum(1)
    if bool((scores >= 0).all()) and math.isclose(
        float(sums.min()), float(sums.max()), abs_tol=0.01
    ):
        return scores
    return scores.softmax(1)
