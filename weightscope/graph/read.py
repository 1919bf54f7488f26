"""Read a network: inputs, capture, levels, roles, coarse graph and cuts, in this order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

from torch import fx, nn

from weightscope.adapters.boundary import BOUNDARY
from weightscope.graph.capture import Capture, capture
from weightscope.graph.coarsen import coarsen
from weightscope.graph.cuts import read_cuts
from weightscope.graph.inputs import Trial, check_model, find_inputs, two_images
from weightscope.graph.levels import follows_the_input, plausible, read_levels
from weightscope.graph.rebuild import MODES_DIFFER
from weightscope.graph.stages import layer_places, override, place, require_shape, stages
from weightscope.graph.structure import ExampleInputs, Refusal, Structure


def read_structure(
    model: nn.Module,
    example_inputs: Any = None,
    stages: Mapping[str, str | Iterable[str]] | None = None,
    layout: str | None = None,
) -> Structure:
    """Read a network as a dataflow graph with levels and stages.

    Args:
        model: An encoder-decoder network; not changed.
        example_inputs: A tensor, a tuple of positional arguments or a dict of keyword arguments of
            the forward; found by trying where it is None.
        stages: Where modules belong, against what is read: prefixes of module names for each stage
            name (``{"skip 0": "lateral", "head": ["out", "aux"]}``).
        layout: What the axes of the image input are, one letter each: ``"NHWC"`` for batch, height,
            width, channels; ``"NHW"``; ``"NTCHW"`` for clips. Read from the first convolution where
            it is None.

    Raises:
        InputError: The model, ``example_inputs`` or ``stages`` cannot be used.
        ForwardError: The forward raises, or no example input was found.
        StructureError: The network has no encoder-decoder shape, or cannot be read.
    """
    check_model(model)
    trial = Trial(model)
    inputs, captured = _captured(trial, example_inputs, layout)
    levels = read_levels(captured, inputs)
    if not plausible(captured, levels, inputs):
        captured = capture(model, two_images(trial, inputs), fixed=True)
        levels = read_levels(captured, inputs)
    depth = len(levels.reductions)
    placement = place(captured, levels, model)
    if stages:
        placement = override(captured, placement, stages, model, depth)
    require_shape(captured, placement, levels)
    layers, dead = layer_places(captured, placement, model)
    coarse = coarsen(captured, placement, model, inputs)
    pair = two_images(trial, inputs)
    modes_agree = trial.modes_agree(pair) is not False
    if modes_agree:
        cuts, refusals = read_cuts(coarse, model, levels.sizes, inputs.dimensions)
    else:
        called = trial.called_in_train_mode(pair)
        dead = tuple(name for name in dead if name.rpartition(".")[0] not in called)
        cuts, refusals = (), tuple(Refusal(keep, MODES_DIFFER) for keep in range(1, depth))
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
        sizes=captured.sizes,
        modes_agree=modes_agree,
    )


_stages = stages
_SIZES_TO_CAPTURE = 2


def _captured(
    trial: Trial, example_inputs: Any, layout: str | None
) -> tuple[ExampleInputs, Capture]:
    """The inputs to show, and the network captured with two images a batch.

    Where a guessed size is one at which the model fixes its sizes (a position table of just that
    size), other sizes are tried.
    """
    found: list[tuple[ExampleInputs, Capture]] = []
    for inputs in find_inputs(trial, example_inputs, layout):
        captured = capture(trial.original, two_images(trial, inputs))
        found.append((inputs, captured))
        if captured.sizes != "symbolic" or follows_the_input(captured):
            return found[-1]
        if len(found) == _SIZES_TO_CAPTURE:
            break
    return found[0]


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
