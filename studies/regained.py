"""How much of what a cut lost does recovery without labels regain, for a twentieth of the compute?

``python studies/regained.py --workers 4`` trains small networks (`studies.small`), cuts each at
every depth, and recovers every cut that lost more than a twentieth of the
skill. The steps are as many as fit into ``SHARE`` of the MACs of the training: the original's
forwards, the steps and the looks at held-back images are all counted, a backward pass as two
forwards. ``--images synthetic`` recovers on dead leaves, as many as there are images, instead.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from studies import runner, small  # noqa: E402
from studies.evidence_protocol import training  # noqa: E402
from studies.evidence_protocol.tasks import TASKS, Pool  # noqa: E402
from studies.evidence_protocol.truth import Skill, answers  # noqa: E402
from studies.small import STEPS, Network  # noqa: E402
from weightscope import analyze  # noqa: E402
from weightscope.analysis import Analysis  # noqa: E402
from weightscope.probing.inputs import synthetic_inputs  # noqa: E402
from weightscope.probing.stimuli import dead_leaves  # noqa: E402
from weightscope.truncation.course import CHECKS  # noqa: E402
from weightscope.truncation.images import (  # noqa: E402
    BATCH,
    HELD_BACK,
    MOST_HELD_BACK,
    START_IMAGES,
)

CODE, VERSION = ("studies.regained", "studies.small"), 2
"""What decides a result beside the library; and the version, see `small.on_trained`."""

SHARE = 0.048
"""Of the training's MACs."""

LOST = 0.05
"""Cuts that lose a smaller share of the skill are left out: there is nothing to regain."""

SEEDS = (3001, 3002, 3003)

NETWORKS = {
    ("batch", "discs"): "chose",
    ("unet", "patch"): "chose",
    ("residual", "mosaic"): "chose",
    ("group", "rings_large"): "chose",
    ("batch", "rings_middle"): "judges",
    ("plain", "distance"): "judges",
    ("instance", "patch"): "judges",
    ("batch", "denoise"): "judges",
    ("unet", "mosaic"): "judges",
    ("gated", "discs"): "judges",
    ("layer", "rings_middle"): "judges",
    ("tokens", "radius"): "judges",
    ("nnunet", "patch"): "judges",
    ("nnunet", "rings_middle"): "judges",
    ("nnunet", "mosaic"): "judges",
}
"""Design and task; and whether a network of both, of another seed, chose anything in the
recovery."""


@dataclass(frozen=True)
class Settings:
    """One recovery of every cut of one network.

    Attributes:
        network: Which.
        images: ``given`` or ``synthetic``.
    """

    network: Network
    images: str


def steps_within(share: float, macs: float, images: int) -> int:
    """Steps of a recovery within a share of the training's MACs.

    Args:
        share: Of the training.
        macs: Of the smaller network, as a share of the whole one's.
        images: How many there are.
    """
    budget = share * 3 * STEPS * training.BATCH  # in forwards of the whole network on one image
    held = min(MOST_HELD_BACK, round(HELD_BACK * images))
    looks = (CHECKS + 5) * held * macs
    begun = images + START_IMAGES * (1 + 2 * macs)
    return int((budget - looks - begun) / (BATCH * 3 * macs))


def regain(settings: Settings, place: runner.Place) -> dict[str, Any]:
    """Recover every cut of one network that loses enough."""
    network, model = settings.network, small.load(settings.network, place)
    learn, test = (network.pool(part, small.images(place)) for part in ("train", "test"))
    whole, found = skill(network, model, test), []
    analysis = analyze(model, example_inputs=learn.images[:4], response=False)
    for proposal in sorted(analysis.proposals, key=lambda p: -p.keep_levels):
        if proposal.refusal is not None:
            continue
        torch.manual_seed(network.seed)
        variant = proposal.build()
        cut, macs = skill(network, variant.module, test), proposal.macs / analysis.costs.macs
        if whole - cut <= LOST * whole:
            continue
        count = len(learn.images)
        given = learn.images if settings.images == "given" else synthetic(analysis, count)
        course = variant.recover(
            given, steps=steps_within(SHARE, macs, count), seed=network.seed, progress=False
        )
        recovered = skill(network, variant.module, test)
        found.append({
            "network": network.design, "task": network.task, "seed": network.seed,
            "role": NETWORKS[network.design, network.task],
            "keep": proposal.keep_levels, "macs": macs, "reach": variant.plan.reach,
            "parameters": proposal.parameters / analysis.costs.parameters, "steps": course.steps,
            "whole": whole, "cut": cut, "recovered": recovered,
            "regained": (recovered - cut) / (whole - cut), "explained": course.after.explained,
        })  # fmt: skip
        place.tell(f"keep {proposal.keep_levels}: {found[-1]['regained']:.2f} regained")
    return {"rows": found}


def synthetic(analysis: Analysis, count: int) -> torch.Tensor:
    """Draw dead leaves, as the response is measured on; shape (count, ...) of one input."""
    drawn = synthetic_inputs(analysis.structure, dead_leaves, count, seed=0)
    (images,) = (value for value in drawn if isinstance(value, torch.Tensor))
    return images


def skill(network: Network, module: nn.Module, test: Pool) -> float:
    """Quality on test images above the best answer that needs no network."""
    judge, one = Skill(TASKS[network.task].kind, test), np.ones((1, len(test.images)))
    quality = judge.quality(judge.sums(answers(module.eval(), test.images)), one)
    return float((quality - judge.trivial(one))[0])


def study(images: str) -> list[runner.Job]:
    """Two jobs for each network: its training and the recovery of its cuts."""
    networks = [Network(*key, seed) for seed in SEEDS for key in NETWORKS]
    return [
        small.on_trained(f"regained-{images}", n, regain, Settings(n, images), VERSION)
        for n in networks
    ]


def main() -> None:
    """Recover every cut; what is finished is found again, also after an interruption."""
    parser = small.parser(__doc__)
    parser.add_argument("--table", type=Path, default=ROOT / "docs/studies/pareto/regained.csv")
    parser.add_argument("--images", choices=("given", "synthetic"), default="given")
    options = parser.parse_args()

    def write(found: list[Mapping[str, Any]]) -> None:
        small.write_table([row for result in found for row in result["rows"]], options.table)

    small.carry_out(study(options.images), options, write)


if __name__ == "__main__":
    from studies import regained  # a job's address holds the name of its module

    regained.main()
