"""Is a restoration compared with its image, whatever shape that has? Thirteen fresh networks.

    python studies/shapes.py [--out runs/evidence-shapes]
        [--page docs/studies/evidence/shapes.md]

The tasks are none of the evidence study's. docs/decisions/response.md says what counts as a
failure, and was written before this ran. Every network is analysed twice: with the channel of the
inputs that an output follows most as the image that it has to beat, and with none where no input
has the output's shape.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from unittest import mock

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np  # noqa: E402
import torch  # noqa: E402
from scipy import ndimage  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

import weightscope as ws  # noqa: E402
from studies.evidence_protocol.tasks import Pool  # noqa: E402
from studies.evidence_protocol.truth import measure_truth  # noqa: E402
from studies.restorers import Array, by_pixel, scene  # noqa: E402
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
    layer,
    run_cases,
    taps,
    together,
    trained,
    write_page,
)
from weightscope.graph import read_structure  # noqa: E402
from weightscope.probing.nearest import Nearest  # noqa: E402

Kind = Literal["restorer", "bright", "depth"]
KINDS: tuple[Kind, ...] = ("restorer", "bright", "depth")
GRADES = ("response", "images", "data")
Draw = Callable[[np.random.Generator], tuple[Array, Array]]


def _noise(rng: np.random.Generator, image: Array, size: float) -> Array:
    return size * rng.standard_normal(image.shape)


def beside_its_noise(rng: np.random.Generator) -> tuple[Array, Array]:
    """A noisy image beside a map of how large the noise is; the image."""
    image, *_ = scene(rng)
    size = np.full(image.shape, rng.uniform(0.1, 0.7))
    return np.stack([image + size * rng.standard_normal(image.shape), size]), image[None]


def behind_a_mask(rng: np.random.Generator) -> tuple[Array, Array]:
    """Where bands are missing, and an image without them; the image."""
    image, *_ = scene(rng)
    kept = np.ones(image.shape)
    for _ in range(5):
        start = int(rng.integers(0, image.shape[0] - 5))
        kept[start : start + 5] = 0.0
    return np.stack([kept, image * kept + _noise(rng, image, 0.05)]), image[None]


def of_three_frames(rng: np.random.Generator) -> tuple[Array, Array]:
    """Three noisy frames of what moves; the middle one."""
    image, *_ = scene(rng)
    step = rng.uniform(-2, 2, 2)
    frames = [ndimage.shift(image, k * step, order=1, mode="nearest") for k in (-1, 0, 1)]
    return np.stack([frame + _noise(rng, frame, 0.4) for frame in frames]), image[None]


def at_half_the_size(rng: np.random.Generator) -> tuple[Array, Array]:
    """A small image with a little noise; the large one."""
    image, *_ = scene(rng)
    small = image.reshape(image.shape[0] // 2, 2, image.shape[1] // 2, 2).mean((1, 3))
    return (small + _noise(rng, small, 0.1))[None], image[None]


def _colours(rng: np.random.Generator, image: Array, size: float) -> Array:
    """Three colours of a scene, each of its own strength and noise."""
    strengths = rng.uniform(0.6, 1.4, 3)
    return np.stack([s * image + _noise(rng, image, size) for s in strengths])


def grey_of_colours(rng: np.random.Generator) -> tuple[Array, Array]:
    """A blurred image in three colours; the sharp one in grey."""
    image, *_ = scene(rng)
    soft = ndimage.gaussian_filter(image, 1.2)
    return _colours(rng, soft, 0.1), image[None]


def two_of_one(rng: np.random.Generator) -> tuple[Array, Array]:
    """A noisy image; the image, and its negative without what is small."""
    image, *_ = scene(rng)
    ground = ndimage.gaussian_filter(image, 3)
    return (image + _noise(rng, image, 0.4))[None], np.stack([image, -ground])


def bright_in_colours(rng: np.random.Generator) -> tuple[Array, Array]:
    """A noisy image in three colours; what is bright."""
    image, mask, _ = scene(rng)
    return _colours(rng, image, 0.4), mask[None].astype(float)


def bright_and_large_in_colours(rng: np.random.Generator) -> tuple[Array, Array]:
    """A noisy image in three colours; what is bright and large."""
    image, _, mask = scene(rng)
    return _colours(rng, image, 0.3), mask[None].astype(float)


def plainly_bright_in_colours(rng: np.random.Generator) -> tuple[Array, Array]:
    """An image in three colours with hardly any noise; what is brighter than 0.6."""
    image, *_ = scene(rng)
    return _colours(rng, image, 0.05), (image > 0.6)[None].astype(float)


def heights_from_colours(rng: np.random.Generator) -> tuple[Array, Array]:
    """An image in three colours; how deep inside of something bright each point lies."""
    image, mask, _ = scene(rng)
    inside, outside = ndimage.distance_transform_edt(mask), ndimage.distance_transform_edt(~mask)
    depth = np.tanh(np.where(mask, inside, -outside) / 6) * 2
    return _colours(rng, image, 0.2), depth[None]


def metres_beside_a_ramp(rng: np.random.Generator) -> tuple[Array, Array]:
    """An image beside the height of each row; the distance to something bright."""
    image, mask, _ = scene(rng)
    far = ndimage.distance_transform_edt(~mask) if mask.any() else np.full(mask.shape, 24.0)
    ramp = np.broadcast_to(np.linspace(-1, 1, len(image))[:, None], image.shape)
    given = np.stack([ramp, image + _noise(rng, image, 0.2)])
    return given, (np.minimum(far, 24.0) / 10)[None]


def pool(draw: Draw, n: int, seed: int) -> Pool:
    """Images and targets, with their channels."""
    pairs = [draw(np.random.default_rng([77, seed, index])) for index in range(n)]
    x, y = (torch.from_numpy(np.stack(part)).float() for part in zip(*pairs, strict=True))
    return Pool(x, y)


class Adding(Net):
    """Adds what it finds to one of its channels."""

    channel = 0

    def forward(self, x: Tensor) -> Tensor:
        """As large as the image."""
        return x[:, self.channel : self.channel + 1] + super().forward(x)


class AddingToTheMiddle(Adding):
    """The same of the second of three frames, and of the image behind a mask."""

    channel = 1


class Doubling(Net):
    """Four answers for each position, as a square of four."""

    def forward(self, x: Tensor) -> Tensor:
        """Twice as large as the image."""
        return F.pixel_shuffle(super().forward(x), 2)


class DoublingAndAdding(Doubling):
    """The same beside the image enlarged."""

    def forward(self, x: Tensor) -> Tensor:
        """Twice as large as the image."""
        return F.interpolate(x, scale_factor=2.0, mode="bilinear") + super().forward(x)


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
        image: What a restoration has to beat, in the shape of its targets.
        make: Makes the network.
        inputs: Channels of the image.
        outputs: Channels of the answer of the network inside.
        levels: Number of levels.
    """

    name: str
    kind: Kind
    draw: Draw
    net: tuple[Any, ...]
    loss: Loss
    optimizer: Optimizer
    image: Callable[[Tensor], Tensor]
    make: type[Net] = Net
    inputs: int = 2
    outputs: int = 1
    levels: int = 4

    def build(self) -> Net:
        """The network with random weights."""
        return self.make(self.outputs, 8, self.levels, *self.net, nn.Identity(), self.inputs)


