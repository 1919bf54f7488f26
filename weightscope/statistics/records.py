"""The records of what the weights say, each complete at birth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from weightscope.statistics.initialization import Null, NullComparison

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Histogram:
    """Counts between edges: bin i holds ``edges[i] <= w < edges[i + 1]``, the last one closed.

    Attributes:
        edges: Bin edges in units of the weights, shape (bins + 1,), ascending.
        counts: Finite values in each bin, shape (bins,).
    """

    edges: Floats
    counts: Counts


@dataclass(frozen=True, eq=False)
class EmpiricalCDF:
    """The distribution of one tensor's finite values at no more than about a thousand points.

    Attributes:
        points: Ascending values, in units of the weights, shape (m,).
        below: Share of values < each point, in [0, 1], shape (m,).
        through: Share of values <= each point, shape (m,); equal to ``below`` where the points are
            borders between values.
        count: Number of values behind the shares.
    """

    points: Floats
    below: Floats
    through: Floats
    count: int

    def __call__(self, values: Floats) -> Floats:
        """Share of the tensor's values below each of ``values``, interpolated between points."""
        if self.points.size == 0:
            return np.full(np.shape(values), np.nan)
        found: Floats = np.interp(values, *self._steps, left=0.0, right=1.0)
        return found

    def quantile(self, shares: Floats) -> Floats:
        """The values below which these shares lie, interpolated between points."""
        points, through = self._steps
        found: Floats = np.interp(shares, through, points)
        return found

    @cached_property
    def _steps(self) -> tuple[Floats, Floats]:
        """Corners of the distribution function: it rises at the points and between them."""
        points = np.repeat(self.points, 2)
        return points, np.stack([self.below, self.through], axis=1).ravel()


@dataclass(frozen=True, eq=False)
class TensorSummary:
    """What one tensor's numbers look like; shares and moments are over its finite values.

    Statistics that no value supports (an empty tensor, or one without a finite value) are NaN;
    skewness and kurtosis are NaN for a constant too.

    Attributes:
        count: Number of elements.
        finite: Number of finite elements.
        nan: Number of NaN.
        inf: Number of infinities of either sign.
        zero: Number of exact zeros.
        minimum: Smallest finite value.
        maximum: Largest finite value.
        mean: Arithmetic mean.
        std: Population standard deviation (ddof 0).
        mean_abs: Mean of the absolute values.
        skewness: Third standardized moment, population form.
        kurtosis: Excess kurtosis, population form; a normal distribution has 0.
        quantiles: Value of each probability, by linear interpolation (numpy's default).
        near_zero: Share of ``|w| <= threshold`` for each threshold, in [0, 1].
        histogram: Counts over symmetric bins, or over the edges asked for.
        filter_norms: L2 norm of each output filter, shape (filters,); None without a filter axis.
        filter_means: Mean of each output filter, shape (filters,); None without a filter axis.
        dead_filters: Share of output filters whose norm is exactly 0; NaN without a filter axis.
        cdf: The distribution at about a thousand points, for distances to a null.
    """

    count: int
    finite: int
    nan: int
    inf: int
    zero: int
    minimum: float
    maximum: float
    mean: float
    std: float
    mean_abs: float
    skewness: float
    kurtosis: float
    quantiles: Mapping[float, float]
    near_zero: Mapping[float, float]
    histogram: Histogram
    filter_norms: Floats | None
    filter_means: Floats | None
    dead_filters: float
    cdf: EmpiricalCDF


@dataclass(frozen=True)
class Spectrum:
    """Singular values of a kernel read as a matrix (filters x inputs of one filter).

    Attributes:
        shape: Rows and columns of one block (a grouped kernel has one block for each group).
        largest: Largest singular value.
        stable_rank: Sum of the squared singular values / the largest one squared, in [1, rank].
        effective_rank: exp(entropy of the singular values / their sum) (Roy & Vetterli 2007).
        random_edge: Largest singular value expected of a random matrix of this shape and spread,
            ``std * (sqrt(rows) + sqrt(columns))``, the Marchenko-Pastur edge.
        above_edge: Number of singular values above ``random_edge``.
        method: ``"gram"`` (eigenvalues of the smaller Gram matrix) or ``"svd"``.
    """

    shape: tuple[int, int]
    largest: float
    stable_rank: float
    effective_rank: float
    random_edge: float
    above_edge: int
    method: str


