"""Watching a training: it changes nothing, survives interruptions, and its nulls hold on noise."""

import csv
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from weightscope.checkpoints import load_plain
from weightscope.errors import InputError
from weightscope.files import write_pickle
from weightscope.watching import History, lightning_callback, storage, watch


def make_model(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.Dropout(0.2), nn.Conv2d(8, 1, 3))


def make_optimizer(model, name="adam", **settings):
    kinds = {
        "adam": torch.optim.Adam,
        "adamw": torch.optim.AdamW,
        "sgd": torch.optim.SGD,
        "rmsprop": torch.optim.RMSprop,
    }
    return kinds[name](model.parameters(), **{"lr": 1e-2, **settings})


def train(model, optimizer, steps):
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(2, 1, 8, 8)).square().mean().backward()
        optimizer.step()


def walk_on_noise(name, steps=400, size=4000, **settings):
    """Feed an optimiser pure noise instead of gradients, and measure what it did."""
    torch.manual_seed(1)
    model = nn.Linear(size // 4, 4, bias=False)
    nn.init.normal_(model.weight)
    optimizer = make_optimizer(model, name, **settings)
    with watch(model, optimizer, every=10) as history:
        for _ in range(steps):
            model.weight.grad = 0.3 * torch.randn_like(model.weight)
            optimizer.step()
    return history.displacements()[0]


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("adam", {"lr": 1e-3}),
        ("adam", {"lr": 1e-3, "betas": (0.5, 0.99)}),
        ("adamw", {"lr": 1e-2, "weight_decay": 1.0}),
        ("sgd", {"lr": 0.1}),
        ("sgd", {"lr": 0.01, "momentum": 0.9}),
        ("sgd", {"lr": 0.01, "momentum": 0.9, "nesterov": True}),
        ("sgd", {"lr": 0.05, "momentum": 0.5, "dampening": 0.5, "weight_decay": 0.05}),
    ],
)
def test_movement_on_pure_noise_is_the_predicted_walk(name, settings):
    displacement = walk_on_noise(name, **settings)
    assert displacement.moved / displacement.walk == pytest.approx(1.0, abs=0.06)
    assert displacement.moved / displacement.faded_walk == pytest.approx(1.0, abs=0.06)


def test_shrinkage_is_the_product_of_the_decay_factors():
    displacement = walk_on_noise("adamw", steps=200, lr=1e-2, weight_decay=0.5)
    assert displacement.shrinkage == pytest.approx((1 - 0.005) ** 200, abs=0.02)


def test_learning_rate_schedules_are_followed():
    model = nn.Linear(1000, 4, bias=False)
    optimizer = make_optimizer(model, "adam", lr=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 300)
    rates = []
    with watch(model, optimizer, every=1000) as history:
        for _ in range(300):
            rates.append(optimizer.param_groups[0]["lr"])
            model.weight.grad = torch.randn_like(model.weight)
            optimizer.step()
            schedule.step()
    assert history.displacements()[0].walk == pytest.approx(math.hypot(*rates))


def test_faded_walk_follows_gradients_that_fade():
    model = nn.Linear(1000, 4, bias=False)
    optimizer = make_optimizer(model, "adam", lr=1e-3)
    with watch(model, optimizer, every=5) as history:
        for step in range(600):
            model.weight.grad = torch.randn_like(model.weight) * math.exp(-step / 150)
            optimizer.step()
    displacement = history.displacements()[0]
    assert displacement.moved < 0.8 * displacement.walk
    assert displacement.moved == pytest.approx(displacement.faded_walk, rel=0.15)


def test_a_consistent_gradient_moves_much_further_than_noise():
    model = nn.Linear(1000, 4, bias=False)
    optimizer = make_optimizer(model, "adam", lr=1e-3)
    direction = torch.randn(4, 1000)
    with watch(model, optimizer) as history:
        for _ in range(200):
            model.weight.grad = direction + 0.5 * torch.randn(4, 1000)
            optimizer.step()
    displacement = history.displacements()[0]
    assert displacement.moved > 3 * displacement.walk


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_training_is_bit_equal_with_and_without(name):
    weights = []
    for watched in (False, True):
        model = make_model()
        optimizer = make_optimizer(model, name)
        torch.manual_seed(7)
        if watched:
            with watch(model, optimizer, every=2):
                train(model, optimizer, 7)
        else:
            train(model, optimizer, 7)
        weights.append([t.clone() for t in model.state_dict().values()])
        torch.manual_seed(7)
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


