"""What may be passed to public calls: one rule for each name, the same in every call."""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import wraps
from numbers import Integral, Real
from typing import Any, ParamSpec, TypeVar

from weightscope.errors import InputError, in_python, keyword, kind, shown

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class Rule:
    """What an argument may be.

    Attributes:
        fits: Whether a value is such.
        takes: The same in words.
        optional: Whether None will do.
    """

    fits: Callable[[Any], bool]
    takes: str
    optional: bool = True


def instance(types: type | tuple[type, ...], takes: str) -> Rule:
    """Objects of some classes, and not None."""
    return Rule(lambda value: isinstance(value, types), takes, optional=False)


def having(attribute: str, takes: str) -> Rule:
    """Objects with an attribute, and not None."""
    return Rule(lambda value: hasattr(value, attribute), takes, optional=False)


def attribute_of(value: object, name: str) -> Any:
    """An attribute of what a user gave; None where it has none, or where that raises."""
    with suppress(Exception):
        return getattr(value, name, None)
    return None


def path_text(path: Any, what: str) -> str:
    """A path as text.

    Args:
        path: What a caller gave.
        what: The same in words, ``"of a checkpoint"``.

    Raises:
        InputError: It is none.
    """
    try:
        return os.fsdecode(os.fspath(path))
    except TypeError as error:
        raise InputError(
            f"expected the path {what}, got {type(path).__name__}; give a text or a Path"
        ) from error
    except Exception as error:
        raise InputError(
            f"the path {what}, {kind(path)}, raised {type(error).__name__}: {shown(error, str)}; "
            "give a text or a Path"
        ) from error


def _are_names(values: Mapping[Any, Any]) -> bool:
    return all(isinstance(value, str) for value in values)


def whole(least: int = -(2**63), most: int = 2**63 - 1, *, optional: bool = False) -> Rule:
    """Whole numbers between two, which a computer holds in 64 bits."""

    def fits(value: Any) -> bool:
        whole = isinstance(value, Integral) and not isinstance(value, bool)
        return whole and least <= int(value) <= most

    begin = "" if least < 0 else f" from {least}"
    return Rule(fits, f"a whole number{begin}{'' if most >> 62 else f' to {most:,}'}", optional)


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and not math.isnan(value)


def _is_iterable(value: Any) -> bool:
    listed = hasattr(value, "__iter__") or hasattr(value, "__getitem__")
    return listed and not isinstance(value, str | bytes | type)


def _is_flag(value: Any) -> bool:
    return hasattr(value, "__bool__") and not _is_iterable(value) and not isinstance(value, type)


_FLAG = Rule(_is_flag, "True or False")
_TEXT = Rule(lambda value: isinstance(value, str), "a text")
_FUNCTION = Rule(callable, "a function of (outputs, targets)")
_NUMBER = Rule(_is_number, "a number")
_BATCHES = Rule(_is_iterable, "a list, a loader or another iterable of batches")
PATH = Rule(
    lambda value: isinstance(value, str | bytes | os.PathLike), "a path: a text or a Path", False
)
_RULES = {
    "batches": _BATCHES,
    "bottleneck": Rule(callable, "a module, or a factory (channels, channels, dimensions)"),
    "by": Rule(_TEXT.fits, "'magnitude' or 'random'", optional=False),
    "every": whole(),
    "exit_channels": Rule(
        lambda v: (
            whole().fits(v)
            or (isinstance(v, Sequence) and not isinstance(v, bytes) and all(map(whole().fits, v)))
        ),
        "a whole number from 1, or a list of one for each exit",
    ),
    "fill": Rule(_TEXT.fits, "'mean', 'zero' or 'shuffle'", optional=False),
    "folder": PATH,
    "ignore_index": Rule(whole().fits, "a whole number"),
    "images": _BATCHES,
    "keep": Rule(
        lambda v: (
            all(map(whole().fits, v.values())) and _are_names(v)
            if isinstance(v, Mapping)
            else _is_number(v)
        ),
        "the share of channels that stays, or whole numbers of channels by name of a layer",
    ),
    "keys": Rule(
        lambda v: isinstance(v, tuple | list) and len(v) == 2,
        "a pair: where inputs and targets are",
    ),
    "layout": Rule(_TEXT.fits, "a letter for each axis of the images, such as 'NCHW'"),
    "loss": _FUNCTION,
    "max_bytes": _NUMBER,
    "max_latency": _NUMBER,
    "max_macs": _NUMBER,
    "max_parameters": _NUMBER,
    "path": PATH,
    "part": Rule(_TEXT.fits, "the name of a module in the network"),
    "prefix": Rule(_TEXT.fits, "what the names in the file begin with"),
    "progress": _FLAG,
    "random": _FLAG,
    "reach": Rule(whole().fits, "a whole number from 1"),
    "relative": _FLAG,
    "repeats": whole(2),  # whose quartiles are told
    # of the resampling, whose memory grows with them
    "resamples": whole(10, 1_000_000),  # of fewer the interval has hardly any width
    "response": _FLAG,
    "resume": Rule(PATH.fits, PATH.takes),
    "seed": whole(0),
    "spectra": _FLAG,
    "stage": Rule(_TEXT.fits, "the name of a stage", optional=False),
    "stages": Rule(
        lambda v: isinstance(v, Mapping) and _are_names(v),
        "a dictionary of stages and names of layers",
    ),
    "steps": whole(0),
    "store": Rule(PATH.fits, PATH.takes),
    "thin": Rule(_is_number, "the share of the MACs that stays"),
    "threads": Rule(whole().fits, "a whole number from 1"),
    "trained": _FLAG,
    "warmup": whole(0),
    "tolerance": Rule(_is_number, "a number such as 0.02"),
}


def checked(**rules: Rule) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Make a public call refuse arguments of a wrong kind before it does anything.

    Args:
        rules: For arguments that are of a kind of their own; all others have one rule by name.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(function)
        known = {**_RULES, **rules}
        ruled = [(name, known[name]) for name in signature.parameters if name in known]

        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                given = signature.bind(*args, **kwargs).arguments
            except TypeError:  # one is missing, or too much; the call says so
                return function(*args, **kwargs)
            for name, rule in ruled:
                if name in given:
                    _check(name, given[name], rule)
            return function(*args, **kwargs)

        return call

    return decorate


def _check(name: str, value: Any, rule: Rule) -> None:
    if value is None and rule.optional:
        return
    if value is None or not _fits(rule, value):
        given = keyword(name, value) if isinstance(value, int | float) else ""
        if not given or len(given) > 60:
            given = f"{keyword(name)} is {kind(value)}"
        raise InputError(
            f"{given}; give {rule.takes}{in_python(', or None') if rule.optional else ''}"
        )


def _fits(rule: Rule, value: Any) -> bool:
    try:
        return rule.fits(value)
    except Exception:  # noqa: BLE001 - what cannot be asked what it is will not do
        return False
