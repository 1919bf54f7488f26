import math
import re

import pandas as pd
import pytest

from weightscope.report.drawings import bar, draw_histograms
from weightscope.report.reasons import reason_undecided, reason_unjudged
from weightscope.utilization import Score, StageVerdict

NAN = float("nan")


def test_a_bar_lies_where_its_numbers_say():
    drawn = bar(0.0, -1.0, 1.0, start=-1.0, end=3.0, origin=-1.0, lines=(1.0, 9.0))
    assert (drawn.low, drawn.width, drawn.value) == (0.0, 50.0, 25.0)
    assert drawn.fill == (0.0, 25.0)
    assert drawn.lines == (50.0, 100.0)


def test_what_is_no_number_has_no_bar_and_an_open_interval_the_whole_scale():
    assert bar(NAN, 0.0, 1.0) is None
    assert bar(0.5, 0.0, 1.0, end=0.0) is None
    assert (bar(0.5, NAN, NAN).low, bar(0.5, NAN, NAN).width) == (0.0, 100.0)
    assert (bar(0.5, -math.inf, math.inf).low, bar(0.5, 0.2, math.inf).width) == (0.0, 80.0)


def histograms(**layers):
    return pd.concat(
        pd.DataFrame(
            {
                "layer": name,
                "bin_left": [-2 * unit, -unit, 0.0, unit],
                "bin_right": [-unit, 0.0, unit, 2 * unit],
                "count": [0, 5, 10, 0],
                "null_count": null,
            }
        )
        for name, (unit, null) in layers.items()
    )


def facts(**units):
    return pd.DataFrame(
        {
            "layer": list(units),
            "stage": ["encoder 0", "no role"][: len(units)],
            "std_initial": list(units.values()),
            "spread_ratio": [2.0, NAN][: len(units)],
        }
    )


def points(path):
    return [int(number) for number in re.findall("-?[0-9]+", path)]


def test_one_path_shows_a_layer_relative_to_its_start_and_as_it_is():
    drawn = draw_histograms(
        histograms(wide=(1.0, [0, 7.5, 7.5, 0]), narrow=(0.1, NAN)), facts(wide=1.0, narrow=0.1)
    )
    wide, narrow = drawn.rows
    # the same shape in units of the start; in plain units the narrow one fills a tenth of the view
    assert wide.weights == narrow.weights
    assert wide.relative == narrow.relative == round(1000 * drawn.relative)
    assert narrow.plain == pytest.approx(10 * wide.plain, rel=1e-3)
    assert drawn.plain == pytest.approx(wide.plain / 1000, rel=1e-3)


def test_weights_are_closed_and_nulls_are_interrupted():
    drawn = draw_histograms(histograms(a=(1.0, [3, 0, 0, 3])), facts(a=1.0)).rows[0]
    places = points(drawn.weights)
    assert places[1] == places[-1] == 100  # from the base to the base
    assert min(places[2::2]) == 4  # the highest bin fills the row
    assert drawn.null.count("M") == 2
    assert (drawn.role, drawn.spread.value) == ("encoder", 100.0)


def test_a_layer_without_a_start_or_a_role_is_drawn_plainly():
    row = draw_histograms(histograms(a=(1.0, NAN)), facts(a=NAN).assign(stage="odd")).rows[0]
    assert (row.null, row.role) == ("", "elsewhere")
    assert row.plain == row.relative


def verdict(grade, value, low, high, word="undecided"):
    borders = (0.08, 0.35) if grade in ("response", "images") else (NAN, NAN)
    score = Score(grade, value, low, high, word, "measured", borders=borders)
    return StageVerdict("encoder 1", value, word, grade, "measured", (score,))


@pytest.mark.parametrize(
    ("undecided", "reason"),
    [
        (verdict("weights", 0.5, 0.1, 0.9), "ranks stages and decides nothing"),
        (verdict("history", 0.5, 0.1, 0.9), "ranks stages and decides nothing"),
        (verdict("response", 0.5, 0.3, 0.6), "below 0.08 .* unused, above 0.35 used"),
        (verdict("images", 0.5, 0.3, 0.6), "below 0.08 .* unused, above 0.35 used"),
        (verdict("data", 0.5, 0.3, 0.6), "its interval holds 0.5"),
        # what was measured would decide; the verdict's own words say what keeps it from that
        (verdict("response", 0.98, 0.97, 0.99), "^$"),
        (verdict("data", 0.9, 0.8, 0.95), "^$"),
        (verdict("data", NAN, NAN, NAN), "^$"),
        (verdict("data", 0.9, 0.8, 0.95, "used"), "^$"),
    ],
)
def test_the_reason_fits_the_grade(undecided, reason):
    assert re.search(reason, reason_undecided(undecided))


def test_a_network_that_is_not_known_to_be_trained_is_not_judged():
    assert reason_unjudged("trained") == ""
    for state in ("broken", "untrained", "unskilled", "unknown"):
        assert reason_unjudged(state)


def test_no_remedy_is_named_for_what_no_cut_removes():
    nan = math.nan
    scores = (
        Score("images", nan, nan, nan, "undecided", "no cut removes it"),
        Score("weights", 0.4, 0.3, 0.5, "undecided", "spread 1.1 of the initial one"),
    )
    verdict = StageVerdict("head", 0.4, "undecided", "weights", "", scores)
    reason = reason_undecided(verdict)
    assert "no cut removes it" in reason
    assert "images=" not in reason
