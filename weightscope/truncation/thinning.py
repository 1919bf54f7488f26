"""A thinner network: channels go, with all that is coupled with them."""

from __future__ import annotations

import difflib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from weightscope.adapters import pytree
from weightscope.calls import called, say, undisturbed
from weightscope.copies import deep_copy
from weightscope.errors import InputError, TruncationError, UnknownLayerError, keyword
from weightscope.truncation.building import apply_thinning, without_channels
from weightscope.truncation.channels import Recut
from weightscope.truncation.couplings import Coupling, Staying, read_couplings, read_groups
from weightscope.truncation.recovery import refuse_broken
from weightscope.truncation.variant import Ranking, Variant

HALVINGS = 10
"""Of the share of channels, on the way to a budget: its last step is a thousandth."""

ALIKE = 1e-3
"""Largest difference, relative to the largest output, between the thinner network and the one in
which the weights that read the removed channels are zero. Rounding of float32 gives 1e-5 to
1e-4."""

Gone = Sequence[set[int]]
"""For each coupling the channels that go."""


def thin(
    variant: Variant,
    keep: float | Mapping[str, int] | None,
    *,
    max_macs: float | None,
    by: Ranking,
    seed: int,
) -> Variant:
    """Take channels out of a variant; see ``Variant.thin``."""
    if (keep is None) == (max_macs is None):
        raise InputError(f"give either {keyword('keep')} or {keyword('max_macs')}")
    if by not in ("magnitude", "random"):
        raise InputError(f"{keyword('by', repr(by))}; expected 'magnitude' or 'random'")
    if not isinstance(keep, Mapping | None) and not 0 < keep <= 1:
        raise InputError(
            f"{keyword('keep', keep)} must be a share above 0 and at most 1, or widths by layer"
        )
    if max_macs is not None and max_macs <= 0:
        raise InputError(f"{keyword('max_macs', max_macs)}; give a number above 0")
    refuse_broken(variant.module, "the network", "load others")
    couplings = read_couplings(variant.module, variant.structure.inputs)
    try:
        return _thinner(variant, couplings, keep, max_macs, by, seed)
    except _MisreadError:
        sound = [coupling for coupling in couplings if _is_sound(variant, coupling)]
        if not 0 < len(sound) < len(couplings):
            raise
        return _thinner(variant, sound, keep, max_macs, by, seed)


class _MisreadError(TruncationError):
    """The dependency graph has read the network wrongly."""


def _thinner(
    variant: Variant,
    couplings: Sequence[Coupling],
    keep: float | Mapping[str, int] | None,
    max_macs: float | None,
    by: Ranking,
    seed: int,
) -> Variant:
    """`thin` with some of the couplings; the channels of the others stay.

    Raises:
        _MisreadError: One of them is read wrongly.
    """
    scores = rank(variant.module, couplings, by, seed)
    if isinstance(keep, Mapping):
        gone = _by_width(variant, couplings, scores, keep)
    elif keep is not None:
        gone = _by_share(couplings, scores, keep)
    else:
        gone = _within(variant, couplings, scores, cast(float, max_macs))
    thinner = _followed(variant, couplings, gone)
    _check(variant, thinner.module, couplings, gone)
    return thinner


