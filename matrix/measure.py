"""Measure one network: read it, compare it with the truth, cut it everywhere, run the results."""

from __future__ import annotations

import copy
import inspect
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from matrix.compare import disagreements
from matrix.exercise import graph_failures, same, variant_failures
from matrix.networks import Network
from matrix.records import Depth, Row
from matrix.truth import Truth
from studies.second_count import fvcore_macs
from weightscope.copies import deep_copy
from weightscope.cost import Costs, count_costs
from weightscope.errors import WeightscopeError
from weightscope.graph import ExampleInputs, Structure, read_structure, rebuild
from weightscope.statistics import measure_model
from weightscope.truncation import Proposal, propose
from weightscope.truncation.building import draft
from weightscope.truncation.plan import find_cut, make_plan
from weightscope.utilization import assess

NOTHING = float("nan")


def measure(network: Network, truth: Truth) -> Row:
    """Do everything the matrix asks for with one network.

    Args:
        network: How to build and call it.
        truth: What is right about it.
    """
    return _row(network, truth, _depths, _opinions)


def read_only(network: Network, truth: Truth) -> Row:
    """Read one network, run its graph, and build every depth without numbers.

    Args:
        network: How to build and call it.
        truth: What is right about it.
    """
    return _row(network, truth, _drafts, lambda *_: (0, 0, 0))


def _row(
    network: Network,
    truth: Truth,
    cut: Callable[[Network, Structure, Costs], tuple[Depth, ...]],
    count: Callable[[nn.Module, Network], tuple[int, int, int]],
) -> Row:
    """Read a network, compare it with the truth, and cut it.

    Args:
        network: How to build and call it.
        truth: What is right about it.
        cut: What is done with every depth.
        count: Counts multiply-accumulates; see ``Row.macs``.
    """
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # of third-party code; weightscope's own are errors in tests
    torch.manual_seed(0)
    model = network.build()
    before, hooks = copy.deepcopy(model.state_dict()), _hooks(model)
    wall, processor = time.perf_counter(), time.process_time()
    try:
        example = _example(network, model) if network.given else None
        structure = read_structure(model, example, layout=network.layout)
        costs = count_costs(model, structure.inputs)
    except WeightscopeError as error:
        return Row(network.name, "refused", f"{type(error).__name__}: {error}")
    seconds, wall_seconds = time.process_time() - processor, time.perf_counter() - wall
    depths = cut(network, structure, costs)
    differs = _graph_failures(structure, network)
    return Row(
        name=network.name,
        outcome="captured",
        levels=structure.depth,
        disagreements=disagreements(structure, truth),
        graph_failures=differs,
        untouched=same(before, model.state_dict()) and hooks == _hooks(model) and model.training,
        depths=depths,
        seconds=seconds,
        wall_seconds=wall_seconds,
        parameters=(costs.parameters, _dead(structure)),
        macs=count(model, network),
    )


def _example(network: Network, model: nn.Module) -> Any:
    """What the reader is given: positional arguments, or all by their names."""
    args, kwargs = network.inputs()
    names = inspect.signature(model.forward).parameters
    return {**dict(zip(names, args, strict=False)), **kwargs} if kwargs else args


def _drafts(_: Network, structure: Structure, costs: Costs) -> tuple[Depth, ...]:
    """Every depth, built on tensors without numbers and counted; or refused, with the reason."""
    reasons = {refusal.keep_levels: refusal.reason for refusal in structure.refusals}
    found = []
    for keep in range(1, structure.depth):
        if keep in reasons:
            found.append(Depth(keep, reasons[keep], (), NOTHING, NOTHING, NOTHING))
            continue
        start, failed = time.process_time(), ""
        parameters = macs = NOTHING
        try:
            counted = draft(structure, make_plan(structure, find_cut(structure, keep)), costs).costs
            parameters = counted.parameters / costs.parameters
            macs = counted.macs / costs.macs
        except WeightscopeError as error:
            failed = "" if "saves too little" in str(error) else str(error)
        except Exception as error:  # noqa: BLE001 - a failed build is a result
            failed = f"{type(error).__name__}: {error}"
        seconds = time.process_time() - start
        found.append(Depth(keep, "", (failed,) if failed else (), parameters, macs, seconds))
    return tuple(found)


def _graph_failures(structure: Structure, network: Network) -> tuple[str, ...]:
    """Compare the rebuilt graph with the network, both over copies."""
    model = deep_copy(structure.model)
    try:
        graph = rebuild(replace(structure, model=copy.deepcopy(model)))
    except WeightscopeError as error:
        return (f"rebuild: {type(error).__name__}: {error}",)
    return graph_failures(model, graph, network, modes=(False, True)[: 1 + structure.modes_agree])


def _hooks(model: nn.Module) -> int:
    """Number of forward hooks; some libraries put their own on a new model."""
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def _dead(structure: Structure) -> int:
    dead = set(structure.dead_parameters)
    return sum(p.numel() for name, p in structure.model.named_parameters() if name in dead)


def _depths(network: Network, structure: Structure, costs: Costs) -> tuple[Depth, ...]:
    """Build every depth that can be cut, also where it would save too little to be proposed."""
    model = structure.model
    if structure.sizes == "symbolic" and not network.given:
        # what is built runs at a size of the matrix: the guessed one is up to 16 times as large
        args, kwargs = network.inputs(1)
        example = replace(structure.inputs, args=args, kwargs=kwargs, guessed=False)
        structure = replace(structure, inputs=example)
        costs = count_costs(model, structure.inputs)
    proposals = propose(structure, assess(structure, measure_model(model)), costs)
    can_be_cut = {cut.keep_levels for cut in structure.cuts}
    first = next((p.keep_levels for p in proposals if p.keep_levels in can_be_cut), 0)
    return tuple(
        _depth(network, proposal, costs, proposal.keep_levels == first)
        if proposal.keep_levels in can_be_cut
        else _not_built(proposal, refusal=proposal.refusal or "")
        for proposal in sorted(proposals, key=lambda proposal: proposal.keep_levels)
    )


def _depth(network: Network, proposal: Proposal, costs: Costs, thorough: bool) -> Depth:
    start = time.process_time()
    try:
        # where the light bottleneck would save too little, the one without weights must do
        variant = proposal.build("pool" if proposal.refusal else "light")
    except Exception as error:  # noqa: BLE001 - a failed build is a result
        text = f"build: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
        return _not_built(proposal, failures=(text,))
    seconds = time.process_time() - start
    return Depth(
        keep_levels=proposal.keep_levels,
        refusal="",
        failures=variant_failures(variant, network, thorough),
        parameters=variant.costs.parameters / costs.parameters,
        macs=variant.costs.macs / costs.macs,
        seconds=seconds,
    )


def _not_built(proposal: Proposal, refusal: str = "", failures: tuple[str, ...] = ()) -> Depth:
    return Depth(proposal.keep_levels, refusal, failures, NOTHING, NOTHING, NOTHING)


def _opinions(model: nn.Module, network: Network) -> tuple[int, int, int]:
    """Multiply-accumulates of the network at its usual size by three counters."""
    args, kwargs = network.inputs()
    ours = count_costs(model, ExampleInputs(args, kwargs, len(network.size), guessed=False)).macs
    twin = deep_copy(model).eval()
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:  # it skips the CPU's fused kernel
        twin(*args, **kwargs)
    try:
        fvcore = fvcore_macs(model, *args, *kwargs.values())
    except Exception:  # noqa: BLE001 - it traces with torch.jit, which not every network bears
        fvcore = 0
    return ours, counter.get_total_flops() // 2, fvcore
