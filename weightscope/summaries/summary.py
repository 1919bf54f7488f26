"""The statistics of tensors.

Float32 numbers are counted by compiled loops (``counting``), numbers of 8 and 16 bits are few
enough to list, and all others are sorted: small tensors, float64, and all of float32 where numba
is missing. What is asked is answered exactly in every way.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from math import nan

import numpy as np
import torch
from numpy.typing import NDArray

from weightscope.errors import InputError, keyword
from weightscope.summaries import counting
from weightscope.summaries.counting import CellCounts, Numbers, count_cells
from weightscope.summaries.filters import FilterLayout, measure_filters
from weightscope.summaries.moments import COLUMNS, Measured, merge, moments_of, scale_for
from weightscope.summaries.order import (
    PROBABILITIES,
    Order,
    Questions,
    ask,
    order_of_listed,
    order_of_sorted,
    quantiles_of,
)
from weightscope.summaries.tensor_summary import Floats, Histogram, TensorSummary
from weightscope.summaries.threads import Run, run_all

THRESHOLDS = (1e-3, 1e-2)

# up to so many elements sorting is quicker than counting
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


def summarize(
    tensor: torch.Tensor,
    *,
    thresholds: Sequence[float] = THRESHOLDS,
    filter_axis: int | None = None,
    threads: int | None = None,
) -> TensorSummary:
    """Counts, moments, quantiles, near-zero mass, histogram and filter norms of one tensor.

    Quantiles, near-zero mass and bin counts equal numpy's on the float64 values; moments agree
    within 1e-9 relative. A tensor on another device is copied from there first. Quantized tensors
    are dequantized. Of an expanded tensor, what is stored is measured, once.

    Args:
        tensor: Weights of any floating-point dtype, on any device but meta.
        thresholds: Absolute values t of the near-zero mass, the share of ``|w| <= t``.
        filter_axis: Axis that counts the output filters; None for no filter norms.
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

    def work(tensor: torch.Tensor, run: Run) -> TensorSummary:
        return summarize_with(run, tensor, thresholds, filter_axis)

    return run_all([tensor], torch.Tensor.numel, work, threads)[0]


def summarize_with(
    run: Run,
    tensor: torch.Tensor,
    thresholds: Sequence[float] = THRESHOLDS,
    filter_axis: int | None = None,
) -> TensorSummary:
    """``summarize``, whose arguments these are, with parts that ``run`` runs (``run_all``)."""
    _check(tensor, thresholds, filter_axis)
    flat, layout = _in_order_of_memory(tensor.detach(), filter_axis)
    numbers = Numbers(flat.dtype, flat.numel(), lambda start, stop: flat[start:stop])
    return summarize_numbers(run, numbers, layout, thresholds)


def summarize_numbers(
    run: Run, numbers: Numbers, layout: FilterLayout, thresholds: Sequence[float] = THRESHOLDS
) -> TensorSummary:
    """``summarize`` of numbers in a line, of a format that ``unreadable`` does not name.

    Args:
        run: See ``threads.run_all``.
        numbers: The numbers; unless they are sorted, no more than a range at a time is read.
        layout: How the filters lie in them.
        thresholds: See ``summarize``.
    """
    order: Order | CellCounts
    if numbers.dtype in _LISTED:
        measured, order = _list(numbers, layout, run)
    elif numbers.dtype is torch.float32 and numbers.size > SORTED and counting.load():
        measured, order = count_cells(numbers, layout, run)
    else:
        measured, order = _sort(numbers.whole(), layout)
    asked = ask(measured.finite, measured.minimum, measured.maximum, thresholds)
    if isinstance(order, CellCounts):
        order = order.look(numbers, asked, run)
    return _summary(numbers.size, thresholds, measured, order, asked)


def _check(tensor: torch.Tensor, thresholds: Sequence[float], axis: int | None) -> None:
    """Refuse what cannot be measured, by an InputError that names what is wrong."""
    reason = unreadable(tensor)
    if reason:
        raise InputError(f"a tensor of shape {tuple(tensor.shape)} cannot be measured: {reason}")
    if axis is not None and not -tensor.dim() <= axis < tensor.dim():
        raise InputError(f"{keyword('filter_axis', axis)}: the tensor has {tensor.dim()} axes")
    if not all(t >= 0 for t in thresholds):
        raise InputError(f"{keyword('thresholds', tuple(thresholds))}: each must be a number >= 0")


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


