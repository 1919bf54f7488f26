import dataclasses

import numpy as np
import pytest
import torch

from mpseg_models import create_model
from studies.sand.tiles import draw_photos, split_photos, store_tiles
from studies.sand.training import TrainingSettings, train
from weightscope.errors import CheckpointError, InputError

SETTINGS = TrainingSettings(epochs=3, batch_size=4, decay_steps=2, watch_every=2)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiles")
    tiles = store_tiles(folder, draw_photos(5, 48, seed=0), [(48, 48)] * 5, 32, 8, "x")
    return tiles, split_photos(tiles.photos, 0, 5, seed=0)


def network():
    return create_model("quarter_multiresunet", width=4, seed=0)


def run(model, data, path, **changes):
    settings = dataclasses.replace(SETTINGS, **changes)
    return train(model, *data, settings, path)


class StopHereError(Exception):
    pass


def test_an_interrupted_training_ends_with_the_same_weights(data, tmp_path, monkeypatch):
    whole = network()
    expected = run(whole, data, tmp_path / "whole.pt")

    import studies.sand.training as training

    batches = iter(range(5))  # three steps an epoch: stops in the middle of the second

    def augment_or_stop(*args):
        if next(batches, None) is None:
            raise StopHereError
        return original(*args)

    original = training.augment
    monkeypatch.setattr(training, "augment", augment_or_stop)
    with pytest.raises(StopHereError):
        run(network(), data, tmp_path / "parts.pt")
    monkeypatch.undo()

    parts = network()
    resumed = run(parts, data, tmp_path / "parts.pt")
    assert resumed.resumed_from == 1
    assert [e.epoch for e in resumed.epochs] == [1, 2, 3]
    assert [e.loss for e in resumed.epochs] == [e.loss for e in expected.epochs]
    for a, b in zip(parts.parameters(), whole.parameters(), strict=True):
        assert torch.equal(a, b)
    assert resumed.history.steps == expected.history.steps == 9
    walks = [[d.walk for d in r.history.displacements()] for r in (resumed, expected)]
    np.testing.assert_allclose(walks[0], walks[1])


def test_a_finished_training_is_not_repeated(data, tmp_path):
    first, second = network(), network()
    run(first, data, tmp_path / "a.pt")
    assert run(second, data, tmp_path / "a.pt").resumed_from == 3
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


def test_learning_rate_falls_by_steps(data, tmp_path):
    epochs = run(network(), data, tmp_path / "a.pt").epochs
    # nine steps, one factor every two; the paper's schedule with other numbers
    assert [e.learning_rate for e in epochs] == pytest.approx(
        [1e-3 * 0.96, 1e-3 * 0.96**3, 1e-3 * 0.96**4]
    )


def test_the_loss_falls(data, tmp_path):
    epochs = run(
        network(), data, tmp_path / "a.pt", epochs=12, learning_rate=1e-2, decay_steps=800
    ).epochs
    assert epochs[-1].loss < 0.97 * epochs[0].loss


def test_checkpoints_of_other_trainings_are_refused(data, tmp_path):
    path = tmp_path / "a.pt"
    run(network(), data, path, epochs=1)
    with pytest.raises(CheckpointError, match=r"a\.pt' was trained with other settings; delete"):
        run(network(), data, path, seed=7)
    with pytest.raises(CheckpointError, match=r"a\.pt' holds another network"):
        run(create_model("half_unet", width=4, seed=0), data, path, epochs=1)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CheckpointError, match=r"a\.pt' is damaged"):
        run(network(), data, path)


def test_a_full_disk_is_reported_and_leaves_the_last_state(data, tmp_path, monkeypatch):
    path = tmp_path / "a.pt"
    run(network(), data, path, epochs=3)
    before = path.read_bytes()

    def full(self, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(InputError, match=r"b\.pt.*No space left on device.*free some space"):
        run(network(), data, tmp_path / "b.pt")
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.pt"]