def test_the_hook_is_removed_when_the_training_fails():
    model = make_model()
    optimizer = make_optimizer(model)

    def fail():
        with watch(model, optimizer) as history:
            yield history
            train(model, optimizer, 2)
            raise ZeroDivisionError

    failing = fail()
    history = next(failing)
    with pytest.raises(ZeroDivisionError):
        next(failing)
    train(model, optimizer, 1)
    assert history.steps == 2
    assert not optimizer._optimizer_step_post_hooks


def test_displacements_stay_those_of_the_watched_steps():
    model = make_model()
    optimizer = make_optimizer(model)
    with watch(model, optimizer) as history:
        train(model, optimizer, 3)
    before = history.displacements()
    train(model, optimizer, 3)
    assert history.displacements() == before


def test_saliency_is_the_mean_over_the_last_quarter_of_the_steps():
    model = make_model()
    optimizer = make_optimizer(model)
    name, kernel = next((n, p) for n, p in model.named_parameters() if p.dim() > 1)
    by_hand = []
    with watch(model, optimizer, every=1) as history:
        for _ in range(8):
            train(model, optimizer, 1)
            by_hand.append(float((kernel.detach() * kernel.grad).abs().sum()))
    found = {d.parameter: d for d in history.displacements()}
    assert found[name].saliency == pytest.approx(sum(by_hand[5:]) / 3, rel=1e-5)
    assert all(math.isnan(found[n].saliency) for n, p in model.named_parameters() if p.dim() < 2)
    assert history.frame().query("parameter == @name").saliency.tolist()[1:] == pytest.approx(
        by_hand
    )


def test_saliency_of_half_precision_does_not_vanish():
    layer = torch.nn.Linear(8, 8, bias=False).half()
    with torch.no_grad():
        layer.weight.fill_(1e-4)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.0)
    with watch(layer, optimizer, every=1) as history:
        layer.weight.grad = torch.full_like(layer.weight, 1e-5)
        optimizer.step()
    assert history.displacements()[0].saliency == pytest.approx(64e-9, rel=0.05)


def same_displacement(a, b):
    return all(
        getattr(a, key) == pytest.approx(getattr(b, key), rel=1e-9, nan_ok=True)
        for key in ("count", "moved", "shrinkage", "walk", "faded_walk", "saliency")
    )


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_an_interrupted_training_gives_the_same_history(tmp_path, name):
    whole_model = make_model()
    whole_optimizer = make_optimizer(whole_model, name)
    torch.manual_seed(3)
    with watch(whole_model, whole_optimizer, every=4) as whole:
        train(whole_model, whole_optimizer, 12)

    model = make_model()
    optimizer = make_optimizer(model, name)
    torch.manual_seed(3)
    with watch(model, optimizer, every=4) as history:
        train(model, optimizer, 8)
        torch.save(
            {"model": model.state_dict(), "opt": optimizer.state_dict(), "h": history.state_dict()},
            tmp_path / "checkpoint.pt",
        )
        random_state = torch.get_rng_state()
    stored = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    resumed_model = make_model(seed=99)
    resumed_model.load_state_dict(stored["model"])
    resumed_optimizer = make_optimizer(resumed_model, name)
    resumed_optimizer.load_state_dict(stored["opt"])
    torch.set_rng_state(random_state)
    with watch(resumed_model, resumed_optimizer, every=4) as resumed:
        resumed.load_state_dict(stored["h"])
        train(resumed_model, resumed_optimizer, 4)
    assert resumed.steps == whole.steps == 12
    pairs = zip(resumed.displacements(), whole.displacements(), strict=True)
    assert all(same_displacement(a, b) for a, b in pairs)
    assert resumed.histograms().equals(whole.histograms())


@pytest.mark.filterwarnings("ignore:no noise walk is derived for RMSprop")
@pytest.mark.parametrize("name", ["sgd", "rmsprop"])
def test_a_finished_history_reads_the_same_when_it_is_loaded_again(name):
    model = make_model()
    optimizer = make_optimizer(model, name)
    with watch(model, optimizer, every=4) as history:
        train(model, optimizer, 8)
    with watch(model, make_optimizer(model, name), every=4) as loaded:
        loaded.load_state_dict(history.state_dict())
    pairs = zip(loaded.displacements(), history.displacements(), strict=True)
    assert all(same_displacement(a, b) for a, b in pairs)


