"""Sizes stay sizes where a forward makes numbers of them, while a network is traced.

``int(math.ceil(height / 32))``, ``range(0, length, stride)`` and ``len(images)`` want Python's own
numbers, and what is traced with free sizes would be held to one of them. torch has the arithmetic
(``sym_int``, ``sym_float``), and no way to ask for it by these names. For the time of a trace the
modules that a network's code stands in therefore find names of ours before Python's; on all but
free sizes they do what Python's do.
"""

from __future__ import annotations

import builtins
import math
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial, wraps
from inspect import unwrap
from types import FunctionType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from weightscope.adapters import pytree
from weightscope.adapters.symbols import hint, is_symbolic

_OWN = {"torch", "numpy", "weightscope", "typing_extensions"}


class _Kind(type):
    """A stand-in of one of Python's kinds of numbers: it makes them, and they are instances."""

    of: type
    free: Callable[[Any], Any]
    symbolic: type

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        given = _plain(args[0]) if len(args) == 1 else None
        if isinstance(given, torch.SymInt | torch.SymFloat):
            return cls.free(given)
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


class _Planned(metaclass=_Kind):
    of, free, symbolic = builtins.int, staticmethod(hint), torch.SymInt


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


_OPERATORS = (
    *("add", "sub", "mul", "truediv", "floordiv", "mod", "pow"),
    *("radd", "rsub", "rmul", "rtruediv", "rfloordiv", "neg", "eq", "ne", "lt", "le", "gt", "ge"),
)
_ROUNDED = {"int": torch.sym_int, "long": torch.sym_int, "ceil": math.ceil, "floor": math.floor}
_KEPT = {"float": torch.sym_float, "double": torch.sym_float, "cpu": lambda n: n}
_SHAPED = {
    "flatten": lambda a: a.reshape(-1),
    "t": lambda a: a.T,
    "tolist": lambda a: a.tolist(),
    "item": lambda a: a.item(),
    "sum": lambda a: a.sum(keepdims=True).reshape(()),
    "prod": lambda a: a.prod(keepdims=True).reshape(()),
}


class SizesInATensor:
    """What ``torch.tensor(x.shape)`` stands for while sizes are free: numbers that follow them.

    Arithmetic, rounding and what only arranges them give sizes again; for all else it is the tensor
    that torch makes, whose numbers nobody knows.

    Args:
        numbers: Sizes and numbers, as Python's objects.
        device: Of the tensor.
    """

    def __init__(self, numbers: Any, device: Any = None) -> None:
        self.numbers = np.asarray(numbers, dtype=object)
        self.device = torch.get_default_device() if device is None else torch.device(device)

    @property
    def tensor(self) -> torch.Tensor:
        """The same as a tensor; torch makes numbers of free sizes in a list, and not of one."""
        own = [*self.numbers.reshape(-1)]
        if not any(map(is_symbolic, own)):
            return torch.tensor(self.numbers.tolist(), device=self.device)
        whole = all(isinstance(n, int | torch.SymInt) for n in own)
        dtype = torch.int64 if whole else torch.get_default_dtype()
        each = [torch.scalar_tensor(n, dtype=dtype, device=self.device) for n in own]
        return torch.stack(each).reshape(self.numbers.shape)

    def __getitem__(self, place: Any) -> SizesInATensor:
        return self.holding(self.numbers[place])

    def holding(self, numbers: Any) -> SizesInATensor:
        """Other numbers on the same device."""
        return SizesInATensor(numbers, self.device)

    def __len__(self) -> int:
        return len(self.numbers)

    def __int__(self) -> Any:
        return builtins.int(self.numbers.item())

    def __getattr__(self, name: str) -> Any:
        return partial(_of_sizes, name, self) if name in _METHODS else getattr(self.tensor, name)

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Do to the numbers what a function of torch does to tensors."""
        name = getattr(func, "__name__", "")
        if not kwargs and name in _METHODS and len(args) == 1:
            return _of_sizes(name, *args)
        if func in _DIVIDES and isinstance(args[0], cls) and not _are_tensors(args[1:]):
            return _divided(func, *args, **(kwargs or {}))
        if func in _JOINS and all(isinstance(part, cls) for part in args[0]):
            axis = args[1] if len(args) > 1 else (kwargs or {}).get("dim", 0)
            parts = [part.numbers for part in args[0]]
            joined = np.stack if func is torch.stack else np.concatenate
            return args[0][0].holding(joined(parts, axis))
        args, kwargs = pytree.tree_map(as_tensor, (tuple(args), kwargs or {}))
        return func(*args, **kwargs)


def as_tensor(value: Any) -> Any:
    """Sizes in a tensor as torch knows them; anything else as it is."""
    return value.tensor if isinstance(value, SizesInATensor) else value


def _of_sizes(name: str, sizes: SizesInATensor) -> Any:
    if name in ("tolist", "item"):
        return _SHAPED[name](sizes.numbers)
    if name in _SHAPED:
        return sizes.holding(_SHAPED[name](sizes.numbers))
    each = {**_ROUNDED, **_KEPT}[name]
    numbers = [each(n) for n in sizes.numbers.reshape(-1)]
    return sizes.holding(np.array(numbers, dtype=object).reshape(sizes.numbers.shape))


_METHODS = {*_ROUNDED, *_KEPT, *_SHAPED}
_DIVIDES = (torch.div, torch.divide, torch.true_divide, torch.floor_divide)
_JOINS = (torch.stack, torch.cat)


def _divided(func: Any, dividend: Any, divisor: Any, rounding_mode: str | None = None) -> Any:
    """A quotient of sizes, rounded as torch does it."""
    dividend = dividend if isinstance(dividend, SizesInATensor) else SizesInATensor(dividend)
    if rounding_mode == "floor" or func is torch.floor_divide:
        return dividend // divisor
    found = dividend / divisor
    return found if rounding_mode is None else found.int()


class _Sizes(tuple[Any, ...]):
    """The sizes of a tensor, some of them free, of which torch's own class multiplies numbers."""

    __slots__ = ()

    def numel(self) -> Any:
        """How many elements there are."""
        return math.prod(self)

    def __getitem__(self, place: Any) -> Any:
        found = super().__getitem__(place)
        return _Sizes(found) if isinstance(place, slice) else found

    def __add__(self, others: tuple[Any, ...]) -> Any:
        return _Sizes((*self, *others))


