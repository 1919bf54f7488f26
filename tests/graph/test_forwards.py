"""Forwards that do more than feed tensors to layers: what they do is read, kept or refused."""

from __future__ import annotations

import math
import sys
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from networks import places
from torch import Tensor, fx, nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

from weightscope.adapters import numbers, pytree, tracing
from weightscope.adapters.numbers import free_numbers
from weightscope.cost import count_costs
from weightscope.errors import InputError, StructureError
from weightscope.graph import capture as captures
from weightscope.graph import read_structure, rebuild
from weightscope.truncation import verify
from weightscope.truncation.building import build
from weightscope.truncation.plan import find_cut, make_plan


class Small(nn.Module):
    """Two levels; what else its forward does, a test says."""

    def __init__(self, around: Callable[[Small, Tensor], Any] | None = None) -> None:
        super().__init__()
        self.around = around
        self.top = nn.Conv2d(3, 4, 3, padding=1)
        self.deep = nn.Conv2d(4, 8, 3, padding=1)
        self.up = nn.Conv2d(12, 4, 3, padding=1)
        self.out = nn.Conv2d(4, 2, 1)
        self.register_buffer("two", torch.tensor([2.0]))
        self.register_buffer("sizes", torch.tensor([[1, 1, 3, 3], [1, 1, 2, 2]]))

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        top = F.relu(self.top(x))
        return top, F.relu(self.deep(F.max_pool2d(top, 2)))

    def decode(self, top: Tensor, deep: Tensor, scale: float = 2.0) -> Tensor:
        deep = F.interpolate(deep, scale_factor=scale)
        return self.out(F.relu(self.up(torch.cat([deep, top], 1))))

    def forward(self, x: Tensor) -> Any:
        return self.decode(*self.encode(x)) if self.around is None else self.around(self, x)


PLACES = {"top": "encoder 0", "deep": "bottleneck", "up": "decoder 0", "out": "head"}
IMAGE = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def under_autocast(model: Small, x: Tensor) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        top, deep = model.encode(x)
    return model.decode(top.float(), deep.float())


def frozen_encoder(model: Small, x: Tensor) -> Tensor:
    with torch.no_grad():
        top, deep = model.encode(x)
    return model.decode(top, deep)


def checkpointed(model: Small, x: Tensor) -> Tensor:
    return model.decode(*checkpoint(model.encode, x, use_reentrant=True))


def reads_a_buffer(model: Small, x: Tensor) -> Tensor:
    return model.decode(*model.encode(x), scale=float(model.two[0]))


def reads_a_row(model: Small, x: Tensor) -> Tensor:
    first, second = (float(s) for s in model.sizes[1, 2:])
    total = int(model.sizes[1].sum() - 2)
    return model.decode(*model.encode(x), scale=first if first == second else total)


def reads_a_list(model: Small, x: Tensor) -> Tensor:
    return model.decode(*model.encode(x), scale=float(model.sizes.tolist()[1][-1]))


def samples(model: Small, x: Tensor) -> Tensor:
    top, deep = model.encode(x)
    spread = F.softplus(deep)
    deep = torch.distributions.Normal(deep, spread).rsample()
    gate = torch.distributions.Bernoulli(logits=top).mean
    mask = model.decode(top * gate, deep)
    return torch.distributions.Independent(
        torch.distributions.Normal(mask, torch.exp(mask.clamp(max=1))), 1
    ).rsample()


def halved(model: Small, x: Tensor) -> Tensor:
    half = F.interpolate(x, scale_factor=0.5)
    return F.interpolate(model.decode(*model.encode(half)), scale_factor=2.0)


def ceiled(model: Small, x: Tensor) -> Tensor:
    height, width = (max(4, math.ceil(size / 4) * 4) for size in x.shape[2:])
    padded = F.pad(x, (0, width - x.shape[3], 0, height - x.shape[2]))
    return model.decode(*model.encode(padded))[..., : x.shape[2], : x.shape[3]]


@pytest.mark.sample(2)
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad=True")
@pytest.mark.parametrize(
    "around",
    [
        under_autocast,
        frozen_encoder,
        checkpointed,
        reads_a_buffer,
        reads_a_row,
        reads_a_list,
        samples,
        halved,
        ceiled,
    ],
    ids=lambda f: f.__name__,
)
def test_what_a_forward_does_around_its_layers_is_read(around: Callable[..., Tensor]) -> None:
    model = Small(around).eval()
    structure = read_structure(model)
    deeper = {"top": "encoder 1", "up": "decoder 1"} if around is halved else {}
    assert places(structure) == PLACES | deeper
    assert len(structure.cuts) == 1
    graph = rebuild(structure)
    for size in (16, 20):
        x = torch.randn(3, 3, size, size)
        made = []
        for module in (model, graph):
            torch.manual_seed(0)
            made.append(module(x))
        torch.testing.assert_close(made[1], made[0], rtol=0, atol=0)
    reached = []
    for module in (model, graph):
        model.zero_grad()
        module(IMAGE.clone().requires_grad_()).sum().backward()
        reached.append({name for name, p in model.named_parameters() if p.grad is not None})
    assert reached[0] == reached[1]


def test_a_failing_run_leaves_its_regions() -> None:
    graph = rebuild(read_structure(Small(under_autocast)))
    with pytest.raises(RuntimeError):
        graph(torch.randn(2, 4, 16, 16))
    assert not torch.is_autocast_enabled("cpu")


