"""The networks that this environment holds, against the truth of the matrix; a few at once."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch

from matrix.compare import disagreements
from matrix.exercise import graph_failures, variant_failures
from matrix.networks import NETWORKS, TRUTHS, Network
from weightscope.copies import deep_copy
from weightscope.cost import count_costs
from weightscope.graph import Structure, read_structure, rebuild
from weightscope.statistics import measure_model
from weightscope.truncation import Proposal, propose
from weightscope.utilization import assess

QUICK = (
    "monai UNet 3-D anisotropic",
    # not "diffusers UNet2DModel": five minutes at the size that is guessed for it
    # not "transformers Segformer": it failed once in a run of the whole suite, never alone
    "by hand: ENet",
    "by hand: Demucs, padded by a formula",
)
NAMES = [
    pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow])
    for name, network in NETWORKS.items()
    if network.installed and not TRUTHS[name].refusal
]


def read(network: Network) -> Structure:
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the libraries' own, while they build
        model = network.build()
    return read_structure(model, network.inputs()[0] if network.given else None)


def proposals(structure: Structure) -> list[Proposal]:
    costs = count_costs(structure.model, structure.inputs)
    found = propose(structure, assess(structure, measure_model(structure.model)), costs)
    can_be_cut = {cut.keep_levels for cut in structure.cuts}
    return [proposal for proposal in found if proposal.keep_levels in can_be_cut]


# said by torch of the network that computes its encoder again in the backward
@pytest.mark.sample(2)
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad=True")
@pytest.mark.parametrize("name", NAMES)
def test_network_is_read_rightly_and_every_legal_depth_runs(name: str) -> None:
    network = NETWORKS[name]
    structure = read(network)
    assert disagreements(structure, TRUTHS[name]) == ()
    for proposal in proposals(structure):
        variant = proposal.build("pool" if proposal.refusal else "light")
        assert variant_failures(variant, network, thorough=False) == ()
    assert graph_failures(deep_copy(structure.model), rebuild(structure), network) == ()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # inside torch's own exporter
@pytest.mark.parametrize(
    "name",
    ["monai BasicUNet 3-D", "monai DynUNet 2-D", "diffusers UNet2DModel", "zoo multiresunet"],
)
def test_a_variant_goes_to_onnx_and_gives_the_same_output(name: str, tmp_path: Path) -> None:
    import onnxruntime

    structure = read(NETWORKS[name])
    legal = [proposal for proposal in proposals(structure) if proposal.refusal is None]
    module = legal[0].build().module.eval()
    args, kwargs = structure.inputs.args, dict(structure.inputs.kwargs)
    path = tmp_path / "variant.onnx"
    torch.onnx.export(module, args, path, kwargs=kwargs or None, dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(path)
    leaves = torch.utils._pytree.tree_leaves
    tensors = [x for x in leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
    names = [entry.name for entry in session.get_inputs()]
    found = session.run(None, {n: x.numpy() for n, x in zip(names, tensors, strict=True)})
    wanted = [x for x in leaves(module(*args, **kwargs)) if isinstance(x, torch.Tensor)]
    for ours, theirs in zip(wanted, found, strict=True):
        torch.testing.assert_close(ours.detach(), torch.from_numpy(theirs), rtol=1e-3, atol=1e-4)


def test_the_matrix_and_its_truth_name_the_same_networks() -> None:
    assert list(TRUTHS) != []
    assert set(TRUTHS) == set(NETWORKS)
