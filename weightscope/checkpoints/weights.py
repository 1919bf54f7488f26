"""The weights of one network in a checkpoint, and whether they fit a model."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from weightscope.adapters.modes import outside_modes
from weightscope.arguments import checked, instance
from weightscope.checkpoints.opening import Checkpoint, open_checkpoint
from weightscope.checkpoints.safetensors_files import holds_recipe
from weightscope.checkpoints.source import quoted
from weightscope.errors import CheckpointError, InputError, UnknownLayerError, keyword

# keys under which training code commonly keeps the network, the most telling first
_USUAL = (
    "network_weights", "state_dict", "model_state_dict", "model_state", "network_state_dict",
    "net_state_dict", "model", "network", "net", "weights", "params",
)  # fmt: skip
_DATA_PARALLEL, _COMPILED = "module.", "_orig_mod."
_AVERAGED = ("ema", "averag", "swa", "shadow")
_EXAMPLES = 3
# an average of a batch norm that files from before torch 1.0 lack, and that evaluation ignores
_OPTIONAL = "num_batches_tracked"


@dataclass(frozen=True, eq=False, repr=False)
class Weights(Mapping[str, Tensor]):
    """Tensors of a checkpoint by name, read from the file when they are asked for.

    Attributes:
        prefix: What was taken off every name, ``"state_dict."``; the file's own names are the
            prefix and the name.
        others: Prefixes of other tensors in the file that would fit as well.
        checkpoint: Everything that was found in the file.
    """

    prefix: str
    checkpoint: Checkpoint
    _names: Mapping[str, str]
    others: tuple[str, ...] = ()

    @outside_modes()
    def __getitem__(self, name: str) -> Tensor:
        """Read one tensor.

        Raises:
            CheckpointError: It cannot be read, or the file was changed since it was opened.
        """
        stored = self.checkpoint.tensors[self._names[name]].stored
        if stored.reason:
            raise CheckpointError(
                f"{self.checkpoint.path}: {quoted(name)} cannot be read: {stored.reason}"
            )
        return stored.tensor()

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __repr__(self) -> str:
        return f"<{len(self)} tensors of {self.checkpoint.path}, {self.note}>"

    @property
    def note(self) -> str:
        """What was taken off the names, in words."""
        note = f"{self.prefix!r} taken off their names" if self.prefix else "named as in the file"
        if self.others:
            others = ", ".join(map(quoted, self.others))
            note += f"; {others} would fit too ({keyword('prefix')} takes them)"
        return note

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, without reading it.

        Raises:
            UnknownLayerError: There is no tensor of this name.
        """
        if not isinstance(name, str) or name not in self._names:
            raise UnknownLayerError(
                f"name={quoted(name)}: {self.checkpoint.path} has no such tensor; list(weights) "
                "gives the names"
            )
        return self.checkpoint.tensors[self._names[name]].stored.shape


@checked()
@outside_modes()
def read_weights(path: str | os.PathLike[str], *, prefix: str | None = None) -> Weights:
    """Find the weights of a network in a checkpoint, whatever wrote it; nothing in it is executed.

    They may lie under a usual name (``state_dict`` of Lightning, ``network_weights`` of nnU-Net,
    ``model``, ``net``, ``model_state_dict``, ...), next to an optimiser's state or averaged
    weights, and their names may begin with what DistributedDataParallel (``module.``) and
    ``torch.compile`` (``_orig_mod.``) put before them. The attribute ``prefix`` says what was taken
    off. `fit_weights` goes on from there with the model's own names.

    Args:
        path: See `scan`.
        prefix: Take the tensors whose names in the file begin with this, ``"ema.module."``; None
            looks for the usual ones.

    Returns:
        Tensors by name, read from the file when they are asked for.

    Raises:
        CheckpointError: The file is no checkpoint, is damaged, or has no such names.

    Example:
        >>> import tempfile, torch
        >>> file = tempfile.mkdtemp() + "/last.ckpt"
        >>> torch.save({"epoch": 3, "state_dict": {"model.weight": torch.ones(2)}}, file)
        >>> weights = read_weights(file)
        >>> weights.prefix, list(weights)
        ('state_dict.', ['model.weight'])
    """
    checkpoint = open_checkpoint(path)
    names = list(checkpoint.tensors)
    if prefix is None:
        prefix = _usual_prefix(checkpoint)
    found = {name[len(prefix) :]: name for name in names if name.startswith(prefix)}
    if not found:
        starts = Counter(name.partition(".")[0] for name in names)
        listed = ", ".join(quoted(start) for start, _ in starts.most_common(_EXAMPLES))
        raise CheckpointError(
            f"no name in {checkpoint.path} begins with {prefix!r}; they begin with {listed}"
        )
    return Weights(prefix, checkpoint, found)


