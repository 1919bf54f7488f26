import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import runner_jobs
from runner_jobs import Number

from studies import pareto, regained, runner, shrunk
from studies.evidence_protocol import training
from studies.runner import Job, JobError, Store, code_digest, estimate, pending, run
from studies.sand import fitting
from weightscope.errors import InputError


def squares(*values, **changes):
    return [
        Job(
            f"square-{v}", runner_jobs.square, Number(v), files=("square.txt",), flops=10, **changes
        )
        for v in values
    ]


def study():
    parts = squares(1.0, 2.0, 3.0)
    return [Job("total", runner_jobs.total, Number(0.0), needs=tuple(parts)), *parts]


def quiet(text):
    pass


def test_jobs_follow_what_they_need_and_leave_result_and_log(tmp_path):
    lines = []
    done = run(study(), Store(tmp_path), workers=2, show=lines.append)
    assert done["total"].result == {
        "total": 14.0,
        "from": ["square-1.0", "square-2.0", "square-3.0"],
    }
    assert done["square-3.0"].result == {"square": 9.0}
    log = (done["total"].folder / "log.txt").read_text()
    assert "started on" in log
    assert "adding up" in log
    assert lines[-1] == "total: done"


def test_what_is_finished_is_found_again(tmp_path):
    first = run(study(), Store(tmp_path), show=quiet)
    lines = []
    again = run(study(), Store(tmp_path), show=lines.append)
    assert lines == []
    assert {n: f.result for n, f in again.items()} == {n: f.result for n, f in first.items()}


def test_two_runs_give_identical_results(tmp_path):
    runs = [run(study(), Store(tmp_path / name), workers=2, show=quiet) for name in "ab"]
    assert {n: f.result for n, f in runs[0].items()} == {n: f.result for n, f in runs[1].items()}
    assert [f.folder.name for f in runs[0].values()] == [f.folder.name for f in runs[1].values()]


def test_address_depends_on_settings_work_needs_and_code(tmp_path, monkeypatch):
    job = squares(2.0, code=("studies.sand.losses",))[0]
    others = [
        replace(job, settings=Number(3.0)),
        replace(job, work=runner_jobs.total),
        replace(job, needs=tuple(squares(5.0))),
        replace(job, code=("studies.sand.metrics",)),
        replace(job, code=("studies.sand",)),
        replace(job, version=1),
        replace(job, version=2),
    ]
    assert len({other.address for other in (job, *others)}) == 8
    assert replace(job, flops=99, bytes=1, files=()).address == job.address
    assert replace(job, version=1, code=()).address == replace(job, version=1).address


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="the text of a tree differs by Python")
@pytest.mark.parametrize(
    ("module", "version", "digest"),
    [
        (fitting, 1, "7b377a8f2e06"),
        (training, 1, "ce20ba000fd1"),
        (regained, 2, "6ae464ffc748"),
        (shrunk, 3, "b2376d1ea771"),
        (pareto, 2, "c06863da9452"),
    ],
)
def test_the_version_of_what_takes_hours_follows_its_code(module, version, digest):
    """Raise VERSION if what they compute changed, else renew the digest."""
    assert (module.VERSION, code_digest(module.CODE)[:12]) == (version, digest)


def test_comments_and_docstrings_are_not_code(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)

    def digest(name, text):
        (tmp_path / f"{name}.py").write_text(text)
        return runner._code(tmp_path / f"{name}.py")

    plain = digest("plain_code", "def f(x):\n    return x + 1\n")
    assert (
        digest("talk", '"""Why."""\ndef f(x):  # how\n    """What."""\n    return (x + 1)\n')
        == plain
    )
    assert digest("other", "def f(x):\n    return x + 2\n") != plain


@pytest.mark.slow
def test_a_committed_result_counts_until_its_files_are_needed(tmp_path):
    jobs = study()
    run(jobs, Store(tmp_path / "runs"), show=quiet)
    committed = tmp_path / "committed"
    for job in jobs:  # only the results travel
        (committed / job.address).mkdir(parents=True)
        text = (tmp_path / "runs" / job.address / "result.json").read_text()
        (committed / job.address / "result.json").write_text(text)
    fresh = Store(tmp_path / "fresh", (committed,))
    assert pending(jobs, fresh) == ()
    assert run(jobs, fresh, show=quiet)["total"].result["total"] == 14.0
    doubled = Job("doubled", runner_jobs.total, Number(1.0), needs=tuple(jobs[1:3]))
    assert [job.name for job in pending([*jobs, doubled], fresh)] == [
        "square-1.0",
        "square-2.0",
        "doubled",
    ]
    assert run([doubled], fresh, show=quiet)["doubled"].result["total"] == 5.0


def test_a_job_that_raises_ends_the_study_and_names_its_log(tmp_path):
    jobs = [Job("bad", runner_jobs.fail, Number(1.0)), *squares(2.0)]
    with pytest.raises(JobError, match=r"bad failed \(ZeroDivisionError: nothing.*log\.txt"):
        run(jobs, Store(tmp_path), show=quiet)
    assert "Traceback" in (tmp_path / jobs[0].address / "log.txt").read_text()


def test_a_worker_that_dies_is_replaced_and_the_job_goes_on(tmp_path):
    lines = []
    jobs = [Job("fragile", runner_jobs.die_once, Number(1.0)), *squares(2.0)]
    done = run(jobs, Store(tmp_path), workers=1, show=lines.append)
    assert done["fragile"].result == {"left behind": "done so far: 1"}
    assert done["square-2.0"].result == {"square": 4.0}
    assert any("starting it again" in line for line in lines)


@pytest.mark.slow
def test_a_job_that_kills_every_worker_is_given_up(tmp_path):
    job = Job("deadly", runner_jobs.die_always, Number(1.0))
    with pytest.raises(JobError, match="deadly: its worker died 3 times"):
        run([job], Store(tmp_path), show=quiet)
    assert (tmp_path / job.address / "attempts").read_text() == "xxx"


def test_an_estimate_counts_only_what_is_left(tmp_path):
    jobs = study()
    store = Store(tmp_path)
    before = estimate(jobs, store, workers=2, flops_per_second=5e-3)
    assert (before.jobs, before.found, before.flops) == (4, 0, 30)
    assert "about 0.8 hours" in str(before)  # 30 FLOP at 0.005 a second, two at a time
    run(jobs[1:3], store, show=quiet)
    after = estimate(jobs, store)
    assert (after.jobs, after.found, after.flops) == (2, 2, 10)
    assert "hours" not in str(after)


def test_a_damaged_result_is_named(tmp_path):
    (job,) = squares(2.0)
    run([job], Store(tmp_path), show=quiet)
    (tmp_path / job.address / "result.json").write_text("{")
    with pytest.raises(JobError, match=r"result\.json' is damaged"):
        run([job], Store(tmp_path), show=quiet)


def test_two_jobs_of_one_name_are_refused(tmp_path):
    with pytest.raises(InputError, match="same name"):
        run([*squares(2.0), *squares(2.0)], Store(tmp_path), show=quiet)
    with pytest.raises(InputError, match=r"no module 'studies\.nothing'"):
        pending(squares(1.0, code=("studies.nothing",)), Store(tmp_path))


def test_results_are_plain_json(tmp_path):
    (job,) = squares(2.0)
    run([job], Store(tmp_path), show=quiet)
    record = json.loads((Path(tmp_path) / job.address / "result.json").read_text())
    assert record["settings"] == {"value": 2.0, "sleep": 0.0}
    assert record["result"] == {"square": 4.0}
