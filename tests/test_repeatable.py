"""What a network is does not depend on how busy the machine is, or on what was read before."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from matrix.kinds import KINDS
from matrix.networks import NETWORKS
from weightscope.errors import WeightscopeError
from weightscope.graph import read_structure

QUICK = ("by hand: SegNet", "by hand: sizes by division")
REFUSED = {name for name, kind in KINDS.items() if kind.truth.refusal}
TWENTY = [
    pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow])
    for name in [*QUICK, *(n for n in KINDS if n not in QUICK and n not in REFUSED)][:20]
]


@contextmanager
def load() -> Iterator[None]:
    """Keep the interpreter busy from another thread."""
    done = threading.Event()

    def work() -> None:
        x = torch.randn(64, 64)
        while not done.is_set():
            x = (x @ x).softmax(0)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def read(name: str) -> Any:
    """Everything that a structure says, in words."""
    torch.manual_seed(0)
    network = NETWORKS[name]
    try:
        structure = read_structure(network.build(), network.inputs()[0] if network.given else None)
    except WeightscopeError as error:
        return str(error)
    cuts = [(c.keep_levels, sorted(c.removed), c.entries, c.exits) for c in structure.cuts]
    return (
        structure.sizes,
        structure.notes,
        structure.reductions,
        structure.stages,
        structure.refusals,
        cuts,
        str(structure.graph),
    )


@pytest.mark.parametrize("name", TWENTY)
def test_a_network_is_read_the_same_again_and_under_load(name: str) -> None:
    first = read(name)
    with load():
        assert read(name) == first
