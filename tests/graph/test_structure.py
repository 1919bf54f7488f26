"""Levels, stages, cuts and the rebuilt network, on toys whose answers are known by hand."""

from __future__ import annotations

import copy
import threading
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree

from tests.networks import (
    TOYS,
    DeepSupervision,
    FrozenInside,
    Functional,
    ResPaths,
    SharedWeights,
    Timed,
    Toy,
    TwoNets,
    UNet,
)
from weightscope.errors import ForwardError, InputError, StructureError, UnknownLayerError
from weightscope.graph import Structure, read_structure, rebuild


@pytest.fixture(scope="module", params=TOYS, ids=lambda name: name.replace(" ", "-"))
def read(request: pytest.FixtureRequest) -> tuple[Toy, nn.Module, Structure]:
    toy = TOYS[request.param]
    model = toy.build()
    return toy, model, read_structure(model)


def test_levels(read: tuple[Toy, nn.Module, Structure]) -> None:
    toy, _, structure = read
    assert structure.reductions == toy.reductions
    assert structure.depth == len(toy.reductions)


def test_stages(read: tuple[Toy, nn.Module, Structure]) -> None:
    toy, _, structure = read
    got = {layer: stage.name for layer, stage in structure.stage_of.items()}
    assert got == {layer: toy.stage(layer) for layer in got}
    assert {stage.name for stage in structure.stages} == set(toy.places.values())


def test_every_parameter_is_placed_or_dead(read: tuple[Toy, nn.Module, Structure]) -> None:
    toy, model, structure = read
    assert structure.dead_parameters == toy.dead
    owners = {n.rpartition(".")[0] for n, _ in model.named_parameters() if n not in toy.dead}
    assert owners == set(structure.stage_of)


def test_cuts(read: tuple[Toy, nn.Module, Structure]) -> None:
    toy, _, structure = read
    assert tuple(cut.keep_levels for cut in structure.cuts) == toy.legal
    assert not structure.refusals
    for cut in structure.cuts:
        assert {site.level for site in cut.entries} == {cut.keep_levels - 1}
        assert all(structure.places[name].level >= cut.keep_levels for name in cut.removed)
        assert all(site.layout == "channels_first" for site in (*cut.entries, *cut.exits))


def other_calls(structure: Structure) -> list[dict[str, Any]]:
    """Arguments of another batch and size."""
    generator = torch.Generator().manual_seed(3)

    def resized(value: torch.Tensor, batch: int, size: int) -> torch.Tensor:
        if value.dim() < 3:
            return torch.ones(batch, *value.shape[1:], dtype=value.dtype)
        shape = (batch, value.shape[1], *[size] * (value.dim() - 2))
        return torch.randn(shape, generator=generator)

    names = [node.name for node in structure.graph.nodes if node.op == "placeholder"]
    values = dict(zip(names, structure.inputs.args, strict=False)) | dict(structure.inputs.kwargs)
    return [
        {name: resized(value, batch, size) for name, value in values.items()}
        for batch, size in ((1, 16), (3, 24))
    ]


