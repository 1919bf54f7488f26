"""Learned queries that attend to what the image reaches: as many vectors for every image."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from torch import fx

from weightscope.adapters.symbols import hint
from weightscope.graph.nodes import first_tensor, operator_of, tensor_of
from weightscope.graph.operators import facts


class Queries:
    """Follows queries from one operation of a graph to the next.

    Args:
        images: The inputs.

    Attributes:
        answered: What makes such vectors, of all that was noted.
    """

    def __init__(self, images: Iterable[fx.Node]) -> None:
        self._positions = set(images)
        self.answered: set[fx.Node] = set()
        self._several: set[fx.Node] = set()
        self._alike: dict[fx.Node, tuple[int, int]] = {}

    def note(self, node: fx.Node, feeds: Collection[fx.Node], pooled: Collection[fx.Node]) -> bool:
        """Learn what the next operation makes of queries, and whether it makes such vectors.

        Args:
            node: The operation.
            feeds: What of all that it is given the image reaches.
            pooled: What is known to be global.
        """
        self._positions -= {n for n in feeds if n in pooled}
        if (likeness := self._likeness(node)) is not None:
            self._alike[node] = likeness
        answers = any(n in self.answered for n in feeds)
        if answers and all(n in self.answered or n in pooled for n in feeds):
            self._several.add(node)
        elif not self._asks(node):
            self._positions.add(node)
            return False
        self.answered.add(node)
        return True

    def place(self, node: fx.Node, factor: Mapping[fx.Node, float]) -> float | None:
        """P_input / P of queries that asked at several levels: that of the shallowest of them.

        Args:
            node: The operation.
            factor: P_input / P of all before it.
        """
        if node not in self._several:
            return None
        return min(factor[n] for n in node.all_input_nodes if n in factor)

    def _asks(self, node: fx.Node) -> bool:
        """Whether queries, which are learned or have asked before, attend to positions."""
        asked = node.args[0] if node.args else None
        view, value = facts(operator_of(node)).view, first_tensor(node)
        if not isinstance(asked, fx.Node):
            return False
        if view == "product" and asked in self._alike and value is not None:
            weights = tensor_of(asked)
            number = None if weights is None else hint(weights.shape[-1])
            return (hint(value.shape[-2]), number) == self._alike[asked]
        # of a table (a codebook) a vector is looked up for each position
        looks_up = operator_of(node) in ("aten::gather", "aten::index_select")
        return view == "whole" and not looks_up and asked not in self._positions

    def _likeness(self, node: fx.Node) -> tuple[int, int] | None:
        """How many queries a product is alike to how many positions; None of all else.

        So are what only scales and normalises it.
        """
        value = tensor_of(node)
        if value is None or value.dim() < 3:
            return None
        shape = hint(value.shape[-2]), hint(value.shape[-1])
        if facts(operator_of(node)).view == "product":
            factors = [n for n in node.args if isinstance(n, fx.Node)][-2:]  # a mask may be added
            told = [n in self._positions for n in factors]
            return shape if told == [False, True] else None
        reached = [n for n in node.all_input_nodes if n in self._positions]
        return shape if reached and all(self._alike.get(n) == shape for n in reached) else None
