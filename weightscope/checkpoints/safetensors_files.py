"""Safetensors files: every claim of the header is checked before a number is read."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

import torch

from weightscope.checkpoints.limits import LARGEST_HEADER, MOST_DESCRIBED, TooMuchError
from weightscope.checkpoints.others import SAMPLE, checkpoint_like, is_safetensors, what_it_is
from weightscope.checkpoints.source import Source, path_of, quoted
from weightscope.checkpoints.stored import Stored, absurd, contiguous, elements_of
from weightscope.errors import CheckpointError

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "F8_E8M0": torch.float8_e8m0fnu,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "C64": torch.complex64,
}
# formats that torch has no tensors of
_BITS = {"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6}
# Bytes that Python takes for what stands beside each mark of JSON, about; marks inside of names are
# counted as well, which only few have. Behind a colon it is a pair, until the dictionary is whole,
# and a place in one that has just grown. The keys of a header are the same three objects each time.
_TAKES = {
    "{": 90, "[": 70, ":": 130, ",": 40, '"': 30, '"dtype":': -120, '"shape":': -120,
    '"data_offsets":': -120,
}  # fmt: skip


# pairs whose own memory is worth freeing one by one
_MANY = 10_000


def read_safetensors(source: Source) -> Mapping[str, Stored]:
    """The tensors of a safetensors file, in the order of its header.

    Raises:
        CheckpointError: It is truncated, or contradicts itself.
    """
    return _tensors(source)[0]


RECIPE = "weightscope_recipe"
"""Under this a file says how the cut network in it is rebuilt."""


def holds_recipe(path: str | os.PathLike[str]) -> bool:
    """Whether a file is a cut network that `weightscope.save` wrote; it may be any file."""
    return holds_text(path, RECIPE)


def holds_text(path: str | os.PathLike[str], name: str) -> bool:
    """Whether the header of a safetensors file holds a text; it may be any file."""
    try:
        source = Source.open(path_of(path))
        if not is_safetensors(source.text(0, min(source.size, SAMPLE))):
            return False
        texts = _header(source)[1]
    except CheckpointError:
        return False
    return isinstance(texts, dict) and name in texts


def load_tensors(path: str | os.PathLike[str]) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """All tensors of a safetensors file, read as `scan` reads it, and the texts beside them.

    Raises:
        CheckpointError: It is missing, damaged, no such file, or changed while it was read.
        InputError: ``path`` is no path.
    """
    source = Source.open(path_of(path))
    start = source.text(0, min(source.size, SAMPLE))
    if not is_safetensors(start):
        known = what_it_is(start)
        what = checkpoint_like(start) or (known[0] if known else "something else, or damaged")
        raise CheckpointError(
            f"{source.path} is {what}; expected a safetensors file that weightscope wrote"
        )
    stored, texts = _tensors(source)
    if not isinstance(texts, dict) or not all(isinstance(text, str) for text in texts.values()):
        raise CheckpointError(f"{source.path}: what is written beside its tensors is no text")
    unknown = next((name for name, tensor in stored.items() if tensor.reason), None)
    if unknown is not None:
        raise CheckpointError(f"{source.path}: {quoted(unknown)}: {stored[unknown].reason}")
    tensors = {name: tensor.tensor() for name, tensor in stored.items()}
    source.check()
    return tensors, texts


def _tensors(source: Source) -> tuple[dict[str, Stored], Any]:
    """What a file holds, and what its header says beside it."""
    header, texts, data = _header(source)
    ends: list[tuple[int, int, str]] = []
    tensors = {}
    for name, entry in header.items():
        tensors[name], end = _claim(name, entry, data, source)
        ends.append((tensors[name].begin - data, end, name))
    _check_layout(ends, source.size - data, source.path)
    return tensors, texts


def _header(source: Source) -> tuple[dict[str, Any], Any, int]:
    """What the header says of each tensor and beside them, and where the data begin."""
    length = int.from_bytes(source.text(0, 8), "little") if source.size >= 8 else LARGEST_HEADER
    data = 8 + length
    if LARGEST_HEADER < length <= source.size - 8:
        raise CheckpointError(
            f"{source.path} is no checkpoint of sane size: its header has {length:,} bytes; save "
            "model.state_dict() alone, or in several files"
        )
    if data > source.size or length > LARGEST_HEADER:
        raise CheckpointError(
            f"{source.path} is truncated or damaged: its header claims {length:,} bytes, the file "
            f"has {source.size:,}; copy or download it again"
        )
    header = read_json(source, 8, length)
    texts = header.pop("__metadata__", {})
    return header, texts, data


def _claim(name: str, entry: Any, data: int, source: Source) -> tuple[Stored, int]:
    try:
        kind, shape = entry["dtype"], tuple(entry["shape"])
        begin, end = entry["data_offsets"]
    except (TypeError, KeyError, ValueError) as error:
        raise CheckpointError(
            f"{source.path}: the header of tensor {quoted(name)} is incomplete"
        ) from error
    if not isinstance(kind, str) or absurd(shape) or absurd([begin]) or absurd([end]):
        raise CheckpointError(f"{source.path}: the header of tensor {quoted(name)} makes no sense")
    dtype = _DTYPES.get(kind)
    count = elements_of(shape)
    bits = _BITS.get(kind) if dtype is None else 8 * dtype.itemsize
    if end < begin or (bits is not None and 8 * (end - begin) != count * bits):
        raise CheckpointError(
            f"{source.path}: tensor {quoted(name)} of shape {shape} and dtype {kind} takes "
            f"{count * (bits or 8) // 8:,} bytes, its header gives it {end - begin:,}; the file is "
            "damaged"
        )
    if bits is None and count > 8 * (end - begin):
        raise CheckpointError(
            f"{source.path}: tensor {quoted(name)} of shape {shape} has fewer bits than elements; "
            "the file is damaged"
        )
    reason = "" if dtype else f"dtype {kind} is not read; convert it to a float dtype first"
    place = None if reason else source
    return Stored(shape, dtype, contiguous(shape), data + begin, place, reason), end


def _check_layout(claims: list[tuple[int, int, str]], size: int, path: str) -> None:
    reached = 0
    for begin, end, name in sorted(claims):
        if end > size:
            raise CheckpointError(
                f"{path} is truncated: tensor {quoted(name)} ends at byte {end:,} of the data, the "
                f"file has {size:,}; copy or download it again"
            )
        if begin != reached:
            raise CheckpointError(
                f"{path}: tensor {quoted(name)} begins at byte {begin:,} of the data, the one "
                f"before it ends at {reached:,}; the file is damaged"
            )
        reached = end
    if reached != size:
        raise CheckpointError(f"{path}: {size - reached:,} bytes behind the last tensor; damaged")


def read_json(source: Source, begin: int, size: int) -> dict[str, Any]:
    """A JSON object in a file in which no name occurs twice.

    Raises:
        CheckpointError: It is none, or describes more than any checkpoint holds.
    """
    path = source.path
    try:
        content = parse_json(_decoded(source, begin, size))
    except TooMuchError as error:
        raise CheckpointError(
            f"{path} is no checkpoint of sane size: {error}; save model.state_dict() alone"
        ) from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: the header is not readable JSON ({error})") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: the header is JSON but lists no tensors")
    return content


def _decoded(source: Source, begin: int, size: int) -> str:
    """A part of a file as text; its bytes are gone when this returns."""
    found = source.text(begin, size)
    _check_length(found)
    return found.decode()


def _check_length(text: str | bytes) -> None:
    # one letter that is not of ASCII makes all of its text take up to four bytes each
    if len(text) * (1 if text.isascii() else 4) > LARGEST_HEADER:
        raise _too_much(text)


def _too_much(text: str | bytes) -> TooMuchError:
    return TooMuchError(f"{len(text):,} letters of JSON describe more than any checkpoint holds")


def parse_json(text: str) -> Any:
    """What a text describes, if it is in proportion and no name in it occurs twice.

    Raises:
        TooMuchError: It would take more memory than any checkpoint needs.
        ValueError: It is no JSON.
    """
    _check_length(text)
    wide = not text.isascii() or "\\u" in text  # a letter of ASCII may stand for one that is not
    takes = (4 if wide else 1) * len(text)
    takes += sum(size * text.count(mark) for mark, size in _TAKES.items())
    if takes > MOST_DESCRIBED:
        raise _too_much(text)
    try:
        return json.loads(text, object_pairs_hook=_without_duplicates)
    except ValueError as error:
        if "digits" in str(error):  # with advice on settings of Python, which help nobody here
            raise ValueError("a number in it has too many digits") from error
        raise


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    count = len(pairs)
    if count < _MANY:
        content = dict(pairs)
    else:  # the pairs go while the dictionary grows, which takes as much
        pairs.reverse()
        content = {}
        while pairs:
            name, value = pairs.pop()
            content[name] = value
    if len(content) < count:
        raise ValueError("a name occurs twice")
    return content
