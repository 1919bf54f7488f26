"""How much of the input one output value can see.

Theoretical: by the arithmetic of kernel sizes and strides (Araujo, Norris and Sim, "Computing
Receptive Fields of Convolutional Neural Networks", Distill 2019, eq. 2), over the exported graph.
Effective: by the gradient of one output position (Luo et al., "Understanding the Effective
Receptive Field in Deep Convolutional Neural Networks", NIPS 2016, sec. 3).
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Any, TypeAlias

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from weightscope.adapters import pytree
from weightscope.adapters.symbols import hint
from weightscope.cost import Inputs, split_inputs
from weightscope.errors import InputError
from weightscope.graph.nodes import arguments as arguments_of
from weightscope.graph.nodes import operator_of
from weightscope.graph.structure import Structure

Pixels: TypeAlias = tuple[int | None, ...]
"""Extent in input pixels, one figure per spatial dimension; None: the whole input."""


@dataclass(frozen=True)
class View:
    """What one value of a tensor sees along one dimension of the input.

    Attributes:
        size: Extent in input pixels; infinite where an operator mixes the whole image.
        jump: Input pixels between two neighbouring values.
    """

    size: float
    jump: float

    def through(self, kernel: float, stride: float = 1) -> View:
        """Slide a window of ``kernel`` values over the tensor: r + (k - 1) j, then j s."""
        return View(self.size + (kernel - 1) * self.jump, self.jump * stride)


Views: TypeAlias = tuple[View, ...]


def receptive_fields(structure: Structure) -> Mapping[str, Pixels]:
    """Compute the theoretical receptive field of every stage.

    A window of k values with dilation d covers (k - 1) d + 1; every operator that slides a window
    widens the field by (window - 1) x jump and multiplies the jump by its stride. Interpolation
    divides the jump; linear and cubic interpolation also read 2 and 4 neighbours. A transposed
    convolution of kernel k and stride s reads ceil(k / s) neighbours. Where branches meet, the
    largest field counts. Global pooling and means, attention and recurrence see the whole input.
    Statistics of normalisation layers are not counted.

    Args:
        structure: A network read by ``read_structure``.

    Returns:
        By stage name, the largest field of the stage's layers, one figure per spatial dimension;
        None is the whole input.
    """
    views = propagate(structure.program)
    found: dict[str, Views] = {}
    for layer, seen in _views_of_layers(structure.program, views):
        stage = structure.stage_of.get(layer)
        if stage is not None:
            found[stage.name] = union([found[stage.name], seen]) if stage.name in found else seen
    return {s.name: in_pixels(found[s.name]) for s in structure.stages if s.name in found}


def network_receptive_field(
    program: ExportedProgram,
    known: Mapping[str, Views] | None = None,
    *,
    without: Sequence[int] = (),
) -> Pixels:
    """Compute the largest receptive field of an exported network's outputs.

    Args:
        program: From ``torch.export.export``.
        known: Views of some nodes, by name, that replace what the arithmetic finds for them.
        without: Positions of flat outputs that are left out.

    Returns:
        One figure per spatial dimension; None is the whole input.
    """
    views = propagate(program, known)
    made: Any = program.graph.output_node().args[0]
    outputs = made[len(made) - len(program.graph_signature.user_outputs) :]
    return in_pixels(
        union([views[n] for i, n in enumerate(outputs) if i not in without and n in views])
    )


def propagate(
    program: ExportedProgram, known: Mapping[str, Views] | None = None
) -> dict[fx.Node, Views]:
    """Carry the views of the image inputs through an exported graph.

    Args:
        program: From ``torch.export.export``.
        known: Views of some nodes, by name, that replace what the arithmetic finds for them;
            views of input placeholders are the seeds (by default one pixel each).

    Returns:
        The views of every node that depends on an image input.
    """
    known = known or {}
    inputs = set(program.graph_signature.user_inputs)
    views: dict[fx.Node, Views] = {}
    for node in program.graph.nodes:
        value = node.meta.get("val")
        if node.name in known:
            views[node] = known[node.name]
        elif node.op == "placeholder":
            if node.name in inputs and isinstance(value, Tensor) and value.dim() > 2:
                views[node] = (View(1, 1),) * (value.dim() - 2)
        elif node.op == "call_function":
            sources = [views[n] for n in node.all_input_nodes if n in views]
            if sources:
                views[node] = _step(node, union(sources), len(sources))
    return views


def union(views: Sequence[Views]) -> Views:
    """Combine the views of tensors that meet in one operator: the largest size counts."""
    if len({len(v) for v in views}) > 1:
        deepest = max(len(v) for v in views)
        return (View(math.inf, 1),) * deepest
    return tuple(
        View(max(v.size for v in dimension), max(v.jump for v in dimension))
        for dimension in zip(*views, strict=True)
    )


def in_pixels(views: Views) -> Pixels:
    """Round sizes up to whole pixels; None where the whole input is seen."""
    return tuple(None if math.isinf(v.size) else ceil(v.size - 1e-9) for v in views)


# --- one operator -----------------------------------------------------------------------------

_WHOLE = (
    "scaled_dot_product_attention",
    "lstm",
    "gru",
    "rnn_tanh",
    "rnn_relu",
    "cumsum",
    "grid_sampler",
    "fft",
)
_PRODUCTS = ("matmul", "bmm", "baddbmm", "einsum", "mm")
_REDUCTIONS = ("mean", "sum", "amax", "amin", "max", "min", "var", "std", "logsumexp")
_NEIGHBOURS = {"linear": 2, "bilinear": 2, "trilinear": 2, "bicubic": 4}


def _step(node: fx.Node, views: Views, branches: int) -> Views:
    """Views of a node's result, from the union of the views of its inputs."""
    name = operator_of(node).partition("::")[2]
    arguments = arguments_of(node)
    whole = tuple(replace(v, size=math.inf) for v in views)
    if name.startswith("conv"):
        return _convolution(node, name, arguments, views)
    if _image_rank(name) not in (None, len(views)):
        return whole  # it slides over folded dimensions: frames of a film, channels
    if "adaptive" in name:
        return _adaptive(node, views)
    if "_pool" in name:
        return _pool(arguments, views)
    if name.startswith(("upsample", "_upsample")):
        return _resize(node, name, views)
    if name in ("pixel_shuffle", "pixel_unshuffle"):
        factor = next(v for k, v in arguments.items() if "factor" in k)
        if name == "pixel_shuffle":
            return tuple(replace(v, jump=v.jump / factor) for v in views)
        return tuple(v.through(factor, factor) for v in views)
    if name == "im2col":
        return _slide(views, arguments["kernel_size"], arguments["stride"], arguments["dilation"])
    if name == "slice":
        return _slice(node, arguments, views)
    if any(word in name for word in _WHOLE):
        return whole
    if name in _PRODUCTS and branches > 1:
        return whole  # two activations multiplied along a common dimension: attention
    if name in _REDUCTIONS and _reduces_space(node, arguments, len(views)):
        return whole
    return views


