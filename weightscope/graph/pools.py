"""Windows, grids, factors and pads that follow the image's size, kept so while a network is traced.

``avg_pool2d(x, x.shape[-2:])`` pools the whole image, ``adaptive_max_pool2d(x, y.shape[-2:])``
brings a map to the size of another, ``linspace(-1, 1, x.shape[-1])``, numpy's too, counts columns,
``interpolate(table, scale_factor=x.shape[-1] / 37)`` brings a table to it, and
``istft(spectra, 512, length=x.shape[-1])`` gives as many samples. The operators take these sizes as
numbers, so that the tracer would write the example's size into the graph, which then holds at no
other. Here such calls become operators of our own, which take sizes like any other.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from numbers import Real
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from weightscope.adapters.rewriting import Table
from weightscope.adapters.symbols import hint, is_symbolic, key
from weightscope.restoring import finished

_LIBRARY = torch.library.Library("weightscope", "FRAGMENT")  # type: ignore[no-untyped-call]


def _shape_only(x: Tensor, kernel_size: Sequence[int]) -> Tensor:
    """What tracing needs of a pooling; a traced operator of ours is never run."""
    spatial = x.shape[-len(kernel_size) :]
    made = [size // window for size, window in zip(spatial, kernel_size, strict=True)]
    return x.new_empty([*x.shape[: -len(kernel_size)], *made])


def _pooling(name: str, sizes: str, shapes: Callable[..., Tensor]) -> Any:
    """An operator of our own that pools a map by sizes."""
    _LIBRARY.define(f"{name}(Tensor x, SymInt[] {sizes}) -> Tensor")  # type: ignore[no-untyped-call]
    _LIBRARY.impl(name, shapes, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
    return getattr(torch.ops.weightscope, name).default


AVERAGE = _pooling("average", "kernel_size", _shape_only)
MAXIMUM = _pooling("maximum", "kernel_size", _shape_only)

_AVERAGES = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)
_MAXIMA = (torch.max_pool1d, torch.max_pool2d, torch.max_pool3d)
# torch hands a function of its Python layer over first, the operator behind it later
_HANDED_OVER = (F.max_pool1d, F.max_pool2d, F.max_pool3d)


def average(x: Tensor, kernel_size: Sequence[int]) -> Tensor:
    """Average pooling without overlap; what a coarse graph calls for ``AVERAGE``."""
    pool: Callable[..., Tensor] = _AVERAGES[len(kernel_size) - 1]
    return pool(x, tuple(kernel_size))


def maximum(x: Tensor, kernel_size: Sequence[int]) -> Tensor:
    """Max-pooling without overlap; what a coarse graph calls for ``MAXIMUM``."""
    pool: Callable[..., Tensor] = _MAXIMA[len(kernel_size) - 1]
    return pool(x, tuple(kernel_size))


def _operator(schema: str, shapes: Callable[..., Tensor]) -> Any:
    """An operator of our own by its schema, of which tracing needs the shapes alone."""
    name = schema.partition("(")[0]
    _LIBRARY.define(schema)  # type: ignore[no-untyped-call]
    torch.library.register_fake(f"weightscope::{name}", shapes, lib=_LIBRARY)
    return getattr(torch.ops.weightscope, name).default


def _steps_only(start: Any, end: Any, steps: Any, dtype: Any, device: Any) -> Tensor:
    """What tracing needs of a grid."""
    return torch.empty(steps, dtype=dtype, device=device)


LINSPACE = _operator(
    "linspace(Scalar start, Scalar end, SymInt steps, ScalarType? dtype, Device? device) -> Tensor",
    _steps_only,
)


def linspace(start: Any, end: Any, steps: Any, dtype: Any, device: Any) -> Tensor:
    """Evenly spaced numbers; what a coarse graph calls for ``LINSPACE``."""
    return torch.linspace(start, end, steps, dtype=dtype, device=device)


NUMPY_LINSPACE = _operator(
    "numpy_linspace(float start, float end, SymInt steps, bool ends) -> Tensor",
    lambda start, end, steps, ends: torch.empty(steps, dtype=torch.float64, device="cpu"),
)


def numpy_linspace(start: float, end: float, steps: int, ends: bool) -> Tensor:
    """Numpy's evenly spaced numbers; what a coarse graph calls for ``NUMPY_LINSPACE``."""
    return torch.from_numpy(np.linspace(start, end, steps, endpoint=ends))


