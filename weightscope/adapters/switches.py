"""Settings of the whole process that threads share."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from weightscope.restoring import Cleanup, finished


def module_named(name: str) -> Any:
    """A module of torch that may be missing; then None."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


class Shared:
    """A process-wide switch that stays on until the last of several threads has left it."""

    def __init__(self, make: Any) -> None:
        self.make = make
        self.lock = threading.Lock()
        self.inside = set[object]()
        self.switched = Cleanup()

    @contextmanager
    def on(self) -> Iterator[None]:
        """Switched, as long as one thread is inside."""
        who = object()
        try:
            with self.lock:
                if not self.inside:
                    self.switched.enter_context(self.make())
                self.inside.add(who)
            yield
        finally:
            finished(partial(self._leave, who))

    def _leave(self, who: object) -> None:
        with self.lock:
            self.inside.discard(who)
            if not self.inside:
                self.switched.close()
