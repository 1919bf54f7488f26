"""What a module itself owns: children, parameters, buffers and hooks, with aliases and gaps.

The public iterators skip what is None, what has a second name, and hooks; whoever copies a module
needs these too.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from weightscope.adapters.needed import needed

try:
    from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm
    from torch.nn.modules.batchnorm import _NormBase as Norm
    from torch.nn.modules.conv import _ConvNd as Convolution
except ImportError:  # another version of torch: its public classes
    BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d | nn.SyncBatchNorm  # type: ignore
    Norm = BatchNorm | nn.InstanceNorm1d | nn.InstanceNorm2d | nn.InstanceNorm3d  # type: ignore
    Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d  # type: ignore
    Convolution |= nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d  # type: ignore

with needed():  # what the functions below give
    operator.attrgetter(
        "_modules", "_parameters", "_buffers", "_non_persistent_buffers_set", "_forward_hooks",
        "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks",
    )(nn.Module())  # fmt: skip

__all__ = [
    "BatchNorm",
    "Convolution",
    "Norm",
    "backward_hooks",
    "buffers",
    "children",
    "forward_hooks",
    "forward_pre_hooks",
    "is_of_parameters",
    "is_persistent",
    "layer_of",
    "parameters",
]


def layer_of(model: nn.Module, parameter: str) -> str:
    """Qualified name of the layer that a parameter belongs to.

    It is the module that owns it; a parametrization is part of its layer, and in a `ParameterDict`
    or `ParameterList` each parameter is a layer of its own.
    """
    owner = parameter.rpartition(".")[0]
    if is_of_parameters(model.get_submodule(owner)):
        return parameter
    return owner.partition(".parametrizations.")[0]


def is_of_parameters(module: nn.Module) -> bool:
    """Whether a module is a container of parameters and no layer."""
    return isinstance(module, nn.ParameterDict | nn.ParameterList)


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
