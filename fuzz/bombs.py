"""Small files that ask for much: repeated steps of a pickle, marks of JSON, colliding keys."""

from __future__ import annotations

import io
import pickle
import random
import struct
import zipfile
from collections.abc import Callable

from fuzz.inputs import Files

_MAGIC = 0x1950A86A20F9469CFC6C
# every multiple has the hash 0
_COLLIDING = 2**61 - 1
_STARTS = (
    b"", b"(", b"}(", b"](", b"}", b"]", b")", b"N", b"ctorch._utils\n_rebuild_tensor_v2\nq\x01(",
    b"ccollections\nOrderedDict\nq\x01(", b"cmine\nThing\nq\x01(",
    b"cbuiltins\nset\nq\x01((" + b"K\x01" * 999 + b"l\x85q\x02",
    b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x00cNK\x00tq\x02Q",
)  # fmt: skip
_PARTS = (
    b"(", b"]", b"}", b")", b"N", b"K\x01", b"M\xff\xff", b"2", b"\x85", b"\x86", b"\x87", b"a",
    b"s", b"u", b"e", b"l", b"t", b"0", b"1", b"\x94", b"q\x03", b"h\x01", b"h\x02", b"h\x03", b"R",
    b"Q", b"b",
    b"X\x03\x00\x00\x00abc", b"C\x03abc", b"cm\nT\n", b"G\x3f\xf0\x00\x00\x00\x00\x00\x01",
    b"X\x00\x10\x00\x00" + b"x" * 4096, b"\x8a\xff" + b"\x7f" * 255, b"]K\x01a", b"}K\x01K\x02s",
    b"h\x01)R", b"h\x01h\x02R", b"h\x02Q", b"\x93", b"\x81", b"I1\n", b"L12345678901234567890L\n",
)  # fmt: skip
_ENDS = (b"", b"l", b"t", b"u", b"d", b"e", b"a", b"s", b"R", b"\x86")
_JSON = (
    "[],", "[[]],", "{},", '{"a":1},', "1,", "1000000,", '"ab",', "null,", "1e9,", "[", "{", '{"":',
    '"\\u005b",', '"' + "x" * 5000 + '",', "\N{GRINNING FACE}",
)  # fmt: skip


def _number(value: int) -> bytes:
    data = pickle.encode_long(value)
    return b"\x8a" + bytes([len(data)]) + data


def _program(rng: random.Random, size: int) -> bytes:
    """A pickle of about so many bytes that does the same again and again."""
    kind = rng.randrange(4)
    if kind == 0:  # keys or places that somebody chose
        step = rng.choice((_COLLIDING, 2**32, 2**61, 2**16, 1))
        count = size // 16
        if rng.random() < 0.3:
            again = b"".join(rng.choice((b"p%d\n", b"g%d\n")) % (i * step) for i in range(count))
            return b"N" + again
        if rng.random() < 0.3:
            return b"}(" + b"".join(
                b"G" + struct.pack(">d", i * float(step)) + b"K\x00" for i in range(count)
            ) + b"u"  # fmt: skip
        return b"}(" + b"".join(_number(i * step) + b"K\x00" for i in range(count)) + b"u"
    again = b"".join(rng.choice(_PARTS) for _ in range(rng.choice((1, 1, 1, 2, 3))))
    return rng.choice(_STARTS) + again * (size // len(again)) + rng.choice(_ENDS)


def pickle_bomb(rng: random.Random) -> Files:
    """A pickle, in an archive or of the old format, that repeats a few steps."""
    program = b"\x80\x02" + _program(rng, rng.choice((10_000, 300_000, 3_000_000))) + b"."
    if rng.random() < 0.3:
        start = b"".join(pickle.dumps(part, 2) for part in (_MAGIC, 1001, {}))
        return {"x.pt": start + program + pickle.dumps([], 2)}
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("a/data.pkl", program)
        archive.writestr("a/data/c", b"")
    return {"x.pt": stream.getvalue()}


def json_bomb(rng: random.Random) -> Files:
    """A header or an index that repeats a few marks, at any depth."""
    again = "".join(rng.choice(_JSON) for _ in range(rng.choice((1, 1, 2))))
    count = rng.choice((10_000, 300_000, 5_000_000)) // len(again)
    if rng.random() < 0.3:
        inside = ",".join(f'"{i}":' + (again.rstrip(",") or "1") for i in range(count // 4))
        text = "{" + inside + "}"
    else:
        start, end = rng.choice((('{"a":[', "1]}"), ('{"weight_map":[', "1]}"), ('{"a":"', '"}')))
        text = start + again * count + end
    if rng.random() < 0.5:
        return {"x.index.json": text.encode()}
    header = text.encode()
    return {"x.safetensors": len(header).to_bytes(8, "little") + header + bytes(rng.choice((0, 8)))}


def directory_bomb(rng: random.Random) -> Files:
    """A zip archive whose directory is long, or said to be."""
    count = rng.choice((10, 1000, 60_000))
    extra = rng.choice((b"", b"\x01\x00\x00\x00" * 50, bytes(4) * 200))
    entry = b"PK\x01\x02" + struct.pack(
        "<HHHHHHIIIHHHHHII", 20, 20, 0, 0, 0, 33, 0, 0, 0, 6, len(extra), 0, 0, 0, 0, 0
    )  # fmt: skip
    entries = b"".join(
        entry + (b"a/%04x" % (i % 65536) if rng.random() < 0.9 else b"a/data") + extra
        for i in range(count)
    )
    size = len(entries) if rng.random() < 0.8 else rng.choice((0, 2**31, 2**32 - 1))
    end = struct.pack("<HHHHIIH", 0, 0, min(count, 65535), min(count, 65535), size, 34, 0)
    return {"x.pt": b"PK\x03\x04" + bytes(30) + entries + b"PK\x05\x06" + end}


KINDS: dict[str, Callable[[random.Random], Files]] = {
    "bombs, pickles": pickle_bomb,
    "bombs, JSON": json_bomb,
    "bombs, directories": directory_bomb,
}
