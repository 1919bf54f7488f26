import pytest

from mpseg_models import get_config, list_models
from studies.sand.costs import PAPER, config_flops, network_cost, search_multiresunet

FLOPS = {  # worked out by hand in the paper's convention
    "unet": 329_656_303_616,
    "half_unet": 204_007_014_400,
    "quarter_multiresunet": 21_939_486_720,
}


@pytest.fixture(scope="module")
def costs():
    return {name: network_cost(name) for name in list_models()}


def test_table_4_side_by_side(costs):
    for name, cost in costs.items():
        paper = PAPER[name]
        print(
            f"{name:22} {cost.parameters / 1e6:8.4f} M ({paper.parameters} M)  "
            f"{cost.paper_flops / 1e9:6.1f} B FLOPs ({paper.flops} B)"
        )
        tolerance = {"half_multiresunet": 0.021, "multiresunet": 0.013}.get(name)
        if tolerance is None:
            assert cost.paper_flops == FLOPS[name]
            assert round(cost.paper_flops / 1e9, 1) == paper.flops
        else:
            assert cost.paper_flops / 1e9 == pytest.approx(paper.flops, rel=tolerance)
            assert cost.parameters / 1e6 == pytest.approx(paper.parameters, rel=tolerance)


def test_fvcore_agrees(costs):
    for cost in costs.values():
        assert cost.fvcore_macs == cost.macs


@pytest.mark.parametrize("name", ["multiresunet", "half_multiresunet", "quarter_multiresunet"])
def test_closed_arithmetic_agrees_with_running_the_network(costs, name):
    assert config_flops(get_config(name)) == costs[name].paper_flops


def test_closed_arithmetic_refuses_the_other_family():
    with pytest.raises(TypeError, match="expected a MultiResUNetConfig, received UNetConfig"):
        config_flops(get_config("unet"))


def test_search_finds_the_widths_of_the_zoo():
    best = search_multiresunet(range(48, 57))[0]
    config = get_config("multiresunet")
    assert (best.width, best.repeats) == (config.width, config.respath)
    assert best.error < 0.013
