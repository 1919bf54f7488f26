"""The paper's claims, one row each: what it says, what was measured, and the verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from torch import Tensor

from studies.sand.comparison import (
    LEAST_FOLDS,
    UNDECIDED,
    Comparison,
    as_p,
    by_network,
    compare,
)
from studies.sand.costs import PAPER
from studies.sand.fitting import FOLDS
from studies.sand.plan import NARROW, QUARTER, WIDE
from studies.sand.records import Trained
from studies.sand.tables import NAMES, Result
from weightscope.analysis import Analysis
from weightscope.receptive_field import network_receptive_field

BEARS_OUT, CONTRADICTS, CANNOT_TELL = "bears out", "contradicts", "cannot be told"

IDLE = 0.02
"""F1 that a network may lose without levels that do no work; the paper gives no figure, and a
difference of this size is what another seed gives."""

WORKS = 0.3
"""A network below this best-threshold F1 finds too little to say which of its levels it needs."""

NEAR_ZERO = 0.01
"""The paper's histograms show a peak within about this of zero; it names no threshold."""

Shown = Mapping[str, tuple[Trained, Analysis]]


@dataclass(frozen=True)
class Claim:
    """A row of the table.

    Attributes:
        paper: What the paper says, with its section.
        measured: What was found, with its interval where there is one.
        verdict: Bears out, contradicts, or cannot be told, and why.
    """

    paper: str
    measured: str
    verdict: str


def claims_table(
    results: Sequence[Result],
    analysed: Mapping[str, Mapping[str, Any]],
    shown: Shown,
    widths: Mapping[str, int],
) -> pd.DataFrame:
    """Hold every claim of the paper against what has been measured so far.

    Args:
        results: Of all trainings.
        analysed: What the analyses of the whole networks said, by job.
        shown: The paper's networks in the fold of section 4.5.
        widths: Channels of each network's first stage, by its key.
    """
    groups = by_network(results)
    claims = [
        *(later_stages(name, analysed, shown) for name in ("unet", "multiresunet")),
        near_zero(shown),
        kernels(shown),
        better(groups, "half_unet", "unet", widths),
        better(groups, "half_multiresunet", "multiresunet", widths),
        better(groups, QUARTER, "multiresunet", widths),
        costs(),
        wider(groups),
        fields(shown),
        failures(groups),
    ]
    return pd.DataFrame([vars(claim) for claim in claims])


def later_stages(name: str, analysed: Mapping[str, Mapping[str, Any]], shown: Shown) -> Claim:
    """Sec. 4.5: the encoder stages after the second do nothing."""
    paper = f"The later encoder stages of {NAMES[name]} are idle (4.5)"
    if name not in shown:
        return Claim(paper, "not trained yet", CANNOT_TELL)
    trained, analysis = shown[name]
    if trained.metrics.best_f1 < WORKS:
        return Claim(
            paper, f"the network does not work (F1 {trained.metrics.best_f1:.2f})", CANNOT_TELL
        )
    ablation = None if analysis.data is None else analysis.data.ablation
    levels = () if ablation is None else ablation.levels
    lost = next((level for level in levels if level.keep_levels == 2), None)
    if lost is None:
        return Claim(paper, "its levels could not be ablated", CANNOT_TELL)
    folds = [r["joint"] for job, r in analysed.items() if job.startswith(f"{name}-")]
    agree = sum(keep is not None and keep <= 2 for keep in folds)
    measured = (
        f"in the fold shown F1 falls by {lost.drop:.3f} ({lost.low:.3f} to {lost.high:.3f}) "
        f"without levels 2 and deeper; these are judged unused in {agree} of {len(folds)} folds"
    )
    fewer = [keep for keep in folds if keep is not None and keep > 2]
    if fewer:
        measured += f", levels {max(fewer)} and deeper in {len(fewer)} more"
    if lost.high < IDLE:
        return Claim(paper, measured, BEARS_OUT)
    if folds and fewer and len(fewer) + agree == len(folds):
        rest = "the fold shown contradicts" if lost.low > IDLE else CANNOT_TELL
        deep = f"levels {max(fewer)} and deeper are idle in every fold"
        return Claim(paper, measured, f"in part: {deep}; of level 2 {rest}")
    return Claim(paper, measured, CONTRADICTS if lost.low > IDLE else CANNOT_TELL)


