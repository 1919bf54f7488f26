"""The study from its settings to its page."""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

import weightscope
from mpseg_models import Card, list_models, save_weights
from studies.runner import Finished, Job, Place, Store, estimate, finished, pending, run
from studies.sand import figures, page, tables
from studies.sand.costs import network_cost
from studies.sand.fitting import FOLDS, Fit, build, choose_tiles
from studies.sand.masks import Named
from studies.sand.photos import Survey, contact_sheet, digest_files, survey
from studies.sand.plan import (
    EXTRAS,
    NETWORKS,
    PRESETS,
    CutJobs,
    Preset,
    cut_jobs,
    network_config,
    network_costs,
    photo_job,
    tile_job,
    training_jobs,
)
from studies.sand.records import (
    GRADES,
    Derivation,
    Trained,
    chosen_cut,
    examine,
    levels_supported,
    load,
    result,
)
from studies.sand.tiles import Photo, draw_photos, open_tiles
from weightscope.analysis import Analysis
from weightscope.errors import InputError
from weightscope.files import write_csv, write_text, written_atomically
from weightscope.frames import proposals_frame

ROOT = Path(__file__).resolve().parent.parent.parent
COMMITTED = ROOT / "studies" / "results" / "microplastic"
"""Results of the preset ``cpu`` that travel with the code; weights do not."""

WHOLE = ("unet", "multiresunet")
"""The networks that the paper cut."""

SEGMENTED = "segmented"
"""Folder beside the page for masks, overlays and particles of the user's photographs."""

ANALYSIS_VERSION = 1
"""Of `analyse`; what weightscope itself says follows its own version."""

DEMONSTRATION = """\
This is a demonstration of a few minutes: small networks, little data, one fold. Its page shows how
the study works; what the study found so far is in docs/studies/microplastic/index.md."""


@dataclass(frozen=True)
class Analysing:
    """Settings of the job that analyses a trained network.

    Attributes:
        whole: How it was trained.
        weightscope: Version that analyses it. Not a digest of the code: a change in a message would
            ask for trainings whose weights were not kept.
    """

    whole: Fit
    weightscope: str


@dataclass(frozen=True)
class Setup:
    """What was asked for.

    Attributes:
        preset: How large the study is.
        folds: How many of its folds are run.
        seed: Seed of everything random.
        photographs: Name of the user's folder of photographs; None for synthetic ones.
        found: What was understood of them.
        out: Where the page goes.
        store: Where finished jobs lie.
    """

    preset: Preset
    folds: int
    seed: int
    photographs: str | None
    found: Survey | None
    out: Path
    store: Store


def study(options: argparse.Namespace) -> Path | None:
    """Run the study, or say what it would cost, and write its page; return the page's path."""
    setup, tiles = set_up(options)
    trainings = {
        key: job
        for key, job in training_jobs(setup.preset, setup.seed, tiles).items()
        if key[1] < setup.folds
    }
    workers = options.workers or free_processors()
    if setup.preset.name == "quick":
        print(DEMONSTRATION)
    jobs = [tiles, *trainings.values()]
    speed = None if options.write_only else measured_speed(setup.preset)
    say(f"Trainings: {estimate(jobs, setup.store, workers, speed)}")
    if options.dry_run:
        for job in pending(jobs, setup.store):
            print(f"  {job.name:32s} {job.flops / 1e12:10.3f} TFLOP {job.bytes / 1e6:8.1f} MB")
        print(f"  and in every fold, for {' and '.join(WHOLE)}: an analysis, three short trainings")
        return None

    def do(jobs: Sequence[Job]) -> dict[str, Finished]:
        if options.write_only:
            return finished(jobs, setup.store)
        return run(jobs, setup.store, workers=workers, cluster=options.cluster)

    done = do(jobs)
    say("Which levels do any work?")
    wholes = [job for (key, _), job in trainings.items() if key in WHOLE and job.name in done]
    analyses = {job.name: analysis_job(job, tiles) for job in wholes}
    analysed = do([tiles, *analyses.values()])
    say("The networks without the rest")
    cuts = {
        job.name: cut_jobs(
            job, analysed[analyses[job.name].name].result["keep_levels"], setup.preset, tiles
        )
        for job in wholes
        if analyses[job.name].name in analysed
    }
    done |= do([tiles, *(job for made in cuts.values() for job, _ in made.labelled)])
    say("Tables, figures, reports")
    written = write(setup, tiles, trainings, analysed, cuts, done)
    say(f"Done: {written}")
    return written


