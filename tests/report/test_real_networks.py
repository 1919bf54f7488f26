"""What the rooms hand over today, through frames, text and page: totals must add up."""

import pytest
import torch
from torch import nn

import weightscope as ws
from mpseg_models import create_model


class Tied(nn.Module):
    """Two levels; both convolutions below use one weight, and one parameter is never used."""

    def __init__(self):
        super().__init__()
        self.top = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.first = nn.Conv2d(4, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 4, 3, padding=1)
        self.second.weight = self.first.weight
        self.up = nn.ConvTranspose2d(4, 4, 2, stride=2)
        self.scale = nn.Parameter(torch.ones(4, 1, 1))
        self.idle = nn.Linear(3, 3)
        self.head = nn.Conv2d(8, 1, 1)

    def forward(self, x):
        top = self.norm(self.top(x)).relu()
        deep = self.second(self.first(nn.functional.max_pool2d(top, 2)).relu())
        return self.head(torch.cat([top * self.scale, self.up(deep)], 1))


@pytest.fixture(scope="module", params=["half_unet", "quarter_multiresunet", "tied"])
def real(request):
    torch.manual_seed(0)
    if request.param == "tied":
        return ws.analyze(Tied(), example_inputs=torch.rand(2, 1, 32, 32))
    return ws.analyze(create_model(request.param, width=6))


def test_parameters_add_up_everywhere(real):
    total = sum(p.numel() for p in real.structure.model.parameters())
    outside = total - real.stages["parameters"].sum()
    assert real.parameters["parameters"].sum() == real.layers["parameters"].sum() == total
    assert real.costs.parameters == total
    dead = {name.rpartition(".")[0] for name in real.structure.dead_parameters}
    assert outside == real.layers.loc[real.layers["layer"].isin(dead), "parameters"].sum()


def test_macs_add_up_everywhere(real):
    assert real.layers["macs"].sum() == real.stages["macs"].sum() == real.costs.macs > 0


def test_histograms_hold_every_weight_of_every_layer(real):
    counts = real.histograms.groupby("layer")["count"].sum()
    largest = real.parameters.groupby("layer")["parameters"].max()
    assert (counts == largest[counts.index]).all()
    assert set(counts.index) == set(real.layers["layer"])


def test_every_layer_with_a_stage_is_in_that_stage(real):
    for row in real.layers.itertuples():
        if row.stage:
            assert row.layer in real.structure.stage_of
        else:
            assert "no forward reaches it" in row.warning


def test_the_text_fits_and_the_page_names_every_layer(real, tmp_path):
    assert max(map(len, str(real).splitlines())) <= 100
    page = real.to_html(tmp_path / "report.html").read_text()
    for layer in real.layers["layer"]:
        assert f">{layer}</th>" in page
