"""Cut every toy at every depth and try everything that verify tries."""

import copy
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from toys import TOYS, Plain, assessment

import mpseg_models
from weightscope.adapters.symbols import hint
from weightscope.cost import count_costs
from weightscope.errors import TruncationError
from weightscope.graph import read_structure
from weightscope.truncation import propose, verify
from weightscope.truncation.channels import Recut
from weightscope.truncation.cutting import read_crossing
from weightscope.truncation.plan import find_cut
from weightscope.truncation.recutting import recut_layer

CUTS = [(name, keep) for name, (_, _, _, keeps) in TOYS.items() for keep in keeps]


def proposals_of(model, example):
    structure = read_structure(model, example)
    return propose(structure, assessment(), count_costs(model, structure.inputs))


@pytest.mark.sample(1)
@pytest.mark.parametrize(("name", "keep"), CUTS)
def test_light_variant(name, keep, proposals):
    proposal = proposals(name)[keep]
    assert proposal.refusal is None
    variant = proposal.build()
    export = (name, keep) in (("plain", 1), ("pyramid", 2))
    assert verify(variant, sizes=[TOYS[name][2]], export=export).failures == ()
    assert (variant.costs.parameters, variant.costs.macs) == (proposal.parameters, proposal.macs)
    assert variant.costs.activation_bytes == proposal.activation_bytes
    assert variant.receptive_field == proposal.receptive_field
    assert (variant.kept, variant.dropped) == (proposal.kept, proposal.dropped)
    assert set(variant.reinitialized) == set(proposal.reinitialized)
    original = proposal.costs
    assert proposal.parameters <= original.parameters
    assert proposal.macs <= original.macs


SLOW = pytest.mark.slow


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("signal", torch.bfloat16),
        ("plain", torch.float16),
        ("pyramid", torch.float64),
        *(pytest.param(name, dtype, marks=SLOW) for name, dtype in (
            ("signal", torch.float16), ("signal", torch.float64), ("plain", torch.bfloat16),
            ("plain", torch.float64), ("pyramid", torch.bfloat16), ("pyramid", torch.float16),
        )),
    ],
)  # fmt: skip
def test_every_number_format_builds_what_float32_builds(name, dtype, proposals):
    factory, example, other, _ = TOYS[name]
    found = {p.keep_levels: p for p in proposals_of(factory().to(dtype), example.to(dtype))}
    assert found.keys() == proposals(name).keys()
    for keep, proposal in found.items():
        assert proposal.refusal == proposals(name)[keep].refusal
        assert proposal.macs == proposals(name)[keep].macs
        variant = proposal.build()
        assert {p.dtype for p in variant.module.parameters()} == {dtype}
        assert verify(variant, sizes=[other.to(dtype)], export=False).failures == ()


class MonteCarlo(nn.Module):
    """Drops out in evaluation mode too: above, below and after what is cut."""

    def __init__(self):
        super().__init__()
        self.top, self.deep = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, x):
        top = F.dropout(self.top(x), 0.5, training=True)
        deep = F.dropout(self.deep(F.max_pool2d(top, 2)), 0.5, training=True)
        deep = F.dropout2d(F.interpolate(deep, scale_factor=2), 0.5, training=True)
        return self.head(F.dropout(torch.cat([top, deep], 1), 0.5, training=True))


def test_networks_that_draw_in_evaluation_mode_are_verified():
    (proposal,) = proposals_of(MonteCarlo().eval(), torch.randn(2, 1, 16, 16))
    variant = proposal.build()
    state = torch.get_rng_state()
    assert verify(variant, factory=MonteCarlo).failures == ()
    assert torch.equal(torch.get_rng_state(), state)
    with torch.no_grad():
        variant.module.head.bias.add_(1)
    found = {check.name for check in verify(variant, export=False, factory=MonteCarlo).failures}
    assert "kept" in found


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    ("name", "keep", "how"),
    [
        ("plain", 2, {"bottleneck": "pool"}),
        ("plain", 1, {"exit_channels": 3}),
        ("plain", 1, {"exit_channels": 20}),
        ("strided", 1, {"bottleneck": "pool"}),
        ("norms", 1, {"bottleneck": "pool"}),
        ("norms", 1, {"exit_channels": 16}),
        ("pyramid", 1, {"exit_channels": (2, 5, 4)}),
        ("volume", 1, {"bottleneck": "pool"}),
        ("tokens", 2, {"exit_channels": 6}),
        ("signal", 1, {"exit_channels": 6}),
    ],
)
def test_recut_variant(name, keep, how, proposals):
    variant = proposals(name)[keep].build(**how)
    assert variant.recut
    assert set(variant.recut) <= set(variant.reinitialized)
    assert not set(variant.recut) & set(variant.kept)
    assert verify(variant, sizes=[TOYS[name][2]], export=False).failures == ()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_layer_whose_own_start_has_another_format_is_recut(dtype):
    class Own(nn.Conv2d):
        def reset_parameters(self):
            super().reset_parameters()
            self.weight = nn.Parameter(torch.full(self.weight.shape, 7.0, dtype=torch.float32))

    layer = Own(2, 3, 1).to(dtype)
    old = layer.weight.detach().clone()
    owner = nn.Sequential(layer)
    recut_layer(owner, "0", {"weight": [Recut("0.weight", 1, (-1, 1, 0))]})
    found = owner[0].weight
    assert found.dtype == dtype
    assert torch.equal(found[:, 1:], old.flip(1))
    assert bool((found[:, 0] == 7).all())


