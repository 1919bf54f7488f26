"""The records of what a model's weights say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import nan

from weightscope.movement import Movement
from weightscope.showing import OnOneScreen
from weightscope.statistics.distances import NullComparison
from weightscope.statistics.rules import Null
from weightscope.summaries.tensor_summary import TensorSummary


@dataclass(frozen=True)
class Spectrum:
    """Singular values of a kernel read as a matrix (filters x inputs of one filter).

    Attributes:
        shape: Rows and columns of one block (a grouped kernel has one block for each group).
        largest: Largest singular value.
        stable_rank: Sum of the squared singular values / the largest one squared, in [1, rank].
        effective_rank: exp(entropy of the singular values / their sum) (Roy & Vetterli 2007).
        method: ``"gram"`` (eigenvalues of the smaller Gram matrix) or ``"svd"``.
    """

    shape: tuple[int, int]
    largest: float
    stable_rank: float
    effective_rank: float
    method: str


@dataclass(frozen=True, eq=False, kw_only=True)
class Parameter:
    """One distinct tensor: where it sits and what it is.

    Attributes:
        layer: Qualified name of the module that owns it; ``""`` for the model itself.
        parameter: Full name, as in ``model.named_parameters()``; for a parametrized tensor the
            name under which the layer uses it.
        kind: What the owner is: ``conv2d``, ``conv_transpose2d``, ``linear``, ``embedding``,
            ``norm``, ``attention``, ``recurrent`` or ``parameter``, with ``grouped``,
            ``depthwise`` or ``parametrized`` behind it where that holds; ``tensor`` in a file.
        dtype: Its number format, ``"float32"``.
        shape: Shape of the tensor.
        shared_with: Full names of the other places that hold the same tensor.
        fan_in: Inputs that one output of the kernel reads; 0 where there is no kernel.
        fan_out: Outputs that one input of the kernel reaches; 0 where there is no kernel.
        is_kernel: Whether it multiplies features (convolution, linear, attention projection).
        requires_grad: Whether training moves it; of a parametrized tensor, whether it moves any
            parameter behind it; None in a file, which does not say.
    """

    layer: str
    parameter: str
    kind: str
    dtype: str
    shape: tuple[int, ...]
    shared_with: tuple[str, ...] = ()
    fan_in: int = 0
    fan_out: int = 0
    is_kernel: bool = False
    requires_grad: bool | None = None


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class ParameterStatistics(OnOneScreen, Parameter):
    """One parameter of a model: what its numbers say, and its null.

    Attributes:
        count: Number of elements.
        summary: The statistics.
        null: How it looked before training, as far as that can be known.
        comparison: Its distance from that null.
        near_zero_relative: Share of ``|w| <= 0.1 * null.std``; NaN without a null.
        spectrum: Singular values; None unless asked for, and for what is no kernel.
        folded_std: Standard deviation of the kernel with the batch norm behind it folded in; None
            where none follows. Such a kernel has no scale of its own.
        warning: What a reader must know (NaN, constants, dead filters), or ``""``.
        since_given: How far the numbers are from a start that was given, whether or not they
            descend from it; None where none was, or where it is drawn again at every call.
    """

    count: int
    summary: TensorSummary
    warning: str
    null: Null | None = None
    comparison: NullComparison | None = None
    near_zero_relative: float = nan
    spectrum: Spectrum | None = None
    folded_std: float | None = None
    since_given: Movement | None = None

    def _facts(self) -> dict[str, object]:
        return {
            "of": self.parameter,
            "numbers": f"{self.count:,}",
            "mean": f"{self.summary.mean:.3g}",
            "std": f"{self.summary.std:.3g}",
            "null": self.null and self.null.source,
            **({"warning": self.warning} if self.warning else {}),
        }


@dataclass(frozen=True)
class SkippedParameter:
    """A tensor that was not analysed, and why."""

    name: str
    reason: str


@dataclass(frozen=True, eq=False, repr=False)
class ModelStatistics(OnOneScreen):
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
        overflown: Number of NaN and infinite values in the running statistics of norms, by name.
    """

    parameters: tuple[ParameterStatistics, ...]
    skipped: tuple[SkippedParameter, ...]
    coverage: float
    constants: tuple[str, ...] = ()
    moved_constants: tuple[str, ...] = ()
    fresh: tuple[str, ...] = ()
    overflown: Mapping[str, int] = field(default_factory=dict)

    def _facts(self) -> dict[str, object]:
        return {
            "tensors": len(self.parameters),
            "numbers": f"{sum(p.count for p in self.parameters):,}",
            "skipped": len(self.skipped),
            "coverage": f"{self.coverage:.1%}",
            "NaN or infinite in": len(self.nonfinite),
        }

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
        """Number of NaN and infinite values by name, for the tensors that hold any.

        Of buffers running statistics alone count: an infinite variance makes a channel constant
        without a word, and a mask of attention holds infinity rightly.
        """
        bad = {p.parameter: p.summary.nan + p.summary.inf for p in self.parameters}
        return {name: count for name, count in bad.items() if count} | dict(self.overflown)
