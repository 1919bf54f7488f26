"""One regular file, opened once and read piece by piece.

It is not mapped into memory: whoever cuts a mapped file ends every process that reads it.
"""

from __future__ import annotations

import io
import os
import stat
import threading
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weightscope.arguments import path_text
from weightscope.errors import CheckpointError

Bytes = NDArray[np.uint8]

# from here on the system's own reading ahead (128 KiB where it is not told otherwise) is little
_LARGE = 1 << 20

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def path_of(path: Any) -> str:
    """A path as text.

    Raises:
        InputError: It is none.
    """
    return path_text(path, "of a checkpoint")


def quoted(name: object) -> str:
    """A name from a file for a message: spelled out, and cut where it is long."""
    text = repr(name) if isinstance(name, str | int) else f"<{type(name).__name__}>"
    return text if len(text) <= 120 else f"{text[:100]}..."


@dataclass(frozen=True, eq=False)
class Source:
    """A regular file that stays open as long as somebody holds this.

    What was read belongs to the file as it was when it was opened: a file put in its place does not
    matter, and one that was written to is refused.

    Attributes:
        path: As it was given.
        size: Bytes, when it was opened.
    """

    path: str
    size: int
    _descriptor: int
    _modified: int
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def open(cls, path: str) -> Source:
        """Open a regular file, never waiting for anything.

        Raises:
            CheckpointError: It is missing, empty, or not a regular file.
        """
        try:
            kind = stat.S_IFMT(os.stat(path).st_mode)
            if kind == stat.S_IFREG:
                flags = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)
                descriptor = os.open(path, flags | getattr(os, "O_CLOEXEC", 0))
                status = os.fstat(descriptor)
                source = cls(path, status.st_size, descriptor, status.st_mtime_ns)
                kind = stat.S_IFMT(status.st_mode)
        except (OSError, ValueError) as error:  # ValueError: names that no file can have
            reason = getattr(error, "strerror", None) or error
            raise CheckpointError(f"cannot read {path!r}: {reason}; check the path") from error
        if kind != stat.S_IFREG:
            what = _KINDS.get(kind, "no regular file")
            raise CheckpointError(f"{path} is {what}; give the path of a file")
        if not source.size:
            raise CheckpointError(f"{path} is empty; copy or download it again")
        return source

    def __del__(self) -> None:
        os.close(self._descriptor)

    def read(self, begin: int, size: int) -> Bytes:
        """Bytes ``begin`` to ``begin + size``, in memory of their own, shape (size,).

        Raises:
            CheckpointError: The file does not have them, or not any more.
        """
        if not 0 <= begin <= begin + size <= self.size:
            raise CheckpointError(
                f"{self.path} is truncated or damaged: it places something at byte {begin:,} of "
                f"{self.size:,}; copy or download it again"
            )
        if size >= _LARGE and hasattr(os, "posix_fadvise"):
            # while this range is measured the disk brings the next ones, of one thread or two
            os.posix_fadvise(self._descriptor, begin + size, 2 * size, os.POSIX_FADV_WILLNEED)
        bytes_ = np.empty(size, np.uint8)
        self.fill(memoryview(bytes_.data), begin)
        return bytes_

    def fill(self, view: memoryview, begin: int) -> None:
        """Read the bytes from ``begin`` on into memory that is there.

        Raises:
            CheckpointError: The file does not have them any more.
        """
        done = 0
        try:
            while done < len(view):
                count = self._read_into(view[done:], begin + done)
                if not count:
                    raise self._changed()
                done += count
        except OSError as error:
            raise CheckpointError(
                f"cannot read {self.path}: {error.strerror or error}; check the disk"
            ) from error
        self.check()  # else old and new numbers would stand side by side

    def text(self, begin: int, size: int) -> bytes:
        """The same as ``bytes``."""
        return self.read(begin, size).tobytes()

    def stream(self, begin: int = 0, end: int | None = None) -> io.BufferedReader:
        """The bytes from ``begin`` to ``end``, one after the other; ``tell`` counts from byte 0."""
        return io.BufferedReader(_Part(self, begin, self.size if end is None else end))

    def check(self) -> None:
        """Refuse a file that was written to since it was opened.

        Raises:
            CheckpointError: It was.
        """
        status = os.fstat(self._descriptor)
        if (status.st_size, status.st_mtime_ns) != (self.size, self._modified):
            raise self._changed()

    def _changed(self) -> CheckpointError:
        return CheckpointError(
            f"{self.path} was changed while it was read; wait until it is written, then try again"
        )

    def _read_into(self, view: memoryview, begin: int) -> int:
        if hasattr(os, "preadv"):
            return os.preadv(self._descriptor, [view], begin)
        with self._lock:
            os.lseek(self._descriptor, begin, os.SEEK_SET)
            some = os.read(self._descriptor, len(view))
        view[: len(some)] = some
        return len(some)


class _Part(io.RawIOBase):
    """A part of a file, as `io` wants it."""

    def __init__(self, source: Source, begin: int, end: int) -> None:
        self._source = source
        self._at = begin
        self._end = end

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._end}[whence]
        if start + offset < 0:
            raise OSError("a place before the file")
        self._at = start + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        count = max(min(len(buffer), self._end - self._at), 0)
        self._source.fill(memoryview(buffer)[:count], self._at)
        self._at += count
        return count