def test_recut_slices_sit_where_concatenation_puts_them(proposals):
    """Skip first, exit behind it: the skip's slices stay at 0-3, the exit's begin at 4."""
    original = proposals("plain")[1].structure.model.up[0][0]
    narrow = proposals("plain")[1].build(exit_channels=5).module.up[0][0]
    assert narrow.in_channels == 9
    assert torch.equal(narrow.weight, original.weight[:, :9])
    wide = proposals("plain")[1].build(exit_channels=10).module.up[0][0]
    assert torch.equal(wide.weight[:, :12], original.weight)
    fresh = wide.weight[:, 12:]
    bound = (14 * 9) ** -0.5  # Kaiming-uniform with a = sqrt(5), as nn.Conv2d initialises
    assert 0.5 * bound < fresh.abs().max() <= bound


def test_layers_say_their_new_widths(proposals):
    module = proposals("norms")[1].build(exit_channels=16).module
    assert module.group.num_channels == module.batch.num_features == 20
    assert module.instance.num_features == module.prelu.num_parameters == 20
    assert module.depthwise.groups == module.depthwise.in_channels == 20
    assert module.layer.normalized_shape == (20,)
    assert module.linear.in_features == 20
    assert module.scale.shape == (20, 1, 1)


def test_a_width_that_groups_do_not_divide_is_refused(proposals):
    with pytest.raises(TruncationError, match=r"group_norm .* 4 groups, which do not divide 13"):
        proposals("norms")[1].build(exit_channels=9)


def test_addition_to_the_old_width_is_refused():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Conv2d(1, 4, 3, padding=1)
            self.b = nn.Sequential(
                nn.MaxPool2d(2),
                nn.Conv2d(4, 32, 3, padding=1),
                nn.ReLU(),
                nn.Conv2d(32, 4, 3, padding=1),
            )
            self.head = nn.Conv2d(4, 1, 1)

        def forward(self, x):
            a = self.a(x)
            return self.head(a + nn.functional.interpolate(self.b(a), scale_factor=2))

    (proposal,) = proposals_of(Residual(), torch.randn(2, 1, 16, 16))
    with pytest.raises(TruncationError, match="add in the forward joins it to a tensor"):
        proposal.build(exit_channels=6)
    assert verify(proposal.build("pool"), export=False).failures == ()


def test_a_layer_that_insists_on_its_width_is_named():
    class Stubborn(Plain):
        def forward(self, x):
            a = self.down[0](x)
            b = self.down[1](F.max_pool2d(a, 2))
            y = torch.cat([a, F.interpolate(b, scale_factor=2)], 1)
            assert y.shape[1] == 12
            return self.head(self.up[0](y))

    (proposal,) = proposals_of(Stubborn(), torch.randn(2, 1, 16, 16))
    assert proposal.build().costs.macs == proposal.macs

    class Guard(nn.Module):
        def forward(self, x):
            assert x.shape[1] == 12
            return x

    class Guarded(Stubborn):
        def __init__(self):
            super().__init__()
            self.up[0] = nn.Sequential(Guard(), self.up[0])

    (proposal,) = proposals_of(Guarded(), torch.randn(2, 1, 16, 16))
    with pytest.raises(TruncationError, match=r"assert 9 == 12; a layer insists on"):
        proposal.build(exit_channels=5)
    assert verify(proposal.build("pool"), export=False).failures == ()


