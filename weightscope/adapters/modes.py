"""Torch's modes that belong to the caller, such as fake tensors, autocast or inference mode."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn

from weightscope.errors import InputError


@contextmanager
def _refusing_modes() -> Iterator[None]:
    """Refuse to run inside of a mode that makes other tensors, where torch cannot leave one."""
    if type(torch.empty(0, device="cpu")) is not torch.Tensor:
        raise InputError(
            f"torch {torch.__version__} cannot leave the mode that this is called in; call it "
            "outside of FakeTensorMode and its like"
        )
    yield


try:
    from torch.utils._python_dispatch import _disable_current_modes as _leaving_modes
except ImportError:  # another version of torch
    _leaving_modes = _refusing_modes


class _Turns:
    """Threads take turns in the order in which they asked; within its own a thread asks no more.

    A plain lock is mostly taken again by the thread that has just left it.
    """

    def __init__(self) -> None:
        self.queue, self.turn = threading.Lock(), threading.Lock()
        self.holder = 0
        self.call = nn.Module.__call__

    @contextmanager
    def take(self) -> Iterator[None]:
        if self.holder == threading.get_ident():
            yield
            return
        held = False
        try:
            with self.queue:  # who waits for the turn is the only one to wait for it
                held = self.turn.acquire()
            self.holder, self.call = threading.get_ident(), nn.Module.__call__
            yield
        finally:
            if held:
                self.holder = 0
                self.turn.release()


_turns = _Turns()


def _afresh() -> None:
    """A child has none of the threads of its parent, and so none that would undo what it changed.

    A trace that another thread was at had replaced the call of all modules.
    """
    global _turns
    if _turns.holder not in (0, threading.get_ident()):
        nn.Module.__call__ = _turns.call  # type: ignore[method-assign]
    _turns = _Turns()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_afresh)

_AUTOCAST = ("cpu", "cuda", "mps", "xpu")


@contextmanager
def outside_modes() -> Iterator[None]:
    """Run a block, or a decorated function, as outside of modes of the caller's thread.

    They catch every operator in it, also those that only measure: ``FakeTensorMode``,
    ``no_grad``, ``inference_mode`` and autocast. A default device stays, because the model's
    forward may count on it; what the library makes says its device. The default dtype belongs to
    the whole process and stays too.
    """
    with ExitStack() as stack:
        stack.enter_context(_leaving_modes())
        stack.enter_context(torch.inference_mode(False))  # gradients are on again too
        for kind in _AUTOCAST:
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        yield


@contextmanager
def alone() -> Iterator[None]:
    """The same for what runs a model: threads take turns.

    A trace replaces ``Module.__call__`` and turns oneDNN off for the whole process, and the random
    state is the whole process's too.
    """
    with _turns.take(), outside_modes():
        yield
