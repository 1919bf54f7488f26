"""Build a plan: cut the graph, make the bottleneck, fit the layers around it, drop the rest."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.utils.hooks import RemovableHandle

from weightscope.adapters import pytree
from weightscope.adapters.modules import buffers, children, is_persistent, parameters
from weightscope.adapters.symbols import Probe, hint, symbols_at
from weightscope.calls import named_errors, random_state, say
from weightscope.copies import deep_copy
from weightscope.cost import Costs, count_costs
from weightscope.errors import TruncationError, WeightscopeError, keyword, kind
from weightscope.graph import rebuild, runnable
from weightscope.graph.capture import throwaway_copy
from weightscope.graph.rebuild import own_modes
from weightscope.graph.structure import Cut, Structure
from weightscope.receptive_field import Pixels, Views, network_receptive_field, propagate
from weightscope.restoring import reached
from weightscope.truncation.bottleneck import (
    Bottleneck,
    BottleneckFactory,
    Light,
    format_of,
    output_channels,
)
from weightscope.truncation.channels import Recut, aliases, group, plan_recuts
from weightscope.truncation.cutting import Crossing, cut_graph, read_crossing
from weightscope.truncation.plan import Plan, cut_of
from weightscope.truncation.recutting import recut_layer
from weightscope.truncation.variant import Variant

LIGHT_BUDGET = 0.5
"""The light bottleneck has at most this share of the parameters and of the MACs it replaces."""


def build(
    structure: Structure,
    plan: Plan,
    trunk: nn.Module | BottleneckFactory | None = None,
    *,
    numbers: bool = True,
    like: Variant | None = None,
) -> Variant:
    """Build a smaller network.

    Args:
        structure: The original; it is not changed, its kept tensors are copied.
        plan: What to build.
        trunk: The module or factory of a custom bottleneck.
        numbers: False: build on the meta device, without numbers, to count it.
        like: The same plan built before; its costs and receptive field are taken over.

    Raises:
        TruncationError: The plan cannot be built, or what was built does not run.
    """
    if plan.bottleneck == "none":
        return _thinned(_whole(structure, plan, numbers), plan)
    cut = cut_of(structure, plan)
    if len(plan.exit_channels) != len(cut.runs[0][1]):
        raise TruncationError(
            f"the plan has {len(plan.exit_channels)} exits and this cut has {len(cut.runs[0][1])}"
        )
    crossing = read_crossing(structure, cut)
    recuts = plan_recuts(structure, cut, plan.exit_channels)
    name = _free_name(structure.model)
    graph, dropped_outputs = cut_graph(structure, cut, crossing, name)
    bottleneck = make_bottleneck(structure, cut, crossing, plan, trunk, numbers)
    owner = _owner(structure.model, numbers)
    owner.add_module(name, bottleneck.train(owner.training))
    with random_state(), _memory_for(plan):
        for path, changes in group(recuts).items():
            recut_layer(owner, path, changes)
    _remove_unused(owner, graph)
    _drop(owner, aliases(structure.model, _needed_nowhere(structure, graph)))
    _let_go(owner)
    constants, modes = _constants(structure, graph, numbers), own_modes(structure.model)
    module = runnable(owner, graph, constants, structure.output_spec, modes)
    if like is None:
        costs = count(structure, module, recut=bool(recuts))
        seen = _receptive_field(structure, cut, crossing, bottleneck, dropped_outputs)
    else:
        costs, seen = like.costs, like.receptive_field
    built = Variant(
        module=deep_copy(module) if numbers else module,
        plan=plan,
        **_keys(structure.model, module, recuts),
        thinned=(),
        dropped_outputs=dropped_outputs,
        costs=costs,
        receptive_field=seen,
        structure=structure,
        origin=None,
    )
    return _thinned(built, plan)


def whole(structure: Structure) -> Variant:
    """The network itself as a variant, to be thinned, recovered and saved like a cut one."""
    return build(structure, Plan(structure.depth, "none", None, ()))


def _whole(structure: Structure, plan: Plan, numbers: bool) -> Variant:
    """All levels, over copies of the original's tensors."""
    if plan.keep_levels != structure.depth:
        raise TruncationError(
            f"the plan keeps {plan.keep_levels} levels and the network has {structure.depth}"
        )
    module = rebuild(structure, _owner(structure.model, numbers))
    return Variant(
        module=deep_copy(module) if numbers else module,
        plan=plan,
        **_keys(structure.model, module, ()),
        thinned=(),
        dropped_outputs=(),
        costs=count(structure, module),
        receptive_field=network_receptive_field(structure.program),
        structure=structure,
        origin=None,
    )


