"""Recovery: a smaller network learns to answer as the original does, without labels."""

from __future__ import annotations

import math
import os
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from weightscope.adapters import pytree
from weightscope.adapters.modes import alone
from weightscope.adapters.modules import BatchNorm
from weightscope.arguments import path_text
from weightscope.batches import each_batch, read_batches
from weightscope.calls import (
    device_of,
    finished,
    forward_errors,
    fresh,
    named_errors,
    own_arguments,
    to_device,
    undisturbed,
)
from weightscope.checkpoints import load_plain
from weightscope.errors import InputError, keyword, kind
from weightscope.files import write_pickle
from weightscope.graph.fixed import fixed_in
from weightscope.graph.running import GraphRun
from weightscope.graph.structure import Structure
from weightscope.probing.inputs import read_images
from weightscope.probing.response import decides, without_class
from weightscope.progress import bar
from weightscope.showing import OnOneScreen, counted
from weightscope.thresholds import BARE
from weightscope.truncation.bottleneck import Bottleneck
from weightscope.truncation.plan import Plan, exits_of
from weightscope.truncation.start import kept_channels, ridge_start

BATCH = 2
"""Images of one step: small batches give many steps for the same compute. Half as many images and
twice the steps regained more on all five cuts on which both were tried."""

NEW_SHARE = 0.1
"""Share of the steps in which only the new weights are trained; then all are."""

NEW_RATE, ALL_RATE, LAST_RATE = 2e-3, 3e-3, 0.3
"""Learning rates of Adam for the new weights and then for all, each falling to a share of itself
along a half cosine. It need not fall further, for what counts is the average of the weights."""

WIDE = 144
"""Inputs of a filter from which on the rate falls as their number grows: a step of Adam changes
every weight by as much, and so the sum of many weights by more (Yang et al. 2022, *Tensor programs
V*). 144 are the inputs of a 3x3 filter on 16 channels; the rates were chosen on networks with so
many and fewer, and that they must fall was seen on one wider network. Where the rule does not
suffice, the rate falls back."""

WARM_UP = 0.05
"""Share of the steps in which the rate for all weights rises from nothing."""

FALL_BACK, RISEN, VAIN = 1 / 3, 2.0, 3
"""Where a check has so many times the lowest unexplained share of the checks before it, or so many
checks in a row bring no gain, the course goes on from its best weights with this share of the rate:
networks without normalisation do not bear the rate of the others. On networks that bear it, up to
two checks rose, by up to 1.4 times, and the next made up for it."""

AVERAGE = 0.97
"""Decay of the running average of the weights, less in the first steps. The average is the result:
the weights themselves follow the noise of small batches."""

HELD_BACK, MOST_HELD_BACK = 0.2, 32
"""Share of the images that is never trained on and says whether there is still a gain; and how many
are enough, for they are looked at again and again."""

CHECKS, PATIENCE = 10, 5
"""How often the held-back images are asked, and how many checks in a row may bring no gain."""

LEAST_SHARE = 1e-6
"""Is added to the unexplained share of an image before its root is taken, whose slope is endless at
0: a thousandth of the spread counts as matched."""

ANSWER_BYTES = 1 << 29
"""The original's answers are kept up to this size, so that each is computed once."""

START_IMAGES = 32
"""Images from which the closed-form start is computed: 32 of 64 px give 32k positions even at the
second level, many more than the few thousand unknowns of its regression."""


@dataclass(frozen=True)
class Agreement:
    """How alike two networks answer on the held-back images.

    Attributes:
        explained: 1 - mean squared difference / variance of the original's outputs, averaged over
            the outputs; 1: equal, 0: no better than a constant.
        decisions: Share of positions with the same decision: the same largest channel, or the same
            side of the threshold (0 for logits, 0.5 for probabilities) where there is one channel.
            NaN where the outputs are numbers (a regression), not decisions.
    """

    explained: float
    decisions: float


@dataclass(frozen=True)
class Check:
    """One look at the held-back images.

    Attributes:
        step: Steps done.
        trained: ``start``, ``new`` (only the new weights) or ``all``.
        loss: Matching loss, and the user's own where labels are mixed in.
        explained: As in ``Agreement``.
    """

    step: int
    trained: str
    loss: float
    explained: float


