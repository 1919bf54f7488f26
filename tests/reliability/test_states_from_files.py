"""Histories, recipes and output places that somebody else wrote or named."""

import csv
import errno
import json
import math
import os
import stat
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from fuzz.judge import forget_the_peak, peak
from weightscope import (
    CheckpointError,
    InputError,
    RecipeError,
    analyze,
    load,
    read_history,
    save,
    save_history,
    scan,
    watch,
)
from weightscope.checkpoints import safetensors_files
from weightscope.files import (
    write_csv,
    write_pickle,
    write_tensors,
    write_text,
    written_atomically,
)
from weightscope.truncation import saving
from weightscope.truncation.plan import NUMBER_TYPES, decode, encode


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Conv2d(8, 1, 1)

    def forward(self, x):
        x = self.a(x)
        deep = nn.functional.interpolate(self.b(nn.functional.max_pool2d(x, 2)), scale_factor=2.0)
        return self.head(torch.cat([x, deep], 1))


# --- histories ----------------------------------------------------------------------------------


def train(steps=2):
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watch(model, optimizer, every=1) as history:
        for _ in range(steps):
            optimizer.zero_grad()
            model(torch.ones(2, 3)).sum().backward()
            optimizer.step()
    return model, optimizer, history


def changed(state, path, value):
    """The same state with one value replaced; ``...`` removes it."""
    copy = {**state}
    key, *rest = path
    if rest:
        copy[key] = changed(copy[key], rest, value) if isinstance(copy[key], dict) else [
            changed(copy[key][0], rest[1:], value), *copy[key][1:]
        ]  # fmt: skip
    elif value is ...:
        del copy[key]
    else:
        copy[key] = value
    return copy


HOSTILE = [
    (["steps"], -3), (["steps"], 2.5), (["steps"], True), (["steps"], ...),
    (["variance", "0.weight"], -1.0), (["variance", "0.weight"], math.nan),
    (["variance", "0.weight"], math.inf), (["variance", "0.weight"], "much"), (["variance"], ...),
    (["faded", "0.weight"], -1e-9), (["faded"], []), (["gradient", "0.weight"], -1.0),
    (["gradient", "1.bias"], ...), (["initial", "0.weight"], torch.ones(4, 4)),
    (["initial", "0.weight"], torch.ones(4, 3).long()), (["initial"], None),
    (["initial", "0.weight"], [1.0]), (["snapshots"], 3), (["snapshots"], [{}]),
    (["snapshots", 0, "step"], -1), (["snapshots", 0, "step"], 10**6),
    (["snapshots", 0, "parameter"], "=cmd()"), (["snapshots", 0, "count"], 1.5),
    (["snapshots", 0, "edges"], torch.tensor([3.0, 1.0])), (["snapshots", 0, "edges"], "ab"),
    (["snapshots", 0, "edges"], torch.full((9,), math.nan)),
    (["snapshots", 0, "counts"], torch.tensor([1])), (["snapshots", 0, "mean"], "x"),
    (["pending"], ...), (["pending"], [[1.0]]), (["pending"], [[math.nan, 0.0]]),
    (["pending"], [[1.0, -1.0]]), (["version"], 99), (["version"], ...),
]  # fmt: skip


@pytest.mark.parametrize(("path", "value"), HOSTILE)
def test_a_damaged_history_is_refused_and_changes_nothing(path, value):
    state = train()[2].state_dict()
    model, optimizer, _ = train(0)
    with watch(model, optimizer) as history:
        before = history.state_dict()
        with pytest.raises(InputError, match=r"history state (is|has)"):
            history.load_state_dict(changed(state, path, value))
        after = history.state_dict()
        history.load_state_dict(state)
        assert history.steps == 2
    assert before["steps"] == after["steps"] == 0
    assert all(torch.equal(before["initial"][n], after["initial"][n]) for n in before["initial"])
    assert len(before["snapshots"]) == len(after["snapshots"])


