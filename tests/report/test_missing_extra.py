import importlib
import sys

import pytest

from weightscope.errors import MissingExtraError


@pytest.mark.parametrize("name", ["matplotlib", "seaborn", "jinja2"])
def test_a_missing_library_is_named_with_the_remedy(name, monkeypatch):
    import weightscope.report

    monkeypatch.setattr(
        "importlib.util.find_spec", lambda wanted: None if wanted == name else object()
    )
    with pytest.raises(
        MissingExtraError, match=rf"need {name}; .*pip install 'weightscope\[report\]'"
    ):
        importlib.reload(weightscope.report)
    assert "weightscope.report" in sys.modules
