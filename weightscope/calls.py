"""How a user's model is called: its arguments, on state that is restored afterwards."""

from __future__ import annotations

import random
import re
import traceback
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from weightscope.adapters import pytree
from weightscope.adapters.constants import is_of_a_library
from weightscope.adapters.dispatch import writes_of
from weightscope.errors import ForwardError, InputError, WeightscopeError, shown
from weightscope.restoring import (
    ATOMS,
    Step,
    as_it_is,
    finished,
    held_by,
    lend_iterators,
    reached,
)

_SHOWN = 500  # characters of a foreign error's text; some list every tensor that they met
_MOST = 10_000  # objects in one attribute that are looked at: it may hold whoever trains the model


def call_arguments(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments for one batch: a tensor, a tuple or a mapping."""
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    return (tuple(inputs), {}) if isinstance(inputs, list | tuple) else ((inputs,), {})


def checked_arguments(inputs: Any, what: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """`call_arguments` of what a user gave.

    Raises:
        InputError: It is none of these three.
    """
    if not isinstance(inputs, Tensor | Mapping | tuple | list):
        raise InputError(
            f"{what} must be a tensor, a tuple of positional arguments or a dict of keyword"
            f" arguments, not {type(inputs).__name__}"
        )
    return call_arguments(inputs)


def device_of(model: nn.Module) -> torch.device:
    """Where a model's parameters are."""
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def to_device(tree: Any, model: nn.Module) -> Any:
    """Move the tensors of a batch to where the model's parameters are.

    Raises:
        InputError: They have no numbers, and the model has.
    """
    device = device_of(model)
    if device.type != "meta" and any(v.is_meta for v in pytree.tree_tensors(tree)):
        raise InputError(
            f"the inputs ({shapes(tree)}) are on the device meta and hold no numbers; give tensors "
            f"on {device} that do"
        )
    return pytree.tree_map(lambda x: x.to(device) if isinstance(x, Tensor) else x, tree)


def plain(tree: Any) -> Any:
    """The same with copies of the tensors that were made in inference mode.

    Nothing can be differentiated through those, not even for the sake of a trace.
    """
    return pytree.tree_map(
        lambda v: v.clone() if isinstance(v, Tensor) and v.is_inference() else v, tree
    )


def fresh(*trees: Any) -> tuple[Any, ...]:
    """Copies for a user's function, which may write into its tensors and arrays.

    Gradients pass through the copies.
    """
    return tuple(pytree.tree_map(_copied, tree) for tree in trees)


def called(module: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """What a network returns for copies of its arguments: it may write into them."""
    own, named = fresh(tuple(args), dict(kwargs))
    return module(*own, **named)


def own_arguments(inputs: Any, model: nn.Module) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """`call_arguments` where the model is, copied: a forward may write into its inputs."""
    args, kwargs = fresh(*call_arguments(to_device(inputs, model)))
    return args, kwargs


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.clone()
    return value.copy() if isinstance(value, np.ndarray) else value


def only_tensor(output: Any) -> Tensor:
    """The prediction in what a model returned: a tensor, or the first one in a container."""
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Mapping):
        for key in ("logits", "out"):
            if isinstance(output.get(key), Tensor):
                return output[key]  # type: ignore[no-any-return]
    for leaf in pytree.tree_leaves(output):
        if isinstance(leaf, Tensor):
            return leaf
    raise InputError(f"expected a tensor, received {type(output).__name__} without any")


def leaves_by_place(value: Any) -> dict[str, Any]:
    """The leaves of a nested value, by what gets at them: ``[1]``, ``['aux']``."""
    leaves, _ = pytree.tree_flatten_with_path(value)
    return {"".join(map(str, path)): leaf for path, leaf in leaves}


def tensors_by_place(outputs: Any) -> dict[str, Tensor]:
    """The tensors in what a model returned, by what gets at them."""
    found = leaves_by_place(outputs)
    return {place: leaf for place, leaf in found.items() if isinstance(leaf, Tensor)}


def is_complex(tree: Any) -> bool:
    """Whether a tensor in it holds complex numbers."""
    return any(isinstance(v, Tensor) and v.is_complex() for v in pytree.tree_leaves(tree))


def say(error: BaseException) -> str:
    """The kind and the text of a foreign error, or the line that raised it where it has no text."""
    # a traced graph appends which of its nodes failed, and advice about torch's own logs
    own = shown(error, str).partition("\n\nWhile executing %")[0].strip()
    if not own and (frames := traceback.extract_tb(error.__traceback__)):
        own = f"{frames[-1].line} (line {frames[-1].lineno} of {frames[-1].filename})"
    text = f"{type(error).__name__}: {own}".strip().rstrip(".:")
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]} ..."


