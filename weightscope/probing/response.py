"""How much a network's output changes when what comes back from a level is replaced by its mean.

``docs/decisions/response.md`` says why it is measured so, and what it cannot tell.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from weightscope.adapters import pytree
from weightscope.batches import which_image
from weightscope.calls import (
    forward_errors,
    own_arguments,
    say,
    undisturbed,
)
from weightscope.errors import InputError, WeightscopeError, keyword
from weightscope.graph.structure import Structure
from weightscope.graph.vectors import comes_back_as_vectors
from weightscope.probing.change import Figures, Floats, change_by_cut, decisive
from weightscope.probing.inputs import Painter, is_picture, read_images, synthetic_inputs
from weightscope.probing.outputs import CoarserOutputs, certainty
from weightscope.probing.stimuli import (
    between_zero_and_one,
    dead_leaves,
    matched_images,
    of_own_exposure,
    suited_contrast,
)
from weightscope.thresholds import (
    BARE,
    CERTAIN,
    DOMINATED,
    FOLLOWING,
    LARGEST_LOGIT,
    RESPONDS,
    RESPONDS_IN_NUMBERS,
    SATURATED,
    SILENT,
)

Source = Literal["response", "images"]

IMAGES = 6
"""Dead-leaves images: more of them would narrow the interval, and cost time in every analysis."""

MATCHED_IMAGES = 3
"""Images that are matched to batch norms, at half the size: every step costs two passes."""

EXPOSED_IMAGES = 3
"""Images of other exposures, at half the size: they span all of the range, half and a quarter of
it. Six tell the same, and cost half a forward more."""

STRONGER, WEAKER = (100.0,), (0.3, 0.1, 0.01)
"""Contrasts of the second look, as factors: networks that scale their inputs mostly divide by 255
or multiply by it. One that is only a little saturated decides something in between."""

RESAMPLES = 500
"""Bootstrap resamples over images: enough for the 95 % interval of a figure that is compared with
borders a factor of two apart."""


@dataclass(frozen=True)
class CutResponse:
    """Change of the output when the exits of one cut are replaced by their means.

    Attributes:
        keep_levels: Levels ``0 .. keep_levels - 1`` were left as they are.
        value: The response, from 0 (the output does not change) to about 1 (nothing of it is left):
            the root of 1 - Lin's concordance of the probabilities of all decisions; `change` where
            the outputs are numbers.
        low: Lower end of its 95 % bootstrap interval over images.
        high: Upper end of it; not below that of 1 - Cohen's kappa of the decisions.
        flips: Share of output positions whose decision changes: the sign of a single channel, the
            largest of several. NaN where the outputs are numbers, not decisions.
        change: Change of the numbers: the root of 1 - Lin's concordance of what the whole and the
            cut network add to the straight line of the input.
        elsewhere: The response to synthetic images of another contrast, where those of contrast 1
            hardly reach the network or saturate it; nan where nothing called for that.
        elsewhere_low: Lower end of the interval of the response at that of these contrasts at which
            it responds least.
        exposed: The response to synthetic images that differ in brightness and contrast, or the
            change of the numbers there where that is more; nan on the user's own images.
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
        by_number: The response if the outputs are numbers, where they would be decisions and
            nothing in the model tells: no level is unused then that changes them, whichever channel
            is the largest and whatever sign a single one has; else nan.
        by_number_high: Upper end of its interval.
        as_vectors: Whether the images are synthetic, which are much alike as wholes, and what comes
            back becomes one vector for each, see `comes_back_as_vectors`.
        alike: Whether the outputs are decisions and all of them the same on these images (a single
            channel says no everywhere), so that the numbers stand in for them.
        resolved: Of the whole network, on the kind of image and of the deciding output where it is
            least: how far its probabilities tell the two classes apart that they tell apart least,
            from 0 to 1, see `resolution`. Of numbers nan, or 0 where they vary by less than
            `CONSTANT` of their size.
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
    by_number: float = math.nan
    lost: tuple[str, ...] = ()
    by_number_high: float = math.nan
    elsewhere_low: float = math.nan
    exposed: float = math.nan
    resolved: float = math.nan
    as_vectors: bool = False
    alike: bool = False

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
    failures = []
    # the sizes may be free by its graph alone, as with a filter of the example's size; and
    # logarithms take no image of both signs
    for painter in (dead_leaves, between_zero_and_one):
        for sizes in ((0.5, 1.0), (None, None)):
            try:
                with undisturbed(structure.model):
                    return _respond_to_stimuli(structure, painter, *sizes)
            except Exception as error:  # noqa: BLE001 - whatever a forward raises on odd images
                failures.append(_in_words(error))
    return Response("response", (), 0, failure=failures[0])