class Weighed(nn.Module):
    """What the deep level returns meets the features in a way that a test says."""

    def __init__(self, deep, meet):
        super().__init__()
        self.top, self.side = nn.Conv2d(1, 6, 3, padding=1), nn.Conv2d(6, 4, 1)
        self.deep = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(6, deep, 7, padding=3), nn.ReLU())
        self.head, self.meet = nn.Conv2d(4, 1, 1), meet

    def forward(self, x):
        top = self.top(x)
        deep = F.interpolate(self.deep(top), scale_factor=2)
        return self.meet(self, self.side(top), deep)


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    ("deep", "meet"),
    [
        (1, lambda net, side, deep: net.head(side * deep)),
        (4, lambda net, side, deep: net.head(side + deep)),
        (4, lambda net, side, deep: (net.head(side * deep.sigmoid()), deep)),
        (8, lambda net, side, deep: net.head(side + deep.unflatten(1, (2, 4)).sum(1))),
    ],
    ids=["one channel weighs all", "addition", "also an output", "channels in two axes"],
)
def test_pooling_gives_back_the_channels_that_what_stays_insists_on(deep, meet):
    (proposal,) = proposals_of(Weighed(deep, meet), torch.randn(2, 1, 16, 16))
    variant = proposal.build("pool")
    assert variant.plan.exit_channels == (deep,)
    assert variant.recut == ()
    assert {tuple(p.shape) for p in variant.module.new_bottleneck.parameters()} == {
        (deep, 6, 1, 1),
        (deep,),
    }
    assert verify(variant, export=False, factory=partial(Weighed, deep, meet)).failures == ()


class Complex(nn.Module):
    """Complex numbers from the deep level up, or at both."""

    def __init__(self, enters, last):
        super().__init__()
        kind = {"dtype": torch.complex64}
        self.enters, self.last = enters, last
        self.top = nn.Conv2d(1, 4, 3, padding=1, **(kind if enters else {}))
        self.deep = nn.Conv2d(4, 16, 3, 2, 1, **kind)
        self.rise = nn.ConvTranspose2d(16, 4, 2, 2, **kind)
        self.out = nn.Conv2d(8, 1, 1, **kind)

    def forward(self, x):
        top = self.top(torch.complex(x, -x) if self.enters else x)
        deep = self.deep(top if self.enters else torch.complex(top, -top))
        deep = deep.movedim(1, -1).tanh().movedim(-1, 1) if self.last else deep.tanh()
        z = self.out(torch.cat([self.rise(deep), top.to(deep.dtype)], 1))
        return torch.cat([z.real, z.imag], 1)


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    ("enters", "last", "how"),
    [
        (True, False, "light"),
        (True, False, "pool"),
        (False, True, "pool"),
        (False, True, {"exit_channels": 5}),
        pytest.param(True, False, {"exit_channels": 5}, marks=SLOW),
        pytest.param(False, True, "light", marks=SLOW),
    ],
)
def test_complex_numbers_cross_as_their_two_parts(enters, last, how):
    (proposal,) = proposals_of(Complex(enters, last), torch.randn(2, 1, 16, 16))
    variant = proposal.build(**how) if isinstance(how, dict) else proposal.build(how)
    assert verify(variant, export=False, factory=partial(Complex, enters, last)).failures == ()
    made = variant.module.new_bottleneck
    assert made.exits[0].is_complex
    assert {p.dtype for p in made.parameters()} <= {torch.float32}
    if how == "pool":
        assert variant.plan.exit_channels == (4,)  # or 8 real ones enter, the two parts
        assert list(made.parameters()) == []


def test_complex_parts_are_channels_on_both_sides_of_a_bottleneck():
    (proposal,) = proposals_of(Complex(True, False), torch.randn(2, 1, 16, 16))
    made = proposal.build("pool").module.new_bottleneck
    z = torch.complex(torch.arange(16.0).reshape(1, 4, 2, 2), -torch.ones(1, 4, 2, 2))
    (out,) = made([z], [[2, 2]], [1, 1], [[1, 1]])
    assert torch.equal(out, torch.complex(z.real.amax((2, 3), True), -torch.ones(1, 4, 1, 1)))


class Framed(nn.Module):
    """Goes down and comes back up with one more axis of length 1, at any place."""

    def __init__(self, dimensions, axis):
        super().__init__()
        self.axis = axis
        convolution = (nn.Conv1d, nn.Conv2d)[dimensions - 1]
        self.top, self.deep = convolution(3, 4, 3, padding=1), convolution(4, 32, 5, padding=2)
        self.out = convolution(36, 2, 1)

    def forward(self, x):
        low = top = self.top(x).relu().unsqueeze(self.axis)
        space = [a for a in range(1, top.dim()) if top.shape[a] == x.shape[-1]]
        for axis in space:
            low = low.transpose(0, axis)[::2].transpose(0, axis)
        deep = self.deep(low.squeeze(self.axis)).tanh().unsqueeze(self.axis)
        for axis in space:
            deep = deep.repeat_interleave(2, axis)
        return self.out(torch.cat([deep, top], 1 + (self.axis == 1)).squeeze(self.axis))


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    ("dimensions", "axis"),
    [(1, 1), (1, -1), (2, 2), *(pytest.param(*c, marks=SLOW) for c in ((1, 2), (2, 1), (2, -1)))],
)
def test_axes_of_length_one_cross_as_they_are(dimensions, axis):
    model = Framed(dimensions, axis)
    (proposal,) = proposals_of(model, torch.randn(2, 3, *[16] * dimensions))
    variant = proposal.build()
    other = torch.randn(3, 3, *[24] * dimensions)
    factory = partial(Framed, dimensions, axis)
    assert verify(variant, sizes=[other], export=False, factory=factory).failures == ()
    made = variant.module.new_bottleneck
    assert made.entries[0].single == made.exits[0].single != ()


