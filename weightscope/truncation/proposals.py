"""One proposal per depth: what would remain, what it would cost, and what speaks for it."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from weightscope.cost import (
    Costs,
    Latency,
    count_costs,
    measure_latency,
    measure_peak_memory,
)
from weightscope.cost.counting import what_failed
from weightscope.errors import InputError, TruncationError, WeightscopeError
from weightscope.graph.structure import Cut, Structure
from weightscope.receptive_field import Pixels, network_receptive_field, propagate
from weightscope.truncation.bottlenecks import (
    Bottleneck,
    BottleneckFactory,
    Exit,
    Light,
    output_channels,
)
from weightscope.truncation.channels import Recut, plan_recuts
from weightscope.truncation.surgery import Crossing, Operated, operate, read_crossing

if TYPE_CHECKING:
    from weightscope.utilization import Assessment, StageVerdict

SAVES_TOO_LITTLE = 0.01
"""A depth that saves a smaller share of both parameters and MACs than this is refused."""

LIGHT_BUDGET = 0.5
"""The light bottleneck has at most this share of the parameters and of the MACs it replaces."""

Choice = Literal["light", "pool"]


@dataclass(frozen=True)
class Measurement:
    """What a truncation gained on this machine.

    Attributes:
        latency_before: Of the original.
        latency_after: Of the variant, timed in turns with the original.
        peak_memory_before: Bytes; see ``weightscope.cost.measure_peak_memory``.
        peak_memory_after: Bytes.
    """

    latency_before: Latency
    latency_after: Latency
    peak_memory_before: int
    peak_memory_after: int


@dataclass(frozen=True, eq=False)
class Variant:
    """A truncated network that runs, and where each of its tensors comes from.

    Attributes:
        module: The network. It takes what the original took and returns what it returned, but for
            ``dropped_outputs``.
        recipe: What rebuilds it from the original's code.
        kept: State dict keys whose tensors equal the original's.
        recut: Keys of tensors that keep some of the original's slices; the others are fresh.
        reinitialized: Keys of tensors that are new, or re-cut, and need training.
        dropped: Keys of the original that are gone.
        dropped_outputs: Positions of flat outputs that were computed below the cut; None now.
        costs: What one forward costs, counted on the built network.
        receptive_field: In input pixels, one figure per spatial dimension; None: the whole input.
        structure: The original, by reference.
    """

    module: nn.Module
    recipe: Mapping[str, Any]
    kept: tuple[str, ...]
    recut: tuple[str, ...]
    reinitialized: tuple[str, ...]
    dropped: tuple[str, ...]
    dropped_outputs: tuple[int, ...]
    costs: Costs = field(repr=False)
    receptive_field: Pixels
    structure: Structure = field(repr=False)
    plan: Plan = field(repr=False)

    def measure(self, *, repeats: int = 10) -> Measurement:
        """Time the original and the variant, and measure their peak memory.

        Args:
            repeats: Timed forwards of each, in turns.
        """
        original, inputs = self.structure.model, self.structure.inputs
        before, after = measure_latency([original, self.module], inputs, repeats=repeats)
        return Measurement(
            latency_before=before,
            latency_after=after,
            peak_memory_before=measure_peak_memory(original, inputs),
            peak_memory_after=measure_peak_memory(self.module, inputs),
        )


@dataclass(frozen=True, eq=False)
class Plan:
    """Everything that determines a truncation, but for random numbers.

    Attributes:
        cut: Where.
        crossing: What crosses the cut.
        kind: ``light``, ``pool`` or ``custom``.
        factory: Makes a custom trunk from its input channels.
        width: Channels of the light trunk.
        exit_channels: Channels of each exit.
        trunk_channels: Channels that the trunk returns.
        recuts: Kept tensors that change their shape.
    """

    cut: Cut
    crossing: Crossing
    kind: Literal["light", "pool", "custom"]
    factory: Callable[[], nn.Module] | None
    width: int | None
    exit_channels: tuple[int, ...]
    trunk_channels: int
    recuts: tuple[Recut, ...]

    def bottleneck(self, dimensions: int) -> Bottleneck:
        """Make the new bottleneck."""
        channels = sum(entry.channels for entry in self.crossing.entries)
        if self.factory is not None:
            trunk = self.factory()
        elif self.width is not None:
            trunk = Light(channels, self.width, dimensions)
        else:
            trunk = nn.Identity()
        exits = [
            Exit(channels=count, layout=e.layout, exact=e.exact, scale=e.scale)
            for e, count in zip(self.crossing.exits, self.exit_channels, strict=True)
        ]
        return Bottleneck(dimensions, self.crossing.entries, exits, trunk, self.trunk_channels)


@dataclass(frozen=True, eq=False)
class Proposal:
    """A network with fewer levels, and what it would cost with the light bottleneck.

    Attributes:
        keep_levels: Number of the original's own levels that stay.
        parameters: Predicted number of parameters.
        macs: Predicted multiply-accumulates of one forward on the example input.
        activation_bytes: Predicted, as in ``Costs``.
        receptive_field: Predicted, in input pixels; None: the whole input.
        kept: State dict keys that stay as they are.
        reinitialized: Keys of the new bottleneck.
        dropped: Keys of the original that go.
        evidence: What supports cutting here, of which grade, and what speaks against it.
        refusal: Why this depth cannot be built or is not worth it; None where it can.
    """

    keep_levels: int
    parameters: int
    macs: int
    activation_bytes: int
    receptive_field: Pixels
    kept: tuple[str, ...] = field(repr=False)
    reinitialized: tuple[str, ...] = field(repr=False)
    dropped: tuple[str, ...] = field(repr=False)
    evidence: str
    refusal: str | None
    structure: Structure = field(repr=False)
    costs: Costs = field(repr=False)

    def build(
        self,
        bottleneck: Choice | nn.Module | BottleneckFactory = "light",
        *,
        width: int | None = None,
        exit_channels: int | Sequence[int] | None = None,
    ) -> Variant:
        """Build the network; the original is not changed, its kept tensors are copied.

        Args:
            bottleneck: ``"light"``: pooling, two 3x3 convolutions with batch normalisation and
                ReLU, and a 1x1 convolution for each exit of another width. ``"pool"``: pooling
                only; the kept layers that read it are re-cut. Or a module that maps
                (B, in_channels, *S) to (B, channels, *S), or a factory of one, called with
                (in_channels, out_channels, dimensions).
            width: Channels of the light bottleneck; by default as many as its finest exit has,
                fewer where it would have more than half of the parameters or of the MACs of what
                it replaces.
            exit_channels: Channels of the tensors that leave the bottleneck, one number or one for
                each exit; by default as many as before. Kept layers that read them are re-cut:
                slices that stay keep their numbers, new ones are initialised afresh.

        Raises:
            TruncationError: This depth is refused, or these options cannot be built.
            InputError: Options that contradict each other.
        """
        cut = self._cut()
        plan = make_plan(self.structure, cut, self.costs, bottleneck, width, exit_channels)
        return realize(self.structure, plan)

    def _cut(self) -> Cut:
        for cut in self.structure.cuts:
            if cut.keep_levels == self.keep_levels:
                return cut
        raise TruncationError(f"keeping {self.keep_levels} levels is refused: {self.refusal}")


def propose(structure: Structure, assessment: Assessment, costs: Costs) -> tuple[Proposal, ...]:
    """Propose a smaller network for every depth.

    First comes the depth that the verdicts support best: the one that removes most levels among
    those whose removed stages are all judged unused. Then the others, by how little speaks against
    them: the highest utilization among the removed stages, the shallower cut where that is unknown
    or equal. Refused depths come last, each with its reason.

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
    good.sort(key=lambda p: _rank(removed_verdicts(structure, assessment, p.keep_levels), p))
    rest = [*refused, *(p for p in built if p.refusal is not None)]
    return (*good, *sorted(rest, key=lambda p: p.keep_levels))