@dataclass(frozen=True, repr=False)
class Recovery(OnOneScreen):
    """The course of a recovery. The variant holds the weights of the best check.

    Attributes:
        before: Agreement with the original as it was cut.
        after: Agreement now.
        course: The checks, from the start.
        start: ``ridge`` where the closed-form start was better than the random one, else
            ``random``.
        steps: Steps that were done; fewer than asked for where the gain ended.
        images: Number of images, the held-back ones included.
        frozen: Names of the parameters that were not trained, for the variant has them from the
            original with ``requires_grad=False``.
    """

    before: Agreement
    after: Agreement
    course: tuple[Check, ...]
    start: str
    steps: int
    images: int
    frozen: tuple[str, ...]

    def _facts(self) -> dict[str, object]:
        facts: dict[str, object] = {
            "explained": f"{self.before.explained:.3f} to {self.after.explained:.3f}",
            "decisions": f"{self.before.decisions:.3f} to {self.after.decisions:.3f}",
            "start": self.start,
            "steps": self.steps,
            "checks": len(self.course),
            "images": self.images,
            **({"frozen": counted(len(self.frozen), "parameter")} if self.frozen else {}),
        }
        if self.after.decisions != self.after.decisions:
            del facts["decisions"]
        return facts


@dataclass(frozen=True)
class _Part:
    """Some images of one batch."""

    batch: int
    rows: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class _Pool:
    """Images in memory: batches as the forward takes them, and which rows are for what.

    Attributes:
        batches: As they were given.
        training: What one step takes.
        start: What the closed-form start is computed from.
        held_back: What is never trained on.
    """

    batches: tuple[Any, ...]
    training: tuple[_Part, ...]
    start: tuple[_Part, ...]
    held_back: tuple[_Part, ...]

    @property
    def images(self) -> int:
        """How many there are."""
        return sum(len(part.rows) for part in (*self.training, *self.held_back))

    def draw(self, step: int, seed: int) -> _Part:
        """What one step takes: it depends on the step alone, so that a course can go on."""
        turn, place = divmod(step, len(self.training))
        generator = torch.Generator().manual_seed(seed * 1_000_003 + turn)
        order = torch.randperm(len(self.training), generator=generator, device="cpu")
        return self.training[int(order[place])]

    def inputs(self, part: _Part) -> Any:
        """The images themselves."""
        return _rows(self.batches[part.batch], part.rows)


def _parts(places: Sequence[tuple[int, int]], size: int) -> tuple[_Part, ...]:
    """Places of images in parts of at most some size, each of one batch."""
    rows: dict[int, list[int]] = {}
    for batch, row in places:
        rows.setdefault(batch, []).append(row)
    return tuple(
        _Part(batch, tuple(own[first : first + size]))
        for batch, own in rows.items()
        for first in range(0, len(own), size)
    )


def _length(batch: Any) -> int:
    tensors = [t for t in pytree.tree_leaves(batch) if isinstance(t, Tensor) and t.dim()]
    return len(max(tensors, key=lambda t: t.dim())) if tensors else 0


def _rows(batch: Any, rows: Sequence[int]) -> Any:
    count = _length(batch)
    return pytree.tree_map(
        lambda t: t[list(rows)] if isinstance(t, Tensor) and t.dim() and len(t) == count else t,
        batch,
    )


def make_pool(batches: Sequence[Any], seed: int, together: int | None = None) -> _Pool:
    """Hold some images back.

    Args:
        batches: Batches of what the forward takes.
        seed: Which are held back.
        together: Number of images that a network takes at a time, where it takes no other; those
            that are left over in a batch are not used.

    Raises:
        InputError: There are too few images, or one holds nan or infinite values.
    """
    for number, batch in enumerate(batches):
        tensors = (t for t in pytree.tree_leaves(batch) if isinstance(t, Tensor))
        if not all(bool(torch.isfinite(t).all()) for t in tensors):
            raise InputError(
                f"{keyword('images')} holds nan or infinite values in batch {number} (counted "
                "from 0); leave such images out, or replace the values: a network cannot learn "
                "from them"
            )
    places = [(i, row) for i, batch in enumerate(batches) for row in range(_length(batch))]
    if len(places) < 2:
        raise InputError(
            f"{keyword('images')} holds {counted(len(places), 'image')}; recovery needs at least "
            "2, one of them to see when there is no more gain: give a tensor (images, channels, "
            "sizes...) or batches"
        )
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(places), generator=generator, device="cpu").tolist()
    held = _held_back(len(places))
    shuffled = [places[i] for i in order]
    if together is not None:
        return _pool_of(batches, [p for p in _parts(shuffled, together) if len(p.rows) == together])
    return _Pool(
        tuple(batches),
        training=_parts(shuffled[held:], BATCH),
        start=_parts(shuffled[held:][:START_IMAGES], 16),
        held_back=_parts(shuffled[:held], 16),
    )


def _pool_of(batches: Sequence[Any], parts: Sequence[_Part]) -> _Pool:
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
    return _Pool(
        tuple(batches),
        training=learned,
        start=learned[: math.ceil(START_IMAGES / size)],
        held_back=tuple(parts[:held]),
    )


def together(structure: Structure) -> int | None:
    """Number of images that a network takes at a time; None where it takes any number."""
    return next(iter(fixed_in(structure.graph).images.values()), None)


