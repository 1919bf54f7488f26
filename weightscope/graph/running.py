"""Run a network's coarse graph on data, with some of its tensors replaced on the way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx

from weightscope.adapters import pytree
from weightscope.calls import call_arguments, to_device
from weightscope.graph.structure import Site, Structure


class GraphRun(fx.Interpreter):
    """Runs a coarse graph over the user's own modules, changing some of its tensors on the way.

    Args:
        structure: The network.
        change: For node names, what to make of the computed tensor.
    """

    def __init__(
        self, structure: Structure, change: Mapping[str, Callable[[Tensor], Tensor]]
    ) -> None:
        super().__init__(structure.model, graph=structure.graph)
        self.structure = structure
        self.change = change

    def fetch_attr(self, target: str) -> Any:
        """Look a name up among the graph's constants, then in the model."""
        if target in self.structure.constants:
            return self.structure.constants[target]
        return super().fetch_attr(target)

    def run_node(self, n: fx.Node) -> Any:
        """Run one node, and change its value where that was asked for."""
        value = super().run_node(n)
        return self.change[n.name](value) if n.name in self.change else value

    def predict(self, inputs: Any) -> Any:
        """Return what the model returns for the inputs of one batch."""
        args, kwargs = call_arguments(to_device(inputs, self.structure.model))
        flat = [x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        return pytree.tree_unflatten(list(self.run(*flat)), self.structure.output_spec)


def channel_axis(site: Site) -> int:
    """Which axis of an exit tensor holds its channels."""
    return 1 if site.layout in ("channels_first", "tokens_first") else -1


class MeanActivation:
    """Running mean of a tensor over images and positions, channel by channel."""

    def __init__(self, axis: int) -> None:
        self.axis = axis
        self.total: Tensor | float = 0.0
        self.count = 0

    def add(self, value: Tensor) -> Tensor:
        """Add one batch, and return it as it is."""
        rows = value.detach().movedim(self.axis, -1).flatten(0, -2).double()
        self.total = self.total + rows.sum(0)
        self.count += len(rows)
        return value

    def replace(self, value: Tensor) -> Tensor:
        """The mean in the shape and type of ``value``."""
        mean = torch.as_tensor(self.total / self.count).to(value.dtype)
        last = value.movedim(self.axis, -1)
        return mean.expand_as(last).movedim(-1, self.axis)
