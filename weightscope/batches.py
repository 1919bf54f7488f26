"""Batches as loaders yield them, made into pairs of inputs and targets."""

from __future__ import annotations

import hashlib
import inspect
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import count
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from weightscope.adapters import pytree
from weightscope.arguments import attribute_of
from weightscope.calls import call_arguments, named_errors, plain, random_state
from weightscope.errors import InputError, keyword, kind, shown
from weightscope.graph.models import check_model
from weightscope.showing import counted

Batch = tuple[Any, Any]
Keys = tuple[Any, Any]

_END = object()
_INPUTS = ("image", "images", "img", "imgs", "input", "inputs", "pixel_values", "x", "data")
_MASKS = ("mask", "masks")
_TARGETS = (
    *_MASKS,
    *("label", "labels", "target", "targets"),
    *("seg", "segmentation", "gt", "ground_truth", "y"),
)


def read_batches(batches: Iterable[Any], model: nn.Module, keys: Keys | None = None) -> list[Batch]:
    """Read batches once and keep them, as pairs of inputs and targets.

    Args:
        batches: What a loader yields: pairs, longer tuples (what follows inputs and targets is left
            out), or mappings with one of the usual names for each. A `Dataset` gives batches of one
            image.
        model: For the number type of its inputs, and how many of them it needs.
        keys: Where inputs and targets are in a batch, as keys or positions; several as a tuple,
            ``("image", ("mask", "weight"))``, or by the names that the model takes them by,
            ``({"x": "image", "age": "age"}, "mask")``.

    Returns:
        Inputs (a tensor, a tuple of positional or a mapping of keyword arguments) and targets.
        Arrays are tensors, images have the model's number type, whole numbers among the targets are
        ``int64``.

    Raises:
        InputError: There is no batch, or one cannot be read; it is named.
    """
    if isinstance(batches, Tensor | Mapping) or _is_one_batch(batches):
        raise InputError(
            f"{keyword('batches')} is a single batch; put it in a list, [(images, targets)], or "
            "give a loader"
        )
    if keys is not None and (not isinstance(keys, tuple | list) or len(keys) != 2):
        raise InputError(
            f"{keyword('keys')} is {shown(keys)}, expected two: where the inputs and where the "
            "targets are in a batch, such as ('image', 'mask') or (0, 2)"
        )
    check_model(model)
    pairs: list[Batch] = []
    with random_state(model):  # a loader draws the seed of its workers, whatever it shuffles
        for index, batch in enumerate(each_batch(batches)):
            inputs, targets = _split(batch, index, keys, model)
            pair = _as_inputs(inputs, index, model), _as_targets(targets, index)
            if not isinstance(batches, Dataset):
                _refuse_sample(pair[0], index, model)
            _check_images(pair, index)
            pairs.append(pair)
    if not pairs:
        raise InputError(f"{keyword('batches')} is empty; give at least one pair (inputs, targets)")
    return pairs


def read_inputs(
    batches: Iterable[Any],
    model: nn.Module,
    count: int = 1,
    names: Sequence[str] = (),
    container: Any = None,
) -> list[Any]:
    """Read batches of which only the inputs are wanted, labelled or not.

    Args:
        batches: As for `read_batches`; a batch may be the inputs alone. One tensor is one batch.
        model: For the number type of its inputs.
        count: How many parts of a tuple the forward takes; what follows them is taken for targets,
            with a warning where it might be one of the arguments that may be left out.
        names: Its arguments by name, which a mapping may hold. Others that the forward declares go
            on to it too, which refuses them where it was read without, but for targets.
        container: Its one argument, where that is a list, a tuple or a mapping.

    Returns:
        Inputs of each batch: a tensor, a tuple of positional or a mapping of keyword arguments.

    Raises:
        InputError: There is no batch, or a mapping without a usual name for its images.
    """
    check_model(model)
    declared = [p.name for p in _parameters(model) if p.name not in _TARGETS]
    names = [*names, *declared]
    with random_state(model):
        read = [
            _as_inputs(_inputs_alone(batch, index, count, names, container), index, model)
            for index, batch in enumerate(_told(each_batch(batches), count, names, model))
        ]
    for index, inputs in enumerate(read):
        _refuse_empty(inputs, index)
    if not read:
        raise InputError(f"{keyword('images')} is empty; give at least one batch of images")
    return read


