"""Summaries in any way, and what numpy says of the float64 values, to compare with."""

from __future__ import annotations

from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray

from weightscope.summaries import TensorSummary, counting, summarize
from weightscope.summaries.order import PROBABILITIES

WAYS = ["compiled", "sorted"]


def measure(tensor, way, *, thresholds=(0.0, 1e-3, 1e-2, 0.5), axis=None, threads=1):
    """Summarize one tensor in the way asked for."""
    kernels = counting.load() if way == "compiled" else False
    assert kernels is not False or way != "compiled", "numba does not work here"
    with patch.object(counting, "_kernels", kernels):
        return summarize(tensor, thresholds=thresholds, filter_axis=axis, threads=threads)


def finite_values(tensor: torch.Tensor) -> NDArray[np.float64]:
    values = tensor.detach().double().cpu().numpy().ravel()
    return values[np.isfinite(values)]


def assert_same(summary: TensorSummary, tensor: torch.Tensor) -> None:
    """Order exact to the last bit, moments within 1e-9."""
    values = tensor.detach().double().cpu().numpy().ravel()
    finite = finite_values(tensor)
    assert summary.count == values.size
    assert summary.finite == finite.size
    assert summary.nan == np.isnan(values).sum()
    assert summary.inf == np.isinf(values).sum()
    assert summary.zero == (finite == 0).sum()
    edges = summary.histogram.edges
    np.testing.assert_array_equal(summary.histogram.counts, np.histogram(finite, edges)[0])
    if not finite.size:
        assert np.isnan([summary.mean, summary.std, *summary.quantiles.values()]).all()
        return
    assert (summary.minimum, summary.maximum) == (finite.min(), finite.max())
    np.testing.assert_array_equal(
        list(summary.quantiles.values()), np.quantile(finite, PROBABILITIES)
    )
    assert dict(summary.near_zero) == {t: (abs(finite) <= t).mean() for t in summary.near_zero}
    assert_moments(summary, finite)


def assert_moments(summary: TensorSummary, finite: NDArray[np.float64]) -> None:
    """Against extended precision, which float64 itself would need for values far from 0."""
    # a power of two changes no digit, and keeps the reference from leaving its range
    peak = abs(finite).max()
    scale = 2.0 ** -np.frexp(peak)[1] if peak > 0 else 1.0
    x = (finite * scale).astype(np.longdouble)
    d = x - x.mean()
    variance = (d**2).mean()
    close = {"rtol": 1e-9, "atol": 1e-15}
    np.testing.assert_allclose(summary.mean * scale, float(x.mean()), **close)
    np.testing.assert_allclose(summary.mean_abs * scale, float(abs(x).mean()), **close)
    np.testing.assert_allclose(summary.std * scale, float(variance**0.5), **close)
    if finite.min() == finite.max():
        assert summary.std == 0
        assert np.isnan([summary.skewness, summary.kurtosis]).all()
    elif finite.size > 1 and float(variance) > 0:
        # these are differences of large terms: relative to the fourth moment itself
        skewness, fourth = (d**3).mean() / variance**1.5, (d**4).mean() / variance**2
        np.testing.assert_allclose(summary.skewness, float(skewness), rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(summary.kurtosis + 3, float(fourth), rtol=1e-9)
