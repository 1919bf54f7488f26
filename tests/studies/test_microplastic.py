import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from studies import microplastic
from studies.runner import Store, pending
from studies.sand import plan, study

ROOT = Path(microplastic.__file__).parents[1]
TINY = replace(
    plan.PRESETS["quick"],
    photos=6,
    photo_size=80,
    tile=32,
    overlap=8,
    most_tiles=24,
    widths={**dict.fromkeys(plan.PRESETS["quick"].widths, 6), "unet": 4, "half_unet": 4},
    epochs=1,
    tuning=1,
)


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    monkeypatch.setitem(plan.PRESETS, "quick", TINY)
    monkeypatch.setattr(study, "measured_speed", lambda preset: 1e9)
    return tmp_path


def run(tiny, *arguments):
    places = ("--out", str(tiny / "out"), "--runs", str(tiny / "runs"), "--workers", "1")
    return microplastic.main([*places, *arguments])


@pytest.mark.slow
def test_the_whole_study_writes_a_page_whose_files_exist(tiny, capsys):
    assert run(tiny) == 0
    page = (tiny / "out" / "index.md").read_text()
    links = re.findall(r"\]\(([^)]+)\)", page)
    assert len(links) > 15
    assert [link for link in links if not (tiny / "out" / link).is_file()] == []
    assert "**A demonstration**" in page
    assert "synthetic" in page
    assert "nan" not in page
    assert "U-net, cut - U-net, random channels" in page
    first = capsys.readouterr().out
    assert first.startswith("This is a demonstration")
    assert run(tiny, "--write-only") == 0
    assert "started" not in capsys.readouterr().out
    assert (tiny / "out" / "index.md").read_text() == page


def test_a_dry_run_lists_the_jobs_and_what_they_cost_and_runs_none(tiny, capsys):
    assert run(tiny, "--dry-run") == 0
    said = capsys.readouterr().out
    assert re.search(r"7 jobs to run, 0 found finished; [\d.]+ TFLOP, \d+ MB on disk", said)
    assert "hours at the 1 GFLOP/s measured here, 1 at a time" in said
    assert "quarter_multiresunet-0 " in said
    assert not (tiny / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--out", __file__], "is a file; give a folder")],
)
def test_bad_input_ends_with_one_line_and_code_2(tiny, capsys, arguments, message):
    assert run(tiny, *arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1


def test_an_interruption_says_how_to_go_on(tiny, capsys, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(study, "run", interrupt)
    assert run(tiny) == 130
    assert "goes on after the last finished epoch" in capsys.readouterr().err


def test_the_script_runs_by_its_path_alone_and_says_what_is_missing(tmp_path):
    command = [sys.executable, str(ROOT / "studies" / "microplastic.py"), "--dry-run"]
    # no PYTHONPATH, another folder: the script finds its own checkout
    done = subprocess.run(
        [*command, "--runs", "nowhere"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "jobs to run" in done.stdout
    (tmp_path / "matplotlib.py").write_text("raise ImportError('no', name='matplotlib')")
    lacking = subprocess.run(
        command,
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert lacking.returncode == 2
    assert lacking.stderr.startswith("error: matplotlib is not installed; pip install")


def test_the_order_of_jobs_is_fold_by_fold_and_the_small_networks_first():
    preset = plan.PRESETS["cpu"]
    tiles = plan.tile_job(preset, 0)
    jobs = plan.training_jobs(preset, 0, tiles)
    assert [fold for _, fold in jobs] == sorted(fold for _, fold in jobs)
    assert [key for key, fold in jobs if fold == 0] == [
        "quarter_multiresunet",
        "half_multiresunet",
        "half_unet",
        "unet",
        "multiresunet",
        "quarter_multiresunet-eq25",
        "quarter_multiresunet-narrow",
        "quarter_multiresunet-wide",
    ]
    assert len({job.address for job in jobs.values()}) == len(jobs) == 40


def test_other_seeds_and_presets_are_other_jobs(tmp_path):
    addresses = set()
    for preset, seed in ((TINY, 0), (TINY, 1), (plan.PRESETS["quick"], 0)):
        tiles = plan.tile_job(preset, seed)
        jobs = plan.training_jobs(preset, seed, tiles)
        addresses |= {job.address for job in pending(list(jobs.values()), Store(tmp_path))}
    assert len(addresses) == 2 * 7 + 8 + 1 - 1


def test_paper_preset_follows_section_4():
    preset = plan.PRESETS["paper"]
    tiles = plan.tile_job(preset, 0)
    training = plan.training_jobs(preset, 0, tiles)["unet", 0].settings.training
    assert (training.epochs, training.learning_rate, training.decay) == (150, 1e-3, 0.96)
    assert training.class_weight is None
    assert not training.bf16
    assert 795 <= training.decay_steps <= 805  # the paper's 800
    assert preset.training_tiles == pytest.approx(0.72 * 6176, rel=0.01)
