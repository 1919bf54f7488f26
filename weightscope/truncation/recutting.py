"""Give the layers that read a cut's exits their new shapes."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from weightscope.adapters.modules import Convolution, Norm, buffers, parameters
from weightscope.truncation.channels import Recut


def recut_layer(owner: nn.Module, path: str, changes: Mapping[str, Sequence[Recut]]) -> None:
    """Give tensors of one layer their new shapes: kept slices, and fresh ones between them.

    Fresh slices come from the layer's own initialisation; where it has none, from a normal
    distribution with the old tensor's mean and spread.
    """
    layer = owner.get_submodule(path)
    if "num_features" in changes:  # an instance normalisation without tensors
        layer.num_features = len(changes["num_features"][0].source)  # type: ignore[assignment]
        return
    olds = {leaf: cast(Tensor, getattr(layer, leaf)) for leaf in changes}
    twin = _fresh_twin(layer, olds, changes)
    for leaf, old in olds.items():
        new = cast(Tensor, getattr(twin, leaf)).detach().to(old.dtype)
        if not old.is_meta:
            new = _with_kept(old.detach(), new, changes[leaf])
        replacement = _like(old, new)
        for module in owner.modules():
            for name, value in [*parameters(module).items(), *buffers(module).items()]:
                if value is old:
                    setattr(module, name, replacement)
                    _fit(module)
    if "weight" in olds:
        _fit_around(owner, path, olds["weight"])


def _fresh_twin(
    layer: nn.Module, olds: Mapping[str, Tensor], changes: Mapping[str, Sequence[Recut]]
) -> nn.Module:
    """A copy of a layer with tensors of the new shapes, initialised where slices are fresh."""
    twin = copy.deepcopy(layer)
    for leaf, old in olds.items():
        shape = list(old.shape)
        for part in changes[leaf]:
            shape[part.dimension] = len(part.source)
        new = torch.empty(shape, dtype=old.dtype, device=old.device)
        if not old.is_meta:
            parts = torch.view_as_real(new) if new.is_complex() else new
            parts.normal_(*_spread(old))
        setattr(twin, leaf, _like(old, new))
    _fit(twin)
    reset = getattr(twin, "reset_parameters", None)
    fresh = any(-1 in part.source for parts in changes.values() for part in parts)
    if callable(reset) and fresh and not any(old.is_meta for old in olds.values()):
        reset()
    return twin


def _like(old: Tensor, new: Tensor) -> Tensor:
    if isinstance(old, nn.Parameter):
        return nn.Parameter(new, requires_grad=old.requires_grad)
    return new


def _spread(tensor: Tensor) -> tuple[float, float]:
    """Mean and spread of the numbers that are finite, for a broken network is cut, too."""
    known = _real(tensor)
    known = known[known.isfinite()]
    if not known.numel():
        return 0.0, 0.0
    return float(known.mean()), float(known.std(unbiased=False))


def _real(tensor: Tensor) -> Tensor:
    """The numbers of a tensor, of complex ones both parts."""
    tensor = tensor.detach()
    return (torch.view_as_real(tensor) if tensor.is_complex() else tensor).float()


def _with_kept(old: Tensor, new: Tensor, parts: Sequence[Recut]) -> Tensor:
    """The new tensor with the old one's slices where they are kept."""
    if all(i >= 0 for part in parts for i in part.source):
        for part in parts:
            old = old.index_select(part.dimension, torch.tensor(part.source, device=old.device))
        return old
    indices = partial(torch.tensor, device="cpu", dtype=torch.long)
    result = new.clone()
    index_new: list[Tensor] = [torch.arange(s, device="cpu") for s in new.shape]
    index_old: list[Tensor] = [torch.arange(s, device="cpu") for s in old.shape]
    for part in parts:
        pairs = [(i, s) for i, s in enumerate(part.source) if s >= 0]
        index_new[part.dimension] = indices([i for i, _ in pairs])
        index_old[part.dimension] = indices([s for _, s in pairs])
    result[torch.meshgrid(*index_new, indexing="ij")] = old[
        torch.meshgrid(*index_old, indexing="ij")
    ]
    return result


_WIDTHS = (("channels", "in_channels"), ("out_channels",))
"""What a module around one convolution calls the widths of what this takes and returns."""


def _fit_around(owner: nn.Module, path: str, weight: Tensor) -> None:
    """Make a module around one convolution say its new widths, for the forward may insist on them.

    Args:
        owner: The network.
        path: Of the convolution.
        weight: Before.
    """
    layer = owner.get_submodule(path)
    around = owner.get_submodule(path.rpartition(".")[0])
    weighted = [module for module in around.modules() if parameters(module)]
    if weighted != [layer] or not isinstance(layer, Convolution) or layer.groups > 1:
        return
    before = weight.shape[:2] if layer.transposed else weight.shape[1::-1]
    now = (layer.in_channels, layer.out_channels)
    for names, old, new in zip(_WIDTHS, before, now, strict=True):
        for name in names:
            if getattr(around, name, None) == old:
                setattr(around, name, new)


def _fit(layer: nn.Module) -> None:
    """Make a layer's own attributes say what its tensors' shapes say."""
    tensors = [*parameters(layer).values(), *buffers(layer).values()]
    width = next((t.shape[0] for t in tensors if t is not None and t.dim()), 0)
    if isinstance(layer, Convolution):
        first, second = layer.weight.shape[:2]
        if layer.groups > 1:
            layer.in_channels = layer.out_channels = layer.groups = first
        else:
            entering, leaving = (first, second) if layer.transposed else (second, first)
            layer.in_channels, layer.out_channels = entering, leaving
    elif isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = layer.weight.shape
    elif isinstance(layer, Norm):
        layer.num_features = width
    elif isinstance(layer, nn.GroupNorm):
        if layer.num_groups == layer.num_channels:
            layer.num_groups = width
        layer.num_channels = width
    elif isinstance(layer, nn.LayerNorm | nn.RMSNorm):
        layer.normalized_shape = (width,)
    elif isinstance(layer, nn.PReLU):
        layer.num_parameters = width
