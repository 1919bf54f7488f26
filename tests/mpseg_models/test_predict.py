import csv
import hashlib

import numpy as np
import pytest
import torch
from PIL import Image

from mpseg_models import Card, create_model, get_config, list_models, save_weights
from mpseg_models.__main__ import main
from mpseg_models.predict import find_particles, predict_photo, reach

NETWORKS = [
    ("unet", {"width": 4}),
    ("half_unet", {"width": 4}),
    ("multiresunet", {"width": 4}),
    ("half_multiresunet", {"width": 6}),
    ("quarter_multiresunet", {"width": 6}),
    ("quarter_multiresunet", {"width": 6, "respath": (9,)}),  # the skip looks further than the rest
]


def network(name, settings):
    return create_model(name, seed=0, **settings).eval()


def looked_at(model, side, row):
    """How far up and down the output in one row depends on the input."""
    image = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    for parameter in model.parameters():
        parameter.data.abs_()  # nothing cancels, no ReLU blocks
    image.requires_grad_()
    model(image)[0, 0, row, row].backward()
    rows = image.grad.abs().sum((0, 1, 3)).nonzero()[:, 0]
    return row - int(rows.min()), int(rows.max()) - row


@pytest.mark.parametrize(("name", "settings"), NETWORKS[1:2] + NETWORKS[3:])
def test_reach_is_the_furthest_that_any_output_looks(name, settings):
    model = network(name, settings)
    side = -(-(2 * reach(model) + 3 * model.multiple) // model.multiple) * model.multiple
    middle = side // 2 // model.multiple * model.multiple
    sides = [looked_at(model, side, middle + phase) for phase in range(model.multiple)]
    assert max(max(pair) for pair in sides) == reach(model)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            name, marks=pytest.mark.slow if name in ("multiresunet", "half_multiresunet") else ()
        )
        for name in list_models()
    ],
)
def test_reach_agrees_with_the_receptive_field(name):
    from weightscope.graph import read_structure
    from weightscope.receptive_field import network_receptive_field

    settings = {"width": 4}
    model = network(name, settings)
    field = network_receptive_field(read_structure(model).program)[0]
    # a pixel near a border of the pooling looks further to one side than to the other
    shift = 2 ** len(get_config(name, **settings).encoder) - 1
    assert 2 * reach(model) + 1 - shift <= field <= 2 * reach(model) + 1