def near_zero(shown: Shown) -> Claim:
    """Sec. 4.5: weights near zero are the sign of an idle stage."""
    paper = "Weights near zero are the sign of an idle stage (4.5)"
    masses = []
    for name in ("unet", "multiresunet"):
        if name in shown:
            trained, _ = shown[name]
            after, before = trained.model.state_dict(), trained.initial
            layers = [
                key for key in after if key.startswith("bottleneck") and after[key].dim() == 4
            ]
            masses.append((NAMES[name], _mass(before, layers), _mass(after, layers)))
    if not masses:
        return Claim(paper, "not trained yet", CANNOT_TELL)
    measured = "; ".join(
        f"{label}: {before:.1%} of the bottleneck's kernels within {NEAR_ZERO} of zero before "
        f"training, {after:.1%} after"
        for label, before, after in masses
    )
    initial = all(after < 1.5 * before for _, before, after in masses)
    return Claim(
        paper,
        measured,
        f"{CONTRADICTS}: the untrained network shows it too" if initial else CANNOT_TELL,
    )


def kernels(shown: Shown) -> Claim:
    """Fig. 12: the 1x1 kernels of the ResPaths are more active than the 3x3 ones."""
    paper = "1x1 kernels of the skips are more active than 3x3 ones (fig. 12)"
    if "multiresunet" not in shown:
        return Claim(paper, "not trained yet", CANNOT_TELL)
    trained, _ = shown["multiresunet"]
    ratios = []
    for state in (trained.initial, trained.model.state_dict()):
        sizes = {
            side: [
                float(tensor.abs().mean())
                for key, tensor in state.items()
                if key.startswith("skips") and tensor.dim() == 4 and tensor.shape[-1] == side
            ]
            for side in (1, 3)
        }
        ratios.append(sum(sizes[1]) / len(sizes[1]) / (sum(sizes[3]) / len(sizes[3])))
    measured = (
        f"mean size of 1x1 over 3x3 kernels: {ratios[0]:.2f} before training, {ratios[1]:.2f} after"
    )
    if ratios[1] > 1 and ratios[1] < 1.2 * ratios[0]:
        return Claim(paper, measured, f"{CONTRADICTS}: it is the initialisation's")
    return Claim(paper, measured, BEARS_OUT if ratios[1] > 1 else CONTRADICTS)


def better(
    groups: Mapping[str, Sequence[Result]], small: str, whole: str, widths: Mapping[str, int]
) -> Claim:
    """Tables 1-3: the reduced networks are better than the whole one.

    A reduced network that starts with more channels than the whole one, other than in the paper,
    may be better for its width: then the claim is held against one of equal width, where there is
    one.
    """
    paper = f"{NAMES[small]} is better than {NAMES[whole]} (tables 1-3)"
    label, wider = NAMES[small], widths[small] > widths[whole]
    equal = wider and small == QUARTER and widths[NARROW.key] == widths[whole]
    if equal and NARROW.label in groups:
        label, wider = NARROW.label, False
    if not (label in groups and NAMES[whole] in groups):
        return Claim(paper, "not both trained yet", CANNOT_TELL)
    found = compare(groups[label], groups[NAMES[whole]])
    measured = _difference(found)
    if label == NARROW.label:
        measured += f", both with {widths[whole]} channels in the first stage"
    if not wider:
        return Claim(paper, measured, _sign(found, expected=1))
    measured += f", with {widths[small]} channels in the first stage against {widths[whole]}"
    return Claim(paper, measured, f"{CANNOT_TELL}: it is wider here, in the paper narrower")