def set_up(options: argparse.Namespace) -> tuple[Setup, Job]:
    """Understand the command line; return also the job that makes the tiles."""
    preset = PRESETS[options.preset]
    own = options.data is not None
    found = None
    out = options.out or (
        ROOT / "docs" / "studies" / "microplastic"
        if preset.name == "cpu" and not own
        else ROOT / "build" / f"microplastic-{preset.name}"
    )
    if own:
        found = survey(
            options.data,
            preset.tile,
            Named(options.mask_value, options.mask_color, options.mask_above),
        )
        if len(found.pairs) < FOLDS:
            raise InputError(
                f"--data: {len(found.pairs)} photographs cannot be split into {FOLDS} folds with "
                f"training, validation and test parts; give at least {FOLDS}"
            )
        out.mkdir(parents=True, exist_ok=True)
        sheet = contact_sheet(found, out / "contact-sheet.png")
        print(f"{found}\nLook at {sheet} before you trust it.")
        tiles = photo_job(preset, found, digest_files(found))
    else:
        tiles = tile_job(preset, options.seed)
    setup = Setup(
        preset=preset,
        folds=min(options.folds or preset.folds, preset.folds),
        seed=options.seed,
        photographs=options.data.resolve().name if own else None,
        found=found,
        out=out,
        store=Store(options.runs, (COMMITTED,)),
    )
    return setup, tiles


def free_processors() -> int:
    """How many processors nothing else is using, at least one."""
    count = os.cpu_count() or 1
    busy = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    return max(1, min(count, round(count - busy)))


def measured_speed(preset: Preset, seconds: float = 1.0) -> float:
    """Floating-point operations per second of one thread, in training steps of Half U-net."""
    half = next(network for network in NETWORKS if network.key == "half_unet")
    model = build(network_config(half, preset, 0)).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    side, batch = min(preset.tile, 128), 2  # large enough for the speed of large ones
    images = torch.rand(batch, 3, side, side).contiguous(memory_format=torch.channels_last)
    macs, _ = network_costs(network_config(half, preset, 0), side)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        steps, begun = -1, time.perf_counter()  # the first is to warm up
        while steps < 1 or time.perf_counter() - begun < seconds:
            if steps == 0:
                begun = time.perf_counter()
            with torch.autocast("cpu", torch.bfloat16, enabled=preset.bf16):
                loss = model(images).square().mean()
            loss.backward()
            steps += 1
        return 6 * macs * batch * steps / (time.perf_counter() - begun)
    finally:
        torch.set_num_threads(before)


# --- analysing and cutting --------------------------------------------------------------------


def analysis_job(training: Job, tiles: Job) -> Job:
    """The job that analyses a trained network."""
    return Job(
        name=f"{training.name}-analysis",
        work=analyse,
        settings=Analysing(training.settings, weightscope.__version__),
        needs=(tiles, training),
        version=ANALYSIS_VERSION,
    )


