"""The networks of the study: the zoo's two designs, one with batch norm, two of third parties."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal, cast

import torch
from torch import Tensor, nn

import mpseg_models

Architecture = Literal["unet", "multiresunet", "unet_bn", "monai", "smp"]
ARCHITECTURES: tuple[Architecture, ...] = ("unet", "multiresunet", "unet_bn", "monai", "smp")


class NormUNet(nn.Module):
    """A U-Net of today's kind: batch norm, two ReLUs a stage, transposed convolutions.

    Args:
        width: Channels of the first level; they double with every level.
        levels: Number of levels.
    """

    def __init__(self, width: int, levels: int = 5) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(levels)]
        inputs = [3, *widths[:-1]]
        self.encoder = nn.ModuleList(map(_double, inputs, widths))
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(deep, shallow, 2, stride=2) for shallow, deep in pairwise(widths)
        )
        self.decoder = nn.ModuleList(_double(2 * w, w) for w in widths[:-1])
        self.head = nn.Conv2d(width, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 3, H, W) to logits (B, 1, H, W)."""
        skips = []
        for level, stage in enumerate(self.encoder):
            x = stage(x if level == 0 else nn.functional.max_pool2d(x, 2))
            skips.append(x)
        for level in range(len(self.up) - 1, -1, -1):
            x = self.decoder[level](torch.cat([skips[level], self.up[level](x)], 1))
        return cast(Tensor, self.head(x))


def _double(inputs: int, outputs: int) -> nn.Sequential:
    """Two 3x3 convolutions, each with batch norm and ReLU."""
    layers: list[nn.Module] = []
    for channels in (inputs, outputs):
        layers += [nn.Conv2d(channels, outputs, 3, padding=1, bias=False)]
        layers += [nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers)


def build(architecture: Architecture, width: int, seed: int) -> nn.Module:
    """Build a network with seeded initial weights, RGB in, one logit out.

    All have five levels, but ``smp``, a ResNet-18 under a U-Net's decoder, which begins with a
    strided convolution and has six.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if architecture in ("unet", "multiresunet"):
            return mpseg_models.create_model(architecture, width=width, seed=seed)
        if architecture == "unet_bn":
            return NormUNet(width)
        if architecture == "smp":
            from segmentation_models_pytorch import Unet

            widths = tuple(max(width * 2**level, 16) for level in range(3, -2, -1))
            return Unet("resnet18", encoder_weights=None, decoder_channels=widths)
        from monai.networks.nets import BasicUNet

        features = (width, width, 2 * width, 4 * width, 8 * width, width)
        return BasicUNet(spatial_dims=2, in_channels=3, out_channels=1, features=features)
