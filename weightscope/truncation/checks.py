"""Prove that a variant is what it says it is, by running it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from weightscope.adapters import pytree
from weightscope.adapters.modes import alone
from weightscope.adapters.regions import is_without_autograd, without_autograd
from weightscope.adapters.symbols import free_symbols
from weightscope.adapters.tracing import EXPORTING
from weightscope.calls import (
    called,
    fresh,
    leaves_by_place,
    random_state,
    say,
    undisturbed,
    without_gradient,
)
from weightscope.copies import deep_copy
from weightscope.cost import count_costs, split_inputs
from weightscope.graph import runnable
from weightscope.graph.answers import differs, in_order
from weightscope.graph.fixed import fixed_in, noted_tensors
from weightscope.graph.running import GraphRun, SameDraws
from weightscope.graph.structure import ExampleInputs, Structure
from weightscope.truncation.bottleneck import Bottleneck, BottleneckFactory
from weightscope.truncation.channels import Recut, aliases, plan_recuts
from weightscope.truncation.cutting import cut_graph, read_crossing
from weightscope.truncation.plan import cut_of, weights_digest
from weightscope.truncation.saving import load, save
from weightscope.truncation.variant import Variant

Call = tuple[tuple[Any, ...], dict[str, Any]]


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


@alone()
def verify(
    variant: Variant,
    *,
    sizes: Sequence[Any] = (),
    export: bool = True,
    factory: Callable[[], nn.Module] | None = None,
    bottleneck: nn.Module | BottleneckFactory | None = None,
) -> Verification:
    """Try a variant, against the original and its plan, as it was built.

    To be called before ``recover``: kept tensors that have learned are no longer the original's,
    and ``kept`` says so. The other checks hold of a variant that has learned as well.

    Where outputs are compared, every operator that draws at random (dropout that goes on in
    evaluation mode) does so from the same seed.

    - ``read``: the graph that was read gives the outputs of the original's own forward, up to
      rounding, on the example inputs and on ``sizes``. A forward that answers the same call
      differently even then is left out.
    - ``surgery``: the cut graph, fed with what the original's own deep part would have returned,
      gives the original's outputs bit by bit, on the same inputs.
    - ``kept``: kept tensors equal the original's, re-cut ones in the slices that they keep.
    - ``listed``: every tensor of the original and of the variant is in one of the variant's lists.
    - ``costs``: what was counted when it was built is counted again on a copy, and the parameters
      are those of the module.
    - ``runs``: forward and backward in training and in evaluation mode, on the example inputs, at
      twice the batch (unless the original was read at one number of images only), and on ``sizes``;
      every output has the original's shape. What the original itself refuses (batch normalisation
      of one image at 1x1, in training mode) is left out.
    - ``alive``: in training mode every parameter that the original uses with autograd gets a
      gradient, but for those that ``Variant.untrained`` names.
    - ``copies``: a deep copy gives the same output.
    - ``loads``: saved, loaded and run, it gives the same output.
    - ``exports``: ``torch.export`` gives the same output, where that of the original runs.

    Args:
        variant: From ``Proposal.build``, ``Variant.thin`` or ``load``.
        sizes: More inputs: tensors, tuples of arguments or dicts of keyword arguments.
        export: Whether to try ``torch.export``, the slowest check.
        factory: Makes the original again; with it, saving and loading is tried.
        bottleneck: What ``Proposal.build`` was given, for loading.

    Returns:
        What holds and what does not; nothing is raised.
    """
    tries: dict[str, Callable[[], str]] = {
        "read": lambda: _everywhere(variant, sizes, differs),
        "surgery": lambda: _everywhere(variant, sizes, partial(_surgery, variant)),
        "kept": lambda: _kept(variant),
        "listed": lambda: _listed(variant),
        "costs": lambda: _costs(variant),
        "runs": lambda: _runs(variant, sizes),
        "alive": lambda: _alive(variant),
        "copies": lambda: _same_output(variant, deep_copy(variant.module).eval()),
    }
    if factory is not None:
        tries["loads"] = lambda: _same_output(variant, _loaded(variant, factory, bottleneck))
    if export:
        tries["exports"] = lambda: _exports(variant)
    return Verification(tuple(_try(name, attempt) for name, attempt in tries.items()))


def _try(name: str, attempt: Callable[[], str]) -> Check:
    try:
        with random_state():
            detail = attempt()
    except Exception as reason:  # noqa: BLE001 - any failure of the network is the finding
        detail = f"{type(reason).__name__}: {reason}"
    return Check(name, passed=not detail, detail=detail)


def _everywhere(variant: Variant, sizes: Sequence[Any], check: Callable[[Structure], str]) -> str:
    """What a check finds on the example inputs, then on the ``sizes`` that both networks take."""
    structure = variant.structure
    if wrong := check(structure):
        return wrong
    held = fixed_in(structure.graph)
    for args, kwargs in map(split_inputs, sizes):
        try:
            held.in_order(args, kwargs)
            with torch.no_grad():
                called(deep_copy(structure.model).eval(), args, kwargs)
        except Exception:  # noqa: BLE001 - nothing can be held to what has no answer
            continue
        given = {
            name: held.defaults[name] for name in held.names[len(args) :] if name not in kwargs
        }
        inputs = replace(structure.inputs, args=args, kwargs={**kwargs, **given})
        if wrong := check(replace(structure, inputs=inputs)):
            shapes = [tuple(t.shape) for t in pytree.tree_tensors((args, kwargs))]
            return f"inputs {shapes}: {wrong}"
    return ""


# --- surgery ----------------------------------------------------------------------------------


class _Replay(nn.Module):
    """Returns given tensors in place of a bottleneck, in each run its own."""

    def __init__(self, runs: list[list[Tensor]]) -> None:
        super().__init__()
        self.runs = runs
        self.ran = 0

    def forward(self, *args: Any) -> list[Tensor]:
        """Return the tensors of the next run."""
        self.ran += 1
        return self.runs[self.ran - 1]


def _surgery(variant: Variant, structure: Structure) -> str:
    if variant.plan.bottleneck == "none":
        return ""  # nothing is cut
    cut = cut_of(structure, variant.plan)
    left: dict[str, Tensor] = {}

    def keep(name: str, value: Tensor) -> Tensor:
        left[name] = value
        return value

    names = [site.node for site in cut.exits]
    recorder = GraphRun(structure, {name: partial(keep, name) for name in names})
    owner = deep_copy(structure.model).eval()  # before a run goes on with what it remembers
    with torch.no_grad(), undisturbed(structure.model), SameDraws():
        expected = recorder.run(*fresh(*in_order(structure)))
        graph, dropped = cut_graph(structure, cut, read_crossing(structure, cut), "replay")
        owner.add_module("replay", _Replay([[left[s.node] for s in run] for _, run in cut.runs]))
        replayed = runnable(owner, graph, structure.constants, structure.output_spec)
        found = _leaves(called(replayed, structure.inputs.args, structure.inputs.kwargs))
    for position, a, b in _paired(expected, found, dropped):
        if isinstance(a, Tensor) and not _are_equal(a, b):
            return f"output {position} differs by {float((a - b).abs().max()):.3g}"
    return ""


# --- tensors and costs ------------------------------------------------------------------------


_LEARNED = (
    "verify compares with the network as it was built: after recover, or another training, this is "
    "as it should be, and the other checks count"
)


def _kept(variant: Variant) -> str:
    if variant.origin and variant.origin != weights_digest(variant.structure.model):
        return (
            "the variant was loaded, and the network that model_factory made has other weights "
            "than the original, so there is nothing to compare with: load it with a factory that "
            "returns the trained network, load(path, lambda: model)"
        )
    before, after = variant.structure.model.state_dict(), variant.module.state_dict()
    for name in variant.kept:
        if not torch.equal(before[name], after[name]):
            return f"{name} is listed as kept and differs from the original's; {_LEARNED}"
    for tensor, parts in _recuts(variant).items():
        names = aliases(variant.structure.model, {tensor})
        new = next(after[name] for name in after if name in names)
        old = before[tensor]
        for part in parts:
            pairs = [(i, s) for i, s in enumerate(part.source) if s >= 0]
            kept_new, kept_old = torch.tensor(pairs, device=old.device).long().reshape(-1, 2).T
            new = new.index_select(part.dimension, kept_new)
            old = old.index_select(part.dimension, kept_old)
        if not torch.equal(new, old):
            return f"the kept slices of {tensor} differ from the original's; {_LEARNED}"
    return ""


def _recuts(variant: Variant) -> dict[str, list[Recut]]:
    """What became of the original's tensors that were re-cut or thinned, by tensor."""
    plan, before = variant.plan, variant.structure.model.state_dict()
    found: dict[tuple[str, int], Recut] = {}
    if plan.bottleneck != "none":
        cut = cut_of(variant.structure, plan)
        recuts = plan_recuts(variant.structure, cut, plan.exit_channels)
        found = {(r.tensor, r.dimension): r for r in recuts}
    for r in plan.thinned:
        earlier = found.get((r.tensor, r.dimension))
        if r.tensor in before:
            source = r.source if earlier is None else tuple(earlier.source[i] for i in r.source)
            found[r.tensor, r.dimension] = Recut(r.tensor, r.dimension, source)
    grouped: dict[str, list[Recut]] = {}
    for recut in found.values():
        grouped.setdefault(recut.tensor, []).append(recut)
    return grouped


