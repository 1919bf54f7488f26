"""Put trained networks of the study into the zoo, each with its card, and keep the results.

python -m studies.sand.shipping [--preset cpu] [--runs DIR]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
from torch import nn

from mpseg_models import Card, get_card, list_weights, save_weights
from mpseg_models.predict import predict_photo
from mpseg_models.weights import FOLDER
from studies.runner import Finished, Job, Store, finished, read_result
from studies.sand.comparison import f1
from studies.sand.fitting import Fit, choose_tiles, load_trained
from studies.sand.metrics import evaluate
from studies.sand.plan import NETWORKS, PRESETS, Preset, cut_jobs, tile_job, training_jobs
from studies.sand.study import COMMITTED, WHOLE, analysis_job
from studies.sand.tables import markdown
from studies.sand.tiles import Tiles, draw_photos, open_tiles
from weightscope.files import written_atomically

ROOT = Path(__file__).resolve().parent.parent.parent
CHECKED = 2
"""Photographs of the quick check: some twenty particles each."""

LIMITS = (
    "Trained on drawn photographs of sand, with particles of 3-10 px whose colour stands out. Its "
    "figures say nothing about real photographs, other scales, cameras or materials: test it on "
    "masks of your own before you count with it. Compression blurs such small particles: on the "
    "twelve samples F1 of Half MultiResUNet falls from 0.51 to 0.46 as JPEG of quality 75 with "
    "halved colours, and not at all at 95."
)


def ship(preset: Preset, seed: int, store: Store) -> list[Path]:
    """Write weights and digests of every network that has been trained; return the files.

    Of each network the first fold whose weights are at hand is taken, whatever its figures: the
    best one, chosen by its test tiles, would flatter its card.
    """
    tiles_job = tile_job(preset, seed)
    jobs = training_jobs(preset, seed, tiles_job)
    done = finished([tiles_job, *jobs.values()], store)
    tiles = open_tiles(done["tiles"].folder)
    written, digests = [], {}
    for network in NETWORKS:
        own = {job.name: job for (key, _), job in jobs.items() if key == network.key}
        whole = [n for n, job in own.items() if n in done and store.find(job, whole=True)]
        if not whole:
            continue
        name = min(whole, key=lambda n: own[n].settings.fold)
        folds = {str(own[n].settings.fold): done[n].result["test"] for n in own if n in done}
        card, model = make_card(own[name], done[name], folds, tiles, preset, seed)
        path = FOLDER / "sand" / f"{network.zoo}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        digests[f"sand/{network.zoo}"] = save_weights(path, card, model.state_dict())
        written.append(path)
    with written_atomically(FOLDER / "digests.json") as temporary:
        temporary.write_text(json.dumps(digests, indent=1, sort_keys=True) + "\n")
    return written


def cards_page() -> str:
    """The model cards as a page of the docs."""
    parts = [
        """# Trained weights

Written by `python -m studies.sand.shipping`; change that program, not this page.

`create_model(NETWORK, weights="sand")` loads them, `get_card(NETWORK)` returns the card below as a
record, and `python -m mpseg_models predict PHOTO... --out DIR` segments photographs with them. A
digest is checked whenever they are loaded by name, and a test measures F1 on the photographs of the
check again. [A file by its path](photographs.md) is checked only against a digest beside it."""
    ]
    for network, name in list_weights():
        card = get_card(network, name)
        rows = [("these weights, on their test tiles", card.figures)]
        rows += [(f"study, fold {int(fold) + 1}", f) for fold, f in card.folds.items()]
        columns = ("precision", "recall", "f1", "iou", "rw_f1", "rw_iou", "best_f1")
        frame = pd.DataFrame(
            [{"": label, **{c: f"{f[c]:.3f}" for c in columns}} for label, f in rows]
        ).rename(columns={"rw_f1": "r.w. F1", "rw_iou": "r.w. IoU", "best_f1": "best F1"})
        training = ", ".join(f"{key} {value}" for key, value in card.settings.items())
        parts.append(
            f"""## `{network}`, weights `{name}`

{markdown(frame)}

All but the last column at threshold 0.5. The card's own threshold is {card.threshold:.2f}, where
F1 was best on the validation tiles; with it F1 is {card.check["f1"]:.3f} on the photographs of the
check (numbers {", ".join(map(str, card.check["photos"]))} of seed {card.check["seed"]}).

