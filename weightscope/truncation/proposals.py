"""One proposal per depth: what would remain, what it would cost, and what speaks for it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import nn

from weightscope.adapters.modes import alone
from weightscope.arguments import Rule, checked, whole
from weightscope.calls import random_state, say
from weightscope.cost import Costs
from weightscope.errors import WeightscopeError
from weightscope.graph.structure import Cut, Structure
from weightscope.receptive_field import Pixels, network_receptive_field
from weightscope.showing import OnOneScreen, outputs_at
from weightscope.thresholds import RESPONSE_BORDER, SAVES_TOO_LITTLE, SPEAKS_FOR_A_CUT
from weightscope.truncation.bottleneck import BottleneckFactory
from weightscope.truncation.building import build, draft
from weightscope.truncation.plan import Choice, find_cut, make_plan
from weightscope.truncation.variant import Variant
from weightscope.utilization.records import BROKEN
from weightscope.utilization.scores import skill_lost

if TYPE_CHECKING:
    from weightscope.utilization import Assessment, StageVerdict
    from weightscope.utilization.records import Score


@dataclass(frozen=True, eq=False, repr=False)
class Proposal(OnOneScreen):
    """A network with fewer levels, and what it would cost with the light bottleneck.

    Attributes:
        keep_levels: Number of the original's own levels that stay.
        evidence: What supports cutting here, of which grade, and what speaks against it. The loss
            that it names is of the whole network with means in the place of what is removed; what
            `build` returns has a fresh bottleneck there, and is worse until `recover` fits it.
        refusal: Why this depth cannot be built or is not worth it; None where it can.
        structure: The original.
        costs: Costs of the original.
        draft: The smaller network without numbers; None where it cannot be built.
    """

    keep_levels: int
    evidence: str
    refusal: str | None
    structure: Structure = field(repr=False)
    costs: Costs = field(repr=False)
    draft: Variant | None = field(repr=False)

    def _facts(self) -> dict[str, object]:
        return {
            "levels kept": f"{self.keep_levels} of {self.structure.depth}",
            "parameters": f"{self.parameters:,} of {self.costs.parameters:,}",
            "MACs": f"{self.macs:,} of {self.costs.macs:,}",
            "evidence": self.evidence,
            **({"refused": self.refusal} if self.refusal else {}),
        }

    @property
    def parameters(self) -> int:
        """Predicted number of parameters; the original's where nothing can be built."""
        return (self.draft or self).costs.parameters

    @property
    def macs(self) -> int:
        """Predicted multiply-accumulates of one forward on the example input."""
        return (self.draft or self).costs.macs

    @property
    def activation_bytes(self) -> int:
        """Predicted, as in ``Costs``."""
        return (self.draft or self).costs.activation_bytes

    @property
    def receptive_field(self) -> Pixels:
        """Predicted, in input pixels; None: the whole input."""
        if self.draft is None:
            return network_receptive_field(self.structure.program)
        return self.draft.receptive_field

    @property
    def saved(self) -> float:
        """Mean of the shares of the parameters and of the MACs that it saves."""
        before = (max(1, self.costs.parameters), max(1, self.costs.macs))
        return 1 - (self.parameters / before[0] + self.macs / before[1]) / 2

    @property
    def kept(self) -> tuple[str, ...]:
        """State dict keys that stay as they are."""
        return tuple(self.structure.model.state_dict()) if self.draft is None else self.draft.kept

    @property
    def reinitialized(self) -> tuple[str, ...]:
        """Keys of the new bottleneck."""
        return () if self.draft is None else self.draft.reinitialized

    @property
    def dropped(self) -> tuple[str, ...]:
        """Keys of the original that go."""
        return () if self.draft is None else self.draft.dropped

    @checked(
        bottleneck=Rule(
            lambda value: isinstance(value, str) or callable(value),
            "'light', 'pool', a module, or a factory (channels, channels, dimensions)",
            optional=False,
        ),
        width=whole(1, optional=True),
        seed=whole(0, optional=True),
    )
    @alone()
    def build(
        self,
        bottleneck: Choice | nn.Module | BottleneckFactory = "light",
        *,
        width: int | None = None,
        exit_channels: int | Sequence[int] | None = None,
        reach: int | None = None,
        seed: int | None = None,
    ) -> Variant:
        """Build the network; the original is not changed, its kept tensors are copied.

        The new weights are drawn by torch's global generator, as those of any layer, which is then
        put back: two builds in turn draw the same, two runs of a script only with a ``seed``, or
        after ``torch.manual_seed``.

        Args:
            bottleneck: ``"light"``: pooling, two 3x3 convolutions with batch normalisation and
                ReLU, and a 1x1 convolution for each exit of another width. ``"pool"``: pooling
                only; the kept layers that read it are re-cut, and where they cannot be, a 1x1
                convolution for each exit gives it the channels that it had. Or a module that maps
                (B, in_channels, *S) to (B, channels, *S), or a factory of one, called with
                (in_channels, out_channels, dimensions).
            width: Channels of the light bottleneck; by default as many as its finest exit has,
                fewer where it would have more than half of the parameters or of the MACs of what
                it replaces.
            exit_channels: Channels of the tensors that leave the bottleneck, one number or one for
                each exit; by default as many as before. Kept layers that read them are re-cut:
                slices that stay keep their numbers, new ones are initialised afresh.
            reach: Dilation of the second convolution of the light bottleneck, which costs nothing;
                by default how much coarser the deepest removed level is than the finest one, at
                most 4. With 1 the receptive field is the smallest.
            seed: Of the new weights, which are the same as after ``torch.manual_seed(seed)``. None:
                they are drawn as that generator stands.

        Raises:
            TruncationError: This depth is refused, or these options cannot be built.
            InputError: Options that contradict each other.
        """
        if seed is not None:
            with random_state(self.structure.model):
                torch.manual_seed(seed)
                return self.build(bottleneck, width=width, exit_channels=exit_channels, reach=reach)
        options = (width, exit_channels, reach)
        is_light = isinstance(bottleneck, str) and bottleneck == "light"
        if self.draft is not None and is_light and options == (None, None, None):
            return build(self.structure, self.draft.plan, like=self.draft)
        cut = find_cut(self.structure, self.keep_levels)
        plan = make_plan(self.structure, cut, bottleneck, width, exit_channels, reach)
        if plan.bottleneck == "pool" or (plan.bottleneck == "light" and width is None):
            plan = draft(self.structure, plan, self.costs).plan
        return build(self.structure, plan, None if isinstance(bottleneck, str) else bottleneck)


