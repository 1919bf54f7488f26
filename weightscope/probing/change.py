"""How much an output changes when a level is replaced by its mean: sums, and figures of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from weightscope.errors import InputError
from weightscope.graph.running import CutRuns, MeanActivation, Tail
from weightscope.graph.structure import Structure
from weightscope.probing.inputs import (
    all_channels,
    as_large_as,
    image_of,
    in_channels,
    without_gaps,
)
from weightscope.probing.nearest import Filling, Nearest, varies
from weightscope.probing.outputs import (
    Reading,
    certainty,
    image_predictions,
    probabilities,
)
from weightscope.probing.resolution import pair_sums, resolution
from weightscope.thresholds import BARE, CERTAIN, CONSTANT, FOLLOWS, RAREST_DECISION

Floats = NDArray[np.float64]

ROUNDING = 1e-12
"""Mean square of what rounding may add to numbers of float32, as a share of their own: that of some
eight roundings in a row."""

NO_MOVEMENT = 1e-6
"""Share of what varies below which a movement that rounding may make is none: a response of
0.001."""

CONSTANTS = 16
"""Channels in the place of the levels that get a constant of their own; of more one is taken."""

NOT_FINITE = (
    "the outputs hold nan or infinite values; look for them in the images (leave these out), in "
    "buffers such as the running statistics of norms, and for numbers that overflow"
)


@dataclass(frozen=True)
class Figures:
    """What one kind of image shows under each weighting of its images.

    Attributes:
        decisions: `change` of the probabilities of all decisions; nan where these are all alike.
        flips: Share of the positions whose decision changes.
        by_chance: Share that would change if the decisions had nothing in common.
        change: See `CutResponse`.
        certainty: Of the whole network's decisions.
        resolved: See `CutResponse`.
        follows: Least correlation of a channel of the output with that of the input, see `Nearest`.
        parts: `change` of the probability of each decision, (weightings, decisions); nan for those
            that the whole network hardly takes.
        channels: `change` of each channel, (weightings, channels).
        labels: `decisions` and `parts` if each channel decides for itself, (weightings,
            1 + channels); nan where nothing suggests that.
        moved: See `CutResponse`.
        spread: See `CutResponse`.
        below: Share of the positions at which a single channel says no; 0 of several channels.
        shares: Whether any outputs are probabilities.
    """

    decisions: Floats
    flips: Floats
    by_chance: Floats
    change: Floats
    certainty: float
    resolved: float
    follows: float
    parts: Floats
    channels: Floats
    labels: Floats
    moved: float
    spread: float
    below: float
    shares: bool


@dataclass(frozen=True)
class Change:
    """Sums over the positions of each image, from which every figure follows.

    Attributes:
        flips: Number of positions whose decision changed, (images,).
        before: Number of positions of each decision of the whole network, (images, decisions).
        after: The same of the cut network.
        certainty: Of the whole network, (images,).
        sums: Of 1, w, c, x, w^2, c^2, x^2, w c, w x and c x over positions, (images, channels, 10),
            where w is the output of the whole network, c that of the cut one, both less the middle
            of the whole network's channel, and x the input, or 0 where there is none.
        rounding: Of the square of what rounding may add to the whole network's numbers, (images,
            channels).
        shares: As `sums`, of the probabilities of each decision without an input and as they are,
            (images, decisions, 10).
        labels: The same if each of several channels decides for itself, (images, channels, 10);
            0 where none does.
        above: Number of positions above zero in the whole network and in the cut one, (images,
            channels, 2).
        bare: `Reading.bare` of all images, (images,).
        share: Whether the outputs are probabilities, (images,).
        pairs: Of the whole network, see `pair_sums`, over the images of each batch, (batches,
            pairs, 4).
        level: Mean square of the channels' means over all images, (images,).
    """

    flips: Floats
    before: Floats
    after: Floats
    certainty: Floats
    sums: Floats
    rounding: Floats
    shares: Floats
    labels: Floats
    above: Floats
    pairs: Floats
    bare: Floats
    share: Floats
    level: Floats

    @property
    def same_for_every_image(self) -> bool:
        """Whether the whole network answers all images alike, but for rounding."""
        moments = self.sums[..., [1, 4]]
        return bool(np.ptp(moments, 0).max() <= 1e-12 * np.abs(moments).max())

    @property
    def lost_in_rounding(self) -> bool:
        """Whether no channel of the whole network varies by more than rounding may."""
        whole = _apart(self.sums, np.ones((1, len(self.sums))), self.rounding)
        return not bool((whole.spread > whole.rounding).any())

    @property
    def handed_on(self) -> bool:
        """Whether the whole network adds the same number everywhere, but for rounding."""
        whole = _apart(self.sums, np.ones((1, len(self.sums))), self.rounding)
        return not bool((whole.added > whole.rounding).any())

    def figures(self, weights: Floats) -> Figures:
        """Figures for each weighting of the images, (weightings, images)."""
        numbers, shares = _apart(self.sums, weights, self.rounding), _apart(self.shares, weights)
        before, after = weights @ self.before, weights @ self.after
        total = before.sum(1, keepdims=True)
        varied = (before + after > 0) & (before + after < 2 * total)
        often = self.before.sum(0) / self.before.sum()
        alike = often.max() >= 1 - RAREST_DECISION
        spread = float(np.sqrt(numbers.spread[0].mean()))
        return Figures(
            shares.pooled(varied) * (np.nan if alike else 1.0),
            weights @ self.flips / total[:, 0],
            1 - (before * after).sum(1) / total[:, 0] ** 2,
            np.nan_to_num(numbers.pooled()),
            float(self.certainty.mean()),
            self._resolved(spread),
            float(numbers.follows[0].min()),
            shares.each(varied & (often >= RAREST_DECISION)),
            np.nan_to_num(numbers.each()),
            self._labels(weights),
            float(np.sqrt(numbers.moved[0].mean())),
            spread,
            float(before[0, 0] / total[0, 0]) if self.sums.shape[1] == 1 else 0.0,
            bool(self.share.any()),
        )

    def _resolved(self, spread: float) -> float:
        """See `resolution`; 0 where the numbers, of this spread, hardly vary against their size."""
        constant = spread**2 <= CONSTANT**2 * self.level.mean()
        return 0.0 if constant else resolution(self.pairs.sum(0))

    def _labels(self, weights: Floats) -> Floats:
        """The change if each channel decides for itself: of all, then of each."""
        positions = self.sums[:, 0, 0]
        often = self.above[..., 0].sum(0) / positions.sum()
        decides = (often >= RAREST_DECISION) & (often <= 1 - RAREST_DECISION)
        if float(self.bare.mean()) <= BARE or not decides.any():
            return np.full((len(weights), 1 + len(often)), np.nan)
        taken, total = np.tensordot(weights, self.above.sum(-1), 1), (weights @ positions)[:, None]
        varied = (taken > 0) & (taken < 2 * total) & decides
        apart = _apart(self.labels, weights)
        return np.column_stack([apart.pooled(varied), apart.each(varied)])


@dataclass(frozen=True)
class _Apart:
    """How far two answers are apart, each (weightings, channels).

    Attributes:
        moved: Mean square of their difference.
        chance: What that would be if they had nothing in common but the straight line of the input.
        rounding: Mean square of what rounding may add to the whole network's answer.
        spread: Variance of it.
        added: Variance of what it adds to the input.
        follows: Correlation of it with the input.
    """

    moved: Floats
    chance: Floats
    rounding: Floats
    spread: Floats
    added: Floats
    follows: Floats

    def each(self, told: Any = True) -> Floats:
        """The root of one minus Lin's concordance of each channel; nan where nothing is told."""
        return _root(self.moved, self.chance, self.rounding, told & self._varied)

    def pooled(self, told: Any = True) -> Floats:
        """The same of all channels that tell something together, (weightings,)."""
        told = told & self._varied
        moved, chance, rounding = (
            np.where(told, t, 0.0).sum(1) for t in (self.moved, self.chance, self.rounding)
        )
        return _root(moved, chance, rounding, told.any(1))

    @property
    def _varied(self) -> NDArray[np.bool_]:
        """Where there is more than rounding: what does not vary cannot change."""
        return self.chance > self.rounding