class Unpadded(nn.Module):
    """Convolutions make maps smaller, and what is joined is cropped by sizes in a tensor."""

    def __init__(self, dimensions):
        super().__init__()
        convolution = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dimensions - 1]
        self.top, self.deep = convolution(1, 4, 3), convolution(4, 8, 3)
        self.low, self.out = convolution(12, 4, 3), convolution(4, 2, 1)
        self.pool = getattr(F, f"max_pool{dimensions}d")

    def forward(self, x):
        top = self.top(x).relu()
        deep = self.deep(self.pool(top, 2)).relu()
        deep = F.interpolate(deep, scale_factor=2.0)
        half = ((torch.tensor(top.shape) - torch.tensor(deep.shape))[2:] / 2).int()
        top = F.pad(top, (-torch.stack((half, half)).t().flatten()).tolist())
        return self.out(self.low(torch.cat([top, deep], 1)).relu())


@pytest.mark.slow
@pytest.mark.parametrize(
    "dimensions", [pytest.param(1, marks=SLOW), 2, pytest.param(3, marks=SLOW)]
)
def test_maps_that_shrink_without_padding_cross(dimensions):
    (proposal,) = proposals_of(Unpadded(dimensions), torch.randn(2, 1, *[38] * dimensions))
    variant = proposal.build()
    assert verify(variant, export=False, factory=partial(Unpadded, dimensions)).failures == ()


def test_outputs_below_the_cut_are_none(proposals):
    variant = proposals("pyramid")[1].build()
    out = variant.module(torch.randn(2, 1, 32, 32))
    assert variant.dropped_outputs == (1,)
    assert out["deep"] is None
    assert out["mask"].shape == (2, 1, 32, 32)


def test_the_original_is_untouched(structures, proposals):
    model = structures("plain")[0].model
    model.train()
    model.down[0].eval()
    modes = [m.training for m in model.modules()]
    before = {k: v.clone() for k, v in model.state_dict().items()}
    random = torch.get_rng_state()
    variant = proposals("plain")[1].build(exit_channels=5)
    variant.module.train()
    loss = variant.module(torch.randn(2, 1, 32, 32, generator=torch.Generator())).sum()
    loss.backward()
    with torch.no_grad():
        for parameter in variant.module.parameters():
            parameter.zero_()
    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    torch.set_rng_state(random)
    proposals("plain")[1].build()
    assert torch.equal(torch.get_rng_state(), random)
    model.train()


def test_modes_dropout_and_frozen_parameters_survive(proposals):
    model = proposals("signal")[1].build().module
    assert not model.a.weight.requires_grad
    assert model.a.bias.requires_grad
    plain = proposals("plain")[2].build().module
    assert "drop" not in dict(plain.named_children())  # it lay below the cut
    x = torch.randn(2, 1, 32, 32)
    assert torch.equal(plain.eval()(x), plain.eval()(x))


def test_building_again_from_one_seed_gives_the_same_numbers(proposals):
    torch.manual_seed(5)
    one = proposals("plain")[1].build(exit_channels=20).module.state_dict()
    two = proposals("plain")[1].build(exit_channels=20).module.state_dict()
    assert all(torch.equal(one[k], two[k]) for k in one)


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    "options",
    [{}, {"exit_channels": 20}, {"bottleneck": lambda a, b, _: nn.Conv2d(a, b, 3, padding=1)}],
)
def test_a_seed_says_which_new_weights_are_drawn(proposals, options):
    def built(seed=None):
        return proposals("plain")[1].build(**options, seed=seed).module.state_dict()

    torch.manual_seed(7)
    before = torch.get_rng_state()
    one, again, other, as_it_stands = built(3), built(3), built(4), built()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(3)
    after = built()
    assert all(torch.equal(one[k], again[k]) and torch.equal(one[k], after[k]) for k in one)
    for different in (other, as_it_stands):
        assert not all(torch.equal(one[k], different[k]) for k in one)
    assert all(torch.equal(one[k], other[k]) for k in proposals("plain")[1].build(**options).kept)


