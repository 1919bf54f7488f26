"""Where a command writes: nothing of value is replaced."""

from __future__ import annotations

from weightscope.errors import InputError, WeightscopeError
from weightscope.files import writable_target


def check_target(path: str) -> None:
    """Refuse to write where nothing can be written, or over somebody's weights.

    Raises:
        InputError: It is no place for a file, or holds a checkpoint.
    """
    from weightscope.checkpoints import open_checkpoint

    target = writable_target(path)
    if not target.exists():
        return
    try:
        open_checkpoint(target)
    except WeightscopeError:
        return
    raise InputError(f"{path} is a file of weights, which the output would replace; give another")
