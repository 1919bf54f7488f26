import re

import pytest

from studies import microplastic
from studies.sand.records import Preset

TINY = Preset(
    name="tiny",
    photos=6,
    photo_size=80,
    tile=32,
    overlap=8,
    most_tiles=24,
    cases=1,
    shrink={"unet": 16, "multiresunet": 8},
    epochs=1,
    tuning=1,
)


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    monkeypatch.setitem(microplastic.PRESETS, "quick", TINY)
    monkeypatch.setattr(microplastic, "ROOT", tmp_path)
    return tmp_path


@pytest.mark.slow
def test_the_whole_study_writes_a_page_whose_files_exist(tiny, capsys):
    out = tiny / "out"
    assert microplastic.main(["--out", str(out), "--quiet"]) == 0
    page = (out / "index.md").read_text()
    links = re.findall(r"\]\(([^)]+)\)", page)
    assert len(links) > 15
    assert [link for link in links if not (out / link).is_file()] == []
    assert "synthetic" in page
    assert "nan" not in page
    assert "Done" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "/nowhere"], "there is no folder '/nowhere'"),
        (["--out", __file__], "is a file; give a folder"),
    ],
)
def test_bad_input_ends_with_one_line_and_code_2(tiny, capsys, arguments, message):
    assert microplastic.main([*arguments, "--quiet"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1


def test_an_interruption_says_how_to_go_on(tiny, capsys, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(microplastic, "prepare_tiles", interrupt)
    assert microplastic.main(["--out", str(tiny / "out")]) == 130
    assert "goes on after the last finished epoch" in capsys.readouterr().err


def test_runs_with_other_settings_do_not_share_a_folder(tiny):
    folders = {
        microplastic.runs_folder(TINY, 0, None),
        microplastic.runs_folder(TINY, 1, None),
        microplastic.runs_folder(TINY, 0, tiny),
    }
    assert len(folders) == 3
    (tiny / "images").mkdir()
    (tiny / "images" / "new.png").touch()
    assert microplastic.runs_folder(TINY, 0, tiny) not in folders