def test_names_do_not_collide():
    class Taken(Plain):
        def __init__(self):
            super().__init__()
            self.new_bottleneck = nn.Conv2d(1, 1, 1)

        def forward(self, x):
            return super().forward(self.new_bottleneck(x))

    variant = proposals_of(Taken(), torch.randn(2, 1, 32, 32))[0].build()
    assert "new_bottleneck.weight" in variant.kept
    assert any(name.startswith("new_bottleneck_.") for name in variant.reinitialized)


def test_parameters_that_no_forward_reaches_are_dropped():
    class Idle(nn.Module):
        def __init__(self):
            super().__init__()
            self.used = nn.Conv2d(1, 4, 3, padding=1)
            self.idle = nn.Conv2d(4, 4, 1)

        def forward(self, x):
            return self.used(x)

    class Net(Plain):
        def __init__(self):
            super().__init__()
            self.first = Idle()

        def forward(self, x):
            return super().forward(self.first(x).mean(1, keepdim=True))

    variant = proposals_of(Net(), torch.randn(2, 1, 32, 32))[0].build()
    assert {"first.idle.weight", "first.idle.bias"} <= set(variant.dropped)
    assert "first.used.weight" in variant.kept
    assert verify(variant, export=False).failures == ()


class ReadsItsWeight(Plain):
    """Calls a convolution's weight, not the convolution, as same-padding layers do."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 1, 3, padding=1, bias=False)

    def forward(self, x):
        return super().forward(F.conv2d(x, self.stem.weight, None, padding=1))


def test_a_module_whose_weight_alone_is_read_can_still_be_printed():
    torch.manual_seed(0)
    variant = proposals_of(ReadsItsWeight(), TOYS["plain"][1])[0].build()
    assert "(stem): Conv2d(1, 1, kernel_size=(3, 3)" in repr(variant.module)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # inside torch's own exporter
@pytest.mark.parametrize(("name", "keep"), [("plain", 1), ("strided", 1), ("pyramid", 2)])
def test_onnx_gives_the_same_output(name, keep, proposals, tmp_path):
    import onnxruntime

    example = TOYS[name][1]
    module = proposals(name)[keep].build().module.eval()
    path = tmp_path / "variant.onnx"
    torch.onnx.export(module, (example,), path, dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(path)
    found = session.run(None, {session.get_inputs()[0].name: example.numpy()})
    expected = [t for t in torch.utils._pytree.tree_leaves(module(example)) if t is not None]
    for a, b in zip(expected, found, strict=True):
        torch.testing.assert_close(a.detach(), torch.from_numpy(b), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", mpseg_models.list_models())
@pytest.mark.parametrize("how", ["light", "pool"])
def test_zoo_at_every_depth(name, how):
    model = mpseg_models.create_model(name, width=8, seed=0)
    for proposal in proposals_of(model, torch.randn(2, 3, 64, 64)):
        variant = proposal.build(how)
        assert verify(variant, sizes=[torch.randn(1, 3, 96, 32)]).failures == ()
        assert how == "pool" or variant.costs.macs == proposal.macs


@pytest.mark.slow
def test_a_container_may_leave_out_the_output_that_goes_with_the_deep_levels():
    """The codebook's loss comes from the removed part; diffusers' container drops what is None."""
    diffusers = pytest.importorskip("diffusers")
    model = diffusers.VQModel(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=8,
        num_vq_embeddings=8,
    ).eval()
    structure = read_structure(model, torch.rand(1, 3, 16, 16))
    costs = count_costs(model, structure.inputs)
    (variant,) = [p.build() for p in propose(structure, assessment(), costs) if p.refusal is None]
    assert variant.dropped_outputs == (1,)
    assert list(variant.module(torch.rand(2, 3, 32, 32))) == ["sample"]
    failed = {check.name: check.detail for check in verify(variant).failures}
    assert failed == {}


class Losses(nn.Module):
    """Returns a loss that counts what its codes lose, beside the image."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.top, self.deep = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 8, 3, padding=1)
        self.up, self.out = nn.ConvTranspose2d(8, 4, 2, 2), nn.Conv2d(8, 3, 1)
        self.book = nn.Parameter(torch.randn(1, 8, 1, 1))

    def forward(self, x):
        top = self.top(x).relu()
        deep = self.deep(F.max_pool2d(top, 2)).relu()
        loss = F.mse_loss(deep, self.book.expand_as(deep))
        made = self.out(torch.cat([top, self.up(deep)], 1))
        lost = (made - x).abs().mean()
        if self.kind == "of one number":
            loss = loss[None]
        if self.kind == "scales":
            return lost, made * loss
        if self.kind == "scales outside":
            return lost, made, loss
        return lost, made, {"total": lost + 0.25 * loss}


