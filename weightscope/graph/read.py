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

from weightscope.adapters import pytree
from weightscope.adapters.boundary import BOUNDARY
from weightscope.adapters.modes import alone
from weightscope.adapters.regions import region_of
from weightscope.adapters.symbols import (
    Probe,
    asked_for,
    decided_alike,
    equalities,
    hint,
    holds_at,
    is_of_one_size,
    is_symbolic,
    key,
    symbols_at,
)
from weightscope.adapters.tracing import old_garbage_waits
from weightscope.calls import say
from weightscope.errors import ForwardError, InputError, StructureError, WeightscopeError, keyword
from weightscope.graph.answers import (
    GENERATORS,
    compare,
    differs_elsewhere,
    holds_at_size,
    holds_for_one_image,
    holds_where_shown,
    settles,
)
from weightscope.graph.beside import OTHER_IMAGES
from weightscope.graph.capture import Capture, capture, images_read
from weightscope.graph.coarsen import coarsen
from weightscope.graph.cuts import read_cuts
from weightscope.graph.fixed import fixed_in, values_note
from weightscope.graph.gradients import hooked_modules
from weightscope.graph.inputs import (
    declared_inputs,
    find_inputs,
    is_one_window,
    passing,
    takes_no_more,
    two_images,
    twofold,
    with_each_twice,
)
from weightscope.graph.layouts import images_of, is_image
from weightscope.graph.levels import (
    Levels,
    follows_the_input,
    image_sizes,
    plausible,
    read_levels,
    sizes_held,
)
from weightscope.graph.models import check_model
from weightscope.graph.nodes import argument, operator_of, tensor_of
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
from weightscope.graph.values import observer_in, require_followed, where_read
from weightscope.showing import counted
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
        read = partial(_read, trial, example_inputs, stages, layout, part, unwrapped.note)
        structure = _answering(read, trial)
        if _differs_elsewhere(structure, trial):
            structure = _answering(partial(read, at_one_size=True), trial)
        if _joins_frames(structure):
            read = partial(read, holds_frames=True)
            held = _answering(read, trial)
            structure = held if held.cuts else structure
        if (alone := _of_one_vector(structure)) is not None:
            read = partial(_read, trial, alone, stages, layout, part, unwrapped.note)
            held = _answering(partial(read, at_one_size=True), trial)
            structure = held if held.cuts else structure
        return _taking_every_way(structure, read, trial)


def _differs_elsewhere(structure: Structure, trial: Trial) -> bool:
    takes = partial(takes_no_more, trial, structure.inputs)
    return differs_elsewhere(structure, takes, copies=_writes(trial))


def _mixes_images(structure: Structure) -> bool:
    """Whether nothing can be cut because images become others below."""
    reasons = [refusal.reason for refusal in structure.refusals]
    return not structure.cuts and any(OTHER_IMAGES in reason for reason in reasons)


def _joins_frames(structure: Structure) -> bool:
    """Whether nothing can be cut because frames become one below, and there are any number."""
    clips = structure.inputs.frames is not None and structure.sizes == "symbolic"
    return clips and _mixes_images(structure)


def _of_one_vector(structure: Structure) -> ExampleInputs | None:
    """A guessed call at the size of which each image becomes one vector of a fixed length.

    ``x.view(-1, 1024)`` makes several of a larger image, which then count as images.
    """
    inputs = structure.inputs
    if not (inputs.guessed and _mixes_images(structure)):
        return None
    times = max(map(_vectors_of, structure.program.graph.nodes), default=1.0)
    side = round(times ** (1 / inputs.dimensions))
    return _cropped(inputs, side) if side**inputs.dimensions == times else None


def _vectors_of(node: fx.Node) -> float:
    """How many vectors a flattening makes of one image; 1 of all else."""
    made = tensor_of(node)
    given = tensor_of(node.all_input_nodes[0]) if node.all_input_nodes else None
    if operator_of(node) not in _FLATTENS or made is None or given is None:
        return 1.0
    flattens = made.dim() == 2 and given.dim() > 2 and key(made.shape[1]) != key(given.shape[1])
    return hint(made.shape[0]) / hint(given.shape[0]) if flattens else 1.0


