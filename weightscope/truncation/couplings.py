"""Which channels of a network must go together, read with Torch-Pruning's dependency graph."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from weightscope.adapters import pytree
from weightscope.adapters.modules import Convolution, Norm, buffers, parameters
from weightscope.calls import called, random_state
from weightscope.copies import deep_copy
from weightscope.errors import TruncationError, extra
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


def read_couplings(module: nn.Module, inputs: ExampleInputs) -> tuple[Coupling, ...]:
    """Find the channels that can go, and what goes with them.

    Channels that reach an output, a layer of a kind that is not known here, a grouped convolution,
    or a tensor that several layers share, are in no coupling: they stay.

    Args:
        module: The network; not changed.
        inputs: What it is called with.

    Raises:
        MissingExtraError: Torch-Pruning is not installed.
        TruncationError: Its dependency graph cannot be built.
    """
    pruning = library()
    twin = deep_copy(module).eval().requires_grad_(True)
    for part in twin.modules():
        if isinstance(part, Norm):
            part.register_forward_hook(_copied)
    names = {part: name for name, part in twin.named_modules()}
    owned = {id(p): name for name, p in twin.named_parameters()}
    shared = _shared(twin)

    def sums(model: nn.Module, _: object) -> list[Tensor]:
        """One number for each output: behind it the graph knows an output, not a layer."""
        found = pytree.tree_leaves(called(model, inputs.args, inputs.kwargs))
        return [x.sum() for x in found if isinstance(x, Tensor) and x.requires_grad]

    try:
        with torch.enable_grad(), random_state(twin):
            graph = pruning.DependencyGraph().build_dependency(
                twin, example_inputs=None, forward_fn=sums, verbose=False
            )
            groups = list(graph.get_all_groups())
    except Exception as reason:  # a foreign library on a foreign network may fail in any way
        raise TruncationError(
            f"the channels of this network cannot be followed ({type(reason).__name__}: {reason}); "
            "it can be made shallower, not thinner"
        ) from reason
    found = (_coupling(group, graph, names, owned, shared) for group in groups)
    return tuple(coupling for coupling in found if coupling is not None)


def _copied(_: nn.Module, __: Any, output: Tensor) -> Tensor:
    """What an instance normalisation returns is a view; the graph cannot follow writing into it."""
    return output.clone()


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


def _coupling(
    group: Any,
    graph: Any,
    names: Mapping[nn.Module, str],
    owned: Mapping[int, str],
    shared: set[int],
) -> Coupling | None:
    """One group of the dependency graph as a record; None where some of it must stay."""
    root, channels = group[0].dep.target.module, len(group[0].idxs)
    parts: dict[tuple[str, int], Part] = {}
    chunks = 1
    for item in group:
        target = item.dep.target.module
        places = tuple(sorted(set(zip(item.root_idxs, item.idxs, strict=True))))
        if any(channel is None for channel, _ in places):
            return None
        makes = bool(graph.is_out_channel_pruning_fn(item.dep.handler))
        tensors: Sequence[tuple[str, int]] | None
        if isinstance(target, nn.Parameter):
            name = owned[id(target)]
            layer, _, leaf = name.rpartition(".")
            tensors = [(leaf, item.dep.target.pruning_dim)] if id(target) not in shared else None
        elif target in names:
            layer, tensors = names[target], _tensors(target, makes, shared)
        else:  # an operation without weights
            layer, tensors = "", None if type(target).__name__ == "_OutputOp" else ()
        if tensors is None or _beyond(target, tensors, places):
            return None
        if isinstance(target, nn.GroupNorm) and 1 < target.num_groups < target.num_channels:
            if places != tuple((i, i) for i in range(target.num_channels)):
                return None  # part of a concatenation: runs of it are no runs of its groups
            chunks = math.lcm(chunks, target.num_groups)
        for leaf, dimension in tensors:
            name = f"{layer}.{leaf}" if layer else leaf
            parts[name, dimension] = Part(layer, name, dimension, makes, places)
    if channels % chunks:
        return None
    return Coupling(names[root], channels, chunks, tuple(parts.values()))


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


def _tensors(layer: nn.Module, makes: bool, shared: set[int]) -> list[tuple[str, int]] | None:
    """Names and dimensions of a layer's tensors along its channels; None: they cannot change."""
    tensors = {**parameters(layer), **buffers(layer)}
    along: dict[str, int]
    if isinstance(layer, Convolution):
        depthwise = layer.groups == layer.in_channels == layer.out_channels
        if layer.groups > 1 and not depthwise:
            return None
        along = {"weight": int(makes == layer.transposed and not depthwise)}
        along |= {"bias": 0} if makes or depthwise else {}
    elif isinstance(layer, nn.Linear):
        along = {"weight": 0, "bias": 0} if makes else {"weight": 1}
    elif isinstance(layer, Norm | nn.GroupNorm | nn.LayerNorm | nn.PReLU):
        along = dict.fromkeys(("weight", "bias", "running_mean", "running_var"), 0)
        if isinstance(layer, nn.LayerNorm) and (
            len(layer.normalized_shape) != 1 or layer.weight is None
        ):
            return None
        if isinstance(layer, nn.PReLU) and layer.num_parameters == 1:
            return []
    else:
        return None
    if "weight" not in tensors and not isinstance(layer, Norm):
        return None  # a parametrization makes it
    found = [(leaf, d) for leaf, d in along.items() if tensors.get(leaf) is not None]
    if any(id(tensors[leaf]) in shared for leaf, _ in found):
        return None
    return found or ([("num_features", 0)] if isinstance(layer, Norm) else [])
