"""The compiled answers against those in numpy, to the last bit."""

import math

import numpy as np
import pytest
import torch
from float64_reference import assert_same, measure
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from weightscope.statistics import answers, kernels, passes, steps, summarize
from weightscope.statistics.ordering import (
    CompiledCells,
    CountedCells,
    SortedValues,
    keys_of,
    values_of,
)
from weightscope.statistics.questions import Questions, quantile_ranks, quantiles_of

relaxed = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
numbers = st.floats(width=32, allow_nan=False, allow_infinity=False)
crowded = st.sampled_from([0.0, -0.0, 1e-44, -1e-45, 0.5, 0.5001, 0.5002, -0.25, 3e38, -3e38])


def arrays(elements=numbers | crowded, most=300):
    return npst.arrays(np.float32, st.integers(1, most), elements=elements)


def questions(draw, values):
    """Ranks and edges, many of them at the values and next to them."""
    n = values.size
    ranks = np.array(draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=30)))
    near = st.sampled_from(values.astype(np.float64).tolist())
    edge = near | near.map(lambda v: float(np.nextafter(v, np.inf))) | st.floats(-1e39, 1e39)
    edges = np.array(draw(st.lists(edge | st.sampled_from([math.inf, -math.inf]), min_size=1)))
    closed = np.array(draw(st.lists(st.booleans(), min_size=edges.size, max_size=edges.size)))
    return ranks, edges, closed


def assert_same_answers(compiled, plain, asked):
    ours, theirs = compiled.answer(*asked), plain.answer(*asked)
    np.testing.assert_array_equal(ours.values, theirs.values, strict=True)
    np.testing.assert_array_equal(ours.before, theirs.before, strict=True)
    assert ours.cdf.count == theirs.cdf.count
    for name in ("points", "below", "through"):
        found, expected = (getattr(answers.cdf, name) for answers in (ours, theirs))
        np.testing.assert_array_equal(found, expected, strict=True)


@relaxed
@given(data=st.data(), tensors=st.lists(arrays(), min_size=1, max_size=4),
       repeats=st.sampled_from([1, 40]), bins=st.sampled_from([0, 2, 128, 512]))  # fmt: skip
def test_small_tensors(data, tensors, repeats, bins):
    tensors = [np.tile(values, repeats) for values in tensors]
    _, given, _ = questions(data.draw, tensors[0])
    given = np.unique(given)
    probabilities = np.array(data.draw(st.lists(st.floats(0, 1), max_size=9)))
    limits = [np.abs(given[: data.draw(st.integers(0, given.size))]) for _ in tensors]
    figures, quantiles, edges, before, points, below, through, ends = answers.summarize_small(
        np.concatenate([np.sort(values) for values in tensors]),
        np.cumsum([0, *(values.size for values in tensors)]),
        np.concatenate(limits), np.cumsum([0, *(each.size for each in limits)]),
        probabilities, bins, given, np.linspace(0.0, 1.0, 1024),
    )  # fmt: skip
    for t, values in enumerate(tensors):
        plain = SortedValues(values)
        extremes = float(plain.values[0]), float(plain.values[-1])
        assert tuple(figures[t, :5]) == (values.size, 0, 0, *extremes)
        asked = Questions.about(values.size, *extremes, limits[t], bins, given)
        ranks = quantile_ranks(values.size, probabilities)
        theirs = plain.answer(ranks, asked.borders, asked.closed)
        (e, b, p), (e_end, b_end, p_end) = ends[t], ends[t + 1]
        np.testing.assert_array_equal(edges[e:e_end], asked.edges, strict=True)
        expected = quantiles_of(theirs.values, values.size, probabilities)
        np.testing.assert_array_equal(quantiles[t], expected, strict=True)
        np.testing.assert_array_equal(before[b:b_end], theirs.before, strict=True)
        np.testing.assert_array_equal(points[p:p_end], theirs.cdf.points, strict=True)
        np.testing.assert_array_equal(below[p:p_end], theirs.cdf.below, strict=True)
        np.testing.assert_array_equal(through[p:p_end], theirs.cdf.through, strict=True)


