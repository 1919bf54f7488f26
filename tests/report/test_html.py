import base64
import errno
import os
import re
from html.parser import HTMLParser

import pytest
from matplotlib.figure import Figure

from weightscope.errors import InputError
from weightscope.frames import histograms_frame, layers_frame, parameters_frame
from weightscope.report import render_html, write_html
from weightscope.report.html import _data_uri

HOSTILE = '<script>alert(1)</script>"><img src=x onerror=alert(2)> $\\frac$ _x'

DRAWN = {
    "test_the_page_needs_nothing_from_outside",
    "test_hostile_names_stay_text",
    "test_heavy_pictures_become_png",
    "test_the_same_analysis_gives_the_same_page",
}


class Page(HTMLParser):
    """Tags with their attributes, and the text of the page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text.append(data)

    def named(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture(autouse=True)
def blank_pictures(request, monkeypatch):
    """Spare most tests the drawing, which takes most of the time."""
    if request.node.name not in DRAWN:
        blank = "data:image/svg+xml;base64,"
        monkeypatch.setattr("weightscope.report.html._data_uri", lambda figure: blank)


@pytest.fixture
def hostile(analysis, structure, statistics, costs):
    for tensor in statistics.parameters:
        tensor.layer = tensor.layer.replace("down", HOSTILE)
        tensor.warning = HOSTILE
    structure.stage_of[HOSTILE] = structure.stage_of.pop("down")
    structure.dead_parameters = (HOSTILE,)
    analysis.conclusion = HOSTILE
    analysis.skipped[0].name = HOSTILE
    analysis.structure.model = type(HOSTILE, (), {})()
    analysis.layers = layers_frame(structure, statistics, costs)
    analysis.histograms = histograms_frame(structure, statistics)
    analysis.parameters = parameters_frame(structure, statistics)
    return analysis


def test_the_first_thing_on_the_page_is_the_verdict(analysis):
    page = render_html(analysis)
    body = page[page.index("<body>") :]
    assert body.index(analysis.conclusion) < body.index("bottleneck 1") < body.index("<figure>")


def test_the_page_needs_nothing_from_outside(analysis):
    page = Page(render_html(analysis))
    assert not page.named("link")
    assert all(image["src"].startswith("data:image/svg+xml;base64,") for image in page.named("img"))
    assert all(image["alt"] for image in page.named("img"))
    assert all(anchor["href"].startswith("#") for anchor in page.named("a"))
    assert len(page.named("script")) == 1
    assert "src" not in page.named("script")[0]


def test_hostile_names_stay_text(hostile):
    text = render_html(hostile)
    page = Page(text)
    assert len(page.named("script")) == 1
    assert all("onerror" not in attrs for _, attrs in page.tags)
    assert "".join(page.text).count(HOSTILE) >= 4
    for image in page.named("img"):
        svg = base64.b64decode(image["src"].split(",")[1]).decode()
        assert "<script" not in svg


def test_the_policy_admits_only_the_script_of_the_page(analysis):
    page = Page(render_html(analysis))
    policy = next(meta["content"] for meta in page.named("meta") if "http-equiv" in meta)
    assert "default-src 'none'" in policy
    assert re.search(r"script-src 'sha256-[\w+/]{43}='$", policy)


def test_the_same_analysis_gives_the_same_page(analysis):
    assert render_html(analysis) == render_html(analysis)


def test_every_layer_is_listed_with_what_was_left_out(analysis):
    text = "".join(Page(render_html(analysis)).text)
    for name in ("top", "down.norm", "unused", "packed", "quantized", "nothing lies deeper"):
        assert name in text


def test_a_stage_that_could_not_be_measured_has_no_bar(analysis):
    before = render_html(analysis)
    analysis.stages.loc[0, ["utilization", "utilization_low", "utilization_high"]] = float("nan")
    after = render_html(analysis)
    assert before.count('<div class="bar') == 3
    assert after.count('<div class="bar') == 2
    assert "nan" not in "".join(Page(after).text)


def test_grades_stand_side_by_side_where_there_are_several(analysis, assessment):
    assert "by data" not in render_html(analysis)
    first = assessment.verdicts[0]
    contrary = type(first.scores[0])(
        grade="data", utilization=0.8, low=0.7, high=0.9, verdict="used", why="F1 falls without it"
    )
    first.scores = (contrary, *first.scores)
    text = "".join(Page(render_html(analysis)).text)
    assert "by data" in text
    assert "used 0.80 (0.70-0.90)" in text
    assert "unused 0.05 (0.03-0.10)" in text


def test_ablation_is_shown_where_there_is_one(analysis, ablation):
    analysis.data = ablation
    text = "".join(Page(render_html(analysis)).text)
    assert "on 20 images" in text
    assert "0.1500" in text


def test_the_page_is_written_whole_or_not_at_all(analysis, tmp_path, monkeypatch):
    target = tmp_path / "report.html"
    assert write_html(analysis, target) == target
    first = target.read_text()

    def full(self, *args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("pathlib.Path.write_text", full)
    with pytest.raises(InputError, match=r"report\.html.*No space left"):
        write_html(analysis, target)
    assert target.read_text() == first
    assert os.listdir(tmp_path) == ["report.html"]


def test_heavy_pictures_become_png(monkeypatch):
    figure = Figure()
    figure.add_subplot().plot([0, 1], [1, 0])
    assert _data_uri(figure).startswith("data:image/svg+xml;base64,")
    monkeypatch.setattr("weightscope.report.html._HEAVY", 1)
    png = _data_uri(figure)
    assert base64.b64decode(png.removeprefix("data:image/png;base64,"))[:4] == b"\x89PNG"
    assert png == _data_uri(figure)


def test_a_folder_that_is_not_there_is_named(analysis, tmp_path):
    with pytest.raises(InputError, match="nowhere"):
        write_html(analysis, tmp_path / "nowhere" / "report.html")
