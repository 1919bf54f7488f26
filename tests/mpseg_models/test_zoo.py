import math
from dataclasses import FrozenInstanceError

import pytest
import torch

from mpseg_models import MultiResUNet, UNet, create_model, get_config, list_models
from mpseg_models.blocks import branch_widths

PAPER = {  # table 4: FLOPs in billions, parameters in millions
    "unet": (329.7, 21.9776),
    "half_unet": (204.0, 1.7724),
    "multiresunet": (204.8, 13.5469),
    "half_multiresunet": (42.9, 0.2149),
    "quarter_multiresunet": (21.9, 0.0445),
}
NARROW = {"unet": 8, "half_unet": 8, "multiresunet": 8, "half_multiresunet": 8}


def narrow(name, **overrides):
    return create_model(name, width=NARROW.get(name, 8), seed=0, **overrides)


def parameters(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", ["unet", "half_unet", "quarter_multiresunet"])
def test_parameters_agree_with_table_4_exactly(name):
    with torch.device("meta"):
        count = parameters(create_model(name))
    assert math.floor(count / 100) / 10_000 == PAPER[name][1]  # the paper cuts, not rounds


@pytest.mark.parametrize(
    ("name", "tolerance"), [("multiresunet", 0.03), ("half_multiresunet", 0.021)]
)
def test_parameters_agree_with_table_4_closely(name, tolerance):
    with torch.device("meta"):
        count = parameters(create_model(name))
    assert count / 1e6 == pytest.approx(PAPER[name][1], rel=tolerance)


def test_the_five_names():
    assert list_models() == tuple(PAPER)


@pytest.mark.parametrize("name", list_models())
def test_output_has_the_size_of_the_input_and_is_logits(name):
    model = narrow(name)
    images = torch.rand(2, 3, 32, 48)
    logits = model(images)
    assert logits.shape == (2, 1, 32, 48)
    probabilities = narrow(name, sigmoid=True)(images)
    torch.testing.assert_close(torch.sigmoid(logits), probabilities)


@pytest.mark.parametrize("name", list_models())
def test_every_parameter_gets_a_gradient(name):
    model = narrow(name)
    model(torch.rand(1, 3, 32, 32)).square().mean().backward()
    missing = [n for n, p in model.named_parameters() if p.grad is None]
    assert missing == []


def test_seed_makes_weights_repeatable_and_leaves_the_global_generator_alone():
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    first, second = narrow("unet"), narrow("unet")
    assert torch.equal(torch.rand(3), expected)
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)
    other = create_model("unet", width=8, seed=1)
    assert not torch.equal(first.head.weight, other.head.weight)


def test_kernels_are_glorot_uniform_and_biases_zero():
    model = create_model("unet", width=16, seed=0)
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            fan_out, fan_in, k, _ = module.weight.shape
            bound = math.sqrt(6 / ((fan_in + fan_out) * k * k))
            assert module.weight.abs().max() <= bound
            if module.weight.numel() > 1000:
                assert module.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)
            assert not module.bias.any()


@pytest.mark.parametrize("name", list_models())
def test_indivisible_input_is_refused_with_the_multiple(name):
    model = narrow(name)
    multiple = {"half_unet": 4, "half_multiresunet": 4, "quarter_multiresunet": 2}.get(name, 16)
    assert model.multiple == multiple
    with pytest.raises(ValueError, match=rf"multiples of {multiple}, received 35 x 32.*pad"):
        model(torch.rand(1, 3, 35, 32))


@pytest.mark.parametrize("name", list_models())
def test_padding_gives_the_input_size_and_changes_nothing_where_it_is_not_needed(name):
    padded, plain = narrow(name, indivisible="pad"), narrow(name)
    assert padded(torch.rand(1, 3, 35, 21)).shape == (1, 1, 35, 21)
    images = torch.rand(1, 3, 32, 32)
    assert torch.equal(padded(images), plain(images))


def test_wrong_channels_are_refused():
    with pytest.raises(ValueError, match=r"\(batch, 3, height, width\), received \(1, 1, 32, 32\)"):
        narrow("unet")(torch.rand(1, 1, 32, 32))


def test_overrides_change_the_config():
    model = create_model("multiresunet", width=8, in_channels=1, classes=4)
    assert model(torch.rand(1, 1, 16, 16)).shape == (1, 4, 16, 16)
    deep = create_model("unet", encoder=((4, 4),) * 5, bottleneck=(8, 4), decoder=((4, 4),) * 5)
    assert deep.config.levels == 6
    assert deep.multiple == 32


def test_bad_requests_say_what_is_known():
    with pytest.raises(ValueError, match=r"'unett'; did you mean 'unet'\?.*half_unet"):
        create_model("unett")
    with pytest.raises(ValueError, match=r"no setting 'depth'; it has width, encoder"):
        create_model("unet", depth=3)
    with pytest.raises(ValueError, match=r"received 1 and 4"):
        create_model("unet", encoder=((8, 8),))
    with pytest.raises(ValueError, match=r"1 encoder stages, 1 decoder stages and 2 ResPaths"):
        create_model("quarter_multiresunet", respath=(1, 1))
    with pytest.raises(ValueError, match="at least 4 channels"):
        create_model("quarter_multiresunet", bottleneck=2)


def test_configs_are_frozen_and_shared_by_no_model():
    config = get_config("unet")
    with pytest.raises(FrozenInstanceError):
        config.classes = 2
    assert create_model("unet", width=8, classes=2).config.classes == 2
    assert get_config("unet") == config


@pytest.mark.parametrize("channels", [4, 5, 32, 51, 64, 832])
def test_branches_add_up(channels):
    widths = branch_widths(channels)
    assert sum(widths) == channels
    assert min(widths) >= 1


@pytest.mark.parametrize(
    ("full", "reduced", "kind"),
    [("unet", "half_unet", UNet), ("multiresunet", "half_multiresunet", MultiResUNet)],
)
def test_reduced_networks_share_the_names_of_the_full_ones(full, reduced, kind):
    names = {key for key, _ in narrow(full).named_modules()}
    shared = {key for key, _ in narrow(reduced).named_modules() if not key.startswith("skips")}
    assert isinstance(narrow(full), kind)
    assert shared <= names
