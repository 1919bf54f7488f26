"""Forwards that leave tensors in their modules, and those whose next call uses them."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weightscope.calls import held_tensors
from weightscope.cost import count_costs
from weightscope.graph import Structure, read_structure, rebuild
from weightscope.truncation import verify
from weightscope.truncation.building import build, draft
from weightscope.truncation.plan import find_cut, make_plan

IMAGE = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """Two levels; what its forward keeps, a test says."""

    def __init__(self, around: Callable[..., Any] | None = None, **attributes: Any) -> None:
        super().__init__()
        self.top, self.deep = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 8, 3, padding=1)
        self.up, self.out = nn.Conv2d(12, 4, 3, padding=1), nn.Conv2d(4, 2, 1)
        self.around = around
        for name, value in attributes.items():
            setattr(self, name, value)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        top = F.relu(self.top(x))
        return top, F.relu(self.deep(F.max_pool2d(top, 2)))

    def decode(self, top: Tensor, deep: Tensor) -> Tensor:
        deep = F.interpolate(deep, scale_factor=2.0)
        return self.out(F.relu(self.up(torch.cat([deep, top], 1))))

    def forward(self, x: Tensor, *more: Tensor) -> Any:
        return self.decode(*self.encode(x)) if self.around is None else self.around(self, x, *more)


def attribute(net: Net, x: Tensor) -> Tensor:
    net.features = net.encode(x)
    return net.decode(*net.features)


def listed(net: Net, x: Tensor) -> Tensor:
    top, deep = net.encode(x)
    net.maps.append(deep)
    return net.decode(top, net.maps[-1])


def in_a_dictionary(net: Net, x: Tensor) -> Tensor:
    top, deep = net.encode(x)
    net.store["deep"] = deep.mean((2, 3))
    return net.decode(top, deep)


@dataclass
class Store:
    maps: list[Tensor] = field(default_factory=list)


class Slotted:
    __slots__ = ("map",)


def in_an_object(net: Net, x: Tensor) -> Tensor:
    top, deep = net.encode(x)
    net.space.deep = deep
    return net.decode(top, deep)


def deep_in_an_object(net: Net, x: Tensor) -> Tensor:
    top, deep = net.encode(x)
    net.space.store.maps.append(top)
    return net.decode(top, deep)


def in_slots(net: Net, x: Tensor) -> Tensor:
    net.slotted.map = x
    return net.decode(*net.encode(x))


def remembers_in_an_object(net: Net, x: Tensor) -> Tensor:
    top, deep = net.encode(x)
    net.space.last = deep = 0.5 * (deep + getattr(net.space, "last", deep))
    return net.decode(top, deep)


def the_image(net: Net, x: Tensor) -> Tensor:
    net.image = x
    return net.decode(*net.encode(x))


def recurrent(net: Net, x: Tensor) -> Tensor:
    top, deep = net.encode(x)
    net.last = deep if net.last is None else 0.5 * (net.last + deep)
    return net.decode(top, net.last)


def frames(net: Net, x: Tensor) -> Tensor:
    top, deep = net.encode(x)
    net.seen.append(deep.detach())
    return net.decode(top, torch.stack(list(net.seen)).mean(0))


def compares(net: Net, x: Tensor) -> Tensor:
    top, deep = net.encode(x)
    known = getattr(net, "before", None)
    net.before = deep
    return net.decode(top, deep if known is None else torch.maximum(known, deep))


def pops(net: Net, x: Tensor) -> Tensor:
    top, deep = net.encode(x)
    net.maps.append(top)
    return net.decode(net.maps.pop(), deep)


def counts(net: Net, x: Tensor) -> Tensor:
    net.calls += 1
    net.size = x.shape[2:]
    return net.decode(*net.encode(x))


def caches(net: Net, x: Tensor) -> Tensor:
    top, deep = net.encode(x)
    if net.mask is None or net.mask.shape != deep.shape:
        net.mask = torch.ones_like(deep)
    return net.decode(top, deep * net.mask)


def attributes(net: nn.Module) -> Any:
    """All that a forward could leave behind."""
    return [
        {
            k: list(v) if isinstance(v, list | deque) else v
            for k, v in vars(m).items()
            if k[0] != "_"
        }
        for m in net.modules()
    ]


def variant_of(structure: Structure) -> Any:
    costs = count_costs(structure.model, structure.inputs)
    return build(
        structure,
        draft(structure, make_plan(structure, find_cut(structure, 1), "pool"), costs).plan,
    )


CASES = [
    (attribute, {}, "leaves tensors in features;"),
    (listed, {"maps": []}, "leaves tensors in maps;"),
    (in_a_dictionary, {"store": {}}, "leaves tensors in store;"),
    (the_image, {}, "leaves tensors in image;"),
    (in_an_object, {"space": SimpleNamespace()}, "leaves tensors in space;"),
    (deep_in_an_object, {"space": SimpleNamespace(store=Store())}, "leaves tensors in space;"),
    (in_slots, {"slotted": Slotted()}, "leaves tensors in slotted;"),
    (remembers_in_an_object, {"space": SimpleNamespace()}, "earlier calls left in space;"),
    (recurrent, {"last": None}, "depends on what earlier calls left in last;"),
    (frames, {"seen": deque(maxlen=3)}, "depends on what earlier calls left in seen;"),
    (compares, {}, "depends on what earlier calls left in before;"),
    (pops, {"maps": []}, ""),
    (counts, {"calls": 0}, ""),
    (counts, {"calls": 0, "size": torch.Size([1])}, ""),
    (caches, {"mask": None}, ""),
]


@pytest.mark.sample(2)
@pytest.mark.parametrize(("around", "kept", "said"), CASES, ids=[c[0].__name__ for c in CASES])
def test_what_a_forward_leaves_is_told_and_the_model_is_as_it_was(
    around: Callable[..., Tensor], kept: dict[str, Any], said: str
) -> None:
    net = Net(around, **copy.deepcopy(kept)).eval()
    before = attributes(net)
    structure = read_structure(net)
    assert attributes(net) == before
    assert [said in note for note in structure.notes] == ([True] if said else [])
    assert structure.sizes == "symbolic"
    first = copy.deepcopy(net)(IMAGE)
    if around in (listed, frames):
        assert verify(variant_of(structure), sizes=[IMAGE], export=False).failures == ()
        assert attributes(net) == before
    graph = rebuild(structure).eval()
    assert torch.equal(graph(IMAGE), first)
    assert torch.equal(graph(IMAGE), first)


def test_what_hooks_of_the_model_leave_is_read_too() -> None:
    net = Net(listed, maps=[], told=torch.ones(2)).eval()
    net.register_forward_pre_hook(lambda model, args: delattr(model, "told"))
    net.register_forward_hook(lambda model, args, made: setattr(model, "made", made))
    structure = read_structure(net)
    assert "leaves tensors in maps, made;" in structure.notes[0]
    assert list(net.told) == [1, 1]
    assert not hasattr(net, "made")


def test_a_state_that_is_handed_over_is_read_and_kept() -> None:
    def handed(net: Net, x: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
        top, deep = net.encode(x)
        last = 0.5 * (last + deep)
        return net.decode(top, last), last

    net, last = Net(handed).eval(), torch.randn(2, 8, 8, 8)
    structure = read_structure(net, (IMAGE, last))
    assert structure.notes == ()
    graph, wanted = rebuild(structure), net(*(IMAGE, net(IMAGE, last)[1]))
    assert torch.equal(graph(IMAGE, graph(IMAGE, last)[1])[0], wanted[0])


def test_what_a_block_leaves_that_a_variant_calls_whole_is_left_there_too() -> None:
    class Block(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            self.seen = super().forward(x)
            return F.relu(self.seen)

    net = Net()
    net.deep = Block(4, 8, 3, padding=1)
    structure = read_structure(net)
    assert structure.notes == ()
    graph = rebuild(structure)
    graph(IMAGE)
    assert graph.deep.seen.shape == (2, 8, 8, 8)


@pytest.mark.sample(1)
@pytest.mark.parametrize("around", [listed, recurrent])
def test_a_model_that_has_run_is_read_and_keeps_what_it_left(around: Callable[..., Tensor]) -> None:
    net = Net(around, maps=[], store={}, last=None)
    net(IMAGE)
    before = [(name, id(tensor)) for name, tensor in held_tensors(net)]
    structure = read_structure(net, IMAGE)
    assert [(name, id(tensor)) for name, tensor in held_tensors(net)] == before
    assert len(structure.notes) == 1
    assert verify(variant_of(structure), export=False).failures == ()


class State(nn.Module):
    """Keeps a state of zeros for each size, as recurrent cells do that get none."""

    def __init__(self) -> None:
        super().__init__()
        self.gates, self.zeros = nn.Conv2d(16, 8, 3, padding=1), dict[Any, Tensor]()

    def forward(self, x: Tensor) -> Tensor:
        size = (x.size(0), 8, *list(x.size()[2:]))
        if size not in self.zeros:
            self.zeros[size] = torch.zeros(size, dtype=x.dtype).to(x.device)
        return torch.sigmoid(self.gates(torch.cat((x, self.zeros[size]), 1)))


class Recurrent(nn.Module):
    """Looks at each level through such a cell."""

    def __init__(self) -> None:
        super().__init__()
        self.top, self.down = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, 2, 1)
        self.cells, self.out = nn.ModuleList([State(), State()]), nn.Conv2d(8, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        top = self.cells[0](self.top(x))
        deep = self.cells[1](self.down(top))
        return self.out(top + nn.functional.interpolate(deep, scale_factor=2))


def test_states_that_are_kept_for_each_size_hold_none() -> None:
    model = Recurrent().eval()
    structure = read_structure(model)
    assert structure.sizes == "symbolic"
    assert structure.notes == ()
    assert all(cell.zeros == {} for cell in model.cells)
    variant, image = variant_of(structure), torch.rand(3, 3, 48, 80)
    assert variant.module(image).shape == (3, 1, 48, 80)