def _thinned(built: Variant, plan: Plan) -> Variant:
    """The same network with the channels that the plan keeps."""
    return apply_thinning(built, plan.thinned, plan) if plan.thinned else built


def apply_thinning(built: Variant, recuts: Sequence[Recut], plan: Plan) -> Variant:
    """Take channels out of a copy of a built network.

    Args:
        built: The network.
        recuts: The channels that stay, in each of its tensors that loses some.
        plan: The plan of the result.

    Raises:
        TruncationError: A tensor is not there, or the result does not run.
    """
    module = without_channels(built.module, recuts)
    tensors = module.state_dict().keys() & {r.tensor for r in recuts}
    touched = aliases(module, tensors) | set(built.thinned)
    return replace(
        built,
        module=module,
        plan=plan,
        kept=tuple(key for key in built.kept if key not in touched),
        thinned=tuple(key for key in module.state_dict() if key in touched),
        costs=count(built.structure, module),
    )


def without_channels(module: nn.Module, recuts: Sequence[Recut]) -> nn.Module:
    """A copy of a network of whose tensors only some channels stay; it need not run.

    Raises:
        TruncationError: A tensor is not there.
    """
    copy = deep_copy(module)
    with random_state():
        for path, changes in group(recuts).items():
            recut_layer(copy, path, changes)
    return copy


def _free_name(model: nn.Module) -> str:
    name = "new_bottleneck"
    while hasattr(model, name):
        name += "_"
    return name


def make_bottleneck(
    structure: Structure,
    cut: Cut,
    crossing: Crossing,
    plan: Plan,
    trunk: nn.Module | BottleneckFactory | None = None,
    numbers: bool = True,
) -> Bottleneck:
    """Make the module that takes the place of everything below a cut.

    It has the number format and the device of the network's weights, and leaves the random state
    alone.

    Raises:
        TruncationError: The custom trunk cannot be used.
    """
    model = structure.model
    home = next(t.device for t in model.parameters() if t.is_floating_point() or t.is_complex())
    dimensions = len(crossing.runs[0].trunk)  # of volumes whose slices lie in the batch, 2
    exits = [
        replace(site, channels=channels * (1 + site.is_complex))
        for site, channels in zip(crossing.exits, plan.exit_channels, strict=True)
    ]
    with random_state(), torch.device("cpu" if numbers else "meta"), _memory_for(plan):
        inner, channels = _trunk(plan, crossing, dimensions, trunk)
        made = Bottleneck(dimensions, crossing.entries, exits, inner, channels)
        return made.to(device=home if numbers else "meta", dtype=format_of(model))


