"""How much of the input one output value can see, and does see."""

from weightscope.receptive_field.effective import EffectiveField, effective_receptive_field
from weightscope.receptive_field.seen import Views
from weightscope.receptive_field.spans import WHOLE, Span, box, interpolated, window
from weightscope.receptive_field.theoretical import (
    Pixels,
    in_pixels,
    network_receptive_field,
    propagate,
    receptive_fields,
    union,
    unknown_operators,
)

__all__ = [
    "WHOLE",
    "EffectiveField",
    "Pixels",
    "Span",
    "Views",
    "box",
    "effective_receptive_field",
    "in_pixels",
    "interpolated",
    "network_receptive_field",
    "propagate",
    "receptive_fields",
    "union",
    "unknown_operators",
    "window",
]
