"""Are untrained and hardly trained networks left alone? Eight networks that chose nothing.

    python studies/guards.py [--page docs/studies/evidence/guards.md]

Designs, tasks and optimisers are none of the evidence study's. Written down before it ran: a
failure is any stage called unused, by the model alone or on unlabelled images, of a network that is
untrained (whatever its start) or had at most five steps. Of the trained ones the share of decided
cuts is reported, and those that the F1 on labelled images contradicts. The borders of what is
hardly trained are judged by the steps between: a stage that is called unused there and used at the
end was condemned too early.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Callable, Iterator
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
from studies.tiny import Optimizer, fit  # noqa: E402
from weightscope.files import written_atomically  # noqa: E402
from weightscope.graph import read_structure  # noqa: E402
from weightscope.traces import marks_of_training  # noqa: E402

SIZE, IMAGES, STEPS = 32, 64, 120
FEW = (1, 5)
BETWEEN = (20, 60)


class Net(nn.Module):
    """A U-net of strided convolutions whose skips are added."""

    def __init__(
        self,
        width: int,
        levels: int,
        act: nn.Module,
        norm: Callable[[int], nn.Module],
        outputs: int,
    ) -> None:
        super().__init__()
        widths = [width * 2**k for k in range(levels)]
        self.act = act
        self.down = nn.ModuleList(
            nn.Conv2d(1 if k == 0 else widths[k - 1], w, 3, 1 if k == 0 else 2, 1)
            for k, w in enumerate(widths)
        )
        self.norms = nn.ModuleList(norm(w) for w in widths)
        self.up = nn.ModuleList(
            nn.Conv2d(widths[k + 1], widths[k], 3, padding=1) for k in range(levels - 1)
        )
        self.late = nn.ModuleList(norm(w) for w in widths[:-1])
        self.head = nn.Conv2d(width, outputs, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits or numbers, as large as the image."""
        kept: list[Tensor] = []
        for conv, norm in zip(self.down, self.norms, strict=True):
            x = self.act(norm(conv(x)))
            kept.append(x)
        for k in reversed(range(len(self.up))):
            y = F.interpolate(kept.pop() if k == len(self.up) - 1 else x, scale_factor=2.0)
            x = self.act(self.late[k](self.up[k](y))) + kept.pop()
        head: Tensor = self.head(x)
        return head


