"""Sizes that a forward writes into texts or looks something up by, while a network is traced.

``self.tables[f"{height}x{width}"]`` looks up by a size. A free one would be written as the name of
a symbol, which no table holds and which says nothing of other sizes. In a text that may decide it
is therefore the number that it is at the example, and held to it. It stays free in a text that is
only shown (a log, the message of a check), and where a function keeps under its keys what it made
(``if key not in self.grids: self.grids[key] = ...``): there it makes the same anew.
"""

from __future__ import annotations

import ast
import functools
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import Any

import torch

from weightscope.adapters.checks import Place, is_inside, place, place_of, syntax_of
from weightscope.adapters.leftovers import CACHED
from weightscope.adapters.symbols import is_symbolic, is_unknown
from weightscope.restoring import finished

_SHOWS = re.compile("print|write|warn|log|info|debug|error|assert|check")
_TORCH, _OURS = (os.path.dirname(f) + os.sep for f in (torch.__file__, os.path.dirname(__file__)))
_COMPARES = os.path.join(_TORCH, "_functorch", "_aot_autograd")  # what modules hold, by its keys


@contextmanager
def free_keys() -> Iterator[None]:
    """Let sizes be numbers in this thread's texts that may decide, and keys of what is kept."""
    places: dict[tuple[Any, str], Callable[..., Any]] = {
        (torch.SymInt, "__repr__"): partial(_writing, int),
        (torch.SymFloat, "__repr__"): partial(_writing, float),
        (torch.SymInt, "__hash__"): _keying,
    }
    originals = {place: getattr(*place) for place in places}
    try:
        for place, make in places.items():
            setattr(*place, make(originals[place], threading.get_ident()))
        yield
    finally:
        finished(*(partial(setattr, *place, original) for place, original in originals.items()))


def _writing(kind: type, original: Callable[[Any], str], thread: int) -> Callable[[Any], str]:
    def write(size: Any) -> str:
        frame = _forward(sys._getframe(1)) if _is_free(size, thread) else None
        return original(size) if frame is None or _decides_nothing(frame) else repr(kind(size))

    return write


def _keying(original: Callable[[Any], int], thread: int) -> Callable[[Any], int]:
    def key(size: Any) -> int:
        asking = sys._getframe(1)
        frame = _forward(asking) if _is_free(size, thread) else None
        keeps = frame is not None and (_decides_nothing(frame) or _calls_a_cache(frame))
        ours = asking.f_code.co_filename.startswith((_OURS, _COMPARES))
        return hash(size.node.expr) if keeps or ours else original(size)

    return key


def _is_free(size: Any, thread: int) -> bool:
    return threading.get_ident() == thread and is_symbolic(size) and not is_unknown(size)


def _forward(frame: FrameType | None) -> FrameType | None:
    """What asks, if it is neither torch's nor ours."""
    while frame is not None and _is_of_python(frame):
        frame = frame.f_back
    foreign = frame is not None and not frame.f_code.co_filename.startswith((_TORCH, _OURS))
    return frame if foreign else None


def _decides_nothing(frame: FrameType) -> bool:
    now = place_of(frame)
    return any(is_inside(now, part) for part in _harmless(frame.f_code.co_filename))


def _calls_a_cache(frame: FrameType) -> bool:
    """Whether a frame calls what keeps its results by its arguments: ``functools.cache``."""
    for call in _calls(frame.f_code.co_filename).get(place_of(frame), ()):
        first, *rest = call.split(".")
        called = {**frame.f_globals, **frame.f_locals}.get(first)
        for name in rest:
            called = getattr(called, name, None)
        if type(getattr(called, "__func__", called)) is CACHED:
            return True
    return False


def _is_of_python(frame: FrameType) -> bool:
    name = str(frame.f_globals.get("__name__", ""))
    return name.partition(".")[0] in sys.stdlib_module_names


@functools.lru_cache(maxsize=64)
def _calls(filename: str) -> dict[Place, list[str]]:
    """What is called at each place of a file."""
    found: dict[Place, list[str]] = {}
    for node in ast.walk(syntax_of(filename)):
        if isinstance(node, ast.Call):
            found.setdefault(place(node), []).append(_text(node.func))
    return found


@functools.lru_cache(maxsize=64)
def _harmless(filename: str) -> tuple[Place, ...]:
    """Where a size decides nothing: what only shows something, and the keys of what is kept."""
    tree = syntax_of(filename)
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    kept = (part for function in functions for part in _keys_of_kept(function))
    return tuple(map(place, (*_shown(tree), *kept)))


def _shown(tree: ast.AST) -> Iterator[ast.AST]:
    """Statements that show something and do nothing else, and messages of checks."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assert) and node.msg is not None:
            yield node.msg
        elif isinstance(node, ast.Raise) or (
            isinstance(node, ast.Expr) and _SHOWS.search(_call(node.value)[0])
        ):
            yield node


def _keys_of_kept(function: ast.FunctionDef) -> Iterator[ast.AST]:
    """Where a function looks for, and keeps, what it makes if it is not there."""
    accesses = [(node, access) for node in ast.walk(function) if (access := _access(node))]
    kept, sought = ({a[0] for _, a in accesses if how in a[1]} for how in ("keeps", "looks"))
    yield from (node for node, access in accesses if access[0] in kept & sought)
    names = {key for _, key in kept & sought}
    for node in ast.walk(function):
        if isinstance(node, ast.Assign) and {_text(target) for target in node.targets} & names:
            yield node


def _access(node: ast.AST) -> tuple[tuple[str, str], tuple[str, ...]] | None:
    """The place and the key that an expression looks for something at, or keeps it at."""
    if isinstance(node, ast.Subscript):
        how = "keeps" if isinstance(node.ctx, ast.Store) else "looks"
        return (_text(node.value), _text(node.slice)), (how,)
    if isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.In | ast.NotIn):
        return (_text(node.comparators[0]), _text(node.left)), ("looks",)
    name, arguments = _call(node)
    if name in _ACCESSES and len(arguments) > 1:
        return (_text(arguments[0]), _text(arguments[1])), _ACCESSES[name]
    return None


_ACCESSES = {
    "get": ("looks",),
    "getattr": ("looks",),
    "hasattr": ("looks",),
    "setattr": ("keeps",),
    "register_buffer": ("keeps",),
    "setdefault": ("looks", "keeps"),
}


def _call(node: ast.AST) -> tuple[str, list[ast.expr]]:
    """Name of the function or method that an expression calls, and what it is called with."""
    if not isinstance(node, ast.Call):
        return "", []
    if isinstance(node.func, ast.Attribute):
        return node.func.attr, [node.func.value, *node.args]
    return getattr(node.func, "id", ""), node.args


def _text(node: ast.AST) -> str:
    return ast.unparse(node)
