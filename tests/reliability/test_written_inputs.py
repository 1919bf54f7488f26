"""A forward that writes into its inputs: figures are those of a fresh input, images stay."""

import pytest
import torch

from tests.networks import UNet
from weightscope.cost import measure_latency, measure_peak_memory
from weightscope.graph import answers, read_structure
from weightscope.probing.response import respond_to_images, respond_to_synthetic
from weightscope.receptive_field import effective_receptive_field
from weightscope.truncation import verify
from weightscope.truncation.building import build
from weightscope.truncation.plan import make_plan
from weightscope.utilization.data import gather_data


class Shifting(UNet):
    """Makes new images of its own."""

    def __init__(self):
        super().__init__((2, 3), in_channels=1)
        self.out = torch.nn.Conv2d(2, 1, 1)

    def forward(self, x):
        return super().forward(x - 0.5)


class Writing(Shifting):
    """Changes the images that it is given."""

    def forward(self, x):
        x -= 0.5
        return UNet.forward(self, x)


@pytest.fixture(scope="module")
def images():
    return torch.rand(12, 1, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def networks(images):
    torch.manual_seed(0)
    made = Shifting().train()
    made(images)
    twin = Writing()
    twin.load_state_dict(made.state_dict())
    return made.eval(), twin.eval()


@pytest.fixture(scope="module")
def structures(networks, images):
    return [read_structure(model, images[:2].clone()) for model in networks]


def _everything(structure, images):
    """What is said of a network whose images must stay as they are."""
    given = images.clone()
    labelled = [(given, (images > 0.5).float())]
    loss = torch.nn.BCEWithLogitsLoss()
    data = gather_data(structure, labelled, loss, "f1")
    assert torch.equal(given, images)
    own = respond_to_images(structure, [given])
    assert torch.equal(given, images)
    (cut,) = structure.cuts
    variant = build(structure, make_plan(structure, cut, width=2))
    course = variant.recover(given, steps=2, batches=labelled, loss=loss, progress=False)
    assert torch.equal(given, images)
    return data, own, respond_to_synthetic(structure), course, variant.module(given).tolist()


@pytest.mark.slow
def test_the_figures_are_those_of_fresh_inputs(structures, images):
    shifting, writing = (_everything(structure, images) for structure in structures)
    assert writing == shifting
    assert not writing[2].failure


def test_measuring_and_judging_leave_the_images(networks, images):
    given, model = images.clone(), networks[1]
    measure_latency([model], given)
    measure_peak_memory(model, given)
    effective_receptive_field(model, given)
    assert torch.equal(given, images)


def test_verification_leaves_the_example_and_compares_with_the_original(structures, monkeypatch):
    (cut,) = structures[1].cuts
    variant = build(structures[1], make_plan(structures[1], cut, width=2))
    (example,) = structures[1].inputs.args
    before = example.clone()
    assert verify(variant, export=False).passed
    assert torch.equal(example, before)
    # a graph that gives something else is seen, although the forward writes into its input
    monkeypatch.setattr(answers, "in_order", lambda *_: [before + 1])
    assert "differs from what the original returns" in answers.differs(variant.structure)
