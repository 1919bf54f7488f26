"""Prove that a variant is what it says it is, by running it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from weightscope.adapters import pytree
from weightscope.cost import count_costs, split_inputs
from weightscope.graph import rebuild, runnable
from weightscope.graph.capture import throwaway_copy
from weightscope.graph.structure import Structure
from weightscope.truncation.plans import Plan
from weightscope.truncation.surgery import aliases, cut_graph
from weightscope.truncation.variants import Variant


@dataclass(frozen=True)
class Check:
    """One thing that was tried on a variant.

    Attributes:
        name: What was tried.
        passed: Whether it holds.
        detail: The reason where it does not hold.
    """

    name: str
    passed: bool
    detail: str


@dataclass(frozen=True)
class Verification:
    """Everything that was tried on a variant.

    Attributes:
        checks: One for each property, in the order in which they were tried.
    """

    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether every check holds."""
        return all(check.passed for check in self.checks)

    @property
    def failures(self) -> tuple[Check, ...]:
        """The checks that do not hold."""
        return tuple(check for check in self.checks if not check.passed)


def verify(variant: Variant, *, sizes: Sequence[Any] = (), export: bool = True) -> Verification:
    """Try a freshly built variant.

    - ``surgery``: the cut graph, fed with what the original's own deep part would have returned,
      gives the original's outputs bit by bit.
    - ``kept``: kept tensors equal the original's, re-cut ones in the slices that they keep.
    - ``costs``: what was counted when it was built is counted again on a copy, and the parameters
      are those of the module.
    - ``runs``: forward and backward in training and in evaluation mode, on the example inputs, at
      twice the batch, and on ``sizes``.
    - ``alive``: every parameter that the original uses gets a gradient in training mode.
    - ``copies``: a deep copy gives the same output.
    - ``exports``: ``torch.export`` gives the same output.

    Args:
        variant: From ``Proposal.build``.
        sizes: More inputs: tensors, tuples of arguments or dicts of keyword arguments.
        export: Whether to try ``torch.export``, the slowest check.

    Returns:
        What holds and what does not; nothing is raised.
    """
    tries: dict[str, Callable[[], str]] = {
        "surgery": lambda: _surgery(variant.structure, variant.plan),
        "kept": lambda: _kept(variant),
        "costs": lambda: _costs(variant),
        "runs": lambda: _runs(variant, sizes),
        "alive": lambda: _alive(variant),
        "copies": lambda: _copies(variant),
    }
    if export:
        tries["exports"] = lambda: _exports(variant)
    return Verification(tuple(_try(name, attempt) for name, attempt in tries.items()))


def _try(name: str, attempt: Callable[[], str]) -> Check:
    try:
        with torch.random.fork_rng(devices=[]):
            detail = attempt()
    except Exception as reason:  # noqa: BLE001 - any failure of the network is the finding
        detail = f"{type(reason).__name__}: {reason}"
    return Check(name, passed=not detail, detail=detail)


class _Replay(nn.Module):
    """Returns given tensors in place of a bottleneck."""

    def __init__(self, tensors: list[Tensor]) -> None:
        super().__init__()
        self.tensors = tensors

    def forward(self, *args: Any) -> list[Tensor]:
        """Return the tensors."""
        return self.tensors