def _respond_to_stimuli(
    structure: Structure, painter: Painter, smaller: float | None, full: float | None
) -> Response:
    """The response to images of two sizes, see `synthetic_inputs`."""
    small = Stimuli.paint(structure, MATCHED_IMAGES, painter, seed=2, scale=smaller)
    contrast = suited_contrast(structure.model, small.images, small.forward)
    small = small.scaled(contrast)
    matched = matched_images(structure.model, small.images, small.forward)
    large = Stimuli.paint(structure, IMAGES, painter, seed=1, scale=full).scaled(contrast)
    kinds = [[large.inputs]] + ([] if matched is None else [[small.inserted(matched)]])
    answers: list[Tensor] = []
    try:
        found = _measured(structure, kinds, "response", answers=answers)
    except InputError:  # no numbers for matched images alone say nothing of the network
        if matched is None:
            raise
        answers.clear()
        found = _measured(structure, kinds[:1], "response", answers=answers)
    numbers = any(math.isnan(cut.flips) for cut in found.cuts)
    others = [small.scaled(factor) for factor in other_contrasts(answers[0], numbers=numbers)]
    elsewhere = [cuts for other in others if (cuts := _cuts_at(structure, other.inputs))]
    exposed = _at_other_exposures(structure, smaller, contrast)
    pairs = zip(found.cuts, exposed, strict=False)  # none where such images tell nothing
    found = replace(found, cuts=tuple(replace(cut, exposed=m) for cut, m in pairs) or found.cuts)
    if not elsewhere:
        return found
    changed = [
        replace(
            cut,
            elsewhere=max(one.value for one in same),
            elsewhere_low=min(one.low for one in same),
        )
        for cut, *same in zip(found.cuts, *elsewhere, strict=True)
    ]
    return replace(found, cuts=tuple(changed))


def _at_other_exposures(
    structure: Structure, scale: float | None, contrast: float
) -> tuple[float, ...]:
    """For every cut the response to images that differ in brightness and contrast.

    Or the change of the numbers, where that is more: a restored image may pass for a decision.
    """
    exposed = Stimuli.paint(structure, EXPOSED_IMAGES, of_own_exposure, seed=2, scale=scale)
    cuts = _cuts_at(structure, exposed.scaled(contrast).inputs)
    return tuple(max(cut.value, cut.change) for cut in cuts)


def _cuts_at(structure: Structure, inputs: Any) -> tuple[CutResponse, ...]:
    """The response of every cut to images of another contrast; none where these tell nothing."""
    try:
        return _measured(structure, [[inputs]], "response").cuts
    except InputError:  # the outputs overflow
        return ()


def _in_words(error: Exception) -> str:
    """What an error says; its kind, too, where it is a foreign one."""
    return str(error) if isinstance(error, WeightscopeError) else say(error)


