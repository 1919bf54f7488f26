"""What each subcommand takes and does."""

from __future__ import annotations

import argparse
import importlib
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weightscope.cli.models import add_model, built_model, example_of, save_cut, state_of
from weightscope.cli.pictures import (
    DATA_HELP,
    IMAGES_HELP,
    add_crop,
    crop_notes,
    cropping,
    images_in,
    labelled_in,
)
from weightscope.cli.targets import check_targets
from weightscope.errors import CheckpointError, InputError
from weightscope.files import write_csv
from weightscope.showing import counted

if TYPE_CHECKING:
    from torch import nn


def add_scan(commands: Any) -> None:
    """``scan``: statistics of a file."""
    scan = commands.add_parser(
        "scan",
        help="statistics of every tensor in a file of weights, streamed",
        description="Statistics of every tensor in a checkpoint of any size and kind. The model is "
        "not built and nothing in the file is executed.",
    )
    scan.add_argument("file", help="a checkpoint, an index of one, or a folder that holds one")
    scan.add_argument("--csv", metavar="FILE", help="also write the figures as CSV")
    scan.add_argument("--html", metavar="FILE", help="also write them as one web page")
    scan.set_defaults(run=_scan)


def _scan(options: argparse.Namespace) -> None:
    from weightscope.frames import parameters_frame
    from weightscope.printing import checkpoint_table
    from weightscope.statistics import scan

    check_targets(options.csv, options.html)  # what would fail at the end should fail at once
    if options.html:
        importlib.import_module("weightscope.report")
    statistics = scan(options.file, progress=sys.stderr.isatty())
    name = Path(options.file).resolve().name
    # files first: the reader of what is printed may leave before its end
    if options.csv:
        write_csv(parameters_frame(None, statistics), options.csv)
    if options.html:
        from weightscope.report import render_checkpoint, write_page

        write_page(render_checkpoint(name, statistics), options.html)
    print(checkpoint_table(name, statistics))


def add_analyze(commands: Any) -> None:
    """``analyze``: the whole analysis."""
    analyze = commands.add_parser(
        "analyze",
        help="ranked stages, verdict and smaller networks of a model",
        description="Build a model with FACTORY, load its weights, and print the analysis.",
    )
    add_model(analyze)
    analyze.add_argument("--initial", metavar="FILE", help="checkpoint from before the training")
    analyze.add_argument(
        "--history", metavar="FILE", help="course of the training, from weightscope.save_history"
    )
    analyze.add_argument("--images", metavar="DIR", help=IMAGES_HELP)
    analyze.add_argument("--data", metavar="DIR", help=f"{DATA_HELP}; with --metric")
    analyze.add_argument("--metric", metavar="NAME", help="quality on --data: f1, iou, dice, ...")
    add_crop(analyze)
    analyze.add_argument(
        "--ignore-index", metavar="N", type=int, help="value in the masks that does not count"
    )
    analyze.add_argument(
        "--trained",
        action="store_true",
        help="say that it was trained, where its weights do not show it",
    )
    for name, what in (
        ("html", "the analysis as one web page"),
        ("markdown", "the tables as Markdown"),
        ("json", "the analysis as JSON"),
        ("csv", "the table of layers as CSV"),
    ):
        analyze.add_argument(f"--{name}", metavar="FILE", help=f"also write {what}")
    analyze.set_defaults(run=_analyze)


def _analyze(options: argparse.Namespace) -> None:
    from weightscope.analysis import analyze
    from weightscope.exports import as_json, as_markdown
    from weightscope.files import write_text

    # What would fail at the end should fail before the work.
    check_targets(options.html, options.csv, options.json, options.markdown)
    if options.html:
        importlib.import_module("weightscope.report")
    if (options.data is None) != (options.metric is None):
        raise InputError("--data and --metric go together: --data DIR --metric f1")
    model = built_model(options)
    with cropping(options, model):
        analysis = analyze(
            model,
            example_inputs=example_of(options),
            **_evidence(options, model),
            metric=options.metric,
            ignore_index=options.ignore_index,
            trained=options.trained,
            layout=options.layout,
            part=options.part,
            progress=sys.stderr.isatty(),
        )
    notes = (*analysis.assessment.notes, *crop_notes(options.crop))
    analysis = replace(analysis, assessment=replace(analysis.assessment, notes=notes))
    if options.csv:
        write_csv(analysis.layers, options.csv)
    if options.json:
        write_text(options.json, as_json(analysis))
    if options.markdown:
        write_text(options.markdown, as_markdown(analysis))
    if options.html:
        analysis.to_html(options.html)
    print(analysis)


def _evidence(options: argparse.Namespace, model: nn.Module) -> dict[str, Any]:
    """What the options name beside the model, as `analyze` takes it."""
    from weightscope.histories import is_history, read_history

    found: dict[str, Any] = {}
    if options.initial:
        try:
            found["initial"] = state_of(model, options.initial, options.prefix)
        except CheckpointError:
            if not is_history(options.initial):
                raise
            raise InputError(
                f"{options.initial!r}, given as --initial, is a history that watch() recorded: give"
                " it as --history"
            ) from None
    if options.history:
        found["history"] = read_history(options.history)
    if options.images:
        found["images"] = images_in(options.images, model, options.crop, options.layout)
    if options.data:
        found["batches"] = labelled_in(options.data, model, options.crop, options.layout)
    return found


