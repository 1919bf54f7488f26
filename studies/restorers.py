"""Is an output that follows its image read rightly? Seventeen fresh networks.

    python studies/restorers.py [--out runs/evidence-restorers]
        [--page docs/studies/evidence/restorers.md]

Designs and tasks are none of the evidence study's. docs/decisions/response.md says what counts as a
failure, and was written before this ran. Every network is analysed twice: with the guard that an
output which follows its image may be a segmentation of what is bright, not the image restored, and
with its border out of reach.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np  # noqa: E402
import torch  # noqa: E402
from numpy.typing import NDArray  # noqa: E402
from scipy import ndimage  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from studies.evidence_protocol.tasks import Pool  # noqa: E402
from studies.evidence_protocol.truth import measure_truth  # noqa: E402
from studies.tiny import (  # noqa: E402
    IMAGES,
    SIZE,
    STEPS,
    TEST,
    TRAIN,
    Loss,
    Net,
    Optimizer,
    batch,
    cuts,
    fit,
    instance,
    judged,
    layer,
    run_cases,
    taps,
    trained,
    write_page,
)
from weightscope.thresholds import FOLLOWS  # noqa: E402

Array = NDArray[np.float64]
Kind = Literal["restorer", "bright", "depth"]
KINDS: tuple[Kind, ...] = ("restorer", "bright", "depth")


def scene(rng: np.random.Generator) -> tuple[Array, Array, Array]:
    """Smooth ground with dark and bright bars and blobs; what is bright; where it is large."""
    y, x = np.mgrid[0:SIZE, 0:SIZE].astype(float)
    image = 4 * ndimage.gaussian_filter(rng.standard_normal((SIZE, SIZE)), 6)
    bright, large = np.zeros((SIZE, SIZE), bool), np.zeros((SIZE, SIZE), bool)
    for _ in range(int(rng.integers(4, 9))):
        half = float(rng.uniform(6, 11) if rng.random() < 0.4 else rng.uniform(2, 4))
        cy, cx, angle = rng.uniform(0, SIZE), rng.uniform(0, SIZE), rng.uniform(0, np.pi)
        along = (y - cy) * np.sin(angle) + (x - cx) * np.cos(angle)
        across = (y - cy) * np.cos(angle) - (x - cx) * np.sin(angle)
        inside = (abs(along) < half) & (abs(across) < half * rng.choice([0.3, 1.0]))
        up = bool(rng.random() < 0.5)
        image[inside] = (1 if up else -1) * rng.uniform(1.2, 2.0)
        bright[inside], large[inside] = up, up and half > 5
    return image, bright, large


def noisy(rng: np.random.Generator) -> tuple[Array, Array]:
    """Noise of a third of the contrast; the image without it."""
    image, *_ = scene(rng)
    return image + 0.4 * rng.standard_normal(image.shape), image


def noise(rng: np.random.Generator) -> tuple[Array, Array]:
    """The same; the noise."""
    given, image = noisy(rng)
    return given, given - image


def blurred(rng: np.random.Generator) -> tuple[Array, Array]:
    """A blurred image with a little noise; the sharp one."""
    image, *_ = scene(rng)
    soft = ndimage.gaussian_filter(image, 1.5)
    return soft + 0.05 * rng.standard_normal(image.shape), image


def with_gaps(rng: np.random.Generator) -> tuple[Array, Array]:
    """Squares of the image set to zero; the whole one."""
    image, *_ = scene(rng)
    given = image.copy()
    for _ in range(6):
        i, j = rng.integers(0, SIZE - 7, 2)
        given[i : i + 7, j : j + 7] = 0.0
    return given, image


def bright(rng: np.random.Generator) -> tuple[Array, Array]:
    """A noisy image; what is bright."""
    image, mask, _ = scene(rng)
    return image + 0.4 * rng.standard_normal(image.shape), mask.astype(float)


def bright_and_large(rng: np.random.Generator) -> tuple[Array, Array]:
    """A noisy image; what is bright and large."""
    image, _, mask = scene(rng)
    return image + 0.4 * rng.standard_normal(image.shape), mask.astype(float)


def bright_on_a_slope(rng: np.random.Generator) -> tuple[Array, Array]:
    """An image under uneven light; what is bright beside its surroundings."""
    image, mask, _ = scene(rng)
    y, x = np.mgrid[-1 : 1 : SIZE * 1j, -1 : 1 : SIZE * 1j]
    light = rng.normal() * y + rng.normal() * x
    return image + light + 0.2 * rng.standard_normal(image.shape), mask.astype(float)


def striped(rng: np.random.Generator) -> tuple[Array, Array]:
    """An image under stripes of one frequency; the image without them."""
    image, *_ = scene(rng)
    y, x = np.mgrid[0:SIZE, 0:SIZE].astype(float)
    angle = rng.uniform(0, np.pi)
    wave = np.sin((y * np.sin(angle) + x * np.cos(angle)) * rng.uniform(0.8, 1.6))
    return image + 0.8 * wave, image


def coarse(rng: np.random.Generator) -> tuple[Array, Array]:
    """An image of blocks of three positions; the sharp one."""
    image, *_ = scene(rng)
    blocks = image.reshape(SIZE // 3, 3, SIZE // 3, 3).mean((1, 3))
    return blocks.repeat(3, 0).repeat(3, 1), image


def speckled(rng: np.random.Generator) -> tuple[Array, Array]:
    """A tenth of the positions black or white; the image without that."""
    image, *_ = scene(rng)
    hit = rng.random(image.shape) < 0.1
    return np.where(hit, rng.choice([-3.0, 3.0], image.shape), image), image


def plainly_bright(rng: np.random.Generator) -> tuple[Array, Array]:
    """An image with hardly any noise; what is brighter than 0.6."""
    image, *_ = scene(rng)
    return image + 0.05 * rng.standard_normal(image.shape), (image > 0.6).astype(float)


def above_average(rng: np.random.Generator) -> tuple[Array, Array]:
    """An image with hardly any noise; what is brighter than its mean by half a deviation."""
    image, *_ = scene(rng)
    border = image.mean() + 0.5 * image.std()
    return image + 0.05 * rng.standard_normal(image.shape), (image > border).astype(float)


def smoothly_bright(rng: np.random.Generator) -> tuple[Array, Array]:
    """A noisy image; where the image without small things is above 0.4."""
    image, *_ = scene(rng)
    ground = ndimage.gaussian_filter(image, 3)
    return image + 0.2 * rng.standard_normal(image.shape), (ground > 0.4).astype(float)


def heights(rng: np.random.Generator) -> tuple[Array, Array]:
    """An image; how deep inside of something bright (below zero: outside) each point lies."""
    image, mask, _ = scene(rng)
    inside, outside = ndimage.distance_transform_edt(mask), ndimage.distance_transform_edt(~mask)
    depth = np.tanh(np.where(mask, inside, -outside) / 6) * 2
    return image + 0.2 * rng.standard_normal(image.shape), depth


def metres(rng: np.random.Generator) -> tuple[Array, Array]:
    """An image; the distance to something bright, in tens of positions, never negative."""
    image, mask, _ = scene(rng)
    far = ndimage.distance_transform_edt(~mask) if mask.any() else np.full(mask.shape, SIZE / 2)
    return image + 0.2 * rng.standard_normal(image.shape), np.minimum(far, SIZE / 2) / 10


def pool(draw: Callable[[np.random.Generator], tuple[Array, Array]], n: int, seed: int) -> Pool:
    """Images and targets."""
    pairs = [draw(np.random.default_rng([seed, index])) for index in range(n)]
    x, y = (torch.from_numpy(np.stack(part)).float()[:, None] for part in zip(*pairs, strict=True))
    return Pool(x, y)


class Residual(Net):
    """Subtracts what it finds from the image."""

    def forward(self, x: Tensor) -> Tensor:
        """As large as the image."""
        return x - super().forward(x)


def soft_dice(outputs: Tensor, targets: Tensor) -> Tensor:
    """One minus the overlap of probabilities and targets."""
    share = outputs.sigmoid()
    return 1 - 2 * (share * targets).sum() / (share.sum() + targets.sum() + 1)


@dataclass(frozen=True)
class Case:
    """One network.

    Attributes:
        name: In the table.
        kind: What its answer is.
        draw: One image and its target.
        net: Norm, activation, way to join.
        loss: Of outputs and targets.
        optimizer: Of the parameters.
        make: `Net`, or with a residual output.
        levels: Number of levels.
    """

    name: str
    kind: Kind
    draw: Callable[[np.random.Generator], tuple[Array, Array]]
    net: tuple[Any, ...]
    loss: Loss
    optimizer: Optimizer
    make: type[Net] = Net
    levels: int = 4

    def build(self) -> Net:
        """The network with random weights."""
        return self.make(1, 8, self.levels, *self.net, nn.Identity())


by_pixel = F.binary_cross_entropy_with_logits
CASES = (
    Case("denoiser", "restorer", noisy, (batch, nn.ReLU, "concatenate"), F.mse_loss,
         lambda p: torch.optim.NAdam(p, 4e-3)),
    Case("denoiser, residual output", "restorer", noisy, (instance, nn.GELU, "add"), F.mse_loss,
         lambda p: torch.optim.Adamax(p, 6e-3), Residual),
    Case("denoiser, residual output, 5 levels", "restorer", noisy, (batch, nn.SiLU, "answers"),
         F.l1_loss, lambda p: torch.optim.RAdam(p, 6e-3), Residual, 5),
    Case("finds the noise", "restorer", noise, (layer, nn.SiLU, "concatenate"), F.mse_loss,
         lambda p: torch.optim.NAdam(p, 4e-3)),
    Case("sharpens", "restorer", blurred, (batch, nn.LeakyReLU, "add"), F.huber_loss,
         lambda p: torch.optim.Adamax(p, 8e-3)),
    Case("fills gaps", "restorer", with_gaps, (instance, nn.ReLU, "concatenate"), F.l1_loss,
         lambda p: torch.optim.RAdam(p, 6e-3)),
    Case("bright", "bright", bright, (batch, nn.ReLU, "concatenate"), by_pixel,
         lambda p: torch.optim.NAdam(p, 4e-3)),
    Case("bright and large, 5 levels", "bright", bright_and_large, (batch, nn.SiLU, "add"),
         by_pixel, lambda p: torch.optim.Adamax(p, 8e-3), Net, 5),
    Case("bright on a slope, dice", "bright", bright_on_a_slope, (layer, nn.GELU, "concatenate"),
         soft_dice, lambda p: torch.optim.RAdam(p, 6e-3)),
    Case("heights of both signs", "depth", heights, (batch, nn.ReLU, "concatenate"), F.mse_loss,
         lambda p: torch.optim.NAdam(p, 4e-3)),
    Case("metres", "depth", metres, (instance, nn.SiLU, "add"), F.huber_loss,
         lambda p: torch.optim.Adamax(p, 6e-3)),
    Case("removes stripes", "restorer", striped, (batch, nn.GELU, "add"), F.mse_loss,
         lambda p: torch.optim.RAdam(p, 6e-3)),
    Case("makes finer", "restorer", coarse, (instance, nn.LeakyReLU, "concatenate"), F.l1_loss,
         lambda p: torch.optim.NAdam(p, 4e-3), Residual),
    Case("removes speckles, 5 levels", "restorer", speckled, (batch, nn.ReLU, "concatenate"),
         F.huber_loss, lambda p: torch.optim.Adamax(p, 8e-3), Net, 5),
    Case("plainly bright", "bright", plainly_bright, (batch, nn.SiLU, "add"), by_pixel,
         lambda p: torch.optim.RAdam(p, 6e-3)),
    Case("above the average", "bright", above_average, (batch, nn.ReLU, "concatenate"), by_pixel,
         lambda p: torch.optim.NAdam(p, 4e-3)),
    Case("smoothly bright, dice", "bright", smoothly_bright, (layer, nn.GELU, "answers"),
         soft_dice, lambda p: torch.optim.Adamax(p, 8e-3)),
)  # fmt: skip


def measure(case: Case, index: int, folder: Path) -> dict[str, Any]:
    """Train, or load what was trained; measure the truth; ask the library."""

    def train(model: Net) -> None:
        given = pool(case.draw, TRAIN, 10 * index)
        fit(model, case.optimizer(model.parameters()), case.loss, given.images, given.targets)

    model = trained(case.build, train, index, folder / f"{index:02d}.pt")
    test = pool(case.draw, TEST, 10 * index + 1)
    kind = "binary" if case.kind == "bright" else "regression"
    found = measure_truth(model, taps(model), kind, test, case.loss)
    images = pool(case.draw, IMAGES, 10 * index + 2).images
    with torch.no_grad():
        answers = model(images)
    pair = torch.stack([images.flatten(), answers.flatten()])
    levels = {int(level): lost for level, lost in found["levels"].items()}
    return {"name": case.name, "kind": case.kind, "follows": float(torch.corrcoef(pair)[0, 1]),
            "below": float((answers < 0).float().mean()), "skill": found["skill"],
            "levels": levels, "said": judged(model, images)[1]}  # fmt: skip


def failures(found: list[dict[str, Any]]) -> list[str]:
    """What was written down as a failure, in words."""
    failed = [
        f"{c['name']}, level {c['level']}, by {c['grade']}: called unused with the rule, "
        f"{c['lost']:.0%} of the skill is lost"
        for c in found
        if c["clear"] and c["used"] and c["after"] == "unused"
    ]
    numbers = [c for c in found if c["kind"] != "bright"]
    right = [c for c in numbers if c["before"] == ("used" if c["used"] else "unused")]
    withdrawn = sum(c["after"] == "undecided" for c in right)
    if withdrawn > 0.1 * len(right):
        failed.append(
            f"{withdrawn} of {len(right)} right verdicts on restorers and regressions are "
            "withdrawn by the rule"
        )
    wrong = [c for c in found if c["kind"] == "bright" and c["follows"] > FOLLOWS
             and c["clear"] and not c["used"] and c["after"] == "used"]  # fmt: skip
    if len(wrong) > 1:
        failed.append(
            f"{len(wrong)} idle cuts of segmenters that follow their image are called used: "
            + "; ".join(f"{c['name']}, level {c['level']}, by {c['grade']}" for c in wrong)
        )
    return failed


def write(rows: list[dict[str, Any]], path: Path) -> None:
    """The page, failures first."""
    follows = {row["name"]: row["follows"] for row in rows}
    found = [cut | {"follows": follows[cut["name"]]} for cut in cuts(rows)]
    about = (
        "`python studies/restorers.py`. Networks whose designs and tasks chose nothing, "
        f"trained for {STEPS} steps; what counts as a failure was [written down]"
        "(../../decisions/response.md) before it ran. Used is a cut that costs more than 5 % of "
        "the skill: what a network gains over the best constant and the best line through the "
        "image, or F1 at the best threshold over that of the best constant, on "
        f"{TEST} test images, by hooks. Images are {IMAGES} others, without labels. Follows: "
        "correlation of the answer with these. Below: share of the answers that are negative. "
        "Verdicts by the model alone / by images, with the rule; in brackets what was said "
        "without it."
    )
    write_page(
        path,
        "Outputs that follow their image",
        rows,
        found,
        failures(found),
        about,
        KINDS,
        figures=("follows", "below", "skill"),
    )


def main(arguments: list[str] | None = None) -> None:
    """Run all and write the page."""
    run_cases("restorers", __doc__ or "", CASES, measure, write, arguments)


if __name__ == "__main__":
    main()
