"""Parts of a forward that run without autograd or under autocast.

``torch.export`` puts each such part into a graph of its own. Here it is written back into the
graph that it came from, and every node notes its region, in which it runs again.
"""

from __future__ import annotations

import operator
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import fx
from torch.export import ExportedProgram

from weightscope.adapters.needed import needed
from weightscope.restoring import Cleanup

Region = tuple[tuple[Any, ...], ...]
"""The switches around a node, the outermost first: ``("grad", on)`` or ``("autocast", device type,
dtype, on, whether casts are cached)``."""

with needed():
    _GRAD = torch.ops.higher_order.wrap_with_set_grad_enabled
    _AUTOCAST = torch.ops.higher_order.wrap_with_autocast


def region_of(node: fx.Node) -> Region:
    """The switches around a node."""
    return cast(Region, node.meta.get("region", ()))


def autocast_of(node: fx.Node) -> Region:
    """The autocast switches around a node; what is new there is trained, and needs autograd."""
    return tuple(switch for switch in region_of(node) if switch[0] == "autocast")


def without_autograd(graph: fx.Graph) -> frozenset[str]:
    """Names of the modules and tensors that a coarse graph uses without autograd only."""
    off: set[str] = set()
    on: set[str] = set()
    for node in graph.nodes:
        named = [node] if node.op == "call_module" else []
        named += [n for n in node.all_input_nodes if n.op == "get_attr"]
        (off if is_without_autograd(node) else on).update(str(n.target) for n in named)
    return frozenset(off - on)


def is_without_autograd(node: fx.Node) -> bool:
    """Whether autograd is off where a node runs."""
    switches = [values[0] for kind, *values in region_of(node) if kind == "grad"]
    return bool(switches) and not switches[-1]


@contextmanager
def entered(region: Region) -> Iterator[None]:
    """Run something in a region."""
    with Cleanup() as stack:
        for kind, *values in region:
            stack.enter_context(_switch(kind, values))
        yield


def _switch(kind: str, values: list[Any]) -> Any:
    if kind == "grad":
        return torch.set_grad_enabled(values[0])
    device, dtype, on, cached = values
    return torch.autocast(device, dtype=dtype, enabled=on, cache_enabled=cached)


def write_back(program: ExportedProgram) -> None:
    """Write every region's nodes into the graph that it came from."""
    graph = program.graph
    written = False
    while calls := [n for n in graph.nodes if n.target in (_GRAD, _AUTOCAST)]:
        for call in calls:
            _inline(program, call)
        written = True
    if written:
        for node in [n for n in graph.nodes if n.op == "get_attr" and not n.users]:
            graph.erase_node(node)
        graph.lint()


def _inline(program: ExportedProgram, call: fx.Node) -> None:
    graph = program.graph
    switches = 1 if call.target is _GRAD else 4
    kind = "grad" if call.target is _GRAD else "autocast"
    inside = (*region_of(call), (kind, *call.args[:switches]))
    body, *operands = call.args[switches:]
    source: Any = getattr(program.graph_module, str(cast(fx.Node, body).target))
    known: dict[fx.Node, Any] = {}
    given = iter(operands)
    with graph.inserting_before(call):
        for node in source.graph.nodes:
            if node.op == "placeholder":
                known[node] = next(given)
            elif node.op == "get_attr":  # a region within this one
                name = f"{cast(fx.Node, body).target}_{node.target}"
                setattr(program.graph_module, name, getattr(source, node.target))
                known[node] = graph.get_attr(name)
            elif node.op != "output":
                known[node] = graph.node_copy(node, lambda n: known[n])
                known[node].meta["region"] = inside
            else:
                results = cast(Any, fx.map_arg(node.args[0], lambda n: known[n]))
    signature = program.graph_signature
    for item in list(call.users):
        if item.target is not operator.getitem:
            raise NotImplementedError(f"{item} reads a region as a whole")
        result = results[item.args[1]]
        if any(user.op == "output" for user in item.users):
            signature.replace_all_uses(item.name, result.name)
        item.replace_all_uses_with(result)
        graph.erase_node(item)
    graph.erase_node(call)


# --- running ------------------------------------------------------------------------------------


_OPEN = threading.local()


def _opened() -> list[Cleanup]:
    if not hasattr(_OPEN, "stacks"):
        _OPEN.stacks = []
    return cast(list[Cleanup], _OPEN.stacks)


def _enter(region: Region) -> None:
    stack = Cleanup()
    stack.enter_context(entered(region))
    _opened().append(stack)


def _leave() -> None:
    _opened().pop().close()


@contextmanager
def left_on_failure() -> Iterator[None]:
    """Leave the regions that a failing run of a graph has entered."""
    before = len(_opened())
    try:
        yield
    finally:
        while len(_opened()) > before:
            _leave()


def with_switches(graph: fx.Graph) -> fx.Graph:
    """A copy of a coarse graph that switches autograd and autocast where its regions say so.

    The same graph where there are none.
    """
    if not any(region_of(node) for node in graph.nodes):
        return graph
    copy = fx.Graph()
    known: dict[fx.Node, fx.Node] = {}
    region: Region = ()
    for node in graph.nodes:
        runs = node.op in ("call_function", "call_module", "output")
        own = region_of(node) if runs else region
        if own != region:
            if region:
                copy.call_function(_leave)
            if own:
                copy.call_function(_enter, (own,))
            region = own
        known[node] = copy.node_copy(node, lambda n: known[n])
    return copy
