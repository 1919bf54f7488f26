"""Sizes that follow the input.

A size in an exported graph is a Python int, or a ``torch.SymInt`` that holds a sympy expression
over the symbols of the input's own sizes. Here such expressions are evaluated at other input sizes,
and written back into a graph as arithmetic on the input's size.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import fx

from weightscope.adapters.needed import needed
from weightscope.adapters.switches import quiet

Size = int | torch.SymInt


def is_symbolic(value: object) -> bool:
    """Whether a size follows the input's size."""
    return isinstance(value, torch.SymInt | torch.SymFloat) and not value.node.expr.is_number


def is_number(size: Any, number: int) -> bool:
    """Whether a size is some number; where it is traced, it is that number from here on.

    ``torch.onnx.export`` puts such questions off, as assertions that its files do not hold: a size
    that the network computes with would be written down as free.
    """
    if not is_symbolic(size):
        return bool(size == number)
    env = size.node.shape_env
    try:
        kept = env.settings
        at_once = replace(kept, prefer_deferred_runtime_asserts_over_guards=False)
    except (AttributeError, TypeError):  # another torch
        return bool(size == number)
    env.settings = at_once
    try:
        return bool(size == number)
    finally:
        env.settings = kept


def is_unknown(value: object) -> bool:
    """Whether a size hangs on values of tensors, so that it has no number at the example input."""
    return isinstance(value, torch.SymInt) and value.node.hint is None


def grows(value: Any) -> bool:
    """Whether a size is another one at other inputs, as ``16 * (n // (n // 2))`` is not."""
    if not is_symbolic(value):
        return False
    expression = value.node.expr
    at = (dict.fromkeys(expression.free_symbols, n) for n in _TWO_LARGE_SIZES)
    try:
        return {int(interpret(values, expression)) for values in at} != {hint(value)}
    except ZeroDivisionError:  # a quotient of two sizes, of which one is none there
        return True


_TWO_LARGE_SIZES = (1 << 13, 1 << 14)  # which many halvings divide


def hint(value: Any) -> int:
    """The size at the example input."""
    return int(value.node.hint) if isinstance(value, torch.SymInt) else int(value)


def key(value: Any) -> str:
    """A text that is equal for equal expressions."""
    return _written(value.node.expr) if isinstance(value, _FREE) else str(value)


_FREE = torch.SymInt | torch.SymFloat


@functools.lru_cache(1 << 14)
def _written(expression: Any) -> str:
    return str(expression)


def multiple(size: Any) -> tuple[str, int]:
    """The symbol of a free size of the input, and how many times it is taken (``32*s0``)."""
    times, symbol = size.node.expr.as_coeff_Mul()
    return str(symbol), int(times)


