"""In a regression: the input itself, what a network adds to, and straight lines of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from weightscope.adapters import pytree
from weightscope.calls import tensors_by_place
from weightscope.errors import InputError
from weightscope.probing.nearest import Nearest, like_outputs
from weightscope.utilization.answers import BASE, COMPUTED, INPUT, Constant, Fitted, Images
from weightscope.utilization.constants import finite, loss_of, refined
from weightscope.utilization.metrics import FloatArray
from weightscope.utilization.targets import (
    by_channel,
    channel_shape,
    is_mask,
    is_prediction,
    numbers_for,
    shaped_as,
)

CHANNELS = "channels of the input"
"""The nearest of each channel of the output, where an input has its shape."""

ITSELF = {
    CHANNELS: CHANNELS,
    INPUT: "the input itself",
    BASE: BASE,
    COMPUTED: COMPUTED,
}


def from_input(images: Images, constant: Fitted | None) -> dict[str, FloatArray]:
    """Values of the inputs as outputs: as they are, and by the line that suits each channel best.

    A line, because inputs are often standardised, each channel in its own way, and targets not; the
    best by the metric itself, which may leave values out, from those of the least squares and of
    the least absolute differences on. Where no input has the targets' shape, each of their channels
    is compared with the channel of the inputs that suits it best, at its size. Where the targets
    hold numbers laid otherwise than the outputs (a spectrum, a flat vector, a few points), the
    input stands for the output itself. Empty unless the targets are a regression.

    Of several outputs one after the other gets a line where it helps; the others are constants.

    Args:
        images: What is judged.
        constant: The best one, from which several outputs start; None where there is none.
    """
    first, *others = [
        [place for place, leaf in enumerate(leaves) if is_prediction(leaf)]
        for leaves in images.outputs.leaves
    ]
    several = len(first) > 1
    if any(places != first for places in others) or (several and constant is None):
        return {}
    best = constant if several else None
    known: dict[str, FloatArray] = {}
    lines: _Lines = {}
    for place in first:
        chosen = lines
        regressions = _regressions(images, place)
        for like in _followed(images, place, regressions):
            laid = lines | {place: like}
            answers = _of_line(images, place, laid, best, constant)
            if _are_exact(images, answers, constant, elsewhere=not regressions):
                continue  # of a reconstruction the input is the goal
            for what, tried in answers:
                if what not in known or _is_better(images, tried.values, known[what]):
                    known[what] = tried.values
                if best is None or _is_better(images, tried.values, best.values):
                    best, chosen = tried, laid
        lines = chosen
    return known


def _followed(images: Images, place: int, regressions: Sequence[Sequence[Tensor]]) -> list[_Like]:
    """What of the inputs an output may follow, by its targets; by itself if these are elsewhere."""
    if regressions:
        return [own for true in regressions for own in _likes(images, place, true)]
    found = []
    for (position, what), nearest in images.outputs.nearest.items():
        if position != place:
            continue
        like = []
        for batch, leaves in enumerate(images.outputs.leaves):
            sources, output = images.arranged(batch, place, leaves[place])
            like.append(nearest.of(sources.get(what, []), output))
        known = [x for x in like if x is not None]
        if len(known) == len(like):
            shape, (slope, offset) = channel_shape(known[0]), nearest.line
            own = [slope.to(x).view(shape) * x + offset.to(x).view(shape) for x in known]
            found.append(_in_units(what, known, own, varied=True))
    return found


def _are_exact(
    images: Images,
    answers: Sequence[tuple[str, Fitted]],
    constant: Fitted | None,
    *,
    elsewhere: bool,
) -> bool:
    """Whether the input has no error, but for rounding; or its line has, of targets elsewhere."""
    if constant is None or images.sign > 0.0:
        return False
    asked = [own for what, own in answers if elsewhere or what in ITSELF.values()]
    least = min([abs(float(np.nanmean(own.values))) for own in asked], default=math.inf)
    # beyond what single precision leaves of absolute differences
    return least <= 3e-7 * abs(float(np.nanmean(constant.values)))


def _is_better(images: Images, values: FloatArray, others: FloatArray) -> bool:
    return images.sign * float(np.nanmean(values)) > images.sign * float(np.nanmean(others))


def _regressions(images: Images, place: int) -> list[list[Tensor]]:
    """What of the targets an output may be a regression of, each batch by batch, in its shape.

    Every tensor of its shape, and as many channels of one that holds more (of a depth beside its
    weights, say), first or last. Masks are left out: brightness is no answer to them.
    """
    found: dict[tuple[str, int], list[Tensor]] = {}
    for batch, leaves in enumerate(images.outputs.leaves):
        for name, leaf in tensors_by_place(images.targets(batch)).items():
            for side, part in enumerate(numbers_for(leaf, leaves[place].shape)):
                found.setdefault((name, side), []).append(part)
    whole = [own for own in found.values() if len(own) == len(images.outputs.leaves)]
    return [own for own in whole if not all(map(is_mask, own))]


@dataclass(frozen=True)
class _Like:
    """What of the input an output may follow, in units of mean 0 and spread 1.

    So a search finds its way.

    Attributes:
        what: `INPUT`, `BASE` or `COMPUTED`.
        batches: Of each batch, (images, channels, *sizes).
        targets: What follows it, in the same shape.
        spread: Of each channel.
        mean: Of each channel.
        varied: Whether the line of the targets may be no start for all channels, as for a variance
            beside a mean.
    """

    what: str
    batches: list[Tensor]
    targets: list[Tensor]
    spread: Tensor
    mean: Tensor
    varied: bool


_Lines = dict[int, _Like]
"""By the place of the output among all leaves."""


def _likes(images: Images, place: int, targets: Sequence[Tensor]) -> list[_Like]:
    """What follows some targets: of the inputs, and what the output is added to."""
    try:
        pairs = [images.arranged(batch, place, target) for batch, target in enumerate(targets)]
    except InputError:  # tokens of which either axis may be the positions
        return []
    true = [target for _, target in pairs]
    found: list[list[Tensor]] = []
    likes = []
    for what in (INPUT, BASE, COMPUTED):
        if all(what in x for x, _ in pairs):
            sources = _without_goals([x[what] for x, _ in pairs], true)
            laid = zip(sources, true, strict=True)
            alike = all(any(x.shape == y.shape for x in own) for own, y in laid)
            for each, like in enumerate(_nearest(sources, true)):
                if not any(_is_exact(own, like) for own in found):
                    found.append(like)
                    named = CHANNELS if what == INPUT and each and alike else what
                    likes.append(_in_units(named, like, true, varied=_repeats(true)))
    return likes


def _nearest(sources: Sequence[Sequence[Tensor]], true: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """What of some images follows targets: that of their shape, and the nearest of each channel."""
    for each in (False, True):  # several channels may be of one of the image's, whatever its shape
        nearest = like_outputs(true, sources, by_channel=each)
        like = [x for x in nearest if x is not None]
        if len(like) == len(true):
            yield like


def _without_goals(
    sources: Sequence[Sequence[Tensor]], true: Sequence[Tensor]
) -> list[list[Tensor]]:
    """The images of each batch but those that the targets are, but for their units.

    Of a reconstruction the input is the goal, not an answer without a network. What it adds to, and
    the other images of a pair, may be one.
    """
    goals = {
        place
        for place in range(min(map(len, sources), default=0))
        if any(_is_exact(like, true) for like in _nearest([[own[place]] for own in sources], true))
    }
    return [[x for place, x in enumerate(own) if place not in goals] for own in sources]


def _is_exact(like: Sequence[Tensor], true: Sequence[Tensor]) -> bool:
    """Whether each channel of the targets is a straight line of an image's, but for rounding."""
    for channel in range(math.prod(channel_shape(true[0]))):
        pairs = [
            (by_channel(x)[channel], by_channel(y)[channel])
            for x, y in zip(like, true, strict=True)
        ]
        slope, offset = line(pairs)
        away = sum(float((y - slope * x - offset).square().nansum()) for x, y in pairs)
        spread, middle = _spread([y for _, y in pairs])
        numbers = sum(y.numel() for _, y in pairs)
        # 1e-6: beyond the rounding of single precision, that of a mean far from zero too
        if not slope or away > (1e-6 * (spread + abs(middle))) ** 2 * numbers:
            return False
    return True