def forwards(structure: Structure, images: Iterable[Any], steps: int) -> tuple[int, int]:
    """Forwards on one image that a recovery takes at most: of the original, of the smaller network.

    A backward pass is counted as two forwards. The original's answers are taken to be kept.

    Args:
        structure: The original.
        images: As for ``Variant.recover``.
        steps: As for ``Variant.recover``.

    Raises:
        InputError: The images cannot be read.
    """
    fixed = together(structure)
    size = fixed or BATCH
    pool = make_pool(
        read_images(structure, _enough(images, _wanted(steps, size))), seed=0, together=fixed
    )
    held, start, learned = (
        sum(len(part.rows) for part in parts)
        for parts in (pool.held_back, pool.start, pool.training)
    )
    looks = 5 + math.ceil(steps / _between_checks(steps))  # five: three starts, before and after
    original = held + start + min(size * steps, learned)
    return original, 3 * size * steps + 2 * start + looks * held


def _between_checks(steps: int) -> int:
    """Steps from one check to the next."""
    return max(1, math.ceil(steps / CHECKS))


def _wanted(steps: int, size: int) -> int:
    """Images for a number of steps of some images, with those that are held back."""
    return math.ceil(max(steps, 1) * size / (1 - HELD_BACK))


def _held_back(images: int) -> int:
    return max(1, min(MOST_HELD_BACK, round(HELD_BACK * images)))


def _enough(batches: Iterable[Any], wanted: int) -> Iterator[Any]:
    """Batches until they hold as many images as are wanted."""
    count = 0
    for batch in each_batch(batches):
        yield batch
        count += _length(batch)
        if count >= wanted:
            return


# --- the two networks -------------------------------------------------------------------------


class _Teacher:
    """The original: its answers, and what left the part that was removed."""

    def __init__(self, structure: Structure, exits: Sequence[str]) -> None:
        self.model, self.exits = structure.model, exits
        self.left: dict[str, Tensor] = {}
        self.run = GraphRun(structure, {name: self._keeper(name) for name in self.exits})

    def _keeper(self, name: str) -> Callable[[Tensor], Tensor]:
        def keep(value: Tensor) -> Tensor:
            self.left[name] = value.detach().clone()  # the decoder may write into it
            return value

        return keep

    @torch.no_grad()
    def answers(self, inputs: Any) -> list[Any]:
        """Flat outputs."""
        with forward_errors(self.model, inputs, f"a batch of {keyword('images')}"):
            return [_float(x) for x in flat(self.run.predict(inputs))]


class _Goals:
    """The original's answers to parts of the images, kept while there is room."""

    def __init__(self, teacher: _Teacher, pool: _Pool) -> None:
        self.teacher, self.pool = teacher, pool
        self.kept: dict[_Part, list[Any]] = {}
        self.room = ANSWER_BYTES

    def of(self, part: _Part) -> list[Any]:
        """Flat outputs of the original; the same numbers whether they are kept or not."""
        if part in self.kept:
            return self.kept[part]
        found = self.teacher.answers(self.pool.inputs(part))
        size = sum(x.numel() * x.element_size() for x in found if isinstance(x, Tensor))
        if size <= self.room:
            self.room -= size
            self.kept[part] = found
        return found


_HALVES = (torch.bfloat16, torch.float16)


def _float(x: Any) -> Any:
    """Numbers of 16 bits in float32, everything else as it is."""
    return x.float() if isinstance(x, Tensor) and x.dtype in _HALVES else x


def _is_answer(x: Any) -> bool:
    return isinstance(x, Tensor) and x.is_floating_point()


