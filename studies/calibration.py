"""How often is a network that learned nothing accused?

    python studies/calibration.py [--seeds 3]

Builds untrained networks of many designs with three initialisers, hands each to `analyze` and
counts the stages that are called used or unused: none should be.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
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
from studies.evidence_protocol.page import markdown, write_csv  # noqa: E402
from weightscope.files import written_atomically  # noqa: E402


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


def page(idle: pd.DataFrame, seeds: int) -> str:
    """The results as Markdown."""
    accused = idle["verdict"] != "undecided"
    networks = idle.groupby(["design", "initializer", "seed"]).ngroups
    by_rule = (
        idle.assign(accused=accused)
        .groupby(["design", "initializer"], sort=False)
        .agg(stages=("stage", "size"), accused=("accused", "sum"), state=("state", "first"))
        .reset_index()
    )
    states = idle.groupby("state").size() / len(idle)
    columns = ("design", "initializer", "stages", "accused", "state")
    return "\n".join(
        [
            "# Calibration",
            "",
            f"`python studies/calibration.py --seeds {seeds}`",
            "",
            f"- {networks} untrained networks, {len(idle)} stages: {int(accused.sum())} called "
            "used or unused (target: none).",
            "- What is said of the network as a whole, by share of the stages: "
            + ", ".join(f"{state} {share:.0%}" for state, share in states.items())
            + ". *Unknown* is said where no constant that an initialiser sets tells.",
            "",
            markdown(by_rule, {key: (key, "{}") for key in columns}),
            "",
        ]
    )


def main(arguments: list[str] | None = None) -> None:
    """Calibrate and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3, help="of each untrained design")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/studies/evidence/calibration")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    idle = untrained(options.seeds)
    options.out.mkdir(parents=True, exist_ok=True)
    write_csv(idle, options.out / "untrained.csv")
    with written_atomically(options.out / "index.md") as temporary:
        temporary.write_text(page(idle, options.seeds))
    print(options.out / "index.md")


if __name__ == "__main__":
    main()