def _root(moved: Floats, chance: Floats, rounding: Floats, told: Any) -> Floats:
    """The root of a share; 0 where nothing moves but by rounding, nan where nothing can."""
    with np.errstate(divide="ignore", invalid="ignore"):
        # rounding that is large beside what varies may hide a movement, and is shown
        still = moved <= np.minimum(rounding, NO_MOVEMENT * chance)
        return np.where(told, np.where(still, 0.0, np.sqrt(moved / chance)), np.nan)


def _apart(sums: Floats, weights: Floats, rounding: Floats | None = None) -> _Apart:
    """Weigh the sums of images and what rounding may add to them, see `Change`."""
    n, *moments = np.moveaxis(np.tensordot(weights, sums, 1), -1, 0)
    w, c, x, ww, cc, xx, wc, wx, cx = (moment / n for moment in moments)
    lost = ROUNDING * ww if rounding is None else weights @ rounding / n
    var_w, var_c, var_x = (np.maximum(d, 0.0) for d in (ww - w * w, cc - c * c, xx - x * x))
    cov_w, cov_c = wx - w * x, cx - c * x
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = np.where(var_x > 0, cov_w / var_x, 0.0)
        follows = np.where(var_x * var_w > 0, cov_w / np.sqrt(var_w * var_x), 0.0)
    own = var_w + var_c - 2 * slope * (cov_w + cov_c) + 2 * slope**2 * var_x
    chance = np.maximum(own, 0.0) + (w - c) ** 2
    return _Apart(
        np.maximum(ww - 2 * wc + cc, 0.0), chance, lost, var_w, var_w - 2 * cov_w + var_x, follows
    )


