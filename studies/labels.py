"""Are several labels, and classes that exclude each other, read rightly? Fresh networks say.

    python studies/labels.py [--out runs/evidence-labels] [--page docs/studies/evidence/labels.md]

Designs and tasks are none of the evidence study's. docs/decisions/response.md says what counts as a
failure, and was written before this ran. Every network is analysed three times: with the rule for
labels that are found together, with its border out of reach, and with a rule that asks both
readings only before a level is called unused.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal
from unittest import mock

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np  # noqa: E402
import torch  # noqa: E402
from numpy.typing import NDArray  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from studies.evidence_protocol.truth import without_levels  # noqa: E402
from studies.tiny import (  # noqa: E402
    IMAGES,
    RULES,
    SIZE,
    STEPS,
    TEST,
    TRAIN,
    Net,
    Optimizer,
    batch,
    changes,
    cuts,
    fit,
    instance,
    judged,
    layer,
    run_cases,
    tally_table,
    taps,
    trained,
    verdicts_of,
)
from weightscope.files import written_atomically  # noqa: E402
from weightscope.probing import response  # noqa: E402
from weightscope.probing.change import Figures  # noqa: E402
from weightscope.thresholds import BARE  # noqa: E402

Kind = Literal["labels", "classes"]
ALONE = "unused alone"
NAMES = ("discs", "squares", "large", "covered twice", "inside of frames")


def shapes(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Discs, squares and hollow frames that overlap, and five masks that do, see `NAMES`."""
    images, masks = [], []
    y, x = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32)
    for index in range(n):
        rng = np.random.default_rng([seed, index])
        image, cover = np.zeros((SIZE, SIZE)), np.zeros((SIZE, SIZE))
        mask = np.zeros((5, SIZE, SIZE), bool)
        for _ in range(int(rng.integers(2, 6))):
            half = float(rng.uniform(8, 12) if rng.random() < 0.35 else rng.uniform(2.5, 5))
            cy, cx = rng.uniform(0, SIZE, 2)
            kind = int(rng.integers(3))
            box = np.maximum(abs(y - cy), abs(x - cx))
            inside = np.hypot(y - cy, x - cx) < half if kind == 0 else box < half
            line = (inside & (box > half - 1.5)) if kind == 2 else inside
            image[line] += 0.6
            cover += inside
            mask[min(kind, 1)] |= inside
            mask[2] |= inside & (half > 7)
            mask[4] |= inside & (kind == 2)
        mask[3] = cover > 1
        images.append(image + 0.15 * rng.standard_normal(image.shape))
        masks.append(mask)
    return (
        torch.from_numpy(np.stack(images)).float()[:, None],
        torch.from_numpy(np.stack(masks)).float(),
    )