def _told(
    batches: Iterator[Any], count: int, names: Sequence[str], model: nn.Module
) -> Iterator[Any]:
    """The same; a warning where something of the first is left out that the forward might take."""
    for index, batch in enumerate(batches):
        name = _left_out(batch, count, names, model) if index == 0 else None
        if name is not None:
            warnings.warn(
                f"batch 0 of {keyword('images')} holds more than the inputs that the network is "
                f"read with, which is taken for targets and left out; if it is {name}, an argument"
                f" of {type(model).__name__} that need not be given, read the network with "
                f"{keyword('example_inputs')} that hold {name} too, and if not, yield the inputs "
                "alone",
                stacklevel=7,
            )
        yield batch


def _left_out(batch: Any, count: int, names: Sequence[str], model: nn.Module) -> str | None:
    """Which argument of the forward a batch may hold that is not taken from it; None: surely none.

    Args:
        batch: As for `read_inputs`.
        count: How many parts of a tuple are taken.
        names: Of the parts of a mapping that are taken.
        model: Whose forward it is.
    """
    if isinstance(batch, Mapping):
        masks = [p.name for p in _parameters(model) if p.name in _MASKS and p.default is None]
        return next((name for name in masks if name in batch and name not in names), None)
    if not isinstance(batch, list | tuple) or len(batch) <= count:
        return None
    return None if isinstance(batch[0], list | tuple) else _could_be(batch[count], count, model)


def _could_be(part: Any, place: int, model: nn.Module) -> str | None:
    """Which argument that may be left out a part of a tuple could be; None where it is none."""
    parameters = [p for p in _parameters(model) if p.kind in _POSITIONAL]
    if not isinstance(part, Tensor | np.ndarray) or place >= len(parameters):
        return None
    optional = parameters[place]
    named_as_target = optional.name in _TARGETS and optional.name not in _MASKS
    return None if optional.default is not None or named_as_target else optional.name


def _inputs_alone(
    batch: Any, index: int, count: int, names: Sequence[str], container: Any = None
) -> Any:
    """The inputs in a batch that may hold targets too."""
    listed = isinstance(batch, list | tuple) and bool(batch)
    if container is not None:
        places = [batch, batch[0]] if listed else [batch]
        fitting = [place for place in places if _fits(container, place)]
        if fitting:
            return (_cut_to(container, fitting[0]),)
    if isinstance(batch, Mapping):
        own = {name: batch[name] for name in names if name in batch}
        found = [key for key in _INPUTS if key in batch]
        if own or len(found) == 1:
            return own or batch[found[0]]
        raise InputError(
            f"batch {index} of {keyword('images')} is a mapping with {_names(batch)}; yield the "
            "images alone"
        )
    if not listed:
        return batch
    if count == 1:
        return batch[0]
    inside = isinstance(batch[0], list | tuple) and len(batch[0]) >= count
    return tuple((batch[0] if inside else batch)[:count])


def _fits(container: Any, value: Any) -> bool:
    """Whether a value holds what a list, tuple or mapping of tensors holds."""
    if isinstance(container, Mapping):
        keys = isinstance(value, Mapping) and all(key in value for key in container)
        return keys and all(_fits(part, value[key]) for key, part in container.items())
    if isinstance(container, list | tuple):
        if not isinstance(value, list | tuple) or len(value) != len(container):
            return False
        return all(map(_fits, container, value))
    return isinstance(value, Tensor | np.ndarray) == isinstance(container, Tensor)


def _cut_to(container: Any, value: Any) -> Any:
    """The same without other keys; loaders make lists of tuples."""
    if isinstance(container, Mapping):
        return {key: value[key] for key in container}
    return tuple(value) if type(container) is tuple else value