def _in_units(what: str, like: list[Tensor], true: list[Tensor], *, varied: bool) -> _Like:
    """See `_Like`."""
    shape = channel_shape(like[0])
    channels = range(math.prod(shape))
    spread, mean = _columns([_spread([by_channel(x)[c] for x in like]) for c in channels])
    units = [[n.to(x.device, x.dtype).view(shape) for n in (mean, spread)] for x in like]
    scaled = [(x - own[0]) / own[1] for x, own in zip(like, units, strict=True)]
    return _Like(what, scaled, true, spread, mean, varied)


def _of_line(
    images: Images, place: int, lines: _Lines, beside: Fitted | None, constant: Fitted | None
) -> list[tuple[str, Fitted]]:
    """The inputs that follow some targets in an output's place, and the best lines of these.

    Args:
        images: What is judged.
        place: Of the output.
        lines: What of the input this output may follow, and what others do already.
        beside: What the others are, so far.
        constant: The best one, where a line is looked for too.
    """

    def answer(batch: int, numbers: Constant) -> Any:
        flat = {i: n for i, n in numbers.items() if i >= 0 and i not in lines}
        made, spec = pytree.tree_flatten(images.outputs.constant(batch, flat))
        for i, like in lines.items():
            x = like.batches[batch]
            slope, offset = (
                numbers[key].to(x.device, x.dtype).view(channel_shape(x)) for key in (~i, i)
            )
            laid = shaped_as(slope * x + offset, made[i])
            made[i] = images.outputs.ranges[i].no_longer(laid, 1)
        return pytree.tree_unflatten(made, spec)

    def fitted(numbers: Constant) -> Fitted | None:
        values = images.values(lambda batch: answer(batch, numbers))
        return None if values is None else Fitted(values, numbers)

    def with_line(slope: Tensor, offset: Tensor) -> Constant:
        return ({} if beside is None else beside.numbers) | {~place: slope, place: offset}

    like = lines[place]
    found = [(ITSELF[like.what], fitted(with_line(like.spread, like.mean)))]
    pairs = list(zip(like.batches, like.targets, strict=True))
    tried = []
    for fit in (line, line_between):
        rows = [
            [(by_channel(x)[c], by_channel(y)[c]) for x, y in pairs] for c in range(len(like.mean))
        ]
        tried.append(with_line(*_columns([fit(row) for row in rows])))
    start = min(tried, key=lambda numbers: finite(loss_of(images, numbers, answer)))
    tried.append(refined(images, start, answer))
    level = None if constant is None else constant.numbers.get(place)
    apart = level is not None and level.numel() == like.mean.numel()  # not where channels are last
    if level is not None and apart and like.varied:
        offset = images.outputs.ranges[place].link(level).to(like.mean).reshape(like.mean.shape)
        tried.append(refined(images, with_line(torch.zeros_like(like.mean), offset), answer))
    found += [(f"a straight line of {like.what}", fitted(numbers)) for numbers in tried]
    return [(what, own) for what, own in found if own is not None]


