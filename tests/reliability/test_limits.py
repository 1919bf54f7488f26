"""Small files that ask for much: each is refused before it costs more than a block of memory.

Limits are made small here, and what is built under them is weighed: a kind of junk that takes more
than it is charged for would take too much under the real limit as well.
"""

import io
import itertools
import json
import pickle
import pickletools
import struct
import tracemalloc
import zipfile

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from weightscope import CheckpointError, WeightscopeError, load, read_history, read_weights, scan
from weightscope.checkpoints import RECIPE, limits, opening, pickles, safetensors_files, torch_files
from weightscope.checkpoints.pickles import unpickle
from weightscope.checkpoints.source import Source
from weightscope.truncation import saving

PART = 200
"""How much smaller the limits of memory are here."""

START, END = b"\x80\x02", b"."
COLLIDING = 2**61 - 1  # of which every multiple has the hash 0


def with_program(path, program, **records):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", program)
        archive.writestr("a/version", "3\n")
        for name, content in records.items():
            archive.writestr(f"a/data/{name}", content)
    return path


def with_header(path, text, data=b""):
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def long1(number):
    number = pickle.encode_long(number)
    return b"\x8a" + bytes([len(number)]) + number


def machine_reads(program, locate=None):
    return unpickle(io.BufferedReader(io.BytesIO(program)), locate)


def nowhere(key, dtype, count):
    return pickles.Storage(dtype, count, 0, None)


STORAGE = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x00cNK\x00tq\x00Q"
TENSOR = (
    b"ctorch._utils\n_rebuild_tensor_v2\nq\x01(" + STORAGE + b"K\x00("
    + b"K\x00" * 64 + b"t(" + b"K\x00" * 64 + b"ttq\x02R"
)  # fmt: skip
BOMBS = {
    "lists": (b"(", b"]", b"l"),
    "filled lists": (b"(", b"]K\x01a", b"l"),
    "nested lists": (b"", b"]", b""),
    "nested tuples": (b")", b"\x85", b""),
    "dictionaries": (b"(", b"}K\x01K\x02s", b"l"),
    "empty dictionaries": (b"(", b"}", b"l"),
    "numbers": (b"(", b"M\xff\xff", b"l"),
    "small numbers": (b"(", b"K\x01", b"l"),
    "long numbers": (b"(", b"\x8a\xff" + b"\x7f" * 255, b"l"),
    "floats": (b"(", b"G?\xf0\x00\x00\x00\x00\x00\x01", b"l"),
    "texts": (b"(", b"X\x05\x00\x00\x00abcde", b"l"),
    "wide texts": (b"(", b"X\x00\x01\x00\x00" + "\N{GRINNING FACE}".encode() * 64, b"l"),
    "bytes": (b"(", b"C\x09123456789", b"l"),
    "keys": (b"}(", b"M\xff\xffK\x01", b"u"),
    "pairs": (b"}(", b"h\x00K\x01", b"u"),
    "names": (b"(", b"cm\nT\n", b"l"),
    "long names": (b"X\x58\x02\x00\x00" + b"n" * 600 + b"q\x00(", b"h\x00h\x00\x93", b"l"),
    "numbers in lines": (b"(", b"I300\n", b"l"),
    "objects": (b"cmine\nThing\nq\x00(", b"h\x00)R", b"l"),
    "ordered": (b"ccollections\nOrderedDict\nq\x00(", b"h\x00)R", b"l"),
    "copied lists": (
        b"cbuiltins\nset\nq\x00((" + b"K\x01" * 10_000 + b"l\x85q\x01", b"h\x00h\x01R", b"l"
    ),
    "copied dictionaries": (
        b"ccollections\nOrderedDict\nq\x00(}(" + b"".join(
            b"X\x02\x00\x00\x00%02dK\x01" % n for n in range(100)
        ) + b"utq\x01", b"h\x00h\x01R", b"l",
    ),
    "numbers of tensors": (STORAGE + b"(", b"h\x00Q", b"l"),
    "tensors": (TENSOR + b"(", b"h\x01h\x02R", b"l"),
    "memory": (b"N", b"\x94", b""),
}  # fmt: skip


@pytest.mark.sample(2)
@pytest.mark.parametrize("kind", BOMBS)
def test_what_a_pickle_builds_is_weighed(monkeypatch, kind):
    most = limits.MOST_BUILT // PART
    monkeypatch.setattr(pickles, "MOST_BUILT", most)
    before, again, after = BOMBS[kind]
    program = START + before + again * 150_000 + after + END
    if kind == "pairs":
        program = START + long1(2**500) + b"q\x000" + before + again * 150_000 + after + END
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"describes more than|numbers its parts"):
            machine_reads(program, nowhere)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1.2 * most