def example_in(batch: Any, model: nn.Module) -> Any:
    """The first image of what a loader of unlabelled or labelled images yields.

    Args:
        batch: As for `read_inputs`.
        model: Its forward says how many parts of a tuple and which of a mapping it takes.
    """
    parameters = _parameters(model)
    names = [p.name for p in parameters if p.default is p.empty or p.name not in _TARGETS]
    if isinstance(batch, Mapping) and any(p.kind is p.VAR_KEYWORD for p in parameters):
        names = [*names, *(key for key in batch if key not in _TARGETS)]
    count = max(1, _required(model))
    inputs = _inputs_alone(batch, 0, count, names)
    _refuse_empty(_tensors(inputs, 0), 0)
    if (
        count == 1
        and isinstance(batch, list | tuple)
        and isinstance(inputs, list | tuple | Mapping)
    ):
        by_name = isinstance(inputs, Mapping) and any(name in inputs for name in names)
        inputs = inputs if by_name else (inputs,)
    with warnings.catch_warnings():  # of whole numbers: whoever reads all batches says so
        warnings.simplefilter("ignore")
        inputs = _as_inputs(inputs, 0, model)
    return split_images(inputs)[0]


def left_out(batch: Any, model: nn.Module) -> str:
    """That parts of a tuple were taken for no inputs, in a sentence; empty where none were.

    Args:
        batch: As for `example_in`.
        model: Its forward says how many it cannot do without, and what it may take beside.
    """
    count = max(1, _required(model))
    names = [p.name for p in _parameters(model) if p.kind in _POSITIONAL]
    if not isinstance(batch, tuple) or len(batch) <= count or len(names) <= count:
        return ""
    named = ", ".join(f"{name!r}: ..." for name in names[: len(batch)])
    return (
        f"Of the {len(batch)} parts of a batch of {keyword('images')} {count} "
        f"{'was' if count == 1 else 'were'} taken, as many as the forward cannot do without; if "
        f"the others are inputs, too, yield mappings, {{{named}}}."
    )


def first_image(pairs: Sequence[Batch]) -> Any:
    """The inputs of the first image, as an example of how the model is called."""
    return split_images(pairs[0][0])[0]


def split_images(batch: Any) -> list[Any]:
    """Cut a batch (a tensor or a container of tensors) into batches of one image."""
    leaves, spec = pytree.tree_flatten(batch)
    sizes = {len(leaf) for leaf in leaves if isinstance(leaf, Tensor) and leaf.dim()}
    if not sizes:
        raise InputError(f"a batch of {type(batch).__name__} holds no tensor to split into images")
    return [
        pytree.tree_unflatten(
            [
                leaf[i : i + 1]
                if isinstance(leaf, Tensor) and leaf.dim() and len(leaf) == max(sizes)
                else leaf
                for leaf in leaves
            ],
            spec,
        )
        for i in range(max(sizes))
    ]


def which_image(inputs: Iterable[Any]) -> list[int]:
    """A number for every image, the same for copies of one, as a loader that repeats yields.

    Args:
        inputs: Batches of inputs, without targets.
    """
    numbers: dict[bytes, int] = {}
    found = []
    for batch in inputs:
        for image in split_images(batch):
            digest = hashlib.sha1(usedforsecurity=False)
            for tensor in pytree.tree_tensors(image):
                digest.update(f"{tuple(tensor.shape)}{tensor.dtype}".encode())
                values = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
                digest.update(values.view(-1).view(torch.uint8).numpy().tobytes())
            found.append(numbers.setdefault(digest.digest(), len(numbers)))
    return found


def _is_one_batch(batches: Any) -> bool:
    """Whether this is a pair of arrays rather than a list of pairs."""
    return (
        isinstance(batches, tuple | list)
        and len(batches) == 2
        and all(isinstance(part, Tensor | np.ndarray) for part in batches)
    )


def each_batch(batches: Iterable[Any]) -> Iterator[Any]:
    """The batches, a single one, or the samples of a dataset with a batch dimension.

    Raises:
        InputError: A path was given, or nothing that can be gone through, or the loader raises.
    """
    found = _each_batch(batches)
    # of a worker that was killed, as for want of memory, one learns that a connection broke off
    workers = attribute_of(batches, "num_workers")
    hint = "; num_workers=0 shows the error itself" if isinstance(workers, int) and workers else ""
    for number in count():
        with named_errors(f"batch {number} (counted from 0) cannot be read: the loader", hint):
            batch = next(found, _END)
        if batch is _END:
            return
        yield batch


