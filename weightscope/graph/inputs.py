"""Find an example input: number of dimensions, channels, and a size that runs."""

from __future__ import annotations

import functools
import inspect
import itertools
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.overrides import TorchFunctionMode

from weightscope.adapters import pytree
from weightscope.adapters.dispatch import FAKE_TENSOR_LOGGER, FakeTensorMode
from weightscope.adapters.tracing import (
    as_exported,
    constants_of,
    eagerly,
    hold_constants,
    quiet,
    without_numbers,
)
from weightscope.calls import (
    as_they_are,
    checked_arguments,
    finished,
    held_tensors,
    plain,
    random_state,
    say,
    shapes,
)
from weightscope.errors import ForwardError, InputError, WeightscopeError, keyword, kind, shown
from weightscope.graph.capture import throwaway_copy
from weightscope.graph.layouts import (
    FirstLayer,
    arranged,
    check_rank,
    dimensions_of,
    infer_layout,
    parse_layout,
)
from weightscope.graph.memory import Descent
from weightscope.graph.structure import ExampleInputs
from weightscope.graph.values import reads_values

_OTHER_LAYOUTS = ("NHWC", "NHW", "NL", "NDHWC", "NLC")
_TRIALS_OF_A_LAYOUT = 4
# moderate sizes that many downsampling steps divide come first, odd demands last
_SIZES: Mapping[int, tuple[tuple[int, ...], ...]] = {
    1: tuple(
        (n,)
        for n in (
            512,
            256,
            1024,
            2048,
            64,
            4096,
            8192,
            16384,
            16000,
            5184,
            44100,
            22050,
            32000,
            65536,
        )
    ),
    2: (
        *((n, n) for n in (256, 128, 224, 512, 384, 64, 96, 192, 320, 32, 572, 1024, 28, 518)),
        *((n, n) for n in (288, 216, 240)),  # strides of 3 and 5
        # spectrograms: time by frequency, with the bins of usual transforms
        *((128, n) for n in (161, 257, 80, 64, 513, 40)),
        *((n, 128) for n in (161, 257, 80, 513)),
    ),
    3: (*((n,) * 3 for n in (64, 96, 128, 32, 48, 72)), (8, 64, 64), (16, 112, 112)),
}
_SIZE_NAMES = (
    "img_size",
    "image_size",
    "input_size",
    "sample_size",
    "input_shape",
    "spatial_size",
    "input_image_size",
    "resolution",
    "input_resolution",
    "in_size",
    "seq_len",
    "segment_length",
    "input_length",
)
_CHANNEL_NAMES = (
    "in_channels",
    "num_channels",
    "in_chans",
    "input_channels",
    "n_channels",
    "latent_channels",
    "channels",
)
_STEP_NAMES = (
    "timestep",
    "timesteps",
    "time",
    "t",
    "step",
    "steps",
    "noise_labels",
    "sigma",
    "sigmas",
    "noise",
    "noise_level",
    "time_step",
    "time_steps",
    "ts",
)
# what conditions an image without being one
_CONDITION_NAMES = (
    *_STEP_NAMES,
    "encoder_hidden_states",
    "context",
    "cond",
    "condition",
    "conditioning",
    "class_labels",
    "labels",
    "label",
    "text",
    "emb",
    "embedding",
    "time_emb",
    "temb",
)
_WIDTH_NAMES = ("cross_attention_dim", "context_dim", "cond_dim", "emb_dim", "embed_dim")
_LIKELIEST = 8  # sizes that are tried before other channels are
_MAX_SHAPES = 90
_MAX_CALLS_A_SHAPE = 12
_TRIALS_FOR_MORE = 6  # failures after which no second size is looked for
_TRIALS_BESIDE = 40  # failures among the sizes between: eight sizes of five numbers of channels
_TRIALS_TO_TRAIN = 12  # sizes after which none is looked for that runs in train mode too


def _kind(model: object) -> str:
    """What was given in a model's place, and how it becomes one."""
    if isinstance(model, type):
        return f"the class {model.__name__}; call it: {model.__name__}(...)"
    if isinstance(model, str | os.PathLike):
        return (
            f"the path {shown(model, os.fspath)!r}; build the network and load the file into it: "
            "model.load_state_dict(weightscope.fit_weights(model, weightscope.read_weights(path)))"
        )
    if isinstance(model, Mapping):
        return (
            f"{kind(model)}; build the network and load the state into it: "
            "model.load_state_dict(...)"
        )
    return type(model).__name__


