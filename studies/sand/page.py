"""The study's page: what was done, what came out, where it differs from the paper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from textwrap import indent
from typing import Any

import numpy as np
import pandas as pd
import torch

from studies.sand.claims import IDLE, claims_table
from studies.sand.comparison import (
    UNDECIDED,
    Comparison,
    by_network,
    compare,
    comparison_table,
    holm,
)
from studies.sand.costs import NetworkCost
from studies.sand.fitting import FOLDS, choose_tiles
from studies.sand.plan import BY_WORTH, NARROW, NETWORKS, QUARTER, WIDE, Preset
from studies.sand.records import Derivation, Trained
from studies.sand.tables import (
    NAMES,
    Result,
    cost_table,
    evidence_table,
    markdown,
    proposal_table,
    quality_table,
    results_frame,
)
from studies.sand.tiles import Tiles
from weightscope.analysis import Analysis
from weightscope.files import written_atomically
from weightscope.receptive_field import network_receptive_field

EXAMPLE = "quarter_multiresunet"
"""The network whose whole report is committed; the study writes the others beside its page."""

CLAIMED_FIELDS = {"multiresunet": 38_000, "half_multiresunet": 200, "quarter_multiresunet": 20}
"""Receptive fields that the paper gives in section 3, in pixels."""

RIVALS = ("cut", "cut, weights redrawn", "random channels")
"""What is made of a whole network, as the tables call it."""

Examined = Mapping[str, tuple[Trained, Analysis]]


@dataclass(frozen=True, eq=False)
class Story:
    """Everything the page tells.

    Attributes:
        preset: How large the study is.
        seed: Seed of everything random.
        photographs: Name of the user's folder; None for synthetic ones.
        understood: What was understood of them.
        tiles: All tiles.
        costs: Table 4.
        results: Every finished network on its test tiles.
        analysed: What the analysis of U-net and MultiResUNet said in every fold, by job.
        shown: The paper's networks in the fold of section 4.5, with their analyses, by name.
        derived: What was cut from U-net and MultiResUNet there.
        jobs: Trainings from scratch that the study has.
        missing: Those of them that have not finished.
    """

    preset: Preset
    seed: int
    photographs: str | None
    understood: str
    tiles: Tiles
    costs: Sequence[NetworkCost]
    results: Sequence[Result]
    analysed: Mapping[str, Mapping[str, Any]]
    shown: Examined
    derived: Sequence[Derivation]
    jobs: int
    missing: Sequence[str]

    @property
    def folds(self) -> int:
        """How many folds have a finished training."""
        return len({result.fold for result in self.results})


def write_page(path: Path, story: Story) -> Path:
    """Write the page as Markdown, completely or not at all."""
    parts = (
        _opening(story),
        _claims(story),
        _sand(story),
        _costs(story),
        _quality(story),
        _evidence(story),
        _derivation(story),
        _reduced(story),
        _fields(story),
        _left_out(),
        _again(story),
    )
    with written_atomically(path) as temporary:
        temporary.write_text("\n\n".join(part for part in parts if part) + "\n")
    return path


def _opening(story: Story) -> str:
    source = (
        "**The photographs are synthetic**: drawn by `studies/sand/scenes.py`, because the paper's "
        "are not public. Figures of quality are therefore not comparable with the paper's; costs "
        "are, and so is the question which levels a network uses."
        if story.photographs is None
        else f"The photographs are those of `{story.photographs}`; the "
        "[contact sheet](contact-sheet.png) shows how they and their masks were read:\n\n"
        f"{indent(story.understood, '    ')}\n\nIn the folder `segmented` lie masks, overlays and "
        "tables of particles of all of them, by the network with the highest F1 below, at its own "
        "threshold. It was trained on most of them: how good it is say the test tiles, not these "
        "overlays. The networks (`NETWORK.safetensors` beside this page) segment others with "
        "`python -m mpseg_models predict PHOTO... --weights FILE --out DIR`."
    )
    parts = [
        "# Microplastic in sand",
        f"Written by `{_command(story)}`; change that program, not this page.",
        _state(story),
        "Lee & Jhang (*Neural Network Analysis for Microplastic Segmentation*, Sensors 2021, 21, "
        "7030) looked at the weight histograms of a trained U-net and MultiResUNet, judged the "
        "deep encoder stages unused because their weights lie near zero, and derived smaller "
        "networks without them. This study goes the same way with weightscope: train, analyse, let "
        "the analysis propose what to cut, build it, and compare.",
        source,
        _summary(story),
    ]
    return "\n\n".join(part for part in parts if part)


def _command(story: Story) -> str:
    own = "" if story.photographs is None else " --data DIR"
    return f"python studies/microplastic.py --preset {story.preset.name} --seed {story.seed}{own}"


def _state(story: Story) -> str:
    """What this page rests on, first of all."""
    if story.preset.name == "quick":
        return (
            "**A demonstration**: small networks, little data, one fold, minutes of training. It "
            "shows how the study works, not what is true of the networks."
        )
    if not story.missing:
        return ""
    return (
        f"**Partial: {story.jobs - len(story.missing)} of {story.jobs} trainings have finished.** "
        "Every figure below is of those; a table row of one fold has no spread, and no order of "
        "networks is established by it. Still to come: "
        f"{', '.join(f'`{name}`' for name in story.missing[:12])}"
        f"{' and more' if len(story.missing) > 12 else ''}. The same command goes on."
    )


def _summary(story: Story) -> str:
    """The findings in a few lines, each taken from the numbers of this run."""
    lines = []
    for derivation in story.derived:
        name = derivation.trained.label
        grades = "; ".join(
            f"{grade}: {_levels(derivation.supported[grade])}" for grade in derivation.supported
        )
        lines.append(f"- {name}, levels to keep by each grade of evidence alone: {grades}.")
        cut, redrawn, thinned = (_rival(derivation, how) for how in RIVALS)
        means = _mean_f1(story, [name, cut, redrawn, thinned])
        own = [r for r in story.results if r.label == cut]
        shares = sorted({r.parameters / _parameters(derivation.trained) for r in own})
        kept = " or ".join(f"{share:.1%}" for share in shares)
        counts = _depths(story, derivation.trained.settings.network) or (
            f"Every fold was cut to {_count(derivation.proposal.keep_levels)}. "
        )
        lines.append(
            f"- {name}: {counts}That keeps {kept} of the parameters. Test F1 at the best "
            f"threshold, mean of {len(own)} {'fold' if len(own) == 1 else 'folds'}: "
            f"{means[name]:.3f} whole, {means[cut]:.3f} cut and tuned, {means[thinned]:.3f} with "
            "channels drawn at random taken out instead, to the same multiply-accumulates, "
            f"{means[redrawn]:.3f} with the same cut and all weights drawn anew."
        )
    if lines:
        lines.append(
            f"- The cut networks, and those without random channels, were trained "
            f"{story.preset.tuning} epochs longer than the whole ones ({story.preset.epochs}), "
            "which may be part of what they gain. With all weights drawn anew a network has "
            f"{story.preset.tuning} epochs in all: how far the cut one is ahead is the worth of "
            "what it kept, weights and epochs together."
        )
        lines.append(
            "- *At the best threshold* means the threshold at which F1 is best on these test "
            "tiles, for every network alike: an upper bound. Where networks are compared with "
            "intervals, the threshold is the one that was best on the validation tiles."
        )
    return "\n".join(lines)


def _rival(derivation: Derivation, how: str) -> str:
    """The label of a network that was made from the whole one."""
    return f"{derivation.trained.label}, {how}"


def _mean_f1(story: Story, labels: Sequence[str]) -> dict[str, float]:
    """Mean of the best-threshold F1 over the folds that all of the networks finished."""
    groups = by_network(story.results)
    folds = set.intersection(*({r.fold for r in groups[label]} for label in labels))
    return {
        label: float(np.mean([r.metrics.best_f1 for r in groups[label] if r.fold in folds]))
        for label in labels
    }


def _levels(keep: int | None) -> str:
    return "no cut supported" if keep is None else str(keep)


def _parameters(trained: Trained) -> int:
    return sum(parameter.numel() for parameter in trained.model.parameters())


def _claims(story: Story) -> str:
    table = claims_table(story.results, story.analysed, story.shown, story.preset.widths)
    return f"""## The paper's claims

