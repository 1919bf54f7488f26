"""What an analysis found, as records and as tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from weightscope.cost import Costs
from weightscope.graph import Structure
from weightscope.probing import Response
from weightscope.receptive_field import Pixels
from weightscope.showing import one_line
from weightscope.statistics import ModelStatistics, SkippedParameter
from weightscope.truncation import Proposal
from weightscope.utilization import Assessment, DataEvidence

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False, repr=False)
class Findings:
    """What was found out about one network.

    How they are shown is the business of those who read them: `weightscope.Analysis`.

    Attributes:
        structure: Levels, stages and legal cuts of the network.
        statistics: Statistics of every parameter tensor, and what was skipped.
        costs: Parameters, MACs and activation memory of every layer.
        receptive_fields: Receptive field of each stage in input pixels, by stage name.
        assessment: Scores and verdict of each stage, least used first.
        proposals: One per depth, the one to try first on top, refused ones last.
        data: What the batches showed; None where no batches were given.
        response: How the output responds to each cut on synthetic images; None where it was left
            out.
        images: The same on the images given; None where none were given.
    """

    structure: Structure
    statistics: ModelStatistics
    costs: Costs
    receptive_fields: Mapping[str, Pixels]
    assessment: Assessment
    proposals: tuple[Proposal, ...]
    data: DataEvidence | None
    response: Response | None = None
    images: Response | None = None

    @cached_property
    def layers(self) -> pd.DataFrame:
        """One row per weighted layer; `parameters` adds up to the model's total."""
        from weightscope.frames import layers_frame

        return layers_frame(self.structure, self.statistics, self.costs)

    @cached_property
    def parameters(self) -> pd.DataFrame:
        """One row per parameter tensor, biases and norm scales included."""
        from weightscope.frames import parameters_frame

        return parameters_frame(self.structure, self.statistics)

    @cached_property
    def stages(self) -> pd.DataFrame:
        """One row per stage with its utilization and verdict, least used first.

        What only history or weights rank comes after what was measured.
        """
        from weightscope.frames import stages_frame

        return stages_frame(self.structure, self.costs, self.receptive_fields, self.assessment)

    @cached_property
    def scores(self) -> pd.DataFrame:
        """One row per stage and grade of evidence, so that disagreement between grades shows."""
        from weightscope.frames import scores_frame

        return scores_frame(self.assessment)

    @cached_property
    def histograms(self) -> pd.DataFrame:
        """Long frame: layer, bin_left, bin_right, count, null_count."""
        from weightscope.frames import histograms_frame

        return histograms_frame(self.structure, self.statistics)

    @property
    def skipped(self) -> tuple[SkippedParameter, ...]:
        """Every parameter that was not analysed, with the reason."""
        return self.statistics.skipped

    @property
    def conclusion(self) -> str:
        """The verdict in words: what the evidence supports, and no more."""
        return " ".join((self.assessment.conclusion, *self.assessment.notes))

    def __repr__(self) -> str:
        verdicts = Counter(v.verdict for v in self.assessment.verdicts)
        facts = {
            "of": type(self.structure.model).__name__,
            "levels": self.structure.depth,
            "state": self.assessment.state,
            "stages": ", ".join(f"{n} {verdict}" for verdict, n in sorted(verdicts.items())),
            "print() shows": "the tables",
        }
        return one_line(type(self).__name__, facts)