@relaxed
@given(data=st.data(), values=arrays(), bins=st.sampled_from([0, 2, 128, 512]))
def test_asking_in_both_ways(data, values, bins):
    ranks, given, _ = questions(data.draw, values)
    facts = (values.size, float(values.min()), float(values.max()))
    probabilities = ranks / values.size
    plain = Questions.about(*facts, np.abs(given), bins, given)
    found = answers.ask(*facts, probabilities, np.abs(given), bins, given)
    expected = quantile_ranks(values.size, probabilities), plain.edges, plain.borders, plain.closed
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs, strict=True)


def counted(values, parts):
    """Both kinds of counted cells from the same parts, and the values' keys."""
    keys = np.sort(keys_of(values))
    cells = [
        (cells, counts.astype(np.int64))
        for cells, counts in (
            np.unique(keys[part::parts] >> 16, return_counts=True) for part in range(parts)
        )
    ]
    zeros = int((values == 0).sum())
    return CompiledCells.of(cells, zeros), CountedCells.of(cells, zeros), keys


@relaxed
@given(data=st.data(), values=arrays(), once=st.booleans(), parts=st.integers(1, 3))
def test_counted_cells(data, values, once, parts):
    if once:
        values = np.unique(values)
    compiled, plain, keys = counted(values, min(parts, values.size))
    asked = questions(data.draw, values)
    np.testing.assert_array_equal(compiled.cells, plain.cells, strict=True)
    np.testing.assert_array_equal(compiled.counts, plain.counts, strict=True)
    assert_same_answers(compiled, plain, asked)
    wanted = compiled.unanswered(*asked)
    for ours, theirs in zip(wanted, plain.unanswered(*asked), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    for cells in np.array_split(wanted[0], 2):  # in two batches
        inside, occurs = np.unique(keys[np.isin(keys >> 16, cells)], return_counts=True)
        occurs = None if once else occurs
        compiled, plain = compiled.looked_into(inside, occurs), plain.looked_into(inside, occurs)
    assert not compiled.unanswered(*asked)[0].size
    assert_same_answers(compiled, plain, asked)
    np.testing.assert_array_equal(compiled.answer(*asked).values, values_of(keys[asked[0]]))


@relaxed
@given(data=st.data(), values=arrays(most=600), broken=st.lists(st.sampled_from([0.0, -math.inf])),
       crowding=st.sampled_from([0, 0x100, 0x10000, 0x2000000]))  # fmt: skip
def test_reading_patterns(data, values, broken, crowding):
    if crowding:
        keys = keys_of(values)
        values = values_of(keys - np.fmod(keys, crowding) // 16).astype(np.float32)
    values = np.append(values[values != 0], np.float32(0.75))
    compiled, plain, _ = counted(values, 1)
    ranks, edges, closed = questions(data.draw, values)
    asked = Questions(ranks, edges, edges, closed)
    wanted, _ = compiled.unanswered(ranks, edges, closed)
    inside = values[np.isin(keys_of(values) >> 16, wanted)]
    left_out = np.float32(
        [each for each in broken if keys_of(np.float32([each]))[0] >> 16 in wanted]
    )
    patterns = np.append(inside, left_out).view(np.uint32)
    keys, occurs = compiled.read(patterns, wanted, asked)
    assert (keys[1:] >= keys[:-1]).all()
    assert occurs.sum() == inside.size
    looked = compiled.looked_into(keys, occurs)
    assert_same_answers(looked, plain.looked_into(np.sort(keys_of(inside)), None),
                        (ranks, edges, closed))  # fmt: skip
    assert not looked.unanswered(ranks, edges, closed)[0].size


def test_little_of_a_large_tensor_is_sorted():
    values = np.random.default_rng(0).normal(size=300_000).astype(np.float32)
    compiled, _, _ = counted(values, 1)
    asked = Questions(np.array([80_000]), np.zeros(0), np.array([0.513]), np.array([False]))
    wanted, counts = compiled.unanswered(asked.ranks, asked.borders, asked.closed)
    inside = values[np.isin(keys_of(values) >> 16, wanted)].view(np.uint32)
    keys, occurs = compiled.read(inside, wanted, asked)
    assert keys.size < counts.sum() / 20
    assert occurs.sum() == counts.sum()


@pytest.mark.parametrize("way", ["compiled", "plain", "torch"])
def test_more_wanted_cells_than_one_sweep_finds(way):
    weights = torch.randn(70_000)
    thresholds = tuple((torch.rand(40) * 2).tolist())
    assert_same(measure(weights, way, thresholds=thresholds), weights)


def test_more_crowded_cells_than_one_sweep_finds():
    cells = 0.5 + torch.arange(15) / 128
    weights = (cells[:, None] + torch.rand(15, 70_000) / 128).float()
    thresholds = tuple((cells + 1 / 300).tolist())
    assert_same(measure(weights, "compiled", thresholds=thresholds), weights)


@pytest.mark.parametrize("size", [32_769, 2048 * 17 - 1, 2048 * 17 + 1, 2048 * 17 + 64, 40_003])
def test_any_end_of_the_last_block(size):
    weights = torch.randn(size)
    weights[-70:] = weights.abs().max()
    weights[::3] = 0.0
    for axis in (None, 0):
        assert_same(measure(weights, "compiled", axis=axis), weights)


@pytest.mark.parametrize("size", [1, 63, 64, 65, 2047, 2048, 2049, 5000])
def test_what_fills_up_the_last_block_is_not_collected(size):
    patterns = np.random.default_rng(size).integers(1, 1 << 17, size, np.uint32)
    inside = patterns[patterns < 1 << 16]
    collected = np.empty(inside.size + kernels.SPARE, np.uint32)
    tables = np.zeros((0, passes.CELLS), np.uint32)
    cells = np.zeros(1, np.int32)
    n = kernels.second_pass(patterns, 0, size, cells, cells[:0], tables, collected)
    np.testing.assert_array_equal(collected[:n], inside)


@pytest.mark.parametrize("broken", [
    [], [math.nan], [-math.nan], [math.inf], [-math.inf], [math.nan, math.inf, -math.inf] * 7,
])  # fmt: skip
@pytest.mark.parametrize("values", [[], [0.0], [-0.0, 0.0], [3.0], [-3.0] * 40, [1e-45, -1e-45],
                                    [3.4e38, -3.4e38] * 9, [2.5, 2.5, 2.5, -1.0]])  # fmt: skip
def test_no_counts_are_left_behind(broken, values):
    small = torch.tensor(broken + values)
    assert_same(measure(small, "compiled"), small)
    large = torch.randn(33_000)
    large[: small.numel()] = small
    large[-70:] = values[-1] if values else 0.0
    for start in (0, 20_000):
        large[start : start + small.numel()] = small
        assert_same(measure(large, "compiled"), large)
        tables = passes.CompiledPasses._local.tables
        assert not (tables[0] + tables[1]).any()


def test_an_interrupted_pass_leaves_its_counts_to_nobody(monkeypatch):
    weights = torch.randn(40_000)
    measure(weights, "compiled")
    drain = kernels.drain

    def interrupted(*arguments):
        monkeypatch.setattr(kernels, "drain", drain)
        raise KeyboardInterrupt

    monkeypatch.setattr(kernels, "drain", interrupted)
    with pytest.raises(KeyboardInterrupt):
        measure(weights, "compiled")
    assert_same(measure(weights, "compiled"), weights)


@pytest.mark.parametrize("way", ["compiled", "plain"])
@pytest.mark.parametrize("thresholds", [(), (3.4e38,)])
@pytest.mark.parametrize("bins", [[-1.0, 0.0, 1.0], [-3.4e38, 0.0, 1.0]])
def test_lowest_cell_beside_infinity_where_little_of_it_is_asked(way, thresholds, bins):
    keys = -0x7F7FFFFF + np.random.default_rng(0).integers(0, 0xFFFF, 60_000)
    values = (0x80000000 | -keys).astype(np.uint32).view(np.float32)
    values[5] = np.inf
    summary = measure(torch.from_numpy(values), way, thresholds=thresholds, bins=bins)
    finite = values[np.isfinite(values)].astype(np.float64)
    expected = np.quantile(finite, list(summary.quantiles))
    np.testing.assert_array_equal(list(summary.quantiles.values()), expected)
    np.testing.assert_array_equal(summary.histogram.counts, np.histogram(finite, bins)[0])
    assert list(summary.near_zero.values()) == [(np.abs(finite) <= t).mean() for t in thresholds]


@relaxed
@given(array=arrays(st.floats(width=32) | crowded, most=200), shape=st.sampled_from([1, 2, 3]))
def test_small_tensors_are_the_same_in_both_ways(array, shape):
    tensor = torch.from_numpy(np.tile(array, (shape, 2)))
    for axis in (None, 0, 1):
        ours, plain = (measure(tensor, way, axis=axis) for way in ("compiled", "plain"))
        for name in ("finite", "nan", "inf", "zero", "minimum", "maximum"):
            np.testing.assert_array_equal(getattr(ours, name), getattr(plain, name))
        for name in ("quantiles", "near_zero"):
            found, expected = (list(getattr(summary, name).values()) for summary in (ours, plain))
            np.testing.assert_array_equal(found, expected)
        np.testing.assert_array_equal(ours.histogram.counts, plain.histogram.counts)
        np.testing.assert_array_equal(ours.cdf.points, plain.cdf.points)
        np.testing.assert_array_equal(ours.cdf.through, plain.cdf.through)
        if axis is not None:
            rounding = 1e-15 * float(tensor.double().nan_to_num(posinf=0, neginf=0).abs().sum())
            np.testing.assert_allclose(ours.filter_norms, plain.filter_norms, rtol=1e-12)
            np.testing.assert_allclose(ours.filter_means, plain.filter_means, atol=rounding)


@pytest.mark.parametrize("way", ["compiled", "plain"])
def test_moments_of_small_tensors_do_not_depend_on_the_filters(way):
    weights = torch.randn(50, 40, 3, 3)
    bare = measure(weights, way)
    for axis in (0, 1):
        summary = measure(weights, way, axis=axis)
        for name in ("mean", "std", "mean_abs", "skewness", "kurtosis"):
            assert getattr(summary, name) == getattr(bare, name)


def test_zero_has_no_sign_in_the_extremes():
    for size in (3, 40_000):
        summary = summarize(torch.full((size,), -0.0))
        assert math.copysign(1, summary.minimum) == math.copysign(1, summary.maximum) == 1


@pytest.mark.parametrize("way", ["compiled", "plain"])
def test_zeros_among_subnormal_numbers_of_their_cell(way):
    patterns = np.random.default_rng(0).integers(1, 0xFFFF, 60_000, np.uint32)
    patterns[:25_000] = 0
    weights = torch.from_numpy(patterns.view(np.float32))
    assert_same(measure(weights, way), weights)


def test_a_batch_of_cells_fits_the_memory(monkeypatch):
    monkeypatch.setattr(steps, "_LOOKING", 1000)
    counts = np.random.default_rng(0).integers(1, 200, (3, 20))
    wanted = [(np.arange(20, dtype=np.int32), each) for each in counts]
    batches = list(steps._batches(wanted))
    assert all(4 * sum(held.sum() for _, _, held in batch) <= 1000 for batch in batches)
    for i, each in enumerate(counts):
        parts = [held for batch in batches for j, _, held in batch if i == j]
        np.testing.assert_array_equal(np.concatenate(parts), each)
