"""Weights are found in what training code writes, and fit, or the error says why not."""

import argparse
import datetime
import json
import os
import pathlib
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch
from safetensors.torch import save as save_tensors
from safetensors.torch import save_file, save_model
from torch import nn

import weightscope.checkpoints.weights as weights_module
from weightscope import fit_weights, read_weights, scan
from weightscope.errors import CheckpointError, InputError


class Net(nn.Module):
    def __init__(self, width=4, classes=1, bias=False):
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(1, width, 3, bias=bias), nn.BatchNorm2d(width))
        self.head = nn.Conv2d(width, classes, 1)


torch.manual_seed(0)
NET = Net()
STATE = NET.state_dict()
OTHER = {name: value + 1 for name, value in STATE.items()}
NAMED_BY_WRAPPERS = {f"module._orig_mod.{name}": value for name, value in STATE.items()}
OPTIMIZER = {"state": {0: {"exp_avg": torch.zeros(4, 1, 3, 3), "step": torch.tensor(3.0)}}}
HOLDERS = {
    "plain": (STATE, ""),
    "lightning": (
        {
            "epoch": 3, "pytorch-lightning_version": "2.4.0",
            "state_dict": {
                **{f"model.{n}": v for n, v in STATE.items()}, "loss.weight": torch.ones(1)
            },
            "optimizer_states": [OPTIMIZER], "hyper_parameters": argparse.Namespace(lr=1e-3),
        },
        "state_dict.model.",
    ),
    "distributed": ({f"module.{n}": v for n, v in STATE.items()}, "module."),
    "compiled": ({f"_orig_mod.{n}": v for n, v in STATE.items()}, "_orig_mod."),
    "both wrappers": (NAMED_BY_WRAPPERS, "module._orig_mod."),
    "nnU-Net": (
        {
            "network_weights": STATE, "_best_ema": np.float64(0.7), "optimizer_state": OPTIMIZER,
            "init_args": {"when": datetime.datetime(2026, 1, 1), "where": pathlib.Path("fold_0")},
            "logging": {"train_losses": [np.float32(0.5)] * 3},
        },
        "network_weights.",
    ),
    "net": ({"net": STATE}, "net."),
    "model_state": ({"model_state": OrderedDict(STATE)}, "model_state."),
    "average beside raw": ({"ema_state": OTHER, "state": STATE}, "state."),
    "average of a wrapper": (
        {
            "model_ema": {"n": torch.tensor(3), **{f"module.{n}": v for n, v in OTHER.items()}},
            "model": STATE,
        },
        "model.",
    ),
    "parts": (
        {
            "encoder": {n[8:]: v for n, v in STATE.items() if n.startswith("encoder")},
            "head": {n[5:]: v for n, v in STATE.items() if n.startswith("head")},
            "optimizer": OPTIMIZER,
        },
        "",
    ),
    "parameters": (
        OrderedDict((n, nn.Parameter(v, v.is_floating_point())) for n, v in STATE.items()), ""
    ),
}  # fmt: skip


def same(fitted, state):
    assert list(fitted) == list(state)
    for name, value in state.items():
        assert torch.equal(fitted[name], value)
        assert fitted[name].dtype == value.dtype


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("name", HOLDERS)
def test_what_training_code_writes(tmp_path, name, old):
    content, prefix = HOLDERS[name]
    path = tmp_path / "weights.whatever"
    torch.save(content, path, _use_new_zipfile_serialization=not old)
    fitted = fit_weights(NET, read_weights(path))
    same(fitted, STATE)
    assert fitted.prefix == prefix
    assert (repr(prefix) in fitted.note) == bool(prefix)
    model = Net()
    model.load_state_dict(fitted)
    assert torch.equal(model.head.weight, NET.head.weight)
    assert {p.parameter for p in scan(path).parameters} >= {
        fitted.prefix + n for n in STATE if not n.endswith("tracked")
    }


