"""Hooks that a forward sets on gradients: no graph holds them."""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Callable, Collection
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from weightscope.adapters import modules
from weightscope.adapters.rewriting import Table

_SETTERS = ("register_hook", "register_post_accumulate_grad_hook", "retain_grad")


class HooksAside:
    """Sets no hook on the gradient of a tensor, and notes who asked for one.

    Tensors without numbers have no gradients, and some must not be asked for any.

    Attributes:
        set_by: The name of a method of tensors, and the name of the module in whose forward it was
            called, as far as `inside` follows it.
        inside: Names of the modules that are being called, the outermost first.
    """

    def __init__(self) -> None:
        self.set_by: set[tuple[str, str]] = set()
        self.inside: list[str] = []

    def table(self) -> Table:
        """What runs in the place of what sets a hook."""
        return {getattr(Tensor, name): partial(self._note, name) for name in _SETTERS}

    def _note(self, name: str, *_: Any, **__: Any) -> RemovableHandle | None:
        self.set_by.add((name, self.inside[-1] if self.inside else ""))
        return None if name == "retain_grad" else RemovableHandle(OrderedDict())

    def following(self, name: str) -> tuple[Callable[..., None], Callable[..., None]]:
        """What to do before and after each call of a module."""

        def enter(module: nn.Module, args: Any) -> None:
            self.inside.append(name)

        def leave(module: nn.Module, args: Any, result: Any) -> None:
            while self.inside.pop() != name:
                pass  # calls that the model abandoned by an exception of its own

        return enter, leave


def may_set_hooks(model: nn.Module) -> bool:
    """Whether a method of a module names what sets hooks on gradients."""
    kinds = {c for m in model.modules() for c in type(m).__mro__}
    own = [c for c in kinds if not c.__module__.startswith("torch.")]
    methods = [m for c in own for m in vars(c).values() if inspect.isfunction(m)]
    return any(name in m.__code__.co_names for m in methods for name in _SETTERS)


def hooked_modules(model: nn.Module, whole: Collection[str]) -> tuple[str, ...]:
    """Names of the modules with hooks on their backward that are taken apart."""
    return tuple(
        name
        for name, module in model.named_modules()
        if any(modules.backward_hooks(module)) and not is_inside(name, whole)
    )


def is_inside(name: str, whole: Collection[str]) -> bool:
    """Whether a module is one of some, or lies inside of one."""
    return any(name == part or name.startswith(f"{part}.") for part in whole)
