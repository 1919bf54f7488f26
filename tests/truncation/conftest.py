"""Each toy is read once and proposed once."""

import functools

import pytest
import torch
from toys import TOYS, assessment

from weightscope.cost import count_costs
from weightscope.graph import read_structure
from weightscope.truncation import propose


@functools.cache
def read(name):
    factory, example, _, _ = TOYS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = factory()
    structure = read_structure(model, example)
    return structure, count_costs(model, structure.inputs)


@functools.cache
def propose_toy(name):
    structure, costs = read(name)
    return {p.keep_levels: p for p in propose(structure, assessment(), costs)}


@pytest.fixture
def structures():
    """Return structure and costs of a toy by name."""
    return read


@pytest.fixture
def proposals():
    """Return the proposals of a toy by name: a dict by keep_levels."""
    return propose_toy
