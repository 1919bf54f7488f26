"""The statistics of every parameter of a model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from math import sqrt
from typing import Any

import torch
from torch import nn

from weightscope.adapters.modes import outside_modes
from weightscope.adapters.modules import BatchNorm
from weightscope.calls import named_errors, random_state
from weightscope.errors import InputError, keyword, shown
from weightscope.movement import Movement, measure_movement
from weightscope.statistics.choosing import Evidence, choose_nulls
from weightscope.statistics.constants import find_constants
from weightscope.statistics.distances import compare, descends, edge_of
from weightscope.statistics.fresh import find_fresh
from weightscope.statistics.records import ModelStatistics, Parameter, ParameterStatistics, Spectrum
from weightscope.statistics.rules import Null, given_null
from weightscope.statistics.tensors import (
    ParameterPlace,
    computed_from,
    find_parameters,
    overflown_statistics,
)
from weightscope.summaries.summary import (
    THRESHOLDS,
    summarize_with,
    warning_about,
)
from weightscope.summaries.tensor_summary import TensorSummary
from weightscope.summaries.threads import Run, run_all
from weightscope.thresholds import FRESH_VALUES, TELLING

Initial = (
    Mapping[str, torch.Tensor] | nn.Module | Callable[[], nn.Module | Mapping[str, torch.Tensor]]
)
RELATIVE_THRESHOLD = 0.1
_BLOCK = 1 << 20


@outside_modes()
def measure_model(
    model: nn.Module,
    *,
    initial: Initial | None = None,
    spectra: bool = False,
    threads: int | None = None,
    progress: bool = False,
) -> ModelStatistics:
    """Statistics of every parameter, each with its null.

    Args:
        model: Any module; it is not changed.
        initial: The model's state dict before training, or a callable that returns that state dict
            or the model as it was built. Kernels that descend from it have an exact movement. For
            the others it is a null distribution; so is what a callable draws differently when it
            is called again. None: the null is chosen by the evidence of the weights, and says so.
        spectra: Whether to compute the singular values of kernels.
        threads: Number of threads; None for ``torch.get_num_threads()``.
        progress: Whether to show a progress bar.

    Returns:
        One record for each distinct parameter, what was skipped, and the coverage.

    Raises:
        InputError: If the model is no module or has no parameters, or ``initial`` does not fit it.
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"expected a torch.nn.Module, got {type(model).__name__}")
    places, skipped, total = find_parameters(model)
    if not places and not skipped:
        raise InputError(f"{type(model).__name__} has no parameters to measure")
    starts, drawn = _initial_tensors(initial, model, places)

    def measure(place: ParameterPlace, run: Run) -> _Figures:
        return _measure(place, starts.get(place.parameter), place.parameter in drawn, run)

    found = run_all(places, lambda place: place.tensor.numel(), measure, threads, progress)
    found = _disowned(places, found)
    nulls = _nulls(places, found)
    folded = _folded_stds(model, places, found)
    records = tuple(
        _record(place, measured, null, folded.get(place.layer), _spectrum(place, spectra))
        for place, measured, null in zip(places, found, nulls, strict=True)
    )
    covered = sum(place.elements for place in places)
    coverage = covered / total if total else 1.0
    constants, moved = find_constants(records)
    return ModelStatistics(
        records,
        skipped,
        coverage,
        constants,
        moved,
        find_fresh(places),
        overflown_statistics(model),
    )


@dataclass(frozen=True, eq=False)
class _Figures:
    """What was measured of one parameter, and of its start where that was given.

    Without a movement the start is only another draw of it. ``since`` is the movement if these
    weights began at the start that was given.
    """

    summary: TensorSummary
    before: TensorSummary | None
    movement: Movement | None
    since: Movement | None


def _measure(place: ParameterPlace, start: torch.Tensor | None, drawn: bool, run: Run) -> _Figures:
    before, movement, since = None, None, None
    spreads = {null.std for null in place.candidates}
    if start is not None:
        # the start in the same way as the weights, so that what did not change has no distance
        before = summarize_with(run, start, filter_axis=place.filter_axis)
        if not before.finite:
            raise InputError(
                f"{keyword('initial')} holds no finite number in {place.parameter!r}; give the "
                "state dict this model started from"
            )
        spreads = {before.std}
    relative = [RELATIVE_THRESHOLD * std for std in sorted(spreads)]
    thresholds = tuple(dict.fromkeys([*THRESHOLDS, *relative]))
    summary = summarize_with(run, place.tensor, thresholds, place.filter_axis)
    if start is not None and before is not None and not drawn:
        movement = since = measure_movement(place.tensor, start)
        if place.is_kernel and not descends(since, summary, before):
            movement = None
    return _Figures(summary, before, movement, since)