@pytest.mark.sample(1)
@pytest.mark.parametrize("kind", ["a number", "of one number"])
def test_a_loss_that_counts_what_goes_goes_with_it(kind):
    (proposal,) = proposals_of(Losses(kind), torch.randn(2, 3, 16, 16))
    variant = proposal.build()
    assert variant.dropped_outputs == (2,)
    lost, made, total = variant.module(torch.randn(2, 3, 16, 16))
    assert (lost.shape, made.shape, total) == ((), (2, 3, 16, 16), {"total": None})
    assert verify(variant, factory=partial(Losses, kind)).failures == ()


def test_a_number_that_scales_what_stays_does_not_go():
    (proposal,) = proposals_of(Losses("scales"), torch.randn(2, 3, 16, 16))
    assert "one number for the whole batch" in proposal.refusal
    assert "return that number" in proposal.refusal
    (proposal,) = proposals_of(Losses("scales outside"), torch.randn(2, 3, 16, 16))
    assert proposal.build().dropped_outputs == (2,)


class Gated(Plain):
    """A gate from means of the image, normalised over the batch: one image does not train."""

    def __init__(self):
        super().__init__()
        self.gate = nn.Sequential(nn.Linear(1, 2), nn.BatchNorm1d(2), nn.Sigmoid())

    def forward(self, x):
        return super().forward(x) * self.gate(x.mean((2, 3)))[:, :, None, None]


def test_a_call_that_the_original_refuses_is_no_failure_of_the_variant():
    image = torch.randn(1, 1, 16, 16)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        Gated().train()(image)
    variant = proposals_of(Gated(), image)[-1].build()
    runs = next(c for c in verify(variant, export=False).checks if c.name == "runs")
    assert runs.passed, runs.detail


def test_a_deep_copy_has_a_module_of_its_own(proposals):
    variant = proposals("plain")[1].build()
    twin = copy.deepcopy(variant)
    assert twin.structure is variant.structure
    assert twin.costs == variant.costs
    with torch.no_grad():
        for parameter in twin.module.parameters():
            parameter.zero_()
    assert all(bool(p.any()) for p in variant.module.parameters() if p.dim() > 1)
    assert copy.deepcopy(variant.costs) == variant.costs


@pytest.mark.parametrize("width", [10**6, 10**12])
def test_more_channels_than_fit_into_memory_are_refused_by_name(width, proposals):
    with pytest.raises(TruncationError, match=rf"width={width} .*; ask for fewer channels"):
        proposals("plain")[1].build(width=width)


class Sided(nn.Module):
    """A block that also makes a map for a loss, which its caller may not use."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.conv, self.norm = (
            nn.Conv2d(in_channels, channels, 3, padding=1),
            nn.BatchNorm2d(channels),
        )
        self.side, self.spare = nn.Conv2d(channels, 2, 1), nn.Conv2d(channels, 2, 1)

    def forward(self, x):
        y = F.relu(self.norm(self.conv(x)))
        return y, self.side(y)


class SidesUnused(nn.Module):
    """Decoder blocks make maps of which the last one's alone is returned, or all while training."""

    def __init__(self, deep: bool = False):
        super().__init__()
        self.deep = deep
        self.e0, self.e1 = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 16, 3, 2, 1)
        self.e2, self.e3 = nn.Conv2d(16, 16, 3, 2, 1), nn.Conv2d(16, 16, 3, 2, 1)
        self.d2, self.d1, self.d0 = Sided(32, 16), Sided(32, 8), Sided(16, 8)

    def forward(self, x):
        e0 = F.relu(self.e0(x))
        e1 = F.relu(self.e1(e0))
        e2 = F.relu(self.e2(e1))
        up = partial(F.interpolate, scale_factor=2.0)
        d2, side2 = self.d2(torch.cat([up(F.relu(self.e3(e2))), e2], 1))
        d1, side1 = self.d1(torch.cat([up(d2), e1], 1))
        side0 = self.d0(torch.cat([up(d1), e0], 1))[1]
        return [side0, side1, side2] if self.deep and self.training else side0


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_what_a_block_computes_and_nothing_uses_stays_with_the_block(keep):
    torch.manual_seed(0)
    found = proposals_of(SidesUnused().eval(), torch.randn(2, 3, 32, 32))
    variant = next(p for p in found if p.keep_levels == keep).build()
    assert verify(variant, export=False).failures == ()
    assert {name for name in variant.module.state_dict() if ".spare." in name} == set()
    blocks = {f"d{level}" for level in range(min(keep, 3))}
    kept = {name.split(".")[0] for name in variant.module.state_dict() if ".side.weight" in name}
    assert kept == blocks


