"""Forwards whose modules change the lists, dicts and objects that they are given."""

from __future__ import annotations

import copy
import types
from collections import OrderedDict, deque, namedtuple
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree

from matrix.kinds import UNet
from weightscope.errors import StructureError
from weightscope.graph import read_structure
from weightscope.graph.running import GraphRun
from weightscope.truncation import verify
from weightscope.truncation.building import build, whole
from weightscope.truncation.plan import find_cut, make_plan

IMAGE = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class Down(nn.Module):
    """Leaves its features in a state."""

    def __init__(self, channels: tuple[int, int], put: Callable[..., Any]) -> None:
        super().__init__()
        self.conv, self.put = nn.Conv2d(*channels, 3, padding=1), put

    def forward(self, x: Tensor, state: Any, level: int) -> Tensor:
        x = F.relu(self.conv(x))
        self.put(state, level, x)
        return F.max_pool2d(x, 2)


class Up(nn.Module):
    """Takes features out of a state."""

    def __init__(self, channels: tuple[int, int], get: Callable[..., Any]) -> None:
        super().__init__()
        self.conv, self.get = nn.Conv2d(*channels, 3, padding=1), get

    def forward(self, x: Tensor, state: Any, level: int) -> Tensor:
        x = F.interpolate(x, scale_factor=2.0)
        return F.relu(self.conv(torch.cat([x, self.get(state, level)], 1)))


class Net(nn.Module):
    """Three levels whose skip connections go through a state."""

    def __init__(self, new: Any, put: Any, get: Any, keyword: bool = False) -> None:
        super().__init__()
        self.new, self.keyword = new, keyword
        self.down = nn.ModuleList([Down((3, 4), put), Down((4, 6), put)])
        self.deep = nn.Conv2d(6, 8, 3, padding=1)
        self.up = nn.ModuleList([Up((10, 4), get), Up((14, 6), get)])
        self.out = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        state = self.new()
        for level in (0, 1):
            if self.keyword:
                x = self.down[level](x, state=state, level=level)
            else:
                x = self.down[level](x, state, level)
        x = F.relu(self.deep(x))
        for level in (1, 0):
            x = self.up[level](x, state, level)
        return self.out(x)


@dataclass
class State:
    scale: Any = 1.0
    skips: list[Any] = field(default_factory=list)


@dataclass(frozen=True)
class Frozen:
    seed: Tensor
    skips: list[Any]


class Dictionary(dict):  # type: ignore[type-arg]
    """A class that torch does not open."""


Pair = namedtuple("Pair", "skips count")


def set_field(state: Any, level: int, x: Tensor) -> None:
    setattr(state, f"skip_{level}", x)
    state.scale = state.scale * 2


def get_field(state: Any, level: int) -> Tensor:
    return getattr(state, f"skip_{level}") * state.scale


def count_up(state: Any, level: int, x: Tensor) -> None:
    cache, count = state
    cache[count[0]] = x
    count[0] += 1


def count_down(state: Any, level: int) -> Any:
    cache, count = state
    count[0] -= 1
    return cache[count[0]]


def add_to_all(state: list[Tensor], level: int, x: Tensor) -> None:
    state.append(x.clone())
    for kept in state:
        kept.mul_(0.5)


STATES: dict[str, tuple[Any, Any, Any]] = {
    "append": (list, lambda s, k, x: s.append(x), lambda s, k: s.pop()),
    "insert": (list, lambda s, k, x: s.insert(0, x), lambda s, k: s.pop(0)),
    "item": (lambda: [None] * 2, lambda s, k, x: s.__setitem__(k, x), lambda s, k: s[k]),
    "tensor": (
        lambda: [torch.ones(1)] * 2,
        lambda s, k, x: s.__setitem__(k, x),
        lambda s, k: s[k],
    ),
    "dict": (dict, lambda s, k, x: s.__setitem__(str(k), x), lambda s, k: s[str(k)]),
    "ordered": (OrderedDict, lambda s, k, x: s.__setitem__(k, x), lambda s, k: s.pop(k)),
    "subclass": (Dictionary, lambda s, k, x: s.__setitem__(k, x), lambda s, k: s[k]),
    "nested": (
        lambda: {"a": [[], ()]},
        lambda s, k, x: s["a"][0].append({"x": (x,)}),
        lambda s, k: s["a"][0].pop()["x"][0],
    ),
    "deque": (deque, lambda s, k, x: s.appendleft(x), lambda s, k: s.popleft()),
    "tuple": (lambda: Pair([], 0), lambda s, k, x: s.skips.append(x), lambda s, k: s.skips.pop()),
    "counted": (lambda: ([None] * 2, [0]), count_up, count_down),
    "fields": (State, set_field, get_field),
    "tensor fields": (lambda: State(torch.ones(1)), set_field, get_field),
    "namespace": (lambda: types.SimpleNamespace(scale=torch.ones(1)), set_field, get_field),
    "frozen": (
        lambda: Frozen(torch.ones(1), []),
        lambda s, k, x: s.skips.append(x * s.seed),
        lambda s, k: s.skips.pop(),
    ),
    "in place": (list, add_to_all, lambda s, k: s.pop()),
}


def made(state: tuple[Any, Any, Any], keyword: bool = False) -> Net:
    torch.manual_seed(0)
    return Net(*state, keyword).eval()