def test_marks_are_counted(tmp_path):
    program = START + b"(" * 3_000_000 + END
    with pytest.raises(CheckpointError, match=r"more than 10,000 things.*model\.state_dict"):
        scan(with_program(tmp_path / "x.pt", program))


def test_steps_are_counted(monkeypatch):
    for text in (b"N0" * 1000 + b"N.", b"N0" * 500 + b"N."):
        with pytest.raises(ValueError, match="more than 1,000 steps"):
            unpickle(io.BufferedReader(io.BytesIO(START + text)), None, 1000)
    text = START + b"N0" * 300 + b"N."
    assert unpickle(io.BufferedReader(io.BytesIO(text)), None, 1000) is None


@pytest.mark.parametrize("place", range(5))
def test_steps_of_the_old_format_are_counted_in_each_of_its_parts(tmp_path, monkeypatch, place):
    """One part that does nothing for long, each of which took as long as a whole archive."""
    torch.save({"a": torch.ones(2)}, tmp_path / "x.pt", _use_new_zipfile_serialization=False)
    content = (tmp_path / "x.pt").read_bytes()
    ends = [place + 1 for step, _, place in steps_of_old(content) if step.name == "STOP"]
    assert len(ends) == 5
    junk = b"N0" * 2000
    at = [0, *ends][place] + 2  # behind the protocol
    (tmp_path / "x.pt").write_bytes(content[:at] + junk + content[at:])
    monkeypatch.setattr(torch_files, "MOST_STEPS_TWICE", 3000)
    with pytest.raises(CheckpointError, match=r"more than [\d,]+ steps|was not written by torch"):
        scan(tmp_path / "x.pt")
    monkeypatch.setattr(torch_files, "MOST_STEPS_TWICE", 50_000)
    monkeypatch.setattr(torch_files, "MOST_STEPS_BEFORE", 5000)
    assert len(scan(tmp_path / "x.pt").parameters) == 1


def steps_of_old(content):
    """All steps of the five pickles of an old file, with their places in it."""
    begin = 0
    for _ in range(5):
        for opcode, argument, place in pickletools.genops(content[begin:]):
            yield opcode, argument, begin + place
        begin += place + 1


def test_storages_of_the_old_format_are_counted(tmp_path, monkeypatch):
    tensors = {str(n): torch.ones(1) for n in range(7)}
    torch.save(tensors, tmp_path / "x.pt", _use_new_zipfile_serialization=False)
    monkeypatch.setattr(torch_files, "MOST_TENSORS", 5)
    with pytest.raises(CheckpointError, match="the numbers of more than 5 tensors"):
        scan(tmp_path / "x.pt")


@pytest.mark.parametrize("keys", [
    [long1(i * COLLIDING) for i in range(300)],
    [b"G" + struct.pack(">d", i * 2.0**61) for i in range(300)],  # the hash of 1.0 * 2**61 is 1
    [b"J" + struct.pack("<i", i * 2**16) for i in range(300)],  # the low bits of the hash
    [b"I" + str(i * COLLIDING).encode() + b"\n" for i in range(300)],
])  # fmt: skip
def test_nobody_chooses_the_hashes_of_keys(keys):
    """Keys of equal hashes would make a dictionary take the square of their number."""
    found = machine_reads(START + b"}(" + b"K\x00".join(keys) + b"K\x00u.")
    assert len(found) == 300
    assert len({hash(key) & 0xFFFF for key in found}) > 290


@pytest.mark.parametrize("step", [b"p%d\n", b"g%d\n"])
def test_nobody_chooses_places_in_memory(step):
    program = START + b"N" + b"".join(step % (i * COLLIDING) for i in range(1, 300)) + b"."
    with pytest.raises(ValueError, match=r"numbers its parts|IndexError"):
        machine_reads(program)
    for place in (b"p-1\n", b"g-1\n", b"r\x05\x00\x00\x00h\x03"):
        with pytest.raises(ValueError, match=r"numbers its parts|a part that it does not have"):
            machine_reads(START + b"N" + place + b".")
    assert machine_reads(START + b"Nq\x010h\x01.") is None  # Python 2 counted from 1


def test_places_far_away_cost_nothing():
    """Seven bytes asked for a list of 29 million places, twice."""
    for place in (11_000, 2**24, 2**31 - 1):
        tracemalloc.start()
        try:
            with pytest.raises(ValueError, match="numbers its parts"):
                machine_reads(START + b"Nr" + struct.pack("<I", place) + b".")
            assert tracemalloc.get_traced_memory()[1] < 1 << 20
        finally:
            tracemalloc.stop()


