"""A finished history as a file: the start of a training, and how far each parameter went."""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from weightscope.adapters.modes import outside_modes
from weightscope.arguments import PATH, checked, having
from weightscope.checkpoints import load_tensors, parse_json, path_of
from weightscope.errors import CheckpointError
from weightscope.files import write_tensors
from weightscope.movement import Displacement
from weightscope.showing import OnOneScreen

if TYPE_CHECKING:
    from torch import Tensor

    from weightscope.watching import History

VERSION = 1
"""Of the file: it grows when what is in it changes its meaning."""

_KEY = "weightscope_history"


@dataclass(frozen=True, eq=False, repr=False)
class RecordedHistory(OnOneScreen):
    """What a history knew when it was saved; `analyze` takes it as ``history=``.

    Attributes:
        path: The file.
        steps: Optimiser steps seen.
    """

    path: str
    steps: int
    _displacements: tuple[Displacement, ...]
    _initial: dict[str, Tensor]

    def displacements(self) -> tuple[Displacement, ...]:
        """Movement of every parameter since the start, beside its walk on pure noise."""
        return self._displacements

    def initial(self) -> dict[str, Tensor]:
        """The weights at the start of the training, by parameter name."""
        return self._initial

    def _facts(self) -> dict[str, object]:
        return {"steps": self.steps, "parameters": len(self._displacements), "file": self.path}


@checked(
    history=having("displacements", "what watch recorded"),
)
def save_history(history: History, path: str | os.PathLike[str]) -> None:
    """Write what `analyze` needs of a history: the start, and how far each parameter went.

    The file is safetensors, about as large as the weights. To go on with an interrupted training,
    save ``history.state_dict()`` instead.

    Args:
        history: What `watch` recorded.
        path: The file, replaced atomically.

    Raises:
        InputError: It cannot be written.
    """
    known = {
        "version": VERSION,
        "steps": history.steps,
        "displacements": [asdict(record) for record in history.displacements()],
    }
    write_tensors(history.initial(), path, {_KEY: json.dumps(known)})


@checked(path=PATH)
@outside_modes()
def read_history(path: str | os.PathLike[str]) -> RecordedHistory:
    """Read what `save_history` wrote; nothing in the file is executed.

    Raises:
        CheckpointError: The file is missing, damaged, or no history.

    Example:
        >>> import tempfile, torch, weightscope as ws
        >>> model = torch.nn.Conv2d(1, 1, 3)
        >>> with ws.watch(model, torch.optim.SGD(model.parameters(), lr=0.1)) as history:
        ...     pass
        >>> ws.save_history(history, tempfile.gettempdir() + "/history.safetensors")
        >>> ws.read_history(tempfile.gettempdir() + "/history.safetensors").steps
        0
    """
    given = path_of(path)
    try:
        initial, metadata = load_tensors(given)
    except CheckpointError as error:
        raise CheckpointError(
            f"{given!r} cannot be read as a history ({error}); give what weightscope.save_history "
            "wrote"
        ) from error
    if _KEY not in metadata:
        raise CheckpointError(f"{given!r} is no history; give what weightscope.save_history wrote")
    try:
        known = parse_json(metadata[_KEY])
        if known["version"] != VERSION:
            raise ValueError(f"it is of version {known['version']!r}, expected {VERSION}")
        records = tuple(_checked(Displacement(**record)) for record in known["displacements"])
        steps = known["steps"]
        if type(steps) is not int or steps < 0 or not isinstance(known["displacements"], list):
            raise ValueError("its steps are no number, or its parameters no list")
    except (
        ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError
    ) as error:  # fmt: skip
        raise CheckpointError(
            f"{given!r} cannot be used ({error}); save the history again"
        ) from error
    return RecordedHistory(given, steps, records, initial)


def _checked(record: Any) -> Displacement:
    """A record whose numbers are such as a training gives.

    Raises:
        ValueError: One is not.
    """
    if not isinstance(record.parameter, str) or not isinstance(record.note, str):
        raise ValueError("a name is no text")
    sizes = (record.moved, record.walk, record.faded_walk, record.saliency)
    if any(not math.isnan(float(size)) and not 0 <= size < math.inf for size in sizes):
        raise ValueError(f"{record.parameter!r} has moved by what no training moves")
    return record  # type: ignore[no-any-return]
