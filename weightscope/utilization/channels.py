"""What each channel of a regression is worth: a mean over channels hides one of small numbers."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor

from weightscope.adapters import pytree
from weightscope.errors import InputError
from weightscope.graph.structure import Structure
from weightscope.probing.inputs import image_of
from weightscope.probing.outputs import in_order, predictions
from weightscope.utilization.metrics import Compared, FloatArray, ImageValues, Quality
from weightscope.utilization.trivial import by_channel
from weightscope.utilization.values import ValueMetric, image_values, on_device


class ChannelMeter:
    """Asks a metric of one channel at a time, the others being the whole network's.

    The metric alone knows which positions count, and for how much. What a channel is worth is what
    its mean over all images and positions would lose in its place; what it loses without a level is
    what the cut network's channel does there.

    Args:
        structure: The network, with its cuts.
        metric: Of one value for each image; None where there is nothing to ask.
        targets: All targets, batch by batch.
        device: Where the outputs are.
    """

    def __init__(
        self,
        structure: Structure,
        metric: ValueMetric | None,
        targets: Sequence[Any],
        device: torch.device,
    ) -> None:
        self._structure, self._metric = structure, metric
        self._targets, self._device = targets, device
        self._sums: Tensor | float = 0.0
        self._count = self._added = 0
        self._now: tuple[int, int, Any] | None = None
        # by channel: values with its mean in its place, then as each cut leaves it
        self._others: dict[int, list[list[float]]] = {}

    @property
    def asks(self) -> bool:
        """Whether there is anything to ask, for which `look` wants to see the outputs."""
        return self._metric is not None

    def look(self, inputs: Any, outputs: Any) -> None:
        """Take note of what the whole network returned for a batch."""
        place = self._place(inputs, outputs) if self.asks else None
        if place is not None:
            rows = by_channel(pytree.tree_leaves(outputs)[place[0]].movedim(place[1], 1).double())
            self._sums, self._count = self._sums + rows.sum(1), self._count + rows.shape[1]

    def add(self, inputs: Any, outputs: Any) -> None:
        """Add what the whole network returned for the next batch."""
        place = self._place(inputs, outputs) if self.asks else None
        self._now = None if place is None or not self._count else (*place, outputs)
        self._added += 1
        if self._now is not None and isinstance(self._sums, Tensor):
            index, axis, _ = self._now
            own = pytree.tree_leaves(outputs)[index]
            shape = [-1 if a == axis else 1 for a in range(own.dim())]
            self._ask(0, (self._sums / self._count).to(own).reshape(shape).expand_as(own))

    def add_cut(self, cut: int, outputs: Any) -> None:
        """Add what a cut network returned for the same batch; cuts are counted from 0."""
        if self._now is not None:
            self._ask(1 + cut, pytree.tree_leaves(outputs)[self._now[0]])

    def _ask(self, row: int, other: Tensor) -> None:
        """Take each channel from elsewhere, and ask the metric."""
        assert self._now is not None
        assert self._metric is not None
        index, axis, outputs = self._now
        batch = self._added - 1
        target = on_device(self._targets[batch], self._device)
        leaves, spec = pytree.tree_flatten(outputs)
        for channel in range(other.shape[axis]):
            rows = self._others.setdefault(channel, [[] for _ in (0, *self._structure.cuts)])
            mixed = leaves[index].clone()
            mixed.select(axis, channel).copy_(other.select(axis, channel))
            made = pytree.tree_unflatten([*leaves[:index], mixed, *leaves[index + 1 :]], spec)
            rows[row] += image_values(self._metric, made, target, f"batch {batch}")

    def by_cut(self, whole: Quality, weights: FloatArray, sign: float) -> list[Compared]:
        """Of the whole network, then without the levels of each cut; empty where nothing is known.

        Args:
            whole: Quality of the whole network.
            weights: (resamples, images): how often each image is counted.
            sign: 1 where more is better, else -1.
        """
        cuts = range(1, 1 + len(self._structure.cuts))
        if any(len(rows[0]) != whole.images for rows in self._others.values()):
            return [{} for _ in (0, *cuts)]

        def quality(values: Sequence[float]) -> FloatArray:
            return sign * ImageValues(np.array(values)).of(weights)

        full = sign * whole.of(weights)
        constants = {channel: quality(rows[0]) for channel, rows in self._others.items()}
        return [
            {channel: (full, constant) for channel, constant in constants.items()},
            *(
                {c: (quality(rows[cut]), constants[c]) for c, rows in self._others.items()}
                for cut in cuts
            ),
        ]

    def _place(self, inputs: Any, outputs: Any) -> tuple[int, int] | None:
        """Which leaf of the outputs is judged, and its axis of several channels; None of one."""
        with suppress(InputError):  # no output whose axes are known
            place, leaf = next(iter(predictions(outputs).items()))
            ordered = in_order(leaf, self._structure, place, image_of(inputs, self._structure))
            held = [id(one) for one in pytree.tree_leaves(outputs)]
            if ordered.dim() == leaf.dim() > 2 and ordered.shape[1] > 1 and id(leaf) in held:
                return held.index(id(leaf)), 1 if ordered is leaf else leaf.dim() - 1
        return None
