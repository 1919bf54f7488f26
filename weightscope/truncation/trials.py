"""Makes one network smaller in several ways, recovers and measures each."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import nn

from weightscope.cost import measure_latency
from weightscope.errors import MissingExtraError, TruncationError
from weightscope.graph.structure import Structure
from weightscope.truncation.building import whole
from weightscope.truncation.candidates import Candidate
from weightscope.truncation.proposals import Proposal
from weightscope.truncation.qualities import ByAgreement, ByMetric, Measured
from weightscope.truncation.recovery import Recovery
from weightscope.truncation.variant import Variant

Recover = Callable[[Variant, str], Recovery]


@dataclass(frozen=True, eq=False)
class Trials:
    """Makes one network smaller in several ways, recovers and measures each.

    Attributes:
        structure: The whole network.
        goals: MACs that a network which keeps so many levels is thinned to.
        measure: What is a quality.
        recover: Recovers a variant in place; the name is that of its file.
        begin: Told what comes next.
        random: Whether to remove random channels of the whole network beside each.
        seed: Of the new weights and of the random channels.
    """

    structure: Structure
    goals: Mapping[int, float]
    measure: ByAgreement | ByMetric
    recover: Recover
    begin: Callable[[str], object]
    random: bool
    seed: int

    def of_depth(self, proposal: Proposal) -> list[Candidate]:
        """One depth, and the thinner network made from it."""
        keep = proposal.keep_levels
        self.begin(f"levels kept {keep}")
        if proposal.refusal is not None:
            return [_refused(keep, False, proposal.refusal)]
        variant = proposal.build(seed=self.seed)
        return [self._tried(variant, f"{keep}"), *self.thinned(variant)]

    def thinned(self, variant: Variant) -> list[Candidate]:
        """The same network with fewer channels, where there is a goal; it learns on from there."""
        keep = variant.plan.keep_levels
        goal = self.goals.get(keep)
        if goal is None:
            return []
        self.begin(f"levels kept {keep}, thinner")
        try:
            thinner = variant.thin(max_macs=goal)
        except (TruncationError, MissingExtraError) as reason:
            return [_refused(keep, True, str(reason))]
        return [self._tried(thinner, f"{keep}_to_{goal:.0f}")]

    def _tried(self, variant: Variant, name: str) -> Candidate:
        before = self.measure.quality(variant).quality
        recovery = self.recover(variant, f"keep_{name}")
        if isinstance(self.measure, ByAgreement):
            before = recovery.before.explained
        after = self._after(variant, recovery)
        rival, reason = self._random(variant.costs.macs, name) if self.random else (math.nan, "")
        return Candidate(
            keep_levels=variant.plan.keep_levels,
            thinned=bool(variant.plan.thinned),
            parameters=variant.costs.parameters,
            macs=variant.costs.macs,
            bytes=size_in_bytes(variant.module),
            latency=None,
            cut=before,
            quality=after.quality,
            thresholds=after.thresholds,
            unadjusted=after.unadjusted,
            lost=self.measure.lost(after.quality),
            error=after.error,
            refusal=after.refusal,
            variant=variant,
            random=rival,
            random_refusal=reason,
        )

    def _after(self, variant: Variant, recovery: Recovery) -> Measured:
        """Quality of a recovered network."""
        if isinstance(self.measure, ByAgreement):
            return Measured(recovery.after.explained)
        return self.measure.quality(variant)

    def _random(self, macs: int, name: str) -> tuple[float, str]:
        """What the whole network keeps without random channels; or why that is not known."""
        try:
            rival = whole(self.structure).thin(max_macs=macs, by="random", seed=self.seed)
        except (TruncationError, MissingExtraError) as reason:
            return math.nan, str(reason)
        after = self._after(rival, self.recover(rival, f"random_{name}"))
        return (math.nan, after.refusal) if after.refusal else (after.quality, "")


def _refused(keep: int, thinned: bool, reason: str) -> Candidate:
    nan = math.nan
    return Candidate(
        keep_levels=keep,
        thinned=thinned,
        parameters=0,
        macs=0,
        bytes=0,
        latency=None,
        cut=nan,
        quality=nan,
        thresholds=(),
        unadjusted=nan,
        lost=nan,
        error=nan,
        refusal=str(reason),
        variant=None,
        random=nan,
        random_refusal="",
    )


def size_in_bytes(module: nn.Module) -> int:
    """Size of parameters and buffers."""
    return sum(t.numel() * t.element_size() for t in [*module.parameters(), *module.buffers()])


def timed(structure: Structure, candidates: Sequence[Candidate], repeats: int) -> list[Candidate]:
    """The same candidates with latencies, measured in turns."""
    modules = {
        i: c.variant.module if c.variant else structure.model
        for i, c in enumerate(candidates)
        if not c.refusal
    }
    times = measure_latency(list(modules.values()), structure.inputs, repeats=repeats)
    known = dict(zip(modules, times, strict=True))
    return [replace(c, latency=known.get(i)) for i, c in enumerate(candidates)]
