"""Record weights and learning rates while somebody trains; the training itself is not changed."""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer

from weightscope.adapters.modes import outside_modes
from weightscope.errors import InputError, MissingExtraError
from weightscope.files import write_csv, write_tensors, written_atomically
from weightscope.showing import OnOneScreen
from weightscope.statistics import summarize
from weightscope.utilization.displacement import Displacement, measure_displacement
from weightscope.wrappers import unwrap

if TYPE_CHECKING:
    import pandas as pd

VERSION = 3
"""Version of `History.state_dict`."""

LATE = 0.75
"""Saliency counts from this share of the steps on: what a stage was worth early matters little."""


@dataclass(frozen=True, eq=False)
class Snapshot:
    """The distribution of one parameter at one step.

    Attributes:
        step: Optimiser steps done, counted from the first start of the training.
        parameter: Qualified name.
        count: Number of weights.
        mean: Mean.
        std: Population standard deviation.
        minimum: Smallest value.
        maximum: Largest value.
        edges: Histogram edges (bins + 1), in units of the weights.
        counts: Weights in each bin (bins).
        saliency: ``sum |w * dL/dw|`` over the weights with the gradient of that step, in units of
            the loss; nan before the first step and where no gradient arrived.
    """

    step: int
    parameter: str
    count: int
    mean: float
    std: float
    minimum: float
    maximum: float
    edges: np.ndarray[Any, np.dtype[np.float64]]
    counts: np.ndarray[Any, np.dtype[np.int64]]
    saliency: float


@dataclass(frozen=True)
class StepRule:
    """How far one step of an optimiser carries a weight, and what it decays.

    On pure noise a step is ``gain * g`` in the long run, with ``g`` the gradient divided by its own
    rms for adaptive optimisers; every step also multiplies the weight by ``keep``.

    Attributes:
        gain: Learning rate after momentum.
        keep: ``1 - gain * decay``.
        normalised: Whether the optimiser divides the gradient by its rms.
        note: Why no noise walk is known, else empty.
    """

    gain: float
    keep: float
    normalised: bool
    note: str = ""


def step_rule(optimizer: Optimizer, group: Mapping[str, Any]) -> StepRule:
    """Read the rule of one parameter group off its present settings.

    Adam's first moment has unit gain for a constant, so noise of unit rms walks
    ``lr * sqrt(steps)`` whatever beta1. SGD's buffer has the gain ``(1 - dampening) / (1 -
    momentum)``. AdamW and SGD shrink the weight towards 0; Adam's own ``weight_decay`` goes through
    the normalisation, where its effect is not known beforehand: the measured shrinkage covers it.
    """
    rate, decay = float(group["lr"]), float(group.get("weight_decay", 0.0))
    if isinstance(optimizer, Adam):
        if group.get("amsgrad"):
            return StepRule(rate, 1.0, True, "no noise walk is derived for amsgrad")
        decoupled = bool(group.get("decoupled_weight_decay"))
        return StepRule(rate, 1.0 - rate * decay if decoupled else 1.0, True)
    if isinstance(optimizer, SGD):
        momentum, dampening = float(group["momentum"]), float(group["dampening"])
        gain = rate * (1.0 - dampening) / (1.0 - momentum) if momentum else rate
        return StepRule(gain, 1.0 - gain * decay, False)
    name = type(optimizer).__name__
    return StepRule(rate, 1.0, True, f"no noise walk is derived for {name}")


@dataclass
class _Walk:
    """Running noise walk of one parameter group since the last tick."""

    keep: float = 1.0
    variance: float = 0.0

    def step(self, rule: StepRule) -> None:
        self.keep *= rule.keep
        self.variance = rule.keep**2 * self.variance + rule.gain**2


@dataclass(frozen=True, eq=False)
class _Strengths:
    """By parameter: variances of the noise walk, and the mean square of the last gradient."""

    variance: dict[str, float]
    faded: dict[str, float]
    gradient: dict[str, float]


