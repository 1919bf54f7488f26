"""The model that a command is about: built by a factory, its weights loaded."""

from __future__ import annotations

import argparse
import ast
import difflib
import importlib
import importlib.util
import os
import pkgutil
import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weightscope.errors import InputError, kind

if TYPE_CHECKING:
    from torch import Tensor, nn

    from weightscope.truncation import Variant


def add_model(parser: argparse.ArgumentParser) -> None:
    """The arguments of every command that builds a model."""
    parser.add_argument(
        "factory",
        metavar="FACTORY",
        help="a callable that builds the model: MODULE:FACTORY, such as mypackage.networks:make, "
        "or FILE.py:FACTORY; the current folder is searched too",
    )
    parser.add_argument(
        "arguments",
        nargs="*",
        metavar="ARGUMENT",
        help="arguments of the factory: VALUE or KEY=VALUE; numbers, True, False, None and lists "
        "are read as Python reads them, anything else is text",
    )
    parser.add_argument(
        "--weights",
        metavar="FILE",
        action="append",
        default=[],
        help="checkpoint to load (default: as built); given several times, each in turn: a network "
        "that was cut from a cut one needs the file of that one before its own",
    )
    parser.add_argument(
        "--prefix",
        help="what stands before the names of this network in the checkpoints, such as "
        "ema.module., where several networks lie in one (default: the one that fits)",
    )
    parser.add_argument(
        "--input",
        metavar="SHAPE",
        type=shape,
        help="shape of the input tensor, batch first, such as 1x3x512x512 (default: found by "
        "trying)",
    )
    parser.add_argument(
        "--layout",
        metavar="AXES",
        help="axes of the image input, one letter each, such as NHWC, NHW or NTCHW (default: "
        "batch, channels, sizes, or what the first convolution shows)",
    )
    parser.add_argument(
        "--part",
        metavar="MODULE",
        help="a module that is a network of its own among others, to read and cut that one alone",
    )


def shape(text: str) -> tuple[int, ...]:
    """Sizes of a tensor, written as ``1x3x512x512``."""
    sizes = text.lower().split("x")
    if not all(size.isdecimal() and int(size) > 0 for size in sizes):
        raise argparse.ArgumentTypeError(f"{text!r} is no shape; write 1x3x512x512")
    if len(sizes) < 3:
        raise argparse.ArgumentTypeError(
            f"{text!r} has {len(sizes)} sizes; a batch of images has three or more: "
            "images x channels x sizes, such as 1x3x512x512"
        )
    return tuple(map(int, sizes))


def example_of(options: argparse.Namespace) -> Tensor | None:
    """The example input of ``--input``."""
    import torch

    return None if options.input is None else torch.zeros(options.input)


def built_model(options: argparse.Namespace) -> nn.Module:
    """The model of ``FACTORY`` with the weights of ``--weights``.

    Raises:
        InputError: It cannot be built.
        CheckpointError: The weights cannot be read, or do not fit.
    """
    from weightscope.checkpoints import holds_recipe

    model = build(options.factory, options.arguments)
    for path in options.weights:
        if holds_recipe(path):
            model = _cut_network(path, model)
        else:
            load(model, path, options.prefix)
    return model


def _cut_network(path: str, original: nn.Module) -> nn.Module:
    """What ``cut`` and ``shrink`` wrote, rebuilt from the original."""
    from weightscope.printing import printable
    from weightscope.truncation import load

    variant = load(path, lambda: original)
    note = (
        f"{path}: {kind(variant.structure.model)} cut to "
        f"{variant.plan.keep_levels} of {variant.structure.depth} levels, rebuilt by its recipe"
    )
    print(printable(note), file=sys.stderr)
    return variant.module


def save_cut(variant: Variant, options: argparse.Namespace) -> None:
    """Write a cut network to ``--out``; where it is a cut of a cut one, say what it hangs on."""
    from weightscope.checkpoints import holds_recipe
    from weightscope.printing import printable
    from weightscope.truncation import save

    save(variant, options.out)
    cut = [path for path in options.weights if holds_recipe(path)]
    if cut:
        factory = "factory"
        for path in cut:
            factory = f"lambda: weightscope.load({path!r}, {factory}).module"
        named = " ".join(f"--weights {shlex.quote(path)}" for path in [*cut, options.out])
        note = (
            f"{options.out} is cut from the network in {cut[-1]}; keep both: "
            f"weightscope.load({options.out!r}, {factory}) rebuilds it, and so does {named} of a "
            "command"
        )
        print(printable(note), file=sys.stderr)