def first(x: Tensor) -> Tensor:
    """The first channel."""
    return x[:, :1]


def second(x: Tensor) -> Tensor:
    """The second channel."""
    return x[:, 1:2]


def twice(x: Tensor) -> Tensor:
    """Both answers from the one channel; the line is one for both, so it is no good one."""
    return torch.cat([x, -x], 1)


def enlarged(x: Tensor) -> Tensor:
    """Twice as large."""
    return F.interpolate(x, scale_factor=2.0, mode="bilinear")


CASES = (
    Case("denoiser beside its noise", "restorer", beside_its_noise,
         (batch, nn.ReLU, "concatenate"), F.mse_loss, lambda p: torch.optim.NAdam(p, 4e-3), first),
    Case("denoiser beside its noise, adding", "restorer", beside_its_noise,
         (instance, nn.GELU, "add"), F.l1_loss, lambda p: torch.optim.Adamax(p, 6e-3), first,
         Adding),
    Case("fills bands", "restorer", behind_a_mask, (layer, nn.SiLU, "concatenate"), F.mse_loss,
         lambda p: torch.optim.RAdam(p, 6e-3), second),
    Case("fills bands, adding", "restorer", behind_a_mask, (batch, nn.LeakyReLU, "add"),
         F.huber_loss, lambda p: torch.optim.NAdam(p, 4e-3), second, AddingToTheMiddle),
    Case("middle of three frames", "restorer", of_three_frames, (batch, nn.SiLU, "add"),
         F.mse_loss, lambda p: torch.optim.Adamax(p, 8e-3), second, Net, 3),
    Case("middle of three frames, adding, 5 levels", "restorer", of_three_frames,
         (batch, nn.ReLU, "answers"), F.mse_loss, lambda p: torch.optim.RAdam(p, 6e-3), second,
         AddingToTheMiddle, 3, 1, 5),
    Case("doubles", "restorer", at_half_the_size, (batch, nn.ReLU, "concatenate"), F.l1_loss,
         lambda p: torch.optim.NAdam(p, 4e-3), enlarged, Doubling, 1, 4, 3),
    Case("doubles, adding", "restorer", at_half_the_size, (instance, nn.SiLU, "concatenate"),
         F.mse_loss, lambda p: torch.optim.RAdam(p, 6e-3), enlarged, DoublingAndAdding, 1, 4, 3),
    Case("sharp grey of colours", "restorer", grey_of_colours, (layer, nn.GELU, "add"),
         F.mse_loss, lambda p: torch.optim.Adamax(p, 8e-3), first, Net, 3),
    Case("bright in colours", "bright", bright_in_colours, (batch, nn.ReLU, "concatenate"),
         by_pixel, lambda p: torch.optim.NAdam(p, 4e-3), first, Net, 3),
    Case("plainly bright in colours", "bright", plainly_bright_in_colours,
         (batch, nn.SiLU, "add"), by_pixel, lambda p: torch.optim.RAdam(p, 6e-3), first, Net, 3),
    Case("heights from colours", "depth", heights_from_colours, (batch, nn.GELU, "concatenate"),
         F.mse_loss, lambda p: torch.optim.Adamax(p, 6e-3), first, Net, 3),
    Case("metres beside a ramp", "depth", metres_beside_a_ramp, (instance, nn.ReLU, "add"),
         F.huber_loss, lambda p: torch.optim.NAdam(p, 4e-3), second),
)  # fmt: skip


