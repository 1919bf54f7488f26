"""Untrained networks of many designs, and what `analyze` says of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

import mpseg_models
import weightscope as ws
from studies.evidence_protocol.designs import UNet
from studies.runner import Job, Place


def designs() -> dict[str, Callable[[], nn.Module]]:
    """Fourteen architectures by name."""
    import segmentation_models_pytorch as smp
    from monai.networks import nets

    made: dict[str, Callable[[], nn.Module]] = {
        name: lambda name=name: mpseg_models.create_model(name, width=16)  # type: ignore[misc]
        for name in mpseg_models.list_models()
    }
    made |= {
        "unet, 3 levels": lambda: UNet(3, 1, 16, 3, "batch"),
        "unet, batch norm": lambda: UNet(3, 1, 16, 5, "batch"),
        "BasicUNet": lambda: nets.BasicUNet(2, 3, 1, features=(16, 16, 32, 64, 128, 16)),
        "UNet with residual units": lambda: nets.UNet(
            2, 3, 1, channels=(16, 32, 64, 128), strides=(2, 2, 2), num_res_units=2
        ),
        "AttentionUnet": lambda: nets.AttentionUnet(2, 3, 1, (16, 32, 64, 128), (2, 2, 2)),
        "SegResNet": lambda: nets.SegResNet(2, in_channels=3, out_channels=1, init_filters=16),
        "DynUNet": lambda: nets.DynUNet(
            2, 3, 1, (3, 3, 3, 3), (1, 2, 2, 2), (2, 2, 2), filters=(16, 32, 64, 128)
        ),
        "smp Unet, ResNet-18": lambda: smp.Unet("resnet18", encoder_weights=None),
        "smp FPN, MobileNetV2": lambda: smp.FPN("mobilenet_v2", encoder_weights=None),
    }
    return made


def he_normal(weight: torch.Tensor) -> None:
    """He's normal initialisation."""
    nn.init.kaiming_normal_(weight, nonlinearity="relu")


INITIALIZERS: dict[str, Callable[[torch.Tensor], object] | None] = {
    "as built": None,
    "Glorot uniform": nn.init.xavier_uniform_,
    "He normal": he_normal,
}


def initialise(model: nn.Module, rule: Callable[[torch.Tensor], object] | None) -> None:
    """Draw every convolution of a model anew, in place; None leaves it as built."""
    if rule is None:
        return
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            rule(module.weight)


@dataclass(frozen=True)
class Untrained:
    """Untrained networks of one design and rule.

    Attributes:
        design: Key of `designs`.
        initializer: Key of `INITIALIZERS`.
        seeds: How many networks.
    """

    design: str
    initializer: str
    seeds: int


def assess(settings: Untrained, place: Place) -> dict[str, Any]:
    """Assess the networks of one job: a row for each stage."""
    rows = []
    for seed in range(settings.seeds):
        torch.manual_seed(1000 + seed)
        model = designs()[settings.design]()
        initialise(model, INITIALIZERS[settings.initializer])
        assessment = ws.analyze(model, example_inputs=torch.zeros(2, 3, 64, 64)).assessment
        rows += [
            {
                "design": settings.design,
                "initializer": settings.initializer,
                "seed": seed,
                "state": assessment.state,
                "stage": verdict.stage,
                "verdict": verdict.verdict,
            }
            for verdict in assessment.verdicts
        ]
    return {"rows": rows}


def calibrations(seeds: int) -> list[Job]:
    """The jobs of the calibration."""
    return [
        Job(
            f"{design}, {rule}".replace(" ", "-").replace(",", ""),
            assess,
            Untrained(design, rule, seeds),
            code=("weightscope", "mpseg_models", "studies.evidence_protocol.untrained"),
        )
        for design in designs()
        for rule in INITIALIZERS
    ]