def costs() -> Claim:
    """Sec. 5: a fifth of the FLOPs and a fiftieth of the parameters."""
    half, whole = PAPER["half_multiresunet"], PAPER["multiresunet"]
    return Claim(
        "Half MultiResUNet needs 1/5 of the FLOPs and 1/50 of the parameters (5)",
        f"1/{whole.flops / half.flops:.1f} and 1/{whole.parameters / half.parameters:.0f} by its "
        "table 4, which the networks here follow (below)",
        BEARS_OUT,
    )


def wider(groups: Mapping[str, Sequence[Result]]) -> Claim:
    """Sec. 4.6: four times the channels are no better."""
    paper = "Quarter MultiResUNet with four times the channels is no better (4.6)"
    narrow = groups.get(NARROW.label, groups.get(NAMES[QUARTER]))
    wide = groups.get(WIDE.label)
    if narrow is None or wide is None:
        return Claim(paper, "not trained yet", CANNOT_TELL)
    found = compare(wide, narrow)
    verdict = _sign(found, expected=1)
    swapped = {BEARS_OUT: CONTRADICTS, CONTRADICTS: BEARS_OUT}
    return Claim(paper, _difference(found), swapped.get(verdict, verdict))


def fields(shown: Shown) -> Claim:
    """Sec. 3: receptive fields of 20, 200 and 38,000 px."""
    names = (QUARTER, "half_multiresunet", "multiresunet")
    found = {
        name: network_receptive_field(shown[name][1].structure.program)[0]
        for name in names
        if name in shown
    }
    measured = ", ".join(f"{NAMES[name]} {side} px" for name, side in found.items())
    return Claim(
        "Receptive fields of 20, 200 and 38,000 px: Quarter, Half, whole MultiResUNet (3)",
        f"computed layer by layer: {measured}" if measured else "not trained yet",
        CONTRADICTS if measured else CANNOT_TELL,
    )


def failures(groups: Mapping[str, Sequence[Result]]) -> Claim:
    """Table 2: U-net and Half U-net have an F1 of 0 in some folds."""
    paper = "U-net and Half U-net fail to train in some folds (table 2)"
    runs = [r for name in ("unet", "half_unet") for r in groups.get(NAMES[name], ())]
    failed = sum(r.metrics.best_f1 < 0.1 for r in runs)
    measured = f"{failed} of {len(runs)} trainings ended below a best-threshold F1 of 0.1"
    if failed:
        return Claim(paper, measured, BEARS_OUT)
    if not runs:
        return Claim(paper, "not trained yet", CANNOT_TELL)
    most = 1 - 0.05 ** (1 / len(runs))
    return Claim(
        paper, f"{measured}: at most {most:.0%} do (95 %)", f"{CANNOT_TELL}: none failed here"
    )


def _mass(state: Mapping[str, Tensor], layers: Sequence[str]) -> float:
    count = sum(state[layer].numel() for layer in layers)
    return sum(float((state[layer].abs() <= NEAR_ZERO).sum()) for layer in layers) / count


def _difference(found: Comparison) -> str:
    p = "" if found.p_folds is None else f", p over folds {as_p(found.p_folds)}"
    return (
        f"F1 {found.difference:+.3f} ({found.low:+.3f} to {found.high:+.3f}), "
        f"{found.folds} {'fold' if found.folds == 1 else 'folds'}{p}"
    )


def _sign(found: Comparison, expected: int) -> str:
    """A verdict on the sign of a difference; few folds decide nothing."""
    if found.folds < LEAST_FOLDS:
        return f"{CANNOT_TELL}: {found.folds} of {FOLDS} folds"
    if found.verdict == UNDECIDED:
        return CANNOT_TELL
    return BEARS_OUT if found.difference * expected > 0 else CONTRADICTS
