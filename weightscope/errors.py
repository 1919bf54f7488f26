"""Every error that weightscope raises on purpose.

::

    WeightscopeError
    ├── InputError            what was passed in cannot be used (also a ValueError)
    │   ├── ForwardError      the model's own forward raised, or no input was found that it takes
    │   └── UnknownLayerError a layer, stage or level that the model does not have
    ├── StructureError        the network has no readable encoder-decoder shape
    ├── TruncationError       a cut or a variant that cannot be built
    ├── CheckpointError       a file of weights that is damaged, unsafe or no checkpoint
    ├── RecipeError           a saved variant that does not fit its file or its model
    └── MissingExtraError     an optional dependency is not installed (also an ImportError)
"""


class WeightscopeError(Exception):
    """Base of every error raised on purpose; its text names the input and the remedy."""


class InputError(WeightscopeError, ValueError):
    """An argument cannot be used."""


class ForwardError(InputError):
    """The model's forward raised, or no example input was found that it accepts."""


class UnknownLayerError(InputError):
    """A name or level that the model does not have."""


class StructureError(WeightscopeError):
    """The network has no readable encoder-decoder shape."""


class TruncationError(WeightscopeError):
    """A cut or a variant that cannot be built."""


class CheckpointError(WeightscopeError):
    """A file of weights that is damaged, unsafe or not a checkpoint."""


class RecipeError(WeightscopeError):
    """A saved variant that does not fit its file or its model."""


class MissingExtraError(WeightscopeError, ImportError):
    """An optional dependency is not installed."""