@pytest.mark.parametrize("training", [False, True])
def test_rebuilt_network_is_bit_equal(
    read: tuple[Toy, nn.Module, Structure], training: bool
) -> None:
    _, model, structure = read
    model = copy.deepcopy(model).train(training)
    graph = rebuild(structure, model)
    assert graph.training is training
    for call in other_calls(structure):
        torch.manual_seed(5)
        expected = model(**call)
        torch.manual_seed(5)
        got = graph(**call)
        assert pytree.tree_structure(got) == pytree.tree_structure(expected)
        for a, b in zip(pytree.tree_leaves(got), pytree.tree_leaves(expected), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_padding_follows_sizes_that_do_not_divide() -> None:
    model = UNet(pad=True).eval()
    graph = rebuild(read_structure(model))
    x = torch.randn(1, 3, 30, 37)
    torch.testing.assert_close(graph(x), model(x), rtol=0, atol=0)


def test_rebuilt_network_keeps_names_and_aliases() -> None:
    model = SharedWeights()
    graph = rebuild(read_structure(model))
    assert list(graph.state_dict()) == list(model.state_dict())
    assert graph.alias is graph.shared is model.shared
    assert copy.deepcopy(graph).alias is not model.alias


def test_reading_leaves_no_trace() -> None:
    model = UNet()
    model.encoder[0].eval()
    model.out.weight.grad = torch.ones_like(model.out.weight)
    modes = [module.training for module in model.modules()]
    state = copy.deepcopy(model.state_dict())
    contents = {name: set(vars(module)) for name, module in model.named_modules()}
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    read_structure(model)
    assert torch.equal(torch.rand(3), expected)
    assert [module.training for module in model.modules()] == modes
    assert all(
        torch.equal(a, b) for a, b in zip(state.values(), model.state_dict().values(), strict=True)
    )
    assert {name: set(vars(module)) for name, module in model.named_modules()} == contents
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert all(type(p) is nn.Parameter for p in model.parameters())
    assert model.out.weight.grad.sum() == model.out.weight.numel()


def test_reading_from_threads() -> None:
    models = [UNet((4, 6)), ResPaths()]
    found: dict[int, Structure] = {}

    def work(index: int) -> None:
        found[index] = read_structure(models[index])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(models))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[i].depth for i in range(2)] == [2, 3]


def test_guessed_inputs_hold_one_image() -> None:
    structure = read_structure(Timed())
    sample, timestep = structure.inputs.args
    assert not structure.inputs.kwargs
    assert structure.inputs.guessed
    assert sample.shape == (1, 3, 256, 256)
    assert timestep.shape == (1,)


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    "example",
    [
        torch.zeros(1, 3, 32, 32),
        (torch.zeros(1, 3, 32, 32),),
        {"x": torch.zeros(1, 3, 32, 32)},
    ],
    ids=["tensor", "tuple", "dict"],
)
def test_given_inputs(example: Any) -> None:
    model = UNet((4, 6)).eval()
    structure = read_structure(model, example)
    assert not structure.inputs.guessed
    x = torch.randn(3, 3, 16, 16)
    torch.testing.assert_close(rebuild(structure)(x), model(x), rtol=0, atol=0)


class NeedsMore(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, image: torch.Tensor, prompt: str) -> torch.Tensor:
        return self.conv(image) * len(prompt.split())


class Fails(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("the dog ate it")


class Classifier(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 4, 3, stride=2, padding=1),
            nn.Conv2d(4, 8, 3, stride=2, padding=1),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(8, 10),
        )