def test_keys_that_are_no_texts_lose_no_tensor(tmp_path):
    tensors = [torch.full((n,), float(n)) for n in range(1, 9)]
    nan = float("nan")
    keys = [2**70, 2**71, 1.5, True, nan, float("nan"), ("a",), ("a", 1)]
    torch.save(dict(zip(keys, tensors, strict=True)), tmp_path / "x.pt")
    assert [p.count for p in scan(tmp_path / "x.pt").parameters] == list(range(1, 9))
    names = list(read_weights(tmp_path / "x.pt"))
    assert names == [
        "<a large number>", "<a large number> (2)", "1.5", "True", "<float 4>", "<float 5>",
        "('a',)", "('a', 1)",
    ]  # fmt: skip


def test_long_texts_are_stepped_over_and_lose_no_tensor(tmp_path):
    long = "x" * 9000
    torch.save(
        {long + "a": torch.ones(1), long + "b": torch.ones(2), "note": "y" * 10**6,
         "bytes": bytes(10**6), "number": 2**100_000, "w": torch.ones(3)}, tmp_path / "x.pt",
    )  # fmt: skip
    records = {p.parameter: p.count for p in scan(tmp_path / "x.pt").parameters}
    assert records == {"<Long 0>": 1, "<Long 1>": 2, "w": 3}
    save_file({long + "a": torch.ones(1), long + "b": torch.ones(2)}, tmp_path / "x.safetensors")
    assert [p.count for p in scan(tmp_path / "x.safetensors").parameters] == [1, 2]


def test_a_text_said_to_be_endless():
    for size in (2**31, 2**62 - 1, 2**63, 2**64 - 1):
        program = START + b"\x8d" + size.to_bytes(8, "little") + b"abc."
        with pytest.raises(ValueError, match="ends too early"):
            machine_reads(program)


def nested(times):
    """Tuples of twice the same one: 2**times of them, if somebody wrote them out."""
    steps = (b"0h%ch%c\x86q%c" % (i, i, i + 1) for i in range(times))
    return b")q\x00" + b"".join(steps) + b"0"


@pytest.mark.parametrize("call", [
    b"ctorch._utils\n_rebuild_wrapper_subclass\n(h\xc8NK\x02\x85tR",
    b"ctorch._utils\n_rebuild_sparse_tensor\n(h\xc8(NNK\x02\x85K\x02\x85ttR",
])  # fmt: skip
def test_messages_do_not_write_out_what_they_name(tmp_path, call):
    program = START + nested(200) + b"}X\x01\x00\x00\x00a" + call + b"s."
    statistics = scan(with_program(tmp_path / "x.pt", program))
    assert "something else" in statistics.skipped[0].reason


def test_tensors_of_too_many_arguments(tmp_path):
    program = START + b"ctorch._utils\n_rebuild_tensor_v2\n(" + b"N" * 1000 + b"tR."
    with pytest.raises(CheckpointError, match="too many arguments"):
        scan(with_program(tmp_path / "x.pt", program))


# --- JSON ----------------------------------------------------------------------------------------

JSON_BOMBS = {
    "lists": ('{"a":[', "[],", "1]}"),
    "nested lists": ('{"a":[', "[[]],", "1]}"),
    "dictionaries": ('{"a":[', '{"a":1},', "1]}"),
    "numbers": ('{"a":[', "1000,", "1]}"),
    "floats": ('{"a":[', "1e5,", "1]}"),
    "texts": ('{"a":[', '"ab",', "1]}"),
    "wide texts": ('{"a":[', r'"\ud83d\ude00abcdefghijklmnopqrstuvwxyz",', "1]}"),
    "claims": ('{"a":[', '{"dtype":1,"shape":1000,"data_offsets":[]},', "1]}"),
}


def takes(text):
    width = 4 if "\\u" in text else 1
    return width * len(text) + sum(n * text.count(m) for m, n in safetensors_files._TAKES.items())


