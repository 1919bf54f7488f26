"""Quality by a callable, asked for one image at a time: losses, regression, other libraries'."""

from __future__ import annotations

import copy
import functools
import inspect
import math
import types
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from weightscope.adapters import pytree
from weightscope.arguments import attribute_of
from weightscope.batches import split_images
from weightscope.calls import (
    fresh,
    only_tensor,
    random_state,
    random_states,
    say,
    seed_all,
    shapes,
    unchanged,
)
from weightscope.errors import InputError, shown
from weightscope.utilization.metrics import ImageValues

Evaluate = Callable[[Any, Any], Any]

_SHARES = (
    "DiceHelper", "DiceMetric", "FBetaScore", "GeneralizedDiceScore", "MeanIoU",
    "MultiScaleSSIMMetric", "PanopticQualityMetric", "SSIMMetric", "SurfaceDiceMetric",
)  # fmt: skip
"""MONAI's metrics between 0 and 1, the more the better; they declare no bounds."""

NUMBERS = 256
"""Most numbers for an image that may be one for each class; more are one for each position."""


class ValueMetric:
    """A metric or a loss as a function of the outputs and targets of one image.

    Args:
        metric: ``metric(outputs, targets)``: a function, a loss, or a metric object of torchmetrics
            or MONAI. It is left as it was.
        larger_is_better: None where the values have to show it.
        name: What the user calls it; by default what it calls itself.

    Attributes:
        bounded: Whether it declares that it lies between 0 and 1.
    """

    def __init__(
        self, metric: Evaluate, larger_is_better: bool | None = None, name: str = ""
    ) -> None:
        declared = attribute_of(metric, "higher_is_better")
        if larger_is_better is None and isinstance(declared, bool):
            larger_is_better = declared
        if any(kind.__module__ == nn.MSELoss.__module__ for kind in type(metric).__mro__):
            larger_is_better = False
        self.name = name or _name(metric)
        self.larger_is_better = larger_is_better
        self.bounded = _is_bounded(metric)
        self._metric = _own(metric)
        if "PanopticQualityMetric" in _names_in_monai(metric):
            raise InputError(
                f"{self.name} takes maps of instances, which follow from outputs by steps of your "
                "own; give a callable metric(outputs, targets) that makes them and returns a number"
            )
        self._form = form_of(metric)
        self._cumulates = bool(_names_in_monai(metric)) and all(
            hasattr(metric, name) for name in ("reset", "aggregate")
        )
        self._part = _part_of_torchmetrics(metric)
        self._whole = self._part in ("classification", "segmentation")
        self._flat = self._part == "regression" and _takes_a_row(metric)
        self._sizes: set[int] = set()
        self._draws: bool | None = None  # None: not known yet

    @property
    def averaged(self) -> str:
        """What to say behind the name of a metric that gave several numbers for an image."""
        several = {size for size in self._sizes if size > 1}
        if not several:
            return ""
        return f", mean of {several.pop() if len(several) == 1 else 'its'} numbers"

    def kept(self) -> AbstractContextManager[None]:
        """While the metric is in use: the state of a module that counts is restored afterwards."""
        return unchanged(self._metric) if isinstance(self._metric, nn.Module) else nullcontext()

    def __call__(self, outputs: Any, targets: Any) -> Any:
        """What the metric returns for one image, whatever was drawn at random before.

        Raises:
            InputError: It gives another value each time.
        """
        if self._draws is None:
            self._draws = self._draws_for(outputs, targets)
            value, again = (self(outputs, targets) for _ in range(2))
            if not _is_again(value, again):
                raise InputError(
                    f"{self.name} gives another value each time for one answer and its target "
                    f"({_shown(value)}, then {_shown(again)}), so that no two answers can be "
                    "compared; give a callable that hangs on these two alone: one that keeps no "
                    "count of its calls, and draws by torch, numpy or random without generators "
                    "of its own"
                )
            return value
        if not self._draws:
            return self._once(outputs, targets)
        with random_state():
            seed_all()
            return self._once(outputs, targets)

    def _draws_for(self, outputs: Any, targets: Any) -> bool:
        """Whether the metric draws at random."""
        with random_state():
            seed_all()
            before = random_states()
            self._once(outputs, targets)
            return random_states() != before

    def _once(self, outputs: Any, targets: Any) -> Any:
        if self._form:
            classes = attribute_of(self._metric, "num_classes")
            outputs, targets = _formed(
                self._form, only_tensor(outputs), only_tensor(targets), classes
            )
        if self._whole:
            targets = pytree.tree_map(_whole, targets)
            multiclass = type(self._metric).__name__.startswith("Multiclass")
            targets = _as_classes(outputs, targets, multiclass=multiclass)
        elif self._part:
            outputs, targets = _as_numbers(outputs, targets, flat=self._flat)
        collects = self._cumulates or hasattr(self._metric, "update")
        reset = getattr(self._metric, "reset", None) if collects else None
        if self._cumulates and reset is not None:
            reset()  # what the user collected is no part of this image
        try:
            value = self._metric(*fresh(outputs, targets))
            return self._of_all(value) if self._cumulates else value
        finally:
            if reset is not None:
                reset()  # what is collected would fill the memory

    def _of_all(self, returned: Any) -> Any:
        """What MONAI makes of the one image, unless it is the mean of what the call returned."""
        total = self._metric.aggregate()  # type: ignore[attr-defined]
        if isinstance(total, list) and len(total) > 1:
            raise InputError(
                f"{self.name} gives {len(total)} numbers by different names; build it with one "
                "name, such as metric_name='f1 score', and give one metric for each"
            )
        total = total[0] if isinstance(total, list) else total
        total = total[0] if isinstance(total, tuple) else total  # the number, and of how many
        return returned if _are_alike(returned, total) else total

    def value(self, outputs: Any, targets: Any, where: str = "") -> float:
        """The value for one image; the mean of the numbers that there are, where it gives several.

        Args:
            outputs: For the image.
            targets: Of the image.
            where: As of `numbers`.

        Raises:
            InputError: The metric raises, or returns no number.
        """
        return mean_of_known(self.numbers(outputs, targets, where))

    def numbers(self, outputs: Any, targets: Any, where: str = "") -> Tensor:
        """The numbers for one image, in a line.

        Args:
            outputs: For the image.
            targets: Of the image.
            where: What a raise of the metric is told of. Empty for what the network itself did not
                answer: where a metric raises there (distances of empty masks) it has no value.

        Raises:
            InputError: The metric raises, or returns no number.
        """
        try:
            value = self(outputs, targets)
        except (InputError, torch.cuda.OutOfMemoryError):
            raise
        except Exception as error:
            if not where:
                return torch.full((max(self._sizes, default=1),), math.nan, device="cpu").double()
            form = f", given as {_FORMS[self._form]}" if self._form else ""
            if _differ_by_ones(outputs, targets):
                form += "; give targets the axes of the outputs, of one too"
            raise InputError(
                f"{self.name} raised on an image of {where} (outputs {shapes(outputs)}, targets "
                f"{shapes(targets)}{form}): {say(error)}. It is called as metric(outputs, targets) "
                "for one image at a time, with its batch dimension; where it has no value for an "
                "image, give a callable that returns nan there."
            ) from error
        numbers = _numbers(value, self.name)
        self._sizes.add(len(numbers))
        return numbers


