"""Statements of a forward that only check values: ``assert x.min() >= 0``, ``if bad.any(): raise``.

A trace runs on tensors without numbers, and a forward that goes on has passed such a statement: the
answer of what it asks is known from the statement itself.
"""

from __future__ import annotations

import ast
import functools
import itertools
import linecache
from collections.abc import Iterator
from types import FrameType
from typing import Any, TypeGuard

_REPORTS = ("print", "warn", "warning", "info", "debug", "error")


Place = tuple[int | None, int | None, int | None, int | None]
"""First line, last line, first column, last column."""


def place_of(frame: FrameType) -> Place:
    """Where in its file a frame is now."""
    places = frame.f_code.co_positions()
    return next(itertools.islice(places, frame.f_lasti // 2, None), (None,) * 4)


def place(node: Any) -> Place:
    """Where in its file a statement, or an expression, is."""
    return node.lineno, node.end_lineno, node.col_offset, node.end_col_offset


def is_inside(part: Place, outer: Place) -> bool:
    """Whether a place is in another one."""
    if None in part or None in outer:
        return False
    (first, last, left, right), (begin, end, before, after) = part, outer
    return (begin, before) <= (first, left) and (last, right) <= (end, after)


def passing_answer(frame: FrameType) -> bool | None:
    """What a truth value has to be for a check that a frame is in to pass.

    None where the frame does something else than check, or where several answers are needed.
    """
    now = place_of(frame)
    for check in _checks(frame.f_code.co_filename):
        if now == place(check) or is_inside(now, place(check.test)):
            answers = set(_answers(check.test, isinstance(check, ast.Assert)))
            return answers.pop() if len(answers) == 1 else None
    return None


@functools.lru_cache(maxsize=64)
def syntax_of(filename: str) -> ast.AST:
    """The syntax of a file; an empty one where it cannot be had."""
    try:
        return ast.parse("".join(linecache.getlines(filename)))
    except (SyntaxError, ValueError):
        return ast.Module([], [])


class Passing(float):
    """Stands for a number that a check compares: it passes, whatever it is compared with.

    Args:
        answer: What the comparison has to be.
    """

    def __init__(self, answer: bool) -> None:
        self.answer = answer

    def _compared(self, other: object) -> bool:
        return self.answer

    __lt__ = __le__ = __gt__ = __ge__ = __eq__ = __ne__ = _compared
    __hash__ = float.__hash__


@functools.lru_cache(maxsize=64)
def _checks(filename: str) -> tuple[ast.Assert | ast.If, ...]:
    tree = syntax_of(filename)
    handled = {
        node
        for part in ast.walk(tree)
        if isinstance(part, ast.Try) and part.handlers
        for statement in part.body
        for node in ast.walk(statement)
    }  # what fails there decides what is done
    nodes = (n for n in ast.walk(tree) if isinstance(n, ast.Assert | ast.If) and n not in handled)
    return tuple(n for n in nodes if isinstance(n, ast.Assert) or _only_reports(n))


def _only_reports(node: ast.If) -> bool:
    """Whether a branch raises, or says something and does nothing else."""
    called = (s.value.func for s in node.body if isinstance(s, ast.Expr) and _calls(s.value))
    names = (getattr(function, "attr", getattr(function, "id", "")) for function in called)
    reports = sum(name in _REPORTS for name in names)
    raises = sum(isinstance(statement, ast.Raise) for statement in node.body)
    return not node.orelse and reports + raises == len(node.body)


def _calls(node: ast.AST, *names: str) -> TypeGuard[ast.Call]:
    return isinstance(node, ast.Call) and (not names or getattr(node.func, "id", "") in names)


def _answers(test: ast.expr, wanted: bool) -> Iterator[bool | None]:
    """What every part of a condition has to be; None for those that ask for more inside."""
    if isinstance(test, ast.BoolOp):
        for part in test.values:
            yield from _answers(part, wanted)
    elif isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        yield from _answers(test.operand, not wanted)
    elif _calls(test, "bool") and len(test.args) == 1:
        yield from _answers(test.args[0], wanted)
    else:
        inside = test.args if _calls(test, "any", "all") else [test]
        yield None if any(map(_asks, itertools.chain(*map(ast.walk, inside)))) else wanted


def _asks(node: ast.AST) -> bool:
    """Whether a part of an expression asks for truth values of other parts."""
    kinds = (ast.BoolOp, ast.IfExp, ast.Lambda, ast.Not, ast.In, ast.NotIn)
    return (
        isinstance(node, kinds)
        or _calls(node, "bool", "any", "all")
        or bool(getattr(node, "ifs", ()))
    )
