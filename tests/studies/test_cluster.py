"""The runner on a real Dask cluster: a scheduler and workers in processes of their own.

Run by its own command: ``pytest -m cluster``.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import runner_jobs
from runner_jobs import Number

from studies.runner import Job, Store, run

pytestmark = [
    pytest.mark.cluster,
    # sockets of processes that were killed on purpose
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
ROOT = Path(__file__).parents[2]


class Cluster:
    """A scheduler and workers, each a process that can be killed."""

    def __init__(self, folder):
        self.folder = folder
        self.file = folder / "scheduler.json"
        path = os.pathsep.join([str(ROOT), str(Path(__file__).parent)])
        self.environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        self.port = None
        self.scheduler = None
        self.workers = []

    def start_scheduler(self):
        self.file.unlink(missing_ok=True)
        port = "0" if self.port is None else str(self.port)
        command = ["distributed.cli.dask_scheduler", "--port", port, "--no-dashboard"]
        self.scheduler = self._start(*command, "--scheduler-file", str(self.file))
        while not self.file.exists() or not self.file.read_text().endswith("}"):
            time.sleep(0.1)
        import json

        self.port = int(json.loads(self.file.read_text())["address"].rpartition(":")[2])

    def start_worker(self):
        options = ["--nthreads", "1", "--no-dashboard", "--death-timeout", "120"]
        worker = self._start(
            "distributed.cli.dask_worker",
            f"tcp://127.0.0.1:{self.port}",
            "--no-nanny",
            *options,
            "--local-directory",
            str(self.folder),
        )
        self.workers.append(worker)

    def stop(self):
        for process in (*self.workers, self.scheduler):
            process.kill()
            process.wait()

    def _start(self, module, *options):
        return subprocess.Popen(
            [sys.executable, "-m", module, *options],
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=(self.folder / "log").open("a"),
        )


@pytest.fixture
def cluster(tmp_path):
    made = Cluster(tmp_path)
    made.start_scheduler()
    made.start_worker()
    made.start_worker()
    yield made
    made.stop()


def squares(sleep=0.0):
    return [
        Job(f"square-{v}", runner_jobs.square, Number(float(v), sleep), files=("square.txt",))
        for v in range(4)
    ]


def study(sleep=0.0):
    parts = squares(sleep)
    return [*parts, Job("total", runner_jobs.total, Number(0.0), needs=tuple(parts))]


def attempts(store, jobs):
    """Which processes worked on each job."""
    return {job.name: (store.folder / job.address / "attempts").read_text().split() for job in jobs}


def test_jobs_run_on_the_workers_and_two_runs_are_identical(cluster, tmp_path):
    results = []
    for name in ("first", "second"):
        lines = []
        done = run(study(), Store(tmp_path / name), cluster=str(cluster.file), show=lines.append)
        results.append({job: f.result for job, f in done.items()})
        assert any(line.startswith("total: ") and "adding up" in line for line in lines) or (
            "adding up" in (done["total"].folder / "log.txt").read_text()
        )
    assert results[0] == results[1]
    assert results[0]["total"]["total"] == 0 + 1 + 4 + 9
    here = run(study(), Store(tmp_path / "here"), show=lambda text: None)
    assert {job: f.result for job, f in here.items()} == results[0]
    pids = {int(p) for ps in attempts(Store(tmp_path / "first"), squares()).values() for p in ps}
    assert os.getpid() not in pids
    assert pids <= {worker.pid for worker in cluster.workers}


def test_a_worker_killed_in_the_middle_of_a_job_loses_nothing(cluster, tmp_path):
    store, killed = Store(tmp_path / "runs"), []

    def kill_the_first(line):
        """Kill the worker as soon as its job's log is seen from here."""
        if "started on" in line and not killed:
            killed.append(int(line.rpartition("process ")[2]))
            os.kill(killed[0], signal.SIGKILL)
            cluster.start_worker()

    jobs = study(sleep=6.0)  # long enough to be caught in the act
    done = run(jobs, store, cluster=str(cluster.file), show=kill_the_first)
    assert killed
    assert done["total"].result["total"] == 14.0
    finished_by = {int(p) for ps in attempts(store, jobs[:4]).values() for p in ps}
    assert killed[0] not in finished_by
    starts = sum(
        (store.folder / job.address / "log.txt").read_text().count("started on") for job in jobs[:4]
    )
    assert starts == 5  # one job twice, the others once


def test_a_scheduler_that_restarts_goes_on(cluster, tmp_path):
    store, restarted = Store(tmp_path / "runs"), []

    def restart(line):
        if line.endswith("done") and not restarted:
            restarted.append(line)
            cluster.stop()
            cluster.start_scheduler()
            cluster.start_worker()

    jobs = study(sleep=1.0)
    done = run(jobs, store, cluster=str(cluster.file), show=restart)
    assert restarted
    assert done["total"].result["total"] == 14.0
    first = restarted[0].partition(":")[0]
    log = (store.folder / next(j.address for j in jobs if j.name == first) / "log.txt").read_text()
    assert log.count("started on") == 1  # what was finished was not done again
