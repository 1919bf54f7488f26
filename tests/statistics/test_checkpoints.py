import json
import pickle
import struct
import threading
import zipfile

import pytest
import torch
from float64_reference import assert_same
from safetensors.torch import save_file
from torch import nn

from weightscope.errors import CheckpointError
from weightscope.statistics import scan

TENSORS = {
    "z.weight": torch.randn(30, 20, 3, 3),
    "a.bias": torch.randn(40_000).bfloat16(),
    "half": torch.randn(5, 7).half(),
    "eight": torch.randn(9).to(torch.float8_e4m3fn),
    "double": torch.randn(11, dtype=torch.float64),
    "scalar": torch.tensor(2.5),
    "empty": torch.zeros(0, 3),
}


def safetensors_bytes(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def claim(**changes):
    return {"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}}


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file(TENSORS, path, metadata={"format": "pt"})
    return path


def check(statistics, tensors):
    assert {p.parameter for p in statistics.parameters} == set(tensors)
    for record in statistics.parameters:
        tensor = tensors[record.parameter]
        assert_same(record.summary, tensor)
        assert record.shape == tuple(tensor.shape)
        assert record.dtype == str(tensor.dtype).removeprefix("torch.")


def test_safetensors(checkpoint):
    statistics = scan(checkpoint)
    check(statistics, TENSORS)
    assert statistics.coverage == 1
    length = int.from_bytes(checkpoint.read_bytes()[:8], "little")
    header = json.loads(checkpoint.read_bytes()[8 : 8 + length])
    header.pop("__metadata__")
    assert [p.parameter for p in statistics.parameters] == list(header)
    assert statistics.parameters[0].layer == statistics.parameters[0].parameter.rpartition(".")[0]


def test_file_is_left_alone(checkpoint):
    before = checkpoint.read_bytes()
    scan(checkpoint)
    assert checkpoint.read_bytes() == before


def test_sharded(tmp_path):
    names = list(TENSORS)
    save_file({n: TENSORS[n] for n in names[:3]}, tmp_path / "one.safetensors")
    save_file({n: TENSORS[n] for n in names[3:]}, tmp_path / "two.safetensors")
    files = {n: "one.safetensors" if n in names[:3] else "two.safetensors" for n in names[::-1]}
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": files}))
    statistics = scan(index)
    check(statistics, TENSORS)
    assert [p.parameter for p in statistics.parameters] == names[::-1]
    index.write_text(json.dumps({"weight_map": {**files, "ghost": "one.safetensors"}}))
    with pytest.raises(CheckpointError, match="places 'ghost' in 'one"):
        scan(index)
    index.write_text(json.dumps({"weight_map": {"a": "../one.safetensors"}}))
    with pytest.raises(CheckpointError, match="not the name of a file in the same folder"):
        scan(index)
    index.write_text(json.dumps({"weight_map": {"a": "gone.safetensors"}}))
    with pytest.raises(CheckpointError, match=r"gone\.safetensors"):
        scan(index)


@pytest.mark.parametrize("zipped", [True, False])
def test_torch_files(tmp_path, zipped):
    path = tmp_path / "checkpoint.pth"
    # torch itself cannot read 8-bit floats from its old format
    tensors = {n: t for n, t in TENSORS.items() if zipped or n != "eight"}
    content = {"model": tensors, "epoch": 3, "history": [torch.ones(4), {"lr": torch.zeros(2)}]}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    expected = {f"model.{name}": tensor for name, tensor in tensors.items()}
    expected |= {"history.0": torch.ones(4), "history.1.lr": torch.zeros(2)}
    statistics = scan(path)
    check(statistics, expected)
    assert [p.parameter for p in statistics.parameters] == list(expected)


def test_a_bare_tensor_and_views(tmp_path):
    whole = torch.randn(100, 60)
    torch.save(whole.t(), tmp_path / "tensor.pt")
    check(scan(tmp_path / "tensor.pt"), {"tensor": whole.t()})


def test_integers_are_skipped_by_name(tmp_path):
    tensors = {"steps": torch.arange(3), "w": torch.ones(1)}
    save_file(tensors, tmp_path / "x.safetensors")
    statistics = scan(tmp_path / "x.safetensors")
    assert [(s.name, "integers" in s.reason) for s in statistics.skipped] == [("steps", True)]
    assert statistics.coverage == 0.25


def test_unknown_dtypes_are_skipped_by_name(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(safetensors_bytes(claim(dtype="F4", shape=[16]), bytes(8)))
    statistics = scan(path)
    assert statistics.parameters == ()
    assert "dtype F4 is not read" in statistics.skipped[0].reason


def test_unaligned_tensors(tmp_path):
    header = {
        "a": {"dtype": "F16", "shape": [1], "data_offsets": [0, 2]},
        "b": {"dtype": "F32", "shape": [2], "data_offsets": [2, 10]},
    }
    path = tmp_path / "x.safetensors"
    path.write_bytes(safetensors_bytes(header, bytes(2) + struct.pack("<2f", 1.5, -2.0)))
    assert scan(path).parameters[1].summary.mean == -0.25


@pytest.mark.parametrize(("content", "words"), [
    (b"", "is empty"),
    (b"\x89PNG\r\n" + bytes(100), "is a picture"),
    (b'{"a": 1}', "no weight_map"),
    (b"[1, 2]", "is no checkpoint"),
    (safetensors_bytes(claim(), bytes(8))[:-1], "is truncated"),
    (safetensors_bytes(claim(), bytes(8))[:30], "header claims"),
    (struct.pack("<Q", 2**62) + b"{}", "header claims"),
    (struct.pack("<Q", 2**63 + 5) + b"{}" + bytes(50), "header claims"),
    (safetensors_bytes(b'{"w": '), "not readable JSON"),
    (safetensors_bytes(b'{"w": 1, "w": 2}'), "occurs twice"),
    (safetensors_bytes(b"{" + b'"a":{' * 5000 + b"}" * 5001), "not readable JSON"),
    (safetensors_bytes({"w": 3}), "'w' is incomplete"),
    (safetensors_bytes({"w": {"dtype": "F32"}}), "'w' is incomplete"),
    (safetensors_bytes(claim(shape=[-2]), bytes(8)), "makes no sense"),
    (safetensors_bytes(claim(shape=[2.0]), bytes(8)), "makes no sense"),
    (safetensors_bytes(claim(shape=[True, 2]), bytes(8)), "makes no sense"),
    (safetensors_bytes(claim(shape=[3]), bytes(8)), "takes 12 bytes"),
    (safetensors_bytes(claim(shape=[2**40, 2**20]), bytes(8)), "its header gives it 8"),
    (safetensors_bytes(claim(shape=[2**40, 2**40]), bytes(8)), "makes no sense"),
    (safetensors_bytes(claim(data_offsets=[8, 0]), bytes(8)), "its header gives it -8"),
    (safetensors_bytes(claim(data_offsets=[4, 12]), bytes(12)), "begins at byte 4"),
    (safetensors_bytes({**claim(), **{"v": claim()["w"]}}, bytes(8)), "begins at byte 0"),
    (safetensors_bytes(claim(), bytes(80)), "72 bytes behind"),
])  # fmt: skip
def test_lying_files(tmp_path, content, words):
    path = tmp_path / "bad.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=words) as caught:
        scan(path)
    assert "bad.safetensors" in str(caught.value)


class Bomb:
    def __reduce__(self):
        return (print, ("executed",))


@pytest.mark.parametrize("zipped", [True, False])
def test_code_is_not_run(tmp_path, capsys, zipped):
    path = tmp_path / "bomb.pt"
    torch.save({"w": torch.ones(2), "x": Bomb()}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match="code in it is not run"):
        scan(path)
    torch.save(nn.Linear(2, 2), path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match="state_dict"):
        scan(path)
    assert "executed" not in capsys.readouterr().out


def test_damaged_torch_files(tmp_path):
    path = tmp_path / "x.pt"
    torch.save({"w": torch.randn(1000)}, path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-500])
    with pytest.raises(CheckpointError, match="truncated or damaged"):
        scan(path)
    path.write_bytes(pickle.dumps([1, 2, 3], protocol=2))
    with pytest.raises(CheckpointError, match=r"not written by torch\.save|holds no tensors"):
        scan(path)
    torch.save({"epoch": 3}, path)
    with pytest.raises(CheckpointError, match="holds no tensors"):
        scan(path)
    torch.save({"w": torch.randn(1000)}, path)
    packed = tmp_path / "packed.pt"
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry))
    with pytest.raises(CheckpointError, match="compressed archive"):
        scan(packed)
    with zipfile.ZipFile(packed, "w") as new:
        new.writestr("hello.txt", "hello")
    with pytest.raises(CheckpointError, match=r"not written by torch\.save"):
        scan(packed)


