"""Whether what comes back from a level tells its positions apart."""

from __future__ import annotations

from torch import fx

from weightscope.adapters.symbols import grows
from weightscope.graph.nodes import is_size, tensor_of
from weightscope.graph.structure import Cut, Structure


def comes_back_as_vectors(structure: Structure, cut: Cut) -> bool:
    """Whether all that comes back up from a cut becomes one vector for a whole image.

    A squeeze that scales the features above is one: its mean may be taken above the cut. As long as
    a map that came back meets no other map and is not returned, it may still become one.
    """
    nodes = {node.name: node for node in structure.graph.nodes}
    exits = [nodes[site.node] for site in cut.exits]
    maps: set[fx.Node] = set()
    waiting = list(exits)
    while waiting:
        node = waiting.pop()
        if node in maps or is_size(node) or _is_vector(node):
            continue
        if node.op == "output":
            return False
        maps.add(node)
        waiting += [user for user in node.users if user.name not in cut.removed]
    met = (n for node in maps.difference(exits) for n in node.all_input_nodes)
    return not any(
        n not in maps
        and n.op != "get_attr"
        and n.name not in cut.removed
        and tensor_of(n) is not None
        and not _is_vector(n)
        for n in met
    )


def _is_vector(node: fx.Node) -> bool:
    """Whether a node makes numbers of one position: but for channels its axes are of length 1."""
    value = tensor_of(node)
    if value is None:
        return False
    longer = [size for size in value.shape[1:] if size != 1]
    return len(longer) <= 1 and not any(map(grows, longer))