def _rank(verdicts: Sequence[StageVerdict], proposal: Proposal) -> tuple[Any, ...]:
    if verdicts and all(v.verdict == "unused" for v in verdicts):
        return (0, proposal.keep_levels)
    used = sum(v.verdict == "used" for v in verdicts)
    known = [v.utilization for v in verdicts if not math.isnan(v.utilization)]
    against = max(known, default=math.inf)
    return (1, used > 0, against, -proposal.keep_levels)


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
            "untrained": "nothing supports it: the network is untrained",
            "collapsed": "nothing supports it: the weights of every stage went to zero",
            "noise": "nothing supports it: the training moved the weights no further than noise",
            "unskilled": "nothing supports it: on the given batches the network is at chance",
        }
        return states.get(assessment.state, "nothing supports it: there is no null to compare with")
    groups = {
        kind: [v for v in verdicts if v.verdict == kind] for kind in ("unused", "used", "undecided")
    }
    grades = sorted({v.evidence for v in verdicts if v.verdict != "undecided"})
    resting = f" (evidence: {', '.join(grades)})" if grades else ""
    if verdicts and len(groups["unused"]) == len(verdicts):
        return f"supported: all {len(verdicts)} removed stages are judged unused{resting}"
    parts = [f"{_names(groups[kind])} {kind}" for kind in groups if groups[kind]]
    if groups["used"]:
        return f"spoken against: {'; '.join(parts)}{resting}"
    return f"not decided: {'; '.join(parts) or 'no verdict on the removed stages'}{resting}"