@pytest.mark.sample(2)
@pytest.mark.parametrize("name", STATES)
def test_what_a_module_changes_in_its_arguments_is_seen(name: str) -> None:
    model = made(STATES[name], keyword=name in ("append", "dict"))
    before = model(IMAGE)
    structure = read_structure(model, IMAGE)
    assert structure.dead_parameters == ()
    assert [cut.keep_levels for cut in structure.cuts] == [1, 2]
    for _ in range(2):
        torch.testing.assert_close(GraphRun(structure, {}).predict(IMAGE), before)
    torch.testing.assert_close(model(IMAGE), before)


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    "name",
    [
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("append", "counted")),
        *("subclass", "tensor fields"),
    ],
)
def test_variants_of_such_networks_hold(name: str) -> None:
    model = made(STATES[name])
    structure = read_structure(model, IMAGE)
    variants = [whole(structure)]
    variants += [
        build(structure, make_plan(structure, find_cut(structure, k), width=4)) for k in (1, 2)
    ]
    for variant in variants:
        found = verify(variant, export=False, factory=lambda: copy.deepcopy(model))
        assert found.passed, found.failures


class Counting(nn.Module):
    """Counts its calls in a dict that others hold too."""

    def __init__(self, channels: tuple[int, int], counts: dict[str, int]) -> None:
        super().__init__()
        self.conv, self.counts = nn.Conv2d(*channels, 3, padding=1), counts

    def forward(self, x: Tensor) -> Tensor:
        self.counts["calls"] += 1
        return F.relu(self.conv(x)) * self.counts["calls"]


class Counted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.counts = {"calls": 0}
        self.top, self.deep = Counting((3, 4), self.counts), Counting((4, 8), self.counts)
        self.out = nn.Conv2d(12, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        self.counts["calls"] = 0
        top = self.top(x)
        deep = F.interpolate(self.deep(F.max_pool2d(top, 2)), scale_factor=2.0)
        return self.out(torch.cat([top, deep], 1))


def test_a_count_that_modules_share_does_not_go_on_in_a_variant() -> None:
    torch.manual_seed(0)
    model = Counted().eval()
    before = model(IMAGE)
    variant = whole(read_structure(model, IMAGE))
    for _ in range(2):
        torch.testing.assert_close(variant.module(IMAGE), before)


class Borrowed(Net):
    """A list that comes back from a module is the one that went in."""

    def forward(self, x: Tensor) -> Tensor:
        skips: list[Tensor] = []
        for down in self.down:
            x = down(x, skips, 0)
        x = F.relu(self.deep(x))
        for level in (1, 0):
            x = self.up[level](x, self.back(skips) if level else skips, level)
        return self.out(x)


class Back(nn.Module):
    def forward(self, skips: list[Tensor]) -> list[Tensor]:
        return skips


def test_a_list_that_a_module_returns_is_the_same_list() -> None:
    torch.manual_seed(0)
    model = Borrowed(*STATES["append"]).eval()
    model.back = Back()
    structure = read_structure(model, IMAGE)
    torch.testing.assert_close(GraphRun(structure, {}).predict(IMAGE), model(IMAGE))


class Lends(nn.Module):
    """Puts something into a list for as long as it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: Tensor, held: list[Tensor]) -> Tensor:
        held.append(self.conv(held[0]))
        return x + held.pop()


def test_a_module_may_change_a_list_and_change_it_back() -> None:
    class Lending(Net):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(self.lends(x, [x]))

    torch.manual_seed(0)
    model = Lending(*STATES["append"]).eval()
    model.lends = Lends()
    structure = read_structure(model, IMAGE)
    assert any(n.target == "lends" for n in structure.graph.find_nodes(op="call_module"))
    torch.testing.assert_close(GraphRun(structure, {}).predict(IMAGE), model(IMAGE))


class Registered:
    """A container that somebody taught torch to open."""

    def __init__(self, skips: list[Any]) -> None:
        self.skips = skips


_pytree.register_pytree_node(
    Registered, lambda r: (list(r.skips), None), lambda skips, _: Registered(list(skips))
)


def test_a_change_that_cannot_be_followed_is_refused_and_the_remedy_works() -> None:
    put, get = STATES["tuple"][1:]
    with pytest.raises(StructureError, match=r"changes the Registered that it is given.*Pass a"):
        read_structure(made((lambda: Registered([]), put, get)), IMAGE)
    model = made((lambda: types.SimpleNamespace(skips=[]), put, get))
    structure = read_structure(model, IMAGE)
    torch.testing.assert_close(GraphRun(structure, {}).predict(IMAGE), model(IMAGE))


class Takes(nn.Module):
    """What it is given is a dictionary with the image, beside a list; it may change both."""

    def __init__(self, change: str) -> None:
        super().__init__()
        self.net, self.change = UNet(), change

    def forward(self, given: dict[str, Tensor], seen: list[Tensor]) -> Any:
        image = given.pop("image") if self.change == "taken" else given["image"]
        if self.change == "replaced":
            given["image"] = image * 2
        if self.change == "put in":
            seen.append(image)
        return self.net(image)


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    ("change", "places"),
    [
        ("none", None),
        ("taken", "given['image']"),
        ("replaced", "given['image']"),
        ("put in", "seen[1]"),
    ],
)
def test_a_change_of_what_a_forward_is_given_is_told(change: str, places: str | None) -> None:
    image = torch.rand(1, 3, 32, 32)
    given, seen = {"image": image}, [image]
    structure = read_structure(Takes(change).eval(), (given, seen))
    told = [note for note in structure.notes if "changes what it is given" in note]
    assert [f"({places}:" in note for note in told] == ([True] if places else [])
    assert [id(value) for value in (*given.values(), *seen)] == [id(image)] * 2