def test_a_write_through_a_view_is_an_edge() -> None:
    def written(model: Small, x: Tensor) -> Tensor:
        top, deep = model.encode(x)
        canvas = torch.zeros_like(top)
        canvas[:, :, ::2, ::2] = deep[:, :4]
        canvas[:, :, 1::2, 1::2] = deep[:, 4:]
        return model.out(F.relu(model.up(torch.cat([canvas, canvas, top], 1))))

    model = Small(written).eval()
    structure = read_structure(model)
    assert places(structure) == PLACES
    assert structure.dead_parameters == ()
    torch.testing.assert_close(rebuild(structure)(IMAGE), model(IMAGE), rtol=0, atol=0)


def values(kind: str) -> Callable[[Small, Tensor], Tensor]:
    def around(model: Small, x: Tensor) -> Tensor:
        compiling = torch.compiler.is_compiling()
        if kind == "item":
            model.seen = x.mean().item()
        if kind == "if" and x.max() > 2:
            x = x / 255
        if kind == "handled":
            try:
                assert x.max() <= 1
            except AssertionError:
                x = x / 255
        if kind == "of several answers":
            assert x.max() <= 1 or not (x.min() < 0)
        if kind == "numpy":
            x.detach().numpy().mean()
        if kind == "guarded" and not compiling:
            assert torch.isfinite(x).all()
        return model.decode(*model.encode(x))

    return around


VALUES = ("item", "if", "handled", "of several answers", "numpy")


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    ("kind", "given"),
    [
        ("item", None),
        *((kind, IMAGE) for kind in VALUES),
        *(pytest.param(kind, None, marks=pytest.mark.slow) for kind in VALUES[1:]),
    ],
)
def test_reading_values_is_refused_with_the_line(kind: str, given: Tensor | None) -> None:
    with pytest.raises(StructureError, match=r"test_forwards\.py, line \d+.*is_compiling"):
        read_structure(Small(values(kind)), given)


def between(x: Tensor) -> None:
    assert x.min() >= 0 and torch.all(x <= 1), f"images of {x.min()} to {x.max()}"  # noqa: PT018


def no_nan(x: Tensor) -> None:
    assert not (torch.isnan(x).any() or bool(torch.isinf(x).any()))  # noqa: PT018


def raising(x: Tensor) -> None:
    if x.min() < 0 or x.max() <= 1:
        raise ValueError("images of 0 to 255 are wanted")


def warning(x: Tensor) -> None:
    if (x > 255).any():
        warnings.warn("bright", stacklevel=1)


def of_numbers(x: Tensor) -> None:
    assert x.min().item() >= 0 and x.max().item() <= 1, "images of 0 to 1 are wanted"  # noqa: PT018


def by_torch(x: Tensor) -> None:
    torch._assert(x.min() >= 0, "images of 0 to 1 are wanted")


@pytest.mark.sample(2)
@pytest.mark.parametrize("check", [between, no_nan, raising, warning, of_numbers, by_torch])
def test_what_only_checks_values_is_read(check: Callable[[Tensor], None]) -> None:
    def around(model: Small, x: Tensor) -> Tensor:
        check(x)
        return model.decode(*model.encode(x))

    model = Small(around).eval()
    structure = read_structure(model)
    assert places(structure) == PLACES
    (note,) = structure.notes
    assert note.startswith("the forward checks values (test_forwards.py, line ")
    x = structure.inputs.args[0]  # its values pass
    torch.testing.assert_close(rebuild(structure)(x), model(x), rtol=0, atol=0)


class Checked(nn.Module):
    """Lets nothing but images of 0 to 1 pass."""

    def forward(self, x: Tensor) -> Tensor:
        between(x)
        return x


def test_a_module_that_checks_values_holds_no_image_back() -> None:
    """Synthetic ones are of other values."""
    model = Small(lambda model, x: model.decode(*model.encode(model.checked(x)))).eval()
    model.checked = Checked()
    graph = rebuild(read_structure(model))
    assert graph(IMAGE - 1).isfinite().all()
    with pytest.raises(AssertionError):
        model(IMAGE - 1)


def test_the_remedy_for_reading_values_works() -> None:
    assert places(read_structure(Small(values("guarded")))) == PLACES