def shapes(tree: Any) -> str:
    """The sizes of the tensors among a call's arguments, and what else there is."""
    return ", ".join(
        "x".join(map(str, v.shape)) if isinstance(v, Tensor) else shown(v)[:40]
        for v in pytree.tree_leaves(tree)
    )


@contextmanager
def forward_errors(model: nn.Module, inputs: Any, where: str) -> Iterator[None]:
    """Turn what the model's forward raises into a `ForwardError` that names the inputs.

    Args:
        model: Whose forward runs inside the block.
        inputs: What it is called with.
        where: Where the inputs come from, ``"batch 3"``.
    """
    try:
        yield
    except WeightscopeError:
        raise
    except Exception as error:
        raise ForwardError(
            f"the forward of {type(model).__name__} raised on {where} ({shapes(inputs)}): "
            f"{say(error)}. The inputs of a batch must be what the model takes: as many channels, "
            "and sizes that its poolings divide (crop or resize the images)."
        ) from error


@contextmanager
def gradient_errors(model: nn.Module, inputs: Any, what: str, remedy: str) -> Iterator[None]:
    """Say why a gradient fails: none goes through the model's own forward, or through what is more.

    Args:
        model: Whose gradients, or a smaller network's of the same forward, are taken in the block.
        inputs: What it is called with.
        what: What else the gradient goes through.
        remedy: What else can be done.
    """
    try:
        yield
    except WeightscopeError:
        raise
    except Exception as error:
        reason = without_gradient(model, *own_arguments(inputs, model))
        if not reason:
            raise InputError(
                f"the backward pass of {what} raised {say(error)}; mend it, or {remedy}"
            ) from error
        raise ForwardError(
            f"{type(model).__name__} runs, but no gradient goes through its own forward: {reason}. "
            "Change the forward until outputs.sum().backward() runs (y = y * 2 in place of "
            f"y.mul_(2), no detach()), or {remedy}"
        ) from error


