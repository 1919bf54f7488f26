"""What a pickle names and calls: values are read past, what would run something is refused."""

import argparse
import array
import calendar
import collections
import dataclasses
import datetime
import decimal
import email.message
import enum
import fractions
import functools
import http
import inspect
import io
import ipaddress
import logging
import operator
import os
import pathlib
import pickle
import platform
import random
import re
import signal
import socket
import ssl
import statistics
import string
import struct
import subprocess
import sys
import time
import types
import urllib.parse
import uuid
import zipfile
import zoneinfo
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from weightscope import CheckpointError, read_weights
from weightscope.checkpoints import pickles
from weightscope.checkpoints.names import CodeError, Name
from weightscope.checkpoints.pickles import unpickle

START = b"\x80\x02"


def machine_reads(program):
    return unpickle(io.BufferedReader(io.BytesIO(program)), None)


def named(what):
    """Steps that name something, after a module with a text, by whatever name."""
    texts = b"".join(b"\x8c" + bytes([len(part)]) + part.encode() for part in what.split())
    return texts + b"\x93"


def calls(what, arguments=b"\x8c\1b\x85"):
    """A program that calls what it names."""
    return b"\x80\x04}\x8c\1a" + named(what) + arguments + b"Rs."


# --- values --------------------------------------------------------------------------------------


class Colour(enum.Enum):
    RED = 1


class Access(enum.Flag):
    READ = 1
    WRITE = 2


class Slots:
    __slots__ = ("inside",)


@dataclasses.dataclass(frozen=True, slots=True)
class SlotsOfData:
    number: int
    tensor: torch.Tensor


Point = collections.namedtuple("Point", "x y")


class Settings(dict):
    pass


class Steps(list):
    pass


class Schedule:
    """Of a class within and methods, as a schedule of learning rates has them."""

    class Kind:
        pass

    def __init__(self, rate=0.1):
        self.rate = rate

    @classmethod
    def of_rate(cls, rate):
        return cls(rate)

    def __reduce__(self):
        return Schedule.of_rate, (self.rate,)

    def cosine(self):
        return 1


def made_schedule(rate):
    return Schedule


class Made:
    """Of a class that a function makes, as packages that pickle anything do."""

    def __reduce_ex__(self, protocol):
        return _Make(), (), {"rate": 0.1}


class _Make:
    def __reduce__(self):
        return made_schedule, (1,)

    def __call__(self):
        return Schedule()


