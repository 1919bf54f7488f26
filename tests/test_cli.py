import argparse
import ast
import csv
import inspect
import json
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import mpseg_models
import weightscope as ws
from mpseg_models import create_model
from weightscope.cli import _parser, main
from weightscope.cli.arguments import _IN_PYTHON, write_keyword
from weightscope.cli.models import value_of
from weightscope.truncation.proposals import Proposal

NETWORK = """
import torch
from mpseg_models import create_model

def small():
    return create_model("half_unet", width=4, seed=0)

class ChannelsLast(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inside = small()

    def forward(self, x):
        return self.inside(x.movedim(-1, 1)).movedim(1, -1)

class Four(torch.nn.Module):
    def __init__(self):
        super().__init__()
        pairs = [(3, 4), (4, 8), (8, 16), (16, 32), (48, 16), (24, 8), (12, 4), (4, 1)]
        self.layers = torch.nn.ModuleList(torch.nn.Conv2d(a, b, 3, padding=1) for a, b in pairs)

    def forward(self, x):
        *layers, head = self.layers
        skips = []
        for down in layers[:4]:
            skips.append(down(x).relu())
            x = torch.nn.functional.max_pool2d(skips[-1], 2)
        x = skips.pop()
        for up in layers[4:]:
            x = torch.nn.functional.interpolate(x, scale_factor=2.0)
            x = up(torch.cat([skips.pop(), x], 1)).relu()
        return head(x)

def broken():
    raise RuntimeError("no such backbone")

def needs(arguments):
    return create_model(arguments, width=4)

def classifier():
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.LazyLinear(2))

def normed():
    return torch.nn.Sequential(small(), torch.nn.BatchNorm2d(1))

def lists():
    return [torch.rand(4, 3, 32, 32)]

class UnlikeAny(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inside = small()

    def forward(self, x):
        raise ValueError("nothing will do")

def unlike_any():
    return UnlikeAny()

number = 3
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    (tmp_path / "mynetworks.py").write_text(NETWORK)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    # put down first, so that what a test imports is taken away after it
    monkeypatch.setitem(sys.modules, "mynetworks", None)
    monkeypatch.delitem(sys.modules, "mynetworks")
    return tmp_path


SMALL = ["--input", "1x3x32x32"]


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
    assert "nothing can be concluded" in " ".join(out.split())
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
        ("mynetworks:big", "there is no 'big'\n"),
        ("mynetworks:smal", "there is no 'smal'; did you mean 'small'?"),
        ("mynetwork:small", "No module named 'mynetwork'; did you mean 'mynetworks'"),
        ("mynetwork.py:small", "no file mynetwork.py; did you mean 'mynetworks.py'?"),
        ("mynetworks:torch.nn.Conv3e", "did you mean 'Conv3d' or"),
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
    [("1x3x64", "1x3x64"), ("1x1x64x64", "1x1x64x64"), ("1x3x63x64", "1x3x63x64")],
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


def test_scan_writes_a_page(folder, capsys):
    save_file({"conv.weight": torch.randn(2, 2)}, folder / "my weights.safetensors")
    assert main(["scan", "my weights.safetensors", "--html", "page.html"]) == 0
    page = (folder / "page.html").read_text()
    assert "<h1>my weights.safetensors</h1>" in page
    assert "conv.weight" in page
    assert main(["scan", "my weights.safetensors", "--html", "my weights.safetensors"]) == 2
    assert "is a file of weights" in capsys.readouterr().err
    scan = ["scan", "my weights.safetensors", "--csv"]
    assert main([*scan, "both", "--html", "./both"]) == 2
    assert "is named for two outputs" in capsys.readouterr().err
    assert not (folder / "both").exists()
    assert main([*scan, "page.html", "--html", str(folder / "page.html")]) == 2
    assert (folder / "page.html").read_text() == page


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
    command = f"{sys.executable} -m weightscope scan w.safetensors --csv w.csv | head -n 1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True)
    assert done.stdout == "w.safetensors: 3.000 k numbers in 3000 tensors\n"
    assert done.stderr == ""
    assert done.returncode == 0
    assert len((folder / "w.csv").read_text().splitlines()) == 3001


def test_words_that_only_python_can_follow_are_left_out(capsys):
    cut = ("cut", "mynetworks:small", "--keep", "1", "--out", "x.safetensors", "--seed", "-1")
    assert failure(capsys, *cut).endswith("--seed -1; give a whole number from 0\n")
    shrink = ("shrink", "mynetworks:small", "--images", "mynetworks:lists", "--thin", "nan")
    assert failure(capsys, *shrink).endswith("give the share of the MACs that stays\n")
    said = failure(capsys, "analyze", "mynetworks:unlike_any")
    assert "Pass --input, or --layout where" in said


@pytest.mark.parametrize("seeds", ["1", pytest.param("234567", marks=pytest.mark.slow)])
def test_equal_commands_write_equal_files(folder, seeds):
    cut = ["cut", "mynetworks:small", "--keep", "1", "--out", "here.safetensors"]
    assert main(cut) == 0  # of this process's own seed
    for seed in seeds:
        done = subprocess.run(
            [sys.executable, "-m", "weightscope", "cut", "mynetworks:small", "--keep", "1",
             "--out", f"{seed}.safetensors"],
            env={**os.environ, "PYTHONHASHSEED": seed},
        )  # fmt: skip
        assert done.returncode == 0
    files = ("here", *seeds)
    assert len({(folder / f"{name}.safetensors").read_bytes() for name in files}) == 1


def test_python_m_is_the_command():
    found = subprocess.run(
        [sys.executable, "-m", "weightscope", "--version"], capture_output=True, text=True
    )
    assert found.returncode == 0
    assert found.stdout.startswith("weightscope ")


@pytest.mark.parametrize(
    ("text", "value"),
    [("8", 8), ("1e-3", 1e-3), ("True", True), ("false", False), ("None", None), ("a b", "a b"),
     ("[1, 2]", [1, 2]), ("__import__('os')", "__import__('os')"), ("1/0", "1/0")],
)  # fmt: skip
def test_arguments_are_read_as_values_and_never_run(text, value):
    found = value_of(text)
    assert (found, type(found)) == (value, type(value))


def test_a_factory_takes_named_arguments_from_a_file(folder, capsys):
    (folder / "nets.py").write_text(
        "from mpseg_models import create_model\n"
        "def make(name, width=99, **more):\n"
        "    assert isinstance(width, int)\n"
        "    return create_model(name, width=width, **more)\n"
    )
    assert main(["analyze", "nets.py:make", "half_unet", "width=4", "seed=0"]) == 0
    assert "UNet: " in capsys.readouterr().out
    assert "no file gone.py" in failure(capsys, "analyze", "gone.py:make")


def test_json_fits_the_schema_of_the_docs(folder, capsys):
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads((Path(__file__).parents[1] / "docs" / "analysis.schema.json").read_text())
    assert main(["analyze", "mynetworks:small", "--json", "a.json"]) == 0
    found = json.loads((folder / "a.json").read_text())
    jsonschema.validate(found, schema)
    for table in ("stages", "layers", "scores", "proposals"):
        assert found[table], table  # an empty table would fit any schema of its rows


def test_json_has_a_version_and_the_tables(folder, capsys):
    assert main(["analyze", "mynetworks:small", "--json", "a.json", "--markdown", "a.md"]) == 0
    found = json.loads((folder / "a.json").read_text())
    assert found["format"] == 1
    assert set(found) == {
        *("format", "weightscope", "model", "state", "conclusion", "notes"),
        *("stages", "layers", "scores", "proposals"),
    }
    assert found["state"] == "untrained"
    assert {"stage", "verdict", "utilization", "why"} <= set(found["stages"][0])
    assert {"layer", "std", "spread_ratio"} <= set(found["layers"][0])
    assert {"keep_levels", "parameters", "evidence"} <= set(found["proposals"][0])
    text = (folder / "a.md").read_text()
    assert text.startswith("# UNet\n")
    assert "| bottleneck |" in text


def test_cut_saves_a_network_that_loads(folder, capsys):
    model = create_model("half_unet", width=4, seed=1)
    save_file(model.state_dict(), folder / "trained.safetensors")
    network = ["mynetworks:small", *SMALL]
    arguments = ["cut", *network, "--keep", "1", "--weights", "trained.safetensors"]
    assert main([*arguments, "--out", "small.safetensors"]) == 0
    assert "tensors kept" in capsys.readouterr().out
    small = ws.load(folder / "small.safetensors", lambda: create_model("half_unet", width=4))
    kept = small.module.state_dict()
    name = "encoder.0.conv1.weight"
    assert torch.equal(kept[name], model.state_dict()[name])
    for name, seed in (("again", "0"), ("other", "1")):
        assert main([*arguments, "--out", f"{name}.safetensors", "--seed", seed]) == 0
        drawn = ws.load(f"{name}.safetensors", lambda: create_model("half_unet", width=4)).module
        same = [torch.equal(kept[key], value) for key, value in drawn.state_dict().items()]
        assert all(same) == (name == "again")
    capsys.readouterr()
    assert "would replace" in failure(capsys, *arguments, "--out", "trained.safetensors")
    assert "has 3 levels" in failure(capsys, "cut", "mynetworks:small", "--keep", "7", "--out", "x")


@pytest.mark.parametrize("ending", [".pt", ".pth", ".bin", ".Ckpt"])
@pytest.mark.parametrize("command", [["cut", "--keep", "1"], ["shrink", "--max-macs", "1"]])
def test_a_cut_network_has_the_name_of_what_it_is(folder, capsys, command, ending):
    name, *options = command
    error = failure(capsys, name, "mynetworks:small", *options, "--out", f"b.v2{ending}")
    assert f"its name says {ending}; give 'b.v2.safetensors'" in error
    assert not list(folder.glob("b*"))


@pytest.mark.sample(2)
@pytest.mark.parametrize("kind", ["RuntimeError", "OSError", "KeyError"])
def test_what_the_users_own_code_raises_is_one_line(folder, capsys, kind):
    code = f"""
