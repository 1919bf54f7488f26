"""What watching costs: time of a training step with and without, and their ratio."""

import statistics
import time

import pytest
import torch

import mpseg_models
from weightscope.watching import watch

STEPS = 100


def make_training():
    torch.set_num_threads(1)
    model = mpseg_models.create_model("unet", width=16, seed=0)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    images, masks = torch.randn(2, 3, 96, 96), torch.zeros(2, 1, 96, 96)

    def step():
        optimizer.zero_grad()
        torch.nn.functional.binary_cross_entropy_with_logits(model(images), masks).backward()
        optimizer.step()

    return model, optimizer, step


def test_hook_of_one_step(benchmark):
    """The hook alone, on the 99 steps of 100 that take no snapshot."""
    model, optimizer, step = make_training()
    with watch(model, optimizer, every=10**9) as history:
        step()
        benchmark(history._after_step, optimizer, (), {})


def test_snapshot(benchmark):
    """What happens on one step of 100."""
    model, optimizer, step = make_training()
    with watch(model, optimizer, every=10**9) as history:
        step()

        def snapshot():
            history._folded()
            history._snapshot()

        benchmark.pedantic(snapshot, rounds=5, warmup_rounds=1)


@pytest.mark.benchmark
def test_share_of_a_training_step(benchmark):
    """(99 hooks + a snapshot) / (100 steps), from medians; the target is under 2 %."""
    model, optimizer, step = make_training()

    def median(call, repeats):
        times = []
        for _ in range(repeats):
            begun = time.perf_counter()
            call()
            times.append(time.perf_counter() - begun)
        return statistics.median(times)

    with watch(model, optimizer, every=10**9) as history:
        step()
        plain = median(step, 15)
        hook = median(lambda: history._after_step(optimizer, (), {}), 200)
        snapshot = median(lambda: (history._folded(), history._snapshot()), 5)
    benchmark.extra_info["share_of_step"] = (hook * (STEPS - 1) + snapshot) / (plain * STEPS)
    benchmark.extra_info["step_ms"] = plain * 1e3
    benchmark.extra_info["hook_us"] = hook * 1e6
    benchmark.extra_info["snapshot_ms"] = snapshot * 1e3
    benchmark.pedantic(step, rounds=1)
