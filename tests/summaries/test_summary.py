import math
import warnings

import numpy as np
import pytest
import torch
from float64_reference import WAYS, assert_same, finite_values, measure
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from weightscope.errors import InputError
from weightscope.summaries import counting, summarize, threads
from weightscope.summaries import summary as room

relaxed = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture
def sorts_nothing(monkeypatch):
    """Count even the smallest tensor in cells, which is meant for large ones."""
    monkeypatch.setattr(room, "SORTED", -1)


floats = npst.arrays(
    np.float32,
    npst.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=12),
    elements=st.floats(width=32, allow_subnormal=True),
)


@pytest.mark.parametrize("way", WAYS)
@relaxed
@given(array=floats)
def test_any_float32(array, way, sorts_nothing):
    if array.size:
        tensor = torch.from_numpy(array)
        assert_same(measure(tensor, way), tensor)


@relaxed
@given(array=floats, dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16,
                                            torch.float16, torch.float8_e4m3fn]))  # fmt: skip
def test_any_small_tensor(array, dtype):
    with np.errstate(over="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        tensor = torch.from_numpy(array).to(dtype)
    assert_same(summarize(tensor), tensor)


@pytest.mark.parametrize("way", WAYS)
@relaxed
@given(
    scale=st.sampled_from([1e-42, 1e-30, 1e-3, 1.0, 1e30]),
    shift=st.sampled_from([0.0, 3.0, 1e4]),
    power=st.sampled_from([1, 3]),
    seed=st.integers(0, 2**31),
    zeros=st.sampled_from([0.0, 0.5, 0.99]),
)
def test_weights_of_any_scale(way, scale, shift, power, seed, zeros, sorts_nothing):
    noise = torch.Generator().manual_seed(seed)
    weights = (torch.randn(5000, generator=noise) ** power + shift) * scale
    weights[torch.rand(5000, generator=noise) < zeros] = -0.0
    assert_same(measure(weights, way), weights)


@pytest.mark.parametrize("way", WAYS)
@relaxed
@given(thresholds=st.lists(st.floats(0, 2, width=32), max_size=35, unique=True),
       seed=st.integers(0, 2**31))  # fmt: skip
def test_given_thresholds(way, thresholds, seed, sorts_nothing):
    weights = torch.randn(3000, generator=torch.Generator().manual_seed(seed))
    weights[: 2 * len(thresholds)] = torch.tensor([*thresholds, *[-t for t in thresholds]])
    summary = measure(weights, way, thresholds=thresholds)
    assert list(summary.near_zero) == thresholds
    assert_same(summary, weights)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_filter_norms(way, axis):
    weights = torch.randn(30, 40, 50) * 0.05
    weights.select(axis, 3).zero_()
    summary = measure(weights, way, axis=axis)
    rows = weights.double().movedim(axis, 0).flatten(1)
    np.testing.assert_allclose(summary.filter_norms, rows.norm(dim=1), rtol=1e-12)
    np.testing.assert_allclose(summary.filter_means, rows.mean(1), rtol=1e-9, atol=1e-12)
    assert summary.dead_filters == pytest.approx(1 / weights.shape[axis])
    assert summary.filter_norms[3] == 0


@pytest.mark.parametrize("way", WAYS)
def test_filter_norms_show_a_broken_filter_and_no_other(way):
    weights = torch.randn(300, 300)
    weights[7, 5] = math.nan
    weights[9, 5] = -math.inf
    summary = measure(weights, way, axis=0)
    assert np.isnan(summary.filter_norms[7])
    assert np.isinf(summary.filter_norms[9])
    assert np.isfinite(np.delete(summary.filter_norms, [7, 9])).all()
    assert_same(summary, weights)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float8_e4m3fn,
                                   torch.float8_e5m2, torch.float64])  # fmt: skip
def test_other_formats(dtype):
    weights = (torch.randn(200, 300) * 0.05).to(dtype)
    summary = summarize(weights, filter_axis=1)
    assert_same(summary, weights)
    np.testing.assert_allclose(summary.filter_norms, weights.double().norm(dim=0), rtol=1e-12)


def test_float64_beyond_its_fourth_power():
    weights = torch.randn(1000, dtype=torch.float64)
    for scale in (2.0**900, 2.0**-900):
        summary = summarize(weights * scale)
        assert summary.std / scale == pytest.approx(float(weights.std(correction=0)), rel=1e-12)
        assert summary.kurtosis == pytest.approx(summarize(weights).kurtosis, rel=1e-9)


