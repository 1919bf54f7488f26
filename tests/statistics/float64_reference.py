"""Summaries in any way, and what numpy and scipy say of the float64 values, to compare with."""

from __future__ import annotations

import itertools
import threading
import warnings

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats

from weightscope.statistics import TensorSummary
from weightscope.statistics import summary as room
from weightscope.statistics.pool import Job, run_jobs
from weightscope.statistics.questions import PROBABILITIES


def measure(tensor, way, *, thresholds=(0.0, 1e-3, 1e-2, 0.5), bins=128, axis=None, threads=1,
            fast=False):  # fmt: skip
    """Summarize one tensor in the way asked for."""

    def steps():
        request = room.SummaryRequest(tensor, thresholds, axis)
        return room.summarizing([request], bins=bins, fast=fast, way=way)

    return run_jobs([Job(tensor.numel(), steps)], threads)[0][0]


def meet_in_first_pass(monkeypatch, passes, threads):
    """Make the first passes of so many threads wait for one another."""
    meeting = threading.Barrier(threads, timeout=60)
    calls = itertools.count()
    first = passes.first

    def meet(self, low, high):
        if next(calls) < threads:
            meeting.wait()
        return first(self, low, high)

    monkeypatch.setattr(passes, "first", meet)


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
    # a power of two changes no digit, and keeps the reference from leaving float64
    peak = abs(finite).max()
    scale = 2.0 ** -np.frexp(peak)[1] if peak > 0 else 1.0
    x = finite * scale
    spread = x.std()
    close = {"rtol": 1e-9, "atol": 1e-15}
    np.testing.assert_allclose(summary.mean * scale, x.mean(), **close)
    np.testing.assert_allclose(summary.mean_abs * scale, abs(x).mean(), **close)
    np.testing.assert_allclose(summary.std * scale, spread, **close)
    if finite.min() == finite.max():
        assert summary.std == 0
        assert np.isnan([summary.skewness, summary.kurtosis]).all()
    elif spread > 1e-6 * abs(x.mean()):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # scipy on nearly equal values
            skewness, kurtosis = stats.skew(x), stats.kurtosis(x)
        # these are differences of large terms: relative to the fourth moment itself
        np.testing.assert_allclose(summary.skewness, skewness, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(summary.kurtosis + 3, kurtosis + 3, rtol=1e-9)