@pytest.mark.parametrize(
    ("state", "said"),
    [({}, "has version")] + [(s, r"give what state_dict\(\)") for s in (None, 3, [], "history")],
)
def test_what_is_no_history(state, said):
    model, optimizer, _ = train(0)
    with watch(model, optimizer) as history, pytest.raises(InputError, match=said):
        history.load_state_dict(state)


def test_a_start_that_was_lost_is_named(tmp_path):
    model, optimizer, _ = train(0)
    with watch(model, optimizer, store=tmp_path / "start.safetensors") as history:
        pass
    (tmp_path / "start.safetensors").unlink()
    with pytest.raises(InputError, match=r"start\.safetensors.*keep the file as long"):
        history.initial()


def test_formulas_in_names_are_defused_in_histories_too(tmp_path):
    model = nn.ModuleDict({"=cmd()|": nn.Linear(2, 2)})
    with watch(model, torch.optim.SGD(model.parameters(), lr=0.1)) as history:
        pass
    history.to_csv(tmp_path / "h.csv")
    with (tmp_path / "h.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["parameter"] for row in rows} == {"'=cmd()|.weight"}
    assert float(rows[0]["bin_left"]) < 0  # numbers are left alone


def test_a_folder_that_is_none_gets_no_event_file(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match=r"cannot write into .*file"):
        train()[2].to_tensorboard(tmp_path / "file")


# --- recipes ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    proposal = analyze(Small(), example_inputs=torch.zeros(1, 1, 16, 16)).proposals[0]
    return save(proposal.build(), tmp_path_factory.mktemp("recipe") / "v.safetensors")


def forge(source, target, change, cast=dict):
    """Write a recipe of somebody's own, with a digest that fits it."""
    with safe_open(source, framework="pt") as file:
        text = file.metadata()["weightscope_recipe"]
    tensors = cast(load_file(source))
    text = change(text)
    digest = saving.digest(text, tensors)
    save_file(tensors, target, {"weightscope_recipe": text, "weightscope_sha256": digest})
    return target


def edit(**changes):
    def change(text):
        recipe = json.loads(text) | changes
        return json.dumps({key: value for key, value in recipe.items() if value is not ...})

    return change


@pytest.mark.sample(2)
@pytest.mark.parametrize("change", [
    lambda text: "no JSON", lambda text: "[1, 2]", lambda text: "3", lambda text: "null",
    lambda text: "[" * 2000 + "]" * 2000, lambda text: '{"a":' * 2000 + "1" + "}" * 2000,
    *(edit(**{key: ...}) for key in (
        "format", "model", "original", "inputs", "dimensions", "stages", "keep_levels",
        "bottleneck", "exit_channels", "aliases")),
    *(edit(**{key: odd}) for key in ("format", "inputs", "dimensions", "stages", "keep_levels",
        "bottleneck", "exit_channels", "aliases") for odd in (None, -1, "x", [3], {"a": 1}, 1.5)),
    edit(width=10**7), edit(exit_channels=[10**7]), edit(width=-1), edit(width=True),
    edit(keep_levels=10**9), edit(dimensions=10**9),
    edit(inputs=[{"tuple": [{"tensor": [1, 1, 10**6, 10**6], "dtype": "float32"}]}, {"dict": []}]),
    edit(inputs=[{"tuple": [{"tensor": [2**62] * 3, "dtype": "float32"}]}, {"dict": []}]),
    edit(inputs=[{"tuple": [{"tensor": [-1], "dtype": "float32"}]}, {"dict": []}]),
    edit(inputs=[{"tuple": [{"tensor": [1, 1, 16, 16], "dtype": "load"}]}, {"dict": []}]),
    edit(inputs=[{"tuple": [{"tensor": [1] * 99, "dtype": "float32"}]}, {"dict": []}]),
    edit(inputs=[{"tuple": []}, {"dict": [[1]]}]), edit(inputs=[{"x": []}, {}]),
    edit(aliases={"a": "b"}), edit(aliases={"a": ["b"]}), edit(stages={"encoder 0": [3]}),
    edit(stages={}), edit(format=3), edit(format=4), edit(dimensions=True), edit(dimensions=2.0),
    *(edit(notes=odd) for odd in (None, -1, True, float("nan"), [[]], "x", {})),
    *(edit(inputs=[{"tuple": [{"tensor": [1, 1, 16, 16], "dtype": odd}]}, {"dict": []}])
        for odd in ("Tensor", "__class__", "qint8", "bits8", "float", None, 3, ["float32"])),
    *(edit(inputs=[{"tuple": [{"tensor": odd, "dtype": "float32"}]}, {"dict": []}])
        for odd in ([1, 1, 16.0, 16], [True, 1, 16, 16], "16", None)),
    edit(inputs=[{"tuple": "ab"}, {"dict": []}]), edit(inputs=[{"tuple": []}, {"dict": "ab"}]),
])  # fmt: skip
def test_hostile_recipes_are_refused_before_anything_is_built(saved, tmp_path, change):
    path = forge(saved, tmp_path / "v.safetensors", change)
    with pytest.raises(RecipeError, match=r"v\.safetensors|recipe"):
        load(path, Small)


def test_the_forger_forges(saved, tmp_path):
    assert load(forge(saved, tmp_path / "v.safetensors", lambda text: text), Small).module


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    ("dtype", "fits"),
    [(torch.float16, True), (torch.bfloat16, True), (torch.float64, False), (torch.int64, False),
     (torch.complex64, False), (torch.bool, False)],
)  # fmt: skip
def test_numbers_of_another_type_are_not_changed_into_the_right_ones(saved, tmp_path, dtype, fits):
    def cast(tensors):
        name = next(name for name, tensor in tensors.items() if tensor.is_floating_point())
        return tensors | {name: tensors[name].to(dtype)}

    path = forge(saved, tmp_path / "v.safetensors", lambda text: text, cast)
    if fits:
        assert load(path, Small).module
    else:
        with pytest.raises(RecipeError, match=f"saved as {dtype}"):
            load(path, Small)


