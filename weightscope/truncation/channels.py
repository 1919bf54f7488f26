"""Which kept weights must be re-cut when the tensors that leave a cut change their width.

A change of channels is followed through the exported graph from the exits to the layers that mix
channels: convolutions and linear layers take it up in their input dimension, concatenations shift
it, normalisation and pointwise layers hand it on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, fx, nn

from weightscope.adapters.symbols import hint
from weightscope.errors import TruncationError
from weightscope.graph.nodes import argument, is_size, operator_of, owner_of
from weightscope.graph.operators import facts
from weightscope.graph.structure import Cut, Site, Structure


@dataclass(frozen=True)
class Recut:
    """How one tensor of the model is re-cut along one dimension.

    Attributes:
        tensor: Qualified name.
        dimension: Dimension that changes.
        source: For each new index the old index whose slice it keeps, or -1 for a fresh slice.
    """

    tensor: str
    dimension: int
    source: tuple[int, ...]


@dataclass(frozen=True)
class _Channels:
    """Where a tensor's channels lie, and where each of them comes from (-1: fresh)."""

    dimension: int
    source: tuple[int, ...]


def plan_recuts(structure: Structure, cut: Cut, channels: Sequence[int]) -> tuple[Recut, ...]:
    """Find the tensors that a new width of the exits changes.

    Args:
        structure: The network.
        cut: Where it is cut.
        channels: New number of channels of each exit of one run.

    Returns:
        One Recut per tensor and dimension, in the order of the graph.

    Raises:
        TruncationError: The change cannot be taken up; the text names the operator.
    """
    changed = [
        (s, c) for s, c in zip(cut.exits, [*channels] * cut.times, strict=True) if s.channels != c
    ]
    if not changed:
        return ()
    coarse = {node.name: node for node in structure.graph.nodes}
    fine = {node.name: node for node in structure.program.graph.nodes}
    exits = {fine[coarse[s.node].meta["fine"]]: s for s in cut.exits}
    outputs = _outputs(structure, cut)
    follow = _Follower(structure, _kept(structure, outputs, set(exits)))
    for site, count in changed:
        node = fine[coarse[site.node].meta["fine"]]
        source = tuple(i if i < site.channels else -1 for i in range(count))
        follow.channels[node] = _Channels(_dimension(site, node), source)
    recuts = follow.run()
    if any(node in follow.channels for node in outputs):
        raise TruncationError(
            f"the changed channels reach an output of the network unchanged; {_REMEDY}"
        )
    return recuts


def _dimension(site: Site, node: fx.Node) -> int:
    if site.parts:
        raise TruncationError(
            f"the exits cannot change their number of channels: those of {site.node} are"
            f" {' x '.join(map(str, site.parts))}; {_REMEDY}"
        )
    return site.channel_axes[0] % cast(Tensor, node.meta["val"]).dim()


_REMEDY = (
    "let them keep it: the light bottleneck with exit_channels at its default returns as many"
    " channels as what it replaces"
)


def _outputs(structure: Structure, cut: Cut) -> list[fx.Node]:
    """Fine nodes of the outputs that a cut keeps."""
    coarse = structure.graph.output_node().args[0]
    names = structure.program.graph_signature.user_outputs
    results = cast(Any, structure.program.graph.output_node().args[0])
    return [
        made
        for made, node in zip(results[len(results) - len(names) :], cast(Any, coarse), strict=True)
        if isinstance(made, fx.Node) and isinstance(node, fx.Node) and node.name not in cut.removed
    ]


def _kept(structure: Structure, outputs: list[fx.Node], exits: set[fx.Node]) -> list[fx.Node]:
    """Fine nodes above the cut, in order: ancestors of the kept outputs up to the exits."""
    front, kept = list(outputs), set[fx.Node]()
    while front:
        node = front.pop()
        if node not in kept and node not in exits:
            kept.add(node)
            front.extend(node.all_input_nodes)
    return [node for node in structure.program.graph.nodes if node in kept]


