"""The page of a file of weights."""

import re

import pytest
import torch

from weightscope.report import render_checkpoint, write_page
from weightscope.statistics import scan

CONTROLS = "\x1b\0\x08\x7f\x85\x9b\u202e\u2028\u2066\ufeff"
HOSTILE = '<script>alert(1)</script>"><img src=x onerror=alert(2)>'


@pytest.fixture
def page(tmp_path):
    torch.manual_seed(0)
    weight = torch.randn(8, 4)
    tensors = {
        "conv.weight": weight,
        "conv.bias": torch.zeros(8),
        "tied.weight": weight,
        "constant": torch.ones(3, 3),
        "half.weight": torch.randn(4, 4).bfloat16(),
        "broken": torch.tensor([[1.0, float("nan")]]),
        "complex": torch.zeros(2, dtype=torch.complex64),
        HOSTILE: torch.randn(2, 2),
    }
    torch.save(tensors, tmp_path / "weights.pt")
    return render_checkpoint(HOSTILE, scan(tmp_path / "weights.pt"))


def rows_of(page, section):
    body = page.split(f'id="{section}"')[1].split("</section>")[0].split("<tbody>")[1]
    return [re.sub(r"<[^>]+>", " ", row).split() for row in body.split("<tr>")[1:]]


def test_every_tensor_is_a_row_with_its_figures(page):
    rows = rows_of(page, "tensors")
    assert [row[0] for row in rows[:2]] == ["conv.weight", "conv.bias"]
    assert len(rows) == 6
    assert "8 x 4" in " ".join(rows[0])
    assert "tied.weight" in rows[0]
    assert "bfloat16" in rows[3]
    assert "NaN" in rows[4]


def test_what_spreads_over_two_axes_is_drawn_by_its_own_name(page):
    drawn = [row[0] for row in rows_of(page, "histograms")]
    assert drawn[:2] == ["conv.weight", "half.weight"]
    assert not {"conv.bias", "constant", "broken"} & set(drawn)


def test_what_is_broken_comes_first_and_what_was_left_out_last(page):
    assert page.index("NaN or infinite") < page.index("Distributions")
    assert "complex numbers have no order" in page.split('id="skipped"')[1]


def test_control_characters_of_names_are_spelled_out(tmp_path):
    torch.save({f"odd{CONTROLS}": torch.randn(2, 2), CONTROLS: 3}, tmp_path / "weights.pt")
    page = render_checkpoint(f"a{CONTROLS}", scan(tmp_path / "weights.pt"))
    assert "odd\\x1b\\x00" in page
    assert all(char.isprintable() or char == "\n" for char in page)


def test_names_of_the_file_stay_text(page):
    assert HOSTILE not in page
    assert "<img" not in page
    assert page.count("<script>") == 1


def test_a_file_of_vectors_or_of_nothing_has_a_page(tmp_path):
    for tensors in ({"a": torch.zeros(3)}, {"a": torch.zeros(2).cfloat()}):
        torch.save(tensors, tmp_path / "weights.pt")
        page = render_checkpoint("weights.pt", scan(tmp_path / "weights.pt"))
        assert 'id="histograms"' not in page


def test_names_that_are_no_text_are_spelled_out(tmp_path):
    """A name of bytes on disk, or of half a character in a pickle, has no place in UTF-8."""
    torch.save({"half\ud800": torch.randn(2, 2)}, tmp_path / "weights.pt")
    page = render_checkpoint("a\udcff.pt", scan(tmp_path / "weights.pt"))
    written = write_page(page, tmp_path / "page.html").read_text(encoding="utf-8")
    assert r"a\udcff.pt" in written
    assert r"half\ud800" in written
