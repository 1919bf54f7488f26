import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import weightscope as ws
from mpseg_models import create_model
from weightscope.errors import CheckpointError, InputError
from weightscope.histories import _KEY


@pytest.fixture(scope="module")
def watched():
    """A network after four steps, and its history."""
    torch.manual_seed(0)
    model = create_model("half_unet", width=4, seed=0)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    with ws.watch(model, optimizer, every=2) as history:
        for _ in range(4):
            optimizer.zero_grad()
            model(torch.rand(2, 3, 16, 16)).square().mean().backward()
            optimizer.step()
    return model, history


def test_a_saved_history_says_what_the_watched_one_says(watched, tmp_path):
    model, history = watched
    ws.save_history(history, tmp_path / "h.safetensors")
    read = ws.read_history(tmp_path / "h.safetensors")
    assert read.steps == history.steps == 4
    assert repr(read.displacements()) == repr(history.displacements())  # nan equals itself there
    assert all(torch.equal(read.initial()[n], t) for n, t in history.initial().items())
    found, wanted = (ws.analyze(model, history=h, response=False) for h in (read, history))
    assert found.scores.equals(wanted.scores)
    assert "history" in set(found.scores["grade"])
    assert len(repr(read)) < 400


def spoiled(file, change):
    metadata = {"version": 1, "steps": 0, "displacements": []}
    change(metadata)
    save_file({"w": torch.zeros(1)}, file, {_KEY: json.dumps(metadata)})


RECORD = {"parameter": "w", "count": 1, "moved": 0.0, "shrinkage": 1.0, "walk": 0.0} | {
    "faded_walk": 0.0
}


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.update(version=2),
        lambda m: m.pop("steps"),
        lambda m: m.update(displacements=[{"parameter": "w"}]),
        lambda m: m.update(displacements=[{**RECORD, "moved": -1.0}]),
        lambda m: m.update(displacements=[{**RECORD, "moved": float("inf")}]),
        lambda m: m.update(displacements=[{**RECORD, "parameter": 3}]),
        lambda m: m.update(displacements=3),
        lambda m: m.update(displacements={}),
        lambda m: m.update(displacements=[{**RECORD, "moved": 10**400}]),
        lambda m: m.update(steps=-5),
        lambda m: m.update(steps=True),
        lambda m: m.update(steps=float("inf")),
        lambda m: m.update(steps="3"),
    ],
)
def test_what_no_training_gives_is_refused(tmp_path, change):
    spoiled(tmp_path / "h.safetensors", change)
    with pytest.raises(CheckpointError, match=r"h\.safetensors' cannot be used"):
        ws.read_history(tmp_path / "h.safetensors")


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("parameter", [3, None, "elsewhere", ["w"]]),
        ("count", [None, "x", {}, -1, 0, 2, 1.0, True, float("nan"), 2**70]),
        ("moved", [None, "x", -1.0, 1e300, float("nan"), float("inf"), True, [1.0]]),
        ("shrinkage", [None, "x", 1e300, {}, False]),
        ("walk", [None, "x", -1.0, 1e-300, 1e300, float("nan"), float("inf")]),
        ("faded_walk", [None, "x", -1e-9, 1e-300, float("inf"), {}]),
        ("saliency", [None, "x", -1.0, 1e300, float("inf")]),
        ("normalised", [None, "x", 1, 0.0]),
        ("note", [None, 3, ["x"]]),
        ("elsewhere", [1]),
    ],
)
def test_each_field_is_checked_and_named(tmp_path, field, values):
    for value in values:
        record = {**RECORD, field: value}
        spoiled(tmp_path / "h.safetensors", lambda m, r=record: m.update(displacements=[r]))
        with pytest.raises(CheckpointError, match=rf"cannot be used \(.*{field}") as caught:
            ws.read_history(tmp_path / "h.safetensors")
        assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"version": True}, "version is True"),
        ({"version": "1"}, "version is '1'"),
        ({"steps": 2**70}, "steps are 11805"),
        ({"steps": None}, "steps are None"),
        ({"displacements": [RECORD, RECORD]}, "'w', which occurs twice"),
        ({"displacements": [3]}, "mapping"),
    ],
)
def test_a_history_as_a_whole_is_checked(tmp_path, change, words):
    spoiled(tmp_path / "h.safetensors", lambda m: m.update(change))
    with pytest.raises(CheckpointError, match=words):
        ws.read_history(tmp_path / "h.safetensors")


