import csv
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from mpseg_models import create_model
from weightscope.cli import main

NETWORK = """
import torch
from mpseg_models import create_model

def small():
    return create_model("half_unet", width=4, seed=0)

def broken():
    raise RuntimeError("no such backbone")

def needs(arguments):
    return create_model(arguments, width=4)

def classifier():
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.LazyLinear(2))

number = 3
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    (tmp_path / "mynetworks.py").write_text(NETWORK)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    monkeypatch.delitem(sys.modules, "mynetworks", raising=False)
    return tmp_path


def failure(capsys, *arguments):
    """The message of a command that must fail."""
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("weightscope: error: ")
    assert "Traceback" not in captured.err
    return captured.err


def test_analyze_prints_the_table_and_writes_what_is_asked_for(folder, capsys):
    assert main(["analyze", "mynetworks:small", "--html", "a.html", "--csv", "a.csv"]) == 0
    out = capsys.readouterr().out
    assert "nothing can be concluded" in out
    assert out.count("undecided") == 6
    assert "<h1>UNet</h1>" in (folder / "a.html").read_text()
    with (folder / "a.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    model = create_model("half_unet", width=4)
    assert sum(int(row["parameters"]) for row in rows) == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_weights_are_loaded(folder, capsys, suffix):
    model = create_model("half_unet", width=4, seed=0)
    with torch.no_grad():
        model.get_parameter("bottleneck.conv1.weight").zero_()
    write = torch.save if suffix == ".pt" else save_file
    write(model.state_dict(), folder / f"weights{suffix}")
    assert (
        main(["analyze", "mynetworks:small", "--weights", f"weights{suffix}", "--csv", "a.csv"])
        == 0
    )
    with (folder / "a.csv").open(newline="") as file:
        stds = {row["layer"]: float(row["std"]) for row in csv.DictReader(file)}
    assert stds["bottleneck.conv1"] == 0.0
    assert stds["bottleneck.conv2"] > 0.0


def test_a_wrapped_state_dict_is_found(folder, capsys):
    model = create_model("half_unet", width=4, seed=0)
    torch.save({"epoch": 3, "state_dict": model.state_dict()}, folder / "weights.pt")
    assert main(["analyze", "mynetworks:small", "--weights", "weights.pt"]) == 0


class Payload:
    """Pickles to a call that leaves a file behind when it is loaded carelessly."""

    def __reduce__(self):
        return Path.touch, (Path("executed"),)


@pytest.mark.parametrize("command", [["scan"], ["analyze", "mynetworks:small", "--weights"]])
def test_code_in_a_checkpoint_is_never_run(folder, capsys, command):
    torch.save({"weight": torch.ones(2), "evil": Payload()}, folder / "evil.pt")
    (folder / "plain.pt").write_bytes(pickle.dumps(Payload()))
    for name in ("evil.pt", "plain.pt"):
        assert name in failure(capsys, *command, name)
    assert not (folder / "executed").exists()


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("mynetworks", "write MODULE:FACTORY"),
        ("nowhere:small", "No module named 'nowhere'"),
        ("mynetworks:big", "has no attribute 'big'"),
        ("mynetworks:broken", "RuntimeError: no such backbone"),
        ("mynetworks:needs", "missing 1 required positional argument"),
        ("mynetworks:number", "'int' object is not callable"),
        ("torch:zeros", "zeros"),
    ],
)
def test_a_factory_that_does_not_work_is_named(capsys, factory, message):
    error = failure(capsys, "analyze", factory)
    assert factory in error
    assert message in error


def test_a_factory_may_take_text(capsys):
    assert main(["analyze", "mynetworks:needs", "half_unet"]) == 0
    assert capsys.readouterr().out.startswith("UNet: ")


def test_the_input_size_may_be_given(capsys):
    assert main(["analyze", "mynetworks:small", "--input", "1x3x64x96"]) == 0
    assert "MACs at 1 x 3 x 64 x 96\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("shape", "message"),
    [("1x3", "hold no image"), ("1x1x64x64", "1x1x64x64"), ("1x3x63x64", "1x3x63x64")],
)
def test_an_input_that_does_not_fit_is_named(capsys, shape, message):
    assert message in failure(capsys, "analyze", "mynetworks:small", "--input", shape)


@pytest.mark.parametrize("shape", ["huge", "1x-3x4x4", "1x0x4x4", ""])
def test_a_shape_that_is_none_is_named(capsys, shape):
    with pytest.raises(SystemExit) as stopped:
        main(["analyze", "mynetworks:small", f"--input={shape}"])
    assert stopped.value.code == 2
    assert "is no shape; write 1x3x512x512" in capsys.readouterr().err


def test_a_factory_that_returns_something_else_is_named(capsys):
    assert "gave a dict, expected a torch.nn.Module" in failure(capsys, "analyze", "builtins:dict")


def test_weights_of_another_network_are_refused(folder, capsys):
    torch.save(create_model("half_unet", width=6).state_dict(), folder / "other.pt")
    error = failure(capsys, "analyze", "mynetworks:small", "--weights", "other.pt")
    assert "other.pt does not fit UNet" in error
    assert re.search(r"other shape +\d+   'encoder", error)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not a zip", b"text"])
@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
@pytest.mark.parametrize("command", [["scan"], ["analyze", "mynetworks:small", "--weights"]])
def test_a_damaged_file_is_named(folder, capsys, command, name, content):
    (folder / name).write_bytes(content)
    assert name in failure(capsys, *command, name)


@pytest.mark.parametrize("command", [["scan"], ["analyze", "mynetworks:small", "--weights"]])
def test_a_file_that_is_not_there_is_named(capsys, command):
    assert "missing.pt" in failure(capsys, *command, "missing.pt")


def test_what_cannot_be_written_is_refused_before_the_work(folder, capsys):
    error = failure(capsys, "analyze", "mynetworks:small", "--html", "nowhere/a.html")
    assert "nowhere" in error
    error = failure(capsys, "analyze", "mynetworks:small", "--csv", str(folder))
    assert "it is a folder" in error


def test_a_network_without_levels_is_refused_with_the_reason(capsys):
    assert main(["analyze", "mynetworks:classifier"]) == 2
    assert "weightscope: error: " in capsys.readouterr().err


def test_scan_lists_every_tensor_and_defuses_the_csv(folder, capsys):
    tensors = {"=cmd()": torch.zeros(2, 2), "conv.weight": torch.ones(3)}
    save_file(tensors, folder / "weights.safetensors")
    assert main(["scan", "weights.safetensors", "--csv", "w.csv"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("weights.safetensors: 7 numbers in 2 tensors")
    assert re.search(r"^conv\.weight +3 +3 +1 +0 ", out, re.MULTILINE)
    with (folder / "w.csv").open(newline="") as file:
        names = {row["parameter"] for row in csv.DictReader(file)}
    assert names == {"'=cmd()", "conv.weight"}


@pytest.mark.parametrize("arguments", [[], ["nothing"], ["analyze"], ["scan", "a", "b"]])
def test_wrong_usage_ends_with_code_2(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert "usage: weightscope" in capsys.readouterr().err


def test_version(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert stopped.value.code == 0
    assert re.fullmatch(r"weightscope \d+\.\d+\.\d+\n", capsys.readouterr().out)


def test_a_reader_that_leaves_early_is_no_error(folder):
    save_file({f"t{i}": torch.zeros(1) for i in range(3000)}, folder / "w.safetensors")
    command = f"{sys.executable} -m weightscope.cli scan w.safetensors | head -n 1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True)
    assert done.stdout == "w.safetensors: 3.000 k numbers in 3000 tensors\n"
    assert done.stderr == ""
    assert done.returncode == 0
