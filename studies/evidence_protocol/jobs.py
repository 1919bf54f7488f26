"""Which networks are trained, under which circumstances, and which of them may choose anything."""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from studies.evidence_protocol.designs import DESIGNS
from studies.evidence_protocol.tasks import TASKS

Half = Literal["choose", "judge", "new", "again", "third", "fourth", "fifth", "last", "newest"]

HELD_OUT = {
    "design": ("multiresunet", "pyramid", "layer", "instance"),
    "task": ("nuclei", "distance", "mosaic"),
    "optimizer": ("adamw_strong", "rmsprop", "lion"),
}
"""Circumstances that no form and no border was chosen on. A network with any of them judges, the
others choose. Fixed before the first network was scored."""

HALVES: dict[Half, str] = {
    "newest": "newest networks",
    "last": "networks trained last",
    "fifth": "fifth new networks",
    "fourth": "fourth new networks",
    "third": "third new networks",
    "again": "second new networks",
    "new": "first new networks",
    "judge": "judging half of the first networks",
    "choose": "choosing half of the first networks",
}
"""Sets of networks with their titles, those that chose least first."""

BEGIN: dict[Half, int] = {
    "newest": 544,
    "last": 416,
    "fifth": 352,
    "fourth": 288,
    "third": 224,
    "again": 104,
    "new": 64,
}
"""From these indices on networks were trained after every form and border had been settled, on the
scores of those before: they chose nothing of what stood then, whatever their circumstances."""

RATES = {
    "adam": (3e-4, 1e-2),
    "adamw": (3e-4, 1e-2),
    "sgd": (1e-2, 1e-1),
    "adamw_strong": (3e-4, 1e-2),
    "rmsprop": (3e-4, 3e-3),
    "lion": (1e-4, 1e-3),
}
"""Learning rates of each optimiser, drawn between these ends on a log scale."""

LEVELS: dict[str, Sequence[Any]] = {
    "design": tuple(DESIGNS),
    "task": tuple(TASKS),
    "optimizer": tuple(RATES),
    "schedule": ("cosine", "constant", "polynomial"),
    "start": ("scratch", "scratch", "finetuned", "scratch", "frozen_random", "scratch",
              "frozen_pretrained", "scratch", "dead"),
    "labels": ("true", "true", "true", "true", "none", "true", "true", "true", "shuffled"),
    "width": (8, 6, 8),
    "levels": (5, 4),
    "steps": (300, 200, 450),
    "size": (48, 48, 64),
    "standard": (True, False),
    "ema": (False, False, True, False, False),
    "early": (False, False, False, True),
    "rate": (0.1, 0.3, 0.5, 0.7, 0.9),
}  # fmt: skip
"""The values of every circumstance; a value that stands twice comes twice as often."""


@dataclass(frozen=True)
class Job:
    """One network to train.

    Attributes:
        index: Place in the list; also the seed of everything that is drawn.
        design: Key of `DESIGNS`.
        task: Key of `TASKS`.
        optimizer: Key of `RATES`.
        rate: Learning rate.
        schedule: Of the learning rate.
        start: ``scratch``, ``finetuned`` and ``frozen_pretrained`` (trained on `earlier` first),
            ``frozen_random`` (the encoder keeps its random weights), ``dead`` (the deepest stage of
            the encoder starts below its activation's threshold).
        earlier: The task of the pretraining, else empty.
        labels: ``true``, ``shuffled`` (targets of other images, drawn anew at every step) or
            ``none`` (not trained).
        width: Channels of the first level.
        levels: Number of levels.
        steps: Optimiser steps of the schedule.
        standard: Images of about zero mean and unit spread, else in 0..1.
        ema: The final weights are a running average.
        early: Stopped after 30 % of the steps.
        size: Side of the images.
    """

    index: int
    design: str
    task: str
    optimizer: str
    rate: float
    schedule: str
    start: str
    earlier: str
    labels: str
    width: int
    levels: int
    steps: int
    standard: bool
    ema: bool
    early: bool
    size: int

    @property
    def name(self) -> str:
        """Folder of the results: readable, and unique to these settings."""
        digest = hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()
        return f"{self.index:03d}-{self.design}-{self.task}-{self.optimizer}-{digest[:8]}"

    @property
    def half(self) -> Half:
        """Whether this network may choose forms and borders, judged earlier ones, or is new."""
        later: tuple[Half, ...] = tuple(
            half for half, first in BEGIN.items() if self.index >= first
        )
        return later[0] if later else "judge" if self.held_out else "choose"

    @property
    def held_out(self) -> tuple[str, ...]:
        """Which of its circumstances are held out."""
        return tuple(k for k, values in HELD_OUT.items() if getattr(self, k) in values)


def cycle(values: Sequence[Any], rng: random.Random) -> Iterator[Any]:
    """Go through all values in random order, again and again, each round in another order."""
    while True:
        yield from rng.sample(list(values), len(values))


def jobs(count: int) -> list[Job]:
    """The first jobs of an endless list; every prefix is a balanced sample.

    Jobs with an even index draw only from circumstances that may choose. The others take one
    held-out design, task or optimiser in turn, and the rest from all values.
    """
    rng = random.Random(15)
    seen = {k: [v for v in values if v not in HELD_OUT.get(k, ())] for k, values in LEVELS.items()}
    choosing = {k: cycle(values, rng) for k, values in seen.items()}
    judging = {k: cycle(values, rng) for k, values in LEVELS.items()}
    held = {k: cycle(values, rng) for k, values in HELD_OUT.items()}
    turns = cycle(tuple(HELD_OUT), rng)
    listed = []
    for index in range(count):
        drawn = {k: next(c) for k, c in (judging if index % 2 else choosing).items()}
        if index % 2:
            turn = next(turns)
            drawn[turn] = next(held[turn])
        if drawn["labels"] != "true":
            drawn["start"] = "scratch"  # a network that learned nothing
        if drawn["design"] == "smp_fpn":
            drawn["size"] = 64  # it wants multiples of 32
        low, high = (math.log(r) for r in RATES[drawn["optimizer"]])
        drawn["rate"] = float(f"{math.exp(low + drawn['rate'] * (high - low)):.2g}")
        listed.append(Job(index=index, earlier=_earlier(drawn, rng), **drawn))
    return listed


def _earlier(drawn: dict[str, Any], rng: random.Random) -> str:
    """Another task with images of as many channels, where the start needs one."""
    if drawn["start"] not in ("finetuned", "frozen_pretrained"):
        return ""
    same = [t.name for t in TASKS.values() if t.channels == TASKS[drawn["task"]].channels]
    allowed = [n for n in same if n not in (*HELD_OUT["task"], drawn["task"])]
    return rng.choice(allowed)