def _each_batch(batches: Iterable[Any]) -> Iterator[Any]:
    if isinstance(batches, Tensor | np.ndarray | Mapping):
        yield batches
        return
    if isinstance(batches, str | bytes | os.PathLike) or not (
        hasattr(batches, "__iter__") or hasattr(batches, "__getitem__")
    ):
        raise InputError(
            f"expected batches of images, got {batches!r:.100}; read the files first: give a "
            "DataLoader, a dataset, a tensor (images, channels, sizes...) or a list of these"
        )
    if not isinstance(batches, Dataset):
        yield from batches
        return
    size = getattr(batches, "__len__", None)
    samples = iter(batches) if size is None else (batches[i] for i in range(size()))
    for sample in samples:
        yield pytree.tree_map(
            lambda v: v[None] if isinstance(v, Tensor | np.ndarray) else v, sample
        )


def _split(batch: Any, index: int, keys: Keys | None, model: nn.Module) -> Batch:
    """The inputs and the targets of one batch."""
    if keys is not None:
        return _at(batch, keys[0], index), _at(batch, keys[1], index)
    if isinstance(batch, Mapping):
        found = [[key for key in names if key in batch] for names in (_INPUTS, _TARGETS)]
        if [len(names) for names in found] != [1, 1]:
            raise InputError(
                f"batch {index} is a mapping with {_names(batch)}; say which are the inputs and "
                f"which the targets, such as {keyword('keys', f'({_two(batch)})')}"
            )
        return batch[found[0][0]], batch[found[1][0]]
    if not isinstance(batch, list | tuple) or len(batch) < 2:
        raise InputError(
            f"batch {index} is {_kind(batch)}, expected a pair (inputs, targets); wrap the "
            "loader in a generator that yields such pairs, or say where they are by "
            f"{keyword('keys')}"
        )
    if len(batch) > 2 and _required(model) > 1:
        raise InputError(
            f"batch {index} has {len(batch)} parts and {type(model).__name__} takes "
            f"{_required(model)} inputs; say which are the inputs and which the targets, such as "
            f"{keyword('keys', ((0, 1), 2))}"
        )
    name = _could_be(batch[1], 1, model)
    if len(batch) > 2 and name is not None and isinstance(batch[2], Tensor | np.ndarray):
        raise InputError(
            f"batch {index} has {len(batch)} parts, and {type(model).__name__} takes one input or "
            f"two ({name} may be left out); say which are the inputs and which the targets: "
            f"{keyword('keys', (0, 1))}, or {keyword('keys', ((0, 1), 2))}"
        )
    return batch[0], batch[1]


def _at(batch: Any, key: Any, index: int) -> Any:
    """A part of a batch by its key or position, or several as a tuple or by names."""
    if isinstance(key, tuple | list):
        return tuple(_at(batch, one, index) for one in key)
    if isinstance(key, Mapping):
        return {name: _at(batch, one, index) for name, one in key.items()}
    try:
        return batch[key]
    except (KeyError, IndexError, TypeError):
        if isinstance(key, str) and hasattr(batch, key):
            return getattr(batch, key)
        raise InputError(
            f"batch {index} has no {shown(key)}; it is {_kind(batch)} with {_names(batch)}"
        ) from None


def _names(batch: Any) -> str:
    """What the parts of a batch are called."""
    if isinstance(batch, Mapping):
        return ", ".join(map(shown, list(batch)[:20])) or "nothing in it"
    return f"{len(batch)} parts" if isinstance(batch, tuple | list) else "no parts"


def _two(batch: Mapping[Any, Any]) -> str:
    names = [*map(repr, batch), "'image'", "'mask'"]
    return ", ".join(names[:2])


def _kind(batch: Any) -> str:
    return f"a tuple of {len(batch)}" if isinstance(batch, tuple | list) else kind(batch)


def _parameters(model: nn.Module) -> list[inspect.Parameter]:
    """What the forward takes; nothing where that cannot be seen."""
    try:
        return list(inspect.signature(model.forward).parameters.values())
    except (TypeError, ValueError):
        return []


_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def _required(model: nn.Module) -> int:
    """How many positional arguments the forward cannot do without."""
    return sum(p.kind in _POSITIONAL and p.default is p.empty for p in _parameters(model))