def _is_again(value: Any, again: Any) -> bool:
    """Whether two values are one, but for rounding; what are no numbers always are."""
    try:
        one, other = as_line(value), as_line(again)
    except Exception:  # noqa: BLE001 - whatever a callable returns; it is refused elsewhere
        return True
    return one.shape == other.shape and torch.allclose(one, other, 1e-5, 1e-7, equal_nan=True)


def _shown(value: Any) -> str:
    return f"{mean_of_known(as_line(value)):.6g}"


def mean_of_known(numbers: Tensor) -> float:
    """Mean of those that are finite; nan where none is."""
    known = numbers[torch.isfinite(numbers)]
    return float(known.mean()) if len(known) else float("nan")


def _name(metric: Any) -> str:
    """What a callable is called."""
    if isinstance(metric, functools.partial):
        return _name(metric.func)
    name = attribute_of(metric, "__name__")
    # torchmetrics' of old places are private classes of the same name
    return name if isinstance(name, str) else type(metric).__name__.lstrip("_")


def _own(metric: Evaluate) -> Evaluate:
    """The metric, or a copy of an object that may collect what it saw."""
    plain = (types.FunctionType, types.BuiltinFunctionType, types.MethodType, functools.partial)
    if isinstance(metric, (nn.Module, *plain)) or inspect.isclass(metric):
        return metric
    try:
        return copy.deepcopy(metric)
    except Exception:  # noqa: BLE001 - a foreign object may refuse in any way
        return metric


