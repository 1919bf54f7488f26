"""Which tensors a model has, and what each of them is."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
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
from weightscope.copies import deep_copy
from weightscope.statistics.records import Parameter, SkippedParameter
from weightscope.statistics.rules import KernelShape, Null
from weightscope.summaries.summary import unreadable

_NORMS = (
    modules.Norm,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.LocalResponseNorm,
    nn.RMSNorm,
)
PYTORCH_DEFAULT = "PyTorch default (uniform)"


@dataclass(frozen=True, eq=False, kw_only=True)
class ParameterPlace(Parameter):
    """One distinct tensor of a model and where it is used.

    Attributes:
        tensor: The tensor; for a parametrized one what the layer computes from its parameters.
        elements: Elements of the parameters behind it.
        filter_axis: Axis of the output filters of a kernel; None elsewhere.
        groups: Groups of a convolution; 1 elsewhere.
        transposed: Whether axis 0 counts inputs.
        candidates: Nulls to choose from, the default of the layer's type first.
    """

    tensor: torch.Tensor
    elements: int
    filter_axis: int | None
    groups: int
    transposed: bool
    candidates: tuple[Null, ...]


@dataclass(frozen=True)
class _Found:
    """A tensor as one module holds it, the parameters behind it and the weight beside it."""

    layer: str
    owner: nn.Module
    attribute: str
    tensor: torch.Tensor
    behind: tuple[torch.Tensor, ...]
    weight: torch.Tensor | None

    @property
    def name(self) -> str:
        return f"{self.layer}.{self.attribute}" if self.layer else self.attribute

    @property
    def elements(self) -> int:
        return sum(0 if isinstance(p, UninitializedParameter) else p.numel() for p in self.behind)

    @property
    def kind(self) -> str:
        own = any(self.tensor is parameter for parameter in self.behind)
        return kind_of(self.owner) + ("" if own else " parametrized")


def find_parameters(
    model: nn.Module,
) -> tuple[tuple[ParameterPlace, ...], tuple[SkippedParameter, ...], int]:
    """Every distinct parameter of the model, in the order of ``named_parameters()``.

    Args:
        model: Any module; it is not changed.

    Returns:
        The tensors with numbers, those without (with the reason), and the number of elements of all
        parameters.
    """
    groups: dict[object, list[_Found]] = {}
    for found in _all_tensors(model):
        groups.setdefault(_identity(found.tensor), []).append(found)
    places: list[ParameterPlace] = []
    skipped: list[SkippedParameter] = []
    total = 0
    for same in groups.values():
        first = same[0]
        total += first.elements
        reason = unreadable(first.tensor)
        if reason:
            skipped.append(SkippedParameter(first.name, reason))
            continue
        places.append(_describe(first, tuple(other.name for other in same[1:])))
    return tuple(places), tuple(skipped), total


def overflown_statistics(model: nn.Module) -> dict[str, int]:
    """Number of NaN and infinite values by name, for running statistics of norms that hold any."""
    found = {}
    for name, buffer in model.named_buffers():
        running = name.rpartition(".")[2] in ("running_mean", "running_var")
        if running and buffer.is_floating_point() and not unreadable(buffer):
            found[name] = int((~torch.isfinite(buffer)).sum())
    return {name: count for name, count in found.items() if count}


def not_finite(model: nn.Module) -> str:
    """Which parameters, and running statistics of norms, hold NaN or infinity; empty if none do."""
    broken = [
        name
        for name, tensor in model.named_parameters()
        if (tensor.is_floating_point() or tensor.is_complex())
        and not tensor.is_meta
        and not bool(torch.isfinite(tensor.detach()).all())
    ]
    broken += overflown_statistics(model)
    more = f" and {len(broken) - 3} more" if len(broken) > 3 else ""
    return ", ".join(broken[:3]) + more


def _all_tensors(model: nn.Module) -> Iterator[_Found]:
    replaced: set[int] = set()
    for layer, module in model.named_modules(remove_duplicate=False):
        if id(module) in replaced:
            continue
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
                yield _Found(layer, module, name, parameter, (parameter,), weight)
        for name, (tensor, behind) in parametrized.items():
            yield _Found(layer, module, name, tensor, behind, weight)


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


_SETTLING = 30
"""Power iterations from any vectors to those of the largest singular value, or one as large."""


def computed_from(module: nn.Module, state: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """What a parametrized module would compute of other parameters, by attribute.

    The vectors of spectral norm, which a history does not hold, are those that these parameters
    lead to where ``state`` has none.

    Args:
        module: One layer; not changed.
        state: The parameters and buffers behind it, by their names in the layer. What is computed
            of a parameter that it lacks, or has in another shape, is left out.
    """
    twin = deep_copy(module)
    given: set[int] = set()
    held = [*twin.named_parameters(), *twin.named_buffers()]
    with torch.no_grad():
        for name, tensor in held:
            value = state.get(name)
            if isinstance(value, torch.Tensor) and value.shape == tensor.shape:
                tensor.copy_(value)
                given.add(id(tensor))
        if any(id(buffer) not in given for buffer in twin.buffers()):
            _settle(twin)
    return {
        found.attribute: found.tensor
        for found in _all_tensors(twin)
        if not found.layer and found.kind.endswith("parametrized")
        if all(id(tensor) in given for tensor in found.behind)
    }


def _settle(module: nn.Module) -> None:
    """Let what a parametrization iterates come to rest."""
    for _ in range(_SETTLING):
        if parametrize.is_parametrized(module):
            for steps in module.parametrizations.train().values():  # type: ignore[operator, union-attr]
                steps()
        for hook in modules.forward_pre_hooks(module):
            if isinstance(hook, SpectralNorm):
                hook.compute_weight(module, do_power_iteration=True)


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


def _describe(found: _Found, shared: tuple[str, ...]) -> ParameterPlace:
    module, tensor, kind = found.owner, found.tensor, found.kind
    base = kind.split()[0]
    is_kernel = tensor.dim() >= 2 and base not in ("embedding", "norm")
    transposed = is_kernel and (
        bool(getattr(module, "transposed", False)) or _is_transposed_linear(module)
    )
    groups = module.groups if isinstance(module, modules.Convolution) else 1
    has_filters = is_kernel or (base == "embedding" and tensor.dim() == 2)
    # inputs that one output reads, outputs that one input reaches
    fans = (tensor.shape[1], tensor.shape[0] // groups) if is_kernel else (0, 0)
    fan_in, fan_out = (n * prod(tensor.shape[2:]) for n in (fans[::-1] if transposed else fans))
    return ParameterPlace(
        layer=found.name if modules.is_of_parameters(found.owner) else found.layer,
        parameter=found.name,
        kind=kind,
        dtype=str(tensor.dtype).removeprefix("torch."),
        shape=tuple(tensor.shape),
        shared_with=shared,
        fan_in=fan_in,
        fan_out=fan_out,
        is_kernel=is_kernel,
        requires_grad=any(p.requires_grad for p in found.behind),
        tensor=tensor,
        elements=found.elements,
        filter_axis=(1 if transposed else 0) if has_filters else None,
        groups=groups,
        transposed=transposed,
        candidates=_candidates(found, base, is_kernel, groups),
    )


def _candidates(found: _Found, base: str, is_kernel: bool, groups: int) -> tuple[Null, ...]:
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
    zeros, ones = Null("constant", "zeros", 0.0), Null("constant", "ones", 0.0, mean=1.0)
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
