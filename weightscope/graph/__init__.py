"""What the network is: model -> dataflow graph with levels, stages and cuts."""

from weightscope.graph.read import read_structure
from weightscope.graph.rebuild import rebuild, runnable
from weightscope.graph.structure import (
    Cut,
    ExampleInputs,
    Place,
    Refusal,
    Role,
    Site,
    Stage,
    Structure,
)

__all__ = [
    "Cut",
    "ExampleInputs",
    "Place",
    "Refusal",
    "Role",
    "Site",
    "Stage",
    "Structure",
    "read_structure",
    "rebuild",
    "runnable",
]
