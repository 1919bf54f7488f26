"""Settings of the tracer of ``torch.export`` that have no public switch."""

from __future__ import annotations

import functools
import gc
import inspect
import os
import sys
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.distributions import Distribution
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import CheckpointFunction

from weightscope.adapters import pytree
from weightscope.adapters.constants import asking_line
from weightscope.adapters.dispatch import FakeTensor
from weightscope.adapters.rewriting import Table
from weightscope.adapters.shapes import places_of_shapes
from weightscope.adapters.switches import Shared, module_named
from weightscope.adapters.symbols import hint
from weightscope.restoring import Cleanup, finished

EXPORT_LOGGER = "torch._export.non_strict_utils"
"""Reports every call that the tracer meets and does not expect."""

SIZES_LOGGER = "torch.fx.experimental.symbolic_shapes"
"""Reports every size that is read from a tensor's values."""


# Arithmetic on window sizes can grow without bound. Ordinary networks ask up to 50 questions about
# their sizes, of up to 54 operations; windows in all blocks of a large one up to 200. The limits
# count nothing that a slow or busy machine could change.
MOST_QUESTIONS = 400
LARGEST_QUESTION = 150
_TORCH = os.path.dirname(torch.__file__) + os.sep
_SIZES_OF_TORCH = (torch.__file__, os.path.join(_TORCH, "fx", "experimental") + os.sep)
_MIN_OR_MAX = "_tensor_min_max"  # what the tracer puts in the place of Python's min and max
_NEVER = 2**31 - 1
_NOTES, _CACHE = "do_not_emit_stack_traces", "fake_tensor_cache_enabled"


# torch.export keeps settings of the whole process while it traces, and turns oneDNN off: two
# threads that put it back in the order in which they came would leave it off. A fork waits, since
# its child would wait for a thread that it does not have.
EXPORTING = threading.RLock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=EXPORTING.acquire,
        after_in_parent=EXPORTING.release,
        after_in_child=EXPORTING.release,
    )


