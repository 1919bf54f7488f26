import importlib
import sys

import pytest

from weightscope.errors import MissingExtraError

PACKAGES = ("matplotlib", "seaborn", "jinja2")


@pytest.fixture(autouse=True)
def _modules_as_they_were():
    before = dict(sys.modules)
    yield
    for name in set(sys.modules) - set(before):  # not torch's own, which cannot come twice
        if name.startswith(PACKAGES):
            del sys.modules[name]
    sys.modules.update(before)


@pytest.mark.parametrize("name", PACKAGES)
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
