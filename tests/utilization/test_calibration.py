"""A small part of the calibration: no accusations of untrained networks."""

from types import SimpleNamespace

import pytest
import torch

import mpseg_models
from studies.evidence_protocol.untrained import INITIALIZERS, initialise
from weightscope.graph import Stage
from weightscope.statistics import measure_model
from weightscope.utilization import assess


def zoo_structure(model):
    """Stages of a zoo network by the names of its blocks, without reading its graph."""
    blocks = {}
    for name, module in model.named_modules():
        if hasattr(module, "weight"):
            block = ".".join(name.split(".")[:2]) if "." in name else name
            blocks.setdefault(block, []).append(name)
    return SimpleNamespace(
        stages=tuple(
            Stage(block, "head" if block == "head" else "encoder", 0, (1.0, 1.0), tuple(layers))
            for block, layers in blocks.items()
        ),
        cuts=(SimpleNamespace(keep_levels=0),),
        draws=False,
    )


@pytest.mark.sample(1)
@pytest.mark.parametrize("name", ["half_unet", "half_multiresunet"])
@pytest.mark.parametrize("rule", INITIALIZERS)
def test_untrained_networks_are_not_accused(name, rule):
    verdicts, states = [], []
    for seed in range(5):
        torch.manual_seed(seed)
        model = mpseg_models.create_model(name, width=16, seed=seed)
        initialise(model, INITIALIZERS[rule])
        assessment = assess(zoo_structure(model), measure_model(model))
        verdicts += [v.verdict for v in assessment.verdicts]
        states.append(assessment.state)
    accused = sum(v != "undecided" for v in verdicts) / len(verdicts)
    assert accused <= 0.05
    assert states.count("untrained") >= 4
