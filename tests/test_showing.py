"""Every public object shows itself on one screen, in a console and in a notebook."""

import math
from dataclasses import replace

import pandas as pd
import pytest
import torch
from torch import nn

import weightscope as ws
from mpseg_models import create_model
from weightscope.showing import as_table, frame_table, one_line


class Hostile(nn.Module):
    """Its layers have names that a page or a terminal must not obey."""

    def __init__(self):
        super().__init__()
        self.net = create_model("half_unet", width=4, seed=0)

    def forward(self, images):
        return self.net(images)


Hostile.__name__ = "<script>alert(1)</script>\x1b[2J"


@pytest.fixture(scope="module")
def shown():
    model = Hostile()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with ws.watch(model, optimizer) as history:
        pass
    analysis = ws.analyze(model, response=False)
    search = ws.shrink(
        create_model("half_unet", width=4), images=torch.rand(4, 3, 32, 32), steps=1, random=False
    )
    return {
        "search": search,
        "recovery": search.candidates[0].variant.recover(torch.rand(4, 3, 32, 32), steps=1),
        "costs": analysis.costs,
        "assessment": analysis.assessment,
        "parameter": analysis.statistics.parameters[0],
        "analysis": analysis,
        "proposal": analysis.proposals[0],
        "variant": analysis.proposals[0].build(),
        "statistics": analysis.statistics,
        "structure": analysis.structure,
        "history": history,
    }


NAMES = [
    *("analysis", "proposal", "variant", "statistics", "structure", "history"),
    *("search", "recovery", "costs", "assessment", "parameter"),
]


@pytest.mark.parametrize("name", NAMES)
def test_a_repr_is_one_line(shown, name):
    text = repr(shown[name])
    assert len(text) < 500
    assert "\n" not in text
    assert "\x1b" not in text
    assert type(shown[name]).__name__ in text


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_shows_escaped_html(shown, name):
    page = shown[name]._repr_html_()
    assert len(page) < 20_000
    assert "<script>" not in page
    assert "<table" in page


def test_the_notebook_shows_verdict_stages_and_proposals(shown):
    page = shown["analysis"]._repr_html_()
    assert "nothing can be concluded" in page
    assert "bottleneck" in page
    assert "nothing supports it" in page


def test_a_table_holds_texts_numbers_and_what_is_unknown():
    frame = pd.DataFrame(
        {"why": ["<b>" + "y" * 90, ""], "share": [0.12345, math.nan], "on": [True, False]}
    )
    page = frame_table(frame)
    assert "<b>" not in page
    assert "min-width:30ch'>&lt;b&gt;yyy" in page
    assert ">0.123<" in page
    assert ">yes<" in page
    assert "nan" not in page.lower()


def test_a_search_says_what_was_chosen_and_escapes_it(shown):
    odd = replace(shown["search"].candidates[0], refusal="<script>")
    page = replace(shown["search"], candidates=(odd,), metric="<i>")._repr_html_()
    assert "no smaller network" in page
    assert "&lt;script&gt;" in page
    assert "<script>" not in page


def test_long_facts_are_cut():
    assert len(one_line("X", {"fact": "y" * 1000})) < 250
    assert "&lt;b&gt;" in as_table("X", {"fact": "<b>"})


def reached(record, known):
    """Every record of the library that a reader comes to by attributes."""
    if id(record) in known or not type(record).__module__.startswith("weightscope"):
        return
    known[id(record)] = record
    yield record
    for name in dir(record):
        value = None if name.startswith("_") else getattr(record, name)
        for inner in value[:1] if isinstance(value, tuple) else (value,):
            yield from reached(inner, known)


def test_no_record_behind_them_is_longer_than_a_screen(shown):
    known = {}
    longest = {
        type(record).__name__: len(repr(record))
        for value in shown.values()
        for record in reached(value, known)
    }
    assert len(longest) > 15
    # 2,000 characters: 25 rows of 80
    assert {name: length for name, length in longest.items() if length > 2000} == {}
