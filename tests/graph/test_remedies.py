"""Every kind of refusal names a remedy; here each remedy is followed, and the network is read."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weightscope.cost import count_costs
from weightscope.errors import ForwardError, InputError, StructureError, WeightscopeError
from weightscope.graph import Structure, read_structure, rebuild
from weightscope.truncation.building import build
from weightscope.truncation.plan import find_cut, make_plan

Forward = Callable[["Net", Tensor], Any]
IMAGE = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """Two levels; what its forward does, a test says."""

    def __init__(self, forward: Forward | None = None) -> None:
        super().__init__()
        self.top, self.deep = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 32, 3, padding=1)
        self.up, self.out = nn.Conv2d(36, 4, 3, padding=1), nn.Conv2d(4, 2, 1)
        self.does = forward or plain

    def forward(self, x: Tensor) -> Any:
        return self.does(self, x)


def encode(net: Net, x: Tensor) -> tuple[Tensor, Tensor]:
    top = F.relu(net.top(x))
    return top, F.relu(net.deep(F.max_pool2d(top, 2)))


def decode(net: Net, top: Tensor, deep: Tensor) -> Tensor:
    return net.out(F.relu(net.up(torch.cat([F.interpolate(deep, scale_factor=2.0), top], 1))))


def plain(net: Net, x: Tensor) -> Tensor:
    return decode(net, *encode(net, x))


def picks(net: Net, x: Tensor) -> Tensor:
    y = plain(net, x)
    found = y[y > 0]
    return found * found.new_ones(found.shape[0])


def masks(net: Net, x: Tensor) -> Tensor:
    y = plain(net, x)
    return torch.where(y > 0, y, 0)


def branches(net: Net, x: Tensor) -> Tensor:
    return plain(net, x / 255 if x.max() > 2 else x)


def branches_when_run(net: Net, x: Tensor) -> Tensor:
    if not torch.compiler.is_compiling():
        assert torch.isfinite(x).all()
    return plain(net, x)


def keeps(net: Net, x: Tensor) -> Tensor:
    top, deep = encode(net, x)
    net.last = deep if not hasattr(net, "last") else net.last + deep
    return decode(net, top, net.last)


def flat(net: Net, x: Tensor) -> Tensor:
    return net.out(F.relu(net.top(x)))


def classify(net: Net, x: Tensor) -> Tensor:
    return encode(net, x)[1].mean((2, 3))


def predict_deep(net: Net, x: Tensor) -> Tensor:
    deep = encode(net, x)[1]
    return F.interpolate(net.out(deep[:, :4]), scale_factor=2.0)


def predict_after(net: Net, x: Tensor) -> Tensor:
    deep = encode(net, x)[1]
    return net.out(F.interpolate(deep, scale_factor=2.0)[:, :4])


def enlarge(net: Net, x: Tensor) -> Tensor:
    return net.out(F.interpolate(F.relu(net.top(x)), scale_factor=2.0))


def fails(net: Net, x: Tensor) -> Tensor:
    if x.shape[2] % 5:
        raise ValueError("sides must be multiples of 5")
    return plain(net, x)


def last_channels(net: Net, x: Tensor) -> Tensor:
    return plain(net, x.permute(0, 3, 1, 2))


@pytest.mark.parametrize(
    ("wrong", "words", "right", "example"),
    [
        (branches, "is_compiling", branches_when_run, IMAGE),
        (flat, "one level.*goes down and comes back up", plain, IMAGE),
        (classify, "only goes down.*Pass the whole encoder-decoder", plain, IMAGE),
        (predict_deep, "layers with weights after the first resize", predict_after, IMAGE),
        (enlarge, "Pass the whole encoder-decoder", plain, IMAGE),
        (picks, "Take that line out", masks, IMAGE),
    ],
)
def test_a_forward_as_the_error_asks_for_it(
    wrong: Forward, words: str, right: Forward, example: Tensor
) -> None:
    with pytest.raises(StructureError, match=rf"(?s){words}"):
        read_structure(Net(wrong), example)
    assert read_structure(Net(right), example).cuts


def test_an_example_that_the_forward_takes() -> None:
    with pytest.raises(ForwardError, match=r"multiples of 5.*example_inputs="):
        read_structure(Net(fails), IMAGE)
    assert read_structure(Net(fails), torch.randn(2, 3, 20, 20)).cuts


def test_a_layout_that_is_said() -> None:
    images = IMAGE.permute(0, 2, 3, 1)
    with pytest.raises(WeightscopeError, match="layout="):
        read_structure(Net(last_channels), layout="NCHW")
    assert read_structure(Net(last_channels), images, layout="NHWC").cuts


def test_a_model_that_can_be_copied() -> None:
    net = Net()
    net.lock = (value for value in ())  # a generator
    with pytest.raises(StructureError, match=r"deep-copied.*make copy\.deepcopy work"):
        read_structure(net, IMAGE)
    del net.lock
    assert read_structure(net, IMAGE).cuts


def test_weights_that_are_there() -> None:
    net = Net().to("meta")
    with pytest.raises(InputError, match=r"to_empty\(device='cpu'\)"):
        read_structure(net, IMAGE)
    net.to_empty(device="cpu")
    for parameter in net.parameters():
        nn.init.normal_(parameter)
    assert read_structure(net, IMAGE).cuts


def test_weights_made_outside_of_inference_mode() -> None:
    with torch.inference_mode():
        net = Net()
    with pytest.raises(InputError, match="inference_mode"):
        read_structure(net, IMAGE)
    assert read_structure(copy.deepcopy(net), IMAGE).cuts


def test_a_lazy_layer_that_ran_once() -> None:
    net = Net()
    net.deep = nn.LazyConv2d(32, 3, padding=1)
    with pytest.raises(InputError, match="run the model once"):
        read_structure(net, IMAGE)
    net(IMAGE)
    assert read_structure(net, IMAGE).cuts


def test_a_network_of_fixed_size_at_the_size_that_is_used() -> None:
    def fixed(net: Net, x: Tensor) -> Tensor:
        return F.interpolate(plain(net, x), int(x.shape[2] // 8 * 8.0))

    built = rebuild(read_structure(Net(fixed), IMAGE))
    other = torch.randn(2, 3, 32, 32)
    with pytest.raises(InputError, match=r"example_inputs= of the size"):
        built(other)
    assert rebuild(read_structure(Net(fixed), other))(other).shape[2:] == (32, 32)


# refused depths ----------------------------------------------------------------------------------


def reason(structure: Structure) -> str:
    (refusal,) = structure.refusals
    return refusal.reason


def cut(structure: Structure) -> nn.Module:
    plan = make_plan(structure, find_cut(structure, 1), "pool")
    return build(structure, plan, count_costs(structure.model, structure.inputs)).module


class Complex(nn.Module):
    """The deep level computes with complex numbers; what crosses is complex, or is not."""

    def __init__(self, real: bool) -> None:
        super().__init__()
        self.real = real
        self.top = nn.Conv2d(3, 4, 3, padding=1)
        self.deep = nn.Conv2d(4, 4, 3, 2, 1, dtype=torch.complex64)
        self.rise = nn.ConvTranspose2d(4, 4, 2, 2, dtype=torch.complex64)
        self.out = nn.Conv2d(12, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        top = self.top(x)
        z = self.deep(torch.complex(top, top))
        parts = torch.cat([z.real, z.imag], 1)
        if not self.real:
            z = self.rise(z)
            return self.out(torch.cat([z.real, z.imag, top], 1))
        return self.out(torch.cat([F.interpolate(parts, scale_factor=2.0), top], 1))


def test_complex_numbers_that_cross_as_channels() -> None:
    refused = read_structure(Complex(real=False), IMAGE)
    assert "torch.cat([z.real, z.imag], 1)" in reason(refused)
    read = read_structure(Complex(real=True), IMAGE)
    assert cut(read)(IMAGE).shape == (2, 2, 16, 16)


class Nested(nn.Module):
    """Its head lies at the first of two deeper levels."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(n, 32, 3, 2, 1) for n in (3, 32, 32))
        self.up, self.out = nn.Conv2d(64, 32, 3, padding=1), nn.Conv2d(32, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        half = self.a(x)
        quarter = F.interpolate(F.relu(self.b(half)), scale_factor=2.0)
        y = self.out(F.relu(self.up(torch.cat([half, quarter], 1))))
        return F.interpolate(y, scale_factor=2.0)


def test_a_depth_that_holds_the_head() -> None:
    structure = read_structure(Nested(), IMAGE)
    assert [r.keep_levels for r in structure.refusals] == [1]
    assert structure.refusals[0].reason.endswith("keep more levels")
    assert [c.keep_levels for c in structure.cuts] == [2]
