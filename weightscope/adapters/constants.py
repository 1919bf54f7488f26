"""Numbers that a forward reads out of tensors that follow no input.

A trace runs on tensors without numbers. Small tensors of the model keep theirs: its parameters and
buffers beside what stands for them, and what lies elsewhere (an attribute, a list, a global) since
operators on such tensors alone run as they are.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from weightscope.adapters.checks import Passing, passing_answer
from weightscope.adapters.dispatch import READS_VALUES, FakeTensor, FakeTensorMode, storage_of
from weightscope.adapters.modes import modes_kept
from weightscope.adapters.needed import needed
from weightscope.adapters.pytree import tree_leaves

with needed():
    from torch.utils._python_dispatch import _disable_current_modes

_DATA: Any = vars(torch._C.TensorBase)["data"].__get__
# numbers that a forward reads out of its own tensors are few: sizes, scales, flags
_LARGEST_CONSTANT = 256
# what a forward makes of numbers alone may be a map: weights of a window of 96 x 96 x 96
_LARGEST_COMPUTED = 1 << 20


def constants_of(model: nn.Module) -> dict[str, Tensor]:
    """Copies of the tensors of a model that are small enough to be read as numbers, by name."""
    small = {n: t for n, t in _named(model).items() if t.numel() <= _LARGEST_CONSTANT}
    return {name: tensor.detach().clone() for name, tensor in small.items()}


def hold_constants(fake: nn.Module, constants: Mapping[str, Tensor]) -> None:
    """Let a forward read the numbers in small tensors of the model: they follow no input.

    Args:
        fake: The model on fake tensors; a forward may have filled buffers that were none.
        constants: From the same model with its values.
    """
    for name, stand_in in _named(fake).items():
        if isinstance(stand_in, FakeTensor) and name in constants:
            _hold(stand_in, constants[name])


def _named(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _hold(stand_in: Any, constant: Tensor) -> None:
    """Let the numbers of a tensor be read until something is written into it, or into a view."""
    stand_in.constant = constant
    stand_in.fake_mode.fake_tensor_converter.add_constant_storage_mapping(stand_in)
    keep_computed(stand_in.fake_mode)


def keep_computed(mode: FakeTensorMode) -> None:
    """Let a mode keep what is computed from constants, and not only single numbers."""
    vars(mode)["may_turn_const"] = partial(_is_small, largest=_LARGEST_COMPUTED)


def _is_small(result: Tensor, largest: int = _LARGEST_CONSTANT) -> bool:
    return (
        result.numel() <= largest
        and result.layout is torch.strided
        and result.device.type != "meta"
        and not isinstance(result, FakeTensor)
    )


class Constants(TorchFunctionMode):
    """Runs operators on small tensors that have numbers as they are, outside of the trace.

    What is written into is no constant any more, and what draws at random is none.

    Args:
        active: Whether a forward runs; a tracer asks much of tensors before and after.

    Attributes:
        read: File and line of what asked for numbers that are not there.
        checks: The same of what only checks values, once for each time; it passes.
    """

    def __init__(self, active: bool = True) -> None:
        super().__init__()
        self.active = active
        self.read: set[tuple[str, int]] = set()
        self.checks: list[tuple[str, int]] = []
        self._written: dict[int, Tensor] = {}  # kept, or another tensor may get the memory
        self._alike: dict[int, tuple[Tensor, bool]] = {}
        self._within = modes_kept()

    def __enter__(self) -> Constants:
        super().__enter__()  # type: ignore[no-untyped-call]
        self._within.__enter__()
        return self

    def __exit__(self, *details: Any) -> None:
        # torch takes the mode off while it runs an operator; where an interrupt lands there, it
        # could not be left, and that error would come out in the interrupt's place
        self._within.__exit__(*details)
        super().__exit__(*details)  # type: ignore[no-untyped-call]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not self.active:
            return func(*args, **kwargs)
        try:
            if args and isinstance(args[0], FakeTensor) and "out" not in kwargs:
                return self._of_unknown(func, args, kwargs)
            leaves = tree_leaves((args, kwargs))
            if func in _MADE_OF_NUMBERS and "out" not in kwargs:
                return self._made(func, args, kwargs, _plain(leaves))
            tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
            constants = [tensor for tensor in tensors if _is_constant(tensor)]
            if _writes(func, kwargs):
                self._alike.clear()
                self._written.update({storage_of(t): t for t in constants})
            if not constants or len(constants) < len(tensors) or not _plain(leaves):
                return func(*args, **kwargs)
            if any(storage_of(t) in self._written for t in constants):
                return func(*args, **kwargs)
            return self._run(func, args, kwargs, constants)
        except READS_VALUES:
            self.read.add(asking_line())
            raise

    def _made(self, func: Any, args: Any, kwargs: Any, plain: bool) -> Any:
        """A tensor made of numbers, noted where it is a mask that is the same everywhere."""
        made = func(*args, **kwargs)
        if isinstance(made, FakeTensor) and made.dtype == torch.bool and func in _MASKS:
            self._alike[storage_of(made)] = made, func in _ALL_TRUE
        return _with_numbers(made, func, args, kwargs) if plain else made

    def _of_unknown(self, func: Any, args: Any, kwargs: Any) -> Any:
        first = args[0]
        mask, truth = self._alike.get(storage_of(first), (None, False))
        if func is Tensor.tolist and first.constant is not None:
            return first.constant.tolist()
        if func in _TRUTHS and first.constant is None:
            return self._truth(func, args, kwargs)
        # the tracer follows detach(), which gives the same, and not this
        made = first.detach() if func == _DATA else func(*args, **kwargs)
        if first.dtype == torch.bool and _writes(func, kwargs):
            self._alike.clear()  # what is written into may be a part of any mask
        elif mask is not None and func in _TURNED:
            self._alike[storage_of(made)] = made, not truth
        elif mask is not None and func in _WHOLE and len(args) == 1 and not kwargs:
            with _disable_current_modes(), torch.no_grad():
                _hold(made, torch.tensor(truth, device="cpu"))
        return made

    def _truth(self, func: Any, args: Any, kwargs: Any) -> Any:
        """A truth value of numbers that are not there, if all that it is for is a check."""
        passes = func is torch._assert or passing_answer(_asking_frame())
        if passes is None:
            return func(*args, **kwargs)
        self.checks.append(asking_line())
        return Passing(passes) if func is Tensor.item else passes

    def _run(self, func: Any, args: Any, kwargs: Any, constants: list[Tensor]) -> Any:
        with _disable_current_modes(), torch.no_grad():
            before = [(t, t._version, t.clone()) for t in constants]
            state = torch.get_rng_state()
            made = func(*args, **kwargs)
            changed = [(t, value) for t, version, value in before if t._version != version]
            for tensor, value in changed:
                tensor.copy_(value)
            drawn = not torch.equal(state, torch.get_rng_state())
        if not changed and not drawn:
            return made
        self._written.update({storage_of(t): t for t, _ in changed})
        return func(*args, **kwargs)


# what they make follows from their arguments, where these hold no sizes
_MADE_OF_NUMBERS = (
    *(torch.arange, torch.zeros, torch.ones, torch.full, torch.linspace, torch.eye),
    *(torch.hann_window, torch.hamming_window, torch.blackman_window, torch.bartlett_window),
    *(torch.kaiser_window, torch.ops.aten.zeros.default, torch.ops.aten.ones.default),
)


def _with_numbers(made: Any, func: Any, args: Any, kwargs: Any) -> Any:
    """Let a tensor that is made of numbers alone be read, if it is not too large."""
    plain = isinstance(made, FakeTensor) and made.device.type == "cpu" and "out" not in kwargs
    if plain and made.numel() <= _LARGEST_COMPUTED:
        with _disable_current_modes(), torch.no_grad():
            _hold(made, func(*args, **kwargs))
    return made


# as a forward, and as a graph of one calls them
_ALL_TRUE = (torch.ones, torch.ops.aten.ones.default)
_MASKS = (torch.zeros, torch.ops.aten.zeros.default, *_ALL_TRUE)
_TURNED = (Tensor.__invert__, torch.logical_not, Tensor.logical_not, torch.bitwise_not)
_WHOLE = (Tensor.all, Tensor.any, torch.all, torch.any)
_TRUTHS = (Tensor.__bool__, Tensor.item, torch.allclose, torch.equal, torch._assert)


def _asking_frame() -> FrameType:
    """What asks for a truth value; not the modes between."""
    frame = sys._getframe(1)
    while frame.f_back is not None and (
        frame.f_code.co_filename == __file__ or frame.f_code.co_name == "__torch_function__"
    ):
        frame = frame.f_back
    return frame


def asking_line() -> tuple[str, int]:
    """File and line of the innermost call from a file that may be the user's own."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and is_of_a_library(frame.f_code.co_filename):
        frame = frame.f_back
    return (frame.f_code.co_filename, frame.f_lineno) if frame else ("", 0)


