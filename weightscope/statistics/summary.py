"""The statistics of one tensor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from math import ceil, frexp, isfinite, ldexp, log2, nan
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from weightscope.errors import InputError
from weightscope.statistics.moments import Moments, merge, moments_of, scale_for
from weightscope.statistics.ordering import (
    PROBABILITIES,
    CompiledCells,
    CompiledSortedValues,
    CountedCells,
    Flags,
    ListedValues,
    Order,
    SortedValues,
    quantile_ranks,
    quantiles_of,
)
from weightscope.statistics.passes import (
    CompiledPasses,
    FilterLayout,
    FilterSums,
    Part,
    Passes,
    Steps,
    TorchPasses,
    Way,
    add_filter_sums,
    default_way,
    first_pass,
    look_into,
)
from weightscope.statistics.plain import PlainPasses
from weightscope.statistics.pool import Job, number_of_threads, run_jobs
from weightscope.statistics.records import Counts, Floats, Histogram, TensorSummary

THRESHOLDS = (1e-3, 1e-2)
BINS = 128
# up to here sorting is quicker than counting
SORTED = 1 << 15
_BLOCK = 1 << 18
_ZERO = np.zeros(1)
_MOST_BINS = 512
_STEPS = np.arange(-_MOST_BINS // 2, _MOST_BINS // 2 + 1, dtype=np.float64)
_LISTED = {
    torch.bfloat16: torch.int16,
    torch.float16: torch.int16,
    torch.float8_e4m3fn: torch.uint8,
    torch.float8_e4m3fnuz: torch.uint8,
    torch.float8_e5m2: torch.uint8,
    torch.float8_e5m2fnuz: torch.uint8,
    torch.float8_e8m0fnu: torch.uint8,
}


@dataclass(frozen=True, eq=False)
class _Measured:
    """All that is known of a tensor before questions of order are asked."""

    count: int
    moments: Moments
    nan: int
    inf: int
    minimum: float
    maximum: float
    filters: tuple[Floats, Floats] | None

    @classmethod
    def of(cls, parts: Sequence[Part], size: int, layout: FilterLayout) -> _Measured:
        """Put the parts of a tensor together."""
        moments = merge(part.moments for part in parts)
        some = moments.count > 0
        return cls(
            size,
            moments,
            sum([part.nan for part in parts]),
            sum([part.inf for part in parts]),
            min([part.minimum for part in parts]) if some else nan,
            max([part.maximum for part in parts]) if some else nan,
            layout.norms_and_means([part.filters for part in parts]),
        )


@dataclass(frozen=True, eq=False)
class _Questions:
    """What is asked of a tensor's order.

    Attributes:
        ranks: The values that have these ranks, for the quantiles.
        edges: Edges of the histogram.
        borders: Values are counted below each: thresholds of both signs, zero twice, edges.
        closed: Whether values equal to a border are counted with it.
    """

    ranks: Counts
    edges: Floats
    borders: Floats
    closed: Flags

    @classmethod
    def about(cls, measured: _Measured, limits: Floats, bins: int | Sequence[float]) -> _Questions:
        """The questions that a summary answers."""
        edges = bin_edges(bins, measured.minimum, measured.maximum)
        borders = np.concatenate([-limits, limits, _ZERO, _ZERO, edges])
        closed = _closed(limits.size, edges.size)
        return cls(quantile_ranks(measured.moments.count, PROBABILITIES), edges, borders, closed)


@lru_cache(64)
def _closed(limits: int, edges: int) -> Flags:
    """Which borders count what equals them: positive thresholds, the second zero, the last edge."""
    return np.array(
        [False] * limits + [True] * limits + [False, True] + [False] * (edges - 1) + [True]
    )


def summarize(
    tensor: torch.Tensor,
    *,
    thresholds: Sequence[float] = THRESHOLDS,
    bins: int | Sequence[float] = BINS,
    filter_axis: int | None = None,
    fast: bool = False,
    threads: int | None = None,
) -> TensorSummary:
    """Counts, moments, quantiles, near-zero mass, histogram and filter norms of one tensor.

    Quantiles, near-zero mass and bin counts equal numpy's on the float64 values; moments agree
    within 1e-9 relative. A tensor on another device is read there, block by block. Quantized
    tensors are dequantized.

    Args:
        tensor: Weights of any floating-point dtype, on any device but meta.
        thresholds: Absolute values t of the near-zero mass, the share of ``|w| <= t``.
        bins: An even number: at most so many bins, symmetric about 0, whose width is a power of two
            in units of the weights. Or ascending edges, read as numpy.histogram reads them.
        filter_axis: Axis that counts the output filters; None for no filter norms.
        fast: Interpolate what lies inside a cell of relative width 2^-7 instead of looking there:
            a quantile q is off by at most 2^-7 |q|, a share by the share of one cell. Moments,
            extremes, counts and default bins stay exact.
        threads: Number of threads; None for ``torch.get_num_threads()``. The result is the same
            for any number.

    Returns:
        The summary, over the finite values.

    Raises:
        InputError: If the tensor holds no real numbers that can be read, or an argument is wrong.

    Example:
        >>> summarize(torch.tensor([-1.0, 0.0, 3.0])).mean_abs
        1.3333333333333333
    """
    threads = number_of_threads(threads)
    _check(tensor, thresholds, filter_axis)
    steps = partial(
        summarizing, tensor, thresholds=thresholds, bins=bins, filter_axis=filter_axis, fast=fast
    )
    return run_jobs([Job(tensor.numel(), steps)], threads)[0]


def summarizing(
    tensor: torch.Tensor,
    *,
    thresholds: Sequence[float] = THRESHOLDS,
    bins: int | Sequence[float] = BINS,
    filter_axis: int | None = None,
    fast: bool = False,
    way: Way | Literal["torch"] | None = None,
) -> Steps[TensorSummary]:
    """``summarize`` in steps; ``way`` None takes the best, "torch" reads through torch anywhere."""
    way = way or default_way()
    _check(tensor, thresholds, filter_axis)
    tensor = tensor.detach()
    if tensor.is_quantized:
        tensor = tensor.dequantize()
    if filter_axis is not None:
        filter_axis %= tensor.dim()
    tensor, filter_axis = _in_memory_order(tensor, filter_axis)
    layout = FilterLayout.of(tensor.shape, filter_axis)
    flat = tensor.view(-1)
    limits = np.asarray(thresholds, dtype=np.float64)
    order: Order
    if flat.dtype in _LISTED:
        measured, order = _count_patterns(flat, layout)
    elif flat.dtype is torch.float64:
        measured, order = _sort(flat.cpu().numpy(), layout)
    elif flat.numel() <= SORTED:
        sort = _sort_compiled if way == "compiled" else _sort
        measured, order = sort(flat.cpu().numpy(), layout)
    else:
        return (yield from _count(flat, layout, way, thresholds, limits, bins, fast))
    return _conclude(measured, order, _Questions.about(measured, limits, bins), thresholds)


def _check(tensor: torch.Tensor, thresholds: Sequence[float], axis: int | None) -> None:
    reason = unreadable(tensor)
    if reason:
        raise InputError(f"a tensor of shape {tuple(tensor.shape)} cannot be measured: {reason}")
    if not all(t >= 0 for t in thresholds):
        raise InputError(f"thresholds={tuple(thresholds)}: each must be a number >= 0")
    if axis is not None and not -tensor.dim() <= axis < tensor.dim():
        raise InputError(f"filter_axis={axis}: the tensor has {tensor.dim()} axes")


def unreadable(tensor: torch.Tensor) -> str:
    """Why a tensor has no numbers to measure, with the remedy; ``""`` if it has."""
    if torch.nn.parameter.is_lazy(tensor):
        return "lazy and not initialized yet; run the model once"
    if tensor.is_meta:
        return "on the meta device: it has a shape but no numbers; load the weights first"
    if tensor.is_complex():
        return f"{tensor.dtype}: complex numbers have no order; pass real and imaginary parts"
    if tensor.layout is not torch.strided:
        return f"stored as {tensor.layout}; densify it with .to_dense()"
    if tensor.is_quantized or tensor.dtype in _LISTED:
        return ""
    if tensor.dtype in (torch.float32, torch.float64):
        return ""
    if tensor.dtype.is_floating_point:
        return f"{tensor.dtype} is packed; unpack it to a float dtype first"
    return f"{tensor.dtype} holds integers, not weights"


def _in_memory_order(tensor: torch.Tensor, axis: int | None) -> tuple[torch.Tensor, int | None]:
    """A contiguous view of the same numbers (a copy where strides overlap or leave gaps)."""
    if tensor.is_contiguous():
        return tensor, axis
    axes = sorted(range(tensor.dim()), key=tensor.stride, reverse=True)
    laid = tensor.permute(axes)
    return laid.contiguous(), None if axis is None else axes.index(axis)


def _sort(array: NDArray[np.floating], layout: FilterLayout) -> tuple[_Measured, Order]:
    filters = FilterSums(0, *np.zeros((2, layout.span(0, array.size)[1] if array.size else 0)))
    finite = array[np.isfinite(array)]
    order = SortedValues(finite)
    n = finite.size
    minimum, maximum = (float(order.values[0]), float(order.values[-1])) if n else (nan, nan)
    scale = scale_for(max(-minimum, maximum)) if n else 1.0
    parts = []
    with np.errstate(invalid="ignore", over="ignore"):
        for start in range(0, array.size if layout.filters else 0, _BLOCK):
            block = array[start : start + _BLOCK].astype(np.float64)
            add_filter_sums(block, block * block, start, layout, filters)
    for start in range(0, n, _BLOCK):
        block = finite[start : start + _BLOCK].astype(np.float64)
        parts.append(moments_of(block, scale=scale))
    nans = int(np.isnan(array).sum()) if n < array.size else 0
    return _Measured(
        array.size, merge(parts), nans, array.size - n - nans, minimum, maximum,
        layout.norms_and_means([filters]) if array.size else None,
    ), order  # fmt: skip


def _sort_compiled(array: NDArray[np.float32], layout: FilterLayout) -> tuple[_Measured, Order]:
    part = CompiledPasses(array, layout).whole()
    some = part.moments.count == array.size
    order = CompiledSortedValues(array if some else array[np.isfinite(array)])
    return _Measured.of([part], array.size, layout), order


def _count_patterns(flat: torch.Tensor, layout: FilterLayout) -> tuple[_Measured, Order]:
    """Numbers of 16 or 8 bits: count each pattern there is."""
    carrier = _LISTED[flat.dtype]
    bits = 8 * carrier.itemsize
    patterns = flat.view(carrier)
    counts = np.zeros(1 << bits, np.int64)
    filters = FilterSums(0, *np.zeros((2, layout.span(0, flat.numel())[1] if flat.numel() else 0)))
    for start in range(0, flat.numel(), _BLOCK):
        block = patterns[start : start + _BLOCK]
        places = block.long() & ((1 << bits) - 1)
        counts += torch.bincount(places, minlength=1 << bits).cpu().numpy()
        if layout.filters:
            wide = flat[start : start + _BLOCK].double().cpu().numpy()
            with np.errstate(invalid="ignore", over="ignore"):
                add_filter_sums(wide, wide * wide, start, layout, filters)
    everything = torch.arange(1 << bits).to(carrier).view(flat.dtype).double().numpy()
    finite = np.isfinite(everything)
    ascending = np.flatnonzero(finite)[np.argsort(everything[finite], kind="stable")]
    representable = everything[ascending]
    borders = np.append((representable[:-1] + representable[1:]) / 2, representable[-1])
    occurs = counts[ascending] > 0
    order = ListedValues(representable[occurs], counts[ascending][occurs], borders[occurs])
    nans = int(counts[np.isnan(everything)].sum())
    infs = int(counts[np.isinf(everything)].sum())
    some = order.values.size > 0
    return _Measured(
        flat.numel(),
        moments_of(order.values, counts[ascending][occurs]),
        nans,
        infs,
        float(order.values[0]) if some else nan,
        float(order.values[-1]) if some else nan,
        layout.norms_and_means([filters]) if flat.numel() else None,
    ), order


def _count(
    flat: torch.Tensor,
    layout: FilterLayout,
    way: Way | Literal["torch"],
    thresholds: Sequence[float],
    limits: Floats,
    bins: int | Sequence[float],
    fast: bool,
) -> Steps[TensorSummary]:
    """Float32: count cells, then look into those that hold answers."""
    passes: Passes
    counted = CountedCells
    if way == "torch" or flat.device.type != "cpu":
        passes = TorchPasses(flat, layout)
    elif way == "compiled":
        passes, counted = CompiledPasses(flat.numpy(), layout), CompiledCells
    else:
        passes = PlainPasses(flat.numpy(), layout)
    parts, order = yield from first_pass(passes, counted)
    measured = _Measured.of(parts, passes.size, layout)
    questions = _Questions.about(measured, limits, bins)
    if measured.moments.count and not fast:
        wanted = order.unanswered(questions.ranks, questions.borders, questions.closed)
        order = yield from look_into(passes, order, wanted, parts)
    return _conclude(measured, order, questions, thresholds)


def _conclude(
    measured: _Measured, order: Order, questions: _Questions, thresholds: Sequence[float]
) -> TensorSummary:
    moments, n = measured.moments, measured.moments.count
    constant = n > 0 and measured.minimum == measured.maximum
    answers = order.answer(questions.ranks, questions.borders, questions.closed)
    before = answers.before
    quantiles = quantiles_of(answers.values, n, PROBABILITIES) if n else [nan] * len(PROBABILITIES)
    k = len(thresholds)
    borders = before[: 2 * k + 2].tolist()
    near = [(borders[k + i] - borders[i]) / n if n else nan for i in range(k)]
    norms, means = measured.filters or (None, None)
    return TensorSummary(
        count=measured.count,
        finite=n,
        nan=measured.nan,
        inf=measured.inf,
        zero=borders[2 * k + 1] - borders[2 * k],
        minimum=measured.minimum,
        maximum=measured.maximum,
        mean=measured.minimum if constant else moments.mean / moments.scale if n else nan,
        std=0.0 if constant else moments.std,
        mean_abs=moments.absolute / n / moments.scale if n else nan,
        skewness=nan if constant else moments.skewness,
        kurtosis=nan if constant else moments.kurtosis,
        quantiles=dict(zip(PROBABILITIES, quantiles, strict=True)),
        near_zero=dict(zip(thresholds, near, strict=True)),
        histogram=Histogram(questions.edges, before[2 * k + 3 :] - before[2 * k + 2 : -1]),
        filter_norms=norms,
        filter_means=means,
        dead_filters=nan if norms is None else _share_of_zeros(norms),
        cdf=answers.cdf,
    )


def _share_of_zeros(norms: Floats) -> float:
    return (norms.size - np.count_nonzero(norms)) / norms.size if norms.size else nan


def bin_edges(bins: int | Sequence[float], minimum: float, maximum: float) -> Floats:
    """The edges asked for, or symmetric ones whose width is a power of two.

    Such edges are multiples of one power of two with at most 8 significant bits: they lie between
    cells, and the histograms of two layers nest.
    """
    if not isinstance(bins, int):
        edges = np.asarray(bins, dtype=np.float64)
        if edges.ndim != 1 or edges.size < 2 or not (np.diff(edges) > 0).all():
            raise InputError("bins must be at least two ascending edges, or an even number")
        return edges
    half = bins // 2
    if bins % 2 or not 2 <= bins <= _MOST_BINS:
        raise InputError(f"bins={bins}: an even number from 2 to 512 is needed")
    peak = max(-minimum, maximum)
    if not isfinite(peak) or peak == 0.0:
        return np.arange(-half, half + 1, dtype=np.float64) / half
    # frexp: peak < 2^exponent; a width below 2^-133 would fall inside a cell
    width = ldexp(1.0, max(frexp(peak)[1] - ceil(log2(half)) - 1, -133))
    while peak >= half * width:
        width *= 2.0
    needed = int(peak // width) + 1
    symmetric: Floats = _STEPS[_MOST_BINS // 2 - needed : _MOST_BINS // 2 + needed + 1] * width
    return symmetric


def warning_about(summary: TensorSummary, *, is_kernel: bool) -> str:
    """What a reader must know about a tensor, in words; ``""`` if there is nothing."""
    notes = []
    if not summary.count:
        notes.append("empty")
    if summary.nan or summary.inf:
        notes.append(f"{summary.nan} NaN and {summary.inf} infinite values left out")
    if is_kernel and summary.finite and summary.zero == summary.finite:
        notes.append("all weights are zero")
    elif is_kernel and summary.finite > 1 and summary.minimum == summary.maximum:
        notes.append("all weights are equal")
    elif is_kernel and summary.dead_filters > 0:
        notes.append(f"{summary.dead_filters:.1%} of the filters are zero")
    return "; ".join(notes)
