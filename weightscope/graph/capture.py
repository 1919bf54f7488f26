"""Run the model once on fake tensors and record what feeds what.

``torch.export`` gives the dataflow with symbolic sizes but forgets where module calls begin and
end. Forward hooks on a throw-away copy therefore pass every tensor that enters or leaves a module
call through an operator of our own, ``weightscope::boundary``; in the exported graph these
operators tell the span, the arguments and the results of every call.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import operator
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, is_dataclass, replace
from typing import Any, cast

import torch
from torch import fx, nn
from torch.export import Dim, ExportedProgram

from weightscope.adapters import pytree
from weightscope.adapters.boundary import BOUNDARY, marked
from weightscope.adapters.constants import Constants, constants_of, hold_constants
from weightscope.adapters.containers import Handed, hung_on
from weightscope.adapters.dispatch import FAKE_TENSOR_LOGGER
from weightscope.adapters.integers import in_multiples, whole_quotients
from weightscope.adapters.leftovers import nothing_left
from weightscope.adapters.modules import forward_hooks
from weightscope.adapters.numbers import free_numbers, planned
from weightscope.adapters.regions import write_back
from weightscope.adapters.rewriting import Rewriting
from weightscope.adapters.signals import FREE_POOLS, as_pools_of_signals
from weightscope.adapters.switches import quiet
from weightscope.adapters.symbols import hint, is_symbolic, is_unknown
from weightscope.adapters.texts import free_keys
from weightscope.adapters.tracing import (
    EXPORT_LOGGER,
    EXPORTING,
    IN_ORDER,
    SIZES_LOGGER,
    SQUEEZES,
    Budget,
    Failures,
    Names,
    TooComplexError,
    eagerly,
    lean,
    subclasses_left_out,
    unsolved_constraints,
    untold,
    watched_functions,
    without_numbers,
)
from weightscope.calls import random_state
from weightscope.copies import deep_copy
from weightscope.errors import StructureError, shown
from weightscope.graph.gradients import HooksAside
from weightscope.graph.layouts import is_image, sides_of
from weightscope.graph.nodes import argument, is_size, operator_of, tensor_of
from weightscope.graph.operators import facts
from weightscope.graph.pools import (
    FREE_DRAWS,
    FREE_SIZES,
    WHOLE_TRANSFORMS,
    FittedPads,
    grids_of_numpy,
)
from weightscope.graph.recurrence import WHOLE_RECURRENCES
from weightscope.graph.states import Rest
from weightscope.graph.structure import ExampleInputs, Sizes
from weightscope.graph.values import cannot_follow, where_raised
from weightscope.graph.writes import order_writes
from weightscope.restoring import Cleanup


@dataclass(frozen=True)
class Call:
    """One call of one submodule, or of one ``torch.autograd.Function``, in the exported graph.

    Attributes:
        module: Qualified name of the module; the name of the function.
        arguments: Flat arguments, as the tracer saw them.
        arguments_spec: How they fold back into (args, kwargs).
        results: Flat results.
        results_spec: How they fold back.
        entries: Boundary node of each tensor argument, by flat position.
        exits: Boundary node of each tensor result, by flat position.
        first: Position of the call's first node in the graph.
        last: Position of its last node.
        at_rest: Whether the module was set as before the forward, and its own hooks left the
            arguments as they were.
        function: The function; None where a module is called.
        changes: Whether it changed a list, a dict or an object that it was given, or that several
            modules hold.
    """

    module: str
    arguments: tuple[Any, ...]
    arguments_spec: pytree.TreeSpec
    results: tuple[Any, ...]
    results_spec: pytree.TreeSpec
    entries: Mapping[int, fx.Node]
    exits: Mapping[int, fx.Node]
    first: int
    last: int
    at_rest: bool
    function: Any = None
    changes: bool = False


Turned = tuple[tuple[int, tuple[str, int], bool], ...]
"""Numbers made of free sizes, the file and line that did, and whether it was a size as given."""


@dataclass(frozen=True)
class Capture:
    """The exported program, its nodes in order, and every module call with its span.

    ``sizes`` says which sizes were left free while tracing, ``too_complex`` whether the arithmetic
    of more of them was too much to follow, ``numbers`` whether those were kept free too that the
    forward makes numbers of, ``unit`` what the sizes of images are multiples of, along each of
    their axes (any size where it is empty), ``square`` whether they are one size.
    ``functions`` are the calls of what has a backward of its own.
    ``freer`` is the capture that keeps those free too, where it was tried and no more sizes of
    images are free in it; None where it failed.
    ``turned`` are the numbers that it made of free sizes; ``stopped`` says in which line of a
    forward the trace ended that kept them free, as " in FILE, line N: `CODE`", empty if it did not.
    ``decisions`` are the answers with which the forward went on that asked about free sizes, and
    what has to be true of a size of which it takes so many positions (``x[:, :, :64]``).
    """

    program: ExportedProgram
    nodes: tuple[fx.Node, ...]
    calls: tuple[Call, ...]
    functions: tuple[Call, ...]
    sizes: Sizes
    too_complex: bool = False
    numbers: bool = False
    unit: tuple[int, ...] = ()
    square: bool = False
    freer: tuple[Capture | None, ...] = ()
    decisions: Mapping[Any, Any] = field(default_factory=dict)
    turned: Turned = ()
    stopped: str = ""


@dataclass
class _Record:
    number: int
    module: str
    arguments: tuple[Any, ...]
    arguments_spec: pytree.TreeSpec
    at_rest: bool
    shared: list[Any]
    checks: int
    function: Any = None
    changes: bool = False
    results: tuple[Any, ...] = ()
    results_spec: pytree.TreeSpec | None = None


def throwaway_copy(
    model: nn.Module, tensors: Mapping[int, torch.Tensor] | None = None
) -> nn.Module:
    """Copy the module objects of a model, but not its weights.

    Args:
        model: The user's model; not changed.
        tensors: What stands for a tensor in the copy, by ``id``, and others are copied; by default
            every tensor itself.

    Returns:
        A deep copy that shares the weights of ``model`` or holds ``tensors`` in their place.

    Raises:
        StructureError: The model cannot be copied.
    """
    if tensors is None:
        tensors = {id(t): t for t in (*model.parameters(), *model.buffers())}
    try:
        return deep_copy(model, dict(tensors))
    except Exception as error:
        raise StructureError(
            f"{type(model).__name__} cannot be deep-copied ({_first_line(error)});"
            " weightscope traces a copy, so that the model stays as it is; make copy.deepcopy work"
        ) from error


def copy_in_mode(model: nn.Module, training: bool) -> nn.Module:
    """A throw-away copy in a mode, set by the model's own ``train``.

    What that may write into (it merges weights, or standardises them) is the copy's own.
    """
    own = {
        id(tensor)
        for module in model.modules()
        if getattr(module.train, "__func__", None) is not nn.Module.train
        for tensor in (*module.parameters(), *module.buffers())
    }
    tensors = (*model.parameters(), *model.buffers())
    copied = throwaway_copy(model, {id(t): t for t in tensors if id(t) not in own})
    copied.train(training)
    return copied


def capture(
    model: nn.Module,
    inputs: ExampleInputs,
    *,
    fixed: bool = False,
    training: bool = False,
    numbers: bool = False,
    unit: Sequence[int] = (),
    square: bool = False,
) -> Capture:
    """Export the model with the boundaries of all module calls.

    Sizes are symbolic where the model allows it; a model that fixes its sizes (position tables,
    windows) is captured at the example's own size. What is chosen depends on the model and the
    inputs alone, never on a clock.

    Args:
        model: The model.
        inputs: How it is called.
        fixed: Capture at the example's spatial size at once.
        training: Capture what it does in train mode.
        numbers: Keep free the sizes that the forward makes numbers of; other sizes are not tried.
        unit: What the sizes of images are multiples of, along each of their axes.
        square: Whether all sizes of an image are the same multiple.

    Raises:
        StructureError: ``torch.export`` cannot trace the model.
    """
    failures: list[str] = []
    too_complex, stopped = False, ""
    cause: Exception | None = None
    values: tuple[StructureError, Exception] | None = None
    attempts: tuple[Sizes, ...] = ("symbolic", "batch", "fixed")
    for sizes in attempts[fixed:][:1] if numbers else attempts[fixed:]:
        tracer = _Tracer(model, inputs, sizes, training, numbers, unit, square)
        try:
            captured = tracer.run()
            return replace(
                captured,
                too_complex=too_complex,
                stopped=stopped,
                numbers=numbers,
                unit=tuple(unit),
                square=square,
            )
        except Exception as error:  # noqa: BLE001 - whatever ends an attempt; the last one raises
            if tracer.budget.exceeded:
                too_complex = True
                failures.append(f"{sizes} sizes: too much arithmetic (at {tracer.where})")
                continue
            if (read := cannot_follow(error, model)) is not None:
                # what is read may be sizes in a tensor, which are numbers where sizes are
                values = values or (read, error)
                continue
            cause, stopped = error, stopped or where_raised(error)
            failures.append(f"{sizes} sizes: {_first_line(error)} (in {tracer.where})")
    if values:
        raise values[0] from values[1]
    given = (*inputs.args, *inputs.kwargs.values())
    if (held := next(filter(is_dataclass, given), None)) is not None:
        kind = type(held).__name__
        raise StructureError(
            f"{type(model).__name__} is given {kind}, a dataclass, in which tensors cannot be"
            f" followed. Pass a module that is given the tensors, and calls the network with"
            f" {kind}(...) of them"
        ) from cause
    raise StructureError(
        f"torch.export cannot trace {type(model).__name__}: " + "; ".join(failures) + ". A forward"
        " that keeps tensors between calls, or that calls code outside torch, is the usual cause:"
        " take it out of the forward, or pass the part of the network without it."
    ) from cause


def _first_line(error: BaseException) -> str:
    text = shown(error, str).strip()
    return f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__


class _Tracer:
    """One attempt to export one throw-away copy."""

    def __init__(
        self,
        model: nn.Module,
        inputs: ExampleInputs,
        sizes: Sizes,
        training: bool,
        numbers: bool,
        unit: Sequence[int],
        square: bool,
    ) -> None:
        self.constants, self.reading = constants_of(model), Constants(active=False)
        self.model = _as_module(copy_in_mode(model, training))
        self.args, self.kwargs = _apart(inputs)
        self.inputs = inputs
        self.sizes = sizes
        self.numbers = numbers
        self.unit, self.square = unit, square
        self.budget, self.names = Budget(), Names()
        self.records: list[_Record] = []
        self.open: list[tuple[_Record, Handed]] = []

    @property
    def where(self) -> str:
        return self.open[-1][0].module if self.open else "the model's own forward"

    def run(self) -> Capture:
        with EXPORTING, Cleanup() as hooks, random_state(), lean():
            hooks.enter_context(free_keys())
            hooks.enter_context(grids_of_numpy())
            hooks.enter_context(planned())
            hooks.enter_context(nothing_left(self.model))  # keys may be sizes
            # what an operator raises inside the trace is told by the error itself
            loggers = map(quiet, (EXPORT_LOGGER, FAKE_TENSOR_LOGGER, SIZES_LOGGER))
            for context in (without_numbers(), eagerly(), *loggers):
                hooks.enter_context(context)
            # the last is asked first: what is given sizes, then windows that are numbers
            sizes_given = FREE_POOLS, FREE_SIZES, FREE_DRAWS, FittedPads().table()
            others = HooksAside().table(), IN_ORDER, SQUEEZES
            rewriting = Rewriting(*others, *sizes_given, WHOLE_TRANSFORMS, WHOLE_RECURRENCES)
            for mode in (Failures(self.budget), rewriting):
                hooks.enter_context(mode)
            hooks.enter_context(watched_functions(self._function))
            hooks.enter_context(unsolved_constraints())
            hooks.enter_context(self.reading)
            hooks.enter_context(untold(self.model))
            hooks.enter_context(self.names)
            if self.numbers:
                hooks.enter_context(free_numbers(self.model))
            hooks.enter_context(warnings.catch_warnings())
            # recurrent layers cache their weights in the copy, which is thrown away
            warnings.filterwarnings("ignore", message="The tensor attribute")
            begin = self.model.register_forward_pre_hook(self._begin(hooks), with_kwargs=True)
            hooks.callback(begin.remove)
            hooks.callback(self.model.register_forward_hook(self._end).remove)
            for name, module in self.model.named_modules():
                if module is self.model:
                    continue
                hooks.enter_context(_called_by_forward(module))
                arrive, enter, leave = self._hooks(name, module)
                register = module.register_forward_pre_hook
                hooks.callback(register(arrive, with_kwargs=True, prepend=True).remove)
                hooks.callback(register(enter, with_kwargs=True).remove)
                hooks.callback(module.register_forward_hook(leave).remove)
            program = torch.export.export(
                self.model,
                self.args,
                self.kwargs,
                dynamic_shapes=_dynamic_shapes(
                    self.model, self.inputs, self.sizes, self.unit, self.square
                ),
                strict=False,
            )
        if self.budget.exceeded:
            raise TooComplexError
        if any(is_unknown(size) for node in program.graph.nodes for size in _sizes_of(node)):
            raise StructureError("a size comes from values of tensors")
        write_back(program)
        _mark_images(program, self.inputs)
        _count_from_the_start(program.graph)
        as_pools_of_signals(program.graph)
        order_writes(program.graph)
        spans = _with_spans(program, self.records, self.sizes)
        decisions = {**_held_by_operators(program), **self.budget.decisions}
        return replace(spans, decisions=decisions, turned=tuple(self.budget.turned))

    def _function(self, function: Any, run: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        flat, spec = pytree.tree_flatten((args, {}))
        number = len(self.records)
        name, shared = function.__name__, self.rest.shared()
        checks = self._noted()
        record = _Record(number, name, tuple(flat), spec, True, shared, checks, function)
        self.records.append(record)
        handed = _handed((args, {}), flat, spec, number, entry=True)
        self.open.append((record, handed))
        made = run(*handed.tree[0])
        while self._close() is not record:
            pass
        flat, spec = pytree.tree_flatten(made)
        record.results, record.results_spec = tuple(flat), spec
        return _handed(made, flat, spec, number, entry=False).tree

    def _close(self) -> _Record:
        """Note that the innermost open call is over; what it was given holds no marks any more."""
        record, handed = self.open.pop()
        changed, lost = handed.take_back()
        record.changes = changed or not self.rest.shared_is(record.shared)
        record.at_rest &= self._noted() == record.checks
        if lost:
            raise StructureError(
                f"{record.module} changes the {lost} that it is given; a change of such an object"
                " cannot be followed. Pass a list, a dict or a dataclass in its place, or return"
                " what is new"
            )
        return record

    def _noted(self) -> int:
        """Counts what a module is taken apart for.

        Not all images that are tried may pass its checks of values; a tensor of a subclass of
        somebody's own cannot be traced again.
        """
        return len(self.reading.checks) + subclasses_left_out()

    def _begin(self, hooks: Cleanup) -> Any:
        def begin(module: nn.Module, args: Any, kwargs: Any) -> None:
            hold_constants(module, self.constants)
            self.names.free()
            self.reading.active = True
            self.rest = Rest(self.model)
            leaves = pytree.tree_leaves((args, kwargs))
            if self.sizes == "symbolic":
                multiples = _multiples(leaves, self.inputs, self.unit, self.square)
                in_multiples((leaves[n].shape[d], *dim) for (n, d), dim in multiples.items())
            if self.sizes != "fixed":  # of the batch alone, too, numbers may be made
                hooks.enter_context(self.budget.watching(leaves, limited=self.sizes == "symbolic"))
                hooks.enter_context(whole_quotients(leaves))

        return begin

    def _end(self, module: nn.Module, args: Any, result: Any) -> Any:
        self.reading.active = False
        return pytree.opened(result)

    def _hooks(self, name: str, original: nn.Module) -> tuple[Any, Any, Any]:
        arrived: list[tuple[bool, list[Any]]] = []

        def arrive(module: nn.Module, args: Any, kwargs: Any) -> None:
            # before the model's own hooks, which may set the module or change its arguments; the
            # tracer calls with a stand-in of the module
            arrived.append((self.rest.holds(original), pytree.tree_leaves((args, kwargs))))

        def enter(module: nn.Module, args: Any, kwargs: Any) -> Any:
            flat, spec = pytree.tree_flatten((args, kwargs))
            number = len(self.records)
            at_rest, given = arrived.pop()
            at_rest = at_rest and list(map(id, given)) == list(map(id, flat))
            asked = _asked_for(original, flat)
            at_rest = at_rest and not asked
            for outer, _ in self.open if asked else ():  # given the same with it
                outer.at_rest &= asked.isdisjoint(_hung(outer.arguments))
            shared, checks = self.rest.shared(), self._noted()
            record = _Record(number, name, tuple(flat), spec, at_rest, shared, checks)
            self.records.append(record)
            handed = _handed((args, kwargs), flat, spec, number, entry=True)
            self.open.append((record, handed))
            return handed.tree

        def leave(module: nn.Module, args: Any, result: Any) -> Any:
            while (closed := self._close()).module != name:
                pass  # calls that the model abandoned by an exception of its own
            flat, spec = pytree.tree_flatten(result)
            closed.results, closed.results_spec = tuple(flat), spec
            return _handed(result, flat, spec, closed.number, entry=False).tree

        return arrive, enter, leave


@contextmanager
def _called_by_forward(module: nn.Module) -> Iterator[None]:
    """Let ``module.forward(x)`` be seen as the call that ``module(x)`` is.

    Not where it differs: the module has hooks of its own, which ``forward`` alone passes by.
    """
    own = "forward" in vars(module) or isinstance(module, torch.jit.ScriptModule)
    if own or any(forward_hooks(module)):
        yield
        return
    entered: list[bool] = []
    original = module.forward

    def enter(module: nn.Module, args: Any) -> None:
        entered.append(True)

    @functools.wraps(original)
    def forward(*args: Any, **kwargs: Any) -> Any:
        if entered:
            entered.pop()
            return original(*args, **kwargs)
        return module(*args, **kwargs)

    removed = module.register_forward_pre_hook(enter)
    vars(module)["forward"] = forward
    try:
        yield
    finally:
        del vars(module)["forward"]
        removed.remove()


def _handed(
    tree: Any, flat: list[Any], spec: pytree.TreeSpec, number: int, *, entry: bool
) -> Handed:
    """Arguments or results of a call with marks in the place of their tensors."""
    return Handed(tree, pytree.tree_unflatten(marked(flat, number, entry=entry), spec))


def _hung(values: Iterable[Any]) -> set[tuple[str, int]]:
    """Names and identities of what is set as an attribute of some tensors."""
    tensors = [value for value in values if isinstance(value, torch.Tensor)]
    return {(name, id(held)) for tensor in tensors for name, held in hung_on(tensor).items()}


def _asked_for(module: nn.Module, given: Iterable[Any]) -> set[tuple[str, int]]:
    """What of that a module's own forward names: its arguments alone do not tell what it does."""
    names = getattr(getattr(type(module).forward, "__code__", None), "co_names", ())
    return {(name, held) for name, held in _hung(given) if name in names}


