"""Networks of many kinds, written by hand as their papers describe them, each with its truth.

Layers are named for what they are, so that their place can be read off; the truth beside a network
was written before weightscope was first run on it, by the definitions of ``matrix.truth``.
"""

from __future__ import annotations

import math
from collections import namedtuple
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

from matrix.truth import Reduction, Truth

Model = TypeVar("Model", bound=type[nn.Module])


@dataclass(frozen=True)
class Kind:
    """A hand-written network: how to build and call it, and what is right about it."""

    build: Callable[[], nn.Module]
    truth: Truth
    settings: Mapping[str, Any]


KINDS: dict[str, Kind] = {}


def kind(
    name: str,
    reductions: tuple[Reduction, ...],
    places: Mapping[str, str],
    legal: tuple[int, ...],
    *,
    refusal: tuple[str, ...] = (),
    **settings: Any,
) -> Callable[[Model], Model]:
    """Add a network under a name, with its truth and with settings of its matrix entry."""

    def add(model: Model) -> Model:
        truth = Truth(reductions, places, legal, refusal)
        KINDS[f"by hand: {name}"] = Kind(model, truth, settings)
        return model

    return add


def conv(channels: int, out: int, stride: int = 1) -> nn.Sequential:
    """A 3x3 convolution with batch norm and ReLU."""
    layer = nn.Conv2d(channels, out, 3, stride, 1)
    return nn.Sequential(layer, nn.BatchNorm2d(out), nn.ReLU())


def up(x: Tensor, scale: float = 2.0) -> Tensor:
    """Bilinear, twice as large."""
    return F.interpolate(x, scale_factor=scale, mode="bilinear", align_corners=False)


UNET = {
    "top": "encoder 0",
    "middle": "encoder 1",
    "deep": "bottleneck",
    "up1": "decoder 1",
    "up0": "decoder 0",
    "out": "head",
}


class UNet(nn.Module):
    """Three levels of one convolution each: what most kinds below are varied from."""

    def __init__(self, channels: int = 3, out: int = 2) -> None:
        super().__init__()
        self.top, self.middle, self.deep = conv(channels, 8), conv(8, 16), conv(16, 32)
        self.up1, self.up0, self.out = conv(48, 16), conv(24, 8), nn.Conv2d(8, out, 1)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features at the three levels."""
        top = self.top(x)
        middle = self.middle(F.max_pool2d(top, 2))
        return top, middle, self.deep(F.max_pool2d(middle, 2))

    def decode(self, top: Tensor, middle: Tensor, deep: Tensor) -> Tensor:
        """Features at full resolution."""
        x = self.up1(torch.cat([up(deep), middle], 1))
        return self.up0(torch.cat([up(x), top], 1))

    def forward(self, x: Tensor) -> Any:
        """Map (B, C, H, W) to (B, 2, H, W)."""
        return self.out(self.decode(*self.encode(x)))


# parallel resolutions, indices, cascades ----------------------------------------------------------
@kind(
    "HRNet",
    (1, 2, 4),
    {
        "stem": "encoder 0",
        "down1": "encoder 1",
        "branch0": "encoder 0",
        "branch1": "encoder 1",
        # on its way up only
        "up10": "skip 1",
        "down01": "encoder 1",
        "down2": "bottleneck",
        "late0": "decoder 0",
        "late1": "skip 1",
        "late2": "bottleneck",
        "out": "head",
    },
    (1, 2),
)
class HRNet(nn.Module):
    """Parallel resolutions that exchange, then everything at full resolution."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.down1 = conv(3, 8), conv(8, 16, 2)
        self.branch0, self.branch1 = conv(8, 8), conv(16, 16)
        self.up10, self.down01 = nn.Conv2d(16, 8, 1), nn.Conv2d(8, 16, 3, 2, 1)
        self.down2 = conv(16, 32, 2)
        self.late0, self.late1, self.late2 = conv(8, 8), conv(16, 16), conv(32, 32)
        self.out = nn.Conv2d(56, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 3, H, W) to (B, 2, H, W)."""
        first = self.stem(x)
        fine, coarse = self.branch0(first), self.branch1(self.down1(first))
        mixed = F.relu(fine + up(self.up10(coarse)))
        mixed_coarse = F.relu(coarse + self.down01(fine))
        deepest = self.late2(self.down2(mixed_coarse))
        parts = [self.late0(mixed), up(self.late1(mixed_coarse)), up(deepest, 4.0)]
        return self.out(torch.cat(parts, 1))


@kind(
    "SegNet",
    (1, 2, 4),
    {**UNET, "up1": "decoder 1", "up0": "decoder 0"},
    (1, 2),
)
class SegNet(nn.Module):
    """Unpools with the indices of the pooling at the same level."""

    def __init__(self) -> None:
        super().__init__()
        self.top, self.middle, self.deep = conv(3, 8), conv(8, 8), conv(8, 8)
        self.up1, self.up0, self.out = conv(8, 8), conv(8, 8), nn.Conv2d(8, 2, 1)
        self.pool, self.unpool = nn.MaxPool2d(2, return_indices=True), nn.MaxUnpool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 3, H, W) to (B, 2, H, W)."""
        x, first = self.pool(self.top(x))
        x, second = self.pool(self.middle(x))
        x = self.up1(self.unpool(self.deep(x), second))
        return self.out(self.up0(self.unpool(x, first)))


