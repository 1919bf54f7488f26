"""Tensors that are a fresh draw to the last bit: proof that nothing has trained them.

torch draws from U(-b, b) by scaling one of 2^24 equally spaced numbers. So every value of a fresh
tensor can be computed from a whole number, and after any training step about half of its values
cannot.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from weightscope.thresholds import FRESH_VALUES

_STEPS = 2.0**24  # values of torch's uniform generator for float32
_LOOKED_AT = 1024


def find_fresh(model: nn.Module) -> tuple[str, ...]:
    """Names of the parameters that are as torch's uniform initialisers drew them, bit by bit.

    The rules tried are PyTorch's default of kernels and biases (``b = 1 / sqrt(fan_in)``), He's and
    LeCun's uniform (``sqrt(6 / fan_in)``, ``sqrt(3 / fan_in)``) and Glorot's (``sqrt(6 / (fan_in +
    fan_out))``). Normal draws leave no such trace, nor do other number formats: a tensor that is
    not named may be fresh all the same.
    """
    return tuple(
        name
        for name, tensor, bounds in _candidates(model)
        if any(is_draw(tensor, bound) for bound in bounds)
    )


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


def _candidates(model: nn.Module) -> Iterator[tuple[str, Tensor, tuple[float, ...]]]:
    """Kernels and biases with the bounds of the uniform rules that may have drawn them."""
    for prefix, module in model.named_modules():
        own = dict(module.named_parameters(recurse=False))
        kernel = own.get("weight")
        if kernel is None or is_lazy(kernel) or kernel.dim() < 2:
            continue
        area = math.prod(kernel.shape[2:])
        fan_in, fan_out = kernel.shape[1] * area, kernel.shape[0] * area
        if not fan_in:
            continue
        default = fan_in**-0.5
        others = (math.sqrt(6 / fan_in), math.sqrt(3 / fan_in), math.sqrt(6 / (fan_in + fan_out)))
        dot = f"{prefix}." if prefix else ""
        yield f"{dot}weight", kernel, (default, *others)
        if own.get("bias") is not None:
            yield f"{dot}bias", own["bias"], (default,)