def _in_order(go_on: Callable[..., Any], tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
    given = dict(zip(("memory_format",), args, strict=False), **kwargs)
    return torch.ops.aten.contiguous.default(tensor, **given)


IN_ORDER: Table = {Tensor.contiguous: _in_order}
"""Traces ``contiguous`` also where a tensor lies in order: of one image it may lie otherwise."""


def _asking(go_on: Callable[..., Any], tensor: Tensor, *dims: Any, **named: Any) -> Any:
    asked = dims or tuple(named.values()) or range(tensor.dim())
    for dim in pytree.tree_leaves(asked):
        size = tensor.shape[dim] if isinstance(dim, int) and tensor.dim() else 0
        if isinstance(size, torch.SymInt) and hint(size) == 1:
            bool(size == 1)  # a decision, of which torch tells nobody
    return go_on(tensor, *dims, **named)


SQUEEZES: Table = dict.fromkeys((torch.squeeze, Tensor.squeeze, Tensor.squeeze_), _asking)
"""Notes which free sizes have to be one for an axis to be taken off."""


@contextmanager
def lean() -> Iterator[None]:
    """Trace without what costs more than it gives.

    The tracer notes where in Python each node was made (a tenth of its time; torch 2.9 has no
    switch for it), and keeps a cache of fake results that does not pay where sizes are symbolic.
    A torch without these switches traces as it does by itself.
    """
    config = module_named("torch.fx.config")
    notes = getattr(config, _NOTES, None)
    dynamo = module_named("torch._dynamo.config")
    uncached = hasattr(dynamo, _CACHE)
    try:
        if notes is not None:
            setattr(config, _NOTES, True)
        cache = dynamo.patch({_CACHE: False}) if uncached else nullcontext()
        with cache, _SUMMARIES.on(), _WEIGHTS.on():
            yield
    finally:
        if notes is not None:
            setattr(config, _NOTES, notes)


class TooComplexError(Exception):
    """The arithmetic on free sizes outgrew its limits."""


class Budget:
    """Stops a trace whose arithmetic on sizes outgrows its limits, whatever time that takes.

    Attributes:
        exceeded: Whether a limit was passed; the tracer may swallow the error that says so.
        turned: Numbers that the forward made of free sizes, the file and line that did, and whether
            it was a size as it is given.
        decisions: What the forward itself asked about free sizes, with the answers that it went on
            with; not what torch asks to find out what comes out of its operators, but where one
            raises: a forward that goes on then takes that way because of the answers.
    """

    def __init__(self) -> None:
        self.exceeded = False
        self.turned: list[tuple[int, tuple[str, int], bool]] = []
        self.decisions: dict[Any, Any] = {}
        self.within: dict[Any, Any] = {}  # asked by the operator that runs

    @contextmanager
    def watching(self, arguments: Any, *, limited: bool) -> Iterator[None]:
        """Watch the sizes of the tensors among a traced forward's arguments.

        Args:
            arguments: The arguments, and whatever is among them.
            limited: Whether the trace ends at the limits; of the number of images alone, few
                questions are asked, and there is no shorter trace.
        """
        env = next((t.fake_mode.shape_env for t in arguments if isinstance(t, FakeTensor)), None)
        if env is None or not hasattr(env, "evaluate_expr"):  # another version of torch
            yield
            return
        ask, seen = env.evaluate_expr, set()

        def evaluate(question: Any, *args: Any, **kwargs: Any) -> Any:
            if question not in seen:
                seen.add(question)
                size = question.count_ops() if hasattr(question, "count_ops") else 0
                too_much = size > LARGEST_QUESTION or len(env.guards) > MOST_QUESTIONS
                self.exceeded |= limited and too_much
            if self.exceeded:
                raise TooComplexError
            answer = self.within[question] = ask(question, *args, **kwargs)
            truth = getattr(answer, "is_Boolean", isinstance(answer, bool))
            if _asked_by_a_forward(truth) and question not in self.decisions:
                self.decisions[question] = answer
                given = bool(getattr(question, "is_Symbol", False))
                self.turned += [] if truth else [(int(answer), asking_line(), given)]
            return answer

        vars(env)["evaluate_expr"] = evaluate
        try:
            yield
        finally:
            del vars(env)["evaluate_expr"]


class Failures(TorchFunctionMode):
    """Notes what an operator had asked about free sizes when it raised.

    Args:
        budget: Keeps the answers.
    """

    def __init__(self, budget: Budget) -> None:
        super().__init__()
        self.budget = budget

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.budget.within.clear()
        try:
            return func(*args, **(kwargs or {}))
        except Exception:
            self.budget.decisions.update(self.budget.within)
            raise


def _asked_by_a_forward(truth: bool) -> bool:
    """Whether code outside torch wanted a number or a truth value of a free size.

    Numbers are also wanted by operators: what they take as one stays so in the graph. Truth values
    they want for themselves, as of a layout, and the graph holds the operator.
    """
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and (
        frame.f_code.co_filename.startswith(_SIZES_OF_TORCH) or frame.f_code.co_name == _MIN_OR_MAX
    ):
        frame = frame.f_back
    if frame is None or frame.f_code.co_filename.startswith(_TORCH):
        return False
    by_operator = frame.f_code.co_name == "__torch_function__"
    return not (truth and by_operator)


class _Asked(int):
    """What is true, and notes which foreign line asks whether it is."""

    def __bool__(self) -> bool:
        asked = _ASKED.get(threading.get_ident())
        code = sys._getframe(1)
        if asked is not None and not code.f_code.co_filename.startswith(_TORCH):
            asked.add((code.f_code.co_filename, code.f_lineno))
        return True


_ASKED: dict[int, set[tuple[str, int]]] = {}
"""File and line of what asked, in a thread, whether it is traced."""


@contextmanager
def _as_exported() -> Iterator[None]:
    flags = ("_is_compiling_flag", "_is_exporting_flag")
    before = {
        flag: getattr(torch.compiler, flag) for flag in flags if hasattr(torch.compiler, flag)
    }
    for flag in before:
        setattr(torch.compiler, flag, _Asked(True))
    try:
        yield
    finally:
        finished(*(partial(setattr, torch.compiler, flag, old) for flag, old in before.items()))


@contextmanager
def _old_garbage_waits() -> Iterator[None]:
    """Look for cycles among new objects only.

    Old ones are those of torch and of the user, and the nodes of the trace, which are all kept: to
    look through them again and again takes up to a quarter of the time.
    """
    new, young, old = gc.get_threshold()
    gc.set_threshold(new, young, _NEVER)
    try:
        yield
    finally:
        finished(lambda: gc.set_threshold(*gc.get_threshold()[:2], old))


_EAGER = Shared(lambda: torch.compiler.set_stance("force_eager"))
_TRIAL = Shared(_as_exported)
_GARBAGE = Shared(_old_garbage_waits)


@contextmanager
def old_garbage_waits() -> Iterator[None]:
    """Make less of a search for garbage, for what runs on tensors that hold no memory."""
    with _GARBAGE.on():
        yield


def eagerly() -> AbstractContextManager[None]:
    """Run what ``torch.compile`` compiled as it was written: fake tensors crash the compiler."""
    return _EAGER.on()


@contextmanager
def as_exported(asked: set[tuple[str, int]] | None = None) -> Iterator[None]:
    """Let ``torch.compiler.is_compiling()`` say what it will say while the model is traced.

    Args:
        asked: Where file and line are noted of what asks, in this thread, outside of torch.
    """
    mine = threading.get_ident()
    with _TRIAL.on():
        if asked is not None:
            _ASKED[mine] = asked
        try:
            yield
        finally:
            _ASKED.pop(mine, None)


_TRACING: set[int] = set()
"""Threads in which a forward runs without numbers."""


@contextmanager
def _passing_checkpoints() -> Iterator[None]:
    original = CheckpointFunction.apply

    def apply(run: Any, preserve_rng_state: bool, *args: Any) -> Any:
        if threading.get_ident() in _TRACING:
            return run(*args)
        return original(run, preserve_rng_state, *args)  # type: ignore[no-untyped-call]

    CheckpointFunction.apply = apply  # type: ignore[method-assign]
    try:
        yield
    finally:
        del CheckpointFunction.apply


Watch = Callable[[type, Callable[..., Any], tuple[Any, ...]], Any]
_WATCHED: dict[int, Watch] = {}
"""What runs the forwards of functions with a backward of their own that a thread traces."""


_OF_HOOKS = "torch.nn.modules._functions"


@contextmanager
def _watching_functions() -> Iterator[None]:
    base: Any = torch.autograd.Function
    kind: Any = type(base)
    last = threading.local()

    def look_up(function: type, name: str) -> Any:
        """``apply``, which may have been taken from the class long ago, looks these up in turn."""
        found = type.__getattribute__(function, name)
        watch = _WATCHED.get(threading.get_ident())
        if watch is None or name not in ("_backward_cls", "forward", "setup_context"):
            return found
        if function.__module__ == _OF_HOOKS:  # torch applies it where a module has a hook
            return found
        before = getattr(last, "looked_up", None)
        if name == "setup_context":
            # it may be given what stands for an argument, where an argument itself is asked for
            keeps = before == (function, "forward") and found is not base.setup_context
            return _keep_nothing if keeps else found
        last.looked_up = (function, name)
        applied = name == "forward" and before == (function, "_backward_cls")
        return _watched(function, found, watch) if applied else found

    kind.__getattribute__ = look_up
    try:
        yield
    finally:
        del kind.__getattribute__


def _watched(function: Any, forward: Callable[..., Any], watch: Watch) -> Callable[..., Any]:
    def run(*args: Any) -> Any:
        own = args[:1] if args and isinstance(args[0], FunctionCtx) else ()
        with _Unswitched():
            made = watch(function, partial(forward, *own), args[len(own) :])
        for context in own:
            context.dirty_tensors = None  # it must name arguments, not what stands for them
        return made

    return run


def _keep_nothing(context: Any, inputs: Any, output: Any) -> None:
    """Stands for the ``setup_context`` of a function whose backward does not run."""


class _Unswitched(TorchFunctionMode):
    """Keeps switches of autograd inside of a function out of the trace.

    Autograd is off there in any case, and what follows would stay off in the graph.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        switches = func is getattr(torch._C, "_set_grad_enabled", None)
        outside = getattr(torch._C, "DisableTorchFunction", None)
        with outside() if switches and outside is not None else nullcontext():
            return func(*args, **(kwargs or {}))


@contextmanager
def watched_functions(watch: Watch) -> Iterator[None]:
    """Run the forwards of all functions with a backward of their own, of this thread, by a watch.

    Args:
        watch: Called with the ``torch.autograd.Function``, with what runs its forward, and with the
            arguments of the forward; returns what the forward returns.
    """
    mine = threading.get_ident()
    with _FUNCTIONS.on():
        _WATCHED[mine] = watch
        try:
            yield
        finally:
            del _WATCHED[mine]


class _Validates:
    """The class attribute by which a distribution checks the values of its arguments."""

    def __init__(self, otherwise: bool) -> None:
        self.otherwise = otherwise

    def __get__(self, distribution: object, kind: type | None = None) -> bool:
        return threading.get_ident() not in _TRACING and self.otherwise


@contextmanager
def _unvalidated() -> Iterator[None]:
    if not hasattr(Distribution, "_validate_args"):  # another version of torch
        yield
        return
    setting = _Validates(Distribution._validate_args)
    Distribution._validate_args = setting  # type: ignore[assignment]
    try:
        yield
    finally:
        if vars(Distribution)["_validate_args"] is setting:  # not changed in the meantime
            Distribution._validate_args = setting.otherwise


@contextmanager
def _by_shape() -> Iterator[None]:
    """Shapes of what torch by itself takes apart into ten and more operations to know them.

    Normalising and resizing took half the time of a reading.
    """

    def shaped(original: Any, shapes: Any) -> Any:
        @functools.wraps(original)
        def called(input: Any, *args: Any, **kwargs: Any) -> Any:
            numbers = isinstance(input, Tensor) and (
                input.is_floating_point() or input.is_complex()
            )
            whole = isinstance(input, Tensor) and not numbers
            mine = threading.get_ident() in _TRACING and not whole
            made = shapes(input, *args, **kwargs) if mine else NotImplemented
            return original(input, *args, **kwargs) if made is NotImplemented else made

        return called

    places = list(places_of_shapes())
    originals = [table[name] for table, name, _ in places]
    for (table, name, shapes), original in zip(places, originals, strict=True):
        table[name] = shaped(original, shapes)
    try:
        yield
    finally:
        for (table, name, _), original in zip(places, originals, strict=True):
            table[name] = original


_CONTIGUITY = ("is_contiguous", "is_channels_last_contiguous_2d", "is_channels_last_contiguous_3d")
_LAYOUTS: weakref.WeakKeyDictionary[Any, dict[Any, bool]] = weakref.WeakKeyDictionary()
"""Answers about layouts in each trace, by question, sizes and strides."""


def _expression(size: Any) -> Any:
    return size.node.expr if isinstance(size, torch.SymInt) else size


def _lies_in_order(sizes: Sequence[Any], strides: Sequence[Any]) -> bool:
    """Whether each stride is written as the product of the sizes behind it.

    Then it is so for all sizes, and none have to be compared. Of what may have none torch writes
    the larger of one and the size.
    """
    larger: Any = getattr(module_named("torch.utils._sympy.functions"), "Max", max)
    one: Any = module_named("sympy").Integer(1)
    behind: tuple[Any, ...] = (1,)
    for size, stride in zip(reversed(sizes), reversed(strides), strict=True):
        if stride not in behind:
            return False
        some = max(size, 1) if isinstance(size, int) else larger(one, size)
        behind = stride * size, stride * some
    return True


@contextmanager
def _asked_once() -> Iterator[None]:
    """Ask once in a trace how tensors of the same free sizes and strides lie in memory.

    torch asks at every operator, in a dozen comparisons of sizes: up to a seventh of the time.
    """

    def remembered(name: str, original: Any) -> Any:
        @functools.wraps(original)
        def asked(tensor: Any, *args: Any, **kwargs: Any) -> Any:
            mode = getattr(tensor, "fake_mode", None)
            env = None if mode is None else mode.shape_env
            if env is None or threading.get_ident() not in _TRACING:
                return original(tensor, *args, **kwargs)
            sizes, strides = ([*map(_expression, of)] for of in (tensor.shape, tensor.stride()))
            key = name, args, *kwargs.values(), *sizes, *strides
            known = _LAYOUTS.setdefault(env, {})
            if key not in known:
                shown = name == "is_contiguous" and _lies_in_order(sizes, strides)
                known[key] = shown or original(tensor, *args, **kwargs)
            return known[key]

        return asked

    room = getattr(module_named("torch._prims_common"), "__dict__", {})
    originals = {name: room[name] for name in _CONTIGUITY if name in room}
    room.update({name: remembered(name, original) for name, original in originals.items()})
    try:
        yield
    finally:
        room.update(originals)


@contextmanager
def _in_place_of(
    module: str, name: str, replace: Callable[[Callable[..., Any]], Callable[..., Any]]
) -> Iterator[None]:
    """Put another function in the place of one of torch's, which a version may lack."""
    place = module_named(module)
    original: Any = getattr(place, name, None)
    if original is None:
        yield
        return
    setattr(place, name, replace(original))
    try:
        yield
    finally:
        setattr(place, name, original)


def _no_summary(original: Callable[..., Any]) -> Callable[..., Any]:
    """Keep the tracer from noting a summary beside every tensor, which took a tenth of its time."""

    def summary(*args: Any, **kwargs: Any) -> Any:
        return None if threading.get_ident() in _TRACING else original(*args, **kwargs)

    return summary


def _unseen(original: Callable[..., Any]) -> Callable[..., Any]:
    """Let no mode look on while weights lose their numbers, which took a seventh of the time."""

    def made(*args: Any, **kwargs: Any) -> Any:
        mine = threading.get_ident() in _TRACING
        with torch._C.DisableTorchFunction() if mine else nullcontext():
            return original(*args, **kwargs)

    return made


@contextmanager
def _within_range() -> Iterator[None]:
    """Refuse places that an axis does not have; torch 2.9 takes them where no numbers are."""
    fakes = getattr(module_named("torch._subclasses.fake_impls"), "op_implementations_dict", {})
    operator = torch.ops.aten.select.int
    original = fakes.get(operator)
    if original is None:  # another version of torch
        yield
        return

    def select(mode: Any, func: Any, given: Tensor, dim: int, index: Any) -> Any:
        if threading.get_ident() in _TRACING and given.dim():
            false: Any = module_named("torch.fx.experimental.symbolic_shapes").guard_or_false
            size = given.shape[dim]
            if false(index >= size) or false(index < -size):
                raise IndexError(f"place {index} of axis {dim}, whose size is {size}")
        return original(mode, func, given, dim, index)

    fakes[operator] = select
    try:
        yield
    finally:
        fakes[operator] = original


@contextmanager
def _devices_known() -> Iterator[None]:
    """Ask once whether there is a GPU.

    torch does so with every tensor that holds no numbers, and where Lightning is imported it loads
    the driver's library each time: an eighth of the time of a reading.
    """
    original = torch.cuda.is_available
    known = functools.cache(original)
    torch.cuda.is_available = known
    try:
        yield
    finally:
        if torch.cuda.is_available is known:  # nobody replaced it in the meantime
            torch.cuda.is_available = original


_CHECKPOINTS = Shared(_passing_checkpoints)
_FUNCTIONS = Shared(_watching_functions)
_SUMMARIES = Shared(
    partial(
        _in_place_of,
        "torch.fx.experimental.proxy_tensor",
        "_extract_tensor_metadata",
        _no_summary,
    )
)
_WEIGHTS = Shared(partial(_in_place_of, "torch.export._trace", "_fakify_params_buffers", _unseen))
_VALIDATION = Shared(_unvalidated)
_DECOMPOSED = Shared(_by_shape)
_ASKED_ONCE = Shared(_asked_once)
_WITHIN_RANGE = Shared(_within_range)
_DEVICES = Shared(_devices_known)


@contextmanager
def _no_subclasses() -> Iterator[None]:
    """Leave out the subclass that a forward makes a tensor an object of; its numbers are the same.

    A library may have put a method of its own, or a function, in the place of torch's.
    """
    places = [(Tensor, "as_subclass"), (Tensor, "_make_subclass"), (torch, "as_subclass")]

    def passing(original: Any) -> Any:
        def as_it_is(*given: Any, **kwargs: Any) -> Any:
            tensor = next((value for value in given if isinstance(value, Tensor)), None)
            kind = next((value for value in given if isinstance(value, type)), Tensor)
            foreign = tensor is not None and kind.__module__.partition(".")[0] != "torch"
            mine = foreign and threading.get_ident() in _TRACING
            if not mine:
                return original(*given, **kwargs)
            _LEFT_OUT[threading.get_ident()] += 1
            return tensor

        return as_it_is

    with Cleanup() as stack:
        for holder, name in places:
            if (original := getattr(holder, name, None)) is None:
                continue
            if name in vars(holder):
                stack.callback(setattr, holder, name, vars(holder)[name])
            else:
                stack.callback(delattr, holder, name)
            replaced = passing(original)
            setattr(holder, name, staticmethod(replaced) if name[0] == "_" else replaced)
        yield


_SUBCLASSES = Shared(_no_subclasses)
_LEFT_OUT: Counter[int] = Counter()


def subclasses_left_out() -> int:
    """How often a tensor was left as it is in this thread, of which a forward made another."""
    return _LEFT_OUT[threading.get_ident()]


@contextmanager
def without_numbers() -> Iterator[None]:
    """Let a forward run on tensors without numbers, in this thread.

    Checkpointed functions are called directly, since they run without autograd otherwise; tensors
    stay as they are where they are made objects of a subclass; distributions do not check the
    values of their arguments; of what normalises and resizes only the shape is computed.
    """
    mine = threading.get_ident()
    shared = (
        *(_CHECKPOINTS, _SUBCLASSES, _VALIDATION, _DEVICES),
        *(_DECOMPOSED, _ASKED_ONCE, _WITHIN_RANGE),
    )
    with Cleanup() as switches:
        for switch in shared:
            switches.enter_context(switch.on())
        _TRACING.add(mine)
        try:
            yield
        finally:
            _TRACING.discard(mine)


@contextmanager
def unsolved_constraints() -> Iterator[None]:
    """Keep the tracer from solving, in this thread, which sizes its guards allow.

    It does so for a message to the user that is not shown here, and cannot solve all of them. The
    guards themselves stay.
    """
    shapes = module_named("torch.fx.experimental.symbolic_shapes")  # imports sympy: slow
    solver: Any = getattr(shapes, "DimConstraints", None)
    if not hasattr(solver, "solve"):  # another version of torch
        yield
        return
    original, mine = solver.solve, threading.get_ident()

    def solve(constraints: Any, *args: Any, **kwargs: Any) -> Any:
        if threading.get_ident() != mine:
            return original(constraints, *args, **kwargs)
        return None

    solver.solve = solve
    try:
        yield
    finally:
        solver.solve = original


class Names:
    """Lets modules be called with arguments of any name while a forward is traced.

    What the tracer puts in the place of ``Module.__call__`` takes the module by a name that a
    forward may give an argument of its own.
    """

    def __enter__(self) -> Names:
        self._original = nn.Module.__call__
        return self

    def __exit__(self, *_: object) -> None:
        nn.Module.__call__ = self._original  # type: ignore[method-assign]

    def free(self) -> None:
        """Do so, now that the tracer has put it there."""
        call: Any = nn.Module.__call__
        code = getattr(call, "__code__", None)
        if call is self._original or code is None:
            return
        taken = code.co_varnames[0]

        @functools.wraps(call)
        def called(module: nn.Module, /, *args: Any, **kwargs: Any) -> Any:
            if taken in kwargs:
                bound = inspect.signature(module.forward).bind(*args, **kwargs)
                args, kwargs = bound.args, bound.kwargs
            return call(module, *args, **kwargs)

        nn.Module.__call__ = called  # type: ignore[method-assign]


class _EndedError(Exception):
    """A forward raised; its cause is what."""


@contextmanager
def untold(model: nn.Module) -> Iterator[None]:
    """Keep from the tracer what the forward of a copy leaves on it, and how it ends.

    Of a RuntimeError about values of tensors it would print the whole graph; that error is told by
    the one who reads. torch 2.9 refuses attributes that are set on the model itself.
    """
    forward = model.forward

    @functools.wraps(forward, updated=())  # a signature of its own would count self
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return forward(*args, **kwargs)
        except RuntimeError as error:
            raise _EndedError from error

    raised = None
    model.forward = run
    put_back = _as_now(model)
    last = model.register_forward_hook(lambda *_: put_back(), always_call=True)
    try:
        yield
    except _EndedError as ended:
        raised = ended.__cause__
        ended.__cause__ = ended.__context__ = None  # what is raised would be its own cause
    finally:
        last.remove()
        model.forward = forward
    if raised is not None:
        raise raised


_OF_MODULES = frozenset(vars(nn.Module()))


def _as_now(model: nn.Module) -> Callable[[], None]:
    """What gives a module the attributes that it has now, with what their containers hold."""

    def own() -> dict[str, Any]:
        return {name: value for name, value in vars(model).items() if name not in _OF_MODULES}

    before = pytree.in_own_containers(own())

    def put_back() -> None:
        for name in own().keys() - before.keys():
            del vars(model)[name]
        vars(model).update(before)

    return put_back
