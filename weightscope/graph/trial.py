"""Call a copy of a model on fake tensors, and see what it does."""

from __future__ import annotations

import functools
import inspect
import itertools
import os
import traceback
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from weightscope.adapters import pytree
from weightscope.adapters.constants import Constants, constants_of, hold_constants
from weightscope.adapters.dispatch import (
    FAKE_TENSOR_LOGGER,
    READS_VALUES,
    CountingFakes,
    storage_of,
    writes_of,
)
from weightscope.adapters.leftovers import Outside
from weightscope.adapters.rewriting import Rewriting
from weightscope.adapters.switches import quiet
from weightscope.adapters.tracing import as_exported, eagerly, without_numbers
from weightscope.calls import as_they_are, held_tensors, leaves_by_place, random_state
from weightscope.errors import shown
from weightscope.graph.capture import throwaway_copy
from weightscope.graph.gradients import HooksAside, is_inside, may_set_hooks
from weightscope.graph.layouts import FirstLayer
from weightscope.graph.memory import Descent
from weightscope.graph.pools import WHOLE_TRANSFORMS
from weightscope.graph.recurrence import WHOLE_RECURRENCES
from weightscope.graph.structure import ExampleInputs
from weightscope.graph.values import line_of, where_read
from weightscope.restoring import Cleanup, finished

_SHOWN = 2
MOST_CALLS = 10_000
"""Of functions in a forward: more than twice as many as the most that a network called which was
read, one of optical flow (3,900). Loops over the positions of a map call some at each, in every
trial."""


