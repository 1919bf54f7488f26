"""How much of the input one value can see, by the arithmetic of kernels and strides.

Araujo, Norris and Sim, "Computing Receptive Fields of Convolutional Neural Networks", Distill 2019,
over the exported graph. Where neighbouring values see differently many pixels (after nearest
upsampling or a transposed convolution), the largest extent is given.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from math import ceil
from typing import Any, TypeAlias

from torch import Tensor, fx
from torch.export import ExportedProgram

from weightscope.adapters.modules import layer_of
from weightscope.adapters.symbols import hint
from weightscope.graph.nodes import operator_of
from weightscope.graph.stages import parameter_nodes
from weightscope.graph.structure import Structure
from weightscope.receptive_field.arrangements import settled
from weightscope.receptive_field.seen import Seen, Views
from weightscope.receptive_field.spans import PIXEL, WHOLE, Span, join
from weightscope.receptive_field.steps import is_unknown, step

Pixels: TypeAlias = tuple[int | float | None, ...]
"""Extent in input pixels, one figure per spatial dimension; None: the whole input; nan: not known,
because an operator on the way has no row in the table of operators."""


def receptive_fields(structure: Structure) -> Mapping[str, Pixels]:
    """Compute the theoretical receptive field of every stage.

    A window of k values with dilation d covers (k - 1) d + 1; every operator that slides a window
    widens the field by (window - 1) x jump and multiplies the jump by its stride. Interpolation
    divides the jump; linear and cubic interpolation also read 2 and 4 neighbours. A transposed
    convolution of kernel k and stride s reads up to ceil(k / s) neighbours. Where branches meet,
    what they see together counts, offsets included. Global pooling and means, attention and
    recurrence see the whole input. Statistics of normalisation layers are not counted. Where sizes
    are rounded on their way down and resized to each other on their way up, the ratio of their
    levels counts; by how much the places drift apart in such an image does not.

    Args:
        structure: A network read by ``read_structure``.

    Returns:
        By stage name, the largest field of the stage's layers over all positions far from the
        borders, one figure per spatial dimension; None is the whole input, nan not known.
    """
    seen = propagate(structure.program)
    found: dict[str, Pixels] = {}
    for layer, views in _views_of_layers(structure, seen):
        stage = structure.stage_of.get(layer)
        if stage is not None:
            pixels = in_pixels(views)
            found[stage.name] = _larger(found.get(stage.name, pixels), pixels)
    return {s.name: found[s.name] for s in structure.stages if s.name in found}


def unknown_operators(structure: Structure) -> Mapping[str, int]:
    """Operators whose view is not known, with how often the image passes through them."""
    counted = Counter(
        operator_of(node) or str(node.target)
        for node in structure.program.graph.nodes
        if "place" in node.meta and is_unknown(node)
    )
    return dict(counted)


def network_receptive_field(
    program: ExportedProgram,
    known: Mapping[str, Views] | None = None,
    *,
    without: Sequence[int] = (),
) -> Pixels:
    """Compute the largest receptive field of an exported network's outputs.

    Args:
        program: From ``torch.export.export``.
        known: Views of some nodes, by name, that replace what the arithmetic finds for them.
        without: Positions of flat outputs that are left out.

    Returns:
        One figure per spatial dimension; None is the whole input, nan not known.
    """
    views = propagate(program, known)
    made: Any = program.graph.output_node().args[0]
    outputs = made[len(made) - len(program.graph_signature.user_outputs) :]
    found: Pixels = ()
    for position, node in enumerate(outputs):
        if position not in without and node in views:
            pixels = in_pixels(views[node])
            found = _larger(found or pixels, pixels)
    return found


def propagate(
    program: ExportedProgram, known: Mapping[str, Views] | None = None
) -> dict[fx.Node, Views]:
    """Carry the views of the image inputs through an exported graph.

    Args:
        program: From ``torch.export.export``.
        known: Views of some nodes, by name, that replace what the arithmetic finds for them;
            views of input placeholders are the seeds (by default one pixel each).

    Returns:
        The views of every node that depends on an image input.
    """
    known = known or {}
    inputs = set(program.graph_signature.user_inputs)
    seen: dict[fx.Node, Seen] = {}
    for node in program.graph.nodes:
        made: Seen | None = None
        if node.op == "placeholder":
            made = _seed(node) if node.name in inputs else None
        elif node.op == "call_function":
            given = {n: seen[n] for n in node.all_input_nodes if n in seen}
            made = step(node, given)
        if node.name in known:
            made = _replaced(node, made, known[node.name])
        if made is not None:
            seen[node] = made
    return {node: settled(made).views for node, made in seen.items()}


def _seed(node: fx.Node) -> Seen | None:
    """An image input: every value is one pixel."""
    value = node.meta.get("val")
    if not isinstance(value, Tensor):
        return None
    axes = node.meta.get("space") or range(2, value.dim())
    if not axes:
        return None
    return Seen((PIXEL,) * len(axes), tuple(axes), tuple(hint(value.shape[a]) for a in axes))


def _replaced(node: fx.Node, made: Seen | None, views: Views) -> Seen:
    if made is not None and len(made.axes) == len(views):
        return replace(settled(made), views=views, patches=())
    rank = node.meta["val"].dim()
    axes = tuple(range(rank - len(views), rank))
    return Seen(views, axes, (0,) * len(views))


def union(views: Sequence[Views]) -> Views:
    """Combine the views of tensors that meet in one operator."""
    if len({len(v) for v in views}) > 1:
        return (WHOLE,) * max(len(v) for v in views)
    return tuple(join(dimension) for dimension in zip(*views, strict=True))


def in_pixels(views: Views) -> Pixels:
    """Round sizes up to whole pixels; None where the whole input is seen."""
    return tuple(_pixels(view) for view in views)


def _pixels(view: Span) -> int | float | None:
    size = view.size
    if math.isnan(size):
        return size
    return None if math.isinf(size) else ceil(size - 1e-9)


def _larger(left: Pixels, right: Pixels) -> Pixels:
    if len(left) != len(right):
        return (None,) * max(len(left), len(right))
    return tuple(
        None if a is None or b is None else a if a != a else b if b != b else max(a, b)
        for a, b in zip(left, right, strict=True)
    )


def _views_of_layers(
    structure: Structure, views: Mapping[fx.Node, Views]
) -> Iterator[tuple[str, Views]]:
    """The layer whose parameters an operator reads, and what its result sees.

    A parameter that is registered under several names is known by its first, as in the stages.
    """
    parameters = parameter_nodes(structure.program, structure.model)
    for node, seen in views.items():
        for source in node.all_input_nodes:
            if source in parameters:
                yield layer_of(structure.model, parameters[source]), seen
