"""Nested tuples, lists, dicts, dataclasses and other holders of tensors as flat lists of leaves.

``torch.export`` describes the arguments and results of a program in these terms, and torch has no
public name for them yet. Containers that torch does not know (a dataclass, a namespace, a dict with
attributes, a distribution) are opened here, and come out again as what they were: torch's own way,
to register a class, would change it for the whole process.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from weightscope.adapters.needed import needed

with needed():
    from torch.utils import _pytree
    from torch.utils._pytree import (
        GetAttrKey,
        KeyEntry,
        MappingKey,
        SequenceKey,
        TreeSpec,
        tree_unflatten,
    )


@dataclasses.dataclass(frozen=True)
class _Opened:
    """A container that torch does not know: its class, and what it holds by name.

    Attributes:
        kind: The class.
        held: What it holds, in the terms of this module.
        others: What it holds that is neither a tensor nor a number or text; it stays as it is.
    """

    kind: type
    held: dict[Any, Any]
    others: _Others


class _Others(dict[Any, Any]):
    """Objects of foreign classes by name; those of another call count as the same."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Others) and _kinds(self) == _kinds(other)

    __hash__ = None


def _kinds(others: _Others) -> dict[Any, type]:
    return {name: type(value) for name, value in others.items()}


def _names(opened: _Opened) -> tuple[list[Any], tuple[type, tuple[Any, ...], _Others]]:
    return list(opened.held.values()), (opened.kind, tuple(opened.held), opened.others)


def _named(opened: _Opened) -> tuple[list[Any], Any]:
    keys: list[Any] = [(MappingKey(name), value) for name, value in opened.held.items()]
    return keys, (opened.kind, tuple(opened.held), opened.others)


def _closed(values: Iterable[Any], context: Any) -> Any:
    """The container as it was, with other values; None for a distribution that lacks one."""
    kind, names, others = context
    named = [*zip(names, values, strict=True), *others.items()]
    if issubclass(kind, Distribution) and any(value is None for _, value in named):
        return None
    made = kind.__new__(kind)
    for name, value in named:
        if issubclass(kind, Distribution) and isinstance(value, tuple):
            value = torch.Size(value)
        if issubclass(kind, dict):
            dict.__setitem__(made, name, value)
        else:
            object.__setattr__(made, name, value)  # also where it is frozen
    return made


with needed():
    _pytree.register_pytree_node(
        _Opened,
        _names,
        _closed,
        serialized_type_name="weightscope.adapters.pytree._Opened",
        flatten_with_keys_fn=_named,
    )


def opened(tree: Any, _inside: frozenset[int] = frozenset()) -> Any:
    """The same, with every container that torch does not know as one that it does."""
    leaves, spec = _pytree.tree_flatten(tree)
    held = [None if id(leaf) in _inside else _held(leaf) for leaf in leaves]
    if all(found is None for found in held):
        return tree
    made = [
        leaf if found is None else _open(leaf, found, _inside | {id(leaf)})
        for leaf, found in zip(leaves, held, strict=True)
    ]
    return tree_unflatten(made, spec)


def _open(container: Any, found: dict[Any, Any], inside: frozenset[int]) -> _Opened:
    held = {name: opened(value, inside) for name, value in found.items()}
    if not isinstance(container, Distribution):
        return _Opened(type(container), held, _Others())
    foreign = {
        name
        for name, value in held.items()
        if not all(v is None or isinstance(v, _PLAIN) for v in _pytree.tree_leaves(value))
    }
    others = _Others({name: found[name] for name in foreign})
    return _Opened(type(container), {k: v for k, v in held.items() if k not in foreign}, others)


_PLAIN = (Tensor, str, int, float, torch.SymInt, torch.SymFloat)