def check_model(model: object) -> nn.Module:
    """Refuse what is no model with values in its parameters.

    Raises:
        InputError: Not a Module, no parameters, or parameters without values.
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"expected a torch.nn.Module (an instance), received {_kind(model)}")
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise InputError(
                f"{name} is a torch.jit.ScriptModule, whose operations cannot be seen; put the"
                " module that it was traced or scripted from in its place (with"
                " load_state_dict(script.state_dict()))"
            )
    parameters = dict(model.named_parameters())
    for name, parameter in parameters.items():
        if isinstance(parameter, nn.parameter.UninitializedParameter):
            raise InputError(
                f"{name} of {type(model).__name__} is not initialised yet (a lazy module); run the"
                " model once on an example before passing it"
            )
        if parameter.is_inference():
            raise InputError(
                f"{name} of {type(model).__name__} was made in inference mode, so that nothing can"
                " be differentiated through it; make or copy the model outside of"
                " torch.inference_mode()"
            )
        if parameter.is_meta:
            raise InputError(
                f"{name} of {type(model).__name__} lies on the meta device and has no values; load"
                " the weights, or use to_empty(device='cpu') and initialise them"
            )
    if not parameters:
        raise InputError(
            f"{type(model).__name__} has no parameters; there is nothing to analyse. Pass the"
            " network that holds the weights"
        )
    return model


def find_inputs(
    trial: Trial, example_inputs: Any = None, layout: str | None = None
) -> Iterator[ExampleInputs]:
    """Yield the user's example, or every one found that the model's forward accepts.

    Args:
        trial: The model on fake tensors.
        example_inputs: A tensor, a tuple of positional arguments, a dict of keyword arguments, or
            None to find one (of one image).
        layout: What the image's axes are, ``"NHWC"``; read from the first layer where None.

    Raises:
        InputError: ``example_inputs`` is none of these, or does not fit ``layout``.
        ForwardError: The forward raises on the example, or on everything that was tried.
    """
    letters = None if layout is None else parse_layout(layout)
    if isinstance(example_inputs, ExampleInputs):
        call = plain((example_inputs.args, dict(example_inputs.kwargs)))
        example = replace(example_inputs, args=call[0], kwargs=call[1])
        yield _laid_out(trial, example, letters or example_inputs.layout or None)
    elif example_inputs is None:
        yield from _search(trial, letters) if letters is not None else _search_any_layout(trial)
    else:
        args, kwargs = plain(checked_arguments(example_inputs, "example_inputs"))
        dimensions = _dimensions((args, kwargs))
        check_rank(letters or "", [v.dim() for v in _leaves((args, kwargs))])
        error = trial.error(args, kwargs)
        if error is not None:
            if (read := reads_values(error, trial.original)) is not None:
                raise read from error
            given = shapes((args, kwargs))
            raise ForwardError(
                f"the forward of {trial.name} raised on {keyword('example_inputs')} ({given}): "
                f"{say(error)}. Pass {keyword('example_inputs')} as the forward takes "
                f"them{_unbatched(trial, dimensions)}{_listed(trial, args)}."
            ) from error
        example = ExampleInputs(args, kwargs, dimensions, guessed=False)
        yield _laid_out(trial, example, letters)


def _unbatched(trial: Trial, dimensions: int) -> str:
    """A hint where an example has one axis less than a batch for the model's convolutions."""
    kinds = enumerate((nn.Conv1d, nn.Conv2d, nn.Conv3d), 1)
    modules = list(trial.original.modules())
    wanted = [d for d, kind in kinds if any(isinstance(module, kind) for module in modules)]
    if wanted and dimensions == wanted[0] - 1:
        return ", with the images of a batch first: a single one as image[None]"
    return ""


