"""List the operators that the matrix's networks meet: `python -m matrix.operators [WORDS]`.

Each line of the list is an operator and where it was met: ``graph`` in an exported program (what
levels and receptive fields read), ``run`` where it runs (what costs count). A test asks for the row
of each. Networks that are not installed or cannot be read are named and leave their lines as they
were; a line goes only with the list itself.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from matrix.networks import NETWORKS, Network
from weightscope.adapters.dispatch import TorchDispatchMode
from weightscope.adapters.schemas import schema_name
from weightscope.errors import WeightscopeError
from weightscope.files import written_atomically
from weightscope.graph import read_structure
from weightscope.graph.nodes import operator_of

LIST = Path(__file__).resolve().parent / "operators.txt"


class _Names(TorchDispatchMode):
    """Notes the name of every operator that runs."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.names.add(schema_name(func))
        return func(*args, **(kwargs or {}))


def _met(network: Network) -> Iterator[str]:
    model: nn.Module = network.build()
    args, kwargs = network.inputs()
    structure = read_structure(model, network.inputs()[0] if network.given else None)
    for name in {operator_of(node) for node in structure.program.graph.nodes}:
        yield f"{name} graph"
    names = _Names()
    with torch.no_grad(), names:
        model.eval()(*args, **kwargs)
    for name in names.names:
        yield f"{name.removesuffix('_')} run"


def main(words: list[str]) -> None:
    """Add what the networks meet whose name holds all the words."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    lines = set(LIST.read_text().splitlines()) if LIST.exists() else set()
    for name, network in NETWORKS.items():
        if not all(word in name for word in words):
            continue
        if not network.installed:
            print(f"{name}: not installed")
            continue
        try:
            new = {line for line in _met(network) if "::" in line} - lines
        except WeightscopeError as error:
            print(f"{name}: {str(error)[:200]}")
            continue
        print(f"{name}: {', '.join(sorted(new)) or 'nothing new'}", flush=True)
        lines |= new
        with written_atomically(LIST) as temporary:
            temporary.write_text("".join(f"{line}\n" for line in sorted(lines)))


if __name__ == "__main__":
    main(sys.argv[1:])