now = datetime.datetime(2026, 1, 2, 3, tzinfo=datetime.UTC)
VALUES = {
    "struct_time": time.gmtime(0),
    "enum of the system": http.HTTPStatus.OK,
    "signal": signal.SIGINT,
    "signals": signal.Signals.SIGTERM,
    "enum": Colour.RED,
    "flags": Access.READ | Access.WRITE,
    "flags of re": re.IGNORECASE | re.MULTILINE,
    "family": socket.AF_INET,
    "version": ssl.TLSVersion.TLSv1_2,
    "parameter": inspect.Parameter("x", inspect.Parameter.KEYWORD_ONLY),
    "signature": inspect.signature(machine_reads),
    "zone": zoneinfo.ZoneInfo("UTC"),
    "date": datetime.date(2026, 1, 2),
    "datetime": now,
    "time": now.timetz(),
    "time span": datetime.timedelta(1),
    "time zone": datetime.timezone(datetime.timedelta(hours=1), "x"),
    "path": pathlib.Path("a"),
    "pure path": pathlib.PureWindowsPath("a"),
    "uuid": uuid.UUID(int=3),
    "decimal": decimal.Decimal("1.5"),
    "context": decimal.Context(prec=3),
    "fraction": fractions.Fraction(1, 3),
    "complex": 1j,
    "range": range(3),
    "slice": slice(1, None, 2),
    "bytes": b"a",
    "bytearray": bytearray(b"a"),
    "sets": ({1, 2}, frozenset({3})),
    "dots": (..., NotImplemented, type(None), type(...)),
    "ordered": collections.OrderedDict(a=1),
    "default": collections.defaultdict(list, a=[1]),
    "default of a function": collections.defaultdict(time.time),
    "counter": collections.Counter("aab"),
    "deque": collections.deque([1, 2], maxlen=5),
    "chain": collections.ChainMap({1: 2}),
    "user dict": collections.UserDict(a=1),
    "named tuple": Point(1, 2),
    "own dictionary": Settings(a=1),
    "own list": Steps([1]),
    "namespace": argparse.Namespace(a=1),
    "parser": argparse.ArgumentParser(),
    "simple namespace": types.SimpleNamespace(a=1),
    "array": array.array("d", [1.0]),
    "generic": list[int],
    "union": int | None,
    "numpy scalars": (np.float64(0.5), np.int32(3), np.str_("a"), np.bool_(True)),
    "numpy array": np.arange(3),
    "numpy dtype": np.dtype("f4"),
    "numpy random": np.random.default_rng(0),
    "numpy date": np.datetime64("2026-01-01"),
    "state of numpy": np.random.get_state(),
    "state of python": random.getstate(),
    "random": random.Random(0),
    "error": ValueError("x"),
    "error of the system": FileNotFoundError(2, "x", "f"),
    "error of a process": subprocess.CalledProcessError(1, "x"),
    "process": subprocess.CompletedProcess(["x"], 0),
    "errors": ExceptionGroup("x", [KeyboardInterrupt and ValueError()]),
    "file": os.stat("."),
    "terminal": os.terminal_size((80, 24)),
    "computer": platform.uname(),
    "address": ipaddress.ip_network("10.0.0.0/8"),
    "parts of a link": urllib.parse.urlsplit("http://a/b"),
    "message": email.message.Message(),
    "element": ElementTree.Element("a"),
    "member of an archive": zipfile.ZipInfo("a"),
    "template": string.Template("$a"),
    "regular expression": re.compile("a"),
    "logger": logging.getLogger("a"),
    "record": logging.makeLogRecord({}),
    "normal": statistics.NormalDist(0, 1),
    "day": calendar.TextCalendar(),
    "stream": io.BytesIO(b"a"),
    "text stream": io.StringIO("a"),
    "iterator": iter([1, 2]),
    "reversed": reversed([1]),
    "enumerate": enumerate([1]),
    "zip": zip([1], [2], strict=True),
    "map": map(abs, [1]),
    "getters": (operator.itemgetter(1), operator.attrgetter("a"), operator.methodcaller("b")),
    "partial": functools.partial(torch.nn.LayerNorm, eps=1e-6),
    "partial of python": functools.partial(sorted, reverse=True),
    "functions of python": (min, os.path.join, os.getenv, os.system, exec),
    "types of torch": (torch.float16, torch.device("cpu"), torch.Size([1]), torch.strided),
    "random state of torch": torch.Generator().get_state(),
    "class within": Schedule.Kind,
    "method of an object": Schedule().cosine,
    "method": Schedule.cosine,
    "made by a method of its class": Schedule(),
    "made by what a function made": Made(),
}


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("kind", VALUES)
# of iterators: Python 3.14 does not pickle them any more
@pytest.mark.filterwarnings("ignore:Pickle, copy, and deepcopy:DeprecationWarning")
def test_values_beside_tensors_are_read_past(tmp_path, kind, protocol):
    content = {"w": torch.ones(4), "beside": VALUES[kind], "v": torch.ones(2)}
    try:
        torch.save(content, tmp_path / "a.pt", pickle_protocol=protocol)
    except (TypeError, pickle.PicklingError, AttributeError):
        pytest.skip("this Python does not pickle it")
    read = read_weights(tmp_path / "a.pt")
    assert {name for name in read if not name.startswith("beside")} == {"w", "v"}


