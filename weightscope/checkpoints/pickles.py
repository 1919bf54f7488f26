"""What a pickle describes, without running any of it.

A pickle is a program for a small machine that may call any function by name. This machine knows
how tensors, dictionaries, lists and numbers are built; everything else that a pickle names stays a
name (`Inert`). Nothing is imported and nothing is called, so there is no list of names to trust.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from weightscope.checkpoints.keys import Key, key_of
from weightscope.checkpoints.limits import (
    MOST_BEGUN,
    MOST_BUILT,
    MOST_STEPS,
    TooMuchError,
)
from weightscope.checkpoints.names import (
    LONGEST_NAME,
    CodeError,
    Inert,
    Name,
    attribute,
    refuse_call,
)
from weightscope.checkpoints.source import Source
from weightscope.checkpoints.steps import STEPS, Argument
from weightscope.checkpoints.stored import MOST_AXES, Stored, absurd, contiguous, span_of


@dataclass(frozen=True, slots=True)
class Storage:
    """Numbers in a file, of which tensors are views.

    Attributes:
        dtype: As the pickle says; None for bytes.
        count: Number of elements.
        begin: Byte of the file at which they begin.
        source: The file.
    """

    dtype: torch.dtype | None
    count: int
    begin: int
    source: Source


Locate = Callable[[Any, torch.dtype | None, int], Storage]
"""Finds the numbers of a storage by its key, number format and number of elements."""

_STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexDoubleStorage": torch.complex128,
    "ComplexFloatStorage": torch.complex64,
    "QInt8Storage": torch.qint8,
    "QUInt8Storage": torch.quint8,
    "QInt32Storage": torch.qint32,
    "QUInt4x2Storage": torch.quint4x2,
    "QUInt2x4Storage": torch.quint2x4,
}
# Bytes that a step takes for good, about, with its place on the stack, of which lists, tuples and
# dictionaries are made; what grows with its argument is added where it is made.
_PLACE = 8
_NUMBER, _TEXT, _LIST, _TUPLE, _DICT, _FIRST_PAIR, _PAIR = 40, 64, 88, 64, 72, 130, 60
# what stands in a line of its own takes time rather than memory
_LINE = 90
_NAME, _STORAGE, _TENSOR, _SIZE, _INERT = 200, 72, 100, 4, 220
_TAKES = {
    "PUT": _LINE, "GET": _LINE, "NONE": _PLACE, "NEWTRUE": _PLACE, "NEWFALSE": _PLACE,
    "BININT1": _PLACE, "BINGET": _PLACE, "LONG_BINGET": _PLACE, "DUP": _PLACE,
    "EMPTY_TUPLE": _PLACE,
    "INT": _LINE, "BININT": _NUMBER, "BININT2": _NUMBER, "LONG": _LINE, "LONG1": _NUMBER,
    "LONG4": _NUMBER, "FLOAT": _LINE, "BINFLOAT": _NUMBER, "STRING": _LINE, "BINSTRING": _TEXT,
    "SHORT_BINSTRING": _TEXT, "BINBYTES": _TEXT, "SHORT_BINBYTES": _TEXT, "BINBYTES8": _TEXT,
    "BYTEARRAY8": _TEXT, "UNICODE": _LINE, "BINUNICODE": _TEXT, "SHORT_BINUNICODE": _TEXT,
    "BINUNICODE8": _TEXT, "EMPTY_LIST": _LIST, "EMPTY_SET": _LIST, "LIST": _LIST,
    "FROZENSET": _LIST, "TUPLE": _TUPLE, "TUPLE1": _TUPLE, "TUPLE2": _TUPLE, "TUPLE3": _TUPLE,
    "EMPTY_DICT": _DICT, "DICT": _DICT, "BINPERSID": _STORAGE,
}  # fmt: skip
_NOTHING = object()
_MOST_SKIPPED = 10_000  # places that a pickler leaves out
_MOST_ARGUMENTS = 20


def unpickle(stream: io.BufferedReader, locate: Locate, most_steps: int = MOST_STEPS) -> Any:
    """What the next pickle of a stream describes.

    Args:
        stream: Left behind the pickle.
        locate: Finds the numbers of a storage.
        most_steps: How many it may have.

    Returns:
        Dictionaries, lists, tuples, texts and numbers, `Stored` tensors, and `Inert` for the rest.

    Raises:
        CodeError: It would run code.
        TooMuchError: It describes more than any checkpoint holds.
        ValueError: It is none, or ends too early.
    """
    return _Machine(locate).run(stream, most_steps)


class _Machine:
    """The stack and the memory of one pickle's program."""

    def __init__(self, locate: Locate) -> None:
        self._locate = locate
        self._parts: dict[tuple[Any, str], Storage] = {}
        self._stack: list[Any] = []
        self._below: list[list[Any]] = []
        self._memo: list[Any] = []
        self._left = MOST_BUILT

    def run(self, stream: io.BufferedReader, most_steps: int) -> Any:
        """Run it to its STOP."""
        steps = {code: self._step(*step) for code, step in STEPS.items()}
        read = stream.read
        try:
            for _ in range(most_steps):
                code = read(1)
                if code == b".":
                    return self._stack.pop()
                if code not in steps:
                    raise ValueError("it ends too early" if not code else "a step in it is none")
                perform, argument, takes = steps[code]
                self._left -= takes
                perform(argument(stream) if argument else None)
                if self._left < 0:
                    self._check_left()
        except (IndexError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"it is no pickle of tensors ({type(error).__name__})") from error
        raise TooMuchError(f"it has more than {most_steps:,} steps")

    def _step(
        self, name: str, argument: Argument | None
    ) -> tuple[Callable[[Any], None], Argument | None, int]:
        """What a step does, reads and takes."""
        takes = _TAKES.get(name, 0)
        if name in _SHORT:
            return self._push, argument, takes
        if name in _LONG:
            return self._push_long, argument, takes
        return getattr(self, f"_{name.lower()}", self._unknown), argument, takes

    def _unknown(self, _: Any) -> None:
        raise ValueError("a step in it is none that torch.save writes")

    # the stack

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _push_long(self, value: Any) -> None:
        if isinstance(value, str):
            self._left -= len(value) if value.isascii() else 4 * len(value)
        elif isinstance(value, bytes):
            self._left -= len(value)
        elif isinstance(value, int):
            self._left -= value.bit_length() // 8
        self._stack.append(value)

    def _mark(self, _: Any) -> None:
        if len(self._below) == MOST_BEGUN:
            raise TooMuchError(f"more than {MOST_BEGUN:,} things in it are begun at a time")
        self._below.append(self._stack)
        self._stack = []

    def _since_mark(self) -> list[Any]:
        items = self._stack
        self._stack = self._below.pop()
        return items

    def _pop(self, _: Any) -> None:
        if self._stack:
            self._stack.pop()
        else:
            self._since_mark()

    def _pop_mark(self, _: Any) -> None:
        self._since_mark()

    def _dup(self, _: Any) -> None:
        self._stack.append(self._stack[-1])

    def _proto(self, _: Any) -> None:
        pass

    _frame = _proto

    # memory

    def _put(self, place: int) -> None:
        # A list, as every pickler numbers its places in order: in a dictionary, numbers that
        # somebody chose could have equal hashes, and each would cost as much as all before it.
        gap = place - len(self._memo) + 1
        self._left -= 2 * _PLACE * max(gap, 0)  # a list that grows takes some more
        if place < 0 or gap > _MOST_SKIPPED or self._left < 0:
            raise ValueError("it numbers its parts as no pickler does")
        self._memo += [_NOTHING] * gap
        self._memo[place] = self._stack[-1]

    _binput = _long_binput = _put

    def _memoize(self, _: Any) -> None:
        self._left -= 2 * _PLACE
        self._memo.append(self._stack[-1])

    def _get(self, place: int) -> None:
        if place < 0 or self._memo[place] is _NOTHING:
            raise ValueError("it asks for a part that it does not have")
        self._stack.append(self._memo[place])

    _binget = _long_binget = _get

    # constants

    def _none(self, _: Any) -> None:
        self._stack.append(None)

    def _newtrue(self, _: Any) -> None:
        self._stack.append(True)

    def _newfalse(self, _: Any) -> None:
        self._stack.append(False)

    # containers

    def _empty_list(self, _: Any) -> None:
        self._stack.append([])

    _empty_set = _empty_list

    def _empty_tuple(self, _: Any) -> None:
        self._stack.append(())

    def _empty_dict(self, _: Any) -> None:
        self._stack.append({})

    def _list(self, _: Any) -> None:
        items = self._since_mark()
        self._stack.append(items)

    _frozenset = _list

    def _tuple(self, _: Any) -> None:
        items = self._since_mark()
        self._stack.append(tuple(items))

    def _tuple1(self, _: Any) -> None:
        self._stack[-1:] = [(self._stack[-1],)]

    def _tuple2(self, _: Any) -> None:
        self._stack[-2:] = [(self._stack[-2], self._stack[-1])]

    def _tuple3(self, _: Any) -> None:
        self._stack[-3:] = [(self._stack[-3], self._stack[-2], self._stack[-1])]

    def _dict(self, _: Any) -> None:
        pairs: dict[Any, Any] = {}
        self._fill(pairs, self._since_mark())
        self._stack.append(pairs)

    def _setitem(self, _: Any) -> None:
        pair = self._stack[-2:]
        del self._stack[-2:]
        self._fill(self._stack[-1], pair)

    def _setitems(self, _: Any) -> None:
        pairs = self._since_mark()
        self._fill(self._stack[-1], pairs)

    def _append(self, _: Any) -> None:
        item = self._stack.pop()
        _extend(self._stack[-1], [item])

    def _appends(self, _: Any) -> None:
        items = self._since_mark()
        _extend(self._stack[-1], items)

    _additems = _appends

    # names and what they would make

    def _global(self, text: str) -> None:
        module, _, name = text.partition(" ")
        self._push_name(module, name)

    def _stack_global(self, _: Any) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise ValueError("a name in it is no text")
        self._push_name(module, name)

    def _push_name(self, module: str, name: str) -> None:
        self._stack.append(self._weighed(Name.of(module, name)))

    def _weighed(self, name: Name) -> Name:
        self._left -= _NAME + 4 * (len(name.module) + len(name.name))
        return name

    def _persid(self, _: Any) -> None:
        raise ValueError("it refers to something outside of it")

    def _binpersid(self, _: Any) -> None:
        identity = self._stack.pop()
        kind = identity[0]
        if kind in ("module", b"module"):  # a class, in files that kept its source code
            self._stack.append(identity[1])
            return
        if kind not in ("storage", b"storage") or len(identity) not in (5, 6):
            raise ValueError("it refers to something outside of it")
        _, type_, key, _, count = identity[:5]
        if not isinstance(type_, Name) or not isinstance(count, int) or count < 0:
            raise ValueError("a storage in it makes no sense")
        dtype = _STORAGES.get(type_.name)
        if dtype is None and type_.name != "UntypedStorage":
            raise ValueError(f"its numbers are stored as {type_}, which is not known")
        storage = self._locate(key, dtype, count)
        if len(identity) == 6 and identity[5] is not None:
            storage = self._part_of(storage, key, *identity[5])
        self._stack.append(storage)

    def _part_of(self, storage: Storage, key: Any, name: Any, begin: Any, count: Any) -> Storage:
        """A part of a storage by name, as files from before torch 0.4 have them.

        Torch makes a part once by its name, whatever the file says of it later.
        """
        if not isinstance(name, str):
            raise ValueError("a part of a storage in it has no name")
        part = _part(storage, begin, count)
        if self._parts.setdefault((key, name), part) != part:
            raise ValueError("two parts of a storage in it have one name")
        return part

    def _reduce(self, _: Any) -> None:
        arguments = self._stack.pop()
        made_by = self._stack.pop()
        self._stack.append(self._made(made_by, arguments))

    def _newobj(self, _: Any) -> None:
        arguments = self._stack.pop()
        made_by = self._stack.pop()
        self._stack.append(self._made(made_by, arguments))

    def _newobj_ex(self, _: Any) -> None:
        named, arguments, made_by = (self._stack.pop() for _ in range(3))
        made = self._made(made_by, arguments)
        if isinstance(made, Inert):
            made.state = named
        self._stack.append(made)

    def _inst(self, text: str) -> None:
        module, _, name = text.partition(" ")
        arguments = tuple(self._since_mark())
        self._stack.append(self._made(self._weighed(Name.of(module, name)), arguments))

    def _obj(self, _: Any) -> None:
        made_by, *arguments = self._since_mark()
        self._stack.append(self._made(made_by, tuple(arguments)))

    def _build(self, _: Any) -> None:
        state = self._stack.pop()
        if isinstance(self._stack[-1], Stored):
            raise ValueError("a tensor in it is changed after it was made")
        if isinstance(self._stack[-1], Inert):
            self._stack[-1].state = state

    def _made(self, made_by: Any, arguments: Any) -> Any:
        """What a call would give."""
        if isinstance(made_by, Inert) and not made_by.made_by.standard:
            made_by = made_by.made_by  # a class that somebody's function would make
        if not isinstance(made_by, Name):
            raise CodeError(f"the result of {getattr(made_by, 'made_by', 'a call')}")
        if not isinstance(arguments, tuple):
            raise ValueError(f"{made_by} would be called with no list of arguments")
        refuse_call(made_by, arguments)
        make = _MADE.get(str(made_by))
        if make is not None:
            return make(self, made_by, arguments)
        self._left -= _INERT
        return Inert(made_by, arguments)

    def _made_tensor(self, made_by: Name, arguments: tuple[Any, ...]) -> Any:
        if len(arguments) > _MOST_ARGUMENTS:
            raise ValueError(f"{made_by} would be called with too many arguments")
        sizes = sum(min(len(a), MOST_AXES) for a in arguments if isinstance(a, tuple))
        self._left -= _TENSOR + _SIZE * sizes
        return _TENSORS[made_by.name](*arguments)

    def _made_otherwise(self, _: Name, arguments: tuple[Any, ...]) -> Any:
        """A tensor of a class of its own: made by the first argument from the third."""
        _refuse_numbers(arguments[3] if len(arguments) > 3 else None)
        return self._made(arguments[0], arguments[2])

    def _made_bare(self, _: Name, arguments: tuple[Any, ...]) -> Any:
        """An object of a class, as `object.__new__` makes it."""
        return self._made(arguments[0], ())

    def _made_attribute(self, made_by: Name, arguments: tuple[Any, ...]) -> Any:
        if len(arguments) != 2:
            raise CodeError(str(made_by))
        found = attribute(*arguments)
        if found is None:
            self._left -= _INERT
            return Inert(made_by, arguments)
        return self._weighed(found)

    def _made_list(self, _: Name, arguments: tuple[Any, ...]) -> list[Any]:
        self._left -= _LIST + _PLACE * (len(arguments[0]) if arguments else 0)
        self._check_left()
        return list(arguments[0]) if arguments else []

    def _made_dictionary(self, _: Name, arguments: tuple[Any, ...]) -> dict[Any, Any]:
        given = arguments[-1] if arguments else None
        self._left -= _DICT
        found: dict[Any, Any] = {}
        if isinstance(given, dict):
            self._left -= _FIRST_PAIR + _PAIR * len(given)
            self._check_left()
            found.update(given)
        elif isinstance(given, list | tuple):
            self._left -= _PAIR * len(given)
            self._check_left()
            self._fill(found, [part for pair in given for part in (pair[0], pair[1])])
        return found

    def _fill(self, target: Any, flat: list[Any]) -> None:
        """Put keys and values, one after the other, into a dictionary or what stands for one."""
        pairs = target.pairs if isinstance(target, Inert) else target
        if not isinstance(pairs, dict) or len(flat) % 2:
            raise ValueError("an entry in it belongs to no dictionary")
        self._left -= (0 if pairs else _FIRST_PAIR) + _PAIR // 2 * len(flat)
        for key, value in zip(flat[::2], flat[1::2], strict=True):
            kept = key_of(key, len(pairs))
            if isinstance(kept, Key):
                self._left -= 3 * _TEXT + len(kept.same) + len(kept.said)
                self._check_left()
            pairs[kept] = value

    def _check_left(self) -> None:
        if self._left < 0:
            raise TooMuchError(f"it describes more than {MOST_BUILT >> 20} MiB of things")


