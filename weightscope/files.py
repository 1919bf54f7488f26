"""Files that are either complete or not there."""

from __future__ import annotations

import json
import os
import secrets
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weightscope.arguments import path_text
from weightscope.errors import InputError

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor


@contextmanager
def written_atomically(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path next to ``path`` to write to, and move it there on success.

    The temporary file is synced and renamed when the block ends, and removed when the block
    raises, so ``path`` never holds half a file. A symbolic link is followed, not replaced. A file
    that is replaced keeps its permissions; a new one has those that the process gives new files.

    Args:
        path: Where the finished file goes.

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
    text = path_text(path, "of a file to write")
    temporary = target.parent / f".{secrets.token_hex(8)}.tmp"
    try:
        temporary.touch()  # some writers close their files to everybody else
        usual = temporary.stat().st_mode
        temporary.unlink()
        yield temporary
        with temporary.open("rb+") as written:
            os.fsync(written.fileno())
        temporary.chmod(stat.S_IMODE(target.stat().st_mode if target.exists() else usual))
        os.replace(temporary, target)
    except OSError as error:
        raise InputError(
            f"cannot write {text!r}: {error.strerror or error}; "
            "free some space or give a path that you may write to"
        ) from error
    finally:
        with suppress(OSError):  # a read-only folder refuses even what is not there
            temporary.unlink()


def writable_target(path: str | os.PathLike[str]) -> Path:
    """The absolute path of a file that could be written, links followed.

    Raises:
        InputError: ``path`` is a folder or a device, or its folder does not exist.
    """
    text = path_text(path, "of a file to write")
    try:
        target = Path(text).expanduser().resolve()
        is_file, exists, is_folder = target.is_file(), target.exists(), target.is_dir()
        has_folder = target.parent.is_dir()
    except (OSError, RuntimeError, ValueError) as error:  # a name that no file can have
        raise InputError(
            f"cannot write {text!r}: {getattr(error, 'strerror', None) or error}; "
            "give the path of a file"
        ) from error
    if is_folder:
        raise InputError(f"cannot write {text!r}: it is a folder; give the path of a file")
    if exists and not is_file:  # a finished file would take the place of the device
        raise InputError(f"cannot write {text!r}: it is no file; give the path of a file")
    if not has_folder:
        raise InputError(
            f"cannot write {text!r}: the folder {str(target.parent)!r} does not exist; "
            "create it first"
        )
    return target


def tensors_target(path: str | os.PathLike[str]) -> Path:
    """`writable_target` of a safetensors file, where its name is asked for before the work.

    Raises:
        InputError: As there, or the name ends as that of a file of another kind, which nobody who
            goes by it could read.
    """
    target, text = writable_target(path), path_text(path, "of a file to write")
    ending = Path(text).suffix
    is_version = ending[1:2].isdigit()  # small-0.5
    if ending.lower() not in ("", ".safetensors") and not is_version:
        raise InputError(
            f"cannot write {text!r}: the file would hold safetensors and its name says {ending}; "
            f"give {str(Path(text).with_suffix('.safetensors'))!r}"
        )
    return target


def write_tensors(
    tensors: Mapping[str, Tensor],
    path: str | os.PathLike[str],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write tensors as one safetensors file.

    Args:
        tensors: By name; none may share memory.
        path: The file, replaced atomically.
        metadata: Texts to write with them; equal ones give equal files.

    Raises:
        InputError: If the file cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    with written_atomically(path) as temporary:
        try:
            whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
            save_file(whole, temporary, None if metadata is None else dict(metadata))
        except SafetensorError as error:  # what it makes of a full disk
            raise OSError(str(error)) from error
        if metadata:
            _sort_header(temporary)


def _sort_header(path: Path) -> None:
    """Sort the texts of a safetensors file, whose writer puts them in another order every time."""
    with path.open("rb+") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        if len(text) <= size:  # the tensors begin where they did
            file.seek(8)
            file.write(text.ljust(size))


def write_pickle(content: Any, path: str | os.PathLike[str]) -> None:
    """Write a nest of plain values and tensors with `torch.save`.

    Raises:
        InputError: If the file cannot be written.
    """
    import torch

    with written_atomically(path) as temporary, temporary.open("wb") as file:
        try:
            torch.save(content, file)  # into a file by its name, it would write the name too
        except RuntimeError as error:  # what it makes of a full disk and of a folder that is closed
            raise OSError(f"torch could not write all of it ({str(error)[:200]})") from error


def make_folder(path: str | os.PathLike[str]) -> Path:
    """The folder, made where there is none.

    Raises:
        InputError: It cannot be made.
    """
    text = path_text(path, "of a folder")
    try:
        folder = Path(text)
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:  # a name that no folder can have
        raise InputError(
            f"cannot make the folder {text!r}: {getattr(error, 'strerror', None) or error}; "
            "give a folder that you may write to"
        ) from error
    return folder


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write text as UTF-8, the file replaced atomically.

    Raises:
        InputError: If the file cannot be written.
    """
    with written_atomically(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_csv(frame: pd.DataFrame, path: str | os.PathLike[str]) -> None:
    """Write a frame as CSV that a spreadsheet cannot mistake for formulas.

    Names in checkpoints and models are untrusted: text that starts with one of ``= + - @`` or a tab
    gets a leading apostrophe, as OWASP advises against CSV injection, and a carriage return, which
    readers take for the end of a row where no quotes are around it, is spelled out.

    Args:
        frame: What to write; numbers are left alone.
        path: The file, replaced atomically.

    Raises:
        InputError: If the file cannot be written.
    """
    import pandas as pd

    safe = frame.rename(columns=_defused)
    for column in safe.columns:
        if not pd.api.types.is_numeric_dtype(safe[column]):
            safe[column] = [_defused(value) for value in safe[column]]
    with written_atomically(path) as temporary:
        safe.to_csv(temporary, index=False, errors="backslashreplace")


def _defused(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    text = value.replace("\r", "\\r")
    return "'" + text if text.startswith(("=", "+", "-", "@", "\t")) else text