@kind(
    "ENet",
    (1, 2, 4),
    {
        "initial": "encoder 1",
        "down": "bottleneck",
        "side": "bottleneck",
        "widen": "bottleneck",
        "up_main": "bottleneck",
        "up_side": "decoder 1",
        "full": "decoder 0 | head",
    },
    (1, 2),
)
class ENet(nn.Module):
    """A pooled and a strided branch side by side; the indices of the pooling unpool above."""

    def __init__(self) -> None:
        super().__init__()
        self.initial = nn.Conv2d(3, 13, 3, 2, 1)
        self.down, self.side = nn.Conv2d(16, 32, 2, 2), conv(32, 32)
        self.widen = nn.Conv2d(32, 32, 1)
        self.up_main = nn.Conv2d(32, 16, 1)
        self.up_side = nn.ConvTranspose2d(32, 16, 2, 2)
        self.full = nn.ConvTranspose2d(16, 2, 2, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 3, H, W) to (B, 2, H, W)."""
        x = torch.cat([self.initial(x), F.max_pool2d(x, 2)], 1)
        pooled, indices = F.max_pool2d(x, 2, return_indices=True)
        padded = F.pad(pooled, (0, 0, 0, 0, 0, 16))
        deep = F.relu(padded + self.widen(self.side(self.down(x))))
        main = F.max_unpool2d(self.up_main(deep), indices, 2)
        return self.full(F.relu(main + self.up_side(deep)))


class RSU(nn.Module):
    """A U-net inside a block, with a residual around it."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.enter, self.inner = conv(channels, out), conv(out, out)
        self.low, self.join = conv(out, out), conv(2 * out, out)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C', H, W)."""
        first = self.enter(x)
        inner = self.inner(first)
        low = self.low(F.max_pool2d(inner, 2))
        return first + self.join(torch.cat([up(low), inner], 1))


@kind(
    "U2-Net",
    (1, 2, 4),
    # a block's inside strays one level deeper and comes back: the block lies where it ends
    {**UNET, "side2": "bottleneck", "side1": "decoder 1", "side0": "decoder 0", "fuse": "head"},
    (1, 2),
)
class U2Net(nn.Module):
    """U-nets as the blocks of a U-net; a map from every level, fused."""

    def __init__(self) -> None:
        super().__init__()
        self.top, self.middle = RSU(3, 8), RSU(8, 16)
        self.deep = conv(16, 32)
        self.up1, self.up0 = RSU(48, 16), RSU(24, 8)
        self.side2, self.side1 = nn.Conv2d(32, 1, 3, 1, 1), nn.Conv2d(16, 1, 3, 1, 1)
        self.side0, self.fuse = nn.Conv2d(8, 1, 3, 1, 1), nn.Conv2d(3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 3, H, W) to (B, 1, H, W)."""
        top = self.top(x)
        middle = self.middle(F.max_pool2d(top, 2))
        deep = self.deep(F.max_pool2d(middle, 2))
        one = self.up1(torch.cat([up(deep), middle], 1))
        zero = self.up0(torch.cat([up(one), top], 1))
        sides = [self.side0(zero), up(self.side1(one)), up(self.side2(deep), 4.0)]
        return torch.sigmoid(self.fuse(torch.cat(sides, 1)))


class Hourglass(nn.Module):
    """Down one level and back, beside a skip."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.skip, self.low = conv(channels, channels), conv(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Keep (B, C, H, W)."""
        return self.skip(x) + F.interpolate(self.low(F.max_pool2d(x, 2)), scale_factor=2.0)


@kind(
    "stacked hourglass",
    (1, 2, 4),
    {
        "stem": "encoder 1",
        "first.skip": "skip 1",
        "first.low": "bottleneck",
        "heat": "decoder 1",
        "back": "decoder 1",
        "second.skip": "decoder 1",
        "second.low": "bottleneck",
        "out": "head",
    },
    # the heat maps are made at half of the resolution
    (2,),
)
class StackedHourglass(nn.Module):
    """Pose: two hourglasses, the first one's heat maps fed to the second."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 16, 2)
        self.first, self.second = Hourglass(16), Hourglass(16)
        self.heat, self.back = nn.Conv2d(16, 5, 1), nn.Conv2d(5, 16, 1)
        self.out = nn.Conv2d(16, 5, 1)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Map (B, 3, H, W) to two stacks of heat maps (B, 5, H / 2, W / 2)."""
        x = self.stem(x)
        first = self.first(x)
        heat = self.heat(first)
        second = self.second(x + first + self.back(heat))
        return [heat, self.out(second)]


@kind(
    "W-net",
    (1, 2, 4),
    {
        **{f"first.{layer}": place for layer, place in UNET.items()},
        "first.out": "decoder 0",
        "second.top": "decoder 0",
        "second.middle": "decoder 1",
        "second.deep": "bottleneck",
        "second.up1": "decoder 1",
        "second.up0": "decoder 0",
        "second.out": "head",
    },
    (1, 2),
)
class WNet(nn.Module):
    """A U-net that segments, and one that makes the image of the segments."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = UNet(3, 4), UNet(4, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map (B, 3, H, W) to segments and image."""
        segments = torch.softmax(self.first(x), 1)
        return segments, self.second(segments)