- Data: {card.data}.
- Channels of the first stage: {card.build_config().width}; half precision.
- Training: {training}.
- Command: `{card.command}`, at commit `{card.code}`.
- Licence: {card.licence}.
- Limits: {card.limits}"""
        )
    return "\n\n".join(parts) + "\n"


def keep_results(preset: Preset, seed: int, store: Store, into: Path) -> int:
    """Copy what jobs returned, without their weights, to where it is committed; count them."""
    tiles = tile_job(preset, seed)
    trainings = list(training_jobs(preset, seed, tiles).values())
    analyses = [analysis_job(job, tiles) for job in trainings if job.settings.network in WHOLE]
    cuts = [
        job
        for analysis in analyses
        if (folder := store.find(analysis)) is not None
        for job, _ in cut_jobs(
            analysis.needs[1], read_result(folder)["result"]["keep_levels"], preset, tiles
        ).labelled
    ]
    count = 0
    for job in (tiles, *trainings, *analyses, *cuts):
        folder = store.find(job)
        if folder is not None:
            (into / job.address).mkdir(parents=True, exist_ok=True)
            with written_atomically(into / job.address / "result.json") as temporary:
                temporary.write_bytes((folder / "result.json").read_bytes())
            count += 1
    return count


def make_card(
    job: Job,
    done: Finished,
    folds: Mapping[str, Mapping[str, float]],
    tiles: Tiles,
    preset: Preset,
    seed: int,
) -> tuple[Card, nn.Module]:
    """Describe a trained network, measured with the rounded weights that are shipped."""
    settings: Fit = job.settings
    model = load_trained(settings.config, done.folder)
    model.load_state_dict({n: t.half().float() for n, t in model.state_dict().items()})
    split = choose_tiles(settings, tiles)
    figures = evaluate(model, tiles.batches(split.test, 8))
    threshold = float(done.result["threshold"])
    photos = sorted({int(photo) for photo in tiles.photos[split.test]})[:CHECKED]
    check = {
        "seed": seed,
        "size": preset.photo_size,
        "scene": asdict(preset.scene),
        "photos": photos,
        "f1": check_f1(model, preset, seed, photos, threshold),
    }
    config = {**asdict(settings.config), "seed": None}
    card = Card(
        network=settings.network,
        config=config,
        threshold=threshold,
        data=(
            f"{len(split.train)} tiles of {preset.tile} px from drawn photographs of sand "
            f"(studies/sand/scenes.py, seed {seed}); fold {settings.fold + 1} of 5 for test, no "
            "photograph in two parts"
        ),
        settings=json.loads(json.dumps(asdict(settings.training))),
        figures=asdict(figures),
        folds=folds,
        check=check,
        command=f"python studies/microplastic.py --preset {preset.name} --seed {seed}",
        code=_commit(),
        licence="MIT",
        limits=LIMITS,
    )
    return card, model


def check_f1(
    model: Any, preset: Preset, seed: int, photos: Sequence[int], threshold: float
) -> float:
    """F1 on some photographs, whole and drawn again."""
    outcomes = []
    for index, (image, mask) in enumerate(
        draw_photos(max(photos) + 1, preset.photo_size, seed, preset.scene)
    ):
        if index in photos:
            found = predict_photo(model, image) > threshold
            truth = mask > 0
            outcomes.append(
                (
                    int((found & truth).sum()),
                    int((found & ~truth).sum()),
                    int((~found & truth).sum()),
                )
            )
    return f1(outcomes)


def _commit() -> str:
    git = ["git", "-C", str(ROOT), "rev-parse", "--short=12", "HEAD"]
    return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()


def main(arguments: Sequence[str] | None = None) -> int:
    """Ship what there is."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--preset", choices=PRESETS, default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "microplastic")
    options = parser.parse_args(arguments)
    preset, store = PRESETS[options.preset], Store(options.runs)
    written = ship(preset, options.seed, store)
    for path in written:
        print(f"{path.relative_to(ROOT)}  {path.stat().st_size / 1e6:.2f} MB")
    with written_atomically(ROOT / "docs" / "weights.md") as temporary:
        temporary.write_text(cards_page())
    count = keep_results(preset, options.seed, store, COMMITTED)
    print(f"{count} results in {COMMITTED.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
