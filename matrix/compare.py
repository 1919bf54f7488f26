"""Hold what was read about a network against the truth about it."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from matrix.truth import Reduction, Truth
from weightscope.adapters.modules import layer_of
from weightscope.graph import Structure

TOLERANCE = 0.05
"""Relative: a level's reduction is measured at a finite size, where borders count."""


def weighted_layers(model: nn.Module) -> tuple[str, ...]:
    """Return the names of the modules that own parameters, shared modules once.

    A parametrization is part of its layer; each parameter in a list of them is a layer.
    """
    owners = (
        layer_of(model, f"{name}.{parameter}" if name else parameter)
        for name, module in model.named_modules()
        for parameter, value in module._parameters.items()
        if value is not None
    )
    return tuple(dict.fromkeys(owners))


def disagreements(structure: Structure, truth: Truth) -> tuple[str, ...]:
    """Say every way in which a structure differs from the truth; nothing where it is right.

    Levels, the place of every weighted layer, dead parameters and the legal depths are compared.
    """
    found = list(_levels(structure, truth.reductions))
    dead = frozenset(structure.dead_parameters)
    for layer in weighted_layers(structure.model):
        place = _place(structure, layer, dead)
        expected = truth.expected(layer)
        if place not in expected:
            found.append(f"{layer}: is {place}, should be {' or '.join(sorted(expected))}")
    legal = tuple(cut.keep_levels for cut in structure.cuts)
    if legal != truth.legal and not refused_as_allowed(structure, truth):
        found.append(f"legal depths: are {legal}, should be {truth.legal}")
    explained = {refusal.keep_levels for refusal in structure.refusals if refusal.reason}
    silent = set(range(1, len(truth.reductions))) - set(legal) - explained
    if silent:
        found.append(f"neither legal nor refused with a reason: keep_levels {sorted(silent)}")
    return tuple(found)


def refused_as_allowed(structure: Structure, truth: Truth) -> bool:
    """Whether every depth is refused, as the truth allows, for a reason that it names."""
    reasons = [refusal.reason for refusal in structure.refusals]
    return not structure.cuts and all(
        any(word in reason for word in truth.refusal) for reason in reasons
    )


def _place(structure: Structure, layer: str, dead: frozenset[str]) -> str:
    stage = structure.stage_of.get(layer)
    if stage is not None:
        return stage.role if stage.role in ("head", "bottleneck") else stage.name
    names = {
        name
        for name, _ in structure.model.named_parameters()
        if layer_of(structure.model, name) == layer
    }
    return "dead" if names <= dead else "none"


def _levels(structure: Structure, expected: Sequence[Reduction]) -> tuple[str, ...]:
    dimensions = structure.inputs.dimensions
    wanted = tuple(r if isinstance(r, tuple) else (r,) * dimensions for r in expected)
    found = structure.reductions
    close = len(found) == len(wanted) and all(
        len(is_) == len(should) and abs(is_[d] / should[d] - 1) <= TOLERANCE
        for is_, should in zip(found, wanted, strict=True)
        for d in range(dimensions)
    )
    if close:
        return ()
    shown = tuple(tuple(round(value, 3) for value in reduction) for reduction in found)
    return (f"reductions: are {shown}, should be {wanted}",)