def _listed(trial: Trial, args: tuple[Any, ...]) -> str:
    """A hint where an example has more positional arguments than the forward takes."""
    parameters = inspect.signature(trial.original.forward).parameters.values()
    taken = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    more = any(p.kind is p.VAR_POSITIONAL for p in parameters) or len(args) <= len(taken)
    if more or not taken:
        return ""
    return (
        "; a list or tuple holds positional arguments, so that one argument that is a list itself"
        f" goes by its name, {{{taken[0].name!r}: [...]}}, or into a tuple, ([...],)"
    )


def _laid_out(trial: Trial, inputs: ExampleInputs, layout: str | None) -> ExampleInputs:
    """The inputs with their layout: the given one, or what the first convolution shows."""
    if layout is None:
        ranked = _tensors(inputs)
        image = next((v for v in ranked if v.dim() > 2), None)
        image = next(v for v in ranked if v.dim() == 2) if image is None else image
        layout = infer_layout(image.shape, trial.first_layer(inputs))
    dimensions = dimensions_of(layout) if layout else inputs.dimensions
    if not dimensions:
        raise _no_image()
    return replace(inputs, layout=layout, dimensions=dimensions)


def two_images(trial: Trial, inputs: ExampleInputs) -> ExampleInputs:
    """The same inputs with a batch of two, where the model takes it.

    A batch of one is a special case to the tracer, and would stay the only one.
    """
    image = next(v for v in _tensors(inputs) if v.dim() == inputs.rank)
    if image.shape[0] != 1:
        return inputs

    def double(value: Any) -> Any:
        if isinstance(value, torch.Tensor) and value.dim() and value.shape[0] == 1:
            return twofold(value)
        return value

    args, kwargs = pytree.tree_map(double, (inputs.args, dict(inputs.kwargs)))
    if trial.error(args, kwargs) is not None:
        return inputs
    return replace(inputs, args=args, kwargs=kwargs)


def twofold(value: torch.Tensor) -> torch.Tensor:
    """A tensor of the size and the strides of ``cat([value, value])``, whose numbers are nobody's.

    It is read on tensors without numbers only, and its memory is never touched.
    """
    twice = torch.cat([value.to("meta")] * 2)
    return torch.empty_strided(twice.shape, twice.stride(), dtype=value.dtype, device=value.device)


def _dimensions(call: Any) -> int:
    """Number of spatial dimensions of an image as (batch, channels, *sizes).

    0 where there are only tables, one of which may hold signals without channels.
    """
    ranks = [v.dim() for v in _leaves(call)]
    rank = next((r for r in ranks if r > 2), 2 if 2 in ranks else None)
    if rank is None:
        raise _no_image()
    return rank - 2


def _no_image() -> InputError:
    return InputError(
        f"{keyword('example_inputs')} holds no image: a tensor (batch, channels, sizes...) of at "
        f"least three dimensions is needed, or {keyword('layout', repr('NL'))} where it is a batch "
        "of signals without channels"
    )


def _leaves(call: Any) -> list[torch.Tensor]:
    return [value for value in pytree.tree_leaves(call) if isinstance(value, torch.Tensor)]


def _tensors(inputs: ExampleInputs) -> list[torch.Tensor]:
    leaves = pytree.tree_leaves((inputs.args, dict(inputs.kwargs)))
    return [value for value in leaves if isinstance(value, torch.Tensor)]


