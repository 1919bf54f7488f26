"""The Python blocks of the README and of the tutorial run as they stand."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = ("README.md", "docs/index.md", "docs/tutorial.md")


def blocks(page: str) -> str:
    """All Python blocks of a page, each at its own line, so that a failure names the right one."""
    text = (ROOT / page).read_text()
    code = [""] * (text.count("\n") + 1)
    for match in re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        first = text[: match.start(1)].count("\n")
        for offset, line in enumerate(match[1].splitlines()):
            code[first + offset] = line
    return "\n".join(code)


@pytest.mark.parametrize("page", PAGES)
def test_code_in_the_docs_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = blocks(page)
    assert code.strip(), f"{page} holds no Python"
    exec(compile(code, page, "exec"), {"__name__": "docs"})
