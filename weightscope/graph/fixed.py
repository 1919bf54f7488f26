"""What a network computes with as it was read: sizes and arguments that are numbers in its graph.

A coarse graph notes on its placeholders the axes of an image (``meta["space"]``) and that of a
clip's frames (``meta["frames"]``), whether it counts the images of a batch (``meta["counts"]``),
the lengths of what is no image (``meta["lengths"]``), the same of each tensor inside an argument
(``meta["inside"]``, by the path there), and the leaves
of an argument that were no tensors (``meta["fixed"]``, by the same path). Its first placeholder
notes what the forward takes (``meta["signature"]``): the arguments of a call are placed as the
forward would.
"""

from __future__ import annotations

import functools
import inspect
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, fx, nn

from weightscope.adapters.scripting import (
    is_recorded,
    is_written_to_onnx,
    size_of,
    warn_of_no_refusal,
)
from weightscope.adapters.symbols import (
    asked_for,
    decided_alike,
    free_symbols,
    hint,
    is_number,
    is_symbolic,
    multiple,
)
from weightscope.calls import leaves_by_place
from weightscope.errors import InputError, keyword, shown
from weightscope.graph.structure import ExampleInputs
from weightscope.showing import counted

_NO_DEFAULT = inspect.Parameter.empty
_SIZES_KEPT = 64  # answers for the last sizes that a module was called with
_NO_TENSORS = (
    bool,
    int,
    float,
    complex,
    str,
    np.ndarray,
)  # what a tracer hands on is none of these
_LONGEST = 60  # characters of a value in a message


