"""Files of weights: what is in them, and whether it fits a model. Nothing in them is executed."""

from weightscope.checkpoints.opening import Checkpoint, open_checkpoint
from weightscope.checkpoints.plain import load_plain
from weightscope.checkpoints.safetensors_files import (
    RECIPE,
    holds_recipe,
    holds_text,
    load_tensors,
    parse_json,
)
from weightscope.checkpoints.source import path_of
from weightscope.checkpoints.stored import Stored
from weightscope.checkpoints.weights import Weights, fit_weights, pair_weights, read_weights

__all__ = [
    "RECIPE",
    "Checkpoint",
    "Stored",
    "Weights",
    "fit_weights",
    "holds_recipe",
    "holds_text",
    "load_plain",
    "load_tensors",
    "open_checkpoint",
    "pair_weights",
    "parse_json",
    "path_of",
    "read_weights",
]
