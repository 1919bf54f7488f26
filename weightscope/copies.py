"""Deep copies of a model that share no state with it, also where functions hold its parts."""

from __future__ import annotations

import copy
import threading
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import CellType, FunctionType, ModuleType
from typing import Any

from torch import Tensor, nn

from weightscope.calls import held_tensors

_CONTAINERS = (dict, OrderedDict, defaultdict, list, set, deque)
_NEW_LOCK: Mapping[type, Callable[[], Any]] = {
    type(make()): make for make in (threading.Lock, threading.RLock)
}
_NOT_SEARCHED = (nn.Module, Tensor, type, ModuleType, FunctionType)


def deep_copy(model: nn.Module, memo: dict[int, Any] | None = None) -> nn.Module:
    """A deep copy of a model, also of one that has run or that is held by its own functions.

    ``copy.deepcopy`` shares functions. A hook that was defined where the model was made, and that
    keeps what passes in the model or in a list beside it, would write from the copy into the
    original; so functions that the modules hold are made again around the copy's own parts. So are
    the methods of a class that was defined there and that keep parts in their closures. Locks, of
    which there is no copy, are new ones.

    Args:
        model: The model; not changed.
        memo: What stands for a part of the model in the copy, by ``id``, as for ``copy.deepcopy``.

    Raises:
        Exception: Whatever a part raises that cannot be copied.
    """
    memo = _empty(model) | _left_by_forwards(model) | _new_locks(model) | (memo or {})
    twin: nn.Module = copy.deepcopy(model, memo)
    functions = _Functions(memo)
    for module in twin.modules():
        module.__class__ = functions.kind(type(module))
        held = vars(module)
        for name, value in list(held.items()):
            if isinstance(value, FunctionType):
                held[name] = functions.own(value)
            elif type(value) in (dict, OrderedDict):  # among them the hooks
                for key, inner in list(value.items()):
                    if isinstance(inner, FunctionType):
                        value[key] = functions.own(inner)
    return twin


def _empty(model: nn.Module) -> dict[int, Any]:
    """New ones for the dictionaries in which modules have no hooks.

    Each has several, and the general way to copy them was a tenth of the time of a reading.
    """
    held = (value for module in model.modules() for value in vars(module).values())
    return {id(value): OrderedDict() for value in held if type(value) is OrderedDict and not value}


def _left_by_forwards(model: nn.Module) -> dict[int, Any]:
    """Values for the tensors that no deep copy can be made of.

    Old-style normalisation of weights leaves a tensor with a graph behind after a forward, and
    makes it again in the next one; other forwards keep features or a state, some in a buffer.
    """
    return {
        id(value): value.detach().clone()
        for module in model.modules()
        for _, value in (*held_tensors(module), *module.named_buffers(recurse=False))
        if not value.is_leaf
    }


def _new_locks(model: nn.Module) -> dict[int, Any]:
    """Locks of a copy's own for those of a model, as norms that wait for each other hold."""
    made: dict[int, Any] = {}
    seen: set[int] = set()
    left: list[Any] = [vars(module) for module in model.modules()]
    while left:
        value = left.pop()
        if id(value) in seen or isinstance(value, _NOT_SEARCHED):
            continue
        seen.add(id(value))
        if type(value) in _NEW_LOCK:
            made.setdefault(id(value), _NEW_LOCK[type(value)]())
        elif isinstance(value, threading.Condition):  # it holds methods of its lock
            lock = vars(value)["_lock"]
            own = made.setdefault(id(lock), _NEW_LOCK[type(lock)]())
            made[id(value)] = threading.Condition(own)
        elif isinstance(value, dict):
            left.extend(value.values())
        elif isinstance(value, list | tuple | set | frozenset | deque):
            left.extend(value)
        else:
            left.extend(getattr(value, "__dict__", {}).values())
    return made


def _enclosed(function: FunctionType) -> list[Any]:
    """What the closure of a function holds by now."""
    found = []
    for cell in function.__closure__ or ():
        with suppress(ValueError):  # a name that is not bound yet
            found.append(cell.cell_contents)
    return found


class _Functions:
    """Makes functions again around what a deep copy copied.

    Args:
        copied: The memo of the deep copy.
    """

    def __init__(self, copied: dict[int, Any]) -> None:
        self._copied = copied
        # the originals stay alive, so that no other object gets their id
        self._made: dict[int, tuple[Any, Any]] = {}

    def kind(self, kind: type) -> type:
        """A class whose methods keep parts of the model, around those of the copy; or itself."""
        if "<locals>" not in kind.__qualname__:
            return kind
        if id(kind) in self._made:
            made: type = self._made[id(kind)][1]
            return made
        own = {
            name: self._around_copy(value)
            for name, value in vars(kind).items()
            if isinstance(value, FunctionType) and self._keeps_parts(value, set())
        }
        # one below it, as ``super()`` in its methods and whoever asks for its kind know the class
        same = {"__module__": kind.__module__, "__qualname__": kind.__qualname__}
        twin = type(kind.__name__, (kind,), {**same, **own}) if own else kind
        self._made[id(kind)] = kind, twin
        return twin

    def _keeps_parts(self, value: Any, seen: set[int]) -> bool:
        """Whether something of the model is in a function's closure, also of functions in it."""
        if id(value) in seen:
            return False
        seen.add(id(value))
        if isinstance(value, FunctionType):
            return any(self._keeps_parts(held, seen) for held in _enclosed(value))
        if type(value) in (list, tuple, dict):
            held = value.values() if isinstance(value, dict) else value
            return any(self._keeps_parts(inner, seen) for inner in held)
        return isinstance(value, nn.Module) and id(value) in self._copied

    def _around_copy(self, function: FunctionType) -> FunctionType:
        """The function with the copy's parts in its closure; itself where it has none."""
        if function.__closure__ is None:
            return function
        if id(function) in self._made:
            twin: FunctionType = self._made[id(function)][1]
            return twin
        twin = FunctionType(
            function.__code__,
            function.__globals__,
            function.__name__,
            function.__defaults__,
            tuple(map(self._cell, function.__closure__)),
        )
        twin.__kwdefaults__, twin.__qualname__ = function.__kwdefaults__, function.__qualname__
        twin.__dict__.update(function.__dict__)
        self._made[id(function)] = function, twin
        for old, new in zip(function.__closure__, twin.__closure__ or (), strict=True):
            try:
                contents = old.cell_contents
            except ValueError:  # a name that is not bound yet
                continue
            new.cell_contents = self.own(contents)
        return twin

    def _cell(self, cell: CellType) -> CellType:
        """The same new cell for functions that share one."""
        twin: CellType = self._made.setdefault(id(cell), (cell, CellType()))[1]
        return twin

    def own(self, value: Any) -> Any:
        """What stands for a value in the copy; objects that are no part of the model are shared."""
        if id(value) in self._copied:
            return self._copied[id(value)]
        if isinstance(value, FunctionType):
            return self._around_copy(value)
        if type(value) is tuple:
            return tuple(map(self.own, value))
        if type(value) not in _CONTAINERS:
            return value
        if id(value) in self._made:
            return self._made[id(value)][1]
        twin = copy.copy(value)
        self._made[id(value)] = value, twin
        if isinstance(value, dict):
            twin.update((key, self.own(inner)) for key, inner in value.items())
        elif isinstance(value, list | deque):
            for place, inner in enumerate(value):
                twin[place] = self.own(inner)
        return twin
