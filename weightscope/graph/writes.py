"""Writes into tensors, as edges of the graph.

``a[:, 0] = b`` writes through a view: the graph shows a view of ``a``, a copy into it, and then
``a`` again, as if nothing had happened. Here whoever reads ``a`` later, or another view of it,
reads it *after* the write, so that what is written counts as what it is made from.
"""

from __future__ import annotations

import operator
from typing import Any, cast

from torch import fx

from weightscope.adapters import schemas
from weightscope.adapters.boundary import AFTER, BOUNDARY
from weightscope.graph.nodes import argument, operator_of


def order_writes(graph: fx.Graph) -> None:
    """Let later readers of a tensor that was written into depend on the write."""
    writes = [node for node in graph.nodes if _written(node)]
    if not writes:
        return
    order = {node: float(index) for index, node in enumerate(graph.nodes)}
    family = _families(graph)
    for write in writes:
        target = _written(write)
        if target is None:
            continue
        marker = _leaving(write)
        for alias in [a for a in family[_family_of(target)] if order[a] < order[marker]]:
            late = [user for user in alias.users if order.get(user, -1.0) > order[marker]]
            if not late or _seen_through(alias, write):
                continue
            with graph.inserting_after(marker):
                after = graph.call_function(AFTER, (alias, marker))
            after.meta.update({k: v for k, v in alias.meta.items() if k in ("val", "region")})
            for user in late:
                user.replace_input_with(alias, after)
            order[after] = order[marker] + 0.5
            family[_family_of(target)].append(after)


def after(tensor: Any, write: Any) -> Any:
    """A tensor, read after something was written into it; what a coarse graph calls."""
    return tensor


def _family_of(node: fx.Node) -> fx.Node:
    """The tensor that a chain of views looks into."""
    while (source := _looked_into(node)) is not None:
        node = source
    return node


def _families(graph: fx.Graph) -> dict[fx.Node, list[fx.Node]]:
    found: dict[fx.Node, list[fx.Node]] = {}
    for node in graph.nodes:
        if node.op in ("call_function", "placeholder"):
            found.setdefault(_family_of(node), []).append(node)
    return found


def writes_into_new(node: fx.Node) -> bool:
    """Whether a node shows memory that was new, with one or more parts of it written.

    A part is without gaps, or has some along every side, as one of the four that a finer map is
    made of: rows that are written every second lie between others of their level.
    """
    if node.target is not AFTER:
        return False
    source, write = node, cast(fx.Node, node.args[1])
    while (before := _looked_into(source)) is not None:
        source = before
    while write.target is BOUNDARY:
        write = cast(fx.Node, write.args[0])
    part, gaps = _written(write), 0
    while part is not None and part.target is not AFTER:
        gaps += argument(part, "step") not in (None, 1)
        part = _looked_into(part)
    return gaps in (0, node.meta["val"].dim() - 2) and operator_of(source).startswith(_NEW)


_NEW = tuple(f"aten::{made}" for made in ("empty", "zeros", "ones", "full", "new_"))


def _seen_through(alias: fx.Node, write: fx.Node) -> bool:
    """Whether an alias is made from the write's own result: it shows what was written."""
    while alias is not write:
        source = _looked_into(alias)
        if source is None:
            return False
        alias = source
    return True


def _leaving(write: fx.Node) -> fx.Node:
    """Where a write's result leaves the module calls that it is made in."""
    node = write
    while True:
        beyond = [u for u in node.users if u.target is BOUNDARY and not u.args[2]]
        if not beyond:
            return node
        node = beyond[0]


def _written(node: fx.Node) -> fx.Node | None:
    """The tensor that an operator writes into."""
    given = (argument(node, name) for name in schemas.writes_into(node.target))
    return next((value for value in given if isinstance(value, fx.Node)), None)


def _looked_into(node: fx.Node) -> fx.Node | None:
    """The tensor that a node shows, where it makes none of its own."""
    if node.op != "call_function":
        return None
    if node.target in (BOUNDARY, AFTER):
        return cast(fx.Node, node.args[0])
    if node.target is operator.getitem:
        source = cast(fx.Node, node.args[0])
        return source if _looked_into(source) is not None else None
    given = (argument(node, name) for name in schemas.looks_into(node.target))
    return next((value for value in given if isinstance(value, fx.Node)), None)
