"""What a search found: every network with its costs and its quality, and the chosen one."""

from __future__ import annotations

import html
import math
import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from weightscope.cost import Latency
from weightscope.errors import keyword
from weightscope.showing import OnOneScreen, above, counted, frame_table, share
from weightscope.truncation.qualities import SKILL
from weightscope.truncation.variant import Variant

if TYPE_CHECKING:
    import pandas as pd


WIDTH = 100
"""Columns of a line of words, as of `print(analysis)`."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """One network of a search: the whole one, a smaller one, or one that cannot be built.

    Attributes:
        keep_levels: Levels that stay; all of them in the whole network.
        thinned: Whether it lost channels too.
        parameters: Number of parameters; 0 where nothing was built.
        macs: Multiply-accumulates of one forward on the example input; 0 where nothing was built.
        bytes: Size of parameters and buffers; 0 where nothing was built.
        latency: Measured in turns with the others; None where nothing was built.
        cut: Quality just cut or thinned, before recovery; nan where nothing was built.
        quality: Quality after recovery; of f1, iou, accuracy and dice of one channel, or of several
            that each decide for themselves, at the thresholds that are best for this network.
        thresholds: These, one for each channel, on the scale of the outputs; empty where none is
            chosen.
        unadjusted: Quality at the thresholds that are best for the whole network, as for a user who
            keeps the threshold that is in use; nan where none is chosen.
        lost: Quality lost against the whole network, in ``Search.unit``.
        error: Standard error of ``lost``, by resampling the images of ``batches``; nan without
            them.
        refusal: Why there is nothing to measure or to compare, else empty.
        variant: The recovered network; None for the whole one and for what was not built.
        random: Quality, after the same recovery, of the whole network without as many channels,
            drawn at random, as bring it to the same MACs; nan where it was not measured.
        random_refusal: Why it was not measured, else empty.
    """

    keep_levels: int
    thinned: bool
    parameters: int
    macs: int
    bytes: int
    latency: Latency | None
    cut: float
    quality: float
    thresholds: tuple[float, ...]
    unadjusted: float
    lost: float
    error: float
    refusal: str
    variant: Variant | None
    random: float
    random_refusal: str

    @property
    def lost_at_most(self) -> float:
        """``lost``, its standard error added where that is known."""
        return self.lost + (0.0 if math.isnan(self.error) else self.error)


@dataclass(frozen=True)
class Limits:
    """What the chosen network must satisfy; None: no limit.

    Attributes:
        tolerance: Largest ``lost``, its standard error added where that is known.
        max_macs: Multiply-accumulates on the example input.
        max_parameters: Number of parameters.
        max_latency: Median seconds of a forward on the example input, on this machine.
        max_bytes: Size of parameters and buffers.
    """

    tolerance: float | None
    max_macs: float | None
    max_parameters: float | None
    max_latency: float | None
    max_bytes: float | None

    def exceeded(self, candidate: Candidate) -> dict[str, tuple[float, float]]:
        """By name, the limits that a measured candidate breaks: what it has, and the limit."""
        latency = candidate.latency.median if candidate.latency else float("nan")
        pairs = {
            "tolerance": (candidate.lost_at_most, self.tolerance),
            "max_macs": (candidate.macs, self.max_macs),
            "max_parameters": (candidate.parameters, self.max_parameters),
            "max_latency": (latency, self.max_latency),
            "max_bytes": (candidate.bytes, self.max_bytes),
        }
        return {
            name: (value, limit)
            for name, (value, limit) in pairs.items()
            if limit is not None and not value <= limit
        }

    def broken(self, candidate: Candidate) -> tuple[str, ...]:
        """Which limits a measured candidate breaks, in words."""
        known = not math.isnan(candidate.error)
        error = {"tolerance": f" ({candidate.lost:.4g} and a standard error)"} if known else {}
        return tuple(
            f"{name}{error.get(name, '')}: {above(value, limit)}"
            for name, (value, limit) in self.exceeded(candidate).items()
        )


@dataclass(frozen=True, eq=False, repr=False)
class Search(OnOneScreen):
    """Quality over cost of smaller networks made from one.

    Attributes:
        metric: What ``quality`` is; ``agreement`` where no metric was given: the share of the
            variance of the whole network's outputs that is matched on images held back.
        unit: In which ``lost``, ``error`` and the tolerance are: that of the metric, by its name,
            where it lies between 0 and 1 (see ``shrink``), else ``share of the skill``, of which 1
            is the difference between the whole network and the best trivial answer.
        limits: What was asked for.
        budget: What the search was going to cost, in words.
        trivial: Quality of the best trivial answer, a constant or in a regression the input itself:
            0 of an agreement.
        skill: ``lost`` of that answer, 0 where the whole network shows no skill that counts. A
            network that lost as much is of no use, whatever it costs.
        whole: The network itself.
        candidates: One for each depth, the deepest first, each before the thinner one that was made
            from it; first of all the whole network made thinner.
    """

    metric: str
    unit: str
    limits: Limits
    budget: str
    trivial: float
    skill: float
    whole: Candidate
    candidates: tuple[Candidate, ...]

    @property
    def chosen(self) -> Candidate | None:
        """The network with fewest MACs within all limits; None where only the whole one is.

        With a budget alone, the one of best quality within it.
        """
        fit = [c for c in self.candidates if not c.refusal and not self.limits.broken(c)]
        if self.limits.tolerance is None:
            return min(fit, key=lambda c: (c.lost, c.macs), default=None)
        return min(fit, key=lambda c: (c.macs, c.lost), default=None)

    @property
    def frame(self) -> pd.DataFrame:
        """One row for each network, the whole one first, then by MACs; refused ones last.

        Columns: keep_levels, thinned, parameters, macs, bytes (missing where nothing was built),
        latency (median seconds), cut, quality, threshold (the one at which quality is taken; of
        several channels a tuple, where none is chosen missing), unadjusted (quality at the
        threshold of the whole network), lost, error (standard error of lost), unit (of both),
        random (quality of random channel removal at the same MACs, recovered alike), pareto (no
        other network is as cheap in MACs and as good), chosen, why (the limits that it breaks, or
        why it was refused).
        """
        import pandas as pd

        built = [c for c in self.candidates if not c.refusal]
        ordered = [
            self.whole,
            *sorted(built, key=lambda c: -c.macs),
            *(c for c in self.candidates if c.refusal),
        ]
        chosen = self.chosen
        found = pd.DataFrame(
            [
                {
                    "keep_levels": c.keep_levels,
                    "thinned": c.thinned,
                    "parameters": c.parameters or None,
                    "macs": c.macs or None,
                    "bytes": c.bytes or None,
                    "latency": c.latency.median if c.latency else float("nan"),
                    "cut": c.cut,
                    "quality": c.quality,
                    "threshold": _one(c.thresholds),
                    "unadjusted": c.unadjusted,
                    "lost": c.lost,
                    "error": c.error,
                    "unit": self.unit,
                    "random": c.random,
                    "pareto": not c.refusal and not any(_beats(d, c) for d in [self.whole, *built]),
                    "chosen": c is chosen,
                    "why": c.refusal or "; ".join(self.limits.broken(c)),
                }
                for c in ordered
            ]
        )
        return found.astype(dict.fromkeys(("parameters", "macs", "bytes"), "Int64"))

    def _facts(self) -> dict[str, object]:
        chosen = self.chosen
        return {
            "of": counted(len(self.candidates), "network"),
            "metric": self.metric,
            "chosen": "none" if chosen is None else _named(chosen),
            "quality": f"{(chosen or self.whole).quality:.3f} of {self.whole.quality:.3f}",
            **({"of no use": "no better than a constant"} if self._useless(chosen) else {}),
            **(
                {"random": f"better, {chosen.random:.3f}"} if chosen and self._worse(chosen) else {}
            ),
            "see": ".frame and print()",
        }

    def _repr_html_(self) -> str:
        words = "".join(f"<p>{html.escape(text)}</p>" for text in self._words())
        return f"<div><strong>Search</strong>{words}{frame_table(self._shown())}</div>"

    def __str__(self) -> str:
        shown = self._shown()
        if not shown["thinned"].any():
            shown = shown.drop(columns=["thinned"])
        marks = [
            "chosen" if c else "yes" if p else "" for c, p in shown[["chosen", "pareto"]].values
        ]
        counts = {
            column: shown[column].astype("string").fillna("") for column in ("parameters", "macs")
        }
        table = shown.drop(columns=["chosen", "why"]).assign(pareto=marks, **counts)
        words = [textwrap.fill(text, WIDTH) for text in [*self._reasons(), *self._words()]]
        return "\n".join([table.to_string(index=False, na_rep=""), "", *words])

    def _reasons(self) -> list[str]:
        """Why networks were refused or are beyond the limits; what shares a reason, in one line."""
        of: dict[str, list[str]] = {}
        for row in self.frame.iloc[1:].to_dict("records"):
            levels = f"{row['keep_levels']}{', thinner' if row['thinned'] else ''}"
            of.setdefault(row["why"], []).append(levels)
        return [f"levels kept {' and '.join(names)}: {why}" for why, names in of.items() if why]

    def _shown(self) -> pd.DataFrame:
        """The frame without what is the same twice or unknown throughout."""
        qualities = ("cut", "quality", "unadjusted", "lost", "error", "random")
        return (
            self.frame.assign(threshold=[_shown_threshold(t) for t in self.frame["threshold"]])
            .drop(columns=["bytes", "unit"])
            .dropna(axis=1, how="all")
            .round(dict.fromkeys(qualities, 3))
        )

    def _words(self) -> list[str]:
        """What was chosen, and what is unknown."""
        chosen = self.chosen
        words = (
            f"{self.nothing_chosen()}{self.remedy()}"
            if chosen is None
            else f"chosen: {_named(chosen, self.whole.keep_levels)}, "
            f"{share(chosen.macs / max(1, self.whole.macs))} of the MACs, "
            f"{share(chosen.parameters / max(1, self.whole.parameters))} of the parameters, "
            f"{self.metric} {chosen.quality:.3f} of {self.whole.quality:.3f}"
        )
        reasons = {c.random_refusal for c in self.candidates if c.random_refusal}
        unknown = [f"random channels were not tried: {reason}" for reason in sorted(reasons)]
        rival = self._worse(chosen) if chosen else []
        return [self._unit(), words, *self._useless(chosen), *rival, *self._adjusted(), *unknown]

    def nothing_chosen(self) -> str:
        """That no smaller network is within the limits, and whether the whole one is."""
        broken = "; ".join(self.limits.broken(self.whole))
        stays = f", and nor is the whole one ({broken})" if broken else "; the whole one stays"
        return f"no smaller network is within the limits{stays}"

    def remedy(self) -> str:
        """What may bring a smaller network within the limits that were broken, as a sentence more.

        Only what can help is named: more steps and images make up for a loss, not for a cost, and
        more images only where a standard error alone is too much. Empty where nothing was built.
        """
        built = [c for c in self.candidates if not c.refusal]
        broken = {name for c in built for name in self.limits.exceeded(c)}
        ways = [f"a larger {keyword(name)}" for name in vars(self.limits) if name in broken]
        tolerance = self.limits.tolerance
        if "tolerance" in broken:
            ways.append(f"more {keyword('steps')}")
        if tolerance is not None and any(c.lost <= tolerance < c.lost_at_most for c in built):
            ways.append(f"more images as {keyword('batches')}")
        thinner = [c for c in self.candidates if c.thinned]
        if not thinner:
            ways.append(f"{keyword('thin', 0.5)}, which tries thinner ones too")
        elif any(self.limits.exceeded(c).keys() - {"tolerance"} for c in thinner if not c.refusal):
            ways.append(f"a smaller {keyword('thin')}")
        if not ways:
            return ""
        *others, last = ways
        return f". Give {', '.join(others)}{' or ' if others else ''}{last}"

    def _unit(self) -> str:
        """In which unit the loss is."""
        if self.unit != SKILL:
            return f"lost is in the unit of {self.unit}"
        return (
            f"lost is a {self.unit}: 1 is all by which the whole network is better than the best "
            f"trivial answer, whose {self.metric} is {self.trivial:.3f}"
        )

    def _worse(self, chosen: Candidate) -> list[str]:
        """A warning where random channel removal kept more than what was chosen."""
        scale = self.whole.quality - self.trivial
        # what is lost is in proportion to the quality, of which more or less may be better
        kept_more = (chosen.random - chosen.quality) * self.skill / scale if scale else math.nan
        if not kept_more > 0 or f"{chosen.random:.3f}" == f"{chosen.quality:.3f}":
            return []
        return [
            "warning: random channel removal is better: the whole network without random channels, "
            f"at the same MACs and recovered alike, has {self.metric} {chosen.random:.3f}, the "
            f"chosen one {chosen.quality:.3f}. Give more {keyword('steps')}, or take that one in "
            f"Python: thin Analysis.whole by 'random' to {chosen.macs} MACs, and recover it"
        ]

    def _useless(self, chosen: Candidate | None) -> list[str]:
        """A warning where what was chosen is no better than an answer that needs no network."""
        if chosen is None:
            return []
        if self.whole.lost >= self.skill:
            return [
                "warning: the whole network shows no skill that counts, so that nothing says what "
                f"is of use: its {self.metric} is {self.whole.quality:.3f}, that of the best "
                "trivial answer (a constant, or in a regression the input itself) "
                f"{self.trivial:.3f}"
            ]
        if not chosen.lost_at_most >= self.skill:
            return []
        than = "no better than" if chosen.lost >= self.skill else "within a standard error of"
        useless = (
            f"warning: the chosen network is {than} the best trivial answer (a constant, or in a "
            f"regression the input itself), whose {self.metric} is {self.trivial:.3f}"
        )
        more = f"Give more {keyword('steps')}"
        if any(
            limit is not None
            for limit in (
                self.limits.max_macs,
                self.limits.max_parameters,
                self.limits.max_latency,
                self.limits.max_bytes,
            )
        ):
            more = f"Give a larger budget, more {keyword('steps')}"
            more += (
                ""
                if self.limits.tolerance is not None
                else f", or {keyword('tolerance')} beside it"
            )
        return [f"{useless}; it is within the limits and of no use. {more}"]

    def _adjusted(self) -> list[str]:
        """A word where qualities are taken at thresholds of their own."""
        if not self.whole.thresholds:
            return []
        return [
            f"{self.metric} is taken at the threshold that is best for each network, on the scale "
            "of its outputs (threshold); a network that is used at that of the whole network has "
            "the quality given as unadjusted"
        ]


def _one(thresholds: tuple[float, ...]) -> object:
    """What one cell holds of the thresholds."""
    if len(thresholds) < 2:
        return thresholds[0] if thresholds else math.nan
    return tuple(round(threshold, 3) for threshold in thresholds)


def _shown_threshold(threshold: Any) -> Any:
    """On the scale of the outputs, which may be small."""
    return float(f"{threshold:.3g}") if isinstance(threshold, float) else threshold


def _named(candidate: Candidate, of: int | None = None) -> str:
    levels = counted(candidate.keep_levels, "level")
    if of is not None:
        levels = f"{candidate.keep_levels} of {counted(of, 'level')}"
    return f"{levels}, thinner" if candidate.thinned else levels


def _beats(one: Candidate, other: Candidate) -> bool:
    return (one.macs, one.lost) != (other.macs, other.lost) and (
        one.macs <= other.macs and one.lost <= other.lost
    )
