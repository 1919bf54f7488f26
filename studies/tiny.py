"""Networks that train in seconds, and how a rule changes what the library says of them.

Shared by `studies.labels`, `studies.restorers`, `studies.shapes`, `studies.channels` and
`studies.guards`.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import weightscope as ws
from studies.evidence_protocol.scoring import patched
from studies.evidence_protocol.truth import NEGLIGIBLE, SKILLED
from weightscope.files import written_atomically
from weightscope.graph import read_structure
from weightscope.probing.outputs import Reading

ROOT = Path(__file__).resolve().parent.parent
SIZE, TRAIN, IMAGES, TEST, BATCH, STEPS = 48, 160, 24, 80, 8, 350
Rules = Mapping[str, Callable[[], AbstractContextManager[object]]]
RULES: Rules = {
    "without the rule": lambda: patched({"BARE": 2.0}),
    "with the rule": nullcontext,
}
"""What holds while a network is judged. No share of positions below zero in every channel is above
2, so without the rule nothing is read as labels."""

GRADES = ("response", "images")

Optimizer = Callable[[Iterator[nn.Parameter]], torch.optim.Optimizer]
Loss = Callable[[Tensor, Tensor], Tensor]


class Net(nn.Module):
    """A U-net; `back` are the places at which something comes back from a deeper level.

    Args:
        outputs: Channels of the answer.
        width: Channels of the first level; they grow by half of it with every level.
        levels: Number of levels.
        norm: Makes the norm of so many channels.
        act: The activation.
        join: Skips are concatenated, added, or each level answers and the answers are added.
        end: What the answer passes through last.
        inputs: Channels of the image.
    """

    def __init__(
        self,
        outputs: int,
        width: int,
        levels: int,
        norm: Callable[[int], nn.Module],
        act: Callable[[], nn.Module],
        join: Literal["concatenate", "add", "answers"],
        end: nn.Module,
        inputs: int = 1,
    ) -> None:
        super().__init__()
        widths = [width + width * k // 2 for k in range(levels)]
        self.join, self.end = join, end
        self.down = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 3, padding=1), norm(b), act(),
                          nn.Conv2d(b, b, 3, padding=1), norm(b), act())
            for a, b in zip([inputs, *widths[:-1]], widths, strict=True)
        )  # fmt: skip
        self.back = nn.ModuleList(nn.Identity() for _ in widths[1:])
        self.up = nn.ModuleList(
            nn.Sequential(nn.Conv2d(widths[k + 1] + (widths[k] if join == "concatenate" else 0),
                                    widths[k], 3, padding=1), norm(widths[k]), act())
            for k in range(levels - 1)
        )  # fmt: skip
        heads = widths if join == "answers" else widths[:1]
        self.last = nn.Conv2d(outputs, outputs, 3, padding=1) if join == "answers" else None
        self.heads = nn.ModuleList(nn.Conv2d(w, outputs, 1) for w in heads)

    def forward(self, x: Tensor) -> Tensor:
        """One channel for each label or class, as large as the image."""
        kept = []
        for k, stage in enumerate(self.down):
            x = stage(x if k == 0 else F.avg_pool2d(x, 2))
            kept.append(x)
        if self.join == "answers":
            total = self.heads[-1](x)
            for k in reversed(range(len(self.back))):
                below = F.interpolate(self.back[k](total), scale_factor=2.0)
                total = self.heads[k](kept[k]) + below
            return cast(Tensor, self.end(cast(nn.Module, self.last)(total)))
        for k in reversed(range(len(self.up))):
            below = F.interpolate(self.back[k](x), scale_factor=2.0)
            if self.join == "concatenate":
                x = self.up[k](torch.cat([kept[k], below], 1))
            else:
                x = self.up[k](below) + kept[k]
        return cast(Tensor, self.end(self.heads[0](x)))


def batch(channels: int) -> nn.Module:
    """Batch norm."""
    return nn.BatchNorm2d(channels)


def instance(channels: int) -> nn.Module:
    """Instance norm."""
    return nn.InstanceNorm2d(channels, affine=True)


def layer(channels: int) -> nn.Module:
    """One group."""
    return nn.GroupNorm(1, channels)


def no_norm(_channels: int) -> nn.Module:
    """None."""
    return nn.Identity()


def fit(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss: Loss,
    x: Tensor,
    y: Tensor,
    steps: int = STEPS,
    *,
    cycle: bool = True,
) -> None:
    """Train in place.

    Args:
        model: The network.
        optimizer: Of its parameters.
        loss: Of outputs and targets.
        x: Images.
        y: Targets.
        steps: Of `BATCH` images each.
        cycle: Whether the learning rate rises and falls once.
    """
    rate = optimizer.param_groups[0]["lr"]
    schedule = (
        torch.optim.lr_scheduler.OneCycleLR(
            optimizer, rate, total_steps=steps, cycle_momentum=False
        )
        if cycle
        else None
    )
    g = torch.Generator().manual_seed(1)
    model.train()
    for _ in range(steps):
        picked = torch.randint(len(x), (BATCH,), generator=g)
        optimizer.zero_grad()
        loss(model(x[picked]), y[picked]).backward()
        optimizer.step()
        if schedule is not None:
            schedule.step()
    model.eval()


def trained(build: Callable[[], Net], train: Callable[[Net], None], seed: int, path: Path) -> Net:
    """A network that was trained, or is loaded where it was before."""
    torch.manual_seed(seed)
    model = build()
    if path.exists():
        model.load_state_dict(torch.load(path, weights_only=True))
        return model.eval()
    train(model)
    with written_atomically(path) as temporary:
        torch.save(model.state_dict(), temporary)
    return model


def taps(model: Net) -> dict[int, list[nn.Module]]:
    """Where something comes back from each level, for `without_levels`."""
    return {level: [module] for level, module in enumerate(model.back, 1)}


def judged(
    model: Net, images: Tensor, rules: Rules = RULES
) -> tuple[float, dict[str, dict[int, dict[str, str]]]]:
    """Share of bare positions; verdict of each grade on each cut, by each rule."""
    found: dict[str, dict[int, dict[str, str]]] = {}
    for rule, holding in rules.items():
        with warnings.catch_warnings(), holding():
            warnings.simplefilter("ignore")
            # of a size found by trying, as was published
            example = read_structure(model).inputs.args
            analysis = ws.analyze(model, images=[images], example_inputs=example, trained=True)
        level = {s.name: s.level for s in analysis.structure.stages}
        found[rule] = {}
        for cut in analysis.structure.cuts:
            own = [v for v in analysis.assessment.verdicts if level[v.stage] >= cut.keep_levels]
            found[rule][cut.keep_levels] = {
                grade: together([s.verdict for v in own for s in v.scores if s.grade == grade])
                for grade in ("response", "images")
            }
    with torch.no_grad():
        bare = Reading.of([model(images)]).bare
    return bare, found


def together(verdicts: list[str]) -> str:
    """Of the stages that a cut removes: used if any is, unused if all are."""
    if "used" in verdicts:
        return "used"
    return "unused" if set(verdicts) == {"unused"} else "undecided"


def cuts(rows: list[dict[str, Any]], grades: Sequence[str] = GRADES) -> Iterator[dict[str, Any]]:
    """One entry for each cut and grade of networks with skill."""
    for row in rows:
        if row["skill"] < SKILLED:
            continue
        for level, lost in row["levels"].items():
            for grade in grades:
                if grade not in row["said"]["with the rule"][level]:
                    continue
                before, after = (row["said"][rule][level][grade] for rule in RULES)
                used = lost["lost"] > NEGLIGIBLE
                clear = lost["low"] > NEGLIGIBLE or lost["high"] < NEGLIGIBLE
                yield {"name": row["name"], "kind": row["kind"], "level": level, "grade": grade,
                       "used": used, "clear": clear, "before": before, "after": after,
                       **lost}  # fmt: skip


def tally(found: list[dict[str, Any]], when: str) -> tuple[int, int, int, int]:
    """Right, wrongly unused, wrongly used, undecided."""
    right = sum(c[when] == ("used" if c["used"] else "unused") for c in found)
    unused = sum(c[when] == "unused" and c["used"] for c in found)
    used = sum(c[when] == "used" and not c["used"] for c in found)
    return right, unused, used, sum(c[when] == "undecided" for c in found)


def changes(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """How many verdicts the rule changes, and which, in lines of Markdown."""
    changed = [c for c in found if c["before"] != c["after"]]
    right = [c for c in changed if c["before"] == ("used" if c["used"] else "unused")]
    lines = [
        f"- {c['name']}, level {c['level']}, by {c['grade']}, {c['before']} to {c['after']} "
        f"({c['lost']:.0%} of the skill is lost"
        + (f", of one label {c['most']:.0%})" if "most" in c else ")")
        for c in changed
    ]
    how_many = f"The rule changes {len(changed)} of {len(found)} verdicts"
    if not changed:
        return [f"{how_many}.", ""]
    return [f"{how_many}; {len(right)} of these were right:", "", *lines, ""]


def tally_table(
    found: Sequence[dict[str, Any]], kinds: Sequence[str], grades: Sequence[str] = GRADES
) -> list[str]:
    """Verdicts with the rule and without it, in lines of Markdown."""
    lines = [
        "| of | by | rule | cuts | right | wrongly unused | wrongly used | undecided |",
        "|" + " --- |" * 8,
    ]
    for kind, grade in ((k, g) for k in kinds for g in grades):
        own = [c for c in found if (c["kind"], c["grade"]) == (kind, grade)]
        for when, rule in zip(("before", "after"), RULES, strict=True):
            cells = (kind, grade, rule, str(len(own)), *map(str, tally(own, when)))
            lines.append("| " + " | ".join(cells) + " |")
    return lines


def verdicts_of(row: Mapping[str, Any], level: int, grades: Sequence[str] = GRADES) -> str:
    """By the model alone / by images / by more, with the rule; in brackets without it."""
    before, after = (row["said"][rule][level] for rule in RULES)
    return " / ".join(
        after[g] + (f" ({before[g]})" if before[g] != after[g] else "")
        for g in grades
        if g in after
    )


def write_page(
    path: Path,
    title: str,
    rows: Sequence[Mapping[str, Any]],
    found: Sequence[dict[str, Any]],
    failed: Sequence[str],
    about: str,
    kinds: Sequence[str],
    *,
    grades: Sequence[str] = GRADES,
    figures: Sequence[str] = ("skill",),
) -> None:
    """Write the page of a study, failures first.

    Args:
        path: Of the page.
        title: Its heading.
        rows: One for each network.
        found: Their cuts, as `cuts` yields them.
        failed: What was written down as a failure, in words.
        about: What stands above the table of networks.
        kinds: Of networks, in the order of the first table.
        grades: Those that were judged.
        figures: What of a row stands beside its name and kind.
    """
    columns = ["network", "kind", *figures, "without", "skill lost", "verdicts"]
    text = [
        f"# {title}",
        "",
        f"**{len(failed)} failures**{':' if failed else '.'}",
        "",
        *[f"- {one}" for one in failed],
        *[""] * bool(failed),
        *changes(found),
        *tally_table(found, kinds, grades),
        "",
        about,
        "",
        f"| {' | '.join(columns)} |",
        "|" + " --- |" * len(columns),
    ]
    for row in rows:
        seen = [row["name"], row["kind"], *(f"{row[figure]:.2f}" for figure in figures)]
        for level, lost in row["levels"].items():
            share = f"{lost['lost']:.0%} ({lost['low']:.0%} to {lost['high']:.0%})"
            share = share if row["skill"] >= SKILLED else "no skill"
            cells = [*seen, f"{level} and deeper", share, verdicts_of(row, level, grades)]
            text.append(f"| {' | '.join(cells)} |")
    with written_atomically(path) as temporary:
        temporary.write_text("\n".join([*text, ""]))


def run_cases(
    name: str,
    about: str,
    cases: Sequence[Any],
    measure: Callable[[Any, int, Path], dict[str, Any]],
    write: Callable[[list[dict[str, Any]], Path], None],
    arguments: Sequence[str] | None,
) -> None:
    """Measure every case of a study, and write its page.

    Args:
        name: Of the study: of its page, and of where it keeps its networks.
        about: What it is, for ``--help``.
        cases: New ones at the end: the number is the seed.
        measure: What is found of a case, by its number, with its network kept in a folder.
        write: Writes the page of what was found.
        arguments: Of the command.
    """
    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / f"evidence-{name}")
    page = ROOT / "docs" / "studies" / "evidence" / f"{name}.md"
    parser.add_argument("--page", type=Path, default=page)
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for index, case in enumerate(cases):
        begun = time.process_time()
        rows.append(measure(case, index, options.out))
        print(json.dumps(rows[-1] | {"seconds": time.process_time() - begun}), flush=True)
    write(rows, options.page)