{markdown(table, ("measured", "verdict"))}

Levels are called idle where F1 falls by less than {IDLE} without them. Where networks are \
compared, *bears out* and *contradicts* need an interval that does not hold the other answer, and \
a p below 0.05; everything else *cannot be told*. Costs and receptive fields are computed; the \
rows about weights are of the fold shown, one training each. All of it is about these photographs \
and these widths."""


def _sand(story: Story) -> str:
    preset = story.preset
    split = choose_tiles(next(iter(story.shown.values()))[0].settings, story.tiles)
    count = f"{len(story.tiles.photos):,} tiles of {preset.tile} px"
    photos = len(set(story.tiles.photos.tolist()))
    loss = (
        "the class-weighted cross-entropy of eq. 25-29"
        if preset.class_weight is None
        else f"cross-entropy in which a pixel of plastic weighs {_plain(preset.class_weight)} "
        "times as much as one of sand (eq. 25 and 26 give it some 100 times the weight; one row "
        "of the tables is trained with them)"
    )
    moved = "flips" + (
        ", shift up to 20 %, rotation up to 45 degrees, gaps filled with the mean colour"
        if preset.augmentation.degrees
        else " only (the paper also shifts and rotates its few photographs; these cost nothing to "
        "draw, and a rotated tile is blurred)"
    )
    widths = ", ".join(
        f"{NAMES.get(name, name)} {width}" for name, width in preset.widths.items() if name in NAMES
    )
    visible = (
        f" No particle is painted that could not be seen: its colour stands out from the sand "
        f"around it by {preset.scene.contrast:g} or more, as people paint masks. Without that "
        "demand about half of the particles look like sand, and no loss helps: in a first trial, "
        "not one of the jobs, Quarter MultiResUNet had a best-threshold F1 of 0.42 (class weight "
        "5) and 0.45 (eq. 25-29) after 600 steps on such photographs, which also had less plastic "
        "(0.5 %), against 0.56 after 200 steps on photographs like these."
        if story.photographs is None and preset.scene.contrast
        else ""
    )
    return f"""## Sand

