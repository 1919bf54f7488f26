"""What is wrapped around a network is taken off, told, or refused by name."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from tests.networks import UNet
from weightscope import ablate, analyze, load, save
from weightscope.errors import InputError
from weightscope.graph import read_structure
from weightscope.wrappers import unwrap


class ModelEmaV3(nn.Module):
    """As timm's: the averaged copy is its module."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.module = model


class LightningModule(nn.Module):
    """As Lightning's: a module whose own forward is that of nn.Module."""


class Task(LightningModule):
    def __init__(self, *networks: nn.Module) -> None:
        super().__init__()
        self.loss = nn.CrossEntropyLoss()
        for number, network in enumerate(networks):
            self.add_module(f"net{number}", network)


class Joined(Task):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net0(x) + self.net1(x)


def compiled(model: nn.Module) -> nn.Module:
    with warnings.catch_warnings(action="ignore"):  # it uses what torch has deprecated
        return torch.compile(model)


@pytest.mark.parametrize("wrap", [compiled, nn.DataParallel, AveragedModel, ModelEmaV3, Task])
def test_wrappers_are_taken_off(wrap: type[nn.Module]) -> None:
    model = UNet((4, 6))
    found = unwrap(wrap(nn.DataParallel(model)))
    assert isinstance(found.model, UNet)
    assert found.taken_off[1:] == ("DataParallel",)
    assert "DataParallel" in found.note


def test_a_network_is_no_wrapper() -> None:
    model = UNet((4, 6))
    assert unwrap(model).model is model
    assert unwrap(model).note == ""
    joined = Joined(UNet((4, 6)), UNet((4, 6)))
    assert unwrap(joined).model is joined
    assert unwrap("text").model == "text"


def test_several_networks_are_told_apart() -> None:
    with pytest.raises(InputError, match="net0, net1"):
        unwrap(Task(UNet((4, 6)), UNet((4, 6))))


def test_what_has_no_whole_weights_is_refused_by_name() -> None:
    sharded = type("FullyShardedDataParallel", (nn.Module,), {})()
    with pytest.raises(InputError, match="FullyShardedDataParallel are sharded"):
        unwrap(sharded)
    with warnings.catch_warnings(action="ignore"):
        script = torch.jit.script(nn.Conv2d(1, 1, 3))
    with pytest.raises(InputError, match=r"torch\.jit\.ScriptModule"):
        unwrap(script)


def test_a_wrapped_network_is_read_under_its_own_names() -> None:
    model = UNet((4, 6))
    structure = read_structure(nn.DataParallel(model))
    assert structure.model is model
    assert "out" in structure.stage_of
    assert structure.notes == ("read inside DataParallel; names are those of the inside",)


@pytest.mark.sample(2)
@pytest.mark.parametrize("wrap", [nn.DataParallel, AveragedModel, ModelEmaV3, Task])
def test_a_wrapped_network_is_ablated_as_its_inside(wrap: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model = UNet((4, 6))
    images = torch.rand(4, 3, 16, 16)
    batches = [(images, images[:, :2])]
    found = [ablate(m, batches, "mse", progress=False) for m in (model, wrap(model))]
    assert found[0].equals(found[1])


def test_a_variant_of_a_wrapped_network_is_saved_and_loaded(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = UNet((4, 6))
    variant = analyze(AveragedModel(model), response=False).proposals[0].build()
    image = torch.rand(1, 3, 16, 16)
    wanted = variant.module.eval()(image)
    trained = replace(variant, module=nn.DataParallel(variant.module))
    for saved, name in ((variant, "plain"), (trained, "wrapped")):
        path = save(saved, tmp_path / f"{name}.safetensors")
        loaded = load(path, lambda: nn.DataParallel(UNet((4, 6))))
        assert torch.equal(loaded.module.eval()(image), wanted)