def without_gradient(model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """Why no gradient goes through a forward that runs, and where; nothing where one does."""
    own = {
        name: value.detach().requires_grad_()
        for name, value in model.named_parameters()
        if value.is_floating_point()
    }
    with (
        undisturbed(model),
        torch.enable_grad(),
        warnings.catch_warnings(record=True) as told,
    ):
        warnings.simplefilter("always")
        try:
            with torch.autograd.detect_anomaly(check_nan=False):
                outputs = torch.func.functional_call(model, own, *fresh(tuple(args), dict(kwargs)))
                found = [t for t in pytree.tree_tensors(pytree.opened(outputs)) if t.requires_grad]
                if not found:
                    return "none of its outputs has one"
                total = torch.stack([t.sum().real.double() for t in found]).sum()
                torch.autograd.grad(total, list(own.values()), allow_unused=True)
        except Exception as error:  # noqa: BLE001 - the finding is which
            places = [_place_in(str(warning.message)) for warning in told]
            return say(error).partition(". Hint: ")[0] + next(filter(None, places), "")
    return ""


def _place_in(text: str) -> str:
    """The line of the model in which the operation lies that torch's report tells of."""
    ours = Path(__file__).parent
    theirs: list[tuple[str, str, str]] = []
    for file, line, code in re.findall(r'File "(.*)", line (\d+), in .*\n    (.*)', text):
        if Path(file).is_relative_to(ours):
            theirs = []  # what called this library
        elif not is_of_a_library(file):
            theirs.append((file, line, code))
    if not theirs:
        return ""
    file, line, code = theirs[-1]
    return shown(f"; it has to do with what `{code.strip()}` returns (line {line} of {file})", str)


@contextmanager
def named_errors(what: str, hint: str = "") -> Iterator[None]:
    """Turn what the user's own function or loader raises into an `InputError` that names it."""
    try:
        yield
    except WeightscopeError:
        raise
    except Exception as error:
        raise InputError(f"{what} raised {say(error)}{hint}") from error


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put every module in evaluation mode, and back in its own mode afterwards.

    The flags are set one by one: a module's own ``train`` may do more, such as merging weights.
    """
    modes = [(module, module.training) for module in model.modules()]
    try:
        for module, _ in modes:
            module.training = False
        yield
    finally:
        finished(*(partial(setattr, module, "training", mode) for module, mode in modes))


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Run the model's forward in evaluation mode, and leave nothing of it behind.

    Afterwards, on failure and on interrupt too, these are what they were: the mode of every module,
    parameters, their gradients, buffers and other tensors that a module holds, its attributes (a
    counter, a list of what passed, an object that counts), and the random state of torch on the
    devices of the model, of numpy and of Python.

    Args:
        model: The user's model.
    """
    with random_state(model), unchanged(model), evaluation_mode(model):
        yield


def held_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Tensors in a module's attributes, and in the containers and objects there, by the attribute.

    Its parameters and buffers are not among them, nor is what lies in other modules.
    """
    for name, value in vars(module).items():
        if name not in _OF_TORCH and not issubclass(type(value), ATOMS):
            for found in _inside(value):
                if isinstance(found, Tensor):
                    yield name, found


_OF_TORCH = frozenset(vars(nn.Module()))
"""Attributes that every module has."""


def _inside(value: Any) -> Iterator[Any]:
    """A value and what it holds, as far as that is no module and no tensor."""
    waiting, seen = deque([value]), set[int]()
    while waiting and len(seen) < _MOST:
        value = waiting.popleft()
        if id(value) not in seen and not isinstance(value, nn.Module):
            seen.add(id(value))
            yield value
            waiting += [] if isinstance(value, Tensor) else held_by(value)


@contextmanager
def random_state(model: nn.Module | None = None) -> Iterator[None]:
    """Put back the random state of numpy, Python and torch, also on the devices of a model."""
    tensors = [] if model is None else [*model.parameters(), *model.buffers()]
    devices = {t.device for t in tensors if t.device.type not in ("cpu", "meta")}
    # one generator for all of Apple's devices: its functions take none
    where = [(torch.get_device_module(d), () if d.type == "mps" else (d,)) for d in devices]
    on_devices = [(module, args, module.get_rng_state(*args)) for module, args in where]
    on_cpu, of_numpy, of_python = torch.get_rng_state(), np.random.get_state(), random.getstate()
    try:
        yield
    finally:
        finished(
            partial(random.setstate, of_python),
            partial(np.random.set_state, of_numpy),
            partial(torch.set_rng_state, on_cpu),
            *(partial(module.set_rng_state, state, *args) for module, args, state in on_devices),
        )


def seed_all(number: int = 0) -> None:
    """Seed torch, numpy and Python, inside of what puts their states back (`random_state`)."""
    torch.manual_seed(number)
    np.random.seed(number)
    random.seed(number)


def random_states() -> dict[str, Any]:
    """Where the generators of torch, numpy and Python are, by their names."""
    of_torch = [torch.get_rng_state()]
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        of_torch += torch.cuda.get_rng_state_all()
    _, keys, *rest = np.random.get_state(legacy=True)
    return {
        "torch": [state.numpy().tobytes() for state in of_torch],
        "numpy.random": (np.asarray(keys).tobytes(), *rest),
        "random": random.getstate(),
    }


@contextmanager
def unchanged(module: nn.Module, *, parameters: bool = True) -> Iterator[None]:
    """Restore the attributes and the tensors that calls of it changed.

    Of attributes also what they hold: containers, arrays, generators, the attributes of objects.

    Args:
        module: What is called.
        parameters: Restore its parameters and their gradients too; not where they learn.
    """
    found = reached(module)
    given = [v for v in found if issubclass(type(v), Tensor)]
    given += [*module.parameters(), *module.buffers()]
    free = set() if parameters else {id(p) for p in module.parameters()}
    held = {id(v): v for v in given if not is_lazy(v) and id(v) not in free}
    leaves = [v for v in held.values() if v.is_leaf]
    gradients = [partial(setattr, v, "grad", v.grad) for v in leaves]
    flags = [partial(v.requires_grad_, v.requires_grad) for v in leaves]
    held |= {id(v.grad): v.grad for v in leaves if v.grad is not None}
    tensors = [_kept(v) for v in held.values() if not v.is_meta]
    attributes = as_it_is(found)
    try:
        lend_iterators(found)
        yield
    finally:
        finished(*attributes, *tensors, *flags, *gradients)


def as_they_are(model: nn.Module) -> list[Step]:
    """Steps that put back the attributes of modules, and what these hold now, but for tensors."""
    return as_it_is(reached(model))


def _kept(tensor: Tensor) -> Step:
    """A step that gives a tensor its memory, and the values that it has there now."""
    memory = tensor.detach()
    values = memory.clone()
    if tensor.layout != torch.strided or tensor.is_nested:
        return partial(_put_back_unlike, tensor, values, writes_of(tensor))
    return partial(_put_back, tensor, memory, values)


@torch.no_grad()
def _put_back(tensor: Tensor, memory: Tensor, values: Tensor) -> None:
    if _place(tensor) != _place(memory):
        tensor.data = memory
    if not torch.equal(memory, values):  # what did not change may be read-only
        own = memory.is_inference()
        same = own == torch.is_inference_mode_enabled()
        with nullcontext() if same else torch.inference_mode(own):
            memory.copy_(values)


def _place(tensor: Tensor) -> tuple[int, torch.Size, tuple[int, ...]]:
    return tensor.data_ptr(), tensor.shape, tensor.stride()


@torch.no_grad()
def _put_back_unlike(tensor: Tensor, values: Tensor, writes: int) -> None:
    """The same of a tensor that has no strides, and does not compare."""
    if writes_of(tensor) != writes:
        tensor.copy_(values)