def test_maps_that_training_alone_returns_are_trained_no_more():
    torch.manual_seed(0)
    found = proposals_of(SidesUnused(deep=True), torch.randn(2, 3, 32, 32))
    variant = next(p for p in found if p.keep_levels == 3).build()
    sides = [f"{block}.side.{kind}" for block in ("d2", "d1") for kind in ("weight", "bias")]
    assert list(variant.untrained) == sides
    assert verify(variant, export=False).failures == ()


class Divides(nn.Module):
    """Divides by what comes from below."""

    def __init__(self):
        super().__init__()
        self.top, self.deep = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 8, 3, 2, 1)
        self.head = nn.Conv2d(8, 1, 1)

    def forward(self, x):
        top = F.relu(self.top(x))
        below = F.interpolate(self.deep(top), scale_factor=2.0)
        return self.head(top / below.sum(1, keepdim=True))


class Nothing(nn.Module):
    def forward(self, x):
        return x * 0


def test_a_variant_that_answers_no_numbers_is_told():
    torch.manual_seed(0)
    (proposal,) = proposals_of(Divides().eval(), torch.randn(2, 1, 16, 16))
    (failure,) = verify(proposal.build(bottleneck=Nothing()), export=False).failures
    assert failure.name == "runs"
    assert "output 0 holds NaN or infinite numbers, the original's does not" in failure.detail
    assert verify(proposal.build(bottleneck="pool"), export=False).failures == ()


