"""Truncated networks that run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, cast

from torch import nn

from weightscope.cost import Costs, Latency, measure_latency, measure_peak_memory
from weightscope.graph.structure import Structure
from weightscope.receptive_field import Pixels, network_receptive_field, propagate
from weightscope.truncation.bottlenecks import Bottleneck
from weightscope.truncation.plans import Plan, count
from weightscope.truncation.recipes import write_recipe
from weightscope.truncation.surgery import Operated, operate


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
    """A truncated network that runs, and where each of its tensors comes from.

    Attributes:
        module: The network. It takes what the original took and returns what it returned, but for
            ``dropped_outputs``.
        recipe: What rebuilds it from the original's code.
        kept: State dict keys whose tensors equal the original's.
        recut: Keys of tensors that keep some of the original's slices; the others are fresh.
        reinitialized: Keys of tensors that are new, or re-cut, and need training.
        dropped: Keys of the original that are gone.
        dropped_outputs: Positions of flat outputs that were computed below the cut; None now.
        costs: What one forward costs, counted on the built network.
        receptive_field: In input pixels, one figure per spatial dimension; None: the whole input.
        structure: The original, by reference.
    """

    module: nn.Module
    recipe: Mapping[str, Any]
    kept: tuple[str, ...]
    recut: tuple[str, ...]
    reinitialized: tuple[str, ...]
    dropped: tuple[str, ...]
    dropped_outputs: tuple[int, ...]
    costs: Costs = field(repr=False)
    receptive_field: Pixels
    structure: Structure = field(repr=False)
    plan: Plan = field(repr=False)

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


def realize(structure: Structure, plan: Plan) -> Variant:
    """Build a plan for real."""
    dimensions = structure.inputs.dimensions
    operated = operate(
        structure, plan.cut, plan.crossing, lambda: plan.bottleneck(dimensions), plan.recuts
    )
    return Variant(
        module=operated.module,
        recipe=MappingProxyType(write_recipe(structure, plan, operated)),
        kept=operated.kept,
        recut=operated.recut,
        reinitialized=(*operated.recut, *operated.fresh),
        dropped=operated.dropped,
        dropped_outputs=operated.dropped_outputs,
        costs=count(structure, operated),
        receptive_field=variant_receptive_field(structure, plan, operated),
        structure=structure,
        plan=plan,
    )


def variant_receptive_field(structure: Structure, plan: Plan, operated: Operated) -> Pixels:
    """The receptive field of a variant, by arithmetic over the original's graph.

    Where an input has more dimensions than its images (frames of a film), the whole input counts.
    """
    fine = {node.name: node.meta.get("fine") for node in structure.graph.nodes}
    views = {node.name: seen for node, seen in propagate(structure.program).items()}
    bottleneck = cast(Bottleneck, operated.module.get_submodule(operated.bottleneck))
    entries = [views[str(fine[site.node])] for site in plan.cut.entries]
    dimensions = structure.inputs.dimensions
    if any(len(seen) != dimensions for seen in entries):
        return (None,) * dimensions
    exits = bottleneck.views(entries)
    known = {str(fine[site.node]): seen for site, seen in zip(plan.cut.exits, exits, strict=True)}
    return network_receptive_field(structure.program, known, without=operated.dropped_outputs)
