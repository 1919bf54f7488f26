"""Files that lie, are something else, or ask for more than they hold."""

import json
import os
import pickle
import subprocess
import sys
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from weightscope import (
    CheckpointError,
    InputError,
    RecipeError,
    load,
    read_history,
    read_weights,
    scan,
)
from weightscope.statistics import checkpoints
from weightscope.statistics import scan as statistics_scan


def found(path, **options):
    return {p.parameter: p for p in scan(path, **options).parameters}


def refused(path, words):
    with pytest.raises(CheckpointError, match=words) as caught:
        scan(path)
    assert "weights_only" not in str(caught.value)
    with pytest.raises(CheckpointError, match=words):
        read_weights(path)


def rewrite(path, change):
    """The same archive with ``change(name, content)`` for every record."""
    with zipfile.ZipFile(path) as old:
        records = [(name, old.read(name)) for name in old.namelist()]
    with zipfile.ZipFile(path, "w") as new:
        for name, content in records:
            new.writestr(name, change(name, content))


def with_program(path, program):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", program)
        archive.writestr("a/version", "3\n")
    return path


# --- damage ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [40, 396, 0])
def test_numbers_that_are_cut(tmp_path, size):
    path = tmp_path / "x.pt"
    torch.save({"a": torch.arange(1.0, 101.0)}, path)
    rewrite(path, lambda name, content: content[:size] if name.endswith("data/0") else content)
    refused(path, rf"400 bytes of numbers are claimed, {size} are there")


def test_a_header_that_shifts_all_numbers(tmp_path):
    path = tmp_path / "x.pt"
    torch.save({"a": torch.arange(1.0, 101.0)}, path)
    whole = path.read_bytes()
    at = whole.index(b"PK\x03\x04", whole.index(b"x/byteorder"))
    for place, by in ((26, 1), (26, -1), (28, 4), (28, -4)):  # lengths of name and padding
        data = bytearray(whole)
        data[at + place] = (data[at + place] + by) % 256
        path.write_bytes(data)
        refused(path, "does not lie where the archive says")


def test_directories_that_contradict_the_records(tmp_path):
    path = tmp_path / "x.pt"
    torch.save({"a": torch.ones(3)}, path)
    whole = path.read_bytes()
    entry, end = whole.index(b"PK\x01\x02"), whole.index(b"PK\x05\x06")
    for place, value, words in (
        (entry + 6, 90, r"zip file version 9\.0"),
        (entry + 8, 1, "does not lie where"),  # encrypted
        (entry + 38, 0x10, "does not lie where"),  # a folder
        (entry + 20, 1, "does not lie where"),  # packed size
        (end + 4, 1, "truncated or damaged"),  # number of this disk
        (end + 10, 3, "truncated or damaged"),  # number of records
    ):
        data = bytearray(whole)
        data[place] = value
        path.write_bytes(data)
        refused(path, words)
    path.write_bytes(whole + b"comment")
    refused(path, "truncated or damaged")


def test_archives_behind_other_data(tmp_path):
    """torch reads the first of two archives in one file, or none; `zipfile` the last."""
    torch.save({"a": torch.zeros(3)}, tmp_path / "first.pt")
    torch.save({"a": torch.ones(3)}, tmp_path / "second.pt")
    rewritten = tmp_path / "plain.pt"  # with the short directory only
    rewritten.write_bytes((tmp_path / "second.pt").read_bytes())
    rewrite(rewritten, lambda _, content: content)
    assert found(rewritten)["a"].summary.mean == 1.0
    first, *others = (
        (tmp_path / name).read_bytes() for name in ("first.pt", "second.pt", "plain.pt")
    )
    path = tmp_path / "x.pt"
    for second in others:
        as_comment = first[:-2] + len(second).to_bytes(2, "little") + second
        for data in (first + second, as_comment, b"PK" + second, first[:500] + second):
            path.write_bytes(data)
            refused(path, "truncated or damaged")