def _disowned(places: Sequence[ParameterPlace], found: list[_Figures]) -> list[_Figures]:
    """Where no kernel descends from its start, no bias does: too few to tell it by themselves.

    Where one does, kernels of as few weights do too. Constants of several numbers are what every
    draw has; a single number may be a draw.
    """
    kernels = [
        m for p, m in zip(places, found, strict=True) if p.is_kernel and m.before and m.before.std
    ]
    if not kernels:
        return found
    if any(m.movement is not None for m in kernels):
        return [
            replace(m, movement=m.since)
            if m.movement is None and m.summary.count < FRESH_VALUES
            else m
            for m in found
        ]
    return [
        replace(m, movement=None) if m.before and (m.before.std or m.before.count == 1) else m
        for m in found
    ]


def _initial_tensors(
    initial: Initial | None, model: nn.Module, places: tuple[ParameterPlace, ...]
) -> tuple[dict[str, torch.Tensor], set[str]]:
    """The start of each parameter, and names of those that a callable draws each time."""
    if initial is None:
        return {}, set()
    again: object = None
    if callable(initial) and not isinstance(initial, nn.Module):
        # the user's fresh network draws
        with random_state(), named_errors(f"the function given as {keyword('initial')}"):
            state, again = _state_of(initial()), _state_of(initial())
    else:
        state = _state_of(initial)
    if not isinstance(state, Mapping):
        raise InputError(
            f"{keyword('initial')} must be a state dict, or a callable that returns one or a "
            f"model; got {type(state).__name__}; weightscope.read_weights reads a file"
        )
    tensors: dict[str, torch.Tensor] = {}
    names: dict[str, str] = {}
    known = model.state_dict().keys() | {place.parameter for place in places}
    behind = dict(_computed(model, state, places))
    for place in places:
        if place.parameter in behind:
            tensors[place.parameter] = behind[place.parameter]
            continue
        name = place.parameter if place.parameter in state else _before_wrapping(place.parameter)
        start = state.get(name)
        names[place.parameter] = name
        if not isinstance(start, torch.Tensor):
            continue
        if start.shape != place.tensor.shape:
            raise InputError(
                f"{keyword('initial')} has {place.parameter!r} with shape {tuple(start.shape)}, "
                f"the model has {tuple(place.tensor.shape)}; give the state this model started "
                "from"
            )
        tensors[place.parameter] = start
    if not tensors:
        raise InputError(
            f"{keyword('initial')} names none of the model's parameters (such as "
            f"{places[0].parameter!r}); they begin with "
            f"{', '.join(map(shown, list(state)[:2])) or 'nothing'}: give the state dict that this "
            "model started from, by its own names; weightscope.fit_weights(model, "
            "weightscope.read_weights(path)) takes off what stands before them in a file"
        )
    unknown = [
        name
        for name, tensor in state.items()
        if isinstance(tensor, torch.Tensor) and name not in known and name not in names.values()
    ]
    # a buffer or a bias may have come and gone; a kernel is a layer of another network
    unknown = [name for name in unknown if state[name].dim() > 1]
    if unknown:
        raise InputError(
            f"{keyword('initial')} has {', '.join(map(repr, unknown[:2]))}"
            f"{', ...' if len(unknown) > 2 else ''}, which {type(model).__name__} does not have: "
            "it is of another network, or of this one before its layers were renamed, wrapped or "
            "removed; give the state that this model started from, by its present names"
        )
    tensors = {name: start for name, start in tensors.items() if start.numel()}
    second = again if isinstance(again, Mapping) else state
    drawn = {
        n for n, start in tensors.items() if n in names and not _same(start, second.get(names[n]))
    }
    return tensors, drawn


def _computed(
    model: nn.Module, state: Mapping[Any, Any], places: Iterable[ParameterPlace]
) -> Iterator[tuple[str, torch.Tensor]]:
    """What parametrized layers compute of a state that holds what they compute it from."""
    layers = {
        place.layer
        for place in places
        if place.kind.endswith("parametrized") and place.parameter not in state
    }
    for layer in sorted(layers):
        prefix = f"{layer}." if layer else ""
        own = {
            name.removeprefix(prefix): tensor
            for name, tensor in state.items()
            if isinstance(name, str) and name.startswith(prefix)
        }
        for attribute, tensor in computed_from(model.get_submodule(layer), own).items():
            yield prefix + attribute, tensor


def _before_wrapping(name: str) -> str:
    """The name that a parameter had before it was pruned or parametrized, which rename it."""
    module, _, last = name.rpartition(".parametrizations.")
    if module and last.endswith(".original"):
        return f"{module}.{last.removesuffix('.original')}"
    return name.removesuffix("_orig")


def _state_of(given: object) -> object:
    """The tensors of a model by the names that its statistics have; anything else as it is."""
    if not isinstance(given, nn.Module):
        return given
    found, _, _ = find_parameters(given)
    return {place.parameter: place.tensor for place in found}


