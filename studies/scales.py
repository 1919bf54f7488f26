"""Does a small channel of a regression speak for its levels? Seventeen networks.

    python studies/scales.py [--out runs/evidence-scales]
        [--page docs/studies/evidence/scales.md]

The regressions of `studies.channels`, trained anew and then given channels of very different size:
each ten times smaller than the one before it. docs/decisions/utilization.md says what counts as a
failure, and was written before this ran. Every network is judged by the mean squared error of all
channels, with the guard that a level is unused only if no channel surely loses more than a tenth of
its own skill, and without it.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402

import weightscope as ws  # noqa: E402
from studies.channels import CASES, Case  # noqa: E402
from studies.evidence_protocol.truth import NEGLIGIBLE, SKILLED, without_levels  # noqa: E402
from studies.tiny import IMAGES, STEPS, TEST, TRAIN, Net, fit, run_cases, taps, trained  # noqa: E402
from weightscope.files import written_atomically  # noqa: E402
from weightscope.utilization import ablation  # noqa: E402

MUCH = 0.1
"""Share of its own skill from which on the loss of one channel counts."""

REGRESSIONS = tuple(case for case in CASES if case.kind == "numbers")


def without_guard() -> AbstractContextManager[object]:
    """No channel is asked alone."""
    return mock.patch.object(ablation, "_of_the_worst", return_value={})


RULES: Mapping[str, Callable[[], AbstractContextManager[object]]] = {
    "without the guard": without_guard,
    "with the guard": nullcontext,
}


class Scaled(nn.Module):
    """Gives each channel a size of its own."""

    def __init__(self, sizes: Tensor) -> None:
        super().__init__()
        self.register_buffer("sizes", sizes)

    def forward(self, x: Tensor) -> Tensor:
        """The same channels, larger and smaller."""
        return x * self.sizes


def truth(model: Net, images: Tensor, targets: Tensor) -> dict[int, list[dict[str, float]]]:
    """Share of its own skill that each channel, and all of them together, lose with each level.

    Returns:
        By level: of all channels together, then of each; skill is the share of the best trivial
        answer's squared error that the network is without, for each channel the better of a
        constant and of a line through the same channel of the image.
    """
    found = without_levels(model, taps(model), images)
    y = targets.double()
    trivial = (y - y.mean((0, 2, 3), keepdim=True)).square().mean((0, 2, 3)).numpy()
    if images.shape == targets.shape:
        for c in range(y.shape[1]):
            a, b = images[:, c].double().flatten(), y[:, c].flatten()
            line = np.polyfit(a.numpy(), b.numpy(), 1)
            rest = float(np.square(b.numpy() - np.polyval(line, a.numpy())).mean())
            trivial[c] = min(trivial[c], rest)
    errors = {k: (v.double() - y).square().mean((2, 3)).numpy() for k, v in found.items()}
    rng, n = np.random.default_rng(0), len(y)
    weights = np.vstack([np.ones(n), rng.multinomial(n, np.full(n, 1 / n), 300)]) / n
    whole = weights @ errors[0]
    levels = {}
    for level in list(found)[1:]:
        left = weights @ errors[level]
        more, skill = left - whole, trivial - whole
        columns = [
            (more.sum(1), skill.sum(1), trivial.sum()),
            *zip(more.T, skill.T, trivial, strict=True),
        ]
        levels[level] = [
            {
                "skill": float(s[0] / t),
                "lost": float(m[0] / s[0]),
                "low": float(np.quantile(m[1:] / s[1:], 0.025)),
                "high": float(np.quantile(m[1:] / s[1:], 0.975)),
            }
            for m, s, t in columns
        ]
    return levels


def said(model: Net, images: Tensor, targets: Tensor) -> dict[str, dict[int, str]]:
    """The verdict on what each cut removes first, by the metric, with the guard and without."""
    found: dict[str, dict[int, str]] = {}
    for rule, holding in RULES.items():
        with warnings.catch_warnings(), holding():
            warnings.simplefilter("ignore")
            analysis = ws.analyze(
                model, batches=[(images, targets)], metric="mse", response=False, trained=True
            )
        data = analysis.data
        assert data is not None
        levels = {s.level: s.name for s in analysis.structure.stages}
        found[rule] = {
            cut.keep_levels: data.score(levels[cut.keep_levels]).verdict
            for cut in analysis.structure.cuts
        }
    return found


def measure(case: Case, index: int, folder: Path) -> dict[str, Any]:
    """Train, or load what was trained; measure the truth; ask the library."""

    def train(model: Net) -> None:
        given = case.pool(TRAIN, 1000 + 10 * index)
        fit(model, case.optimizer(model.parameters()), case.loss, given.images, given.targets)

    model = trained(case.build, train, 1000 + index, folder / f"{index:02d}.pt")
    sizes = (10.0 ** -torch.arange(case.outputs))[:, None, None]
    model.end = Scaled(sizes)
    test, own = (case.pool(n, 1000 + 10 * index + k) for n, k in ((TEST, 1), (IMAGES, 2)))
    return {
        "name": case.name,
        "levels": truth(model, test.images, test.targets * sizes),
        "said": said(model, own.images, own.targets * sizes),
    }


def judge(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One entry for each cut of a network with skill: the truth, and what was said."""
    found = []
    for row in rows:
        for level, (all_, *each) in row["levels"].items():
            able = [c for c in each if c["skill"] >= SKILLED]
            if all_["skill"] < SKILLED:
                continue
            worst = max(able, key=lambda c: c["low"])
            found.append(
                {
                    "name": row["name"],
                    "level": level,
                    "all": all_["lost"],
                    "worst": worst,
                    "channel": each.index(worst),
                    "wrong": worst["low"] > MUCH,
                    "right": all_["lost"] <= NEGLIGIBLE
                    and all(c["low"] <= NEGLIGIBLE for c in able),
                    "said": [row["said"][rule][level] for rule in RULES],
                }
            )
    return found