class Called:
    """Pickles as a call, and what is built on its result."""

    def __init__(self, *reduced):
        self.reduced = reduced

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize("old", [False, True])
def test_tensors_that_are_given_other_numbers_later(tmp_path, old):
    one, two = torch.ones(3), torch.zeros(3)
    rebuild, arguments = one.__reduce_ex__(2)
    with_state = torch._utils._rebuild_parameter_with_state
    from_type = torch._tensor._rebuild_from_type_v2
    path = tmp_path / "x.pt"
    for odd, words in (
        (Called(rebuild, arguments, {"data": two}), "changed after it was made"),
        (Called(with_state, (one, True, {}, {"data": two})), "given other numbers"),
        (Called(with_state, (one, True, {}, (None, {"imag": two}))), "given other numbers"),
        (Called(from_type, (rebuild, torch.Tensor, arguments, {"data": two})), "other numbers"),
    ):
        torch.save({"a": odd}, path, _use_new_zipfile_serialization=not old)
        refused(path, words)
    torch.save({"a": Called(with_state, (one, True, {}, {"tag": 3}))}, path)
    assert found(path)["a"].summary.mean == 1.0


def test_numbers_of_two_kinds(tmp_path):
    path = tmp_path / "x.pt"
    torch.save({"a": torch.ones(3), "b": torch.ones(3, dtype=torch.int32)}, path)

    def both(name, content):
        if not name.endswith("data.pkl"):
            return content
        at = content.rindex(b"X\x01\x00\x00\x001")
        return content[:at] + content[at:].replace(b"1", b"0", 1)

    rewrite(path, both)
    refused(path, "'0' are claimed to be of two kinds")


@pytest.mark.parametrize("long", [False, True])
def test_a_directory_that_lies_about_its_place(tmp_path, long):
    path = tmp_path / "x.pt"
    torch.save({"a": torch.ones(3)}, path)
    data = bytearray(path.read_bytes())
    at = data.index(b"PK\x06\x06") + 48 if long else data.index(b"PK\x05\x06") + 16
    data[at] ^= 64
    path.write_bytes(data)
    refused(path, "truncated or damaged")


@pytest.mark.parametrize("place", [1, 1 << 20, (1 << 63) - 1, (1 << 64) - 1])
def test_directories_that_lie_before_the_file(tmp_path, place):
    """All records are then said to lie at negative places, which no descriptor takes."""
    path = tmp_path / "x.pt"
    torch.save({"a": torch.ones(3)}, path)
    data = bytearray(path.read_bytes())
    at = data.index(b"PK\x06\x06") + 48
    place += int.from_bytes(data[at : at + 8], "little") if place < 1 << 63 else 0
    data[at : at + 8] = place.to_bytes(8, "little")
    path.write_bytes(data)
    refused(path, "truncated or damaged")


@pytest.mark.parametrize("fields", [[8, 10], [12], [16], [8, 10, 12, 16]])
def test_short_records_that_leave_it_to_the_long_one(tmp_path, fields):
    """Counts, size and place of the directory are all ones in it, as of large files."""
    path = tmp_path / "x.pt"
    torch.save({"a": torch.arange(3.0)}, path)
    data = bytearray(path.read_bytes())
    end = data.index(b"PK\x05\x06")
    for field in fields:
        width = 2 if field < 12 else 4
        data[end + field : end + field + width] = b"\xff" * width
    path.write_bytes(data)
    assert torch.equal(read_weights(path)["a"], torch.load(path)["a"])
    long = data.index(b"PK\x06\x06")
    for field in (24, 32):
        wrong = data.copy()
        wrong[long + field] += 1
        path.write_bytes(wrong)
        refused(path, "its last record does not fit the others")


@pytest.mark.parametrize(("order", "words"), [
    (b"big", r"big-endian numbers; save what torch\.load"),
    (b"odd", "is damaged: its order of bytes"),
    (b"", "is damaged: its order of bytes"), (b"little\n", "is damaged: its order of bytes"),
])  # fmt: skip
def test_orders_of_bytes(tmp_path, order, words):
    path = tmp_path / "x.pt"
    torch.save({"a": torch.arange(3.0)}, path)
    rewrite(path, lambda name, content: order if name.endswith("byteorder") else content)
    refused(path, words)


@pytest.mark.parametrize("cut", [1, 30, 300, 398])
def test_the_old_format_is_read_in_pieces_and_checked(tmp_path, cut):
    path = tmp_path / "old.pt"
    torch.save(
        {"a": torch.arange(50.0), "b": torch.ones(50)}, path, _use_new_zipfile_serialization=False
    )
    assert found(path)["a"].summary.mean == 24.5
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    refused(path, "truncated or damaged|not all are there")
    path.write_bytes(whole + b"x")
    refused(path, "1 bytes behind its numbers")


