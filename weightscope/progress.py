"""Bars of long steps, each named and with its whole in view; in notebooks too."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


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
    if not shown:
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
    if not shown:
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
    """Tqdm's bar for a terminal or a notebook, without the thread that watches over bars.

    That thread would outlive the bar.
    """
    from tqdm.auto import tqdm

    return type("Bar", (tqdm,), {"monitor_interval": 0})
