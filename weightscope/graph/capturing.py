"""The capture to read: with an input that runs, and with every size free that can be."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import fx

from weightscope.adapters import pytree
from weightscope.adapters.symbols import Probe, decided_alike, equalities, holds_at, symbols_at
from weightscope.errors import StructureError
from weightscope.graph.capture import Capture, capture, frames_read, images_read
from weightscope.graph.growing import follows_the_input, sizes_held
from weightscope.graph.inputs import find_inputs, is_one_window
from weightscope.graph.layouts import images_of
from weightscope.graph.levels import Levels, plausible, read_levels
from weightscope.graph.nodes import tensor_of
from weightscope.graph.scaling import (
    OTHER_SIZES,
    SOME_MORE,
    at_another_size,
    cropped,
    two_images,
    with_each_twice,
    with_more_frames,
)
from weightscope.graph.structure import ExampleInputs
from weightscope.graph.trial import Trial

_SIZES_TO_CAPTURE = 2
_MANY_STEPS = 500  # calls of functions; a U-Net with ResNet-34 has 368
_SMALLEST = 64  # a side that can be halved six times, as codecs do
_FEWER = 0.75  # a loop over positions has a quarter at half the size, one over rows half
_UNIT = 32  # of images that can be halved five times


def captured_with(
    trial: Trial, example_inputs: Any, layout: str | None, holds_frames: bool, beside: bool
) -> tuple[ExampleInputs, ExampleInputs, Capture]:
    """The inputs to show, those that the network was captured with, and the capture.

    Where a guessed size is one at which the model fixes its sizes (a position table of just that
    size), or takes a way that it takes at no other (that table as it is), other sizes are tried.
    """
    found: list[tuple[ExampleInputs, ExampleInputs, Capture]] = []
    for laid_out in find_inputs(trial, example_inputs, layout):
        inputs = _with_fewer_steps(trial, replace(laid_out, holds_frames=holds_frames))
        read_at, captured = with_batch(trial, inputs)
        if (longer := _of_any_frames(trial, inputs, captured)) is not None:
            inputs, read_at, captured = longer
        if inputs.guessed and not _takes_this_way(captured, inputs):
            inputs = with_each_twice(inputs)  # of one image a user said nothing
        if (
            beside
            and not inputs.guessed
            and (both := _beside_the_one_size(trial, captured, read_at))
        ):
            read_at, captured = both
        found.append((inputs, read_at, captured))
        follows = follows_the_input(captured) and (
            is_one_window(trial, inputs) or not _is_the_one_size(captured, read_at)
        )
        if captured.sizes != "symbolic" or follows:
            return found[-1]
        if len(found) == _SIZES_TO_CAPTURE:
            break
    return found[0]


def _with_fewer_steps(trial: Trial, inputs: ExampleInputs) -> ExampleInputs:
    """A guessed call at half the size, and half of that, where fewer steps are as good.

    A loop over positions holds its size anyway, and a longer one takes longer to read. No side gets
    so short that deep levels have less than a position.
    """
    while inputs.guessed and (steps := trial.number_of_calls(inputs)) > _MANY_STEPS:
        image = images_of(inputs)[0]
        if min(image.shape[axis] for axis in inputs.space) < 2 * _SMALLEST:
            break
        smaller = cropped(inputs, 2)
        if not 0 < trial.number_of_calls(smaller) < _FEWER * steps:
            break
        inputs = smaller
    return inputs


def _of_any_frames(
    trial: Trial, inputs: ExampleInputs, captured: Capture
) -> tuple[ExampleInputs, ExampleInputs, Capture] | None:
    """A guessed clip with more frames, where any number of those can be read; else None.

    Of two frames the differences are one, and what is one is traced as a number.
    """
    held = frames_read(captured) is not None and not inputs.holds_frames
    if not (inputs.guessed and held):
        return None
    longer = with_more_frames(inputs)
    if trial.functions(longer) != trial.functions(inputs):
        return None  # it raises, or goes through the frames one by one
    read_at, captured = with_batch(trial, longer)
    return None if frames_read(captured) is not None else (longer, read_at, captured)


def _is_the_one_size(captured: Capture, read_at: ExampleInputs) -> bool:
    """Whether the forward asks for a size (``if x.shape[2:] == self.table.shape[2:]``) it has."""
    asked = equalities(captured.decisions)
    for factor in OTHER_SIZES if asked else ():
        other = at_another_size(read_at, factor)
        probe = _probe_at(captured, pytree.tree_leaves((other.args, dict(other.kwargs))))
        if probe is None or decided_alike(asked, probe.symbols):
            return False
    return bool(asked)


def _beside_the_one_size(
    trial: Trial, captured: Capture, read_at: ExampleInputs
) -> tuple[ExampleInputs, Capture] | None:
    """A call at another size, and its capture, where a given size is the one that is asked for.

    What resizes a table to all sizes but its own does nothing to it there.
    """
    if captured.sizes != "symbolic" or not _is_the_one_size(captured, read_at):
        return None
    for factor in OTHER_SIZES:
        other = at_another_size(read_at, factor)
        try:
            return other, where_both_hold(trial, read_at, other)
        except StructureError:
            continue
    return None


def with_batch(
    trial: Trial, inputs: ExampleInputs, *, fixed: bool = False
) -> tuple[ExampleInputs, Capture]:
    """Capture with two images a batch, or, where their number counts, with the example's.

    Returns:
        What it was captured with, and the capture.
    """
    pair = two_images(trial, inputs)
    captured = _traced(trial, pair, fixed)
    held = images_read(captured) is not None
    if pair is inputs or (not held and (inputs.guessed or _takes_this_way(captured, inputs))):
        return pair, captured
    if captured.too_complex:  # its arithmetic is the same with one image
        alone = capture(trial.original, inputs, fixed=True)
        return inputs, replace(alone, too_complex=True)
    return inputs, _traced(trial, inputs, fixed)


def _takes_this_way(captured: Capture, inputs: ExampleInputs) -> bool:
    """Whether the forward decides as it was traced, where it is given some other inputs."""
    probe = _probe_at(captured, pytree.tree_leaves((inputs.args, dict(inputs.kwargs))))
    return probe is None or decided_alike(captured.decisions, probe.symbols)


def _traced(trial: Trial, inputs: ExampleInputs, fixed: bool) -> Capture:
    """Capture; where the forward makes numbers of its sizes, keep them free if that can be done."""
    captured = capture(trial.original, inputs, fixed=fixed)
    held = images_read(captured) is not None if fixed else _held(captured)
    if captured.too_complex or not held:
        return captured
    free = _with_free_numbers(trial, inputs, fixed=fixed)
    if free is not None and _held(free) < _held(captured):
        return free
    return captured if fixed else replace(captured, freer=(free,))


def _held(captured: Capture) -> int:
    """How many sizes are held to a number, and the number of images with them."""
    return sizes_held(captured) + (images_read(captured) is not None)


def _with_free_numbers(
    trial: Trial,
    inputs: ExampleInputs,
    unit: Sequence[int] = (),
    *,
    fixed: bool = False,
    square: bool = False,
) -> Capture | None:
    try:
        return capture(trial.original, inputs, fixed=fixed, numbers=True, unit=unit, square=square)
    except StructureError:
        return None


def at_all_sizes(
    trial: Trial, inputs: ExampleInputs, read_at: ExampleInputs, captured: Capture
) -> tuple[Capture, Levels, bool]:
    """The capture and its levels, with sizes kept free where it does not follow them as it claims.

    Returns:
        The capture, its levels, and whether it has to be captured at the example's size.
    """
    levels = read_levels(captured, inputs)
    clips = (SOME_MORE,) * (inputs.dimensions == 3)
    others = [at_another_size(read_at, factor) for factor in (*OTHER_SIZES, *clips)]
    one_size = partial(_answers_in_one_size, trial, read_at, others)
    follows = plausible(captured, levels, inputs, one_size) and _follows(trial, captured, others)
    if follows and follows_the_input(captured):
        return captured, levels, False
    for free in _freed(trial, captured, read_at):
        if free is not None and follows_the_input(free):
            freed = read_levels(free, inputs)
            # multiples are traced at another size than the example's, which has to be one of them
            elsewhere = [read_at] if free.unit else others
            if plausible(free, freed, inputs, one_size) and _follows(trial, free, elsewhere):
                return free, freed, False
    held = None
    if not follows:
        held = _with_its_slices(trial, inputs, read_at) or _with_some_sides(trial, inputs, read_at)
    return held or (captured, levels, not follows)


def _with_its_slices(
    trial: Trial, inputs: ExampleInputs, read_at: ExampleInputs
) -> tuple[Capture, Levels, bool] | None:
    """The capture and levels of a volume whose number of slices alone is held; None if it fails.

    Clips are worked on some frames at a time, in a loop that runs as often as there are pieces.
    """
    sides = read_at.space[1:]
    elsewhere = [at_another_size(read_at, factor, along=sides) for factor in OTHER_SIZES]
    if len(sides) != 2 or not any(goes_the_same_way(trial, read_at, o) for o in elsewhere):
        return None
    return _holding(trial, inputs, read_at, sides, holds_frames=True)


def _holding(
    trial: Trial, inputs: ExampleInputs, read_at: ExampleInputs, free: Sequence[int], **held: Any
) -> tuple[Capture, Levels, bool] | None:
    """The capture and levels where some axes are held, and free sides follow; None if they do not.

    Args:
        trial: Runs the model.
        inputs: How the model is called.
        read_at: What it is captured with.
        free: The sides that are not held.
        held: What says so of inputs.
    """
    try:
        captured = capture(trial.original, replace(read_at, **held))
    except StructureError:
        return None
    levels = read_levels(captured, replace(inputs, **held))
    elsewhere = [at_another_size(read_at, factor, along=free) for factor in OTHER_SIZES]
    follows = follows_the_input(captured) and _follows(trial, captured, elsewhere)
    one_size = partial(_answers_in_one_size, trial, read_at, elsewhere)
    follows = follows and plausible(captured, levels, inputs, one_size)
    return (captured, levels, False) if follows else None


def _with_some_sides(
    trial: Trial, inputs: ExampleInputs, read_at: ExampleInputs
) -> tuple[Capture, Levels, bool] | None:
    """The capture and levels where a side has the one size that the forward takes; None if not.

    A linear layer over the bins of a spectrum leaves its frames free.
    """

    def runs(side: int) -> bool:
        others = (at_another_size(read_at, factor, along=(side,)) for factor in OTHER_SIZES)
        return any(trial.error(other.args, other.kwargs) is None for other in others)

    free = [side for side in read_at.space if runs(side)]
    holds = tuple(side for side in read_at.space if side not in free)
    # of channels a forward takes one number, where they are not a side by another layout
    if not (free and holds) or (read_at.channels is not None and runs(read_at.channels)):
        return None
    return _holding(trial, inputs, read_at, free, holds=holds)


def _freed(trial: Trial, captured: Capture, read_at: ExampleInputs) -> Iterator[Capture | None]:
    """Captures that keep more sizes free: any size, then multiples of one only."""
    yield from captured.freer
    others = [at_another_size(read_at, factor) for factor in OTHER_SIZES]
    tried = captured.freer or captured.numbers or captured.too_complex
    if not tried and any(goes_the_same_way(trial, read_at, other) for other in others):
        yield _with_free_numbers(trial, read_at)
    # its arithmetic was not followed to where the number of images would count
    larger = at_another_size(two_images(trial, read_at) if captured.too_complex else read_at)
    runs = trial.error(larger.args, larger.kwargs) is None
    if runs and goes_the_same_way(trial, read_at, larger):
        square = _takes_only_squares(trial, read_at)
        given = tuple(images_of(read_at)[0].shape[axis] for axis in read_at.space)
        for unit in dict.fromkeys([(_UNIT,) * len(given), given]):
            if all(size % part == 0 for size, part in zip(given, unit, strict=True)):
                yield _with_free_numbers(trial, larger, unit, square=square)


def goes_the_same_way(trial: Trial, inputs: ExampleInputs, other: ExampleInputs) -> bool:
    """Whether the forward calls the same functions for two calls, as far as both go.

    No graph of one holds for the other where it does not, and to know it takes no capture.
    """
    one, another = trial.functions(inputs), trial.functions(other)
    return all(a == b for a, b in zip(one, another, strict=False))


def _takes_only_squares(trial: Trial, inputs: ExampleInputs) -> bool:
    """Whether images have sides of one size, and one that is twice as high raises."""
    image = images_of(inputs)[0]
    if len(inputs.space) < 2 or len({image.shape[axis] for axis in inputs.space}) > 1:
        return False
    higher = at_another_size(inputs, along=inputs.space[:1])
    return trial.error(higher.args, higher.kwargs) is not None


def _answers_in_one_size(
    trial: Trial, inputs: ExampleInputs, others: Iterable[ExampleInputs]
) -> bool:
    """Whether the model returns the same sizes for images of another one, where it takes those."""
    made = (trial.shapes(other) for other in others)
    elsewhere = next((shapes for shapes in made if shapes is not None), None)
    own = trial.shapes(inputs)
    return own is not None and elsewhere is not None and elsewhere[-1] == own[-1]


def _follows(trial: Trial, captured: Capture, others: Iterable[ExampleInputs]) -> bool:
    """Whether a graph with free sizes does at another size what the model does there.

    Of several sizes that one counts at which the forward takes the way that was read, and runs.

    A forward that turns a size into a number (``int(height / 14 * 14.0)``) leaves a graph that
    claims to follow the input and does not.
    """
    runs_nowhere = False
    for other in others:
        leaves = pytree.tree_leaves((other.args, dict(other.kwargs)))
        probe = _probe_at(captured, leaves)
        if probe is None:
            return True
        if not decided_alike(captured.decisions, probe.symbols):
            continue
        if holds_at(map(tensor_of, captured.nodes), probe):
            return True
        alike = _made_alike(trial, captured, other, probe)
        if alike is not None:
            return alike
        runs_nowhere = True
    return runs_nowhere


def _made_alike(trial: Trial, captured: Capture, other: ExampleInputs, probe: Probe) -> bool | None:
    """Whether the model makes tensors of the sizes that its graph makes; None if it raises."""
    made = trial.shapes(other)
    if made is None:
        return None
    read = [(call.module, _shapes_at(call.exits.values(), probe)) for call in captured.calls]
    found: dict[str, list[Any]] = {}
    for name, shapes in made:
        found.setdefault(name, []).append(shapes)
    return all(shapes in found.get(name, ()) for name, shapes in read) and [
        tuple(shape) for shape in made[-1][1]
    ] == _shapes_at(captured.nodes[-1].all_input_nodes, probe)


def _probe_at(captured: Capture, leaves: Sequence[Any]) -> Probe | None:
    """The sizes of a call, by the symbols of the trace; None where no size is free."""
    nodes = {node.name: node for node in captured.nodes}
    symbols: dict[str, int] = {}
    for name, leaf in zip(captured.program.graph_signature.user_inputs, leaves, strict=True):
        traced = tensor_of(nodes[str(name)]) if str(name) in nodes else None
        if traced is not None and isinstance(leaf, torch.Tensor):
            symbols |= symbols_at(zip(traced.shape, leaf.shape, strict=True))
    return Probe(symbols) if symbols else None


def _shapes_at(nodes: Iterable[fx.Node], probe: Probe) -> list[Any]:
    return [probe.shape(value) for node in nodes if (value := tensor_of(node)) is not None]


def where_both_hold(trial: Trial, inputs: ExampleInputs, read_at: ExampleInputs) -> Capture:
    """A capture at another size than the example's, held to what is decided alike at both.

    Raises:
        StructureError: It cannot be captured, or does not do at the example's what the model does.
    """
    captured = capture(trial.original, read_at, numbers=True)
    probe = _probe_at(captured, pytree.tree_leaves((inputs.args, dict(inputs.kwargs))))
    if probe and _made_alike(trial, captured, inputs, probe) is False:
        raise StructureError("this way fits no size but those that take it")
    sizes = probe.symbols if probe else {}
    decided = captured.decisions.items()
    alike = {asked: said for asked, said in decided if decided_alike({asked: said}, sizes)}
    return replace(captured, decisions=alike)
