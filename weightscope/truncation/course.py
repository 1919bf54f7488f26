"""The course of a recovery: its starts, its steps, its looks at what was held back."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from weightscope.adapters import pytree
from weightscope.adapters.modes import alone
from weightscope.calls import (
    forward_errors,
    fresh,
    gradient_errors,
    named_errors,
    seed_all,
    to_device,
    unchanged,
    undisturbed,
)
from weightscope.checkpoints import load_plain
from weightscope.errors import InputError, keyword, kind
from weightscope.files import write_pickle
from weightscope.graph.structure import Structure
from weightscope.progress import bar
from weightscope.restoring import finished
from weightscope.truncation.bottleneck import Bottleneck
from weightscope.truncation.images import BATCH, HELD_BACK, Pool, length, rows_of, together
from weightscope.truncation.likeness import Agreement, read_likeness
from weightscope.truncation.plan import Plan, digest, exits_of, weights_digest
from weightscope.truncation.start import kept_channels, ridge_start
from weightscope.truncation.steps import Orthogonal, optimizer_of
from weightscope.truncation.teaching import Goals, Student, Teacher, asked_for, flat, in_float

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

CHECKS, PATIENCE = 10, 5
"""How often the held-back images are asked, and how many checks in a row may bring no gain."""


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


@dataclass
class _State:
    """Where a course stands; what a file of a broken-off course holds."""

    step: int
    start: str
    before: Agreement
    course: list[Check]
    best: dict[str, Tensor]
    fallen: int  # how often the rate fell back


class AnotherRecoveryError(InputError):
    """The file to go on from is that of another recovery."""


@dataclass(frozen=True)
class _File:
    """Where a course is kept, and what it must have been begun with.

    Attributes:
        path: The file.
        name: A digest of all that the course hangs on but the smaller network's weights.
        begun: A digest of the weights that it had, the new ones included.
    """

    path: Path
    name: str
    begun: str


def between_checks(steps: int) -> int:
    """Steps from one check to the next."""
    return max(1, math.ceil(steps / CHECKS))


@contextmanager
def turn(original: nn.Module, seed: int, step: int) -> Iterator[None]:
    """A part of the course during which no other thread runs a model.

    Networks and losses that draw do so from the seed and the step, as all of the course does.
    """
    with alone(), undisturbed(original):
        seed_all((seed * 1_000_003 + step) % 2**32)
        yield


class Course:
    """One recovery from its start to its best state."""

    def __init__(
        self,
        structure: Structure,
        plan: Plan,
        module: nn.Module,
        new: Sequence[str],
        gone: Sequence[int],
        pool: Pool,
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
        self.teacher = Teacher(structure, exits_of(structure, plan))
        self.student = Student(module, new, deployed, asked_for(structure))
        self.goals = Goals(self.teacher, pool)
        self.like = read_likeness(self.goals, gone)
        self.bottleneck = next(
            ((n, m) for n, m in module.named_children() if isinstance(m, Bottleneck)), None
        )
        self.new_steps = round(NEW_SHARE * steps) if self.student.new else 0
        self.trained = [*self.student.new, *self.student.kept]
        self.average = [p.detach().clone() for p in self.trained]
        take_steps = optimizer_of(structure.depth - plan.keep_levels, bool(plan.thinned))
        self.optimizer = take_steps(_groups(self.trained))
        if self.labelled:
            self._refuse_without_gradient()
        self.plan = plan

    def run(self, path: Path | None, progress: bool) -> _State:
        """Go through the steps, or through those that are left."""
        file = None if path is None else self._file(path)
        state = None if file is None else self._read(file)
        if state is None:
            with self._turn(0):
                state = self._begin()
        every = between_checks(self.steps)
        with bar(self.steps, "recover", shown=progress, unit="step", initial=state.step) as advance:
            while state.step < self.steps and not self._gain_has_ended(state):
                with self._turn(state.step), unchanged(self.module, parameters=False):
                    self._step(state.step, FALL_BACK**state.fallen)
                state.step += 1
                advance(1)
                if state.step % every == 0 or state.step == self.steps:
                    with self._turn(state.step):
                        self._check(state)
                    self._write(file, state)
        self.module.load_state_dict(state.best)
        return state

    def _turn(self, step: int) -> AbstractContextManager[None]:
        return turn(self.teacher.model, self.seed, step)

    def _begin(self) -> _State:
        """The best of three starts: as built, with settled statistics, by regression."""
        before = self.agreement()
        first, best, start = self._look(0, "start"), self._copy(), "given"
        images = [self.pool.inputs(part) for part in self.pool.start]
        starts: list[tuple[str, Callable[[], None]]] = [
            ("given", lambda: self.student.settle(images)),
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
        remedy = f"recover with {keyword('steps', 0)}, which needs no gradient"
        with gradient_errors(self.teacher.model, inputs, "the smaller network", remedy):
            loss = self.like.loss(flat(self.student.predict(inputs)), goal)
            loss.backward()  # type: ignore[no-untyped-call]
        if self.labelled:
            what = f"the function given as {keyword('loss')}"
            remedy = f"leave {keyword('batches')} and {keyword('loss')} out"
            with gradient_errors(self.teacher.model, inputs, what, remedy):
                told = self._labelled_loss(step)
                if told.requires_grad:  # of old weights alone it has none while new ones learn
                    told.backward()  # type: ignore[no-untyped-call]
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
        rows = torch.randperm(length(batch), generator=generator, device="cpu")
        return self._loss_of(rows_of(batch, rows[: self.size].tolist()))

    def _refuse_without_gradient(self) -> None:
        """Refuse a loss that cannot teach, while all that is trained requires a gradient."""
        batch = self.labelled[0]
        value = self._loss_of(rows_of(batch, range(min(self.size, length(batch)))))
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
                made = [self.teacher.left[name] for name in self.teacher.exits]
                each = len(bottleneck.exits)  # in one run of what is removed
                leaving += [made[i : i + each] for i in range(0, len(made), each)]
        finally:
            finished(*(hook.remove for hook in hooks))
        sizes = [x.shape[2:] for x in entering]
        usual = max(sizes, key=sizes.count)  # of images of several sizes
        of_it = [i for i, size in enumerate(sizes) if size == usual]
        by_exit = zip(*(leaving[i] for i in of_it), strict=True)
        exits = [torch.cat([in_float(t) for t in parts]) for parts in by_exit]
        inner = in_float(torch.cat([entering[i] for i in of_it]))
        kept = kept_channels(name, bottleneck, self.plan.thinned)
        ridge_start(bottleneck, inner, exits, called[of_it[0]][3], kept)

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
            with torch.no_grad(), unchanged(self.module, parameters=False):
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

    def _file(self, path: Path) -> _File:
        """A file for this course, as it begins."""
        with self._turn(0):
            return _File(path, self._name(), digest("", self.module.state_dict()))

    def _name(self) -> str:
        """What course this is: the same file must not go on with another one."""
        shapes = [[n, list(t.shape)] for n, t in self.module.state_dict().items()]
        scale = [f"{v:.4g}" for v in self.like.variances]
        original = weights_digest(self.teacher.model)
        text = f"{self.steps} {self.seed} {self.plan.to_json()} {original} {shapes} {scale}"
        text += f" {self.student.frozen} {self._loss_of_original()}"
        text += " orthogonal" * isinstance(self.optimizer, Orthogonal)
        leaves = pytree.tree_leaves([*self.pool.batches, *self.labelled, *self.unseen])
        text += f" {[leaf for leaf in leaves if isinstance(leaf, int | float | str)]}"
        return digest(text, {str(i): v for i, v in enumerate(leaves) if isinstance(v, Tensor)})

    def _loss_of_original(self) -> str:
        """What the user's loss says of the original: there is no other way to know a function."""
        if self.loss is None or not self.labelled:
            return ""
        inputs, targets = self.labelled[0]
        with torch.no_grad(), named_errors(f"the function given as {keyword('loss')}"):
            outputs = self.teacher.run.predict(inputs)
            return f"{float(self.loss(*fresh(outputs, to_device(targets, self.module)))):.4g}"

    def _write(self, file: _File | None, state: _State) -> None:
        if file is None:
            return
        content = {
            "name": file.name,
            "begun": file.begun,
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
        write_pickle(content, file.path)

    def _read(self, file: _File) -> _State | None:
        path = file.path
        if not path.exists():
            return None
        try:
            content = load_plain(path)
            # where the file's course came to its end, the variant may hold what it came to, in
            # the kind of numbers that it has
            kinds = (torch.float32, torch.float16, torch.bfloat16)
            ends = [digest("", _rounded(content["best"], kind)) for kind in kinds]
            if content["name"] != file.name or file.begun not in (content["begun"], *ends):
                raise AnotherRecoveryError(
                    f"{str(path)!r} belongs to another recovery: other images, labels, "
                    f"{keyword('loss')}, {keyword('steps')}, {keyword('seed')}, another network or "
                    "other weights (build(seed=0) draws the same new ones in every run); "
                    f"remove it or give another path as {keyword('resume')}"
                )
            self.module.load_state_dict(content["now"])
            _set(self.average, content["average"])
            self.optimizer.load_state_dict(content["optimizer"])
            self.unit = content["unit"]
            course = [Check(**check) for check in content["course"]]
            # nan from a file is another nan than that of `agreement`
            told = {k: math.nan if math.isnan(v) else v for k, v in content["before"].items()}
            before = Agreement(**told)
            start, best, fallen = (content[key] for key in ("start", "best", "fallen"))
            return _State(content["step"], start, before, course, best, fallen)
        except InputError:
            raise
        except Exception as reason:  # a damaged file can break the reader anywhere
            raise InputError(
                f"{str(path)!r} cannot be read as a broken-off recovery ({reason}); remove it or "
                f"give another path as {keyword('resume')}"
            ) from reason


def _rounded(state: Mapping[str, Tensor], kind: torch.dtype) -> dict[str, Tensor]:
    """Numbers of float32 as they come back from another kind; others as they are."""
    return {
        name: value.to(kind).to(value.dtype) if value.dtype == torch.float32 else value
        for name, value in state.items()
    }


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
