"""Thirteen designs, each with the modules whose outputs come back from its levels, by hand.

These modules define the truth: nothing here asks the library where a level lies.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import mpseg_models

Taps = dict[int, list[nn.Module]]
"""Reduction -> the modules whose outputs leave the levels of that reduction and deeper ones."""


class ChannelNorm(nn.Module):
    """Layer norm over the channels of (B, C, H, W), as in ConvNeXt."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise every position."""
        return cast(Tensor, self.norm(x.movedim(1, -1)).movedim(-1, 1))


class Tokens(nn.Module):
    """One transformer layer over all positions."""

    def __init__(self, channels: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.after = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.qkv, self.out = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)
        self.mlp = nn.Sequential(
            nn.Linear(channels, 2 * channels), nn.GELU(), nn.Linear(2 * channels, channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Mix the positions of (B, C, H, W)."""
        b, c, h, w = x.shape
        tokens = x.flatten(2).transpose(1, 2)
        parts = (
            self.qkv(self.before(tokens)).view(b, h * w, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        )
        mixed = F.scaled_dot_product_attention(parts[0], parts[1], parts[2])
        tokens = tokens + self.out(mixed.transpose(1, 2).reshape(b, h * w, c))
        tokens = tokens + self.mlp(self.after(tokens))
        return tokens.transpose(1, 2).reshape(b, c, h, w)


NORMS: dict[str, Callable[[int], nn.Module]] = {
    "none": lambda _: nn.Identity(),
    "batch": nn.BatchNorm2d,
    "group": lambda channels: nn.GroupNorm(2, channels),
    "instance": lambda channels: nn.InstanceNorm2d(channels, affine=True),
    "layer": ChannelNorm,
}


class Block(nn.Module):
    """Two 3x3 convolutions with norm and activation, with or without a shortcut."""

    def __init__(self, inputs: int, outputs: int, norm: str, *, shortcut: bool) -> None:
        super().__init__()
        act = nn.GELU if norm == "layer" else nn.LeakyReLU if norm == "instance" else nn.ReLU
        bias = norm in ("none", "layer")
        self.first = nn.Conv2d(inputs, outputs, 3, padding=1, bias=bias)
        self.norm1, self.act1 = NORMS[norm](outputs), act()
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1, bias=bias)
        self.norm2, self.act2 = NORMS[norm](outputs), act()
        self.shortcut = nn.Conv2d(inputs, outputs, 1) if shortcut else None

    def forward(self, x: Tensor) -> Tensor:
        """Keep the spatial size."""
        y = self.norm2(self.second(self.act1(self.norm1(self.first(x)))))
        return cast(Tensor, self.act2(y if self.shortcut is None else y + self.shortcut(x)))


class UNet(nn.Module):
    """A U-Net whose norm, blocks, way up and bottleneck can be chosen.

    Args:
        inputs: Channels of the images.
        outputs: Channels of the answer.
        width: Channels of the first level; they double with every level.
        levels: Number of levels.
        norm: One of `NORMS`.
        residual: Blocks with shortcuts, strided convolutions down, skips that are added.
        gated: What comes from below is multiplied by a learned scalar that starts at 0, and added.
        tokens: A transformer layer at the bottleneck.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        width: int,
        levels: int,
        norm: str,
        *,
        residual: bool = False,
        gated: bool = False,
        tokens: bool = False,
    ) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(levels)]
        self.add = residual or gated
        self.encoder = nn.ModuleList(
            Block(a, b, norm, shortcut=residual)
            for a, b in zip([inputs, *widths[:-1]], widths, strict=True)
        )
        if tokens:
            self.encoder[-1] = nn.Sequential(self.encoder[-1], Tokens(widths[-1]))
        self.down = nn.ModuleList(
            nn.Conv2d(c, c, 2, stride=2) if residual else nn.MaxPool2d(2) for c in widths[:-1]
        )
        self.up = nn.ModuleList(
            nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(2 * c, c, 1))
            if self.add
            else nn.ConvTranspose2d(2 * c, c, 2, stride=2)
            for c in widths[:-1]
        )
        self.gates = nn.Parameter(torch.zeros(levels - 1)) if gated else None
        self.decoder = nn.ModuleList(
            Block(c if self.add else 2 * c, c, norm, shortcut=residual) for c in widths[:-1]
        )
        self.head = nn.Conv2d(width, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, outputs, H, W)."""
        skips = []
        for stage, down in zip(self.encoder, self.down, strict=False):
            x = stage(x)
            skips.append(x)
            x = down(x)
        x = self.encoder[-1](x)
        for level in reversed(range(len(self.decoder))):
            below = self.up[level](x)
            if self.gates is not None:
                below = self.gates[level] * below
            joined = skips[level] + below if self.add else torch.cat([skips[level], below], 1)
            x = self.decoder[level](joined)
        return cast(Tensor, self.head(x))

    def taps(self) -> Taps:
        """What comes back from each level."""
        last = len(self.decoder)
        return {
            2**i: [self.decoder[i] if i < last else self.encoder[i]] for i in range(1, last + 1)
        }


class Pyramid(nn.Module):
    """A feature pyramid: every level is brought to full resolution and added before the head."""

    def __init__(self, inputs: int, outputs: int, width: int, levels: int) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(levels)]
        self.encoder = nn.ModuleList(
            Block(a, b, "group", shortcut=False)
            for a, b in zip([inputs, *widths[:-1]], widths, strict=True)
        )
        self.lateral = nn.ModuleList(nn.Conv2d(c, 2 * width, 1) for c in widths)
        self.top = nn.ModuleList(nn.Identity() for _ in widths)
        self.smooth = nn.ModuleList(
            nn.Sequential(nn.Conv2d(2 * width, 2 * width, 3, padding=1), nn.ReLU()) for _ in widths
        )
        self.head = nn.Conv2d(2 * width, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, outputs, H, W)."""
        size, features = x.shape[2:], []
        for level, stage in enumerate(self.encoder):
            x = stage(x if level == 0 else F.max_pool2d(x, 2))
            features.append(x)
        below, total = None, 0.0
        for level in reversed(range(len(features))):
            y = self.lateral[level](features[level])
            if below is not None:
                y = y + F.interpolate(below, scale_factor=2.0)
            below = self.top[level](y)
            total = total + F.interpolate(self.smooth[level](below), size=size, mode="bilinear")
        return cast(Tensor, self.head(total))

    def taps(self) -> Taps:
        """What comes back from each level: its sum, and the answers of it and all deeper ones."""
        count = len(self.top)
        return {
            2**i: [self.top[i], *(self.smooth[j] for j in range(i, count))] for i in range(1, count)
        }


