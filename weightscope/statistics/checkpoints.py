"""Statistics of the tensors in a file, without building the model.

Tensors are mapped into memory, never loaded: what is read lies in the system's file cache, and the
process itself needs one block for each thread. Nothing in a file is executed.
"""

from __future__ import annotations

import json
import mmap
import os
import pickle
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import nan, prod
from pathlib import Path
from typing import Any

import torch

from weightscope.errors import CheckpointError
from weightscope.statistics.records import (
    ModelStatistics,
    ParameterStatistics,
    SkippedParameter,
    TensorSummary,
)
from weightscope.statistics.summary import (
    SummaryRequest,
    summarize_many,
    unreadable,
    warning_about,
)

_LARGEST_HEADER = 100_000_000
_LOADED_SILENTLY = 64 << 20
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E8M0": torch.float8_e8m0fnu,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "C64": torch.complex64,
}


def scan(
    path: str | os.PathLike[str],
    *,
    fast: bool = False,
    threads: int | None = None,
    progress: bool = False,
) -> ModelStatistics:
    """Statistics of every tensor in a checkpoint of any size, in the order of the file.

    Args:
        path: A ``.safetensors`` file, the ``.index.json`` of a sharded one, or what ``torch.save``
            wrote (``.pt``, ``.pth``, ``.ckpt``, ``.bin``). The content decides, not the name.
            Tensors in nested dictionaries are named by their path, ``"model.conv.weight"``. Files
            of torch.save's old format (before 1.6) cannot be mapped: they are loaded whole, which
            takes as much memory as the file is large and, above 64 MiB, is warned of.
        fast: See ``summarize``.
        threads: Number of threads; None for ``torch.get_num_threads()``.
        progress: Whether to show a progress bar.

    Returns:
        One record for each tensor, without a null (a file does not say what its tensors are), what
        was skipped and why, and the share of elements measured.

    Raises:
        CheckpointError: If the file is missing, empty, truncated, contradicts itself, holds code,
            or is no checkpoint.
    """
    tensors = _open(Path(path))
    places: dict[str, torch.Tensor] = {}
    skipped = []
    total = 0
    for name, tensor in tensors.items():
        if isinstance(tensor, _Foreign):
            total += tensor.elements
            skipped.append(SkippedParameter(name, tensor.reason))
            continue
        total += tensor.numel()
        reason = unreadable(tensor)
        if reason:
            skipped.append(SkippedParameter(name, reason))
        else:
            places[name] = tensor
    requests = [SummaryRequest(tensor) for tensor in places.values()]
    summaries = summarize_many(requests, fast=fast, threads=threads, progress=progress)
    records = tuple(
        _record(name, tensor, summary)
        for (name, tensor), summary in zip(places.items(), summaries, strict=True)
    )
    covered = sum(record.count for record in records)
    return ModelStatistics(records, tuple(skipped), covered / total if total else 1.0)


def _record(name: str, tensor: torch.Tensor, summary: TensorSummary) -> ParameterStatistics:
    return ParameterStatistics(
        layer=name.rpartition(".")[0],
        parameter=name,
        kind="tensor",
        dtype=str(tensor.dtype).removeprefix("torch."),
        shape=tuple(tensor.shape),
        fan_in=0,
        fan_out=0,
        count=summary.count,
        is_kernel=False,
        shared_with=(),
        summary=summary,
        null=None,
        comparison=None,
        near_zero_relative=nan,
        spectrum=None,
        folded_std=None,
        warning=warning_about(summary, is_kernel=False),
    )


@dataclass(frozen=True)
class _Foreign:
    """A tensor that torch has no dtype for."""

    elements: int
    reason: str


def _open(path: Path) -> Mapping[str, torch.Tensor | _Foreign]:
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder; name the file in it")
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(64)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
    if not size:
        raise CheckpointError(f"{path} is empty; copy or download it again")
    if start[8:9] == b"{":
        return _safetensors(path)
    if start.lstrip()[:1] == b"{":
        return _sharded(path)
    if start[:2] == b"PK":
        return _torch_zip(path)
    if start[:1] == b"\x80":
        if size > _LOADED_SILENTLY:
            warnings.warn(
                f"{path} is in torch.save's format from before version 1.6, which cannot be read "
                f"piece by piece: {size / 2**20:,.0f} MiB are loaded into memory. Loading it once "
                "and saving it again with torch.save makes it mappable",
                stacklevel=3,
            )
        return _flatten(_load(path, mapped=False), path)
    raise CheckpointError(
        f"{path} is no checkpoint: it is neither a safetensors file, nor its index, nor written by "
        "torch.save"
    )


def _safetensors(path: Path) -> Mapping[str, torch.Tensor | _Foreign]:
    """Map the tensors of a safetensors file; every claim of its header is checked first."""
    with path.open("rb") as file:
        # private and writable, which torch asks for; nothing is written
        memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    if hasattr(memory, "madvise"):
        memory.madvise(mmap.MADV_SEQUENTIAL)
    length = int.from_bytes(memory[:8], "little")
    data = 8 + length
    if data > len(memory) or length > _LARGEST_HEADER:
        raise CheckpointError(
            f"{path} is truncated or damaged: its header claims {length:,} bytes, the file has "
            f"{len(memory):,}; copy or download it again"
        )
    header = _json(memory[8:data], path)
    header.pop("__metadata__", None)
    claims = {name: _claim(name, entry, path) for name, entry in header.items()}
    _check_layout(claims, len(memory) - data, path)
    return {
        name: _view(memory, data + begin, kind, shape)
        for name, (kind, shape, begin, _) in claims.items()
    }