class Trial:
    """Calls a copy of a model on fake tensors: nothing is computed, nothing of the model changes.

    Args:
        model: The user's model.
    """

    def __init__(self, model: nn.Module) -> None:
        self.original = model
        self.name = type(model).__name__
        self.constants = constants_of(model)
        self.mode = FakeTensorMode(allow_non_fake_inputs=True)
        tensors = {id(t): self.mode.from_tensor(t) for t in [*model.parameters(), *model.buffers()]}
        self.model = throwaway_copy(model, tensors).eval()
        self._known: dict[Any, Any] = {}
        self._fresh = as_they_are(self.model)
        self._held = {id(tensor) for _, tensor in self._holds()}
        self._leaves = False

    def error(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], *, training: bool = False
    ) -> Exception | None:
        """What the forward raises, or None where it runs."""
        result = self._outcome(args, kwargs, training)
        return result if isinstance(result, Exception) else None

    def first_layer(self, inputs: ExampleInputs) -> tuple[tuple[int, ...], int] | None:
        """Shape of what the first convolution is given, and its number of spatial dimensions."""
        watching = FirstLayer()
        with watching:
            self._run(inputs.args, inputs.kwargs)
        return watching.given

    def modes_agree(self, inputs: ExampleInputs) -> bool | None:
        """Whether the forward returns the same structure in train and in eval mode.

        None where it raises in train mode, or in eval mode: nothing is known then.
        """
        results = [self._outcome(inputs.args, inputs.kwargs, mode) for mode in (False, True)]
        if any(isinstance(result, Exception) for result in results):
            return None
        (flat, spec), (flat_train, spec_train) = results
        return bool(spec == spec_train and flat == flat_train)

    def shapes(self, inputs: ExampleInputs) -> list[tuple[str, list[Any]]] | None:
        """Shapes of what every module call returns, in order; None where the forward raises."""
        found: list[tuple[str, list[Any]]] = []
        with ExitStack() as hooks:
            for name, module in self.model.named_modules():
                if name:
                    note = functools.partial(_note_shapes, found, name)
                    hooks.callback(module.register_forward_hook(note).remove)
            result = self._run(inputs.args, inputs.kwargs)
        if isinstance(result, Exception):
            return None
        return [*found, ("", shapes_of(result))]

    def works_alike(self, inputs: ExampleInputs, whole: Collection[str]) -> bool:
        """Whether the forwards call the same functions in both modes, the same number of times.

        Args:
            inputs: How the model is called.
            whole: Names of modules that are called as they are, whatever they do in train mode.
        """
        asking = {
            name
            for name, module in self.model.named_modules()
            if _asks_for_its_mode(type(module))
            and not any(name == w or name.startswith(f"{w}.") for w in whole)
        }
        if not asking:
            return True
        counts = []
        for training in (False, True):
            counter = _Functions(asking)
            with ExitStack() as stack:
                for name, module in self.model.named_modules():
                    enter, leave = counter.hooks(name)
                    stack.callback(module.register_forward_pre_hook(enter).remove)
                    stack.callback(module.register_forward_hook(leave).remove)
                with counter:
                    self._run(inputs.args, inputs.kwargs, training=training)
            counts.append(counter.counts)
        return counts[0] == counts[1]

    def called_in_train_mode(self, inputs: ExampleInputs) -> frozenset[str]:
        """Names of the modules that a forward in train mode calls."""
        called: set[str] = set()
        with ExitStack() as hooks:
            for name, module in self.model.named_modules():
                note = functools.partial(_note, called, name)
                hooks.callback(module.register_forward_pre_hook(note).remove)
            self._run(inputs.args, inputs.kwargs, training=True)
        return frozenset(called)

    def left_behind(
        self, inputs: ExampleInputs, whole: Collection[str]
    ) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """What of its input a forward leaves in attributes, and what of that the next call uses.

        Args:
            inputs: How the model is called.
            whole: Names of modules that are called as they are, whatever they leave in themselves.

        Returns:
            Names of attributes, all of them, and those that decide what a later call does.
        """
        if not self._leaves:
            return (), ()
        # copies: what is one object with what was left would be one tensor without numbers too
        calls = [
            self._fakes(pytree.tree_map(_cloned, (inputs.args, dict(inputs.kwargs))))
            for _ in range(2)
        ]
        try:
            first = Descent({"": _leaves(calls[0])})
            self._call(*calls[0], watching=first)
            left: dict[str, list[torch.Tensor]] = {}
            for name, tensor in self._holds():
                new = id(tensor) not in self._held and bool(first.of(tensor))
                if new and not any(name.startswith(f"{path}.") for path in whole):
                    left.setdefault(name, []).append(tensor)
            second = Descent(left)
            result = self._call(*calls[1], watching=second)
            return tuple(left), tuple(sorted(second.of(pytree.opened(result))))
        finally:
            finished(*self._fresh)

    def _holds(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Tensors in attributes of the modules, by the attribute's qualified name."""
        for path, module in self.model.named_modules():
            for name, tensor in held_tensors(module):
                yield f"{path}.{name}" if path else name, tensor

    def _outcome(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], training: bool) -> Any:
        """Shapes and structure of what the forward returns, or what it raises; tried once."""
        flat, spec = pytree.tree_flatten((args, dict(kwargs)))
        key = (training, spec, tuple(map(_described, flat)))
        if key not in self._known:
            result = self._run(args, kwargs, training=training)
            if not isinstance(result, Exception):
                leaves, structure = pytree.tree_flatten(result)
                result = [getattr(leaf, "shape", None) for leaf in leaves], structure
            self._known[key] = result
        return self._known[key]

    def _run(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], *, training: bool = False
    ) -> Any:
        """What one call of the model as it was given returns or raises."""
        result = self._call(*self._fakes((args, dict(kwargs))), training=training)
        if any(id(tensor) not in self._held for _, tensor in self._holds()):
            self._leaves |= not training
            finished(*self._fresh)
        return result

    def _fakes(self, call: Any) -> Any:
        return pytree.tree_map(
            lambda v: self.mode.from_tensor(v) if isinstance(v, torch.Tensor) else v, call
        )

    def _call(
        self, args: Any, kwargs: Any, *, training: bool = False, watching: Descent | None = None
    ) -> Any:
        with ExitStack() as stack:
            # it logs a traceback for every size that does not fit
            stack.enter_context(quiet(FAKE_TENSOR_LOGGER))
            for context in (eagerly(), as_exported(), without_numbers()):
                stack.enter_context(context)
            stack.enter_context(random_state())
            hold_constants(self.model, [_clone(c) for c in self.constants])
            self.model.train(training)
            stack.callback(self.model.eval)
            try:
                with torch.no_grad(), self.mode, watching or nullcontext():
                    return self.model(*args, **kwargs)
            except Exception as error:  # noqa: BLE001 - a foreign forward may raise anything
                return error