@pytest.mark.parametrize(
    "change",
    [
        {"shrinkage": float("nan")},
        {"shrinkage": -1.0},
        {"shrinkage": float("nan"), "moved": float("nan")},
        {"shrinkage": float("inf"), "moved": float("nan")},
        {"walk": float("nan"), "faded_walk": float("nan"), "note": "no walk is known"},
        {"walk": 1e-60, "moved": 1e30, "faded_walk": 0, "saliency": 3e-200, "normalised": False},
    ],
)
def test_what_odd_trainings_give_is_read(tmp_path, change):
    record = {**RECORD, **change}
    spoiled(tmp_path / "h.safetensors", lambda m: m.update(displacements=[record]))
    found = vars(ws.read_history(tmp_path / "h.safetensors").displacements()[0])
    assert repr({key: found[key] for key in record}) == repr(record)


def test_a_history_of_weights_that_became_nan_is_read_again(tmp_path):
    model = torch.nn.Conv2d(2, 3, 3)
    for value in (float("nan"), float("inf"), 1e38):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with ws.watch(model, optimizer) as history, torch.no_grad():
            model.weight[0] = value
        ws.save_history(history, tmp_path / "h.safetensors")
        read = ws.read_history(tmp_path / "h.safetensors").displacements()
        assert repr(read) == repr(history.displacements())
        torch.nn.init.normal_(model.weight)


def test_another_file_is_refused_by_name(watched, tmp_path):
    save_file(watched[0].state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match="is no history"):
        ws.read_history(tmp_path / "w.safetensors")
    (tmp_path / "text").write_text("text")
    torch.save(watched[0].state_dict(), tmp_path / "last.ckpt")
    for name, reason in (("text", "damaged"), ("gone", ""), ("last.ckpt", "as torch.save writes")):
        match = f"{name}' cannot be read as a history.*{reason}"
        with pytest.raises(CheckpointError, match=match):
            ws.read_history(tmp_path / name)


def test_the_command_reads_it(watched, tmp_path, monkeypatch, capsys):
    from weightscope.cli import main

    model, history = watched
    monkeypatch.chdir(tmp_path)
    ws.save_history(history, "h.safetensors")
    torch.save(model.state_dict(), "w.pt")
    arguments = ["analyze", "mpseg_models:create_model", "half_unet", "width=4"]
    arguments += ["--weights", "w.pt", "--history", "h.safetensors", "--json", "a.json"]
    assert main(arguments) == 0
    scores = json.loads((tmp_path / "a.json").read_text())["scores"]
    assert "history" in {score["grade"] for score in scores}
    assert load_file("h.safetensors").keys() == dict(model.named_parameters()).keys()


class Wrapped(torch.nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, image):
        return self.net(image)


def test_the_start_is_known_under_a_wrappers_prefix(watched):
    model, history = watched
    bare = ws.analyze(model, history=history, response=False)
    wrapped = ws.analyze(Wrapped(model), history=history, response=False)
    assert list(wrapped.scores["why"]) == list(bare.scores["why"])
    assert all(p.null.source == "given" for p in wrapped.statistics.parameters if p.is_kernel)


def test_a_history_of_another_draw_ranks_nothing(watched):
    _, history = watched
    other = create_model("half_unet", width=4, seed=1)
    optimizer = torch.optim.Adam(other.parameters(), lr=1e-3)
    with ws.watch(other, optimizer) as resumed:  # without the weights of the first training
        resumed.load_state_dict(history.state_dict())
    found = ws.analyze(other, history=resumed, response=False)
    assert set(found.scores["grade"]) == {"weights"}
    (note,) = found.assessment.notes
    assert "the start that history= recorded" in note
    assert note.endswith("so that history= was left out.")


def test_a_training_that_lost_its_numbers_is_not_called_another_one():
    torch.manual_seed(0)
    model = create_model("half_unet", width=4, seed=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with ws.watch(model, optimizer, every=1) as history:
        for loss in (1.0, float("nan")):
            optimizer.zero_grad()
            (loss * model(torch.rand(2, 3, 16, 16)).square().mean()).backward()
            optimizer.step()
    found = ws.analyze(model, history=history)
    assert found.assessment.state == "broken"
    assert "NaN" in str(found)
    for wrong in ("as it recorded", "something else than the watched optimiser"):
        assert wrong not in str(found) + " ".join(found.scores["why"])


@pytest.mark.parametrize("content", [b"precious", None])
def test_a_store_writes_over_nothing_else(tmp_path, content):
    model = torch.nn.Conv2d(1, 1, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    file = tmp_path / "start.safetensors"
    if content is None:
        save_file({"weights": torch.ones(3)}, file)
    else:
        file.write_bytes(content)
    before = file.read_bytes()
    with (
        pytest.raises(InputError, match="is there already and holds no starting weights"),
        ws.watch(model, optimizer, store=file),
    ):
        pass
    assert file.read_bytes() == before
    for _ in range(2):  # a resumed training keeps its start where it was
        with ws.watch(model, optimizer, store=tmp_path / "own.safetensors") as history:
            assert set(history.initial()) == {"weight", "bias"}