def _cropped(inputs: ExampleInputs, times: int) -> ExampleInputs:
    """The same call with every side of each image so many times shorter."""

    def corner(value: Any) -> Any:
        space = inputs.space if is_image(value, inputs) else ()
        for axis in space:
            value = value.narrow(axis, 0, value.shape[axis] // times)
        return value.clone() if space else value

    args, kwargs = pytree.tree_map(corner, (inputs.args, dict(inputs.kwargs)))
    return replace(inputs, args=args, kwargs=kwargs)


def _answering(read: Callable[..., Structure], trial: Trial) -> Structure:
    """What is read, if the model answers the same.

    Where it does so only at the example's size, or without gradients, that is what is read.
    """
    structure, wrong = _compared(read(), trial)
    if not wrong:
        return structure
    at_example, still = _compared(read(at_one_size=True), trial)
    if not still:
        return at_example
    found = _without_gradients(structure, read, trial)
    if found is None:
        raise StructureError(wrong)
    return found


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
    for more in (-1, 1):
        read_at = _at_another_size(pair, 1, more)
        if not _refuses(structure, read_at) or trial.error(read_at.args, read_at.kwargs):
            continue
        try:
            taken = structure.inputs, read_at, _where_both_hold(trial, pair, read_at)
            found = read(taken=taken)
        except StructureError:
            continue
        alike = found.reductions == structure.reductions and len(found.cuts) >= len(structure.cuts)
        takes = not _refuses(found, read_at) and not _refuses(found, structure.inputs)
        goes = partial(_goes_the_same_way, trial, structure.inputs)
        if alike and takes and holds_where_shown(found, goes, copies=_writes(trial)):
            found, wrong = _compared(found, trial)
            if not wrong and not _differs_elsewhere(found, trial):
                return found
    return structure


def _forget_idle_questions(structure: Structure, trial: Trial) -> None:
    """Forget that the forward leaves something out at one size, where it would do nothing there.

    What resizes a table (``if x.shape[2:] != self.table.shape[2:]``) does so at its own size, too;
    what spreads one value over a batch (``if sigma.numel() == 1``) does no harm to one image.
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
        if not equal or equal[-1] - equal[0] >= len(equal):
            return False  # it asks for a remainder, which many sizes leave
        calls = [[equal[0]] * len(given)]
        calls += [[*given[:axis], equal[0], *given[axis + 1 :]] for axis in range(len(given))]
        takes, copies = partial(takes_no_more, trial, structure.inputs), _writes(trial)
        return all(holds_at_size(structure, sizes, takes, copies=copies) for sizes in calls)

    decisions = first.meta["decisions"].items()
    first.meta["decisions"] = {q: a for q, a in decisions if not is_idle(q, a)}


def _refuses(structure: Structure, inputs: ExampleInputs) -> bool:
    """Whether what is built refuses a call for its sizes."""
    try:
        fixed_in(structure.graph).in_order(inputs.args, inputs.kwargs)
    except InputError:
        return True
    return False


def _where_both_hold(trial: Trial, inputs: ExampleInputs, read_at: ExampleInputs) -> Capture:
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


@old_garbage_waits()
def _read(
    trial: Trial,
    example_inputs: Any,
    stages: Mapping[str, str | Iterable[str]] | None,
    layout: str | None,
    part: str | None,
    wrapped: str,
    *,
    at_one_size: bool = False,
    holds_frames: bool = False,
    taken: tuple[ExampleInputs, ExampleInputs, Capture] | None = None,
) -> Structure:
    model = trial.original
    inputs, read_at, captured = taken or _captured(trial, example_inputs, layout, holds_frames)
    require_followed(captured.program, trial.name)
    captured, levels, fixed = _at_all_sizes(trial, inputs, read_at, captured)
    fixed |= at_one_size
    if fixed or captured.sizes != "symbolic":
        declared = declared_inputs(trial, inputs, layout)
        inputs, too_complex = declared or inputs, captured.too_complex
        if declared and not (fixed or too_complex):
            read_at, captured = _with_batch(trial, inputs)
            captured, levels, fixed = _at_all_sizes(trial, inputs, read_at, captured)
        if fixed or (declared and too_complex):  # it computes with other sizes in as many steps
            _, captured = _with_batch(trial, inputs, fixed=True)
            captured = replace(captured, too_complex=captured.too_complex or too_complex)
            levels = read_levels(captured, inputs)
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
    coarse = coarsen(captured, placement, model, inputs)
    cuts, refusals = read_cuts(coarse, captured.nodes, model, levels, inputs.dimensions)
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
        _fixed_note(trial, captured, inputs),
        _frames_note(inputs),
        _inside_note(levels.inside),
        _batch_note(trial, captured, inputs),
        values_note(coarse.graph),
        _checks_note(trial.checks),
        _modes_note(trial, modes_agree, pair),
        _gradients_note(coarse.lost),
        _hooks_note(trial.gradient_hooks(pair, called), hooked_modules(model, called)),
        _parts_note(parts, part),
        _shared_note(shared_layers(placement, model, captured.nodes)),
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
        modes_agree=modes_agree is not False and not _read_in_training(trial, pair),
        parts=parts,
        part=part or "",
    )


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
            f"the forward of {trial.name} writes into its own weights ({_some(trained)}), so that"
            " every call makes another network. Make them buffers (register_buffer); where only a"
            " first call does so, call the model once before"
        )
    try:
        compared = compare(structure, copies=_writes(trial))
    except RuntimeError:
        if _squeezes_images(structure):
            return structure, _squeezed(trial.name)
        raise
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
            f"the forward draws at random outside of torch ({_some(compared.remembers)}): read, cut"
            " and built is one of its draws. Draw by torch.rand, and each call draws anew"
        )
    else:
        note = _memory_note(left, used or compared.remembers)
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
    if modes_agree is None:
        return ()
    if modes_agree or not unreached:
        return unreached
    called = trial.called(pair, training=True)
    return tuple(name for name in unreached if name.rpartition(".")[0] not in called)


def _read_in_training(trial: Trial, pair: ExampleInputs) -> str:
    """Where values of tensors are read in train mode alone; empty where none are."""
    error = trial.error(pair.args, pair.kwargs, training=True)
    return where_read(error) if error else ""


def _modes_note(trial: Trial, modes_agree: bool | None, pair: ExampleInputs) -> str:
    if modes_agree is None and (where := _read_in_training(trial, pair)):
        return (
            f"in train mode the forward reads values of tensors{where}, which cannot be followed;"
            " what is read, cut and built is what it does in eval mode, so a variant does and"
            " trains that alone. What lives in training only is not seen, so no parameter is called"
            " dead"
        )
    if modes_agree is None:
        error = trial.error(pair.args, pair.kwargs, training=True)
        return (
            "in train mode the forward raises at this size"
            f" ({say(error) if error else 'unknown'}); what lives in training only is not seen, so"
            f" no parameter is called dead. Pass {keyword('example_inputs')} of a size and batch"
            " that it trains on"
        )
    if modes_agree is False:
        return (
            "in train mode the forward does something else than in eval mode (deep supervision, a"
            " loss, noise); what is read, cut and built is what it does in eval mode, so a variant"
            " does and trains that alone"
        )
    return ""


def _memory_note(left: Sequence[str], used: Sequence[str]) -> str:
    """What to say of a forward that keeps what it computed in attributes of its modules."""
    if used:
        return (
            f"what the forward returns depends on what earlier calls left in {_some(used)}; read,"
            " cut and built is one call in the state that the model is in now, so a variant"
            " remembers nothing. Hand that state to the forward as an argument and return it, and a"
            " variant does too"
        )
    if left:
        return (
            f"the forward leaves tensors in {_some(left)}; a variant returns the same and leaves"
            " none. Let the forward return what you need of them"
        )
    return ""


def _gradients_note(lost: Sequence[str]) -> str:
    """What to say of a backward of its own that the graph does not hold."""
    if not lost:
        return ""
    return (
        f"{_some([*dict.fromkeys(lost)])} changes gradients in a forward that is taken apart, and"
        " is given more than tensors and numbers; a variant returns the same, and its gradients are"
        " those of the operations in the forward, in training and in recover. Call it in a module"
        " of its own that has no other inside, and a variant keeps it"
    )


def _checks_note(where: str) -> str:
    """What to say of checks of values, which a trace without values passes."""
    if not where:
        return ""
    return (
        f"the forward checks values ({where}); read, cut and built is what it does where they pass,"
        " and a variant does not check them"
    )


def _hooks_note(setters: Sequence[str], hooked: Sequence[str]) -> str:
    """What to say of hooks on gradients that are in no module that is called as it is."""
    what = [f"Tensor.{name} in a forward that is taken apart" for name in setters]
    named = [name or "the model" for name in hooked]
    what += [f"a backward hook of {_some(named)}"] if named else []
    if not what:
        return ""
    return (
        f"{' and '.join(what)} sets a hook on gradients that a variant does not have, in training"
        " and in recover. Set it in a module of its own that has no other inside, and a variant"
        " keeps it"
    )


def _shared_note(layers: Sequence[str]) -> str:
    """What to say of modules that are called at several levels."""
    if not layers:
        return ""
    many = len(layers) > 1
    return (
        f"{_some(layers)} {'are' if many else 'is'} used at several levels; the tables count "
        f"{'them' if many else 'it'} in the stage of the first use alone, and a cut keeps "
        f"{'them' if many else 'it'} whole for the uses that stay"
    )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (" and others" if len(names) > _SHOWN else "")


def _parts_note(parts: Sequence[str], part: str | None) -> str:
    if part:
        return f"levels, stages and cuts are those of {part}; what is around it stays"
    if not parts:
        return ""
    many = len(parts) > 1
    return (
        f"{_some(parts)} {'go' if many else 'goes'} down and {'come' if many else 'comes'} back up"
        f" on {'their' if many else 'its'} own; {keyword('part', repr(parts[0]))} reads and cuts"
        " that one alone"
    )


def _at_all_sizes(
    trial: Trial, inputs: ExampleInputs, read_at: ExampleInputs, captured: Capture
) -> tuple[Capture, Levels, bool]:
    """The capture and its levels, with sizes kept free where it does not follow them as it claims.

    Returns:
        The capture, its levels, and whether it has to be captured at the example's size.
    """
    levels = read_levels(captured, inputs)
    others = [_at_another_size(read_at, factor) for factor in _OTHER_SIZES]
    follows = plausible(captured, levels, inputs) and _follows(trial, captured, others)
    if follows and follows_the_input(captured):
        return captured, levels, False
    for free in _freed(trial, captured, read_at):
        if free is not None and follows_the_input(free):
            freed = read_levels(free, inputs)
            # multiples are traced at another size than the example's, which has to be one of them
            elsewhere = [read_at] if free.unit else others
            if plausible(free, freed, inputs) and _follows(trial, free, elsewhere):
                return free, freed, False
    held = None if follows else _with_its_slices(trial, inputs, read_at)
    return held or (captured, levels, not follows)


def _with_its_slices(
    trial: Trial, inputs: ExampleInputs, read_at: ExampleInputs
) -> tuple[Capture, Levels, bool] | None:
    """The capture and levels of a volume whose number of slices alone is held; None if it fails.

    Clips are worked on some frames at a time, in a loop that runs as often as there are pieces.
    """
    sides = read_at.space[1:]
    elsewhere = [_at_another_size(read_at, factor, along=sides) for factor in _OTHER_SIZES]
    if len(sides) != 2 or not any(_goes_the_same_way(trial, read_at, o) for o in elsewhere):
        return None
    try:
        captured = capture(trial.original, replace(read_at, holds_frames=True))
    except StructureError:
        return None
    levels = read_levels(captured, replace(inputs, holds_frames=True))
    follows = follows_the_input(captured) and _follows(trial, captured, elsewhere)
    return (captured, levels, False) if follows and plausible(captured, levels, inputs) else None


def _freed(trial: Trial, captured: Capture, read_at: ExampleInputs) -> Iterator[Capture | None]:
    """Captures that keep more sizes free: any size, then multiples of one only."""
    yield from captured.freer
    others = [_at_another_size(read_at, factor) for factor in _OTHER_SIZES]
    tried = captured.freer or captured.numbers or captured.too_complex
    if not tried and any(_goes_the_same_way(trial, read_at, other) for other in others):
        yield _with_free_numbers(trial, read_at)
    larger = _at_another_size(read_at)
    runs = trial.error(larger.args, larger.kwargs) is None
    if runs and _goes_the_same_way(trial, read_at, larger):
        square = _takes_only_squares(trial, read_at)
        given = [images_of(read_at)[0].shape[axis] for axis in read_at.space]
        for unit in ([_UNIT] * len(given), given):
            if all(size % part == 0 for size, part in zip(given, unit, strict=True)):
                yield _with_free_numbers(trial, larger, unit, square=square)


def _goes_the_same_way(trial: Trial, inputs: ExampleInputs, other: ExampleInputs) -> bool:
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
    higher = _at_another_size(inputs, along=inputs.space[:1])
    return trial.error(higher.args, higher.kwargs) is not None


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


def _fixed_note(trial: Trial, captured: Capture, inputs: ExampleInputs) -> str:
    """What to say where the graph holds at one size though the model takes others."""
    free = [is_symbolic(size) for size in image_sizes(captured)]
    if free and all(free) and not captured.unit:
        return ""
    other = _at_another_size(inputs)
    if trial.error(other.args, other.kwargs) is not None:
        return ""
    given = [images_of(inputs)[0].shape[axis] for axis in inputs.space]
    size = "x".join(map(str, captured.unit or given))
    if captured.square:
        size = f"squares of multiples of {captured.unit[0]}"
    elif captured.unit:
        size = f"multiples of {size}"
    elif any(free):
        pairs = zip(free, given, strict=True)
        size = " x ".join("any" if is_free else str(n) for is_free, n in pairs)
    why = "the forward turns sizes into numbers or works at sizes of its own"
    if captured.too_complex or captured.unit:
        why = "the forward computes with its sizes in more steps than are followed"
    if captured.square:
        why = "the forward takes the root of the number of its positions for both sides"
    return (
        f"read at {size} only: {why}. A variant refuses other sizes; pass"
        f" {keyword('example_inputs')} of the size that you use"
    )


def _frames_note(inputs: ExampleInputs) -> str:
    """What to say where the number of frames is held."""
    if not inputs.holds_frames or inputs.frames is None:
        return ""
    frames = images_of(inputs)[0].shape[inputs.frames]
    return (
        f"read with {counted(frames, 'frame')} a clip only: frames become one below, and a"
        " bottleneck does that of one number. A variant refuses others; pass"
        f" {keyword('example_inputs')} with as many as you use"
    )


def _inside_note(inside: tuple[int, ...]) -> str:
    """What to say where images of any size are brought to one."""
    if not inside:
        return ""
    return (
        f"the forward resizes its images to {'x'.join(map(str, inside))} before anything else;"
        " levels are counted from there"
    )


def _batch_note(trial: Trial, captured: Capture, inputs: ExampleInputs) -> str:
    """What to say where the graph holds for one number of images though the model takes others."""
    images = images_read(captured)
    if images is None:
        return ""
    other = _twice(inputs)
    if trial.error(other.args, other.kwargs) is not None:
        return ""
    return (
        f"read at {counted(images, 'image')} a batch only: the forward decides by their number, or"
        " turns it into a number. A variant refuses other batches; pass"
        f" {keyword('example_inputs')} with as many as you use"
    )


def _twice(inputs: ExampleInputs) -> ExampleInputs:
    """The same call with twice as many images."""
    images = len(images_of(inputs)[0])

    def doubled(value: Any) -> Any:
        of_batch = isinstance(value, torch.Tensor) and value.dim() and len(value) == images
        return twofold(value) if of_batch else value

    args, kwargs = pytree.tree_map(doubled, (inputs.args, dict(inputs.kwargs)))
    return replace(inputs, args=args, kwargs=kwargs)


def _at_another_size(
    inputs: ExampleInputs, factor: float = 2, more: int = 0, along: Sequence[int] | None = None
) -> ExampleInputs:
    """The same call with every image larger by a factor, and by some pixels, along some axes."""

    def scaled(value: Any) -> Any:
        if not is_image(value, inputs):
            return value
        space = inputs.space if along is None else along
        sizes = [int(n * factor) + more if d in space else n for d, n in enumerate(value.shape)]
        # nobody reads its numbers, and memory that nobody touches costs nothing
        return value.new_empty(sizes)

    args, kwargs = pytree.tree_map(scaled, (inputs.args, dict(inputs.kwargs)))
    return replace(inputs, args=args, kwargs=kwargs)


_stages = stages
_FLATTENS = ("aten::reshape", "aten::view", "aten::_unsafe_view")
_SIZES_TO_CAPTURE = 2
_OTHER_SIZES = (2, 0.5)
_UNIT = 32  # of images that can be halved five times
_SHOWN = 6


def _captured(
    trial: Trial, example_inputs: Any, layout: str | None, holds_frames: bool
) -> tuple[ExampleInputs, ExampleInputs, Capture]:
    """The inputs to show, those that the network was captured with, and the capture.

    Where a guessed size is one at which the model fixes its sizes (a position table of just that
    size), or takes a way that it takes at no other (that table as it is), other sizes are tried.
    """
    found: list[tuple[ExampleInputs, ExampleInputs, Capture]] = []
    for laid_out in find_inputs(trial, example_inputs, layout):
        inputs = replace(laid_out, holds_frames=holds_frames)
        read_at, captured = _with_batch(trial, inputs)
        if inputs.guessed and not _takes_this_way(captured, inputs):
            inputs = with_each_twice(inputs)  # of one image a user said nothing
        found.append((inputs, read_at, captured))
        follows = follows_the_input(captured) and (
            is_one_window(trial, inputs) or not _is_the_one_size(captured, read_at)
        )
        if captured.sizes != "symbolic" or follows:
            return found[-1]
        if len(found) == _SIZES_TO_CAPTURE:
            break
    return found[0]


def _is_the_one_size(captured: Capture, read_at: ExampleInputs) -> bool:
    """Whether the forward asks for a size (``if x.shape[2:] == self.table.shape[2:]``) it has."""
    asked = equalities(captured.decisions)
    for factor in _OTHER_SIZES if asked else ():
        other = _at_another_size(read_at, factor)
        probe = _probe_at(captured, pytree.tree_leaves((other.args, dict(other.kwargs))))
        if probe is None or decided_alike(asked, probe.symbols):
            return False
    return bool(asked)


def _with_batch(
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
