"""What every page is: one file in the style of `page.html` that runs no script but its own."""

from __future__ import annotations

import base64
import hashlib
import os
import platform
import re
from dataclasses import dataclass
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup, escape

from weightscope.arguments import Rule, checked
from weightscope.files import write_text
from weightscope.printing import human, per_dimension, printable
from weightscope.showing import share

_OPTION = re.compile(r"--[a-z]+(-[a-z]+)*")


@dataclass(frozen=True)
class Cell:
    """One cell of a sortable table: what it shows and what it sorts by."""

    text: str
    key: float | str


def words(text: str) -> Cell:
    """A cell that is no number."""
    return Cell(text, text)


def figure(number: float) -> Cell:
    """A number with three digits, or a dash that sorts below all numbers."""
    return Cell(f"{number:.3g}", number) if number == number else Cell("-", float("-inf"))


def part(number: float) -> Cell:
    """A share as a percentage."""
    return Cell(percent(number), number) if number == number else Cell("-", float("-inf"))


def percent(number: float) -> str:
    """A share with three digits.

    Example:
        >>> percent(0.12345), percent(float("nan"))
        ('12.3 %', '-')
    """
    return "-" if number != number else f"{100 * number:.3g} %"


def unbroken(text: str) -> Markup:
    """A text, escaped, in which no option of the command is parted at the end of a line.

    Example:
        >>> print(unbroken("<b> or --images"))
        &lt;b&gt; or <span class="nowrap">--images</span>
    """
    return Markup(_OPTION.sub(r'<span class="nowrap">\g<0></span>', str(escape(text))))


def render(template: str, **values: Any) -> str:
    """Fill a template of this folder; every value is escaped, and control characters spelled out.

    The page's own policy forbids any script but its one, by its hash, and any connection.

    Args:
        template: Name of the file.
        values: What it shows; a name that is missing is an error.
    """
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        loader=FunctionLoader(_text),
    )
    environment.filters.update(human=human, share=share, per_dimension=per_dimension)
    environment.filters.update(percent=percent, unbroken=unbroken)
    script = _text("table.js")
    page = environment.get_template(template).render(
        versions=_versions(),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        **values,
    )
    return printable(page)  # a browser obeys what turns the order of letters, too


@checked(page=Rule(lambda page: isinstance(page, str), "the page as text", optional=False))
def write_page(page: str, path: str | os.PathLike[str]) -> Path:
    """Write a page, replacing the file atomically.

    Raises:
        InputError: The file cannot be written (missing folder, no permission, full disk).
    """
    write_text(path, page)
    return Path(path)


def _text(name: str) -> str:
    return (files("weightscope.report") / name).read_text(encoding="utf-8")


def _versions() -> dict[str, str]:
    names = ("weightscope", "torch", "numpy", "pandas")
    return {
        **{name: version(name) for name in names},
        "Python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
    }
