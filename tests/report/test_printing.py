import pytest
import torch
from torch import nn

from weightscope.printing import aligned_columns, analysis_table, checkpoint_table, human
from weightscope.showing import share
from weightscope.statistics import measure_model


@pytest.fixture
def text(structure, statistics, costs, receptive_fields, assessment, proposals):
    return analysis_table(structure, statistics, costs, receptive_fields, assessment, proposals)


def test_the_text_fits_a_terminal(text):
    assert max(len(line) for line in text.splitlines()) <= 100
    assert all(line == line.rstrip() for line in text.splitlines())


def test_it_opens_with_the_network_and_the_verdict(text):
    first, _, second = text.splitlines()[:3]
    assert "420 parameters" in first
    assert "1 x 3 x 64 x 64 (size guessed)" in first
    assert second == "The bottleneck looks unused; try keeping 1 level."


def test_stages_are_ranked_and_add_up_to_the_total(text):
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("stage "))
    assert [line.split("  ")[0] for line in lines[start + 2 : start + 7]] == [
        "bottleneck 1",
        "head",
        "encoder 0",
        "elsewhere",
        "total",
    ]
    assert "100 %" in lines[start + 6]
    assert "unused" in lines[start + 2]


def test_refusals_and_omissions_are_said(text):
    assert "levels kept 2: nothing lies deeper" in text
    assert "Not analysed: 1 parameter tensor (coverage 99.00 %)" in text
    assert "unused.weight" in text


@pytest.mark.parametrize(
    ("evidence", "said"),
    [("supported: ", "the one to try first on top"), ("not decided: ", "none of them supported")],
)
def test_no_smaller_network_is_called_supported_where_none_is(
    structure, statistics, costs, receptive_fields, assessment, proposals, evidence, said
):
    for proposal in proposals:
        proposal.evidence = evidence
    text = analysis_table(structure, statistics, costs, receptive_fields, assessment, proposals)
    assert f"Smaller networks, {said}\n" in text


def test_reasons_that_repeat_are_said_once(
    structure, statistics, costs, receptive_fields, assessment
):
    for verdict in assessment.verdicts:
        verdict.why = "the network is untrained"
    text = analysis_table(structure, statistics, costs, receptive_fields, assessment, ())
    assert text.count("the network is untrained") == 1
    assert "bottleneck 1, head, encoder 0: the network is untrained" in text


def test_a_network_without_verdicts_has_one_reason(
    structure, statistics, costs, receptive_fields, assessment
):
    assessment.state, assessment.conclusion = "untrained", "Nothing can be concluded."
    text = analysis_table(structure, statistics, costs, receptive_fields, assessment, ())
    assert "Nothing can be concluded." in text
    assert "its spread is the initial one" not in text


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (0, "0"),
        (999, "999"),
        (1000, "1.000 k"),
        (999_999, "1.000 M"),
        (21_977_665, "21.98 M"),
        (329_656_303_616, "329.7 G"),
        (float("nan"), "-"),
        (None, "-"),
    ],
)
def test_numbers_read_easily(number, expected):
    assert human(number) == expected


def test_small_shares_do_not_vanish():
    assert share(0.001) == "<1 %"


def test_words_align_to_the_left_and_figures_to_the_right():
    lines = aligned_columns({"a": ["x", "yy"], "b": ["1", "10"]}).splitlines()
    assert lines == ["a    b", "------", "x    1", "yy  10"]


def test_long_figures_do_not_push_the_verdict_out(
    structure, statistics, costs, receptive_fields, assessment
):
    wide = dict.fromkeys(receptive_fields, (1234, 5678, 91011))
    for verdict, grade in zip(assessment.verdicts, ("weights", "history", "data"), strict=True):
        verdict.evidence = grade
    text = analysis_table(structure, statistics, costs, wide, assessment, ())
    assert max(len(line) for line in text.splitlines()) <= 100
    assert "undecided" in text


def test_a_checkpoint_is_listed_tensor_by_tensor(statistics):
    lines = checkpoint_table("weights.pt", statistics).splitlines()
    assert lines[0] == "weights.pt: 420 numbers in 6 tensors"
    assert lines[4].split()[:2] == ["head.weight", "1"]
    assert "packed: skipped: quantized" in lines


def test_names_cannot_steer_the_terminal(statistics):
    statistics.parameters[0].parameter = "evil\x1b[2J\u202ename"
    statistics.parameters[1].warning = "\x9b31m"
    text = checkpoint_table("weights.pt", statistics)
    assert "evil\\x1b[2J\\u202ename" in text
    assert all(char.isprintable() or char == "\n" for char in text)


@pytest.mark.parametrize("broken", ["a\nb  1 x 1", "a\rb", "a\u2028b", "a\x85b", "a\u2029b"])
def test_names_make_no_rows_of_their_own(statistics, broken):
    rows = len(checkpoint_table("weights.pt", statistics).splitlines())
    statistics.parameters[0].parameter = broken
    statistics.parameters[1].parameter, statistics.parameters[1].warning = broken, "odd"
    text = checkpoint_table("file\n.pt", statistics)
    assert len(text.splitlines()) == rows + 1  # the note
    assert text.startswith("file\\n.pt: ")


def test_zeros_have_no_sign():
    statistics = measure_model(nn.ParameterList([torch.zeros(3), -torch.zeros(3)]))
    assert "-0" not in checkpoint_table("zeros.pt", statistics).replace("---", "")
