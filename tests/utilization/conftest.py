"""Stages and kernels made to measure, without building a network."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from weightscope.graph import Stage
from weightscope.statistics import Null, compare, measure_model

SIZE = 300
STD = SIZE**-0.5  # LeCun's rule


class Layers(nn.Module):
    """Named linear layers, each a stage of its own."""

    def __init__(self, stds, size=SIZE, start=STD, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.start = {}
        for name, std in stds.items():
            layer = nn.Linear(size, size, bias=False)
            w0 = start * torch.randn(size, size)
            delta = std * torch.randn(size, size)
            self.start[f"{name}.weight"] = w0
            with torch.no_grad():
                layer.weight.copy_(w0 + delta)
            self.add_module(name, layer)


def stages_of(model):
    """A structure with one stage per layer, in levels from 0, each of which a cut removes."""
    names = [name for name, _ in model.named_children()]
    return SimpleNamespace(
        stages=tuple(Stage(n, "encoder", i, (2.0**i,) * 2, (n,)) for i, n in enumerate(names)),
        cuts=tuple(SimpleNamespace(keep_levels=i) for i in range(len(names))),
        draws=False,
    )


def by_rule(model, std=STD):
    """Statistics for somebody who knows how the kernels were drawn, but not their start."""
    statistics = measure_model(model)
    null = Null("normal", "as the test draws", std, "matched")
    parameters = tuple(
        replace(p, null=null, comparison=compare(p.summary, null)) for p in statistics.parameters
    )
    return replace(statistics, parameters=parameters)


@pytest.fixture
def measure_by_rule():
    """Measure a model of `Layers` by the rule its kernels were drawn by."""
    return by_rule


@pytest.fixture
def layers():
    """Make (structure, statistics, model) of layers that moved by the given rms.

    ``start`` says what is known of it: the weights (``given``), their ``rule``, or ``nothing``.
    """

    def make(start="given", seed=0, **moved):
        model = Layers(moved, seed=seed)
        statistics = {
            "given": lambda: measure_model(model, initial=model.start),
            "rule": lambda: by_rule(model),
            "nothing": lambda: measure_model(model),
        }[start]()
        return stages_of(model), statistics, model

    return make
