"""What the five networks cost, by plain counting and by the paper's convention (table 4)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import torch

from mpseg_models import MultiResUNetConfig, create_model, get_config
from mpseg_models.registry import Config
from studies.second_count import fvcore_macs
from weightscope.cost import MAC_RULES, count_costs

SIZE = 512
"""Side of the input for which table 4 is given."""

FVCORE_SIZE = 128
"""Side of the real input of the second count. All five networks keep the size (or halve it
evenly) everywhere, so their MACs grow exactly with the area."""


@dataclass(frozen=True)
class PaperCost:
    """A row of the paper's table 4: billions of FLOPs, millions of parameters, as printed."""

    flops: float
    parameters: float


PAPER: Mapping[str, PaperCost] = {
    "unet": PaperCost(329.7, 21.9776),
    "half_unet": PaperCost(204.0, 1.7724),
    "multiresunet": PaperCost(204.8, 13.5469),
    "half_multiresunet": PaperCost(42.9, 0.2149),
    "quarter_multiresunet": PaperCost(21.9, 0.0445),
}


def _convolution(args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any) -> int:
    """Two per weight and position, one per output element for the bias."""
    macs = MAC_RULES[torch.ops.aten.convolution](args, kwargs, out)
    return 2 * macs + (out.numel() if args[2] is not None else 0)


def _addition(args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any) -> int:
    """One per element of a feature map; nearest upsampling adds one-dimensional indices, too."""
    return int(out.numel()) if out.dim() == 4 else 0


def _max_pool(args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any) -> int:
    """The size of the window for every output element."""
    values = out[0]
    return int(values.numel() * prod(args[1]))


PAPER_RULES: Mapping[Any, Any] = {
    torch.ops.aten.convolution: _convolution,
    torch.ops.aten.add.Tensor: _addition,
    torch.ops.aten.max_pool2d_with_indices: _max_pool,
}
"""FLOPs as table 4 counts them: 2 k k c_in c_out h w for a convolution, one per output element for
its bias and for an addition of tensors, four per output element for a 2x2 max-pooling; activations,
nearest upsampling and concatenation are free. Found by search; it fits three networks exactly."""


@dataclass(frozen=True)
class NetworkCost:
    """What one network costs on one 512 x 512 image.

    Attributes:
        name: As in ``mpseg_models.list_models()``.
        parameters: Number of parameters.
        paper_flops: By the paper's convention.
        macs: Multiply-accumulates, counted without numbers.
        fvcore_macs: The same by fvcore on a real input of 128 x 128, times 16.
    """

    name: str
    parameters: int
    paper_flops: int
    macs: int
    fvcore_macs: int


def network_cost(name: str) -> NetworkCost:
    """Count a network of the zoo at full width."""
    with torch.device("meta"):
        model = create_model(name)
        image = torch.zeros(1, 3, SIZE, SIZE)
    plain = count_costs(model, image)
    small = torch.zeros(1, 3, FVCORE_SIZE, FVCORE_SIZE)
    return NetworkCost(
        name=name,
        parameters=plain.parameters,
        paper_flops=count_costs(model, image, rules=PAPER_RULES).macs,
        macs=plain.macs,
        fvcore_macs=fvcore_macs(create_model(name, seed=0), small) * (SIZE // FVCORE_SIZE) ** 2,
    )


# --- the search behind the widths of MultiResUNet ---------------------------------------------


@dataclass(frozen=True)
class Candidate:
    """A width of MultiResUNet and how far it is from table 4.

    Attributes:
        width: Channels of the first stage; they double from level to level.
        repeats: Repeats of the ResPath at levels 0 .. 3.
        parameters: Number of parameters.
        flops: By the paper's convention.
        error: The larger of the two relative errors.
    """

    width: int
    repeats: tuple[int, ...]
    parameters: int
    flops: int
    error: float


REPEATS = ((1, 2, 3, 4), (4, 3, 2, 1), (4, 4, 4, 4), (3, 3, 3, 3), (2, 2, 2, 2), (1, 1, 1, 1))


def search_multiresunet(widths: range = range(32, 73)) -> tuple[Candidate, ...]:
    """Compare doubling widths and customary ResPaths with table 4, the closest first.

    Example:
        >>> best = search_multiresunet(range(50, 55))[0]
        >>> best.width, best.repeats
        (52, (1, 2, 3, 4))
    """
    paper = PAPER["multiresunet"]
    found = []
    for width in widths:
        for repeats in REPEATS:
            config = get_config("multiresunet", width=width, respath=repeats)
            with torch.device("meta"):
                model = create_model("multiresunet", width=width, respath=repeats)
            parameters = sum(p.numel() for p in model.parameters())
            flops = config_flops(config)
            errors = (parameters / paper.parameters / 1e6, flops / paper.flops / 1e9)
            found.append(
                Candidate(width, repeats, parameters, flops, max(abs(e - 1) for e in errors))
            )
    return tuple(sorted(found, key=lambda candidate: candidate.error))


def config_flops(config: Config, size: int = SIZE) -> int:
    """FLOPs of a MultiResUNet by the paper's convention, from its config alone.

    Closed arithmetic, independent of the counting by running: each checks the other.

    Args:
        config: A ``MultiResUNetConfig``.
        size: Side of the image.

    Raises:
        TypeError: The config is of another family.
    """
    if not isinstance(config, MultiResUNetConfig):
        raise TypeError(f"expected a MultiResUNetConfig, received {type(config).__name__}")

    def conv(kernel: int, before: int, after: int) -> int:
        return 2 * kernel * kernel * before * after + after

    def block(before: int, channels: int) -> int:
        first, second = max(1, round(channels / 6)), max(1, round(channels / 3))
        third = channels - first - second
        project = conv(1, before, channels) if before != channels else 0
        branches = conv(3, channels, first) + conv(3, first, second) + conv(3, second, third)
        return project + branches + channels

    def unit(channels: int) -> int:
        return conv(1, channels, channels) + conv(3, channels, channels) + channels

    depth = len(config.encoder)
    per_level = [0] * (depth + 1)  # FLOPs per pixel of each level
    per_level[0] += conv(3, config.in_channels, config.width)
    before = config.width
    for level, channels in enumerate(config.encoder):
        per_level[level] += block(before, channels) + config.respath[level] * unit(channels)
        per_level[level + 1] += 4 * channels
        before = channels
    per_level[depth] += block(before, config.bottleneck)
    before = config.bottleneck
    for level in reversed(range(depth)):
        channels = config.decoder[level]
        per_level[level] += block(config.encoder[level] + before, channels)
        before = channels
    per_level[0] += conv(1, before, config.classes)
    return sum(flops * (size >> level) ** 2 for level, flops in enumerate(per_level))


if __name__ == "__main__":
    for candidate in search_multiresunet()[:10]:
        print(
            f"width {candidate.width}, ResPath {candidate.repeats}: "
            f"{candidate.parameters:,} parameters, {candidate.flops / 1e9:.1f} B FLOPs, "
            f"off by {candidate.error:.1%}"
        )
