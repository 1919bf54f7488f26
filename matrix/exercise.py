"""Run what was built: the checks that a graph or a variant must pass to count as working."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from matrix.networks import Network
from weightscope.cost import count_costs
from weightscope.truncation import Proposal, Variant, load, save

Call = tuple[int, tuple[int, ...] | None]


def calls(network: Network) -> tuple[Call, ...]:
    """Batch and spatial sizes to try: the usual one, and another of each where there is one."""
    return ((2, None), (3, network.other))


def tensors(tree: Any) -> list[Any]:
    """Return the leaves of a nested output."""
    leaves: list[Any] = pytree.tree_leaves(tree)
    return leaves


def same(left: Any, right: Any) -> bool:
    """Whether two nested outputs have bit-equal tensors and equal other leaves."""
    pairs = list(zip(tensors(left), tensors(right), strict=False))
    return len(tensors(left)) == len(tensors(right)) and all(
        torch.equal(a, b) if isinstance(a, Tensor) and isinstance(b, Tensor) else a is b or a == b
        for a, b in pairs
    )


def run(module: nn.Module, network: Network, call: Call, training: bool, seed: int = 1) -> Any:
    """Call a module with a random image, in a mode, after seeding dropout and the like."""
    batch, size = call
    args, kwargs = network.inputs(batch, size)
    module.train(training)
    torch.manual_seed(seed)
    return module(*args, **kwargs)


def failures(checks: Mapping[str, Callable[[], str]]) -> tuple[str, ...]:
    """Do every check and return what fails, by name; a check returns what is wrong or nothing."""
    found = []
    for name, check in checks.items():
        try:
            wrong = check()
        except Exception as error:  # noqa: BLE001 - whatever a third-party network raises
            wrong = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        if wrong:
            found.append(f"{name}: {wrong}")
    return tuple(found)


def graph_failures(model: nn.Module, graph: nn.Module, network: Network) -> tuple[str, ...]:
    """Check that a rebuilt graph gives the original's outputs, bit by bit, in both modes."""

    def equal(call: Call, training: bool) -> str:
        expected = run(model, network, call, training)
        return "" if same(expected, run(graph, network, call, training)) else "outputs differ"

    return failures(
        {
            f"{'train' if training else 'eval'} {call}": lambda c=call, t=training: equal(c, t)
            for training in (False, True)
            for call in calls(network)
        }
    )


def variant_failures(
    model: nn.Module,
    variant: Variant,
    proposal: Proposal,
    network: Network,
    thorough: bool,
) -> tuple[str, ...]:
    """Check a built variant against its proposal and the network it was cut from.

    Args:
        model: The original.
        variant: What ``proposal.build()`` returned.
        proposal: What predicted it.
        network: How both are called, and how the original is made anew for loading.
        thorough: Also save, load and export it, which read the network anew.
    """
    module: nn.Module = variant.module

    def shapes(call: Call, training: bool) -> str:
        expected = tensors(run(model, network, call, training))
        got = tensors(run(module, network, call, training))
        kept = [
            (a, b)
            for a, b in zip(expected, got, strict=len(expected) == len(got))
            if isinstance(b, Tensor)
        ]
        if not kept:
            return "no output is left"
        wrong = [(tuple(a.shape), tuple(b.shape)) for a, b in kept if a.shape != b.shape]
        return f"shapes {wrong}" if wrong else ""

    def backward() -> str:
        trained = copy.deepcopy(module)
        outputs = tensors(run(trained, network, (2, None), training=True))
        floating = [o for o in outputs if isinstance(o, Tensor) and o.is_floating_point()]
        torch.stack([o.square().mean() for o in floating]).sum().backward()
        dead = [name for name, p in trained.named_parameters() if p.grad is None]
        return f"dead parameters {dead[:5]} and {len(dead)} in all" if dead else ""

    def bit_equal() -> str:
        before, after = model.state_dict(), module.state_dict()
        missing = [key for key in variant.kept if key not in after or key not in before]
        if missing:
            return f"kept keys are missing: {missing[:5]}"
        changed = [key for key in variant.kept if not torch.equal(before[key], after[key])]
        return f"kept tensors changed: {changed[:5]}" if changed else ""

    def accounted() -> str:
        before, after = set(model.state_dict()), set(module.state_dict())
        named = set(variant.kept) | set(variant.dropped) | set(variant.reinitialized)
        lost = sorted(before - named)
        unnamed = sorted(after - set(variant.kept) - set(variant.reinitialized))
        extra = sorted(after & set(variant.dropped))
        return "; ".join(
            f"{what}: {keys[:5]}"
            for what, keys in (
                ("in no list", lost),
                ("new but not in reinitialized", unnamed),
                ("dropped but still there", extra),
            )
            if keys
        )

    def costs() -> str:
        actual = count_costs(module, proposal.structure.inputs)
        predicted = variant.costs if proposal.refusal else proposal
        pairs = {
            "parameters": (predicted.parameters, sum(p.numel() for p in module.parameters())),
            "macs": (predicted.macs, actual.macs),
            "activation_bytes": (predicted.activation_bytes, actual.activation_bytes),
        }
        return "; ".join(
            f"{what} predicted {said}, actual {real}"
            for what, (said, real) in pairs.items()
            if said != real
        )

    def copies() -> str:
        twin = copy.deepcopy(module)
        first = run(module, network, (2, None), training=False)
        return "" if same(first, run(twin, network, (2, None), training=False)) else "copy differs"

    def saves() -> str:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "variant.safetensors"
            save(variant, path)
            twin = load(path, network.build).module
        first = run(module, network, (2, None), training=False)
        return "" if same(first, run(twin, network, (2, None), training=False)) else "differs"

    def exports() -> str:
        args, kwargs = network.inputs()
        torch.export.export(copy.deepcopy(module).eval(), args, kwargs, strict=False)
        return ""

    checks: dict[str, Callable[[], str]] = {
        "kept tensors": bit_equal,  # first: running in train mode moves running means
        "tensors accounted for": accounted,
        "predicted costs": costs,
    }
    checks |= {
        f"{'train' if training else 'eval'} {call}": lambda c=call, t=training: shapes(c, t)
        for training in (False, True)
        for call in calls(network)
    }
    checks |= {"backward": backward, "deep copy": copies}
    if thorough:
        checks |= {"save and load": saves, "torch.export": exports}
    return failures(checks)
