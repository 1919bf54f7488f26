"""Files that ``torch.save`` wrote: zip archives, and the format from before version 1.6."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from weightscope.checkpoints.limits import (
    LARGEST_DIRECTORY,
    MOST_STEPS,
    MOST_STEPS_BEFORE,
    MOST_STEPS_TWICE,
    MOST_TENSORS,
    TooMuchError,
)
from weightscope.checkpoints.names import CodeError
from weightscope.checkpoints.pickles import Storage, unpickle
from weightscope.checkpoints.source import Source, quoted
from weightscope.errors import CheckpointError

_MAGIC = 0x1950A86A20F9469CFC6C
_LOCAL_HEADER, _END, _LONG_END, _LOCATOR = 30, 22, 56, 20
_ENCRYPTED, _UTF_8, _FOLDER = 0x1, 0x800, 0x10
_EXPORTED = ("serialized_exported_program.json", "models/model.json", "archive_format")
_AGAIN = "copy or download it again"
_REORDER = "save what torch.load(path) gives with torch.save on a little-endian machine"


def read_archive(source: Source) -> Any:
    """The content of a zip archive that torch.save wrote; its numbers stay in the file.

    Raises:
        CheckpointError: It is damaged, something else, or would run code.
    """
    records = _records(source)
    described = [name for name in records if name.endswith("/data.pkl")] or [
        name for name in records if name == "data.pkl"
    ]
    if len(described) != 1:
        if records and all(name.endswith(".npy") for name in records):
            raise CheckpointError(
                f"{source.path} is an archive of numpy arrays; save them by name with "
                "safetensors.numpy.save_file"
            )
        raise CheckpointError(
            f"{source.path} is a zip archive that was not written by torch.save; give the file of "
            "weights that is in it"
        )
    root = described[0][: -len("data.pkl")]
    record = records.get(f"{root}byteorder")
    order = b"little" if record is None else source.text(record.begin, min(record.size, 10))
    if order == b"big":
        raise CheckpointError(f"{source.path} holds big-endian numbers; {_REORDER}")
    if order != b"little":
        raise CheckpointError(
            f"{source.path} is damaged: its order of bytes is neither little nor big; {_AGAIN}"
        )

    kinds: dict[int, torch.dtype | None] = {}

    def locate(key: Any, dtype: torch.dtype | None, count: int) -> Storage:
        record = records.get(f"{root}data/{key}") if isinstance(key, str | int) else None
        if record is None:
            raise ValueError(f"the numbers {quoted(key)} are missing")
        size = 1 if dtype is None else dtype.itemsize
        if record.size != count * size:
            raise ValueError(
                f"{count * size:,} bytes of numbers are claimed, {record.size:,} are there"
            )
        if kinds.setdefault(record.begin, dtype) != dtype:  # torch reads both as the first
            raise ValueError(f"the numbers {quoted(key)} are claimed to be of two kinds")
        return Storage(dtype, count, record.begin, source)

    pickle = records[described[0]]
    program = source.stream(pickle.begin, pickle.begin + pickle.size)
    return _described(source, program, locate, MOST_STEPS)


@dataclass(frozen=True)
class _Record:
    """Where a record's bytes lie in the file."""

    begin: int
    size: int


def _refuse_programs(source: Source, names: Sequence[str]) -> None:
    """Name archives that torch wrote and that hold more than weights."""
    if any("/code/" in name or name.endswith("constants.pkl") for name in names):
        raise CheckpointError(
            f"{source.path} is a TorchScript archive, a program with its weights; where you trust "
            "it, save torch.jit.load(path).state_dict() with torch.save, and give that file"
        )
    if any(name.endswith(_EXPORTED) for name in names):
        raise CheckpointError(
            f"{source.path} is an exported program; save torch.export.load(path).state_dict with "
            "torch.save, and give that file"
        )