@pytest.mark.parametrize("kind", JSON_BOMBS)
def test_what_json_describes_is_weighed(monkeypatch, kind):
    most = limits.MOST_DESCRIBED // PART
    monkeypatch.setattr(safetensors_files, "MOST_DESCRIBED", most)
    before, again, after = JSON_BOMBS[kind]
    fits = before + again * (most // takes(again) - 10) + after
    tracemalloc.start()
    try:
        safetensors_files.parse_json(fits)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1.2 * most
    with pytest.raises(limits.TooMuchError, match="more than any checkpoint"):
        safetensors_files.parse_json(before + again * (most // takes(again) + 1) + after)


@pytest.mark.sample(2)
@pytest.mark.parametrize("value", ["1", '"x"', '"shard-{}"'])
def test_pairs_of_json_are_weighed(tmp_path, monkeypatch, value):
    """With the text itself, of which the file's own bytes do not stay."""
    most = limits.MOST_DESCRIBED // 20  # of more names than are put into a dictionary at once
    monkeypatch.setattr(safetensors_files, "MOST_DESCRIBED", most)
    pair = f'"{{}}":{value},'
    count = most // takes(pair.format("12345", "12345")) - 10
    # just after a dictionary has grown it takes the most
    for fits in (2**15 * 2 // 3 + 2, count):
        pairs = "".join(pair.format(n, n) for n in range(fits))
        text = f'{{"weight_map":{{{pairs}"z":"x"}}}}'.encode()
        (tmp_path / "x.index.json").write_bytes(text)
        source = Source.open(str(tmp_path / "x.index.json"))
        tracemalloc.start()
        try:
            found = safetensors_files.read_json(source, 0, source.size)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert len(found["weight_map"]) == fits + 1
        assert peak < most + len(text) + (1 << 20)


def test_names_that_occur_twice_among_many(tmp_path):
    pairs = ",".join(f'"{n}":"a"' for n in [*range(30_000), 7])
    (tmp_path / "x.index.json").write_text(f'{{"weight_map":{{{pairs}}}}}')
    with pytest.raises(CheckpointError, match="a name occurs twice"):
        scan(tmp_path / "x.index.json")


def test_headers_and_indexes_that_are_bombs(tmp_path):
    bomb = b'{"a":[' + b"[]," * 2_200_000 + b"1]}"
    for path in (tmp_path / "x", tmp_path / "i.json"):
        path.write_bytes(bomb) if path.suffix else with_header(path, bomb)
        with pytest.raises(CheckpointError, match=r"more than any checkpoint.*save model\.state"):
            scan(path)


def test_long_headers(tmp_path, monkeypatch):
    save_file({"a": torch.ones(2)}, tmp_path / "x")
    monkeypatch.setattr(safetensors_files, "LARGEST_HEADER", 50)
    with pytest.raises(CheckpointError, match=r"its header has \d+ bytes; save model\.state_dict"):
        scan(tmp_path / "x")


def test_wide_letters_count_as_much_as_they_take(monkeypatch):
    monkeypatch.setattr(safetensors_files, "LARGEST_HEADER", 1000)
    safetensors_files.parse_json('"' + "x" * 900 + '"')
    with pytest.raises(limits.TooMuchError):
        safetensors_files.parse_json('"' + "x" * 900 + '\u20ac"')


def test_bombs_inside_of_what_is_written_beside_tensors(tmp_path):
    text = '{"version": 1, "steps": 0, "displacements": [' + "[]," * 2_200_000 + "1]}"
    escaped = text.replace("[", r"\u005b").replace(",", r"\u002c").replace('"', r"\u0022")
    header = f'{{"__metadata__":{{"weightscope_history":"{escaped}"}}}}'
    with pytest.raises(CheckpointError, match="more than any checkpoint"):
        read_history(with_header(tmp_path / "h", header.encode()))


@pytest.mark.parametrize("text", ["[" * 5000, '{"a":' * 5000, "9" * 5000, "", "null"])
@pytest.mark.parametrize(("read", "key"), [
    (read_history, "weightscope_history"), (lambda path: load(path, nn.Identity), RECIPE),
])  # fmt: skip
def test_texts_beside_tensors_that_are_no_json(tmp_path, text, read, key):
    tensors = {"a": torch.ones(1)}
    texts = {key: text, "weightscope_sha256": saving.digest(text, tensors)}
    save_file(tensors, tmp_path / "x", texts)
    with pytest.raises(WeightscopeError, match=r"cannot be used|no recipe that"):
        read(tmp_path / "x")


def test_surrogates_beside_tensors(tmp_path):
    """Safetensors writes none, but JSON can name them."""
    claim = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    header = {"\ud800": claim, "__metadata__": {RECIPE: "\ud800", "weightscope_sha256": ""}}
    with pytest.raises(WeightscopeError, match="its digest does not fit"):
        load(with_header(tmp_path / "x", json.dumps(header).encode(), bytes(4)), nn.Identity)


# --- archives ------------------------------------------------------------------------------------


def test_directories_are_as_long_as_those_of_checkpoints(tmp_path, monkeypatch):
    torch.save({str(n): torch.ones(1) for n in range(50)}, tmp_path / "x.pt")
    assert len(scan(tmp_path / "x.pt").parameters) == 50
    monkeypatch.setattr(torch_files, "LARGEST_DIRECTORY", 2000)
    with pytest.raises(CheckpointError, match="a directory of"):
        scan(tmp_path / "x.pt")


# --- what is inside ------------------------------------------------------------------------------


@pytest.mark.parametrize(("limit", "value", "content"), [
    ("MOST_TENSORS", 5, {str(n): torch.ones(1) for n in range(7)}),
    ("MOST_CONTAINERS", 5, {str(n): {"a": 1} for n in range(7)} | {"w": torch.ones(1)}),
    ("MOST_CONTAINERS", 5, {"a": [x := [1]] + [x] * 6, "w": torch.ones(1)}),
    ("MOST_LETTERS", 500, {"x" * 90 + str(n): torch.ones(1) for n in range(7)}),
    ("MOST_AXES_OF_ALL", 99, {str(n): torch.ones([1] * 50) for n in range(2)}),
])  # fmt: skip
def test_content_that_is_too_much(tmp_path, monkeypatch, limit, value, content):
    torch.save(content, tmp_path / "x.pt")
    scan(tmp_path / "x.pt")
    monkeypatch.setattr(opening, limit, value)
    with pytest.raises(
        CheckpointError, match=r"no checkpoint of sane size.*save model\.state_dict"
    ):
        scan(tmp_path / "x.pt")


@pytest.mark.parametrize("again", [b"h\x00)Rh\x01b", b"h\x00)RNh\x01\x86b", b"h\x00h\x02R"])
def test_what_many_objects_share_is_looked_through_once(tmp_path, monkeypatch, again):
    """A state, or a list of arguments, of each of many objects."""
    looked, key = [], opening._key
    monkeypatch.setattr(opening, "_key", lambda k: looked.append(k) or key(k))
    large = b"}q\x01(" + b"".join(b"M" + struct.pack("<H", n) + b"]Na" for n in range(3000)) + b"u"
    many = b"(" + b"h\x01" * 3000 + b"tq\x02"
    program = START + b"cmine\nThing\nq\x000" + large + b"0" + many + b"0](" + again * 500 + b"e."
    with pytest.raises(CheckpointError, match="holds no tensors"):
        scan(with_program(tmp_path / "x.pt", program))
    assert len(looked) < 10_000


def test_figures_of_small_tensors_take_little(tmp_path):
    """60,000 of them took more than 256 MiB: each had edges of its own."""
    count = 500
    save_file({str(n): torch.rand(1, 1, 1, 3) for n in range(count)}, tmp_path / "x")
    scan(tmp_path / "x")
    tracemalloc.start()
    try:
        found = scan(tmp_path / "x")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4300 * count
    edges = found.parameters[0].summary.histogram.edges
    with pytest.raises(ValueError, match="read-only"):
        edges[0] = 1.0


def test_the_limits_let_200_000_tensors_pass(tmp_path, monkeypatch):
    """By what 500 take; of the old format by what 250 take."""
    count = 500
    scale = 200_000 // count
    names = [f"model.layers.{100_000 + n}.self_attn.q_proj.weight" for n in range(count)]
    tensors = {name: torch.zeros(300, 300, 1, 1)[:1, :1].clone() for name in names}
    torch.save({"state_dict": tensors}, tmp_path / "checkpoint_of_an_epoch.pt")
    few = dict(list(tensors.items())[: count // 2])
    torch.save(few, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    save_file(tensors, tmp_path / "x.safetensors")
    index = {"weight_map": dict.fromkeys(tensors, "x.safetensors")}
    (tmp_path / "index.json").write_text(json.dumps(index))
    assert min(limits.MOST_TENSORS, 2 * limits.MOST_CONTAINERS) >= 200_000
    for module, limit in itertools.product(
        (pickles, safetensors_files, opening, torch_files),
        ("MOST_STEPS", "MOST_STEPS_TWICE", "MOST_BUILT", "MOST_DESCRIBED", "LARGEST_HEADER",
         "LARGEST_DIRECTORY", "MOST_TENSORS", "MOST_CONTAINERS", "MOST_LETTERS"),
    ):  # fmt: skip
        if hasattr(module, limit):
            monkeypatch.setattr(module, limit, getattr(limits, limit) // scale)
    for file in ("checkpoint_of_an_epoch.pt", "old.pt", "x.safetensors", "index.json"):
        assert len(read_weights(tmp_path / file)) == (len(few) if file == "old.pt" else count)