def add_cut(commands: Any) -> None:
    """``cut``: the smaller network as a file."""
    cut = commands.add_parser(
        "cut",
        help="build and save the network with fewer levels",
        description="Build a model with FACTORY, load its weights, keep the first N levels, and "
        "save the smaller network; weightscope.load(FILE, factory) rebuilds it. The new bottleneck "
        "needs recovery or training.",
    )
    add_model(cut)
    cut.add_argument("--keep", metavar="N", type=int, required=True, help="levels to keep")
    cut.add_argument("--out", metavar="FILE", required=True, help="the .safetensors file to write")
    cut.add_argument("--seed", type=int, default=0, help="of the new weights (0)")
    cut.set_defaults(run=_cut)


def _cut(options: argparse.Namespace) -> None:
    from weightscope.analysis import analyze
    from weightscope.printing import human, printable

    check_targets(tensors=options.out)
    model = built_model(options)
    analysis = analyze(
        model,
        example_inputs=example_of(options),
        layout=options.layout,
        part=options.part,
        response=False,
    )
    found = {p.keep_levels: p for p in analysis.proposals}
    if options.keep not in found:
        raise InputError(
            f"--keep {options.keep}: this network has {analysis.structure.depth} levels; it can be "
            f"asked to keep {', '.join(map(str, sorted(found))) or 'no fewer'}"
        )
    variant = found[options.keep].build(seed=options.seed)
    save_cut(variant, options)
    before = analysis.costs
    print(
        printable(
            f"{options.out}: {human(variant.costs.parameters)} of {human(before.parameters)} "
            f"parameters, {human(variant.costs.macs)} of {human(before.macs)} MACs; "
            f"{counted(len(variant.kept), 'tensor')} kept, "
            f"{len(variant.reinitialized)} new to be trained"
        )
    )


def add_field(commands: Any) -> None:
    """``field``: the receptive field and the overlap of tiles."""
    field = commands.add_parser(
        "field",
        help="receptive field, and the overlap that tiles need",
        description="The receptive field of every stage in input pixels, and by how much tiles "
        "must overlap so that a stitched prediction equals that of the whole image.",
    )
    add_model(field)
    field.set_defaults(run=_field)


def _field(options: argparse.Namespace) -> None:
    from weightscope.graph import read_structure
    from weightscope.printing import aligned_columns, printable
    from weightscope.receptive_field import network_receptive_field, receptive_fields

    structure = read_structure(
        built_model(options), example_of(options), layout=options.layout, part=options.part
    )
    fields = receptive_fields(structure)
    print(
        printable(
            aligned_columns(
                {
                    "stage": [stage.name for stage in structure.stages],
                    "sees": [_pixels(fields[stage.name]) for stage in structure.stages],
                }
            )
        )
    )
    whole = network_receptive_field(structure.program)
    seen = [size for size in whole or () if size is not None]
    if len(seen) != structure.inputs.dimensions:
        print("\nEvery output depends on the whole image: no overlap makes tiles equal to it.")
        return
    if len(structure.whole) != len(seen):
        print("\nLevels are those of maps of the signal: no step of tiles is known.")
        return
    steps = [round(size) for size in structure.reductions[-1]]
    margins = [math.ceil(size / 2 / step) * step for size, step in zip(seen, steps, strict=True)]
    print(
        f"\nCut a margin of {_pixels(margins)} from every side of a tile, so let neighbours "
        f"overlap by {_pixels([2 * m for m in margins])}; tiles begin at multiples of "
        f"{_pixels(steps)}."
    )


def _pixels(sizes: Any) -> str:
    """Equal sizes once, others as ``3 x 5``; the whole input where there is none."""
    if sizes is None or any(size is None for size in sizes):
        return "everything"
    return f"{' x '.join(map(str, sizes if len(set(sizes)) > 1 else sizes[:1]))} px"


def add_compare(commands: Any) -> None:
    """``compare``: two checkpoints of one network."""
    compare = commands.add_parser(
        "compare",
        help="two checkpoints of one network: what moved, what shrank",
        description="Compare the tensors of two checkpoints by name, without the model.",
    )
    compare.add_argument("first", help="the earlier checkpoint")
    compare.add_argument("second", help="the later one")
    compare.add_argument(
        "--prefix",
        action="append",
        help="what stands before the names of the network in the files; given twice, in the first "
        "and in the second (default: what leaves the most names in common)",
    )
    compare.set_defaults(run=_compare)


def _compare(options: argparse.Namespace) -> None:
    from weightscope.checkpoints import pair_weights, read_weights
    from weightscope.exports import comparison
    from weightscope.printing import printable

    prefixes = options.prefix or [None]
    if len(prefixes) > 2:
        raise InputError(f"--prefix was given {len(prefixes)} times; there are two files")
    first = read_weights(options.first, prefix=prefixes[0])
    second = read_weights(options.second, prefix=prefixes[-1])
    if not options.prefix:
        first, second = pair_weights(first, second)
    if not first.keys() & second.keys():
        raise InputError(
            f"no tensor of {options.first} has a name of {options.second}: "
            f"{next(iter(first))!r} and {next(iter(second))!r}; give two checkpoints of one "
            "network, and --prefix twice where something else stands before their names"
        )
    for path, weights in ((options.first, first), (options.second, second)):
        if weights.prefix:
            print(printable(f"{path}: {len(weights)} tensors, {weights.note}"), file=sys.stderr)
    print(printable(comparison(first, second)))