def _records(source: Source) -> Mapping[str, _Record]:
    """The records of an archive, after all claims about where they lie were checked."""
    try:
        with _Directory(source.stream().detach()) as file, zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            end = archive.start_dir
        _check_end(source, len(entries), end)
        # `zipfile` finds an archive behind other data, such as another archive; torch does not
        if entries and min(entry.header_offset for entry in entries) != 0:
            raise ValueError("something lies before its first record")
    except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{source.path} is truncated or damaged ({str(error)[:200]}); {_AGAIN}"
        ) from error
    _refuse_programs(source, [entry.filename for entry in entries])
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise CheckpointError(
            f"{source.path} is a compressed archive; unpack it and give the file of weights in it, "
            "or save it with torch.save again"
        )
    records: dict[str, _Record] = {}
    if not entries:
        return {}
    if len({entry.filename.lower() for entry in entries}) < len(entries):
        # torch looks a record up whatever the case of its letters, and may find the other one
        raise CheckpointError(
            f"{source.path} is damaged: two of its records have one name; {_AGAIN}"
        )
    entries.sort(key=lambda entry: entry.header_offset)
    starts = [entry.header_offset for entry in entries]
    for entry, following in zip(entries, [*starts[1:], end], strict=True):
        record = _record(source, entry, following)
        if record is None or entry.filename in records:
            raise CheckpointError(
                f"{source.path} is damaged: its record {quoted(entry.filename)} does not lie where "
                f"the archive says, or occurs twice; {_AGAIN}"
            )
        records[entry.filename] = record
    return records


