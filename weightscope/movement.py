"""How far weights went from where they started, and how far noise would have carried them.

The weights ``w`` of one parameter are split as ``w = shrinkage * w0 + delta`` with ``delta``
orthogonal to the start ``w0``: weight decay only scales ``w0`` and does not count as movement.
``walk`` is the rms of ``delta`` expected if every gradient had been independent noise;
``docs/evidence.md`` derives it for Adam, AdamW and SGD with momentum.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, isnan, nan, sqrt
from typing import Any, Protocol

from torch import Tensor

# torch's operators stay in one thread up to here; a device wants more at a time
_BLOCK, _DEVICE_BLOCK = 1 << 15, 1 << 22


@dataclass(frozen=True)
class Movement:
    """The split ``w = shrinkage * w0 + delta`` with ``delta`` orthogonal to the start ``w0``.

    Attributes:
        count: Number of weights.
        moved: Rms of ``delta``, in units of the weights.
        shrinkage: Projection of the weights on their start: 1 without decay, about 0 where they
            were drawn again; nan if the start is zero.
    """

    count: int
    moved: float
    shrinkage: float


def measure_movement(final: Tensor, initial: Tensor) -> Movement:
    """Split a tensor's movement into shrinkage and what is orthogonal to its start.

    Args:
        final: Weights now.
        initial: Weights at the start, of the same shape.

    Returns:
        The split, in float64, block by block.
    """
    n = final.numel()
    product = energy = 0.0
    for w, w0 in _blocks(final, initial):
        product += float(w @ w0)
        energy += float(w0 @ w0)
    if n < 2 or energy == 0.0:
        square = sum(float((w - w0) @ (w - w0)) for w, w0 in _blocks(final, initial))
        return Movement(n, sqrt(square / n) if n else 0.0, nan)
    shrinkage = product / energy
    square = 0.0
    for w, w0 in _blocks(final, initial):
        delta = w - shrinkage * w0
        square += float(delta @ delta)
    return Movement(n, sqrt(square / (n - 1)), shrinkage)


def _blocks(final: Tensor, initial: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    w, w0 = (t.dequantize() if t.is_quantized else t for t in (final.detach(), initial.detach()))
    w, w0 = w.reshape(-1), w0.reshape(-1)
    step = _BLOCK if w.device.type == "cpu" else _DEVICE_BLOCK
    for start in range(0, w.numel(), step):
        part = slice(start, start + step)
        yield w[part].double(), w0[part].to(w.device).double()


@dataclass(frozen=True)
class Displacement:
    """The movement of one parameter since the start of the training.

    Attributes:
        parameter: Qualified name.
        count: Number of weights.
        moved: Rms of the movement orthogonal to the initial weights, in units of the weights.
        shrinkage: Projection of the final on the initial weights; nan if those are all zero.
        walk: Rms movement that this optimiser makes on steady pure noise with the learning rates it
            had; nan where it is not known, 0 if the parameter was not trained.
        faded_walk: The same on noise whose strength over time is that of the gradients sampled
            while watching: smaller than ``walk`` where gradients faded during the training. Nan
            where it is not known.
        note: Why ``walk`` is nan, else empty.
        saliency: First-order importance late in the training, where gradients were sampled.
        normalised: Whether the optimiser divides gradients by their rms.
    """

    parameter: str
    count: int
    moved: float
    shrinkage: float
    walk: float
    faded_walk: float
    note: str = ""
    saliency: float = nan
    normalised: bool = True


class MovementRecord(Protocol):
    """Anything that knows the displacement of a model's parameters, such as a watched history."""

    def displacements(self) -> tuple[Displacement, ...]:
        """One record for each parameter."""
        ...