def _names(verdicts: Sequence[StageVerdict]) -> str:
    return ", ".join(v.stage for v in verdicts)


def _predict(structure: Structure, assessment: Assessment, costs: Costs, cut: Cut) -> Proposal:
    """Build the light variant without numbers, and count it."""
    try:
        plan = make_plan(structure, cut, costs, "light", None, None)
        operated, counted = _without_numbers(structure, plan)
        field_ = variant_receptive_field(structure, plan, operated)
    except WeightscopeError as reason:
        return _refused(structure, costs, cut.keep_levels, str(reason))
    saved = [
        1 - counted.parameters / max(1, costs.parameters),
        1 - counted.macs / max(1, costs.macs),
    ]
    refusal = None
    if max(saved) < SAVES_TOO_LITTLE:
        refusal = (
            f"saves too little: {saved[0]:.1%} of the parameters and {saved[1]:.1%} of the MACs"
        )
    return Proposal(
        keep_levels=cut.keep_levels,
        parameters=counted.parameters,
        macs=counted.macs,
        activation_bytes=counted.activation_bytes,
        receptive_field=field_,
        kept=operated.kept,
        reinitialized=(*operated.recut, *operated.fresh),
        dropped=operated.dropped,
        evidence=_evidence(structure, assessment, cut.keep_levels),
        refusal=refusal,
        structure=structure,
        costs=costs,
    )


def _refused(structure: Structure, costs: Costs, keep_levels: int, reason: str) -> Proposal:
    return Proposal(
        keep_levels=keep_levels,
        parameters=costs.parameters,
        macs=costs.macs,
        activation_bytes=costs.activation_bytes,
        receptive_field=network_receptive_field(structure.program),
        kept=tuple(structure.model.state_dict()),
        reinitialized=(),
        dropped=(),
        evidence="",
        refusal=reason,
        structure=structure,
        costs=costs,
    )


# --- planning ---------------------------------------------------------------------------------


def make_plan(
    structure: Structure,
    cut: Cut,
    costs: Costs,
    bottleneck: Choice | nn.Module | BottleneckFactory = "light",
    width: int | None = None,
    exit_channels: int | Sequence[int] | None = None,
) -> Plan:
    """Decide everything about a truncation before anything is built.

    Raises:
        InputError: Options that contradict each other.
        TruncationError: They cannot be built.
    """
    if width is not None and (bottleneck != "light" or width < 1):
        raise InputError(f"width={width} is for the light bottleneck, and at least 1")
    if bottleneck == "pool" and exit_channels is not None:
        raise InputError(
            "exit_channels is for a bottleneck with weights; 'pool' hands on what enters"
        )
    if isinstance(bottleneck, str) and bottleneck not in ("light", "pool"):
        raise InputError(
            f"bottleneck is {bottleneck!r}; expected 'light', 'pool', a module or a factory"
        )
    if not isinstance(bottleneck, str) and not callable(bottleneck):
        raise InputError(
            f"bottleneck is a {type(bottleneck).__name__}; expected 'light', 'pool', a module or a "
            "factory called with (in_channels, out_channels, dimensions)"
        )
    crossing = read_crossing(structure, cut)
    dimensions = structure.inputs.dimensions
    entering = sum(entry.channels for entry in crossing.entries)
    wanted = _exit_channels(cut, exit_channels)
    if bottleneck == "pool":
        wanted = (entering,) * len(cut.exits)
    recuts = plan_recuts(structure, cut, wanted)
    finest = next(i for i, sizes in enumerate(crossing.exit_sizes) if sizes == crossing.size)
    if bottleneck == "pool":
        return Plan(cut, crossing, "pool", None, None, wanted, entering, recuts)
    if bottleneck != "light":
        factory = _factory(bottleneck, entering, wanted[finest], dimensions)
        made = output_channels(factory(), entering, dimensions)
        return Plan(cut, crossing, "custom", factory, None, wanted, made, recuts)

    def light(channels: int) -> Plan:
        return Plan(cut, crossing, "light", None, channels, wanted, channels, recuts)

    if width is not None:
        return light(width)
    return _in_budget(structure, costs, light, wanted[finest])


def _exit_channels(cut: Cut, wanted: int | Sequence[int] | None) -> tuple[int, ...]:
    if wanted is None:
        return tuple(site.channels for site in cut.exits)
    given = (wanted,) * len(cut.exits) if isinstance(wanted, int) else tuple(wanted)
    if len(given) != len(cut.exits) or any(c < 1 for c in given):
        raise InputError(
            f"exit_channels is {wanted}; this cut has {len(cut.exits)} exits of "
            f"{[site.channels for site in cut.exits]} channels: give one number, or one for each"
        )
    return given