# generative -------------------------------------------------------------------------------------
@kind(
    "VAE with a map in the middle",
    (1, 2, 4),
    {
        "down1": "encoder 1",
        "down2": "bottleneck",
        "mean": "bottleneck",
        "log_variance": "bottleneck",
        "up1": "decoder 1",
        "up0": "decoder 0 | head",
    },
    (1, 2),
)
class MapVAE(nn.Module):
    """Samples a latent map, and returns its parameters beside the image."""

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2 = conv(3, 16, 2), conv(16, 32, 2)
        self.mean, self.log_variance = nn.Conv2d(32, 4, 1), nn.Conv2d(32, 4, 1)
        self.up1, self.up0 = nn.ConvTranspose2d(4, 16, 2, 2), nn.ConvTranspose2d(16, 3, 2, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Map (B, 3, H, W) to an image, means and log variances."""
        x = self.down2(self.down1(x))
        mean, log_variance = self.mean(x), self.log_variance(x)
        latent = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
        return self.up0(F.relu(self.up1(latent))), mean, log_variance


@kind(
    "diffusion, time first",
    (1, 2, 4),
    # one vector of the time for the two levels that it is added to
    {**UNET, "embed": "encoder 1 | bottleneck", "embed_deep": "encoder 2 | bottleneck"},
    (1, 2),
    arrange=lambda x: (torch.linspace(0.1, 0.9, len(x)), x),
)
class TimeFirst(UNet):
    """A denoiser called as ``forward(t, x)``."""

    def __init__(self) -> None:
        super().__init__(3, 3)
        self.embed, self.embed_deep = nn.Linear(1, 16), nn.Linear(1, 32)

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        """Map times (B,) and (B, 3, H, W) to noise of the same shape."""
        time = t.reshape(-1, 1).to(x.dtype)
        top = self.top(x)
        middle = self.middle(F.max_pool2d(top, 2)) + self.embed(time)[:, :, None, None]
        deep = self.deep(F.max_pool2d(middle, 2)) + self.embed_deep(time)[:, :, None, None]
        return self.out(self.decode(top, middle, deep))


@kind(
    "CycleGAN generator",
    (1, 2, 4),
    {
        "stem": "encoder 0",
        "down1": "encoder 1",
        "down2": "bottleneck",
        "blocks": "bottleneck",
        "up1": "decoder 1",
        "up0": "decoder 0",
        "out": "head",
    },
    (1, 2),
)
class CycleGAN(nn.Module):
    """Reflection padding, residual blocks at the bottom, no skip connection."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 7)
        self.down1, self.down2 = nn.Conv2d(8, 16, 3, 2, 1), nn.Conv2d(16, 32, 3, 2, 1)
        self.blocks = nn.ModuleList(nn.Conv2d(32, 32, 3) for _ in range(3))
        self.up1 = nn.ConvTranspose2d(32, 16, 3, 2, 1, output_padding=1)
        self.up0 = nn.ConvTranspose2d(16, 8, 3, 2, 1, output_padding=1)
        self.out = nn.Conv2d(8, 3, 7)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 3, H, W) to (B, 3, H, W)."""
        x = F.relu(F.instance_norm(self.stem(F.pad(x, (3, 3, 3, 3), mode="reflect"))))
        x = F.relu(F.instance_norm(self.down1(x)))
        x = F.relu(F.instance_norm(self.down2(x)))
        for block in self.blocks:
            x = x + F.relu(F.instance_norm(block(F.pad(x, (1, 1, 1, 1), mode="reflect"))))
        x = F.relu(F.instance_norm(self.up1(x)))
        x = F.relu(F.instance_norm(self.up0(x)))
        return torch.tanh(self.out(F.pad(x, (3, 3, 3, 3), mode="reflect")))


# restoration ------------------------------------------------------------------------------------
class NAFBlock(nn.Module):
    """Layer norm over channels, simple gate, channel attention."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.widen, self.depthwise = (
            nn.Conv2d(channels, 2 * channels, 1),
            nn.Conv2d(2 * channels, 2 * channels, 3, 1, 1, groups=2 * channels),
        )
        self.attend, self.narrow = (
            nn.Conv2d(channels, channels, 1),
            nn.Conv2d(channels, channels, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Keep (B, C, H, W)."""
        y = self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        left, right = self.depthwise(self.widen(y)).chunk(2, 1)
        y = left * right
        return x + self.narrow(y * self.attend(F.adaptive_avg_pool2d(y, 1)))


@kind(
    "NAFNet",
    (1, 2, 4),
    {
        "intro": "encoder 0",
        "block0": "encoder 0",
        "down1": "encoder 1",
        "block1": "encoder 1",
        "down2": "bottleneck",
        "block2": "bottleneck",
        # a 1x1 convolution before the pixels are shuffled up
        "lift1": "bottleneck",
        "up1": "decoder 1",
        "lift0": "decoder 1",
        "up0": "decoder 0",
        "out": "head",
    },
    (1, 2),
    other=(70, 90),
)
class NAFNet(nn.Module):
    """Pads to a multiple of four, adds what it finds to the image, crops."""

    def __init__(self) -> None:
        super().__init__()
        self.intro, self.block0 = nn.Conv2d(3, 8, 3, 1, 1), NAFBlock(8)
        self.down1, self.block1 = nn.Conv2d(8, 16, 2, 2), NAFBlock(16)
        self.down2, self.block2 = nn.Conv2d(16, 32, 2, 2), NAFBlock(32)
        self.lift1, self.lift0 = nn.Conv2d(32, 64, 1), nn.Conv2d(16, 32, 1)
        self.up1, self.up0 = NAFBlock(16), NAFBlock(8)
        self.out = nn.Conv2d(8, 3, 3, 1, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Map (B, 3, H, W) to (B, 3, H, W)."""
        height, width = image.shape[2:]
        padded = F.pad(image, (0, (4 - width % 4) % 4, 0, (4 - height % 4) % 4))
        zero = self.block0(self.intro(padded))
        one = self.block1(self.down1(zero))
        two = self.block2(self.down2(one))
        x = self.up1(F.pixel_shuffle(self.lift1(two), 2) + one)
        x = self.up0(F.pixel_shuffle(self.lift0(x), 2) + zero)
        return (self.out(x) + padded)[..., :height, :width]


@kind(
    "wavelet U-net",
    (1, 2),
    {"top": "encoder 0", "deep": "bottleneck", "up": "decoder 0", "out": "head"},
    (1,),
)
class WaveletUNet(nn.Module):
    """Haar bands of four pixels down; back up by writing into every second position."""

    def __init__(self) -> None:
        super().__init__()
        self.top, self.deep = conv(3, 8), conv(32, 32)
        self.up, self.out = conv(8, 8), nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 3, H, W) to (B, 3, H, W)."""
        top = self.top(x)
        a, b = top[..., ::2, ::2], top[..., 1::2, ::2]
        c, d = top[..., ::2, 1::2], top[..., 1::2, 1::2]
        bands = torch.cat([a + b + c + d, a - b + c - d, a + b - c - d, a - b - c + d], 1)
        deep = self.deep(bands).chunk(4, 1)
        y = torch.zeros_like(top)
        y[..., ::2, ::2], y[..., 1::2, ::2] = deep[0], deep[1]
        y[..., ::2, 1::2], y[..., 1::2, 1::2] = deep[2], deep[3]
        return self.out(self.up(y + top))


# one dimension ----------------------------------------------------------------------------------
@kind(
    "Demucs, padded by a formula",
    (1, 4, 16),
    {
        "down1": "encoder 1",
        "gate1": "encoder 1",
        "down2": "bottleneck",
        "gate2": "bottleneck",
        "widen2": "bottleneck",
        "up1": "decoder 1",
        "widen1": "decoder 1",
        "up0": "decoder 0 | head",
    },
    (1, 2),
    channels=2,
    size=(256,),
    other=(403,),
)
class Demucs(nn.Module):
    """Pads to a length that kernels of 8 and strides of 4 divide, and crops at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.gate1 = nn.Conv1d(2, 16, 8, 4), nn.Conv1d(16, 32, 1)
        self.down2, self.gate2 = nn.Conv1d(16, 32, 8, 4), nn.Conv1d(32, 64, 1)
        self.widen2, self.up1 = nn.Conv1d(32, 64, 1), nn.ConvTranspose1d(32, 16, 8, 4)
        self.widen1, self.up0 = nn.Conv1d(16, 32, 1), nn.ConvTranspose1d(16, 2, 8, 4)

    def valid(self, length: int) -> int:
        """The next length that fits."""
        for _ in range(2):
            length = max(1, math.ceil((length - 8) / 4) + 1)
        for _ in range(2):
            length = (length - 1) * 4 + 8
        return length

    def forward(self, wave: Tensor) -> Tensor:
        """Map (B, 2, L) to (B, 2, L)."""
        length = wave.shape[-1]
        x = F.pad(wave, (0, self.valid(length) - length))
        one = F.glu(self.gate1(F.relu(self.down1(x))), 1)
        two = F.glu(self.gate2(F.relu(self.down2(one))), 1)
        y = F.relu(self.up1(F.glu(self.widen2(two), 1)))
        y = self.up0(F.glu(self.widen1(y + one[..., : y.shape[-1]]), 1))
        return y[..., :length]


@kind(
    "Wave-U-Net",
    (1, 2, 4),
    UNET,
    (1, 2),
    channels=1,
    size=(256,),
    other=(384,),
)
class WaveUNet(nn.Module):
    """Keeps every second sample going down, interpolates going up."""

    def __init__(self) -> None:
        super().__init__()
        self.top, self.middle = nn.Conv1d(1, 8, 15, 1, 7), nn.Conv1d(8, 16, 15, 1, 7)
        self.deep = nn.Conv1d(16, 24, 15, 1, 7)
        self.up1, self.up0 = nn.Conv1d(40, 16, 5, 1, 2), nn.Conv1d(24, 8, 5, 1, 2)
        self.out = nn.Conv1d(9, 1, 1)

    def forward(self, wave: Tensor) -> Tensor:
        """Map (B, 1, L) to (B, 1, L)."""
        top = F.leaky_relu(self.top(wave))
        middle = F.leaky_relu(self.middle(top[..., ::2]))
        deep = F.leaky_relu(self.deep(middle[..., ::2]))
        x = F.interpolate(deep, scale_factor=2.0, mode="linear")
        x = F.leaky_relu(self.up1(torch.cat([x, middle], 1)))
        x = F.interpolate(x, scale_factor=2.0, mode="linear")
        x = F.leaky_relu(self.up0(torch.cat([x, top], 1)))
        return torch.tanh(self.out(torch.cat([x, wave], 1)))


@kind("ECG U-net, pooled", (1, 2, 4), UNET, (1, 2), channels=1, size=(256,), other=(320,))
class ECG(nn.Module):
    """Pooled signals, transposed convolutions."""

    def __init__(self) -> None:
        super().__init__()

        def pair(channels: int, out: int) -> nn.Sequential:
            return nn.Sequential(nn.Conv1d(channels, out, 9, 1, 4), nn.BatchNorm1d(out), nn.ReLU())

        self.pool = nn.MaxPool1d(2)
        self.top, self.middle, self.deep = pair(1, 8), pair(8, 16), pair(16, 32)
        self.up1 = nn.ModuleList([nn.ConvTranspose1d(32, 16, 2, 2), pair(32, 16)])
        self.up0 = nn.ModuleList([nn.ConvTranspose1d(16, 8, 2, 2), pair(16, 8)])
        self.out = nn.Conv1d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 1, L) to (B, 4, L)."""
        top = self.top(x)
        middle = self.middle(self.pool(top))
        x = self.deep(self.pool(middle))
        x = self.up1[1](torch.cat([self.up1[0](x), middle], 1))
        return self.out(self.up0[1](torch.cat([self.up0[0](x), top], 1)))


@kind(
    "speech U-net with a GRU",
    ((1, 1), (1, 2), (1, 4)),
    {
        "down1": "encoder 1",
        "down2": "bottleneck",
        "over_time": "bottleneck",
        "up1": "decoder 1",
        "up0": "decoder 0 | head",
    },
    (1, 2),
    channels=1,
    size=(20, 64),
    other=None,
    given=True,
)
class SpeechUNet(nn.Module):
    """Strides along frequency only, a recurrent layer over time in the middle."""

    def __init__(self) -> None:
        super().__init__()
        self.down1 = nn.Conv2d(1, 8, (1, 4), (1, 2), (0, 1))
        self.down2 = nn.Conv2d(8, 16, (1, 4), (1, 2), (0, 1))
        self.over_time = nn.GRU(256, 256, batch_first=True)
        self.up1 = nn.ConvTranspose2d(32, 8, (1, 4), (1, 2), (0, 1))
        self.up0 = nn.ConvTranspose2d(16, 1, (1, 4), (1, 2), (0, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 1, time, 64) to (B, 1, time, 64)."""
        one = F.elu(self.down1(x))
        two = F.elu(self.down2(one))
        batch, channels, time, bins = two.shape
        rows = two.permute(0, 2, 1, 3).reshape(batch, time, channels * bins)
        seen = self.over_time(rows)[0].view(batch, time, channels, bins).permute(0, 2, 1, 3)
        x = F.elu(self.up1(torch.cat([seen, two], 1)))
        return self.up0(torch.cat([x, one], 1))