# --- names -------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [
    {"a.b": torch.ones(1), "a": {"b": torch.ones(2)}},
    {1: torch.ones(1), "1": torch.ones(2)},
    {"": torch.ones(1), "tensor": torch.ones(2)},
    {"x": torch.ones(1), b"x": torch.ones(2)},
    {True: torch.ones(1), "True": torch.ones(2)},
    {("a", 1): torch.ones(1), ("a", 2): torch.ones(2)},
    [{"w": torch.ones(1)}, {"w": torch.ones(2)}],
])  # fmt: skip
def test_names_that_flatten_alike_lose_nothing(tmp_path, content):
    torch.save(content, tmp_path / "x.pt")
    statistics = scan(tmp_path / "x.pt")
    assert sorted(p.count for p in statistics.parameters) == [1, 2]
    assert len({p.parameter for p in statistics.parameters}) == 2
    assert statistics.coverage == 1


def test_a_taken_name_is_numbered(tmp_path):
    torch.save(
        {"a": {"b": torch.ones(2)}, "a.b": torch.ones(1), "a.b (2)": torch.ones(3)}, tmp_path / "x"
    )
    assert {n: p.count for n, p in found(tmp_path / "x").items()} == {
        "a.b": 2, "a.b (2)": 1, "a.b (2) (2)": 3,
    }  # fmt: skip


# --- what is stored once -----------------------------------------------------------------------


def test_expanded_tensors_are_measured_once(tmp_path):
    torch.save(
        {"wide": torch.full((1,), 2.0).expand(10**9), "rows": torch.arange(3.0).expand(10**8, 3)},
        tmp_path / "x",
    )
    records = found(tmp_path / "x")
    assert (records["wide"].count, records["wide"].shape) == (1, (10**9,))
    assert (records["rows"].count, records["rows"].summary.mean) == (3, 1.0)


def test_views_that_overlap_are_skipped_and_many_views_refused(tmp_path):
    weights = torch.ones(1000)
    torch.save({"windows": weights.unfold(0, 100, 1), "w": weights}, tmp_path / "x")
    statistics = scan(tmp_path / "x")
    assert [(s.name, s.reason[:36]) for s in statistics.skipped] == [
        ("windows", "a view whose elements overlap; save ")
    ]
    torch.save({str(i): weights[i:] for i in range(200)}, tmp_path / "x")
    refused(tmp_path / "x", "many are views of the same numbers")


def test_containers_that_share_their_content_are_visited_once(tmp_path):
    tree = {"w": torch.ones(1)}
    for _ in range(80):
        tree = {"a": tree, "b": tree, "c": [tree, tree]}
    torch.save(tree, tmp_path / "x")
    statistics = scan(tmp_path / "x")
    assert [p.count for p in statistics.parameters] == [1]
    assert statistics.skipped[0].reason.startswith("the same object as ")
    state = {"w": torch.ones(2)}
    torch.save({"model": state, "ema": state, "again": state["w"]}, tmp_path / "x")
    statistics = scan(tmp_path / "x")
    assert [(p.parameter, p.shared_with) for p in statistics.parameters] == [
        ("model.w", ("again",))
    ]
    assert [(s.name, s.reason) for s in statistics.skipped] == [
        ("ema", "the same object as 'model'")
    ]


def test_empty_tensors_share_a_summary(tmp_path):
    torch.save({str(i): torch.empty(0, 3) for i in range(300)}, tmp_path / "x")
    records = scan(tmp_path / "x").parameters
    assert len(records) == 300
    assert len({id(record.summary) for record in records}) == 1
    assert records[0].warning == "empty"


# --- what asks for too much --------------------------------------------------------------------


def header(text, data=b""):
    return len(text).to_bytes(8, "little") + text + data


@pytest.mark.parametrize("shape", [
    ",".join(["9" * 4000] * 200), "9" * 5000, ",".join(["1"] * 100_000), str(2**63), f"0,{2**62},4",
    f"{2**32},{2**32}", "1e3", '"3"', "null", "[1]",
])  # fmt: skip
def test_shapes_that_no_tensor_has(tmp_path, shape):
    claim = '{"a":{"dtype":"F32","shape":[' + shape + '],"data_offsets":[0,4]}}'
    (tmp_path / "x").write_bytes(header(claim.encode(), bytes(4)))
    refused(tmp_path / "x", "makes no sense|not readable JSON")


