"""How much of the input one output value does see, by gradients.

The gradient of one output position (Luo et al., "Understanding the Effective Receptive Field in
Deep Convolutional Neural Networks", NIPS 2016, sec. 3).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from weightscope.adapters import pytree
from weightscope.adapters.modes import alone
from weightscope.calls import called, forward_errors, random_state
from weightscope.copies import deep_copy
from weightscope.cost import Inputs, split_inputs
from weightscope.errors import InputError
from weightscope.graph.models import check_model


@dataclass(frozen=True, eq=False)
class EffectiveField:
    """Where the centre of the output looks, by gradient.

    Attributes:
        extent: Per spatial dimension, pixels of the smallest interval around the gradient's
            centre of mass that holds 95 % of its absolute sum.
        gradient: (*S) absolute gradient of the output's centre with respect to the input, summed
            over channels, averaged over the batch and over the output's channels.
    """

    extent: tuple[int, ...]
    gradient: Tensor


@alone()
def effective_receptive_field(model: nn.Module, inputs: Inputs) -> EffectiveField:
    """Measure the effective receptive field of the output's centre.

    A deep copy runs in evaluation mode; the gradient of the centre of its first image-like output
    is taken with respect to the first image-like input.

    Args:
        model: Any module.
        inputs: What its forward takes: real tensors, best real data.

    Returns:
        The extent and the gradient's map.

    Raises:
        InputError: There is no image-like input or output, no gradient connects them, or the
            parameters have no values yet.
    """
    if next(model.parameters(), None) is not None:  # the numbers of a pooling are its code
        check_model(model)
    args, kwargs = pytree.tree_map_only(Tensor, lambda t: t.detach().clone(), split_inputs(inputs))
    image = _image(pytree.tree_leaves((args, kwargs)), "input")
    image.requires_grad_()
    twin = deep_copy(model).eval().requires_grad_(False)
    with torch.enable_grad(), random_state():
        with forward_errors(model, (args, kwargs), "the inputs"):
            outputs = called(twin, args, kwargs)
        output = _image(pytree.tree_leaves(outputs), "output")
        centre = tuple(size // 2 for size in output.shape[2:])
        target = output.movedim((0, 1), (-2, -1))[centre].abs().sum()
        if not target.requires_grad:
            raise InputError("no gradient reaches the input; does the forward detach it?")
        # into the copy's own leaf: hooks of whoever counts operations refuse `autograd.grad`
        torch.autograd.backward(target, inputs=[image])
    gradient = image.grad
    if gradient is None:
        raise InputError("no gradient reaches the input; does the forward detach it?")
    field = gradient.abs().sum(1).mean(0) / output.shape[1]
    return EffectiveField(
        extent=tuple(_extent(field, dimension) for dimension in range(field.dim())),
        gradient=field,
    )


def _image(leaves: Sequence[Any], which: str) -> Tensor:
    for leaf in leaves:
        if isinstance(leaf, Tensor) and leaf.dim() > 2 and leaf.is_floating_point():
            return leaf
    raise InputError(f"the model has no image-like {which} (batch, channels, *space)")


def _extent(field: Tensor, dimension: int, share: float = 0.95) -> int:
    """Width of the smallest interval around the centre of mass with ``share`` of the sum."""
    profile = field.sum([d for d in range(field.dim()) if d != dimension]).double()
    total = float(profile.sum())
    if total == 0:
        return 0
    positions = torch.arange(len(profile), device=profile.device, dtype=torch.float64)
    centre = round(float((profile * positions).sum()) / total)
    for reach in range(len(profile)):
        low, high = max(0, centre - reach), centre + reach + 1
        if float(profile[low:high].sum()) >= share * total:
            return len(profile[low:high])
    return len(profile)
