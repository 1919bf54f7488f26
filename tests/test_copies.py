import copy
import queue
import threading

import torch
from torch import nn

import weightscope as ws
from weightscope.copies import deep_copy
from weightscope.cost import count_costs


class Hooked(nn.Module):
    """Its forward reads what a hook kept: in a dictionary of its own, or in one beside it."""

    def __init__(self, beside: dict | None = None):
        super().__init__()
        self.first = nn.Conv2d(1, 8, 3, padding=1)
        self.down = nn.Conv2d(8, 64, 3, padding=1)
        self.up = nn.Conv2d(72, 8, 3, padding=1)
        self.head = nn.Conv2d(8, 1, 1)
        self.kept: dict = {}
        kept = self.kept if beside is None else beside
        self.read = lambda: kept["first"]

        def keep(_, __, output):
            kept["first"] = output

        self.first.register_forward_hook(keep)

    def forward(self, x):
        deep = self.down(nn.functional.max_pool2d(self.first(x).relu(), 2)).relu()
        deep = nn.functional.interpolate(deep, scale_factor=2)
        return self.head(self.up(torch.cat([self.read(), deep], 1)).relu())


def test_a_hook_of_the_copy_writes_into_the_copy():
    for beside in (None, {}):
        model = Hooked(beside)
        twin = deep_copy(model)
        x = torch.rand(1, 1, 8, 8)
        assert torch.equal(twin(x), model(x))
        where = model.kept if beside is None else beside
        mine = where["first"]
        twin(x + 1)
        assert where["first"] is mine


def test_a_network_that_is_held_by_its_hooks_is_read_and_cut():
    beside: dict = {}
    model = Hooked(beside)
    analysis = ws.analyze(model, example_inputs=torch.rand(1, 1, 16, 16), response=False)
    assert not beside
    assert analysis.structure.depth == 2
    variant = analysis.proposals[0].build()
    assert variant.module(torch.rand(1, 1, 16, 16)).shape == (1, 1, 16, 16)
    assert count_costs(model, torch.rand(1, 1, 16, 16)).parameters
    assert not beside


def test_functions_of_one_closure_stay_together():
    model = nn.Conv2d(1, 1, 1)
    calls, seen = 0, []

    def count(*_):
        nonlocal calls
        calls += 1
        seen.append(model)

    model.register_forward_hook(count)
    model.calls = lambda: calls
    twin = deep_copy(model)
    twin(torch.rand(1, 1, 2, 2))
    assert (model.calls(), twin.calls()) == (0, 1)
    assert not seen
    again = copy.deepcopy(twin)  # the usual copy shares them: that is why there is another
    again(torch.rand(1, 1, 2, 2))
    assert twin.calls() == 2


def test_what_is_no_part_of_the_model_is_shared():
    class Log:
        pass

    log, model = Log(), nn.Conv2d(1, 1, 1)
    model.log = lambda: log
    model.plain = max
    assert deep_copy(model).log() is log


def test_a_function_that_names_itself_and_a_name_that_is_not_bound():
    model = nn.Conv2d(1, 1, 1)

    def outer():
        def again(n):
            return n and again(n - 1)

        def late():
            return unbound

        if model is None:
            unbound = 1
        return again, late

    model.again, model.late = outer()
    twin = deep_copy(model)
    assert twin.again(3) == 0
    assert twin.again is not model.again


def made_here(*parts: nn.Module) -> nn.Module:
    """A module of a class whose forward keeps its parts, as functional libraries make them."""

    def run(x: torch.Tensor) -> torch.Tensor:
        for part in parts:
            x = part(x)
        return x

    class Module(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = nn.ModuleList(parts)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return run(x)

    return Module()


def test_a_class_whose_methods_keep_parts_runs_those_of_the_copy() -> None:
    model = made_here(nn.Conv2d(1, 2, 1), made_here(nn.Conv2d(2, 2, 1)))
    twin = deep_copy(model)
    assert isinstance(twin, type(model))
    x = torch.randn(1, 1, 4, 4)
    assert torch.equal(model(x), twin(x))
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    assert model(x).any()
    assert not twin(x).any()
    assert type(deep_copy(nn.Sequential(nn.ReLU()))) is nn.Sequential


def test_a_buffer_with_a_graph_is_copied():
    model = nn.Conv2d(1, 1, 1)
    model.register_buffer("state", model.weight * 2)
    twin = deep_copy(model)
    assert torch.equal(twin.state, model.state)
    assert twin.state.data_ptr() != model.state.data_ptr()


class Waiting(nn.Module):
    """Holds locks, some in objects of their own, as norms of several devices do."""

    def __init__(self):
        super().__init__()
        self.first, self.down = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 64, 3, padding=1)
        self.up, self.head = nn.Conv2d(72, 8, 3, padding=1), nn.Conv2d(8, 1, 1)
        self.lock, self.again = threading.Lock(), [threading.RLock()]
        self.results = {"first": queue.Queue(), "done": threading.Event()}

    def forward(self, x):
        with self.lock:
            top = self.first(x).relu()
        deep = self.down(nn.functional.max_pool2d(top, 2)).relu()
        deep = nn.functional.interpolate(deep, scale_factor=2)
        return self.head(self.up(torch.cat([top, deep], 1)).relu())


def test_locks_of_a_copy_are_its_own() -> None:
    model = Waiting()
    twin = deep_copy(model)
    with model.lock, model.again[0]:
        assert twin.lock.acquire(blocking=False)
        assert twin.results["first"].mutex is not model.results["first"].mutex
        twin.results["first"].put(1)
        twin.results["done"].set()
        assert twin.results["first"].get(timeout=1) == 1
        assert twin.results["done"].wait(timeout=1)
    assert model.results["first"].empty()
    assert not model.results["done"].is_set()


def test_a_network_that_holds_locks_is_read_and_cut() -> None:
    analysis = ws.analyze(Waiting(), response=False)
    assert analysis.structure.depth == 2
    variant = analysis.proposals[0].build("pool")
    assert variant.module(torch.rand(1, 1, 16, 16)).shape == (1, 1, 16, 16)
