"""Which tensors a model has, and what each of them is."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import UninitializedParameter, is_lazy
from torch.nn.utils import parametrize
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from weightscope.adapters import modules
from weightscope.statistics.records import SkippedParameter
from weightscope.statistics.rules import KernelShape, Null, constant_null
from weightscope.summaries.summary import unreadable

_NORMS = (
    modules.Norm,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.LocalResponseNorm,
    nn.RMSNorm,
)
PYTORCH_DEFAULT = "PyTorch default (uniform)"


@dataclass(frozen=True, eq=False)
class ParameterPlace:
    """One distinct tensor of a model and where it is used.

    Attributes:
        layer: Qualified name of the owning module.
        name: Full name of the tensor.
        kind: See ``ParameterStatistics.kind``.
        tensor: The tensor; for a parametrized one what the layer computes from its parameters.
        elements: Elements of the parameters behind it (0 for a buffer).
        requires_grad: Whether training moves it, or any of the parameters behind it.
        shared_with: Full names of the other places that hold it.
        is_kernel: Whether it multiplies features.
        filter_axis: Axis of the output filters of a kernel; None elsewhere.
        groups: Groups of a convolution; 1 elsewhere.
        transposed: Whether axis 0 counts inputs.
        candidates: Nulls to choose from, the default of the layer's type first.
    """

    layer: str
    name: str
    kind: str
    tensor: torch.Tensor
    elements: int
    requires_grad: bool
    shared_with: tuple[str, ...]
    is_kernel: bool
    filter_axis: int | None
    groups: int
    transposed: bool
    candidates: tuple[Null, ...]

    @property
    def fans(self) -> tuple[int, int]:
        """Inputs that one output reads, outputs that one input reaches; (0, 0) for no kernel."""
        if not self.is_kernel:
            return 0, 0
        shape = tuple(self.tensor.shape)
        if self.transposed:
            rest = prod(shape[2:])
            return shape[0] // self.groups * rest, shape[1] * rest
        rest = prod(shape[2:])
        return shape[1] * rest, shape[0] // self.groups * rest


@dataclass(frozen=True)
class _Found:
    layer: str
    owner: nn.Module
    attribute: str
    tensor: torch.Tensor
    elements: int
    requires_grad: bool
    kind: str
    weight: torch.Tensor | None


def find_parameters(
    model: nn.Module, *, buffers: bool = False
) -> tuple[tuple[ParameterPlace, ...], tuple[SkippedParameter, ...], int]:
    """Every distinct parameter of the model, in the order of ``named_parameters()``.

    Args:
        model: Any module; it is not changed.
        buffers: Whether to add the floating-point buffers.

    Returns:
        The tensors with numbers, those without (with the reason), and the number of elements of all
        parameters.
    """
    groups: dict[object, list[_Found]] = {}
    for found in _all_tensors(model, buffers):
        groups.setdefault(_identity(found.tensor), []).append(found)
    places: list[ParameterPlace] = []
    skipped: list[SkippedParameter] = []
    total = 0
    for same in groups.values():
        first = same[0]
        name = _join(first.layer, first.attribute)
        total += first.elements
        reason = unreadable(first.tensor)
        if reason:
            skipped.append(SkippedParameter(name, reason))
            continue
        shared = tuple(_join(other.layer, other.attribute) for other in same[1:])
        places.append(_describe(first, name, shared))
    return tuple(places), tuple(skipped), total


def _all_tensors(model: nn.Module, buffers: bool) -> Iterator[_Found]:
    replaced: set[int] = set()
    for layer, module in model.named_modules(remove_duplicate=False):
        if id(module) in replaced:
            continue
        kind = kind_of(module)
        own: dict[str, Any] = modules.parameters(module)
        normed = dict(_normed_by_hooks(module))
        sources = {source for _, names in normed.values() for source in names}
        parametrized = dict(_parametrized(module, replaced))
        for name, (tensor, names) in normed.items():
            parametrized[name] = tensor, tuple(own[n] for n in names)
        # never module.weight: reading a parametrized tensor may change the module's buffers
        computed = parametrized.get("weight", (None, ()))[0]
        weight = own.get("weight") if computed is None else computed
        for name, parameter in own.items():
            if parameter is not None and name not in sources:
                elements = 0 if isinstance(parameter, UninitializedParameter) else parameter.numel()
                moves = parameter.requires_grad
                yield _Found(layer, module, name, parameter, elements, moves, kind, weight)
        for name, (tensor, behind) in parametrized.items():
            elements, moves = sum(p.numel() for p in behind), any(p.requires_grad for p in behind)
            words = f"{kind} parametrized"
            yield _Found(layer, module, name, tensor, elements, moves, words, weight)
        for name, buffer in modules.buffers(module).items() if buffers else ():
            if buffer is not None:
                yield _Found(layer, module, name, buffer, 0, False, "buffer", weight)


def _parametrized(
    module: nn.Module, replaced: set[int]
) -> Iterator[tuple[str, tuple[torch.Tensor, tuple[torch.Tensor, ...]]]]:
    """What the parametrized tensors of a module are, and the parameters behind them."""
    if not parametrize.is_parametrized(module):
        return
    lists = module.parametrizations
    assert isinstance(lists, nn.ModuleDict)
    replaced.add(id(lists))
    for name, steps in lists.items():
        replaced.update(id(part) for part in steps.modules())
        # on a copy, so that the power iteration of spectral norm does not move on
        with torch.no_grad():
            tensor = copy.deepcopy(steps).eval()()
        yield name, (tensor, tuple(steps.parameters()))


def _normed_by_hooks(module: nn.Module) -> Iterator[tuple[str, tuple[torch.Tensor, list[str]]]]:
    """What torch's older weight and spectral norm compute, and from which parameters."""
    for hook in modules.forward_pre_hooks(module):
        if isinstance(hook, WeightNorm):
            compute, ends = hook.compute_weight, ["_g", "_v"]
        elif isinstance(hook, SpectralNorm):
            compute, ends = partial(hook.compute_weight, do_power_iteration=False), ["_orig"]
        else:
            continue
        with torch.no_grad():
            yield hook.name, (compute(module), [hook.name + end for end in ends])