from mpseg_models import create_model

def make():
    model = create_model("half_unet", width=4, seed=0)

    def state_dict(*args, **kwargs):
        raise {kind}("mine")

    model.state_dict = state_dict
    return model
"""
    (folder / "raising.py").write_text(code)
    arguments = ["cut", "raising.py:make", "--keep", "1", "--out", "b.safetensors"]
    error = failure(capsys, *arguments)
    assert f'`raise {kind}("mine")` (line 8 of ' in error
    assert "free some space" not in error
    assert not list(folder.glob("b*"))


@pytest.mark.parametrize(
    ("ends", "said"),
    [
        ("sys.exit(3)", r"ended the process with sys\.exit\(3\)"),
        ("raise ValueError('one\\ntwo\\nthree')", "ValueError: one two three"),
    ],
)
def test_whatever_a_factory_does_ends_in_one_line(folder, capsys, ends, said):
    (folder / "ending.py").write_text(f"import sys\n\n\ndef make():\n    {ends}\n")
    error = failure(capsys, "analyze", "ending.py:make")
    assert re.search(said, error)
    assert error.count("\n") == 1


def test_a_fault_of_the_library_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr("weightscope.statistics.scan", None)
    with pytest.raises(TypeError, match="not callable"):
        main(["scan", "x.pt"])


def test_field_tells_the_overlap_of_tiles(capsys):
    assert main(["field", "mynetworks:small"]) == 0
    out = capsys.readouterr().out
    assert "head " in out
    assert "margin of 24 px" in out  # 44 px are seen: 22 on either side, to a multiple of 4


def test_compare_says_what_moved(folder, capsys):
    first = {"a": torch.tensor([3.0, 4.0]), "b": torch.ones(3), "gone": torch.ones(1)}
    second = {"a": torch.tensor([3.0, 5.0]), "b": torch.ones(3), "new": torch.ones(2)}
    for name, tensors in (("1.pt", first), ("2.pt", second)):
        torch.save(tensors, folder / name)
    assert main(["compare", "1.pt", "2.pt"]) == 0
    out = capsys.readouterr().out
    assert "2 tensors in both, 1 of them equal" in out
    row = next(line for line in out.splitlines() if line.startswith("a "))
    assert row.split()[1:3] == ["0.2", "2"]  # 1 of sqrt(2) / 5 of sqrt(2); spread .5 to 1
    assert "1 alone or of another shape in the first: gone" in out


@pytest.mark.parametrize(
    ("one", "two"),
    [("model.", ""), ("", "module."), ("model._orig_mod.", "module."), ("model.net.", "net.")],
)
def test_compare_takes_off_what_stands_before_the_names(folder, capsys, one, two):
    tensors = {"a.weight": torch.ones(2, 3), "b.weight": torch.ones(3), "c.bias": torch.ones(1)}
    torch.save({"state_dict": {one + n: t for n, t in tensors.items()}}, folder / "1.pt")
    torch.save({two + n: 2 * t for n, t in tensors.items()}, folder / "2.pt")
    assert main(["compare", "1.pt", "2.pt"]) == 0
    said = capsys.readouterr()
    assert "3 tensors in both, 0 of them equal" in said.out
    assert "taken off" in said.err


def test_compare_takes_one_network_of_several(folder, capsys):
    raw, average = {"w": torch.ones(2), "v": torch.ones(3)}, {"w": torch.zeros(2)}
    torch.save(
        {"state_dict": {"net.w": raw["w"], "net.v": raw["v"], "ema.w": average["w"]}}, "b.pt"
    )
    prefixes = ["--prefix", "state_dict.net.", "--prefix", "state_dict.ema."]
    assert main(["compare", "b.pt", "b.pt", *prefixes]) == 0
    out = capsys.readouterr().out
    assert "1 tensor in both, 0 of them equal" in out
    assert "alone or of another shape in the first: v" in out
    assert "begins with 'x.'" in failure(capsys, "compare", "b.pt", "b.pt", "--prefix", "x.")
    assert "there are two files" in failure(capsys, "compare", "b.pt", "b.pt", *prefixes, *prefixes)


def test_files_of_two_networks_are_not_compared(folder, capsys):
    torch.save({"a": torch.ones(2)}, folder / "1.pt")
    torch.save({"b": torch.ones(2)}, folder / "2.pt")
    assert "no tensor of 1.pt has a name of 2.pt" in failure(capsys, "compare", "1.pt", "2.pt")


def test_images_of_a_folder_are_measured(folder, capsys):
    (folder / "photos").mkdir()
    for i in range(2):
        array = np.random.default_rng(i).integers(0, 255, (32, 48, 3), dtype=np.uint8)
        Image.fromarray(array).save(folder / "photos" / f"{i}.png")
    np.save(folder / "photos" / "x.npy", np.zeros((3, 32, 32), np.float32))
    arguments = ["analyze", "mynetworks:small", "--images", "photos", "--json", "a.json"]
    assert main(arguments) == 0
    scores = json.loads((folder / "a.json").read_text())["scores"]
    assert "images" in {score["grade"] for score in scores}
    capsys.readouterr()
    assert "holds no image" in failure(capsys, "analyze", "mynetworks:small", "--images", ".")


def test_labelled_images_of_a_folder_are_measured(capsys):
    samples = Path(mpseg_models.__file__).parent / "samples" / "sand"
    arguments = ["analyze", "mynetworks:small", "--data", str(samples), "--crop", "32"]
    assert main([*arguments, "--metric", "f1", "--json", "a.json"]) == 0
    said = json.loads(Path("a.json").read_text())
    assert said["state"] == "untrained"
    crop = "--crop took the middle 32 x 32 pixels of every image"
    assert crop in " ".join(said["notes"])
    assert crop in " ".join(capsys.readouterr().out.split())
    assert "--data DIR --metric f1" in failure(capsys, *arguments)


def test_images_that_do_not_fit_are_named_by_what_was_given(capsys):
    samples = str(Path(mpseg_models.__file__).parent / "samples" / "sand")
    for command, given in (("analyze", "--images"), ("shrink", "--images"), ("shrink", "--data")):
        where = f"{samples}/images" if given == "--images" else samples
        metric = ("--metric", "f1") if given == "--data" else ()
        arguments = (command, "mynetworks:small", given, where, *metric, "--crop", "33")
        said = failure(capsys, *arguments)
        assert f"raised on {given} (1x3x33x33)" in said
        assert "sizes of --crop 33" in said
        assert "--input" not in said
    said = failure(capsys, *arguments, "--input", "1x3x30x30")
    assert "raised on --input (1x3x30x30)" in said
    assert "--crop" not in said
    nothing = failure(capsys, "analyze", "mynetworks:small", "--crop", "32")
    assert "--crop 32 is for pictures in folders" in nothing
    assert "there is no folder gone" in failure(capsys, *arguments[:2], "--images", "gone")


@pytest.mark.slow
def test_the_prefix_chooses_among_networks_in_one_file(folder, capsys):
    raw, average = (create_model("half_unet", width=4, seed=seed) for seed in (1, 2))
    tensors = {f"net.{n}": t for n, t in raw.state_dict().items()}
    tensors |= {f"ema.{n}": t for n, t in average.state_dict().items()}
    torch.save(tensors, folder / "both.pt")
    for prefix, network in (("net.", raw), ("ema.", average)):
        arguments = ["cut", "mynetworks:small", "--weights", "both.pt", "--prefix", prefix]
        assert main([*arguments, "--keep", "2", "--out", "small.safetensors", *SMALL]) == 0
        small = ws.load("small.safetensors", lambda: create_model("half_unet", width=4))
        assert torch.equal(small.module.head.weight, network.head.weight)
        Path("small.safetensors").unlink()
    capsys.readouterr()
    refused = failure(capsys, *arguments[:-1], "gone.", "--keep", "2", "--out", "small.safetensors")
    assert "both.pt does not fit" in refused


def test_the_layout_can_be_said(capsys):
    assert main(["analyze", "mynetworks:small", "--layout", "NCHW"]) == 0
    capsys.readouterr()
    assert "layout" in failure(capsys, "analyze", "mynetworks:small", "--layout", "NXYZ")


def test_a_shape_without_a_batch_is_explained(capsys):
    with pytest.raises(SystemExit):
        main(["analyze", "mynetworks:small", "--input", "64x64"])
    assert "images x channels x sizes" in capsys.readouterr().err


def test_a_layout_reaches_reading_and_images(folder, capsys):
    np.save(folder / "one.npy", np.random.default_rng(0).random((3, 32, 32), np.float32))
    network, layout = "mynetworks:ChannelsLast", ("--layout", "NHWC")
    assert main(["analyze", network, "--images", ".", *layout]) == 0
    assert "1 x 32 x 32 x 3" in " ".join(capsys.readouterr().out.split())
    assert main(["field", network, *layout]) == 0
    assert main(["cut", network, "--keep", "1", "--out", "cut.safetensors", *layout]) == 0
    module = ws.load(folder / "cut.safetensors", sys.modules["mynetworks"].ChannelsLast).module
    assert module(torch.rand(1, 32, 32, 3)).shape == (1, 32, 32, 1)
    capsys.readouterr()
    said = failure(capsys, "analyze", network, "--layout", "rows")
    assert "--layout 'rows' is not understood" in said


@pytest.mark.parametrize(
    ("redirection", "code"),
    [
        (">&-", 0),
        pytest.param(">&- 2>&-", 0, marks=pytest.mark.slow),
        ("2>/dev/full", 2),
        pytest.param("2>&-", 2, marks=pytest.mark.slow),
    ],
)
def test_closed_and_full_streams_leave_the_exit_code(folder, redirection, code):
    save_file({"t": torch.zeros(1)}, folder / "w.safetensors")
    name = "missing" if code else "w.safetensors"
    command = f"{sys.executable} -m weightscope scan {name} {redirection}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert (done.returncode, done.stderr, done.stdout) == (code, "", "")


def test_streams_that_the_caller_closed_stay_closed(folder, monkeypatch):
    save_file({"t": torch.zeros(1)}, folder / "w.safetensors")
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    assert main(["scan", "w.safetensors"]) == 0
    assert main(["scan", "missing"]) == 2
    assert (sys.stdout, sys.stderr) == (None, None)


def test_a_metric_without_labels_asks_for_them(capsys):
    pictures = Path(mpseg_models.__file__).parent / "samples" / "sand" / "images"
    images = ("--images", str(pictures), "--crop", "32")
    said = failure(capsys, "shrink", "mynetworks:small", *images, "--metric", "f1")
    assert "--data and --metric belong together: give labelled images" in said


@pytest.mark.slow
def test_a_cut_network_is_rebuilt_by_its_recipe(folder, capsys):
    torch.save(create_model("half_unet", width=4).state_dict(), "whole.pt")
    whole = ["mynetworks:small", "--weights", "whole.pt"]
    half = ["mynetworks:small", "--weights", "half.safetensors"]
    assert main(["cut", *whole, "--keep", "2", "--out", "half.safetensors", *SMALL]) == 0
    capsys.readouterr()
    assert main(["analyze", *half, "--json", "half.json"]) == 0
    assert "half.safetensors: a UNet cut to 2 of 3 levels" in capsys.readouterr().err
    module = ws.load("half.safetensors", lambda: create_model("half_unet", width=4)).module
    found = json.loads((folder / "half.json").read_text())
    assert sum(s["parameters"] for s in found["stages"]) == sum(
        p.numel() for p in module.parameters()
    )
    assert main(["field", *half]) == 0
    assert main(["compare", "whole.pt", "half.safetensors"]) == 0
    capsys.readouterr()
    assert main(["cut", *half, "--keep", "1", "--out", "again.safetensors", *SMALL]) == 0
    said = capsys.readouterr().err
    rebuild = said[said.index("weightscope.load(") : said.rindex(" rebuilds")]
    factory = {"factory": lambda: create_model("half_unet", width=4), "weightscope": ws}
    assert eval(rebuild, factory).plan.keep_levels == 1
    chain = ["--weights", "half.safetensors", "--weights", "again.safetensors"]
    assert f"and so does {' '.join(chain)} of a command" in said
    refused = failure(capsys, "field", whole[0], *chain[2:])
    assert "was cut from a smaller UNet, not from the one that FACTORY makes" in refused
    assert "--weights FILE before --weights again.safetensors" in refused
    assert main(["field", whole[0], *chain]) == 0
    assert "again.safetensors: a UNetGraph cut to 1 of 3 levels" in capsys.readouterr().err
    assert "is a cut network: weightscope.load" in failure(
        capsys, "analyze", *whole[:1], "--initial", "half.safetensors"
    )
    assert "give the factory" in failure(
        capsys, "field", "mynetworks:needs", "unet", "--weights", "half.safetensors"
    )


@pytest.mark.slow
def test_a_chain_of_cuts_is_followed_and_said(folder, capsys):
    network = ["mynetworks:Four"]
    given = []
    for keep, file in zip(
        (3, 2, 1), ("a b.safetensors", "c.safetensors", "d.safetensors"), strict=True
    ):
        assert main(["cut", *network, *given, "--keep", str(keep), "--out", file, *SMALL]) == 0
        said = capsys.readouterr().err
        given += ["--weights", file]
    rebuild = said[said.index("weightscope.load(") : said.rindex(" rebuilds")]
    known = {"factory": sys.modules["mynetworks"].Four, "weightscope": ws}
    assert eval(rebuild, known).structure.depth == 3
    assert main(["field", *network, *given, *SMALL]) == 0
    assert "d.safetensors: a FourGraphGraph cut to 1 of 3" in capsys.readouterr().err
    assert "was cut from a smaller Four" in failure(capsys, "field", *network, *given[4:])


def test_weights_may_follow_the_file_of_a_cut_network(folder, capsys):
    network = ["mynetworks:small", *SMALL]
    assert main(["cut", *network, "--keep", "2", "--out", "half.safetensors"]) == 0
    factory = lambda: create_model("half_unet", width=4)  # noqa: E731
    state = ws.load("half.safetensors", factory).module.state_dict()
    torch.save({name: torch.zeros_like(value) for name, value in state.items()}, "tuned.pt")
    files = ["--weights", "half.safetensors", "--weights", "tuned.pt"]
    assert main(["cut", *network, *files, "--keep", "1", "--out", "quarter.safetensors"]) == 0
    kept = ws.load("quarter.safetensors", lambda: ws.load("half.safetensors", factory).module)
    assert not any(kept.module.state_dict()[name].any() for name in kept.kept)


def test_a_history_given_as_a_start_is_known_as_one(folder, capsys):
    model = torch.nn.Sequential(create_model("half_unet", width=4), torch.nn.BatchNorm2d(1))
    with ws.watch(model, torch.optim.SGD(model.parameters(), lr=0.1)) as history:
        pass
    ws.save_history(history, "h.safetensors")
    said = failure(capsys, "analyze", "mynetworks:normed", "--initial", "h.safetensors")
    assert "is a history that watch() recorded: give it as --history" in said


KEYWORD = re.compile(r"keyword\(\s*['\"](\w+)['\"]")
KEYWORDS = sorted(
    {
        name
        for path in Path(ws.__file__).parent.rglob("*.py")
        for name in KEYWORD.findall(path.read_text())
    }
)


def options_of(command):
    """The options of a subcommand, and what its namespace holds."""
    actions = next(a for a in _parser()._actions if isinstance(a, argparse._SubParsersAction))
    parser = actions.choices[command]
    names = {name for action in parser._actions for name in action.option_strings}
    return names, argparse.Namespace(**{action.dest: None for action in parser._actions})


@pytest.mark.parametrize("command", ["analyze", "cut", "shrink", "scan", "compare", "field"])
@pytest.mark.parametrize("keyword", KEYWORDS)
def test_every_argument_a_message_names_is_an_option_or_one_of_python(command, keyword):
    options, namespace = options_of(command)
    said = write_keyword(namespace, keyword, "")
    if said.startswith("--"):
        assert said in options
    elif said != "FACTORY":
        assert said.endswith(" in Python")
        if keyword in _IN_PYTHON:
            call = Proposal.build if _IN_PYTHON[keyword] == "Proposal.build" else ws.analyze
            assert keyword in inspect.signature(call).parameters


def texts(path):
    """The strings of a file but its docstrings."""
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Expr(value=ast.Constant()):
                node.value.value = ""
            case ast.Constant(value=str(text)):
                yield text


def test_no_message_writes_an_argument_as_python_only():
    bare = re.compile(rf"(?<![\w.])(?:{'|'.join(KEYWORDS)})=(?=[ ,;:.)]|$)")
    for path in Path(ws.__file__).parent.rglob("*.py"):
        found = [text for text in texts(path) if bare.search(text)]
        # how to build a loss of the user's own
        assert [text for text in found if ": build it with ignore_index=" not in text] == [], path


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    "arguments",
    [
        ["analyze", "mynetworks:small", "--input", "2x3x8x8x8"],
        ["analyze", "mynetworks:small", "--layout", "NXYZ"],
        ["analyze", "mynetworks:small", "--part", "nothing"],
        ["analyze", "mynetworks:small", "--data", "pairs", "--metric", "fl"],
        ["analyze", "mynetworks:small", "--data", "pairs", "--metric", "mse", "--ignore-index=3"],
        ["analyze", "mynetworks:small"],
        ["cut", "mynetworks:classifier", "--keep", "2", "--out", "a.safetensors"],
        ["field", "mynetworks:small", "--input", "2x3x8x8x8"],
        ["shrink", "mynetworks:small", "--images", "pairs/images", "--steps", "-1"],
        ["shrink", "mynetworks:small", "--data", "pairs"],
        ["shrink", "mynetworks:small"],
        ["shrink", "mynetworks:small", "--images", "pairs/images", "--tolerance", "-1"],
    ],
    ids=" ".join,
)
def test_every_remedy_is_an_option(folder, capsys, arguments):
    rng = np.random.default_rng(0)
    for kind, shape in (("images", (32, 32, 3)), ("masks", (32, 32))):
        (folder / "pairs" / kind).mkdir(parents=True)
        for name in "ab":
            pixels = rng.integers(0, 2 if kind == "masks" else 256, shape, dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "pairs" / kind / f"{name}.png")
    main(arguments)
    said = "".join(capsys.readouterr())
    options, _ = options_of(arguments[0])
    assert set(re.findall(r"--[a-z][a-z-]*", said)) <= options
    assert not re.findall(r"\b[a-z_]+=(?!.* in Python)", said)