def propose(structure: Structure, assessment: Assessment, costs: Costs) -> tuple[Proposal, ...]:
    """Propose a smaller network for every depth.

    First come the depths whose removed stages are all judged unused, together if not each alone
    (see `speaks_for_itself`), by the model alone surely cost little (see `surely_little`), or by
    the user's own images or data are probably unused (see `by_figure`), the one that removes most
    before the others; then, in the same order, those that speak more for no use than for use at
    every removed stage; then those that are undecided by their expected loss / what they save; then
    those that are spoken against, or take one class, channel or output away, by their expected
    loss. Of a network without verdicts the shallowest cut comes first. Refused depths come last,
    with the reason.

    Args:
        structure: The network.
        assessment: Verdicts on its stages.
        costs: Costs of the original.
    """
    built = [_predict(structure, assessment, costs, cut) for cut in structure.cuts]
    refused = [
        _refused(structure, costs, refusal.keep_levels, refusal.reason)
        for refusal in structure.refusals
    ]
    good = [p for p in built if p.refusal is None]
    trusted = assessment.state == "trained"
    verdicts = {
        p: removed_verdicts(structure, assessment, p.keep_levels) if trusted else () for p in good
    }
    good.sort(key=lambda p: _rank(structure, verdicts[p], p))
    rest = [*refused, *(p for p in built if p.refusal is not None)]
    return (*good, *sorted(rest, key=lambda p: p.keep_levels))


def _rank(
    structure: Structure, verdicts: Sequence[StageVerdict], proposal: Proposal
) -> tuple[float, ...]:
    """Where a proposal stands: the smaller, the earlier."""
    if verdicts and all(v.verdict == "unused" or surely_little(v) for v in verdicts):
        return (0, proposal.keep_levels)
    given = structure, verdicts, proposal.keep_levels
    if speaks_for_itself(*given) or by_figure(*given):
        return (0, proposal.keep_levels)
    own = _of_the_cut(structure, verdicts)
    against = any(v.verdict == "used" or _loses_a_part(v) for v in verdicts)
    little = bool(verdicts) and all(
        v.utilization < 0.5 and not math.isnan(v.loss) for v in verdicts
    )
    if little and not against:
        return (1, proposal.keep_levels)
    if own is None or any(math.isnan(v.loss) for v in verdicts):
        return (2, math.inf, -proposal.keep_levels)
    if against:
        return (3, own.loss, -proposal.keep_levels)
    return (2, own.loss / max(proposal.saved, 1e-9), -proposal.keep_levels)


