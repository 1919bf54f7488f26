"""Statistics of the tensors in a file, without building the model.

Small tensors are read when it is their turn, large ones range by range: each thread needs memory
for one range, whatever the file. Nothing in a file is executed.
"""

from __future__ import annotations

import os
from functools import cache

import torch

from weightscope.adapters.modes import outside_modes
from weightscope.arguments import checked
from weightscope.checkpoints import Stored, open_checkpoint
from weightscope.statistics.records import ModelStatistics, ParameterStatistics, SkippedParameter
from weightscope.summaries.counting import Numbers
from weightscope.summaries.filters import FilterLayout
from weightscope.summaries.summary import (
    summarize,
    summarize_numbers,
    summarize_with,
    unreadable,
    warning_about,
)
from weightscope.summaries.tensor_summary import TensorSummary
from weightscope.summaries.threads import Run, number_of_threads, run_all


@checked()
@outside_modes()
def scan(
    path: str | os.PathLike[str],
    *,
    threads: int | None = None,
    progress: bool = False,
) -> ModelStatistics:
    """Statistics of every tensor in a checkpoint of any size, in the order of the file.

    Args:
        path: A safetensors file, the index of a sharded one, what ``torch.save`` wrote, or a folder
            that ``save_pretrained`` wrote. The content decides, not the name. Tensors in nested
            dictionaries are named by their path, ``"model.conv.weight"``.
        threads: Number of threads; None for ``torch.get_num_threads()``.
        progress: Whether to show a progress bar.

    Returns:
        One record for each tensor, what was skipped and why, and the share of elements measured.
        There is no null, because a file does not say what its tensors are. Numbers that a file
        holds once and names twice are measured once, as are those that a view repeats.

    Raises:
        CheckpointError: If the file is missing, empty, truncated, contradicts itself, would run
            code, is no checkpoint, or is changed while it is read.
    """
    checkpoint, threads = open_checkpoint(path), number_of_threads(threads)
    skipped = [SkippedParameter(name, reason) for name, reason in checkpoint.skipped.items()]
    found = {}
    shared: dict[str, list[str]] = {}
    total = 0
    for name, named in checkpoint.tensors.items():
        if named.same_as:
            shared.setdefault(named.same_as, []).append(name)
            continue
        stored = named.stored.distinct
        total += stored.elements
        reason = _unreadable(stored)
        if reason:
            skipped.append(SkippedParameter(name, reason))
        else:
            found[name] = stored
    full = [name for name, stored in found.items() if stored.elements]

    def work(name: str, run: Run) -> TensorSummary:
        return _summarize(run, found[name])

    measured = run_all(full, lambda name: found[name].elements, work, threads, progress)
    summaries = dict(zip(full, measured, strict=True))
    nothing = summarize(torch.empty(0, device="cpu", dtype=torch.float32))  # of all empty ones
    for source in {stored.source for stored in found.values() if stored.source}:
        source.check()
    records = tuple(
        _record(
            name,
            checkpoint.tensors[name].stored,
            tuple(shared.get(name, ())),
            summaries.get(name, nothing),
        )
        for name in found
    )
    covered = sum(record.count for record in records)
    return ModelStatistics(records, tuple(skipped), covered / total if total else 1.0)


def _summarize(run: Run, stored: Stored) -> TensorSummary:
    if stored.elements < stored.span:  # it has gaps
        return summarize_with(run, stored.tensor())
    assert stored.dtype is not None
    numbers = Numbers(stored.dtype, stored.elements, stored.numbers)
    return summarize_numbers(run, numbers, FilterLayout.of((), None))


def _unreadable(stored: Stored) -> str:
    if stored.reason or stored.dtype is None:
        return stored.reason
    if stored.overlaps:
        return "a view whose elements overlap; save a copy, as tensor.contiguous() gives it"
    return _unreadable_format(stored.dtype)


@cache
def _unreadable_format(dtype: torch.dtype) -> str:
    return unreadable(torch.empty(0, device="cpu", dtype=dtype))


def _record(
    name: str, stored: Stored, shared_with: tuple[str, ...], summary: TensorSummary
) -> ParameterStatistics:
    return ParameterStatistics(
        layer=name.rpartition(".")[0],
        parameter=name,
        kind="tensor",
        dtype=str(stored.dtype).removeprefix("torch."),
        shape=stored.shape,
        count=summary.count,
        shared_with=shared_with,
        summary=summary,
        warning=warning_about(summary, is_kernel=False),
    )
