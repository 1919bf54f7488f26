"""How often is a network that learned nothing accused, and are planted idle stages found?

    python studies/calibration.py [--seeds 3] [--networks 8]

Part one builds untrained networks of many designs with three initialisers, hands each to `analyze`
and counts the stages that are called used or unused: none should be. Part two takes networks that
``studies/evidence.py`` trained and plants one idle stage at a time: shrunk to almost zero, drawn
anew, or put back to its start. Each is judged by the weights alone, by the weights and their start
(``initial=``), and by the watched history.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pandas as pd  # noqa: E402
import torch  # noqa: E402
from torch import nn  # noqa: E402
from tqdm import tqdm  # noqa: E402

import mpseg_models  # noqa: E402
import weightscope as ws  # noqa: E402
from studies.evidence_protocol.designs import UNet  # noqa: E402
from studies.evidence_protocol.jobs import Job, jobs  # noqa: E402
from studies.evidence_protocol.page import markdown, write_csv  # noqa: E402
from studies.evidence_protocol.scoring import restore_history  # noqa: E402
from studies.evidence_protocol.training import build, load_network  # noqa: E402
from weightscope.files import written_atomically  # noqa: E402
from weightscope.graph import Structure, read_structure  # noqa: E402
from weightscope.statistics import measure_model  # noqa: E402
from weightscope.utilization import Assessment, assess  # noqa: E402

SHRUNK = 1e-3
"""What a shrunk stage is multiplied by."""

EVIDENCE = {
    "weights": "weights alone",
    "start": "weights and their start",
    "history": "watched history",
}
TARGET = 0.95


def designs() -> dict[str, Callable[[], nn.Module]]:
    """Fourteen architectures by name."""
    import segmentation_models_pytorch as smp
    from monai.networks import nets

    made: dict[str, Callable[[], nn.Module]] = {
        name: lambda name=name: mpseg_models.create_model(name, width=16)  # type: ignore[misc]
        for name in mpseg_models.list_models()
    }
    made |= {
        "unet, 3 levels": lambda: UNet(3, 1, 16, 3, "batch"),
        "unet, batch norm": lambda: UNet(3, 1, 16, 5, "batch"),
        "BasicUNet": lambda: nets.BasicUNet(2, 3, 1, features=(16, 16, 32, 64, 128, 16)),
        "UNet with residual units": lambda: nets.UNet(
            2, 3, 1, channels=(16, 32, 64, 128), strides=(2, 2, 2), num_res_units=2
        ),
        "AttentionUnet": lambda: nets.AttentionUnet(2, 3, 1, (16, 32, 64, 128), (2, 2, 2)),
        "SegResNet": lambda: nets.SegResNet(2, in_channels=3, out_channels=1, init_filters=16),
        "DynUNet": lambda: nets.DynUNet(
            2, 3, 1, (3, 3, 3, 3), (1, 2, 2, 2), (2, 2, 2), filters=(16, 32, 64, 128)
        ),
        "smp Unet, ResNet-18": lambda: smp.Unet("resnet18", encoder_weights=None),
        "smp FPN, MobileNetV2": lambda: smp.FPN("mobilenet_v2", encoder_weights=None),
    }
    return made


def he_normal(weight: torch.Tensor) -> None:
    """He's normal initialisation."""
    nn.init.kaiming_normal_(weight, nonlinearity="relu")


INITIALIZERS: dict[str, Callable[[torch.Tensor], object] | None] = {
    "as built": None,
    "Glorot uniform": nn.init.xavier_uniform_,
    "He normal": he_normal,
}


def initialise(model: nn.Module, rule: Callable[[torch.Tensor], object] | None) -> None:
    """Draw every convolution of a model anew, in place; None leaves it as built."""
    if rule is None:
        return
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            rule(module.weight)


def untrained(seeds: int) -> pd.DataFrame:
    """Assess untrained networks: one row per stage."""
    rows = []
    for name, design in tqdm(designs().items(), desc="untrained", unit="design"):
        for rule, initializer in INITIALIZERS.items():
            for seed in range(seeds):
                torch.manual_seed(1000 + seed)
                model = design()
                initialise(model, initializer)
                assessment = ws.analyze(model, example_inputs=torch.zeros(2, 3, 64, 64)).assessment
                rows += [
                    {
                        "design": name,
                        "initializer": rule,
                        "seed": seed,
                        "state": assessment.state,
                        "stage": verdict.stage,
                        "verdict": verdict.verdict,
                    }
                    for verdict in assessment.verdicts
                ]
    return pd.DataFrame(rows)


def plant(
    model: nn.Module,
    initial: dict[str, torch.Tensor],
    fresh: dict[str, torch.Tensor],
    structure: Structure,
) -> Iterator[tuple[str, str]]:
    """Make one stage of a trained model idle in each way, one after the other.

    Yields:
        The stage's name and the way; the model holds the planted weights until the next one.
    """
    trained = {k: v.clone() for k, v in model.state_dict().items()}
    for stage in structure.stages:
        if stage.role == "head":
            continue
        own = [
            name
            for name, value in trained.items()
            if name.rpartition(".")[0] in stage.layers and value.dim() > 1
        ]
        ways = {
            "shrunk to almost zero": {n: trained[n] * SHRUNK for n in own},
            "drawn anew": {n: fresh[n] for n in own},
            "put back to its start": {n: initial[n] for n in own},
        }
        for way, weights in ways.items():
            model.load_state_dict({**trained, **weights})
            yield stage.name, way
    model.load_state_dict(trained)


