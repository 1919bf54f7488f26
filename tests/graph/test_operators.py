"""The table of operators: complete where networks meet it, and true where it can be measured."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from weightscope.cost.rules import FORMULAS, MAC_RULES, is_free
from weightscope.graph import read_structure
from weightscope.graph.nodes import operator_of
from weightscope.graph.operators import OPERATORS, POINTWISE, UNKNOWN, Macs, View, facts
from weightscope.receptive_field import network_receptive_field, receptive_fields, steps

MET = Path(__file__).parent.parent.parent / "matrix" / "operators.txt"
"""Renewed by ``python -m matrix.operators``."""


def met(where: str) -> list[str]:
    lines = (line.split() for line in MET.read_text().splitlines())
    return sorted(name for name, place in lines if place == where)


def overloads(name: str) -> list[torch._ops.OpOverload]:
    namespace, _, plain = name.partition("::")
    packet = getattr(getattr(torch.ops, namespace), plain, None)
    return [getattr(packet, o) for o in packet.overloads()] if packet else []


@pytest.mark.parametrize("name", met("graph"))
def test_every_operator_that_the_matrix_meets_has_a_row(name: str) -> None:
    assert facts(name) is not UNKNOWN
    assert facts(name).view is not None


@pytest.mark.parametrize("name", met("run"))
def test_the_cost_of_every_operator_that_the_matrix_runs_is_known(name: str) -> None:
    if name.partition("::")[0] not in ("aten", "prim"):
        pytest.skip("from a library that is not installed here")
    found = overloads(name) + overloads(f"{name}_")
    known = any(is_free(o) or MAC_RULES.get(o._overloadpacket) for o in found)
    # no counter has a figure for a Fourier transform: it is named as not counted
    assert known is not name.startswith("aten::_fft")


def test_every_name_is_an_operator_of_torch() -> None:
    aten = [name for name in OPERATORS if name.startswith("aten::")]
    assert len(aten) > 300
    missing = [name for name in aten if not overloads(name) and not overloads(f"{name}_")]
    assert missing == []


def test_every_word_of_the_table_has_its_arithmetic() -> None:
    assert steps._STEPS.keys() == set(get_args(View))
    assert FORMULAS.keys() == set(get_args(Macs)) - {"free"}


def test_the_arguments_that_follow_the_mode_exist() -> None:
    for name, row in OPERATORS.items():
        if row.mode:
            assert any(a.name == row.mode for o in overloads(name) for a in o._schema.arguments)


def test_an_operator_without_a_row_is_nobodys_guess() -> None:
    assert facts("aten::_trilinear") is UNKNOWN
    assert facts("other::relu") is UNKNOWN
    assert facts("aten::relu") is POINTWISE  # by torch's own tag
    assert facts("aten::gelu") is POINTWISE


# --- the view of every operator against the gradient ---------------------------------------------

Y = Tensor
WEIGHT = torch.randn(4, 4, 3, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
VECTOR = torch.linspace(0.5, 1.5, 4, dtype=torch.float64)


def _unpool(y: Y, kernel: int, stride: int, padding: int = 0) -> Y:
    pooled, where = F.max_pool2d(y, kernel, stride, padding, return_indices=True)
    pooled = F.conv2d(pooled, WEIGHT, padding=1)
    return F.max_unpool2d(pooled, where, kernel, stride, padding, y.shape[-2:])


def _patches(y: Y) -> Y:
    patches = F.unfold(y, 3, padding=1, stride=2)
    mixed = torch.einsum("oc,bcl->bol", torch.ones(36, 36, dtype=y.dtype), patches)
    return F.fold(mixed, y.shape[-2:], 3, padding=1, stride=2)


def _written(y: Y) -> Y:
    parts = F.avg_pool2d(y, 2)
    result = torch.zeros_like(y)
    result = torch.slice_scatter(result, parts.repeat_interleave(2, 2), 3, 0, None, 2)
    return torch.slice_scatter(result, parts.repeat_interleave(2, 2) * 2, 3, 1, None, 2)


def _space_to_depth(y: Y) -> Y:
    b, c, h, w = y.shape
    folded = y.reshape(b, c, h // 2, 2, w // 2, 2).permute(0, 1, 3, 5, 2, 4)
    return F.conv2d(folded.reshape(b, 4 * c, h // 2, w // 2), torch.ones(4, 16, 1, 1).double())


def _depth_to_space(y: Y) -> Y:
    b, _, h, w = y.shape
    wide = y.reshape(b, 1, 2, 2, h, w).permute(0, 1, 4, 2, 5, 3).reshape(b, 1, 2 * h, 2 * w)
    return F.conv2d(wide, torch.ones(4, 1, 3, 3).double(), padding=1)


def _tokens(y: Y) -> Y:
    tokens = F.layer_norm(y.flatten(2).transpose(1, 2), (4,))
    tokens = F.linear(tokens, torch.ones(4, 4).double())
    tokens = tokens @ torch.ones(4, 4).double()
    return tokens.transpose(1, 2).reshape(y.shape)


def _token_mixing(y: Y) -> Y:
    tokens = y.flatten(2)
    return (tokens.softmax(2) * tokens).reshape(y.shape)


def _rolled(y: Y) -> Y:
    return y + torch.roll(y, (3, -2), (2, 3))


LSTM = [p.detach() for p in nn.LSTM(4, 2, bidirectional=True, dtype=torch.float64).parameters()]


def _lstm(y: Y) -> Y:
    tokens = y.flatten(2).transpose(1, 2)
    zero = torch.zeros(2, y.shape[0], 2, dtype=y.dtype)
    made = torch.lstm(tokens, (zero, zero), LSTM, True, 1, 0.0, False, True, True)[0]
    return made.transpose(1, 2).reshape(y.shape)


TOYS: dict[str, Callable[[Y], Y]] = {
    "conv2d dilated": lambda y: F.conv2d(y, WEIGHT, dilation=2, padding=2),
    "conv2d strided": lambda y: F.conv2d(y, WEIGHT, stride=2, padding=1),
    "conv2d same": lambda y: F.conv2d(y, WEIGHT, padding="same"),
    "conv_transpose2d 2": lambda y: F.conv_transpose2d(y, WEIGHT[..., :2, :2], stride=2),
    "conv_transpose2d 3": lambda y: F.conv_transpose2d(y, WEIGHT, stride=2, padding=1),
    "conv_transpose2d gaps": lambda y: F.conv_transpose2d(y, WEIGHT[..., :2, :2], stride=3),
    "max_pool2d": lambda y: F.max_pool2d(y, 3, 2, 1),
    "avg_pool2d": lambda y: F.avg_pool2d(y, 2, ceil_mode=True),
    "avg_pool2d whole": lambda y: y * F.avg_pool2d(y, y.shape[-2:]).sigmoid(),
    "adaptive_avg_pool2d": lambda y: y * F.adaptive_avg_pool2d(y, 1).sigmoid(),
    "adaptive_avg_pool2d half": lambda y: F.adaptive_avg_pool2d(y, y.shape[-1] // 2),
    "adaptive_max_pool2d": lambda y: y * F.adaptive_max_pool2d(y, 1).sigmoid(),
    "max_unpool2d": lambda y: _unpool(y, 2, 2),
    "max_unpool2d overlapping": lambda y: _unpool(y, 3, 2, 1),
    "upsample_nearest2d": lambda y: F.interpolate(y, scale_factor=2.0),
    "upsample_nearest2d 3:2": lambda y: F.interpolate(y, scale_factor=1.5),
    "upsample_nearest2d down": lambda y: F.interpolate(y, scale_factor=0.5),
    "upsample_bilinear2d": lambda y: F.interpolate(y, scale_factor=2.0, mode="bilinear"),
    "upsample_bilinear2d 4": lambda y: F.interpolate(y, scale_factor=4.0, mode="bilinear"),
    "upsample_bilinear2d down": lambda y: F.interpolate(y, scale_factor=0.5, mode="bilinear"),
    "upsample_bicubic2d": lambda y: F.interpolate(y, scale_factor=2.0, mode="bicubic"),
    "_upsample_nearest_exact2d": lambda y: F.interpolate(y, scale_factor=2.0, mode="nearest-exact"),
    "_upsample_bilinear2d_aa": lambda y: F.interpolate(
        y, scale_factor=0.5, mode="bilinear", antialias=True
    ),
    "pixel_shuffle": lambda y: F.pixel_shuffle(y, 2),
    "pixel_unshuffle": lambda y: F.pixel_unshuffle(y, 2),
    "im2col and back": lambda y: F.fold(F.unfold(y, 3, padding=1), y.shape[-2:], 3, padding=1),
    "im2col, mixed": _patches,
    "unfold": lambda y: F.pad(y, (1, 1)).unfold(3, 3, 1).mean(-1),
    "roll": _rolled,
    "pad": lambda y: F.pad(y, (2, 0, 1, 0)) + F.pad(y, (0, 2, 0, 1)),
    "reflection_pad2d": lambda y: F.conv2d(F.pad(y, (1, 1, 1, 1), mode="reflect"), WEIGHT),
    "slice": lambda y: y[..., 1:, 2:] + y[..., :-1, :-2],
    "slice strided": lambda y: torch.cat([y[..., ::2, ::2], y[..., 1::2, 1::2]], 1),
    "select": lambda y: y + y[:, 0][:, None],
    "unbind": lambda y: torch.stack([*y.unbind(1)], 1) * 2,
    "chunk": lambda y: torch.cat(y.chunk(2, 1)[::-1], 1),
    "slice_scatter": _written,
    "transpose": lambda y: F.conv2d(
        F.conv2d(y, WEIGHT[..., :1]).transpose(2, 3), WEIGHT[..., :1, :], stride=(1, 2)
    ),
    "permute": lambda y: F.layer_norm(y.permute(0, 2, 3, 1), (4,)).permute(0, 3, 1, 2),
    "reshape, patches": _space_to_depth,
    "reshape, shuffle": _depth_to_space,
    "linear": _tokens,
    "softmax over positions": _token_mixing,
    "softmax over channels": lambda y: y.softmax(1),
    "mean": lambda y: y * y.mean((2, 3), keepdim=True),
    "mean of channels": lambda y: y * y.mean(1, keepdim=True),
    "amax of one dimension": lambda y: y * y.amax(2, keepdim=True),
    "mean of rows, as tokens": lambda y: (
        y + (y.mean(2).transpose(1, 2) @ WEIGHT[..., 0, 0]).transpose(1, 2)[:, :, None]
    ),
    "cumsum": lambda y: y.cumsum(3),
    "max(a, b)": lambda y: torch.max(y, 0.2 * y),
    "max of channels": lambda y: y * y.max(1, keepdim=True).values,
    "group_norm of a vector": lambda y: y * VECTOR[:, None, None],
    "batch_norm": lambda y: F.batch_norm(y, VECTOR * 0, VECTOR, VECTOR),
    "prelu": lambda y: F.prelu(y, VECTOR[:1]),
    "matmul of two": lambda y: (
        (y.flatten(2).transpose(1, 2) @ y.flatten(2))
        .softmax(-1)[:, :1]
        .expand(-1, 4, -1)
        .reshape(y.shape)
    ),
    "scaled_dot_product_attention": lambda y: (
        F.scaled_dot_product_attention(*(y.flatten(2).transpose(1, 2),) * 3)
        .transpose(1, 2)
        .reshape(y.shape)
    ),
    "flip": lambda y: y + y.flip(3),
    "grid_sampler": lambda y: F.grid_sample(
        y, y[:, :2].permute(0, 2, 3, 1).tanh(), align_corners=False
    ),
    # gradients go through it place by place, so there are few
    "lstm": lambda y: F.interpolate(_lstm(F.avg_pool2d(y, 4)), scale_factor=4.0),
    "masked": lambda y: torch.where(y > 0, y, y * 0.1).masked_fill(y > 9, 0.0),
    "gather": lambda y: y.gather(3, y.argsort(3)),
}
BOUNDS = {
    "flip": "a value near the centre sees little of the image",
    "grid_sampler": "it samples where the network points",
    "gather": "an index carries no gradient",
}
"""Where the table is on the safe side, and why."""


class Toy(nn.Module):
    """A convolution and a pooling before the operator, a convolution after it."""

    def __init__(self, function: Callable[[Y], Y], seed: int) -> None:
        super().__init__()
        self.function = function
        torch.manual_seed(seed)
        self.stem = nn.Conv2d(1, 4, 3, padding=1).double()
        self.head = nn.LazyConv2d(1, 2).double()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.function(F.avg_pool2d(self.stem(x), 2)))
        return y


SIZE = 40


def measured(function: Callable[[Y], Y]) -> tuple[int, int]:
    """Extent of all that an output value at some phase depends on, over several networks."""
    found = (0, 0)
    masks: dict[int, Tensor] = {}
    for seed in range(4):
        x = torch.randn(1, 1, SIZE, SIZE, dtype=torch.float64, requires_grad=True)
        net = Toy(function, seed)
        y = net(x)
        for phase in range(4):
            centre = tuple(s // 2 + phase for s in y.shape[2:])
            (gradient,) = torch.autograd.grad(y[(0, 0, *centre)], x, retain_graph=True)
            hit = gradient[0, 0] != 0
            masks[phase] = masks.get(phase, hit) | hit
    for mask in masks.values():
        rows, columns = (mask.any(d).nonzero().flatten() for d in (1, 0))
        extent = [int(r.max() - r.min() + 1) if len(r) else 0 for r in (rows, columns)]
        found = (max(found[0], extent[0]), max(found[1], extent[1]))
    return found


@functools.cache
def exported(name: str) -> ExportedProgram:
    net = Toy(TOYS[name], 0)
    x = torch.randn(2, 1, SIZE, SIZE, dtype=torch.float64)
    net(x)
    free = {0: Dim.AUTO, 2: Dim.AUTO, 3: Dim.AUTO}
    return torch.export.export(net.eval(), (x,), strict=False, dynamic_shapes=(free,))


@pytest.mark.sample(2)
@pytest.mark.parametrize("name", TOYS)
def test_the_view_of_an_operator_is_what_gradients_reach(name: str) -> None:
    reached, view = measured(TOYS[name]), network_receptive_field(exported(name))
    assert len(view) == 2
    for found, pixels in zip(reached, view, strict=True):
        if name in BOUNDS:
            assert pixels is None
        elif pixels is None:
            assert found > SIZE // 2  # a maximum, or an incomplete window, leaves places out
        else:
            assert found == pixels


@pytest.mark.slow
def test_every_kind_of_view_has_a_toy() -> None:
    kinds: set[str | None] = set()
    for name in TOYS:
        nodes = exported(name).graph.nodes
        kinds |= {facts(operator_of(node)).view for node in nodes if operator_of(node)}
    assert set(get_args(View)) - {"after"} <= kinds  # that one is our own: see below


class Woven(nn.Module):
    """Writes four quarters of the channels into every other place of a fresh tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(2, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        top, left, right, bottom = self.down(F.avg_pool2d(x, 2)).chunk(4, 1)
        y = x.new_zeros(x.shape[0], 2, *x.shape[2:])
        y[:, :, 0::2, 0::2], y[:, :, 0::2, 1::2] = top, left
        y[:, :, 1::2, 0::2], y[:, :, 1::2, 1::2] = right, bottom
        return self.up(y) + x


def test_what_is_written_into_a_tensor_is_seen_there() -> None:
    """3x3 at jump 2 sees 6; three neighbours at full resolution lie in two cells of 2: 8."""
    structure = read_structure(Woven(), torch.randn(2, 1, 16, 16))
    fields = receptive_fields(structure)
    assert fields == {"bottleneck": (6, 6), "head": (8, 8)}
