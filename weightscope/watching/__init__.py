"""A training -> `History`: what was recorded while somebody trained, and the training unchanged."""

from weightscope.watching.callbacks import lightning_callback, trainer_callback
from weightscope.watching.recorder import History, watch
from weightscope.watching.rules import StepRule, step_rule
from weightscope.watching.snapshots import LATE, Snapshot, late_saliencies
from weightscope.watching.storage import VERSION

__all__ = [
    "LATE",
    "VERSION",
    "History",
    "Snapshot",
    "StepRule",
    "late_saliencies",
    "lightning_callback",
    "step_rule",
    "trainer_callback",
    "watch",
]
