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
@pytest.mark.parametrize("threads", [1], indirect=True)
def test_watched_training_against_a_plain_one(against, threads):
    """A hundred steps with their hooks and their snapshot, against a hundred without.

    What watching adds is measured alone and added to the steps, which vary by more than it costs.
    """
    model, optimizer, step = make_training()
    plain, added = [], []

    def clocked(call, times):
        begun = time.process_time()
        call()
        times.append(time.process_time() - begun)

    with watch(model, optimizer, every=10**9) as history:
        step()
        for _ in range(15):  # in turn, so that both see the same neighbours
            clocked(step, plain)
            clocked(lambda: history._after_step(optimizer, (), {}), added)
        snapshots = []
        for _ in range(5):
            clocked(lambda: (history._folded(), history._snapshot()), snapshots)
    steps = statistics.median(plain) * STEPS
    watched = steps + statistics.median(added) * (STEPS - 1) + statistics.median(snapshots)
    against.record(
        what="training watched every 100 steps", versus="the same unwatched", seconds=watched,
        baseline_seconds=steps, ratio=watched / steps, goal=1.02, met=watched / steps <= 1.02,
        at_least=False, threads=threads,
    )  # fmt: skip
    against.benchmark.pedantic(step, rounds=1)