@contextmanager
def without_the_rule() -> Iterator[None]:
    """Nothing of the inputs is laid beside outputs of another shape."""
    with mock.patch.object(Nearest, "of", return_value=None):
        yield


RULES: Rules = {"without the rule": without_the_rule, "with the rule": nullcontext}


def said_of(
    model: Net, images: Tensor, labelled: Pool, kind: Kind, rules: Rules = RULES
) -> dict[str, Any]:
    """Verdict of each grade on each cut, by each rule; the levels count those of the network."""
    found: dict[str, Any] = {}
    metric = "f1" if kind == "bright" else "mse"
    enlarging = labelled.targets.shape[-1] // labelled.images.shape[-1] - 1
    for rule, holding in rules.items():
        found[rule] = {}
        with warnings.catch_warnings(), holding():
            warnings.simplefilter("ignore")
            example = read_structure(model, images[:1]).inputs.args
            analysis = ws.analyze(
                model, images=[images], batches=[(labelled.images, labelled.targets)],
                metric=metric, example_inputs=example, trained=True,
            )  # fmt: skip
        level = {s.name: s.level for s in analysis.structure.stages}
        for cut in analysis.structure.cuts:
            own = [v for v in analysis.assessment.verdicts if level[v.stage] >= cut.keep_levels]
            # what enlarges the image has a level more above it
            found[rule][str(cut.keep_levels - enlarging)] = {
                grade: together([s.verdict for v in own for s in v.scores if s.grade == grade])
                for grade in GRADES
            }
    return found