![A photograph of sand with plastic, enlarged and outlined](sand.png)

{photos} photographs give {count}, neighbours overlapping by {preset.overlap} px or more; \
{story.tiles.masks.mean():.2%} of the pixels are plastic.{visible} Tiles are split by photograph, \
so that no pixel of a test tile is trained on: {len(split.train)} to train, \
{len(split.validation)} to validate, {len(split.test)} to test. The paper's sizes (preset `paper`) \
are 512 px tiles that overlap by 100 px, 16 from each 1440 x 1440 photograph; 386 photographs make \
its 6,176 tiles.

Training: Adam, learning rate 1e-3, times 0.96 as often as in the paper's 150 epochs, spread over \
{preset.epochs} here; {moved}; {loss}. Eq. 25 divides by zero on a tile without plastic: such a \
tile counts there with plain cross-entropy. Channels of the first stage: {widths}; \
{preset.tuning} epochs for a network that was cut."""


def _plain(number: float) -> str:
    return f"{number:g}"


def _costs(story: Story) -> str:
    return f"""## Table 4: what the networks cost

At full width, 512 x 512 RGB input. The paper counts 2 k k c_in c_out h w for a convolution, one \
per output element for its bias and for an addition of tensors, four per output element for \
max-pooling; all else is free, and parameters are cut after four decimals. That convention was \
found by search and fits three of the networks exactly. MACs are plain multiply-accumulates, \
counted on tensors without numbers; fvcore counts them again on a real input.

{markdown(cost_table(story.costs))}

Where the paper's text and its table disagree, the table decided: Quarter MultiResUNet fits with \
three repeats in its ResPath, not the four of eq. 15, and with a 1x1 convolution before a MultiRes \
block wherever the width changes, which eq. 13 does not show. The widths of MultiResUNet are not \
given; {_width(story)} came closest among widths that double from level to level \
(`python -m studies.sand.costs` repeats the search)."""


