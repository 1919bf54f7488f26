"""What the library itself wrote with `torch.save`, read back by the reader that runs nothing."""

from __future__ import annotations

import os
from typing import Any

from weightscope.checkpoints.limits import MOST_VIEWS
from weightscope.checkpoints.source import Source, path_of, quoted
from weightscope.checkpoints.stored import Stored
from weightscope.checkpoints.torch_files import read_archive
from weightscope.errors import CheckpointError


def load_plain(path: str | os.PathLike[str]) -> Any:
    """Dictionaries, lists, tuples, texts, numbers and tensors that `write_pickle` wrote.

    Keys are texts or whole numbers. It takes no more memory than the file has bytes, beside a block
    for what describes them.

    Raises:
        CheckpointError: It is missing, damaged, holds anything else, or changed while it was read.
        InputError: ``path`` is no path.
    """
    source = Source.open(path_of(path))
    if source.text(0, min(source.size, 2)) != b"PK":
        raise CheckpointError(f"{source.path} is no archive as torch.save writes; give another one")
    reader = _Reader(source)
    try:
        found = reader.value(read_archive(source))
    except RecursionError as error:
        raise CheckpointError(f"{source.path} nests its content too deeply") from error
    source.check()
    return found


class _Reader:
    """Makes values of what a file describes; what occurs twice is made once."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._left = MOST_VIEWS * source.size
        self._made: dict[int, Any] = {}

    def value(self, node: Any) -> Any:
        if node is None or isinstance(node, str | int | float):
            return node
        if id(node) not in self._made:
            self._made[id(node)] = self._container(node)
        return self._made[id(node)]

    def _container(self, node: Any) -> Any:
        if isinstance(node, Stored):
            return self._tensor(node)
        if isinstance(node, tuple):
            return tuple(map(self.value, node))
        if isinstance(node, list):
            return [self.value(item) for item in node]
        if isinstance(node, dict):
            return {self._key(key): self.value(item) for key, item in node.items()}
        raise CheckpointError(f"{self._source.path} holds more than plain values and tensors")

    def _tensor(self, stored: Stored) -> Any:
        if stored.reason or stored.dtype is None or stored.overlaps:
            raise CheckpointError(
                f"{self._source.path}: a tensor in it cannot be read: {stored.reason or 'a view'}"
            )
        self._left -= stored.span * stored.dtype.itemsize
        if self._left < 0:
            raise CheckpointError(f"{self._source.path}: many tensors in it are the same numbers")
        return stored.tensor()

    def _key(self, key: Any) -> Any:
        if isinstance(key, str):
            return key
        try:
            return int(key.said)  # the reader keeps numbers as texts
        except (AttributeError, ValueError) as error:
            raise CheckpointError(f"{self._source.path}: {quoted(key)} in it is no name") from error