def test_quantized_is_dequantized():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch is about to move quantization elsewhere
        quantized = torch.quantize_per_tensor(torch.randn(100, 100), 0.02, 0, torch.qint8)
        assert_same(summarize(quantized), quantized.dequantize())


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("view", [
    lambda w: w.to(memory_format=torch.channels_last), lambda w: w.transpose(0, 1),
    lambda w: w[:, ::2], lambda w: w.permute(2, 0, 3, 1), lambda w: w[1:, 2:, :, 1:],
])  # fmt: skip
def test_any_strides(way, view):
    weights = view(torch.randn(60, 70, 3, 5))
    summary = measure(weights, way, axis=0)
    assert_same(summary, weights)
    norms = weights.double().flatten(1).norm(dim=1)
    np.testing.assert_allclose(summary.filter_norms, norms, rtol=1e-12)


@pytest.mark.parametrize("way", WAYS)
def test_crowded_cells_are_counted_in_tables(way):
    # many more values in one cell than a table has entries, and zeros of both signs among them
    weights = 0.5 + torch.rand(400_000) * 1e-3
    weights[:100_000] = -0.25 - torch.rand(100_000) * 1e-4
    weights[::7] = 0.0
    weights[3::21] = -0.0
    weights[:9] = 1e-44
    weights[100] = -math.inf
    assert_same(measure(weights, way, thresholds=(0.25003, 0.5004)), weights)


@pytest.mark.parametrize("way", WAYS)
def test_lowest_cell_beside_minus_infinity(way):
    lowest = torch.finfo(torch.float32).min
    weights = torch.full((70_000,), lowest)
    weights[::3] = -math.inf
    weights[1::3] = torch.nextafter(torch.tensor(lowest), torch.tensor(0.0))
    summary = measure(weights, way)
    assert (summary.minimum, summary.inf) == (lowest, 23_334)
    assert summary.quantiles[0.01] == lowest


@pytest.mark.sample(2)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("axis", [0, 1])
def test_threads_change_nothing(way, axis, monkeypatch):
    monkeypatch.setattr(threads, "RANGE", 40_000)
    monkeypatch.setattr(threads, "_HUGE", 40_000)
    weights = torch.randn(700, 501)
    weights[5, 5] = math.nan
    one, three = (measure(weights, way, axis=axis, threads=n) for n in (1, 3))
    for name in ("mean", "std", "skewness", "kurtosis", "mean_abs", "quantiles", "near_zero"):
        assert getattr(one, name) == getattr(three, name)
    np.testing.assert_array_equal(one.filter_norms, three.filter_norms)
    np.testing.assert_array_equal(one.histogram.counts, three.histogram.counts)
    assert_same(three, weights)


@pytest.mark.parametrize("way", WAYS)
def test_negative_numbers_on_the_border_of_a_cell(way):
    # -0.498046875 is a pattern of which the high half is that of the next cell, not of its own
    weights = torch.linspace(-0.498046875, -0.4965, 40_000)
    weights[::3] = -0.498046875
    assert_same(measure(weights, way, thresholds=(0.497,)), weights)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("axis", [None, 0, 1])
@pytest.mark.parametrize("mean", [0.0, 3.0])
def test_what_is_cut_off_at_the_ends_of_ranges(way, axis, mean, monkeypatch):
    monkeypatch.setattr(threads, "RANGE", 20_000)
    weights = torch.randn(300, 299, generator=torch.Generator().manual_seed(0)) * 0.01 + mean
    weights[0, 7] = -0.0
    weights[90:180] = math.inf  # a whole range of it
    weights[200, 5] = math.nan
    weights[201] = 0.0
    summary = measure(weights, way, axis=axis)
    assert_same(summary, weights)
    if axis is not None:
        rows = weights.double().movedim(axis, 0)
        with np.errstate(invalid="ignore"):
            np.testing.assert_allclose(summary.filter_norms, rows.norm(dim=1), rtol=1e-12)
            np.testing.assert_allclose(summary.filter_means, rows.mean(1), rtol=1e-9, atol=1e-15)


def test_crowded_cells_are_counted_key_by_key(monkeypatch):
    monkeypatch.setattr(counting, "_CROWDED", 100)
    weights = torch.randn(50_000)
    assert_same(measure(weights, "compiled"), weights)


@pytest.mark.parametrize("way", WAYS)
@relaxed
@given(
    offset=st.sampled_from([1.0, -7.0, 1e3, 1e4, -1e6]),
    spread=st.sampled_from([1e-6, 1e-3, 1.0]),
    size=st.sampled_from([5, 60, 10_000]),
    seed=st.integers(0, 2**31),
)
def test_moments_far_from_zero(way, offset, spread, size, seed, sorts_nothing):
    noise = torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    weights = (offset * (1 + spread * noise**3)).float()
    assert_same(measure(weights, way), weights)