def _width(story: Story) -> str:
    parameters = next(c.parameters for c in story.costs if c.name == "multiresunet")
    return f"52, 104, 208, 416, 832 ({parameters:,} parameters)"


def _quality(story: Story) -> str:
    frame = results_frame(story.results)
    runs = (
        "one case, one run each"
        if story.folds == 1
        else f"{story.folds} of {FOLDS} cases: every case, mean and (standard deviation)"
    )
    useful = sorted(
        label
        for label, own in by_network(story.results).items()
        if np.mean([r.metrics.rw_f1 for r in own]) >= 0.40
        and np.mean([r.metrics.rw_iou for r in own]) >= 0.25
    )
    verdict = (
        "By the paper's bar (r.w. F1 of 0.40, r.w. IoU of 0.25 at threshold 0.5) these are useful, "
        f"by the mean of the folds: {'; '.join(useful)}."
        if useful
        else "No network reaches the paper's bar (r.w. F1 of 0.40, r.w. IoU of 0.25) at threshold "
        "0.5 in this preset."
    )
    return f"""## Tables 1-3: how well they segment

Test tiles, {runs}; the last columns are the paper's averages over five cases.

**Table 1**, threshold 0.5

{markdown(quality_table(frame, {"precision": "precision", "recall": "recall"}))}

**Table 2**

{markdown(quality_table(frame, {"f1": "F1", "iou": "IoU"}))}

**Table 3**, recall-weighted

{markdown(quality_table(frame, {"rw_f1": "r.w. F1", "rw_iou": "r.w. IoU"}))}

{verdict} Freed of the threshold, the networks compare like this:

{markdown(_ranking(story.results))}

{_varied(story)}{_widths(story)}

![Test F1 at the best threshold over MACs per tile](tradeoff.png)

![Validation F1 over the epochs](learning.png)

{_order(story)}

The test tiles with the most particles, each network at the threshold that was best on the \
validation tiles (fig. 10):

![Photo, truth and predictions of every network](predictions.png)"""


def _varied(story: Story) -> str:
    """Which rows are means over networks of several sizes."""
    groups = by_network(story.results)
    varied = [label for label, own in groups.items() if len({r.parameters for r in own}) > 1]
    if not varied:
        return ""
    return (
        f"Parameters and MACs of {'; '.join(varied)} are means over the folds, whose networks "
        "differ. "
    )


def _widths(story: Story) -> str:
    """What the width alone does, so that nobody takes it for the depth's doing."""
    rows = [NARROW, next(n for n in NETWORKS if n.key == QUARTER), WIDE]
    groups, widths = by_network(story.results), story.preset.widths
    if any(network.label not in groups for network in rows):
        return ""
    means = _mean_f1(story, [network.label for network in rows])
    figures = ", ".join(
        f"{means[network.label]:.3f} with {widths[network.key]}" for network in rows
    )
    others = ", ".join(f"{NAMES[name]} {widths[name]}" for name in BY_WORTH if name != QUARTER)
    return (
        f"Width decides much of this order. Quarter MultiResUNet alone has a best F1 of {figures} "
        f"channels in its first stage (means of the folds that all three have); of the others, "
        f"{others}. So a network that starts wider may be better for that and not for its depth."
    )


