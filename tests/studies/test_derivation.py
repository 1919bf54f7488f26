"""The paper's reduced networks, derived: cut the full network, get the zoo's reduced one."""

from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import nn

from mpseg_models import create_model, get_config
from mpseg_models.blocks import DoubleConv, MultiResBlock, branch_widths
from weightscope.analysis import analyze
from weightscope.cost import count_costs

REDUCED = ["half_unet", "half_multiresunet", "quarter_multiresunet"]


def full_network(name, width):
    """A network of five levels whose shared levels are as wide as those of the reduced one."""
    reduced = get_config(name, width=width)
    if name == "half_unet":
        return create_model("unet", width=width, seed=0)
    doubling = tuple(reduced.encoder[-1] * 2**i for i in range(1, 5 - len(reduced.encoder)))
    config = replace(
        reduced,
        encoder=reduced.encoder + doubling,
        bottleneck=2 * doubling[-1],
        decoder=reduced.decoder + doubling,
        respath=reduced.respath + (3,) * len(doubling),
    )
    return create_model("multiresunet", **{k: v for k, v in vars(config).items() if k != "seed"})


def block(name, config):
    if name == "half_unet":
        return lambda entering, leaving, dimensions: DoubleConv(entering, config.bottleneck)
    return lambda entering, leaving, dimensions: MultiResBlock(entering, config.bottleneck)


def layer_table(model, size):
    """Kind, weight shape and output shape of every layer, in the order of the forward."""
    rows = []

    def record(layer, _, out):
        rows.append((type(layer).__name__, tuple(layer.weight.shape), tuple(out.shape)))

    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    handles = [layer.register_forward_hook(record) for layer in convolutions]
    with torch.no_grad():
        model.eval()(torch.zeros(1, 3, size, size))
    for handle in handles:
        handle.remove()
    return rows


def in_forward_order_but_for_skips(rows):
    # a ResPath may run as soon as its level is done or just before it is needed
    return sorted(rows)


def check(name, width):
    config = get_config(name, width=width)
    reduced = create_model(name, width=width, seed=0)
    full = full_network(name, width)
    leaving = config.bottleneck[1] if name == "half_unet" else config.bottleneck
    found = analyze(full, response=False).proposals
    proposal = next(p for p in found if p.keep_levels == len(config.encoder))
    variant = proposal.build(block(name, config), exit_channels=leaving)
    size = 64
    ours, theirs = layer_table(variant.module, size), layer_table(reduced, size)
    assert in_forward_order_but_for_skips(ours) == in_forward_order_but_for_skips(theirs)
    if name == "half_unet":
        assert ours == theirs
    image = torch.zeros(1, 3, size, size)
    costs, expected = count_costs(variant.module, image), count_costs(reduced, image)
    assert costs.parameters == expected.parameters
    assert costs.macs == expected.macs
    full_state, state = full.state_dict(), variant.module.state_dict()
    assert variant.kept
    for key in variant.kept:
        assert torch.equal(state[key], full_state[key])
    assert {key for key in variant.kept if key.startswith("encoder.0")} == {
        key for key in full_state if key.startswith("encoder.0")
    }


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name.endswith("_multiresunet") else ())
        for name in REDUCED
    ],
)
def test_cutting_the_full_network_gives_the_reduced_one(name):
    check(name, width=8)


@pytest.mark.slow
@pytest.mark.parametrize("name", REDUCED)
def test_the_same_at_the_papers_widths(name):
    check(name, width=get_config(name).width)


# --- thinner as well ---------------------------------------------------------------------------


def thinner_widths(config):
    """The layers of a MultiResUNet and their widths in the reduced network."""
    widths = {}
    for level, channels in enumerate(config.encoder):
        for branch, width in enumerate(branch_widths(channels), 1):
            widths[f"encoder.{level}.conv{branch}"] = width
        for unit in range(config.respath[level]):
            widths[f"skips.{level}.units.{unit}.conv3x3"] = channels
    for level, channels in enumerate(config.decoder):
        for branch, width in enumerate(branch_widths(channels), 1):
            widths[f"decoder.{level}.conv{branch}"] = width
    return widths


@cache
def wide_proposals(wide):
    """Those of the paper's network, from which both reduced ones are cut."""
    # table 4 fits the reduced networks with three repeats in every ResPath
    repeats = (3,) * len(get_config("multiresunet", width=wide).encoder)
    full = create_model("multiresunet", width=wide, respath=repeats, seed=0)
    return analyze(full, response=False).proposals


def check_thinner(name, width, wide):
    """The paper's wide network, cut and thinned, has the layers of its reduced one."""
    config = get_config(name, width=width)
    reduced = create_model(name, width=width, seed=0)
    original = get_config("multiresunet", width=wide)
    levels = len(config.encoder)
    wider = original.encoder[levels - 1]  # the paper's reduced networks do not widen below the cut
    assert config.bottleneck == config.encoder[-1]
    proposal = next(p for p in wide_proposals(wide) if p.keep_levels == levels)
    cut = proposal.build(
        lambda entering, leaving, dimensions: MultiResBlock(entering, wider), exit_channels=wider
    )
    widths = thinner_widths(config)
    for branch, channels in enumerate(branch_widths(config.bottleneck), 1):
        widths[f"new_bottleneck.trunk.conv{branch}"] = channels
    small = cut.thin(widths)
    ours, theirs = layer_table(small.module, 64), layer_table(reduced, 64)
    assert in_forward_order_but_for_skips(ours) == in_forward_order_but_for_skips(theirs)
    image = torch.zeros(1, 3, 64, 64)
    costs, expected = count_costs(small.module, image), count_costs(reduced, image)
    assert (costs.parameters, costs.macs) == (expected.parameters, expected.macs)


@pytest.mark.parametrize(
    "name", [pytest.param("half_multiresunet", marks=pytest.mark.slow), "quarter_multiresunet"]
)
def test_cutting_and_thinning_the_wide_network_gives_the_reduced_one(name):
    check_thinner(name, width=12, wide=18)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["half_multiresunet", "quarter_multiresunet"])
def test_the_same_from_52_to_32_channels(name):
    check_thinner(name, width=32, wide=52)
