"""Which levels does a network need to find microplastic in sand? The paper's study, run again.

    python studies/microplastic.py [--preset quick|cpu|paper] [--out DIR] [--seed N] [--data DIR]

Draw (or read) photographs of sand, cut them into tiles, train U-net and MultiResUNet, let
weightscope say which levels do any work, build the networks without the rest, and compare them
with the reduced networks of the paper, trained from scratch. The result is a page with tables,
figures and one HTML report per network. An interrupted run goes on after its last epoch.

Lee & Jhang, "Neural Network Analysis for Microplastic Segmentation", Sensors 2021, 21, 7030.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm

from mpseg_models import create_model, get_config, list_models
from mpseg_models.blocks import initialize
from studies.sand import figures, page, tables
from studies.sand.costs import NetworkCost, network_cost
from studies.sand.losses import weighted_cross_entropy
from studies.sand.metrics import evaluate
from studies.sand.records import (
    GRADES,
    Bench,
    Derivation,
    Network,
    Preset,
    Trained,
    levels_supported,
)
from studies.sand.tiles import (
    Photo,
    Tiles,
    draw_photos,
    find_photos,
    photo_shapes,
    read_photos,
    split_photos,
    store_tiles,
    thin,
)
from studies.sand.training import TrainingSettings, train
from weightscope.analysis import Analysis, analyze
from weightscope.errors import WeightscopeError
from weightscope.frames import proposals_frame, write_csv

PRESETS = {
    preset.name: preset
    for preset in (
        Preset(
            name="quick",
            photos=60,
            photo_size=168,
            tile=64,
            overlap=12,
            most_tiles=400,
            cases=1,
            shrink={"unet": 8, "multiresunet": 4},
            epochs=20,
            tuning=6,
        ),
        Preset(
            name="cpu",
            photos=80,
            photo_size=256,
            tile=96,
            overlap=16,
            most_tiles=600,
            cases=3,
            shrink={"unet": 6, "multiresunet": 4},
            epochs=30,
            tuning=9,
        ),
        Preset(
            name="paper",
            photos=386,
            photo_size=1440,
            tile=512,
            overlap=100,
            most_tiles=6176,
            cases=5,
            shrink={"unet": 1, "multiresunet": 1},
            epochs=150,
            tuning=45,
        ),
    )
}
FOLDS = 5
WIDE = Network("quarter_wide", "Quarter MultiResUNet, 4x the channels")
NETWORKS = (*(Network(name, tables.NAMES[name]) for name in list_models()), WIDE)
ROOT = Path(__file__).resolve().parent.parent
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")

Case = Mapping[str, Trained]  # one fold: every network by its key


def study(preset: Preset, out: Path, seed: int, data: Path | None, progress: bool) -> Path:
    """Run the study and write its page; return the page's path."""
    clock = time.process_time()
    out.mkdir(parents=True, exist_ok=True)
    runs = runs_folder(preset, seed, data)

    say("Sand: photographs and tiles")
    tiles = prepare_tiles(preset, seed, data, runs / "tiles", progress)
    splits = tuple(
        thin(split_photos(tiles.photos, fold, FOLDS, seed), preset.most_tiles, seed)
        for fold in range(preset.cases)
    )
    bench = Bench(preset, seed, data, tiles, splits, runs, progress)

    say("Table 4: what the paper's five networks cost at full width")
    costs = [network_cost(name) for name in list_models()]

    say("Training the networks of the paper from scratch")
    cases = [
        {
            network.key: fit(network, build(network, preset, seed + fold), fold, bench)
            for network in NETWORKS
        }
        for fold in range(preset.cases)
    ]

    say("Which levels do any work?")
    examined: dict[str, tuple[Trained, Analysis]] = {}
    for name in list_models():
        trained = max((case[name] for case in cases), key=lambda t: t.metrics.rw_f1)  # sec. 4.5
        analysis = examine(trained, bench)
        examined[name] = trained, analysis
        print(f"  {trained.network.label}: {analysis.conclusion}")

    say("The networks without the rest")
    derived = [derive(*examined[name], bench) for name in ("unet", "multiresunet")]

    say("Tables, figures, reports")
    everything = [trained for case in cases for trained in case.values()]
    everything += [trained for d in derived for trained in (d.tuned, d.redrawn)]
    results = [trained.result(preset.tile) for trained in everything]
    write_tables(out, costs, results, {name: found for name, (_, found) in examined.items()})
    draw_figures(out, bench, cases, examined, derived, results)
    for name, (_, analysis) in examined.items():
        analysis.to_html(out / f"report-{name}.html")
    story = page.Story(
        bench=bench,
        costs=costs,
        results=results,
        examined=examined,
        derived=derived,
        cpu_minutes=(time.process_time() - clock - trained_now(everything)) / 60,
    )
    written = page.write_page(out / "index.md", story)
    say(f"Done: {written}")
    return written