def _order(story: Story) -> str:
    """Neighbours in the order of F1, with tests."""
    groups = by_network(story.results)
    paper = [label for label in NAMES.values() if label in groups]
    if len(paper) < 2:
        return ""
    mean = {label: np.mean([r.metrics.best_f1 for r in groups[label]]) for label in paper}
    order = sorted(paper, key=lambda label: -mean[label])
    pairs = [*pairwise(order), (order[0], order[-1])] if len(order) > 2 else [*pairwise(order)]
    found = [compare(groups[a], groups[b]) for a, b in pairs]
    return f"""### Which is better?

F1 at the threshold that was best on the validation tiles, pooled over all test photographs, with \
a 95 % interval by a paired bootstrap over photographs, and a paired t-test over folds where there \
are three or more. The interval of one fold says how far the difference depends on the \
photographs, not on the run: another seed can turn it. Where first stages differ in width (above), \
better does not mean better for its depth.

{markdown(comparison_table(found), ("verdict",))}

{_corrected(found)}"""


def _corrected(found: Sequence[Comparison]) -> str:
    """How many verdicts of a table outlast its length."""
    tested = [c for c in found if c.p_folds is not None]
    if not tested:
        return ""
    sure = [c for c in tested if c.verdict != UNDECIDED]
    text = (
        "Each row stands for itself: p is not corrected for the number of rows, nor for the "
        "photographs that the trainings of several folds share, which makes it too small."
    )
    if not sure:
        return text
    corrected = holm([c.p_folds for c in tested if c.p_folds is not None])
    left = sum(p < 0.05 and c in sure for c, p in zip(tested, corrected, strict=True))
    return (
        f"{text} Corrected for the rows (Holm), {left} of {len(sure)} "
        f"{'verdict remains' if len(sure) == 1 else 'verdicts remain'}."
    )


def _ranking(results: Sequence[Result]) -> pd.DataFrame:
    frame = results_frame(results)
    on_card = frame["device"] != "cpu"  # its processor only fed it
    frame["processor_seconds"] = frame["processor_seconds"].where(~on_card)
    means = frame.groupby("network", sort=False)[
        ["best_f1", "average_precision", "parameters", "macs", "epochs", "processor_seconds"]
    ].mean()
    table = means.reset_index().sort_values("best_f1", ascending=False)
    for column, pattern in (
        ("best_f1", "{:.3f}"),
        ("average_precision", "{:.3f}"),
        ("parameters", "{:,.0f}"),
        ("macs", "{:,.0f}"),
        ("epochs", "{:.0f}"),
        ("processor_seconds", "{:.0f}"),
    ):
        table[column] = [pattern.format(v) if v == v else "-" for v in table[column]]
    return table.rename(
        columns={
            "best_f1": "best F1",
            "average_precision": "average precision",
            "macs": "MACs per tile",
            "processor_seconds": "processor seconds",
        }
    )


def _histograms(name: str, label: str, number: int) -> str:
    """A network's weight histograms, which answer to one of the paper's figures."""
    return f"""### {label} (fig. {number})

![Weight histograms of {label}, one layer above the other](stacked-{name}.png)

![Weight histograms of {label}, stage by stage](overlaid-{name}.png)"""


def _evidence(story: Story) -> str:
    if not _wholes(story):
        return ""
    parts = [
        """## Which levels do any work?

Filled: weights after training. Dark line: the same layer's weights before training (Glorot \
uniform). The paper compares weights with zero; under this initialisation wide layers start nearer \
to zero than narrow ones, so a deep stage looks "near zero" in an untrained network already. What \
counts is the departure from the dark line."""
    ]
    for name in _wholes(story):
        number = {"unet": 11, "multiresunet": 12}[name]
        trained, analysis = story.shown[name]
        label = trained.label
        parts.append(
            f"""{_histograms(name, label, number)}

{markdown(evidence_table(analysis))}

Utilization (0: as at initialisation, 1: used) and verdict by each grade of evidence alone: the \
weights, their movement while training, and data (the validation tiles: F1 lost when a level and \
everything below it is replaced by its mean). The last column is the joint verdict, in which the \
strongest grade decides.

![Utilization of every stage of {label}](verdict-{name}.png)

> {analysis.conclusion}

{whole_report(name, label)}"""
        )
    parts.append(_near_zero(story))
    return "\n\n".join(parts)