@pytest.mark.parametrize("dtype", NUMBER_TYPES.values(), ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (2, 0, 3), (3,), (2, 3, 4)])
def test_the_tensors_of_a_call_come_back_as_zeros(dtype, shape):
    given = torch.zeros(shape, dtype=dtype)
    (found,) = decode(json.loads(json.dumps(encode([given]))))
    assert (found.dtype, found.shape, found.is_contiguous()) == (dtype, shape, True)
    assert torch.equal(found, given)


def test_every_path_may_be_bytes(saved, tmp_path):
    made = load(os.fsencode(saved), Small)
    path = os.fsencode(tmp_path / "v.safetensors")
    assert save(made, path) == tmp_path / "v.safetensors"
    model = Small()
    with watch(model, torch.optim.SGD(model.parameters(), lr=0.1)) as history:
        pass
    save_history(history, path)
    assert read_history(path).steps == 0
    history.to_csv(path)
    assert scan(os.fsencode(saved)).parameters
    for nothing in (3, None, ["a"]):
        with pytest.raises(InputError, match=r"^path(=3| is |= is )"):
            read_history(nothing)


def test_a_dilation_beyond_the_image_is_refused(saved, tmp_path):
    far = edit(reach=10**9, format=4)
    with pytest.raises(RecipeError, match="1,000,000,000 pixels in images of 16"):
        load(forge(saved, tmp_path / "v.safetensors", far), Small)
    proposal = analyze(Small(), example_inputs=torch.zeros(1, 1, 16, 16)).proposals[0]
    with pytest.raises(InputError, match="give at most 16"):
        proposal.build(reach=17)