def change_by_cut(
    structure: Structure,
    batches: Sequence[Any],
    answers: list[Tensor] | None = None,
    counted: Sequence[str] | None = None,
) -> dict[str, dict[int, Change]]:
    """Run the network whole and with each cut's exits replaced by their means over all images.

    Args:
        structure: The network and its cuts.
        batches: Of one kind of image.
        answers: See `measure_response`.
        counted: Outputs that are looked at, see `CoarserOutputs`; all by default.

    Returns:
        For each output, the first one before the others, the change at each cut.
    """
    counted = tuple(structure.outputs) if counted is None else counted
    runs = CutRuns(structure, counted)
    means = {node: MeanActivation(site.channel_axes) for node, site in runs.sites.items()}
    kept, readings, restored = [], dict[str, Reading](), _Restored(runs)
    for index, inputs in enumerate(batches):
        outputs, values = runs.whole(inputs)
        kept = [(outputs, values)] if len(batches) == 1 else []
        image = image_of(inputs, structure)
        predicted = image_predictions(outputs, structure, image)
        if not all(bool(answer.isfinite().all()) for answer in predicted.values()):
            raise InputError(f"batch {index}: {NOT_FINITE}" if len(batches) > 1 else NOT_FINITE)
        restored.add(inputs, predicted, values)
        for place, answer in predicted.items():
            readings[place] = readings.get(place, Reading()).with_batch(answer)
        for node, mean in means.items():
            mean.add(values[node])
    rows: dict[str, dict[int, list[Change]]] = {}
    for inputs in batches:
        # the values of one batch only are held, so that memory does not grow with the images
        outputs, values = kept[0] if kept else runs.whole(inputs)
        image = image_of(inputs, structure)
        whole = image_predictions(outputs, structure, image)
        own = restored.of(inputs, whole, values)
        if answers is not None:
            answers.append(next(iter(whole.values())))
        for cut in structure.cuts:
            without = runs.without(cut, values, lambda site, value: means[site.node].replace(value))
            left = image_predictions(without, structure, image)
            for output, answer in whole.items():
                if output in counted:
                    changes = rows.setdefault(output, {}).setdefault(cut.keep_levels, [])
                    changes.append(compare(answer, left[output], own[output], readings[output]))
    return {
        output: {keep: _concatenated(changes) for keep, changes in cuts.items()}
        for output, cuts in rows.items()
    }


