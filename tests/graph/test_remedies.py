"""Every kind of refusal names a remedy; here each remedy is followed, and the network is read."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import weightscope as ws
from weightscope.cost import count_costs
from weightscope.errors import (
    ForwardError,
    InputError,
    RecipeError,
    StructureError,
    TruncationError,
    WeightscopeError,
)
from weightscope.graph import Structure, read_structure, rebuild
from weightscope.truncation import Variant, save, verify
from weightscope.truncation.building import build, draft
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


def chooses(net: Net, x: Tensor) -> Tensor:
    top, deep = encode(net, x)
    return decode(net, top, torch.cond(deep.sum() > 0, lambda d: d * 2, lambda d: d + 0, (deep,)))


def chooses_values(net: Net, x: Tensor) -> Tensor:
    top, deep = encode(net, x)
    return decode(net, top, torch.where(deep.sum() > 0, deep * 2, deep))


def through_numpy(net: Net, x: Tensor) -> Tensor:
    y = plain(net, x)
    return y * torch.from_numpy(y.detach().numpy() > 0)


def outside_of_traces(net: Net, x: Tensor) -> Tensor:
    if not torch.compiler.is_compiling():
        net.seen = float(x.numpy().mean())
    return plain(net, x)


def otherwise_in_traces(net: Net, x: Tensor) -> Tensor:
    return plain(net, x) if torch.compiler.is_compiling() else through_numpy(net, x)


def swallowed(net: Net, x: Tensor) -> Tensor:
    y = plain(net, x)
    try:
        return y / 255 if y.max() > -100 else y
    except RuntimeError:
        return y


def in_tensors(net: Net, x: Tensor) -> Tensor:
    y = plain(net, x)
    return torch.where(y.max() > -100, y / 255, y)


def through_a_large_table(net: Net, x: Tensor) -> Tensor:
    return plain(net, x) * float(TABLE.mean())


def through_a_number(net: Net, x: Tensor) -> Tensor:
    return plain(net, x) * MEAN


TABLE = torch.full((40, 40), 2.0)
MEAN = float(TABLE.mean())


def last_channels(net: Net, x: Tensor) -> Tensor:
    return plain(net, x.permute(0, 3, 1, 2))


def draws_its_own(net: Net, x: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return plain(net, x + torch.randn(x.shape, generator=generator))


def draws(net: Net, x: Tensor) -> Tensor:
    return plain(net, x + torch.randn(x.shape))


def maps(net: Net, x: Tensor) -> Tensor:
    return torch.vmap(lambda image: image - image.mean())(plain(net, x))


def broadcasts(net: Net, x: Tensor) -> Tensor:
    y = plain(net, x)
    return y - y.mean((1, 2, 3), keepdim=True)


def nests(net: Net, x: Tensor) -> Tensor:
    return plain(net, torch.nested.as_nested_tensor(list(x)).to_padded_tensor(0.0))


def pads(net: Net, x: Tensor) -> Tensor:
    return plain(net, torch.nn.utils.rnn.pad_sequence(list(x), batch_first=True))


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    ("wrong", "words", "right", "example"),
    [
        (draws_its_own, "without generator=", draws, IMAGE),
        (maps, "whole batch", broadcasts, IMAGE),
        (nests, r"test_remedies\.py, line \d+.*pad_sequence", pads, IMAGE),
        (branches, "is_compiling", branches_when_run, IMAGE),
        (flat, "one level.*goes down and comes back up", plain, IMAGE),
        (classify, "only goes down.*Pass the whole encoder-decoder", plain, IMAGE),
        (predict_deep, "layers with weights after the first resize", predict_after, IMAGE),
        (enlarge, "Pass the whole encoder-decoder", plain, IMAGE),
        (picks, "Take that line out", masks, IMAGE),
        (chooses, r"torch\.where", chooses_values, IMAGE),
        (through_numpy, r"only `if not torch\.compiler\.is_compiling", outside_of_traces, IMAGE),
        (through_numpy, r"Take that line out", plain, IMAGE),
        (through_a_large_table, r"compute in __init__", through_a_number, IMAGE),
        (otherwise_in_traces, r"test_remedies\.py, line \d+.*torch\.where", masks, IMAGE),
        (swallowed, r"test_remedies\.py, line \d+.*torch\.where", in_tensors, IMAGE),
    ],
)
def test_a_forward_as_the_error_asks_for_it(
    wrong: Forward, words: str, right: Forward, example: Tensor
) -> None:
    torch.manual_seed(0)  # an answer that is positive everywhere would be masked nowhere
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


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_module_that_a_script_was_made_from() -> None:
    net = Net()
    layer = net.deep
    net.deep = torch.jit.trace(layer, torch.randn(1, 4, 8, 8))
    with pytest.raises(InputError, match=r"load_state_dict\(script\.state_dict"):
        read_structure(net, IMAGE)
    script, net.deep = net.deep, nn.Conv2d(4, 32, 3, padding=1)
    net.deep.load_state_dict(script.state_dict())
    assert read_structure(net, IMAGE).cuts


def test_a_network_and_not_its_class_nor_what_is_around_it() -> None:
    with pytest.raises(InputError, match=r"call it: Net\(\.\.\.\)"):
        read_structure(Net, IMAGE)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="Pass the network that holds the weights"):
        read_structure(nn.Sequential(nn.ReLU()), IMAGE)
    with pytest.raises(InputError, match=r"load_state_dict"):
        read_structure(Net().state_dict(), IMAGE)  # type: ignore[arg-type]
    net = Net()
    net.load_state_dict(Net().state_dict())
    assert read_structure(net, IMAGE).cuts


def test_a_part_by_one_of_the_names_that_the_error_shows() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = Net(), Net()

        def forward(self, x: Tensor) -> Tensor:
            return self.second(x + self.first(x)[:, :1])

    with pytest.raises(WeightscopeError, match=r"'first', 'second'"):
        read_structure(Twice(), IMAGE, part="third")
    assert read_structure(Twice(), IMAGE, part="second").cuts


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
        return F.interpolate(plain(net, x), int(math.sqrt(x.shape[2] * x.shape[3])))

    built = rebuild(read_structure(Net(fixed), IMAGE))
    other = torch.randn(2, 3, 32, 32)
    with pytest.raises(InputError, match=r"example_inputs= of the size"):
        built(other)
    assert rebuild(read_structure(Net(fixed), other))(other).shape[2:] == (32, 32)


# refused depths ----------------------------------------------------------------------------------


def reason(structure: Structure) -> str:
    (refusal,) = structure.refusals
    return refusal.reason


def cut(structure: Structure, bottleneck: str = "pool", keep: int = 1) -> nn.Module:
    costs = count_costs(structure.model, structure.inputs)
    plan = draft(structure, make_plan(structure, find_cut(structure, keep), bottleneck), costs).plan
    return build(structure, plan).module


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
    assert "keep more levels" in structure.refusals[0].reason
    assert [c.keep_levels for c in structure.cuts] == [2]


def test_a_depth_that_holds_the_last_layers_of_a_network_without_a_head() -> None:
    model = Nested()
    model.out = nn.ConvTranspose2d(32, 2, 4, 2, 1)  # comes up, and is resized after it
    structure = read_structure(model, IMAGE)
    assert "head" not in {stage.name for stage in structure.stages}
    last = structure.refusals[0].reason
    assert "last layers lie below this level" in last
    assert "head" not in last


def pools(net: Net, x: Tensor) -> Tensor:
    return F.max_pool2d(plain(net, x), 2)


def shrinks(net: Net, x: Tensor) -> Tensor:
    pooled = pools(net, x)
    return F.conv2d(pooled, torch.ones(2, 2, 3, 3), padding=1)


def returns_both(net: Net, x: Tensor) -> Any:
    return shrinks(net, x), plain(net, x)


def test_an_output_at_a_level_that_stays() -> None:
    assert cut(read_structure(Net(pools), IMAGE))(IMAGE).shape == (2, 2, 8, 8)
    refused = read_structure(Net(shrinks), IMAGE)
    assert "let the forward also return a prediction" in reason(refused)
    found = cut(read_structure(Net(returns_both), IMAGE))(IMAGE)
    assert found[1].shape == (2, 2, 16, 16)


class Tokens(nn.Module):
    """Its deep part is a row of tokens; how they are an image, the forward shows or not."""

    def __init__(self, shows: bool) -> None:
        super().__init__()
        self.shows = shows
        self.top = nn.Conv2d(3, 4, 3, padding=1)
        self.mix, self.rise = nn.Linear(16, 32), nn.Linear(32, 16)
        self.out = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        top = F.relu(self.top(x))
        b, _, h, w = (top.shape[0], 4, top.shape[2] // 2, top.shape[3] // 2)
        pixels = top.view(b, 4, h, 2, w, 2).permute(0, 2, 4, 1, 3, 5).reshape(b, h * w, 16)
        tokens = F.relu(self.mix(pixels))
        if self.shows:
            tokens = tokens.transpose(1, 2).reshape(b, 32, h, w).flatten(2).transpose(1, 2)
        deep = self.rise(tokens).view(b, h, w, 4, 2, 2).permute(0, 3, 1, 4, 2, 5)
        return self.out(torch.cat([top, deep.reshape(top.shape)], 1))


def test_tokens_arranged_as_an_image() -> None:
    refused = read_structure(Tokens(shows=False), IMAGE)
    with pytest.raises(TruncationError, match="Arrange them as an image in the forward"):
        cut(refused, "light")
    read = read_structure(Tokens(shows=True), IMAGE)
    assert cut(read, "light")(IMAGE).shape == (2, 2, 16, 16)


def adds_deep(net: Net, x: Tensor) -> Tensor:
    top, deep = encode(net, x)
    deep = F.interpolate(deep, scale_factor=2.0) + top.repeat(1, 8, 1, 1)
    return net.out(F.relu(net.up(torch.cat([deep, top], 1))))


def returns_deep(net: Net, x: Tensor) -> Any:
    top, deep = encode(net, x)
    deep = F.interpolate(deep, scale_factor=2.0)
    return net.out(F.relu(net.up(torch.cat([deep, top], 1)))), deep


@pytest.mark.parametrize("forward", [adds_deep, returns_deep])
def test_channels_that_must_stay_as_many_as_they_are(forward: Forward) -> None:
    structure = read_structure(Net(forward), IMAGE)
    costs, found = count_costs(structure.model, structure.inputs), find_cut(structure, 1)
    with pytest.raises(TruncationError, match="the light bottleneck with exit_channels at its"):
        draft(structure, make_plan(structure, found, exit_channels=8), costs)
    plan = draft(structure, make_plan(structure, found), costs).plan
    assert not verify(build(structure, plan), export=False).failures


def test_a_depth_that_saves_too_little_by_the_other_bottleneck() -> None:
    class Slim(Net):
        def __init__(self) -> None:
            super().__init__()
            self.deep, self.up = nn.Conv2d(4, 4, 1), nn.Conv2d(8, 4, 3, padding=1)

    structure = read_structure(Slim(), IMAGE)
    costs = count_costs(structure.model, structure.inputs)
    with pytest.raises(TruncationError, match=r"bottleneck='pool' or width= can still be built"):
        draft(structure, make_plan(structure, find_cut(structure, 1)), costs)
    assert cut(structure)(IMAGE).shape == (2, 2, 16, 16)
    plan = make_plan(structure, find_cut(structure, 1), width=1)
    assert build(structure, plan).module(IMAGE).shape == (2, 2, 16, 16)


class Summed(Net):
    """What comes back up is added to the first features, in place or to a copy of them."""

    def __init__(self, copies: bool) -> None:
        super().__init__()
        self.copies = copies
        self.side, self.last = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(36, 32, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        top = self.top(x)
        deep = F.relu(self.deep(F.max_pool2d(top, 2)))
        top = top.clone() if self.copies else top
        top.add_(F.interpolate(deep, scale_factor=2.0)[:, :4])
        side = F.max_pool2d(self.side(x), 2)
        return decode(self, top, self.last(torch.cat([side, deep], 1)))


def test_a_write_into_a_copy() -> None:
    with pytest.raises(TruncationError, match=r"write into a copy \(clone\(\)\)"):
        cut(read_structure(Summed(copies=False), IMAGE))
    assert cut(read_structure(Summed(copies=True), IMAGE))(IMAGE).shape == (2, 2, 16, 16)


class Groups(Net):
    """Its deep features leave in groups of channels, one axis more than an image has, or not.

    The groups have weights of their own, so that what is made of them cannot stay.
    """

    def __init__(self, as_image: bool) -> None:
        super().__init__()
        self.as_image = as_image
        self.scales = nn.Parameter(torch.ones(2, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        top, deep = encode(self, x)
        deep = F.relu(deep.unflatten(1, (2, 16)) * self.scales)
        if self.as_image:
            return decode(self, top, deep.flatten(1, 2))
        deep = F.interpolate(deep, size=(16, *x.shape[2:])).flatten(1, 2)
        return self.out(F.relu(self.up(torch.cat([deep, top], 1))))


@pytest.mark.parametrize("as_image", [True, False])
def test_features_leave_as_images_or_with_their_groups_side_by_side(as_image: bool) -> None:
    structure = read_structure(Groups(as_image), IMAGE)
    made = cut(structure, keep=structure.cuts[-1].keep_levels)
    for images in (IMAGE, torch.randn(2, 3, 32, 48)):
        assert made(images).shape == structure.model(images).shape
    (exit_,) = structure.cuts[-1].exits
    assert exit_.parts == (() if as_image else (2, 16))


def prepared_after_training(net: nn.Module) -> nn.Module:
    from torch.ao import quantization

    net.qconfig = quantization.get_default_qconfig("fbgemm")
    return quantization.prepare(net.eval())


def prepared_for_training(net: Net) -> nn.Module:
    from torch.ao import quantization

    net.qconfig = quantization.QConfig(
        activation=quantization.default_fake_quant,
        weight=quantization.default_per_channel_weight_fake_quant,
    )
    return quantization.prepare_qat(net.train())


class Normalised(nn.Module):
    """Convolutions with the normalisations that are fused with them."""

    def __init__(self) -> None:
        super().__init__()
        self.top = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.deep = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.head = nn.Conv2d(16, 2, 1)

    def forward(self, x: Tensor) -> Any:
        y = self.top(x)
        deep = F.interpolate(self.deep(F.max_pool2d(y, 2)), scale_factor=2)
        return self.head(torch.cat([y, deep], 1))


FUSED = [[f"{part}.{i}" for i in range(3)] for part in ("top", "deep")]


def fused_after_training() -> nn.Module:
    from torch.ao import quantization

    fused = quantization.fuse_modules(Normalised().eval(), FUSED)
    return prepared_after_training(fused)


def fused_by_its_graph() -> nn.Module:
    from torch.ao import quantization
    from torch.ao.quantization.quantize_fx import prepare_qat_fx

    settings = quantization.get_default_qat_qconfig_mapping("fbgemm")
    return prepare_qat_fx(Normalised().train(), settings, (IMAGE,))


class Generating(Net):
    """Makes the weights of its last layer in the forward, of a mean below the cut or above it."""

    def __init__(self, above: bool) -> None:
        super().__init__()
        self.above, self.weights = above, nn.Linear(32, 2 * 2)

    def forward(self, x: Tensor) -> Any:
        top, deep = encode(self, x)
        seen = F.interpolate(deep, scale_factor=2.0) if self.above else deep
        weights = self.weights(seen.mean((2, 3))).view(-1, 2, 2)
        return torch.einsum("boc,bchw->bohw", weights, decode(self, top, deep))


@pytest.mark.parametrize("above", [False, True])
def test_weights_that_are_made_of_a_mean(above: bool) -> None:
    structure = read_structure(model := Generating(above=above).eval(), IMAGE)
    assert torch.equal(rebuild(structure)(IMAGE), model(IMAGE))
    assert cut(structure)(IMAGE).shape == (2, 2, 16, 16)


def test_a_traced_network_is_read() -> None:
    traced = torch.fx.symbolic_trace(Normalised().eval())
    structure = read_structure(traced, IMAGE)
    assert [found.keep_levels for found in structure.cuts] == [1]
    assert torch.equal(rebuild(structure)(IMAGE), traced(IMAGE))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("prepare", [fused_after_training, fused_by_its_graph])
def test_a_network_of_fused_layers_is_read_without_its_observers(
    prepare: Callable[[], nn.Module],
) -> None:
    from torch.ao.quantization import FakeQuantizeBase, ObserverBase

    prepared = prepare()
    with pytest.raises(StructureError, match=r"prepared for quantization: .* out of a copy"):
        read_structure(prepared, IMAGE)
    for name, part in list(prepared.named_modules(remove_duplicate=False)):
        if isinstance(part, (ObserverBase, FakeQuantizeBase)):
            prepared.set_submodule(name, torch.nn.Identity())
    structure = read_structure(prepared.eval(), IMAGE)
    assert [found.keep_levels for found in structure.cuts] == [1]
    assert cut(structure)(IMAGE).shape == (2, 2, 16, 16)


@pytest.mark.filterwarnings("ignore")  # torch announces the end of these functions
@pytest.mark.parametrize("prepare", [prepared_after_training, prepared_for_training])
def test_a_network_prepared_for_quantization_is_read_as_it_was(
    prepare: Callable[[Net], nn.Module],
) -> None:
    prepared = prepare(Net())
    with pytest.raises(StructureError, match=r"prepared for quantization: .*, its weights have"):
        read_structure(prepared, IMAGE)
    original = Net()
    missing, _ = original.load_state_dict(prepared.state_dict(), strict=False)
    assert not missing
    assert [cut.keep_levels for cut in read_structure(original, IMAGE).cuts] == [1]


def test_a_list_as_one_argument_goes_by_its_name_or_into_a_tuple() -> None:
    class Listed(Net):
        def forward(self, images: list[Tensor]) -> Any:
            return super().forward(images[0] + images[1])

    with pytest.raises(ForwardError, match=r"by its name, \{'images': \[...\]\}, or into a tuple"):
        read_structure(Listed(), [IMAGE, IMAGE])
    for given in ([IMAGE, IMAGE],), {"images": [IMAGE, IMAGE]}:
        assert [cut.keep_levels for cut in read_structure(Listed(), given).cuts] == [1]


def test_what_is_given_beside_the_images_in_one_argument_is_named() -> None:
    """As a loader of ((image, weights), target) yields it."""
    with pytest.raises(ForwardError, match="takes them: the first of the 2 alone, which it takes"):
        read_structure(Net(), ((IMAGE, IMAGE),))


class Given(Net):
    """Takes images in other forms than the usual one, too."""

    def __init__(self, into: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.into = into

    def forward(self, x: Tensor) -> Any:
        return super().forward(self.into(x))


def of_one_too(x: Tensor) -> Tensor:
    return x[None] if x.dim() == 3 else x


ONE = torch.randn(3, 16, 16)


@pytest.mark.parametrize(
    ("into", "image"),
    [
        (of_one_too, ONE),
        (lambda x: of_one_too(x).permute(0, 3, 1, 2), ONE.permute(1, 2, 0)),
        (lambda x: x, ONE),  # convolutions take it as it is
    ],
)
def test_an_image_without_a_batch_axis_is_given_one(
    into: Callable[[Tensor], Tensor], image: Tensor
) -> None:
    def forward(net: Net, x: Tensor) -> Any:
        top = net.top(x)
        deep = net.deep(F.max_pool2d(top, 2))
        deep = torch.repeat_interleave(torch.repeat_interleave(deep, 2, -1), 2, -2)
        return net.out(net.up(torch.cat([top, deep], -3)))

    model = Given(into).eval()
    model.does = forward
    with pytest.raises(InputError, match=r"without a batch axis; .* as image\[None\]"):
        read_structure(model, image)
    with pytest.raises(InputError, match=r"without a batch axis"):
        read_structure(model, {"x": image})
    structure = read_structure(model, image[None])
    assert [found.keep_levels for found in structure.cuts] == [1]


def test_a_batch_without_a_channel_axis_is_no_image_without_a_batch_axis() -> None:
    model = Given(lambda x: x[:, None] if x.dim() == 3 else x).eval()
    model.top = nn.Conv2d(1, 4, 3, padding=1)
    for images in (1, 2):
        structure = read_structure(model, torch.randn(images, 16, 16))
        assert [found.keep_levels for found in structure.cuts] == [1]


@dataclass
class Record:
    image: Tensor


@dataclass
class Registered(Record):
    """Torch is taught to open it."""


torch.export.register_dataclass(Registered)


class OfRecords(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = Net(plain)

    def forward(self, record: Record) -> Any:
        return self.net(record.image)


class Around(nn.Module):
    """Makes the record that its network is given."""

    def __init__(self, kind: type[Record]) -> None:
        super().__init__()
        self.net, self.kind = OfRecords(), kind

    def forward(self, image: Tensor) -> Any:
        return self.net(self.kind(image))


def test_a_registered_dataclass_is_read_at_any_size_and_saved_by_a_module_around(
    tmp_path: Path,
) -> None:
    def variant(model: nn.Module, example: Any) -> Variant:
        analysis = ws.analyze(model.eval(), example_inputs=example, response=False)
        assert analysis.structure.notes == ()
        return analysis.proposals[0].build()

    given = variant(OfRecords(), (Registered(IMAGE),))
    larger = torch.rand(3, IMAGE.shape[1], 32, 48)
    assert len(given.module(Registered(larger))) == 3
    with pytest.raises(RecipeError, match=r"with Registered,.*calls the network with Registered\("):
        save(given, tmp_path / "given")
    around = variant(Around(Registered), IMAGE)
    torch.testing.assert_close(around.module(larger).shape, given.module(Registered(larger)).shape)
    assert save(around, tmp_path / "around").exists()


def test_a_dataclass_that_is_given_is_made_in_a_module_around_the_network() -> None:
    with pytest.raises(StructureError, match=r"given Record, a dataclass.* Record\(\.\.\.\)"):
        read_structure(OfRecords(), (Record(IMAGE),))
    assert read_structure(Around(Record), IMAGE).cuts


def test_a_number_that_is_read_out_of_a_tensor_of_sizes_is_computed_of_sizes() -> None:
    def out_of_a_tensor(net: Net, x: Tensor) -> Tensor:
        return plain(net, x / torch.tensor(x.shape[2]).float().sqrt().item())

    def of_sizes(net: Net, x: Tensor) -> Tensor:
        return plain(net, x / x.shape[2] ** 0.5)

    with pytest.raises(StructureError, match=r"reads out of a tensor .*x\.shape\[2\] \*\* 0\.5"):
        read_structure(Net(out_of_a_tensor), IMAGE)
    assert read_structure(Net(of_sizes), IMAGE).notes == ()


def test_one_image_with_its_channels_last_is_given_in_a_batch() -> None:
    class OfOne(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = Net(plain)

        def forward(self, image: Tensor) -> Any:
            return self.net(image.permute(2, 0, 1)[None])

    class OfABatch(OfOne):
        def forward(self, images: Tensor) -> Any:
            return super().forward(images[0])

    class Grey(OfOne):
        def forward(self, image: Tensor) -> Any:
            return super().forward(image[..., None].expand(-1, -1, 3))

    class OfABatchOfGrey(Grey):
        def forward(self, images: Tensor) -> Any:
            return super().forward(images[0])

    with pytest.raises(InputError, match=r"single image \(height, width\).* a batch of one"):
        read_structure(Grey(), IMAGE[0, 0])
    assert [cut.keep_levels for cut in read_structure(OfABatchOfGrey(), IMAGE[:1, 0]).cuts] == [1]
    images = IMAGE.movedim(1, -1)
    with pytest.raises(InputError, match=r"one image without a batch .* a batch of one image"):
        read_structure(OfOne(), images[0])
    assert [cut.keep_levels for cut in read_structure(OfABatch(), images[:1]).cuts] == [1]


def test_a_forward_that_takes_the_axis_of_one_image_off_names_the_axis() -> None:
    def images(x: Tensor) -> Tensor:
        return x[None] if x.dim() == 3 else x

    def all_axes(net: Net, x: Tensor) -> Tensor:
        return plain(net, images(x.squeeze()))

    def one_axis(net: Net, x: Tensor) -> Tensor:
        return plain(net, images(x.squeeze(1)))

    for example in (None, IMAGE[:1]):
        with pytest.raises(StructureError, match=r"Name the axis .* with two images"):
            read_structure(Net(all_axes), example)
        assert read_structure(Net(one_axis), example).cuts
    assert read_structure(Net(all_axes), IMAGE).cuts


@pytest.mark.filterwarnings("ignore")  # of torch, where its own program is copied
def test_an_export_of_one_number_of_images_says_how_it_is_read() -> None:
    pair = torch.rand(2, 3, 16, 16)
    program = torch.export.export(Normalised().eval(), (pair,)).module()
    for given in ({"images": [pair] * 6}, {"batches": [(pair, pair[:, :2])] * 6, "metric": "mse"}):
        with pytest.raises(ForwardError, match="give example_inputs of as many"):
            ws.analyze(program, **given)
        assert ws.analyze(program, **given, example_inputs=pair).conclusion


class ImageToVolume(nn.Module):
    """What goes down and comes back up is a part of what makes a volume of a vector."""

    def __init__(self) -> None:
        super().__init__()
        self.clean = Net()
        self.vector, self.up = nn.Linear(2 * 16 * 16, 32), nn.ConvTranspose3d(4, 1, 4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(self.vector(self.clean(x).flatten(1)).view(-1, 4, 2, 2, 2))


def test_the_part_that_is_an_image_where_a_volume_is_made_of_its_vector() -> None:
    net = ImageToVolume()
    image = torch.randn(2, 3, 16, 16)
    with pytest.raises(StructureError, match="pass that part as a module of its own"):
        read_structure(net, image)
    assert read_structure(net.clean, image).cuts


def test_a_refusal_names_the_modules_that_its_tensor_is_made_by() -> None:
    class Sorted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.top, self.down = nn.Conv2d(1, 4, 3, 1, 1), nn.Conv2d(4, 4, 3, 2, 1)
            self.deep, self.out = nn.Conv2d(4, 4, 3, 1, 1), nn.Conv2d(4, 1, 1)

        def forward(self, x: Tensor) -> Tensor:
            top = self.top(x)
            deep = self.deep(self.down(top)).flatten(1).sort(1).values * 2
            return self.out(top * deep.mean(1)[:, None, None, None] + deep[:, :1, None, None])

    structure = read_structure(Sorted(), torch.randn(2, 1, 16, 16))
    (refusal,) = structure.refusals
    assert "(from deep)" in refusal.reason
