import errno
import os

import pytest
import torch
from safetensors import safe_open

import weightscope as ws
from weightscope.errors import InputError
from weightscope.files import write_pickle, write_tensors, written_atomically


def test_a_finished_file_replaces_the_old_one_and_leaves_nothing_else(tmp_path):
    target = tmp_path / "page.html"
    target.write_text("old")
    with written_atomically(target) as temporary:
        temporary.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    assert os.listdir(tmp_path) == ["page.html"]


def test_a_failure_keeps_the_old_file(tmp_path):
    target = tmp_path / "page.html"
    target.write_text("old")
    with (  # noqa: PT012 - the block must raise after it has written
        pytest.raises(RuntimeError, match="halfway"),
        written_atomically(target) as temporary,
    ):
        temporary.write_text("half")
        raise RuntimeError("halfway")
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["page.html"]


def test_a_full_disk_is_named_with_its_path(tmp_path):
    target = tmp_path / "page.html"
    with (
        pytest.raises(InputError, match=r"page\.html.*No space left.*free some space"),
        written_atomically(target),
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert not os.listdir(tmp_path)


def test_folders_are_refused_before_any_work_is_done(tmp_path):
    with pytest.raises(InputError, match="it is a folder"), written_atomically(tmp_path):
        pytest.fail("the block ran")
    with (
        pytest.raises(InputError, match=r"missing.*does not exist"),
        written_atomically(tmp_path / "missing" / "page.html"),
    ):
        pytest.fail("the block ran")


@pytest.mark.parametrize(
    "call",
    [ws.read_weights, ws.scan, ws.read_history, lambda path: written_atomically(path).__enter__()],
)
def test_a_path_object_that_raises_is_named_with_its_error(call):
    class Remote(os.PathLike):
        def __fspath__(self):
            raise LookupError("no such bucket")

    with pytest.raises(InputError, match="a Remote, raised LookupError: no such bucket") as raised:
        call(Remote())
    assert isinstance(raised.value.__cause__, LookupError)


def test_a_link_is_followed(tmp_path):
    target = tmp_path / "real.txt"
    target.write_text("old")
    link = tmp_path / "link.txt"
    link.symlink_to(target)
    with written_atomically(link) as temporary:
        temporary.write_text("new")
    assert link.is_symlink()
    assert target.read_text() == "new"


def test_equal_content_makes_equal_files(tmp_path):
    tensors = {"b": torch.ones(3), "a.ü": torch.zeros(2, dtype=torch.int64)}
    texts = {f"text {i}": 'ü\x7f\x01\\"\n' * i for i in range(6)}
    for name in "12":
        write_tensors(tensors, tmp_path / f"{name}.safetensors", dict(sorted(texts.items())))
        write_tensors(tensors, tmp_path / f"{name}0.safetensors")
        write_pickle({"step": 3, "tensors": tensors}, tmp_path / f"{name}.pt")
    for name in (".safetensors", "0.safetensors", ".pt"):
        assert (tmp_path / f"1{name}").read_bytes() == (tmp_path / f"2{name}").read_bytes()
    with safe_open(tmp_path / "1.safetensors", "pt") as found:
        assert found.metadata() == texts
        assert all(torch.equal(found.get_tensor(name), value) for name, value in tensors.items())
