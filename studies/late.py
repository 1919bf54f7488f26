"""Is a level left alone that a network needs only once it has learnt its last class?

    python studies/late.py [--page docs/studies/evidence/late.md]

Networks of three classes: a background that is told from the rest within tens of steps, and two
kinds of object that take hundreds. After 10 to 320 steps they are asked; the truth is what each
level carries at any time from then on, up to 800 steps. A failure is a level called unused, by the
model alone or on unlabelled images, without which more than a tenth of the score is lost then. The
first six networks showed that the guard of hardly trained networks let such levels through, and its
form was mended on them; the other six, of other designs and optimisers, were trained afterwards and
chose nothing.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

import weightscope as ws  # noqa: E402
from studies.evidence_protocol.designs import DESIGNS  # noqa: E402
from studies.evidence_protocol.truth import without_levels  # noqa: E402
from weightscope.files import written_atomically  # noqa: E402

SIZE, TRAINED_ON, ASKED = 48, 200, 40
STEPS = (10, 20, 40, 80, 160, 320, 800)
NEEDED = 0.1
"""Share of the score; what it is of is small at first, so that a twentieth would be noise."""


@dataclass(frozen=True)
class Case:
    """One network: its design, its task, its optimiser."""

    design: str
    task: str
    optimizer: str
    rate: float

    @property
    def name(self) -> str:
        """In the table."""
        return f"{self.design}, {self.task}, {self.optimizer} {self.rate:g}"


CHOSE = (
    Case("batch", "shape", "Adam", 3e-3),
    Case("batch", "size", "Adam", 3e-3),
    Case("batch", "hole", "Adam", 3e-3),
    Case("plain", "shape", "Adam", 3e-3),
    Case("plain", "size", "Adam", 5e-3),
    Case("plain", "hole", "Adam", 3e-3),
)
JUDGE = (
    Case("group", "size", "RMSprop", 1e-3),
    Case("residual", "shape", "AdamW", 2e-3),
    Case("layer", "hole", "NAdam", 3e-3),
    Case("instance", "size", "SGD", 5e-2),
    Case("unet", "hole", "SGD", 5e-2),
    Case("multiresunet", "shape", "Adam", 1e-3),
)

OPTIMIZERS: dict[str, Callable[[Iterable[nn.Parameter], float], torch.optim.Optimizer]] = {
    "Adam": torch.optim.Adam,
    "AdamW": torch.optim.AdamW,
    "NAdam": torch.optim.NAdam,
    "RMSprop": torch.optim.RMSprop,
    "SGD": lambda p, rate: torch.optim.SGD(p, rate, momentum=0.9),
}


def objects(task: str, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Discs and squares, small and large discs, or discs with and without a hole; in noise."""
    draw = torch.Generator().manual_seed(seed)
    rows, columns = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    images, classes = torch.zeros(count, SIZE, SIZE), torch.zeros(count, SIZE, SIZE).long()
    for image, truth in zip(images, classes, strict=True):
        for _ in range(3):
            y, x, size, kind = torch.rand(4, generator=draw).tolist()
            second = kind < 0.5
            far = (rows - y * SIZE) ** 2 + (columns - x * SIZE) ** 2
            radius = 6 + 5 * size
            if task == "size":
                radius = 3 + 3 * size if second else 8 + 4 * size
            inside = far < radius**2
            if task == "shape" and second:
                sides = torch.stack([rows - y * SIZE, columns - x * SIZE]).abs()
                inside = sides.amax(0) < 0.9 * radius
            image[inside], truth[inside] = 1.0, 1 + int(second)
            if task == "hole" and second:
                image[far < 4] = 0.0
    noise = torch.randn(images.shape, generator=draw)
    return (images + 0.3 * noise)[:, None], classes


def score(outputs: Tensor, classes: Tensor) -> float:
    """Mean F1 of the two kinds of object."""
    taken = outputs.argmax(1)
    both = [((taken == c) & (classes == c)).sum() for c in (1, 2)]
    either = [(taken == c).sum() + (classes == c).sum() for c in (1, 2)]
    return float(sum(2 * a / b.clamp_min(1) for a, b in zip(both, either, strict=True)) / 2)


