"""Recorded histograms as frames and files, and in the trackers of experiments."""

from __future__ import annotations

import itertools
import math
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from weightscope.arguments import path_text
from weightscope.errors import InputError, extra, keyword
from weightscope.files import write_csv, written_atomically
from weightscope.watching.snapshots import Snapshot

if TYPE_CHECKING:
    import pandas as pd

FIGURES = ("mean", "std", "minimum", "maximum", "saliency")
_ONE_CALL = 1000
"""Metrics that MLflow takes at once."""


def figures_frame(snapshots: Iterable[Snapshot]) -> pd.DataFrame:
    """Over time: step, parameter, count, mean, std, minimum, maximum, saliency."""
    import pandas as pd

    columns = ["step", "parameter", "count", *FIGURES]
    rows = [[getattr(s, column) for column in columns] for s in snapshots]
    return pd.DataFrame(rows, columns=columns)


def histograms_frame(snapshots: Iterable[Snapshot]) -> pd.DataFrame:
    """Histograms over time, one row per bin: step, parameter, bin_left, bin_right, count."""
    import pandas as pd

    parts = [
        pd.DataFrame(
            {
                "step": s.step,
                "parameter": s.parameter,
                "bin_left": s.edges[:-1],
                "bin_right": s.edges[1:],
                "count": s.counts,
            }
        )
        for s in snapshots
    ]
    columns = ["step", "parameter", "bin_left", "bin_right", "count"]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)


def write_npz(snapshots: Sequence[Snapshot], path: str | os.PathLike[str]) -> None:
    """Write all histograms to one npz file, atomically; see `History.to_npz`."""
    arrays: dict[str, Any] = {
        "steps": np.array([s.step for s in snapshots], dtype=np.int64),
        "parameters": np.array([s.parameter for s in snapshots], dtype=np.str_),
    }
    for i, snapshot in enumerate(snapshots):
        arrays[f"edges_{i}"] = snapshot.edges
        arrays[f"counts_{i}"] = snapshot.counts
    with written_atomically(path) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, **arrays)


def write_events(snapshots: Iterable[Snapshot], folder: str | os.PathLike[str]) -> None:
    """Write an event file of TensorBoard; see `History.to_tensorboard`."""
    with extra("tensorboard", "event files need tensorboard", "pip install tensorboard"):
        from torch.utils.tensorboard.writer import SummaryWriter
    text = path_text(folder, "of a folder")
    target = Path(text)
    try:
        target.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target, prefix=".writing-") as temporary:
            with SummaryWriter(temporary) as writer:
                for s in snapshots:
                    _add_event(writer, s)
            for file in sorted(Path(temporary).iterdir()):
                shutil.move(file, target / file.name)
    except (OSError, ValueError) as error:  # ValueError: names that no folder can have
        raise InputError(
            f"cannot write into {text!r}: {getattr(error, 'strerror', None) or error}; "
            "free some space or give a folder that you may write to"
        ) from error


def _add_event(writer: Any, s: Snapshot) -> None:
    writer.add_histogram_raw(
        s.parameter.replace(".", "/"),
        min=s.minimum,
        max=s.maximum,
        num=s.count,
        sum=s.mean * s.count,
        sum_squares=(s.std**2 + s.mean**2) * s.count,
        bucket_limits=s.edges[1:].tolist(),
        bucket_counts=s.counts.tolist(),
        global_step=s.step,
    )


def log_to_run(snapshots: Sequence[Snapshot], run: Any) -> None:
    """Log all histograms to a run of Weights & Biases or MLflow; see `History.log_histograms`."""
    trackers = {"wandb": _log_to_wandb, "mlflow": _log_to_mlflow}
    tracker = trackers.get(type(run).__module__.partition(".")[0])
    if tracker is None:
        raise InputError(
            f"{keyword('run')} is {type(run).__module__}.{type(run).__qualname__}; give what "
            "wandb.init() or mlflow.start_run() returned"
        )
    tracker(snapshots, run)


def _log_to_wandb(snapshots: Sequence[Snapshot], run: Any) -> None:
    """One row of histograms for each step, against an axis of its own.

    Rows of the run's own axis that lie before its last one would be dropped.
    """
    import wandb

    run.define_metric("weights/step")
    run.define_metric("weights/*", step_metric="weights/step")
    for step, group in itertools.groupby(snapshots, key=lambda s: s.step):
        row: dict[str, Any] = {"weights/step": step}
        for s in group:
            histogram = wandb.Histogram(np_histogram=(s.counts.tolist(), s.edges.tolist()))
            row[f"weights/{s.parameter}"] = histogram
        run.log(row)


def _log_to_mlflow(snapshots: Sequence[Snapshot], run: Any) -> None:
    """The figures over time as metrics; histograms, which MLflow does not draw, as an artifact."""
    from mlflow.entities import Metric
    from mlflow.tracking import MlflowClient

    client, identity = MlflowClient(), run.info.run_id
    metrics = [
        Metric(f"weights/{_safe(s.parameter)}/{figure}", value, run.info.start_time, s.step)
        for s in snapshots
        for figure in FIGURES
        if math.isfinite(value := getattr(s, figure))
    ]
    for start in range(0, len(metrics), _ONE_CALL):
        client.log_batch(identity, metrics=metrics[start : start + _ONE_CALL])
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "histograms.csv"
        write_csv(histograms_frame(snapshots), table)
        client.log_artifact(identity, str(table), "weights")


def _safe(name: str) -> str:
    """A name of the characters that MLflow takes, and no path."""
    return re.sub(r"[^\w\-. ]", "_", name)
