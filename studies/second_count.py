"""Multiply-accumulates counted again, by fvcore: a second opinion on the library's own count."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import torch
from torch import nn


def fvcore_macs(model: nn.Module, *args: Any) -> int:
    """Count multiply-accumulates by fvcore, a second opinion on real tensors.

    fvcore traces a real forward of a deep copy in evaluation mode. Only its operators with matrix
    products are added up (its figures for normalisation and resampling are left out, as in
    ``MAC_RULES``); fused attention it does not know.

    Args:
        model: Any module with real parameters.
        *args: Real tensors, small ones will do.

    Returns:
        Multiply-accumulates of one forward.
    """
    twin = copy.deepcopy(model).eval()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # fvcore traces with torch.jit, which torch deprecates
        from fvcore.nn import FlopCountAnalysis

        analysis = FlopCountAnalysis(twin, args)
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        counted = analysis.by_operator()
    products = ("conv", "linear", "addmm", "bmm", "matmul", "einsum")
    return int(sum(count for name, count in counted.items() if name in products))
