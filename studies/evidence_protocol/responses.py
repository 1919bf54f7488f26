"""Raw candidates for a response: how much the answer changes on images that nobody labelled.

Measured by hooks of our own, so that forms can be compared before the library settles on one.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from studies.evidence_protocol import sources
from studies.evidence_protocol.designs import DESIGNS, Taps
from studies.evidence_protocol.jobs import Job
from studies.evidence_protocol.tasks import TASKS
from studies.evidence_protocol.training import archives, load_network, load_pool
from studies.evidence_protocol.truth import hooked, without_levels

COUNT = 8
PHOTOS = ("camera.png", "astronaut.png", "chelsea.png", "coffee.png", "moon.png", "coins.png",
          "cell.png", "retina.jpg")  # fmt: skip


def standardised(x: Tensor) -> Tensor:
    """Zero mean and unit spread over the whole batch."""
    return (x - x.mean()) / x.std()


def leaves(
    channels: int, size: int, seed: int, *, colour: bool = False, big: float = 0.5
) -> Tensor:
    """Dead leaves: overlapping discs, radii ~ r^-3 up to a share of the side, random grey."""
    g = torch.Generator().manual_seed(seed)
    x = torch.zeros(COUNT, channels, size, size)
    yy, xx = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    least = 1.5
    q = (least / (size * big)) ** 2
    for i in range(COUNT):
        for _ in range(150):
            u = torch.rand(3, generator=g)
            r = least / (u[0] * (1 - q) + q).sqrt()
            grey = torch.randn(channels if colour else 1, 1, generator=g)
            x[i][:, (yy - u[1] * size) ** 2 + (xx - u[2] * size) ** 2 < r * r] = grey
    noise = torch.randn(x.shape if colour else (COUNT, 1, size, size), generator=g)
    return standardised(x) + 0.1 * noise


def coloured_noise(channels: int, size: int, seed: int, power: float) -> Tensor:
    """Gaussian noise with a spectrum of 1 / f^power."""
    g = torch.Generator().manual_seed(seed)
    white = torch.randn(COUNT, 1, size, size, generator=g)
    f = torch.fft.fftfreq(size)[:, None].square() + torch.fft.rfftfreq(size).square()
    f[0, 0] = f[0, 1]
    x = torch.fft.irfft2(torch.fft.rfft2(white) * f.pow(-power / 2), s=(size, size))
    return standardised(x).expand(-1, channels, -1, -1).clone()


def photographs(channels: int, size: int, seed: int, archives: Path) -> Tensor:
    """Crops of real photos."""
    rng, crops = np.random.default_rng(seed), []
    for name in PHOTOS:
        image = sources.grey_photo(name, archives)
        if channels == 3 and sources.photo(name, archives).ndim == 3:
            image = sources.photo(name, archives)
        y, x = (int(rng.integers(0, n - size)) for n in image.shape[:2])
        crop = torch.from_numpy(image[y : y + size, x : x + size].copy())
        crops.append(crop.movedim(-1, 0) if crop.dim() == 3 else crop.expand(channels, -1, -1))
    return standardised(torch.stack(crops))


def matched(model: nn.Module, x: Tensor, steps: int = 40) -> Tensor | None:
    """Images on which every batch norm sees its running statistics; None without batch norms."""
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    if not norms:
        return None
    x = x.clone().requires_grad_(True)
    optimizer, terms = torch.optim.Adam([x], lr=0.05), []

    def term(module: Any, inputs: Any, _output: Any) -> None:
        y = inputs[0].transpose(0, 1).flatten(1)
        v = module.running_var + module.eps
        mean = ((y.mean(1) - module.running_mean) ** 2 / v).mean()
        terms.append(mean + (y.var(1) / v + 1e-3).log().pow(2).mean())

    with hooked(norms, term):
        for _ in range(steps):
            terms.clear()
            optimizer.zero_grad()
            model(x)
            torch.autograd.backward(sum(terms) / len(terms), inputs=[x])  # type: ignore[arg-type]
            optimizer.step()
    return x.detach()


def driven(model: nn.Module, x: Tensor, steps: int = 20) -> Tensor:
    """Images changed so that the answers vary more from place to place."""
    x = x.clone().requires_grad_(True)
    optimizer = torch.optim.Adam([x], lr=0.05)
    for _ in range(steps):
        optimizer.zero_grad()
        y = model(x).transpose(0, 1).flatten(1)
        goal = -(y.std(1) + 1e-6).log().mean() + 0.1 * x.square().mean()
        torch.autograd.backward(goal, inputs=[x])
        optimizer.step()
    return x.detach()


def stimuli(job: Job, model: nn.Module, archives: Path) -> dict[str, Callable[[], Tensor | None]]:
    """All kinds of images by name."""
    c, s = TASKS[job.task].channels, job.size
    grey = leaves(c, s, 0)
    validation = load_pool(job, "validation", archives).images
    return {
        "leaves": lambda: grey,
        "leaves_seed1": lambda: leaves(c, s, 1),
        "leaves_colour": lambda: leaves(c, s, 0, colour=True),
        "leaves_unit": lambda: (0.5 + 0.25 * grey).clamp(0, 1),
        "leaves_weak": lambda: 0.3 * grey,
        "leaves_strong": lambda: 3.0 * grey,
        "leaves_double": lambda: leaves(c, 2 * s, 0),
        "leaves_small": lambda: leaves(c, s, 0, big=0.12),
        "white": lambda: coloured_noise(c, s, 0, 0.0),
        "pink": lambda: coloured_noise(c, s, 0, 1.0),
        "photos": lambda: photographs(c, s, 0, archives),
        "photos_unit": lambda: 0.5 + 0.25 * photographs(c, s, 0, archives),
        "matched": lambda: matched(model, grey),
        "matched_pink": lambda: matched(model, coloured_noise(c, s, 0, 1.0)),
        "driven": lambda: driven(model, grey),
        "images": lambda: validation,
    }


def figures(whole: Tensor, cut: Tensor) -> dict[str, float]:
    """How far two answers differ, each between 0 and about 1."""
    one = whole.shape[1] == 1
    flips = ((cut > 0) != (whole > 0)) if one else cut.argmax(1) != whole.argmax(1)
    middle = whole.transpose(0, 1).flatten(1).median(1).values.view(1, -1, 1, 1)
    over = ((cut > middle) != (whole > middle)).float().mean()
    dims = (0, 2, 3)
    a, b = (t - t.mean(dims, keepdim=True) for t in (whole, cut))
    aa, bb = a.square().sum(dims), b.square().sum(dims)
    rho = (a * b).sum(dims) / (aa * bb).clamp(min=1e-20).sqrt()
    p, q = (t.sigmoid() if one else t.softmax(1) for t in (whole, cut))
    spread = (p - p.mean(dims, keepdim=True)).square().mean().sqrt()
    # each image by itself: what changes within images only
    a1, b1 = (t - t.mean((2, 3), keepdim=True) for t in (whole, cut))
    rho1 = (a1 * b1).sum((2, 3)) / (a1.square().sum((2, 3)) * b1.square().sum((2, 3))).clamp(
        min=1e-20
    ).sqrt()
    return {
        "flip": float(flips.float().mean()),
        "over": float(over),
        "corr": float(1 - rho.mean()),
        "corr_pooled": float(1 - (a * b).sum() / (aa.sum() * bb.sum()).clamp(min=1e-20).sqrt()),
        "corr_image": float(1 - rho1.mean()),
        "change": float(((a - b).square().sum() / aa.sum().clamp(min=1e-20)).sqrt()),
        "shift": float(((whole - cut).square().sum() / aa.sum().clamp(min=1e-20)).sqrt()),
        "chance": float((p - q).abs().sum(1).mean() / 2),
        "chance_relative": float((p - q).square().mean().sqrt() / spread.clamp(min=1e-6)),
        "spread": float(whole.std()),
        "level": float(whole.abs().mean()),
    }


def measure_responses(job: Job, folder: Path) -> list[dict[str, Any]]:
    """One row for each kind of images and reduction."""
    model = load_network(job, folder)
    taps: Taps = DESIGNS[job.design].taps(model)
    rows = []
    for name, make in stimuli(job, model, archives(folder)).items():
        images = make()
        if images is None:
            continue
        found = without_levels(model, taps, images)
        rows += [{"stimulus": name, "reduction": r} | figures(found[0], found[r]) for r in taps]
    return rows
