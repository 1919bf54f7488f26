"""Read a network: inputs, capture, levels, roles, coarse graph and cuts, in this order."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any, cast

import torch
from torch import fx, nn

from weightscope.adapters.boundary import BOUNDARY
from weightscope.adapters.modes import alone
from weightscope.adapters.regions import region_of
from weightscope.adapters.symbols import (
    asked_for,
    decided_alike,
    hint,
    is_of_one_size,
    is_symbolic,
    key,
)
from weightscope.adapters.tracing import old_garbage_waits
from weightscope.calls import say, shapes
from weightscope.errors import ForwardError, InputError, StructureError, WeightscopeError, keyword
from weightscope.graph.answers import (
    GENERATORS,
    compare,
    differs_elsewhere,
    differs_where_shown,
    holds_at_size,
    holds_for_one_image,
    holds_where_shown,
    read_elsewhere,
    settles,
)
from weightscope.graph.batch_first import with_batch_first
from weightscope.graph.beside import OTHER_IMAGES
from weightscope.graph.capture import Capture
from weightscope.graph.capturing import (
    at_all_sizes,
    captured_with,
    goes_the_same_way,
    where_both_hold,
    with_batch,
)
from weightscope.graph.coarsen import coarsen
from weightscope.graph.cuts import read_cuts
from weightscope.graph.fixed import fixed_in, values_note
from weightscope.graph.gradients import hooked_modules
from weightscope.graph.growing import (
    has_volumes_along_others,
    image_inputs,
    strides_over_frames,
)
from weightscope.graph.inputs import declared_inputs, passing, takes_no_more
from weightscope.graph.layouts import images_of
from weightscope.graph.lengths import with_lengths
from weightscope.graph.levels import read_levels
from weightscope.graph.models import check_model
from weightscope.graph.nodes import argument, operator_of, tensor_of
from weightscope.graph.notes import (
    arguments_note,
    batch_note,
    channels_note,
    checks_note,
    counted_note,
    finer_note,
    fixed_note,
    frames_note,
    gradients_note,
    hooks_note,
    memory_note,
    modes_note,
    parts_note,
    read_in_training,
    shared_note,
    some,
    ways_note,
)
from weightscope.graph.operators import RESHAPES
from weightscope.graph.scaling import at_another_size, cropped, two_images, twofold, with_each_twice
from weightscope.graph.stages import (
    inside_part,
    layer_places,
    override,
    place,
    require_shape,
    shared_layers,
    stages,
)
from weightscope.graph.structure import ExampleInputs, Structure
from weightscope.graph.trial import Trial
from weightscope.graph.values import observer_in, require_followed
from weightscope.wrappers import unwrap


@alone()
def read_structure(
    model: nn.Module,
    example_inputs: Any = None,
    stages: Mapping[str, str | Iterable[str]] | None = None,
    layout: str | None = None,
    part: str | None = None,
) -> Structure:
    """Read a network as a dataflow graph with levels and stages.

    Args:
        model: An encoder-decoder network; not changed. Wrappers around it are taken off.
        example_inputs: A tensor, a tuple of positional arguments or a dict of keyword arguments of
            the forward; found by trying where it is None.
        stages: Where modules belong, against what is read: prefixes of module names for each stage
            name (``{"skip 0": "lateral", "head": ["out", "aux"]}``).
        layout: What the axes of the image input are, one letter each: ``"NHWC"`` for batch, height,
            width, channels; ``"NHW"``; ``"NTCHW"`` for clips. Read from the first convolution where
            it is None.
        part: Name of a module that is a network of its own among others (one U-net of a cascade,
            ``Structure.parts``): levels, stages and cuts are then those of this part, counted from
            its ends, and a cut leaves the others as they are.

    Raises:
        InputError: The model, ``example_inputs`` or ``stages`` cannot be used.
        UnknownLayerError: ``part`` is no such module.
        ForwardError: The forward raises, or no example input was found.
        StructureError: The network has no encoder-decoder shape, or cannot be read.
    """
    unwrapped = unwrap(model)
    model = check_model(unwrapped.model)
    with _told(model):
        with old_garbage_waits():
            trial = Trial(model)
        read = partial(_read, trial, stages, layout, part, unwrapped.note)
        read = partial(read, example_inputs=example_inputs)
        structure = _answering(read, trial)
        if _differs_elsewhere(structure, trial):
            structure = _answering(partial(read, at_one_size=True), trial)
        if _joins_frames(structure):
            read = partial(read, holds_frames=True)
            held = _answering(read, trial)
            structure = held if held.cuts else structure
        if _has_volumes_along_others(structure):
            held_others = replace(structure.inputs, holds_others=True)
            held = _answering(partial(read, example_inputs=held_others), trial)
            if held.cuts:
                structure, read = held, partial(read, example_inputs=held_others)
        if (alone := _of_one_vector(structure)) is not None:
            read = partial(read, example_inputs=alone, holds_frames=False)
            held = _answering(partial(read, at_one_size=True), trial)
            structure = held if held.cuts else structure
        structure = _of_any_number(structure, read, trial)
        structure = _taking_every_way(structure, read, trial)
        if fixed_in(structure.graph).only_decides:
            note = ways_note(trial, structure.inputs, partial(_refuses, structure))
            structure = replace(structure, notes=(*structure.notes, *filter(None, [note])))
        return with_lengths(structure, trial, copies=_writes(trial))


def _differs_elsewhere(structure: Structure, trial: Trial) -> bool:
    takes = partial(takes_no_more, trial, structure.inputs)
    return differs_elsewhere(structure, takes, copies=_writes(trial))


def _mixes_images(structure: Structure) -> bool:
    """Whether nothing can be cut because images become others below."""
    reasons = [refusal.reason for refusal in structure.refusals]
    return not structure.cuts and any(OTHER_IMAGES in reason for reason in reasons)


def _joins_frames(structure: Structure) -> bool:
    """Whether nothing of a clip can be cut, and there are any number of frames.

    They may become one below, or lie where channels do, which a bottleneck does of one number.
    """
    clips = structure.inputs.frames is not None and structure.sizes == "symbolic"
    return clips and not structure.cuts


def _has_volumes_along_others(structure: Structure) -> bool:
    """Whether nothing can be cut, where a bottleneck would have any number of depths.

    As many as are given beside the images: those at which a scene may lie.
    """
    inputs, nodes = structure.inputs, structure.program.graph.nodes
    return not structure.cuts and has_volumes_along_others(nodes, inputs.dimensions)


def _of_one_vector(structure: Structure) -> ExampleInputs | None:
    """A guessed call at the size of which each image becomes one vector of a fixed length.

    ``x.view(-1, 1024)`` makes several of a larger image, which then count as images.
    """
    inputs = structure.inputs
    if not (inputs.guessed and _mixes_images(structure)):
        return None
    times = max(map(_vectors_of, structure.program.graph.nodes), default=1.0)
    side = round(times ** (1 / inputs.dimensions))
    return cropped(inputs, side) if side**inputs.dimensions == times else None


def _vectors_of(node: fx.Node) -> float:
    """How many vectors a flattening makes of one image; 1 of all else."""
    made = tensor_of(node)
    given = tensor_of(node.all_input_nodes[0]) if node.all_input_nodes else None
    if operator_of(node) not in RESHAPES or made is None or given is None:
        return 1.0
    flattens = made.dim() == 2 and given.dim() > 2 and key(made.shape[1]) != key(given.shape[1])
    return hint(made.shape[0]) / hint(given.shape[0]) if flattens else 1.0


def _answering(read: Callable[..., Structure], trial: Trial) -> Structure:
    """What is read, if the model answers the same.

    Where it does so only at the example's size, or without gradients, that is what is read.
    """
    structure, wrong = _compared(read(), trial)
    if not wrong and _only_elsewhere(structure, trial):
        structure, wrong = _compared(read(beside=False), trial)
        if not wrong and _only_elsewhere(structure, trial):
            wrong = (
                f"what was read of {trial.name} at another size than the example's does not hold"
                f" at that; pass {keyword('example_inputs')} of another size"
            )
    if not wrong:
        return structure
    at_example, still = _compared(read(at_one_size=True), trial)
    if not still:
        return at_example
    found = _without_gradients(structure, read, trial)
    if found is None:
        raise StructureError(wrong)
    return found


def _only_elsewhere(structure: Structure, trial: Trial) -> bool:
    """Whether the graph was read at another size than the example's, and does not hold at that.

    What is done at most sizes (``x[..., d // 2 : -(d - d // 2)]``) need not do nothing where the
    forward leaves it out.
    """
    goes = partial(goes_the_same_way, trial, structure.inputs)
    return read_elsewhere(structure) and differs_where_shown(structure, goes, copies=_writes(trial))


def _of_any_number(structure: Structure, read: Callable[..., Structure], trial: Trial) -> Structure:
    """What is read with two images, where the example has one, and that answers for one too.

    What spreads one value over a batch (``if sigma.numel() == 1``) does no harm to one image.
    """
    inputs = structure.inputs
    if inputs.guessed or len(images_of(inputs)[0]) != 1:
        return structure
    pair = with_each_twice(inputs, twofold)  # whose memory is never touched
    if not _refuses(structure, pair) or trial.error(pair.args, pair.kwargs):
        return structure
    try:
        found = _answering(partial(read, example_inputs=with_each_twice(inputs)), trial)
    except StructureError:
        return structure
    _forget_idle_questions(found, trial)
    return structure if _refuses(found, inputs) else replace(found, inputs=inputs)


_MORE_PIXELS = (-3, -2, -1, 1, 2, 3)
"""At these it is counted which of two ways of reading refuses fewer sizes."""


def _taking_every_way(
    structure: Structure, read: Callable[..., Structure], trial: Trial
) -> Structure:
    """What is read where sizes go with each other less well, if it holds at the example's too.

    A forward that pads, crops or resizes where two sizes differ takes another way at such sizes,
    which does nothing where they are the same.
    """
    _forget_idle_questions(structure, trial)
    if not fixed_in(structure.graph).only_decides:
        return structure
    pair = two_images(trial, structure.inputs)
    others = [at_another_size(pair, 1, more) for more in _MORE_PIXELS]
    found_so_far, refused = structure, len(others)
    # where halves of the size are even, those of these are all odd, rounded down or up
    for more in (-1, 1):
        read_at = at_another_size(pair, 1, more)
        if not _refuses(structure, read_at) or trial.error(read_at.args, read_at.kwargs):
            continue
        try:
            taken = structure.inputs, read_at, where_both_hold(trial, pair, read_at)
            found = read(taken=taken)
        except StructureError:
            continue
        alike = found.reductions == structure.reductions and len(found.cuts) >= len(structure.cuts)
        takes = not _refuses(found, read_at) and not _refuses(found, structure.inputs)
        goes = partial(goes_the_same_way, trial, structure.inputs)
        if alike and takes and holds_where_shown(found, goes, copies=_writes(trial)):
            found, wrong = _compared(found, trial)
            refuses = sum(_refuses(found, other) for other in others)
            if refuses < refused and not wrong and not _differs_elsewhere(found, trial):
                found_so_far, refused = found, refuses
        if not refused:
            break
    return found_so_far


def _forget_idle_questions(structure: Structure, trial: Trial) -> None:
    """Forget that the forward leaves something out at one size, where it would do nothing there.

    What resizes a table (``if x.shape[2:] != self.table.shape[2:]``) does so at its own size, too;
    what spreads one value over a batch (``if sigma.numel() == 1``) does no harm to one image. What
    trims (``if more: x = x[..., :-more]``) takes nothing off where there is nothing to take.
    """
    held = fixed_in(structure.graph)
    if not held.only_decides:
        return
    first = structure.graph.find_nodes(op="placeholder")[0]
    image = images_of(structure.inputs)[0]
    given = [image.shape[axis] for axis in structure.inputs.space]
    symbols = {s for axes in held.free.values() for axis, (s, _, _) in axes.items() if axis}
    one = {axes[0][0]: 1 for axes in held.free.values() if 0 in axes}
    pairs = {q: a for q, a in first.meta["decisions"].items() if len(asked_for([q])) > 1}
    along = [
        {axes[place][0] for axes in held.free.values() if place in axes}
        for place in structure.inputs.space
    ]

    def is_idle(question: Any, answer: Any) -> bool:
        if not is_of_one_size(question, answer):
            return False
        if decided_alike(pairs, one) and not decided_alike(pairs | {question: answer}, one):
            return holds_for_one_image(structure, copies=_writes(trial))
        if not asked_for([question]) <= symbols:
            return False
        sizes = (n for n in range(1, max(given)))
        equal = [
            n for n in sizes if not decided_alike({question: answer}, dict.fromkeys(symbols, n))
        ]
        asked = [axis for axis, sizes in enumerate(along) if sizes & asked_for([question])]
        calls = [
            call
            for size in _some_of(equal)
            for call in (
                [size] * len(given),
                *([*given[:axis], size, *given[axis + 1 :]] for axis in asked),
            )
        ]
        takes, copies = partial(takes_no_more, trial, structure.inputs), _writes(trial)
        holds = (holds_at_size(structure, sizes, takes, copies=copies) for sizes in calls)
        return bool(calls) and all(holds)

    decisions = first.meta["decisions"].items()
    first.meta["decisions"] = {q: a for q, a in decisions if not is_idle(q, a)}


def _some_of(sizes: Sequence[int]) -> Sequence[int]:
    """The first of some sizes that lie next to each other; of a remainder's, which are many, three.

    None of these is the smallest, at which deep levels may have a position or none.
    """
    if not sizes or sizes[-1] - sizes[0] < len(sizes):
        return sizes[:1]
    return sorted({sizes[len(sizes) // 4], sizes[len(sizes) // 2], sizes[-1]})


def _refuses(structure: Structure, inputs: ExampleInputs) -> bool:
    """Whether what is built refuses a call for its sizes."""
    try:
        fixed_in(structure.graph).in_order(inputs.args, inputs.kwargs)
    except InputError:
        return True
    return False


def _without_gradients(
    trained: Structure, read: Callable[[], Structure], trial: Trial
) -> Structure | None:
    """What is read where gradients are off, if that is what the model then does."""
    if any(kind == "grad" for node in trained.graph.nodes for kind, *_ in region_of(node)):
        return None  # such a part would not be seen
    try:
        with torch.no_grad():
            structure, wrong = _compared(read(), trial)
    except StructureError:
        return None
    note = (
        "the forward returns something else where gradients are on (it asks"
        " torch.is_grad_enabled(), or tensors whether they need gradients); read, cut and built is"
        " what it returns without them, so that a variant returns that in training too. Let it ask"
        " self.training in their place"
    )
    dead = tuple(n for n in structure.dead_parameters if n in trained.dead_parameters)
    told = replace(structure, dead_parameters=dead, notes=(*structure.notes, note))
    return None if wrong else told


def _require_order(model: nn.Module, reductions: Sequence[Sequence[float]]) -> None:
    """Refuse a network without cuts whose levels are not one coarser than the other."""
    if observer := observer_in(model):
        raise _prepared(model, observer)
    factors = [math.prod(reduction) for reduction in reductions]
    if all(a < b for a, b in pairwise(factors)):
        return
    shown = ", ".join("x".join(f"{r:g}" for r in reduction) for reduction in reductions)
    raise StructureError(
        f"the resolutions of {type(model).__name__} are in no order (reductions {shown}) and no"
        " level can be left out, as where optical flow is read from correlations again and again."
        " Pass a part of it that goes down and comes back up, if it has one"
    )


@contextmanager
def _told(model: nn.Module) -> Iterator[None]:
    """Turn what a foreign network makes fail inside this room into an error with a remedy."""
    try:
        yield
    except (ForwardError, StructureError) as error:
        if observer := observer_in(model):
            raise _prepared(model, observer) from error
        raise
    except WeightscopeError:
        raise
    except Exception as error:
        raise StructureError(
            f"{type(model).__name__} could not be read: {say(error)}. If another size runs, pass"
            f" it as {keyword('example_inputs')}; otherwise pass the part of the network that goes"
            " down and comes back up. Please report the network, so that the next version reads"
            " it."
        ) from error


def _prepared(model: nn.Module, observer: str) -> StructureError:
    return StructureError(
        f"{type(model).__name__} was prepared for quantization: {observer} looks at values as they"
        " pass, and remembers them. Take all such modules out of a copy: `for name, part"
        " in list(copy.named_modules(remove_duplicate=False)): if isinstance(part, (ObserverBase,"
        " FakeQuantizeBase)): copy.set_submodule(name, torch.nn.Identity())`, both classes from"
        " torch.ao.quantization. Or analyse the network that it was prepared from; where no"
        " layers were fused, its weights have the same names there"
        " (original.load_state_dict(prepared.state_dict(), strict=False))"
    )


def _refuse_frames_that_get_fewer(trial: Trial, captured: Capture, inputs: ExampleInputs) -> None:
    if strides_over_frames(captured, inputs):
        raise InputError(
            f"by {keyword('layout', repr(inputs.layout))} frames are images one beside the other,"
            f" but a layer of {trial.name} strides over them as over a side: give"
            f" {keyword('layout', repr(inputs.layout.replace('T', 'D')))}"
        )


def _refuse_batches_along_frames(trial: Trial, captured: Capture, inputs: ExampleInputs) -> None:
    """Refuse clips whose first axis comes out with one length, and whose frames as they went in.

    ``(frames, batch, channels, height, width)`` looks as if frames lay second.
    """
    if inputs.frames is None:
        return
    image = image_inputs(captured)[0].meta["val"].shape
    images, frames = key(image[0]), key(image[inputs.frames])
    returned = [v for n in captured.nodes[-1].all_input_nodes if (v := tensor_of(n)) is not None]
    clips = [v.shape for v in returned if v.dim() == len(image)]
    turned = [key(s[0]) != images and key(s[inputs.frames]) == frames for s in clips]
    given = shapes(images_of(inputs)[0])
    if is_symbolic(image[0]) and is_symbolic(image[inputs.frames]) and turned and all(turned):
        raise InputError(
            f"what {trial.name} returns for {keyword('example_inputs')} ({given}) has one"
            " length along the first axis and follows another one, as where frames lie first;"
            " images are counted along the first here. Pass a module that is given batches so and"
            " turns their axes before it calls this one (x.transpose(0, 1), and back for what it"
            " returns)"
        )


@old_garbage_waits()
def _read(
    trial: Trial,
    stages: Mapping[str, str | Iterable[str]] | None,
    layout: str | None,
    part: str | None,
    wrapped: str,
    *,
    example_inputs: Any,
    at_one_size: bool = False,
    holds_frames: bool = False,
    beside: bool = True,
    taken: tuple[ExampleInputs, ExampleInputs, Capture] | None = None,
) -> Structure:
    model = trial.original
    inputs, read_at, captured = taken or captured_with(
        trial, example_inputs, layout, holds_frames, beside
    )
    require_followed(captured.program, trial.name)
    _refuse_frames_that_get_fewer(trial, captured, inputs)
    _refuse_batches_along_frames(trial, captured, inputs)
    turned, stopped = captured.turned, captured.stopped
    captured, levels, fixed = at_all_sizes(trial, inputs, read_at, captured)
    fixed |= at_one_size
    if fixed or captured.sizes != "symbolic":
        declared = declared_inputs(trial, inputs, layout)
        inputs, too_complex = declared or inputs, captured.too_complex
        if declared and not (fixed or too_complex):
            read_at, captured = with_batch(trial, inputs)
            captured, levels, fixed = at_all_sizes(trial, inputs, read_at, captured)
        if fixed or (declared and too_complex):  # it computes with other sizes in as many steps
            _, captured = with_batch(trial, inputs, fixed=True)
            captured = replace(captured, too_complex=captured.too_complex or too_complex)
            levels = read_levels(captured, inputs)
    _hold_channels(trial, captured, inputs)
    whole = placement = place(captured, levels, model)
    parts = tuple(levels.parts)
    if part:
        placement = inside_part(captured, whole, levels, model, part)
        levels = levels.parts[part]
    if stages:
        placement = override(captured, placement, stages, model, len(levels.reductions))
    if not part:
        require_shape(captured, placement, levels)
    layers, _ = layer_places(captured, placement, model)
    _, dead = layer_places(captured, whole, model)
    coarse = with_batch_first(coarsen(captured, placement, model, inputs))
    coarse, cuts, refusals = read_cuts(coarse, captured.nodes, model, levels, len(levels.whole))
    if not cuts:
        _require_order(model, () if stages or part else levels.reductions)
    pair = two_images(trial, inputs)
    modes_agree = trial.modes_agree(pair)
    called = {str(n.target) for n in coarse.graph.find_nodes(op="call_module")}
    if modes_agree:
        modes_agree = trial.works_alike(pair, called | _idle(model, dead))
    for node, where in placement.places.items():
        node.meta["place"] = where
    _without_boundaries(captured)
    notes = (
        wrapped,
        fixed_note(trial, captured, inputs, turned, stopped),
        frames_note(trial, captured, inputs),
        channels_note(captured),
        counted_note(levels),
        finer_note(levels),
        batch_note(trial, captured, inputs),
        arguments_note(trial, inputs),
        values_note(coarse.graph),
        checks_note(trial.checks),
        modes_note(trial, modes_agree, pair),
        gradients_note(coarse.lost),
        hooks_note(trial.gradient_hooks(pair, called), hooked_modules(model, called)),
        parts_note(parts, part),
        shared_note(shared_layers(placement, model, captured.nodes)),
    )
    return Structure(
        model=model,
        inputs=passing(trial, inputs),
        graph=coarse.graph,
        constants=coarse.constants,
        output_spec=captured.program.call_spec.out_spec,
        program=captured.program,
        places=coarse.places,
        reductions=levels.reductions,
        stages=_stages(layers, levels.reductions),
        dead_parameters=_dead(trial, dead, modes_agree, pair),
        cuts=cuts,
        refusals=refusals,
        sizes=captured.sizes,
        notes=tuple(note for note in notes if note),
        modes_agree=modes_agree is not False and not read_in_training(trial, pair),
        parts=parts,
        part=part or "",
        whole=levels.whole,
    )


def _hold_channels(trial: Trial, captured: Capture, inputs: ExampleInputs) -> None:
    """Note where the number of channels is held, though the forward takes others (their mean)."""
    if inputs.channels is None:
        return
    more = at_another_size(inputs, along=(inputs.channels,))
    if trial.error(more.args, more.kwargs) is None:
        for image in image_inputs(captured):
            image.meta["channels"] = inputs.channels


def _compared(structure: Structure, trial: Trial) -> tuple[Structure, str]:
    """The structure with notes on what earlier calls decide, and what its graph answers wrongly.

    Raises:
        StructureError: Calls change the weights.
    """
    pair = two_images(trial, structure.inputs)
    called = {str(n.target) for n in structure.graph.find_nodes(op="call_module")}
    left, used = trial.left_behind(pair, called)
    written = trial.written_weights
    trained = [name for name, trains in written.items() if trains]
    if trained and not settles(structure):
        raise StructureError(
            f"the forward of {trial.name} writes into its own weights ({some(trained)}), so that"
            " every call makes another network. Make them buffers (register_buffer); where only a"
            " first call does so, call the model once before"
        )
    try:
        compared = compare(structure, copies=_writes(trial))
    except WeightscopeError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever a graph that holds for other images raises
        if _squeezes_images(structure):
            return structure, _squeezed(trial.name)
        return structure, (
            f"what was read of {trial.name} does not run on the example: {say(error)}. The forward"
            " decides by the number of its images or by their size, which could not be followed;"
            f" pass {keyword('example_inputs')} with two images or of another size, or the part of"
            " the network that goes down and comes back up"
        )
    if compared.wrong and _squeezes_images(structure):
        return structure, _squeezed(trial.name)
    if compared.wrong:
        where = trial.answers_to_tracing(pair)
        return structure, (
            f"what the forward of {trial.name} returns depends on whether it is traced, as it is"
            f" here{where and f' ({where})'}, so what is read is not what it does: on numbers"
            f" {compared.wrong}. Let it return the same in both cases: with tensors (torch.where,"
            " torch.clamp) in the place of values that are read, and without asking for the class"
            " of tensors and sizes (isinstance in the place of type), for modes or for gradients"
        )
    if not compared.repeatable:
        note = (
            "the forward answers the same call differently: it draws at random outside of torch, or"
            " counts outside of its modules. Read, cut and built is one of its calls; draw by"
            " torch.rand, and keep what counts in a module. No level is called unused"
        )
    elif compared.remembers and GENERATORS.issuperset(compared.remembers):
        note = (
            f"the forward draws at random outside of torch ({some(compared.remembers)}): read, cut"
            " and built is one of its draws. Draw by torch.rand, and each call draws anew"
        )
    else:
        note = memory_note(left, used or compared.remembers)
    drawn = (compared.draws and compared.repeatable) * (
        "the forward draws at random in evaluation mode (dropout that goes on, noise). What is"
        " measured is measured on the same draws with and without a level, holds for these, and"
        " calls no level unused"
    )
    notes = (*structure.notes, *filter(None, [note, drawn]))
    return replace(structure, notes=notes, draws=compared.draws), ""


def _squeezes_images(structure: Structure) -> bool:
    """Whether axes of one are taken off where one is that of the images, and there is one."""
    return len(images_of(structure.inputs)[0]) == 1 and any(
        operator_of(node) == "aten::squeeze"
        and argument(node, "dim") is None
        and (value := tensor_of(node.all_input_nodes[0])) is not None
        and any(map(is_symbolic, value.shape[:1]))
        for node in structure.program.graph.nodes
    )


def _squeezed(name: str) -> str:
    return (
        f"the forward of {name} takes all axes of one off a tensor (`x.squeeze()`), that of the"
        " images with them where there is one image, and does something else there than with"
        f" several. Name the axis (`x.squeeze(1)`); or pass {keyword('example_inputs')} with two"
        " images, and give a variant several"
    )


def _writes(trial: Trial) -> bool:
    """Whether a forward leaves something in weights."""
    return bool(trial.written_weights) or trial.sets_hooks


def _idle(model: nn.Module, dead: Collection[str]) -> set[str]:
    """Names of the modules of whose parameters no output depends on any.

    What the norms among them do in train mode changes no output either.
    """
    return {
        name
        for name, module in model.named_modules()
        if name and (own := [key for key, _ in module.named_parameters(prefix=name)])
        if all(key in dead for key in own)
    }


def _dead(
    trial: Trial, unreached: tuple[str, ...], modes_agree: bool | None, pair: ExampleInputs
) -> tuple[str, ...]:
    """What no forward reaches, in neither mode; nothing where train mode could not be tried."""
    if modes_agree or not unreached or trial.refuses_to_train(pair):
        return unreached
    if modes_agree is None:
        read = trial.read_by_training(pair)
        return () if read is None else tuple(name for name in unreached if name not in read)
    called = trial.called(pair, training=True)
    return tuple(name for name in unreached if name.rpartition(".")[0] not in called)


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
