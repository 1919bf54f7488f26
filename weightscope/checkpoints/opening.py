"""The tensors in a file or folder of weights, whatever wrote it, by content and never by suffix."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

from weightscope.checkpoints.keys import Key
from weightscope.checkpoints.limits import (
    LARGEST_HEADER,
    LONGEST_NAME,
    MOST_AXES_OF_ALL,
    MOST_CONTAINERS,
    MOST_LETTERS,
    MOST_TENSORS,
    MOST_VIEWS,
)
from weightscope.checkpoints.names import Inert, Name
from weightscope.checkpoints.others import SAMPLE, SAVE, is_json, is_safetensors, what_it_is
from weightscope.checkpoints.safetensors_files import read_json, read_safetensors
from weightscope.checkpoints.source import Source, path_of, quoted
from weightscope.checkpoints.steps import text_of
from weightscope.checkpoints.stored import Stored
from weightscope.checkpoints.torch_files import read_archive, read_old_format
from weightscope.errors import CheckpointError

_TRUSTED = "where you trust it, load it with the code that wrote it"
_MOST_ARGUMENTS = 64  # of an object that are looked at
_RECONSTRUCTED = ("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct")
_FROM_BUFFER = ("numpy.core.numeric._frombuffer", "numpy._core.numeric._frombuffer")
_SAVED_AS = re.compile(
    r"(model|pytorch_model|diffusion_pytorch_model|adapter_model|open_clip_model)\b.*"
    r"\.(safetensors|bin|pt|pth)(\.index\.json)?"
)


@dataclass(frozen=True, eq=False, slots=True)
class Named:
    """A tensor in a file under its full name.

    Attributes:
        stored: The tensor.
        container: Name of the dictionary or list that it lies in; ``""`` for the outermost.
        same_as: First name of the same numbers; ``""`` where this is the first.
    """

    stored: Stored
    container: str
    same_as: str = ""


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """What a file or folder holds.

    Attributes:
        path: Where it was read from; of a folder, the file in it.
        tensors: Tensors by name, in the order of the file; one that lies deeper is named by its
            path in the file, ``"state_dict.conv.weight"``.
        skipped: Names of what holds tensors but was not read, with the reasons.
    """

    path: str
    tensors: Mapping[str, Named]
    skipped: Mapping[str, str]


def open_checkpoint(path: Any) -> Checkpoint:
    """Find the tensors in a file or folder, without reading their numbers or running anything.

    Args:
        path: A safetensors file, what ``torch.save`` wrote, the index of a sharded checkpoint, or
            a folder that ``save_pretrained`` wrote.

    Raises:
        CheckpointError: It is missing, damaged, contradicts itself, or is something else; the text
            says what, and what helps.
        InputError: ``path`` is no path.
    """
    given = path_of(path)
    try:
        is_folder = os.path.isdir(given)
    except ValueError:  # a name that no file can have; opening it says so
        is_folder = False
    file = _file_in(given) if is_folder else given
    source = Source.open(file)
    start = source.text(0, min(source.size, SAMPLE))
    if is_json(start):
        tensors, skipped = _sharded(source)
    else:
        tensors, skipped = _flattened(_content(source, start), source)
    if not tensors:
        raise CheckpointError(_why_empty(source.path, skipped))
    return Checkpoint(source.path, tensors, skipped)


def _content(source: Source, start: bytes) -> Any:
    """What one file describes: dictionaries, lists and numbers with ``Stored`` tensors in them."""
    if is_safetensors(start):
        return dict(read_safetensors(source))
    if start[:2] == b"PK":
        return read_archive(source)
    if start[:1] == b"\x80":
        return read_old_format(source)
    known = what_it_is(start)
    if known is not None:
        raise CheckpointError(f"{source.path} is {known[0]}; {known[1]}")
    raise CheckpointError(
        f"{source.path} is no checkpoint: it is neither a safetensors file, nor its index, nor "
        f"written by torch.save; {SAVE}"
    )


def _sharded(source: Source) -> tuple[dict[str, Named], dict[str, str]]:
    """The tensors that an index of shards names, in its order."""
    path = source.path
    if source.size > LARGEST_HEADER:
        raise CheckpointError(f"{path} is no index of a checkpoint: it is too long for one")
    index = read_json(source, 0, source.size)
    files = index.get("weight_map")
    if not isinstance(files, dict) or not files:
        what = "its weight_map names no tensors" if "weight_map" in index else "no weight_map"
        raise CheckpointError(
            f"{path} is JSON but no index of a checkpoint ({what}); give the file of weights"
        )
    shards: dict[str, dict[str, Named]] = {}
    tensors = {}
    skipped: dict[str, str] = {}
    for name, file in files.items():
        if not isinstance(file, str) or os.path.basename(file) != file or not file:
            raise CheckpointError(
                f"{path}: {quoted(file)} is not the name of a file in the same folder"
            )
        if file not in shards:
            shard = Source.open(os.path.join(os.path.dirname(path), file))
            if not _belongs(os.path.dirname(path), file):
                raise CheckpointError(
                    f"{path}: {quoted(file)} is a link to a file outside of its folder; put the "
                    "file itself there, or give that file"
                )
            start = shard.text(0, min(shard.size, SAMPLE))
            if is_json(start):
                raise CheckpointError(
                    f"{path}: {quoted(file)} is an index too, or no checkpoint; an index names "
                    "files of tensors"
                )
            shards[file], left = _flattened(_content(shard, start), shard)
            skipped |= left
        if name not in shards[file]:
            raise CheckpointError(
                f"{path} places {quoted(name)} in {quoted(file)}, which does not have it"
            )
        tensors[name] = shards[file][name]
    return tensors, skipped


def _belongs(folder: str, file: str) -> bool:
    """Whether a file lies in the folder, or where the cache of Hugging Face keeps its files.

    There ``snapshots/REVISION/...`` holds links to files in ``blobs`` beside ``snapshots``.
    """
    places = [os.path.realpath(folder)]
    above, _, below = os.path.abspath(folder).rpartition(f"{os.sep}snapshots{os.sep}")
    if below:
        places.append(os.path.realpath(os.path.join(above, "blobs")))
    real = os.path.realpath(os.path.join(folder, file))
    return any(real.startswith(place.rstrip(os.sep) + os.sep) for place in places)


def _file_in(folder: str) -> str:
    """The one file of weights in a folder."""
    try:
        names = sorted(os.listdir(folder))
        folders = [name for name in names if os.path.isdir(os.path.join(folder, name))]
    except OSError as error:
        raise CheckpointError(f"cannot read {folder!r}: {error.strerror}; check it") from error
    if ".metadata" in names and any(name.endswith(".distcp") for name in names):
        raise CheckpointError(
            f"{folder} is a distributed checkpoint; join it with python -m "
            "torch.distributed.checkpoint.format_utils dcp_to_torch, and give the file"
        )
    files = [name for name in names if name not in folders and _looks_right(folder, name)]
    usual = [name for name in files if _SAVED_AS.fullmatch(name)] or files
    best = min(map(_rank, usual), default=None)
    found = [name for name in usual if _rank(name) == best]
    if len(found) == 1:
        return os.path.join(folder, found[0])
    listed = ", ".join(quoted(name) for name in (usual or folders)[:5])
    raise CheckpointError(
        f"{folder} is a folder with {len(usual)} files of weights"
        + (f"; name one of them ({listed})" if usual else "; give the one that holds them")
        + (f", or a folder in it ({listed})" if folders and not usual else "")
    )


def _rank(name: str) -> tuple[int, int]:
    """Which of several files to take: an index before its shards, safetensors before pickles."""
    safetensors, index = ".safetensors" in name, name.endswith(".index.json")
    return (2 - 2 * safetensors) + (not index), name.count(".")  # model.fp16.bin after model.bin


def _looks_right(folder: str, name: str) -> bool:
    try:
        source = Source.open(os.path.join(folder, name))
    except CheckpointError:
        return False
    start = source.text(0, min(source.size, SAMPLE))
    if is_json(start):
        return name.endswith(".index.json")
    return is_safetensors(start) or start[:2] == b"PK" or start[:1] == b"\x80"


def _why_empty(path: str, skipped: Mapping[str, str]) -> str:
    for name, reason in skipped.items():
        where = f" under {quoted(name)}" if name else ""
        return f"{path} holds no tensors by name, but{where} {reason}"
    return f"{path} holds no tensors; is it a checkpoint? {SAVE.capitalize()}"


def _flattened(content: Any, source: Source) -> tuple[dict[str, Named], dict[str, str]]:
    """Every tensor of a nest of dictionaries and lists by a name of its own.

    Each container is visited once, however many hold it.
    """
    found: dict[str, Named] = {}
    skipped: dict[str, str] = {}
    names = _Unique()
    visited: dict[int, str] = {}
    states: dict[int, Any] = {}
    known: dict[Any, str] = {}
    containers = letters = axes = 0
    waiting: list[Iterator[tuple[str, str, Any]]] = [iter([("", "", content)])]
    while waiting:
        name, container, node = next(waiting[-1], ("", "", None))
        if node is None:
            waiting.pop()
            continue
        containers += not isinstance(node, Stored)
        letters += len(name)
        axes += len(node.shape) if isinstance(node, Stored) else 0
        if (
            containers > MOST_CONTAINERS
            or len(found) > MOST_TENSORS
            or letters > MOST_LETTERS
            or axes > MOST_AXES_OF_ALL
        ):
            raise CheckpointError(
                f"{source.path} is no checkpoint of sane size: it holds more than "
                f"{MOST_TENSORS:,} tensors, {MOST_CONTAINERS:,} dictionaries and lists, "
                f"{MOST_AXES_OF_ALL:,} axes, or {MOST_LETTERS >> 20} MiB of names; save "
                "model.state_dict() alone"
            )
        if isinstance(node, Stored):
            unique = names(name if node is not content else "tensor")
            first = known.setdefault(node.identity, unique)
            found[unique] = Named(node, container, first if first != unique else "")
            continue
        if id(node) in visited:
            if not isinstance(node, tuple):
                skipped[names(name)] = f"the same object as {quoted(visited[id(node)])}"
            continue
        visited[id(node)] = name
        kind = _module_in(node)
        if kind:
            skipped[names(name)] = (
                f"a pickled {kind}, a whole model with its code; {_TRUSTED}, and {SAVE}"
            )
            continue
        if _is_array(node):
            skipped[names(name)] = "a numpy array; save torch.from_numpy(array) in its place"
            continue
        prefix = f"{name}." if node is not content else ""
        if len(prefix) > LONGEST_NAME:
            raise CheckpointError(
                f"{source.path} nests its content too deeply to be a checkpoint; {SAVE}"
            )
        waiting.append(_parts(node, prefix, name, states))
    _check_views([named.stored for named in found.values() if not named.same_as], source)
    return found, skipped


class _Unique:
    """Makes names that were not used yet."""

    def __init__(self) -> None:
        self._times: dict[str, int] = {}

    def __call__(self, name: str) -> str:
        while True:
            times = self._times.get(name, 0)
            self._times[name] = times + 1
            if not times:
                return name
            name = f"{name} ({times + 1})"  # {"a.b": x, "a": {"b": y}}: both are a.b


def _parts(
    node: Any, prefix: str, name: str, states: dict[int, Any]
) -> Iterator[tuple[str, str, Any]]:
    """Tensors and containers inside a container: name, name of the container, and what it is."""
    for key, child in _children(node, states):
        if isinstance(child, Stored | Inert) or (isinstance(child, dict | list | tuple) and child):
            yield prefix + _key(key), name, child


def _children(node: Any, states: dict[int, Any]) -> Iterable[tuple[Any, Any]]:
    """Keys and values inside a container.

    Args:
        node: The container.
        states: The states that were looked through; many objects may share one, and each is
            looked through once.
    """
    if isinstance(node, dict):
        return node.items()
    if isinstance(node, list | tuple):
        return enumerate(node)
    if not isinstance(node, Inert):
        return ()
    arguments = enumerate(node.arguments[:_MOST_ARGUMENTS])
    tensors = [(i, argument) for i, argument in arguments if isinstance(argument, Stored)]
    # of an object with slots it is a pair: attributes, and what is in slots
    parts = node.state[:2] if isinstance(node.state, tuple) else (node.state,)
    new = {id(part): part for part in parts if id(part) not in states}
    states |= new
    attributes = chain.from_iterable(
        part.items() if isinstance(part, dict) else enumerate(part)
        for part in new.values()
        if isinstance(part, dict | list)
    )
    return chain(node.pairs.items(), enumerate(node.items), tensors, attributes)


def _module_in(node: Any) -> str:
    """The class of a pickled module; ``""`` for anything else."""
    if isinstance(node, Inert) and isinstance(node.state, dict) and "_modules" in node.state:
        made_by = node.arguments[0] if node.arguments else node.made_by
        return quoted((made_by if isinstance(made_by, Name) else node.made_by).name)[1:-1]
    return ""


def _is_array(node: Any) -> bool:
    """Whether this is an array of numpy that may hold weights: floats, not the random state's."""
    if not isinstance(node, Inert):
        return False
    made_by, dtype = str(node.made_by), None
    if made_by in _RECONSTRUCTED and isinstance(node.state, tuple):
        dtype = node.state[2] if len(node.state) > 2 else None
    elif made_by in _FROM_BUFFER:
        dtype = node.arguments[1] if len(node.arguments) > 1 else None
    text = dtype.arguments[0] if isinstance(dtype, Inert) and dtype.arguments else ""
    return isinstance(text, str) and text.lstrip("<=>|")[:1] == "f"


def _key(key: str | bytes | Key | None) -> str:
    if isinstance(key, bytes):
        return text_of(key[:LONGEST_NAME])
    return key.said if isinstance(key, Key) else str(key)


def _check_views(tensors: list[Stored], source: Source) -> None:
    distinct = [stored.distinct for stored in tensors if not stored.reason]
    asked = sum(t.elements * t.dtype.itemsize for t in distinct if t.dtype and not t.overlaps)
    if asked > MOST_VIEWS * source.size:
        raise CheckpointError(
            f"{source.path} has {source.size:,} bytes, of which its tensors claim {asked:,}: many "
            "are views of the same numbers; save copies, as tensor.clone() gives them"
        )