def report_path(name: str) -> str:
    """Where the whole report on a network goes, seen from the page."""
    return f"report-{name}.html" if name == EXAMPLE else f"reports/{name}.html"


def whole_report(name: str, label: str) -> str:
    """Where the reader finds it; but for one example, reports are not committed."""
    path = report_path(name)
    if name == EXAMPLE:
        return f"The [whole report on {label}]({path})."
    return f"The study writes the whole report on {label} to `{path}`, beside this page."


def _wholes(story: Story) -> list[str]:
    """Which of the networks that the paper cut have been trained."""
    return [name for name in ("unet", "multiresunet") if name in story.shown]


def _near_zero(story: Story) -> str:
    """Does the paper's own sign, mass near zero, separate used from unused stages?"""
    lines = []
    for name in _wholes(story):
        trained, analysis = story.shown[name]
        layers = analysis.layers
        kernels = layers[layers["null"].notna() & layers["stage"].str.startswith(("enc", "bott"))]
        first, last = (str(layer) for layer in kernels["layer"].iloc[[0, -1]])
        after, before = trained.model.state_dict(), trained.initial
        spread = kernels.set_index("layer")["spread_ratio"]
        lines.append(
            f"- {trained.label}: |w| <= 0.01 holds for {_small(after, first)} of the "
            f"weights of `{first}` and {_small(after, last)} of `{last}`. Before training it held "
            f"for {_small(before, first)} and {_small(before, last)}. Spread over initial spread: "
            f"{spread[first]:.2f} and {spread[last]:.2f}."
        )
    return f"""### Mass near zero, the paper's sign

{chr(10).join(lines)}

Where before and after agree, the mass near zero is the initialisation's and says nothing about \
use; the comparison with the layer's own start is what the verdicts above rest on."""


def _small(state: Mapping[str, torch.Tensor], layer: str) -> str:
    return f"{(state[f'{layer}.weight'].abs() <= 0.01).float().mean().item():.0%}"


def _derivation(story: Story) -> str:
    if not story.derived:
        return ""
    parts = [
        """## The networks without the rest

F1 lost: what the network loses on the validation tiles, before any further training, when \
everything below the cut is replaced by its mean, with a 95 % bootstrap interval over tiles; \
negative where it does better without."""
    ]
    for derivation in story.derived:
        name = derivation.trained.settings.network
        label = derivation.trained.label
        keep = derivation.proposal.keep_levels
        rivals = _rivals(story, derivation)
        parts.append(
            f"""### {label}

{markdown(proposal_table(derivation.analysis))}

{_support(derivation)}

The cut keeps {_count(keep)} of the network's own with trained weights and puts a light \
bottleneck (two 3x3 convolutions) one level below. Beside it stand the same cut with every weight \
drawn anew, and the whole network without channels drawn at random, as many as bring it to the \
multiply-accumulates of the cut; each is trained for {story.preset.tuning} epochs, the whole \
network for {story.preset.epochs}. Compared as above, over the folds that have both:

{markdown(comparison_table(rivals), ("verdict",))}

{_corrected(rivals)}

{_depths(story, name)}\
All levels at which the network can be cut are in the [table of proposals](proposals-{name}.csv)."""
        )
    return "\n\n".join(parts)


def _support(derivation: Derivation) -> str:
    alone = "; ".join(
        f"{grade} {'no cut' if keep is None else _count(keep)}"
        for grade, keep in derivation.supported.items()
    )
    keep = _count(derivation.proposal.keep_levels)
    if derivation.justified:
        return f"The joint verdict supports keeping {keep} (by each grade alone: {alone})."
    return (
        "**The evidence does not support any cut of this network** "
        f"(by each grade alone: {alone}). The cut below, which keeps {keep}, is the one with the "
        "least against it, made to see what it costs."
    )