def _in_order_of_memory(
    tensor: torch.Tensor, axis: int | None
) -> tuple[torch.Tensor, FilterLayout]:
    """The stored numbers in a line on the CPU, copied where they have gaps, and their filters."""
    if tensor.is_quantized:
        tensor = tensor.dequantize()
    axis = None if axis is None else axis % tensor.dim()
    if not tensor.is_contiguous():
        for expanded in range(tensor.dim()):
            if tensor.stride(expanded) == 0 and tensor.shape[expanded] > 1:
                tensor = tensor.narrow(expanded, 0, 1)
        reach = 1 + sum(
            (n - 1) * step for n, step in zip(tensor.shape, tensor.stride(), strict=True)
        )
        if tensor.numel() > reach:  # windows that overlap
            tensor, axis = tensor.as_strided((reach,), (1,)), None
        axes = sorted(range(tensor.dim()), key=tensor.stride, reverse=True)
        tensor, axis = tensor.permute(axes), None if axis is None else axes.index(axis)
    layout = FilterLayout.of(tensor.shape, axis)
    return tensor.cpu().contiguous().view(-1), layout


def _sort(flat: torch.Tensor, layout: FilterLayout) -> tuple[Measured, Order]:
    array = flat.numpy()
    values = np.sort(array)  # NaN last
    if values.size and not (values[0] > -np.inf and values[-1] < np.inf):
        ends = values.searchsorted(np.array([-np.inf, np.inf], values.dtype), "right")
        values = values[ends[0] : values[: ends[1]].searchsorted(np.inf)]
    n = values.size
    minimum, maximum = _extremes(values)
    scale = scale_for(max(-minimum, maximum)) if n else 1.0
    blocks = (values[i : i + _BLOCK].astype(np.float64) for i in range(0, n, _BLOCK))
    rows = [moments_of(block * scale if scale != 1.0 else block) for block in blocks]
    nans = int(np.isnan(array).sum()) if n < array.size else 0
    return Measured(
        row=merge(np.array(rows).reshape(-1, len(COLUMNS)).T),
        scale=scale,
        nan=nans,
        inf=array.size - n - nans,
        minimum=minimum,
        maximum=maximum,
        filters=measure_filters(flat, layout),
    ), order_of_sorted(values)


@cache
def _format(dtype: torch.dtype) -> tuple[Floats, NDArray[np.intp], Floats]:
    """The value of each pattern of a format, the finite patterns by value, and their borders.

    The border of a value lies half way to the next one.
    """
    carrier = _LISTED[dtype]
    patterns = torch.arange(1 << 8 * carrier.itemsize, device="cpu").to(carrier)
    values: Floats = patterns.view(dtype).double().numpy()
    finite = np.flatnonzero(np.isfinite(values))
    ascending = finite[np.argsort(values[finite], kind="stable")]
    ordered = values[ascending]
    return values, ascending, np.append((ordered[:-1] + ordered[1:]) / 2, ordered[-1])


def _list(numbers: Numbers, layout: FilterLayout, run: Run) -> tuple[Measured, Order]:
    """Numbers of 16 or 8 bits: count how often each pattern occurs."""
    counts = counting.count_patterns(numbers, run)
    values, ascending, borders = _format(numbers.dtype)
    counted = counts[ascending]
    some = counted > 0
    listed = values[ascending][some]
    order = order_of_listed(listed, counted[some], borders[some])
    minimum, maximum = _extremes(listed)
    return Measured(
        row=moments_of(listed, counted[some]),
        scale=1.0,
        nan=int(counts[np.isnan(values)].sum()),
        inf=int(counts[np.isinf(values)].sum()),
        minimum=minimum,
        maximum=maximum,
        filters=measure_filters(numbers.whole(), layout) if layout.filters else None,
    ), order


def _extremes(ascending: NDArray[np.floating]) -> tuple[float, float]:
    if not ascending.size:
        return nan, nan
    return float(ascending[0]) + 0.0, float(ascending[-1]) + 0.0  # no negative zero


def _summary(
    size: int, thresholds: Sequence[float], measured: Measured, order: Order, asked: Questions
) -> TensorSummary:
    n = measured.finite
    before = order.before(asked.borders)
    k = 1 + len(thresholds)
    zero, *near = (before[k : 2 * k] - before[:k]).tolist()
    norms, means = measured.filters or (None, None)
    return TensorSummary(
        count=size,
        finite=n,
        nan=measured.nan,
        inf=measured.inf,
        zero=zero,
        minimum=measured.minimum,
        maximum=measured.maximum,
        **measured.standardized(),
        quantiles=dict(zip(PROBABILITIES, quantiles_of(order.at(asked.ranks), n), strict=True)),
        near_zero={t: m / n if n else nan for t, m in zip(thresholds, near, strict=True)},
        histogram=Histogram(asked.edges, before[2 * k + 1 :] - before[2 * k : -1]),
        filter_norms=norms,
        filter_means=means,
        dead_filters=nan if norms is None else _share_of_zeros(norms),
        cdf=order.cdf,
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
