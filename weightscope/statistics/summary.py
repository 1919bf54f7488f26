"""The statistics of tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import pairwise
from math import nan
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from weightscope.errors import InputError
from weightscope.statistics.moments import (
    Moments,
    merge,
    moments_of,
    scale_for,
    standardize,
)
from weightscope.statistics.ordering import (
    SHARES,
    CompiledCells,
    CountedCells,
    ListedValues,
    Order,
    SortedValues,
    compiled_answers,
    ends_of,
)
from weightscope.statistics.passes import (
    CompiledPasses,
    FilterLayout,
    FilterSums,
    Part,
    Passes,
    TorchPasses,
    Way,
    add_filter_sums,
    default_way,
)
from weightscope.statistics.plain import PlainPasses
from weightscope.statistics.pool import Job, number_of_threads, pack, run_in_groups, run_jobs
from weightscope.statistics.questions import (
    BINS,
    PROBABILITIES,
    PROBABILITIES_AS_ARRAY,
    Questions,
    quantiles_of,
    read_bins,
)
from weightscope.statistics.records import (
    Counts,
    EmpiricalCDF,
    Floats,
    Histogram,
    TensorSummary,
)
from weightscope.statistics.steps import Steps, first_passes, look_into

THRESHOLDS = (1e-3, 1e-2)
# up to here sorting is quicker than counting
SORTED = 1 << 15
_BLOCK = 1 << 18
_LISTED = {
    torch.bfloat16: torch.int16,
    torch.float16: torch.int16,
    torch.float8_e4m3fn: torch.uint8,
    torch.float8_e4m3fnuz: torch.uint8,
    torch.float8_e5m2: torch.uint8,
    torch.float8_e5m2fnuz: torch.uint8,
    torch.float8_e8m0fnu: torch.uint8,
}
_READ_AS_THEY_ARE = {torch.float32, torch.float64, *_LISTED}
# copies of so many elements of small tensors are held at a time
_TOGETHER = 1 << 18


@dataclass(frozen=True, eq=False)
class _Measured:
    """All that is known of a tensor before questions of order are asked."""

    moments: Moments
    nan: int
    inf: int
    minimum: float
    maximum: float
    filters: tuple[Floats, Floats] | None

    @classmethod
    def of(cls, parts: Sequence[Part], layout: FilterLayout) -> _Measured:
        """Put the parts of a tensor together."""
        moments = merge(part.moments for part in parts)
        some = moments.count > 0
        return cls(
            moments,
            sum([part.nan for part in parts]),
            sum([part.inf for part in parts]),
            min([part.minimum for part in parts]) if some else nan,
            max([part.maximum for part in parts]) if some else nan,
            layout.norms_and_means([part.filters for part in parts]),
        )


@dataclass(frozen=True, eq=False)
class SummaryRequest:
    """A tensor to summarize; see ``summarize`` for the attributes."""

    tensor: torch.Tensor
    thresholds: Sequence[float] = THRESHOLDS
    filter_axis: int | None = None


@dataclass(frozen=True, eq=False)
class _Subject:
    """A tensor as a line of numbers, and what is asked of it.

    Attributes:
        flat: The numbers in the order of memory.
        size: How many.
        layout: How the filters lie in them.
        thresholds: Of the near-zero mass.
        limits: The same as an array.
        bins: Number of symmetric bins; 0 for given edges.
        given: The edges.
    """

    flat: torch.Tensor
    size: int
    layout: FilterLayout
    thresholds: Sequence[float]
    limits: Floats
    bins: int
    given: Floats

    def questions(self, measured: _Measured, way: Way | Literal["torch"] = "plain") -> Questions:
        """The questions of order."""
        n, extremes = measured.moments.count, (measured.minimum, measured.maximum)
        if way != "compiled":
            return Questions.about(n, *extremes, self.limits, self.bins, self.given)
        return Questions(
            *compiled_answers().ask(
                n, *extremes, PROBABILITIES_AS_ARRAY, self.limits, self.bins, self.given
            )
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
    _check(tensor, filter_axis)
    request = SummaryRequest(tensor, thresholds, filter_axis)
    job = Job(tensor.numel(), partial(summarizing, [request], bins=bins, fast=fast))
    return run_jobs([job], threads)[0][0]


def summarize_many(
    requests: Sequence[SummaryRequest],
    *,
    fast: bool = False,
    threads: int | None = None,
    progress: bool = False,
) -> list[TensorSummary]:
    """``summarize`` of many tensors at a time, in their order; see there for the arguments."""
    return run_in_groups(
        requests,
        lambda request: request.tensor.numel(),
        partial(summarizing, fast=fast),
        number_of_threads(threads),
        progress,
    )


def summarizing(
    requests: Sequence[SummaryRequest],
    *,
    bins: int | Sequence[float] = BINS,
    fast: bool = False,
    way: Way | Literal["torch"] | None = None,
) -> Steps[list[TensorSummary]]:
    """``summarize`` in steps, of several tensors at a time.

    Args:
        requests: The tensors.
        bins: See ``summarize``.
        fast: See ``summarize``.
        way: None takes the best; "torch" reads through torch on any device.
    """
    way = way or default_way()
    asked = read_bins(bins)
    subjects = [_read(request, *asked) for request in requests]
    whole: list[int] = []
    small: list[int] = []
    large: list[int] = []
    for i, subject in enumerate(subjects):
        dtype = subject.flat.dtype
        if dtype is torch.float32 and subject.size > SORTED:
            large.append(i)
        elif dtype is torch.float32 and way == "compiled":
            small.append(i)
        else:
            whole.append(i)
    summaries = yield [partial(_summarize_whole, subjects[i]) for i in whole]
    found: dict[int, TensorSummary] = dict(zip(whole, summaries, strict=True))
    for some in pack(small, [subject.size for subject in subjects], _TOGETHER):
        found |= zip(some, _summarize_small([subjects[i] for i in some]), strict=True)
    counted = yield from _count([subjects[i] for i in large], way, fast)
    found |= zip(large, counted, strict=True)
    return [found[i] for i in range(len(subjects))]


def _check(tensor: torch.Tensor, axis: int | None) -> None:
    reason = unreadable(tensor)
    if reason:
        raise InputError(f"a tensor of shape {tuple(tensor.shape)} cannot be measured: {reason}")
    if axis is not None and not -tensor.dim() <= axis < tensor.dim():
        raise InputError(f"filter_axis={axis}: the tensor has {tensor.dim()} axes")


def _read(request: SummaryRequest, bins: int, given: Floats) -> _Subject:
    # each call of torch costs microseconds, and there may be thousands of small tensors
    axis = request.filter_axis
    _check(request.tensor, axis)
    tensor = request.tensor.detach()
    if tensor.dtype not in _READ_AS_THEY_ARE:
        tensor = tensor.dequantize()
    if axis is not None:
        axis %= tensor.dim()
    tensor, axis = _in_memory_order(tensor, axis)
    layout = FilterLayout.of(tensor.shape, axis)
    limits = _limits(tuple(request.thresholds))
    flat = tensor if tensor.dim() == 1 else tensor.view(-1)
    return _Subject(flat, flat.numel(), layout, request.thresholds, limits, bins, given)


@lru_cache(256)
def _limits(thresholds: tuple[float, ...]) -> Floats:
    if not all(t >= 0 for t in thresholds):
        raise InputError(f"thresholds={thresholds}: each must be a number >= 0")
    return np.array(thresholds, dtype=np.float64)


def unreadable(tensor: torch.Tensor) -> str:
    """Why a tensor has no numbers to measure, with the remedy; ``""`` if it has."""
    if torch.nn.parameter.is_lazy(tensor):
        return "lazy and not initialized yet; run the model once"
    if tensor.is_meta:
        return "on the meta device: it has a shape but no numbers; load the weights first"
    if tensor.layout is not torch.strided:
        return f"stored as {tensor.layout}; densify it with .to_dense()"
    dtype = tensor.dtype
    if dtype in _READ_AS_THEY_ARE or tensor.is_quantized:
        return ""
    if dtype.is_complex:
        return f"{dtype}: complex numbers have no order; pass real and imaginary parts"
    if dtype.is_floating_point:
        return f"{dtype} is packed; unpack it to a float dtype first"
    return f"{dtype} holds integers, not weights"


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
    minimum, maximum = _extremes(order)
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
        merge(parts), nans, array.size - n - nans, minimum, maximum,
        layout.norms_and_means([filters]) if array.size else None,
    ), order  # fmt: skip


def _summarize_whole(subject: _Subject) -> TensorSummary:
    """A tensor that is not read in passes."""
    if subject.flat.dtype in _LISTED:
        measured, order = _count_patterns(subject.flat, subject.layout)
    else:
        measured, order = _sort(subject.flat.cpu().numpy(), subject.layout)
    return _answer(subject, measured, order, subject.questions(measured))


def _summarize_small(subjects: Sequence[_Subject]) -> list[TensorSummary]:
    """The same for sorted tensors, in one compiled call: operators cost calls."""
    arrays = [subject.flat.cpu().numpy() for subject in subjects]
    filters = [_sum_filters(array, s.layout) for array, s in zip(arrays, subjects, strict=True)]
    figures, quantiles, edges, before, points, below, through, ends = (
        compiled_answers().summarize_small(
            np.concatenate([np.sort(array) for array in arrays]),
            ends_of([array.size for array in arrays]),
            np.concatenate([subject.limits for subject in subjects]),
            ends_of([subject.limits.size for subject in subjects]),
            PROBABILITIES_AS_ARRAY,
            subjects[0].bins,
            subjects[0].given,
            SHARES,
        )
    )
    summaries = []
    for subject, sums, row, values, (start, end) in zip(
        subjects, filters, figures.tolist(), quantiles.tolist(), pairwise(ends.tolist()),
        strict=True,
    ):  # fmt: skip
        its_edges, borders, its_points = (slice(*each) for each in zip(start, end, strict=True))
        # copies, because one summary may outlive the others
        cdf = EmpiricalCDF(
            points[its_points].copy(), below[its_points].copy(), through[its_points].copy(),
            int(row[0]),
        )  # fmt: skip
        summaries.append(
            _summary(subject, row, values, edges[its_edges].copy(), before[borders], cdf, sums)
        )
    return summaries


def _sum_filters(array: NDArray[np.float32], layout: FilterLayout) -> tuple[Floats, Floats] | None:
    if not (layout.filters and array.size):
        return None
    sums, squares = np.zeros((2, layout.span(0, array.size)[1]))
    compiled_answers().sum_filters(array, layout.kind, layout.length, sums, squares)
    return layout.norms_and_means([FilterSums(0, sums, squares)])


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
    minimum, maximum = _extremes(order)
    return _Measured(
        moments_of(order.values, counts[ascending][occurs]),
        nans,
        infs,
        minimum,
        maximum,
        layout.norms_and_means([filters]) if flat.numel() else None,
    ), order


def _extremes(order: SortedValues | ListedValues) -> tuple[float, float]:
    if not order.values.size:
        return nan, nan
    return float(order.values[0]) + 0.0, float(order.values[-1]) + 0.0  # no negative zero


def _count(
    subjects: Sequence[_Subject], way: Way | Literal["torch"], fast: bool
) -> Steps[list[TensorSummary]]:
    """Float32: count cells, then look into those that hold answers."""
    passes = [_passes(subject, way) for subject in subjects]
    parts = yield from first_passes(passes)
    counted = CompiledCells if way == "compiled" else CountedCells
    orders = [
        counted.of([part.cells for part in each], sum([part.zero for part in each]))
        for each in parts
    ]
    measured = [
        _Measured.of(each, subject.layout) for each, subject in zip(parts, subjects, strict=True)
    ]
    asked = [s.questions(m, way) for s, m in zip(subjects, measured, strict=True)]
    if not fast:
        orders = yield from look_into(passes, orders, asked, parts)
    return [
        _answer(s, m, order, q)
        for s, m, order, q in zip(subjects, measured, orders, asked, strict=True)
    ]


def _passes(subject: _Subject, way: Way | Literal["torch"]) -> Passes:
    flat, layout = subject.flat, subject.layout
    if way == "torch" or flat.device.type != "cpu":
        return TorchPasses(flat, layout)
    return (CompiledPasses if way == "compiled" else PlainPasses)(flat.numpy(), layout)


def _answer(
    subject: _Subject, measured: _Measured, order: Order, questions: Questions
) -> TensorSummary:
    answers = order.answer(questions.ranks, questions.borders, questions.closed)
    m, extremes = measured.moments, (measured.minimum, measured.maximum)
    described = standardize(m.count, m.mean, m.m2, m.m3, m.m4, m.absolute, m.scale, *extremes)
    return _summary(
        subject,
        [m.count, measured.nan, measured.inf, *extremes, *described],
        quantiles_of(answers.values.tolist(), m.count, PROBABILITIES).tolist(),
        questions.edges,
        answers.before,
        answers.cdf,
        measured.filters,
    )


def _summary(
    subject: _Subject,
    figures: Sequence[float],
    quantiles: Sequence[float],
    edges: Floats,
    before: Counts,
    cdf: EmpiricalCDF,
    filters: tuple[Floats, Floats] | None,
) -> TensorSummary:
    """A summary from finite numbers, NaN, Inf, minimum, maximum and what ``standardize`` says."""
    finite, nans, infs, minimum, maximum, mean, std, mean_abs, skewness, kurtosis = figures
    n = int(finite)
    k = subject.limits.size
    borders = before[: 2 * k + 2].tolist()
    near = [(borders[k + i] - borders[i]) / n if n else nan for i in range(k)]
    norms, means = filters or (None, None)
    return TensorSummary(
        count=subject.size,
        finite=n,
        nan=int(nans),
        inf=int(infs),
        zero=borders[2 * k + 1] - borders[2 * k],
        minimum=minimum,
        maximum=maximum,
        mean=mean,
        std=std,
        mean_abs=mean_abs,
        skewness=skewness,
        kurtosis=kurtosis,
        quantiles=dict(zip(PROBABILITIES, quantiles, strict=True)),
        near_zero=dict(zip(subject.thresholds, near, strict=True)),
        histogram=Histogram(edges, before[2 * k + 3 :] - before[2 * k + 2 : -1]),
        filter_norms=norms,
        filter_means=means,
        dead_filters=nan if norms is None else _share_of_zeros(norms),
        cdf=cdf,
    )


def _share_of_zeros(norms: Floats) -> float:
    return (norms.size - int(np.count_nonzero(norms))) / norms.size if norms.size else nan


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
