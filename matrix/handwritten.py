"""Networks in the styles that people write by hand."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def double(in_channels: int, channels: int) -> nn.Sequential:
    """Two 3x3 convolutions with batch norm and ReLU."""
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, 3, padding=1),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
        nn.Conv2d(channels, channels, 3, padding=1),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
    )


class Up(nn.Module):
    """Transposed convolution, padded to the skip's size by what is missing, then convolutions."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(in_channels, channels, 2, stride=2)
        self.conv = double(2 * channels, channels)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Join (B, C, h, w) with the skip (B, C / 2, H, W), where H is 2 h or 2 h + 1."""
        x = self.up(x)
        rows, columns = skip.shape[-2] - x.shape[-2], skip.shape[-1] - x.shape[-1]
        x = F.pad(
            x, [columns // 2, columns - columns // 2, rows // 2, rows - rows // 2], mode="constant"
        )
        return self.conv(torch.cat([skip, x], dim=1))


class PadUNet(nn.Module):
    """The U-Net of many tutorials: any input size, by padding with a size known at run time."""

    def __init__(self) -> None:
        super().__init__()
        self.inc = double(3, 8)
        self.down1 = nn.Sequential(nn.MaxPool2d(2), double(8, 16))
        self.down2 = nn.Sequential(nn.MaxPool2d(2), double(16, 32))
        self.down3 = nn.Sequential(nn.MaxPool2d(2), double(32, 64))
        self.up1 = Up(64, 32)
        self.up2 = Up(32, 16)
        self.up3 = Up(16, 8)
        self.outc = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 3, H, W) to (B, 2, H, W)."""
        first = self.inc(x)
        second = self.down1(first)
        third = self.down2(second)
        x = self.down3(third)
        x = self.up1(x, third)
        x = self.up2(x, second)
        x = self.up3(x, first)
        return self.outc(x)


class Beside(nn.Module):
    """Concatenates its input with what its inside makes of it."""

    def __init__(self, inside: nn.Module) -> None:
        super().__init__()
        self.inside = inside

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C + C', H, W)."""
        return torch.cat([x, self.inside(x)], dim=1)


def nested_sequential() -> nn.Sequential:
    """Build a U-Net as Sequentials within Sequentials, without a forward of its own."""
    inner = nn.Sequential(nn.MaxPool2d(2), double(16, 32), nn.Upsample(scale_factor=2))
    middle = nn.Sequential(
        nn.MaxPool2d(2), double(8, 16), Beside(inner), double(48, 16), nn.Upsample(scale_factor=2)
    )
    return nn.Sequential(double(3, 8), Beside(middle), double(24, 8), nn.Conv2d(8, 2, 1))


class SharedUNet(nn.Module):
    """One encoder block for every level below the first, and one decoder block for every level."""

    def __init__(self, levels: int = 4) -> None:
        super().__init__()
        self.levels = levels
        self.stem = double(3, 8)
        self.encode = double(8, 8)
        self.decode = double(16, 8)
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 3, H, W) to (B, 2, H, W)."""
        x = self.stem(x)
        skips = []
        for _ in range(self.levels - 1):
            skips.append(x)
            x = self.encode(F.max_pool2d(x, 2))
        for skip in reversed(skips):
            x = self.decode(torch.cat([F.interpolate(x, scale_factor=2.0), skip], dim=1))
        return self.head(x)
