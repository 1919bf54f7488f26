"""MultiResUNet, Half and Quarter MultiResUNet (eq. 10-24), and every other depth and width."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from mpseg_models.blocks import (
    Indivisible,
    MultiResBlock,
    ResPath,
    admit,
    down,
    finish,
    initialize,
    up,
)


@dataclass(frozen=True)
class MultiResUNetConfig:
    """What a MultiResUNet is made of.

    Attributes:
        encoder: Channels of each encoder stage, level 0 first.
        bottleneck: Channels of the deepest stage.
        decoder: Channels of each decoder stage, level 0 first; as many as encoder stages.
        respath: Repeats of eq. 14 in the skip of each level, level 0 first; as many again.
        in_channels: Channels of the image.
        classes: Channels of the output.
        sigmoid: Put a sigmoid on the output; otherwise it is logits.
        indivisible: What happens to an input whose size the poolings cannot halve evenly:
            ``"error"``, or ``"pad"`` to pad the border and crop the output.
        seed: Seed of the initial weights; None draws from torch's global generator.
    """

    encoder: tuple[int, ...]
    bottleneck: int
    decoder: tuple[int, ...]
    respath: tuple[int, ...]
    in_channels: int = 3
    classes: int = 1
    sigmoid: bool = False
    indivisible: Indivisible = "error"
    seed: int | None = None

    def __post_init__(self) -> None:
        stages = {len(self.encoder), len(self.decoder), len(self.respath)}
        if not self.encoder or len(stages) != 1:
            raise ValueError(
                "a MultiResUNet needs as many decoder stages and ResPaths as encoder stages and "
                f"at least one, received {len(self.encoder)} encoder stages, "
                f"{len(self.decoder)} decoder stages and {len(self.respath)} ResPaths"
            )
        if min(*self.encoder, self.bottleneck, *self.decoder) < 4:
            raise ValueError("a MultiRes block needs at least 4 channels for its three branches")

    @property
    def levels(self) -> int:
        """Number of resolution levels, the bottleneck included."""
        return len(self.encoder) + 1

    @property
    def width(self) -> int:
        """Channels of the first stage."""
        return self.encoder[0]

    def scaled(self, width: int) -> MultiResUNetConfig:
        """Return the same network with every channel count multiplied by ``width / self.width``."""

        def scale(channels: int) -> int:
            return max(4, round(channels * width / self.width))

        return replace(
            self,
            encoder=tuple(scale(channels) for channels in self.encoder),
            bottleneck=scale(self.bottleneck),
            decoder=tuple(scale(channels) for channels in self.decoder),
        )


class MultiResUNet(nn.Module):
    """A MultiResUNet of any depth: a stem, MultiRes stages, ResPath skips, 1x1 head.

    Stages are indexed by level, so ``encoder.0``, ``skips.0`` and ``decoder.0`` are all at full
    resolution, and a network with fewer levels has the same names for the levels it shares.

    Args:
        config: What it is made of.
    """

    def __init__(self, config: MultiResUNetConfig) -> None:
        super().__init__()
        self.config = config
        self.stem = nn.Conv2d(config.in_channels, config.width, kernel_size=3, padding=1)
        before = (config.width, *config.encoder[:-1])
        self.encoder = nn.ModuleList(
            MultiResBlock(above, channels)
            for above, channels in zip(before, config.encoder, strict=True)
        )
        self.bottleneck = MultiResBlock(config.encoder[-1], config.bottleneck)
        self.skips = nn.ModuleList(
            ResPath(channels, repeats)
            for channels, repeats in zip(config.encoder, config.respath, strict=True)
        )
        below = (*config.decoder[1:], config.bottleneck)
        self.decoder = nn.ModuleList(
            MultiResBlock(skip + deeper, channels)
            for skip, deeper, channels in zip(config.encoder, below, config.decoder, strict=True)
        )
        self.head = nn.Conv2d(config.decoder[0], config.classes, kernel_size=1)
        initialize(self, config.seed)

    @property
    def multiple(self) -> int:
        """What the height and the width of the input must be multiples of."""
        return int(2 ** len(self.encoder))

    def forward(self, images: Tensor) -> Tensor:
        """Segment images.

        Args:
            images: (B, in_channels, H, W), values in 0..1.

        Returns:
            (B, classes, H, W): logits, or probabilities where the config asks for a sigmoid.

        Raises:
            ValueError: The input has another shape than the network can take.
        """
        x = admit(images, self.multiple, self.config.in_channels, self.config.indivisible)
        x = self.stem(x)
        skips: list[Tensor] = []
        for stage, skip in zip(self.encoder, self.skips, strict=True):  # eq. 16, 17; 19, 20; 22
            x = stage(x)
            skips.append(skip(x))
            x = down(x)
        x = self.bottleneck(x)  # the last of eq. 17 or 20; eq. 23
        for stage, kept in zip(reversed(self.decoder), reversed(skips), strict=True):
            x = stage(torch.cat([kept, up(x)], dim=1))  # eq. 18, 21, 24
        return finish(self.head(x), images, self.config.indivisible, self.config.sigmoid)
