"""What a network that adds to something answers without its levels: the image, for instance."""

from __future__ import annotations

import operator
from collections.abc import Sequence

from torch import fx, nn

from weightscope.graph.cuts import makes_tensor
from weightscope.graph.nodes import operator_of
from weightscope.graph.structure import Structure

_BY_ELEMENT = frozenset(f"aten::{name}" for name in ("add", "sub", "rsub", "mul", "div"))
"""Gains and offsets, learned or not, that a base may pass."""

_MOVING = frozenset(
    f"aten::{name}"
    for name in ("sum", "slice", "pad", "clamp", "clamp_min", "view", "reshape", "unsqueeze")
)
"""What else may be done to one learned layer of the input."""

_LINEAR = frozenset(
    f"aten::{name}"
    for name in ("conv1d", "conv2d", "conv3d", "convolution", "linear", "matmul", "einsum")
)
_NORMS = (
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm),
    *(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
    *(nn.GroupNorm, nn.LayerNorm),
)
_LINEAR_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def last_of_weights(structure: Structure) -> tuple[frozenset[str], bool]:
    """Names of the nodes at which the weights of its levels enter a network's outputs last.

    And whether the input reaches the outputs beside them.

    With zeros in their place a residual network answers with what it adds to: its input, the mean
    of its frames, an image that it computed of measurements. What is made at full resolution by
    gains and offsets, by one linear layer (a learned mean of frames) and by layers that are not
    trained where others are, counts as such, and of a part all that is computed before it. Where
    nothing of the input reaches the outputs beside the weights, that is the same for all images.
    """
    graph = structure.graph
    nodes = list(graph.nodes)
    reads = _Weights(structure.model, nodes)
    deep = {name for name, place in structure.places.items() if place.level > 0}
    base = _base([node for node in nodes if node.name not in deep], reads)
    base |= dict.fromkeys(_before(structure.part, nodes, reads), 0)
    last: set[str] = set()
    beside = False
    (output,) = graph.find_nodes(op="output")
    seen, waiting = {output}, [(output, True)]
    while waiting:
        user, linearly = waiting.pop()
        for node in user.all_input_nodes:
            if node in seen or node not in reads.reached or not _makes_any(node):
                continue
            seen.add(node)
            # a learned layer counts for no level if nothing more is made of it
            if node in base and (linearly or base[node] == 0):
                beside = True
            elif node in base or (reads.enter(node) and operator_of(node) not in _BY_ELEMENT):
                last.add(node.name)
            else:
                waiting.append((node, linearly and operator_of(node) in _BY_ELEMENT | _MOVING))
    return frozenset(last), beside


def computed_without_weights(structure: Structure) -> tuple[str, ...]:
    """Names of the nodes whose values meet weights or what these give, but for the inputs.

    They are computed of the input without any weights, trained or not, but for gains, offsets and
    norms: the median of a burst, a filtered image. What is made of them by the last layer alone is
    no work of a level.
    """
    nodes = list(structure.graph.nodes)
    reads = _Weights(structure.model, nodes, frozen=True)
    free: set[fx.Node] = set()
    for node in nodes:
        given = [n for n in node.all_input_nodes if n in reads.reached]
        works = reads.enter(node) and not reads.scales(node)
        if node in reads.reached and not works and all(n in free for n in given):
            free.add(node)
    return tuple(
        node.name
        for node in nodes
        if node in free
        and node.op not in ("placeholder", "output")
        and makes_tensor(node)
        and node.meta["val"].is_floating_point()
        and node.meta["val"].dim() == structure.inputs.rank
        and any(user not in free or user.op == "output" for user in node.users)
    )


class _Weights:
    """Which nodes the input reaches, and where weights enter.

    Args:
        model: The network.
        nodes: All nodes of its graph, in order.
        frozen: Whether weights that are not trained count where others are.
    """

    def __init__(self, model: nn.Module, nodes: Sequence[fx.Node], *, frozen: bool = False) -> None:
        self._model = model
        named = dict(model.named_parameters(remove_duplicate=False))
        trained = {name for name, weight in named.items() if weight.requires_grad or frozen}
        # of a network that is frozen as a whole all are weights
        self._names = trained or set(named)
        self.reached: set[fx.Node] = set()
        self._made_of: set[fx.Node] = set()  # of weights alone
        for node in nodes:
            given = node.all_input_nodes
            if node.op == "placeholder" or any(n in self.reached for n in given):
                self.reached.add(node)
            elif str(node.target) in self._names or any(n in self._made_of for n in given):
                self._made_of.add(node)

    def enter(self, node: fx.Node) -> bool:
        """Whether weights enter at a node: of its module, or as an argument made of them."""
        if node.target is operator.getitem:  # of several results of a module
            source = node.all_input_nodes[0]
            return source in self.reached and self.enter(source)
        if node.op == "call_module":
            own = self._model.get_submodule(str(node.target)).named_parameters(str(node.target))
            return any(name in self._names for name, _ in own)
        return any(n in self._made_of for n in node.all_input_nodes)

    def scales(self, node: fx.Node) -> bool:
        """Whether a node is a gain, an offset or a norm, which is both."""
        if node.target is operator.getitem:
            return self.scales(node.all_input_nodes[0])
        if node.op == "call_module":
            return isinstance(self._model.get_submodule(str(node.target)), _NORMS)
        return operator_of(node) in _BY_ELEMENT or "_norm" in operator_of(node)

    def is_linear(self, node: fx.Node) -> bool:
        """Whether a node is one linear layer."""
        if node.op == "call_module":
            return isinstance(self._model.get_submodule(str(node.target)), _LINEAR_LAYERS)
        return operator_of(node) in _LINEAR


def _base(nodes: Sequence[fx.Node], reads: _Weights) -> dict[fx.Node, int]:
    """The inputs, and what is made of them by gains, offsets and one linear layer at most.

    Returns:
        Whether there was such a layer: 0 or 1.
    """
    layers: dict[fx.Node, int] = {}
    for node in nodes:
        given = [n for n in node.all_input_nodes if n in reads.reached]
        if node not in reads.reached or not all(n in layers for n in given):
            continue
        passed = max((layers[n] for n in given), default=0)
        alone = len(given) == 1 and operator_of(node) in _BY_ELEMENT | _MOVING
        if alone or (passed == 0 and not reads.enter(node)):
            layers[node] = passed
        elif passed == 0 and reads.is_linear(node):
            layers[node] = 1
    return layers


def _before(part: str, nodes: Sequence[fx.Node], reads: _Weights) -> list[fx.Node]:
    """What is computed before a part of the network, that is not of its work; none of no part."""
    of_part: set[fx.Node] = set()
    for node in nodes:
        own = node.op == "call_module" and f"{node.target}.".startswith(f"{part}.")
        if own or any(n in of_part for n in node.all_input_nodes):
            of_part.add(node)
    return [node for node in nodes if part and node in reads.reached and node not in of_part]


def _makes_any(node: fx.Node) -> bool:
    """Whether a node makes a tensor, or several; no size."""
    return makes_tensor(node) or isinstance(node.meta.get("val"), tuple | list)
