"""What a network costs: parameters, multiply-accumulates, activations, latency, peak memory.

The counts come from running the network on fake tensors (shapes without numbers), so that a
network of any size is counted in milliseconds and without memory. Operators have rules in a plain
dictionary, ``MAC_RULES``; extend or replace it to count by another convention::

    rules = {**MAC_RULES, torch.ops.mylib.my_operator: my_rule}
    count_costs(model, image, rules=rules)
"""

from weightscope.cost.counting import (
    Costs,
    Inputs,
    LayerCost,
    count_costs,
    split_inputs,
)
from weightscope.cost.measuring import Latency, measure_latency, measure_peak_memory
from weightscope.cost.rules import MAC_RULES, Rule

__all__ = [
    "MAC_RULES",
    "Costs",
    "Inputs",
    "Latency",
    "LayerCost",
    "Rule",
    "count_costs",
    "measure_latency",
    "measure_peak_memory",
    "split_inputs",
]
