"""Norms and means of the output filters of a kernel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import torch

from weightscope.summaries.tensor_summary import Floats

# elements that are copied to float64 at a time
_BLOCK = 1 << 18


@dataclass(frozen=True)
class FilterLayout:
    """How the output filters lie in memory: (outer, filters, inner), C order.

    Attributes:
        outer: Product of the axes before the filters.
        filters: Number of filters; 0 where there are none to tell apart.
        inner: Product of the axes after the filters.
    """

    outer: int
    filters: int
    inner: int

    @classmethod
    def of(cls, shape: Sequence[int], axis: int | None) -> FilterLayout:
        """Read a shape whose ``axis`` counts the filters."""
        if axis is None:
            return cls(1, 0, prod(shape))
        return cls(prod(shape[:axis]), shape[axis], prod(shape[axis + 1 :]))

    @property
    def kind(self) -> int:
        """0 without filters, 1 where each is consecutive (rows), 2 where they interleave."""
        return 0 if not self.filters else 1 if self.outer == 1 else 2

    @property
    def length(self) -> int:
        """Elements of one filter (kind 1), of one row of all filters (kind 2), or 1."""
        return max(self.filters * self.inner if self.kind == 2 else self.inner, 1)

    def span(self, low: int, high: int) -> tuple[int, int]:
        """First slot and number of slots that the sums of elements low..high need."""
        if self.kind == 1:
            first = low // self.length
            return first, (high - 1) // self.length + 1 - first
        return 0, self.length if self.kind == 2 else 0

    def norms_and_means(
        self, parts: Sequence[tuple[int, Floats, Floats]]
    ) -> tuple[Floats, Floats] | None:
        """L2 norm and mean of each filter from first slot, sums and sums of squares of each range.

        They are added in the order of the ranges.
        """
        if not self.filters:
            return None
        sums, squares = np.zeros((2, self.filters if self.kind == 1 else self.length))
        with np.errstate(invalid="ignore", over="ignore"):
            for first, part, part_squares in parts:
                sums[first : first + part.size] += part
                squares[first : first + part.size] += part_squares
            shape = (self.filters, -1)
            each = max(self.outer * self.inner, 1)
            return np.sqrt(squares.reshape(shape).sum(1)), sums.reshape(shape).sum(1) / each


def measure_filters(flat: torch.Tensor, layout: FilterLayout) -> tuple[Floats, Floats] | None:
    """L2 norm and mean of each filter of a tensor of any format; None without filters.

    Every float64 filter is scaled by a power of two of its own, so that no square leaves the range
    of float64, nor vanishes next to a larger filter's. The elements are in the order of memory.
    """
    if not layout.filters:
        return None
    norms, means = np.zeros((2, layout.filters))
    each = layout.outer * layout.inner
    if not each:
        return norms, means
    view = flat.view(layout.outer, layout.filters, layout.inner)
    step = max(1, _BLOCK // each)
    for first in range(0, layout.filters, step):
        part = view[:, first : first + step].double().numpy()
        some = slice(first, first + step)
        with np.errstate(invalid="ignore", over="ignore"):
            scales = np.ones(part.shape[1])
            if flat.dtype is torch.float64:
                peaks = np.abs(part).max((0, 2))
                finite = np.isfinite(peaks) & (peaks > 0.0)
                scales[finite] = np.ldexp(1.0, np.clip(-np.frexp(peaks[finite])[1], -1022, 1022))
                part = part * scales[:, None]
            norms[some] = np.sqrt(np.einsum("ofi,ofi->f", part, part)) / scales
            means[some] = part.sum((0, 2)) / each / scales
    return norms, means
