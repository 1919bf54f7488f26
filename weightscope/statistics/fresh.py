"""Tensors that are a fresh draw to the last bit: proof that nothing has trained them.

torch draws from U(-b, b) by scaling one of 2^24 equally spaced numbers. So every value of a fresh
tensor can be computed from a whole number, and after any training step about half of its values
cannot.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from weightscope.statistics.tensors import PYTORCH_DEFAULT, ParameterPlace
from weightscope.thresholds import FRESH_VALUES

_STEPS = 2.0**24  # values of torch's uniform generator for float32
_LOOKED_AT = 1024


def find_fresh(places: Iterable[ParameterPlace]) -> tuple[str, ...]:
    """Names of the parameters that are as torch's uniform initialisers drew them, bit by bit.

    The rules tried are the uniform ones among the candidates of each parameter: PyTorch's default
    and, of kernels, Glorot's, He's and He's for linear layers (``sqrt(3 / fan_in)``). Normal draws
    leave no such trace, nor do other number formats: a tensor that is not named may be fresh all
    the same.
    """
    return tuple(
        place.parameter
        for place in places
        if any(is_draw(place.tensor, bound) for bound in _bounds(place))
    )


def _bounds(place: ParameterPlace) -> list[float]:
    edges = {rule.label: rule.edge for rule in place.candidates if rule.family == "uniform"}
    linear = [3.0**0.5 * edges[PYTORCH_DEFAULT]] if place.is_kernel else []
    return [*edges.values(), *linear]


def is_draw(tensor: Tensor, bound: float) -> bool:
    """Whether every value looked at is one that torch draws from U(-bound, bound) in float32.

    Args:
        tensor: Of any shape; False for other formats than float32 and for fewer than 24 values.
        bound: The end of the interval, as it was computed before rounding to float32.
    """
    if tensor.dtype != torch.float32 or tensor.numel() < FRESH_VALUES or tensor.is_meta:
        return False
    values = tensor.detach().flatten()[:_LOOKED_AT].cpu().numpy()
    if not np.abs(values).max() <= np.float32(bound) or values.min() == values.max():
        return False
    low = -np.float32(bound)
    width = np.float32(np.float32(bound) - low)
    whole = np.rint((values.astype(np.float64) - float(low)) / float(width) * _STEPS)
    return bool(
        np.logical_or.reduce([_drawn(whole + d, width, low, values) for d in range(-2, 3)]).all()
    )


def _drawn(
    whole: NDArray[np.float64], width: np.float32, low: np.float32, values: NDArray[np.float32]
) -> NDArray[np.bool_]:
    """Where the draw from a whole number is the value, with one rounding or with two."""
    share = whole / _STEPS
    twice = (share.astype(np.float32) * width).astype(np.float32) + low
    once = (share * float(width) + float(low)).astype(np.float32)
    found: NDArray[np.bool_] = (twice == values) | (once == values)
    return found
