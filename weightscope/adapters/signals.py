"""Pooling of signals, traced as that of images of one row."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx, nn

from weightscope.adapters.rewriting import Table


def _as_an_image(func: Any, *args: Any, **kwargs: Any) -> Any:
    """Pool signals as images of one row: torch's own pooling of signals fixes their length."""
    names = ("input", "kernel_size", "stride", "padding", "dilation", "ceil_mode", "indices")
    given = dict(zip(names, args, strict=False)) | kwargs
    if given.get("indices") or given.get("return_indices"):
        return func(*args, **kwargs)
    x, ceil = given.pop("input"), given.pop("ceil_mode", False)
    kernel = _one(given["kernel_size"])
    return torch.max_pool2d(
        x.unsqueeze(-2),
        (1, kernel),
        (1, _one(given.get("stride")) or kernel),
        (0, _one(given.get("padding")) or 0),
        (1, _one(given.get("dilation")) or 1),
        ceil,
    ).squeeze(-2)


def _one(value: Any) -> Any:
    """The number in what may be a number or a list of one."""
    return value[0] if isinstance(value, tuple | list) and value else value or None


FREE_POOLS: Table = dict.fromkeys((torch.max_pool1d, nn.functional.max_pool1d), _as_an_image)
"""Keeps the lengths of signals free while they are pooled; ``as_pools_of_signals`` follows."""


def as_pools_of_signals(graph: fx.Graph) -> None:
    """Write the poolings of signals back as such."""
    aten = torch.ops.aten
    for pool in graph.find_nodes(op="call_function", target=aten.max_pool2d.default):
        row, users = pool.args[0], list(pool.users)
        if row.target is not aten.unsqueeze.default or row.args[1] != -2 or len(users) != 1:
            continue
        last = users[0]
        if last.target is not aten.squeeze.dim or last.args[1] != -2:
            continue
        sizes = [[part[1]] for part in pool.args[1:5]]
        with graph.inserting_before(last):
            new = graph.call_function(
                aten.max_pool1d.default, (row.args[0], *sizes, *pool.args[5:])
            )
        new.meta.update(last.meta)
        last.replace_all_uses_with(new)
        for node in (last, pool, row):
            graph.erase_node(node)
