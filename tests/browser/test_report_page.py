"""The report in a real browser: readable by all, whole on paper, on a phone and in the dark."""

import os
import re
import shutil
import unicodedata

import pytest
import torch

import weightscope as ws
from mpseg_models import create_model
from weightscope.report import render_checkpoint, write_page

sync_api = pytest.importorskip("playwright.sync_api", reason="needs the browser extra: playwright")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs the browser extra")
pypdf = pytest.importorskip("pypdf", reason="needs the browser extra: pypdf")

pytestmark = pytest.mark.browser

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
DESK, PHONE = 1280, 390
PAPER = 710  # pixels of A4 between the margins
LOOKS = [(width, style) for width in (DESK, PHONE) for style in ("light", "dark")]
HOSTILE = '<script>alert(1)</script>"><img src=x onerror=alert(2)> ' + "very_long_name." * 9


@pytest.fixture(scope="module")
def browser():
    found = os.environ.get("CHROME") or next(filter(None, map(shutil.which, NAMES)), None)
    with sync_api.sync_playwright() as playwright:
        if not found and not os.path.exists(playwright.chromium.executable_path):
            pytest.skip(
                f"no browser: none of {', '.join(NAMES)} is on the path, and playwright "
                "has none; install one, or name it in the variable CHROME"
            )
        browser = playwright.chromium.launch(executable_path=found)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def analysed():
    """A trained network with every kind of evidence, frozen layers and one hostile name."""
    torch.manual_seed(0)
    network = create_model("quarter_multiresunet", weights="sand").eval()
    network.add_module(HOSTILE.replace(".", "_"), torch.nn.Conv2d(3, 3, 3))
    for parameter in list(network.parameters())[:6]:
        parameter.requires_grad_(False)
    images = torch.rand(10, 3, 32, 32)
    with torch.no_grad():
        wanted = (network(images) > 0).float()
    return ws.analyze(
        network,
        images=[images],
        batches=[(images[:5], wanted[:5]), (images[5:], wanted[5:])],
        loss=torch.nn.functional.binary_cross_entropy_with_logits,
        metric="dice",
    )


@pytest.fixture(scope="module")
def written(analysed, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    analysed.to_html(folder / "whole.html")
    broken = create_model("quarter_multiresunet", weights="sand").eval()
    with torch.no_grad():
        next(broken.parameters()).view(-1)[0] = float("nan")
    ws.analyze(broken).to_html(folder / "broken.html")
    tensors = {**broken.state_dict(), HOSTILE: torch.ones(2, 2), "unread": torch.zeros(2).cfloat()}
    torch.save(tensors, folder / "weights.pt")
    write_page(render_checkpoint(HOSTILE, ws.scan(folder / "weights.pt")), folder / "scan.html")
    return folder


@pytest.fixture
def opened(browser, written):
    """Open a page; whatever the browser complains of fails the test."""
    complaints, contexts = [], []

    def open_page(name="whole", width=DESK, style="light"):
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=style)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: complaints.append(dialog.message))
        page.goto((written / f"{name}.html").as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


def luminance(page, selector, what):
    color = page.locator(selector).first.evaluate(f"e => getComputedStyle(e).{what}")
    red, green, blue = (int(n) / 255 for n in re.findall(r"\d+", color)[:3])
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize(("width", "style"), LOOKS)
@pytest.mark.parametrize("name", ["whole", "broken", "scan"])
def test_the_page_fits_is_accessible_and_follows_the_style(opened, name, width, style):
    page = opened(name, width, style)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    violations = axe.Axe().run(page).response["violations"]
    assert [(v["id"], v["nodes"][0]["html"][:200]) for v in violations] == []
    paper, ink = (luminance(page, "body", what) for what in ("backgroundColor", "color"))
    assert (paper < 0.1 < 0.7 < ink) if style == "dark" else (ink < 0.2 < 0.9 < paper)


def test_on_a_phone_the_verdict_is_beside_the_name_and_the_bars_are_seen(opened, analysed):
    page = opened(width=PHONE)
    rows = page.locator("section[aria-label=Stages] tbody tr")
    names = set(analysed.stages["stage"])
    seen = set()
    for row in rows.all():
        head = row.locator("th")
        stage = head.inner_text().splitlines()[0].strip()
        if stage not in names:
            continue
        seen.add(stage)
        name, mark = head.bounding_box(), head.locator(".mark").bounding_box()
        assert 0 <= mark["x"] <= PHONE - mark["width"]
        assert mark["y"] - name["y"] < 60
    assert seen == names
    for bar in page.locator("svg.bar").all():
        box = bar.bounding_box()
        assert box["width"] >= 60
        assert box["x"] + box["width"] <= PHONE


@pytest.mark.parametrize("name", ["whole", "scan"])
def test_on_a_phone_no_name_lies_over_its_neighbour(opened, name):
    rows = opened(name, PHONE).locator(".sortable tbody tr")
    reaches = rows.evaluate_all(
        """rows => rows.map(row => { const text = document.createRange();
        text.selectNodeContents(row.cells[0]);
        return text.getBoundingClientRect().right - row.cells[1].getBoundingClientRect().left })"""
    )
    assert max(reaches) <= 0


def test_a_heading_sorts_both_ways(opened):
    page = opened()
    column = page.locator(".sortable tbody td[data-number]:nth-child(5)")

    def numbers():
        return column.evaluate_all("cells => cells.map(cell => Number(cell.dataset.number))")

    before = numbers()
    button = page.locator(".sortable button", has_text="parameters")
    button.click()
    assert numbers() == sorted(before, reverse=True) != before
    button.click()
    assert numbers() == sorted(before)


@pytest.mark.parametrize("style", ["light", "dark"])
def test_paper_keeps_every_column_and_the_bars(opened, analysed, style, tmp_path):
    page = opened(width=PAPER, style=style)
    page.emulate_media(media="print", color_scheme=style)
    edges = page.locator("th, td, svg").evaluate_all(
        "cells => cells.map(cell => cell.getBoundingClientRect().right)"
    )
    assert max(edges) <= PAPER
    assert luminance(page, "body", "color") < 0.2
    page.pdf(path=tmp_path / "page.pdf", format="A4", prefer_css_page_size=True)
    pages = pypdf.PdfReader(tmp_path / "page.pdf").pages
    assert {(round(p.mediabox.width), round(p.mediabox.height)) for p in pages} <= {
        (595, 842),
        (596, 842),
    }
    # what wraps in a cell is torn apart in the text of a file, so words are looked for
    text = unicodedata.normalize("NFKC", " ".join(p.extract_text() for p in pages))  # ligatures
    words = set(text.split())
    for heading in page.locator("thead th").all_inner_texts():
        assert words >= set(heading.split())
    shown = analysed.layers["ks_initial"].dropna()
    assert words >= {f"{distance:.3g}" for distance in shown} | {"frozen", "undecided"}
    streams = "".join(p.get_contents().get_data().decode("latin-1") for p in pages)
    assert re.search(r"\.043\d* \.372\d* \.580\d* rg", streams)  # the colour of a bar


def test_paper_keeps_every_column_of_a_file(opened):
    page = opened("scan", PAPER)
    page.emulate_media(media="print")
    edges = page.locator("th, td, svg").evaluate_all(
        "cells => cells.map(cell => cell.getBoundingClientRect().right)"
    )
    assert max(edges) <= PAPER