class History(OnOneScreen):
    """What was recorded of one training; `watch` makes it.

    While the training runs, `displacements` reads the weights as they are; afterwards it returns
    those of the last step watched.

    Attributes:
        every: Steps between snapshots.
        steps: Optimiser steps seen, over all resumed runs.
        snapshots: Recorded distributions, in order.
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
        self._strengths = _Strengths(
            dict.fromkeys(self._parameters, 0.0),
            dict.fromkeys(self._parameters, 0.0),
            dict.fromkeys(self._parameters, math.nan),
        )
        self._pending: list[_Walk] = []
        self._note, self._normalised = "", True
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
        }

    @outside_modes()
    def displacements(self) -> tuple[Displacement, ...]:
        """Movement of every parameter since the start, with its expected walk on pure noise."""
        if self._closed is not None:
            return self._closed
        strengths = self._folded()
        initial = self.initial()
        saliencies = late_saliencies(self.snapshots, self.steps)
        return tuple(
            measure_displacement(
                name,
                weights,
                initial[name],
                *self._walk(name, strengths),
                saliency=saliencies.get(name, math.nan),
                normalised=self._normalised,
            )
            for name, weights in self._parameters.items()
        )

    @outside_modes()
    def initial(self) -> dict[str, Tensor]:
        """The weights at the start of the training, by parameter name."""
        if self._store is None:
            return self._initial
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(self._store)
        except (OSError, SafetensorError) as error:
            raise InputError(
                f"cannot read the weights at the start from {str(self._store)!r}: {error}; keep "
                "the file as long as the history"
            ) from error

    def frame(self) -> pd.DataFrame:
        """Over time: step, parameter, count, mean, std, minimum, maximum, saliency."""
        import pandas as pd

        columns = ["step", "parameter", "count", "mean", "std", "minimum", "maximum", "saliency"]
        rows = [[getattr(s, column) for column in columns] for s in self.snapshots]
        return pd.DataFrame(rows, columns=columns)

    def histograms(self) -> pd.DataFrame:
        """Histograms over time, one row per bin: step, parameter, bin_left, bin_right, count."""
        import pandas as pd

        parts = [
            pd.DataFrame(
                {
                    "step": s.step,
                    "parameter": s.parameter,
                    "bin_left": s.edges[:-1],
                    "bin_right": s.edges[1:],
                    "count": s.counts,
                }
            )
            for s in self.snapshots
        ]
        columns = ["step", "parameter", "bin_left", "bin_right", "count"]
        return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write `histograms` as a comma-separated table, atomically; see `write_csv`."""
        write_csv(self.histograms(), path)

    def to_npz(self, path: str | os.PathLike[str]) -> None:
        """Write all histograms to one npz file, atomically.

        Keys: ``steps`` and ``parameters`` (one entry per snapshot), and for snapshot ``i``
        ``edges_<i>`` and ``counts_<i>``.
        """
        arrays: dict[str, Any] = {
            "steps": np.array([s.step for s in self.snapshots], dtype=np.int64),
            "parameters": np.array([s.parameter for s in self.snapshots], dtype=np.str_),
        }
        for i, snapshot in enumerate(self.snapshots):
            arrays[f"edges_{i}"] = snapshot.edges
            arrays[f"counts_{i}"] = snapshot.counts
        with written_atomically(path) as temporary, temporary.open("wb") as stream:
            np.savez_compressed(stream, **arrays)

    def to_tensorboard(self, folder: str | os.PathLike[str]) -> None:
        """Write an event file with all histograms into ``folder``; it appears there complete.

        Raises:
            MissingExtraError: tensorboard is not installed.
            InputError: The folder cannot be written.
        """
        try:
            from torch.utils.tensorboard.writer import SummaryWriter
        except ImportError as error:
            raise MissingExtraError(
                "event files need tensorboard: pip install tensorboard"
            ) from error
        target = Path(folder)
        try:
            target.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=target, prefix=".writing-") as temporary:
                with SummaryWriter(temporary) as writer:
                    for s in self.snapshots:
                        self._add_histogram(writer, s)
                for file in sorted(Path(temporary).iterdir()):
                    shutil.move(file, target / file.name)
        except OSError as error:
            raise InputError(
                f"cannot write into {str(folder)!r}: {error.strerror or error}; "
                "free some space or give a folder that you may write to"
            ) from error

    @staticmethod
    def _add_histogram(writer: Any, s: Snapshot) -> None:
        writer.add_histogram_raw(
            s.parameter.replace(".", "/"),
            min=s.minimum,
            max=s.maximum,
            num=s.count,
            sum=s.mean * s.count,
            sum_squares=(s.std**2 + s.mean**2) * s.count,
            bucket_limits=s.edges[1:].tolist(),
            bucket_counts=s.counts.tolist(),
            global_step=s.step,
        )

    @outside_modes()
    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on after an interruption; `torch.save` it with the model's."""
        return {
            "version": VERSION,
            "steps": self.steps,
            "initial": self.initial(),
            "variance": dict(self._strengths.variance),
            "faded": dict(self._strengths.faded),
            "gradient": dict(self._strengths.gradient),
            "pending": [[walk.keep, walk.variance] for walk in self._pending],
            "snapshots": [
                {
                    **{k: v for k, v in vars(s).items() if k not in ("edges", "counts")},
                    "edges": torch.from_numpy(s.edges),
                    "counts": torch.from_numpy(s.counts),
                }
                for s in self.snapshots
            ],
        }

    @outside_modes()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where an earlier history stopped; states of all earlier versions are read.

        Raises:
            InputError: It belongs to another model or version, or was damaged; nothing is changed.
        """
        version = state.get("version") if isinstance(state, Mapping) else None
        if not isinstance(version, int) or not 1 <= version <= VERSION:
            raise InputError(
                f"history state has version {version!r}, expected 1 to {VERSION}; give what "
                "History.state_dict() made, by this version of weightscope or an earlier one"
            )
        try:
            read = _HistoryState.read(_upgraded(state, version))
        except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise InputError(
                f"history state is damaged ({type(error).__name__}: {error}); give one that "
                "History.state_dict() made"
            ) from error
        shapes = {n: tuple(p.shape) for n, p in self._parameters.items()}
        given = {n: tuple(t.shape) for n, t in read.initial.items()}
        if shapes != given:
            different = sorted(n for n in shapes | given if shapes.get(n) != given.get(n))
            raise InputError(
                f"history state is of another model: {len(different)} parameters differ, the first "
                f"is {different[0]!r}"
            )
        self._keep_initial(read.initial)
        self.steps, self.snapshots = read.steps, read.snapshots
        self._strengths, self._pending = read.strengths, read.pending

    def _keep_initial(self, initial: dict[str, Tensor]) -> None:
        """Keep the starting weights in memory, or in the file that the user named."""
        if self._store is None:
            self._initial = initial
            return
        write_tensors(initial, self._store)

    @outside_modes()
    def _after_step(self, optimizer: Optimizer, _args: Any, _kwargs: Any) -> None:
        """Count one optimiser step; called by the optimiser itself."""
        self.steps += 1
        for index, group in enumerate(optimizer.param_groups):
            if index == len(self._pending):
                self._pending.append(_Walk())
            rule = step_rule(optimizer, group)
            self._pending[index].step(rule)
            self._remember(rule)
        if self.steps == 1 or self.steps % self.every == 0:
            self._strengths = self._folded()
            self._pending = [_Walk() for _ in self._pending]
            self._snapshot()

    def _remember(self, rule: StepRule) -> None:
        """Keep what a rule says of the optimiser as a whole."""
        self._normalised, self._note = rule.normalised, rule.note

    def _folded(self) -> _Strengths:
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
        return _Strengths(variance, faded, gradient)

    def _strength(self, parameter: Tensor, group: Mapping[str, Any]) -> float:
        """Mean square of the gradient as the optimiser uses it: divided by its variance or not."""
        square = parameter.grad.detach().float().square()  # type: ignore[union-attr]
        state = self._optimizer.state.get(parameter, {})
        if self._normalised and "exp_avg_sq" in state:
            correction = 1.0 - group["betas"][1] ** float(state["step"])
            variance = state["exp_avg_sq"].float() / correction
            square = square / (variance.sqrt() + group["eps"]).square()
        return float(square.mean())

    def _walk(self, name: str, strengths: _Strengths) -> tuple[float, float, str]:
        """Noise walks of one parameter (rms), steady and faded, and why they are not known."""
        if self._note:
            return float("nan"), float("nan"), self._note
        if not math.isfinite(strengths.gradient[name]):
            return 0.0, 0.0, ""
        return math.sqrt(strengths.variance[name]), math.sqrt(strengths.faded[name]), ""

    def _snapshot(self) -> None:
        """Record the distribution of every parameter with more than one axis."""
        snapshots = []
        for name, parameter in self._parameters.items():
            if parameter.dim() < 2:
                continue
            summary = summarize(parameter.detach(), fast=True)
            snapshots.append(
                Snapshot(
                    step=self.steps,
                    parameter=name,
                    count=summary.count,
                    mean=summary.mean,
                    std=summary.std,
                    minimum=summary.minimum,
                    maximum=summary.maximum,
                    edges=summary.histogram.edges,
                    counts=summary.histogram.counts,
                    saliency=_saliency(parameter) if self.steps else math.nan,
                )
            )
        self.snapshots += snapshots  # of all parameters, or of none

    def _close(self) -> None:
        """Keep the displacements of the last watched step."""
        self._closed = self.displacements()


@dataclass(frozen=True, eq=False)
class _HistoryState:
    """What a `History.state_dict` holds, checked."""

    steps: int
    initial: dict[str, Tensor]
    strengths: _Strengths
    pending: list[_Walk]
    snapshots: list[Snapshot]

    @classmethod
    def read(cls, state: Mapping[str, Any]) -> _HistoryState:
        """Check everything, and share nothing with ``state``.

        Raises:
            ValueError: A value that no training gives; others are of another kind than expected.
        """
        initial = {}
        for name, value in state["initial"].items():
            if not isinstance(value, Tensor) or not value.is_floating_point():
                raise ValueError(f"the start of {name!r} is no tensor of floats")
            initial[name] = value.detach().cpu().clone()
        steps = _whole(state["steps"], "steps")
        return cls(
            steps,
            initial,
            _Strengths(
                _by_parameter(state, "variance", initial),
                _by_parameter(state, "faded", initial),
                _by_parameter(state, "gradient", initial, or_nan=True),
            ),
            [_read_walk(*pair) for pair in state["pending"]],
            [_read_snapshot(entry, steps, initial) for entry in state["snapshots"]],
        )


def _upgraded(state: Mapping[str, Any], version: int) -> dict[str, Any]:
    """A state as this version writes it.

    Version 1 knew no saliency. Up to version 2 the walk since the last tick was folded into the
    variances before a state was written, so that nothing is pending.
    """
    upgraded = dict(state)
    if version < 2:
        upgraded["snapshots"] = [{"saliency": math.nan, **entry} for entry in state["snapshots"]]
    if version < 3:
        upgraded["pending"] = []
    return upgraded


def _whole(value: Any, what: str, most: float = math.inf) -> int:
    if type(value) is not int or not 0 <= value <= most:
        raise ValueError(f"{what} is {value!r}")
    return value


def _by_parameter(
    state: Mapping[str, Any], key: str, names: Mapping[str, Any], *, or_nan: bool = False
) -> dict[str, float]:
    """Mean squares by parameter; none is negative or infinite."""
    found = {name: float(state[key][name]) for name in names}
    for name, value in found.items():
        if not (0.0 <= value < math.inf or (or_nan and math.isnan(value))):
            raise ValueError(f"{key} of {name!r} is {value}")
    return found


def _read_walk(keep: Any, variance: Any) -> _Walk:
    walk = _Walk(float(keep), float(variance))
    if not math.isfinite(walk.keep) or not 0.0 <= walk.variance < math.inf:
        raise ValueError(f"a walk is {walk}")
    return walk


def _read_snapshot(entry: Mapping[str, Any], steps: int, names: Mapping[str, Any]) -> Snapshot:
    edges = entry["edges"].detach().cpu().numpy().astype(np.float64)
    counts = entry["counts"].detach().cpu().numpy().astype(np.int64)
    if entry["parameter"] not in names:
        raise ValueError(f"a snapshot is of {entry['parameter']!r}")
    if edges.ndim != 1 or counts.shape != (max(edges.size - 1, 0),) or (counts < 0).any():
        raise ValueError("a histogram has no count for each bin")
    if not (np.isfinite(edges).all() and (np.diff(edges) > 0).all()):
        raise ValueError("the edges of a histogram do not ascend")
    return Snapshot(
        step=_whole(entry["step"], "the step of a snapshot", steps),
        parameter=entry["parameter"],
        count=_whole(entry["count"], "the count of a snapshot"),
        mean=float(entry["mean"]),
        std=float(entry["std"]),
        minimum=float(entry["minimum"]),
        maximum=float(entry["maximum"]),
        edges=edges,
        counts=counts,
        saliency=float(entry["saliency"]),
    )


def _saliency(parameter: Tensor) -> float:
    """First-order importance of a parameter's weights by the gradient that it holds."""
    if parameter.grad is None:
        return math.nan
    # in half precision most of the products would vanish
    return float((parameter.detach().float() * parameter.grad.detach().float()).abs().sum())


