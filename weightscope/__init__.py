"""Which levels of a trained encoder-decoder do any work, and the smaller network without the rest.

>>> import weightscope as ws
>>> from mpseg_models import create_model
>>> analysis = ws.analyze(create_model("half_unet", width=4))
>>> analysis.assessment.state
'untrained'
"""

from importlib.metadata import version

from weightscope.analysis import Analysis, analyze
from weightscope.checkpoints import Weights, fit_weights, read_weights
from weightscope.errors import (
    CheckpointError,
    ForwardError,
    InputError,
    MissingExtraError,
    RecipeError,
    StructureError,
    TruncationError,
    UnknownLayerError,
    UnsupportedTorchError,
    WeightscopeError,
)
from weightscope.histories import RecordedHistory, read_history, save_history
from weightscope.statistics import scan
from weightscope.truncation import load, save, shrink
from weightscope.utilization import ablate
from weightscope.watching import watch

__version__ = version("weightscope")

__all__ = [
    "Analysis",
    "CheckpointError",
    "ForwardError",
    "InputError",
    "MissingExtraError",
    "RecipeError",
    "RecordedHistory",
    "StructureError",
    "TruncationError",
    "UnknownLayerError",
    "UnsupportedTorchError",
    "Weights",
    "WeightscopeError",
    "__version__",
    "ablate",
    "analyze",
    "fit_weights",
    "load",
    "read_history",
    "read_weights",
    "save",
    "save_history",
    "scan",
    "shrink",
    "watch",
]
