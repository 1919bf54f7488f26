"""Which parameters that stay lose, with the outputs that a cut drops, what trains them.

A loss that is summed over all levels goes with the deepest one. A codebook of a level that stays,
which gets its gradient from that loss alone, is kept as it is then, and cannot be trained.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, fx, nn

from weightscope.adapters.regions import is_without_autograd
from weightscope.graph.levels import live_nodes
from weightscope.graph.nodes import operator_of
from weightscope.graph.structure import Cut, Structure

_DETACHES = ("aten::detach", "aten::detach_copy")


def untrained(structure: Structure, cut: Cut) -> tuple[str, ...]:
    """Parameters that an output which the cut drops trains, and no other one.

    Args:
        structure: The network.
        cut: Where it is cut.

    Returns:
        Qualified names, also of parameters that go with the levels below the cut.
    """
    (end,) = structure.graph.find_nodes(op="output")
    left = [node for node in end.all_input_nodes if node.name not in cut.removed]
    if len(left) == len(end.all_input_nodes):
        return ()
    lost = _trained_by(structure, end.all_input_nodes) - _trained_by(structure, left, cut)
    return tuple(name for name, p in structure.model.named_parameters() if id(p) in lost)


def of_training_alone(structure: Structure) -> frozenset[str]:
    """Qualified names of parameters that train mode alone reads, where it does something else.

    A variant returns in both modes what evaluation mode does.
    """
    if structure.modes_agree:
        return frozenset()
    names = structure.program.graph_signature.inputs_to_parameters
    live, model = live_nodes([*structure.program.graph.nodes]), structure.model
    read = {id(model.get_parameter(names[n.name])) for n in live if n.name in names}
    unread = (name for name, parameter in model.named_parameters() if id(parameter) not in read)
    return frozenset(unread).difference(structure.dead_parameters)


def _trained_by(
    structure: Structure, outputs: Iterable[fx.Node], cut: Cut | None = None
) -> set[int]:
    """Identities of the parameters to which a gradient goes from some outputs."""
    nodes = {node.name: node for node in structure.graph.nodes}
    runs = () if cut is None else cut.runs
    below = {site.node: entering for entering, leaving in runs for site in leaving}
    waiting, reached, found = [*outputs], set[fx.Node](), set[int]()
    while waiting:
        node = waiting.pop()
        if node in reached or not _passes_gradients(node):
            continue
        reached.add(node)
        if node.name in below:  # through the bottleneck, which reads all that enters
            waiting += [nodes[site.node] for site in below[node.name]]
            continue
        waiting += node.all_input_nodes
        found |= {id(parameter) for parameter in _own_parameters(node, structure.model)}
    return found


def _passes_gradients(node: fx.Node) -> bool:
    value = node.meta.get("val")
    if isinstance(value, Tensor) and not (value.is_floating_point() or value.is_complex()):
        return False
    return operator_of(node) not in _DETACHES and not is_without_autograd(node)


def _own_parameters(node: fx.Node, model: nn.Module) -> list[nn.Parameter]:
    """The parameters that a node stands for, or those of the module that it calls."""
    if node.op == "call_module":
        return [*model.get_submodule(str(node.target)).parameters()]
    if node.op != "get_attr":
        return []
    owner, _, name = str(node.target).rpartition(".")
    try:
        found = getattr(model.get_submodule(owner), name, None)
    except AttributeError:  # a constant that the trace made
        return []
    return [found] if isinstance(found, nn.Parameter) else []