def _listed(variant: Variant) -> str:
    before, after = set(variant.structure.model.state_dict()), set(variant.module.state_dict())
    kept = {*variant.kept, *variant.thinned}
    new, dropped = set(variant.reinitialized), set(variant.dropped)
    wrong = {
        "of the original is in no list": before - kept - new - dropped,
        "of the variant is in no list": after - kept - new,
        "is listed and not there": (kept | new) - after,
        "is listed as dropped and still there": after & dropped,
    }
    return "; ".join(f"{sorted(keys)[0]} {what}" for what, keys in wrong.items() if keys)


def _costs(variant: Variant) -> str:
    again = count_costs(deep_copy(variant.module), variant.structure.inputs)
    real = sum(p.numel() for p in variant.module.parameters())
    if real != again.parameters:
        return f"holds {real} parameters, counted {again.parameters}"
    for name in ("parameters", "macs", "activation_bytes"):
        if getattr(again, name) != getattr(variant.costs, name):
            return f"{name}: {getattr(again, name)}, predicted {getattr(variant.costs, name)}"
    return ""


# --- running ----------------------------------------------------------------------------------


def _runs(variant: Variant, sizes: Sequence[Any]) -> str:
    inputs = variant.structure.inputs
    calls = [
        (tuple(inputs.args), dict(inputs.kwargs)),
        *([] if fixed_in(variant.structure.graph).images else [_twice(variant.structure)]),
        *map(split_inputs, sizes),
    ]
    alike = variant.structure.modes_agree  # else a variant does in both modes what eval mode does
    for training in (True, False):
        module = deep_copy(variant.module).train(training)
        original = deep_copy(variant.structure.model).train(training and alike)
        mode, refused = "training" if training else "evaluation", 0
        for args, kwargs in calls:
            shapes = [tuple(t.shape) for t in pytree.tree_tensors((args, kwargs))]
            try:
                with torch.no_grad():
                    expected = _leaves(called(original, args, kwargs))
            except Exception as reason:  # noqa: BLE001 - nothing can be held to what has no answer
                refused += 1
                if refused == len(calls):
                    return f"{mode} mode: the original itself raises on {shapes}: {say(reason)}"
                continue
            try:
                wrong = _run(module, original, expected, args, kwargs, variant.dropped_outputs)
            except Exception as reason:  # noqa: BLE001 - the finding is which shape failed
                wrong = f"{type(reason).__name__}: {reason}"
            if wrong:
                return f"{mode} mode, inputs {shapes}: {wrong}"
    return ""


