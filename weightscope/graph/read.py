"""Read a network: inputs, capture, levels, roles, coarse graph and cuts, in this order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

from torch import fx, nn

from weightscope.graph.capture import BOUNDARY, Capture, capture
from weightscope.graph.coarsen import coarsen
from weightscope.graph.cuts import read_cuts
from weightscope.graph.inputs import check_model, find_inputs
from weightscope.graph.levels import read_levels
from weightscope.graph.stages import layer_places, override, place, require_shape, stages
from weightscope.graph.structure import Structure


def read_structure(
    model: nn.Module,
    example_inputs: Any = None,
    stages: Mapping[str, str | Iterable[str]] | None = None,
) -> Structure:
    """Read a network as a dataflow graph with levels and stages.

    Args:
        model: An encoder-decoder network; not changed.
        example_inputs: A tensor, a tuple of positional arguments or a dict of keyword arguments of
            the forward; found by trying where it is None.
        stages: Where modules belong, against what is read: prefixes of module names for each stage
            name (``{"skip 0": "lateral", "head": ["out", "aux"]}``).

    Raises:
        InputError: The model, ``example_inputs`` or ``stages`` cannot be used.
        ForwardError: The forward raises, or no example input was found.
        StructureError: The network has no encoder-decoder shape, or cannot be read.
    """
    check_model(model)
    inputs = find_inputs(model, example_inputs)
    captured = capture(model, inputs)
    levels = read_levels(captured, inputs)
    depth = len(levels.reductions)
    placement = place(captured, levels)
    if stages:
        placement = override(captured, placement, stages, model, depth)
    require_shape(placement, levels)
    layers, dead = layer_places(captured, placement, model)
    coarse = coarsen(captured, placement, model, inputs)
    cuts, refusals = read_cuts(coarse, model, depth, inputs.dimensions)
    for node, where in placement.places.items():
        node.meta["place"] = where
    _without_boundaries(captured)
    return Structure(
        model=model,
        inputs=inputs,
        graph=coarse.graph,
        constants=coarse.constants,
        output_spec=captured.program.call_spec.out_spec,
        program=captured.program,
        places=coarse.places,
        reductions=levels.reductions,
        stages=_stages(layers, levels.reductions),
        dead_parameters=dead,
        cuts=cuts,
        refusals=refusals,
    )


_stages = stages


def _without_boundaries(captured: Capture) -> None:
    """Take our own operators out of the exported program."""
    signature = captured.program.graph_signature
    for node in captured.nodes:
        if node.target is BOUNDARY:
            source = cast(fx.Node, node.args[0])
            if any(user.op == "output" for user in node.users):
                signature.replace_all_uses(node.name, source.name)
            node.replace_all_uses_with(source)
            captured.program.graph.erase_node(node)
    captured.program.graph_module.recompile()
