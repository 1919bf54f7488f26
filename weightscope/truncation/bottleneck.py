"""What takes the place of everything below a cut."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import cast

import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.nn import functional as F

from weightscope.adapters.tracing import EXPORTING
from weightscope.calls import say
from weightscope.errors import TruncationError
from weightscope.graph.structure import Layout
from weightscope.graph.trial import Trial
from weightscope.receptive_field import WHOLE, Span, Views, interpolated, propagate, union, window

BottleneckFactory = Callable[[int, int, int], nn.Module]
"""``factory(in_channels, out_channels, dimensions)`` makes a module that maps
(B, in_channels, *S) to (B, channels, *S)."""

CONVOLUTIONS: dict[int, type[nn.Module]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_NORMS: dict[int, type[nn.Module]] = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
# new weights are drawn in it, whatever the default dtype is
_DTYPE = torch.float32
_MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}


class Light(nn.Sequential):
    """Two 3x3 convolutions, each with batch normalisation and ReLU.

    Args:
        in_channels: Channels of the input.
        width: Channels of both convolutions.
        dimensions: Number of spatial dimensions.
        reach: Dilation of the second convolution.
    """

    def __init__(self, in_channels: int, width: int, dimensions: int, reach: int = 1) -> None:
        convolution, norm = CONVOLUTIONS[dimensions], _NORMS[dimensions]
        super().__init__(
            convolution(in_channels, width, 3, padding=1, bias=False, dtype=_DTYPE),
            norm(width, dtype=_DTYPE),
            nn.ReLU(),
            convolution(width, width, 3, padding=reach, dilation=reach, bias=False, dtype=_DTYPE),
            norm(width, dtype=_DTYPE),
            nn.ReLU(),
        )
        self.reach = reach


@dataclass(frozen=True)
class Entry:
    """A tensor that enters the bottleneck.

    Attributes:
        channels: Number of channels; of complex numbers those of both their parts.
        layout: Where its channels and positions lie.
        kernel: Window and stride of the max-pooling that brings it to the bottleneck's size.
        ceil: Whether the pooling rounds sizes up.
        exact: Whether pooling alone always gives the bottleneck's size.
        images: Images of its batch that become one; all their channels are counted.
        in_turn: Whether these follow each other in the batch.
        single: Further axes of length 1, in ascending order.
        parts: Lengths of the axes that hold its channels, where these are several.
    """

    channels: int
    layout: Layout
    kernel: tuple[int, ...]
    ceil: bool
    exact: bool
    images: int = 1
    in_turn: bool = False
    single: tuple[int, ...] = ()
    parts: tuple[int, ...] = ()


@dataclass(frozen=True)
class Exit:
    """A tensor that the bottleneck returns.

    Attributes:
        channels: Number of channels; of complex numbers those of both their parts.
        layout: Where its channels and positions lie.
        exact: Whether it always has the bottleneck's own size.
        scale: Its positions per position of the bottleneck, for each dimension.
        is_complex: Whether its channels are the real parts of complex numbers, then the imaginary.
        images: How many images of its batch are made of one, each with channels of its own.
        in_turn: Whether these follow each other in the batch.
        single: Further axes of length 1, in ascending order.
        parts: Lengths of the axes that hold its channels, where these are several.
        lacks: The side of volumes that it has none of: it holds the mean along it.
    """

    channels: int
    layout: Layout
    exact: bool
    scale: tuple[float, ...]
    is_complex: bool = False
    images: int = 1
    in_turn: bool = False
    single: tuple[int, ...] = ()
    parts: tuple[int, ...] = ()
    lacks: int | None = None

    @property
    def width(self) -> int:
        """Channels of all images that are made of one."""
        return self.channels * self.images


class Bottleneck(nn.Module):
    """Pools the tensors that cross the cut, runs a trunk on them, and hands on every exit.

    Args:
        dimensions: Number of spatial dimensions.
        entries: What enters.
        exits: What leaves.
        trunk: Maps the concatenated entries (B, C, *S) to (B, channels, *S).
        channels: Channels that the trunk returns.
    """

    def __init__(
        self,
        dimensions: int,
        entries: Sequence[Entry],
        exits: Sequence[Exit],
        trunk: nn.Module,
        channels: int,
    ) -> None:
        super().__init__()
        self.dimensions = dimensions
        self.entries = tuple(entries)
        self.exits = tuple(exits)
        self.trunk = trunk
        convolution = CONVOLUTIONS[dimensions]
        self.heads = nn.ModuleList(
            nn.Identity()
            if site.width == channels
            else convolution(channels, site.width, 1, dtype=_DTYPE)
            for site in self.exits
        )

    def forward(
        self,
        tensors: list[Tensor],
        entry_sizes: list[list[int]],
        size: list[int],
        exit_sizes: list[list[int]],
    ) -> list[Tensor]:
        """Replace everything below the cut.

        Args:
            tensors: One for each entry, in its own layout.
            entry_sizes: Spatial sizes of each entry.
            size: Spatial sizes at which the trunk runs.
            exit_sizes: Spatial sizes of each exit.

        Returns:
            One tensor for each exit, in its own layout.
        """
        # part of a network may run in another format than its weights are in
        like = next((p for p in self.trunk.parameters() if p.is_floating_point()), None)
        given = [
            self._pooled(together(to_image(tensor, entry, sizes), entry), entry, size)
            for tensor, entry, sizes in zip(tensors, self.entries, entry_sizes, strict=True)
        ]
        y = given[0] if len(given) == 1 else torch.cat(given, 1)
        y = self.trunk(y if like is None else y.to(like.dtype))
        return [
            _from_image(_apart(head(brought(y, site, sizes)), site), site)
            for head, site, sizes in zip(self.heads, self.exits, exit_sizes, strict=True)
        ]

    def _pooled(self, x: Tensor, entry: Entry, size: list[int]) -> Tensor:
        if prod(entry.kernel) > 1:
            pool = getattr(F, f"max_pool{self.dimensions}d")
            x = pool(x, entry.kernel, ceil_mode=entry.ceil)
        return x if entry.exact else _resized(x, size)

    def views(
        self,
        entries: Sequence[Views],
        entry_sizes: Sequence[Sequence[int]],
        size: Sequence[int],
        exit_sizes: Sequence[Sequence[int]],
    ) -> tuple[Views, ...]:
        """Carry receptive fields from the entries to the exits, at the sizes of one input."""
        pooled = [
            tuple(map(_pooled_view, views, entry.kernel, [entry.ceil] * len(views), sizes, size))
            for entry, views, sizes in zip(self.entries, entries, entry_sizes, strict=True)
        ]
        inside = _trunk_views(self.trunk, union(pooled), sum(e.channels for e in self.entries))
        return tuple(
            (WHOLE,) * len(inside)
            if site.layout == "vector"
            else tuple(map(interpolated, inside, size, sizes))
            for site, sizes in zip(self.exits, exit_sizes, strict=True)
        )


def brought(x: Tensor, site: Exit, sizes: Sequence[int]) -> Tensor:
    """Bring what a trunk returns to the sizes of an exit.

    A vector is the mean over positions, a map without one of a volume's sides that along it.
    """
    if site.layout == "vector":
        return x.mean(tuple(range(2, x.dim())), keepdim=True)
    if site.lacks is not None:
        x = x.mean(2 + site.lacks, keepdim=True)
    return x if site.exact else _resized(x, list(sizes))


def _resized(x: Tensor, size: list[int]) -> Tensor:
    return F.interpolate(x, size=size, mode=_MODES[x.dim() - 2], align_corners=False)


def format_of(model: nn.Module) -> torch.dtype:
    """Number format of the new layers: that of the network's weights, of several the finest."""
    numbers = (p.dtype for p in model.parameters() if p.is_floating_point() or p.is_complex())
    return functools.reduce(torch.promote_types, {dtype.to_real() for dtype in numbers})