@dataclass(frozen=True)
class StageMovement:
    """Movement of a stage's kernels, each weight counting once.

    Attributes:
        count: Number of weights.
        moved: Rms movement; nan if the walk is unknown for every kernel.
        walk: Rms noise walk on steady gradients.
        strength: Share of the noise walk that the gradients had strength for: what is left of it
            after they faded. 1 where no gradients were sampled.
        normalised: Whether the optimiser made the walk independent of the gradients' size.
        slowest: Smallest ratio of a kernel's movement to the stage's, its own fading included.
        fastest: The largest one.
        saliency: Sum over the kernels; nan where no gradients were sampled.
        notes: Why kernels were left out.
    """

    count: int
    moved: float
    walk: float
    strength: float
    normalised: bool
    slowest: float
    fastest: float
    saliency: float
    notes: tuple[str, ...]

    @property
    def length(self) -> float:
        """Expected length of the noise walk in the space of all the stage's weights."""
        return self.walk * sqrt(self.count)

    @property
    def ratio(self) -> float:
        """Rms movement / noise walk."""
        return self.moved / self.walk

    @property
    def live(self) -> float:
        """``ratio * strength``: movement counts less where the gradients faded."""
        return self.ratio * self.strength


def stage_movement(
    displacements: Mapping[str, Displacement], kernels: tuple[str, ...]
) -> StageMovement:
    """Movement of the kernels of one stage; those whose walk is unknown or zero are left out."""
    found = [displacements[name] for name in kernels if name in displacements]
    usable = [d for d in found if d.count and d.walk > 0.0 and isfinite(d.moved)]
    notes = (*sorted({d.note for d in found if d.note}), *_not_held(found))
    if not usable:
        return StageMovement(0, nan, nan, nan, True, nan, nan, nan, notes)
    moved = _rms([(d.count, d.moved) for d in usable])
    walk = _rms([(d.count, d.walk) for d in usable])
    strength = _rms([(d.count, _faded(d)) for d in usable]) / walk
    live = moved * strength / walk
    shares = [d.moved * _faded(d) / d.walk**2 / live if live > 0.0 else 1.0 for d in usable]
    return StageMovement(
        count=sum(d.count for d in usable),
        moved=moved,
        walk=walk,
        strength=strength,
        normalised=all(d.normalised for d in usable),
        slowest=min(shares),
        fastest=max(shares),
        saliency=sum(d.saliency for d in usable),
        notes=notes,
    )


def renamed(named: Mapping[str, Any], wanted: Collection[str]) -> list[dict[str, Any]]:
    """What has names, under its own names and with a wrapper's prefix taken off or put on.

    Args:
        named: By names that may begin otherwise (``model.x``, ``module.x``).
        wanted: Names of the network.
    """
    found = [dict(named)]
    for name, own in itertools.product(named, wanted):
        if name.endswith(f".{own}"):
            prefix = name.removesuffix(own)
            return [*found, {n.removeprefix(prefix): value for n, value in named.items()}]
        if own.endswith(f".{name}"):
            prefix = own.removesuffix(name)
            return [*found, {prefix + n: value for n, value in named.items()}]
    return found


def _not_held(found: Sequence[Displacement]) -> Iterator[str]:
    """What is said of kernels that the watched optimiser did not hold; another one may have."""
    left = [d for d in found if d.walk == 0.0 and isfinite(d.moved)]
    still = [d for d in left if d.moved == 0.0 and (d.shrinkage == 1.0 or isnan(d.shrinkage))]
    for kernels, what in (
        (still, "not trained: the watched optimiser does not hold {}"),
        ([d for d in left if d not in still], "moved by something else than the watched optimiser"),
    ):
        if kernels:
            share = "" if len(kernels) == len(found) else f"{len(kernels)} of {len(found)} kernels "
            yield share + what.format("it" if len(kernels) == 1 else "them")


def _rms(counted: Sequence[tuple[int, float]]) -> float:
    """Root of the mean square of values that stand for so many weights each."""
    total = sum(count for count, _ in counted)
    return sqrt(sum(count * value**2 for count, value in counted) / total)


def _faded(displacement: Displacement) -> float:
    """The faded walk, or the steady one where no gradients were sampled."""
    known = isfinite(displacement.faded_walk)
    return displacement.faded_walk if known else displacement.walk
