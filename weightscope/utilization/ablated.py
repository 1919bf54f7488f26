"""What was lost without each level, and whether there was anything to lose."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from weightscope.showing import counted, outputs_at
from weightscope.thresholds import MINIMUM_IMAGES, MINIMUM_SKILL
from weightscope.utilization.trivial import CONSTANT

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class LevelAblation:
    """Quality lost when everything below one cut is replaced.

    Attributes:
        keep_levels: Levels ``0 .. keep_levels - 1`` were left as they are.
        quality: Quality of the whole network, in the metric's own unit.
        ablated: Quality without the levels below the cut.
        drop: Quality lost: ``quality - ablated``, or ``ablated - quality`` of a loss or an error.
        low: Lower end of the interval of ``drop`` over images.
        high: Upper end of it.
        unadjusted: Quality without the levels at the threshold that is best for the whole network,
            where ``ablated`` is at the one that is best without them, and of a recalibrated loss
            that of the outputs as they are; None where the metric has neither.
        worst: Of a mean over classes, or of several channels of numbers, the share of its own skill
            that one loses, of those that have any the one that surely loses most; nan where there
            is none.
        worst_low: Lower end of its interval over images.
        worst_class: Which class or channel that is; -1 where there is none, or of a whole output.
        worst_kind: Whether these are classes, each of its own quality; numbers, where a callable
            gives several shares, each against 0; or channels of numbers, or outputs of one channel,
            each against what its mean is worth in its place.
        worst_output: Which of several outputs that is, or is of; empty where there is one.
        worst_metric: What that skill is measured by, where the metric takes all classes together.
        hidden: Channels or outputs that change without the levels, and whose worth the metric
            cannot resolve beside that of the others, by their names.
        lost: Of several outputs those that were judged and are computed in what the cut removes.
            Where all are, ``ablated`` is that of the best trivial answer.
        images: Images that have a value both with the levels and without, where a callable leaves
            some out; the figures are of these, nan where there are none. -1 where that is no
            question.
        silenced: Images that have a value with the levels and none without.
    """

    keep_levels: int
    quality: float
    ablated: float
    drop: float
    low: float
    high: float
    unadjusted: float | None = None
    worst: float = math.nan
    worst_low: float = math.nan
    worst_class: int = -1
    worst_kind: Literal["class", "number", "channel", "output"] = "class"
    worst_output: str = ""
    worst_metric: str = ""
    hidden: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    images: int = -1
    silenced: int = 0


@dataclass(frozen=True)
class AblationResult:
    """The ablation of every level, and whether there was anything to lose.

    Attributes:
        levels: One record for each legal cut, from the shallowest.
        quality: Quality of the whole network, in the metric's own unit.
        chance: Quality of the best trivial answer: a constant, or in a regression the input itself.
        skill_low: What the skill exceeds with the confidence `SURE`.
        images: Number of images that differ and weigh in the quality: those without a value or
            without a label that counts say nothing, nor do those that any answer suits alike.
        metric: Name of the quality.
        floor: Skill that does not count yet.
        larger_is_better: False for a loss or an error.
        recalibrated: Whether quality is a loss after a scale and an offset of each output channel.
        judged: Which of several outputs the metric judged, such as ``[0]``; empty where there is
            one, or where the metric reads them all.
        unjudged: The others that a level may be used for, unless the user says that they do not
            count.
        versions: Coarser versions of the first output that the metric reads, which are judged then.
        unlearned: Classes or channels of a mean over classes of which the network shows no skill
            that counts over their own best constant, as a share of what there is to gain.
        given: Number of all images that differ; 0 where they all weigh.
        constant_targets: Whether the targets are the same everywhere: nothing is learned from them.
        trivial: What the best trivial answer is, in words.
    """

    levels: tuple[LevelAblation, ...]
    quality: float
    chance: float
    skill_low: float
    images: int
    metric: str
    floor: float = MINIMUM_SKILL
    larger_is_better: bool = True
    recalibrated: bool = False
    judged: tuple[str, ...] = ()
    unjudged: tuple[str, ...] = ()
    versions: tuple[str, ...] = ()
    unlearned: tuple[int, ...] = ()
    given: int = 0
    constant_targets: bool = False
    trivial: str = CONSTANT

    @property
    def judged_outputs(self) -> str:
        """What was judged of several outputs, in words."""
        return outputs_at(self.judged)

    @property
    def on_versions(self) -> str:
        """What to know where coarser versions of the first output were judged; empty if none was.

        As for deep supervision, whose loss reads them all, though the first one is what is used.
        """
        if not self.versions or not any(set(cut.lost) & set(self.versions) for cut in self.levels):
            return ""
        one = len(self.versions) == 1
        return (
            f"{self.metric.removesuffix(', recalibrated')} reads {outputs_at(self.versions)}, "
            f"{'a coarser version' if one else 'coarser versions'} of the first output, too, and "
            f"a level that {'it is' if one else 'they are'} computed in counts as used for "
            f"{'it' if one else 'them'}: where {'it only serves' if one else 'they only serve'} "
            "the training, give a callable that reads the first output alone."
        )

    @property
    def skill(self) -> float:
        """What the network is better than the best trivial answer by."""
        better = self.quality - self.chance
        return better if self.larger_is_better else -better

    @property
    def enough(self) -> bool:
        """Whether there were images enough to decide anything."""
        return self.images >= MINIMUM_IMAGES

    @property
    def skilled(self) -> bool:
        """Whether it surely has any skill."""
        sure = self.skill_low > 0.0 and self.skill > self.floor
        return sure and not self.constant_targets

    @property
    def surely_unskilled(self) -> bool:
        """Whether it surely has no skill that counts; the interval of the skill is symmetric."""
        return 2.0 * self.skill - self.skill_low <= self.floor

    @property
    def undecided(self) -> bool:
        """Whether others could show a skill that these images and targets do not surely show."""
        unsure = self.skill > self.floor and not self.skilled
        return self.constant_targets or not self.enough or unsure

    @property
    def comparison(self) -> str:
        """Its quality compared with that of the best trivial answer, in words."""
        how = "better" if self.skill > self.floor else "hardly better"
        how = how if self.skill > 0.0 else "no better"
        which = "" if self.trivial == CONSTANT else f", {self.trivial},"
        return (
            f"{how} than the best trivial answer{which} ({self.metric} {self.quality:.3g} against "
            f"{self.chance:.3g})"
        )

    @property
    def doubt(self) -> str:
        """Why these images decide nothing, in words; empty where they do."""
        if self.constant_targets:
            return "the targets are the same everywhere, so that nothing is learned from them"
        if not self.enough and self.images < self.given:
            what = f"weigh{'s' if self.images == 1 else ''} in {self.metric}"
            rest = (
                "the others hold no label or value that counts in it, or have one value with and "
                "without every level"
            )
            return f"{self.counted} {what} ({rest}), and {MINIMUM_IMAGES} or more are needed"
        if not self.enough:
            decide = "decides" if self.images == 1 else "decide"
            return f"{self.counted} {decide} nothing, {MINIMUM_IMAGES} or more are needed"
        return f"the network is {self.comparison}, but {self.too_few}" if self.undecided else ""

    @property
    def remedy(self) -> str:
        """What to give where these images decide nothing, in words."""
        return "give targets that differ" if self.constant_targets else "give more"

    @property
    def counted(self) -> str:
        """How many images weigh, of how many, in words."""
        if self.images < self.given:
            return f"{self.images} of {counted(self.given, 'image')}"
        return counted(self.images, "image")

    @property
    def too_few(self) -> str:
        """That these images leave open whether there is skill, in words."""
        return f"{self.counted} {'is' if self.images == 1 else 'are'} too few to be sure of it"

    def frame(self) -> pd.DataFrame:
        """One row per cut, as `ablate` returns them."""
        import pandas as pd

        columns = ["keep_levels", "quality", "ablated", "drop", "low", "high", "unadjusted"]
        frame = pd.DataFrame([vars(level) for level in self.levels], columns=columns)
        frame = frame.astype({"unadjusted": float})
        share = frame["drop"] / self.skill if self.skilled else float("nan")
        return frame.assign(
            share_lost=share, chance=self.chance, images=self.images, metric=self.metric
        )