def _is_sound(variant: Variant, coupling: Coupling) -> bool:
    """Whether the network runs, and answers as it should, without some of them."""
    share = _odd_share(coupling.channels // coupling.chunks)
    gone = _by_share([coupling], rank(variant.module, [coupling], "magnitude", 0), share)
    try:
        narrow = without_channels(variant.module, _recuts(variant.module, [coupling], gone))
        _check(variant, narrow, [coupling], gone)
    except TruncationError:
        return False
    return True


def _odd_share(size: int) -> float:
    """At most half, of which nothing that divides the whole divides what is left.

    So heads of attention that have a fixed width fail, where half of the channels would pass for
    half of the heads.
    """
    return next(n for n in range(max(1, size // 2), 0, -1) if math.gcd(n, size) == 1) / size


def _followed(variant: Variant, couplings: Sequence[Coupling], gone: Gone) -> Variant:
    """`_without`, where it runs.

    Raises:
        _MisreadError: The dependency graph has read the network wrongly.
    """
    try:
        return _without(variant, couplings, gone)
    except TruncationError as reason:
        raise _wrong(str(reason)) from reason


def _wrong(how: str) -> _MisreadError:
    return _MisreadError(
        f"the channels of this network were followed wrongly ({how}); it can be made shallower, not"
        " thinner"
    )


# --- which channels go ------------------------------------------------------------------------


def rank(
    module: nn.Module, couplings: Sequence[Coupling], by: Ranking, seed: int
) -> list[list[float]]:
    """How much each channel of each coupling is worth: what has least goes first.

    ``magnitude`` is the squared norm of a channel's slice of each weight, relative to the mean of
    all channels, averaged over the weights (Fang et al. 2023, *DepGraph*).
    """
    if by == "random":
        generator = torch.Generator().manual_seed(seed)
        return [
            torch.rand(c.channels, generator=generator, device="cpu", dtype=torch.float32).tolist()
            for c in couplings
        ]
    state = module.state_dict(keep_vars=True)
    return [_norms(coupling, state) for coupling in couplings]


def _norms(coupling: Coupling, state: Mapping[str, Tensor]) -> list[float]:
    total = torch.zeros(coupling.channels, device="cpu", dtype=torch.float64)
    for part in coupling.parts:
        tensor = state.get(part.tensor)
        if tensor is None or tensor.dim() < 2:
            continue  # a bias or a norm's scale is of another kind than a weight
        moved = tensor.detach().movedim(part.dimension, 0).flatten(1).double().square().sum(1).cpu()
        own = torch.zeros_like(total)
        channels, indices = torch.tensor(part.places, device="cpu").unbind(1)
        own.index_add_(0, channels, moved[indices])
        total += own / own.mean().clamp_min(1e-30)
    return cast(list[float], total.tolist())


def _by_share(
    couplings: Sequence[Coupling], scores: Sequence[Sequence[float]], share: float
) -> Gone:
    """Of every coupling the same share goes; one channel of every tensor always stays."""
    found = []
    for coupling, score in zip(couplings, scores, strict=True):
        size, stays = coupling.channels // coupling.chunks, _last(coupling, score)
        chunks = [range(first, first + size) for first in range(0, coupling.channels, size)]
        count = size - max(1, round(share * size), *(len(stays & set(c)) for c in chunks))
        found.append(
            {
                channel
                for chunk in chunks
                for channel in _lowest([c for c in chunk if c not in stays], score)[:count]
            }
        )
    return found


def _last(coupling: Coupling, score: Sequence[float]) -> set[int]:
    """The best channel of every tensor that holds some of a coupling's: without it, none is left.

    So of branches that are concatenated and added to something, each keeps a channel.
    """
    stays: set[int] = set()
    held = {frozenset(channel for channel, _ in part.places) for part in coupling.parts}
    for channels in sorted(held, key=lambda channels: (len(channels), min(channels))):
        if stays.isdisjoint(channels):
            stays.add(_lowest(sorted(channels), score)[-1])
    return stays


def _lowest(channels: Sequence[int], score: Sequence[float]) -> list[int]:
    return sorted(channels, key=lambda channel: score[channel])


def _within(
    variant: Variant,
    couplings: Sequence[Coupling],
    scores: Sequence[Sequence[float]],
    max_macs: float,
) -> Gone:
    """What goes at the largest share of channels whose MACs are within a budget.

    The share is found by prediction; what is built is counted.

    Raises:
        TruncationError: One channel everywhere is above the budget.
    """
    low, high = 0.0, 1.0
    for _ in range(HALVINGS):
        tried = (low + high) / 2
        recuts = _recuts(variant.module, couplings, _by_share(couplings, scores, tried))
        if _predicted_macs(variant, recuts) <= max_macs:
            low = tried
        else:
            high = tried
    while True:
        gone = _by_share(couplings, scores, low)
        macs = _followed(variant, couplings, gone).costs.macs
        if macs <= max_macs:
            return gone
        if low == 0.0:
            raise TruncationError(
                f"{keyword('max_macs', f'{math.floor(max_macs):,}')} cannot be reached by thinning:"
                f" with one channel in every layer that can lose some it still costs {macs:,}"
            )
        low = low * 0.95 if low > 0.01 else 0.0


def _predicted_macs(variant: Variant, recuts: Sequence[Recut]) -> float:
    """MACs of layers follow the sizes of their weights; all other MACs stay."""
    layers = variant.costs.layers
    ratios: dict[str, float] = {}
    for recut in recuts:
        layer, _, leaf = recut.tensor.rpartition(".")
        if leaf == "weight" and layer in layers:
            size = size_of(variant.module, recut.tensor, recut.dimension)
            ratios[layer] = ratios.get(layer, 1.0) * len(recut.source) / size
    saved = sum(layers[layer].macs * (1 - ratio) for layer, ratio in ratios.items())
    return variant.costs.macs - saved


def _by_width(
    variant: Variant,
    couplings: Sequence[Coupling],
    scores: Sequence[Sequence[float]],
    widths: Mapping[str, int],
) -> Gone:
    """Named layers get the given numbers of channels, and what is coupled with them too.

    Raises:
        UnknownLayerError: A name that the network does not have.
        InputError: A width that cannot be reached.
    """
    made = _made(variant.module, couplings)
    for layer in widths:
        if layer not in made:
            raise _unknown(variant, layer, made)
    gone: list[set[int]] = [set() for _ in couplings]
    settled = [_last(*pair) for pair in zip(couplings, scores, strict=True)]
    for layer in sorted(widths, key=lambda name: len(made[name][1])):
        width, channels = made[layer]
        left = width - sum(c in gone[k] for k, c in channels)
        free = [(k, c) for k, c in channels if c not in settled[k] and c not in gone[k]]
        units = _units(couplings, scores, free)
        widths_left = {left - n for n in _sums(units)}
        if widths[layer] not in widths_left:
            raise InputError(_unreachable(layer, width, widths, len(free), widths_left, units))
        for k, c in _drawn(units, left - widths[layer]):
            gone[k].add(c)
        for k, c in channels:
            settled[k].add(c)
    for coupling, lost in zip(couplings, gone, strict=True):
        size = coupling.channels // coupling.chunks
        counts = {sum(c // size == i for c in lost) for i in range(coupling.chunks)}
        if len(counts) > 1:
            raise InputError(
                f"keep: the channels of {coupling.layer!r} are normalised in groups: each of the "
                f"{coupling.chunks} runs of {size} must lose the same. Give all layers that make "
                "some of them widths that fit, leave them out or give a share"
            )
    return gone


_Unit = Sequence[tuple[int, int]]
"""Channels that can only go together: pairs of the number of a coupling and a channel of it."""


def _units(
    couplings: Sequence[Coupling], scores: Sequence[Sequence[float]], free: _Unit
) -> list[_Unit]:
    """Channels that can go, the least worth first: one of every run where there are such."""
    runs: dict[int, dict[int, list[int]]] = {}
    for k, c in free:
        size = couplings[k].channels // couplings[k].chunks
        runs.setdefault(k, {}).setdefault(c // size, []).append(c)
    units = [
        [(k, c) for c in unit]
        for k, of_runs in runs.items()
        for unit in zip(*(_lowest(run, scores[k]) for run in of_runs.values()), strict=False)
    ]
    return sorted(units, key=lambda unit: sum(scores[k][c] for k, c in unit) / len(unit))


def _sums(units: Sequence[_Unit]) -> set[int]:
    """How many channels can go."""
    sums = {0}
    for size, count in Counter(map(len, units)).items():
        sums = {done + size * n for done in sums for n in range(count + 1)}
    return sums


def _drawn(units: Sequence[_Unit], count: int) -> _Unit:
    """So many channels, of the first units with which that can be."""
    drawn: list[tuple[int, int]] = []
    alike = len(set(map(len, units))) == 1
    for i, unit in enumerate(units):
        rest = count - len(drawn) - len(unit)
        if rest >= 0 and (alike or rest in _sums(units[i + 1 :])):
            drawn += unit
    return drawn


def _unreachable(
    layer: str,
    width: int,
    widths: Mapping[str, int],
    free: int,
    possible: set[int],
    units: Sequence[_Unit],
) -> str:
    """Why a layer cannot have a width, and which are the nearest that it can."""
    wanted, together = widths[layer], max(map(len, units), default=1)
    if min(possible) < wanted < max(possible):
        near = (
            f"{max(n for n in possible if n < wanted)} or {min(n for n in possible if n > wanted)}"
        )
        return (
            f"keep: {layer!r} has {width} channels and cannot have {wanted}: they are normalised in"
            f" groups, so that they can only go {together} at a time; give {near}"
        )
    return (
        f"keep: {layer!r} has {width} channels, of which {free} can still go, and shall have "
        f"{wanted}; the widths of the layers that it is coupled with must fit"
    )


def _made(
    module: nn.Module, couplings: Sequence[Coupling]
) -> dict[str, tuple[int, list[tuple[int, int]]]]:
    """For each layer that makes channels: their number, and which of them can go."""
    found: dict[str, tuple[int, list[tuple[int, int]]]] = {}
    state = module.state_dict()
    for k, coupling in enumerate(couplings):
        for part in coupling.parts:
            tensor = state.get(part.tensor)
            if part.makes and tensor is not None and tensor.dim() > 1:
                _, channels = found.setdefault(part.layer, (tensor.shape[part.dimension], []))
                channels += [(k, channel) for channel, _ in part.places]
    return found


def _unknown(variant: Variant, layer: str, made: Mapping[str, Any]) -> InputError:
    if layer in dict(variant.module.named_modules()):
        groups = read_groups(variant.module, variant.structure.inputs)
        whys = [g.why for g in groups if isinstance(g, Staying) and layer in g.layers]
        free = _made(variant.module, [g for g in groups if isinstance(g, Coupling)])
        if layer in free:
            whys.append("are wanted by a forward that does not run, or answers otherwise, without")
        cause = f", for they {whys[0]}" if whys else ""
        return InputError(f"keep: the channels of {layer!r} must stay{cause}; leave it out")
    near = difflib.get_close_matches(layer, made, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return UnknownLayerError(f"keep: the network has no layer {layer!r}{hint}")


# --- taking them out --------------------------------------------------------------------------


def _without(variant: Variant, couplings: Sequence[Coupling], gone: Gone) -> Variant:
    recuts = _recuts(variant.module, couplings, gone)
    before = {(r.tensor, r.dimension): r.source for r in variant.plan.thinned}
    for recut in recuts:
        place = recut.tensor, recut.dimension
        old = before.get(place)
        before[place] = recut.source if old is None else tuple(old[i] for i in recut.source)
    thinned = tuple(Recut(tensor, d, source) for (tensor, d), source in sorted(before.items()))
    return apply_thinning(variant, recuts, replace(variant.plan, thinned=thinned))


def _recuts(module: nn.Module, couplings: Sequence[Coupling], gone: Gone) -> tuple[Recut, ...]:
    """What stays of each tensor that loses channels."""
    lost: dict[tuple[str, int], set[int]] = {}
    for coupling, channels in zip(couplings, gone, strict=True):
        for part in coupling.parts if channels else ():
            indices = lost.setdefault((part.tensor, part.dimension), set())
            indices.update(index for channel, index in part.places if channel in channels)
    return tuple(
        Recut(tensor, d, tuple(i for i in range(size_of(module, tensor, d)) if i not in indices))
        for (tensor, d), indices in lost.items()
    )


def size_of(module: nn.Module, tensor: str, dimension: int) -> int:
    """The size of a tensor, or the width of a layer without tensors."""
    path, _, leaf = tensor.rpartition(".")
    value = getattr(module.get_submodule(path), leaf)
    return value if isinstance(value, int) else int(value.shape[dimension])


def _check(variant: Variant, narrow: nn.Module, couplings: Sequence[Coupling], gone: Gone) -> None:
    """Compare the thinner network with one whose weights that read removed channels are zero.

    A normalisation over several channels sees in both those that stay, and no others.

    Raises:
        _MisreadError: The dependency graph has read the network wrongly.
    """
    deaf = deep_copy(variant.module)
    tensors = deaf.state_dict(keep_vars=True)
    lost: dict[str, set[int]] = {}
    with torch.no_grad():
        for coupling, channels in zip(couplings, gone, strict=True):
            for part in coupling.parts if channels else ():
                indices = [index for channel, index in part.places if channel in channels]
                if isinstance(deaf.get_submodule(part.layer), nn.GroupNorm | nn.LayerNorm):
                    lost.setdefault(part.layer, set()).update(indices)
                elif not part.makes:
                    tensor = tensors[part.tensor]
                    where = torch.tensor(indices, dtype=torch.long, device=tensor.device)
                    tensor.index_fill_(part.dimension, where, 0.0)
    for layer, away in lost.items():
        _normalise_the_rest(deaf, layer, narrow.get_submodule(layer), away)
    difference = _difference(variant, deaf, narrow)
    if difference:
        raise _wrong(difference)


def _normalise_the_rest(deaf: nn.Module, layer: str, narrow: nn.Module, lost: set[int]) -> None:
    """Let a normalisation over several channels pass those that are lost, as zeros."""
    wide = deaf.get_submodule(layer)

    def passed(_: nn.Module, given: tuple[Tensor, ...], made: Tensor) -> Tensor:
        (x,) = given
        axis = 1 if isinstance(wide, nn.GroupNorm) else _axis(cast(nn.LayerNorm, wide), x, made)
        stays = torch.tensor([i for i in range(x.shape[axis]) if i not in lost], device=x.device)
        some = narrow(x.index_select(axis, stays))
        return torch.zeros_like(x, dtype=some.dtype).index_copy(axis, stays, some)

    wide.register_forward_hook(passed)


def _axis(norm: nn.LayerNorm, x: Tensor, made: Tensor) -> int:
    """Where the channels of a layer normalisation lie: a class of others may have them second."""
    size = norm.normalized_shape[0]
    if x.shape[-1] != size or (x.shape[1] == size and not torch.allclose(
        F.layer_norm(x, (size,), norm.weight, norm.bias, norm.eps).to(made.dtype), made, atol=1e-3
    )):  # fmt: skip
        return 1
    return -1


def _difference(variant: Variant, a: nn.Module, b: nn.Module) -> str:
    """How the outputs of two networks differ on the example inputs, in words."""
    inputs = variant.structure.inputs
    found = []
    for module in (a, b):
        with undisturbed(module), torch.no_grad():
            try:
                outputs = called(module, inputs.args, inputs.kwargs)
            except Exception as reason:  # noqa: BLE001 - code of others on widths it was not made for
                return f"without them it does not run: {say(reason).splitlines()[0]}"
        found.append([x for x in pytree.tree_leaves(outputs) if isinstance(x, Tensor)])
    for x, y in zip(*found, strict=True):
        if x.shape != y.shape:
            return f"an output of shape {tuple(x.shape)} became {tuple(y.shape)}"
        if x.is_floating_point():
            far = float((x - y).abs().max()) / max(float(x.abs().max()), 1e-30)
            if far > ALIKE * max(1.0, torch.finfo(x.dtype).eps / 1e-5):
                return f"outputs differ by {far:.2g} of the largest"
    return ""