def measure(case: Case, index: int, folder: Path) -> dict[str, Any]:
    """Train, or load what was trained; measure the truth; ask the library."""

    def train(model: Net) -> None:
        given = pool(case.draw, TRAIN, 10 * index)
        fit(model, case.optimizer(model.parameters()), case.loss, given.images, given.targets)

    model = trained(case.build, train, index, folder / f"{index:02d}.pt")
    test = pool(case.draw, TEST, 10 * index + 1)
    kind = "binary" if case.kind == "bright" else "regression"
    image = case.image(test.images)
    found = measure_truth(model, taps(model), kind, test, case.loss, image)
    given = pool(case.draw, IMAGES, 10 * index + 2)
    with torch.no_grad():
        answers = model(test.images)
    pair = torch.stack([image.expand_as(answers).flatten(), answers.flatten()])
    said = said_of(model, given.images, given, case.kind)
    levels = {k: lost for k, lost in found["levels"].items() if k in said["with the rule"]}
    return {"name": case.name, "kind": case.kind, "follows": float(torch.corrcoef(pair)[0, 1]),
            "skill": found["skill"], "levels": levels, "said": said}  # fmt: skip


def failures(found: list[dict[str, Any]], grade: str = "") -> list[str]:
    """What was written down as a failure, in words; of what is withdrawn, of one grade if any."""
    failed = [
        f"{c['name']}, level {c['level']}, by {c['grade']}: called unused with the rule, "
        f"{c['lost']:.0%} of the skill is lost"
        for c in found
        if c["clear"] and c["used"] and c["after"] == "unused"
    ]
    asked = [c for c in found if grade in ("", c["grade"])]
    right = [c for c in asked if c["before"] == ("used" if c["used"] else "unused")]
    withdrawn = sum(c["after"] == "undecided" for c in right)
    if withdrawn > 0.1 * len(right):
        failed.append(f"{withdrawn} of {len(right)} right verdicts are withdrawn by the rule")
    return failed


def write(rows: list[dict[str, Any]], path: Path) -> None:
    """The page, failures first."""
    found = list(cuts(rows, GRADES))
    about = (
        "`python studies/shapes.py`. Networks whose tasks chose nothing, "
        f"trained for {STEPS} steps; what counts as a failure was [written down]"
        "(../../decisions/response.md) before it ran. Used is a cut that costs more than 5 % of "
        "the skill: what a network gains over the best constant and the best line through the "
        "image that it restores (for depths and masks the nearest there is), or F1 at the best "
        f"threshold over that of the best constant, on {TEST} test images, by hooks. Images are "
        f"{IMAGES} others. Follows: correlation of the answer with that image. Verdicts by the "
        "model alone / by images / by the squared error or F1 on them, with the rule; in brackets "
        "what was said without it."
    )
    write_page(
        path,
        "Restorations of another shape than their image",
        rows,
        found,
        failures(found),
        about,
        KINDS,
        grades=GRADES,
        figures=("follows", "skill"),
    )


def main(arguments: list[str] | None = None) -> None:
    """Run all and write the page."""
    run_cases("shapes", __doc__ or "", CASES, measure, write, arguments)


if __name__ == "__main__":
    main()
