import errno
import os
import re
from html.parser import HTMLParser
from types import SimpleNamespace

import pytest

from weightscope.errors import InputError
from weightscope.frames import histograms_frame, layers_frame, parameters_frame
from weightscope.probing import CutResponse
from weightscope.report import render_html, write_html
from weightscope.utilization import AblationResult, LevelAblation

HOSTILE = '<script>alert(1)</script>"><img src=x onerror=alert(2)> $\\frac$ _x'


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


def bars(page):
    return sum("bar" in attrs.get("class", "").split() for attrs in Page(page).named("svg"))


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
    assert body.index(analysis.conclusion) < body.index("bottleneck 1") < body.index("<path")


def test_the_page_needs_nothing_from_outside(analysis):
    page = Page(render_html(analysis))
    assert not page.named("link") + page.named("img") + page.named("image")
    assert all(use["href"].startswith("#") for use in page.named("use"))
    assert all(anchor["href"].startswith("#") for anchor in page.named("a"))
    assert len(page.named("script")) == 1
    assert "src" not in page.named("script")[0]


def test_hostile_names_stay_text(hostile):
    text = render_html(hostile)
    page = Page(text)
    assert len(page.named("script")) == 1
    assert all("onerror" not in attrs for _, attrs in page.tags)
    assert "".join(page.text).count(HOSTILE) >= 4


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
    assert bars(before) - bars(after) == 1
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


def test_weights_that_are_no_numbers_are_said_before_all_else(analysis):
    analysis.statistics.nonfinite = {HOSTILE: 3}
    page = render_html(analysis)
    text = "".join(Page(page[page.index("<body>") :]).text)
    assert text.index("Weights are NaN or infinite") < text.index(analysis.conclusion)
    assert f"{HOSTILE} (3)" in text


def test_notes_on_the_evidence_and_on_the_structure_are_shown(analysis):
    analysis.assessment.notes = (HOSTILE,)
    analysis.structure.notes = ("one branch was guessed",)
    text = "".join(Page(render_html(analysis)).text)
    assert text.index("one branch was guessed") < text.index("stage, least used first")
    assert HOSTILE in text


def test_an_undecided_stage_says_why(analysis):
    text = "".join(Page(render_html(analysis)).text)
    assert text.count("Undecided: ") == 1
    assert "too few weights to tell. Undecided: this ranks stages and decides nothing" in text
    analysis.assessment.state = "untrained"
    text = "".join(Page(render_html(analysis)).text)
    assert "No stage is judged: the network looks untrained." in text
    assert "Undecided: " not in text


def test_frozen_layers_are_marked(analysis, structure, statistics, costs):
    assert "frozen" not in "".join(Page(render_html(analysis)).text)
    statistics.parameters[4].requires_grad = False
    analysis.layers = layers_frame(structure, statistics, costs)
    assert "".join(Page(render_html(analysis)).text).count("frozen") == 1


def test_response_is_drawn_with_its_borders(analysis):
    cut = CutResponse(1, value=0.5, low=0.4, high=0.6, flips=0.2, change=0.1)
    before = bars(render_html(analysis))
    analysis.response = SimpleNamespace(source="response", images=6, cuts=(cut,), failure="")
    page = render_html(analysis)
    assert bars(page) == before + 1
    assert '<line class="border" x1="8.0"' in page
    assert '<line class="border" x1="35.0"' in page
    assert '<line class="value" x1="50.0"' in page
    assert "0.5 (0.4 to 0.6)" in "".join(Page(page).text)


def test_every_output_is_shown(analysis, ablation):
    first = CutResponse(
        1, 0.02, 0.01, 0.03, 0.2, 0.1, worst=0.5, worst_part=2,
        outputs={"['seg']": 0.03, "['depth']": 0.27, "['cls']": 1.0}, lost=("['cls']",),
    )  # fmt: skip
    analysis.response = SimpleNamespace(source="response", images=6, cuts=(first,), failure="")
    level = LevelAblation(1, 0.9, 0.5, 0.4, 0.3, 0.5, lost=("['cls']",))
    second = AblationResult((level,), 0.9, 0.5, 0.3, 20, "accuracy of outputs['cls']")
    ablation.ablation.metric = "f1 of outputs['seg']"
    ablation.ablation.unjudged = ("['depth']",)
    ablation.beside = (SimpleNamespace(ablation=second),)
    analysis.data = ablation
    text = " ".join("".join(Page(render_html(analysis)).text).split())
    assert "Change of the output (outputs['seg'], the first of several)" in text
    assert "outputs['depth'] up to 0.27; outputs['cls'] lost; decision 2 0.5" in text
    assert "By f1 of outputs['seg'] on 20 images, which judges nothing of outputs['depth']," in text
    assert "By accuracy of outputs['cls'] on 20 images the whole network reaches 0.9000" in text
    assert "0.5000 (outputs['cls'] lost)" in text
    assert "unless something else speaks for it: another output" in text


def test_importances_are_drawn_as_shares_of_the_largest(analysis, ablation):
    before = bars(render_html(analysis))
    analysis.data = ablation
    page = render_html(analysis)
    assert bars(page) == before + 3  # one drop, two importances
    assert '<rect class="fill" x="0.0" y="3" width="25.0"' in page


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


def test_a_folder_that_is_not_there_is_named(analysis, tmp_path):
    with pytest.raises(InputError, match="nowhere"):
        write_html(analysis, tmp_path / "nowhere" / "report.html")