@contextmanager
def grids_of_numpy() -> Iterator[None]:
    """Trace ``torch.tensor(np.linspace(0, 1, x.shape[-1]))`` in this thread as torch's own grids.

    It must not be entered by two threads at once.
    """
    original, from_numpy, mine = np.linspace, torch.from_numpy, threading.get_ident()

    def linspace(
        start: Any, stop: Any, num: Any = 50, endpoint: bool = True, *others: Any, **more: Any
    ) -> Any:
        free = isinstance(num, torch.SymInt) and threading.get_ident() == mine
        plain = not others and not more and all(isinstance(n, Real) for n in (start, stop))
        if not free or not plain:
            return original(start, stop, num, endpoint, *others, **more)
        return NUMPY_LINSPACE(float(start), float(stop), num, bool(endpoint))

    def taken(numbers: Any) -> Any:
        return numbers if isinstance(numbers, Tensor) else from_numpy(numbers)

    try:
        np.linspace, torch.from_numpy = linspace, taken  # type: ignore[assignment]
        yield
    finally:
        finished(
            partial(setattr, np, "linspace", original),
            partial(setattr, torch, "from_numpy", from_numpy),
        )


def _copied(func: Any, data: Any, **how: Any) -> Any:
    """A new tensor of numbers of numpy's, which are one already while a network is traced."""
    asks = how.get("requires_grad") or how.get("pin_memory")
    if asks or not isinstance(data, Tensor) or not any(map(is_symbolic, data.shape)):
        return func(data, **how)
    given = {name: how[name] for name in ("dtype", "device") if how.get(name) is not None}
    copied = data.detach().clone()
    return copied.to(**given) if given else copied


def _resized_only(x: Tensor, factors: Any, size: Sequence[Any], *how: Any) -> Tensor:
    """What tracing needs of a resizing."""
    return x.new_empty([*x.shape[:2], *size])


RESIZED = _operator(
    "resized(Tensor x, Scalar[] factors, SymInt[] size, str mode, bool? corners, bool smooth)"
    " -> Tensor",
    _resized_only,
)


def resized(
    x: Tensor, factors: Sequence[float], size: Any, mode: str, corners: bool | None, smooth: bool
) -> Tensor:
    """Resize by factors; what a coarse graph calls for ``RESIZED``."""
    return F.interpolate(
        x, scale_factor=list(factors), mode=mode, align_corners=corners, antialias=smooth
    )


def _samples_only(x: Tensor, n_fft: int, *how: Any) -> Tensor:
    """What tracing needs of an inverse transform to a length."""
    return x.new_empty([*x.shape[:-2], how[-1]], dtype=x.dtype.to_real())


ISTFT = _operator(
    "istft(Tensor x, int n_fft, int? hop, int? win, Tensor? window, bool center, bool normalized,"
    " bool? onesided, SymInt length) -> Tensor",
    _samples_only,
)


def istft(x: Tensor, n_fft: int, *how: Any) -> Tensor:
    """The inverse transform to a length; what a coarse graph calls for ``ISTFT``."""
    return torch.istft(x, n_fft, *how)


# the average along two or three sides takes such sizes as it is
_FITTED_MAXIMA = (F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.adaptive_max_pool3d)
_FITTED_AVERAGE = F.adaptive_avg_pool1d


def _fitted_only(x: Tensor, output_size: Sequence[Any]) -> Tensor:
    """What tracing needs of a pooling to a size."""
    return x.new_empty([*x.shape[: -len(output_size)], *output_size])


FITTED_AVERAGE = _pooling("fitted_average", "output_size", _fitted_only)
FITTED_MAXIMUM = _pooling("fitted_maximum", "output_size", _fitted_only)


def fitted_average(x: Tensor, output_size: Sequence[int]) -> Tensor:
    """Average pooling of a signal to a size; what a coarse graph calls for ``FITTED_AVERAGE``."""
    return _FITTED_AVERAGE(x, tuple(output_size))


def fitted_maximum(x: Tensor, output_size: Sequence[int]) -> Tensor:
    """Max-pooling to a size; what a coarse graph calls for ``FITTED_MAXIMUM``."""
    pool: Callable[..., Tensor] = _FITTED_MAXIMA[len(output_size) - 1]
    return pool(x, tuple(output_size))


