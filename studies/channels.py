"""Are outputs of several channels numbers or decisions? Thirty-two fresh networks.

    python studies/channels.py [--out runs/evidence-channels]
        [--page docs/studies/evidence/channels.md]

Designs and tasks are none of the evidence study's. docs/decisions/response.md says what counts as a
failure, and was written before this ran. Every network is analysed twice: with the guard that a
level is unused only if several channels do not change as numbers either, and without it. The border
that the first 26 networks refuted, between channels that may be numbers and those that may not, is
counted here.
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
from numpy.typing import NDArray  # noqa: E402
from scipy import ndimage  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from studies import labels  # noqa: E402
from studies.evidence_protocol.tasks import Pool  # noqa: E402
from studies.evidence_protocol.truth import SKILLED, measure_truth  # noqa: E402
from studies.tiny import (  # noqa: E402
    IMAGES,
    SIZE,
    STEPS,
    TEST,
    TRAIN,
    Loss,
    Net,
    Optimizer,
    Rules,
    batch,
    changes,
    cuts,
    fit,
    instance,
    judged,
    layer,
    no_norm,
    run_cases,
    tally_table,
    taps,
    trained,
    verdicts_of,
)
from weightscope.files import written_atomically  # noqa: E402
from weightscope.probing import response  # noqa: E402
from weightscope.probing.change import Figures, compare, decisive  # noqa: E402
from weightscope.probing.outputs import Reading  # noqa: E402
from weightscope.probing.stimuli import dead_leaves  # noqa: E402
from weightscope.thresholds import BARE  # noqa: E402

Array = NDArray[np.float64]
Rng = np.random.Generator
Kind = Literal["numbers", "labels", "classes"]
KINDS: tuple[Kind, ...] = ("numbers", "labels", "classes")
COMMON = 0.75
"""Variance of the sum of the channels beside the sum of their variances above which they were taken
for numbers, too."""


def decisions_alone() -> AbstractContextManager[object]:
    """Several channels that may be decisions are nothing else."""
    joined = response._joined

    def without(keep_levels: int, kinds: Sequence[Figures]) -> response.CutResponse:
        return replace(joined(keep_levels, kinds), by_number=np.nan, by_number_high=np.nan)

    return mock.patch.object(response, "_joined", without)


RULES: Rules = {"without the rule": decisions_alone, "with the rule": nullcontext}


def smooth(rng: Rng, channels: int, width: float) -> Array:
    """Random fields of deviation 1 that vary over so many positions."""
    fields = ndimage.gaussian_filter(rng.standard_normal((channels, SIZE, SIZE)), (0, width, width))
    return np.asarray(fields / fields.std((1, 2), keepdims=True))


def tiles(rng: Rng) -> tuple[Array, NDArray[np.int64], Array]:
    """Polygons, each of one colour; which is where; the distance to the next border."""
    seeds = rng.uniform(0, SIZE, (int(rng.integers(6, 14)), 2))
    y, x = np.mgrid[0:SIZE, 0:SIZE]
    far = np.hypot(y[..., None] - seeds[:, 0], x[..., None] - seeds[:, 1])
    which, two = far.argmin(-1), np.sort(far, -1)
    colour = rng.uniform(-1.5, 1.5, (3, len(seeds)))[:, which]
    return colour, which, np.asarray(two[..., 1] - two[..., 0])


def balls(rng: Rng) -> tuple[Array, Array, Array]:
    """Lit balls on a plane: brightness, height, and three parts of the normal."""
    y, x = np.mgrid[0:SIZE, 0:SIZE].astype(float)
    height = np.zeros((SIZE, SIZE))
    for _ in range(int(rng.integers(4, 9))):
        r = rng.uniform(4, 11)
        cy, cx = rng.uniform(0, SIZE, 2)
        square = r**2 - (y - cy) ** 2 - (x - cx) ** 2
        height = np.maximum(height, np.sqrt(np.maximum(square, 0.0)))
    dy, dx = np.gradient(ndimage.gaussian_filter(height, 0.7))
    normal = np.stack([-dy, -dx, np.ones_like(dy)])
    normal /= np.sqrt((normal**2).sum(0))
    light = 0.5 * normal[0] + 0.3 * normal[1] + 0.8 * normal[2]
    return light, height, normal


def with_noise(image: Array, rng: Rng, size: float) -> Array:
    """The image and noise."""
    return image + size * rng.standard_normal(image.shape)


def colours(rng: Rng) -> tuple[Array, Array]:
    """Noisy colours; the colours."""
    clean = tiles(rng)[0] + 0.4 * smooth(rng, 3, 4)
    return with_noise(clean, rng, 0.5), clean


def colour_noise(rng: Rng) -> tuple[Array, Array]:
    """Noisy colours; three times the noise, which is smooth."""
    clean, noise = tiles(rng)[0], smooth(rng, 3, 1.2)
    return clean + 0.6 * noise, 3 * noise


def soft_colours(rng: Rng) -> tuple[Array, Array]:
    """Blurred colours; what sharpening adds, times four."""
    clean = tiles(rng)[0]
    soft = ndimage.gaussian_filter(clean, (0, 1.2, 1.2))
    return with_noise(soft, rng, 0.03), 4 * (clean - soft)


def brighter(rng: Rng) -> tuple[Array, Array]:
    """Colours under uneven light; the light of each channel, nearly the same, times three."""
    light = 3 * smooth(rng, 1, 9) + 0.5 * smooth(rng, 3, 9)
    return tiles(rng)[0] + light / 3, light


def depth_and_normals(rng: Rng) -> tuple[Array, Array]:
    """A lit scene; height in units of five, and three parts of the normal, times three."""
    light, height, normal = balls(rng)
    return with_noise(light, rng, 0.05)[None], np.concatenate([height[None] / 5 - 0.5, 3 * normal])


def normals(rng: Rng) -> tuple[Array, Array]:
    """A lit scene; two parts of the normal, times four."""
    light, _, normal = balls(rng)
    return with_noise(light, rng, 0.05)[None], 4 * normal[:2]


def flow(rng: Rng) -> tuple[Array, Array]:
    """Two frames; by how much positions move."""
    move = 1.5 * smooth(rng, 2, 10)
    texture = smooth(rng, 1, 1.3)[0] + 0.5 * smooth(rng, 1, 3)[0]
    grid = np.mgrid[0:SIZE, 0:SIZE].astype(float)
    second = ndimage.map_coordinates(texture, grid + move, order=1, mode="nearest")
    return np.stack([texture, second]), move


def offsets(rng: Rng) -> tuple[Array, Array]:
    """Cells; the way to the middle of the own one, in units of three positions."""
    _, which, border = tiles(rng)
    cells = which + 1
    middles = np.array(ndimage.center_of_mass(np.ones_like(cells), cells, np.unique(cells)))
    own = middles[np.searchsorted(np.unique(cells), cells)].transpose(2, 0, 1)
    image = np.tanh(border / 3)
    return with_noise(image, rng, 0.1)[None], (own - np.mgrid[0:SIZE, 0:SIZE]) / 3


def layers_of_light(rng: Rng) -> tuple[Array, Array]:
    """What is seen; twice the colour of things and twice the light on them (logarithms)."""
    paint, light = tiles(rng)[0][0], smooth(rng, 1, 9)[0]
    return with_noise(paint + light, rng, 0.05)[None], 2 * np.stack([paint, light])


def blurs(rng: Rng) -> tuple[Array, Array]:
    """A noisy image; the clean one at four scales, times two."""
    clean = tiles(rng)[0][0]
    scales = [ndimage.gaussian_filter(clean, width) for width in (0.5, 1, 2, 3)]
    return with_noise(clean, rng, 0.5)[None], 2 * np.stack(scales)


def opponents(rng: Rng) -> tuple[Array, Array]:
    """Noisy colours; red less green, green less blue, blue less red: their sum is 0."""
    given, clean = colours(rng)
    return given, clean - np.roll(clean, -1, 0)


def both_ways(rng: Rng) -> tuple[Array, Array]:
    """A scene; height and the same downwards, times a half: their sum is 0."""
    light, height, _ = balls(rng)
    return with_noise(light, rng, 0.05)[None], np.stack([height - 3, 3 - height]) / 2


def to_dark_and_bright(rng: Rng) -> tuple[Array, Array]:
    """Bright and dark cells; distances to bright and to dark ones less 1.5, in units of two."""
    grey, which, _ = tiles(rng)
    bright = grey[0] > 0
    bright[0, 0], bright[-1, -1] = True, False
    far = [ndimage.distance_transform_edt(part) for part in (~bright, bright)]
    image = np.where(bright, 0.7, -0.7) + 0.2 * np.sin(which)
    return with_noise(image, rng, 0.3)[None], np.clip(np.stack(far), 0, 12) / 2 - 0.75


def lit_colours(rng: Rng) -> tuple[Array, Array]:
    """Noisy colours; four times the colour, and in all channels the mean of the surroundings."""
    colour = tiles(rng)[0]
    around = 4 * ndimage.gaussian_filter(colour.mean(0), 7)
    return with_noise(colour, rng, 0.2), 4 * (colour - colour.mean(0)) + 3 * around


def edges_and_ground(rng: Rng) -> tuple[Array, Array]:
    """A noisy image; three times what is above and what is below a coarse version of it."""
    grey = tiles(rng)[0][0]
    ground = ndimage.gaussian_filter(grey, 6)
    return with_noise(grey, rng, 0.2)[None], 3 * np.stack([grey - ground, ground])


def attributes(rng: Rng) -> tuple[Array, Array]:
    """Coloured tiles; which channels are high, and where no border is near: labels that overlap."""
    colour, _, border = tiles(rng)
    return with_noise(colour, rng, 0.4), np.concatenate([colour > 0, border[None] > 1.5])


def quantities(rng: Rng) -> tuple[Array, Array]:
    """A scene; above four heights: nested labels, the first of which holds nearly everywhere."""
    light, height, _ = balls(rng)
    return with_noise(light, rng, 0.05)[None], np.stack([height > h for h in (-1.0, 1.0, 4.0, 7.0)])


def opposites(rng: Rng) -> tuple[Array, Array]:
    """Coloured tiles; warm, cold, light, dark: in each place two of four labels."""
    colour = tiles(rng)[0]
    warm, light = colour[0] > colour[2], colour.sum(0) > 0
    return with_noise(colour, rng, 0.4), np.stack([warm, ~warm, light, ~light])


def hues(rng: Rng) -> tuple[Array, Array]:
    """Coloured tiles; which channel is highest."""
    colour = tiles(rng)[0]
    return with_noise(colour, rng, 0.4), colour.argmax(0)


def heights(rng: Rng) -> tuple[Array, Array]:
    """A lit scene; ground, low, high."""
    light, height, _ = balls(rng)
    return with_noise(light, rng, 0.05)[None], np.digitize(height, [0.5, 5.0])


def two_sides(rng: Rng) -> tuple[Array, Array]:
    """A lit scene; ground or not."""
    given, found = heights(rng)
    return given, (found > 0).astype(int)


def temperatures(rng: Rng) -> tuple[Array, Array]:
    """Coloured tiles; warm, neither, cold."""
    colour = tiles(rng)[0]
    return with_noise(colour, rng, 0.3), np.digitize(colour[0] - colour[2], [-0.7, 0.7])


def brightest(rng: Rng) -> tuple[Array, Array]:
    """A noisy image; darker than its surroundings, or brighter."""
    grey = tiles(rng)[0][0]
    return with_noise(grey, rng, 0.2)[None], (grey > ndimage.uniform_filter(grey, 9)).astype(int)


def octants(rng: Rng) -> tuple[Array, Array]:
    """Coloured tiles; one of eight colours."""
    colour = tiles(rng)[0]
    return with_noise(colour, rng, 0.3), np.tensordot([1, 2, 4], colour > 0, 1)


def textures(rng: Rng) -> tuple[Array, Array]:
    """Tiles of five textures; which."""
    _, which, _ = tiles(rng)
    grains = np.stack([smooth(rng, 1, width)[0] for width in (0.4, 0.8, 1.4, 2.2, 3.5)])
    found = rng.integers(0, 5, which.max() + 1)[which]
    return np.take_along_axis(grains, found[None], 0), found


def ways(rng: Rng) -> tuple[Array, Array]:
    """Two frames; the main way of the movement, one of four."""
    frames, move = flow(rng)
    across = abs(move[0]) > abs(move[1])
    return frames, np.where(across, move[0] > 0, 2 + (move[1] > 0))


def of_one(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of every class by itself."""
    true = F.one_hot(targets, outputs.shape[1]).movedim(-1, 1).float()
    return F.binary_cross_entropy_with_logits(outputs, true)