def test_large_example_inputs_are_read_without_their_memory(saved, tmp_path):
    wide = [{"tuple": [{"tensor": [1, 1, 4096, 8192], "dtype": "float32"}]}, {"dict": []}]
    path = forge(saved, tmp_path / "v.safetensors", edit(inputs=wide))
    load(path, Small)  # what is compiled and cached once
    forget_the_peak()
    before = peak()
    shape = load(path, Small).structure.inputs.args[0].shape
    assert shape == (1, 1, 4096, 8192)
    assert peak() - before < 100e6  # the inputs alone are 134 MB, two of twice the size 1,074 MB


# --- files that are changed while they are read -------------------------------------------------


def test_what_the_library_wrote_is_cut_while_it_is_read(saved, tmp_path, monkeypatch):
    """A mapped file that is cut would end the process (SIGBUS)."""
    variant = tmp_path / "v.safetensors"
    variant.write_bytes(saved.read_bytes())
    model, optimizer, _ = train(0)
    with watch(model, optimizer, store=tmp_path / "start.safetensors") as history:
        pass
    save_history(history, tmp_path / "h.safetensors")
    find = safetensors_files._tensors

    def cut(source):
        found = find(source)
        os.truncate(source.path, source.size - 8)
        return found

    monkeypatch.setattr(safetensors_files, "_tensors", cut)
    with pytest.raises(RecipeError, match="was changed while it was read"):
        load(variant, Small)
    with pytest.raises(InputError, match=r"start\.safetensors.*was changed while it was read"):
        history.initial()
    with pytest.raises(CheckpointError, match="was changed while it was read"):
        read_history(tmp_path / "h.safetensors")


# --- places to write to -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["a\0b", "x" * 300, "no/such/folder", ".", "a\ud800b", 3, "~nobody9/x"]
)
def test_places_that_cannot_be_written(path):
    words = "expected the path" if path == 3 else "cannot write"
    with pytest.raises(InputError, match=words), written_atomically(path):
        pytest.fail("the block ran")


def test_devices_and_pipes_are_never_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for target in ("/dev/null", tmp_path / "pipe"):
        with pytest.raises(InputError, match="it is no file"), written_atomically(target):
            pytest.fail("the block ran")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_a_read_only_folder_is_named(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    for call in ("touch", "unlink"):  # as such a file system does
        monkeypatch.setattr(Path, call, refuse)
    with pytest.raises(InputError, match=r"cannot write .*: Read-only"), written_atomically("x"):
        refuse()


def test_permissions_stay(tmp_path):
    (tmp_path / "x").write_text("old")
    (tmp_path / "x").chmod(0o640)
    with written_atomically(tmp_path / "x") as temporary:
        temporary.write_text("new")
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o640


@pytest.mark.parametrize("umask", [0o022, 0o027])
def test_every_new_file_has_the_permissions_that_the_process_gives(tmp_path, umask):
    before = os.umask(umask)
    try:
        write_tensors({"a": torch.ones(1)}, tmp_path / "a.safetensors")
        write_pickle([torch.ones(1)], tmp_path / "b.pt")
        write_text(tmp_path / "c.txt", "c")
        (tmp_path / "plain").touch()
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == dict.fromkeys(("a.safetensors", "b.pt", "c.txt", "plain"), 0o666 & ~umask)


def test_a_disk_that_is_full_for_tensors_too(tmp_path, monkeypatch):
    import safetensors.torch
    from safetensors import SafetensorError

    def full(tensors, path, metadata):
        path.write_bytes(b"half")
        raise SafetensorError("No space left on device (os error 28)")

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(InputError, match=r"cannot write .*No space left"):
        write_tensors({"a": torch.ones(1)}, tmp_path / "x")
    assert os.listdir(tmp_path) == []


def test_names_that_no_alphabet_has_can_be_written(tmp_path):
    import pandas as pd

    write_csv(pd.DataFrame({"name": ["a\ud800", "\t=1"], "value": [1.5, -2.0]}), tmp_path / "x.csv")
    assert (tmp_path / "x.csv").read_text().splitlines()[1:] == ["a\\ud800,1.5", "'\t=1,-2.0"]