def build(factory: str, arguments: Sequence[str]) -> nn.Module:
    """Call a factory with arguments from the command line and expect a model.

    Raises:
        InputError: There is no such module or callable, it raises, or it returns no model.
    """
    from torch import nn

    name, colon, path = factory.rpartition(":")
    if not colon or not name or not path:
        raise InputError(
            f"{factory!r} names no factory; write MODULE:FACTORY, such as mynetworks:make_unet, or "
            "FILE.py:FACTORY"
        )
    values = [value_of(a) for a in arguments if not _is_named(a)]
    named = {k: value_of(v) for k, _, v in (a.partition("=") for a in arguments if _is_named(a))}
    found = object_at(name, path)
    try:
        model = found if isinstance(found, nn.Module) else found(*values, **named)
    except Exception as error:  # the user's own code may raise anything
        shown = [*map(repr, values), *(f"{k}={v!r}" for k, v in named.items())]
        raise InputError(
            f"cannot build the model with {factory}({', '.join(shown)}): "
            f"{type(error).__name__}: {error}"
        ) from error
    if not isinstance(model, nn.Module):
        raise InputError(
            f"{factory} gave {kind(model)}, expected a torch.nn.Module; "
            "name a function that returns the model"
        )
    return model


def object_at(module: str, path: str) -> Any:
    """What a module or a file holds under a dotted name.

    Raises:
        InputError: There is no such module or name, or importing it fails; names like it are said.
    """
    try:
        found: Any = module_of(module)
    except Exception as error:  # the user's own code may raise anything
        near = ""
        if isinstance(error, FileNotFoundError):
            near = _near(module, map(str, Path(module).parent.glob("*.py")))
        elif getattr(error, "name", None) == module:
            near = _near(module, (known.name for known in pkgutil.iter_modules()))
        raise InputError(
            f"cannot find {module}:{path}: {type(error).__name__}: {error}{near}"
        ) from error
    for part in path.split("."):
        if not hasattr(found, part):
            public = (name for name in dir(found) if not name.startswith("_"))
            raise InputError(
                f"cannot find {module}:{path}: there is no {part!r}{_near(part, public)}"
            )
        found = getattr(found, part)
    return found


def _near(name: str, names: Iterable[str]) -> str:
    found = difflib.get_close_matches(name, list(names))
    return f"; did you mean {' or '.join(map(repr, found))}?" if found else ""


def _is_named(argument: str) -> bool:
    return argument.partition("=")[0].isidentifier() and "=" in argument


def value_of(text: str) -> Any:
    """A number, a truth value, None, or a list, tuple or dict of these; anything else is text.

    Example:
        >>> value_of("8"), value_of("1e-3"), value_of("True"), value_of("resnet18"), value_of("[4]")
        (8, 0.001, True, 'resnet18', [4])
    """
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return {"true": True, "false": False}.get(text, text)


def module_of(name: str) -> Any:
    """Import a module by its dotted name, or a file by its path."""
    if not name.endswith(".py"):
        sys.path.insert(0, os.getcwd())  # as python -m does
        return importlib.import_module(name)
    path = Path(name)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {name}")
    sys.path.insert(0, str(path.resolve().parent))  # what the file imports lies beside it
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{name} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(path.stem, module)
    spec.loader.exec_module(module)
    return module


def load(model: nn.Module, path: str, prefix: str | None) -> None:
    """Load the weights in a checkpoint that fit the model, and say what was taken off their names.

    Raises:
        CheckpointError: The file cannot be read, or does not fit the model.
    """
    from weightscope.checkpoints import fit_weights, read_weights
    from weightscope.printing import printable

    weights = fit_weights(model, read_weights(path), prefix=prefix)
    model.load_state_dict(weights)
    if weights.prefix or weights.others:
        print(printable(f"{path}: {len(weights)} tensors, {weights.note}"), file=sys.stderr)


def state_of(model: nn.Module, path: str, prefix: str | None) -> dict[str, Tensor]:
    """The weights in a checkpoint of the same network, under the model's names.

    Raises:
        CheckpointError: The file cannot be read, or does not fit the model.
    """
    from weightscope.checkpoints import fit_weights, read_weights

    return dict(fit_weights(model, read_weights(path), prefix=prefix))
