"""Which channels of a network must go together, read with Torch-Pruning's dependency graph."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from weightscope.adapters import pytree
from weightscope.adapters.modules import Convolution, Norm, buffers, parameters
from weightscope.calls import called, random_state
from weightscope.copies import deep_copy
from weightscope.errors import TruncationError, extra, kind
from weightscope.graph.structure import ExampleInputs


@dataclass(frozen=True)
class Part:
    """What one tensor has of coupled channels.

    Attributes:
        layer: Qualified name of the layer.
        tensor: Qualified name of the tensor; ``<layer>.num_features`` of a layer without tensors.
        dimension: The dimension that the channels run along.
        makes: True where the layer makes the channels or hands them on, False where it mixes them.
        places: Pairs of a channel of the coupling and its index in the dimension.
    """

    layer: str
    tensor: str
    dimension: int
    makes: bool
    places: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Coupling:
    """Channels of one layer, and in each other tensor those that go where they go.

    Attributes:
        layer: Qualified name of the layer that the channels are counted in.
        channels: Their number.
        chunks: Of each of so many equal runs of them the same number must go (the groups of a group
            normalisation); else 1.
        parts: The tensors.
    """

    layer: str
    channels: int
    chunks: int
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Staying:
    """Coupled channels that cannot go.

    Attributes:
        layers: Qualified names of the layers that make them or hand them on.
        why: What they reach that keeps them, in words.
    """

    layers: tuple[str, ...]
    why: str


def read_couplings(module: nn.Module, inputs: ExampleInputs) -> tuple[Coupling, ...]:
    """Find the channels that can go, and what goes with them; see ``read_groups``.

    Raises:
        MissingExtraError: Torch-Pruning is not installed.
        TruncationError: Its dependency graph cannot be built, or no channel can go.
    """
    groups = read_groups(module, inputs)
    found = tuple(group for group in groups if isinstance(group, Coupling))
    if not found:
        stay = [group for group in groups if isinstance(group, Staying)]
        causes = "; ".join(f"those of {group.layers[0]!r} {group.why}" for group in stay[:4])
        more = f"; and {len(stay) - 4} more" if len(stay) > 4 else ""
        raise TruncationError(
            f"no channel of this network can go: {causes or 'it has no layer that makes some'}"
            f"{more}. It can be made shallower, not thinner"
        )
    return found


def read_groups(module: nn.Module, inputs: ExampleInputs) -> tuple[Coupling | Staying, ...]:
    """Find which channels go together, and whether they can go.

    Channels that reach an output, a layer of a kind that is not known here, a grouped convolution,
    or a tensor that several layers share, stay. One channel that is spread over many, as an
    attention gate, is not coupled with these.

    Args:
        module: The network; not changed.
        inputs: What it is called with.

    Raises:
        MissingExtraError: Torch-Pruning is not installed.
        TruncationError: Its dependency graph cannot be built.
    """
    try:
        return _read(module, inputs, _Spread(inputs.dimensions + 2))
    except TruncationError:  # the graph may lose channels where something is cut off
        return _read(module, inputs, _Spread(0))


def _read(
    module: nn.Module, inputs: ExampleInputs, spread: _Spread
) -> tuple[Coupling | Staying, ...]:
    """`read_groups`, with what is spread over channels cut off."""
    pruning = library()
    twin = deep_copy(module).eval().requires_grad_(True)
    for part in twin.modules():
        if isinstance(part, Norm):
            part.register_forward_hook(_copied)
    single = _of_one_number(twin)
    names = {part: name for name, part in twin.named_modules()}
    owned = {id(p): name for name, p in twin.named_parameters()}
    shared = _shared(twin)

    def sums(model: nn.Module, _: object) -> list[Tensor]:
        """One number for each output: behind it the graph knows an output, not a layer."""
        with spread:
            found = pytree.tree_leaves(called(model, inputs.args, inputs.kwargs))
        returned = [x.sum() for x in found if isinstance(x, Tensor) and x.requires_grad]
        return [*returned, *spread.ends]

    graph = pruning.DependencyGraph()
    try:
        with torch.enable_grad(), random_state(twin):
            graph.build_dependency(
                twin,
                example_inputs=None,
                forward_fn=sums,
                ignored_layers=single,
                verbose=False,
            )
            groups = list(graph.get_all_groups())
    except Exception as reason:  # a foreign library on a foreign network may fail in any way
        raise TruncationError(
            f"the channels of {_lost(graph, names)} cannot be followed "
            f"({type(reason).__name__}: {reason}); it can be made shallower, not thinner"
        ) from reason
    return tuple(_group(group, graph, names, owned, shared, spread) for group in groups)


_PRODUCTS = ("matmul", "rmatmul", "bmm")
_STRETCHING = ("expand", "expand_as", "broadcast_to", "repeat", "tile", "repeat_interleave")
_ELEMENTWISE = (
    *("add", "radd", "iadd", "sub", "rsub", "isub", "subtract", "mul", "rmul", "imul", "multiply"),
    *("div", "idiv", "truediv", "rtruediv", "itruediv", "divide", "true_divide", "lerp", "addcmul"),
    *("maximum", "minimum", "where"),
)


class _Spread(TorchFunctionMode):
    """Cuts off the maps of one channel that are spread over the channels of others.

    The graph would take the others' channels for those of the layer that made the map. Cut off are
    also the factors of products of matrices, as of all positions with all others: the graph would
    follow positions for channels, into ever more of them.

    Attributes:
        rank: Axes of a map; of no map is anything cut off where it is 0.
        ends: A number for each of these maps, behind which the graph knows an end.
    """

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.rank, self.ends = rank, list[Tensor]()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Call, with what is spread cut off."""
        name = getattr(func, "__name__", "").partition(".")[0].strip("_")  # mul.Tensor, mul_
        given, options = [x for x in args if isinstance(x, Tensor)], kwargs or {}
        if name in _PRODUCTS and [x.dim() for x in given] == [3, 3]:
            args = tuple(map(self._end, args)) if all(x.requires_grad for x in given) else args
        elif name in _STRETCHING and given:
            args = tuple(self._cut(x, func(*args, **options).shape) for x in args)
        elif name in _ELEMENTWISE and len(given) > 1:
            shape = torch.broadcast_shapes(*(x.shape for x in given))  # type: ignore[no-untyped-call]
            args = tuple(self._cut(x, shape) for x in args)
        return func(*args, **options)

    def _cut(self, value: Any, shape: torch.Size) -> Any:
        if not isinstance(value, Tensor) or not value.requires_grad or value.dim() != len(shape):
            return value
        spreads = len(shape) == self.rank and value.shape[1] == 1 < shape[1]
        if not spreads or value.shape[2:] not in (shape[2:], (1,) * (self.rank - 2)):
            return value
        return self._end(value)

    def _end(self, value: Tensor) -> Tensor:
        if self.rank:
            self.ends.append(value.sum())
        return value.detach() if self.rank else value

    def ends_at(self, node: Any) -> bool:
        """Whether a node of the graph is one of the ends."""
        return any(node.grad_fn is end.grad_fn for end in self.ends)


