"""The command `weightscope shrink`: the smallest network within a tolerance or a budget."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING, Any

from weightscope.cli.models import add_model, built_model, example_of, object_at, save_cut
from weightscope.cli.pictures import add_crop, crop_notes, cropping, images_in, labelled_in
from weightscope.cli.targets import check_targets
from weightscope.errors import InputError, TruncationError
from weightscope.files import write_csv
from weightscope.progress import only_on_terminals

if TYPE_CHECKING:
    from torch import nn


def add_shrink(commands: Any) -> None:
    """``shrink``: the smallest network within a tolerance or a budget."""
    parser = commands.add_parser(
        "shrink",
        help="the smallest network within a tolerance or a budget",
        description="Cut a model at every depth, teach each result to answer as the whole one on "
        "unlabelled images, measure them, and write the smallest that satisfies the limits.",
    )
    add_model(parser)
    parser.add_argument(
        "--images",
        metavar="DIR",
        help="folder of unlabelled images, or MODULE:LOADER, a callable that gives batches of what "
        "the forward takes (default: the labelled ones)",
    )
    parser.add_argument(
        "--data", metavar="DIR", help="labelled images to measure quality on: DIR/images, DIR/masks"
    )
    add_crop(parser)
    parser.add_argument(
        "--batches",
        metavar="MODULE:LOADER",
        help="the same from a callable that gives (inputs, targets) pairs",
    )
    parser.add_argument(
        "--metric", help="f1, iou, accuracy, mse, ...: quality on --data or --batches"
    )
    parser.add_argument(
        "--ignore-index", metavar="N", type=int, help="value in the masks that does not count"
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        help="quality that may be lost (0.02): in the unit of --metric, of mae, mse and psnr a "
        "share of the skill",
    )
    parser.add_argument("--max-macs", type=float, help="multiply-accumulates of one forward")
    parser.add_argument("--max-parameters", type=float, help="number of parameters")
    parser.add_argument("--max-latency", type=float, help="seconds of one forward here")
    parser.add_argument("--max-bytes", type=float, help="bytes of parameters and buffers")
    parser.add_argument("--steps", type=int, default=400, help="steps of each recovery (400)")
    parser.add_argument(
        "--thin",
        type=float,
        help="share of the MACs to which each is made thinner too (default: down to --max-macs)",
    )
    parser.add_argument(
        "--no-random", action="store_true", help="leave out random channel removal (half the work)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of everything random (0)")
    parser.add_argument(
        "--resume", metavar="FOLDER", help="keep the recoveries here, and go on from there"
    )
    parser.add_argument(
        "--out", metavar="FILE", help="write the chosen network as a .safetensors file"
    )
    parser.add_argument("--csv", metavar="FILE", help="also write the table as CSV")
    parser.set_defaults(run=_shrink)


def _shrink(options: argparse.Namespace) -> None:
    """Carry the command out.

    Raises:
        InputError: An option cannot be used.
        TruncationError: No smaller network is within the limits, and ``--out`` asks for one.
    """
    from weightscope.truncation import shrink

    check_targets(
        options.csv, tensors=options.out
    )  # what would fail at the end should fail at once
    if options.data and options.batches:
        raise InputError("--data and --batches both name labelled images; give one of them")
    model = built_model(options)
    with cropping(options, model), only_on_terminals():
        found = shrink(
            model,
            example_inputs=example_of(options),
            layout=options.layout,
            part=options.part,
            images=None if options.images is None else _images(options, model),
            batches=_batches(options, model),
            metric=options.metric,
            ignore_index=options.ignore_index,
            tolerance=options.tolerance,
            max_macs=options.max_macs,
            max_parameters=options.max_parameters,
            max_latency=options.max_latency,
            max_bytes=options.max_bytes,
            steps=options.steps,
            thin=options.thin,
            random=not options.no_random,
            seed=options.seed,
            resume=options.resume,
        )
    chosen = None if found.chosen is None else found.chosen.variant
    if options.csv:
        write_csv(found.frame, options.csv)
    if options.out and chosen is not None:
        save_cut(chosen, options)
    print(found, *crop_notes(options.crop), sep="\n")
    if options.out and chosen is None:
        table = f"; {options.csv} holds what was tried" if options.csv else ""
        raise TruncationError(
            f"{options.out} was not written: {found.nothing_chosen()}{found.remedy()}{table}"
        )


def _images(options: argparse.Namespace, model: nn.Module) -> Any:
    """Images of a folder, or what a loader gives."""
    name = options.images
    if ":" in name and not os.path.isdir(name):
        return _called(name)
    return images_in(name, model, options.crop, options.layout)


def _batches(options: argparse.Namespace, model: nn.Module) -> Any:
    """Labelled images of a folder, what a loader gives, or None."""
    if options.data:
        return labelled_in(options.data, model, options.crop, options.layout)
    return _called(options.batches) if options.batches else None


def _called(name: str) -> Any:
    """Call ``module:loader``; the current folder is searched too.

    Raises:
        InputError: There is no such callable, or it raises.
    """
    module, _, path = name.rpartition(":")
    if not module or not path:
        raise InputError(f"{name!r} names no loader; write MODULE:LOADER, such as mydata:images")
    found = object_at(module, path)
    try:
        return found() if callable(found) else found
    except Exception as error:  # the user's own code may raise anything
        raise InputError(
            f"cannot get batches from {name}: {type(error).__name__}: {error}"
        ) from error
