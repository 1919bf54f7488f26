"""Keys of dictionaries in pickles: what Python takes for equal, and what Python 2 wrote."""

import struct
import zipfile

import numpy as np
import pytest
import torch

from weightscope import read_weights, scan


class Pairs(dict):
    """What the Python pickler takes for a dictionary in which equal keys stay apart."""

    def __init__(self, pairs):
        self.pairs = pairs

    def __reduce__(self):
        return dict, (), None, None, iter(self.pairs)


CASES = {
    "ones": [1, True, 1.0],
    "truths": [True, 1],
    "zeros": [0, False, -0.0, 0.0],
    "large": [2**70, float(2**70), 2**70 + 1],
    "larger than a double": [2**60, float(2**60), 2**60 + 1],
    "halves": [0.5, np.float64(0.5), np.float32(0.5), np.float16(0.5)],
    "integers": [np.int64(3), 3, np.uint8(3), np.int16(-3), -3],
    "flags": [np.bool_(True), True, np.bool_(False), 0],
    "texts": ["a", np.str_("a"), np.str_("b"), "b"],
    "bytes": ["a", b"a", np.bytes_(b"a")],
    "complex": [1 + 0j, 1, 1j, complex(-0.0, 1.0), complex(0.0, -1.0)],
    "tuples": [(1, "a"), (True, "a"), (1.0, np.str_("a")), (1, b"a"), (2, "a"), ((1,), 1)],
    "sizes": [torch.Size([1, 2]), (1, 2), (1, 2.0), (2, 1)],
    "not a number": [float("nan"), float("nan")],
    "infinite": [float("inf"), np.float32("inf"), -float("inf")],
    "nothing": [None, "None"],
    "text and number": ["1", 1],
}


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("kind", CASES)
def test_keys_are_equal_where_they_are_in_python(tmp_path, kind, protocol):
    """Of equal keys the first one's place and the last one's value stay."""
    pairs = [(key, torch.ones(n + 1)) for n, key in enumerate(CASES[kind])]
    torch.save(Pairs(pairs), tmp_path / "x.pt", pickle_protocol=protocol)
    theirs = torch.load(tmp_path / "x.pt", weights_only=False)
    assert len(theirs) == len(dict(pairs))
    ours = scan(tmp_path / "x.pt").parameters
    assert [record.count for record in ours] == [tensor.numel() for tensor in theirs.values()]


def test_keys_are_called_what_they_are(tmp_path):
    keys = [True, np.int64(3), np.str_("a"), b"b", ("c", 1), 2**70, 1.5, 1j, "\xe9".encode()]
    torch.save({key: torch.ones(n + 1) for n, key in enumerate(keys)}, tmp_path / "x.pt")
    assert list(read_weights(tmp_path / "x.pt")) == [
        "True", "3", "a", "b", "('c', 1)", "<a large number>", "1.5", "1j", "\xe9",
    ]  # fmt: skip


@pytest.mark.parametrize("key", [
    b"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(X\x02\x00\x00\x00%btR(K\x03X\x01\x00\x00\x00"
    b"%bNNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tbC\x02%btR" % parts
    for parts in ((b"i8", b"<", b"ab"), (b"i2", b">", b"ab"), (b"U9", b"<", b"ab"),
                  (b"O8", b"|", b"ab"), (b"U1", b"=", b"ab"))
] + [
    b"cnumpy\ndtype\n)R", b"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n)RC\x00tR",
    b"c_codecs\nencode\n(X\x03\x00\x00\x00\xe2\x82\xacX\x06\x00\x00\x00latin1tR",
    b"cbuiltins\ncomplex\n(K\x01K\x01tR", b")", b"(" + b"K\x01" * 500 + b"t",
])  # fmt: skip
def test_keys_that_stand_for_no_number_are_equal_to_no_other(tmp_path, key):
    torch.save({"k": torch.ones(1), "l": torch.ones(2)}, tmp_path / "x.pt")
    for name in ("k", "l"):
        replaced(tmp_path / "x.pt", b"X\x01\x00\x00\x00" + name.encode(), key)
    assert [record.count for record in scan(tmp_path / "x.pt").parameters] == [1, 2]


def replaced(path, old, new):
    """Write an archive again with other steps in its pickle."""
    with zipfile.ZipFile(path) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in contents.items():
            assert not name.endswith("data.pkl") or old in content
            archive.writestr(name, content.replace(old, new) if "data.pkl" in name else content)


@pytest.mark.parametrize("short", [True, False])
@pytest.mark.parametrize("name", ["conv.weight", "caf\xe9.weight", "\u5377\u79ef.weight"])
def test_names_that_python_2_wrote(tmp_path, name, short):
    """Its texts are bytes, and so are those of the tensors' storages; torch reads UTF-8."""
    torch.save({name: torch.arange(3.0), "b": torch.ones(1)}, tmp_path / "x.pt")
    for text in (name, "b", "storage", "cpu", "0", "1"):
        data = text.encode()
        step = b"U" + bytes([len(data)]) if short else b"T" + struct.pack("<I", len(data))
        old = b"X" + struct.pack("<I", len(data)) + data
        replaced(tmp_path / "x.pt", old, step + data)
    theirs = torch.load(tmp_path / "x.pt", weights_only=False)
    ours = read_weights(tmp_path / "x.pt")
    assert list(ours) == list(theirs) == [name, "b"]
    assert torch.equal(ours[name], theirs[name])


@pytest.mark.parametrize(("data", "name"), [
    (b"\x80\xff.weight", "\x80\xff.weight"), (b"caf\xc3\xa9", "caf\xe9"),
])  # fmt: skip
def test_names_of_python_2_in_other_alphabets(tmp_path, data, name):
    """Where they are no UTF-8, torch.load raises; each byte is a letter here."""
    torch.save({"k": torch.ones(2)}, tmp_path / "x.pt")
    line = b"S" + repr(data)[1:].encode() + b"\n"
    for step in (b"U" + bytes([len(data)]) + data, line, b"C" + bytes([len(data)]) + data):
        torch.save({"k": torch.ones(2)}, tmp_path / "x.pt")
        replaced(tmp_path / "x.pt", b"X\x01\x00\x00\x00k", step)
        assert list(read_weights(tmp_path / "x.pt")) == [name]