def _lost(graph: Any, names: Mapping[nn.Module, str]) -> str:
    """The layer whose channels Torch-Pruning cannot follow, for a message."""
    for layer in getattr(graph, "module2node", ()):
        if isinstance(layer, nn.Linear | Convolution) and layer in names:
            remove = graph.get_pruner_of_module(layer).prune_out_channels
            try:
                graph.get_pruning_group(layer, remove, [0])
            except Exception:  # noqa: BLE001 - whatever it is, it is being reported
                return repr(names[layer])
    return "this network"


def _copied(_: nn.Module, __: Any, output: Tensor) -> Tensor:
    """What an instance normalisation returns is a view; the graph cannot follow writing into it."""
    return output.clone()


def _of_one_number(twin: nn.Module) -> list[nn.Module]:
    """Rectifiers with one slope for all channels, which the graph is to pass over.

    The slope has no channels. The graph takes a layer of it for one that ends them, and what
    stretches it over the channels for an operation on features, unless it has no gradient.
    """
    found: list[nn.Module] = []
    for part in twin.modules():
        if isinstance(part, Convolution | nn.Linear | Norm | nn.GroupNorm | nn.LayerNorm):
            continue
        for tensor in parameters(part).values():
            if tensor is not None and tensor.numel() == 1:
                tensor.requires_grad_(False)
        if isinstance(part, nn.PReLU) and part.weight.numel() == 1:
            found.append(part)
    return found


def library() -> Any:
    """Torch-Pruning.

    Raises:
        MissingExtraError: It is not installed.
    """
    needed = "thinner networks need Torch-Pruning"
    with extra("torch_pruning", needed, "install weightscope[prune]"):
        import torch_pruning

        _ = torch_pruning.DependencyGraph
    return torch_pruning


def _shared(module: nn.Module) -> set[int]:
    """Tensors that belong to several modules."""
    owners = Counter(
        id(tensor)
        for part in module.modules()
        for tensor in [*parameters(part).values(), *buffers(part).values()]
        if tensor is not None
    )
    return {tensor for tensor, count in owners.items() if count > 1}


