"""What people wrap around a network, and how to take it off."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from weightscope.errors import InputError

# class name -> attribute that holds the network; by name, since most come from other libraries
_HOLDERS = {
    "OptimizedModule": "_orig_mod",  # torch.compile
    "DataParallel": "module",
    "DistributedDataParallel": "module",
    "AveragedModel": "module",  # torch.optim.swa_utils: the averaged weights
    "ModelEmaV2": "module",  # timm, the same
    "ModelEmaV3": "module",
    "DeepSpeedEngine": "module",
}
_SHARDED = ("FullyShardedDataParallel", "FSDPModule", "FullyShardedDataParallelV2")


@dataclass(frozen=True)
class Unwrapped:
    """A network without its wrappers.

    Attributes:
        model: The innermost network.
        taken_off: Class names of the wrappers, the outermost first.
    """

    model: nn.Module
    taken_off: tuple[str, ...]

    @property
    def note(self) -> str:
        """What was taken off in words; empty where nothing was."""
        if not self.taken_off:
            return ""
        return f"read inside {' in '.join(reversed(self.taken_off))}; names are those of the inside"


def unwrap(model: Any) -> Unwrapped:
    """Take off compiled, parallel, averaging and training wrappers.

    Names of layers and tensors are then those of the network itself, wrapped or not. What is no
    module is returned as it is.

    Args:
        model: A network, perhaps within ``torch.compile``, (``Distributed``)``DataParallel``,
            ``AveragedModel``, timm's ``ModelEmaV2``/``V3``, DeepSpeed's engine, or a
            ``LightningModule`` with one network inside.

    Raises:
        InputError: The weights are sharded, the module is a script, or a LightningModule holds
            several networks.
    """
    taken_off: list[str] = []
    while isinstance(model, nn.Module):
        inside = _inside(model)
        if inside is None:
            break
        taken_off.append(type(model).__name__)
        model = inside
    return Unwrapped(model, tuple(taken_off))


def _inside(model: nn.Module) -> nn.Module | None:
    """The network that a wrapper holds; None where it is no wrapper."""
    kinds = [kind.__name__ for kind in type(model).__mro__]
    if any(kind in _SHARDED for kind in kinds):
        raise InputError(
            f"the parameters of this {kinds[0]} are sharded; load the full state dict (see"
            " torch.distributed.checkpoint.state_dict.get_model_state_dict with"
            " full_state_dict=True) into the plain network and pass that"
        )
    if isinstance(model, torch.jit.ScriptModule):
        raise InputError(
            f"{getattr(model, 'original_name', kinds[0])} is a torch.jit.ScriptModule, whose"
            " operations cannot be seen; pass the module that it was traced or scripted from"
            " (with load_state_dict(script.state_dict()))"
        )
    for kind in kinds:
        if kind in _HOLDERS:
            return getattr(model, _HOLDERS[kind], None)
    return _network_of_lightning(model) if "LightningModule" in kinds else None


def _network_of_lightning(model: nn.Module) -> nn.Module | None:
    """The only child with parameters: losses and metrics have none."""
    networks = {
        name: child
        for name, child in model.named_children()
        if next(child.parameters(), None) is not None
    }
    own = next(model.parameters(recurse=False), None)
    if len(networks) == 1 and own is None:
        return next(iter(networks.values()))
    if (
        type(model).forward is not nn.Module.forward
        and "Lightning" not in type(model).forward.__qualname__
    ):
        return None  # its own forward joins its parts
    raise InputError(
        f"{type(model).__name__} holds {len(networks)} networks ({', '.join(networks)}) and no"
        " forward that joins them; pass one of them"
    )