def _held(value: Any, _inside: frozenset[int] = frozenset()) -> dict[Any, Any] | None:
    """What a container holds; None for what is none, holds no tensor or cannot be made again."""
    if value is None or isinstance(value, (nn.Module, type, torch.SymBool, *_PLAIN)):
        return None
    if isinstance(value, dict):
        found = dict(value)
    elif dataclasses.is_dataclass(value):
        found = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    else:
        found = dict(getattr(value, "__dict__", {}))
    values = _pytree.tree_leaves(list(found.values()))
    inside = _inside | {id(value)}
    others = (v for v in values if not isinstance(v, Tensor) and id(v) not in inside)
    if not any(isinstance(v, Tensor) for v in values) and not any(
        _held(v, inside) is not None for v in others
    ):
        return None
    kind: Any = type(value)
    try:
        kind.__new__(kind)
    except TypeError:  # it wants arguments
        return None
    return found


def is_opened(value: Any) -> bool:
    """Whether a value is a container that torch does not know, and that can be changed."""
    return not isinstance(value, Distribution) and _held(value) is not None


def held_in(container: Any) -> dict[Any, Any]:
    """What a container that torch does not know, or a named tuple, holds by name."""
    if isinstance(container, tuple):
        return dict(zip(getattr(container, "_fields", ()), container, strict=False))
    return _held(container) or {}


def is_foreign(value: Any) -> bool:
    """Whether somebody else taught torch to open and to make containers of this class."""
    kind = type(value)
    return kind in _pytree.SUPPORTED_NODES and not kind.__module__.startswith(_BUILTIN)


_BUILTIN = ("builtins", "collections")


def foreign_as_lists(tree: Any) -> Any:
    """The same, with a list of what they hold for containers that somebody taught torch to open.

    ``torch.export`` wants to be told of their sizes so.
    """

    def held(value: Any) -> Any:
        if not is_foreign(value):
            return value
        children, _ = _pytree.SUPPORTED_NODES[type(value)].flatten_fn(value)
        return [foreign_as_lists(child) for child in children]

    return _pytree.tree_map(held, tree, is_leaf=is_foreign)


def tree_flatten(
    tree: Any, is_leaf: Callable[[Any], bool] | None = None
) -> tuple[list[Any], TreeSpec]:
    """The leaves of a nested value, and how they fold back."""
    return _pytree.tree_flatten(opened(tree), is_leaf=is_leaf)


def tree_flatten_with_path(tree: Any) -> tuple[list[tuple[tuple[Any, ...], Any]], TreeSpec]:
    """The same with the path of every leaf: of containers that tell no names its number."""
    known = opened(tree)
    try:
        return _pytree.tree_flatten_with_path(known)
    except ValueError:  # registered without a function that gives keys
        leaves, spec = _pytree.tree_flatten(known)
        return [((SequenceKey(i),), leaf) for i, leaf in enumerate(leaves)], spec


def tree_leaves(tree: Any, is_leaf: Callable[[Any], bool] | None = None) -> list[Any]:
    """The leaves of a nested value."""
    return _pytree.tree_leaves(opened(tree), is_leaf=is_leaf)


def tree_tensors(tree: Any) -> list[Tensor]:
    """The tensors among the leaves of a nested value."""
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def tree_map(function: Callable[..., Any], tree: Any, *others: Any) -> Any:
    """Apply a function to every leaf."""
    return _pytree.tree_map(function, opened(tree), *map(opened, others))


def in_own_containers(tree: Any) -> Any:
    """The same leaves in new containers, of all that torch knows."""
    # torch.Size would come out as a tuple
    return _pytree.tree_map(lambda leaf: leaf, tree, is_leaf=lambda v: isinstance(v, torch.Size))


def tree_map_only(kind: type, function: Callable[..., Any], tree: Any) -> Any:
    """Apply a function to every leaf of a type."""
    return _pytree.tree_map_only(kind, function, opened(tree))


def tree_any(question: Callable[[Any], bool], tree: Any) -> bool:
    """Whether some leaf answers a question with yes."""
    return _pytree.tree_any(question, opened(tree))


__all__ = [
    "GetAttrKey",
    "KeyEntry",
    "MappingKey",
    "SequenceKey",
    "TreeSpec",
    "foreign_as_lists",
    "in_own_containers",
    "opened",
    "tree_any",
    "tree_flatten",
    "tree_flatten_with_path",
    "tree_leaves",
    "tree_map",
    "tree_map_only",
    "tree_tensors",
    "tree_unflatten",
]
