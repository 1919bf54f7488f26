"""A finished history as a file: the start of a training, and how far each parameter went."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from weightscope.adapters.modes import outside_modes
from weightscope.arguments import checked, having
from weightscope.checkpoints import holds_text, load_tensors, parse_json, path_of
from weightscope.errors import CheckpointError, shown
from weightscope.files import write_tensors
from weightscope.movement import Displacement
from weightscope.showing import OnOneScreen

if TYPE_CHECKING:
    from torch import Tensor

    from weightscope.watching import History

VERSION = 1
"""Of the file: it grows when what is in it changes its meaning."""

_KEY = "weightscope_history"

# Squares of these, times any number of weights, stay within what 64 bits hold; the largest is that
# of 32 bits.
_LEAST, _MOST = 1e-100, 3.5e38
_MOST_STEPS = 1 << 63
_LONGEST = 300  # characters of a reason
# the others are held against the shrinkage and the note, which are therefore the first
_FIELDS = sorted(fields(Displacement), key=lambda f: f.name not in ("shrinkage", "note"))


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


def is_history(path: str | os.PathLike[str]) -> bool:
    """Whether a file is a history that `save_history` wrote; it may be any file."""
    return holds_text(path, _KEY)


@checked()
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
        if type(known["version"]) is not int or known["version"] != VERSION:
            raise ValueError(f"its version is {shown(known['version'])}, expected {VERSION}")
        if not isinstance(known["displacements"], list):
            raise ValueError("its displacements are no list")
        records = tuple(Displacement(**record) for record in known["displacements"])
        _check_records(records, initial)
        steps = known["steps"]
        if type(steps) is not int or not 0 <= steps < _MOST_STEPS:
            raise ValueError(f"its steps are {shown(steps)}")
    except (
        ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError
    ) as error:  # fmt: skip
        raise CheckpointError(
            f"{given!r} cannot be used ({str(error)[:_LONGEST]}); save the history again"
        ) from error
    return RecordedHistory(given, steps, records, initial)


def _check_records(records: Sequence[Displacement], initial: Mapping[str, Tensor]) -> None:
    """Refuse numbers that no training gives.

    Raises:
        ValueError: One is such; the text names its field.
    """
    seen: set[str] = set()
    for record in records:
        name: Any = record.parameter
        if not isinstance(name, str) or name in seen or name not in initial:
            known = "occurs twice" if isinstance(name, str) and name in seen else "is not in it"
            raise ValueError(f"a displacement is of the parameter {shown(name)}, which {known}")
        seen.add(name)
        for field in _FIELDS:
            value = getattr(record, field.name)
            if not _is_sane(field.name, value, record, initial[name]):
                raise ValueError(f"{field.name} of {shown(name)} is {shown(value)}")


def _is_sane(field: str, value: Any, record: Displacement, start: Tensor) -> bool:
    """Whether a training can give this value of a field."""
    if field == "count":
        return type(value) is int and value == start.numel()
    if field in ("note", "parameter"):
        return isinstance(value, str)
    if field == "normalised":
        return isinstance(value, bool)
    if type(value) not in (int, float):
        return False
    if field == "shrinkage":  # of weights that became infinite it is infinite
        return abs(value) <= _MOST or not math.isfinite(value)
    if math.isnan(value):  # each for a reason of its own
        return {
            "moved": not math.isfinite(record.shrinkage),  # the weights are nan
            "walk": bool(record.note),
        }.get(field, True)
    least = 0.0 if field == "saliency" else _LEAST
    return bool(value == 0 or least <= value <= _MOST)
