"""Find an example input: number of dimensions, channels, and a size that runs."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn

from weightscope.adapters import pytree
from weightscope.adapters.dispatch import FAKE_TENSOR_LOGGER, FakeTensorMode
from weightscope.adapters.tracing import quiet
from weightscope.errors import ForwardError, InputError
from weightscope.graph.capture import throwaway_copy
from weightscope.graph.structure import ExampleInputs

# moderate sizes that many downsampling steps divide come first, odd demands last
_SIZES = {
    1: (512, 256, 1024, 2048, 64),
    2: (256, 128, 224, 512, 384, 64, 96, 192, 320, 32, 572, 1024),
    3: (64, 96, 128, 32, 48),
}
_SIZE_NAMES = ("img_size", "image_size", "input_size", "sample_size", "input_shape", "spatial_size")
_CHANNEL_NAMES = ("in_channels", "num_channels", "in_chans", "input_channels", "n_channels")
_STEP_NAMES = (
    "timestep",
    "timesteps",
    "time",
    "t",
    "noise_labels",
    "sigma",
    "sigmas",
    "noise_level",
)
_MAX_TRIALS = 40
_TRIALS_FOR_MORE = 6  # failures after which no second size is looked for


def check_model(model: object) -> nn.Module:
    """Refuse what is no model with values in its parameters.

    Raises:
        InputError: Not a Module, no parameters, or parameters without values.
    """
    if not isinstance(model, nn.Module):
        kind = f"the class {model.__name__}" if isinstance(model, type) else type(model).__name__
        raise InputError(f"expected a torch.nn.Module (an instance), received {kind}")
    parameters = dict(model.named_parameters())
    for name, parameter in parameters.items():
        if isinstance(parameter, nn.parameter.UninitializedParameter):
            raise InputError(
                f"{name} of {type(model).__name__} is not initialised yet (a lazy module); run the"
                " model once on an example before passing it"
            )
        if parameter.is_meta:
            raise InputError(
                f"{name} of {type(model).__name__} lies on the meta device and has no values; load"
                " the weights, or use to_empty(device='cpu') and initialise them"
            )
    if not parameters:
        raise InputError(f"{type(model).__name__} has no parameters; there is nothing to analyse")
    return model


def find_inputs(trial: Trial, example_inputs: Any = None) -> Iterator[ExampleInputs]:
    """Yield the user's example, or every one found that the model's forward accepts.

    Args:
        trial: The model on fake tensors.
        example_inputs: A tensor, a tuple of positional arguments, a dict of keyword arguments, or
            None to find one (of one image).

    Raises:
        InputError: ``example_inputs`` is none of these.
        ForwardError: The forward raises on the example, or on everything that was tried.
    """
    if isinstance(example_inputs, ExampleInputs):
        yield example_inputs
    elif example_inputs is None:
        yield from _search(trial)
    else:
        args, kwargs = _as_call(example_inputs)
        dimensions = _dimensions((args, kwargs))
        error = trial.error(args, kwargs)
        if error is not None:
            shapes = ", ".join(_shapes((args, kwargs)))
            raise ForwardError(
                f"the forward of {trial.name} raised on example_inputs ({shapes}): {_say(error)}."
                " Pass example_inputs= as the forward takes them."
            ) from error
        yield ExampleInputs(args, kwargs, dimensions, guessed=False)


def two_images(trial: Trial, inputs: ExampleInputs) -> ExampleInputs:
    """The same inputs with a batch of two, where the model takes it.

    A batch of one is a special case to the tracer, and would stay the only one.
    """
    image = next(v for v in _tensors(inputs) if v.dim() == inputs.dimensions + 2)
    if image.shape[0] != 1:
        return inputs

    def double(value: Any) -> Any:
        if isinstance(value, torch.Tensor) and value.dim() and value.shape[0] == 1:
            return torch.cat([value, value])
        return value

    args, kwargs = pytree.tree_map(double, (inputs.args, dict(inputs.kwargs)))
    if trial.error(args, kwargs) is not None:
        return inputs
    return ExampleInputs(args, kwargs, inputs.dimensions, inputs.guessed)


def _as_call(example: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(example, torch.Tensor):
        return (example,), {}
    if isinstance(example, Mapping):
        return (), dict(example)
    if isinstance(example, tuple | list):
        return tuple(example), {}
    raise InputError(
        "example_inputs must be a tensor, a tuple of positional arguments or a dict of keyword"
        f" arguments, not {type(example).__name__}"
    )


def _dimensions(call: Any) -> int:
    ranks = [v.dim() for v in pytree.tree_leaves(call) if isinstance(v, torch.Tensor)]
    rank = next((r for r in ranks if r > 2), None)
    if rank is None:
        raise InputError(
            "example_inputs hold no image: a tensor (batch, channels, sizes...) of at least three"
            " dimensions is needed"
        )
    return rank - 2


def _tensors(inputs: ExampleInputs) -> list[torch.Tensor]:
    leaves = pytree.tree_leaves((inputs.args, dict(inputs.kwargs)))
    return [value for value in leaves if isinstance(value, torch.Tensor)]


def _shapes(call: Any) -> list[str]:
    return [
        "x".join(map(str, v.shape)) if isinstance(v, torch.Tensor) else repr(v)
        for v in pytree.tree_leaves(call)
    ]


def _say(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".strip().rstrip(".")


class Trial:
    """Calls a copy of a model on fake tensors: nothing is computed, nothing of the model changes.

    Args:
        model: The user's model.
    """

    def __init__(self, model: nn.Module) -> None:
        self.original = model
        self.name = type(model).__name__
        self.mode = FakeTensorMode(allow_non_fake_inputs=True)
        tensors = {id(t): self.mode.from_tensor(t) for t in [*model.parameters(), *model.buffers()]}
        self.model = throwaway_copy(model, tensors).eval()

    def error(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Exception | None:
        """What the forward raises, or None where it runs."""
        result = self._run(args, kwargs)
        return result if isinstance(result, Exception) else None

    def modes_agree(self, inputs: ExampleInputs) -> bool:
        """Whether the forward returns the same structure in train and in eval mode."""
        results = []
        for training in (False, True):
            self.model.train(training)
            results.append(self._run(inputs.args, inputs.kwargs))
        self.model.eval()
        if any(isinstance(result, Exception) for result in results):
            return True  # too small a batch to train on says nothing about the outputs
        (flat, spec), (flat_train, spec_train) = map(pytree.tree_flatten, results)
        shapes = [getattr(value, "shape", None) for value in flat]
        return spec == spec_train and shapes == [getattr(v, "shape", None) for v in flat_train]

    def called_in_train_mode(self, inputs: ExampleInputs) -> frozenset[str]:
        """Names of the modules that a forward in train mode calls."""
        called: set[str] = set()
        with ExitStack() as hooks:
            for name, module in self.model.named_modules():
                note = functools.partial(_note, called, name)
                hooks.callback(module.register_forward_pre_hook(note).remove)
            self.model.train()
            self._run(inputs.args, inputs.kwargs)
        self.model.eval()
        return frozenset(called)

    def _run(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        def fake(value: Any) -> Any:
            return self.mode.from_tensor(value) if isinstance(value, torch.Tensor) else value

        args, kwargs = pytree.tree_map(fake, (args, dict(kwargs)))
        silence = quiet(FAKE_TENSOR_LOGGER)
        try:
            with silence, torch.no_grad(), torch.random.fork_rng(devices=[]), self.mode:
                return self.model(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - a foreign forward may raise anything
            return error


def _note(called: set[str], name: str, module: nn.Module, args: Any) -> None:
    called.add(name)


def _search(trial: Trial) -> Iterator[ExampleInputs]:
    """Try plausible images, then plausible values of the other required arguments."""
    model = trial.original
    first: Exception | None = None
    tried: list[str] = []
    found = 0
    image, others = _arguments(model)
    for shape in _candidates(model):
        picture = _noise(model, (1, *shape))
        for args, kwargs in _calls(model, image, others, picture):
            error = trial.error(args, kwargs)
            if error is None:
                found += 1
                yield ExampleInputs(args, kwargs, len(shape) - 1, guessed=True)
                break
            first = first or error
            tried.append("x".join(map(str, (1, *shape))))
            if found and len(tried) > _TRIALS_FOR_MORE:
                return
    if found:
        return
    needs = (
        f" Its forward requires {', '.join(map(repr, others))} besides the image." if others else ""
    )
    raise ForwardError(
        f"no example input was found that {trial.name} takes; tried"
        f" {', '.join(dict.fromkeys(tried))}. The first trial raised"
        f" {_say(first) if first else 'nothing'}.{needs} Pass example_inputs= (a tensor, a tuple of"
        " arguments or a dict of keyword arguments)."
    ) from first


def _arguments(model: nn.Module) -> tuple[str | None, list[str]]:
    """Name of the image argument (None: the first positional), and the other required arguments."""
    parameters = [
        p
        for p in inspect.signature(model.forward).parameters.values()
        if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    ]
    required = [p.name for p in parameters if p.default is p.empty]
    names = [p.name for p in parameters]
    if "pixel_values" in names:
        return "pixel_values", [n for n in required if n != "pixel_values"]
    return None, required[1:]


def _calls(
    model: nn.Module, image: str | None, others: Sequence[str], picture: torch.Tensor
) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    """Calls with one picture: every other required argument filled by its name, then by trying."""
    args: tuple[Any, ...] = () if image else (picture,)
    base = {image: picture} if image else {}
    choices = [
        list(_values(model, name, _noise(model, tuple(picture.shape), seed)))
        for seed, name in enumerate(others, start=1)
    ]
    for index in range(max(map(len, choices), default=1)):
        chosen = {
            name: values[min(index, len(values) - 1)]
            for name, values in zip(others, choices, strict=True)
        }
        yield args, {**base, **chosen}


def _values(model: nn.Module, name: str, picture: torch.Tensor) -> Iterator[Any]:
    """Plausible values of a required argument, the likeliest first."""
    batch = picture.shape[0]
    steps = torch.arange(1, batch + 1, device=picture.device)
    if name == "encoder_hidden_states":
        width = _attribute(_config(model), "cross_attention_dim")
        if isinstance(width, int):
            yield torch.zeros(batch, 8, width, device=picture.device, dtype=picture.dtype)
    if name in _STEP_NAMES:
        yield steps
        yield steps.to(picture.dtype)
        yield picture
    else:
        yield picture
        yield steps
        yield steps.to(picture.dtype)


def _candidates(model: nn.Module) -> list[tuple[int, ...]]:
    """Plausible (channels, *sizes), the likeliest first."""
    kinds = _channels(model)
    shapes: list[tuple[int, ...]] = []
    for dimensions, channels in kinds:
        usual = _squares(dimensions)
        for size in [usual[0], *_declared_sizes(model, dimensions), *usual[1:]]:
            if (channels, *size) not in shapes:
                shapes.append((channels, *size))
    likeliest = [s for s in shapes if (len(s) - 1, s[0]) == kinds[0]]
    return [*likeliest, *(s for s in shapes if s not in likeliest)][:_MAX_TRIALS]


def _squares(dimensions: int) -> list[tuple[int, ...]]:
    return [(size,) * dimensions for size in _SIZES[dimensions]]


def _channels(model: nn.Module) -> list[tuple[int, int]]:
    """(dimensions, channels) that the first convolutions take, then plain guesses."""
    found: list[tuple[int, int]] = []
    for module in model.modules():
        weight = getattr(module, "weight", None)
        channels = _attribute(module, "in_channels")
        if isinstance(weight, torch.Tensor) and weight.dim() in (3, 4, 5):
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
    return list(dict.fromkeys([*found[:1], *declared, *small[:2], *guesses, *found[1:3]]))


def _declared_sizes(model: nn.Module, dimensions: int) -> list[tuple[int, ...]]:
    """Sizes that the model or its parts carry in an attribute."""
    found: list[tuple[int, ...]] = []
    for module in model.modules():
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
    picture = torch.randn(shape, generator=generator)
    return picture if like is None else picture.to(like.device, like.dtype)
