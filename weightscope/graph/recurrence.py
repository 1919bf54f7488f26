"""Recurrent layers, kept whole while a network is traced.

The tracer would follow a recurrent layer step by step, so that its graph holds at the length of the
example alone, and is as long. Here each call of one becomes one operator of our own, which holds at
any length and gives every step as many values as the layer does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from weightscope.adapters.rewriting import Table

_LIBRARY = torch.library.Library("weightscope", "FRAGMENT")  # type: ignore[no-untyped-call]
_SETTINGS = (
    "bool has_biases, int num_layers, float dropout, bool train, bool bidirectional,"
    " bool batch_first"
)


def _results(input: Tensor, hx: Any, *settings: Any) -> tuple[Tensor, ...]:
    """What tracing needs of a recurrent layer: its sequence, and its last states."""
    *_, bidirectional, _ = settings
    states = [hx] if isinstance(hx, Tensor) else hx
    features = states[0].shape[-1] * (2 if bidirectional else 1)
    return input.new_empty([*input.shape[:-1], features]), *map(torch.empty_like, states)


def _defined(name: str) -> Any:
    """An operator of our own that stands for a recurrent layer of torch."""
    cells = name == "lstm"
    states, made = ("Tensor[]", "Tensor, Tensor, Tensor") if cells else ("Tensor", "Tensor, Tensor")
    _LIBRARY.define(  # type: ignore[no-untyped-call]
        f"{name}(Tensor input, {states} hx, Tensor[] params, {_SETTINGS}) -> ({made})"
    )
    torch.library.register_fake(f"weightscope::{name}", _results, lib=_LIBRARY)
    # a tracer computes what follows no input (looked up for ids that are held) on numbers
    _LIBRARY.impl(name, getattr(torch, name), "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
    return getattr(torch.ops.weightscope, name).default


_OPERATORS: Mapping[Callable[..., Any], Any] = {
    getattr(torch, name): _defined(name) for name in ("lstm", "gru", "rnn_tanh", "rnn_relu")
}

PLAIN_RECURRENCE: Mapping[Any, Callable[..., Any]] = {
    operator: function for function, operator in _OPERATORS.items()
}
"""The function that runs in the place of each operator."""


def _whole(operator: Any, func: Any, *args: Any, **kwargs: Any) -> Any:
    """Call the operator where the sequences have one length."""
    # packed sequences come as one tensor, their lengths behind it
    has_one_length = len(args) == 9 and isinstance(args[2], list | tuple)
    return (operator if has_one_length else func)(*args, **kwargs)


WHOLE_RECURRENCES: Table = {
    function: partial(_whole, operator) for function, operator in _OPERATORS.items()
}
"""Traces a recurrent layer as one operator, unless its sequences are packed."""
