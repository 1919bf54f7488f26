"""Torch's modes that belong to the caller, such as a default device or fake tensors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.utils._python_dispatch import _disable_current_modes


@contextmanager
def outside_modes() -> Iterator[None]:
    """Run a block as outside of the caller's ``torch.device``, default device and FakeTensorMode.

    They belong to a thread and catch every operator in it, also those that only measure.
    """
    with torch._C.DisableTorchFunction(), _disable_current_modes():
        yield
