"""The small networks that the studies of recovery train, cut and compare, as jobs of the runner."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pandas as pd
import torch
from safetensors.torch import load_model, save_model
from torch import nn

from studies import runner
from studies.evidence_protocol import training
from studies.evidence_protocol.jobs import Job
from studies.evidence_protocol.sources import ARCHIVES
from studies.evidence_protocol.tasks import REAL, TASKS, Part, Pool
from weightscope.truncation import steps

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "studies" / "results" / "small"
"""Results of finished jobs, without the weights of the networks."""

STEPS, WIDTH, LEVELS, SIZE = 1500, 8, 4, 48
"""Steps of 8 images; channels of the first level; levels; side of the images in pixels."""


@dataclass(frozen=True)
class Network:
    """One network and what it is trained for.

    Attributes:
        design: One of the evidence study, or ``nnunet``.
        task: One of the evidence study.
        seed: Of its images, its first weights and its training.
    """

    design: str
    task: str
    seed: int

    @property
    def name(self) -> str:
        """Unique."""
        return f"{self.design}-{self.task}-{self.seed}"

    @property
    def job(self) -> Job:
        """Its circumstances as the evidence study writes them."""
        return Job(
            index=self.seed, design=self.design, task=self.task, optimizer="adam", rate=2e-3,
            schedule="cosine", start="scratch", earlier="", labels="true", width=WIDTH,
            levels=LEVELS, steps=STEPS, standard=True, ema=False, early=False, size=SIZE,
        )  # fmt: skip

    def build(self) -> nn.Module:
        """With random weights of its seed."""
        if self.design != "nnunet":
            return training.build(self.job)
        task = TASKS[self.task]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return nnunet(task.channels, task.outputs)

    def pool(self, part: Part, archives: Path) -> Pool:
        """Its images."""
        return training.load_pool(self.job, part, archives)


def nnunet(inputs: int, outputs: int) -> nn.Module:
    """nnU-Net's own network (Isensee et al. 2021), as narrow and as deep as the others."""
    from dynamic_network_architectures.architectures.unet import PlainConvUNet

    return PlainConvUNet(  # type: ignore[no-any-return]
        inputs, LEVELS, [WIDTH * 2**level for level in range(LEVELS)], nn.Conv2d, 3,
        [1] + [2] * (LEVELS - 1), 2, outputs, 2, conv_bias=True, norm_op=nn.InstanceNorm2d,
        norm_op_kwargs={"eps": 1e-5, "affine": True}, nonlin=nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
    )  # fmt: skip


def trained(network: Network) -> runner.Job:
    """The job that trains a network; it leaves ``final.safetensors``."""
    return runner.Job(
        f"train-{network.name}", train, network,
        needs=(ARCHIVES,) if network.task in REAL else (),
        files=("final.safetensors",), version=1,
    )  # fmt: skip


def train(network: Network, place: runner.Place) -> dict[str, Any]:
    """Train a network from scratch."""
    job, model = network.job, network.build()
    torch.manual_seed(network.seed)  # dropout
    pool = network.pool("train", images(place))
    optimizer = training.make_optimizer(job, model)
    loss = training.make_loss(TASKS[network.task], pool)
    schedule = training.make_schedule(job, optimizer)
    last = training.fit(model, optimizer, schedule, loss, pool, STEPS, network.seed, "true")
    save_model(
        model, str(place.folder / "final.safetensors")
    )  # nnU-Net's has two names for a tensor
    return {"network": asdict(network), "loss": last}


def load(network: Network, place: runner.Place) -> nn.Module:
    """The trained network, where its training is among what a job needs."""
    model = network.build()
    load_model(model, place.needs[f"train-{network.name}"] / "final.safetensors")
    return model.eval()


def images(place: runner.Place) -> Path:
    """Where the images of the real tasks lie; drawn ones need none."""
    return place.needs.get(ARCHIVES.name, place.folder)


def on_trained(
    study: str,
    network: Network,
    work: Callable[[Any, runner.Place], Mapping[str, Any]],
    settings: Any,
    version: int,
) -> runner.Job:
    """A job of a study on a trained network.

    Its result does not go stale with every change of the library's code: a test holds what a small
    recovery gives, and whoever changes that raises the versions of these studies.

    Args:
        study: Begins the job's name.
        network: Whose training it needs.
        work: What it does.
        settings: Given to it.
        version: Of the study's own code, and of what cutting, recovery and thinning give.
    """
    training_job = trained(network)
    return runner.Job(
        name=f"{study}-{network.name}",
        work=work,
        settings=settings,
        needs=(training_job, *training_job.needs),
        version=version,
    )


@contextmanager
def taking(kind: type[torch.optim.Optimizer]) -> Iterator[None]:
    """Recoveries begun in here take steps of this kind, whatever was removed."""
    both = (steps, "Orthogonal", kind), (torch.optim, "Adam", kind)
    with mock.patch.object(*both[0]), mock.patch.object(*both[1]):
        yield


def parser(description: str | None) -> argparse.ArgumentParser:
    """The command line that these studies share."""
    found = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    found.add_argument("--out", type=Path, default=ROOT / "runs" / "pareto")
    found.add_argument(
        "--known", type=Path, default=ROOT / "runs" / "evidence", help="where the images may lie"
    )
    found.add_argument("--workers", type=int, default=1, help="jobs at a time")
    return found


def carry_out(
    jobs: Sequence[runner.Job],
    options: argparse.Namespace,
    write: Callable[[list[Mapping[str, Any]]], None],
) -> None:
    """Run what is not finished; write the results of all that is, also on an interruption."""
    torch.set_num_threads(1)
    store = runner.Store(options.out, (RESULTS, options.known))
    try:
        runner.run(jobs, store, workers=options.workers)
    finally:
        done = runner.finished(jobs, store)
        found = [done[job.name].result for job in jobs if job.name in done]
        if found:
            write(found)


def write_table(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write rows as CSV."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(path, index=False, float_format="%.4g")