# layouts ----------------------------------------------------------------------------------------
@kind("channels last", (1, 2, 4), UNET, (1, 2), arrange=lambda x: x.movedim(1, -1), given=True)
class ChannelsLast(UNet):
    """Takes and returns (batch, height, width, channels)."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, 3) to (B, H, W, 2)."""
        return super().forward(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


@kind("clips", (1, 2, 4), UNET, (1, 2), arrange=lambda x: torch.stack([x, -x], 1), given=True)
class Clips(UNet):
    """Takes (batch, time, channels, height, width) and runs each frame by itself."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, 3, H, W) to (B, T, 2, H, W)."""
        batch, time = x.shape[:2]
        y = super().forward(x.flatten(0, 1))
        return y.view(batch, time, *y.shape[1:])


@kind("no channel axis", (1, 2, 4), UNET, (1, 2), arrange=lambda x: x[:, 0], given=True)
class Gray(UNet):
    """Takes gray images without a channel axis."""

    def __init__(self) -> None:
        super().__init__(1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W) to (B, 2, H, W)."""
        return super().forward(x.unsqueeze(1))


# segmentation in other shapes -------------------------------------------------------------------
@kind(
    "change detection",
    (1, 2, 4),
    UNET,
    (1, 2),
    arrange=lambda x: (x, x.flip(0)),
)
class ChangeDetection(UNet):
    """Two dates through one encoder; the decoder sees the differences."""

    def forward(self, before: Tensor, after: Tensor) -> Tensor:
        """Map two (B, 3, H, W) to (B, 2, H, W)."""
        pairs = zip(self.encode(before), self.encode(after), strict=True)
        return self.out(self.decode(*[(a - b).abs() for a, b in pairs]))


@kind(
    "RGB and depth",
    (1, 2, 4),
    {**UNET, "depth_top": "encoder 0", "depth_middle": "encoder 1"},
    (1, 2),
    arrange=lambda x: (x, x[:, :1]),
)
class RGBD(UNet):
    """A second, narrower encoder for the depth, added level by level."""

    def __init__(self) -> None:
        super().__init__()
        self.depth_top, self.depth_middle = conv(1, 8), conv(8, 16)

    def forward(self, rgb: Tensor, depth: Tensor) -> Tensor:
        """Map (B, 3, H, W) and (B, 1, H, W) to (B, 2, H, W)."""
        near = self.depth_top(depth)
        top = self.top(rgb) + near
        middle = self.middle(F.max_pool2d(top, 2)) + self.depth_middle(F.max_pool2d(near, 2))
        return self.out(self.decode(top, middle, self.deep(F.max_pool2d(middle, 2))))


@kind(
    "attention gates",
    (1, 2, 4),
    {
        **UNET,
        "skip1": "skip 1",
        "gate1": "bottleneck",
        "psi1": "decoder 1",
    },
    (1, 2),
)
class AttentionUNet(UNet):
    """The deeper map decides what of the skip passes."""

    def __init__(self) -> None:
        super().__init__()
        self.skip1, self.gate1 = nn.Conv2d(16, 8, 1), nn.Conv2d(32, 8, 1)
        self.psi1 = nn.Conv2d(8, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 3, H, W) to (B, 2, H, W)."""
        top, middle, deep = self.encode(x)
        gate = F.relu(self.skip1(middle) + up(self.gate1(deep)))
        return self.out(self.decode(top, middle * torch.sigmoid(self.psi1(gate)), deep))


@kind(
    "UNet 3+",
    (1, 2, 4),
    {
        "top": "encoder 0",
        "middle": "encoder 1",
        "deep": "bottleneck",
        # from the finer encoder level, pooled down to the decoder's
        "down01": "skip 1",
        "same1": "skip 1",
        "from2": "decoder 1",
        "up1": "decoder 1",
        "same0": "skip 0",
        "from1": "decoder 0",
        "from2to0": "decoder 0",
        "up0": "decoder 0",
        "out": "head",
    },
    (1, 2),
)
class UNet3Plus(nn.Module):
    """Every decoder level reads every other level."""

    def __init__(self) -> None:
        super().__init__()
        self.top, self.middle, self.deep = conv(3, 8), conv(8, 16), conv(16, 32)
        self.down01, self.same1, self.from2 = conv(8, 8), conv(16, 8), conv(32, 8)
        self.up1 = conv(24, 24)
        self.same0, self.from1, self.from2to0 = conv(8, 8), conv(24, 8), conv(32, 8)
        self.up0, self.out = conv(24, 24), nn.Conv2d(24, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 3, H, W) to (B, 2, H, W)."""
        top = self.top(x)
        middle = self.middle(F.max_pool2d(top, 2))
        deep = self.deep(F.max_pool2d(middle, 2))
        ones = [self.down01(F.max_pool2d(top, 2)), self.same1(middle), self.from2(up(deep))]
        one = self.up1(torch.cat(ones, 1))
        zeros = [self.same0(top), self.from1(up(one)), self.from2to0(up(deep, 4.0))]
        return self.out(self.up0(torch.cat(zeros, 1)))


@kind(
    "FCN-8s",
    (1, 2, 4, 8),
    {
        "block1": "encoder 1",
        "block2": "encoder 2",
        "block3": "bottleneck",
        "score3": "bottleneck",
        "score2": "skip 2",
        "score1": "skip 1",
        # bilinear kernels: transposed convolutions that raise the scores
        "raise3": "decoder 2",
        "raise2": "decoder 1",
        "raise1": "decoder 0 | head",
    },
    (1, 2, 3),
)
class FCN8(nn.Module):
    """Scores at three resolutions, added and raised by transposed convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.block1, self.block2, self.block3 = conv(3, 8, 2), conv(8, 16, 2), conv(16, 32, 2)
        self.score1, self.score2, self.score3 = (nn.Conv2d(c, 2, 1) for c in (8, 16, 32))
        self.raise1, self.raise2, self.raise3 = (
            nn.ConvTranspose2d(2, 2, 4, 2, 1, bias=False) for _ in range(3)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 3, H, W) to (B, 2, H, W)."""
        one = self.block1(x)
        two = self.block2(one)
        x = self.raise3(self.score3(self.block3(two))) + self.score2(two)
        return self.raise1(self.raise2(x) + self.score1(one))


@kind(
    "BiSeNet",
    (1, 2, 4, 8),
    {
        # it feeds a deeper convolution on its way
        "spatial1": "encoder 1",
        "spatial2": "skip 2",
        "context1": "encoder 1",
        "context2": "encoder 2",
        "context3": "bottleneck",
        "attend": "bottleneck",
        "fuse": "decoder 2",
        "weigh": "decoder 2",
        "out": "head",
    },
    # the head predicts at a quarter
    (3,),
)
class BiSeNet(nn.Module):
    """A shallow path for detail and a deep one for context, fused at a quarter."""

    def __init__(self) -> None:
        super().__init__()
        self.spatial1, self.spatial2 = conv(3, 8, 2), conv(8, 16, 2)
        self.context1, self.context2 = conv(3, 8, 2), conv(8, 16, 2)
        self.context3, self.attend = conv(16, 32, 2), nn.Conv2d(32, 32, 1)
        self.fuse, self.weigh = conv(48, 16), nn.Conv2d(16, 16, 1)
        self.out = nn.Conv2d(16, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 3, H, W) to (B, 2, H, W)."""
        detail = self.spatial2(self.spatial1(x))
        context = self.context3(self.context2(self.context1(x)))
        context = context * torch.sigmoid(self.attend(F.adaptive_avg_pool2d(context, 1)))
        fused = self.fuse(torch.cat([detail, up(context)], 1))
        fused = fused + fused * torch.sigmoid(self.weigh(fused.mean((2, 3), keepdim=True)))
        return F.interpolate(self.out(fused), size=x.shape[2:], mode="bilinear")


@kind(
    "image pyramid",
    (1, 2, 4),
    {**UNET, "halved": "encoder 1", "quartered": "bottleneck"},
    (1, 2),
)
class ImagePyramid(UNet):
    """The image enters again at every resolution."""

    def __init__(self) -> None:
        super().__init__()
        self.halved, self.quartered = conv(3, 16), conv(3, 32)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 3, H, W) to (B, 2, H, W)."""
        half = F.interpolate(x, scale_factor=0.5)
        quarter = F.interpolate(x, scale_factor=0.25)
        top = self.top(x)
        middle = self.middle(F.max_pool2d(top, 2)) + self.halved(half)
        deep = self.deep(F.max_pool2d(middle, 2)) + self.quartered(quarter)
        return self.out(self.decode(top, middle, deep))


@kind(
    "pose, deconvolution head",
    (1, 2, 4, 8, 16),
    {
        "c1": "encoder 1",
        "c2": "encoder 2",
        "c3": "encoder 3",
        "c4": "bottleneck",
        "deconv3": "decoder 3",
        "deconv2": "decoder 2",
        "out": "head",
    },
    (3, 4),
)
class SimpleBaseline(nn.Module):
    """A classifier's trunk, then transposed convolutions up to a quarter."""

    def __init__(self) -> None:
        super().__init__()
        self.c1, self.c2 = conv(3, 8, 2), conv(8, 16, 2)
        self.c3, self.c4 = conv(16, 24, 2), conv(24, 32, 2)
        self.deconv3, self.deconv2 = (
            nn.ConvTranspose2d(32, 16, 4, 2, 1),
            nn.ConvTranspose2d(16, 16, 4, 2, 1),
        )
        self.out = nn.Conv2d(16, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 3, H, W) to (B, 5, H / 4, W / 4)."""
        x = self.c4(self.c3(self.c2(self.c1(x))))
        return self.out(F.relu(self.deconv2(F.relu(self.deconv3(x)))))


@kind(
    "optical flow",
    (1, 2, 4, 8),
    {
        "c1": "encoder 1",
        "c2": "encoder 2",
        "c3": "bottleneck",
        "flow3": "bottleneck",
        "raise3": "decoder 2",
        "deconv2": "decoder 2",
        "flow2": "decoder 2",
        "raise2": "decoder 1",
        "deconv1": "decoder 1",
        "flow1": "head",
    },
    (2, 3),
    channels=6,
)
class FlowNet(nn.Module):
    """Predicts a flow at every level, raises it and refines it at the next."""

    def __init__(self) -> None:
        super().__init__()
        self.c1, self.c2, self.c3 = conv(6, 8, 2), conv(8, 16, 2), conv(16, 32, 2)
        self.flow3, self.raise3 = nn.Conv2d(32, 2, 3, 1, 1), nn.ConvTranspose2d(2, 2, 4, 2, 1)
        self.deconv2 = nn.ConvTranspose2d(32, 16, 4, 2, 1)
        self.flow2, self.raise2 = nn.Conv2d(34, 2, 3, 1, 1), nn.ConvTranspose2d(2, 2, 4, 2, 1)
        self.deconv1 = nn.ConvTranspose2d(34, 8, 4, 2, 1)
        self.flow1 = nn.Conv2d(18, 2, 3, 1, 1)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Map two frames (B, 6, H, W) to flows, the finest first."""
        one = self.c1(x)
        two = self.c2(one)
        three = self.c3(two)
        coarse = self.flow3(three)
        joined = torch.cat([two, F.relu(self.deconv2(three)), self.raise3(coarse)], 1)
        middle = self.flow2(joined)
        joined = torch.cat([one, F.relu(self.deconv1(joined)), self.raise2(middle)], 1)
        return [self.flow1(joined), middle, coarse]


