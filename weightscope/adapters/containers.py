"""Lists, dicts and objects that are handed to a module call or come out of one.

A trace puts marks in the place of the tensors in them. A module may change what it is given (append
to a list of features, count in a list, set a field), so the containers stay the same objects.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from torch import Tensor

from weightscope.adapters import pytree

Leaf = Callable[[Any], Any]
_BY_VALUE = (bool, int, float, str)


class Handed:
    """Arguments or results of a call, with marks for the tensors in the same containers.

    Args:
        before: The arguments or results.
        marked: The same with marks, in containers of their own.

    Attributes:
        tree: The marks in the containers of ``before``.
    """

    def __init__(self, before: Any, marked: Any) -> None:
        self._marks: dict[int, tuple[Any, Any]] = {}
        self._kept: list[tuple[Any, dict[Any, Any]]] = []
        self._rebuilt: list[tuple[Any, list[Any]]] = []
        self.tree = self._handed(before, marked, frozenset())

    def take_back(self) -> tuple[bool, str]:
        """Put the tensors back in the place of their marks.

        Returns:
            Whether the call changed one of the containers, and the class of one that it changed and
            that could not be handed to it as it is; empty where there is none.
        """
        changed = any(not _same(_items(kept), items) for kept, items in self._kept)
        done: set[int] = set()
        for kept, _ in self._kept:
            _swap(kept, self._original, done)
        lost = (
            type(made).__name__
            for made, leaves in self._rebuilt
            if not _same(_leaves(made), dict(enumerate(leaves)))
        )
        return changed, next(lost, "")

    def _original(self, value: Any) -> Any:
        mark, original = self._marks.get(id(value), (None, value))
        return original if mark is value else value

    def _handed(self, before: Any, marked: Any, inside: frozenset[int]) -> Any:
        if isinstance(before, Tensor):
            self._marks[id(marked)] = (marked, before)
            if marked is not before:
                vars(marked).update(hung_on(before))
            return marked
        if id(before) in inside or before is marked:
            return before
        inside |= {id(before)}
        if _is_tuple(before):
            pairs = zip(before, marked, strict=True)
            return _tuple_of(before, [self._handed(b, m, inside) for b, m in pairs])
        if not _is_kept(before):
            self._rebuilt.append((marked, list(_leaves(marked).values())))
            return marked
        held = _items(before)
        for key, value in _items(marked).items():
            _put(before, key, self._handed(held[key], value, inside))
        self._kept.append((before, _items(before)))
        return before


def hung_on(tensor: Tensor) -> dict[str, Tensor]:
    """The tensors that a forward has set as attributes of another one."""
    return {
        name: held
        for name, held in vars(tensor).items()
        if isinstance(held, Tensor) and not name.startswith("_") and name not in _OWN
    }


_OWN = ("constant", "real_tensor")  # of tensors without numbers


def _is_tuple(value: Any) -> bool:
    return type(value) is tuple or (isinstance(value, tuple) and hasattr(value, "_fields"))


def _tuple_of(like: Any, values: list[Any]) -> Any:
    if all(a is b for a, b in zip(like, values, strict=True)):
        return like
    return type(like)(*values) if hasattr(like, "_fields") else tuple(values)


def _is_kept(value: Any) -> bool:
    """Whether a value is a container that can be changed in place."""
    known = isinstance(value, (list, dict, deque)) and not pytree.is_foreign(value)
    return known or pytree.is_opened(value)


def _items(container: Any) -> dict[Any, Any]:
    """What a container holds, by the key with which ``_put`` finds its place."""
    if isinstance(container, dict):
        return dict(container)
    if isinstance(container, (list, deque)):
        return dict(enumerate(container))
    return pytree.held_in(container)


def _leaves(tree: Any) -> dict[Any, Any]:
    return dict(enumerate(pytree.tree_leaves(tree)))


def _put(container: Any, key: Any, value: Any) -> None:
    if isinstance(container, dict):
        named = getattr(container, "__dict__", {})
        if key in named and named[key] is container[key]:
            named[key] = value  # it can be read as an attribute too
        dict.__setitem__(container, key, value)
    elif isinstance(container, (list, deque)):
        container[key] = value
    else:
        object.__setattr__(container, key, value)  # also where it is frozen


def _same(now: dict[Any, Any], before: dict[Any, Any]) -> bool:
    return now.keys() == before.keys() and all(_alike(now[key], before[key]) for key in now)


def _alike(a: Any, b: Any) -> bool:
    return a is b or (type(a) is type(b) and isinstance(a, _BY_VALUE) and bool(a == b))


def _swap(value: Any, leaf: Leaf, done: set[int]) -> Any:
    """The same value with its leaves replaced, in place where it is a container."""
    if isinstance(value, Tensor):
        return leaf(value)
    if id(value) in done:
        return value
    if _is_tuple(value):
        return _tuple_of(value, [_swap(item, leaf, done) for item in value])
    if _is_kept(value):
        done.add(id(value))
        for key, item in _items(value).items():
            new = _swap(item, leaf, done)
            if new is not item:
                _put(value, key, new)
    return value
