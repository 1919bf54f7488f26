"""How much a network's output changes when what comes back from a level is replaced by its mean.

``docs/decisions/response.md`` says why it is measured so, and what it cannot tell.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from weightscope.adapters import pytree
from weightscope.calls import call_arguments, forward_errors, say, undisturbed
from weightscope.errors import InputError
from weightscope.graph.running import CutRuns, MeanActivation, channel_axis
from weightscope.graph.structure import Structure
from weightscope.probing.inputs import is_image, read_images, synthetic_inputs
from weightscope.probing.stimuli import dead_leaves, matched_images

Source = Literal["response", "images"]
Floats = NDArray[np.float64]

IMAGES = 6
"""Dead-leaves images: more of them would narrow the interval, and cost time in every analysis."""

MATCHED_IMAGES = 4
"""Images that are matched to batch norms, at half the size: every step costs two passes."""

SAME = 1e-3
"""Share of the positions below which the rarer decisions are too few to tell anything: a restored
image whose values are all positive, or a saturated output."""

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
            largest of several. NaN where the decision is the same everywhere.
        change: 1 - correlation of the output with that of the whole network, mean over channels.
    """

    keep_levels: int
    value: float
    low: float
    high: float
    flips: float
    change: float


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
    """Measure the response on images that nobody took; what fails is said in the record.

    Dead leaves for every network; where there are batch norms, images matched to their statistics
    beside. A foreign network that does not run on them must not stop the analysis.
    """
    try:
        leaves = synthetic_inputs(structure, dead_leaves, IMAGES, seed=1)
        kinds = [[leaves], *_matched(structure)]
        return measure_response(structure, kinds, "response")
    except Exception as error:  # noqa: BLE001 - whatever a forward raises on odd images
        return Response("response", (), 0, failure=say(error))


def _matched(structure: Structure) -> list[list[Any]]:
    """Smaller dead leaves matched to the network's batch norms; none without."""
    inputs = synthetic_inputs(structure, dead_leaves, MATCHED_IMAGES, seed=2, scale=0.5)
    leaves, spec = pytree.tree_flatten(inputs)
    places = [i for i, x in enumerate(leaves) if is_image(x, structure.inputs.rank)]

    def inserted(images: Sequence[Tensor]) -> Any:
        changed = dict(zip(places, images, strict=True))
        return pytree.tree_unflatten([changed.get(i, x) for i, x in enumerate(leaves)], spec)

    def forward(images: Sequence[Tensor]) -> object:
        args, kwargs = call_arguments(inserted(images))
        return structure.model(*args, **kwargs)

    with undisturbed(structure.model):
        images = matched_images(structure.model, [leaves[i] for i in places], forward)
    return [] if images is None else [[inserted(images)]]


def respond_to_images(structure: Structure, images: Iterable[Any]) -> Response:
    """Measure the response on the user's own images.

    Raises:
        InputError: The images cannot be read.
        ForwardError: The forward raises on them.
    """
    batches = read_images(structure, images)
    with forward_errors(structure.model, batches, "images="):
        return measure_response(structure, [batches], "images")


def measure_response(
    structure: Structure, kinds: Sequence[Sequence[Any]], source: Source, *, seed: int = 0
) -> Response:
    """Measure the response of every cut.

    Args:
        structure: The network and its cuts.
        kinds: For each kind of image its batches: a tensor, a tuple of positional or a mapping of
            keyword arguments of the forward. Means are taken over the images of a kind; the kind
            that responds least decides.
        source: What to call the result.
        seed: Of the bootstrap.

    Raises:
        InputError: There is no image, or the outputs have no image-like tensor.
    """
    generator = np.random.default_rng(seed)
    found: list[dict[int, Figures]] = []
    images = 0
    with undisturbed(structure.model), torch.no_grad():
        for batches in kinds:
            changes = change_by_cut(structure, batches)
            count = len(next(iter(changes.values())).flips) if changes else 0
            images += count
            weights = np.vstack(
                [np.ones(count), generator.multinomial(count, [1 / count] * count, RESAMPLES)]
            )
            found.append({keep: change.figures(weights) for keep, change in changes.items()})
    cuts = [
        _joined(cut.keep_levels, [kind[cut.keep_levels] for kind in found])
        for cut in structure.cuts
    ]
    return Response(source, tuple(cuts), images)


@dataclass(frozen=True)
class Figures:
    """What one kind of image shows under each weighting of its images.

    Attributes:
        lost: Share of the agreement beyond chance that is lost; nan where no decision is made.
        flips: Share of the positions whose decision changes.
        change: 1 - correlation of the outputs, mean over channels.
    """

    lost: Floats
    flips: Floats
    change: Floats