@pytest.mark.parametrize("version", [1, 2])
def test_states_of_earlier_versions_are_read(version):
    def earlier(state):
        # as written then: the walk since the last tick folded in, nothing pending
        old = {k: v for k, v in state.items() if k != "pending"} | {"version": version}
        if version == 1:
            dropped = ("saliency",)
            old["snapshots"] = [
                {k: v for k, v in s.items() if k not in dropped} for s in state["snapshots"]
            ]
        return old

    model = make_model()
    optimizer = make_optimizer(model)
    with watch(model, optimizer, every=4) as history:
        train(model, optimizer, 8)  # ends on a tick: nothing was pending
    state = history.state_dict()
    assert state["pending"] == [[1.0, 0.0]] * len(optimizer.param_groups)
    with watch(model, make_optimizer(model), every=4) as loaded:
        loaded.load_state_dict(earlier(state))
        found = loaded.displacements()
        again = loaded.state_dict()
    for old, new in zip(found, history.displacements(), strict=True):
        assert same_displacement(replace(old, saliency=0.0), replace(new, saliency=0.0))
        assert math.isnan(old.saliency) == (version == 1 or math.isnan(new.saliency))
    assert again["version"] == 3
    with watch(model, optimizer, every=4) as resumed:
        resumed.load_state_dict(earlier(state))
        train(model, optimizer, 4)
    assert resumed.steps == 12
    before = {d.parameter: d.walk for d in history.displacements()}
    assert all(d.walk > before[d.parameter] for d in resumed.displacements())


@pytest.mark.parametrize("every", [4, 100])  # the second has one snapshot of each, from the start
def test_snapshots_are_packed_into_a_file_and_come_back(tmp_path, every):
    model = make_model()
    optimizer = make_optimizer(model)
    with watch(model, optimizer, every=every) as history:
        train(model, optimizer, 8)
    state = history.state_dict()
    write_pickle(storage.packed(state), tmp_path / "h")
    with watch(model, make_optimizer(model), every=every) as loaded:
        loaded.load_state_dict(storage.unpacked(load_plain(tmp_path / "h")))
    assert loaded.frame().equals(history.frame())
    assert loaded.histograms().equals(history.histograms())
    assert storage.unpacked(state) is state  # as earlier versions wrote it
    nothing = storage.packed({**state, "snapshots": []})
    assert storage.unpacked(nothing)["snapshots"] == []


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("sizes", torch.tensor([10**9])), ("sizes", [1]), ("names", []), ("edges", None),
        ("mean", torch.ones(1)), ("parameter", torch.tensor([0.5])), ("counts", torch.ones(3)),
    ],
)  # fmt: skip
def test_packed_snapshots_that_do_not_fit_are_named(key, value):
    model = make_model()
    with watch(model, make_optimizer(model)) as history:
        train(model, make_optimizer(model), 1)
    state = storage.packed(history.state_dict())
    state["snapshots"][key] = value
    with pytest.raises(InputError, match="history state is damaged"):
        storage.unpacked(state)


def test_a_damaged_state_of_an_earlier_version_is_named():
    model = make_model()
    with watch(model, make_optimizer(model)) as history:
        state = history.state_dict() | {"version": 1, "snapshots": [3]}
    with (
        watch(model, make_optimizer(model)) as history,
        pytest.raises(InputError, match="damaged"),
    ):
        history.load_state_dict(state)


@pytest.mark.parametrize("version", [0, 4, None, "2", 2.5, [3]])
def test_states_of_other_versions_are_refused(version):
    model = make_model()
    with watch(model, make_optimizer(model)) as history:
        state = history.state_dict() | {"version": version}
        with pytest.raises(InputError, match=r"history state has version .*, expected 1 to 3"):
            history.load_state_dict(state)


def test_a_state_of_another_model_is_refused():
    model = make_model()
    with watch(model, make_optimizer(model)) as history:
        state = history.state_dict()
    other = nn.Linear(3, 3)
    with (
        watch(other, make_optimizer(other)) as history,
        pytest.raises(InputError, match="another model"),
    ):
        history.load_state_dict(state)
    with (
        watch(model, make_optimizer(model)) as history,
        pytest.raises(InputError, match="version 0"),
    ):
        history.load_state_dict({**state, "version": 0})


def test_starting_weights_can_live_on_disk(tmp_path):
    model = make_model()
    start = {n: p.detach().clone() for n, p in model.named_parameters()}
    with watch(model, make_optimizer(model), store=tmp_path / "start.safetensors") as history:
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["start.safetensors"]
    assert all(torch.equal(t, start[n]) for n, t in history.initial().items())


def test_a_start_that_was_replaced_by_another_models_is_refused(tmp_path):
    path = tmp_path / "start.safetensors"
    model = make_model()
    with watch(model, make_optimizer(model), store=path) as history:
        kept = path.read_bytes()
        for other in ({"a": torch.zeros(3)}, {**history.initial(), "0.bias": torch.zeros(3)}):
            save_file(other, path)
            with pytest.raises(InputError, match="the start of this history is of another model"):
                history.displacements()
        path.write_bytes(kept)
    assert len(history.displacements()) == 6


