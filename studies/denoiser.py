"""Which levels does a trained denoiser use at which noise level, and what is left after a cut?

``python studies/denoiser.py`` trains a small denoiser like DRUNet (Zhang et al. 2021): an image and
a map of its noise go in; residual blocks without normalisation, strided and transposed
convolutions, added skips. Photos are those of the evidence study. Then every level is ablated at
each noise level, and every depth is cut and recovered without clean images.
"""

from __future__ import annotations

import argparse
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from studies.evidence_protocol.tasks import TASKS, make_pool  # noqa: E402
from weightscope import ablate, analyze  # noqa: E402

SIZE, WIDTH, STEPS, BATCH, RECOVERY = 48, 12, 1500, 8, 400
SIGMAS = (0.02, 0.05, 0.1, 0.2, 0.4)


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(self.conv1(x).relu())


class Denoiser(nn.Module):
    """A U-net of residual blocks whose skips are added; it returns the clean image.

    Args:
        width: Channels at full resolution; each level doubles them.
        levels: Number of levels.
    """

    def __init__(self, width: int = WIDTH, levels: int = 4) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(levels)]
        pairs = list(pairwise(widths))
        self.head = nn.Conv2d(4, width, 3, padding=1)
        self.encoder = nn.ModuleList(_Residual(w) for w in widths)
        self.down = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2) for a, b in pairs)
        self.up = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, stride=2) for a, b in pairs)
        self.decoder = nn.ModuleList(_Residual(w) for w in widths[:-1])
        self.tail = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, image: Tensor, noise: Tensor) -> Tensor:
        """Denoise.

        Args:
            image: (B, 3, H, W).
            noise: (B, 1, H, W): standard deviation of the noise at each pixel.
        """
        x = self.head(torch.cat([image, noise], 1))
        skips = []
        for block, down in zip(self.encoder, self.down, strict=False):
            skips.append(block(x))
            x = down(skips[-1])
        x = self.encoder[-1](x)
        for block, up, skip in zip(
            reversed(self.decoder), reversed(self.up), reversed(skips), strict=True
        ):
            x = block(up(x) + skip)
        return image - self.tail(x)


def noisy(clean: Tensor, sigma: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
    """The arguments of a call: images under noise, and the map of its level."""
    level = sigma.view(-1, 1, 1, 1).expand(len(clean), 1, *clean.shape[2:])
    noise = torch.randn(clean.shape, generator=generator)
    return {"image": clean + level * noise, "noise": level.contiguous()}


def drawn(count: int, generator: torch.Generator) -> Tensor:
    """Noise levels between the first and the last of ``SIGMAS``, even in their logarithm."""
    low, high = np.log(SIGMAS[0]), np.log(SIGMAS[-1])
    return (low + (high - low) * torch.rand(count, generator=generator)).exp()


def train(clean: Tensor, steps: int, seed: int) -> Denoiser:
    """A denoiser trained on images under noise of all levels."""
    torch.manual_seed(seed)
    model, generator = Denoiser(), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        picked = clean[torch.randint(len(clean), (BATCH,), generator=generator)]
        turned = torch.rot90(picked, int(torch.randint(4, (1,), generator=generator)), (-2, -1))
        optimizer.zero_grad()
        loss = F.l1_loss(model(**noisy(turned, drawn(BATCH, generator), generator)), turned)
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()


@torch.no_grad()
def psnr(model: nn.Module, clean: Tensor, sigma: float) -> float:
    """Mean over images, in dB."""
    batch = noisy(clean, torch.full((len(clean),), sigma), torch.Generator().manual_seed(9))
    error = (model(**batch) - clean).square().flatten(1).mean(1)
    return float((-10 * error.log10()).mean())


def main() -> None:
    """Train, ablate, cut, recover; three tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--archives", type=Path, default=ROOT / "runs" / "evidence" / "archives")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "studies" / "denoiser")
    parser.add_argument("--steps", type=int, default=STEPS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    task: Any = TASKS["denoise"]
    learn, test = (
        make_pool(task, part, SIZE, count, 7, options.archives, standard=False).targets
        for part, count in (("train", 160), ("test", 80))
    )
    model = train(learn, options.steps, seed=0)
    generator = torch.Generator().manual_seed(3)
    images = [noisy(part, drawn(len(part), generator), generator) for part in learn.split(16)]
    analysis = analyze(model, example_inputs=noisy(test[:4], drawn(4, generator), generator))
    analysis.stages.to_csv(options.out / "stages.csv", index=False, float_format="%.4g")
    _ablated(model, test).to_csv(options.out / "levels.csv", index=False, float_format="%.4g")
    rows = [_row("whole", model, test, analysis.costs, analysis.costs)]
    for proposal in sorted(analysis.proposals, key=lambda p: -p.keep_levels):
        if proposal.refusal is not None:
            continue
        torch.manual_seed(0)
        small, name = proposal.build(), f"{proposal.keep_levels} levels"
        rows.append(_row(f"{name}, just cut", small.module, test, small.costs, analysis.costs))
        small.recover(images, steps=RECOVERY, progress=False)
        rows.append(_row(f"{name}, recovered", small.module, test, small.costs, analysis.costs))
        pd.DataFrame(rows).to_csv(options.out / "cuts.csv", index=False, float_format="%.4g")


def _row(name: str, module: nn.Module, test: Tensor, costs: Any, whole: Any) -> dict[str, Any]:
    return {
        "network": name,
        "macs": costs.macs / whole.macs,
        "parameters": costs.parameters / whole.parameters,
        **{f"psnr at {sigma}": psnr(module.eval(), test, sigma) for sigma in SIGMAS},
    }


def _ablated(model: nn.Module, test: Tensor) -> pd.DataFrame:
    """PSNR lost at each noise level when everything below a cut returns its mean."""
    frames = []
    for sigma in SIGMAS:
        generator = torch.Generator().manual_seed(9)
        batch = noisy(test, torch.full((len(test),), sigma), generator)
        found = ablate(model, [(batch, test)], "psnr", resamples=200, progress=False)
        frames.append(found.assign(sigma=sigma, noisy=-20 * np.log10(sigma)))
    return pd.concat(frames)


if __name__ == "__main__":
    main()
