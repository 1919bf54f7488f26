"""Other functions in the place of some of torch's, while a forward runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch.overrides import TorchFunctionMode

Table = Mapping[Any, Callable[..., Any]]
"""What runs for a function: it is given what to go on with, then the arguments."""


class TooManyCallsError(Exception):
    """A forward calls so many functions that it is not followed."""

    def __str__(self) -> str:
        return (
            "it calls too many functions to be followed, one position after the other perhaps;"
            " images with fewer positions take fewer"
        )


class Rewriting(TorchFunctionMode):
    """Runs what tables hold for a function in its place.

    It is one mode for all of them: each mode costs time at every call of every function.

    Attributes:
        called: How many functions were called so far.

    Args:
        tables: The last is asked first, and goes on with what the others hold.
        most: How many functions may be called; any number by default.

    Raises:
        TooManyCallsError: From the forward that calls more.
    """

    def __init__(self, *tables: Table, most: int | None = None) -> None:
        super().__init__()
        self.called = 0
        self._most = most
        self._found: dict[Any, Callable[..., Any]] = {}
        for table in tables:
            for function, rewrite in table.items():
                self._found[function] = partial(rewrite, self._found.get(function, function))

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.called += 1
        if self._most is not None and self.called > self._most:
            raise TooManyCallsError
        return self._found.get(func, func)(*args, **(kwargs or {}))