@pytest.mark.parametrize("spaces", [" ", "\n\t\r ", " " * 123])
def test_headers_that_begin_with_spaces(tmp_path, spaces):
    """The format knows none, and its library reads them; 123 is the number of a brace."""
    claim = {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}
    text = (spaces + json.dumps(claim)).ljust(123).encode()
    (tmp_path / "x").write_bytes(header(text, bytes(4)))
    assert list(load_file(tmp_path / "x")) == list(found(tmp_path / "x")) == ["a"]
    (tmp_path / "i.json").write_text(f'{spaces}{{"weight_map": {{"a": "x"}}}}')
    assert list(found(tmp_path / "i.json")) == ["a"]


@pytest.mark.parametrize("place", ['"shape": [{}]', '"data_offsets": [0, {}]', '"x": {}'])
def test_numbers_of_too_many_digits(tmp_path, place):
    """Python's own message advises a setting of Python."""
    claim = '{{"a": {{"dtype": "F32", "data_offsets": [0, 4], "shape": [1], {} }}}}'
    text = claim.format(place.format("9" * 100_000)).encode()
    (tmp_path / "x").write_bytes(header(text, bytes(4)))
    (tmp_path / "x.json").write_bytes(text)
    for name in ("x", "x.json"):
        refused(tmp_path / name, r"not readable JSON \(a number in it has too many digits\)")


def test_a_dtype_of_unknown_size_counts_no_more_than_its_bits(tmp_path):
    def write(dtype, size):
        known = {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}
        claims = {"a": {"dtype": dtype, "shape": [size], "data_offsets": [0, 4]}, "w": known}
        (tmp_path / "x").write_bytes(header(json.dumps(claims).encode(), bytes(8)))

    write("F1", 32)
    assert scan(tmp_path / "x").coverage == 1 / 33
    write("F1", 2**62)
    refused(tmp_path / "x", "fewer bits than elements")
    write("F4", 9)
    refused(tmp_path / "x", "the file is damaged")


@pytest.mark.parametrize("program", [
    b"\x80\x02" + b"]" * 1200 + b"a" * 1199 + b".",
    b"\x80\x02" + b"]" * 50_000 + b"a" * 49_999 + b".",
    b"\x80\x02}N" + b"\x85" * 50_000 + b"K\x01s.",  # a deep key, whose hash would overflow
    b"\x80\x02N" + b"ctorch._tensor\n_rebuild_from_type_v2\n0" * 3 + b".",
    b"\x80\x02Nr\xff\xff\xff\xff.",  # a place in memory at 2**32
    b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",  # so many bytes
    b"\x80\x02L" + b"9" * 5000 + b"L\n.",
    b"\x80\x02c" + b"x" * 100_000,
    b"\x80\x02(((((.",
    b".",
])  # fmt: skip
def test_programs_that_would_exhaust_the_machine(tmp_path, program):
    refused(with_program(tmp_path / "x.pt", program), "holds no tensors|too deeply|is damaged")


def test_sparse_and_endless_files(tmp_path):
    for start, size in ((b"{", 1 << 40), (b"{", 1 << 20), (header(b"{")[:8] + b"{", 1 << 40)):
        with (tmp_path / "x").open("wb") as file:
            file.write(start)
            file.truncate(size)
        refused(tmp_path / "x", "too long for one|not readable JSON")
    refused("/dev/zero", "is a device")


def test_pipes_and_sockets_are_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.pt")
    refused(tmp_path / "pipe.pt", "is a pipe")
    (tmp_path / "index.json").write_text(json.dumps({"weight_map": {"a": "pipe.pt"}}))
    refused(tmp_path / "index.json", "is a pipe")


# --- what it is ---------------------------------------------------------------------------------