class Trial:
    """Calls a copy of a model on fake tensors: nothing is computed, nothing of the model changes.

    Args:
        model: The user's model.
    """

    def __init__(self, model: nn.Module) -> None:
        self.original = model
        self.name = type(model).__name__
        self.constants = constants_of(model)
        self.mode = CountingFakes(allow_non_fake_inputs=True)
        tensors = {id(t): self.mode.from_tensor(t) for t in [*model.parameters(), *model.buffers()]}
        self.mode.weights = frozenset(map(storage_of, tensors.values()))
        self.model = throwaway_copy(model, tensors)
        self.model.train(False)  # of a class of one's own it may return nothing
        self._known: dict[Any, Any] = {}
        self._bytes: dict[Any, int] = {}
        self._number: dict[Any, int] = {}
        self._called = 0
        self._functions: dict[Any, tuple[str, ...]] = {}
        self._seen: dict[Any, FirstLayer] = {}
        self._weights = self._memories()
        self._written: dict[str, bool] = {}
        self._fresh = as_they_are(self.model)
        self._held = {id(tensor) for _, tensor in self._holds()}
        self._leaves = self._hooks = False
        self._numbers = Constants()
        self._asked: set[tuple[str, int]] = set()
        self._outside = Outside(self.model)

    def error(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], *, training: bool = False
    ) -> Exception | None:
        """What the forward raises, or None where it runs."""
        result = self._outcome(args, kwargs, training)
        return result if isinstance(result, Exception) else None

    def largest(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int:
        """Bytes that the largest tensor takes which the forward makes on its way."""
        self._outcome(args, kwargs, training=False)
        return self._bytes[_key(args, kwargs, training=False)]

    def returns(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], *, training: bool = False
    ) -> tuple[list[Any], pytree.TreeSpec]:
        """Shapes of the leaves that the forward returns, and how they fold back, or its error."""
        result = self._outcome(args, kwargs, training)
        if isinstance(result, Exception):
            raise result
        shapes, structure = result
        return shapes, structure

    def changed_arguments(self, inputs: ExampleInputs) -> tuple[str, ...]:
        """Places in lists and dictionaries that the forward is given, and that it changes."""
        if all(isinstance(v, torch.Tensor) for v in (*inputs.args, *inputs.kwargs.values())):
            return ()
        given = self._fakes((inputs.args, dict(inputs.kwargs)))
        before = self._places(given)
        if isinstance(self._run_on(given), Exception):
            return ()
        after = self._places(given)
        places = dict.fromkeys((*before, *after))
        return tuple(p for p in places if before.get(p, before) is not after.get(p, after))

    def first_layer(self, inputs: ExampleInputs) -> tuple[tuple[int, ...], int] | None:
        """Shape of what the first convolution is given, and its number of spatial dimensions.

        None where that tells nothing: it is given the slices of volumes.
        """
        seen = self._looked_at(inputs)
        return None if seen.of_slices(shapes_of((inputs.args, dict(inputs.kwargs)))) else seen.given

    def slices(self, inputs: ExampleInputs) -> tuple[tuple[int, ...], int] | None:
        """The same of slices of volumes, which the first convolution is given; None of all else."""
        seen = self._looked_at(inputs)
        return seen.given if seen.of_slices(shapes_of((inputs.args, dict(inputs.kwargs)))) else None

    def first_convolution(self, inputs: ExampleInputs) -> tuple[tuple[int, ...], int] | None:
        """What `first_layer` gives, of the first convolution where linear layers run before it."""
        return self._looked_at(inputs).convolved

    def ids(self, inputs: ExampleInputs) -> tuple[int, ...] | None:
        """Shape of the ids that vectors are first looked up for; None where none are."""
        return self._looked_at(inputs).ids

    def _looked_at(self, inputs: ExampleInputs) -> FirstLayer:
        key = _key(inputs.args, inputs.kwargs, training=False)
        if key not in self._seen:
            with FirstLayer() as self._seen[key]:
                self._run(inputs.args, inputs.kwargs)
        return self._seen[key]

    def modes_agree(self, inputs: ExampleInputs) -> bool | None:
        """Whether the forward returns the same structure in train and in eval mode.

        None where it raises in train mode, or in eval mode: nothing is known then. A network that
        says that it is not made to train does something else there.
        """
        if self.refuses_to_train(inputs):
            return False
        results = [self._outcome(inputs.args, inputs.kwargs, mode) for mode in (False, True)]
        if any(isinstance(result, Exception) for result in results):
            return None
        (flat, spec), (flat_train, spec_train) = results
        return bool(spec == spec_train and flat == flat_train)

    def shapes(self, inputs: ExampleInputs) -> list[tuple[str, list[Any]]] | None:
        """Shapes of what every module call returns, in order; None where the forward raises."""
        found: list[tuple[str, list[Any]]] = []
        with Cleanup() as hooks:
            for name, module in self.model.named_modules():
                if name:
                    note = functools.partial(_note_shapes, found, name)
                    hooks.callback(module.register_forward_hook(note).remove)
            result = self._run(inputs.args, inputs.kwargs)
        if isinstance(result, Exception):
            return None
        return [*found, ("", shapes_of(result))]

    def functions(self, inputs: ExampleInputs) -> tuple[str, ...]:
        """Names of what makes tensors in a forward, in order, then "" where it does not raise."""
        key = _key(inputs.args, inputs.kwargs, training=False)
        if key not in self._functions:
            names = _Names()  # of the forward alone, not of what makes its inputs ready
            result = self._run(inputs.args, inputs.kwargs, watching=names)
            ends = () if isinstance(result, Exception) else ("",)
            self._functions[key] = (*names.found, *ends)
        return self._functions[key]

    def number_of_calls(self, inputs: ExampleInputs) -> int:
        """How many functions a forward calls; 0 where it raises."""
        if self.error(inputs.args, inputs.kwargs) is not None:
            return 0
        return self._number[_key(inputs.args, inputs.kwargs, training=False)]

    def works_alike(self, inputs: ExampleInputs, whole: Collection[str]) -> bool:
        """Whether the forwards call the same functions in both modes, the same number of times.

        Args:
            inputs: How the model is called.
            whole: Names of modules that are called as they are, whatever they do in train mode.
        """
        asking = {
            name
            for name, module in self.model.named_modules()
            if _asks_for_its_mode(type(module)) and not is_inside(name, whole)
        }
        if not asking:
            return True
        counts = []
        for training in (False, True):
            counter = _Functions(asking)
            with Cleanup() as stack:
                for name, module in self.model.named_modules():
                    enter, leave = counter.hooks(name)
                    stack.callback(module.register_forward_pre_hook(enter).remove)
                    stack.callback(module.register_forward_hook(leave).remove)
                with counter:
                    self._run(inputs.args, inputs.kwargs, training=training)
            counts.append(counter.counts)
        return counts[0] == counts[1]

    def called(self, inputs: ExampleInputs, *, training: bool = False) -> frozenset[str]:
        """Names of the modules that a forward calls."""
        called: set[str] = set()
        with Cleanup() as hooks:
            for name, module in self.model.named_modules():
                note = functools.partial(_note, called, name)
                hooks.callback(module.register_forward_pre_hook(note).remove)
            self._run(inputs.args, inputs.kwargs, training=training)
        return frozenset(called)

    def read_by_training(self, inputs: ExampleInputs) -> frozenset[str] | None:
        """Names of the parameters that train mode reads, however values decide what it does.

        None where that cannot be told. Of layers that are dropped by chance all are, none, and
        every other one; a forward may raise where all are.
        """
        found: set[str] = set()
        results = []
        for answers in ((True,), (False,), (True, False), (False, True)):
            reading = _Reading(self.model, itertools.cycle(answers))
            call = self._fakes((inputs.args, dict(inputs.kwargs)))
            result = self._call(*call, training=True, watching=reading)
            finished(*self._fresh)
            found |= reading.found
            results.append(result)
        raised = [result for result in results if isinstance(result, Exception)]
        told = len(raised) < len(results) and not any(map(where_read, raised))
        return frozenset(found) if told else None

    def refuses_to_train(self, inputs: ExampleInputs) -> bool:
        """Whether the forward says in train mode that it is not made for it."""
        error = self.error(inputs.args, inputs.kwargs, training=True)
        if not isinstance(error, NotImplementedError):
            return False
        # operators without a rule for tensors without numbers say so, too
        *_, raised_in = traceback.extract_tb(error.__traceback__)
        own = (os.path.dirname(torch.__file__), os.path.dirname(os.path.dirname(__file__)))
        return not raised_in.filename.startswith(own)

    def left_behind(
        self, inputs: ExampleInputs, whole: Collection[str]
    ) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """What of its input a forward leaves in attributes, and what of that the next call uses.

        Args:
            inputs: How the model is called.
            whole: Names of modules that are called as they are, whatever they leave in themselves.

        Returns:
            Names of attributes, all of them, and those that decide what a later call does.
        """
        if not self._leaves:
            return (), ()
        # copies: what is one object with what was left would be one tensor without numbers too
        calls = [
            self._fakes(pytree.tree_map(_cloned, (inputs.args, dict(inputs.kwargs))))
            for _ in range(2)
        ]
        try:
            first = Descent({"": pytree.tree_tensors(calls[0])})
            self._call(*calls[0], watching=first)
            left: dict[str, list[torch.Tensor]] = {}
            for name, tensor in self._holds():
                new = id(tensor) not in self._held and bool(first.of(tensor))
                if new and not any(name.startswith(f"{path}.") for path in whole):
                    left.setdefault(name, []).append(tensor)
            second = Descent(left)
            result = self._call(*calls[1], watching=second)
            return tuple(left), tuple(sorted(second.of(pytree.opened(result))))
        finally:
            finished(*self._fresh)

    def answers_to_tracing(self, inputs: ExampleInputs) -> str:
        """Where the forward may do something else because it is traced; empty where it does not.

        It asks whether it is, or reads values and goes on where there are none.
        """
        if self._numbers.read:
            return _lines(self._numbers.read)
        if not self._asked:
            return ""
        told = []
        for exported in (True, False):
            listed = _Listing(self.model)
            call = self._fakes((inputs.args, dict(inputs.kwargs)))
            result = self._call(*call, watching=listed, exported=exported)
            finished(*self._fresh)
            told.append((listed.calls, isinstance(result, Exception)))
        same = told[0] == told[1] and not told[1][1]
        return "" if same else _lines(self._asked)

    @property
    def checks(self) -> str:
        """Where a forward only checks values, as in ``assert x.min() >= 0``; empty if nowhere."""
        return _lines({*self._numbers.checks})

    @property
    def written_weights(self) -> Mapping[str, bool]:
        """Names of weights that a forward in eval mode wrote into, and whether they are trained."""
        return self._written

    @property
    def sets_hooks(self) -> bool:
        """Whether a forward set hooks on gradients, of weights perhaps."""
        return self._hooks

    def _memories(self) -> list[tuple[int, int]]:
        return [(storage_of(weight), writes_of(weight)) for weight in self.model.parameters()]

    def _note_writes(self, training: bool) -> None:
        """Note which weights a call wrote into; in train mode they may be normalised."""
        before, self._weights = self._weights, self._memories()
        weights = zip(self.model.named_parameters(), before, self._weights, strict=True)
        for (name, weight), old, new in weights:
            if old != new and not training:
                self._written[name] = weight.requires_grad

    def gradient_hooks(self, inputs: ExampleInputs, whole: Collection[str]) -> tuple[str, ...]:
        """What sets hooks on gradients in forwards that are taken apart: methods of tensors.

        Args:
            inputs: How the model is called.
            whole: Names of modules that are called as they are.
        """
        if not self._hooks and not may_set_hooks(self.model):
            return ()
        aside = HooksAside()
        with Cleanup() as stack:
            for name, module in self.model.named_modules():
                enter, leave = aside.following(name)
                stack.callback(module.register_forward_pre_hook(enter).remove)
                stack.callback(module.register_forward_hook(leave).remove)
            # forwards ask tensors whether they need gradients before they set a hook
            watching, call = Rewriting(aside.table()), (inputs.args, dict(inputs.kwargs))
            self._call(*self._fakes(call), watching=watching, grad=True)
        finished(*self._fresh)
        return tuple(sorted({how for how, name in aside.set_by if not is_inside(name, whole)}))

    def _holds(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Tensors in attributes of the modules, by the attribute's qualified name."""
        for path, module in self.model.named_modules():
            for name, tensor in held_tensors(module):
                yield f"{path}.{name}" if path else name, tensor

    def _outcome(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], training: bool) -> Any:
        """Shapes and structure of what the forward returns, or what it raises; tried once."""
        key = _key(args, kwargs, training)
        if key not in self._known:
            self.mode.most = 0
            result = self._run(args, kwargs, training=training)
            self._bytes[key] = self.mode.most
            self._number[key] = self._called
            if not isinstance(result, Exception):
                leaves, structure = pytree.tree_flatten(result)
                result = [getattr(leaf, "shape", None) for leaf in leaves], structure
            self._known[key] = result
        return self._known[key]

    def _run(
        self,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        *,
        training: bool = False,
        watching: AbstractContextManager[Any] | None = None,
    ) -> Any:
        """What one call of the model as it was given returns or raises."""
        given = self._fakes((args, dict(kwargs)))
        return self._run_on(given, training=training, watching=watching)

    def _run_on(
        self,
        given: Any,
        *,
        training: bool = False,
        watching: AbstractContextManager[Any] | None = None,
    ) -> Any:
        """The same of tensors without numbers."""
        result = self._call(*given, training=training, watching=watching)
        if isinstance(result, Exception):  # it may have ended between a change and its undoing
            finished(*self._fresh)
        elif any(id(tensor) not in self._held for _, tensor in self._holds()):
            self._leaves |= not training
            finished(*self._fresh)
        return result

    def _places(self, given: Any) -> dict[str, Any]:
        """What a call holds, by the name of the argument and the path inside it."""
        args, kwargs = given
        named = inspect.signature(self.model.forward).bind(*args, **kwargs).arguments
        leaves = ((name, leaves_by_place(value)) for name, value in named.items())
        return {f"{name}{path}": leaf for name, of in leaves for path, leaf in of.items()}

    def _fakes(self, call: Any) -> Any:
        return pytree.tree_map(
            lambda v: self.mode.from_tensor(v) if isinstance(v, torch.Tensor) else v, call
        )

    def _call(
        self,
        args: Any,
        kwargs: Any,
        *,
        training: bool = False,
        watching: AbstractContextManager[Any] | None = None,
        grad: bool = False,
        exported: bool = True,
    ) -> Any:
        with Cleanup() as stack:
            # it logs a traceback for every size that does not fit
            stack.enter_context(quiet(FAKE_TENSOR_LOGGER))
            traced = as_exported(None if training else self._asked) if exported else nullcontext()
            kept = random_state(), self._outside.nothing_left()
            for context in (eagerly(), traced, without_numbers(), *kept):
                stack.enter_context(context)
            # a forward may count in them; within a mode each takes longer
            hold_constants(self.model, {n: c.clone() for n, c in self.constants.items()})
            stack.enter_context(Constants() if training else self._numbers)
            stack.callback(_set_mode, self.model, training=False)
            _set_mode(self.model, training=training)
            self._weights = self._memories()  # that may write weights, as no forward does
            aside = HooksAside()
            whole = WHOLE_TRANSFORMS, WHOLE_RECURRENCES
            rewriting = Rewriting(aside.table(), *whole, most=MOST_CALLS)
            try:
                with torch.set_grad_enabled(grad), self.mode, rewriting, watching or nullcontext():
                    return self.model(*args, **kwargs)
            except Exception as error:  # noqa: BLE001 - a foreign forward may raise anything
                return error
            finally:
                self._hooks |= bool(aside.set_by)
                self._called = rewriting.called
                self._note_writes(training)


