"""Run a study: a list of jobs, on the processors of this machine or on a Dask cluster.

A job is a function of frozen settings that writes files into a folder of its own. The folder's
name holds a digest of the settings, of the code that the job names (or its version) and of the jobs
that it needs, so a job that finished once is found again, also by another run or another machine,
and one whose settings or code changed is not mistaken for it.

    jobs = [Job("tiles", draw, DrawSettings(...)), Job("train", fit, FitSettings(...), needs=...)]
    results = run(jobs, Store(Path("runs/study")))

A job that is interrupted, or whose worker dies, is started again in the same folder, where it may
go on from what it left behind.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import importlib.util
import json
import os
import platform
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from weightscope.errors import InputError, MissingExtraError, WeightscopeError
from weightscope.files import written_atomically

ATTEMPTS = 3
"""How often a job is started before the study gives up on it. A worker that dies once is bad luck;
one that dies three times in the same job is the job's doing, such as too little memory."""


@dataclass(frozen=True)
class Job:
    """A piece of a study.

    Attributes:
        name: Unique in its study; names the job's folder.
        work: A function of a module, called with the settings and a `Place`. What it returns goes
            into ``result.json``; larger things are files that it writes into the place's folder.
        settings: A frozen dataclass of plain values.
        needs: Jobs whose files it reads.
        files: Files that it promises to leave, beside ``result.json``.
        code: Modules whose text decides the result: a change in them is another job. Comments,
            docstrings and layout do not count.
        version: Stands for the code where results cost hours: tidying it must not throw them away.
            Whoever changes what the job computes raises it; a test should hold `code_digest`.
        flops: Floating-point operations that it takes, roughly, for the estimate.
        bytes: What it leaves on disk, roughly.
    """

    name: str
    work: Callable[[Any, Place], Mapping[str, Any]]
    settings: Any
    needs: tuple[Job, ...] = ()
    files: tuple[str, ...] = ()
    code: tuple[str, ...] = ()
    version: int | None = None
    flops: float = 0.0
    bytes: float = 0.0

    @property
    def address(self) -> str:
        """Name of its folder."""
        return f"{self.name}-{_digest(self)}"


@dataclass(frozen=True)
class Place:
    """Where a job works.

    Attributes:
        folder: Its own; may hold what an interrupted run of the same job left behind.
        needs: Folders of the jobs that it needs, by their names.
    """

    folder: Path
    needs: Mapping[str, Path]

    def tell(self, text: str) -> None:
        """Add a line to the job's log, which the client shows."""
        with (self.folder / "log.txt").open("a") as log:
            log.write(f"{time.strftime('%H:%M:%S')} {text}\n")

    def result(self, name: str) -> dict[str, Any]:
        """What a needed job returned."""
        return read_result(self.needs[name])["result"]  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Store:
    """Folders that hold finished jobs.

    Attributes:
        folder: Where jobs work. On a cluster every worker must see it under this path.
        known: Further folders in which finished jobs are looked for, such as committed results.
    """

    folder: Path
    known: tuple[Path, ...] = ()

    def find(self, job: Job, whole: bool = False) -> Path | None:
        """Return the folder of a finished job, with all its files if it must be whole."""
        for root in (self.folder, *self.known):
            folder = root / job.address
            if (folder / "result.json").is_file() and not (
                whole and any(not (folder / name).exists() for name in job.files)
            ):
                return folder
        return None


@dataclass(frozen=True)
class Finished:
    """A job that is done.

    Attributes:
        folder: Where its files lie.
        result: What it returned.
        seconds: How long its last attempt took.
    """

    folder: Path
    result: Mapping[str, Any]
    seconds: float


@dataclass(frozen=True)
class Estimate:
    """What a run will cost.

    Attributes:
        found: Jobs finished before.
        jobs: Jobs to run.
        flops: Of those.
        bytes: Disk that they take.
        flops_per_second: Of one worker; None where it was not measured.
        workers: How many jobs run at a time.
    """

    found: int
    jobs: int
    flops: float
    bytes: float
    flops_per_second: float | None
    workers: int

    def __str__(self) -> str:
        text = (
            f"{self.jobs} jobs to run, {self.found} found finished; {self.flops / 1e12:,.1f} TFLOP,"
            f" {self.bytes / 1e6:,.0f} MB on disk"
        )
        if self.flops_per_second is None or not self.jobs:
            return text
        hours = self.flops / self.flops_per_second / self.workers / 3600
        return (
            f"{text}; about {hours:.1f} hours at the {self.flops_per_second / 1e9:.0f} GFLOP/s "
            f"measured here, {self.workers} at a time"
        )


