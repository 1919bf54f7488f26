"""Recovery: a smaller network learns to answer as the original does, without labels."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from weightscope.arguments import path_text
from weightscope.batches import Keys, read_batches
from weightscope.errors import InputError, keyword
from weightscope.graph.structure import Structure
from weightscope.restoring import finished
from weightscope.showing import OnOneScreen, counted
from weightscope.statistics.tensors import not_finite
from weightscope.truncation.course import Check, Course, between_checks, turn
from weightscope.truncation.images import BATCH, batches_in, enough, read_pool, together
from weightscope.truncation.likeness import Agreement
from weightscope.truncation.plan import Plan
from weightscope.truncation.teaching import in_float32


@dataclass(frozen=True, repr=False)
class Recovery(OnOneScreen):
    """The course of a recovery. The variant holds the weights of the best check.

    Attributes:
        before: Agreement with the original as it was cut.
        after: Agreement now.
        course: The checks, from the start.
        start: ``ridge`` where the closed-form start was better, else ``given``: from the weights
            that the variant had, of which those of a new bottleneck are random.
        steps: Steps that were done; fewer than asked for where the gain ended.
        images: Number of images that were read, the held-back ones included.
        used: How many of them were looked at: held back, taken for the closed-form start, or drawn
            by a step.
        batches: Number of batches that they came in.
        given: Number of batches that there were, more than ``batches`` where these held images
            enough for the steps; None where a generator was not gone through.
        frozen: Names of the parameters that were not trained, for the variant has them from the
            original with ``requires_grad=False``.
    """

    before: Agreement
    after: Agreement
    course: tuple[Check, ...]
    start: str
    steps: int
    images: int
    used: int
    batches: int
    given: int | None
    frozen: tuple[str, ...]

    def _facts(self) -> dict[str, object]:
        images = str(self.used) if self.used == self.images else f"{self.used} of {self.images}"
        if self.given != self.batches:
            of = "" if self.given is None else f" of {self.given}"
            images += f" (of the first {self.batches}{of} batches)"
        facts: dict[str, object] = {
            "explained": f"{self.before.explained:.3f} to {self.after.explained:.3f}",
            "decisions": f"{self.before.decisions:.3f} to {self.after.decisions:.3f}",
            "start": self.start,
            "steps": self.steps,
            "checks": len(self.course),
            "images": images,
            **({"frozen": counted(len(self.frozen), "parameter")} if self.frozen else {}),
        }
        if self.after.decisions != self.after.decisions:
            del facts["decisions"]
        return facts


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
    size, pool = together(structure) or BATCH, read_pool(structure, images, steps, seed=0)
    held, start, learned = (
        sum(len(part.rows) for part in parts)
        for parts in (pool.held_back, pool.start, pool.training)
    )
    looks = 5 + math.ceil(steps / between_checks(steps))  # five: three starts, before and after
    original = held + start + min(size * steps, learned)
    return original, 3 * size * steps + 2 * start + looks * held


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
    keys: Keys | None,
    progress: bool,
    seed: int,
    resume: str | os.PathLike[str] | None,
) -> Recovery:
    """Train a smaller network to answer as the original does; see ``Variant.recover``."""
    if (batches is None) != (loss is None):
        raise InputError(
            f"{keyword('batches')} of (inputs, targets) and {keyword('loss')} belong together; "
            "give both"
        )
    path = None if resume is None else Path(path_text(resume, f"given as {keyword('resume')}"))
    labelled, source = None, batches if images is None else images
    if batches is not None:
        labelled = read_batches(enough(structure, batches, steps), structure.model, keys)
    if images is None and labelled is not None:
        images = [inputs for inputs, _ in labelled]
    if images is None or source is None:
        raise InputError(f"recovery needs {keyword('images')}: unlabelled ones will do")
    refuse_broken(structure.model, "the original", "load its weights again")
    refuse_broken(module, "the smaller network", "build it again")
    pool = read_pool(structure, images, steps, seed, batches_in(source))
    bystanders = [structure.model, *([loss] if isinstance(loss, nn.Module) else [])]
    with _put_back_on_failure(module), _gradients_kept(bystanders), in_float32(module):
        with turn(structure.model, seed, 0):
            course = Course(structure, plan, module, new, gone, pool, labelled, loss, steps, seed)
        state = course.run(path, progress)
        with turn(structure.model, seed, steps):
            after = course.agreement()
        if not math.isfinite(after.explained):
            raise InputError(
                "the smaller network answers with nan or infinite values on the images held back, "
                "after its recovery too; scale the images as the original was trained with, or cut "
                "it in float32 (analyze(model.float())), and put it into fewer bits afterwards"
            )
    return Recovery(
        before=state.before,
        after=after,
        course=tuple(state.course),
        start=state.start,
        steps=state.step,
        images=pool.images,
        used=pool.used(state.step, seed),
        batches=len(pool.batches),
        given=pool.given,
        frozen=course.student.frozen,
    )


def refuse_broken(module: nn.Module, what: str, remedy: str) -> None:
    """Refuse weights that are not finite: what follows from them would be called a recovery.

    Raises:
        InputError: Parameters or running statistics hold nan or infinite values; they are named.
    """
    if broken := not_finite(module):
        raise InputError(
            f"weights or running statistics of {what} are nan or infinite ({broken}), as after "
            f"a training that diverged; {remedy}, or repair them (torch.nan_to_num)"
        )


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


@contextmanager
def _gradients_kept(modules: Iterable[nn.Module]) -> Iterator[None]:
    """A loss may read parameters that do not learn; what its gradient leaves there is taken off."""
    own = [(p, p.grad) for module in modules for p in module.parameters()]
    try:
        for parameter, _ in own:
            parameter.grad = None
        yield
    finally:
        finished(*(partial(setattr, p, "grad", gradient) for p, gradient in own))


def _give_gradient(parameter: nn.Parameter, gradient: Tensor | None, required: bool) -> None:
    parameter.grad = gradient
    parameter.requires_grad_(required)
