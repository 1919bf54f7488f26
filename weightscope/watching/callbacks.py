"""Watching within the loops of other libraries."""

from __future__ import annotations

import importlib
import sys
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from weightscope.checkpoints import load_plain
from weightscope.errors import extra
from weightscope.files import write_pickle
from weightscope.watching.recorder import History, watch
from weightscope.watching.storage import packed, unpacked

_LIGHTNING = ("lightning.pytorch", "pytorch_lightning")
FILE = "weightscope_history.pt"
"""Where the Trainer's callback keeps the history, within each checkpoint."""


def lightning_callback(every: int = 100) -> Any:
    """Make a Lightning callback that watches the first optimiser of a training.

    Its ``history`` is there from the start of ``fit`` on; checkpoints carry it, so that a resumed
    training goes on with it. It serves ``lightning`` and ``pytorch_lightning``, whichever the
    program has imported.

    Args:
        every: Steps between histograms.

    Raises:
        MissingExtraError: Neither is installed.
    """

    class WatchCallback(*_lightning_bases()):  # type: ignore[misc]
        """Watches a training from its start to its end."""

        def __init__(self) -> None:
            self.history: History | None = None
            self._resumed: dict[str, Any] | None = None
            self._stack = ExitStack()

        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            self.history = self._stack.enter_context(watch(pl_module, trainer.optimizers[0], every))
            if self._resumed is not None:
                self.history.load_state_dict(self._resumed)

        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            self._stack.close()

        def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
            self._stack.close()

        def state_dict(self) -> dict[str, Any]:
            return {} if self.history is None else self.history.state_dict()

        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            self._resumed = state_dict or None

    return WatchCallback()


def _lightning_bases() -> tuple[type, ...]:
    """The Callback of every Lightning that is imported; without one, of the first installed."""
    imported = [sys.modules[name] for name in _LIGHTNING if name in sys.modules]
    for name in () if imported else _LIGHTNING:
        with suppress(Exception):  # of another file of that name
            imported = [importlib.import_module(name)]
            break
    with extra("lightning", "the callback needs lightning", "pip install lightning"):
        imported = imported or [importlib.import_module("lightning.pytorch")]
        return tuple(dict.fromkeys(module.Callback for module in imported))


def trainer_callback(every: int = 100) -> Any:
    """Make a callback for the ``Trainer`` of transformers that watches a training.

    Its ``history`` is there from the start of ``train`` on. Every checkpoint carries it
    (``weightscope_history.pt``), so that a training resumed from one goes on with it.

    Args:
        every: Steps between histograms.

    Raises:
        MissingExtraError: transformers is not installed.
    """
    with extra("transformers", "the callback needs transformers", "pip install transformers"):
        from transformers.trainer_callback import TrainerCallback

    class WatchCallback(TrainerCallback):
        """Watches a training from its start to its end."""

        def __init__(self) -> None:
            self.history: History | None = None
            self._stack = ExitStack()

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self._stack.close()  # of a training that failed
            self.history = self._stack.enter_context(
                watch(kwargs["model"], kwargs["optimizer"], every)
            )
            kept = _checkpoint(args, state) / FILE
            if state.global_step and kept.exists():
                self.history.load_state_dict(unpacked(load_plain(kept)))

        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            folder = _checkpoint(args, state)
            if self.history is not None and folder.is_dir():
                write_pickle(packed(self.history.state_dict()), folder / FILE)

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self._stack.close()

    return WatchCallback()


def _checkpoint(args: Any, state: Any) -> Path:
    """The folder of the checkpoint of the step that was reached."""
    return Path(args.output_dir) / f"checkpoint-{state.global_step}"
