"""What an operator says of itself: name, arguments, aliasing, tags."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import torch

from weightscope.adapters.needed import needed

_OPERATOR = type(torch.ops.aten.relu.default)
with needed():  # what the functions below read
    _SCHEMA = torch.ops.aten.relu.default._schema


def is_operator(target: object) -> bool:
    """Whether the target of a call is an operator of the dispatcher (one overload of it)."""
    return isinstance(target, _OPERATOR)


def schema_name(target: Any) -> str:
    """Namespace and name of an operator, ``"aten::add_"``; empty for a plain function."""
    return str(target._schema.name) if is_operator(target) else ""


def packet(target: Any) -> Any:
    """The operator with all its overloads, of one of them; None for a plain function."""
    return _packet(schema_name(target))


def _packet(name: str) -> Any:
    """The operator of this name, ``"aten::add"``; None where there is none."""
    namespace, _, plain = name.partition("::")
    return getattr(getattr(torch.ops, namespace), plain, None) if plain else None


def parameters(target: Any) -> Iterator[tuple[str, Any]]:
    """Name and default of each argument of an operator, in order; None where it has no default."""
    if is_operator(target):
        for argument in target._schema.arguments:
            yield argument.name, argument.default_value


def is_mutable(target: Any) -> bool:
    """Whether an operator changes one of its arguments."""
    return is_operator(target) and bool(target._schema.is_mutable)


def returns_views_only(target: Any) -> bool:
    """Whether an operator makes no new memory: all results are views, or there is none."""
    return is_operator(target) and all(
        result.alias_info is not None and not result.alias_info.is_write
        for result in target._schema.returns
    )


@functools.cache
def is_pointwise(name: str) -> bool:
    """Whether torch tags an operator (``"aten::add"``) as working on each element alone."""
    found = _packet(name)
    if found is None:
        return False
    return any(torch.Tag.pointwise in getattr(found, o).tags for o in found.overloads())


def writes_into(target: Any) -> tuple[str, ...]:
    """Names of the arguments that an operator writes into."""
    if not is_mutable(target):
        return ()
    arguments = target._schema.arguments
    return tuple(a.name for a in arguments if a.alias_info is not None and a.alias_info.is_write)


def looks_into(target: Any) -> tuple[str, ...]:
    """Names of the arguments whose memory an operator's result may show."""
    if not is_operator(target):
        return ()
    return tuple(a.name for a in target._schema.arguments if a.alias_info is not None)