def test_distributions_check_their_arguments_again_after_a_reading(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # torch.compile turns the checks off for the whole process, and another test may have used it
    monkeypatch.setattr(torch.distributions.Distribution, "_validate_args", True)

    def unchecked() -> bool:
        try:
            torch.distributions.Normal(torch.zeros(1), -torch.ones(1))
        except ValueError:
            return False
        return True

    found = SimpleNamespace(unchecked=list[bool]())  # a plain list would be copied along

    def watched(model: Small, x: Tensor) -> Tensor:
        thread = threading.Thread(target=lambda: found.unchecked.append(unchecked()))
        thread.start()
        thread.join()
        return samples(model, x)

    read_structure(Small(watched), IMAGE)
    assert found.unchecked
    assert not any(found.unchecked)  # in another thread, meanwhile
    assert not unchecked()


class Weighted(nn.Module):
    """A convolution whose result is weighted by an argument that the tracer has a name for."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, channels, 3, padding=1)

    def forward(self, x: Tensor, mod: Tensor, *, scale: float = 1.0) -> Tensor:
        return self.conv(x) * (1 + mod) * scale


def test_an_argument_may_be_called_as_one_of_the_tracers() -> None:
    def weighted(net: Small, x: Tensor) -> Tensor:
        top = net.top(x, mod=x.mean())
        deep = net.deep(F.max_pool2d(top, 2), mod=x.amax(), scale=2.0)
        return net.decode(top, deep)

    model, call = Small(weighted), nn.Module.__call__
    model.top, model.deep = Weighted(3, 4), Weighted(4, 8)  # type: ignore[assignment]
    structure = read_structure(model, IMAGE)
    assert nn.Module.__call__ is call
    stages = {name: stage.name for name, stage in structure.stage_of.items()}
    assert stages == {
        "top.conv": "encoder 0",
        "deep.conv": "bottleneck",
        "up": "decoder 0",
        "out": "head",
    }
    for size in (16, 24):
        image = torch.randn(2, 3, size, size)
        torch.testing.assert_close(rebuild(structure)(image), model(image), rtol=0, atol=0)


@pytest.mark.parametrize("draw", [torch.rand, torch.randn])
def test_a_draw_without_a_generator_that_is_named_keeps_sizes_free(draw: Any) -> None:
    def noisy(model: Small, x: Tensor) -> Tensor:
        return model.decode(*model.encode(x + draw(x.shape, generator=None)))

    structure = read_structure(Small(noisy), IMAGE)
    assert not any("only" in note for note in structure.notes)
    with torch.random.fork_rng(devices=()):
        for size in (16, 24):
            image, found = torch.randn(2, 3, size, size), []
            for net in (structure.model, rebuild(structure)):
                torch.manual_seed(0)
                found.append(net(image))
            assert torch.equal(*found)


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    "place",
    [
        lambda steps, step: torch.where(steps == step)[0],
        lambda steps, step: (steps == step).nonzero()[:, 0],
    ],
)
def test_what_is_looked_up_among_constants_is_one(place: Callable[..., Tensor]) -> None:
    def scheduled(model: Small, x: Tensor) -> Tensor:
        steps, scales = torch.tensor([7, 3]), torch.tensor([0.5, 2.0])
        for step in steps:
            x = x * scales[place(steps, step)][:, None, None, None]
        return model.decode(*model.encode(x))

    structure = read_structure(Small(scheduled).eval(), IMAGE)
    assert structure.modes_agree
    assert not any("nonzero" in str(n.target) for n in structure.graph.nodes)
    plan = make_plan(structure, find_cut(structure, 1), "light", 4)
    build(structure, plan, numbers=False)
    assert not verify(build(structure, plan), sizes=[(24, 40)]).failures


def test_compiled_parts_are_read_as_they_were_written() -> None:
    model = Small()
    with warnings.catch_warnings(action="ignore"):  # it uses what torch has deprecated
        model.deep = torch.compile(model.deep)
    structure = read_structure(model)
    assert len(structure.cuts) == 1
    assert {s.name for s in structure.stages} == set(PLACES.values())


def test_scripts_are_refused_by_name() -> None:
    model = Small()
    with warnings.catch_warnings(action="ignore"):  # torch.jit is deprecated, and in use
        model.deep = torch.jit.trace(model.deep, torch.randn(1, 4, 8, 8))
    with pytest.raises(InputError, match=r"deep is a torch\.jit\.ScriptModule"):
        read_structure(model)


def test_a_spectral_norm_in_train_mode_keeps_its_vectors() -> None:
    model = Small()
    parametrizations.spectral_norm(model.deep)
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    read_structure(model)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_any_number_format(dtype: torch.dtype) -> None:
    model = Small().to(dtype).eval()
    structure = read_structure(model)
    assert places(structure) == PLACES
    x = IMAGE.to(dtype)
    torch.testing.assert_close(rebuild(structure)(x), model(x), rtol=0, atol=0)


def padded_to(model: Small, x: Tensor, height: int, width: int) -> Tensor:
    grown = F.pad(x, (0, width - x.shape[3], 0, height - x.shape[2]))
    return model.decode(*model.encode(grown))[..., : x.shape[2], : x.shape[3]]


def ceil_of_a_float(model: Small, x: Tensor) -> Tensor:
    return padded_to(model, x, *(int(np.ceil(float(size) / 8)) * 8 for size in x.shape[2:]))


def ceil_of_numpy(model: Small, x: Tensor) -> Tensor:
    return padded_to(model, x, *(int(np.ceil(size / 8)) * 8 for size in x.shape[2:]))


def rounded(model: Small, x: Tensor) -> Tensor:
    half = F.interpolate(x, [int(round(0.5 * size, 0)) for size in x.shape[2:]])
    return F.interpolate(model.decode(*model.encode(half)), [int(size) for size in x.shape[2:]])


def cut_off(model: Small, x: Tensor) -> Tensor:
    size = [int(s // 8 * 8.0) for s in x.shape[2:]]
    return F.interpolate(model.decode(*model.encode(x)), size)


def one_step(model: Small, x: Tensor) -> Tensor:
    length = x.shape[3]
    parts = [x[..., start : start + length] for start in range(0, length, length)]
    return torch.cat([model.decode(*model.encode(part)) for part in parts], 3)


def checked(model: Small, x: Tensor) -> Tensor:
    size = [int(s / 2) * 2 for s in x.shape[2:]]
    assert all(isinstance(s, int) and not isinstance(s, float) for s in size)
    scale = float(np.full(2, 1, dtype=int).sum())
    return F.interpolate(model.decode(*model.encode(x), scale=scale), size)


def names() -> set[str]:
    """Names of this module; of a warning, as torch 2.9 gives some, Python keeps a note here."""
    return set(globals()) - {"__warningregistry__"}


NUMBERS = (ceil_of_a_float, ceil_of_numpy, rounded, cut_off, one_step, checked)


@pytest.mark.sample(1)
@pytest.mark.parametrize("around", NUMBERS, ids=lambda f: f.__name__)
def test_sizes_that_a_forward_makes_numbers_of_stay_free(around: Callable[..., Tensor]) -> None:
    before = names()
    model = Small(around).eval()
    structure = read_structure(model, IMAGE)
    assert structure.sizes == "symbolic"
    assert not any("only" in note for note in structure.notes)
    assert names() == before
    graph = rebuild(structure)
    for shape in ((3, 3, 16, 16), (1, 3, 24, 40), (2, 3, 32, 20)):
        x = torch.randn(shape)
        torch.testing.assert_close(graph(x), model(x), rtol=0, atol=0)


def test_names_that_stand_for_numbers_are_pythons_own_otherwise() -> None:
    before = names()
    with free_numbers(Small()):
        assert names() - before == {"int", "float", "range", "len", "type"}
        assert (isinstance(3, int), isinstance(3, float), issubclass(bool, int)) == (1, 0, 1)
        kind = type(IMAGE.dim())
        assert kind == int  # noqa: E721 - as some write it
        assert [type(value) for value in (0.5, "a")] == [float, str]
        assert kind is int
        assert isinstance(type("Made", (), {}), type)
        assert ([*range(5, 1, -2)], int("11", 2), int.from_bytes(b"\1")) == ([5, 3], 3, 1)
        assert np.zeros(1, dtype=float).dtype == np.float64
        assert np.zeros(1, dtype=int).dtype == np.int64
        assert (len("ab"), len(IMAGE), len([])) == (2, IMAGE.shape[0], 0)
    assert names() == before


def test_sizes_stay_free_in_functions_of_other_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    helpers = ModuleType("helpers_of_a_user")
    exec("def whole(size): return int(size / 2) * 2", vars(helpers))
    helpers.whole.__module__ = helpers.__name__
    monkeypatch.setitem(sys.modules, helpers.__name__, helpers)
    monkeypatch.setitem(globals(), "whole", helpers.whole)

    def around(model: Small, x: Tensor) -> Tensor:
        size = [whole(s) for s in x.shape[2:]]  # type: ignore[name-defined] # noqa: F821
        return F.interpolate(model.decode(*model.encode(x)), size)

    model = Small(around).eval()
    graph = rebuild(read_structure(model, IMAGE))
    x = torch.randn(1, 3, 24, 40)
    torch.testing.assert_close(graph(x), model(x), rtol=0, atol=0)
    assert "int" not in vars(helpers)


def test_sizes_stay_free_in_a_file_that_no_import_knows() -> None:
    names: dict[str, Any] = {"__name__": "a_file_run_by_its_path", "Small": Small, "F": F}
    written = (
        "class Rounds(Small):",
        "    def forward(self, x):",
        "        size = [int(s / 2) * 2 for s in x.shape[2:]]",
        "        return F.interpolate(self.decode(*self.encode(x)), size)",
    )
    exec("\n".join(written), names)
    model = names["Rounds"]().eval()
    structure = read_structure(model, IMAGE)
    assert structure.notes == ()
    x = torch.randn(1, 3, 24, 40)
    torch.testing.assert_close(rebuild(structure)(x), model(x), rtol=0, atol=0)
    assert "int" not in names


def test_what_only_plans_with_sizes_holds_none(monkeypatch: pytest.MonkeyPatch) -> None:
    planner = ModuleType("opt_einsum.contract")
    exec("def smaller(sizes):\n assert all(isinstance(n, int) for n in map(int, sizes))"
         "\n return min(map(int, sizes))", vars(planner))  # fmt: skip
    monkeypatch.setitem(sys.modules, planner.__name__, planner)
    monkeypatch.setattr(numbers, "_PLANNERS", (planner.__name__,))

    def around(model: Small, x: Tensor) -> Tensor:
        assert planner.smaller(x.shape[:1]) < planner.smaller(x.shape[2:])
        return model.decode(*model.encode(x))

    model = Small(around).eval()
    structure = read_structure(model, IMAGE)
    assert (structure.sizes, structure.notes) == ("symbolic", ())
    graph = rebuild(structure)
    x = torch.randn(3, 3, 24, 40)
    torch.testing.assert_close(graph(x), model(x), rtol=0, atol=0)
    assert "int" not in vars(planner)


def test_names_that_stand_for_numbers_are_taken_back_after_an_error() -> None:
    before = names()
    with pytest.raises(ZeroDivisionError), free_numbers(Small()):
        float(1 / 0)
    assert names() == before


def test_a_budget_counts_and_does_not_watch_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Small(ceiled)
    assert read_structure(model).sizes == "symbolic"
    monkeypatch.setattr(tracing, "MOST_QUESTIONS", 0)
    few = [read_structure(model).sizes for _ in range(2)]
    assert few[0] == few[1] != "symbolic"


class OfTwoOrMore(Small):
    """Does something else with two images."""

    def forward(self, x: Tensor) -> Tensor:
        made = super().forward(x)
        return made if x.shape[0] == 2 else made + 0


def test_arithmetic_that_is_too_much_is_not_followed_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried: list[str] = []

    class Noted(captures._Tracer):
        def run(self) -> captures.Capture:
            tried.append(self.sizes)
            return super().run()

    monkeypatch.setattr(captures, "_Tracer", Noted)
    monkeypatch.setattr(tracing, "MOST_QUESTIONS", 0)
    structure = read_structure(OfTwoOrMore(ceiled))
    assert tried[:3] == ["symbolic", "batch", "batch"]
    assert any("in more steps than are followed" in note for note in structure.notes)


def test_a_shared_switch_stays_on_until_the_last_thread_has_left() -> None:
    inside, leave = threading.Event(), threading.Event()

    def other() -> None:
        with tracing.as_exported():
            inside.set()
            leave.wait(5)

    thread = threading.Thread(target=other)
    with tracing.as_exported():
        thread.start()
        inside.wait(5)
    assert torch.compiler.is_compiling()
    leave.set()
    thread.join()
    assert not torch.compiler.is_compiling()


def with_a_window(model: Small, x: Tensor) -> Any:
    window = torch.from_numpy(np.hanning(x.shape[-1])).float()
    return model.decode(*model.encode(x + window.to(x.device)))


def with_a_median(model: Small, x: Tensor) -> Any:
    return model.decode(*model.encode(x - float(np.median(x))))


def test_a_size_that_numpy_makes_a_number_of_is_told_by_the_users_line() -> None:
    (note,) = read_structure(Small(with_a_window), IMAGE).notes
    assert "test_forwards.py, line" in note
    assert "np.hanning(x.shape[-1])" in note


def test_values_that_numpy_reads_are_told_by_the_users_line() -> None:
    with pytest.raises(StructureError, match=r"test_forwards.py, line \d+: `.*np.median\(x\)"):
        read_structure(Small(with_a_median), IMAGE)


class LossWhileTraining(Small):
    """Returns a loss beside the mask while it trains, on images of 32 only."""

    def __init__(self) -> None:
        super().__init__()
        self.regress = nn.Linear(8 * 16 * 16, 3)

    def forward(self, x: Tensor) -> Any:
        top, deep = self.encode(x)
        loss = self.regress(deep.flatten(1)).pow(2).mean() if self.training else None
        return self.decode(top, deep), loss


def test_a_size_that_trains_is_looked_for() -> None:
    structure = read_structure(LossWhileTraining())
    assert structure.inputs.args[0].shape[2:] == (32, 32)
    assert not structure.modes_agree
    assert structure.dead_parameters == ()


def test_nothing_is_dead_where_train_mode_was_not_tried() -> None:
    structure = read_structure(LossWhileTraining(), torch.randn(2, 3, 64, 64))
    assert structure.dead_parameters == ()
    assert any("in train mode the forward raises" in note for note in structure.notes)


class ReadsWhileTraining(Small):
    """Adds a loss while it trains, of a weight that it reads off the image."""

    def __init__(self) -> None:
        super().__init__()
        self.regress = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Any:
        top, deep = self.encode(x)
        if not self.training:
            return self.decode(top, deep), None
        weight = min(1.0, deep.abs().max().item())
        return self.decode(top, deep), weight * self.regress(deep.mean((2, 3))).pow(2).mean()


def test_a_forward_that_reads_values_in_training_alone_is_read_as_it_evaluates() -> None:
    model = ReadsWhileTraining()
    structure = read_structure(model, torch.randn(2, 3, 64, 64))
    assert not structure.modes_agree
    assert structure.dead_parameters == ()
    (note,) = (note for note in structure.notes if "in train mode" in note)
    assert "`weight = min(1.0, deep.abs().max().item())`" in note
    assert "example_inputs" not in note  # no other size would help
    plan = make_plan(structure, find_cut(structure, 1), bottleneck="pool")
    assert not verify(build(structure, plan), export=False).failures


def test_a_network_that_fixes_its_sizes_is_read_at_the_one_that_it_declares() -> None:
    def resized(model: Small, x: Tensor) -> Tensor:
        size = [int(math.hypot(s * s) ** 0.5) for s in x.shape[2:]]
        return F.interpolate(model.decode(*model.encode(x)), size=size)

    model = Small(resized)
    assert read_structure(model).inputs.args[0].shape[2:] == (256, 256)
    model.image_size = 48
    structure = read_structure(model)
    assert structure.inputs.args[0].shape[2:] == (48, 48)
    assert any("read at 48x48 only" in note for note in structure.notes)
    assert read_structure(model, IMAGE).inputs.args[0].shape[2:] == (16, 16)


class Windows(nn.Module):
    """One answer for every window of a signal."""

    def __init__(self) -> None:
        super().__init__()
        self.n_times = 64
        self.top = nn.Conv1d(2, 4, 3, padding=1)
        self.deep = nn.Conv1d(4, 4, 3, padding=1)
        self.up = nn.Conv1d(4, 4, 3, padding=1)
        self.out = nn.Conv1d(4, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.top(x))
        deep = F.relu(self.deep(F.max_pool1d(x, 2)))
        up = self.up(F.interpolate(deep, scale_factor=2.0)) + x
        out: Tensor = self.out(F.avg_pool1d(up, 64))
        return out[:, :, 0] if out.shape[-1] == 1 else out


def test_a_signal_is_read_at_the_window_that_the_network_declares() -> None:
    structure = read_structure(Windows())
    assert structure.inputs.args[0].shape[2:] == (64,)
    assert structure.reductions == ((1.0,), (2.0,))
    assert [cut.keep_levels for cut in structure.cuts] == [1]


def test_a_size_that_became_a_number_is_told_and_kept() -> None:
    def resized(model: Small, x: Tensor) -> Tensor:
        size = [int(math.hypot(s * s) ** 0.5) for s in x.shape[2:]]
        return F.interpolate(model.decode(*model.encode(x)), size=size)

    model = Small(resized).eval()
    structure = read_structure(model, torch.randn(2, 3, 24, 24))
    assert any("read at 24x24 only" in note for note in structure.notes)
    graph = rebuild(structure)
    x = torch.randn(3, 3, 24, 24)
    torch.testing.assert_close(graph(x), model(x), rtol=0, atol=0)
    with pytest.raises(InputError, match=r"x is 48x48.*read at 24x24"):
        graph(torch.randn(3, 3, 48, 48))
    assert not any("only" in note for note in read_structure(Small()).notes)


def test_a_number_that_was_made_of_a_size_unseen_is_kept() -> None:
    def unseen(model: Small, x: Tensor) -> Tensor:
        height = x.shape[2]
        number = height.node.hint if isinstance(height, torch.SymInt) else height
        return number * model.decode(*model.encode(x))

    model, x = Small(unseen).eval(), torch.randn(1, 3, 64, 64)
    graph = rebuild(read_structure(model, x))
    torch.testing.assert_close(graph(x), model(x), rtol=0, atol=0)
    with pytest.raises(InputError, match=r"x is 48x48.*read at 64x64"):
        graph(torch.randn(3, 3, 48, 48))


def test_what_cannot_be_explained_is_refused_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any) -> None:
        raise KeyError("lost")

    monkeypatch.setattr("weightscope.graph.capturing.read_levels", broken)
    with pytest.raises(StructureError, match=r"Small could not be read: KeyError.*example_inputs="):
        read_structure(Small())


def test_pooled_signals_keep_their_length_free() -> None:
    class Signal(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.top, self.deep = nn.Conv1d(1, 4, 3, padding=1), nn.Conv1d(4, 4, 3, padding=1)
            self.out = nn.Conv1d(8, 1, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            top = self.top(x)
            deep = self.deep(F.max_pool1d(top, 2, ceil_mode=True))
            deep = F.interpolate(deep, scale_factor=2)[..., : top.shape[-1]]
            return self.out(torch.cat([top, deep], 1))

    model = Signal().eval()
    structure = read_structure(model)
    assert structure.sizes == "symbolic"
    assert structure.notes == ()
    assert "aten.max_pool1d" in str(structure.graph)
    graph = rebuild(structure)
    for length in (64, 45):
        x = torch.randn(2, 1, length)
        torch.testing.assert_close(graph(x), model(x), rtol=0, atol=0)


class Restless(Small):
    """While training, its own forward adds noise, or drops features by a function of torch."""

    def __init__(self, noise: bool) -> None:
        super().__init__()
        self.noise = noise

    def forward(self, x: Tensor) -> Tensor:
        top, deep = self.encode(x)
        if not self.noise:
            deep = F.dropout(deep, 0.5, self.training)
        elif self.training:
            deep = deep + torch.randn_like(deep)
        return self.decode(top, deep)


def test_a_forward_that_does_more_while_training_says_so() -> None:
    noisy, dropping = (read_structure(Restless(noise), IMAGE) for noise in (True, False))
    assert (noisy.modes_agree, dropping.modes_agree) == (False, True)
    assert "does something else than in eval mode" in noisy.notes[0]
    assert not dropping.notes
    with torch.random.fork_rng(devices=()):
        graph = rebuild(dropping).train()
        torch.manual_seed(0)
        expected = dropping.model.train()(IMAGE)
        torch.manual_seed(0)
        assert torch.equal(graph(IMAGE), expected)


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_kernels_normalised_in_the_old_way_show_their_channels() -> None:
    model = Small()
    model.top = nn.utils.weight_norm(nn.Conv2d(5, 4, 3, padding=1))
    assert read_structure(model).inputs.args[0].shape[1] == 5


def test_images_that_the_forward_takes_apart_in_pairs() -> None:
    assert read_structure(Small(_pair)).inputs.args[0].shape[1] == 6


def _pair(model: Small, x: Tensor) -> Tensor:
    if x.shape[1] % 2:
        raise ValueError("two images are wanted")
    first, second = x.chunk(2, 1)
    return model.decode(*model.encode(first - second))


class DeeplySupervised(Small):
    """Returns a second prediction while training."""

    def forward(self, x: Tensor) -> Any:
        top, deep = self.encode(x)
        y = self.decode(top, deep)
        return [y, self.out(deep[:, :4])] if self.training else [y]


def test_a_variant_of_what_trains_otherwise_is_held_to_its_eval_mode() -> None:
    structure = read_structure(DeeplySupervised(), IMAGE)
    costs = count_costs(structure.model, structure.inputs)
    variant = build(structure, make_plan(structure, find_cut(structure, 1), "pool"), costs)
    assert not verify(variant, export=False).failures


@dataclass(frozen=True)
class Prediction:
    """What a forward may return: no container that torch knows."""

    mask: Tensor
    levels: list[Tensor]
    name: str = "mask"


class Attributes(dict):  # type: ignore[type-arg]
    """A dict whose keys are attributes; it has no attribute else, and says so as a dict does."""

    __getattr__ = dict.__getitem__


def namespace(mask: Tensor, levels: list[Tensor]) -> SimpleNamespace:
    return SimpleNamespace(mask=mask, levels=levels)


def distribution(mask: Tensor, levels: list[Tensor]) -> torch.distributions.Normal:
    return torch.distributions.Normal(mask, torch.ones_like(mask))


def attributes(mask: Tensor, levels: list[Tensor]) -> Attributes:
    return Attributes(mask=mask, levels=levels)


@pytest.mark.sample(1)
@pytest.mark.parametrize("made", [Prediction, namespace, attributes, distribution])
def test_containers_that_torch_does_not_know_come_out_as_they_are(made: Callable[..., Any]) -> None:
    def returns(model: Small, x: Tensor) -> Any:
        top, deep = model.encode(x)
        return made(model.decode(top, deep), [deep])

    model = Small(returns).eval()
    structure = read_structure(model, IMAGE)
    assert [cut.keep_levels for cut in structure.cuts] == [1]
    found, expected = rebuild(structure)(IMAGE), model(IMAGE)
    assert type(found) is type(expected)
    for name in ("mask", "loc"):
        if hasattr(type(found), name) or name in getattr(found, "__dict__", ()):
            assert torch.equal(getattr(found, name), getattr(expected, name))
    for a, b in zip(pytree.tree_leaves(found), pytree.tree_leaves(expected), strict=True):
        assert torch.equal(a, b) if isinstance(a, Tensor) else a == b
    if made is not distribution:  # its checks read values, which no export bears
        costs = count_costs(structure.model, structure.inputs)
        variant = build(structure, make_plan(structure, find_cut(structure, 1), "pool"), costs)
        assert not verify(variant).failures
        assert type(variant.module(IMAGE)) is type(expected)


def mixture(mask: Tensor, levels: list[Tensor]) -> torch.distributions.MixtureSameFamily:
    return torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(logits=mask[..., None].expand(*mask.shape, 2)),
        torch.distributions.Normal(torch.stack([mask, -mask], -1), 1.0),
    )


def independent(mask: Tensor, levels: list[Tensor]) -> torch.distributions.Independent:
    return torch.distributions.Independent(torch.distributions.LogNormal(mask, mask.exp()), 1)


@pytest.mark.sample(2)
@pytest.mark.parametrize("made", [distribution, mixture, independent])
def test_distributions_come_out_whole_at_any_size(made: Callable[..., Any]) -> None:
    model = Small(lambda model, x: made(model.decode(*model.encode(x)), [])).eval()
    graph = rebuild(read_structure(model, IMAGE))
    other = torch.randn(3, 3, 24, 32, generator=torch.Generator().manual_seed(1))
    found, expected = graph(other), model(other)
    assert found.batch_shape == expected.batch_shape
    assert isinstance(found.batch_shape, torch.Size)
    value = expected.sample()
    assert torch.equal(found.log_prob(value), expected.log_prob(value))
    assert found.sample().shape == value.shape


def test_a_distribution_below_the_cut_is_none() -> None:
    def returns(model: Small, x: Tensor) -> Any:
        top, deep = model.encode(x)
        return model.decode(top, deep), torch.distributions.Normal(deep, 1.0)

    structure = read_structure(Small(returns), IMAGE)
    plan = make_plan(structure, find_cut(structure, 1), "pool")
    prediction, below = build(structure, plan).module(IMAGE)
    assert prediction.shape[-2:] == IMAGE.shape[-2:]
    assert below is None


def test_a_container_that_holds_itself_is_opened_once() -> None:
    loop = SimpleNamespace(x=torch.ones(2))
    loop.self = loop
    leaves = pytree.tree_leaves(loop)
    assert torch.equal(leaves[0], loop.x)
    assert leaves[1] is loop


def test_a_grid_of_as_many_steps_as_there_are_pixels_follows_the_image() -> None:
    def with_places(model: Small, x: Tensor) -> Tensor:
        rows, columns = (torch.linspace(-1, 1, n, device=x.device) for n in x.shape[2:])
        centres = torch.linspace(0.5, x.shape[3] - 0.5, steps=x.shape[3], dtype=x.dtype)
        grid = rows[:, None] * columns + centres / x.shape[3]
        return model.decode(*model.encode(x + grid))

    model = Small(with_places).eval()
    structure = read_structure(model)
    assert structure.sizes == "symbolic"
    assert not structure.notes
    graph = rebuild(structure)
    for x in (torch.randn(1, 3, 24, 40), torch.randn(3, 3, 64, 32)):
        assert torch.equal(graph(x), model(x))


class Sharpened(nn.Module):
    """A sharp gray image, and a coloured one of a quarter of its size."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Small()
        self.net.top = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, sharp: Tensor, coloured: Tensor) -> Tensor:
        large = F.interpolate(coloured, size=sharp.shape[2:])
        return self.net(torch.cat([sharp, large], 1))


