"""Do levels that are silent on images of one contrast respond to images of many? Fresh networks.

    python studies/exposures.py [--out runs/evidence-exposures]
        [--page docs/studies/evidence/exposures.md]

Photographs of scikit-image, damaged in ways that neither the evidence study nor the other small
ones know; a part of each photograph is for training, another for the rest.
docs/decisions/response.md says what counts as a failure, and was written before this ran. Every
network is analysed twice: with the look at images of many exposures, and without.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np  # noqa: E402
import torch  # noqa: E402
from scipy import ndimage  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from studies.evidence_protocol.sources import grey_photo  # noqa: E402
from studies.evidence_protocol.tasks import Part, Pool, _crop  # noqa: E402
from studies.evidence_protocol.truth import measure_truth  # noqa: E402
from studies.restorers import Array, by_pixel  # noqa: E402
from studies.shapes import Adding, Kind, failures, said_of  # noqa: E402
from studies.tiny import (  # noqa: E402
    IMAGES,
    SIZE,
    TEST,
    TRAIN,
    Net,
    Rules,
    batch,
    cuts,
    fit,
    instance,
    layer,
    no_norm,
    run_cases,
    taps,
    trained,
    write_page,
)
from weightscope.probing import response  # noqa: E402

STEPS = 700
"""Twice those of the other small studies: photographs vary more than painted scenes."""

NAMES = ("astronaut.png", "brick.png", "camera.png", "chelsea.png", "coffee.png", "coins.png",
         "grass.png", "gravel.png", "moon.png", "rocket.jpg")  # fmt: skip
ARCHIVES = ROOT / "runs" / "evidence-archives"
KINDS = ("restorer", "bright")
GRADES = ("response", "images", "data")


def photograph(rng: np.random.Generator, part: Part) -> Array:
    """A crop of a photograph in grey, values in 0..1."""
    name = str(rng.choice(NAMES))
    return np.asarray(_crop(grey_photo(name, ARCHIVES), SIZE, part, rng), float)


def _spots(rng: np.random.Generator, least: float, most: float, count: int) -> Array:
    """Where some discs lie."""
    y, x = np.mgrid[0:SIZE, 0:SIZE].astype(float)
    found = np.zeros((SIZE, SIZE), bool)
    for _ in range(count):
        cy, cx = rng.uniform(0, SIZE, 2)
        found |= np.hypot(y - cy, x - cx) < rng.uniform(least, most)
    return found


def toned(rng: np.random.Generator, image: Array, _other: Array) -> tuple[Array, Array]:
    """A power of the image, another one for each; the image."""
    return image ** np.exp(rng.uniform(-1, 1)), image


def faded(rng: np.random.Generator, image: Array, _other: Array) -> tuple[Array, Array]:
    """A print that lost contrast and got a tint; the image."""
    return rng.uniform(0.1, 0.4) + rng.uniform(0.2, 0.6) * image, image


def reflected(rng: np.random.Generator, image: Array, other: Array) -> tuple[Array, Array]:
    """An image behind a pane that mirrors another one; the image."""
    share = rng.uniform(0.2, 0.5)
    return (1 - share) * image + share * ndimage.gaussian_filter(other, 2), image


def moved(rng: np.random.Generator, image: Array, _other: Array) -> tuple[Array, Array]:
    """An image that moved sideways while it was taken; the sharp one."""
    soft = ndimage.uniform_filter1d(image, 7, axis=int(rng.integers(2)))
    return soft + 0.01 * rng.standard_normal(image.shape), image


def dithered(rng: np.random.Generator, image: Array, _other: Array) -> tuple[Array, Array]:
    """Black and white points as dense as the image is bright; the image."""
    return (image > rng.uniform(0, 1, image.shape)).astype(float), image


def snowed(rng: np.random.Generator, image: Array, _other: Array) -> tuple[Array, Array]:
    """Flakes before the image; the image."""
    flakes = ndimage.gaussian_filter(_spots(rng, 1, 3.5, 12).astype(float), 0.7)
    return image + (1 - image) * flakes, image


def shadowed(rng: np.random.Generator, image: Array, _other: Array) -> tuple[Array, Array]:
    """A shadow over a part of the image; the image without it."""
    y, x = np.mgrid[-1 : 1 : SIZE * 1j, -1 : 1 : SIZE * 1j]
    angle = rng.uniform(0, 2 * np.pi)
    dark = y * np.sin(angle) + x * np.cos(angle) > rng.uniform(-0.5, 0.5)
    return np.where(dark, rng.uniform(0.2, 0.6) * image, image), image


def scattered(rng: np.random.Generator, image: Array, _other: Array) -> tuple[Array, Array]:
    """Three points in ten of an image, the others zero; the whole one."""
    return image * (rng.uniform(0, 1, image.shape) < 0.3), image


def ghosted(rng: np.random.Generator, image: Array, _other: Array) -> tuple[Array, Array]:
    """An image and itself aside; the image."""
    step = rng.choice([-1, 1], 2) * rng.integers(4, 9, 2)
    return 0.65 * image + 0.35 * ndimage.shift(image, step, order=0, mode="reflect"), image


def overexposed(rng: np.random.Generator, image: Array, _other: Array) -> tuple[Array, Array]:
    """An image with too much light, cut off at white; the image."""
    return np.minimum(rng.uniform(1.2, 2.5) * image, 1.0), image


def counted(rng: np.random.Generator, image: Array, _other: Array) -> tuple[Array, Array]:
    """Few counts of light, of another exposure for each image; the image."""
    light = np.exp(rng.uniform(np.log(4), np.log(60)))
    return rng.poisson(light * image) / light, image


def scratched(rng: np.random.Generator, image: Array, _other: Array) -> tuple[Array, Array]:
    """White lines across the image; the image."""
    given = image.copy()
    for _ in range(4):
        along = np.linspace(0, SIZE - 1, 4 * SIZE)
        ends = rng.integers(0, SIZE, 2)
        across = np.linspace(*ends, 4 * SIZE).round().astype(int)
        given[along.round().astype(int), across] = 1.0
    return given, image


def lit_spots(rng: np.random.Generator, image: Array, _other: Array) -> tuple[Array, Array]:
    """Spots brighter than what is around, under another light for each image; the spots."""
    spots = _spots(rng, 2, 5, 5)
    given = rng.uniform(0.3, 1.2) * (0.4 * image + 0.45 * spots)
    return given + 0.03 * rng.standard_normal(image.shape), spots.astype(float)


def holes(rng: np.random.Generator, image: Array, _other: Array) -> tuple[Array, Array]:
    """Dark spots in what is bright; the spots."""
    spots = _spots(rng, 1.5, 4, 6)
    given = np.where(spots, 0.5, 1.0) * (0.3 + 0.7 * image)
    return given + 0.03 * rng.standard_normal(image.shape), spots.astype(float)


def another_inside(rng: np.random.Generator, image: Array, other: Array) -> tuple[Array, Array]:
    """A round piece of a blurred photograph in a sharp one; the piece."""
    inside = _spots(rng, 8, 14, 1)
    return np.where(inside, ndimage.gaussian_filter(other, 1.5), image), inside.astype(float)


Draw = Callable[[np.random.Generator, Array, Array], tuple[Array, Array]]


def pool(draw: Draw, n: int, seed: int, part: Part) -> Pool:
    """Images and targets of one channel."""
    pairs = []
    for index in range(n):
        rng = np.random.default_rng([78, seed, index])
        pairs.append(draw(rng, photograph(rng, part), photograph(rng, part)))
    x, y = (torch.from_numpy(np.stack(one)[:, None]).float() for one in zip(*pairs, strict=True))
    return Pool(x, y)


@dataclass(frozen=True)
class Case:
    """One network.

    Attributes:
        draw: One image and its target, of two photographs.
        kind: What the answer is.
        net: Norm, activation, way to join.
        rate: Of the optimiser.
        optimizer: Of the parameters.
        loss: Of outputs and targets.
        make: Makes the network.
        levels: Number of levels.
        whitened: Whether the images are given with mean 0 and deviation 1, about.
    """

    draw: Draw
    kind: Kind
    net: tuple[Any, ...]
    rate: float
    optimizer: type[torch.optim.Optimizer]
    loss: Callable[..., Any] = F.mse_loss
    make: type[Net] = Net
    levels: int = 4
    whitened: bool = False

    @property
    def name(self) -> str:
        """In the table."""
        name = self.draw.__name__.replace("_", " ")
        return f"{name}, whitened" if self.whitened else name

    def build(self) -> Net:
        """The network with random weights."""
        return self.make(1, 8, self.levels, *self.net, nn.Identity(), 1)

    def pool(self, n: int, seed: int, part: Part) -> Pool:
        """Images and targets as the network gets them."""
        found = pool(self.draw, n, seed, part)
        if not self.whitened:
            return found
        targets = found.targets if self.kind == "bright" else (found.targets - 0.5) / 0.25
        return Pool((found.images - 0.5) / 0.25, targets)


_ADAM, _W, _R, _N = torch.optim.Adam, torch.optim.AdamW, torch.optim.RAdam, torch.optim.NAdam
CASES = (
    Case(toned, "restorer", (batch, nn.ReLU, "concatenate"), 4e-3, _ADAM),
    Case(toned, "restorer", (layer, nn.GELU, "add"), 3e-3, _W, F.l1_loss, whitened=True),
    Case(faded, "restorer", (layer, nn.SiLU, "concatenate"), 4e-3, _N, make=Adding),
    Case(reflected, "restorer", (no_norm, nn.LeakyReLU, "concatenate"), 3e-3, _ADAM, whitened=True),
    Case(moved, "restorer", (batch, nn.ReLU, "add"), 4e-3, _W, make=Adding, levels=3),
    Case(dithered, "restorer", (batch, nn.SiLU, "concatenate"), 4e-3, _R),
    Case(snowed, "restorer", (no_norm, nn.GELU, "concatenate"), 3e-3, _W, F.l1_loss, Adding),
    Case(shadowed, "restorer", (batch, nn.ReLU, "answers"), 4e-3, _ADAM, levels=5),
    Case(shadowed, "restorer", (layer, nn.ReLU, "concatenate"), 4e-3, _N, make=Adding,
         whitened=True),
    Case(scattered, "restorer", (batch, nn.LeakyReLU, "concatenate"), 4e-3, _ADAM),
    Case(ghosted, "restorer", (instance, nn.ReLU, "concatenate"), 4e-3, _W, make=Adding),
    Case(overexposed, "restorer", (batch, nn.GELU, "concatenate"), 4e-3, _N, F.huber_loss),
    Case(counted, "restorer", (no_norm, nn.ReLU, "add"), 3e-3, _ADAM, make=Adding),
    Case(counted, "restorer", (batch, nn.SiLU, "concatenate"), 4e-3, _W, whitened=True),
    Case(scratched, "restorer", (layer, nn.LeakyReLU, "concatenate"), 4e-3, _R, F.l1_loss),
    Case(lit_spots, "bright", (batch, nn.ReLU, "concatenate"), 4e-3, _ADAM, by_pixel),
    Case(lit_spots, "bright", (layer, nn.GELU, "add"), 4e-3, _W, by_pixel, whitened=True),
    Case(holes, "bright", (no_norm, nn.SiLU, "concatenate"), 3e-3, _N, by_pixel, whitened=True),
    Case(holes, "bright", (batch, nn.LeakyReLU, "answers"), 4e-3, _W, by_pixel, levels=5),
    Case(another_inside, "bright", (batch, nn.ReLU, "concatenate"), 4e-3, _R, by_pixel),
)  # fmt: skip


@contextmanager
def without_the_rule() -> Iterator[None]:
    """Nothing is asked at other exposures."""
    with mock.patch.object(response, "_at_other_exposures", return_value=()):
        yield


RULES: Rules = {"without the rule": without_the_rule, "with the rule": nullcontext}


def measure(case: Case, index: int, folder: Path) -> dict[str, Any]:
    """Train, or load what was trained; measure the truth; ask the library."""

    def train(model: Net) -> None:
        given = case.pool(TRAIN, 10 * index, "train")
        optimizer = case.optimizer(model.parameters(), lr=case.rate)  # type: ignore[call-arg]
        fit(model, optimizer, case.loss, given.images, given.targets, STEPS)

    model = trained(case.build, train, index, folder / f"{index:02d}.pt")
    test = case.pool(TEST, 10 * index + 1, "test")
    kind = "binary" if case.kind == "bright" else "regression"
    found = measure_truth(model, taps(model), kind, test, case.loss, test.images)
    given = case.pool(IMAGES, 10 * index + 2, "validation")
    said = said_of(model, given.images, given, case.kind, RULES)
    levels = {k: lost for k, lost in found["levels"].items() if k in said["with the rule"]}
    return {"name": f"{index}: {case.name}", "kind": case.kind, "skill": found["skill"],
            "levels": levels, "said": said}  # fmt: skip


def write(rows: list[dict[str, Any]], path: Path) -> None:
    """The page, failures first."""
    found = list(cuts(rows, GRADES))
    about = (
        "`python studies/exposures.py`. Networks whose tasks chose nothing, "
        f"trained for {STEPS} steps; what counts as a failure was [written down]"
        "(../../decisions/response.md) before it ran. Used is a cut that costs more than 5 % of "
        "the skill: what a network gains over the best constant and the best line through the "
        "image that it restores, or F1 at the best threshold over that of the best constant, on "
        f"{TEST} test images, by hooks. Images are {IMAGES} others; those for training come from "
        "another part of the photographs. The rule: no level is unused by the model alone that "
        "responds to synthetic images which differ in brightness and contrast. Verdicts by the "
        "model alone / by images / by the squared error or F1 on them, with the rule; in brackets "
        "what was said without it."
    )
    write_page(
        path,
        "Photographs of many exposures",
        rows,
        found,
        failures(found, "response"),
        about,
        KINDS,
        grades=GRADES,
    )


def main(arguments: list[str] | None = None) -> None:
    """Run all and write the page."""
    run_cases("exposures", __doc__ or "", CASES, measure, write, arguments)


if __name__ == "__main__":
    main()
