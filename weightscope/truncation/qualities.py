"""What a network of a search is worth: by agreement, or by a metric."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from weightscope.adapters.modes import alone
from weightscope.batches import Batch, which_image
from weightscope.calls import device_of, own_arguments, undisturbed
from weightscope.errors import keyword
from weightscope.graph.running import CutRuns
from weightscope.graph.structure import Structure
from weightscope.probing.outputs import images_and_target
from weightscope.showing import counted
from weightscope.truncation.variant import Variant
from weightscope.utilization.ablation import floor_of, named_output, without_levels
from weightscope.utilization.judging import Judge, judge_by, judged_output, one_of_several
from weightscope.utilization.metrics import Quality, best_thresholds, quality_at, resampled

RESAMPLES = 500
"""Of the images, for the standard error of a loss of quality: it is then known to 3 %."""


SKILL = "share of the skill"
"""Unit of what is lost by a metric that does not say that it lies between 0 and 1."""


@dataclass(frozen=True)
class Measured:
    """The quality of one network; see ``Candidate``.

    Attributes:
        quality: On the images that have a value; nan where none has.
        error: Standard error of what it lost.
        thresholds: See ``Candidate``.
        unadjusted: See ``Candidate``.
        silenced: Images that have a value with the whole network and none with this one.
        images: Those that have a value with the whole network, where any is silenced.
    """

    quality: float
    error: float = math.nan
    thresholds: tuple[float, ...] = ()
    unadjusted: float = math.nan
    silenced: int = 0
    images: int = 0

    @property
    def refusal(self) -> str:
        """Why it cannot be compared with the whole network, in words; empty where it can."""
        if not self.silenced:
            return ""
        return (
            f"{self.silenced} of {counted(self.images, 'image')} that have a value of the metric "
            "with the whole network have none with this one, and no value may be worse than a bad "
            f"one; give a {keyword('metric')} that has a value for every answer"
        )


class ByAgreement:
    """Quality without labels: how well the outputs are matched on images held back."""

    name, unit, whole, trivial, skilled = "agreement", "agreement", Measured(1.0), 0.0, True

    def quality(self, variant: Variant) -> Measured:
        """Known from the recovery alone."""
        return Measured(math.nan)

    def lost(self, quality: float) -> float:
        """What is not matched."""
        return self.whole.quality - quality


class ByMetric:
    """Quality by a metric on labelled batches.

    Raises:
        InputError: Metric, batches or ``ignore_index`` cannot be used; or by their names, an output
            would be judged by the target of another one.
    """

    def __init__(
        self,
        structure: Structure,
        pairs: Sequence[Batch],
        metric: Any,
        output: Any = None,
        ignore_index: int | None = None,
    ) -> None:
        self.pairs, self.model, self.output = pairs, structure.model, output
        if output is not None:
            pairs = [(x, one_of_several(target, output, "targets")) for x, target in pairs]
        self.judge: Judge = judge_by(
            metric,
            pairs,
            dimensions=structure.inputs.dimensions,
            device=device_of(structure.model),
            arrange=partial(images_and_target, structure),
            ignore_index=ignore_index,
        )
        judged = "" if output is None else named_output(structure, output)
        runs = CutRuns(structure)
        with alone(), undisturbed(structure.model), torch.no_grad(), self.judge.kept():
            for inputs, target in pairs:
                outputs = self._run(structure.model, inputs)
                if output is None:
                    judged = judged_output(metric, outputs, target)
                _, values = runs.whole(inputs)
                self.judge.add(outputs, without_levels(runs, values, self._own))
            whole, chance = self.judge.whole(), self.judge.trivial()
        self.name = f"{self.judge.name} of outputs{judged}" if judged else self.judge.name
        self.trivial = _value(chance)
        self.drawn = resampled(which_image([x for x, _ in pairs]), RESAMPLES, seed=0)
        self.known = whole.weighing
        self.wholes = whole.of(self.drawn)
        self.whole = self._measured(whole, best_thresholds(whole), 0.0)
        self.sign = 1.0 if self.judge.larger_is_better() else -1.0
        gained = self.sign * (self.whole.quality - self.trivial)
        self.skilled, skill = gained > floor_of(self.judge, chance), abs(gained)
        bounded = self.judge.bounded
        self.unit, self._one = (self.judge.name, 1.0) if bounded else (SKILL, max(skill, 1e-12))

    def quality(self, variant: Variant) -> Measured:
        """Quality of a network on all batches, with the standard error of what it lost."""
        meter = self.judge.meter()
        with alone(), undisturbed(variant.module), torch.no_grad(), self.judge.kept():
            for inputs, _ in self.pairs:
                meter.add(self._run(variant.module, inputs))
            found = meter.quality()
        if silenced := int((self.known & ~found.weighing).sum()):
            quality = _value(found) if found.weighing.any() else math.nan
            return Measured(quality, silenced=silenced, images=int(self.known.sum()))
        lost = self._lost(self.wholes, found.of(self.drawn))
        error = float(np.nanstd(lost)) if found.images > 1 else math.nan
        return self._measured(found, self.whole.thresholds, error)

    def _measured(self, found: Quality, kept: tuple[float, ...], error: float) -> Measured:
        own = best_thresholds(found)
        unadjusted = quality_at(found, kept) if own else None
        return Measured(_value(found), error, own, math.nan if unadjusted is None else unadjusted)

    def _run(self, module: nn.Module, inputs: Any) -> Any:
        args, kwargs = own_arguments(inputs, self.model)
        return self._own(module(*args, **kwargs))

    def _own(self, outputs: Any) -> Any:
        return outputs if self.output is None else one_of_several(outputs, self.output, "outputs")

    def lost(self, quality: float) -> float:
        """Quality lost; negative where the smaller network is better."""
        return float(self._lost(self.whole.quality, quality))

    def _lost(self, whole: Any, quality: Any) -> Any:
        return self.sign * (whole - quality) / self._one


def _value(quality: Any) -> float:
    return float(cast(Any, quality.of(np.ones((1, quality.images))))[0])