def _factory(
    given: nn.Module | BottleneckFactory, entering: int, leaving: int, dimensions: int
) -> Callable[[], nn.Module]:
    if isinstance(given, nn.Module):
        return lambda: copy.deepcopy(given)

    def make() -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            made = given(entering, leaving, dimensions)
        if not isinstance(made, nn.Module):
            raise TruncationError(
                f"the bottleneck factory returned a {type(made).__name__}, not a torch.nn.Module"
            )
        return made

    return make


def _in_budget(
    structure: Structure, costs: Costs, light: Callable[[int], Plan], preferred: int
) -> Plan:
    """The widest light bottleneck within its budget: half of what it replaces.

    Raises:
        TruncationError: Even one channel costs more.
    """
    width = preferred
    kept = None
    while width >= 1:
        plan = light(width)
        own = _bottleneck_costs(structure, plan)
        if kept is None:
            _, whole = _without_numbers(structure, plan)
            kept = (whole.parameters - own.parameters, whole.macs - own.macs)
        replaced = (costs.parameters - kept[0], costs.macs - kept[1])
        if own.parameters <= LIGHT_BUDGET * replaced[0] and own.macs <= LIGHT_BUDGET * replaced[1]:
            return plan
        width = min(width - 1, width * 3 // 4)
    raise TruncationError(
        "saves too little: what lies below is hardly larger than the narrowest bottleneck with "
        "weights; bottleneck='pool' or width= can still be built"
    )


def _bottleneck_costs(structure: Structure, plan: Plan) -> Costs:
    from weightscope.graph.symbols import hint

    nodes = {node.name: node for node in structure.graph.nodes}
    crossing = plan.crossing
    with torch.device("meta"):
        module = plan.bottleneck(structure.inputs.dimensions)
        tensors = [
            torch.empty([hint(s) for s in nodes[site.node].meta["val"].shape])
            for site in plan.cut.entries
        ]
    sizes = [
        [[hint(s) for s in part] for part in parts]
        for parts in (crossing.entry_sizes, [crossing.size], crossing.exit_sizes)
    ]
    return count_costs(module, (tensors, sizes[0], sizes[1][0], sizes[2]))


def _without_numbers(structure: Structure, plan: Plan) -> tuple[Operated, Costs]:
    """Build a plan on the meta device and count it."""
    dimensions = structure.inputs.dimensions
    operated = operate(
        structure,
        plan.cut,
        plan.crossing,
        lambda: plan.bottleneck(dimensions),
        plan.recuts,
        meta=True,
    )
    return operated, _count(structure, operated)


def _count(structure: Structure, operated: Operated) -> Costs:
    try:
        return count_costs(operated.module, structure.inputs)
    except WeightscopeError as reason:
        cause = what_failed(reason.__cause__ or reason).splitlines()[0]
        hint = (
            "; a layer insists on the number of channels that it had: leave exit_channels at its"
            " default"
            if operated.recut
            else ""
        )
        raise TruncationError(f"the truncated network does not run: {cause}{hint}") from reason


def realize(structure: Structure, plan: Plan) -> Variant:
    """Build a plan for real."""
    from weightscope.truncation.recipes import write_recipe

    dimensions = structure.inputs.dimensions
    operated = operate(
        structure, plan.cut, plan.crossing, lambda: plan.bottleneck(dimensions), plan.recuts
    )
    return Variant(
        module=operated.module,
        recipe=MappingProxyType(write_recipe(structure, plan, operated)),
        kept=operated.kept,
        recut=operated.recut,
        reinitialized=(*operated.recut, *operated.fresh),
        dropped=operated.dropped,
        dropped_outputs=operated.dropped_outputs,
        costs=_count(structure, operated),
        receptive_field=variant_receptive_field(structure, plan, operated),
        structure=structure,
        plan=plan,
    )


def variant_receptive_field(structure: Structure, plan: Plan, operated: Operated) -> Pixels:
    """The receptive field of a variant, by arithmetic over the original's graph."""
    fine = {node.name: node.meta.get("fine") for node in structure.graph.nodes}
    views = {node.name: seen for node, seen in propagate(structure.program).items()}
    bottleneck = operated.module.get_submodule(operated.bottleneck)
    assert isinstance(bottleneck, Bottleneck)
    entries = [views[str(fine[site.node])] for site in plan.cut.entries]
    exits = bottleneck.views(entries)
    known = {str(fine[site.node]): seen for site, seen in zip(plan.cut.exits, exits, strict=True)}
    return network_receptive_field(structure.program, known, without=operated.dropped_outputs)
