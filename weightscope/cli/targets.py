"""Where a command writes: nothing of value is replaced."""

from __future__ import annotations

from pathlib import Path

from weightscope.errors import InputError, WeightscopeError
from weightscope.files import tensors_target, writable_target


def check_targets(*paths: str | None, tensors: str | None = None) -> None:
    """Refuse to write where nothing can be written, over somebody's weights, or twice to one file.

    Args:
        paths: Where outputs go; None where there is none.
        tensors: Where a safetensors file goes.

    Raises:
        InputError: One is no place for a file, holds a checkpoint, or is named twice; or the name
            of ``tensors`` is that of another kind of file.
    """
    seen: set[Path] = set()
    if tensors is not None:
        tensors_target(tensors)
    for path in (path for path in (tensors, *paths) if path is not None):
        target = writable_target(path)
        _refuse_weights(path, target)
        if target in seen:
            raise InputError(f"{path} is named for two outputs; give each a file of its own")
        seen.add(target)


def _refuse_weights(path: str, target: Path) -> None:
    from weightscope.checkpoints import open_checkpoint

    if not target.exists():
        return
    try:
        open_checkpoint(target)
    except WeightscopeError:
        return
    raise InputError(f"{path} is a file of weights, which the output would replace; give another")
