"""What a network that adds to something answers without its weights: the image, for instance."""

from __future__ import annotations

import operator
from collections.abc import Collection, Sequence

from torch import fx, nn

from weightscope.graph.cuts import makes_tensor, without_weights
from weightscope.graph.structure import Structure


def last_of_weights(structure: Structure) -> frozenset[str]:
    """Names of the nodes at which a network's weights enter its outputs for the last time.

    With zeros in their place a residual network answers with what it adds to: its input, the mean
    of its frames, an image that it computed of measurements. Empty where nothing of the input
    reaches the outputs beside them, so that the answer would be the same for all images.
    """
    graph, model = structure.graph, structure.model
    nodes = list(graph.nodes)
    weights = frozenset(name for name, _ in model.named_parameters())
    reached = _reached(nodes)
    free = without_weights(nodes, model, weights)
    last: set[str] = set()
    beside = False
    (output,) = graph.find_nodes(op="output")
    seen, waiting = {output}, [output]
    while waiting:
        for node in waiting.pop().all_input_nodes:
            if node in seen or node not in reached or not _makes_any(node):
                continue
            seen.add(node)
            if node in free:
                beside = True
            elif _weighs(node, model, free, reached):
                last.add(node.name)
            else:
                waiting.append(node)
    return frozenset(last) if beside else frozenset()


def _makes_any(node: fx.Node) -> bool:
    """Whether a node makes a tensor, or several; no size."""
    return makes_tensor(node) or isinstance(node.meta.get("val"), tuple | list)


def _reached(nodes: Sequence[fx.Node]) -> set[fx.Node]:
    """The inputs and all that is computed of them."""
    found: set[fx.Node] = set()
    for node in nodes:
        if node.op == "placeholder" or any(n in found for n in node.all_input_nodes):
            found.add(node)
    return found


def _weighs(
    node: fx.Node,
    model: nn.Module,
    free: Collection[fx.Node],
    reached: Collection[fx.Node],
) -> bool:
    """Whether weights enter at a node: of its module, or as an argument, or made of such."""
    if node.target is operator.getitem:  # of several results of a module
        source = node.all_input_nodes[0]
        return source not in free and _weighs(source, model, free, reached)
    if node.op == "call_module":
        return next(model.get_submodule(str(node.target)).parameters(), None) is not None
    return any(n not in free and n not in reached for n in node.all_input_nodes)
