"""How fast the trainings of a preset run on this machine's graphics card.

python -m studies.sand.speed [--preset paper] [--steps 20] [--out FILE.csv]

Real training steps (augmentation, forward, loss, backward, Adam) on random tiles: what reading
tiles from the disk and the pass over the validation tiles add is not in it.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from studies.sand.fitting import build
from studies.sand.plan import (
    NETWORKS,
    PRESETS,
    WIDE,
    Network,
    Preset,
    network_config,
    network_costs,
)
from studies.sand.tables import markdown
from studies.sand.training import training_step
from weightscope.files import write_csv

ARITHMETIC = ("float32", "TF32", "bfloat16")
"""TF32, 10 bits of mantissa in the products of convolutions, is what PyTorch does by itself on
cards that have it."""


def measure(network: Network, preset: Preset, arithmetic: str, steps: int) -> dict[str, Any]:
    """Train a network for some steps on the card; return a row of the table."""
    device = torch.device("cuda")
    config = network_config(network, preset, 0)
    model = build(config).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, eps=1e-7)
    generator = torch.Generator().manual_seed(0)
    shape = (preset.batch_size, 3, preset.tile, preset.tile)
    tiles = torch.rand(shape, generator=generator).to(device)
    truth = (torch.rand(shape, generator=generator)[:, :1] < 0.01).float().to(device)
    fill = torch.full((3,), 0.5)
    settings = replace(preset.training(0, preset.epochs), bf16=arithmetic == "bfloat16")
    torch.cuda.reset_peak_memory_stats()

    def step() -> None:
        training_step(model, optimizer, tiles, truth, settings, fill, generator)

    with _tf32(arithmetic == "TF32"):
        for _ in range(3):  # libraries choose their kernels
            step()
        torch.cuda.synchronize()
        begun = time.perf_counter()
        for _ in range(steps):
            step()
        torch.cuda.synchronize()
    speed = steps * preset.batch_size / (time.perf_counter() - begun)
    macs, _ = network_costs(config, preset.tile)
    return {
        "network": network.label,
        "arithmetic": arithmetic,
        "tiles per second": speed,
        "TFLOP/s": 6 * macs * speed / 1e12,
        "memory (GB)": torch.cuda.max_memory_allocated() / 1e9,
        "hours per training": preset.epochs * preset.training_tiles / speed / 3600,
    }


@contextmanager
def _tf32(enabled: bool) -> Any:
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = enabled
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure every network of the preset; print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", choices=tuple(PRESETS), default="paper")
    parser.add_argument("--steps", type=int, default=20, help="timed steps of each network")
    parser.add_argument("--out", type=Path, help="file for the table, as CSV")
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print("error: this machine has no CUDA device that PyTorch sees", file=sys.stderr)
        return 2
    rows = []
    for network in (*NETWORKS, WIDE):
        for arithmetic in ARITHMETIC:
            rows.append(measure(network, PRESETS[options.preset], arithmetic, options.steps))
            print({k: v if isinstance(v, str) else round(v, 2) for k, v in rows[-1].items()})
            torch.cuda.empty_cache()
    table = pd.DataFrame(rows)
    print(
        f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}, batch "
        f"{PRESETS[options.preset].batch_size}\n\n{markdown(table.round(2))}"
    )
    if options.out is not None:
        write_csv(table, options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
