"""Every error that weightscope raises on purpose.

::

    WeightscopeError
    ├── InputError            what was passed in cannot be used (also a ValueError)
    │   ├── ForwardError      the model's own forward raised, or no input was found that it takes
    │   └── UnknownLayerError a layer, stage or level that the model does not have
    ├── StructureError        the network has no readable encoder-decoder shape
    ├── TruncationError       a cut or a variant that cannot be built
    ├── CheckpointError       a file of weights that is damaged, unsafe or no checkpoint
    ├── RecipeError           a saved variant that does not fit its file or its model
    ├── MissingExtraError     an optional dependency is not installed (also an ImportError)
    └── UnsupportedTorchError torch lacks a part that is needed (also an ImportError)
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.util import find_spec
from typing import Any


def _in_python(name: str, value: str) -> str:
    return f"{name}={value}"


_write: ContextVar[Callable[[str, str], str]] = ContextVar("_write", default=_in_python)
_shell: ContextVar[bool] = ContextVar("_shell", default=False)


def keyword(name: str, value: object = "") -> str:
    """A keyword argument as its caller writes it: ``images=``, or ``--images`` at the command.

    Every text that names an argument takes its name from here, so that readers meet what they can
    write themselves.
    """
    return _write.get()(name, shown(value, str))


def shown(value: object, write: Callable[[Any], object] = repr) -> str:
    """A value that is not the library's own, for a message; its kind where it cannot be told.

    Example:
        >>> class Mute:
        ...     def __repr__(self):
        ...         raise RuntimeError
        >>> shown("a"), shown(Mute()), shown(ValueError("b"), str)
        ("'a'", '<a Mute>', 'b')
    """
    try:
        return str(write(value))
    except Exception:  # noqa: BLE001 - of somebody's own code
        return f"<{kind(value)}>"


def kind(value: object) -> str:
    """The type of a value for a message.

    Example:
        >>> kind(3), kind("a"), kind(None)
        ('an int', 'a str', 'None')
    """
    if value is None:
        return "None"
    name = type(value).__name__
    return f"{'an' if name[:1] in 'AEIOaeio' else 'a'} {name}"


def in_python(text: str, in_shell: str = "") -> str:
    """Words that only callers of Python can follow, and what stands for them at the command."""
    return in_shell if _shell.get() else text


@contextmanager
def keywords_written(write: Callable[[str, str], str], *, shell: bool = False) -> Iterator[None]:
    """Inside, `keyword` writes as ``write(name, value)`` does; ``shell``: for a command."""
    token, by = _write.set(write), _shell.set(shell or _shell.get())
    try:
        yield
    finally:
        _write.reset(token)
        _shell.reset(by)


@contextmanager
def stood_for(name: str, source: str) -> Iterator[None]:
    """Inside, `keyword` writes of an argument that was not given what it was taken from.

    Args:
        name: The argument.
        source: The one that was given; empty where none stands for it.
    """
    write = _write.get()
    with keywords_written(lambda n, value: write(source if source and n == name else n, value)):
        yield


class WeightscopeError(Exception):
    """Base of every error raised on purpose; its text names the input and the remedy."""


class InputError(WeightscopeError, ValueError):
    """An argument cannot be used."""


class ForwardError(InputError):
    """The model's forward raised, or no example input was found that it accepts."""


class UnknownLayerError(InputError):
    """A name or level that the model does not have."""


class StructureError(WeightscopeError):
    """The network has no readable encoder-decoder shape."""


class TruncationError(WeightscopeError):
    """A cut or a variant that cannot be built."""


class CheckpointError(WeightscopeError):
    """A file of weights that is damaged, unsafe or not a checkpoint."""


class RecipeError(WeightscopeError):
    """A saved variant that does not fit its file or its model."""


class MissingExtraError(WeightscopeError, ImportError):
    """An optional dependency is not installed, or does not work."""


def place_of(package: str) -> str:
    """The file that Python imports under a name; ``""`` without one, as of a mere folder."""
    try:
        spec = find_spec(package)
    except (ImportError, ValueError):  # ValueError: of a module that somebody put in its place
        return "a module without a file"
    return (spec.origin or "") if spec else ""


@contextmanager
def extra(package: str, needed: str, remedy: str) -> Iterator[None]:
    """While an optional package is imported: its failure is told by what is the matter.

    Args:
        package: Its name in Python.
        needed: What needs it, as the start of a sentence.
        remedy: What installs it.

    Raises:
        MissingExtraError: It is not installed, it does not work, or another file has its name.
    """
    try:
        yield
    except Exception as error:  # whatever another file of that name raises
        place = place_of(package)
        if not place or (isinstance(error, ModuleNotFoundError) and error.name == package):
            raise MissingExtraError(f"{needed}; {remedy}") from error
        raise MissingExtraError(
            f"{needed}, but what Python imports as {package}, {place}, does not work "
            f"({type(error).__name__}: {shown(error, str)}); if it is a file of your own, rename "
            f"it, else {remedy}"
        ) from error


class UnsupportedTorchError(WeightscopeError, ImportError):
    """This version of torch lacks a private part that the library cannot do without."""
