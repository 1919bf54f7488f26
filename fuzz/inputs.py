"""Inputs: whole files of every kind, damaged, rewritten and made up."""

from __future__ import annotations

import io
import json
import pickle
import pickletools
import random
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from safetensors.torch import save

Files = dict[str, bytes]
"""File names and contents; the first is the one to read."""

ODD_NUMBERS = (
    0, 1, 2, 3, 7, 8, 64, 127, 128, 255, 256, 1000, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1,
    2**32, 2**53, 2**62, 2**63 - 1, 2**63, 2**64 - 1, 2**64, 10**30, -1, -8, -(2**63),
)  # fmt: skip
ODD_NAMES = (
    "", ".", "..", "/", "a", "a.b", "a.b.c", "__metadata__", "\x00", "\ud800", "x" * 300, "=1+1",
    "\x1b[2J", "../../etc/passwd", "tensor", "state_dict", "модель", "a (2)", "weight_map",
)  # fmt: skip
_DTYPES = (
    "F64", "F32", "F16", "BF16", "F8_E4M3", "I64", "I32", "U8", "BOOL", "C64", "F4", "F6_E2M3",
    "X", "",
)  # fmt: skip


def random_bytes(rng: random.Random, content: bytes) -> bytes:
    """The same bytes with a few of them changed, lost, repeated or moved."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        at = (
            rng.randrange(len(data) + 1)
            if rng.random() < 0.5
            else min(rng.randrange(400), len(data))
        )
        length = rng.choice((1, 1, 2, 4, 8, 30))
        change = rng.randrange(7)
        if change == 0:
            data[at : at + 1] = bytes([rng.randrange(256)])
        elif change == 1:
            del data[at : at + length]
        elif change == 2:
            data[at:at] = rng.randbytes(length)
        elif change == 3:
            del data[at:]
        elif change == 4:
            size = rng.choice((1, 2, 4, 8))
            number = rng.choice(ODD_NUMBERS) % (1 << 8 * size)
            data[at : at + size] = number.to_bytes(size, "little")
        elif change == 5 and data:
            start = rng.randrange(len(data))
            data[at:at] = data[start : start + rng.choice((1, 8, 64, 500))]
        elif data:
            at %= len(data)
            data[at] ^= 1 << rng.randrange(8)
    return bytes(data)


@cache
def _safetensors_seeds() -> tuple[bytes, ...]:
    plain = {"conv.weight": torch.randn(4, 3, 3, 3), "conv.bias": torch.zeros(4)}
    mixed = {
        "a": torch.arange(5), "b": torch.ones(3, dtype=torch.float64), "e": torch.zeros(0, 3),
        "s": torch.tensor(2.5), "n": torch.tensor([float("nan"), 1.0, float("inf")]),
    }  # fmt: skip
    return save(plain), save(mixed, {"format": "pt"}), save({"x": torch.ones(1)})


def damaged_safetensors(rng: random.Random) -> Files:
    """A safetensors file with changed bytes."""
    return {"x.safetensors": random_bytes(rng, rng.choice(_safetensors_seeds()))}


def claimed_safetensors(rng: random.Random) -> Files:
    """A safetensors file whose header claims something odd."""
    header: dict[str, Any] = {}
    at = 0
    for _ in range(rng.choice((1, 1, 2, 3, 5))):
        shape = [rng.randrange(4) for _ in range(rng.randrange(4))]
        kind = rng.choice(_DTYPES) if rng.random() < 0.3 else "F32"
        size = 4
        for n in shape:
            size *= n
        entry: dict[str, Any] = {"dtype": kind, "shape": shape, "data_offsets": [at, at + size]}
        at += size
        while rng.random() < 0.4:
            entry[rng.choice(("dtype", "shape", "data_offsets", "extra"))] = _odd_value(rng)
        if rng.random() < 0.3 and shape:
            shape[rng.randrange(len(shape))] = rng.choice(ODD_NUMBERS)
        if rng.random() < 0.2:
            entry["data_offsets"] = [rng.choice(ODD_NUMBERS), rng.choice(ODD_NUMBERS)]
        name = rng.choice(ODD_NAMES) if rng.random() < 0.3 else f"t{len(header)}"
        header[name] = entry if rng.random() < 0.95 else _odd_value(rng)
    text = json.dumps(header).encode()
    if rng.random() < 0.1:
        text = random_bytes(rng, text)
    length = len(text) if rng.random() < 0.9 else rng.choice(ODD_NUMBERS) % 2**64
    data = struct.pack(f"<{at // 4}f", *(rng.gauss(0, 1) for _ in range(at // 4)))
    if rng.random() < 0.1:
        data = data[: rng.randrange(len(data) + 1)] + bytes(rng.choice((0, 1, 8)))
    return {"x.safetensors": struct.pack("<Q", length) + text + data}


def _odd_value(rng: random.Random, depth: int = 0) -> Any:
    kind = rng.randrange(9 if depth < 4 else 6)
    if kind == 0:
        return rng.choice(ODD_NUMBERS)
    if kind == 1:
        return rng.choice(ODD_NAMES)
    if kind == 2:
        return rng.choice((1.5, 1e308, float("nan"), float("inf"), -0.0))
    if kind == 3:
        return rng.choice((None, True, False))
    if kind == 4:
        return rng.choice(([], {}, [0] * 70, [2**62] * 3))
    if kind == 5:
        return rng.choice(ODD_NUMBERS) ** rng.choice((1, 1, 40))
    if kind == 6:
        return [_odd_value(rng, depth + 1) for _ in range(rng.randrange(4))]
    return {rng.choice(ODD_NAMES): _odd_value(rng, depth + 1) for _ in range(rng.randrange(3))}


class _Unknown:
    """A class that no reader knows."""

    def __init__(self, inside: Any) -> None:
        self.inside = inside


def _call(*args: Any) -> Any:
    class Call:
        def __reduce__(self) -> Any:
            return args[0], args[1:]

    return Call()


@cache
def _contents() -> tuple[Any, ...]:
    import argparse
    import datetime
    import functools
    import http
    import pathlib
    import time
    import uuid
    import zoneinfo

    import numpy as np

    state = {"conv.weight": torch.randn(4, 3, 3, 3), "conv.bias": torch.zeros(4)}
    shared = torch.randn(6, 4)
    nested: Any = torch.ones(2)
    for _ in range(30):
        nested = [nested, nested]
    deep: Any = torch.ones(1)
    for _ in range(90):
        deep = {"d": deep}
    return (
        state,
        OrderedDict(state),
        {"state_dict": {f"model.{n}": v for n, v in state.items()}, "epoch": 3,
         "hyper_parameters": argparse.Namespace(lr=0.1), "when": datetime.datetime(2026, 1, 2)},
        {"network_weights": state, "best": np.float64(0.5), "where": pathlib.PurePosixPath("a")},
        {"view": shared[1:3], "whole": shared, "turned": shared.t(),
         "wide": torch.ones(1).expand(50)},
        {"a.b": torch.ones(1), "a": {"b": torch.ones(2)}, 1: torch.ones(3), "1": torch.ones(4)},
        {"half": torch.ones(5).half(), "int": torch.arange(4), "bool": torch.tensor([True])},
        [torch.ones(1), (torch.zeros(2), {"x": torch.ones(3)}), {4, 5}, b"bytes", 2**70],
        {"same": state, "again": state},
        {"nested": nested}, {"deep": deep},
        {"unknown": _Unknown(torch.ones(2)), "w": torch.ones(3)},
        {"w": torch.ones(3), "beside": [
            time.gmtime(0), http.HTTPStatus.OK, zoneinfo.ZoneInfo("UTC"), uuid.UUID(int=3),
            ValueError("x"), functools.partial(torch.nn.LayerNorm, eps=1e-6), range(3),
        ]},
        {"meta": torch.empty(3, device="meta"), "w": torch.ones(1)},
        torch.ones(3),
        torch.nn.Linear(2, 2),
    )  # fmt: skip


@cache
def _torch_seeds() -> tuple[bytes, ...]:
    found = []
    for content in _contents():
        for zipped in (True, False):
            stream = io.BytesIO()
            torch.save(content, stream, _use_new_zipfile_serialization=zipped)
            found.append(stream.getvalue())
    for content in (
        {"w": torch.ones(2), "call": _call(print, "fuzz: code was run")},
        _call(print, 1),
    ):
        for zipped in (True, False):
            stream = io.BytesIO()
            torch.save(content, stream, _use_new_zipfile_serialization=zipped)
            found.append(stream.getvalue())
    found.append(pickle.dumps({"w": [1.0]}))
    return tuple(found)


def damaged_torch(rng: random.Random) -> Files:
    """A file of torch.save with changed bytes."""
    return {"x.pt": random_bytes(rng, rng.choice(_torch_seeds()))}


def rewritten_archive(rng: random.Random) -> Files:
    """A whole zip archive with records changed, lost, renamed, doubled or packed."""
    seeds = [seed for seed in _torch_seeds() if seed[:2] == b"PK"]
    with zipfile.ZipFile(io.BytesIO(rng.choice(seeds))) as old:
        records = [(name, old.read(name)) for name in old.namelist()]
    for _ in range(rng.choice((1, 1, 2))):
        i = rng.randrange(len(records))
        if rng.random() < 0.6:
            i = next(
                j
                for j, (name, _) in enumerate(records)
                if name.endswith("data.pkl") or j == len(records) - 1
            )
        name, content = records[i]
        change = rng.randrange(7)
        if change <= 2:
            records[i] = name, random_bytes(rng, content)
        elif change == 3:
            records[i] = name, content[: rng.randrange(len(content) + 1)]
        elif change == 4:
            records[i] = (
                rng.choice((*ODD_NAMES[1:], name + "x", "archive/code/a.py")).replace(
                    "\ud800", "?"
                ),
                content,
            )
        elif change == 5:
            records.insert(rng.randrange(len(records) + 1), records[i])
        elif len(records) > 1:
            del records[i]
    stream = io.BytesIO()
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that occur twice
        with zipfile.ZipFile(stream, "w") as new:
            for name, content in records:
                packing = zipfile.ZIP_DEFLATED if rng.random() < 0.02 else zipfile.ZIP_STORED
                new.writestr(zipfile.ZipInfo(name), content, packing)
    return {"x.pt": stream.getvalue()}


def claimed_archive(rng: random.Random) -> Files:
    """A zip archive with fields of its directory changed."""
    data = bytearray(rng.choice([seed for seed in _torch_seeds() if seed[:2] == b"PK"]))
    marks = [b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07"]
    for _ in range(rng.choice((1, 1, 2))):
        mark = rng.choice(marks)
        places = [i for i in range(len(data)) if data.startswith(mark, i)] or [0]
        at = rng.choice(places) + rng.randrange(4, 46)
        size = rng.choice((1, 2, 4))
        data[at : at + size] = (rng.choice(ODD_NUMBERS) % (1 << 8 * size)).to_bytes(size, "little")
    return {"x.pt": bytes(data)}


_STEPS = (
    b"ctorch._utils\n_rebuild_tensor_v2\n", b"ctorch\nFloatStorage\n", b"ctorch\nSize\n",
    b"ccollections\nOrderedDict\n", b"ctorch._utils\n_rebuild_parameter\n", b"cos\nsystem\n",
    b"ctorch._utils\n_rebuild_sparse_tensor\n", b"ctorch._tensor\n_rebuild_from_type_v2\n",
    b"cbuiltins\nset\n", b"cbuiltins\neval\n", b"ctorch._utils\n_rebuild_tensor_v3\n",
    b"ccopyreg\n_reconstructor\n", b"cmine\nThing\n", b"ctorch\nfloat16\n",
    b"cfunctools\npartial\n", b"coperator\nmethodcaller\n", b"chttp\nHTTPStatus\n",
    b"cbuiltins\nbytearray\n", b"cbuiltins\ngetattr\n", b"ctorch\nUntypedStorage\n",
    b"X\x07\x00\x00\x00storage", b"X\x01\x00\x00\x000", b"X\x00\x00\x00\x00", b"X\xff\xff\xff\xff",
    b"K\x00", b"K\x02", b"K\xff", b"J\xff\xff\xff\xff", b"\x8a\x09" + b"\xff" * 8 + b"\x00",
    b"\x8b\xff\xff\xff\x7f", b"q\x00", b"h\x00", b"r\xff\xff\xff\x7f", b"j\x01\x00\x00\x00",
    b"N", b"\x88", b"G" + b"\x7f\xf0" + bytes(6), b"I99999999999999999999\n",
    *(bytes([op]) for op in b"(.012)]}aebdlostuR\x81\x85\x86\x87\x8f\x90\x91\x92\x93\x94\x97\x98Q"),
)  # fmt: skip


@cache
def _programs() -> tuple[tuple[tuple[bytes, ...], tuple[tuple[str, bytes], ...]], ...]:
    """The steps of real pickles, and the other records of their archives."""
    found = []
    for seed in _torch_seeds():
        if seed[:2] != b"PK":
            continue
        with zipfile.ZipFile(io.BytesIO(seed)) as archive:
            records = {name: archive.read(name) for name in archive.namelist()}
        name = next(name for name in records if name.endswith("data.pkl"))
        program = records.pop(name)
        starts = [place for _, _, place in pickletools.genops(program)]
        steps = [program[a:b] for a, b in zip(starts, [*starts[1:], len(program)], strict=True)]
        found.append((tuple(steps), ((name, b""), *records.items())))
    return tuple(found)


def changed_program(rng: random.Random) -> Files:
    """A zip archive whose pickle does a few steps more, less or otherwise."""
    whole, records = rng.choice(_programs())
    steps = list(whole)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        at = rng.randrange(len(steps) + 1)
        change = rng.randrange(6)
        if change == 0:
            steps.insert(at, rng.choice(_STEPS))
        elif change == 1:
            steps[at : at + 1] = [rng.choice(_STEPS)]
        elif change == 2:
            del steps[at : at + rng.choice((1, 1, 2, 5))]
        elif change == 3:
            steps.insert(at, rng.choice(whole))
        elif change == 4:
            start = rng.randrange(len(whole))
            steps[at:at] = whole[start : start + rng.choice((2, 5, 20))]
        else:
            numbers = [i for i, step in enumerate(steps) if step[:1] in b"KMJ" and step]
            if numbers:
                steps[rng.choice(numbers)] = b"\x8a\x10" + (
                    rng.choice(ODD_NUMBERS) % 2**127
                ).to_bytes(16, "little")
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in records:
            archive.writestr(zipfile.ZipInfo(name), content or b"".join(steps))
    return {"x.pt": stream.getvalue()}


def index(rng: random.Random) -> Files:
    """An index with shards."""
    files: Files = {}
    shards = {
        "one.safetensors": rng.choice(_safetensors_seeds()),
        "two.bin": rng.choice(_torch_seeds()),
    }
    names = ("conv.weight", "conv.bias", "x", "a", *ODD_NAMES)
    targets = (
        "one.safetensors",
        "one.safetensors",
        "two.bin",
        "index.json",
        "gone",
        "../one",
        "/",
        "",
        3,
        None,
    )
    content: Any = {
        "metadata": {"total_size": 1},
        "weight_map": {
            rng.choice(names): rng.choice(targets if rng.random() < 0.3 else targets[:3])
            for _ in range(rng.randrange(5))
        },
    }
    if rng.random() < 0.2:
        content[rng.choice(("weight_map", "x"))] = _odd_value(rng)
    text = json.dumps(content).encode()
    files["index.json"] = random_bytes(rng, text) if rng.random() < 0.3 else text
    return files | shards


def anything(rng: random.Random) -> Files:
    """Bytes that begin like some kind of file."""
    starts = (
        b"", b"PK\x03\x04", b"\x80\x02", b"{", b"version https://git-lfs", b"<html>",
        b"\x08\x07\x12", b"\x1f\x8b", bytes(8) + b"{", b"\x10" + bytes(7) + b"{",
    )  # fmt: skip
    return {"x": rng.choice(starts) + rng.randbytes(rng.randrange(200))}


KINDS: dict[str, Callable[[random.Random], Files]] = {
    "safetensors, bytes": damaged_safetensors,
    "safetensors, claims": claimed_safetensors,
    "torch, bytes": damaged_torch,
    "torch, records": rewritten_archive,
    "torch, directory": claimed_archive,
    "torch, programs": changed_program,
    "index": index,
    "anything": anything,
}