class Inside(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def forward(self, x):
        return self.layer(x)


@pytest.mark.parametrize("old", [False, True])
def test_whole_models_are_named(tmp_path, old):
    def keep(content):
        torch.save(content, tmp_path / "x", _use_new_zipfile_serialization=not old)

    keep(Inside())
    refused(tmp_path / "x", r"a pickled Inside, a whole model .* save model\.state_dict\(\)")
    keep({"epoch": 3, "model": Inside()})
    refused(tmp_path / "x", "under 'model' a pickled Inside")
    keep({"epoch": 3, "model": Inside(), "weights": Inside().state_dict()})
    assert list(read_weights(tmp_path / "x")) == ["layer.weight", "layer.bias"]
    assert [s.name for s in scan(tmp_path / "x").skipped] == ["model"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_programs_of_torch_are_named(tmp_path):
    torch.jit.trace(Inside(), torch.ones(1, 2)).save(tmp_path / "x.pt")
    refused(tmp_path / "x.pt", r"TorchScript archive.*torch\.jit\.load\(path\)\.state_dict\(\)")
    torch.export.save(torch.export.export(Inside(), (torch.ones(1, 2),)), tmp_path / "x.pt2")
    refused(tmp_path / "x.pt2", r"exported program; save torch\.export\.load")


@pytest.mark.parametrize(("content", "words"), [
    (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer.*git lfs pull"),
    (b"<!DOCTYPE html>\n<html>", "web page.*download the file"),
    (b"\n  <html lang='en'>", "web page"),
    (b"\x08\x08\x12\x07pytorch\x1a\x052.0.0", "ONNX graph"),
    (b"\x89HDF\r\n\x1a\n" + bytes(50), "HDF5 file"),
    (b"\x93NUMPY\x01\x00", "a numpy array"),
    (b"GGUF" + bytes(20), "GGUF"),
    (b"\x1f\x8b\x08" + bytes(20), "gzip; unpack it"),
    (pickle.dumps({"a": 1}), "a pickle that was not written by torch.save"),
    (pickle.dumps({"a": torch.ones(2)}), "a pickle that was not written by torch.save"),
    (b"weights\n", "is no checkpoint"),
])  # fmt: skip
def test_other_files_are_named(tmp_path, content, words):
    (tmp_path / "model.pt").write_bytes(content)
    refused(tmp_path / "model.pt", words)


def test_archives_folders_and_indexes_are_named(tmp_path):
    zipfile.ZipFile(tmp_path / "empty", "w").close()
    refused(tmp_path / "empty", "a zip archive that was not written by torch.save")
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        archive.add(__file__, "x.py")
    refused(tmp_path / "x.tar", "tar archive")
    (tmp_path / "i.json").write_text(json.dumps({"weight_map": {"a": "i.json"}}))
    refused(tmp_path / "i.json", "'i.json' is an index too")
    (tmp_path / "i.json").write_text(json.dumps({"weight_map": {"a": "j.json"}}))
    (tmp_path / "j.json").write_text(json.dumps({"weight_map": {"a": "i.json"}}))
    refused(tmp_path / "i.json", "'j.json' is an index too")
    for files in ({}, [], ["a"], "a.bin", None, 3):
        (tmp_path / "i.json").write_text(json.dumps({"weight_map": files}))
        refused(tmp_path / "i.json", r"no index of a checkpoint \(its weight_map names no tensors")
    for file in ("", 3, None, ["a"], ".", "..", "a/b", "/a", "\0", "a" * 300):
        (tmp_path / "i.json").write_text(json.dumps({"weight_map": {"a": file}}))
        refused(tmp_path / "i.json", "not the name of a file|cannot read|is a folder")
    (tmp_path / "dcp").mkdir()
    (tmp_path / "dcp" / ".metadata").write_bytes(b"x")
    (tmp_path / "dcp" / "__0_0.distcp").write_bytes(b"x")
    refused(tmp_path / "dcp", r"distributed checkpoint.*dcp_to_torch")


def test_links_of_shards_stay_in_their_folder(tmp_path):
    outside, folder = tmp_path / "outside.safetensors", tmp_path / "folder"
    save_file({"a": torch.ones(3)}, outside)
    folder.mkdir()
    (folder / "index.json").write_text(json.dumps({"weight_map": {"a": "m"}}))
    (folder / "m").symlink_to(outside)
    refused(folder / "index.json", "'m' is a link to a file outside of its folder; put")
    (folder / "m").unlink()
    (folder / "inside").write_bytes(outside.read_bytes())
    (folder / "m").symlink_to("inside")
    assert list(found(folder / "index.json")) == ["a"]
    (tmp_path / "link").symlink_to(folder)
    assert list(found(tmp_path / "link" / "index.json")) == ["a"]
    (folder / "whole").symlink_to(outside)  # whoever names a file may name a link
    assert list(found(folder / "whole")) == ["a"]


@pytest.mark.parametrize("below", [".", "text_encoder"])
def test_the_cache_of_hugging_face_links_its_shards(tmp_path, below):
    """Of a repository: ``snapshots/REVISION/FILE`` is a link to ``blobs/DIGEST``."""
    blobs, snapshot = tmp_path / "models--a--b" / "blobs", tmp_path / "models--a--b/snapshots/1f"
    blobs.mkdir(parents=True)
    (snapshot / below).mkdir(parents=True)
    save_file({"a": torch.ones(3)}, blobs / "0d")
    (blobs / "0e").write_text(json.dumps({"weight_map": {"a": "m.safetensors"}}))
    for name, blob in {"m.safetensors": "0d", "model.safetensors.index.json": "0e"}.items():
        (snapshot / below / name).symlink_to(os.path.relpath(blobs / blob, snapshot / below))
    assert list(found(snapshot / below / "model.safetensors.index.json")) == ["a"]
    assert list(found(snapshot / below)) == ["a"]
    (snapshot / below / "m.safetensors").unlink()
    save_file({"a": torch.ones(3)}, tmp_path / "other")
    (snapshot / below / "m.safetensors").symlink_to(tmp_path / "other")
    refused(snapshot / below, "is a link to a file outside")


def test_the_old_format_names_its_numbers_by_texts(tmp_path):
    """Hashing a deep tuple would end the process."""
    deep = b")" + b"\x85" * 100_000
    for key in (deep, b"K\x07"):
        program = b"\x80\x02(X\x07\x00\x00\x00storagectorch\nFloatStorage\n" + key + b"NK\x01tQ."
        start = b"".join(pickle.dumps(x, 2) for x in (0x1950A86A20F9469CFC6C, 1001, {}))
        (tmp_path / "x").write_bytes(start + program)
        refused(tmp_path / "x", "the numbers of a tensor in it have no name")


def test_tensors_of_other_kinds_are_skipped_by_name(tmp_path):
    with pytest.warns(UserWarning, match="nested"):
        nested = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])
    jagged = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged)
    torch.save(
        {"nested": nested, "jagged": jagged, "sparse": torch.eye(3).to_sparse(), "w": torch.ones(2),
         "meta": torch.ones(3, device="meta"), "complex": torch.ones(2, dtype=torch.complex64)},
        tmp_path / "x",
    )  # fmt: skip
    statistics = scan(tmp_path / "x")
    assert [p.parameter for p in statistics.parameters] == ["w"]
    reasons = {s.name.partition(".")[0]: s.reason for s in statistics.skipped}
    for name, words in {
        "nested": "a nested tensor", "sparse": "torch.sparse_coo; densify", "meta": "on the meta",
        "complex": "no order",
    }.items():  # fmt: skip
        assert words in reasons[name]