class _Follower:
    """Carries changed channels through the kept part of the exported graph."""

    def __init__(self, structure: Structure, kept: Sequence[fx.Node]) -> None:
        signature = structure.program.graph_signature
        self.names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        self.kept = kept
        self.channels: dict[fx.Node, _Channels] = {}
        self.recuts: dict[tuple[str, int], Recut] = {}
        self.readers: dict[str, set[fx.Node]] = {}

    def run(self) -> tuple[Recut, ...]:
        for node in self.kept:
            if any(n in self.channels for n in node.all_input_nodes):
                self._step(node)
        self._check_readers()
        return tuple(self.recuts.values())

    def _step(self, node: fx.Node) -> None:
        if is_size(node):
            return
        kind = facts(operator_of(node)).channels
        steps: Mapping[str | None, Callable[[fx.Node], None]] = {
            "convolution": self._convolution,
            "linear": self._linear,
            "norm": self._norm,
            "layer_norm": self._layer_norm,
            "prelu": self._prelu,
            "cat": self._cat,
            "permute": self._permute,
            "reshape": self._reshape,
            "positions": self._positions,
            "reduction": self._reduction,
            "pointwise": self._pointwise,
            None: self._refuse,
        }
        steps[kind](node)

    # --- layers that take a change up ----------------------------------------------------------

    def _convolution(self, node: fx.Node) -> None:
        given = self._only(node, 0)
        weight = cast(fx.Node, node.args[1])
        transposed = facts(operator_of(node)).raises
        groups = cast(int, argument(node, "groups"))
        if given.dimension != 1 or weight.meta["val"].dim() != _tensor(node).dim():
            self._refuse(node, "runs over another dimension than the channels")
        if groups == 1:
            self._recut(weight, 0 if transposed else 1, given.source, node)
            return
        if transposed or groups != weight.meta["val"].shape[0]:
            self._refuse(node, f"has {groups} groups of channels")
        self._recut(weight, 0, given.source, node)
        if len(node.args) > 2 and isinstance(node.args[2], fx.Node):
            self._recut(node.args[2], 0, given.source, node)
        self.channels[node] = given

    def _linear(self, node: fx.Node) -> None:
        given = self._only(node, 0)
        if given.dimension != _tensor(cast(fx.Node, node.args[0])).dim() - 1:
            self._refuse(node, "runs over another dimension than the channels")
        self._recut(cast(fx.Node, node.args[1]), 1, given.source, node)

    # --- layers that hand it on ----------------------------------------------------------------

    def _norm(self, node: fx.Node) -> None:
        given = self._only(node, 0)
        if given.dimension != 1:
            self._refuse(node, "normalises another dimension than the channels")
        groups = cast("int | None", argument(node, "num_groups"))
        if groups is not None:
            old = len(self._old(node))
            if groups != old and len(given.source) % groups:
                self._refuse(node, f"has {groups} groups, which do not divide {len(given.source)}")
        for name in ("weight", "bias", "running_mean", "running_var"):
            tensor = argument(node, name)
            if isinstance(tensor, fx.Node):
                self._recut(tensor, 0, given.source, node)
        self.channels[node] = given

    def _layer_norm(self, node: fx.Node) -> None:
        given = self._only(node, 0)
        if given.dimension != _tensor(node).dim() - 1 or len(cast(Any, node.args[1])) != 1:
            self._refuse(node, "normalises other dimensions than the channels")
        for weight in node.args[2:4]:
            if isinstance(weight, fx.Node):
                self._recut(weight, 0, given.source, node)
        self.channels[node] = given

    def _prelu(self, node: fx.Node) -> None:
        given = self._only(node, 0)
        weight = cast(fx.Node, node.args[1])
        if weight.meta["val"].numel() > 1:
            self._recut(weight, 0, given.source, node)
        self.channels[node] = given

    def _cat(self, node: fx.Node) -> None:
        parts = cast(Sequence[fx.Node], node.args[0])
        rank = _tensor(node).dim()
        along = cast(int, argument(node, "dim")) % rank
        touched = [self.channels[p] for p in parts if p in self.channels]
        dimension = touched[0].dimension
        if any(t.dimension != dimension for t in touched):
            self._refuse(node, "joins different layouts")
        if along != dimension:
            if len(touched) != len(parts) or len({t.source for t in touched}) > 1:
                self._refuse(node, "joins it to tensors with the old number of channels")
            self.channels[node] = touched[0]
            return
        source: list[int] = []
        offset = 0
        for part in parts:
            width = hint(_tensor(part).shape[dimension])
            own = self.channels[part].source if part in self.channels else tuple(range(width))
            source += [i if i < 0 else i + offset for i in own]
            offset += width
        self.channels[node] = _Channels(dimension, tuple(source))

    def _pointwise(self, node: fx.Node) -> None:
        rank = _tensor(node).dim()
        touched = [(n, self.channels[n]) for n in node.all_input_nodes if n in self.channels]
        from_right = {c.dimension - _tensor(n).dim() for n, c in touched}
        if len(from_right) > 1 or len({c.source for _, c in touched}) > 1:
            self._refuse(node, "joins differently changed channels")
        (right,) = from_right
        source = touched[0][1].source
        for other in node.all_input_nodes:
            value = other.meta.get("val")
            if other in self.channels or not isinstance(value, Tensor):
                continue
            if value.dim() >= -right and value.shape[right] != 1:
                if other.name not in self.names:
                    self._refuse(node, "joins it to a tensor with the old number of channels")
                self._recut(other, value.dim() + right, source, node)
        self.channels[node] = _Channels(rank + right, source)

    def _positions(self, node: fx.Node) -> None:
        given = self._only(node, 0)
        rank = _tensor(node).dim()
        if facts(operator_of(node)).view == "slice":
            start, end = argument(node, "start"), argument(node, "end")
            whole = start in (None, 0) and (end is None or (isinstance(end, int) and end > 2**31))
            touched = cast(int, argument(node, "dim")) % rank == given.dimension and not whole
        else:
            amounts = cast(Sequence[Any], node.args[1])
            behind = rank - 1 - given.dimension
            touched = any(a != 0 for a in amounts[2 * behind : 2 * behind + 2])
        if touched:
            self._refuse(node, "changes the channels by their number")
        self.channels[node] = given

    def _permute(self, node: fx.Node) -> None:
        given = self._only(node, 0)
        order = torch.empty([1] * _tensor(node).dim(), device="cpu")
        marked = order.expand([i + 2 for i in range(order.dim())])
        moved = cast(Any, node.target)(marked, *node.args[1:], **node.kwargs)
        self.channels[node] = _Channels(list(moved.shape).index(given.dimension + 2), given.source)

    def _reshape(self, node: fx.Node) -> None:
        given = self._only(node, 0)
        before = [hint(s) for s in _tensor(cast(fx.Node, node.args[0])).shape]
        after = [hint(s) for s in _tensor(node).shape]
        ahead = _product(before[: given.dimension])
        for dimension, size in enumerate(after):
            if size == before[given.dimension] and _product(after[:dimension]) == ahead:
                self.channels[node] = _Channels(dimension, given.source)
                return
        self._refuse(node, "folds the channels into other dimensions")

    def _reduction(self, node: fx.Node) -> None:
        given = self._only(node, 0)
        rank = _tensor(cast(fx.Node, node.args[0])).dim()
        dims = argument(node, "dim")
        dims = list(range(rank)) if dims in (None, []) else dims
        dims = [d % rank for d in (dims if isinstance(dims, list | tuple) else [dims])]
        if given.dimension in dims:
            return  # taken up: the result has no channels
        keep = bool(argument(node, "keepdim"))
        lost = 0 if keep else sum(d < given.dimension for d in dims)
        self.channels[node] = _Channels(given.dimension - lost, given.source)

    # --- bookkeeping ---------------------------------------------------------------------------

    def _only(self, node: fx.Node, position: int) -> _Channels:
        """The changed channels of one argument; no other may be changed."""
        first = node.args[position]
        touched = [n for n in node.all_input_nodes if n in self.channels]
        if touched != [first]:
            self._refuse(node, "reads changed channels as weights or in several arguments")
        return self.channels[cast(fx.Node, first)]

    def _old(self, node: fx.Node) -> range:
        return range(hint(_tensor(node).shape[1]))

    def _recut(self, weight: fx.Node, dimension: int, source: tuple[int, ...], by: fx.Node) -> None:
        if weight.name not in self.names:
            self._refuse(by, "has weights that are computed in the forward")
        name = self.names[weight.name]
        known = self.recuts.get((name, dimension))
        if known is not None and known.source != source:
            self._refuse(by, f"shares {name} with a layer that changes differently")
        self.recuts[name, dimension] = Recut(name, dimension, source)
        self.readers.setdefault(weight.name, set()).add(by)

    def _check_readers(self) -> None:
        """A re-cut tensor must not be read elsewhere at its old width."""
        for node in self.kept:
            for source in node.all_input_nodes:
                readers = self.readers.get(source.name)
                if readers is not None and node not in readers:
                    self._refuse(node, f"shares {self.names[source.name]} with a changed layer")

    def _refuse(self, node: fx.Node, reason: str = "cannot be re-cut") -> None:
        raise TruncationError(
            f"the exits cannot change their number of channels: {_named(node)} in "
            f"{owner_of(node) or 'the forward'} {reason}; {_REMEDY}"
        )


def _tensor(node: fx.Node) -> Tensor:
    return cast(Tensor, node.meta["val"])


def _named(node: fx.Node) -> str:
    return operator_of(node).partition("::")[2] or node.op


def _product(sizes: Sequence[int]) -> int:
    result = 1
    for size in sizes:
        result *= size
    return result


def group(recuts: Sequence[Recut]) -> Mapping[str, Mapping[str, tuple[Recut, ...]]]:
    """Collect re-cuts by layer and by the tensor's name in the layer."""
    found: dict[str, dict[str, tuple[Recut, ...]]] = {}
    for recut in recuts:
        layer, _, leaf = recut.tensor.rpartition(".")
        of_layer = found.setdefault(layer, {})
        of_layer[leaf] = (*of_layer.get(leaf, ()), recut)
    return found


def aliases(model: nn.Module, names: set[str]) -> set[str]:
    """The names of some tensors and all other names of the same tensors."""
    found: dict[str, Tensor] = dict(model.named_parameters(remove_duplicate=False))
    found |= dict(model.named_buffers(remove_duplicate=False))
    wanted = {id(found[name]) for name in names}
    return {name for name, tensor in found.items() if id(tensor) in wanted}