def test_the_average_is_offered_and_can_be_asked_for(tmp_path):
    torch.save(HOLDERS["average beside raw"][0], tmp_path / "w.pt")
    weights = read_weights(tmp_path / "w.pt")
    assert "'ema_state.' would fit too" in fit_weights(NET, weights).note
    same(fit_weights(NET, weights, prefix="ema_state."), OTHER)
    with pytest.raises(CheckpointError, match=r"missing +7 "):
        fit_weights(NET, weights, prefix="emma.")


def test_without_a_model_the_usual_key_is_taken(tmp_path):
    torch.save(HOLDERS["lightning"][0], tmp_path / "w.ckpt")
    weights = read_weights(tmp_path / "w.ckpt")
    assert weights.prefix == "state_dict."
    assert next(iter(weights)) == "model.encoder.0.weight"
    assert weights.shape("model.head.bias") == (1,)
    inner = read_weights(tmp_path / "w.ckpt", prefix="state_dict.model.")
    same(inner, STATE)
    assert repr(inner).startswith("<8 tensors of ")
    with pytest.raises(CheckpointError, match="they begin with 'state_dict', 'optimizer_states'"):
        read_weights(tmp_path / "w.ckpt", prefix="ema.")


def test_models_in_wrappers(tmp_path):
    torch.save(STATE, tmp_path / "w.pt")
    for wrapped in (nn.DataParallel(Net()), torch.compile(Net(), backend="eager")):
        fitted = fit_weights(wrapped, read_weights(tmp_path / "w.pt"))
        assert fitted.prefix == ""
        wrapped.load_state_dict(fitted)
        assert torch.equal(next(wrapped.parameters()), NET.encoder[0].weight)


def test_folders_indexes_and_any_suffix(tmp_path):
    save_file(STATE, tmp_path / "weights.bin")
    same(fit_weights(NET, read_weights(tmp_path / "weights.bin")), STATE)
    folder = tmp_path / "smp"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "README.md").write_text("# Model card")
    save_file(STATE, folder / "model.safetensors")
    torch.save(OTHER, folder / "pytorch_model.bin")
    torch.save(OPTIMIZER, folder / "optimizer.bin")
    same(fit_weights(NET, read_weights(folder)), STATE)
    sharded = tmp_path / "sharded"
    sharded.mkdir()
    names = list(STATE)
    for i, some in enumerate((names[:3], names[3:])):
        torch.save({n: STATE[n] for n in some}, sharded / f"pytorch_model-{i}.bin")
    index = {"weight_map": {n: f"pytorch_model-{int(i >= 3)}.bin" for i, n in enumerate(names)}}
    (sharded / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    same(fit_weights(NET, read_weights(sharded)), STATE)
    other = tmp_path / "run"
    other.mkdir()
    torch.save(STATE, other / "best")
    same(fit_weights(NET, read_weights(other)), STATE)
    torch.save(STATE, other / "last")
    with pytest.raises(CheckpointError, match=r"2 files of weights; name one of them .'best', 'la"):
        read_weights(other)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(CheckpointError, match=r"a folder in it .*'run'"):
        read_weights(tmp_path)


def test_tied_weights_may_be_stored_once(tmp_path):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)
            self.b.weight = self.a.weight

    model = Tied()
    save_model(model, tmp_path / "w.safetensors")
    same(fit_weights(model, read_weights(tmp_path / "w.safetensors")), model.state_dict())
    torch.save(model.state_dict(), tmp_path / "w.pt")
    same(fit_weights(model, read_weights(tmp_path / "w.pt")), model.state_dict())
    weight = scan(tmp_path / "w.pt").parameters[0]
    assert (weight.parameter, weight.shared_with) == ("a.weight", ("b.weight",))


def test_old_batch_norms_count_no_batches(tmp_path):
    torch.save({n: v for n, v in STATE.items() if "tracked" not in n}, tmp_path / "w.pt")
    Net().load_state_dict(fit_weights(NET, read_weights(tmp_path / "w.pt")))