@pytest.mark.parametrize("scale", [1e-300, 1e-170, 1e160, 1e300])
@pytest.mark.parametrize("axis", [0, 1])
def test_float64_norms_beyond_the_squares_of_float64(scale, axis):
    weights = torch.tensor([[1.0, -2.0], [3.0, 4.0], [0.0, 0.0]], dtype=torch.float64)
    weights = weights if axis == 0 else weights.T
    rows = torch.tensor([scale, 1.0, 1.0], dtype=torch.float64)
    weights = weights * (rows[:, None] if axis == 0 else rows)  # beside rows of another scale
    summary = summarize(weights, filter_axis=axis)
    expected = np.array([scale * 5**0.5, 5.0, 0.0])
    np.testing.assert_allclose(summary.filter_norms, expected, rtol=1e-14)
    np.testing.assert_allclose(summary.filter_means, [-scale / 2, 3.5, 0.0], rtol=1e-14)
    assert summary.dead_filters == 1 / 3


def test_an_expanded_tensor_is_measured_once():
    summary = summarize(torch.full((1,), 0.5).expand(10**12))
    assert (summary.count, summary.mean, summary.quantiles[0.5]) == (1, 0.5, 0.5)
    weights = torch.randn(3, 1, 4)
    wide = summarize(weights.expand(3, 10**9, 4), filter_axis=0)
    once = summarize(weights, filter_axis=0)
    assert (wide.count, wide.quantiles, wide.near_zero) == (12, once.quantiles, once.near_zero)
    np.testing.assert_array_equal(wide.filter_norms, once.filter_norms)


def test_overlapping_windows_are_measured_once():
    stored = torch.randn(2_000)
    windows = stored.as_strided((1_000, 1_001), (1, 1))
    assert_same(summarize(windows, filter_axis=0), stored)
    assert summarize(windows, filter_axis=0).filter_norms is None


@pytest.mark.parametrize("way", WAYS)
def test_cdf_is_the_distribution(way):
    weights = torch.randn(60_000) * 0.02
    cdf = measure(weights, way).cdf
    values = np.sort(finite_values(weights))
    expected = np.searchsorted(values, cdf.points) / values.size
    np.testing.assert_allclose(cdf.below, expected, atol=1e-12)
    assert cdf.points.size <= 1030
    between = np.linspace(-0.1, 0.1, 501)
    np.testing.assert_allclose(
        cdf(between), np.searchsorted(values, between) / values.size, atol=1.5e-3
    )


def test_degenerate_tensors():
    empty = summarize(torch.zeros(0, 3), filter_axis=0)
    assert (empty.count, empty.finite, empty.zero) == (0, 0, 0)
    assert np.isnan([empty.mean, empty.std, empty.minimum, *empty.near_zero.values()]).all()
    one = summarize(torch.tensor(3.0))
    assert (one.mean, one.std, one.quantiles[0.5], one.histogram.counts.sum()) == (3, 0, 3, 1)
    nothing = summarize(torch.full((50_000,), math.nan))
    assert (nothing.nan, nothing.finite, nothing.histogram.counts.sum()) == (50_000, 0, 0)
    zeros = summarize(torch.zeros(50_000))
    assert (zeros.near_zero[1e-3], zeros.std, zeros.histogram.counts.sum()) == (1, 0, 50_000)


def test_default_bins_are_symmetric_and_nest():
    for scale in (1e-44, 1e-38, 1e-5, 1.0, 7.9, 1e38):
        edges = summarize(torch.randn(100) * scale).histogram.edges
        width = edges[1] - edges[0]
        np.testing.assert_array_equal(edges, -edges[::-1])
        assert np.log2(width) == round(np.log2(width))
        assert edges.size <= 129


@pytest.mark.parametrize(("tensor", "words"), [
    (torch.empty(2, device="meta"), "load the weights"),
    (torch.zeros(2, dtype=torch.complex64), "real and imaginary"),
    (torch.zeros(2, dtype=torch.int32), "integers"),
    (torch.eye(2).to_sparse(), "to_dense"),
])  # fmt: skip
def test_tensors_without_numbers_are_refused_by_name(tensor, words):
    with pytest.raises(InputError, match=words):
        summarize(tensor)


@pytest.mark.parametrize(("arguments", "words"), [
    ({"thresholds": (-1.0,)}, ">= 0"), ({"thresholds": (math.nan,)}, ">= 0"),
    ({"filter_axis": 2}, "2 axes"), ({"threads": 0}, "at least 1"),
])  # fmt: skip
def test_wrong_arguments(arguments, words):
    with pytest.raises(InputError, match=words):
        summarize(torch.zeros(2, 2), **arguments)


def test_the_tensor_is_left_alone():
    weights = torch.nn.Parameter(torch.randn(300, 200))
    before = weights.detach().clone()
    for way in WAYS:
        measure(weights, way, axis=0)
    assert torch.equal(weights, before)
    assert weights.grad is None
