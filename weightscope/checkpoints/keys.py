"""Keys of the dictionaries in a pickle: equal where Python takes them for equal.

The hash of a key must not be for the file to choose: numbers of equal hashes make a dictionary
slow, and deeply nested ones end the process. Hashes of texts are secret, so a text stands for each.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from weightscope.checkpoints.limits import LONGEST_TEXT
from weightscope.checkpoints.names import Inert

_SCALARS = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
_FORMAT = re.compile(r"b1|[iu][1248]|f[248]|[US]\d{1,4}")
_MOST_MEMBERS = 8


@dataclass(frozen=True, slots=True)
class Key:
    """What stands for a key that is no text.

    Attributes:
        same: Equal for equal keys.
        said: What it is called; of equal keys the first one's, as in Python.
    """

    same: str
    said: str = field(compare=False)


def key_of(key: Any, place: int) -> str | bytes | Key | None:
    """A text, bytes and None themselves, else what stands for the key.

    Args:
        key: A number, a tuple of such keys, or anything else: it is equal to no other.
        place: Its place in the dictionary.
    """
    key = _plain(key)
    if isinstance(key, str | bytes) or key is None:
        return key
    if isinstance(key, tuple) and 0 < len(key) <= _MOST_MEMBERS:
        members = [_member(_plain(member)) for member in key]
        end = ",)" if len(key) == 1 else ")"
        same, said = (f"({', '.join(texts)}{end}" for texts in zip(*members, strict=True))
        if all(text for text, _ in members) and len(same) + len(said) <= LONGEST_TEXT:
            return Key(same, said)
    same, said = _member(key)
    if not same:
        same = said = f"<{type(key).__name__} {place}>"
    return Key(same, said)


def _plain(key: Any) -> Any:
    """The number, text or bytes that an object stands for, if it does."""
    if not isinstance(key, Inert):
        return key
    made_by, arguments = str(key.made_by), key.arguments
    if made_by == "torch.Size" and len(arguments) == 1:
        return arguments[0]
    if made_by == "_codecs.encode" and len(arguments) == 2 and arguments[1] == "latin1":
        return _bytes_of(arguments[0], key)
    if made_by == "builtins.complex" and len(arguments) == 2:
        real, imaginary = arguments
        return complex(real, imaginary) if type(real) is type(imaginary) is float else key
    if made_by in _SCALARS and len(arguments) == 2:
        return _scalar(arguments[0], _plain(arguments[1]), key)
    return key


def _bytes_of(text: Any, otherwise: Any) -> Any:
    try:
        return text.encode("latin1") if isinstance(text, str) else otherwise
    except UnicodeEncodeError:
        return otherwise


def _scalar(dtype: Any, data: Any, otherwise: Any) -> Any:
    """What a number or text of numpy is in Python."""
    described = isinstance(dtype, Inert) and dtype.arguments and isinstance(dtype.state, tuple)
    if not described or not isinstance(data, bytes):
        return otherwise
    text, order = dtype.arguments[0], dtype.state[1:2]
    if not isinstance(text, str) or not _FORMAT.fullmatch(text) or order not in {("<",), ("|",)}:
        return otherwise
    try:
        return np.frombuffer(data, np.dtype(text).newbyteorder("<")).item()
    except ValueError:  # of another size, or letters that are none
        return otherwise


def _member(key: Any) -> tuple[str, str]:
    """A text that is equal for equal keys, and what the key is called; ``""`` if it is unknown."""
    if isinstance(key, str | bytes) or key is None:
        return repr(key), repr(key)
    if not isinstance(key, int | float | complex) or key != key:
        return "", ""
    said = "<a large number>" if isinstance(key, int) and abs(key) >> 64 else repr(key)
    if isinstance(key, complex):
        if key.imag:
            return repr(key + 0.0), said
        key = key.real
    return hex(int(key)) if isinstance(key, int) or key.is_integer() else repr(key), said
