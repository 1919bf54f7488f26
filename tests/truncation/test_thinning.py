"""Thinner: channels go with all that is coupled with them, and nothing else changes."""

import copy
import sys
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from toys import TOYS, Plain, Pyramid, Short, image

import mpseg_models
import weightscope as ws
from weightscope.cost import count_costs
from weightscope.errors import (
    InputError,
    MissingExtraError,
    RecipeError,
    TruncationError,
    UnknownLayerError,
)
from weightscope.graph import read_structure
from weightscope.truncation import load, save, verify, whole
from weightscope.truncation.plan import Plan


class Residual(nn.Module):
    """Sums, a transposed convolution, a depthwise one, and norms with and without tensors."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 6, 3, padding=1)
        self.same = nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.norm = nn.InstanceNorm2d(6)
        self.down = nn.Conv2d(6, 8, 2, stride=2)
        self.deep = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.PReLU(8))
        self.up = nn.ConvTranspose2d(8, 6, 2, stride=2)
        self.scale = nn.Parameter(torch.rand(1, 6, 1, 1))
        self.mix = nn.Linear(12, 4)
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, x):
        a = self.stem(x)
        a = a + self.norm(self.same(a)).relu()
        b = self.down(a)
        y = torch.cat([a, self.up(b + self.deep(b)) * self.scale], 1)
        y = self.mix(y.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self.head(y.relu())


class Hasty(nn.Module):
    """What an instance normalisation returns is a view; it is written into, twice."""

    def __init__(self):
        super().__init__()
        self.a, self.b = self.block(1, 6), self.block(6, 8)
        self.up = nn.ConvTranspose2d(8, 6, 2, stride=2)
        self.c, self.d = self.block(12, 6), self.block(6, 6)[:2]
        self.head = nn.Conv2d(6, 2, 1)

    @staticmethod
    def block(a, b):
        norm = nn.InstanceNorm2d(b, affine=True)
        return nn.Sequential(nn.Conv2d(a, b, 3, padding=1), norm, nn.LeakyReLU(inplace=True))

    def forward(self, x):
        a = self.a(x)
        c = self.c(torch.cat([a, self.up(self.b(F.max_pool2d(a, 2)))], 1))
        d = self.d(c)
        d += c
        return self.head(d.relu())


class Gate(nn.Module):
    """One channel is spread over many."""

    def __init__(self, how):
        super().__init__()
        self.how = how
        self.a, self.gate = nn.Conv2d(1, 6, 3, padding=1), nn.Conv2d(6, 1, 1)
        self.b, self.up = nn.Conv2d(6, 8, 3, padding=1), nn.Conv2d(8, 4, 3, padding=1)
        self.head = nn.Conv2d(10, 2, 1)

    def forward(self, x):
        a = self.a(x).relu()
        up = F.interpolate(self.up(self.b(F.max_pool2d(a, 2)).relu()), scale_factor=2)
        gate = self.gate(a.mean((2, 3), keepdim=True) if self.how == "scalar" else a).sigmoid()
        if self.how == "expand":
            a = a * gate.expand_as(a)
        elif self.how == "inplace":
            a = a + 1
            a *= gate
        elif self.how == "map":
            a = torch.where(gate > 0.5, a, gate) + gate
        else:
            a = gate * a
        return self.head(torch.cat([a, up], 1))


class Grouped(nn.Module):
    """Group normalisation over one layer's channels, and over a concatenation."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(1, 8, 3, padding=1)
        self.norm = nn.GroupNorm(4, 8)
        self.b = nn.Conv2d(8, 4, 3, padding=1)
        self.c = nn.Conv2d(4, 8, 3, padding=1)
        self.joined = nn.GroupNorm(3, 12)
        self.head = nn.Conv2d(12, 1, 1)

    def forward(self, x):
        b = self.b(self.norm(self.a(x)).relu())
        c = F.interpolate(self.c(F.max_pool2d(b, 2)), scale_factor=2)
        return self.head(self.joined(torch.cat([b, c], 1)))


