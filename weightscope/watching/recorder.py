"""Record weights and learning rates while somebody trains; the training itself is not changed."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from weightscope.adapters.modes import outside_modes
from weightscope.arguments import checked, having, instance, path_text
from weightscope.checkpoints import holds_text, load_tensors
from weightscope.errors import CheckpointError, InputError, keyword
from weightscope.files import write_csv, write_tensors
from weightscope.movement import Displacement, measure_movement
from weightscope.showing import OnOneScreen
from weightscope.watching import exports
from weightscope.watching.rules import StepRule, Strengths, Walk, step_rule
from weightscope.watching.snapshots import Snapshot, late_saliencies, take
from weightscope.watching.storage import HistoryState
from weightscope.wrappers import unwrap

if TYPE_CHECKING:
    import pandas as pd

_STORED = "weightscope_start"
"""Marks a file of starting weights."""


class History(OnOneScreen):
    """What was recorded of one training; `watch` makes it.

    While the training runs, `displacements` reads the weights as they are; afterwards it returns
    those of the last step watched.

    Attributes:
        every: Steps between snapshots.
        steps: Optimiser steps seen, over all resumed runs.
        snapshots: Recorded distributions, in order.
        note: Why the optimiser has no noise walk, else empty: then nothing is known of how far the
            weights would have moved on noise, and the history ranks no stage.
    """

    @outside_modes()
    def __init__(
        self, model: nn.Module, optimizer: Optimizer, every: int, store: Path | None
    ) -> None:
        self.every = every
        self.steps = 0
        self.snapshots: list[Snapshot] = []
        self._optimizer = optimizer
        self._parameters = {n: p for n, p in model.named_parameters() if p.is_floating_point()}
        self._names = {id(p): n for n, p in self._parameters.items()}
        self._store = store
        self._initial: dict[str, Tensor] = {}
        self._keep_initial({n: p.detach().cpu().clone() for n, p in self._parameters.items()})
        self._strengths = Strengths(
            dict.fromkeys(self._parameters, 0.0),
            dict.fromkeys(self._parameters, 0.0),
            dict.fromkeys(self._parameters, math.nan),
        )
        self._pending: list[Walk] = []
        self.note, self._normalised = "", True
        for group in optimizer.param_groups:
            self._remember(step_rule(optimizer, group))
        self._closed: tuple[Displacement, ...] | None = None
        self._snapshot()

    def _facts(self) -> dict[str, object]:
        return {
            "steps": self.steps,
            "snapshots": f"{len(self.snapshots)}, every {self.every} steps",
            "parameters": len(self._parameters),
            "optimiser": type(self._optimizer).__name__,
            **({"no ranking": self.note} if self.note else {}),
        }

    @outside_modes()
    def displacements(self) -> tuple[Displacement, ...]:
        """Movement of every parameter since the start, with its expected walk on pure noise."""
        if self._closed is not None:
            return self._closed
        strengths = self._folded()
        initial = self.initial()
        self._check_fits(initial, "the start of this history")
        saliencies = late_saliencies(self.snapshots, self.steps)
        found = []
        for name, weights in self._parameters.items():
            split = measure_movement(weights, initial[name])
            walk, faded_walk, note = self._walk(name, strengths)
            found.append(
                Displacement(
                    parameter=name,
                    count=split.count,
                    moved=split.moved,
                    shrinkage=split.shrinkage,
                    walk=walk,
                    faded_walk=faded_walk,
                    note=note,
                    saliency=saliencies.get(name, math.nan),
                    normalised=self._normalised,
                )
            )
        return tuple(found)

    @outside_modes()
    def initial(self) -> dict[str, Tensor]:
        """The weights at the start of the training, by parameter name."""
        if self._store is None:
            return self._initial
        try:
            return load_tensors(self._store)[0]
        except CheckpointError as error:
            raise InputError(
                f"cannot read the weights at the start from {str(self._store)!r}: {error}; keep "
                "the file as long as the history"
            ) from error

    def frame(self) -> pd.DataFrame:
        """Over time: step, parameter, count, mean, std, minimum, maximum, saliency."""
        return exports.figures_frame(self.snapshots)

    def histograms(self) -> pd.DataFrame:
        """Histograms over time, one row per bin: step, parameter, bin_left, bin_right, count."""
        return exports.histograms_frame(self.snapshots)

    @checked()
    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write `histograms` as a comma-separated table, atomically; see `write_csv`."""
        write_csv(self.histograms(), path)

    @checked()
    def to_npz(self, path: str | os.PathLike[str]) -> None:
        """Write all histograms to one npz file, atomically.

        Keys: ``steps`` and ``parameters`` (one entry per snapshot), and for snapshot ``i``
        ``edges_<i>`` and ``counts_<i>``.
        """
        exports.write_npz(self.snapshots, path)

    @checked()
    def to_tensorboard(self, folder: str | os.PathLike[str]) -> None:
        """Write an event file with all histograms into ``folder``; it appears there complete.

        Raises:
            MissingExtraError: tensorboard is not installed.
            InputError: The folder cannot be written.
        """
        exports.write_events(self.snapshots, folder)

    def log_histograms(self, run: Any) -> None:
        """Log all histograms to a run of Weights & Biases or MLflow, once the training is over.

        Weights & Biases gets a histogram for each parameter under ``weights/``, against the steps
        of the optimiser (``weights/step``). MLflow draws no histograms: it gets mean, std, minimum,
        maximum and saliency as metrics, and the histograms as ``weights/histograms.csv``.

        Args:
            run: What ``wandb.init()`` or ``mlflow.start_run()`` returned.

        Raises:
            InputError: It is no such run.
        """
        exports.log_to_run(self.snapshots, run)

    @outside_modes()
    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on after an interruption; `torch.save` it with the model's."""
        return HistoryState(
            self.steps, self.initial(), self._strengths, self._pending, self.snapshots
        ).written()

    @checked(state=instance(Mapping, "what state_dict() returned"))
    @outside_modes()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where an earlier history stopped; states of all earlier versions are read.

        Raises:
            InputError: It belongs to another model or version, or was damaged; nothing is changed.
        """
        read = HistoryState.of(state)
        self._check_fits(read.initial, "history state")
        self._keep_initial(read.initial)
        self.steps, self.snapshots = read.steps, read.snapshots
        self._strengths, self._pending = read.strengths, read.pending

    def _check_fits(self, start: Mapping[str, Tensor], what: str) -> None:
        """Refuse the weights of another model."""
        shapes = {n: tuple(p.shape) for n, p in self._parameters.items()}
        given = {n: tuple(t.shape) for n, t in start.items()}
        different = sorted(n for n in shapes | given if shapes.get(n) != given.get(n))
        if different:
            raise InputError(
                f"{what} is of another model: {len(different)} parameters differ, the first is "
                f"{different[0]!r}"
            )

    def _keep_initial(self, initial: dict[str, Tensor]) -> None:
        """Keep the starting weights in memory, or in the file that the user named."""
        if self._store is None:
            self._initial = initial
            return
        write_tensors(initial, self._store, {_STORED: ""})

    @outside_modes()
    def _after_step(self, optimizer: Optimizer, _args: Any, _kwargs: Any) -> None:
        """Count one optimiser step; called by the optimiser itself."""
        self.steps += 1
        for index, group in enumerate(optimizer.param_groups):
            if index == len(self._pending):
                self._pending.append(Walk())
            rule = step_rule(optimizer, group)
            self._pending[index].step(rule)
            self._remember(rule)
        if self.steps == 1 or self.steps % self.every == 0:
            self._strengths = self._folded()
            self._pending = [Walk() for _ in self._pending]
            self._snapshot()

    def _remember(self, rule: StepRule) -> None:
        """Keep what a rule says of the optimiser as a whole."""
        self._normalised, self.note = rule.normalised, rule.note

    def _folded(self) -> Strengths:
        """Each parameter's noise variances with the walk since the last tick in them.

        Nothing is changed: whoever looks between two ticks must not change what follows.
        """
        variance, faded, gradient = (dict(each) for each in vars(self._strengths).values())
        for walk, group in zip(self._pending, self._optimizer.param_groups, strict=False):
            for parameter in group["params"]:
                name = self._names.get(id(parameter))
                if name is None:
                    continue
                if parameter.grad is not None:
                    gradient[name] = self._strength(parameter, group)
                strength = gradient[name]
                if not math.isfinite(strength):
                    continue
                steady = 1.0 if self._normalised else strength
                variance[name] = variance[name] * walk.keep**2 + steady * walk.variance
                faded[name] = faded[name] * walk.keep**2 + strength * walk.variance
        return Strengths(variance, faded, gradient)

    def _strength(self, parameter: Tensor, group: Mapping[str, Any]) -> float:
        """Mean square of the gradient as the optimiser uses it: divided by its variance or not."""
        square = parameter.grad.detach().float().square()  # type: ignore[union-attr]
        state = self._optimizer.state.get(parameter, {})
        if self._normalised and "exp_avg_sq" in state:
            correction = 1.0 - group["betas"][1] ** float(state["step"])
            variance = state["exp_avg_sq"].float() / correction
            square = square / (variance.sqrt() + group["eps"]).square()
        return float(square.mean())

    def _walk(self, name: str, strengths: Strengths) -> tuple[float, float, str]:
        """Noise walks of one parameter (rms), steady and faded, and why they are not known."""
        if self.note:
            return float("nan"), float("nan"), self.note
        if not math.isfinite(strengths.gradient[name]):
            return 0.0, 0.0, ""
        return math.sqrt(strengths.variance[name]), math.sqrt(strengths.faded[name]), ""

    def _snapshot(self) -> None:
        """Record the distribution of every parameter with more than one axis."""
        self.snapshots += [  # of all parameters, or of none
            take(name, parameter, self.steps)
            for name, parameter in self._parameters.items()
            if parameter.dim() >= 2
        ]

    def _close(self) -> None:
        """Keep the displacements of the last watched step."""
        self._closed = self.displacements()


def _path(store: str | os.PathLike[str] | None) -> Path | None:
    """Where to keep the starting weights; no file of anything else is written over."""
    if store is None:
        return None
    path = Path(path_text(store, f"given as {keyword('store')}"))
    if path.is_file() and path.stat().st_size > 0 and not holds_text(path, _STORED):
        raise InputError(
            f"{str(path)!r}, given as {keyword('store')}, is there already and holds no "
            "starting weights that watch() kept: name another file, or move it away"
        )
    return path


@checked(
    model=instance(nn.Module, "the network that is trained"),
    optimizer=having("param_groups", "a torch optimizer; of several, watch each with its own"),
)
@contextmanager
def watch(
    model: nn.Module,
    optimizer: Optimizer,
    every: int = 100,
    *,
    store: str | os.PathLike[str] | None = None,
) -> Iterator[History]:
    """Record starting weights, learning rates and weight histograms while a model trains.

    The training is not changed: weights come out bit-equal with and without. Hand the history to
    `analyze(model, history=history)`.

    Args:
        model: The model, before its first step (or resumed: load the history's state then).
        optimizer: The optimiser that trains it. Of Adam, AdamW and SGD it is known how far
            gradients of pure noise would carry a weight (the noise walk), which the movement is
            compared with. Of others (RMSprop, Lion, ...) the start, the histograms and the saliency
            (``sum |w * dL/dw|``) are recorded, but the history ranks no stage, and a warning says
            so at the start.
        every: Steps between histograms.
        store: File for the starting weights (safetensors); without it they stay in memory.

    Yields:
        The history, which grows with every step.

    Raises:
        InputError: ``every`` is not positive, the optimiser trains no parameter of the model, the
            parameters have no values yet, or ``store`` is a file of something else.

    Example:
        >>> import torch, weightscope as ws
        >>> model = torch.nn.Conv2d(1, 1, 3)
        >>> optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
        >>> with ws.watch(model, optimizer, every=1) as history:
        ...     model(torch.ones(1, 1, 4, 4)).sum().backward()
        ...     _ = optimizer.step()
        >>> history.steps, round(history.displacements()[0].walk, 3)
        (1, 0.1)
    """
    if every < 1:
        raise InputError(
            f"{keyword('every', every)}: give the number of steps between snapshots, 1 or more"
        )
    model, optimizer = unwrap(model).model, _inner(optimizer)
    own = {id(p) for p in model.parameters()}
    if not any(id(p) in own for group in optimizer.param_groups for p in group["params"]):
        raise InputError(
            "the optimizer holds no parameter of this model; give the pair that trains together"
        )
    lazy = next((name for name, p in model.named_parameters() if is_lazy(p)), None)
    if lazy is not None:
        raise InputError(
            f"{lazy} of {type(model).__name__} is not initialised yet (a lazy module); run the"
            " model once on an example before watching it"
        )
    history = History(model, optimizer, every, _path(store))
    if history.note:
        warnings.warn(
            f"{history.note}: the starting weights, histograms and saliency are recorded, but how "
            "far weights move cannot be compared with noise, so the history will rank no stage "
            "(Adam, AdamW and SGD have a noise walk)",
            stacklevel=3,
        )
    handle = optimizer.register_step_post_hook(history._after_step)
    try:
        yield history
    finally:
        handle.remove()
        history._close()


def _inner(optimizer: Any) -> Optimizer:
    """The optimiser that takes the steps, within those that wrap it (accelerate's, for one)."""
    while isinstance(inner := getattr(optimizer, "optimizer", None), Optimizer):
        optimizer = inner
    return cast("Optimizer", optimizer)