def _image_rank(name: str) -> int | None:
    """Number of spatial dimensions of an operator that works on images, by its name."""
    if name in ("im2col", "pixel_shuffle", "pixel_unshuffle"):
        return 2
    match = re.search(r"(?:pool|upsample_\w+?)([123])d", name)
    return int(match[1]) if match else None


def _each(value: Any, dimensions: int) -> tuple[float, ...]:
    """A setting for each dimension, from one number or one per dimension."""
    values = tuple(value) if isinstance(value, list | tuple) else (value,)
    return values if len(values) == dimensions else values * dimensions


def _slide(views: Views, kernel: Any, stride: Any, dilation: Any = 1) -> Views:
    n = len(views)
    settings = zip(views, _each(kernel, n), _each(stride, n), _each(dilation, n), strict=True)
    return tuple(v.through((k - 1) * d + 1, s) for v, k, s, d in settings)


def _convolution(node: fx.Node, name: str, arguments: Mapping[str, Any], views: Views) -> Views:
    kernel = tuple(int(s) for s in arguments["weight"].meta["val"].shape[2:])
    if len(kernel) != len(views):  # a convolution over tokens or over folded dimensions
        mixes = any(k > 1 for k in kernel)
        return tuple(replace(v, size=math.inf) for v in views) if mixes else views
    stride, dilation = arguments["stride"], arguments["dilation"]
    if "transpose" not in name and not arguments.get("transposed", False):
        return _slide(views, kernel, stride, dilation)
    n = len(views)
    settings = zip(views, kernel, _each(stride, n), _each(dilation, n), strict=True)
    return tuple(
        View(v.size + (ceil(((k - 1) * d + 1) / s) - 1) * v.jump, v.jump / s)
        for v, k, s, d in settings
    )


def _pool(arguments: Mapping[str, Any], views: Views) -> Views:
    kernel = arguments["kernel_size"]
    return _slide(views, kernel, arguments["stride"] or kernel, arguments.get("dilation", 1))


def _adaptive(node: fx.Node, views: Views) -> Views:
    """Pooling to a fixed size sees the whole; to a share of the input's size, a window."""
    given, made = _space(node.args[0], len(views)), _space(node, len(views))
    result = []
    for view, before, after in zip(views, given, made, strict=True):
        if not isinstance(after, torch.SymInt):
            result.append(replace(view, size=math.inf))
        else:
            ratio = hint(before) / hint(after)
            result.append(view.through(ceil(ratio), ratio))
    return tuple(result)


def _resize(node: fx.Node, name: str, views: Views) -> Views:
    given, made = _space(node.args[0], len(views)), _space(node, len(views))
    reach = max((n for mode, n in _NEIGHBOURS.items() if mode in name), default=1)
    result = []
    for view, before, after in zip(views, given, made, strict=True):
        ratio = hint(before) / hint(after)
        neighbours = 1 if ratio == 1 else reach
        result.append(View(view.size + (neighbours - 1) * view.jump, view.jump * ratio))
    return tuple(result)