# --- the steps --------------------------------------------------------------------------------


def prepare_tiles(
    preset: Preset, seed: int, data: Path | None, folder: Path, progress: bool
) -> Tiles:
    """Draw synthetic photographs, or read the user's, and cut them into tiles."""
    folder.mkdir(parents=True, exist_ok=True)
    if data is None:
        shapes = [(preset.photo_size, preset.photo_size)] * preset.photos
        photos = draw_photos(preset.photos, preset.photo_size, seed)
    else:
        pairs = find_photos(data, preset.tile)
        shapes = photo_shapes(pairs)
        photos = read_photos(pairs)

    def counted() -> Iterator[Photo]:  # the bar appears when the first photograph is needed
        yield from tqdm(photos, "photographs", len(shapes), unit="photo", disable=not progress)

    return store_tiles(folder, counted(), shapes, preset.tile, preset.overlap, str(data))


def build(network: Network, preset: Preset, seed: int) -> nn.Module:
    """Create a network of the zoo at the preset's width."""
    name = "quarter_multiresunet" if network == WIDE else network.key
    family = "multiresunet" if name.endswith("multiresunet") else "unet"
    width = round(get_config(name).width / preset.shrink[family])
    return create_model(name, width=4 * width if network == WIDE else width, seed=seed)


def fit(
    network: Network, model: nn.Module, fold: int, bench: Bench, epochs: int | None = None
) -> Trained:
    """Train a network (for the preset's epochs by default) and measure it on the test tiles."""
    preset, split = bench.preset, bench.splits[fold]
    settings = TrainingSettings(
        epochs=epochs or preset.epochs, batch_size=preset.batch_size, seed=bench.seed
    )
    checkpoint = bench.runs / f"{network.key}-{fold}.pt"
    label = f"{network.label}, case {fold + 1}"
    initial = copy.deepcopy(model.state_dict())
    run = train(model.to(DEVICE), bench.tiles, split, settings, checkpoint, label, bench.progress)
    metrics, validation = (
        evaluate(model, bench.tiles.batches(indices, preset.batch_size))
        for indices in (split.test, split.validation)
    )
    return Trained(
        network=network,
        fold=fold,
        model=model.cpu().eval(),
        initial=initial,
        run=run,
        metrics=metrics,
        threshold=validation.best_threshold,
    )


def examine(trained: Trained, bench: Bench) -> Analysis:
    """Let weightscope read the network: from its weights, its training and the validation tiles.

    The test tiles are not used, so that the networks derived from the verdict can be judged on
    them.
    """
    return analyze(
        trained.model,
        initial=trained.initial,
        history=trained.run.history,
        batches=bench.tiles.batches(bench.splits[trained.fold].validation, 16),
        loss=weighted_cross_entropy,
        metric="f1",
        progress=bench.progress,
    )


def derive(trained: Trained, analysis: Analysis, bench: Bench) -> Derivation:
    """Build the network that the analysis proposes, and train it on for a few epochs.

    How many levels stay is the analysis's answer: its first proposal is the best supported one.
    """
    legal = (p for p in analysis.proposals if p.refusal is None)
    proposal = next(legal, analysis.proposals[0])  # a refused one says why when it is built
    kept = proposal.keep_levels
    torch.manual_seed(bench.seed)
    truncated = proposal.build().module
    redrawn = copy.deepcopy(truncated)
    initialize(redrawn, bench.seed)
    base = trained.network
    cut = f"{base.label} cut to {kept} level{'s' if kept > 1 else ''}"
    networks = (
        (Network(f"{base.key}-keep{kept}", cut), truncated),
        (Network(f"{base.key}-redrawn{kept}", f"{cut}, weights redrawn"), redrawn),
    )
    tuned, again = (
        fit(network, model, trained.fold, bench, bench.preset.tuning) for network, model in networks
    )
    return Derivation(
        trained=trained,
        analysis=analysis,
        supported={grade: levels_supported(analysis, grade) for grade in GRADES},
        proposal=proposal,
        tuned=tuned,
        redrawn=again,
    )