@kind(
    "feature pyramid of a detector",
    (1, 2, 4, 8),
    {
        "c1": "encoder 1",
        "c2": "encoder 2",
        "c3": "bottleneck",
        "lateral3": "bottleneck",
        "lateral2": "skip 2",
        "lateral1": "skip 1",
        "smooth": "head",
    },
    # a map at every level: those below a cut go
    (2, 3),
)
class DetectorPyramid(nn.Module):
    """Three maps for a detector, smoothed by one shared convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.c1, self.c2, self.c3 = conv(3, 8, 2), conv(8, 16, 2), conv(16, 32, 2)
        self.lateral1, self.lateral2, self.lateral3 = (nn.Conv2d(c, 8, 1) for c in (8, 16, 32))
        self.smooth = nn.Conv2d(8, 8, 3, 1, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Map (B, 3, H, W) to maps of 8 channels."""
        one = self.c1(x)
        two = self.c2(one)
        three = self.lateral3(self.c3(two))
        two = self.lateral2(two) + F.interpolate(three, scale_factor=2.0)
        one = self.lateral1(one) + F.interpolate(two, scale_factor=2.0)
        return {"p1": self.smooth(one), "p2": self.smooth(two), "p3": self.smooth(three)}


@kind(
    "dense blocks",
    (1, 2, 4),
    {
        "top": "encoder 0",
        "dense0": "encoder 0",
        "dense1": "encoder 1",
        "dense2": "bottleneck",
        "up1": "decoder 1",
        "up0": "decoder 0",
        "late1": "decoder 1",
        "late0": "decoder 0",
        "out": "head",
    },
    (1, 2),
)
class Tiramisu(nn.Module):
    """Concatenates what every layer makes, within a level and across."""

    def __init__(self) -> None:
        super().__init__()
        self.top = nn.Conv2d(3, 8, 3, 1, 1)
        self.dense0 = nn.ModuleList([conv(8, 4), conv(12, 4)])
        self.dense1 = nn.ModuleList([conv(16, 4), conv(20, 4)])
        self.dense2 = nn.ModuleList([conv(24, 4), conv(28, 4)])
        self.up1, self.up0 = nn.ConvTranspose2d(8, 8, 2, 2), nn.ConvTranspose2d(8, 8, 2, 2)
        self.late1 = nn.ModuleList([conv(32, 4), conv(36, 4)])
        self.late0 = nn.ModuleList([conv(24, 4), conv(28, 4)])
        self.out = nn.Conv2d(32, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 3, H, W) to (B, 2, H, W)."""

        def dense(layers: nn.ModuleList, x: Tensor) -> Tensor:
            for layer in layers:
                x = torch.cat([x, layer(x)], 1)
            return x

        zero = dense(self.dense0, self.top(x))
        one = dense(self.dense1, F.avg_pool2d(zero, 2))
        two = dense(self.dense2, F.avg_pool2d(one, 2))
        x = dense(self.late1, torch.cat([self.up1(two[:, 24:]), one], 1))
        x = dense(self.late0, torch.cat([self.up0(x[:, 32:]), zero], 1))
        return self.out(x)


@kind("recurrent convolutions", (1, 2, 4), UNET, (1, 2))
class R2UNet(UNet):
    """Each block runs twice on its own result."""

    def __init__(self) -> None:
        super().__init__()
        self.top, self.middle, self.deep = (
            nn.ModuleList([conv(a, b), conv(b, b)]) for a, b in ((3, 8), (8, 16), (16, 32))
        )

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features at the three levels."""
        found = []
        for index, (enter, again) in enumerate((self.top, self.middle, self.deep)):
            first = enter(F.max_pool2d(x, 2) if index else x)
            x = again(first)
            x = again(first + x)
            found.append(x)
        return found[0], found[1], found[2]


