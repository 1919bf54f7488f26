"""Sizes stay sizes where a forward makes numbers of them, while a network is traced.

``int(math.ceil(height / 32))``, ``range(0, length, stride)`` and ``len(images)`` want Python's own
numbers, and what is traced with free sizes would be held to one of them. torch has the arithmetic
(``sym_int``, ``sym_float``), and no way to ask for it by these names. For the time of a trace the
modules that a network's code stands in therefore find names of ours before Python's; on all but
free sizes they do what Python's do.
"""

from __future__ import annotations

import builtins
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FunctionType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import nn

from weightscope.adapters.symbols import is_symbolic

_OWN = {"torch", "numpy", "weightscope"}


class _Kind(type):
    """A stand-in of one of Python's kinds of numbers: it makes them, and they are instances."""

    of: type
    free: Callable[[Any], Any]
    symbolic: type

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        if len(args) == 1 and isinstance(args[0], torch.SymInt | torch.SymFloat):
            return cls.free(args[0])
        return cls.of(*args, **kwargs)

    def __instancecheck__(cls, value: Any) -> bool:
        return isinstance(value, cls.of | cls.symbolic)

    def __subclasscheck__(cls, kind: type) -> bool:
        return issubclass(kind, cls.of)

    def __eq__(cls, other: object) -> bool:
        return other is cls.of or other is cls

    def __hash__(cls) -> builtins.int:
        return hash(cls.of)

    def __getattr__(cls, name: str) -> Any:
        return getattr(cls.of, name)


class _Int(metaclass=_Kind):
    of, free, symbolic = builtins.int, staticmethod(torch.sym_int), torch.SymInt
    dtype = np.dtype(builtins.int)  # what numpy asks a type for


class _Float(metaclass=_Kind):
    of, free, symbolic = builtins.float, staticmethod(torch.sym_float), torch.SymFloat
    dtype = np.dtype(builtins.float)


class _KindOf(type):
    """Stands for ``type``: what ``int`` makes is of the kind ``int``, as it is called here."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        made = builtins.type(*args, **kwargs)
        named = len(args) == 1 and not kwargs
        return next((k for k in (_Int, _Float) if named and made in (k.of, k.symbolic)), made)

    def __instancecheck__(cls, value: Any) -> bool:
        return isinstance(value, builtins.type)

    def __getattr__(cls, name: str) -> Any:
        return getattr(builtins.type, name)


class _Type(metaclass=_KindOf):
    pass


def _steps(*bounds: Any) -> Any:
    """Steps whose number is held, and whose bounds are not."""
    if not any(map(is_symbolic, bounds)):
        return builtins.range(*bounds)
    start, stop, step = (0, bounds[0], 1) if len(bounds) == 1 else (*bounds, 1)[:3]
    number = builtins.int(-((start - stop) // step))
    return [start + step * index for index in builtins.range(number)]


def _length(value: Any) -> Any:
    """How many a tensor holds, which Python's own makes a number."""
    tensor = isinstance(value, torch.Tensor) and value.dim() > 0
    return value.shape[0] if tensor else builtins.len(value)


_NAMES = {"int": _Int, "float": _Float, "range": _steps, "len": _length, "type": _Type}


@contextmanager
def free_numbers(model: nn.Module) -> Iterator[None]:
    """Let the code of a network, and of the packages that it is from, keep its sizes free."""
    changed: list[tuple[dict[str, Any], str]] = []
    try:
        for names in _namespaces(model):
            for name, stand_in in _NAMES.items():
                if name not in names:
                    names[name] = stand_in
                    changed.append((names, name))
        yield
    finally:
        for names, name in changed:
            del names[name]


def _namespaces(model: nn.Module) -> list[dict[str, Any]]:
    """Names of the modules that a network's classes are from, and that their functions are from."""
    kinds = {kind for module in model.modules() for kind in type(module).__mro__}
    own = _loaded({kind.__module__ for kind in kinds})
    used = {
        value.__module__
        for names in own
        for value in list(names.values())
        if isinstance(value, FunctionType) and value.__module__
    }
    return [*own, *(names for names in _loaded(used) if not any(names is o for o in own))]


def _loaded(modules: set[str]) -> list[dict[str, Any]]:
    """Names of all modules in the packages of some, but for torch's and Python's own."""
    packages = {name.partition(".")[0] for name in modules} - sys.stdlib_module_names - _OWN
    return [
        vars(module)
        for name, module in list(sys.modules.items())
        if name.partition(".")[0] in packages and isinstance(module, ModuleType)
    ]
