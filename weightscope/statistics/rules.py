"""How layers are initialised: the null, the distribution that a parameter had before training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import exp, inf, nan, pi, prod, sqrt
from typing import Literal

import numpy as np

from weightscope.summaries.tensor_summary import EmpiricalCDF, Floats, TensorSummary

Family = Literal["normal", "uniform", "truncated normal", "constant", "empirical"]
Source = Literal["given", "drawn", "matched", "inferred", "assumed"]

# standard deviation of a standard normal cut at 2 standard deviations
_CUT = 2.0
_CUT_STD = 0.8796256610342398
_BEYOND_CUT = 0.022750131948179195
_WITHIN_CUT = 1.0 - 2.0 * _BEYOND_CUT
_KURTOSIS = {"normal": 0.0, "uniform": -1.2, "truncated normal": -0.6344632}


@dataclass(frozen=True, eq=False)
class Null:
    """The distribution of one parameter before training.

    Attributes:
        family: Shape of the distribution.
        label: The rule in words, ``"PyTorch default (uniform)"``.
        std: Its standard deviation, in units of the weights.
        source: ``given``: taken from ``initial=``, where these very weights began. ``drawn``: the
            same, but the weights do not descend from it: another draw by the rule of the start,
            which knows the distribution and no movement. ``matched``: these very weights still
            follow it. ``inferred``: other kernels of the model still follow this rule, or
            it explains the spreads of all kernels together best.
            ``assumed``: nothing tells; the rule of the layer's own type.
        plausible: Smallest and largest standard deviation among the rules that would do as well:
            twice ``std`` where it is given or matched. Figures that compare with an inferred or an
            assumed null are no better known than this.
        mean: Its mean.
        sample: The distribution of the given initial weights, for the empirical family.
        masses: Near-zero mass of the given initial weights by threshold, exact.
    """

    family: Family
    label: str
    std: float
    source: Source = "assumed"
    plausible: tuple[float, float] = (nan, nan)
    mean: float = 0.0
    sample: EmpiricalCDF | None = None
    masses: Mapping[float, float] | None = None

    def cdf(self, values: Floats | float) -> Floats:
        """Share of the null below each of ``values``, in [0, 1]."""
        x = np.asarray(values, dtype=np.float64)
        if self.sample is not None:
            return self.sample(x)
        if self.std == 0.0:
            return (x > self.mean).astype(np.float64)
        z = (x - self.mean) / self.std
        if self.family == "uniform":
            return np.clip(0.5 + z / sqrt(12.0), 0.0, 1.0)
        from scipy.special import ndtr

        if self.family == "normal":
            return np.asarray(ndtr(z))
        return np.clip((ndtr(z * _CUT_STD) - _BEYOND_CUT) / _WITHIN_CUT, 0.0, 1.0)

    def quantile(self, probabilities: Floats | float) -> Floats:
        """The values below which these shares of the null lie."""
        p = np.asarray(probabilities, dtype=np.float64)
        if self.sample is not None:
            return self.sample.quantile(p)
        if self.std == 0.0:
            return np.full(p.shape, self.mean)
        if self.family == "uniform":
            return self.mean + self.std * sqrt(12.0) * (p - 0.5)
        from scipy.special import ndtri

        if self.family == "normal":
            return np.asarray(self.mean + self.std * ndtri(p))
        z = ndtri(_BEYOND_CUT + p * _WITHIN_CUT) / _CUT_STD
        return np.asarray(self.mean + self.std * z)

    @property
    def kurtosis(self) -> float:
        """Excess kurtosis; nan for a constant. Of given weights, to about a percent."""
        if self.std == 0.0:
            return nan
        if self.family in _KURTOSIS:
            return _KURTOSIS[self.family]
        z = (self.quantile((np.arange(4096) + 0.5) / 4096) - self.mean) / self.std
        return float((z**4).mean() / (z**2).mean() ** 2) - 3.0

    @property
    def edge(self) -> float:
        """Largest ``|w|`` that can be drawn, in units of the weights; inf where there is none."""
        if self.family == "uniform":
            return sqrt(3.0) * self.std
        return _CUT / _CUT_STD * self.std if self.family == "truncated normal" else inf

    @property
    def edge_density(self) -> float:
        """Density right inside each edge, in units of 1 / weights; 0 where there is none."""
        if self.family == "uniform":
            return 0.5 / self.edge
        if self.family == "truncated normal":
            return exp(-(_CUT**2) / 2.0) / sqrt(2.0 * pi) / _WITHIN_CUT * _CUT / self.edge
        return 0.0

    def near_zero_mass(self, threshold: float) -> float:
        """Share of the null with ``|w| <= threshold``, in [0, 1]."""
        if self.masses is not None and threshold in self.masses:
            return self.masses[threshold]
        if self.std == 0.0:
            return float(abs(self.mean) <= threshold)
        return float(self.cdf(threshold) - self.cdf(-threshold))

    def bin_counts(self, edges: Floats, n: int) -> Floats:
        """Expected counts of ``n`` draws between ``edges``, shape (edges - 1,)."""
        return n * np.diff(self.cdf(edges))


@dataclass(frozen=True)
class KernelShape:
    """What an initializer knows of a kernel.

    ``torch.nn.init`` reads fans off the first two axes; for transposed and grouped convolutions
    that is not what one output reads, but it is what the initial spread follows.

    Attributes:
        fan_in: ``shape[1]`` times the kernel's positions.
        fan_out: ``shape[0]`` times the kernel's positions.
        longest: The longer side of the matrix ``shape[0] x rest``, which sets the spread of an
            orthogonal matrix.
        groups: Groups of the convolution; 1 elsewhere.
    """

    fan_in: int
    fan_out: int
    longest: int
    groups: int = 1

    @classmethod
    def of(cls, shape: tuple[int, ...], groups: int = 1) -> KernelShape:
        """Read a weight's shape as ``torch.nn.init`` does."""
        rest = prod(shape[2:])
        return cls(shape[1] * rest, shape[0] * rest, max(shape[0], shape[1] * rest), groups)

    @cached_property
    def rules(self) -> Mapping[str, Null]:
        """Every rule in common use at this shape, by label; the first is PyTorch's default."""
        fin, fout = max(self.fan_in, 1), max(self.fan_out, 1)
        rules = [
            Null("uniform", "PyTorch default (uniform)", sqrt(1 / (3 * fin))),
            Null("uniform", "Glorot uniform", sqrt(2 / (fin + fout))),
            Null("normal", "Glorot normal", sqrt(2 / (fin + fout))),
            Null("normal", "He normal (fan in)", sqrt(2 / fin)),
            Null("normal", "He normal (fan out)", sqrt(2 / fout)),
            Null("uniform", "He uniform (fan in)", sqrt(2 / fin)),
            Null("uniform", "He uniform (fan out)", sqrt(2 / fout)),
            Null("truncated normal", "He normal, cut at 2 std (fan in)", sqrt(2 / fin)),
            Null("truncated normal", "Glorot normal, cut at 2 std", sqrt(2 / (fin + fout))),
            Null("normal", "LeCun normal", sqrt(1 / fin)),
            Null("truncated normal", "LeCun normal, cut at 2 std", sqrt(1 / fin)),
            Null("normal", "orthogonal", sqrt(1 / max(self.longest, 1))),
            Null("normal", "normal, std 0.02", 0.02),
            Null("normal", "normal, std 0.01", 0.01),
            Null("truncated normal", "normal, std 0.02, cut at 2 std", 0.02 * _CUT_STD),
        ]
        if self.groups > 1:
            spread = sqrt(2 * self.groups / fout)
            rules.append(Null("normal", "He normal (fan out of a group)", spread))
        return {rule.label: rule for rule in rules}


def given_null(initial: TensorSummary, source: Source = "given") -> Null:
    """The null of a parameter whose initial values are known, or another draw of them."""
    constant = initial.std == 0.0
    return Null(
        family="constant" if constant else "empirical",
        label="given initial weights" if source == "given" else "another draw of the start",
        std=initial.std,
        source=source,
        mean=initial.mean,
        sample=None if constant else initial.cdf,
        masses=initial.near_zero,
    )