def _with_torch_sizes(values: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(torch.Size(value) if isinstance(value, _Sizes) else value for value in values)


_SIZES = (torch.Tensor.shape.__get__, torch.Tensor.size)  # type: ignore[attr-defined]


class _AsSizes(TorchFunctionMode):
    """Gives sizes in tensors as sizes where they are one of several arguments, or bound a slice."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Divide sizes that are given to torch as numbers, and call all else with sizes."""
        if func in _DIVIDES and any(map(is_symbolic, args[:1])) and not _are_tensors(args[1:]):
            return _divided(func, *args, **(kwargs or {}))
        if func in _JOINS:
            return func(*args, **(kwargs or {}))
        if func in _SIZES:
            sizes = func(*args, **(kwargs or {}))
            free = isinstance(sizes, torch.Size) and any(map(is_symbolic, sizes))
            return _Sizes(sizes) if free else sizes
        if func is torch.Tensor.new_tensor and _are_sizes(args[1:]):
            like, numbers = args
            given = {"dtype": like.dtype, "device": like.device, **(kwargs or {})}
            return _holding(numbers, given["device"], given["dtype"])
        args = tuple(_plain(arg) if isinstance(arg, _SEVERAL) else arg for arg in args)
        kwargs = {k: _plain(v) if isinstance(v, _SEVERAL) else v for k, v in (kwargs or {}).items()}
        return func(*args, **kwargs)


def _are_tensors(values: Sequence[Any]) -> bool:
    return any(isinstance(value, torch.Tensor) for value in values)


_SEVERAL = (list, tuple, slice)


def _plain(value: Any) -> Any:
    """The size in a tensor of one, also where it stands among others."""
    if isinstance(value, SizesInATensor) and value.numbers.size == 1:
        return value.numbers.item()
    if isinstance(value, _Sizes):
        return torch.Size(value)  # torch takes free sizes from its own class alone
    if isinstance(value, slice):
        return slice(_plain(value.start), _plain(value.stop), _plain(value.step))
    if type(value) in (list, tuple):
        return type(value)(map(_plain, value))
    return value


def _operator(name: str) -> Any:
    def apply(self: SizesInATensor, *others: Any) -> Any:
        if any(isinstance(other, torch.Tensor) for other in others):
            return getattr(self.tensor, f"__{name}__")(*others)
        given = [other.numbers if isinstance(other, SizesInATensor) else other for other in others]
        return self.holding(getattr(self.numbers, f"__{name}__")(*given))

    return apply


for _name in _OPERATORS:
    setattr(SizesInATensor, f"__{_name}__", _operator(_name))


def _are_sizes(values: Sequence[Any]) -> bool:
    """Whether there are numbers alone, and free sizes among them."""
    leaves = pytree.tree_leaves(values)
    plain = all(isinstance(leaf, torch.SymInt | torch.SymFloat | int | float) for leaf in leaves)
    return plain and any(map(is_symbolic, leaves))


def _holding(numbers: Any, device: Any, dtype: torch.dtype | None) -> SizesInATensor:
    made = SizesInATensor(numbers, device)
    if dtype is None:
        return made
    rounded: SizesInATensor = made.float() if dtype.is_floating_point else made.int()
    return rounded


def _of_free_sizes(original: Callable[..., Any], thread: int) -> Callable[..., Any]:
    @wraps(original)
    def make(*args: Any, **kwargs: Any) -> Any:
        args = _with_torch_sizes(args)
        named = len(args) == 1 and kwargs.keys() <= {"dtype", "device"}
        if not (named and _asks(thread) and _are_sizes(args)):
            return original(*args, **kwargs)
        return _holding(args[0], kwargs.get("device"), kwargs.get("dtype"))

    return make


def _of_the_default_type(original: Callable[..., Any], thread: int) -> Callable[..., Any]:
    """``torch.Tensor([height, width])``; of a ``torch.Size`` it makes a tensor of that size."""

    def make(kind: type, *args: Any, **kwargs: Any) -> Any:
        args = _with_torch_sizes(args)
        listed = len(args) == 1 and type(args[0]) in (list, tuple) and not kwargs
        if not (listed and kind is torch.Tensor and _asks(thread) and _are_sizes(args)):
            return original(kind, *args, **kwargs)
        return _holding(args[0], None, torch.get_default_dtype())

    return make


def _asks(thread: int) -> bool:
    """Whether code outside torch, in the thread that traces, has called the caller."""
    outside = not sys._getframe(2).f_code.co_filename.startswith(_TORCH)
    return outside and threading.get_ident() == thread


_TORCH = os.path.dirname(torch.__file__) + os.sep


_NAMES = {"int": _Int, "float": _Float, "range": _steps, "len": _length, "type": _Type}


@contextmanager
def free_numbers(model: nn.Module) -> Iterator[None]:
    """Let the code of a network, and of the packages that it is from, keep its sizes free."""
    changed: list[tuple[dict[str, Any], str]] = []
    makers = {name: getattr(torch, name) for name in ("tensor", "as_tensor")}
    own = vars(torch.Tensor).get("__new__")  # of whoever exchanged it before
    try:
        for name, maker in makers.items():
            setattr(torch, name, _of_free_sizes(maker, threading.get_ident()))
        made = _of_the_default_type(torch.Tensor.__new__, threading.get_ident())
        torch.Tensor.__new__ = staticmethod(made)  # type: ignore[method-assign]
        for names in _namespaces(model):
            for name, stand_in in _NAMES.items():
                if name not in names:
                    names[name] = stand_in
                    changed.append((names, name))
        with _AsSizes():
            yield
    finally:
        for name, maker in makers.items():
            setattr(torch, name, maker)
        if own is not None:
            torch.Tensor.__new__ = own  # type: ignore[method-assign]
        elif "__new__" in vars(torch.Tensor):
            del torch.Tensor.__new__
        for names, name in changed:
            del names[name]


_PLANNERS = ("opt_einsum.contract",)
"""Modules that choose by sizes in which order something is computed, and not what."""


@contextmanager
def planned() -> Iterator[None]:
    """Let such modules plan with the sizes of the example, which are then held to nothing."""
    used = [vars(sys.modules[name]) for name in _PLANNERS if name in sys.modules]
    changed = [names for names in used if "int" not in names]
    for names in changed:
        names["int"] = _Planned
    try:
        yield
    finally:
        for names in changed:
            del names["int"]


def _namespaces(model: nn.Module) -> list[dict[str, Any]]:
    """Names of the modules that a network's classes are from, and that their functions are from.

    Of classes that no import knows, as those of a file that was run by its path, the names that
    their methods find.
    """
    kinds = {kind for module in model.modules() for kind in type(module).__mro__}
    methods = (value for kind in kinds for value in vars(kind).values())
    own = [*_loaded({kind.__module__ for kind in kinds}), *_found_by(methods)]
    functions = [v for names in own for v in list(names.values()) if isinstance(v, FunctionType)]
    used = _loaded({value.__module__ for value in functions if value.__module__})
    return list({id(names): names for names in (*own, *used, *_found_by(functions))}.values())


def _found_by(values: Iterable[Any]) -> list[dict[str, Any]]:
    """Names that functions find in their modules, but for those of torch's and Python's own."""
    inner = (v.__func__ if isinstance(v, staticmethod | classmethod) else v for v in values)
    functions = (unwrap(value) for value in inner if isinstance(value, FunctionType))
    names = [f.__globals__ for f in functions if isinstance(f, FunctionType)]
    return [found for found in names if _is_theirs(str(found.get("__name__", "")))]


def _is_theirs(module: str) -> bool:
    package = module.partition(".")[0]
    return package not in _OWN and package not in sys.stdlib_module_names


def _loaded(modules: set[str]) -> list[dict[str, Any]]:
    """Names of all modules in the packages of some, but for torch's and Python's own."""
    packages = {name.partition(".")[0] for name in modules} - sys.stdlib_module_names - _OWN
    return [
        vars(module)
        for name, module in list(sys.modules.items())
        if name.partition(".")[0] in packages and isinstance(module, ModuleType)
    ]
