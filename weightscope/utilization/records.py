"""The records of utilization: scores, verdicts and the assessment of a network."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from weightscope.showing import OnOneScreen

Grade = Literal["weights", "history", "response", "images", "data"]
Verdict = Literal["used", "unused", "undecided"]
RANKING: tuple[Grade, ...] = ("history", "weights")
"""Grades that rank stages and decide nothing."""

BROKEN = "weights or running statistics are NaN or infinite"
"""What a network that computes no numbers has, in words."""

NO_CUT = "no cut removes it"
"""Why a grade that removes levels did not measure a stage."""

State = Literal["trained", "untrained", "unfinished", "unskilled", "broken", "unknown"]


@dataclass(frozen=True)
class Score:
    """What one grade of evidence says of one stage.

    Attributes:
        grade: What it rests on: weights, history, response, images or data.
        utilization: Between 0 (as at initialisation, or collapsed) and 1; nan if not measurable.
        low: Lower end of its interval.
        high: Upper end of its interval.
        verdict: used, unused or undecided, from this grade alone.
        why: The measurement behind it in words.
        loss: What removing the stage's level and all below it takes away by this grade: the share
            of the skill (data), or the response (images, response); nan where the
            grade does not measure that.
        caveat: What that figure leaves out, in words; else empty.
        guarded: Whether something beside the figure speaks against calling the stage unused: a part
            of the output, another one, another contrast, too few images, too little training.
        borders: Values of `loss`: with its whole interval below the first the stage is unused,
            above the second it is used; nan for grades of one border or none.
    """

    grade: Grade
    utilization: float
    low: float
    high: float
    verdict: Verdict
    why: str
    loss: float = float("nan")
    caveat: str = ""
    borders: tuple[float, float] = (float("nan"), float("nan"))
    guarded: bool = False

    def guarded_by(self, reason: str) -> Score:
        """The same where something beside the figure speaks against calling the stage unused.

        Args:
            reason: What does, in words.
        """
        why = f"{self.why}; but {reason}" if self.verdict == "unused" else self.why
        return replace(self, verdict="undecided", why=why, guarded=True)


@dataclass(frozen=True)
class StageVerdict:
    """The verdict on one stage.

    Attributes:
        stage: Name of the stage.
        utilization: That of the strongest grade that could measure it; nan if none could, or if
            only weights could and their movement does not show.
        verdict: used, unused or undecided.
        evidence: The grade it rests on.
        why: The reason, and where other grades disagree.
        scores: The score of each available grade, the strongest first.
        loss: That of the grade it rests on, see `Score`.
        caveat: The same.
    """

    stage: str
    utilization: float
    verdict: Verdict
    evidence: Grade
    why: str
    scores: tuple[Score, ...]
    loss: float = float("nan")
    caveat: str = ""


@dataclass(frozen=True, repr=False)
class Assessment(OnOneScreen):
    """Which stages a network uses.

    Attributes:
        verdicts: One for each stage, the least used first; then, in the same order, those that
            only history ranks, then those that only weights rank; last those not measured.
        state: ``trained``; ``unfinished`` (only the encoder was);
            ``untrained`` (every layer looks as initialised, and what starts
            constant still is); ``unskilled`` (on the batches given the network is not better than
            the best trivial answer); ``broken`` (weights or running statistics
            are NaN or infinite); ``unknown`` (nothing
            shows training, and nothing shows that there was none). Only ``trained`` comes with
            decided verdicts.
        conclusion: What follows, in words.
        notes: What must be known of the evidence given: what could not be used, and why.
    """

    verdicts: tuple[StageVerdict, ...]
    state: State
    conclusion: str
    notes: tuple[str, ...] = ()

    def _facts(self) -> dict[str, object]:
        return {
            "state": self.state,
            "stages": len(self.verdicts),
            "conclusion": self.conclusion,
            **({"notes": len(self.notes)} if self.notes else {}),
        }
