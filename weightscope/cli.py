"""The command `weightscope`: analyse a model or scan a file of weights from a shell."""

from __future__ import annotations

import argparse
import importlib
import io
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weightscope.errors import InputError, WeightscopeError
from weightscope.files import writable_target, write_csv

if TYPE_CHECKING:
    from torch import nn

_DESCRIPTION = """\
Which levels of a trained encoder-decoder network do any work, and the smaller network without the
rest. Errors go to stderr with exit code 2."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: What follows the command's name; those of the process by default.

    Returns:
        Exit code: 0, or 2 where an input cannot be used.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        with _any_terminal():
            options.run(options)
            sys.stdout.flush()
    except WeightscopeError as error:
        return _fail(str(error))
    except BrokenPipeError:
        _drop_output()  # the reader (head, less) has seen enough
    except OSError as error:
        _drop_output()
        return _fail(f"cannot write the output: {error.strerror or error}; free some space")
    return 0


def _fail(reason: str) -> int:
    from weightscope.printing import printable

    print(printable(f"weightscope: error: {reason}"), file=sys.stderr)
    return 2


def _drop_output() -> None:
    """Throw away what could not be written, or Python would try again at its exit and complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def _any_terminal() -> Iterator[None]:
    """Spell out what the terminal's alphabet lacks, instead of failing at it."""
    stream, errors = sys.stdout, getattr(sys.stdout, "errors", None)
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")
    try:
        yield
    finally:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=errors)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="weightscope", description=_DESCRIPTION)
    parser.add_argument(
        "--version", action="version", version=f"weightscope {version('weightscope')}"
    )
    commands = parser.add_subparsers(required=True, metavar="command")

    scan = commands.add_parser(
        "scan",
        help="statistics of every tensor in a file of weights, streamed",
        description="Statistics of every tensor in a .safetensors, .pt or .pth file of any size. "
        "The model is not built and nothing in the file is executed.",
    )
    scan.add_argument("file", help="a .safetensors file or index, or a .pt/.pth checkpoint")
    scan.add_argument("--csv", metavar="FILE", help="also write the figures as CSV")
    scan.set_defaults(run=_scan)

    analyze = commands.add_parser(
        "analyze",
        help="ranked stages, verdict and smaller networks of a model",
        description="Build a model with FACTORY, load its weights, and print the analysis.",
    )
    analyze.add_argument(
        "factory",
        metavar="MODULE:FACTORY",
        help="a callable that builds the model, such as mypackage.networks:make_unet; the current "
        "folder is searched too",
    )
    analyze.add_argument(
        "arguments", nargs="*", metavar="ARGUMENT", help="text arguments of the factory"
    )
    analyze.add_argument("--weights", metavar="FILE", help="state dict to load (default: as built)")
    analyze.add_argument(
        "--input",
        metavar="SHAPE",
        type=_shape,
        help="shape of the input tensor, such as 1x3x512x512 (default: found by trying)",
    )
    analyze.add_argument("--html", metavar="FILE", help="also write the analysis as one web page")
    analyze.add_argument("--csv", metavar="FILE", help="also write the table of layers as CSV")
    analyze.set_defaults(run=_analyze)
    return parser


def _scan(options: argparse.Namespace) -> None:
    from weightscope.frames import parameters_frame
    from weightscope.printing import checkpoint_table
    from weightscope.statistics import scan

    if options.csv:
        _check_target(options.csv)
    statistics = scan(options.file)
    print(checkpoint_table(Path(options.file).name, statistics))
    if options.csv:
        write_csv(parameters_frame(None, statistics), options.csv)


def _analyze(options: argparse.Namespace) -> None:
    import torch

    from weightscope.analysis import analyze

    # What would fail at the end shall fail before the work.
    for path in filter(None, (options.html, options.csv)):
        _check_target(path)
    if options.html:
        importlib.import_module("weightscope.report")
    model = _build(options.factory, options.arguments)
    if options.weights:
        _load(model, options.weights)
    inputs = None if options.input is None else torch.zeros(options.input)
    analysis = analyze(model, example_inputs=inputs, progress=sys.stderr.isatty())
    print(analysis)
    if options.csv:
        write_csv(analysis.layers, options.csv)
    if options.html:
        analysis.to_html(options.html)


def _check_target(path: str) -> None:
    """Refuse to write where nothing can be written, or over somebody's weights.

    Raises:
        InputError: It is no place for a file, or holds a checkpoint.
    """
    from weightscope.checkpoints import open_checkpoint

    target = writable_target(path)
    if not target.exists():
        return
    try:
        open_checkpoint(target)
    except WeightscopeError:
        return
    raise InputError(f"{path} is a file of weights, which the output would replace; give another")


def _shape(text: str) -> tuple[int, ...]:
    """Sizes of a tensor, written as ``1x3x512x512``."""
    sizes = text.lower().split("x")
    if not all(size.isdecimal() and int(size) > 0 for size in sizes):
        raise argparse.ArgumentTypeError(f"{text!r} is no shape; write 1x3x512x512")
    return tuple(map(int, sizes))


def _build(factory: str, arguments: Sequence[str]) -> nn.Module:
    """Call ``module:factory`` with text arguments and expect a model.

    Raises:
        InputError: There is no such module or callable, it raises, or it returns no model.
    """
    from torch import nn

    module_name, colon, path = factory.partition(":")
    if not colon or not module_name or not path:
        raise InputError(
            f"{factory!r} names no factory; write MODULE:FACTORY, such as mynetworks:make_unet"
        )
    sys.path.insert(0, os.getcwd())  # as python -m does
    try:
        found: Any = importlib.import_module(module_name)
        for part in path.split("."):
            found = getattr(found, part)
        model = found if isinstance(found, nn.Module) else found(*arguments)
    except Exception as error:  # the user's own code may raise anything
        call = f"{factory}({', '.join(map(repr, arguments))})"
        raise InputError(
            f"cannot build the model with {call}: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(model, nn.Module):
        raise InputError(
            f"{factory} gave a {type(model).__name__}, expected a torch.nn.Module; "
            "name a function that returns the model"
        )
    return model


def _load(model: nn.Module, path: str) -> None:
    """Load the weights in a checkpoint that fit the model, and say what was taken off their names.

    Raises:
        CheckpointError: The file cannot be read, or does not fit the model.
    """
    from weightscope.checkpoints import fit_weights, read_weights
    from weightscope.printing import printable

    weights = fit_weights(model, read_weights(path))
    model.load_state_dict(weights)
    if weights.prefix or weights.others:
        print(printable(f"{path}: {len(weights)} tensors, {weights.note}"), file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