class _Functions(TorchFunctionMode):
    """Counts the functions that some modules' own forwards call."""

    def __init__(self, owners: Collection[str]) -> None:
        super().__init__()
        self.owners = owners
        self.inside: list[str] = []
        self.counts: Counter[str] = Counter()

    def hooks(self, name: str) -> tuple[Callable[..., None], Callable[..., None]]:
        """What to do before and after each call of a module."""

        def enter(module: nn.Module, args: Any) -> None:
            self.inside.append(name)

        def leave(module: nn.Module, args: Any, result: Any) -> None:
            while self.inside.pop() != name:
                pass  # calls that the model abandoned by an exception of its own

        return enter, leave

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.inside and self.inside[-1] in self.owners:
            self.counts[getattr(func, "__name__", str(func))] += 1
        return func(*args, **(kwargs or {}))


def _asks_for_its_mode(kind: type[nn.Module]) -> bool:
    """Whether a module's own methods look at ``training``; torch's layers are known."""
    if kind.__module__.startswith("torch.nn."):
        return False
    own = [c for c in kind.__mro__ if not c.__module__.startswith("torch.nn.")]
    methods = [m for c in own for m in vars(c).values() if inspect.isfunction(m)]
    return any("training" in m.__code__.co_names for m in methods)


def _clone(constant: torch.Tensor | None) -> torch.Tensor | None:
    return None if constant is None else constant.clone()  # a forward may count in it


def _cloned(value: Any) -> Any:
    return value.clone() if isinstance(value, torch.Tensor) else value