class _Student:
    """The smaller network while it learns, in evaluation mode throughout.

    Its normalisations keep their statistics, the new ones those of the start: with few images a
    step the statistics of a step are noise, and without it as much or more was regained.
    """

    def __init__(self, module: nn.Module, new: Sequence[str], deployed: bool) -> None:
        self.module, fresh = module, set(new)
        for part in module.modules():
            part.training = False
        able = [(n, p) for n, p in module.named_parameters() if _is_able(p)]
        self.new = [p for n, p in able if n in fresh]
        kept = [(n, p) for n, p in able if n not in fresh]
        self.kept = [p for _, p in kept if p.requires_grad or deployed]
        self.frozen = tuple(n for n, p in kept if not (p.requires_grad or deployed))
        if not self.new and not self.kept:
            raise InputError(
                "nothing of the smaller network is left to teach: requires_grad is False on all "
                f"{counted(len(self.frozen), 'parameter')} that it has; call requires_grad_(True) "
                "on the variant's module, or on those parts of it that may learn"
            )
        for parameter in (*self.new, *self.kept):
            parameter.requires_grad_(True)
        self.new_modules = [
            m
            for name, m in module.named_modules()
            if m.state_dict() and all(f"{name}.{key}" in fresh for key in m.state_dict())
        ]

    def predict(self, inputs: Any) -> Any:
        """What the smaller network returns, in the modes that its modules have."""
        args, kwargs = own_arguments(inputs, self.module)
        args, kwargs = pytree.tree_map(_float, (args, kwargs))
        with _mixed_precision(device_of(self.module)):
            return self.module(*args, **kwargs)

    @torch.no_grad()
    def settle(self, parts: Iterable[Any]) -> None:
        """Give the new normalisations the statistics of some images."""
        norms = [
            m for m in self.new_modules if isinstance(m, BatchNorm) and m.running_var is not None
        ]
        momenta = [norm.momentum for norm in norms]
        try:
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum, norm.training = None, True  # the mean over all batches
            for part in parts if norms else ():
                self.predict(part)
        finally:
            finished(
                *(partial(setattr, norm, "training", False) for norm in norms),
                *(partial(setattr, n, "momentum", m) for n, m in zip(norms, momenta, strict=True)),
            )

    def answers(self, inputs: Any) -> list[Any]:
        """Flat outputs in evaluation mode."""
        with torch.no_grad():
            return flat(self.predict(inputs))


def _is_able(parameter: Tensor) -> bool:
    """Whether a parameter can have a gradient."""
    return parameter.is_floating_point() or parameter.is_complex()


def flat(outputs: Any) -> list[Any]:
    """The leaves of what a network returns, None where an output is gone."""
    return pytree.tree_leaves(outputs)


def _mixed_precision(device: torch.device) -> Any:
    """Half the bits on a graphics card that has bfloat16; float32 elsewhere."""
    if device.type == "cuda" and torch.cuda.is_bf16_supported():
        return torch.autocast("cuda", torch.bfloat16)
    return nullcontext()


@contextmanager
def _in_float32(module: nn.Module) -> Iterator[None]:
    """Train a network of fewer bits in float32, and give each tensor its own format back."""
    tensors = [*module.parameters(), *module.buffers()]
    formats = [(t, t.dtype) for t in tensors if t.dtype in _HALVES]
    try:
        for tensor, _ in formats:
            _give_format(tensor, torch.float32)
        yield
    finally:
        finished(*(partial(_give_format, tensor, dtype) for tensor, dtype in formats))


def _give_format(tensor: Tensor, dtype: torch.dtype) -> None:
    tensor.grad = None
    tensor.data = tensor.data.to(dtype)


# --- how alike two answers are ----------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Likeness:
    """Compares answers, on the scale of the original's own variation on the held-back images."""

    positions: tuple[int, ...]
    variances: tuple[float, ...]
    deciding: tuple[bool, ...]  # False: numbers (a regression), in which no channel is a class
    chances: tuple[float, ...]  # variance of the probabilities of logits, else 0
    labels: frozenset[int]  # positions of answers in which each channel seems to decide for itself

    def loss(self, found: Sequence[Any], goal: Sequence[Any]) -> Tensor:
        """Share of the variance that is not matched; of logits that of the probabilities too.

        Of numbers (a regression) the root of this share in each image.
        """
        total = []
        for position, variance, deciding, chance in zip(
            self.positions, self.variances, self.deciding, self.chances, strict=True
        ):
            a, b = found[position].float(), goal[position]
            if not deciding:
                images = len(b) if b.dim() else 1
                shares = (a - b).square().reshape(images, -1).mean(1) / variance
                total.append((shares + LEAST_SHARE).sqrt().mean())
                continue
            total.append((a - b).square().mean() / variance)
            if chance:
                each = position in self.labels
                total.append((_chances(a, each) - _chances(b, each)).square().mean() / chance)
        return torch.stack(total).sum() / len(self.positions)

    def unexplained(self, found: Sequence[Any], goal: Sequence[Any]) -> float:
        """Mean squared difference / variance, averaged over the outputs."""
        parts = [
            float((found[i].float() - goal[i]).square().mean()) / v
            for i, v in zip(self.positions, self.variances, strict=True)
        ]
        return sum(parts) / len(parts)

    def decided_alike(self, found: Sequence[Any], goal: Sequence[Any]) -> float:
        """Share of positions with the same decision, averaged over the outputs that decide."""
        parts = []
        for i, deciding, chance in zip(self.positions, self.deciding, self.chances, strict=True):
            if not deciding:
                continue
            a, b = found[i].float(), goal[i]
            if a.dim() > 1 and a.shape[1] > 1:
                same = a.argmax(1) == b.argmax(1)
                if i in self.labels:
                    same = (a > 0.0) == (b > 0.0)
            else:
                border = 0.0 if chance else 0.5
                same = (a > border) == (b > border)
            parts.append(float(same.float().mean()))
        return sum(parts) / len(parts) if parts else math.nan


