"""What a forward leaves in its modules, and whether later calls depend on it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from weightscope.adapters import pytree
from weightscope.adapters.dispatch import TorchDispatchMode, storage_of
from weightscope.adapters.schemas import schema_name
from weightscope.graph.operators import facts


class Descent(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes what is computed from some tensors while it is on.

    Args:
        origins: The tensors, by what they are called.
    """

    def __init__(self, origins: Mapping[str, Iterable[torch.Tensor]]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._names: dict[int, frozenset[str]] = {}
        self._alive: list[torch.Tensor] = []  # or another tensor may get the memory
        for name, tensors in origins.items():
            for tensor in tensors:
                self._note(tensor, frozenset([name]))

    def of(self, values: Any) -> frozenset[str]:
        """The names of the tensors that any of some values was computed from."""
        tensors = pytree.tree_tensors(values)
        return frozenset().union(*(self._names.get(storage_of(t), frozenset()) for t in tensors))

    def _note(self, tensor: torch.Tensor, names: frozenset[str]) -> None:
        self._names[storage_of(tensor)] = names
        self._alive.append(tensor)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        names = self.of((args, kwargs))
        made = func(*args, **(kwargs or {}))
        if names and facts(schema_name(func).removesuffix("_")).view != "none":
            for value in pytree.tree_leaves(made):
                if isinstance(value, torch.Tensor):
                    self._note(value, names | self.of(value))
        return made