def late_saliencies(snapshots: Iterable[Snapshot], steps: int) -> dict[str, float]:
    """Mean saliency of each parameter over the snapshots of the last quarter of the steps.

    Args:
        snapshots: Recorded distributions.
        steps: Optimiser steps done.
    """
    late: dict[str, list[float]] = {}
    for s in snapshots:
        if s.step >= LATE * steps and math.isfinite(s.saliency):
            late.setdefault(s.parameter, []).append(s.saliency)
    return {name: sum(values) / len(values) for name, values in late.items()}


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
        optimizer: The optimiser that trains it. Adam, AdamW and SGD have a noise walk; of others
            the histograms are recorded, but no verdict follows.
        every: Steps between histograms.
        store: File for the starting weights (safetensors); without it they stay in memory.

    Yields:
        The history, which grows with every step.

    Raises:
        InputError: ``every`` is not positive, or the optimiser trains no parameter of the model.

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
        raise InputError(f"every={every}: give the number of steps between snapshots, 1 or more")
    model = unwrap(model).model
    own = {id(p) for p in model.parameters()}
    if not any(id(p) in own for group in optimizer.param_groups for p in group["params"]):
        raise InputError(
            "the optimizer holds no parameter of this model; give the pair that trains together"
        )
    history = History(model, optimizer, every, None if store is None else Path(store))
    handle = optimizer.register_step_post_hook(history._after_step)
    try:
        yield history
    finally:
        handle.remove()
        history._close()


def lightning_callback(every: int = 100) -> Any:
    """Make a Lightning callback that watches the first optimiser of a training.

    Its ``history`` is there from the start of ``fit`` on; checkpoints carry it, so that a resumed
    training goes on with it.

    Raises:
        MissingExtraError: lightning is not installed.
    """
    try:
        from lightning.pytorch import Callback
    except ImportError as error:
        raise MissingExtraError("the callback needs lightning: pip install lightning") from error

    class WatchCallback(Callback):
        """Watches a training from its start to its end."""

        def __init__(self) -> None:
            self.history: History | None = None
            self._resumed: dict[str, Any] | None = None
            self._stack = ExitStack()

        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            self.history = self._stack.enter_context(watch(pl_module, trainer.optimizers[0], every))
            if self._resumed is not None:
                self.history.load_state_dict(self._resumed)

        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            self._stack.close()

        def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
            self._stack.close()

        def state_dict(self) -> dict[str, Any]:
            return {} if self.history is None else self.history.state_dict()

        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            self._resumed = state_dict or None

    return WatchCallback()