def _described(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return (tuple(value.shape), value.dtype, value.device)
    return shown(value)


def shapes_of(tree: Any) -> list[Any]:
    """Shapes of the tensors in a nested value."""
    return [v.shape for v in pytree.tree_leaves(tree) if isinstance(v, torch.Tensor)]


def _note_shapes(
    found: list[tuple[str, list[Any]]], name: str, module: nn.Module, args: Any, result: Any
) -> None:
    found.append((name, [tuple(shape) for shape in shapes_of(result)]))


def _note(called: set[str], name: str, module: nn.Module, args: Any) -> None:
    called.add(name)


def _search_any_layout(trial: Trial) -> Iterator[ExampleInputs]:
    """Try images as (batch, channels, *sizes); where none runs, in other layouts."""
    search = _search(trial)
    try:
        first = next(search)
    except ForwardError:
        for layout in _OTHER_LAYOUTS:
            found = next(_search(trial, layout, _TRIALS_OF_A_LAYOUT), None)
            if found is not None and _laid_out(trial, replace(found, layout=""), None) == found:
                yield found
                return
        raise
    yield first
    yield from search


def _search(trial: Trial, layout: str = "", limit: int | None = None) -> Iterator[ExampleInputs]:
    """Try plausible images, then plausible values of the other required arguments.

    What runs in train mode too comes first.

    Args:
        trial: The model on fake tensors.
        layout: Of the images.
        limit: Number of images to try; nothing is raised then where none runs.
    """
    model = trial.original
    arguments = _arguments(model)
    errors: list[Exception] = []
    tried: list[tuple[int, ...]] = []
    set_aside: list[ExampleInputs] = []
    failures = found = 0
    wanted = dimensions_of(layout)
    candidates = [s for s in _candidates(model) if not layout or len(s) - 1 == wanted]
    for shape in candidates[:limit]:
        tried.append(shape)
        inputs = _first_call(trial, arguments, shape, errors, layout)
        if inputs is None:
            failures += 1
            if failures > (_TRIALS_FOR_MORE if found else _TRIALS_BESIDE) and (found or set_aside):
                break
        elif _trains(trial, inputs):
            found += 1
            yield inputs
        else:
            set_aside.append(inputs)
            if len(set_aside) > _TRIALS_TO_TRAIN or _the_same(trial, set_aside):
                break
    yield from set_aside
    if not found and not set_aside and limit is None:
        raise _nothing_found(trial, arguments, tried, errors)


def _the_same(trial: Trial, inputs: Sequence[ExampleInputs]) -> bool:
    """Whether train mode raises the same at several sizes: another size is no remedy."""
    pairs = [two_images(trial, given) for given in inputs]
    texts = {str(trial.error(p.args, p.kwargs, training=True)) for p in pairs}
    return len(pairs) >= 3 and len(texts) == 1


def _trains(trial: Trial, inputs: ExampleInputs) -> bool:
    pair = two_images(trial, inputs)
    return trial.error(pair.args, pair.kwargs, training=True) is None


def _first_call(
    trial: Trial,
    arguments: _Arguments,
    shape: tuple[int, ...],
    errors: list[Exception],
    layout: str,
) -> ExampleInputs | None:
    """The first call with a picture of one shape that the forward takes."""
    picture = arranged(_noise(trial.original, (1, *shape)), layout)
    calls = _calls(trial.original, arguments, picture)
    for args, kwargs in itertools.islice(calls, _MAX_CALLS_A_SHAPE):
        error = trial.error(args, kwargs)
        if error is None:
            return ExampleInputs(args, kwargs, len(shape) - 1, guessed=True, layout=layout)
        errors.append(error)
    return None


def _nothing_found(
    trial: Trial,
    arguments: _Arguments,
    tried: Sequence[tuple[int, ...]],
    errors: Sequence[Exception],
) -> WeightscopeError:
    """Say in one line each what was tried, what it met, and what to pass."""
    for error in errors:
        if (read := reads_values(error, trial.original)) is not None:
            return read
    kinds: dict[tuple[int, int], list[tuple[int, ...]]] = {}
    for channels, *sizes in tried:
        kinds.setdefault((len(sizes), channels), []).append(tuple(sizes))
    shown = "; ".join(
        f"{channels} channels, {len(sizes)} {dimensions}-D sizes from {_by(min(sizes))} to"
        f" {_by(max(sizes))}"
        for (dimensions, channels), sizes in kinds.items()
    )
    others = ", ".join(map(repr, arguments.others))
    needs = f" Its forward requires {others} besides the image." if others else ""
    met = say(errors[0]) if errors else "nothing"
    found = ForwardError(
        f"no example input was found that {trial.name} takes; tried images of {shown}. The first"
        f" trial raised {met}.{needs} Pass {keyword('example_inputs')} (a tensor, a tuple of"
        f" arguments or a dict of keyword arguments), or {keyword('layout')} where the axes are"
        " not batch, channels, sizes."
    )
    found.__cause__ = errors[0] if errors else None
    return found


def _by(sizes: Sequence[int]) -> str:
    return "x".join(map(str, sizes))


@dataclass(frozen=True)
class _Arguments:
    """What a forward requires.

    Attributes:
        image: Name of the image argument; None: the first positional one.
        others: Names of the other required arguments.
        positional: All required ones in order, where they are passed by position.
    """

    image: str | None
    others: tuple[str, ...]
    positional: tuple[str, ...] = ()


def _arguments(model: nn.Module) -> _Arguments:
    """Tell the image from what conditions it, which may come first."""
    parameters = [
        p
        for p in inspect.signature(model.forward).parameters.values()
        if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    ]
    required = [p.name for p in parameters if p.default is p.empty]
    names = [p.name for p in parameters]
    if "pixel_values" in names:
        return _Arguments("pixel_values", tuple(n for n in required if n != "pixel_values"))
    by_name = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}
    if required and required[0] in _CONDITION_NAMES:
        image = next((n for n in required if n not in _CONDITION_NAMES), None)
        if image is not None:
            others = tuple(n for n in required if n != image)
            by_position = by_name.isdisjoint(required)
            return _Arguments(image, others, tuple(required) if by_position else ())
    if required and required[0] in by_name:
        return _Arguments(required[0], tuple(required[1:]))
    return _Arguments(None, tuple(required[1:]))