def _run(
    module: nn.Module,
    original: nn.Module,
    expected: Sequence[Any],
    args: Any,
    kwargs: Any,
    gone: Any,
) -> str:
    """Run the smaller network, also backward; its outputs must have the shapes of the expected."""
    outputs = called(module, args, kwargs)
    module.zero_grad()
    if wrong := _backward(outputs, original, args, kwargs):
        return wrong
    for position, a, b in _paired(expected, _leaves(outputs), gone):
        if isinstance(a, Tensor) and a.shape != b.shape:
            return f"output {position} has shape {tuple(b.shape)}, the original {tuple(a.shape)}"
        if isinstance(a, Tensor) and a.isfinite().all() and not b.isfinite().all():
            return (
                f"output {position} holds NaN or infinite numbers, the original's does not: a layer"
                " above the cut divides by what the new bottleneck makes. Recovery cannot begin"
                " there; build with bottleneck='pool', or keep more levels"
            )
    return ""


def _backward(outputs: Any, original: nn.Module, args: Any, kwargs: Any) -> str:
    """Go backward from the outputs of a smaller network; why the original's own forward forbids."""
    try:
        _loss(outputs).backward()  # type: ignore[no-untyped-call]
    except Exception:
        if reason := without_gradient(original, args, kwargs):
            return f"no gradient goes through the original's own forward: {reason}"
        raise
    return ""