@contextmanager
def _memory_for(plan: Plan) -> Iterator[None]:
    """Name what was asked for where torch cannot allocate it.

    Raises:
        TruncationError: It cannot.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as reason:
        width = "" if plan.width is None else f"{keyword('width', plan.width)} and "
        raise TruncationError(
            f"torch cannot make the new bottleneck with {width}exits of "
            f"{list(plan.exit_channels)} channels ({say(reason).splitlines()[0][:200]}); ask for "
            "fewer channels"
        ) from reason


def _trunk(
    plan: Plan,
    crossing: Crossing,
    dimensions: int,
    given: nn.Module | BottleneckFactory | None,
) -> tuple[nn.Module, int]:
    """The trunk of a bottleneck and the number of channels that it returns."""
    entering = sum(entry.channels for entry in crossing.entries)
    if plan.bottleneck == "pool":
        return nn.Identity(), entering
    if plan.width is not None:
        return Light(entering, plan.width, dimensions, plan.reach), plan.width
    if given is None:
        raise TruncationError("this plan has a custom bottleneck; pass the module or its factory")
    finest = crossing.finest
    site = crossing.exits[finest]
    leaving = plan.exit_channels[finest] * (1 + site.is_complex) * site.images
    with named_errors("the bottleneck factory, called with (channels, channels, dimensions),"):
        made = (
            copy.deepcopy(given)
            if isinstance(given, nn.Module)
            else given(entering, leaving, dimensions)
        )
    if not isinstance(made, nn.Module):
        raise TruncationError(
            f"the bottleneck factory returned {kind(made)}, not a torch.nn.Module"
        )
    return made, output_channels(made, entering, dimensions)


def _owner(model: nn.Module, numbers: bool) -> nn.Module:
    """A copy of the model's modules over its own tensors, or over tensors without numbers."""
    if numbers:
        return throwaway_copy(model)
    tensors = [*model.parameters(), *model.buffers()]
    return throwaway_copy(model, {id(t): _hollow(t) for t in tensors})


def _hollow(tensor: Tensor) -> Tensor:
    empty = torch.empty_like(tensor, device="meta")
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(empty, requires_grad=tensor.requires_grad)
    return empty


def _constants(structure: Structure, graph: fx.Graph, numbers: bool) -> dict[str, Tensor]:
    """Tensors that the graph reads by name and no module owns."""
    used = {str(n.target) for n in graph.nodes if n.op == "get_attr"}
    return {
        name: tensor if numbers else tensor.to("meta")
        for name, tensor in structure.constants.items()
        if name in used
    }


def _remove_unused(owner: nn.Module, graph: fx.Graph) -> None:
    """Remove children, parameters and buffers that the graph does not use."""
    calls = {str(n.target) for n in graph.nodes if n.op == "call_module"}
    reads = {str(n.target) for n in graph.nodes if n.op == "get_attr"}
    whole = {id(m) for name in calls for m in owner.get_submodule(name).modules()}

    def visit(module: nn.Module, prefix: str) -> None:
        if id(module) in whole:
            return
        for name, child in list(children(module).items()):
            path = prefix + name
            if not any(use == path or use.startswith(path + ".") for use in calls | reads):
                del children(module)[name]
            elif child is not None:
                visit(child, path + ".")
                alone = hasattr(child, "__deepcopy__") or type(child).train is not nn.Module.train
                if alone and id(child) not in whole:
                    children(module)[name] = _holder(child)
        for tensors in (parameters(module), buffers(module)):
            for name in list(tensors):
                if prefix + name not in reads:  # the name stays, or repr() of the module fails
                    cast(dict[str, Any], tensors)[name] = None

    visit(owner, "")


def _let_go(owner: nn.Module) -> None:
    """Take from handles of hooks what they keep of a module that is gone: torch copies none such.

    A module that is kept may hold the handle of a hook that it had set on another one.
    """
    own = {id(held) for m in owner.modules() for held in vars(m).values() if held is not None}
    for handle in reached(owner):
        if isinstance(handle, RemovableHandle):
            extra: Any = handle.extra_dict_ref or ()
            handle.extra_dict_ref = tuple(ref for ref in extra if id(ref()) in own)


def _holder(module: nn.Module) -> nn.Module:
    """A module that only holds what another one does.

    One that torch.fx made copies itself by running through its own graph, and one with a ``train``
    of its own sets its parts by name: both miss what was removed. In a variant nobody calls them.
    """
    holder = nn.Module().train(module.training)
    for name, child in children(module).items():
        holder.add_module(name, child)
    for name, parameter in parameters(module).items():
        holder.register_parameter(name, parameter)
    for name, buffer in buffers(module).items():
        holder.register_buffer(name, buffer, is_persistent(module, name))
    return holder