_SHORT = frozenset({"BININT", "BININT1", "BININT2", "FLOAT", "BINFLOAT"})
_LONG = frozenset({
    "INT", "LONG", "LONG1", "LONG4", "STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES",
    "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE",
    "BINUNICODE8",
})  # fmt: skip


def _extend(target: Any, more: list[Any]) -> None:
    items = target.items if isinstance(target, Inert) else target
    if not isinstance(items, list):
        raise ValueError("an entry in it belongs to no list")
    items.extend(more)


def _part(storage: Storage, offset: Any, count: Any) -> Storage:
    """A part of a storage, as the oldest files have them."""
    size = 1 if storage.dtype is None else storage.dtype.itemsize
    if type(offset) is not int or type(count) is not int or min(offset, count) < 0:
        raise ValueError("a storage in it makes no sense")
    if offset + count > storage.count:
        raise ValueError("a storage in it is larger than what it is a part of")
    return Storage(storage.dtype, count, storage.begin + offset * size, storage.source)


def _tensor(
    storage: Any,
    offset: Any,
    shape: Any,
    strides: Any,
    _: Any = None,
    __: Any = None,
    metadata: Any = None,
) -> Stored:
    if not isinstance(storage, Storage) or storage.dtype is None:
        raise ValueError("a tensor in it has no numbers")
    return _signed(_view(storage, storage.dtype, offset, shape, strides), metadata)