def _twice(structure: Structure) -> Call:
    """The example's arguments with every tensor repeated once that grows with the images."""
    given = (tuple(structure.inputs.args), dict(structure.inputs.kwargs))
    batch = max(pytree.tree_tensors(given), key=lambda t: t.dim()).shape[:1]
    counted = _counted_with_images(structure)

    def double(tensor: Tensor) -> Tensor:
        more = tensor.dim() and (tensor.shape[:1] == batch or id(tensor) in counted)
        return torch.cat([tensor, tensor]) if more else tensor

    doubled: Call = pytree.tree_map_only(Tensor, double, given)
    return doubled


def _counted_with_images(structure: Structure) -> set[int]:
    """Identities of the example's tensors whose first axis grows with the number of images.

    So many for each frame of each clip, perhaps.
    """
    noted = noted_tensors(structure.graph)
    signature = fixed_in(structure.graph).signature
    first = {
        place: meta["val"].shape[0]
        for place, meta in noted.items()
        if isinstance(meta.get("val"), Tensor) and meta["val"].dim()
    }
    own = free_symbols([size for place, size in first.items() if noted[place].get("space")])
    growing = {place for place, size in first.items() if free_symbols([size]) & own}
    given = signature.bind(*structure.inputs.args, **structure.inputs.kwargs).arguments
    return {
        id(leaf)
        for name, value in given.items()
        for path, leaf in leaves_by_place(value).items()
        if f"{name}{path}" in growing
    }


def _leaves(tree: Any) -> list[Any]:
    return pytree.tree_leaves(tree, is_leaf=lambda x: x is None)


def _paired(
    expected: Sequence[Any], found: Sequence[Any], gone: Collection[int]
) -> list[tuple[int, Any, Any]]:
    """The outputs that were not dropped, by their place in the original's, beside the original's.

    What was dropped is None in its place, or missing where the network's own container of outputs
    leaves None out, as those of diffusers and transformers do.
    """
    places = [place for place in range(len(expected)) if place not in gone]
    if len(found) == len(expected):
        found = [found[place] for place in places]
    return [(place, expected[place], leaf) for place, leaf in zip(places, found, strict=True)]


def _loss(outputs: Any) -> Tensor:
    floats = [t for t in pytree.tree_tensors(outputs) if t.is_floating_point()]
    return torch.stack([(t.float() ** 2).mean() for t in floats]).sum()


def _alive(variant: Variant) -> str:
    module = deep_copy(variant.module).train().requires_grad_(True)
    args, kwargs = _twice(variant.structure)
    if fixed_in(variant.structure.graph).images:
        args, kwargs = tuple(variant.structure.inputs.args), dict(variant.structure.inputs.kwargs)
    if wrong := _backward(called(module, args, kwargs), variant.structure.model, args, kwargs):
        return wrong
    still = without_autograd(variant.structure.graph) | _still_heads(variant)
    # of the original too, or of what only a loss that was dropped trained, as the variant says
    idle = {*variant.structure.dead_parameters, *variant.untrained}
    dead = [
        name
        for name, parameter in module.named_parameters()
        if parameter.grad is None
        and name not in idle
        and not any(f"{name}.".startswith(f"{s}.") for s in still)
    ]
    if dead:  # what the forward detaches gets none in the original either
        reached = _reached(variant.structure, args, kwargs)
        dead = [name for name in dead if reached.get(name, True)]
    return (
        f"no gradient reaches {', '.join(dead[:3])} ({len(dead)} in all), so that they cannot be "
        "trained"
        if dead
        else ""
    )