@dataclass(frozen=True)
class Fixed:
    """What the calls of a graph are held to.

    Attributes:
        names: The arguments, in the order of the graph.
        sizes: Sizes of the images that are numbers, by place (the argument, or the argument and
            what gets at a tensor inside it) and axis.
        images: Number of images of a batch where it is a number, by place.
        frames: The axis of a clip's frames and their number, where it is one, by place.
        channels: The axis of an image's channels and their number, where the forward takes others,
            by place.
        lengths: Sizes of tensors that are no images, by place and axis, where the forward takes
            others.
        values: What was no tensor in an argument, by argument and path inside it; ``Tensor`` stands
            for a tensor.
        defaults: What stands for an argument that is left out.
        signature: What the forward takes.
        free: Sizes of the images that are free: the symbol, how many times it is taken, and the
            size that it was read at, by place and axis; also their number, where it decides.
        alike: Whether the forward takes the way that was read where the symbols have other sizes.
        decides: Whether it takes other ways at some sizes.
    """

    names: tuple[str, ...]
    sizes: Mapping[str, Mapping[int, int]]
    images: Mapping[str, int]
    frames: Mapping[str, tuple[int, int]]
    channels: Mapping[str, tuple[int, int]]
    lengths: Mapping[str, Mapping[int, int]]
    values: Mapping[str, Mapping[str, Any]]
    defaults: Mapping[str, Any]
    signature: inspect.Signature
    free: Mapping[str, Mapping[int, tuple[str, int, int]]]
    alike: Callable[[tuple[tuple[str, int], ...]], bool]
    decides: bool

    @property
    def only_decides(self) -> bool:
        """Whether all sizes are free, but for those at which the forward takes other ways."""
        units = [times for axes in self.free.values() for _, times, _ in axes.values()]
        return self.decides and not any(self.sizes.values()) and set(units) <= {1}

    @functools.cached_property
    def left_out(self) -> dict[str, Any]:
        """Arguments of the forward that are none of the graph's, with the default."""
        declared = self.signature.parameters.values()
        absent = [p for p in declared if p.name not in self.names]
        return {p.name: p.default for p in absent if p.default is not p.empty}

    def in_order(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
        """The arguments of a call in the order of the graph, placed as the forward places them.

        Raises:
            TypeError: The forward takes no such call.
            InputError: A call with another size or value than the network was read with, with an
                argument that it was read without, or without one that it was read with.
        """
        given = self._by_name(args, kwargs)
        self._refuse_more(given)
        self._refuse_fewer(given)
        tensors = self._by_place(given)
        self._warn_of_no_refusal(tensors)  # before sizes are asked, which settles them
        self._refuse_other_sizes(tensors)
        self._refuse_other_ways(tensors)
        self._refuse_other_batches(tensors)
        self._refuse_other_clips(tensors)
        self._refuse_other_channels(tensors)
        self._refuse_other_lengths(tensors)
        self._refuse_other_values(given)
        return [given[n] if n in given else self.defaults[n] for n in self.names]

    def by_place(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """What a call holds, by place: the argument, or the argument and the path inside it."""
        return self._by_place(self._by_name(args, kwargs))

    def _by_place(self, given: Mapping[str, Any]) -> dict[str, Any]:
        return {**given, **self._inside(given)}

    def _by_name(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """What is given for each argument; those of ``*more`` are ``more_0``, ``more_1``."""
        given: dict[str, Any] = {}
        for name, value in self.signature.bind(*args, **kwargs).arguments.items():
            kind = self.signature.parameters[name].kind
            if kind is inspect.Parameter.VAR_POSITIONAL:
                given |= {nth(name, index): item for index, item in enumerate(value)}
            else:
                given |= value if kind is inspect.Parameter.VAR_KEYWORD else {name: value}
        return given

    def _inside(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """What lies in arguments that are no tensors themselves, by place."""
        return {
            f"{name}{path}": leaf
            for name in self.names
            if self.values.get(name, {}).keys() != {""} and name in given
            for path, leaf in leaves_by_place(given[name]).items()
        }

    def _refuse_more(self, given: dict[str, Any]) -> None:
        for name in given.keys() - self.names:
            if name not in self.left_out:
                without = ""
            elif _same(given[name], self.left_out[name]):
                continue
            else:
                without = f", which computes with the default, {_text(self.left_out[name])}"
            raise InputError(
                f"{name} was not among the arguments that this network was read with{without};"
                f" analyse the original with {keyword('example_inputs')} that hold"
                f" {_wanted(name, given[name])}"
            )

    def _refuse_fewer(self, given: Mapping[str, Any]) -> None:
        for name in self.names:
            if name not in given and name not in self.defaults:
                raise InputError(
                    f"{name} is left out, and this network was read with {self._read(name)} and"
                    f" computes with that; give {name}, or analyse the original with"
                    f" {keyword('example_inputs')} without it"
                )

    def _read(self, name: str) -> str:
        """What an argument was when the network was read."""
        values = self.values[name]
        if values.keys() == {""}:
            return _text(values[""])
        tensors = all(value is Tensor for value in values.values())
        return counted(len(values), "tensor") if tensors else _text([*values.values()])

    def _warn_of_no_refusal(self, given: Mapping[str, Any]) -> None:
        """Warn where sizes are refused here, and not by what is recorded or written."""
        if is_recorded():
            lost = self.decides or any(self.sizes.values()) or bool(self.images or self.lengths)
        else:
            asked = [(name, axis) for name, axes in self.sizes.items() for axis in axes]
            asked += [(name, 0) for name in self.images]
            asked += [(name, axis) for name, (axis, _) in self.frames.items()]
            asked += [(name, axis) for name, axes in self.lengths.items() for axis in axes]
            if self.decides:
                asked += [(name, axis) for name, axes in self.free.items() for axis in axes]
            lost = is_written_to_onnx() and any(
                axis < given[name].dim() and is_symbolic(given[name].shape[axis])
                for name, axis in asked
                if isinstance(given.get(name), Tensor)
            )
        if lost:
            warn_of_no_refusal()

    def _refuse_other_sizes(self, given: Mapping[str, Any]) -> None:
        for name, sizes in self.sizes.items():
            value = given.get(name)
            if not isinstance(value, Tensor) or any(axis >= value.dim() for axis in sizes):
                continue
            if not all(is_number(size_of(value, axis), size) for axis, size in sizes.items()):
                got, read = _by(size_of(value, axis) for axis in sizes), _by(sizes.values())
                raise _read_otherwise(f"{name} is {got}", read, "size", "the size that you use")

    def _refuse_other_ways(self, given: Mapping[str, Any]) -> None:
        """Refuse sizes at which the forward takes another way than where it was read."""
        sizes: list[tuple[str, int]] = []
        for name, axes in self.free.items():
            value = given.get(name)
            if not isinstance(value, Tensor) or any(axis >= value.dim() for axis in axes):
                return
            given_sizes = [size_of(value, axis) for axis in axes]
            if is_written_to_onnx():  # its files hold no questions, and some cannot be put off
                given_sizes = [hint(s) if is_symbolic(s) else s for s in given_sizes]
            units = [times for _, times, _ in axes.values()]
            if any(size % unit for size, unit in zip(given_sizes, units, strict=True)):
                got, read = _by(given_sizes), f"multiples of {_by(units)}"
                raise _read_otherwise(f"{name} is {got}", read, "size", "the size that you use")
            symbols = (symbol for symbol, _, _ in axes.values())
            sizes += zip(symbols, map(operator.floordiv, given_sizes, units), strict=True)
        if not self.alike(tuple(sizes)):
            name, axes = next(iter(self.free.items()))
            got = _by(size_of(given[name], axis) for axis in axes)
            read = _by(size for _, _, size in axes.values())
            raise InputError(
                f"{name} is {got}, where the forward takes another way than at {read}, at which"
                f" this network was read; analyse the original with {keyword('example_inputs')} of"
                " the size that you use"
            )

    def _refuse_other_batches(self, given: Mapping[str, Any]) -> None:
        for name, *counts in _others(given, {n: (0, count) for n, count in self.images.items()}):
            got, read = (counted(count, "image") for count in counts)
            raise _read_otherwise(
                f"{name} holds {got}", f"{read} a batch", "number", "as many images as you use"
            )

    def _refuse_other_clips(self, given: Mapping[str, Any]) -> None:
        for name, *counts in _others(given, self.frames):
            got, read = (counted(count, "frame") for count in counts)
            raise _read_otherwise(
                f"{name} holds {got}", f"{read} a clip", "number", "as many frames as you use"
            )

    def _refuse_other_channels(self, given: Mapping[str, Any]) -> None:
        for name, got, read in _others(given, self.channels):
            raise InputError(
                f"{name} has {counted(got, 'channel')}, and this network was read with {read};"
                f" analyse the original with {keyword('example_inputs')} of as many as you use, or"
                f" with {keyword('layout')} where these are no channels"
            )

    def _refuse_other_lengths(self, given: Mapping[str, Any]) -> None:
        for axis in sorted({axis for axes in self.lengths.values() for axis in axes}):
            held = {n: (axis, axes[axis]) for n, axes in self.lengths.items() if axis in axes}
            for name, got, read in _others(given, held):
                raise InputError(
                    f"{name} is {got} long along axis {axis}, and this network was read at {read}"
                    f" and computes with that; analyse the original with"
                    f" {keyword('example_inputs')} as long as you use"
                )

    def _refuse_other_values(self, given: Mapping[str, Any]) -> None:
        for name, values in self.values.items():
            if name not in given:
                continue
            found = leaves_by_place(given[name])
            wrong = next((p for p in values if p in found and not _same(found[p], values[p])), None)
            if wrong is None and found.keys() == values.keys():
                continue
            where = wrong or ""
            got = found[wrong] if wrong is not None else given[name]
            read = _text(values[wrong]) if wrong is not None else self._read(name)
            varies = ", or a tensor where the forward takes one" if _is_number(got) else ""
            raise InputError(
                f"{name}{where} is {_text(got)}, and this network was read with {read} and"
                f" computes with that; analyse the original with {keyword('example_inputs')} of"
                f" the value that you use{varies}"
            )


def _others(
    given: Mapping[str, Any], held: Mapping[str, tuple[int, int]]
) -> list[tuple[str, Any, int]]:
    """Places of tensors with another size along an axis than is held, that size, and the held one.

    Args:
        given: What a call holds, by place.
        held: Axes and their sizes, by place.
    """
    sizes = [
        (name, size_of(value, axis), number)
        for name, (axis, number) in held.items()
        if isinstance(value := given.get(name), Tensor) and axis < value.dim()
    ]
    return [(name, size, number) for name, size, number in sizes if not is_number(size, number)]


def _wanted(name: str, value: Any) -> str:
    """How to give an argument that a network is to be read with."""
    if isinstance(value, _NO_TENSORS) and not _is_number(value):
        return f"{name}={_text(value)}"
    return f"{name}, a tensor where its values vary"


def _is_number(value: Any) -> bool:
    """Whether a tensor may stand in its place; a flag has no values between two."""
    return isinstance(value, Tensor | int | float | complex) and not isinstance(value, bool)


def fixed_in(graph: fx.Graph) -> Fixed:
    """What a coarse graph computes with, from the notes on its placeholders."""
    nodes = graph.find_nodes(op="placeholder")
    decisions = nodes[0].meta.get("decisions", {}) if nodes else {}
    tensors = noted_tensors(graph)
    sizes: dict[str, dict[int, int]] = {}
    for place, meta in tensors.items():
        sizes[place] = {
            axis: hint(meta["val"].shape[axis])
            for axis in meta.get("space", ())
            if not is_symbolic(meta["val"].shape[axis])
        }
    return Fixed(
        names=tuple(str(node.target) for node in nodes),
        sizes=sizes,
        images={
            place: hint(meta["val"].shape[0])
            for place, meta in tensors.items()
            if meta.get("counts") and not is_symbolic(meta["val"].shape[0])
        },
        frames={
            place: (axis, hint(meta["val"].shape[axis]))
            for place, meta in tensors.items()
            if (axis := meta.get("frames")) is not None and not is_symbolic(meta["val"].shape[axis])
        },
        channels={
            place: (axis, hint(meta["val"].shape[axis]))
            for place, meta in tensors.items()
            if (axis := meta.get("channels")) is not None and meta.get("space")
        },
        lengths={place: meta["lengths"] for place, meta in tensors.items() if "lengths" in meta},
        values={str(n.target): n.meta["fixed"] for n in nodes if "fixed" in n.meta},
        defaults={str(n.target): n.meta["default"] for n in nodes if "default" in n.meta},
        signature=nodes[0].meta["signature"] if nodes else inspect.Signature(),
        free={place: free for place, meta in tensors.items() if (free := _free(meta, decisions))},
        alike=_alike(decisions),
        decides=bool(asked_for(decisions)),
    )


def noted_tensors(graph: fx.Graph) -> dict[str, dict[str, Any]]:
    """What is noted of each tensor that a graph is given, by place."""
    nodes = graph.find_nodes(op="placeholder")
    return {place: meta for node in nodes for place, meta in _tensors(node)}


def _tensors(node: fx.Node) -> Iterator[tuple[str, dict[str, Any]]]:
    """The tensors in an argument: their places, and what is noted of them."""
    inside = node.meta.get("inside")
    if inside is None:
        yield str(node.target), node.meta
    else:
        yield from ((f"{node.target}{path}", meta) for path, meta in inside.items())


def note_inside(node: fx.Node, path: Sequence[Any], tensor: fx.Node) -> None:
    """Note on a placeholder what is known of a tensor inside its argument.

    Args:
        node: The placeholder.
        path: The steps from the argument to the tensor; none where it is one.
        tensor: What stands for it in the graph.
    """
    if path:
        known = {
            key: tensor.meta.get(key) for key in ("val", "space", "frames", "channels", "counts")
        }
        node.meta.setdefault("inside", {})["".join(map(str, path))] = known


def _alike(decisions: Mapping[Any, Any]) -> Callable[[tuple[tuple[str, int], ...]], bool]:
    def alike(sizes: tuple[tuple[str, int], ...]) -> bool:
        known = dict(sizes)
        # one symbol for several sizes: the forward asked for them to be the same
        return all(known[s] == n for s, n in sizes) and decided_alike(decisions, known)

    kept = functools.lru_cache(maxsize=_SIZES_KEPT)(alike)

    def alike_or_traced(sizes: tuple[tuple[str, int], ...]) -> bool:
        """Sizes that are traced have no hash; what is asked of them is noted in their trace."""
        return (alike if any(is_symbolic(n) for _, n in sizes) else kept)(sizes)

    return alike_or_traced


def _free(meta: Mapping[str, Any], decisions: Mapping[Any, Any]) -> dict[int, tuple[str, int, int]]:
    """The free sizes of an image by axis: symbol, how many times it is taken, the size read.

    The number of images is among them where the forward decides by it.
    """
    axes = meta.get("space", ())
    if meta.get("counts") and free_symbols([meta["val"].shape[0]]) & asked_for(decisions):
        axes = (0, *axes)
    sizes = {axis: meta["val"].shape[axis] for axis in axes}
    return {a: (*multiple(size), hint(size)) for a, size in sizes.items() if is_symbolic(size)}


def nth(name: str, index: int) -> str:
    """Name of one of the arguments that ``*name`` takes."""
    return f"{name}_{index}"


def note_signature(model: nn.Module, nodes: Sequence[fx.Node], inputs: ExampleInputs) -> None:
    """Note on the first placeholder what the forward takes.

    Args:
        model: Whose forward it is.
        nodes: All placeholders.
        inputs: How it was called. A wrapped forward may declare other arguments than it takes; it
            then takes those that it was read with.
    """
    bare = inspect.Parameter.empty
    declared = inspect.signature(model.forward)
    parameters = [p.replace(annotation=bare) for p in declared.parameters.values()]
    signature = inspect.Signature(parameters)
    try:
        signature.bind(*inputs.args, **inputs.kwargs)
    except TypeError:
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        signature = inspect.Signature([inspect.Parameter(str(n.target), kind) for n in nodes])
    nodes[0].meta["signature"] = signature


def note_values(model: nn.Module, node: fx.Node, value: Any) -> None:
    """Note on a placeholder what its argument held, and the forward's default.

    Args:
        model: Whose forward it is an argument of.
        node: The placeholder.
        value: The argument of the example.
    """
    leaves = {p: Tensor if isinstance(v, Tensor) else v for p, v in leaves_by_place(value).items()}
    node.meta["fixed"] = leaves
    parameter = inspect.signature(model.forward).parameters.get(str(node.target))
    default = _NO_DEFAULT if parameter is None else parameter.default
    if default is not _NO_DEFAULT and Tensor not in leaves.values():
        own = leaves_by_place(default)
        if own.keys() == leaves.keys() and all(_same(own[p], leaves[p]) for p in leaves):
            node.meta["default"] = default


def values_note(graph: fx.Graph) -> str:
    """Which arguments are numbers, texts and the like in the graph; empty where none is."""
    texts = [
        (f"{name}{path}={_text(value)}", _is_number(value))
        for name, values in fixed_in(graph).values.items()
        for path, value in values.items()
        if value is not Tensor and value is not None
    ]
    if not texts:
        return ""
    varies = any(number for _, number in texts)
    return (
        f"read with {', '.join(text for text, _ in texts)} only: what is no tensor is part of the"
        f" network that is read. A variant refuses other values; pass {keyword('example_inputs')}"
        f" with those that you use{', or a tensor where the forward takes one' if varies else ''}"
    )


def _by(sizes: Iterable[int]) -> str:
    return "x".join(map(str, sizes))


def _read_otherwise(given: str, read: str, what: str, wanted: str) -> InputError:
    return InputError(
        f"{given}, and this network was read at {read} and computes with that {what}; analyse the"
        f" original with {keyword('example_inputs')} of {wanted}"
    )


def _same(given: Any, read: Any) -> bool:
    if read is Tensor:
        return given is not None and not isinstance(given, _NO_TENSORS)
    if given is read:
        return True
    if isinstance(given, Tensor) and (given.numel() != 1 or isinstance(read, str)):
        return False
    if (given is None) != (read is None):
        return False
    if isinstance(given, Tensor) and isinstance(read, bool):
        read = int(read)  # torch.jit.trace has no operator that compares a tensor with a bool
    try:
        return bool(given == read)
    except Exception:  # noqa: BLE001 - of somebody's own class, or an array of numbers
        return False


def _text(value: Any) -> str:
    if isinstance(value, Tensor) and value.numel() != 1:
        return f"a tensor of shape {tuple(value.shape)}"
    text = "a tensor" if value is Tensor else shown(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
