"""What each channel of a regression is worth: a mean over channels hides one of small numbers."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor

from weightscope.batches import Batch
from weightscope.calls import only_tensor
from weightscope.errors import InputError
from weightscope.graph.structure import Structure
from weightscope.probing.inputs import image_of
from weightscope.probing.outputs import in_order, predictions
from weightscope.utilization.judging import one_of_several
from weightscope.utilization.metrics import ChannelErrors, FloatArray
from weightscope.utilization.trivial import is_mask, matching


class ChannelMeter:
    """Collects the squared errors of every channel of one output, in the order of the batches.

    Args:
        structure: The network.
        batches: All inputs and targets, on any device.
        output: Name or number of the one of several outputs that is judged; by default the first.
    """

    def __init__(self, structure: Structure, batches: Sequence[Batch], output: Any = None) -> None:
        self._structure, self._batches, self._output = structure, batches, output
        self._sums: list[FloatArray] = []
        self._added = 0
        self._masks = True

    def add(self, outputs: Any) -> None:
        """Add the outputs for the next batch, unless they are no regression of several channels."""
        inputs, target = self._batches[self._added]
        self._added += 1
        with suppress(InputError):  # no output whose axes are known
            found = self._in_order(outputs, inputs, target)
            if found is not None and found[0].shape[1] > 1:
                self._masks &= is_mask(found[1])
                self._sums.append(_sums(*found))

    def quality(self) -> ChannelErrors | None:
        """Of all images; None if a batch was none, or if all targets are masks."""
        if self._masks or len(self._sums) < len(self._batches):
            return None
        return ChannelErrors(np.concatenate(self._sums))

    def _in_order(self, outputs: Any, inputs: Any, target: Any) -> list[Tensor] | None:
        """Output, target and input, if it has their shape, as (images, channels, *sizes).

        None where there is no such target.
        """
        plain = predictions(outputs)
        place = next(iter(plain))
        if self._output is not None:
            one = only_tensor(one_of_several(outputs, self._output, "outputs"))
            place = next((p for p, leaf in plain.items() if leaf is one), place)
        output = plain[place]
        true, own = matching(target, output.shape), matching(inputs, output.shape)
        if true is None:
            return None
        image = image_of(inputs, self._structure)
        return [
            in_order(value.detach().cpu(), self._structure, place, image)
            for value in (output, true, torch.zeros_like(output) if own is None else own)
        ]


def _sums(output: Tensor, target: Tensor, image: Tensor) -> FloatArray:
    """See `ChannelErrors`: (images, channels, 7)."""
    o, y, x = (t.double().flatten(2) for t in (output, target, image))
    known = torch.isfinite(y) & torch.isfinite(x)
    o, y, x = (torch.where(known, t, 0.0) for t in (o, y, x))
    moments = (known.double(), y, y * y, x, x * x, x * y, (o - y) ** 2)
    return torch.stack([moment.sum(-1) for moment in moments], -1).numpy()