def surely_little(verdict: StageVerdict) -> bool:
    """Whether the output surely responds to a stage by less than stands for 5 % of the skill.

    "Unused" by response asks for a third of that, so that it is hardly ever wrong; a proposal asks
    what is the most that can go. Of synthetic images alone: on the networks that may choose, the
    same for the user's own images led to a proposal that costs too much.
    """
    if verdict.evidence != "response" or verdict.verdict == "used":
        return False
    return any(s.grade == "response" and s.high < 0.5 for s in verdict.scores)


def _measured(verdict: StageVerdict) -> Score | None:
    """The score that decided, if it measured what removing the stage takes away."""
    own = (s for s in verdict.scores if s.grade == verdict.evidence)
    return next((s for s in own if not math.isnan(s.loss)), None)


def _loses_a_part(verdict: StageVerdict) -> bool:
    """Whether labelled data speak against a stage beside its figure, which then says too little."""
    score = _measured(verdict)
    return score is not None and score.grade == "data" and score.guarded


def by_figure(structure: Structure, verdicts: Sequence[StageVerdict], keep_levels: int) -> bool:
    """Whether the user's own images or data speak for a cut by its figure, sure or not.

    What may be unused within its interval is more often unused than not, and the deepest such cut
    is more often the right one than the deepest that is sure. Not where a guard speaks against it.

    Args:
        structure: The network.
        verdicts: On the stages that the cut removes.
        keep_levels: Of the cut.
    """
    measured = [_measured(v) for v in _of_its_level(structure, verdicts, keep_levels)]
    return (
        bool(measured)
        and len({v.evidence for v in verdicts}) == 1
        and all(
            score is not None
            and score.grade in ("images", "data")
            and score.verdict != "used"
            and score.utilization < SPEAKS_FOR_A_CUT
            and not score.guarded
            for score in measured
        )
    )


def speaks_for_itself(
    structure: Structure, verdicts: Sequence[StageVerdict], keep_levels: int
) -> bool:
    """Whether the measurement of a cut supports it, whatever those of deeper cuts say.

    A level may disturb what the level above it would have done without it: then the two can go
    together, and the deeper one not alone. All must rest on one grade of evidence.

    Args:
        structure: The network.
        verdicts: On the stages that the cut removes.
        keep_levels: Of the cut.
    """
    own = _of_its_level(structure, verdicts, keep_levels)
    return (
        bool(own)
        and all(v.verdict == "unused" and not math.isnan(v.loss) for v in own)
        and len({v.evidence for v in verdicts}) == 1
    )


def _of_its_level(
    structure: Structure, verdicts: Sequence[StageVerdict], keep_levels: int
) -> list[StageVerdict]:
    """The verdicts on the stages of the level that a cut removes first: by its own measurement."""
    levels = {stage.name: stage.level for stage in structure.stages}
    return [v for v in verdicts if levels[v.stage] == keep_levels]


def _of_the_cut(structure: Structure, verdicts: Sequence[StageVerdict]) -> StageVerdict | None:
    """The verdict whose figure is that of this very cut: on the shallowest stage that it removes.

    The figures of deeper stages are those of deeper cuts. None where labelled data have no figure.
    """
    levels = {stage.name: stage.level for stage in structure.stages}
    measured = [v for v in verdicts if not math.isnan(v.loss) or v.evidence == "data"]
    found = min(measured, key=lambda v: (levels[v.stage], -v.loss), default=None)
    return None if found is None or math.isnan(found.loss) else found


def removed_verdicts(
    structure: Structure, assessment: Assessment, keep_levels: int
) -> tuple[StageVerdict, ...]:
    """Verdicts on the stages that a cut removes."""
    levels = {stage.name: stage.level for stage in structure.stages}
    return tuple(v for v in assessment.verdicts if levels.get(v.stage, -1) >= keep_levels)