def takes_decisions(metric: Any) -> bool:
    """Whether this is one of MONAI's or torchmetrics' of masks, which want what was decided."""
    return bool(form_of(metric))


_FORMS = {
    "masks": "masks of 0 and 1, a channel for each class",
    "one-hot": "masks of 0 and 1, a channel for each class",
    "mixed": "masks of 0 and 1, a channel for each class, and numbers of classes",
    "index": "numbers of classes",
}
_OF_SCORES = {
    "RegressionMetric", "RankFilter", "LossMetric", "ROCAUCMetric", "AveragePrecisionMetric",
    "CalibrationErrorMetric",
}  # fmt: skip
"""MONAI's metrics that take outputs as they are."""


def form_of(metric: Any) -> str:
    """In which of `_FORMS` a metric takes outputs and targets; empty: as they are."""
    names = _names_in_monai(metric)
    if names:
        return "" if names & _OF_SCORES else "masks"
    kinds = type(metric).__mro__
    if any(kind.__module__.startswith("torchmetrics.segmentation") for kind in kinds):
        form = attribute_of(metric, "input_format")
        return form if form in _FORMS else ""
    return ""


def _names_in_monai(metric: Any) -> set[str]:
    """What MONAI calls the classes that this metric is of; empty where it is none of MONAI's."""
    kinds = [k for k in type(metric).__mro__ if k.__module__.startswith("monai.metrics")]
    return {kind.__name__ for kind in kinds}


def _is_bounded(metric: Any) -> bool:
    """Whether a metric declares that it lies between 0 and 1, in the way of torchmetrics."""
    bounds = [attribute_of(metric, f"plot_{end}_bound") for end in ("lower", "upper")]
    declared = all(isinstance(bound, int | float) for bound in bounds) and bounds == [0, 1]
    return declared or not _names_in_monai(metric).isdisjoint(_SHARES)


def _part_of_torchmetrics(metric: Any) -> str:
    """Which part of torchmetrics a metric is of, as ``regression``; empty where it is of none."""
    for module in (attribute_of(metric, "__module__"), type(metric).__module__):
        name, *parts = str(module or "").split(".")
        if name == "torchmetrics":
            return next((p for p in parts if p not in ("functional", "metric")), "")
    return ""


_OF_DISTRIBUTIONS = {
    "cosinesimilarity", "kldivergence", "jensenshannondivergence",
    "continuousrankedprobabilityscore",
}  # fmt: skip
"""torchmetrics' regressions that take several numbers for each answer."""


def _takes_a_row(metric: Any) -> bool:
    """Whether a regression of torchmetrics takes one number for each answer: each pixel is one."""
    named = _name(metric).replace("_", "").lower()
    return named not in _OF_DISTRIBUTIONS and attribute_of(metric, "num_outputs") in (None, 1)


def _whole(target: Any) -> Any:
    """Whole numbers as integers."""
    if (
        isinstance(target, Tensor)
        and target.is_floating_point()
        and bool((target == target.round()).all())
    ):
        return target.long()
    return target