PLAIN: Mapping[Any, Callable[..., Tensor]] = {
    AVERAGE: average,
    MAXIMUM: maximum,
    FITTED_AVERAGE: fitted_average,
    FITTED_MAXIMUM: fitted_maximum,
    LINSPACE: linspace,
    NUMPY_LINSPACE: numpy_linspace,
    RESIZED: resized,
    ISTFT: istft,
}
"""The function that runs in the place of each operator."""

_REPLACED = ((_AVERAGES, AVERAGE), (_MAXIMA, MAXIMUM), (_HANDED_OVER, MAXIMUM))


def _given_a_size(taken: Any, operator: Any, func: Any, *args: Any, **kwargs: Any) -> Any:
    """Call the operator where it takes something that follows the image."""
    given = taken(*args, **kwargs)
    return func(*args, **kwargs) if given is None else operator(*given)


_JOINS = (torch.cat, torch.concat, torch.concatenate)
_SUMS = (torch.add, Tensor.add, Tensor.__add__, Tensor.__radd__, Tensor.__iadd__, Tensor.add_)


class FittedPads:
    """Traces what pads a map to the size of another as padding by what it lacks to that.

    ``if x.shape[-1] != skip.shape[-1]: pads[1] = 1`` says in a number what follows from the sizes.
    """

    def __init__(self) -> None:
        self._padded: dict[int, tuple[Tensor, Callable[[Sequence[Any]], Tensor], list[Any]]] = {}

    def table(self) -> Table:
        """What keeps what is padded by numbers, and pads it anew where it meets another map."""
        return {F.pad: self._pad, **dict.fromkeys((*_JOINS, *_SUMS), self._meet)}

    def _meet(self, func: Any, *args: Any, **kwargs: Any) -> Any:
        if self._padded and args:
            joined = isinstance(args[0], list | tuple)
            maps = self._fitted(args[0] if joined else args[:2])
            args = (maps, *args[1:]) if joined else (*maps, *args[2:])
        return func(*args, **kwargs)

    def _pad(self, func: Any, *args: Any, **kwargs: Any) -> Any:
        made = func(*args, **kwargs)
        if len(args) > 1 and all(type(n) is int for n in args[1]):
            pad = partial(_padded, func, args, kwargs)
            self._padded[id(made)] = made, pad, list(args[1])
        return made

    def _fitted(self, maps: Sequence[Any]) -> list[Any]:
        """Maps of which those that were padded by numbers are as large as the others."""
        whole = [m for m in maps if isinstance(m, Tensor) and id(m) not in self._padded]
        return [self._as_large(m, whole[0]) if whole else m for m in maps]

    def _as_large(self, padded: Any, other: Tensor) -> Any:
        if id(padded) not in self._padded or other.dim() != padded.dim():
            return padded
        _, pad, pads = self._padded[id(padded)]
        axes = [-1 - place // 2 for place in range(1, len(pads), 2)]
        sizes = [(other.shape[axis], padded.shape[axis]) for axis in axes]
        if not all(hint(a) == hint(b) for a, b in sizes):
            return padded
        more = [a - b if key(a) != key(b) else 0 for a, b in sizes]
        if not any(map(is_symbolic, more)):
            return padded
        return pad([n + more[place // 2] if place % 2 else n for place, n in enumerate(pads)])


def _padded(func: Any, args: tuple[Any, ...], kwargs: Any, pads: Sequence[Any]) -> Tensor:
    made: Tensor = func(args[0], pads, *args[2:], **kwargs)
    return made


def _grid(
    start: Any,
    end: Any,
    steps: Any = None,
    *,
    dtype: torch.dtype | None = None,
    device: Any = None,
    **others: Any,
) -> tuple[Any, ...] | None:
    """The arguments of a grid of numbers with as many steps as a size that is not fixed."""
    ends_are_numbers = not any(isinstance(given, Tensor) for given in (start, end))
    if not isinstance(steps, torch.SymInt) or not ends_are_numbers or any(others.values()):
        return None
    place = torch.get_default_device() if device is None else torch.device(device)
    return start, end, steps, dtype or torch.get_default_dtype(), place


def _factors(
    input: Tensor,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> tuple[Any, ...] | None:
    """The arguments of a resizing by factors of which one follows a size that is not fixed."""
    sides = input.shape[2:]
    given = scale_factor if isinstance(scale_factor, list | tuple) else [scale_factor] * len(sides)
    if recompute_scale_factor or not any(map(is_symbolic, given)):
        return None
    factors = [torch.sym_float(by) for by in given]  # type: ignore[no-untyped-call]
    made = [
        torch.sym_int(side * by)  # type: ignore[no-untyped-call]
        for side, by in zip(sides, factors, strict=True)
    ]
    return input, factors, made, mode, align_corners, antialias


def _transformed(
    input: Tensor,
    n_fft: int,
    hop_length: int | None = None,
    win_length: int | None = None,
    window: Tensor | None = None,
    center: bool = True,
    normalized: bool = False,
    onesided: bool | None = None,
    length: Any = None,
    return_complex: bool = False,
) -> tuple[Any, ...] | None:
    """The arguments of an inverse transform of spectra, with the length that it gives by itself."""
    if return_complex:
        return None
    if length is None:
        hop = (win_length or n_fft) // 4 if hop_length is None else hop_length
        length = n_fft + hop * (input.shape[-1] - 1) - center * 2 * (n_fft // 2)
    how = hop_length, win_length, window, center, normalized, onesided, length
    return input, n_fft, *how


def _window(
    dimensions: int,
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    *others: Any,
    **more: Any,
) -> tuple[Tensor, list[Any]] | None:
    """What is pooled without overlap and padding, and by which windows, where one is not fixed."""
    window = list(kernel_size) if isinstance(kernel_size, list | tuple) else [kernel_size]
    window = window * dimensions if len(window) == 1 else window
    plain = stride in (None, [], (), kernel_size) and not _any(padding)
    is_free = any(isinstance(size, torch.SymInt) for size in window)
    if is_free and plain and not any(map(_any, (*others, *more.values()))):
        return input, window
    return None


def _sides(
    dimensions: int, input: Tensor, output_size: Any, return_indices: bool = False
) -> tuple[Tensor, list[Any]] | None:
    """What is pooled, and to which size, where that is not fixed (None: a side stays)."""
    given = list(output_size) if isinstance(output_size, list | tuple) else [output_size]
    given = given * dimensions if len(given) == 1 else given
    whole = input.shape[-dimensions:]
    made = [side if size is None else size for side, size in zip(whole, given, strict=True)]
    free = any(isinstance(size, torch.SymInt) for size in made)
    return (input, made) if free and not return_indices else None


def _any(value: Any) -> bool:
    """Whether a setting is anything but its default: no padding, no dilation, no rounding up."""
    if isinstance(value, list | tuple):
        return any(map(_any, value))
    return value not in (0, 1, None)


def _drawn(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Draw without naming a generator that is none: torch takes free sizes only so."""
    if kwargs.get("generator", function) is None:
        kwargs = {name: value for name, value in kwargs.items() if name != "generator"}
    return function(*args, **kwargs)


FREE_DRAWS: Table = dict.fromkeys((torch.rand, torch.randn, torch.randint, torch.randperm), _drawn)
"""Traces random numbers whose sizes follow the image."""

FREE_SIZES: Table = {
    F.interpolate: partial(_given_a_size, _factors, RESIZED),
    torch.linspace: partial(_given_a_size, _grid, LINSPACE),
    torch.tensor: _copied,
    **{
        function: partial(_given_a_size, partial(_window, dimensions), operator)
        for functions, operator in _REPLACED
        for dimensions, function in enumerate(functions, 1)
    },
    **{
        function: partial(_given_a_size, partial(_sides, dimensions), FITTED_MAXIMUM)
        for dimensions, function in enumerate(_FITTED_MAXIMA, 1)
    },
    _FITTED_AVERAGE: partial(_given_a_size, partial(_sides, 1), FITTED_AVERAGE),
}
"""Traces poolings, grids and resizings whose windows, steps and factors follow the image."""

WHOLE_TRANSFORMS: Table = dict.fromkeys(
    (torch.istft, Tensor.istft), partial(_given_a_size, _transformed, ISTFT)
)
"""Keeps inverse transforms whole: torch's own reads the sum of its windows, and fixes a length."""
