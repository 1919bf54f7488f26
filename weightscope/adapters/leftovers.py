"""What a forward leaves outside of its model while it runs without numbers: taken out again.

Networks keep grids and masks in dictionaries of their files (``_GRIDS[str(x.shape)]``) and classes,
in objects of their own (``_GRIDS.get(x.shape)``), and in functions under ``functools.cache``. A
tensor without numbers that stays there would be met by the model's next call.
"""

from __future__ import annotations

import copy
import functools
import operator
import sys
from collections import OrderedDict, defaultdict, deque
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from types import FunctionType, ModuleType
from typing import Any

import torch
from torch import nn

from weightscope.adapters.dispatch import FakeTensor
from weightscope.restoring import finished, refill

_CONTAINERS = (dict, OrderedDict, defaultdict, list, set, deque)
_MOST = 10_000  # entries of what may be a cache
_MOST_HELD = 2_000  # objects looked through; around networks of large libraries lie 1,500
CACHED: Any = type(functools.cache(lambda: None))
"""The kind of what keeps its results by its arguments."""
_OF_OTHERS = sys.stdlib_module_names | {"torch", "numpy", "weightscope"}


class Outside:
    """What a model shares with others, as it is now.

    Args:
        model: Its forward may run several times; one look around serves them all.
    """

    def __init__(self, model: nn.Module) -> None:
        shared = _shared(model)
        self._containers = [(h, copy.copy(h)) for h in shared if type(h) in _CONTAINERS]
        self._classes = [(h, dict(vars(h))) for h in shared if isinstance(h, type)]
        self._cached = [h for h in shared if type(h) is CACHED]

    @contextmanager
    def nothing_left(self) -> Iterator[None]:
        """Take out afterwards what a forward left there without numbers."""
        cached = [(held, held.cache_info().misses) for held in self._cached]
        try:
            yield
        finally:
            finished(
                *(partial(_put_back, h, old) for h, old in self._containers if _changed(h, old)),
                *(partial(_put_back_in_class, held, old) for held, old in self._classes),
                *(h.cache_clear for h, misses in cached if h.cache_info().misses != misses),
            )


def nothing_left(model: nn.Module) -> AbstractContextManager[None]:
    """Take out afterwards what the forward of a model left without numbers in what it shares."""
    return Outside(model).nothing_left()


def _changed(held: Any, before: Any) -> bool:
    """Whether a container holds other objects than before, or in another order."""
    now, old = (c.values() if isinstance(c, dict) else c for c in (held, before))
    return len(held) != len(before) or not all(map(operator.is_, now, old))


def _shared(model: nn.Module) -> list[Any]:
    """Containers, classes and cached functions that a model's code may keep something in."""
    kinds = {kind for module in model.modules() for kind in type(module).__mro__ if _foreign(kind)}
    own = [vars(sys.modules[k.__module__]) for k in kinds if k.__module__ in sys.modules]
    own += [names for kind in kinds for names in _namespaces(vars(kind))]  # of no module known
    used = [names for space in own for names in _namespaces(space)]
    waiting: deque[Any] = deque([*own, *used, *kinds])
    found: dict[int, Any] = {}
    while waiting and len(found) < _MOST_HELD:
        held = waiting.popleft()
        if id(held) in found:
            continue
        if type(held) in _CONTAINERS and len(held) <= _MOST:
            found[id(held)] = held
            waiting.extend(held.values() if isinstance(held, dict) else held)
        elif type(held) is CACHED or (isinstance(held, type) and held in kinds):
            found[id(held)] = held
            waiting.extend(vars(held).values())
        elif isinstance(held, FunctionType) and _foreign(held):
            waiting.extend([vars(held), *(held.__defaults__ or ()), *_kept_around(held)])
        elif _is_an_object(held):
            waiting.append(vars(held))
    return [*found.values()]


def _is_an_object(held: Any) -> bool:
    """Whether something is an object of a class of somebody's own, with attributes."""
    others = (nn.Module, torch.Tensor, type, ModuleType)
    return _foreign(type(held)) and not isinstance(held, others) and hasattr(held, "__dict__")


def _kept_around(function: FunctionType) -> Iterator[Any]:
    """What keeps results around a function: a decorator that turns to a cached one."""
    for cell in function.__closure__ or ():
        try:
            held = cell.cell_contents
        except ValueError:  # a name that is given nothing yet
            continue
        if type(held) is CACHED:
            yield held


def _namespaces(space: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The names around the functions, and in the files, that are known in one file."""
    for value in list(space.values()):
        if isinstance(value, FunctionType) and _foreign(value):
            yield value.__globals__
        elif isinstance(value, ModuleType) and value.__name__.partition(".")[0] not in _OF_OTHERS:
            yield vars(value)


def _foreign(made: Any) -> bool:
    """Whether a class or a function is neither Python's nor torch's."""
    return str(made.__module__).partition(".")[0] not in _OF_OTHERS


def _put_back(held: Any, before: Any) -> None:
    if isinstance(held, dict):
        for key in _new_without_numbers(held, before):
            if key in before:
                held[key] = before[key]
            else:
                del held[key]
    else:
        known = set(map(id, before))
        if any(id(value) not in known and _without_numbers(value) for value in held):
            refill(held, before)


def _put_back_in_class(kind: type, before: Mapping[str, Any]) -> None:
    for name in _new_without_numbers(vars(kind), before):
        if name in before:
            setattr(kind, name, before[name])
        else:
            delattr(kind, name)


def _new_without_numbers(now: Mapping[Any, Any], before: Mapping[Any, Any]) -> list[Any]:
    new = ((key, value) for key, value in now.items() if before.get(key) is not value)
    return [key for key, value in new if _without_numbers(value)]


def _without_numbers(value: Any) -> bool:
    """Whether a tensor or a size without numbers is in a value, or in plain containers there."""
    waiting, seen = [value], set[int]()
    while waiting and len(seen) < _MOST:
        value = waiting.pop()
        if isinstance(value, FakeTensor | torch.SymInt | torch.SymFloat):
            return True
        if id(value) not in seen and type(value) in (*_CONTAINERS, tuple):
            seen.add(id(value))
            waiting += value.values() if isinstance(value, dict) else value
    return False