def _usual_prefix(checkpoint: Checkpoint) -> str:
    """Where the network usually lies, and what is put before the names of all its tensors."""
    containers = {named.container for named in checkpoint.tensors.values()}
    prefix = next((f"{key}." for key in _USUAL if key in containers), "")
    names = [name for name in checkpoint.tensors if name.startswith(prefix)]
    wrapped = True
    while wrapped:
        wrapped = False
        for wrapper in (_DATA_PARALLEL, _COMPILED):
            if all(name.startswith(prefix + wrapper) for name in names):
                prefix, wrapped = prefix + wrapper, True
    return prefix


@checked(weights=instance(Weights, "what read_weights returns"))
@outside_modes()
def fit_weights(model: nn.Module, weights: Weights, *, prefix: str | None = None) -> Weights:
    """The weights of a checkpoint by the names of a model, or why they do not fit.

    Among everything in the file, the tensors are taken that fit the model best: under which key
    they lie, and what a wrapper put before their names, follows from the names and shapes that
    the model has. Of weights and their running average that fit alike, the weights are taken.
    The model is not changed; ``model.load_state_dict(fit_weights(model, weights))`` changes it.

    Args:
        model: The network, compiled or wrapped or not.
        weights: From `read_weights`.
        prefix: Take the tensors whose names in the file are this and a name of the model.

    Returns:
        A tensor for every name in ``model.state_dict()``; ``note`` says what was taken off.

    Raises:
        CheckpointError: They do not fit; the text counts what is missing, unexpected or of another
            shape, with examples and what may help.

    Example:
        >>> import tempfile, torch
        >>> file = tempfile.mkdtemp() + "/last.ckpt"
        >>> torch.save({"state_dict": {"model.weight": torch.ones(1, 2)}}, file)
        >>> network = nn.Linear(2, 1, bias=False)
        >>> fitted = fit_weights(network, read_weights(file))
        >>> fitted.note
        "'state_dict.model.' taken off their names"
        >>> network.load_state_dict(fitted)
        <All keys matched successfully>
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"expected a torch.nn.Module, got {type(model).__name__}")
    own = {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    lazy = next((name for name, value in own.items() if is_lazy(value)), None)
    if lazy:
        raise InputError(f"{quoted(lazy)} of the model has no shape yet; run the model once first")
    bare = _unwrapped(list(own))
    expected = {bare[name]: tuple(value.shape) for name, value in own.items()}
    found = {name.replace(_COMPILED, ""): name for name in weights.checkpoint.tensors}
    shapes = {bare: weights.checkpoint.tensors[name].stored.shape for bare, name in found.items()}
    fits = _prefixes_that_fit(expected, shapes)
    if prefix is not None:
        fits = {prefix.replace(_COMPILED, ""): 0}
    best = next(iter(fits), None)
    if best is None:
        raise CheckpointError(_no_name_in_common(model, weights.checkpoint.path, expected, shapes))
    names = {}
    twins = {_place(value): name for name, value in own.items() if best + bare[name] in found}
    for name, value in own.items():
        there = name if best + bare[name] in found else twins.get(_place(value), name)
        names[name] = best + bare[there]
    missing = [
        name for name, key in names.items() if key not in found and not name.endswith(_OPTIONAL)
    ]
    other = [n for n, key in names.items() if key in found and shapes[key] != tuple(own[n].shape)]
    known = set(names.values())
    tensors = weights.checkpoint.tensors
    containers = {tensors[found[key]].container for key in known if key in found}
    unexpected = [
        key[len(best) :]
        for key, file_name in found.items()
        if key.startswith(best) and key not in known and tensors[file_name].container in containers
    ]
    if missing or unexpected or other:
        shown = {
            n: f"{quoted(n)} {shapes[names[n]]} in the file, {tuple(own[n].shape)} in the model"
            for n in other
        }
        raise CheckpointError(
            _mismatch(model, weights.checkpoint.path, best, missing, unexpected, shown, expected)
        )
    chosen = {name: found[key] for name, key in names.items() if key in found}
    taken = Counter(file[: -len(bare[name])] for name, file in chosen.items() if bare[name])
    return Weights(
        next(iter(taken.most_common(1)), ("", 0))[0],
        weights.checkpoint,
        chosen,
        tuple(p for p, score in fits.items() if p != best and score == fits[best]),
    )


def pair_weights(first: Weights, second: Weights) -> tuple[Weights, Weights]:
    """Two checkpoints of one network by the names that they share, whatever stands before those.

    Args:
        first: From `read_weights`.
        second: The same of another file.

    Returns:
        Both with so much taken off their names that as many tensors as possible are in both with
        one name and one shape; as they were where nothing helps.

    Example:
        >>> import tempfile, torch
        >>> last, best = (tempfile.mkdtemp() + "/weights.pt" for _ in range(2))
        >>> torch.save({"state_dict": {"model.weight": torch.ones(2)}}, last)
        >>> torch.save({"weight": torch.ones(2)}, best)
        >>> one, two = pair_weights(read_weights(last), read_weights(best))
        >>> list(one) == list(two)
        True
    """
    pairs = []
    for one, two in ((first, second), (_without_shared(first), _without_shared(second))):
        pairs += [(one, two), (_like(one, two), two), (one, _like(two, one))]
    return max(pairs, key=lambda pair: _in_common(*pair))


def _without_shared(weights: Weights) -> Weights:
    """What all names begin with taken off."""
    # letter by letter, up to a dot
    shared = os.path.commonprefix(list(weights))  # noqa: RUF071
    return _beginning_with(weights, weights.prefix + shared[: shared.rfind(".") + 1])


def _like(weights: Weights, other: Weights) -> Weights:
    """The tensors of a file that are named like those of another one."""
    expected = {name: other.shape(name) for name in other}
    shapes = {name: named.stored.shape for name, named in weights.checkpoint.tensors.items()}
    best = next(iter(_prefixes_that_fit(expected, shapes)), weights.prefix)
    return _beginning_with(weights, best)


def _beginning_with(weights: Weights, prefix: str) -> Weights:
    names = {n[len(prefix) :]: n for n in weights.checkpoint.tensors if n.startswith(prefix)}
    return Weights(prefix, weights.checkpoint, names)


def _in_common(first: Weights, second: Weights) -> int:
    return sum(name in second and first.shape(name) == second.shape(name) for name in first)


def _unwrapped(names: Sequence[str]) -> dict[str, str]:
    """Names without what wrappers put before them."""
    bare = {name: name.replace(_COMPILED, "") for name in names}
    while bare and all(name.startswith(_DATA_PARALLEL) for name in bare.values()):
        bare = {name: short.removeprefix(_DATA_PARALLEL) for name, short in bare.items()}
    return bare


def _place(tensor: Tensor) -> tuple[Any, ...]:
    """Equal for two names of the same numbers."""
    if tensor.is_meta or not tensor.numel():
        return (id(tensor),)
    return tensor.data_ptr(), tuple(tensor.shape), tensor.stride()


def _prefixes_that_fit(
    expected: Mapping[str, tuple[int, ...]], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, int]:
    """What may stand before the model's names, the best first, with the tensors that then fit."""
    named: Counter[str] = Counter()
    shaped: Counter[str] = Counter()
    longest = max(map(len, expected), default=0)
    for name, shape in shapes.items():
        # no longer end can be a name of the model; trying all would take the square of its length
        more = len(name) - longest
        at = 0 if more <= 0 else (name.find(".", more - 1) + 1 or -1)
        while at >= 0:
            wanted = expected.get(name[at:])
            if wanted is not None:
                named[name[:at]] += 1
                shaped[name[:at]] += wanted == shape
            dot = name.find(".", at)
            at = dot + 1 if dot >= 0 else -1
    ranked = sorted(named, key=lambda p: (-shaped[p], -named[p], _is_average(p)))
    return {prefix: shaped[prefix] for prefix in ranked}