class _Recorder(fx.Interpreter):
    """Runs a graph and keeps the results of some nodes."""

    def __init__(self, module: nn.Module, graph: fx.Graph, names: Sequence[str]) -> None:
        super().__init__(module, garbage_collect_values=False, graph=graph)
        self.names = names
        self.kept: dict[str, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Run one node."""
        result = super().run_node(n)
        if n.name in self.names:
            self.kept[n.name] = result
        return result


def _surgery(structure: Structure, plan: Plan) -> str:
    names = [site.node for site in plan.cut.exits]
    original = copy.deepcopy(rebuild(structure, throwaway_copy(structure.model))).eval()
    recorder = _Recorder(original, structure.graph, names)
    args = _in_order(structure)
    with torch.no_grad():
        expected = recorder.run(*args)
        graph, dropped = cut_graph(structure, plan.cut, plan.crossing, "replay")
        owner = copy.deepcopy(throwaway_copy(structure.model)).eval()
        owner.add_module("replay", _Replay([recorder.kept[name] for name in names]))
        cut = runnable(owner, graph, structure.constants, structure.output_spec)
        found = pytree.tree_leaves(
            cut(*structure.inputs.args, **structure.inputs.kwargs), is_leaf=lambda x: x is None
        )
    for position, (a, b) in enumerate(zip(expected, found, strict=True)):
        if position not in dropped and isinstance(a, Tensor) and not torch.equal(a, b):
            return f"output {position} differs by {float((a - b).abs().max()):.3g}"
    return ""


def _in_order(structure: Structure) -> list[Any]:
    """The arguments in the order of the graph's placeholders."""
    names = [node.target for node in structure.graph.nodes if node.op == "placeholder"]
    given = list(structure.inputs.args)
    rest = names[len(given) :]
    return [*given, *(structure.inputs.kwargs[str(name)] for name in rest)]


def _kept(variant: Variant) -> str:
    before, after = variant.structure.model.state_dict(), variant.module.state_dict()
    for name in variant.kept:
        if not torch.equal(before[name], after[name]):
            return f"{name} is listed as kept and differs"
    for tensor in {recut.tensor for recut in variant.plan.recuts}:
        parts = [recut for recut in variant.plan.recuts if recut.tensor == tensor]
        names = aliases(variant.structure.model, {tensor})
        new = next(after[name] for name in variant.recut if name in names)
        old = before[tensor]
        for part in parts:
            pairs = [(i, s) for i, s in enumerate(part.source) if s >= 0]
            kept_new, kept_old = torch.tensor(pairs, device=old.device).long().reshape(-1, 2).T
            new = new.index_select(part.dimension, kept_new)
            old = old.index_select(part.dimension, kept_old)
        if not torch.equal(new, old):
            return f"the kept slices of {tensor} differ"
    unlisted = set(after) - set(variant.kept) - set(variant.reinitialized)
    return f"{sorted(unlisted)[0]} is listed nowhere" if unlisted else ""


def _costs(variant: Variant) -> str:
    again = count_costs(copy.deepcopy(variant.module), variant.structure.inputs)
    real = sum(p.numel() for p in variant.module.parameters())
    if (again.parameters, again.macs) != (variant.costs.parameters, variant.costs.macs):
        return f"counted {again.macs} MACs, predicted {variant.costs.macs}"
    if real != again.parameters:
        return f"holds {real} parameters, predicted {again.parameters}"
    return ""


def _runs(variant: Variant, sizes: Sequence[Any]) -> str:
    inputs = variant.structure.inputs
    calls = [
        (tuple(inputs.args), dict(inputs.kwargs)),
        _twice(variant.structure),
        *map(split_inputs, sizes),
    ]
    for training in (True, False):
        module = copy.deepcopy(variant.module).train(training)
        for args, kwargs in calls:
            shapes = [tuple(t.shape) for t in _tensors((args, kwargs))]
            try:
                loss = _loss(module(*args, **kwargs))
                module.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
            except Exception as reason:  # noqa: BLE001 - the finding is which shape failed
                mode = "training" if training else "evaluation"
                return f"{mode} mode, inputs {shapes}: {type(reason).__name__}: {reason}"
    return ""


def _twice(structure: Structure) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The example's arguments with every tensor of its batch repeated once."""
    given = (tuple(structure.inputs.args), dict(structure.inputs.kwargs))
    batch = max(_tensors(given), key=lambda t: t.dim()).shape[:1]

    def double(tensor: Tensor) -> Tensor:
        return torch.cat([tensor, tensor]) if tensor.dim() and tensor.shape[:1] == batch else tensor

    doubled: tuple[tuple[Any, ...], dict[str, Any]] = pytree.tree_map_only(Tensor, double, given)
    return doubled


def _tensors(tree: Any) -> list[Tensor]:
    return [t for t in pytree.tree_leaves(tree) if isinstance(t, Tensor)]


def _loss(outputs: Any) -> Tensor:
    floats = [t for t in _tensors(outputs) if t.is_floating_point()]
    return torch.stack([(t.float() ** 2).mean() for t in floats]).sum()


def _alive(variant: Variant) -> str:
    module = copy.deepcopy(variant.module).train().requires_grad_(True)
    args, kwargs = _twice(variant.structure)
    _loss(module(*args, **kwargs)).backward()  # type: ignore[no-untyped-call]
    dead = [n for n, p in module.named_parameters() if p.grad is None]
    return f"no forward reaches {', '.join(dead[:3])} ({len(dead)} in all)" if dead else ""


def _same(a: Any, b: Any) -> str:
    for x, y in zip(_tensors(a), _tensors(b), strict=True):
        if not torch.allclose(x, y, rtol=1e-4, atol=1e-5):
            return f"outputs differ by {float((x - y).abs().max()):.3g}"
    return ""


def _copies(variant: Variant) -> str:
    inputs = variant.structure.inputs
    one = copy.deepcopy(variant.module).eval()
    two = copy.deepcopy(one)
    with torch.no_grad():
        return _same(one(*inputs.args, **inputs.kwargs), two(*inputs.args, **inputs.kwargs))


def _exports(variant: Variant) -> str:
    inputs: Any = variant.structure.inputs
    module = copy.deepcopy(variant.module).eval()
    kwargs: Mapping[str, Any] = dict(inputs.kwargs)
    program = torch.export.export(module, tuple(inputs.args), dict(kwargs), strict=False)
    with torch.no_grad():
        return _same(module(*inputs.args, **kwargs), program.module()(*inputs.args, **kwargs))
