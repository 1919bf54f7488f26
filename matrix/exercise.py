"""Run what was built: the checks that a graph or a variant must pass to count as working."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from matrix.networks import Network
from weightscope.copies import deep_copy
from weightscope.graph import ExampleInputs
from weightscope.truncation import Variant, verify

Call = tuple[int, tuple[int, ...] | None]


def calls(network: Network) -> tuple[Call, ...]:
    """Batch and spatial sizes to try: the usual one, and another of each where there is one."""
    return ((2, None), (3, network.other))


def tensors(tree: Any) -> list[Any]:
    """Return the leaves of a nested output."""
    leaves: list[Any] = pytree.tree_leaves(tree)
    return [part for leaf in leaves for part in _parts(leaf)]


def _parts(leaf: Any) -> list[Any]:
    """What an object of a class of one's own holds, as some forwards return; others themselves."""
    own = getattr(leaf, "__dict__", None)
    return list(own.values()) if own and not isinstance(leaf, Tensor) else [leaf]


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
    with torch.set_grad_enabled(network.gradients):
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


def graph_failures(
    model: nn.Module,
    graph: nn.Module,
    network: Network,
    modes: Sequence[bool] = (False, True),
) -> tuple[str, ...]:
    """Check that a rebuilt graph gives the original's outputs, bit by bit, in some modes.

    Each call has copies of its own: what a forward keeps of its first batch need not fit another.
    """

    def equal(call: Call, training: bool) -> str:
        expected = run(deep_copy(model), network, call, training)
        made = run(deep_copy(graph), network, call, training)
        return "" if same(expected, made) else "outputs differ"

    return failures(
        {
            f"{'train' if training else 'eval'} {call}": lambda c=call, t=training: equal(c, t)
            for training in modes
            for call in calls(network)
        }
    )


def variant_failures(variant: Variant, network: Network, thorough: bool) -> tuple[str, ...]:
    """Check a built variant with the library's own checks, at the sizes of the matrix.

    Args:
        variant: What ``proposal.build()`` returned.
        network: How it is called, and how the original is made anew for loading.
        thorough: Also save, load and export it, which read the network anew.
    """
    dimensions = variant.structure.inputs.dimensions
    sizes = [
        ExampleInputs(*network.inputs(batch, size), dimensions, guessed=False)
        for batch, size in calls(network)
    ]
    factory = network.build if thorough else None
    found = verify(variant, sizes=sizes, export=thorough, factory=factory)
    return tuple(
        f"{check.name}: {' '.join(check.detail.split())[:300]}" for check in found.failures
    )