class _Directory(io.BufferedReader):
    """A file for `zipfile`, which reads the directory at once, however long it is said to be."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > LARGEST_DIRECTORY:
            raise ValueError(f"a directory of {size >> 20:,} MiB")
        return super().read(size)


def _record(source: Source, entry: zipfile.ZipInfo, following: int) -> _Record | None:
    """Where a record lies between its header and the next one; None if they contradict."""
    begin = entry.header_offset
    if begin + _LOCAL_HEADER > following:
        return None
    head = source.text(begin, _LOCAL_HEADER)
    names, extra = struct.unpack("<HH", head[26:30])
    data = begin + _LOCAL_HEADER + names + extra
    gap = following - data - entry.file_size
    if (
        head[:4] != b"PK\x03\x04"
        or entry.flag_bits & _ENCRYPTED
        or entry.external_attr & _FOLDER
        or entry.compress_size != entry.file_size
        or gap < 0
        # behind the numbers comes the next header, or a description of them: a header that lies
        # about its own length would shift all of them
        or (gap and (gap not in (16, 24) or source.text(following - gap, 4) != b"PK\x07\x08"))
    ):
        return None
    alphabet = "utf-8" if entry.flag_bits & _UTF_8 else "cp437"
    name = entry.orig_filename.encode(alphabet, "replace")
    same = source.text(begin + _LOCAL_HEADER, names) == name
    return _Record(data, entry.file_size) if same else None


def _check_end(source: Source, count: int, directory: int) -> None:
    """Refuse an archive whose last records do not agree with it, as torch does.

    Args:
        source: The file.
        count: Number of records that were found.
        directory: Where the directory was found.
    """
    end = source.text(source.size - _END, _END)
    disks, counts = end[4:8], {*struct.unpack("<HH", end[8:12])}
    places = {int.from_bytes(end[16:20], "little")}
    at = source.size - _END - _LOCATOR - _LONG_END
    if at >= 0:
        long_end = source.text(at, _LONG_END + _LOCATOR)
        if long_end[_LONG_END:][:4] == b"PK\x06\x07":
            if int.from_bytes(long_end[_LONG_END:][8:16], "little") != at:
                raise zipfile.BadZipFile("its last record does not fit the others")
            # what does not fit into the short record, or is not to be there, is all ones in it
            counts = (counts - {0xFFFF}) | {*struct.unpack("<QQ", long_end[24:40])}
            places = (places - {0xFFFFFFFF}) | {int.from_bytes(long_end[48:56], "little")}
    if end[:4] != b"PK\x05\x06" or any(disks) or counts != {count}:
        raise zipfile.BadZipFile("its last record does not fit the others")
    if places != {directory}:
        raise zipfile.BadZipFile("its directory does not lie where it says")


def read_old_format(source: Source) -> Any:
    """The content of a file of torch.save from before version 1.6; its numbers stay in the file.

    Raises:
        CheckpointError: It is damaged, something else, or would run code.
    """
    stream = source.stream()
    nowhere = Storage(None, 0, 0, source)
    try:
        found = unpickle(stream, lambda *_: nowhere, MOST_STEPS_BEFORE)
    except CodeError as error:
        raise _runs_code(source, error) from error
    except ValueError:
        found = None
    if found != _MAGIC:
        raise CheckpointError(
            f"{source.path} is a pickle that was not written by torch.save; save "
            "model.state_dict() with torch.save, and give that file"
        )
    _described(source, stream, lambda *_: nowhere, MOST_STEPS_BEFORE)  # the version
    machine = _described(source, stream, lambda *_: nowhere, MOST_STEPS_BEFORE)
    if isinstance(machine, dict) and machine.get("little_endian") is False:
        raise CheckpointError(f"{source.path} holds big-endian numbers; {_REORDER}")
    # The numbers lie behind the description, in an order that stands behind it too.
    start = stream.tell()
    sizes: dict[Any, tuple[torch.dtype | None, int]] = {}

    def note(key: Any, dtype: torch.dtype | None, count: int) -> Storage:
        if not isinstance(key, str):  # a number's hash, or a deep one, is for the file to choose
            raise ValueError("the numbers of a tensor in it have no name")
        if len(sizes) > MOST_TENSORS:
            raise TooMuchError(f"it has the numbers of more than {MOST_TENSORS:,} tensors")
        sizes[key] = dtype, count
        return Storage(dtype, count, 0, source)

    _described(source, stream, note, MOST_STEPS_TWICE)
    keys = _described(source, stream, lambda *_: nowhere, MOST_STEPS_TWICE // 4)
    begins = _begins(source, stream.tell(), keys if isinstance(keys, list) else [], sizes)

    def locate(key: Any, dtype: torch.dtype | None, count: int) -> Storage:
        if key not in begins or sizes[key] != (dtype, count):
            raise ValueError(f"the numbers {quoted(key)} are missing")
        return Storage(dtype, count, begins[key], source)

    return _described(source, source.stream(start), locate, MOST_STEPS_TWICE)


def _begins(
    source: Source, at: int, keys: list[Any], sizes: Mapping[Any, tuple[torch.dtype | None, int]]
) -> dict[Any, int]:
    """Where the numbers of each storage begin: their count stands before them.

    Args:
        source: A file of the old format.
        at: Where the first count stands.
        keys: The storages in the order in which they lie there.
        sizes: Their number formats and counts.

    Raises:
        CheckpointError: The storages do not fill the rest of the file.
    """
    begins: dict[Any, int] = {}
    for key in keys:
        if not isinstance(key, str) or key not in sizes or key in begins:
            raise CheckpointError(f"{source.path} is damaged: it lists its numbers wrongly")
        dtype, count = sizes[key]
        length = count * (1 if dtype is None else dtype.itemsize)
        claimed = source.text(at, 8) if at + 8 <= source.size else b""
        if int.from_bytes(claimed, "little") != count or at + 8 + length > source.size:
            raise CheckpointError(
                f"{source.path} is truncated or damaged: of {length:,} bytes of numbers at byte "
                f"{at:,} not all are there; {_AGAIN}"
            )
        begins[key] = at + 8
        at += 8 + length
    if at != source.size:
        raise CheckpointError(
            f"{source.path} is damaged: {source.size - at:,} bytes behind its numbers; {_AGAIN}"
        )
    return begins


def _described(source: Source, stream: Any, locate: Any, most_steps: int) -> Any:
    try:
        return unpickle(stream, locate, most_steps)
    except CodeError as error:
        raise _runs_code(source, error) from error
    except TooMuchError as error:
        raise CheckpointError(
            f"{source.path} is no checkpoint of sane size: {error}; save model.state_dict() alone"
        ) from error
    except ValueError as error:
        raise CheckpointError(
            f"{source.path} is damaged or was not written by torch.save ({str(error)[:200]}); "
            f"{_AGAIN}"
        ) from error


def _runs_code(source: Source, error: CodeError) -> CheckpointError:
    return CheckpointError(
        f"{source.path} holds more than tensors ({str(error)[:100]}), and code in it is not run; "
        "load it only where you trust who wrote it, and save model.state_dict() instead"
    )
