"""The operator that marks where a tensor enters or leaves a module call.

Running an operator through all of the tracer's layers costs about as much as any real one, and a
traced network has hundreds of marks. Where the tracer is as expected, the mark is therefore written
into its graph directly; elsewhere the operator runs.
"""

from __future__ import annotations

from typing import Any

import torch

try:
    from torch._subclasses.fake_impls import fast_detach
    from torch._subclasses.fake_tensor import FakeTensor
    from torch.fx.experimental.proxy_tensor import (
        _ProxyTensor,
        get_proxy_mode,
        get_proxy_slot,
        set_proxy_slot,
    )

    _DIRECT = True
except ImportError:  # another version of torch
    _DIRECT = False

_LIBRARY = torch.library.Library("weightscope", "DEF")  # type: ignore[no-untyped-call]
_LIBRARY.define(  # type: ignore[no-untyped-call]
    "boundary(Tensor x, int call, bool entry, int position) -> Tensor",
    tags=(torch.Tag.flexible_layout,),  # or the tracer notes beside each mark what it was given
)


def _boundary(x: torch.Tensor, call: int, entry: bool, position: int) -> torch.Tensor:
    return torch.ops.aten.alias(x)  # type: ignore[no-any-return]


_LIBRARY.impl(  # type: ignore[no-untyped-call]
    "boundary", _boundary, "CompositeExplicitAutograd"
)
BOUNDARY = torch.ops.weightscope.boundary.default
_LIBRARY.define("after(Tensor x, Tensor write) -> Tensor")  # type: ignore[no-untyped-call]
_LIBRARY.impl(  # type: ignore[no-untyped-call]
    "after", lambda x, write: torch.ops.aten.alias(x), "CompositeExplicitAutograd"
)
AFTER = torch.ops.weightscope.after.default
"""``after(x, write)`` is ``x``, read after something was written into it."""


def marked(values: list[Any], call: int, *, entry: bool) -> list[Any]:
    """Pass every tensor among the flat arguments or results of a call through the operator.

    Args:
        values: Flat arguments or results.
        call: Number of the call.
        entry: Whether they enter or leave.
    """
    return [
        _mark(value, call, entry, position) if isinstance(value, torch.Tensor) else value
        for position, value in enumerate(values)
    ]


def _mark(x: torch.Tensor, call: int, entry: bool, position: int) -> torch.Tensor:
    recorded = _recorded(x, (call, entry, position))
    return BOUNDARY(x, call, entry, position) if recorded is None else recorded


def _recorded(x: torch.Tensor, arguments: tuple[Any, ...]) -> torch.Tensor | None:
    """An alias of ``x`` whose mark is in the graph; None where the tracer is not as expected."""
    if not _DIRECT:
        return None
    mode = get_proxy_mode()
    if mode is None or not isinstance(x, FakeTensor):
        return None
    slot = get_proxy_slot(x, mode.tracer, None)
    if not isinstance(slot, _ProxyTensor):
        return None
    proxy = mode.tracer.create_proxy("call_function", BOUNDARY, (slot.proxy, *arguments), {})
    proxy.node.meta["val"] = slot.proxy.node.meta["val"]
    alias = fast_detach(x.fake_mode, x)
    set_proxy_slot(alias, mode.tracer, _ProxyTensor(proxy, slot.constant))
    return alias