def write(rows: list[dict[str, Any]], path: Path) -> None:
    """The page, failures first."""
    found = judge(rows)
    unused = [[c for c in found if c["said"][k] == "unused"] for k in (0, 1)]
    failed = [
        f"{c['name']}, level {c['level']}: called unused with the guard, channel {c['channel']} "
        f"loses {c['worst']['lost']:.0%} of its own skill"
        for c in unused[1]
        if c["wrong"]
    ]
    right = [c for c in unused[0] if c["right"]]
    withdrawn = [c for c in right if c["said"][1] != "unused"]
    count = f"{len(withdrawn)} of {len(right)} right verdicts *unused* are withdrawn"
    if len(withdrawn) > 0.1 * len(right):
        failed.append(count)
    caught = [c for c in unused[0] if c["wrong"] and c["said"][1] != "unused"]
    wrong = sum(c["wrong"] for c in unused[0])
    text = ["# One channel among several numbers", ""]
    text += [f"**{len(failed)} failures**{':' if failed else '.'}", "", *[f"- {f}" for f in failed]]
    text += [""] * bool(failed)
    text += [
        f"Of {len(found)} cuts, {len(unused[0])} are called unused without the guard and "
        f"{len(unused[1])} with it. It withdraws {len(caught)} of {wrong} wrong ones (a channel "
        f"clearly loses more than {MUCH:.0%} of its own skill on the test images). {count} (all "
        f"channels together lose no more than {NEGLIGIBLE:.0%}, and none clearly more).",
        "",
        "`python studies/scales.py`. The regressions of [the study of several channels]"
        f"(channels.md), trained anew for {STEPS} steps; every channel is then ten times smaller "
        "than the one before. What counts as a failure was [written down]"
        f"(../../decisions/utilization.md) before it ran. Verdicts by `mse` on {IMAGES} labelled "
        f"images, the truth by hooks on {TEST} others, with 95 % intervals over these.",
        "",
        "| network | without | all channels lose | the channel that surely loses most | verdict |",
        "|" + " --- |" * 5,
    ]
    for c in found:
        before, after = c["said"]
        worst = c["worst"]
        text.append(
            f"| {c['name']} | {c['level']} and deeper | {c['all']:.1%} "
            f"| {c['channel']}: {worst['lost']:.0%} ({worst['low']:.0%} to {worst['high']:.0%}) "
            f"| {after}" + (f" ({before})" if before != after else "") + " |"
        )
    with written_atomically(path) as temporary:
        temporary.write_text("\n".join([*text, ""]))


def main(arguments: list[str] | None = None) -> None:
    """Run all and write the page."""
    run_cases("scales", __doc__ or "", REGRESSIONS, measure, write, arguments)


if __name__ == "__main__":
    main()