def _key(args: tuple[Any, ...], kwargs: Mapping[str, Any], training: bool) -> Any:
    """What calls have in common that do the same without numbers."""
    flat, spec = pytree.tree_flatten((args, dict(kwargs)))
    return training, spec, tuple(map(_described, flat))


def _set_mode(model: nn.Module, *, training: bool) -> None:
    """Call a model's own ``train``, which may compute, only where a mode changes."""
    if any(module.training != training for module in model.modules()):
        model.train(training)


class _Listing(TorchFunctionMode):
    """Lists the functions that a forward calls, with what they are given.

    Args:
        model: Its parameters and buffers are told from one another.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.calls: list[Any] = []
        held = [*model.parameters(), *model.buffers()]
        self._known = {id(tensor): (index, tensor) for index, tensor in enumerate(held)}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = [self._told(leaf) for leaf in pytree.tree_leaves((args, kwargs))]
        made = func(*args, **(kwargs or {}))
        results = [self._told(t) for t in pytree.tree_tensors(made)]
        self.calls.append((getattr(func, "__name__", str(func)), given, results))
        return made

    def _told(self, value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return _described(value)
        number, _ = self._known.setdefault(id(value), (len(self._known), value))
        return number, tuple(value.shape)


def _lines(places: Collection[tuple[str, int]]) -> str:
    return "; ".join(line_of(*place) for place in sorted(places)[:_SHOWN])


class _Names(TorchFunctionMode):
    """Lists the names of the functions that make tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if pytree.tree_tensors(made):
            self.found.append(getattr(func, "__name__", str(func)))
        return made


