"""Reading and counting a 31 M U-Net against one of its own forwards at 512 x 512.

Ratios are in ``extra_info``; absolute times depend on the machine.
"""

import time
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from weightscope.cost import count_costs, measure_latency
from weightscope.graph import read_structure
from weightscope.receptive_field import receptive_fields


class UNet(nn.Module):
    """The usual U-Net with batch norm and transposed convolutions: 31,043,521 parameters."""

    def __init__(self, width=64, levels=5):
        super().__init__()
        widths = [width * 2**i for i in range(levels)]
        pairs = list(pairwise(widths))
        self.down = nn.ModuleList(
            self._stage(a, b) for a, b in zip([3, *widths], widths, strict=False)
        )
        self.up = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, 2) for a, b in pairs)
        self.merge = nn.ModuleList(self._stage(2 * a, a) for a, _ in pairs)
        self.head = nn.Conv2d(width, 1, 1)

    def _stage(self, entering, leaving):
        layers = []
        for channels in (entering, leaving):
            layers += [
                nn.Conv2d(channels, leaving, 3, padding=1),
                nn.BatchNorm2d(leaving),
                nn.ReLU(inplace=True),
            ]
        return nn.Sequential(*layers)

    def forward(self, x):
        skips = []
        for level, stage in enumerate(self.down):
            x = stage(F.max_pool2d(x, 2) if level else x)
            skips.append(x)
        for level in reversed(range(len(self.up))):
            x = self.merge[level](torch.cat([skips[level], self.up[level](x)], 1))
        return self.head(x)


@pytest.fixture(scope="module")
def setting():
    torch.set_num_threads(1)
    model, image = UNet().eval(), torch.randn(1, 3, 512, 512)
    assert sum(p.numel() for p in model.parameters()) == 31_043_521
    (latency,) = measure_latency([model], image, repeats=3, warmup=1)
    small = torch.randn(2, 3, 64, 64)
    count_costs(model, small)  # torch loads its symbolic machinery on first use
    read_structure(model, small)
    return model, image, latency.median


def compare(benchmark, forward, call, rounds):
    benchmark.pedantic(call, rounds=rounds, warmup_rounds=1)
    benchmark.extra_info["ratio_to_forward"] = benchmark.stats.stats.median / forward


def test_costs(benchmark, setting):
    model, image, forward = setting
    compare(benchmark, forward, lambda: count_costs(model, image), 5)


def test_flop_counter_on_a_real_forward(benchmark, setting):
    """The peer: FlopCounterMode needs the forward itself."""
    model, image, forward = setting

    def count():
        with torch.no_grad(), FlopCounterMode(display=False):
            model(image)

    compare(benchmark, forward, count, 2)


def test_structure_costs_and_receptive_fields(benchmark, setting):
    model, image, forward = setting

    def read():
        structure = read_structure(model, torch.zeros(2, 3, 64, 64))
        receptive_fields(structure)
        count_costs(model, image)

    compare(benchmark, forward, read, 3)


def test_proposals_of_every_depth(benchmark, setting):
    """Median time to predict and to build every depth, per depth."""
    from types import SimpleNamespace

    from weightscope.truncation import propose

    model, image, forward = setting
    structure = read_structure(model, torch.zeros(2, 3, 64, 64))
    costs = count_costs(model, structure.inputs)
    nothing = SimpleNamespace(verdicts=(), state="untrained", conclusion="")
    compare(benchmark, forward, lambda: propose(structure, nothing, costs), 3)
    begun = time.perf_counter()
    variants = [p.build() for p in propose(structure, nothing, costs) if p.refusal is None]
    benchmark.extra_info["build_seconds_per_depth"] = (time.perf_counter() - begun) / len(variants)
    before, *after = measure_latency([model, *(v.module for v in variants)], image, repeats=2)
    benchmark.extra_info["speed_up"] = [round(before.median / a.median, 2) for a in after]