def test_missing_files_and_folders(tmp_path):
    with pytest.raises(CheckpointError, match="is a folder with 0 files"):
        scan(tmp_path)
    with pytest.raises(CheckpointError, match="cannot read"):
        scan(tmp_path / "none.pt")


def test_threads_and_progress(checkpoint, capsys):
    one, two = scan(checkpoint, threads=1), scan(checkpoint, threads=2, progress=True)
    assert [p.summary.mean for p in one.parameters if p.count] == [
        p.summary.mean for p in two.parameters if p.count
    ]
    assert "100%" in capsys.readouterr().err


def resident_anonymous():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("RssAnon")) << 10


@pytest.mark.slow
def test_memory_is_bounded_whatever_the_file(tmp_path):
    weights = torch.randn(64 << 20)
    save_file({"small": weights[: 1 << 20].clone()}, tmp_path / "small.safetensors")
    save_file({f"w{i}": weights.clone() for i in range(4)}, tmp_path / "big.safetensors")
    torch.save({"w": weights}, tmp_path / "big.pt")
    del weights
    scan(tmp_path / "small.safetensors", threads=2)
    for name in ("big.safetensors", "big.pt"):
        before = resident_anonymous()
        peaks = []
        done = threading.Event()

        def watch(peaks=peaks, done=done):
            while not done.wait(0.01):
                peaks.append(resident_anonymous())

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            scan(tmp_path / name, threads=2)
        finally:
            done.set()
            watcher.join()
        assert max(peaks) - before < 64 << 20