class _Reading(TorchFunctionMode):
    """Lists the parameters that functions are given, and answers where values decide.

    Args:
        model: Its parameters are listed by their names.
        answers: What to answer, one after the other.
    """

    def __init__(self, model: nn.Module, answers: Iterator[bool]) -> None:
        super().__init__()
        self.found: set[str] = set()
        self._answers = answers
        self._names = {id(parameter): name for name, parameter in model.named_parameters()}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = map(id, pytree.tree_leaves((args, kwargs)))
        self.found.update(self._names[key] for key in given if key in self._names)
        try:
            return func(*args, **(kwargs or {}))
        except READS_VALUES:
            if func is not torch.Tensor.__bool__:
                raise
            return next(self._answers)


class _Functions(TorchFunctionMode):
    """Counts the functions that some modules' own forwards call."""

    def __init__(self, owners: Collection[str]) -> None:
        super().__init__()
        self.owners = owners
        self.inside: list[str] = []
        self.counts: Counter[str] = Counter()

    def hooks(self, name: str) -> tuple[Callable[..., None], Callable[..., None]]:
        """What to do before and after each call of a module."""

        def enter(module: nn.Module, args: Any) -> None:
            self.inside.append(name)

        def leave(module: nn.Module, args: Any, result: Any) -> None:
            while self.inside.pop() != name:
                pass  # calls that the model abandoned by an exception of its own

        return enter, leave

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.inside and self.inside[-1] in self.owners:
            self.counts[getattr(func, "__name__", str(func))] += 1
        return func(*args, **(kwargs or {}))


def _asks_for_its_mode(kind: type[nn.Module]) -> bool:
    """Whether a module's own methods look at ``training``; torch's layers are known."""
    if kind.__module__.startswith("torch.nn."):
        return False
    own = [c for c in kind.__mro__ if not c.__module__.startswith("torch.nn.")]
    methods = [m for c in own for m in vars(c).values() if inspect.isfunction(m)]
    return any("training" in m.__code__.co_names for m in methods)


def _cloned(value: Any) -> Any:
    return value.clone() if isinstance(value, torch.Tensor) else value


def _described(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return (tuple(value.shape), value.dtype, value.device)
    return shown(value)


def shapes_of(tree: Any) -> list[Any]:
    """Shapes of the tensors in a nested value."""
    return [tensor.shape for tensor in pytree.tree_tensors(tree)]


def _note_shapes(
    found: list[tuple[str, list[Any]]], name: str, module: nn.Module, args: Any, result: Any
) -> None:
    found.append((name, [tuple(shape) for shape in shapes_of(result)]))


def _note(called: set[str], name: str, module: nn.Module, args: Any) -> None:
    called.add(name)
