"""The command: ``python -m mpseg_models predict PHOTO... --weights sand --out DIR``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mpseg_models import Card, create_model, get_card, list_models, list_weights, read_weights
from mpseg_models.predict import TILE, predict_files


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m mpseg_models")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    predict = commands.add_parser(
        "predict", help="find plastic in photographs: masks, overlays, a table of particles"
    )
    predict.add_argument("photos", nargs="+", type=Path, metavar="PHOTO")
    predict.add_argument(
        "--weights", default="sand", help="sand, or a .safetensors file (default: %(default)s)"
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
    try:
        card = choose_card(options.weights, options.network)
        model = create_model(card.network, weights=options.weights).eval()
        threshold = card.threshold if options.threshold is None else options.threshold
        if not 0 < threshold < 1:
            raise ValueError(f"--threshold {threshold} is no probability between 0 and 1")
        found = predict_files(model, options.photos, threshold, options.out, options.tile)
    except (ValueError, ImportError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(
        f"{card.network} ({options.weights}), threshold {threshold:.2f}: {len(found)} particles in "
        f"{len(options.photos)} photographs; masks, overlays and tables in {options.out}"
    )
    print(f"Limits: {card.limits}")
    return 0


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


if __name__ == "__main__":
    sys.exit(main())