def _group(
    group: Any,
    graph: Any,
    names: Mapping[nn.Module, str],
    owned: Mapping[int, str],
    shared: set[int],
    spread: _Spread,
) -> Coupling | Staying:
    """One group of the dependency graph as a record."""
    root, channels = group[0].dep.target.module, len(group[0].idxs)
    making = [bool(graph.is_out_channel_pruning_fn(item.dep.handler)) for item in group]
    targets = [item.dep.target.module for item in group]
    makers = dict.fromkeys(
        names[target] for target, makes in zip(targets, making, strict=True)
        if makes and isinstance(target, nn.Module) and target in names
    )  # fmt: skip
    if any(spread.ends_at(item.dep.target) for item in group):
        why = (
            "are only one" if channels == 1 else "are mixed by an operation that cannot be followed"
        )
        return Staying(tuple(makers), why)
    parts: dict[tuple[str, int], Part] = {}
    chunks = 1
    for item, target, makes in zip(group, targets, making, strict=True):
        places = tuple(sorted(set(zip(item.root_idxs, item.idxs, strict=True))))
        layer, tensors = _reached(item.dep.target, makes, names, owned, shared)
        why = tensors if isinstance(tensors, str) else _astray(target, layer, tensors, places)
        if isinstance(tensors, str) or why:
            return Staying(tuple(makers), why)
        if _in_groups(target) and channels != target.num_channels:
            return Staying(tuple(makers), f"go with others than {layer!r} normalises in groups")
        if _in_groups(target):
            chunks = math.lcm(chunks, target.num_groups)
        for leaf, dimension in tensors:
            name = f"{layer}.{leaf}" if layer else leaf
            parts[name, dimension] = Part(layer, name, dimension, makes, places)
    if channels % chunks:
        return Staying(tuple(makers), f"are normalised in {chunks} groups, and are {channels}")
    return Coupling(names[root], channels, chunks, tuple(parts.values()))


def _reached(
    node: Any,
    makes: bool,
    names: Mapping[nn.Module, str],
    owned: Mapping[int, str],
    shared: set[int],
) -> tuple[str, Sequence[tuple[str, int]] | str]:
    """Layer, and names and dimensions of the tensors along the channels; or why they must stay."""
    target = node.module
    if isinstance(target, nn.Parameter):
        name = owned[id(target)]
        layer, _, leaf = name.rpartition(".")
        if id(target) in shared:
            return layer, f"reach {name!r}, which several layers share"
        return layer, [(leaf, node.pruning_dim)]
    if target in names:
        layer, tensors = names[target], _tensors(target, makes, shared)
        return layer, f"reach {layer!r}, {tensors}" if isinstance(tensors, str) else tensors
    return "", "reach an output" if type(target).__name__ == "_OutputOp" else ()


def _astray(
    target: Any,
    layer: str,
    tensors: Sequence[tuple[str, int]],
    places: Sequence[tuple[Any, int]],
) -> str:
    """Why the graph cannot be trusted with these channels; empty where it can."""
    if any(channel is None for channel, _ in places):
        return "are mixed by an operation that cannot be followed"
    if _beyond(target, tensors, places):
        return f"are mixed into fewer, or spread over more, than {layer!r} has"
    if _in_groups(target) and list(places) != [(i, i) for i in range(target.num_channels)]:
        # runs of what is concatenated are no runs of its groups
        return f"are a part of what {layer!r} normalises in groups"
    return ""


def _in_groups(target: Any) -> bool:
    return isinstance(target, nn.GroupNorm) and 1 < target.num_groups < target.num_channels


def _beyond(
    target: nn.Module | nn.Parameter,
    tensors: Sequence[tuple[str, int]],
    places: Sequence[tuple[int, int]],
) -> bool:
    """Whether the graph takes one channel that is spread over many for as many."""
    sizes = []
    for leaf, dimension in tensors:
        found = target if isinstance(target, nn.Parameter) else getattr(target, leaf)
        sizes.append(found.shape[dimension] if isinstance(found, Tensor) else found)
    return any(index >= size for size in sizes for _, index in places)


def _tensors(layer: nn.Module, makes: bool, shared: set[int]) -> list[tuple[str, int]] | str:
    """Names and dimensions of a layer's tensors along its channels; or why they cannot change."""
    tensors = {**parameters(layer), **buffers(layer)}
    along: dict[str, int]
    if isinstance(layer, Convolution):
        depthwise = layer.groups == layer.in_channels == layer.out_channels
        if layer.groups > 1 and not depthwise:
            return "a grouped convolution"
        along = {"weight": int(makes == layer.transposed and not depthwise)}
        along |= {"bias": 0} if makes or depthwise else {}
    elif isinstance(layer, nn.Linear):
        along = {"weight": 0, "bias": 0} if makes else {"weight": 1}
    elif isinstance(layer, Norm | nn.GroupNorm | nn.LayerNorm | nn.PReLU):
        along = dict.fromkeys(("weight", "bias", "running_mean", "running_var"), 0)
        if isinstance(layer, nn.LayerNorm) and (
            len(layer.normalized_shape) != 1 or layer.weight is None
        ):
            return "a LayerNorm over several dimensions or without weights"
    else:
        return f"{kind(layer)}, whose channels are not known"
    if "weight" not in tensors and not isinstance(layer, Norm):
        return "whose weight is made by a parametrization"
    found = [(leaf, d) for leaf, d in along.items() if tensors.get(leaf) is not None]
    if any(id(tensors[leaf]) in shared for leaf, _ in found):
        return "which shares a tensor with another layer"
    return found or ([("num_features", 0)] if isinstance(layer, Norm) else [])