def _needed_nowhere(structure: Structure, graph: fx.Graph) -> set[str]:
    """Dead parameters that nothing which stays computes with.

    A module that is called as a whole may compute what no output depends on, and needs its weights.
    """
    names = structure.program.graph_signature.inputs_to_parameters
    inputs = structure.program.graph.find_nodes(op="placeholder")
    used = {names[node.name] for node in inputs if node.name in names and node.users}
    called = tuple(f"{node.target}." for node in graph.find_nodes(op="call_module"))
    dead = structure.dead_parameters
    return {name for name in dead if not (name in used and name.startswith(called))}


def _drop(owner: nn.Module, names: set[str]) -> None:
    """Take parameters that no forward reaches out of the modules that stay."""
    modules = dict(owner.named_modules(remove_duplicate=False))
    for name in names:
        path, _, leaf = name.rpartition(".")
        if path in modules and leaf in parameters(modules[path]):
            parameters(modules[path])[leaf] = None


def _keys(
    model: nn.Module, module: nn.Module, recuts: Sequence[Recut]
) -> dict[str, tuple[str, ...]]:
    """Where each tensor of the state dict comes from, and what is gone."""
    before, after = model.state_dict().keys(), list(module.state_dict())
    changed = aliases(model, {r.tensor for r in recuts})
    recut = tuple(k for k in after if k in before and k in changed)
    return {
        "kept": tuple(k for k in after if k in before and k not in changed),
        "recut": recut,
        "reinitialized": (*recut, *(k for k in after if k not in before)),
        "dropped": tuple(k for k in before if k not in set(after)),
    }


# --- what it costs and sees -------------------------------------------------------------------


def count(structure: Structure, module: nn.Module, *, recut: bool = False) -> Costs:
    """Count a built network on the original's inputs.

    Raises:
        TruncationError: It does not run.
    """
    try:
        return count_costs(module, structure.inputs)
    except WeightscopeError as reason:
        cause = say(reason.__cause__ or reason).splitlines()[0]
        hint = (
            "; a layer insists on the number of channels that it had: leave exit_channels at its"
            " default"
            if recut
            else ""
        )
        raise TruncationError(f"the truncated network does not run: {cause}{hint}") from reason


def _receptive_field(
    structure: Structure,
    cut: Cut,
    crossing: Crossing,
    bottleneck: Bottleneck,
    dropped_outputs: Sequence[int],
) -> Pixels:
    """The receptive field of a variant, by arithmetic over the original's graph.

    Where an input has more dimensions than its images (frames of a film), its slices lie in the
    batch where it is cut, or volumes leave as maps of two sides, the whole input counts.
    """
    fine = {node.name: str(node.meta.get("fine")) for node in structure.graph.nodes}
    views = {node.name: seen for node, seen in propagate(structure.program).items()}
    entries = [views[fine[site.node]] for site in cut.entries]
    dimensions = structure.inputs.dimensions
    views_of_all = all(len(seen) == dimensions for seen in (*entries, crossing.runs[0].trunk))
    if not views_of_all or any(site.lacks is not None for site in cut.exits):
        return (None,) * dimensions
    known: dict[str, Views] = {}
    for (entering, leaving), sizes in zip(cut.runs, crossing.runs, strict=True):
        entry_sizes, (size,), exit_sizes = (
            [[hint(s) for s in one] for one in part]
            for part in (sizes.entries, [sizes.trunk], sizes.exits)
        )
        seen = [views[fine[site.node]] for site in entering]
        carried = bottleneck.views(seen, entry_sizes, size, exit_sizes)
        known |= {fine[s.node]: v for s, v in zip(leaving, carried, strict=True)}
    return network_receptive_field(structure.program, known, without=dropped_outputs)


# --- the width of the light bottleneck --------------------------------------------------------