def write_tables(
    out: Path,
    costs: Sequence[NetworkCost],
    results: Sequence[tables.Result],
    analyses: Mapping[str, Analysis],
) -> None:
    """Write every table as CSV beside the page."""
    write_csv(tables.cost_table(costs), out / "table4.csv")
    write_csv(tables.results_frame(results), out / "results.csv")
    for name, analysis in analyses.items():
        write_csv(analysis.stages, out / f"stages-{name}.csv")
        write_csv(analysis.layers, out / f"layers-{name}.csv")
        write_csv(
            proposals_frame(analysis.proposals, analysis.costs), out / f"proposals-{name}.csv"
        )


def draw_figures(
    out: Path,
    bench: Bench,
    cases: Sequence[Case],
    examined: Mapping[str, tuple[Trained, Analysis]],
    derived: Sequence[Derivation],
    results: Sequence[tables.Result],
) -> None:
    """Draw every figure of the page."""
    if bench.data is None:
        photo = next(draw_photos(1, max(bench.preset.photo_size, 400), bench.seed))
    else:
        photo = next(read_photos(find_photos(bench.data, bench.preset.tile)))
    figures.save(figures.scene_figure(photo), out / "sand.png")

    analyses = {name: analysis for name, (_, analysis) in examined.items()}
    encoder = ("encoder", "bottleneck")
    blocks = ("encoder", "bottleneck", "decoder")
    for name, roles in (
        ("unet", encoder),
        ("multiresunet", encoder),
        ("half_multiresunet", blocks),
        ("quarter_multiresunet", blocks),
    ):
        figures.save(figures.stacked_figure(analyses[name], roles), out / f"stacked-{name}.png")
        figures.save(figures.overlaid_figure(analyses[name], roles), out / f"overlaid-{name}.png")
    for name in ("unet", "multiresunet"):
        figures.save(figures.verdict_figure(analyses[name]), out / f"verdict-{name}.png")

    last = derived[0].trained.fold
    runs = {t.network.label: t.run for t in cases[last].values()}
    figures.save(figures.learning_figure(runs), out / "learning.png")
    figures.save(figures.tradeoff_figure(tables.results_frame(results)), out / "tradeoff.png")
    shown = [cases[last][name] for name in list_models()] + [d.tuned for d in derived]
    panel = figures.predictions_figure(
        {t.network.label: (t.model, t.threshold) for t in shown},
        bench.tiles,
        figures.fullest(bench.tiles, bench.splits[last].test, 4),
    )
    figures.save(panel, out / "predictions.png")


# --- around it --------------------------------------------------------------------------------


def runs_folder(preset: Preset, seed: int, data: Path | None) -> Path:
    """Where tiles and checkpoints of exactly this study lie, apart from its results.

    Photographs that were changed or added since make it another study.
    """
    files = [] if data is None else sorted(data.glob("*/*"))
    stamps = [(str(file), file.stat().st_mtime_ns) for file in files]
    settings = repr((preset, seed, data and data.resolve(), stamps))
    digest = hashlib.sha256(settings.encode()).hexdigest()[:8]
    return ROOT / "runs" / f"microplastic-{preset.name}-{digest}"


def trained_now(everything: Sequence[Trained]) -> float:
    """Processor seconds that this run spent on epochs; earlier ones were resumed."""
    epochs = [e for t in everything for e in t.run.epochs[t.run.resumed_from :]]
    return sum(epoch.processor_seconds for epoch in epochs)


def say(text: str) -> None:
    """Announce the next step."""
    print(f"\n{text}", flush=True)


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description="Train, analyse and truncate the networks of the microplastic study."
    )
    parser.add_argument(
        "--preset",
        choices=PRESETS,
        default="quick",
        help="quick: minutes; cpu: hours, three cases; paper: the paper's sizes, for a GPU",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=ROOT / "docs" / "studies" / "microplastic",
        help="folder for the page, its tables, figures and reports (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of everything random")
    parser.add_argument(
        "--data",
        type=Path,
        help="folder with your own photographs in images/ and masks of the same names in masks/",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the study from the command line; return the exit code."""
    options = parse_arguments(arguments)
    if options.out.exists() and not options.out.is_dir():
        print(f"error: --out {str(options.out)!r} is a file; give a folder", file=sys.stderr)
        return 2
    try:
        study(PRESETS[options.preset], options.out, options.seed, options.data, not options.quiet)
    except WeightscopeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            "\ninterrupted; the same command goes on after the last finished epoch", file=sys.stderr
        )
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