class Sloped(nn.Module):
    """Rectifiers with one slope for all channels: of each layer, of all layers, a parameter."""

    def __init__(self, how):
        super().__init__()
        self.how = how
        self.a, self.b = nn.Conv2d(1, 6, 3, padding=1), nn.Conv2d(6, 8, 3, padding=1)
        self.up, self.head = nn.Conv2d(14, 6, 3, padding=1), nn.Conv2d(6, 2, 1)
        self.slopes = nn.ModuleList(nn.PReLU() for _ in range(3 if how == "own" else 1))
        self.slope = nn.Parameter(torch.tensor([0.3]))

    def bent(self, x, place):
        if self.how == "parameter":
            return F.prelu(x, self.slope)
        return self.slopes[place % len(self.slopes)](x)

    def forward(self, x):
        a = self.bent(self.a(x), 0)
        b = F.interpolate(self.bent(self.b(F.max_pool2d(a, 2)), 1), scale_factor=2)
        return self.head(self.bent(self.up(torch.cat([a, b], 1)), 2))


class Exact(nn.Module):
    """Makes a tensor smaller or larger, and insists on its width."""

    def __init__(self, channels, out_channels, conv):
        super().__init__()
        self.channels, self.out_channels, self.conv = channels, out_channels, conv

    def forward(self, x):
        if x.shape[1] != self.channels:
            raise ValueError(f"{x.shape[1]} channels, expected {self.channels}")
        return self.conv(x).unflatten(1, (self.out_channels, 1)).flatten(1, 2)


class Insisting(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(1, 6, 3, padding=1)
        self.down = Exact(6, 8, nn.Conv2d(6, 8, 3, stride=2, padding=1))
        self.b = nn.Conv2d(8, 4, 3, padding=1)
        self.up = Exact(4, 10, nn.ConvTranspose2d(4, 10, 2, stride=2))
        self.head = nn.Conv2d(16, 2, 1)

    def forward(self, x):
        a = self.a(x).relu()
        return self.head(torch.cat([a, self.up(self.b(self.down(a)).relu())], 1))


class Stiff(nn.Module):
    """No channel can go: they reach an output, grouped convolutions, a layer of another kind."""

    def __init__(self):
        super().__init__()
        self.a, self.grouped = (
            nn.Conv2d(1, 6, 3, padding=1),
            nn.Conv2d(6, 4, 3, padding=1, groups=2),
        )
        self.b, self.kind = nn.Conv2d(4, 6, 3, padding=1), nn.Bilinear(6, 6, 5)
        self.head = nn.Conv2d(9, 2, 1)

    def forward(self, x):
        a = self.grouped(self.a(x))
        b = self.b(F.max_pool2d(a, 2)).movedim(1, -1)
        b = F.interpolate(self.kind(b, b).movedim(-1, 1), scale_factor=2)
        return self.head(torch.cat([a, b], 1))


def as_variant(factory, example):
    torch.manual_seed(0)
    model = factory().eval()
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):  # statistics that tell one channel from another
            nn.init.normal_(part.running_mean)
            nn.init.uniform_(part.running_var, 0.5, 2.0)
    return whole(read_structure(model, example))


