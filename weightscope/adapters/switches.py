"""Settings of the whole process that threads share."""

from __future__ import annotations

import importlib
import logging
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


@contextmanager
def quiet(logger: str) -> Iterator[None]:
    """Keep a logger of torch from reporting what is expected here and handled.

    Only what this thread reports is dropped, and the logger's level stays the user's: two threads
    that put the level back in the order in which they came would leave it changed.
    """
    log = logging.getLogger(logger)
    thread = threading.get_ident()

    def is_of_another_thread(record: logging.LogRecord) -> bool:
        return threading.get_ident() != thread

    log.addFilter(is_of_another_thread)
    try:
        yield
    finally:
        log.removeFilter(is_of_another_thread)


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
