"""Images in memory: what one step learns from, and what is held back."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from weightscope.adapters import pytree
from weightscope.batches import each_batch
from weightscope.errors import InputError, in_python, keyword
from weightscope.graph.fixed import fixed_in
from weightscope.graph.structure import Structure
from weightscope.probing.inputs import read_images
from weightscope.showing import counted

BATCH = 2
"""Images of one step: small batches give many steps for the same compute. Half as many images and
twice the steps regained more on all five cuts on which both were tried."""

HELD_BACK, MOST_HELD_BACK = 0.2, 32
"""Share of the images that is never trained on and says whether there is still a gain; and how many
are enough, for they are looked at again and again."""

START_IMAGES = 32
"""Images from which the closed-form start is computed: 32 of 64 px give 32k positions even at the
second level, many more than the few thousand unknowns of its regression."""

FEWEST_READ = START_IMAGES + MOST_HELD_BACK
"""So many images are read however few the steps, for the start and what is held back do not depend
on the steps."""


@dataclass(frozen=True)
class Part:
    """Some images of one batch."""

    batch: int
    rows: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Pool:
    """Images in memory: batches as the forward takes them, and which rows are for what.

    Attributes:
        batches: As they were given.
        training: What one step takes.
        start: What the closed-form start is computed from.
        held_back: What is never trained on.
        given: How many batches there were; None where more may have followed, one knows not how
            many.
    """

    batches: tuple[Any, ...]
    training: tuple[Part, ...]
    start: tuple[Part, ...]
    held_back: tuple[Part, ...]
    given: int | None

    @property
    def images(self) -> int:
        """How many there are."""
        return sum(len(part.rows) for part in (*self.training, *self.held_back))

    def used(self, steps: int, seed: int) -> int:
        """How many of them are looked at in a course of some steps."""
        drawn = (self.draw(step, seed) for step in range(steps))
        parts = {*self.held_back, *self.start, *drawn}
        return len({(part.batch, row) for part in parts for row in part.rows})

    def draw(self, step: int, seed: int) -> Part:
        """What one step takes: it depends on the step alone, so that a course can go on."""
        turn, place = divmod(step, len(self.training))
        generator = torch.Generator().manual_seed(seed * 1_000_003 + turn)
        order = torch.randperm(len(self.training), generator=generator, device="cpu")
        return self.training[int(order[place])]

    def inputs(self, part: Part) -> Any:
        """The images themselves."""
        return rows_of(self.batches[part.batch], part.rows)


def _parts(places: Sequence[tuple[int, int]], size: int) -> tuple[Part, ...]:
    """Places of images in parts of at most some size, each of one batch."""
    rows: dict[int, list[int]] = {}
    for batch, row in places:
        rows.setdefault(batch, []).append(row)
    return tuple(
        Part(batch, tuple(own[first : first + size]))
        for batch, own in rows.items()
        for first in range(0, len(own), size)
    )


def length(batch: Any) -> int:
    """Number of images in a batch."""
    arrays = [t for t in pytree.tree_leaves(batch) if isinstance(t, Tensor | np.ndarray) and t.ndim]
    return len(max(arrays, key=lambda t: t.ndim)) if arrays else 0


def rows_of(batch: Any, rows: Sequence[int]) -> Any:
    """Some images of a batch."""
    count = length(batch)
    return pytree.tree_map(
        lambda t: t[list(rows)] if isinstance(t, Tensor) and t.dim() and len(t) == count else t,
        batch,
    )


def make_pool(
    batches: Sequence[Any], seed: int, together: int | None = None, given: int | None = None
) -> Pool:
    """Hold some images back.

    Args:
        batches: Batches of what the forward takes.
        seed: Which are held back.
        together: Number of images that a network takes at a time, where it takes no other; those
            that are left over in a batch are not used.
        given: As in `Pool`.

    Raises:
        InputError: There are too few images.
    """
    places = [(i, row) for i, batch in enumerate(batches) for row in range(length(batch))]
    if len(places) < 2:
        raise InputError(
            f"{keyword('images')} holds {counted(len(places), 'image')}; recovery needs at least "
            "2, one of them to see when there is no more gain: give "
            f"{in_python('a tensor (images, channels, sizes...) or batches', 'more')}"
        )
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(places), generator=generator, device="cpu").tolist()
    held = _held_back(len(places))
    shuffled = [places[i] for i in order]
    if together is not None:
        parts = [p for p in _parts(shuffled, together) if len(p.rows) == together]
        return _pool_of(batches, parts, given)
    return Pool(
        tuple(batches),
        training=_parts(shuffled[held:], BATCH),
        start=_parts(shuffled[held:][:START_IMAGES], 16),
        held_back=_parts(shuffled[:held], 16),
        given=given,
    )


def _pool_of(batches: Sequence[Any], parts: Sequence[Part], given: int | None) -> Pool:
    """The same for a network that takes a number of images at a time and no other.

    Raises:
        InputError: There are fewer than two such parts.
    """
    if len(parts) < 2:
        raise InputError(
            f"{keyword('images')} holds {counted(len(parts), 'part')} of as many images as the "
            "network takes at a time, for its forward turns their number into a number; recovery "
            "needs at least 2: give more images, in batches of at least that many, or read the "
            f"network with {keyword('example_inputs')} of fewer"
        )
    size = len(parts[0].rows)
    held = max(1, _held_back(size * len(parts)) // size)
    learned = tuple(parts[held:])
    return Pool(
        tuple(batches),
        training=learned,
        start=learned[: math.ceil(START_IMAGES / size)],
        held_back=tuple(parts[:held]),
        given=given,
    )


def together(structure: Structure) -> int | None:
    """Number of images that a network takes at a time; None where it takes any number."""
    return next(iter(fixed_in(structure.graph).images.values()), None)


def _held_back(images: int) -> int:
    return max(1, min(MOST_HELD_BACK, round(HELD_BACK * images)))


def enough(structure: Structure, batches: Iterable[Any], steps: int) -> Iterator[Any]:
    """Batches until they hold the images of some steps, with those that are held back."""
    wanted, count = _wanted(structure, steps), 0
    for batch in each_batch(batches):
        yield batch
        count += max(1, length(batch))  # an endless loader of what cannot be read ends too
        if count >= wanted:
            return


def _wanted(structure: Structure, steps: int) -> int:
    size = together(structure) or BATCH
    return max(FEWEST_READ, math.ceil(max(steps, 1) * size / (1 - HELD_BACK)))


def read_pool(
    structure: Structure, images: Iterable[Any], steps: int, seed: int, there: int | None = None
) -> Pool:
    """What a recovery of some steps takes of the images, some of them held back.

    Args:
        structure: The original.
        images: As for ``Variant.recover``.
        steps: As for ``Variant.recover``.
        seed: Which are held back.
        there: Number of batches that there are, where it is known.

    Raises:
        InputError: The images cannot be read, or are too few.
    """
    read = read_images(structure, enough(structure, images, steps))
    all_read = sum(map(length, read)) < _wanted(structure, steps)
    return make_pool(read, seed, together(structure), len(read) if all_read else there)


def batches_in(images: Iterable[Any]) -> int | None:
    """How many batches there are, where it can be said without going through them."""
    if isinstance(images, Tensor | np.ndarray | Mapping):
        return 1
    try:
        return len(images)  # type: ignore[arg-type]
    except Exception:  # noqa: BLE001 - not every loader knows, and some raise errors of their own
        return None
