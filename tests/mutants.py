"""Mutants of central formulas, each of which some test must kill.

    python tests/mutants.py            # all of them
    python tests/mutants.py distances  # those in files or tests whose path contains the word

A mutant is a copy of the project in which one piece of code is replaced. It dies when the tests
named beside it fail; it survives when they pass, and then a test is missing. Add a mutant with
every formula that a verdict rests on. The last line says how many died.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COPIED = ("weightscope", "mpseg_models", "tests", "studies", "docs", "pyproject.toml")
_LONGEST = 600  # seconds; a mutant that hangs is dead too
_FAILED = 1  # pytest's exit code when tests ran and some failed


@dataclass(frozen=True)
class Mutant:
    """One replacement.

    Attributes:
        file: Path from the project's root.
        old: Code that occurs exactly once in it.
        new: What stands there instead.
        tests: Arguments for pytest: files, nodes, ``-k`` words.
    """

    file: str
    old: str
    new: str
    tests: tuple[str, ...]


def mutant(room: str, file: str, old: str, new: str, test: str, words: str = "") -> Mutant:
    """A mutant of a room, whose tests have a folder of its name."""
    tests = (f"tests/{room}/test_{test}.py", *(("-k", words) if words else ()))
    return Mutant(f"weightscope/{room}/{file}.py", old, new, tests)


summaries, statistics = partial(mutant, "summaries"), partial(mutant, "statistics")
utilization, probing = partial(mutant, "utilization"), partial(mutant, "probing")


def threshold(file: str, old: str, new: str, words: str) -> Mutant:
    """A mutant beside a threshold of the room ``utilization``."""
    tests = ("tests/test_thresholds.py", "-k", words)
    return Mutant(f"weightscope/utilization/{file}.py", old, new, tests)


def movement(old: str, new: str, words: str = "") -> Mutant:
    """A mutant of how far weights went."""
    tests = ("tests/test_movement.py", *(("-k", words) if words else ()))
    return Mutant("weightscope/movement.py", old, new, tests)


MUTANTS = [
    statistics("distances", "root + 0.12 + 0.11 / root", "root", "nulls", "critical"),
    statistics("distances", "unit = pi / 2.0", "unit = pi", "nulls", "beyond_the_edge"),
    statistics("distances", "SPREAD_SURELY * error\n", "100.0 * error\n", "nulls", "mean_square"),
    statistics("distances", "doubt = max(", "doubt = min(", "choosing", "how_well"),
    movement("square / (n - 1)", "square / n", "degree_of_freedom"),
    movement("w - shrinkage * w0", "w - w0", "degree_of_freedom"),
    movement("for d in usable]) / walk", "for d in usable])"),
    statistics("choosing", "misfit = spread + SHAPE_COST * gap + DECAY_COST * decay",
               "misfit = spread + SHAPE_COST * gap", "choosing"),
    statistics("choosing", "shows = (decay == 0.0) |", "shows = (decay >= 0.0) |", "choosing",
               "nothing_shows"),
    statistics("choosing", "shows = (decay == 0.0) | (", "shows = (decay == 0.0) & (", "choosing"),
    statistics("choosing", "votes[kind, label] -= kernel", "votes[kind, label] += kernel",
               "nulls", "nobodys"),
    statistics("choosing", "unproved[x] <= misfits[best] + ALIKE", "False", "choosing"),
    statistics("fresh", "3.0**0.5 * edges", "edges", "fresh", "other_uniform"),
    statistics("constants", "drawn = _may_have_drawn_norms(parameters)", "drawn = True",
               "constants", "as_far_as_a_draw"),
    statistics("constants", "squares = n * (summary.std**2 +", "squares = n * (0.0 *",
               "constants", "shift or drawn"),
    Mutant("weightscope/thresholds.py", "NEVER_DRAWN = 1e-7", "NEVER_DRAWN = 0.05",
           ("tests/statistics/test_constants.py", "-k", "drawn")),
    summaries("moments", "3.0 * d * m2", "2.0 * d * m2", "summary", "any_scale"),
    summaries("moments", "6.0 * square * m2", "4.0 * square * m2", "summary", "any_scale"),
    summaries("moments", "means = (bases - base) + offsets", "means = offsets", "summary",
               "far_from_zero"),
    summaries("order", "np.minimum(lower + 1, count - 1)", "lower", "summary", "any_small"),
    summaries("order", "np.nextafter(limits, np.inf)", "limits", "summary", "any_small"),
    summaries("order", "near < borders", "near > borders", "summary", "any_small"),
    summaries("filters", "part = part * scales[:, None]", "scales = np.ones_like(scales)",
               "summary", "float64_norms"),
    summaries("kernels", "if m2 * _FAR < n", "if m2 * 0.0 < -n", "summary", "far_from_zero"),
    summaries("kernels", "if key == _MINUS_INFINITY:", "if key == 1 - 0x7F800000:", "counting",
               "lowest_cell"),
    statistics("rules", "sqrt(12.0) * (p - 0.5)", "sqrt(3.0) * (p - 0.5)", "nulls",
               "distributions_they_name"),
    statistics("spectrum", "(values / largest).square()", "(values / largest).abs()", "spectrum",
               "equals_svd"),
    statistics("choosing", "SPLIT * apart < whole[1]", "apart < 0.0", "choosing", "part"),
    Mutant("weightscope/statistics/choosing.py", "> LEFT * max(size, 1)", "> 0.0",
           ("tests/test_thresholds.py", "-k", "share_of_weights")),
    summaries("order", "(cells[~looked] << 16)", "((cells[~looked] + 1) << 16)", "summary",
              "any_scale or given_thresholds"),
    summaries("counting", "& (self.counts > zeros)", "& (self.counts < zeros)", "summary",
              "any_scale"),
    probing("change", "np.maximum(own, 0.0) + (w - c) ** 2", "np.maximum(own, 0.0)", "response",
            "another_mean"),
    utilization("ranking", "not first.resolved < RESOLVED", "not first.resolved < 0.0", "ranking",
                "hardly_vary"),
    probing("resolution", "min(FREQUENT * positions.max(), rarer.max())", "0.0", "response",
            "not_told_apart"),
    probing("resolution", "elif reading.bare > BARE:", "elif False:", "response", "from_what_they"),
    probing("resolution", "shares[asked].min()", "shares[asked].max()", "response",
            "not_told_apart"),
    utilization("answers", "as_large_as([ordered, *images], self.computed[batch])", "[]", "trivial",
                "without_weights"),
    probing("change", "np.sqrt(moved / chance)", "moved / chance", "response", "by_hand"),
    probing("change", "np.where(var_x > 0, cov_w / var_x, 0.0)", "0.0 * cov_w", "response",
            "restores"),
    probing("nearest", "found.amax(1, keepdim=True) - ALIKE", "found.amin(1, keepdim=True)",
            "nearest"),
    probing("nearest", "(n * wx - w * x) ** 2", "wx**2", "nearest"),
    probing("nearest", "[m // 2 for m in more], ", "", "nearest", "is_found"),
    utilization("targets", "return any(map(_are_numbers, held))", "return False", "trivial",
                "otherwise or points"),
    utilization("lines", "<= 3e-7 * abs(", "< 0.0 * abs(", "trivial", "is_the_goal"),
    utilization("segmentation", "for quality in found] or nothing", "for quality in ()] or nothing",
                "data", "mean_over_labels"),
    utilization("segmentation", "by_class(quality, weights) or alone", "by_class(quality, weights)",
                "data", "of_ranks"),
    Mutant("weightscope/graph/running.py", "if not self._last:", "if True:",
           ("tests/utilization/test_trivial.py", "-k", "adds_to")),
    utilization("channels", "and self._is_faint(number)", "and False", "data", "small_unit"),
    utilization("channels", "and number not in self._unread", "", "data", "must_be_read"),
    utilization("channels", "> LOSS_THAT_COUNTS * self._squares[number][0]", ">= 0.0", "data",
                "must_be_read"),
    utilization("ablation", "versions - _read_of_first_batch(structure, batches, metric)",
                "versions", "several_outputs", "callable_reads"),
    utilization("values", "            seed_all()\n            return", "            return",
                "values", "that_draws"),
    utilization("constants", "5.0 < far / near < 20.0", "5.0 < far / near", "trivial"),
    utilization("trivial", "self.what = what", "self.what = CONSTANT", "trivial"),
    probing("change", "(probabilities(t, reading) for t", "(t for t", "response",
            "by_hand"),
    probing("resolution", "out=np.zeros_like(first), where=both > 0) - mean * mean",
            "out=np.zeros_like(first), where=both > 0)", "response", "decisions_vary"),
    probing("change", "<= CONSTANT**2 * self.level.mean()", "< 0", "response", "hardly_vary"),
    probing("response", "resolved=resolved if deciding or not resolved else math.nan",
            "resolved=resolved", "response", "hardly_vary"),
    probing("change", "_sums(w.sigmoid(), c.sigmoid(), nothing)", "_sums(w, c, nothing)",
            "response", "must_agree"),
    probing("response", "and not any(kind.shares for kind in kinds)", "and False", "output_layouts",
            "alike"),
    probing("response", "and not any(kind.shares for kind in kinds)", "", "output_layouts",
            "no_other_numbers"),
    probing("change", "shares.each(varied & (often >= RAREST_DECISION))", "shares.each(varied)",
            "response", "hardly_ever"),
    probing("change", "varied = (before + after > 0) & (before + after < 2 * total)",
            "varied = before >= 0", "response", "images_without"),
    probing("change", "(t - reading.middle.to(w)[:, None] for", "(t for", "response", "far_from"),
    probing("change", "still = moved <= ", "still = moved < 0 * ", "response", "rounding"),
    probing("response", "max(cut.value, cut.change)", "0.0", "response", "brightness"),
    probing("stimuli", "contrast = LEAST**even", "contrast = even**0", "stimuli", "exposures"),
    utilization("scores", "if cut.exposed > RESPONSE_BORDER", "if cut.exposed > 9.0", "scores",
                "exposure"),
    probing("response", "values = np.fmin.reduce(rows)", "values = np.fmax.reduce(rows)",
            "response", "least or kind"),
    probing("response", "np.fmin.reduce([_beyond_chance(k) for k in decided])", "0.0", "response",
            "decisions_alone"),
    utilization("data", "least = max(removing", "least = min(removing", "data"),
    threshold("data", "if high < 0.5:",
              "if low < 0.5:", "negligible"),
    threshold("intervals", "widening(SURE, images)",
              "widening(CONFIDENCE, images)", "confidence"),
    threshold("ablated", "self.images >= MINIMUM_IMAGES",
              "self.images > MINIMUM_IMAGES", "minimum_images"),
    threshold("intervals", "widening(0.5 + CONFIDENCE / 2.0",
              "widening(CONFIDENCE", "confidence"),
    threshold("ablated", "self.skill_low > 0.0 and self.skill > self.floor",
              "self.skill_low > 0.0", "minimum_skill"),
    utilization("scores", "max(measured, 0.0) ** 2, unused**2", "max(measured, 0.0), unused",
                "scores", "compares or grows or judges"),
    threshold("scores", "[s for s in known if s.error < PRECISE * s.initial**2] or known",
              "known", "typical"),
    utilization("scores", "cut = removing[-1]", "cut = removing[0]", "scores", "judges"),
    Mutant("weightscope/traces.py", "observed * each / (kurtosis + 2.0)", "observed * each / 2.0",
           ("tests/utilization/test_scores.py", "-k", "dispersion")),
    utilization("scores", "utilization(math.sqrt(dispersion), 1.0)", "1.0", "scores",
                "by_chance"),
    utilization("scores", "spread.movement(sign * MARGIN, sign)", "spread.movement(sign * MARGIN)",
                "scores", "doubt"),
    threshold("scores", "self.movement() > UNTOUCHED * self.initial",
              "self.movement() > 0.0", "untouched"),
    utilization("scores", "(math.sqrt(share) if salient", "(share if salient", "scores",
                "mattered"),
    utilization("metrics", "f1 / (2.0 - f1)", "f1", "segmentation"),
    utilization("metrics", "2 * hits / _positive(decided + true, true)",
                "2 * hits / _positive(decided, true)", "segmentation"),
    Mutant("weightscope/thresholds.py", "LEVEL_RATIO = 1.5", "LEVEL_RATIO = 2.5",
           ("tests/test_thresholds.py", "-k", "ratio_of_two")),
    Mutant("weightscope/thresholds.py", "LEVEL_RATIO = 1.5", "LEVEL_RATIO = 1.01",
           ("tests/test_thresholds.py", "-k", "ratio_of_two")),
    mutant("truncation", "plan", 'f"{name} {tensor.dtype}', 'f"{tensor.dtype}', "recipes",
           "digest"),
    mutant("truncation", "start", "around - at @ slope", "around", "recovery", "ridge_regression"),
    Mutant("weightscope/cost/rules.py", "query.shape[-1] + value.shape[-1]",
           "2 * query.shape[-1]", ("tests/test_cost.py", "-k", "another_width")),
    Mutant("weightscope/cost/rules.py", "given if transposed else out", "out",
           ("tests/test_cost.py", "-k", "layer_by_hand")),
    Mutant("weightscope/receptive_field/spans.py", "i * stride - padding + j", "i * stride + j",
           ("tests/test_receptive_field.py", "-k", "places_that")),
    Mutant("weightscope/receptive_field/spans.py", "(i + half) * self.ratio - half",
           "i * self.ratio", ("tests/test_receptive_field.py", "-k", "places_that")),
]  # fmt: skip


def fate(mutant: Mutant, folder: Path) -> str:
    """What becomes of a mutant: killed, SURVIVED, or why it is none."""
    target = folder / mutant.file
    code = (ROOT / mutant.file).read_text()
    if code.count(mutant.old) != 1:
        return f"NO MUTANT: {mutant.old!r} occurs {code.count(mutant.old)} times"
    target.write_text(code.replace(mutant.old, mutant.new))
    try:
        ended = test(mutant.tests, folder)
    finally:
        shutil.copy2(ROOT / mutant.file, target)
    return {0: "SURVIVED", _FAILED: "killed"}.get(ended, f"NO MUTANT: pytest ended with {ended}")


def test(tests: tuple[str, ...], folder: Path) -> int:
    """The exit code of pytest in a copy of the project."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-x",
        "-q",
        "-p",
        "no:cacheprovider",
        "-m",
        "",
        *tests,
    ]
    try:
        return subprocess.run(
            command, cwd=folder, capture_output=True, check=False, timeout=_LONGEST
        ).returncode
    except subprocess.TimeoutExpired:
        return _FAILED


def main(words: list[str]) -> int:
    """Try the mutants; the number of those that are not dead."""
    chosen = [m for m in MUTANTS if not words or any(w in f"{m.file} {m.tests}" for w in words)]
    alive = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in COPIED:
            source = ROOT / part
            # with the compiled code that numba keeps, which follows the file's time
            copy = shutil.copytree if source.is_dir() else shutil.copy2
            copy(source, folder / part)
        for tests in sorted({m.tests for m in chosen}):
            if test(tests, folder):
                print(f"NOT JUDGED: {' '.join(tests)} fails without a mutant", flush=True)
                return len(chosen)
        for mutant in chosen:
            found = fate(mutant, folder)
            alive += found != "killed"
            print(f"{found:9s} {mutant.file}: {mutant.old!r} -> {mutant.new!r}", flush=True)
    print(f"{len(chosen) - alive} of {len(chosen)} mutants died")
    return alive


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]) > 0)