def analyse(settings: Analysing, place: Place) -> dict[str, Any]:
    """Say which levels of a trained network can go."""
    tiles = open_tiles(place.needs["tiles"])
    (name,) = (name for name in place.needs if name != "tiles")
    whole = Finished(place.needs[name], place.result(name), 0.0)
    trained = load(settings.whole, settings.whole.network, whole, tiles)
    analysis = examine(trained, tiles)
    return {
        "keep_levels": chosen_cut(analysis).keep_levels,
        "supported": {grade: levels_supported(analysis, grade) for grade in GRADES},
        "joint": levels_supported(analysis, None),
        "conclusion": analysis.conclusion,
        "verdicts": {v.stage: v.verdict for v in analysis.assessment.verdicts},
    }


# --- writing ----------------------------------------------------------------------------------


def write(
    setup: Setup,
    tile_job: Job,
    trainings: Mapping[tuple[str, int], Job],
    analysed: Mapping[str, Finished],
    cuts: Mapping[str, CutJobs],
    done: Mapping[str, Finished],
) -> Path:
    """Write tables, figures, reports and the page from what has finished."""
    labels = {network.key: network.label for network in (*NETWORKS, *EXTRAS)}
    scratch = {
        job.name: result(job, labels[key], done[job.name])
        for (key, _), job in trainings.items()
        if job.name in done
    }
    cut_results = {
        job.name: result(job, f"{labels[job.settings.whole.network]}, {how}", done[job.name])
        for made in cuts.values()
        for job, how in made.labelled
        if job.name in done
    }
    order = {label: place for place, label in enumerate(tables.NAMES.values())}
    results = sorted(
        (*scratch.values(), *cut_results.values()),
        key=lambda r: (order.get(r.label, len(order)), r.fold),
    )
    tiles = open_tiles(done["tiles"].folder)
    shown: dict[str, tuple[Trained, Analysis]] = {}
    for name in list_models():
        whole = [
            job
            for (key, _), job in trainings.items()
            if key == name and setup.store.find(job, whole=True) is not None
        ]
        if whole:  # sec. 4.5 shows the case with the best recall-weighted F1
            job = max(whole, key=lambda job: scratch[job.name].metrics.rw_f1)
            trained = load(job.settings, labels[name], done[job.name], tiles)
            shown[name] = trained, examine(trained, tiles)
            say(f"{labels[name]}: {shown[name][1].conclusion}")
    derived = []
    for name in WHOLE:
        if name not in shown:
            continue
        trained, analysis = shown[name]
        made = cuts.get(f"{name}-{trained.settings.fold}")
        if made and all(job.name in cut_results for job, _ in made.labelled):
            derived.append(
                Derivation(
                    trained=trained,
                    analysis=analysis,
                    supported={grade: levels_supported(analysis, grade) for grade in GRADES},
                    proposal=chosen_cut(analysis),
                    tuned=cut_results[made.tuned.name],
                    redrawn=cut_results[made.redrawn.name],
                    thinned=cut_results[made.thinned.name],
                )
            )
    story = page.Story(
        preset=setup.preset,
        seed=setup.seed,
        photographs=setup.photographs,
        understood="" if setup.found is None else str(setup.found),
        tiles=tiles,
        costs=[network_cost(name) for name in list_models()],
        results=results,
        analysed={name: f.result for name, f in analysed.items() if name != "tiles"},
        shown=shown,
        derived=derived,
        jobs=len(trainings),
        missing=tuple(job.name for job in trainings.values() if job.name not in done),
    )
    setup.out.mkdir(parents=True, exist_ok=True)
    write_tables(setup.out, story)
    draw_figures(setup.out, story)
    for name, (trained, analysis) in shown.items():
        report = setup.out / page.report_path(name)
        report.parent.mkdir(exist_ok=True)
        analysis.to_html(report)
        if setup.photographs is not None:
            save_own(setup, trained)
    if setup.found is not None:
        best = max((trained for trained, _ in shown.values()), key=lambda t: t.metrics.best_f1)
        say(f"Your photographs, segmented by {best.label}")
        segment_own(setup.found, best, setup.out / SEGMENTED)
    return page.write_page(setup.out / "index.md", story)


