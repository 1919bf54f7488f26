"""The command: ``python -m mpseg_models predict PHOTO... --weights sand --out DIR``."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from mpseg_models import Card, create_model, get_card, list_models, list_weights, read_weights
from mpseg_models.photos import SUFFIXES
from mpseg_models.predict import TILE, predict_files


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m mpseg_models")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    predict = commands.add_parser(
        "predict",
        help="find plastic in photographs: masks, overlays, a table of particles",
        epilog="Exit status: 0 all photographs were segmented, 1 some were not, 2 none.",
    )
    predict.add_argument(
        "photos", nargs="+", type=Path, metavar="PHOTO", help="a photograph, or a folder of them"
    )
    predict.add_argument(
        "--weights",
        default="sand",
        help="sand, or a .safetensors file that the study wrote: it is checked against FILE.sha256 "
        "if that lies beside it, otherwise not at all (default: %(default)s)",
    )
    predict.add_argument(
        "--network", choices=list_models(), help="default: the one with the highest F1 on its card"
    )
    predict.add_argument("--threshold", type=float, help="default: that of the weights' card")
    predict.add_argument(
        "--tile", type=int, default=TILE, help="side in pixels (default: %(default)s)"
    )
    predict.add_argument("--out", type=Path, required=True, metavar="DIR")
    options = parser.parse_args(arguments)
    before = signal.signal(signal.SIGTERM, _stop)
    try:
        return _predict(options)
    except (ValueError, ImportError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\ninterrupted; what was done is in {options.out}", file=sys.stderr)
        return 130
    finally:
        signal.signal(signal.SIGTERM, before)


def _predict(options: argparse.Namespace) -> int:
    photos = list_photos(options.photos)
    card = choose_card(options.weights, options.network)
    model = create_model(card.network, weights=options.weights).eval()
    threshold = card.threshold if options.threshold is None else options.threshold
    if not 0 < threshold < 1:
        raise ValueError(f"--threshold {threshold} is no probability between 0 and 1")
    if options.tile < 1:
        raise ValueError(f"--tile {options.tile} is no number of pixels; give 512, or so")
    outcome = predict_files(model, photos, threshold, options.out, options.tile, _show)
    for text in outcome.unusual:
        print(f"warning: {text}; the network knows 8-bit colours", file=sys.stderr)
    for text in outcome.failed.values():
        print(f"error: {text}", file=sys.stderr)
    done = len(photos) - len(outcome.failed)
    if not done:
        return 2
    print(
        f"{card.network} ({options.weights}), threshold {threshold:.2f}: "
        f"{len(outcome.particles)} particles in {done} of {len(photos)} photographs; masks, "
        f"overlays and tables in {options.out}"
    )
    print(f"Limits: {card.limits}")
    return 1 if outcome.failed else 0


def list_photos(given: Sequence[Path]) -> list[Path]:
    """The photographs that were given, those of a folder one by one.

    Raises:
        ValueError: A folder holds none.
    """
    photos: list[Path] = []
    for path in given:
        if not path.is_dir():
            photos.append(path)
            continue
        own = [p for p in sorted(path.iterdir()) if p.suffix.lower() in SUFFIXES]
        own = [p for p in own if p.is_file() and not p.name.startswith(".")]
        if not own:
            raise ValueError(f"the folder {str(path)!r} has no photographs ({', '.join(SUFFIXES)})")
        photos += own
    return photos


def choose_card(weights: str, network: str | None) -> Card:
    """Return the card of a file, or of the weights of that name with the highest F1.

    Raises:
        ValueError: There are no such weights.
    """
    if weights.endswith(".safetensors"):
        return read_weights(Path(weights))[0]
    if network is not None:
        return get_card(network, weights)
    cards = [get_card(known, name) for known, name in list_weights() if name == weights]
    if not cards:
        raise ValueError(f"there are no weights {weights!r}; give the path of a .safetensors file")
    return max(cards, key=lambda card: card.figures["best_f1"])


def _show(text: str) -> None:
    print(text, flush=True)


def _stop(number: int, frame: Any) -> NoReturn:
    """End like an interruption: the tables of what is done are written."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