# --- paths --------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["a\0b.pt", "a\ud800b", "x" * 300, "y/" * 3000, "", b"\xff"])
def test_paths_that_no_file_has(path):
    refused(path, "cannot read|a folder with")


def test_what_is_no_path():
    for nothing in (3, None, ["a"]):
        with pytest.raises(InputError, match=r"^path=(3| is .*); give a path"):
            scan(nothing)
        with pytest.raises(InputError, match=r"^path=(3| is .*); give a path"):
            load(nothing, Inside)
    for nowhere in ("a\0b", "x" * 300, "a\ud800", "", b"\xff"):
        with pytest.raises(RecipeError, match="there is no file"):
            load(nowhere, Inside)


def test_what_is_no_variant_and_no_history_is_named(tmp_path):
    """For what it is, as far as its first bytes say."""
    os.mkfifo(tmp_path / "pipe")
    zipfile.ZipFile(tmp_path / "empty archive", "w").close()
    (tmp_path / "empty").touch()
    (tmp_path / "page").write_text("<html>")
    (tmp_path / "graph").write_bytes(b"\x08\x08\x12\x07pytorch\x1a\x052.0.0")
    (tmp_path / "text").write_text("some notes")
    (tmp_path / "index").write_text('{"weight_map": {"a": "b"}}')
    torch.save({"w": torch.ones(1)}, tmp_path / "old", _use_new_zipfile_serialization=False)
    torch.save(Inside(), tmp_path / "model")
    for name, words in {
        "pipe": "is a pipe; give the path of a file", ".": "is a folder", "/dev/null": "a device",
        "empty archive": "is an empty zip archive; expected a safetensors file",
        "empty": "is empty", "page": "is a web page", "graph": "is an ONNX graph",
        "text": "is something else, or damaged; expected a safetensors file",
        "index": "is JSON, as the index", "model": "is an archive, as torch.save",
    }.items():  # fmt: skip
        for read in (lambda path: load(path, Inside), read_history):
            with pytest.raises((RecipeError, CheckpointError), match=words):
                read(tmp_path / name)
    with pytest.raises(CheckpointError, match="is a pickle, as torch"):
        read_history(tmp_path / "old")
    with pytest.raises(RecipeError, match="it is a checkpoint; fit_weights"):
        load(tmp_path / "old", Inside)