@dataclass(frozen=True, eq=False)
class ParameterStatistics:
    """One parameter of a model: where it sits, what its numbers say, and its null beside it.

    Attributes:
        layer: Qualified name of the module that owns it; ``""`` for the model itself.
        parameter: Full name, as in ``model.named_parameters()``; for a parametrized tensor the
            name under which the layer uses it.
        kind: What the owner is: ``conv2d``, ``conv_transpose2d``, ``linear``, ``embedding``,
            ``norm``, ``attention``, ``recurrent``, ``buffer`` or ``parameter``, with ``grouped``,
            ``depthwise`` or ``parametrized`` behind it where that holds; ``tensor`` in a file.
        dtype: Its number format, ``"float32"``.
        shape: Shape of the tensor.
        fan_in: Inputs that one output of the kernel reads; 0 where there is no kernel.
        fan_out: Outputs that one input of the kernel reaches; 0 where there is no kernel.
        count: Number of elements.
        is_kernel: Whether it multiplies features (convolution, linear, attention projection).
        shared_with: Full names of the other places that hold the same tensor.
        summary: The statistics.
        null: How it looked before training, as far as that can be known.
        comparison: Its distance from that null.
        near_zero_relative: Share of ``|w| <= 0.1 * null.std``; NaN without a null.
        spectrum: Singular values; None unless asked for, and for what is no kernel.
        folded_std: Standard deviation of the kernel with the batch norm behind it folded in; None
            where none follows. Such a kernel has no scale of its own.
        warning: What a reader must know (NaN, constants, dead filters), or ``""``.
    """

    layer: str
    parameter: str
    kind: str
    dtype: str
    shape: tuple[int, ...]
    fan_in: int
    fan_out: int
    count: int
    is_kernel: bool
    shared_with: tuple[str, ...]
    summary: TensorSummary
    null: Null | None
    comparison: NullComparison | None
    near_zero_relative: float
    spectrum: Spectrum | None
    folded_std: float | None
    warning: str


@dataclass(frozen=True)
class SkippedParameter:
    """A tensor that was not analysed, and why."""

    name: str
    reason: str


@dataclass(frozen=True, eq=False)
class ModelStatistics:
    """The statistics of every parameter of a model, in the order of ``named_parameters()``.

    Attributes:
        parameters: One record for each distinct tensor.
        skipped: What was not analysed, with the reason.
        coverage: Elements of the parameters analysed / elements of all parameters, in [0, 1].
        constants: Names of the parameters that start constant under the usual initialisers: scales
            and shifts of norm layers, and what ``initial=`` shows to be constant. Empty for a file.
        moved_constants: Those of them that are constant no longer: proof that the model was
            trained. Without any, nothing is proved.
        fresh: Names of the parameters that are a fresh draw bit by bit, see `find_fresh`.
    """

    parameters: tuple[ParameterStatistics, ...]
    skipped: tuple[SkippedParameter, ...]
    coverage: float
    constants: tuple[str, ...] = ()
    moved_constants: tuple[str, ...] = ()
    fresh: tuple[str, ...] = ()

    @property
    def still(self) -> tuple[str, ...]:
        """Names of the tensors that training would have changed: constant ones and fresh draws."""
        fresh = set(self.fresh)
        return tuple(
            p.parameter
            for p in self.parameters
            if p.parameter in fresh
            or (not p.is_kernel and p.count > 1 and p.summary.minimum == p.summary.maximum)
        )

    @property
    def is_fresh(self) -> bool:
        """Whether every bias, norm scale and shift is `still`, or, without any, every kernel."""
        beside = [p for p in self.parameters if not p.is_kernel and p.count > 1]
        still = set(self.still)
        return bool(still) and all(p.parameter in still for p in beside or self.parameters)

    @property
    def nonfinite(self) -> Mapping[str, int]:
        """Number of NaN and infinite values by name, for the parameters that hold any."""
        bad = {p.parameter: p.summary.nan + p.summary.inf for p in self.parameters}
        return {name: count for name, count in bad.items() if count}
