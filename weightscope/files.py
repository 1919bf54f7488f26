"""Files that are either complete or not there."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from weightscope.errors import InputError


@contextmanager
def written_atomically(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path beside ``path`` to write to, and move it there on success.

    The temporary file is synced and renamed when the block ends, and removed when the block
    raises, so ``path`` never holds half a file. A symbolic link is followed, not replaced.

    Args:
        path: Where the finished file shall be.

    Yields:
        A path in the same folder that does not exist yet.

    Raises:
        InputError: The folder is missing or not writable, ``path`` is a folder, or the disk is
            full; the text names ``path`` and the cause.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> with written_atomically(folder / "note.txt") as temporary:
        ...     _ = temporary.write_text("done")
        >>> [entry.name for entry in folder.iterdir()]
        ['note.txt']
    """
    target = writable_target(path)
    temporary = target.parent / f".{secrets.token_hex(8)}.tmp"
    try:
        yield temporary
        with temporary.open("rb+") as written:
            os.fsync(written.fileno())
        os.replace(temporary, target)
    except OSError as error:
        raise InputError(
            f"cannot write {str(path)!r}: {error.strerror or error}; "
            "free some space or give a path that you may write to"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def writable_target(path: str | os.PathLike[str]) -> Path:
    """The absolute path of a file that could be written, links followed.

    Raises:
        InputError: ``path`` is a folder, or its folder does not exist.
    """
    target = Path(path).expanduser().resolve()
    if target.is_dir():
        raise InputError(f"cannot write {str(path)!r}: it is a folder; give the path of a file")
    if not target.parent.is_dir():
        raise InputError(
            f"cannot write {str(path)!r}: the folder {str(target.parent)!r} does not exist; "
            "create it first"
        )
    return target
