"""The study's sizes and the list of its jobs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import torch

from mpseg_models import get_config
from studies.runner import Job
from studies.sand.augmentation import Augmentation
from studies.sand.fitting import (
    CODE,
    DRAWING_CODE,
    FOLDS,
    VERSION,
    Config,
    Cut,
    Drawing,
    Fit,
    RandomChannels,
    build,
    cut,
    draw,
    fit,
    thin_out,
)
from studies.sand.photos import CODE as READING_CODE
from studies.sand.photos import Reading, Survey, read
from studies.sand.scenes import SceneSettings
from studies.sand.tables import NAMES
from studies.sand.tiles import count_tiles
from studies.sand.training import TrainingSettings
from weightscope.cost import count_costs

PAPER_DECAYS = 150 * -(-4447 // 8) // 800
"""How often the paper's schedule multiplies the learning rate by 0.96 in its 150 epochs of 4,447
tiles; shorter trainings fall as far in all."""

SAND = SceneSettings(plastic=3e-4, contrast=0.2)
"""0.9 % plastic (the paper: below 1 %), and no particle that nobody could see: a mask painted by
hand has none."""


@dataclass(frozen=True)
class Network:
    """A network of the study: a row of its tables.

    Attributes:
        key: Names its jobs and files.
        label: Names it in tables.
        zoo: The zoo's name of its design.
        paper_loss: Train it with the loss of eq. 25-29 whatever the preset says.
    """

    key: str
    label: str
    zoo: str
    paper_loss: bool = False


QUARTER = "quarter_multiresunet"
BY_WORTH = (QUARTER, "half_multiresunet", "half_unet", "unet", "multiresunet")
NETWORKS = tuple(Network(name, NAMES[name], name) for name in BY_WORTH)
PAPER_LOSS = Network(
    f"{QUARTER}-eq25", f"{NAMES[QUARTER]}, loss of eq. 25-29", QUARTER, paper_loss=True
)
NARROW = Network(f"{QUARTER}-narrow", f"{NAMES[QUARTER]}, narrow", QUARTER)
WIDE = Network(f"{QUARTER}-wide", f"{NAMES[QUARTER]}, wide", QUARTER)
EXTRAS = (PAPER_LOSS, NARROW, WIDE)


@dataclass(frozen=True)
class Preset:
    """How large the study is.

    Attributes:
        name: As on the command line.
        photos: Synthetic photographs.
        photo_size: Their side in pixels.
        tile: Side of a tile.
        overlap: Pixels that neighbouring tiles share.
        most_tiles: No more training tiles than this; validation and test in proportion.
        folds: How many of the five folds are run.
        widths: Channels of the first stage, by the key of the network.
        epochs: Of every training from scratch.
        tuning: Epochs of a truncated network.
        augmentation: How tiles are moved.
        class_weight: Of plastic in the loss; None for the paper's (eq. 25, 26).
        bf16: Compute in bfloat16.
        batch_size: Tiles in a step; the paper does not give its own.
        scene: What lies in the sand.
    """

    name: str
    photos: int
    photo_size: int
    tile: int
    overlap: int
    most_tiles: int
    folds: int
    widths: Mapping[str, int]
    epochs: int
    tuning: int
    augmentation: Augmentation = field(default_factory=Augmentation)
    class_weight: float | None = None
    bf16: bool = True
    batch_size: int = 8
    scene: SceneSettings = SAND

    @property
    def training_tiles(self) -> int:
        """How many tiles a network is trained on at most."""
        per_photo = count_tiles((self.photo_size, self.photo_size), self.tile, self.overlap)
        rest = self.photos - self.photos // FOLDS
        return min(self.most_tiles, (rest - max(1, round(0.1 * rest))) * per_photo)

    def training(self, seed: int, epochs: int, paper_loss: bool = False) -> TrainingSettings:
        """Settings of a training; the learning rate falls over all of ``self.epochs``."""
        steps = -(-self.training_tiles // self.batch_size) * self.epochs
        return TrainingSettings(
            epochs=epochs,
            batch_size=self.batch_size,
            decay_steps=max(1, steps // PAPER_DECAYS),
            seed=seed,
            augmentation=self.augmentation,
            class_weight=None if paper_loss else self.class_weight,
            bf16=self.bf16,
        )


FLIPS = Augmentation(shift=0.0, degrees=0.0)
"""Photographs that cost nothing to draw need no more: a turned tile is blurred, and a third of it
is filled with the mean colour."""


def _widths(unet: int, multires: int, smaller: int, *, narrow: int, wide: int) -> dict[str, int]:
    """Channels of the first stage: of both U-Nets, of MultiResUNet and its smaller forms."""
    return {
        "unet": unet,
        "half_unet": unet,
        "multiresunet": multires,
        "half_multiresunet": smaller,
        QUARTER: smaller,
        NARROW.key: narrow,
        WIDE.key: wide,
    }


PRESETS = {
    preset.name: preset
    for preset in (
        Preset(
            name="quick",
            photos=60,
            photo_size=168,
            tile=64,
            overlap=12,
            most_tiles=400,
            folds=1,
            widths=_widths(8, 8, 16, narrow=4, wide=16),
            epochs=12,
            tuning=4,
            augmentation=FLIPS,
            class_weight=5.0,
        ),
        Preset(
            name="cpu",
            photos=300,
            photo_size=256,
            tile=96,
            overlap=16,
            most_tiles=1944,
            folds=5,
            widths=_widths(16, 16, 32, narrow=16, wide=64),
            epochs=8,
            tuning=3,
            augmentation=FLIPS,
            class_weight=5.0,
        ),
        Preset(
            name="paper",
            photos=386,
            photo_size=1440,
            tile=512,
            overlap=100,
            most_tiles=6176,
            folds=5,
            widths=_widths(64, 52, 32, narrow=32, wide=128),
            epochs=150,
            tuning=45,
            bf16=False,
        ),
    )
}


def tile_job(preset: Preset, seed: int) -> Job:
    """The job that draws the photographs and cuts them."""
    per_photo = count_tiles((preset.photo_size, preset.photo_size), preset.tile, preset.overlap)
    return Job(
        name="tiles",
        work=draw,
        settings=Drawing(
            preset.photos, preset.photo_size, preset.tile, preset.overlap, seed, preset.scene
        ),
        files=("images.npy", "masks.npy", "tiles.json"),
        code=DRAWING_CODE,
        bytes=4 * preset.photos * per_photo * preset.tile**2,
    )


def photo_job(preset: Preset, found: Survey, stamp: str) -> Job:
    """The job that cuts the user's photographs.

    Args:
        preset: How large the study is.
        found: What was understood of the photographs.
        stamp: Digest of all files: changed photographs are another study.
    """
    counts = [count_tiles(shape, preset.tile, preset.overlap) for shape in found.shapes]
    return Job(
        name="tiles",
        work=read,
        settings=Reading(found, preset.tile, preset.overlap, stamp),
        files=("images.npy", "masks.npy", "tiles.json"),
        code=READING_CODE,
        bytes=4 * sum(counts) * preset.tile**2,
    )


def training_jobs(preset: Preset, seed: int, tiles: Job) -> dict[tuple[str, int], Job]:
    """Every training from scratch, by network and fold, the most valuable first.

    One fold after the other: a study that is cut short has whole folds. The quarter with other
    losses and widths comes after the paper's five networks.
    """
    extras = tuple(network for network in EXTRAS if _differs(network, preset))
    order = [(network, fold) for fold in range(preset.folds) for network in NETWORKS]
    order += [(network, fold) for network in extras for fold in range(preset.folds)]
    order.sort(key=lambda entry: (entry[1], entry[0] in extras))
    return {
        (network.key, fold): _job(
            f"{network.key}-{fold}",
            fit,
            fit_settings(network, preset, fold, seed),
            (tiles,),
            preset,
        )
        for network, fold in order
    }


@dataclass(frozen=True)
class CutJobs:
    """What is trained on after a network was analysed.

    Attributes:
        tuned: The cut network with the weights that it kept.
        redrawn: The same with all weights drawn anew.
        thinned: The whole network without channels drawn at random, as many as bring it to the
            multiply-accumulates of the cut.
    """

    tuned: Job
    redrawn: Job
    thinned: Job

    @property
    def labelled(self) -> tuple[tuple[Job, str], ...]:
        """Each with what the tables add to the network's name."""
        return (
            (self.tuned, "cut"),
            (self.redrawn, "cut, weights redrawn"),
            (self.thinned, "random channels"),
        )


