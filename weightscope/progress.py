"""Bars of long steps, each named and with its whole in view; in notebooks too."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any

_ONLY_ON_TERMINALS = ContextVar("only on terminals", default=False)


@contextmanager
def only_on_terminals() -> Iterator[None]:
    """Bars of what runs in here are not drawn into files and pipes, where each would be a line."""
    before = _ONLY_ON_TERMINALS.set(True)
    try:
        yield
    finally:
        _ONLY_ON_TERMINALS.reset(before)


def _drawn(shown: bool) -> bool:
    if not shown or sys.stderr is None:  # a program without a console
        return False
    return not _ONLY_ON_TERMINALS.get() or sys.stderr.isatty()


@contextmanager
def bar(
    total: int, name: str, *, shown: bool, unit: str = "it", initial: int = 0, scale: bool = False
) -> Iterator[Callable[[int], object]]:
    """A bar that counts up to a total; one inside another vanishes when it is done.

    Args:
        total: Where it ends.
        name: What is done.
        shown: Whether to draw it; tqdm is not even imported otherwise.
        unit: What is counted.
        initial: Where it begins.
        scale: Whether to shorten large counts.

    Yields:
        A function that says how many more are done.
    """
    if not _drawn(shown):
        yield lambda _: None
        return
    with _kind()(
        total=total, desc=name, unit=unit, initial=initial, unit_scale=scale, leave=None
    ) as drawn:
        yield drawn.update


@contextmanager
def steps(total: int, name: str, *, shown: bool) -> Iterator[Callable[[str], object]]:
    """A bar over steps that differ.

    Args:
        total: How many there are.
        name: Of the whole.
        shown: Whether to draw it.

    Yields:
        A function to call with the name of each step before it begins.
    """
    if not _drawn(shown):
        yield lambda _: None
        return
    begun = 0
    with _kind()(total=total, unit="step", leave=None) as drawn:

        def begin(step: str) -> None:
            nonlocal begun
            drawn.set_description(f"{name}: {step}", refresh=False)
            drawn.update(min(begun, 1))
            drawn.refresh()
            begun += 1

        yield begin
        drawn.set_description(name, refresh=False)
        drawn.update(min(begun, 1))


def _kind() -> Any:
    """Tqdm's bar for a terminal or a notebook, which never ends the work that it shows.

    It does without the thread that watches over bars, which would outlive it.
    """
    from tqdm.auto import tqdm

    class Bar(tqdm):  # type: ignore[type-arg]
        monitor_interval = 0

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            try:
                super().__init__(*args, **kwargs)
            except BaseException:
                self._instances.discard(self)  # type: ignore[attr-defined]
                raise

        def display(self, *args: Any, **kwargs: Any) -> None:
            try:
                super().display(*args, **kwargs)
            except (OSError, ValueError):  # a terminal that is gone, a pipe that nobody reads
                self.disable = True

        def refresh(self, nolock: bool = False, lock_args: Any = None) -> Any:
            if nolock or lock_args:
                return super().refresh(nolock, lock_args)
            # tqdm keeps the lock where drawing is interrupted
            with self.get_lock():  # type: ignore[no-untyped-call]
                return super().refresh(nolock=True)

        def close(self) -> None:
            with suppress(OSError, ValueError):
                super().close()
            # else the next bars would stand below it
            self._instances.discard(self)  # type: ignore[attr-defined]

    return Bar
