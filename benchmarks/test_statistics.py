"""Weight statistics against one pass of torch.sum over the same tensors, and against peers.

Ratios are in ``extra_info``; ``benchmarks/table.py`` writes them to docs/benchmarks.md.
"""

from __future__ import annotations

import io
import logging
import os
import subprocess
import sys
import time
import tracemalloc
import warnings
from contextlib import redirect_stdout

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from test_cost import UNet
from torch import nn

from weightscope.statistics import measure_model, scan
from weightscope.statistics.tensors import find_parameters
from weightscope.summaries import counting
from weightscope.summaries import summary as room
from weightscope.summaries.threads import run_all

CORES = os.cpu_count() or 1
on_one_and_all = pytest.mark.parametrize("threads", sorted({1, CORES}), indirect=True)


def large(parameters):
    """A network of equal convolutions, 1024 x 1024 x 3 x 3 each."""
    size = 1024 * 1024 * 9
    return nn.ParameterList(
        nn.Parameter(torch.randn(1024, 1024, 3, 3) * 0.02, requires_grad=False)
        for _ in range(round(parameters / size))
    )


SIZES = {
    "31 M U-Net": UNet,
    "300 M": lambda: large(300e6),
    "1 G": lambda: large(1e9),
}


@pytest.fixture(scope="module", params=["31 M U-Net", "300 M"])
def network(request):
    torch.manual_seed(0)
    return request.param, SIZES[request.param]()


@pytest.fixture(scope="module")
def unet():
    torch.manual_seed(0)
    return UNet().eval()


@pytest.fixture(scope="module")
def giant():
    torch.manual_seed(0)
    return large(1e9)


def summarizing(model, threads):
    places, _, _ = find_parameters(model)

    def work(place, run):
        return room.summarize_with(run, place.tensor, filter_axis=place.filter_axis)

    return lambda: run_all(places, lambda place: place.tensor.numel(), work, threads)


def summing(model):
    tensors = [parameter.detach() for parameter in model.parameters()]
    return lambda: [tensor.sum() for tensor in tensors]


@on_one_and_all
@pytest.mark.parametrize("mode", ["exact", "without numba"])
def test_one_pass(against, network, threads, mode, monkeypatch):
    size, model = network
    goals = {"exact": 9 if "U-Net" in size else 8, "without numba": 60}
    if mode == "without numba":
        monkeypatch.setattr(counting, "_kernels", False)
    rounds = 7 if mode == "without numba" else 31 if "U-Net" in size else 9
    against(summarizing(model, threads), summing(model),
            what=f"{mode}, {size}", versus="torch.sum", goal=goals[mode] if threads == 1 else None,
            rounds=rounds)  # fmt: skip


@pytest.mark.slow
@on_one_and_all
def test_one_pass_over_a_giant(against, giant, threads):
    against(summarizing(giant, threads), summing(giant), what="exact, 1 G", versus="torch.sum",
            goal=8 if threads == 1 else None, rounds=3)  # fmt: skip


@on_one_and_all
def test_whole_model(against, unet, threads):
    against(
        lambda: measure_model(unet), summing(unet),
        what="measure_model, 31 M U-Net, nulls and distances included", versus="torch.sum",
        goal=None,
    )  # fmt: skip


@pytest.mark.parametrize("threads", [1], indirect=True)
def test_tensorboard(against, unet, threads, tmp_path):
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path)) as writer:

        def histograms():
            for name, parameter in unet.named_parameters():
                writer.add_histogram(name, parameter.detach(), 0)
            writer.flush()

        against(summarizing(unet, 1), histograms, what="exact, 31 M U-Net",
                versus="TensorBoard add_histogram", goal=6, rounds=5, inverse=True)  # fmt: skip


@pytest.mark.parametrize("threads", [1], indirect=True)
def test_scipy(against, unet, threads):
    from scipy import stats

    def describe():
        for parameter in unet.parameters():
            values = parameter.detach().numpy().ravel()
            stats.describe(values)
            np.quantile(values, room.PROBABILITIES)
            np.histogram(values, 128)
            size = np.abs(values)
            (size <= 1e-3).mean(), (size <= 1e-2).mean(), size.mean()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # constants have no skewness
        against(
            summarizing(unet, 1), describe, what="exact, 31 M U-Net",
            versus="scipy.stats.describe and numpy", goal=None, rounds=3, inverse=True,
        )  # fmt: skip


@on_one_and_all
def test_weightwatcher(against, unet, threads):
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        weightwatcher = pytest.importorskip("weightwatcher")
        logging.getLogger("weightwatcher").setLevel(logging.CRITICAL)

        def analyze():
            return weightwatcher.WeightWatcher(model=unet).analyze()

        against(lambda: measure_model(unet, spectra=True), analyze,
                what="measure_model with spectra, 31 M U-Net", versus="WeightWatcher analyze",
                goal=6, rounds=3, inverse=True)  # fmt: skip


@pytest.mark.parametrize("threads", [1], indirect=True)
def test_extra_memory(against, benchmark, threads):
    run = summarizing(large(1e8), 1)
    run()
    tracemalloc.start()  # numpy reports its arrays to it
    try:
        benchmark.pedantic(run, rounds=1)
        peak = tracemalloc.get_traced_memory()[1] / 2**20
    finally:
        tracemalloc.stop()
    against.record(
        what="extra memory of one thread, 100 M", versus="", value=peak, unit="MiB", goal=8,
        met=peak <= 8, at_least=False, threads=1,
    )  # fmt: skip


def forget(path):
    """Drop a file from the system's cache."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_all(path):
    forget(path)
    buffer = bytearray(4 << 20)
    with open(path, "rb", buffering=0) as file:
        while file.readinto(buffer):
            pass


def scanning(against, path, peak_memory, what):
    growth = []

    def subject():
        forget(path)
        with peak_memory() as peak:
            scan(path, threads=CORES)
        growth.append(peak.growth)

    against(subject, lambda: read_all(path), what=f"{what}: speed of a cold read", versus="read()",
            goal=0.6, rounds=3, inverse=True, clock=time.perf_counter)  # fmt: skip
    return max(growth) / 2**20


@pytest.mark.parametrize("threads", [CORES], indirect=True)
@pytest.mark.parametrize("size", ["300 M", pytest.param("1 G", marks=pytest.mark.slow)])
def test_scan(against, benchmark, peak_memory, tmp_path, threads, size):
    path = tmp_path / "model.safetensors"
    save_file({n: p.data for n, p in SIZES[size]().named_parameters()}, path)
    scan(path)
    memory = scanning(against, path, peak_memory, f"scan, {size}")
    benchmark.extra_info["memory"] = {
        "what": f"anonymous memory of scan, {size}", "versus": "", "value": memory, "unit": "MiB",
        "goal": 64, "met": memory <= 64, "at_least": False, "threads": CORES,
        "load": os.getloadavg()[0],
    }  # fmt: skip


def seconds_of_children():
    """Processor time of the interpreters that were started."""
    times = os.times()
    return times.children_user + times.children_system


def test_import(against):
    # as an installed package is imported: from compiled files, which the first round writes
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}

    def importing(name):
        command = [sys.executable, "-c", f"import {name}"]
        return lambda: subprocess.run(command, check=True, env=environment)

    against(importing("weightscope"), importing("torch"), what="import weightscope",
            versus="import torch", goal=1.15, rounds=15, clock=seconds_of_children)  # fmt: skip