def _as_classes(outputs: Any, targets: Any, *, multiclass: bool) -> Any:
    """Targets with the axes that torchmetrics wants beside these outputs, one-hot ones numbered."""
    if not isinstance(outputs, Tensor) or not isinstance(targets, Tensor):
        return targets
    if outputs.shape == targets.shape and multiclass and outputs.dim() > 1:
        one_hot = bool(((targets == 0) | (targets == 1)).all() and (targets.sum(1) == 1).all())
        return targets.argmax(1) if one_hot else targets
    if _without_ones(outputs) == _without_ones(targets):
        return targets.reshape(outputs.shape)
    numbered = (outputs.shape[0], *outputs.shape[2:])
    beside = targets.dim() == outputs.dim() > 1 and targets.shape[1] == 1
    return targets.squeeze(1) if beside and targets.squeeze(1).shape == numbered else targets


def _as_numbers(outputs: Any, targets: Any, *, flat: bool) -> tuple[Any, Any]:
    """What torchmetrics takes of numbers: equal shapes, or a row of all numbers of the image."""
    if not isinstance(outputs, Tensor) or not isinstance(targets, Tensor):
        return outputs, targets
    if _without_ones(outputs) != _without_ones(targets):
        return outputs, targets
    return (
        (outputs.flatten(), targets.flatten())
        if flat
        else (outputs, targets.reshape(outputs.shape))
    )


def _formed(form: str, scores: Tensor, targets: Tensor, classes: Any) -> tuple[Tensor, Tensor]:
    """Outputs and targets in one of `_FORMS`; numbers of classes stay as they are."""
    if form == "masks":
        return _decided(scores, targets)
    if not scores.is_floating_point():
        return scores, targets
    made = [mask.long() for mask in _decided(scores, targets)]
    if scores.shape[1] == 1 and (classes == 2 or form != "one-hot"):
        made = [torch.cat([1 - mask, mask], 1) for mask in made]
    numbers = {"index": (0, 1), "mixed": (1,)}.get(form, ())
    one, true = (mask.argmax(1) if i in numbers else mask for i, mask in enumerate(made))
    return one, true


def _are_alike(returned: Any, total: Any) -> bool:
    """Whether one number is the mean of several, or several are the same; nan is left out."""
    if not isinstance(returned, Tensor):
        return False
    own, other = (as_line(value) for value in (returned, total))
    known = ~own.isnan()
    if not bool(known.any()):
        return True
    own, other = (own.nanmean()[None], other) if len(other) == 1 else (own[known], other)
    other = other[known] if len(other) == len(known) > 1 else other
    return own.shape == other.shape and torch.allclose(own, other, rtol=1e-5, atol=1e-8)


def as_line(value: Any) -> Tensor:
    """Numbers in a line, in double precision."""
    return torch.as_tensor(value, device="cpu").detach().double().flatten()