def test_an_input_of_low_resolution_makes_no_decoder_of_what_reads_it() -> None:
    inputs = (torch.randn(2, 1, 32, 32), torch.randn(2, 3, 16, 16))
    structure = read_structure(Sharpened(), inputs)
    assert places(structure) == {f"net.{name}": place for name, place in PLACES.items()}
    assert [cut.keep_levels for cut in structure.cuts] == [1]
    assert not structure.parts


class OfItsOwn(nn.Module):
    """A convolution with a kernel for each image, as one convolution of all in groups."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(4, 2)
        self.weight = nn.Parameter(torch.randn(2, 8 * 4 * 9))

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        kernels = (self.mix(x.mean((2, 3))) @ self.weight).view(-1, c, 3, 3)
        y = F.conv2d(x.reshape(1, b * c, h, w), kernels, padding=1, groups=b)
        return y.view(b, -1, h, w)


def test_images_among_the_channels_lie_at_their_own_level() -> None:
    model = Small()
    model.deep = OfItsOwn()
    structure = read_structure(model)
    assert structure.reductions == ((1, 1), (2, 2))
    assert places(structure) == {**PLACES, "deep.mix": "bottleneck"}
    costs = count_costs(structure.model, structure.inputs)
    assert build(structure, make_plan(structure, find_cut(structure, 1), "pool"), costs)


def test_an_image_and_its_mask_in_one_input() -> None:
    def masked(model: Small, x: Tensor) -> Tensor:
        seen = F.conv2d(x[:, 3:], torch.ones(1, 1, 3, 3), padding=1)
        return model.decode(*model.encode(x[:, :3] * seen))

    structure = read_structure(Small(masked))
    assert structure.inputs.args[0].shape[1] == 4
    assert places(structure) == PLACES


def test_what_torch_fx_made_can_be_cut() -> None:
    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.top, self.deep = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 8, 3, padding=1)

        def forward(self, x: Tensor) -> list[Tensor]:
            top = F.relu(self.top(x))
            return [top, F.relu(self.deep(F.max_pool2d(top, 2)))]

    model = Small(lambda model, x: model.decode(*model.encoder(x)))
    model.encoder = fx.symbolic_trace(Encoder())
    del model.top, model.deep
    structure = read_structure(model, IMAGE)
    costs = count_costs(structure.model, structure.inputs)
    variant = build(structure, make_plan(structure, find_cut(structure, 1), "pool"), costs)
    assert not verify(variant, export=False).failures
    assert "encoder.deep.weight" in variant.dropped
    assert structure.stage_of["encoder.top"].name == "encoder 0"


class Dropping(nn.Module):
    """Drops layers by chance while it trains, or all but one where they must not all go."""

    def __init__(self, at_least_one: bool = False) -> None:
        super().__init__()
        self.at_least_one = at_least_one
        self.top, self.deep = nn.Conv2d(3, 8, 3, 1, 1), nn.Conv2d(8, 8, 3, 2, 1)
        self.deeper = nn.ModuleList(nn.Conv2d(8, 8, 3, 1, 1) for _ in range(2))
        self.out, self.aside = nn.Conv2d(16, 3, 1), nn.Conv2d(8, 3, 1)
        self.never = nn.Conv2d(3, 3, 1)
        self.dropped, self.masked = (nn.Parameter(torch.zeros(8, 1, 1)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        top = self.top(x)
        deep, layers = self.deep(top), []
        for layer in self.deeper:
            drop = self.training and torch.rand([]) < 0.1
            layers.append(self.dropped if drop else layer(deep))
            deep = deep + layers[-1]
        if self.at_least_one and all(layer is self.dropped for layer in layers):
            raise RuntimeError("no layer is left")
        made = self.out(torch.cat([top, F.interpolate(deep, scale_factor=2.0)], 1))
        return made + self.aside(top) if self.training and torch.rand([]) < 0.5 else made


@pytest.mark.parametrize("at_least_one", [False, True])
def test_what_training_reads_whatever_chance_decides_is_not_dead(at_least_one: bool) -> None:
    structure = read_structure(Dropping(at_least_one), torch.rand(2, 3, 16, 16))
    assert set(structure.dead_parameters) == {"masked", "never.weight", "never.bias"}


class ReadsNumbers(Dropping):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (float(torch.rand([])) if self.training else 1.0)


def test_nothing_is_dead_where_training_computes_with_values() -> None:
    assert read_structure(ReadsNumbers(), torch.rand(2, 3, 16, 16)).dead_parameters == ()


class Untrainable(Dropping):
    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            raise NotImplementedError("training is not implemented")
        return super().forward(x)


def test_a_network_that_is_not_made_to_train_is_read_as_it_is() -> None:
    structure = read_structure(Untrainable(), torch.rand(2, 3, 16, 16))
    assert not structure.modes_agree
    assert any("not made to train" in note for note in structure.notes)
    assert {"aside.weight", "dropped", "masked"} <= set(structure.dead_parameters)
    variant = build(structure, make_plan(structure, find_cut(structure, 1), bottleneck="pool"))
    assert variant.module.train()(torch.rand(2, 3, 16, 16)).requires_grad
