"""Quotients of sizes, in whole numbers.

Padding as TensorFlow's "same" is computed from sizes by a division that is rounded up, and by what
is larger, that or nothing. torch keeps both as they are written, so that every layer doubles the
arithmetic. In whole numbers it is short: a rounded quotient is an integer division, and what a
division leaves over is below its divisor.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import torch

from weightscope.adapters.needed import needed
from weightscope.adapters.symbols import interpret

_FINEST = 1 << 10  # shares of a size as fine as this are exact as floating-point numbers


def rounded(value: torch.SymFloat, up: bool | None, sizes: Mapping[Any, torch.SymInt]) -> Any:
    """A quotient of sizes rounded to a whole number, as an integer division.

    ``ceil(n / 2)`` and ``-(-n // 2)`` are the same number, and torch knows what comes of divisions
    of integers: a second one is one by four, where of rounded fractions each holds the last.

    Args:
        value: What is rounded.
        up: Whether to the next whole number; else to the one before. If None, to the one that is
            nearer to zero.
        sizes: Sizes of the input, by symbol.

    Returns:
        None where ``value`` is no such quotient, or floating-point numbers could round it to
        another whole number.
    """
    quotient = _quotient(value.node.expr)
    if quotient is None or not quotient[0].free_symbols <= sizes.keys():
        return None
    whole, divisor = quotient
    numerator = interpret({s: sizes[s] for s in whole.free_symbols}, -whole if up else whole)
    if up is None and not _is_positive(numerator):
        return None
    return -(numerator // divisor) if up else numerator // divisor


def nearest(value: torch.SymFloat, sizes: Mapping[Any, torch.SymInt]) -> Any:
    """What a share of a size is rounded to that is whole at every size of the input.

    ``round(n * 0.5)`` is ``n // 2`` where ``n`` is even, and so is ``round(n * (k / (2 * k)))``.

    Args:
        value: What is rounded to the nearest whole number.
        sizes: Sizes of the input, by symbol.

    Returns:
        None where ``value`` is no product of sizes, numbers and quotients, or may have a fraction.
    """
    with needed():
        import sympy

    parts = [_exact(part) for part in sympy.Mul.make_args(value.node.expr)]
    if None in parts:
        return None
    share = sympy.cancel(sympy.Mul(*parts))
    if not share.is_integer or not share.free_symbols <= sizes.keys():
        return None
    return interpret({symbol: sizes[symbol] for symbol in share.free_symbols}, share)


def root(value: torch.SymInt, sizes: Mapping[Any, torch.SymInt]) -> Any:
    """The square root of a size that is a square at every size of the input.

    Args:
        value: A size, such as the number of positions, ``n * n``.
        sizes: Sizes of the input, by symbol.

    Returns:
        None where ``value`` may be no square.
    """
    with needed():
        import sympy

    found = sympy.Mul(*(sympy.sqrt(part) for part in sympy.Mul.make_args(value.node.expr)))
    found = found.replace(sympy.Abs, lambda size: size)  # sizes are not negative
    if not found.is_integer or not found.free_symbols <= sizes.keys():
        return None
    return 1.0 * interpret({s: sizes[s] for s in found.free_symbols}, found)


def _exact(factor: Any) -> Any:
    """A number, a size or a quotient as it is without rounding; None of anything else."""
    with needed():
        import sympy
        from torch.utils._sympy.functions import FloatTrueDiv, IntTrueDiv, ToFloat

    if factor.is_number:
        fraction = Fraction(float(factor)).limit_denominator(_FINEST)
        is_nearest = float(fraction) == float(factor)
        return sympy.Rational(fraction.numerator, fraction.denominator) if is_nearest else None
    if isinstance(factor, IntTrueDiv | FloatTrueDiv):
        top, bottom = map(_exact, factor.args)
        return None if top is None or bottom is None else top / bottom
    size = factor.args[0] if isinstance(factor, ToFloat) else factor
    return size if size.is_integer else None


def _is_positive(size: Any) -> bool:
    with needed():
        from torch.fx.experimental.symbolic_shapes import statically_known_true

    return bool(statically_known_true(size >= 0))


def _quotient(expression: Any) -> tuple[Any, int] | None:
    """A whole numerator and its divisor, of one quotient and whole numbers added to it."""
    with needed():
        import sympy

    found, divisor, rest = None, 1, sympy.Integer(0)
    for term in sympy.Add.make_args(expression):
        if term.is_number and float(term).is_integer():
            rest += sympy.Integer(int(term))
        elif found is None and (parts := _divided(term)) is not None:
            found, divisor = parts
        else:
            return None
    return None if found is None else (found + divisor * rest, divisor)


def _divided(term: Any) -> tuple[Any, int] | None:
    """Numerator and divisor of one division of whole numbers, or of a share of one of them."""
    with needed():
        from torch.utils._sympy.functions import FloatTrueDiv, IntTrueDiv, ToFloat

    def whole(part: Any) -> Any:
        return part.args[0] if isinstance(part, ToFloat) else part if part.is_integer else None

    if isinstance(term, IntTrueDiv | FloatTrueDiv):
        top, bottom = whole(term.args[0]), term.args[1]
        if top is not None and bottom.is_number and float(bottom).is_integer() and bottom > 0:
            return top, int(bottom)
    factor, size = term.as_coeff_Mul()
    if isinstance(size, ToFloat):
        top, bottom = float(factor).as_integer_ratio()
        if bottom <= _FINEST:  # the product is exact
            return top * size.args[0], bottom
    return None


def left_over(value: torch.SymInt, divisor: Any, sizes: Mapping[Any, torch.SymInt]) -> Any:
    """What a size lacks to a multiple (``(8 - n % 8) % 8``), without what it has above one.

    With it the size is a multiple as it is written, and torch knows what comes of dividing it.

    Returns:
        None where ``value`` is nothing of that kind.
    """
    with needed():
        import sympy
        from torch.utils._sympy.functions import Mod

    if not (isinstance(divisor, int) and divisor > 0):
        return None
    whole, taken = sympy.Integer(0), False
    for term in sympy.Add.make_args(value.node.expr):
        factor, part = term.as_coeff_Mul()
        taken |= bool(factor < 0)
        above = isinstance(part, Mod) and part.args[1] == divisor
        if not (term.is_Integer and term % divisor == 0):
            whole += factor * part.args[0] if above else term
    if not taken or not whole.free_symbols <= sizes.keys():
        return None
    rest = interpret({s: sizes[s] for s in whole.free_symbols}, whole)
    return rest - rest // divisor * divisor


def never_below(one: Any, other: Any) -> bool:
    """Whether a size is as large as another at every size of the input.

    Padding that a division leaves over (``max(-n % 2 + 1, 0)``) is one number of a few, whatever
    the input. That divisions leave less than their divisor is what is known here, and that sizes
    are whole numbers.
    """
    return _never_negative(_expression(one) - _expression(other))


@functools.lru_cache(1 << 12)
def _never_negative(difference: Any) -> bool:
    with needed():
        import sympy

    lowest = sympy.Integer(0)
    for term in sympy.Add.make_args(sympy.expand(_in_rests(difference))):
        factor, rest = term.as_coeff_Mul()
        if isinstance(rest, _rest()) and rest.args[1] > 0:
            lowest += min(factor, 0) * (rest.args[1] - 1)
        elif rest == 1:
            lowest += factor
        else:
            return False  # it follows the size of the input
    return bool(lowest > -1)


def _expression(value: Any) -> Any:
    with needed():
        import sympy

    return value.node.expr if isinstance(value, torch.SymInt) else sympy.Integer(value)


def _in_rests(expression: Any) -> Any:
    """Every ``n // 2`` as half of ``n`` without what is left over, by whole divisors."""
    with needed():
        import sympy
        from torch.utils._sympy.functions import FloorDiv

    if isinstance(expression, sympy.Add | sympy.Mul):
        return expression.func(*map(_in_rests, expression.args))
    if isinstance(expression, FloorDiv) and expression.args[1].is_Integer:
        return (_in_rests(expression.args[0]) - _rest()(*expression.args)) / expression.args[1]
    return expression


@functools.cache
def _rest() -> Any:
    """What a division leaves over: from zero to below its divisor."""
    with needed():
        import sympy

    return sympy.Function("rest")
