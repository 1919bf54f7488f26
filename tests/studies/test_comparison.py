import numpy as np
import pytest

from studies.sand.claims import BEARS_OUT, CANNOT_TELL, CONTRADICTS, better, failures
from studies.sand.comparison import compare, comparison_table, f1, holm
from studies.sand.metrics import Metrics
from studies.sand.plan import NARROW, QUARTER
from studies.sand.tables import NAMES, Result

METRICS = Metrics(*[0.5] * 9)


def result(label, fold, outcomes):
    numbered = {100 * fold + index: tuple(row) for index, row in enumerate(outcomes)}
    return Result(label, fold, METRICS, 1, 1, 1, "cpu", 1.0, numbered)


def photographs(rng, hit_rate, count=40):
    """Photographs of 100 px plastic, some of it found, with about as many false alarms."""
    hits = rng.binomial(100, hit_rate, count)
    alarms = rng.binomial(100, 0.3, count)
    return np.stack([hits, alarms, 100 - hits], 1)


def test_f1_pools_pixels():
    assert f1([(3, 1, 0), (1, 0, 2)]) == pytest.approx(2 * 4 / (2 * 4 + 1 + 2))
    assert np.isnan(f1([(0, 0, 0)]))


def test_a_clear_difference_is_told_and_its_interval_holds_it():
    rng = np.random.default_rng(0)
    good = [result("good", fold, photographs(rng, 0.8)) for fold in range(5)]
    bad = [result("bad", fold, photographs(rng, 0.6)) for fold in range(5)]
    found = compare(good, bad)
    assert found.folds == 5
    assert found.photos == 200
    assert found.low < found.difference < found.high
    assert found.low > 0
    assert found.p_folds < 0.05
    assert found.verdict == "good is better"
    assert compare(bad, good).verdict == "good is better"


def test_no_difference_cannot_be_told_apart():
    rng = np.random.default_rng(1)
    a, b = ([result(n, f, photographs(rng, 0.7)) for f in range(5)] for n in "ab")
    assert compare(a, b).verdict == "cannot be told apart"


def test_p_values_are_corrected_for_their_number():
    # the worked example of Holm's step-down: 3 x 0.01, 2 x 0.03, then no smaller than that
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.9, 0.8]) == [1, 1]
    assert holm([0.2]) == [0.2]


def test_no_failure_in_ten_trainings_does_not_say_that_there_is_none():
    groups = {
        NAMES[name]: [result(NAMES[name], fold, [(1, 1, 1)]) for fold in range(5)]
        for name in ("unet", "half_unet")
    }
    claim = failures(groups)
    assert claim.measured.startswith("0 of 10 trainings ended below")
    assert "at most 26% do (95 %)" in claim.measured  # 1 - 0.05 ** (1 / 10)
    assert claim.verdict.startswith(CANNOT_TELL)
    assert failures({}).verdict == CANNOT_TELL


def test_photographs_that_differ_do_not_count_as_folds_that_agree():
    # better in one fold by much, worse in the others: the folds disagree
    rng = np.random.default_rng(2)
    rates = (0.95, 0.55, 0.55, 0.95, 0.55)
    a = [result("a", f, photographs(rng, rate)) for f, rate in enumerate(rates)]
    b = [result("b", f, photographs(rng, 0.6)) for f in range(5)]
    found = compare(a, b)
    assert found.low > 0
    assert found.p_folds > 0.05
    assert found.verdict == "cannot be told apart"


def test_one_fold_says_so_and_folds_of_one_network_alone_do_not_count():
    rng = np.random.default_rng(3)
    a = [result("a", f, photographs(rng, 0.9)) for f in (0, 1)]
    b = [result("b", f, photographs(rng, 0.5)) for f in (1, 2)]
    found = compare(a, b)
    assert (found.folds, found.photos, found.p_folds) == (1, 40, None)
    assert found.verdict == "a is better in these folds"
    row = comparison_table([found]).iloc[0]
    assert row["networks"] == "a - b"
    assert row["p over folds"] == ""
    with pytest.raises(ValueError, match="folds that both"):
        compare(a, [result("c", 4, photographs(rng, 0.5))])


def test_a_smaller_network_that_is_wider_here_decides_nothing():
    rng = np.random.default_rng(0)
    half, whole, quarter = (NAMES[n] for n in ("half_multiresunet", "multiresunet", QUARTER))
    rates = {half: 0.9, whole: 0.7, quarter: 0.8, NARROW.label: 0.6}
    groups = {
        label: [result(label, fold, photographs(rng, rate)) for fold in range(5)]
        for label, rate in rates.items()
    }
    widths = {"half_multiresunet": 32, QUARTER: 32, "multiresunet": 16, NARROW.key: 16}
    claim = better(groups, "half_multiresunet", "multiresunet", widths)
    assert claim.verdict.startswith(CANNOT_TELL)
    assert "32 channels in the first stage against 16" in claim.measured
    claim = better(groups, QUARTER, "multiresunet", widths)
    assert claim.verdict == CONTRADICTS  # of equal width, and worse
    assert "both with 16 channels" in claim.measured
    as_in_the_paper = widths | {"multiresunet": 52}
    claim = better(groups, "half_multiresunet", "multiresunet", as_in_the_paper)
    assert claim.verdict == BEARS_OUT
