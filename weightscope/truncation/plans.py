"""Everything about a truncation that is decided before it is built."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from weightscope.adapters import pytree
from weightscope.adapters.symbols import Probe, key
from weightscope.cost import Costs, count_costs
from weightscope.cost.counting import what_failed
from weightscope.errors import InputError, TruncationError, WeightscopeError
from weightscope.graph.structure import Cut, Structure
from weightscope.truncation.bottlenecks import (
    Bottleneck,
    BottleneckFactory,
    Light,
    output_channels,
)
from weightscope.truncation.channels import Recut, plan_recuts
from weightscope.truncation.surgery import Crossing, Operated, operate, read_crossing

LIGHT_BUDGET = 0.5
"""The light bottleneck has at most this share of the parameters and of the MACs it replaces."""

Choice = Literal["light", "pool"]


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
        entering = sum(entry.channels for entry in self.crossing.entries)
        if self.factory is not None:
            trunk = self.factory()
        elif self.width is not None:
            trunk = Light(entering, self.width, dimensions)
        else:
            trunk = nn.Identity()
        exits = [
            replace(site, channels=channels)
            for site, channels in zip(self.crossing.exits, self.exit_channels, strict=True)
        ]
        return Bottleneck(dimensions, self.crossing.entries, exits, trunk, self.trunk_channels)


@dataclass(frozen=True, eq=False)
class Draft:
    """A plan that was built without numbers.

    Attributes:
        plan: The plan.
        operated: The network, on the meta device.
        costs: What it costs.
    """

    plan: Plan
    operated: Operated
    costs: Costs


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
    if bottleneck == "pool":
        return Plan(cut, crossing, "pool", None, None, wanted, entering, recuts)
    if bottleneck != "light":
        factory = _factory(bottleneck, entering, wanted[_finest(crossing)], dimensions)
        made = output_channels(factory(), entering, dimensions)
        return Plan(cut, crossing, "custom", factory, None, wanted, made, recuts)
    if width is not None:
        return Plan(cut, crossing, "light", None, width, wanted, width, recuts)
    return _in_budget(structure, costs, cut, crossing, wanted, recuts).plan


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


def draft_light(structure: Structure, cut: Cut, costs: Costs) -> Draft:
    """Draft the default truncation.

    Raises:
        TruncationError: It cannot be built.
    """
    crossing = read_crossing(structure, cut)
    return _in_budget(structure, costs, cut, crossing, _exit_channels(cut, None), ())


def _in_budget(
    structure: Structure,
    costs: Costs,
    cut: Cut,
    crossing: Crossing,
    exit_channels: tuple[int, ...],
    recuts: tuple[Recut, ...],
) -> Draft:
    """The widest light bottleneck within its budget: half of what it replaces.

    Raises:
        TruncationError: Even one channel costs more.
    """
    width = exit_channels[_finest(crossing)]
    widest: Draft | None = None
    kept = (0, 0)
    while width >= 1:
        plan = Plan(cut, crossing, "light", None, width, exit_channels, width, recuts)
        own = _bottleneck_costs(structure, plan)
        if widest is None:
            widest = draft(structure, plan)
            kept = (widest.costs.parameters - own.parameters, widest.costs.macs - own.macs)
        replaced = (costs.parameters - kept[0], costs.macs - kept[1])
        if own.parameters <= LIGHT_BUDGET * replaced[0] and own.macs <= LIGHT_BUDGET * replaced[1]:
            return widest if widest.plan.width == width else draft(structure, plan)
        width = min(width - 1, width * 3 // 4)
    raise TruncationError(
        "saves too little: what lies below is hardly larger than the narrowest bottleneck with "
        "weights; bottleneck='pool' or width= can still be built"
    )


def _finest(crossing: Crossing) -> int:
    return next(i for i, sizes in enumerate(crossing.exit_sizes) if sizes == crossing.size)


def _bottleneck_costs(structure: Structure, plan: Plan) -> Costs:
    """Costs of the new bottleneck alone, on the example inputs."""
    nodes = {node.name: node for node in structure.graph.nodes}
    crossing, at = plan.crossing, _example_sizes(structure)
    with torch.device("meta"):
        module = plan.bottleneck(structure.inputs.dimensions)
        tensors = [torch.empty(at.shape(nodes[s.node].meta["val"])) for s in plan.cut.entries]
    sizes = [
        [[at.size(s) for s in part] for part in parts]
        for parts in (crossing.entry_sizes, [crossing.size], crossing.exit_sizes)
    ]
    return count_costs(module, (tensors, sizes[0], sizes[1][0], sizes[2]))


def _example_sizes(structure: Structure) -> Probe:
    """Sizes at the example inputs, whose batch need not be the one that was traced."""
    fine = {node.name: node for node in structure.program.graph.nodes}
    names = structure.program.graph_signature.user_inputs
    leaves = pytree.tree_leaves((structure.inputs.args, dict(structure.inputs.kwargs)))
    symbols: dict[str, int] = {}
    for name, leaf in zip(names, leaves, strict=True):
        traced = fine[str(name)].meta.get("val") if isinstance(leaf, Tensor) else None
        if isinstance(traced, Tensor):
            symbols |= {key(a): b for a, b in zip(traced.shape, leaf.shape, strict=True)}
    return Probe(symbols)


def draft(structure: Structure, plan: Plan) -> Draft:
    """Build a plan without numbers, on the meta device, and count it."""
    dimensions = structure.inputs.dimensions
    operated = operate(
        structure,
        plan.cut,
        plan.crossing,
        lambda: plan.bottleneck(dimensions),
        plan.recuts,
        meta=True,
    )
    return Draft(plan, operated, count(structure, operated))


def count(structure: Structure, operated: Operated) -> Costs:
    """Count a built network.

    Raises:
        TruncationError: It does not run.
    """
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