class _Restored:
    """What of the input each output may be a restored form of, or of what it is added to."""

    def __init__(self, runs: CutRuns) -> None:
        self._runs = runs
        self._nearest: dict[str, Nearest] = {}
        # where a constant moves some positions more than others: its filling, and what else is near
        self._filled: dict[str, tuple[Filling, Nearest]] = {}
        self._added: set[str] = set()  # outputs that are added to something else than the input

    def add(self, inputs: Any, answers: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Add a batch.

        Args:
            inputs: Of it.
            answers: Of the whole network, by output, each (images, channels, *sizes).
            values: From the last call of `CutRuns.whole`.
        """
        given, tail = all_channels(inputs, self._runs.structure), self._runs.tail(values)
        bases = self._arranged(inputs, self._runs.without_weights(tail))
        computed, filled = self._computed(values), self._made_of_constants(inputs, tail)
        for place, answer in answers.items():
            first, base = given[0], bases.get(place, given[0])
            same = base.shape == first.shape and torch.equal(base.nan_to_num(), first.nan_to_num())
            if base.shape == answer.shape and not same:
                self._added.add(place)
            sources = self._sources(place, answer, given, bases, computed)
            parts = _parts(place, answer, filled)
            if parts and any(map(varies, parts[1])):
                filling, others = self._filled.get(place, (Filling(), Nearest()))
                others = others.with_batch(answer, sources)
                self._filled[place] = filling.with_batch(answer, *parts), others
            if first.shape != answer.shape or len(sources) != len(given):
                nearest = self._nearest.get(place, Nearest())
                self._nearest[place] = nearest.with_batch(answer, sources)

    def of(
        self, inputs: Any, answers: Mapping[str, Tensor], values: Mapping[str, Any]
    ) -> dict[str, Tensor | None]:
        """For each output of a batch that, in its shape; None where nothing is."""
        given, tail = all_channels(inputs, self._runs.structure), self._runs.tail(values)
        bases = self._arranged(inputs, self._runs.without_weights(tail))
        computed, filled = self._computed(values), self._made_of_constants(inputs, tail)
        found: dict[str, Tensor | None] = {}
        for place, answer in answers.items():
            found[place] = given[0]
            if place in self._nearest:
                sources = self._sources(place, answer, given, bases, computed)
                found[place] = self._nearest[place].of(sources, answer)
            parts = _parts(place, answer, filled)
            if parts and place in self._filled:
                filling, others = self._filled[place]
                near = 0.0 if others.sums is None else float(others.explained.amax(1).mean())
                if filling.explained > near:
                    found[place] = filling.of(*parts)
        return found

    def _sources(
        self,
        place: str,
        answer: Tensor,
        given: Sequence[Tensor],
        bases: Mapping[str, Tensor],
        computed: Sequence[Tensor],
    ) -> list[Tensor]:
        """What an output may follow; nothing where what it is added to is not known of a batch."""
        large = as_large_as([answer, *given], computed)
        if place not in self._added:
            return [*given, *large]
        return [*given, bases[place], *large] if place in bases else []

    def _computed(self, values: Mapping[str, Any]) -> list[Tensor]:
        """The images that the network computes without weights."""
        images = self._runs.computed(values)
        return [without_gaps(in_channels(x, self._runs.structure.inputs)) for x in images]

    def _made_of_constants(
        self, inputs: Any, tail: Tail | None
    ) -> tuple[dict[str, Tensor], list[dict[str, Tensor]]]:
        """The outputs for zeros in the place of the levels, and for 1 in each channel of them."""
        if tail is None or not tail.runs(tail.differing):
            return {}, []
        zero = self._arranged(inputs, tail(tail.zeros))
        other = self._arranged(inputs, tail(tail.differing))
        pairs = [(zero[place], other[place]) for place in zero.keys() & other.keys()]
        if not any(a.shape == b.shape and varies((b - a).nan_to_num(0.0)) for a, b in pairs):
            return {}, []
        ones = torch.eye(tail.numbers, device="cpu")
        if tail.numbers > CONSTANTS:  # their products would be large
            ones = torch.ones(1, tail.numbers, device="cpu")
        return zero, [self._arranged(inputs, tail(one)) for one in ones]

    def _arranged(self, inputs: Any, found: Any) -> dict[str, Tensor]:
        """Outputs as `image_predictions`; empty if there are none."""
        structure = self._runs.structure
        if found is None:
            return {}
        return image_predictions(found, structure, image_of(inputs, structure))


def _parts(
    place: str, answer: Tensor, filled: tuple[dict[str, Tensor], list[dict[str, Tensor]]]
) -> tuple[Tensor, list[Tensor]] | None:
    """What an output is for zeros, and how each constant moves it; None if not in its shape."""
    zero, ones = filled[0].get(place), [own.get(place) for own in filled[1]]
    given = [one for one in ones if one is not None and one.shape == answer.shape]
    if zero is None or zero.shape != answer.shape or not given or len(given) < len(ones):
        return None
    zero = zero.nan_to_num(0.0, 0.0, 0.0)
    return zero, [one.nan_to_num(0.0, 0.0, 0.0) - zero for one in given]


def _concatenated(changes: Sequence[Change]) -> Change:
    names = [one.name for one in fields(Change)]
    return Change(*(np.concatenate([getattr(c, name) for c in changes]) for name in names))


def compare(w: Tensor, c: Tensor, image: Tensor | None, reading: Reading | None = None) -> Change:
    """Compare what the whole network returned for a batch with what it returned without a level.

    Args:
        w: Of the whole network, (images, channels, *sizes).
        c: Without the level.
        image: What of the input the outputs may be a restored form of, in their shape.
        reading: Of what the whole network returned for all batches; by default this is all.
    """
    if not all(bool(torch.isfinite(t).all()) for t in (w, c)):
        raise InputError(NOT_FINITE)
    images, channels = len(w), w.shape[1]
    x = torch.zeros_like(w) if image is None else image.to(w)
    coarse = torch.finfo(torch.float32).eps
    rounding = ROUNDING * (min(torch.finfo(w.dtype).eps, coarse) / coarse) ** 2
    w, c, x = (t.double().reshape(images, channels, -1) for t in (w, c, x))
    nothing = x.new_zeros(())
    reading = reading or Reading.of([w])
    # a sum of squares of numbers far from zero would lose what they vary by
    own, left = (t - reading.middle.to(w)[:, None] for t in (w, c))
    already = reading.share
    p, q = (probabilities(t, reading) for t in (w, c))
    if channels == 1:
        p, q = (torch.cat([1 - t, t], 1) for t in (p, q))
    middle = 0.5 if channels == 1 and already else 0.0
    before, after = (_decisions(t, middle) for t in (w, c))
    flips = (before != after).double().sum(-1)
    counted = (_counted(decisions, max(channels, 2)) for decisions in (before, after))
    above = torch.stack([(t > 0).double().sum(-1) for t in (w, c)], -1)
    size = rounding * w.square().sum(-1)
    numbers = _sums(own, left, x)
    if reading.bare > BARE:  # probabilities are never below zero
        labels = _sums(w.sigmoid(), c.sigmoid(), nothing)
    else:
        labels = torch.zeros_like(numbers)
    moments = (numbers, size, _sums(p, q, nothing), labels)
    facts = (reading.bare, already, reading.middle.square().mean())
    of_all = (w.new_full((images,), float(fact)) for fact in facts)
    pairs = pair_sums(w, reading).sum(0, keepdim=True)  # many, and asked of all images alone
    found = (flips, *counted, certainty(w, reading), *moments, above, pairs, *of_all)
    return Change(*(tensor.cpu().numpy() for tensor in found))


def _sums(w: Tensor, c: Tensor, x: Tensor) -> Tensor:
    """See `Change.sums`."""
    x = x.expand_as(w)
    pairs = ((w, w), (c, c), (x, x), (w, c), (w, x), (c, x))
    sums = [t.sum(-1) for t in (torch.ones_like(w), w, c, x)]
    return torch.stack(sums + [(a * b).sum(-1) for a, b in pairs], -1)  # one product at a time


def decides(outputs: Sequence[Tensor], images: Sequence[Tensor | None]) -> bool:
    """Whether outputs are decisions (classes), not numbers (a regression), as the response has it.

    Args:
        outputs: Of each batch, (images, channels, *sizes).
        images: For each batch an input of the same shape, or None where there is none.

    Raises:
        InputError: Outputs of an input's shape are not finite.
    """
    reading = Reading.of(outputs)
    sure = torch.cat([certainty(t.reshape(*t.shape[:2], -1), reading) for t in outputs])
    pairs = [(t, image) for t, image in zip(outputs, images, strict=True) if image is not None]
    follows = 0.0
    if pairs:
        change = _concatenated([compare(t, t, image, reading) for t, image in pairs])
        follows = change.figures(np.ones((1, len(change.flips)))).follows
    return decisive(float(sure.mean()), follows)


def decisive(sure: float, follows: float) -> bool:
    """Whether outputs are decisions, by their certainty and how far they follow the input."""
    return sure > CERTAIN and not follows > FOLLOWS


def _decisions(outputs: Tensor, middle: float) -> Tensor:
    """Whether a single channel is above the middle, the largest of several: (images, positions)."""
    return (outputs[:, 0] > middle).long() if outputs.shape[1] == 1 else outputs.argmax(1)


def _counted(decisions: Tensor, kinds: int) -> Tensor:
    """How many positions of each image decide for what, others left out: (images, kinds)."""
    return torch.stack([row.bincount(minlength=kinds)[:kinds] for row in decisions]).double()