def watched_history(every=2, steps=4) -> History:
    model = make_model()
    optimizer = make_optimizer(model)
    with watch(model, optimizer, every=every) as history:
        train(model, optimizer, steps)
    return history


def test_snapshots_count_every_weight():
    history = watched_history()
    frame = history.frame()
    assert frame["step"].unique().tolist() == [0, 1, 2, 4]
    assert sorted(frame["parameter"].unique()) == ["0.weight", "3.weight"]
    totals = history.histograms().groupby(["step", "parameter"])["count"].sum().unstack()
    assert (totals["0.weight"] == 72).all()


def test_exports_hold_the_histograms(tmp_path):
    history = watched_history()
    history.to_csv(tmp_path / "h.csv")
    history.to_npz(tmp_path / "h.npz")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["h.csv", "h.npz"]
    with (tmp_path / "h.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert sum(int(r["count"]) for r in rows) == sum(s.count for s in history.snapshots)
    with np.load(tmp_path / "h.npz") as stored:
        assert stored["steps"].tolist() == [s.step for s in history.snapshots]
        assert stored["parameters"][0] == "0.weight"
        assert np.array_equal(stored["counts_3"], history.snapshots[3].counts)
        assert np.array_equal(stored["edges_3"], history.snapshots[3].edges)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_event_files_are_readable_by_tensorboard(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    history = watched_history()
    history.to_tensorboard(tmp_path / "events")
    assert len(list((tmp_path / "events").iterdir())) == 1
    events = accumulator.EventAccumulator(
        str(tmp_path / "events"), size_guidance={accumulator.HISTOGRAMS: 0}
    )
    events.Reload()
    read = events.Histograms("0/weight")
    assert [e.step for e in read] == [0, 1, 2, 4]
    assert read[0].histogram_value.num == 72


def test_what_no_optimiser_holds_has_no_walk():
    model = make_model()
    optimizer = torch.optim.Adam(model[3].parameters(), lr=1e-2)
    with watch(model, optimizer) as history:
        train(model, optimizer, 2)
    walks = {d.parameter: d.walk for d in history.displacements()}
    assert walks["0.weight"] == 0.0
    assert walks["3.weight"] > 0.0


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda p: torch.optim.Adagrad(p, lr=0.1), "Adagrad"),
        (lambda p: torch.optim.Adam(p, amsgrad=True), "amsgrad"),
    ],
)
def test_optimisers_without_a_derived_null_say_so(make, text):
    model = make_model()
    optimizer = make(model.parameters())
    watching = watch(model, optimizer)
    with pytest.warns(UserWarning, match=text):
        history = watching.__enter__()
    train(model, optimizer, 1)
    watching.__exit__(None, None, None)
    first = history.displacements()[0]
    assert math.isnan(first.walk)
    assert text in first.note


def test_arguments_are_checked():
    model, other = make_model(), make_model()
    with pytest.raises(InputError, match="every=0"), watch(model, make_optimizer(model), every=0):
        pass
    with (
        pytest.raises(InputError, match="no parameter of this model"),
        watch(model, make_optimizer(other)),
    ):
        pass


@pytest.mark.filterwarnings("ignore")
def test_lightning_callback_records_and_resumes(tmp_path):
    lightning = pytest.importorskip("lightning.pytorch")

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = make_model()

        def training_step(self, batch, _index):
            return self.net(batch).square().mean()

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), lr=1e-2)

    def fit(epochs, checkpoint=None):
        callback = lightning_callback(every=2)
        trainer = lightning.Trainer(
            max_epochs=epochs, accelerator="cpu", logger=False, enable_progress_bar=False,
            enable_model_summary=False, default_root_dir=tmp_path, callbacks=[callback],
            enable_checkpointing=False,
        )  # fmt: skip
        trainer.fit(
            Module(), torch.utils.data.DataLoader(torch.randn(6, 1, 8, 8), 2), ckpt_path=checkpoint
        )
        return trainer, callback

    trainer, callback = fit(1)
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    assert callback.history.steps == 3
    _, resumed = fit(2, tmp_path / "one.ckpt")
    assert resumed.history.steps == 6
    assert all(d.walk > 0 for d in resumed.history.displacements())


def test_a_lazy_model_is_refused():
    model = nn.Sequential(nn.LazyLinear(3), nn.Linear(3, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with (
        pytest.raises(InputError, match=r"0\.weight of Sequential is not initialised yet"),
        watch(model, optimizer),
    ):
        pass
