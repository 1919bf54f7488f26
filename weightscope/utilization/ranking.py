"""The verdict on every stage, and on the network as a whole."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from weightscope.errors import keyword
from weightscope.graph.structure import Structure
from weightscope.movement import (
    Displacement,
    MovementRecord,
    StageMovement,
    renamed,
    stage_movement,
)
from weightscope.probing.response import COLLAPSED, CutResponse, Response
from weightscope.showing import counted
from weightscope.statistics import ModelStatistics, ParameterStatistics
from weightscope.thresholds import AS_RECORDED, FRESH_VALUES, RESOLVED, UNTOLD
from weightscope.traces import marks_of_training, show_training, shows_training
from weightscope.utilization.records import (
    BROKEN,
    RANKING,
    Assessment,
    Grade,
    Score,
    StageVerdict,
    State,
)
from weightscope.utilization.scores import (
    NetworkMovement,
    StageSpread,
    measure_spread,
    network_dispersion,
    score_history,
    score_response,
    score_weights,
    stage_kernels,
    typical_movement,
)

if TYPE_CHECKING:
    from weightscope.probing.response import Response
    from weightscope.utilization.ablated import AblationResult
    from weightscope.utilization.data import DataEvidence

NOT_AS_RECORDED = "not as the recorded training left it (averaged, trained on or changed since)"
_NOTHING = "nothing can be concluded about which stages are used"


def assess(
    structure: Structure,
    statistics: ModelStatistics,
    *,
    history: MovementRecord | None = None,
    response: Response | None = None,
    images: Response | None = None,
    data: DataEvidence | None = None,
    trained: bool = False,
) -> Assessment:
    """Rank the stages of a network from the least to the most used.

    The strongest grade that could measure a stage decides: data before images before response.
    History and weights only rank, and what they alone rank comes after what was measured, first
    what history ranks, since figures of different grades are not compared. Where
    another grade decided otherwise, ``why`` says so.

    Args:
        structure: Stages of the network.
        statistics: Statistics of its parameters, with initialisation nulls.
        history: What was recorded while it trained.
        response: How its output responds to each level on synthetic images.
        images: The same on images of the user.
        data: What batches of data showed.
        trained: Whether the user says that the network was trained, where its weights do not tell.

    Returns:
        A verdict for each stage, the state of the network, and a conclusion in words.
    """
    kernels = stage_kernels(structure.stages, statistics)
    responses = [r for r in (images, response) if r is not None]
    spreads = [measure_spread(stage.name, kernels[stage.name]) for stage in structure.stages]
    recorded, notes = fitting_history(history, statistics)
    movements = {}
    if recorded and not drawn_elsewhere(statistics):
        movements = pool_stages(kernels, recorded)
    early = ("encoder", "bottleneck")
    late = [p for stage in structure.stages if stage.role not in early for p in kernels[stage.name]]
    state = judge_state(
        statistics,
        spreads,
        movements.values(),
        data,
        untouched=looks_untouched(structure, statistics),
        late_untouched=looks_untouched(structure, statistics, but=early)
        and not show_training(late),
        said=trained,
    )
    told = trained and state in ("unknown", "unfinished")
    state = "trained" if told else state
    certain = trained or (data is not None and bool(data.skilled))
    doubt = "" if certain or state != "trained" else hardly_trained(statistics, responses)
    network = NetworkMovement.of(movements.values())
    typical, dispersion = typical_movement(spreads), network_dispersion(spreads)
    shallowest = min((cut.keep_levels for cut in structure.cuts), default=math.inf)
    verdicts = []
    for stage, spread in zip(structure.stages, spreads, strict=True):
        scores = [] if data is None else [data.score(stage.name)]
        scores += [
            doubted(score_response(r, stage.level), doubt or (not trained) * unresolved(r))
            for r in responses
        ]
        scores = [doubted(score, structure.draws * DRAWN) for score in scores]
        scores += [score_history(movements[stage.name], network)] if movements else []
        scores += [score_weights(spread, typical, dispersion)]
        if state == "broken":
            nan = math.nan
            scores = [Score(s.grade, nan, nan, nan, "undecided", BROKEN) for s in scores]
        elif state != "trained":
            scores = [replace(score, verdict="undecided") for score in scores]
        verdicts.append(join_grades(stage.name, scores, removable=stage.level >= shallowest))
    # figures of history and of weights are of different scales
    group = {grade: 1 + place for place, grade in enumerate(RANKING)}
    verdicts.sort(
        key=lambda v: (math.isnan(v.utilization), group.get(v.evidence, 0), v.utilization)
    )
    conclusion = conclude(
        verdicts,
        state,
        statistics,
        data,
        doubt,
        0 if images is None else images.images,
        cuttable=bool(structure.cuts),
    )
    conclusion = " ".join(filter(None, (died(responses, data), conclusion)))
    notes = (
        *notes,
        *not_measured(responses),
        *foreign_start(statistics, recorded),
        *(() if data is None else data.notes),
    )
    if told:
        notes += (f"That it was trained says {keyword('trained', True)}, not its weights.",)
    elif trained and state == "untrained":
        notes += (f"{keyword('trained', True)} says otherwise: were its weights loaded?",)
    return Assessment(tuple(verdicts), state, conclusion, notes)


def died(responses: Sequence[Response], data: DataEvidence | None) -> str:
    """That a network answers all images alike, in a sentence; empty where it does not.

    Synthetic images may not reach a network that has skill, or that answers the user's own.

    Args:
        responses: Of its output, to the user's images before synthetic ones.
        data: What batches showed.
    """
    strongest = next(iter(responses), None)
    if strongest is None or strongest.failure != COLLAPSED or (data is not None and data.skilled):
        return ""
    seen = (
        "synthetic image" if strongest.source == "response" else f"one of {strongest.images} images"
    )
    return COLLAPSED.replace("the output", "The output", 1).replace("image", seen, 1) + "."


def not_measured(responses: Sequence[Response]) -> tuple[str, ...]:
    """That a response failed, in a sentence: its absence would read as if nothing responded."""
    given = any(r.source == "images" for r in responses)
    remedy = "" if given else f" Give {keyword('images')} of your own."
    return tuple(
        f"The response to {'synthetic images' if r.source == 'response' else keyword('images')} "
        f"was not measured: {r.failure.rstrip('.')}.{remedy}"
        for r in responses
        if r.failure and r.failure != COLLAPSED
    )


def hardly_trained(statistics: ModelStatistics, responses: Sequence[Response]) -> str:
    """Why a level without a response need not be unused: the network may hardly have been trained.

    The deep levels of an untrained network do nothing either. Where the outputs are decisions, none
    is called unused unless the probabilities tell each two classes apart, by `RESOLVED` or more, on
    the user's images (on synthetic ones if there are none). Of numbers, and of what may be either
    on all images, the weights are asked: where they show no more than a few steps of training, none
    is unused; where no level surely responds, none is unless the weights show more than some tens
    of steps and the output varies.

    Args:
        statistics: Of the network's parameters.
        responses: Of its output to each level, to the user's images before synthetic ones.

    Returns:
        A clause; empty where the network shows more, or nothing was measured.
    """
    cuts = [cut for response in responses for cut in response.cuts]
    if not cuts:
        return ""
    first = cuts[0]
    # what may be either kind on the user's images is what synthetic ones show it to be
    firsts = [response.cuts[0] for response in responses if response.cuts]
    if first.resolved >= RESOLVED and any(
        math.isnan(cut.by_sign) and cut.resolved > 0.0 for cut in firsts
    ):
        return ""
    if math.isnan(first.by_sign) and first.resolved > 0.0:
        return _hardly_apart(first)
    marks = marks_of_training(statistics)
    if marks.faint:
        return "its weights show no more training than a few steps leave"
    if any(cut.low > cut.borders[1] for cut in cuts):
        return ""
    synthetic = {response.source for response in responses if response.cuts} == {"response"}
    none = f"no level surely responds{' on synthetic images' if synthetic else ''}"
    if not marks.clear:
        few = "some tens of steps leave, or many small ones"
        return f"{none}, and its weights show no more training than {few}"
    if not first.resolved < RESOLVED:
        return ""
    share = f", read as decisions, hardly varies ({first.resolved:.1%} of what sure ones would)"
    return f"{none}, and its output{share if first.resolved else ' hardly varies'}"


def unresolved(response: Response) -> str:
    """Why silence on synthetic images tells nothing of a network that other evidence shows trained.

    Where it hardly decides on them, a level that decides much on the user's data may be silent.

    Args:
        response: Of the network's output to each level.

    Returns:
        A clause; empty where the decisions are told apart, and on the user's own images.
    """
    first = next(iter(response.cuts), None)
    if first is None or response.source != "response" or not math.isnan(first.by_sign):
        return ""
    if not 0.0 < first.resolved < RESOLVED:
        return ""
    return _hardly_apart(first, " there")


def _hardly_apart(cut: CutResponse, where: str = "") -> str:
    """That two classes are not told apart, in a clause."""
    share = f"({cut.resolved:.1%} of what sure decisions would)"
    if math.isnan(cut.by_number):
        return f"its probabilities hardly tell apart two of its classes{where} {share}"
    return f"its outputs, if they are decisions, hardly tell two classes apart{where} {share}"


def doubted(score: Score, doubt: str) -> Score:
    """A score that calls nothing unused where there is a doubt."""
    return score.guarded_by(doubt) if doubt and score.verdict != "used" else score


DRAWN = (
    "the forward answers otherwise call by call, and what is silent in some may not be in others"
)
"""A switch of a whole level may have been drawn once for all images of a batch."""


def drawn_elsewhere(statistics: ModelStatistics) -> bool:
    """Whether there is a start, and no kernel descends from it."""
    sources = {
        p.null.source
        for p in statistics.parameters
        if p.is_kernel and p.null is not None and p.null.std > 0.0
    }
    return "drawn" in sources and "given" not in sources


def foreign_start(
    statistics: ModelStatistics, recorded: Mapping[str, Displacement]
) -> tuple[str, ...]:
    """What must be said of a start that was given or recorded, if the weights did not begin there.

    Args:
        statistics: Of the network's parameters.
        recorded: What the history says of each, if there is one.
    """
    kernels = [p for p in statistics.parameters if p.is_kernel and p.null is not None]
    # a frozen kernel is as it was recorded, whatever became of the others
    pairs = [
        (p, recorded[p.parameter])
        for p in kernels
        if p.parameter in recorded and recorded[p.parameter].moved != 0.0
    ]
    changed = sum(not is_as_recorded(kernel, record) for kernel, record in pairs)
    if pairs and changed == len(pairs):
        return (
            f"No kernel that {keyword('history')} holds is as it recorded it: the weights are an"
            " average of the recorded ones or of an earlier step, were changed afterwards, or are"
            f" of another training; or {keyword('initial')}, if it was given, is not their start.",
        )
    if not drawn_elsewhere(statistics):
        some = f"{keyword('history')} says nothing of some kernels: {changed} of the {len(pairs)}"
        are = "is" if changed == 1 else "are"
        return (f"{some} that moved {are} {NOT_AS_RECORDED}.",) if changed else ()
    where, left = keyword("initial"), ""
    if recorded:
        where = f"the start that {keyword('history')} recorded or {where} gives"
        left = f", so that {keyword('history')} was left out"
    return (
        f"No kernel descends from {where}, which is another draw, another training, or a start of"
        " which the training left nothing: it says how the weights were drawn, and not how far"
        f" they moved{left}.",
    )


def fitting_history(
    history: MovementRecord | None, statistics: ModelStatistics
) -> tuple[dict[str, Displacement], tuple[str, ...]]:
    """The recorded movement of the model's parameters by their names, and what does not fit.

    A history of a wrapped model (``model.x``, ``module.x``) is read without the wrapper's prefix,
    one of the network inside with it.
    """
    if history is None:
        return {}, ()
    moved = {d.parameter: d for d in history.displacements()}
    kernels = {p.parameter for p in statistics.parameters if p.is_kernel}
    counts = {p.parameter: p.count for p in statistics.parameters}
    if not moved:
        return {}, (f"{keyword('history')} holds no parameter: it says nothing.",)
    fitting = max(renamed(moved, kernels), key=lambda names: len(names.keys() & kernels))
    found = {name: d for name, d in fitting.items() if name in kernels}
    if kernels and not found:
        have, want = next(iter(moved)), min(kernels)
        return {}, (
            f"{keyword('history')} was recorded under other names ({have}, where this model has "
            f"{want}): it was left out; watch the network that is analysed.",
        )
    other = sorted(name for name, d in found.items() if d.count != counts[name])
    sizes = [
        f"{name}: {found[name].count:,} numbers there, {counts[name]:,} here" for name in other[:1]
    ]
    if other and len(other) == len(found):
        return {}, (
            f"{keyword('history')} was recorded of another network ({sizes[0]}): it was left out; "
            "watch the network that is analysed.",
        )
    found = {name: d for name, d in found.items() if name not in other}
    which = "any kernel" if not other and all(d.note for d in found.values()) else "some kernels"
    notes = [f"it was recorded at another size ({sizes[0]})"] if other else []
    notes += sorted({d.note for d in found.values() if d.note})
    return {n: d for n, d in fitting.items() if counts.get(n, d.count) == d.count}, tuple(
        f"{keyword('history')} says nothing of {which}: {note}." for note in notes
    )


def pool_stages(
    kernels: Mapping[str, Sequence[ParameterStatistics]], recorded: Mapping[str, Displacement]
) -> dict[str, StageMovement]:
    """Pool the recorded movement of each stage's kernels, by stage name.

    Nothing is known of a kernel that is not as the history left it.
    """
    moved = dict(recorded)
    for kernel in (kernel for own in kernels.values() for kernel in own):
        record = moved.get(kernel.parameter)
        if record is not None and not is_as_recorded(kernel, record):
            moved[kernel.parameter] = replace(record, walk=math.nan, note=NOT_AS_RECORDED)
    return {
        stage: stage_movement(moved, tuple(kernel.parameter for kernel in own))
        for stage, own in kernels.items()
    }


def is_as_recorded(kernel: ParameterStatistics, recorded: Displacement) -> bool:
    """Whether a kernel is as far from a start that was given as recorded, to a tenth.

    Another number format passes, and an average over steps at which the weights hardly moved any
    more. One over others does not: how far it is from the start does not tell it from the weights
    of an earlier step. Nor do weights that were restored, drawn again or scaled after the training.
    """
    movement = kernel.since_given
    if movement is None or math.isnan(movement.moved) or math.isnan(recorded.moved):
        return True  # nothing speaks against it
    return math.isclose(movement.moved, recorded.moved, rel_tol=AS_RECORDED, abs_tol=1e-12) and (
        math.isnan(recorded.shrinkage)
        or abs(movement.shrinkage - recorded.shrinkage) <= AS_RECORDED
    )


def judge_state(
    statistics: ModelStatistics,
    spreads: Sequence[StageSpread],
    movements: Iterable[StageMovement] = (),
    data: DataEvidence | None = None,
    *,
    untouched: bool = False,
    late_untouched: bool = False,
    said: bool = False,
) -> State:
    """Say whether the network as a whole shows any trace of having learned.

    What was measured on data outranks the weights, with one exception: where every stage holds
    numbers that are an initialiser's to the last bit, the network is untrained though its
    random features have some skill. Kernels alone may have been trained, beside frozen biases
    and norms: the user must say so, and where the skill is more than random features mostly have
    it is not known. Of the weights, movement from a start that is known or was recorded proves
    training, and what `shows_training` finds, unless the weights between the deepest level and
    the output are still: then only the encoder was trained, elsewhere. That none is found does
    not prove the contrary: for that, tensors that any training moves must be still.

    Args:
        statistics: Of the network's parameters.
        spreads: Of the stages.
        movements: What a history recorded of each stage.
        data: What batches showed.
        untouched: See `looks_untouched`.
        late_untouched: The same of decoder, skips and head alone, and of their kernels none shows
            training.
        said: Whether the user says that the network was trained.
    """
    if statistics.nonfinite:
        return "broken"
    moved = any(m.moved > 0.0 for m in movements) or any(s.has_moved for s in spreads)
    shown = shows_training(statistics)
    if untouched and not moved and not shown:
        if data is None or not data.skilled:
            return "untrained"
        return "trained" if said else "unknown" if data.masters else "untrained"
    if data is not None and data.skilled is not None:
        return "trained" if data.skilled else "unskilled"
    if moved:
        return "trained"
    if shown:
        return "unfinished" if late_untouched else "trained"
    known = [s for s in spreads if s.count]
    if known and all(s.known for s in known):
        return "untrained"
    return "untrained" if statistics.is_fresh else "unknown"


def looks_untouched(
    structure: Structure, statistics: ModelStatistics, but: Collection[str] = ()
) -> bool:
    """Whether the stages hold numbers that are as an initialiser makes them, to the last bit.

    No bias, norm scale or shift that could tell may be otherwise (`ModelStatistics.is_fresh` wants
    this of those too that are too few to tell). Stages in which nothing tells, a head of a few
    weights, may hold a share of `UNTOLD` of all weights. Stages of the roles in `but` are left out.
    """
    still = set(statistics.still)
    stages = [stage for stage in structure.stages if stage.role not in but]
    others = {layer for s in structure.stages if s.role in but for layer in s.layers}
    parameters = [p for p in statistics.parameters if p.layer not in others]
    drawn = {p.layer for p in parameters if p.is_kernel}  # their biases are, too
    telling = [
        p
        for p in parameters
        if not p.is_kernel
        and (p.parameter in still or p.count >= FRESH_VALUES or p.layer not in drawn)
    ]
    if not telling or any(p.parameter not in still for p in telling):
        return False
    layers = {p.layer for p in statistics.parameters if p.parameter in still}
    untold = {
        layer for stage in stages if layers.isdisjoint(stage.layers) for layer in stage.layers
    }
    total = sum(p.count for p in parameters)
    return sum(p.count for p in parameters if p.layer in untold) <= UNTOLD * total


def join_grades(stage: str, scores: Sequence[Score], *, removable: bool = True) -> StageVerdict:
    """Let the strongest measurable grade decide, and name the grades that disagree.

    No grade calls unused what no cut removes: a head of few weights hardly moves and has little
    Taylor importance, yet every output passes through it.

    Args:
        stage: Name of the stage.
        scores: One for each available grade, the strongest first.
        removable: Whether a cut removes the stage.
    """
    # data without a figure, because every value is lost, outweigh the figures of weaker grades, too
    lost = [s for s in scores if s.grade == "data" and s.guarded]
    best = next((s for s in scores if math.isfinite(s.utilization) or s in lost), scores[0])
    others = [s for s in scores if s is not best and s.verdict not in ("undecided", best.verdict)]
    why = best.why
    if others and best.verdict != "undecided":
        against = "; ".join(f"by {s.grade} {s.verdict} ({s.why})" for s in others)
        why += f"; disagreement: {against}"
    elif others:
        why += "".join(f"; {s.grade} alone: {s.verdict} ({s.why})" for s in others)
    verdict = best.verdict
    if verdict == "unused" and not removable:
        verdict, why = "undecided", f"{why}; no cut removes it, so this cannot be checked"
    # weights whose movement does not show are not those of the least used stage
    silent = best.grade == "weights" and (best.low, best.high) == (0.0, 1.0)
    return StageVerdict(
        stage=stage,
        utilization=math.nan if silent else best.utilization,
        verdict=verdict,
        evidence=best.grade,
        why=why,
        scores=tuple(scores),
        loss=best.loss,
        caveat=best.caveat,
    )


def conclude(
    verdicts: Sequence[StageVerdict],
    state: State,
    statistics: ModelStatistics,
    data: DataEvidence | None = None,
    hardly: str = "",
    images: int = 0,
    *,
    cuttable: bool = True,
) -> str:
    """Say in words what follows, and no more than that.

    Args:
        verdicts: On the stages.
        state: Of the network.
        statistics: Of its parameters.
        data: What batches showed.
        hardly: From `hardly_trained`.
        images: Number of the user's images without labels.
        cuttable: Whether any level can be cut, so that anything could be measured of one.
    """
    ablation = None if data is None else data.ablation
    if state == "broken":
        bad = statistics.nonfinite
        names = ", ".join(list(bad)[:3]) + (", ..." if len(bad) > 3 else "")
        total = sum(bad.values())
        kind = "weight" if bad.keys() - statistics.overflown.keys() else "running statistic"
        return (
            f"{counted(total, kind)} {'is' if total == 1 else 'are'} NaN or infinite "
            f"({names}): {_NOTHING}. Load weights from before the training diverged."
        )
    if state == "untrained":
        still = len(statistics.still)
        also = f", {counted(still, 'tensor')} to the last bit" if still else ""
        text = f"Every layer looks as it was initialised{also}: an untrained network, {_NOTHING}."
        if ablation is not None and ablation.skilled:
            text += (
                f" Its random features are {ablation.comparison}. If its kernels alone were"
                f" trained, say {keyword('trained', True)}."
            )
        return text
    if state == "unskilled" and ablation is not None:
        text = f"On the batches given the network is {ablation.comparison}"
        if ablation.surely_unskilled:
            return f"{text}: {_NOTHING}.{_of_a_common_class(ablation)}"
        return f"{text}, but {ablation.too_few}: {_NOTHING}; give more."
    doubt = "" if ablation is None else ablation.doubt
    doubt = (
        ""
        if ablation is None or not doubt
        else f" {doubt[0].upper()}{doubt[1:]}: {ablation.remedy}."
    )
    if state == "unfinished":
        return (
            "Only the encoder shows training. Between the deepest level and the output what starts"
            " constant still is, to the last bit, and no kernel proves the contrary:"
            f" {_NOTHING}.{doubt} If the kernels there were trained, say"
            f" {keyword('trained', True)}."
        )
    if state == "unknown":
        return _unknown(ablation, doubt)
    seen: dict[Grade, str] = {
        "data": "" if ablation is None else f" on {ablation.counted}",
        "images": f" on {counted(images, 'image')}" if images else "",
        "response": " on synthetic images",
    }
    if ablation is not None and ablation.unlearned:
        doubt += _unlearned(ablation.unlearned)
    if ablation is not None and ablation.judged and ablation.unjudged:
        doubt += (
            f" Of several outputs {ablation.judged_outputs} alone "
            f"{'was' if len(ablation.judged) == 1 else 'were'} judged; "
            f"{keyword('metric')} with one for each output by its name judges all of them."
        )
    doubt += "" if cuttable else f" {_UNCUT}"
    more = _what_says_more(ablation, images) if cuttable else ""
    return _what_follows(verdicts, seen, doubt, hardly, more)


_UNCUT = "No level can be cut, as the proposals say, so that none was measured alone."


def _what_says_more(ablation: AblationResult | None, images: int) -> str:
    """Which arguments that were not given would say more, in words; empty where all were."""
    # what labelled images show outweighs what others do
    asked = [] if images or ablation is not None else [keyword("images")]
    asked += [] if ablation is not None else [keyword("batches")]
    return f"{' or '.join(asked)} say more" if asked else ""


def _unknown(ablation: AblationResult | None, doubt: str) -> str:
    """What to say of a network that nothing shows to be trained, and nothing to be untrained."""
    if ablation is not None and ablation.skilled:
        return (
            f"The network is {ablation.comparison}, more than random features mostly are; but"
            f" every layer looks as it was initialised: {_NOTHING}. If its kernels alone were"
            f" trained, say {keyword('trained', True)}."
        )
    return (
        "Nothing in the weights shows that the network was trained, and nothing shows that it"
        f" was not: {_NOTHING}."
        + (
            doubt
            or f" If you know that its training is over, say {keyword('trained', True)}; else give"
            f" {keyword('initial')} (the weights at the start), or {keyword('batches')} with"
            f" {keyword('loss')} or {keyword('metric')}."
        )
    )


def _of_a_common_class(ablation: AblationResult) -> str:
    """What to ask where nearly everything is one class, in a sentence; else empty."""
    if not ablation.metric.startswith("accuracy") or not ablation.skill > 0.0:
        return ""
    return (
        " By accuracy a constant is right wherever the commonest class is; "
        f"{keyword('metric', repr('f1'))} weighs what is rare as much."
    )


def _unlearned(classes: Sequence[int]) -> str:
    """That nothing is said of classes that the network has not learned, in a sentence."""
    names = ", ".join(map(str, classes[:5])) + (", ..." if len(classes) > 5 else "")
    return (
        f" Of {'class' if len(classes) == 1 else 'classes'} {names} the network shows no skill "
        "that counts: what is said by data is not said of "
        f"{'it' if len(classes) == 1 else 'them'}."
    )


def _what_follows(
    verdicts: Sequence[StageVerdict],
    seen: Mapping[Grade, str],
    doubt: str,
    hardly: str,
    more: str,
) -> str:
    """The verdicts of a trained network, what they were seen on, and what limits them.

    ``more``: which arguments that were not given would say more; empty where all were.
    """
    named = {
        verdict: [v.stage for v in verdicts if v.verdict == verdict]
        for verdict in ("unused", "used", "undecided")
    }
    decided = sorted({v.evidence for v in verdicts if v.verdict != "undecided"})
    parts = [
        f"{len(names)} {verdict} ({', '.join(names)})" for verdict, names in named.items() if names
    ]
    text = f"By {', '.join(grade + seen.get(grade, '') for grade in decided)}: " if decided else ""
    text += "; ".join(parts) + "." + doubt
    if hardly and any(hardly in s.why for v in verdicts for s in v.scores):
        batches = keyword("batches")
        text += (
            f" Perhaps it is hardly trained: {hardly}. What silent levels would do after more "
            "training cannot be known, so none is called unused; "
            + (f"{batches} say what they do now, and " if batches in more else "")
            + f"{keyword('trained', True)} says that its training is over."
        )
    if not named["unused"]:
        text += " Nothing here can be removed on this evidence."
    if not decided and more:
        text += f" {more}."
    if "images" in decided:
        text += (
            " Used and unused tell here on what the output depends on these images, not whether the"
            f" output is right{'; ' + more if more else ''}."
        )
    if "response" in decided:
        text += (
            " Used and unused tell here on what the output depends on synthetic images, not whether"
            f" the output is right{'; ' + more if more else ''}."
        )
    return text