def bars(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Bars that cross, and dots; masks of horizontal and vertical ones, of dots and crossings."""
    images, masks = [], []
    for index in range(n):
        rng = np.random.default_rng([seed, index])
        mask = np.zeros((4, SIZE, SIZE), bool)
        for _ in range(int(rng.integers(3, 7))):
            y, x = rng.integers(0, SIZE - 4, 2)
            length, kind = int(rng.integers(10, 24)), int(rng.integers(2))
            mask[kind][(slice(y, y + 2), slice(x, x + length))[:: 1 - 2 * kind]] = True
        for _ in range(int(rng.integers(4, 9))):
            y, x = rng.integers(0, SIZE - 3, 2)
            mask[2, y : y + 3, x : x + 3] = True
        mask[3] = mask[0] & mask[1]
        image = 0.5 * mask[:3].sum(0) + 0.12 * rng.standard_normal((SIZE, SIZE))
        images.append(image)
        masks.append(mask)
    return (
        torch.from_numpy(np.stack(images)).float()[:, None],
        torch.from_numpy(np.stack(masks)).float(),
    )


def bar_classes(masks: Tensor) -> Tensor:
    """Background, horizontal alone, vertical alone, dots; one number for each pixel."""
    found = torch.where(masks[:, 0] > 0, 1, 0)
    found = torch.where(masks[:, 1] > 0, 2, found)
    return torch.where(masks[:, 2] > 0, 3, found)


def in_front(classes: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The three of four classes that are not background, as labels that exclude each other."""
    return lambda masks: F.one_hot(classes(masks), 4).movedim(-1, 1)[:, 1:].float()


class Below(nn.Module):
    """Logits that a constant moves far below zero, which no softmax sees."""

    def forward(self, x: Tensor) -> Tensor:
        """The same classes."""
        return x - 8.0


def masks_of(*picked: int) -> Callable[[Tensor], Tensor]:
    """Some of the five masks as labels."""
    return lambda masks: masks[:, list(picked)]


def complements(masks: Tensor) -> Tensor:
    """Large or not, as two channels."""
    return torch.stack([masks[:, 2], 1 - masks[:, 2]], 1)


def nested(depth: int) -> Callable[[Tensor], Tensor]:
    """Whatever is covered; of it what is large; of that what is inside of frames."""

    def made(masks: Tensor) -> Tensor:
        covered = ((masks[:, 0] + masks[:, 1]) > 0).float()
        inner = [covered, masks[:, 2], masks[:, 2] * masks[:, 4]]
        return torch.stack(inner[:depth], 1)

    return made


def four_classes(masks: Tensor) -> Tensor:
    """Background, small, large, inside of frames; one number for each pixel."""
    covered = (masks[:, 0] + masks[:, 1] > 0).long()
    found = torch.where(masks[:, 2] > 0, 2, covered)
    return torch.where(masks[:, 4] > 0, 3, found)


def one_hot(masks: Tensor) -> Tensor:
    """The four classes as labels that exclude each other."""
    return F.one_hot(four_classes(masks), 4).movedim(-1, 1).float()


def by_label(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of every label; rare ones count more."""
    weight = (1 / targets.mean((0, 2, 3), keepdim=True).clamp(0.05, 1.0)).sqrt()
    return F.binary_cross_entropy_with_logits(outputs, targets, pos_weight=weight)


def of_shares(outputs: Tensor, targets: Tensor) -> Tensor:
    """The same of probabilities."""
    return F.binary_cross_entropy(outputs, targets)


def held_below(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy with a penalty on logits above zero."""
    return F.cross_entropy(outputs, targets) + 0.1 * outputs.clamp_min(0).square().mean()


@dataclass(frozen=True)
class Case:
    """One network.

    Attributes:
        name: In the table.
        kind: Labels of their own, or classes that exclude each other.
        targets: From the five masks.
        outputs: Channels.
        net: Norm, activation, way to join, end.
        loss: Of outputs and targets.
        optimizer: Of the parameters.
        levels: Number of levels.
        draw: The images and masks.
    """

    name: str
    kind: Kind
    targets: Callable[[Tensor], Tensor]
    outputs: int
    net: tuple[Any, ...]
    loss: Callable[[Tensor, Tensor], Tensor]
    optimizer: Optimizer
    levels: int = 4
    draw: Callable[[int, int], tuple[Tensor, Tensor]] = shapes

    def build(self) -> Net:
        """The network with random weights."""
        return Net(self.outputs, 8, self.levels, *self.net)


def _end(module: Callable[[], nn.Module] = nn.Identity) -> nn.Module:
    return module()


CASES = (
    Case("two labels, added", "labels", masks_of(0, 1), 2,
         (batch, nn.SiLU, "add", _end()), by_label, lambda p: torch.optim.NAdam(p, 4e-3)),
    Case("two labels, concatenated", "labels", masks_of(0, 1), 2,
         (instance, nn.GELU, "concatenate", _end()), by_label,
         lambda p: torch.optim.Adamax(p, 6e-3)),
    Case("large, and rare overlaps", "labels", masks_of(2, 3), 2,
         (batch, nn.LeakyReLU, "answers", _end()), by_label, lambda p: torch.optim.RAdam(p, 6e-3)),
    Case("five labels", "labels", masks_of(0, 1, 2, 3, 4), 5,
         (layer, nn.SiLU, "concatenate", _end()), by_label, lambda p: torch.optim.NAdam(p, 4e-3)),
    Case("five labels, answers added", "labels", masks_of(0, 1, 2, 3, 4), 5,
         (batch, nn.ReLU, "answers", _end()), by_label, lambda p: torch.optim.Adamax(p, 8e-3)),
    Case("rare frames and discs, 5 levels", "labels", masks_of(0, 4), 2,
         (batch, nn.ReLU, "concatenate", _end()), by_label,
         lambda p: torch.optim.Adagrad(p, 2e-2), 5),
    Case("complements", "labels", complements, 2,
         (instance, nn.ReLU, "add", _end()), by_label, lambda p: torch.optim.NAdam(p, 4e-3)),
    Case("four classes by sigmoid", "labels", one_hot, 4,
         (batch, nn.SiLU, "concatenate", _end()), by_label, lambda p: torch.optim.RAdam(p, 6e-3)),
    Case("two labels as probabilities", "labels", masks_of(0, 1), 2,
         (batch, nn.ReLU, "concatenate", _end(nn.Sigmoid)), of_shares,
         lambda p: torch.optim.Adamax(p, 6e-3)),
    Case("four classes, logits less 8", "classes", four_classes, 4,
         (batch, nn.ReLU, "concatenate", _end(Below)), F.cross_entropy,
         lambda p: torch.optim.NAdam(p, 4e-3)),
    Case("four classes, log-softmax", "classes", four_classes, 4,
         (layer, nn.GELU, "add", _end(lambda: nn.LogSoftmax(1))), F.nll_loss,
         lambda p: torch.optim.RAdam(p, 6e-3)),
    Case("four classes, logits held below", "classes", four_classes, 4,
         (batch, nn.SiLU, "answers", _end()), held_below, lambda p: torch.optim.Adamax(p, 8e-3)),
    Case("two nested labels", "labels", nested(2), 2,
         (batch, nn.SiLU, "concatenate", _end()), by_label, lambda p: torch.optim.NAdam(p, 4e-3)),
    Case("three nested labels", "labels", nested(3), 3,
         (instance, nn.ReLU, "add", _end()), by_label, lambda p: torch.optim.RAdam(p, 6e-3)),
    Case("three nested labels, 5 levels", "labels", nested(3), 3,
         (batch, nn.GELU, "concatenate", _end()), by_label, lambda p: torch.optim.Adamax(p, 8e-3),
         5),
    Case("bars that cross, 5 levels", "labels", masks_of(0, 1), 2,
         (batch, nn.ReLU, "add", _end()), by_label, lambda p: torch.optim.NAdam(p, 4e-3), 5, bars),
    Case("bars and dots", "labels", masks_of(0, 1, 2), 3,
         (instance, nn.SiLU, "concatenate", _end()), by_label,
         lambda p: torch.optim.RAdam(p, 6e-3), 4, bars),
    Case("dots and rare crossings", "labels", masks_of(2, 3), 2,
         (batch, nn.LeakyReLU, "answers", _end()), by_label,
         lambda p: torch.optim.Adamax(p, 8e-3), 4, bars),
    Case("exclusive bars by sigmoid", "labels", in_front(bar_classes), 3,
         (batch, nn.GELU, "concatenate", _end()), by_label,
         lambda p: torch.optim.NAdam(p, 4e-3), 5, bars),
    Case("exclusive bars, log-softmax", "classes", bar_classes, 4,
         (batch, nn.SiLU, "concatenate", _end(lambda: nn.LogSoftmax(1))), F.nll_loss,
         lambda p: torch.optim.RAdam(p, 6e-3), 5, bars),
    Case("exclusive bars, logits held below", "classes", bar_classes, 4,
         (layer, nn.ReLU, "add", _end()), held_below, lambda p: torch.optim.Adamax(p, 8e-3),
         4, bars),
    Case("exclusive bars, softmax", "classes", bar_classes, 4,
         (batch, nn.ReLU, "concatenate", _end()), F.cross_entropy,
         lambda p: torch.optim.NAdam(p, 4e-3), 4, bars),
    Case("two labels, 5 levels", "labels", masks_of(0, 1), 2,
         (batch, nn.SiLU, "concatenate", _end()), by_label, lambda p: torch.optim.RAdam(p, 6e-3),
         5),
    Case("two labels, answers added", "labels", masks_of(0, 1), 2,
         (instance, nn.ReLU, "answers", _end()), by_label, lambda p: torch.optim.RAdam(p, 6e-3)),
    Case("large, and inside of frames", "labels", masks_of(2, 4), 2,
         (layer, nn.SiLU, "concatenate", _end()), by_label, lambda p: torch.optim.NAdam(p, 4e-3)),
    Case("four labels", "labels", masks_of(0, 1, 2, 4), 4,
         (batch, nn.GELU, "add", _end()), by_label, lambda p: torch.optim.Adamax(p, 8e-3)),
    Case("exclusive shapes by sigmoid", "labels", in_front(four_classes), 3,
         (batch, nn.ReLU, "concatenate", _end()), by_label, lambda p: torch.optim.RAdam(p, 6e-3)),
    Case("four classes, held below, concatenated", "classes", four_classes, 4,
         (instance, nn.SiLU, "concatenate", _end()), held_below,
         lambda p: torch.optim.NAdam(p, 4e-3)),
    Case("bars and dots, answers added", "labels", masks_of(0, 1, 2), 3,
         (layer, nn.ReLU, "answers", _end()), by_label,
         lambda p: torch.optim.Adamax(p, 8e-3), 4, bars),
    Case("bars and rare crossings, 5 levels", "labels", masks_of(0, 3), 2,
         (instance, nn.GELU, "concatenate", _end()), by_label,
         lambda p: torch.optim.NAdam(p, 4e-3), 5, bars),
    Case("exclusive bars by sigmoid, added", "labels", in_front(bar_classes), 3,
         (layer, nn.SiLU, "add", _end()), by_label, lambda p: torch.optim.RAdam(p, 6e-3), 4, bars),
    Case("exclusive bars, logits less 8", "classes", bar_classes, 4,
         (batch, nn.LeakyReLU, "concatenate", _end(Below)), F.cross_entropy,
         lambda p: torch.optim.Adamax(p, 6e-3), 4, bars),
)  # fmt: skip


def counts(kind: Kind, outputs: Tensor, targets: Tensor) -> NDArray[np.float64]:
    """Hits, calls and targets of each image, label and threshold: (images, labels, thresholds, 3).

    Labels are called above each of 60 thresholds, classes by the largest channel.
    """
    if kind == "classes":
        channels = outputs.shape[1]
        called = F.one_hot(outputs.argmax(1), channels).movedim(-1, 1)[:, :, None] > 0
        true = F.one_hot(targets, channels).movedim(-1, 1)[:, :, None] > 0
    else:
        flat = outputs.transpose(0, 1).flatten(1)
        edges = torch.quantile(flat[:, ::7], torch.linspace(0.0, 0.998, 60), dim=1).T
        called = outputs[:, :, None] > edges[None, :, :, None, None]
        true = targets[:, :, None] > 0.5
    sums = [(called & true), called, true.expand_as(called)]
    return torch.stack([s.double().sum((3, 4)) for s in sums], -1).numpy()


def f1(sums: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """F1 of each label at its best threshold, for each weighting of the images."""
    hits, called, true = np.moveaxis(np.tensordot(weights, sums, 1), -1, 0)
    return np.asarray((2 * hits / np.maximum(called + true, 1)).max(-1))


def truth(case: Case, model: Net, x: Tensor, y: Tensor) -> dict[str, Any]:
    """Skill, and the share of it that goes with the levels from each on, with its interval."""
    found = without_levels(model, taps(model), x)
    rng, n = np.random.default_rng(0), len(x)
    weights = np.vstack([np.ones(n), rng.multinomial(n, np.full(n, 1 / n), 300)])
    whole = counts(case.kind, found[0], y)
    true = np.tensordot(weights, whole[:, :, 0, 2], 1)
    share = true / (weights.sum(1)[:, None] * SIZE**2)
    constant = 2 * share / (1 + share)
    if case.kind == "classes":
        constant = constant * (share == share.max(1, keepdims=True))
    best = f1(whole, weights)
    skill = (best - constant).mean(1)
    levels = {}
    for level in list(found)[1:]:
        left = f1(counts(case.kind, found[level], y), weights)
        lost = (best - left).mean(1) / np.maximum(skill, 1e-9)
        low, high = np.quantile(lost[1:], [0.025, 0.975])
        each = ((best - left) / np.maximum(best - constant, 1e-9))[0]
        levels[level] = {"lost": float(lost[0]), "low": float(low), "high": float(high),
                         "most": float(each.max())}  # fmt: skip
    return {"f1": float(best[0].mean()), "constant": float(constant[0].mean()),
            "skill": float((skill[0]) / (1 - constant[0].mean())), "levels": levels}  # fmt: skip


def unused_alone() -> AbstractContextManager[object]:
    """A level is used where the largest channel says so, whatever the signs of each do."""
    joined = response._joined

    def lenient(keep_levels: int, kinds: Sequence[Figures]) -> response.CutResponse:
        found = joined(keep_levels, kinds)
        if np.isnan(found.flips) or np.isfinite(found.by_sign):  # numbers
            return found
        lost = np.fmin.reduce([kind.decisions for kind in kinds])
        low = min(float(np.nanquantile(lost[1:], 0.025)), float(lost[0]))
        return replace(found, value=float(lost[0]), low=low)

    return mock.patch.object(response, "_joined", lenient)


def measure(case: Case, index: int, folder: Path) -> dict[str, Any]:
    """Train, or load what was trained; measure the truth; ask the library."""

    def train(model: Net) -> None:
        x, masks = case.draw(TRAIN, 10 * index)
        fit(model, case.optimizer(model.parameters()), case.loss, x, case.targets(masks))

    model = trained(case.build, train, index, folder / f"{index:02d}.pt")
    x, masks = case.draw(TEST, 10 * index + 1)
    found = truth(case, model, x, case.targets(masks))
    bare, said = judged(model, case.draw(IMAGES, 10 * index + 2)[0], RULES | {ALONE: unused_alone})
    return {"name": case.name, "kind": case.kind, "bare": bare, "said": said} | found


def failures(found: list[dict[str, Any]]) -> list[str]:
    """What was written down as a failure, in words."""
    failed = [
        f"{c['name']}, level {c['level']}, by {c['grade']}: called unused with the rule, "
        f"{c['lost']:.0%} of the skill is lost"
        for c in found
        if c["clear"] and c["used"] and c["after"] == "unused"
    ]
    exclusive = [c for c in found if c["kind"] == "classes"]
    right = [c for c in exclusive if c["before"] == ("used" if c["used"] else "unused")]
    withdrawn = sum(c["after"] == "undecided" for c in right)
    if withdrawn > 0.1 * len(right):
        failed.append(
            f"{withdrawn} of {len(right)} right verdicts on classes that exclude each other are "
            "withdrawn by the rule"
        )
    return failed


def lenient(rows: Sequence[Mapping[str, Any]], found: Sequence[Mapping[str, Any]]) -> list[str]:
    """What asking both readings only before a level is called unused would change, in Markdown."""
    said = {row["name"]: row["said"][ALONE] for row in rows}
    bare = {row["name"]: row["bare"] for row in rows}
    pairs = [(c, said[c["name"]][c["level"]][c["grade"]]) for c in found]
    more = [c for c, by in pairs if by == "used" != c["after"]]
    lines = [
        f"If *unused* alone asked both readings, {len(more)} more verdicts would be *used*; "
        f"{sum(c['used'] for c in more)} of these are right. Cuts called used that are clearly "
        "idle, of networks with more than a quarter of the positions bare:",
        "",
        "| by | clearly idle cuts | called used with the rule, idle of all | *unused* alone |",
        "| --- | --- | --- | --- |",
    ]
    for grade in ("response", "images"):
        own = [x for x in pairs if x[0]["grade"] == grade and bare[x[0]["name"]] > BARE]
        idle = [x for x in own if x[0]["clear"] and not x[0]["used"]]
        called = [[x for x in own if x[0]["after"] == "used"], [x for x in own if x[1] == "used"]]
        cells = [f"{sum(x in idle for x in some)} of {len(some)}" for some in called]
        lines.append(f"| {grade} | {len(idle)} of {len(own)} | {cells[0]} | {cells[1]} |")
    return [*lines, ""]


def write(rows: list[dict[str, Any]], path: Path) -> None:
    """The page, failures first."""
    found = list(cuts(rows))
    failed = failures(found)
    text = ["# Labels that are found together", ""]
    text += [f"**{len(failed)} failures**{':' if failed else '.'}", "", *[f"- {f}" for f in failed]]
    text += [""] * bool(failed) + [
        *changes(found),
        f"{sum(not c['used'] for c in found)} of the {len(found)} verdicts are on levels that do "
        "little.",
        "",
        *lenient(rows, found),
        *tally_table(found, ("labels", "classes")),
    ]
    text += [
        "",
        "`python studies/labels.py`. Networks whose designs and tasks chose nothing, "
        f"trained for {STEPS} steps; what counts as a failure was [written down]"
        "(../../decisions/response.md) before it ran. Used is a cut that costs more than 5 % of "
        "the skill: mean F1 over the labels, each at its best threshold, or of the largest "
        f"channel over the classes, beyond the best constant, on {TEST} test images, by hooks. "
        f"Images are {IMAGES} others, without labels. Bare: share of positions of these at which "
        "every channel is below zero. Verdicts by the model alone / by images, with the rule; in "
        "brackets what was said without it.",
        "",
        "| network | bare | F1 (constant) | without | skill lost | of one label | verdicts |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        for level, lost in row["levels"].items():
            text.append(
                f"| {row['name']} | {row['bare']:.2f} | {row['f1']:.2f} ({row['constant']:.2f}) "
                f"| {level} and deeper | {lost['lost']:.0%} ({lost['low']:.0%} to "
                f"{lost['high']:.0%}) | {lost['most']:.0%} | {verdicts_of(row, level)} |"
            )
    with written_atomically(path) as temporary:
        temporary.write_text("\n".join([*text, ""]))


def main(arguments: list[str] | None = None) -> None:
    """Run all and write the page."""
    run_cases("labels", __doc__ or "", CASES, measure, write, arguments)


if __name__ == "__main__":
    main()