def _same(first: torch.Tensor, second: object) -> bool:
    """Whether two calls gave the same numbers."""
    return first is second or (
        isinstance(second, torch.Tensor)
        and first.shape == second.shape
        and torch.equal(first.detach(), second.detach())
    )


def _nulls(places: Sequence[ParameterPlace], found: Sequence[_Figures]) -> list[Null]:
    """The nulls: given starts where there are any, else what the weights themselves tell."""
    pairs = zip(places, found, strict=True)
    chosen = iter(choose_nulls([_evidence(p, m.summary) for p, m in pairs if m.before is None]))
    return [
        next(chosen)
        if m.before is None
        else given_null(m.before, "drawn" if m.movement is None else "given")
        for m in found
    ]


def _evidence(place: ParameterPlace, summary: TensorSummary) -> Evidence:
    return Evidence(
        part=place.parameter.partition(".")[0],
        kind=place.kind.split()[0],
        is_kernel=place.is_kernel,
        summary=summary,
        rules={null.label: null for null in place.candidates},
        rounding=_rounding(place.tensor),
    )


def _record(
    place: ParameterPlace,
    measured: _Figures,
    null: Null,
    folded: float | None,
    spectrum: Spectrum | None,
) -> ParameterStatistics:
    summary = measured.summary
    shown = replace(summary, near_zero={t: summary.near_zero[t] for t in THRESHOLDS})
    beyond = _count_beyond(place, summary, null)
    return ParameterStatistics(
        **{field.name: getattr(place, field.name) for field in fields(Parameter)},
        count=summary.count,
        summary=shown,
        null=null,
        comparison=compare(shown, null, movement=measured.movement, beyond=beyond),
        near_zero_relative=summary.near_zero[RELATIVE_THRESHOLD * null.std],
        spectrum=spectrum,
        folded_std=folded if place.parameter.endswith("weight") and place.is_kernel else None,
        warning=warning_about(summary, is_kernel=place.is_kernel),
        since_given=measured.since,
    )


def _count_beyond(place: ParameterPlace, summary: TensorSummary, null: Null) -> int:
    """Weights beyond the edge of a bounded rule that a kernel of enough weights else follows."""
    enough = summary.finite >= TELLING.get(null.family, summary.finite + 1)
    edge = edge_of(null, _rounding(place.tensor))
    if null.source != "matched" or not enough or max(-summary.minimum, summary.maximum) <= edge:
        return 0
    weights = place.tensor.detach().reshape(-1)
    blocks = (weights[i : i + _BLOCK] for i in range(0, weights.numel(), _BLOCK))
    return sum(int((block.double().abs() > edge).sum()) for block in blocks)


def _rounding(tensor: torch.Tensor) -> float:
    """Relative precision of a tensor's number format; of a quantized one, too coarse for edges."""
    return 1.0 if tensor.is_quantized else float(torch.finfo(tensor.dtype).eps)


def _folded_stds(
    model: nn.Module, places: tuple[ParameterPlace, ...], found: list[_Figures]
) -> dict[str, float]:
    """Spread of each kernel with the batch norm registered right behind it folded in."""
    norms = dict(_norms_behind(model))
    folded = {}
    for place, measured in zip(places, found, strict=True):
        norm, summary = norms.get(place.layer), measured.summary
        means, lengths = summary.filter_means, summary.filter_norms
        if norm is None or not place.is_kernel or means is None or lengths is None:
            continue
        assert norm.running_var is not None
        with torch.no_grad():
            scale = (norm.running_var.double() + norm.eps).rsqrt()
            if norm.weight is not None:
                scale = scale * norm.weight.double()
        factors = scale.cpu().numpy()
        if (place.transposed and place.groups > 1) or factors.shape != lengths.shape:
            continue
        size = summary.count / lengths.size
        mean = float((factors * means).mean())
        square = float((factors**2 * lengths**2).sum() / (size * lengths.size))
        folded[place.layer] = sqrt(max(square - mean * mean, 0.0))
    return folded


def _norms_behind(model: nn.Module) -> Iterator[tuple[str, BatchNorm]]:
    """Pairs of layer name and the batch norm registered next to it with as many features.

    Registration order is not the order of the forward; a batch norm directly after a layer of the
    same width, inside one parent, is what every common block writes.
    """
    for prefix, parent in model.named_modules():
        children = list(parent.named_children())
        for (name, layer), (_, norm) in pairwise(children):
            width = getattr(layer, "out_channels", getattr(layer, "out_features", None))
            if (
                isinstance(norm, BatchNorm)
                and norm.running_var is not None
                and width == norm.num_features
            ):
                yield (f"{prefix}.{name}" if prefix else name), norm


def _spectrum(place: ParameterPlace, wanted: bool) -> Spectrum | None:
    if not (wanted and place.is_kernel):
        return None
    from weightscope.statistics.spectrum import measure_spectrum

    return measure_spectrum(place.tensor, groups=place.groups, transposed=place.transposed)