def _evidence(structure: Structure, assessment: Assessment, keep_levels: int) -> str:
    """What supports a cut in words."""
    verdicts = removed_verdicts(structure, assessment, keep_levels)
    if assessment.state != "trained":
        states = {
            "untrained": "the network is untrained",
            "unfinished": "only its encoder shows training",
            "broken": BROKEN,
            # of few images no more is known; the conclusion says how sure it is
            "unskilled": "on the given batches the network shows no skill that counts beyond the "
            "best trivial answer",
            "unknown": "nothing shows that the network was trained",
        }
        return f"nothing supports it: {states[assessment.state]}"
    groups = {
        kind: [v for v in verdicts if v.verdict == kind] for kind in ("unused", "used", "undecided")
    }
    grades = sorted({v.evidence for v in verdicts if v.verdict != "undecided"})
    resting = f" (evidence: {', '.join(grades)})" if grades else ""
    resting += _expected(_of_the_cut(structure, verdicts))
    if verdicts and len(groups["unused"]) == len(verdicts):
        what = (
            "the removed stage is"
            if len(verdicts) == 1
            else f"all {len(verdicts)} removed stages are"
        )
        return f"supported: {what} judged unused{resting}"
    if speaks_for_itself(structure, verdicts, keep_levels):
        alone = [f"{_names(groups[k])} {k}" for k in ("used", "undecided") if groups[k]]
        return f"supported: unused together, though alone {' and '.join(alone)}{resting}"
    parts = [f"{_names(groups[kind])} {kind}" for kind in groups if groups[kind]]
    probably = by_figure(structure, verdicts, keep_levels)
    if groups["used"] and not probably:
        return f"spoken against: {'; '.join(parts)}{resting}"
    little = bool(verdicts) and all(v.verdict == "unused" or surely_little(v) for v in verdicts)
    resting += f", surely by less than {RESPONSE_BORDER}" if little else ""
    together = " together" if len(verdicts) > 1 else ""
    probable = f"; probably unused{together}: utilization below {SPEAKS_FOR_A_CUT}"
    resting += probable if probably else ""
    return f"not decided: {'; '.join(parts) or 'no verdict on the removed stages'}{resting}"


def _expected(most: StageVerdict | None) -> str:
    """What the strongest measurement says of a cut; of means, not of the bottleneck of `build`."""
    if most is None:
        return ""
    filled = "; with means in place of what is removed"
    if most.evidence == "data":
        return f"{filled} {skill_lost(most.loss)}{f' ({most.caveat})' if most.caveat else ''}"
    left = "1: nothing of it is left" + (f"; {most.caveat}" if most.caveat else "")
    where = "synthetic images" if most.evidence == "response" else "the images given"
    return f"{filled} the output responds on {where} with {most.loss:.2g} ({left})"


def _lacking(structure: Structure, cut: Cut, without: Sequence[str]) -> str:
    """What a network without these levels does not return, in words; empty where it returns all."""
    lost = outputs_at(structure.lost_outputs(cut.keep_levels))
    if not lost:
        return ""
    more = f" ({len(without)} in all)" if len(without) > 3 else ""
    trains = (
        f", and nothing else trains {', '.join(without[:3])}{more}; let the forward return such a"
        " loss in parts, and those of the levels that stay are kept"
        if without
        else ""
    )
    return f"; it does not return {lost}, computed in what is removed{trains}"


def _names(verdicts: Sequence[StageVerdict]) -> str:
    return ", ".join(v.stage for v in verdicts)


def _predict(structure: Structure, assessment: Assessment, costs: Costs, cut: Cut) -> Proposal:
    """Build the light variant without numbers, and count it."""
    try:
        drafted = draft(structure, make_plan(structure, cut), costs)
    except WeightscopeError as reason:
        return _refused(structure, costs, cut.keep_levels, str(reason))
    except Exception as reason:  # noqa: BLE001 - a foreign network must not stop the analysis
        text = f"this depth could not be tried out: {say(reason)}"
        return _refused(structure, costs, cut.keep_levels, text)
    return Proposal(
        keep_levels=cut.keep_levels,
        evidence=_evidence(structure, assessment, cut.keep_levels)
        + _lacking(structure, cut, drafted.untrained),
        refusal=saves_too_little(drafted.costs, costs),
        structure=structure,
        costs=costs,
        draft=drafted,
    )


def saves_too_little(costs: Costs, whole: Costs) -> str | None:
    """Why a smaller network is not worth building; None where it is."""
    parameters = 1 - costs.parameters / max(1, whole.parameters)
    macs = 1 - costs.macs / max(1, whole.macs)
    if max(parameters, macs) >= SAVES_TOO_LITTLE:
        return None
    saved = [f"{max(share, 0.0):.1%}" for share in (parameters, macs)]
    return f"saves too little: {saved[0]} of the parameters and {saved[1]} of the MACs"


def _refused(structure: Structure, costs: Costs, keep_levels: int, reason: str) -> Proposal:
    return Proposal(
        keep_levels=keep_levels,
        evidence="",
        refusal=reason,
        structure=structure,
        costs=costs,
        draft=None,
    )
