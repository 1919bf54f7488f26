"""Tensors without numbers, the operators that run, and the memory behind a tensor."""

from __future__ import annotations

import torch
from torch.multiprocessing.reductions import StorageWeakRef

from weightscope.adapters.needed import needed

with needed():
    from torch._subclasses.fake_tensor import (
        DataDependentOutputException,
        DynamicOutputShapeException,
        FakeTensor,
        FakeTensorMode,
    )
    from torch.utils._python_dispatch import TorchDispatchMode

FAKE_TENSOR_LOGGER = "torch._subclasses.fake_tensor"
"""Logs a traceback for every size that does not fit, also where that is expected."""

DEVICE_OPERATOR = torch.ops.prim.device.default
"""The one operator that a dispatch mode sees and cannot decompose."""

READS_VALUES = (DataDependentOutputException, DynamicOutputShapeException)
"""What is raised where a value is read that a tensor without numbers does not have."""

__all__ = [
    "DEVICE_OPERATOR",
    "FAKE_TENSOR_LOGGER",
    "READS_VALUES",
    "FakeTensor",
    "FakeTensorMode",
    "StorageWeakRef",
    "TorchDispatchMode",
    "storage_of",
    "writes_of",
]


def storage_of(tensor: torch.Tensor) -> int:
    """Identity of a tensor's memory, the same for all its views, with numbers or without."""
    try:
        storage = tensor.untyped_storage()
    except NotImplementedError:  # sparse and other layouts have none
        return id(tensor)
    return int(StorageWeakRef(storage).cdata)  # type: ignore[no-untyped-call]


def writes_of(tensor: torch.Tensor) -> int:
    """How often a tensor, or another that shares its memory, was written into."""
    return tensor._version