class OnlyResized(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(3, 4, 3, stride=4, padding=1)
        self.predict = nn.Conv2d(4, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.interpolate(self.predict(self.down(x)), x.shape[2:])


class DependsOnValues(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.unet = UNet((4, 6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.unet(x) if x.sum() > 0 else x


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    ("model", "error", "words"),
    [
        ("unet", InputError, "received the path 'unet'"),
        (UNet, InputError, "the class UNet"),
        (nn.ReLU(), InputError, "ReLU has no parameters"),
        (UNet().to("meta"), InputError, "meta device"),
        (nn.Sequential(nn.LazyConv2d(4, 3)), InputError, "lazy module"),
        (Fails(), ForwardError, "the dog ate it.*example_inputs="),
        (NeedsMore(), ForwardError, "'prompt'.*example_inputs="),
        (Classifier(), StructureError, "only goes down"),
        (OnlyResized(), StructureError, "the deepest level makes is only resized"),
        (nn.Sequential(nn.Conv2d(3, 4, 3, padding=1)), StructureError, "one level"),
        (DependsOnValues(), StructureError, r"x.sum\(\) > 0.*is_compiling"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else None,
)
def test_what_cannot_be_read(model: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=rf"(?s){words}"):
        read_structure(model)


@pytest.mark.parametrize(
    ("example", "error", "words"),
    [
        (torch.zeros(1, 4, 32, 32), ForwardError, r"1x4x32x32.*4 channels"),
        ("x", InputError, "not str"),
        ((torch.zeros(3),), InputError, "no image"),
    ],
)
def test_inputs_that_cannot_be_used(example: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=rf"(?s){words}"):
        read_structure(UNet((4, 6)), example)


def test_stages_said_by_the_user() -> None:
    model = ResPaths()
    structure = read_structure(model, stages={"encoder 0": "path0", "head": ["up0", "out"]})
    got = {layer: stage.name for layer, stage in structure.stage_of.items()}
    assert got["path0.0"] == "encoder 0"
    assert got["path1.0"] == "skip 1"
    assert {got[layer] for layer in got if layer.startswith("up0")} == {"head"}
    moved = read_structure(model, stages={"bottleneck": ["middle", "path1", "up1"]})
    assert {s.name for s in moved.stages} == {
        "encoder 0",
        "bottleneck",
        "skip 0",
        "decoder 0",
        "head",
    }


def test_stages_reach_weights_that_no_module_call_reads() -> None:
    structure = read_structure(Functional(), stages={"skip 1": "kernel", "encoder 0": "norm"})
    got = {layer: stage.name for layer, stage in structure.stage_of.items()}
    assert got == {"stem": "encoder 0", "": "skip 1", "norm": "encoder 0", "out": "head"}


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    ("stages", "error", "words"),
    [
        ({"skip 0": "path9"}, UnknownLayerError, "did you mean 'path"),
        ({"skip 7": "path0"}, UnknownLayerError, "levels 0 to 2"),
        ({"neck": "path0"}, InputError, "expected 'encoder N'"),
        ({"skip 0": "path0", "skip 1": "path0"}, InputError, "two stages"),
    ],
)
def test_stages_that_cannot_be_used(
    stages: dict[str, str], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        read_structure(ResPaths(), stages=stages)


def test_modes_that_differ_are_told() -> None:
    model = DeepSupervision().eval()
    structure = read_structure(model)
    assert not structure.modes_agree
    assert [cut.keep_levels for cut in structure.cuts] == [1]
    assert any("train mode" in note for note in structure.notes)
    x = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(rebuild(structure)(x), model(x), rtol=0, atol=0)


def test_heads_of_deep_supervision_are_not_dead() -> None:
    assert read_structure(DeepSupervision()).dead_parameters == ()


def test_two_networks_in_a_row_keep_their_levels() -> None:
    structure = read_structure(TwoNets())
    got = {layer: stage.name for layer, stage in structure.stage_of.items()}
    assert structure.reductions == ((1.0, 1.0), (2.0, 2.0))
    assert got["first.encoder.1.0"] == got["second.encoder.1.0"] == "bottleneck"
    assert got["first.encoder.0.0"] == "encoder 0"
    assert got["second.encoder.0.0"] == "decoder 0"


def test_functions_follow_the_mode_of_their_module() -> None:
    model = Functional()
    structure = read_structure(model)
    got = {layer: stage.name for layer, stage in structure.stage_of.items()}
    assert got == {"stem": "encoder 0", "": "bottleneck", "norm": "decoder 0", "out": "head"}
    graph = rebuild(structure, copy.deepcopy(model))
    x = torch.randn(2, 3, 16, 16)
    for training in (True, False):
        model.train(training)
        graph.train(training)
        torch.manual_seed(0)
        expected = model(x)
        torch.manual_seed(0)
        torch.testing.assert_close(graph(x), expected, rtol=0, atol=0)


def test_regions_without_autograd_are_read_and_kept() -> None:
    model = FrozenInside()
    structure = read_structure(model)
    got = {stage.name for stage in structure.stages}
    assert got == {"encoder 0", "bottleneck", "decoder 0", "head"}
    graph = rebuild(structure, copy.deepcopy(model))
    graph(torch.randn(2, 3, 16, 16)).sum().backward()
    assert graph.out.weight.grad is not None
    assert all(p.grad is None for p in graph.unet.parameters())
