"""A loss without what a scale and an offset of each output channel would mend.

A loss of classes sees what a threshold forgives: a level whose removal only shifts or scales the
logits looks used. So a scale and an offset of each channel are fitted for the whole network and for
every ablation of it, and the loss is taken of the outputs so calibrated.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from weightscope.adapters import pytree
from weightscope.batches import split_images
from weightscope.calls import only_tensor
from weightscope.utilization.answers import FITTED, OutputShapes, as_number
from weightscope.utilization.metrics import BoolArray, FloatArray, ImageValues
from weightscope.utilization.targets import by_channel, is_prediction
from weightscope.utilization.values import ValueMetric, on_device

FOLDS = 2
"""Parts of the images; each is judged by what was fitted on the others, so that the fit cannot
flatter. Five folds gave the same verdicts on the choosing networks of the evidence study, at four
times the cost."""

STEPS = 30
"""Iterations of L-BFGS: a scale and an offset of few channels converge in about ten."""

HELD = 2**26
"""Numbers of outputs that are held for the fit, once there are `LEAST` images of them."""

LEAST = 10
"""Images that are fitted on in any case: fewer decide nothing."""

Fit = dict[int, tuple[Tensor, Tensor]]
"""Scale and offset of each channel, (channels, 1), of every tensor of predictions by position."""


class RecalibratedValues(ImageValues):
    """The values of a loss after a fit, and as they are without it.

    Args:
        values: (images,).
        as_given: The same without the fit.
    """

    def __init__(self, values: FloatArray, as_given: FloatArray) -> None:
        super().__init__(values)
        self.as_given = ImageValues(as_given)

    def among(self, which: BoolArray) -> RecalibratedValues:
        """The same of some images alone."""
        kept = (np.where(v.known & which, v.values, np.nan) for v in (self, self.as_given))
        return RecalibratedValues(*kept)


class RecalibratedMeter:
    """Collects the loss of every image after a scale and an offset fitted on other images.

    Outputs are held until `FITTED` images are there, or `HELD` numbers; then both are fitted for
    each fold, and later images are judged as they come.

    Args:
        metric: The loss, differentiable.
        targets: All targets, batch by batch.
        device: Where the model's outputs are.
        shapes: Of the whole network's outputs: whether they are logits or probabilities.
    """

    def __init__(
        self,
        metric: ValueMetric,
        targets: Sequence[Any],
        device: torch.device,
        shapes: OutputShapes,
    ) -> None:
        self.metric, self.targets, self.device, self.shapes = metric, targets, device, shapes
        self.batches = 0
        self._generator = np.random.default_rng(0)
        self._folds: list[int] = []
        self._held: list[tuple[Any, Any]] = []
        self._fits: list[Fit] = []
        self.values: list[float] = []
        self._as_given: list[float] = []

    def add(self, output: Any) -> None:
        """Add the outputs for the next batch."""
        target = on_device(self.targets[self.batches], self.device)
        self._held += zip(split_images(output), split_images(target), strict=True)
        self.batches += 1
        count = len(self._held)
        numbers = sum(leaf.numel() for leaf in _predictions(output).values()) // max(
            1, len(only_tensor(output))
        )
        if self._fits or count >= FITTED or (count >= LEAST and count * numbers >= HELD):
            self._settle()

    def quality(self) -> RecalibratedValues:
        """The mean over all images."""
        self._settle()
        return RecalibratedValues(np.array(self.values), np.array(self._as_given))

    def _settle(self) -> None:
        """Judge what is held, and hold it no longer."""
        if not self._held:
            return
        while len(self._folds) < len(self.values) + len(self._held):
            # drawn: images may come in turns, of which a fold by turns would see one kind only
            self._folds += self._generator.permutation(FOLDS).tolist()
        if self._fits:
            values = self._judged(self._fits)
        else:
            pairs = list(zip(self._held, self._folds, strict=False))
            fitted = [
                self._fitted([pair for pair, own in pairs if own != fold]) for fold in range(FOLDS)
            ]
            none: list[Fit] = [{} for _ in range(FOLDS)]
            # a fit that does not carry over to other images is worse than none
            tried = [(fits, self._judged(fits)) for fits in (fitted, none)]
            self._fits, values = min(tried, key=lambda one: float(np.nansum(one[1])))
        self._as_given += self._judged([{} for _ in range(FOLDS)])
        self.values += values
        self._held = []

    def _judged(self, fits: Sequence[Fit]) -> list[float]:
        """The loss of every image that is held, after the fit of its fold."""
        folds = self._folds[len(self.values) :]
        with torch.no_grad():
            return [
                self.metric.value(self._calibrated(output, fits[fold]), target, "the batches")
                for (output, target), fold in zip(self._held, folds, strict=False)
            ]

    def _fitted(self, pairs: Sequence[tuple[Any, Any]]) -> Fit:
        """The scale and offset with the least mean loss on some images; none if that fails."""
        start = {}
        for position in _predictions(pairs[0][0]) if pairs else ():
            rows = torch.cat([self._rows(output, position) for output, _ in pairs], 1)
            start[position] = (rows.std(1, keepdim=True), rows.mean(1, keepdim=True))
        free = [
            torch.full_like(mean, value).requires_grad_()
            for _, mean in start.values()
            for value in (1.0, 0.0)
        ]

        def read() -> Fit:
            # about the mean and in units of the spread, so that both are equally easy to fit
            pieces = zip(start.items(), free[::2], free[1::2], strict=True)
            return {
                position: (slope, mean + shift * spread.clamp_min(1e-3) - slope * mean)
                for (position, (spread, mean)), slope, shift in pieces
            }

        def loss() -> Tensor:
            fit = read()
            values = [
                self.metric(self._calibrated(output, fit), target) for output, target in pairs
            ]
            return torch.stack([as_number(v).double().mean() for v in values]).nanmean()

        def closure() -> Tensor:
            optimizer.zero_grad()
            value = loss()
            torch.autograd.backward(value, inputs=free)
            return value

        try:
            with torch.enable_grad():
                before = loss()
                optimizer = torch.optim.LBFGS(free, max_iter=STEPS, line_search_fn="strong_wolfe")
                optimizer.step(closure)  # type: ignore[no-untyped-call]
                better = bool(loss() <= before)
        except Exception:  # noqa: BLE001 - a foreign loss may refuse in any way
            better = False
        return {i: (a.detach(), b.detach()) for i, (a, b) in read().items()} if better else {}

    def _rows(self, output: Any, position: int) -> Tensor:
        """A tensor of predictions in unbounded numbers, (channels, positions)."""
        rows = by_channel(pytree.tree_leaves(output)[position].detach())
        exact = rows.to(torch.promote_types(rows.dtype, torch.float32))
        return self.shapes.ranges[position].unlink(exact)

    def _calibrated(self, output: Any, fit: Fit) -> Any:
        """Outputs after a fit."""
        leaves, spec = pytree.tree_flatten(output)
        for position, (scale, offset) in fit.items():
            leaf = leaves[position]
            rows = scale * self._rows(output, position) + offset
            rows = self.shapes.ranges[position].link(rows).to(leaf.dtype)
            if leaf.dim() > 1:
                shape = (leaf.shape[1], leaf.shape[0], *leaf.shape[2:])
                leaves[position] = rows.reshape(shape).movedim(0, 1)
            else:
                leaves[position] = rows.reshape(leaf.shape)
        return pytree.tree_unflatten(leaves, spec)


def _predictions(output: Any) -> dict[int, Tensor]:
    """The tensors of predictions by position."""
    leaves = pytree.tree_leaves(output)
    return {i: leaf for i, leaf in enumerate(leaves) if is_prediction(leaf)}