# --- the caller's modes, and changes while reading ----------------------------------------------


@pytest.mark.parametrize("mode", [
    lambda: torch.device("meta"), FakeTensorMode, torch.inference_mode, torch.no_grad,
    lambda: torch.autocast("cpu", torch.bfloat16),
])  # fmt: skip
def test_files_are_read_outside_of_the_callers_modes(tmp_path, mode):
    content = {"a": torch.arange(40_000.0), "h": torch.ones(9).half(), "d": torch.ones(2).double()}
    torch.save(content, tmp_path / "x.pt")
    with mode():
        records = found(tmp_path / "x.pt")
        weights = read_weights(tmp_path / "x.pt")
        assert type(weights["a"]) is torch.Tensor
    assert {n: p.summary.mean for n, p in records.items()} == {"a": 19999.5, "h": 1.0, "d": 1.0}
    assert torch.equal(weights["a"], content["a"])


def test_the_default_device_and_dtype_do_not_matter(tmp_path):
    torch.save({"a": torch.ones(5)}, tmp_path / "x.pt")
    try:
        torch.set_default_device("meta")
        torch.set_default_dtype(torch.float64)
        record = found(tmp_path / "x.pt")["a"]
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(torch.float32)
    assert (record.dtype, record.summary.mean) == ("float32", 1.0)


@pytest.mark.parametrize("count", [1000, 9 << 20])  # at once, and range by range
@pytest.mark.parametrize("change", ["cut", "written"])
def test_a_file_that_is_changed_while_it_is_scanned(tmp_path, monkeypatch, count, change):
    path = tmp_path / "x.pt"
    torch.save({"a": torch.ones(count), "b": torch.ones(3)}, path)
    run = checkpoints.run_all

    def meanwhile(*arguments):
        with path.open("r+b") as file:
            if change == "cut":
                file.truncate(500)
            else:
                file.seek(count)
                file.write(b"x")
        os.utime(path, ns=(1, 1))
        return run(*arguments)

    monkeypatch.setattr(checkpoints, "run_all", meanwhile)
    with pytest.raises(CheckpointError, match="was changed while it was read"):
        statistics_scan(path)


CUT_IN_THE_MIDDLE = """
import sys
from weightscope import CheckpointError, scan
from weightscope.summaries import counting

path, turns, wanted = sys.argv[1], iter(range(99)), int(sys.argv[2])
def measure(*arguments, then=counting._measure):
    if next(turns) == wanted:
        with open(path, "r+b") as file:
            file.truncate(5 << 20)
    return then(*arguments)
counting._measure = measure
try:
    scan(path)
except CheckpointError as error:
    print(error)
"""


