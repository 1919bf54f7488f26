"""What the study hands from step to step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from studies.sand.metrics import Metrics
from studies.sand.tables import Result
from studies.sand.tiles import Split, Tiles
from studies.sand.training import TrainingRun
from weightscope.analysis import Analysis
from weightscope.cost import count_costs
from weightscope.truncation import Proposal

GRADES = ("weights", "history", "data")


@dataclass(frozen=True)
class Preset:
    """How large the study is.

    Attributes:
        name: As on the command line.
        photos: Synthetic photographs.
        photo_size: Their side in pixels.
        tile: Side of a tile.
        overlap: Pixels that neighbouring tiles share.
        most_tiles: No more training tiles than this; validation and test in proportion.
        cases: How many of the five folds are run.
        shrink: Divides the channels of the U-nets and of the MultiResUNets.
        epochs: Of every training from scratch.
        tuning: Epochs of a truncated network.
        batch_size: Tiles in a step; the paper does not give its own.
    """

    name: str
    photos: int
    photo_size: int
    tile: int
    overlap: int
    most_tiles: int
    cases: int
    shrink: Mapping[str, float]
    epochs: int
    tuning: int
    batch_size: int = 8


@dataclass(frozen=True, eq=False)
class Bench:
    """What every training of the study shares.

    Attributes:
        preset: How large the study is.
        seed: Seed of everything random.
        data: Folder of the user's photographs; None for synthetic ones.
        tiles: All tiles.
        splits: Training, validation and test tiles of each case.
        runs: Folder of the checkpoints.
        progress: Whether to show bars.
    """

    preset: Preset
    seed: int
    data: Path | None
    tiles: Tiles
    splits: tuple[Split, ...]
    runs: Path
    progress: bool


@dataclass(frozen=True)
class Network:
    """A network of the study: a row of its tables.

    Attributes:
        key: Names its files.
        label: Names it in tables.
    """

    key: str
    label: str


@dataclass(frozen=True, eq=False)
class Trained:
    """A network after its training.

    Attributes:
        network: Which one.
        fold: Which fold was for test.
        model: The trained network, on the CPU.
        initial: Its state dict before the training.
        run: What the epochs came to.
        metrics: On the test tiles.
        threshold: Probability at which F1 is best on the validation tiles.
    """

    network: Network
    fold: int
    model: nn.Module
    initial: Mapping[str, Tensor]
    run: TrainingRun
    metrics: Metrics
    threshold: float

    def result(self, tile: int) -> Result:
        """Return the row of the tables."""
        costs = count_costs(self.model, torch.zeros(1, 3, tile, tile))
        return Result(
            label=self.network.label,
            fold=self.fold,
            metrics=self.metrics,
            parameters=costs.parameters,
            macs=costs.macs,
            epochs=len(self.run.epochs),
            processor_seconds=self.run.processor_seconds,
        )


@dataclass(frozen=True, eq=False)
class Derivation:
    """From a full network to the truncated one that its analysis supports.

    Attributes:
        trained: The full network.
        analysis: Its analysis.
        supported: Fewest levels that each grade of evidence would keep: every stage below is
            unused by that grade alone; None where it supports no cut.
        proposal: The cut that was made.
        tuned: The truncated network with the kept weights, trained on for a few epochs.
        redrawn: The same network with all weights drawn anew, trained just as long.
    """

    trained: Trained
    analysis: Analysis
    supported: Mapping[str, int | None]
    proposal: Proposal
    tuned: Trained
    redrawn: Trained

    @property
    def justified(self) -> bool:
        """Whether the joint verdict calls every stage that was cut unused."""
        return levels_supported(self.analysis, None) == self.proposal.keep_levels


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