def _reached(structure: Structure, args: Any, kwargs: Any) -> dict[str, bool]:
    """Whether a gradient reaches each parameter of the original; empty where it does not train."""
    original = deep_copy(structure.model).train().requires_grad_(True)
    try:
        _loss(called(original, args, kwargs)).backward()  # type: ignore[no-untyped-call]
    except Exception:  # noqa: BLE001 - a foreign forward may raise anything in train mode
        return {}
    return {name: weight.grad is not None for name, weight in original.named_parameters()}


def _still_heads(variant: Variant) -> frozenset[str]:
    """Names of the bottleneck's heads that make what is used without autograd only, in all runs."""
    if variant.plan.bottleneck == "none":
        return frozenset()
    cut = cut_of(variant.structure, variant.plan)
    nodes = {node.name: node for node in variant.structure.graph.nodes}
    names = [name for name, m in variant.module.named_children() if isinstance(m, Bottleneck)]
    still: set[str] = set()
    for index, sites in enumerate(zip(*(leaving for _, leaving in cut.runs), strict=True)):
        users = [u for s in sites for u in nodes[s.node].users if u.name not in cut.removed]
        if all(map(is_without_autograd, users)):
            still |= {f"{name}.heads.{index}" for name in names}
    return frozenset(still)


def _same_output(variant: Variant, twin: Callable[..., Any], exactly: bool = True) -> str:
    """Compare the outputs of a variant in evaluation mode with those of its like."""
    args, kwargs = tuple(variant.structure.inputs.args), dict(variant.structure.inputs.kwargs)
    module = deep_copy(variant.module).eval()
    with torch.no_grad(), SameDraws():
        found, expected = called(module, args, kwargs), called(twin, args, kwargs)
        pairs = zip(pytree.tree_tensors(found), pytree.tree_tensors(expected), strict=True)
    rtol, atol = (0.0, 0.0) if exactly else (1e-4, 1e-5)
    for x, y in pairs:
        if x.shape != y.shape:
            return f"outputs are {tuple(x.shape)} and {tuple(y.shape)}"
        if not torch.allclose(x, y, rtol=rtol, atol=atol, equal_nan=True):
            return f"outputs differ by {float((x - y).abs().max()):.3g}"
    return ""


def _loaded(
    variant: Variant,
    factory: Callable[[], nn.Module],
    bottleneck: nn.Module | BottleneckFactory | None,
) -> nn.Module:
    with tempfile.TemporaryDirectory() as folder:
        path = save(variant, Path(folder) / "variant.safetensors")
        return load(path, factory, bottleneck=bottleneck).module.eval()


def _are_equal(one: Tensor, other: Tensor) -> bool:
    """Whether two results are the same bit by bit; what is no number equals what is none."""
    numbers = one.is_floating_point() and other.is_floating_point() and one.shape == other.shape
    return torch.equal(one, other) or (
        numbers and torch.allclose(one, other, rtol=0, atol=0, equal_nan=True)
    )


def _exports(variant: Variant) -> str:
    """What is wrong with an export; nothing where the original cannot be exported either."""
    inputs = variant.structure.inputs
    try:
        return _same_output(variant, _exported(variant.module, inputs), exactly=False)
    except Exception:
        try:
            called(_exported(variant.structure.model, inputs), inputs.args, inputs.kwargs)
        except Exception:  # noqa: BLE001 - whatever keeps it from that keeps the variant, too
            return ""
        raise


def _exported(network: nn.Module, inputs: ExampleInputs) -> Callable[..., Any]:
    module = deep_copy(network).eval()
    module.register_forward_hook(lambda module, args, result: pytree.opened(result))
    with EXPORTING:
        program = torch.export.export(module, tuple(inputs.args), dict(inputs.kwargs), strict=False)
    return program.module()
