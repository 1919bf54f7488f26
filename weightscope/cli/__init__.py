"""The command `weightscope`: analyse and cut a model, or read files of weights, from a shell."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from traceback import FrameSummary, extract_tb
from typing import TextIO

from weightscope.cli.arguments import write_keyword
from weightscope.cli.commands import add_analyze, add_compare, add_cut, add_field, add_scan
from weightscope.cli.shrink import add_shrink
from weightscope.errors import WeightscopeError, keywords_written

_DESCRIPTION = """\
Which levels of a trained encoder-decoder network do any work, and the smaller network without the
rest. Exit codes: 0 done; 2 an input cannot be used, or its own code raised (one line on stderr says
which, and what to do); 130 interrupted; 1 a fault of weightscope itself (with the traceback)."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: What follows the command's name; those of the process by default.

    Returns:
        Exit code: 0, 2 where an input cannot be used, 130 where it was interrupted.

    Raises:
        Exception: A fault of the library; what the user's own code raises ends with 2.
    """
    with _streams():
        return _main(arguments)


def _main(arguments: Sequence[str] | None) -> int:
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        with _any_terminal(), keywords_written(partial(write_keyword, options), shell=True):
            options.run(options)
            sys.stdout.flush()
    except WeightscopeError as error:
        return _fail(str(error))
    except SystemExit as error:
        return _fail(
            f"what this command ran ended the process with sys.exit({error.code!r}); raise an "
            "error there that says why, or leave that part out"
        )
    except KeyboardInterrupt:
        return 130  # as shells say it: 128 and the number of the signal
    except BrokenPipeError:
        _drop(sys.stdout)  # the reader (head, less) has seen enough
    except Exception as error:
        place = _place_outside(error)
        if place is not None:
            return _fail_in(place, error)
        if not isinstance(error, OSError):
            raise
        _drop(sys.stdout)
        return _fail(f"cannot write the output: {error.strerror or error}; free some space")
    return 0


def _place_outside(error: Exception) -> FrameSummary | None:
    """The innermost line of the user's code that raised; None where it was none of theirs."""
    frames = (frame for frame in extract_tb(error.__traceback__) if os.path.isfile(frame.filename))
    return next((f for f in reversed(list(frames)) if _is_theirs(Path(f.filename))), None)


def _is_theirs(file: Path) -> bool:
    """Whether a file is none of the library, of what it calls itself, and of Python."""
    known = (sys.modules.get(name) for name in ("torch", "numpy", "pandas", "safetensors", "PIL"))
    homes = [Path(m.__file__).parent for m in known if m is not None and m.__file__]
    if any(map(file.is_relative_to, [Path(__file__).parent.parent, *homes])):
        return False
    installed = {"site-packages", "dist-packages"} & set(file.parts)
    return bool(installed) or not file.is_relative_to(Path(os.__file__).parent)


def _fail_in(place: FrameSummary, error: Exception) -> int:
    from weightscope.calls import say

    return _fail(
        f"`{place.line}` (line {place.lineno} of {place.filename}), which this command ran, raised "
        f"{say(error)}; mend it there, or call weightscope from Python to see how it was reached"
    )


def _fail(reason: str) -> int:
    from weightscope.printing import printable

    try:
        line = " ".join(reason.splitlines())  # errors of others have several
        print(printable(f"weightscope: error: {line}"), file=sys.stderr, flush=True)
    except OSError:  # the exit code says it alone
        _drop(sys.stderr)
    return 2


def _drop(stream: TextIO) -> None:
    """Throw away what could not be written, or Python would try again at its exit and complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


@contextmanager
def _streams() -> Iterator[None]:
    """Stand in for streams that the caller closed: Python has None in their place."""
    with ExitStack() as stack:
        for name in ("stdout", "stderr"):
            if getattr(sys, name) is None:
                stack.callback(setattr, sys, name, None)
                setattr(sys, name, stack.enter_context(open(os.devnull, "w")))
        yield


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

    for add in (add_analyze, add_cut, add_shrink, add_scan, add_compare, add_field):
        add(commands)
    return parser