def _pooled_view(view: Span, kernel: int, ceil: bool, before: int, after: int) -> Span:
    pooled = (before + (kernel - 1 if ceil else 0)) // kernel
    return interpolated(window(view, kernel, kernel), pooled, after)


def _trunk_views(trunk: nn.Module, views: Views, channels: int) -> Views:
    if isinstance(trunk, nn.Identity):
        return views
    if isinstance(trunk, Light):
        reach = trunk.reach
        return tuple(
            window(window(v, 3, padding=1), 3, dilation=reach, padding=reach) for v in views
        )
    like = next((p for p in trunk.parameters()), torch.empty(0, device="cpu", dtype=torch.float32))
    x = torch.zeros(2, channels, *[16] * len(views), device=like.device, dtype=like.dtype)
    free = {d: Dim.AUTO for d in range(x.dim()) if d != 1}
    twin = copy.deepcopy(trunk).eval()
    with EXPORTING:
        program = torch.export.export(twin, (x,), strict=False, dynamic_shapes=(free,))
    (name,) = program.graph_signature.user_inputs
    found = propagate(program, {cast(str, name): views})
    return union([found[n] for n in program.graph.output_node().all_input_nodes if n in found])


def to_image(x: Tensor, site: Entry | Exit, sizes: list[int]) -> Tensor:
    """Bring a tensor to real numbers (B, C, *S), of complex ones first all real parts."""
    if x.is_complex():
        parts = (to_image(part, site, sizes) for part in torch.view_as_real(x).unbind(-1))
        return torch.cat(list(parts), 1)
    for axis in reversed(site.single):
        x = x.squeeze(axis)
    layout = site.layout
    if site.parts:
        return x.flatten(1, len(site.parts))
    if isinstance(site, Exit) and site.lacks is not None:
        return x.unsqueeze(2 + site.lacks)
    if layout == "channels_first":
        return x
    if layout == "channels_last":
        return x.movedim(-1, 1)
    if layout == "tokens_last":
        x = x.transpose(1, 2)
    return x.reshape(x.shape[0], x.shape[1], *sizes)