@pytest.mark.parametrize("turn", [0, 3])
def test_a_file_that_is_cut_while_one_of_its_tensors_is_measured(tmp_path, turn):
    """In a process of its own, because a mapped file that is cut would end it (SIGBUS)."""
    save_file({"a": torch.ones(9 << 20)}, tmp_path / "x.safetensors")
    command = [sys.executable, "-c", CUT_IN_THE_MIDDLE, tmp_path / "x.safetensors", str(turn)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert "was changed while it was read" in ended.stdout, (ended.returncode, ended.stderr)


def test_a_file_that_is_replaced_while_it_is_scanned(tmp_path, monkeypatch):
    path = tmp_path / "x.pt"
    torch.save({"a": torch.ones(9 << 20)}, path)
    run = checkpoints.run_all

    def meanwhile(*arguments):
        torch.save({"a": torch.zeros(3)}, tmp_path / "new")
        os.replace(tmp_path / "new", path)
        return run(*arguments)

    monkeypatch.setattr(checkpoints, "run_all", meanwhile)
    assert [p.summary.mean for p in statistics_scan(path).parameters] == [1.0]


def test_nothing_stays_open(tmp_path):
    torch.save({"a": torch.ones(9 << 20)}, tmp_path / "x.pt")
    before = set(os.listdir("/proc/self/fd"))
    for _ in range(3):
        scan(tmp_path / "x.pt", threads=1)
        read_weights(tmp_path / "x.pt")
        with pytest.raises(CheckpointError):
            read_weights(tmp_path / "x.pt", prefix="none")
    assert len(set(os.listdir("/proc/self/fd")) - before) <= 1


# --- the command --------------------------------------------------------------------------------


def command(*arguments, cwd, **options):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **options.pop("env", {})}
    return subprocess.run(
        [sys.executable, "-m", "weightscope", *arguments],
        cwd=cwd, env=environment, capture_output="stdout" not in options, **options,
    )  # fmt: skip


def test_the_table_never_replaces_weights(tmp_path):
    from weightscope.cli import main

    torch.save({"a": torch.ones(3)}, tmp_path / "x.pt")
    before = (tmp_path / "x.pt").read_bytes()
    (tmp_path / "link.csv").symlink_to("x.pt")
    for target in ("x.pt", "link.csv"):
        assert main(["scan", str(tmp_path / "x.pt"), "--csv", str(tmp_path / target)]) == 2
    assert (tmp_path / "x.pt").read_bytes() == before
    assert main(["scan", str(tmp_path / "x.pt"), "--csv", "/dev/full"]) == 2
    assert main(["scan", str(tmp_path / "x.pt"), "--csv", str(tmp_path / "x.csv")]) == 0
    assert main(["scan", str(tmp_path / "x.pt"), "--csv", str(tmp_path / "x.csv")]) == 0


@pytest.mark.slow
def test_terminals_and_full_devices(tmp_path):
    torch.save({"módel.\ud800": torch.ones(3), "=1+1": torch.ones(2)}, tmp_path / "ünï.pt")
    done = command(
        "scan", "ünï.pt", "--csv", "x.csv", cwd=tmp_path, env={"PYTHONIOENCODING": "ascii"}
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert rb"m\xf3del.\ud800" in done.stdout
    assert "'=1+1" in (tmp_path / "x.csv").read_text()
    with open("/dev/full", "w") as full:
        done = command("scan", "ünï.pt", cwd=tmp_path, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 2
    assert b"weightscope: error: cannot write the output: No space left" in done.stderr
    assert b"Traceback" not in done.stderr
    assert b"Exception ignored" not in done.stderr
    done = command("scan", b"no\xffwhere.pt", cwd=tmp_path)
    assert done.returncode == 2
    assert b"Traceback" not in done.stderr
    assert done.stdout == b""


def test_numpy_keys_and_numbers_are_no_tensors(tmp_path):
    torch.save(
        {"w": torch.ones(1), "x": np.float64(1), "y": np.arange(3), np.int64(3): 1}, tmp_path / "x"
    )
    assert list(found(tmp_path / "x")) == ["w"]


@pytest.mark.parametrize("protocol", [2, 5])
def test_arrays_of_floats_are_named(tmp_path, protocol):
    """They may be weights, and nothing said that they were left out; counts are none."""
    torch.save(
        {"w": torch.ones(1), "a": {"b": np.ones((2, 3))}, "c": np.ones(3, np.float16)[::2],
         "n": np.arange(3), "random": np.random.get_state(), "text": np.array(["a"])},
        tmp_path / "x", pickle_protocol=protocol,
    )  # fmt: skip
    statistics = scan(tmp_path / "x")
    assert [p.parameter for p in statistics.parameters] == list(read_weights(tmp_path / "x"))
    assert {s.name: s.reason for s in statistics.skipped} == dict.fromkeys(
        ("a.b", "c"), "a numpy array; save torch.from_numpy(array) in its place"
    )
    torch.save({"model": {"w": np.ones(3)}}, tmp_path / "y", pickle_protocol=protocol)
    refused(tmp_path / "y", r"under 'model\.w' a numpy array; save torch\.from_numpy")
    np.savez(tmp_path / "z.npz", a=np.ones(3))
    refused(tmp_path / "z.npz", r"an archive of numpy arrays; save them by name")