def segment_own(found: Survey, best: Trained, out: Path) -> None:
    """Write masks, overlays and tables of the user's photographs."""
    from mpseg_models.predict import predict_files

    photos = [photo for photo, _ in found.pairs]
    try:
        outcome = predict_files(best.model, photos, best.threshold, out, show=print)  # type: ignore[arg-type]
    except ValueError as error:
        raise InputError(str(error)) from error
    for text in outcome.failed.values():
        print(f"left out: {text}")


def save_own(setup: Setup, trained: Trained) -> Path:
    """Write a network trained on the user's photographs, for ``mpseg_models predict``."""
    path = setup.out / f"{trained.settings.network}.safetensors"
    card = Card(
        network=trained.settings.network,
        config={**asdict(trained.settings.config), "seed": None},
        threshold=trained.threshold,
        data=f"photographs of the folder {setup.photographs}",
        settings=json.loads(json.dumps(asdict(trained.settings.training))),
        figures=asdict(trained.metrics),
        folds={str(trained.settings.fold): asdict(trained.metrics)},
        check={},
        command=f"python studies/microplastic.py --preset {setup.preset.name} --data DIR",
        code="",
        licence="yours",
        limits="its figures hold for photographs like those it was tested on",
    )
    with written_atomically(path) as temporary:
        digest = save_weights(temporary, card, trained.model.state_dict())
    write_text(f"{path}.sha256", f"{digest}  {path.name}\n")
    return path


def write_tables(out: Path, story: page.Story) -> None:
    """Write every table as CSV beside the page."""
    write_csv(tables.cost_table(story.costs), out / "table4.csv")
    write_csv(tables.results_frame(story.results), out / "results.csv")
    for name, (_, analysis) in story.shown.items():
        write_csv(analysis.stages, out / f"stages-{name}.csv")
        write_csv(analysis.layers, out / f"layers-{name}.csv")
        write_csv(
            proposals_frame(analysis.proposals, analysis.costs), out / f"proposals-{name}.csv"
        )


def draw_figures(out: Path, story: page.Story) -> None:
    """Draw every figure of the page."""
    figures.save(figures.scene_figure(_photograph(story)), out / "sand.png")
    blocks = ("encoder", "bottleneck", "decoder")
    roles = {"unet": blocks[:2], "multiresunet": blocks[:2]}
    for name, (_, analysis) in story.shown.items():
        if name != "half_unet":  # the paper shows no histograms of it
            for kind, draw in (
                ("stacked", figures.stacked_figure),
                ("overlaid", figures.overlaid_figure),
            ):
                figure = draw(analysis, roles.get(name, blocks))
                figures.save(figure, out / f"{kind}-{name}.png")
        if name in WHOLE:
            figures.save(figures.verdict_figure(analysis), out / f"verdict-{name}.png")
    runs = {trained.label: trained.epochs for trained, _ in story.shown.values()}
    figures.save(figures.learning_figure(runs), out / "learning.png")
    figures.save(figures.tradeoff_figure(tables.results_frame(story.results)), out / "tradeoff.png")
    split = choose_tiles(next(iter(story.shown.values()))[0].settings, story.tiles)
    panel = figures.predictions_figure(
        {t.label: (t.model, t.threshold) for t, _ in story.shown.values()},
        story.tiles,
        figures.fullest(story.tiles, split.test, 4),
    )
    figures.save(panel, out / "predictions.png")


def _photograph(story: page.Story) -> Photo:
    """A synthetic photograph, or the user's tile with the most plastic."""
    if story.photographs is None:
        size = max(story.preset.photo_size, 400)
        return next(draw_photos(1, size, story.seed, story.preset.scene))
    index = int(story.tiles.masks.sum((1, 2)).argmax())
    return story.tiles.images[index], story.tiles.masks[index]


def say(text: str) -> None:
    """Announce the next step."""
    print(f"\n{text}", flush=True)