class Integrates(nn.Module):
    """A flow is brought to half its size, integrated there, and back, by no layer."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = (
            nn.Conv2d(1, 8, 3, 1, 1),
            nn.Conv2d(8, 8, 3, 2, 1),
            nn.Conv2d(8, 8, 3, 2, 1),
        )
        self.d1, self.d0, self.flow = (
            nn.Conv2d(16, 8, 3, 1, 1),
            nn.Conv2d(16, 8, 3, 1, 1),
            nn.Conv2d(8, 2, 3, 1, 1),
        )

    def forward(self, x):
        a = F.relu(self.a(x))
        b = F.relu(self.b(a))
        c = F.relu(self.c(b))
        d = F.relu(self.d1(torch.cat([F.interpolate(c, scale_factor=2.0), b], 1)))
        d = F.relu(self.d0(torch.cat([F.interpolate(d, scale_factor=2.0), a], 1)))
        half = F.avg_pool2d(self.flow(d), 2) / 2
        for _ in range(2):
            half = half + half.roll(1, 2)
        return F.interpolate(half, scale_factor=2.0, mode="bilinear")


@pytest.mark.parametrize("keep", [1, 2])
def test_what_no_layer_computes_behind_the_last_one_stays(keep):
    torch.manual_seed(0)
    found = proposals_of(Integrates().eval(), torch.randn(2, 1, 32, 32))
    proposal = next(p for p in found if p.keep_levels == keep)
    assert verify(proposal.build(), export=False).failures == ()


class Windowed(nn.Module):
    """Attention among the four tokens of a window: an image is what is inside alone."""

    def __init__(self, features):
        super().__init__()
        self.norm, self.mix = nn.LayerNorm(features), nn.Linear(features, 3 * features)
        self.more = nn.Sequential(nn.Linear(features, 4 * features), nn.GELU())
        self.less = nn.Linear(4 * features, features)

    def forward(self, x, sides):
        images, positions, features = x.shape
        high, wide = (side // 2 for side in sides)
        image = self.norm(x).view(images, *sides, features)
        windows = image.view(images, high, 2, wide, 2, features).transpose(2, 3)
        q, k, v = self.mix(windows.reshape(-1, 4, features)).chunk(3, -1)
        y = ((q @ k.transpose(-1, -2)).softmax(-1) @ v).view(images, high, wide, 2, 2, features)
        x = x + y.transpose(2, 3).reshape(images, positions, features)
        return x + self.less(self.more(x))


class TokensBetweenModules(nn.Module):
    """Tokens are merged, and come back, by reshapes to more axes than an image has (Pangu)."""

    def __init__(self, sides=None):
        super().__init__()
        self.sides = sides
        self.embed = nn.Conv2d(1, 8, 2, 2)
        self.block, self.deep, self.last = Windowed(8), Windowed(32), Windowed(8)
        self.down, self.up = nn.Linear(32, 32), nn.Linear(32, 32)
        self.head = nn.ConvTranspose2d(16, 1, 2, 2)

    def forward(self, x):
        assert self.sides in (None, x.shape[2:])
        x = self.embed(x)
        images, _, high, wide = x.shape
        half = high // 2, wide // 2
        skip = self.block(x.flatten(2).transpose(1, 2), (high, wide))
        x = skip.reshape(images, half[0], 2, half[1], 2, 8).transpose(2, 3)
        x = self.up(self.deep(self.down(x.reshape(images, -1, 32)), half))
        x = x.reshape(images, *half, 2, 2, 8).transpose(2, 3)
        x = torch.cat([self.last(x.reshape(images, -1, 8), (high, wide)), skip], -1)
        return self.head(x.transpose(1, 2).reshape(images, 16, high, wide))


@pytest.mark.parametrize(("sides", "held"), [((24, 40), False), ((24, 40), True)])
def test_tokens_are_arranged_as_inside_of_the_modules_that_are_called(sides, held):
    torch.manual_seed(0)
    proposals = proposals_of(
        TokensBetweenModules(sides if held else None), torch.rand(1, 1, *sides)
    )
    assert sorted(proposal.keep_levels for proposal in proposals) == [1, 2]
    for proposal in proposals:
        structure, keep = proposal.structure, proposal.keep_levels
        crossing = read_crossing(structure, find_cut(structure, keep))
        made = [tuple(map(hint, sizes)) for run in crossing.runs for sizes in run.exits]
        assert made == [tuple(side // 2**keep for side in sides)]
        others = [] if held else [torch.rand(2, 1, 32, 24)]
        assert verify(proposal.build(bottleneck="pool"), sizes=others).failures == ()


class Narrated(nn.Module):
    """Works on the frames of clips one by one, and is given words for each of them."""

    def __init__(self):
        super().__init__()
        self.top, self.deep = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 8, 3, 2, 1)
        self.words, self.up = nn.Linear(5, 4), nn.ConvTranspose2d(8, 4, 2, 2)
        self.out = nn.Conv2d(8, 1, 3, padding=1)

    def forward(self, clip, words):
        frames = clip.transpose(1, 2).flatten(0, 1)
        top = self.top(frames).relu() * self.words(words)[:, :, None, None]
        deep = self.deep(top).relu()
        made = self.out(torch.cat([top, self.up(deep)], 1))
        return made.unflatten(0, (len(clip), clip.shape[2])).transpose(1, 2)


def test_twice_as_many_clips_come_with_words_for_each_of_their_frames():
    example = torch.rand(2, 3, 4, 16, 16), torch.rand(8, 5)
    for proposal in proposals_of(Narrated(), example):
        assert verify(proposal.build()).failures == ()


class Focused(nn.Module):
    """A block that asks what holds for all images, as of a mask that is the same for all."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x, mask):
        if mask.all():
            return self.conv(x)
        return torch.where(mask[:, None, None, None], x, self.conv(x))


class AsksOfAll(nn.Module):
    """Hands one mask to the blocks of all levels."""

    def __init__(self):
        super().__init__()
        self.top, self.deep = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, 2, 1)
        self.first, self.second = Focused(), Focused()
        self.up, self.out = nn.ConvTranspose2d(4, 4, 2, 2), nn.Conv2d(8, 1, 3, padding=1)

    def forward(self, x):
        mask = torch.zeros((len(x),), device=x.device, dtype=torch.bool)
        top = self.first(self.top(x), mask)
        deep = self.second(self.deep(top), mask)
        return self.out(torch.cat([top, self.up(deep)], 1))


def test_what_stays_asks_of_a_mask_that_is_the_same_for_all():
    for proposal in proposals_of(AsksOfAll(), torch.rand(2, 3, 16, 16)):
        for variant in (proposal.build(), proposal.build("pool")):
            # torch's own exporter stops at the question, of the original too
            assert verify(variant, export=False).failures == ()


class Detached(nn.Module):
    """What a kept layer makes is detached, so that nothing trains it."""

    def __init__(self):
        super().__init__()
        self.top, self.deep = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 8, 3, 2, 1)
        self.beside, self.up = nn.Conv2d(3, 4, 1), nn.ConvTranspose2d(8, 4, 2, 2)
        self.out = nn.Conv2d(4, 1, 3, padding=1)

    def forward(self, x):
        up = self.up(self.deep(self.top(x).relu()).relu())
        return self.out(up + self.beside(x).detach())


def test_what_the_original_detaches_is_no_fault_of_a_variant():
    for proposal in proposals_of(Detached(), torch.rand(2, 3, 16, 16)):
        assert verify(proposal.build()).failures == ()