def _count(levels: int) -> str:
    return f"{levels} level{'' if levels == 1 else 's'}"


def _rivals(story: Story, derivation: Derivation) -> list[Comparison]:
    """The cut network against the whole one and against what else costs as little."""
    groups = by_network(story.results)
    cut, redrawn, thinned = (groups[_rival(derivation, how)] for how in RIVALS)
    whole = groups[derivation.trained.label]
    return [compare(cut, other) for other in (whole, redrawn, thinned)]


def _depths(story: Story, name: str) -> str:
    """How deep the cuts of all folds went, where they differ."""
    keeps = [r["keep_levels"] for job, r in story.analysed.items() if job.startswith(f"{name}-")]
    if len(set(keeps)) < 2:
        return ""
    counts = ", ".join(f"{keeps.count(keep)} times {_count(keep)}" for keep in sorted(set(keeps)))
    return f"Every fold was cut where its own analysis says: {counts}. "


def _reduced(story: Story) -> str:
    if not set(story.shown) - {"unet", "multiresunet"}:
        return ""
    parts = [
        """## The paper's reduced networks, trained from scratch

Half U-net and Half MultiResUNet keep two levels, Quarter MultiResUNet one. They are narrower \
than what a cut leaves: a cut keeps the widths of the original. Built at the same widths, a cut \
gives the same layers, parameters and MACs as the zoo's network (tested in \
`tests/studies/test_derivation.py`)."""
    ]
    for name, number in (("half_multiresunet", 13), ("quarter_multiresunet", 14)):
        if name not in story.shown:
            continue
        trained, analysis = story.shown[name]
        label = trained.label
        parts.append(
            f"""{_histograms(name, label, number)}

> {analysis.conclusion}

{whole_report(name, label)}"""
        )
    if "half_unet" in story.shown:
        parts.append(whole_report("half_unet", "Half U-net"))
    return "\n\n".join(parts)


def _fields(story: Story) -> str:
    rows = []
    for name, (trained, analysis) in story.shown.items():
        field = network_receptive_field(analysis.structure.program)
        ours = "whole input" if None in field else f"{field[0]} px"
        claimed = CLAIMED_FIELDS.get(name)
        rows.append(f"| {trained.label} | {ours} | {f'{claimed:,} px' if claimed else ''} |")
    table = "\n".join(["| network | computed | paper |", "| :-- | --: | --: |", *rows])
    return f"""## Receptive fields

{table}

Computed layer by layer: a window of k widens the field by (k - 1) times the distance between \
neighbouring positions, a stride multiplies that distance. The paper gives its figures without a \
derivation; they are not the result of this arithmetic for the networks of its table 4. Its \
conclusion, that particles of 3-10 px need no field of hundreds of pixels, does not depend on \
them."""


def _left_out() -> str:
    return """## What is not repeated

SegNet and DeepLab: the paper tried SegNet, which learned nothing there, and left DeepLab out as \
made for larger objects (sec. 2). Its photographs are not public."""


def _again(story: Story) -> str:
    here = [result for result in story.results if result.device == "cpu"]
    hours = sum(result.processor_seconds for result in here) / 3600
    cards = sorted({result.device for result in story.results} - {"cpu"})
    elsewhere = (
        f"; the other {len(story.results) - len(here)} were trained on {' and '.join(cards)} (the "
        "column `device` of the results says which)"
        if cards
        else ""
    )
    return f"""## Run it again

    {_command(story)}

{len(here)} of the trainings above took {hours:.1f} hours of processor time{elsewhere}. \
`--dry-run` says beforehand what \
is left to do and how long it takes; `--data DIR` takes your own photographs from `DIR/images` and \
their masks from `DIR/masks`. All figures in full: [results](results.csv), \
[table 4](table4.csv)."""
