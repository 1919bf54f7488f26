"""Torch's modes that belong to the caller, such as fake tensors, autocast or inference mode."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import nn

from weightscope.errors import InputError
from weightscope.restoring import Cleanup, finished


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


try:
    from torch._C import _only_lift_cpu_tensors, _set_only_lift_cpu_tensors
    from torch._ops import _len_torch_dispatch_stack_pre_dispatch as _modes_before_autograd
    from torch.overrides import _get_current_function_mode_stack as _function_modes
    from torch.overrides import _pop_mode as _pop_function_mode
    from torch.overrides import _push_mode as _push_function_mode
    from torch.utils import _python_dispatch
    from torch.utils._python_dispatch import _get_current_dispatch_mode_stack as _dispatch_modes
    from torch.utils._python_dispatch import _pop_mode, _push_mode
except ImportError:  # another version of torch
    _python_dispatch = None  # type: ignore[assignment]

_FLAGS = (
    "_is_in_torch_dispatch_mode",
    "_is_in_non_infra_torch_dispatch_mode",
    "_is_in_any_mode_without_ignore_compile_internals",
)


class modes_kept:  # noqa: N801 - a context manager
    """Leaves the caller's modes as they were, also where an interrupt lands between two of them.

    It may land inside of a mode's own ``__enter__``, after the mode has put itself on its stack, or
    in its ``__exit__`` before it has left: no other ``finally`` would take it off. A generator that
    an interrupt leaves behind is closed later, by the collector, and so this is none.

    Args:
        close: Closes such a generator that changes the stacks, which must not happen later.
    """

    def __init__(self, close: Callable[[], object] = lambda: None) -> None:
        self.close = close

    def __enter__(self) -> None:
        if _python_dispatch is None:
            return
        self.functions: list[Any] = _function_modes()  # type: ignore[no-untyped-call]
        self.dispatch: list[Any] = _dispatch_modes()
        self.before_autograd: int = _modes_before_autograd()  # type: ignore[no-untyped-call]
        self.flags = {
            n: getattr(_python_dispatch, n) for n in _FLAGS if hasattr(_python_dispatch, n)
        }
        self.gradients = torch.is_grad_enabled()
        self.lifts = _only_lift_cpu_tensors()

    def __exit__(self, *details: object) -> None:
        if _python_dispatch is not None:
            finished(self.close, self._put_back)

    def _put_back(self) -> None:
        """Make them what they were; what is right already is not touched."""
        _make_same(_function_modes, self.functions, _pop_function_mode, _push_function_mode)
        while _modes_before_autograd() > self.before_autograd:  # type: ignore[no-untyped-call]
            _pop_mode(torch._C.DispatchKey.PreDispatch)
        _make_same(_dispatch_modes, self.dispatch, _pop_mode, _push_mode)
        for name, flag in self.flags.items():
            setattr(_python_dispatch, name, flag)
        torch.set_grad_enabled(self.gradients)
        _set_only_lift_cpu_tensors(self.lifts)


def _make_same(
    now: Callable[[], list[Any]],
    before: list[Any],
    pop: Callable[[], Any],
    push: Callable[[Any], Any],
) -> None:
    """Make a stack of modes what it was."""
    while now() != before[: len(now())]:
        pop()
    for mode in before[len(now()) :]:
        push(mode)


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
                nn.Module.__call__ = self.call  # type: ignore[method-assign]
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


def _leave(mode: torch.inference_mode) -> None:
    """Leave a mode that an interrupt may have left entered; one that is left stays so.

    Torch would leave it when the collector finds it, in the midst of whatever runs then, and turn
    gradients on there.
    """
    with suppress(AttributeError):  # never entered
        mode.__exit__(None, None, None)


@contextmanager
def outside_modes() -> Iterator[None]:
    """Run a block, or a decorated function, as outside of modes of the caller's thread.

    They catch every operator in it, also those that only measure: ``FakeTensorMode``,
    ``no_grad``, ``inference_mode`` and autocast. A default device stays, because the model's
    forward may count on it; what the library makes says its device. The default dtype belongs to
    the whole process and stays too.
    """
    leaving, inference = _leaving_modes(), torch.inference_mode(False)  # gradients are on again too

    def close() -> None:
        finished(leaving.gen.close, lambda: _leave(inference))

    with modes_kept(close), Cleanup() as stack:
        stack.enter_context(leaving)
        stack.enter_context(modes_kept())  # what is left over would be in the way of the caller's
        stack.enter_context(inference)
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