def _calls(
    model: nn.Module, arguments: _Arguments, picture: torch.Tensor
) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    """Calls with one picture: every other required argument filled by its name, then by trying."""
    image, others = arguments.image, arguments.others
    args: tuple[Any, ...] = () if image else (picture,)
    base = {image: picture} if image else {}
    choices = [
        list(_values(model, name, _noise(model, tuple(picture.shape), seed)))
        for seed, name in enumerate(others, start=1)
    ]
    # first all with their likeliest value, then all with their second, then every mixture
    even = (
        tuple(values[min(index, len(values) - 1)] for values in choices)
        for index in range(max(map(len, choices), default=1))
    )
    for chosen in itertools.chain(even, itertools.product(*choices) if len(others) > 1 else ()):
        named = {**base, **dict(zip(others, chosen, strict=True))}
        if arguments.positional:
            yield tuple(named[name] for name in arguments.positional), {}
        else:
            yield args, named


def _values(model: nn.Module, name: str, picture: torch.Tensor) -> Iterator[Any]:
    """Plausible values of a required argument, the likeliest first."""
    batch, channels = picture.shape[:2]
    steps = torch.arange(1, batch + 1, device=picture.device)
    widths = dict.fromkeys(
        width
        for holder in (model, _config(model))
        for attribute in _WIDTH_NAMES
        if isinstance(width := _attribute(holder, attribute), int)
    )
    sequences = [picture.new_zeros(batch, 8, width) for width in widths]
    others = [
        picture.new_zeros(batch, count, *picture.shape[2:])
        for dimensions, count in _channels(model)
        if dimensions == picture.dim() - 2 and count != channels
    ]
    of_time = [steps, steps.to(picture.dtype), steps[:, None].to(picture.dtype)]
    if name in _STEP_NAMES:
        yield from (*of_time, picture)
    elif name in _CONDITION_NAMES:
        yield from (*sequences, *(s[:, 0] for s in sequences), *of_time, picture, *others)
    else:
        yield from (picture, *of_time, *others[:3], *sequences)


def _candidates(model: nn.Module) -> list[tuple[int, ...]]:
    """Plausible (channels, *sizes), the likeliest first.

    The usual sizes with the likeliest channels, then all channels in turn at each size: wrong
    channels fail alike at every size.
    """
    by_kind = []
    for dimensions, channels in _channels(model):
        usual = _SIZES[dimensions]
        sizes = dict.fromkeys([usual[0], *_declared_sizes(model, dimensions), *usual[1:]])
        by_kind.append([(channels, *size) for size in sizes])
    in_turn = itertools.chain.from_iterable(itertools.zip_longest(*by_kind))
    found = dict.fromkeys([*by_kind[0][:_LIKELIEST], *(s for s in in_turn if s is not None)])
    return list(found)[:_MAX_SHAPES]