def other_contrasts(answers: Tensor, *, numbers: bool = False) -> tuple[float, ...]:
    """At what contrasts to ask again whether a level is silent or responds, as factors.

    Args:
        answers: Of the whole network, (images, channels, *sizes).
        numbers: Whether they are numbers, not decisions.

    Returns:
        `STRONGER` where the answers hardly follow the images, `WEAKER` where they are saturated, or
        are numbers of which a few outweigh the rest.
    """
    answers = answers.double()
    size = float(answers.square().mean())
    # what is the same for all images comes from biases and padding
    follows = len(answers) > 1 and float(answers.var(0).mean()) >= FOLLOWING * size > 0.0
    # numbers in large units may be so because the images have too much contrast
    sure = size > LARGEST_LOGIT**2 or float(certainty(answers.flatten(2)).mean()) > SATURATED
    return STRONGER * (not follows) + WEAKER * (sure or (numbers and dominated(answers)))


def dominated(answers: Tensor) -> bool:
    """Whether one position in a hundred holds most of the variance, of all channels together."""
    moved = (answers - answers.mean((0, *range(2, answers.dim())), keepdim=True)).square().flatten()
    most = moved.topk(max(1, len(moved) // 100)).values.sum()
    return bool(most > DOMINATED * moved.sum())


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
    def paint(
        cls,
        structure: Structure,
        count: int,
        painter: Painter,
        *,
        seed: int,
        scale: float | None = 1.0,
    ) -> Stimuli:
        """Painted images, see `synthetic_inputs`."""
        inputs = synthetic_inputs(structure, painter, count, seed=seed, scale=scale)
        leaves, spec = pytree.tree_flatten(inputs)
        places = [i for i, x in enumerate(leaves) if is_picture(x, structure.inputs)]
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
    answers: list[Tensor] | None = None,
) -> Response:
    """Measure the response of every cut.

    Args:
        structure: The network and its cuts.
        kinds: For each kind of image its batches: a tensor, a tuple of positional or a mapping of
            keyword arguments of the forward. Means are taken over the images of a kind; the kind
            that responds least decides.
        source: What to call the result.
        answers: Where to put what the whole network answers to each batch, if anywhere.

    Raises:
        InputError: There is no image, or the outputs have no image-like tensor or are not finite.
    """
    with undisturbed(structure.model):
        return _measured(structure, kinds, source, answers)


def _measured(
    structure: Structure,
    kinds: Sequence[Sequence[Any]],
    source: Source,
    answers: list[Tensor] | None = None,
) -> Response:
    """The same of a model that is held as it is already: to keep its tensors takes time."""
    generator = np.random.default_rng(0)
    coarser = CoarserOutputs(structure)
    found: list[dict[str, dict[int, Figures]]] = []
    collapsed, lost, handed_on, counts = [], [], [], []
    with torch.no_grad():
        for inputs in (inputs for batches in kinds for inputs in batches):
            coarser.add(inputs)
        for batches in kinds:
            changes = change_by_cut(structure, batches, answers, coarser.counted)
            first = [next(iter(cuts.values())) for cuts in changes.values()]
            collapsed += [all(change.same_for_every_image for change in first)] if first else []
            lost += [all(change.lost_in_rounding for change in first)] if first else []
            handed_on += [all(change.handed_on for change in first)] if first else []
            # copies of one image are answered alike, and are no images of their own
            which = which_image(batches)
            counts.append(len(set(which)))
            answered = len(first[0].flips) if first else len(which)
            if answered != len(which):  # frames that are answered one by one
                which = list(range(answered))
            units = max(which) + 1
            drawn = generator.multinomial(units, [1 / units] * units, RESAMPLES)
            weights = np.vstack([np.ones(len(which)), drawn[:, which]])
            found.append(
                {
                    output: {keep: change.figures(weights) for keep, change in cuts.items()}
                    for output, cuts in changes.items()
                }
            )
    told = [same for same, count in zip(collapsed, counts, strict=False) if count > 1]
    if told and all(told):
        return Response(source, (), sum(counts), failure=COLLAPSED)
    if lost and all(lost):
        return Response(source, (), sum(counts), failure=LOST)
    if handed_on and all(handed_on):
        return Response(source, (), sum(counts), failure=HANDED_ON)
    cuts = []
    for cut in structure.cuts:
        gone = [p for p in structure.lost_outputs(cut.keep_levels) if p in found[0]]
        record = _of_outputs(cut.keep_levels, found, gone)
        as_vectors = source == "response" and comes_back_as_vectors(structure, cut)
        cuts.append(replace(record, as_vectors=as_vectors))
    return Response(source, tuple(cuts), sum(counts))


COLLAPSED = "the output is the same for every image: the network has died, or nothing reaches it"

HANDED_ON = (
    "on these images the output is the input itself or what is computed of it without weights, so "
    "that they do not show what the network adds: others may call for it, as those with missing "
    "pixels"
)

LOST = (
    "the outputs vary by less than their number format resolves; return them without what is the "
    "same everywhere, or analyse model.double()"
)


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
    # one that decides nothing yet is not hidden by another that does
    deciding = [o.resolved for o in found.values() if math.isnan(o.by_sign) and o.resolved > 0.0]
    resolved = float(np.fmin.reduce([first.resolved, *deciding]))
    return replace(first, outputs=highs, lost=tuple(lost), resolved=resolved)


def _joined(keep_levels: int, kinds: Sequence[Figures]) -> CutResponse:
    """Take the kind of image that responds least, in every resample."""
    certain = max(kind.certainty for kind in kinds), min(kind.follows for kind in kinds)
    # logits of what is bright follow the input as a restored one does
    either = certain[0] > CERTAIN and min(kind.below for kind in kinds) > BARE
    sure = decisive(*certain)
    deciding = sure or either
    decided = [k for k in kinds if deciding and not np.isnan(k.decisions[0])]
    several = kinds[0].channels.shape[1] > 1
    alike = deciding and not decided and all(several or kind.below > 0.5 for kind in kinds)
    either = either and bool(decided) and not sure
    rows = np.array([k.decisions for k in decided] or [k.change for k in kinds])
    values = np.fmin.reduce(rows)  # a draw that tells nothing of one kind leaves the others
    parts = np.fmin.reduce([k.parts for k in decided] or [k.channels for k in kinds])
    most, decisions = values, parts.shape[1]
    if decided:
        labels = np.fmin.reduce([k.labels for k in decided])
        values, most = np.fmin(values, labels[:, 0]), np.fmax(values, labels[:, 0])
        parts = np.hstack([parts, labels[:, 1:]])
        # decisions may change where probabilities hardly move: no such level is unused
        most = np.fmax(most, np.fmin.reduce([_beyond_chance(k) for k in decided]))
    by_sign = float(values[0]) if either else math.nan
    numbers = np.fmin.reduce([k.change for k in kinds])
    also_numbers = bool(decided) and not either and not any(kind.shares for kind in kinds)
    if either:  # read as numbers; what no number shows must not change a decision either
        values = numbers
        most = np.fmax(most, values)
    low, high = np.nanquantile(values[1:], 0.025), np.nanquantile(most[1:], 0.975)
    part, worst, worst_high = _most(parts)
    resolved = min(kind.resolved for kind in kinds)
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
        by_number=float(numbers[0]) if also_numbers else math.nan,
        by_number_high=_upper(numbers) if also_numbers else math.nan,
        resolved=resolved if deciding or not resolved else math.nan,
        alike=alike,
    )


def _upper(rows: Floats) -> float:
    """Upper end of the interval of what the first row is and the others are resamples of."""
    return max(float(np.nanquantile(rows[1:], 0.975)), float(rows[0]))


def _beyond_chance(kind: Figures) -> Floats:
    """One minus Cohen's kappa of the decisions; nan where chance would change none."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(kind.by_chance > 0, kind.flips / kind.by_chance, np.nan)


def _most(parts: Floats) -> tuple[int, float, float]:
    """The part that responds most, its response and the upper end of that."""
    known = np.flatnonzero(~np.isnan(parts[0]))
    if not known.size:
        return -1, math.nan, math.nan
    highs = np.nanquantile(parts[:, known], 0.975, axis=0)
    place = int(np.argmax(highs))
    value = float(parts[0, known[place]])
    return int(known[place]), value, max(float(highs[place]), value)
