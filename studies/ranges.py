"""What do verdicts by the model alone say of networks whose images are not of contrast 1?

    python studies/ranges.py [--out runs/evidence-ranges] [--page docs/studies/evidence/ranges.md]

Networks for images of 0..1, standardised ones, 0..255 and 0..65535, whose designs and tasks are
none of the evidence study's. docs/decisions/response.md says what counts as a failure, and was written
before this ran.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

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
    TEST,
    TRAIN,
    Loss,
    Net,
    Optimizer,
    batch,
    fit,
    instance,
    judged,
    layer,
    taps,
    trained,
)
from weightscope.graph import read_structure  # noqa: E402
from weightscope.probing.outputs import certainty  # noqa: E402
from weightscope.probing.response import Stimuli, measure_response  # noqa: E402

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


def no_norm(_channels: int) -> nn.Module:
    """None."""
    return nn.Identity()


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
        response = measure_response(structure, [[inputs]], "response", answers=answers)
        given = answers[0].double()
        size = float(given.square().mean())
        found[contrast] = {
            "follows": float(given.var(0).mean()) / size if size else 0.0,
            "certainty": float(certainty(given.flatten(2)).mean()),
            "cuts": {c.keep_levels: (c.value, c.low, c.high, *c.borders) for c in response.cuts},
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
    return {"name": case.name, "span": case.span, "kind": case.kind, "skill": found["skill"],
            "levels": levels, "contrasts": by_contrast(model),
            "said": judged(model, case.pool(IMAGES, 10 * index + 2).images)[1]}  # fmt: skip
