"""The building blocks of the five networks, with the paper's equation numbers.

Equations are those of Lee & Jhang, "Neural Network Analysis for Microplastic Segmentation",
Sensors 2021, 21, 7030.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Indivisible = Literal["error", "pad"]


class DoubleConv(nn.Module):
    """Two 3x3 convolutions in a row with one ReLU at the end: the inside of eq. 4-6.

    The first convolution is linear: the paper's formula puts ``max(0, .)`` around the pair only.

    Args:
        in_channels: Channels of the input.
        channels: Channels after the first and after the second convolution.
    """

    def __init__(self, in_channels: int, channels: tuple[int, int]) -> None:
        super().__init__()
        first, second = channels
        self.conv1 = nn.Conv2d(in_channels, first, kernel_size=3, padding=1)
        self.conv2 = nn.Conv2d(first, second, kernel_size=3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in_channels, H, W) to (B, channels[1], H, W)."""
        return F.relu(self.conv2(self.conv1(x)))


def branch_widths(channels: int) -> tuple[int, int, int]:
    """Split a MultiRes block's channels into its three branches, 1/6, 2/6 and 3/6 (eq. 10-12).

    The first two are rounded; the third takes the rest, so that the sum is always ``channels``.
    """
    first = max(1, round(channels / 6))
    second = max(1, round(channels / 3))
    return first, second, channels - first - second


class MultiResBlock(nn.Module):
    """Three chained 3x3 convolutions, concatenated, plus the block's input (eq. 10-13).

    Eq. 13 adds the input to the concatenation, which needs equal widths. Where the stage before
    has another width, a 1x1 convolution comes first; of the placements searched, only this one
    gives the parameter count of table 4 for Quarter MultiResUNet (44,574). The ReLU of
    eq. 16-18 around the block is included.

    Args:
        in_channels: Channels of the input.
        channels: Channels of the output, at least 4.
    """

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        first, second, third = branch_widths(channels)
        self.project = (
            nn.Identity()
            if in_channels == channels
            else nn.Conv2d(in_channels, channels, kernel_size=1)
        )
        self.conv1 = nn.Conv2d(channels, first, kernel_size=3, padding=1)
        self.conv2 = nn.Conv2d(first, second, kernel_size=3, padding=1)
        self.conv3 = nn.Conv2d(second, third, kernel_size=3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in_channels, H, W) to (B, channels, H, W)."""
        x = self.project(x)
        first = F.relu(self.conv1(x))
        second = F.relu(self.conv2(first))
        third = F.relu(self.conv3(second))
        return F.relu(torch.cat([first, second, third], dim=1) + x)


class ResPathUnit(nn.Module):
    """ReLU of a 1x1 convolution plus ReLU of a 3x3 convolution (eq. 14).

    Args:
        channels: Channels of input and output.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1x1 = nn.Conv2d(channels, channels, kernel_size=1)
        self.conv3x3 = nn.Conv2d(channels, channels, kernel_size=3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, channels, H, W) to the same shape."""
        return F.relu(self.conv1x1(x)) + F.relu(self.conv3x3(x))


class ResPath(nn.Module):
    """A skip connection with weights: the unit of eq. 14, repeated (eq. 15).

    Eq. 15 writes four repeats. Table 4 fits Quarter MultiResUNet only with three: four of them
    alone hold 41,216 weights at 32 channels, which leaves too few for the rest.

    Args:
        channels: Channels of input and output.
        repeats: Number of units in a row; 0 passes the input on.
    """

    def __init__(self, channels: int, repeats: int) -> None:
        super().__init__()
        self.units = nn.ModuleList(ResPathUnit(channels) for _ in range(repeats))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, channels, H, W) to the same shape."""
        for unit in self.units:
            x = unit(x)
        return x


def down(x: Tensor) -> Tensor:
    """Take the maximum of every 2x2 square (eq. 2)."""
    return F.max_pool2d(x, kernel_size=2)


def up(x: Tensor) -> Tensor:
    """Repeat every pixel in a 2x2 square (eq. 3)."""
    return F.interpolate(x, scale_factor=2, mode="nearest")


def check_size(x: Tensor, multiple: int, in_channels: int) -> None:
    """Refuse an input that the network's poolings cannot halve evenly.

    Raises:
        ValueError: Not (B, in_channels, H, W), or H or W is no multiple of ``multiple``.
    """
    if x.dim() != 4 or x.shape[1] != in_channels:
        raise ValueError(
            f"expected images of shape (batch, {in_channels}, height, width), "
            f"received {tuple(x.shape)}"
        )
    height, width = x.shape[-2:]
    if height % multiple or width % multiple:
        raise ValueError(
            f"height and width must be multiples of {multiple}, received {height} x {width}; "
            f"crop or resize the images, or create the model with indivisible='pad'"
        )


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """Repeat the right and lower border until height and width are multiples of ``multiple``.

    Args:
        x: (B, C, H, W).
        multiple: What both sizes must be divisible by.

    Returns:
        (B, C, H', W') with H' >= H and W' >= W.
    """
    height, width = x.shape[-2:]
    return F.pad(x, (0, -width % multiple, 0, -height % multiple), mode="replicate")


def initialize(model: nn.Module, seed: int | None) -> None:
    """Draw every kernel from Glorot's uniform distribution and set biases to zero.

    This is the default of the framework the paper was made with, not of PyTorch: kernels are
    uniform on +-sqrt(6 / (fan_in + fan_out)).

    Args:
        model: The network whose convolutions are drawn.
        seed: Makes the draw repeatable and leaves the global generator alone; None draws from
            the global generator.
    """
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            if not module.weight.is_meta:
                nn.init.xavier_uniform_(module.weight, generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def admit(images: Tensor, multiple: int, in_channels: int, indivisible: str) -> Tensor:
    """Check images, padded at the bottom and the right first where ``indivisible`` is ``"pad"``.

    Args:
        images: (B, in_channels, H, W).
        multiple: What the height and the width must be multiples of.
        in_channels: Channels that the network takes.
        indivisible: ``"pad"`` to pad other sizes; anything else refuses them.

    Raises:
        ValueError: The images have another shape than the network can take.
    """
    x = pad_to_multiple(images, multiple) if indivisible == "pad" else images
    check_size(x, multiple, in_channels)
    return x


def finish(logits: Tensor, images: Tensor, indivisible: str, sigmoid: bool) -> Tensor:
    """Cut off what `admit` padded, and turn logits into probabilities where asked."""
    if indivisible == "pad":
        logits = logits[..., : images.shape[-2], : images.shape[-1]]
    return torch.sigmoid(logits) if sigmoid else logits
