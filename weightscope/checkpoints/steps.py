"""The steps of a pickle: which there are, and their arguments, read without holding long ones."""

from __future__ import annotations

import codecs
import io
import os
import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from weightscope.checkpoints.limits import LONGEST_TEXT

Argument = Callable[[io.BufferedReader], Any]


@dataclass(frozen=True)
class Long:
    """A text or number that was stepped over.

    Attributes:
        size: Bytes.
    """

    size: int


def _counted(width: int, decode: Callable[[bytes], Any]) -> Argument:
    """Reads what stands behind its own length."""

    def read(stream: io.BufferedReader) -> Any:
        size = int.from_bytes(_exactly(stream, width), "little")
        if size > LONGEST_TEXT:
            if size >> 62:
                raise ValueError("it ends too early")
            stream.seek(size, os.SEEK_CUR)
            return Long(size)
        return decode(_exactly(stream, size))

    return read


def _lines(count: int, decode: Callable[[io.BytesIO], Any]) -> Argument:
    """Reads what stands in lines of its own."""

    def read(stream: io.BufferedReader) -> Any:
        lines = [stream.readline(LONGEST_TEXT) for _ in range(count)]
        if not all(line.endswith(b"\n") for line in lines):
            raise ValueError("a line in it has no end")
        return decode(io.BytesIO(b"".join(lines)))

    return read


def _exactly(stream: io.BufferedReader, size: int) -> bytes:
    data = stream.read(size)
    if len(data) < size:
        raise ValueError("it ends too early")
    return data


def _utf_8(data: bytes) -> str:
    return data.decode("utf-8", "surrogatepass")


def _number(data: bytes) -> int:
    return int.from_bytes(data, "little", signed=True)


def text_of(data: bytes) -> str:
    """The text that bytes stand for, such as a name that Python 2 wrote.

    As torch reads it, in UTF-8; where it is none, letter by letter.
    """
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _line_of_text(stream: io.BytesIO) -> str:
    return text_of(codecs.escape_decode(pickletools.read_stringnl(stream, decode=False))[0])


_COUNTED = {
    "SHORT_BINUNICODE": _counted(1, _utf_8), "BINUNICODE": _counted(4, _utf_8),
    "BINUNICODE8": _counted(8, _utf_8), "SHORT_BINBYTES": _counted(1, bytes),
    "BINBYTES": _counted(4, bytes), "BINBYTES8": _counted(8, bytes),
    "BYTEARRAY8": _counted(8, bytes), "SHORT_BINSTRING": _counted(1, text_of),
    "BINSTRING": _counted(4, text_of), "LONG1": _counted(1, _number),
    "LONG4": _counted(4, _number),
}  # fmt: skip


def _argument(opcode: pickletools.OpcodeInfo) -> Argument | None:
    if opcode.arg is None:
        return None
    if opcode.name in _COUNTED:
        return _COUNTED[opcode.name]
    if opcode.name == "STRING":
        return _lines(1, _line_of_text)
    if opcode.arg.n == pickletools.UP_TO_NEWLINE:
        return _lines(2 if opcode.name in ("GLOBAL", "INST") else 1, opcode.arg.reader)
    return opcode.arg.reader


STEPS: dict[bytes, tuple[str, Argument | None]] = {
    opcode.code.encode("latin-1"): (opcode.name, _argument(opcode))
    for opcode in pickletools.opcodes
}
"""Name of every step, and what reads its argument, by the byte that stands for it."""