@kind(
    "transformer in the middle",
    (1, 2, 4),
    {**UNET, "attend": "bottleneck", "position": "bottleneck", "": "bottleneck"},
    (1, 2),
    size=(64, 64),
    other=None,
)
class TransUNet(UNet):
    """Tokens of the deepest map with a table of positions for one size."""

    def __init__(self) -> None:
        super().__init__()
        self.attend = nn.TransformerEncoderLayer(32, 2, 64, batch_first=True)
        self.position = nn.Parameter(torch.zeros(1, 256, 32))
        self.image_size = 64

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 3, 64, 64) to (B, 2, 64, 64)."""
        top, middle, deep = self.encode(x)
        tokens = self.attend(deep.flatten(2).transpose(1, 2) + self.position)
        return self.out(self.decode(top, middle, tokens.transpose(1, 2).reshape(deep.shape)))


# what forwards do around their layers -----------------------------------------------------------
@kind("frozen encoder under no_grad", (1, 2, 4), UNET, (1, 2))
class NoGrad(UNet):
    """Switches autograd off for its encoder."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 3, H, W) to (B, 2, H, W)."""
        with torch.no_grad():
            features = self.encode(x)
        return self.out(self.decode(*features))


@kind("autocast inside", (1, 2, 4), UNET, (1, 2))
class Autocast(UNet):
    """Runs its encoder in bfloat16."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 3, H, W) to (B, 2, H, W)."""
        with torch.autocast("cpu", dtype=torch.bfloat16):
            features = self.encode(x)
        return self.out(self.decode(*[f.float() for f in features]))


