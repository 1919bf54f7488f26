"""Deep copies of a model that share no state with it, also where functions hold its parts."""

from __future__ import annotations

import copy
from collections import OrderedDict, defaultdict, deque
from types import CellType, FunctionType
from typing import Any

from torch import nn

from weightscope.calls import held_tensors

_CONTAINERS = (dict, OrderedDict, defaultdict, list, set, deque)


def deep_copy(model: nn.Module, memo: dict[int, Any] | None = None) -> nn.Module:
    """A deep copy of a model, also of one that has run or that is held by its own functions.

    ``copy.deepcopy`` shares functions. A hook that was defined where the model was made, and that
    keeps what passes in the model or in a list beside it, would write from the copy into the
    original; so functions that the modules hold are made again around the copy's own parts.

    Args:
        model: The model; not changed.
        memo: What stands for a part of the model in the copy, by ``id``, as for ``copy.deepcopy``.

    Raises:
        Exception: Whatever a part raises that cannot be copied.
    """
    memo = _left_by_forwards(model) | (memo or {})
    twin: nn.Module = copy.deepcopy(model, memo)
    functions = _Functions(memo)
    for module in twin.modules():
        held = vars(module)
        for name, value in list(held.items()):
            if isinstance(value, FunctionType):
                held[name] = functions.own(value)
            elif type(value) in (dict, OrderedDict):  # among them the hooks
                for key, inner in list(value.items()):
                    if isinstance(inner, FunctionType):
                        value[key] = functions.own(inner)
    return twin


def _left_by_forwards(model: nn.Module) -> dict[int, Any]:
    """Values for the tensors that no deep copy can be made of.

    Old-style normalisation of weights leaves a tensor with a graph behind after a forward, and
    makes it again in the next one; other forwards keep features or a state.
    """
    return {
        id(value): value.detach().clone()
        for module in model.modules()
        for _, value in held_tensors(module)
        if not value.is_leaf
    }


class _Functions:
    """Makes functions again around what a deep copy copied.

    Args:
        copied: The memo of the deep copy.
    """

    def __init__(self, copied: dict[int, Any]) -> None:
        self._copied = copied
        # the originals stay alive, so that no other object gets their id
        self._made: dict[int, tuple[Any, Any]] = {}

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
