"""What do verdicts by the model alone say of networks whose images are not of contrast 1?

    python studies/ranges.py [--out runs/evidence-ranges] [--page docs/studies/evidence/ranges.md]

Networks for images of 0..1, standardised ones, 0..255 and 0..65535. Designs and tasks are none of
the evidence study's. docs/decisions/response.md says what counts as a failure, and was written
before this ran.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal
from unittest import mock

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from studies import restorers  # noqa: E402
from studies.evidence_protocol.tasks import Pool  # noqa: E402
from studies.evidence_protocol.truth import measure_truth  # noqa: E402
from studies.tiny import (  # noqa: E402
    IMAGES,
    STEPS,
    TEST,
    TRAIN,
    Loss,
    Net,
    Optimizer,
    Rules,
    batch,
    cuts,
    fit,
    instance,
    judged,
    layer,
    no_norm,
    run_cases,
    tally,
    taps,
    trained,
    verdicts_of,
)
from weightscope.files import written_atomically  # noqa: E402
from weightscope.graph import read_structure  # noqa: E402
from weightscope.graph.structure import Structure  # noqa: E402
from weightscope.probing import response  # noqa: E402
from weightscope.probing.outputs import certainty  # noqa: E402
from weightscope.probing.response import Stimuli, measure_response  # noqa: E402
from weightscope.thresholds import FOLLOWING, SATURATED  # noqa: E402

Range = Literal["0..1", "standardised", "0..255", "0..65535"]
CONTRASTS = (0.01, 0.1, 1.0, 10.0, 100.0, 10000.0)


def in_range(images: Tensor, span: Range) -> Tensor:
    """Images of about -3..3 as users have them."""
    share = ((images + 3) / 6).clamp(0, 1)
    if span == "standardised":
        return (share - share.mean()) / share.std()
    if span == "0..1":
        return share
    top = 65535.0 if span == "0..65535" else 255.0
    return (top * share).round()


@dataclass(frozen=True)
class Case:
    """One network.

    Attributes:
        span: Of its images.
        draw: One image and its target.
        kind: Of the answer.
        net: Number of levels, norm, activation, way to join.
        loss: Of outputs and targets.
        optimizer: Of the parameters.
    """

    span: Range
    draw: Callable[[np.random.Generator], tuple[restorers.Array, restorers.Array]]
    kind: Literal["binary", "regression"]
    net: tuple[int, Any, Any, Any]
    loss: Loss
    optimizer: Optimizer

    @property
    def name(self) -> str:
        """In the table."""
        norm = self.net[1].__name__.replace("_", " ")
        return f"{self.draw.__name__.replace('_', ' ')}, {norm}, {self.net[3]}"

    def build(self) -> Net:
        """The network with random weights."""
        levels, *rest = self.net
        return Net(1, 8, levels, *rest, nn.Identity())

    def pool(self, n: int, seed: int) -> Pool:
        """Images and targets."""
        given = restorers.pool(self.draw, n, seed)
        return Pool(in_range(given.images, self.span), given.targets)


def nadam(parameters: Any) -> torch.optim.Optimizer:
    """NAdam."""
    return torch.optim.NAdam(parameters, 4e-3)


def adamax(parameters: Any) -> torch.optim.Optimizer:
    """Adamax."""
    return torch.optim.Adamax(parameters, 6e-3)


large, plain = restorers.bright_and_large, restorers.bright_on_a_slope
bce = F.binary_cross_entropy_with_logits
CASES = (
    Case("0..255", large, "binary", (5, batch, nn.ReLU, "concatenate"), bce, nadam),
    Case("0..255", plain, "binary", (4, instance, nn.SiLU, "concatenate"), bce, adamax),
    Case("0..255", large, "binary", (4, layer, nn.ReLU, "add"), bce, adamax),
    Case("0..255", plain, "binary", (4, no_norm, nn.ReLU, "concatenate"), bce, nadam),
    Case("0..65535", plain, "binary", (5, batch, nn.SiLU, "add"), bce, adamax),
    Case("0..65535", large, "binary", (4, instance, nn.ReLU, "concatenate"), bce, nadam),
    Case("0..65535", plain, "binary", (4, layer, nn.GELU, "concatenate"), bce, nadam),
    Case("0..1", large, "binary", (4, batch, nn.ReLU, "add"), bce, adamax),
    Case("0..1", plain, "binary", (5, layer, nn.SiLU, "concatenate"), bce, nadam),
    Case("0..1", large, "binary", (4, no_norm, nn.ReLU, "concatenate"), bce, adamax),
    Case("standardised", plain, "binary", (5, batch, nn.ReLU, "concatenate"), bce, adamax),
    Case("standardised", large, "binary", (4, no_norm, nn.GELU, "add"), bce, nadam),
)  # fmt: skip


def by_contrast(model: nn.Module) -> dict[float, dict[str, Any]]:
    """The response of every cut to dead leaves of each contrast, and what the answers are like."""
    structure = read_structure(model)
    painted = Stimuli.paint(structure, 6, seed=1)
    found = {}
    for contrast in CONTRASTS:
        answers: list[Tensor] = []
        inputs = painted.scaled(contrast).inputs
        asked = measure_response(structure, [[inputs]], "response", answers=answers)
        given = answers[0].double()
        size = float(given.square().mean())
        found[contrast] = {
            "follows": float(given.var(0).mean()) / size if size else 0.0,
            "certainty": float(certainty(given.flatten(2)).mean()),
            "cuts": {c.keep_levels: (c.value, c.low, c.high, *c.borders) for c in asked.cuts},
        }
    return found


def measure(case: Case, index: int, folder: Path) -> dict[str, Any]:
    """Train, or load what was trained; measure the truth; ask the library."""

    def train(model: Net) -> None:
        given = case.pool(TRAIN, 10 * index)
        fit(model, case.optimizer(model.parameters()), case.loss, given.images, given.targets)

    model = trained(case.build, train, 100 + index, folder / f"{index:02d}.pt")
    test = case.pool(TEST, 10 * index + 1)
    found = measure_truth(model, taps(model), case.kind, test, case.loss)
    levels = {int(level): lost for level, lost in found["levels"].items()}
    return {"name": case.name, "kind": case.span, "skill": found["skill"],
            "levels": levels, "contrasts": by_contrast(model),
            "said": judged(model, case.pool(IMAGES, 10 * index + 2).images, RULES)[1]}  # fmt: skip


def once() -> AbstractContextManager[object]:
    """A level that responds is not asked again at another contrast."""
    cuts_at = response._cuts_at

    def lenient(structure: Structure, inputs: Any) -> tuple[response.CutResponse, ...]:
        return tuple(replace(cut, low=np.inf) for cut in cuts_at(structure, inputs))

    return mock.patch.object(response, "_cuts_at", lenient)


RULES: Rules = {"without the rule": once, "with the rule": nullcontext}


def failures(found: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[str]]:
    """What was written down as a failure, in words, and what was not put to the test."""
    condemned = [
        f"{c['name']} ({c['kind']}), level {c['level']}, by {c['grade']}: called unused, "
        f"{c['lost']:.0%} of the skill is lost"
        for c in found
        if c["clear"] and c["used"] and c["after"] == "unused"
    ]
    wide = [c for c in found if c["grade"] == "response" and c["kind"] in ("0..255", "0..65535")]
    failed, untested = condemned, []
    for when, look in (("before", "one look"), ("after", "the second look")):
        called = [c for c in wide if c[when] == "used"]
        wrong = [c for c in called if c["clear"] and not c["used"]]
        said = (
            f"with {look} {len(wrong)} of {len(called)} cuts called used by the model alone, of "
            "networks for 0..255 and 0..65535, are clearly idle"
        )
        if len(called) < 10:
            untested.append(said)
        elif len(wrong) > 0.05 * len(called):
            failed.append(said)
    return failed, untested


def write(rows: list[dict[str, Any]], path: Path) -> None:
    """The page, failures first."""
    every = list(cuts(rows))
    failed, untested = failures(every)
    found = [c for c in every if c["grade"] == "response"]
    used = [c for c in found if c["before"] == "used"]
    withdrawn = [c for c in used if c["after"] != "used"]
    text = ["# Images of other ranges", ""]
    text += [f"**{len(failed)} failures**{':' if failed else '.'}", "", *[f"- {f}" for f in failed]]
    text += [""] * bool(failed)
    text += [f"Not put to the test: {one}." for one in untested] + [""] * bool(untested)
    text += [
        f"By the model alone one look calls {len(used)} cuts used, {sum(c['used'] for c in used)} "
        f"of them rightly; the second withdraws {len(withdrawn)} of these, "
        f"{sum(c['used'] for c in withdrawn)} of them right. With it:",
        "",
        "| range | networks | cuts | right | wrongly unused | wrongly used | undecided |",
        "|" + " --- |" * 7,
    ]
    for span in dict.fromkeys(row["kind"] for row in rows):
        own = [c for c in found if c["kind"] == span]
        cells = (span, len({c["name"] for c in own}), len(own), *tally(own, "after"))
        text.append("| " + " | ".join(map(str, cells)) + " |")
    text += [
        "",
        "`python studies/ranges.py`. Networks whose designs and tasks chose nothing, "
        f"trained for {STEPS} steps; what counts as a failure was [written down]"
        "(../../decisions/response.md) before it ran. Used is a cut that costs more than 5 % of "
        f"the skill on {TEST} test images, by hooks. Follows: variance of the answers between dead "
        f"leaves of contrast 1 at one position, as a share of their mean square (below {FOLLOWING} "
        "a level is asked again at 100 times the contrast). Certainty: of the "
        f"answers (above {SATURATED} at a hundredth). Verdicts by the model alone / by "
        "images; in brackets with one look. Response to dead leaves of contrast "
        + ", ".join(f"{c:g}" for c in CONTRASTS)
        + ".",
        "",
        "| range | network | skill | follows | certainty | without | skill lost | verdicts "
        "| response |",
        "|" + " --- |" * 9,
    ]
    for row in rows:
        seen = row["contrasts"][1.0]
        for level, lost in row["levels"].items():
            values = " ".join(f"{row['contrasts'][c]['cuts'][level][0]:.2f}" for c in CONTRASTS)
            text.append(
                f"| {row['kind']} | {row['name']} | {row['skill']:.2f} | {seen['follows']:.2f} "
                f"| {seen['certainty']:.2f} | {level} and deeper "
                f"| {lost['lost']:.0%} ({lost['low']:.0%} to {lost['high']:.0%}) "
                f"| {verdicts_of(row, level)} | {values} |"
            )
    with written_atomically(path) as temporary:
        temporary.write_text("\n".join([*text, ""]))


def main(arguments: list[str] | None = None) -> None:
    """Run all and write the page."""
    run_cases("ranges", __doc__ or "", CASES, measure, write, arguments)


if __name__ == "__main__":
    main()
