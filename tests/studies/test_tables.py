from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.figure import Figure

from studies.sand import figures, tables
from studies.sand.metrics import Metrics
from studies.sand.records import levels_supported
from weightscope.errors import InputError


def metrics(**changes):
    figures_ = dict.fromkeys(Metrics.__dataclass_fields__, 0.5) | changes
    return Metrics(**figures_)


def result(label, fold, **changes):
    return tables.Result(label, fold, metrics(**changes), 100, 1000, 2, "cpu", 3.0, {})


def test_quality_table_shows_every_case_the_average_and_the_paper():
    frame = tables.results_frame(
        [result("U-net", 0, f1=0.2), result("U-net", 1, f1=0.4), result("mine", 0, f1=1.0)]
    )
    table = tables.quality_table(frame, {"f1": "F1"}).set_index("network")
    assert table.loc["U-net", "F1, case 1"] == "0.2000"
    assert table.loc["U-net", "F1, case 2"] == "0.4000"
    assert table.loc["U-net", "F1"] == "0.3000 (0.1414)"
    assert table.loc["mine", "F1, case 2"] == ""
    assert table.loc["U-net", "F1, paper"] == "0.0328"
    assert table.loc["mine", "F1, paper"] == ""


def test_the_papers_averages_are_consistent_with_their_own_formulas():
    # averages of ratios are no ratios of averages, but must lie near them
    for name in ("Half MultiResUNet", "Quarter MultiResUNet"):
        paper = tables.PAPER_AVERAGES[name]
        f1 = 2 * paper.precision * paper.recall / (paper.precision + paper.recall)
        assert paper.f1 == pytest.approx(f1, rel=0.02)
        assert paper.rw_f1 == pytest.approx(paper.f1 * paper.recall, rel=0.02)


def test_markdown_escapes_what_would_break_the_table():
    import pandas as pd

    text = tables.markdown(pd.DataFrame({"a": ["x|y", "1\n2"], "b": [1, 2]}))
    assert text == "| a | b |\n| :-- | --: |\n| x\\|y | 1 |\n| 1 2 | 2 |"


def analysis(verdicts):
    """Three levels; ``verdicts`` maps a stage to its (weights, data) verdicts; data is joint."""
    levels = {"encoder 0": 0, "encoder 1": 1, "bottleneck": 2, "decoder 1": 1, "decoder 0": 0}
    return SimpleNamespace(
        structure=SimpleNamespace(
            stages=[SimpleNamespace(name=n, level=level) for n, level in levels.items()],
            cuts=[SimpleNamespace(keep_levels=1), SimpleNamespace(keep_levels=2)],
        ),
        assessment=SimpleNamespace(
            verdicts=[
                SimpleNamespace(
                    stage=name,
                    verdict=data,
                    scores=[
                        SimpleNamespace(grade="data", verdict=data),
                        SimpleNamespace(grade="weights", verdict=weights),
                    ],
                )
                for name, (weights, data) in verdicts.items()
            ]
        ),
    )


def test_levels_to_keep_follow_from_the_verdicts():
    used, unused = ("used", "used"), ("unused", "unused")
    shallow = {"encoder 0": used, "encoder 1": unused, "decoder 1": unused, "decoder 0": used}
    assert levels_supported(analysis({**shallow, "bottleneck": unused}), None) == 1
    assert levels_supported(analysis({**shallow, "bottleneck": used}), None) is None
    half = {**shallow, "encoder 1": used, "bottleneck": unused}
    assert levels_supported(analysis(half), None) == 2
    split = {**shallow, "encoder 1": ("undecided", "unused"), "bottleneck": unused}
    assert levels_supported(analysis(split), "data") == 1
    assert levels_supported(analysis(split), "weights") == 2
    assert levels_supported(analysis(split), "history") is None


def test_figures_are_complete_or_not_there(tmp_path):
    path = figures.save(Figure(), tmp_path / "a.png")
    assert path.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(InputError, match=r"b\.png.*does not exist"):
        figures.save(Figure(), tmp_path / "nowhere" / "b.png")


def test_scene_figure_enlarges_where_the_plastic_is():
    mask = np.zeros((120, 140), np.uint8)
    mask[90:96, 100:110] = 1
    figure = figures.scene_figure((np.zeros((120, 140, 3), np.uint8), mask), zoom=32)
    marked = figure.axes[2]
    assert marked.images[0].get_array().shape[:2] == (32, 32)
    assert len(marked.collections) == 1  # the outline
    figure.draw_without_rendering()
