"""Latency and peak memory of real forwards."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from weightscope.adapters import pytree
from weightscope.adapters.dispatch import StorageWeakRef, TorchDispatchMode, storage_of
from weightscope.adapters.modes import alone
from weightscope.arguments import checked
from weightscope.calls import forward_errors, fresh, random_state
from weightscope.copies import deep_copy
from weightscope.cost.counting import Inputs, split_inputs


@dataclass(frozen=True)
class Latency:
    """Wall time of a forward in evaluation mode.

    Attributes:
        median: Median, in seconds.
        low: First quartile, in seconds.
        high: Third quartile, in seconds.
        repeats: Number of timed forwards.
        device: Where it ran.
        threads: CPU threads that torch was allowed.
    """

    median: float
    low: float
    high: float
    repeats: int
    device: str
    threads: int


@checked()
@alone()
def measure_latency(
    models: Sequence[nn.Module], inputs: Inputs, *, repeats: int = 10, warmup: int = 2
) -> tuple[Latency, ...]:
    """Time the forwards of several models on the same inputs, in turns.

    Each model runs ``warmup`` times untimed; then one forward of each is timed per round, so that
    a drift of the machine falls on all alike. The models run as deep copies in evaluation mode,
    without gradients.

    Args:
        models: Models that take the same inputs.
        inputs: Real tensors on the models' device.
        repeats: Timed rounds, at least 2.
        warmup: Untimed rounds.

    Returns:
        One Latency per model, in order.

    Raises:
        InputError: ``repeats`` is below 2, or ``warmup`` below 0.
        ForwardError: A forward raises.
    """
    args, kwargs = split_inputs(inputs)
    twins = [deep_copy(model).eval() for model in models]
    device = _device(twins[0], args, kwargs)
    times: list[list[float]] = [[] for _ in twins]
    with random_state(), torch.no_grad():
        for turn in range(warmup + repeats):
            for twin, seconds in zip(twins, times, strict=True):
                own, named = fresh(args, kwargs)
                with forward_errors(twin, (args, kwargs), "the inputs"):
                    _synchronize(device)
                    start = time.perf_counter()
                    twin(*own, **named)
                    _synchronize(device)
                if turn >= warmup:
                    seconds.append(time.perf_counter() - start)
    return tuple(_latency(seconds, device) for seconds in times)


def _latency(seconds: Sequence[float], device: torch.device) -> Latency:
    low, median, high = statistics.quantiles(seconds, n=4, method="inclusive")
    return Latency(median, low, high, len(seconds), str(device), torch.get_num_threads())


@alone()
def measure_peak_memory(model: nn.Module, inputs: Inputs) -> int:
    """Measure the most memory that the tensors of one real forward hold at once, in bytes.

    On CUDA: the rise of the allocator's peak during the forward. Elsewhere: the largest sum of the
    storages that operators returned and that are still alive, followed operator by operator; the
    scratch memory inside a kernel (a convolution's column buffer) is not seen there. Parameters
    and inputs are not counted. A deep copy runs in evaluation mode, without gradients.

    Args:
        model: Any module.
        inputs: Real tensors on the model's device.

    Returns:
        Bytes.
    """
    args, kwargs = fresh(*split_inputs(inputs))
    twin = deep_copy(model).eval()
    device = _device(twin, args, kwargs)
    with random_state(), torch.no_grad(), forward_errors(twin, (args, kwargs), "the inputs"):
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            before = torch.cuda.memory_allocated(device)
            twin(*args, **kwargs)
            torch.cuda.synchronize(device)
            return int(torch.cuda.max_memory_allocated(device) - before)
        known = [*twin.parameters(), *twin.buffers(), *pytree.tree_leaves((args, kwargs))]
        held = _Held({storage_of(t) for t in known if isinstance(t, torch.Tensor)})
        with held:
            twin(*args, **kwargs)
    return held.peak


class _Held(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows the memory of the tensors that operators return."""

    def __init__(self, known: set[int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.known = known
        self.alive: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        self.alive = {k: v for k, v in self.alive.items() if not v[0].expired()}  # type: ignore[no-untyped-call]
        for tensor in pytree.tree_leaves(out):
            if isinstance(tensor, torch.Tensor) and storage_of(tensor) not in self.known:
                storage = tensor.untyped_storage()
                self.alive[storage_of(tensor)] = (StorageWeakRef(storage), storage.nbytes())  # type: ignore[no-untyped-call]
        self.peak = max(self.peak, sum(size for _, size in self.alive.values()))
        return out


def _device(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> torch.device:
    leaves = [*model.parameters(), *pytree.tree_leaves((args, dict(kwargs)))]
    return next((t.device for t in leaves if isinstance(t, torch.Tensor)), torch.device("cpu"))


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
