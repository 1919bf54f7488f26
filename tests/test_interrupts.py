"""An interrupt at any point leaves none of torch's modes behind."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import nn
from torch.overrides import BaseTorchFunctionMode, _get_current_function_mode_stack
from torch.utils import _python_dispatch
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode_stack

from weightscope.adapters.modes import outside_modes
from weightscope.cost import count_costs, measure_peak_memory
from weightscope.restoring import Cleanup

IMAGE = torch.zeros(1, 3, 8, 8)
_SWITCHING = {"__enter__", "__exit__", "_push_mode", "_pop_mode", "outside_modes"}


class _At:
    """Interrupts at one of the lines at which modes are entered and left."""

    def __init__(self, number: int, everywhere: bool) -> None:
        self.number, self.count, self.everywhere = number, 0, everywhere

    def __call__(self, frame: Any, event: str, arg: Any) -> Any:
        code = frame.f_code
        mine = "/contextlib." not in code.co_filename or self.everywhere
        return self.line if mine and code.co_name in _SWITCHING else None

    def line(self, frame: Any, event: str, arg: Any) -> Any:
        self.count += 1
        if self.count == self.number:
            raise KeyboardInterrupt
        return self.line


def _interrupted(run: Callable[[], object], number: int = 0, everywhere: bool = True) -> int:
    tracer, before = _At(number, everywhere), sys.gettrace()
    sys.settrace(tracer)
    try:
        run()
    finally:
        sys.settrace(before)
    return tracer.count


def _lands(run: Callable[[], object], number: int, everywhere: bool = True) -> bool:
    """Whether an interrupt comes out as such; nothing holds its traceback, and so no frame."""
    try:
        _interrupted(run, number, everywhere)
    except KeyboardInterrupt:
        return True
    return False


def _state() -> tuple[object, ...]:
    return (
        [*_get_current_dispatch_mode_stack()],
        [*_get_current_function_mode_stack()],
        _python_dispatch._is_in_torch_dispatch_mode,
        _python_dispatch._is_in_non_infra_torch_dispatch_mode,
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled("cpu"),
        nn.Module.__call__,
        torch.compiler.is_compiling(),
    )


class _Dispatch(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


def _modes() -> None:
    with outside_modes(), BaseTorchFunctionMode(), torch.no_grad(), _Dispatch():
        IMAGE + 1


@contextmanager
def _nothing_late() -> Iterator[None]:
    """Of what interrupts left behind nothing changes a mode when the collector finds it."""
    gc.collect()
    gc.disable()
    try:
        yield
        with torch.no_grad():
            gc.collect()
            assert not torch.is_grad_enabled()
    finally:
        gc.enable()


def test_modes_are_left_wherever_an_interrupt_lands() -> None:
    with _nothing_late(), BaseTorchFunctionMode(), _Dispatch():  # of the caller
        _modes()
        points, before = _interrupted(_modes), _state()
        for number in range(1, points):
            assert _lands(_modes, number)
            assert _state() == before
    assert points > 40


@pytest.mark.parametrize("what", [measure_peak_memory, count_costs])
def test_measurements_leave_no_mode_wherever_an_interrupt_lands(what: Any) -> None:
    model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU())

    def run() -> None:
        what(model, IMAGE)

    run()
    # within contextlib, generators of torch's own would be left behind
    points, before = _interrupted(run, 0, False), _state()
    with _nothing_late():
        for number in range(1, points, max(1, points // 60)):
            assert _lands(run, number, False)
            assert _state() == before


def test_every_context_of_a_stack_is_left_where_an_interrupt_lands_between_two() -> None:
    left: list[int] = []

    def run() -> None:
        with Cleanup() as stack:
            for index in range(3):
                stack.callback(left.append, index)

    points = _interrupted(run)
    assert points > 10
    entered = False
    for number in range(1, points + 1):
        left.clear()
        assert _lands(run, number)
        entered = entered or bool(left)
        assert not entered or len(left) >= 2  # the one in whose call it lands is lost
