"""U-net and Half U-net (eq. 1-9), and every other depth and width of the same design."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from mpseg_models.blocks import (
    DoubleConv,
    Indivisible,
    admit,
    down,
    finish,
    initialize,
    up,
)

Pair = tuple[int, int]


@dataclass(frozen=True)
class UNetConfig:
    """What a U-net is made of.

    Attributes:
        encoder: Channels of the two convolutions of each encoder stage, level 0 first.
        bottleneck: The same for the deepest level.
        decoder: The same for each decoder stage, level 0 first; as many as encoder stages.
        in_channels: Channels of the image.
        classes: Channels of the output.
        sigmoid: Put a sigmoid on the output; otherwise it is logits.
        indivisible: What happens to an input whose size the poolings cannot halve evenly:
            ``"error"``, or ``"pad"`` to pad the border and crop the output.
        seed: Seed of the initial weights; None draws from torch's global generator.
    """

    encoder: tuple[Pair, ...]
    bottleneck: Pair
    decoder: tuple[Pair, ...]
    in_channels: int = 3
    classes: int = 1
    sigmoid: bool = False
    indivisible: Indivisible = "error"
    seed: int | None = None

    def __post_init__(self) -> None:
        if not self.encoder or len(self.encoder) != len(self.decoder):
            raise ValueError(
                f"a U-net needs as many decoder stages as encoder stages and at least one, "
                f"received {len(self.encoder)} and {len(self.decoder)}"
            )

    @property
    def levels(self) -> int:
        """Number of resolution levels, the bottleneck included."""
        return len(self.encoder) + 1

    @property
    def width(self) -> int:
        """Channels of the first convolution."""
        return self.encoder[0][0]

    def scaled(self, width: int) -> UNetConfig:
        """Return the same network with every channel count multiplied by ``width / self.width``."""

        def scale(pair: Pair) -> Pair:
            first, second = (max(1, round(channels * width / self.width)) for channels in pair)
            return first, second

        return replace(
            self,
            encoder=tuple(scale(pair) for pair in self.encoder),
            bottleneck=scale(self.bottleneck),
            decoder=tuple(scale(pair) for pair in self.decoder),
        )


class UNet(nn.Module):
    """A U-net of any depth: encoder stages, bottleneck, decoder stages with skips, 1x1 head.

    Stages are indexed by level, so ``encoder.0`` and ``decoder.0`` are both at full resolution,
    and a network with fewer levels has the same names for the levels it shares.

    Args:
        config: What it is made of.
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        channels = config.in_channels
        self.encoder = nn.ModuleList()
        for pair in config.encoder:
            self.encoder.append(DoubleConv(channels, pair))
            channels = pair[1]
        self.bottleneck = DoubleConv(channels, config.bottleneck)
        below = [pair[1] for pair in config.decoder[1:]] + [config.bottleneck[1]]
        self.decoder = nn.ModuleList(
            DoubleConv(skip[1] + deeper, pair)
            for skip, deeper, pair in zip(config.encoder, below, config.decoder, strict=True)
        )
        self.head = nn.Conv2d(config.decoder[0][1], config.classes, kernel_size=1)
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
        skips: list[Tensor] = []
        for stage in self.encoder:  # eq. 4, 5, 7, 8
            x = stage(x)
            skips.append(x)
            x = down(x)
        x = self.bottleneck(x)
        for stage, skip in zip(reversed(self.decoder), reversed(skips), strict=True):  # eq. 6, 9
            x = stage(torch.cat([skip, up(x)], dim=1))
        return finish(self.head(x), images, self.config.indivisible, self.config.sigmoid)
