"""Errors against numpy in extended precision, for the table in docs/statistics.md.

python benchmarks/accuracy.py
"""

from __future__ import annotations

import warnings
from unittest.mock import patch

import numpy as np
import torch
from scipy import stats

from weightscope.summaries import counting, summarize
from weightscope.summaries import summary as room
from weightscope.summaries.order import PROBABILITIES

FIGURES = ("mean", "std", "skewness", "kurtosis", "quantiles", "near-zero mass")


def tensors():
    noise = torch.Generator().manual_seed(0)
    weights = torch.randn(1 << 21, generator=noise)
    return {
        "normal, std 0.02": weights * 0.02,
        "heavy tails (cubed normal)": weights**3 * 0.02,
        "far from zero, 1 +- 0.001": 1 + weights * 1e-3,
        "normal, std 1e-30": weights * 1e-30,
        "bfloat16, std 0.02": (weights * 0.02).bfloat16(),
    }


def reference(tensor):
    values = tensor.double().numpy().astype(np.longdouble)
    mean = values.mean()
    gaps = values - mean
    variance = (gaps**2).mean()
    return {
        "mean": mean,
        "std": np.sqrt(variance),
        "skewness": (gaps**3).mean() / variance**1.5,
        "kurtosis": (gaps**4).mean() / variance**2 - 3,
        "quantiles": np.quantile(tensor.double().numpy(), PROBABILITIES),
        "near-zero mass": np.array([(abs(values) <= t).mean() for t in room.THRESHOLDS]),
    }


def ours(*, numba=True):
    def measure(tensor):
        kernels = counting.load() if numba else False
        with patch.object(counting, "_kernels", kernels):
            s = summarize(tensor, threads=1)
        return dict(
            zip(
                FIGURES,
                (
                    s.mean,
                    s.std,
                    s.skewness,
                    s.kurtosis,
                    np.array(list(s.quantiles.values())),
                    np.array(list(s.near_zero.values())),
                ),
                strict=True,
            )
        )

    return measure


def with_torch(tensor):
    """One torch operator for each figure, in the tensor's own dtype."""
    mean, std = tensor.mean(), tensor.std(correction=0)
    z = (tensor - mean) / std
    near = [float((tensor.abs() <= t).float().mean()) for t in room.THRESHOLDS]
    try:
        quantiles = torch.quantile(tensor, torch.tensor(PROBABILITIES, dtype=tensor.dtype)).numpy()
    except RuntimeError:  # no quantile in bfloat16
        quantiles = np.full(len(PROBABILITIES), np.nan)
    return dict(
        zip(
            FIGURES,
            (float(mean), float(std), float((z**3).mean()), float((z**4).mean() - 3), quantiles,
             np.array(near)),
            strict=True,
        )
    )  # fmt: skip


def with_scipy(tensor):
    """scipy.stats.describe and numpy on the values as they are (float32)."""
    values = tensor.float().numpy()
    told = stats.describe(values, ddof=0)
    return dict(
        zip(
            FIGURES,
            (told.mean, np.sqrt(told.variance), told.skewness, told.kurtosis,
             np.quantile(values, PROBABILITIES),
             np.array([(abs(values) <= t).mean() for t in room.THRESHOLDS])),
            strict=True,
        )
    )  # fmt: skip


METHODS = {
    "weightscope": ours(),
    "weightscope without numba": ours(numba=False),
    "torch, one operator each": with_torch,
    "scipy.stats.describe, numpy": with_scipy,
}


def main() -> None:
    print("| tensor (2 M values) | method | " + " | ".join(FIGURES) + " |")
    print("|---|---|" + "--:|" * len(FIGURES))
    for name, tensor in tensors().items():
        true = reference(tensor)
        # quantiles and the mean in units of the spread, shape figures as they are
        units = dict.fromkeys(FIGURES, 1.0) | dict.fromkeys(
            ("mean", "std", "quantiles"), true["std"]
        )
        for method, measure in METHODS.items():
            with np.errstate(all="ignore"), warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)
                found = measure(tensor)
                errors = [np.max(abs(found[k] - true[k]) / units[k]) for k in FIGURES]
            cells = [
                "0" if e == 0 else "fails" if not np.isfinite(e) else f"{e:.0e}" for e in errors
            ]
            print(f"| {name} | {method} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
