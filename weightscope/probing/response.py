"""How much a network's output changes when what comes back from a level is replaced by its mean.

``docs/decisions/response.md`` says why it is measured so, and what it cannot tell.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from weightscope.adapters import pytree
from weightscope.adapters.symbols import hint
from weightscope.batches import distinct_images
from weightscope.calls import (
    forward_errors,
    only_tensor,
    own_arguments,
    say,
    tensors_by_place,
    undisturbed,
)
from weightscope.errors import InputError, WeightscopeError, keyword
from weightscope.graph.running import CutRuns, GraphRun, MeanActivation
from weightscope.graph.structure import Structure
from weightscope.probing.inputs import is_image, read_images, synthetic_inputs
from weightscope.probing.stimuli import dead_leaves, matched_images, suited_contrast
from weightscope.thresholds import (
    AGREES,
    BARE,
    CERTAIN,
    FOLLOWING,
    FOLLOWS,
    LARGEST_LOGIT,
    RAREST_DECISION,
    RESPONDS,
    RESPONDS_IN_NUMBERS,
    SATURATED,
    SILENT,
)

Source = Literal["response", "images"]
Floats = NDArray[np.float64]

IMAGES = 6
"""Dead-leaves images: more of them would narrow the interval, and cost time in every analysis."""

MATCHED_IMAGES = 3
"""Images that are matched to batch norms, at half the size: every step costs two passes."""


NOT_FINITE = (
    "the outputs hold nan or infinite values; look for them in the images, in buffers such as the "
    "running statistics of norms, and for numbers that overflow"
)

STRONGER, WEAKER = 100.0, 0.01
"""Contrasts of the second look, as factors: networks that scale their inputs mostly divide by 255
or multiply by it."""

RESAMPLES = 500
"""Bootstrap resamples over images: enough for the 95 % interval of a figure that is compared with
borders a factor of two apart."""


@dataclass(frozen=True)
class CutResponse:
    """Change of the output when the exits of one cut are replaced by their means.

    Attributes:
        keep_levels: Levels ``0 .. keep_levels - 1`` were left as they are.
        value: The response, from 0 (the output does not change) to about 1 (nothing of it is left).
        low: Lower end of its 95 % bootstrap interval over images.
        high: Upper end of it.
        flips: Share of output positions whose decision changes: the sign of a single channel, the
            largest of several. NaN where the outputs are numbers, not decisions.
        change: Change of the numbers: the root of 1 - Lin's concordance of what the whole and the
            cut network add to the straight line of the input.
        elsewhere: The response to synthetic images of another contrast, where those of contrast 1
            hardly reach the network or saturate it; nan where nothing called for that.
        worst: The response of the part of the output that responds most: of one decision against
            all others, or of one channel of numbers. A rare class hardly shows in `value`.
        worst_high: Upper end of its interval.
        worst_part: Which channel that is; -1 where no part was measured.
        moved: Rms change of the numbers in the output's own unit, on the images that respond least.
        spread: Standard deviation of the numbers of the whole network on the same images, pooled
            over channels.
        outputs: Of a network with several outputs, the upper end of the interval of each by its
            place among what the network returns, that of `value` first; empty where there is one.
        lost: Those of them that are computed in what the cut removes. They respond with 1.
        by_sign: The response if a single channel is a decision, where it may be one though it
            follows the input: no level is unused then that changes it; else nan.
    """

    keep_levels: int
    value: float
    low: float
    high: float
    flips: float
    change: float
    elsewhere: float = math.nan
    worst: float = math.nan
    worst_high: float = math.nan
    worst_part: int = -1
    moved: float = math.nan
    spread: float = math.nan
    outputs: Mapping[str, float] = field(default_factory=dict)
    by_sign: float = math.nan
    lost: tuple[str, ...] = ()

    @property
    def borders(self) -> tuple[float, float]:
        """Below the first a level is silent, above the second it responds."""
        decides = math.isfinite(self.flips) and math.isnan(self.by_sign)
        return SILENT, RESPONDS if decides else RESPONDS_IN_NUMBERS

    @property
    def first_output(self) -> str:
        """Which of several outputs `value` is of; empty where there is one."""
        return next(iter(self.outputs), "")

    def loudest(self, places: Iterable[str]) -> tuple[str, float]:
        """The one of some outputs that responds most, and how much at most; nan where none is."""
        found = [(place, self.outputs[place]) for place in places if place in self.outputs]
        return max(found, key=lambda one: one[1], default=("", math.nan))

    @property
    def other(self) -> tuple[str, float]:
        """The same of all outputs but the first."""
        return self.loudest(list(self.outputs)[1:])


@dataclass(frozen=True)
class Response:
    """The response of every cut.

    Attributes:
        source: ``response`` (synthetic images) or ``images`` (the user's own).
        cuts: One record for each legal cut, from the shallowest; empty where it failed.
        images: Number of images.
        failure: Why nothing could be measured, else empty.
    """

    source: Source
    cuts: tuple[CutResponse, ...]
    images: int
    failure: str = ""


def respond_to_synthetic(structure: Structure) -> Response:
    """Measure the response on synthetic images; a failure is recorded, not raised.

    Dead leaves for every network; where there are batch norms, images matched to their statistics
    beside. A foreign network that does not run on them must not stop the analysis.
    """
    try:
        with undisturbed(structure.model):
            small = Stimuli.paint(structure, MATCHED_IMAGES, seed=2, scale=0.5)
            contrast = suited_contrast(structure.model, small.images, small.forward)
            small = small.scaled(contrast)
            matched = matched_images(structure.model, small.images, small.forward)
        large = Stimuli.paint(structure, IMAGES, seed=1).scaled(contrast)
        kinds = [[large.inputs]] + ([] if matched is None else [[small.inserted(matched)]])
        answers: list[Tensor] = []
        try:
            found = measure_response(structure, kinds, "response", answers=answers)
        except InputError:  # no numbers for matched images alone say nothing of the network
            if matched is None:
                raise
            answers.clear()
            found = measure_response(structure, kinds[:1], "response", answers=answers)
        others = other_contrasts(answers[0])
        if not others or all(cut.high >= SILENT for cut in found.cuts):
            return found
        batches = [[small.scaled(factor).inputs] for factor in others]
        elsewhere = [measure_response(structure, [batch], "response").cuts for batch in batches]
        cuts = [
            replace(cut, elsewhere=max(one.value for one in same))
            for cut, *same in zip(found.cuts, *elsewhere, strict=True)
        ]
        return replace(found, cuts=tuple(cuts))
    except Exception as error:  # noqa: BLE001 - whatever a forward raises on odd images
        return Response("response", (), 0, failure=_in_words(error))


def _in_words(error: Exception) -> str:
    """What an error says; its kind, too, where it is a foreign one."""
    return str(error) if isinstance(error, WeightscopeError) else say(error)


def other_contrasts(answers: Tensor) -> tuple[float, ...]:
    """At what contrasts to ask again whether a level is silent, as factors.

    Args:
        answers: Of the whole network, (images, channels, *sizes).

    Returns:
        `STRONGER` where the answers hardly follow the images, `WEAKER` where they are saturated.
    """
    answers = answers.double()
    size = float(answers.square().mean())
    # what is the same for all images comes from biases and padding
    follows = len(answers) > 1 and float(answers.var(0).mean()) >= FOLLOWING * size > 0.0
    # numbers in large units may be so because the images have too much contrast
    sure = size > LARGEST_LOGIT**2 or float(certainty(answers.flatten(2)).mean()) > SATURATED
    return (STRONGER,) * (not follows) + (WEAKER,) * sure


@dataclass(frozen=True)
class Stimuli:
    """Synthetic images among whatever else a network is called with.

    Attributes:
        model: The network.
        leaves: All inputs, flat.
        spec: How they are nested.
        places: Which of them are images.
    """

    model: nn.Module
    leaves: Sequence[Any]
    spec: Any
    places: Sequence[int]

    @classmethod
    def paint(cls, structure: Structure, count: int, *, seed: int, scale: float = 1.0) -> Stimuli:
        """Dead leaves, see `synthetic_inputs`."""
        inputs = synthetic_inputs(structure, dead_leaves, count, seed=seed, scale=scale)
        leaves, spec = pytree.tree_flatten(inputs)
        places = [i for i, x in enumerate(leaves) if is_image(x, structure.inputs.rank)]
        return cls(structure.model, leaves, spec, places)

    @property
    def images(self) -> list[Tensor]:
        """The images alone."""
        return [self.leaves[i] for i in self.places]

    @property
    def inputs(self) -> Any:
        """What to call the network with."""
        return pytree.tree_unflatten(list(self.leaves), self.spec)

    def inserted(self, images: Sequence[Tensor]) -> Any:
        """What to call the network with for other images of the same shapes."""
        changed = dict(zip(self.places, images, strict=True))
        return pytree.tree_unflatten(
            [changed.get(i, x) for i, x in enumerate(self.leaves)], self.spec
        )

    def scaled(self, factor: float) -> Stimuli:
        """The same at another contrast."""
        leaves = [factor * x if i in self.places else x for i, x in enumerate(self.leaves)]
        return replace(self, leaves=leaves)

    def forward(self, images: Sequence[Tensor]) -> object:
        """Call the network with other images."""
        args, kwargs = own_arguments(self.inserted(images), self.model)
        return self.model(*args, **kwargs)


def respond_to_images(structure: Structure, images: Iterable[Any]) -> Response:
    """Measure the response on the user's own images.

    Raises:
        InputError: The images cannot be read, or the outputs for them are not finite.
        ForwardError: The forward raises on them.
    """
    batches = read_images(structure, images)
    with forward_errors(structure.model, batches, keyword("images")):
        return measure_response(structure, [batches], "images")


def measure_response(
    structure: Structure,
    kinds: Sequence[Sequence[Any]],
    source: Source,
    *,
    seed: int = 0,
    answers: list[Tensor] | None = None,
) -> Response:
    """Measure the response of every cut.

    Args:
        structure: The network and its cuts.
        kinds: For each kind of image its batches: a tensor, a tuple of positional or a mapping of
            keyword arguments of the forward. Means are taken over the images of a kind; the kind
            that responds least decides.
        source: What to call the result.
        seed: Of the bootstrap.
        answers: Where to put what the whole network answers to each batch, if anywhere.

    Raises:
        InputError: There is no image, or the outputs have no image-like tensor or are not finite.
    """
    generator = np.random.default_rng(seed)
    coarser = CoarserOutputs(structure)
    found: list[dict[str, dict[int, Figures]]] = []
    collapsed = []
    with undisturbed(structure.model), torch.no_grad():
        for inputs in (inputs for batches in kinds for inputs in batches):
            coarser.add(inputs)
        for batches in kinds:
            changes = change_by_cut(structure, batches, answers, coarser.counted)
            first = [next(iter(cuts.values())) for cuts in changes.values()]
            count = len(first[0].flips) if first else 0
            collapsed += [all(change.same_for_every_image for change in first)] if first else []
            weights = np.vstack(
                [np.ones(count), generator.multinomial(count, [1 / count] * count, RESAMPLES)]
            )
            found.append(
                {
                    output: {keep: change.figures(weights) for keep, change in cuts.items()}
                    for output, cuts in changes.items()
                }
            )
    # copies of one image are answered alike, and are no images of their own
    counts = [distinct_images(batches) for batches in kinds]
    told = [same for same, count in zip(collapsed, counts, strict=False) if count > 1]
    if told and all(told):
        return Response(source, (), sum(counts), failure=COLLAPSED)
    cuts = [
        _of_outputs(
            cut.keep_levels,
            found,
            [p for p in structure.lost_outputs(cut.keep_levels) if p in found[0]],
        )
        for cut in structure.cuts
    ]
    return Response(source, tuple(cuts), sum(counts))


COLLAPSED = "the output is the same for every image: the network has died, or nothing reaches it"


@dataclass(frozen=True)
class Figures:
    """What one kind of image shows under each weighting of its images.

    Attributes:
        lost: Share of the agreement beyond chance that is lost; nan where all decisions are alike.
        flips: Share of the positions whose decision changes.
        change: See `CutResponse`.
        certainty: Of the whole network's decisions.
        follows: Least correlation of a channel of the output with that of the input.
        parts: `lost` of each decision against all others, (weightings, decisions); nan for those
            that the whole network hardly takes.
        channels: `change` of each channel, (weightings, channels).
        labels: `lost` and `parts` if each channel decides for itself, (weightings, 1 + channels);
            nan where nothing suggests that.
        moved: See `CutResponse`.
        spread: See `CutResponse`.
        below: Share of the positions at which a single channel says no; 0 of several channels.
    """

    lost: Floats
    flips: Floats
    change: Floats
    certainty: float
    follows: float
    parts: Floats
    channels: Floats
    labels: Floats
    moved: float
    spread: float
    below: float


def _of_outputs(
    keep_levels: int, kinds: Sequence[Mapping[str, Mapping[int, Figures]]], lost: Sequence[str]
) -> CutResponse:
    """The response of the first output, with what the others respond with at most.

    Nothing is left of an output that the cut removes.
    """
    found = {
        output: _joined(keep_levels, [kind[output][keep_levels] for kind in kinds])
        for output in kinds[0]
    }
    found |= {place: replace(found[place], value=1.0, low=1.0, high=1.0) for place in lost}
    first = next(iter(found.values()))
    if len(found) == 1:
        return first
    highs = {output: one.high for output, one in found.items()}
    return replace(first, outputs=highs, lost=tuple(lost))


def _joined(keep_levels: int, kinds: Sequence[Figures]) -> CutResponse:
    """Take the kind of image that responds least, in every resample."""
    certain = max(kind.certainty for kind in kinds), min(kind.follows for kind in kinds)
    # logits of what is bright follow the input as a restored one does
    either = certain[0] > CERTAIN and min(kind.below for kind in kinds) > BARE
    deciding = _deciding(*certain) or either
    decided = [k for k in kinds if deciding and not np.isnan(k.lost[0])]
    either = either and bool(decided) and not _deciding(*certain)
    rows = np.array([k.lost for k in decided] or [k.change for k in kinds])
    values = np.fmin.reduce(rows)  # a draw that tells nothing of one kind leaves the others
    parts = np.fmin.reduce([k.parts for k in decided] or [k.channels for k in kinds])
    most, decisions = values, parts.shape[1]
    if decided:
        labels = np.fmin.reduce([k.labels for k in decided])
        values, most = np.fmin(values, labels[:, 0]), np.fmax(values, labels[:, 0])
        parts = np.hstack([parts, labels[:, 1:]])
    by_sign = float(values[0]) if either else math.nan
    if either:  # read as numbers; what no number shows must not change a decision either
        values = np.fmin.reduce([k.change for k in kinds])
        most = np.fmax(most, values)
    low, high = np.nanquantile(values[1:], 0.025), np.nanquantile(most[1:], 0.975)
    part, worst, worst_high = _most(parts)
    least = min(kinds, key=lambda kind: kind.change[0])
    return CutResponse(
        keep_levels,
        float(values[0]),
        min(float(low), float(values[0])),
        max(float(high), float(most[0])),
        float(np.mean([kind.flips[0] for kind in decided])) if decided else math.nan,
        float(least.change[0]),
        worst=worst,
        worst_high=worst_high,
        worst_part=part if part < decisions else part - decisions,
        moved=least.moved,
        spread=least.spread,
        by_sign=by_sign,
    )


def _most(parts: Floats) -> tuple[int, float, float]:
    """The part that responds most, its response and the upper end of that."""
    known = np.flatnonzero(~np.isnan(parts[0]))
    if not known.size:
        return -1, math.nan, math.nan
    highs = np.nanquantile(parts[:, known], 0.975, axis=0)
    place = int(np.argmax(highs))
    value = float(parts[0, known[place]])
    return int(known[place]), value, max(float(highs[place]), value)


@dataclass(frozen=True)
class Change:
    """Sums over the positions of each image, from which every figure follows.

    Attributes:
        flips: Number of positions whose decision changed, (images,).
        before: Number of positions of each decision of the whole network, (images, decisions).
        after: The same of the cut network.
        stayed: Number of positions at which both networks take a decision, (images, decisions).
        certainty: Of the whole network, (images,).
        sums: Of 1, w, c, x, w^2, c^2, x^2, w c, w x and c x over positions, (images, channels, 10),
            where w is the output of the whole network, c that of the cut one, and x the input, or 0
            where it has another shape.
        labels: Number of positions above zero in the whole network, in the cut one and in both,
            (images, channels, 3).
        bare: Share of the positions at which the whole network is above zero in none of several
            channels, (images,).
    """

    flips: Floats
    before: Floats
    after: Floats
    stayed: Floats
    certainty: Floats
    sums: Floats
    labels: Floats
    bare: Floats

    @property
    def same_for_every_image(self) -> bool:
        """Whether the whole network answers all images alike, but for rounding."""
        moments = self.sums[..., [1, 4]]
        return bool(np.ptp(moments, 0).max() <= 1e-12 * np.abs(moments).max())

    def figures(self, weights: Floats) -> Figures:
        """Figures for each weighting of the images, (weightings, images)."""
        n, *moments = np.moveaxis(np.tensordot(weights, self.sums, 1), -1, 0)
        w, c, x, ww, cc, xx, wc, wx, cx = (moment / n for moment in moments)
        var_w, var_c, var_x = (np.maximum(d, 0.0) for d in (ww - w * w, cc - c * c, xx - x * x))
        cov_w, cov_c = wx - w * x, cx - c * x
        with np.errstate(divide="ignore", invalid="ignore"):
            slope = np.where(var_x > 0, cov_w / var_x, 0.0)
            follows = np.where(var_x * var_w > 0, cov_w / np.sqrt(var_w * var_x), 0.0)
        own = var_w + var_c - 2 * slope * (cov_w + cov_c) + 2 * slope**2 * var_x
        chance = np.maximum(own, 0.0) + (w - c) ** 2
        moved = np.maximum(ww - 2 * wc + cc, 0.0)
        before, after = weights @ self.before, weights @ self.after
        total = before.sum(1)
        flips = weights @ self.flips / total
        by_chance = 1 - (before * after).sum(1) / total**2
        alike = self.before.sum(0).max() >= (1 - RAREST_DECISION) * self.before.sum()
        with np.errstate(divide="ignore", invalid="ignore"):
            # a draw of images on which both networks decide one thing alone tells nothing
            lost = np.where(by_chance > 0, flips / by_chance, np.nan)
            # what does not vary cannot change: rounding is no movement
            change = np.where(
                moved.sum(1) > 1e-12 * (ww.sum(1) + 1e-30),
                np.sqrt(moved.sum(1) / chance.sum(1)),
                0.0,
            )
            channels = np.where(moved > 1e-12 * (ww + 1e-30), np.sqrt(moved / chance), 0.0)
            share, then = before / total[:, None], after / total[:, None]
            apart = share + then - 2 * weights @ self.stayed / total[:, None]
            parts = apart / (share * (1 - then) + then * (1 - share))
        return Figures(
            flips * np.nan if alike else lost,
            flips,
            change,
            float(self.certainty.mean()),
            float(follows[0].min()),
            np.where(self.before.sum(0) >= RAREST_DECISION * self.before.sum(), parts, np.nan),
            channels,
            self._labels(weights),
            float(np.sqrt(moved[0].mean())),
            float(np.sqrt(var_w[0].mean())),
            float(share[0, 0]) if self.sums.shape[1] == 1 else 0.0,
        )

    def _labels(self, weights: Floats) -> Floats:
        """What is lost if each channel decides for itself: of all, then of each."""
        positions = self.sums[:, 0, 0]
        often = self.labels[..., 0].sum(0) / positions.sum()
        varied = (often >= RAREST_DECISION) & (often <= 1 - RAREST_DECISION)
        if float(self.bare.mean()) <= BARE or not varied.any():
            return np.full((len(weights), 1 + len(often)), np.nan)
        counts = np.tensordot(weights, self.labels, 1)
        share, then, both = np.moveaxis(counts, -1, 0) / (weights @ positions)[:, None]
        apart, chance = share + then - 2 * both, share * (1 - then) + then * (1 - share)
        with np.errstate(divide="ignore", invalid="ignore"):
            of_all = apart[:, varied].sum(1) / chance[:, varied].sum(1)
            parts = np.where(varied, apart / chance, np.nan)
        return np.column_stack([of_all, parts])


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
    means = {node: MeanActivation(site.channel_axis) for node, site in runs.sites.items()}
    kept = []
    for inputs in batches:
        outputs, values = runs.whole(inputs)
        kept = [(outputs, values)] if len(batches) == 1 else []
        for node, mean in means.items():
            mean.add(values[node])
    rows: dict[str, dict[int, list[Change]]] = {}
    for inputs in batches:
        # the values of one batch only are held, so that memory does not grow with the images
        outputs, values = kept[0] if kept else runs.whole(inputs)
        whole = predictions(outputs)
        if answers is not None:
            answers.append(next(iter(whole.values())))
        image = next(x for x in pytree.tree_leaves(inputs) if is_image(x, structure.inputs.rank))
        for cut in structure.cuts:
            without = runs.without(cut, values, lambda site, value: means[site.node].replace(value))
            left = predictions(without)
            for output, answer in whole.items():
                if output in counted:
                    changes = rows.setdefault(output, {}).setdefault(cut.keep_levels, [])
                    changes.append(compare(answer, left[output], image))
    return {
        output: {keep: _concatenated(changes) for keep, changes in cuts.items()}
        for output, cuts in rows.items()
    }


def _concatenated(changes: Sequence[Change]) -> Change:
    names = [one.name for one in fields(Change)]
    return Change(*(np.concatenate([getattr(c, name) for c in changes]) for name in names))


def compare(w: Tensor, c: Tensor, image: Tensor) -> Change:
    """Compare what the whole network returned for a batch with what it returned without a level."""
    if not all(bool(torch.isfinite(t).all()) for t in (w, c)):
        raise InputError(NOT_FINITE)
    images, channels = len(w), w.shape[1]
    x = image.to(w) if image.shape == w.shape else torch.zeros_like(w)
    w, c, x = (t.double().reshape(images, channels, -1) for t in (w, c, x))
    columns = (torch.ones_like(w), w, c, x, w * w, c * c, x * x, w * c, w * x, c * x)
    sums = torch.stack([column.sum(-1) for column in columns], -1)
    middle = 0.5 if channels == 1 and is_share(w) else 0.0
    before, after = (_decisions(t, middle) for t in (w, c))
    flips = (before != after).double().sum(-1)
    kinds = max(channels, 2)
    both = torch.where(before == after, before, kinds)
    counted = (_counted(decisions, kinds) for decisions in (before, after, both))
    above = (w > 0, c > 0, (w > 0) & (c > 0))
    labels = torch.stack([t.double().sum(-1) for t in above], -1)
    found = (flips, *counted, certainty(w), sums, labels, without_class(w))
    return Change(*(tensor.cpu().numpy() for tensor in found))


def decides(outputs: Sequence[Tensor], images: Sequence[Tensor | None]) -> bool:
    """Whether outputs are decisions (classes), not numbers (a regression), as the response has it.

    Args:
        outputs: Of each batch, (images, channels, *sizes).
        images: For each batch an input of the same shape, or None where there is none.

    Raises:
        InputError: Outputs of an input's shape are not finite.
    """
    sure = torch.cat([certainty(t.reshape(*t.shape[:2], -1)) for t in outputs])
    pairs = [(t, image) for t, image in zip(outputs, images, strict=True) if image is not None]
    follows = 0.0
    if pairs:
        change = _concatenated([compare(t, t, image) for t, image in pairs])
        follows = change.figures(np.ones((1, len(change.flips)))).follows
    return _deciding(float(sure.mean()), follows)


def _deciding(sure: float, follows: float) -> bool:
    """Whether outputs are decisions, by their certainty and how far they follow the input."""
    return sure > CERTAIN and not follows > FOLLOWS


def is_share(outputs: Tensor) -> bool:
    """Whether outputs (images, channels, positions) are probabilities already.

    A single channel within 0..1, or several of which each position's sum is 1.
    """
    within = bool(((outputs >= 0) & (outputs <= 1)).all())
    return within and (outputs.shape[1] == 1 or bool(((outputs.sum(1) - 1).abs() < 1e-3).all()))


def certainty(outputs: Tensor) -> Tensor:
    """How sure outputs are if read as logits or probabilities: 0 at equal odds, 1 at none.

    Args:
        outputs: (images, channels, positions).

    Returns:
        (images,): the mean probability of the decision, less what it is at equal odds, as a share
        of what is left above it. 0 for numbers that are never negative and no probabilities, and
        for numbers too large to be logits.
    """
    images, channels, _ = outputs.shape
    kinds = max(channels, 2)
    if not is_share(outputs) and float(outputs.square().mean()) > LARGEST_LOGIT**2:
        return outputs.new_zeros(images)
    if is_share(outputs):
        shares = outputs if channels > 1 else torch.maximum(outputs, 1 - outputs)
    elif not bool((outputs < 0).any()):
        return outputs.new_zeros(images)
    else:
        shares = outputs.softmax(1) if channels > 1 else outputs.abs().sigmoid()
    return (shares.amax(1).mean(-1) - 1 / kinds) * kinds / (kinds - 1)


def without_class(outputs: Tensor) -> Tensor:
    """Share of the positions at which every one of several channels is below zero, (images,).

    Channels that exclude each other compete, and one of them is above zero nearly everywhere;
    where each decides for itself, as before a sigmoid, the background is below zero in all.

    Args:
        outputs: (images, channels, positions).
    """
    if outputs.shape[1] == 1:
        return outputs.new_zeros(len(outputs))
    return (outputs < 0).all(1).to(outputs).mean(-1)


def _decisions(outputs: Tensor, middle: float) -> Tensor:
    """Whether a single channel is above the middle, the largest of several: (images, positions)."""
    return (outputs[:, 0] > middle).long() if outputs.shape[1] == 1 else outputs.argmax(1)


def _counted(decisions: Tensor, kinds: int) -> Tensor:
    """How many positions of each image decide for what, others left out: (images, kinds)."""
    return torch.stack([row.bincount(minlength=kinds)[:kinds] for row in decisions]).double()


def predictions(outputs: Any) -> dict[str, Tensor]:
    """The tensors of floating-point numbers that a model returned for each image.

    By their places among what it returned, that of the first image-like one (or of that named
    ``logits`` or ``out``) first. Tables are signals of one position; where there are only tables,
    signals without channels.
    """
    floats = {
        place: leaf
        for place, leaf in tensors_by_place(outputs).items()
        if leaf.is_floating_point() and leaf.dim()
    }
    if not any(leaf.dim() >= 2 for leaf in floats.values()):
        raise InputError("the network returns no image-like tensor of floating-point numbers")
    images = any(leaf.dim() >= 3 for leaf in floats.values())
    likely = [place for place, leaf in floats.items() if leaf.dim() >= (3 if images else 2)]
    named = [place for place in likely if floats[place] is only_tensor(outputs)]
    first = (named or likely)[0]
    judged = floats[first] if images else floats[first][:, None]
    return {first: judged} | {
        place: leaf if leaf.dim() > 2 else leaf.reshape(len(leaf), -1, 1)
        for place, leaf in floats.items()
        if place != first and len(leaf) == len(judged) and leaf.numel()
    }


class CoarserOutputs:
    """Which outputs are coarser versions of the first one, as for deep supervision.

    Outputs of as many channels at fewer positions that say on the images what the first one says
    there; no level is of use for them alone. In doubt, as where the network is hardly trained, an
    output is none.

    Args:
        structure: The network.
    """

    def __init__(self, structure: Structure) -> None:
        self._structure = structure
        values = [node.meta["val"] for node in structure.outputs.values()]
        kinds = [(v.dim(), hint(v.shape[1])) for v in values if v.dim() > 2]
        self._alike = len(set(kinds)) < len(kinds)
        self._concordances: dict[str, Concordance] = {}

    def add(self, inputs: Any) -> None:
        """Look at what the network returns for the next batch."""
        if not self._alike:
            return
        with torch.no_grad():
            outputs = GraphRun(self._structure, {}).predict(inputs)
        with suppress(InputError):  # nothing that could have a coarser version
            found = predictions(outputs)
            first, *others = found
            for place in others:
                if _is_coarser(found[place], found[first]):
                    concordance = self._concordances.setdefault(place, Concordance())
                    concordance.add(found[place], found[first])

    @property
    def places(self) -> frozenset[str]:
        """By what gets at them in what the network returns."""
        return frozenset(p for p, found in self._concordances.items() if found.value > AGREES)

    @property
    def counted(self) -> tuple[str, ...]:
        """All other outputs that hold a real number or more for each image."""
        return tuple(
            place
            for place, node in self._structure.outputs.items()
            if place not in self.places
            and node.meta["val"].is_floating_point()
            and node.meta["val"].dim()
        )


def _is_coarser(leaf: Tensor, finest: Tensor) -> bool:
    """Whether an output has the shape of another one at fewer positions."""
    sizes = list(zip(leaf.shape[1:], finest.shape[1:], strict=False))
    return (
        leaf.dim() == finest.dim() <= 5
        and leaf.shape[1] == finest.shape[1]
        and leaf.shape != finest.shape
        and all(size <= whole for size, whole in sizes)
    )


class Concordance:
    """How far a coarser output agrees with the first one, averaged to as few positions.

    Of decisions the probabilities are compared, which a logit's size changes little, of others the
    numbers: another quantity has other ones, though it lies where the decisions do.
    """

    def __init__(self) -> None:
        self._sums: Tensor | float = 0.0
        self._certainty: list[float] = []

    def add(self, coarser: Tensor, first: Tensor) -> None:
        """Add what the whole network returned for the next batch."""
        pool = (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d)[
            coarser.dim() - 3
        ]
        pooled = pool(first.double(), coarser.shape[2:])  # type: ignore[arg-type]
        pair = [t.double().flatten(2) for t in (coarser, pooled)]
        sums = []
        for a, b in ([_probabilities(t) for t in pair], pair):
            moments = (torch.ones_like(a), a, b, a * a, b * b, a * b)
            sums.append(torch.stack([moment.sum((0, 2)) for moment in moments]))
        self._sums = self._sums + torch.stack(sums)
        self._certainty.append(float(certainty(first.double().flatten(2)).mean()))

    @property
    def value(self) -> float:
        """Lin's concordance; nan where nothing varies."""
        decides = float(np.mean(self._certainty)) > CERTAIN
        n, *moments = self._sums[0 if decides else 1]  # type: ignore[index]
        a, b, aa, bb, ab = (moment / n for moment in moments)
        apart = (aa - a * a) + (bb - b * b) + (a - b) ** 2
        return float(2 * (ab - a * b).sum() / apart.sum())


def _probabilities(outputs: Tensor) -> Tensor:
    """What outputs (images, channels, positions) are as probabilities."""
    if is_share(outputs):
        return outputs
    return outputs.softmax(1) if outputs.shape[1] > 1 else outputs.sigmoid()
