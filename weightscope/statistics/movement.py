"""How far a tensor went from where it started, apart from what only shrank it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import nan, sqrt

from torch import Tensor

# torch's operators stay in one thread up to here; a device wants more at a time
_BLOCK, _DEVICE_BLOCK = 1 << 15, 1 << 22


@dataclass(frozen=True)
class Movement:
    """The split ``w = shrinkage * w0 + delta`` with ``delta`` orthogonal to the start ``w0``.

    Weight decay only scales ``w0``, so it does not count as movement.

    Attributes:
        count: Number of weights.
        moved: Rms of ``delta``, in units of the weights.
        shrinkage: Projection of the weights on their start: 1 without decay, about 0 where they
            were drawn again; nan if the start is zero.
    """

    count: int
    moved: float
    shrinkage: float


def measure_movement(final: Tensor, initial: Tensor) -> Movement:
    """Split a tensor's movement into shrinkage and what is orthogonal to its start.

    Args:
        final: Weights now.
        initial: Weights at the start, of the same shape.

    Returns:
        The split, in float64, block by block.
    """
    n = final.numel()
    product = energy = 0.0
    for w, w0 in _blocks(final, initial):
        product += float(w @ w0)
        energy += float(w0 @ w0)
    if n < 2 or energy == 0.0:
        square = sum(float((w - w0) @ (w - w0)) for w, w0 in _blocks(final, initial))
        return Movement(n, sqrt(square / n) if n else 0.0, nan)
    shrinkage = product / energy
    square = 0.0
    for w, w0 in _blocks(final, initial):
        delta = w - shrinkage * w0
        square += float(delta @ delta)
    return Movement(n, sqrt(square / (n - 1)), shrinkage)


def _blocks(final: Tensor, initial: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    w, w0 = (t.dequantize() if t.is_quantized else t for t in (final.detach(), initial.detach()))
    w, w0 = w.reshape(-1), w0.reshape(-1)
    step = _BLOCK if w.device.type == "cpu" else _DEVICE_BLOCK
    for start in range(0, w.numel(), step):
        part = slice(start, start + step)
        yield w[part].double(), w0[part].to(w.device).double()