def _sizes_of(node: fx.Node) -> tuple[Any, ...]:
    value = node.meta.get("val")
    return tuple(value.shape) if isinstance(value, torch.Tensor) else ()


def _as_module(model: nn.Module) -> nn.Module:
    """A traced model as any other: ``torch.export`` runs a graph without calling its hooks."""
    if not isinstance(model, fx.GraphModule):
        return model
    kind: Any = type(type(model).__name__, (nn.Module,), {"forward": type(model).forward})
    made: nn.Module = kind.__new__(kind)
    vars(made).update(vars(model))
    return made


def _apart(inputs: ExampleInputs) -> tuple[Any, Any]:
    """The arguments, with a tensor of its own for each.

    Export ties together what is one object, and marks on tensors which sizes were free.
    """

    def own(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        return value.detach().requires_grad_(value.requires_grad)

    return cast(tuple[Any, Any], pytree.tree_map(own, (inputs.args, dict(inputs.kwargs))))


def _multiples(
    leaves: Sequence[Any], inputs: ExampleInputs, unit: Sequence[int], square: bool
) -> dict[tuple[int, int], tuple[int, str]]:
    """How many times which dimension each size of an image is, by leaf and axis."""
    images = [place for place, leaf in enumerate(leaves) if is_image(leaf, inputs)]
    return {
        (place, axis): (times, f"size_{place}" if square else f"size_{place}_{axis}")
        for place in images
        for axis, times in zip(inputs.space, unit, strict=bool(unit))
    }


def _dynamic_shapes(
    model: nn.Module, inputs: ExampleInputs, sizes: Sizes, unit: Sequence[int], square: bool
) -> Any:
    """Which sizes of each argument may vary: all but the channels, unless ``sizes`` says less."""
    leaves = pytree.tree_leaves((inputs.args, dict(inputs.kwargs)))
    multiples = _multiples(leaves, inputs, unit, square)
    places = itertools.count()

    def free(place: int, axis: int) -> Any:
        if (place, axis) not in multiples:
            return Dim.AUTO
        times, name = multiples[place, axis]
        return times * Dim(name, min=1)

    def spec(value: Any) -> Any:
        place = next(places)
        if not isinstance(value, torch.Tensor) or sizes == "fixed":
            return None
        vary = range(value.dim()) if sizes == "symbolic" else range(min(1, value.dim()))
        sides = sides_of(value, inputs)
        channels = inputs.channels if sides else 1
        # a number in a tensor has none, and an empty dict would be left out below
        held = {channels} if value.dim() > 2 else set()
        if sides:
            held |= {inputs.held, *inputs.holds}
        elif inputs.holds_others:
            held = set(range(1, value.dim()))
        return {axis: free(place, axis) for axis in vary if axis not in held} or None

    args, kwargs = pytree.tree_map(
        spec, pytree.foreign_as_lists((inputs.args, dict(inputs.kwargs)))
    )
    return None if sizes == "fixed" else _by_parameter(model, args, kwargs)


def _by_parameter(model: nn.Module, args: Any, kwargs: Any) -> Any:
    """What is said of each argument, under the name of the parameter that takes it."""
    parameters = list(inspect.signature(model.forward).parameters.values())
    named: dict[str, Any] = {}
    position = 0
    for parameter in parameters:
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            named[parameter.name] = tuple(args[position:])
            position = len(args)
        elif parameter.kind is inspect.Parameter.VAR_KEYWORD:
            known = {p.name for p in parameters}
            named[parameter.name] = {k: v for k, v in kwargs.items() if k not in known}
        elif position < len(args):
            named[parameter.name] = args[position]
            position += 1
        elif parameter.name in kwargs:
            named[parameter.name] = kwargs[parameter.name]
    return {
        name: shapes for name, shapes in named.items() if shapes not in ((), {}) or shapes is None
    }


def _mark_images(program: ExportedProgram, inputs: ExampleInputs) -> None:
    """Note on every image input where its sizes and frames lie, and which one counts the images."""
    users = set(program.graph_signature.user_inputs)
    weights = program.graph_signature.inputs_to_parameters.keys()
    given = [
        node
        for node in program.graph.nodes
        if node.op == "placeholder" and node.name in users and tensor_of(node) is not None
    ]
    ranked = [node for node in given if is_image(node.meta["val"], inputs)]
    images = [n for n in ranked if not _has_features_last(n, inputs, weights)] or ranked
    for node in given:
        node.meta["space"] = inputs.space if node in images else ()
        node.meta["frames"] = inputs.frames if node in images else None
    for node in images[:1]:
        node.meta["counts"] = True


def _has_features_last(node: fx.Node, inputs: ExampleInputs, weights: Collection[str]) -> bool:
    """Whether an input has features along an axis that is a side of an image.

    The first layers that it meets mix its last axis, as they do with vectors beside an image, of
    texts or templates.

    Args:
        node: The input.
        inputs: How the model is called.
        weights: Names of the nodes that hold weights.
    """
    first: set[str | None] = set()
    seen, waiting = {node}, [node]
    while waiting:
        given = waiting.pop()
        for user in given.users:
            row = facts(operator_of(user))
            factors = [str(factor) for factor in user.args[:2]] if row.view == "product" else []
            is_linear = factors[:1] == [given.name] and factors[1] in weights
            if row.layout or row.kernel:
                first.add("channels_last" if is_linear else row.layout)
            elif user not in seen and not is_size(user):
                seen.add(user)
                waiting.append(user)
    return inputs.rank - 1 in inputs.space and first == {"channels_last"}


def images_read(captured: Capture) -> int | None:
    """How many images the graph holds for; None for any number."""
    for node in captured.nodes:
        if node.meta.get("counts"):
            size = node.meta["val"].shape[0]
            return None if is_symbolic(size) else int(size)
    return None


def frames_read(captured: Capture) -> int | None:
    """How many frames of a clip the graph holds for; None for any number, and of no clip."""
    for node in captured.nodes:
        if (axis := node.meta.get("frames")) is not None:
            size = node.meta["val"].shape[axis]
            return None if is_symbolic(size) else int(size)
    return None


def _count_from_the_start(graph: fx.Graph) -> None:
    """Let slices end at a position where they end at a free number of positions before the last.

    ``x[..., d // 2 : -(d - d // 2)]`` leaves nothing where d is 0, which forwards ask for
    (``if d:``) to leave all. At a position, the one slice leaves all there.
    """
    for node in graph.nodes:
        end = argument(node, "end") if operator_of(node) == "aten::slice" else None
        before = end.meta["val"] if isinstance(end, fx.Node) else 0
        if not is_symbolic(before) or hint(before) >= 0:
            continue
        given, axis = node.args[0], argument(node, "dim")
        with graph.inserting_before(node):
            size = graph.call_function(torch.ops.aten.sym_size.int, (given, axis))
            size.meta["val"] = given.meta["val"].shape[axis]
            position = graph.call_function(operator.add, (size, end))
            position.meta["val"] = size.meta["val"] + before
        node.replace_input_with(end, position)


def _held_by_operators(program: ExportedProgram) -> dict[Any, Any]:
    """That free sizes are as large as the fixed number of positions that slices take of them.

    A slice takes what there is of a smaller image, and the numbers computed from it are others.
    What takes positions one by one, or so many at once, takes as many as there were.
    """
    found: dict[Any, Any] = {}
    for node in program.graph.nodes:
        if operator_of(node) in ("aten::unbind", "aten::split"):
            size = 1 if operator_of(node) == "aten::unbind" else argument(node, "split_size")
            whole, parts = node.args[0].meta["val"].shape[argument(node, "dim")], node.meta["val"]
            if is_symbolic(whole) and isinstance(size, int):
                expression, taken = whole.node.expr, size * len(parts)
                found |= {expression > taken - size: True, expression <= taken: True}
        made = tensor_of(node)
        if made is None or operator_of(node) not in ("aten::slice", "aten::narrow"):
            continue
        given, axis, start = tensor_of(node.args[0]), argument(node, "dim"), argument(node, "start")
        whole, part = (t.shape[axis] for t in (given, made) if t is not None)
        first = 0 if start is None else start
        if axis and is_symbolic(whole) and isinstance(part, int) and isinstance(first, int):
            found[whole.node.expr >= max(first, 0) + part] = True
    return found


def _with_spans(
    program: ExportedProgram,
    records: list[_Record],
    sizes: Sizes,
) -> Capture:
    nodes = tuple(program.graph.nodes)
    entries: dict[int, dict[int, tuple[int, fx.Node]]] = {}
    exits: dict[int, dict[int, tuple[int, fx.Node]]] = {}
    for index, node in enumerate(nodes):
        if node.target is BOUNDARY:
            call, entry, position = cast(tuple[int, bool, int], node.args[1:])
            (entries if entry else exits).setdefault(call, {})[position] = (index, node)
    calls = []
    for number, record in enumerate(records):
        first, last = entries.get(number), exits.get(number)
        if not first or not last or record.results_spec is None:
            continue
        calls.append(
            Call(
                module=record.module,
                arguments=record.arguments,
                arguments_spec=record.arguments_spec,
                results=record.results,
                results_spec=record.results_spec,
                entries={position: node for position, (_, node) in first.items()},
                exits={position: node for position, (_, node) in last.items()},
                first=min(index for index, _ in first.values()),
                last=max(index for index, _ in last.values()),
                at_rest=record.at_rest,
                function=record.function,
                changes=record.changes,
            )
        )
    functions = tuple(call for call in calls if call.function is not None)
    modules = tuple(call for call in calls if call.function is None)
    return Capture(program, nodes, modules, functions, sizes)
