"""What the study hands from step to step, and how it is read from the folders of finished jobs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from studies.runner import Finished, Job
from studies.sand.fitting import Fit, build, choose_tiles, load_trained
from studies.sand.losses import weighted_cross_entropy
from studies.sand.metrics import Metrics
from studies.sand.tables import Result
from studies.sand.tiles import Tiles, open_tiles
from studies.sand.training import Epoch, train
from weightscope.analysis import Analysis, analyze
from weightscope.errors import CheckpointError
from weightscope.truncation import Proposal
from weightscope.watching import History

GRADES = ("weights", "history", "data")


@dataclass(frozen=True, eq=False)
class Trained:
    """A network of the zoo after its training from scratch.

    Attributes:
        settings: How it was trained.
        label: Names it in tables.
        model: The trained network, on the CPU.
        initial: Its state dict before the training.
        epochs: What each epoch came to.
        history: How the weights moved; None where another version recorded it.
        metrics: On the test tiles.
        threshold: Probability at which F1 is best on the validation tiles.
    """

    settings: Fit
    label: str
    model: nn.Module
    initial: Mapping[str, Tensor]
    epochs: tuple[Epoch, ...]
    history: History | None
    metrics: Metrics
    threshold: float


@dataclass(frozen=True, eq=False)
class Derivation:
    """From a full network to the truncated one that its analysis supports.

    Attributes:
        trained: The full network.
        analysis: Its analysis.
        supported: Fewest levels that each grade of evidence would keep.
        proposal: The cut that was made.
        tuned: The truncated network with the kept weights, trained on for a few epochs.
        redrawn: The same network with all weights drawn anew, trained just as long.
        thinned: The full network without channels drawn at random, at the multiply-accumulates of
            the truncated one, trained just as long.
    """

    trained: Trained
    analysis: Analysis
    supported: Mapping[str, int | None]
    proposal: Proposal
    tuned: Result
    redrawn: Result
    thinned: Result

    @property
    def justified(self) -> bool:
        """Whether the joint verdict calls every stage that was cut unused."""
        return levels_supported(self.analysis, None) == self.proposal.keep_levels


def load(settings: Fit, label: str, finished: Finished, tiles: Tiles) -> Trained:
    """Load a trained network with all that its training left behind."""
    start = build(settings.config)
    initial = {name: tensor.clone() for name, tensor in start.state_dict().items()}
    split = choose_tiles(settings, tiles)
    epochs = tuple(Epoch(**epoch) for epoch in finished.result["epochs"])
    try:  # a finished training only reads its checkpoint
        run = train(start, tiles, split, settings.training, finished.folder / "checkpoint.pt")
        history = run.history
    except CheckpointError:  # another version of weightscope wrote the history: do without
        history = None
    return Trained(
        settings=settings,
        label=label,
        model=load_trained(settings.config, finished.folder),
        initial=initial,
        epochs=epochs,
        history=history,
        metrics=Metrics(**finished.result["test"]),
        threshold=finished.result["threshold"],
    )


def examine(trained: Trained, tiles: Tiles) -> Analysis:
    """Let weightscope read the network: from its weights, its training and the validation tiles.

    The test tiles are not used, so that the networks derived from the verdict can be judged on
    them.
    """
    validation = choose_tiles(trained.settings, tiles).validation
    return analyze(
        trained.model,
        initial=trained.initial,
        history=trained.history,
        batches=tiles.batches(validation, 16),
        loss=weighted_cross_entropy,
        metric="f1",
    )


def chosen_cut(analysis: Analysis) -> Proposal:
    """Return the analysis's first proposal that can be built: the best supported one."""
    legal = (proposal for proposal in analysis.proposals if proposal.refusal is None)
    return next(legal, analysis.proposals[0])  # a refused one says why when it is built


def result(job: Job, label: str, finished: Finished) -> Result:
    """Return a finished job's row of the tables."""
    settings: Any = job.settings
    fit = settings if isinstance(settings, Fit) else settings.whole
    return Result(
        label=label,
        fold=fit.fold,
        metrics=Metrics(**finished.result["test"]),
        parameters=finished.result["parameters"],
        macs=finished.result["macs"],
        epochs=len(finished.result["epochs"]),
        device=finished.result["device"],
        processor_seconds=finished.result["processor_seconds"],
        outcomes=at_threshold(finished, finished.result["threshold"]),
    )


def at_threshold(finished: Finished, threshold: float) -> Mapping[int, tuple[int, int, int]]:
    """Hits, false alarms and misses of each test photograph."""
    rows: Sequence[Any] = finished.result["outcomes"][str(threshold)]
    return {
        photo: (row[0], row[1], row[2])
        for photo, row in zip(finished.result["photos"], rows, strict=True)
    }


def tiles_of(finished: Finished) -> Tiles:
    """Open the tiles that a finished job left."""
    return open_tiles(Path(finished.folder))


def levels_supported(analysis: Analysis, grade: str | None) -> int | None:
    """Return the fewest levels that can stay when only unused stages go.

    Args:
        analysis: Of the full network.
        grade: ``weights``, ``history`` or ``data`` alone; None for the joint verdict.

    Returns:
        Levels to keep; None if not even the deepest legal cut is supported.
    """
    verdicts = {}
    for verdict in analysis.assessment.verdicts:
        alone = {score.grade: score.verdict for score in verdict.scores}
        verdicts[verdict.stage] = verdict.verdict if grade is None else alone.get(grade)  # type: ignore[call-overload]
    for cut in analysis.structure.cuts:
        below = [s.name for s in analysis.structure.stages if s.level >= cut.keep_levels]
        if all(verdicts[name] == "unused" for name in below):
            return cut.keep_levels
    return None
