"""Movement is what is orthogonal to the start; decay is not movement."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from weightscope.movement import (
    Displacement,
    measure_movement,
    stage_movement,
)


def test_pure_decay_is_shrinkage_and_no_movement():
    w0 = torch.randn(50, 20, dtype=torch.float64)
    found = measure_movement(0.3 * w0, w0)
    assert found.shrinkage == pytest.approx(0.3)
    assert found.moved == pytest.approx(0.0, abs=1e-9)


def test_movement_is_measured_beside_decay():
    torch.manual_seed(0)
    w0, delta = torch.randn(200, 100), 0.05 * torch.randn(200, 100)
    found = measure_movement(0.5 * w0 + delta, w0)
    assert found.moved == pytest.approx(0.05, rel=0.02)
    assert found.shrinkage == pytest.approx(0.5, abs=0.01)


def test_weights_that_start_at_zero_have_no_shrinkage():
    found = measure_movement(torch.full((4,), 2.0), torch.zeros(4))
    assert math.isnan(found.shrinkage)
    assert found.moved == 2.0


def test_half_precision_is_measured_in_double():
    w0 = torch.ones(10_000, dtype=torch.float16)
    w = w0.clone()
    w[::2] += 0.001
    found = measure_movement(w, w0)
    step = float(w[0] - w0[0])
    assert found.moved == pytest.approx(step / 2, rel=1e-3)


def record(name, moved, walk, count=10, note=""):
    return Displacement(name, count, moved, 1.0, walk, walk, note)


def test_kernels_are_pooled_by_their_counts():
    moved = {d.parameter: d for d in (record("a", 1.0, 1.0, 30), record("b", 3.0, 1.0, 10))}
    pooled = stage_movement(moved, ("a", "b"))
    assert pooled.ratio == pytest.approx(math.sqrt((30 * 1 + 10 * 9) / 40))
    assert pooled.live == pooled.ratio
    assert (pooled.slowest * pooled.live, pooled.fastest * pooled.live) == pytest.approx((1.0, 3.0))
    assert pooled.length == pytest.approx(math.sqrt(40))


def test_without_sampled_gradients_all_movement_counts():
    pooled = stage_movement({"a": Displacement("a", 10, 1.0, 1.0, 2.0, math.nan)}, ("a",))
    assert pooled.live == pooled.ratio == 0.5


def test_saliencies_of_the_kernels_add_up_and_one_unknown_makes_the_sum_unknown():
    kernels = {
        n: Displacement(n, 10, 1.0, 1.0, 1.0, 1.0, saliency=s) for n, s in (("a", 1.0), ("b", 2.0))
    }
    assert stage_movement(kernels, ("a", "b")).saliency == 3.0
    kernels["c"] = Displacement("c", 10, 1.0, 1.0, 1.0, 1.0)
    assert math.isnan(stage_movement(kernels, ("a", "b", "c")).saliency)


def test_frozen_and_unknown_kernels_are_left_out_and_named():
    moved = {
        d.parameter: d
        for d in (
            record("a", 1.0, 2.0),
            record("b", 9.0, 0.0),
            record("c", 9.0, math.nan, note="x"),
        )
    }
    pooled = stage_movement(moved, ("a", "b", "c", "missing"))
    assert pooled.ratio == 0.5
    assert pooled.notes == (
        "x",
        "1 of 3 kernels moved by something else than the watched optimiser",
    )
    assert math.isnan(stage_movement(moved, ("b", "c")).live)


def test_kernels_that_the_watched_optimiser_does_not_hold_are_not_trained_only_where_they_stay():
    still = Displacement("still", 10, 0.0, 1.0, 0.0, 0.0)
    zero = Displacement("zero", 10, 0.0, math.nan, 0.0, 0.0)
    scaled = Displacement("scaled", 10, 0.0, 0.5, 0.0, 0.0)
    records = {d.parameter: d for d in (still, zero, scaled, record("other", 1.0, 2.0))}
    notes = {name: stage_movement(records, (name,)).notes for name in records}
    other = ("moved by something else than the watched optimiser",)
    not_held = ("not trained: the watched optimiser does not hold it",)
    assert notes == {"still": not_held, "zero": not_held, "scaled": other, "other": ()}
    assert stage_movement(records, ("still", "zero", "scaled", "other")).notes == (
        "2 of 4 kernels not trained: the watched optimiser does not hold them",
        f"1 of 4 kernels {other[0]}",
    )


@pytest.mark.filterwarnings("ignore:.*quantized tensor creation:UserWarning")
def test_movement_goes_through_blocks_and_formats():
    torch.manual_seed(15)
    w0, delta = torch.randn(200_000), torch.randn(200_000)
    found = measure_movement(0.7 * w0 + 0.1 * delta, w0)
    a = float((0.7 * w0 + 0.1 * delta).double() @ w0.double() / (w0.double() @ w0.double()))
    rest = (0.7 * w0 + 0.1 * delta).double() - a * w0.double()
    assert found.count == 200_000
    assert found.shrinkage == pytest.approx(a, rel=1e-12)
    assert found.moved == pytest.approx(float((rest @ rest / 199_999) ** 0.5), rel=1e-9)
    assert measure_movement(w0, w0).moved == 0.0
    quantized = torch.quantize_per_tensor(w0, 0.05, 0, torch.qint8)
    assert measure_movement(quantized, quantized).shrinkage == pytest.approx(1.0)
    assert measure_movement(torch.ones(0), torch.ones(0)).moved == 0.0


def test_movement_has_one_degree_of_freedom_less_than_weights():
    start, final = torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.5, 3.0, 4.0])
    split = measure_movement(final, start)
    assert (split.count, split.shrinkage) == (3, 0.5)
    assert split.moved == pytest.approx((25 / 2) ** 0.5)
    from_zero = measure_movement(final, torch.zeros(3))
    assert from_zero.moved == pytest.approx((25.25 / 3) ** 0.5)
    assert np.isnan(from_zero.shrinkage)


def test_numbers_that_were_lost_are_not_moved_by_something_else():
    lost = Displacement("w", 9, math.nan, math.nan, 0.0, 0.0)
    assert stage_movement({"w": lost}, ("w",)).notes == ()
    assert stage_movement({"w": replace(lost, moved=1.0)}, ("w",)).notes