@kind("checkpointed encoder", (1, 2, 4), UNET, (1, 2))
class Checkpointed(UNet):
    """Computes its encoder again in the backward."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 3, H, W) to (B, 2, H, W)."""
        return self.out(self.decode(*checkpoint(self.encode, x, use_reentrant=True)))


@kind("bfloat16", (1, 2, 4), UNET, (1, 2), arrange=lambda x: x.bfloat16())
class Bfloat16(UNet):
    """All of it in bfloat16."""

    def __init__(self) -> None:
        super().__init__()
        self.bfloat16()


@kind("spectral norm", (1, 2, 4), UNET, (1, 2))
class SpectralNorm(UNet):
    """Its kernels are parametrized."""

    def __init__(self) -> None:
        super().__init__()
        for block in (self.middle, self.deep):
            parametrizations.spectral_norm(block[0])


Prediction = namedtuple("Prediction", ["mask", "features"])


@kind("named outputs", (1, 2, 4), UNET, (1, 2))
class NamedOutputs(UNet):
    """Returns a named tuple."""

    def forward(self, x: Tensor) -> Prediction:
        """Map (B, 3, H, W) to a mask and the features that it is made from."""
        features = self.decode(*self.encode(x))
        return Prediction(self.out(features), features)


@kind(
    "deep supervision while training",
    (1, 2, 4),
    {**UNET, "aux": "head | dead | none"},
    (1, 2),
    refusal=("train", "eval"),
)
class DeepSupervision(UNet):
    """A second map at half of the resolution, in train mode only."""

    def __init__(self) -> None:
        super().__init__()
        self.aux = nn.Conv2d(16, 2, 1)

    def forward(self, x: Tensor) -> Any:
        """Map (B, 3, H, W) to (B, 2, H, W)."""
        top, middle, deep = self.encode(x)
        one = self.up1(torch.cat([up(deep), middle], 1))
        mask = self.out(self.up0(torch.cat([up(one), top], 1)))
        return [mask, self.aux(one)] if self.training else mask