def draft(structure: Structure, plan: Plan, costs: Costs) -> Variant:
    """Build a plan without numbers, and decide what it leaves open.

    An open width of the light bottleneck becomes the widest within its budget: half of the
    parameters and of the MACs that it replaces. Pooling hands on all channels that enter, or, where
    what stays cannot take them, as many as before, by a 1x1 convolution for each exit.

    Args:
        structure: The original.
        plan: What to build; a light plan without a width gets one.
        costs: Costs of the original.

    Raises:
        TruncationError: The plan cannot be built, or even one channel is above the budget.
    """
    if plan.bottleneck == "pool":
        return _draft_of_pooling(structure, plan)
    if plan.bottleneck != "light" or plan.width is not None:
        return build(structure, plan, numbers=False)
    cut = cut_of(structure, plan)
    crossing = read_crossing(structure, cut)
    width = plan.exit_channels[crossing.finest]
    widest = build(structure, replace(plan, width=width), numbers=False)
    parameters, own = bottleneck_costs(structure, cut, crossing, widest.plan)
    replaced = costs.parameters - (widest.costs.parameters - parameters)
    macs = costs.macs - (widest.costs.macs - own)
    while parameters > LIGHT_BUDGET * replaced or own > LIGHT_BUDGET * macs:
        width = min(width - 1, width * 3 // 4)
        if width < 1:
            shared = "" if replaced > 0 else " (levels that stay use the weights below, too)"
            raise TruncationError(
                f"saves too little: the narrowest bottleneck with weights has {parameters:,} "
                f"parameters and {own:,} MACs, more than {LIGHT_BUDGET:.0%} of "
                f"the {max(replaced, 0):,} or the {macs:,} that it replaces{shared}; "
                f"{keyword('bottleneck', repr('pool'))} or {keyword('width')} can still be built"
            )
        parameters, own = bottleneck_costs(structure, cut, crossing, replace(plan, width=width))
    if width == widest.plan.width:
        return widest
    return build(structure, replace(plan, width=width), numbers=False)


def _draft_of_pooling(structure: Structure, plan: Plan) -> Variant:
    try:
        return build(structure, plan, numbers=False)
    except TruncationError:
        before = tuple(s.channels for s in cut_of(structure, plan).runs[0][1])
        if before == plan.exit_channels:
            raise
        return build(structure, replace(plan, exit_channels=before), numbers=False)


def bottleneck_costs(
    structure: Structure, cut: Cut, crossing: Crossing, plan: Plan
) -> tuple[int, int]:
    """Parameters and MACs of the new bottleneck alone, of all its runs on the example inputs."""
    nodes = {node.name: node for node in structure.graph.nodes}
    at = _example_sizes(structure)
    module = make_bottleneck(structure, cut, crossing, plan, numbers=False)
    macs = 0
    for (entering, _), sizes in zip(cut.runs, crossing.runs, strict=True):
        values = [cast(Tensor, nodes[site.node].meta["val"]) for site in entering]
        dtype = next((p.dtype for p in module.parameters()), values[0].dtype.to_real())
        tensors = [
            torch.empty(at.shape(v), dtype=v.dtype if v.is_complex() else dtype, device="meta")
            for v in values
        ]
        entry_sizes, (size,), exit_sizes = (
            [[at.size(s) for s in part] for part in parts]
            for parts in (sizes.entries, [sizes.trunk], sizes.exits)
        )
        macs += count_costs(module, (tensors, entry_sizes, size, exit_sizes)).macs
    return sum(weight.numel() for weight in module.parameters()), macs


def _example_sizes(structure: Structure) -> Probe:
    """Sizes at the example inputs, whose batch need not be the one that was traced."""
    fine = {node.name: node for node in structure.program.graph.nodes}
    names = structure.program.graph_signature.user_inputs
    leaves = pytree.tree_leaves((structure.inputs.args, dict(structure.inputs.kwargs)))
    symbols: dict[str, int] = {}
    for name, leaf in zip(names, leaves, strict=True):
        traced = fine[str(name)].meta.get("val") if isinstance(leaf, Tensor) else None
        if isinstance(traced, Tensor):
            symbols |= symbols_at(zip(traced.shape, leaf.shape, strict=True))
    return Probe(symbols)