def symbols_at(sizes: Iterable[tuple[Any, int]]) -> dict[str, int]:
    """The value of each symbol where sizes of the input are some numbers.

    Args:
        sizes: Sizes of the input as they were traced, and their numbers.
    """
    free = ((multiple(traced), size) for traced, size in sizes if is_symbolic(traced))
    return {symbol: size // times for (symbol, times), size in free}


def read_size(graph: fx.Graph, tensor: fx.Node, axis: int, size: Any) -> dict[str, fx.Node]:
    """Write into a graph how large an input is, and the symbol that its size is a multiple of.

    Returns:
        The nodes by ``key``.
    """
    node = graph.call_function(torch.ops.aten.sym_size.int, (tensor, axis))
    node.meta["val"] = size
    symbol, times = multiple(size)
    if times == 1:
        return {symbol: node}
    part = graph.call_function(operator.floordiv, (node, times))
    part.meta["val"] = size // times
    return {key(size): node, symbol: part}


def free_symbols(values: Iterable[Any]) -> frozenset[str]:
    """Names of the symbols in some sizes."""
    return frozenset(
        str(symbol)
        for value in values
        if isinstance(value, torch.SymInt | torch.SymFloat)
        for symbol in value.node.expr.free_symbols
    )


def interpret(values: dict[Any, Any], expression: Any) -> Any:
    """Evaluate a sympy expression on numbers or on graph proxies."""
    with needed():
        from torch.utils._sympy.interp import sympy_interp

    with quiet(_INTERPRETER):  # it reports what has no value, which is handled where it is asked
        return sympy_interp(_arithmetic(), values, expression)


_INTERPRETER = "torch.utils._sympy.interp"


@functools.cache
def _arithmetic() -> Any:
    """What the functions in an expression do to numbers and to graph proxies alike.

    torch's own table leaves divisions, truncations and roots to sympy, which knows no proxies.
    """
    with needed():  # sympy takes most of a second to import
        from torch.utils._sympy.reference import PythonReferenceAnalysis

    plain: dict[str, Callable[..., Any]] = {
        "int_truediv": operator.truediv,
        "truediv": operator.truediv,
        "sub": operator.sub,
        "neg": operator.neg,
        "abs": operator.abs,
        "eq": operator.eq,
        "ne": operator.ne,
        "floor": lambda x: _apply(torch.sym_float, _apply(math.floor, x)),
        "ceil": lambda x: _apply(torch.sym_float, _apply(math.ceil, x)),
        "trunc": lambda x: _apply(torch.sym_float, _apply(math.trunc, x)),
        "trunc_to_int": lambda x, dtype: _apply(math.trunc, x),
        "floor_to_int": lambda x, dtype: _apply(math.floor, x),
        "ceil_to_int": lambda x, dtype: _apply(math.ceil, x),
        "round_to_int": lambda x, dtype: _apply(round, x),
        "round_decimal": lambda x, digits: _apply(round, x, digits),
        "minimum": lambda a, b: _apply(torch.sym_min, a, b),
        "maximum": lambda a, b: _apply(torch.sym_max, a, b),
        "where": lambda condition, a, b: _apply(torch.sym_ite, condition, a, b),
        "modular_indexing": lambda x, divisor, modulus: x // divisor % modulus,
        "identity": lambda x: x,
    }
    return type(
        "_Arithmetic", (PythonReferenceAnalysis,), {k: staticmethod(f) for k, f in plain.items()}
    )


def _apply(function: Any, *values: Any) -> Any:
    """Call a function on numbers, or write its call into the graph."""
    proxy = next((value for value in values if isinstance(value, fx.Proxy)), None)
    if proxy is None:
        return function(*values)
    return proxy.tracer.create_proxy("call_function", function, values, {})


def sides_counted(value: Any) -> int:
    """How many sides of the input a size grows with: ``h * w`` with two, one of them with one."""
    near, far = (Probe(dict.fromkeys(free_symbols([value]), n)).size(value) for n in _TWO_FAR_SIZES)
    return round(math.log(max(far, 1) / max(near, 1), _TWO_FAR_SIZES[1] / _TWO_FAR_SIZES[0]))


_TWO_FAR_SIZES = (2**12, 2**18)


class Probe:
    """Sizes at another size of the input.

    Args:
        symbols: Value of each symbol, by name.
    """

    def __init__(self, symbols: Mapping[str, int]) -> None:
        self.symbols = dict(symbols)
        self._known: dict[Any, int] = {}

    def size(self, value: Any) -> int:
        """One size."""
        if not isinstance(value, torch.SymInt):
            return int(value)
        expression = value.node.expr
        if expression.is_number:
            return int(expression)
        if expression not in self._known:
            values = {s: self.symbols.get(str(s)) for s in expression.free_symbols}
            try:
                self._known[expression] = (
                    hint(value) if None in values.values() else int(interpret(values, expression))
                )
            except ZeroDivisionError:  # the graph does not hold there: nothing is left of the image
                self._known[expression] = 0
        return self._known[expression]

    def shape(self, tensor: torch.Tensor) -> tuple[int, ...]:
        """All sizes of a tensor."""
        return tuple(self.size(size) for size in tensor.shape)

    def numel(self, tensor: torch.Tensor) -> int:
        """Number of elements of a tensor."""
        return math.prod(self.shape(tensor))


def asked_for(decisions: Iterable[Any]) -> frozenset[str]:
    """Names of the symbols in questions about sizes."""
    return frozenset(str(symbol) for question in decisions for symbol in question.free_symbols)


def is_of_one_size(question: Any, answer: Any) -> bool:
    """Whether a question is for one size (``n // 16 == 4``), and it was another one."""
    with needed():
        import sympy

    other = bool(answer) if isinstance(question, sympy.Ne) else not answer
    equality = isinstance(question, sympy.Ne | sympy.Eq)
    return equality and other and any(side.is_number for side in question.args)


def equalities(decisions: Mapping[Any, Any]) -> dict[Any, Any]:
    """Questions whether a size is another one, or a number, where it was."""
    with needed():
        import sympy

    return {q: a for q, a in decisions.items() if isinstance(q, sympy.Eq if a else sympy.Ne)}


def decided_alike(decisions: Mapping[Any, Any], sizes: Mapping[str, Size]) -> bool:
    """Whether questions about sizes have the same answers at other sizes.

    Args:
        decisions: Answer to each question.
        sizes: Size by symbol; questions about others are left out. Where sizes are traced, the
            questions are asked in the trace, which notes the answers.
    """
    partners = _equals(decisions)
    for question, answer in decisions.items():
        values = {
            symbol: sizes.get(str(symbol), sizes.get(partners.get(str(symbol), "")))
            for symbol in question.free_symbols
        }
        if values and None not in values.values():
            found = interpret(values, question)
            if isinstance(found, torch.SymBool):
                found = bool(found)
            elif isinstance(found, torch.SymInt):
                found = int(answer) if found == int(answer) else None
            # numbers and truth values of sympy compare with Python's
            if found != answer:
                return False
    return True


def _equals(decisions: Mapping[Any, Any]) -> dict[str, str]:
    """For each size that was asked to be that of another side, and is, the other one's name.

    Where a network takes square images alone, one name stands for both sides.
    """
    found: dict[str, str] = {}
    for question, answer in decisions.items():
        if bool(answer) == {"==": True, "!=": False}.get(getattr(question, "rel_op", "")):
            sides = [str(side) for side in question.args if side.is_Symbol]
            if len(sides) == 2:
                found |= {sides[0]: sides[1], sides[1]: sides[0]}
    return found


class SizeWriter:
    """Writes sizes into a graph as functions of the input's size.

    Nodes are created at the graph's current insertion point, once for each expression.

    Args:
        graph: Where to write.
        known: Node of each expression that is there already (at least one for each symbol), by
            ``key``.
    """

    def __init__(self, graph: fx.Graph, known: Mapping[str, fx.Node]) -> None:
        self.graph = graph
        self.known = dict(known)

    def can_write(self, value: Any) -> bool:
        """Whether a size depends on known symbols only."""
        return key(value) in self.known or free_symbols([value]) <= self.known.keys()

    def write(self, value: Any) -> Any:
        """A size as a node (or as a number where it is fixed)."""
        if not isinstance(value, torch.SymInt | torch.SymFloat):
            return value
        expression = value.node.expr
        if expression.is_number:
            return int(expression) if isinstance(value, torch.SymInt) else float(expression)
        name = key(value)
        if name not in self.known:
            expression = _of_positive_numerators(expression)
            proxies = {s: fx.Proxy(self.known[str(s)]) for s in expression.free_symbols}
            made = interpret(proxies, expression)
            if not isinstance(made, fx.Proxy):  # written so, it is one number
                return made
            node = made.node
            node.meta["val"] = value
            self.known[name] = node
        return self.known[name]


def _of_positive_numerators(expression: Any) -> Any:
    """The same with ``(a + d - 1) // d`` in place of ``-(-a // d)``.

    A file of ONNX divides whole numbers towards zero, where Python rounds down.
    """
    with needed():
        from torch.utils._sympy.functions import FloorDiv

    def is_negative(part: Any) -> bool:
        if not (isinstance(part, FloorDiv) and part.args[1].is_number and part.args[1] > 0):
            return False
        at = (dict.fromkeys(part.free_symbols, n) for n in _TWO_LARGE_SIZES)
        return all(interpret(sizes, part.args[0]) < 0 for sizes in at)

    return expression.replace(
        is_negative, lambda part: -FloorDiv(part.args[1] - 1 - part.args[0], part.args[1])
    )


def holds_at(tensors: Iterable[Any], probe: Probe, *, only_equal: bool = False) -> bool:
    """Whether all that a trace took for granted about its sizes is true at other sizes.

    Args:
        tensors: Fake tensors of the trace; the first tells where its assumptions are kept.
        probe: The other sizes.
        only_equal: Whether nothing but sizes that it took to be equal is asked for.
    """
    with needed():
        import sympy

    modes = (getattr(tensor, "fake_mode", None) for tensor in tensors)
    env = next((mode.shape_env for mode in modes if mode is not None), None)
    for guard in env.guards if env is not None else ():
        if only_equal and not isinstance(guard.expr, sympy.Eq):
            continue
        values = {s: probe.symbols.get(str(s)) for s in guard.expr.free_symbols}
        if None in values.values():
            continue
        try:
            # of torch 2.9, expressions take sympy's numbers only
            true = bool(guard.expr.xreplace({s: sympy.Integer(n) for s, n in values.items()}))
        except TypeError:  # it stays an expression, which says nothing
            continue
        except ZeroDivisionError:  # by a size that is none there: the graph does not hold
            return False
        if not true:
            return False
    return True
