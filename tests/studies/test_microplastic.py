import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mpseg_models.__main__ import main
from studies import microplastic
from studies.runner import Store, pending
from studies.sand import plan, study
from studies.sand.scenes import make_scene

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


def photographs(folder, count=6):
    """What a phone and a painting program leave: JPEGs held sideways, soft red masks."""
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    for index in range(count):
        scene = make_scene(72, 96, [5, index], TINY.scene)
        exif = Image.Exif()
        exif[0x0112] = 6  # shown after a quarter turn to the right
        stored = Image.fromarray(scene.image).transpose(Image.Transpose.ROTATE_90)
        stored.save(folder / "images" / f"IMG_{index}.JPG", exif=exif)
        red = np.zeros((72, 96, 3), np.uint8)
        red[..., 0] = 255 * (scene.mask > 0)
        big = Image.fromarray(red).resize((288, 216), Image.Resampling.BICUBIC)
        big.resize((96, 72), Image.Resampling.BOX).save(folder / "masks" / f"IMG_{index}_mask.png")
    (folder / "images" / ".DS_Store").write_bytes(b"")
    return folder


@pytest.mark.slow
def test_own_photographs_give_tables_and_overlays_with_one_command(tiny, capsys):
    data = photographs(tiny / "beach")
    assert run(tiny, "--data", str(data)) == 0
    said = capsys.readouterr().out
    assert "6 photographs; plastic is colour #ff0000" in said
    assert "6 of 6: 'IMG_5.JPG'" in said
    out = tiny / "out"
    page = (out / "index.md").read_text()
    assert "The photographs are those of `beach`" in page
    assert "    6 photographs; plastic is colour #ff0000" in page
    assert "--data DIR" in page
    with Image.open(out / "segmented" / "IMG_0-overlay.png") as overlay:
        assert overlay.size == (96, 72)
    assert len((out / "segmented" / "photographs.csv").read_text().splitlines()) == 7
    weights = out / "half_unet.safetensors"
    found = ["--weights", str(weights), "--out", str(tiny / "found")]
    assert main(["predict", str(data / "images"), *found]) == 0
    assert "in 6 of 6 photographs" in capsys.readouterr().out
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    assert main(["predict", str(data / "images"), *found]) == 2
    assert "is not the file that 'half_unet.safetensors.sha256'" in capsys.readouterr().err


def test_a_dry_run_of_own_photographs_writes_the_contact_sheet_alone(tiny, capsys):
    data = photographs(tiny / "beach")
    assert run(tiny, "--data", str(data), "--dry-run") == 0
    assert "Look at" in capsys.readouterr().out
    assert [path.name for path in (tiny / "out").iterdir()] == ["contact-sheet.png"]
    assert run(tiny, "--data", str(data), "--mask-value", "1", "--mask-above", "0") == 2
    assert "--mask-above, not several" in capsys.readouterr().err


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_too_few_photographs_are_refused_at_once(tiny, capsys, more):
    assert run(tiny, "--data", str(photographs(tiny / "beach", 4)), *more) == 2
    said = capsys.readouterr()
    assert said.err.count("4 photographs cannot be split into 5 folds") == 1
    assert said.err.endswith("give at least 5\n")
    assert said.out == ""
    assert not (tiny / "out").exists()
    assert not (tiny / "runs").exists()


def test_maps_of_probabilities_are_read_from_a_fraction_on(tiny, capsys):
    data = photographs(tiny / "beach")
    for index in range(6):
        (data / "masks" / f"IMG_{index}_mask.png").unlink()
        share = np.random.default_rng(index).random((72, 96), dtype=np.float32)
        Image.fromarray(share).save(data / "masks" / f"IMG_{index}.tif")
    assert run(tiny, "--data", str(data), "--dry-run") == 2
    assert "--mask-above 0.5 if it is a map of probabilities" in capsys.readouterr().err
    assert run(tiny, "--data", str(data), "--dry-run", "--mask-above", "0.75") == 0
    share = re.search(r"every value above 0.75: ([\d.]+)%", capsys.readouterr().out)
    assert float(share[1]) == pytest.approx(25, abs=1)
    assert run(tiny, "--data", str(data), "--dry-run", "--mask-above", "nan") == 2
    assert "--mask-above nan is no value of a pixel" in capsys.readouterr().err


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
    monkeypatch.setattr(study, "estimate", interrupt)
    assert run(tiny, "--dry-run") == 130
    assert capsys.readouterr().err == "\ninterrupted\n"


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