def stripes(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Which part of the image has upright stripes, the other part having level ones."""
    g = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    edge = torch.randint(8, SIZE - 8, (n, 1, 1), generator=g)
    phase = torch.rand(n, 1, 1, generator=g) * 6
    mask = (x[None] > edge).float()
    image = mask * torch.sin(x + phase) + (1 - mask) * torch.sin(y + phase)
    return (image + 0.3 * torch.randn(image.shape, generator=g))[:, None], mask[:, None]


def crosses(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Plus signs among single bars: only where both bars meet."""
    g = torch.Generator().manual_seed(seed)
    image, mask = torch.zeros(n, 1, SIZE, SIZE), torch.zeros(n, 1, SIZE, SIZE)
    for i in range(n):
        for _ in range(6):
            kind, y, x = (int(torch.randint(m, (1,), generator=g)) for m in (3, SIZE - 6, SIZE - 6))
            y, x = y + 3, x + 3
            if kind != 1:
                image[i, 0, y - 2 : y + 3, x] = 1
            if kind != 2:
                image[i, 0, y, x - 2 : x + 3] = 1
            if kind == 0:
                mask[i, 0, y - 2 : y + 3, x - 2 : x + 3] = 1
    return image + 0.2 * torch.randn(image.shape, generator=g), mask


def shade(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Brighter than the mean of its own image: needs the whole image."""
    g = torch.Generator().manual_seed(seed)
    image = F.interpolate(torch.randn(n, 1, 8, 8, generator=g), size=SIZE, mode="bilinear")
    image = image + 1.5 * torch.randn(n, 1, 1, 1, generator=g)
    return image, (image > image.mean((2, 3), keepdim=True)).float()


@dataclass(frozen=True)
class Case:
    """One network.

    Attributes:
        name: In the table.
        build: Makes it, with its own initialisation.
        task: Images and masks from a number and a seed.
        optimizer: Of its parameters.
    """

    name: str
    build: Callable[[], Net]
    task: Callable[[int, int], tuple[Tensor, Tensor]]
    optimizer: Optimizer


def drawn(net: Net, rule: Callable[[Tensor], object]) -> Net:
    """Draw every kernel anew."""
    for parameter in net.parameters():
        if parameter.dim() == 4:
            rule(parameter)
    return net


def plain(_: int) -> nn.Module:
    """No norm."""
    return nn.Identity()


CASES = (
    Case("leaky, Xavier normal", lambda: drawn(Net(8, 3, nn.LeakyReLU(0.2), plain, 1),
         nn.init.xavier_normal_), stripes, lambda p: torch.optim.NAdam(p, 3e-3)),
    Case("instance, 4 levels, He", lambda: drawn(Net(6, 4, nn.GELU(),
         lambda c: nn.InstanceNorm2d(c, affine=True), 1), nn.init.kaiming_normal_), crosses,
         lambda p: torch.optim.Adagrad(p, 1e-2)),
    Case("batch, SiLU", lambda: Net(8, 3, nn.SiLU(), nn.BatchNorm2d, 1), shade,
         lambda p: torch.optim.RAdam(p, 5e-3)),
    Case("layer, 4 levels", lambda: Net(6, 4, nn.ReLU(), lambda c: nn.GroupNorm(1, c), 1), shade,
         lambda p: torch.optim.Adamax(p, 5e-3)),
    Case("ELU, orthogonal", lambda: drawn(Net(8, 3, nn.ELU(), plain, 1), nn.init.orthogonal_),
         crosses, lambda p: torch.optim.Adadelta(p, 1.0)),
    Case("group, truncated normal", lambda: drawn(Net(8, 3, nn.ReLU(), lambda c: nn.GroupNorm(4, c),
         1), lambda w: nn.init.trunc_normal_(w, std=0.05)), stripes,
         lambda p: torch.optim.SGD(p, 0.1, momentum=0.95)),
    Case("batch, 4 levels", lambda: Net(6, 4, nn.ReLU(), nn.BatchNorm2d, 1), crosses,
         lambda p: torch.optim.AdamW(p, 2e-2, weight_decay=0.3)),
    Case("tanh, LeCun", lambda: Net(8, 3, nn.Tanh(), plain, 1), stripes,
         lambda p: torch.optim.Rprop(p, 1e-3)),
)  # fmt: skip

STARTS: dict[str, Callable[[nn.Parameter], object]] = {
    "times 0.6": lambda p: p.mul_(0.6),
    "all normal 0.03": lambda p: p.normal_(0.0, 0.03),
    "vectors uniform 0.8-1.2": lambda p: p.uniform_(0.8, 1.2) if p.dim() == 1 else p,
}
"""Untrained networks as nobody draws them in the library's tables."""


def verdicts(model: nn.Module, images: Tensor) -> tuple[str, list[str], list[str], str]:
    """State, verdicts by the model alone and on images of the stages that a cut removes, marks."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        example = read_structure(model).inputs.args  # of a size found by trying, as was published
        found = ws.analyze(model, images=[images], example_inputs=example)
    first = min(cut.keep_levels for cut in found.structure.cuts)
    level = {s.name: s.level for s in found.structure.stages}
    own = [v for v in found.assessment.verdicts if level[v.stage] >= first]
    by = {
        grade: [next(s.verdict for s in v.scores if s.grade == grade) for v in own]
        for grade in ("response", "images")
    }
    marks = marks_of_training(found.statistics)
    shown = f"{marks.shift:.2f} / {marks.dispersion:.1f} / {marks.norms:.2f}"
    return found.assessment.state, by["response"], by["images"], shown


def row(name: str, what: str, model: nn.Module, images: Tensor, note: str = "") -> dict[str, Any]:
    """One line of the table."""
    state, by_model, by_images, marks = verdicts(model, images)
    say = {k: f"{v.count('used')} used, {v.count('unused')} unused of {len(v)}"
           for k, v in (("model", by_model), ("images", by_images))}  # fmt: skip
    failed = "unused" in by_model + by_images
    return {"network": name, "trained": what, "state": state, **say, "marks": marks, "note": note,
            "condemned": failed, "verdicts": (by_model, by_images)}  # fmt: skip


def measure(case: Case, index: int) -> Iterator[dict[str, Any]]:
    """All states of one network."""
    x, y = case.task(IMAGES, index)
    xt, yt = case.task(24, 1000 + index)
    starts = list(STARTS.items())
    start, draw = starts[index % len(starts)]
    torch.manual_seed(index)
    model = case.build().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            draw(parameter)
    yield row(case.name, f"no ({start})", model, xt)
    for steps in (*FEW, *BETWEEN, STEPS):
        torch.manual_seed(index)
        model = case.build()
        optimizer = case.optimizer(model.parameters())
        fit(model, optimizer, F.binary_cross_entropy_with_logits, x, y, steps, cycle=False)
        note = ""
        if steps == STEPS:
            table = ws.ablate(model, [(xt, yt)], "f1", progress=False)
            lost = ", ".join(f"{k}: {s:.0%}" for k, s in zip(table.keep_levels, table.share_lost,
                                                             strict=True))  # fmt: skip
            note = f"F1 {table.quality[0]:.2f} ({table.chance[0]:.2f}); lost without {lost}"
        yield row(case.name, after(steps), model, xt, note)


def after(steps: int) -> str:
    """How long a network was trained, in words."""
    return "1 step" if steps == 1 else f"{steps} steps"


def too_early(rows: list[dict[str, Any]]) -> tuple[int, dict[str, int]]:
    """Verdicts *unused* between, and how many of them turn to *used* at the end, by network."""
    unused, wrong = 0, {}
    ends = {r["network"]: r["verdicts"] for r in rows if r["trained"] == after(STEPS)}
    for r in rows:
        if r["trained"] not in [after(steps) for steps in BETWEEN]:
            continue
        pairs = zip(r["verdicts"], ends[r["network"]], strict=True)
        later = [z for now, end in pairs for y, z in zip(now, end, strict=True) if y == "unused"]
        unused += len(later)
        if "used" in later:
            wrong[f"{r['network']}, {r['trained']}"] = later.count("used")
    return unused, wrong


def write(rows: list[dict[str, Any]], path: Path) -> None:
    """The page, failures first."""
    few = [after(steps) for steps in FEW]
    early = [r for r in rows if r["trained"] in few or r["trained"].startswith("no")]
    failed = [r for r in early if r["condemned"]]
    columns = ("network", "trained", "state", "model", "images", "marks", "note")
    trained = [r for r in rows if r["trained"] == after(STEPS)]
    unused, wrong = too_early(rows)
    silent = [r["network"] for r in trained if r["state"] != "trained"]
    text = [
        "# Are untrained and hardly trained networks left alone?",
        "",
        f"**{len(failed)} of {len(early)} failures**: stages called unused of networks that are "
        f"untrained or had at most {max(FEW)} steps{':' if failed else '.'}",
        "",
        *[f"- {r['network']}, {r['trained']}: {r['model']}; {r['images']}" for r in failed],
        f"Of {len(trained)} networks after {STEPS} steps {len(silent)} show no proof of training, "
        f"so that nothing is decided: {'; '.join(silent) or 'none'}.",
        "",
        f"Of {unused} verdicts *unused* after {' or '.join(map(str, BETWEEN))} steps "
        f"{sum(wrong.values())} turn to *used* after {STEPS}"
        f"{': ' + '; '.join(wrong) if wrong else ''}.",
        "",
        "Taken for trained although untrained: "
        + (
            "; ".join(
                f"{r['network']}, {r['trained']}"
                for r in rows
                if r["trained"].startswith("no") and r["state"] == "trained"
            )
            or "none"
        )
        + ".",
        "",
        "`python studies/guards.py`. Eight networks whose designs, tasks and optimisers chose "
        "nothing; what counts as a failure stands in the command, and was written before it ran. "
        "Verdicts are of the stages that a cut removes; the note says what labelled images show "
        "(the quality of the best constant in brackets; share of the skill lost without levels k "
        "and deeper). Marks: shift of the filters / dispersion of their energies / movement of the "
        "norms.",
        "",
        "| " + " | ".join(columns) + " |",
        "|" + " --- |" * len(columns),
        *["| " + " | ".join(r[c] for c in columns) + " |" for r in rows],
        "",
    ]
    with written_atomically(path) as temporary:
        temporary.write_text("\n".join(text))


def main(arguments: list[str] | None = None) -> None:
    """Run all and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    page = ROOT / "docs" / "studies" / "evidence" / "guards.md"
    parser.add_argument("--page", type=Path, default=page)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for index, case in enumerate(CASES):
        for found in measure(case, index):
            rows.append(found)
            print(found, flush=True)
    write(rows, options.page)


if __name__ == "__main__":
    main()
