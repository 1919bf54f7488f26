"""Smaller networks that run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from weightscope.cost import Costs, Latency, measure_latency, measure_peak_memory
from weightscope.graph.structure import Structure
from weightscope.receptive_field import Pixels
from weightscope.truncation.plan import FORMAT, Plan, describe


@dataclass(frozen=True)
class Measurement:
    """What a truncation gained on this machine.

    Attributes:
        latency_before: Of the original.
        latency_after: Of the variant, timed in turns with the original.
        peak_memory_before: Bytes; see ``weightscope.cost.measure_peak_memory``.
        peak_memory_after: Bytes.
    """

    latency_before: Latency
    latency_after: Latency
    peak_memory_before: int
    peak_memory_after: int


@dataclass(frozen=True, eq=False)
class Variant:
    """A smaller network that runs, and where each of its tensors comes from.

    Attributes:
        module: The network. It takes what the original took and returns what it returned, but for
            ``dropped_outputs``.
        plan: What rebuilds it from the original's code.
        kept: State dict keys whose tensors are the original's.
        recut: Keys of tensors that keep some of the original's slices; the others are fresh.
        reinitialized: Keys of tensors that are new, or re-cut, and need training.
        dropped: Keys of the original that are gone.
        dropped_outputs: Positions of flat outputs that were computed below the cut; None now.
        costs: What one forward costs, counted on the built network.
        receptive_field: In input pixels, one figure per spatial dimension; None: the whole input.
        structure: The original, by reference.
    """

    module: nn.Module
    plan: Plan
    kept: tuple[str, ...]
    recut: tuple[str, ...]
    reinitialized: tuple[str, ...]
    dropped: tuple[str, ...]
    dropped_outputs: tuple[int, ...]
    costs: Costs = field(repr=False)
    receptive_field: Pixels
    structure: Structure = field(repr=False)

    @property
    def recipe(self) -> Mapping[str, Any]:
        """What ``save`` writes beside the tensors: the plan, and how the original was read."""
        return {"format": FORMAT, **describe(self.structure), **self.plan.to_json()}

    def measure(self, *, repeats: int = 10) -> Measurement:
        """Time the original and the variant, and measure their peak memory.

        Args:
            repeats: Timed forwards of each, in turns.
        """
        original, inputs = self.structure.model, self.structure.inputs
        before, after = measure_latency([original, self.module], inputs, repeats=repeats)
        return Measurement(
            latency_before=before,
            latency_after=after,
            peak_memory_before=measure_peak_memory(original, inputs),
            peak_memory_after=measure_peak_memory(self.module, inputs),
        )