def _chances(logits: Tensor, each: bool = False) -> Tensor:
    """Probabilities of the classes, or of the one class; ``each``: of every channel by itself."""
    if logits.dim() > 1 and logits.shape[1] > 1 and not each:
        return logits.softmax(1)
    return logits.sigmoid()


def _likeness(goals: _Goals, gone: Sequence[int]) -> _Likeness:
    """Read off the held-back images on what scale the original's outputs vary.

    Raises:
        InputError: No output of the smaller network is a tensor of floating-point numbers.
    """
    answers = [goals.of(part) for part in goals.pool.held_back]
    positions = tuple(i for i, x in enumerate(answers[0]) if _is_answer(x) and i not in gone)
    if not positions:
        raise InputError(
            "no output that the smaller network still computes is a tensor of floating-point "
            "numbers; there is nothing to match"
        )
    inputs = [pytree.tree_leaves(goals.pool.inputs(part)) for part in goals.pool.held_back]
    variances, deciding, chances, labels = [], [], [], set[int]()
    for i in positions:
        values = [answer[i] for answer in answers]
        variances.append(_variance(values))
        low, high = min(float(v.min()) for v in values), max(float(v.max()) for v in values)
        known = low >= 0.0 and high <= 1.0
        deciding.append(
            decides(
                [v if v.dim() > 1 else v[:, None] for v in values],
                [_alike(v, leaves) for v, leaves in zip(values, inputs, strict=True)],
            )
        )
        logits = deciding[-1] and not known
        if logits and all(v.dim() > 1 for v in values):
            bare = torch.cat([without_class(v.reshape(*v.shape[:2], -1)) for v in values])
            labels |= {i} if float(bare.mean()) > BARE else set()
        each = i in labels
        chances.append(_variance([_chances(v, each) for v in values]) if logits else 0.0)
    likeness = tuple(variances), tuple(deciding), tuple(chances)
    return _Likeness(positions, *likeness, frozenset(labels))


def _alike(output: Tensor, inputs: Sequence[Any]) -> Tensor | None:
    """The first input that an image-like output could be a restored form of."""
    fit = (x for x in inputs if _is_answer(x) and x.dim() > 2 and x.shape == output.shape)
    return next(fit, None)


def _variance(parts: Sequence[Tensor]) -> float:
    """Variance around the mean of each channel: a constant answer explains nothing of it."""
    rows = torch.cat(
        [p.double().movedim(1, -1).flatten(0, -2) if p.dim() > 1 else p.double() for p in parts]
    )
    return max(float(rows.var(0, unbiased=False).mean()), 1e-12)


# --- the course -------------------------------------------------------------------------------


@dataclass
class _State:
    """Where a course stands; what a file of a broken-off course holds."""

    step: int
    start: str
    before: Agreement
    course: list[Check]
    best: dict[str, Tensor]
    fallen: int  # how often the rate fell back


def recover(
    structure: Structure,
    plan: Plan,
    module: nn.Module,
    new: Sequence[str],
    gone: Sequence[int],
    images: Iterable[Any] | None,
    *,
    steps: int,
    batches: Iterable[Any] | None,
    loss: Callable[[Any, Any], Tensor] | None,
    progress: bool,
    seed: int,
    resume: str | os.PathLike[str] | None,
) -> Recovery:
    """Train a smaller network to answer as the original does; see ``Variant.recover``."""
    if steps < 0:
        raise InputError(f"{keyword('steps', steps)} must not be negative")
    if (batches is None) != (loss is None):
        raise InputError(
            f"{keyword('batches')} of (inputs, targets) and {keyword('loss')} belong together; "
            "give both"
        )
    path = None if resume is None else Path(path_text(resume, f"given as {keyword('resume')}"))
    fixed = together(structure)
    wanted = _wanted(steps, fixed or BATCH)
    labelled = None if batches is None else read_batches(_enough(batches, wanted), structure.model)
    if images is None and labelled is not None:
        images = [inputs for inputs, _ in labelled]
    if images is None:
        raise InputError(f"recovery needs {keyword('images')}: unlabelled ones will do")
    pool = make_pool(read_images(structure, _enough(images, wanted)), seed, fixed)
    with _put_back_on_failure(module), _in_float32(module):
        with _turn(structure.model, seed, 0):
            course = _Course(structure, plan, module, new, gone, pool, labelled, loss, steps, seed)
        state = course.run(path, progress)
        with _turn(structure.model, seed, steps):
            after = course.agreement()
    return Recovery(
        before=state.before,
        after=after,
        course=tuple(state.course),
        start=state.start,
        steps=state.step,
        images=pool.images,
        frozen=course.student.frozen,
    )


