"""How much an output changes when a level is replaced by its mean: sums, and figures of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from weightscope.adapters import pytree
from weightscope.errors import InputError
from weightscope.graph.running import CutRuns, MeanActivation
from weightscope.graph.structure import Structure
from weightscope.probing.inputs import is_image
from weightscope.probing.outputs import certainty, is_share, predictions, without_class
from weightscope.thresholds import BARE, CERTAIN, FOLLOWS, RAREST_DECISION

Floats = NDArray[np.float64]

NOT_FINITE = (
    "the outputs hold nan or infinite values; look for them in the images, in buffers such as the "
    "running statistics of norms, and for numbers that overflow"
)


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