class JobError(WeightscopeError):
    """A job failed; its log says why."""


# --- planning ---------------------------------------------------------------------------------


def pending(jobs: Iterable[Job], store: Store) -> tuple[Job, ...]:
    """Return the jobs that must run, in an order in which each follows what it needs.

    A finished job runs again only if another needs a file of it that is gone, such as weights that
    were not committed.
    """
    order: dict[str, Job] = {}

    def visit(job: Job, whole: bool) -> None:
        if job.address in order or store.find(job, whole) is not None:
            return
        for need in job.needs:
            visit(need, whole=True)
        order[job.address] = job

    for job in jobs:
        visit(job, whole=False)
    return tuple(order.values())


def estimate(
    jobs: Sequence[Job], store: Store, workers: int = 1, flops_per_second: float | None = None
) -> Estimate:
    """Say what `run` would cost, without running anything."""
    todo = pending(jobs, store)
    addresses = {job.address for job in todo}
    return Estimate(
        found=sum(job.address not in addresses for job in jobs),
        jobs=len(todo),
        flops=sum(job.flops for job in todo),
        bytes=sum(job.bytes for job in todo),
        flops_per_second=flops_per_second,
        workers=workers,
    )


def _digest(job: Job) -> str:
    parts = [
        f"{job.work.__module__}.{job.work.__qualname__}",
        json.dumps(asdict(job.settings), sort_keys=True, default=str),
        *(_digests(job.code) if job.version is None else [f"version {job.version}"]),
        *(need.address for need in job.needs),
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def code_digest(modules: Iterable[str]) -> str:
    """Digest of what modules or packages do: their text without comments and docstrings."""
    return hashlib.sha256("".join(_digests(modules)).encode()).hexdigest()


def _digests(modules: Iterable[str]) -> list[str]:
    return sorted(map(_module_digest, modules))


@cache
def _module_digest(module: str) -> str:
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise InputError(f"there is no module {module!r}; Job.code names modules of Python")
    root = Path(spec.origin)
    files = sorted(root.parent.rglob("*.py")) if root.name == "__init__.py" else [root]
    text = "\n".join(_code(file) for file in files)
    return hashlib.sha256(f"{module}\n{text}".encode()).hexdigest()


def _code(file: Path) -> str:
    tree = ast.parse(file.read_text())
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [part for part in body if not _is_text(part)]  # type: ignore[attr-defined]
    return ast.unparse(tree)


def _is_text(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


# --- running ----------------------------------------------------------------------------------


def run(
    jobs: Sequence[Job],
    store: Store,
    *,
    workers: int = 1,
    cluster: str | None = None,
    show: Callable[[str], None] = print,
) -> dict[str, Finished]:
    """Run what is not finished; return every job's result by its name.

    Args:
        jobs: The study, the most valuable first: with few workers they end in this order.
        store: Where finished jobs lie.
        workers: Processes on this machine, one thread each; not used with a cluster.
        cluster: Address of a Dask scheduler, or the path of its scheduler file.
        show: Called with every line for the user.

    Raises:
        JobError: A job failed, or its worker died `ATTEMPTS` times. Other jobs that were running
            are finished first.
        MissingExtraError: joblib or distributed is not installed.
    """
    names = [job.name for job in jobs]
    if len(set(names)) != len(names):
        raise InputError("two jobs of a study have the same name")
    todo = list(pending(jobs, store))
    if todo:
        store.folder.mkdir(parents=True, exist_ok=True)
        with _engine(cluster, workers) as engine:
            _drive(todo, store, engine, show)
    done = finished(jobs, store)
    lost = [job.name for job in jobs if job.name not in done]
    if lost:
        raise JobError(f"{', '.join(lost)} left no result in {str(store.folder)!r}")
    return done


def finished(jobs: Iterable[Job], store: Store) -> dict[str, Finished]:
    """Return the results of those jobs that are done, by name, without running any."""
    done = {}
    for job in jobs:
        folder = store.find(job, whole=True) or store.find(job)
        if folder is not None:
            record = read_result(folder)
            done[job.name] = Finished(folder, record["result"], record["seconds"])
    return done


@dataclass(frozen=True)
class _Engine:
    """Something that runs functions elsewhere.

    Attributes:
        executor: Gives an executor; a new one where the last broke.
        slots: How many jobs to hand over at a time.
    """

    executor: Callable[[], Executor]
    slots: Callable[[], int]


@contextlib.contextmanager
def _engine(cluster: str | None, workers: int) -> Iterator[_Engine]:
    if cluster is None:
        loky = _import("joblib.externals.loky", "study")

        def executor() -> Executor:  # jobs side by side are faster than one on all processors
            threads = {"OMP_NUM_THREADS": "1"}
            return loky.get_reusable_executor(max_workers=workers, timeout=60, env=threads)  # type: ignore[no-any-return]

        try:
            yield _Engine(executor, lambda: workers)
        except BaseException:
            executor().shutdown(wait=True, kill_workers=True)  # type: ignore[call-arg]
            raise
        return
    distributed = _import("distributed", "cluster")
    address = {"scheduler_file": cluster} if Path(cluster).is_file() else {"address": cluster}
    with distributed.Client(**address, set_as_default=False) as client:
        yield _Engine(
            lambda: client.get_executor(pure=False),
            lambda: max(1, sum(client.nthreads().values())),
        )


def _drive(todo: list[Job], store: Store, engine: _Engine, show: Callable[[str], None]) -> None:
    """Keep every slot busy until all jobs are done, starting those again whose worker died."""
    attempts = dict.fromkeys((job.address for job in todo), 0)
    running: dict[Future[None], Job] = {}
    shown: dict[str, str] = {}
    failure: BaseException | None = None
    while todo or running:
        ready = [job for job in todo if all(store.find(n, whole=True) for n in job.needs)]
        if failure is None:
            for job in ready[: max(0, engine.slots() - len(running))]:
                todo.remove(job)
                attempts[job.address] += 1
                running[engine.executor().submit(perform, job, store)] = job
                show(f"{job.name}: started")
        if not running:
            break
        ended, _ = wait(running, timeout=2, return_when=FIRST_COMPLETED)
        _show_progress(running.values(), store, shown, show)
        for future in ended:
            job = running.pop(future)
            error = future.exception() if not future.cancelled() else RuntimeError("cancelled")
            if error is None:
                show(f"{job.name}: done")
            elif isinstance(error, WeightscopeError):
                failure = failure or error
            elif attempts[job.address] >= ATTEMPTS:
                failure = failure or JobError(
                    f"{job.name}: its worker died {ATTEMPTS} times ({type(error).__name__}); it "
                    f"may need more memory; see {str(store.folder / job.address / 'log.txt')!r}"
                )
            else:
                show(f"{job.name}: {type(error).__name__}: starting it again")
                todo.insert(0, job)
    if failure is not None:
        raise failure


def perform(job: Job, store: Store) -> None:
    """Do one job in its folder; what `run` calls on a worker.

    Raises:
        JobError: The job's function raised; the traceback is in its log.
    """
    if store.find(job, whole=True) is not None:
        return
    folder = store.folder / job.address
    folder.mkdir(parents=True, exist_ok=True)
    needed = {need.name: store.find(need, whole=True) for need in job.needs}
    place = Place(folder, {name: found for name, found in needed.items() if found is not None})
    clock = time.perf_counter()
    place.tell(f"started on {platform.node()}, process {os.getpid()}")
    try:
        result = dict(job.work(job.settings, place))
    except Exception as error:
        place.tell(traceback.format_exc())
        if isinstance(error, WeightscopeError):
            raise
        raise JobError(
            f"{job.name} failed ({type(error).__name__}: {error}); see {str(folder / 'log.txt')!r}"
        ) from None
    record = {
        "job": job.name,
        "settings": asdict(job.settings),
        "needs": [need.address for need in job.needs],
        "seconds": time.perf_counter() - clock,
        "result": result,
    }
    with written_atomically(folder / "result.json") as temporary:
        temporary.write_text(json.dumps(record, indent=1, default=str) + "\n")
    place.tell("done")


def _show_progress(
    jobs: Iterable[Job], store: Store, shown: dict[str, str], show: Callable[[str], None]
) -> None:
    """Show the last line of every running job's log where it is new."""
    for job in jobs:
        log = store.folder / job.address / "log.txt"
        line = log.read_text().rstrip().rpartition("\n")[2] if log.is_file() else ""
        if line and shown.get(job.address) != line:
            shown[job.address] = line
            show(f"{job.name}: {line}")


def read_result(folder: Path) -> dict[str, Any]:
    """Read what a finished job left: its name, settings, needs, seconds and result.

    Raises:
        JobError: The file is damaged.
    """
    try:
        record: dict[str, Any] = json.loads((folder / "result.json").read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise JobError(
            f"{str(folder / 'result.json')!r} is damaged ({error}); delete it"
        ) from error
    return record


def _import(module: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(
            f"{module.partition('.')[0]} is not installed; "
            f"pip install 'weightscope[{extra}]' brings it"
        ) from error
