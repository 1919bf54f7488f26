"""What takes the place of everything below a cut."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from toys import Short, assessment

from weightscope.cost import count_costs
from weightscope.errors import InputError, TruncationError
from weightscope.graph import read_structure
from weightscope.receptive_field import box, in_pixels
from weightscope.truncation import Bottleneck, Light, propose, save, verify
from weightscope.truncation.bottleneck import Entry, Exit
from weightscope.truncation.building import bottleneck_costs
from weightscope.truncation.cutting import read_crossing
from weightscope.truncation.plan import find_cut


def bottleneck(entry, leaving, trunk=None, channels=3, dimensions=2):
    return Bottleneck(dimensions, [entry], leaving, trunk or nn.Identity(), channels)


LAYOUTS = {
    "channels_first": lambda x: x,
    "channels_last": lambda x: x.permute(0, 2, 3, 1),
    "tokens_first": lambda x: x.flatten(2),
    "tokens_last": lambda x: x.flatten(2).transpose(1, 2),
}


@pytest.mark.parametrize("entering", LAYOUTS)
@pytest.mark.parametrize("leaving", LAYOUTS)
def test_every_layout_is_understood(entering, leaving):
    x = torch.randn(2, 3, 4, 6)
    module = bottleneck(
        Entry(3, entering, (2, 2), ceil=False, exact=True), [Exit(3, leaving, True, (1, 1))]
    )
    (found,) = module([LAYOUTS[entering](x)], [[4, 6]], [2, 3], [[2, 3]])
    assert torch.equal(found, LAYOUTS[leaving](nn.functional.max_pool2d(x, 2)))


def test_several_entries_and_exits_are_brought_to_one_size():
    entries = [
        Entry(2, "channels_first", (2, 2), ceil=True, exact=True),
        Entry(3, "channels_first", (4, 4), ceil=True, exact=False),
    ]
    exits = [
        Exit(7, "channels_first", True, (1, 1)),
        Exit(5, "channels_first", False, (0.5, 0.5)),
    ]
    module = Bottleneck(2, entries, exits, Light(5, 7, 2), 7)
    tensors = [torch.randn(2, 2, 9, 12), torch.randn(2, 3, 18, 24)]
    found = module(tensors, [[9, 12], [18, 24]], [5, 6], [[5, 6], [3, 3]])
    assert [tuple(t.shape) for t in found] == [(2, 7, 5, 6), (2, 5, 3, 3)]
    assert isinstance(module.heads[0], nn.Identity)


def test_receptive_field_of_a_bottleneck():
    module = bottleneck(
        Entry(3, "channels_first", (2, 2), ceil=False, exact=True),
        [Exit(4, "channels_first", True, (1, 1))],
        Light(3, 4, 2),
        4,
    )
    seen, sizes = [(box(14, 2), box(14, 2))], ([[32, 32]], [16, 16], [[16, 16]])
    # 14 at jump 2, pooled: 16 at jump 4, two 3x3 convolutions: 32
    assert [in_pixels(v) for v in module.views(seen, *sizes)] == [(32, 32)]
    far = bottleneck(module.entries[0], module.exits, Light(3, 4, 2, reach=4), 4)
    # the second one at a dilation of 4: 3 steps further on both sides
    assert [in_pixels(v) for v in far.views(seen, *sizes)] == [(56, 56)]
    own = nn.Sequential(nn.Conv2d(3, 4, 3, padding=2, dilation=2), nn.ReLU())
    module = bottleneck(module.entries[0], module.exits, own, 4)
    assert [in_pixels(v) for v in module.views(seen, *sizes)] == [(32, 32)]


@pytest.mark.slow
def test_light_stays_within_half_of_what_it_replaces(proposals):
    for name in ("plain", "norms", "volume", "signal"):
        for proposal in proposals(name).values():
            variant = proposal.build()
            own = [c for n, c in variant.costs.layers.items() if n.startswith("new_bottleneck")]
            parameters, macs = sum(c.parameters for c in own), sum(c.macs for c in own)
            replaced = proposal.costs.parameters - (variant.costs.parameters - parameters)
            assert parameters <= replaced / 2
            assert macs <= (proposal.costs.macs - (variant.costs.macs - macs)) / 2


@pytest.mark.slow
def test_the_budget_is_taken_on_the_example_inputs_not_on_the_traced_ones():
    """A guessed input is one image, traced as two; the widths must not depend on that."""
    widths = []
    for example in (None, torch.randn(1, 1, 64, 64), torch.randn(3, 1, 64, 64)):
        with torch.random.fork_rng():
            structure = read_structure(Short(), example)
        costs = count_costs(structure.model, structure.inputs)
        found = propose(structure, assessment(), costs)
        own = [p.build().module.new_bottleneck.trunk[0].out_channels for p in found]
        widths.append(own)
        for proposal in found:
            variant = proposal.build(width=own[0])
            spent = sum(c.macs for n, c in variant.costs.layers.items() if "new_bottleneck" in n)
            cut = find_cut(structure, proposal.keep_levels)
            crossing = read_crossing(structure, cut)
            assert bottleneck_costs(structure, cut, crossing, variant.plan)[1] == spent
    assert widths[0] == widths[1] == widths[2]


class Padded(nn.Module):
    """Pads by three before the kernel of the deepest level, as networks from TensorFlow do."""

    def __init__(self) -> None:
        super().__init__()
        self.top, self.middle = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 16, 3, padding=1)
        self.deep, self.out = nn.Conv2d(16, 64, 5, stride=2), nn.Conv2d(64 + 16, 2, 1)

    def forward(self, x):
        middle = self.middle(F.max_pool2d(F.relu(self.top(x)), 4))
        deep = F.relu(self.deep(F.pad(F.relu(middle), (1, 2, 1, 2))))
        deep = F.interpolate(deep, size=middle.shape[2:])
        return self.out(F.interpolate(torch.cat([deep, middle], 1), size=x.shape[2:]))


@pytest.mark.sample(2)
@pytest.mark.parametrize("side", [16, 32, 64, 256])
def test_the_size_that_a_network_was_read_at_does_not_decide(side):
    """At 16 pixels what enters is 7 wide and what leaves is 2: padding counts as much as stride."""
    structure = read_structure(Padded(), torch.zeros(1, 1, side, side))
    crossing = read_crossing(structure, find_cut(structure, 2))
    assert [entry.kernel for entry in crossing.entries] == [(2, 2)]


def test_width_is_taken_as_given(proposals):
    variant = proposals("plain")[1].build(width=11)
    assert variant.module.new_bottleneck.trunk[0].out_channels == 11
    assert isinstance(variant.module.new_bottleneck.heads[0], nn.Conv2d)
    assert verify(variant, export=False).failures == ()


def test_own_bottleneck_as_factory_class_and_module(proposals):
    asked = []

    def factory(entering, leaving, dimensions):
        asked.append((entering, leaving, dimensions))
        return nn.Conv2d(entering, leaving, 3, padding=1)

    variant = proposals("plain")[1].build(factory, exit_channels=6)
    assert set(asked) == {(4, 6, 2)}
    assert verify(variant, export=False).failures == ()
    own = nn.Conv2d(4, 9, 1)
    variant = proposals("plain")[1].build(own)
    assert variant.module.new_bottleneck.heads[0].in_channels == 9  # 8 leave the cut
    assert torch.equal(variant.module.new_bottleneck.trunk.weight, own.weight)
    assert variant.module.new_bottleneck.trunk is not own


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    "own",
    [
        nn.Identity(),
        nn.Dropout2d(),
        nn.Sequential(nn.Conv2d(4, 3, 3, padding=1), nn.ReLU()),
        lambda i, o, d: nn.Sequential(nn.Identity()),
    ],
)
def test_own_bottleneck_needs_no_operation_of_its_own(own, proposals):
    assert verify(proposals("plain")[1].build(own), export=False).failures == ()


def test_whole_numbers_of_numpy_go_into_a_recipe(proposals, tmp_path):
    two = np.int64(2)
    for channels in (two, [two]):
        variant = proposals("plain")[1].build(width=two, exit_channels=channels, reach=two)
        assert save(variant, tmp_path / f"{type(channels).__name__}.safetensors").exists()
        assert variant.plan.exit_channels == (2,)


def test_pool_has_no_weights(proposals):
    variant = proposals("plain")[1].build("pool")
    assert list(variant.module.new_bottleneck.parameters()) == []
    assert variant.module.up[0][0].in_channels == 8  # 4 of the skip, 4 of the pooled skip


class Fixed(nn.Module):
    """Mixes all positions of an image of one size."""

    def __init__(self):
        super().__init__()
        self.mix = nn.Linear(256, 256)

    def forward(self, x):
        return self.mix(x.flatten(2)).view_as(x)


class Cropping(nn.Module):
    def forward(self, x):
        return x[..., 1:] if self.training else x


class Aux(nn.Module):
    def forward(self, x):
        return (x, x) if self.training else x


class OneBatch(nn.Module):
    def forward(self, x):
        return x[:2]


class Widening(nn.Module):
    def forward(self, x):
        return torch.cat([x, x], 1) if self.training else x


class Hourglass(nn.Module):
    """Has sizes of its own that follow from those of its input."""

    def forward(self, x):
        return F.interpolate(F.avg_pool2d(x, 4), size=x.shape[2:]) * x.mean((2, 3), keepdim=True)


def test_a_bottleneck_of_ones_own_may_pool_and_attend(proposals):
    variant = proposals("plain")[1].build(bottleneck=Hourglass())
    assert verify(variant, sizes=[torch.randn(1, 1, 48, 80)]).passed


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"bottleneck": "heavy"}, InputError, "expected 'light', 'pool'"),
        ({"bottleneck": 3}, InputError, "^bottleneck=3; give 'light'"),
        ({"bottleneck": "pool", "width": 3}, InputError, "width=3 is for bottleneck='light'"),
        ({"bottleneck": "pool", "exit_channels": 3}, InputError, "exit_channels= is for"),
        ({"bottleneck": "pool", "reach": 3}, InputError, "reach=3 is for bottleneck='light'"),
        ({"width": 0}, InputError, "width=0; give a whole number from 1"),
        ({"width": True}, InputError, "width=True; give a whole number"),
        ({"width": 2.0}, InputError, "width=2.0; give a whole number"),
        ({"exit_channels": 4.0}, InputError, "exit_channels=4.0; give a whole number"),
        ({"exit_channels": "ab"}, InputError, "number from 1, or a list of one for each"),
        ({"exit_channels": (n for n in [4])}, InputError, "a generator; give a whole number"),
        ({"exit_channels": [0]}, InputError, r"exit_channels= is \[0\]; this cut has 1"),
        ({"exit_channels": (1, 2)}, InputError, "has 1 exits"),
        ({"exit_channels": 0}, InputError, "give one number"),
        ({"bottleneck": lambda i, o, d: "no"}, TruncationError, "returned a str"),
        ({"bottleneck": lambda i, o, d: nn.Conv2d(i + 1, o, 1)}, TruncationError, "does not run"),
        ({"bottleneck": lambda i, o, d: nn.Conv2d(i, o, 3)}, TruncationError, "spatial size"),
        ({"bottleneck": nn.Sequential(nn.Upsample(None, 2))}, TruncationError, "spatial size"),
        ({"bottleneck": nn.AdaptiveMaxPool2d(16, True)}, TruncationError, "not return one tensor"),
        (
            {"bottleneck": nn.AdaptiveAvgPool2d(16)},
            TruncationError,
            r"16, 16\) for \(3, 4, 32, 48\)",
        ),
        (
            {"bottleneck": nn.Sequential(nn.Conv2d(4, 8, 1), nn.LayerNorm([8, 16, 16]))},
            TruncationError,
            r"does not run on a tensor \(3, 4, 32, 48\)",
        ),
        ({"bottleneck": Fixed()}, TruncationError, r"does not run on a tensor \(3, 4, 32, 48\)"),
        ({"bottleneck": Cropping()}, TruncationError, "in training mode returns shape"),
        ({"bottleneck": Aux()}, TruncationError, "in training mode does not return one tensor"),
        ({"bottleneck": OneBatch()}, TruncationError, "must keep the batch"),
        ({"bottleneck": Widening()}, TruncationError, "4 channels in one call and 8 in another"),
        ({"bottleneck": nn.Conv2d(8, 8, 1, device="meta")}, TruncationError, "meta device"),
    ],
)
def test_errors_name_the_option(options, error, text, proposals):
    with pytest.raises(error, match=text):
        proposals("plain")[1].build(**options)
