"""How often is a network that learned nothing accused, and are planted idle stages found?

    python studies/calibration.py [--seeds 3] [--seed 2] [--per-design 2]

Part one builds untrained networks of many designs with three initialisers and counts the stages
that are called used or unused: at most 5 % should be. Part two takes networks that
``studies/evidence.py`` trained and plants one idle stage at a time: shrunk to almost zero, drawn
anew, or put back to its start. Each is judged by the weights alone, by the weights and their start
(``initial=``), and by the watched history.

The rules behind the verdicts were made on networks of seed 0; ``--seed 2`` judges them on others.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pandas as pd  # noqa: E402
import torch  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from torch import nn  # noqa: E402
from tqdm import tqdm  # noqa: E402

import mpseg_models  # noqa: E402
from studies.evidence_protocol.networks import NormUNet, build  # noqa: E402
from studies.evidence_protocol.page import markdown, write_csv  # noqa: E402
from studies.evidence_protocol.presets import PRESETS  # noqa: E402
from studies.evidence_protocol.runs import Preset, Run, load_network  # noqa: E402
from studies.evidence_protocol.scoring import load_history  # noqa: E402
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
        "unet, 3 levels": lambda: NormUNet(16, levels=3),
        "unet, batch norm": lambda: NormUNet(16),
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
        torch.manual_seed(0)
        structure = read_structure(design(), torch.zeros(2, 3, 64, 64))
        for rule, initializer in INITIALIZERS.items():
            for seed in range(seeds):
                torch.manual_seed(1000 + seed)
                model = design()
                initialise(model, initializer)
                assessment = assess(structure, measure_model(model, fast=True))
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


def planted(folder: Path, preset: Preset, seed: int, per_design: int) -> pd.DataFrame:
    """Assess trained networks with one planted idle stage each: one row per planted stage.

    Args:
        folder: Where the trained networks are stored.
        preset: How they were trained.
        seed: Which networks.
        per_design: Networks taken of each architecture and optimiser, at most.
    """
    rows = []
    structures: dict[str, Structure] = {}
    taken: dict[tuple[str, str], list[Run]] = {}
    for run in preset.runs():
        design = taken.setdefault((run.architecture, run.rule), [])
        stored = (folder / "runs" / run.name / "run.json").exists()
        if run.labels == "true" and run.seed == seed and stored and len(design) < per_design:
            design.append(run)
    runs = [run for design in taken.values() for run in design]
    for run in tqdm(runs, desc="planted", unit="network"):
        rows += planted_in(run, preset, folder, structures)
    return pd.DataFrame(rows, columns=["network", "rule", "stage", "way", "count", *EVIDENCE])


def planted_in(
    run: Run, preset: Preset, folder: Path, structures: dict[str, Structure]
) -> list[dict[str, object]]:
    """Plant every stage of one stored network in every way; the verdicts by kind of evidence."""
    model = load_network(run, preset, folder)
    if run.architecture not in structures:
        size = preset.size
        structures[run.architecture] = read_structure(model, torch.zeros(2, 3, size, size))
    structure = structures[run.architecture]
    stored = folder / "runs" / run.name
    initial = load_file(stored / "initial.safetensors")
    history = load_history(stored)
    fresh = build(run.architecture, preset.width, run.seed + 5000).state_dict()
    rows: list[dict[str, object]] = []
    for stage, way in plant(model, initial, fresh, structure):
        alone, started = (measure_model(model, initial=i, fast=True) for i in (None, initial))
        layers = next(s.layers for s in structure.stages if s.name == stage)
        assessments = {
            "weights": assess(structure, alone),
            "start": assess(structure, started),
            "history": assess(structure, started, history=history),
        }
        rows.append(
            {
                "network": run.name,
                "rule": run.rule,
                "stage": stage,
                "way": way,
                "count": sum(
                    p.count for p in alone.parameters if p.layer in layers and p.is_kernel
                ),
            }
            | {evidence: verdict_of(a, stage) for evidence, a in assessments.items()}
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


def page(idle: pd.DataFrame, found: pd.DataFrame, seed: int) -> str:
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
        "`python studies/calibration.py`, after `python studies/evidence.py --preset cpu`; the "
        "numbers of networks below are those that were run.",
        "",
        f"- {networks} untrained networks, {len(idle)} stages: {accused.mean():.1%} called used or "
        f"unused (target: at most 5 %); {(idle['state'] == 'untrained').mean():.1%} of the stages "
        "are in networks recognised as untrained.",
    ]
    if len(found):
        hits = found[list(EVIDENCE)] == "unused"
        lines += [
            f"- {len(found)} planted idle stages in {found['network'].nunique()} trained networks "
            f"of seed {seed}, target {TARGET:.0%} found: "
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
    parser.add_argument("--preset", choices=sorted(PRESETS), default="cpu")
    parser.add_argument("--seed", type=int, default=2, help="of the networks to plant in")
    parser.add_argument("--per-design", type=int, default=2, help="networks to plant in")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/studies/evidence/calibration")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    idle = untrained(options.seeds)
    folder, preset = options.trained / options.preset, PRESETS[options.preset]
    found = planted(folder, preset, options.seed, options.per_design)
    options.out.mkdir(parents=True, exist_ok=True)
    write_csv(idle, options.out / "untrained.csv")
    write_csv(found, options.out / "planted.csv")
    with written_atomically(options.out / "index.md") as temporary:
        temporary.write_text(page(idle, found, options.seed))
    print(options.out / "index.md")


if __name__ == "__main__":
    main()