def _tensors(tree: Any, index: int) -> Any:
    """Plain tensors in place of arrays and of other libraries' tensors."""

    def convert(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            if value.dtype.kind not in "biuf":
                raise InputError(f"batch {index} holds an array of {value.dtype}; give numbers")
            # torch knows neither other byte orders nor most unsigned numbers
            native = value.astype(value.dtype.newbyteorder("="))
            wide = native.dtype.kind == "u" and native.dtype.itemsize > 1
            return torch.from_numpy(native.astype(np.int64) if wide else native)
        if isinstance(value, Tensor):
            if value.layout is not torch.strided:
                raise InputError(
                    f"batch {index} holds a {str(value.layout).removeprefix('torch.')} tensor; "
                    "give dense ones, tensor.to_dense(), or to_padded_tensor(0.0) of a nested one"
                )
            return plain(value.detach().as_subclass(Tensor))
        return value

    return pytree.tree_map(convert, tree)


def _as_inputs(inputs: Any, index: int, model: nn.Module) -> Any:
    """Inputs in the number type of the model."""
    kind = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    complex_kind = next((p.dtype for p in model.parameters() if p.is_complex()), None)

    def convert(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if value.is_complex():
            return value.to(complex_kind or value.dtype)
        if value.is_floating_point():
            return value.to(kind)
        if value.dim() < 3 or (masks and value.dtype == torch.bool):  # steps of a diffusion, masks
            return value
        if index == 0:
            warnings.warn(
                f"batch 0 holds images of {value.dtype} from {int(value.min())} to "
                f"{int(value.max())}, which the model gets as they are; scale them in the loader "
                "if it was trained on others",
                stacklevel=6,  # two frames are of the public function's decorators
            )
        return value.to(kind)

    inputs = _tensors(dict(inputs) if isinstance(inputs, Mapping) else inputs, index)
    # beside images, truth values are masks, which the forward takes as they are
    masks = any(
        isinstance(v, Tensor) and v.dim() >= 3 and v.dtype != torch.bool
        for v in pytree.tree_leaves(inputs)
    )
    return pytree.tree_map(convert, inputs)


def _as_targets(targets: Any, index: int) -> Any:
    """Targets whose numbers losses and metrics take: float32 for float64, int64 for integers."""

    def convert(value: Any) -> Any:
        if not isinstance(value, Tensor) or value.dtype == torch.bool or value.is_complex():
            return value
        if value.dtype == torch.float64:
            return value.float()
        return value if value.is_floating_point() else value.long()

    return pytree.tree_map(convert, _tensors(targets, index))


def _images(tree: Any) -> int | None:
    """Number of images in the inputs or the targets of a batch; None without a tensor."""
    leaves = [v for v in pytree.tree_leaves(tree) if isinstance(v, Tensor) and v.dim()]
    return None if not leaves else len(max(leaves, key=Tensor.dim))


def _refuse_sample(inputs: Any, index: int, model: nn.Module) -> None:
    """Refuse one image without its batch dimension, whose channels would be taken for images."""
    kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    first = next((m for m in model.modules() if isinstance(m, kinds)), None)
    leaves = pytree.tree_tensors(call_arguments(inputs))
    if first is None or not leaves:
        return
    image = max(leaves, key=Tensor.dim)
    if image.dim() == len(first.kernel_size) + 1 and len(image) == first.in_channels:
        raise InputError(
            f"batch {index} is one sample: its image has shape {tuple(image.shape)}, without a "
            "batch dimension; give batches, such as DataLoader(dataset, batch_size=8), or "
            "(image[None], target[None])"
        )


def _refuse_empty(inputs: Any, index: int) -> None:
    """Refuse a batch of no image, such as a loader yields that leaves some out."""
    if _images(call_arguments(inputs)) == 0:
        raise InputError(f"batch {index} holds no images; leave empty ones out")


def _check_images(pair: Batch, index: int) -> None:
    """Refuse a batch without images, or with another number of targets."""
    _refuse_empty(pair[0], index)
    images, targets = _images(call_arguments(pair[0])), _images(pair[1])
    if images is None:
        raise InputError(f"batch {index} holds no images; give tensors or arrays")
    if targets is not None and targets != images:
        raise InputError(
            f"batch {index} holds {counted(images, 'image')} and {counted(targets, 'target')}; "
            "give one target for each image, with the same batch dimension"
        )
