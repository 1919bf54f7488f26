"""The Python blocks of the README and of the docs run as they stand, and print what they say."""

import contextlib
import io
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = ("README.md", "docs/index.md", "docs/tutorial.md")


def blocks(page: str) -> Iterator[tuple[str, str | None]]:
    """Each Python block, at its own line of the page, and the text block right behind it."""
    text = (ROOT / page).read_text()
    pattern = r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```$)?"
    for match in re.finditer(pattern, text, re.MULTILINE | re.DOTALL):
        yield "\n" * text[: match.start(1)].count("\n") + match[1], match[2]


def words(output: str) -> list[str]:
    """Output without its figures and its layout, which may differ between machines."""
    return re.sub(r"[\d.]+", "#", output).split()


@pytest.mark.parametrize("page", PAGES)
def test_code_in_the_docs_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = list(blocks(page))
    assert found, f"{page} holds no Python"
    namespace = {"__name__": "docs"}
    for code, expected in found:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, page, "exec"), namespace)
        if expected is not None:
            assert words(printed.getvalue()) == words(expected)