def _identity(tensor: torch.Tensor) -> object:
    if is_lazy(tensor) or tensor.is_meta or not tensor.numel():
        return id(tensor)
    try:
        address = tensor.data_ptr()
    except (RuntimeError, NotImplementedError):
        return id(tensor)
    return (address, tensor.device, tensor.dtype, tuple(tensor.shape), tensor.stride())


def kind_of(module: nn.Module) -> str:
    """What a module is, in one or two words."""
    if isinstance(module, modules.Convolution):
        transposed = "_transpose" if module.transposed else ""
        kind = f"conv{transposed}{len(module.kernel_size)}d"
        if module.groups > 1:
            kind += " depthwise" if module.groups == module.in_channels else " grouped"
        return kind
    for types, kind in (
        ((nn.Linear, nn.Bilinear), "linear"),
        ((nn.Embedding, nn.EmbeddingBag), "embedding"),
        (_NORMS, "norm"),
        ((nn.MultiheadAttention,), "attention"),
        ((nn.RNNBase, nn.RNNCellBase), "recurrent"),
    ):
        if isinstance(module, types):
            return kind
    name = type(module).__name__
    if name.endswith("Norm"):
        return "norm"
    return "linear" if _is_transposed_linear(module) else "parameter"


def _is_transposed_linear(module: nn.Module) -> bool:
    """GPT-2's Conv1D of transformers, a linear layer that keeps its weight as (in, out)."""
    return type(module).__name__ == "Conv1D" and hasattr(module, "nf")


def _describe(found: _Found, name: str, shared: tuple[str, ...]) -> ParameterPlace:
    module, tensor, kind = found.owner, found.tensor, found.kind
    base = kind.split()[0]
    is_kernel = tensor.dim() >= 2 and base not in ("embedding", "norm", "buffer")
    transposed = is_kernel and (
        bool(getattr(module, "transposed", False)) or _is_transposed_linear(module)
    )
    groups = module.groups if isinstance(module, modules.Convolution) else 1
    has_filters = is_kernel or (base == "embedding" and tensor.dim() == 2)
    return ParameterPlace(
        layer=found.layer,
        name=name,
        kind=kind,
        tensor=tensor,
        elements=found.elements,
        requires_grad=found.requires_grad,
        shared_with=shared,
        is_kernel=is_kernel,
        filter_axis=(1 if transposed else 0) if has_filters else None,
        groups=groups,
        transposed=transposed,
        candidates=_candidates(found, base, is_kernel, groups),
    )


def _candidates(found: _Found, base: str, is_kernel: bool, groups: int) -> tuple[Null, ...]:
    if base == "buffer":
        return ()
    shape = tuple(found.tensor.shape)
    if is_kernel:
        kernel = KernelShape.of(shape, groups)
        rules = {**kernel.rules, PYTORCH_DEFAULT: _pytorch_default(found, kernel)}
        if base == "attention":  # torch.nn.MultiheadAttention starts its projections from Glorot's
            glorot = rules.pop("Glorot uniform")
            return (glorot, *rules.values())
        return tuple(rules.values())
    if base == "embedding":
        return (
            Null("normal", "PyTorch default (standard normal)", 1.0),
            Null("normal", "normal, std 0.02", 0.02),
        )
    zeros, ones = constant_null(0.0, "zeros"), constant_null(1.0, "ones")
    if base == "norm":
        return (ones, zeros) if found.attribute == "weight" else (zeros, ones)
    weight = found.weight
    if base == "recurrent":
        return (_pytorch_default(found, KernelShape(1, 1, 1)), zeros)
    if weight is None or is_lazy(weight) or weight.dim() < 2:
        return (zeros, ones)
    if base == "linear" or base.startswith("conv"):
        return (_pytorch_default(found, KernelShape.of(tuple(weight.shape))), zeros)
    return (zeros, ones)


def _pytorch_default(found: _Found, shape: KernelShape) -> Null:
    """What the layer's constructor does, to weight and bias alike: U(-1/sqrt(n), 1/sqrt(n))."""
    inputs = shape.fan_in
    if isinstance(found.owner, nn.Bilinear):
        inputs = found.owner.in1_features
    elif isinstance(found.owner, nn.RNNBase | nn.RNNCellBase):
        inputs = found.owner.hidden_size
    return Null("uniform", PYTORCH_DEFAULT, (3 * max(inputs, 1)) ** -0.5)


def _join(layer: str, attribute: str) -> str:
    return f"{layer}.{attribute}" if layer else attribute