def test_tensors_inside_of_what_is_not_built_are_found(tmp_path):
    holder = Settings(a=torch.ones(1))
    holder.more = torch.ones(2)
    slots = Slots()
    slots.inside = torch.ones(5)
    content = {
        "s": holder, "l": Steps([torch.ones(3)]), "p": Point(torch.ones(4), 3), "o": slots,
        "d": SlotsOfData(3, torch.ones(6)), "q": collections.deque([torch.ones(7)], maxlen=2),
        "set": {3}, "n": types.SimpleNamespace(deep={"x": torch.ones(8)}),
    }  # fmt: skip
    torch.save(content, tmp_path / "a.pt")
    read = read_weights(tmp_path / "a.pt")
    assert {name: read.shape(name)[0] for name in read} == {
        "s.a": 1, "s.more": 2, "l.0": 3, "p.0": 4, "o.inside": 5, "d.1": 6, "q.0": 7, "n.deep.x": 8,
    }  # fmt: skip


# --- what would run something --------------------------------------------------------------------


@pytest.mark.parametrize(
    "what",
    [
        "os system", "posix system", "nt system", "os popen", "builtins eval", "builtins exec",
        "builtins __import__", "builtins open", "builtins print",
        "builtins object.__getattribute__", "builtins type.__call__", "builtins getattr",
        "io open", "io FileIO", "_io FileIO", "codecs open", "subprocess Popen", "subprocess run",
        "pty spawn", "runpy _run_code", "runpy run_path", "importlib import_module",
        "importlib.machinery SourceFileLoader", "ctypes CDLL", "_ctypes dlopen",
        "types FunctionType",
        "types CodeType", "code InteractiveInterpreter", "pdb Pdb", "timeit timeit",
        "cProfile run", "doctest run_docstring_examples", "webbrowser open", "antigravity x",
        "pickle loads", "_pickle loads", "marshal loads", "shutil rmtree", "tempfile mkdtemp",
        "tempfile TemporaryDirectory", "zipfile ZipFile", "sqlite3 Connection",
        "socket create_server",
        "smtplib SMTP", "ftplib FTP", "http.client HTTPConnection", "urllib.request urlopen",
        "multiprocessing Process", "logging FileHandler", "logging.config fileConfig",
        "uuid _get_command_stdout", "platform popen", "idlelib.run Executive", "sys exit",
        "sys settrace", "time sleep", "signal alarm", "gc disable", "inspect getsource",
        "pydoc pipepager", "lib2to3.pgen2.grammar Grammar", "_aix_support _read_cmd_output",
        "pathlib Path.unlink", "pathlib Path.write_text", "datetime Path.Inner",
        # through a module that another one imported
        "uuid os.system", "torch os.system", "numpy os.system", "torch._utils sys.exit",
        "enum sys.exit", "collections _sys.exit", "torch subprocess.Popen", "mine Os.os.system",
        "torch._tensor _rebuild_from_type.a", "mine Thing.__init__",
    ],
)  # fmt: skip
def test_what_would_run_something_is_refused_and_named(what):
    with pytest.raises(CodeError, match=re.escape(what.replace(" ", "."))):
        machine_reads(calls(what))


@pytest.mark.parametrize(("old", "new"), [
    ("__builtin__ eval", "builtins.eval"), ("commands getoutput", "subprocess.getoutput"),
    ("cPickle loads", "pickle.loads"), ("thread start_new_thread", "_thread.start_new_thread"),
    ("anydbm open", "dbm.open"),
])  # fmt: skip
def test_the_names_of_python_2_are_known(old, new):
    with pytest.raises(CodeError, match=re.escape(new)):
        machine_reads(calls(old))


@pytest.mark.parametrize("calling", [
    "functools partial", "functools reduce", "operator call", "itertools starmap", "builtins map",
    "builtins filter", "builtins iter", "_functools partial",
])  # fmt: skip
@pytest.mark.parametrize("what", ["os system", "builtins eval", "torch os.system"])
def test_what_is_handed_to_a_caller_is_refused(calling, what):
    with pytest.raises(CodeError, match=re.escape(what.replace(" ", "."))):
        machine_reads(calls(calling, named(what) + b"\x8c\1b\x86"))


def test_of_a_million_arguments_few_are_looked_at():
    refused = named("functools partial") + b"(" + named("mine a") * 3 + named("os system")
    program = b"\x80\x04" + refused + b"tR."
    assert isinstance(machine_reads(program), pickles.Inert)