def _tensor_of_bytes(
    storage: Any,
    offset: Any,
    shape: Any,
    strides: Any,
    _: Any,
    __: Any,
    dtype: Any,
    metadata: Any = None,
) -> Stored:
    if not isinstance(storage, Storage) or not isinstance(dtype, Name):
        raise ValueError("a tensor in it has no numbers")
    found = getattr(torch, dtype.name, None)
    if not isinstance(found, torch.dtype):
        raise ValueError(f"its numbers are {dtype}, which is not known")
    size = 1 if storage.dtype is None else storage.dtype.itemsize
    whole = Storage(found, storage.count * size // found.itemsize, storage.begin, storage.source)
    return _signed(_view(whole, found, offset, shape, strides), metadata)


def _signed(stored: Stored, metadata: Any) -> Stored:
    """A tensor with what torch notes beside it: it negates and conjugates only when it must."""
    if metadata is None:
        return stored
    assert stored.dtype is not None
    if not isinstance(metadata, dict) or not all(type(v) is bool for v in metadata.values()):
        raise ValueError("a tensor in it has a note that makes no sense")
    noted = set(metadata)  # torch does not look at the values
    negative, conjugate = "neg" in noted, "conj" in noted
    if conjugate and not stored.dtype.is_complex:
        raise ValueError("real numbers in it are said to be conjugated")
    if noted - {"neg", "conj"} or (negative and not _has_signs(stored.dtype)):
        return _foreign(stored.shape, "noted to be read in a way of its own; save tensor.clone()")
    return replace(stored, negative=negative, conjugate=conjugate)


def _has_signs(dtype: torch.dtype) -> bool:
    return dtype.is_signed and dtype.itemsize > 1


def _view(storage: Storage, dtype: torch.dtype, offset: Any, shape: Any, strides: Any) -> Stored:
    """A tensor of a storage, after every claim about it was checked."""
    shape, strides = _sizes(shape), _sizes(strides)
    if len(shape) != len(strides) or type(offset) is not int or not 0 <= offset <= storage.count:
        raise ValueError("a tensor in it has a shape that makes no sense")
    if offset + span_of(shape, strides) > storage.count:
        raise ValueError(f"a tensor of shape {shape} in it reaches beyond its numbers")
    return Stored(shape, dtype, strides, storage.begin + offset * dtype.itemsize, storage.source)


def _sizes(sizes: Any) -> tuple[int, ...]:
    if isinstance(sizes, Inert):  # torch.Size
        sizes = sizes.arguments[0]
    if not isinstance(sizes, tuple | list) or absurd(sizes):
        raise ValueError("a tensor in it has a shape that makes no sense")
    return tuple(sizes)


def _parameter(data: Any, *_: Any) -> Any:
    return data


def _parameter_with_state(data: Any, _: Any, __: Any, state: Any) -> Any:
    _refuse_numbers(state)
    return data


def _refuse_numbers(state: Any) -> None:
    """Refuse attributes of a tensor that would give it other numbers."""
    for part in state if isinstance(state, tuple) else (state,):
        if isinstance(part, dict) and not part.keys().isdisjoint(("data", "real", "imag")):
            raise ValueError("a tensor in it is given other numbers after it was made")


def _foreign(shape: Any, reason: str) -> Stored:
    shape = _sizes(shape)
    return Stored(shape, None, contiguous(shape), 0, None, reason)


def _meta_tensor(dtype: Any, shape: Any, *_: Any) -> Stored:
    return _foreign(shape, "on the meta device: it has a shape but no numbers; save the weights")


def _sparse_tensor(layout: Any, data: Any) -> Stored:
    name = layout.arguments[0] if isinstance(layout, Inert) else layout
    shape = data[2] if name == "torch.sparse_coo" else data[3]
    return _foreign(shape, f"stored as {_text(name)}; densify it with .to_dense()")


def _nested_tensor(buffer: Any, *_: Any) -> Stored:
    return _foreign(
        buffer.shape, "a nested tensor; save the tensors inside, as tensor.unbind() gives them"
    )


def _subclass(kind: Any, dtype: Any, shape: Any, *_: Any) -> Stored:
    return _foreign(shape, f"a {_text(kind)}, which is not read; save a plain tensor")


def _text(what: Any) -> str:
    """A name for a message; the text of anything else in a pickle may be endless."""
    return str(what)[:LONGEST_NAME] if isinstance(what, str | Name) else "something else"


def _device_tensor(data: Any, *_: Any) -> Any:
    if isinstance(data, Stored):
        return data
    return _foreign((0,), "written on a device of its own; save it after .cpu()")


def _quantized(_: Any, __: Any, shape: Any, *___: Any) -> Stored:
    return _foreign(shape, "quantized; save tensor.dequantize()")


_TENSORS: dict[str, Callable[..., Any]] = {
    "_rebuild_tensor": _tensor,
    "_rebuild_tensor_v2": _tensor,
    "_rebuild_tensor_v3": _tensor_of_bytes,
    "_rebuild_parameter": _parameter,
    "_rebuild_parameter_with_state": _parameter_with_state,
    "_rebuild_meta_tensor_no_storage": _meta_tensor,
    "_rebuild_sparse_tensor": _sparse_tensor,
    "_rebuild_sparse_csr_tensor": _sparse_tensor,
    "_rebuild_nested_tensor": _nested_tensor,
    "_rebuild_wrapper_subclass": _subclass,
    "_rebuild_device_tensor_from_cpu_tensor": _device_tensor,
    "_rebuild_device_tensor_from_numpy": _device_tensor,
    "_rebuild_xla_tensor": _device_tensor,
    "_rebuild_qtensor": _quantized,
}
_MADE: dict[str, Callable[[_Machine, Name, tuple[Any, ...]], Any]] = {
    **{f"torch._utils.{name}": _Machine._made_tensor for name in _TENSORS},
    "torch._tensor._rebuild_from_type": _Machine._made_otherwise,
    "torch._tensor._rebuild_from_type_v2": _Machine._made_otherwise,
    "copyreg._reconstructor": _Machine._made_bare,
    "copyreg.__newobj__": _Machine._made_bare,
    "collections.OrderedDict": _Machine._made_dictionary,
    "collections.defaultdict": _Machine._made_dictionary,
    "collections.Counter": _Machine._made_dictionary,
    "builtins.dict": _Machine._made_dictionary,
    "builtins.frozenset": _Machine._made_list,
    "builtins.getattr": _Machine._made_attribute,
    "builtins.list": _Machine._made_list,
    "builtins.set": _Machine._made_list,
}
"""What is made in a way of its own, by its full name."""