@contextmanager
def _turn(original: nn.Module, seed: int, step: int) -> Iterator[None]:
    """A part of the course during which no other thread runs a model.

    Networks and losses that draw do so from the seed and the step, as all of the course does.
    """
    with alone(), undisturbed(original):
        number = (seed * 1_000_003 + step) % 2**32
        torch.manual_seed(number)
        np.random.seed(number)
        random.seed(number)
        yield


@contextmanager
def _put_back_on_failure(module: nn.Module) -> Iterator[None]:
    """Leave the numbers as they were where something fails; leave modes and gradients anyhow."""
    before = {name: value.clone() for name, value in module.state_dict().items()}
    modes = [(m, m.training) for m in module.modules()]
    gradients = [(p, p.grad, p.requires_grad) for p in module.parameters()]
    back = [
        *(partial(setattr, part, "training", training) for part, training in modes),
        *(partial(_give_gradient, *of_one) for of_one in gradients),
    ]
    try:
        yield
        finished(*back)
    except BaseException:
        finished(partial(module.load_state_dict, before), *back)
        raise


def _give_gradient(parameter: nn.Parameter, gradient: Tensor | None, required: bool) -> None:
    parameter.grad = gradient
    parameter.requires_grad_(required)


class _Course:
    """One recovery from its start to its best state."""

    def __init__(
        self,
        structure: Structure,
        plan: Plan,
        module: nn.Module,
        new: Sequence[str],
        gone: Sequence[int],
        pool: _Pool,
        labelled: Sequence[tuple[Any, Any]] | None,
        loss: Callable[[Any, Any], Tensor] | None,
        steps: int,
        seed: int,
    ) -> None:
        self.module, self.pool, self.steps, self.seed = module, pool, steps, seed
        self.size = together(structure) or BATCH
        count = len(labelled or ())
        held_back = round(HELD_BACK * count) or int(count > 1)
        self.labelled = list(labelled or ())[: count - held_back]
        self.unseen = list(labelled or ())[count - held_back :]
        self.loss, self.unit = loss, cast("float | None", None)
        deployed = not any(p.requires_grad for p in structure.model.parameters())
        self.teacher = _Teacher(structure, exits_of(structure, plan))
        self.student = _Student(module, new, deployed)
        self.goals = _Goals(self.teacher, pool)
        self.like = _likeness(self.goals, gone)
        self.bottleneck = next(
            ((n, m) for n, m in module.named_children() if isinstance(m, Bottleneck)), None
        )
        self.thinned = plan.thinned
        self.new_steps = round(NEW_SHARE * steps) if self.student.new else 0
        self.trained = [*self.student.new, *self.student.kept]
        self.average = [p.detach().clone() for p in self.trained]
        self.optimizer = torch.optim.Adam(_groups(self.trained))
        if self.labelled:
            self._refuse_without_gradient()

    def run(self, path: Path | None, progress: bool) -> _State:
        """Go through the steps, or through those that are left."""
        state = self._read(path)
        if state is None:
            with self._turn(0):
                state = self._begin()
        every = _between_checks(self.steps)
        with bar(self.steps, "recover", shown=progress, unit="step", initial=state.step) as advance:
            while state.step < self.steps and not self._gain_has_ended(state):
                with self._turn(state.step):
                    self._step(state.step, FALL_BACK**state.fallen)
                state.step += 1
                advance(1)
                if state.step % every == 0 or state.step == self.steps:
                    with self._turn(state.step):
                        self._check(state)
                    self._write(path, state)
        self.module.load_state_dict(state.best)
        return state

    def _turn(self, step: int) -> AbstractContextManager[None]:
        return _turn(self.teacher.model, self.seed, step)

    def _begin(self) -> _State:
        """The best of three starts: as built, with settled statistics, by regression."""
        before = self.agreement()
        first, best, start = self._look(0, "start"), self._copy(), "random"
        images = [self.pool.inputs(part) for part in self.pool.start]
        starts: list[tuple[str, Callable[[], None]]] = [
            ("random", lambda: self.student.settle(images)),
            ("ridge", self._ridge),
        ]
        for name, prepare in starts:
            prepare()
            found = self._look(0, "start")
            if found.loss < first.loss:
                first, best, start = found, self._copy(), name
        self.module.load_state_dict(best)
        self.average = [p.detach().clone() for p in self.trained]
        return _State(0, start, before, [first], best, fallen=0)

    def _step(self, step: int, eased: float) -> None:
        new_only = step < self.new_steps
        for group in self.optimizer.param_groups:
            group["lr"] = group["share"] * eased * self._rate(step)
        for parameter in self.student.kept:  # no gradient through what is not trained
            parameter.requires_grad_(not new_only)
        part = self.pool.draw(step, self.seed)
        inputs, goal = self.pool.inputs(part), self.goals.of(part)
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.like.loss(flat(self.student.predict(inputs)), goal)
        if self.labelled:
            loss = loss + self._labelled_loss(step)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        decay = min(AVERAGE, (step + 1) / (step + 10))
        with torch.no_grad():
            for mean, parameter in zip(self.average, self.trained, strict=True):
                mean.lerp_(parameter, 1 - decay)

    def _rate(self, step: int) -> float:
        """Learning rate of a step."""
        if step < self.new_steps:
            return NEW_RATE * _falling(step / self.new_steps)
        done, span = step - self.new_steps, self.steps - self.new_steps
        rising = min(1.0, (done + 1) / max(1.0, WARM_UP * self.steps))
        return ALL_RATE * rising * _falling(done / span)

    def _labelled_loss(self, step: int) -> Tensor:
        """The user's loss on some labelled images of one batch that is trained on."""
        batch = self.labelled[step % len(self.labelled)]
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        rows = torch.randperm(_length(batch), generator=generator, device="cpu")
        return self._loss_of(_rows(batch, rows[: self.size].tolist()))

    def _refuse_without_gradient(self) -> None:
        """Refuse a loss that cannot teach, while all that is trained requires a gradient."""
        batch = self.labelled[0]
        value = self._loss_of(_rows(batch, range(min(self.size, _length(batch)))))
        self.unit = None  # the start of the course sets it
        if not value.requires_grad:
            raise InputError(
                f"{keyword('loss')} returned a number without a gradient, so it would teach "
                "nothing; compute it from the outputs by operations of torch that have one, "
                "without detach(), item(), argmax or comparisons"
            )

    def _loss_of(self, batch: tuple[Any, Any]) -> Tensor:
        """The user's loss, of which the start has 1: so it weighs as much as the matching."""
        inputs, targets = batch
        loss = cast(Callable[[Any, Any], Tensor], self.loss)
        with forward_errors(self.teacher.model, inputs, f"a batch of {keyword('batches')}"):
            outputs = self.student.predict(inputs)
        wanted = to_device(targets, self.module)
        with named_errors(f"the function given as {keyword('loss')}"):
            value = loss(*fresh(outputs, wanted))
        if not isinstance(value, Tensor) or value.numel() != 1 or not bool(value.isfinite().all()):
            raise InputError(
                f"{keyword('loss')} returned {kind(value)} that is no finite scalar tensor; it is "
                "called as loss(outputs, targets)"
            )
        if self.unit is None:
            self.unit = max(abs(float(value.detach())), 1e-6)
        return value / self.unit

    def _ridge(self) -> None:
        """Set the new bottleneck by regression, where that is possible."""
        if self.bottleneck is None:
            return
        name, bottleneck = self.bottleneck
        entering: list[Tensor] = []
        called: list[Any] = []
        leaving: list[list[Tensor]] = []
        hooks = [
            bottleneck.register_forward_pre_hook(lambda _, args: called.append(args)),
            bottleneck.trunk.register_forward_pre_hook(lambda _, args: entering.append(args[0])),
        ]
        try:
            for part in self.pool.start:
                inputs = self.pool.inputs(part)
                self.teacher.answers(inputs)
                self.student.answers(inputs)
                leaving.append([self.teacher.left[name] for name in self.teacher.exits])
        finally:
            finished(*(hook.remove for hook in hooks))
        if len({x.shape[2:] for x in entering}) > 1:  # images of several sizes
            entering, leaving, called = entering[:1], leaving[:1], called[:1]
        exits = [torch.cat([_float(t) for t in parts]) for parts in zip(*leaving, strict=True)]
        kept = kept_channels(name, bottleneck, self.thinned)
        ridge_start(bottleneck, _float(torch.cat(entering)), exits, called[0][3], kept)

    # --- looking at what was held back ---------------------------------------------------------

    def agreement(self) -> Agreement:
        """Agreement with the original on the held-back images."""
        parts = [
            (len_, self.like.unexplained(found, goal), self.like.decided_alike(found, goal))
            for len_, found, goal in self._held_back()
        ]
        total = sum(n for n, _, _ in parts)
        decisions = sum(n * d for n, _, d in parts) / total
        return Agreement(
            explained=1 - sum(n * u for n, u, _ in parts) / total,
            # the one nan that equals itself in a tuple, so that equal courses are equal
            decisions=math.nan if math.isnan(decisions) else decisions,
        )

    def _held_back(self) -> Iterator[tuple[int, list[Any], list[Any]]]:
        for part in self.pool.held_back:
            found = self.student.answers(self.pool.inputs(part))
            yield len(part.rows), found, self.goals.of(part)

    def _look(self, step: int, trained: str) -> Check:
        parts = [
            (n, float(self.like.loss(found, goal)), self.like.unexplained(found, goal))
            for n, found, goal in self._held_back()
        ]
        total = sum(n for n, _, _ in parts)
        loss, missing = (sum(p[0] * p[k] for p in parts) / total for k in (1, 2))
        if self.labelled:
            with torch.no_grad():
                told = [float(self._loss_of(batch)) for batch in self.unseen or self.labelled]
            loss += sum(told) / len(told)
        return Check(step, trained, loss, 1 - missing)

    def _check(self, state: _State) -> None:
        trained = "new" if state.step <= self.new_steps else "all"
        before = list(state.course)
        with self._averaged():
            check = self._look(state.step, trained)
            if check.loss < min(c.loss for c in before):
                state.best = self._copy()
        state.course.append(check)
        best = min(state.course, key=lambda c: c.loss)
        vain = sum(c.trained == "all" and c.step > best.step for c in state.course)
        least = min(1 - c.explained for c in before)
        if vain == VAIN or (vain and 1 - check.explained > RISEN * least):
            self._fall_back(state)

    def _fall_back(self, state: _State) -> None:
        """Go on from the best weights at a lower rate."""
        state.fallen += 1
        self.module.load_state_dict(state.best)
        _set(self.average, self.trained)
        self.optimizer.state.clear()  # the steps that led away

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """The network with the running average of its weights."""
        own = [p.detach().clone() for p in self.trained]
        try:
            _set(self.trained, self.average)
            yield
        finally:
            _set(self.trained, own)

    def _gain_has_ended(self, state: _State) -> bool:
        losses = [c.loss for c in state.course]
        recent = [c for c in state.course[-PATIENCE:] if c.trained == "all"]
        return len(recent) == PATIENCE and min(losses[-PATIENCE:]) >= min(losses[:-PATIENCE])

    def _copy(self) -> dict[str, Tensor]:
        return {name: value.detach().clone() for name, value in self.module.state_dict().items()}

    # --- a course that was broken off ----------------------------------------------------------

    def _name(self) -> str:
        """What course this is: the same file must not go on with another one."""
        shapes = [[n, list(t.shape)] for n, t in self.module.state_dict().items()]
        scale = [round(v, 6) for v in self.like.variances]
        text = f"{self.steps} {self.seed} {shapes} {scale} {len(self.labelled)}"
        text += f" {self.student.frozen}" if self.student.frozen else ""
        return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()

    def _write(self, path: Path | None, state: _State) -> None:
        if path is None:
            return
        content = {
            "name": self._name(),
            "step": state.step,
            "start": state.start,
            "before": asdict(state.before),
            "course": [asdict(check) for check in state.course],
            "best": state.best,
            "fallen": state.fallen,
            "now": self._copy(),
            "average": self.average,
            "optimizer": self.optimizer.state_dict(),
            "unit": self.unit,
        }
        write_pickle(content, path)

    def _read(self, path: Path | None) -> _State | None:
        if path is None or not path.exists():
            return None
        try:
            content = load_plain(path)
            if content["name"] != self._name():
                raise InputError(
                    f"{str(path)!r} belongs to another recovery: other images, "
                    f"{keyword('steps')}, {keyword('seed')} or another network; remove it or give "
                    f"another path as {keyword('resume')}"
                )
            self.module.load_state_dict(content["now"])
            _set(self.average, content["average"])
            self.optimizer.load_state_dict(content["optimizer"])
            self.unit = content["unit"]
            course = [Check(**check) for check in content["course"]]
            before = Agreement(**content["before"])
            begun, best, fallen = (content[key] for key in ("start", "best", "fallen"))
            return _State(content["step"], begun, before, course, best, fallen)
        except InputError:
            raise
        except Exception as reason:  # a damaged file can break the reader anywhere
            raise InputError(
                f"{str(path)!r} cannot be read as a broken-off recovery ({reason}); remove it or "
                f"give another path as {keyword('resume')}"
            ) from reason


def _groups(parameters: Sequence[Tensor]) -> list[dict[str, Any]]:
    """Groups for an optimiser, each with the share of the learning rate that its width allows."""
    groups: dict[float, list[Tensor]] = {}
    for parameter in parameters:
        inputs = parameter[0].numel() if parameter.dim() > 1 else 1
        groups.setdefault(min(1.0, WIDE / inputs), []).append(parameter)
    return [{"params": own, "share": share} for share, own in groups.items()]


def _falling(done: float) -> float:
    """Share of the first learning rate that is left when a share of the steps is done."""
    return LAST_RATE + (1 - LAST_RATE) * 0.5 * (1 + math.cos(math.pi * done))


@torch.no_grad()
def _set(tensors: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    for tensor, value in zip(tensors, values, strict=True):
        tensor.copy_(value)