def _is_average(prefix: str) -> bool:
    return any(word in prefix.lower() for word in _AVERAGED)


def _no_name_in_common(
    model: nn.Module, path: str, expected: Mapping[str, Any], shapes: Mapping[str, Any]
) -> str:
    ours, theirs = next(iter(expected), ""), next(iter(shapes))
    text = (
        f"{path} does not fit {type(model).__name__}: no name is the same; the file has names like "
        f"{quoted(theirs)}, the model like {quoted(ours)}; "
    )
    inner = next(
        (n for n in expected if any(n[i + 1 :] in shapes for i, c in enumerate(n) if c == ".")),
        None,
    )
    if inner:
        outer = next(inner[: -len(n)] for n in shapes if inner.endswith("." + n))
        return text + f"give the network inside, which the model holds as {quoted(outer[:-1])}"
    if sorted(expected.values()) == sorted(shapes.values()):
        return text + "the shapes are the same: rename the tensors and save them again"
    return text + "give the network that it is of"


def _mismatch(
    model: nn.Module,
    path: str,
    prefix: str,
    missing: Sequence[str],
    unexpected: Sequence[str],
    other: Mapping[str, str],
    expected: Mapping[str, Any],
) -> str:
    """A short table of what does not fit, and what may help."""
    rows = (
        ("missing", list(map(quoted, missing))),
        ("unexpected", list(map(quoted, unexpected))),
        ("other shape", list(other.values())),
    )
    lines = [
        f"  {what:11s} {len(examples):6d}   {', '.join(examples[:_EXAMPLES])}"
        + (", ..." if len(examples) > _EXAMPLES else "")
        for what, examples in rows
        if examples
    ]
    without = f" with {quoted(prefix)} taken off" if prefix else ""
    if holds_recipe(path):
        remedy = "it is a cut network: weightscope.load(path, model_factory) rebuilds it"
    elif other and not missing and not unexpected:
        few = len(other) <= max(_EXAMPLES, len(expected) // 10)
        remedy = (
            "build the model with the "
            + ("input channels and classes" if few else "width")
            + " that the shapes in the file show"
        )
    elif len(missing) > len(expected) // 2:
        remedy = "it seems to be of another network; build the model that was trained"
    else:
        remedy = "build the model with the configuration that it was trained with"
    return "\n".join([f"{path} does not fit {type(model).__name__}{without}:", *lines, remedy])