@pytest.mark.parametrize(("model", "change", "words"), [
    (Net(classes=3), None, r"other shape +2 +'head\.weight' \(1, 4, 1, 1\) in the file, \(3, 4,"),
    (Net(width=8), None, r"other shape +6 .*, \.\.\.\n.*the width"),
    (Net(bias=True), None, r"missing +1 +'encoder\.0\.bias'\n.*configuration"),
    (Net(), lambda s: s | {"extra.weight": torch.ones(1)}, r"unexpected +1 +'extra\.weight'\n"),
    (Net(), lambda s: {"state_dict": s | {"x": torch.ones(1)}, "y": torch.ones(1)},
     r"'state_dict\.' taken off:\n  unexpected +1 +'x'\n"),
    (Net(), lambda s: {f"x{i}": v for i, v in enumerate(s.values())}, "are the same: rename"),
    (Net(), lambda s: {"far": torch.ones(9)}, "give the network that it is of"),
    (nn.ModuleDict({"model": Net()}), None, "network inside, which the model holds as 'model'"),
])  # fmt: skip
def test_weights_that_do_not_fit(tmp_path, model, change, words):
    torch.save(change(STATE) if change else STATE, tmp_path / "w.pt")
    before = {n: v.clone() for n, v in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=words) as caught:
        fit_weights(model, read_weights(tmp_path / "w.pt"))
    assert "w.pt does not fit" in str(caught.value)
    assert "weights_only" not in str(caught.value)
    assert len(str(caught.value)) < 1000
    same(before, model.state_dict())


def test_what_is_no_model(tmp_path):
    torch.save(STATE, tmp_path / "w.pt")
    with pytest.raises(InputError, match=r"expected a torch\.nn\.Module, got int"):
        fit_weights(3, read_weights(tmp_path / "w.pt"))


def test_a_file_that_was_changed_since(tmp_path):
    path = tmp_path / "w.pt"
    torch.save(STATE, path)
    weights = read_weights(path)
    with path.open("r+b") as file:
        file.truncate(200)
    with pytest.raises(CheckpointError, match="was changed while it was read"):
        weights["head.weight"]
    torch.save(STATE, path)
    weights = read_weights(path)
    torch.save(OTHER, tmp_path / "new.pt")
    (tmp_path / "new.pt").replace(path)  # another file by the same name does not matter
    assert torch.equal(weights["head.weight"], STATE["head.weight"])


class _Text(str):
    """A name that counts how much of it is copied."""

    copied = 0

    def __getitem__(self, part):
        found = super().__getitem__(part)
        _Text.copied += len(found)
        return found


def test_names_of_any_length_are_read_once():
    """Trying every end of a name would take the square of its length."""
    name = _Text("a." * 5000 + "conv.weight")
    fits = weights_module._prefixes_that_fit({"conv.weight": (2,)}, {name: (2,)})
    assert fits == {"a." * 5000: 1}
    assert _Text.copied < 3 * len(name)


@pytest.mark.parametrize("old", [False, True])
def test_signs_that_torch_notes_beside_the_numbers_are_applied(tmp_path, old):
    torch.manual_seed(0)
    numbers, whole = torch.randn(6, 8), torch.arange(-3, 5)
    pair = torch.complex(numbers, numbers.flip(0))
    content = {
        "negated": torch._neg_view(numbers),
        "as it is": numbers,
        "part": torch._neg_view(numbers)[1:5:2, ::3].T,
        "repeated": torch._neg_view(numbers[0]).expand(3, 8),
        "imaginary": pair.clone().conj().imag,
        "conjugated": pair.conj(),
        "both": torch._neg_view(pair).conj(),
        "pair": pair,
        "integers": torch._neg_view(whole),
    }
    assert content["both"].is_neg()
    assert content["both"].is_conj()
    path = tmp_path / "signs.pt"
    torch.save(content, path, _use_new_zipfile_serialization=not old)
    read = read_weights(path)
    for name, value in content.items():
        torch.testing.assert_close(read[name], value.resolve_conj().resolve_neg(), rtol=0, atol=0)
    measured = {record.parameter: record.summary for record in scan(path).parameters}
    for name in ("negated", "part", "imaginary", "as it is"):
        assert measured[name].maximum == pytest.approx(float(content[name].max())), name
        assert measured[name].mean == pytest.approx(float(content[name].double().mean())), name
    assert measured["repeated"].maximum == pytest.approx(float(-numbers[0].min()))


