"""Tensors without numbers, the operators that run, and the memory behind a tensor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef

from weightscope.adapters import pytree
from weightscope.adapters.needed import needed

with needed():
    from torch._ops import HigherOrderOperator
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
    "CountingFakes",
    "FakeTensor",
    "FakeTensorMode",
    "StorageWeakRef",
    "TorchDispatchMode",
    "storage_of",
    "writes_of",
]


class CountingFakes(FakeTensorMode):  # type: ignore[no-untyped-call]
    """Makes tensors without numbers, and notes how much memory the largest would take.

    Attributes:
        most: Bytes of the largest tensor that an operator made since this was last put to 0.
        weights: Identities of the memory that is there in any case, and does not count.
    """

    most = 0
    weights: frozenset[int] = frozenset()
    # their rules are found by the exact class of the mode
    supports_higher_order_operators = True

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """Run an operator, and look at what it makes."""
        if isinstance(func, HigherOrderOperator):
            if FakeTensorMode not in func.python_key_table:
                raise NotImplementedError(f"{func} has no rule for tensors without numbers")
            made = func.python_key_table[FakeTensorMode](self, *args, **(kwargs or {}))
        else:
            made = super().__torch_dispatch__(func, types, args, kwargs)
        for value in (made,) if isinstance(made, torch.Tensor) else pytree.tree_tensors(made):
            size = _bytes_of(value)
            if size > self.most and storage_of(value) not in self.weights:
                self.most = size
        return made


def _bytes_of(tensor: torch.Tensor) -> int:
    """Memory behind a tensor, which views share; 0 where its layout has none to ask for."""
    try:
        return int(tensor.untyped_storage().nbytes())
    except NotImplementedError:
        return 0


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