def cut_jobs(whole: Job, keep_levels: int, preset: Preset, tiles: Job) -> CutJobs:
    """A trained network cut, and its rivals, all trained on for equally long."""
    fit: Fit = whole.settings
    training = preset.training(fit.training.seed, preset.tuning)

    def job(name: str, work: Callable[..., Any], settings: Cut | RandomChannels) -> Job:
        name = f"{fit.network}-{name}{keep_levels}-{fit.fold}"
        return _job(name, work, settings, (tiles, whole), preset)

    return CutJobs(
        tuned=job("keep", cut, Cut(fit, keep_levels, False, training)),
        redrawn=job("redrawn", cut, Cut(fit, keep_levels, True, training)),
        thinned=job("random", thin_out, RandomChannels(fit, keep_levels, training)),
    )


def fit_settings(network: Network, preset: Preset, fold: int, seed: int) -> Fit:
    """Settings of a training from scratch."""
    return Fit(
        network=network.key,
        config=network_config(network, preset, seed + fold),
        fold=fold,
        seed=seed,
        most_tiles=preset.most_tiles,
        training=preset.training(seed, preset.epochs, network.paper_loss),
    )


def network_config(network: Network, preset: Preset, seed: int) -> Config:
    """What a network of the study is made of."""
    width = preset.widths.get(network.key, preset.widths[network.zoo])
    return get_config(network.zoo, width=width, seed=seed)


def _differs(network: Network, preset: Preset) -> bool:
    """Whether an extra row is another training than the row of the paper's network."""
    same_width = network.key not in preset.widths or (
        preset.widths[network.key] == preset.widths[network.zoo]
    )
    same_loss = not network.paper_loss or preset.class_weight is None
    return not (same_width and same_loss)


def _job(
    name: str,
    work: Callable[..., Any],
    settings: Fit | Cut | RandomChannels,
    needs: tuple[Job, ...],
    preset: Preset,
) -> Job:
    whole = settings if isinstance(settings, Fit) else settings.whole
    # three forward passes' worth a step, and two for validation and test
    passes = 3 * settings.training.epochs * preset.training_tiles + 0.5 * preset.training_tiles
    macs, parameters = network_costs(whole.config, preset.tile)
    return Job(
        name=name,
        work=work,
        settings=settings,
        needs=needs,
        files=("weights.safetensors", "checkpoint.pt"),
        code=CODE,
        version=VERSION,
        flops=2 * macs * passes,
        bytes=28 * parameters,  # weights, their start, two moments, the walk, and a copy
    )


@cache
def network_costs(config: Config, tile: int) -> tuple[int, int]:
    """Multiply-accumulates of one tile, and parameters."""
    with torch.device("meta"):
        costs = count_costs(build(replace(config, seed=None)), torch.zeros(1, 3, tile, tile))
    return costs.macs, costs.parameters