def asked(model: nn.Module, images: Tensor) -> tuple[dict[str, set[int]], float]:
    """Reductions of the levels whose cut takes nothing that is needed, by grade; `resolved`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = ws.analyze(model, images=[images])
    structure = found.structure
    level = {stage.name: stage.level for stage in structure.stages}
    unused = {}
    for grade in ("response", "images"):
        silent = {
            level[v.stage]
            for v in found.assessment.verdicts
            if any(s.grade == grade and s.verdict == "unused" for s in v.scores)
        }
        unused[grade] = {round(structure.reductions[k][0]) for k in silent}
    measured = found.images
    return unused, measured.cuts[0].resolved if measured and measured.cuts else float("nan")


def measure(case: Case, seed: int) -> dict[str, Any]:
    """Train one network and ask it on the way."""
    torch.manual_seed(seed)
    model = DESIGNS[case.design].build(1, 3, 8, 4)
    optimizer = OPTIMIZERS[case.optimizer](model.parameters(), case.rate)
    images, classes = objects(case.task, TRAINED_ON, seed)
    others, truth = objects(case.task, ASKED, 1000 + seed)
    rows, done = [], 0
    for steps in STEPS:
        model.train()
        for _ in range(steps - done):
            picked = torch.randint(len(images), (8,))
            loss = F.cross_entropy(model(images[picked]), classes[picked])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        done = steps
        model.eval()
        left = without_levels(model, DESIGNS[case.design].taps(model), others)
        whole = score(left.pop(0), truth)
        lost = {k: (whole - score(o, truth)) / max(whole, 1e-6) for k, o in left.items()}
        unused, resolved = asked(model, others)
        rows.append({"steps": steps, "score": whole, "lost": lost, "unused": unused,
                     "resolved": resolved})  # fmt: skip
    return {"case": case, "rows": rows}


def judged(found: dict[str, Any]) -> dict[str, list[tuple[int, int, float]]]:
    """What was called unused by grade: steps, reduction, the most that is lost from then on."""
    rows = found["rows"]
    return {
        grade: [
            (row["steps"], k, max(later["lost"][k] for later in rows[place:]))
            for place, row in enumerate(rows)
            for k in sorted(row["unused"][grade] & set(row["lost"]))
        ]
        for grade in ("response", "images")
    }


def part(title: str, found: list[dict[str, Any]]) -> list[str]:
    """What is said of some networks, failures first."""
    told = {grade: [(f["case"].name, *one) for f in found for one in judged(f)[grade]]
            for grade in ("response", "images")}  # fmt: skip
    lines = [f"## {title}", ""]
    for grade, who in (("response", "The model alone"), ("images", "On unlabelled images")):
        wrong = [one for one in told[grade] if one[3] > NEEDED]
        lines += [
            f"**{who}: {len(wrong)} of {len(told[grade])} verdicts *unused* are failures.**",
            "",
            *[f"- {name}, after {steps} steps at reduction {k}: {lost:.0%} is lost later"
              for name, steps, k, lost in wrong],
            *([""] if wrong else []),
        ]  # fmt: skip
    columns = ("network", "steps", "score", "lost", "alone", "images", "told apart")
    lines += ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    for f in found:
        for row in f["rows"]:
            lost = ", ".join(f"{share:.0%}" for _, share in sorted(row["lost"].items()))
            silent = [
                ", ".join(map(str, sorted(row["unused"][grade] & set(row["lost"])))) or "none"
                for grade in told
            ]
            apart = "undecided" if math.isnan(row["resolved"]) else f"{row['resolved']:.2f}"
            cells = [f["case"].name, row["steps"], f"{row['score']:.2f}", lost, *silent, apart]
            lines.append("| " + " | ".join(map(str, cells)).replace(" -0%", " 0%") + " |")
    return [*lines, ""]


def write(chose: list[dict[str, Any]], judge: list[dict[str, Any]], path: Path) -> None:
    """The page."""
    text = [
        "# Levels that are needed late",
        "",
        "`python studies/late.py`: networks of three classes, of which the background is told from "
        "the rest at once and the two kinds of object (discs and squares, small and large discs, "
        "discs with and without a hole) late. What counts as a failure stands in the command: a "
        "level called unused without which more than a tenth of the score is lost later.",
        "",
        "*Score* is the mean F1 of the two kinds. *Lost* is the share of it that goes without the "
        "levels from reduction 2, 4 and 8 on. *Alone* and *images* are the reductions called "
        "unused by the model alone and on 40 unlabelled images. *Told apart* is how far the "
        "probabilities tell the two classes apart that they tell apart least, on these images "
        "([what that is](../../decisions/response.md#networks-that-are-hardly-trained)); "
        "*undecided* where the outputs are no decisions yet.",
        "",
        *part("Networks that chose nothing", judge),
        *part("Networks that the guard was mended on", chose),
    ]
    with written_atomically(path) as temporary:
        temporary.write_text("\n".join(text))


def main(arguments: list[str] | None = None) -> None:
    """Run all and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    page = ROOT / "docs" / "studies" / "evidence" / "late.md"
    parser.add_argument("--page", type=Path, default=page)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    found = []
    for seed, case in enumerate(CHOSE + JUDGE):
        found.append(measure(case, seed))
        print(found[-1], flush=True)
    write(found[: len(CHOSE)], found[len(CHOSE) :], options.page)


if __name__ == "__main__":
    main()
