"""Which calls of a pickle are for values, and which would run something.

The reader calls nothing either way. A file that asks for more than values of whoever loads it is
refused all the same, so that nobody goes on with it. What is not of Python's standard library is
somebody's class, and stays a name; there is no list of all harm that such a class could do.
"""

from __future__ import annotations

import sys
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

LONGEST_NAME = 500


class CodeError(ValueError):
    """A pickle that would run code; the text names it."""


@dataclass(frozen=True, slots=True)
class Name:
    """A class or function that a pickle names."""

    module: str
    name: str

    @classmethod
    def of(cls, module: str, name: str) -> Name:
        """By the name of Python 3, cut where it is long.

        Pickles of protocol 2, which torch writes, name what Python 2 had by its old names.
        """
        old = module[:LONGEST_NAME], name[:LONGEST_NAME]
        return cls(*NAME_MAPPING.get(old, (IMPORT_MAPPING.get(old[0], old[0]), old[1])))

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"

    @property
    def standard(self) -> bool:
        """Whether it is of Python's standard library."""
        return self.module.partition(".")[0] in sys.stdlib_module_names


@dataclass(eq=False, repr=False, slots=True)
class Inert:
    """An object that is not built: what it would be made of.

    Attributes:
        made_by: The class or function that would make it.
        arguments: What that would be called with.
        state: What would become its attributes.
        pairs: What it would hold as a dictionary.
        items: What it would hold as a list.
    """

    made_by: Name
    arguments: Sequence[Any] = ()
    state: Any = None
    pairs: dict[Any, Any] = field(default_factory=dict)
    items: list[Any] = field(default_factory=list)


# Modules of which all public functions and classes only make values of values.
_OF_VALUES = frozenset({
    "array", "base64", "binascii", "bisect", "calendar", "cmath", "collections", "colorsys", "copy",
    "datetime", "decimal", "fractions", "functools", "heapq", "ipaddress", "itertools", "math",
    "operator", "pydatetime", "pydecimal", "random", "statistics", "string", "struct", "textwrap",
    "unicodedata",
})  # fmt: skip
# Modules of which some classes run, open or connect to something when they are made.
_ACTING = frozenset({
    "aifc", "asynchat", "asyncio", "asyncore", "bdb", "bz2", "cProfile", "cgi", "code", "codecs",
    "codeop", "concurrent", "ctypes", "curses", "dbm", "distutils", "doctest", "ensurepip",
    "fileinput", "frozen_importlib", "frozen_importlib_external", "ftplib", "gzip", "http.client",
    "http.server", "idlelib", "imaplib", "imp", "importlib", "io", "lib2to3", "logging", "lzma",
    "mailbox", "mmap", "modulefinder", "msilib", "multiprocessing", "netrc", "nntplib", "pdb",
    "pickle", "poplib", "profile", "pstats", "pydoc", "pyio", "pyrepl", "runpy", "selectors",
    "shelve", "smtpd", "smtplib", "socket", "socketserver", "sqlite3", "subprocess", "sunau",
    "tarfile", "telnetlib", "tempfile", "tkinter", "trace", "turtle", "turtledemo", "types",
    "unittest", "urllib.request", "urllib.robotparser", "venv", "wave", "webbrowser", "winreg",
    "wsgiref", "xmlrpc", "xxsubinterpreters", "zipapp", "zipfile", "zipimport",
})  # fmt: skip
# Values among all others.
_VALUES = frozenset({
    "array._array_reconstructor", "codecs.encode", "copyreg.__newobj__", "copyreg.__newobj_ex__",
    "copyreg._reconstructor", "grp.struct_group", "io.BytesIO",
    "io.StringIO", "logging.Filter", "logging.Formatter", "logging.LogRecord", "logging.getLogger",
    "os.sched_param", "os.stat_result", "os.statvfs_result", "os.terminal_size", "os.times_result",
    "os.uname_result", "platform.uname_result", "posix.times_result", "posix.uname_result",
    "pwd.struct_passwd", "re._compile", "resource.struct_rusage", "socket.AddressFamily",
    "socket.AddressInfo", "socket.MsgFlag", "socket.SocketKind", "subprocess.CompletedProcess",
    "time.struct_time", "types.EllipsisType", "types.GenericAlias", "types.MappingProxyType",
    "types.NoneType", "types.SimpleNamespace", "types.UnionType", "zipfile.ZipInfo",
    "zoneinfo.ZoneInfo._unpickle",
})  # fmt: skip
_BUILTINS = frozenset({
    "abs", "all", "any", "ascii", "bin", "bool", "bytearray", "bytes", "chr", "complex", "dict",
    "divmod", "enumerate", "filter", "float", "format", "frozenset", "getattr", "hash", "hex",
    "int", "iter", "len", "list", "map", "max", "min", "object", "oct", "ord", "pow",
    "range", "repr", "reversed", "round", "set", "slice", "sorted", "str", "sum", "tuple", "type",
    "zip",
})  # fmt: skip
_ERRORS = ("Error", "Exception", "Warning")
# They call what they are given, at once or later.
_CALLING = frozenset({"builtins", "functools", "itertools", "operator"})


_CALLED = 3
"""Arguments that are looked at: which one is called differs, and there may be a million."""


def refuse_call(called: Name, arguments: Sequence[Any]) -> None:
    """Refuse what runs something, called by name or handed to what calls it.

    Raises:
        CodeError: It does.
    """
    _refuse(called)
    if called.module.lstrip("_") in _CALLING:
        for argument in arguments[:_CALLED]:
            if isinstance(argument, Name):
                _refuse(argument)


def attribute(owner: Any, name: Any) -> Name | None:
    """What ``getattr`` gives of a class; None of an object.

    Pickles of old protocols refer to methods and classes within classes so.

    Raises:
        CodeError: It reaches through a module, or what it is of would run something.
    """
    if not isinstance(name, str) or name[:2] == "__":
        raise CodeError("builtins.getattr")
    if not isinstance(owner, Name):
        return None  # a method of an object that is not built
    _refuse(owner)
    found = Name.of(owner.module, f"{owner.name}.{name}")
    if _module_within(owner.name.split(".")):
        raise CodeError(str(found))
    return found


def _refuse(called: Name) -> None:
    """Refuse a call of what is no class or function for values."""
    within = called.name.split(".")
    if called.standard:
        fine = _is_for_values(called.module, called.name)
    else:
        # A pickler names what lies in a class by a dot; what lies in a module has the module's own
        # name: torch's "os.system" was written by hand.
        owners = within[:-1]
        fine = all(part.lstrip("_")[:1].isupper() for part in owners) and (
            not owners or (within[-1][:2] != "__" and not _module_within(owners))
        )
    if not fine:
        raise CodeError(str(called))


def _module_within(parts: Sequence[str]) -> bool:
    return any(part.lstrip("_") in sys.stdlib_module_names for part in parts)


def _is_for_values(module: str, name: str) -> bool:
    """Whether a class or function of the standard library only makes a value."""
    is_class = name.lstrip("_")[:1].isupper()
    if module == "builtins":
        return name in _BUILTINS or (is_class and "." not in name)
    module = module.lstrip("_")  # of a module in C, and of the same in Python
    if f"{module}.{name}" in _VALUES:
        return True
    if "." in name:
        return False
    if module in _OF_VALUES:
        return is_class or name[:1] != "_"
    parts = module.split(".")
    acts = any(".".join(parts[: i + 1]) in _ACTING for i in range(len(parts)))
    return is_class and (not acts or name.endswith(_ERRORS))
