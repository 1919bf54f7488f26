"""What was watched, in other libraries' loops and trackers: the real ones, offline."""

import csv
import json
import math

import numpy as np
import pytest
import torch
from torch import nn

from weightscope.errors import InputError
from weightscope.watching import lightning_callback, trainer_callback, watch

# other libraries' warnings are theirs
pytestmark = pytest.mark.filterwarnings("ignore")


def make_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 1, 3))


@pytest.fixture
def history():
    model = make_model()
    optimizer = torch.optim.Adam(model.parameters())
    with watch(model, optimizer, every=2) as history:
        for _ in range(4):
            model(torch.randn(2, 1, 8, 8)).square().mean().backward()
            optimizer.step()
    return history


def test_what_is_no_run_is_named(history):
    with pytest.raises(InputError, match=r"run= is builtins\.dict; give what wandb\.init"):
        history.log_histograms({})


def test_wandb_gets_every_histogram(history, tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    logged, defined = [], []
    with wandb.init(mode="offline", dir=tmp_path, project="test") as run:
        run.log({"loss": 1.0}, step=1000)  # a row far on the run's own axis
        log, define = run.log, run.define_metric
        monkeypatch.setattr(run, "log", lambda row: (logged.append(row), log(row)))
        monkeypatch.setattr(
            run, "define_metric", lambda *a, **k: (defined.append((a, k)), define(*a, **k))
        )
        history.log_histograms(run)
        assert run.summary["weights/step"] == 4
        assert run.summary["weights/0.weight"]["_type"] == "histogram"
    assert [row["weights/step"] for row in logged] == [0, 1, 2, 4]
    assert (("weights/*",), {"step_metric": "weights/step"}) in defined
    first = history.snapshots[0]
    assert logged[0][f"weights/{first.parameter}"].histogram == first.counts.tolist()
    assert np.allclose(logged[0][f"weights/{first.parameter}"].bins, first.edges)


def test_mlflow_gets_the_figures_and_the_histograms(history, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri((tmp_path / "runs").as_uri())
    try:
        with mlflow.start_run() as run:
            history.log_histograms(run)
        client = mlflow.MlflowClient()
        found = client.get_metric_history(run.info.run_id, "weights/0.weight/std")
        artifact = client.download_artifacts(run.info.run_id, "weights/histograms.csv", tmp_path)
    finally:
        mlflow.set_tracking_uri(before)
    own = [s for s in history.snapshots if s.parameter == "0.weight"]
    assert [(m.step, m.value) for m in found] == [(s.step, s.std) for s in own]
    with open(artifact) as stream:
        rows = list(csv.DictReader(stream))
    assert sum(int(row["count"]) for row in rows) == sum(s.count for s in history.snapshots)


@pytest.mark.parametrize("name", ["lightning.pytorch", "pytorch_lightning"])
def test_both_lightnings_take_the_callback(name, tmp_path):
    lightning = pytest.importorskip(name)

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = make_model()

        def training_step(self, batch, _index):
            return self.net(batch).square().mean()

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters())

    callback = lightning_callback(every=2)
    assert isinstance(callback, lightning.Callback)
    trainer = lightning.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path, callbacks=[callback],
        enable_checkpointing=False,
    )  # fmt: skip
    trainer.fit(Module(), torch.utils.data.DataLoader(torch.randn(6, 1, 8, 8), 2))
    assert callback.history.steps == 3
    assert {s.step for s in callback.history.snapshots} == {0, 1, 2}


def test_the_trainer_of_transformers_is_watched_and_resumes(tmp_path):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = make_model()

        def forward(self, image):
            return {"loss": self.net(image).square().mean()}

    def train(steps, checkpoint=None):
        callback = trainer_callback(every=2)
        arguments = transformers.TrainingArguments(
            output_dir=str(tmp_path), max_steps=steps, save_steps=2, report_to=[], use_cpu=True,
            per_device_train_batch_size=2, disable_tqdm=True, logging_strategy="no",
        )  # fmt: skip
        data = [{"image": torch.randn(1, 8, 8)} for _ in range(8)]
        trainer = transformers.Trainer(
            Network(), arguments, train_dataset=data, callbacks=[callback]
        )
        trainer.train(resume_from_checkpoint=checkpoint)
        return callback.history

    first = train(2)
    assert first.steps == 2
    assert (tmp_path / "checkpoint-2" / "weightscope_history.pt").exists()
    resumed = train(4, str(tmp_path / "checkpoint-2"))
    assert resumed.steps == 4
    assert {s.step for s in resumed.snapshots} == {0, 1, 2, 4}
    assert all(torch.equal(t, first.initial()[n]) for n, t in resumed.initial().items())
    assert all(d.walk > 0 for d in resumed.displacements())
    json.loads((tmp_path / "checkpoint-4" / "trainer_state.json").read_text())


class Lion(torch.optim.Optimizer):
    """Steps of one size, in the direction of a running mean."""

    def __init__(self, parameters):
        super().__init__(parameters, {"lr": 1e-3})

    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.data -= group["lr"] * parameter.grad.sign()


class Wrapper(torch.optim.Optimizer):
    """Like accelerate's: an optimiser that passes its steps on."""

    def __init__(self, optimizer):
        self.optimizer = optimizer

    @property
    def param_groups(self):
        return self.optimizer.param_groups

    def step(self, closure=None):
        self.optimizer.step()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("make", "name"), [(torch.optim.RMSprop, "RMSprop"), (Lion, "Lion"), (Wrapper, "Lion")]
)
def test_what_an_optimiser_without_a_walk_loses_is_said_at_the_start(make, name):
    model = make_model()
    optimizer = Wrapper(Lion(model.parameters())) if make is Wrapper else make(model.parameters())
    watching = watch(model, optimizer)
    with pytest.warns(UserWarning, match=f"derived for {name}: .* the history will rank no stage"):
        history = watching.__enter__()
    model(torch.randn(2, 1, 8, 8)).square().mean().backward()
    optimizer.step()
    watching.__exit__(None, None, None)
    assert name in repr(history)
    assert history.steps == 1
    assert all(math.isfinite(s.saliency) for s in history.snapshots if s.step)
    assert all(math.isnan(d.walk) and d.moved > 0 for d in history.displacements())
