"""Costs against hand formulas and against two independent counters."""

import copy
import warnings
from types import MappingProxyType

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from studies.second_count import fvcore_macs
from weightscope.cost import (
    MAC_RULES,
    count_costs,
    counting,
    measure_latency,
    measure_peak_memory,
)
from weightscope.errors import ForwardError, InputError
from weightscope.graph.structure import ExampleInputs

aten = torch.ops.aten


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(4, 4, bias=False)
        self.b = nn.Linear(4, 4, bias=False)
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.b(self.a(x))


class Functional(nn.Module):
    """Parameters used outside their owner's forward."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3, padding=1)
        self.register_buffer("scale", torch.ones(5, 1, 1))

    def forward(self, x):
        return F.conv2d(x, self.conv.weight, self.conv.bias, padding=1) * self.scale


class Attention(nn.Module):
    def forward(self, q, k, v):
        return F.scaled_dot_product_attention(q, k, v)


class DataDependent(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)

    def forward(self, x):
        return self.conv(x) if float(x.sum()) > 0 else x


@pytest.mark.parametrize(
    ("layer", "shape", "macs"),
    [
        (nn.Conv2d(3, 8, 3, padding=1), (2, 3, 10, 12), 2 * 10 * 12 * 8 * 3 * 9),
        (nn.Conv2d(4, 8, 3, stride=2, padding=1, groups=2), (1, 4, 8, 8), 16 * 8 * 2 * 9),
        (nn.Conv1d(2, 3, 5), (1, 2, 20), 16 * 3 * 2 * 5),
        (nn.Conv3d(2, 3, 3, padding=1), (1, 2, 4, 5, 6), 120 * 3 * 2 * 27),
        (nn.ConvTranspose2d(8, 4, 2, stride=2), (1, 8, 5, 6), 5 * 6 * 8 * 4 * 4),
        (nn.ConvTranspose2d(8, 4, 3, stride=2, groups=2), (1, 8, 5, 6), 5 * 6 * 8 * 2 * 9),
        (nn.Linear(7, 3), (2, 5, 7), 2 * 5 * 7 * 3),
        (nn.Linear(7, 3, bias=False), (5, 7), 5 * 7 * 3),
        (nn.Bilinear(3, 4, 5), None, None),
        (nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2)), (1, 3, 8, 8), 0),
        (nn.LSTM(8, 6, num_layers=2, batch_first=True), (2, 5, 8), 10 * 4 * 6 * (8 + 6 + 6 + 6)),
        (nn.GRU(8, 6, batch_first=True), (2, 5, 8), 10 * 3 * 6 * (8 + 6)),
    ],
    ids=str,
)
def test_one_layer_by_hand(layer, shape, macs):
    if shape is None:
        inputs = (torch.randn(2, 3), torch.randn(2, 4))
        assert list(count_costs(layer, inputs).unsupported) == ["aten._trilinear.default"]
        return
    costs = count_costs(layer, torch.randn(shape))
    assert costs.macs == macs
    assert costs.unsupported == {}
    assert costs.parameters == sum(p.numel() for p in layer.parameters())


@pytest.mark.parametrize("build", [nn.MultiheadAttention, nn.TransformerEncoderLayer])
@pytest.mark.parametrize("frozen", [True, False])
def test_attention_modules_with_and_without_their_fast_path(build, frozen):
    layer = build(16, 4, batch_first=True)
    layer.requires_grad_(not frozen)
    x = torch.randn(2, 5, 16)
    inputs = (x, x, x) if build is nn.MultiheadAttention else (x,)
    projections, pairs = 2 * 5 * 4 * 16 * 16, 2 * 2 * 5 * 5 * 16
    feedforward = 2 * 2 * 5 * 16 * 2048 if build is nn.TransformerEncoderLayer else 0
    assert count_costs(layer, inputs).macs == projections + pairs + feedforward


def test_scaled_dot_product_attention():
    q, k, v = torch.randn(2, 3, 7, 4), torch.randn(2, 3, 9, 4), torch.randn(2, 3, 9, 4)
    costs = count_costs(Attention(), (q, k, v))
    assert costs.macs == 2 * 3 * 7 * 9 * (4 + 4)
    assert costs.unsupported == {}


def test_agrees_with_fvcore_and_flop_counter_on_a_network():
    pytest.importorskip("fvcore")
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1, groups=4),
        nn.ConvTranspose2d(16, 8, 2, stride=2),
        nn.Upsample(scale_factor=2),
        nn.Conv2d(8, 2, 1),
        nn.Flatten(2),
        nn.Linear(32 * 32, 3),
    )
    x = torch.randn(2, 3, 16, 16)
    costs = count_costs(net, x)
    with FlopCounterMode(display=False) as counter:
        net(x)
    assert costs.macs == counter.get_total_flops() // 2 == fvcore_macs(net, x)
    assert costs.macs == sum(layer.macs for layer in costs.layers.values())
    assert costs.parameters == sum(layer.parameters for layer in costs.layers.values())
    assert costs.activation_bytes == sum(x.activation_bytes for x in costs.layers.values())
    assert costs.layers["4"].macs == 2 * 8 * 8 * 16 * 8 * 4
    assert costs.layers["4"].output_shape == (2, 8, 16, 16)


def test_activation_bytes_counts_new_tensors_only():
    net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(inplace=True), nn.Flatten(), nn.Identity())
    assert count_costs(net, torch.randn(1, 1, 4, 4)).activation_bytes == 2 * 16 * 4
    half = copy.deepcopy(net).to(torch.bfloat16)
    inputs = torch.randn(1, 1, 4, 4, dtype=torch.bfloat16)
    assert count_costs(half, inputs).activation_bytes == 2 * 16 * 2


def test_shared_parameters_count_once_and_work_twice():
    costs = count_costs(Tied(), torch.randn(3, 4))
    assert costs.parameters == 16
    assert (costs.layers["a"].macs, costs.layers["b"].macs) == (48, 48)
    assert "b" in costs.layers
    assert costs.layers["b"].parameters == 0


def test_work_belongs_to_the_owner_of_the_parameters():
    costs = count_costs(Functional(), torch.randn(1, 3, 4, 4))
    assert costs.layers["conv"].macs == costs.macs == 16 * 5 * 3 * 9


def test_reused_layer_counts_every_call():
    layer = nn.Linear(4, 4)
    costs = count_costs(nn.Sequential(layer, layer), torch.randn(1, 4))
    assert (costs.macs, costs.parameters) == (32, 20)


def test_rules_can_follow_another_convention():
    """FLOPs of a published table: 2 per product, 1 per bias and sum, 4 per pooled element."""

    def convolution(args, kwargs, out):
        bias = out.numel() if args[2] is not None else 0
        return 2 * MAC_RULES[aten.convolution](args, kwargs, out) + bias

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, padding=1)

        def forward(self, x):
            y = self.conv(x)
            return F.max_pool2d(y + y, 2)

    rules = {
        aten.convolution: convolution,
        aten.add.Tensor: lambda args, kwargs, out: out.numel(),
        aten.max_pool2d_with_indices: lambda args, kwargs, out: 4 * out[0].numel(),
    }
    costs = count_costs(Net(), torch.randn(1, 3, 8, 8), rules=rules)
    assert costs.macs == 2 * 64 * 4 * 27 + 256 + 256 + 4 * 64


def test_operators_of_unknown_cost_are_listed():
    class Spectrum(nn.Module):
        def forward(self, x):
            return torch.fft.rfft(x).abs() @ torch.ones(5, 2)

    costs = count_costs(Spectrum(), torch.randn(3, 8))
    assert costs.macs == 3 * 5 * 2
    assert costs.unsupported == {"aten._fft_r2c.default": 1}


def test_inference_mode_inside_the_forward():
    class Frozen(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        @torch.inference_mode()
        def forward(self, x):
            return self.conv(x)

    costs = count_costs(Frozen(), torch.randn(1, 3, 8, 8))
    assert costs.macs == 36 * 4 * 27
    assert costs.unsupported == {}


def test_meta_parameters_and_inputs():
    with torch.device("meta"):
        net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    assert count_costs(net, torch.empty(1, 3, 8, 8)).macs == 36 * 4 * 27
    assert count_costs(net, torch.empty(1, 3, 8, 8, device="meta")).macs == 36 * 4 * 27


def test_forward_that_reads_numbers_is_run_for_real():
    assert count_costs(DataDependent(), torch.ones(1, 1, 4, 4)).macs == 4 * 2 * 9
    assert count_costs(DataDependent(), -torch.ones(1, 1, 4, 4)).macs == 0


@pytest.mark.parametrize("kind", ["tuple", "dict", "example"])
def test_ways_to_give_inputs(kind):
    x = torch.randn(1, 4)
    given = {
        "tuple": (x,),
        "dict": {"input": x},
        "example": ExampleInputs((x,), MappingProxyType({}), 2, guessed=False),
    }
    assert count_costs(nn.Linear(4, 4), given[kind]).macs == 16


def test_the_model_and_its_surroundings_are_untouched():
    seen = []
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout())
    net.train()
    net[1].eval()
    net[0].register_forward_hook(lambda module, args, out: seen.append(out))
    before = {name: t.clone() for name, t in net.state_dict().items()}
    modes = [m.training for m in net.modules()]
    random = torch.get_rng_state()
    hooks = len(net[0]._forward_hooks)
    count_costs(net, torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0)))
    assert seen == []
    assert [m.training for m in net.modules()] == modes
    assert len(net[0]._forward_hooks) == hooks
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(t, before[name]) for name, t in net.state_dict().items())
    assert type(net[0].weight) is nn.Parameter


def test_hooks_that_belong_to_the_model_still_work():
    class Recorder:
        def __init__(self):
            self.stored = None

        def keep(self, module, args, out):
            self.stored = out

    class Hooked(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(1, 2, 3, padding=1)
            self.recorder = Recorder()
            self.conv.register_forward_hook(self.recorder.keep)

        def forward(self, x):
            self.conv(x)
            return self.recorder.stored

    net = Hooked()
    assert count_costs(net, torch.randn(1, 1, 4, 4)).macs == 16 * 2 * 9
    assert net.recorder.stored is None


class Collector:
    """Keeps what layers make while a forward asks for it, as libraries of networks do."""

    def __init__(self):
        self.active = None


COLLECTOR = Collector()


class Collecting(nn.Module):
    """Sets its own hooks at its first call, and returns what they collect."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(2, 2, 1)
        self.hooked = False

    def forward(self, x):
        if not self.hooked:
            self.hooked = True
            for name, layer in self.named_children():

                def keep(module, args, out, name=name):
                    if COLLECTOR.active is not None:
                        COLLECTOR.active[name] = out

                layer.register_forward_hook(keep)
        COLLECTOR.active = collected = {}
        self.second(self.first(x))
        COLLECTOR.active = None
        return collected["first"], collected["second"]


