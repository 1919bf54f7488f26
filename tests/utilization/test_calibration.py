"""A small part of the calibration: no accusations of untrained networks, stages put back last."""

from types import SimpleNamespace

import pytest
import torch

import mpseg_models
from studies.calibration import INITIALIZERS, initialise, plant
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
    )


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


@pytest.fixture(scope="module")
def drifted():
    """A network all of whose stages moved, its start, and a fresh one."""
    torch.manual_seed(0)
    model = mpseg_models.create_model("half_unet", width=32, seed=1)
    initial = {k: v.clone() for k, v in model.state_dict().items()}
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.add_(0.05 * torch.randn_like(parameter))
    fresh = mpseg_models.create_model("half_unet", width=32, seed=2).state_dict()
    return model, initial, fresh


def test_a_stage_put_back_ranks_below_all_others_and_is_not_condemned(drifted):
    model, initial, fresh = drifted
    structure = zoo_structure(model)
    planted = 0
    for stage, way in plant(model, initial, fresh, structure):
        if way != "put back to its start":
            continue
        planted += 1
        found = assess(structure, measure_model(model, initial=initial)).verdicts
        assert found[0].stage == stage
        assert "not moved since its start" in found[0].why
        assert {v.verdict for v in found} == {"undecided"}
    assert planted == 6


def test_planting_puts_the_trained_weights_back(drifted):
    model, initial, fresh = drifted
    before = {k: v.clone() for k, v in model.state_dict().items()}
    assert len(list(plant(model, initial, fresh, zoo_structure(model)))) == 18
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
