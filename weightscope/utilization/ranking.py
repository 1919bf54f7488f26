"""The verdict on every stage, and on the network as a whole."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from weightscope.graph.structure import Structure
from weightscope.statistics import ModelStatistics, ParameterStatistics
from weightscope.utilization.displacement import (
    Displacement,
    MovementRecord,
    StageMovement,
    pool,
)
from weightscope.utilization.records import Assessment, Score, StageVerdict, State
from weightscope.utilization.scores import (
    MARGIN,
    UNTOUCHED,
    WALK_BORDER,
    NetworkMovement,
    StageSpread,
    decay,
    measure_spread,
    network_dispersion,
    score_history,
    score_weights,
    stage_kernels,
    typical_movement,
    without_decay,
)

if TYPE_CHECKING:
    from weightscope.utilization.data import DataEvidence

ALIKE = 0.1
CHANGED = "changed after the recorded training"
_NOTHING = "nothing can be concluded about which stages are used"


def assess(
    structure: Structure,
    statistics: ModelStatistics,
    *,
    history: MovementRecord | None = None,
    data: DataEvidence | None = None,
) -> Assessment:
    """Rank the stages of a network from the least to the most used.

    The strongest grade that could measure a stage decides (data before history before weights);
    where another grade decided otherwise, ``why`` says so.

    Args:
        structure: Stages of the network.
        statistics: Statistics of its parameters, with initialisation nulls.
        history: What was recorded while it trained.
        data: What batches of data showed.

    Returns:
        A verdict for each stage, the state of the network, and a conclusion in words.
    """
    kernels = stage_kernels(structure.stages, statistics)
    spreads = [measure_spread(stage.name, kernels[stage.name]) for stage in structure.stages]
    movements = pool_stages(kernels, history) if history is not None else {}
    network = NetworkMovement.of(movements.values())
    shrinkage = decay(spreads)
    compared = [without_decay(spread, shrinkage) for spread in spreads]
    typical = typical_movement(compared)
    dispersion = network_dispersion(compared)
    scores: dict[str, tuple[Score, ...]] = {}
    for spread in compared:
        graded = [score_weights(spread, typical, dispersion, decayed=shrinkage < 1.0)]
        if movements:
            graded.insert(0, score_history(movements[spread.stage], network))
        if data is not None:
            graded.insert(0, data.score(spread.stage))
        scores[spread.stage] = tuple(graded)
    state = judge_state(spreads, [m.live for m in movements.values()], data)
    shallowest = min((cut.keep_levels for cut in structure.cuts), default=math.inf)
    verdicts = [
        join_grades(
            stage.name,
            scores[stage.name],
            trusted=state == "trained",
            removable=stage.level >= shallowest,
        )
        for stage in structure.stages
    ]
    verdicts.sort(key=lambda v: (math.isnan(v.utilization), v.utilization))
    return Assessment(tuple(verdicts), state, conclude(verdicts, state))


def pool_stages(
    kernels: Mapping[str, Sequence[ParameterStatistics]], history: MovementRecord
) -> dict[str, StageMovement]:
    """Pool the recorded movement of each stage's kernels, by stage name.

    Nothing is known of a kernel that is not as the history left it.
    """
    moved = {d.parameter: d for d in history.displacements()}
    for kernel in (kernel for own in kernels.values() for kernel in own):
        recorded = moved.get(kernel.parameter)
        if recorded is not None and not is_as_recorded(kernel, recorded):
            moved[kernel.parameter] = replace(recorded, walk=math.nan, note=CHANGED)
    return {
        stage: pool(moved, tuple(kernel.parameter for kernel in own))
        for stage, own in kernels.items()
    }


def is_as_recorded(kernel: ParameterStatistics, recorded: Displacement) -> bool:
    """Whether a kernel with a known start moved from it as recorded, to a tenth.

    Averaged weights or another number format pass; weights that were put back, drawn anew or
    scaled after the training do not.
    """
    movement = None if kernel.comparison is None else kernel.comparison.movement
    if movement is None:
        return True
    return math.isclose(movement.moved, recorded.moved, rel_tol=ALIKE, abs_tol=1e-12) and (
        math.isnan(recorded.shrinkage) or abs(movement.shrinkage - recorded.shrinkage) <= ALIKE
    )


def judge_state(
    spreads: Sequence[StageSpread],
    movements: Sequence[float],
    data: DataEvidence | None,
) -> State:
    """Tell whether the network as a whole bears any trace of having learned.

    What was measured on data outranks the weights: a network with skill is trained whatever its
    weights look like, one without is not.

    Args:
        spreads: Of the stages.
        movements: Live movement of each stage / its noise walk; empty without a history.
        data: What batches showed.
    """
    if data is not None and data.skilled is not None:
        return "trained" if data.skilled else "unskilled"
    known = [s for s in spreads if s.count]
    if not known:
        return "unknown"
    if all(s.collapsed for s in known):
        return "collapsed"
    if movements:
        known_movements = [live for live in movements if math.isfinite(live)]
        if known_movements and max(known_movements) == 0.0:
            return "untrained"
        if known_movements:
            return "noise" if max(known_movements) < WALK_BORDER else "trained"
    return "trained" if shows_training(known) else "untrained"


def shows_training(spreads: Sequence[StageSpread]) -> bool:
    """Whether the weights moved, or differ from their nulls by more than false alarms explain.

    Where starts are known, any movement beyond rounding shows it. Elsewhere, with a chance of 1 in
    10,000 for each kernel, single alarms occur; so a single stage must also have changed its
    spread.
    """
    if any(s.known and s.movement() > UNTOUCHED * s.initial for s in spreads):
        return True
    alarmed = [s for s in spreads if s.distinguishable]
    return len(alarmed) > 1 or any(abs(s.excess) > MARGIN * s.error for s in alarmed)


def join_grades(
    stage: str, scores: Sequence[Score], *, trusted: bool, removable: bool = True
) -> StageVerdict:
    """Let the strongest measurable grade decide, and name the grades that disagree.

    No grade condemns what no cut removes: a head of few weights hardly moves and has little Taylor
    importance, yet every output passes through it.

    Args:
        stage: Name of the stage.
        scores: One for each available grade, the strongest first.
        trusted: False for a network that shows no learning: everything stays undecided.
        removable: Whether a cut removes the stage.
    """
    best = next((s for s in scores if math.isfinite(s.utilization)), scores[0])
    others = [s for s in scores if s is not best and s.verdict not in ("undecided", best.verdict)]
    why = best.why
    if others and best.verdict != "undecided":
        against = "; ".join(f"by {s.grade} {s.verdict} ({s.why})" for s in others)
        why += f"; disagreement: {against}"
    elif others:
        why += "".join(f"; {s.grade} alone: {s.verdict} ({s.why})" for s in others)
    verdict = best.verdict if trusted else "undecided"
    if verdict == "unused" and not removable:
        verdict, why = "undecided", f"{why}; no cut removes it, so this cannot be checked"
    return StageVerdict(
        stage=stage,
        utilization=best.utilization,
        verdict=verdict,
        evidence=best.grade,
        why=why,
        scores=tuple(scores),
    )


def conclude(verdicts: Sequence[StageVerdict], state: State) -> str:
    """Say in words what follows, and no more than that."""
    if state == "untrained":
        return f"Every layer looks as it was initialised: an untrained network, {_NOTHING}."
    if state == "collapsed":
        return f"The weights of every stage collapsed to near zero: {_NOTHING}."
    if state == "noise":
        return (
            "No stage moved further than the optimiser drifts on pure noise, as when the labels "
            f"carry no information: {_NOTHING}."
        )
    if state == "unskilled":
        return f"On the batches given the network is no better than chance: {_NOTHING}."
    if state == "unknown":
        return f"No layer has a known initialisation to compare with: {_NOTHING}."
    named = {
        verdict: [v.stage for v in verdicts if v.verdict == verdict]
        for verdict in ("unused", "used", "undecided")
    }
    grades = ", ".join(sorted({v.evidence for v in verdicts}))
    parts = [
        f"{len(names)} {verdict} ({', '.join(names)})" for verdict, names in named.items() if names
    ]
    text = f"By {grades}: " + "; ".join(parts) + "."
    if not named["unused"]:
        text += " Nothing here can be removed on this evidence."
        if all(v.evidence == "weights" for v in verdicts):
            text += " Weights alone rarely condemn a stage; history= or batches= say more."
    return text
