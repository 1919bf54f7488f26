"""Why a stage is undecided, in words."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from weightscope.errors import keyword
from weightscope.thresholds import RESPONSE_BORDER
from weightscope.utilization.records import BROKEN, NO_CUT, RANKING
from weightscope.utilization.scores import utilization

if TYPE_CHECKING:
    from weightscope.utilization import StageVerdict
    from weightscope.utilization.records import State

_STATES: dict[State, str] = {
    "broken": BROKEN,
    "untrained": "the network looks untrained",
    "unfinished": "only the encoder shows training",
    "unskilled": "on the batches given the network shows no skill that counts beyond the best "
    "trivial answer",
    "unknown": "it is not known whether the network was trained",
}
_ON_THE_BORDER = "its interval holds 0.5, the border: more images would narrow it"


def reason_unjudged(state: State) -> str:
    """Why no stage of a network is judged; "" where they are."""
    return _STATES.get(state, "")


def reason_undecided(verdict: StageVerdict) -> str:
    """Why no verdict was given on a stage of a trained network, beyond what was measured.

    Returns:
        A clause; "" for a decided stage, and where what was measured says it already.
    """
    if verdict.verdict != "undecided":
        return ""
    if verdict.evidence in RANKING:
        if any(score.why == NO_CUT for score in verdict.scores):
            return (
                "this ranks stages and decides nothing; no cut removes it, so nothing measures it"
            )
        return (
            f"this ranks stages and decides nothing; {keyword('images')} or {keyword('batches')} "
            "would measure what it does"
        )
    score = next((s for s in verdict.scores if s.grade == verdict.evidence), None)
    if score is None or not math.isfinite(score.utilization):
        return ""
    if verdict.evidence == "data":
        return _ON_THE_BORDER if score.low <= 0.5 <= score.high else ""
    unused, used = score.borders
    silent, responds = (utilization(border, RESPONSE_BORDER) for border in score.borders)
    if score.high < silent or score.low > responds:
        return ""
    return (
        f"between the borders: with its whole interval below {unused:g} it would be unused, "
        f"above {used:g} used"
    )