def _channels(model: nn.Module) -> list[tuple[int, int]]:
    """(dimensions, channels) that the first convolutions take, then plain guesses."""
    found: list[tuple[int, int]] = []
    for module in model.modules():
        weight = _weight(module)
        channels = _attribute(module, "in_channels")
        if weight is not None and weight.dim() in (3, 4, 5):
            count = channels if isinstance(channels, int) else weight.shape[1]
            found.append((weight.dim() - 2, int(count)))
    dimensions = found[0][0] if found else 2
    declared = [
        (dimensions, value)
        for holder in (model, _config(model))
        for name in _CHANNEL_NAMES
        if isinstance(value := _attribute(holder, name), int)
    ]
    small = [kind for kind in found if kind[1] <= 4]
    guesses = [(dimensions, 3), (dimensions, 1)]
    # real and imaginary parts, two images, or an image and its mask, that the forward takes apart
    pairs = [(d, count) for d, channels in found[:1] for count in (2 * channels, channels + 1)]
    # images that the forward takes for clips of one frame
    clips = [(2, count) for d, count in found[:1] if d == 3]
    kinds = [*found[:1], *declared, *small[:2], *guesses, *pairs, *clips, *found[1:3]]
    return list(dict.fromkeys(kinds))


def _weight(module: nn.Module) -> torch.Tensor | None:
    """A module's kernel as it is stored: a parametrization computes it, and may change on that."""
    own = dict(module.named_parameters(recurse=False))
    # normalised in the old way, a kernel is stored under another name
    stored = next(
        (own[name] for name in ("weight", "weight_v", "weight_orig") if name in own), None
    )
    if stored is None and parametrize.is_parametrized(module, "weight"):
        of_weight = module.get_submodule("parametrizations.weight")
        originals = list(of_weight.parameters(recurse=False))
        stored = max(originals, key=lambda p: p.dim(), default=None)
    return stored


def _declared_sizes(model: nn.Module, dimensions: int) -> list[tuple[int, ...]]:
    """Sizes that the model or its parts carry in an attribute."""
    found: list[tuple[int, ...]] = []
    for module in model.modules():
        if isinstance(module, nn.RNNBase | nn.RNNCellBase):
            continue  # their input_size counts channels
        for holder in (module, _config(module)):
            for name in _SIZE_NAMES:
                value = _attribute(holder, name)
                if isinstance(value, int) and not isinstance(value, bool) and value > 8:
                    found.append((value,) * dimensions)
                elif (
                    isinstance(value, tuple | list)
                    and len(value) == dimensions
                    and all(isinstance(v, int) and v > 0 for v in value)
                ):
                    found.append(tuple(value))
    return list(dict.fromkeys(found))[:3]


def declared_inputs(
    trial: Trial, inputs: ExampleInputs, layout: str | None = None
) -> ExampleInputs | None:
    """A call at a size that the model carries in an attribute, in place of one that was guessed.

    None where it carries none, or was called at it.
    """
    sizes = _declared_sizes(trial.original, inputs.dimensions) if inputs.guessed else []
    if not sizes or _size(inputs) in sizes:
        return None
    likeliest = itertools.islice(find_inputs(trial, None, layout), 1 + len(sizes))
    return next((found for found in likeliest if _size(found) in sizes), None)


def _size(inputs: ExampleInputs) -> tuple[int, ...]:
    image = next(v for v in _tensors(inputs) if v.dim() == inputs.rank)
    return tuple(image.shape[axis] for axis in inputs.space)


def _attribute(holder: object, name: str) -> Any:
    """An attribute as it is stored: a property of a foreign class may warn or compute."""
    return getattr(holder, "__dict__", {}).get(name)


def _config(module: nn.Module) -> Any:
    """The configuration object that transformers and diffusers models carry."""
    stored = _attribute(module, "config") or _attribute(module, "_internal_dict")
    return stored


def _noise(model: nn.Module, shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    """A picture of noise from a generator of its own, on the model's device and of its type."""
    like = next((p for p in model.parameters() if p.is_floating_point()), None)
    generator = torch.Generator().manual_seed(seed)
    picture = torch.randn(shape, generator=generator, device="cpu", dtype=torch.float32)
    return picture if like is None else picture.to(like.device, like.dtype)
