"""What a forward leaves in its modules, and whether later calls depend on it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from weightscope.adapters import modules, pytree
from weightscope.adapters.dispatch import TorchDispatchMode, storage_of, writes_of
from weightscope.adapters.schemas import schema_name
from weightscope.graph.operators import facts
from weightscope.restoring import held_by

_OF_TORCH = frozenset(vars(nn.Module()))
_FEW = 256  # numbers of a tensor that are looked at
_MOST = 1000  # objects in one attribute that are looked at
_MANY = 10**6  # calls that numbers are made to count


class Descent(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes what is computed from some tensors while it is on.

    Args:
        origins: The tensors, by what they are called.
    """

    def __init__(self, origins: Mapping[str, Iterable[torch.Tensor]]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._names: dict[int, frozenset[str]] = {}
        self._alive: list[torch.Tensor] = []  # or another tensor may get the memory
        for name, tensors in origins.items():
            for tensor in tensors:
                self._note(tensor, frozenset([name]))

    def of(self, values: Any) -> frozenset[str]:
        """The names of the tensors that any of some values was computed from."""
        tensors = pytree.tree_tensors(values)
        return frozenset().union(*(self._names.get(storage_of(t), frozenset()) for t in tensors))

    def _note(self, tensor: torch.Tensor, names: frozenset[str]) -> None:
        self._names[storage_of(tensor)] = names
        self._alive.append(tensor)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        names = self.of((args, kwargs))
        made = func(*args, **(kwargs or {}))
        if names and facts(schema_name(func).removesuffix("_")).view != "none":
            for value in pytree.tree_leaves(made):
                if isinstance(value, torch.Tensor):
                    self._note(value, names | self.of(value))
        return made


def state_of(model: nn.Module) -> dict[str, Any]:
    """What hangs on the modules of a model now, by attribute, in a form that compares.

    Of weights, and of other tensors that are large, it says which they are and whether they were
    written into.
    """
    return {
        f"{path}.{name}" if path else name: _told(value)
        for path, module in model.named_modules()
        for name, value in _attributes(module).items()
    }


def changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Names of the attributes that hold something else now; both from `state_of`."""
    return [name for name in now if name not in before or before[name] != now[name]]


def advance(model: nn.Module, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Let numbers that a call changed go on as if many more had.

    Args:
        model: Its attributes and buffers are set.
        before: From `state_of`, before that call.
        now: From `state_of`, after it.
    """
    for path, module in model.named_modules():
        for name, value in _attributes(module).items():
            known = f"{path}.{name}" if path else name
            old, new = _number(before.get(known)), _number(now[known])
            of_one = type(value) in (int, float, torch.Tensor)
            if of_one and old is not None and new is not None and old != new:
                setattr(module, name, value + _MANY * (new - old))


def _attributes(module: nn.Module) -> dict[str, Any]:
    own = {name: value for name, value in vars(module).items() if name not in _OF_TORCH}
    return {**own, **modules.buffers(module), **modules.parameters(module)}


def _number(told: Any) -> Any:
    """The number in what `state_of` says of an attribute; None where it is none."""
    number = told[0] if type(told) is list and len(told) == 1 else None
    return number if type(number) in (int, float) else None


def _told(value: Any) -> Any:
    """An attribute as what compares: all that it holds; a number alone."""
    if type(value) is torch.Tensor and value.numel() == 1 and not value.is_meta:
        value = value.item()
    waiting, seen, told = deque([value]), set[int](), list[Any]()
    while waiting and len(told) < _MOST:
        held = waiting.popleft()
        if isinstance(held, nn.Module) or id(held) in seen:
            continue
        told.append(_alone(held))
        if not isinstance(held, _ATOMS | torch.Tensor):
            seen.add(id(held))
            waiting.extend(held_by(held))
    return told


_ATOMS = int | float | complex | str | bytes | type | None


def _alone(value: Any) -> Any:
    """What one object says of itself, without what it holds."""
    if isinstance(value, _ATOMS):
        return value
    if isinstance(value, torch.Tensor):
        few = value.numel() <= _FEW and value.layout == torch.strided and not value.is_meta
        return (tuple(value.shape), value.tolist()) if few else _Large(value, writes_of(value))
    if isinstance(value, np.ndarray):
        return (value.shape, value.tolist()) if value.size <= _FEW else None
    if isinstance(value, torch.Generator):
        return value.get_state().tolist()
    return type(value), len(value) if isinstance(value, dict | list | tuple | set | deque) else 0


@dataclass(frozen=True)
class _Large:
    """A tensor of many numbers: the same one, and as often written into."""

    tensor: torch.Tensor  # kept, or another may get its identity
    version: int

    def __eq__(self, other: object) -> bool:
        same = isinstance(other, _Large) and self.tensor is other.tensor
        return same and self.version == other.version  # type: ignore[attr-defined]