def planted(folder: Path, count: int) -> pd.DataFrame:
    """Assess trained networks with one planted idle stage each: one row per planted stage.

    Args:
        folder: Where the study's networks are stored.
        count: Networks to plant in, at most: the first of the list that were trained from scratch
            to the end on true targets, and are what the history saw last.
    """
    fit = [
        job
        for job in jobs(1000)
        if (job.labels, job.start, job.ema) == ("true", "scratch", False)
        and (folder / "runs" / job.name / "job.json").exists()
    ]
    rows = []
    for job in tqdm(fit[:count], desc="planted", unit="network"):
        rows += planted_in(job, folder)
    return pd.DataFrame(rows, columns=["network", "rule", "stage", "way", "count", *EVIDENCE])


def planted_in(job: Job, folder: Path) -> list[dict[str, object]]:
    """Plant every stage of one stored network in every way; the verdicts by kind of evidence."""
    model = load_network(job, folder)
    channels = next(p for p in model.parameters() if p.dim() == 4).shape[1]
    structure = read_structure(model, torch.zeros(2, channels, job.size, job.size))
    history = restore_history(job, folder)
    initial = model.state_dict() | history.initial()
    fresh = build(replace(job, index=job.index + 5000)).state_dict()
    rows: list[dict[str, object]] = []
    for stage, way in plant(model, initial, fresh, structure):
        alone, started = (measure_model(model, initial=i, fast=True) for i in (None, initial))
        layers = next(s.layers for s in structure.stages if s.name == stage)
        assessments = {
            "weights": assess(structure, alone),
            "start": assess(structure, started),
            "history": assess(structure, started, history=history),
        }
        size = sum(p.count for p in alone.parameters if p.layer in layers and p.is_kernel)
        row = {"network": job.name, "rule": job.optimizer, "stage": stage, "way": way}
        rows.append(
            row | {"count": size} | {e: verdict_of(a, stage) for e, a in assessments.items()}
        )
    return rows


def verdict_of(assessment: Assessment, stage: str) -> str:
    """What the deciding grade says of one stage, also where no cut removes it."""
    found = next(v for v in assessment.verdicts if v.stage == stage)
    graded = next(s.verdict for s in found.scores if s.grade == found.evidence)
    return graded if assessment.state == "trained" else "undecided"


HOW_FOUND = (
    "Weights alone: a bounded initialisation is sharp, so that a few hundred weights that fill "
    "its edges and never pass them are proof enough; of an unbounded (normal) one it takes ten "
    "thousands, and beside decayed stages it stays undecided. With the start: what never moved "
    "from it, and what bears no trace of it and lies as its rule draws. Watched history: a stage "
    "that is not as the training left it is judged by its weights and their start. Here only the "
    "encoder of smp is drawn from a normal rule, in stages of ten thousands of weights; in "
    "networks that are so throughout, weights alone would miss their small stages."
)


def page(idle: pd.DataFrame, found: pd.DataFrame) -> str:
    """The results as Markdown."""
    accused = idle["verdict"] != "undecided"
    networks = idle.groupby(["design", "initializer", "seed"]).ngroups
    by_rule = (
        idle.assign(accused=accused)
        .groupby(["design", "initializer"], sort=False)
        .agg(stages=("stage", "size"), accused=("accused", "sum"))
        .reset_index()
    )
    lines = [
        "# Calibration",
        "",
        "`python studies/calibration.py`, after `make evidence`; the numbers of networks below are "
        "those that were run.",
        "",
        f"- {networks} untrained networks, {len(idle)} stages: {accused.mean():.1%} called used or "
        f"unused (target: none); {(idle['state'] == 'untrained').mean():.1%} of the stages "
        "are in networks recognised as untrained.",
    ]
    if len(found):
        hits = found[list(EVIDENCE)] == "unused"
        lines += [
            f"- {len(found)} planted idle stages in {found['network'].nunique()} trained networks, "
            f"target {TARGET:.0%} found: "
            + ", ".join(f"{hits[key].mean():.1%} by {label}" for key, label in EVIDENCE.items())
            + ".",
            f"- Planted in: {', '.join(sorted(set(found['network'])))}.",
        ]
        sizes = pd.cut(found["count"], [0, 1000, 10_000, float("inf")],
                       labels=["under 1,000", "1,000 to 10,000", "over 10,000"])  # fmt: skip
        table = (
            found.assign(size=sizes, stages=1, **hits)
            .groupby(["way", "rule", "size"], observed=True)
            .agg({"stages": "size"} | dict.fromkeys(EVIDENCE, "mean"))
            .reset_index()
        )
        columns = {
            "way": ("planted as", "{}"),
            "rule": ("optimiser", "{}"),
            "size": ("weights of the stage", "{}"),
            "stages": ("stages", "{}"),
        } | {key: (f"found by {label}", "{:.0%}") for key, label in EVIDENCE.items()}
        lines += ["", "## Planted idle stages", "", HOW_FOUND, "", markdown(table, columns)]
    lines += ["", "## Untrained networks", ""]
    columns = {k: (k, "{}") for k in ("design", "initializer", "stages", "accused")}
    lines += [markdown(by_rule, columns), ""]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """Calibrate and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3, help="of each untrained design")
    parser.add_argument("--trained", type=Path, default=ROOT / "runs" / "evidence")
    parser.add_argument("--networks", type=int, default=8, help="to plant in")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/studies/evidence/calibration")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    idle = untrained(options.seeds)
    found = planted(options.trained, options.networks)
    options.out.mkdir(parents=True, exist_ok=True)
    write_csv(idle, options.out / "untrained.csv")
    write_csv(found, options.out / "planted.csv")
    with written_atomically(options.out / "index.md") as temporary:
        temporary.write_text(page(idle, found))
    print(options.out / "index.md")


if __name__ == "__main__":
    main()