@kind("sizes by division", (1, 2, 4), UNET, (1, 2), other=(70, 90))
class Divided(UNet):
    """Resizes to a multiple of four that it computes with ``math.ceil`` and ``max``, and back."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 3, H, W) to (B, 2, H, W)."""
        size = [max(8, math.ceil(s / 4) * 4) for s in x.shape[2:]]
        y = F.interpolate(x, size=size, mode="bilinear")
        return F.interpolate(super().forward(y), size=x.shape[2:], mode="bilinear")


@kind("a constant buffer as a number", (1, 2, 4), UNET, (1, 2))
class ConstantBuffer(UNet):
    """Reads its scale out of a buffer, as converted networks do."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scales", torch.tensor([1.0, 1.0, 2.0, 2.0]))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 3, H, W) to (B, 2, H, W)."""
        top, middle, deep = self.encode(x)
        scale = [float(s) for s in self.scales[2:]]
        x = self.up1(torch.cat([F.interpolate(deep, scale_factor=scale), middle], 1))
        return self.out(self.up0(torch.cat([up(x), top], 1)))


@kind("inside DataParallel", (1, 2, 4), UNET, (1, 2))
class Parallel:
    """As it is after training on several devices; its names are those of the inside."""

    def __new__(cls) -> nn.DataParallel[UNet]:
        """Build the wrapped network."""
        return nn.DataParallel(UNet())


# rightly refused --------------------------------------------------------------------------------
@kind(
    "values decide",
    (),
    {},
    (),
    refusal=("reads values",),
)
class ValuesDecide(UNet):
    """Scales bright images, as its forward sees fit."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 3, H, W) to (B, 2, H, W)."""
        if x.max() > 100:
            x = x / 255
        return super().forward(x)


@kind("DnCNN", (), {}, (), refusal=("one level",))
class DnCNN(nn.Sequential):
    """One resolution."""

    def __init__(self) -> None:
        super().__init__(conv(3, 8), conv(8, 8), nn.Conv2d(8, 3, 3, 1, 1))


@kind("classifier", (), {}, (), refusal=("only goes down",))
class Classifier(nn.Sequential):
    """Goes down and does not come back."""

    def __init__(self) -> None:
        super().__init__(
            conv(3, 8, 2), conv(8, 16, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5)
        )


@kind("PSPNet at an eighth", (), {}, (), refusal=("head", "decoder"))
class PSPNet(nn.Module):
    """Predicts at its deepest level and only resizes."""

    def __init__(self) -> None:
        super().__init__()
        self.c1, self.c2, self.c3 = conv(3, 8, 2), conv(8, 16, 2), conv(16, 32, 2)
        self.bins = nn.ModuleList(nn.Conv2d(32, 8, 1) for _ in range(3))
        self.out = nn.Conv2d(56, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 3, H, W) to (B, 2, H, W)."""
        y = self.c3(self.c2(self.c1(x)))
        pooled = [
            F.interpolate(layer(F.adaptive_avg_pool2d(y, n)), size=y.shape[2:])
            for layer, n in zip(self.bins, (1, 2, 4), strict=True)
        ]
        return F.interpolate(self.out(torch.cat([y, *pooled], 1)), size=x.shape[2:])