def is_of_a_library(file: str) -> bool:
    """Whether a file is of this package, of torch, of what forwards compute with, or of Python.

    A user finds nothing in these lines: the call that led to them says more.
    """
    if file.startswith(_OURS):
        return True
    used = (getattr(sys.modules.get(name), "__file__", None) for name in _COMPUTES)
    if any(file.startswith(os.path.dirname(home) + os.sep) for home in used if home):
        return True
    installed = "site-packages" in file or "dist-packages" in file
    return (file.startswith(_PYTHON) and not installed) or file.startswith(_BETWEEN)


_COMPUTES = ("torch", "numpy", "scipy", "einops", "opt_einsum", "sympy")
_OURS = str(Path(__file__).parents[1]) + os.sep
_PYTHON = os.path.dirname(os.__file__) + os.sep
_BETWEEN = ("<frozen ", "<__array_function__ ")  # of Python, and of numpy's earlier versions


def _is_constant(tensor: Tensor) -> bool:
    kind = type(tensor) is Tensor or type(tensor) is nn.Parameter
    return kind and tensor.device.type == "cpu" and not tensor.requires_grad and _is_small(tensor)


def _plain(leaves: list[Any]) -> bool:
    return not any(isinstance(v, torch.SymInt | torch.SymFloat | torch.SymBool) for v in leaves)


_WRITING = ("__setitem__", "__set__", "__delete__")


def _writes(func: Any, kwargs: Any) -> bool:
    name = getattr(func, "__name__", "")
    if name.startswith("__"):
        return name in _WRITING or (name.startswith("__i") and name not in _ASKING)
    return name.endswith("_") or kwargs.get("out") is not None


_ASKING = ("__int__", "__index__", "__invert__", "__iter__")
