"""What hangs on a model beside its weights, and steps that put it back as it is now."""

from __future__ import annotations

import copy
import io
import random
import sys
import types
import warnings
from array import array
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from functools import partial
from itertools import count, cycle
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

Step = Callable[[], object]

MOST = 100_000
"""Objects that are looked through: a model may hold whoever trained it, and all the data of that
one. What is near comes first."""

_MOST_TRIES = 10  # of a step that is interrupted again and again
ATOMS = (int, float, complex, str, bytes, type(None), type, torch.dtype, torch.device)
"""What holds nothing else."""
_CONTAINERS = (dict, list, tuple, set, deque)
_ITERATORS: tuple[type, ...] = (count, cycle, type(iter([])), type(iter(())), type(iter(range(0))))

# loggers, threads and traces belong to the process or to others; these kinds hold plain values
_PLAIN_OF_PYTHON = {"types", "argparse", "collections"}
_NOT_THE_MODELS = sys.stdlib_module_names - _PLAIN_OF_PYTHON


def reached(model: nn.Module) -> list[Any]:
    """The attributes of all modules and what they hold: containers, objects, tensors."""
    waiting: deque[Any] = deque(vars(module) for module in model.modules())
    found: list[Any] = []
    seen: set[int] = set()
    while waiting and len(found) < MOST:
        value = waiting.popleft()
        if issubclass(type(value), ATOMS) or id(value) in seen:
            continue
        seen.add(id(value))
        found.append(value)
        waiting.extend(held_by(value))
    return found


def held_by(value: Any) -> Iterator[Any]:
    """What a container holds, and an object's own attributes."""
    if issubclass(type(value), dict):
        yield from dict.values(value)
    elif issubclass(type(value), _CONTAINERS):
        yield from value
    elif issubclass(type(value), types.MethodType):
        yield value.__self__
    elif issubclass(type(value), np.random.Generator):
        yield value.bit_generator
    if _is_the_models(type(value)):
        with suppress(AttributeError):
            yield object.__getattribute__(value, "__dict__")
        yield from _slots(value).values()


def _is_the_models(kind: type) -> bool:
    home = kind.__module__
    traced = home.startswith(("torch._", "torch.fx."))
    return not traced and home.partition(".")[0] not in _NOT_THE_MODELS


def _slots(value: Any) -> dict[types.MemberDescriptorType, Any]:
    """The attributes of an object that has no dictionary for them."""
    found = {}
    for kind in type(value).__mro__:
        if "__slots__" in vars(kind):
            for member in vars(kind).values():
                if isinstance(member, types.MemberDescriptorType):
                    try:
                        found[member] = member.__get__(value)
                    except AttributeError:  # not set
                        continue
    return found


def as_it_is(found: Iterable[Any]) -> list[Step]:
    """Steps that put back what each of some objects holds now; tensors are left alone."""
    steps: list[Step] = []
    for value in found:
        try:
            steps += _steps(value)
        except Exception:  # noqa: BLE001 - somebody's own object, which says nothing of its state
            continue
    return steps


def _steps(value: Any) -> Iterable[Step]:
    if issubclass(type(value), Tensor | np.memmap):  # a mapped file is not copied
        return []
    for kinds, step in _KNOWN:
        if issubclass(type(value), kinds):
            return [step(value)]
    members = _slots(value) if _is_the_models(type(value)) else {}
    return [partial(member.__set__, value, held) for member, held in members.items()]


def lend_iterators(found: Iterable[Any]) -> None:
    """Put copies in the place of iterators, of which none can be turned back."""
    for value in found:
        if not issubclass(type(value), dict | list | deque):
            continue
        for key, held in list(value.items() if issubclass(type(value), dict) else enumerate(value)):
            if issubclass(type(held), _ITERATORS):
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", DeprecationWarning)  # of Python 3.12 and later
                    value[key] = copy.copy(held)


def finished(*steps: Callable[[], object]) -> None:
    """Run every step, whatever lands in it.

    Args:
        steps: What may run twice: an interrupted step is run again.

    Raises:
        BaseException: The first that a step raised or that landed in it, after the last step.
    """
    first: BaseException | None = None
    tries = done = 0
    while done < len(steps):
        try:
            while done < len(steps):
                steps[done]()
                tries, done = 0, done + 1
        except BaseException as error:  # noqa: BLE001 - raised below
            first = first or error
            tries += 1
            if isinstance(error, Exception) or tries == _MOST_TRIES:
                tries, done = 0, done + 1
    if first is not None:
        raise first


class Cleanup(ExitStack):
    """An ``ExitStack`` that leaves the others too where an interrupt lands in or between two."""

    def __exit__(self, *details: Any) -> bool:
        try:
            return bool(super().__exit__(*details))
        finally:
            finished(partial(super().__exit__, None, None, None))


_OF_PYTHON = (OrderedDict, dict, list, set, deque)  # whose truth value asks no code of others


def refill(container: Any, contents: Any) -> None:
    """Make a list, a dictionary, a set or a queue hold what it held."""
    if type(container) in _OF_PYTHON and not container and not contents:
        return  # most are empty: hooks of modules
    if issubclass(type(container), list):
        list.__setitem__(container, slice(None), contents)
    elif issubclass(type(container), deque):
        container.clear()
        container.extend(contents)
    elif issubclass(type(container), set):
        set.intersection_update(container, contents)
        set.update(container, contents)
    else:
        own = OrderedDict if issubclass(type(container), OrderedDict) else dict
        for key in [key for key in container if key not in contents]:
            own.pop(container, key)
        own.update(container, contents)


def _overwrite(into: np.ndarray[Any, Any], values: np.ndarray[Any, Any]) -> None:
    if into.shape != values.shape:
        into.resize(values.shape, refcheck=False)
    if into.flags.writeable:
        into[...] = values


def _rewrite(text: Any, contents: Any, place: int) -> None:
    text.seek(0)
    text.truncate()
    text.write(contents)
    text.seek(place)


def _shallow(container: Any) -> Any:
    # what modules hold their hooks in, for which the general way takes ten times as long
    return container.copy() if type(container) is OrderedDict else copy.copy(container)


# how the first kind that fits is put back
_KNOWN: tuple[tuple[Any, Callable[[Any], Step]], ...] = (
    (dict | list | set | deque, lambda v: partial(refill, v, _shallow(v))),
    (np.ndarray, lambda v: partial(_overwrite, v, v.copy())),
    (bytearray | array, lambda v: partial(v.__setitem__, slice(None), v[:])),
    (io.StringIO | io.BytesIO, lambda v: partial(_rewrite, v, v.getvalue(), v.tell())),
    (torch.Generator | np.random.RandomState, lambda v: partial(v.set_state, v.get_state())),
    (random.Random, lambda v: partial(v.setstate, v.getstate())),
    (np.random.BitGenerator, lambda v: partial(setattr, v, "state", v.state)),
)
