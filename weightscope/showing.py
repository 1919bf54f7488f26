"""How a record shows itself in a console and in a notebook: on one screen, whatever it holds."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

LONGEST = 200
"""Characters of one fact that are shown."""

LINE = 30
"""Characters that a long text keeps on a line of a table; with fewer it becomes a tower."""


def one_line(name: str, facts: Mapping[str, object]) -> str:
    """The repr of a record that holds too much to be shown: its main facts.

    Example:
        >>> one_line("Variant", {"levels": 2, "parameters": 29871})
        '<Variant: levels 2, parameters 29871>'
    """
    return f"<{name}: {', '.join(f'{key} {_short(value)}' for key, value in facts.items())}>"


def as_table(name: str, facts: Mapping[str, object]) -> str:
    """The same as an HTML table; names in models and files are untrusted, so all is escaped."""
    rows = "".join(
        f"<tr><th style='text-align:left'>{html.escape(key)}</th>"
        f"<td style='text-align:left'>{html.escape(_short(value))}</td></tr>"
        for key, value in facts.items()
    )
    return f"<div><strong>{html.escape(name)}</strong><table>{rows}</table></div>"


def frame_table(frame: pd.DataFrame) -> str:
    """A data frame as an HTML table: numbers to three digits, texts to the left; all is escaped.

    It scrolls by itself where a page is narrow, and long texts keep lines that can be read.
    """
    shown = [[_figure(value) for value in row] for row in frame.itertuples(index=False)]
    styles = []
    for column, values in zip(frame, zip(*shown, strict=True), strict=True):
        side = "left" if any(isinstance(v, str) for v in frame[column]) else "right"
        least = min(LINE, max(len(v) for v in values))
        styles.append(f"text-align:{side};min-width:{least}ch")

    def row(cell: str, texts: Iterable[str]) -> str:
        return "".join(
            f"<{cell} style='{style}'>{html.escape(text)}</{cell}>"
            for style, text in zip(styles, texts, strict=True)
        )

    body = "".join(f"<tr>{row('td', texts)}</tr>" for texts in shown)
    head = f"<thead><tr>{row('th', map(str, frame))}</tr></thead>"
    return f"<div style='overflow-x:auto'><table>{head}<tbody>{body}</tbody></table></div>"


def _figure(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else ""
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.3g}"
    return str(value)


def counted(number: int, noun: str) -> str:
    """A number of things, in the singular for one.

    Example:
        >>> counted(1, "image"), counted(0, "image"), counted(12_345, "tensor")
        ('1 image', '0 images', '12345 tensors')
    """
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def share(part: float) -> str:
    """A share as a percentage that never rounds something to nothing.

    Example:
        >>> share(0.4278), share(0.0004), share(0.0), share(1.0)
        ('43 %', '<1 %', '0 %', '100 %')
    """
    if part != part:
        return "-"
    return "<1 %" if 0 < part < 0.005 else f"{100 * part:.0f} %"


def above(value: float, limit: float) -> str:
    """That a number is above a limit: whole ones in full, others in digits enough to tell.

    Example:
        >>> above(16_110_593, 16_110_592), above(0.4, 0.02), above(0.300001, 0.3)
        ('16,110,593 > 16,110,592', '0.4 > 0.02', '0.300001 > 0.3')
        >>> above(96_337_920, 77_031_014.39999999), above(900, 899.97)
        ('96,337,920 > 77,031,014.4', '900 > 899.9')
    """
    if isinstance(value, int):
        rounded = round(float(limit), 1)
        least = math.floor(10 * limit) / 10 if rounded >= value else rounded
        return f"{value:,} > {int(least) if least == int(least) else least:,}"
    pairs = [(f"{value:.{n}g}", f"{float(limit):.{n}g}") for n in range(4, 18)]
    return " > ".join(next((pair for pair in pairs if pair[0] != pair[1]), pairs[-1]))


class OnOneScreen:
    """A record that shows its main facts, in a console and in a notebook."""

    def _facts(self) -> Mapping[str, object]:
        raise NotImplementedError

    def __repr__(self) -> str:
        return one_line(type(self).__name__, self._facts())

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return as_table(type(self).__name__, self._facts())


def _short(value: object) -> str:
    text = " ".join(str(value).split())
    # a terminal obeys control characters in the names that models and files hold
    text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 4]} ..."


def outputs_at(places: Iterable[str]) -> str:
    """Outputs of a network by what gets at them, in words.

    Example:
        >>> outputs_at(["['seg']", "['depth']"])
        "outputs['seg'] and outputs['depth']"
    """
    return " and ".join(f"outputs{place}" for place in places)
