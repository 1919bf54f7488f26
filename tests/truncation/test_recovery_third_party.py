"""Networks of third parties that can be cut also recover, get thinner, are saved and loaded."""

import inspect
import warnings

import pytest
import torch

from matrix.networks import NETWORKS
from weightscope.adapters import pytree
from weightscope.cost import count_costs
from weightscope.graph import read_structure
from weightscope.statistics import measure_model
from weightscope.truncation import load, propose, save
from weightscope.utilization import assess

NAMES = (
    "smp Unet resnet18",
    "smp Unet mobilenet_v2",
    "smp FPN resnet18",
    "smp Linknet resnet18",
    "smp DeepLabV3Plus resnet18",
    "smp Segformer mit_b0",
    "monai UNet 2-D",
    "monai BasicUNet 3-D",
    "monai AttentionUnet 2-D",
    "monai SegResNet 2-D",
    "monai DynUNet 2-D",
    "monai UNETR 2-D",
    "monai SwinUNETR 2-D",
    "nnU-Net PlainConvUNet 2-D",
    "nnU-Net ResidualEncoderUNet 2-D",
    "transformers Segformer",
    "diffusers UNet2DModel",
    "diffusers UNet2DConditionModel",
)
LISTED = [name for name in NAMES if name in NETWORKS and NETWORKS[name].installed]


def read(network):
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the libraries' own, while they build
        return network.build().eval()


def inputs(network, model, count):
    """A batch as keyword arguments, so that what is given beside the images is given too."""
    args, kwargs = network.inputs(count)
    return dict(inspect.signature(model.forward).bind(*args, **kwargs).arguments)


def outputs(module, batch):
    with torch.no_grad():
        return [x for x in pytree.tree_leaves(module(**batch)) if isinstance(x, torch.Tensor)]


@pytest.mark.slow
@pytest.mark.parametrize("name", LISTED)
def test_what_can_be_cut_recovers_is_thinned_saved_and_loaded(name, tmp_path):
    network = NETWORKS[name]
    model = read(network)
    batch = inputs(network, model, 6)
    structure = read_structure(model, inputs(network, model, 2))
    costs = count_costs(model, structure.inputs)
    proposals = propose(structure, assess(structure, measure_model(model)), costs)
    smallest = min((p for p in proposals if p.refusal is None), key=lambda p: p.keep_levels)
    torch.manual_seed(1)
    cut = smallest.build()
    for variant in (cut, cut.thin(0.75)):
        course = variant.recover([batch], steps=2, progress=False)
        assert course.steps == 2
        assert course.after.explained >= course.before.explained - 1e-6
        loaded = load(
            save(variant, tmp_path / "small.safetensors"), lambda: read(network)
        ).module.eval()
        pairs = zip(outputs(loaded, batch), outputs(variant.module.eval(), batch), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