def _slice(node: fx.Node, arguments: Mapping[str, Any], views: Views) -> Views:
    """A strided slice of an image is one phase of a patch: its siblings are joined later."""
    step, dimension = arguments["step"], arguments["dim"]
    value = node.meta["val"]
    first = 1 if value.shape[-1] == _channels_last(value) else 2
    position = (dimension % value.dim()) - first
    if step == 1 or not 0 <= position < len(views) or value.dim() != len(views) + 2:
        return views
    moved = views[position].through(step, step)
    return (*views[:position], moved, *views[position + 1 :])


def _channels_last(value: Tensor) -> Any:
    """The last size, where it is the only fixed one after the batch (channels last)."""
    last_fixed = not isinstance(value.shape[-1], torch.SymInt)
    return value.shape[-1] if last_fixed and isinstance(value.shape[1], torch.SymInt) else None


def _reduces_space(node: fx.Node, arguments: Mapping[str, Any], dimensions: int) -> bool:
    """Whether a reduction runs over positions of the image.

    Positions are sizes that grow with the image; in a graph of fixed sizes, where they cannot be
    told from channels, a reduction over as many dimensions as the image has counts.
    """
    value = node.all_input_nodes[0].meta["val"]
    dims = arguments.get("dim")
    if dims in (None, []):
        return True
    dims = [d % value.dim() for d in (dims if isinstance(dims, list | tuple) else [dims])]
    if not any(isinstance(size, torch.SymInt) for size in value.shape[1:]):
        return len([d for d in dims if d > 0]) >= dimensions
    return any(d > 0 and isinstance(value.shape[d], torch.SymInt) for d in dims)


def _space(node: Any, dimensions: int) -> tuple[Any, ...]:
    return tuple(node.meta["val"].shape[-dimensions:])


def _views_of_layers(
    program: ExportedProgram, views: Mapping[fx.Node, Views]
) -> Iterator[tuple[str, Views]]:
    """The owner of the parameters that an operator reads, and what its result sees."""
    names = program.graph_signature.inputs_to_parameters
    for node, seen in views.items():
        for source in node.all_input_nodes:
            if source.name in names:
                yield names[source.name].rpartition(".")[0], seen


# --- effective --------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class EffectiveField:
    """Where the centre of the output looks, by gradient.

    Attributes:
        extent: Per spatial dimension, pixels of the smallest interval around the gradient's
            centre of mass that holds 95 % of its absolute sum.
        gradient: (*S) absolute gradient of the output's centre with respect to the input, summed
            over channels, averaged over the batch and over the output's channels.
    """

    extent: tuple[int, ...]
    gradient: Tensor


def effective_receptive_field(model: nn.Module, inputs: Inputs) -> EffectiveField:
    """Measure the effective receptive field of the output's centre.

    A deep copy runs in evaluation mode; the gradient of the centre of its first image-like output
    is taken with respect to the first image-like input.

    Args:
        model: Any module.
        inputs: What its forward takes: real tensors, best real data.

    Returns:
        The extent and the gradient's map.

    Raises:
        InputError: There is no image-like input or output, or no gradient connects them.
    """
    args, kwargs = pytree.tree_map_only(Tensor, lambda t: t.detach().clone(), split_inputs(inputs))
    image = _image(pytree.tree_leaves((args, kwargs)), "input")
    image.requires_grad_()
    twin = copy.deepcopy(model).eval().requires_grad_(False)
    with torch.enable_grad(), torch.random.fork_rng(devices=[]):
        output = _image(pytree.tree_leaves(twin(*args, **kwargs)), "output")
        centre = tuple(size // 2 for size in output.shape[2:])
        target = output.movedim((0, 1), (-2, -1))[centre].abs().sum()
        if not target.requires_grad:
            raise InputError("no gradient reaches the input; does the forward detach it?")
        (gradient,) = torch.autograd.grad(target, image)
    field = gradient.abs().sum(1).mean(0) / output.shape[1]
    return EffectiveField(
        extent=tuple(_extent(field, dimension) for dimension in range(field.dim())),
        gradient=field,
    )


def _image(leaves: Sequence[Any], which: str) -> Tensor:
    for leaf in leaves:
        if isinstance(leaf, Tensor) and leaf.dim() > 2 and leaf.is_floating_point():
            return leaf
    raise InputError(f"the model has no image-like {which} (batch, channels, *space)")


def _extent(field: Tensor, dimension: int, share: float = 0.95) -> int:
    """Width of the smallest interval around the centre of mass with ``share`` of the sum."""
    profile = field.sum([d for d in range(field.dim()) if d != dimension]).double()
    total = float(profile.sum())
    if total == 0:
        return 0
    positions = torch.arange(len(profile), dtype=torch.float64)
    centre = round(float((profile * positions).sum()) / total)
    for reach in range(len(profile)):
        low, high = max(0, centre - reach), centre + reach + 1
        if float(profile[low:high].sum()) >= share * total:
            return len(profile[low:high])
    return len(profile)