@pytest.mark.parametrize(("name", "settings"), NETWORKS)
def test_tiles_are_stitched_without_seams(name, settings):
    model = network(name, settings)
    rng = np.random.default_rng(0)
    photo = rng.integers(0, 256, (133, 170, 3), dtype=np.uint8)  # no multiple of anything
    whole = predict_photo(model, photo, tile=10_000)
    margin = -(-reach(model) // model.multiple) * model.multiple
    tiled = predict_photo(model, photo, tile=2 * margin + 64)
    assert whole.shape == tiled.shape == (133, 170)
    np.testing.assert_allclose(tiled, whole, atol=2e-6)
    assert np.ptp(whole) > 1e-3


def test_a_smaller_overlap_would_leave_seams(monkeypatch):
    import mpseg_models.predict as predict

    model = network("half_multiresunet", {"width": 6})
    photo = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    whole = predict_photo(model, photo, tile=10_000)
    monkeypatch.setattr(predict, "reach", lambda model: 4)
    assert abs(predict_photo(model, photo, tile=48) - whole).max() > 1e-4


def test_one_pass_is_what_the_padded_network_returns():
    model = create_model("half_unet", width=4, seed=0, indivisible="pad", sigmoid=True).eval()
    photo = np.random.default_rng(1).integers(0, 256, (37, 50, 3), dtype=np.uint8)
    with torch.no_grad():
        image = torch.from_numpy(photo).permute(2, 0, 1)[None].float() / 255
        expected = model(image)[0, 0].numpy()
    plain = create_model("half_unet", width=4, seed=0).eval()
    np.testing.assert_allclose(predict_photo(plain, photo), expected, atol=1e-6)


def test_particles_have_area_position_and_size():
    probability = np.zeros((20, 30), np.float32)
    probability[2:5, 4:8] = 0.9
    probability[10, 20] = 0.6
    probability[11, 21] = 0.8  # touches at the corner
    first, second = find_particles("a.png", probability, 0.5)
    assert (first.area, first.row, first.column, first.height, first.width) == (12, 3, 5.5, 3, 4)
    assert (first.top, first.left) == (2, 4)
    assert (second.particle, second.area, second.row) == (2, 2, 10.5)
    assert second.probability == pytest.approx(0.7)
    assert len(find_particles("a.png", probability, 0.7)) == 2
    assert find_particles("a.png", probability, 0.95) == []


@pytest.fixture
def weights(tmp_path):
    """A network that finds what is bright: its only wish is a sum of colours."""
    config = get_config("quarter_multiresunet", width=6)
    model = create_model("quarter_multiresunet", width=6, seed=0)
    card = Card(
        network="quarter_multiresunet",
        config={**vars(config), "seed": None},
        threshold=0.3,
        data="none",
        settings={},
        figures={"best_f1": 0.5},
        folds={},
        check={},
        command="",
        code="",
        licence="MIT",
        limits="a test",
    )
    path = tmp_path / "own.safetensors"
    save_weights(path, card, model.state_dict())
    return path


def photograph(path, size=(40, 30)):
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def test_the_command_writes_masks_overlays_and_tables(weights, tmp_path, capsys):
    photos = [photograph(tmp_path / "=cmd.png"), photograph(tmp_path / "b.jpg", (50, 44))]
    out = tmp_path / "out"
    assert main(["predict", *map(str, photos), "--weights", str(weights), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert said.startswith("1 of 2: '=cmd.png', ")
    assert "2 of 2: 'b.jpg', " in said
    assert "threshold 0.30" in said
    assert "Limits: a test" in said
    for name, shape in (("=cmd", (40, 30)), ("b", (50, 44))):
        mask = np.asarray(Image.open(out / f"{name}-mask.png"))
        assert mask.shape == shape
        assert set(np.unique(mask)) <= {0, 255}
        assert np.asarray(Image.open(out / f"{name}-overlay.png")).shape == (*shape, 3)
    summary = rows(out / "photographs.csv")
    assert [row["photo"] for row in summary] == ["'=cmd.png", "b.jpg"]  # no formula
    particles = rows(out / "particles.csv")
    assert len(particles) == sum(int(row["particles"]) for row in summary)
    assert list(particles[0])[5:9] == ["top", "left", "height", "width"]
    area = sum(int(p["area"]) for p in particles if p["photo"] == "b.jpg")
    assert area == int(summary[1]["plastic_pixels"])
    assert len(list(out.iterdir())) == 6  # nothing half written is left


def rows(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_a_bad_photograph_does_not_end_the_run(weights, tmp_path, capsys):
    photos = [photograph(tmp_path / f"{name}.png") for name in "abc"]
    photos[1].write_bytes(photos[1].read_bytes()[:500])
    out = tmp_path / "deep" / "out"
    common = ["--weights", str(weights), "--out", str(out)]
    assert main(["predict", *map(str, photos), str(tmp_path / "d.png"), *common]) == 1
    said = capsys.readouterr()
    assert "in 2 of 4 photographs" in said.out
    assert [line[:7] for line in said.err.splitlines()] == ["error: "] * 2
    assert "b.png' is not a readable image" in said.err
    assert "there is no file" in said.err
    assert [row["photo"] for row in rows(out / "photographs.csv")] == ["a.png", "c.png"]
    assert (out / "c-mask.png").is_file()
    assert not (out / "b-mask.png").exists()


def test_an_interrupted_run_leaves_the_tables_of_what_was_done(
    weights, tmp_path, capsys, monkeypatch
):
    import mpseg_models.predict as predict

    photos = [photograph(tmp_path / f"{name}.png") for name in "abc"]
    real = predict.find_particles

    def interrupt(name, *rest):
        if name == "b.png":
            raise KeyboardInterrupt
        return real(name, *rest)

    monkeypatch.setattr(predict, "find_particles", interrupt)
    out = tmp_path / "out"
    common = ["--weights", str(weights), "--out", str(out)]
    assert main(["predict", *map(str, photos), *common]) == 130
    assert "what was done is in" in capsys.readouterr().err
    assert [row["photo"] for row in rows(out / "photographs.csv")] == ["a.png"]


def test_a_folder_stands_for_its_photographs(weights, tmp_path, capsys):
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a.PNG", "b.jpg", "._a.png"):
        photograph(folder / name)
    (folder / "notes.txt").write_text("no photograph")
    common = ["--weights", str(weights), "--out", str(tmp_path / "out")]
    assert main(["predict", str(folder), *common]) == 0
    assert "in 2 of 2 photographs" in capsys.readouterr().out
    (tmp_path / "empty").mkdir()
    assert main(["predict", str(tmp_path / "empty"), *common]) == 2
    assert "has no photographs" in capsys.readouterr().err


def test_unusual_photographs_are_named(weights, tmp_path, capsys):
    deep = np.random.default_rng(0).integers(0, 4096, (40, 30), dtype=np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    photos = [photograph(tmp_path / "a.png"), tmp_path / "deep.png"]
    common = ["--weights", str(weights), "--out", str(tmp_path / "out")]
    assert main(["predict", *map(str, photos), *common]) == 0
    warned = capsys.readouterr().err
    assert "warning: photographs without colours: 'deep.png'" in warned
    assert "with white at 4095: 'deep.png'" in warned
    assert "a.png" not in warned


@pytest.mark.parametrize("below", ["", "sub/folder"])
def test_results_cannot_go_where_a_file_is(weights, tmp_path, capsys, below):
    photo = photograph(tmp_path / "a.png")
    common = ["--weights", str(weights), "--out", str(photo / below)]
    assert main(["predict", str(photo), *common]) == 2
    said = capsys.readouterr()
    assert "it is, or lies below, a file; give another folder" in said.err
    assert said.err.count("\n") == 1
    assert said.out == ""


def test_weights_are_checked_against_a_digest_beside_them(weights, tmp_path, capsys):
    photo = str(photograph(tmp_path / "a.png"))
    common = ["predict", photo, "--weights", str(weights), "--out", str(tmp_path / "out")]
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    beside = weights.with_name("own.safetensors.sha256")
    beside.write_text(f"{digest}  own.safetensors\n")
    assert main(common) == 0
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert main(common) == 2
    assert "is not the file that 'own.safetensors.sha256'" in capsys.readouterr().err
    beside.write_text("")
    assert main(common) == 2
    beside.unlink()
    assert main(common) == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--weights", "sond"], "there are no weights 'sond'"),
        (["--weights", "missing.safetensors"], "no readable file of weights"),
        (["--threshold", "1.5"], "no probability"),
        (["--tile", "0"], "no number of pixels"),
    ],
)
def test_bad_input_ends_with_one_line(weights, tmp_path, capsys, change, message):
    photo = str(photograph(tmp_path / "a.png"))
    given = [] if change[0] == "--weights" else ["--weights", str(weights)]
    assert main(["predict", photo, *given, *change, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1


def test_photographs_of_one_name_and_files_that_are_none_are_refused(weights, tmp_path, capsys):
    (tmp_path / "x").mkdir()
    photos = [photograph(tmp_path / "a.png"), photograph(tmp_path / "x" / "a.jpg")]
    (tmp_path / "text.png").write_text("no image")
    common = ["--weights", str(weights), "--out", str(tmp_path / "out")]
    assert main(["predict", *map(str, photos), *common]) == 2
    assert "several photographs are called 'a'" in capsys.readouterr().err
    assert main(["predict", str(tmp_path / "text.png"), *common]) == 2
    assert "not a readable image" in capsys.readouterr().err