@pytest.mark.parametrize("making", [
    named("functools partial") + named("mine layer") + b"\x85R",
    named("operator attrgetter") + b"\x8c\6system\x85R",
    named("builtins getattr") + named("mine Thing") + b")R\x8c\1a\x86R",
])  # fmt: skip
def test_what_the_standard_library_made_is_not_called(making):
    with pytest.raises(CodeError, match="the result of"):
        machine_reads(b"\x80\x04}\x8c\1a" + making + b")Rs.")


@pytest.mark.parametrize("step", [b")R", b")\x81", b")}\x92"])
def test_every_way_to_call_is_one(step):
    with pytest.raises(CodeError, match=r"os\.system"):
        machine_reads(b"\x80\x04" + named("os system") + step + b".")


@pytest.mark.parametrize("program", [b"(ios\nsystem\n.", b"(cos\nsystem\no."])
def test_the_oldest_ways_to_call_are_too(program):
    with pytest.raises(CodeError, match=r"os\.system"):
        machine_reads(program)


# --- names that nothing calls --------------------------------------------------------------------


@pytest.mark.parametrize("what", [
    "os system", "builtins eval", "pathlib Path.unlink", "torch os.system", "a.b C.d.e",
    "named_by_a_file never_imported",
])  # fmt: skip
def test_a_name_that_nothing_calls_stays_a_name(tmp_path, monkeypatch, what):
    marker = tmp_path / "imported"
    (tmp_path / "named_by_a_file.py").write_text(f"open({str(marker)!r}, 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    assert machine_reads(b"\x80\x04" + named(what) + b".") == Name(*what.split())
    assert not marker.exists()
    assert "named_by_a_file" not in sys.modules


def test_calls_of_what_nobody_knows_are_not_made(tmp_path, monkeypatch):
    marker = tmp_path / "imported"
    (tmp_path / "named_by_a_file.py").write_text(f"open({str(marker)!r}, 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    found = machine_reads(calls("named_by_a_file run"))["a"]
    assert isinstance(found, pickles.Inert)
    assert (str(found.made_by), found.arguments) == ("named_by_a_file.run", ("b",))
    assert not marker.exists()


def test_a_partial_is_a_name():
    found = machine_reads(calls("functools partial", named("mine layer") + b"\x8c\1b\x86"))["a"]
    assert isinstance(found, pickles.Inert)
    assert found.arguments == (Name("mine", "layer"), "b")


def test_classes_within_classes_of_somebody_are_names():
    for what in ("mine.models UNet._Settings", "mine.models UNet._Settings.from_file"):
        assert machine_reads(calls(what))["a"].made_by == Name(*what.split())


@pytest.mark.parametrize(
    ("owner", "name"), [(b"torch\nos", b"system"), (b"numpy\n_sys", b"exit"), (b"a\nB", b"__c__")]
)
def test_attributes_of_modules_are_refused(owner, name):
    text = b"X" + struct.pack("<I", len(name)) + name
    program = START + b"}X\x01\x00\x00\x00acbuiltins\ngetattr\n(c" + owner + b"\n" + text + b"tRs."
    with pytest.raises(CodeError):
        machine_reads(program)


def test_a_method_taken_as_an_attribute_is_judged_when_it_is_called():
    method = named("builtins getattr") + named("pathlib Path") + b"\x8c\6unlink\x86R"
    assert machine_reads(b"\x80\x04" + method + b".") == Name("pathlib", "Path.unlink")
    with pytest.raises(CodeError, match=r"pathlib\.Path\.unlink"):
        machine_reads(b"\x80\x04" + method + b"\x8c\1b\x85R.")


def test_the_refusal_says_what_and_what_helps(tmp_path):
    class Runs:
        def __reduce__(self):
            return os.system, ("true",)

    torch.save({"w": torch.ones(1), "x": Runs()}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"system\), and code in it is not run; load it only"):
        read_weights(tmp_path / "a.pt")
