"""A closed-form start for the new bottleneck: regression on what the removed part returned.

The first convolution of the light bottleneck stays random. Its features (random features: Rahimi
and Recht 2007) are regressed, with a ridge penalty, on the tensors that left the removed part.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from weightscope.truncation.bottleneck import Bottleneck, Light, brought, to_image, together
from weightscope.truncation.channels import Recut

RIDGE = 1e-2
"""Penalty relative to the mean variance of the features."""

LARGEST = 8192
"""Unknowns per output beyond which the equations are not solved: they take half a gigabyte."""


def kept_channels(
    name: str, bottleneck: Bottleneck, thinned: Sequence[Recut]
) -> tuple[Sequence[int], ...]:
    """Which channels each exit of a bottleneck still has.

    Args:
        name: Of the bottleneck in its network.
        bottleneck: With the light trunk.
        thinned: As in ``Plan``.
    """
    kept = {recut.tensor: recut.source for recut in thinned if recut.dimension == 0}
    return tuple(
        kept.get(
            f"{name}.trunk.4.weight"
            if isinstance(head, nn.Identity)
            else f"{name}.heads.{i}.weight",
            range(site.width),
        )
        for i, (head, site) in enumerate(zip(bottleneck.heads, bottleneck.exits, strict=True))
    )


def ridge_start(
    bottleneck: Bottleneck,
    entering: Tensor,
    leaving: Sequence[Tensor],
    sizes: Sequence[list[int]],
    kept: Sequence[Sequence[int]],
) -> None:
    """Set the weights of a light bottleneck by regression.

    Nothing is set in another kind of bottleneck, where exits are wider than they were, and where
    there are too many unknowns.

    Args:
        bottleneck: Its trunk's normalisations get the statistics of the given images.
        entering: What the trunk takes, (B, C, *S).
        leaving: What left the removed part, one tensor for each exit, in its own layout.
        sizes: Spatial sizes of each exit.
        kept: Which channels each exit still has.
    """
    trunk = bottleneck.trunk
    if not isinstance(trunk, Light):
        return
    first, norm, _, second, last, _ = trunk
    width = cast(Tensor, second.weight).shape[0]
    if width * 3**bottleneck.dimensions > LARGEST:
        return
    goals = [
        together(to_image(tensor.detach(), site, size), site)
        for tensor, site, size in zip(leaving, bottleneck.exits, sizes, strict=True)
    ]
    if any(goal.shape[1] <= max(channels) for goal, channels in zip(goals, kept, strict=True)):
        return
    sites = zip(goals, bottleneck.exits, strict=True)
    if any(site.images > 1 and goal.shape[1] != site.width for goal, site in sites):
        return
    goals = [goal[:, list(channels)] for goal, channels in zip(goals, kept, strict=True)]
    heads = list(bottleneck.heads)
    direct = [
        goal
        for goal, head, site in zip(goals, heads, bottleneck.exits, strict=True)
        if isinstance(head, nn.Identity) and site.exact
    ]
    with torch.no_grad():
        inner = first(entering)
        _settle(norm, inner)
        features = F.relu(norm(inner))
        if direct:
            _regress_convolution(second, last, features, direct[0], trunk.reach)
        else:
            _settle(last, second(features))
        made = F.relu(last(second(features)))
        for goal, head, site in zip(goals, heads, bottleneck.exits, strict=True):
            if not isinstance(head, nn.Identity):
                _regress_head(head, brought(made, site, goal.shape[2:]), goal)


def _settle(norm: nn.Module, x: Tensor) -> None:
    """Give a batch normalisation the mean and variance of a tensor."""
    variance, mean = torch.var_mean(x, [0, *range(2, x.dim())], unbiased=False)
    cast(Tensor, norm.running_mean).copy_(mean)
    cast(Tensor, norm.running_var).copy_(variance)


def _regress_convolution(
    layer: nn.Module, norm: nn.Module, x: Tensor, goal: Tensor, reach: int
) -> None:
    """Fit a 3x3 convolution without bias; the normalisation behind it hands its result on."""
    dims = x.dim() - 2
    windows = F.pad(x, [reach, reach] * dims)
    for axis in range(dims):
        windows = windows.unfold(2 + axis, 2 * reach + 1, 1)[..., ::reach]
    # (B, C, *S, 3...) -> (B * S, C * 3...)
    order = [0, *range(2, 2 + dims), 1, *range(2 + dims, 2 + 2 * dims)]
    table = windows.permute(order).flatten(0, dims).flatten(1)
    slope, offset = _ridge(table, goal.movedim(1, -1).flatten(0, -2))
    weight = cast(Tensor, layer.weight)
    weight.copy_(slope.T.reshape(weight.shape))
    made = layer(x)
    _settle(norm, made)
    mean, variance = cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var)
    cast(Tensor, norm.weight).copy_((variance + cast(float, norm.eps)).sqrt())
    cast(Tensor, norm.bias).copy_(mean + offset)


def _regress_head(head: nn.Module, x: Tensor, goal: Tensor) -> None:
    """Fit a 1x1 convolution from the trunk's result, brought to the size of the exit."""
    slope, offset = _ridge(x.movedim(1, -1).flatten(0, -2), goal.movedim(1, -1).flatten(0, -2))
    weight = cast(Tensor, head.weight)
    weight.copy_(slope.T.reshape(weight.shape))
    cast(Tensor, head.bias).copy_(offset)


def _ridge(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Slope (features, outputs) and offset of y ~ x, by the normal equations in float64."""
    at, around = x.mean(0, dtype=torch.float64), y.mean(0, dtype=torch.float64)
    gram = torch.zeros(x.shape[1], x.shape[1], dtype=torch.float64, device=x.device)
    cross = torch.zeros(x.shape[1], y.shape[1], dtype=torch.float64, device=x.device)
    for rows, goals in zip(torch.split(x, 4096), torch.split(y, 4096), strict=True):
        centred = rows.double() - at
        gram += centred.T @ centred
        cross += centred.T @ (goals.double() - around)
    gram.diagonal().add_(RIDGE * gram.diagonal().mean() + 1e-12)
    slope = torch.linalg.solve(gram, cross)
    return slope.to(x.dtype), (around - at @ slope).to(x.dtype)
