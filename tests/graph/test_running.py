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
from weightscope.graph.base import last_of_weights
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


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    "name", ["in place", "unet", pytest.param("multiresunet", marks=pytest.mark.slow)]
)
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


class Restores(nn.Module):
    """Answers with what it makes of the image and of what its two levels do."""

    def __init__(self, answer, channels=1, made=1, head=None):
        super().__init__()
        self.answer = answer
        self.top, self.deep = nn.Conv2d(channels, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.head = head or nn.Conv2d(8, made, 1)

    def forward(self, x):
        a = self.top(x)
        b = F.interpolate(self.deep(F.max_pool2d(a, 2)), size=a.shape[-2:])
        return self.answer(x, lambda: self.head(torch.cat([a, b], 1)))


def image_of_measurements(x):
    return torch.fft.ifft2(torch.complex(x[:, 0], x[:, 1])).abs()[:, None]


def standardised(x, made):
    mean, spread = x.mean((1, 2, 3), keepdim=True), x.std((1, 2, 3), keepdim=True)
    return made() * spread + mean


class Scaled(Restores):
    """Adds to what a layer or a few weights make of the image."""

    def __init__(self, kind, channels=1):
        super().__init__(lambda x, made: self.joined(x, made()), channels)
        self.kind = kind
        ones = torch.full((1, channels, 1, 1), 1.0 / channels)
        if kind in ("gain", "affine", "softmax", "frozen weight"):
            start = torch.zeros_like(ones) if kind == "softmax" else ones
            self.weight = nn.Parameter(start, requires_grad=kind != "frozen weight")
            self.offset = nn.Parameter(torch.zeros(1))
            return
        self.mean = nn.Conv2d(channels, 1, 1, bias=False)
        self.again = nn.Conv2d(1, 1, 1, bias=False)
        with torch.no_grad():
            self.mean.weight.copy_(ones)
            self.again.weight.fill_(1.0)
        for layer in (self.mean, self.again):
            layer.requires_grad_(kind not in ("frozen", "two"))

    def joined(self, x, made):
        if self.kind == "gain":
            return x * self.weight + made
        if self.kind == "affine":
            mean = x.mean((2, 3), keepdim=True)
            scaled = (x - mean) * self.weight + self.offset
            return (scaled + made - self.offset) / (self.weight + 1e-8) + mean
        if self.kind == "softmax":
            return (x * self.weight.softmax(1)).sum(1, keepdim=True) + made
        if self.kind == "frozen weight":
            return F.conv2d(x, self.weight) + made
        mean = self.mean(x)
        return (self.again(mean) if self.kind in ("two", "network") else mean) + made


ADDS_TO = {
    "the image": (Restores(lambda x, made: x + made()), lambda x: x),
    "its crop": (Restores(lambda x, made: (x + made())[..., 2:-2, 2:-2]),
                 lambda x: x[..., 2:-2, 2:-2]),
    "the mean of frames": (Restores(lambda x, made: x.mean(1, keepdim=True) + made(), 4),
                           lambda x: x.mean(1, keepdim=True)),
    "measurements": (Restores(lambda x, made: image_of_measurements(x) - made(), 2),
                     image_of_measurements),
    "its mean": (Restores(standardised), lambda x: x.mean((1, 2, 3), keepdim=True).expand_as(x)),
    "a gate": (Restores(lambda x, made: x * made().sigmoid()), lambda x: 0.5 * x),
    "two parts": (Restores(lambda x, made: (lambda m: x * m[0].exp() + m[1])(made().chunk(2, 1)),
                           made=2), lambda x: x),
    "a weight norm": (Restores(lambda x, made: x + made(),
                               head=nn.utils.parametrizations.weight_norm(nn.Conv2d(8, 1, 1))),
                      lambda x: x),
    "a norm at the end": (Restores(lambda x, made: x + made(),
                                   head=nn.Sequential(nn.Conv2d(8, 1, 1), nn.BatchNorm2d(1))),
                          lambda x: x),
    "a gain": (Scaled("gain"), lambda x: x),
    "an affine norm": (Scaled("affine"), lambda x: x),
    "learned frames": (Scaled("softmax", 4), lambda x: x.mean(1, keepdim=True)),
    "a linear layer": (Scaled("linear", 4), lambda x: x.mean(1, keepdim=True)),
    "a frozen layer": (Scaled("frozen", 4), lambda x: x.mean(1, keepdim=True)),
    "a frozen weight": (Scaled("frozen weight", 4), lambda x: x.mean(1, keepdim=True)),
    "two frozen layers": (Scaled("two", 4), lambda x: x.mean(1, keepdim=True)),
    "a network": (Scaled("network", 4), None),
    "an inverse": (Restores(lambda x, made: x @ torch.linalg.inv(made())), None),
    "no image": (Restores(lambda x, made: made()), None),
    "its size": (Restores(lambda x, made: F.interpolate(made(), size=x.shape[-2:])), None),
    "a weight": (Restores(lambda x, made: made() + torch.zeros(1).add(1.0)), None),
}  # fmt: skip


@pytest.mark.sample(2)
@pytest.mark.parametrize("name", ADDS_TO)
def test_without_its_weights_a_network_answers_with_what_it_adds_to(name):
    model, wanted = ADDS_TO[name]
    images = torch.rand(2, model.top.in_channels, 16, 16)
    structure = read_structure(model.eval(), images)
    runs = CutRuns(structure)
    with undisturbed(model), torch.no_grad():
        whole, values = runs.whole(images)
        found = runs.without_weights(runs.tail(values))
        assert torch.equal(runs.whole(images)[0], whole)
    if wanted is None:
        assert found is None
        assert last_of_weights(structure)[1] == (name == "an inverse")
    else:
        assert torch.allclose(found, wanted(images), atol=1e-6)


WINDOW = torch.linspace(0.0, 1.0, 16).outer(torch.linspace(1.0, 0.0, 16))

MOVED = {
    "all alike": (lambda x, made: x + made(), lambda x: torch.ones_like(x)),
    "a window": (lambda x, made: WINDOW * made(), lambda x: WINDOW.expand_as(x)),
    "a mask": (lambda x, made: torch.where(x > 0.5, x, made()), lambda x: (x <= 0.5).float()),
    "a blend": (lambda x, made: made() * x + (1 - made()) * x.mT, lambda x: x - x.mT),
    "units": (lambda x, made: x.amax((2, 3), keepdim=True) * made(),
              lambda x: x.amax((2, 3), keepdim=True).expand_as(x)),
    "an inverse": (lambda x, made: x @ torch.linalg.inv(made()), None),
}  # fmt: skip


@pytest.mark.sample(1)
@pytest.mark.parametrize("name", MOVED)
def test_a_constant_in_place_of_the_levels_moves_what_the_network_returns(name):
    model, wanted = Restores(MOVED[name][0]).eval(), MOVED[name][1]
    images = torch.rand(2, 1, 16, 16)
    runs = CutRuns(read_structure(model, images))
    with undisturbed(model), torch.no_grad():
        whole, values = runs.whole(images)
        tail = runs.tail(values)
        ends = [tail(torch.full((tail.numbers,), x)) for x in (0.0, 1.0)] if tail else None
        assert torch.equal(runs.whole(images)[0], whole)
    if wanted is None:
        assert tail is None
    else:
        assert torch.allclose(ends[1] - ends[0], wanted(images), atol=1e-6)


class Cascade(nn.Module):
    """One network refines what another one makes."""

    def __init__(self):
        super().__init__()
        self.first = Restores(lambda x, made: x + made())
        self.second = Restores(lambda x, made: made(), 2)

    def forward(self, x):
        rough = self.first(x)
        return rough + self.second(torch.cat([x, rough], 1))


@pytest.mark.parametrize("part", ["first", "second"])
def test_a_part_adds_to_what_is_computed_before_it(part):
    model, images = Cascade().eval(), torch.rand(2, 1, 16, 16)
    runs = CutRuns(read_structure(model, images, part=part))
    with undisturbed(model), torch.no_grad():
        _, values = runs.whole(images)
        wanted = model.first(images) if part == "second" else images
        assert torch.allclose(runs.without_weights(runs.tail(values)), wanted, atol=1e-6)
