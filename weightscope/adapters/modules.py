"""What a module itself owns: children, parameters, buffers and hooks, with aliases and gaps.

The public iterators skip what is None, what has a second name, and hooks; whoever copies a module
needs these too.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm
from torch.nn.modules.batchnorm import _NormBase as Norm
from torch.nn.modules.conv import _ConvNd as Convolution

__all__ = [
    "BatchNorm",
    "Convolution",
    "Norm",
    "backward_hooks",
    "buffers",
    "children",
    "forward_hooks",
    "forward_pre_hooks",
    "is_persistent",
    "parameters",
]


def children(module: nn.Module) -> dict[str, nn.Module | None]:
    """The module's own dictionary of children; a change of it changes the module."""
    return module._modules


def parameters(module: nn.Module) -> dict[str, nn.Parameter | None]:
    """The module's own dictionary of parameters; a change of it changes the module."""
    return module._parameters


def buffers(module: nn.Module) -> dict[str, Tensor | None]:
    """The module's own dictionary of buffers; a change of it changes the module."""
    return module._buffers


def is_persistent(module: nn.Module, buffer: str) -> bool:
    """Whether a buffer belongs to the state dict."""
    return buffer not in module._non_persistent_buffers_set


def forward_pre_hooks(module: nn.Module) -> Iterator[Any]:
    """Hooks that run before the module's forward."""
    yield from module._forward_pre_hooks.values()


def forward_hooks(module: nn.Module) -> Iterator[Any]:
    """Hooks that run before and after the module's forward."""
    yield from module._forward_pre_hooks.values()
    yield from module._forward_hooks.values()


def backward_hooks(module: nn.Module) -> Iterator[dict[int, Any]]:
    """The dictionaries of hooks that run in the module's backward."""
    yield module._backward_hooks
    yield module._backward_pre_hooks
