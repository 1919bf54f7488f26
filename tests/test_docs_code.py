"""What the README and the docs show runs as it stands, and prints what they say.

Blocks of Python run, one after the other, in one namespace; a block with a title is a file of that
name. Commands of a shell run in the same folder, in which a user's photographs lie.

``python -m tests.test_docs_code PAGE...`` writes into the pages what their blocks print now.
"""

import contextlib
import io
import re
import shlex
import shutil
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from mpseg_models import __main__ as zoo
from weightscope import cli

ROOT = Path(__file__).parent.parent
SAMPLES = ROOT / "mpseg_models" / "samples" / "sand"
SLOW = {
    *("docs/tutorial.md", "docs/command.md"),
    *(
        f"docs/gallery/{name}.md"
        for name in ("diffusion", "labels", "lightning", "nnunet", "volumes")
    ),
}
GALLERY = sorted(str(page.relative_to(ROOT)) for page in (ROOT / "docs" / "gallery").glob("*.md"))
PAGES = [
    *("README.md", "docs/index.md", "docs/tutorial.md", "docs/zoo.md", "docs/command.md"),
    *(page for page in GALLERY if not page.endswith("index.md")),
]
OURS = {"weightscope": cli.main, "python -m mpseg_models": zoo.main}
OTHERS = ("pip", "make", "git", "python docs/", "python studies/")
"""Commands that set things up or take long; `make` targets and files are looked up."""


BLOCK = re.compile(
    r'^```(?P<language>python|sh)(?: title="(?P<title>.+?)")?\n(?P<code>.*?)^```\n'
    r"(?:\n```text\n(?P<printed>.*?)^```$)?",
    re.MULTILINE | re.DOTALL,
)


def commands(code: str) -> list[str]:
    lines = [line.partition(" #")[0].strip() for line in code.replace("\\\n", " ").splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def run_command(command: str) -> None:
    """Run one of ours in this process; of others, look up what they name."""
    for start, main in OURS.items():
        if command.startswith(f"{start} "):
            assert main(shlex.split(command.removeprefix(start))) == 0, command
            return
    assert command.startswith(OTHERS), f"what is {command!r}? Name it in OTHERS"
    if command.startswith("make "):
        assert f"\n{command.split()[1]}:" in (ROOT / "Makefile").read_text()
    if command.startswith("python "):
        assert (ROOT / command.split()[1]).is_file()


def outputs(page: str) -> Iterator[tuple[re.Match[str], str]]:
    """Run a page in the current folder: each block, and what it printed."""
    text = (ROOT / page).read_text()
    namespace: dict[str, object] = {"__name__": "docs"}
    for block in BLOCK.finditer(text):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            if block["title"]:
                Path(block["title"]).write_text(block["code"])
            elif block["language"] == "python":
                above = "\n" * text[: block.start("code")].count("\n")
                exec(compile(above + block["code"], page, "exec"), namespace)
            else:
                for command in commands(block["code"]):
                    run_command(command)
        yield block, printed.getvalue()


def words(output: str) -> list[str]:
    """Output without its figures and its layout, which may differ between machines."""
    return re.sub(r"[\d.]+", "#", output).split()


@contextlib.contextmanager
def users_folder(folder: Path) -> Iterator[None]:
    """A folder with photographs; modules that a page writes are gone afterwards."""
    shutil.copytree(SAMPLES, folder / "data")
    shutil.copytree(SAMPLES / "images", folder / "photos")
    path, modules = sys.path.copy(), set(sys.modules)
    sys.path.insert(0, str(folder))  # as it is for who works there
    try:
        with contextlib.chdir(folder):
            yield
    finally:
        sys.path[:] = path
        for name in set(sys.modules) - modules:
            if Path(getattr(sys.modules[name], "__file__", None) or "/").parent == folder:
                del sys.modules[name]


def test_links_between_pages_lead_to_files() -> None:
    """The strict build of the docs refuses a dead link; the suite says which one sooner."""
    dead = [
        f"{page.relative_to(ROOT)}: {link}"
        for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
        for link in re.findall(r"\]\(([^)#\s:]+)[^):]*\)", page.read_text())
        if not (page.parent / link).exists()
    ]
    assert not dead


@pytest.mark.parametrize(
    "page", [pytest.param(p, marks=pytest.mark.slow if p in SLOW else ()) for p in PAGES]
)
def test_what_a_page_shows_runs(page, tmp_path):
    with users_folder(tmp_path):
        found = list(outputs(page))
    assert found, f"{page} shows no code"
    for block, printed in found:
        if block["printed"] is not None:
            assert words(printed) == words(block["printed"]), block["code"]


def test_a_package_index_gets_no_link_into_the_repository():
    hooks = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["metadata"]
    text = (ROOT / "README.md").read_text()
    for rule in hooks["hooks"]["fancy-pypi-readme"]["substitutions"]:
        text = re.sub(rule["pattern"], rule["replacement"], text)
    assert "](" not in text.replace("](http", "")
    assert "a gallery of questions" in text


def test_every_command_in_the_docs_is_on_a_page_that_runs():
    pages = {str(p.relative_to(ROOT)) for p in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]}
    for page in sorted(pages - set(PAGES)):
        shown = [b["code"] for b in BLOCK.finditer((ROOT / page).read_text())]
        assert not [code for code in shown if "weightscope " in code], page


def write_outputs(page: str) -> None:
    """Put what each block prints into the page."""
    text = (ROOT / page).read_text()
    with tempfile.TemporaryDirectory() as folder, users_folder(Path(folder)):
        for block, printed in reversed(list(outputs(page))):
            if block["printed"] is not None:
                begin, end = block.span("printed")
                text = f"{text[:begin]}{printed.rstrip()}\n{text[end:]}"
    (ROOT / page).write_text(text)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        write_outputs(name)
