"""Counted cells, at the places where they could go wrong."""

import math

import numpy as np
import pytest
import torch
from float64_reference import WAYS, assert_same, measure

from weightscope.summaries import summarize


@pytest.mark.parametrize("way", WAYS)
def test_many_wanted_cells(way):
    weights = torch.randn(70_000)
    thresholds = tuple((torch.rand(40) * 2).tolist())
    assert_same(measure(weights, way, thresholds=thresholds), weights)


@pytest.mark.parametrize("way", WAYS)
def test_many_crowded_cells(way):
    cells = 0.5 + torch.arange(15) / 128
    weights = (cells[:, None] + torch.rand(15, 70_000) / 128).float()
    thresholds = tuple((cells + 1 / 300).tolist())
    assert_same(measure(weights, way, thresholds=thresholds), weights)


@pytest.mark.parametrize("size", [32_769, 4096 * 9 - 1, 4096 * 9 + 1, 4096 * 9 + 2, 40_003])
def test_any_end_of_the_last_block(size):
    weights = torch.randn(size)
    weights[-70:] = weights.abs().max()
    weights[::3] = 0.0
    for axis in (None, 0):
        assert_same(measure(weights, "compiled", axis=axis), weights)


@pytest.mark.parametrize("broken", [
    [], [math.nan], [-math.nan], [math.inf], [-math.inf], [math.nan, math.inf, -math.inf] * 7,
])  # fmt: skip
@pytest.mark.parametrize("values", [[], [0.0], [-0.0, 0.0], [3.0], [-3.0] * 40, [1e-45, -1e-45],
                                    [3.4e38, -3.4e38] * 9, [2.5, 2.5, 2.5, -1.0]])  # fmt: skip
def test_broken_numbers_beside_any_value(broken, values):
    small = torch.tensor(broken + values)
    assert_same(measure(small, "sorted"), small)
    large = torch.randn(33_000)
    large[-70:] = values[-1] if values else 0.0
    for start in (0, 20_000):
        large[start : start + small.numel()] = small
        assert_same(measure(large, "compiled"), large)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("thresholds", [(), (3.4e38,)])
@pytest.mark.parametrize("infinity", [math.inf, -math.inf])
def test_lowest_cell_beside_infinity(way, thresholds, infinity):
    keys = -0x7F7FFFFF + np.random.default_rng(0).integers(0, 0xFFFF, 60_000)
    values = (0x80000000 | -keys).astype(np.uint32).view(np.float32)
    values[5] = infinity
    summary = measure(torch.from_numpy(values), way, thresholds=thresholds)
    finite = values[np.isfinite(values)].astype(np.float64)
    expected = np.quantile(finite, list(summary.quantiles))
    np.testing.assert_array_equal(list(summary.quantiles.values()), expected)
    edges = summary.histogram.edges
    np.testing.assert_array_equal(summary.histogram.counts, np.histogram(finite, edges)[0])
    assert list(summary.near_zero.values()) == [(np.abs(finite) <= t).mean() for t in thresholds]


@pytest.mark.parametrize("way", WAYS)
def test_zeros_among_subnormal_numbers_of_their_cell(way):
    patterns = np.random.default_rng(0).integers(1, 0xFFFF, 60_000, np.uint32)
    patterns[:25_000] = 0
    patterns[:99] = 0x80000000
    weights = torch.from_numpy(patterns.view(np.float32))
    assert_same(measure(weights, way), weights)


def test_zero_has_no_sign_in_the_extremes():
    for size in (3, 40_000):
        summary = summarize(torch.full((size,), -0.0))
        assert math.copysign(1, summary.minimum) == math.copysign(1, summary.maximum) == 1


@pytest.mark.parametrize("axis", [0, 1])
def test_both_ways_agree_to_the_last_bit_in_order(axis):
    weights = torch.randn(300, 400) ** 3
    ours, plain = (measure(weights, way, axis=axis) for way in WAYS)
    assert ours.quantiles == plain.quantiles
    assert ours.near_zero == plain.near_zero
    np.testing.assert_allclose(plain.cdf(ours.cdf.points), ours.cdf.through, atol=1e-3)
    np.testing.assert_allclose(ours.filter_norms, plain.filter_norms, rtol=1e-12)


def test_moments_do_not_depend_on_the_filters_of_columns():
    weights = torch.randn(50, 40, 5, 5)
    bare, columns = measure(weights, "compiled"), measure(weights, "compiled", axis=1)
    for name in ("mean", "std", "mean_abs", "skewness", "kurtosis"):
        assert getattr(columns, name) == getattr(bare, name)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e5m2])
def test_patterns_are_counted_alike_with_and_without_numba(dtype):
    weights = torch.randn(50, 400).to(dtype)
    ours, plain = (measure(weights, way, axis=0) for way in WAYS)
    assert_same(ours, weights)
    assert_same(plain, weights)