def of_signs(outputs: Tensor, targets: Tensor) -> Tensor:
    """Squares: 3 for the class, -3 for the others."""
    true = F.one_hot(targets, outputs.shape[1]).movedim(-1, 1).float()
    return F.mse_loss(outputs, 6 * true - 3)


def soft_dice(outputs: Tensor, targets: Tensor) -> Tensor:
    """One minus the overlap of probabilities and classes."""
    true = F.one_hot(targets, outputs.shape[1]).movedim(-1, 1).float()
    share = outputs.softmax(1)
    both = (share * true).sum((0, 2, 3))
    return 1 - (2 * both / (share.sum((0, 2, 3)) + true.sum((0, 2, 3)) + 1)).mean()


def smoothed(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy with smoothed labels."""
    return F.cross_entropy(outputs, targets, label_smoothing=0.1)


def focal(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy that what is sure hardly counts for."""
    each = F.cross_entropy(outputs, targets, reduction="none")
    return ((1 - torch.exp(-each)) ** 2 * each).mean()


@dataclass(frozen=True)
class Case:
    """One network.

    Attributes:
        name: In the table.
        kind: What its answer is.
        draw: One image and its target.
        inputs: Channels of the image.
        outputs: Channels of the answer.
        net: Width, number of levels, norm, activation, way to join.
        loss: Of outputs and targets.
        optimizer: Of the parameters.
    """

    name: str
    kind: Kind
    draw: Callable[[Rng], tuple[Array, Array]]
    inputs: int
    outputs: int
    net: tuple[int, int, Any, Any, Any]
    loss: Loss
    optimizer: Optimizer

    def build(self) -> Net:
        """The network with random weights."""
        width, levels, *rest = self.net
        return Net(self.outputs, width, levels, *rest, nn.Identity(), self.inputs)

    def pool(self, n: int, seed: int) -> Pool:
        """Images and targets."""
        pairs = [self.draw(np.random.default_rng([seed, index])) for index in range(n)]
        x, y = (torch.from_numpy(np.stack(part)) for part in zip(*pairs, strict=True))
        return Pool(x.float(), y.long() if self.kind == "classes" else y.float())


by_label = F.binary_cross_entropy_with_logits
CASES = (
    Case("colours without noise", "numbers", colours, 3, 3,
         (8, 4, batch, nn.ReLU, "concatenate"), F.mse_loss, lambda p: torch.optim.AdamW(p, 4e-3)),
    Case("noise of colours", "numbers", colour_noise, 3, 3,
         (6, 5, batch, nn.SiLU, "add"), F.mse_loss, lambda p: torch.optim.NAdam(p, 4e-3)),
    Case("sharpens colours", "numbers", soft_colours, 3, 3,
         (10, 4, instance, nn.GELU, "concatenate"), F.l1_loss,
         lambda p: torch.optim.RMSprop(p, 2e-3)),
    Case("light on colours", "numbers", brighter, 3, 3,
         (8, 5, layer, nn.SiLU, "concatenate"), F.huber_loss, lambda p: torch.optim.RAdam(p, 6e-3)),
    Case("depth and normals", "numbers", depth_and_normals, 1, 4,
         (10, 4, batch, nn.ReLU, "answers"), F.mse_loss, lambda p: torch.optim.Adamax(p, 8e-3)),
    Case("normals", "numbers", normals, 1, 2,
         (8, 5, batch, nn.LeakyReLU, "concatenate"), F.l1_loss,
         lambda p: torch.optim.NAdam(p, 4e-3)),
    Case("flow", "numbers", flow, 2, 2,
         (10, 4, batch, nn.ReLU, "concatenate"), F.mse_loss, lambda p: torch.optim.RAdam(p, 6e-3)),
    Case("flow, no norm", "numbers", flow, 2, 2,
         (12, 4, no_norm, nn.ReLU, "add"), F.l1_loss, lambda p: torch.optim.AdamW(p, 4e-3)),
    Case("offsets to the middle", "numbers", offsets, 1, 2,
         (8, 5, batch, nn.GELU, "concatenate"), F.mse_loss, lambda p: torch.optim.Adamax(p, 8e-3)),
    Case("paint and light", "numbers", layers_of_light, 1, 2,
         (8, 4, layer, nn.ReLU, "concatenate"), F.mse_loss, lambda p: torch.optim.NAdam(p, 4e-3)),
    Case("four blurs", "numbers", blurs, 1, 4,
         (6, 5, batch, nn.ReLU, "concatenate"), F.huber_loss,
         lambda p: torch.optim.RMSprop(p, 3e-3)),
    Case("opponent colours", "numbers", opponents, 3, 3,
         (8, 4, batch, nn.SiLU, "add"), F.mse_loss, lambda p: torch.optim.RAdam(p, 6e-3)),
    Case("heights both ways", "numbers", both_ways, 1, 2,
         (8, 5, instance, nn.ReLU, "concatenate"), F.l1_loss,
         lambda p: torch.optim.AdamW(p, 4e-3)),
    Case("distances to dark and bright", "numbers", to_dark_and_bright, 1, 2,
         (8, 4, batch, nn.LeakyReLU, "answers"), F.mse_loss,
         lambda p: torch.optim.Adamax(p, 8e-3)),
    Case("attributes of colours", "labels", attributes, 3, 4,
         (8, 5, batch, nn.ReLU, "concatenate"), by_label, lambda p: torch.optim.NAdam(p, 4e-3)),
    Case("nested heights", "labels", quantities, 1, 4,
         (8, 4, instance, nn.SiLU, "add"), by_label, lambda p: torch.optim.AdamW(p, 4e-3)),
    Case("opposites", "labels", opposites, 3, 4,
         (6, 4, batch, nn.GELU, "answers"), by_label, lambda p: torch.optim.RAdam(p, 6e-3)),
    Case("hues", "classes", hues, 3, 3,
         (8, 5, batch, nn.ReLU, "concatenate"), F.cross_entropy,
         lambda p: torch.optim.SGD(p, 0.2, 0.9, nesterov=True)),
    Case("three heights, dice", "classes", heights, 1, 3,
         (8, 4, batch, nn.SiLU, "concatenate"), soft_dice, lambda p: torch.optim.NAdam(p, 4e-3)),
    Case("ground or not", "classes", two_sides, 1, 2,
         (6, 5, layer, nn.ReLU, "add"), F.cross_entropy, lambda p: torch.optim.RMSprop(p, 2e-3)),
    Case("eight colours, smoothed", "classes", octants, 3, 8,
         (10, 4, instance, nn.ReLU, "concatenate"), smoothed,
         lambda p: torch.optim.AdamW(p, 4e-3, weight_decay=0.1)),
    Case("five textures", "classes", textures, 1, 5,
         (10, 4, batch, nn.ReLU, "answers"), F.cross_entropy,
         lambda p: torch.optim.Adamax(p, 8e-3)),
    Case("ways of the movement, focal", "classes", ways, 2, 4,
         (12, 4, batch, nn.ReLU, "concatenate"), focal, lambda p: torch.optim.RAdam(p, 6e-3)),
    Case("hues by sigmoid", "classes", hues, 3, 3,
         (8, 5, batch, nn.LeakyReLU, "concatenate"), of_one,
         lambda p: torch.optim.NAdam(p, 4e-3)),
    Case("hues by squares", "classes", hues, 3, 3,
         (6, 4, instance, nn.GELU, "add"), of_signs, lambda p: torch.optim.AdamW(p, 4e-3)),
    Case("ground or not by squares", "classes", two_sides, 1, 2,
         (8, 5, batch, nn.ReLU, "concatenate"), of_signs, lambda p: torch.optim.Adamax(p, 8e-3)),
    Case("colours and their surroundings", "numbers", lit_colours, 3, 3,
         (8, 4, batch, nn.ReLU, "concatenate"), F.mse_loss, lambda p: torch.optim.NAdam(p, 4e-3)),
    Case("edges and ground", "numbers", edges_and_ground, 1, 2,
         (8, 5, batch, nn.SiLU, "add"), F.l1_loss, lambda p: torch.optim.AdamW(p, 4e-3)),
    Case("opponent colours, 5 levels", "numbers", opponents, 3, 3,
         (6, 5, instance, nn.ReLU, "concatenate"), F.huber_loss,
         lambda p: torch.optim.Adamax(p, 8e-3)),
    Case("temperatures, 5 levels", "classes", temperatures, 3, 3,
         (8, 5, batch, nn.ReLU, "concatenate"), F.cross_entropy,
         lambda p: torch.optim.RAdam(p, 6e-3)),
    Case("temperatures by squares", "classes", temperatures, 3, 3,
         (6, 5, layer, nn.GELU, "add"), of_signs, lambda p: torch.optim.NAdam(p, 4e-3)),
    Case("brighter than around", "classes", brightest, 1, 2,
         (8, 5, batch, nn.LeakyReLU, "concatenate"), F.cross_entropy,
         lambda p: torch.optim.Adamax(p, 8e-3)),
)  # fmt: skip


@torch.no_grad()
def read_as(model: Net, images: Tensor) -> dict[str, Any]:
    """Whether the answers to images are read as decisions, and how far their channels go along."""
    answers = model(images)
    found = compare(answers, answers, images).figures(np.ones((1, len(images))))
    total = answers.double().sum(1).var(correction=0)
    each = answers.double().transpose(0, 1).flatten(1).var(1, correction=0).sum()
    labels = Reading.of([answers]).bare > BARE
    return {"decides": decisive(found.certainty, found.follows), "labels": labels,
            "common": float(total / each), "certainty": found.certainty}  # fmt: skip


def measure(case: Case, index: int, folder: Path) -> dict[str, Any]:
    """Train, or load what was trained; measure the truth; ask the library."""

    def train(model: Net) -> None:
        given = case.pool(TRAIN, 10 * index)
        fit(model, case.optimizer(model.parameters()), case.loss, given.images, given.targets)

    model = trained(case.build, train, index, folder / f"{index:02d}.pt")
    test = case.pool(TEST, 10 * index + 1)
    if case.kind == "numbers":
        found = measure_truth(model, taps(model), "regression", test, case.loss)
    else:
        found = labels.truth(case, model, test.images, test.targets)
    images = case.pool(IMAGES, 10 * index + 2).images
    synthetic = dead_leaves(IMAGES, case.inputs, (SIZE, SIZE), seed=1)
    levels = {int(level): lost for level, lost in found["levels"].items()}
    return {"name": case.name, "kind": case.kind, "skill": found["skill"], "levels": levels,
            "synthetic": read_as(model, synthetic), "images": read_as(model, images),
            "said": judged(model, images, RULES)[1]}  # fmt: skip


def sides(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """On which side of the border outputs lie that are read as decisions on synthetic images."""
    deciding = [r for r in rows if r["skill"] >= SKILLED and r["synthetic"]["decides"]]
    found: dict[str, list[str]] = {}
    for kind in KINDS:
        own = [r for r in deciding if r["kind"] == kind]
        found[kind] = [r["name"] for r in own]
        found[f"{kind} above"] = [
            r["name"]
            for r in own
            if r["synthetic"]["common"] > COMMON and not r["synthetic"]["labels"]
        ]
    return found


def failures(
    rows: Sequence[Mapping[str, Any]], found: Sequence[Mapping[str, Any]]
) -> tuple[list[str], list[str]]:
    """What was written down as a failure, in words, and what was not put to the test."""
    failed = [
        f"{c['name']}, level {c['level']}, by {c['grade']}: called unused with the rule, "
        f"{c['lost']:.0%} of the skill is lost"
        for c in found
        if c["clear"] and c["used"] and c["after"] == "unused"
    ]
    untested = []
    right = [
        c for c in found if c["kind"] == "classes" and not c["used"] and c["before"] == "unused"
    ]
    withdrawn = sum(c["after"] != "unused" for c in right)
    said = f"{withdrawn} of {len(right)} right verdicts *unused* on classes are withdrawn"
    if len(right) < 10:
        untested.append(said)
    elif withdrawn > 0.1 * len(right):
        failed.append(said)
    side = sides(rows)
    below = [name for name in side["numbers"] if name not in side["numbers above"]]
    for names, kind, where in (
        (below, "numbers", "below the border, or were left out as labels"),
        (side["classes above"], "classes", "above the border"),
    ):
        if len(names) > 0.1 * len(side[kind]):
            failed.append(
                f"{len(names)} of {len(side[kind])} networks of {kind} that are read as decisions "
                f"lie {where}: {'; '.join(names)}"
            )
    called = [c for c in found if c["name"] in side["numbers"] and c["after"] == "used"]
    idle = [c for c in called if c["clear"] and not c["used"]]
    if len(idle) > 0.05 * len(called):
        failed.append(
            f"{len(idle)} of {len(called)} cuts called used, of networks of numbers that are read "
            "as decisions, are clearly idle: "
            + "; ".join(f"{c['name']}, level {c['level']}, by {c['grade']}" for c in idle)
        )
    return failed, untested


def write(rows: list[dict[str, Any]], path: Path) -> None:
    """The page, failures first."""
    found = list(cuts(rows))
    failed, untested = failures(rows, found)
    text = ["# Outputs of several channels", ""]
    text += [f"**{len(failed)} failures**{':' if failed else '.'}", "", *[f"- {f}" for f in failed]]
    text += [""] * bool(failed)
    text += [f"Not put to the test: {one}." for one in untested] + [""] * bool(untested)
    text += [*changes(found), *tally_table(found, KINDS)]
    text += [
        "",
        "`python studies/channels.py`. Networks whose designs and tasks chose nothing, "
        f"trained for {STEPS} steps; what counts as a failure was [written down]"
        "(../../decisions/response.md) before it ran. Used is a cut that costs more than 5 % of "
        "the skill: what a network gains over the best constant and the best line through the "
        "image, or mean F1 over the labels or classes beyond the best constant, on "
        f"{TEST} test images, by hooks. Images are {IMAGES} others, without labels. "
        f"Together: variance of the sum of the channels beside the sum of their variances on dead "
        f"leaves / on images (above {COMMON} they may be numbers). Verdicts by the model alone / "
        "by images, with the rule; in brackets what was said without it. The last six were trained "
        "when the border had failed.",
        "",
        "| network | kind | read as | certainty | together | skill | without | skill lost "
        "| verdicts |",
        "|" + " --- |" * 9,
    ]
    for row in rows:
        seen = [row["synthetic"], row["images"]]
        read = " / ".join("decisions" if s["decides"] else "numbers" for s in seen)
        sure, common = (" / ".join(f"{s[k]:.2f}" for s in seen) for k in ("certainty", "common"))
        for level, lost in row["levels"].items():
            share = f"{lost['lost']:.0%} ({lost['low']:.0%} to {lost['high']:.0%})"
            text.append(
                f"| {row['name']} | {row['kind']} | {read} | {sure} | {common} "
                f"| {row['skill']:.2f} | {level} and deeper "
                f"| {share if row['skill'] >= SKILLED else 'no skill'} "
                f"| {verdicts_of(row, level)} |"
            )
    with written_atomically(path) as temporary:
        temporary.write_text("\n".join([*text, ""]))


def main(arguments: list[str] | None = None) -> None:
    """Run all and write the page."""
    run_cases("channels", __doc__ or "", CASES, measure, write, arguments)


if __name__ == "__main__":
    main()