_Claim = tuple[str, tuple[int, ...], int, int]


def _claim(name: str, entry: Any, path: Path) -> _Claim:
    try:
        kind, shape = entry["dtype"], tuple(entry["shape"])
        begin, end = entry["data_offsets"]
    except (TypeError, KeyError, ValueError) as error:
        raise CheckpointError(f"{path}: the header of tensor {name!r} is incomplete") from error
    numbers = (*shape, begin, end)
    if not isinstance(kind, str) or not all(type(n) is int and n >= 0 for n in numbers):
        raise CheckpointError(f"{path}: the header of tensor {name!r} makes no sense")
    size = prod(shape) * _DTYPES[kind].itemsize if kind in _DTYPES else end - begin
    if end - begin != size:
        raise CheckpointError(
            f"{path}: tensor {name!r} of shape {shape} and dtype {kind} takes {size:,} bytes, its "
            f"header gives it {end - begin:,}; the file is damaged"
        )
    return kind, shape, begin, end


def _check_layout(claims: Mapping[str, _Claim], size: int, path: Path) -> None:
    reached = 0
    for name, (_, _, begin, end) in sorted(claims.items(), key=lambda claim: claim[1][2:]):
        if end > size:
            raise CheckpointError(
                f"{path} is truncated: tensor {name!r} ends at byte {end:,} of the data, the file "
                f"has {size:,}; copy or download it again"
            )
        if begin != reached:
            raise CheckpointError(
                f"{path}: tensor {name!r} begins at byte {begin:,} of the data, the one before it "
                f"ends at {reached:,}; the file is damaged"
            )
        reached = end
    if reached != size:
        raise CheckpointError(f"{path}: {size - reached:,} bytes behind the last tensor; damaged")


def _view(
    memory: mmap.mmap, begin: int, kind: str, shape: tuple[int, ...]
) -> torch.Tensor | _Foreign:
    dtype = _DTYPES.get(kind)
    count = prod(shape)
    if dtype is None:
        return _Foreign(count, f"dtype {kind} is not read; convert it to a float dtype first")
    if not count:
        return torch.empty(shape, dtype=dtype)
    if begin % dtype.itemsize:  # allowed by the format, but no tensor may lie like that
        part = bytearray(memory[begin : begin + count * dtype.itemsize])
        return torch.frombuffer(part, dtype=dtype).view(shape)
    return torch.frombuffer(memory, dtype=dtype, count=count, offset=begin).view(shape)


def _sharded(path: Path) -> Mapping[str, torch.Tensor | _Foreign]:
    """Map the tensors that an index of shards names, in its order."""
    files = _json(path.read_bytes(), path).get("weight_map")
    if not isinstance(files, dict) or not files:
        raise CheckpointError(f"{path} is JSON but no index of a checkpoint: it has no weight_map")
    shards: dict[str, Mapping[str, torch.Tensor | _Foreign]] = {}
    tensors = {}
    for name, file in files.items():
        if not isinstance(file, str) or Path(file).name != file:
            raise CheckpointError(f"{path}: {file!r} is not the name of a file in the same folder")
        if file not in shards:
            shards[file] = _open(path.parent / file)
        if name not in shards[file]:
            raise CheckpointError(f"{path} places {name!r} in {file}, which does not have it")
        tensors[name] = shards[file][name]
    return tensors


def _json(text: bytes, path: Path) -> dict[str, Any]:
    try:
        content = json.loads(text, object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: the header is not readable JSON ({error})") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: the header is JSON but lists no tensors")
    return content


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ValueError("a name occurs twice")
    return content


def _torch_zip(path: Path) -> Mapping[str, torch.Tensor | _Foreign]:
    try:
        with zipfile.ZipFile(path) as archive:
            packed = any(entry.compress_type for entry in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} is truncated or damaged ({error}); copy or download it again"
        ) from error
    if packed:
        raise CheckpointError(f"{path} is a compressed archive; save it with torch.save instead")
    return _flatten(_load(path, mapped=True), path)


def _load(path: Path, *, mapped: bool) -> object:
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        raise CheckpointError(
            f"{path} holds more than tensors{f' ({named[1]})' if named else ''}, and code in it is "
            "not run; save model.state_dict() instead of the model"
        ) from error
    except Exception as error:
        raise CheckpointError(
            f"{path} is damaged or was not written by torch.save ({_first_line(error)})"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _flatten(content: object, path: Path) -> Mapping[str, torch.Tensor]:
    tensors = dict(_leaves(content, "", frozenset()))
    if not tensors:
        raise CheckpointError(f"{path} holds no tensors; is it a checkpoint?")
    return tensors


def _leaves(
    content: object, name: str, above: frozenset[int]
) -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(content, torch.Tensor):
        yield name or "tensor", content.detach()
    elif isinstance(content, Mapping | list | tuple) and id(content) not in above:
        pairs = content.items() if isinstance(content, Mapping) else enumerate(content)
        for key, value in pairs:
            yield from _leaves(value, f"{name}.{key}" if name else str(key), above | {id(content)})
