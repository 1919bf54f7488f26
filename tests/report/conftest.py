"""A network of two levels as hand-made records, every figure known."""

from types import SimpleNamespace as Record

import numpy as np
import pytest
import torch

from weightscope.frames import histograms_frame, layers_frame, stages_frame
from weightscope.statistics import Null


def tensor(layer, name, shape, *, kind, null=True, is_kernel=True, shared_with=(), warning=""):
    count = int(np.prod(shape))
    edges = np.linspace(-1, 1, 5)
    return Record(
        layer=layer,
        parameter=f"{layer}.{name}",
        kind=kind,
        shape=shape,
        fan_in=count // shape[0],
        fan_out=shape[0],
        count=count,
        is_kernel=is_kernel,
        requires_grad=True,
        shared_with=shared_with,
        warning=warning,
        near_zero_relative=0.25 if null else float("nan"),
        folded_std=None,
        spectrum=None,
        null=Null("uniform", "He uniform", 0.5) if null else None,
        comparison=Record(
            std_initial=0.5,
            spread_ratio=1.5,
            ks_initial=0.1,
            wasserstein_initial=0.2,
            near_zero_initial={1e-3: 0.01, 1e-2: 0.02},
            distinguishable=True,
            spilled=False,
            excess=0.3,
            error=0.01,
            draw=None,
            movement=None,
            fresh_start=False,
        )
        if null
        else None,
        summary=Record(
            count=count,
            finite=count,
            nan=0,
            inf=0,
            zero=1,
            minimum=-1.0,
            maximum=1.0,
            mean=0.0,
            std=0.75,
            mean_abs=0.5,
            skewness=0.0,
            kurtosis=-1.2,
            quantiles={0.01: -0.9, 0.5: 0.0, 0.99: 0.9},
            near_zero={1e-3: 0.1, 1e-2: 0.2},
            histogram=Record(edges=edges, counts=np.array([1, count - 3, 1, 1])),
            dead_filters=0.0,
        ),
    )


@pytest.fixture
def statistics():
    return Record(
        parameters=(
            tensor("head", "weight", (1, 4, 1, 1), kind="Conv2d"),
            tensor("down", "bias", (8,), kind="Conv2d", null=False, is_kernel=False),
            tensor("down", "weight", (8, 4, 3, 3), kind="Conv2d"),
            tensor("down.norm", "weight", (8,), kind="BatchNorm2d", null=False, is_kernel=False),
            tensor("top", "weight", (4, 3, 3, 3), kind="Conv2d"),
            tensor("unused", "weight", (2, 2), kind="Linear"),
        ),
        skipped=(Record(name="packed", reason="quantized"),),
        coverage=0.99,
        nonfinite={},
    )


def stage(name, level, *layers):
    role = name.split()[0]
    return Record(name=name, role=role, level=level, reduction=(2.0**level,) * 2, layers=layers)


@pytest.fixture
def structure():
    stages = (
        stage("encoder 0", 0, "top"),
        stage("bottleneck 1", 1, "down", "down.norm"),
        stage("head", 0, "head"),
    )
    return Record(
        model=torch.nn.Identity(),
        inputs=Record(args=(torch.zeros(1, 3, 64, 64),), kwargs={}, dimensions=2, guessed=True),
        stages=stages,
        stage_of={layer: s for s in stages for layer in s.layers},
        depth=2,
        reductions=((1.0, 1.0), (2.0, 2.0)),
        dead_parameters=("unused.weight",),
        program=Record(graph=Record(nodes=())),
        notes=(),
    )


@pytest.fixture
def costs():
    layers = {
        "top": (108, 442_368),
        "down": (296, 294_912),
        "down.norm": (8, 0),
        "down.attention": (0, 1_000),
        "head": (4, 16_384),
        "": (0, 50),
    }
    return Record(
        layers={name: Record(parameters=p, macs=m) for name, (p, m) in layers.items()},
        macs=sum(m for _, m in layers.values()),
        parameters=420,
        activation_bytes=3_000_000,
        unsupported={},
    )


@pytest.fixture
def receptive_fields():
    return {"encoder 0": (3, 3), "bottleneck 1": (8, 8), "head": (10, 10)}


def verdict(name, utilization, word, why):
    score = Record(
        grade="weights",
        utilization=utilization,
        low=utilization / 2,
        high=min(1.0, utilization * 2),
        verdict=word,
        why=why,
    )
    return Record(
        stage=name,
        utilization=utilization,
        verdict=word,
        evidence="weights",
        why=why,
        scores=(score,),
    )


@pytest.fixture
def assessment():
    return Record(
        verdicts=(
            verdict("bottleneck 1", 0.05, "unused", "its spread is the initial one"),
            verdict("head", 0.5, "undecided", "too few weights to tell"),
            verdict("encoder 0", 0.9, "used", "it moved well away from its null"),
        ),
        state="trained",
        conclusion="The bottleneck looks unused; try keeping 1 level.",
        notes=(),
    )


@pytest.fixture
def proposals():
    return (
        Record(
            keep_levels=1,
            parameters=150,
            macs=500_000,
            activation_bytes=1_000_000,
            receptive_field=(12, 12),
            kept=("top.weight", "head.weight"),
            reinitialized=("bottleneck.weight",),
            dropped=("down.weight", "down.bias"),
            evidence="level 1 looks unused (weights)",
            refusal=None,
        ),
        Record(
            keep_levels=2,
            parameters=None,
            macs=None,
            activation_bytes=None,
            receptive_field=None,
            kept=(),
            reinitialized=(),
            dropped=(),
            evidence="",
            refusal="nothing lies deeper",
        ),
    )


@pytest.fixture
def analysis(structure, statistics, costs, receptive_fields, assessment, proposals):
    return Record(
        structure=structure,
        statistics=statistics,
        costs=costs,
        receptive_fields=receptive_fields,
        assessment=assessment,
        proposals=proposals,
        data=None,
        response=None,
        images=None,
        layers=layers_frame(structure, statistics, costs),
        stages=stages_frame(structure, costs, receptive_fields, assessment),
        histograms=histograms_frame(structure, statistics),
        skipped=statistics.skipped,
        conclusion=assessment.conclusion,
        notes=(),
    )


@pytest.fixture
def ablation():
    level = Record(keep_levels=1, quality=0.9, ablated=0.75, drop=0.15, low=0.1, high=0.2, lost=())
    result = Record(levels=(level,), quality=0.9, chance=0.1, images=20, metric="F1", unjudged=())
    importances = {
        "encoder 0": Record(value=4.0, margin=1.0),
        "head": Record(value=1.0, margin=9.0),
    }
    return Record(ablation=result, importances=importances, beside=())
