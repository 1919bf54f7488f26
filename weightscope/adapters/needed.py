"""What to say where a version of torch lacks a private part that nothing replaces."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from weightscope.errors import UnsupportedTorchError

TESTED = ("2.9", "2.14")
"""The oldest and the newest minor version of torch that the tests have run with."""


@contextmanager
def needed() -> Iterator[None]:
    """Take private parts of torch inside.

    Raises:
        UnsupportedTorchError: One is missing; the text names this torch and a version that has it.
    """
    try:
        yield
    except (ImportError, AttributeError) as error:
        first, last = TESTED
        raise UnsupportedTorchError(
            f"weightscope cannot read networks with torch {torch.__version__} ({error}); it is "
            f"tested with torch {first} to {last}: pip install 'torch=={last}.*'"
        ) from error