def test_all_levels_as_a_variant_answer_as_the_network():
    variant = as_variant(Short, image(2, 1, 32, 32))
    model = variant.structure.model
    assert torch.equal(variant.module(image(1, 1, 40, 24)), model(image(1, 1, 40, 24)))
    assert set(variant.kept) == set(model.state_dict())
    assert variant.costs.macs == count_costs(model, image(2, 1, 32, 32)).macs
    assert variant.receptive_field == ws.analyze(model, response=False).whole.receptive_field
    assert verify(variant, factory=Short, export=False).failures == ()


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    ("factory", "example"),
    [
        (Plain, image(2, 1, 32, 32)),
        (Residual, image(2, 1, 16, 16)),
        (Hasty, image(2, 1, 16, 16)),
        (Insisting, image(2, 1, 16, 16)),
        (Pyramid, TOYS["pyramid"][1]),
        *((partial(Sloped, how), image(2, 1, 16, 16)) for how in ("own", "one", "parameter")),
    ],
)
def test_the_thinner_network_is_the_whole_one_that_does_not_listen(factory, example):
    variant = as_variant(factory, example)
    thinner = variant.thin(0.5, by="random", seed=3)
    assert thinner.costs.macs < 0.45 * variant.costs.macs
    assert thinner.plan.thinned
    deaf = factory().eval()
    deaf.load_state_dict(variant.structure.model.state_dict())
    state = dict(deaf.named_parameters())
    for recut in thinner.plan.thinned:
        mixes = isinstance(deaf.get_submodule(recut.tensor.rpartition(".")[0]), nn.Linear) or (
            recut.tensor in state and state[recut.tensor].dim() == 4
        )
        module = deaf.get_submodule(recut.tensor.rpartition(".")[0])
        inside = 0 if isinstance(module, nn.ConvTranspose2d) else 1
        if mixes and recut.dimension == inside and getattr(module, "groups", 1) == 1:
            tensor = state[recut.tensor]
            gone = [i for i in range(tensor.shape[inside]) if i not in recut.source]
            with torch.no_grad():
                tensor.index_fill_(inside, torch.tensor(gone), 0.0)
    wide, thin = (torch.utils._pytree.tree_leaves(m(example)) for m in (deaf, thinner.module))
    whole_ = torch.utils._pytree.tree_leaves(variant.module(example))
    for a, b, c in zip(wide, thin, whole_, strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(a, c, rtol=1e-2)


@pytest.mark.parametrize("by", ["magnitude", pytest.param("random", marks=pytest.mark.slow)])
def test_cut_thinned_twice_trained_saved_and_loaded(by, proposals, tmp_path):
    small = proposals("plain")[2].build()
    before = {k: v.clone() for k, v in small.module.state_dict().items()}
    thinner = small.thin(0.75, by=by).thin(0.7, by=by)
    assert all(torch.equal(v, before[k]) for k, v in small.module.state_dict().items())
    assert verify(thinner, factory=Plain, export=False).failures == ()
    assert set(thinner.thinned) & set(thinner.reinitialized)  # of the new bottleneck too
    images = torch.randn(8, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    course = thinner.recover(images, steps=3, progress=False)
    assert course.after.explained >= course.before.explained
    loaded = load(save(thinner, tmp_path / "thin.safetensors"), Plain)
    assert loaded.plan == thinner.plan
    assert loaded.thinned == thinner.thinned
    assert loaded.costs.macs == thinner.costs.macs
    assert torch.equal(loaded.module.eval()(images), thinner.module.eval()(images))


def test_a_whole_network_is_thinned_saved_and_loaded_without_the_library(tmp_path, monkeypatch):
    thinner = as_variant(Residual, image(2, 1, 16, 16)).thin(0.5)
    path = save(thinner, tmp_path / "thin.safetensors")
    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    loaded = load(path, Residual)
    assert torch.equal(
        loaded.module.eval()(image(2, 1, 16, 16)), thinner.module(image(2, 1, 16, 16))
    )
    with pytest.raises(MissingExtraError, match=r"weightscope\[prune\]"):
        loaded.thin(0.5)


def test_a_module_that_insists_on_its_width_is_told_the_new_one(tmp_path):
    variant = as_variant(Insisting, image(2, 1, 16, 16))
    thinner = variant.thin(0.5)
    down, up = thinner.module.down, thinner.module.up
    assert [(m.channels, m.out_channels) for m in (down, up)] == [(3, 4), (2, 5)]
    assert variant.structure.model.down.channels == variant.module.down.channels == 6
    again = load(save(thinner, tmp_path / "thin.safetensors"), Insisting)
    x = image(2, 1, 16, 16)
    assert torch.equal(again.module.eval()(x), thinner.module(x))


def test_the_smallest_norm_goes_first():
    variant = as_variant(Short, image(2, 1, 32, 32))
    layer = variant.module.get_submodule("down.0.0")
    with torch.no_grad():
        layer.weight[2].mul_(1e-3)
    thinner = variant.thin({"down.0.0": 3})
    sources = {(r.tensor, r.dimension): r.source for r in thinner.plan.thinned}
    assert sources["down.0.0.weight", 0] == (0, 1, 3)
    assert sources["down.0.1.running_var", 0] == (0, 1, 3)
    assert sources["down.0.3.weight", 1] == (0, 1, 3)
    assert len(sources) == 7  # also the bias of the layer, and three more of its norm


def test_each_group_of_a_normalisation_loses_the_same():
    variant = as_variant(Grouped, image(2, 1, 16, 16))
    thinner = variant.thin(0.5, by="random")
    sources = {(r.tensor, r.dimension): r.source for r in thinner.plan.thinned}
    assert [i // 2 for i in sources["a.weight", 0]] == [0, 1, 2, 3]
    assert thinner.module.get_submodule("norm").num_groups == 4
    # what the second norm sees as parts of a concatenation stays
    assert {tensor for tensor, _ in sources} == {
        "a.weight", "a.bias", "norm.weight", "norm.bias", "b.weight"
    }  # fmt: skip


class Heads(nn.Module):
    """Attention with heads of a fixed width, as many as there are."""

    def __init__(self, slope):
        super().__init__()
        self.slope = slope
        self.q, self.k, self.v, self.out = (nn.Linear(8, 8) for _ in range(4))

    def forward(self, t):
        q, k, v = (f(t).view(*t.shape[:2], -1, 4).transpose(1, 2) for f in (self.q, self.k, self.v))
        mixed = (self.slope * q @ k.mT).softmax(-1) @ v
        return self.out(mixed.transpose(1, 2).flatten(2))


class Normalised(nn.Module):
    """Behind a normalisation over channels: their mean, or attention."""

    def __init__(self, slope):
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.norm = nn.GroupNorm(2, 8) if slope is None else nn.LayerNorm(8)
        self.heads = None if slope is None else Heads(slope)
        self.head = nn.Conv2d(16, 1, 1)

    def middle(self, x):
        if self.heads is None:
            x = self.norm(x)
            return x * (4 * x.mean(1, keepdim=True)).tanh()
        return x + self.heads(self.norm(x.flatten(2).mT)).mT.unflatten(-1, x.shape[2:])

    def forward(self, x):
        a = self.a(x).relu()
        b = F.interpolate(self.middle(self.b(F.max_pool2d(a, 2))), scale_factor=2)
        return self.head(torch.cat([a, b], 1))


BESIDE_HEADS = {"a.weight", "b.weight", "norm.weight", "heads.out.weight"}


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    ("slope", "share", "made"),
    [(None, 0.5, {"a.weight"}), (3.0, 0.5, BESIDE_HEADS), (1e-6, 0.75, BESIDE_HEADS)],
)
def test_what_follows_a_normalisation_over_channels_is_checked_as_well(slope, share, made):
    variant = as_variant(partial(Normalised, slope), image(2, 1, 16, 16))
    places = {(r.tensor, r.dimension) for r in variant.thin(share).plan.thinned}
    assert {name for name, d in places if d == 0 and name.endswith("weight")} == made


class Second(nn.LayerNorm):
    """Over the second axis, as ConvNeXt has it."""

    def forward(self, x):
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


@pytest.mark.parametrize("side", [16, 12])  # at 12 there are as many columns as channels
def test_a_layer_normalisation_may_have_its_channels_second(side):
    def build():
        torch.manual_seed(0)
        model = Normalised(None)
        model.a, model.b, model.norm = (
            nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 6, 3, padding=1), Second(6)
        )  # fmt: skip
        model.middle, model.head = lambda x: model.norm(x), nn.Conv2d(14, 1, 1)
        return model

    thinner = as_variant(build, image(2, 1, side, side)).thin(0.5)
    assert {"b.weight", "norm.weight"} <= {r.tensor for r in thinner.plan.thinned}


def test_a_budget_is_reached_from_below():
    variant = as_variant(Plain, image(2, 1, 32, 32))
    for share in (0.8, 0.5, 0.2):
        thinner = variant.thin(max_macs=share * variant.costs.macs)
        assert 0.6 * share < thinner.costs.macs / variant.costs.macs <= share
    with pytest.raises(TruncationError, match="max_macs=100 cannot be reached"):
        variant.thin(max_macs=100)


class Branches(nn.Module):
    """Adds its input to two branches side by side, one of which has far smaller weights."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.small = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 3, 3, padding=1)
        self.large, self.last = nn.Conv2d(3, 5, 3, padding=1), nn.Conv2d(8, 1, 1)
        self.small.weight.data *= 1e-3

    def forward(self, x):
        x = F.max_pool2d(self.first(x), 2)
        small = self.small(x)
        x = x + torch.cat([small, self.large(small)], 1)
        return self.last(F.interpolate(x, scale_factor=2))


class Spare(Short):
    """Has a layer that its forward never calls."""

    def __init__(self):
        super().__init__()
        self.spare = nn.Conv2d(4, 4, 3)


@pytest.mark.sample(1)
@pytest.mark.parametrize("thin", [False, True])
def test_what_the_original_never_calls_fails_no_check(thin):
    variant = as_variant(Spare, image(2, 1, 32, 32))
    variant = variant.thin(0.5) if thin else variant
    assert verify(variant, factory=Spare, export=False).failures == ()


@pytest.mark.sample(1)
@pytest.mark.parametrize("keep", [0.5, 0.01, {"first": 2}])
def test_a_channel_of_every_branch_stays(keep):
    thinner = as_variant(Branches, image(2, 1, 16, 16)).thin(keep)
    layer = thinner.module.get_submodule
    assert layer("small").out_channels >= 1
    assert layer("large").out_channels >= 1
    assert layer("first").out_channels == (4 if keep == 0.5 else 2)


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        ({}, InputError, "either keep= or max_macs="),
        ({"keep": 0.5, "max_macs": 3}, InputError, "either keep= or max_macs="),
        ({"max_macs": -1}, InputError, "max_macs=-1; give a number above 0"),
        ({"keep": {"down.0.0": 2.0}}, InputError, "keep= is a dict.*whole numbers of channels"),
        ({"keep": 0.0}, InputError, "keep=0.0 must be a share"),
        ({"keep": float("nan")}, InputError, "keep=nan; give the share"),
        ({"keep": 0.5, "by": "beauty"}, InputError, "by='beauty'"),
        ({"keep": {"down.0.9": 2}}, UnknownLayerError, "no layer 'down.0.9'; did you mean 'down"),
        (
            {"keep": {"head": 1}},
            InputError,
            "channels of 'head' must stay, for they reach an output",
        ),
        ({"keep": {"down.0.0": 5}}, InputError, "has 4 channels"),
        ({"keep": {"down.0.0": 0}}, InputError, "has 4 channels"),
    ],
)
def test_errors_name_the_argument(given, error, text):
    variant = as_variant(Short, image(2, 1, 32, 32))
    with pytest.raises(error, match=text):
        variant.thin(**given)


@pytest.mark.sample(1)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_named(value):
    variant = as_variant(Short, image(2, 1, 32, 32))
    with torch.no_grad():
        next(variant.module.parameters()).view(-1)[0] = value
    with pytest.raises(
        InputError, match=r"of the network are nan or infinite \(down\.0\.0\.weight"
    ):
        variant.thin(keep=0.5)


def test_a_recipe_with_other_channels_is_refused():
    plan = Plan(2, "pool", None, (4,)).to_json()
    for row in (["w", 0, [1, 1]], ["w", 0, [-1]], ["w", 0, []], ["w", True, [0]], [1, 0, [0]], 5):
        with pytest.raises(RecipeError, match="which channels stay"):
            Plan.from_json(plan | {"thinned": [row]})
    with pytest.raises(RecipeError, match="does not say how"):
        Plan.from_json(plan | {"thinned": 5})


def test_where_no_channel_can_go_each_layer_and_its_cause_are_named():
    variant = as_variant(Stiff, image(2, 1, 16, 16))
    with pytest.raises(TruncationError) as told:
        variant.thin(0.5)
    for cause in (
        "those of 'head' reach an output",
        "those of 'a' reach 'grouped', a grouped convolution",
    ):
        assert cause in str(told.value)


def test_a_layer_that_cannot_be_followed_is_named(monkeypatch):
    import torch_pruning

    right = torch_pruning.DependencyGraph.get_pruning_group

    def lost(self, module, remove, channels):
        if isinstance(module, nn.Conv2d) and module.out_channels == 14:
            raise TypeError("of somebody else")
        return right(self, module, remove, channels)

    monkeypatch.setattr(torch_pruning.DependencyGraph, "get_pruning_group", lost)
    variant = as_variant(lambda: Plain(width=7), image(2, 1, 32, 32))
    with pytest.raises(TruncationError, match=r"channels of '(down|up)\.1\.\d' cannot be followed"):
        variant.thin(0.5)


class WritesItsWidth(nn.Module):
    """Turns tokens back into an image by a number of channels that it writes out."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(1, 8, 3, padding=1), nn.Linear(8, 6), nn.Conv2d(6, 4, 1)
        self.up = nn.ConvTranspose2d(4, 4, 2, stride=2)
        self.head = nn.Conv2d(12, 1, 1)

    def forward(self, x):
        a = self.a(x).relu()
        y = F.max_pool2d(a, 2)
        y = self.b(y.flatten(2).transpose(1, 2)).transpose(1, 2).reshape(len(x), 6, *y.shape[2:])
        return self.head(torch.cat([a, self.up(self.c(y))], 1))


def widths(variant):
    layers = dict(variant.module.named_modules())
    return [layers[name].weight.shape[0] for name in ("a", "b", "c")]


def test_only_channels_that_are_followed_wrongly_stay(tmp_path):
    variant = as_variant(WritesItsWidth, image(2, 1, 16, 16))
    thinner = variant.thin(0.5)
    assert widths(thinner) == [4, 6, 2]
    assert widths(variant.thin(max_macs=thinner.costs.macs)) == [4, 6, 2]
    verify(load(save(thinner, tmp_path / "thin.safetensors"), WritesItsWidth))
    with pytest.raises(InputError, match="channels of 'b' must stay"):
        variant.thin({"b": 3})


@pytest.mark.sample(1)
@pytest.mark.parametrize("how", [{"keep": 0.5}, {"max_macs": 3_000}])
def test_what_does_not_run_thinner_is_said_to_be_followed_wrongly(how, monkeypatch):
    from weightscope.truncation import thinning

    right = thinning.read_couplings
    monkeypatch.setattr(
        thinning, "read_couplings", lambda *given: [c for c in right(*given) if c.layer == "b"]
    )
    variant = as_variant(WritesItsWidth, image(2, 1, 16, 16))
    with pytest.raises(TruncationError, match=r"followed wrongly .*shallower, not thinner"):
        variant.thin(**how)


@pytest.mark.sample(1)
@pytest.mark.parametrize("how", ["mul", "expand", "inplace", "scalar", "map"])
def test_what_one_channel_is_spread_over_gets_thinner(how):
    variant = as_variant(partial(Gate, how), image(2, 1, 16, 16))
    thinner = variant.thin(0.5)
    widths = {name: m.out_channels for name, m in thinner.module.named_modules() if name}
    assert (widths["a"], widths["gate"], widths["b"]) == (3, 1, 4)
    assert thinner.module.gate.in_channels == 3
    thinner = variant.thin({"a": 4})
    kept = {(r.tensor, r.dimension): r.source for r in thinner.plan.thinned}["a.weight", 0]
    deaf = copy.deepcopy(variant.module)
    with torch.no_grad():
        for index in set(range(6)) - set(kept):
            for reader in (deaf.gate, deaf.b, deaf.head):
                reader.weight[:, index] = 0
    x = torch.randn(3, 1, 24, 32)
    torch.testing.assert_close(thinner.module(x), deaf(x))
    with pytest.raises(InputError, match="'gate' must stay, for they are only one"):
        variant.thin({"gate": 1})


class Positions(nn.Module):
    """Attention of all positions to all others, by products of matrices."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 6, 3, padding=1), nn.Conv2d(6, 8, 3, padding=1)
        self.top, self.center = nn.Conv2d(8, 4, 1), nn.Conv2d(8, 4, 1)
        self.c, self.up = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 6, 3, padding=1)
        self.head = nn.Conv2d(12, 2, 1)

    def forward(self, x):
        a = self.a(x).relu()
        y = self.b(F.max_pool2d(a, 2)).relu()
        n = len(y)
        alike = self.center(y).flatten(2).transpose(1, 2) @ self.top(y).flatten(2)
        alike = alike.view(n, -1).softmax(1).view(alike.shape)
        mixed = (alike @ self.c(y).flatten(2).transpose(1, 2)).reshape(n, 8, *y.shape[2:])
        up = F.interpolate(self.up(y + mixed), scale_factor=2)
        return self.head(torch.cat([a, up], 1))


def test_attention_among_positions_stays_and_the_rest_gets_thinner():
    variant = as_variant(Positions, image(2, 1, 8, 8))
    thinner = variant.thin(0.5)
    widths = {name: m.out_channels for name, m in thinner.module.named_modules() if name}
    assert (widths["a"], widths["up"], widths["top"], widths["c"]) == (3, 3, 4, 8)
    with pytest.raises(InputError, match="'top' must stay, for they are mixed by an operation"):
        variant.thin({"top": 2})


class Averaged(Plain):
    """Attention that reads the mean of all channels."""

    def __init__(self):
        super().__init__()
        self.gate = nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, x):
        x = self.down[0](x)
        x = x * self.gate(x.mean(1, keepdim=True)).sigmoid()
        low = F.interpolate(self.down[2](self.down[1](F.max_pool2d(x, 2))), scale_factor=2)
        return self.head(self.up[0](torch.cat([x, low[:, :8]], 1)))


def test_channels_that_are_averaged_stay_and_the_reason_is_true():
    variant = as_variant(Averaged, image(2, 1, 16, 16))
    with pytest.raises(InputError, match=r"'down\.0\.3' must stay, for they are mixed into fewer"):
        variant.thin({"down.0.3": 2})


def test_where_the_graph_cannot_be_read_with_gates_cut_off_it_is_read_with_them(monkeypatch):
    from weightscope.truncation import couplings

    right = couplings._Spread._cut

    def lost(self, value, shape):
        if self.rank:
            raise TypeError("of somebody else")
        return right(self, value, shape)

    monkeypatch.setattr(couplings._Spread, "_cut", lost)
    thinner = as_variant(partial(Gate, "mul"), image(2, 1, 16, 16)).thin(0.5)
    assert (thinner.module.a.out_channels, thinner.module.b.out_channels) == (6, 4)


def test_a_width_is_given_to_what_is_normalised_in_groups():
    variant = as_variant(Grouped, image(2, 1, 16, 16))
    thinner = variant.thin({"a": 4})
    kept = {(r.tensor, r.dimension): r.source for r in thinner.plan.thinned}
    assert [i // 2 for i in kept["a.weight", 0]] == [0, 1, 2, 3]
    assert thinner.module.norm.num_groups == thinner.module.norm.num_channels == 4
    assert variant.thin({"a": 8}).plan.thinned == ()


class InTwo(Grouped):
    """Groups of two."""

    def __init__(self):
        super().__init__()
        self.norm = nn.GroupNorm(2, 8)


def test_a_width_that_groups_cannot_have_is_refused_with_the_nearest():
    variant = as_variant(InTwo, image(2, 1, 16, 16))
    assert variant.thin({"a": 6}).module.norm.num_channels == 6
    said = "'a' has 8 channels and cannot have 5: .* can only go 2 at a time; give 4 or 6"
    with pytest.raises(InputError, match=said):
        variant.thin({"a": 5})
    with pytest.raises(InputError, match="of which 7 can still go"):
        variant.thin({"a": 1})


class Half(nn.Module):
    """A part of what a depthwise convolution has is normalised in groups."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.norm, self.both = nn.GroupNorm(2, 8), nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.head = nn.Conv2d(16, 1, 1)

    def forward(self, x):
        a = self.a(x).relu()
        low = self.norm(F.interpolate(self.b(F.max_pool2d(a, 2)), scale_factor=2))
        return self.head(self.both(torch.cat([low, a], 1)))


def test_groups_are_not_counted_among_other_channels():
    with pytest.raises(TruncationError, match="go with others than 'norm' normalises in groups"):
        as_variant(Half, image(2, 1, 16, 16)).thin(0.5)


def test_a_wrong_graph_is_noticed(monkeypatch):
    from weightscope.truncation import thinning

    variant = as_variant(Short, image(2, 1, 32, 32))
    right = thinning.read_couplings

    def wrong(module, inputs):
        """As if channels went elsewhere than they do."""
        found = []
        for coupling in right(module, inputs):
            parts = [
                replace(p, places=tuple((c, (i + 1) % len(p.places)) for c, i in p.places))
                if not p.makes
                else p
                for p in coupling.parts
            ]
            found.append(replace(coupling, parts=tuple(parts)))
        return tuple(found)

    monkeypatch.setattr(thinning, "read_couplings", wrong)
    with pytest.raises(TruncationError, match="followed wrongly"):
        variant.thin(0.5)


@pytest.mark.slow
@pytest.mark.parametrize("name", mpseg_models.list_models())
@pytest.mark.parametrize("share", [0.5, 0.1, 0.01])
def test_the_zoo_made_thinner(name, share, tmp_path):
    factory = partial(mpseg_models.create_model, name, width=8, seed=0)
    before = whole(read_structure(factory().eval(), torch.randn(1, 3, 64, 64)))
    thinner = before.thin(share)
    found = verify(thinner, sizes=[torch.randn(2, 3, 96, 32)], export=False, factory=factory)
    assert found.failures == ()
    assert thinner.costs.macs < before.costs.macs
    assert thinner.costs.parameters < (share + 0.2) * before.costs.parameters
    save(thinner, tmp_path / "thin.safetensors")
    loaded = load(tmp_path / "thin.safetensors", factory).module.eval()
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(loaded(x), thinner.module.eval()(x))
