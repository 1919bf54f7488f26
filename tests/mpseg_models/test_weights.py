import json

import numpy as np
import pytest
import torch

from mpseg_models import (
    create_model,
    get_card,
    list_models,
    list_weights,
    read_weights,
    weights,
)
from mpseg_models.predict import predict_photo
from studies.sand.comparison import f1
from studies.sand.scenes import SceneSettings, make_scene

SHIPPED = list_weights()


def test_there_are_weights_and_they_are_small():
    assert SHIPPED
    assert {network for network, _ in SHIPPED} <= set(list_models())
    files = list(weights.FOLDER.rglob("*.safetensors"))
    assert len(files) == len(SHIPPED)
    assert sum(file.stat().st_size for file in files) <= 8_000_000


@pytest.mark.sample(2)
@pytest.mark.parametrize(("network", "name"), SHIPPED)
def test_figures_of_the_card_are_measured_again(network, name):
    card = get_card(network, name)
    model = create_model(network, weights=name).eval()
    check = card.check
    outcomes = []
    for index in check["photos"]:
        settings = SceneSettings(**check["scene"])
        scene = make_scene(check["size"], check["size"], [check["seed"], index], settings)
        found, truth = predict_photo(model, scene.image) > card.threshold, scene.mask > 0
        pairs = ((found, truth), (found, ~truth), (~found, truth))
        outcomes.append([int((a & b).sum()) for a, b in pairs])
    assert f1(outcomes) == pytest.approx(check["f1"], abs=0.01)
    # two photographs are few, but no other network's figures
    assert f1(outcomes) == pytest.approx(card.figures["best_f1"], abs=0.15)


@pytest.mark.parametrize(("network", "name"), SHIPPED)
def test_a_card_says_what_the_weights_are(network, name):
    card = get_card(network, name)
    assert card.network == network
    assert 0 < card.threshold < 1
    for text in (card.data, card.command, card.code, card.limits):
        assert len(text) > 5
    assert card.licence == "MIT"
    assert card.folds
    for figure in ("precision", "recall", "f1", "iou", "rw_f1", "rw_iou", "best_f1"):
        assert 0 <= card.figures[figure] <= 1
    assert card.settings["epochs"] > 0


def test_trained_networks_take_settings_that_do_not_change_them():
    network, name = SHIPPED[0]
    before = torch.get_rng_state()
    plain = create_model(network, weights=name).eval()
    assert torch.equal(torch.get_rng_state(), before)
    padded = create_model(network, weights=name, indivisible="pad", sigmoid=True).eval()
    image = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(torch.sigmoid(plain(image)), padded(image))
        assert padded(torch.rand(1, 3, 33, 41)).shape == (1, 1, 33, 41)
    assert create_model(network, weights=name, width=plain.config.width)
    with pytest.raises(ValueError, match="fix its classes"):
        create_model(network, weights=name, classes=4)
    with pytest.raises(ValueError, match="fix its width"):
        create_model(network, weights=name, width=plain.config.width + 1)
    with pytest.raises(ValueError, match="has no setting 'sigmold'"):
        create_model(network, weights=name, sigmold=True)


def test_weights_that_do_not_exist_name_those_that_do(monkeypatch):
    known = weights._digests()
    network = SHIPPED[0][0]
    with pytest.raises(ValueError, match=r"no weights 'snow' for .*known weights: 'sand'"):
        create_model(network, weights="snow")
    rest = {key: value for key, value in known.items() if not key.endswith(f"/{network}")}
    monkeypatch.setattr(weights, "_digests", lambda: rest)
    with pytest.raises(ValueError, match=f"there are no weights 'sand' for '{network}'"):
        create_model(network, weights="sand")


def test_a_changed_file_is_refused(tmp_path, monkeypatch):
    network, name = SHIPPED[0]
    original = weights.FOLDER / name / f"{network}.safetensors"
    (tmp_path / name).mkdir()
    (tmp_path / "digests.json").write_text(json.dumps(weights._digests()))
    monkeypatch.setattr(weights, "FOLDER", tmp_path)
    with pytest.raises(ValueError, match="is damaged: SHA-256 no file"):
        create_model(network, weights=name)
    data = bytearray(original.read_bytes())
    data[-1] ^= 1
    (tmp_path / name / original.name).write_bytes(data)
    with pytest.raises(ValueError, match="is damaged: SHA-256"):
        create_model(network, weights=name)


def test_a_file_of_weights_says_what_it_is(tmp_path):
    from safetensors.torch import save_file

    network, name = SHIPPED[0]
    file = weights.FOLDER / name / f"{network}.safetensors"
    card, tensors = read_weights(file)
    assert card == get_card(network, name)
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
    assert create_model(network, weights=str(file))
    other = next(other for other in list_models() if other != network)
    with pytest.raises(ValueError, match=f"of '{network}', not of '{other}'"):
        create_model(other, weights=str(file))
    save_file({"a": torch.zeros(1)}, tmp_path / "bare.safetensors")
    with pytest.raises(ValueError, match="has no model card"):
        read_weights(tmp_path / "bare.safetensors")
    (tmp_path / "text.safetensors").write_text("no weights")
    with pytest.raises(ValueError, match="no readable file of weights"):
        read_weights(tmp_path / "text.safetensors")


def test_probabilities_are_finite_on_black_and_white():
    network, name = SHIPPED[0]
    model = create_model(network, weights=name).eval()
    for value in (0, 255):
        photo = np.full((40, 40, 3), value, np.uint8)
        assert np.isfinite(predict_photo(model, photo)).all()