def test_a_networks_own_hooks_are_counted_with_it_and_those_of_its_owner_are_not():
    net, seen = Collecting(), []
    net.to("meta")
    image = torch.zeros(1, 1, 4, 4, device="meta")
    before = count_costs(net, image)
    net(image)
    net.first.register_forward_hook(lambda module, args, out: seen.append(out))
    assert count_costs(net, image).macs == before.macs == 16 * (2 * 9 + 2 * 2)
    assert seen == []


def test_errors_name_the_input_and_the_remedy():
    with pytest.raises(InputError, match="received a str"):
        count_costs("unet", torch.ones(1))
    with pytest.raises(InputError, match=r"inputs must be a tensor, a tuple .* not int"):
        count_costs(nn.Linear(4, 4), 1)
    with pytest.raises(ForwardError, match=r"shapes \[\(1, 5\)\]"):
        count_costs(nn.Linear(4, 4), torch.randn(1, 5))
    with pytest.raises(InputError, match="run its forward once"):
        count_costs(nn.LazyLinear(3), torch.randn(1, 5))
    with pytest.raises(InputError, match="repeats=1"):
        measure_latency([nn.Identity()], torch.ones(1), repeats=1)


def test_latency_is_measured_on_copies_in_turns():
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)).train()
    first, second = measure_latency([net, nn.Identity()], torch.randn(2, 4), repeats=5)
    assert 0 < first.low <= first.median <= first.high
    assert (first.repeats, first.device, second.repeats) == (5, "cpu", 5)
    assert net.training
    assert net[1].num_batches_tracked == 0


