"""Optional packages: missing, broken, or another file of that name."""

import importlib
import sys

import pytest
import torch
from torch import nn

from weightscope import errors
from weightscope.errors import MissingExtraError, extra
from weightscope.truncation.couplings import library
from weightscope.watching import lightning_callback, trainer_callback, watch

OF_REPORTS = ("matplotlib", "seaborn", "jinja2")
PACKAGES = (
    *OF_REPORTS,
    "stood_for",
    "tensorboard",
    "torch_pruning",
    "lightning",
    "pytorch_lightning",
    "transformers",
)


@pytest.fixture(autouse=True)
def _modules_as_they_were():
    before = dict(sys.modules)
    yield
    for name in set(sys.modules) - set(before):  # not torch's own, which cannot come twice
        if name.startswith(PACKAGES):
            del sys.modules[name]
    sys.modules.update(before)


def forget(*packages):
    """What is imported already counts no more, until the test ends."""
    for name in list(sys.modules):
        if name.startswith(packages):
            del sys.modules[name]


@pytest.mark.parametrize("content", [
    "raise RuntimeError('mine')", "part = 1", "import nothing_of_that_name", "def",
])  # fmt: skip
def test_a_file_that_stands_in_the_way_is_named(tmp_path, monkeypatch, content):
    (tmp_path / "stood_for.py").write_text(content)
    monkeypatch.syspath_prepend(tmp_path)
    forget("stood_for")
    with (
        pytest.raises(MissingExtraError, match="rename it, else pip install it") as told,
        extra("stood_for", "this needs stood_for", "pip install it"),
    ):
        from stood_for import whole  # noqa: F401
    assert f"what Python imports as stood_for, {tmp_path}" in str(told.value)
    assert isinstance(told.value.__cause__, Exception)


def test_a_folder_of_that_name_is_no_package(tmp_path, monkeypatch):
    """As one of event files that is called tensorboard."""
    (tmp_path / "stood_for").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    forget("stood_for")
    with (
        pytest.raises(MissingExtraError, match=r"^this needs stood_for; pip install it$"),
        extra("stood_for", "this needs stood_for", "pip install it"),
    ):
        from stood_for import whole  # noqa: F401


def test_modules_without_a_file(monkeypatch):
    monkeypatch.setitem(sys.modules, "stood_for", type(sys)("stood_for"))
    assert errors.place_of("stood_for") == "a module without a file"
    monkeypatch.setitem(sys.modules, "stood_for", None)
    assert errors.place_of("stood_for") == ""


def written(tmp_path):
    model = nn.Linear(2, 2)
    with watch(model, torch.optim.SGD(model.parameters(), 0.1)) as history:
        history.to_tensorboard(tmp_path / "events")


@pytest.mark.parametrize(("package", "imported", "call", "remedy"), [
    ("tensorboard", "torch.utils.tensorboard", written, "pip install tensorboard"),
    ("torch_pruning", "torch_pruning", lambda _: library(), r"install weightscope\[prune\]"),
    ("lightning", "pytorch_lightning", lambda _: lightning_callback(), "pip install lightning"),
    ("transformers", "transformers", lambda _: trainer_callback(), "pip install transformers"),
])  # fmt: skip
def test_each_package_is_missed_or_named(tmp_path, monkeypatch, package, imported, call, remedy):
    with monkeypatch.context() as patched:
        forget(package, imported)
        patched.setitem(sys.modules, package, None)
        patched.setitem(sys.modules, "pytorch_lightning", None)
        with pytest.raises(MissingExtraError, match=rf"^[^,]*; {remedy}$"):
            call(tmp_path)
    forget(package, imported)
    monkeypatch.setitem(sys.modules, "pytorch_lightning", None)
    (tmp_path / f"{package}.py").write_text("class Of: mine = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MissingExtraError, match=rf"{package}\.py, does not work .*{remedy}$"):
        call(tmp_path)


@pytest.mark.parametrize("name", OF_REPORTS)
def test_a_missing_library_is_named_with_the_remedy(name, monkeypatch, tmp_path):
    import weightscope.report

    for module in list(sys.modules):
        if module.partition(".")[0] == name:
            del sys.modules[module]
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, name, None)
        remedy = r"pip install 'weightscope\[report\]'$"
        with pytest.raises(MissingExtraError, match=rf"need {name}; {remedy}"):
            importlib.reload(weightscope.report)
    (tmp_path / f"{name}.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MissingExtraError, match=rf"{name}\.py, does not work .*{remedy}"):
        importlib.reload(weightscope.report)
    assert "weightscope.report" in sys.modules