def together(x: Tensor, site: Entry | Exit) -> Tensor:
    """Put the channels of images side by side that become one, or are made of one."""
    if site.images == 1:
        return x
    if site.in_turn:
        return x.reshape(x.shape[0] // site.images, -1, *x.shape[2:])
    return torch.cat(x.chunk(site.images), 1)


def _apart(x: Tensor, site: Exit) -> Tensor:
    """Lay the channels of images that are made of one into the batch."""
    if site.images == 1:
        return x
    if site.in_turn:
        return x.reshape(x.shape[0] * site.images, -1, *x.shape[2:])
    return torch.cat(x.chunk(site.images, 1))


def _from_image(x: Tensor, site: Exit) -> Tensor:
    """Bring (B, C, *S) to what leaves."""
    if site.is_complex:
        x = torch.complex(*x.chunk(2, 1))
    if site.lacks is not None:
        x = x.squeeze(2 + site.lacks)
    if site.layout == "channels_last":
        x = x.movedim(1, -1)
    elif site.layout != "channels_first":
        x = x.flatten(1 if site.layout == "vector" else 2)
        x = x.transpose(1, 2) if site.layout == "tokens_last" else x
    for axis in site.single:
        x = x.unsqueeze(axis)
    return x.reshape(x.shape[0], *site.parts, *x.shape[2:]) if site.parts else x


_TRIED = ((2, 16, 16, 16), (3, 32, 48, 64))
"""Images and sizes on which a given trunk is tried: unlike each other, and poolings divide all."""


def output_channels(trunk: nn.Module, in_channels: int, dimensions: int) -> int:
    """Find how many channels a trunk returns, and that it keeps any size in both modes.

    Raises:
        TruncationError: The trunk does not run, or returns another shape.
    """
    like = next((p for p in trunk.parameters()), torch.empty(0, device="cpu", dtype=torch.float32))
    if like.is_meta:
        raise TruncationError(
            "the given bottleneck lies on the meta device and has no values; make it on a device"
            " that holds them, or use to_empty(device='cpu') and initialise it"
        )
    trial, found = Trial(trunk), []
    for training in (False, True):
        given = f"the given bottleneck, a {type(trunk).__name__},"
        given += " in training mode" if training else ""
        for images, *sizes in _TRIED:
            x = torch.zeros(
                (images, in_channels, *sizes[:dimensions]), device=like.device, dtype=like.dtype
            )
            found.append(_channels_of(trial, x, given, training))
    if len(set(found)) > 1:
        raise TruncationError(
            f"the given bottleneck, a {type(trunk).__name__}, returns {found[0]} channels in one "
            f"call and {next(n for n in found if n != found[0])} in another, of another size or in "
            f"training mode. {_TAKES}"
        )
    return found[0]


_TAKES = (
    "It must map one tensor (batch, in_channels, *sizes) to (batch, channels, *sizes), whatever "
    "the sizes are."
)


def _channels_of(trial: Trial, x: Tensor, given: str, training: bool) -> int:
    """Channels that a trunk returns for one input.

    Raises:
        TruncationError: It does not run, or returns another shape.
    """
    shape = tuple(x.shape)
    try:
        leaves, structure = trial.returns((x,), {}, training=training)
    except Exception as reason:
        raise TruncationError(
            f"{given} does not run on a tensor {shape}: {say(reason)}. {_TAKES}"
        ) from reason
    if not structure.is_leaf() or leaves[0] is None:
        raise TruncationError(f"{given} does not return one tensor. {_TAKES}")
    made = tuple(leaves[0])
    if len(made) != len(shape) or made[:1] + made[2:] != shape[:1] + shape[2:]:
        raise TruncationError(
            f"{given} returns shape {made} for {shape}; it must keep the batch and the spatial size"
        )
    return int(made[1])