def _repeats(targets: Sequence[Tensor]) -> bool:
    """Whether the first of several channels, (images, channels, *sizes), comes again."""
    others = range(1, targets[0].shape[1])
    return any(all(torch.equal(y[:, 0], y[:, other]) for y in targets) for other in others)


def _spread(parts: Sequence[Tensor]) -> tuple[float, float]:
    """Standard deviation and mean of all finite values; 1 for what does not vary."""
    x = torch.cat([part.detach().cpu().double().flatten() for part in parts])
    x = x[torch.isfinite(x)]
    spread = float(x.std(unbiased=False)) if len(x) else 0.0
    return spread if spread > 0.0 else 1.0, float(x.mean()) if len(x) else 0.0


def _columns(rows: Sequence[tuple[float, float]]) -> Tensor:
    """Rows of two numbers as two columns, (2, rows)."""
    return torch.tensor(rows, dtype=torch.float64, device="cpu").T


def line_between(pairs: Sequence[tuple[Tensor, Tensor]]) -> tuple[float, float]:
    """Slope and offset of the line of least absolute differences, by least squares weighted anew.

    Of every so many values, where there are more than `ENOUGH`.
    """
    x, y = (
        torch.cat([part.detach().cpu().double().flatten() for part in parts])
        for parts in zip(*pairs, strict=True)
    )
    known = torch.isfinite(x) & torch.isfinite(y)
    x, y = x[known], y[known]
    x, y = (part[:: len(part) // ENOUGH + 1] for part in (x, y))
    weight = torch.ones_like(x)
    slope, offset = 0.0, 0.0
    for _ in range(ROUNDS):
        share = weight / weight.sum()
        mean_x, mean_y = share @ x, share @ y
        spread = float(share @ (x - mean_x) ** 2)
        varies = spread > 1e-12 * float(mean_x) ** 2  # beyond rounding
        slope = float(share @ ((x - mean_x) * (y - mean_y))) / spread if varies else 0.0
        offset = float(mean_y) - slope * float(mean_x)
        away = (y - slope * x - offset).abs()
        weight = 1.0 / away.clamp_min(max(1e-6 * float(away.max()), 1e-300))
    return slope, offset


ENOUGH = 100_000
"""Values that a line of two numbers is fitted to."""

ROUNDS = 30
"""Of weighting anew: the line hardly moves any more."""


def line(pairs: Sequence[tuple[Tensor, Tensor]]) -> tuple[float, float]:
    """Slope and offset of the least squares line over all values of some pairs (x, y)."""
    nearest = Nearest()
    for pair in pairs:
        x, y = (part.detach().cpu().flatten() for part in pair)
        known = torch.isfinite(x) & torch.isfinite(y)
        nearest = nearest.with_batch(y[known][None, None], [x[known][None, None]])
    slope, offset = nearest.line
    return float(slope), float(offset)
