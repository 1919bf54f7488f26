"""Arithmetic of free sizes kept in whole numbers while a forward is traced."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from weightscope.adapters.quotients import left_over, nearest, never_below, root, rounded
from weightscope.adapters.switches import Shared

_ROOT = "sqrt"  # what numpy asks a number for that it does not know

_SIZES: dict[int, dict[Any, torch.SymInt]] = {}
"""Sizes of the input by symbol, of each thread that traces a forward."""


def _rounding(up: bool | None, original: Any) -> Any:
    def rounds(value: torch.SymFloat) -> Any:
        sizes = _SIZES.get(threading.get_ident())
        found = None if sizes is None else rounded(value, up, sizes)
        return original(value) if found is None else found

    return rounds


def _rounding_to_the_nearest(original: Any) -> Any:
    def rounds(value: torch.SymFloat, digits: int | None = None) -> Any:
        sizes = _SIZES.get(threading.get_ident())
        found = None if sizes is None or digits is not None else nearest(value, sizes)
        return original(value, digits) if found is None else found

    return rounds


def _choosing(largest: bool, original: Any) -> Any:
    def chooses(one: torch.SymInt, other: Any) -> Any:
        if threading.get_ident() in _SIZES and isinstance(other, int | torch.SymInt):
            if never_below(one, other):
                return one if largest else other
            if never_below(other, one):
                return other if largest else one
        return original(one, other)

    return chooses


def _rooting(original: Any) -> Any:
    def roots(value: Any, *power: Any) -> Any:
        sizes = _SIZES.get(threading.get_ident())
        of_size = isinstance(value, torch.SymInt) and power in ((), (0.5,))
        found = root(value, sizes) if of_size and sizes is not None else None
        return original(value, *power) if found is None else found

    return roots


def _leaving(original: Any) -> Any:
    def leaves(value: torch.SymInt, divisor: Any) -> Any:
        sizes = _SIZES.get(threading.get_ident())
        found = None if sizes is None else left_over(value, divisor, sizes)
        return original(value, divisor) if found is None else found

    return leaves


@contextmanager
def _in_integers() -> Iterator[None]:
    makers: dict[tuple[Any, str], Any] = {
        (torch.SymFloat, "__ceil__"): partial(_rounding, True),
        (torch.SymFloat, "__floor__"): partial(_rounding, False),
        (torch.SymFloat, "__trunc__"): partial(_rounding, None),
        (torch.SymFloat, "__round__"): _rounding_to_the_nearest,
        (torch.SymInt, "__sym_max__"): partial(_choosing, True),
        (torch.SymInt, "__sym_min__"): partial(_choosing, False),
        (torch.SymInt, "__mod__"): _leaving,
        (torch.SymInt, "__pow__"): _rooting,
        (math, "sqrt"): _rooting,
    }
    originals = {place: getattr(*place) for place in makers if hasattr(*place)}
    for place, original in originals.items():
        setattr(*place, makers[place](original))
    if roots := not hasattr(torch.SymInt, _ROOT):
        setattr(torch.SymInt, _ROOT, math.sqrt)
    try:
        yield
    finally:
        for place, original in originals.items():
            setattr(*place, original)
        if roots:
            delattr(torch.SymInt, _ROOT)


_INTEGERS = Shared(_in_integers)


@contextmanager
def whole_quotients(arguments: Any) -> Iterator[None]:
    """Keep short, in this thread, what a forward computes by rounding quotients of sizes.

    Args:
        arguments: A traced forward's arguments.
    """
    mine = threading.get_ident()
    sizes: Iterator[Any] = (
        n for value in arguments if isinstance(value, Tensor) for n in value.shape
    )
    with _INTEGERS.on():
        _SIZES[mine] = {
            symbol: size // int(times) if times != 1 else size
            for size in sizes
            if isinstance(size, torch.SymInt)
            for times, symbol in [size.node.expr.as_coeff_Mul()]
        }
        try:
            yield
        finally:
            del _SIZES[mine]


def in_multiples(sizes: Iterable[tuple[Any, int, str]]) -> None:
    """Let sizes of a traced forward be the multiples that they were declared as, from its start.

    The tracer applies ``32 * Dim("n")`` when the forward is over; what the forward computes from
    its sizes is short where it knows at once.

    Args:
        sizes: Each size, how many times its ``Dim`` is taken, and the name of that.
    """
    for size, times, name in sizes:
        env = size.node.shape_env
        if not (hasattr(env, "_set_replacement") and hasattr(env, "var_to_sources")):
            return  # another version of torch, to which the sizes are free for now
        found = [s for s, of in env.var_to_sources.items() if any(map(_is(name), of))]
        if found and not size.node.expr.is_number:
            env._set_replacement(size.node.expr, times * found[0], "declared")


def _is(name: str) -> Callable[[Any], bool]:
    def named(source: Any) -> bool:
        own = source.name
        return bool((own() if callable(own) else own) == name)

    return named