def test_a_fitted_network_has_the_signs_of_the_one_that_was_saved(tmp_path):
    weight = torch.randn(1, 2)
    torch.save({"weight": torch._neg_view(weight)}, tmp_path / "w.pt")
    fitted = fit_weights(nn.Linear(2, 1, bias=False), read_weights(tmp_path / "w.pt"))
    assert torch.equal(fitted["weight"], -weight)


def test_notes_beside_the_numbers_that_are_not_known_are_named():
    from weightscope.checkpoints import pickles

    # torch does not look at the value of a note
    noted = [{"npu_format": True}, {"neg": True}, {"neg": False}, {"conj": True}, {"neg": 1}, 3]
    storage = pickles.Storage(torch.uint8, 4, 0, None)
    for metadata in noted[:3]:
        found = pickles._tensor(storage, 0, (4,), (1,), False, None, metadata)
        assert "save tensor.clone()" in found.reason
    for metadata in noted[3:]:
        with pytest.raises(ValueError, match=r"conjugated|makes no sense"):
            pickles._tensor(storage, 0, (4,), (1,), False, None, metadata)


def write_in_place(tensors, path):
    path.write_bytes(save_tensors(tensors))


@pytest.mark.parametrize("write", [torch.save, write_in_place], ids=["torch", "safetensors"])
def test_weights_of_two_states_of_a_file_are_never_mixed(write, tmp_path):
    path = tmp_path / "last"
    write({name: torch.ones(1000) for name in "ab"}, path)
    before = path.stat()
    weights = read_weights(path)
    assert weights["a"].mean() == 1
    write({name: torch.full((1000,), 2.0) for name in "ab"}, path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))  # however coarse the clock is
    for read in (
        lambda: weights["b"],
        lambda: dict(weights),
        lambda: fit_weights(Two(), weights)["b"],
    ):
        with pytest.raises(CheckpointError, match="was changed while it was read"):
            read()
    assert read_weights(path)["b"].mean() == 2


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Parameter(torch.ones(1000)), nn.Parameter(torch.ones(1000))


def test_records_that_differ_in_case_are_refused_as_torch_may_find_either(tmp_path):
    torch.save({"a": torch.ones(2), "b": torch.zeros(2)}, tmp_path / "w.pt")
    with zipfile.ZipFile(tmp_path / "w.pt") as old, zipfile.ZipFile(tmp_path / "x.pt", "w") as new:
        for entry in old.infolist():
            name = entry.filename
            new.writestr(name, old.read(name))
            if name.endswith("/version"):
                new.writestr(name.replace("version", "VERSION"), old.read(name))
    with pytest.raises(CheckpointError, match="two of its records have one name"):
        read_weights(tmp_path / "x.pt")


def test_a_part_of_a_storage_has_one_name_and_one_place():
    from weightscope.checkpoints import pickles

    machine = pickles._Machine(lambda *_: None)
    storage = pickles.Storage(torch.float32, 12, 0, None)
    first = machine._part_of(storage, "0", "v", 3, 6)
    assert (first.begin, first.count) == (12, 6)
    assert machine._part_of(storage, "0", "v", 3, 6) == first
    with pytest.raises(ValueError, match="two parts"):
        machine._part_of(storage, "0", "v", 0, 6)
