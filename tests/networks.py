"""Toy networks whose levels, stages and cuts are known by hand."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weightscope.graph import Structure

_CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_NORM = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
_POOL = {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d}
_UPCONV = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


def double_conv(
    in_channels: int, channels: int, dimensions: int = 2, stride: int = 1
) -> nn.Sequential:
    """Two convolutions with normalisation, dropout between them."""
    conv, norm = _CONV[dimensions], _NORM[dimensions]
    return nn.Sequential(
        conv(in_channels, channels, 3, stride=stride, padding=1, bias=False),
        norm(channels),
        nn.ReLU(inplace=True),
        nn.Dropout(0.1),
        conv(channels, channels, 3, padding=1),
        nn.ReLU(inplace=True),
    )


class UNet(nn.Module):
    """Plain U-Net.

    Args:
        widths: Channels of each level.
        dimensions: 1, 2 or 3.
        down: ``pool`` or ``stride``.
        up: ``transposed``, or ``resize`` to the skip's size.
        pad: Pad the upsampled tensor to the skip's size.
    """

    def __init__(
        self,
        widths: tuple[int, ...] = (4, 6, 8),
        dimensions: int = 2,
        down: str = "pool",
        up: str = "transposed",
        pad: bool = False,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        self.up_kind, self.pad = up, pad
        pooled = down == "pool"
        self.pool = _POOL[dimensions](2) if pooled else nn.Identity()
        steps = itertools.pairwise((in_channels, *widths))
        self.encoder = nn.ModuleList(
            double_conv(a, b, dimensions, 1 if pooled or not level else 2)
            for level, (a, b) in enumerate(steps)
        )
        rising = list(itertools.pairwise(reversed(widths)))
        self.up = nn.ModuleList(
            _UPCONV[dimensions](a, b, 2, 2) if up == "transposed" else _CONV[dimensions](a, b, 1)
            for a, b in rising
        )
        self.decoder = nn.ModuleList(double_conv(2 * b, b, dimensions) for _, b in rising)
        self.out = _CONV[dimensions](widths[0], 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for level, block in enumerate(self.encoder):
            x = block(self.pool(x) if level else x)
            skips.append(x)
        skips.pop()
        for up, block in zip(self.up, self.decoder, strict=True):
            skip = skips.pop()
            x = up(x) if self.up_kind == "transposed" else up(F.interpolate(x, skip.shape[2:]))
            if self.pad:
                missing = [a - b for a, b in zip(skip.shape[2:], x.shape[2:], strict=True)]
                x = F.pad(x, [n for m in reversed(missing) for n in (m // 2, m - m // 2)])
            x = block(torch.cat([skip, x], 1))
        return self.out(x)


class Nested(nn.Module):
    """Two levels, one inside the other, built of nested Sequentials only."""

    class Skip(nn.Module):
        def __init__(self, inside: nn.Module) -> None:
            super().__init__()
            self.inside = inside

        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([x, self.inside(x)], 1)

    def __init__(self) -> None:
        super().__init__()
        deepest = nn.Sequential(nn.MaxPool2d(2), double_conv(6, 8), nn.ConvTranspose2d(8, 6, 2, 2))
        middle = nn.Sequential(
            nn.MaxPool2d(2),
            double_conv(4, 6),
            Nested.Skip(deepest),
            double_conv(12, 6),
            nn.ConvTranspose2d(6, 4, 2, 2),
        )
        self.net = nn.Sequential(
            double_conv(3, 4), Nested.Skip(middle), double_conv(8, 4), nn.Conv2d(4, 1, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class SharedWeights(nn.Module):
    """One block is called at both encoder levels, one module is registered under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.shared = double_conv(4, 4)
        self.alias = self.shared
        self.bottom = double_conv(4, 4)
        self.merge = nn.Conv2d(8, 4, 3, padding=1)
        self.unused = nn.Conv2d(4, 4, 3)
        self.out = nn.Conv2d(8, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        top = self.shared(self.stem(x))
        middle = self.alias(F.max_pool2d(top, 2))
        x = self.bottom(F.max_pool2d(middle, 2))
        x = self.merge(torch.cat([middle, F.interpolate(x, scale_factor=2.0)], 1))
        return self.out(torch.cat([top, F.interpolate(x, scale_factor=2.0)], 1))


class ResPaths(nn.Module):
    """Skip connections with weights of their own, as MultiResUNet has them."""

    def __init__(self) -> None:
        super().__init__()
        self.top, self.middle = double_conv(3, 4), double_conv(4, 6)
        self.path0 = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU())
        self.path1 = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.ReLU())
        self.bottom = double_conv(6, 8)
        self.up1, self.up0 = double_conv(14, 6), double_conv(10, 4)
        self.out = nn.Conv2d(4, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        top = self.top(x)
        middle = self.middle(F.max_pool2d(top, 2))
        x = self.bottom(F.max_pool2d(middle, 2))
        x = self.up1(torch.cat([self.path1(middle), F.interpolate(x, scale_factor=2.0)], 1))
        return self.out(
            self.up0(torch.cat([self.path0(top), F.interpolate(x, scale_factor=2.0)], 1))
        )


class SqueezeExcite(nn.Module):
    """Scales channels by a vector made from the whole image: no level of its own."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, 2, 1)
        self.excite = nn.Conv2d(2, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        scale = F.adaptive_avg_pool2d(x, 1)
        return x * torch.sigmoid(self.excite(F.relu(self.squeeze(scale))))


class Pyramid(nn.Module):
    """Pools to fixed bins, as PSPNet does: the bins are no levels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bins = nn.ModuleList(nn.Conv2d(channels, 2, 1) for _ in (1, 2, 3))
        self.merge = nn.Conv2d(channels + 6, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[2:]
        bins = [
            F.interpolate(conv(F.adaptive_avg_pool2d(x, bins)), size, mode="bilinear")
            for bins, conv in zip((1, 2, 3), self.bins, strict=True)
        ]
        return self.merge(torch.cat([x, *bins], 1))


class Excursions(nn.Module):
    """A U-Net with squeeze-and-excitation in the encoder and pyramid pooling in the bottleneck."""

    def __init__(self) -> None:
        super().__init__()
        self.top = nn.Sequential(double_conv(3, 4), SqueezeExcite(4))
        self.middle = nn.Sequential(double_conv(4, 6), SqueezeExcite(6))
        self.bottom = nn.Sequential(double_conv(6, 8), Pyramid(8))
        self.up1, self.up0 = double_conv(14, 6), double_conv(10, 4)
        self.out = nn.Conv2d(4, 1, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        top = self.top(x)
        middle = self.middle(F.max_pool2d(top, 2))
        x = self.bottom(F.max_pool2d(middle, 2))
        x = self.up1(torch.cat([middle, F.interpolate(x, scale_factor=2.0)], 1))
        return {"out": self.out(self.up0(torch.cat([top, F.interpolate(x, scale_factor=2.0)], 1)))}


class Timed(nn.Module):
    """A U-Net that needs a time step, added at every level."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(1, 4)
        self.top, self.bottom = double_conv(3, 4), double_conv(4, 6)
        self.time_top, self.time_bottom = nn.Linear(4, 4), nn.Linear(4, 6)
        self.up0 = double_conv(10, 4)
        self.out = nn.Conv2d(4, 3, 1)

    def forward(self, sample: Tensor, timestep: Tensor) -> Tensor:
        time = self.embed(timestep.to(sample.dtype).reshape(-1, 1))
        top = self.top(sample) + self.time_top(time)[:, :, None, None]
        x = self.bottom(F.max_pool2d(top, 2)) + self.time_bottom(time)[:, :, None, None]
        return self.out(self.up0(torch.cat([top, F.interpolate(x, scale_factor=2.0)], 1)))


class DeepSupervision(nn.Module):
    """Returns a list of predictions in train mode, the finest in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.unet = UNet((4, 6))
        self.side = nn.Conv2d(3, 2, 1)

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        y = self.unet(x)
        return [y, self.side(x)] if self.training else y


@dataclass(frozen=True)
class Toy:
    """A network and what is right about it.

    Attributes:
        build: Makes the network.
        places: Stage of each layer, by the beginning of its name; the longest counts.
        reductions: Of each level.
        legal: The ``keep_levels`` at which it can be cut.
        dead: Parameters that no forward reaches.
    """

    build: Callable[[], nn.Module]
    places: Mapping[str, str]
    reductions: tuple[tuple[float, ...], ...]
    legal: tuple[int, ...]
    dead: tuple[str, ...] = field(default=())

    def stage(self, layer: str) -> str:
        """The stage of one layer."""
        fits = [p for p in self.places if layer == p or layer.startswith(f"{p}.")]
        return self.places[max(fits, key=len)]


_UNET3 = {
    "encoder.0": "encoder 0",
    "encoder.1": "encoder 1",
    "encoder.2": "bottleneck",
    "up.0": "decoder 1",
    "decoder.0": "decoder 1",
    "up.1": "decoder 0",
    "decoder.1": "decoder 0",
    "out": "head",
}
_STAGES3 = {
    "top": "encoder 0",
    "middle": "encoder 1",
    "bottom": "bottleneck",
    "up1": "decoder 1",
    "up0": "decoder 0",
    "out": "head",
}


def _halves(levels: int, dimensions: int = 2) -> tuple[tuple[float, ...], ...]:
    return tuple((2.0**level,) * dimensions for level in range(levels))


TOYS: Mapping[str, Toy] = {
    "unet": Toy(UNet, _UNET3, _halves(3), (1, 2)),
    "unet 1-D": Toy(lambda: UNet(dimensions=1), _UNET3, _halves(3, 1), (1, 2)),
    "unet 3-D": Toy(lambda: UNet(dimensions=3, in_channels=1), _UNET3, _halves(3, 3), (1, 2)),
    "unet strided": Toy(lambda: UNet(down="stride"), _UNET3, _halves(3), (1, 2)),
    "unet resized": Toy(lambda: UNet(up="resize"), _UNET3, _halves(3), (1, 2)),
    "unet padded": Toy(lambda: UNet(pad=True), _UNET3, _halves(3), (1, 2)),
    "nested": Toy(
        Nested,
        {
            "net.0": "encoder 0",
            "net.1.inside.1": "encoder 1",
            "net.1.inside.2.inside.1": "bottleneck",
            "net.1.inside.2.inside.2": "decoder 1",
            "net.1.inside.3": "decoder 1",
            "net.1.inside.4": "decoder 0",
            "net.2": "decoder 0",
            "net.3": "head",
        },
        _halves(3),
        (1, 2),
    ),
    "shared weights": Toy(
        SharedWeights,
        {
            "stem": "encoder 0",
            "shared": "encoder 0",
            "bottom": "bottleneck",
            "merge": "decoder 1",
            "out": "head",
        },
        _halves(3),
        (1, 2),
        ("unused.weight", "unused.bias"),
    ),
    "res paths": Toy(
        ResPaths, {**_STAGES3, "path0": "skip 0", "path1": "skip 1"}, _halves(3), (1, 2)
    ),
    "excursions": Toy(Excursions, _STAGES3, _halves(3), (1, 2)),
    "timed": Toy(
        Timed,
        {
            "embed": "encoder 0",
            "time_top": "encoder 0",
            "top": "encoder 0",
            "bottom": "bottleneck",
            "time_bottom": "bottleneck",
            "up0": "decoder 0",
            "out": "head",
        },
        _halves(2),
        (1,),
    ),
}


class TwoNets(nn.Module):
    """Two U-Nets in a row: the second one lies behind the first one's bottleneck."""

    def __init__(self) -> None:
        super().__init__()
        self.first = UNet((4, 6))
        self.second = UNet((4, 6), in_channels=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x))


class Functional(nn.Module):
    """Dropout and batch normalisation as functions, a parametrized head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 1)
        self.kernel = nn.Parameter(torch.randn(4, 4, 3, 3) * 0.1)
        self.norm = nn.BatchNorm2d(4)
        self.out = nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = F.dropout(F.max_pool2d(x, 2), 0.3, self.training)
        y = F.interpolate(F.conv2d(y, self.kernel, padding=1), scale_factor=2.0)
        norm = self.norm
        y = F.batch_norm(
            y, norm.running_mean, norm.running_var, norm.weight, norm.bias, self.training
        )
        return self.out(F.dropout2d(x + y, 0.2, self.training))


class FrozenInside(nn.Module):
    """Switches autograd off inside its forward."""

    def __init__(self) -> None:
        super().__init__()
        self.unet = UNet((4, 6))
        self.out = nn.Conv2d(2, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            y = self.unet(x)
        return self.out(y)


class ClassBeside(nn.Module):
    """Segments by its first level alone; a class of the whole image comes from the deepest one.

    Args:
        coarse: Instead of the class, a map at half resolution: ``"version"`` of the first output,
            or ``"other"`` quantity in the same places.
    """

    def __init__(self, coarse: str = "") -> None:
        super().__init__()
        self.coarse = coarse
        self.top, self.mid, self.back = (nn.Conv2d(1, 1, 3, padding=1) for _ in range(3))
        self.low = nn.Sequential(nn.Conv2d(1, 24, 3, padding=1), nn.Conv2d(24, 1, 3, padding=1))
        self.head, self.label = nn.Conv2d(2, 1, 1, bias=False), nn.Linear(1, 2)
        self.small = nn.Conv2d(1, 1, 1)
        with torch.no_grad():
            for layer in (self.top, self.mid, self.back, *self.low):
                nn.init.dirac_(layer.weight)
                layer.bias.zero_()
            self.head.weight.copy_(torch.tensor([8.0, 0.0]).view(1, 2, 1, 1))
            self.label.weight.copy_(torch.tensor([[-20.0], [20.0]]))
            self.label.bias.zero_()
            self.small.weight.fill_(8.0 if coarse == "version" else 0.1)
            self.small.bias.fill_(0.0 if coarse == "version" else 3.0)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Both outputs by their names."""
        top = self.top(x)
        mid = self.mid(F.avg_pool2d(top, 2))
        low = self.low(F.avg_pool2d(mid, 2))
        back = self.back(mid + 0.0 * F.interpolate(low, scale_factor=2.0))
        back = F.interpolate(back, scale_factor=2.0)
        seg = self.head(torch.cat([top, back], 1))
        if self.coarse:
            return {"seg": seg, "half": self.small(mid)}
        return {"seg": seg, "cls": self.label(low.mean((2, 3)))}


def classed_images(count: int = 24) -> tuple[Tensor, dict[str, Tensor]]:
    """Images of two classes, brighter or darker as a whole, with what `ClassBeside` makes of them.

    Blocks of four pixels are alike, so that half resolution shows what the full one does.
    """
    generator = torch.Generator().manual_seed(0)
    classes = torch.arange(count) % 2
    blocks = torch.randn(count, 1, 4, 4, generator=generator)
    images = F.interpolate(blocks, scale_factor=4.0) + (classes - 0.5).view(-1, 1, 1, 1)
    images -= images.mean((2, 3), keepdim=True) - (classes - 0.5).view(-1, 1, 1, 1)
    return images, {"seg": (images > 0).float(), "cls": classes}


class Small(nn.Module):
    """A U-Net of two levels."""

    def __init__(self, channels: int = 1, out: int | None = None) -> None:
        super().__init__()
        self.top, self.deep = nn.Conv2d(channels, 4, 3, padding=1), nn.Conv2d(4, 8, 3, padding=1)
        self.up, self.out = nn.Conv2d(12, 4, 3, padding=1), nn.Conv2d(4, out or channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        top = self.top(x).relu()
        deep = self.deep(F.max_pool2d(top, 2)).relu()
        joined = torch.cat([top, F.interpolate(deep, top.shape[2:])], 1)
        return self.out(self.up(joined).relu())


def places(structure: Structure) -> dict[str, str]:
    """The stage of each layer."""
    return {layer: stage.name for layer, stage in structure.stage_of.items()}