def test_peak_memory_by_hand():
    """1 kB tensors: a chain holds two at once, a skip connection one more."""

    class Chain(nn.Module):
        def forward(self, x):
            for _ in range(5):
                x = x + 1
            return x

    class Skip(nn.Module):
        def forward(self, x):
            skip = x + 1
            y = skip * 2
            y = y + 1
            return y + skip

    x = torch.zeros(256)
    assert measure_peak_memory(Chain(), x) == 2 * 1024
    assert measure_peak_memory(Skip(), x) == 3 * 1024
    assert measure_peak_memory(nn.Identity(), x) == 0


def test_attention_whose_values_have_another_width():
    """Scores B H Nq Nk D, and their product with the values B H Nq Nk Dv."""
    query, key, value = torch.ones(2, 3, 5, 8), torch.ones(2, 3, 7, 8), torch.ones(2, 3, 7, 4)
    by_hand = 2 * 3 * 5 * 7 * (8 + 4)
    rule = MAC_RULES[aten._scaled_dot_product_efficient_attention]
    assert rule((query, key, value), {}, None) == by_hand

    class Attend(nn.Module):
        def forward(self, query, key, value):
            return nn.functional.scaled_dot_product_attention(query, key, value)

    assert count_costs(Attend(), (query, key, value)).macs == by_hand


def test_old_style_weight_normalisation_after_a_forward_is_measured():
    """It leaves a tensor with a graph in the module, of which no plain deep copy can be made."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = nn.Sequential(nn.utils.weight_norm(nn.Conv2d(3, 4, 3, padding=1)), nn.ReLU())
    image = torch.rand(1, 3, 16, 16)
    model(image).sum().backward()
    (latency,) = measure_latency([model], image, repeats=2)
    assert latency.median > 0
    assert measure_peak_memory(model, image) >= 4 * 4 * 16 * 16
    assert not model[0].weight.is_leaf


def test_numbers_of_tensors_made_of_numbers_are_there_without_numbers() -> None:
    class Centred(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 2, 3, padding=1, device="meta")

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            axes = torch.arange(1, x.dim()).tolist()
            out: torch.Tensor = self.conv(x - x.mean(axes, keepdim=True))
            return out

    assert count_costs(Centred(), torch.randn(1, 1, 8, 8)).macs == 8 * 8 * 2 * 9


def test_memory_of_weights_that_a_forward_replaces_is_nobody_elses() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3))
    calls = counting._Calls(model)
    made = []
    for conv in model:
        conv.weight.data = torch.zeros_like(conv.weight)  # as a masked convolution does
        made += [torch.empty(8, 8, 3, 3) for _ in range(50)]
    assert {calls.owner([tensor]) for tensor in made} == {""}