@dataclass(frozen=True)
class Design:
    """How a network is built and where its levels come back.

    Attributes:
        build: ``(inputs, outputs, width, levels) -> network``.
        taps: ``network -> Taps``.
        encoder: Prefixes of the parameters that a frozen encoder freezes.
    """

    build: Callable[[int, int, int, int], nn.Module]
    taps: Callable[[nn.Module], Taps]
    encoder: tuple[str, ...] = ("encoder.",)


def _own(norm: str, *, residual: bool = False, gated: bool = False, tokens: bool = False) -> Design:
    return Design(
        lambda i, o, w, n: UNet(i, o, w, n, norm, residual=residual, gated=gated, tokens=tokens),
        lambda model: cast(UNet, model).taps(),
    )


def _zoo_taps(model: nn.Module) -> Taps:
    decoder = list(cast(nn.ModuleList, model.decoder))
    below = [*decoder[1:], cast(nn.Module, model.bottleneck)]
    return {2 ** (i + 1): [module] for i, module in enumerate(below)}


def _unet(inputs: int, outputs: int, width: int, levels: int) -> nn.Module:
    pairs = tuple((width * 2**i, width * 2**i) for i in range(levels))
    return mpseg_models.create_model(
        "unet", encoder=pairs[:-1], bottleneck=pairs[-1], decoder=pairs[:-1],
        in_channels=inputs, classes=outputs,
    )  # fmt: skip


def _multiresunet(inputs: int, outputs: int, width: int, levels: int) -> nn.Module:
    channels = tuple(width * 2**i for i in range(levels))
    return mpseg_models.create_model(
        "multiresunet", encoder=channels[:-1], bottleneck=channels[-1], decoder=channels[:-1],
        respath=(1,) * (levels - 1), in_channels=inputs, classes=outputs,
    )  # fmt: skip


def _smp_unet(inputs: int, outputs: int, width: int, levels: int) -> nn.Module:
    from segmentation_models_pytorch import Unet

    return Unet(
        "resnet18", encoder_weights=None, encoder_depth=levels - 1, in_channels=inputs,
        decoder_channels=[width * 2**i for i in range(levels - 1)][::-1], classes=outputs,
    )  # fmt: skip


def _smp_unet_taps(model: nn.Module) -> Taps:
    blocks = list(model.decoder.blocks)  # type: ignore[union-attr, arg-type]
    deepest = getattr(model.encoder, f"layer{len(blocks) - 1}")
    back = [deepest, *blocks[:-1]]
    return {2 ** (len(blocks) - i): [module] for i, module in enumerate(back)}


def _smp_fpn(inputs: int, outputs: int, width: int, _levels: int) -> nn.Module:
    from segmentation_models_pytorch import FPN

    return FPN(
        "mobilenet_v2", encoder_weights=None, in_channels=inputs, classes=outputs,
        decoder_pyramid_channels=4 * width, decoder_segmentation_channels=32,
    )  # fmt: skip


def _smp_fpn_taps(model: nn.Module) -> Taps:
    decoder, back, taps = model.decoder, [], {}
    for index, (name, reduction) in enumerate({"p5": 32, "p4": 16, "p3": 8, "p2": 4}.items()):
        back.append(decoder.seg_blocks[index])  # type: ignore[union-attr, index]
        taps[reduction] = [getattr(decoder, name), *back]
    return cast(Taps, taps)


DESIGNS = {
    "unet": Design(_unet, _zoo_taps, ("encoder.", "bottleneck.")),
    "plain": _own("none"),
    "batch": _own("batch"),
    "group": _own("group"),
    "residual": _own("batch", residual=True),
    "gated": _own("group", gated=True),
    "tokens": _own("batch", tokens=True),
    "smp_unet": Design(_smp_unet, _smp_unet_taps),
    "multiresunet": Design(_multiresunet, _zoo_taps, ("stem.", "encoder.", "bottleneck.")),
    "pyramid": Design(Pyramid, lambda model: cast(Pyramid, model).taps()),
    "layer": _own("layer"),
    "instance": _own("instance"),
    "smp_fpn": Design(_smp_fpn, _smp_fpn_taps),
}