def _joined(keep_levels: int, kinds: Sequence[Figures]) -> CutResponse:
    """Take the kind of image that responds least, in every resample."""
    decided = [kind.lost for kind in kinds if not np.isnan(kind.lost[0])]
    values = np.min(decided or [np.clip(kind.change, 0.0, None) for kind in kinds], axis=0)
    low, high = np.nanquantile(values[1:], [0.025, 0.975])
    return CutResponse(
        keep_levels,
        float(values[0]),
        min(float(low), float(values[0])),
        max(float(high), float(values[0])),
        float(np.mean([kind.flips[0] for kind in kinds])) if decided else math.nan,
        float(np.mean([kind.change[0] for kind in kinds])),
    )


@dataclass(frozen=True)
class Change:
    """Sums over the positions of each image, from which every figure follows.

    Attributes:
        flips: Number of positions whose decision changed, (images,).
        before: Number of positions of each decision of the whole network, (images, decisions).
        after: The same of the cut network.
        sums: Of 1, w, c, w^2, c^2 and w c over positions, (images, channels, 6), where w is the
            output of the whole network and c that of the cut one.
    """

    flips: Floats
    before: Floats
    after: Floats
    sums: Floats

    def figures(self, weights: Floats) -> Figures:
        """Figures for each weighting of the images, (weightings, images)."""
        n, w, c, ww, cc, wc = np.moveaxis(np.tensordot(weights, self.sums, 1), -1, 0)
        var_w, var_c = ww / n - (w / n) ** 2, cc / n - (c / n) ** 2
        covariance = wc / n - w * c / n**2
        # a channel that does not vary cannot change; one that no longer does has lost everything
        change = 1 - covariance / np.sqrt(np.maximum(var_w * var_c, 1e-30))
        change = np.where(var_w <= 1e-24 * (1 + (w / n) ** 2), 0.0, change).mean(1)
        before, after = weights @ self.before, weights @ self.after
        total = before.sum(1)
        flips = weights @ self.flips / total
        chance = 1 - (before * after).sum(1) / total**2
        decides = self.before.sum(0).max() < (1 - SAME) * self.before.sum()
        with np.errstate(divide="ignore", invalid="ignore"):
            lost = np.where(chance > 0, flips / chance, 0.0) if decides else flips * np.nan
        return Figures(lost, flips, change)


def change_by_cut(structure: Structure, batches: Sequence[Any]) -> dict[int, Change]:
    """Run the network whole and with each cut's exits replaced by their means over all images."""
    runs = CutRuns(structure)
    sites = {site.node: site for cut in structure.cuts for site in cut.exits}
    means = {node: MeanActivation(channel_axis(site)) for node, site in sites.items()}
    kept = []
    for inputs in batches:
        outputs, values = runs.whole(inputs)
        kept = [(outputs, values)] if len(batches) == 1 else []
        for node, mean in means.items():
            mean.add(values[node])
    rows: dict[int, list[Change]] = {cut.keep_levels: [] for cut in structure.cuts}
    for inputs in batches:
        # the values of one batch only are held, so that memory does not grow with the images
        outputs, values = kept[0] if kept else runs.whole(inputs)
        for cut in structure.cuts:
            without = runs.without(cut, values, lambda site, value: means[site.node].replace(value))
            rows[cut.keep_levels].append(compare(outputs, without))
    return {keep: _concatenated(changes) for keep, changes in rows.items() if changes}


def _concatenated(changes: Sequence[Change]) -> Change:
    names = ("flips", "before", "after", "sums")
    return Change(*(np.concatenate([getattr(c, name) for c in changes]) for name in names))


def compare(whole: Any, cut: Any) -> Change:
    """Compare what the whole network returned for a batch with what it returned without a level."""
    w, c = predictions(whole)[0], predictions(cut)[0]
    images, channels = len(w), w.shape[1]
    flat_w, flat_c = (t.double().reshape(images, channels, -1) for t in (w, c))
    columns = (
        torch.ones_like(flat_w),
        flat_w,
        flat_c,
        flat_w.square(),
        flat_c.square(),
        flat_w * flat_c,
    )
    sums = torch.stack([column.sum(-1) for column in columns], -1)
    before, after = (_decisions(flat) for flat in (flat_w, flat_c))
    flips = (before != after).double().sum(-1)
    found = (flips, _counted(before, channels), _counted(after, channels), sums)
    return Change(*(tensor.cpu().numpy() for tensor in found))


def _decisions(flat: Tensor) -> Tensor:
    """The sign of a single channel, the largest of several: (images, positions)."""
    return (flat[:, 0] > 0).long() if flat.shape[1] == 1 else flat.argmax(1)


def _counted(decisions: Tensor, channels: int) -> Tensor:
    """How many positions of each image decide for what: (images, decisions)."""
    kinds = max(channels, 2)
    return torch.stack([row.bincount(minlength=kinds) for row in decisions]).double()


def predictions(outputs: Any) -> list[Tensor]:
    """The image-like tensors of floating-point numbers among what a model returned."""
    found = [
        t
        for t in pytree.tree_leaves(outputs)
        if isinstance(t, Tensor) and t.is_floating_point() and t.dim() >= 3
    ]
    if not found:
        raise InputError("the network returns no image-like tensor of floating-point numbers")
    return found