def _decided(scores: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Scores and class numbers as masks of 0 and 1, a channel for each class."""
    channels = scores.shape[1]
    if channels == 1:
        probable = bool(((scores >= 0) & (scores <= 1)).all())
        return (scores > (0.5 if probable else 0.0)).float(), targets.reshape(scores.shape).float()

    def one_hot(numbers: Tensor) -> Tensor:
        return nn.functional.one_hot(numbers.long(), channels).movedim(-1, 1).float()

    if targets.shape != scores.shape:
        targets = one_hot(targets.reshape(scores.shape[0], *scores.shape[2:]))
    return one_hot(scores.argmax(1)), targets


def _numbers(value: Any, name: str) -> Tensor:
    """What a metric returned for one image, in a line."""
    if isinstance(value, Tensor | np.ndarray | float | int | np.number):
        return as_line(value)
    if isinstance(value, Mapping) and value:
        raise InputError(
            f"{name} returned a mapping with {', '.join(map(shown, list(value)[:3]))}; give one "
            "metric of a collection, or a callable that picks one number, such as lambda outputs, "
            f"targets: metric(outputs, targets)[{shown(next(iter(value)))}]"
        )
    raise InputError(
        f"{name} returned {type(value).__name__}; expected one number for (outputs, targets), or "
        "a tensor of numbers whose mean is meant, such as one for each class"
    )


class ValueMeter:
    """Collects the values of every image, in the order of the batches.

    Args:
        metric: What is asked.
        targets: All targets, batch by batch.
        device: Where the model's outputs are.
        whole: Whether these are the whole network's outputs, on which a metric must not raise.
    """

    def __init__(
        self,
        metric: ValueMetric,
        targets: Sequence[Any],
        device: torch.device,
        *,
        whole: bool = False,
    ) -> None:
        self.metric, self.whole = metric, whole
        self.targets = targets
        self.device = device
        self.batches = 0
        self.values: list[float] = []
        self._numbers: list[Tensor] = []

    def add(self, output: Any) -> None:
        """Add the outputs for the next batch."""
        target = on_device(self.targets[self.batches], self.device)
        where = f"batch {self.batches}, answered by the whole network" if self.whole else ""
        pairs = zip(split_images(output), split_images(target), strict=True)
        numbers = [self.metric.numbers(one, true, where) for one, true in pairs]
        if all(1 < len(row) <= NUMBERS for row in numbers):
            self._numbers += numbers
        self.values += [mean_of_known(row) for row in numbers]
        self.batches += 1

    def quality(self) -> ImageValues:
        """The mean over all images."""
        values = np.array(self.values, dtype=np.float64)
        alike = len(self._numbers) == len(values) and len({len(n) for n in self._numbers}) == 1
        return ImageValues(values, torch.stack(self._numbers).numpy() if alike else None)


def why_no_number(outputs: Any, targets: Any) -> str:
    """What a value that is no finite number comes of, in words."""
    remedy = "; leave such images out, or give a callable that leaves such positions out"
    for what, tree, then in (
        ("the model's outputs", outputs, ""),
        ("the targets", targets, remedy),
    ):
        for leaf in pytree.tree_tensors(tree):
            if leaf.is_floating_point() and not bool(torch.isfinite(leaf).all()):
                return f": {what} hold nan or infinite values{then}"
    return ": outputs and targets are finite, so it is what was given to judge them"


def on_device(tree: Any, device: torch.device) -> Any:
    """Move the tensors among targets to where the outputs are."""
    return pytree.tree_map(lambda v: v.to(device) if isinstance(v, Tensor) else v, tree)


def image_values(metric: ValueMetric, output: Any, target: Any, where: str = "") -> list[float]:
    """The metric's value of each image of a batch; see `ValueMetric.numbers`."""
    return [
        metric.value(one, true, where)
        for one, true in zip(split_images(output), split_images(target), strict=True)
    ]


def mean_absolute_error(outputs: Any, targets: Any) -> Tensor:
    """Mean of ``|outputs - targets|``."""
    output, target = same_shape(outputs, targets)
    return (output - target).abs().mean()


def mean_squared_error(outputs: Any, targets: Any) -> Tensor:
    """Mean of ``(outputs - targets)^2``."""
    output, target = same_shape(outputs, targets)
    return (output - target).square().mean()


def peak_signal_to_noise(value_range: float) -> Evaluate:
    """Decibels by which the squared range of the targets exceeds the mean squared error."""

    def psnr(outputs: Any, targets: Any) -> Tensor:
        error = mean_squared_error(outputs, targets).clamp_min(1e-20)
        return 10.0 * torch.log10(value_range**2 / error)

    return psnr


def _without_ones(value: Tensor) -> list[int]:
    return [size for size in value.shape if size != 1]


def _differ_by_ones(outputs: Any, targets: Any) -> bool:
    """Whether two tensors have another shape, but by axes of one alone."""
    if not isinstance(outputs, Tensor) or not isinstance(targets, Tensor):
        return False
    alike = _without_ones(outputs) == _without_ones(targets)
    return alike and outputs.shape != targets.shape


def same_shape(outputs: Any, targets: Any) -> tuple[Tensor, Tensor]:
    """Prediction and target of one shape, in float32 or finer."""
    output, target = only_tensor(outputs), only_tensor(targets)
    if output.shape != target.shape:
        if _without_ones(output) != _without_ones(target):  # others may have another order
            raise InputError(
                f"outputs have shape {tuple(output.shape)} and targets {tuple(target.shape)}; a "
                "regression needs one target for each output, with its axes in the same order"
            )
        target = target.reshape(output.shape)
    kind = torch.promote_types(output.dtype, torch.float32)
    return output.to(kind), target.to(kind)
