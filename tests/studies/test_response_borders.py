"""Borders and forms of the response, computed from the committed tables of the evidence study."""

import pandas as pd
import pytest
import torch

from studies.evidence_protocol import borders, judge
from studies.evidence_protocol.tasks import TASKS
from studies.small import ROOT
from weightscope.thresholds import RESPONSE_BORDER

PAGE = ROOT / "docs" / "studies" / "evidence"
MASKS = [name for name, task in TASKS.items() if task.kind == "binary"]


def cuts(**columns):
    """Cuts of one network that may judge nothing; what is not given is that of an idle cut."""
    given = {
        "name": "a", "half": "third", "index": 224, "labels": "true", "skilled": True,
        "used": False, "lost_low": 0.0, "lost_high": 0.01,
    }  # fmt: skip
    for key in borders.KEYS:
        given |= {f"{key}_{end}": 0.01 for end in ("cut", "low", "high")}
        given |= {f"{key}_form": "decision"}
    return pd.DataFrame(given | columns)


def counts(table, called, border):
    row = table[(table["called"] == called) & (table["border"] == border)].iloc[-1]
    return tuple(row[["response", "response_wrong", "response_clearly"]])


def test_a_border_counts_what_it_calls_and_what_is_wrong_of_it():
    table = borders.border_table(
        cuts(
            used=[True, True, False],
            lost_low=[0.06, 0.04, 0.0],
            lost_high=[0.1, 0.1, 0.01],
            response_high=[0.07, 0.07, 0.09],
        )
    )
    assert counts(table, "unused", 0.05) == (0, 0, 0)
    assert counts(table, "unused", 0.08) == (2, 2, 1)
    assert counts(table, "unused", 0.1) == (3, 2, 1)


def test_decisions_and_numbers_have_borders_of_their_own():
    table = borders.border_table(
        cuts(response_form=["decision", "number"], response_low=0.4, response_cut=[0.5, 0.01])
    )
    assert counts(table, "decision", 0.35) == counts(table, "number", 0.25) == (1, 1, 1)
    assert counts(table, "decision", 0.5) == (0, 0, 0)
    assert counts(table, "middle", 0.1) == (1, 1, 1)


@pytest.mark.parametrize("channels", [1, 3])
def test_both_forms_go_from_equal_answers_to_answers_that_have_nothing_in_common(channels):
    draw = torch.Generator().manual_seed(1)
    whole, other = (4 * torch.randn(4, channels, 64, 64, generator=draw) for _ in range(2))
    same, none = borders.forms(whole, whole), borders.forms(whole, other)
    assert same == pytest.approx({"kappa": 0.0, "apart": 0.0}, abs=1e-12)
    assert none == pytest.approx({"kappa": 1.0, "apart": 1.0}, abs=0.05)


def test_the_response_of_a_cut_is_read_with_its_own_form():
    why = (
        "response 0.27: 13% of the decisions change on 40 images without levels 3 and deeper; "
        "response alone: used (response 0.9: the numbers change by 0.4 (rms; their spread is 0.5) "
        "on synthetic images without levels 3 and deeper)"
    )
    score = {"score": 0.5, "low": 0.5, "high": 0.5, "verdict": "used"}
    stages = [{"why": why, "scores": {"response": score, "images": score}}]
    assert judge.response_of_cut(stages, "images")["images_form"] == "decision"
    found = judge.response_of_cut(stages, "response")
    assert found["response_form"] == "number"
    assert found["response_cut"] == pytest.approx(judge.RESPONSE_BORDER)


@pytest.mark.slow
def test_the_page_follows_from_the_tables_beside_it(tmp_path):
    for name in ("cuts", "forms", "networks"):
        (tmp_path / f"{name}.csv").write_text((PAGE / f"{name}.csv").read_text())
    borders.write_borders((), tmp_path, tmp_path)
    for name in ("borders.csv", "borders.md"):
        assert (tmp_path / name).read_text() == (PAGE / name).read_text()


def test_decisions_of_earlier_networks_are_counted_in_the_form_that_holds_now():
    earlier = cuts(index=[224, 224, 224, 999], name=["a", "b", "c", "d"], reduction=2)
    earlier.loc[1, "response_form"] = "number"
    known = pd.DataFrame({"name": ["a", "b", "d"], "reduction": 2, "response:apart": 0.25})
    known["images:apart"] = 0.25
    found = borders.in_one_form(earlier, known)
    assert found["response_cut"].tolist() == pytest.approx(
        [0.5, 0.01, float("nan"), 0.01], nan_ok=True
    )
    assert found["images_high"].isna().tolist() == [False, False, True, False]


def test_what_measuring_masks_as_numbers_too_withdraws_is_what_the_docs_say():
    keys = ["name", "reduction"]
    found = pd.read_csv(PAGE / "cuts.csv").merge(pd.read_csv(PAGE / "responses.csv"), on=keys)
    masks = found[found["task"].isin(MASKS)]
    withdrawn = {}
    for way, kinds in (("images", ["images"]), ("response", ["leaves", "matched"])):
        change = masks[[f"{kind}:change" for kind in kinds]].min(axis=1)
        called = (
            (masks[f"{way}_verdict"] == "unused")
            & (masks[f"{way}_form"] == "decision")
            & change.notna()
        )
        gone = masks[called & (change > RESPONSE_BORDER)]
        withdrawn[way] = (len(gone), int(called.sum()))
        assert not gone["used_x"].any()
    assert withdrawn == {"images": (3, 76), "response": (2, 75)}
    text = " ".join((ROOT / "docs" / "decisions" / "response.md").read_text().split())
    assert "it withdraws 3 of 76 on images and 2 of 75 by the model alone" in text
