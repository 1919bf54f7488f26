"""The jobs of the study: draw the tiles, train a network, cut one and train it on.

Each is a function of frozen settings that leaves its files in a folder (see `studies.runner`).
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from mpseg_models.blocks import initialize
from mpseg_models.multiresunet import MultiResUNet, MultiResUNetConfig
from mpseg_models.unet import UNet, UNetConfig
from studies.runner import Place
from studies.sand.metrics import EDGES, Tally, evaluate, measure, tally
from studies.sand.scenes import SceneSettings
from studies.sand.tiles import (
    Indices,
    Split,
    Tiles,
    draw_photos,
    open_tiles,
    split_photos,
    store_tiles,
    thin,
)
from studies.sand.training import TrainingSettings, train
from weightscope.cost import count_costs

FOLDS = 5
CODE = (
    "mpseg_models.blocks",
    "mpseg_models.multiresunet",
    "mpseg_models.unet",
    "studies.sand.augmentation",
    "studies.sand.fitting",
    "studies.sand.losses",
    "studies.sand.training",
)
"""Modules that decide what a training comes to. The metrics only measure it, and tests hold their
values."""

VERSION = 1
"""Of what these modules compute; results of another version are not taken for these."""

DRAWING_CODE = ("studies.sand.scenes",)

Config = UNetConfig | MultiResUNetConfig


@dataclass(frozen=True)
class Drawing:
    """Synthetic photographs and how they are cut.

    Attributes:
        photos: How many.
        size: Their side in pixels.
        tile: Side of a tile.
        overlap: Pixels that neighbouring tiles share.
        seed: Seed of the scenes.
        scene: How many things lie in the sand.
    """

    photos: int
    size: int
    tile: int
    overlap: int
    seed: int
    scene: SceneSettings


@dataclass(frozen=True)
class Fit:
    """A training from scratch, and its test.

    Attributes:
        network: Names the network in the tables.
        config: What it is made of, its seed included.
        fold: Which fold is for test.
        seed: Seed of the folds.
        most_tiles: No more training tiles than this.
        training: How it is trained.
    """

    network: str
    config: Config
    fold: int
    seed: int
    most_tiles: int
    training: TrainingSettings


@dataclass(frozen=True)
class Cut:
    """A trained network without its deepest levels, trained on.

    Attributes:
        whole: How the whole network was trained.
        keep_levels: Levels that stay.
        redrawn: Draw every weight anew before the training, to see what the kept ones are worth.
        training: How the cut network is trained.
    """

    whole: Fit
    keep_levels: int
    redrawn: bool
    training: TrainingSettings


@dataclass(frozen=True)
class RandomChannels:
    """A trained network without channels drawn at random, trained on.

    Attributes:
        whole: How the whole network was trained.
        keep_levels: Levels that the cut network keeps whose multiply-accumulates this one has.
        training: How what is left is trained.
    """

    whole: Fit
    keep_levels: int
    training: TrainingSettings


def draw(settings: Drawing, place: Place) -> dict[str, Any]:
    """Draw photographs and cut them into tiles."""
    shapes = [(settings.size, settings.size)] * settings.photos
    photos = draw_photos(settings.photos, settings.size, settings.seed, settings.scene)
    tiles = store_tiles(place.folder, photos, shapes, settings.tile, settings.overlap, "drawn")
    return {"tiles": len(tiles.photos), "plastic": float(tiles.masks.mean())}


def fit(settings: Fit, place: Place) -> dict[str, Any]:
    """Train a network from scratch and test it."""
    model = build(settings.config)
    return _train_and_test(model, settings, settings.training, place)


def cut(settings: Cut, place: Place) -> dict[str, Any]:
    """Cut a trained network and train what is left."""
    (whole,) = (folder for name, folder in place.needs.items() if name != "tiles")
    model = build_cut(settings, load_trained(settings.whole.config, whole))
    return _train_and_test(model, settings.whole, settings.training, place)


def thin_out(settings: RandomChannels, place: Place) -> dict[str, Any]:
    """Take channels out of a trained network at random and train what is left."""
    (whole,) = (folder for name, folder in place.needs.items() if name != "tiles")
    model = build_thinned(settings, load_trained(settings.whole.config, whole))
    return _train_and_test(model, settings.whole, settings.training, place)


def build(config: Config) -> nn.Module:
    """Create a network of the zoo with its initial weights."""
    return UNet(config) if isinstance(config, UNetConfig) else MultiResUNet(config)


def build_cut(settings: Cut, whole: nn.Module) -> nn.Module:
    """Build the cut network with the weights that it starts from."""
    from weightscope.analysis import analyze

    seed = settings.whole.config.seed or 0
    proposals = analyze(whole.eval()).proposals
    (proposal,) = (p for p in proposals if p.keep_levels == settings.keep_levels)
    torch.manual_seed(seed)
    # not dilated, as the bottlenecks of the paper's reduced networks
    model = copy.deepcopy(proposal.build(reach=1).module)
    if settings.redrawn:
        initialize(model, seed)
    return model


def build_thinned(settings: RandomChannels, whole: nn.Module) -> nn.Module:
    """Build the network without channels, as cheap as the cut one."""
    from weightscope.analysis import analyze

    analysis = analyze(whole.eval(), response=False)
    (rival,) = (p for p in analysis.proposals if p.keep_levels == settings.keep_levels)
    seed = settings.whole.config.seed or 0
    thinned = analysis.whole.thin(max_macs=rival.macs, by="random", seed=seed)
    return copy.deepcopy(thinned.module)


def load_trained(config: Config, folder: Path) -> nn.Module:
    """Create a network with the weights that a finished job left in ``folder``."""
    from safetensors.torch import load_file

    model = build(config)
    model.load_state_dict(load_file(folder / "weights.safetensors"))
    return model.eval()


def choose_tiles(settings: Fit, tiles: Tiles) -> Split:
    """Split the tiles for a fold."""
    split = split_photos(tiles.photos, settings.fold, FOLDS, settings.seed)
    return thin(split, settings.most_tiles, settings.seed)


def _train_and_test(
    model: nn.Module, settings: Fit, training: TrainingSettings, place: Place
) -> dict[str, Any]:
    from safetensors.torch import save_file

    tiles = open_tiles(place.needs["tiles"])
    split = choose_tiles(settings, tiles)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device)
    run = train(model, tiles, split, training, place.folder / "checkpoint.pt", place.tell)
    model.eval()
    weights = {name: value.cpu().contiguous() for name, value in model.state_dict().items()}
    save_file(weights, place.folder / "weights.safetensors")
    side = tiles.masks.shape[-1]
    costs = count_costs(model.cpu(), torch.zeros(1, 3, side, side))
    model.to(device)
    clock = time.process_time()
    validation = evaluate(model, tiles.batches(split.validation, training.batch_size))
    place.tell("testing")
    photos, tallies = tally_photos(model, tiles, split.test, training.batch_size)
    return {
        "parameters": costs.parameters,
        "macs": costs.macs,
        "steps": run.history.steps,
        "device": "cpu" if device.type == "cpu" else torch.cuda.get_device_name(device),
        "processor_seconds": run.processor_seconds,
        "test_processor_seconds": time.process_time() - clock,
        "threshold": validation.best_threshold,
        "validation": asdict(validation),
        "test": asdict(measure(sum_tallies(tallies))),
        "photos": [int(photo) for photo in photos],
        "outcomes": {
            str(threshold): [list(outcomes(counts, threshold)) for counts in tallies]
            for threshold in (0.5, validation.best_threshold)
        },
        "epochs": [asdict(epoch) for epoch in run.epochs],
    }


def tally_photos(
    model: nn.Module, tiles: Tiles, indices: Indices, batch_size: int
) -> tuple[Indices, list[Tally]]:
    """Count the pixels of each photograph's tiles apart, for a bootstrap over photographs."""
    photos = np.unique(tiles.photos[indices])
    device = next(model.parameters()).device
    tallies = []
    with torch.no_grad():
        for photo in photos:
            own = indices[tiles.photos[indices] == photo]
            parts = [
                tally(model(images.to(device)), masks)
                for images, masks in tiles.batches(own, batch_size)
            ]
            tallies.append(sum_tallies(parts))
    return photos, tallies


def sum_tallies(tallies: Iterable[Tally]) -> Tally:
    """Add tallies up."""
    zero = np.zeros(len(EDGES) - 1, np.int64)
    total = Tally(zero, zero)
    for counts in tallies:
        total = total + counts
    return total


def outcomes(counts: Tally, threshold: float) -> tuple[int, int, int]:
    """Return hits, false alarms and misses, in pixels, above a threshold (a probability)."""
    logit = np.log(threshold / (1 - threshold))
    first = int(np.searchsorted(EDGES, logit - 1e-9))
    hits, alarms = int(counts.plastic[first:].sum()), int(counts.sand[first:].sum())
    return hits, alarms, int(counts.plastic.sum()) - hits
