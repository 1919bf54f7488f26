"""Running a network without its cuts, against replacing the same tensors in the whole graph."""

import copy
import io
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import mpseg_models
from weightscope.calls import undisturbed
from weightscope.graph import read_structure
from weightscope.graph.rebuild import rebuild
from weightscope.graph.running import CutRuns, GraphRun, MeanActivation, needed_for


class InPlace(nn.Module):
    """A decoder that writes into the skip tensor and into what comes back from below."""

    def __init__(self):
        super().__init__()
        self.top, self.middle, self.deep = (
            nn.Conv2d(3, 4, 3, padding=1),
            *(nn.Conv2d(4, 4, 3, padding=1) for _ in range(2)),
        )
        self.act, self.head = nn.ELU(inplace=True), nn.Conv2d(4, 1, 1)

    def forward(self, x):
        a = self.top(x)
        b = self.middle(F.max_pool2d(a, 2))
        b += F.interpolate(self.deep(F.max_pool2d(b, 2)), scale_factor=2.0)
        a.add_(F.interpolate(self.act(b), scale_factor=2.0)).mul_(2.0)
        return {"logits": self.head(self.act(a)), "size": a.shape[-1]}["logits"]


MODELS = {
    "in place": InPlace,
    "unet": lambda: mpseg_models.create_model("unet", width=4),
    "multiresunet": lambda: mpseg_models.create_model("half_multiresunet", width=4),
}


@pytest.mark.parametrize("name", MODELS)
def test_without_a_cut_equals_replacing_its_exits_in_the_whole(name):
    torch.manual_seed(0)
    model, images = MODELS[name](), torch.rand(2, 3, 64, 64)
    structure = read_structure(model, images)
    assert len(structure.cuts) > 1
    runs = CutRuns(structure)
    with undisturbed(model), torch.no_grad():
        whole, values = runs.whole(images)
        assert torch.equal(whole, model(images))
        for cut in structure.cuts:
            fed = []

            def fill(site, value, fed=fed):
                fed.append(site.node)
                return torch.full_like(value, 0.3)

            change = {s.node: lambda value: torch.full_like(value, 0.3) for s in cut.exits}
            expected = GraphRun(structure, change).predict(images)
            assert torch.equal(runs.without(cut, values, fill), expected)
            assert not torch.equal(whole, expected)
            assert fed == [s.node for s in cut.exits]
            same = runs.without(cut, values, lambda site, value: value.clone())
            assert torch.equal(same, whole)


def test_without_a_cut_the_encoder_is_not_run_again():
    model, images = mpseg_models.create_model("unet", width=4), torch.rand(2, 3, 64, 64)
    structure = read_structure(model, images)
    convolutions = {n: m for n, m in model.named_modules() if isinstance(m, nn.Conv2d)}
    called = []
    for name, module in convolutions.items():
        module.register_forward_hook(lambda *_, name=name: called.append(name))
    runs = CutRuns(structure)
    with undisturbed(model), torch.no_grad():
        _, values = runs.whole(images)
        assert sorted(called) == sorted(convolutions)
        called.clear()
        runs.without(structure.cuts[0], values, lambda site, value: value)
    above = [n for n in convolutions if structure.stage_of[n].name in ("decoder 0", "head")]
    assert sorted(called) == sorted(above)


def test_means_need_no_decoder():
    model, images = mpseg_models.create_model("unet", width=4), torch.rand(2, 3, 64, 64)
    structure = read_structure(model, images)
    site = structure.cuts[-1].exits[0]
    mean, seen = MeanActivation(site.channel_axes), []
    needed = needed_for(structure.graph, [site.node])
    model.head.register_forward_hook(lambda *_: seen.append(1))
    with undisturbed(model), torch.no_grad():
        run = GraphRun(structure, {site.node: mean.add}, needed)
        assert run.predict(images) is None
    assert mean.count == images[:, 0].numel() / 4 ** len(structure.cuts)
    assert not seen


def test_a_rebuilt_network_is_copied_with_what_points_back_to_it_and_says_how_to_keep_it():
    module = rebuild(read_structure(MODELS["unet"](), torch.rand(1, 3, 64, 64)))
    module.owner = [module]
    twin, shallow = copy.deepcopy(module), copy.copy(module)
    assert twin.owner[0] is twin
    images = torch.rand(1, 3, 64, 64)
    assert torch.equal(twin(images), module(images))
    assert next(shallow.parameters()) is next(module.parameters())
    assert next(twin.parameters()) is not next(module.parameters())
    with pytest.raises(pickle.PicklingError, match=r"weightscope\.save"):
        torch.save(nn.Sequential(module), io.BytesIO())


def test_a_rebuilt_network_runs_under_vmap():
    model = MODELS["unet"]().eval()
    module = rebuild(read_structure(model, torch.rand(2, 3, 64, 64)))
    images = torch.rand(3, 1, 3, 32, 32)
    found = torch.vmap(module)(images)
    torch.testing.assert_close(found, torch.vmap(model)(images))
    torch.testing.assert_close(found[:, 0], model(images[:, 0]))
