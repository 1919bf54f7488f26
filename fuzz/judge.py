"""What becomes of one input, and whether that is right."""

from __future__ import annotations

import math
import os
import resource
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from fuzz.inputs import Files
from fuzz.returned import READERS
from weightscope import WeightscopeError, scan

LONGEST = 10.0
"""Seconds that an input may take."""

MOST_MEMORY = 256 << 20
"""Bytes that an input may add to the memory of the process."""

RIGHT = ("read", "refused", "read, not by the reference")
WRONG = ("wrong figures", "leaked", "slow", "too much memory")


class TooSlow(BaseException):
    """An input took too long; no handler of errors may catch it."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise `TooSlow` in the main thread when a block takes too long."""

    def stop(_: int, __: FrameType | None) -> None:
        raise TooSlow

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def forget_the_peak() -> None:
    """Let `peak` begin anew; only Linux can, elsewhere a peak hides all later ones below it."""
    with suppress(OSError), open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def peak() -> int:
    """The most memory that the process has held since `forget_the_peak`, in bytes."""
    # getrusage also knows how large the process was that started this one, which hides much
    with suppress(OSError), open("/proc/self/status") as file:
        for line in file:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )


def judge(kind: str, files: Files, folder: Path) -> tuple[str, str]:
    """Read one input; its class of outcome, and what was said."""
    for name, content in files.items():
        (folder / name).write_bytes(content)
    path = folder / next(iter(files))
    forget_the_peak()
    before, start = peak(), time.process_time()
    try:
        with time_limit(6 * LONGEST):  # of a clock that others use too
            found = READERS[kind](path) if kind in READERS else scan(path, threads=1)
    except WeightscopeError as error:
        outcome, said = "refused", str(error)
    except TooSlow:
        return "slow", f"more than {6 * LONGEST} s"
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return "leaked", f"{type(error).__name__}: {error}"[:300]
    else:
        outcome, said = ("read", "") if kind in READERS else _compare(kind, path, found)
    if time.process_time() - start > LONGEST:
        return "slow", said
    if peak() - before > MOST_MEMORY:
        return "too much memory", said
    if outcome == "refused" and (not said.strip() or "weights_only" in said):
        return "leaked", said
    return outcome, said


def _compare(kind: str, path: Path, statistics: Any) -> tuple[str, str]:
    """Hold figures against what the format's own library reads."""
    ours = sorted((record.count, _rounded(record.summary.mean)) for record in statistics.parameters)
    if not 0.0 <= statistics.coverage <= 1.0:
        return "wrong figures", f"coverage {statistics.coverage}"
    try:
        tensors = _reference(kind, path)
    except Exception as error:  # the reference refuses in many ways
        return "read, not by the reference", f"{type(error).__name__}: {error}"[:200]
    theirs = sorted((t.numel(), _rounded(_mean(t))) for t in tensors)
    if ours != theirs:
        return "wrong figures", f"{ours[:5]} instead of {theirs[:5]}"
    return "read", f"{len(ours)} tensors"


def _reference(kind: str, path: Path) -> list[torch.Tensor]:
    """Distinct tensors of floats, each without the axes along which it repeats itself."""
    if kind.startswith("safetensors"):
        from safetensors.torch import load_file

        found: list[torch.Tensor] = list(load_file(path).values())
    elif kind.startswith("torch"):
        found, seen, waiting = [], set(), [torch.load(path, weights_only=True)]
        while waiting:
            node = waiting.pop()
            if id(node) in seen:
                continue
            seen.add(id(node))
            if isinstance(node, torch.Tensor):
                found.append(node.detach())
            elif isinstance(node, dict):
                waiting += node.values()
            elif isinstance(node, list | tuple | set):
                waiting += node
    else:
        raise NotImplementedError("no reference")
    distinct: dict[Any, torch.Tensor] = {}
    for t in found:
        packed = str(t.dtype).endswith("_x2")
        if t.is_floating_point() and not packed and not t.is_meta and t.layout is torch.strided:
            for axis, stride in enumerate(t.stride()):
                if not stride and t.shape[axis] > 1 and t.numel():
                    t = t.narrow(axis, 0, 1)
            span = 1 + sum((n - 1) * s for n, s in zip(t.shape, t.stride(), strict=True))
            if t.numel() <= max(span, 0):  # else its elements overlap
                distinct[(t.data_ptr(), t.dtype, t.shape, t.stride()) if t.numel() else id(t)] = t
    return list(distinct.values())


def _mean(tensor: torch.Tensor) -> float:
    wide = tensor.double()
    finite = wide[wide.isfinite()]
    return float(finite.mean()) if finite.numel() else math.nan


def _rounded(value: float) -> str:
    return f"{value:.9g}" if value else "0"


def clear(folder: Path) -> None:
    """Remove the files of an input."""
    for entry in os.scandir(folder):
        os.unlink(entry.path)
